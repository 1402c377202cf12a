//! Energy, CPU and GPU use of a timed region: counters are read before it begins and after it has
//! ended, and nothing runs beside it. Knows nothing of what the region does.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::record::{Block, Caveat};

use super::energy::{POWERCAP, Packages};
use super::gpu::{GpuMemory, GpuReader};
use super::{gpu, utilisation};

/// RAPL counts anew about every millisecond: a shorter region would be off by more than 2 %.
const CPU_ENERGY_LEAST: Duration = Duration::from_millis(50);

/// A GPU's power is measured anew every 20 to 100 ms, depending on the model (arXiv:2312.02741): a
/// shorter region would be off by more than 5 %.
const GPU_ENERGY_LEAST: Duration = Duration::from_secs(2);

/// NVML takes a sample every sixth of a second to every second.
const GPU_USE_LEAST: Duration = Duration::from_secs(1);

/// A number with how it was read, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Measured.
    Known {
        /// In the unit of the field that holds it.
        value: f64,
        /// Whose it is, and how it was read.
        scope: String,
    },
    /// Not measured; what is missing and what would give it.
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

    /// The number divided by another, of the same scope.
    fn over(&self, divisor: f64) -> Figure {
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

/// The counters that a device has, found once and read around each region.
pub struct Meter {
    threads: usize,
    counters: Counters,
}

/// Whose energy is counted: that of the device that runs the model.
enum Counters {
    Cpu(Result<Packages, String>),
    Gpu(Result<Box<dyn GpuReader>, String>),
}

/// The counters when a region began.
#[derive(Debug)]
pub struct Reading {
    counts: Counts,
    start: Instant,
}

/// The counters at one moment.
#[derive(Debug)]
struct Counts {
    /// Since 1970.
    at: Duration,
    cpu_time: Result<Duration, String>,
    energy: Result<Vec<u64>, String>,
    memory: Result<GpuMemory, String>,
}

/// What a region took.
#[derive(Debug, Clone, PartialEq)]
pub struct Spent {
    /// Wall time of the region.
    pub seconds: f64,
    /// Joules of the device that ran the model: the CPU packages, or the GPU's board.
    pub energy_j: Figure,
    /// The same as mean power in watts.
    pub power_w: Figure,
    /// CPU time of this process as a share of all threads' wall time; more than 1 where more
    /// threads were busy.
    pub cpu_utilisation: Figure,
    /// Share of the time in which some kernel ran on the GPU, whoever's it was.
    pub gpu_utilisation: Figure,
    /// GPU memory of this process: the larger of two samples, before the region and after it, so a
    /// lower bound of its peak.
    pub gpu_memory_bytes: Figure,
    /// Whether the GPU was slowed down at the end of the region, and by what; empty where no GPU
    /// is read.
    pub throttle: String,
}

impl Meter {
    /// Finds the counters for an engine's device (`cpu`, `cuda:0`, `metal`) and its number of
    /// threads. This may load a driver's library and take milliseconds: do it before anything
    /// is timed.
    pub fn for_device(device: &str, threads: usize) -> Self {
        let counters = match device.split(':').next() {
            Some("cpu") => Counters::Cpu(Packages::find(Path::new(POWERCAP))),
            _ => Counters::Gpu(gpu::open(device)),
        };
        Meter { threads, counters }
    }

    /// Reads the counters; the region begins when this returns.
    pub fn begin(&self) -> Reading {
        let memory = self.memory(); // What takes longest is read farthest from the region.
        let energy = self.energy();
        let counts = Counts { at: now(), cpu_time: utilisation::cpu_time(), energy, memory };
        Reading { counts, start: Instant::now() }
    }

    /// Ends the region and reads the counters again. What was asked of a GPU must be done by then.
    pub fn end(&self, begun: Reading) -> Spent {
        let elapsed = begun.start.elapsed();
        let cpu_time = utilisation::cpu_time();
        let (at, energy) = (now(), self.energy());
        self.spent(&begun.counts, &Counts { at, cpu_time, energy, memory: self.memory() }, elapsed)
    }

    fn spent(&self, before: &Counts, after: &Counts, elapsed: Duration) -> Spent {
        let energy_j = self.joules(&before.energy, &after.energy, elapsed);
        let share = both(&before.cpu_time, &after.cpu_time).and_then(|(before, after)| {
            utilisation::share(after.saturating_sub(*before), elapsed, self.threads)
        });
        Spent {
            seconds: elapsed.as_secs_f64(),
            power_w: energy_j.over(elapsed.as_secs_f64()),
            energy_j,
            cpu_utilisation: Figure::new(
                share,
                format!("{}, of {} threads", utilisation::RESOLUTION, self.threads),
            ),
            gpu_utilisation: self.busy(before.at, after.at, elapsed),
            gpu_memory_bytes: both(&before.memory, &after.memory)
                .map_or_else(Figure::Unknown, |(before, after)| memory(*before, *after)),
            throttle: self.throttle(),
        }
    }

    /// Which counters can be read, by name, and why others cannot; for people.
    pub fn counters(&self) -> Vec<(&'static str, String)> {
        let state = |scope: Result<String, String>| match scope {
            Ok(scope) => format!("readable: {scope}"),
            Err(why) => format!("not readable: {why}"),
        };
        let cpu = utilisation::cpu_time().map(|_| utilisation::RESOLUTION.to_string());
        let mut rows = vec![("cpu_time", state(cpu))];
        match &self.counters {
            Counters::Cpu(Ok(packages)) => rows.push(("cpu_energy", state(Ok(packages.scope())))),
            Counters::Cpu(Err(why)) => rows.push(("cpu_energy", state(Err(why.clone())))),
            Counters::Gpu(Err(why)) => rows.push(("gpu", state(Err(why.clone())))),
            Counters::Gpu(Ok(gpu)) => {
                let name = || gpu.name().to_string();
                rows.push(("gpu_energy", state(gpu.energy_mj().map(|_| name()))));
                rows.push(("gpu_utilisation", state(gpu.busy(Duration::ZERO).map(|_| name()))));
                rows.push(("gpu_memory", state(gpu.memory().map(|_| name()))));
                rows.push(("gpu_throttle", state(gpu.slowed().map(|_| name()))));
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
        let (before, after) = match both(before, after) {
            Ok(readings) => readings,
            Err(why) => return Figure::Unknown(why),
        };
        match &self.counters {
            Counters::Cpu(Ok(packages)) => {
                let joules = long_enough("energy", elapsed, CPU_ENERGY_LEAST)
                    .and_then(|()| packages.joules(before, after, elapsed));
                let scope = packages.scope() + ", without memory, with other programs";
                Figure::new(joules, scope)
            }
            Counters::Gpu(Ok(gpu)) => {
                let joules = long_enough("energy", elapsed, GPU_ENERGY_LEAST).and_then(|()| {
                    let moved = after[0].checked_sub(before[0]).filter(|spent| *spent > 0);
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
            return String::new(); // The figures have the reason.
        };
        match gpu.slowed() {
            Ok(reasons) if reasons.is_empty() => "not slowed down at the end of the region".into(),
            Ok(reasons) => format!("slowed down at the end of the region: {}", reasons.join(", ")),
            Err(why) => format!("unknown whether it was slowed down: {why}"),
        }
    }

    /// The mean of the driver's samples between two times.
    fn busy(&self, since: Duration, until: Duration, elapsed: Duration) -> Figure {
        let samples = self.gpu().and_then(|gpu| {
            long_enough("GPU use", elapsed, GPU_USE_LEAST)?;
            let mut samples = gpu.busy(since)?;
            samples.retain(|sample| since < sample.at && sample.at <= until);
            match samples.iter().map(|sample| sample.at).min() {
                // One sample says nothing of a region that it may lie half outside of.
                Some(first) if samples.len() > 1 => Ok((gpu.name().to_string(), first, samples)),
                _ => Err("the driver took fewer than two samples of GPU use in the region".into()),
            }
        });
        match samples {
            Ok((name, first, samples)) => {
                let sum: f64 = samples.iter().map(|sample| sample.share).sum();
                let count = samples.len();
                let covered = (until - first).as_secs_f64();
                let scope = format!(
                    "{name}, with other programs, mean of {count} samples of the driver in the last \
                     {covered:.1} s of {:.1} s",
                    elapsed.as_secs_f64()
                );
                Figure::Known { value: sum / count as f64, scope }
            }
            Err(why) => Figure::Unknown(why),
        }
    }
}

/// Writes what a region took into a block, under the names of [`crate::workload::METRICS`], with
/// scopes and reasons as notes. `generated_tokens` are those of all sequences in the whole region.
pub fn store(spent: &Spent, generated_tokens: f64, block: &mut Block) {
    let per_token = if generated_tokens > 0.0 {
        spent.energy_j.over(generated_tokens)
    } else {
        Figure::Unknown("nothing was generated".into())
    };
    for (name, figure) in [
        ("energy_j_per_token", &per_token),
        ("power_w", &spent.power_w),
        ("cpu_utilisation", &spent.cpu_utilisation),
        ("gpu_utilisation", &spent.gpu_utilisation),
        ("peak_device_bytes", &spent.gpu_memory_bytes),
    ] {
        block.values.insert(name.into(), figure.value());
        block.notes.insert(name.into(), figure.note().into());
    }
    block.caveats.remove("peak_device_bytes");
    if spent.gpu_memory_bytes.value().is_some() {
        block.caveats.insert("peak_device_bytes".into(), Caveat::LowerBound);
    }
    if !spent.throttle.is_empty() {
        let note = block.notes.entry("power_w".into()).or_default();
        *note = format!("{note}; {}", spent.throttle);
    }
}

/// Two readings, or why one of them is missing.
fn both<'a, T>(
    before: &'a Result<T, String>,
    after: &'a Result<T, String>,
) -> Result<(&'a T, &'a T), String> {
    Ok((before.as_ref().map_err(String::clone)?, after.as_ref().map_err(String::clone)?))
}

fn memory(before: GpuMemory, after: GpuMemory) -> Figure {
    let (value, samples) = match (before, after) {
        (GpuMemory::Process(before), GpuMemory::Process(after)) => {
            (before.max(after), "the larger of two samples, before and after the region")
        }
        // A process that first uses the GPU within the region is listed only after it.
        (GpuMemory::Device(_), GpuMemory::Process(after)) => {
            (after, "one sample, after the region")
        }
        (_, GpuMemory::Device(bytes)) => {
            return Figure::Unknown(format!(
                "the driver does not list this process (a container with process ids of its own?); \
                 all programs together held {bytes} bytes after the region"
            ));
        }
    };
    let scope = format!("this process, {samples}: a lower bound of the peak");
    Figure::Known { value: value as f64, scope }
}

/// An error if a region is too short for a counter that moves in steps.
fn long_enough(what: &str, elapsed: Duration, least: Duration) -> Result<(), String> {
    if elapsed >= least {
        return Ok(());
    }
    Err(format!(
        "the counter of {what} moves in steps too coarse for {:.0} ms; measure at least {} ms",
        elapsed.as_secs_f64() * 1e3,
        least.as_millis()
    ))
}

/// The time since 1970, which NVML stamps its samples with.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
