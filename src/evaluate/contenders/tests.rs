//! Every contender on values that can be followed by hand.

use super::*;
use crate::workload::metric;

fn pairing(base: &[f64], other: &[f64]) -> Pairing {
    let value = (median(other) / median(base)).ln();
    let (base, other) = (base.to_vec(), other.to_vec());
    Pairing { value, first: value, rounds: vec![value], base, other, rejected: false }
}

/// What a rule says of the same turns in each of 32 blocks.
fn said(rule: fn(&View) -> Answer, name: &str, base: &[f64], other: &[f64]) -> Answer {
    let one = pairing(base, other);
    rule(&View { blocks: vec![&one; 32], metric: metric(name).unwrap() })
}

/// Block after block, with one turn each.
fn over(rule: fn(&View) -> Answer, name: &str, base: &[f64], other: &[f64]) -> Answer {
    let blocks: Vec<Pairing> =
        base.iter().zip(other).map(|(base, other)| pairing(&[*base], &[*other])).collect();
    let metric = metric(name).unwrap();
    rule(&View { blocks: blocks.iter().collect(), metric })
}

#[test]
fn single_comparisons_have_the_limits_that_they_are_named_after() {
    use Said::{Pass, Regressed};
    type Case = (fn(&View) -> Answer, &'static str, f64, Said);
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
        let answer = said(rule, name, &[2.0], &[2.0 * ratio]);
        assert_eq!((answer.said, answer.blocks), (expected, 1), "{name} {ratio}");
        assert!((answer.theta.unwrap() - ratio.ln()).abs() < 1e-12);
    }
    // The median does not see one slow turn, the mean does.
    let (base, slow) = ([1.0; 5], [1.0, 1.0, 1.0, 1.0, 1.5]);
    assert_eq!(said(github_105, "ttft_s", &base, &slow).said, Pass);
    assert_eq!(said(critcmp, "ttft_s", &base, &slow).said, Regressed);
}

#[test]
fn criterion_asks_for_an_interval_beyond_its_threshold() {
    let base = [0.99, 1.0, 1.01, 1.0, 0.995, 1.005];
    let times = |factor: f64| base.map(|value| value * factor);
    for (factor, plain, margin) in [
        (1.0, Said::Pass, Said::Pass),
        (1.012, Said::Pass, Said::Pass),
        (1.03, Said::Regressed, Said::Pass),
        (1.08, Said::Regressed, Said::Regressed),
        (0.9, Said::Pass, Said::Pass),
    ] {
        let other = times(factor);
        assert_eq!(said(criterion, "decode_tok_s", &base, &other).said, plain, "{factor}");
        assert_eq!(said(criterion_margin, "decode_tok_s", &base, &other).said, margin, "{factor}");
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
    for (factor, plain, margin) in [
        (1.0, Said::Pass, Said::Pass),
        (1.002, Said::Pass, Said::Pass),
        (1.01, Said::Regressed, Said::Pass),
        (1.06, Said::Regressed, Said::Regressed),
        (0.9, Said::Pass, Said::Pass),
    ] {
        let answer = over(mann_whitney, "decode_tok_s", &base, &times(factor));
        assert_eq!((answer.said, answer.blocks), (plain, 10), "{factor}");
        let answer = over(mann_whitney_margin, "decode_tok_s", &base, &times(factor));
        assert_eq!(answer.said, margin, "{factor}");
    }
}

#[test]
fn tango_counts_standard_errors_of_paired_turns() {
    // Differences 0.02 and 0.04: mean 0.03, standard error 0.01, z = 3.
    let answer = said(tango, "ttft_s", &[1.0, 1.0], &[1.02, 1.04]);
    assert_eq!(answer.said, Said::Regressed);
    assert!((answer.theta.unwrap() - 1.03f64.ln()).abs() < 1e-12);
    // 0.01 and 0.05: z = 1.5.
    assert_eq!(said(tango, "ttft_s", &[1.0, 1.0], &[1.01, 1.05]).said, Said::Pass);
    // Certain, and below 1 %.
    assert_eq!(said(tango, "ttft_s", &[1.0, 1.0], &[1.009, 1.009]).said, Said::Pass);
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
        over(perfgate_margin, "decode_tok_s", &base, &even(0.02, 0.10)).said,
        Said::Regressed
    );
    assert_eq!(over(perfgate, "decode_tok_s", &base, &even(0.02, 0.10)).said, Said::Pass);
    assert_eq!(over(perfgate, "decode_tok_s", &base, &even(0.20, 0.22)).said, Said::Regressed);
    // Mean 0.06 and error 0.0316: 1.9 of them.
    assert_eq!(over(perfgate_margin, "decode_tok_s", &base, &even(-0.04, 0.16)).said, Said::Pass);
}
