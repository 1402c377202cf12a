//! Pairs. Every number is pseudorandom and rounded, so that the files are small and the same
//! everywhere.

use std::collections::BTreeMap;

use candlemark::record::calibration::SdEstimate;
use candlemark::record::pair::{
    Arm, Divergence, Ended, PairBlock, PairCase, PairKind, PairRecord, PairTurns, Round, SCHEMA,
    Side,
};
use candlemark::record::{Absence, AbsenceKind, Work};
use candlemark::stats::Random;

use super::records;

/// The effect of the candidate, and the noise of the machine.
#[derive(Clone, Copy)]
pub struct Effect {
    /// Relative loss of the decode rate.
    pub decode: f64,
    /// Relative increase of TTFT.
    pub ttft: f64,
    /// Relative increase of peak memory.
    pub memory: f64,
    /// Largest relative deviation of a turn.
    pub noise: f64,
    /// Relative slowdown of the null control, which only the machine can cause.
    pub null: f64,
}

pub const SAME: Effect = Effect { decode: 0.0, ttft: 0.0, memory: 0.0, noise: 0.01, null: 0.0 };

/// Numbers in -1..1.
struct Noise(Random);

impl Noise {
    fn next(&mut self) -> f64 {
        2.0 * self.0.uniform() - 1.0
    }

    /// A value with the deviations of its block and its turn, with four digits.
    fn value(&mut self, centre: f64, block_noise: f64, noise: f64) -> f64 {
        let value = centre * (1.0 + noise * (block_noise + self.next()) / 2.0);
        let digits = 10f64.powf(3.0 - value.log10().floor());
        (value * digits).round() / digits
    }
}

/// A scenario whose arms differ by the effect.
pub fn case(id: &str, batch: usize, blocks: usize, effect: Effect) -> PairCase {
    let mut noise = Noise(Random::new(id.bytes().map(u64::from).sum()));
    let work = Work {
        batch,
        prompt_tokens: vec![64; batch],
        new_tokens: 32,
        prompts_sha256: "ab".repeat(32),
        stop: "length".into(),
        ..Work::default()
    };
    let side = || Side {
        work: Some(work.clone()),
        output_sha256: Some("cd".repeat(32)),
        ..Side::default()
    };
    let (decode, rate) =
        if batch == 1 { ("decode_tok_s", 40.0) } else { ("decode_tok_s_aggregate", 90.0) };
    // The null control takes part in scenarios of batch 1.
    let orders = if batch == 1 { ["ANBBNA", "BNAANB"] } else { ["ABBA", "BAAB"] };
    let blocks = (0..blocks).map(|block| {
        let moods = [noise.next(), noise.next(), noise.next()];
        let mut turn = |letter: char, centre: f64, factor: f64| {
            let (block_noise, factor) = match letter {
                'A' => (moods[0], 1.0),
                'B' => (moods[1], factor),
                _ => (moods[2], 1.0 + effect.null * (factor - 1.0).signum()),
            };
            noise.value(centre * factor, block_noise, effect.noise)
        };
        let rounds = orders.map(|order| {
            let mut values = BTreeMap::new();
            for (metric, centre, factor, sign) in [
                (decode, rate, 1.0 - effect.decode, -1.0),
                ("ttft_s", 0.25 * batch as f64, 1.0 + effect.ttft, 1.0),
            ] {
                let value = |letter: char| match letter {
                    'N' => turn('N', centre, 1.0 + sign),
                    letter => turn(letter, centre, factor),
                };
                values.insert(metric.to_owned(), order.chars().map(value).collect());
            }
            Round { order: order.into(), values }
        });
        let peak = ['A', 'B'].map(|letter| {
            let factor = if letter == 'B' { 1.0 + effect.memory } else { 1.0 };
            (letter, (3.0e8 * factor + 4096.0 * (noise.next() * 100.0).round()).round())
        });
        PairTurns {
            block,
            rounds: rounds.into(),
            once: [("peak_rss_bytes".to_owned(), peak.into())].into(),
            ..PairTurns::default()
        }
    });
    PairCase {
        id: id.into(),
        base: side(),
        candidate: side(),
        divergence: None,
        blocks: blocks.collect(),
    }
}

/// A pair with this number of blocks.
pub fn pair(blocks: usize, cases: Vec<PairCase>) -> PairRecord {
    let run = records::run(4);
    let mut session = run.sessions[0].clone();
    session.command = ["candlemark", "pair", "--base", "main"].map(String::from).into();
    session.harness = "pair".into();
    let arm = |asked: &str, commit: &str, hash: &str| {
        let mut build = run.build.clone();
        build.commit = Some(commit.into());
        build.binary_sha256 = Some(hash.repeat(32));
        let (model, settings) = (run.model.clone(), run.settings.clone());
        Arm { asked: asked.into(), build, model, settings, ..Arm::default() }
    };
    let block = |at: usize| PairBlock {
        load_s: 1.5,
        warm_up_s: 2.0,
        turns_s: 10.0,
        total_s: 14.0,
        started: if at.is_multiple_of(2) { "ABN" } else { "BAN" }.into(),
        steal: Some(0.002),
        cpu_pressure_10s: Some(0.01),
        references: None,
        rejected: None,
    };
    PairRecord {
        schema: SCHEMA,
        kind: PairKind::Pair,
        session,
        seed: 42,
        machine: run.machine.clone(),
        base: arm("main", "0123456789abcdef0123456789abcdef01234567", "1a"),
        candidate: arm("HEAD", "fedcba9876543210fedcba9876543210fedcba98", "2b"),
        duet: false,
        output_change: None,
        layout: BTreeMap::new(),
        kernels: None,
        ended: Ended::Decided,
        blocks: (0..blocks).map(block).collect(),
        scenarios: cases,
    }
}

/// Two scenarios, the first with the effect.
fn two_scenarios(blocks: usize, effect: Effect) -> PairRecord {
    let cases = vec![case("code/b1", 1, blocks, effect), case("long/b4", 4, blocks, SAME)];
    pair(blocks, cases)
}

fn changed(blocks: usize, effect: Effect, change: impl FnOnce(&mut PairRecord)) -> PairRecord {
    let mut paired = two_scenarios(blocks, effect);
    change(&mut paired);
    paired
}

/// Rejects a block and makes its candidate slow.
fn reject(paired: &mut PairRecord, block: usize) {
    let why = "a reference kernel moved by 22 %";
    paired.blocks[block].rejected = Some(why.into());
    for round in &mut paired.scenarios[0].blocks[block].rounds {
        let values = round.values.get_mut("decode_tok_s").unwrap();
        for (letter, value) in round.order.chars().zip(values) {
            *value *= if letter == 'B' { 0.5 } else { 1.0 };
        }
    }
}

/// Every pair by file name.
pub fn all() -> Vec<(&'static str, PairRecord)> {
    let slow = Effect { decode: 0.08, ..SAME };
    vec![
        ("pass", two_scenarios(8, SAME)),
        ("improved", two_scenarios(8, Effect { decode: -0.1, ..SAME })),
        ("regressed", two_scenarios(8, slow)),
        ("critical", two_scenarios(8, Effect { decode: 0.2, ..SAME })),
        ("memory", two_scenarios(8, Effect { memory: 0.25, ..SAME })),
        (
            "borderline",
            changed(32, Effect { decode: 0.048, ..SAME }, |paired| paired.ended = Ended::Looks),
        ),
        (
            "noisy",
            changed(12, Effect { decode: 0.03, noise: 0.3, ..SAME }, |paired| {
                paired.ended = Ended::Budget;
            }),
        ),
        ("few", changed(3, slow, |paired| paired.ended = Ended::Budget)),
        (
            "nothing",
            changed(0, SAME, |paired| {
                paired.ended = Ended::Budget;
                for case in &mut paired.scenarios {
                    (case.base, case.candidate) = (Side::default(), Side::default());
                }
            }),
        ),
        (
            "identical",
            changed(0, SAME, |paired| {
                paired.ended = Ended::Identical;
                paired.candidate.build.binary_sha256 = paired.base.build.binary_sha256.clone();
            }),
        ),
        (
            "output-changed",
            changed(8, SAME, |paired| {
                let case = &mut paired.scenarios[1];
                case.candidate.output_sha256 = Some("ef".repeat(32));
                let (base, candidate) = (Some(1044), Some(77));
                case.divergence = Some(Divergence { sequence: 2, token: 11, base, candidate });
            }),
        ),
        (
            "contaminated",
            changed(8, Effect { decode: 0.07, null: 0.03, ..SAME }, |paired| {
                paired.ended = Ended::Budget;
            }),
        ),
        (
            "rejected",
            changed(9, SAME, |paired| {
                reject(paired, 4);
                paired.blocks[4].steal = Some(0.11);
            }),
        ),
        (
            "rejected-decide",
            changed(16, SAME, |paired| {
                (0..8).for_each(|block| reject(paired, block));
                paired.ended = Ended::Budget;
            }),
        ),
        (
            "new-and-missing",
            changed(8, SAME, |paired| {
                for (id, from) in [("short/b8", "base"), ("short/b16", "candidate")] {
                    let mut case = case(id, 8, 0, SAME);
                    let side = if from == "base" { &mut case.base } else { &mut case.candidate };
                    let unknown =
                        Absence::new(AbsenceKind::Unknown, "the build has no such scenario");
                    *side = Side { absent: Some(unknown), ..Side::default() };
                    paired.scenarios.push(case);
                }
            }),
        ),
        (
            "failed",
            changed(8, slow, |paired| {
                let why = "the worker was killed by signal 9";
                paired.scenarios[1].candidate.absent = Some(Absence::new(AbsenceKind::Failed, why));
                paired.ended =
                    Ended::Failed("the candidate's worker was killed by signal 9".into());
            }),
        ),
        (
            "no-value",
            changed(8, SAME, |paired| {
                let case = &mut paired.scenarios[0];
                let why = "a turn did not report it".to_owned();
                case.candidate.no_value = [("decode_tok_s".to_owned(), why)].into();
                for round in case.blocks.iter_mut().flat_map(|turns| &mut turns.rounds) {
                    round.values.get_mut("decode_tok_s").unwrap().truncate(4);
                }
            }),
        ),
        (
            "out-of-time",
            changed(8, SAME, |paired| {
                paired.scenarios[1] = PairCase { id: "long/b4".into(), ..PairCase::default() };
                paired.ended = Ended::Budget;
            }),
        ),
        (
            "interrupted",
            changed(8, SAME, |paired| {
                paired.scenarios[1] = PairCase { id: "long/b4".into(), ..PairCase::default() };
                paired.ended = Ended::Interrupted;
            }),
        ),
        (
            "injected",
            changed(8, slow, |paired| {
                paired.candidate.injected = Some("decode:0.08".into());
                paired.candidate.build.dirty = Some(true);
            }),
        ),
        (
            "hostile",
            changed(8, slow, |paired| {
                let text = "a|b <script>alert(1)</script>\n::error::x \u{1b}[31m `y` @all \u{202e}";
                paired.base.asked = text.into();
                paired.candidate.build.rustc = text.into();
                paired.machine.class = text.into();
                paired.session.command.push(text.into());
                paired.scenarios[0].id = text.into();
                paired.blocks[0].started = text.into();
            }),
        ),
        (
            "analysed",
            changed(23, Effect { decode: 0.042, ttft: 0.02, noise: 0.08, ..SAME }, |paired| {
                // Variances are moderated from three metrics of a kind on.
                let noisy = Effect { decode: 0.01, noise: 0.05, ..SAME };
                paired.scenarios.push(case("short/b1", 1, 23, noisy));
                reject(paired, 5);
                // From three rounds on the block effect is their median.
                for turns in &mut paired.scenarios[1].blocks {
                    let (order, values) = (&turns.rounds[0].order, &turns.rounds[1].values);
                    turns.rounds.push(Round { order: order.clone(), values: values.clone() });
                }
                let spread = SdEstimate { sd: 0.0021, freedom: 3.0 };
                paired.layout = [("decode".to_owned(), spread)].into();
                paired.ended = Ended::Open;
            }),
        ),
    ]
}
