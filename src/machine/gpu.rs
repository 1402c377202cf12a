//! Counters of a GPU: energy, utilization, memory, throttling. NVIDIA's are read through NVML, the
//! driver's library, loaded at run time. They include other programs' work.

use std::time::Duration;

/// The counters of one GPU. Each may be missing, with a reason.
pub(super) trait GpuReader {
    /// `GPU 0 (NVIDIA L4)`.
    fn name(&self) -> &str;
    /// Energy of the whole board since the driver was loaded, in mJ.
    fn energy_mj(&self) -> Result<u64, String>;
    /// The driver's utilization samples after `since`, a time since 1970.
    fn utilization(&self, since: Duration) -> Result<Vec<UtilizationSample>, String>;
    /// Memory in use.
    fn memory(&self) -> Result<GpuMemory, String>;
    /// Why it is throttled; empty if it is not.
    fn throttle_reasons(&self) -> Result<Vec<&'static str>, String>;
}

/// The share of a sampling period in which some kernel ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UtilizationSample {
    /// End of the period since 1970.
    pub(super) at: Duration,
    /// From 0 to 1.
    pub(super) share: f64,
}

/// Bytes in use on a GPU, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "nvml")), expect(dead_code, reason = "only NVML reads memory"))]
pub(super) enum GpuMemory {
    /// Of this process.
    Process(u64),
    /// Of all processes: the driver does not list this one, as in a container with its own process
    /// ids.
    Device(u64),
}

/// Opens the counters of an engine's device, `cuda:1` or `metal`.
///
/// # Errors
/// Why there are none, and what would help.
pub(super) fn open(device: &str) -> Result<Box<dyn GpuReader>, String> {
    let (kind, number) = device.split_once(':').unwrap_or((device, "0"));
    let number = number.parse().map_err(|_| format!("`{device}` has no GPU number"))?;
    match kind {
        "cuda" => nvidia(number),
        "metal" => Err(
            "only root may read the counters of Apple GPUs, through powermetrics, which is not \
                 supported"
                .into(),
        ),
        other => Err(format!("no counters are known for the device `{other}`")),
    }
}

#[cfg(feature = "nvml")]
fn nvidia(number: usize) -> Result<Box<dyn GpuReader>, String> {
    Ok(Box::new(nvml::Gpu::open(number, &CudaVisibility::from_env())?))
}

#[cfg(not(feature = "nvml"))]
fn nvidia(_number: usize) -> Result<Box<dyn GpuReader>, String> {
    Err("built without counters of NVIDIA GPUs; build with `--features nvml`".into())
}

/// The environment variables by which CUDA numbers the GPUs.
#[derive(Debug, Default)]
#[cfg(any(test, feature = "nvml"))]
struct CudaVisibility {
    devices: Option<String>,
    order: Option<String>,
}

/// A GPU in NVML's list, which is in PCI bus order.
#[cfg(any(test, feature = "nvml"))]
struct ListedGpu {
    name: String,
    uuid: String,
}

#[cfg(any(test, feature = "nvml"))]
impl CudaVisibility {
    #[cfg(feature = "nvml")]
    fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok();
        CudaVisibility {
            devices: variable("CUDA_VISIBLE_DEVICES"),
            order: variable("CUDA_DEVICE_ORDER"),
        }
    }

    /// The index in NVML's list of CUDA's GPU `number`. CUDA numbers the visible GPUs, fastest
    /// first. With several kinds of GPU that order is unknown, and reading another GPU's counters
    /// would be worse than none.
    fn pick(&self, number: usize, listed: &[ListedGpu]) -> Result<usize, String> {
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
                "several kinds of GPU are installed, and CUDA's order of them is unknown; set \
                        CUDA_DEVICE_ORDER=PCI_BUS_ID"
                    .into(),
            );
        }
        if index >= listed.len() {
            return Err(format!("no GPU {index}; {} are installed", listed.len()));
        }
        Ok(index)
    }
}

/// The only module that uses NVML.
#[cfg(feature = "nvml")]
mod nvml {
    use std::process;
    use std::time::Duration;

    use nvml_wrapper::bitmasks::device::ThrottleReasons;
    use nvml_wrapper::enum_wrappers::device::Sampling;
    use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
    use nvml_wrapper::error::NvmlError;
    use nvml_wrapper::{Device, Nvml};

    use super::{CudaVisibility, GpuMemory, GpuReader, ListedGpu, UtilizationSample};

    /// Reasons that count as throttling. Idling and user-set clocks do not.
    const THROTTLING: &[(ThrottleReasons, &str)] = &[
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
        pub(super) fn open(number: usize, visible: &CudaVisibility) -> Result<Self, String> {
            let nvml = Nvml::init().map_err(|error| match error {
                NvmlError::LibloadingError(_) => {
                    "no NVML library: no NVIDIA driver is installed, or the container does not \
                     expose it (docker: `--gpus all`)"
                        .into()
                }
                other => format!("NVML does not start: {other}; does nvidia-smi work?"),
            })?;
            let list = |index| {
                let gpu = nvml.device_by_index(index)?;
                Ok(ListedGpu { name: gpu.name()?, uuid: gpu.uuid()? })
            };
            let listed: Result<Vec<ListedGpu>, NvmlError> =
                nvml.device_count().and_then(|count| (0..count).map(list).collect());
            let listed = listed.map_err(|error| format!("NVML does not list GPUs: {error}"))?;
            let index = visible.pick(number, &listed)?;
            let name = format!("GPU {index} ({})", listed[index].name);
            Ok(Gpu { nvml, index: index as u32, name })
        }

        /// Queries the GPU for `what`.
        fn query<T>(
            &self,
            what: &str,
            query: impl FnOnce(Device) -> Result<T, NvmlError>,
        ) -> Result<T, String> {
            let result = self.nvml.device_by_index(self.index).and_then(query);
            result.map_err(|error| format!("cannot read the {what} of {}: {error}", self.name))
        }
    }

    impl GpuReader for Gpu {
        fn name(&self) -> &str {
            &self.name
        }

        fn energy_mj(&self) -> Result<u64, String> {
            self.query("energy", |gpu| gpu.total_energy_consumption())
        }

        fn utilization(&self, since: Duration) -> Result<Vec<UtilizationSample>, String> {
            let since_us = since.as_micros() as u64;
            let samples = self.query("utilization", |gpu| {
                match gpu.samples(Sampling::GpuUtilization, since_us) {
                    Err(NvmlError::NotFound) => Ok(Vec::new()), // None is later.
                    samples => samples,
                }
            })?;
            let percent = |value| match value {
                SampleValue::F64(value) => value,
                SampleValue::U32(value) => f64::from(value),
                SampleValue::U64(value) => value as f64,
                SampleValue::I64(value) => value as f64,
            };
            let samples = samples.into_iter().map(|sample| UtilizationSample {
                at: Duration::from_micros(sample.timestamp),
                share: percent(sample.value) / 100.0,
            });
            Ok(samples.collect())
        }

        fn memory(&self) -> Result<GpuMemory, String> {
            let processes = self.query("processes", |gpu| gpu.running_compute_processes());
            let own = processes.into_iter().flatten().filter(|other| other.pid == process::id());
            let bytes = own.filter_map(|own| match own.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            });
            match bytes.reduce(|sum, bytes| sum + bytes) {
                Some(bytes) => Ok(GpuMemory::Process(bytes)),
                None => self.query("memory", |gpu| Ok(GpuMemory::Device(gpu.memory_info()?.used))),
            }
        }

        fn throttle_reasons(&self) -> Result<Vec<&'static str>, String> {
            let reasons = self.query("throttle reasons", |gpu| gpu.current_throttle_reasons())?;
            let active = THROTTLING.iter().filter(|(reason, _)| reasons.contains(*reason));
            Ok(active.map(|(_, name)| *name).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(gpus: &[(&str, &str)]) -> Vec<ListedGpu> {
        let gpu = |&(name, uuid): &(&str, &str)| ListedGpu { name: name.into(), uuid: uuid.into() };
        gpus.iter().map(gpu).collect()
    }

    #[test]
    fn the_gpu_that_cuda_numbers_is_found_or_none_is() {
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
            let visible = CudaVisibility {
                devices: devices.map(str::to_string),
                order: order.map(str::to_string),
            };
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
            ("metal", "only root may read the counters of Apple GPUs"),
            ("cuda:x", "`cuda:x` has no GPU number"),
            ("vulkan", "no counters are known for the device `vulkan`"),
        ] {
            let why = open(device).err().unwrap_or_default();
            assert!(why.starts_with(expected), "{why}");
        }
    }

    /// With a driver, the name of a GPU; without one, the reason.
    #[test]
    fn an_nvidia_gpu_has_a_name_or_a_reason() {
        match open("cuda") {
            Ok(gpu) => assert!(gpu.name().starts_with("GPU "), "{}", gpu.name()),
            Err(why) if cfg!(feature = "nvml") => assert!(!why.is_empty()),
            Err(why) => assert!(why.contains("--features nvml"), "{why}"),
        }
    }
}
