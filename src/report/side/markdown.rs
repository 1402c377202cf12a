//! A comparison as Markdown.

use std::fmt::Write as _;

use crate::record::AbsenceKind;
use crate::report::side::Side;
use crate::report::side::aspects::{Aspect, Kind, MEASURES};
use crate::report::side::table::{Row, Standing};
use crate::report::text::{Medium, cell, label, number, percent, shown, table};
use crate::workload::metric;

/// Shown for a value that only the other records have.
const MISSING: &str = "missing";

pub(super) fn markdown(side: &Side) -> String {
    let mut text = String::new();
    for warning in &side.warnings {
        let _ = writeln!(text, "**WARNING: {}**\n", cell(warning));
    }
    text += "## What was changed\n\n";
    text += &settings(side);
    text += "\n## What became of it\n\n";
    text += &aspects(side);
    let _ = write!(text, "\n## Scenarios\n\n{}{}", counts(side), states(side));
    let _ = write!(text, "\n## Every metric\n\n{}", metrics(side));
    text
}

fn names(side: &Side) -> impl Iterator<Item = &str> {
    side.records.iter().map(|record| record.name.as_str())
}

fn settings(side: &Side) -> String {
    if side.settings.is_empty() {
        return "Nothing differs in labels, machine, model, settings or build.\n".into();
    }
    let rows: Vec<Vec<String>> = side
        .settings
        .iter()
        .map(|setting| {
            let values = setting
                .values
                .iter()
                .map(|value| value.clone().unwrap_or_else(|| "not set".into()));
            let effect = if setting.forbids_verdict { "not comparable" } else { "" };
            [setting.of.to_owned(), setting.name.clone()]
                .into_iter()
                .chain(values)
                .chain([effect.to_owned()])
                .collect()
        })
        .collect();
    let header: Vec<&str> =
        ["of", "setting"].into_iter().chain(names(side)).chain(["effect"]).collect();
    table(Medium::Markdown, &header, &rows, &[])
}

fn aspects(side: &Side) -> String {
    if side.aspects.is_empty() {
        return "No scenario has a value in two records.\n".into();
    }
    let several = side.records.len() > 2;
    let mut header = vec!["aspect", "measure"];
    header.extend(several.then_some("record"));
    header.extend([
        "scenarios",
        "geometric mean",
        "range",
        "beyond the spread",
        "within noise",
        "cannot tell",
        "missing",
        "left out",
    ]);
    let rows: Vec<Vec<String>> = side
        .aspects
        .iter()
        .map(|line| {
            let measure = MEASURES.iter().find(|measure| measure.name == line.measure);
            let label = measure.map_or(line.measure, |measure| measure.label());
            let mut row = vec![line.aspect.to_owned(), label.to_owned()];
            row.extend(several.then(|| side.records[line.record].name.clone()));
            row.extend(told(line));
            row
        })
        .collect();
    let numbers: Vec<usize> = (header.len() - 8..header.len()).collect();
    let mut text = table(Medium::Markdown, &header, &rows, &numbers);
    text += "\nInformational, never a verdict. A change is of the medians over processes, in the measure's own sign; a \
             geometric mean hides what single scenarios do. Beyond the spread: by more than twice the spread between \
             processes; with one process on either side that cannot be told. Missing: one record has no value. Left out: the numbers cannot \
             be true, are of other work, or are a ratio to zero.\n";
    text
}

fn told(line: &Aspect) -> Vec<String> {
    let change = |value: f64| match line.change {
        Kind::Ratio => percent(value - 1.0),
        Kind::Difference => {
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
    let beyond = match (line.better, line.worse) {
        _ if line.scenarios == 0 => none(),
        _ if line.scenarios == line.cannot_tell => "cannot tell".into(),
        (0, 0) => "0".into(),
        (better, 0) => format!("{better} better"),
        (0, worse) => format!("{worse} worse"),
        (better, worse) => format!("{better} better, {worse} worse"),
    };
    let mut cells = vec![
        line.scenarios.to_string(),
        line.geometric_mean.map_or_else(none, change),
        range.unwrap_or_else(none),
        beyond,
    ];
    for count in [line.within_noise, line.cannot_tell, line.missing, line.left_out] {
        cells.push(count.to_string());
    }
    cells
}

fn words(standing: &Standing) -> String {
    match standing {
        Standing::Measured => "measured".into(),
        Standing::Missing => MISSING.into(),
        Standing::Unsupported(why) => format!("unsupported: {why}"),
        Standing::Skipped(why) => format!("skipped: {why}"),
        Standing::Pending => AbsenceKind::NotMeasuredYet.word().into(),
        Standing::Failed(why) => format!("FAILED: {why}"),
        Standing::Invalid(why) => format!("INVALID: {why}"),
        Standing::OtherWork(how) => format!("other work: {how}"),
    }
}

/// Counts of scenarios by status, per record.
fn counts(side: &Side) -> String {
    let header = [
        "record",
        "measured",
        "failed",
        "unsupported",
        "skipped",
        AbsenceKind::NotMeasuredYet.word(),
        "INVALID",
        "missing",
        "other work",
        "other greedy output",
    ];
    let rows = side.records.iter().enumerate().map(|(at, record)| {
        let standings = || side.scenarios.iter().map(|state| &state.standings[at]);
        let count = |is: fn(&Standing) -> bool| standings().filter(|one| is(one)).count();
        let other = side.scenarios.iter().filter(|state| state.other_output[at] == Some(true));
        let counts = [
            count(|one| *one == Standing::Measured),
            count(|one| matches!(one, Standing::Failed(_))),
            count(|one| matches!(one, Standing::Unsupported(_))),
            count(|one| matches!(one, Standing::Skipped(_))),
            count(|one| *one == Standing::Pending),
            count(|one| matches!(one, Standing::Invalid(_))),
            count(|one| *one == Standing::Missing),
            count(|one| matches!(one, Standing::OtherWork(_))),
            other.count(),
        ];
        let counts = counts.iter().map(usize::to_string);
        [record.name.clone()].into_iter().chain(counts).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    table(Medium::Markdown, &header, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9])
}

/// The scenarios that are not measured in every record, or whose answers differ.
fn states(side: &Side) -> String {
    let mut rows = Vec::new();
    for state in &side.scenarios {
        let cells = state.standings.iter().zip(&state.other_output).map(|(standing, other)| {
            let said = words(standing);
            if *other == Some(true) { format!("{said}, other greedy output") } else { said }
        });
        let cells: Vec<String> = cells.collect();
        if cells.iter().any(|cell| cell != "measured") {
            rows.push([vec![state.scenario.clone()], cells].concat());
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let header: Vec<&str> = ["scenario"].into_iter().chain(names(side)).collect();
    format!("\n{}", table(Medium::Markdown, &header, &rows, &[]))
}

fn metrics(side: &Side) -> String {
    let mut header = vec!["scenario", "metric"];
    for (at, name) in names(side).enumerate() {
        header.push(name);
        header.extend((at > 0).then_some("change"));
    }
    let rows: Vec<Vec<String>> = side.metrics.iter().filter_map(row).collect();
    let numbers: Vec<usize> = (2..header.len()).collect();
    table(Medium::Markdown, &header, &rows, &numbers)
}

fn row(row: &Row) -> Option<Vec<String>> {
    let metric = metric(row.metric)?;
    let mut cells = vec![row.scenario.clone(), label(metric)];
    for (at, value) in row.values.iter().enumerate() {
        cells.push(match value {
            Some(value) if row.valid[at] => shown(metric, *value),
            Some(value) => format!("~~{}~~", shown(metric, *value)),
            None => MISSING.into(),
        });
        let change = row.ratios[at].map_or("-".into(), |ratio| percent(ratio - 1.0));
        cells.extend((at > 0).then_some(change));
    }
    Some(cells)
}
