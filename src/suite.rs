//! Runs scenarios in worker processes and writes the record as results arrive. A worker is this
//! same binary with a job on its standard input; it sends one line of JSON per scenario. Knows
//! nothing of verdicts.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::measure::{ReadBudget, Sharing};
use crate::model::Progress;
use crate::record::{Absence, Case, Rates, Record};
use crate::settings::Setup;
use crate::workload::{Input, Scenario};
use crate::{files, machine, measure};

mod budget;
mod job;
mod order;
mod process;
mod record;
#[cfg(feature = "server")]
mod server;
mod stress;
pub mod turns;
pub mod worker;

pub use budget::RunProgress;
pub(crate) use job::{INJECT, absent_case, startup_error};
pub use job::{Job, ScenarioResult, WORKER, run_job};
pub(crate) use process::run_worker;
pub(crate) use record::{OUTPUT_VARIES, new_record, new_session};
pub use stress::StressLimits;
pub(crate) use stress::{STRESS, run_stress_worker};
pub(crate) use worker::{own_process_group, spawn_thread, worker_failed};

use budget::BudgetTracker;
use job::{check_device, is_orderly_exit, run_job_until};
use record::{add_result, merge_case, resume_session};

/// Runs as a worker process if the environment says so ([`WORKER`]). Every `main` of a binary that
/// is measured calls it first.
///
/// # Errors
/// When the request cannot be read, the model cannot be loaded, or a response cannot be written.
pub fn work() -> Option<Result<()>> {
    let kind = std::env::var_os(WORKER)?;
    Some(match kind.to_str() {
        Some(turns::TURNS) => turns::run_turn_worker(),
        Some(STRESS) => run_stress_worker(),
        _ => run_worker(),
    })
}

/// What to run and where to write the record.
pub struct Plan {
    /// The worker's binary: usually this one.
    pub binary: PathBuf,
    /// How to run the model.
    pub setup: Setup,
    /// What to measure.
    pub scenarios: Vec<Scenario>,
    /// Processes per scenario.
    pub blocks: usize,
    /// Whether a process measures one scenario or all.
    pub sharing: Sharing,
    /// A deliberate regression.
    pub injection: Option<String>,
    /// Id of the new session; default: the time and the commit.
    pub session: Option<String>,
    /// Where the record is written after every scenario; `None` keeps it in memory.
    pub path: Option<PathBuf>,
    /// An interrupted record to resume.
    pub resume: Option<Record>,
    /// No process is started that would exceed this time, and none runs more than `budget::GRACE`
    /// beyond it.
    pub budget: Option<Duration>,
    /// The text to measure quality on; default: the prompts of all categories.
    pub text: Option<String>,
    /// Limits of stress scenarios.
    pub stress: StressLimits,
}

impl Plan {
    /// One block of each scenario in fresh workers of this binary, kept in memory.
    ///
    /// # Errors
    /// When the system does not tell where this binary is.
    pub fn new(setup: Setup, scenarios: Vec<Scenario>) -> Result<Self> {
        Ok(Self {
            binary: files::this_binary()?,
            setup,
            scenarios,
            blocks: 1,
            sharing: Sharing::Fresh,
            injection: None,
            session: None,
            path: None,
            resume: None,
            budget: None,
            text: None,
            stress: StressLimits::default(),
        })
    }

    fn save(&self, record: &Record) -> Result<()> {
        self.path.as_deref().map_or(Ok(()), |path| record.save(path))
    }

    /// Writes the unfinished record, unless it goes to a stream, which can be written only once.
    fn save_progress(&self, record: &Record) -> Result<()> {
        match &self.path {
            Some(path) if files::is_stream(path) => Ok(()),
            _ => self.save(record),
        }
    }
}

/// Receives the events of a run.
pub trait Events {
    /// A process is about to start.
    fn start(&mut self, _ids: &[String], _progress: RunProgress) {}
    /// A scenario has one more block.
    fn measured(&mut self, _case: &Case) {}
    /// Whether to start no further process.
    fn stopped(&self) -> bool {
        false
    }
}

/// A run that shows no progress, and may be stopped.
impl<F: Fn() -> bool> Events for F {
    fn stopped(&self) -> bool {
        self()
    }
}

/// Measures a plan's scenarios, one block of each per pass. The order is shuffled per pass from the
/// seed, so that a drifting machine affects all scenarios alike. The record is saved after every
/// scenario.
///
/// # Errors
/// When nothing can be measured (no such model or device, or the model does not load), the record
/// cannot be written, or the run was stopped. A scenario that fails is `absent` in the record, with
/// its reason.
pub fn run(plan: &Plan, progress: &mut dyn Progress, events: &mut dyn Events) -> Result<Record> {
    let mut record = match &plan.resume {
        Some(interrupted) => interrupted.clone(),
        None => {
            check_device(&plan.binary, &plan.setup)?;
            new_record(&plan.setup, "run", plan.injection.clone(), progress)?
        }
    };
    if plan.resume.is_some() {
        resume_session(&mut record.sessions);
    } else if let (Some(id), [session]) = (&plan.session, &mut record.sessions[..]) {
        session.id.clone_from(id);
    }
    let mut run = RunState::new(plan, record);
    while let Some(scenarios) = run.queue.pop_front() {
        if events.stopped() {
            if plan.path.as_deref().is_some_and(files::is_stream) {
                plan.save(&run.record)?;
            }
            return Err(Error::Interrupted);
        }
        match run.budget.exceeded_by(plan.budget, &scenarios) {
            Some(reason) => run.skip(&scenarios, &reason),
            None => run.measure(&scenarios, events)?,
        }
    }
    let mut record = run.record;
    if plan.setup.device == "cpu" && !record.build.is_unoptimized() {
        let measured = measure::peak_rates(plan.setup.threads, ReadBudget::BRIEF)?;
        measure::update_peak_rates(&mut record.machine.rates, &mut record.scenarios, &measured);
    }
    let last = record.sessions.last_mut().expect("a run has one");
    last.ended = Some(machine::now());
    last.conditions.push(machine::conditions());
    plan.save(&record)?;
    Ok(record)
}

/// A run in progress.
struct RunState<'a> {
    plan: &'a Plan,
    record: Record,
    session: String,
    /// Scenarios of the processes still to be started.
    queue: VecDeque<Vec<Scenario>>,
    budget: BudgetTracker,
}

impl<'a> RunState<'a> {
    fn new(plan: &'a Plan, mut record: Record) -> Self {
        for scenario in &plan.scenarios {
            if record.case(&scenario.id).is_none() {
                let pending = Absence::not_measured_yet();
                record.scenarios.push(absent_case(scenario, &plan.setup.generation, pending));
            }
        }
        record.set_not_selected();
        let session = record.sessions.last().expect("a run has one").id.clone();
        let queue = VecDeque::from(order::jobs(plan, &record));
        let budget = BudgetTracker::new(queue.iter(), &plan.setup.generation);
        Self { plan, record, session, queue, budget }
    }

    /// Skips the scenarios of one process. Those with a block keep it.
    fn skip(&mut self, scenarios: &[Scenario], reason: &Error) {
        self.budget.skip(scenarios);
        for scenario in scenarios {
            if self.record.case(&scenario.id).is_none_or(|case| case.blocks.is_empty()) {
                self.set_absent(scenario, reason);
            }
        }
    }

    fn set_absent(&mut self, scenario: &Scenario, reason: &Error) {
        let case = absent_case(scenario, &self.plan.setup.generation, reason.into());
        merge_case(&mut self.record, case);
    }

    /// Measures the scenarios of one process. If it dies of one, the rest gets another process.
    fn measure(&mut self, scenarios: &[Scenario], events: &mut dyn Events) -> Result<()> {
        events.start(&order::ids(scenarios), self.budget.progress());
        let plan = self.plan;
        let rates = self.record.machine.rates.clone();
        let end = plan.budget.map(|limit| self.budget.end(limit));
        let record = &mut self.record;
        let mut arrived = 0;
        let outcome = measure_job(plan, scenarios, &self.session, &rates, end, &mut |result| {
            let scenario = &scenarios[arrived];
            arrived += 1;
            add_result(record, scenario, result);
            events.measured(record.case(&scenario.id).expect("it was just merged"));
            plan.save_progress(record)
        });
        let (Err(error), Some(scenario)) = (outcome, scenarios.get(arrived)) else {
            // An error after the last result may have come from writing the record: try again.
            plan.save_progress(&self.record)?;
            self.budget.measured(scenarios);
            return Ok(());
        };
        let measured = self.record.scenarios.iter().any(|case| !case.blocks.is_empty());
        // Without its server, no other process measures anything either.
        let is_final = (!measured && !scenario.extended) || plan.setup.server.is_some();
        if is_final && arrived == 0 && is_orderly_exit(&error) {
            return Err(match startup_error(error) {
                Error::Usage(why) if measured => Error::Failed(why),
                error => error,
            });
        }
        self.set_absent(scenario, &error);
        events.measured(self.record.case(&scenario.id).expect("it was just merged"));
        plan.save_progress(&self.record)?;
        self.budget.measured(&scenarios[..=arrived]);
        let rest = scenarios[arrived + 1..].to_vec();
        if !rest.is_empty() {
            self.budget.add_process();
            self.queue.push_front(rest);
        }
        Ok(())
    }
}

/// Measures the scenarios of one process.
fn measure_job(
    plan: &Plan,
    scenarios: &[Scenario],
    session: &str,
    rates: &Rates,
    end: Option<(Instant, Error)>,
    each: &mut dyn FnMut(ScenarioResult) -> Result<()>,
) -> Result<()> {
    let job = Job {
        setup: order::scenario_setup(&plan.setup, &scenarios[0]),
        scenarios: order::ids(scenarios),
        session: session.into(),
        sharing: if scenarios.len() > 1 { plan.sharing } else { Sharing::Fresh },
        rates: rates.clone(),
        injection: plan.injection.clone(),
        references: true,
        text: plan.text.clone(),
    };
    match scenarios {
        [scenario @ Scenario { input: Input::Requests(kind), .. }]
            if plan.setup.server.is_none() =>
        {
            each(stress::measure(&plan.binary, &job, scenario, *kind, &plan.stress)?)
        }
        _ => run_job_until(&plan.binary, &job, end, each),
    }
}
