//! One run against a stored baseline (`gate.md`, section 4): what is compared with what, and how each metric is judged.

use std::collections::BTreeMap;

use crate::compare::BLOCKS_NEEDED;
use crate::compare::Change;
use crate::compare::Evidence;
use crate::compare::Finding;
use crate::compare::Policy;
use crate::compare::SESSIONS_NEEDED;
use crate::compare::Verdict;
use crate::compare::Why;
use crate::compare::estimate;
use crate::compare::estimate::Series;
use crate::compare::estimate::Sessions;
use crate::compare::estimate::Variance;
use crate::compare::margin;
use crate::compare::normalised;
use crate::compare::paired::Levels;
use crate::compare::same;
use crate::compare::verdict;
use crate::record::Block;
use crate::record::Case;
use crate::record::Record;
use crate::record::calibration::Calibration;
use crate::record::calibration::Spread;
use crate::workload::METRICS;
use crate::workload::Metric;

/// Either both sides of a metric, to be judged, or what is said without numbers.
pub(super) enum Row {
    Both(Both),
    Said(Finding),
}

/// Both sides of one metric of one scenario.
pub(super) struct Both {
    pub(super) scenario: String,
    pub(super) metric: &'static Metric,
    pub(super) raw: Sides,
    normalised: Option<Sides>,
}

/// What two series say of one metric.
pub(super) struct Sides {
    pub(super) base: Series,
    pub(super) current: Series,
}

/// What every metric is judged by.
pub(super) struct Jury<'a> {
    /// How many metrics are judged together.
    pub(super) judged: usize,
    sessions: Sessions<'a>,
    normalised_sessions: Sessions<'a>,
    layout_sd: &'a BTreeMap<String, Spread>,
    same_binary: bool,
    levels: Levels,
    policy: &'a Policy,
}

/// A change with its verdict.
struct Weighed {
    theta: f64,
    evidence: Option<Evidence>,
    verdict: Verdict,
}

static NONE: BTreeMap<String, Spread> = BTreeMap::new();

impl<'a> Jury<'a> {
    pub(super) fn new(
        rows: &[Row],
        calibration: Option<&'a Calibration>,
        same_binary: bool,
        policy: &'a Policy,
    ) -> Self {
        let both = || {
            rows.iter().filter_map(|row| match row {
                Row::Both(both) => Some(both),
                Row::Said(_) => None,
            })
        };
        let judged = both().count();
        let (session_sd, layout_sd) = calibration.map_or((&NONE, &NONE), |calibration| {
            (&calibration.session_sd, &calibration.layout_sd)
        });
        let raw = both().map(|both| (both.metric, &both.raw.base));
        let normalised =
            both().filter_map(|both| Some((both.metric, &both.normalised.as_ref()?.base)));
        Self {
            judged,
            sessions: Sessions::of(raw, session_sd),
            normalised_sessions: Sessions::of(normalised, session_sd),
            layout_sd,
            same_binary,
            levels: Levels::new(policy.alpha, judged, policy.looks),
            policy,
        }
    }

    pub(super) fn finding(&self, row: &Row) -> Finding {
        match row {
            Row::Said(finding) => finding.clone(),
            Row::Both(both) => self.judge(both),
        }
    }

    /// The raw numbers count. What the reference kernels say can only take a verdict away.
    fn judge(&self, both: &Both) -> Finding {
        let Both { scenario, metric, raw: sides, normalised } = both;
        let limit = self.policy.limit(metric);
        let margin = margin(metric.better, limit);
        let raw = self.weigh(metric, sides, &self.sessions);
        let normalised =
            normalised.as_ref().map(|sides| self.weigh(metric, sides, &self.normalised_sessions));
        let contradicted = normalised.as_ref().is_some_and(|other| {
            normalised::contradicts(&raw.verdict, &other.verdict, other.theta, margin)
        });
        let normalised = normalised.map(|other| other.theta);
        let change = change(metric, limit, sides, &raw, normalised);
        Finding {
            scenario: scenario.clone(),
            metric: Some(*metric),
            verdict: if contradicted { Verdict::Inconclusive(Why::Drifted) } else { raw.verdict },
            change: Some(change),
            base_blocks: sides.base.values(metric.better),
            current_blocks: sides.current.values(metric.better),
            changes: Vec::new(),
        }
    }

    fn weigh(&self, metric: &Metric, sides: &Sides, sessions: &Sessions) -> Weighed {
        let Sides { base, current } = sides;
        let limit = self.policy.limit(metric);
        let enough = base.sessions.len() >= SESSIONS_NEEDED || sessions.are_calibrated(metric);
        let calibrated = enough && base.count() >= BLOCKS_NEEDED;
        let noise = if calibrated { sessions.noise(metric) } else { estimate::UNCALIBRATED };
        let evidence = estimate::evidence(base, current, noise, self.layout(metric), self.levels);
        let theta = current.centre() - base.centre();
        let limits = (margin(metric.better, limit), margin(metric.better, 2.0 * limit));
        let verdict = match &evidence {
            None => Verdict::Inconclusive(Why::TooFewBlocks),
            Some(evidence) => verdict(theta, evidence, limits.0, limits.1),
        };
        let undecided = matches!(verdict, Verdict::Regressed { .. } | Verdict::Inconclusive(_));
        let verdict = match (&evidence, calibrated) {
            (Some(_), false) if undecided => Verdict::Inconclusive(Why::Uncalibrated),
            _ => verdict,
        };
        Weighed { theta, evidence, verdict }
    }

    /// How much two builds of one source differ.
    fn layout(&self, metric: &Metric) -> Variance {
        let measured = self.layout_sd.get(metric.kind());
        match measured {
            _ if self.same_binary => Variance::assumed(0.0),
            Some(spread) => Variance::measured(spread),
            None => Variance::assumed(self.policy.layout_sd),
        }
    }
}

/// Every metric of every scenario of either side, in the order of the suite.
pub(super) fn rows(baseline: &Record, current: &Record) -> Vec<Row> {
    let said = |case: &Case, metric, verdict| Row::Said(Finding::said(&case.id, metric, verdict));
    let mut rows = Vec::new();
    for case in &current.scenarios {
        let base = baseline.case(&case.id);
        let never = base.is_none_or(|base| base.absent.is_some());
        if never && case.is_unsupported() {
            continue; // Neither side ever could.
        }
        if let Some(verdict) = whole_case(base, case) {
            rows.push(said(case, None, verdict));
            continue;
        }
        let base = base.expect("a case without a baseline has its verdict");
        for metric in METRICS.iter().filter(|metric| metric.gated(&case.work)) {
            if let Some(verdict) = impossible(base, case, metric) {
                rows.push(said(case, Some(metric), verdict));
                continue;
            }
            let (before, now) = (Series::of(base, metric), Series::of(case, metric));
            match (before.count(), now.count()) {
                (0, 0) => {}
                (0, _) => rows.push(said(case, Some(metric), Verdict::New)),
                (_, 0) => rows.push(said(case, Some(metric), Verdict::Missing)),
                _ if metric.name == "peak_rss_bytes" && has_shared(base) != has_shared(case) => {
                    let why = Verdict::NotComparable(SHARED.into());
                    rows.push(said(case, Some(metric), why));
                }
                _ => {
                    let scenario = case.id.clone();
                    let raw = Sides { base: before, current: now };
                    let normalised = normalised::sides(base, case, metric);
                    rows.push(Row::Both(Both { scenario, metric, raw, normalised }));
                }
            }
        }
    }
    let gone = baseline
        .scenarios
        .iter()
        .filter(|case| case.absent.is_none() && current.case(&case.id).is_none());
    rows.extend(gone.map(|case| said(case, None, Verdict::Missing)));
    rows
}

/// What is said of a scenario before any number is looked at.
fn whole_case(base: Option<&Case>, case: &Case) -> Option<Verdict> {
    if let Some(why) = &case.absent {
        return Some(if case.is_unsupported() || case.is_skipped() {
            Verdict::Missing
        } else {
            Verdict::Failed(why.clone())
        });
    }
    if !case.validity.ok() {
        return Some(Verdict::Invalid(case.validity.failed.join("; ")));
    }
    let Some(base) = base.filter(|base| base.absent.is_none()) else { return Some(Verdict::New) };
    if !base.validity.ok() {
        return Some(Verdict::NotComparable(format!(
            "the baseline is INVALID: {}",
            base.validity.failed.join("; ")
        )));
    }
    if let Some(difference) = same::work(&base.work, &case.work) {
        return Some(Verdict::NotComparable(difference));
    }
    match (&base.output_sha256, &case.output_sha256) {
        (Some(before), Some(now)) if before != now => Some(Verdict::OutputChanged(None)),
        _ => None,
    }
}

/// Why peaks of memory of unlike processes are not compared.
const SHARED: &str = "one side's memory is that of a process shared with other scenarios; measure both in fresh ones";

fn has_shared(case: &Case) -> bool {
    case.blocks.iter().any(Block::has_shared_peak)
}

/// A value that is stored and cannot be one: what was not measured is `null`, and never zero.
fn impossible(base: &Case, case: &Case, metric: &Metric) -> Option<Verdict> {
    let odd = |case: &Case| {
        case.values(metric.name).into_iter().find(|value| !(value.is_finite() && *value > 0.0))
    };
    let said = |value: f64| format!("{} is {value}, which nothing can be", metric.name);
    odd(case).map(|value| Verdict::Invalid(said(value))).or_else(|| {
        odd(base).map(|value| Verdict::NotComparable(format!("the baseline's {}", said(value))))
    })
}

fn change(
    metric: &Metric,
    limit: f64,
    sides: &Sides,
    weighed: &Weighed,
    normalised: Option<f64>,
) -> Change {
    let (before, now) = (sides.base.centre(), sides.current.centre());
    let value = |ln_cost: f64| metric.better.cost(ln_cost.exp());
    Change {
        base: value(before),
        current: value(now),
        theta: weighed.theta,
        normalised,
        limit,
        margin: margin(metric.better, limit),
        evidence: weighed.evidence,
    }
}

#[cfg(test)]
mod tests;
