//! Shares of the roofline: what a case did, divided by the most that the machine was measured to
//! do. A machine that is shared or throttled can do more a minute later, so a record holds all of
//! its cases against the best that was seen while it was made.

use crate::engine::Engine;
use crate::measure::{Trial, checks};
use crate::record::{Block, Case, Rates};

/// A metric that is a share, and the rate that it is a share of.
struct Share {
    metric: &'static str,
    of: fn(&Rates) -> Option<f64>,
}

const SHARES: [Share; 2] = [
    Share { metric: "roofline_fraction", of: Rates::best_read_bytes_per_s },
    Share { metric: "prefill_flop_fraction", of: Rates::best_op_per_s },
];

/// Whether a case did more than the machine was measured to do: one of the two measurements is off,
/// or the machine has changed between them.
pub fn exceeds(case: &Case) -> bool {
    let mut shares = SHARES
        .iter()
        .flat_map(|share| case.blocks.iter().filter_map(|block| block.value(share.metric)));
    shares.any(|share| share > 1.0)
}

/// Holds all cases of a record against these rates, too: where one is better than the record's own,
/// it takes its place.
pub fn raise(rates: &mut Rates, cases: &mut [Case], seen: &Rates) {
    let best = rates.best_of(seen);
    for case in cases {
        restate(case, rates, &best);
    }
    *rates = best;
}

/// Divides the shares of a case by other rates than before, and says again whether they can be
/// true.
pub fn restate(case: &mut Case, before: &Rates, now: &Rates) {
    let Case { blocks, validity, .. } = case;
    for block in &mut *blocks {
        let (failed, warnings) = (checks::beyond(block), checks::below(block));
        validity.failed.retain(|what| !failed.contains(what));
        validity.warnings.retain(|what| !warnings.contains(what));
    }
    for block in blocks {
        for share in &SHARES {
            if let (Some(Some(value)), Some(before), Some(now)) =
                (block.values.get_mut(share.metric), (share.of)(before), (share.of)(now))
            {
                *value *= before / now;
            }
        }
        for (known, again) in [
            (&mut validity.failed, checks::beyond(block)),
            (&mut validity.warnings, checks::below(block)),
        ] {
            for what in again {
                if !known.contains(&what) {
                    known.push(what);
                }
            }
        }
    }
}

/// Bytes that decoding streamed per second, weights once a step and the caches of all sequences, as
/// a share of the measured read bandwidth: the larger one, whatever pages an engine has.
pub(super) fn of_bandwidth(
    trial: &Trial,
    engine: &Engine,
    block: &Block,
    rates: &Rates,
) -> Result<f64, &'static str> {
    let bandwidth = rates.best_read_bytes_per_s().ok_or("read bandwidth was not measured")?;
    let step = block.value("tpot_s").ok_or("nothing is decoded after the first token")?;
    let weights = engine.decoder.footprint().step_bytes;
    if rates.last_level_cache_bytes.is_some_and(|cache| weights < 2 * cache) {
        return Err("the weights fit in the last-level cache, or nearly");
    }
    // Over the steps, half of the answer is there.
    let caches = trial.kv_bytes(engine, trial.new_tokens as f64 / 2.0);
    Ok((weights as f64 + caches) / step / bandwidth)
}

/// Operations that prefill did per second, as a share of the most that the machine does on any kind
/// of number. With the largest peak it never flatters: an engine that multiplies wider numbers than
/// it could has a smaller share.
pub(super) fn of_arithmetic(
    engine: &Engine,
    block: &Block,
    rates: &Rates,
) -> Result<f64, &'static str> {
    let peak = rates.best_op_per_s().ok_or("the arithmetic peak was not measured")?;
    let rate = block.value("prefill_tok_s").ok_or("no prefill was timed")?;
    Ok(rate * flops_per_token(engine) / peak)
}

/// Two operations for each weight of the layers, which every token is multiplied with; attention
/// and the output matrix, which only some tokens see, are left out, so that the share is a lower
/// bound.
fn flops_per_token(engine: &Engine) -> f64 {
    let config = &engine.source.config;
    let layers = config
        .tensors()
        .into_iter()
        .filter(|(name, shape)| name.starts_with("model.layers") && shape.len() == 2);
    // Of the last layer only the rows whose answer is wanted go through the feed-forward part.
    let share = (config.layers as f64 - 1.0).max(0.0) / config.layers as f64;
    2.0 * share * layers.map(|(_, shape)| (shape[0] * shape[1]) as f64).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(read: f64, ops: f64) -> Rates {
        Rates { read_bytes_per_s: Some(read), int8_op_per_s: Some(ops), ..Rates::default() }
    }

    /// A case whose blocks have these shares, with what is to be said of them.
    fn case(shares: &[(f64, f64)]) -> Case {
        let mut case = Case::default();
        for &(read, ops) in shares {
            let values = [("roofline_fraction", read), ("prefill_flop_fraction", ops)];
            let values = values.map(|(name, value)| (name.into(), Some(value)));
            case.blocks.push(Block { values: values.into(), ..Block::default() });
        }
        restate(&mut case, &rates(1.0, 1.0), &rates(1.0, 1.0));
        case
    }

    #[test]
    fn a_machine_that_was_seen_to_do_more_makes_a_number_possible() {
        let mut best = rates(30e9, 800e9);
        let mut cases = [case(&[(1.27, 0.5), (0.9, 0.5)]), case(&[(0.021, 1.5)])];
        let too_much = "prefill did 150 % of the measured arithmetic peak";
        let read = "decoding read 127 % of the measured bandwidth";
        assert_eq!(cases[0].validity.failed, [read]);
        assert_eq!(cases[1].validity.failed, [too_much]);
        assert!(cases.iter().all(exceeds));
        cases[0].validity.failed.push("another".into());
        raise(&mut best, &mut cases, &rates(40e9, 700e9));
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
        assert_eq!(cases.each_ref().map(exceeds), [false, true]);
    }

    #[test]
    fn what_is_no_share_stays_as_it_is() {
        let mut one = case(&[(0.5, 0.5)]);
        one.blocks[0].values.insert("roofline_fraction".into(), None);
        one.blocks[0].values.insert("tpot_s".into(), Some(0.1));
        let before = one.clone();
        restate(&mut one, &Rates::default(), &rates(40e9, 700e9));
        assert_eq!(one, before, "rates that were not known are not replaced");
        restate(&mut one, &rates(20e9, 700e9), &rates(40e9, 700e9));
        assert_eq!(one, before);
        assert!(!exceeds(&one) && !exceeds(&Case::default()));
    }
}
