//! Error rates and power on simulated machines with normal variation between processes and
//! sessions.

use super::*;
use crate::stats::Random;

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
                    Verdict::Undecided(_) => undecided += 1,
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

/// Blocks at each planned look: one process as it came, and after 2, 4, 8, 16 and 32 further ones.
const BLOCKS: [usize; PLANNED_LOOKS] = [1, 3, 5, 9, 17, 33];

/// Much variance between processes and none between sessions: each look has its own chance of
/// error.
const NOISY_PROCESSES: Host = Host {
    scenarios: 1,
    process: 0.05,
    session: 0.0,
    base: (3, 3),
    current: (1, 33),
    shared: true,
};

/// 5 % for each of the three metrics, so that a few hundred runs show the effect of repeated looks.
const ALPHA: f64 = 0.15;

/// The share of unchanged runs in which some metric is significantly slower at some look, with
/// levels corrected for this many looks.
fn alarms(looks: usize, runs: usize) -> f64 {
    let policy = Policy { looks, alpha: ALPHA, ..Policy::default() };
    let mut random = Random::new(20_260_702);
    let mut alarms = 0;
    for _ in 0..runs {
        let base = NOISY_PROCESSES.measure(&mut random, NOISY_PROCESSES.base, 0.0);
        let whole = NOISY_PROCESSES.measure(&mut random, NOISY_PROCESSES.current, 0.0);
        let is_slower = |blocks: &usize| {
            let mut run = whole.clone();
            run.scenarios.iter_mut().for_each(|case| case.blocks.truncate(*blocks));
            judge(&base, &run, &policy).findings.iter().any(|finding| {
                let evidence = finding.change.as_ref().and_then(|change| change.evidence);
                evidence.is_some_and(|evidence| evidence.ci_familywise.lo > 0.0)
            })
        };
        alarms += usize::from(BLOCKS.iter().any(is_slower));
    }
    alarms as f64 / runs as f64
}

#[test]
fn repeated_looks_keep_the_level_if_all_are_corrected_for() {
    let level = ALPHA * 2.0 / 3.0; // Memory does not vary.
    let (corrected, uncorrected) = (alarms(PLANNED_LOOKS, 400), alarms(1, 400));
    assert!(corrected <= level, "{corrected} of unchanged runs look slower");
    assert!(uncorrected > level, "{uncorrected}: the correction is needed");
}
