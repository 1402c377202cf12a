//! How often rules for telling regressions are right: every rule judges the same recorded blocks,
//! ours among them. The design is `gate.md`, section 7. No clock, no file: the same pool and seed
//! give the same figures on any machine.

mod calibrate;
mod contenders;
mod field;
mod figures;
mod ours;
mod replay;
mod rules;

pub use calibrate::{Found, calibrate};
pub use figures::{Bound, Evidence, FIGURES, Figure, Figures, Met, Status, TARGETS, Target, Unit};
pub use replay::{Columns, Evaluation, Measured, Place, Plan, SCENARIOS, evaluate};
pub use rules::{RULES, Rule, rules};

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
