//! Decode and prefill rates at context depths.

use serde::Serialize;

use super::values::{
    BOOTSTRAP_SEED, CaseState, Reading, Spread, in_group, prompt_tokens, reading, spread,
    valid_median,
};
use crate::record::{Case, Record};
use crate::stats;
use crate::stats::LineFit;
use crate::workload::metric;

/// The scenarios `context/*` together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Context {
    /// By depth, first without YaRN, then with it.
    pub(crate) rows: Vec<ContextRow>,
    /// Slope of the step time over depth, in seconds per token of depth; one point per process and
    /// depth.
    pub(crate) step_growth: Option<LineFit>,
    /// The same with YaRN.
    pub(crate) step_growth_extended: Option<LineFit>,
}

/// One depth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ContextRow {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    /// Tokens in the cache before the prompt.
    pub(crate) depth: usize,
    /// With YaRN.
    pub(crate) extended: bool,
    /// Tokens prefilled at this depth.
    pub(crate) prompt_tokens: Option<usize>,
    /// Tokens generated at this depth.
    pub(crate) new_tokens: usize,
    /// Decode rate at this depth.
    pub(crate) decode_tok_s: Option<Spread>,
    /// Prefill rate at this depth.
    pub(crate) prefill_tok_s: Option<Spread>,
    /// Seconds of one step at this depth.
    pub(crate) tpot_s: Option<Spread>,
    /// The decode rate as a share of that at depth 0 of the same kind; `None` unless both are
    /// valid.
    pub(crate) decode_retention: Option<f64>,
    /// The same for prefill.
    pub(crate) prefill_retention: Option<f64>,
    /// Bytes of the KV cache computed from its shape.
    pub(crate) kv_bytes_expected: Reading,
    /// Bytes of the KV cache that the engine allocated.
    pub(crate) kv_bytes_held: Reading,
    /// Peak memory of the process minus its memory after loading.
    pub(crate) peak_delta_bytes: Reading,
}

impl Context {
    /// The depths of a record; `None` where it has no such scenario.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let mut cases: Vec<Depth> = in_group(record, "context").filter_map(Depth::of).collect();
        cases.sort_by_key(|depth| (depth.extended, depth.depth));
        (!cases.is_empty()).then(|| Self {
            rows: cases.iter().map(|depth| depth.row(&cases)).collect(),
            step_growth: step_growth(&cases, false),
            step_growth_extended: step_growth(&cases, true),
        })
    }
}

struct Depth<'a> {
    case: &'a Case,
    depth: usize,
    extended: bool,
}

impl<'a> Depth<'a> {
    /// The depth is taken from the id, because a failed case has no work.
    fn of((case, rest): (&'a Case, &'a str)) -> Option<Self> {
        let plain = rest.strip_suffix("-yarn");
        let depth = plain.unwrap_or(rest).parse().ok()?;
        Some(Self { case, depth, extended: plain.is_some() })
    }

    fn row(&self, all: &[Depth]) -> ContextRow {
        let case = self.case;
        let start = all.iter().find(|other| other.extended == self.extended && other.depth == 0);
        let retention = |metric: &str| {
            let (here, there) = (valid_median(case, metric)?, valid_median(start?.case, metric)?);
            (there > 0.0).then(|| here / there)
        };
        ContextRow {
            id: case.id.clone(),
            state: CaseState::of(case),
            depth: self.depth,
            extended: self.extended,
            prompt_tokens: prompt_tokens(case),
            new_tokens: case.work.new_tokens,
            decode_tok_s: spread(case, metric::DECODE_TOK_S),
            prefill_tok_s: spread(case, metric::PREFILL_TOK_S),
            tpot_s: spread(case, metric::TPOT_S),
            decode_retention: retention(metric::DECODE_TOK_S),
            prefill_retention: retention(metric::PREFILL_TOK_S),
            kv_bytes_expected: reading(case, metric::KV_BYTES_EXPECTED),
            kv_bytes_held: reading(case, metric::KV_BYTES_HELD),
            peak_delta_bytes: reading(case, metric::PEAK_DELTA_BYTES),
        }
    }
}

fn step_growth(all: &[Depth], extended: bool) -> Option<LineFit> {
    let kind = all.iter().filter(|depth| depth.extended == extended);
    let points: Vec<(f64, f64)> = kind
        .filter(|depth| CaseState::of(depth.case).is_valid())
        .flat_map(|depth| {
            let x = depth.depth as f64;
            depth.case.values(metric::TPOT_S).into_iter().map(move |y| (x, y))
        })
        .collect();
    stats::fit_line(&points, BOOTSTRAP_SEED)
}
