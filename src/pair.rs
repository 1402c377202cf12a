//! Measures two builds in turns: fresh processes for every block, rounds of counterbalanced turns
//! (ABBA, BAAB) within it, more blocks only for undecided scenarios, until everything is decided or
//! the time budget is used up. [`crate::compare::paired`] gives the verdicts.

mod arms;
mod block;
mod budget;
pub mod build;
mod case;
mod cpu_quota;
mod interference;
pub mod pool;
mod profile;
#[cfg(feature = "server")]
mod restarts;
#[cfg(feature = "server")]
mod server_process;
pub(crate) mod target;
mod turns;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::compare::looks::LOOKS;
use crate::compare::paired::judge;
use crate::compare::{Judgement, Outcome, Policy};
use crate::error::{Error, Result};
use crate::machine::ReferenceKernels;
use crate::pair::arms::{arms_folder, copy_binaries};
use crate::pair::budget::RoundBudget;
use crate::pair::build::Binary;
use crate::pair::case::can_be_measured;
#[cfg(feature = "server")]
pub use crate::pair::restarts::Restarts;
#[cfg(feature = "server")]
pub(crate) use crate::pair::server_process::PORT;
use crate::pair::turns::Duet;
use crate::pair::worker::Deadline;
use crate::record::pair::{Arm, Ended, PairCase, PairKind, PairRecord, SCHEMA};
use crate::settings::{SERVER_ENGINE, Server, Setup};
use crate::{files, machine, suite, workload};

/// What to compare, and for how long.
pub struct Plan {
    /// The build that the candidate is compared with.
    pub base: Binary,
    /// The build that is judged.
    pub candidate: Binary,
    /// How to run the model, or the base's server.
    pub setup: Setup,
    /// The candidate's server, where servers are compared; both binaries are then the client.
    pub candidate_server: Option<Server>,
    /// The commands that start the servers for every block; without them, servers run on.
    #[cfg(feature = "server")]
    pub restarts: Option<Restarts>,
    /// Arguments that select scenarios.
    pub words: Vec<String>,
    /// A slowdown on purpose of the candidate.
    pub injection: Option<String>,
    /// The reason of an intended change of the output.
    pub output_change: Option<String>,
    /// What to do with binaries that are equal byte for byte.
    pub identical: Identical,
    /// Duet: whether both builds run at the same time, each on half of the CPUs, instead of one
    /// after the other.
    pub duet: bool,
    /// Wall-clock time after which no new block is started.
    pub budget: Duration,
    /// Seed of all random orders.
    pub seed: u64,
    /// Folder of baselines, which may have a calibration of this machine.
    pub baselines: PathBuf,
    /// Limits and levels of the verdicts.
    pub policy: Policy,
    /// Where the file is written after every block.
    pub path: PathBuf,
}

impl Plan {
    /// How an arm is run: `B` is the candidate, the others are the base.
    fn setup_of(&self, arm: char) -> Setup {
        let candidate = self.candidate_server.clone().filter(|_| arm == 'B');
        Setup { server: candidate.or_else(|| self.setup.server.clone()), ..self.setup.clone() }
    }

    /// Whether servers are compared, not builds.
    fn has_servers(&self) -> bool {
        self.setup.engine == SERVER_ENGINE
    }
}

/// What to do with binaries that are equal byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identical {
    /// Pass without measuring.
    Pass,
    /// Measure them: the result shows the noise of the machine.
    Measure,
}

/// Receives progress.
pub trait Events {
    /// A block starts: its number from 1, and its scenarios.
    fn block(&mut self, number: usize, scenarios: &[String]);
    /// A look was taken; `left` is the time to the last look if no more scenarios are decided.
    fn look(&mut self, judgement: &Judgement, left: Duration);
}

/// Least timeout of a response, however small the budget is: a model has to be loaded.
const MIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Most rejected blocks beyond the number that count; measuring ends after that.
const MAX_REJECTED: usize = 16;

/// Measures two builds in turns.
///
/// # Errors
/// When the base's build has no matching turn protocol, or the file cannot be written. Failures of
/// the candidate or while measuring are in the returned record.
pub fn run(plan: &Plan, stop: &AtomicBool, events: &mut dyn Events) -> Result<PairRecord> {
    let began = Instant::now();
    let identical = plan.base.sha256 == plan.candidate.sha256 && !plan.has_servers();
    let mut paired = begin(plan);
    if identical && plan.injection.is_none() && plan.identical == Identical::Pass {
        paired.ended = Ended::Identical;
        paired.scenarios = workload::select(&plan.words)?
            .into_iter()
            .map(|scenario| PairCase { id: scenario.id, ..PairCase::default() })
            .collect();
        finish(&mut paired, plan)?;
        return Ok(paired);
    }
    let duet = plan.duet.then(Duet::new).transpose()?;
    save_progress(&paired, plan)?;
    let (arms_guard, folder) = arms_folder(&plan.path)?;
    let arms = [('A', &plan.base), ('B', &plan.candidate), ('N', &plan.base)];
    let outcome = copy_binaries(&arms, &folder).and_then(|binaries| {
        let mut run = PairRun {
            plan,
            deadline: Deadline { stop, timeout: plan.budget.max(MIN_TIMEOUT) },
            binaries,
            #[cfg(feature = "server")]
            folder: folder.clone(),
            random: StdRng::seed_from_u64(plan.seed),
            duet: duet.as_ref(),
            null_control_scenarios: Vec::new(),
            round_budgets: BTreeMap::new(),
            // They tell a change of this machine, where only the client runs.
            kernels: match plan.has_servers() {
                true => None,
                false => ReferenceKernels::new(plan.setup.threads)?,
            },
        };
        run.measure(&mut paired, began, events)
    });
    let outcome = outcome.map(|ended| paired.ended = ended);
    // An injected slowdown is in no kernel, and a server's kernels are not seen.
    if outcome.is_ok()
        && plan.injection.is_none()
        && !plan.has_servers()
        && judge(&paired, &plan.policy).outcome == Outcome::Regression
    {
        let traced = profile::trace(plan, &folder.join("A"), &folder.join("B"));
        paired.kernels = traced.ok(); // The verdict stands without it.
    }
    drop(arms_guard);
    match outcome {
        Ok(()) => {}
        Err(Error::Interrupted) => paired.ended = Ended::Interrupted,
        // Before the first block there is nothing to judge; later, the blocks so far are judged.
        Err(error @ (Error::NotComparable(_) | Error::Usage(_))) if paired.blocks.is_empty() => {
            return Err(error);
        }
        Err(error) => paired.ended = Ended::Failed(error.chain()),
    }
    finish(&mut paired, plan)?;
    Ok(paired)
}

fn begin(plan: &Plan) -> PairRecord {
    let arm = |binary: &Binary, injected: Option<String>| {
        let (asked, missing_features) = (binary.asked.clone(), binary.missing_features.clone());
        let mut arm = Arm { asked, injected, missing_features, ..Arm::default() };
        binary.stamp(&mut arm.build);
        arm
    };
    PairRecord {
        schema: SCHEMA,
        kind: PairKind::Pair,
        session: suite::new_session("pair", plan.candidate.commit.as_deref()),
        seed: plan.seed,
        machine: match plan.has_servers() {
            true => machine::fingerprint(1, "cpu"), // The client.
            false => machine::fingerprint(plan.setup.threads, &plan.setup.device),
        },
        base: arm(&plan.base, None),
        candidate: arm(&plan.candidate, plan.injection.clone()),
        duet: plan.duet,
        output_change: plan.output_change.clone(),
        layout: BTreeMap::new(),
        kernels: None,
        ended: Ended::Open,
        blocks: Vec::new(),
        scenarios: Vec::new(),
    }
}

/// Writes the blocks so far, unless the output is a stream, which can be written only once.
fn save_progress(paired: &PairRecord, plan: &Plan) -> Result<()> {
    if files::is_stream(&plan.path) { Ok(()) } else { paired.save(&plan.path) }
}

fn finish(paired: &mut PairRecord, plan: &Plan) -> Result<()> {
    paired.session.ended = Some(machine::now());
    paired.session.conditions.push(machine::conditions());
    paired.save(&plan.path)
}

/// A pair that is being measured.
struct PairRun<'a> {
    plan: &'a Plan,
    deadline: Deadline<'a>,
    binaries: BTreeMap<char, PathBuf>,
    /// A temporary folder.
    #[cfg(feature = "server")]
    folder: PathBuf,
    random: StdRng,
    /// Set if both builds run at the same time.
    duet: Option<&'a Duet>,
    /// Scenarios in which the null control takes part, in every block.
    null_control_scenarios: Vec<String>,
    /// Rounds per block, by scenario.
    round_budgets: BTreeMap<String, RoundBudget>,
    /// The reference kernels, measured around every block; `None` where there is no memory for
    /// them.
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
        let mut last_look = 0;
        loop {
            let spent = began.elapsed();
            let longest = paired.blocks.iter().map(|block| block.total_s).fold(0.0, f64::max);
            // A block that would exceed the budget is not started. The first one shows whether the
            // budget is long enough for a look.
            if !paired.blocks.is_empty()
                && spent + Duration::from_secs_f64(longest) > self.plan.budget
            {
                return Ok(Ended::Budget);
            }
            self.next_block(paired, open.as_deref(), events)?;
            save_progress(paired, self.plan)?;
            if paired.blocks.len() == budget::PILOT {
                self.optimize_rounds(paired);
            }
            let rejected = paired.blocks.iter().filter(|block| block.rejected.is_some()).count();
            let counted = paired.blocks.len() - rejected;
            if rejected > MAX_REJECTED + counted {
                return Ok(Ended::Rejected);
            }
            if !LOOKS.contains(&counted) {
                // If no scenario can be measured (all failed, output changed), no look is needed.
                let output_change = paired.output_change.as_deref();
                if !paired.scenarios.iter().any(|case| can_be_measured(case, output_change)) {
                    return Ok(Ended::Decided);
                }
                continue;
            }
            if counted == last_look {
                continue; // The block was rejected.
            }
            last_look = counted;
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

    /// One more block.
    fn next_block(
        &mut self,
        paired: &mut PairRecord,
        open: Option<&[String]>,
        events: &mut dyn Events,
    ) -> Result<()> {
        #[cfg(feature = "server")]
        if let Some(restarts) = &self.plan.restarts {
            return self.block_of_restarts(restarts, paired, open, events);
        }
        self.block(paired, open, events)
    }

    /// After the pilot: chooses the number of rounds of every scenario from its noise.
    fn optimize_rounds(&mut self, paired: &PairRecord) {
        let load_s = paired.blocks.iter().map(|block| block.load_s).sum::<f64>();
        let load_s = load_s / (paired.blocks.len() * paired.scenarios.len()) as f64;
        for case in &paired.scenarios {
            if let Some(budget) = self.round_budgets.get_mut(&case.id) {
                budget.optimize(case, load_s);
            }
        }
    }
}
