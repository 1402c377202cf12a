//! One scenario on its way through Criterion: measured on its first page, replayed on the others,
//! then kept in the record.

use candlemark::engine::Injection;
use candlemark::error::{Error, Result};
use candlemark::machine::ReferenceKernels;
use candlemark::measure::{Sample, Sharing, Trial};
use candlemark::record::Case;
use candlemark::suite::Job;
use candlemark::workload::{Scenario, Task};
use candlemark::{measure, suite};

use super::sampled::{Counted, take_counted};
use super::session::{Loaded, Mode, Session, put};
use super::{SAMPLES, binary};

/// A page of a case: what is read off a sample, and whether a rate is shown beside the time.
pub(super) struct Page {
    /// Added to the group's name.
    pub(super) suffix: &'static str,
    seconds: fn(&Sample) -> f64,
    pub(super) tokens: fn(&Scenario, usize, &[usize]) -> Option<usize>,
}

impl Page {
    /// Whether a scenario has this page: after a depth there is no first token to wait for.
    pub(super) fn fits(&self, scenario: &Scenario) -> bool {
        self.suffix != "-ttft" || scenario.task() != Task::Depth
    }
}

/// The first page is measured, the others show the same samples.
pub(super) const PAGES: &[Page] = &[
    Page {
        suffix: "",
        seconds: Sample::primary_s,
        tokens: |scenario, new, _| Some(scenario.batch * (new - 1)).filter(|tokens| *tokens > 0),
    },
    Page { suffix: "-ttft", seconds: |sample| sample.values["ttft_s"], tokens: |_, _, _| None },
    Page {
        suffix: "-prefill",
        seconds: |sample| sample.values["prefill_s"],
        tokens: |_, _, prompts| Some(prompts.iter().sum()),
    },
];

/// One scenario on its way through its pages.
pub(super) struct CaseRun<'a> {
    session: &'a Session,
    scenario: &'a Scenario,
    trial: Option<Trial>,
    /// Peak memory of a fresh process.
    memory: Option<Case>,
    warmed: bool,
    pub(super) samples: Vec<Sample>,
    /// Which sample a replayed page shows next.
    next: usize,
}

impl<'a> CaseRun<'a> {
    pub(super) fn new(session: &'a Session, scenario: &'a Scenario) -> Self {
        Self {
            session,
            scenario,
            trial: None,
            memory: None,
            warmed: false,
            samples: Vec::new(),
            next: 0,
        }
    }

    /// Loads and measures memory, outside what Criterion takes for the work.
    pub(super) fn prepare(&mut self) {
        if self.trial.is_some() || !self.samples.is_empty() {
            return;
        }
        let prepared = || -> Result<(Trial, Option<Case>)> {
            let loaded = self.session.loaded()?;
            let injection = self.session.injection.as_deref().map(Injection::parse).transpose()?;
            let engine = loaded.engine.borrow();
            let trial =
                Trial::new(&engine, self.scenario, &self.session.setup.generation, injection)?;
            let memory =
                if self.session.mode == Mode::Bench { Some(self.memory(loaded)?) } else { None };
            Ok((trial, memory))
        };
        (self.trial, self.memory) = match prepared() {
            Ok((trial, memory)) => (Some(trial), memory),
            Err(error) => self.fail(&error),
        };
    }

    /// Runs the scenario once in a process of its own.
    fn memory(&self, loaded: &Loaded) -> Result<Case> {
        let mut setup = self.session.setup.clone();
        (setup.generation.warmups, setup.generation.iters) = (0, 1);
        let record = loaded.record.borrow();
        let job = Job {
            setup,
            scenarios: vec![self.scenario.id.clone()],
            session: record.sessions[0].id.clone(),
            sharing: Sharing::Fresh,
            rates: record.machine.rates.clone(),
            injection: None,
            references: false, // They are measured around the samples, here.
            text: None,
        };
        let mut answer = None;
        suite::run_job(&binary()?, &job, &mut |got| {
            answer = Some(got.case);
            Ok(())
        })?;
        answer.ok_or_else(|| Error::Failed("the worker for memory gave no answer".into()))
    }

    /// So many iterations, measured or replayed.
    pub(super) fn count(&mut self, page: &Page, iterations: u64) -> Counted {
        if !self.samples.is_empty() {
            // Criterion's samples may each have been several generations.
            let each = self.samples.len().div_ceil(SAMPLES).max(1);
            let chunks = self.samples.len().div_ceil(each);
            let start = self.next % chunks * each;
            let chunk = &self.samples[start..(start + each).min(self.samples.len())];
            self.next += usize::from(self.warmed);
            self.warmed = true;
            let mean = chunk.iter().map(page.seconds).sum::<f64>() / chunk.len() as f64;
            return Counted { seconds: mean * iterations as f64, samples: Vec::new() };
        }
        let mut measured = || -> Result<Counted> {
            let mut engine = self.session.loaded()?.engine.borrow_mut();
            let trial = self.trial.as_mut().expect("prepared before");
            if !std::mem::replace(&mut self.warmed, true) && self.session.mode != Mode::Test {
                return Ok(Counted { seconds: trial.warm_up(&mut engine)?, samples: Vec::new() });
            }
            let samples =
                (0..iterations).map(|_| trial.sample(&mut engine)).collect::<Result<Vec<_>>>()?;
            Ok(Counted { seconds: samples.iter().map(page.seconds).sum(), samples })
        };
        measured().unwrap_or_else(|error| self.fail(&error))
    }

    /// Takes what Criterion has counted into the record.
    pub(super) fn keep(&mut self) -> Result<()> {
        (self.next, self.warmed) = (0, false);
        let counted = take_counted();
        let Some(trial) = self.trial.take() else { return Ok(()) };
        if counted.is_empty() || self.session.mode != Mode::Bench {
            return Ok(());
        }
        let loaded = self.session.loaded()?;
        let mut record = loaded.record.borrow_mut();
        let (session, rates) = (record.sessions[0].id.clone(), record.machine.rates.clone());
        let mut case = trial.into_case(&loaded.engine.borrow(), &session, &counted, None, &rates);
        if let Some(fresh) = self.memory.take().and_then(|case| case.blocks.into_iter().next()) {
            measure::copy_memory(&mut case.blocks[0], &fresh);
        }
        let after = loaded.kernels.as_ref().map(ReferenceKernels::measure).transpose()?;
        case.blocks[0].references = loaded.references.replace(after).zip(after).map(<[_; 2]>::from);
        record.settings.generation.iters = counted.len();
        let exceeds = measure::exceeds_roofline(&case);
        put(&mut record, case);
        if exceeds {
            let rates =
                measure::peak_rates(record.settings.threads, measure::ReadBudget::Extended)?;
            let record = &mut *record;
            measure::update_peak_rates(&mut record.machine.rates, &mut record.scenarios, &rates);
        }
        self.samples = counted;
        record.save(&loaded.path)
    }

    /// Criterion has no way to say that a case failed: the record does, and the bench ends.
    fn fail(&self, error: &Error) -> ! {
        if let Some(loaded) = self.session.loaded.get().filter(|_| self.session.mode == Mode::Bench)
        {
            let generation = &self.session.setup.generation;
            let mut record = loaded.record.borrow_mut();
            put(&mut record, suite::absent_case(self.scenario, generation, error.into()));
            if let Err(error) = record.save(&loaded.path) {
                eprintln!("error: {}", error.chain());
            }
        }
        eprintln!("error: {}", error.chain());
        std::process::exit(5)
    }
}
