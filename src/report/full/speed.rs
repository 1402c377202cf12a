//! How fast answers are: percentiles of latencies, kinds of requests, categories at every batch
//! size.

use crate::analysis::{ApiRow, BatchRow, CaseState, Distribution, Latency};
use crate::report::full::model::{Cell, Section, Table};
use crate::report::full::paper::{MIB, MS, Paper};

/// Percentiles of every scenario, a table for each kind of latency.
pub(super) fn latency(paper: &Paper) -> Option<Section> {
    let words = &paper.words.latency;
    let all = &paper.analysis.latencies;
    let mut section = Section::new("latency", words.heading);
    section.say(words.intro, &[]);
    type Of = fn(&Latency) -> Option<Distribution>;
    let kinds: [(&str, Of); 3] = [
        (words.ttft, |one| one.ttft_s),
        (words.e2e, |one| one.e2e_s),
        (words.step, |one| one.step_s),
    ];
    for (caption, of) in kinds {
        let header = [
            paper.words.frame.scenario,
            words.count,
            "p50",
            "p90",
            "p95",
            "p99",
            words.max,
            words.tail,
        ];
        let mut table = Table::new(header, 1);
        table.caption = Some(caption.into());
        for (one, distribution) in all.iter().filter_map(|one| Some((one, of(one)?))) {
            table.push(row(paper, one, &distribution));
        }
        if !table.rows.is_empty() {
            section.push(table);
        }
    }
    (!all.is_empty()).then_some(section)
}

fn row(paper: &Paper, one: &Latency, of: &Distribution) -> Vec<Cell> {
    let ms = |value: Option<f64>| paper.number(&one.state, value.map(|value| value * MS));
    vec![
        one.id.as_str().into(),
        paper.lang.count(of.count).into(),
        ms(Some(of.median)),
        ms(of.p90),
        ms(of.p95),
        ms(of.p99),
        ms(Some(of.max)),
        paper.number(&one.state, of.p95_over_p50()),
    ]
}

/// Kinds of requests side by side.
pub(super) fn api(paper: &Paper) -> Option<Section> {
    let (words, lang) = (&paper.words.api, paper.lang);
    let rows = &paper.analysis.api;
    let mut section = Section::new("api", words.heading);
    section.say(words.intro, &[]);
    let header = [
        words.request,
        words.tests,
        paper.words.scenarios.prompt,
        words.tokens,
        words.seconds,
        words.rate,
        "TTFT (ms)",
        words.tokenize,
    ];
    let mut table = Table::new(header, 1);
    for row in rows {
        let ApiRow { state, .. } = row;
        table.push([
            row.name.as_str().into(),
            lang.count(row.requests).into(),
            paper.count(row.prompt_tokens),
            match row.mean_generated.filter(|mean| mean.fract() == 0.0) {
                Some(mean) => lang.round(mean).into(),
                None => paper.number(state, row.mean_generated),
            },
            paper.number(state, row.mean_e2e_s),
            paper.number(state, row.mean_decode_tok_s),
            paper.spread(state, row.ttft_s, MS),
            paper.spread(state, row.tokenize_s, MS),
        ]);
    }
    section.push(table);
    (!rows.is_empty()).then_some(section)
}

/// A table for each category, a row for each batch size.
pub(super) fn categories(paper: &Paper) -> Option<Section> {
    let words = &paper.words.categories;
    let categories = &paper.analysis.categories;
    let mut section = Section::new("categories", words.heading);
    section.say(words.intro, &[]);
    for category in categories {
        let header = [
            paper.words.scenarios.batch,
            words.whole,
            words.sequence,
            words.efficiency,
            "TTFT (ms)",
            words.prefill,
            words.whole_answer,
            words.memory,
        ];
        let mut table = Table::new(header, 1);
        table.caption = Some(category.name.as_str().into());
        for row in &category.batches {
            table.push(batch(paper, row));
        }
        section.push(table);
    }
    (!categories.is_empty()).then_some(section)
}

fn batch(paper: &Paper, row: &BatchRow) -> Vec<Cell> {
    let state: &CaseState = &row.state;
    vec![
        paper.lang.count(row.batch).into(),
        paper.spread(state, row.aggregate_tok_s, 1.0),
        paper.spread(state, row.sequence_tok_s, 1.0),
        paper.share(state, row.efficiency),
        paper.spread(state, row.ttft_s, MS),
        paper.spread(state, row.prefill_tok_s, 1.0),
        paper.spread(state, row.e2e_s, MS),
        paper.reading(state, &row.peak_rss_bytes, MIB),
    ]
}
