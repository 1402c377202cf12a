//! The pages of a monitor, rendered before and after a cycle and never during a measurement. The
//! template escapes all text from measurements and files.

use jiff::{SignedDuration, Timestamp};
use minijinja::value::Serde;
use minijinja::{Value, context};

use crate::error::Result;
use crate::monitor::entry::{Entry, Measured, ScenarioValues};
use crate::monitor::figures::{AgedEntry, MetricRow, MonitorChart};
use crate::monitor::history::{History, MAX_ENTRIES};
use crate::monitor::{Ended, Pages, Phase, Plan, figures, format_time, prometheus};
use crate::report::{Card, CardFigure, Lang, Text, Tone};
use crate::workload::METRICS;
use crate::{machine, report};

/// Maximum number of errors shown.
const MAX_ERRORS: usize = 10;

/// Reload interval of the page, in seconds.
const REFRESH_S: u32 = 15;

/// The input of the pages.
pub(super) struct PageInput<'a> {
    pub(super) plan: &'a Plan,
    pub(super) history: &'a History,
    pub(super) ended: Ended,
    /// The start on both clocks.
    pub(super) began: (SignedDuration, Timestamp),
    pub(super) phase: Phase,
    pub(super) elapsed: SignedDuration,
    pub(super) now: Timestamp,
}

/// A cycle as a line for the terminal.
pub(super) fn line(entry: &Entry) -> String {
    let summary = match (&entry.error, &entry.measured) {
        (Some(error), _) => format!("failed: {error}"),
        (None, Some(measured)) => match measured.verdict.outcome {
            Some(_) => measured.verdict.text.clone(),
            None => format!("{}; no verdict", rate_summary(entry, measured)),
        },
        (None, None) => "nothing measured".into(),
    };
    format!("{} ({:.1} s): {summary}", entry.at, entry.took_s)
}

/// The first metric of each scenario, which is its rate.
fn rate_summary(entry: &Entry, measured: &Measured) -> String {
    let rate = |one: &ScenarioValues| {
        let found =
            METRICS.iter().find_map(|metric| Some((metric, entry.value(&one.id, metric.name)?)));
        found.map_or(one.id.clone(), |(metric, value)| {
            format!(
                "{} {} {} {}",
                one.id,
                metric.label,
                report::metric_value(metric, value),
                metric.unit
            )
        })
    };
    measured.scenarios.iter().map(rate).collect::<Vec<String>>().join(", ")
}

impl PageInput<'_> {
    /// Renders all pages.
    pub(super) fn pages(&self) -> Result<Pages> {
        let cycles: Vec<AgedEntry<'_>> = self
            .history
            .entries()
            .map(|(ended_at, entry)| (self.elapsed - ended_at, entry))
            .collect();
        let newest = cycles.last();
        let about = prometheus::MonitorStats {
            ended: self.ended,
            interval_s: self.plan.interval.as_secs_f64(),
            pending: self.history.pending(),
            newest: newest.map(|(age, _)| self.ago(*age)),
        };
        Ok(Pages {
            html: report::render("monitor.html", self.data(&cycles))?,
            metrics: prometheus::text(&about, newest.map(|(_, entry)| *entry)),
            history: self.history.lines(),
        })
    }

    /// The wall clock time at an age.
    fn ago(&self, age: SignedDuration) -> Timestamp {
        self.now.saturating_sub(age).unwrap_or(self.now)
    }

    fn data(&self, cycles: &[AgedEntry<'_>]) -> Value {
        let rows = figures::rows(cycles);
        let now = self.now.as_millisecond() as f64 / 1e3;
        let newest = figures::newest(cycles).map(|(_, measured)| measured);
        let mut card = card(cycles, &rows);
        card.warnings.splice(0..0, self.notes().into_iter().map(Into::into));
        let mut trends = figures::trends(cycles, &rows, now);
        trends.push(figures::available(cycles, now));
        let errors = cycles.iter().rev().filter_map(|(age, entry)| {
            Some(Value::from(vec![format_time(self.ago(*age)), entry.error.clone()?]))
        });
        context! {
            lang => "en",
            title => format!("candlemark: monitor of {}", self.plan.about),
            refresh => REFRESH_S,
            made => format_time(self.now),
            card => Value::from(Serde(card)),
            next => self.next(),
            grounds => newest.map(table_note),
            rows => rows.iter().map(|row| Value::from(row.cells().to_vec())).collect::<Vec<Value>>(),
            trends => pictures(&trends),
            distributions => pictures(&figures::distributions(&rows)),
            errors => errors.take(MAX_ERRORS).collect::<Vec<Value>>(),
            failures => cycles.iter().filter(|(_, entry)| entry.error.is_some()).count(),
            machine => newest.map(machine_rows).unwrap_or_default(),
            about => self.about(cycles, newest),
        }
    }

    /// The state of the monitor, and the time of the next cycle.
    fn next(&self) -> String {
        match self.phase {
            Phase::Measuring => {
                format!("A cycle has been running since {}.", format_time(self.now))
            }
            Phase::Waiting(until) => {
                let next = self.now.saturating_add(until - self.elapsed).unwrap_or(self.now);
                format!("Next cycle at {}.", format_time(next))
            }
            Phase::Ended => "The monitor has ended.".into(),
        }
    }

    /// Warnings above the numbers.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(write_error) = self.history.write_error() {
            let pending = self.history.pending();
            notes.push(format!(
                "The history cannot be written: {write_error}. {pending} entries are pending in \
                 memory; they are lost if the monitor ends before they can be written."
            ));
        }
        if self.history.entries().count() >= MAX_ENTRIES {
            notes.push(format!(
                "Only the newest {MAX_ENTRIES} cycles are kept, fewer than the window holds."
            ));
        }
        notes
    }

    fn about(&self, cycles: &[AgedEntry<'_>], newest: Option<&Measured>) -> Vec<Value> {
        let length = |time: SignedDuration| report::duration(time.as_secs_f64());
        let seconds = |time: std::time::Duration| report::duration(time.as_secs_f64());
        let Ended { cycles: all, failures, .. } = self.ended;
        let commit = newest.and_then(|measured| {
            let changes =
                if measured.dirty == Some(true) { " with uncommitted changes" } else { "" };
            Some(measured.commit.clone()? + changes)
        });
        let last = cycles.last().map(|(age, entry)| {
            format!("{}, took {}", format_time(self.ago(*age)), report::duration(entry.took_s))
        });
        let of = |text: fn(&Measured) -> &String| newest.map(|measured| text(measured).clone());
        let history = format!("{}, {} entries", self.history.path().display(), cycles.len());
        [
            ("model", of(|measured| &measured.model)),
            ("model sha256", of(|measured| &measured.model_sha256)),
            ("weights", of(|measured| &measured.quant)),
            ("settings", of(|measured| &measured.settings)),
            ("machine", of(|measured| &measured.machine)),
            ("commit", commit),
            ("last cycle", last),
            ("cycles", Some(format!("{all}, {failures} failed"))),
            ("started", Some(format_time(self.began.1))),
            ("uptime", Some(length(self.elapsed - self.began.0))),
            ("interval", Some(seconds(self.plan.interval))),
            ("retry after failure", Some(seconds(self.plan.retry))),
            ("window", Some(length(self.history.window()))),
            ("history", Some(history)),
        ]
        .into_iter()
        .filter_map(|(name, value)| {
            Some(Value::from(vec![name.into(), value.filter(|value| !value.is_empty())?]))
        })
        .collect()
    }
}

/// The newest cycle: its verdict, its first scenario, and the machine before it.
fn card(cycles: &[AgedEntry<'_>], rows: &[MetricRow]) -> Card {
    let verdict = |word: &str, tone, sentence: &str| Card {
        word: word.into(),
        tone,
        sentence: Text::with_code(sentence),
        ..Card::default()
    };
    let no_verdict = |why: &str| Card::no_verdict(Lang::En, Text::with_code(why));
    let newest = cycles.last().map(|(_, entry)| *entry);
    let mut card = match newest.map(|entry| (&entry.error, &entry.measured)) {
        None => no_verdict("nothing has been measured yet"),
        Some((Some(why), _)) => {
            verdict("FAILED", Tone::Bad, &format!("the newest cycle failed: {why}"))
        }
        Some((None, None)) => verdict("FAILED", Tone::Bad, "the newest cycle measured nothing"),
        Some((None, Some(measured))) => match (measured.verdict.outcome, &*measured.verdict.text) {
            (Some(outcome), text) => {
                let (word, tone) = report::outcome_word(outcome);
                let rest = text.strip_prefix(word).and_then(|rest| rest.strip_prefix(": "));
                verdict(word, tone, rest.unwrap_or(text))
            }
            (None, "") => no_verdict("there is no baseline to compare with"),
            (None, why) => no_verdict(why),
        },
    };
    let Some((_, measured)) = figures::newest(cycles) else { return card };
    let commit = measured.commit.as_deref().map(report::short_commit);
    card.facts = report::named_facts([
        ("model", measured.model.clone()),
        ("quantization", measured.quant.clone()),
        ("engine", measured.settings.clone()),
        ("machine", measured.machine.clone()),
        ("commit", commit.unwrap_or_default()),
    ]);
    // A cycle itself loads the machine: other load is visible before it.
    let before = measured.conditions.first().map(machine::warnings).unwrap_or_default();
    card.warnings = before.into_iter().map(Into::into).collect();
    let named = rows.iter().find(|row| row.scenario == report::HEADLINE_SCENARIO);
    let Some(first) = named.or(rows.first()) else { return card };
    card.scenario = Some(Text::code(&first.scenario));
    let headline = rows.iter().filter(|row| {
        row.scenario == first.scenario && report::HEADLINE.contains(&row.metric.name)
    });
    card.figures = headline.map(figure).collect();
    card
}

fn figure(row: &MetricRow) -> CardFigure {
    let value = row.newest.map(|value| {
        format!("{}\u{a0}{}", report::metric_value(row.metric, value), row.metric.unit)
    });
    let change = row.change().map(|change| format!("{} from the median", report::percent(change)));
    CardFigure {
        name: row.metric.label.into(),
        value: value.unwrap_or_else(|| "not measured".into()).into(),
        change: change.unwrap_or_default().into(),
        tone: Tone::Plain,
    }
}

/// The meaning of the changes in the table.
fn table_note(measured: &Measured) -> String {
    let verdict = match measured.verdict.outcome {
        Some(_) => "The verdict above is against the baseline.",
        None => "There is no verdict without a baseline.",
    };
    format!(
        "{verdict} Changes are relative to the median of at least three earlier comparable cycles \
         in the window; one process per cycle cannot separate noise from change."
    )
}

/// The machine after the newest cycle with measurements, with warnings.
fn machine_rows(measured: &Measured) -> Vec<Value> {
    let Some(now) = measured.conditions.last() else { return Vec::new() };
    let share = |value: f64| format!("{:.1} %", 100.0 * value);
    let unknown = || "unknown".to_string();
    let rows = [
        ("at", now.at.clone()),
        ("load, 1 min", now.load_1m.map_or_else(unknown, |load| format!("{load:.2}"))),
        ("stolen CPU time", now.steal.map_or_else(unknown, share)),
        ("CPU pressure, 10 s", now.cpu_pressure_10s.map_or_else(unknown, share)),
        (
            "memory available",
            now.available_bytes.map_or_else(unknown, |bytes| {
                format!("{} MiB", report::number(bytes as f64 / (1 << 20) as f64))
            }),
        ),
    ];
    rows.into_iter().map(|(name, value)| Value::from(vec![name.into(), value])).collect()
}

fn pictures(pictures: &[MonitorChart]) -> Vec<Value> {
    let picture = |one: &MonitorChart| match &one.svg {
        // The chart escapes its own text.
        Ok(svg) => {
            context! { title => one.title.as_str(), svg => Value::from_safe_string(svg.clone()) }
        }
        Err(why) => context! { title => one.title.as_str(), why => why.as_str(), svg => () },
    };
    pictures.iter().map(picture).collect()
}
