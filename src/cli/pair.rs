//! `candlemark pair`: two builds in alternating turns.

#[cfg(feature = "server")]
mod servers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::cli::check::Rules;
use crate::cli::document::Document;
use crate::cli::exit::{CommandResult, STATUSES};
use crate::cli::interrupt::{interruptible, say, unless_interrupted};
use crate::cli::output::{command_line, usage};
#[cfg(feature = "server")]
use crate::cli::pair::servers::ServerPair;
use crate::cli::setup::{ModelArguments, Workers, check_words_for_turns, injection};
use crate::compare::Judgement;
use crate::compare::paired::judge;
use crate::error::counted;
use crate::files::RunFile;
#[cfg(feature = "server")]
use crate::pair::Restarts;
use crate::pair::build::{Binary, Builder};
use crate::pair::target::Target;
use crate::pair::{Events, Identical, Plan};
use crate::settings::{BuildConfig, Config, Server, Setup};
use crate::workload::Partition;
use crate::{Error, files, machine, pair, report};

/// Compare two builds or two servers in alternating turns until there is a verdict or the budget is
/// spent
#[derive(clap::Args)]
#[command(after_long_help = STATUSES)]
pub(crate) struct Arguments {
    /// Base of the comparison: a branch, tag or commit, which is built, or a binary
    #[arg(long, value_name = "REF|BINARY")]
    #[cfg_attr(feature = "server", arg(required_unless_present_any = ["base_url", "base_cmd"]))]
    #[cfg_attr(not(feature = "server"), arg(required = true))]
    base: Option<String>,
    /// Build to judge: a ref or a binary [default: the working tree]
    #[arg(long, value_name = "REF|BINARY")]
    candidate: Option<String>,
    /// Suites or parts of scenario ids [default: the suite `default`, every category at every batch
    /// size]
    scenarios: Vec<String>,
    /// Compare one shard of the scenarios, for example 1/3, with both builds in it
    #[arg(long, value_name = "K/N")]
    partition: Option<Partition>,
    #[command(flatten)]
    model: ModelArguments,
    #[cfg(feature = "server")]
    #[command(flatten)]
    servers: ServerPair,
    /// Longest time to measure, without the builds: `90s`, `10m`, `1h`
    #[arg(long, value_name = "TIME", default_value = "12m", env = "CANDLEMARK_BUDGET",
        value_parser = crate::settings::duration)]
    budget: Duration,
    /// Run both builds at the same time, each on half of the CPUs with half of the threads, for
    /// hosts with noisy neighbours
    #[arg(long)]
    duet: bool,
    /// Accept a change of the generated tokens, and say why; both builds are timed as usual
    #[arg(long, value_name = "WHY")]
    output_change: Option<String>,
    /// Measure binaries even if they are equal byte for byte, to see the noise of this machine
    #[arg(long)]
    even_if_identical: bool,
    /// Seed of the random orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    order_seed: u64,
    /// Cargo's target folder for the builds; that of `cargo build --release` saves building the
    /// dependencies again [default: target/candlemark/pair/target]
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    #[command(flatten)]
    document: Document,
    /// Output file of the raw turns
    /// [default: target/candlemark/runs/<time>-<commit>/pair.json]
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Folder of baselines, which may contain a calibration of this machine
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
    #[command(flatten)]
    rules: Rules,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let policy = arguments.rules.policy(config)?;
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    let words = &match arguments.partition {
        Some(shard) => shard.select(words)?.into_iter().map(|scenario| scenario.id).collect(),
        None => words.clone(),
    };
    check_words_for_turns(words)?;
    let Arms {
        mut setup,
        candidate_server,
        #[cfg(feature = "server")]
        restarts,
        clients,
    } = arms(arguments, config)?;
    if arguments.duet {
        setup.threads = (setup.threads / 2).max(1);
    }
    let injection = injection()?;
    arguments.document.check()?;
    let stop = interruptible("the blocks so far are judged")?;
    let command = command_line();
    let raw = arguments.raw.as_deref();
    RunFile::check(raw, "name a file with `--raw`")?;
    let plan = |(base, candidate): (Binary, Binary), path: PathBuf| Plan {
        base,
        candidate,
        setup,
        candidate_server,
        #[cfg(feature = "server")]
        restarts,
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
    let built = match clients {
        Some(clients) => Ok(clients),
        None => binaries(arguments, config, stop),
    };
    let measured = built.and_then(|built| {
        let session = machine::session_id(built.1.commit.as_deref());
        let file = RunFile::new(raw, "pair.json", &session)?;
        let mut live = Live { began: Instant::now(), budget: arguments.budget };
        let paired = pair::run(&plan(built, file.path.clone()), stop, &mut live)?;
        Ok((paired, file.path.clone()))
    });
    let (paired, path) = match measured {
        Ok(measured) => measured,
        Err(error) => return arguments.document.write_error(error, &policy, &command, out),
    };
    let judgement = judge(&paired, &policy);
    let page = report::pair_page(&paired, &judgement, &command)?;
    let pages = write_pages(&page, &path)?;
    arguments.document.write(&judgement, &command, || Ok(page), out)?;
    say(&format!("raw turns: {} (`candlemark check --record` judges them again)", path.display()));
    if let Some(page) = pages {
        say(&format!("page: {}", page.display()));
    }
    Ok(judgement.outcome.into())
}

/// Writes the page next to the raw turns, unless they go to a pipe or a device. If Criterion has an
/// index, writes the page next to it, too, and links it there.
fn write_pages(page: &str, raw: &Path) -> crate::Result<Option<PathBuf>> {
    let path = (!files::is_stream(raw)).then(|| raw.with_extension("html"));
    if let Some(path) = &path {
        files::write(path, page.as_bytes())?;
    }
    let criterion = files::criterion_folder().join("report");
    let index = criterion.join("index.html");
    if index.exists() {
        files::write(&criterion.join("gate.html"), page.as_bytes())?;
        report::link_into(&index, "gate.html", "verdict on two builds measured in turns")?;
    }
    Ok(path)
}

/// How both arms are run.
struct Arms {
    setup: Setup,
    candidate_server: Option<Server>,
    #[cfg(feature = "server")]
    restarts: Option<Restarts>,
    /// This binary as the client of both servers; `None` where builds are compared.
    clients: Option<(Binary, Binary)>,
}

fn arms(arguments: &Arguments, config: &Config) -> crate::Result<Arms> {
    #[cfg(feature = "server")]
    if let Some(arms) = arguments.servers.arms(&arguments.model, config)? {
        let binary = Binary::from_file(&files::this_binary()?)?;
        let clients = arms.names.map(|asked| Binary { asked, ..binary.clone() });
        return Ok(Arms {
            setup: arms.setup,
            candidate_server: arms.candidate,
            restarts: arms.restarts,
            clients: Some(clients.into()),
        });
    }
    let named = arguments.candidate.iter().chain(&arguments.base);
    let workers = Workers::of(&config.build, named);
    Ok(Arms {
        setup: arguments.model.setup_for_turns(config, workers)?,
        candidate_server: None,
        #[cfg(feature = "server")]
        restarts: None,
        clients: None,
    })
}

/// Both binaries; refs and the working tree are built.
fn binaries(
    arguments: &Arguments,
    config: &Config,
    stop: &AtomicBool,
) -> anyhow::Result<(Binary, Binary)> {
    let named = arguments.base.as_deref().unwrap_or_default();
    let base = existing_binary(named)?;
    let candidate = arguments.candidate.as_deref().map(existing_binary).transpose()?.flatten();
    if let (Some(base), Some(candidate)) = (&base, &candidate) {
        return Ok((base.clone(), candidate.clone()));
    }
    let instead = "give two binaries with `--base` and `--candidate`";
    build(&config.build, arguments.target_dir.as_deref(), instead, stop, |builder| {
        if let (None, Some(reference)) = (&candidate, &arguments.candidate) {
            builder.resolve(reference)?; // An unknown ref is an error before the base is built.
        }
        let base = match base {
            Some(base) => base,
            None => builder.commit(named)?,
        };
        unless_interrupted(Ok(()), stop)?;
        let candidate = match (candidate, &arguments.candidate) {
            (Some(candidate), _) => candidate,
            (None, Some(reference)) => builder.commit(reference).map_err(|error| match error {
                // A base that does not build is not comparable; a candidate is a failure.
                Error::NotComparable(why) => Error::Failed(why),
                error => error,
            })?,
            (None, None) => builder.working_tree()?,
        };
        Ok((base, candidate))
    })
}

/// The binary at this path, if there is one.
pub(crate) fn existing_binary(name: &str) -> crate::Result<Option<Binary>> {
    let path = Path::new(name);
    path.is_file().then(|| Binary::from_file(path)).transpose().map_err(Error::of_named_file)
}

/// Builds in the target folder, with progress on stderr. `instead` is the advice where there is no
/// repository. Ctrl-C reaches Cargo, too, so that a build that fails after it counts as
/// interrupted.
pub(crate) fn build<T>(
    config: &BuildConfig,
    target: Option<&Path>,
    instead: &str,
    stop: &AtomicBool,
    work: impl FnOnce(&mut Builder<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let here = std::env::current_dir()?;
    if !here.ancestors().any(|folder| folder.join(".git").exists()) {
        return Err(usage(format!("not in a git repository; {instead}")));
    }
    let folder = files::default_path("pair");
    let target = target.map_or_else(|| folder.join("target"), PathBuf::from);
    let built = work(&mut Builder::new(Target::new(config)?, &folder, &target, &mut say)?);
    unless_interrupted(built, stop)
}

/// Prints a line on stderr per block and look, and nothing while a worker measures.
struct Live {
    began: Instant,
    budget: Duration,
}

impl Events for Live {
    fn block(&mut self, number: usize, scenarios: &[String]) {
        let spent = self.began.elapsed().as_secs();
        let budget = self.budget.as_secs();
        let count = counted(scenarios.len(), "scenario");
        say(&format!("block {number}: {count}; {spent} s used of at most {budget} s"));
    }

    fn look(&mut self, judgement: &Judgement, left: Duration) {
        let left = left.min(self.budget.saturating_sub(self.began.elapsed()));
        say(&report::pair_progress(judgement, Some(left.as_secs_f64())));
    }
}
