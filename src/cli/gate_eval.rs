//! `candlemark gate-eval`: measures the error rates of the gate.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::{command_line, usage, write};
use crate::evaluate::{Proportion, ReplayPlan};
use crate::record::pool::Pool;
use crate::report::TextFormat;
use crate::settings::Config;
use crate::{Error, evaluate, files, report};

#[cfg(feature = "engine")]
pub(crate) mod record;

/// The pools that are replayed by default. An installed binary has no repository at hand.
const POOLS: [(&str, &str); 2] = [
    ("fixtures/gate/zen3.json", include_str!("../../fixtures/gate/zen3.json")),
    ("fixtures/gate/zen5.json", include_str!("../../fixtures/gate/zen5.json")),
];

/// Measure the error rates of the gate
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[cfg(feature = "engine")]
    Record(Box<record::Arguments>),
    /// Replay the rules of this gate and of other tools on recorded blocks
    Replay(Replay),
    /// Print the 95 % confidence interval of a rate in percent (Clopper–Pearson)
    Bounds(Bounds),
}

#[derive(clap::Args)]
struct Bounds {
    /// Cases that count
    hits: usize,
    /// All cases
    cases: usize,
}

#[derive(clap::Args)]
struct Replay {
    /// Pools of recorded blocks; each has figures of its own, and all together
    /// [default: those of fixtures/gate, which the binary contains]
    #[arg(value_name = "POOL")]
    pools: Vec<PathBuf>,
    /// Virtual suites per environment and arm
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Seed of the virtual suites
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rules to replay, comma-separated [default: all]
    #[arg(long, value_delimiter = ',', value_name = "RULE")]
    rules: Vec<String>,
    /// Format of the figures; the last line of `human` and `md` is JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Output file of the figures [default: stdout]
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
    /// JSON with all figures
    Json,
}

#[cfg_attr(not(feature = "engine"), expect(unused_variables, reason = "only `record` reads it"))]
pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    match &arguments.command {
        #[cfg(feature = "engine")]
        Command::Record(arguments) => record::run(arguments, config, out),
        Command::Replay(arguments) => replay(arguments, out),
        Command::Bounds(Bounds { hits, cases }) => {
            if hits > cases {
                return Err(usage(format!(
                    "{hits} of {cases} is no rate; give the hits, then all cases"
                )));
            }
            let rate = Proportion { hits: *hits, cases: *cases };
            let (low, high) = rate.confidence_interval();
            writeln!(out, "{:.1} to {:.1}", 100.0 * low, 100.0 * high)?;
            Ok(Exit::Pass)
        }
    }
}

fn replay(arguments: &Replay, out: &mut dyn Write) -> CommandResult {
    let rules = evaluate::rules(&arguments.rules)?;
    arguments.output.as_deref().map_or(Ok(()), files::check)?;
    let load = |path: &PathBuf| match path.exists() {
        true => Pool::load(path).map_err(Error::of_named_file),
        false => Err(Error::Usage(format!(
            "no pool `{}`; name another file, or record one with `candlemark gate-eval record`",
            path.display()
        ))),
    };
    let pools = if arguments.pools.is_empty() {
        POOLS.iter().map(|(name, text)| Pool::parse(text, name.as_ref())).collect()
    } else {
        arguments.pools.iter().map(load).collect::<Result<Vec<_>, _>>()
    }?;
    let plan = ReplayPlan { runs: arguments.runs as usize, seed: arguments.seed, rules };
    let evaluation = evaluate::evaluate(&pools, &plan)?;
    let text = match arguments.format {
        Format::Human => {
            report::evaluation_text(&evaluation, &command_line(), TextFormat::Terminal)
        }
        Format::Md => report::evaluation_text(&evaluation, &command_line(), TextFormat::Markdown),
        Format::Json => report::evaluation_json(&evaluation),
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(Exit::Pass)
}
