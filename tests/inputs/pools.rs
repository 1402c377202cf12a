//! Pools of simulated machines: normal block effects with outliers, as in `gate.md`, section 8.

use candlemark::record::pair::Round;
use candlemark::record::pool::{
    NoiseLevel, Pool, PoolBlock, PoolCase, PoolEnvironment, PoolKind, PoolTurns,
};
use candlemark::record::{Build, Machine, Model, Settings, Work, pool};
use candlemark::stats::Random;

/// A simulated machine, with standard deviations of ln cost.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub name: &'static str,
    pub column: NoiseLevel,
    /// Of a block effect, which has two processes.
    pub process: f64,
    /// Share of blocks with an outlier of the other arm, and its size.
    pub outliers: (f64, f64),
    /// Of one turn.
    pub turn: f64,
    /// Of another code layout; constant per scenario.
    pub layout: f64,
    /// How much slower every turn is than the one before.
    pub drift: f64,
    /// Share of rejected blocks, whose turns are far off.
    pub rejected: f64,
}

pub const NOISELESS: Host = Host {
    name: "noiseless",
    column: NoiseLevel::Quiet,
    process: 0.0,
    outliers: (0.0, 0.0),
    turn: 0.0,
    layout: 0.0,
    drift: 0.0,
    rejected: 0.0,
};
pub const QUIET: Host = Host { name: "quiet", process: 0.008, ..NOISELESS };
pub const TYPICAL: Host = Host {
    name: "typical",
    column: NoiseLevel::Typical,
    process: 0.02,
    outliers: (0.05, 0.08),
    ..NOISELESS
};
pub const BAD: Host = Host {
    name: "bad",
    column: NoiseLevel::Hostile,
    process: 0.05,
    outliers: (0.10, 0.20),
    ..NOISELESS
};

#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub scenarios: usize,
    pub blocks: usize,
    pub rounds: usize,
}

/// The letters of all arms besides the base.
pub const ALL: &str = "NL357TXFM";

/// A pool of these hosts with the base and the arms of these letters.
pub fn pool(hosts: &[Host], size: Size, letters: &str) -> Pool {
    const IDS: [&str; 4] = ["short/b1", "code/b1", "long/b1", "medium/b1"];
    let mut random = Random::new(20_260_701);
    let mut pool = Pool {
        schema: pool::SCHEMA,
        kind: PoolKind::Pool,
        started: "2026-07-01T00:00:00Z".into(),
        seed: 20_260_701,
        machine: Machine { class: "simulated-2cpu-00000000".into(), ..Machine::default() },
        build: Build { version: "0.1.0".into(), ..Build::default() },
        model: Model { spec: "synthetic:tiny".into(), ..Model::default() },
        settings: Settings::default(),
        duet: false,
        arms: pool::arms(),
        scenarios: Vec::new(),
        environments: Vec::new(),
    };
    pool.arms.retain(|arm| arm.letter == 'A' || letters.contains(arm.letter));
    for id in &IDS[..size.scenarios] {
        let work = Work { batch: 1, new_tokens: 10, ..Work::default() };
        pool.scenarios.push(PoolCase { id: (*id).into(), work });
    }
    for host in hosts {
        let environment = environment(&pool, host, size, &mut random);
        pool.environments.push(environment);
    }
    pool
}

fn environment(pool: &Pool, host: &Host, size: Size, random: &mut Random) -> PoolEnvironment {
    let layouts: Vec<f64> = (0..3 * size.scenarios).map(|_| random.normal()).collect();
    let blocks = (0..size.blocks)
        .map(|_| {
            let rejected = random.uniform() < host.rejected;
            let turns = |at: usize| {
                turns(pool, host, size.rounds, &layouts[3 * at..3 * at + 3], rejected, random)
            };
            PoolBlock {
                load_s: 0.1 * pool.arms.len() as f64,
                steal: Some(0.0),
                references: None,
                rejected: rejected.then(|| "steal of 9.0 %".to_owned()),
                scenarios: (0..size.scenarios).map(turns).collect(),
            }
        })
        .collect();
    let (name, column, about) = (host.name.into(), host.column, "simulated".into());
    PoolEnvironment { name, noise: column, about, started: None, ended: None, blocks }
}

fn turns(
    pool: &Pool,
    host: &Host,
    rounds: usize,
    layouts: &[f64],
    rejected: bool,
    random: &mut Random,
) -> PoolTurns {
    const KINDS: [&str; 3] = ["decode", "ttft", "memory"];
    // Each arm's own process: two of them differ by `process`.
    let offsets: Vec<[f64; 3]> = pool
        .arms
        .iter()
        .map(|arm| {
            std::array::from_fn(|kind| {
                let (share, size) = host.outliers;
                let outlier = arm.letter != 'A' && random.uniform() < share;
                let own = match outlier {
                    // Without the base's share of the variance.
                    true => (size * size - host.process * host.process / 2.0).sqrt(),
                    false => host.process / 2f64.sqrt(),
                };
                let layout = if arm.letter == 'L' { host.layout * layouts[kind] } else { 0.0 };
                let far = if rejected { 0.3 * random.normal() } else { 0.0 };
                arm.role.theta(KINDS[kind]) + own * random.normal() + layout + far
            })
        })
        .collect();
    let round = |random: &mut Random| {
        let mut forth: Vec<usize> = (0..pool.arms.len()).collect();
        for last in (1..forth.len()).rev() {
            forth.swap(last, random.below(last + 1));
        }
        let order: Vec<usize> = forth.iter().chain(forth.iter().rev()).copied().collect();
        let mut values = |kind: usize| -> Vec<f64> {
            let cost = |(turn, arm): (usize, &usize)| {
                offsets[*arm][kind] + host.turn * random.normal() + host.drift * turn as f64
            };
            order.iter().enumerate().map(cost).collect()
        };
        let rate = values(0).into_iter().map(|cost| 80.0 / cost.exp()).collect();
        let ttft = values(1).into_iter().map(|cost| 0.05 * cost.exp()).collect();
        Round {
            order: order.iter().map(|arm| pool.arms[*arm].letter).collect(),
            values: [("decode_tok_s".into(), rate), ("ttft_s".into(), ttft)].into(),
        }
    };
    let rounds: Vec<Round> = (0..rounds).map(|_| round(random)).collect();
    let memory = pool.arms.iter().zip(&offsets);
    let memory = memory.map(|(arm, offset)| (arm.letter, 3e8 * offset[2].exp())).collect();
    PoolTurns {
        warm_up_s: 0.2 * pool.arms.len() as f64,
        turns_s: 0.5 * (pool.arms.len() * rounds.len()) as f64,
        rounds,
        once: [("peak_rss_bytes".into(), memory)].into(),
    }
}

/// The pool of the command-line tests: a quiet machine, and one of typical noise under a load.
pub fn two_machines() -> Pool {
    let layout = 0.004;
    let quiet = Host { name: "quiet", turn: 0.01, layout, ..QUIET };
    let loaded = Host { name: "cpu-hog", turn: 0.02, layout, rejected: 0.06, ..TYPICAL };
    pool(&[quiet, loaded], Size { scenarios: 1, blocks: 36, rounds: 2 }, ALL)
}
