//! The rule for missing data: one for a stored baseline and for pairs, for scenarios and for their
//! metrics. It fails closed: what was requested and is missing does not pass. `docs/gate.md` has
//! the rule as a table, and a test compares the two.

use crate::compare::{Finding, Policy, Verdict, Why};
use crate::record::{Absence, AbsenceKind};
use crate::workload::Metric;

/// How the base was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The base is a stored baseline.
    Stored,
    /// In turns with the candidate.
    Paired,
}

/// What one side has of a scenario or of one of its metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum DataState<'a> {
    /// Valid numbers.
    Valid,
    /// Invalid numbers, and the checks that failed.
    Invalid(&'a [String]),
    /// No numbers: the kind of absence, and the reason as text.
    Absent(AbsenceKind, &'a str),
    /// Not requested from the run.
    NotSelected,
    /// The scenario was measured, but this metric has no value, and why.
    NoValue(&'a str),
}

impl<'a> From<&'a Absence> for DataState<'a> {
    fn from(absent: &'a Absence) -> Self {
        DataState::Absent(absent.kind, &absent.why)
    }
}

/// What follows from the states of the two sides.
#[derive(Debug, PartialEq)]
pub(super) enum Resolution {
    /// Both have numbers, which are compared.
    Compare,
    /// A verdict without numbers.
    Verdict(Verdict),
    /// No entry: neither side has it.
    Omit,
}

/// One metric or scenario of a comparison.
pub(super) enum Entry<C> {
    /// Both sides have numbers, which are to be judged.
    Comparison(C),
    /// A verdict without numbers.
    Finding(Box<Finding>),
}

impl<C> Entry<C> {
    /// A verdict without numbers on a metric, or on the whole scenario.
    pub(super) fn verdict(id: &str, metric: Option<&'static Metric>, verdict: Verdict) -> Self {
        Entry::Finding(Finding::without_numbers(id, metric, verdict).into())
    }

    pub(super) fn comparison(&self) -> Option<&C> {
        match self {
            Entry::Comparison(comparison) => Some(comparison),
            Entry::Finding(_) => None,
        }
    }
}

impl Resolution {
    /// The entries of a metric, or of a scenario: those of `compare` where both sides have numbers.
    pub(super) fn entries<C>(
        self,
        id: &str,
        metric: Option<&'static Metric>,
        compare: impl FnOnce() -> Vec<Entry<C>>,
    ) -> Vec<Entry<C>> {
        match self {
            Resolution::Compare => compare(),
            Resolution::Verdict(verdict) => vec![Entry::verdict(id, metric, verdict)],
            Resolution::Omit => Vec::new(),
        }
    }
}

/// Applies the rule. `removed` is the reason that the configuration gives for a removed scenario.
pub(super) fn resolve(
    mode: Mode,
    base: DataState<'_>,
    candidate: DataState<'_>,
    removed: Option<&str>,
) -> Resolution {
    let failed = |arm: &str, why: &str| match mode {
        Mode::Stored => Verdict::Failed(why.to_owned()),
        Mode::Paired => Verdict::Failed(format!("{arm}: {why}")),
    };
    let missing = |why: String| match removed {
        Some(reason) => Verdict::Removed(reason.to_owned()),
        None => Verdict::Missing(why),
    };
    Resolution::Verdict(match (base, candidate) {
        // Only a pair measures its base; a scenario that failed is never promoted to a baseline.
        (DataState::Absent(AbsenceKind::Failed, why), _) if mode == Mode::Paired => {
            failed("base", why)
        }
        (_, DataState::Absent(AbsenceKind::Failed, why)) => failed("candidate", why),
        (_, DataState::Invalid(checks)) => Verdict::Invalid(checks.join("; ")),
        (DataState::Invalid(checks), _) if mode == Mode::Paired => {
            Verdict::Invalid(format!("the base: {}", checks.join("; ")))
        }
        (DataState::Valid | DataState::Invalid(_), DataState::NotSelected) => Verdict::NotSelected,
        (DataState::Invalid(checks), _) => {
            Verdict::NotComparable(format!("the baseline is INVALID: {}", checks.join("; ")))
        }
        (DataState::Valid, DataState::Valid) => return Resolution::Compare,
        (DataState::Valid, DataState::NoValue(why)) => Verdict::Missing(why.to_owned()),
        (DataState::Valid, DataState::Absent(kind, why)) => match kind {
            AbsenceKind::SkippedTime => Verdict::Undecided(Why::OutOfTime),
            AbsenceKind::NotMeasuredYet => Verdict::Undecided(Why::Interrupted),
            AbsenceKind::Unknown => missing(why.to_owned()),
            AbsenceKind::Unsupported | AbsenceKind::SkippedMemory | AbsenceKind::Failed => {
                missing(Absence::new(kind, why).to_string())
            }
        },
        (DataState::Absent(..) | DataState::NotSelected | DataState::NoValue(_), candidate) => {
            match candidate {
                DataState::Valid
                | DataState::Absent(AbsenceKind::SkippedTime | AbsenceKind::NotMeasuredYet, _) => {
                    Verdict::New
                }
                _ => return Resolution::Omit,
            }
        }
    })
}

/// Notes on scenarios that are listed as removed but were measured.
pub(super) fn still_measured_notes(
    policy: &Policy,
    measured: impl Fn(&str) -> bool,
) -> Vec<String> {
    let still = policy.removed.keys().filter(|id| measured(id));
    still.map(|id| format!("`{id}` is listed as removed but still measured")).collect()
}

#[cfg(test)]
mod tests;
