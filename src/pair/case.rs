//! One scenario of a pair: what its two sides answered, where their outputs part, and whether more
//! blocks can say anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::record::pair::{Divergence, PairCase, PairTurns, Round, Side};
use crate::record::{Absence, Case};
use crate::suite::turns::Response;
use crate::workload;
use crate::workload::{METRICS, Metric};

/// An answer of another kind than was asked for.
pub(super) fn unexpected_response(told: &Response) -> Error {
    let text = serde_json::to_string(told).expect("plain data");
    Error::Failed(format!("a worker answered something else: `{}`", crate::error::shortened(&text)))
}

/// Writes down that an arm cannot do a scenario.
pub(super) fn cannot(case: &mut PairCase, arm: char, absent: Absence) -> bool {
    let side = if arm == 'B' { &mut case.candidate } else { &mut case.base };
    side.absent = Some(absent);
    false
}

/// What the turns of one arm reported in one block.
#[derive(Default)]
pub(super) struct ReportedMetrics {
    /// The metrics that every turn reported; `None` before the first.
    metrics: Option<BTreeSet<String>>,
    /// Whether a value was no positive number.
    impossible: bool,
}

impl ReportedMetrics {
    /// Takes the values of a turn.
    pub(super) fn add(&mut self, values: &BTreeMap<String, f64>) {
        let reported: BTreeSet<String> = values.keys().cloned().collect();
        self.metrics = Some(match self.metrics.take() {
            Some(before) => before.intersection(&reported).cloned().collect(),
            None => reported,
        });
        self.impossible |= values.iter().any(|(name, value)| is_kept(name) && !is_possible(*value));
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

/// Adds the values of a turn, of the metrics that are judged and the length of the whole.
pub(super) fn keep(round: &mut Round, mut values: BTreeMap<String, f64>) {
    values.retain(|name, _| is_kept(name));
    for (name, value) in values {
        round.values.entry(name).or_default().push(value);
    }
}

/// What an arm said at the end of a scenario, after what its turns reported. What it has no value
/// of is said with why: whether that matters is not decided here.
pub(super) fn end(
    case: &mut PairCase,
    turns: &mut PairTurns,
    arm: char,
    done: Case,
    reported: &ReportedMetrics,
    parted: bool,
) {
    let mut no_value: BTreeMap<String, String> = BTreeMap::new();
    let mut impossible = reported.impossible;
    for block in done.blocks {
        let why = |metric: &str, otherwise: &str| {
            block.notes.get(metric).cloned().unwrap_or_else(|| otherwise.to_owned())
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
    let mut fail = |what: String| {
        if !side.failed.contains(&what) {
            side.failed.push(what);
        }
    };
    if impossible {
        fail(
            "a turn has a value that is not a positive number: the clock is broken, or the worker"
                .into(),
        );
    }
    if !parted {
        done.validity.failed.into_iter().for_each(&mut fail);
    }
    if side.output_sha256.is_some()
        && done.output_sha256.is_some()
        && side.output_sha256 != done.output_sha256
    {
        fail("greedy output differs between processes".into());
    }
    side.output_sha256 = done.output_sha256.or(side.output_sha256.take());
    side.work = Some(done.work);
}

/// Read once a process, and not by turns.
const PEAK: &str = "peak_rss_bytes";

fn is_judged(name: &str) -> bool {
    workload::metric(name).is_some_and(|metric| metric.limit.is_some())
}

/// What is judged, and the length of the whole.
fn is_kept(name: &str) -> bool {
    is_judged(name) || name == "e2e_s"
}

/// Where two outputs part.
pub(super) fn divergence(base: &[Vec<u32>], candidate: &[Vec<u32>]) -> Option<Divergence> {
    (0..base.len().max(candidate.len())).find_map(|sequence| {
        let of = |side: &[Vec<u32>], token: usize| side.get(sequence)?.get(token).copied();
        let length = |side: &[Vec<u32>]| side.get(sequence).map_or(0, Vec::len);
        (0..length(base).max(length(candidate))).find_map(|token| {
            let (base, candidate) = (of(base, token), of(candidate, token));
            (base != candidate).then_some(Divergence { sequence, token, base, candidate })
        })
    })
}

/// Whether more blocks of a case can say anything; an output that changed by intention is no
/// hindrance.
pub(super) fn can_be_measured(case: &PairCase, output_change: Option<&str>) -> bool {
    let fine = |side: &Side| side.absent.is_none() && side.failed.is_empty();
    fine(&case.base)
        && fine(&case.candidate)
        && (case.divergence.is_none() || output_change.is_some())
}

/// The two cheapest scenarios that both builds have: the null control costs as little as it can.
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
