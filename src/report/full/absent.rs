//! What was not measured and why, sources of values, and how to recreate the record and this
//! document.

use crate::error::{command, quoted};
use crate::record::{Absence, Record};
use crate::report::full::model::{Block, Cell, Section, Table, Text};
use crate::report::full::paper::Paper;
use crate::report::text::plain;
use crate::workload::{SUITES, metric};

/// Suites that have a section of their own, with its heading.
fn parts<'a>(paper: &'a Paper) -> [(&'static str, &'a str); 9] {
    let words = paper.words;
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
fn has(record: &Record, suite: &str) -> bool {
    let suite = SUITES.iter().find(|one| one.name == suite);
    let scenarios = suite.map_or_else(Vec::new, |suite| (suite.scenarios)());
    scenarios.iter().any(|scenario| record.case(&scenario.id).is_some())
}

pub(super) fn absent(paper: &Paper) -> Section {
    let words = &paper.words.absent;
    let mut section = Section::new("absent", words.heading);
    let suites: Vec<Text> = parts(paper)
        .into_iter()
        .filter(|(suite, _)| !has(paper.record, suite))
        .map(|(suite, part)| Text::fill(words.suite, &[("part", part), ("suite", suite)]))
        .collect();
    if !suites.is_empty() {
        section.say(words.suites, &[]);
        section.push(Block::List { items: suites });
    }
    let mut scenarios = Table::new([paper.words.frame.scenario, words.why], 2);
    scenarios.caption = Some(words.scenarios.into());
    for case in &paper.record.scenarios {
        let unsaid = || case.blocks.is_empty().then(|| words.no_reason.to_owned());
        if let Some(why) = case.absent.as_ref().map(Absence::to_string).or_else(unsaid) {
            scenarios.push([case.id.clone(), why]);
        }
    }
    let missing = notes(paper, false);
    let readings = notes(paper, true);
    let nothing = section.blocks.is_empty() && scenarios.rows.is_empty() && missing.is_empty();
    if nothing {
        section.say(words.nothing, &[]);
    }
    if !scenarios.rows.is_empty() {
        section.push(scenarios);
    }
    for (notes, caption, said) in
        [(missing, words.values, words.why), (readings, words.readings, words.how)]
    {
        if !notes.is_empty() {
            let mut table = Table::new([paper.words.frame.metric, said, words.places], 3);
            table.caption = Some(caption.into());
            for note in notes {
                table.push(note.row(paper));
            }
            section.push(table);
        }
    }
    section
}

/// A note on a metric, and the scenarios that have it.
struct Note {
    metric: String,
    said: Option<String>,
    scenarios: Vec<String>,
}

impl Note {
    fn row(self, paper: &Paper) -> [Cell; 3] {
        let words = &paper.words.absent;
        let metric = metric(&self.metric).map(|metric| paper.lang.metric(metric));
        let name = metric.map_or_else(|| Text::new(&self.metric), Text::from);
        let said = self.said.as_deref().unwrap_or(words.no_reason);
        let first = self.scenarios.first().map_or("", String::as_str);
        let scenarios = match self.scenarios.len() {
            0 | 1 => first.into(),
            count => {
                let more = paper.lang.count(count - 1);
                Text::fill(words.more, &[("first", first), ("count", &more)])
            }
        };
        [name.into(), said.into(), scenarios.into()]
    }
}

/// The notes on present or on missing values, each note once.
fn notes(paper: &Paper, there: bool) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for case in &paper.record.scenarios {
        for block in &case.blocks {
            for (metric, value) in &block.values {
                let said = block.notes.get(metric).cloned();
                if value.is_some() != there || (there && said.is_none()) {
                    continue;
                }
                let known = notes.iter_mut().find(|one| one.metric == *metric && one.said == said);
                match known {
                    Some(known) if known.scenarios.contains(&case.id) => {}
                    Some(known) => known.scenarios.push(case.id.clone()),
                    None => notes.push(Note {
                        metric: metric.clone(),
                        said,
                        scenarios: vec![case.id.clone()],
                    }),
                }
            }
        }
    }
    notes
}

pub(super) fn reproduce(paper: &Paper) -> Section {
    let words = &paper.words.reproduce;
    let mut section = Section::new("reproduce", words.heading);
    let mut lines = Vec::new();
    if let Some(commit) = &paper.record.build.commit {
        lines.push(format!("git checkout {}", quoted(plain(commit))));
    }
    for session in &paper.record.sessions {
        let words: Vec<String> = session.command.iter().map(|word| plain(word)).collect();
        let command = command(&words);
        if !command.is_empty() && !lines.contains(&command) {
            lines.push(command);
        }
    }
    if !lines.is_empty() {
        section.say(words.intro, &[]);
        section.push(Block::Code { lines });
    }
    section.say(words.report, &[]);
    let lang = match paper.lang.code() {
        "en" => String::new(),
        code => format!(" --lang {code}"),
    };
    let line = format!("candlemark report {} --format html{lang} -o report.html", words.record);
    section.push(Block::Code { lines: vec![line] });
    section
}
