//! The machine: its fingerprint, memory of this process, caches, load, counters of energy and
//! utilization, and the build of this tool. Knows nothing of models and scenarios.

mod caches;
mod cgroup;
mod class;
mod cpu;
mod energy;
mod facts;
mod gpu;
mod load;
pub mod memory;
mod meter;
mod reference_kernels;
mod stamp;
mod utilization;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{fs, thread};

use crate::record::{Build, Machine, Rates};
use crate::settings::{Setup, parse_cpu_list};

pub use caches::{last_level_cache_bytes, read_buffer_bytes};
pub(crate) use class::class_id;
pub(crate) use load::warnings_on;
pub use load::{busy, conditions, warnings};
pub(crate) use meter::store_usage;
pub use meter::{Figure, Meter, RegionStart, RegionUsage};
pub use reference_kernels::ReferenceKernels;
pub(crate) use reference_kernels::measure_reference_kernels;
pub use stamp::{SESSION_GAP, between, build, environment, now, stamp};
pub(crate) use stamp::{check_time, is_one_session, refuse_debug, session_id};
pub(crate) use utilization::process_cpu_time;

/// The machine that this process runs on. `threads` and `device` are those of the engine; a device
/// includes its driver. Rates that need a measurement are left out.
pub fn fingerprint(threads: usize, device: &str) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let inputs = class::ClassInputs {
        cpu: cpu::Cpu::here(),
        isa: cpu::isa(&cpuinfo),
        cpus_allowed: thread::available_parallelism().ok().map(usize::from),
        numa_nodes: fs::read_to_string("/sys/devices/system/node/online")
            .ok()
            .and_then(|list| Some(parse_cpu_list(&list)?.len())),
        hypervisor: cpu::hypervisor(),
        threads,
        device,
    };
    let fields = inputs.fields();
    Machine {
        class: class::class_name(&fields),
        facts: facts::facts(&cpuinfo),
        fields,
        rates: Rates { last_level_cache_bytes: last_level_cache_bytes(), ..Rates::default() },
    }
}

/// What is measured by a setup: this machine, or a server, whose class is its own. This machine is
/// then the client, and its class and fields are facts.
pub(crate) fn measured_by(setup: &Setup) -> Machine {
    let Some(server) = &setup.server else {
        return fingerprint(setup.threads, &setup.device);
    };
    let here = fingerprint(1, "cpu");
    let fields = server.class_fields(&setup.labels);
    let mut facts = here.facts;
    facts.extend(here.fields.into_iter().map(|(name, value)| (format!("client_{name}"), value)));
    facts.insert(CLIENT_CLASS.into(), here.class);
    Machine { class: class::server_class_name(&fields), fields, facts, rates: Rates::default() }
}

/// The fact of a server's record that names the class of the client's machine.
pub(crate) const CLIENT_CLASS: &str = "client_class";

/// The machine, its counters ([`Meter::counters`]) and the build as text.
pub(crate) fn describe(machine: &Machine, counters: &[(&str, String)], build: &Build) -> String {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let measured = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{:.1} {unit}", value / 1e9))
    };
    let cache = machine.rates.last_level_cache_bytes;
    let crates: Vec<String> =
        build.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let commit = match build.dirty {
        Some(true) => known(&build.commit) + " and changes",
        _ => known(&build.commit),
    };
    let rates = [
        ("read", measured(machine.rates.read_bytes_per_s, "GB/s")),
        ("read_huge_pages", measured(machine.rates.read_huge_bytes_per_s, "GB/s")),
        ("f32", measured(machine.rates.f32_flop_per_s, "GFLOP/s")),
        ("int8", measured(machine.rates.int8_op_per_s, "GOP/s")),
        ("int16", measured(machine.rates.int16_op_per_s, "GOP/s")),
        ("bf16", measured(machine.rates.bf16_flop_per_s, "GFLOP/s")),
        ("isa", known(&machine.rates.isa)),
        (
            "last_level_cache",
            cache.map_or("unknown".into(), |bytes| {
                format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
            }),
        ),
    ];
    let built = [
        ("version", build.version.clone()),
        ("commit", commit),
        ("lock_sha256", known(&build.lock_sha256)),
        ("binary_sha256", known(&build.binary_sha256)),
        ("rustc", build.rustc.clone()),
        ("profile", build.profile.clone()),
        ("target", build.target.clone()),
        ("target_features", build.target_features.clone()),
        ("features", build.features.join(" ")),
        ("crates", crates.join(", ")),
    ];
    let mut text = format!("{}\n", machine.class);
    section(&mut text, "class: equal on comparable machines", pairs(&machine.fields));
    section(&mut text, "facts: recorded, not compared", pairs(&machine.facts));
    section(&mut text, "rates", rates.iter().map(|(name, value)| (*name, value.as_str())));
    let counters = counters.iter().map(|(name, state)| (*name, state.as_str()));
    section(&mut text, "counters: read around timed regions", counters);
    section(&mut text, "build", built.iter().map(|(name, value)| (*name, value.as_str())));
    text
}

fn section<'a>(text: &mut String, title: &str, rows: impl Iterator<Item = (&'a str, &'a str)>) {
    let _ = writeln!(text, "\n{title}");
    for (name, value) in rows {
        let value = if value.is_empty() { "none" } else { value };
        let _ = writeln!(text, "  {name:<22} {value}");
    }
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_this_machine_is_a_valid_folder_name() {
        let machine = fingerprint(2, "cpu");
        assert!(machine.class.ends_with(&class::class_id(&machine.fields)[..8]));
        let is_plain =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(machine.class.chars().all(is_plain), "{}", machine.class);
        assert_eq!(machine.fields["threads"], "2");
        assert_eq!(machine.fields["device"], "cpu");
        assert_eq!(fingerprint(2, "cpu").class, machine.class);
    }

    #[test]
    fn a_machine_is_described_in_aligned_text() {
        let map = |name: &str, value: &str| BTreeMap::from([(name.to_string(), value.to_string())]);
        let machine = Machine {
            class: "amd-epyc-2cpu-1f3a90c2".into(),
            fields: map("arch", "x86_64"),
            facts: map("host_name", "vm"),
            rates: Rates {
                read_bytes_per_s: Some(41.26e9),
                int8_op_per_s: Some(859.04e9),
                isa: Some("avx2".into()),
                last_level_cache_bytes: Some(32 << 20),
                ..Rates::default()
            },
        };
        let build = Build {
            version: "0.1.0".into(),
            commit: Some("abc1234".into()),
            dirty: Some(true),
            rustc: "rustc 1.95.0".into(),
            profile: "release, opt-level 3".into(),
            target: "x86_64-unknown-linux-gnu".into(),
            features: vec!["engine".into(), "hub".into()],
            crates: map("criterion", "0.8.2"),
            ..Build::default()
        };
        let expected = "\
amd-epyc-2cpu-1f3a90c2

class: equal on comparable machines
  arch                   x86_64

facts: recorded, not compared
  host_name              vm

rates
  read                   41.3 GB/s
  read_huge_pages        not measured
  f32                    not measured
  int8                   859.0 GOP/s
  int16                  not measured
  bf16                   not measured
  isa                    avx2
  last_level_cache       32.0 MiB

counters: read around timed regions
  cpu_energy             not readable: a virtual machine
  cpu_time               readable: in steps of 10 ms

build
  version                0.1.0
  commit                 abc1234 and changes
  lock_sha256            unknown
  binary_sha256          unknown
  rustc                  rustc 1.95.0
  profile                release, opt-level 3
  target                 x86_64-unknown-linux-gnu
  target_features        none
  features               engine hub
  crates                 criterion 0.8.2
";
        let counters = [
            ("cpu_energy", "not readable: a virtual machine".to_string()),
            ("cpu_time", "readable: in steps of 10 ms".to_string()),
        ];
        assert_eq!(describe(&machine, &counters, &build), expected);
    }
}
