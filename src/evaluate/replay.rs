//! Virtual suites drawn from a pool, judged by every rule. A rule's answer depends only on where in the pool it begins to
//! look, so that each is computed once and a virtual run is a matter of looking it up.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::evaluate::field::Field;
use crate::evaluate::field::Suite;
use crate::evaluate::field::answers;
use crate::evaluate::figures::Figures;
use crate::evaluate::figures::Met;
use crate::evaluate::rules::Answer;
use crate::evaluate::rules::Rule;
use crate::evaluate::rules::Said;
use crate::record::pool::Column;
use crate::record::pool::Pool;
use crate::record::pool::Role;

/// Scenarios of a virtual suite: as many as the default suite has.
pub const SCENARIOS: usize = 20;

/// Version of the JSON form of an [`Evaluation`].
const SCHEMA: u32 = 1;

/// What to replay.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Virtual suites per environment and arm.
    pub runs: usize,
    /// All suites are drawn from it.
    pub seed: u64,
    /// By which rules.
    pub rules: Vec<&'static Rule>,
}

/// How often rules were right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Version of this form.
    pub schema: u32,
    /// Virtual suites per environment and arm.
    pub runs: usize,
    /// All suites were drawn from it.
    pub seed: u64,
    /// The machine's class, and the model.
    pub measured: [String; 2],
    /// Ids of the pool's scenarios.
    pub scenarios: Vec<String>,
    /// How many metrics a virtual suite judges together.
    pub judged: usize,
    /// Names of the rules, in the order of their table.
    pub rules: Vec<&'static str>,
    /// By rule and column: the mean over its environments.
    pub columns: BTreeMap<&'static str, BTreeMap<&'static str, Figures>>,
    /// The environments, each with figures by rule.
    pub environments: Vec<Place>,
    /// What is asked of our rule, beside what was found; empty when it was not replayed.
    pub targets: Vec<Met>,
}

/// One environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Under which heading it is reported.
    pub column: Column,
    /// What went on.
    pub about: String,
    /// Blocks that were measured. Suites are drawn from these few again and again: more of them are more evidence, more
    /// virtual runs are not.
    pub blocks: usize,
    /// Blocks among them that do not count.
    pub rejected: usize,
    /// Verdicts per arm that share no block: scenarios and metrics, each as often as the first look fits. This is how much
    /// independent evidence a share rests on.
    pub disjoint: usize,
    /// Standard deviation of what a block says of an unchanged program's decode, without outliers; `null` without a copy.
    pub spread: Option<f64>,
    /// Correlation of what neighbouring blocks say of it; the rules take blocks to be independent, which is 0.
    pub autocorrelation: Option<f64>,
    /// By rule.
    pub figures: BTreeMap<&'static str, Figures>,
}

/// Replays rules on a pool. Suites are drawn from one seed, the same for every rule and arm; threads share out the work and
/// change nothing.
///
/// # Errors
/// When an environment has too few blocks that count for the last look, or the pool has no metric that is judged.
pub fn evaluate(pool: &Pool, plan: &Plan) -> Result<Evaluation> {
    let fields = pool
        .environments
        .iter()
        .map(|environment| Field::new(pool, environment))
        .collect::<Result<Vec<_>>>()?;
    let most = fields.iter().flat_map(|field| &field.cases).map(|case| case.series.len()).max();
    let judged = SCENARIOS * most.unwrap_or(0);
    if judged == 0 {
        return Err(Error::Failed("the pool has no metric that is judged".into()));
    }
    let draws: Vec<Vec<Suite>> = (0..fields.len())
        .map(|at| fields[at].draw(plan.runs, plan.seed.wrapping_add(at as u64)))
        .collect();
    let jobs: Vec<(usize, &'static Rule)> =
        (0..fields.len()).flat_map(|at| plan.rules.iter().map(move |rule| (at, *rule))).collect();
    let figures = in_parallel(&jobs, |(at, rule)| fields[*at].figures(&draws[*at], rule, judged));

    let mut environments: Vec<Place> = fields.iter().map(Field::place).collect();
    for ((at, rule), figures) in jobs.iter().zip(figures) {
        environments[*at].figures.insert(rule.name, figures);
    }
    let mut columns: BTreeMap<&str, BTreeMap<&str, Figures>> = BTreeMap::new();
    for rule in &plan.rules {
        for column in Column::ALL {
            let places = environments.iter().filter(|place| place.column == column);
            let of: Vec<&Figures> = places.map(|place| &place.figures[rule.name]).collect();
            if !of.is_empty() {
                let mean = Figures::mean(&of);
                columns.entry(rule.name).or_default().insert(column.name(), mean);
            }
        }
    }
    let targets = columns
        .get("ours")
        .map_or(Vec::new(), |ours| Met::all(|column| ours.get(column.name()).cloned()));
    Ok(Evaluation {
        schema: SCHEMA,
        runs: plan.runs,
        seed: plan.seed,
        measured: [pool.machine.class.clone(), pool.model.spec.clone()],
        scenarios: pool.scenarios.iter().map(|case| case.id.clone()).collect(),
        judged,
        rules: plan.rules.iter().map(|rule| rule.name).collect(),
        columns,
        environments,
        targets,
    })
}

/// What `work` makes of each job, in the order of the jobs, on as many threads as there are CPUs.
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

/// Arms that have figures of their own: how often they are called regressed, and how often they pass.
const SLOWER: [(Role, &str, Option<&str>); 7] = [
    (Role::Decode(0.03), "detect_3", Some("pass_3")),
    (Role::Decode(0.05), "detect_5", Some("pass_5")),
    (Role::Decode(0.075), "detect_7_5", Some("pass_7_5")),
    (Role::Decode(0.10), "detect_10", None),
    (Role::Decode(0.20), "detect_20", None),
    (Role::Ttft(0.20), "detect_ttft_20", None),
    (Role::Memory(0.20), "detect_memory_20", None),
];

impl Field<'_> {
    fn figures(&self, suites: &[Suite], rule: &Rule, judged: usize) -> Figures {
        let mut figures = Figures::default();
        let mut known = Tally::default();
        for (arm, role) in &self.arms {
            let tally = self.tally(suites, rule, *arm, *role, judged);
            if tally.metrics == 0 {
                continue;
            }
            let share = |count: usize| Some(count as f64 / tally.metrics as f64);
            let suite = |count: usize| Some(count as f64 / suites.len() as f64);
            match *role {
                Role::Base => {}
                Role::Copy => {
                    figures.set("false_alarm", share(tally.regressed));
                    figures.set("suite_false_alarm", suite(tally.alarms));
                    figures.set("pass_unchanged", share(tally.passed));
                    figures.set("suite_pass_unchanged", suite(tally.clean));
                    figures.set("inconclusive", share(tally.undecided));
                    figures.set("blocks", share(tally.blocks));
                    figures.set("seconds", Some(tally.seconds / suites.len() as f64));
                }
                Role::Layout => {
                    figures.set("false_alarm_layout", share(tally.regressed));
                    figures.set("suite_false_alarm_layout", suite(tally.alarms));
                }
                Role::Decode(_) | Role::Ttft(_) | Role::Memory(_) => {
                    let slower = SLOWER.iter().find(|(slower, ..)| slower == role);
                    if let Some((_, detect, pass)) = slower {
                        figures.set(detect, share(tally.regressed));
                        pass.iter().for_each(|pass| figures.set(pass, share(tally.passed)));
                    }
                }
            }
            // What is true of another layout is not known, and a derived arm is its copy once more.
            if *role != Role::Layout && !self.derived.contains(arm) {
                known.add(&tally);
            }
        }
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        figures.set("coverage", mean(known.covered as f64, known.intervals));
        figures.set("bias", mean(known.error, known.estimates));
        figures.detectable();
        figures
    }

    /// Judges base against one arm in every suite.
    fn tally(&self, suites: &[Suite], rule: &Rule, arm: char, role: Role, judged: usize) -> Tally {
        let answers: Vec<Vec<(f64, Vec<Answer>)>> = self
            .cases
            .iter()
            .map(|case| {
                let of = case.series.iter().filter_map(|(metric, arms)| {
                    let answers = answers(arms.get(&arm)?, metric, rule, judged);
                    Some((role.theta(metric.kind()), answers))
                });
                of.collect()
            })
            .collect();
        let mut tally = Tally::default();
        for suite in suites {
            let before = tally.clone();
            let mut longest = 0;
            for (case, start) in suite {
                let mut blocks = 0;
                for (theta, answers) in &answers[*case] {
                    tally.count(&answers[*start], *theta);
                    blocks = blocks.max(answers[*start].blocks);
                }
                let elapsed_s = &self.cases[*case].elapsed_s;
                tally.seconds += elapsed_s[start + blocks] - elapsed_s[*start];
                longest = longest.max(blocks);
            }
            tally.seconds += self.load_s * longest as f64;
            tally.alarms += usize::from(tally.regressed > before.regressed);
            let (passed, metrics) = (tally.passed - before.passed, tally.metrics - before.metrics);
            tally.clean += usize::from(passed == metrics);
        }
        tally
    }
}

/// What was said, counted.
#[derive(Debug, Clone, Default)]
struct Tally {
    metrics: usize,
    regressed: usize,
    passed: usize,
    undecided: usize,
    /// Suites with any metric called regressed.
    alarms: usize,
    /// Suites of which every metric passes.
    clean: usize,
    intervals: usize,
    covered: usize,
    estimates: usize,
    /// Sum of estimated less true θ.
    error: f64,
    blocks: usize,
    seconds: f64,
}

impl Tally {
    fn count(&mut self, answer: &Answer, theta: f64) {
        self.metrics += 1;
        match answer.said {
            Said::Regressed => self.regressed += 1,
            Said::Pass => self.passed += 1,
            Said::Undecided => self.undecided += 1,
        }
        if let Some(interval) = answer.interval {
            self.intervals += 1;
            self.covered += usize::from(interval.lo <= theta && theta <= interval.hi);
        }
        if let Some(estimate) = answer.theta {
            self.estimates += 1;
            self.error += estimate - theta;
        }
        self.blocks += answer.blocks;
    }

    fn add(&mut self, other: &Self) {
        self.intervals += other.intervals;
        self.covered += other.covered;
        self.estimates += other.estimates;
        self.error += other.error;
    }
}
