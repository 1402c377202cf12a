//! The share of time in kernels, measured by tracing spans around each: a scenario of its own,
//! because spans cost time. A kernel is a leaf of the forward pass (a GEMM, a norm, attention over
//! one sequence); the rest is the overhead between kernels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::engine::{Engine, GenerationRequest};
use crate::error::{Error, Result};
use crate::kernel::Pool;
use crate::measure::work;
use crate::model::TRACE_TARGET;
use crate::record::{Block, Case};
use crate::settings::Setup;
use crate::workload::{PromptFormat, Scenario, metric};
use crate::{engine, stats, workload};

/// The spans that are counted: `pack` belongs to loading, the others to a forward pass.
const SPAN_NAMES: [&str; 6] = ["pack", "embedding", "norm", "product", "rope", "attention"];

/// The value of a block with the seconds of a traced generation.
pub(crate) const TRACED_S: &str = "traced_s";

/// Empty parallel regions to time.
const REGIONS: usize = 1000;

/// Nanoseconds in spans and their count since the process started, in the order of [`SPAN_NAMES`].
#[derive(Debug, Default)]
struct SpanCounters([(AtomicU64, AtomicU64); SPAN_NAMES.len()]);

/// A reading of [`SpanCounters`]: seconds and count.
type SpanTotals = [(f64, u64); SPAN_NAMES.len()];

static COUNTERS: OnceLock<&'static SpanCounters> = OnceLock::new();

/// Starts counting spans in this process. Call it before a model is loaded, and only where nothing
/// else is measured.
///
/// # Errors
/// When the process already has another subscriber.
pub fn install() -> Result<()> {
    let counters: &'static SpanCounters = COUNTERS.get_or_init(|| Box::leak(Box::default()));
    tracing::subscriber::set_global_default(SpanSubscriber(counters))
        .map_err(|_| Error::Failed("this process already has a tracing subscriber".into()))
}

/// Adds up the time from entering to leaving a span.
struct SpanSubscriber(&'static SpanCounters);

thread_local! {
    /// When this thread entered the spans that it is in.
    static ENTERED: RefCell<Vec<Instant>> = const { RefCell::new(Vec::new()) };
}

impl Subscriber for SpanSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && metadata.target() == TRACE_TARGET
            && SPAN_NAMES.contains(&metadata.name())
    }

    /// All spans of a name share an id: nothing is stored per span.
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let at = SPAN_NAMES.iter().position(|name| *name == span.metadata().name()).unwrap_or(0);
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
            let (nanoseconds, count) = &self.0.0[span.into_u64() as usize - 1];
            nanoseconds.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl SpanCounters {
    fn read(&self) -> SpanTotals {
        self.0.each_ref().map(|(nanoseconds, count)| {
            (nanoseconds.load(Ordering::Relaxed) as f64 / 1e9, count.load(Ordering::Relaxed))
        })
    }
}

/// Wall time and spans of a traced generation.
struct TracedRun {
    wall_s: f64,
    totals: SpanTotals,
}

impl TracedRun {
    fn measure(counters: &SpanCounters, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (before, start) = (counters.read(), Instant::now());
        work()?;
        let wall_s = start.elapsed().as_secs_f64();
        let mut totals = counters.read();
        for ((seconds, count), before) in totals.iter_mut().zip(before) {
            (*seconds, *count) = (*seconds - before.0, *count - before.1);
        }
        Ok(Self { wall_s, totals })
    }

    /// The metrics of a generation. `prefill` is a run of the same prompt with one new token, and
    /// `steps` the decode steps after it. Packing does not count.
    fn values(&self, prefill: &Self, steps: usize) -> BTreeMap<String, f64> {
        let seconds: f64 = self.totals[1..].iter().map(|(seconds, _)| seconds).sum();
        let count = |run: &Self| run.totals[1..].iter().map(|(_, count)| count).sum::<u64>() as f64;
        let mut values = BTreeMap::from([
            (TRACED_S.to_string(), self.wall_s),
            (metric::KERNEL_SHARE.to_string(), seconds / self.wall_s),
            (metric::KERNEL_OVERHEAD_S.to_string(), (self.wall_s - seconds).max(0.0) / count(self)),
            (metric::KERNELS_PER_STEP.to_string(), (count(self) - count(prefill)) / steps as f64),
        ]);
        for (name, (seconds, _)) in SPAN_NAMES.iter().zip(self.totals).skip(1) {
            values.insert(format!("traced_{name}_share"), seconds / self.wall_s);
        }
        values
    }
}

/// Traces generations of batch 1, each after a run of the prefill alone, so that the kernels of the
/// decode steps can be counted.
///
/// Besides the metrics, `traced_<kernel>_share` is the share of time in one kind of kernel.
///
/// # Errors
/// When [`install`] was not called in this process, or generation fails.
pub fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    setup: &Setup,
    session: &str,
) -> Result<Case> {
    if setup.engine != "native" || setup.device != "cpu" {
        return Err(Error::Unsupported(
            "only the native engine's CPU kernels have spans; on a device they would time launches"
                .into(),
        ));
    }
    let counters = COUNTERS.get().ok_or_else(|| {
        Error::Failed("kernels are traced only in a process started for it".into())
    })?;
    let packing = counters.read();
    let prompt = workload::category("medium").expect("it is in the table").prompts[0];
    let prompts = [engine.encode(prompt.trim_end(), PromptFormat::Raw)?];
    let mut generate = |new_tokens: usize| {
        let request = GenerationRequest::new(&prompts, new_tokens, &setup.generation);
        engine::generate(engine.decoder.as_mut(), &request).map(drop)
    };
    for _ in 0..setup.generation.warmups {
        generate(scenario.new_tokens)?;
    }
    let mut block = Block { session: session.into(), ..Block::default() };
    for _ in 0..setup.generation.iters {
        let prefill = TracedRun::measure(counters, || generate(1))?;
        let whole = TracedRun::measure(counters, || generate(scenario.new_tokens))?;
        for (name, value) in whole.values(&prefill, scenario.new_tokens - 1) {
            block.add_sample(&name, value);
        }
    }
    block.set_medians();
    let region_s = empty_region_s(&Pool::new(setup.threads)?);
    block.values.insert(metric::REGION_OVERHEAD_S.into(), region_s);
    let threads = setup.threads.max(1) as f64;
    let (packing_s, packed) = packing[0];
    let pack_s = (packed > 0).then(|| packing_s / threads);
    block.values.insert(metric::PACK_S.into(), pack_s);
    let note = match pack_s {
        Some(_) => "time of all threads while loading, divided by their number",
        None => "the weights are used as stored",
    };
    block.notes.insert(metric::PACK_S.into(), note.into());
    block.set_missing(metric::PEAK_RSS_BYTES, "not measured while kernels are traced");
    Ok(Case {
        id: scenario.id.clone(),
        work: work(scenario, &prompts, scenario.new_tokens),
        blocks: vec![block],
        ..Case::default()
    })
}

/// Median time of an empty parallel region, run on the pool as kernels are.
fn empty_region_s(pool: &Pool) -> Option<f64> {
    let region = || {
        let start = Instant::now();
        pool.run(pool.threads(), |number, _| {
            std::hint::black_box(number);
        });
        start.elapsed().as_secs_f64()
    };
    stats::median(&(0..REGIONS).map(|_| region()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_kernels_is_divided_by_their_number() {
        // Packing does not count.
        let totals = [(9.0, 1), (0.0, 0), (0.2, 24), (0.6, 24), (0.0, 0), (0.0, 0)];
        let traced = TracedRun { wall_s: 1.0, totals };
        let totals = [0, 0, 4, 4, 0, 0].map(|count| (0.0, count));
        let prefill = TracedRun { wall_s: 0.0, totals };
        let values = traced.values(&prefill, 10);
        assert!((values["kernel_share"] - 0.8).abs() < 1e-12);
        assert!((values["kernel_overhead_s"] - 0.2 / 48.0).abs() < 1e-12);
        assert_eq!(values["kernels_per_step"], 4.0);
        assert!((values["traced_product_share"] - 0.6).abs() < 1e-12);
    }

    #[test]
    fn spans_are_counted_by_their_names_and_others_are_not() {
        let counters: &'static SpanCounters = Box::leak(Box::default());
        tracing::subscriber::with_default(SpanSubscriber(counters), || {
            for _ in 0..3 {
                let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
            }
            let _other = tracing::trace_span!("norm").entered();
            let _unknown = tracing::trace_span!(target: TRACE_TARGET, "lunch").entered();
        });
        assert_eq!(counters.read().map(|(_, count)| count), [0, 0, 3, 0, 0, 0]);
    }
}
