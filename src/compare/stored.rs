//! One run against a stored baseline (`gate.md`, section 4): what is compared with what, and how
//! each metric is judged.

use std::collections::BTreeMap;

use crate::compare::estimate::{Series, Sessions, Variance};
use crate::compare::looks::Levels;
use crate::compare::missing::{Mode, Ruling, State, rule, still_measured};
use crate::compare::{
    BLOCKS_NEEDED, Change, Evidence, Finding, Policy, SESSIONS_NEEDED, Verdict, Why, estimate,
    margin, normalised, same, verdict,
};
use crate::record::calibration::{Calibration, Spread};
use crate::record::{AbsenceKind, Block, Case, Record};
use crate::workload::{METRICS, Metric};

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
pub(super) fn rows(baseline: &Record, current: &Record, policy: &Policy) -> Vec<Row> {
    let now = current.scenarios.iter().map(|case| (baseline.case(&case.id), Some(case)));
    let gone = baseline.scenarios.iter().filter(|case| current.case(&case.id).is_none());
    let mut rows = Vec::new();
    for (base, case) in now.chain(gone.map(|case| (Some(case), None))) {
        let id = base.or(case).map_or("", |case| case.id.as_str());
        let removed = policy.removed.get(id).map(String::as_str);
        let states = (state(base, baseline, id), state(case, current, id));
        match (rule(Mode::Stored, states.0, states.1, removed), base, case) {
            (Ruling::Verdict(verdict), ..) => {
                rows.push(Row::Said(Finding::said(id, None, verdict)));
            }
            (Ruling::Judge, Some(base), Some(case)) => match other_work(base, case) {
                Some(verdict) => rows.push(Row::Said(Finding::said(id, None, verdict))),
                None => rows.extend(metrics(base, case)),
            },
            _ => {} // Neither side has it.
        }
    }
    rows
}

/// What a record has of a scenario.
fn state<'a>(case: Option<&'a Case>, record: &Record, id: &str) -> State<'a> {
    match case {
        Some(Case { absent: Some(absent), .. }) => absent.into(),
        Some(case) if case.validity.ok() => State::Valid,
        Some(case) => State::Invalid(&case.validity.failed),
        None if record.not_selected.iter().any(|other| other == id) => State::NotSelected,
        None => State::Absent(AbsenceKind::Unknown, GONE),
    }
}

/// What is said of a scenario that a run neither has nor says that it was not asked for.
const GONE: &str = "it is gone from the run";

/// Why the numbers of two valid cases are not of the same work.
fn other_work(base: &Case, case: &Case) -> Option<Verdict> {
    if let Some(difference) = same::work(&base.work, &case.work) {
        return Some(Verdict::NotComparable(difference));
    }
    match (&base.output_sha256, &case.output_sha256) {
        (Some(before), Some(now)) if before != now => Some(Verdict::OutputChanged(None)),
        _ => None,
    }
}

/// The metrics of two valid cases of the same work.
fn metrics<'a>(base: &'a Case, case: &'a Case) -> impl Iterator<Item = Row> + 'a {
    let row = move |metric: &'static Metric| {
        let said = |verdict| Some(Row::Said(Finding::said(&case.id, Some(metric), verdict)));
        if let Some(verdict) = impossible(base, case, metric) {
            return said(verdict);
        }
        let raw = Sides { base: Series::of(base, metric), current: Series::of(case, metric) };
        let states = (value(base, metric, &raw.base), value(case, metric, &raw.current));
        match rule(Mode::Stored, states.0, states.1, None) {
            Ruling::Silent => None,
            Ruling::Verdict(verdict) => said(verdict),
            Ruling::Judge
                if metric.name == "peak_rss_bytes" && has_shared(base) != has_shared(case) =>
            {
                said(Verdict::NotComparable(SHARED.into()))
            }
            Ruling::Judge => {
                let normalised = normalised::sides(base, case, metric);
                Some(Row::Both(Both { scenario: case.id.clone(), metric, raw, normalised }))
            }
        }
    };
    METRICS.iter().filter(move |metric| metric.gated(&case.work)).filter_map(row)
}

/// What a case has of a metric.
fn value<'a>(case: &'a Case, metric: &Metric, series: &Series) -> State<'a> {
    if series.count() > 0 {
        return State::Valid;
    }
    let note = case.blocks.iter().find_map(|block| block.notes.get(metric.name));
    State::NoValue(note.map_or("the record does not say why it has no value", String::as_str))
}

/// What a reader has to know of what is missing or removed.
pub(super) fn missing_notes(
    current: &Record,
    findings: &[Finding],
    policy: &Policy,
) -> Vec<String> {
    let measured = |id: &str| current.case(id).is_some_and(|case| case.absent.is_none());
    let mut notes = still_measured(policy, measured);
    let gone = findings.iter().any(|finding| {
        matches!(finding.verdict, Verdict::Missing(_)) && current.case(&finding.scenario).is_none()
    });
    if gone && current.not_selected.is_empty() {
        notes.push(
            "the run does not say what it was not asked for, as records of schema 1 never do: what \
             is not in it is missing"
                .into(),
        );
    }
    notes
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
