//! Replays rules on pools and collects the figures by pool, environment and column.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluate::environment::{EnvironmentData, VirtualSuite, autocorrelation, robust_sd};
use crate::evaluate::figures::{Figures, GateTargetResult, SUITE_SCENARIOS};
use crate::evaluate::replay::replay;
use crate::evaluate::rules::Rule;
use crate::record::pool::{NoiseLevel, Pool, PoolEnvironment};

/// Version of the JSON form of an [`Evaluation`].
const SCHEMA: u32 = 2;

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayPlan {
    /// Virtual suites per environment and arm.
    pub runs: usize,
    /// Seed from which all suites are drawn.
    pub seed: u64,
    /// The rules to replay.
    pub rules: Vec<&'static Rule>,
}

/// How often rules were right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    pub(crate) schema: u32,
    /// Virtual suites per environment and arm.
    pub(crate) runs: usize,
    /// Seed from which all suites were drawn.
    pub(crate) seed: u64,
    /// The pools, in the order given.
    pub(crate) pools: Vec<PoolResult>,
    /// How many metrics a virtual suite judges together.
    pub(crate) judged: usize,
    /// Names of the rules, in the order of their table.
    pub(crate) rules: Vec<&'static str>,
    /// By rule and column: the mean over its environments in all pools.
    pub(crate) columns: Columns,
    /// The environments, each with figures by rule.
    pub(crate) environments: Vec<EnvironmentResult>,
    /// The targets of this gate and their status; empty when its rule was not replayed.
    pub(crate) targets: Vec<GateTargetResult>,
}

/// By rule and column.
pub(crate) type Columns = BTreeMap<&'static str, BTreeMap<&'static str, Figures>>;

/// Where a pool was recorded, and its own figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PoolResult {
    /// The machine's class.
    pub(crate) machine: String,
    /// Vendor, family and model of the CPU, which tell generations apart.
    pub(crate) cpu: String,
    pub(crate) model: String,
    pub(crate) scenarios: Vec<String>,
    /// By rule and column: the mean over this pool's environments.
    pub(crate) columns: Columns,
}

/// One environment and its figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EnvironmentResult {
    /// Index of its pool.
    pub(crate) pool: usize,
    pub(crate) name: String,
    /// The column that reports it.
    pub(crate) column: NoiseLevel,
    /// What else ran.
    pub(crate) about: String,
    /// Blocks measured. Suites are drawn from these: more blocks are more evidence, more virtual
    /// suites are not.
    pub(crate) blocks: usize,
    /// Blocks among them that were rejected.
    pub(crate) rejected: usize,
    /// Robust standard deviation of the decode block effects of an unchanged program; `null`
    /// without a copy.
    pub(crate) spread: Option<f64>,
    /// Lag-1 autocorrelation of these block effects; the rules assume independent blocks, for which
    /// it is 0.
    pub(crate) autocorrelation: Option<f64>,
    pub(crate) figures: BTreeMap<&'static str, Figures>,
}

/// Replays rules on pools. Suites are drawn from one seed, the same for every rule and arm, so that
/// the number of threads changes nothing.
///
/// # Errors
/// When there is no pool, an environment has too few accepted blocks, or no metric is judged.
pub fn evaluate(pools: &[Pool], plan: &ReplayPlan) -> Result<Evaluation> {
    let mut data = Vec::new();
    for (number, pool) in pools.iter().enumerate() {
        for environment in &pool.environments {
            data.push(EnvironmentData::new(number, pool, environment)?);
        }
    }
    let most = data.iter().flat_map(|one| &one.cases).map(|case| case.series.len()).max();
    let judged = SUITE_SCENARIOS * most.unwrap_or(0);
    if judged == 0 {
        return Err(Error::Usage("the pools have no metric with a limit to judge".into()));
    }
    let suites: Vec<Vec<VirtualSuite>> = (0..data.len())
        .map(|at| data[at].draw_suites(plan.runs, plan.seed.wrapping_add(at as u64)))
        .collect();
    let jobs: Vec<(usize, &'static Rule)> =
        (0..data.len()).flat_map(|at| plan.rules.iter().map(move |rule| (at, *rule))).collect();
    let figures =
        in_parallel(&jobs, |(at, rule)| replay(&data[*at], &suites[*at], rule, judged, plan.seed));

    let mut environments: Vec<EnvironmentResult> = data.iter().map(EnvironmentResult::of).collect();
    for ((at, rule), figures) in jobs.iter().zip(figures) {
        environments[*at].figures.insert(rule.name, figures);
    }
    let columns = column_means(&environments, &plan.rules);
    let targets = columns.get("ours").map_or(Vec::new(), |gate| {
        GateTargetResult::all(|column| gate.get(column.name()).cloned())
    });
    let pool_results = pools.iter().enumerate().map(|(number, pool)| {
        let own = environments.iter().filter(|one| one.pool == number).cloned();
        PoolResult::new(pool, column_means(&own.collect::<Vec<_>>(), &plan.rules))
    });
    Ok(Evaluation {
        schema: SCHEMA,
        runs: plan.runs,
        seed: plan.seed,
        pools: pool_results.collect(),
        judged,
        rules: plan.rules.iter().map(|rule| rule.name).collect(),
        columns,
        environments,
        targets,
    })
}

impl PoolResult {
    fn new(pool: &Pool, columns: Columns) -> Self {
        let field = |name: &str| pool.machine.fields.get(name);
        let cpu = match ["cpu_vendor", "cpu_family", "cpu_model"].map(field) {
            [Some(vendor), Some(family), Some(model)] => {
                format!("{vendor} family {family} model {model}")
            }
            _ => "unknown CPU".into(),
        };
        Self {
            machine: pool.machine.class.clone(),
            cpu,
            model: pool.model.spec.clone(),
            scenarios: pool.scenarios.iter().map(|case| case.id.clone()).collect(),
            columns,
        }
    }
}

impl EnvironmentResult {
    /// Without figures yet.
    fn of(data: &EnvironmentData) -> Self {
        let PoolEnvironment { name, noise, about, blocks, .. } = data.recorded;
        Self {
            pool: data.pool,
            name: name.clone(),
            column: *noise,
            about: about.clone(),
            blocks: blocks.len(),
            rejected: blocks.iter().filter(|block| block.rejected.is_some()).count(),
            spread: data.copy_statistic(robust_sd),
            autocorrelation: data.copy_statistic(autocorrelation),
            figures: BTreeMap::new(),
        }
    }
}

/// The mean over the environments of each column.
fn column_means(environments: &[EnvironmentResult], rules: &[&'static Rule]) -> Columns {
    let mut columns = Columns::new();
    for rule in rules {
        for column in NoiseLevel::ALL {
            let own = environments.iter().filter(|one| one.column == column);
            let figures: Vec<&Figures> = own.map(|one| &one.figures[rule.name]).collect();
            if !figures.is_empty() {
                let mean = Figures::mean(&figures);
                columns.entry(rule.name).or_default().insert(column.name(), mean);
            }
        }
    }
    columns
}

/// Runs `work` on each job, on as many threads as there are CPUs; the results in the order of the
/// jobs.
fn in_parallel<J: Sync, T: Send>(jobs: &[J], work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { return done };
            done.push((at, work(job)));
        }
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no rule panics")).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
