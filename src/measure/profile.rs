//! The share of time in kernels, by tracing spans around each of them: a run of its own, because a
//! span costs time, too. A kernel here is a leaf of the forward pass (a matrix product, a norm,
//! attention over one sequence); what is left is what it takes to get from one to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::engine::{Engine, Request};
use crate::error::{Error, Result};
use crate::kernel::{Pool, TRACE_TARGET};
use crate::measure::hash_ids;
use crate::record::{Block, Case, Work};
use crate::settings::Setup;
use crate::workload::{PromptFormat, Scenario};
use crate::{engine, stats, workload};

/// Names of the spans that are counted; `pack` is part of loading, the others of a pass.
const NAMES: [&str; 6] = ["pack", "embedding", "norm", "product", "rope", "attention"];

/// Parallel regions that are timed.
const REGIONS: usize = 1000;

/// What spans came to, by their place in [`NAMES`].
#[derive(Debug, Default)]
struct Profile {
    nanoseconds: [AtomicU64; NAMES.len()],
    count: [AtomicU64; NAMES.len()],
}

/// A reading of the profile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Totals {
    seconds: [f64; NAMES.len()],
    count: [u64; NAMES.len()],
}

static PROFILE: OnceLock<&'static Profile> = OnceLock::new();

/// Starts counting in this process. To be called before a model is loaded, and only where nothing
/// else is measured.
///
/// # Errors
/// When the process has another subscriber already.
pub fn install() -> Result<()> {
    let profile: &'static Profile = PROFILE.get_or_init(|| Box::leak(Box::default()));
    tracing::subscriber::set_global_default(Counter(profile))
        .map_err(|_| Error::Failed("something else listens to spans in this process".into()))
}

/// Adds up what is between the entering and the leaving of spans.
struct Counter(&'static Profile);

thread_local! {
    /// When the spans that this thread is in were entered.
    static ENTERED: RefCell<Vec<Instant>> = const { RefCell::new(Vec::new()) };
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == TRACE_TARGET && NAMES.contains(&metadata.name())
    }

    /// All spans of a name share their number: nothing is kept of a single one.
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let at = NAMES.iter().position(|name| *name == span.metadata().name()).unwrap_or(0);
        Id::from_u64(at as u64 + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(Instant::now()));
    }

    fn exit(&self, span: &Id) {
        if let Some(since) = ENTERED.with_borrow_mut(Vec::pop) {
            let at = span.into_u64() as usize - 1;
            let spent = since.elapsed().as_nanos() as u64;
            self.0.nanoseconds[at].fetch_add(spent, Ordering::Relaxed);
            self.0.count[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Profile {
    fn read(&self) -> Totals {
        let mut totals = Totals::default();
        for at in 0..NAMES.len() {
            totals.seconds[at] = self.nanoseconds[at].load(Ordering::Relaxed) as f64 / 1e9;
            totals.count[at] = self.count[at].load(Ordering::Relaxed);
        }
        totals
    }
}

/// What was traced of some work: its wall time and its kernels.
#[derive(Debug, Clone, Copy, Default)]
struct Traced {
    wall_s: f64,
    totals: Totals,
}

impl Traced {
    fn of(profile: &Profile, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (before, start) = (profile.read(), Instant::now());
        work()?;
        let whole = Self { wall_s: start.elapsed().as_secs_f64(), totals: profile.read() };
        Ok(whole.without(&Self { wall_s: 0.0, totals: before }))
    }

    fn without(mut self, other: &Self) -> Self {
        self.wall_s -= other.wall_s;
        for at in 0..NAMES.len() {
            self.totals.seconds[at] -= other.totals.seconds[at];
            self.totals.count[at] = self.totals.count[at].saturating_sub(other.totals.count[at]);
        }
        self
    }

    /// Metrics of an answer; `reading` is the same prompt read with one token as the answer,
    /// `steps` what comes after it. Every kernel but packing counts.
    fn values(&self, reading: &Self, steps: usize) -> BTreeMap<String, f64> {
        let seconds: f64 = self.totals.seconds[1..].iter().sum();
        let count = |traced: &Self| traced.totals.count[1..].iter().sum::<u64>() as f64;
        let mut values = BTreeMap::from([
            ("kernel_share".to_string(), seconds / self.wall_s),
            ("kernel_overhead_s".to_string(), (self.wall_s - seconds).max(0.0) / count(self)),
            ("kernels_per_step".to_string(), (count(self) - count(reading)) / steps as f64),
        ]);
        for (name, seconds) in NAMES.iter().zip(self.totals.seconds).skip(1) {
            values.insert(format!("traced_{name}_share"), seconds / self.wall_s);
        }
        values
    }
}

/// Traces answers of batch 1, each beside a reading of its prompt alone, so that the kernels of its
/// steps can be counted.
///
/// Beside the metrics, `traced_<kernel>_share` is the share of an answer's time in kernels of one
/// kind.
///
/// # Errors
/// When nothing counts in this process, or generating fails.
pub fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    setup: &Setup,
    session: &str,
) -> Result<Case> {
    if setup.engine != "native" || setup.device != "cpu" {
        return Err(Error::Unsupported(
            "only the native engine's kernels on the CPU carry spans; on a device they would time launches".into(),
        ));
    }
    let profile = PROFILE.get().ok_or_else(|| {
        Error::Failed("kernels are traced in a process that was started for it".into())
    })?;
    let packed = profile.read();
    let prompt = workload::category("medium").expect("it is in the table").prompts[0];
    let prompts = [engine.encode(prompt.trim_end(), PromptFormat::Raw)?];
    let mut answer = |new_tokens: usize| {
        let request = Request {
            prompts: &prompts,
            new_tokens,
            stops: &[],
            sampling: &setup.generation,
            kept: None,
            injection: None,
        };
        engine::generate(engine.decoder.as_mut(), &request).map(drop)
    };
    for _ in 0..setup.generation.warmups {
        answer(scenario.new_tokens)?;
    }
    let mut block = Block { session: session.into(), ..Block::default() };
    for _ in 0..setup.generation.iters {
        let reading = Traced::of(profile, || answer(1))?;
        let whole = Traced::of(profile, || answer(scenario.new_tokens))?;
        for (name, value) in whole.values(&reading, scenario.new_tokens - 1) {
            block.samples.entry(name).or_default().push(value);
        }
    }
    block.values =
        block.samples.iter().map(|(name, values)| (name.clone(), stats::median(values))).collect();
    block.values.insert("region_overhead_s".into(), region(&Pool::new(setup.threads)?));
    let threads = setup.threads.max(1) as f64;
    let pack_s = (packed.count[0] > 0).then(|| packed.seconds[0] / threads);
    block.values.insert("pack_s".into(), pack_s);
    let note = match pack_s {
        Some(_) => "time of all threads over their number, of loading",
        None => "the weights are held as they are stored",
    };
    block.notes.insert("pack_s".into(), note.into());
    block.values.insert("peak_rss_bytes".into(), None);
    block.notes.insert("peak_rss_bytes".into(), "not read where kernels are traced".into());
    Ok(Case {
        id: scenario.id.clone(),
        work: Work {
            task: scenario.task(),
            batch: 1,
            prompt_tokens: prompts.iter().map(Vec::len).collect(),
            new_tokens: scenario.new_tokens,
            prompts_sha256: hash_ids(&prompts),
            stop: "length".into(),
            ..Work::default()
        },
        blocks: vec![block],
        ..Case::default()
    })
}

/// Seconds that an empty parallel region takes, the median of many, started the way kernels start
/// theirs.
fn region(pool: &Pool) -> Option<f64> {
    let one = || {
        let start = Instant::now();
        pool.run(pool.threads(), |number, _| {
            std::hint::black_box(number);
        });
        start.elapsed().as_secs_f64()
    };
    stats::median(&(0..REGIONS).map(|_| one()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_kernels_is_shared_out_among_them() {
        let mut traced = Traced { wall_s: 1.0, ..Traced::default() };
        traced.totals.seconds[3] = 0.6;
        traced.totals.seconds[2] = 0.2;
        traced.totals.seconds[0] = 9.0; // Packing is no part of a step.
        traced.totals.count = [1, 0, 24, 24, 0, 0];
        let mut reading = Traced::default();
        reading.totals.count = [0, 0, 4, 4, 0, 0];
        let values = traced.values(&reading, 10);
        assert!((values["kernel_share"] - 0.8).abs() < 1e-12);
        assert!((values["kernel_overhead_s"] - 0.2 / 48.0).abs() < 1e-12);
        assert_eq!(values["kernels_per_step"], 4.0);
        assert!((values["traced_product_share"] - 0.6).abs() < 1e-12);
    }

    #[test]
    fn spans_are_counted_by_their_names_and_others_are_not() {
        let profile: &'static Profile = Box::leak(Box::default());
        tracing::subscriber::with_default(Counter(profile), || {
            for _ in 0..3 {
                let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
            }
            let _other = tracing::trace_span!("norm").entered();
            let _unknown = tracing::trace_span!(target: TRACE_TARGET, "lunch").entered();
        });
        assert_eq!(profile.read().count, [0, 0, 3, 0, 0, 0]);
    }
}
