//! Sections on suites other than categories and lengths: consistency, stress, pipelines, quality.

use crate::analysis::{Consistency, Distribution, PipelineRow, StressRow};
use crate::record::StressOutcome;
use crate::report::document::{Section, Table, Text};
use crate::report::full::render_context::{MS, RenderContext};
use crate::report::words::Words;
use crate::workload::metric;

pub(super) fn consistency(ctx: &RenderContext) -> Option<Section> {
    let (words, lang) = (&ctx.words.consistency, ctx.lang);
    let all = &ctx.analysis.consistency;
    let mut section = Section::with_intro("consistency", words.heading, words.intro);
    for one in all {
        section.table(consistency_table(ctx, one));
        let mut items = Vec::new();
        if let Some(fit) = &one.drift {
            let value = ctx.slope(fit, MS).text.plain_text();
            items.push(Text::from_template(words.drift, &[("value", &value)]));
        }
        if let Some(stalls) = one.stalls {
            let count = lang.count(stalls as usize);
            items.push(Text::from_template(words.stalls, &[("count", &count)]));
        }
        let answers = ctx.record.case(&one.id).and_then(|case| case.output_sha256.as_ref());
        // A server is asked again with other prompts.
        let repeats = ctx.record.settings.server.is_none();
        if one.state.is_valid() && answers.is_some() && repeats {
            items.push(words.same.into());
        }
        section.list(items);
    }
    (!all.is_empty()).then_some(section)
}

fn consistency_table(ctx: &RenderContext, one: &Consistency) -> Table {
    let (words, latency) = (&ctx.words.consistency, &ctx.words.latency);
    let rows = [(latency.e2e, one.e2e_s), (latency.ttft, one.ttft_s)];
    let rows = rows.into_iter().filter_map(|(name, of)| Some((name, of?)));
    let ms = |value: Option<f64>| ctx.scaled(&one.state, value, MS);
    let variation = |of: &Distribution| of.sd.filter(|_| of.mean > 0.0).map(|sd| sd / of.mean);
    let tail = |of: &Distribution| of.p95_over_p50().filter(|_| one.state.is_valid());
    Table::of(rows)
        .text(words.what, |(name, _)| *name)
        .number(latency.count, |(_, of)| ctx.count(of.count))
        .number(words.mean, |(_, of)| ms(Some(of.mean)))
        .number(words.sd, |(_, of)| ms(of.sd))
        .number(words.variation, |(_, of)| ctx.share(&one.state, variation(of)))
        .number(words.min, |(_, of)| ms(Some(of.min)))
        .number("p50", |(_, of)| ms(Some(of.median)))
        .number("p90", |(_, of)| ms(of.p90))
        .number("p95", |(_, of)| ms(of.p95))
        .number("p99", |(_, of)| ms(of.p99))
        .number(latency.max, |(_, of)| ms(Some(of.max)))
        .number(latency.tail, |(_, of)| ctx.number(&one.state, tail(of)))
        .with_caption(one.id.as_str())
}

pub(super) fn stress(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.stress;
    let rows = &ctx.analysis.stress;
    let mut section = Section::with_intro("stress", words.heading, words.intro);
    let count = |count: usize| ctx.count(count);
    let growth = |row: &StressRow| row.mem_slope_bytes_per_request.value;
    section.table(
        Table::of(rows)
            .text(ctx.words.frame.scenario, |row| row.name.as_str())
            .number(words.limit, |row| match row.memory_limit.as_deref() {
                Some(limit) => limit.into(),
                None => ctx.missing(),
            })
            .number(words.requests, |row| count(row.outcomes.total()))
            .number(words.answered, |row| count(row.outcomes.answered))
            .number(words.refused, |row| count(row.outcomes.refused))
            .number(words.oom, |row| count(row.outcomes.out_of_memory))
            .number(words.timed_out, |row| count(row.outcomes.timed_out))
            .number(words.failed, |row| count(row.outcomes.failed))
            .number(words.longest, |row| ctx.count(row.largest_answered))
            .number(words.shortest_unanswered, |row| ctx.count(row.smallest_unanswered))
            .number(words.growth, |row| ctx.scaled(&row.state, growth(row), 1.0 / 1024.0)),
    );
    section.table(reasons_table(ctx));
    (!rows.is_empty()).then_some(section)
}

fn outcome_name(words: &Words, outcome: StressOutcome) -> &'static str {
    match outcome {
        StressOutcome::Answered => words.stress.answered,
        StressOutcome::Refused => words.stress.refused,
        StressOutcome::OutOfMemory => words.stress.oom,
        StressOutcome::TimedOut => words.stress.timed_out,
        StressOutcome::Failed => words.stress.failed,
    }
}

/// Why requests were not answered: each reason once, with the shortest prompt that met it.
fn reasons_table(ctx: &RenderContext) -> Table {
    let words = &ctx.words.stress;
    let header = [words.outcome, ctx.words.frame.scenario, ctx.words.scenarios.prompt, words.why];
    let mut table = Table::new(header, 2..3);
    for row in &ctx.analysis.stress {
        let mut seen: Vec<((StressOutcome, &str), usize)> = Vec::new();
        let requests = row.requests.iter().flatten();
        for request in requests.filter(|one| one.outcome != StressOutcome::Answered) {
            let why = request.why.as_deref().filter(|why| !why.is_empty());
            let reason = (request.outcome, why.unwrap_or(ctx.words.absent.no_reason));
            match seen.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, tokens)) => *tokens = request.prompt_tokens.min(*tokens),
                None => seen.push((reason, request.prompt_tokens)),
            }
        }
        for ((outcome, why), tokens) in seen {
            let tokens = ctx.lang.count(tokens);
            table.push([outcome_name(ctx.words, outcome), &row.name, &tokens, why]);
        }
    }
    table
}

pub(super) fn pipelines(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.pipelines;
    let rows = &ctx.analysis.pipelines;
    let mut section = Section::with_intro("pipelines", words.heading, words.intro);
    section.table(
        Table::of(rows)
            .text(ctx.words.frame.scenario, |row| row.name.as_str())
            .number(words.items, |row| ctx.count(row.items))
            .number(ctx.words.scenarios.batch, |row| ctx.count(row.batch))
            .number(ctx.words.scenarios.generated, |row| ctx.count(row.new_tokens))
            .number(words.per_min, |row| ctx.spread(&row.state, row.items_per_min, 1.0))
            .number(words.chunks, |row| ctx.spread(&row.state, row.chunks_per_min, 1.0))
            .number(words.whole, |row| ctx.spread(&row.state, row.e2e_s, 1.0)),
    );
    for row in rows.iter().filter(|row| row.search_s.is_some()) {
        section.table(stages_table(ctx, row));
    }
    (!rows.is_empty()).then_some(section)
}

/// The stages of retrieval-augmented generation, one per row.
fn stages_table(ctx: &RenderContext, row: &PipelineRow) -> Table {
    let words = &ctx.words.pipelines;
    let stages = [
        (metric::INDEX_S, row.index_s),
        (metric::EMBED_S, row.embed_s),
        (metric::SEARCH_S, row.search_s),
        (metric::ASSEMBLE_S, row.assemble_s),
        (metric::TTFT_S, row.ttft_s),
        (metric::ANSWER_S, row.answer_s),
        (metric::E2E_S, row.e2e_s),
        (metric::E2E_SIMPLE_S, row.e2e_simple_s),
        (metric::E2E_COMPLEX_S, row.e2e_complex_s),
    ];
    Table::of(stages.map(|(name, spread)| (metric(name).expect("stages are metrics"), spread)))
        .text(words.stage, |(metric, _)| ctx.lang.metric_name(metric))
        .number(words.stage_ms, |(metric, spread)| ctx.spread(&row.state, *spread, metric.scale))
        .with_caption(words.rag)
}

pub(super) fn quality(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.quality;
    let rows = &ctx.analysis.quality;
    let mut section = Section::with_intro("quality", words.heading, words.intro);
    for row in rows {
        let header = [ctx.words.frame.metric, ctx.words.frame.value];
        let mut table = Table::new(header, 1..).with_caption(row.id.as_str());
        for (name, value) in &row.labels {
            table.push([name.as_str(), value.as_str()]);
        }
        table.push([words.tokens.into(), ctx.count(row.tokens)]);
        for (name, reading) in [
            (metric::TOP1_AGREEMENT, &row.top1_agreement),
            (metric::KL_NATS, &row.kl_nats),
            (metric::PERPLEXITY, &row.perplexity),
            (metric::PERPLEXITY_F32, &row.perplexity_f32),
        ] {
            let (name, value) = ctx.labelled(name, &row.state, reading);
            table.push([name.into(), value.unwrap_or_else(|| ctx.missing())]);
        }
        table.push([words.ratio.into(), ctx.number(&row.state, row.perplexity_ratio)]);
        section.table(table);
    }
    (!rows.is_empty()).then_some(section)
}
