//! Plausibility checks. An impossible number makes its case INVALID, an implausible one adds a
//! warning.

use std::time::Duration;

use crate::measure::{Sample, Trial};
use crate::record::{Block, Validity};
use crate::workload::metric;

/// How far a rate may lie above the measured roofline: the roofline is itself a measurement, and
/// differs by 5 to 20 % between repetitions on shared machines.
const TOLERANCE: f64 = 1.25;

/// Roofline fraction below which the work has probably run on another device than intended.
const IMPLAUSIBLY_LOW: f64 = 0.02;

/// Prompt tokens from which prefill should be clearly faster than decode.
const LONG_PROMPT: usize = 64;

/// Rounding error of sums of clock readings is below this.
const CLOCK_ERROR: Duration = Duration::from_micros(1);

/// How much of a generation may be neither first token nor steps: resetting the cache before, and
/// checking the logits after. The larger of a share of the whole and a time.
const UNEXPLAINED: (f64, Duration) = (0.05, Duration::from_millis(5));

/// The finding about a build whose numbers mean nothing.
pub(super) const DEBUG_ASSERTIONS: &str = "the build has debug assertions";

/// Checks the samples of a trial and their block.
pub(super) fn validity(trial: &Trial, samples: &[Sample], block: &Block) -> Validity {
    let mut validity = Validity::default();
    let mut fail = |failed: bool, finding: &str| {
        if failed {
            validity.fail(finding);
        }
    };
    fail(samples.is_empty(), "no sample was taken");
    fail(cfg!(debug_assertions), DEBUG_ASSERTIONS);
    for sample in samples {
        let exact = trial.generation.natural_stop
            || sample.ids.iter().all(|ids| ids.len() == trial.new_tokens);
        fail(!exact, &format!("not every sequence has {} tokens", trial.new_tokens));
        fail(!sample.finite, "a logit of a first token is not finite");
        let total = sample.total.as_secs_f64();
        let ordered = sample.ttft_seq_s.iter().all(|&ttft| ttft > 0.0 && ttft <= total);
        fail(!ordered, "a time to first token is not between 0 and the total");
    }
    let times = samples.iter().map(|sample| {
        let last_first = sample.ttft_seq_s.iter().copied().fold(0.0, f64::max);
        let parts = last_first + sample.steps_s.iter().sum::<f64>();
        (parts, sample.around.as_secs_f64())
    });
    if let Some(finding) = clock_contradiction(&times.collect::<Vec<_>>()) {
        fail(true, &finding);
    }
    let differ = samples.windows(2).any(|pair| pair[0].ids != pair[1].ids);
    fail(differ && trial.generation.is_greedy(), "greedy output differs between repetitions");
    let value = |name| block.value(name);
    if let (Some(peak), Some(loaded)) =
        (value(metric::PEAK_RSS_BYTES), value(metric::RSS_AFTER_LOAD_BYTES))
    {
        fail(peak < loaded, "peak memory is below the memory after loading");
    }
    validity.merge(against_roofline(block));
    validity.warnings.extend(warnings(trial, block));
    validity
}

/// Where the parts of generations contradict a second clock around each. `times` holds seconds:
/// first token and steps together, and the whole generation. An interruption may fall between the
/// parts of one generation, but not of all.
fn clock_contradiction(times: &[(f64, f64)]) -> Option<String> {
    let (share, time) = UNEXPLAINED;
    if let Some((parts, whole)) =
        times.iter().find(|(parts, whole)| *parts > whole + CLOCK_ERROR.as_secs_f64())
    {
        return Some(format!(
            "first token and steps take {parts:.6} s of a generation of {whole:.6} s"
        ));
    }
    let left = times.iter().map(|(parts, whole)| {
        let allowed = (share * whole).max(time.as_secs_f64());
        (whole - parts - allowed, whole - parts)
    });
    let least = left.min_by(|one, other| one.0.total_cmp(&other.0))?;
    (least.0 > 0.0).then(|| {
        format!(
            "first token and steps leave at least {:.6} s of every generation unexplained",
            least.1
        )
    })
}

/// Rates of a block that exceed the roofline, and warnings of one implausibly far below it.
pub(super) fn against_roofline(block: &Block) -> Validity {
    let mut validity = Validity::default();
    if let Some(fraction) = block.value(metric::ROOFLINE_FRACTION) {
        let percent = 100.0 * fraction;
        if fraction > TOLERANCE {
            validity.fail(format!("decoding read {percent:.0} % of the measured bandwidth"));
        }
        if fraction < IMPLAUSIBLY_LOW {
            validity.warnings.push(format!(
                "decoding read only {percent:.1} % of the measured bandwidth: intended device?"
            ));
        }
    }
    if let Some(fraction) = block.value(metric::PREFILL_FLOP_FRACTION).filter(|f| *f > TOLERANCE) {
        let percent = 100.0 * fraction;
        validity.fail(format!("prefill did {percent:.0} % of the measured arithmetic peak"));
    }
    validity
}

fn warnings(trial: &Trial, block: &Block) -> Vec<String> {
    let mut all = Vec::new();
    let value = |name| block.value(name);
    let long = trial.ids.iter().all(|ids| ids.len() >= LONG_PROMPT);
    if let (Some(prefill), Some(decode)) =
        (value(metric::PREFILL_TOK_S), value(metric::DECODE_TOK_S_AGGREGATE))
        && long
        && trial.ids.len() == 1
        && prefill < 1.5 * decode
    {
        all.push(
            "prefill is hardly faster than decode: are prompts processed token by token?".into(),
        );
    }
    if let (Some(growth), Some(expected)) =
        (value(metric::PEAK_DELTA_BYTES), value(metric::KV_BYTES_EXPECTED))
        && growth < 0.5 * expected
    {
        all.push(format!("memory grew by {growth:.0} bytes, the caches should take {expected:.0}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_contradict_the_whole_are_found() {
        let left_out =
            "first token and steps leave at least 0.200000 s of every generation unexplained";
        let too_long = "first token and steps take 1.100000 s of a generation of 1.000000 s";
        for (times, expected) in [
            ([].as_slice(), None),
            (&[(0.999, 1.0)], None),
            (&[(0.96, 1.0)], None),
            (&[(0.8, 1.0)], Some(left_out)),
            (&[(0.8, 1.0), (0.7, 1.0)], Some(left_out)),
            // Interrupted once, between the parts.
            (&[(0.8, 1.0), (0.999, 1.0)], None),
            (&[(0.001, 0.0055)], None), // Milliseconds are a large share of a short generation.
            (&[(0.999, 1.0), (1.1, 1.0)], Some(too_long)),
        ] {
            assert_eq!(clock_contradiction(times).as_deref(), expected, "{times:?}");
        }
    }
}
