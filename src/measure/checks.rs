//! The checks that a number can be true. A number that cannot be makes its case INVALID; one that
//! looks odd gets a warning.

use std::time::Duration;

use crate::measure::{Sample, Trial};
use crate::record::{Block, Validity};

/// How far a rate may lie above the measured roofline before it is called impossible: the roofline
/// is itself a measurement, on machines where such measurements differ by 5 to 20 %.
const TOLERANCE: f64 = 1.25;

/// Share of the roofline below which the work has probably run somewhere else than intended.
const IMPLAUSIBLY_LOW: f64 = 0.02;

/// Prompt tokens from which prefill should be clearly faster than decoding.
const LONG_PROMPT: usize = 64;

/// Clock readings are summed in nanoseconds, which rounds by less than this.
const CLOCK: Duration = Duration::from_micros(1);

/// What first token and steps may leave of a generation, which a clock around all of it sees: going
/// back to an empty cache before, looking at the scores after. A share of the whole and a time,
/// whichever is more.
const UNEXPLAINED: (f64, Duration) = (0.05, Duration::from_millis(5));

/// Checks the samples of a trial and the block that came of them.
pub fn validity(trial: &Trial, samples: &[Sample], block: &Block) -> Validity {
    let mut verdict = Validity::default();
    let mut fail = |failed: bool, what: String| {
        if failed && !verdict.failed.contains(&what) {
            verdict.failed.push(what);
        }
    };
    fail(samples.is_empty(), "no sample was taken".into());
    fail(cfg!(debug_assertions), "the build has debug assertions".into());
    for sample in samples {
        let lengths = sample.ids.iter().map(Vec::len);
        let exact = trial.generation.natural_stop
            || lengths.clone().all(|length| length == trial.new_tokens);
        fail(!exact, format!("not every sequence has {} tokens", trial.new_tokens));
        fail(!sample.finite, "a score of a first token is not a finite number".into());
        let total = sample.total.as_secs_f64();
        let ordered = sample.ttft_seq_s.iter().all(|&ttft| ttft > 0.0 && ttft <= total);
        fail(!ordered, "a time to first token is not between 0 and the whole".into());
    }
    let clocks: Vec<(f64, f64)> = samples
        .iter()
        .map(|sample| {
            let last_first = sample.ttft_seq_s.iter().copied().fold(0.0, f64::max);
            let parts = last_first + sample.steps_s.iter().sum::<f64>();
            (parts, sample.around.as_secs_f64())
        })
        .collect();
    if let Some(what) = contradiction(&clocks) {
        fail(true, what);
    }
    if trial.is_greedy() {
        let differ = samples.windows(2).any(|pair| pair[0].ids != pair[1].ids);
        fail(differ, "greedy output differs between repetitions".into());
    }
    let value = |name| block.value(name);
    if let (Some(peak), Some(loaded)) = (value("peak_rss_bytes"), value("rss_after_load_bytes")) {
        fail(peak < loaded, "peak memory is below the memory after loading".into());
    }
    verdict.failed.extend(beyond(block));
    verdict.warnings = warnings(trial, block);
    verdict
}

/// Where the parts of generations contradict a clock around each: pairs of seconds, first token and
/// steps together and the whole. An interruption may fall beside the parts of one generation, but
/// not of all.
fn contradiction(clocks: &[(f64, f64)]) -> Option<String> {
    let (share, time) = UNEXPLAINED;
    if let Some((parts, whole)) =
        clocks.iter().find(|(parts, whole)| *parts > whole + CLOCK.as_secs_f64())
    {
        return Some(format!(
            "first token and steps take {parts:.6} s of a generation of {whole:.6} s"
        ));
    }
    let left = clocks.iter().map(|(parts, whole)| {
        let may = (share * whole).max(time.as_secs_f64());
        (whole - parts - may, whole - parts)
    });
    let least = left.min_by(|one, other| one.0.total_cmp(&other.0))?;
    (least.0 > 0.0).then(|| {
        format!("first token and steps leave {:.6} s and more of every generation out", least.1)
    })
}

/// What a block did that the machine cannot do.
pub(super) fn beyond(block: &Block) -> Vec<String> {
    let share = |name: &str| {
        let share = block.value(name);
        share.filter(|share| *share > TOLERANCE).map(|share| 100.0 * share)
    };
    let reading = share("roofline_fraction")
        .map(|percent| format!("decoding read {percent:.0} % of the measured bandwidth"));
    let arithmetic = share("prefill_flop_fraction")
        .map(|percent| format!("prefill did {percent:.0} % of the measured arithmetic peak"));
    reading.into_iter().chain(arithmetic).collect()
}

/// What a block did so slowly that it was probably done somewhere else.
pub(super) fn below(block: &Block) -> Vec<String> {
    let share = block.value("roofline_fraction");
    let low = share.filter(|share| *share < IMPLAUSIBLY_LOW).map(|share| {
        let percent = 100.0 * share;
        format!("decoding read only {percent:.1} % of the measured bandwidth: intended device?")
    });
    low.into_iter().collect()
}

fn warnings(trial: &Trial, block: &Block) -> Vec<String> {
    let mut all = below(block);
    let value = |name| block.value(name);
    let long = trial.ids.iter().all(|ids| ids.len() >= LONG_PROMPT);
    if let (Some(prefill), Some(decode)) = (value("prefill_tok_s"), value("decode_tok_s_aggregate"))
        && long
        && trial.ids.len() == 1
        && prefill < 1.5 * decode
    {
        all.push(
            "prefill is hardly faster than decoding: are prompts processed token by token?".into(),
        );
    }
    if let (Some(growth), Some(expected)) = (value("peak_delta_bytes"), value("kv_bytes_expected"))
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
    fn parts_that_contradict_a_clock_around_them_are_found() {
        let left_out = "first token and steps leave 0.200000 s and more of every generation out";
        let too_long = "first token and steps take 1.100000 s of a generation of 1.000000 s";
        for (clocks, expected) in [
            ([].as_slice(), None),
            (&[(0.999, 1.0)], None),
            (&[(0.96, 1.0)], None),
            (&[(0.8, 1.0)], Some(left_out)),
            (&[(0.8, 1.0), (0.7, 1.0)], Some(left_out)),
            // Interrupted once, between its parts and its end.
            (&[(0.8, 1.0), (0.999, 1.0)], None),
            (&[(0.001, 0.0055)], None), // Of a short generation milliseconds are much.
            (&[(0.999, 1.0), (1.1, 1.0)], Some(too_long)),
        ] {
            assert_eq!(contradiction(clocks).as_deref(), expected, "{clocks:?}");
        }
    }
}
