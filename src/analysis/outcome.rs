//! How a record stands to targets: as measured, and as it would be with the memory bandwidth of the
//! machine that they were set for.

use serde::Serialize;

use super::targets::{Follows, QuantClass, Target, Targets};
use super::values::{State, reading, sound};
use crate::record::{Block, Case, Caveat, Model, Record};
use crate::workload::{Better, SUITES};

/// One target and what a record says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetResult {
    /// The target.
    pub target: Target,
    /// The record's model, where the target is for one that it stands in for.
    pub stands_in: Option<String>,
    /// The scenario that was looked at.
    pub case: Option<String>,
    /// The metric that had a value.
    pub metric: Option<String>,
    /// As measured, in the target's unit.
    pub value: Option<f64>,
    /// Of the value as measured.
    pub verdict: TargetVerdict,
    /// A projection, in the target's unit: rates times the reference machine's read bandwidth by
    /// the measured one, times the other way round. Fair to decoding, which reads all weights
    /// for each token; generous or harsh to anything that computes.
    pub scaled: Option<f64>,
    /// Of the scaled value.
    pub scaled_verdict: TargetVerdict,
    /// What the record says to a value that is missing or cannot decide; the scenarios that are
    /// open where it is the best of several.
    pub why: Option<String>,
}

/// What became of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetVerdict {
    /// The value is on the good side of the bound that decides.
    Met,
    /// It is not.
    NotMet,
    /// There is no value, or one that cannot decide: no pass and no failure.
    NotMeasurable(Unmeasurable),
}

/// Why a target has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmeasurable {
    /// The record is of another model.
    OtherModel,
    /// Its weights are held in other bits.
    OtherQuant,
    /// No scenario measures it.
    NoScenario,
    /// The scenario was not run.
    NotRun,
    /// The engine cannot do the scenario.
    Unsupported,
    /// The scenario failed.
    Failed,
    /// The scenario's numbers cannot be true.
    Invalid,
    /// The scenario was run, but the metric has no value: no counter, for example.
    NoValue,
    /// The value is a lower bound that keeps to the target; what was between its samples may not.
    LowerBound,
    /// Values of this kind do not follow the bandwidth of memory.
    NotScaled,
    /// The bandwidth of one of the machines is not known.
    NoBandwidth,
}

/// Results counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TargetSummary {
    /// Met as measured.
    pub met: usize,
    /// Not met as measured.
    pub not_met: usize,
    /// Met when scaled.
    pub scaled_met: usize,
    /// Not met when scaled.
    pub scaled_not_met: usize,
    /// Without a verdict as measured, by why.
    pub not_measurable: Vec<(Unmeasurable, usize)>,
}

/// Counts results.
pub fn summarise(results: &[TargetResult]) -> TargetSummary {
    let mut summary = TargetSummary::default();
    for result in results {
        match result.verdict {
            TargetVerdict::Met => summary.met += 1,
            TargetVerdict::NotMet => summary.not_met += 1,
            TargetVerdict::NotMeasurable(why) => {
                match summary.not_measurable.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, count)) => *count += 1,
                    None => summary.not_measurable.push((why, 1)),
                }
            }
        }
        match result.scaled_verdict {
            TargetVerdict::Met => summary.scaled_met += 1,
            TargetVerdict::NotMet => summary.scaled_not_met += 1,
            TargetVerdict::NotMeasurable(_) => {}
        }
    }
    summary.not_measurable.sort();
    summary
}

/// How a record stands to every target, in their order.
pub fn evaluate(record: &Record, targets: &Targets) -> Vec<TargetResult> {
    let names = Names::of(&record.model, targets);
    targets.rows.iter().map(|target| judge(record, targets, target, &names)).collect()
}

fn judge(record: &Record, targets: &Targets, target: &Target, names: &Names) -> TargetResult {
    let found = find(record, target, names);
    let mut result = TargetResult {
        target: target.clone(),
        stands_in: names.stands_in(&target.model),
        case: None,
        metric: None,
        value: None,
        verdict: TargetVerdict::NotMet,
        scaled: None,
        scaled_verdict: TargetVerdict::NotMet,
        why: None,
    };
    match found {
        Err(Missing { reason, case, why }) => {
            result.verdict = TargetVerdict::NotMeasurable(reason);
            result.scaled_verdict = result.verdict;
            (result.case, result.why) = (case.map(|case| case.id.clone()), why);
        }
        Ok(found) => {
            let value = target.unit.show(found.stored);
            result.case = Some(found.case.id.clone());
            result.metric = Some(found.metric.into());
            result.value = Some(value);
            let doubt = Doubt::of(record, target, &found);
            result.verdict = doubt.settle(against(target, value));
            match scale(record, targets, target, value) {
                Ok(scaled) => {
                    result.scaled = Some(scaled);
                    result.scaled_verdict = doubt.settle(against(target, scaled));
                }
                Err(why) => result.scaled_verdict = TargetVerdict::NotMeasurable(why),
            }
            if let TargetVerdict::NotMeasurable(_) = result.verdict {
                result.why = doubt.why;
            }
        }
    }
    result
}

/// Why a value may not decide although there is one.
#[derive(Default)]
struct Doubt {
    /// It is no pass: a lower bound of what should be low.
    no_pass: Option<Unmeasurable>,
    /// It is no miss: the best of several scenarios of which some are open, and what is open with
    /// the first of those.
    no_miss: Option<Unmeasurable>,
    /// What the record says of it, or the scenarios that are open.
    why: Option<String>,
}

impl Doubt {
    fn of(record: &Record, target: &Target, found: &Found) -> Self {
        if found.metric == DEVICE_MEMORY
            && let Some(note) = lower_bound(found.case, found.metric)
        {
            let no_pass = Some(Unmeasurable::LowerBound);
            return Self { no_pass, why: Some(note.into()), ..Self::default() };
        }
        let open = open(record, target);
        let ids: Vec<&str> = open.iter().map(|(id, _)| id.as_str()).collect();
        let why = (!ids.is_empty()).then(|| ids.join(", "));
        Self { no_miss: open.first().map(|(_, reason)| *reason), why, ..Self::default() }
    }

    fn settle(&self, verdict: TargetVerdict) -> TargetVerdict {
        let doubt = match verdict {
            TargetVerdict::Met => self.no_pass,
            TargetVerdict::NotMet => self.no_miss,
            TargetVerdict::NotMeasurable(_) => None,
        };
        doubt.map_or(verdict, TargetVerdict::NotMeasurable)
    }
}

/// Memory of an accelerator, read by its driver.
const DEVICE_MEMORY: &str = "peak_device_bytes";

/// Memory of the process on the host; the model's only where the host computes.
const HOST_MEMORY: &str = "peak_rss_bytes";

/// What is said of the first value that is a lower bound; `None` where all are more than that.
fn lower_bound<'a>(case: &'a Case, metric: &str) -> Option<&'a str> {
    let is_one = |block: &&Block| block.caveats.get(metric) == Some(&Caveat::LowerBound);
    let block = case.blocks.iter().find(is_one)?;
    Some(block.notes.get(metric).map_or("", String::as_str))
}

/// Scenarios of the suites that the target is the best of and that have no value in the record,
/// each with why. What the engine cannot do is not open: it will not be the best.
fn open(record: &Record, target: &Target) -> Vec<(String, Unmeasurable)> {
    let Some(pattern) = target.scenario.as_deref().filter(|id| id.ends_with('*')) else {
        return Vec::new();
    };
    let mut open: Vec<(String, Unmeasurable)> = Vec::new();
    for scenario in SUITES.iter().flat_map(|suite| (suite.scenarios)()) {
        let known = open.iter().any(|(id, _)| *id == scenario.id);
        if known || !matches(pattern, &scenario.id) {
            continue;
        }
        let reason = match record.case(&scenario.id).map(|case| value(record, case, target)) {
            None => Unmeasurable::NotRun,
            Some(Err(Missing { reason, .. })) if reason != Unmeasurable::Unsupported => reason,
            Some(_) => continue,
        };
        open.push((scenario.id, reason));
    }
    open
}

fn against(target: &Target, value: f64) -> TargetVerdict {
    let bound = target.bound().expect("targets are checked when they are read");
    let met = match target.better() {
        Better::Higher => value >= bound,
        Better::Lower => value <= bound,
    };
    if met { TargetVerdict::Met } else { TargetVerdict::NotMet }
}

fn scale(
    record: &Record,
    targets: &Targets,
    target: &Target,
    value: f64,
) -> Result<f64, Unmeasurable> {
    let ratio = || {
        let there = targets.reference.as_ref()?.read_bytes_per_s;
        let here = record.machine.rates.best_read_bytes_per_s().filter(|rate| *rate > 0.0)?;
        Some(there / here)
    };
    match target.unit.follows() {
        Follows::Rate => Ok(value * ratio().ok_or(Unmeasurable::NoBandwidth)?),
        Follows::Time => Ok(value / ratio().ok_or(Unmeasurable::NoBandwidth)?),
        Follows::Nothing => Err(Unmeasurable::NotScaled),
    }
}

struct Found<'a> {
    case: &'a Case,
    metric: &'a str,
    stored: f64,
}

struct Missing<'a> {
    reason: Unmeasurable,
    case: Option<&'a Case>,
    why: Option<String>,
}

fn find<'a>(
    record: &'a Record,
    target: &'a Target,
    names: &Names,
) -> Result<Found<'a>, Missing<'a>> {
    let missing = |reason| Missing { reason, case: None, why: None };
    if !names.match_pattern(&target.model) {
        return Err(missing(Unmeasurable::OtherModel));
    }
    if target.quant.is_some() && target.quant != QuantClass::of(&record.model.quant) {
        return Err(missing(Unmeasurable::OtherQuant));
    }
    let scenario = target.scenario.as_deref().ok_or_else(|| missing(Unmeasurable::NoScenario))?;
    let cases = record.scenarios.iter().filter(|case| matches(scenario, &case.id));
    let results: Vec<_> = cases.map(|case| value(record, case, target)).collect();
    let values = results.iter().filter_map(|result| result.as_ref().ok());
    let cost = |found: &Found| target.better().cost(found.stored);
    let best = values.min_by(|a, b| cost(a).total_cmp(&cost(b)));
    match best {
        Some(Found { case, metric, stored }) => Ok(Found { case, metric, stored: *stored }),
        None => Err(results
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| missing(Unmeasurable::NotRun))),
    }
}

/// The first of the target's metrics that the case has. Memory of the host does not stand in for
/// that of another device.
fn value<'a>(
    record: &Record,
    case: &'a Case,
    target: &'a Target,
) -> Result<Found<'a>, Missing<'a>> {
    let missing = |reason, why| Err(Missing { reason, case: Some(case), why });
    match State::of(case) {
        State::Valid => {}
        State::Invalid(failed) => return missing(Unmeasurable::Invalid, Some(failed.join("; "))),
        State::Unsupported(why) => return missing(Unmeasurable::Unsupported, Some(why)),
        State::Skipped(why) => return missing(Unmeasurable::NotRun, Some(why)),
        State::Failed(why) => return missing(Unmeasurable::Failed, Some(why)),
        State::Empty => return missing(Unmeasurable::NotRun, None),
    }
    let elsewhere =
        record.settings.device != "cpu" && target.metric.iter().any(|one| one == DEVICE_MEMORY);
    let metrics = target.metric.iter().filter(|one| !(elsewhere && *one == HOST_MEMORY));
    match metrics.clone().find_map(|metric| Some((metric, sound(case, metric)?))) {
        Some((metric, stored)) => Ok(Found { case, metric, stored }),
        None => {
            let why = metrics.clone().find_map(|metric| reading(case, metric).why);
            missing(Unmeasurable::NoValue, why)
        }
    }
}

/// Whether a pattern, which may end with `*`, means this name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// Shapes by what a record has of them: name, architecture, layers and width. Beside the shapes of models, because records are
/// judged by builds without any; a test holds the two together.
#[rustfmt::skip]
pub(super) const SHAPES: &[(&str, &str, usize, usize)] = &[
    ("qwen3-0.6b",   "qwen3", 28, 1024),
    ("qwen3-1.7b",   "qwen3", 28, 2048),
    ("qwen3-4b",     "qwen3", 36, 2560),
    ("qwen3-8b",     "qwen3", 36, 4096),
    ("qwen3-14b",    "qwen3", 40, 5120),
    ("qwen3-32b",    "qwen3", 64, 5120),
    ("qwen2.5-0.5b", "qwen2", 24, 896),
    ("qwen2.5-1.5b", "qwen2", 28, 1536),
    ("qwen2.5-7b",   "qwen2", 28, 3584),
    ("qwen2.5-32b",  "qwen2", 64, 5120),
];

/// What the model of a record may be called.
struct Names {
    /// As it was asked for: only the very same word means it.
    spec: String,
    /// Its shape's name, from its numbers wherever it came from.
    shape: Option<&'static str>,
    /// Names that it stands in for.
    aliases: Vec<String>,
}

impl Names {
    fn of(model: &Model, targets: &Targets) -> Self {
        let numbers = (model.architecture.as_str(), model.layers, model.hidden);
        let by_numbers = SHAPES.iter().find(|shape| (shape.1, shape.2, shape.3) == numbers);
        let named = model.spec.strip_prefix("synthetic:");
        let by_name = || SHAPES.iter().find(|shape| Some(shape.0) == named);
        let unknown = model.layers == 0 && model.hidden == 0;
        let found = by_numbers.or_else(|| if unknown { by_name() } else { None });
        let shape = found.map(|shape| shape.0);
        let stands_in =
            |names: &[String]| shape.is_some_and(|shape| names.iter().any(|n| n == shape));
        let aliases = targets.aliases.iter().filter(|(_, names)| stands_in(names));
        let aliases = aliases.map(|(alias, _)| alias.clone()).collect();
        Self { spec: model.spec.clone(), shape, aliases }
    }

    fn match_pattern(&self, pattern: &str) -> bool {
        let is_shape = self.shape.is_some_and(|shape| matches(pattern, shape));
        pattern == "*" || pattern == self.spec || is_shape || self.is_alias(pattern)
    }

    fn is_alias(&self, pattern: &str) -> bool {
        self.aliases.iter().any(|alias| matches(pattern, alias))
    }

    /// The shape, where the pattern means it only as a stand-in.
    fn stands_in(&self, pattern: &str) -> Option<String> {
        let shape = self.shape.filter(|shape| !matches(pattern, shape))?;
        self.is_alias(pattern).then(|| shape.into())
    }
}
