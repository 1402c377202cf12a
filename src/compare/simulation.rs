//! Error rates and power on simulated machines with normal variation between processes and
//! sessions.

use super::tests::{case, record};
use super::*;
use crate::stats::Random;

mod looks;

/// A normal number as the sum of twelve uniform ones.
fn normal(random: &mut Random) -> f64 {
    (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0
}

/// A machine: standard deviations between processes and sessions, and how many of each are
/// measured.
#[derive(Clone, Copy)]
struct Host {
    scenarios: usize,
    process: f64,
    session: f64,
    base: (usize, usize),
    current: (usize, usize),
    /// Whether a session is slow in every scenario at once.
    shared: bool,
}

impl Host {
    fn measure(self, random: &mut Random, (sessions, blocks): (usize, usize), drop: f64) -> Record {
        let offsets: Vec<f64> = (0..sessions).map(|_| normal(random)).collect();
        let mut series = |centre: f64| -> Vec<Vec<f64>> {
            let session = |offset: &f64| {
                let offset = if self.shared { *offset } else { normal(random) };
                let block =
                    |random: &mut Random| offset * self.session + normal(random) * self.process;
                (0..blocks).map(|_| centre * block(random).exp()).collect()
            };
            offsets.iter().map(session).collect()
        };
        fn slices(sessions: &[Vec<f64>]) -> Vec<&[f64]> {
            sessions.iter().map(Vec::as_slice).collect()
        }
        let mut record = record(&[]);
        for i in 0..self.scenarios {
            let decode = series(100.0 * (1.0 - drop));
            let (ttft, memory) = (series(0.05), vec![vec![1e9; blocks]; sessions]);
            record.scenarios.push(case(
                &format!("s{i}/b1"),
                &[
                    ("decode_tok_s", &slices(&decode)),
                    ("ttft_s", &slices(&ttft)),
                    ("peak_rss_bytes", &slices(&memory)),
                ],
            ));
        }
        record
    }

    /// Shares of decode metrics that regressed, passed and were undecided, and of runs with a
    /// regression.
    fn rates(self, drop: f64, runs: usize) -> [f64; 4] {
        let mut random = Random::new(20_260_701);
        let (mut regressed, mut passed, mut undecided, mut alarms, mut all) = (0, 0, 0, 0, 0);
        for _ in 0..runs {
            let base = self.measure(&mut random, self.base, 0.0);
            let now = self.measure(&mut random, self.current, drop);
            let judgement = judge(&base, &now, &Policy::default());
            alarms += usize::from(judgement.outcome == Outcome::Regression);
            for finding in
                judgement.findings.iter().filter(|f| f.metric.unwrap().name == "decode_tok_s")
            {
                all += 1;
                match finding.verdict {
                    Verdict::Regressed { .. } => regressed += 1,
                    Verdict::Inconclusive(_) => undecided += 1,
                    _ => passed += 1,
                }
            }
        }
        let share = |count: usize| count as f64 / all as f64;
        [share(regressed), share(passed), share(undecided), alarms as f64 / runs as f64]
    }
}

const QUIET: Host = Host {
    scenarios: 20,
    process: 0.015,
    session: 0.01,
    base: (3, 3),
    current: (1, 3),
    shared: true,
};

#[test]
fn a_quarter_slower_is_detected_and_unchanged_is_never_a_regression() {
    let [regressed, _, _, runs] = QUIET.rates(0.25, 60);
    assert!(regressed > 0.95 && runs == 1.0, "{regressed} of metrics, {runs} of runs");
    let [regressed, _, _, runs] = QUIET.rates(0.0, 100);
    assert!(regressed == 0.0 && runs == 0.0, "{regressed} of metrics, {runs} of runs");
}

#[test]
fn more_sessions_detect_smaller_changes() {
    let host = Host { base: (8, 3), current: (2, 4), ..QUIET };
    let [regressed, passed, ..] = host.rates(0.10, 30);
    assert!(regressed > 0.9 && passed == 0.0, "{regressed}, {passed}");
}

#[test]
fn a_machine_that_is_slow_today_rarely_raises_an_alarm() {
    // Little variance between processes, much between sessions, and only three of them to estimate
    // it from: the worst case for the gate.
    let host = Host { process: 0.005, session: 0.03, ..QUIET };
    let [.., alarms] = host.rates(0.0, 200);
    assert!(alarms <= 0.05, "{alarms} of unchanged runs");
}

/// Prints power and false alarm rates for slowdowns of decode.
#[test]
#[ignore = "a table for people"]
#[expect(clippy::print_stdout, reason = "it is the point")]
fn operating_characteristics() {
    let noises = [(0.01, 0.005), (0.015, 0.01), (0.005, 0.03), (0.03, 0.03)];
    let plans = [
        ((3, 3), (1, 1)),
        ((3, 3), (1, 3)),
        ((5, 3), (1, 3)),
        ((8, 3), (1, 3)),
        ((8, 3), (2, 4)),
        ((8, 1), (1, 1)),
    ];
    println!("process session | base now | drop: regressed passed undecided, runs with an alarm");
    for (process, session) in noises {
        for (base, current) in plans {
            let host = Host { process, session, base, current, ..QUIET };
            for drop in [0.0, 0.05, 0.075, 0.10, 0.15, 0.25] {
                let [regressed, passed, undecided, alarms] = host.rates(drop, 400);
                println!(
                    "{:3.1} {:3.1} | {base:?} {current:?} | {:4.1}: {regressed:.3} {passed:.3} \
                     {undecided:.3}, {alarms:.3}",
                    100.0 * process,
                    100.0 * session,
                    100.0 * drop
                );
            }
        }
    }
}
