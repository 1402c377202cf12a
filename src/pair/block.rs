//! Measures one block of a pair: a fresh process per arm, which measure every open scenario in
//! rounds of counterbalanced turns (ABBA, BAAB).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

use crate::compare::looks::LOOKS;
use crate::error::{Cause, Error, Result};
use crate::machine::ReferenceKernels;
use crate::pair::budget::RoundBudget;
use crate::pair::case::{
    ReportedMetrics, can_be_measured, finish_arm, first_divergence, null_control_scenarios,
};
use crate::pair::turns::{NoTurns, Turn, Workers, draw_orders};
use crate::pair::worker::Worker;
use crate::pair::{Events, PairRun};
use crate::record::pair::{PairBlock, PairCase, PairRecord, PairTurns, Side};
use crate::record::{Absence, AbsenceKind, KernelTimes};
use crate::settings::Setup;
use crate::suite::turns::{Hello, HelloResponse, PROTOCOL};
use crate::{baseline, machine, suite};

impl PairRun<'_> {
    /// One block: a fresh process per arm, the open scenarios and those of the null control, in
    /// random order.
    pub(super) fn block(
        &mut self,
        paired: &mut PairRecord,
        open: Option<&[String]>,
        events: &mut dyn Events,
    ) -> Result<()> {
        let meter = BlockMeter::begin(self.kernels.as_ref())?;
        let mut block = PairBlock::default();
        let mut arms = ['A', 'B', 'N'];
        arms.shuffle(&mut self.random);
        block.started = arms.iter().collect();
        let processes = self.start_all(arms, &paired.session.id)?;
        block.load_s = meter.seconds();
        if paired.scenarios.is_empty() {
            let hellos = processes.iter().map(|(arm, worker)| (*arm, &worker.hello)).collect();
            self.record_arms(paired, &hellos)?;
        }
        let mut workers = Workers { processes, deadline: self.deadline, duet: self.duet };
        let number = paired.blocks.len();
        let mut ids: Vec<String> = paired
            .scenarios
            .iter()
            .filter(|case| can_be_measured(case, paired.output_change.as_deref()))
            .map(|case| case.id.clone())
            .filter(|id| {
                open.is_none_or(|open| open.contains(id))
                    || self.null_control_scenarios.contains(id)
            })
            .collect();
        events.block(number + 1, &ids);
        ids.shuffle(&mut self.random);
        for (measured, id) in ids.iter().enumerate() {
            if number == 0 {
                check_budget(self.plan.budget, meter.began.elapsed(), measured, ids.len())?;
            }
            self.scenario(paired, &mut workers, &mut block, id, number)?;
        }
        if number == 0 {
            check_budget(self.plan.budget, meter.began.elapsed(), ids.len(), ids.len())?;
        }
        drop(workers);
        paired.blocks.push(meter.end(self.kernels.as_ref(), block)?);
        Ok(())
    }

    /// Starts a fresh process per arm, in this order.
    ///
    /// # Errors
    /// When one of them does not start. A setup that both builds refuse is a usage error; one that
    /// the other build accepts is not.
    fn start_all(&self, arms: [char; 3], session: &str) -> Result<BTreeMap<char, Worker>> {
        let start = |arm| self.start(arm, self.plan.setup_of(arm), session);
        let mut processes = BTreeMap::new();
        for arm in arms {
            let worker = start(arm).map_err(|error| {
                let other = if arm == 'B' { 'A' } else { 'B' };
                let refuses = |arm| start(arm).is_err_and(|error| error.cause() == Cause::Usage);
                let both = error.cause() == Cause::Usage && !processes.contains_key(&other);
                if both && refuses(other) {
                    return suite::startup_error(error);
                }
                self.cannot_start(arm, error)
            })?;
            processes.insert(arm, worker);
        }
        Ok(processes)
    }

    /// Starts the worker of an arm.
    pub(super) fn start(&self, arm: char, setup: Setup, session: &str) -> Result<Worker> {
        let hello = Hello {
            protocol: PROTOCOL,
            setup,
            words: self.plan.words.clone(),
            session: session.into(),
            injection: self.plan.injection.clone().filter(|_| arm == 'B'),
            identify: false,
        };
        let worker = Worker::start(&self.binaries[&arm], &hello, &self.deadline)?;
        let build = &worker.hello.build;
        if build.is_unoptimized() && !self.plan.has_servers() {
            let why = format!("it is an unoptimized build (profile `{}`)", build.profile);
            return Err(Error::Failed(why));
        }
        Ok(worker)
    }

    /// The error for a pair of which this arm does not start.
    pub(super) fn cannot_start(&self, arm: char, error: Error) -> Error {
        let (base, candidate) = (&self.plan.base.asked, &self.plan.candidate.asked);
        match error {
            Error::Interrupted => error,
            // A base that cannot take turns is not the candidate's failure.
            error if arm != 'B' => Error::NotComparable(format!(
                "the base `{base}` cannot take turns: {}",
                error.chain()
            )),
            error => Error::Failed(format!(
                "the candidate `{candidate}` cannot take turns: {}",
                error.chain()
            )),
        }
    }

    /// Records the two builds and which scenarios each of them has.
    pub(super) fn record_arms(
        &mut self,
        paired: &mut PairRecord,
        hellos: &BTreeMap<char, &HelloResponse>,
    ) -> Result<()> {
        let arms = [
            ('A', &mut paired.base, &self.plan.base),
            ('B', &mut paired.candidate, &self.plan.candidate),
        ];
        for (letter, arm, binary) in arms {
            let hello = hellos[&letter];
            arm.build = hello.build.clone();
            binary.stamp(&mut arm.build);
            arm.model = hello.model.clone();
            arm.settings = hello.settings.clone();
        }
        let (machine, base) = (&paired.machine, &paired.base);
        let found =
            baseline::calibration_of(&self.plan.baselines, machine, &base.model, &base.settings)?;
        let calibration = found.filter(|found| {
            machine.is_of_class(&found.machine.class, &found.machine.fields)
                && found.model.quant == base.model.quant
        });
        paired.layout = calibration.map(|calibration| calibration.layout_sd).unwrap_or_default();
        let side = |letter: char, id: &String| {
            let hello = hellos[&letter];
            let unknown = !hello.scenarios.contains(id);
            let unknown = unknown
                .then(|| Absence::new(AbsenceKind::Unknown, "the build has no such scenario"));
            let unsupported = hello.unsupported.as_ref();
            let unsupported =
                unsupported.map(|why| Absence::new(AbsenceKind::Unsupported, why.clone()));
            Side { absent: unsupported.or(unknown), ..Side::default() }
        };
        let mut ids = hellos[&'B'].scenarios.clone();
        ids.extend(
            hellos[&'A']
                .scenarios
                .iter()
                .filter(|id| !ids.contains(id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        if ids.is_empty() {
            return Err(Error::NotComparable("no scenario was selected".into()));
        }
        for id in ids {
            let (base, candidate) = (side('A', &id), side('B', &id));
            paired.scenarios.push(PairCase { id, base, candidate, ..PairCase::default() });
        }
        self.null_control_scenarios = null_control_scenarios(&paired.scenarios);
        Ok(())
    }

    /// One scenario in one block. If a worker does not support it, its side of the case is marked
    /// absent. If a worker fails, the case has failed and the arm is out of the rest of the block.
    fn scenario(
        &mut self,
        paired: &mut PairRecord,
        workers: &mut Workers,
        block: &mut PairBlock,
        id: &str,
        number: usize,
    ) -> Result<()> {
        let case = paired.scenarios.iter_mut().find(|case| case.id == id).expect("it was listed");
        let has_null_control = self.null_control_scenarios.iter().any(|other| other == id);
        let started = block.started.chars().filter(|arm| workers.processes.contains_key(arm));
        let letters: Vec<char> = started.filter(|arm| *arm != 'N' || has_null_control).collect();
        if !(letters.contains(&'A') && letters.contains(&'B')) {
            return Ok(()); // A worker failed earlier in this block; the next block has new ones.
        }
        let mut turns = PairTurns { block: number, ..PairTurns::default() };
        let (arm, absent) = match self.turns(case, workers, block, &letters, &mut turns) {
            Ok(same_output) => {
                case.blocks.extend(same_output.then_some(turns));
                return Ok(());
            }
            Err(why) => match *why {
                NoTurns::Failed(_, error @ Error::Interrupted) => return Err(error),
                NoTurns::Failed(arm, error) => {
                    workers.processes.remove(&arm);
                    (arm, Absence::new(AbsenceKind::Failed, error.chain()))
                }
                NoTurns::Cannot(arm, absent) => (arm, absent),
            },
        };
        let side = if arm == 'B' { &mut case.candidate } else { &mut case.base };
        side.absent = Some(absent);
        Ok(())
    }

    /// Warm-ups, rounds and the final request of one scenario. False if the outputs differ and
    /// should not, so that nothing is timed.
    fn turns(
        &mut self,
        case: &mut PairCase,
        workers: &mut Workers,
        block: &mut PairBlock,
        letters: &[char],
        turns: &mut PairTurns,
    ) -> std::result::Result<bool, Box<NoTurns>> {
        let began = Instant::now();
        let mut outputs: BTreeMap<char, Vec<Vec<u32>>> = BTreeMap::new();
        for &arm in letters {
            outputs.insert(arm, workers.warm_up(arm, &case.id)?);
        }
        let warm = began.elapsed();
        block.warm_up_s += warm.as_secs_f64();
        case.divergence =
            first_divergence(&outputs[&'A'], &outputs[&'B']).or(case.divergence.take());
        let diverged = case.divergence.is_some() && self.plan.output_change.is_none();
        let generation = warm / (letters.len() * self.plan.setup.generation.warmups.max(1)) as u32;
        let budget = self.round_budgets.entry(case.id.clone());
        let rounds = budget.or_insert_with(|| RoundBudget::new(generation)).rounds;
        let began = Instant::now();
        let mut reported: BTreeMap<char, ReportedMetrics> = BTreeMap::new();
        for _ in 0..if diverged { 0 } else { rounds } {
            for arms in draw_orders(letters, workers.duet.is_some(), &mut self.random) {
                let turn = |arm| Turn { arm, process: arm, injection: None };
                let round = workers.round(&arms, turn, |arm, values| {
                    reported.entry(arm).or_default().add(values);
                })?;
                turns.rounds.push(round);
            }
        }
        block.turns_s += began.elapsed().as_secs_f64();
        for &arm in letters {
            let done = workers.finish(arm, None)?;
            finish_arm(case, turns, arm, done, reported.entry(arm).or_default(), diverged);
        }
        Ok(!diverged)
    }
}

/// Measures the machine before and after a block.
pub(super) struct BlockMeter {
    began: Instant,
    before: Option<KernelTimes>,
}

impl BlockMeter {
    /// Begins a block.
    pub(super) fn begin(kernels: Option<&ReferenceKernels>) -> Result<Self> {
        let began = Instant::now();
        machine::conditions(); // Stolen time is counted from here.
        let before = kernels.map(ReferenceKernels::measure).transpose()?;
        Ok(Self { began, before })
    }

    /// Seconds since it began.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Ends a block, and says whether it counts.
    pub(super) fn end(
        &self,
        kernels: Option<&ReferenceKernels>,
        mut block: PairBlock,
    ) -> Result<PairBlock> {
        let after = kernels.map(ReferenceKernels::measure).transpose()?;
        block.references = self.before.zip(after).map(<[_; 2]>::from);
        let after = machine::conditions();
        block.steal = after.steal;
        block.cpu_pressure_10s = after.cpu_pressure_10s;
        block.total_s = self.seconds();
        block.rejected = rejection(&block);
        Ok(block)
    }
}

/// Refuses a budget that ends before the first look, as soon as the first block shows it: it has
/// taken `elapsed` for so many of all scenarios.
pub(super) fn check_budget(
    budget: Duration,
    elapsed: Duration,
    measured: usize,
    all: usize,
) -> Result<()> {
    let fewest = LOOKS[0] as u32;
    // Later blocks may be faster: the first one reads files that are not cached yet.
    if elapsed * (fewest - 1) <= budget {
        return Ok(());
    }
    let block = elapsed.mul_f64(all.max(1) as f64 / measured.max(1) as f64);
    let least = (block * fewest).as_secs() + 1;
    let least = if least < 120 { format!("{least}s") } else { format!("{}m", least.div_ceil(60)) };
    Err(Error::Usage(format!(
        "a budget of {budget:?} cannot decide anything: a verdict needs {fewest} blocks, and one \
         of {all} scenarios takes about {:.1} s here; give `--budget {least}` or more, or fewer \
         scenarios",
        block.as_secs_f64()
    )))
}

/// The rule by which a block is rejected, which never depends on its result. Reference kernels
/// reject nothing: on a shared host they change by more than any limit within most blocks, while
/// block effects hardly do.
fn rejection(block: &PairBlock) -> Option<String> {
    const MAX_STEAL: f64 = 0.05;
    // The system counts in hundredths of a second, too coarse for less than a second.
    const MIN_TOTAL_S: f64 = 1.0;
    let steal = block.steal.filter(|steal| *steal > MAX_STEAL && block.total_s >= MIN_TOTAL_S)?;
    Some(format!("other guests took {:.0} % of the CPU time", 100.0 * steal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_ends_before_the_first_look_is_refused_with_the_least() {
        let check = |budget, elapsed, measured| {
            let at = Duration::from_secs_f64;
            check_budget(at(budget), at(elapsed), measured, 4).map_err(|error| error.to_string())
        };
        assert_eq!(check(720.0, 2.0, 1), Ok(()));
        assert_eq!(check(8.0, 2.0, 4), Ok(()), "later blocks may take less");
        let error = check(7.9, 2.0, 4).unwrap_err();
        assert_eq!(
            error,
            "a budget of 7.9s cannot decide anything: a verdict needs 5 blocks, and one of 4 \
             scenarios takes about 2.0 s here; give `--budget 11s` or more, or fewer scenarios"
        );
        assert!(check(0.0, 6.0, 1).unwrap_err().contains("`--budget 3m`"), "of all scenarios");
    }

    #[test]
    fn a_short_block_is_not_rejected_for_stolen_time() {
        let block = |steal, total_s| PairBlock { steal, total_s, ..PairBlock::default() };
        assert_eq!(rejection(&block(None, 10.0)), None);
        assert_eq!(rejection(&block(Some(0.04), 10.0)), None);
        assert_eq!(rejection(&block(Some(0.5), 0.3)), None);
        let why = rejection(&block(Some(0.061), 10.0)).unwrap();
        assert_eq!(why, "other guests took 6 % of the CPU time");
    }
}
