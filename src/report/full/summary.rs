//! The summary of a record, and its use of the machine.

use crate::analysis::{CaseState, Latency, reading};
use crate::record::Case;
use crate::report::document::{Cell, Section, Table, Text};
use crate::report::full::conclusion::{recommendation_rows, score};
use crate::report::full::render_context::{MS, RenderContext};
use crate::stats;
use crate::workload::{Metric, Task, metric};

/// A value, and its source or the reason why it is missing.
type Figure = (Cell, Cell);

pub(super) fn summary(ctx: &RenderContext) -> Section {
    let words = &ctx.words.summary;
    let mut section = Section::new("summary", words.heading);
    let mut figures = vec![
        (words.decode, single_sequence(ctx, metric::DECODE_TOK_S)),
        (words.throughput, throughput(ctx)),
        (words.ttft, single_sequence(ctx, metric::TTFT_S)),
    ];
    figures.extend(latencies(ctx));
    figures.push((words.accuracy, accuracy(ctx)));
    figures.extend(recommendation_rows(ctx));
    figures.push((words.score, score(ctx)));
    let figures = Table::of(figures)
        .text(words.figure, |(name, _)| *name)
        .number(ctx.words.frame.value, |(_, (value, _))| value.clone())
        .text(words.basis, |(_, (_, basis))| basis.clone());
    section.table(figures.with_caption(words.figures));
    section
}

/// A missing value of a suite that was not run.
fn suite_missing(ctx: &RenderContext, suite: &str) -> Figure {
    let basis = Text::from_template(ctx.words.summary.needs, &[("suite", suite)]);
    (ctx.missing(), basis.into())
}

/// The valid scenario of one sequence with the longest answer, the source of the first figures.
fn longest_answer<'a>(ctx: &RenderContext<'a>) -> Option<&'a Case> {
    let cases = ctx.record.scenarios.iter();
    let single = cases.filter(|case| {
        let work = &case.work;
        work.task == Task::Generate && work.batch == 1 && CaseState::of(case).is_valid()
    });
    let decoded = single.filter(|case| !case.values(metric::DECODE_TOK_S).is_empty());
    // The first of equals: `max_by_key` alone would take the last.
    decoded.rev().max_by_key(|case| case.work.new_tokens)
}

fn single_sequence(ctx: &RenderContext, name: &str) -> Figure {
    let of = longest_answer(ctx).zip(metric(name));
    let value = of.and_then(|(case, metric)| {
        Some((case, ctx.lang.metric_value_with_unit(metric, stats::median(&case.values(name))?)))
    });
    match value {
        Some((case, value)) => (value.into(), Text::code(&case.id).into()),
        None => suite_missing(ctx, "default"),
    }
}

fn throughput(ctx: &RenderContext) -> Figure {
    let rows = ctx.analysis.categories.iter().flat_map(|category| &category.batches);
    let valid = rows.filter(|row| row.state.is_valid());
    let rates = valid.filter_map(|row| Some((row.aggregate_tok_s?.median, row)));
    match rates.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((rate, row)) => (ctx.lang.with_unit(rate, "tok/s").into(), Text::code(&row.id).into()),
        None => suite_missing(ctx, "default"),
    }
}

/// Latency percentiles of the request with the most repetitions.
fn latencies(ctx: &RenderContext) -> Vec<(&'static str, Figure)> {
    let words = &ctx.words.summary;
    let valid = ctx.analysis.latencies.iter().filter(|one| one.state.is_valid());
    let single = valid.filter(|one| one.batch == 1 && one.e2e_s.is_some());
    let repeated = |one: &&Latency| one.e2e_s.map_or(0, |e2e| e2e.count);
    let found = single.rev().max_by_key(repeated).and_then(|one| Some((one, one.e2e_s?)));
    let Some((one, e2e)) = found else {
        return vec![(words.latency_p50, suite_missing(ctx, "consistency"))];
    };
    let kinds = [
        (words.latency_p50, Some(e2e.median)),
        (words.latency_p90, e2e.p90),
        (words.latency_p99, e2e.p99),
        (words.latency_max, Some(e2e.max)),
    ];
    let count = &*ctx.lang.count(e2e.count);
    let figure = |value: Option<f64>| match value {
        Some(seconds) => {
            let values = [("scenario", &*one.id), ("count", count)];
            let value = ctx.lang.with_unit(seconds * MS, "ms");
            (value.into(), Text::from_template(words.repeated, &values).into())
        }
        None => (ctx.missing(), Text::from_template(words.few, &[("count", count)]).into()),
    };
    kinds.into_iter().map(|(name, value)| (name, figure(value))).collect()
}

fn accuracy(ctx: &RenderContext) -> Figure {
    let rows = &ctx.analysis.quality;
    let valid = rows.iter().filter(|row| row.state.is_valid());
    let value = valid.filter_map(|row| Some((row, row.top1_agreement.value?))).next();
    match (value, rows.first()) {
        (Some((row, share)), _) => (ctx.lang.share(share).into(), Text::code(&row.id).into()),
        (None, Some(row)) => {
            let why = row.top1_agreement.why.as_deref().map(Cell::from);
            let state = || ctx.record.case(&row.id).map(|case| ctx.validity(case));
            (ctx.missing(), why.or_else(state).unwrap_or_default())
        }
        (None, None) => suite_missing(ctx, "quality"),
    }
}

/// The metrics of [`energy`].
const COLUMNS: [&str; 7] = [
    metric::CPU_UTILIZATION,
    metric::GPU_UTILIZATION,
    metric::PEAK_DEVICE_BYTES,
    metric::POWER_W,
    metric::ENERGY_J_PER_TOKEN,
    metric::ROOFLINE_FRACTION,
    metric::PREFILL_FLOP_FRACTION,
];

/// Utilization, memory, power and bandwidth by scenario; below the table the reasons for missing
/// columns.
pub(super) fn energy(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.energy;
    let cases = &ctx.record.scenarios;
    let value = |case: &Case, metric: &Metric| reading(case, metric.name).value;
    let valid = || cases.iter().filter(|case| CaseState::of(case).is_valid());
    let mut section = Section::new("energy", words.heading);
    let columns = COLUMNS.map(|name| metric(name).expect("columns are metrics"));
    let has = |metric: &&Metric| cases.iter().any(|case| value(case, metric).is_some());
    let (there, missing): (Vec<_>, Vec<_>) = columns.into_iter().partition(has);
    if !there.is_empty() {
        section.paragraph(words.roofline, &[]);
        if there.iter().any(|metric| metric.name == metric::PREFILL_FLOP_FRACTION) {
            section.paragraph(words.arithmetic, &[]);
        }
        let measured = |case: &&Case| there.iter().any(|metric| value(case, metric).is_some());
        // The last row is the median of the valid scenarios.
        let rows = cases.iter().filter(measured).map(Some).chain([None]);
        let mut table = Table::of(rows).text(ctx.words.frame.scenario, |case: &Option<&Case>| {
            case.map_or(ctx.words.every.median, |case| case.id.as_str())
        });
        for metric in &there {
            let values = valid().filter_map(|case| value(case, metric)).collect::<Vec<_>>();
            table = table.number(ctx.lang.metric_label(metric), |case| match case {
                Some(case) => ctx.scaled(&CaseState::of(case), value(case, metric), metric.scale),
                None => ctx.scaled(&CaseState::Valid, stats::median(&values), metric.scale),
            });
        }
        section.table(table);
    }
    let reason = |metric: &&Metric| {
        // Reasons of invalid scenarios are not reasons for the metric.
        let why = valid().filter_map(|case| reading(case, metric.name).why).next();
        let why = why.as_deref().unwrap_or(ctx.words.absent.no_reason);
        let values = [("metric", ctx.lang.metric_name(metric)), ("why", why)];
        Text::from_template(words.reason, &values)
    };
    if !missing.is_empty() {
        section.paragraph(words.missing, &[]);
        section.list(missing.iter().map(reason).collect());
    }
    (!cases.is_empty()).then_some(section)
}
