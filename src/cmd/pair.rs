//! `candlemark pair`: two builds in turns.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use candlemark::compare::Judgement;
use candlemark::compare::paired::judge;
use candlemark::files::{Lock, RunFolder};
use candlemark::pair::build::{Binary, Builder};
use candlemark::pair::{Events, Identical, Plan};
use candlemark::record::pair::PairRecord;
use candlemark::settings::Config;
use candlemark::{Error, files, pair, report};

use crate::cmd::check::Rules;
use crate::cmd::document::Document;
use crate::cmd::interrupt::{interruptible, say, unless_interrupted};
use crate::cmd::setup::{ModelArguments, check_words_for_turns, injection};
use crate::cmd::{Exit, command_line, statuses, usage};

/// Compare two builds by running them in turns, in fresh processes, until a verdict or the end of
/// the budget
#[derive(clap::Args)]
#[command(after_long_help = statuses())]
pub(crate) struct Arguments {
    /// What to compare with: a branch, tag or commit, which is built, or a binary
    #[arg(long, value_name = "REF|BINARY")]
    base: String,
    /// What to judge: a ref or a binary; default: the working tree as it is
    #[arg(long, value_name = "REF|BINARY")]
    candidate: Option<String>,
    /// Suites or parts of scenario ids; default: the configuration's, or every category at every
    /// batch size
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Longest time to measure, not counting the builds: `90s`, `10m`, `1h`
    #[arg(long, value_name = "TIME", default_value = "12m", value_parser = candlemark::settings::duration, env = "CANDLEMARK_BUDGET")]
    budget: Duration,
    /// Run both builds at once, each on half of the CPUs with half of the threads, in place of one
    /// after the other: for hosts whose other guests disturb single turns
    #[arg(long)]
    duet: bool,
    /// The candidate's output is meant to change, and why; it is timed all the same
    #[arg(long, value_name = "WHY")]
    output_change: Option<String>,
    /// Measure binaries that are equal byte for byte, to see the noise of this machine
    #[arg(long)]
    even_if_identical: bool,
    /// Seed of all orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    order_seed: u64,
    /// Folder of Cargo's files for the builds; one that `cargo build --release` uses saves
    /// building the dependencies again
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    #[command(flatten)]
    document: Document,
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
    check_words_for_turns(words)?;
    let mut setup = arguments.model.setup_for_turns(config)?;
    if arguments.duet {
        setup.threads = (setup.threads / 2).max(1);
    }
    let injection = injection()?;
    arguments.document.check()?;
    let stop = interruptible("what was measured is judged")?;
    let command = command_line();
    match &arguments.raw {
        Some(path) => files::check(path)?,
        None => RunFolder::check("name a file with `--raw`")?,
    }
    let plan = |(base, candidate): (Binary, Binary), path: PathBuf| Plan {
        base,
        candidate,
        setup,
        words: words.clone(),
        injection,
        output_change: arguments.output_change.clone(),
        identical: if arguments.even_if_identical { Identical::Measure } else { Identical::Pass },
        duet: arguments.duet,
        budget: arguments.budget,
        seed: arguments.order_seed,
        baselines: arguments.baselines.clone(),
        policy: policy.clone(),
        path,
    };
    let measured = binaries(arguments, stop).and_then(|built| {
        let folder = || {
            let id = candlemark::machine::session_id(built.1.commit.as_deref());
            RunFolder::new(&id)
        };
        let folder = arguments.raw.is_none().then(folder).transpose()?;
        let default = folder.as_ref().map(|folder| folder.path.join("pair.json"));
        let path = arguments.raw.clone().or(default).expect("one of them is there");
        let _lock = Lock::take(&path)?;
        measure(&plan(built, path), stop)
    });
    let (paired, path) = match measured {
        Ok(measured) => measured,
        Err(error) => return Err(arguments.document.instead(error, &policy, &command, out)),
    };
    let judgement = judge(&paired, &policy);
    let page = report::pair_page(&paired, &judgement, &command)?;
    let pages = pages(&page, &path)?;
    arguments.document.write(&judgement, &command, || Ok(page), out)?;
    let mut talk = std::io::stderr();
    writeln!(talk, "raw turns: {} (judged again by `candlemark check --record`)", path.display())?;
    if let Some(page) = pages {
        writeln!(talk, "page: {}", page.display())?;
    }
    Ok(judgement.outcome.into())
}

/// The turns, and where they are kept.
fn measure(plan: &Plan, stop: &AtomicBool) -> anyhow::Result<(PairRecord, PathBuf)> {
    let mut live = Live { began: Instant::now(), budget: plan.budget };
    Ok((pair::run(plan, stop, &mut live)?, plan.path.clone()))
}

/// Writes the page beside the raw turns, unless they go to a pipe or a device, and beside
/// Criterion's index with a link in it, if there is one.
fn pages(page: &str, raw: &Path) -> candlemark::Result<Option<PathBuf>> {
    let path = (!files::is_stream(raw)).then(|| raw.with_extension("html"));
    if let Some(path) = &path {
        files::write(path, page.as_bytes())?;
    }
    let criterion = files::criterion_folder().join("report");
    let index = criterion.join("index.html");
    if index.exists() {
        files::write(&criterion.join("gate.html"), page.as_bytes())?;
        report::link_into(&index, "gate.html", "the verdict of two builds in turns")?;
    }
    Ok(path)
}

/// Both binaries, built where they are not given.
fn binaries(arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<(Binary, Binary)> {
    let base = given(&arguments.base)?;
    let candidate = arguments.candidate.as_deref().map(given).transpose()?.flatten();
    if let (Some(base), Some(candidate)) = (&base, &candidate) {
        return Ok((base.clone(), candidate.clone()));
    }
    let instead = "give two binaries with --base and --candidate";
    build(arguments.target_dir.as_deref(), instead, stop, |builder| {
        if let (None, Some(reference)) = (&candidate, &arguments.candidate) {
            builder.resolve(reference)?; // Before the base is built.
        }
        let base = match base {
            Some(base) => base,
            None => builder.commit(&arguments.base)?,
        };
        unless_interrupted(Ok(()), stop)?;
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

/// The binary of this name, if there is one.
pub(crate) fn given(name: &str) -> candlemark::Result<Option<Binary>> {
    let path = Path::new(name);
    path.is_file().then(|| Binary::given(path)).transpose().map_err(Error::of_named_file)
}

/// Builds with Cargo's files where they were asked to be, and says on stderr what goes on.
/// `instead` is what to do where there is no repository. Ctrl-C reaches Cargo, too, so that a build
/// which fails after it did not fail by itself.
pub(crate) fn build<T>(
    target: Option<&Path>,
    instead: &str,
    stop: &AtomicBool,
    work: impl FnOnce(&mut Builder<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let here = std::env::current_dir()?;
    if !here.ancestors().any(|folder| folder.join(".git").exists()) {
        return Err(usage(format!("this is no git repository; {instead}")));
    }
    let folder = files::build_folder().join("candlemark").join("pair");
    let target = target.map_or_else(|| folder.join("target"), PathBuf::from);
    let built = work(&mut Builder::new(&folder, &target, &mut say)?);
    unless_interrupted(built, stop)
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
