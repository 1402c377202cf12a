//! Records a pool: blocks of many arms in several environments, on which detection rules are
//! replayed. All arms that are slowed down on purpose share one more process of the base's binary,
//! so a block of all arms costs four processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::machine::ReferenceKernels;
use crate::pair::arms::{arms_folder, copy_binaries};
use crate::pair::block::BlockMeter;
use crate::pair::build::Binary;
use crate::pair::cpu_quota::CpuQuota;
use crate::pair::interference::run_with_interference;
use crate::pair::turns::{Duet, NoTurns, Turn, Workers, draw_orders};
use crate::pair::worker::{Deadline, Worker};
use crate::record::pair::PairBlock;
use crate::record::pool::{
    Pool, PoolArm, PoolBlock, PoolCase, PoolEnvironment, PoolKind, PoolTurns, Role, SCHEMA, arms,
};
use crate::settings::Setup;
use crate::suite::turns::{Hello, PROTOCOL};
use crate::workload::metric;
use crate::{files, machine};

pub use crate::pair::interference::{Environment, environments};

/// What to record.
pub struct Plan {
    /// The base; every arm except the layouts runs a copy of it.
    pub base: Binary,
    /// The base's source in other code layouts, by letter.
    pub layouts: Vec<(char, Binary)>,
    /// How to run the model.
    pub setup: Setup,
    /// Arguments that select scenarios.
    pub words: Vec<String>,
    /// The environments, one after another.
    pub environments: Vec<Environment>,
    /// How long to wait between environments.
    pub pause: Duration,
    /// Blocks per environment.
    pub blocks: usize,
    /// Rounds per block and scenario.
    pub rounds: usize,
    /// Letters of the arms that are slowed down on purpose.
    pub arms: Vec<char>,
    /// How many of those have turns in each block; they rotate from block to block.
    pub injected: usize,
    /// Duet: whether turns of two arms run at the same time, each on half of the CPUs (Bulej et al.
    /// 2020).
    pub duet: bool,
    /// Seed of all random orders.
    pub seed: u64,
    /// Where the pool is written after every environment.
    pub path: PathBuf,
    /// A pool whose environments come before the new ones.
    pub earlier: Option<Pool>,
}

/// The metric that an arm is slowed down in, and by how much.
fn slowdown(role: Role) -> Option<(&'static str, f64)> {
    match role {
        Role::Base | Role::Copy | Role::Layout => None,
        Role::Decode(share) => Some(("decode", share)),
        Role::Ttft(share) => Some(("ttft", share)),
        Role::Memory(share) => Some(("memory", share)),
    }
}

/// Records a pool. `on_block` is called for every block: environment, number from 1, seconds so
/// far.
///
/// # Errors
/// When an arm is unknown, a worker fails, the file cannot be written, or `stop` is set. Complete
/// environments are on disk then.
pub fn record(
    plan: &Plan,
    stop: &AtomicBool,
    on_block: &mut dyn FnMut(&str, usize, f64),
) -> Result<Pool> {
    check_arms(&plan.arms)?;
    let (_guard, folder) = arms_folder(&plan.path)?;
    let mut binaries = vec![('A', &plan.base), ('N', &plan.base)];
    if !plan.arms.is_empty() {
        binaries.push((SLOWED, &plan.base));
    }
    binaries.extend(plan.layouts.iter().map(|(letter, built)| (*letter, built)));
    let binaries = copy_binaries(&binaries, &folder)?;
    let injection = |role: Role| {
        let (metric, share) = slowdown(role)?;
        Some(format!("{metric}:{}%", (share * 1000.0).round() / 10.0))
    };
    let layouts = plan.layouts.iter().map(|(letter, built)| PoolArm {
        letter: *letter,
        // Only the file name of a binary that was given.
        about: format!("another layout: {}", built.asked.rsplit('/').next().unwrap_or_default()),
        role: Role::Layout,
        injected: None,
    });
    let arms: Vec<PoolArm> = arms()
        .into_iter()
        .filter(|arm| match arm.role {
            Role::Base | Role::Copy => true,
            Role::Layout => false,
            _ => plan.arms.contains(&arm.letter),
        })
        .map(|arm| PoolArm { injected: injection(arm.role), ..arm })
        .chain(layouts)
        .collect();
    let duet = plan.duet.then(Duet::new).transpose()?;
    let mut recorder = Recorder {
        plan,
        deadline: Deadline { stop, timeout: Duration::from_secs(3600) },
        binaries,
        arms,
        hello: Hello {
            protocol: PROTOCOL,
            setup: plan.setup.clone(),
            words: plan.words.clone(),
            session: machine::session_id(plan.base.commit.as_deref()),
            injection: None,
            identify: false,
        },
        random: StdRng::seed_from_u64(plan.seed),
        next: 0,
        duet: duet.as_ref(),
        quota: None,
        kernels: ReferenceKernels::new(plan.setup.threads)?,
    };
    let mut pool = recorder.begin()?;
    if let Some(earlier) = &plan.earlier {
        take_over(&mut pool, earlier)?;
    }
    let outcome = recorder.environments(&mut pool, on_block);
    if files::is_stream(&plan.path) && !pool.environments.is_empty() {
        pool.save(&plan.path)?;
    }
    outcome.map(|()| pool)
}

/// Checks that there are arms with these letters.
///
/// # Errors
/// When one of them is unknown.
pub(crate) fn check_arms(letters: &[char]) -> Result<()> {
    let known: Vec<String> = arms().iter().map(|arm| arm.letter.to_string()).collect();
    let mut letters = letters.iter().map(char::to_string);
    match letters.find(|letter| !known.contains(letter)) {
        Some(letter) => Err(Error::unknown("arm", &letter, known.iter().map(String::as_str))),
        None => Ok(()),
    }
}

/// Waits, unless `stop` is set.
fn wait(time: Duration, stop: &AtomicBool) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
    Ok(())
}

/// Takes over the environments of an earlier pool of the same arms.
fn take_over(pool: &mut Pool, earlier: &Pool) -> Result<()> {
    let scenarios = |pool: &Pool| {
        pool.scenarios.iter().map(|case| case.id.clone()).collect::<Vec<_>>().join(" ")
    };
    let arms =
        |pool: &Pool| pool.arms.iter().map(|arm| arm.about.clone()).collect::<Vec<_>>().join(", ");
    let commit = |pool: &Pool| pool.build.commit.clone().unwrap_or_else(|| "unknown".into());
    let settings = |pool: &Pool| {
        let (settings, model) = (&pool.settings, &pool.model);
        let generation = serde_json::to_string(&settings.generation).expect("plain data");
        format!("{} {} {} threads {generation}", settings.engine, model.quant, settings.threads)
    };
    for (what, old, new) in [
        ("machine class", earlier.machine.class.clone(), pool.machine.class.clone()),
        ("model", earlier.model.sha256.clone(), pool.model.sha256.clone()),
        ("commit", commit(earlier), commit(pool)),
        ("settings", settings(earlier), settings(pool)),
        ("scenarios", scenarios(earlier), scenarios(pool)),
        ("arms", arms(earlier), arms(pool)),
    ] {
        if old != new {
            return Err(Error::NotComparable(format!(
                "the {what} of the earlier sessions: `{old}`, now: `{new}`; leave out `--more` to \
                 start a new pool, or give `--base` that commit"
            )));
        }
    }
    pool.started.clone_from(&earlier.started);
    pool.environments.clone_from(&earlier.environments);
    for (case, known) in pool.scenarios.iter_mut().zip(&earlier.scenarios) {
        case.work.clone_from(&known.work);
    }
    Ok(())
}

/// The process of all arms that are slowed down on purpose.
const SLOWED: char = 'B';

struct Recorder<'a> {
    plan: &'a Plan,
    deadline: Deadline<'a>,
    binaries: BTreeMap<char, PathBuf>,
    arms: Vec<PoolArm>,
    /// The first request to every worker.
    hello: Hello,
    random: StdRng,
    /// Which of the injected arms is next.
    next: usize,
    /// Set if turns of two arms run at the same time.
    duet: Option<&'a Duet>,
    /// The CPU quota of the workers.
    quota: Option<CpuQuota>,
    /// The reference kernels; `None` where there is no memory for them.
    kernels: Option<ReferenceKernels>,
}

impl Recorder<'_> {
    /// Records the environments, and writes the pool after each unless the output is a stream.
    fn environments(
        &mut self,
        pool: &mut Pool,
        on_block: &mut dyn FnMut(&str, usize, f64),
    ) -> Result<()> {
        let plan = self.plan;
        let began = Instant::now();
        for (at, environment) in plan.environments.iter().enumerate() {
            if at > 0 {
                wait(plan.pause, self.deadline.stop)?;
            }
            let started = Some(machine::now());
            let progress = AtomicUsize::new(0);
            self.quota = environment.quota()?;
            let method = self.quota.as_ref().map(|quota| format!(", {}", quota.method()));
            let blocks = run_with_interference(environment, plan.seed, &progress, || {
                (0..plan.blocks)
                    .map(|number| {
                        progress.store(1000 * number / plan.blocks, Ordering::Relaxed);
                        on_block(&environment.name, number + 1, began.elapsed().as_secs_f64());
                        self.block(&mut pool.scenarios)
                    })
                    .collect::<Result<Vec<_>>>()
            })?;
            pool.environments.push(PoolEnvironment {
                name: environment.name.clone(),
                noise: environment.noise,
                about: environment.about.to_owned() + &method.unwrap_or_default(),
                started,
                ended: Some(machine::now()),
                blocks,
            });
            if !files::is_stream(&plan.path) {
                pool.save(&plan.path)?;
            }
        }
        Ok(())
    }

    fn start(&self, process: char, hello: &Hello) -> Result<Worker> {
        let worker = Worker::start(&self.binaries[&process], hello, &self.deadline)?;
        if let Some(quota) = &self.quota {
            let what = PathBuf::from("the control group of the workers");
            quota.limit(worker.process()).map_err(|source| Error::Write { path: what, source })?;
        }
        Ok(worker)
    }

    /// A pool without blocks.
    fn begin(&mut self) -> Result<Pool> {
        let request = Hello { identify: true, ..self.hello.clone() };
        let mut hello = self.start('A', &request)?.hello.clone();
        if let Some(why) = hello.unsupported {
            return Err(Error::Unsupported(why));
        }
        if hello.build.is_unoptimized() {
            return Err(Error::Failed("the base is an unoptimized build".into()));
        }
        if hello.model.sha256.is_empty() {
            // A worker of an earlier version, or in another language.
            hello.model.sha256 = crate::engine::identify(&self.plan.setup, &mut ())?.sha256;
        }
        let mut build = hello.build;
        self.plan.base.stamp(&mut build);
        let case = |id: String| PoolCase { id, ..PoolCase::default() };
        Ok(Pool {
            schema: SCHEMA,
            kind: PoolKind::Pool,
            started: machine::now(),
            seed: self.plan.seed,
            machine: machine::fingerprint(self.plan.setup.threads, &self.plan.setup.device),
            build,
            model: hello.model,
            settings: hello.settings,
            duet: self.plan.duet,
            arms: self.arms.clone(),
            scenarios: hello.scenarios.into_iter().map(case).collect(),
            environments: Vec::new(),
        })
    }

    /// The letters that have turns in this block.
    fn letters(&mut self) -> Vec<char> {
        let of = |is: fn(&Role) -> bool| -> Vec<char> {
            self.arms.iter().filter(|arm| is(&arm.role)).map(|arm| arm.letter).collect()
        };
        let injected = of(|role| matches!(role, Role::Decode(_) | Role::Ttft(_)));
        let mut letters = of(|role| matches!(role, Role::Base | Role::Copy | Role::Layout));
        for _ in 0..self.plan.injected.min(injected.len()) {
            letters.push(injected[self.next % injected.len()]);
            self.next += 1;
        }
        letters
    }

    fn block(&mut self, cases: &mut [PoolCase]) -> Result<PoolBlock> {
        let meter = BlockMeter::begin(self.kernels.as_ref())?;
        let mut letters: Vec<char> = self.binaries.keys().copied().collect();
        letters.shuffle(&mut self.random);
        let mut processes = BTreeMap::new();
        for process in letters {
            processes.insert(process, self.start(process, &self.hello)?);
        }
        let mut workers = Workers { processes, deadline: self.deadline, duet: self.duet };
        let load_s = meter.seconds();
        let letters = self.letters();
        let mut order: Vec<usize> = (0..cases.len()).collect();
        order.shuffle(&mut self.random);
        let mut scenarios = vec![PoolTurns::default(); cases.len()];
        for at in order {
            let turns = self.turns(&mut cases[at], &letters, &mut workers);
            scenarios[at] = turns.map_err(|why| match *why {
                NoTurns::Cannot(_, absent) => Error::Failed(absent.to_string()),
                NoTurns::Failed(_, error) => error,
            })?;
        }
        if let Some(quota) = &self.quota {
            quota.release();
        }
        drop(workers);
        let PairBlock { steal, references, rejected, .. } =
            meter.end(self.kernels.as_ref(), PairBlock::default())?;
        Ok(PoolBlock { load_s, steal, references, rejected, scenarios })
    }

    fn turns(
        &mut self,
        case: &mut PoolCase,
        letters: &[char],
        workers: &mut Workers,
    ) -> std::result::Result<PoolTurns, Box<NoTurns>> {
        let mut turns = PoolTurns::default();
        let processes: Vec<char> = self.binaries.keys().copied().collect();
        let began = Instant::now();
        for &process in &processes {
            workers.warm_up(process, &case.id)?;
        }
        turns.warm_up_s = began.elapsed().as_secs_f64();
        let began = Instant::now();
        for _ in 0..self.plan.rounds {
            for arms in draw_orders(letters, self.duet.is_some(), &mut self.random) {
                let mut round = workers.round(&arms, |letter| self.turn(letter), |_, _| {})?;
                round.values.remove(metric::E2E_S);
                turns.rounds.push(round);
            }
        }
        turns.turns_s = began.elapsed().as_secs_f64();
        let memory = self.arms.iter().find(|arm| matches!(arm.role, Role::Memory(_)));
        for &process in &processes {
            // Memory is read once per process, so the process of the slowed turns is also the
            // memory arm.
            let (letter, injection) = match (process, memory) {
                (SLOWED, Some(arm)) => (arm.letter, arm.injected.clone()),
                (SLOWED, None) => continue,
                (process, _) => (process, None),
            };
            let done = workers.finish(process, injection)?;
            if !done.validity.ok() {
                let why = format!("`{}` is INVALID: {}", case.id, done.validity.failed.join("; "));
                return Err(Box::new(NoTurns::Failed(letter, Error::Failed(why))));
            }
            let peak = done.blocks.first().and_then(|block| block.value(metric::PEAK_RSS_BYTES));
            if let Some(bytes) = peak {
                let peaks = turns.once.entry(metric::PEAK_RSS_BYTES.into()).or_default();
                peaks.insert(letter, bytes);
            }
            case.work = done.work;
        }
        Ok(turns)
    }

    fn turn(&self, letter: char) -> Turn {
        let arm = self.arms.iter().find(|arm| arm.letter == letter);
        let arm = arm.expect("letters are those of arms");
        let process = if slowdown(arm.role).is_some() { SLOWED } else { letter };
        Turn { arm: letter, process, injection: arm.injected.clone() }
    }
}
