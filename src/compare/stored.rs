//! One run against a stored baseline (`docs/gate.md`): which metrics are compared, and the verdict
//! on each.

use std::collections::BTreeMap;

use crate::compare::difference::work_difference;
use crate::compare::estimate::{SessionVariances, UNCALIBRATED, Variance, evidence};
use crate::compare::looks::Levels;
use crate::compare::missing::{DataState, Mode, Resolution, resolve, still_measured_notes};
use crate::compare::series::{Series, SeriesPair};
use crate::compare::{
    BLOCKS_NEEDED, Change, Evidence, Finding, Policy, SESSIONS_NEEDED, Verdict, Why, judge_change,
    margin, normalized,
};
use crate::record::calibration::{Calibration, SdEstimate};
use crate::record::{AbsenceKind, Block, Case, Record};
use crate::workload::{METRICS, Metric};

/// One metric or scenario of the comparison.
pub(super) enum RecordEntry {
    /// Both sides have numbers, which are to be judged.
    Comparison(Comparison),
    /// A verdict without numbers.
    Finding(Finding),
}

/// Both sides of one metric of one scenario.
pub(super) struct Comparison {
    pub(super) scenario: String,
    pub(super) metric: &'static Metric,
    pub(super) raw: SeriesPair,
    normalized: Option<SeriesPair>,
}

/// Gives the verdicts on all metrics of a record.
pub(super) struct RecordJudge<'a> {
    /// How many metrics are judged together.
    pub(super) judged: usize,
    sessions: SessionVariances<'a>,
    normalized_sessions: SessionVariances<'a>,
    layout_sd: &'a BTreeMap<String, SdEstimate>,
    same_binary: bool,
    levels: Levels,
    policy: &'a Policy,
}

/// A change with its verdict.
struct Assessment {
    theta: f64,
    evidence: Option<Evidence>,
    verdict: Verdict,
}

static NONE: BTreeMap<String, SdEstimate> = BTreeMap::new();

impl<'a> RecordJudge<'a> {
    pub(super) fn new(
        entries: &[RecordEntry],
        calibration: Option<&'a Calibration>,
        same_binary: bool,
        policy: &'a Policy,
    ) -> Self {
        let comparisons = || {
            entries.iter().filter_map(|entry| match entry {
                RecordEntry::Comparison(comparison) => Some(comparison),
                RecordEntry::Finding(_) => None,
            })
        };
        let judged = comparisons().count();
        let (session_sd, layout_sd) = calibration.map_or((&NONE, &NONE), |calibration| {
            (&calibration.session_sd, &calibration.layout_sd)
        });
        let raw = comparisons().map(|one| (one.metric, &one.raw.base));
        let normalized =
            comparisons().filter_map(|one| Some((one.metric, &one.normalized.as_ref()?.base)));
        Self {
            judged,
            sessions: SessionVariances::new(raw, session_sd),
            normalized_sessions: SessionVariances::new(normalized, session_sd),
            layout_sd,
            same_binary,
            levels: Levels::new(policy.alpha, judged, policy.looks),
            policy,
        }
    }

    pub(super) fn finding(&self, entry: &RecordEntry) -> Finding {
        match entry {
            RecordEntry::Finding(finding) => finding.clone(),
            RecordEntry::Comparison(comparison) => self.judge(comparison),
        }
    }

    /// The raw numbers decide. The normalized ones can only withdraw the verdict.
    fn judge(&self, comparison: &Comparison) -> Finding {
        let Comparison { scenario, metric, raw: series, normalized } = comparison;
        let limit = self.policy.limit(metric);
        let margin = margin(metric.better, limit);
        let raw = self.assess(metric, series, &self.sessions);
        let normalized =
            normalized.as_ref().map(|one| self.assess(metric, one, &self.normalized_sessions));
        let contradicted = normalized.as_ref().is_some_and(|other| {
            normalized::contradicts(&raw.verdict, &other.verdict, other.theta, margin)
        });
        let value = |series: &Series| metric.better.cost(series.centre().exp());
        let change = Change {
            base: value(&series.base),
            current: value(&series.current),
            theta: raw.theta,
            normalized: normalized.map(|other| other.theta),
            limit,
            margin,
            evidence: raw.evidence,
        };
        Finding {
            scenario: scenario.clone(),
            metric: Some(*metric),
            verdict: if contradicted { Verdict::Inconclusive(Why::Drifted) } else { raw.verdict },
            change: Some(change),
            base_blocks: series.base.values(metric.better),
            current_blocks: series.current.values(metric.better),
            changes: Vec::new(),
        }
    }

    fn assess(
        &self,
        metric: &Metric,
        series: &SeriesPair,
        sessions: &SessionVariances,
    ) -> Assessment {
        let SeriesPair { base, current } = series;
        let limit = self.policy.limit(metric);
        let enough = base.sessions.len() >= SESSIONS_NEEDED || sessions.is_calibrated(metric);
        let calibrated = enough && base.count() >= BLOCKS_NEEDED;
        let session = if calibrated { sessions.of(metric) } else { UNCALIBRATED };
        let evidence = evidence(base, current, session, self.layout(metric), self.levels);
        let theta = current.centre() - base.centre();
        let (margin, critical) = (margin(metric.better, limit), margin(metric.better, 2.0 * limit));
        let verdict = match &evidence {
            None => Verdict::Inconclusive(Why::TooFewBlocks),
            Some(evidence) => judge_change(theta, evidence, margin, critical),
        };
        let undecided = matches!(verdict, Verdict::Regressed { .. } | Verdict::Inconclusive(_));
        let verdict = match (&evidence, calibrated) {
            (Some(_), false) if undecided => Verdict::Inconclusive(Why::Uncalibrated),
            _ => verdict,
        };
        Assessment { theta, evidence, verdict }
    }

    /// The variance between two builds of one source.
    fn layout(&self, metric: &Metric) -> Variance {
        match self.layout_sd.get(metric.kind()) {
            _ if self.same_binary => Variance::assumed(0.0),
            Some(measured) => Variance::estimated(measured),
            None => Variance::assumed(self.policy.layout_sd),
        }
    }
}

/// Every metric of every scenario of either side, in the order of the suite.
pub(super) fn entries(baseline: &Record, current: &Record, policy: &Policy) -> Vec<RecordEntry> {
    let now = current.scenarios.iter().map(|case| (baseline.case(&case.id), Some(case)));
    let gone = baseline.scenarios.iter().filter(|case| current.case(&case.id).is_none());
    let mut entries = Vec::new();
    for (base, case) in now.chain(gone.map(|case| (Some(case), None))) {
        let id = base.or(case).map_or("", |case| case.id.as_str());
        let removed = policy.removed.get(id).map(String::as_str);
        let finding = |verdict| RecordEntry::Finding(Finding::without_numbers(id, None, verdict));
        let states = (case_state(base, baseline, id), case_state(case, current, id));
        match (resolve(Mode::Stored, states.0, states.1, removed), base, case) {
            (Resolution::Verdict(verdict), ..) => entries.push(finding(verdict)),
            (Resolution::Compare, Some(base), Some(case)) => match other_work(base, case) {
                Some(verdict) => entries.push(finding(verdict)),
                None => entries.extend(metric_entries(base, case)),
            },
            _ => {} // Neither side has it.
        }
    }
    entries
}

/// What a record has of a scenario.
fn case_state<'a>(case: Option<&'a Case>, record: &Record, id: &str) -> DataState<'a> {
    match case {
        Some(Case { absent: Some(absent), .. }) => absent.into(),
        Some(case) if case.validity.ok() => DataState::Valid,
        Some(case) => DataState::Invalid(&case.validity.failed),
        None if record.not_selected.iter().any(|other| other == id) => DataState::NotSelected,
        None => DataState::Absent(AbsenceKind::Unknown, GONE),
    }
}

/// The reason of a scenario that is neither in the run nor in its `not_selected`.
const GONE: &str = "it is gone from the run";

/// The verdict on two valid cases that did different work.
fn other_work(base: &Case, case: &Case) -> Option<Verdict> {
    if let Some(difference) = work_difference(&base.work, &case.work) {
        return Some(Verdict::NotComparable(difference));
    }
    match (&base.output_sha256, &case.output_sha256) {
        (Some(before), Some(now)) if before != now => Some(Verdict::OutputChanged(None)),
        _ => None,
    }
}

/// The metrics of two valid cases of the same work.
fn metric_entries<'a>(base: &'a Case, case: &'a Case) -> impl Iterator<Item = RecordEntry> + 'a {
    let entry = move |metric: &'static Metric| {
        let finding = |verdict| {
            Some(RecordEntry::Finding(Finding::without_numbers(&case.id, Some(metric), verdict)))
        };
        if let Some(verdict) = impossible_value(base, case, metric) {
            return finding(verdict);
        }
        let raw =
            SeriesPair { base: Series::new(base, metric), current: Series::new(case, metric) };
        let states =
            (value_state(base, metric, &raw.base), value_state(case, metric, &raw.current));
        match resolve(Mode::Stored, states.0, states.1, None) {
            Resolution::Omit => None,
            Resolution::Verdict(verdict) => finding(verdict),
            Resolution::Compare
                if metric.name == "peak_rss_bytes" && has_shared(base) != has_shared(case) =>
            {
                finding(Verdict::NotComparable(SHARED.into()))
            }
            Resolution::Compare => {
                let normalized = normalized::series(base, case, metric);
                let scenario = case.id.clone();
                Some(RecordEntry::Comparison(Comparison { scenario, metric, raw, normalized }))
            }
        }
    };
    METRICS.iter().filter(move |metric| metric.gated(&case.work)).filter_map(entry)
}

/// What a case has of a metric.
fn value_state<'a>(case: &'a Case, metric: &Metric, series: &Series) -> DataState<'a> {
    if series.count() > 0 {
        return DataState::Valid;
    }
    let note = case.blocks.iter().find_map(|block| block.notes.get(metric.name));
    DataState::NoValue(note.map_or("the record does not say why it has no value", String::as_str))
}

/// Notes on missing and removed scenarios.
pub(super) fn missing_notes(
    current: &Record,
    findings: &[Finding],
    policy: &Policy,
) -> Vec<String> {
    let measured = |id: &str| current.case(id).is_some_and(|case| case.absent.is_none());
    let mut notes = still_measured_notes(policy, measured);
    let gone = findings.iter().any(|finding| {
        matches!(finding.verdict, Verdict::Missing(_)) && current.case(&finding.scenario).is_none()
    });
    if gone && current.not_selected.is_empty() {
        notes.push(
            "the run does not say which scenarios were not selected (records of schema 1 never \
             do), so every scenario that it lacks is missing"
                .into(),
        );
    }
    notes
}

/// Why peak memory of a shared process is not compared with that of a fresh one.
const SHARED: &str = "one side's memory is that of a process shared with other scenarios; measure \
                      both in fresh ones";

fn has_shared(case: &Case) -> bool {
    case.blocks.iter().any(Block::has_shared_peak)
}

/// The verdict on a stored value that is not a positive number. What was not measured is `null`,
/// never zero.
fn impossible_value(base: &Case, case: &Case, metric: &Metric) -> Option<Verdict> {
    let impossible = |case: &Case| {
        case.values(metric.name).into_iter().find(|value| !(value.is_finite() && *value > 0.0))
    };
    let message =
        |value: f64| format!("{} is {value}; it must be positive and finite", metric.name);
    impossible(case).map(|value| Verdict::Invalid(message(value))).or_else(|| {
        impossible(base)
            .map(|value| Verdict::NotComparable(format!("the baseline's {}", message(value))))
    })
}

#[cfg(test)]
mod tests;
