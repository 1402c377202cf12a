//! Disturbances: threads that take a CPU or the memory's bandwidth by a schedule, so that rules can
//! be tried on a machine that is as restless as people's machines are.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::error::Result;
use crate::pair::quota::Quota;
use crate::record::pool::Column;

/// What goes on beside the blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Under which heading its figures are reported.
    pub column: Column,
    /// For people.
    pub about: &'static str,
    load: Option<Load>,
}

impl Environment {
    /// Nothing beside the blocks but what the host itself does.
    pub fn quiet(name: &str) -> Self {
        let about = "nothing beside the blocks but what the host itself does";
        Self { name: name.into(), column: Column::Quiet, about, load: None }
    }

    /// The limit that the workers are put under, if the environment has one.
    pub(super) fn quota(&self) -> Result<Option<Quota>> {
        match self.load {
            Some(Load::Quota(share)) => Quota::new(share).map(Some),
            _ => Ok(None),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    /// Takes one CPU in bursts of 1 to 10 s; the share of time that is on.
    Bursts(What, f64),
    /// Takes a growing share of one CPU, from none to this, over the run.
    Ramp(f64),
    /// Takes this share of one CPU from the middle of the run on.
    Step(f64),
    /// Lets the workers have this share of all CPUs.
    Quota(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Cpu,
    Bandwidth,
}

/// The environments of a pool.
pub fn environments() -> Vec<Environment> {
    use Column::{Hostile, Typical};
    let restless = [
        (
            "bursts",
            Typical,
            "one CPU is taken in bursts of 1 to 10 s, a tenth of the time",
            Load::Bursts(What::Cpu, 0.1),
        ),
        (
            "drift",
            Typical,
            "a growing share of one CPU is taken, from none to a third",
            Load::Ramp(0.33),
        ),
        ("step", Typical, "from the middle on, a quarter of one CPU is taken", Load::Step(0.25)),
        (
            "cpu-hog",
            Hostile,
            "one CPU is taken in bursts of 1 to 10 s, half of the time",
            Load::Bursts(What::Cpu, 0.5),
        ),
        (
            "bandwidth-hog",
            Hostile,
            "one CPU streams memory in bursts of 1 to 10 s, half of the time",
            Load::Bursts(What::Bandwidth, 0.5),
        ),
        (
            "quota",
            Hostile,
            "the workers may have three quarters of the CPUs' time, in periods of 0.1 s",
            Load::Quota(0.75),
        ),
    ];
    let restless = restless.into_iter().map(|(name, column, about, load)| Environment {
        name: name.into(),
        column,
        about,
        load: Some(load),
    });
    std::iter::once(Environment::quiet("quiet")).chain(restless).collect()
}

/// Runs `work` while the environment's load runs beside it. `progress` is the share of the work
/// that is done, in thousandths, kept up to date by the work.
pub fn beside<T>(
    environment: &Environment,
    seed: u64,
    progress: &AtomicUsize,
    work: impl FnOnce() -> T,
) -> T {
    /// Ends the load, also when the work panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(over);
        if let Some(load) = environment.load.filter(|load| !matches!(load, Load::Quota(_))) {
            scope.spawn(move || load.run(seed, over, progress));
        }
        work()
    })
}

/// How long a share of a CPU is averaged over: a scheduler's time slice or two.
const SLICE: Duration = Duration::from_millis(20);

impl Load {
    fn run(self, seed: u64, over: &AtomicBool, progress: &AtomicUsize) {
        let mut random = StdRng::seed_from_u64(seed);
        let buffer: Vec<u64> = match self {
            Load::Bursts(What::Bandwidth, _) => (0..32 << 20).collect(),
            _ => Vec::new(),
        };
        let busy = |time: Duration| {
            let start = Instant::now();
            let mut at = 0;
            while start.elapsed() < time && !over.load(Ordering::Relaxed) {
                if buffer.is_empty() {
                    (0..1000).for_each(|_| std::hint::spin_loop());
                } else {
                    let part = &buffer[at..at + (1 << 17)];
                    black_box(part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
                    at = (at + (1 << 17)) % buffer.len();
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
                Load::Bursts(_, share) => {
                    let on = random.random_range(1.0..10.0);
                    busy(Duration::from_secs_f64(on));
                    idle(Duration::from_secs_f64(on * (1.0 - share) / share));
                    continue;
                }
                Load::Ramp(most) => most * done,
                Load::Step(share) if done >= 0.5 => share,
                Load::Step(_) | Load::Quota(_) => 0.0,
            };
            busy(SLICE.mul_f64(share));
            idle(SLICE.mul_f64(1.0 - share));
        }
    }
}
