//! Speed: latency percentiles, kinds of requests, categories at every batch size.

use crate::analysis::{Distribution, Latency};
use crate::report::document::{Section, Table};
use crate::report::full::render_context::{MIB, MS, RenderContext};

/// Percentiles of every scenario, one table per kind of latency.
pub(super) fn latency(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.latency;
    let all = &ctx.analysis.latencies;
    let mut section = Section::with_intro("latency", words.heading, words.intro);
    type Of = fn(&Latency) -> Option<Distribution>;
    let kinds: [(&str, Of); 3] = [
        (words.ttft, |one| one.ttft_s),
        (words.e2e, |one| one.e2e_s),
        (words.step, |one| one.step_s),
    ];
    let ms = |row: &(&Latency, Distribution), value| ctx.scaled(&row.0.state, value, MS);
    for (caption, of) in kinds {
        let rows = all.iter().filter_map(|one| Some((one, of(one)?)));
        let table = Table::of(rows)
            .text(ctx.words.frame.scenario, |row| row.0.id.as_str())
            .number(words.count, |row| ctx.lang.count(row.1.count))
            .number("p50", |row| ms(row, Some(row.1.median)))
            .number("p90", |row| ms(row, row.1.p90))
            .number("p95", |row| ms(row, row.1.p95))
            .number("p99", |row| ms(row, row.1.p99))
            .number(words.max, |row| ms(row, Some(row.1.max)))
            .number(words.tail, |row| ctx.number(&row.0.state, row.1.p95_over_p50()));
        section.table(table.with_caption(caption));
    }
    (!all.is_empty()).then_some(section)
}

/// Kinds of requests compared.
pub(super) fn api(ctx: &RenderContext) -> Option<Section> {
    let (words, lang) = (&ctx.words.api, ctx.lang);
    let rows = &ctx.analysis.api;
    let mut section = Section::with_intro("api", words.heading, words.intro);
    section.table(
        Table::of(rows)
            .text(words.request, |row| row.name.as_str())
            .number(words.requests, |row| lang.count(row.requests))
            .number(ctx.words.scenarios.prompt, |row| ctx.count(row.prompt_tokens))
            .number(words.tokens, |row| {
                match row.mean_generated.filter(|mean| mean.fract() == 0.0) {
                    Some(mean) => lang.exact(mean).into(),
                    None => ctx.number(&row.state, row.mean_generated),
                }
            })
            .number(words.seconds, |row| ctx.number(&row.state, row.mean_e2e_s))
            .number(words.rate, |row| ctx.number(&row.state, row.mean_decode_tok_s))
            .number("TTFT (ms)", |row| ctx.spread(&row.state, row.ttft_s, MS))
            .number(words.tokenize, |row| ctx.spread(&row.state, row.tokenize_s, MS)),
    );
    (!rows.is_empty()).then_some(section)
}

/// One table per category, one row per batch size.
pub(super) fn categories(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.categories;
    let categories = &ctx.analysis.categories;
    let mut section = Section::with_intro("categories", words.heading, words.intro);
    for category in categories {
        let table = Table::of(&category.batches)
            .text(ctx.words.scenarios.batch, |row| ctx.lang.count(row.batch))
            .number(words.whole, |row| ctx.spread(&row.state, row.aggregate_tok_s, 1.0))
            .number(words.sequence, |row| ctx.spread(&row.state, row.sequence_tok_s, 1.0))
            .number(words.efficiency, |row| ctx.share(&row.state, row.efficiency))
            .number("TTFT (ms)", |row| ctx.spread(&row.state, row.ttft_s, MS))
            .number(words.prefill, |row| ctx.spread(&row.state, row.prefill_tok_s, 1.0))
            .number(words.whole_answer, |row| ctx.spread(&row.state, row.e2e_s, MS))
            .number(words.memory, |row| ctx.scaled(&row.state, row.peak_rss_bytes.value, MIB));
        section.table(table.with_caption(category.name.as_str()));
    }
    (!categories.is_empty()).then_some(section)
}
