//! `candlemark check --measure`: measures further blocks of undecided scenarios until they are
//! decided or time is up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::HumanDuration;

use crate::cli::download::ProgressBars;
use crate::cli::interrupt;
use crate::cli::interrupt::interruptible;
use crate::cli::setup::injection;
use crate::compare::{Finding, Judgement, PLANNED_LOOKS, Verdict};
use crate::files::Lock;
#[cfg(feature = "server")]
use crate::measure::server::describe_server;
use crate::record::{Case, Model, Record};
use crate::settings::Setup;
use crate::suite::Plan;
use crate::workload::{Scenario, metric};
use crate::{Error, baseline, files, machine, suite, workload};

/// Total further blocks of each open scenario after each round. Every round is a look, for which
/// Bonferroni's correction divides the level. The number doubles, because a smaller increase rarely
/// decides what the round before did not.
const ROUNDS: [usize; PLANNED_LOOKS - 1] = [2, 4, 8, 16, 32];

/// Seconds of a process besides loading and generating: its start and the reference kernels.
const PROCESS_S: f64 = 0.5;

/// Measures further blocks of a run and judges it; the verdict and the run with all its blocks.
/// `path` is the record's file, beside which the further record is written.
pub(super) fn judge(
    run: Record,
    path: &Path,
    budget: Duration,
    decide: &dyn Fn(&Record) -> Judgement,
) -> anyhow::Result<(Judgement, Record)> {
    let stop = interruptible("what was measured is judged when the worker has finished")?;
    let mut further = None;
    let more = &mut |scenarios: &[Scenario], blocks| {
        let further = match &mut further {
            Some(further) => further,
            none => none.insert(FurtherRecord::begin(&run, path, stop)?),
        };
        further.measure_to(scenarios, blocks)
    };
    let run = measure(&run, budget, decide, more, stop)?;
    if let Some(further) = further {
        interrupt::say(&format!("further record: {}", further.path.display()));
    }
    let mut judgement = decide(&run);
    if stop.load(Ordering::Relaxed) {
        judgement.notes.push("interrupted: the verdict of the blocks so far".into());
    }
    Ok((judgement, run))
}

/// Measures rounds until nothing is open, the budget is spent, the last round is over or `stop` is
/// set; the run with all its blocks.
///
/// `decide` judges a run. `more` measures the given scenarios up to a number of further blocks and
/// returns the record of all further blocks.
fn measure(
    first: &Record,
    budget: Duration,
    decide: &dyn Fn(&Record) -> Judgement,
    more: &mut dyn FnMut(&[Scenario], usize) -> anyhow::Result<Record>,
    stop: &AtomicBool,
) -> anyhow::Result<Record> {
    let say = |line: String| interrupt::say(&format!("measure: {line}"));
    let start = Instant::now();
    let mut run = first.clone();
    // Measured over estimated time of a block.
    let (mut slowdown, mut done) = (1.0, 0);
    for target in ROUNDS {
        let judgement = decide(&run);
        let left = budget.saturating_sub(start.elapsed());
        let open = judgement.open();
        let all = judgement.findings.len();
        let undecided: Vec<&Finding> =
            judgement.findings.iter().filter(|finding| is_undecided(finding)).collect();
        let decided = all - undecided.len();
        say(format!("{decided} of {all} findings decided; {} left", HumanDuration(left)));
        let is_open = |finding: &&&Finding| open.contains(&finding.scenario.as_str());
        let closed = undecided.len() - undecided.iter().filter(is_open).count();
        if closed > 0 {
            say(format!(
                "{closed} skipped, which no number of blocks decides: the baseline has too few \
                 blocks, its sessions differ too much, or the machine changed; make a baseline of \
                 more sessions, or use a quieter machine"
            ));
        }
        if open.is_empty() {
            return Ok(run);
        }
        let words: Vec<String> = open.iter().map(|id| (*id).to_owned()).collect();
        let scenario = |id: &String| {
            let missing = || format!("cannot measure {id}: this build does not have this scenario");
            workload::scenario(id).with_context(missing)
        };
        let scenarios = words.iter().map(scenario).collect::<anyhow::Result<Vec<_>>>()?;
        let cases = words.iter().filter_map(|id| first.case(id));
        let block_s = slowdown * cases.map(|case| block_s(case, first)).sum::<f64>();
        let fit = (left.as_secs_f64() / block_s.max(1e-3)) as usize;
        let blocks = target.min(done + fit);
        let about = |seconds| HumanDuration(Duration::from_secs_f64(seconds));
        if blocks <= done {
            say(format!(
                "out of time: one more block of each scenario takes about {}",
                about(block_s)
            ));
            return Ok(run);
        }
        let more_blocks = blocks - done;
        let expected = block_s * more_blocks as f64;
        say(format!("{more_blocks} more of {}, about {}", words.join(" "), about(expected)));
        let began = Instant::now();
        run = merge(first, &more(&scenarios, blocks)?)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(run);
        }
        slowdown *= began.elapsed().as_secs_f64() / expected;
        done = blocks;
    }
    say(format!("stopped after {done} further blocks of each scenario, the planned maximum"));
    Ok(run)
}

fn is_undecided(finding: &Finding) -> bool {
    matches!(finding.verdict, Verdict::Undecided(_))
}

/// Estimated seconds of a block, from the case's earlier blocks.
fn block_s(case: &Case, record: &Record) -> f64 {
    let typical = |metric: &str| crate::stats::median(&case.values(metric)).unwrap_or(0.0);
    let generation = &record.settings.generation;
    let generations = (generation.warmups + generation.iters) as f64;
    PROCESS_S + typical(metric::LOAD_S) + generations * typical(metric::E2E_S)
}

/// Merges both records into one run.
fn merge(first: &Record, more: &Record) -> anyhow::Result<Record> {
    let failed = |case: &&Case| case.absent.is_some() && !case.is_unsupported();
    if let Some(case) = more.scenarios.iter().find(failed) {
        let why = case.absent.as_ref().map(ToString::to_string).unwrap_or_default();
        anyhow::bail!("cannot measure `{}` ({why})", case.id);
    }
    Ok(baseline::combine(&[first.clone(), more.clone()])?)
}

/// The setup of a run that is continued; a server is asked again what it is.
fn again(setup: Setup) -> crate::Result<Setup> {
    #[cfg(feature = "server")]
    if let Some(server) = &setup.server {
        let found = describe_server(&server.url, Some(&server.model), &setup)?;
        return Ok(Setup { server: Some(found), ..setup });
    }
    Ok(setup)
}

/// The record of the further blocks.
struct FurtherRecord {
    plan: Plan,
    path: PathBuf,
    _lock: Option<Lock>,
    record: Record,
    stop: &'static AtomicBool,
}

impl FurtherRecord {
    /// Checks that this build on this machine can continue the run.
    fn begin(first: &Record, path: &Path, stop: &'static AtomicBool) -> anyhow::Result<Self> {
        if first.settings.server.is_none() {
            machine::refuse_debug()?;
        }
        let (model, settings) = (&first.model, &first.settings);
        let setup = again(Setup {
            model: model.spec.clone(),
            quant: settings.quant.clone(),
            kv_dtype: settings.kv_dtype.clone(),
            device: settings.device.clone(),
            engine: settings.engine.clone(),
            engine_is_default: false,
            threads: settings.threads,
            rope_scaling: model.rope_scaling.clone(),
            generation: settings.generation.clone(),
            labels: settings.labels.clone(),
            server: settings.server.clone(),
            api_key_file: None,
        })?;
        let mut record =
            suite::new_record(&setup, "run", injection()?, &mut ProgressBars::default())?;
        let mut plan = Plan::new(setup, Vec::new())?;
        if let Some(binary) = find_same_binary(&plan.binary, first) {
            record.build.clone_from(&first.build);
            plan.binary = binary;
        }
        // The weights' format is known once they are loaded; their hash is known now.
        let (sha256, commit) = (record.model.sha256.clone(), record.model.commit.clone());
        let expected = Model { sha256, commit, ..model.clone() };
        let begun = Record { model: expected, ..record };
        baseline::combine(&[first.clone(), begun.clone()]).context(
            "this build cannot continue that run; start a new one with `candlemark run` or \
                 `cargo bench`",
        )?;
        let (path, lock) = unused_path(path)?;
        plan.path = Some(path.clone());
        plan.injection.clone_from(&begun.injected);
        Ok(Self { plan, path, _lock: lock, record: begun, stop })
    }

    /// Measures until each of the scenarios has `blocks` blocks, or until the first signal.
    fn measure_to(&mut self, scenarios: &[Scenario], blocks: usize) -> anyhow::Result<Record> {
        self.plan.scenarios = scenarios.to_vec();
        self.plan.blocks = blocks;
        self.plan.resume = Some(self.record.clone());
        // Without progress: `measure` reports whole rounds.
        let mut events = || self.stop.load(Ordering::Relaxed);
        match suite::run(&self.plan, &mut ProgressBars::default(), &mut events) {
            // The finished blocks are on disk, if there are any.
            Err(Error::Interrupted) if self.path.exists() => {
                self.record = Record::load(&self.path)?;
            }
            Err(Error::Interrupted) => {}
            measured => self.record = measured?,
        }
        Ok(self.record.clone())
    }
}

/// The binary that made a record, if it still exists: this one, or the one that `cargo bench`
/// built, which can be a worker, too. It allows a working tree with uncommitted changes, and keeps
/// the code layout.
fn find_same_binary(this: &Path, record: &Record) -> Option<PathBuf> {
    let wanted = record.build.binary_sha256.as_ref()?;
    let deps = this.parent().map(|folder| folder.join("deps"));
    let entries = deps.iter().flat_map(|folder| files::entries(folder));
    let benches = entries.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("generate-") && path.extension().is_none_or(|end| end == "exe")
    });
    let is_it = |path: &PathBuf| files::sha256(path).is_ok_and(|found| found == *wanted);
    std::iter::once(this.to_owned()).chain(benches).find(is_it)
}

/// `record.further.json` for `record.json`, or the first of `record.further-2.json` ... that
/// neither exists nor is locked by another process.
fn unused_path(record: &Path) -> crate::Result<(PathBuf, Option<Lock>)> {
    let name = |number: usize| match number {
        1 => "further.json".to_owned(),
        number => format!("further-{number}.json"),
    };
    let paths = (1..).map(|number| record.with_extension(name(number)));
    let free = |path: PathBuf| {
        files::check(&path)?;
        Ok(Lock::take(&path).ok().map(|lock| (path, lock)))
    };
    let mut unused = paths.filter(|path| !path.exists());
    unused.find_map(|path| free(path).transpose()).expect("names do not run out")
}

#[cfg(test)]
mod tests;
