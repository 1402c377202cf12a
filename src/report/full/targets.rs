//! Results against targets, as measured and as projected to the machine that the targets were set
//! for.

use crate::analysis::{Target, TargetResult, TargetVerdict, Topic, Unmeasurable};
use crate::report::document::{Cell, Section, Table, Text, Tone};
use crate::report::full::render_context::RenderContext;
use crate::report::words::Words;
use crate::workload::metric;

/// Whether a target applies to the record's model and quantization.
fn applies(result: &TargetResult) -> bool {
    let other = [Unmeasurable::OtherModel, Unmeasurable::OtherQuant];
    !other.map(TargetVerdict::NotMeasurable).contains(&result.verdict)
}

pub(super) fn targets(ctx: &RenderContext) -> Option<Section> {
    let (words, lang) = (&ctx.words.targets, ctx.lang);
    let (ours, others): (Vec<&TargetResult>, Vec<_>) =
        ctx.results.iter().partition(|result| applies(result));
    let mut section = Section::new("targets", words.heading);
    if ours.is_empty() {
        section.paragraph(words.none, &[("all", &lang.count(others.len()))]);
        return Some(section);
    }
    section.paragraph(words.intro, &[]);
    if let Some(reference) = &ctx.reference {
        let rate = lang.exact_with_unit(reference.read_bytes_per_s / 1e9, "GB/s");
        section.paragraph(words.reference, &[("machine", &reference.machine), ("rate", &rate)]);
    }
    let table = Table::of(ours)
        .text(ctx.words.general.model, |of| model_cell(ctx, of))
        .text(words.what, |of| scope(ctx, of))
        .text(words.target, |of| bounds(ctx, &of.target))
        .number(words.raw, |of| value_cell(ctx, of, of.value))
        .text(words.verdict, |of| verdict_cell(ctx, of.verdict, of.why.as_deref()))
        .number(words.scaled, |of| value_cell(ctx, of, of.scaled))
        .text(words.scaled_verdict, |of| match (of.verdict, of.scaled_verdict) {
            (TargetVerdict::NotMeasurable(_), TargetVerdict::NotMeasurable(_)) => ctx.missing(),
            (_, TargetVerdict::NotMeasurable(why)) => reason_text(ctx.words, why).into(),
            (_, scaled) => verdict_cell(ctx, scaled, None),
        });
    section.table(table);
    for kind in [Unmeasurable::OtherModel, Unmeasurable::OtherQuant] {
        let verdict = TargetVerdict::NotMeasurable(kind);
        let count = others.iter().filter(|one| one.verdict == verdict).count();
        if count > 0 {
            let values = [("count", &*lang.count(count)), ("why", reason_text(ctx.words, kind))];
            section.paragraph(words.others, &values);
        }
    }
    Some(section)
}

fn model_cell(ctx: &RenderContext, result: &TargetResult) -> Cell {
    let target = &result.target;
    let quant = target.quant.map_or(String::new(), |quant| format!(" {}", quant.name()));
    let model = format!("{}{quant}", target.model);
    let Some(shape) = &result.stands_in else { return model.into() };
    let values = [("model", &*model), ("shape", shape)];
    Text::from_template(ctx.words.targets.stands_in, &values).into()
}

/// The topic, the metric unless the topic names it, and the scenario.
fn scope(ctx: &RenderContext, result: &TargetResult) -> String {
    let target = &result.target;
    let name = result.metric.as_ref().or(target.metric.first());
    let many = [Topic::UseCase, Topic::Pipeline, Topic::Rag, Topic::Suitability];
    let name = name.filter(|_| many.contains(&target.topic));
    let metric = name.and_then(|name| metric(name)).map(|metric| ctx.lang.metric_name(metric));
    let scenario = result.case.as_deref().or(target.scenario.as_deref());
    let what = [Some(topic_name(ctx.words, target.topic)), metric, scenario];
    what.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn value_cell(ctx: &RenderContext, result: &TargetResult, value: Option<f64>) -> Cell {
    let unit = result.target.unit.name();
    value.map_or_else(|| ctx.missing(), |value| ctx.lang.with_unit(value, unit).into())
}

fn bounds(ctx: &RenderContext, target: &Target) -> Text {
    let (words, lang) = (&ctx.words.targets, ctx.lang);
    let unit = target.unit.name();
    match (target.min, target.max) {
        (Some(low), Some(high)) => {
            let (low, high) = (lang.exact(low), lang.exact(high));
            Text::from_template(
                words.range,
                &[("low", &low), ("high", &high), ("unit", lang.unit(unit))],
            )
        }
        (Some(low), None) => {
            Text::from_template(words.at_least, &[("low", &lang.exact_with_unit(low, unit))])
        }
        (None, Some(high)) => {
            Text::from_template(words.at_most, &[("high", &lang.exact_with_unit(high, unit))])
        }
        (None, None) => "".into(),
    }
}

/// The result of a target. Neither an unmeasurable nor a missed target is a regression, so neither
/// is shown in red.
fn verdict_cell(ctx: &RenderContext, verdict: TargetVerdict, detail: Option<&str>) -> Cell {
    let words = &ctx.words.targets;
    match verdict {
        TargetVerdict::Met => Cell::new(words.met, Tone::Good),
        TargetVerdict::NotMet => Cell::new(words.not_met, Tone::Unsure),
        TargetVerdict::NotMeasurable(why) => {
            let kind = reason_text(ctx.words, why);
            let why = detail.map_or_else(|| kind.into(), |detail| format!("{kind} ({detail})"));
            Cell::from(Text::from_template(words.not_measurable, &[("why", &why)]))
        }
    }
}

fn topic_name(words: &Words, topic: Topic) -> &'static str {
    let words = &words.topics;
    match topic {
        Topic::SingleRate => words.single_rate,
        Topic::BestRate => words.best_rate,
        Topic::BatchRate => words.batch_rate,
        Topic::FirstToken => words.first_token,
        Topic::Memory => words.memory,
        Topic::Power => words.power,
        Topic::UseCase => words.use_case,
        Topic::Pipeline => words.pipeline,
        Topic::Rag => words.rag,
        Topic::Suitability => words.suitability,
    }
}

fn reason_text(words: &Words, why: Unmeasurable) -> &'static str {
    let words = &words.unmeasurable;
    match why {
        Unmeasurable::OtherModel => words.other_model,
        Unmeasurable::OtherQuant => words.other_quant,
        Unmeasurable::NoScenario => words.no_scenario,
        Unmeasurable::NotRun => words.not_run,
        Unmeasurable::Unsupported => words.unsupported,
        Unmeasurable::Failed => words.failed,
        Unmeasurable::Invalid => words.invalid,
        Unmeasurable::NoValue => words.no_value,
        Unmeasurable::LowerBound => words.lower_bound,
        Unmeasurable::NotScaled => words.not_scaled,
        Unmeasurable::NoBandwidth => words.no_bandwidth,
    }
}
