//! A comparison as Markdown.

use std::fmt::Write as _;

use crate::record::AbsenceKind;
use crate::report::comparison::Comparison;
use crate::report::comparison::aspects::{Aspect, ChangeKind, MEASURES};
use crate::report::comparison::table::{MetricRow, Status};
use crate::report::text::{
    TextFormat, escape_markdown, metric_label, metric_value, number, percent, table,
    table_of_escaped,
};
use crate::workload::metric;

/// Shown for a value that only the other records have.
const MISSING: &str = "missing";

pub(super) fn markdown(comparison: &Comparison) -> String {
    let mut text = String::new();
    for warning in &comparison.warnings {
        let _ = writeln!(text, "**WARNING: {}**\n", escape_markdown(warning));
    }
    text += "## Changed settings\n\n";
    text += &settings(comparison);
    text += "\n## Results by aspect\n\n";
    text += &aspects(comparison);
    let _ =
        write!(text, "\n## Scenarios\n\n{}{}", counts(comparison), scenario_statuses(comparison));
    let _ = write!(text, "\n## All metrics\n\n{}", metrics(comparison));
    text
}

fn names(comparison: &Comparison) -> impl Iterator<Item = &str> {
    comparison.records.iter().map(|record| record.name.as_str())
}

fn settings(comparison: &Comparison) -> String {
    if comparison.settings.is_empty() {
        return "No differences in labels, machine, model, settings or build.\n".into();
    }
    let rows: Vec<Vec<String>> = comparison
        .settings
        .iter()
        .map(|setting| {
            let values = setting
                .values
                .iter()
                .map(|value| value.clone().unwrap_or_else(|| "not set".into()));
            let effect = if setting.forbids_verdict { "not comparable" } else { "" };
            [setting.group.to_owned(), setting.name.clone()]
                .into_iter()
                .chain(values)
                .chain([effect.to_owned()])
                .collect()
        })
        .collect();
    let header: Vec<&str> =
        ["group", "setting"].into_iter().chain(names(comparison)).chain(["effect"]).collect();
    table(TextFormat::Markdown, &header, &rows, &[])
}

fn aspects(comparison: &Comparison) -> String {
    if comparison.aspects.is_empty() {
        return "No scenario has a value in two records.\n".into();
    }
    let several = comparison.records.len() > 2;
    let mut header = vec!["aspect", "measure"];
    header.extend(several.then_some("record"));
    header.extend([
        "scenarios",
        "geometric mean",
        "range",
        "beyond spread",
        "within noise",
        "unknown",
        "missing",
        "excluded",
    ]);
    let rows: Vec<Vec<String>> = comparison
        .aspects
        .iter()
        .map(|line| {
            let measure = MEASURES.iter().find(|measure| measure.name == line.measure);
            let label = measure.map_or(line.measure, |measure| measure.label());
            let mut row = vec![line.aspect.to_owned(), label.to_owned()];
            row.extend(several.then(|| comparison.records[line.record].name.clone()));
            row.extend(aspect_numbers(line));
            row
        })
        .collect();
    let numbers: Vec<usize> = (header.len() - 8..header.len()).collect();
    let mut text = table(TextFormat::Markdown, &header, &rows, &numbers);
    text += "\nInformational, not a verdict. Changes are of medians over processes, in the \
             measure's own sign; a geometric mean hides single scenarios. Beyond spread: by more \
             than twice the spread between processes; unknown with a single process on either \
             side. Missing: one record has no value. Excluded: implausible numbers, different \
             work, or a ratio to zero.\n";
    text
}

fn aspect_numbers(line: &Aspect) -> Vec<String> {
    let change = |value: f64| match line.change {
        ChangeKind::Ratio => percent(value - 1.0),
        ChangeKind::Difference => {
            let metric = metric(line.measure);
            let scaled = value * metric.map_or(1.0, |metric| metric.scale);
            let unit = metric.map_or("", |metric| metric.unit);
            let unit = if unit == "%" { " points" } else { unit };
            format!("{}{}{unit}", if value < 0.0 { "" } else { "+" }, number(scaled))
        }
    };
    let none = || "-".to_owned();
    let range = line.range.map(|[least, most]| {
        if least == most { change(least) } else { format!("{} to {}", change(least), change(most)) }
    });
    let exceeds_spread = match (line.better, line.worse) {
        _ if line.scenarios == 0 => none(),
        _ if line.scenarios == line.cannot_tell => "unknown".into(),
        (0, 0) => "0".into(),
        (better, 0) => format!("{better} better"),
        (0, worse) => format!("{worse} worse"),
        (better, worse) => format!("{better} better, {worse} worse"),
    };
    let mut cells = vec![
        line.scenarios.to_string(),
        line.geometric_mean.map_or_else(none, change),
        range.unwrap_or_else(none),
        exceeds_spread,
    ];
    for count in [line.within_noise, line.cannot_tell, line.missing, line.left_out] {
        cells.push(count.to_string());
    }
    cells
}

fn status_text(status: &Status) -> String {
    match status {
        Status::Measured => "measured".into(),
        Status::Missing => MISSING.into(),
        Status::Unsupported(why) => format!("unsupported: {why}"),
        Status::Skipped(why) => format!("skipped: {why}"),
        Status::Pending => AbsenceKind::NotMeasuredYet.word().into(),
        Status::Failed(why) => format!("FAILED: {why}"),
        Status::Invalid(why) => format!("INVALID: {why}"),
        Status::OtherWork(how) => format!("work differs: {how}"),
    }
}

/// Counts of scenarios by status, per record.
fn counts(comparison: &Comparison) -> String {
    let header = [
        "record",
        "measured",
        "failed",
        "unsupported",
        "skipped",
        AbsenceKind::NotMeasuredYet.word(),
        "INVALID",
        "missing",
        "work differs",
        "output differs",
    ];
    let rows = comparison.records.iter().enumerate().map(|(at, record)| {
        let statuses = || comparison.scenarios.iter().map(|state| &state.statuses[at]);
        let count = |is: fn(&Status) -> bool| statuses().filter(|one| is(one)).count();
        let other =
            comparison.scenarios.iter().filter(|state| state.other_output[at] == Some(true));
        let counts = [
            count(|one| *one == Status::Measured),
            count(|one| matches!(one, Status::Failed(_))),
            count(|one| matches!(one, Status::Unsupported(_))),
            count(|one| matches!(one, Status::Skipped(_))),
            count(|one| *one == Status::Pending),
            count(|one| matches!(one, Status::Invalid(_))),
            count(|one| *one == Status::Missing),
            count(|one| matches!(one, Status::OtherWork(_))),
            other.count(),
        ];
        let counts = counts.iter().map(usize::to_string);
        [record.name.clone()].into_iter().chain(counts).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    table(TextFormat::Markdown, &header, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9])
}

/// The scenarios that are not measured in every record, or whose answers differ.
fn scenario_statuses(comparison: &Comparison) -> String {
    let mut rows = Vec::new();
    for state in &comparison.scenarios {
        let cells = state.statuses.iter().zip(&state.other_output).map(|(status, other)| {
            let text = status_text(status);
            if *other == Some(true) { format!("{text}, greedy output differs") } else { text }
        });
        let cells: Vec<String> = cells.collect();
        if cells.iter().any(|cell| cell != "measured") {
            rows.push([vec![state.scenario.clone()], cells].concat());
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let header: Vec<&str> = ["scenario"].into_iter().chain(names(comparison)).collect();
    format!("\n{}", table(TextFormat::Markdown, &header, &rows, &[]))
}

fn metrics(comparison: &Comparison) -> String {
    let mut header = vec!["scenario", "metric"];
    for (at, name) in names(comparison).enumerate() {
        header.push(name);
        header.extend((at > 0).then_some("change"));
    }
    let rows: Vec<Vec<String>> = comparison.metrics.iter().filter_map(metric_cells).collect();
    let numbers: Vec<usize> = (2..header.len()).collect();
    table_of_escaped(TextFormat::Markdown, &header, rows, &numbers)
}

/// A row with escaped cells.
fn metric_cells(row: &MetricRow) -> Option<Vec<String>> {
    let metric = metric(row.metric)?;
    let mut cells = vec![escape_markdown(&row.scenario), metric_label(metric)];
    for (at, value) in row.values.iter().enumerate() {
        cells.push(match value {
            Some(value) if row.valid[at] => metric_value(metric, *value),
            Some(value) => format!("~~{}~~", metric_value(metric, *value)),
            None => MISSING.into(),
        });
        let change = row.ratios[at].map_or("-".into(), |ratio| percent(ratio - 1.0));
        cells.extend((at > 0).then_some(change));
    }
    Some(cells)
}
