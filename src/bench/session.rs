//! The model and record of a bench, and its verdict and page at the end.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::baseline::Stored;
use crate::compare::{Difference, Policy, Severity};
use crate::engine::{Engine, Identity};
use crate::error::{Result, quoted};
use crate::files::RunFolder;
use crate::machine::{Meter, ReferenceKernels};
use crate::record::{Absence, Case, KernelTimes, Record};
use crate::settings::Setup;
use crate::tokenizer::Tokenizer;
use crate::workload::{Input, Scenario};
use crate::{compare, files, machine, measure, report, suite};

/// Mode of Criterion, from its arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Measure and record.
    Bench,
    /// Measure without a record (`--quick`, `--profile-time`).
    Unrecorded,
    /// Run each scenario once as a smoke test.
    Test,
}

impl Mode {
    pub(super) fn from_args() -> Self {
        let has = |names: &[&str]| {
            std::env::args_os().any(|arg| {
                let arg = arg.to_string_lossy();
                names.iter().any(|name| arg.split('=').next() == Some(name))
            })
        };
        if has(&["--test"]) || !has(&["--bench"]) {
            Mode::Test
        } else if has(&["--quick", "-q", "--profile-time", "--load-baseline"]) {
            Mode::Unrecorded
        } else {
            Mode::Bench
        }
    }
}

/// Replaces the case of the same id, or appends it.
pub(super) fn replace_case(record: &mut Record, case: Case) {
    match record.scenarios.iter_mut().find(|known| known.id == case.id) {
        Some(known) => *known = case,
        None => record.scenarios.push(case),
    }
}

/// The session of a bench. The model is loaded for the first scenario that runs: `--list` runs
/// none.
pub(super) struct Session {
    pub(super) setup: Setup,
    pub(super) mode: Mode,
    pub(super) injection: Option<String>,
    /// All scenarios, before Criterion's filter.
    pub(super) scenarios: Vec<Scenario>,
    pub(super) loaded: OnceCell<Loaded>,
}

pub(super) struct Loaded {
    pub(super) engine: RefCell<Engine>,
    pub(super) record: RefCell<Record>,
    pub(super) path: PathBuf,
    _folder: RunFolder,
    /// CPU time and energy of the measured generations.
    pub(super) meter: Meter,
    /// Allocated once: the peak memory of this process is not measured.
    pub(super) kernels: Option<ReferenceKernels>,
    /// The reference kernels after the last scenario, which are those before the next one.
    pub(super) references: Cell<Option<KernelTimes>>,
}

impl Session {
    pub(super) fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        if self.mode == Mode::Bench {
            machine::refuse_debug()?;
        }
        let mut record =
            suite::new_record(&self.setup, "criterion", self.injection.clone(), &mut ())?;
        let engine = Engine::load(&self.setup, &mut ())?;
        let identity =
            Identity { sha256: record.model.sha256.clone(), commit: record.model.commit.clone() };
        record.model = measure::describe_model(&engine, Some(&identity));
        // An interrupted bench leaves pending cases; which ones the filter excludes is known at the
        // end.
        let generation = &self.setup.generation;
        let pending = self
            .scenarios
            .iter()
            .map(|scenario| suite::absent_case(scenario, generation, Absence::not_measured_yet()));
        record.scenarios = pending.collect();
        record.set_not_selected();
        let folder = RunFolder::new(&record.sessions[0].id)?;
        record.sessions[0].id.clone_from(&folder.id);
        let path = folder.path.join("record.json");
        let kernels = (self.mode == Mode::Bench).then(|| ReferenceKernels::new(self.setup.threads));
        let kernels = kernels.transpose()?.flatten();
        let references = kernels.as_ref().map(ReferenceKernels::measure).transpose()?;
        let references = Cell::new(references);
        Ok(self.loaded.get_or_init(|| Loaded {
            engine: RefCell::new(engine),
            record: RefCell::new(record),
            path,
            _folder: folder,
            meter: Meter::for_device(&self.setup.device, self.setup.threads),
            kernels,
            references,
        }))
    }

    /// Prompt tokens of a scenario, for the rate. Until a model is loaded, those of the tiny
    /// vocabulary.
    pub(super) fn prompt_tokens(
        &self,
        scenario: &Scenario,
        tiny: &Tokenizer,
    ) -> Result<Vec<usize>> {
        match scenario.input {
            Input::Length { prompt_tokens } => return Ok(vec![prompt_tokens]),
            Input::Depth { read, .. } | Input::SharedPrefix { read, .. } => return Ok(vec![read]),
            _ => {}
        }
        let prompts = scenario.prompts();
        let count = |prompt: &String| match self.loaded.get() {
            Some(loaded) => Ok(loaded
                .engine
                .borrow()
                .encode(prompt, self.setup.generation.prompt_format)?
                .len()),
            None => Ok(tiny.encode(prompt)?.len()),
        };
        prompts.iter().map(count).collect()
    }

    /// Completes the record, prints the verdict and writes the page, with a link in Criterion's
    /// index.
    pub(super) fn conclude(&self, policy: &Policy) -> Result<()> {
        let Some(loaded) = self.loaded.get().filter(|_| self.mode == Mode::Bench) else {
            return Ok(());
        };
        let mut record = loaded.record.borrow_mut();
        record.scenarios.retain(|case| !case.is_pending());
        record.set_not_selected();
        let last = &mut record.sessions[0];
        last.ended = Some(machine::now());
        last.conditions.push(machine::conditions());
        let warnings: Vec<String> = last.conditions.iter().flat_map(machine::warnings).collect();
        record.save(&loaded.path)?;
        println!("{}", report::live_header().trim_end());
        for case in &record.scenarios {
            println!("{}", report::live_row(case).trim_end());
        }
        for note in report::live_notes(&record.scenarios) {
            println!("{note}");
        }
        println!("Criterion's lines above show means");
        println!("\nrecord: {}", loaded.path.display());
        for warning in warnings {
            println!("warning: {warning}");
        }
        let folder = Path::new("baselines");
        let judgement = match Stored::find(folder, &record, &policy.allow_class) {
            Ok(stored) => {
                println!("baseline: {}\n", stored.path.display());
                let judgement = compare::judge(&stored, &record, policy);
                println!("{}", report::verdict_text(&judgement, "cargo bench"));
                if !judgement.open().is_empty() {
                    println!(
                        "to decide: `candlemark check --record {} --measure`",
                        quoted(&loaded.path)
                    );
                }
                Some(judgement)
            }
            Err(error) => {
                println!("no verdict: {error}");
                if let Some(earlier) = earlier(&loaded.path, &record) {
                    println!("for information, since the run of {}:", earlier.sessions[0].started);
                    for line in report::live_changes(&earlier, &record) {
                        println!("  {line}");
                    }
                }
                println!("to decide, without a baseline: `candlemark pair --base main`");
                None
            }
        };
        let index = files::criterion_folder().join("report").join("index.html");
        if index.exists() {
            let page = index.with_file_name("candlemark.html");
            let verdict = judgement.as_ref().map(|judgement| (judgement, "cargo bench"));
            let cases = std::fs::read_to_string(&index).unwrap_or_default();
            let text = report::bench_page(&record, verdict, &cases)?;
            files::write(&page, text.as_bytes())?;
            let about = "tokens per second, time to first token, peak memory and the verdict";
            report::link_into(&index, "candlemark.html", about)?;
            println!("pages: {} and {}", page.display(), index.display());
        }
        Ok(())
    }
}

/// The newest of the last runs here that is comparable with this one and has a scenario of it.
fn earlier(path: &Path, record: &Record) -> Option<Record> {
    const LAST: usize = 20;
    let paths = files::run_records();
    let others = paths.iter().rev().filter(|other| *other != path).take(LAST);
    let runs = others.filter_map(|path| Record::load(path).ok());
    let mut comparable = runs.filter(|run| {
        let differences = compare::differences(run, record, &BTreeMap::new());
        let is_blocking = |one: &Difference| one.severity == Severity::Blocking;
        !run.sessions.is_empty() && !differences.iter().any(is_blocking)
    });
    comparable.find(|run| !report::live_changes(run, record).is_empty())
}
