//! The data that all sections of a report are rendered from, and the conversion of values to cells:
//! with units, struck out if invalid, a dash if missing.

use crate::analysis::{
    Analysis, CaseState, Reading, Reference, Spread, TargetResult, evaluate_targets,
};
use crate::record::{AbsenceKind, Case, Record};
use crate::report::document::{Cell, Text, Tone};
use crate::report::full::ReportOptions;
use crate::report::words::{Lang, Words};
use crate::stats;
use crate::stats::LineFit;
use crate::workload::{METRICS, Metric, metric};

/// Bytes to MiB.
pub(super) const MIB: f64 = 1.0 / (1024.0 * 1024.0);

/// Seconds to milliseconds.
pub(super) const MS: f64 = 1e3;

/// The input of every section.
pub(super) struct RenderContext<'a> {
    pub(super) record: &'a Record,
    pub(super) analysis: Analysis,
    pub(super) lang: Lang,
    pub(super) words: &'static Words,
    pub(super) results: Vec<TargetResult>,
    /// The machine that the targets were set for.
    pub(super) reference: Option<Reference>,
}

impl<'a> RenderContext<'a> {
    pub(super) fn new(record: &'a Record, options: ReportOptions<'_>) -> Self {
        let ReportOptions { lang, targets } = options;
        let results = evaluate_targets(record, targets);
        let (analysis, words) = (Analysis::of(record), lang.words());
        Self { record, analysis, lang, words, results, reference: targets.reference.clone() }
    }

    /// The cell of a missing value.
    pub(super) fn missing(&self) -> Cell {
        Cell::new("\u{2013}", Tone::Plain)
    }

    /// An exact count.
    pub(super) fn count(&self, count: impl Into<Option<usize>>) -> Cell {
        count.into().map_or_else(|| self.missing(), |count| self.lang.count(count).into())
    }

    /// A text about a scenario's number, struck out if the number is invalid.
    fn of(&self, state: &CaseState, text: Option<String>) -> Cell {
        text.map_or_else(|| self.missing(), |text| Cell::new(text, tone(state)))
    }

    /// A number of a scenario, in the unit of its column.
    pub(super) fn number(&self, state: &CaseState, value: Option<f64>) -> Cell {
        self.of(state, value.map(|value| self.lang.number(value)))
    }

    /// A stored number of a scenario; `scale` converts its unit to that of the column.
    pub(super) fn scaled(&self, state: &CaseState, value: Option<f64>, scale: f64) -> Cell {
        self.number(state, value.map(|value| value * scale))
    }

    /// A share of a scenario as a percentage.
    pub(super) fn share(&self, state: &CaseState, value: Option<f64>) -> Cell {
        self.of(state, value.map(|value| self.lang.share(value)))
    }

    /// A median and the standard deviation around it; `scale` converts the stored unit to that of
    /// the column.
    pub(super) fn spread(&self, state: &CaseState, value: Option<Spread>, scale: f64) -> Cell {
        let text = |Spread { median, sd, .. }: Spread| match sd {
            Some(sd) => self.lang.with_sd(median * scale, sd * scale),
            None => self.lang.number(median * scale),
        };
        self.of(state, value.map(text))
    }

    /// A metric's name, and a reading of it with its unit if there is one.
    pub(super) fn labelled(
        &self,
        name: &str,
        state: &CaseState,
        reading: &Reading,
    ) -> (Text, Option<Cell>) {
        let Some(metric) = metric(name) else { return (name.into(), None) };
        let value = reading.value.map(|value| self.lang.metric_value_with_unit(metric, value));
        (self.lang.metric_name(metric).into(), value.map(|text| Cell::new(text, tone(state))))
    }

    /// A slope and its confidence interval.
    pub(super) fn slope(&self, fit: &LineFit, scale: f64) -> Cell {
        let number = |value: f64| self.lang.number(value * scale);
        let value = number(fit.line.slope);
        match fit.slope_90 {
            Some((low, high)) => {
                let (low, high) = (number(low), number(high));
                format!("{value} [{low}{}{high}]", self.lang.semicolon()).into()
            }
            None => value.into(),
        }
    }

    /// The first gated rate, latency and memory metric of a scenario.
    pub(super) fn gated_metrics(&self, case: &Case) -> [Cell; 3] {
        let state = CaseState::of(case);
        let first = |is: fn(&Metric) -> bool| {
            let metric = METRICS.iter().find(|metric| metric.gated(&case.work) && is(metric))?;
            Some((metric, stats::median(&case.values(metric.name))?))
        };
        // Rates differ in their units.
        let rate = first(|metric| metric.unit.contains('/'));
        let rate = rate.map(|(metric, value)| self.lang.metric_value_with_unit(metric, value));
        let others = [first(|metric| metric.unit == "ms"), first(|metric| metric.unit == "MiB")];
        let [latency, memory] =
            others.map(|of| of.map(|(metric, value)| self.lang.metric_value(metric, value)));
        [rate, latency, memory].map(|text| self.of(&state, text))
    }

    /// The validity of a scenario.
    pub(super) fn validity(&self, case: &Case) -> Cell {
        let words = &self.words.scenarios;
        match (&case.absent, case.validity.ok(), case.validity.warnings.as_slice()) {
            (Some(absent), ..) => {
                let failed = absent.kind == AbsenceKind::Failed;
                Cell::new(absent.to_string(), if failed { Tone::Bad } else { Tone::Unsure })
            }
            (None, false, _) => {
                let why = case.validity.failed.join(self.lang.semicolon());
                Cell::new(Text::from_template(words.invalid, &[("why", &why)]), Tone::Bad)
            }
            (None, true, []) if case.blocks.is_empty() => {
                Cell::new(self.words.frame.not_measured, Tone::Unsure)
            }
            (None, true, []) => Cell::new(words.valid, Tone::Good),
            (None, true, warnings) => {
                let what = warnings.join(self.lang.semicolon());
                Cell::new(Text::from_template(words.warned, &[("what", &what)]), Tone::Good)
            }
        }
    }

    /// The spread of a metric: the standard deviation divided by the mean, between processes if
    /// there are several, otherwise within the single process, which is marked.
    pub(super) fn relative_sd(&self, case: &Case, metric: &Metric) -> Cell {
        let share = |values: &[f64]| {
            let mean = stats::mean(values).filter(|mean| *mean != 0.0)?;
            Some(self.lang.share(stats::sd(values)? / mean))
        };
        let within = || {
            let share = share(case.blocks.first()?.samples.get(metric.name)?)?;
            Some(Text::from_template(self.words.every.one_process, &[("share", &share)]))
        };
        let spread = share(&case.values(metric.name)).map(Text::from).or_else(within);
        spread.map_or_else(|| self.missing(), Cell::from)
    }
}

/// The tone of a scenario's numbers.
pub(super) fn tone(state: &CaseState) -> Tone {
    if matches!(state, CaseState::Invalid(_)) { Tone::Struck } else { Tone::Plain }
}
