//! Energy, CPU and GPU utilization of a timed region. Counters are read before and after it;
//! nothing runs concurrently. Knows nothing of the region's work.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::record::{Block, Caveat};
use crate::workload::metric;

use super::energy::{POWERCAP, Packages};
use super::gpu::{GpuMemory, GpuReader};
use super::{gpu, utilization};

/// RAPL updates about every millisecond: a shorter region would be off by more than 2 %.
const MIN_CPU_ENERGY_TIME: Duration = Duration::from_millis(50);

/// GPUs update their power every 20 to 100 ms, depending on the model (arXiv:2312.02741): a shorter
/// region would be off by more than 5 %.
const MIN_GPU_ENERGY_TIME: Duration = Duration::from_secs(2);

/// NVML samples utilization every 1/6 to 1 second.
const MIN_GPU_UTILIZATION_TIME: Duration = Duration::from_secs(1);

/// A number with its scope, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Measured.
    Known {
        /// In the unit of its field.
        value: f64,
        /// What it covers, and how it was measured.
        scope: String,
    },
    /// Not measured: why, and what would help.
    Unknown(String),
}

impl Figure {
    /// The number, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Figure::Known { value, .. } => Some(*value),
            Figure::Unknown(_) => None,
        }
    }

    /// The scope of the number, or why there is none.
    pub fn note(&self) -> &str {
        match self {
            Figure::Known { scope, .. } => scope,
            Figure::Unknown(why) => why,
        }
    }

    fn divided_by(&self, divisor: f64) -> Figure {
        match self {
            Figure::Known { value, scope } => {
                Figure::Known { value: value / divisor, scope: scope.clone() }
            }
            Figure::Unknown(why) => Figure::Unknown(why.clone()),
        }
    }

    fn new(value: Result<f64, String>, scope: impl Into<String>) -> Self {
        match value {
            Ok(value) => Figure::Known { value, scope: scope.into() },
            Err(why) => Figure::Unknown(why),
        }
    }
}

/// The counters of a device, opened once and read around each region.
pub struct Meter {
    threads: usize,
    counters: Counters,
}

/// The counters of the device that runs the model.
enum Counters {
    Cpu(Result<Packages, String>),
    Gpu(Result<Box<dyn GpuReader>, String>),
}

/// The start of a region.
#[derive(Debug, Clone)]
pub struct RegionStart {
    readings: Readings,
    start: Instant,
}

/// The counters at one instant.
#[derive(Debug, Clone)]
struct Readings {
    /// Since 1970.
    at: Duration,
    cpu_time: Result<Duration, String>,
    energy: Result<Vec<u64>, String>,
    memory: Result<GpuMemory, String>,
}

/// Resources that a region used.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionUsage {
    /// Wall time of the region.
    pub seconds: f64,
    /// Joules of the device that ran the model: the CPU packages, or the GPU's board.
    pub energy_j: Figure,
    /// Mean power in watts.
    pub power_w: Figure,
    /// CPU time of this process as a share of all threads' wall time; above 1 if more threads were
    /// busy.
    pub cpu_utilization: Figure,
    /// Share of time in which some kernel ran on the GPU, of any program.
    pub gpu_utilization: Figure,
    /// GPU memory of this process: the larger of two samples, before and after the region, so a
    /// lower bound of its peak.
    pub gpu_memory_bytes: Figure,
    /// Whether the GPU was throttled at the end of the region, and why; empty without a GPU.
    pub throttle: String,
}

impl Meter {
    /// Opens the counters for an engine's device (`cpu`, `cuda:0`, `metal`) and number of threads.
    /// May load a driver's library and take milliseconds: call it before anything is timed.
    pub(crate) fn for_device(device: &str, threads: usize) -> Self {
        let counters = match device.split(':').next() {
            Some("cpu") => Counters::Cpu(Packages::find(Path::new(POWERCAP))),
            _ => Counters::Gpu(gpu::open(device)),
        };
        Meter { threads, counters }
    }

    /// Reads the counters; the region starts when this returns.
    pub fn begin(&self) -> RegionStart {
        let memory = self.memory(); // The slowest reading is farthest from the region.
        let energy = self.energy();
        let readings = Readings { at: now(), cpu_time: utilization::cpu_time(), energy, memory };
        RegionStart { readings, start: Instant::now() }
    }

    /// Ends the region and reads the counters again. The GPU must be synchronized before.
    pub fn end(&self, start: RegionStart) -> RegionUsage {
        let elapsed = start.start.elapsed();
        let cpu_time = utilization::cpu_time();
        let (at, energy) = (now(), self.energy());
        let after = Readings { at, cpu_time, energy, memory: self.memory() };
        self.usage(&start.readings, &after, elapsed)
    }

    fn usage(&self, before: &Readings, after: &Readings, elapsed: Duration) -> RegionUsage {
        let energy_j = self.joules(&before.energy, &after.energy, elapsed);
        let share = zip_readings(&before.cpu_time, &after.cpu_time).and_then(|(before, after)| {
            utilization::share(after.saturating_sub(*before), elapsed, self.threads)
        });
        let mut scope = format!("{}, of {} threads", utilization::RESOLUTION, self.threads);
        if share.as_ref().is_ok_and(|share| *share > 1.0) {
            scope += "; above 100 %, as further threads of the process were busy";
        }
        RegionUsage {
            seconds: elapsed.as_secs_f64(),
            power_w: energy_j.divided_by(elapsed.as_secs_f64()),
            energy_j,
            cpu_utilization: Figure::new(share, scope),
            gpu_utilization: self.gpu_utilization(before.at, after.at, elapsed),
            gpu_memory_bytes: zip_readings(&before.memory, &after.memory)
                .map_or_else(Figure::Unknown, |(before, after)| gpu_memory(*before, *after)),
            throttle: self.throttle(),
        }
    }

    /// Which counters can be read, and why others cannot, for people.
    pub(crate) fn counters(&self) -> Vec<(&'static str, String)> {
        let state = |scope: Result<String, String>| match scope {
            Ok(scope) => format!("readable: {scope}"),
            Err(why) => format!("not readable: {why}"),
        };
        let cpu = utilization::cpu_time().map(|_| utilization::RESOLUTION.to_string());
        let mut rows = vec![("cpu_time", state(cpu))];
        match &self.counters {
            Counters::Cpu(Ok(packages)) => rows.push(("cpu_energy", state(Ok(packages.scope())))),
            Counters::Cpu(Err(why)) => rows.push(("cpu_energy", state(Err(why.clone())))),
            Counters::Gpu(Err(why)) => rows.push(("gpu", state(Err(why.clone())))),
            Counters::Gpu(Ok(gpu)) => {
                let name = || gpu.name().to_string();
                rows.push(("gpu_energy", state(gpu.energy_mj().map(|_| name()))));
                rows.push((
                    "gpu_utilisation",
                    state(gpu.utilization(Duration::ZERO).map(|_| name())),
                ));
                rows.push(("gpu_memory", state(gpu.memory().map(|_| name()))));
                rows.push(("gpu_throttle", state(gpu.throttle_reasons().map(|_| name()))));
            }
        }
        rows
    }

    fn energy(&self) -> Result<Vec<u64>, String> {
        match &self.counters {
            Counters::Cpu(packages) => packages.as_ref().map_err(String::clone)?.read(),
            Counters::Gpu(gpu) => Ok(vec![gpu.as_ref().map_err(String::clone)?.energy_mj()?]),
        }
    }

    /// The energy between two readings of [`Meter::energy`].
    fn joules(
        &self,
        before: &Result<Vec<u64>, String>,
        after: &Result<Vec<u64>, String>,
        elapsed: Duration,
    ) -> Figure {
        let (before, after) = match zip_readings(before, after) {
            Ok(readings) => readings,
            Err(why) => return Figure::Unknown(why),
        };
        match &self.counters {
            Counters::Cpu(Ok(packages)) => {
                let joules = check_region_length("energy", elapsed, MIN_CPU_ENERGY_TIME)
                    .and_then(|()| packages.joules(before, after, elapsed));
                let scope = packages.scope() + ", without memory, with other programs";
                Figure::new(joules, scope)
            }
            Counters::Gpu(Ok(gpu)) => {
                let joules =
                    check_region_length("energy", elapsed, MIN_GPU_ENERGY_TIME).and_then(|()| {
                        let moved = after[0].checked_sub(before[0]).filter(|energy| *energy > 0);
                        let moved = moved.ok_or("the energy counter of the GPU did not move")?;
                        Ok(moved as f64 / 1e3)
                    });
                Figure::new(joules, format!("{}, whole board, with other programs", gpu.name()))
            }
            Counters::Cpu(Err(why)) | Counters::Gpu(Err(why)) => Figure::Unknown(why.clone()),
        }
    }

    fn gpu(&self) -> Result<&dyn GpuReader, String> {
        match &self.counters {
            Counters::Cpu(_) => Err("the device is the CPU".into()),
            Counters::Gpu(gpu) => gpu.as_deref().map_err(String::clone),
        }
    }

    fn memory(&self) -> Result<GpuMemory, String> {
        self.gpu()?.memory()
    }

    fn throttle(&self) -> String {
        let Ok(gpu) = self.gpu() else {
            return String::new(); // The figures tell the reason.
        };
        match gpu.throttle_reasons() {
            Ok(reasons) if reasons.is_empty() => "not throttled at the end of the region".into(),
            Ok(reasons) => format!("throttled at the end of the region: {}", reasons.join(", ")),
            Err(why) => format!("throttling unknown: {why}"),
        }
    }

    /// The mean of the driver's samples between two times.
    fn gpu_utilization(&self, since: Duration, until: Duration, elapsed: Duration) -> Figure {
        let samples = self.gpu().and_then(|gpu| {
            check_region_length("GPU utilization", elapsed, MIN_GPU_UTILIZATION_TIME)?;
            let mut samples = gpu.utilization(since)?;
            samples.retain(|sample| since < sample.at && sample.at <= until);
            match samples.iter().map(|sample| sample.at).min() {
                // A single sample may lie half outside of the region.
                Some(first) if samples.len() > 1 => Ok((gpu.name().to_string(), first, samples)),
                _ => Err("the driver took fewer than two utilization samples in the region".into()),
            }
        });
        match samples {
            Ok((name, first, samples)) => {
                let sum: f64 = samples.iter().map(|sample| sample.share).sum();
                let count = samples.len();
                let covered = (until - first).as_secs_f64();
                let scope = format!(
                    "{name}, with other programs, mean of {count} driver samples in the last \
                     {covered:.1} s of {:.1} s",
                    elapsed.as_secs_f64()
                );
                Figure::Known { value: sum / count as f64, scope }
            }
            Err(why) => Figure::Unknown(why),
        }
    }
}

/// Stores a region's usage in a block as metrics, with scopes and reasons as notes.
/// `generated_tokens` counts all sequences in the whole region.
pub(crate) fn store_usage(usage: &RegionUsage, generated_tokens: f64, block: &mut Block) {
    let per_token = if generated_tokens > 0.0 {
        usage.energy_j.divided_by(generated_tokens)
    } else {
        Figure::Unknown("nothing was generated".into())
    };
    for (name, figure) in [
        (metric::ENERGY_J_PER_TOKEN, &per_token),
        (metric::POWER_W, &usage.power_w),
        (metric::CPU_UTILIZATION, &usage.cpu_utilization),
        (metric::GPU_UTILIZATION, &usage.gpu_utilization),
        (metric::PEAK_DEVICE_BYTES, &usage.gpu_memory_bytes),
    ] {
        block.values.insert(name.into(), figure.value());
        block.notes.insert(name.into(), figure.note().into());
    }
    block.caveats.remove(metric::PEAK_DEVICE_BYTES);
    if usage.gpu_memory_bytes.value().is_some() {
        block.caveats.insert(metric::PEAK_DEVICE_BYTES.into(), Caveat::LowerBound);
    }
    if !usage.throttle.is_empty() {
        let note = block.notes.entry(metric::POWER_W.into()).or_default();
        *note = format!("{note}; {}", usage.throttle);
    }
}

/// Two readings, or why one of them is missing.
fn zip_readings<'a, T>(
    before: &'a Result<T, String>,
    after: &'a Result<T, String>,
) -> Result<(&'a T, &'a T), String> {
    Ok((before.as_ref().map_err(String::clone)?, after.as_ref().map_err(String::clone)?))
}

fn gpu_memory(before: GpuMemory, after: GpuMemory) -> Figure {
    let (value, samples) = match (before, after) {
        (GpuMemory::Process(before), GpuMemory::Process(after)) => {
            (before.max(after), "the larger of two samples, before and after the region")
        }
        // Before its first use of the GPU, a process is not listed.
        (GpuMemory::Device(_), GpuMemory::Process(after)) => {
            (after, "one sample, after the region")
        }
        (_, GpuMemory::Device(bytes)) => {
            return Figure::Unknown(format!(
                "the driver does not list this process (in a container with its own process ids?); \
                 all programs together used {bytes} bytes after the region"
            ));
        }
    };
    let scope = format!("this process, {samples}: a lower bound of the peak");
    Figure::Known { value: value as f64, scope }
}

/// Checks that a region is long enough for the resolution of a counter.
fn check_region_length(what: &str, elapsed: Duration, least: Duration) -> Result<(), String> {
    if elapsed >= least {
        return Ok(());
    }
    Err(format!(
        "the {what} counter is too coarse for {:.0} ms; measure at least {} ms",
        elapsed.as_secs_f64() * 1e3,
        least.as_millis()
    ))
}

/// The time since 1970, as in NVML's samples.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
