//! `candlemark monitor`: periodic runs, with a page of the last day.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::{interruptible, say};
use crate::cli::setup::{ModelArguments, injection};
use crate::compare::Policy;
use crate::files::Lock;
use crate::monitor::{Clock, History, Observer, Pages, Plan, Remote, Server, SuiteProbe};
use crate::settings::{Config, interval};
use crate::{Error, files, machine, monitor, suite, workload};

/// Measure a suite periodically and serve a page of the last day
///
/// A failed cycle is shown and retried soon; it does not end the monitor. Ctrl-C does.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids [default: the suite `quick`]
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Time between the starts of cycles: `30m`, `1h`
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = interval)]
    interval: Duration,
    /// Time until a failed cycle is retried
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = interval)]
    retry: Duration,
    /// Time span that is kept and shown
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = interval)]
    window: Duration,
    /// End after this many cycles, with exit status 5 if the last one failed [default: no end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cycles: Option<u64>,
    /// Address and port of the page; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8642")]
    listen: SocketAddr,
    /// Allow an address that other machines can reach; they can read everything without a password
    #[arg(long)]
    allow_remote: bool,
    /// File of past cycles, one per line [default: target/candlemark/history.jsonl]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Folder of baselines
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, _: &mut dyn Write) -> CommandResult {
    let quick = ["quick".to_owned()];
    let words = if arguments.scenarios.is_empty() { &quick[..] } else { &arguments.scenarios };
    let scenarios = workload::select(words)?;
    let setup = arguments.model.setup(config)?;
    let about = format!("{} on {}", words.join(" "), setup.model);
    let plan = suite::Plan { injection: injection()?, ..suite::Plan::new(setup, scenarios)? };
    let policy = Policy::new(&config.gate).context("invalid `[gate]` in the configuration")?;
    let file = arguments.history.clone().unwrap_or_else(|| files::default_path("history.jsonl"));
    let _lock = Lock::take(&file)?;
    let remote = if arguments.allow_remote { Remote::Allowed } else { Remote::Refused };
    let server = Server::start(arguments.listen, remote)?;
    machine::refuse_debug()?;
    let clock = SystemClock::start()?;
    let window = SignedDuration::try_from(arguments.window).unwrap_or(SignedDuration::MAX);
    let opened = History::open(&file, window, clock.elapsed(), clock.now());
    let (mut history, warnings) = opened.map_err(Error::of_named_file)?;
    warnings.iter().for_each(|line| say(line));
    let stopped = || clock.stopped();
    let mut probe = SuiteProbe {
        plan,
        newest: file.with_extension("record.json"),
        baselines: arguments.baselines.clone(),
        policy,
        stopped: &stopped,
        say: &say,
    };
    say(&format!("page: http://{}/", server.address()));
    let cycles = Plan {
        interval: arguments.interval,
        retry: arguments.retry,
        cycles: arguments.cycles,
        about,
    };
    let ended = monitor::run(&cycles, &mut history, &mut probe, &clock, &mut Live { server });
    say(&format!("history: {}", file.display()));
    Ok(if ended.last_failed && arguments.cycles.is_some() { Exit::Failed } else { Exit::Pass })
}

/// Publishes the page on the server and prints lines on stderr.
struct Live {
    server: Server,
}

impl Observer for Live {
    fn publish(&mut self, pages: Pages) {
        self.server.publish(pages);
    }

    fn log(&mut self, line: &str) {
        say(line);
    }
}

/// The clocks of this machine; a signal ends a wait.
struct SystemClock {
    began: Instant,
    stop: &'static AtomicBool,
}

impl SystemClock {
    /// Installs the handler of Ctrl-C and SIGTERM.
    fn start() -> anyhow::Result<Self> {
        let stop = interruptible("waiting for the worker that measures now")?;
        Ok(Self { began: Instant::now(), stop })
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> SignedDuration {
        SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn wait(&self, until: SignedDuration) {
        while self.elapsed() < until && !self.stopped() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
