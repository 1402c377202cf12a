//! What was not measured and why, sources of values, and how to recreate the record and this
//! document.

use crate::error::{command, quoted};
use crate::record::{Absence, Record};
use crate::report::document::{Block, Cell, Section, Table, Text};
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
        section.push(Block::List { items: suites });
    }
    let mut scenarios = Table::new([ctx.words.frame.scenario, words.why], 2);
    scenarios.caption = Some(words.scenarios.into());
    for case in &ctx.record.scenarios {
        let no_reason = || case.blocks.is_empty().then(|| words.no_reason.to_owned());
        if let Some(why) = case.absent.as_ref().map(Absence::to_string).or_else(no_reason) {
            scenarios.push([case.id.clone(), why]);
        }
    }
    let missing = notes(ctx, false);
    let readings = notes(ctx, true);
    let nothing = section.blocks.is_empty() && scenarios.rows.is_empty() && missing.is_empty();
    if nothing {
        section.paragraph(words.nothing, &[]);
    }
    if !scenarios.rows.is_empty() {
        section.push(scenarios);
    }
    for (notes, caption, heading) in
        [(missing, words.values, words.why), (readings, words.readings, words.how)]
    {
        if !notes.is_empty() {
            let mut table = Table::new([ctx.words.frame.metric, heading, words.scenario_list], 3);
            table.caption = Some(caption.into());
            for note in notes {
                table.push(note.row(ctx));
            }
            section.push(table);
        }
    }
    section
}

/// A note on a metric, and the scenarios that have it.
struct Note {
    metric: String,
    text: Option<String>,
    scenarios: Vec<String>,
}

impl Note {
    fn row(self, ctx: &RenderContext) -> [Cell; 3] {
        let words = &ctx.words.absent;
        let metric = metric(&self.metric).map(|metric| ctx.lang.metric_name(metric));
        let name = metric.map_or_else(|| Text::new(&self.metric), Text::from);
        let text = self.text.as_deref().unwrap_or(words.no_reason);
        let first = self.scenarios.first().map_or("", String::as_str);
        let scenarios = match self.scenarios.len() {
            0 | 1 => first.into(),
            count => {
                let more = ctx.lang.count(count - 1);
                Text::from_template(words.more, &[("first", first), ("count", &more)])
            }
        };
        [name.into(), text.into(), scenarios.into()]
    }
}

/// The notes on present or on missing values, each note once.
fn notes(ctx: &RenderContext, present: bool) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for case in &ctx.record.scenarios {
        for block in &case.blocks {
            for (metric, value) in &block.values {
                let text = block.notes.get(metric).cloned();
                if value.is_some() != present || (present && text.is_none()) {
                    continue;
                }
                let known = notes.iter_mut().find(|one| one.metric == *metric && one.text == text);
                match known {
                    Some(known) if known.scenarios.contains(&case.id) => {}
                    Some(known) => known.scenarios.push(case.id.clone()),
                    None => notes.push(Note {
                        metric: metric.clone(),
                        text,
                        scenarios: vec![case.id.clone()],
                    }),
                }
            }
        }
    }
    notes
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
        section.push(Block::Code { lines });
    }
    section.paragraph(words.report, &[]);
    let lang = match ctx.lang.code() {
        "en" => String::new(),
        code => format!(" --lang {code}"),
    };
    let line = format!("candlemark report {} --format html{lang} -o report.html", words.record);
    section.push(Block::Code { lines: vec![line] });
    section
}
