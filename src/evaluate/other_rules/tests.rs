//! Every rule on values that can be checked by hand.

use super::*;
use crate::evaluate::rules::{RULES, RuleKind};
use crate::workload::metric;

fn paired_block(base: &[f64], other: &[f64]) -> PairedBlock {
    let effect = (median(other) / median(base)).ln();
    let (base, other) = (base.to_vec(), other.to_vec());
    PairedBlock { effect, first_turns: effect, rounds: vec![effect], base, other, rejected: false }
}

/// Judges blocks by the rule of this name.
fn judge(rule: &str, name: &str, blocks: Vec<&PairedBlock>) -> RuleOutput {
    let rule = RULES.iter().find(|one| one.name == rule).unwrap();
    let RuleKind::PerMetric(decide, threshold) = rule.kind else { panic!("another tool's rule") };
    let input = RuleInput { blocks, metric: metric(name).unwrap() };
    decide(&input, threshold.of(&input))
}

/// Judges 32 blocks with the same turns.
fn judge_repeated(rule: &str, name: &str, base: &[f64], other: &[f64]) -> RuleOutput {
    judge(rule, name, vec![&paired_block(base, other); 32])
}

/// Judges blocks with one turn per arm each.
fn judge_blocks(rule: &str, name: &str, base: &[f64], other: &[f64]) -> RuleOutput {
    let pairs = base.iter().zip(other);
    let blocks: Vec<PairedBlock> =
        pairs.map(|(base, other)| paired_block(&[*base], &[*other])).collect();
    judge(rule, name, blocks.iter().collect())
}

#[test]
fn single_comparisons_have_the_limits_that_they_are_named_after() {
    use RuleVerdict::{Pass, Regressed};
    for (rule, name, ratio, expected) in [
        // A rate that falls 5 % is a time that rises 5.26 %.
        ("naive_5", "decode_tok_s", 1.052, Pass),
        ("naive_5", "decode_tok_s", 1.053, Regressed),
        ("naive_5", "ttft_s", 1.099, Pass),
        ("naive_5", "ttft_s", 1.101, Regressed),
        ("naive_5", "peak_rss_bytes", 1.149, Pass),
        ("naive_5", "peak_rss_bytes", 1.151, Regressed),
        ("github_105", "ttft_s", 1.051, Regressed),
        ("github_200", "ttft_s", 1.99, Pass),
        ("github_200", "ttft_s", 2.01, Regressed),
        ("naive_5", "decode_tok_s", 0.5, Pass),
    ] {
        let output = judge_repeated(rule, name, &[2.0], &[2.0 * ratio]);
        assert_eq!((output.verdict, output.blocks), (expected, 1), "{name} {ratio}");
        assert!((output.theta.unwrap() - ratio.ln()).abs() < 1e-12);
    }
    // The median does not see one slow turn.
    let (base, slow) = ([1.0; 5], [1.0, 1.0, 1.0, 1.0, 1.5]);
    assert_eq!(judge_repeated("github_105", "ttft_s", &base, &slow).verdict, Pass);
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
            judge_repeated("criterion", "decode_tok_s", &base, &other).verdict,
            default,
            "{factor}"
        );
        assert_eq!(
            judge_repeated("criterion_margin", "decode_tok_s", &base, &other).verdict,
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
        let output = judge_blocks("mann_whitney", "decode_tok_s", &base, &times(factor));
        assert_eq!((output.verdict, output.blocks), (default, 10), "{factor}");
        let output = judge_blocks("mann_whitney_margin", "decode_tok_s", &base, &times(factor));
        assert_eq!(output.verdict, margin, "{factor}");
    }
}

#[test]
fn tango_counts_standard_errors_of_paired_turns() {
    // Differences 0.02 and 0.04: mean 0.03, standard error 0.01, z = 3.
    let output = judge_repeated("tango", "ttft_s", &[1.0, 1.0], &[1.02, 1.04]);
    assert_eq!(output.verdict, RuleVerdict::Regressed);
    assert!((output.theta.unwrap() - 1.03f64.ln()).abs() < 1e-12);
    // 0.01 and 0.05: z = 1.5.
    assert_eq!(
        judge_repeated("tango", "ttft_s", &[1.0, 1.0], &[1.01, 1.05]).verdict,
        RuleVerdict::Pass
    );
    // Certain, and below 1 %.
    assert_eq!(
        judge_repeated("tango", "ttft_s", &[1.0, 1.0], &[1.009, 1.009]).verdict,
        RuleVerdict::Pass
    );
}
