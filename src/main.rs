//! The command line. Data goes to stdout, everything else to stderr, and the exit status is the
//! answer.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use candlemark::error::{brief, nearest};
use candlemark::settings::Config;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser, Subcommand};

mod cmd;

use cmd::Exit;

/// Measures LLM inference in Rust and says honestly whether it got slower
#[derive(Parser)]
#[command(name = "candlemark", version, after_long_help = cmd::about())]
pub(crate) struct Arguments {
    /// Configuration file [default: candlemark.toml if it exists]
    ///
    /// Environment variables override the file, and flags override both
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "engine")]
    Run(Box<cmd::run::Arguments>),
    Check(cmd::check::Arguments),
    #[cfg(feature = "engine")]
    Pair(Box<cmd::pair::Arguments>),
    Compare(cmd::compare::Arguments),
    Report(cmd::report::Arguments),
    List(cmd::list::Arguments),
    Promote(cmd::promote::Arguments),
    #[cfg(feature = "engine")]
    Calibrate(Box<cmd::calibrate::Arguments>),
    #[cfg(all(feature = "engine", feature = "monitor"))]
    Monitor(Box<cmd::monitor::Arguments>),
    #[cfg(feature = "engine")]
    Machine(cmd::machine::Arguments),
    #[cfg(feature = "engine")]
    Peers(cmd::peers::Arguments),
    GateEval(cmd::gate_eval::Arguments),
    #[cfg(feature = "engine")]
    Synth(cmd::synth::Arguments),
    #[cfg(feature = "engine")]
    TrainTokenizer(cmd::train_tokenizer::Arguments),
    Schema(cmd::schema::Arguments),
    Completions(cmd::completions::Arguments),
}

fn run(arguments: Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = config(arguments.config)?;
    match arguments.command {
        #[cfg(feature = "engine")]
        Command::Run(arguments) => cmd::run::run(&arguments, &config, out),
        Command::Check(arguments) => cmd::check::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Pair(arguments) => cmd::pair::run(&arguments, &config, out),
        Command::Compare(arguments) => cmd::compare::run(&arguments, out),
        Command::Report(arguments) => cmd::report::run(&arguments, out),
        Command::List(arguments) => cmd::list::run(&arguments, &config, out),
        Command::Promote(arguments) => cmd::promote::run(&arguments, out),
        #[cfg(feature = "engine")]
        Command::Calibrate(arguments) => cmd::calibrate::run(&arguments, &config, out),
        #[cfg(all(feature = "engine", feature = "monitor"))]
        Command::Monitor(arguments) => cmd::monitor::run(&arguments, &config),
        #[cfg(feature = "engine")]
        Command::Machine(arguments) => cmd::machine::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Peers(arguments) => cmd::peers::run(&arguments, &config, out),
        Command::GateEval(arguments) => cmd::gate_eval::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Synth(arguments) => cmd::synth::run(&arguments, out),
        #[cfg(feature = "engine")]
        Command::TrainTokenizer(arguments) => cmd::train_tokenizer::run(&arguments, out),
        Command::Schema(arguments) => cmd::schema::run(&arguments, out),
        Command::Completions(arguments) => cmd::completions::run(&arguments, out),
    }
}

fn config(path: Option<PathBuf>) -> candlemark::Result<Config> {
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
            let _ = writeln!(io::stderr(), "{}", printable(&short));
        } else {
            let _ = error.print();
        }
        ExitCode::from(error.exit_code() as u8)
    })
}

/// Replaces clap's suggestions for a misspelt command, which prefer long names: to `rn` it suggests
/// `train-tokenizer`.
fn suggest_command(error: &mut clap::Error, words: impl Iterator<Item = String>) {
    let Some(ContextValue::String(misspelt)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let mut root = Arguments::command();
    root.build();
    let group = words.skip(1).find_map(|word| root.find_subcommand(word)).unwrap_or(&root);
    let known: Vec<&str> = group.get_subcommands().map(clap::Command::get_name).collect();
    let suggestion = nearest(misspelt, &known).map(String::from);
    error.remove(ContextKind::SuggestedSubcommand);
    if let Some(name) = suggestion {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::String(name));
    }
}

fn main() -> ExitCode {
    if !has_small_stack() {
        return work_or_run();
    }
    match std::thread::Builder::new().stack_size(STACK).spawn(work_or_run) {
        // The panic has printed its message.
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(source) => {
            let _ =
                writeln!(io::stderr(), "error: cannot get a stack ({source}); raise `ulimit -s`");
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
    if let Some(kind) = std::env::var_os(candlemark::suite::WORKER) {
        let done = if kind == candlemark::suite::turns::TURNS {
            candlemark::suite::turns::run_turn_worker()
        } else if kind == candlemark::suite::STRESS {
            candlemark::suite::run_stress_worker()
        } else {
            candlemark::suite::run_worker()
        };
        let done = done.map(|()| Exit::Pass).map_err(anyhow::Error::from);
        return ExitCode::from(done.unwrap_or_else(|error| failed(&error)) as u8);
    }
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let mut out = IgnoreBrokenPipe(io::stdout().lock());
    let result = run(arguments, &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    ExitCode::from(result.unwrap_or_else(|error| failed(&error)) as u8)
}

/// Prints an error with its causes; the exit status.
fn failed(error: &anyhow::Error) -> Exit {
    let text = brief(&format!("{error:#}"));
    // A closed stderr does not change the exit status.
    let _ = writeln!(io::stderr(), "error: {}", printable(&text));
    cmd::cause(error).into()
}

fn printable(text: &str) -> String {
    text.lines().map(candlemark::report::sanitize).collect::<Vec<_>>().join("\n")
}

/// Stdout that drops its text once the reader, `head` for example, has closed the pipe, so that the
/// exit status stays the answer.
struct IgnoreBrokenPipe(io::StdoutLock<'static>);

impl Write for IgnoreBrokenPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ignore_broken_pipe(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        ignore_broken_pipe(self.0.flush(), ())
    }
}

fn ignore_broken_pipe<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        result => result,
    }
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
