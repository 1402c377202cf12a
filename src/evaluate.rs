//! How often the gate and other tools are right: every rule judges the same recorded blocks. The
//! design is `gate.md`, section 7. Reads no clock and no file: the same pool and seed give the same
//! figures on any machine.

mod calibrate;
mod environment;
mod evaluation;
mod figures;
mod gate_rule;
mod other_rules;
mod replay;
mod rule;
mod rules;

pub use calibrate::{NoiseEstimates, calibrate};
pub(crate) use evaluation::EnvironmentResult;
pub use evaluation::{Evaluation, ReplayPlan, evaluate};
pub(crate) use figures::{
    Bound, FIGURES, Figure, FigureUnit, Figures, GATE_TARGETS, GateTargetResult, GateTargetStatus,
    Proportion, SUITE_SCENARIOS,
};
pub(crate) use rules::RULES;
pub use rules::{Rule, rules};

#[cfg(test)]
mod tests;
