//! One scenario in Criterion: measured for its first benchmark, replayed for the others, then
//! stored in the record.

use crate::engine::Injection;
use crate::error::{Error, Result};
use crate::machine::{ReferenceKernels, RegionStart, RegionUsage, store_usage};
use crate::measure::{Sample, Sharing, Trial};
use crate::record::Case;
use crate::suite::Job;
use crate::workload::{Scenario, Task, metric};
use crate::{files, measure, suite};

use crate::bench::SAMPLES;
use crate::bench::measurement::{SampledTime, take_counted};
use crate::bench::session::{Loaded, Mode, Session, replace_case};

/// One Criterion benchmark of a scenario: which time of a sample it shows, and whether with a rate.
pub(super) struct Phase {
    /// Suffix of the group's name.
    pub(super) suffix: &'static str,
    seconds: fn(&Sample) -> f64,
    pub(super) tokens: fn(&Scenario, usize, &[usize]) -> Option<usize>,
}

impl Phase {
    /// Whether a scenario has this phase: at a context depth there is no TTFT.
    pub(super) fn applies_to(&self, scenario: &Scenario) -> bool {
        self.suffix != "-ttft" || scenario.task() != Task::Depth
    }
}

/// The first phase is measured, the others replay its samples.
pub(super) const PHASES: &[Phase] = &[
    Phase {
        suffix: "",
        seconds: Sample::primary_s,
        tokens: |scenario, new, _| Some(scenario.batch * (new - 1)).filter(|tokens| *tokens > 0),
    },
    Phase {
        suffix: "-ttft",
        seconds: |sample| sample.values[metric::TTFT_S],
        tokens: |_, _, _| None,
    },
    Phase {
        suffix: "-prefill",
        seconds: |sample| sample.values[metric::PREFILL_S],
        tokens: |_, _, prompts| Some(prompts.iter().sum()),
    },
];

/// One scenario and its samples.
pub(super) struct CaseRun<'a> {
    session: &'a Session,
    scenario: &'a Scenario,
    trial: Option<Trial>,
    /// Peak memory of a fresh process.
    memory: Option<Case>,
    warmed_up: bool,
    /// The region of the measured generations: its start, its usage so far, its tokens.
    region: Option<(RegionStart, RegionUsage, usize)>,
    pub(super) samples: Vec<Sample>,
    /// Index of the next chunk of samples to replay.
    next: usize,
}

impl<'a> CaseRun<'a> {
    pub(super) fn new(session: &'a Session, scenario: &'a Scenario) -> Self {
        Self {
            session,
            scenario,
            trial: None,
            memory: None,
            warmed_up: false,
            region: None,
            samples: Vec::new(),
            next: 0,
        }
    }

    /// Loads the model and measures memory, outside the time that Criterion plans with.
    pub(super) fn prepare(&mut self) {
        if self.trial.is_some() || !self.samples.is_empty() {
            return;
        }
        let prepared = || -> Result<(Trial, Option<Case>)> {
            let loaded = self.session.loaded()?;
            let injection = Injection::parse_if_any(&self.session.injection)?;
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

    /// Runs the scenario once in a fresh process.
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
            references: false, // This process measures them around the samples.
            text: None,
        };
        let mut case = None;
        suite::run_job(&files::this_binary()?, &job, &mut |response| {
            case = Some(response.case);
            Ok(())
        })?;
        case.ok_or_else(|| Error::Failed("the worker for memory sent no response".into()))
    }

    /// Measures or replays iterations.
    pub(super) fn run(&mut self, phase: &Phase, iterations: u64) -> SampledTime {
        if !self.samples.is_empty() {
            // A sample of Criterion may be several generations.
            let each = self.samples.len().div_ceil(SAMPLES).max(1);
            let chunks = self.samples.len().div_ceil(each);
            let start = self.next % chunks * each;
            let chunk = &self.samples[start..(start + each).min(self.samples.len())];
            self.next += usize::from(self.warmed_up);
            self.warmed_up = true;
            let mean = chunk.iter().map(phase.seconds).sum::<f64>() / chunk.len() as f64;
            return SampledTime { seconds: mean * iterations as f64, samples: Vec::new() };
        }
        let mut measured = || -> Result<SampledTime> {
            let loaded = self.session.loaded()?;
            let mut engine = loaded.engine.borrow_mut();
            let trial = self.trial.as_mut().expect("prepared before");
            if !std::mem::replace(&mut self.warmed_up, true) && self.session.mode != Mode::Test {
                return Ok(SampledTime {
                    seconds: trial.warm_up(&mut engine)?,
                    samples: Vec::new(),
                });
            }
            let (start, before) = match self.region.take() {
                Some((start, _, tokens)) => (start, tokens),
                None => (loaded.meter.begin(), 0),
            };
            let samples =
                (0..iterations).map(|_| trial.sample(&mut engine)).collect::<Result<Vec<_>>>()?;
            let usage = loaded.meter.end(start.clone());
            let tokens: usize = samples.iter().flat_map(|sample| &sample.ids).map(Vec::len).sum();
            self.region = Some((start, usage, before + tokens));
            Ok(SampledTime { seconds: samples.iter().map(phase.seconds).sum(), samples })
        };
        measured().unwrap_or_else(|error| self.fail(&error))
    }

    /// Stores the samples that Criterion has counted in the record.
    pub(super) fn store(&mut self) -> Result<()> {
        (self.next, self.warmed_up) = (0, false);
        let counted = take_counted();
        let Some(trial) = self.trial.take() else { return Ok(()) };
        if counted.is_empty() || self.session.mode != Mode::Bench {
            return Ok(());
        }
        let loaded = self.session.loaded()?;
        let mut record = loaded.record.borrow_mut();
        let (session, rates) = (record.sessions[0].id.clone(), record.machine.rates.clone());
        let mut case = trial.into_case(&loaded.engine.borrow(), &session, &counted, None, &rates);
        if let Some((_, usage, tokens)) = self.region.take() {
            store_usage(&usage, tokens as f64, &mut case.blocks[0]);
        }
        if let Some(fresh) = self.memory.take().and_then(|case| case.blocks.into_iter().next()) {
            measure::copy_memory(&mut case.blocks[0], &fresh);
        }
        let after = loaded.kernels.as_ref().map(ReferenceKernels::measure).transpose()?;
        case.blocks[0].references = loaded.references.replace(after).zip(after).map(<[_; 2]>::from);
        record.settings.generation.iters = counted.len();
        let exceeds = measure::exceeds_roofline(&case);
        replace_case(&mut record, case);
        if exceeds {
            let rates =
                measure::peak_rates(record.settings.threads, measure::ReadBudget::EXTENDED)?;
            let record = &mut *record;
            measure::update_peak_rates(&mut record.machine.rates, &mut record.scenarios, &rates);
        }
        self.samples = counted;
        record.save(&loaded.path)
    }

    /// Stores the failure in the record and ends the bench: Criterion cannot report a failed case.
    fn fail(&self, error: &Error) -> ! {
        if let Some(loaded) = self.session.loaded.get().filter(|_| self.session.mode == Mode::Bench)
        {
            let generation = &self.session.setup.generation;
            let mut record = loaded.record.borrow_mut();
            replace_case(&mut record, suite::absent_case(self.scenario, generation, error.into()));
            if let Err(error) = record.save(&loaded.path) {
                eprintln!("error: {}", error.chain());
            }
        }
        eprintln!("error: {}", error.chain());
        std::process::exit(5)
    }
}
