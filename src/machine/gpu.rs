//! What a GPU tells of itself: energy, use, memory, and why it is slowed down. NVIDIA's is read
//! through NVML, the library of its driver, which is looked for at run time. Knows nothing of what
//! ran on the GPU; others' work on it counts, too.

use std::time::Duration;

/// The counters of one GPU; each may be missing by itself, with its reason.
pub(super) trait GpuReader {
    /// `GPU 0 (NVIDIA L4)`.
    fn name(&self) -> &str;
    /// Energy of the whole board since the driver was loaded, in mJ.
    fn energy_mj(&self) -> Result<u64, String>;
    /// The driver's samples of its own that are later than `since`, the time since 1970.
    fn busy(&self, since: Duration) -> Result<Vec<Busy>, String>;
    /// Memory in use now.
    fn memory(&self) -> Result<GpuMemory, String>;
    /// Why it is slower than it could be now; empty if it is not.
    fn slowed(&self) -> Result<Vec<&'static str>, String>;
}

/// How much of a sampling period some kernel was running.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Busy {
    /// End of the period since 1970.
    pub(super) at: Duration,
    /// From 0 to 1.
    pub(super) share: f64,
}

/// Bytes in use on a GPU, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "nvml")),
    expect(dead_code, reason = "without NVML no GPU tells anything")
)]
pub(super) enum GpuMemory {
    /// Of this process.
    Process(u64),
    /// Of everyone: the driver did not list this process, as in a container with process ids of its
    /// own.
    Device(u64),
}

/// The counters of an engine's device, `cuda:1` or `metal`.
///
/// # Errors
/// Why there are none, and what would give some.
pub(super) fn open(device: &str) -> Result<Box<dyn GpuReader>, String> {
    let (kind, number) = device.split_once(':').unwrap_or((device, "0"));
    let number = number.parse().map_err(|_| format!("`{device}` has no number of a GPU"))?;
    match kind {
        "cuda" => nvidia(number),
        "metal" => {
            Err("the counters of Apple's GPUs are read only by root, through the powermetrics \
                        program, which is not run here"
                .into())
        }
        other => Err(format!("no counters are known for the device `{other}`")),
    }
}

#[cfg(feature = "nvml")]
fn nvidia(number: usize) -> Result<Box<dyn GpuReader>, String> {
    Ok(Box::new(nvml::Gpu::open(number, &Visible::here())?))
}

#[cfg(not(feature = "nvml"))]
fn nvidia(_number: usize) -> Result<Box<dyn GpuReader>, String> {
    Err("built without counters of NVIDIA GPUs; build with `--features nvml`".into())
}

/// How CUDA was told to number the GPUs.
#[derive(Debug, Default)]
#[cfg(any(test, feature = "nvml"))]
struct Visible {
    devices: Option<String>,
    order: Option<String>,
}

/// One GPU of the machine, as NVML lists them: by their place on the bus.
#[cfg(any(test, feature = "nvml"))]
struct Listed {
    name: String,
    uuid: String,
}

#[cfg(any(test, feature = "nvml"))]
impl Visible {
    #[cfg(feature = "nvml")]
    fn here() -> Self {
        let variable = |name| std::env::var(name).ok();
        Visible { devices: variable("CUDA_VISIBLE_DEVICES"), order: variable("CUDA_DEVICE_ORDER") }
    }

    /// Which GPU of the list is CUDA's `number`. CUDA numbers those that are visible, the fastest
    /// first; where several kinds of GPU make that order a guess, there is no answer rather
    /// than the counters of another GPU.
    fn pick(&self, number: usize, listed: &[Listed]) -> Result<usize, String> {
        let entry = match &self.devices {
            None => number.to_string(),
            Some(list) => list.split(',').nth(number).unwrap_or_default().trim().to_string(),
        };
        if entry.starts_with("MIG-") {
            return Err("a part of a GPU (MIG) has no counters of its own".into());
        }
        if entry.starts_with("GPU-") {
            let found = listed.iter().position(|gpu| gpu.uuid.starts_with(&entry));
            return found.ok_or(format!("no GPU `{entry}`, which CUDA_VISIBLE_DEVICES names"));
        }
        let index = entry.parse().map_err(|_| {
            format!("CUDA_VISIBLE_DEVICES shows no GPU {number} ({} are installed)", listed.len())
        })?;
        let alike = listed.windows(2).all(|pair| pair[0].name == pair[1].name);
        if !alike && self.order.as_deref() != Some("PCI_BUS_ID") {
            return Err(
                "several kinds of GPU are installed, and which one CUDA counts first is not \
                        known; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
                    .into(),
            );
        }
        if index >= listed.len() {
            return Err(format!("no GPU {index}; {} are installed", listed.len()));
        }
        Ok(index)
    }
}

/// The one place that knows NVML.
#[cfg(feature = "nvml")]
mod nvml {
    use std::process;
    use std::time::Duration;

    use nvml_wrapper::bitmasks::device::ThrottleReasons;
    use nvml_wrapper::enum_wrappers::device::Sampling;
    use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
    use nvml_wrapper::error::NvmlError;
    use nvml_wrapper::{Device, Nvml};

    use super::{Busy, GpuMemory, GpuReader, Listed, Visible};

    /// What slows a GPU down. Being idle is none, and clocks that someone set stay set.
    const SLOWED: &[(ThrottleReasons, &str)] = &[
        (ThrottleReasons::SW_POWER_CAP, "power limit"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat (driver)"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat (hardware)"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    ];

    pub(super) struct Gpu {
        nvml: Nvml,
        index: u32,
        name: String,
    }

    impl Gpu {
        pub(super) fn open(number: usize, visible: &Visible) -> Result<Self, String> {
            let nvml = Nvml::init().map_err(|error| match error {
                NvmlError::LibloadingError(_) => {
                    "no NVML library: no NVIDIA driver is installed, or the container does not show \
                     it (docker: `--gpus all`)"
                        .into()
                }
                other => format!("NVML does not start: {other}; does nvidia-smi work?"),
            })?;
            let list = |index| {
                let gpu = nvml.device_by_index(index)?;
                Ok(Listed { name: gpu.name()?, uuid: gpu.uuid()? })
            };
            let listed: Result<Vec<Listed>, NvmlError> =
                nvml.device_count().and_then(|count| (0..count).map(list).collect());
            let listed = listed.map_err(|error| format!("NVML does not list GPUs: {error}"))?;
            let index = visible.pick(number, &listed)?;
            let name = format!("GPU {index} ({})", listed[index].name);
            Ok(Gpu { nvml, index: index as u32, name })
        }

        /// Asks the GPU for `what`.
        fn ask<T>(
            &self,
            what: &str,
            question: impl FnOnce(Device) -> Result<T, NvmlError>,
        ) -> Result<T, String> {
            let answer = self.nvml.device_by_index(self.index).and_then(question);
            answer.map_err(|error| format!("{} does not tell its {what}: {error}", self.name))
        }
    }

    impl GpuReader for Gpu {
        fn name(&self) -> &str {
            &self.name
        }

        fn energy_mj(&self) -> Result<u64, String> {
            self.ask("energy", |gpu| gpu.total_energy_consumption())
        }

        fn busy(&self, since: Duration) -> Result<Vec<Busy>, String> {
            let since_us = since.as_micros() as u64;
            let samples =
                self.ask("use", |gpu| match gpu.samples(Sampling::GpuUtilization, since_us) {
                    Err(NvmlError::NotFound) => Ok(Vec::new()), // None is later.
                    samples => samples,
                })?;
            let percent = |value| match value {
                SampleValue::F64(value) => value,
                SampleValue::U32(value) => f64::from(value),
                SampleValue::U64(value) => value as f64,
                SampleValue::I64(value) => value as f64,
            };
            let busy = samples.into_iter().map(|sample| Busy {
                at: Duration::from_micros(sample.timestamp),
                share: percent(sample.value) / 100.0,
            });
            Ok(busy.collect())
        }

        fn memory(&self) -> Result<GpuMemory, String> {
            let processes = self.ask("processes", |gpu| gpu.running_compute_processes());
            let own = processes.into_iter().flatten().filter(|found| found.pid == process::id());
            let bytes = own.filter_map(|found| match found.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            });
            match bytes.reduce(|sum, bytes| sum + bytes) {
                Some(bytes) => Ok(GpuMemory::Process(bytes)),
                None => self.ask("memory", |gpu| Ok(GpuMemory::Device(gpu.memory_info()?.used))),
            }
        }

        fn slowed(&self) -> Result<Vec<&'static str>, String> {
            let reasons = self.ask("throttle reasons", |gpu| gpu.current_throttle_reasons())?;
            let found = SLOWED.iter().filter(|(reason, _)| reasons.contains(*reason));
            Ok(found.map(|(_, name)| *name).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(gpus: &[(&str, &str)]) -> Vec<Listed> {
        let gpu = |&(name, uuid): &(&str, &str)| Listed { name: name.into(), uuid: uuid.into() };
        gpus.iter().map(gpu).collect()
    }

    #[test]
    fn the_gpu_that_cuda_counts_is_found_or_none_is() {
        let alike = listed(&[("L4", "GPU-aa11"), ("L4", "GPU-bb22"), ("L4", "GPU-cc33")]);
        let mixed = listed(&[("T4", "GPU-aa11"), ("H100", "GPU-bb22")]);
        for (gpus, devices, order, number, expected) in [
            (&alike, None, None, 2, Ok(2)),
            (&alike, Some("2,0"), None, 1, Ok(0)),
            (&alike, Some("GPU-bb, GPU-aa11"), None, 0, Ok(1)),
            (&alike, Some("GPU-dd"), None, 0, Err("no GPU `GPU-dd`")),
            (&alike, Some("MIG-1234"), None, 0, Err("a part of a GPU (MIG)")),
            (&alike, Some("1"), None, 1, Err("CUDA_VISIBLE_DEVICES shows no GPU 1 (3 are")),
            (&alike, Some(""), None, 0, Err("CUDA_VISIBLE_DEVICES shows no GPU 0")),
            (&alike, None, None, 3, Err("no GPU 3; 3 are installed")),
            (&mixed, None, None, 0, Err("several kinds of GPU")),
            (&mixed, None, Some("FASTEST_FIRST"), 0, Err("several kinds of GPU")),
            (&mixed, None, Some("PCI_BUS_ID"), 1, Ok(1)),
            (&mixed, Some("GPU-bb22"), None, 0, Ok(1)),
        ] {
            let visible =
                Visible { devices: devices.map(str::to_string), order: order.map(str::to_string) };
            let answer = visible.pick(number, gpus);
            match (&answer, expected) {
                (Ok(index), Ok(expected)) => assert_eq!(*index, expected, "{devices:?}"),
                (Err(why), Err(expected)) => assert!(why.starts_with(expected), "{why}"),
                _ => panic!("{devices:?} {order:?}: {answer:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn a_device_without_counters_says_why() {
        for (device, expected) in [
            ("metal", "the counters of Apple's GPUs are read only by root"),
            ("cuda:x", "`cuda:x` has no number of a GPU"),
            ("vulkan", "no counters are known for the device `vulkan`"),
        ] {
            let why = open(device).err().unwrap_or_default();
            assert!(why.starts_with(expected), "{why}");
        }
    }

    /// On a machine without a driver this is the reason; on one with it, the name of a GPU.
    #[test]
    fn asking_for_an_nvidia_gpu_never_fails_to_answer() {
        match open("cuda") {
            Ok(gpu) => assert!(gpu.name().starts_with("GPU "), "{}", gpu.name()),
            Err(why) if cfg!(feature = "nvml") => assert!(!why.is_empty()),
            Err(why) => assert!(why.contains("--features nvml"), "{why}"),
        }
    }
}
