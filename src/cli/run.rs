//! `candlemark run`: measures scenarios and writes a record.

mod next;
mod progress;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli::download::ProgressBars;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::{interruptible, say};
use crate::cli::run::progress::Live;
#[cfg(feature = "server")]
use crate::cli::setup::ServerArguments;
use crate::cli::setup::{ModelArguments, injection};
use crate::compare::Subject;
use crate::error::{command_words, counted, quoted};
use crate::files::RunFile;
use crate::measure::Sharing;
use crate::model::{describe_plan, isa_from_env};
use crate::record::{AbsenceKind, Case, Model, Record};
use crate::settings::{Config, Count, Generation, Setup, duration};
use crate::suite::{Plan, StressLimits};
use crate::workload::Partition;
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
    /// Measure an OpenAI-compatible server instead of an engine: http://host:port, with or without
    /// /v1
    #[cfg(feature = "server")]
    #[arg(long, value_name = "URL",
        conflicts_with_all = ["model", "quant", "kv_dtype", "engine", "device", "threads"])]
    url: Option<String>,
    #[cfg(feature = "server")]
    #[command(flatten)]
    server: ServerArguments,
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
    /// Measure one shard of the scenarios, for example 1/3; `candlemark merge` joins the records
    #[arg(long, value_name = "K/N")]
    partition: Option<Partition>,
    /// Memory in MiB that requests of the suite `stress` may use beyond the loaded model
    #[arg(long, value_name = "MIB", default_value_t = 512,
        value_parser = clap::value_parser!(u64).range(..=u64::MAX >> 20))]
    stress_room: u64,
    /// Timeout of one request of the suite `stress`
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    stress_request: Duration,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    let scenarios = match arguments.partition {
        Some(partition) => partition.select(words)?,
        None => workload::select(words)?,
    };
    let setup = setup(arguments, config)?;
    let injection = injection()?;
    let blocks = arguments.blocks.or(config.suite.blocks).unwrap_or(1);
    let text = arguments.text.as_deref().map(files::read).transpose();
    let text = text.map_err(Error::of_named_file)?;
    let stress = StressLimits {
        room_bytes: arguments.stress_room << 20,
        request: arguments.stress_request,
        ..StressLimits::default()
    };
    let named = arguments.resume.as_deref().or(arguments.output.as_deref());
    RunFile::check(named, "name a file with `-o`")?;
    let session = machine::session_id(machine::stamp().commit.as_deref());
    let file = RunFile::new(named, "record.json", &session)?;
    let path = &file.path;
    let resume = arguments.resume.as_deref().map(Record::load).transpose();
    let resume = resume.map_err(Error::of_named_file)?;
    if setup.server.is_none() {
        machine::refuse_debug()?;
    }
    if let Some(record) = &resume {
        let class = machine::measured_by(&setup).class;
        require_same_run(record, &setup, &class, injection.as_deref())?;
        let identity = engine::identify(&setup, &mut ProgressBars::default())?;
        require_same("SHA-256 of the model", &record.model.sha256, &identity.sha256)?;
    }
    let plan = Plan {
        blocks,
        sharing: if arguments.shared_process { Sharing::Shared } else { Sharing::Fresh },
        injection,
        session: file.folder.as_ref().map(|folder| folder.id.clone()),
        path: Some(path.clone()),
        resume,
        budget: arguments.budget,
        text,
        stress,
        ..Plan::new(setup, scenarios)?
    };
    let stop = interruptible("waiting for the worker that measures now")?;
    let warned = introduce(&plan);
    let mut live = Live::new(stop);
    let outcome = suite::run(&plan, &mut ProgressBars::default(), &mut live);
    live.finish();
    let words = command_words();
    // A record on stdout must not be mixed with the table.
    let mut talk = std::io::stderr();
    let out: &mut dyn Write = if files::is_stdout(path) { &mut talk } else { out };
    if matches!(outcome, Err(Error::Interrupted)) {
        let kept = (live.measured > 0 || plan.resume.is_some()) && !files::is_stream(path);
        if !kept {
            say("interrupted before anything was measured");
            return Ok(Exit::Interrupted);
        }
        let measured = write_table(&Record::load(path)?, out)?;
        say(&format!(
            "interrupted: the record so far, {}, is in `{}`",
            counted(measured, "scenario"),
            path.display()
        ));
        say(&format!("next: `{}`", next::resume_command(&words, path)));
        return Ok(Exit::Interrupted);
    }
    if outcome.is_err() && live.measured > 0 && !files::is_stream(path) {
        say(&format!("the record so far is in `{}`", path.display()));
        say(&format!("next: `{}`", next::resume_command(&words, path)));
    }
    let record = outcome?;
    write_table(&record, out)?;
    Ok(conclude(&record, path, &warned, || {
        let scenarios: Vec<String> = plan.scenarios.iter().map(|one| one.id.clone()).collect();
        next::next_step(&record, path, &words, &scenarios, &config.gate.allow_class)
    }))
}

/// The engine or the server to measure.
fn setup(arguments: &Arguments, config: &Config) -> crate::Result<Setup> {
    #[cfg(feature = "server")]
    match &arguments.url {
        Some(url) => return arguments.server.setup(arguments.model.unchecked(config), url),
        None => arguments.server.check_unused()?,
    }
    arguments.model.setup(config)
}

/// Says what is about to be measured, and whether the machine is busy; the warnings.
fn introduce(plan: &Plan) -> Vec<String> {
    let Setup { model, quant, engine, device, generation, .. } = &plan.setup;
    let stored = match &plan.setup.server {
        Some(_) => "",
        None if model.starts_with("synthetic:") => "f32",
        None => "the stored format",
    };
    let isa = (engine == "native" && device == "cpu").then(isa_from_env).and_then(|isa| isa.ok());
    let subject = Subject {
        model: Model {
            spec: model.clone(),
            quant: quant.as_deref().unwrap_or(stored).into(),
            isa: isa.map(|isa| isa.name().into()),
            kernel_plan: isa.and_then(describe_plan),
            ..Model::default()
        },
        settings: crate::measure::describe_settings(&plan.setup),
        machine: machine::measured_by(&plan.setup),
    };
    say(&format!("measuring {}", report::subject_line(&subject)));
    say(&format!(
        "{}: {} each, {} and {} per process",
        counted(plan.scenarios.len(), "scenario"),
        counted(plan.blocks, "process"),
        counted(generation.warmups, "warm-up"),
        counted(generation.iters, "generation"),
    ));
    let warnings = machine::busy();
    warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    warnings
}

/// Writes the scenarios measured so far in the order of the suite; their number.
fn write_table(record: &Record, out: &mut dyn Write) -> std::io::Result<usize> {
    let cases: Vec<Case> =
        record.scenarios.iter().filter(|case| !case.is_pending()).cloned().collect();
    let rows: String = cases.iter().map(report::live_row).collect();
    let notes = report::live_notes(&cases);
    let notes: String = notes.iter().map(|note| format!("{note}\n")).collect();
    write!(out, "{}{rows}{notes}", report::live_header())?;
    out.flush()?;
    Ok(cases.iter().filter(|case| case.absent.is_none()).count())
}

/// Says where the record is, what is missing from it, and what comes next.
fn conclude(
    record: &Record,
    path: &Path,
    warned: &[String],
    next: impl FnOnce() -> String,
) -> Exit {
    let last = record.sessions.last().and_then(|session| session.conditions.last());
    for warning in last.map(machine::warnings).unwrap_or_default() {
        // Not twice of one kind: the load or the waiting tasks.
        if warned.iter().all(|earlier| earlier.get(..5) != warning.get(..5)) {
            say(&format!("warning: {warning}"));
        }
    }
    let is_stream = files::is_stream(path);
    say(&format!("record: {}{}", if is_stream { "written to " } else { "" }, path.display()));
    let out_of_time = |case: &&Case| case.absence() == Some(AbsenceKind::SkippedTime);
    let skipped = record.scenarios.iter().filter(out_of_time).count();
    if skipped > 0 {
        say(&format!(
            "{} skipped for lack of time; to measure the rest: \
             `candlemark run --resume {}` with the same scenarios",
            counted(skipped, "scenario"),
            quoted(path)
        ));
    }
    let short =
        record.scenarios.iter().filter(|case| case.absence() == Some(AbsenceKind::SkippedMemory));
    if let Some(why) = short.clone().find_map(|case| case.absent.as_ref()) {
        let count = counted(short.count(), "scenario");
        say(&format!("{count} skipped for lack of memory, the first: {}", why.why));
    }
    let failed = record.scenarios.iter().filter(|case| is_failed(case)).count();
    if failed > 0 {
        say(&format!(
            "{failed} of {} failed or INVALID",
            counted(record.scenarios.len(), "scenario")
        ));
        return Exit::Failed;
    }
    if !is_stream {
        say(&format!("next: {}", next()));
    }
    Exit::Pass
}

fn is_failed(case: &Case) -> bool {
    (case.absent.is_some() && !case.is_unsupported() && !case.is_skipped()) || !case.validity.ok()
}

/// Refuses to resume with a different value.
fn require_same<T: Serialize + ?Sized>(what: &str, old: &T, new: &T) -> crate::Result<()> {
    let json = |value: &T| serde_json::to_string(value).expect("plain data");
    let (old, new) = (json(old), json(new));
    if old == new {
        return Ok(());
    }
    let (old, new) = (old.trim_matches('"'), new.trim_matches('"'));
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
    let (old, now) = (&record.settings, crate::measure::describe_settings(setup));
    require_same("machine class", record.machine.class.as_str(), class)?;
    require_same("model", &record.model.spec, &setup.model)?;
    require_same("engine", &old.engine, &now.engine)?;
    require_same("device", &old.device, &now.device)?;
    require_same("binary", &record.build.binary_sha256, &machine::build().binary_sha256)?;
    require_same("injected slowdown", &record.injected.as_deref(), &injection)?;
    require_same("quantization", &old.quant, &now.quant)?;
    require_same("number format of the KV cache", &old.kv_dtype, &now.kv_dtype)?;
    let scaling = &record.model.rope_scaling;
    require_same("RoPE scaling", scaling, &setup.rope_scaling.clone().or(scaling.clone()))?;
    require_same("number of threads", &old.threads, &now.threads)?;
    require_same("labels", &old.labels, &now.labels)?;
    let settings = |of: &Generation| serde_json::to_value(of).expect("plain data");
    let (old, now) = (settings(&old.generation), settings(&now.generation));
    for (name, value) in old.as_object().into_iter().flatten() {
        require_same(&format!("setting `{name}`"), value, &now[name])?;
    }
    Ok(())
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
        let mut other = setup.clone();
        other.generation.iters += 1;
        let error = require_same_run(&record, &other, "here-1", None).unwrap_err().to_string();
        assert_eq!(error, "cannot resume: the setting `iters` was `5` and is `6`; start a new run");
        let error = require_same("SHA-256 of the model", "ab", "cd").unwrap_err().to_string();
        assert!(error.contains("the SHA-256 of the model was `ab` and is `cd`"), "{error}");
    }
}
