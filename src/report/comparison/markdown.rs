//! A comparison as Markdown.

use std::fmt::Write as _;

use crate::record::AbsenceKind;
use crate::report::comparison::Comparison;
use crate::report::comparison::aspects::{Aspect, ChangeKind, MEASURES};
use crate::report::comparison::table::{MetricRow, StatusKind};
use crate::report::document::{Cell, Table, Tone};
use crate::report::text::{
    TextFormat, escape_markdown, metric_label, metric_value, number, percent,
};
use crate::workload::metric;

/// Shown for a value that only the other records have.
const MISSING: &str = "missing";

pub(super) fn markdown(comparison: &Comparison) -> String {
    let mut text = String::new();
    for warning in &comparison.warnings {
        let _ = writeln!(text, "**WARNING: {}**\n", escape_markdown(warning));
    }
    let _ = write!(
        text,
        "## Changed settings\n\n{}\n## Results by aspect\n\n{}\n## Scenarios\n\n{}{}\n## All metrics\n\n{}",
        settings(comparison),
        aspects(comparison),
        counts(comparison),
        scenario_statuses(comparison),
        metrics(comparison)
    );
    text
}

/// The headings of columns before, for, and after the records.
fn header<'a>(comparison: &'a Comparison, before: &[&'a str], after: &[&'a str]) -> Vec<&'a str> {
    let names = comparison.records.iter().map(|record| record.name.as_str());
    before.iter().copied().chain(names).chain(after.iter().copied()).collect()
}

fn settings(comparison: &Comparison) -> String {
    if comparison.settings.is_empty() {
        return "No differences in labels, machine, model, settings or build.\n".into();
    }
    let mut table = Table::new(header(comparison, &["group", "setting"], &["effect"]), ..0);
    for setting in &comparison.settings {
        let values = setting.values.iter().map(|value| value.as_deref().unwrap_or("not set"));
        let effect = if setting.forbids_verdict { "not comparable" } else { "" };
        table.push([setting.group, &setting.name].into_iter().chain(values).chain([effect]));
    }
    table.render(TextFormat::Markdown)
}

fn aspects(comparison: &Comparison) -> String {
    if comparison.aspects.is_empty() {
        return "No scenario has a value in two records.\n".into();
    }
    let label = |line: &Aspect| {
        let measure = MEASURES.iter().find(|measure| measure.name == line.measure);
        measure.map_or(line.measure, |measure| measure.label())
    };
    let mut table = Table::of(&comparison.aspects)
        .text("aspect", |line| line.aspect)
        .text("measure", |line| label(line));
    if comparison.records.len() > 2 {
        table = table.text("record", |line| comparison.records[line.record].name.as_str());
    }
    let table = table
        .number("scenarios", |line| line.scenarios.to_string())
        .number("geometric mean", |line| {
            line.geometric_mean.map_or("-".into(), |mean| format_change(line, mean))
        })
        .number("range", |line| match line.range {
            None => "-".into(),
            Some([least, most]) if least == most => format_change(line, least),
            Some([least, most]) => {
                format!("{} to {}", format_change(line, least), format_change(line, most))
            }
        })
        .number("beyond spread", |line| match (line.better, line.worse) {
            _ if line.scenarios == 0 => "-".into(),
            _ if line.scenarios == line.cannot_tell => "unknown".into(),
            (0, 0) => "0".into(),
            (better, 0) => format!("{better} better"),
            (0, worse) => format!("{worse} worse"),
            (better, worse) => format!("{better} better, {worse} worse"),
        })
        .number("within noise", |line| line.within_noise.to_string())
        .number("unknown", |line| line.cannot_tell.to_string())
        .number("missing", |line| line.missing.to_string())
        .number("excluded", |line| line.left_out.to_string());
    table.render(TextFormat::Markdown)
        + "\nInformational, not a verdict. Changes are of medians over processes, in the measure's own \
           sign; a geometric mean hides single scenarios. Beyond spread: by more than twice the \
           spread between processes; unknown with a single process on either side. Missing: one \
           record has no value. Excluded: implausible numbers, different work, or a ratio to zero.\n"
}

fn format_change(line: &Aspect, value: f64) -> String {
    if line.change == ChangeKind::Ratio {
        return percent(value - 1.0);
    }
    let (scale, unit) =
        metric(line.measure).map_or((1.0, ""), |metric| (metric.scale, metric.unit));
    let unit = if unit == "%" { " points" } else { unit };
    format!("{}{}{unit}", if value < 0.0 { "" } else { "+" }, number(value * scale))
}

fn word(kind: StatusKind) -> &'static str {
    match kind {
        StatusKind::Measured => "measured",
        StatusKind::Missing => MISSING,
        StatusKind::Unsupported => "unsupported",
        StatusKind::Skipped => "skipped",
        StatusKind::Pending => AbsenceKind::NotMeasuredYet.word(),
        StatusKind::Failed => "FAILED",
        StatusKind::Invalid => "INVALID",
        StatusKind::OtherWork => "work differs",
    }
}

/// Counts of scenarios by status, per record.
fn counts(comparison: &Comparison) -> String {
    use StatusKind::{
        Failed, Invalid, Measured, Missing, OtherWork, Pending, Skipped, Unsupported,
    };
    let records = comparison.records.iter().enumerate();
    let mut table = Table::of(records).text("record", |(_, record)| record.name.as_str());
    for kind in [Measured, Failed, Unsupported, Skipped, Pending, Invalid, Missing, OtherWork] {
        let heading = if kind == Failed { "failed" } else { word(kind) };
        table = table.number(heading, |(at, _)| {
            let such = comparison.scenarios.iter().filter(|one| one.statuses[*at].kind == kind);
            such.count().to_string()
        });
    }
    let table = table.number("output differs", |(at, _)| {
        let others = comparison.scenarios.iter().filter(|one| one.other_output[*at] == Some(true));
        others.count().to_string()
    });
    table.render(TextFormat::Markdown)
}

/// The scenarios that are not measured in every record, or whose answers differ.
fn scenario_statuses(comparison: &Comparison) -> String {
    let mut table = Table::new(header(comparison, &["scenario"], &[]), ..0);
    for state in &comparison.scenarios {
        let cells = state.statuses.iter().zip(&state.other_output).map(|(status, other)| {
            let why = status.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            let text = format!("{}{why}", word(status.kind));
            if *other == Some(true) { format!("{text}, greedy output differs") } else { text }
        });
        let cells: Vec<String> = cells.collect();
        if cells.iter().any(|cell| cell != "measured") {
            table.push([vec![state.scenario.clone()], cells].concat());
        }
    }
    if table.rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table.render(TextFormat::Markdown))
}

fn metrics(comparison: &Comparison) -> String {
    let mut header = vec!["scenario", "metric"];
    for (at, record) in comparison.records.iter().enumerate() {
        header.push(&record.name);
        header.extend((at > 0).then_some("change"));
    }
    let mut table = Table::new(header, 2..);
    comparison.metrics.iter().filter_map(metric_cells).for_each(|row| table.push(row));
    table.render(TextFormat::Markdown)
}

fn metric_cells(row: &MetricRow) -> Option<Vec<Cell>> {
    let metric = metric(row.metric)?;
    let mut cells: Vec<Cell> = vec![row.scenario.as_str().into(), metric_label(metric).into()];
    for (at, value) in row.values.iter().enumerate() {
        let tone = if row.valid[at] { Tone::Plain } else { Tone::Struck };
        cells.push(match value {
            Some(value) => Cell::new(metric_value(metric, *value), tone),
            None => MISSING.into(),
        });
        let change = row.ratios[at].map_or("-".into(), |ratio| percent(ratio - 1.0));
        cells.extend((at > 0).then(|| Cell::from(change)));
    }
    Some(cells)
}
