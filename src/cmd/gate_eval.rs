//! `candlemark gate-eval`: measures the gate.

use std::io::Write;
use std::path::PathBuf;

use candlemark::evaluate::{Proportion, ReplayPlan};
use candlemark::record::pool::Pool;
use candlemark::settings::Config;
use candlemark::{Error, evaluate, files, report};

use crate::cmd::{Exit, command_line, usage, write};

#[cfg(feature = "engine")]
pub(crate) mod record;

/// Measure how often the gate is right
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[cfg(feature = "engine")]
    Record(Box<record::Arguments>),
    /// Judge virtual suites of recorded blocks by this gate's rule and by those of other tools
    Replay(Replay),
    /// Print the interval that holds a rate with 95 % (Clopper and Pearson), in percent
    Bounds(Bounds),
}

#[derive(clap::Args)]
struct Bounds {
    /// How often it was so
    hits: usize,
    /// Of how many
    cases: usize,
}

#[derive(clap::Args)]
struct Replay {
    /// Pools of recorded blocks, judged each and all together; default: those of `fixtures/gate`
    #[arg(value_name = "POOL")]
    pools: Vec<PathBuf>,
    /// Virtual suites per environment and arm
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Seed of the virtual suites
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rules to replay, with commas between; default: all
    #[arg(long, value_delimiter = ',', value_name = "RULE")]
    rules: Vec<String>,
    /// Form of the figures; the last line of `human` and `md` is JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// File to write the figures to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    /// Text for a terminal
    #[default]
    Human,
    /// Markdown
    Md,
    /// Everything
    Json,
}

/// `config` is for recording only, which the judging half alone cannot.
#[cfg_attr(not(feature = "engine"), expect(unused_variables, reason = "nothing is measured"))]
pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match &arguments.command {
        #[cfg(feature = "engine")]
        Command::Record(arguments) => record::run(arguments, config, out),
        Command::Replay(arguments) => replay(arguments, out),
        Command::Bounds(Bounds { hits, cases }) => {
            if hits > cases {
                return Err(usage(format!(
                    "{hits} of {cases} is no rate; give how often, then of how many"
                )));
            }
            let rate = Proportion { hits: *hits, cases: *cases };
            let (low, high) = rate.confidence_interval();
            writeln!(out, "{:.1} to {:.1}", 100.0 * low, 100.0 * high)?;
            Ok(Exit::Pass)
        }
    }
}

fn replay(arguments: &Replay, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let rules = evaluate::rules(&arguments.rules)?;
    arguments.output.as_deref().map_or(Ok(()), files::check)?;
    let paths = if arguments.pools.is_empty() { stored()? } else { arguments.pools.clone() };
    let load = |path: &PathBuf| match path.exists() {
        true => Pool::load(path).map_err(Error::of_named_file),
        false => Err(Error::Usage(format!(
            "no pool `{}`; name one, or make one with `candlemark gate-eval record`",
            path.display()
        ))),
    };
    let pools = paths.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let plan = ReplayPlan { runs: arguments.runs as usize, seed: arguments.seed, rules };
    let evaluation = evaluate::evaluate(&pools, &plan)?;
    let text = match arguments.format {
        Format::Human => report::evaluation_text(&evaluation, &command_line()),
        Format::Md => report::evaluation_markdown(&evaluation, &command_line()),
        Format::Json => report::evaluation_json(&evaluation),
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(Exit::Pass)
}

/// The pools that are kept beside the code.
fn stored() -> Result<Vec<PathBuf>, Error> {
    const FOLDER: &str = "fixtures/gate";
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    if paths.is_empty() {
        let why = format!(
            "no pool in `{FOLDER}`; name one, or make one with `candlemark gate-eval record`"
        );
        return Err(Error::Usage(why));
    }
    Ok(paths)
}
