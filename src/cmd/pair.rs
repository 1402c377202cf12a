//! `candlemark pair`: two builds in turns.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use candlemark::Error;
use candlemark::compare::Judgement;
use candlemark::compare::paired::judge;
use candlemark::pair;
use candlemark::pair::Events;
use candlemark::pair::Identical;
use candlemark::pair::Plan;
use candlemark::pair::build::Builder;
use candlemark::pair::build::Built;
use candlemark::record::write_atomically;
use candlemark::report;
use candlemark::settings::Config;
use candlemark::suite;

use crate::cmd::Exit;
use crate::cmd::check::Format;
use crate::cmd::check::Rules;
use crate::cmd::command_line;
use crate::cmd::setup::ModelArguments;
use crate::cmd::write;

/// Compare two builds by running them in turns, in fresh processes, until a verdict or the end of the budget
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to compare with: a branch, tag or commit, which is built, or a binary
    #[arg(long, value_name = "REF|BINARY")]
    base: String,
    /// What to judge: a ref or a binary; default: the working tree as it is
    #[arg(long, value_name = "REF|BINARY")]
    candidate: Option<String>,
    /// Suites or parts of scenario ids; default: the configuration's, or every category at every batch size
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Longest time to measure, not counting the builds: `90s`, `10m`, `1h`
    #[arg(long, value_name = "TIME", default_value = "12m", value_parser = candlemark::settings::duration, env = "CANDLEMARK_BUDGET")]
    budget: Duration,
    /// The candidate's output is meant to change, and why; it is timed all the same
    #[arg(long, value_name = "WHY")]
    output_change: Option<String>,
    /// Measure binaries that are equal byte for byte, to see the noise of this machine
    #[arg(long)]
    even_if_identical: bool,
    /// Seed of all orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    order_seed: u64,
    /// Folder of Cargo's files for the builds; one that `cargo build --release` uses saves building the dependencies again
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    /// Form of the verdict
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// File to write the verdict to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// File to write the raw turns to; default: target/candlemark/runs/<time>-<commit>/pair.json
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Folder of baselines, where a calibration of this machine may lie
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
    #[command(flatten)]
    rules: Rules,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let policy = arguments.rules.policy(config)?;
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    candlemark::workload::select(words)?;
    let setup = arguments.model.setup_for_turns(config);
    let stop = interruptible("what was measured is judged")?;
    let (base, candidate) = binaries(arguments)?;
    let id = candlemark::machine::session_id(candidate.commit.as_deref());
    let path = arguments
        .raw
        .clone()
        .unwrap_or_else(|| candlemark::record::runs().join(id).join("pair.json"));
    let plan = Plan {
        base,
        candidate,
        setup,
        words: words.clone(),
        injection: std::env::var(suite::INJECT).ok(),
        output_change: arguments.output_change.clone(),
        identical: if arguments.even_if_identical { Identical::Measure } else { Identical::Pass },
        budget: arguments.budget,
        seed: arguments.order_seed,
        baselines: arguments.baselines.clone(),
        policy,
        path: path.clone(),
    };
    let mut live = Live { began: Instant::now(), budget: plan.budget };
    let paired = pair::run(&plan, stop, &mut live)?;
    let judgement = judge(&paired, &plan.policy);
    let command = command_line();
    let page = report::pair_page(&paired, &judgement, &command)?;
    let pages = pages(&page, &path)?;
    let text = arguments.format.text(&judgement, &command, || Ok(page))?;
    write(&text, arguments.output.as_deref(), out)?;
    let mut talk = std::io::stderr();
    writeln!(talk, "raw turns: {} (judged again by `candlemark check --record`)", path.display())?;
    writeln!(talk, "page: {}", pages.display())?;
    Ok(judgement.outcome.into())
}

/// Writes the page beside the raw turns, and beside Criterion's index with a link in it, if there is one.
fn pages(page: &str, raw: &Path) -> candlemark::Result<PathBuf> {
    let path = raw.with_extension("html");
    write_atomically(&path, page.as_bytes())?;
    let criterion = candlemark::record::build_folder().join("criterion").join("report");
    let index = criterion.join("index.html");
    if index.exists() {
        write_atomically(&criterion.join("gate.html"), page.as_bytes())?;
        report::link_into(&index, "gate.html", "the verdict of two builds in turns")?;
    }
    Ok(path)
}

/// Both binaries, built where they are not given.
fn binaries(arguments: &Arguments) -> anyhow::Result<(Built, Built)> {
    let given = |text: &str| Path::new(text).is_file().then(|| Built::given(Path::new(text)));
    let base = given(&arguments.base).transpose()?;
    let candidate = arguments.candidate.as_deref().and_then(given).transpose()?;
    if let (Some(base), Some(candidate)) = (&base, &candidate) {
        return Ok((base.clone(), candidate.clone()));
    }
    build(arguments.target_dir.as_deref(), |builder| {
        let base = match base {
            Some(base) => base,
            None => builder.commit(&arguments.base)?,
        };
        let candidate = match (candidate, &arguments.candidate) {
            (Some(candidate), _) => candidate,
            (None, Some(reference)) => builder.commit(reference).map_err(|error| match error {
                // It is the candidate that has to build.
                Error::NotComparable(why) => Error::Failed(why),
                error => error,
            })?,
            (None, None) => builder.working_tree()?,
        };
        Ok((base, candidate))
    })
}

/// Builds with Cargo's files where they were asked to be, and says on stderr what goes on.
pub(crate) fn build<T>(
    target: Option<&Path>,
    work: impl FnOnce(&mut Builder<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let folder = candlemark::record::build_folder().join("candlemark").join("pair");
    let target = target.map_or_else(|| folder.join("target"), PathBuf::from);
    work(&mut Builder::new(&folder, &target, &mut say)?)
}

/// A line on stderr; one that is closed is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", report::plain(line));
}

/// Set by Ctrl-C, after which no more is measured; `then` says what becomes of what was. A second Ctrl-C ends the program at once.
pub(crate) fn interruptible(then: &'static str) -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        say(&format!("stopping; {then}"));
    })
    .context("listening for Ctrl-C")?;
    Ok(&STOP)
}

/// Lines on stderr, at looks and blocks only: nothing ticks while a worker measures.
struct Live {
    began: Instant,
    budget: Duration,
}

impl Events for Live {
    fn block(&mut self, number: usize, scenarios: &[String]) {
        let spent = self.began.elapsed().as_secs();
        let budget = self.budget.as_secs();
        say(&format!("block {number}: {} scenarios, {spent} of {budget} s", scenarios.len()));
    }

    fn look(&mut self, judgement: &Judgement, left: Duration) {
        let left = left.min(self.budget.saturating_sub(self.began.elapsed()));
        say(&report::pair_progress(judgement, Some(left.as_secs_f64())));
    }
}
