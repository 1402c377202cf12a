//! One run against a stored baseline (`docs/gate.md`): which metrics are compared, and the verdict
//! on each.

use std::collections::BTreeMap;

use crate::compare::difference::work_difference;
use crate::compare::estimate::{SessionVariances, UNCALIBRATED, evidence};
use crate::compare::looks::Levels;
use crate::compare::missing::{DataState, Entry, Mode, resolve, still_measured_notes};
use crate::compare::series::{Series, SeriesPair};
use crate::compare::{
    BLOCKS_NEEDED, Change, Evidence, Finding, Policy, SESSIONS_NEEDED, Verdict, Why, judge_change,
    normalized,
};
use crate::record::calibration::{Calibration, SdEstimate};
use crate::record::{AbsenceKind, Block, Case, Record};
use crate::workload;
use crate::workload::{METRICS, Metric, metric};

/// Both sides of one metric of one scenario.
pub(super) struct Comparison {
    pub(super) scenario: String,
    pub(super) metric: &'static Metric,
    pub(super) raw: SeriesPair,
    normalized: Option<SeriesPair>,
}

/// Gives the verdicts on all metrics of a record.
pub(super) struct RecordJudge<'a> {
    sessions: SessionVariances<'a>,
    normalized_sessions: SessionVariances<'a>,
    layout_sd: &'a BTreeMap<String, SdEstimate>,
    same_binary: bool,
    levels: Levels,
    policy: &'a Policy,
}

static NONE: BTreeMap<String, SdEstimate> = BTreeMap::new();

impl<'a> RecordJudge<'a> {
    pub(super) fn new(
        comparisons: &[&Comparison],
        calibration: Option<&'a Calibration>,
        same_binary: bool,
        policy: &'a Policy,
    ) -> Self {
        let (session_sd, layout_sd) =
            calibration.map_or((&NONE, &NONE), |found| (&found.session_sd, &found.layout_sd));
        let raw = comparisons.iter().map(|one| (one.metric, &one.raw.base));
        let normalized =
            comparisons.iter().filter_map(|one| Some((one.metric, &one.normalized.as_ref()?.base)));
        Self {
            sessions: SessionVariances::new(raw, session_sd),
            normalized_sessions: SessionVariances::new(normalized, session_sd),
            layout_sd,
            same_binary,
            levels: Levels::new(policy.alpha, comparisons.len(), policy.looks),
            policy,
        }
    }

    /// The raw numbers decide. The normalized ones can only withdraw the verdict.
    pub(super) fn finding(&self, comparison: &Comparison) -> Finding {
        let Comparison { scenario, metric, raw: series, normalized } = comparison;
        let (margin, _) = self.policy.margins(metric);
        let (evidence, mut verdict) = self.assess(metric, series, &self.sessions);
        if let Some(normalized) = normalized {
            let (_, other) = self.assess(metric, normalized, &self.normalized_sessions);
            if normalized::contradicts(&verdict, &other, normalized.theta(), margin) {
                verdict = Verdict::Undecided(Why::Drifted);
            }
        }
        let value = |series: &Series| metric.better.cost(series.centre().exp());
        let change = Change {
            base: value(&series.base),
            current: value(&series.current),
            theta: series.theta(),
            normalized: normalized.as_ref().map(SeriesPair::theta),
            limit: self.policy.limit(metric),
            margin,
            evidence,
        };
        Finding {
            scenario: scenario.clone(),
            metric: Some(*metric),
            verdict,
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
    ) -> (Option<Evidence>, Verdict) {
        let base = &series.base;
        let enough = base.sessions.len() >= SESSIONS_NEEDED || sessions.is_calibrated(metric);
        let calibrated = enough && base.count() >= BLOCKS_NEEDED;
        let session = if calibrated { sessions.of(metric) } else { UNCALIBRATED };
        let layout = self.policy.layout(self.layout_sd.get(metric.kind()), self.same_binary);
        let Some(evidence) = evidence(series, session, layout, self.levels) else {
            return (None, Verdict::Undecided(Why::TooFewBlocks));
        };
        let (margin, critical) = self.policy.margins(metric);
        let verdict = match judge_change(series.theta(), &evidence, margin, critical) {
            Verdict::Regressed { .. } | Verdict::Undecided(_) if !calibrated => {
                Verdict::Undecided(Why::Uncalibrated)
            }
            verdict => verdict,
        };
        (Some(evidence), verdict)
    }
}

/// Every metric of every scenario of either side, in the order of the suite.
pub(super) fn entries(
    baseline: &Record,
    current: &Record,
    policy: &Policy,
) -> Vec<Entry<Comparison>> {
    let now = current.scenarios.iter().map(|case| (baseline.case(&case.id), Some(case)));
    let gone = baseline.scenarios.iter().filter(|case| current.case(&case.id).is_none());
    let entries = |(base, case): (Option<&Case>, Option<&Case>)| {
        let id = base.or(case).map_or("", |case| case.id.as_str());
        let removed = policy.removed.get(id).map(String::as_str);
        let states = (case_state(base, baseline, id), case_state(case, current, id));
        resolve(Mode::Stored, states.0, states.1, removed).entries(id, None, || {
            let (base, case) = base.zip(case).expect("both sides have numbers");
            match other_work(base, case) {
                Some(verdict) => vec![Entry::verdict(id, None, verdict)],
                None => metric_entries(base, case),
            }
        })
    };
    now.chain(gone.map(|case| (Some(case), None))).flat_map(entries).collect()
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
    let outputs = base.output_sha256.as_ref().zip(case.output_sha256.as_ref());
    let changed =
        outputs.filter(|(before, now)| workload::hashes_differ(before, now) == Some(true));
    let difference = work_difference(&base.work, &case.work).map(Verdict::NotComparable);
    difference.or(changed.map(|_| Verdict::OutputChanged(None)))
}

/// The metrics of two valid cases of the same work.
fn metric_entries(base: &Case, case: &Case) -> Vec<Entry<Comparison>> {
    let entries = |metric: &'static Metric| {
        let verdict = |verdict| vec![Entry::verdict(&case.id, Some(metric), verdict)];
        if let Some(impossible) = impossible_value(base, case, metric) {
            return verdict(impossible);
        }
        let raw =
            SeriesPair { base: Series::new(base, metric), current: Series::new(case, metric) };
        let states =
            (value_state(base, metric, &raw.base), value_state(case, metric, &raw.current));
        resolve(Mode::Stored, states.0, states.1, None).entries(&case.id, Some(metric), || {
            if metric.name == metric::PEAK_RSS_BYTES && has_shared(base) != has_shared(case) {
                return verdict(Verdict::NotComparable(SHARED.into()));
            }
            let normalized = normalized::series(base, case, metric);
            let scenario = case.id.clone();
            vec![Entry::Comparison(Comparison { scenario, metric, raw, normalized })]
        })
    };
    METRICS.iter().filter(|metric| metric.gated(&case.work)).flat_map(entries).collect()
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
