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
use candlemark::compare::FailOn;
use candlemark::compare::Judgement;
use candlemark::compare::Missing;
use candlemark::compare::Policy;
use candlemark::compare::paired::judge;
use candlemark::pair;
use candlemark::pair::Events;
use candlemark::pair::Identical;
use candlemark::pair::Plan;
use candlemark::pair::build::Builder;
use candlemark::pair::build::Built;
use candlemark::report;
use candlemark::settings::Config;
use candlemark::settings::Setup;
use candlemark::suite;

use crate::cmd::Exit;
use crate::cmd::check::Format;
use crate::cmd::check::Severity;
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
    /// Exit with 4 when the candidate lacks a scenario of the base
    #[arg(long)]
    strict: bool,
    /// What makes the exit status 1; default: the configuration's, or `regression`
    #[arg(long, value_enum)]
    fail_on: Option<Severity>,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut policy = Policy::new(&config.gate).context("in [gate] of the configuration")?;
    if arguments.strict {
        policy.missing = Missing::Counts;
    }
    match arguments.fail_on {
        Some(Severity::Regression) => policy.fail_on = FailOn::Regression,
        Some(Severity::Critical) => policy.fail_on = FailOn::Critical,
        None => {}
    }
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    candlemark::workload::select(words)?;
    let setup = setup(&arguments.model, config);
    let stop = interruptible()?;
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
        layout_sd: Default::default(),
        policy,
        path: path.clone(),
    };
    let mut live = Live { began: Instant::now() };
    let paired = pair::run(&plan, stop, &mut live)?;
    let judgement = judge(&paired, &plan.policy);
    let mut talk = std::io::stderr();
    writeln!(talk, "raw turns: {}", path.display())?;
    let text = match arguments.format {
        Format::Human => report::verdict_text(&judgement, &command_line()),
        Format::Md => report::verdict_markdown(&judgement, &command_line()),
        Format::Json => report::verdict_json(&judgement),
        Format::Html => report::verdict_text(&judgement, &command_line()),
        Format::Github => report::annotations(&judgement),
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(judgement.outcome.into())
}

/// One warm-up and one generation a turn: what repeats is the block.
fn setup(model: &ModelArguments, config: &Config) -> Setup {
    let mut setup = model.setup(config);
    setup.generation.warmups = model.warmups().unwrap_or(1);
    setup
}

/// Both binaries, built where they are not given.
fn binaries(arguments: &Arguments) -> anyhow::Result<(Built, Built)> {
    let given = |text: &str| Path::new(text).is_file().then(|| Built::given(Path::new(text)));
    let base = given(&arguments.base).transpose()?;
    let candidate = arguments.candidate.as_deref().and_then(given).transpose()?;
    if let (Some(base), Some(candidate)) = (&base, &candidate) {
        return Ok((base.clone(), candidate.clone()));
    }
    let folder = candlemark::record::build_folder().join("candlemark").join("pair");
    let target = arguments.target_dir.clone().unwrap_or_else(|| folder.join("target"));
    let mut talk = |line: &str| {
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{}", report::plain(line));
    };
    let mut builder = Builder::new(&folder, &target, &mut talk)?;
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
}

/// Set by Ctrl-C: what is measured by then is judged. A second Ctrl-C ends the program at once.
pub(crate) fn interruptible() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        let _ = writeln!(std::io::stderr(), "stopping; what was measured is judged");
    })
    .context("listening for Ctrl-C")?;
    Ok(&STOP)
}

/// Lines on stderr, at looks and blocks only: nothing ticks while a worker measures.
struct Live {
    began: Instant,
}

impl Events for Live {
    fn block(&mut self, number: usize, scenarios: &[String]) {
        let spent = self.began.elapsed().as_secs();
        let _ = writeln!(
            std::io::stderr(),
            "block {number}: {} scenarios ({spent} s)",
            scenarios.len()
        );
    }

    fn look(&mut self, judgement: &Judgement, next: Duration, more: Duration) {
        let course = judgement.course.as_ref();
        let open = course.map(|course| course.open.join(" ")).unwrap_or_default();
        let text = if open.is_empty() {
            "every scenario is decided".into()
        } else {
            format!(
                "open: {open}; next look in {} s, all looks in {} s at most",
                next.as_secs(),
                more.as_secs()
            )
        };
        let _ = writeln!(std::io::stderr(), "{}", report::plain(&text));
    }
}
