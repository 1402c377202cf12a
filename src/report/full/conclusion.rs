//! Recommendations with their rules, and the score with its formula.

use crate::analysis::{
    BATCH_GAIN, BATCH_TOK_S, BatchAdvice, CONTEXT_RETENTION, CaseState, ContextAdvice, ContextEnd,
    MEMORY_HEADROOM, MEMORY_STEP_BYTES, MIN_SCORE_PARTS, MemoryAdvice, NoAdvice, ScorePartKind,
    TargetVerdict,
};
use crate::report::document::{Block, Cell, Section, Table, Text};
use crate::report::full::render_context::{MIB, RenderContext};
use crate::report::words::Words;

/// The best possible score.
const BEST: f64 = 10.0;

/// One recommendation; without a value the rule says what is missing.
struct Recommendation {
    short: &'static str,
    name: &'static str,
    value: Option<String>,
    rule: Vec<Text>,
}

fn recommendations(ctx: &RenderContext) -> Vec<Recommendation> {
    let (words, summary) = (&ctx.words.advice, &ctx.words.summary);
    let advice = &ctx.analysis.advice;
    let row = |short, name, advice: Result<ValueAndRules, &NoAdvice>| {
        let (value, rule) = advice.unwrap_or_else(|why| (None, vec![no_advice(ctx, *why)]));
        Recommendation { short, name, value, rule }
    };
    let batch = advice.batch.as_ref().map(|one| batch_advice(ctx, one));
    let context = advice.context.as_ref().map(|one| context_advice(ctx, one));
    let host = advice.memory.as_ref().map(|one| memory_advice(ctx, one));
    let device = advice.device_memory.as_ref().map(|one| memory_advice(ctx, one));
    let mut recommendations = vec![
        row(summary.batch, words.batch, batch),
        row(summary.context, words.context, context),
        row(summary.memory, words.memory, host),
    ];
    if device.is_ok() {
        recommendations.push(row(words.device_memory, words.device_memory, device));
    }
    recommendations
}

type ValueAndRules = (Option<String>, Vec<Text>);

fn batch_advice(ctx: &RenderContext, advice: &BatchAdvice) -> ValueAndRules {
    let lang = ctx.lang;
    let grounds = advice.categories.iter();
    let grounds: Vec<String> =
        grounds.map(|one| format!("{} {}", one.category, lang.count(one.batch))).collect();
    let values = [
        ("gain", &*lang.exact_share(BATCH_GAIN)),
        ("rate", &lang.exact(BATCH_TOK_S)),
        ("grounds", &grounds.join(", ")),
    ];
    let rule = Text::from_template(ctx.words.advice.batch_rule, &values);
    (Some(lang.count(advice.batch)), vec![rule])
}

fn context_advice(ctx: &RenderContext, advice: &ContextAdvice) -> ValueAndRules {
    let (words, lang) = (&ctx.words.advice, ctx.lang);
    let (share, kept) = (lang.exact_share(CONTEXT_RETENTION), lang.share(advice.retention));
    let rule = Text::from_template(words.context_rule, &[("share", &share), ("kept", &kept)]);
    let end = match &advice.end {
        ContextEnd::NotMeasured => words.end_not_measured.into(),
        ContextEnd::Slow { depth, retention } => {
            let (depth, kept) = (lang.count(*depth), lang.share(*retention));
            Text::from_template(words.end_slow, &[("depth", &depth), ("kept", &kept)])
        }
        ContextEnd::NoRate { depth } => {
            Text::from_template(words.end_no_rate, &[("depth", &lang.count(*depth))])
        }
    };
    let tokens =
        Text::from_template(ctx.words.general.tokens, &[("count", &lang.count(advice.depth))]);
    (Some(tokens.plain_text()), vec![rule, end])
}

fn memory_advice(ctx: &RenderContext, advice: &MemoryAdvice) -> ValueAndRules {
    let lang = ctx.lang;
    let values = [
        ("factor", &*lang.exact(MEMORY_HEADROOM)),
        ("peak", &lang.with_unit(advice.peak_bytes * MIB, "MiB")),
        ("scenario", &advice.id),
        ("step", &lang.exact_with_unit(MEMORY_STEP_BYTES as f64 * MIB, "MiB")),
    ];
    let rule = Text::from_template(ctx.words.advice.memory_rule, &values);
    (Some(lang.exact_with_unit(advice.bytes as f64 * MIB, "MiB")), vec![rule])
}

fn no_advice(ctx: &RenderContext, why: NoAdvice) -> Text {
    let words = &ctx.words.advice;
    match why {
        NoAdvice::NoBatches => words.no_batches.into(),
        NoAdvice::TooSlow => {
            Text::from_template(words.too_slow, &[("rate", &ctx.lang.exact(BATCH_TOK_S))])
        }
        NoAdvice::NoDepthZero => words.no_depth_zero.into(),
        NoAdvice::NoDepths => words.no_depths.into(),
        NoAdvice::NoPeak => words.no_peak.into(),
    }
}

/// Recommendations as rows of the summary: name, value, and where the rule stands or what is
/// missing.
pub(super) fn recommendation_rows(ctx: &RenderContext) -> Vec<(&'static str, (Cell, Cell))> {
    let figure = |one: Recommendation| {
        let basis = match &one.value {
            Some(_) => ctx.words.advice.heading.into(),
            None => one.rule.into_iter().next().unwrap_or_default(),
        };
        let value = one.value.map_or_else(|| ctx.missing(), Cell::from);
        (one.short, (value, Cell::from(basis)))
    };
    recommendations(ctx).into_iter().map(figure).collect()
}

pub(super) fn advice(ctx: &RenderContext) -> Section {
    let words = &ctx.words.advice;
    let mut section = Section::with_intro("advice", words.heading, words.intro);
    let mut table = Table::new([words.what, ctx.words.frame.value, words.rule], 1..2);
    for one in recommendations(ctx) {
        let value = one.value.map_or_else(|| Cell::from(words.none), Cell::from);
        let mut rule = one.rule.into_iter();
        table.push([one.name.into(), value, rule.next().unwrap_or_default().into()]);
        for more in rule {
            table.push([Cell::from(""), Cell::from(""), more.into()]);
        }
    }
    section.table(table);
    section
}

/// The score as a row of the summary.
pub(super) fn score(ctx: &RenderContext) -> (Cell, Cell) {
    let score = &ctx.analysis.score;
    match score.value {
        Some(value) => {
            let out_of = format!("{}/{}", ctx.lang.number(value), ctx.lang.count(BEST as usize));
            (out_of.into(), ctx.words.conclusion.heading.into())
        }
        None => (ctx.missing(), no_score(ctx).into()),
    }
}

fn no_score(ctx: &RenderContext) -> Text {
    let measured = ctx.analysis.score.parts.iter().filter(|part| part.value.is_some()).count();
    let (least, parts) = (ctx.lang.count(MIN_SCORE_PARTS), ctx.lang.count(measured));
    Text::from_template(ctx.words.conclusion.no_score, &[("least", &least), ("parts", &parts)])
}

pub(super) fn conclusion(ctx: &RenderContext) -> Section {
    let (words, lang) = (&ctx.words.conclusion, ctx.lang);
    let mut section = Section::new("conclusion", words.heading);
    let cases = &ctx.record.scenarios;
    let valid = cases.iter().filter(|case| CaseState::of(case).is_valid()).count();
    section.paragraph(
        words.valid,
        &[("valid", &lang.count(valid)), ("all", &lang.count(cases.len()))],
    );
    let count = |verdict| ctx.results.iter().filter(|result| result.verdict == verdict).count();
    let (met, not_met) = (count(TargetVerdict::Met), count(TargetVerdict::NotMet));
    if met + not_met > 0 {
        let (met, all) = (lang.count(met), lang.count(met + not_met));
        section.paragraph(words.targets, &[("met", &met), ("all", &all)]);
    }
    match ctx.analysis.score.value {
        Some(value) => {
            let (score, best) = (lang.number(value), lang.count(BEST as usize));
            section.paragraph(words.score, &[("score", &score), ("best", &best)]);
        }
        None => section.blocks.push(Block::Paragraph(no_score(ctx))),
    }
    section.paragraph(words.formula, &[]);
    let missing = || Cell::from(ctx.words.frame.not_measured);
    section.table(
        Table::of(&ctx.analysis.score.parts)
            .text(words.part, |part| part_name(ctx.words, part.kind))
            .number(ctx.words.frame.value, |part| {
                part.value.map_or_else(missing, |value| lang.number(value).into())
            })
            .number(words.scenario_count, |part| ctx.count(part.scenarios)),
    );
    section.paragraph(words.closing, &[]);
    section
}

fn part_name(words: &Words, kind: ScorePartKind) -> &'static str {
    let words = &words.conclusion;
    match kind {
        ScorePartKind::Roofline => words.roofline,
        ScorePartKind::BatchEfficiency => words.efficiency,
        ScorePartKind::ContextRetention => words.retention,
        ScorePartKind::Consistency => words.consistency,
        ScorePartKind::Success => words.success,
    }
}
