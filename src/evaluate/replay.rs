//! Virtual suites drawn from a pool, judged by every rule. A rule's answer depends only on where in
//! the pool it begins to look, so that each is computed once and a virtual run is a matter of
//! looking it up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluate::field::{Field, Series, Suite, views};
use crate::evaluate::figures::{Figures, Met};
use crate::evaluate::ours::Window;
use crate::evaluate::rules::{Answer, Decide, Rule, Said};
use crate::record::pool::{NoiseLevel, Pool, Role};
use crate::stats::Random;
use crate::workload::Metric;

/// Scenarios of a virtual suite: as many as the default suite has.
pub const SCENARIOS: usize = 20;

/// Version of the JSON form of an [`Evaluation`].
const SCHEMA: u32 = 2;

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
    /// The pools, in the order given.
    pub pools: Vec<Measured>,
    /// How many metrics a virtual suite judges together.
    pub judged: usize,
    /// Names of the rules, in the order of their table.
    pub rules: Vec<&'static str>,
    /// By rule and column: the mean over its environments in all pools.
    pub columns: Columns,
    /// The environments, each with figures by rule.
    pub environments: Vec<Place>,
    /// What is asked of our rule, beside what was found; empty when it was not replayed.
    pub targets: Vec<Met>,
}

/// By rule and column.
pub type Columns = BTreeMap<&'static str, BTreeMap<&'static str, Figures>>;

/// Where a pool was recorded, and what is said of it alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The machine's class.
    pub machine: String,
    /// Vendor, family and model of the CPU, which tell generations apart.
    pub cpu: String,
    /// The model.
    pub model: String,
    /// Ids of the scenarios.
    pub scenarios: Vec<String>,
    /// By rule and column: the mean over this pool's environments.
    pub columns: Columns,
}

/// One environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Which of the pools it is of.
    pub pool: usize,
    /// Its name.
    pub name: String,
    /// Under which heading it is reported.
    pub column: NoiseLevel,
    /// What went on.
    pub about: String,
    /// Blocks that were measured. Suites are drawn from these few again and again: more of them
    /// are more evidence, more virtual runs are not.
    pub blocks: usize,
    /// Blocks among them that do not count.
    pub rejected: usize,
    /// Standard deviation of what a block says of an unchanged program's decode, without outliers;
    /// `null` without a copy.
    pub spread: Option<f64>,
    /// Correlation of what neighbouring blocks say of it; the rules take blocks to be independent,
    /// which is 0.
    pub autocorrelation: Option<f64>,
    /// By rule.
    pub figures: BTreeMap<&'static str, Figures>,
}

/// Replays rules on pools. Suites are drawn from one seed, the same for every rule and arm; threads
/// share out the work and change nothing.
///
/// # Errors
/// When there is no pool, an environment has too few blocks that count, or no metric is judged.
pub fn evaluate(pools: &[Pool], plan: &Plan) -> Result<Evaluation> {
    let mut fields = Vec::new();
    for (number, pool) in pools.iter().enumerate() {
        for environment in &pool.environments {
            fields.push(Field::new(number, pool, environment)?);
        }
    }
    let most = fields.iter().flat_map(|field| &field.cases).map(|case| case.series.len()).max();
    let judged = SCENARIOS * most.unwrap_or(0);
    if judged == 0 {
        return Err(Error::Usage("the pools have no metric that is judged".into()));
    }
    let draws: Vec<Vec<Suite>> = (0..fields.len())
        .map(|at| fields[at].draw(plan.runs, plan.seed.wrapping_add(at as u64)))
        .collect();
    let jobs: Vec<(usize, &'static Rule)> =
        (0..fields.len()).flat_map(|at| plan.rules.iter().map(move |rule| (at, *rule))).collect();
    let figures =
        in_parallel(&jobs, |(at, rule)| fields[*at].figures(&draws[*at], rule, judged, plan.seed));

    let mut environments: Vec<Place> = fields.iter().map(Field::place).collect();
    for ((at, rule), figures) in jobs.iter().zip(figures) {
        environments[*at].figures.insert(rule.name, figures);
    }
    let columns = columns(&environments, &plan.rules);
    let targets = columns
        .get("ours")
        .map_or(Vec::new(), |ours| Met::all(|column| ours.get(column.name()).cloned()));
    let measured = pools.iter().enumerate().map(|(number, pool)| {
        let own = environments.iter().filter(|place| place.pool == number).cloned();
        Measured::of(pool, self::columns(&own.collect::<Vec<_>>(), &plan.rules))
    });
    Ok(Evaluation {
        schema: SCHEMA,
        runs: plan.runs,
        seed: plan.seed,
        pools: measured.collect(),
        judged,
        rules: plan.rules.iter().map(|rule| rule.name).collect(),
        columns,
        environments,
        targets,
    })
}

impl Measured {
    fn of(pool: &Pool, columns: Columns) -> Self {
        let field = |name: &str| pool.machine.fields.get(name);
        let known = ["cpu_vendor", "cpu_family", "cpu_model"].map(field);
        let cpu = match known {
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

/// The mean over the environments of each column.
fn columns(environments: &[Place], rules: &[&'static Rule]) -> Columns {
    let mut columns = Columns::new();
    for rule in rules {
        for column in NoiseLevel::ALL {
            let places = environments.iter().filter(|place| place.column == column);
            let of: Vec<&Figures> = places.map(|place| &place.figures[rule.name]).collect();
            if !of.is_empty() {
                let mean = Figures::mean(&of);
                columns.entry(rule.name).or_default().insert(column.name(), mean);
            }
        }
    }
    columns
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

/// Arms that have figures of their own: how often they are called regressed, and how often they
/// pass.
const SLOWER: [(Role, &str, Option<&str>); 7] = [
    (Role::Decode(0.03), "detect_3", Some("pass_3")),
    (Role::Decode(0.05), "detect_5", Some("pass_5")),
    (Role::Decode(0.075), "detect_7_5", Some("pass_7_5")),
    (Role::Decode(0.10), "detect_10", None),
    (Role::Decode(0.20), "detect_20", None),
    (Role::Ttft(0.20), "detect_ttft_20", None),
    (Role::Memory(0.20), "detect_memory_20", None),
];

/// One of the counts of a tally.
type Count = fn(&Tally) -> usize;

impl Field<'_> {
    fn figures(&self, suites: &[Suite], rule: &Rule, judged: usize, seed: u64) -> Figures {
        let mut figures = Figures::default();
        let mut known = Tally::default();
        let mut known_apart = Tally::default();
        for (arm, role) in &self.arms {
            let ready = Ready::new(self, rule, *arm, *role, judged);
            let tally = self.tally(suites, &ready);
            if tally.metrics == 0 {
                continue;
            }
            let apart = self.apart(&ready, seed);
            let share = |count: usize| Some(count as f64 / tally.metrics as f64);
            let suite = |count: usize| Some(count as f64 / suites.len() as f64);
            let mut rate = |name, of: Count| {
                figures.set(name, share(of(&tally)));
                figures.rest(name, of(&apart), apart.metrics);
            };
            let (regressed, passed): (Count, Count) =
                (|tally| tally.regressed, |tally| tally.passed);
            match *role {
                Role::Base => {}
                Role::Copy => {
                    rate("false_alarm", regressed);
                    rate("pass_unchanged", passed);
                    rate("inconclusive", |tally| tally.undecided);
                    figures.set("suite_false_alarm", suite(tally.alarms));
                    figures.rest("suite_false_alarm", apart.alarms, apart.scenarios);
                    figures.set("suite_pass_unchanged", suite(tally.clean));
                    figures.set("blocks", share(tally.blocks));
                    figures.set("seconds", Some(tally.seconds / suites.len() as f64));
                }
                Role::Layout => {
                    rate("false_alarm_layout", regressed);
                    figures.set("suite_false_alarm_layout", suite(tally.alarms));
                    figures.rest("suite_false_alarm_layout", apart.alarms, apart.scenarios);
                }
                Role::Decode(_) | Role::Ttft(_) | Role::Memory(_) => {
                    let slower = SLOWER.iter().find(|(slower, ..)| slower == role);
                    if let Some((_, detect, pass)) = slower {
                        rate(detect, regressed);
                        pass.iter().for_each(|pass| rate(pass, passed));
                    }
                }
            }
            // What is true of another layout is not known, and a derived arm is its copy once more.
            if *role != Role::Layout && !self.derived.contains(arm) {
                known.add(&tally);
                known_apart.add(&apart);
            }
        }
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        figures.set("coverage", mean(known.covered as f64, known.intervals));
        figures.rest("coverage", known_apart.covered, known_apart.intervals);
        figures.set("bias", mean(known.error, known.estimates));
        figures.detectable();
        figures
    }

    /// Judges base against one arm in every suite.
    fn tally(&self, suites: &[Suite], ready: &Ready) -> Tally {
        let mut tally = Tally::default();
        for suite in suites {
            let mut one = Tally::default();
            let mut longest = 0;
            for ((case, start), answers) in suite.iter().zip(ready.answers(suite)) {
                answers.iter().for_each(|(theta, answer)| one.count(answer, *theta));
                let blocks = answers.iter().map(|(_, answer)| answer.blocks).max().unwrap_or(0);
                let elapsed_s = &self.cases[*case].elapsed_s;
                one.seconds += elapsed_s[start + blocks] - elapsed_s[*start];
                longest = longest.max(blocks);
            }
            one.seconds += self.load_s * longest as f64;
            one.alarms = usize::from(one.regressed > 0);
            one.clean = usize::from(one.passed == one.metrics);
            tally.take(&one);
        }
        tally
    }

    /// Judges base against one arm in every scenario again and again, each time on blocks that no
    /// earlier verdict on it rests on. The rest of the suite is drawn as in any other; it is
    /// what the scenarios are judged together with.
    fn apart(&self, ready: &Ready, seed: u64) -> Tally {
        let mut random = Random::new(seed ^ 0xd15_501);
        let mut tally = Tally::default();
        let mut next: Vec<(usize, usize)> = (0..self.cases.len()).map(|case| (case, 0)).collect();
        while !next.is_empty() {
            let mut suite = next.clone();
            suite.truncate(SCENARIOS);
            let own = suite.len();
            suite.extend((own..SCENARIOS).map(|_| self.entry(&mut random)));
            let answers = ready.answers(&suite);
            let mut left = next.split_off(own);
            for ((case, start), answers) in next.into_iter().zip(&answers) {
                let blocks = answers.iter().map(|(_, answer)| answer.blocks).max().unwrap_or(0);
                if blocks == 0 || start + blocks > self.blocks() {
                    continue;
                }
                let mut one = Tally::default();
                answers.iter().for_each(|(theta, answer)| one.count(answer, *theta));
                one.alarms = usize::from(one.regressed > 0);
                one.clean = usize::from(one.passed == one.metrics);
                tally.take(&one);
                tally.scenarios += 1;
                left.push((case, start + blocks));
            }
            next = left.into_iter().filter(|(_, start)| *start < self.blocks()).collect();
        }
        tally
    }
}

/// A rule that is ready to judge base against one arm, from every block on.
struct Ready<'a> {
    rule: &'a Rule,
    judged: usize,
    /// By case, and then by metric.
    cases: Vec<Vec<Prepared<'a>>>,
}

/// One metric of one case: its true change, and by the block that a verdict begins with what it
/// rests on.
struct Prepared<'a> {
    metric: &'static Metric,
    theta: f64,
    from: From<'a>,
}

enum From<'a> {
    /// The verdict itself, where a metric is judged alone.
    Answers(Vec<Answer>),
    /// What a verdict on several metrics together rests on.
    Windows(Vec<Window<'a>>),
}

impl<'a> Ready<'a> {
    fn new(field: &'a Field, rule: &'a Rule, arm: char, role: Role, judged: usize) -> Self {
        let prepared = |(metric, arms): &'a (&'static Metric, BTreeMap<char, Series>)| {
            let views = views(arms.get(&arm)?, metric);
            let from = match &rule.decide {
                Decide::Alone(decide) => From::Answers(views.map(|view| decide(&view)).collect()),
                Decide::Together(ours) => {
                    From::Windows(views.map(|view| ours.window(view)).collect())
                }
            };
            Some(Prepared { metric, theta: role.theta(metric.kind()), from })
        };
        let cases =
            field.cases.iter().map(|case| case.series.iter().filter_map(prepared).collect());
        Self { rule, judged, cases: cases.collect() }
    }

    /// What is said of a suite: for every scenario the metrics' true changes and answers.
    fn answers(&self, suite: &[(usize, usize)]) -> Vec<Vec<(f64, Answer)>> {
        let mut said: Vec<Vec<(f64, Answer)>> = vec![Vec::new(); suite.len()];
        let mut together: BTreeMap<&str, Vec<(usize, f64, &Window)>> = BTreeMap::new();
        for (at, (case, start)) in suite.iter().enumerate() {
            for one in &self.cases[*case] {
                match &one.from {
                    From::Answers(answers) => said[at].push((one.theta, answers[*start])),
                    From::Windows(windows) => together
                        .entry(one.metric.kind())
                        .or_default()
                        .push((at, one.theta, &windows[*start])),
                }
            }
        }
        if let Decide::Together(ours) = &self.rule.decide {
            for members in together.into_values() {
                let windows: Vec<&Window> = members.iter().map(|(.., window)| *window).collect();
                let answers = ours.decide(&windows, self.judged);
                for ((at, theta, _), answer) in members.into_iter().zip(answers) {
                    said[at].push((theta, answer));
                }
            }
        }
        said
    }
}

/// What was said, counted.
#[derive(Debug, Clone, Default)]
struct Tally {
    metrics: usize,
    regressed: usize,
    passed: usize,
    undecided: usize,
    /// Suites, or scenarios, with any metric called regressed.
    alarms: usize,
    /// Suites, or scenarios, of which every metric passes.
    clean: usize,
    scenarios: usize,
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

    fn take(&mut self, other: &Self) {
        self.metrics += other.metrics;
        self.regressed += other.regressed;
        self.passed += other.passed;
        self.undecided += other.undecided;
        self.alarms += other.alarms;
        self.clean += other.clean;
        self.blocks += other.blocks;
        self.seconds += other.seconds;
        self.add(other);
    }

    /// What is known of intervals and estimates.
    fn add(&mut self, other: &Self) {
        self.intervals += other.intervals;
        self.covered += other.covered;
        self.estimates += other.estimates;
        self.error += other.error;
    }
}
