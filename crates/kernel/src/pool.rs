//! Thread pool for short parallel regions. A layer of a small model has a dozen regions of about
//! ten microseconds, so workers spin while they wait for the next one, and sleep when none comes.
//! Knows nothing of what the regions compute.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::{io, thread};

use crate::error::{Error, Result};

/// Spins before a thread sleeps: about 0.2 ms, longer than the gap between two regions of a pass,
/// and too short to disturb other programs.
const SPINS: u32 = 10_000;

/// The body of a region: `(task, thread)`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A fixed number of threads, the calling one among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    /// Locked during a region: a pool runs one at a time.
    region: Mutex<()>,
}

struct Shared {
    /// Number of regions published so far; a change starts the workers.
    epoch: AtomicUsize,
    /// The next task of the region.
    next: AtomicUsize,
    /// Workers that have not finished the region.
    busy: AtomicUsize,
    /// Spins before a worker sleeps.
    spins: u32,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// The current region.
    job: Option<Job>,
    sleeping: usize,
    shutdown: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
struct Job {
    run: *const Task<'static>,
    tasks: usize,
}

// SAFETY: the pointer is to a `Sync` closure and is dereferenced only while `Pool::run` keeps it
// alive.
unsafe impl Send for Job {}

impl Pool {
    /// A pool of `threads`, the calling one among them.
    ///
    /// # Errors
    /// When a thread cannot be started; those started before it have ended then.
    pub fn new(threads: usize) -> Result<Self> {
        Self::start(threads, SPINS, |_| {})
    }

    /// As [`Pool::new`], with thread `i` pinned to `cpus[i]`. The calling thread is not pinned,
    /// since threads that it starts later would inherit that; `cpus[0]` is left for it.
    ///
    /// # Errors
    /// As [`Pool::new`], and when the system does not pin a thread.
    ///
    /// # Panics
    /// When there are fewer CPUs than threads.
    pub fn pinned(threads: usize, cpus: &[usize]) -> Result<Self> {
        assert!(threads <= cpus.len(), "a CPU for each thread");
        let (sender, receiver) = mpsc::channel();
        let cpus = cpus.to_vec();
        let pool = Self::start(threads, SPINS, move |worker| {
            let _ = sender.send(pin_to(cpus[worker]));
        })?;
        // One result per worker; the channel stays open as long as there is a worker.
        let pinned = receiver.iter().take(pool.workers.len()).collect::<io::Result<()>>();
        pinned.map_err(Error::Pin)?;
        Ok(pool)
    }

    fn start(
        threads: usize,
        spins: u32,
        on_start: impl Fn(usize) + Clone + Send + 'static,
    ) -> Result<Self> {
        let state = State { job: None, sleeping: 0, shutdown: false, panic: None };
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            spins,
            state: Mutex::new(state),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), region: Mutex::new(()) };
        for worker in 1..threads.max(1) {
            let (shared, on_start) = (pool.shared.clone(), on_start.clone());
            let work = move || {
                on_start(worker);
                shared.work(worker);
            };
            let started = thread::Builder::new().name(format!("kernel-{worker}")).spawn(work);
            // On an error, dropping the pool ends the threads started before.
            pool.workers.push(started.map_err(|source| Error::Threads { threads, source })?);
        }
        Ok(pool)
    }

    /// Number of threads, the calling one among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// A parallel region: runs `task(number, thread)` once for every number below `tasks`, on all
    /// threads, and returns when all are done. Threads take the next number dynamically. A task
    /// must not run a region of the same pool.
    ///
    /// # Panics
    /// When a task panics, after the others are done.
    pub fn run(&self, tasks: usize, task: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(|number| task(number, 0));
        }
        let _region = lock(&self.region);
        let shared = &*self.shared;
        let task: &Task<'_> = &task;
        // SAFETY: only the lifetime changes. The closure outlives the region: this function
        // returns, or unwinds after a task's panic, only when no worker is busy and the job is
        // removed.
        let run = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.publish(|state| state.job = Some(Job { run, tasks }));
        let own = catch_unwind(AssertUnwindSafe(|| shared.run_tasks(task, tasks, 0)));
        let mut spins = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spin(&mut spins);
        }
        let panic = {
            let mut state = lock(&shared.state);
            state.job = None;
            state.panic.take()
        };
        if let Some(panic) = own.err().or(panic) {
            resume_unwind(panic);
        }
    }

    /// Runs `work(thread)` once on every thread: as many tasks as threads, with a barrier at their
    /// start.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn on_each_thread(&self, work: impl Fn(usize) + Sync) {
        let started = AtomicUsize::new(0);
        self.run(self.threads(), |_, thread| {
            started.fetch_add(1, Ordering::AcqRel);
            let mut spins = 0;
            while started.load(Ordering::Acquire) < self.threads() {
                spin(&mut spins);
            }
            work(thread);
        });
    }

    /// As [`Pool::run`], with a chunk of `size` items for each task; the last may be shorter.
    ///
    /// # Panics
    /// As [`Pool::run`], and when `size` is 0.
    pub fn run_chunks<T: Send>(
        &self,
        items: &mut [T],
        size: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (length, items) = (items.len(), SharedSlice::new(items));
        self.run(length.div_ceil(size), |number, _| {
            let start = number * size;
            // SAFETY: tasks have different numbers, so these ranges do not overlap, and they end
            // with the slice.
            let chunk = unsafe { items.slice(start, size.min(length - start)) };
            task(number, chunk);
        });
    }
}

/// Pins the calling thread to a CPU.
#[cfg(target_os = "linux")]
fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU {cpu}")));
    }
    let mut one = rustix::thread::CpuSet::new();
    one.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.publish(|state| state.shutdown = true);
        for worker in self.workers.drain(..) {
            // Workers catch the panics of tasks and have none of their own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Changes the state, advances the epoch and wakes sleeping workers. The epoch advances under
    /// the lock. A worker compares it under the lock too, and `Condvar::wait` releases the lock
    /// only as the worker falls asleep: either it sees the new epoch, or it sleeps and is notified.
    /// Without the lock, the epoch could advance between comparison and sleep, and the wake-up
    /// would be lost.
    fn publish(&self, change: impl FnOnce(&mut State)) {
        let sleeping = {
            let mut state = lock(&self.state);
            change(&mut state);
            self.epoch.fetch_add(1, Ordering::Release);
            state.sleeping
        };
        if sleeping > 0 {
            self.wake.notify_all();
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.epoch.load(Ordering::Acquire) == seen && spins < self.spins {
                std::hint::spin_loop();
                spins += 1;
            }
            let job = {
                let mut state = lock(&self.state);
                while self.epoch.load(Ordering::Acquire) == seen {
                    state.sleeping += 1;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.sleeping -= 1;
                }
                seen = self.epoch.load(Ordering::Acquire);
                if state.shutdown {
                    return;
                }
                state.job
            };
            let Some(job) = job else { continue };
            // SAFETY: `Pool::run` waits for this worker before the closure is dropped.
            let task = unsafe { &*job.run };
            let done = catch_unwind(AssertUnwindSafe(|| self.run_tasks(task, job.tasks, worker)));
            if let Err(panic) = done {
                lock(&self.state).panic = Some(panic);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn run_tasks(&self, task: &Task<'_>, tasks: usize, thread: usize) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return;
            }
            task(number, thread);
        }
    }
}

/// Ignores poisoning: a panic under the lock leaves no inconsistent state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins, and after a while yields, in case another thread occupies the CPU of a worker.
fn spin(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

/// A slice of which parallel tasks write disjoint parts.
pub(super) struct SharedSlice<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: users of `slice` promise to write disjoint parts, and items may move between threads.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

impl<T> SharedSlice<T> {
    pub(super) fn new(items: &mut [T]) -> Self {
        Self { start: items.as_mut_ptr(), length: items.len() }
    }

    /// # Safety
    /// The original slice is borrowed for as long, and nothing else uses these items meanwhile.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    pub(super) unsafe fn slice(&self, at: usize, length: usize) -> &mut [T] {
        assert!(at <= self.length && length <= self.length - at, "a part within the slice");
        // SAFETY: in bounds, as just asserted; disjoint from other parts, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), length) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn workers_are_pinned_to_their_cpus_and_the_calling_thread_is_not() {
        use rustix::thread::sched_getaffinity;
        let before = sched_getaffinity(None).unwrap();
        let allowed: Vec<usize> =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu)).collect();
        // Where there are fewer CPUs, some are used twice.
        let cpus: Vec<usize> = allowed.iter().copied().cycle().take(3).collect();
        let pool = Pool::pinned(3, &cpus).unwrap();
        let (all, seen) = (std::sync::Barrier::new(3), Mutex::new(Vec::new()));
        pool.run(3, |_, thread| {
            all.wait(); // So that each thread has a task.
            lock(&seen).push((thread, sched_getaffinity(None).unwrap()));
        });
        for (thread, set) in seen.into_inner().unwrap() {
            if thread == 0 {
                assert_eq!(set, before);
            } else {
                assert_eq!((set.count(), set.is_set(cpus[thread])), (1, true), "{thread}");
            }
        }
        let none = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| !allowed.contains(cpu));
        assert!(Pool::pinned(2, &[0, none.unwrap()]).is_err(), "a CPU that does not exist");
        assert!(Pool::pinned(2, &[0, usize::MAX]).is_err());
    }

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 1000] {
                for _ in 0..20 {
                    let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                    pool.run(tasks, |number, thread| {
                        assert!(thread < threads);
                        counts[number].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
            let mut items = vec![0usize; 1003];
            pool.run_chunks(&mut items, 10, |number, chunk| chunk.fill(number));
            assert!(items.iter().enumerate().all(|(i, &number)| number == i / 10));
        }
    }

    #[test]
    fn each_thread_works_once() {
        let pool = Pool::new(3).unwrap();
        let seen = [0; 3].map(AtomicUsize::new);
        for _ in 0..50 {
            pool.on_each_thread(|thread| {
                seen[thread].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(seen.map(AtomicUsize::into_inner), [50; 3]);
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicU32::new(0);
        for _ in 0..3 {
            while lock(&pool.shared.state).sleeping < 2 {
                thread::yield_now();
            }
            pool.run(100, |_, _| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 300);
    }

    /// Drops pools at the moment when their workers fall sleeping. An end that is announced without
    /// the lock (epoch moved after the lock was released) and a sleep of 50 µs in between make this
    /// hang in one of the first pools.
    #[test]
    fn no_worker_misses_the_shutdown_of_its_pool() {
        let done = AtomicUsize::new(0);
        let mut expected = 0;
        for round in 0..100_000 {
            // Mostly one worker: the fastest to start, and no other can take its wake-up.
            let workers = [1, 1, 2, 1, 1, 3][round % 6];
            let (regions, spins) = (round / 6 % 3, [0, 1, 10, 100][round / 18 % 4]);
            let started = Arc::new(AtomicUsize::new(0));
            let counter = started.clone();
            let pool = Pool::start(1 + workers, spins, move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let pool = pool.unwrap();
            for _ in 0..regions {
                pool.run(2 * workers, |_, _| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                expected += 2 * workers;
            }
            // Delays from before the workers run to after they sleep.
            let delay = round / 72 % 64;
            while delay > 0 && started.load(Ordering::Relaxed) < workers {
                thread::yield_now();
            }
            (0..4 * delay).for_each(|_| std::hint::spin_loop());
            drop(pool);
            assert_eq!(started.load(Ordering::Relaxed), workers, "each was joined");
        }
        assert_eq!(done.into_inner(), expected);
    }

    /// In a process with little address space, where so many stacks do not fit.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_cannot_start_is_an_error_and_those_before_it_end() {
        const VARIABLE: &str = "CANDLEMARK_TEST_REFUSED";
        const NAME: &str =
            "pool::tests::a_thread_that_cannot_start_is_an_error_and_those_before_it_end";
        if std::env::var_os(VARIABLE).is_some() {
            let started = Arc::new(AtomicUsize::new(0));
            let counter = started.clone();
            let result = Pool::start(100_000, SPINS, move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let error = result.err().unwrap();
            assert!(
                matches!(&error, Error::Threads { threads: 100_000, source }
                if source.raw_os_error() == Some(11)),
                "{error:?}"
            );
            assert!(started.load(Ordering::Relaxed) > 0, "some were started");
            assert_eq!(Arc::strong_count(&started), 1, "and none is left");
            return;
        }
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 2000000; exec \"$0\" --exact \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(VARIABLE, "1")
            // Large stacks: few threads fit, and small allocations still succeed after the last.
            .env("RUST_MIN_STACK", (64 << 20).to_string())
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_the_pool_stays_usable() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicU32::new(0);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, |number, _| {
                done.fetch_add(1, Ordering::Relaxed);
                assert_ne!(number, 7, "task 7 panics");
            });
        }));
        assert!(panic.is_err());
        pool.run(50, |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert!(done.load(Ordering::Relaxed) >= 58);
    }
}
