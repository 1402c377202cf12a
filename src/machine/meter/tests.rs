//! Tests with a fake GPU.

use super::*;
use crate::machine::gpu::UtilizationSample;
use crate::workload;

const S: fn(u64) -> Duration = Duration::from_secs;

/// A GPU whose answers are fields.
struct Fake {
    utilization: Result<Vec<UtilizationSample>, String>,
    throttling: Result<Vec<&'static str>, String>,
}

impl GpuReader for Fake {
    fn name(&self) -> &str {
        "GPU 1 (Fake)"
    }

    fn energy_mj(&self) -> Result<u64, String> {
        Err("this GPU has no energy counter".into())
    }

    fn utilization(&self, _since: Duration) -> Result<Vec<UtilizationSample>, String> {
        self.utilization.clone()
    }

    fn memory(&self) -> Result<GpuMemory, String> {
        Ok(GpuMemory::Process(7))
    }

    fn throttle_reasons(&self) -> Result<Vec<&'static str>, String> {
        self.throttling.clone()
    }
}

fn on_gpu(
    samples: Result<&[(f64, f64)], &str>,
    throttling: Result<&[&'static str], &str>,
) -> Meter {
    let sample =
        |&(at, share): &(f64, f64)| UtilizationSample { at: Duration::from_secs_f64(at), share };
    let utilization = samples.map(|all| all.iter().map(sample).collect()).map_err(str::to_string);
    let throttling = throttling.map(<[_]>::to_vec).map_err(str::to_string);
    Meter { threads: 2, counters: Counters::Gpu(Ok(Box::new(Fake { utilization, throttling }))) }
}

fn on_cpu(why: &str) -> Meter {
    Meter { threads: 2, counters: Counters::Cpu(Err(why.into())) }
}

fn readings(at: u64, cpu_s: u64, energy: u64, memory: GpuMemory) -> Readings {
    Readings { at: S(at), cpu_time: Ok(S(cpu_s)), energy: Ok(vec![energy]), memory: Ok(memory) }
}

fn known(value: f64, scope: &str) -> Figure {
    Figure::Known { value, scope: scope.into() }
}

fn unknown(why: &str) -> Figure {
    Figure::Unknown(why.into())
}

#[test]
fn a_gpu_has_energy_utilization_memory_and_throttling() {
    // The samples at 100 s and 104.5 s belong to what ran before and after.
    let samples = [(100.0, 0.1), (101.0, 0.5), (102.0, 0.75), (104.0, 1.0), (104.5, 0.0)];
    let meter = on_gpu(Ok(&samples), Ok(&["power limit", "heat (driver)"]));
    let before = readings(100, 10, 5_000, GpuMemory::Process(900));
    let after = readings(104, 16, 1_205_000, GpuMemory::Process(800));
    let scope = "GPU 1 (Fake), whole board, with other programs";
    let expected = RegionUsage {
        seconds: 4.0,
        energy_j: known(1200.0, scope),
        power_w: known(300.0, scope),
        cpu_utilization: known(0.75, "CPU time of this process in steps of 10 ms, of 2 threads"),
        gpu_utilization: known(
            0.75,
            "GPU 1 (Fake), with other programs, mean of 3 driver samples in the last 3.0 s of 4.0 s",
        ),
        gpu_memory_bytes: known(
            900.0,
            "this process, the larger of two samples, before and after the region: a lower bound of the peak",
        ),
        throttle: "throttled at the end of the region: power limit, heat (driver)".into(),
    };
    assert_eq!(meter.usage(&before, &after, S(4)), expected);
}

#[test]
fn missing_counters_are_unknown_each_with_its_reason() {
    let before = readings(100, 10, 5_000, GpuMemory::Device(1));
    let stood = readings(102, 10, 5_000, GpuMemory::Device(640));
    let meter = on_gpu(Err("no samples here"), Err("no reasons here"));
    let usage = meter.usage(&before, &stood, S(2));
    assert_eq!(usage.energy_j, unknown("the energy counter of the GPU did not move"));
    assert_eq!(usage.power_w, usage.energy_j);
    assert_eq!(usage.gpu_utilization, unknown("no samples here"));
    assert_eq!(usage.throttle, "throttling unknown: no reasons here");
    let why = usage.gpu_memory_bytes.note().to_string();
    assert!(why.ends_with("all programs together used 640 bytes after the region"), "{why}");
    assert_eq!(usage.gpu_memory_bytes.value(), None);

    let few = on_gpu(Ok(&[(101.0, 1.0)]), Ok(&[]));
    let reset = readings(102, 10, 4_000, GpuMemory::Process(640));
    let usage = few.usage(&before, &reset, S(2));
    assert_eq!(usage.energy_j.value(), None);
    assert_eq!(
        usage.gpu_utilization,
        unknown("the driver took fewer than two utilization samples in the region")
    );
    let scope = "this process, one sample, after the region: a lower bound of the peak";
    assert_eq!(usage.gpu_memory_bytes, known(640.0, scope));
    assert_eq!(usage.throttle, "not throttled at the end of the region");
}

#[test]
fn a_short_region_has_only_the_figures_that_it_is_long_enough_for() {
    let meter = on_gpu(Ok(&[(100.1, 1.0), (100.2, 1.0)]), Ok(&[]));
    let before = readings(100, 10, 5_000, GpuMemory::Process(1));
    let after = readings(101, 11, 9_000, GpuMemory::Process(1));
    let values = |elapsed| {
        let usage = meter.usage(&before, &after, Duration::from_millis(elapsed));
        [&usage.energy_j, &usage.gpu_utilization, &usage.cpu_utilization]
            .map(|figure| figure.value().is_some())
    };
    assert_eq!(values(2000), [true, true, true]);
    assert_eq!(values(1999), [false, true, true]);
    assert_eq!(values(999), [false, false, true]);
    assert_eq!(values(199), [false, false, false]);
    let usage = meter.usage(&before, &after, Duration::from_millis(999));
    assert_eq!(
        usage.gpu_utilization.note(),
        "the GPU utilization counter is too coarse for 999 ms; measure at least 1000 ms"
    );
}

#[test]
fn a_reading_that_fails_leaves_the_others() {
    let meter = on_gpu(Ok(&[]), Ok(&[]));
    let before = readings(100, 10, 5_000, GpuMemory::Process(1));
    let mut after = readings(104, 11, 9_000, GpuMemory::Process(2));
    after.energy = Err("the GPU has fallen off the bus".into());
    after.cpu_time = Err("no time".into());
    let usage = meter.usage(&before, &after, S(4));
    assert_eq!(usage.energy_j, unknown("the GPU has fallen off the bus"));
    assert_eq!(usage.power_w, usage.energy_j);
    assert_eq!(usage.cpu_utilization, unknown("no time"));
    assert_eq!(usage.gpu_memory_bytes.value(), Some(2.0));
}

#[test]
fn a_block_takes_values_scopes_and_reasons() {
    let mut block = Block::default();
    let before = readings(100, 10, 5_000, GpuMemory::Process(900));
    let after = readings(104, 16, 1_205_000, GpuMemory::Process(800));
    let usage = on_gpu(Err("no samples"), Ok(&["power limit"])).usage(&before, &after, S(4));
    store_usage(&usage, 480.0, &mut block);
    let values: Vec<(&str, Option<f64>)> =
        block.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(
        values,
        [
            ("cpu_utilisation", Some(0.75)),
            ("energy_j_per_token", Some(2.5)),
            ("gpu_utilisation", None),
            ("peak_device_bytes", Some(900.0)),
            ("power_w", Some(300.0)),
        ]
    );
    let note = |name: &str| block.notes[name].as_str();
    assert_eq!(note("gpu_utilisation"), "no samples");
    assert_eq!(note("energy_j_per_token"), "GPU 1 (Fake), whole board, with other programs");
    assert_eq!(
        note("power_w"),
        "GPU 1 (Fake), whole board, with other programs; throttled at the end of the region: power limit"
    );
    for name in block.values.keys() {
        assert!(workload::metric(name).is_some(), "{name}");
        assert!(block.notes.contains_key(name), "{name}");
    }
    assert_eq!(block.caveats, [("peak_device_bytes".into(), Caveat::LowerBound)].into());
    store_usage(&usage, 0.0, &mut block);
    assert_eq!(block.values["energy_j_per_token"], None);
    assert_eq!(block.notes["energy_j_per_token"], "nothing was generated");
}

#[test]
fn on_a_cpu_without_counters_all_but_cpu_time_is_null_with_reasons() {
    let meter = on_cpu("a virtual machine");
    let mut block = Block::default();
    let none = || Err("the device is the CPU".to_string());
    let before = Readings { at: S(1), cpu_time: Ok(S(0)), energy: meter.energy(), memory: none() };
    let after = Readings { at: S(3), cpu_time: Ok(S(4)), energy: meter.energy(), memory: none() };
    store_usage(&meter.usage(&before, &after, S(2)), 16.0, &mut block);
    for (name, value, note) in [
        ("cpu_utilisation", Some(1.0), "CPU time of this process in steps of 10 ms, of 2 threads"),
        ("energy_j_per_token", None, "a virtual machine"),
        ("power_w", None, "a virtual machine"),
        ("gpu_utilisation", None, "the device is the CPU"),
        ("peak_device_bytes", None, "the device is the CPU"),
    ] {
        assert_eq!((block.values[name], block.notes[name].as_str()), (value, note), "{name}");
    }
    assert!(block.caveats.is_empty(), "{:?}", block.caveats);
}

#[test]
fn packages_of_a_real_tree_are_read_through_the_meter() {
    let root = tempfile::tempdir().unwrap();
    let zone = root.path().join("intel-rapl:0");
    std::fs::create_dir(&zone).unwrap();
    for (file, text) in
        [("name", "package-0"), ("max_energy_range_uj", "1000000000000"), ("energy_uj", "1000000")]
    {
        std::fs::write(zone.join(file), text).unwrap();
    }
    let counters = Counters::Cpu(Packages::find(root.path()));
    let meter = Meter { threads: 1, counters };
    assert_eq!(meter.counters()[1], ("cpu_energy", "readable: 1 CPU package".into()));
    let start = meter.begin();
    std::fs::write(zone.join("energy_uj"), "9000000").unwrap();
    let after = Readings {
        at: S(0),
        cpu_time: Ok(S(0)),
        energy: meter.energy(),
        memory: Ok(GpuMemory::Device(0)),
    };
    let scope = "1 CPU package, without memory, with other programs";
    assert_eq!(meter.usage(&start.readings, &after, S(2)).power_w, known(4.0, scope));
    let short = meter.usage(&start.readings, &after, Duration::from_millis(49));
    assert_eq!(short.energy_j.value(), None);
}

#[test]
fn this_machine_is_metered_without_failing() {
    for device in ["cpu", "cuda", "metal", "cuda:99"] {
        let meter = Meter::for_device(device, 1);
        let usage = meter.end(meter.begin());
        assert!(usage.seconds >= 0.0);
        let mut block = Block::default();
        store_usage(&usage, 1.0, &mut block);
        assert!(block.notes.values().all(|note| !note.is_empty()), "{:?}", block.notes);
        let rows = meter.counters();
        assert_eq!(rows[0], ("cpu_time", format!("readable: {}", utilization::RESOLUTION)));
        assert!(rows.len() > 1);
    }
}

#[test]
fn a_gpu_lists_which_of_its_counters_can_be_read() {
    let rows = on_gpu(Ok(&[]), Err("too old")).counters();
    let expected = [
        ("gpu_energy", "not readable: this GPU has no energy counter"),
        ("gpu_utilisation", "readable: GPU 1 (Fake)"),
        ("gpu_memory", "readable: GPU 1 (Fake)"),
        ("gpu_throttle", "not readable: too old"),
    ];
    let found: Vec<(&str, &str)> =
        rows[1..].iter().map(|(name, state)| (*name, state.as_str())).collect();
    assert_eq!(found, expected);
}
