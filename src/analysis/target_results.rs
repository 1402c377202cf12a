//! Status of targets: as measured, and scaled to the memory bandwidth of the reference machine.

use serde::Serialize;

use super::targets::{BandwidthScaling, QuantClass, Target, Targets};
use super::values::{CaseState, reading, valid_median};
use crate::record::{Block, Case, Caveat, Model, Record};
use crate::workload::{Better, SUITES, metric};

/// One target and the status of a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TargetResult {
    pub(crate) target: Target,
    /// The record's model, if it stands in for the target's model.
    pub(crate) stands_in: Option<String>,
    /// The scenario that measures it.
    pub(crate) case: Option<String>,
    /// The metric that measures it.
    pub(crate) metric: Option<String>,
    /// As measured, in the target's unit.
    pub(crate) value: Option<f64>,
    /// Status of the measured value.
    pub(crate) verdict: TargetVerdict,
    /// A projection to the reference machine, in the target's unit: rates are multiplied by the
    /// ratio of its read bandwidth to the measured one, times are divided by it. Accurate for
    /// decode, which reads all weights for each token; not for compute-bound work.
    pub(crate) scaled: Option<f64>,
    /// Status of the scaled value.
    pub(crate) scaled_verdict: TargetVerdict,
    /// The record's note on a value that is missing or cannot decide; for the best of several
    /// scenarios those that are unmeasured.
    pub(crate) why: Option<String>,
}

/// Status of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetVerdict {
    /// The value is on the good side of the bound.
    Met,
    /// The value is on the bad side of the bound.
    NotMet,
    /// There is no value, or one that cannot decide.
    NotMeasurable(Unmeasurable),
}

/// Why a target has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unmeasurable {
    /// The record is of another model.
    OtherModel,
    /// The record is of another quantization.
    OtherQuant,
    /// No scenario measures it.
    NoScenario,
    /// The scenario was not run.
    NotRun,
    /// The engine cannot do the scenario.
    Unsupported,
    /// The scenario failed.
    Failed,
    /// The scenario's numbers are invalid.
    Invalid,
    /// The scenario was run, but the metric has no value: no counter, for example.
    NoValue,
    /// The value is a lower bound that meets the target; the true value may not.
    LowerBound,
    /// Values of this unit do not scale with memory bandwidth.
    NotScaled,
    /// The bandwidth of one of the machines is unknown.
    NoBandwidth,
}

/// The status of every target, in order.
pub(crate) fn evaluate_targets(record: &Record, targets: &Targets) -> Vec<TargetResult> {
    let names = ModelNames::of(&record.model, targets);
    targets.rows.iter().map(|target| judge(record, targets, target, &names)).collect()
}

fn judge(record: &Record, targets: &Targets, target: &Target, names: &ModelNames) -> TargetResult {
    let found = find_value(record, target, names);
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
            let value = target.unit.convert(found.stored);
            result.case = Some(found.case.id.clone());
            result.metric = Some(found.metric.into());
            result.value = Some(value);
            let uncertainty = Uncertainty::of(record, target, &found);
            result.verdict = uncertainty.apply(verdict(target, value));
            match scale(record, targets, target, value) {
                Ok(scaled) => {
                    result.scaled = Some(scaled);
                    result.scaled_verdict = uncertainty.apply(verdict(target, scaled));
                }
                Err(why) => result.scaled_verdict = TargetVerdict::NotMeasurable(why),
            }
            if let TargetVerdict::NotMeasurable(_) = result.verdict {
                result.why = uncertainty.why;
            }
        }
    }
    result
}

/// Why an existing value may not decide.
#[derive(Default)]
struct Uncertainty {
    /// The target cannot count as met: the value is a lower bound of a metric that should be low.
    not_met: Option<Unmeasurable>,
    /// The target cannot count as missed: some of several scenarios are unmeasured, for the reason
    /// of the first of them.
    not_missed: Option<Unmeasurable>,
    /// The record's note, or the unmeasured scenarios.
    why: Option<String>,
}

impl Uncertainty {
    fn of(record: &Record, target: &Target, found: &Measurement) -> Self {
        if found.metric == metric::PEAK_DEVICE_BYTES
            && let Some(note) = lower_bound(found.case, found.metric)
        {
            let not_met = Some(Unmeasurable::LowerBound);
            return Self { not_met, why: Some(note.into()), ..Self::default() };
        }
        let unmeasured = unmeasured(record, target);
        let ids: Vec<&str> = unmeasured.iter().map(|(id, _)| id.as_str()).collect();
        let why = (!ids.is_empty()).then(|| ids.join(", "));
        Self { not_missed: unmeasured.first().map(|(_, reason)| *reason), why, ..Self::default() }
    }

    fn apply(&self, verdict: TargetVerdict) -> TargetVerdict {
        let reason = match verdict {
            TargetVerdict::Met => self.not_met,
            TargetVerdict::NotMet => self.not_missed,
            TargetVerdict::NotMeasurable(_) => None,
        };
        reason.map_or(verdict, TargetVerdict::NotMeasurable)
    }
}

/// The note of the first value that is a lower bound, if any.
fn lower_bound<'a>(case: &'a Case, metric: &str) -> Option<&'a str> {
    let is_one = |block: &&Block| block.caveats.get(metric) == Some(&Caveat::LowerBound);
    let block = case.blocks.iter().find(is_one)?;
    Some(block.notes.get(metric).map_or("", String::as_str))
}

/// The scenarios that match the target's pattern but have no value in the record, with the reasons.
/// Without unsupported ones, which cannot become the best.
fn unmeasured(record: &Record, target: &Target) -> Vec<(String, Unmeasurable)> {
    let Some(pattern) = target.scenario.as_deref().filter(|id| id.ends_with('*')) else {
        return Vec::new();
    };
    let mut unmeasured: Vec<(String, Unmeasurable)> = Vec::new();
    for scenario in SUITES.iter().flat_map(|suite| (suite.scenarios)()) {
        let known = unmeasured.iter().any(|(id, _)| *id == scenario.id);
        if known || !matches(pattern, &scenario.id) {
            continue;
        }
        let reason = match record.case(&scenario.id).map(|case| case_value(record, case, target)) {
            None => Unmeasurable::NotRun,
            Some(Err(Missing { reason, .. })) if reason != Unmeasurable::Unsupported => reason,
            Some(_) => continue,
        };
        unmeasured.push((scenario.id, reason));
    }
    unmeasured
}

fn verdict(target: &Target, value: f64) -> TargetVerdict {
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
    match target.unit.scaling {
        BandwidthScaling::Proportional => Ok(value * ratio().ok_or(Unmeasurable::NoBandwidth)?),
        BandwidthScaling::Inverse => Ok(value / ratio().ok_or(Unmeasurable::NoBandwidth)?),
        BandwidthScaling::Independent => Err(Unmeasurable::NotScaled),
    }
}

#[derive(Clone, Copy)]
struct Measurement<'a> {
    case: &'a Case,
    metric: &'a str,
    stored: f64,
}

struct Missing<'a> {
    reason: Unmeasurable,
    case: Option<&'a Case>,
    why: Option<String>,
}

fn find_value<'a>(
    record: &'a Record,
    target: &'a Target,
    names: &ModelNames,
) -> Result<Measurement<'a>, Missing<'a>> {
    let missing = |reason| Missing { reason, case: None, why: None };
    if !names.match_pattern(&target.model) {
        return Err(missing(Unmeasurable::OtherModel));
    }
    if target.quant.is_some() && target.quant != QuantClass::of(&record.model.quant) {
        return Err(missing(Unmeasurable::OtherQuant));
    }
    let scenario = target.scenario.as_deref().ok_or_else(|| missing(Unmeasurable::NoScenario))?;
    let cases = record.scenarios.iter().filter(|case| matches(scenario, &case.id));
    let results: Vec<_> = cases.map(|case| case_value(record, case, target)).collect();
    let values = results.iter().filter_map(|result| result.as_ref().ok());
    let cost = |found: &Measurement| target.better().cost(found.stored);
    let best = values.min_by(|a, b| cost(a).total_cmp(&cost(b))).copied();
    best.map_or_else(
        || Err(results.into_iter().find_map(Result::err).unwrap_or(missing(Unmeasurable::NotRun))),
        Ok,
    )
}

/// The first of the target's metrics that the case has. Memory of the host does not replace that of
/// another device.
fn case_value<'a>(
    record: &Record,
    case: &'a Case,
    target: &'a Target,
) -> Result<Measurement<'a>, Missing<'a>> {
    let missing = |reason, why| Err(Missing { reason, case: Some(case), why });
    match CaseState::of(case) {
        CaseState::Valid => {}
        CaseState::Invalid(failed) => {
            return missing(Unmeasurable::Invalid, Some(failed.join("; ")));
        }
        CaseState::Unsupported(why) => return missing(Unmeasurable::Unsupported, Some(why)),
        CaseState::Skipped(why) => return missing(Unmeasurable::NotRun, Some(why)),
        CaseState::Failed(why) => return missing(Unmeasurable::Failed, Some(why)),
        CaseState::Empty => return missing(Unmeasurable::NotRun, None),
    }
    // On another device, the host's memory is not the model's.
    let elsewhere = record.settings.device != "cpu"
        && target.metric.iter().any(|one| one == metric::PEAK_DEVICE_BYTES);
    let metrics = target.metric.iter().filter(|one| !(elsewhere && *one == metric::PEAK_RSS_BYTES));
    match metrics.clone().find_map(|metric| Some((metric, valid_median(case, metric)?))) {
        Some((metric, stored)) => Ok(Measurement { case, metric, stored }),
        None => {
            let why = metrics.clone().find_map(|metric| reading(case, metric).why);
            missing(Unmeasurable::NoValue, why)
        }
    }
}

/// Whether a pattern, which may end in `*`, matches a name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// Published models as records show them: name, architecture, layers, hidden size. A copy of the
/// table in `model`, because builds without the engine analyse records, too; a test compares both.
#[rustfmt::skip]
pub(super) const MODEL_SHAPES: &[(&str, &str, usize, usize)] = &[
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

/// The names that match the model of a record.
struct ModelNames {
    /// As given on the command line; matches literally.
    spec: String,
    /// The name of its shape, from its dimensions.
    shape: Option<&'static str>,
    /// Models that it stands in for.
    aliases: Vec<String>,
}

impl ModelNames {
    fn of(model: &Model, targets: &Targets) -> Self {
        let numbers = (model.architecture.as_str(), model.layers, model.hidden);
        let by_numbers = MODEL_SHAPES.iter().find(|shape| (shape.1, shape.2, shape.3) == numbers);
        let named = model.spec.strip_prefix("synthetic:");
        let by_name = || MODEL_SHAPES.iter().find(|shape| Some(shape.0) == named);
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

    /// The shape, if it matches the pattern only as a stand-in.
    fn stands_in(&self, pattern: &str) -> Option<String> {
        let shape = self.shape.filter(|shape| !matches(pattern, shape))?;
        self.is_alias(pattern).then(|| shape.into())
    }
}
