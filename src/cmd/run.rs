//! `candlemark run`: measures scenarios and writes a record.

use std::io::IsTerminal as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use candlemark::measure::Sharing;
use candlemark::record::Case;
use candlemark::record::Record;
use candlemark::report;
use candlemark::settings::Config;
use candlemark::suite;
use candlemark::suite::Events;
use candlemark::suite::Plan;
use candlemark::workload;

use crate::cmd::Exit;
use crate::cmd::download::Bars;
use crate::cmd::setup::ModelArguments;

/// Measure scenarios in fresh processes, print a live table and write a record
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids: `short`, `code/b4`, `b16`, `prompts`; default: every category at every batch size
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Processes per scenario; each is one block, the unit of statistics
    #[arg(long, value_name = "N", env = "CANDLEMARK_BLOCKS")]
    blocks: Option<usize>,
    /// Measure all scenarios of a block in one process, for models that load slowly; memory is then labelled so
    #[arg(long)]
    shared_process: bool,
    /// File to write the record to; default: target/candlemark/runs/<time>-<commit>/record.json
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on with the record of a run that was cut off
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    resume: Option<PathBuf>,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let setup = arguments.model.setup(config);
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    let scenarios = workload::select(words)?;
    let blocks = arguments.blocks.or(config.suite.blocks).unwrap_or(1);
    anyhow::ensure!(blocks > 0, "0 blocks measure nothing; ask for at least 1");
    let generation = &setup.generation;
    anyhow::ensure!(generation.iters > 0, "0 repetitions measure nothing; ask for at least 1");
    anyhow::ensure!(
        generation.gen_tokens != Some(0),
        "0 tokens measure nothing; ask for at least 1"
    );
    let resume = arguments.resume.as_deref().map(Record::load).transpose()?;
    if let Some(record) = &resume {
        same_run(record, &setup, std::env::var(suite::INJECT).ok().as_deref())?;
    }
    let path = match (&arguments.resume, &arguments.output) {
        (Some(path), _) | (None, Some(path)) => path.clone(),
        (None, None) => {
            let commit = candlemark::machine::stamp().commit;
            suite::record_path(&candlemark::machine::session_id(commit.as_deref()))
        }
    };
    let plan = Plan {
        binary: std::env::current_exe().context("finding this binary, to start it again")?,
        setup,
        scenarios,
        blocks,
        sharing: if arguments.shared_process { Sharing::Shared } else { Sharing::Fresh },
        injection: std::env::var(suite::INJECT).ok(),
        path: path.clone(),
        resume,
    };
    let mut live = Live { out, bar: bar(), started: std::time::Instant::now() };
    let record = suite::run(&plan, &mut Bars::default(), &mut live)?;
    live.bar.finish_and_clear();
    let failed = record.scenarios.iter().filter(|case| is_failed(case)).count();
    let mut talk = std::io::stderr();
    writeln!(talk, "record: {}", path.display())?;
    writeln!(talk, "next: `candlemark check --record {}`", path.display())?;
    if failed > 0 {
        writeln!(talk, "{failed} of {} scenarios failed or are INVALID", record.scenarios.len())?;
        return Ok(Exit::Failed);
    }
    Ok(Exit::Pass)
}

fn is_failed(case: &Case) -> bool {
    (case.absent.is_some() && !case.is_unsupported()) || !case.validity.ok()
}

/// A run may be gone on with only as it was begun.
fn same_run(
    record: &Record,
    setup: &candlemark::settings::Setup,
    injection: Option<&str>,
) -> anyhow::Result<()> {
    let now = candlemark::measure::describe_settings(setup);
    let build = candlemark::machine::build();
    for (what, old, new) in [
        ("model", &record.model.spec, &setup.model),
        ("engine", &record.settings.engine, &now.engine),
        ("device", &record.settings.device, &now.device),
        (
            "binary",
            &record.build.binary_sha256.clone().unwrap_or_default(),
            &build.binary_sha256.clone().unwrap_or_default(),
        ),
    ] {
        anyhow::ensure!(
            old == new,
            "cannot resume: the {what} was `{old}` and is `{new}`; begin a new run"
        );
    }
    anyhow::ensure!(
        record.injected.as_deref() == injection,
        "cannot resume: only one of the runs is slowed down on purpose, or by another share"
    );
    let scaling = &setup.rope_scaling;
    anyhow::ensure!(
        record.settings.quant == now.quant
            && (scaling.is_none() || *scaling == record.model.rope_scaling),
        "cannot resume: the quantisation or the RoPE scaling of the run differs; begin a new run"
    );
    anyhow::ensure!(
        record.settings.generation == now.generation
            && record.settings.threads == now.threads
            && record.settings.labels == now.labels,
        "cannot resume: the settings of the run differ; begin a new run"
    );
    Ok(())
}

struct Live<'a> {
    out: &'a mut dyn Write,
    bar: indicatif::ProgressBar,
    started: std::time::Instant,
}

/// Drawn only when something has happened: nothing ticks while a worker measures.
fn bar() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg}");
    indicatif::ProgressBar::new(0).with_style(style.expect("the template is a literal"))
}

impl Events for Live<'_> {
    fn start(&mut self, ids: &[String], done: usize, all: usize) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        let left = match done {
            0 => String::new(),
            done => {
                let left = self.started.elapsed().mul_f64((all - done) as f64 / done as f64);
                format!(", about {} left", indicatif::HumanDuration(left))
            }
        };
        self.bar.set_message(format!("{}{left}", ids.join(" ")));
        if done == 0 {
            // A closed stdout loses the table, not the run.
            let _ = self.out.write_all(report::live_header().as_bytes());
        }
    }

    fn measured(&mut self, case: &Case) {
        let line = report::live_row(case);
        let out = &mut self.out;
        self.bar.suspend(|| {
            let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        });
    }
}
