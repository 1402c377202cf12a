//! The stored form of a pool: raw blocks of many arms with known effects, measured once, on which
//! any detection rule can be replayed. `candlemark gate-eval record` writes it, `gate-eval replay`
//! reads it. Knows no rule and no verdict.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::record::pair::{PairTurns, Round};
use crate::record::{Build, KernelTimes, Machine, Model, Settings, Work, json};

mod check;

/// Version of the format; incremented when an older reader would misread a newer file.
pub const SCHEMA: u32 = 1;

/// Raw blocks of one model on one machine, under several kinds of interference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Tells this file from a record.
    pub kind: PoolKind,
    /// UTC, RFC 3339.
    pub started: String,
    /// Seed of all random orders.
    pub seed: u64,
    /// Where it was measured.
    pub machine: Machine,
    /// The tool and how it was built.
    pub build: Build,
    /// What was run.
    pub model: Model,
    /// How it was run.
    pub settings: Settings,
    /// Duet: whether the base and another arm ran at the same time, each on half of the CPUs,
    /// instead of one after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duet: bool,
    /// The arms; the first is the base, `A`.
    pub arms: Vec<PoolArm>,
    /// The scenarios, in the order in which every block lists them.
    pub scenarios: Vec<PoolCase>,
    /// The blocks, by the interference beside them.
    pub environments: Vec<PoolEnvironment>,
}

/// The one kind of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// A pool of blocks.
    Pool,
}

/// An arm: one of the programs that were measured in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolArm {
    /// Its letter in [`Round::order`] and in [`PairTurns::once`].
    pub letter: char,
    /// What it is.
    pub about: String,
    /// Its true effect, compared with the base.
    pub role: Role,
    /// The slowdown on purpose, as `CANDLEMARK_INJECT` gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
}

/// The true effect of an arm, compared with the base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The base.
    Base,
    /// The same binary under another path.
    Copy,
    /// The same source with another code layout.
    Layout,
    /// Decoding is slower: tokens per second fall by this share, so that θ = -ln(1 - share).
    Decode(f64),
    /// The time to first token rises by this share, so that θ = ln(1 + share).
    Ttft(f64),
    /// Peak memory rises by this share, so that θ = ln(1 + share).
    Memory(f64),
}

impl Role {
    /// The true ln(cost of the arm / cost of the base) of a kind of metric
    /// ([`crate::workload::Metric::kind`]). An arm that is slower in one kind is equal in the
    /// others.
    pub fn theta(self, kind: &str) -> f64 {
        match self {
            Role::Decode(share) if kind == "decode" => -(-share).ln_1p(),
            Role::Ttft(share) if kind == "ttft" => share.ln_1p(),
            Role::Memory(share) if kind == "memory" => share.ln_1p(),
            _ => 0.0,
        }
    }
}

/// The arms of a full pool: letter, role, and what it is.
const ARMS: &[(char, Role, &str)] = &[
    ('A', Role::Base, "base"),
    ('N', Role::Copy, "the base's binary under another path"),
    ('L', Role::Layout, "the base's source with another code layout"),
    ('3', Role::Decode(0.03), "decode 3 % down"),
    ('5', Role::Decode(0.05), "decode 5 % down"),
    ('7', Role::Decode(0.075), "decode 7.5 % down"),
    ('T', Role::Decode(0.10), "decode 10 % down"),
    ('X', Role::Decode(0.20), "decode 20 % down"),
    ('F', Role::Ttft(0.20), "time to first token 20 % up"),
    ('M', Role::Memory(0.20), "peak memory 20 % up"),
];

/// The arms of a full pool, without their injections, which the caller fills in.
pub fn arms() -> Vec<PoolArm> {
    let arm = |(letter, role, about): &(char, Role, &str)| PoolArm {
        letter: *letter,
        about: (*about).into(),
        role: *role,
        injected: None,
    };
    ARMS.iter().map(arm).collect()
}

/// A scenario of the pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCase {
    /// The scenario's id.
    pub id: String,
    /// The exact work, which decides which metrics are gated.
    pub work: Work,
}

/// Blocks that were measured one after another under one kind of interference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolEnvironment {
    /// Its name: `quiet`, `cpu-hog`, `bandwidth-hog`, `drift`, `step`.
    pub name: String,
    /// How noisy it makes the machine.
    #[serde(rename = "column")]
    pub noise: NoiseLevel,
    /// The interference beside the blocks.
    pub about: String,
    /// UTC, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// UTC, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// In the order measured, rejected ones among them.
    pub blocks: Vec<PoolBlock>,
}

/// How noisy a machine is; the targets of the gate differ between the levels.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NoiseLevel {
    /// Nothing else runs.
    Quiet,
    /// Usual interference of a shared host.
    Typical,
    /// Neighbours that use all they can.
    Hostile,
}

impl NoiseLevel {
    /// All levels, quietest first.
    pub const ALL: [NoiseLevel; 3] = [NoiseLevel::Quiet, NoiseLevel::Typical, NoiseLevel::Hostile];

    /// As it is written in files.
    pub fn name(self) -> &'static str {
        match self {
            NoiseLevel::Quiet => "quiet",
            NoiseLevel::Typical => "typical",
            NoiseLevel::Hostile => "hostile",
        }
    }
}

/// A block: one fresh process per arm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolBlock {
    /// Starting the processes of all arms and loading the model, in seconds.
    pub load_s: f64,
    /// Share of CPU time that the hypervisor stole during the block; `null` where the system does
    /// not report it.
    pub steal: Option<f64>,
    /// Seconds of each reference kernel before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<[KernelTimes; 2]>,
    /// Why the block does not count, by a rule that was fixed in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// One per scenario, in the pool's order.
    pub scenarios: Vec<PoolTurns>,
}

/// The turns of one scenario in one block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolTurns {
    /// Warm-ups of all arms, in seconds.
    pub warm_up_s: f64,
    /// All turns of all arms, in seconds.
    pub turns_s: f64,
    /// The rounds of counterbalanced turns; every order is a palindrome. An arm that is only
    /// measured once per process may have none.
    #[serde(rename = "quads")]
    pub rounds: Vec<Round>,
    /// What is measured once per process, by metric name and letter of the arm: peak memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub once: BTreeMap<String, BTreeMap<char, f64>>,
}

impl PoolTurns {
    /// The same turns as those of a pair, in the block of this index.
    pub fn paired(&self, block: usize) -> PairTurns {
        PairTurns {
            block,
            rounds: self.rounds.clone(),
            once: self.once.clone(),
            ..PairTurns::default()
        }
    }
}

impl Pool {
    /// Reads a pool and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a pool, has a schema that this build does not
    /// know, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&files::read(path)?, path)
    }

    /// [`Pool::load`] of text that was read from `path`.
    ///
    /// # Errors
    /// As of [`Pool::load`], but for reading.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let form = json::Form {
            schema: SCHEMA,
            kinds: &["pool"],
            about: "a pool is what `candlemark gate-eval record` writes",
            remedy: "record another one",
            upgrade: |_| {},
        };
        form.parse(text, path, Self::check)
    }

    /// Writes the pool atomically, one line per block, values with six significant digits.
    ///
    /// # Errors
    /// When it contradicts itself, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.check().map_err(|why| Error::Invalid { path: path.into(), why })?;
        files::write(path, self.to_json().as_bytes())
    }

    /// The arm of this letter, if there is one.
    pub fn arm(&self, letter: char) -> Option<&PoolArm> {
        self.arms.iter().find(|arm| arm.letter == letter)
    }

    fn to_json(&self) -> String {
        let serde_json::Value::Object(mut fields) =
            serde_json::to_value(self).expect("a pool is plain data")
        else {
            unreachable!("a struct is an object")
        };
        fields.remove("environments");
        let mut text = String::from("{\n");
        for (key, value) in &fields {
            text += &format!("  \"{key}\": {value},\n");
        }
        let environments: Vec<String> =
            self.environments.iter().map(PoolEnvironment::to_json).collect();
        text + &format!("  \"environments\": [\n{}\n  ]\n}}\n", environments.join(",\n"))
    }
}

impl PoolEnvironment {
    /// One line per field and one per block, as an item of a list.
    fn to_json(&self) -> String {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let (name, about) = (text(&self.name), text(&self.about));
        let noise = text(self.noise.name());
        let blocks: Vec<String> = self.blocks.iter().map(PoolBlock::to_json).collect();
        let blocks = blocks.join(",\n");
        let times: String = [("started", &self.started), ("ended", &self.ended)]
            .iter()
            .filter_map(|(name, time)| Some(format!("    \"{name}\": {},\n", text(time.as_ref()?))))
            .collect();
        format!(
            "    \
             {{\n    \"name\": {name},\n    \"column\": {noise},\n    \"about\": {about},\n{times}    \"blocks\": [\n{blocks}\n    ]\n    }}"
        )
    }
}

impl PoolBlock {
    fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).expect("a block is plain data");
        round_numbers(&mut value);
        format!("      {value}")
    }
}

/// Rounds to six significant digits, far below the repeatability of any machine: half the file
/// size.
fn round_numbers(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => {
            if let Some(exact) = number.as_f64() {
                let rounded: f64 = format!("{exact:.5e}").parse().expect("a number");
                // A whole number needs no `.0`.
                let whole = rounded.fract() == 0.0 && rounded.abs() < 1e15;
                *value = if whole { (rounded as i64).into() } else { rounded.into() };
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(round_numbers),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(round_numbers),
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    pub(super) fn pool() -> Pool {
        let round = Round {
            order: "ANNA".into(),
            values: [("decode_tok_s".into(), vec![81.234567, 80.0, 81.0, 82.5])].into(),
        };
        let once = [("peak_rss_bytes".into(), [('A', 292_345_678.0), ('N', 2e8)].into())].into();
        let turns = PoolTurns { warm_up_s: 0.5, turns_s: 1.0, rounds: vec![round], once };
        let block = PoolBlock { load_s: 0.125, scenarios: vec![turns], ..PoolBlock::default() };
        Pool {
            schema: SCHEMA,
            kind: PoolKind::Pool,
            started: "2026-01-01T00:00:00Z".into(),
            seed: 1,
            machine: Machine::default(),
            build: Build::default(),
            model: Model::default(),
            settings: Settings::default(),
            duet: false,
            arms: arms(),
            scenarios: vec![PoolCase { id: "short/b1".into(), work: Work::default() }],
            environments: vec![PoolEnvironment {
                name: "quiet".into(),
                noise: NoiseLevel::Quiet,
                about: "nothing else".into(),
                started: Some("2026-07-04T12:00:00Z".into()),
                ended: None,
                blocks: vec![block; 3],
            }],
        }
    }

    #[test]
    fn a_pool_round_trips_with_six_digits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.json");
        pool().save(&path).unwrap();
        let mut rounded = pool();
        for block in &mut rounded.environments[0].blocks {
            let turns = &mut block.scenarios[0];
            turns.rounds[0].values.get_mut("decode_tok_s").unwrap()[0] = 81.2346;
            *turns.once.get_mut("peak_rss_bytes").unwrap().get_mut(&'A').unwrap() = 292_346_000.0;
        }
        assert_eq!(Pool::load(&path).unwrap(), rounded);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("81.2346,80,81,82.5") && text.contains(":292346000,"), "{text}");
        rounded.save(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "writing it again changes nothing");
    }

    #[test]
    fn an_arm_differs_in_one_kind_of_metric() {
        for (letter, kind, theta) in [
            ('N', "decode", 0.0),
            ('L', "memory", 0.0),
            ('3', "decode", 0.030459),
            ('T', "decode", 0.105361),
            ('T', "ttft", 0.0),
            ('F', "ttft", 0.182322),
            ('M', "memory", 0.182322),
        ] {
            let found = pool().arm(letter).unwrap().role.theta(kind);
            assert!((found - theta).abs() < 1e-6, "{letter} {kind}: {found}");
        }
    }
}
