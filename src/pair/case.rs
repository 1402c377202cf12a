//! One scenario of a pair: what its two sides answered, where their outputs part, and whether more blocks can say anything.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::record::Case;
use crate::record::pair::PairedCase;
use crate::record::pair::PairedTurns;
use crate::record::pair::Parting;
use crate::record::pair::Quad;
use crate::record::pair::Side;
use crate::suite::turns::Told;
use crate::workload;
use crate::workload::METRICS;

/// An answer of another kind than was asked for.
pub(super) fn unexpected(told: &Told) -> Error {
    let text = serde_json::to_string(told).expect("plain data");
    Error::Failed(format!("a worker answered something else: `{}`", crate::suite::shortened(&text)))
}

/// Writes down that an arm cannot do a scenario.
pub(super) fn cannot(case: &mut PairedCase, arm: char, why: String) -> bool {
    let side = if arm == 'B' { &mut case.candidate } else { &mut case.base };
    side.absent = Some(why);
    false
}

/// Adds the values of a turn, of the metrics that are judged and the length of the whole.
pub(super) fn keep(quad: &mut Quad, mut values: BTreeMap<String, f64>) {
    values.retain(|name, _| metric_is_kept(name) || name == "e2e_s");
    for (name, value) in values {
        quad.values.entry(name).or_default().push(value);
    }
}

/// What an arm said at the end of a scenario.
pub(super) fn end(
    case: &mut PairedCase,
    turns: &mut PairedTurns,
    arm: char,
    done: Case,
    parted: bool,
) {
    for block in done.blocks {
        match block.value("peak_rss_bytes") {
            Some(bytes) => {
                turns.once.entry("peak_rss_bytes".into()).or_default().insert(arm, bytes);
            }
            None => {
                let why = block.notes.get("peak_rss_bytes").cloned();
                let why = why.unwrap_or_else(|| "it was not read".into());
                turns.notes.insert("peak_rss_bytes".into(), why);
            }
        }
        for (name, values) in block.cold {
            if metric_is_kept(&name) {
                turns.cold.entry(name).or_default().insert(arm, values);
            }
        }
    }
    let own = |quad: &Quad, values: &[f64]| -> bool {
        let each = quad.order.chars().zip(values).filter(|(letter, _)| *letter == arm);
        each.into_iter().any(|(_, value)| !(value.is_finite() && *value > 0.0))
    };
    let bad = turns.quads.iter().any(|quad| quad.values.values().any(|values| own(quad, values)));
    let counted = |quad: &Quad| {
        let turns = quad.order.chars().count();
        quad.values.iter().find(|(_, values)| values.len() != turns).map(|(name, _)| name.clone())
    };
    let timed =
        METRICS.iter().filter(|metric| metric.gated(&done.work) && metric.kind() != "memory");
    let without = |quad: &Quad| {
        timed
            .clone()
            .find(|metric| !quad.values.contains_key(metric.name))
            .map(|metric| metric.name.to_owned())
    };
    let missing = turns.quads.iter().find_map(|quad| counted(quad).or_else(|| without(quad)));
    let side = match arm {
        'A' => &mut case.base,
        'B' => &mut case.candidate,
        _ => return,
    };
    let mut fail = |what: String| {
        if !side.failed.contains(&what) {
            side.failed.push(what);
        }
    };
    if bad {
        fail(
            "a turn has a value that is not a positive number: the clock is broken, or the worker"
                .into(),
        );
    }
    if let Some(name) = missing {
        fail(format!("a turn has no `{name}`"));
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

fn metric_is_kept(name: &str) -> bool {
    workload::metric(name).is_some_and(|metric| metric.limit.is_some())
}

/// Where two outputs part.
pub(super) fn parting(base: &[Vec<u32>], candidate: &[Vec<u32>]) -> Option<Parting> {
    (0..base.len().max(candidate.len())).find_map(|sequence| {
        let of = |side: &[Vec<u32>], token: usize| side.get(sequence)?.get(token).copied();
        let length = |side: &[Vec<u32>]| side.get(sequence).map_or(0, Vec::len);
        (0..length(base).max(length(candidate))).find_map(|token| {
            let (base, candidate) = (of(base, token), of(candidate, token));
            (base != candidate).then_some(Parting { sequence, token, base, candidate })
        })
    })
}

/// Whether more blocks of a case can say anything; an output that changed by intention is no hindrance.
pub(super) fn is_measurable(case: &PairedCase, output_change: Option<&str>) -> bool {
    let fine = |side: &Side| side.absent.is_none() && side.failed.is_empty();
    fine(&case.base) && fine(&case.candidate) && (case.parting.is_none() || output_change.is_some())
}

/// The two cheapest scenarios that both builds have: the null control costs as little as it can.
pub(super) fn sentinels(cases: &[PairedCase]) -> Vec<String> {
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
