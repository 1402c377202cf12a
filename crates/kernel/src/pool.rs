//! Thread pool for short parallel regions. A layer of a small model has a dozen regions of about
//! ten microseconds, so workers spin while they wait for the next one, and sleep when none comes.
//! Knows nothing of what the regions compute.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::error::{Error, Result};

/// Spins before a thread sleeps: about 0.2 ms, longer than the gap between two regions of a pass,
/// and too short to disturb other programs.
const SPINS: u32 = 10_000;

/// How long a worker runs before it yields its CPU between two tasks, less than the time slice of a
/// scheduler (3 ms with Linux). Where another program wants the CPU, the worker so loses it while
/// it holds no task, and the other threads go on without it.
const YIELD_AFTER: Duration = Duration::from_micros(1500);

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
    /// Workers that take tasks of the region. A worker that comes when none are left stays out.
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
        shared.publish(|state| state.job = Some(Job { run, tasks }));
        let own = catch_unwind(AssertUnwindSafe(|| shared.run_tasks(task, tasks, 0, || false)));
        // Workers join under the lock, so none joins from here on.
        lock(&shared.state).job = None;
        let mut spins = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spin(&mut spins);
        }
        let panic = lock(&shared.state).panic.take();
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
        let mut yielded = Instant::now();
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
                if state.job.is_some() {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                }
                state.job
            };
            let Some(job) = job else { continue };
            // SAFETY: `Pool::run` waits for this worker before the closure is dropped.
            let task = unsafe { &*job.run };
            let must_yield = || yielded.elapsed() > YIELD_AFTER;
            let work = || self.run_tasks(task, job.tasks, worker, must_yield);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                lock(&self.state).panic = Some(panic);
            }
            self.busy.fetch_sub(1, Ordering::Release);
            if must_yield() {
                thread::yield_now();
                yielded = Instant::now();
                seen = seen.wrapping_sub(1); // Joins the same region again if it still runs.
            }
        }
    }

    /// Takes tasks until none is left, or until `must_stop` between two of them.
    fn run_tasks(
        &self,
        task: &Task<'_>,
        tasks: usize,
        thread: usize,
        must_stop: impl Fn() -> bool,
    ) {
        while !must_stop() {
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
mod tests;
