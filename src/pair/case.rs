//! One scenario of a pair: collects the responses of its two sides and finds where their outputs
//! differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Case;
use crate::record::pair::{Divergence, PairCase, PairTurns, Side};
use crate::suite::OUTPUT_VARIES;
use crate::workload;
use crate::workload::{METRICS, Metric, TEXT_HASH, metric};

/// The metrics that the turns of one arm reported in one block.
#[derive(Default)]
pub(super) struct ReportedMetrics {
    /// The metrics that every turn reported; `None` before the first.
    metrics: Option<BTreeSet<String>>,
    /// Whether a value was not a positive number.
    impossible: bool,
}

impl ReportedMetrics {
    /// Adds the values of a turn.
    pub(super) fn add(&mut self, values: &BTreeMap<String, f64>) {
        let reported: BTreeSet<String> = values.keys().cloned().collect();
        self.metrics = Some(match self.metrics.take() {
            Some(before) => before.intersection(&reported).cloned().collect(),
            None => reported,
        });
        self.impossible |=
            values.iter().any(|(name, value)| is_stored(name) && !is_possible(*value));
    }

    /// Whether some turn did not report a metric.
    fn lacks(&self, metric: &Metric) -> bool {
        self.metrics.as_ref().is_some_and(|metrics| !metrics.contains(metric.name))
    }
}

/// Every time, rate and size is a positive number.
fn is_possible(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// Adds the final response of an arm on a scenario. Notes why a metric has no value; whether that
/// matters is decided by the verdict.
pub(super) fn finish_arm(
    case: &mut PairCase,
    turns: &mut PairTurns,
    arm: char,
    done: Case,
    reported: &ReportedMetrics,
    diverged: bool,
) {
    let mut no_value: BTreeMap<String, String> = BTreeMap::new();
    let mut impossible = reported.impossible;
    for block in done.blocks {
        let why = |metric: &str, default: &str| {
            block.notes.get(metric).cloned().unwrap_or_else(|| default.to_owned())
        };
        match block.value(PEAK) {
            Some(bytes) => {
                impossible |= !is_possible(bytes);
                turns.once.entry(PEAK.into()).or_default().insert(arm, bytes);
            }
            None => {
                no_value.insert(PEAK.into(), why(PEAK, "it was not read"));
            }
        }
        let timed = METRICS.iter().filter(|metric| metric.gated(&done.work) && metric.name != PEAK);
        for metric in timed.filter(|metric| reported.lacks(metric)) {
            no_value.insert(metric.name.into(), why(metric.name, "a turn did not report it"));
        }
        for (name, values) in block.cold {
            if is_judged(&name) {
                turns.cold.entry(name).or_default().insert(arm, values);
            }
        }
    }
    let side = match arm {
        'A' => &mut case.base,
        'B' => &mut case.candidate,
        _ => return,
    };
    side.no_value.extend(no_value);
    let is_server = done.output_sha256.as_deref().is_some_and(|hash| hash.starts_with(TEXT_HASH));
    let mut fail = |check: String| {
        if !side.failed.contains(&check) {
            side.failed.push(check);
        }
    };
    if impossible {
        fail(
            "a turn has a value that is not a positive number: the clock or the worker is broken"
                .into(),
        );
    }
    if !diverged {
        done.validity.failed.into_iter().for_each(&mut fail);
    }
    let varies = side.output_sha256.is_some()
        && done.output_sha256.is_some()
        && side.output_sha256 != done.output_sha256;
    if varies && !is_server {
        fail("greedy output differs between processes".into());
    }
    side.output_sha256 = done.output_sha256.or(side.output_sha256.take());
    if varies && is_server {
        side.no_value.insert(OUTPUT.into(), OUTPUT_VARIES.into());
    }
    if side.no_value.contains_key(OUTPUT) {
        side.output_sha256 = None;
    }
    side.work = Some(done.work);
}

/// The field of an output that says nothing.
const OUTPUT: &str = "output_sha256";

/// Read once per process, not per turn.
const PEAK: &str = metric::PEAK_RSS_BYTES;

fn is_judged(name: &str) -> bool {
    workload::metric(name).is_some_and(|metric| metric.limit.is_some())
}

/// Judged metrics, and the end-to-end time.
pub(super) fn is_stored(name: &str) -> bool {
    is_judged(name) || name == metric::E2E_S
}

/// The first token that differs between two outputs.
pub(super) fn first_divergence(base: &[Vec<u32>], candidate: &[Vec<u32>]) -> Option<Divergence> {
    (0..base.len().max(candidate.len())).find_map(|sequence| {
        let of = |side: &[Vec<u32>], token: usize| side.get(sequence)?.get(token).copied();
        let length = |side: &[Vec<u32>]| side.get(sequence).map_or(0, Vec::len);
        (0..length(base).max(length(candidate))).find_map(|token| {
            let (base, candidate) = (of(base, token), of(candidate, token));
            (base != candidate).then_some(Divergence { sequence, token, base, candidate })
        })
    })
}

/// Whether more blocks of a case can be measured. A changed output prevents that unless the change
/// is intended.
pub(super) fn can_be_measured(case: &PairCase, output_change: Option<&str>) -> bool {
    let fine = |side: &Side| side.absent.is_none() && side.failed.is_empty();
    fine(&case.base)
        && fine(&case.candidate)
        && (case.divergence.is_none() || output_change.is_some())
}

/// The scenarios of the null control: the two cheapest that both builds have.
pub(super) fn null_control_scenarios(cases: &[PairCase]) -> Vec<String> {
    let known = workload::select(&[]).unwrap_or_default();
    let mut both: Vec<(usize, &str)> = cases
        .iter()
        .filter(|case| case.base.absent.is_none() && case.candidate.absent.is_none())
        .map(|case| {
            let scenario = known.iter().find(|scenario| scenario.id == case.id);
            let cost = scenario.map_or(usize::MAX, |scenario| {
                let characters: usize = scenario.prompts().iter().map(String::len).sum();
                characters / 4 + 8 * scenario.new_tokens
            });
            (cost, case.id.as_str())
        })
        .collect();
    both.sort_unstable();
    both.into_iter().take(2).map(|(_, id)| id.to_owned()).collect()
}
