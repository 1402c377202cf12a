//! Decode and prefill rates at context depths.

use serde::Serialize;

use super::values::{BOOTSTRAP_SEED, CaseState, in_group, row, short_name, valid_median};
use crate::record::{Case, Record};
use crate::stats;
use crate::stats::LineFit;

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

row! {
    /// One depth.
    ContextRow(case) {
        /// Tokens in the cache before the prompt.
        depth: usize = 0,
        /// With YaRN.
        extended: bool = false,
        /// The decode rate as a share of that at depth 0 of the same kind; `None` unless both are
        /// valid.
        decode_retention: Option<f64> = None,
        /// The same for prefill.
        prefill_retention: Option<f64> = None,
    }
    spreads { decode_tok_s, prefill_tok_s, tpot_s }
    readings { kv_bytes_expected, kv_bytes_held, peak_delta_bytes }
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
    fn of(case: &'a Case) -> Option<Self> {
        let name = short_name(case);
        let plain = name.strip_suffix("-yarn");
        let depth = plain.unwrap_or(name).parse().ok()?;
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
            depth: self.depth,
            extended: self.extended,
            decode_retention: retention("decode_tok_s"),
            prefill_retention: retention("prefill_tok_s"),
            ..ContextRow::of(case)
        }
    }
}

fn step_growth(all: &[Depth], extended: bool) -> Option<LineFit> {
    let kind = all.iter().filter(|depth| depth.extended == extended);
    let points: Vec<(f64, f64)> = kind
        .filter(|depth| CaseState::of(depth.case).is_valid())
        .flat_map(|depth| {
            let x = depth.depth as f64;
            depth.case.values("tpot_s").into_iter().map(move |y| (x, y))
        })
        .collect();
    stats::fit_line(&points, BOOTSTRAP_SEED)
}
