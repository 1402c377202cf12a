//! Two builds measured in turns: fresh processes for every block, palindromes of turns within it,
//! more blocks only for what is undecided, until everything is decided or time is up. Measures and
//! writes down; what it means is said by [`crate::compare::paired`].

mod arms;
mod block;
mod budget;
pub mod build;
mod case;
mod cpu_quota;
mod duet;
mod interference;
pub mod pool;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::compare::looks::LOOKS;
use crate::compare::paired::judge;
use crate::compare::{Judgement, Policy};
use crate::error::{Error, Result};
use crate::machine::ReferenceKernels;
use crate::pair::arms::{arms_folder, copy_binaries};
use crate::pair::budget::RoundBudget;
use crate::pair::build::Binary;
use crate::pair::case::can_be_measured;
use crate::pair::duet::Duet;
use crate::pair::worker::Deadline;
use crate::record::Session;
use crate::record::pair::{Arm, Ended, PairCase, PairKind, PairRecord, SCHEMA};
use crate::settings::Setup;
use crate::{files, machine, workload};

/// What is to be compared, and for how long.
pub struct Plan {
    /// What the candidate is compared with.
    pub base: Binary,
    /// What is judged.
    pub candidate: Binary,
    /// How to run the model.
    pub setup: Setup,
    /// Words that select scenarios.
    pub words: Vec<String>,
    /// A deliberate change for the worse of the candidate.
    pub injection: Option<String>,
    /// Why the candidate's output is another one, if that is meant.
    pub output_change: Option<String>,
    /// What to do with binaries that are equal byte for byte.
    pub identical: Identical,
    /// Whether both builds run at once, each on half of the CPUs, in place of one after the other.
    pub duet: bool,
    /// Wall-clock time after which nothing new is begun.
    pub budget: Duration,
    /// All orders are drawn from it.
    pub seed: u64,
    /// Folder of baselines, where a calibration of this machine may lie.
    pub baselines: PathBuf,
    /// By which rules.
    pub policy: Policy,
    /// Where the file is written after every block.
    pub path: PathBuf,
}

/// What to do with binaries that are equal byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identical {
    /// They pass; nothing is measured.
    Pass,
    /// Measure them: what is seen is the noise of the machine.
    Measure,
}

/// Hears how it goes.
pub trait Events {
    /// A block is about to start: its number from 1, and what it will measure.
    fn block(&mut self, number: usize, scenarios: &[String]);
    /// A look was taken; `left` is how long reaching the last look takes if what is open stays so.
    fn look(&mut self, judgement: &Judgement, left: Duration);
}

/// An answer may take this long, however small the budget is: a model has to be loaded.
const MIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Rejected blocks are measured again, but not for ever.
const MAX_REJECTED: usize = 16;

/// Measures two builds in turns.
///
/// # Errors
/// When the base's build cannot take turns with this one, or the file cannot be written. Whatever
/// goes wrong with the candidate or while measuring is in what is returned.
pub fn run(plan: &Plan, stop: &AtomicBool, events: &mut dyn Events) -> Result<PairRecord> {
    let began = Instant::now();
    let same = plan.base.sha256 == plan.candidate.sha256;
    let mut paired = begin(plan);
    if same && plan.injection.is_none() && plan.identical == Identical::Pass {
        paired.ended = Ended::Identical;
        paired.scenarios = workload::select(&plan.words)?
            .into_iter()
            .map(|scenario| PairCase { id: scenario.id, ..PairCase::default() })
            .collect();
        finish(&mut paired, plan)?;
        return Ok(paired);
    }
    let duet = plan.duet.then(Duet::new).transpose()?;
    keep(&paired, plan)?;
    let (kept, folder) = arms_folder(&plan.path)?;
    let arms = [('A', &plan.base), ('B', &plan.candidate), ('N', &plan.base)];
    let outcome = copy_binaries(&arms, &folder).and_then(|binaries| {
        let mut run = PairRun {
            plan,
            stop: Deadline { stop, timeout: plan.budget.max(MIN_TIMEOUT) },
            binaries,
            random: StdRng::seed_from_u64(plan.seed),
            duet,
            null_control_scenarios: Vec::new(),
            round_budgets: BTreeMap::new(),
            kernels: ReferenceKernels::new(plan.setup.threads)?,
        };
        run.measure(&mut paired, began, events)
    });
    drop(kept);
    match outcome {
        Ok(ended) => paired.ended = ended,
        Err(Error::Interrupted) => paired.ended = Ended::Interrupted,
        // Before the first block nothing is known; later, what was measured is judged all the same.
        Err(error @ Error::NotComparable(_)) if paired.blocks.is_empty() => return Err(error),
        Err(error) => paired.ended = Ended::Failed(error.chain()),
    }
    finish(&mut paired, plan)?;
    Ok(paired)
}

fn begin(plan: &Plan) -> PairRecord {
    let commit = plan.candidate.commit.clone();
    let arm = |built: &Binary, injected: Option<String>| {
        let mut arm = Arm { asked: built.asked.clone(), injected, ..Arm::default() };
        built.stamp(&mut arm.build);
        arm
    };
    PairRecord {
        schema: SCHEMA,
        kind: PairKind::Pair,
        session: Session {
            id: machine::session_id(commit.as_deref()),
            started: machine::now(),
            ended: None,
            command: crate::suite::command_line("pair"),
            harness: "pair".into(),
            conditions: vec![machine::conditions()],
        },
        seed: plan.seed,
        machine: machine::fingerprint(plan.setup.threads, &plan.setup.device),
        base: arm(&plan.base, None),
        candidate: arm(&plan.candidate, plan.injection.clone()),
        duet: plan.duet,
        output_change: plan.output_change.clone(),
        layout: BTreeMap::new(),
        ended: Ended::Open,
        blocks: Vec::new(),
        scenarios: Vec::new(),
    }
}

/// Writes the turns so far, unless they go where they can be written once only.
fn keep(paired: &PairRecord, plan: &Plan) -> Result<()> {
    if files::is_stream(&plan.path) { Ok(()) } else { paired.save(&plan.path) }
}

fn finish(paired: &mut PairRecord, plan: &Plan) -> Result<()> {
    paired.session.ended = Some(machine::now());
    paired.session.conditions.push(machine::conditions());
    paired.save(&plan.path)
}

/// A measuring under way.
struct PairRun<'a> {
    plan: &'a Plan,
    stop: Deadline<'a>,
    binaries: BTreeMap<char, PathBuf>,
    random: StdRng,
    /// Where both builds run at once.
    duet: Option<Duet>,
    /// Scenarios that the null control takes part in, in every block.
    null_control_scenarios: Vec<String>,
    /// How much of each scenario is measured in a block.
    round_budgets: BTreeMap<String, RoundBudget>,
    /// Measured around every block and written down, for whoever wonders about a verdict; `None`
    /// where there is no memory for them.
    kernels: Option<ReferenceKernels>,
}

impl PairRun<'_> {
    fn measure(
        &mut self,
        paired: &mut PairRecord,
        began: Instant,
        events: &mut dyn Events,
    ) -> Result<Ended> {
        let mut open: Option<Vec<String>> = None;
        let mut looked = 0;
        loop {
            let spent = began.elapsed();
            let longest = paired.blocks.iter().map(|block| block.total_s).fold(0.0, f64::max);
            // A block that would end past the budget is not begun: the budget is a promise.
            if spent + Duration::from_secs_f64(longest) > self.plan.budget {
                return Ok(Ended::Budget);
            }
            self.block(paired, open.as_deref(), events)?;
            keep(paired, self.plan)?;
            if paired.blocks.len() == budget::PILOT {
                self.settle(paired);
            }
            let rejected = paired.blocks.iter().filter(|block| block.rejected.is_some()).count();
            let counted = paired.blocks.len() - rejected;
            if rejected > MAX_REJECTED + counted {
                return Ok(Ended::Rejected);
            }
            if !LOOKS.contains(&counted) {
                // Scenarios that can never be decided (all failed, other output) need no look.
                let declared = paired.output_change.as_deref();
                if !paired.scenarios.iter().any(|case| can_be_measured(case, declared)) {
                    return Ok(Ended::Decided);
                }
                continue;
            }
            if counted == looked {
                continue; // The block was rejected.
            }
            looked = counted;
            let judgement = judge(paired, &self.plan.policy);
            let still =
                judgement.pair.as_ref().map(|summary| summary.open.clone()).unwrap_or_default();
            let each = began.elapsed() / paired.blocks.len() as u32;
            let share = still.len() as f64 / paired.scenarios.len().max(1) as f64;
            let last = LOOKS[LOOKS.len() - 1];
            events.look(&judgement, each.mul_f64((last - counted) as f64 * share));
            if still.is_empty() {
                return Ok(Ended::Decided);
            }
            if counted == last {
                return Ok(Ended::Looks);
            }
            open = Some(still);
        }
    }

    /// After the pilot: as many rounds of every scenario as its noise is worth.
    fn settle(&mut self, paired: &PairRecord) {
        let load_s = paired.blocks.iter().map(|block| block.load_s).sum::<f64>();
        let load_s = load_s / (paired.blocks.len() * paired.scenarios.len()) as f64;
        for case in &paired.scenarios {
            if let Some(budget) = self.round_budgets.get_mut(&case.id) {
                budget.optimise(case, load_s);
            }
        }
    }
}
