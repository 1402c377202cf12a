//! Sections on suites other than categories and lengths: consistency, stress, pipelines, quality.

use crate::analysis::{Consistency, Distribution, PipelineRow, Spread, StressRow};
use crate::record::StressOutcome;
use crate::report::document::{Block, Cell, Section, Table, Text};
use crate::report::full::render_context::{MS, RenderContext};
use crate::report::words::Words;
use crate::workload::metric;

pub(super) fn consistency(ctx: &RenderContext) -> Option<Section> {
    let (words, lang) = (&ctx.words.consistency, ctx.lang);
    let all = &ctx.analysis.consistency;
    let mut section = Section::new("consistency", words.heading);
    section.paragraph(words.intro, &[]);
    for one in all {
        section.push(consistency_table(ctx, one));
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
        if one.state.is_valid() && answers.is_some() {
            items.push(words.same.into());
        }
        if !items.is_empty() {
            section.push(Block::List { items });
        }
    }
    (!all.is_empty()).then_some(section)
}

fn consistency_table(ctx: &RenderContext, one: &Consistency) -> Table {
    let (words, latency) = (&ctx.words.consistency, &ctx.words.latency);
    let header = [
        words.what,
        latency.count,
        words.mean,
        words.sd,
        words.variation,
        words.min,
        "p50",
        "p90",
        "p95",
        "p99",
        latency.max,
        latency.tail,
    ];
    let mut table = Table::new(header, 1);
    table.caption = Some(one.id.as_str().into());
    let rows = [(latency.e2e, one.e2e_s), (latency.ttft, one.ttft_s)];
    for (name, of) in rows.into_iter().filter_map(|(name, of)| Some((name, of?))) {
        let Distribution { mean, median, sd, min, max, .. } = of;
        let ms = |value: Option<f64>| ctx.number(&one.state, value.map(|value| value * MS));
        let variation = sd.filter(|_| mean > 0.0).map(|sd| sd / mean);
        table.push([
            name.into(),
            ctx.lang.count(of.count).into(),
            ms(Some(mean)),
            ms(sd),
            ctx.share(&one.state, variation),
            ms(Some(min)),
            ms(Some(median)),
            ms(of.p90),
            ms(of.p95),
            ms(of.p99),
            ms(Some(max)),
            ctx.number(&one.state, of.p95_over_p50().filter(|_| one.state.is_valid())),
        ]);
    }
    table
}

pub(super) fn stress(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.stress;
    let rows = &ctx.analysis.stress;
    let mut section = Section::new("stress", words.heading);
    section.paragraph(words.intro, &[]);
    let header = [
        ctx.words.frame.scenario,
        words.limit,
        words.requests,
        words.answered,
        words.refused,
        words.oom,
        words.timed_out,
        words.failed,
        words.longest,
        words.shortest_unanswered,
        words.growth,
    ];
    let mut table = Table::new(header, 1);
    for row in rows {
        table.push(stress_row(ctx, row));
    }
    section.push(table);
    let reasons = reasons_table(ctx);
    if !reasons.rows.is_empty() {
        section.push(reasons);
    }
    (!rows.is_empty()).then_some(section)
}

fn stress_row(ctx: &RenderContext, row: &StressRow) -> Vec<Cell> {
    let of = &row.outcomes;
    let count = |count: usize| Cell::from(ctx.lang.count(count));
    let known = |tokens: Option<usize>| tokens.map_or_else(|| ctx.missing(), count);
    let growth = ctx.reading(&row.state, &row.mem_slope_bytes_per_request, 1.0 / 1024.0);
    let limit = row.memory_limit.as_deref();
    vec![
        row.name.as_str().into(),
        limit.map_or_else(|| ctx.missing(), Cell::from),
        count(of.total()),
        count(of.answered),
        count(of.refused),
        count(of.out_of_memory),
        count(of.timed_out),
        count(of.failed),
        known(row.largest_answered),
        known(row.smallest_unanswered),
        growth,
    ]
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
    let mut table = Table::new(header, 2);
    table.right.pop();
    for row in &ctx.analysis.stress {
        let mut seen: Vec<(StressOutcome, &str, usize)> = Vec::new();
        for request in row.requests.iter().flatten() {
            let why = request.why.as_deref().unwrap_or("");
            if request.outcome == StressOutcome::Answered {
                continue;
            }
            match seen
                .iter_mut()
                .find(|(outcome, reason, _)| (*outcome, *reason) == (request.outcome, why))
            {
                Some((_, _, tokens)) => *tokens = request.prompt_tokens.min(*tokens),
                None => seen.push((request.outcome, why, request.prompt_tokens)),
            }
        }
        for (what, why, tokens) in seen {
            let why = if why.is_empty() { ctx.words.absent.no_reason } else { why };
            table.push([
                outcome_name(ctx.words, what).to_owned(),
                row.name.clone(),
                ctx.lang.count(tokens),
                why.to_owned(),
            ]);
        }
    }
    table
}

pub(super) fn pipelines(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.pipelines;
    let rows = &ctx.analysis.pipelines;
    let mut section = Section::new("pipelines", words.heading);
    section.paragraph(words.intro, &[]);
    let header = [
        ctx.words.frame.scenario,
        words.items,
        ctx.words.scenarios.batch,
        ctx.words.scenarios.generated,
        words.per_min,
        words.chunks,
        words.whole,
    ];
    let mut table = Table::new(header, 1);
    for row in rows {
        table.push([
            row.name.as_str().into(),
            ctx.count(row.items),
            ctx.lang.count(row.batch).into(),
            ctx.lang.count(row.new_tokens).into(),
            ctx.spread(&row.state, row.items_per_min, 1.0),
            ctx.spread(&row.state, row.chunks_per_min, 1.0),
            ctx.spread(&row.state, row.e2e_s, 1.0),
        ]);
    }
    section.push(table);
    for row in rows.iter().filter(|row| row.search_s.is_some()) {
        section.push(stages_table(ctx, row));
    }
    (!rows.is_empty()).then_some(section)
}

/// The stages of retrieval-augmented generation, one per row.
fn stages_table(ctx: &RenderContext, row: &PipelineRow) -> Table {
    let words = &ctx.words.pipelines;
    let mut table = Table::new([words.stage, words.stage_ms], 1);
    table.caption = Some(words.rag.into());
    let stages: [(&str, Option<Spread>); 9] = [
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
    for (name, spread) in stages {
        let metric = crate::workload::metric(name).expect("stages are metrics");
        let value = ctx.spread(&row.state, spread, metric.scale);
        table.push([ctx.lang.metric_name(metric).into(), value]);
    }
    table
}

pub(super) fn quality(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.quality;
    let rows = &ctx.analysis.quality;
    let mut section = Section::new("quality", words.heading);
    section.paragraph(words.intro, &[]);
    for row in rows {
        let mut table = Table::new([ctx.words.frame.metric, ctx.words.frame.value], 1);
        table.caption = Some(row.id.as_str().into());
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
        section.push(table);
    }
    (!rows.is_empty()).then_some(section)
}
