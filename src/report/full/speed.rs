//! Speed: latency percentiles, kinds of requests, categories at every batch size.

use crate::analysis::{ApiRow, BatchRow, CaseState, Distribution, Latency};
use crate::report::document::{Cell, Section, Table};
use crate::report::full::render_context::{MIB, MS, RenderContext};

/// Percentiles of every scenario, one table per kind of latency.
pub(super) fn latency(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.latency;
    let all = &ctx.analysis.latencies;
    let mut section = Section::new("latency", words.heading);
    section.paragraph(words.intro, &[]);
    type Of = fn(&Latency) -> Option<Distribution>;
    let kinds: [(&str, Of); 3] = [
        (words.ttft, |one| one.ttft_s),
        (words.e2e, |one| one.e2e_s),
        (words.step, |one| one.step_s),
    ];
    for (caption, of) in kinds {
        let header = [
            ctx.words.frame.scenario,
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
            table.push(latency_row(ctx, one, &distribution));
        }
        if !table.rows.is_empty() {
            section.push(table);
        }
    }
    (!all.is_empty()).then_some(section)
}

fn latency_row(ctx: &RenderContext, one: &Latency, of: &Distribution) -> Vec<Cell> {
    let ms = |value: Option<f64>| ctx.number(&one.state, value.map(|value| value * MS));
    vec![
        one.id.as_str().into(),
        ctx.lang.count(of.count).into(),
        ms(Some(of.median)),
        ms(of.p90),
        ms(of.p95),
        ms(of.p99),
        ms(Some(of.max)),
        ctx.number(&one.state, of.p95_over_p50()),
    ]
}

/// Kinds of requests compared.
pub(super) fn api(ctx: &RenderContext) -> Option<Section> {
    let (words, lang) = (&ctx.words.api, ctx.lang);
    let rows = &ctx.analysis.api;
    let mut section = Section::new("api", words.heading);
    section.paragraph(words.intro, &[]);
    let header = [
        words.request,
        words.requests,
        ctx.words.scenarios.prompt,
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
            ctx.count(row.prompt_tokens),
            match row.mean_generated.filter(|mean| mean.fract() == 0.0) {
                Some(mean) => lang.exact(mean).into(),
                None => ctx.number(state, row.mean_generated),
            },
            ctx.number(state, row.mean_e2e_s),
            ctx.number(state, row.mean_decode_tok_s),
            ctx.spread(state, row.ttft_s, MS),
            ctx.spread(state, row.tokenize_s, MS),
        ]);
    }
    section.push(table);
    (!rows.is_empty()).then_some(section)
}

/// One table per category, one row per batch size.
pub(super) fn categories(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.categories;
    let categories = &ctx.analysis.categories;
    let mut section = Section::new("categories", words.heading);
    section.paragraph(words.intro, &[]);
    for category in categories {
        let header = [
            ctx.words.scenarios.batch,
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
            table.push(batch_row(ctx, row));
        }
        section.push(table);
    }
    (!categories.is_empty()).then_some(section)
}

fn batch_row(ctx: &RenderContext, row: &BatchRow) -> Vec<Cell> {
    let state: &CaseState = &row.state;
    vec![
        ctx.lang.count(row.batch).into(),
        ctx.spread(state, row.aggregate_tok_s, 1.0),
        ctx.spread(state, row.sequence_tok_s, 1.0),
        ctx.share(state, row.efficiency),
        ctx.spread(state, row.ttft_s, MS),
        ctx.spread(state, row.prefill_tok_s, 1.0),
        ctx.spread(state, row.e2e_s, MS),
        ctx.reading(state, &row.peak_rss_bytes, MIB),
    ]
}
