//! What a run was made with: the build, the machine, and its state.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tool and how it was built.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// Version of candlemark.
    pub version: String,
    /// Commit of the tree it was built from; `null` outside git.
    pub commit: Option<String>,
    /// Whether the tree had changes beside that commit; `null` outside git.
    pub dirty: Option<bool>,
    /// SHA-256 of Cargo.lock.
    pub lock_sha256: Option<String>,
    /// SHA-256 of the running binary.
    pub binary_sha256: Option<String>,
    /// `rustc --version`.
    pub rustc: String,
    /// Cargo profile.
    pub profile: String,
    /// Target triple.
    pub target: String,
    /// CPU features that were enabled at compile time (target-cpu, RUSTFLAGS).
    pub target_features: String,
    /// Cargo features of candlemark.
    pub features: Vec<String>,
    /// Versions of the crates that decide speed: candle-core, criterion.
    pub crates: BTreeMap<String, String>,
}

impl Build {
    /// Whether its numbers mean nothing.
    pub fn is_unoptimised(&self) -> bool {
        ["debug", "dev", "test"].iter().any(|name| self.profile.starts_with(name))
    }
}

/// Where it ran. Two machines are comparable when their classes are equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Readable name and the first digits of the class id: `amd-epyc-2cpu-1f3a90c2`.
    pub class: String,
    /// The fields that the class id is the SHA-256 of: CPU, instruction sets, CPUs allowed, OS,
    /// compiler, threads, device.
    pub fields: BTreeMap<String, String>,
    /// What is recorded but not part of the class: host name, memory, MHz, governor, container
    /// limits.
    pub facts: BTreeMap<String, String>,
    /// Measured rates; `null` where not measured.
    pub rates: Rates,
}

/// Measured rates of the machine: of each the best that was seen while a record was made, since a
/// machine that is shared or throttled is not the same all the time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Bytes read per second by all threads from a buffer beyond the last-level cache, in pages of
    /// the system's usual size.
    pub read_bytes_per_s: Option<f64>,
    /// The same in memory that huge pages were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_huge_bytes_per_s: Option<f64>,
    /// f32 multiply-adds per second of all threads, counted as two operations: the most that the
    /// instructions of `isa` do in registers. In records without `isa`, those of a large
    /// matrix product.
    pub f32_flop_per_s: Option<f64>,
    /// 8-bit integer multiply-adds, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8_op_per_s: Option<f64>,
    /// 16-bit integer multiply-adds, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int16_op_per_s: Option<f64>,
    /// bf16 multiply-adds, likewise; `null` where the CPU has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bf16_flop_per_s: Option<f64>,
    /// The best tier of instructions that the CPU has and kernels know: what the arithmetic was
    /// measured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
    /// Size of the last-level cache in bytes, as the system reports it.
    pub last_level_cache_bytes: Option<u64>,
}

impl Rates {
    /// The better of each rate.
    #[must_use]
    pub fn best_of(&self, other: &Self) -> Self {
        Self {
            read_bytes_per_s: largest([self.read_bytes_per_s, other.read_bytes_per_s]),
            read_huge_bytes_per_s: largest([
                self.read_huge_bytes_per_s,
                other.read_huge_bytes_per_s,
            ]),
            f32_flop_per_s: largest([self.f32_flop_per_s, other.f32_flop_per_s]),
            int8_op_per_s: largest([self.int8_op_per_s, other.int8_op_per_s]),
            int16_op_per_s: largest([self.int16_op_per_s, other.int16_op_per_s]),
            bf16_flop_per_s: largest([self.bf16_flop_per_s, other.bf16_flop_per_s]),
            isa: self.isa.clone().or_else(|| other.isa.clone()),
            last_level_cache_bytes: self.last_level_cache_bytes.or(other.last_level_cache_bytes),
        }
    }

    /// What decoding is held against: the larger of the rates of reading.
    pub fn best_read_bytes_per_s(&self) -> Option<f64> {
        largest([self.read_bytes_per_s, self.read_huge_bytes_per_s])
    }

    /// What prefill is held against: the largest of the rates of arithmetic, whatever numbers an
    /// engine multiplies.
    pub fn best_op_per_s(&self) -> Option<f64> {
        largest([
            self.f32_flop_per_s,
            self.int8_op_per_s,
            self.int16_op_per_s,
            self.bf16_flop_per_s,
        ])
    }
}

fn largest<const N: usize>(rates: [Option<f64>; N]) -> Option<f64> {
    rates.into_iter().flatten().reduce(f64::max)
}

/// The state of the machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conditions {
    /// UTC, RFC 3339.
    pub at: String,
    /// Load average over one minute.
    pub load_1m: Option<f64>,
    /// Share of CPU time taken by the hypervisor since boot or the previous reading.
    pub steal: Option<f64>,
    /// Share of the last ten seconds in which some task waited for a CPU (PSI).
    pub cpu_pressure_10s: Option<f64>,
    /// Memory that is available without swapping.
    pub available_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rates_are_what_work_is_held_against() {
        let old =
            r#"{"read_bytes_per_s":30.0,"f32_flop_per_s":200.0,"last_level_cache_bytes":null}"#;
        let mut rates: Rates = serde_json::from_str(old).unwrap();
        assert_eq!(
            (rates.best_read_bytes_per_s(), rates.best_op_per_s()),
            (Some(30.0), Some(200.0))
        );
        assert_eq!(serde_json::to_string(&rates).unwrap(), old, "read back as it was written");
        (rates.read_huge_bytes_per_s, rates.int8_op_per_s) = (Some(38.0), Some(600.0));
        (rates.int16_op_per_s, rates.bf16_flop_per_s) = (Some(300.0), Some(900.0));
        assert_eq!(
            (rates.best_read_bytes_per_s(), rates.best_op_per_s()),
            (Some(38.0), Some(900.0))
        );
        let none = Rates::default();
        assert_eq!((none.best_read_bytes_per_s(), none.best_op_per_s()), (None, None));
    }
}
