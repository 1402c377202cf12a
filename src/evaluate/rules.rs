//! The table of rules.

use crate::error::{Error, Result};
use crate::evaluate::gate_rule::GateRule;
use crate::evaluate::rule::{RuleInput, RuleOutput};
use crate::evaluate::{gate_rule, other_rules};

/// A way to detect regressions.
#[derive(Debug)]
pub struct Rule {
    /// Its name on the command line, and its key in the figures.
    pub(crate) name: &'static str,
    /// How it decides, in one line.
    pub(crate) about: &'static str,
    pub(super) kind: RuleKind,
}

#[derive(Debug)]
pub(super) enum RuleKind {
    /// Judges each metric by itself.
    PerMetric(fn(&RuleInput, f64) -> RuleOutput, Threshold),
    /// Judges the metrics of a kind together.
    Joint(GateRule),
}

/// How large a change has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Threshold {
    /// As large as the metric's limit.
    Limit,
    /// This ratio of costs.
    Ratio(f64),
}

impl Threshold {
    /// As a change of ln cost.
    pub(super) fn of(self, input: &RuleInput) -> f64 {
        match self {
            Threshold::Limit => input.limits().0,
            Threshold::Ratio(ratio) => ratio.ln(),
        }
    }
}

use RuleKind::{Joint, PerMetric};
use Threshold::{Limit, Ratio};

/// Every rule. Rules of other tools see a fresh process of each arm whose turns alternate, which
/// favours them: they are usually given all runs of one arm, then all runs of the other.
#[rustfmt::skip]
pub(crate) const RULES: &[Rule] = &[
    Rule { name: "ours", kind: Joint(gate_rule::WHOLE),
        about: "this gate: trimmed t over blocks with variances moderated over the suite, six \
                looks, both real and large" },
    Rule { name: "ours_alone", kind: Joint(gate_rule::OWN_VARIANCE),
        about: "ours with each metric's own variance alone" },
    Rule { name: "ours_from_8", kind: Joint(gate_rule::FROM_EIGHT),
        about: "ours with the first look at 8 blocks in place of 5" },
    Rule { name: "ours_before", kind: Joint(gate_rule::OWN_VARIANCE_FROM_EIGHT),
        about: "both of these: as the gate decided before" },
    Rule { name: "ours_untrimmed", kind: Joint(gate_rule::UNTRIMMED),
        about: "ours with the plain mean in place of the trimmed one" },
    Rule { name: "ours_one_process", kind: Joint(gate_rule::ONE_PROCESS),
        about: "ours with rounds in place of fresh processes as the unit" },
    Rule { name: "ours_no_abba", kind: Joint(gate_rule::NO_ABBA),
        about: "ours with the first turn of each arm only" },
    Rule { name: "ours_no_layout", kind: Joint(gate_rule::NO_LAYOUT),
        about: "ours without the term for code layout" },
    Rule { name: "ours_no_family", kind: Joint(gate_rule::NO_FAMILY),
        about: "ours as if one metric were judged" },
    Rule { name: "naive_5", kind: PerMetric(other_rules::medians, Limit),
        about: "medians of one process each, 5 % of rates, 10 % of TTFT, 15 % of memory" },
    Rule { name: "criterion", kind: PerMetric(other_rules::bootstrap, Ratio(1.01)),
        about: "bootstrap of the means of one process each, 95 %, noise threshold 1 %" },
    Rule { name: "criterion_margin", kind: PerMetric(other_rules::bootstrap, Limit),
        about: "the same with the limit as noise threshold" },
    Rule { name: "github_105", kind: PerMetric(other_rules::medians, Ratio(1.05)),
        about: "github-action-benchmark, alert threshold 105 %" },
    Rule { name: "github_200", kind: PerMetric(other_rules::medians, Ratio(2.0)),
        about: "github-action-benchmark, alert threshold 200 %, its default" },
    Rule { name: "mann_whitney", kind: PerMetric(other_rules::u_test, Ratio(1.0)),
        about: "benchstat: U test of ten processes each, p < 0.05" },
    Rule { name: "mann_whitney_margin", kind: PerMetric(other_rules::u_test, Limit),
        about: "the same, and medians differ by more than the limit" },
    Rule { name: "tango", kind: PerMetric(other_rules::tango, Ratio(1.01)),
        about: "|z| of paired turns of one process each at least 2.6, and more than 1 %" },
];

/// The rules of these names, in the order of the table; all rules if there are no names.
///
/// # Errors
/// When a name is unknown.
pub fn rules(names: &[String]) -> Result<Vec<&'static Rule>> {
    let known = || RULES.iter().map(|rule| rule.name);
    if let Some(name) = names.iter().find(|name| !known().any(|known| known == name.as_str())) {
        return Err(Error::unknown("rule", name, known()));
    }
    let selected = |rule: &&Rule| names.is_empty() || names.iter().any(|name| name == rule.name);
    Ok(RULES.iter().filter(selected).collect())
}
