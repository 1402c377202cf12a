//! Duets: turns of two arms at the same time, each on half of the CPUs, so that interference hits
//! both (Bulej et al. 2020, "Duet benchmarking: improving measurement accuracy in the cloud"). Also
//! the counterbalanced orders of turns (ABBA, BAAB).

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::pair::worker::{Deadline, Worker};
use crate::settings;
use crate::suite::turns::{Request, Response};

/// A turn to run.
pub(super) struct Turn {
    /// The arm whose turn it is.
    pub(super) arm: char,
    /// The letter of the process that runs it.
    pub(super) process: char,
    /// The request to the process.
    pub(super) request: Request,
}

/// The two halves of the CPUs that this process may use.
pub(super) struct Duet {
    halves: [Vec<usize>; 2],
}

impl Duet {
    /// # Errors
    /// When there are fewer than two CPUs, or the system does not list them.
    pub(super) fn new() -> Result<Self> {
        let cpus = settings::cpus_by_core().filter(|cpus| cpus.len() > 1).ok_or_else(|| {
            Error::Usage("a duet needs two CPUs that the system lists; leave out `--duet`".into())
        })?;
        let (one, other) = cpus.split_at(cpus.len() / 2);
        Ok(Self { halves: [one.to_vec(), other[..one.len()].to_vec()] })
    }
}

/// Draws the order of the arms for each round: all arms in one round, or in a duet one round of the
/// base with each other arm. The turns of a round are this order there and back, so that a linear
/// drift cancels.
pub(super) fn draw_orders(arms: &[char], duet: bool, random: &mut StdRng) -> Vec<Vec<char>> {
    let others = || arms.iter().copied().filter(|arm| *arm != 'A');
    let mut rounds: Vec<Vec<char>> = match duet {
        true => others().map(|other| vec!['A', other]).collect(),
        false => vec![arms.to_vec()],
    };
    rounds.shuffle(random);
    rounds.iter_mut().for_each(|arms| arms.shuffle(random));
    rounds
}

/// Runs turns in their order, one after the other; in a duet, the first and second at the same
/// time, then the third and fourth, and so on, so that the arms of a round swap their halves of the
/// CPUs. Returns the responses, or the arm that failed.
pub(super) fn run_turns(
    turns: &[Turn],
    duet: Option<&Duet>,
    workers: &mut BTreeMap<char, Worker>,
    deadline: &Deadline<'_>,
) -> std::result::Result<Vec<Response>, Box<(char, Error)>> {
    let mut responses = Vec::new();
    for simultaneous in turns.chunks(if duet.is_some() { 2 } else { 1 }) {
        for (turn, half) in simultaneous.iter().zip(0..) {
            let failed = |error| Box::new((turn.arm, error));
            if let Some(duet) = duet {
                pin_to_cpus(worker(workers, turn).process(), &duet.halves[half]).map_err(failed)?;
            }
        }
        for turn in simultaneous {
            worker(workers, turn)
                .send(&turn.request)
                .map_err(|error| Box::new((turn.arm, error)))?;
        }
        for turn in simultaneous {
            let response = worker(workers, turn).receive(deadline);
            responses.push(response.map_err(|error| Box::new((turn.arm, error)))?);
        }
    }
    Ok(responses)
}

fn worker<'a>(workers: &'a mut BTreeMap<char, Worker>, turn: &Turn) -> &'a mut Worker {
    workers.get_mut(&turn.process).expect("only arms with a worker take part")
}

/// Pins all threads of a process to these CPUs.
#[cfg(target_os = "linux")]
fn pin_to_cpus(process: u32, cpus: &[usize]) -> Result<()> {
    use rustix::process::Pid;
    use rustix::thread::CpuSet;
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    let read = |source| Error::Read { path: tasks.clone(), source };
    for entry in std::fs::read_dir(&tasks).map_err(read)?.flatten() {
        let thread = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        rustix::thread::sched_setaffinity(thread, &set)
            .map_err(|error| Error::Write { path: entry.path(), source: error.into() })?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn pin_to_cpus(_: u32, _: &[usize]) -> Result<()> {
    Err(Error::Usage(
        "a duet needs Linux, which can pin a process to CPUs; leave out `--duet`".into(),
    ))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_round_has_all_arms_or_the_base_with_one_other() {
        let mut random = StdRng::seed_from_u64(1);
        let mut sorted = |duet| {
            let mut rounds = draw_orders(&['B', 'A', 'N'], duet, &mut random);
            rounds.iter_mut().for_each(|arms| arms.sort_unstable());
            rounds.sort_unstable();
            rounds
        };
        assert_eq!(sorted(false), [vec!['A', 'B', 'N']]);
        assert_eq!(sorted(true), [vec!['A', 'B'], vec!['A', 'N']]);
    }
}
