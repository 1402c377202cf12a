//! One block of a pair whose servers are started for it: each arm's command starts a server, which
//! is measured alone and ended, before the next. The order of the arms is drawn for every block, so
//! that a drift of the machine hits all alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::measure::server::describe_server;
use crate::pair::block::{BlockMeter, check_budget};
use crate::pair::case::{ReportedMetrics, can_be_measured, finish_arm, is_stored};
use crate::pair::server_process::ServerProcess;
use crate::pair::turns::{NoTurns, Workers};
use crate::pair::{Events, PairRun};
use crate::record::pair::{PairBlock, PairCase, PairRecord, PairTurns, Round};
use crate::record::{Absence, AbsenceKind, Case};
use crate::settings::{Server, ServerBlocks, Setup};
use crate::suite::turns;
use crate::suite::turns::HelloResponse;

/// The commands that start the servers of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarts {
    /// Starts the base on `{port}`.
    pub base: String,
    /// Starts the candidate on `{port}`.
    pub candidate: String,
    /// The model's name on both; default: their only one.
    pub model: Option<String>,
    /// The longest time until a server answers.
    pub ready: Duration,
}

impl Restarts {
    fn command(&self, arm: char) -> &str {
        if arm == 'B' { &self.candidate } else { &self.base }
    }
}

/// What an arm gave in a block.
struct ArmBlock {
    hello: HelloResponse,
    /// By scenario, in the order of the first arm.
    scenarios: BTreeMap<String, Measured>,
}

/// The values of a scenario's turns on one server, and the final response.
type Turns = (Vec<BTreeMap<String, f64>>, Case);

/// A scenario on one server, or why there is nothing.
type Measured = std::result::Result<Turns, Absence>;

impl PairRun<'_> {
    /// One block of servers that are started for it.
    pub(super) fn block_of_restarts(
        &mut self,
        restarts: &Restarts,
        paired: &mut PairRecord,
        open: Option<&[String]>,
        events: &mut dyn Events,
    ) -> Result<()> {
        let meter = BlockMeter::begin(None)?;
        let number = paired.blocks.len();
        let is_open = |id: &String| open.is_none_or(|open| open.contains(id));
        let ids: Vec<String> = if number == 0 {
            turns::select(&self.plan.words)?.into_iter().map(|scenario| scenario.id).collect()
        } else {
            let known = paired.scenarios.iter();
            let known = known.filter(|case| can_be_measured(case, paired.output_change.as_deref()));
            known.map(|case| case.id.clone()).collect()
        };
        let nulls = self.null_control_scenarios.clone();
        let of_arm = |arm: char, id: &String| {
            number == 0 || nulls.contains(id) || (arm != 'N' && is_open(id))
        };
        events.block(number + 1, &ids);
        let mut arms = ['A', 'B', 'N'];
        arms.shuffle(&mut self.random);
        let mut block = PairBlock { started: arms.iter().collect(), ..PairBlock::default() };
        let mut measured = BTreeMap::new();
        for arm in arms {
            let wanted = ids.iter().filter(|id| of_arm(arm, id)).cloned().collect();
            measured.insert(arm, self.arm(restarts, arm, wanted, &paired.session.id, &mut block)?);
        }
        if paired.scenarios.is_empty() {
            let hellos = measured.iter().map(|(arm, one)| (*arm, &one.hello)).collect();
            self.record_arms(paired, &hellos)?;
        }
        for case in &mut paired.scenarios {
            let mut turns = PairTurns { block: number, ..PairTurns::default() };
            let mut of_case = BTreeMap::new();
            for (arm, one) in &mut measured {
                match one.scenarios.remove(&case.id) {
                    Some(Ok(values)) => drop(of_case.insert(*arm, values)),
                    Some(Err(absent)) => {
                        let side = if *arm == 'B' { &mut case.candidate } else { &mut case.base };
                        side.absent = Some(absent);
                    }
                    None => {}
                }
            }
            if !(of_case.contains_key(&'A') && of_case.contains_key(&'B')) {
                continue;
            }
            turns.rounds = rounds(&arms, &of_case);
            for (arm, (values, done)) in of_case {
                let mut reported = ReportedMetrics::default();
                values.iter().for_each(|values| reported.add(values));
                finish_arm(case, &mut turns, arm, done, &reported, false);
            }
            case.blocks.push(turns);
        }
        let measurable = |case: &PairCase| can_be_measured(case, paired.output_change.as_deref());
        if number == 0 && paired.scenarios.iter().any(measurable) {
            let count = paired.scenarios.len();
            check_budget(self.plan.budget, Duration::from_secs_f64(meter.seconds()), count, count)?;
        }
        paired.blocks.push(meter.end(None, block)?);
        Ok(())
    }

    /// Starts the server of an arm, measures these scenarios on it, and ends it.
    fn arm(
        &mut self,
        restarts: &Restarts,
        arm: char,
        mut ids: Vec<String>,
        session: &str,
        block: &mut PairBlock,
    ) -> Result<ArmBlock> {
        let began = Instant::now();
        let log = self.folder.join(format!("{arm}.log"));
        let server =
            ServerProcess::start(restarts.command(arm), &log, restarts.ready, &self.deadline)
                .and_then(|process| {
                    let url = process.url();
                    let found = describe_server(url, restarts.model.as_deref(), &self.plan.setup)?;
                    Ok((process, Server { blocks: ServerBlocks::Restarts, ..found }))
                });
        let (process, server) = server.map_err(|error| self.cannot_start(arm, error))?;
        let setup =
            Setup { model: server.model.clone(), server: Some(server), ..self.plan.setup.clone() };
        let worker =
            self.start(arm, setup, session).map_err(|error| self.cannot_start(arm, error))?;
        block.load_s += began.elapsed().as_secs_f64();
        let hello = worker.hello.clone();
        ids.shuffle(&mut self.random);
        let processes = BTreeMap::from([(arm, worker)]);
        let mut workers = Workers { processes, deadline: self.deadline, duet: None };
        let mut scenarios = BTreeMap::new();
        for id in ids {
            let turns = self.plan.setup.generation.iters;
            let measured = match scenario(&mut workers, arm, &id, turns, block) {
                Ok(measured) => Ok(measured),
                Err(why) => match *why {
                    NoTurns::Failed(_, error @ Error::Interrupted) => return Err(error),
                    NoTurns::Cannot(_, absent) => Err(absent),
                    NoTurns::Failed(_, error) => {
                        Err(Absence::new(AbsenceKind::Failed, error.chain()))
                    }
                },
            };
            let is_over = measured.as_ref().is_err_and(|why| why.kind == AbsenceKind::Failed);
            scenarios.insert(id, measured);
            if is_over {
                break; // The client or the server may be gone; the next block has new ones.
            }
        }
        drop(workers);
        drop(process);
        Ok(ArmBlock { hello, scenarios })
    }
}

/// Warm-ups, turns and the final response of a scenario on one server.
fn scenario(
    workers: &mut Workers<'_>,
    arm: char,
    id: &str,
    turns: usize,
    block: &mut PairBlock,
) -> std::result::Result<Turns, Box<NoTurns>> {
    let began = Instant::now();
    workers.warm_up(arm, id)?;
    block.warm_up_s += began.elapsed().as_secs_f64();
    let began = Instant::now();
    let values =
        (0..turns).map(|_| workers.turn(arm)).collect::<std::result::Result<Vec<_>, _>>()?;
    block.turns_s += began.elapsed().as_secs_f64();
    Ok((values, workers.finish(arm, None)?))
}

/// The turns of a block as rounds: the first turn of every arm, the second, and so on.
fn rounds(arms: &[char], measured: &BTreeMap<char, Turns>) -> Vec<Round> {
    let arms: Vec<char> = arms.iter().copied().filter(|arm| measured.contains_key(arm)).collect();
    let count = measured.values().map(|(values, _)| values.len()).min().unwrap_or(0);
    let round = |at: usize| {
        let mut round = Round { order: arms.iter().collect(), ..Round::default() };
        let turns = arms.iter().map(|arm| &measured[arm].0[at]);
        for (name, value) in turns.flatten().filter(|(name, _)| is_stored(name)) {
            round.values.entry(name.clone()).or_default().push(*value);
        }
        round
    };
    (0..count).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_servers_that_ran_one_after_another_become_rounds() {
        let arm = |values: &[f64]| {
            let turn = |value: &f64| {
                BTreeMap::from([("ttft_s".to_owned(), *value), ("unknown".to_owned(), 1.0)])
            };
            (values.iter().map(turn).collect(), Case::default())
        };
        let measured = BTreeMap::from([('A', arm(&[1.0, 2.0])), ('B', arm(&[3.0, 4.0, 5.0]))]);
        let rounds = rounds(&['B', 'N', 'A'], &measured);
        let expected = [[3.0, 1.0], [4.0, 2.0]].map(|values| Round {
            order: "BA".into(),
            values: [("ttft_s".to_owned(), values.to_vec())].into(),
        });
        assert_eq!(rounds, expected);
    }
}
