//! Roofline fractions: a case's rates divided by the machine's measured peak rates. A shared or
//! throttled machine may be faster a minute later, so all cases of a record are divided by the best
//! peak rates measured during the run.

use crate::engine::Engine;
use crate::measure::{Trial, checks};
use crate::record::{Block, Case, Rates};
use crate::workload::metric;

/// A metric that is a fraction of a peak rate.
struct Fraction {
    metric: &'static str,
    peak: fn(&Rates) -> Option<f64>,
}

const FRACTIONS: [Fraction; 2] = [
    Fraction { metric: metric::ROOFLINE_FRACTION, peak: Rates::best_read_bytes_per_s },
    Fraction { metric: metric::PREFILL_FLOP_FRACTION, peak: Rates::best_op_per_s },
];

/// Whether a case exceeded a peak rate: one of the two measurements is off, or the machine has
/// changed between them.
pub(crate) fn exceeds_roofline(case: &Case) -> bool {
    case.blocks.iter().any(|block| {
        let mut values = FRACTIONS.iter().filter_map(|fraction| block.value(fraction.metric));
        values.any(|value| value > 1.0)
    })
}

/// Takes the better of each old and newly measured peak rate, and rescales the fractions of all
/// cases to it.
pub(crate) fn update_peak_rates(rates: &mut Rates, cases: &mut [Case], measured: &Rates) {
    let best = rates.best_of(measured);
    for case in cases {
        rescale(case, rates, &best);
    }
    *rates = best;
}

/// Rescales the roofline fractions of a case from old peak rates to new ones, and repeats the
/// checks of them.
pub(crate) fn rescale(case: &mut Case, before: &Rates, now: &Rates) {
    let Case { blocks, validity, .. } = case;
    for block in &*blocks {
        let old = checks::against_roofline(block);
        validity.failed.retain(|finding| !old.failed.contains(finding));
        validity.warnings.retain(|finding| !old.warnings.contains(finding));
    }
    for block in blocks {
        for fraction in &FRACTIONS {
            if let (Some(Some(value)), Some(before), Some(now)) = (
                block.values.get_mut(fraction.metric),
                (fraction.peak)(before),
                (fraction.peak)(now),
            ) {
                *value *= before / now;
            }
        }
        validity.merge(checks::against_roofline(block));
    }
}

/// Bytes that decode streams per second (the weights once a step, and the KV caches of all
/// sequences) as a fraction of the measured read bandwidth: the better one of small and huge pages.
pub(super) fn roofline_fraction(
    trial: &Trial,
    engine: &Engine,
    block: &Block,
    rates: &Rates,
) -> Result<f64, &'static str> {
    let step = block.value(metric::TPOT_S).ok_or("nothing is decoded after the first token")?;
    // On average over the steps, half of the answer is in the caches.
    let caches = trial.kv_bytes(engine, trial.new_tokens as f64 / 2.0);
    read_fraction(engine.decoder.footprint().step_bytes, caches, step, rates)
}

/// The fraction of the measured read bandwidth of a decode step that reads so many bytes of weights
/// and KV caches in so many seconds.
pub(crate) fn read_fraction(
    weights: u64,
    caches: f64,
    step_s: f64,
    rates: &Rates,
) -> Result<f64, &'static str> {
    let bandwidth = rates.best_read_bytes_per_s().ok_or("read bandwidth was not measured")?;
    if rates.last_level_cache_bytes.is_some_and(|cache| weights < 2 * cache) {
        return Err("the weights fit in the last-level cache, or nearly");
    }
    Ok((weights as f64 + caches) / step_s / bandwidth)
}

/// Operations that prefill does per second as a fraction of the largest arithmetic peak of any
/// number format. An engine that multiplies wider formats than it could has a smaller fraction.
pub(super) fn prefill_flop_fraction(
    engine: &Engine,
    block: &Block,
    rates: &Rates,
) -> Result<f64, &'static str> {
    let peak = rates.best_op_per_s().ok_or("the arithmetic peak was not measured")?;
    let rate = block.value(metric::PREFILL_TOK_S).ok_or("no prefill was timed")?;
    Ok(rate * flops_per_token(engine) / peak)
}

/// Two operations for each weight of the layers. Attention and the output matrix are left out, so
/// that the fraction is a lower bound.
fn flops_per_token(engine: &Engine) -> f64 {
    let config = &engine.source.config;
    let layers = config
        .tensors()
        .into_iter()
        .filter(|(name, shape)| name.starts_with("model.layers") && shape.len() == 2);
    // The last layer's feed-forward part runs only on rows whose logits are needed.
    let share = (config.layers as f64 - 1.0).max(0.0) / config.layers as f64;
    2.0 * share * layers.map(|(_, shape)| (shape[0] * shape[1]) as f64).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(read: f64, ops: f64) -> Rates {
        Rates { read_bytes_per_s: Some(read), int8_op_per_s: Some(ops), ..Rates::default() }
    }

    /// A checked case whose blocks have these fractions.
    fn case(fractions: &[(f64, f64)]) -> Case {
        let mut case = Case::default();
        for &(read, ops) in fractions {
            let values = [("roofline_fraction", read), ("prefill_flop_fraction", ops)];
            let values = values.map(|(name, value)| (name.into(), Some(value)));
            case.blocks.push(Block { values: values.into(), ..Block::default() });
        }
        rescale(&mut case, &rates(1.0, 1.0), &rates(1.0, 1.0));
        case
    }

    #[test]
    fn a_better_peak_rate_makes_a_number_possible() {
        let mut best = rates(30e9, 800e9);
        let mut cases = [case(&[(1.27, 0.5), (0.9, 0.5)]), case(&[(0.021, 1.5)])];
        let too_much = "prefill did 150 % of the measured arithmetic peak";
        let read = "decoding read 127 % of the measured bandwidth";
        assert_eq!(cases[0].validity.failed, [read]);
        assert_eq!(cases[1].validity.failed, [too_much]);
        assert!(cases.iter().all(exceeds_roofline));
        cases[0].validity.failed.push("another".into());
        update_peak_rates(&mut best, &mut cases, &rates(40e9, 700e9));
        assert_eq!(best, rates(40e9, 800e9), "the best of each");
        let shares = |case: &Case| -> Vec<f64> {
            let each = case.blocks.iter().map(|block| block.values["roofline_fraction"].unwrap());
            each.map(|share| (share * 1e4).round() / 1e4).collect()
        };
        assert_eq!(shares(&cases[0]), [0.9525, 0.675]);
        assert_eq!(cases[1].blocks[0].values["prefill_flop_fraction"], Some(1.5));
        assert_eq!(cases[0].validity.failed, ["another"]);
        assert_eq!(cases[1].validity.failed, [too_much]);
        let warning = "decoding read only 1.6 % of the measured bandwidth: intended device?";
        assert_eq!(cases[1].validity.warnings, [warning]);
        assert_eq!(cases.each_ref().map(exceeds_roofline), [false, true]);
    }

    #[test]
    fn other_metrics_and_unknown_rates_change_nothing() {
        let mut one = case(&[(0.5, 0.5)]);
        one.blocks[0].values.insert("roofline_fraction".into(), None);
        one.blocks[0].values.insert("tpot_s".into(), Some(0.1));
        let before = one.clone();
        rescale(&mut one, &Rates::default(), &rates(40e9, 700e9));
        assert_eq!(one, before, "unknown rates are not replaced");
        rescale(&mut one, &rates(20e9, 700e9), &rates(40e9, 700e9));
        assert_eq!(one, before);
        assert!(!exceeds_roofline(&one) && !exceeds_roofline(&Case::default()));
    }
}
