//! CPU time of this process, all threads together. Spinning counts; child processes do not.

use std::time::Duration;

/// The kernel counts in 1/USER_HZ, a hundredth of a second on all supported systems.
const TICK: Duration = Duration::from_millis(10);

/// Regions shorter than this have no figure: user and system time are each rounded to a tick at
/// both ends, an error of up to a tenth for one thread.
const MIN_TICKS: u32 = 20;

/// The resolution of a share, for notes.
pub(super) const RESOLUTION: &str = "CPU time of this process in steps of 10 ms";

/// CPU time of this process since its start.
///
/// # Errors
/// When the system does not tell.
pub(super) fn cpu_time() -> Result<Duration, String> {
    process_cpu_time(std::process::id())
        .ok_or_else(|| "the system does not tell the CPU time".into())
}

/// CPU time of a process since its start.
pub(crate) fn process_cpu_time(id: u32) -> Option<Duration> {
    let pid = sysinfo::Pid::from_u32(id);
    let mut system = sysinfo::System::new().ok()?;
    let kind = sysinfo::ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(sysinfo::ProcessesToUpdate::Some(&[pid]), true, kind);
    Some(Duration::from_millis(system.process(pid)?.accumulated_cpu_time()))
}

/// CPU time as a share of the wall time of `threads` threads; above 1 if more threads were busy.
///
/// # Errors
/// When the region is too short for the resolution of CPU time.
pub(super) fn share(used: Duration, elapsed: Duration, threads: usize) -> Result<f64, String> {
    let least = TICK * MIN_TICKS;
    if elapsed < least {
        return Err(format!(
            "CPU time is counted in steps of 10 ms, too coarse for {:.0} ms; measure at least {} \
             ms",
            elapsed.as_secs_f64() * 1e3,
            least.as_millis()
        ));
    }
    Ok(used.as_secs_f64() / elapsed.as_secs_f64() / threads.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_threads_and_needs_twenty_ticks() {
        let ms = Duration::from_millis;
        assert_eq!(share(ms(3000), ms(2000), 2), Ok(0.75));
        assert_eq!(share(ms(200), ms(200), 1), Ok(1.0));
        assert_eq!(share(ms(0), ms(1000), 1), Ok(0.0)); // An idle process has a utilization of 0.
        let why =
            "CPU time is counted in steps of 10 ms, too coarse for 199 ms; measure at least 200 ms";
        assert_eq!(share(ms(199), ms(199), 1), Err(why.into()));
    }

    #[test]
    fn cpu_time_of_this_process_grows_with_work() {
        let before = cpu_time().unwrap();
        let mut state = 1_u64;
        for _ in 0..2_000 {
            if cpu_time().unwrap() > before {
                return;
            }
            for _ in 0..1_000_000 {
                state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005));
            }
        }
        panic!("two billion multiplications took no time");
    }
}
