//! `candlemark gate-eval record`: measures a pool of blocks for the replay of rules.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::interruptible;
use crate::cli::pair::{build, existing_binary};
use crate::cli::setup::{ModelArguments, Workers, check_words_for_turns};
use crate::files::Lock;
use crate::pair::build::Binary;
use crate::pair::pool;
use crate::pair::pool::{Plan, environments};
use crate::settings::{Config, Count};
use crate::{Error, files};

/// Measure a pool of blocks: the base, a copy, another code layout and known slowdowns, in quiet
/// and noisy environments
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids
    #[arg(default_values_t = ["short/b1".to_owned(), "short/b4".to_owned()])]
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// The base: a ref or a binary [default: this binary]
    #[arg(long, value_name = "REF|BINARY")]
    base: Option<String>,
    /// A binary of the base's source in another code layout [default: linked if the base is a ref,
    /// otherwise none]
    #[arg(long, value_name = "BINARY")]
    layout: Option<PathBuf>,
    /// Environments, comma-separated [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    environments: Vec<String>,
    /// Blocks per environment
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = Count::BLOCKS.parser())]
    blocks: usize,
    /// Rounds (counterbalanced turns) per block and scenario
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = Count::ROUNDS.parser())]
    quads: usize,
    /// Slowed arms: decode by 3 % (3), 5 % (5), 7.5 % (7), 10 % (T) and 20 % (X), TTFT (F) and
    /// memory (M) by 20 %
    #[arg(long, value_name = "LETTER", value_delimiter = ',', default_values_t = ['3', '5', '7', 'T', 'X', 'F', 'M'])]
    arms: Vec<char>,
    /// How many slowed arms take turns in each block, in rotation
    #[arg(long, value_name = "N", default_value_t = 2)]
    injected: usize,
    /// Run two arms at the same time, each on half of the CPUs, instead of one after the other
    #[arg(long)]
    duet: bool,
    /// Seed of the random orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    order_seed: u64,
    /// Cargo's target folder for the builds [default: target/candlemark/pair/target]
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    /// Output file of the pool [default: target/candlemark/pool.json]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    check_words_for_turns(&arguments.scenarios)?;
    let mut environments = environments();
    if !arguments.environments.is_empty() {
        let known: Vec<String> = environments.iter().map(|one| one.name.clone()).collect();
        if let Some(name) = arguments.environments.iter().find(|name| !known.contains(name)) {
            let known = known.iter().map(String::as_str);
            return Err(Error::unknown("environment", name, known).into());
        }
        environments.retain(|one| arguments.environments.contains(&one.name));
    }
    pool::check_arms(&arguments.arms)?;
    let workers = match &arguments.base {
        Some(base) => Workers::of(&config.build, [base]),
        None => Workers::Own,
    };
    let mut setup = arguments.model.setup_for_turns(config, workers)?;
    if arguments.duet {
        setup.threads = (setup.threads / 2).max(1);
    }
    let path = arguments.output.clone().unwrap_or_else(|| files::default_path("pool.json"));
    let _lock = Lock::take(&path)?;
    let stop = interruptible("complete environments are kept")?;
    let (base, layout) = binaries(arguments, config, stop)?;
    let plan = Plan {
        base,
        layouts: layout.into_iter().map(|layout| ('L', layout)).collect(),
        setup,
        words: arguments.scenarios.clone(),
        environments,
        pause: Duration::ZERO,
        blocks: arguments.blocks,
        rounds: arguments.quads,
        arms: arguments.arms.clone(),
        injected: arguments.injected,
        duet: arguments.duet,
        seed: arguments.order_seed,
        path,
        earlier: None,
    };
    pool::record(&plan, stop, &mut progress(&plan))?;
    writeln!(out, "{}", plan.path.display())?;
    Ok(Exit::Pass)
}

/// Prints on stderr which block is measured, and an estimate of the remaining time.
pub(crate) fn progress(plan: &Plan) -> impl FnMut(&str, usize, f64) {
    let (blocks, all) = (plan.blocks, plan.blocks * plan.environments.len());
    let mut done = 0;
    move |environment, number, seconds| {
        let left = seconds / done as f64 * (all - done) as f64 / 60.0;
        let left = if done > 0 { format!(", {left:.0} min left") } else { String::new() };
        done += 1;
        // stderr may be closed.
        let _ = writeln!(std::io::stderr(), "{environment}: block {number} of {blocks}{left}");
    }
}

/// The base, and its source in another code layout.
fn binaries(
    arguments: &Arguments,
    config: &Config,
    stop: &AtomicBool,
) -> anyhow::Result<(Binary, Option<Binary>)> {
    let layout = arguments.layout.as_deref().map(Binary::from_file).transpose();
    let layout = layout.map_err(Error::of_named_file)?;
    let base = match arguments.base.as_deref() {
        None => return Ok((Binary::from_file(&files::this_binary()?)?, layout)),
        Some(base) => base,
    };
    if let Some(built) = existing_binary(base)? {
        return Ok((built, layout));
    }
    build(
        &config.build,
        arguments.target_dir.as_deref(),
        "give a binary with `--base`",
        stop,
        |builder| {
            let layout = match layout {
                Some(layout) => layout,
                None => builder.shuffled(base, 1)?,
            };
            Ok((builder.commit(base)?, Some(layout)))
        },
    )
}
