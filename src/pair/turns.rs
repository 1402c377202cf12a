//! Turns of the arms on one scenario in one block, for pairs and for pools: warm-ups, rounds in
//! counterbalanced order (ABBA, BAAB), and the final request.
//!
//! In a duet, turns of two arms run at the same time, each on half of the CPUs, so that
//! interference hits both (Bulej et al. 2020, "Duet benchmarking: improving measurement accuracy in
//! the cloud").

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::pair::case::is_stored;
use crate::pair::worker::{Deadline, Worker};
use crate::record::pair::Round;
use crate::record::{Absence, Case};
use crate::settings;
use crate::suite::turns::{Request, Response};

/// The processes of a block, by letter.
pub(super) struct Workers<'a> {
    pub(super) processes: BTreeMap<char, Worker>,
    pub(super) deadline: Deadline<'a>,
    /// Set if turns of two arms run at the same time.
    pub(super) duet: Option<&'a Duet>,
}

/// A turn to run.
pub(super) struct Turn {
    /// The arm whose turn it is.
    pub(super) arm: char,
    /// The letter of the process that runs it.
    pub(super) process: char,
    /// A slowdown on purpose in this turn.
    pub(super) injection: Option<String>,
}

/// Why a scenario could not be measured.
pub(super) enum NoTurns {
    /// The worker of this arm does not support it.
    Cannot(char, Absence),
    /// The worker of this arm failed.
    Failed(char, Error),
}

type Measured<T> = std::result::Result<T, Box<NoTurns>>;

impl NoTurns {
    fn failed(arm: char) -> impl Fn(Error) -> Box<Self> {
        move |error| Box::new(NoTurns::Failed(arm, error))
    }

    /// Of a response that is not the expected one.
    fn from_response(arm: char, response: &Response) -> Box<Self> {
        if let Response::Cannot { absent } = response {
            return Box::new(NoTurns::Cannot(arm, absent.clone()));
        }
        let text = serde_json::to_string(response).expect("plain data");
        let text = crate::error::shortened(&text);
        Self::failed(arm)(Error::Failed(format!("a worker sent an unexpected response: `{text}`")))
    }
}

impl Workers<'_> {
    fn process(&mut self, letter: char) -> &mut Worker {
        self.processes.get_mut(&letter).expect("only arms with a worker take part")
    }

    fn request(&mut self, letter: char, request: &Request) -> Measured<Response> {
        let deadline = self.deadline;
        self.process(letter).request(request, &deadline).map_err(NoTurns::failed(letter))
    }

    /// Runs the warm-ups of a process; the generated token ids.
    pub(super) fn warm_up(&mut self, letter: char, scenario: &str) -> Measured<Vec<Vec<u32>>> {
        match self.request(letter, &Request::WarmUp { scenario: scenario.into() })? {
            Response::Warm { ids } => Ok(ids),
            other => Err(NoTurns::from_response(letter, &other)),
        }
    }

    /// Runs a turn of a process by itself; its values.
    #[cfg(feature = "server")]
    pub(super) fn turn(&mut self, letter: char) -> Measured<BTreeMap<String, f64>> {
        match self.request(letter, &Request::Turn { generations: 1, injection: None })? {
            Response::Values { values } => Ok(values),
            other => Err(NoTurns::from_response(letter, &other)),
        }
    }

    /// Ends the scenario in a process.
    pub(super) fn finish(&mut self, letter: char, injection: Option<String>) -> Measured<Case> {
        match self.request(letter, &Request::Finish { injection })? {
            Response::Case { case } => Ok(*case),
            other => Err(NoTurns::from_response(letter, &other)),
        }
    }

    /// Runs the turns of these arms in this order and back, so that a linear drift cancels.
    /// `on_turn` receives all that each reports.
    pub(super) fn round(
        &mut self,
        arms: &[char],
        turn: impl Fn(char) -> Turn,
        mut on_turn: impl FnMut(char, &BTreeMap<String, f64>),
    ) -> Measured<Round> {
        let turns: Vec<Turn> = arms.iter().chain(arms.iter().rev()).map(|arm| turn(*arm)).collect();
        let order = turns.iter().map(|turn| turn.arm).collect();
        let mut round = Round { order, ..Round::default() };
        for (turn, response) in turns.iter().zip(self.run(&turns)?) {
            let Response::Values { values } = response else {
                return Err(NoTurns::from_response(turn.arm, &response));
            };
            on_turn(turn.arm, &values);
            for (name, value) in values.into_iter().filter(|(name, _)| is_stored(name)) {
                round.values.entry(name).or_default().push(value);
            }
        }
        Ok(round)
    }

    /// Runs turns one after the other; in a duet, the first and second at the same time, then the
    /// third and fourth, and so on, so that the arms of a round swap their halves of the CPUs.
    fn run(&mut self, turns: &[Turn]) -> Measured<Vec<Response>> {
        let (duet, deadline) = (self.duet, self.deadline);
        let mut responses = Vec::new();
        for simultaneous in turns.chunks(if duet.is_some() { 2 } else { 1 }) {
            for (turn, half) in simultaneous.iter().zip(0..) {
                if let Some(duet) = duet {
                    let process = self.process(turn.process).process();
                    pin_to_cpus(process, &duet.halves[half]).map_err(NoTurns::failed(turn.arm))?;
                }
            }
            for turn in simultaneous {
                let request = Request::Turn { generations: 1, injection: turn.injection.clone() };
                let sent = self.process(turn.process).send(&request);
                sent.map_err(NoTurns::failed(turn.arm))?;
            }
            for turn in simultaneous {
                let response = self.process(turn.process).receive(&deadline);
                responses.push(response.map_err(NoTurns::failed(turn.arm))?);
            }
        }
        Ok(responses)
    }
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
/// base with each other arm.
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
