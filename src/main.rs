//! The command line: arguments in, one answer out. Data goes to stdout, talk to stderr, and the
//! exit status is the answer.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use candlemark::error::brief;
use candlemark::settings::Config;
use clap::{Parser, Subcommand};

mod cmd;

use cmd::Exit;

/// Measures LLM inference in Rust and says honestly whether it got slower
#[derive(Parser)]
#[command(name = "candlemark", version, after_long_help = cmd::about())]
pub(crate) struct Arguments {
    /// Configuration; default: candlemark.toml if there is one. Variables of the environment come
    /// before it, and flags before both
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(cmd::list::Arguments),
    Check(cmd::check::Arguments),
    Compare(cmd::compare::Arguments),
    Promote(cmd::promote::Arguments),
    GateEval(cmd::gate_eval::Arguments),
    Report(cmd::report::Arguments),
    Schema(cmd::schema::Arguments),
    Completions(cmd::completions::Arguments),
    #[cfg(feature = "engine")]
    Pair(Box<cmd::pair::Arguments>),
    #[cfg(feature = "engine")]
    Calibrate(Box<cmd::calibrate::Arguments>),
    #[cfg(feature = "engine")]
    Run(Box<cmd::run::Arguments>),
    #[cfg(all(feature = "engine", feature = "monitor"))]
    Monitor(Box<cmd::monitor::Arguments>),
    #[cfg(feature = "engine")]
    Machine(cmd::machine::Arguments),
    #[cfg(feature = "engine")]
    Peers(cmd::peers::Arguments),
    #[cfg(feature = "engine")]
    Synth(cmd::synth::Arguments),
    #[cfg(feature = "engine")]
    TrainTokenizer(cmd::train_tokenizer::Arguments),
}

fn run(arguments: Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = config(arguments.config)?;
    match arguments.command {
        Command::List(arguments) => cmd::list::run(&arguments, &config, out),
        Command::Check(arguments) => cmd::check::run(&arguments, &config, out),
        Command::Compare(arguments) => cmd::compare::run(&arguments, out),
        Command::GateEval(arguments) => cmd::gate_eval::run(&arguments, &config, out),
        Command::Promote(arguments) => cmd::promote::run(&arguments, out),
        Command::Report(arguments) => cmd::report::run(&arguments, out),
        Command::Schema(arguments) => cmd::schema::run(&arguments, out),
        Command::Completions(arguments) => cmd::completions::run(&arguments, out),
        #[cfg(feature = "engine")]
        Command::Pair(arguments) => cmd::pair::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Calibrate(arguments) => cmd::calibrate::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Run(arguments) => cmd::run::run(&arguments, &config, out),
        #[cfg(all(feature = "engine", feature = "monitor"))]
        Command::Monitor(arguments) => cmd::monitor::run(&arguments, &config),
        #[cfg(feature = "engine")]
        Command::Machine(arguments) => cmd::machine::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Peers(arguments) => cmd::peers::run(&arguments, &config, out),
        #[cfg(feature = "engine")]
        Command::Synth(arguments) => cmd::synth::run(&arguments, out),
        #[cfg(feature = "engine")]
        Command::TrainTokenizer(arguments) => cmd::train_tokenizer::run(&arguments, out),
    }
}

fn config(path: Option<PathBuf>) -> candlemark::Result<Config> {
    let default = || Some(PathBuf::from("candlemark.toml")).filter(|default| default.exists());
    Config::read(path.or_else(default).as_deref(), std::env::vars_os())
}

/// What was typed, or the status to end with: clap repeats a wrong value in whole.
fn arguments() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let text = error.to_string();
        let short = brief(&text);
        if error.use_stderr() && short.len() < text.len() / 2 {
            let _ = writeln!(io::stderr(), "{}", harmless(&short));
        } else {
            let _ = error.print();
        }
        ExitCode::from(error.exit_code() as u8)
    })
}

fn main() -> ExitCode {
    if !is_short_of_stack() {
        return answer();
    }
    let deep = std::thread::Builder::new().stack_size(STACK).spawn(answer);
    match deep {
        // It has said by itself what it panicked of.
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(source) => {
            let _ =
                writeln!(io::stderr(), "error: no stack to work on ({source}); raise `ulimit -s`");
            ExitCode::from(Exit::Usage as u8)
        }
    }
}

/// What the main thread has unless the shell limits it.
const STACK: usize = 8 << 20;

/// Whether the shell left so little stack (`ulimit -s`) that reading a command line may overflow
/// it. Where it did not, the main thread works: memory of other threads is allocated in another
/// way.
fn is_short_of_stack() -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max stack size"));
    let soft = limit.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    soft.is_some_and(|soft| soft < STACK / 4)
}

fn answer() -> ExitCode {
    #[cfg(feature = "engine")]
    if let Some(kind) = std::env::var_os(candlemark::suite::WORKER) {
        let done = if kind == candlemark::suite::turns::TURNS {
            candlemark::suite::turns::work()
        } else if kind == candlemark::suite::STRESS {
            candlemark::suite::work_on_requests()
        } else {
            candlemark::suite::work()
        };
        let done = done.map(|()| Exit::Pass).map_err(anyhow::Error::from);
        return ExitCode::from(done.unwrap_or_else(|error| failed(&error)) as u8);
    }
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let mut out = Patient(io::stdout().lock());
    let result = run(arguments, &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    ExitCode::from(result.unwrap_or_else(|error| failed(&error)) as u8)
}

/// What an error means for a script, and its chain of causes for people.
fn failed(error: &anyhow::Error) -> Exit {
    let text = brief(&format!("{error:#}"));
    // A closed stderr is no reason to lose the status.
    let _ = writeln!(io::stderr(), "error: {}", harmless(&text));
    cmd::cause(error).into()
}

fn harmless(text: &str) -> String {
    text.lines().map(candlemark::report::sanitize).collect::<Vec<_>>().join("\n")
}

/// Stdout whose reader may leave, as `head` does: the rest is dropped, and the answer stands.
struct Patient(io::StdoutLock<'static>);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(self.0.flush(), ())
    }
}

fn unless_closed<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        result => result,
    }
}
