//! How often rules for telling regressions are right: every rule judges the same recorded blocks, ours among them. The
//! design is `gate.md`, section 7. No clock, no file: the same pool and seed give the same figures on any machine.

mod calibrate;
mod contenders;
mod field;
mod figures;
mod ours;
mod replay;
mod rules;

pub use calibrate::Found;
pub use calibrate::calibrate;
pub use figures::Bound;
pub use figures::Evidence;
pub use figures::FIGURES;
pub use figures::Figure;
pub use figures::Figures;
pub use figures::Met;
pub use figures::Status;
pub use figures::TARGETS;
pub use figures::Target;
pub use figures::Unit;
pub use replay::Columns;
pub use replay::Evaluation;
pub use replay::Measured;
pub use replay::Place;
pub use replay::Plan;
pub use replay::SCENARIOS;
pub use replay::evaluate;
pub use rules::RULES;
pub use rules::Rule;
pub use rules::rules;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
