//! The command line: one file per command, each a function from arguments to text and an exit
//! status. Data goes to stdout, everything else to stderr, and the exit status is the answer.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::{brief, nearest};
use crate::settings::Config;

#[cfg(feature = "engine")]
mod calibrate;
mod check;
mod colour;
mod compare;
mod completions;
mod document;
#[cfg(feature = "engine")]
mod download;
mod exit;
mod gate_eval;
mod init;
#[cfg(any(feature = "engine", feature = "server"))]
mod interrupt;
mod list;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "engine")]
mod machine;
mod man;
mod merge;
#[cfg(all(feature = "engine", feature = "monitor"))]
mod monitor;
mod output;
#[cfg(feature = "engine")]
mod pair;
#[cfg(feature = "engine")]
mod peers;
mod promote;
mod report;
#[cfg(feature = "engine")]
mod run;
mod schema;
#[cfg(feature = "server")]
mod selftest;
#[cfg(all(feature = "engine", feature = "server"))]
mod serve;
#[cfg(feature = "engine")]
mod setup;
#[cfg(feature = "engine")]
mod synth;

use exit::{CommandResult, Exit};
use output::IgnoreBrokenPipe;

/// Measures LLM inference in Rust and says honestly whether it got slower
#[derive(Parser)]
#[command(name = "candlemark", version = VERSION.as_str(), after_long_help = about())]
struct Arguments {
    /// Configuration file [default: candlemark.toml if it exists]
    ///
    /// Environment variables override the file, and flags override both
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// Makes the commands of a table, in the order of `--help`: each is a file with its `Arguments` and
/// the function that runs it.
macro_rules! commands {
    ($($(#[$feature:meta])* $name:ident $module:ident;)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($(#[$feature])* $name(Box<$module::Arguments>),)*
        }

        fn run(arguments: Arguments, out: &mut dyn Write) -> CommandResult {
            let config = config(arguments.config)?;
            match arguments.command {
                $($(#[$feature])*
                Command::$name(arguments) => $module::run(&arguments, &config, out),)*
            }
        }
    };
}

commands! {
    #[cfg(feature = "engine")] Run run;
    Check check;
    #[cfg(feature = "engine")] Pair pair;
    Compare compare;
    Report report;
    List list;
    Promote promote;
    #[cfg(feature = "engine")] Calibrate calibrate;
    #[cfg(all(feature = "engine", feature = "monitor"))] Monitor monitor;
    #[cfg(all(feature = "engine", feature = "server"))] Serve serve;
    #[cfg(feature = "engine")] Machine machine;
    #[cfg(feature = "engine")] Peers peers;
    #[cfg(feature = "server")] Load load;
    #[cfg(feature = "server")] Selftest selftest;
    GateEval gate_eval;
    #[cfg(feature = "engine")] Synth synth;
    Schema schema;
    Merge merge;
    Init init;
    Completions completions;
    Man man;
}

/// The parser of the command line. Completions and tests of documented commands read it.
pub fn parser() -> clap::Command {
    Arguments::command()
}

fn config(path: Option<PathBuf>) -> crate::Result<Config> {
    let default = || Some(PathBuf::from("candlemark.toml")).filter(|default| default.exists());
    Config::read(path.or_else(default).as_deref(), std::env::vars_os())
}

/// The arguments, or the exit status of help and errors. Long values are shortened: clap repeats
/// them whole.
fn arguments() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|mut error| {
        suggest_command(&mut error, std::env::args_os().filter_map(|word| word.into_string().ok()));
        let text = error.to_string();
        let short = brief(&text);
        if error.use_stderr() && short.len() < text.len() / 2 {
            let _ = writeln!(std::io::stderr(), "{}", printable(&short));
        } else {
            let _ = error.print();
        }
        ExitCode::from(error.exit_code() as u8)
    })
}

/// Replaces clap's suggestions for a misspelt command, which prefer long names to near ones.
fn suggest_command(error: &mut clap::Error, words: impl Iterator<Item = String>) {
    let Some(ContextValue::String(misspelt)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let mut root = parser();
    root.build();
    let group = words.skip(1).find_map(|word| root.find_subcommand(word)).unwrap_or(&root);
    let known: Vec<&str> = group.get_subcommands().map(clap::Command::get_name).collect();
    let suggestion = nearest(misspelt, &known).map(String::from);
    error.remove(ContextKind::SuggestedSubcommand);
    if let Some(name) = suggestion {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::String(name));
    }
}

/// Runs the command line of this process, or a worker process if the environment says so.
pub fn main() -> ExitCode {
    if !has_small_stack() {
        return work_or_run();
    }
    match std::thread::Builder::new().stack_size(STACK).spawn(work_or_run) {
        // The panic has printed its message.
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(source) => {
            let _ = writeln!(
                std::io::stderr(),
                "error: cannot get a stack ({source}); raise `ulimit -s`"
            );
            ExitCode::from(Exit::Usage as u8)
        }
    }
}

/// Usual stack size of the main thread.
const STACK: usize = 8 << 20;

/// Whether `ulimit -s` is so small that parsing a command line may overflow the stack. Otherwise
/// the main thread does the work, because threads allocate memory differently, which changes the
/// peak.
fn has_small_stack() -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max stack size"));
    let soft = limit.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    soft.is_some_and(|soft| soft < STACK / 4)
}

/// Runs as a worker process where the environment says so, otherwise a command.
fn work_or_run() -> ExitCode {
    #[cfg(feature = "engine")]
    if let Some(done) = peers::work().or_else(crate::suite::work) {
        let done = done.map(|()| Exit::Pass).map_err(anyhow::Error::from);
        return ExitCode::from(done.unwrap_or_else(|error| failed(&error)) as u8);
    }
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let mut out = IgnoreBrokenPipe(std::io::stdout().lock());
    let result = run(arguments, &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    ExitCode::from(result.unwrap_or_else(|error| failed(&error)) as u8)
}

/// Prints an error with its causes; the exit status.
fn failed(error: &anyhow::Error) -> Exit {
    let text = brief(&format!("{error:#}"));
    // A closed stderr does not change the exit status.
    let _ =
        writeln!(std::io::stderr(), "{}", colour::message(&format!("error: {}", printable(&text))));
    exit::cause(error).into()
}

fn printable(text: &str) -> String {
    text.lines().map(crate::report::sanitize).collect::<Vec<_>>().join("\n")
}

/// The environment variables and exit statuses, for `--help`.
/// The version with the commit, which builds for a pair lack: `0.1.0 (0123456789ab)`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let build = crate::machine::stamp();
    let modified = if build.dirty == Some(true) { ", modified" } else { "" };
    let commit = build.commit.as_deref().map(crate::report::short_commit);
    let commit = commit.map_or(String::new(), |commit| format!(" ({commit}{modified})"));
    format!("{}{commit}", build.version)
});

/// The variables that are no key of the file.
const OTHER_VARIABLES: &str = "\
  CANDLEMARK_API_KEY  the key to a server
  CANDLEMARK_BUDGET   the default of --budget
  CANDLEMARK_INJECT   slows this program on purpose, to see the gate fail: decode:25%
  CANDLEMARK_ISA      forces a tier of CPU kernels: portable; avx2, avxvnni, avx512, amx;
                      neon, dotprod, i8mm
  CANDLEMARK_KERNELS  a file that forces variants of its kernels; `machine --kernels` prints one
  CANDLEMARK_PIN      1 keeps each thread on a CPU of its own";

fn about() -> String {
    let names = crate::settings::variables();
    let lines: Vec<String> =
        names.chunks(3).map(|names| format!("  {}", names.join(", "))).collect();
    format!(
        "Environment variables, one per key of candlemark.toml:\n{}\n\n\
         Others:\n{}\n\n{}",
        lines.join("\n"),
        OTHER_VARIABLES,
        exit::STATUSES
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_command_gets_the_nearest_name() {
        for (line, expected) in [
            #[cfg(feature = "engine")]
            ("candlemark rn", Some("run")),
            ("candlemark cmpare", Some("compare")),
            ("candlemark chekc", Some("check")),
            ("candlemark gate-eval replya", Some("replay")),
            ("candlemark qwerty", None),
        ] {
            let mut error = Arguments::try_parse_from(line.split(' ')).err().unwrap();
            suggest_command(&mut error, line.split(' ').map(String::from));
            let text = error.to_string();
            let tip = expected.map(|name| format!("a similar subcommand exists: '{name}'"));
            assert!(tip.is_none_or(|tip| text.contains(&tip)), "{text}");
            assert_eq!(text.contains("tip:"), expected.is_some(), "{text}");
        }
    }
}
