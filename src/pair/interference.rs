//! Interference: threads that use a CPU or memory bandwidth on a schedule, so that rules can be
//! tested on a machine as noisy as real ones.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::error::Result;
use crate::pair::cpu_quota::CpuQuota;
use crate::record::pool::NoiseLevel;
use crate::record::pool::NoiseLevel::{Hostile, Typical};

/// The conditions under which blocks are recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// How noisy it makes the machine.
    pub noise: NoiseLevel,
    /// A description for people.
    pub about: &'static str,
    interference: Option<Interference>,
}

impl Environment {
    /// No interference but that of the host itself.
    pub fn quiet(name: &str) -> Self {
        Self {
            name: name.into(),
            noise: NoiseLevel::Quiet,
            about: "nothing beside the blocks but what the host itself does",
            interference: None,
        }
    }

    /// The CPU quota of the workers, if the environment has one.
    pub(super) fn quota(&self) -> Result<Option<CpuQuota>> {
        match self.interference {
            Some(Quota(share)) => CpuQuota::new(share).map(Some),
            _ => Ok(None),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Interference {
    /// Uses one CPU in bursts of 1 to 10 s, for this share of the time.
    Bursts(Resource, f64),
    /// Uses a share of one CPU that grows from none to this over the run.
    Ramp(f64),
    /// Uses this share of one CPU from the middle of the run on.
    Step(f64),
    /// Limits the workers to this share of all CPUs.
    Quota(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Resource {
    Cpu,
    Bandwidth,
}

use Interference::{Bursts, Quota, Ramp, Step};
use Resource::{Bandwidth, Cpu};

#[rustfmt::skip]
const NOISY: &[(&str, NoiseLevel, Interference, &str)] = &[
    ("bursts", Typical, Bursts(Cpu, 0.1), "one CPU is taken in bursts of 1 to 10 s, a tenth of the \
                                           time"),
    ("drift", Typical, Ramp(0.33), "a growing share of one CPU is taken, from none to a third"),
    ("step", Typical, Step(0.25), "from the middle on, a quarter of one CPU is taken"),
    ("cpu-hog", Hostile, Bursts(Cpu, 0.5), "one CPU is taken in bursts of 1 to 10 s, half of the \
                                            time"),
    ("bandwidth-hog", Hostile, Bursts(Bandwidth, 0.5), "one CPU streams memory in bursts of 1 to \
                                                        10 s, half of the time"),
    ("quota", Hostile, Quota(0.75), "the workers may have three quarters of the CPUs' time, in \
                                     periods of 0.1 s"),
];

/// The environments of a pool.
pub fn environments() -> Vec<Environment> {
    let noisy = NOISY.iter().map(|&(name, noise, interference, about)| Environment {
        name: name.into(),
        noise,
        about,
        interference: Some(interference),
    });
    std::iter::once(Environment::quiet("quiet")).chain(noisy).collect()
}

/// Runs `work` with the environment's interference beside it. `work` keeps `progress` up to date:
/// the share of it that is done, in thousandths.
pub(super) fn run_with_interference<T>(
    environment: &Environment,
    seed: u64,
    progress: &AtomicUsize,
    work: impl FnOnce() -> T,
) -> T {
    /// Ends the interference, also when the work panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(over);
        let threaded = |one: &Interference| !matches!(one, Quota(_));
        if let Some(interference) = environment.interference.filter(threaded) {
            scope.spawn(move || interference.run(seed, over, progress));
        }
        work()
    })
}

/// The period over which a share of a CPU is averaged: a scheduler's time slice or two.
const SLICE: Duration = Duration::from_millis(20);

/// Words of the buffer that the bandwidth interference streams, 256 MiB: larger than any L3 cache.
const STREAMED_WORDS: u64 = 32 << 20;

/// Words that are streamed between two looks at the clock.
const CHUNK_WORDS: usize = 1 << 17;

impl Interference {
    fn run(self, seed: u64, over: &AtomicBool, progress: &AtomicUsize) {
        let mut random = StdRng::seed_from_u64(seed);
        let buffer: Vec<u64> = match self {
            Bursts(Bandwidth, _) => (0..STREAMED_WORDS).collect(),
            _ => Vec::new(),
        };
        let busy = |time: Duration| {
            let start = Instant::now();
            let mut at = 0;
            while start.elapsed() < time && !over.load(Ordering::Relaxed) {
                if buffer.is_empty() {
                    (0..1000).for_each(|_| std::hint::spin_loop());
                } else {
                    let chunk = &buffer[at..at + CHUNK_WORDS];
                    black_box(chunk.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
                    at = (at + CHUNK_WORDS) % buffer.len();
                }
            }
        };
        let idle = |time: Duration| {
            let start = Instant::now();
            while start.elapsed() < time && !over.load(Ordering::Relaxed) {
                thread::sleep(time.min(SLICE));
            }
        };
        while !over.load(Ordering::Relaxed) {
            let done = progress.load(Ordering::Relaxed) as f64 / 1000.0;
            let share = match self {
                Bursts(_, share) => {
                    let on = random.random_range(1.0..10.0);
                    busy(Duration::from_secs_f64(on));
                    idle(Duration::from_secs_f64(on * (1.0 - share) / share));
                    continue;
                }
                Ramp(most) => most * done,
                Step(share) if done >= 0.5 => share,
                Step(_) | Quota(_) => 0.0,
            };
            busy(SLICE.mul_f64(share));
            idle(SLICE.mul_f64(1.0 - share));
        }
    }
}
