//! `cargo bench`: every prompt category at every batch size. Each case has a page for decoding, one for the time to the first
//! token and one for prefill, all from the same generations; the record, the verdict and a page with every metric follow.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to the terminal")]

mod harness;

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;

use candlemark::baseline;
use candlemark::compare;
use candlemark::compare::Grounds;
use candlemark::compare::Policy;
use candlemark::engine::Engine;
use candlemark::engine::Identity;
use candlemark::engine::Injection;
use candlemark::error::Error;
use candlemark::error::Result;
use candlemark::machine;
use candlemark::machine::ReferenceKernels;
use candlemark::measure;
use candlemark::measure::Sample;
use candlemark::measure::Sharing;
use candlemark::measure::Trial;
use candlemark::record::Case;
use candlemark::record::Record;
use candlemark::record::References;
use candlemark::record::build_folder;
use candlemark::record::write_atomically;
use candlemark::report;
use candlemark::settings::Config;
use candlemark::settings::Setup;
use candlemark::suite;
use candlemark::suite::Job;
use candlemark::tokenizer::Tokenizer;
use candlemark::workload::BATCHES;
use candlemark::workload::CATEGORIES;
use candlemark::workload::Scenario;
use candlemark::workload::select;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::PlottingBackend;
use criterion::SamplingMode;
use criterion::Throughput;
use harness::Counted;
use harness::Sampled;
use harness::take_counted;

/// Fewest samples that Criterion takes.
const SAMPLES: usize = 10;

/// What Criterion was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Measure and record.
    Bench,
    /// Measure, but not as a record needs it (`--quick`, `--profile-time`).
    Unrecorded,
    /// Run each case once, to see that it runs.
    Test,
}

impl Mode {
    fn from_args() -> Self {
        let has = |names: &[&str]| {
            std::env::args().any(|arg| names.iter().any(|name| arg.split('=').next() == Some(name)))
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

fn main() -> ExitCode {
    if std::env::var_os(suite::WORKER).is_some() {
        return done(suite::work().map(|()| 0));
    }
    done(run())
}

fn run() -> Result<u8> {
    let path = Path::new("candlemark.toml");
    let config = if path.exists() { Config::load(path)? } else { Config::default() };
    let mode = Mode::from_args();
    let mut setup = Setup::new(&config).with_variables(|name| std::env::var(name).ok())?;
    if mode == Mode::Test && std::env::var_os("CANDLEMARK_MODEL").is_none() {
        setup.model = "synthetic:nano".into(); // To see that a case runs takes no real layer.
    }
    // Criterion warms up once, and takes as many samples as it was told to.
    setup.generation.warmups = 1;
    if let Some(status) = with_threads(setup.threads)? {
        return Ok(status);
    }
    let session = Session {
        setup,
        mode,
        injection: std::env::var(suite::INJECT).ok(),
        loaded: OnceCell::new(),
    };
    bench(&session)?;
    session.conclude(&config)?;
    Ok(0)
}

/// Pools of threads take their size from the environment before they start, so the bench starts itself again with it.
fn with_threads(threads: usize) -> Result<Option<u8>> {
    let threads = threads.to_string();
    if std::env::var("RAYON_NUM_THREADS").is_ok_and(|set| set == threads) {
        return Ok(None);
    }
    let binary = binary()?;
    let status = Command::new(&binary)
        .args(std::env::args_os().skip(1))
        .env("RAYON_NUM_THREADS", &threads)
        .env("CANDLE_NUM_THREADS", &threads)
        .status()
        .map_err(|source| Error::Read { path: binary, source })?;
    Ok(Some(status.code().map_or(5, |code| code as u8)))
}

fn binary() -> Result<PathBuf> {
    std::env::current_exe().map_err(|source| Error::Read { path: "this binary".into(), source })
}

/// A bench that could not run ends with 5; one that ran ends with 0, however slow it was: to judge is `candlemark check`'s.
fn done(outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(5)
        }
    }
}

/// A page of a case: what is read off a sample, and whether a rate is shown beside the time.
struct Page {
    /// Added to the category's name for the group.
    suffix: &'static str,
    seconds: fn(&Sample) -> f64,
    tokens: fn(&Scenario, usize, &[usize]) -> Option<usize>,
}

/// The first page is measured, the others show the same samples.
const PAGES: &[Page] = &[
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

fn bench(session: &Session) -> Result<()> {
    // Whatever plotting program is installed, pages look alike.
    let mut criterion = Criterion::default()
        .with_measurement(Sampled)
        .plotting_backend(PlottingBackend::Plotters)
        .sample_size(SAMPLES)
        .nresamples(2_000)
        .warm_up_time(Duration::from_nanos(1))
        .configure_from_args();
    let tokenizer = Tokenizer::tiny()?;
    for category in CATEGORIES {
        let scenarios: Vec<Scenario> = BATCHES
            .iter()
            .map(|batch| Ok(select(&[format!("{}/b{batch}", category.name)])?.remove(0)))
            .collect::<Result<_>>()?;
        let runs: Vec<RefCell<CaseRun<'_>>> = scenarios
            .iter()
            .map(|scenario| RefCell::new(CaseRun::new(session, scenario)))
            .collect();
        for page in PAGES {
            let mut group = criterion.benchmark_group(format!("{}{}", category.name, page.suffix));
            group.sampling_mode(SamplingMode::Flat);
            for (scenario, run) in scenarios.iter().zip(&runs) {
                // Replaying takes no time, and Criterion plans by the clock.
                let replays = !run.borrow().samples.is_empty();
                group.measurement_time(if replays {
                    Duration::from_micros(100)
                } else {
                    Duration::from_secs(1)
                });
                let new_tokens = session.setup.generation.gen_tokens.unwrap_or(scenario.new_tokens);
                let prompts = session.prompt_tokens(scenario, &tokenizer)?;
                if let Some(tokens) = (page.tokens)(scenario, new_tokens, &prompts) {
                    group.throughput(Throughput::Elements(tokens as u64));
                }
                group.bench_function(
                    BenchmarkId::from_parameter(format!("b{}", scenario.batch)),
                    |b| {
                        let mut run = run.borrow_mut();
                        run.prepare();
                        b.iter_custom(|iterations| run.count(page, iterations));
                    },
                );
                run.borrow_mut().keep()?;
            }
            group.finish();
        }
    }
    criterion.final_summary();
    Ok(())
}

/// What is loaded once, on the first case that runs: `--list` runs none.
struct Session {
    setup: Setup,
    mode: Mode,
    injection: Option<String>,
    loaded: OnceCell<Loaded>,
}

struct Loaded {
    engine: RefCell<Engine>,
    record: RefCell<Record>,
    path: PathBuf,
    /// Filled once: nobody reads the memory of this process.
    kernels: Option<ReferenceKernels>,
    /// The reference kernels after the case before, which is before the next one.
    references: Cell<Option<References>>,
}

impl Session {
    fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        if self.mode == Mode::Bench {
            machine::refuse_debug()?;
        }
        let mut record = suite::begin(&self.setup, "criterion", self.injection.clone(), &mut ())?;
        let engine = Engine::load(&self.setup, &mut ())?;
        let identity =
            Identity { sha256: record.model.sha256.clone(), commit: record.model.commit.clone() };
        record.model = measure::describe_model(&engine, Some(&identity));
        let path = suite::record_path(&record.sessions[0].id);
        let kernels =
            (self.mode == Mode::Bench).then(|| ReferenceKernels::new(self.setup.threads)).flatten();
        let references = Cell::new(kernels.as_ref().map(ReferenceKernels::measure));
        Ok(self.loaded.get_or_init(|| Loaded {
            engine: RefCell::new(engine),
            record: RefCell::new(record),
            path,
            kernels,
            references,
        }))
    }

    /// Tokens of a scenario's prompts, for the rate beside a time; those of the tiny vocabulary until a model is loaded, which
    /// is only when nothing is measured.
    fn prompt_tokens(&self, scenario: &Scenario, tiny: &Tokenizer) -> Result<Vec<usize>> {
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

    /// Ends the record, prints the verdict and writes the page that Criterion's index then links to.
    fn conclude(&self, config: &Config) -> Result<()> {
        let Some(loaded) = self.loaded.get().filter(|_| self.mode == Mode::Bench) else {
            return Ok(());
        };
        let mut record = loaded.record.borrow_mut();
        let last = &mut record.sessions[0];
        last.ended = Some(machine::now());
        last.conditions.push(machine::conditions());
        let warnings: Vec<String> = last.conditions.iter().flat_map(machine::warnings).collect();
        record.save(&loaded.path)?;
        println!("{}", report::live_header().trim_end());
        for case in &record.scenarios {
            println!("{}", report::live_row(case).trim_end());
        }
        println!("\nrecord: {}", loaded.path.display());
        for warning in warnings {
            println!("warning: {warning}");
        }
        let policy = Policy::new(&config.gate)?;
        let folder = Path::new("baselines");
        let judgement = match baseline::find(folder, &record, &policy.allow_class) {
            Ok((path, base)) => {
                println!("baseline: {}\n", path.display());
                let release = baseline::find_release(&path)?;
                let calibration = baseline::find_calibration(folder, &record)?;
                let grounds = Grounds {
                    baseline: &base,
                    release: release.as_ref(),
                    calibration: calibration.as_ref(),
                };
                let judgement = compare::judge(grounds, &record, &policy);
                println!("{}", report::verdict_text(&judgement, "cargo bench"));
                if !judgement.open().is_empty() {
                    println!(
                        "to decide: `candlemark check --record {} --measure`",
                        loaded.path.display()
                    );
                }
                Some(judgement)
            }
            Err(error) => {
                println!("no verdict: {error}");
                None
            }
        };
        let criterion = std::env::var_os("CRITERION_HOME")
            .map_or_else(|| build_folder().join("criterion"), PathBuf::from);
        let index = criterion.join("report").join("index.html");
        if index.exists() {
            let page = index.with_file_name("candlemark.html");
            let verdict = judgement.as_ref().map(|judgement| (judgement, "cargo bench"));
            write_atomically(&page, report::page(&record, verdict)?.as_bytes())?;
            report::link_into(&index, "candlemark.html", "tokens per second, memory and verdict")?;
            println!("pages: {} and {}", page.display(), index.display());
        }
        Ok(())
    }
}

/// One scenario on its way through its pages.
struct CaseRun<'a> {
    session: &'a Session,
    scenario: &'a Scenario,
    trial: Option<Trial>,
    /// Peak memory of a fresh process.
    memory: Option<Case>,
    warmed: bool,
    samples: Vec<Sample>,
    /// Which sample a replayed page shows next.
    next: usize,
}

impl<'a> CaseRun<'a> {
    fn new(session: &'a Session, scenario: &'a Scenario) -> Self {
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
    fn prepare(&mut self) {
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
            Err(error) => exit(&error),
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
        suite::start(&binary()?, &job, &mut |got| {
            answer = Some(got.case);
            Ok(())
        })?;
        answer.ok_or_else(|| Error::Failed("the worker for memory gave no answer".into()))
    }

    /// So many iterations, measured or replayed.
    fn count(&mut self, page: &Page, iterations: u64) -> Counted {
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
        measured().unwrap_or_else(|error| exit(&error))
    }

    /// Takes what Criterion has counted into the record.
    fn keep(&mut self) -> Result<()> {
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
            measure::take_memory(&mut case.blocks[0], &fresh);
        }
        let after = loaded.kernels.as_ref().map(ReferenceKernels::measure);
        case.blocks[0].references = loaded.references.replace(after).zip(after).map(<[_; 2]>::from);
        record.settings.generation.iters = counted.len();
        record.scenarios.push(case);
        self.samples = counted;
        record.save(&loaded.path)
    }
}

/// Criterion has no way to say that a case failed.
fn exit(error: &Error) -> ! {
    eprintln!("error: {}", error.chain());
    std::process::exit(5)
}
