//! Every number of a document comes from the record, and hostile text stays text.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::analysis::{
    Analysis, BATCH_GAIN, BATCH_TOK_S, CONTEXT_RETENTION, MEMORY_HEADROOM, MEMORY_STEP_BYTES,
    MIN_SCORE_PARTS, Targets, evaluate_targets, spread,
};
use crate::inputs::everything::everything;
use crate::record::{Absence, AbsenceKind, Record};
use crate::report::card::Card;
use crate::report::document::{Block, Table, Text};
use crate::report::full::{Document, build_document, markdown};
use crate::report::page_in;
use crate::report::text::MAX_MARKDOWN_CHARS;
use crate::report::words::Lang;
use crate::stats;

const MIB: f64 = 1_048_576.0;

/// The numbers in a text: digits with the separators of the language. Digits of names such as `f32`
/// do not count.
fn numbers(lang: Lang, text: &str) -> Vec<String> {
    let between = |c: char| match lang {
        Lang::Fr => matches!(c, ',' | '\u{202f}'),
        _ => matches!(c, ',' | '.'),
    };
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let named = at > 0 && (chars[at - 1].is_ascii_alphabetic() || "_/".contains(chars[at - 1]));
        let start = at;
        while digit(at)
            || (at > start && chars.get(at).copied().is_some_and(between) && digit(at + 1))
        {
            at += 1;
        }
        if at > start && !named {
            found.push(chars[start..at].iter().collect());
        }
        at = at.max(start + 1);
    }
    found
}

/// Every text of a document.
fn texts(document: &Document) -> Vec<String> {
    fn of(table: &Table) -> Vec<&Text> {
        let cells = table.rows.iter().flatten().map(|cell| &cell.text);
        table.caption.iter().chain(&table.header).chain(cells).collect()
    }
    let Card { word, sentence, decide, facts, figures, scenario, warnings, .. } = &document.card;
    let figures = figures.iter().flat_map(|one| [&one.name, &one.value, &one.change]);
    let facts = facts.iter().flat_map(|(name, value)| [name, value]);
    let card = [word, sentence].into_iter().chain(decide).chain(facts).chain(figures);
    let card = card.chain(scenario).chain(warnings);
    let blocks = document.sections.iter().flat_map(|section| &section.blocks);
    let blocks = blocks.flat_map(|block| match block {
        Block::Paragraph { text } => vec![text],
        Block::List { items } => items.iter().collect(),
        Block::Table { table } => of(table),
        Block::Details { summary, state, table, .. } => {
            [summary, state].into_iter().chain(of(table)).collect()
        }
        Block::Chart { chart } => vec![&chart.about],
        Block::Code { .. } => Vec::new(),
    });
    card.chain(blocks).map(Text::plain_text).collect()
}

/// The numbers that may appear in a report of a record: its values and everything derived from
/// them, in every unit and format, and the digits of its strings and of our own texts.
struct ExpectedNumbers {
    lang: Lang,
    texts: BTreeSet<String>,
}

impl ExpectedNumbers {
    fn of(record: &Record, lang: Lang) -> Self {
        let mut expected = Self { lang, texts: BTreeSet::new() };
        let targets = Targets::builtin();
        for value in [
            serde_json::to_value(record),
            serde_json::to_value(Analysis::of(record)),
            serde_json::to_value(evaluate_targets(record, &targets)),
            serde_json::to_value(&targets),
        ] {
            expected.walk("", &value.unwrap());
        }
        for case in &record.scenarios {
            for metric in crate::workload::METRICS {
                let values = case.values(metric.name);
                let samples = case.blocks.first().and_then(|block| block.samples.get(metric.name));
                expected.distribution(&values);
                expected.distribution(samples.map_or(&[], Vec::as_slice));
                if let Some(spread) = spread(case, metric.name) {
                    expected.value(spread.median);
                }
            }
        }
        for limit in [BATCH_GAIN, BATCH_TOK_S, CONTEXT_RETENTION, MEMORY_HEADROOM] {
            expected.value(limit);
            expected.texts.extend([lang.exact(limit), lang.exact_share(limit)]);
        }
        expected.texts.insert(lang.exact(MEMORY_STEP_BYTES as f64 / MIB));
        // Counts of scenarios, processes and score components, and the best score.
        let counts = 0..=record.scenarios.len().max(10).max(MIN_SCORE_PARTS);
        expected.texts.extend(counts.map(|count| lang.count(count)));
        expected.texts.insert(lang.count(targets.rows.len()));
        for (_, words) in lang.words().all() {
            expected.string(words);
        }
        expected
    }

    fn walk(&mut self, key: &str, value: &Value) {
        match value {
            Value::Number(number) => {
                let number = number.as_f64().unwrap();
                self.value(number);
                if key == "sd" {
                    for scale in [1.0, 1e3] {
                        let all = (0..7).map(|decimals| self.lang.fixed(number * scale, decimals));
                        self.texts.extend(all.collect::<Vec<_>>());
                    }
                }
            }
            Value::String(text) => self.string(text),
            Value::Array(items) => items.iter().for_each(|item| self.walk(key, item)),
            Value::Object(fields) => {
                let number = |name: &str| fields.get(name).and_then(Value::as_f64);
                for (above, below) in [("sd", "mean"), ("p95", "median")] {
                    if let Some((above, below)) = number(above).zip(number(below)) {
                        self.value(above / below);
                    }
                }
                for (key, value) in fields {
                    self.string(key);
                    self.walk(key, value);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn distribution(&mut self, values: &[f64]) {
        if let Some(median) = stats::median(values) {
            self.value(median);
        }
        if let Some((sd, mean)) = stats::sd(values).zip(stats::mean(values)) {
            self.value(sd / mean);
        }
    }

    fn value(&mut self, value: f64) {
        let lang = self.lang;
        for scale in [1.0, 100.0, 1e3, 1e6, 1e9, 1e-9, 1.0 / MIB, 1.0 / 1024.0] {
            let shown = lang.number(value * scale);
            self.texts.extend(numbers(lang, &shown));
        }
        let set = [value, value * 1e-9, value / MIB].map(|value| lang.exact(value));
        self.texts.extend(set.iter().flat_map(|text| numbers(lang, text)));
        self.texts.extend(numbers(lang, &lang.share(value)));
        if value >= 0.0 && value.fract() == 0.0 {
            self.texts.insert(lang.count(value as usize));
        }
    }

    fn string(&mut self, text: &str) {
        self.texts.extend(numbers(self.lang, text));
    }

    /// The numbers of a document that have no source.
    fn unexplained(&self, document: &Document) -> Vec<(String, String)> {
        let all = texts(document).into_iter();
        all.flat_map(|text| {
            let numbers = numbers(self.lang, &text).into_iter();
            numbers.map(move |number| (number, text.clone())).collect::<Vec<_>>()
        })
        .filter(|(number, _)| !self.texts.contains(number))
        .collect()
    }
}

#[test]
fn every_number_comes_from_the_record() {
    let record = everything();
    for lang in Lang::ALL {
        let expected = ExpectedNumbers::of(&record, lang);
        let document = build_document(&record, lang.into());
        assert!(texts(&document).len() > 1000, "the record has something for every part");
        assert_eq!(expected.unexplained(&document), [], "{lang:?}");
    }
}

#[test]
fn an_invented_number_is_found() {
    let record = everything();
    let expected = ExpectedNumbers::of(&record, Lang::En);
    for invented in ["150.75", "0.953", "8.55", "16384", "1,001.3", "95.35 %"] {
        let mut document = build_document(&record, Lang::En.into());
        let table = document.sections[1].blocks.iter_mut().find_map(|block| match block {
            Block::Table { table } => Some(table),
            _ => None,
        });
        table.unwrap().rows[0][1] = format!("{invented} tok/s").into();
        assert_eq!(expected.unexplained(&document).len(), 1, "{invented}");
    }
}

#[test]
fn every_section_exists_in_every_language() {
    let record = everything();
    for lang in Lang::ALL {
        let document = build_document(&record, lang.into());
        let ids: Vec<&str> = document.sections.iter().map(|section| section.id).collect();
        assert_eq!(
            ids,
            [
                "headline",
                "summary",
                "scenarios",
                "charts",
                "targets",
                "advice",
                "conclusion",
                "latency",
                "api",
                "categories",
                "grid",
                "context",
                "consistency",
                "stress",
                "pipelines",
                "quality",
                "energy",
                "absent",
                "every",
                "method",
                "general",
                "reproduce"
            ]
        );
        let charts = [0, 3].map(|at| document.sections[at].blocks.len());
        assert_eq!(charts, [4, 8], "{lang:?}: a chart is missing");
        for text in texts(&document) {
            assert!(!text.contains(['{', '}']), "{lang:?}: {text}");
        }
    }
}

#[test]
fn unmeasured_suites_are_listed_with_their_command() {
    let mut record = everything();
    record.scenarios.retain(|case| !case.id.starts_with("grid/") && !case.id.starts_with("api/"));
    let text = markdown(&record, Lang::En, None);
    assert!(text.contains("- Results by kind of request: `candlemark run api`\n"), "{text}");
    assert!(!text.contains("<b>Results by kind of request"));
    assert!(!text.contains("candlemark run pipelines"));
    record.scenarios.clear();
    for lang in Lang::ALL {
        let text = markdown(&record, lang, None);
        assert!(text.matches("candlemark run").count() > 8, "{text}");
        page_in(&record, lang).unwrap();
    }
}

const HOSTILE: &str = "a|b\n# <script>alert(1)</script> `x` [l](javascript:0) @all \u{202e} ~~s~~ {{ 7919*7907 }} {n} </details> 'q' \"r\"";

/// The record with a given text in every text field.
fn with(text: &str) -> Record {
    let mut record = everything();
    record.model.spec = text.into();
    record.model.quant = text.into();
    record.machine.class = text.into();
    record.machine.fields.insert("cpu".into(), text.into());
    record.settings.labels.insert(text.into(), text.into());
    record.build.commit = Some(text.into());
    record.build.profile = text.into();
    record.injected = Some(text.into());
    record.sessions[0].command.push(text.into());
    record.sessions[0].started = text.into();
    for case in &mut record.scenarios {
        let id = case.id.clone();
        case.id = match id.split_once('/') {
            Some(("short", batch)) => format!("{text}/{batch}"),
            Some(("pipelines", "rag")) => format!("pipelines/{text}"),
            Some(("stress", "long")) => format!("stress/{text}"),
            Some(("grid", "S6")) => format!("grid/{text}"),
            Some(("consistency", _)) => format!("consistency/{text}"),
            _ => id,
        };
        if case.absent.is_some() {
            case.absent = Some(Absence::new(AbsenceKind::Failed, text));
        }
        if !case.validity.failed.is_empty() {
            case.validity.failed = vec![text.into()];
        }
        case.labels.values_mut().for_each(|label| *label = text.into());
        for block in &mut case.blocks {
            block.notes.values_mut().for_each(|note| *note = text.into());
            for request in block.requests.iter_mut().filter(|one| one.why.is_some()) {
                request.why = Some(text.into());
            }
        }
    }
    record
}

/// The tag names of a page, except those within SVG.
fn tags(page: &str) -> Vec<&str> {
    let outside = page.split("<svg").map(|part| part.rsplit("</svg>").next().unwrap());
    outside
        .flat_map(|part| part.split('<').skip(1))
        .map(|tag| tag.split([' ', '>', '\n']).next().unwrap())
        .collect()
}

/// The first character and the number of cells of a Markdown line.
fn shape(line: &str) -> (Option<char>, usize) {
    let bars = line.char_indices().filter(|(at, c)| *c == '|' && !line[..*at].ends_with('\\'));
    (line.chars().next().filter(|c| "#|-<>`!".contains(*c)), bars.count())
}

#[test]
fn hostile_text_stays_text() {
    let (hostile, benign) = (with(HOSTILE), with("an ordinary name of some length"));
    for lang in Lang::ALL {
        let (page, plain) = (page_in(&hostile, lang).unwrap(), page_in(&benign, lang).unwrap());
        assert_eq!(tags(&page), tags(&plain), "{lang:?}");
        assert!(!page.contains("<script"), "{lang:?}");
        for picture in page.split("<svg").skip(1) {
            assert!(!picture.split("</svg>").next().unwrap().contains("alert(1)</"), "{lang:?}");
        }
        let whole = |record: &Record| {
            markdown::markdown(&build_document(record, lang.into()), None, lang, usize::MAX)
        };
        let (text, plain) = (whole(&hostile), whole(&benign));
        assert_eq!(text.lines().count(), plain.lines().count(), "{lang:?}\n{text}");
        let mut code = false;
        for (line, plain) in text.lines().zip(plain.lines()) {
            code ^= line.starts_with("```");
            if !code {
                assert_eq!(shape(line), shape(plain), "{lang:?}: {line}");
                let unescaped = line.replace("\\]", "");
                assert!(!line.contains("<script") && !unescaped.contains("](java"), "{line}");
                assert!(!line.contains("@all"), "{lang:?}: {line}");
            }
        }
        for text in [page, text] {
            assert!(!text.contains('\u{202e}'), "{lang:?}");
            assert!(!text.contains("62615533"), "a template ran what it was given");
        }
    }
}

#[test]
fn an_invalid_number_is_struck_out_and_no_chart_shows_it() {
    let mut record = everything();
    let text = markdown(&record, Lang::En, None);
    assert!(text.contains("| ~~") && text.contains("**INVALID: decode reads weights"), "{text}");
    for case in &mut record.scenarios {
        case.validity.failed.push("a clock ran backwards".into());
    }
    let document = build_document(&record, Lang::En.into());
    assert!(document.sections.iter().all(|one| !["headline", "charts"].contains(&one.id)));
    let page = page_in(&record, Lang::En).unwrap();
    assert!(page.contains("class=\"n struck\"") && !page.contains("<svg"));
}

/// The report of a record with so many scenarios, each with all values.
fn of_many(scenarios: usize, lang: Lang) -> String {
    let mut record = everything();
    let case = record.case("code/b1").unwrap().clone();
    record.scenarios.clear();
    for number in 0..scenarios {
        let mut case = case.clone();
        case.id = format!("code-{number}/b1");
        record.scenarios.push(case);
    }
    markdown(&record, lang, None)
}

#[test]
fn a_report_fits_into_a_comment_and_counts_what_is_left_out() {
    for (lang, values, rows) in [
        (Lang::En, "the values of ", " more rows are left out here"),
        (Lang::Fr, "les valeurs de ", " lignes de plus sont omises ici"),
        (Lang::Ko, "나머지 시나리오 ", "개 행은 여기에서 생략했습니다"),
    ] {
        let text = of_many(50, lang);
        let length = text.chars().count();
        assert!(
            (MAX_MARKDOWN_CHARS / 2..=MAX_MARKDOWN_CHARS).contains(&length),
            "{lang:?}: {length}"
        );
        let note = text.lines().find(|line| line.contains(values)).unwrap();
        let left_out: String = note.chars().filter(char::is_ascii_digit).collect();
        let shown = text.matches("<details><summary><b>code-").count();
        assert_eq!(left_out.parse::<usize>().unwrap() + shown, 50, "{lang:?}: {note}");
        assert!(text.contains("code-49/b1") && !text.contains(rows), "{lang:?}: rows stay");
        let text = of_many(400, lang);
        assert!(text.chars().count() <= MAX_MARKDOWN_CHARS, "{lang:?}");
        assert!(text.contains(rows) && !text.contains("<b>code-"), "{lang:?}");
    }
    let text = of_many(2, Lang::En);
    assert_eq!(text.matches("<details><summary><b>code-").count(), 2);
    assert!(!text.contains("left out here"), "{text}");
}
