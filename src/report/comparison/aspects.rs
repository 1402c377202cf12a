//! Changes by aspect: latency, rates, stability, failures, memory. Each measure is a number per
//! scenario, record and process; a line summarizes all scenarios and counts those that moved by
//! more than the spread between processes.

use serde::Serialize;

use crate::record::{Block, Case, Record};
use crate::report::comparison::table::{Status, StatusKind, ids, status};
use crate::report::text::sanitize;
use crate::stats;
use crate::workload::{Better, Task, metric};

/// The change of one measure from the first record to another, over all scenarios.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Aspect {
    /// `latency`, `rates`, `stability`, `failures` or `memory`.
    pub(super) aspect: &'static str,
    /// Name of the metric or of the derived measure.
    pub(super) measure: &'static str,
    /// Index of the record, from 0.
    pub(super) record: usize,
    /// `ratio`: new over old. `difference`: new minus old, for measures that are often zero.
    pub(super) change: ChangeKind,
    /// Scenarios with a value in both records.
    pub(super) scenarios: usize,
    /// Geometric mean of the ratios; it hides single scenarios.
    pub(super) geometric_mean: Option<f64>,
    /// The smallest and the largest change of a scenario.
    pub(super) range: Option<[f64; 2]>,
    /// Scenarios that improved by more than the spread between processes.
    pub(super) better: usize,
    /// Scenarios that worsened by more than the spread between processes.
    pub(super) worse: usize,
    /// Scenarios that changed by less.
    pub(super) within_noise: usize,
    /// Scenarios without a spread, because a record has only one process.
    pub(super) cannot_tell: usize,
    /// Scenarios with a value in only one record.
    pub(super) missing: usize,
    /// Scenarios with invalid values or different work.
    pub(super) left_out: usize,
    /// Every scenario with a value in both records.
    pub(super) changes: Vec<ScenarioChange>,
}

/// The change of one scenario.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ScenarioChange {
    pub(super) scenario: String,
    /// A ratio or a difference, of medians over processes.
    pub(super) change: f64,
    /// Whether it is larger than the spread between processes; `null` if unknown.
    pub(super) beyond_spread: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeKind {
    #[default]
    Ratio,
    Difference,
}

pub(super) struct Measure {
    aspect: &'static str,
    pub(super) name: &'static str,
    kind: ChangeKind,
    source: Source,
}

enum Source {
    Metric,
    /// Metric of certain batch sizes only: at the others it would count twice.
    Batches(fn(usize) -> bool),
    /// Label, and a function of samples of equal requests: requests of a stress scenario and
    /// questions to documents differ by themselves.
    Derived(&'static str, fn(&Block) -> Option<f64>),
}

const fn ratio(aspect: &'static str, name: &'static str, source: Source) -> Measure {
    Measure { aspect, name, kind: ChangeKind::Ratio, source }
}

const fn difference(aspect: &'static str, name: &'static str) -> Measure {
    Measure { aspect, name, kind: ChangeKind::Difference, source: Source::Metric }
}

/// All measures, in display order.
pub(super) const MEASURES: &[Measure] = &[
    ratio("latency", metric::TTFT_S, Source::Metric),
    ratio("latency", metric::E2E_S, Source::Metric),
    ratio("rates", metric::DECODE_TOK_S, Source::Batches(|batch| batch == 1)),
    ratio("rates", metric::DECODE_TOK_S_AGGREGATE, Source::Batches(|batch| batch > 1)),
    ratio("rates", metric::PREFILL_TOK_S, Source::Metric),
    ratio("rates", metric::ITEMS_PER_MIN, Source::Metric),
    ratio("stability", metric::STEP_CV, Source::Metric),
    ratio("stability", "step_p95_over_p50", Source::Derived("step p95 / p50", step_tail)),
    ratio("stability", "e2e_p95_over_p50", Source::Derived("end to end p95 / p50", answer_tail)),
    ratio("stability", "e2e_cv", Source::Derived("CV of equal answers", answer_cv)),
    difference("stability", metric::STALLS),
    difference("failures", metric::ERROR_RATE),
    difference("failures", metric::OOM_RATE),
    ratio("memory", metric::PEAK_RSS_BYTES, Source::Metric),
    ratio("memory", metric::PEAK_DEVICE_BYTES, Source::Metric),
    ratio("memory", metric::KV_BYTES_HELD, Source::Metric),
];

/// The minimum number of answers for a variation.
const ANSWERS: usize = 5;

fn tail(values: &[f64]) -> Option<f64> {
    let middle = stats::median(values).filter(|middle| *middle > 0.0)?;
    Some(stats::quantile(values, 0.95)? / middle)
}

fn step_tail(block: &Block) -> Option<f64> {
    tail(&block.steps_s.concat())
}

fn answer_tail(block: &Block) -> Option<f64> {
    tail(equal_answers(block)?)
}

/// Latencies of repetitions of the same request: only generation tasks have steps.
fn equal_answers(block: &Block) -> Option<&Vec<f64>> {
    block.samples.get(metric::E2E_S).filter(|_| !block.steps_s.is_empty())
}

fn answer_cv(block: &Block) -> Option<f64> {
    let answers = equal_answers(block).filter(|answers| answers.len() >= ANSWERS)?;
    Some(stats::sd(answers)? / stats::mean(answers).filter(|mean| *mean > 0.0)?)
}

impl Measure {
    pub(super) fn label(&self) -> &'static str {
        match self.source {
            Source::Derived(label, _) => label,
            _ => metric(self.name).map_or(self.name, |metric| metric.label),
        }
    }

    fn better(&self) -> Better {
        metric(self.name).map_or(Better::Lower, |metric| metric.better)
    }

    /// One value per process.
    fn values(&self, case: &Case) -> Vec<f64> {
        match self.source {
            Source::Batches(batch) if !batch(case.work.batch) => Vec::new(),
            Source::Metric | Source::Batches(_) => case.values(self.name),
            Source::Derived(..) if !matches!(case.work.task, Task::Generate | Task::Depth) => {
                Vec::new()
            }
            Source::Derived(_, of) => case.blocks.iter().filter_map(of).collect(),
        }
    }

    /// The change of a scenario, and whether it is larger than the spread between processes, if
    /// known.
    fn change(&self, old: &[f64], new: &[f64]) -> Option<(f64, Option<bool>)> {
        let scale = |values: &[f64]| -> Option<Vec<f64>> {
            match self.kind {
                ChangeKind::Difference => Some(values.to_vec()),
                ChangeKind::Ratio => {
                    let logs = values.iter().map(|value| (*value > 0.0).then(|| value.ln()));
                    logs.collect()
                }
            }
        };
        let (old, new) = (scale(old)?, scale(new)?);
        let change = stats::median(&new)? - stats::median(&old)?;
        Some((change, exceeds_spread(&old, &new, change)))
    }
}

/// Whether a change is larger than twice the spread between processes (the root of the sum of both
/// variances). `None` with a single process on either side.
///
/// Without a true change, 3 % of scenarios with three processes a side exceed this, and 10 % with
/// two.
fn exceeds_spread(old: &[f64], new: &[f64], change: f64) -> Option<bool> {
    let spread = stats::sd(old)?.hypot(stats::sd(new)?);
    // Equal values summed in another order differ in the last digit.
    Some(change.abs() > 2.0 * spread + 1e-12)
}

/// Every measure that any scenario has, for every record but the first.
pub(super) fn aspects(records: &[(String, Record)]) -> Vec<Aspect> {
    let mut lines = Vec::new();
    for measure in MEASURES {
        for at in 1..records.len() {
            let line = summarize(measure, records, at);
            if line.scenarios + line.missing + line.left_out > 0 {
                lines.push(line);
            }
        }
    }
    lines
}

fn summarize(measure: &Measure, records: &[(String, Record)], at: usize) -> Aspect {
    let (name, kind) = (measure.name, measure.kind);
    let mut line = Aspect {
        aspect: measure.aspect,
        measure: name,
        record: at,
        change: kind,
        ..Aspect::default()
    };
    let displayed = |change: f64| if kind == ChangeKind::Ratio { change.exp() } else { change };
    let mut changes = Vec::new();
    for id in ids(records) {
        let cases = [records[0].1.case(id), records[at].1.case(id)];
        let values = cases.map(|case| case.map_or(Vec::new(), |case| measure.values(case)));
        if values.iter().all(Vec::is_empty) {
            continue;
        }
        let statuses = cases.map(|case| status(cases[0], case));
        let odd = |one: &Status| matches!(one.kind, StatusKind::Invalid | StatusKind::OtherWork);
        if statuses.iter().any(odd) {
            line.left_out += 1;
            continue;
        }
        if values.iter().any(Vec::is_empty) {
            line.missing += 1;
            continue;
        }
        let Some((change, exceeds_spread)) = measure.change(&values[0], &values[1]) else {
            line.left_out += 1; // A ratio to or from zero.
            continue;
        };
        let is_worse = (change > 0.0) == (measure.better() == Better::Lower);
        *match exceeds_spread {
            None => &mut line.cannot_tell,
            Some(false) => &mut line.within_noise,
            Some(true) if is_worse => &mut line.worse,
            Some(true) => &mut line.better,
        } += 1;
        changes.push(change);
        let scenario = sanitize(id);
        line.changes.push(ScenarioChange {
            scenario,
            change: displayed(change),
            beyond_spread: exceeds_spread,
        });
    }
    line.scenarios = changes.len();
    let ends = [f64::min, f64::max].map(|end| changes.iter().copied().reduce(end));
    line.range = ends[0].zip(ends[1]).map(|(least, most)| [displayed(least), displayed(most)]);
    line.geometric_mean = stats::mean(&changes).filter(|_| kind == ChangeKind::Ratio).map(f64::exp);
    line
}
