//! `candlemark run`: measures scenarios and writes a record.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::cli::download::ProgressBars;
use crate::cli::exit::Exit;
use crate::cli::interrupt::{interruptible, say};
use crate::cli::setup::{ModelArguments, injection};
use crate::error::quoted;
use crate::files::{Lock, RunFolder};
use crate::measure::Sharing;
use crate::record::{AbsenceKind, Case, Record};
use crate::settings::{Config, Count, Setup, duration};
use crate::suite::{Events, Plan, RunProgress, StressLimits};
use crate::{Error, engine, files, machine, report, suite, workload};

/// Measure scenarios in fresh processes and write a record
///
/// Ctrl-C ends the run with exit status 130 when the current worker has finished. The record is
/// kept, and `--resume` continues it. A second Ctrl-C ends the run at once.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids: `short`, `code/b4`, `b16`, `prompts` [default: the suite
    /// `default`, every category at every batch size]
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Processes per scenario; each is one block, the unit of statistics [default: 1]
    #[arg(long, value_name = "N", value_parser = Count::BLOCKS.parser())]
    blocks: Option<usize>,
    /// Measure all scenarios of a block in one process, for models that load slowly; their memory
    /// is labelled as shared
    #[arg(long)]
    shared_process: bool,
    /// Output file of the record
    /// [default: target/candlemark/runs/<time>-<commit>/record.json]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Continue the record of an interrupted run
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    resume: Option<PathBuf>,
    /// Start no process that would end later than this, and measure in the given order; `--resume`
    /// measures the skipped scenarios. Processes that still run 30 s later are stopped [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "CANDLEMARK_BUDGET")]
    budget: Option<Duration>,
    /// Text for the agreement and perplexity of the suite `quality` [default: the built-in text]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Memory in MiB that requests of the suite `stress` may use beyond the loaded model
    #[arg(long, value_name = "MIB", default_value_t = 512,
        value_parser = clap::value_parser!(u64).range(..=u64::MAX >> 20))]
    stress_room: u64,
    /// Timeout of one request of the suite `stress`
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    stress_request: Duration,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    let scenarios = workload::select(words)?;
    let setup = arguments.model.setup(config)?;
    let injection = injection()?;
    let blocks = arguments.blocks.or(config.suite.blocks).unwrap_or(1);
    let text = arguments.text.as_deref().map(read_text).transpose()?;
    let stress = StressLimits {
        room_bytes: arguments.stress_room << 20,
        request: arguments.stress_request,
        ..StressLimits::default()
    };
    let named = arguments.resume.as_deref().or(arguments.output.as_deref());
    let lock = named.map(Lock::take).transpose()?;
    let resume = arguments.resume.as_deref().map(Record::load).transpose();
    let resume = resume.map_err(Error::of_named_file)?;
    machine::refuse_debug()?;
    if let Some(record) = &resume {
        let class = machine::fingerprint(setup.threads, &setup.device).class;
        require_same_run(record, &setup, &class, injection.as_deref())?;
        let identity = engine::identify(&setup, &mut ProgressBars::default())?;
        require_same("SHA-256 of the model", &record.model.sha256, &identity.sha256)?;
    }
    let folder = || {
        RunFolder::check("name a file with `-o`")?;
        RunFolder::new(&machine::session_id(machine::stamp().commit.as_deref()))
    };
    let folder = named.is_none().then(folder).transpose()?;
    let default = folder.as_ref().map(|folder| folder.path.join("record.json"));
    let path = named.map(Path::to_owned).or(default).expect("one of them is there");
    let _lock = lock.map_or_else(|| Lock::take(&path), Ok)?;
    let plan = Plan {
        binary: std::env::current_exe().context("cannot find this binary to start it again")?,
        setup,
        scenarios,
        blocks,
        sharing: if arguments.shared_process { Sharing::Shared } else { Sharing::Fresh },
        injection,
        session: folder.as_ref().map(|folder| folder.id.clone()),
        path: Some(path.clone()),
        resume,
        budget: arguments.budget,
        text,
        stress,
    };
    let stop = interruptible("waiting for the worker that measures now")?;
    let now = Instant::now();
    // A record on stdout must not be mixed with the live table.
    let mut talk = std::io::stderr();
    let out: &mut dyn Write = if files::is_stdout(&path) { &mut talk } else { out };
    let mut live = Live { out, bar: bar(), started: now, last_report: now, measured: 0, stop };
    let outcome = suite::run(&plan, &mut ProgressBars::default(), &mut live);
    live.bar.finish_and_clear();
    if matches!(outcome, Err(Error::Interrupted)) {
        let kept = (live.measured > 0 || arguments.resume.is_some()) && !files::is_stream(&path);
        say(&interrupted(kept.then_some(path.as_path())));
        return Ok(Exit::Interrupted);
    }
    let record = outcome?;
    let failed = record.scenarios.iter().filter(|case| is_failed(case)).count();
    let out_of_time = |case: &&Case| case.absence() == Some(AbsenceKind::SkippedTime);
    let skipped = record.scenarios.iter().filter(out_of_time).count();
    if files::is_stream(&path) {
        writeln!(talk, "record: written to {}", path.display())?;
    } else {
        writeln!(talk, "record: {}", path.display())?;
        writeln!(talk, "next: `candlemark check --record {}`", quoted(&path))?;
    }
    if skipped > 0 {
        let path = quoted(&path);
        writeln!(
            talk,
            "{skipped} scenarios skipped for lack of time; to measure them: \
             `candlemark run --resume {path}` with the same scenarios"
        )?;
    }
    let short =
        record.scenarios.iter().filter(|case| case.absence() == Some(AbsenceKind::SkippedMemory));
    if let Some(why) = short.clone().find_map(|case| case.absent.as_ref()) {
        let count = short.count();
        writeln!(talk, "{count} scenarios skipped for lack of memory, the first: {}", why.why)?;
    }
    if failed > 0 {
        writeln!(talk, "{failed} of {} scenarios failed or are INVALID", record.scenarios.len())?;
        return Ok(Exit::Failed);
    }
    Ok(Exit::Pass)
}

/// The message after Ctrl-C, with the command that continues the run.
fn interrupted(record: Option<&Path>) -> String {
    let Some(path) = record else { return "interrupted before anything was measured".into() };
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    format!(
        "interrupted: the measurements are kept in `{}`; to continue: `{}`",
        path.display(),
        resume_command(&words, path)
    )
}

/// The command that continues a record, from the words of the one that began it.
fn resume_command(words: &[String], record: &Path) -> String {
    let mut kept = vec!["candlemark".to_owned()];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if ["-o", "--output", "--resume"].contains(&word.as_str()) {
            words.next(); // The file.
        } else if !["-o", "--output=", "--resume="].iter().any(|flag| word.starts_with(flag)) {
            kept.push(quoted(word));
        }
    }
    format!("{} --resume {}", kept.join(" "), quoted(record))
}

fn read_text(path: &Path) -> crate::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.into(), source }.of_named_file())
}

fn is_failed(case: &Case) -> bool {
    (case.absent.is_some() && !case.is_unsupported() && !case.is_skipped()) || !case.validity.ok()
}

/// Refuses to resume with a different value.
fn require_same(what: &str, old: &str, new: &str) -> crate::Result<()> {
    if old == new {
        return Ok(());
    }
    let why = format!("cannot resume: the {what} was `{old}` and is `{new}`; start a new run");
    Err(Error::Usage(why))
}

/// Refuses to resume a run under other conditions. The caller compares the model's files.
fn require_same_run(
    record: &Record,
    setup: &Setup,
    class: &str,
    injection: Option<&str>,
) -> crate::Result<()> {
    let now = crate::measure::describe_settings(setup);
    let build = machine::build();
    let binary = |of: Option<String>| of.unwrap_or_default();
    for (what, old, new) in [
        ("machine class", record.machine.class.as_str(), class),
        ("model", &record.model.spec, &setup.model),
        ("engine", &record.settings.engine, &now.engine),
        ("device", &record.settings.device, &now.device),
        ("binary", &binary(record.build.binary_sha256.clone()), &binary(build.binary_sha256)),
    ] {
        require_same(what, old, new)?;
    }
    let scaling = &setup.rope_scaling;
    for (is_same, differs) in [
        (record.injected.as_deref() == injection, "the injected slowdown differs; start a new run"),
        (
            record.settings.quant == now.quant
                && (scaling.is_none() || *scaling == record.model.rope_scaling),
            "the quantization or the RoPE scaling differs; start a new run",
        ),
        (
            record.settings.generation == now.generation
                && record.settings.threads == now.threads
                && record.settings.labels == now.labels,
            "the settings differ; start a new run",
        ),
    ] {
        if !is_same {
            return Err(Error::Usage(format!("cannot resume: {differs}")));
        }
    }
    Ok(())
}

struct Live<'a> {
    out: &'a mut dyn Write,
    bar: indicatif::ProgressBar,
    started: Instant,
    /// When progress was last printed as a line, for a stderr without a bar.
    last_report: Instant,
    /// Scenarios measured; the record is on disk from the first one on.
    measured: usize,
    stop: &'static AtomicBool,
}

/// Time between progress lines where stderr is no terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Without a steady tick: nothing is drawn while a worker measures.
fn bar() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg}");
    indicatif::ProgressBar::new(0).with_style(style.expect("the template is a literal"))
}

impl Events for Live<'_> {
    fn start(&mut self, ids: &[String], done: RunProgress) {
        self.bar.set_length(done.all as u64);
        self.bar.set_position(done.processes as u64);
        let left = match done.share {
            share if share > 0.0 => {
                let left = self.started.elapsed().mul_f64((1.0 - share) / share);
                format!(", about {} left", indicatif::HumanDuration(left))
            }
            _ => String::new(),
        };
        self.bar.set_message(format!("{}{left}", ids.join(" ")));
        if self.bar.is_hidden() && self.last_report.elapsed() >= REPORT_INTERVAL {
            self.last_report = Instant::now();
            let _ =
                writeln!(std::io::stderr(), "{} of {} processes{left}", done.processes, done.all);
        }
        if done.processes == 0 {
            // A closed stdout does not end the run.
            let _ = self.out.write_all(report::live_header().as_bytes());
        }
    }

    fn measured(&mut self, case: &Case) {
        self.measured += 1;
        let line = report::live_row(case);
        let out = &mut self.out;
        self.bar.suspend(|| {
            let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    #[test]
    fn a_run_resumes_only_under_the_same_conditions() {
        let setup = Setup::new(&Config::default());
        let record = Record {
            schema: record::SCHEMA,
            kind: record::RecordKind::Run,
            sessions: Vec::new(),
            build: machine::build(),
            machine: record::Machine { class: "here-1".into(), ..record::Machine::default() },
            model: record::Model { spec: setup.model.clone(), ..record::Model::default() },
            settings: crate::measure::describe_settings(&setup),
            injected: None,
            scenarios: Vec::new(),
            not_selected: Vec::new(),
        };
        require_same_run(&record, &setup, "here-1", None).unwrap();
        let error = require_same_run(&record, &setup, "there-2", None).unwrap_err().to_string();
        let expected = "the machine class was `here-1` and is `there-2`; start a new run";
        assert_eq!(error, format!("cannot resume: {expected}"));
        let error = require_same("SHA-256 of the model", "ab", "cd").unwrap_err().to_string();
        assert!(error.contains("the SHA-256 of the model was `ab` and is `cd`"), "{error}");
    }

    #[test]
    fn the_resume_command_names_the_record_and_no_other_file() {
        for (words, command) in [
            ("run", "candlemark run --resume r.json"),
            ("run code/b4 --iters 2", "candlemark run code/b4 --iters 2 --resume r.json"),
            ("run -o r.json code", "candlemark run code --resume r.json"),
            ("run --output=r.json code", "candlemark run code --resume r.json"),
            ("run --resume r.json code", "candlemark run code --resume r.json"),
        ] {
            let words: Vec<String> = words.split(' ').map(String::from).collect();
            assert_eq!(resume_command(&words, Path::new("r.json")), command);
        }
    }
}
