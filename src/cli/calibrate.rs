//! `candlemark calibrate`: measures the noise of this machine.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::gate_eval::record::progress;
use crate::cli::interrupt::interruptible;
use crate::cli::pair::build;
use crate::cli::setup::{ModelArguments, Workers, check_words_for_turns};
use crate::compare::Policy;
use crate::evaluate::NoiseEstimates;
use crate::files::Lock;
use crate::pair::build::Binary;
use crate::pair::pool;
use crate::pair::pool::{Environment, Plan};
use crate::record::calibration::{
    Calibration, CalibrationKind, CalibrationSession, MachineId, ModelId, SCHEMA,
};
use crate::record::pool::{Pool, PoolEnvironment};
use crate::settings::{Config, Count};
use crate::{Error, baseline, evaluate, files, report};

/// Measure the noise of this machine: variance between processes, sessions and code layouts
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids. The noise holds for all scenarios, the smallest detectable
    /// changes for these
    #[arg(default_values_t = ["short/b1", "code/b1", "short/b4"].map(String::from))]
    scenarios: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// Branch, tag or commit to build
    #[arg(long, value_name = "REF", default_value = "HEAD")]
    base: String,
    /// Sessions; their variance is that of baselines and runs, which are sessions too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    sessions: u16,
    /// Pause between sessions; sessions less than an hour apart count as one
    #[arg(long, value_name = "TIME", default_value = "1h",
        value_parser = crate::settings::duration)]
    pause: Duration,
    /// Blocks per session
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(8..))]
    blocks: u16,
    /// Rounds (ABBA) per block and scenario
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = Count::ROUNDS.parser())]
    quads: usize,
    /// Additional code layouts of the base to link and measure; needs the linker lld
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=10))]
    layouts: u8,
    /// Add sessions to an earlier calibration of the same commit; the variance between sessions
    /// needs three
    #[arg(long)]
    more: bool,
    /// Seed of the random orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    order_seed: u64,
    /// Cargo's target folder for the builds [default: target/candlemark/pair/target]
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    /// File of the raw blocks, to which `--more` adds [default: target/candlemark/calibration.json]
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Folder of baselines, in which the calibration is stored
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
}

/// Letters of layouts; other arms use none of them.
const LAYOUT_LETTERS: &str = "LPQRSUVWYZ";

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let raw = arguments.raw.clone().unwrap_or_else(|| files::default_path("calibration.json"));
    let policy = Policy::new(&config.gate)?;
    check_words_for_turns(&arguments.scenarios)?;
    let _lock = Lock::take(&raw)?;
    // Checks the folder: the file's name is known once the model is loaded.
    files::check(&arguments.baselines.join("calibration.json"))?;
    let earlier = arguments.more.then(|| Pool::load(&raw)).transpose();
    let earlier = earlier.map_err(Error::of_named_file)?;
    let workers = Workers::of(&config.build, [&arguments.base]);
    let setup = arguments.model.setup_for_turns(config, workers)?;
    let stop = interruptible("complete sessions are kept, `--more` continues")?;
    let (base, layouts) = binaries(arguments, config, stop)?;
    let known = earlier.as_ref().map_or(0, |pool| pool.environments.len());
    let plan = Plan {
        base,
        layouts,
        setup,
        words: arguments.scenarios.clone(),
        environments: (known..known + usize::from(arguments.sessions))
            .map(|number| Environment::quiet(&format!("session {}", number + 1)))
            .collect(),
        pause: arguments.pause,
        blocks: arguments.blocks.into(),
        rounds: arguments.quads,
        arms: Vec::new(),
        injected: 0,
        duet: false,
        seed: arguments.order_seed.wrapping_add(known as u64),
        path: raw,
        earlier,
    };
    let pool = pool::record(&plan, stop, &mut progress(&plan))?;
    let calibration = calibration(&pool, &policy);
    if calibration.floors.is_empty() {
        return Err(Error::Undecided(
            "every block was rejected; measure on a quieter machine".into(),
        )
        .into());
    }
    let (class, folder) = (&pool.machine.class, &arguments.baselines);
    let path = baseline::calibration_path(folder, class, &pool.model, &pool.settings);
    calibration.save(&path)?;
    out.write_all(report::calibration_text(&calibration).as_bytes())?;
    writeln!(std::io::stderr(), "calibration: {}", path.display())?;
    Ok(Exit::Pass)
}

fn binaries(
    arguments: &Arguments,
    config: &Config,
    stop: &AtomicBool,
) -> anyhow::Result<(Binary, Vec<(char, Binary)>)> {
    let instead = "run this in the repository that has the commit of `--base`";
    build(&config.build, arguments.target_dir.as_deref(), instead, stop, |builder| {
        let base = builder.commit(&arguments.base)?;
        let letters = LAYOUT_LETTERS.chars().take(arguments.layouts.into()).zip(1..);
        let layouts = letters
            .map(|(letter, seed)| Ok((letter, builder.shuffled(&arguments.base, seed)?)))
            .collect::<crate::Result<_>>()?;
        Ok((base, layouts))
    })
}

/// The calibration of a pool whose environments are sessions.
fn calibration(pool: &Pool, policy: &Policy) -> Calibration {
    let sitting = |session: &PoolEnvironment| CalibrationSession {
        id: session.name.clone(),
        started: session.started.clone().unwrap_or_default(),
        ended: session.ended.clone(),
    };
    let (spec, sha256, quant) = (&pool.model.spec, &pool.model.sha256, &pool.model.quant);
    let NoiseEstimates { layout_sd, session_sd, floors } = evaluate::calibrate(pool, policy.alpha);
    Calibration {
        schema: SCHEMA,
        kind: CalibrationKind::Calibration,
        machine: MachineId {
            class: pool.machine.class.clone(),
            fields: pool.machine.fields.clone(),
        },
        model: ModelId { spec: spec.clone(), sha256: sha256.clone(), quant: quant.clone() },
        commit: pool.build.commit.clone(),
        sessions: pool.environments.iter().map(sitting).collect(),
        layout_sd,
        session_sd,
        floors,
    }
}
