//! What is said where one side has no valid number: one rule for a stored baseline and for two
//! builds, for scenarios and for their metrics. It fails closed: what was asked for and is missing
//! is no pass. `docs/gate.md` has the rule as a table, and a test holds the two together.

use crate::compare::{Policy, Verdict, Why};
use crate::record::{Absence, AbsenceKind};

/// How the two sides were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The base is a stored baseline.
    Stored,
    /// Both are builds that took turns.
    Paired,
}

/// What one side has of a scenario or of one of its metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State<'a> {
    /// Numbers that can be true.
    Valid,
    /// Numbers that cannot, and the checks that failed.
    Invalid(&'a [String]),
    /// No number, for a reason that has a kind.
    Absent(AbsenceKind, &'a str),
    /// The run was not asked for it.
    NotSelected,
    /// The scenario was measured, and this metric has no value: why.
    NoValue(&'a str),
}

impl<'a> From<&'a Absence> for State<'a> {
    fn from(absent: &'a Absence) -> Self {
        State::Absent(absent.kind, &absent.why)
    }
}

/// What follows from the two states.
#[derive(Debug, PartialEq)]
pub(super) enum Ruling {
    /// Both have numbers: they decide.
    Judge,
    /// A verdict without numbers.
    Verdict(Verdict),
    /// Nothing: neither side has it.
    Silent,
}

/// The rule. `removed` is the reason that the configuration gives for the scenario to be gone.
pub(super) fn rule(
    mode: Mode,
    base: State<'_>,
    candidate: State<'_>,
    removed: Option<&str>,
) -> Ruling {
    let failed = |arm: &str, why: &str| match mode {
        Mode::Stored => Verdict::Failed(why.to_owned()),
        Mode::Paired => Verdict::Failed(format!("{arm}: {why}")),
    };
    let missing = |why: String| match removed {
        Some(reason) => Verdict::Removed(reason.to_owned()),
        None => Verdict::Missing(why),
    };
    Ruling::Verdict(match (base, candidate) {
        // A pair measures its base anew; what failed in a stored one is not in the baseline.
        (State::Absent(AbsenceKind::Failed, why), _) if mode == Mode::Paired => failed("base", why),
        (_, State::Absent(AbsenceKind::Failed, why)) => failed("candidate", why),
        (_, State::Invalid(checks)) => Verdict::Invalid(checks.join("; ")),
        (State::Invalid(checks), _) if mode == Mode::Paired => {
            Verdict::Invalid(format!("the base: {}", checks.join("; ")))
        }
        (State::Valid | State::Invalid(_), State::NotSelected) => Verdict::NotSelected,
        (State::Invalid(checks), _) => {
            Verdict::NotComparable(format!("the baseline is INVALID: {}", checks.join("; ")))
        }
        (State::Valid, State::Valid) => return Ruling::Judge,
        (State::Valid, State::NoValue(why)) => Verdict::Missing(why.to_owned()),
        (State::Valid, State::Absent(kind, why)) => match kind {
            AbsenceKind::SkippedTime => Verdict::Inconclusive(Why::OutOfTime),
            AbsenceKind::NotMeasuredYet => Verdict::Inconclusive(Why::Interrupted),
            AbsenceKind::Unknown => missing(why.to_owned()),
            AbsenceKind::Unsupported | AbsenceKind::SkippedMemory | AbsenceKind::Failed => {
                missing(Absence::new(kind, why).to_string())
            }
        },
        (State::Absent(..) | State::NotSelected | State::NoValue(_), candidate) => {
            match candidate {
                State::Valid
                | State::Absent(AbsenceKind::SkippedTime | AbsenceKind::NotMeasuredYet, _) => {
                    Verdict::New
                }
                _ => return Ruling::Silent,
            }
        }
    })
}

/// What is listed as removed and is measured all the same.
pub(super) fn still_measured(policy: &Policy, measured: impl Fn(&str) -> bool) -> Vec<String> {
    let still = policy.removed.keys().filter(|id| measured(id));
    still.map(|id| format!("`{id}` is listed as removed but still measured")).collect()
}

#[cfg(test)]
mod tests;
