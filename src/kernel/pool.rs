//! Threads that work on one parallel region at a time: they wait for the next one spinning, since a
//! layer of a small model has a dozen regions of some ten microseconds, and sleep when none comes.
//! Knows nothing of what the regions compute.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::{io, thread};

use crate::error::{Error, Result};

/// Turns of the waiting loop before a thread sleeps: some 0.2 ms, longer than what lies between two
/// regions of a pass, and short beside what another program notices.
const SPINS: u32 = 10_000;

/// A region: what is done for each task, by which thread.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Some threads and the one that calls.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    /// Held during a region: a pool does one at a time.
    region: Mutex<()>,
}

struct Shared {
    /// Counts regions; an odd step further means that a new one is there.
    epoch: AtomicUsize,
    /// Tasks of the region that were given out.
    next: AtomicUsize,
    /// Workers that have not finished the region.
    busy: AtomicUsize,
    /// Turns of the waiting loop before a worker sleeps.
    spins: u32,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// The region, while there is one.
    job: Option<Job>,
    asleep: usize,
    over: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
struct Job {
    run: *const Task<'static>,
    tasks: usize,
}

// SAFETY: the pointer is to a `Sync` closure, and is only followed while `Pool::run` keeps it
// alive.
unsafe impl Send for Job {}

impl Pool {
    /// A pool of `threads`, the calling one among them.
    ///
    /// # Errors
    /// When the system refuses a thread; those that were started before have ended then.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with(threads, SPINS, |_| {})
    }

    /// As [`Pool::new`], with each thread but the calling one kept on a CPU of its own: thread `i`
    /// on `cpus[i]`. The first is left for the calling one, which goes where it likes: whatever
    /// it starts later would otherwise stay on that CPU, too.
    ///
    /// # Errors
    /// As [`Pool::new`], and when the system does not let a thread be kept there, or not at all.
    ///
    /// # Panics
    /// When there are fewer CPUs than threads.
    pub fn pinned(threads: usize, cpus: &[usize]) -> Result<Self> {
        assert!(threads <= cpus.len(), "a CPU for each thread");
        let (tell, told) = mpsc::channel();
        let cpus = cpus.to_vec();
        let pool = Self::with(threads, SPINS, move |worker| {
            let _ = tell.send(stay_on(cpus[worker]));
        })?;
        // As many answers as workers; the channel stays open as long as there is a worker.
        let kept = told.iter().take(pool.workers.len()).collect::<io::Result<()>>();
        kept.map_err(|error| {
            Error::Failed(format!("the system keeps no thread on a CPU ({error})"))
        })?;
        Ok(pool)
    }

    fn with(
        threads: usize,
        spins: u32,
        begin: impl Fn(usize) + Clone + Send + 'static,
    ) -> Result<Self> {
        let state = State { job: None, asleep: 0, over: false, panic: None };
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
            let (shared, begin) = (pool.shared.clone(), begin.clone());
            let work = move || {
                begin(worker);
                shared.work(worker);
            };
            let started = thread::Builder::new().name(format!("kernel-{worker}")).spawn(work);
            // Where one is refused, those before it end with the pool.
            pool.workers.push(started.map_err(|source| Error::Threads { threads, source })?);
        }
        Ok(pool)
    }

    /// Threads, the calling one among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(number, thread)` for every number below `tasks`, each once, on all threads; done
    /// when all are. Which thread gets which task is chance. A task must not run a region of
    /// the same pool.
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
        // SAFETY: only the lifetime is left out. The closure outlives the region, because this
        // function returns, also by a panic of a task, only after no worker is busy and the
        // job is taken back.
        let run = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.announce(|state| state.job = Some(Job { run, tasks }));
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(task, tasks, 0)));
        let mut turns = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            wait(&mut turns);
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

    /// As [`Pool::run`], with a part of `items` for each task: `size` at a time, the last may have
    /// fewer.
    ///
    /// # Panics
    /// As [`Pool::run`], and when `size` is 0.
    pub fn chunks<T: Send>(
        &self,
        items: &mut [T],
        size: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (length, items) = (items.len(), Raw::new(items));
        self.run(length.div_ceil(size), |number, _| {
            let start = number * size;
            // SAFETY: tasks have different numbers, so no two of these ranges overlap, and none
            // leaves the slice.
            let chunk = unsafe { items.slice(start, size.min(length - start)) };
            task(number, chunk);
        });
    }
}

/// Keeps the calling thread on a CPU.
#[cfg(target_os = "linux")]
fn stay_on(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU {cpu}")));
    }
    let mut one = rustix::thread::CpuSet::new();
    one.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.announce(|state| state.over = true);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Changes the state, moves the epoch and wakes the workers that sleep. The epoch moves under
    /// the lock. A worker compares it under the lock too, and `wait` releases the lock only as the
    /// worker falls asleep: it sees the new epoch, or it sleeps already and is notified. An epoch
    /// that moved without the lock could do so between the comparison and the sleep, and the
    /// notification would be lost.
    fn announce(&self, change: impl FnOnce(&mut State)) {
        let asleep = {
            let mut state = lock(&self.state);
            change(&mut state);
            self.epoch.fetch_add(1, Ordering::Release);
            state.asleep
        };
        if asleep > 0 {
            self.wake.notify_all();
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        let most_spins = self.spins;
        loop {
            let mut spins = 0;
            while self.epoch.load(Ordering::Acquire) == seen && spins < most_spins {
                std::hint::spin_loop();
                spins += 1;
            }
            let job = {
                let mut state = lock(&self.state);
                while self.epoch.load(Ordering::Acquire) == seen {
                    state.asleep += 1;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.asleep -= 1;
                }
                seen = self.epoch.load(Ordering::Acquire);
                if state.over {
                    return;
                }
                state.job
            };
            let Some(job) = job else { continue };
            // SAFETY: `Pool::run` waits for this worker before the closure goes.
            let task = unsafe { &*job.run };
            let done = catch_unwind(AssertUnwindSafe(|| self.take_tasks(task, job.tasks, worker)));
            if let Err(panic) = done {
                lock(&self.state).panic = Some(panic);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn take_tasks(&self, task: &Task<'_>, tasks: usize, thread: usize) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return;
            }
            task(number, thread);
        }
    }
}

/// A panic while the lock is held leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins, and lets others run where they have taken the processor of who is waited for.
fn wait(turns: &mut u32) {
    *turns += 1;
    if *turns < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

/// A slice whose parts are written by several tasks, each its own.
pub(super) struct Raw<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: who follows the pointer promises to keep to a part of its own, and what is sent there may
// be sent.
unsafe impl<T: Send> Sync for Raw<T> {}

impl<T> Raw<T> {
    pub(super) fn new(items: &mut [T]) -> Self {
        Self { start: items.as_mut_ptr(), length: items.len() }
    }

    /// # Safety
    /// The slice that this was made of is borrowed for as long, and nobody else uses these items
    /// meanwhile.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[expect(clippy::mut_from_ref, reason = "that the parts are apart is the caller's promise")]
    pub(super) unsafe fn slice(&self, at: usize, length: usize) -> &mut [T] {
        assert!(at <= self.length && length <= self.length - at, "a part within the whole");
        // SAFETY: in bounds as was just checked; nobody else has it, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), length) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_are_kept_on_their_cpus_and_the_calling_one_is_not() {
        use rustix::thread::sched_getaffinity;
        let before = sched_getaffinity(None).unwrap();
        let allowed: Vec<usize> =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu)).collect();
        // The same one for two of them, where there are fewer.
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
        assert!(Pool::pinned(2, &[0, none.unwrap()]).is_err(), "a CPU that is not there");
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
            pool.chunks(&mut items, 10, |number, chunk| chunk.fill(number));
            assert!(items.iter().enumerate().all(|(i, &number)| number == i / 10));
        }
    }

    #[test]
    fn workers_that_sleep_wake_up() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicU32::new(0);
        for _ in 0..3 {
            while lock(&pool.shared.state).asleep < 2 {
                thread::yield_now();
            }
            pool.run(100, |_, _| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 300);
    }

    /// Drops pools at the moment when their workers fall asleep. An end that is announced without
    /// the lock (epoch moved after the lock was released) and a sleep of 50 µs in between make this
    /// hang in one of the first pools.
    #[test]
    fn no_worker_sleeps_through_the_end_of_its_pool() {
        let done = AtomicUsize::new(0);
        let mut expected = 0;
        for round in 0..100_000 {
            // One worker most often: it is the quickest to make, and others may take the call.
            let workers = [1, 1, 2, 1, 1, 3][round % 6];
            let (regions, spins) = (round / 6 % 3, [0, 1, 10, 100][round / 18 % 4]);
            let begun = Arc::new(AtomicUsize::new(0));
            let begin = begun.clone();
            let pool = Pool::with(1 + workers, spins, move |_| {
                begin.fetch_add(1, Ordering::Relaxed);
            });
            let pool = pool.unwrap();
            for _ in 0..regions {
                pool.run(2 * workers, |_, _| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                expected += 2 * workers;
            }
            // From before the workers run to after they sleep.
            let delay = round / 72 % 64;
            while delay > 0 && begun.load(Ordering::Relaxed) < workers {
                thread::yield_now();
            }
            (0..4 * delay).for_each(|_| std::hint::spin_loop());
            drop(pool);
            assert_eq!(begun.load(Ordering::Relaxed), workers, "each was joined");
        }
        assert_eq!(done.into_inner(), expected);
    }

    /// In a process of its own with little address space, where so many stacks do not fit.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_is_refused_is_an_error_and_those_before_it_end() {
        const VARIABLE: &str = "CANDLEMARK_TEST_REFUSED";
        const NAME: &str =
            "kernel::pool::tests::a_thread_that_is_refused_is_an_error_and_those_before_it_end";
        if std::env::var_os(VARIABLE).is_some() {
            let begun = Arc::new(AtomicUsize::new(0));
            let begin = begun.clone();
            let refused = Pool::with(100_000, SPINS, move |_| {
                begin.fetch_add(1, Ordering::Relaxed);
            });
            let error = refused.err().unwrap();
            let says = "cannot start 100000 threads; give fewer with `--threads` or \
                        CANDLEMARK_THREADS: Resource temporarily unavailable (os error 11)";
            assert_eq!(error.chain(), says);
            assert!(begun.load(Ordering::Relaxed) > 0, "some were started");
            assert_eq!(Arc::strong_count(&begun), 1, "and none is left");
            return;
        }
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 2000000; exec \"$0\" --exact \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(VARIABLE, "1")
            // Large stacks: few threads fit, and when the last does not, small things still do.
            .env("RUST_MIN_STACK", (64 << 20).to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicU32::new(0);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, |number, _| {
                done.fetch_add(1, Ordering::Relaxed);
                assert_ne!(number, 7, "the seventh");
            });
        }));
        assert!(panic.is_err());
        pool.run(50, |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert!(done.load(Ordering::Relaxed) >= 58);
    }
}
