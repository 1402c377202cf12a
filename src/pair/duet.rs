//! Turns of two arms at once, each on half of the CPUs ("duet": Bulej et al. 2020, "Duet
//! benchmarking: improving measurement accuracy in the cloud"): what disturbs one disturbs the
//! other.

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::pair::worker::{Patience, Worker};
use crate::settings;
use crate::suite::turns::{Request, Response};

/// A turn that is to be taken.
pub(super) struct Turn {
    /// The arm that it counts for.
    pub(super) arm: char,
    /// The process that takes it, by its letter.
    pub(super) process: char,
    /// What the process is asked for.
    pub(super) ask: Request,
}

/// Both halves of the CPUs that this process may use.
pub(super) struct Duet {
    halves: [Vec<usize>; 2],
}

impl Duet {
    /// # Errors
    /// When there are no two CPUs, or the system does not tell of them.
    pub(super) fn new() -> Result<Self> {
        let cpus = settings::cpus_by_core().filter(|cpus| cpus.len() > 1).ok_or_else(|| {
            Error::Usage(
                "turns at once need two CPUs that the system tells of; leave out `--duet`".into(),
            )
        })?;
        let (one, other) = cpus.split_at(cpus.len() / 2);
        Ok(Self { halves: [one.to_vec(), other[..one.len()].to_vec()] })
    }
}

/// The arms that take turns together, round by round: all in one palindrome, or at once the base
/// with each other arm.
pub(super) fn rounds(arms: &[char], at_once: bool, random: &mut StdRng) -> Vec<Vec<char>> {
    let others = || arms.iter().copied().filter(|arm| *arm != 'A');
    let mut rounds: Vec<Vec<char>> = match at_once {
        true => others().map(|other| vec!['A', other]).collect(),
        false => vec![arms.to_vec()],
    };
    rounds.shuffle(random);
    rounds.iter_mut().for_each(|arms| arms.shuffle(random));
    rounds
}

/// Takes turns in their order, one after the other; with a duet the first and the second at once,
/// then the third and the fourth, and so on, so that a palindrome of two arms exchanges their
/// halves of the CPUs. What each told, or the arm that failed.
pub(super) fn take(
    turns: &[Turn],
    duet: Option<&Duet>,
    workers: &mut BTreeMap<char, Worker>,
    patience: &Patience<'_>,
) -> std::result::Result<Vec<Response>, Box<(char, Error)>> {
    let mut told = Vec::new();
    for at_once in turns.chunks(if duet.is_some() { 2 } else { 1 }) {
        for (turn, half) in at_once.iter().zip(0..) {
            let failed = |error| Box::new((turn.arm, error));
            if let Some(duet) = duet {
                keep_on(worker(workers, turn).process(), &duet.halves[half]).map_err(failed)?;
            }
        }
        for turn in at_once {
            worker(workers, turn).send(&turn.ask).map_err(|error| Box::new((turn.arm, error)))?;
        }
        for turn in at_once {
            let answer = worker(workers, turn).receive(patience);
            told.push(answer.map_err(|error| Box::new((turn.arm, error)))?);
        }
    }
    Ok(told)
}

fn worker<'a>(workers: &'a mut BTreeMap<char, Worker>, turn: &Turn) -> &'a mut Worker {
    workers.get_mut(&turn.process).expect("only arms with a worker take part")
}

/// Keeps all threads of a process on these CPUs.
#[cfg(target_os = "linux")]
fn keep_on(process: u32, cpus: &[usize]) -> Result<()> {
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
fn keep_on(_: u32, _: &[usize]) -> Result<()> {
    Err(Error::Usage(
        "turns at once need Linux, which keeps a process on CPUs; leave out `--duet`".into(),
    ))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_round_is_a_palindrome_of_all_or_the_base_with_one_other() {
        let mut random = StdRng::seed_from_u64(1);
        let mut sorted = |at_once| {
            let mut rounds = rounds(&['B', 'A', 'N'], at_once, &mut random);
            rounds.iter_mut().for_each(|arms| arms.sort_unstable());
            rounds.sort_unstable();
            rounds
        };
        assert_eq!(sorted(false), [vec!['A', 'B', 'N']]);
        assert_eq!(sorted(true), [vec!['A', 'B'], vec!['A', 'N']]);
    }
}
