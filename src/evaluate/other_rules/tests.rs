//! Every rule on values that can be checked by hand.

use super::*;
use crate::workload::metric;

fn paired_block(base: &[f64], other: &[f64]) -> PairedBlock {
    let effect = (median(other) / median(base)).ln();
    let (base, other) = (base.to_vec(), other.to_vec());
    PairedBlock { effect, first_turns: effect, rounds: vec![effect], base, other, rejected: false }
}

/// Judges 32 blocks with the same turns.
fn judge_repeated(
    rule: fn(&RuleInput) -> RuleOutput,
    name: &str,
    base: &[f64],
    other: &[f64],
) -> RuleOutput {
    let one = paired_block(base, other);
    rule(&RuleInput { blocks: vec![&one; 32], metric: metric(name).unwrap() })
}

/// Judges blocks with one turn per arm each.
fn judge_blocks(
    rule: fn(&RuleInput) -> RuleOutput,
    name: &str,
    base: &[f64],
    other: &[f64],
) -> RuleOutput {
    let blocks: Vec<PairedBlock> =
        base.iter().zip(other).map(|(base, other)| paired_block(&[*base], &[*other])).collect();
    let metric = metric(name).unwrap();
    rule(&RuleInput { blocks: blocks.iter().collect(), metric })
}

#[test]
fn single_comparisons_have_the_limits_that_they_are_named_after() {
    use RuleVerdict::{Pass, Regressed};
    type Case = (fn(&RuleInput) -> RuleOutput, &'static str, f64, RuleVerdict);
    let cases: [Case; 16] = [
        // A rate that falls 5 % is a time that rises 5.26 %.
        (naive, "decode_tok_s", 1.052, Pass),
        (naive, "decode_tok_s", 1.053, Regressed),
        (naive, "ttft_s", 1.099, Pass),
        (naive, "ttft_s", 1.101, Regressed),
        (naive, "peak_rss_bytes", 1.149, Pass),
        (naive, "peak_rss_bytes", 1.151, Regressed),
        (naive_10, "ttft_s", 1.101, Regressed),
        (naive_10, "decode_tok_s", 1.110, Pass),
        (naive_10, "decode_tok_s", 1.112, Regressed),
        (naive_15, "peak_rss_bytes", 1.149, Pass),
        (critcmp, "decode_tok_s", 1.049, Pass),
        (critcmp, "decode_tok_s", 1.051, Regressed),
        (github_105, "ttft_s", 1.051, Regressed),
        (github_200, "ttft_s", 1.99, Pass),
        (github_200, "ttft_s", 2.01, Regressed),
        (naive, "decode_tok_s", 0.5, Pass),
    ];
    for (rule, name, ratio, expected) in cases {
        let output = judge_repeated(rule, name, &[2.0], &[2.0 * ratio]);
        assert_eq!((output.verdict, output.blocks), (expected, 1), "{name} {ratio}");
        assert!((output.theta.unwrap() - ratio.ln()).abs() < 1e-12);
    }
    // The median does not see one slow turn, the mean does.
    let (base, slow) = ([1.0; 5], [1.0, 1.0, 1.0, 1.0, 1.5]);
    assert_eq!(judge_repeated(github_105, "ttft_s", &base, &slow).verdict, Pass);
    assert_eq!(judge_repeated(critcmp, "ttft_s", &base, &slow).verdict, Regressed);
}

#[test]
fn criterion_asks_for_an_interval_beyond_its_threshold() {
    let base = [0.99, 1.0, 1.01, 1.0, 0.995, 1.005];
    let times = |factor: f64| base.map(|value| value * factor);
    for (factor, default, margin) in [
        (1.0, RuleVerdict::Pass, RuleVerdict::Pass),
        (1.012, RuleVerdict::Pass, RuleVerdict::Pass),
        (1.03, RuleVerdict::Regressed, RuleVerdict::Pass),
        (1.08, RuleVerdict::Regressed, RuleVerdict::Regressed),
        (0.9, RuleVerdict::Pass, RuleVerdict::Pass),
    ] {
        let other = times(factor);
        assert_eq!(
            judge_repeated(criterion, "decode_tok_s", &base, &other).verdict,
            default,
            "{factor}"
        );
        assert_eq!(
            judge_repeated(criterion_margin, "decode_tok_s", &base, &other).verdict,
            margin,
            "{factor}"
        );
    }
}

#[test]
fn the_bootstrap_agrees_with_the_normal_interval_of_a_large_sample() {
    let mut random = Random::new(3);
    let mut sample = || -> Vec<f64> { (0..400).map(|_| 1.0 + 0.05 * random.normal()).collect() };
    let (base, other) = (sample(), sample());
    let interval = mean_ratio_interval(&base, &other);
    assert_eq!(interval, mean_ratio_interval(&base, &other), "the same values, the same interval");
    let error = (stats::sd(&base).unwrap() / mean(&base))
        .hypot(stats::sd(&other).unwrap() / mean(&other))
        / 20.0;
    let theta = (mean(&other) / mean(&base)).ln();
    assert!((interval.lo - (theta - 1.96 * error)).abs() < 0.15 * error, "{interval:?}");
    assert!((interval.hi - (theta + 1.96 * error)).abs() < 0.15 * error, "{interval:?}");
    let point = mean_ratio_interval(&[2.0], &[3.0]);
    assert_eq!((point.lo, point.hi), (1.5f64.ln(), 1.5f64.ln()));
}

#[test]
fn benchstat_ranks_ten_processes() {
    let base: Vec<f64> = (0..32).map(|i| 1.0 + 0.001 * f64::from(i % 10)).collect();
    let times = |factor: f64| base.iter().map(|value| value * factor).collect::<Vec<_>>();
    for (factor, default, margin) in [
        (1.0, RuleVerdict::Pass, RuleVerdict::Pass),
        (1.002, RuleVerdict::Pass, RuleVerdict::Pass),
        (1.01, RuleVerdict::Regressed, RuleVerdict::Pass),
        (1.06, RuleVerdict::Regressed, RuleVerdict::Regressed),
        (0.9, RuleVerdict::Pass, RuleVerdict::Pass),
    ] {
        let output = judge_blocks(mann_whitney, "decode_tok_s", &base, &times(factor));
        assert_eq!((output.verdict, output.blocks), (default, 10), "{factor}");
        let output = judge_blocks(mann_whitney_margin, "decode_tok_s", &base, &times(factor));
        assert_eq!(output.verdict, margin, "{factor}");
    }
}

#[test]
fn tango_counts_standard_errors_of_paired_turns() {
    // Differences 0.02 and 0.04: mean 0.03, standard error 0.01, z = 3.
    let output = judge_repeated(tango, "ttft_s", &[1.0, 1.0], &[1.02, 1.04]);
    assert_eq!(output.verdict, RuleVerdict::Regressed);
    assert!((output.theta.unwrap() - 1.03f64.ln()).abs() < 1e-12);
    // 0.01 and 0.05: z = 1.5.
    assert_eq!(
        judge_repeated(tango, "ttft_s", &[1.0, 1.0], &[1.01, 1.05]).verdict,
        RuleVerdict::Pass
    );
    // Certain, and below 1 %.
    assert_eq!(
        judge_repeated(tango, "ttft_s", &[1.0, 1.0], &[1.009, 1.009]).verdict,
        RuleVerdict::Pass
    );
}

#[test]
fn perfgate_takes_two_population_errors_of_ten_pairs() {
    let base = [1.0; 32];
    // Differences 0.02 and 0.10 in turn: mean 0.06, population deviation 0.04, error 0.04 / sqrt
    // 10.
    let even = |low: f64, high: f64| -> Vec<f64> {
        (0..32).map(|i| if i % 2 == 0 { 1.0 + low } else { 1.0 + high }).collect()
    };
    assert_eq!(
        judge_blocks(perfgate_margin, "decode_tok_s", &base, &even(0.02, 0.10)).verdict,
        RuleVerdict::Regressed
    );
    assert_eq!(
        judge_blocks(perfgate, "decode_tok_s", &base, &even(0.02, 0.10)).verdict,
        RuleVerdict::Pass
    );
    assert_eq!(
        judge_blocks(perfgate, "decode_tok_s", &base, &even(0.20, 0.22)).verdict,
        RuleVerdict::Regressed
    );
    // Mean 0.06 and error 0.0316: 1.9 of them.
    assert_eq!(
        judge_blocks(perfgate_margin, "decode_tok_s", &base, &even(-0.04, 0.16)).verdict,
        RuleVerdict::Pass
    );
}
