//! Regions, their threads and their panics.

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
fn a_region_does_not_wait_for_a_worker_that_has_no_cpu() {
    let gate = Arc::new(std::sync::Barrier::new(2));
    let waits = gate.clone();
    let pool = Pool::start(2, SPINS, move |_| {
        waits.wait();
    });
    let (pool, sum) = (pool.unwrap(), AtomicUsize::new(0));
    for _ in 0..3 {
        pool.run(10, |number, thread| {
            assert_eq!(thread, 0);
            sum.fetch_add(number, Ordering::Relaxed);
        });
    }
    assert_eq!(sum.into_inner(), 3 * 45, "the caller ran all tasks");
    gate.wait();
    pool.on_each_thread(|_| {});
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
