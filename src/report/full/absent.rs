//! What was not measured and why, sources of values, and how to recreate the record and this
//! document.

use crate::error::{command, quoted};
use crate::record::{Absence, Record};
use crate::report::document::{Cell, Section, Table, Text};
use crate::report::full::render_context::RenderContext;
use crate::report::text::sanitize;
use crate::workload::{SUITES, metric};

/// Suites that have a section of their own, with its heading.
fn suite_sections<'a>(ctx: &'a RenderContext) -> [(&'static str, &'a str); 9] {
    let words = ctx.words;
    [
        ("default", words.categories.heading),
        ("grid", words.grid.heading),
        ("context", words.context.heading),
        ("api", words.api.heading),
        ("consistency", words.consistency.heading),
        ("stress", words.stress.heading),
        ("pipelines", words.pipelines.heading),
        ("quality", words.quality.heading),
        ("profile", words.absent.profile),
    ]
}

/// Whether a record has any scenario of a suite.
fn has_suite(record: &Record, suite: &str) -> bool {
    let suite = SUITES.iter().find(|one| one.name == suite);
    let scenarios = suite.map_or_else(Vec::new, |suite| (suite.scenarios)());
    scenarios.iter().any(|scenario| record.case(&scenario.id).is_some())
}

pub(super) fn absent(ctx: &RenderContext) -> Section {
    let words = &ctx.words.absent;
    let mut section = Section::new("absent", words.heading);
    let suites: Vec<Text> = suite_sections(ctx)
        .into_iter()
        .filter(|(suite, _)| !has_suite(ctx.record, suite))
        .map(|(suite, part)| Text::from_template(words.suite, &[("part", part), ("suite", suite)]))
        .collect();
    if !suites.is_empty() {
        section.paragraph(words.suites, &[]);
        section.list(suites);
    }
    let header = [ctx.words.frame.scenario, words.why];
    let mut scenarios = Table::new(header, 2..).with_caption(words.scenarios);
    for case in &ctx.record.scenarios {
        let no_reason = || case.blocks.is_empty().then(|| words.no_reason.to_owned());
        if let Some(why) = case.absent.as_ref().map(Absence::to_string).or_else(no_reason) {
            scenarios.push([case.id.clone(), why]);
        }
    }
    let missing = notes_table(ctx, false, words.values, words.why);
    if section.blocks.is_empty() && scenarios.rows.is_empty() && missing.rows.is_empty() {
        section.paragraph(words.nothing, &[]);
    }
    for table in [scenarios, missing, notes_table(ctx, true, words.readings, words.how)] {
        section.table(table);
    }
    section
}

/// A metric, a note on it, and the scenarios that have it.
type Note<'a> = (&'a str, Option<&'a str>, Vec<&'a str>);

/// The notes on present or on missing values, each note once.
fn notes(record: &Record, present: bool) -> Vec<Note<'_>> {
    let mut notes: Vec<Note<'_>> = Vec::new();
    for case in &record.scenarios {
        let blocks = case.blocks.iter();
        let values = blocks.flat_map(|block| block.values.iter().map(move |one| (block, one)));
        for (block, (metric, value)) in values {
            let note = block.notes.get(metric).map(String::as_str);
            if value.is_some() != present || (present && note.is_none()) {
                continue;
            }
            match notes.iter_mut().find(|(of, text, _)| of == metric && *text == note) {
                Some((.., ids)) if ids.contains(&case.id.as_str()) => {}
                Some((.., ids)) => ids.push(&case.id),
                None => notes.push((metric, note, vec![&case.id])),
            }
        }
    }
    notes
}

fn notes_table(
    ctx: &RenderContext,
    present: bool,
    caption: &'static str,
    heading: &'static str,
) -> Table {
    let words = &ctx.words.absent;
    Table::of(notes(ctx.record, present))
        .text(ctx.words.frame.metric, |(name, ..)| {
            metric(name).map_or(*name, |metric| ctx.lang.metric_name(metric))
        })
        .text(heading, |(_, note, _)| note.unwrap_or(words.no_reason))
        .text(words.scenario_list, |(.., ids)| match ids[..] {
            [first] => Cell::from(first),
            _ => {
                let more = ctx.lang.count(ids.len() - 1);
                let values = [("first", ids[0]), ("count", &*more)];
                Text::from_template(words.more, &values).into()
            }
        })
        .with_caption(caption)
}

pub(super) fn reproduce(ctx: &RenderContext) -> Section {
    let words = &ctx.words.reproduce;
    let mut section = Section::new("reproduce", words.heading);
    let mut lines = Vec::new();
    if let Some(commit) = &ctx.record.build.commit {
        lines.push(format!("git checkout {}", quoted(sanitize(commit))));
    }
    for session in &ctx.record.sessions {
        let words: Vec<String> = session.command.iter().map(|word| sanitize(word)).collect();
        let command = command(&words);
        if !command.is_empty() && !lines.contains(&command) {
            lines.push(command);
        }
    }
    if !lines.is_empty() {
        section.paragraph(words.intro, &[]);
        section.code(lines);
    }
    section.paragraph(words.report, &[]);
    let lang = match ctx.lang.code() {
        "en" => String::new(),
        code => format!(" --lang {code}"),
    };
    let line = format!("candlemark report {} --format html{lang} -o report.html", words.record);
    section.code(vec![line]);
    section
}
