//! One cycle as a line of JSON: its measurements and verdict, or why it failed. Values are in the
//! unit of the metric's name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::Outcome;
use crate::error::Error;
use crate::record::{Absence, AbsenceKind, Case, Conditions, Record};
use crate::settings::Generation;
use crate::stats;
use crate::workload::{METRICS, metric};

/// Version of a line. Incremented when an older reader would misread a newer line.
pub const SCHEMA: u32 = 2;

/// Shown beside the gated metrics: the end-to-end latency.
const EXTRA_METRIC: &str = metric::E2E_S;

/// Maximum length of a text in characters: an error may quote a whole file.
const MAX_TEXT_CHARS: usize = 600;

/// A cycle in the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// When the cycle ended by the wall clock: UTC, RFC 3339.
    pub at: String,
    /// Duration by the monotonic clock.
    pub took_s: f64,
    /// Why the cycle failed, if it did.
    pub error: Option<String>,
    /// The measurements; `null` if there are none.
    pub measured: Option<Measured>,
}

/// The measurements of a cycle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model as requested.
    pub model: String,
    /// SHA-256 of the model.
    pub model_sha256: String,
    /// Format of the weights in memory.
    pub quant: String,
    /// Engine, device and threads as text.
    pub settings: String,
    /// Sampler and repetitions.
    pub generation: Generation,
    /// Machine class.
    pub machine: String,
    /// Commit that the tool was built from; `null` outside git.
    pub commit: Option<String>,
    /// Whether the tree had uncommitted changes; `null` outside git.
    pub dirty: Option<bool>,
    /// One per scenario.
    pub scenarios: Vec<ScenarioValues>,
    /// The machine before and after.
    pub conditions: Vec<Conditions>,
    /// The verdict.
    pub verdict: VerdictSummary,
}

/// The values of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScenarioValues {
    /// The scenario's id.
    pub id: String,
    /// Medians over processes by metric name: the gated metrics and the end-to-end latency. `null`
    /// if missing.
    pub values: BTreeMap<String, Option<f64>>,
    /// Why there are no values.
    pub absent: Option<Absence>,
    /// Failed plausibility checks: the values are excluded from charts and medians.
    pub invalid: Vec<String>,
}

/// The verdict on a cycle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictSummary {
    /// The outcome against the baseline; `null` without one.
    pub outcome: Option<Outcome>,
    /// The verdict in a sentence, or why there is none.
    pub text: String,
}

impl Entry {
    /// The entry of a cycle that ended at `at` after `took_s` seconds. A cycle with failed
    /// scenarios has failed, but keeps the values of the others.
    pub fn new(at: String, took_s: f64, outcome: Result<Measured, Error>) -> Self {
        let (error, measured) = match outcome {
            Ok(measured) => (measured.failure(), Some(measured.truncated())),
            Err(error) => (Some(error.chain()), None),
        };
        Self { schema: SCHEMA, at, took_s, error: error.map(|text| truncated(&text)), measured }
    }

    /// Whether the entries are comparable: the same work of the same model on the same machine.
    pub(crate) fn is_like(&self, other: &Entry) -> bool {
        self.measured.as_ref().zip(other.measured.as_ref()).is_some_and(|(one, two)| {
            one.generation == two.generation
                && (&one.model, &one.model_sha256, &one.quant)
                    == (&two.model, &two.model_sha256, &two.quant)
                && (&one.settings, &one.machine) == (&two.settings, &two.machine)
        })
    }

    /// A valid value.
    pub fn value(&self, scenario: &str, metric: &str) -> Option<f64> {
        let figures = self.measured.as_ref()?.scenarios.iter().find(|one| one.id == scenario)?;
        let value = figures.values.get(metric).copied().flatten();
        value.filter(|value| figures.invalid.is_empty() && value.is_finite())
    }
}

impl Measured {
    /// The measurements of a record, with its verdict.
    pub fn new(record: &Record, verdict: VerdictSummary) -> Self {
        let (settings, session) = (&record.settings, record.sessions.last());
        Self {
            model: record.model.spec.clone(),
            model_sha256: record.model.sha256.clone(),
            settings: format!(
                "{} on {}, {} threads",
                settings.engine, settings.device, settings.threads
            ),
            generation: settings.generation.clone(),
            quant: record.model.quant.clone(),
            machine: record.machine.class.clone(),
            commit: record.build.commit.clone(),
            dirty: record.build.dirty,
            scenarios: record.scenarios.iter().map(ScenarioValues::new).collect(),
            conditions: session.map(|session| session.conditions.clone()).unwrap_or_default(),
            verdict,
        }
    }

    /// The failed scenarios with reasons. An unsupported scenario has not failed.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed = self.scenarios.iter().filter_map(|one| {
            let absent = one.absent.as_ref();
            let absent = absent.filter(|absent| absent.kind != AbsenceKind::Unsupported);
            let invalid =
                (!one.invalid.is_empty()).then(|| format!("INVALID: {}", one.invalid.join("; ")));
            absent.map(Absence::to_string).or(invalid).map(|why| format!("{}: {why}", one.id))
        });
        let failed: Vec<String> = failed.collect();
        (!failed.is_empty()).then(|| failed.join("; "))
    }

    fn truncated(mut self) -> Self {
        for one in &mut self.scenarios {
            if let Some(absent) = &mut one.absent {
                absent.why = truncated(&absent.why);
            }
            one.invalid = one.invalid.iter().map(|text| truncated(text)).collect();
        }
        self.verdict.text = truncated(&self.verdict.text);
        self
    }
}

impl ScenarioValues {
    fn new(case: &Case) -> Self {
        let shown =
            METRICS.iter().filter(|metric| metric.gated(&case.work) || metric.name == EXTRA_METRIC);
        let values =
            shown.map(|metric| (metric.name.into(), stats::median(&case.values(metric.name))));
        Self {
            id: case.id.clone(),
            values: if case.absent.is_some() { BTreeMap::new() } else { values.collect() },
            absent: case.absent.clone(),
            invalid: case.validity.failed.clone(),
        }
    }
}

/// Truncates text to [`MAX_TEXT_CHARS`] characters.
pub(super) fn truncated(text: &str) -> String {
    text.char_indices()
        .nth(MAX_TEXT_CHARS)
        .map_or(text.into(), |(at, _)| format!("{} …", &text[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Block, Validity, Work};

    fn case(id: &str) -> Case {
        let block = |decode: f64| Block {
            values: [
                ("decode_tok_s".to_string(), Some(decode)),
                ("e2e_s".into(), Some(2.0)),
                ("step_cv".into(), Some(0.1)),
                ("peak_rss_bytes".into(), None),
            ]
            .into(),
            ..Block::default()
        };
        Case {
            id: id.into(),
            work: Work { batch: 1, new_tokens: 16, ..Work::default() },
            blocks: vec![block(10.0), block(20.0), block(60.0)],
            ..Case::default()
        }
    }

    #[test]
    fn values_are_medians_of_gated_metrics_and_missing_ones_are_null() {
        let figures = ScenarioValues::new(&case("short/b1"));
        let expected = [
            ("decode_tok_s".to_string(), Some(20.0)),
            ("e2e_s".into(), Some(2.0)),
            ("peak_rss_bytes".into(), None),
            ("ttft_s".into(), None),
        ];
        assert_eq!(figures.values, expected.into());
    }

    #[test]
    fn a_failed_scenario_fails_the_cycle_but_keeps_other_values() {
        let absent = |kind, why| Some(Absence::new(kind, why));
        let failed = Case { absent: absent(AbsenceKind::Failed, "no memory"), ..case("code/b1") };
        let unsupported =
            Case { absent: absent(AbsenceKind::Unsupported, "ragged"), ..case("code/b4") };
        let scenarios =
            [case("short/b1"), failed, unsupported].iter().map(ScenarioValues::new).collect();
        let measured = Measured { scenarios, ..Measured::default() };
        let entry = Entry::new("2026-11-23T10:00:00Z".into(), 1.5, Ok(measured));
        assert_eq!(entry.error.as_deref(), Some("code/b1: failed: no memory"));
        assert_eq!(entry.value("short/b1", "decode_tok_s"), Some(20.0));
        assert_eq!(entry.value("code/b1", "decode_tok_s"), None);
    }

    #[test]
    fn invalid_values_are_ignored() {
        let validity =
            Validity { failed: vec!["a clock ran backwards".into()], ..Validity::default() };
        let figures = ScenarioValues::new(&Case { validity, ..case("short/b1") });
        let measured = Measured { scenarios: vec![figures], ..Measured::default() };
        let entry = Entry::new("2026-11-23T10:00:00Z".into(), 1.5, Ok(measured));
        assert_eq!(entry.error.as_deref(), Some("short/b1: INVALID: a clock ran backwards"));
        assert_eq!(entry.value("short/b1", "decode_tok_s"), None);
    }

    #[test]
    fn a_long_error_is_truncated() {
        let error = Error::Failed("ü ".repeat(10_000));
        let entry = Entry::new("2026-11-23T10:00:00Z".into(), 0.0, Err(error));
        assert_eq!(entry.error.unwrap().chars().count(), 602);
    }
}
