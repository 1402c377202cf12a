//! The build, the machine and its state, as records store them.

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
    /// Whether the tree had uncommitted changes; `null` outside git.
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
    /// CPU features enabled at compile time (target-cpu, RUSTFLAGS).
    pub target_features: String,
    /// Cargo features of candlemark.
    pub features: Vec<String>,
    /// Versions of the crates that affect speed: candle-core, criterion.
    pub crates: BTreeMap<String, String>,
}

impl Build {
    /// Whether it was compiled without optimization, so that its times mean nothing.
    pub(crate) fn is_unoptimized(&self) -> bool {
        ["debug", "dev", "test"].iter().any(|name| self.profile.starts_with(name))
    }
}

/// A machine. Two machines are comparable when their classes are equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Readable name and the first digits of the class hash: `amd-epyc-2cpu-1f3a90c2`.
    pub class: String,
    /// The fields whose SHA-256 is the class hash: CPU, instruction sets, CPUs allowed, hypervisor,
    /// NUMA nodes, OS, threads, device. Earlier versions had more.
    pub fields: BTreeMap<String, String>,
    /// Facts that are not part of the class: host name, memory, MHz, governor, container limits.
    pub facts: BTreeMap<String, String>,
    /// Measured rates; `null` where not measured.
    pub rates: Rates,
}

impl Machine {
    /// Whether a field was part of the class in earlier versions and no longer decides it.
    pub(crate) fn is_retired(field: &str) -> bool {
        RETIRED.contains(&field)
    }

    /// Whether it is of the class that another record names, whose fields may be those of an
    /// earlier version.
    pub(crate) fn is_of_class(&self, class: &str, fields: &BTreeMap<String, String>) -> bool {
        let retired =
            |fields: &BTreeMap<String, String>| fields.keys().any(|name| Self::is_retired(name));
        let decisive = |fields: &BTreeMap<String, String>| {
            let mut fields = fields.clone();
            fields.retain(|name, _| !Self::is_retired(name));
            fields
        };
        self.class == class
            || ((retired(&self.fields) || retired(fields))
                && decisive(&self.fields) == decisive(fields))
    }
}

/// Fields that were part of the class in earlier versions, whose classes have another hash: those
/// of the build, the kernel, and the stepping, which no recorded difference depends on.
const RETIRED: [&str; 6] =
    ["allocator", "cpu_stepping", "kernel", "rustc", "target_cpu", "target_features"];

/// Measured peak rates of the machine: the best of each during a record, because a shared or
/// throttled machine varies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Read bandwidth of all threads in bytes per second, from a buffer larger than the last-level
    /// cache in pages of the default size.
    pub read_bytes_per_s: Option<f64>,
    /// The same in memory with huge pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_huge_bytes_per_s: Option<f64>,
    /// Peak f32 FLOP/s of all threads (a multiply-add is two) with the instructions of `isa` in
    /// registers. In records without `isa`, those of a large GEMM.
    pub f32_flop_per_s: Option<f64>,
    /// The same for 8-bit integers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8_op_per_s: Option<f64>,
    /// The same for 16-bit integers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int16_op_per_s: Option<f64>,
    /// The same for bf16; `null` where the CPU has no bf16 instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bf16_flop_per_s: Option<f64>,
    /// The best instruction set that the CPU has and kernels use, with which arithmetic was
    /// measured.
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

    /// The memory roof of decode: the larger read bandwidth.
    pub fn best_read_bytes_per_s(&self) -> Option<f64> {
        largest([self.read_bytes_per_s, self.read_huge_bytes_per_s])
    }

    /// The compute roof of prefill: the largest arithmetic rate, whatever number format an engine
    /// multiplies.
    pub(crate) fn best_op_per_s(&self) -> Option<f64> {
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
    /// Share of CPU time stolen by the hypervisor since boot or the previous reading.
    pub steal: Option<f64>,
    /// Share of the last ten seconds in which some task waited for a CPU (PSI).
    pub cpu_pressure_10s: Option<f64>,
    /// Memory available without swapping.
    pub available_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_an_earlier_version_is_known_by_its_fields() {
        let machine = |class: &str, fields: &[(&str, &str)]| Machine {
            class: class.into(),
            fields: fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..Machine::default()
        };
        let now = machine("epyc-2", &[("cpu_model", "17"), ("threads", "2")]);
        let of = |other: &Machine| now.is_of_class(&other.class, &other.fields);
        let old = |model: &str, rustc: &str| {
            let fields = [("cpu_model", model), ("threads", "2"), ("rustc", rustc)];
            machine("epyc-1", &fields)
        };
        assert!(of(&old("17", "1.95.0")) && of(&old("17", "1.96.0")));
        assert!(!of(&old("1", "1.95.0")));
        assert!(!of(&machine("epyc-3", &[("cpu_model", "17"), ("threads", "2")])), "renamed");
        assert!(of(&machine("epyc-2", &[])));
    }

    #[test]
    fn the_largest_rates_are_the_roofs() {
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
