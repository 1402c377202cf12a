//! The summary of a record, and its use of the machine.

use crate::analysis::{CaseState, Latency, Reading, ResourceRow};
use crate::record::Case;
use crate::report::document::{Block, Cell, Section, Table, Text};
use crate::report::full::conclusion::{recommendation_rows, score};
use crate::report::full::render_context::{MS, RenderContext};
use crate::stats;
use crate::workload::{Task, metric};

/// A value, and its source or the reason why it is missing.
type Figure = (Cell, Cell);

pub(super) fn summary(ctx: &RenderContext) -> Section {
    let words = &ctx.words.summary;
    let mut section = Section::new("summary", words.heading);
    let header = [words.figure, ctx.words.frame.value, words.basis];
    let mut table = Table::new(header, 1);
    table.right.pop();
    table.caption = Some(words.figures.into());
    let mut push = |name: &'static str, (value, basis): Figure| {
        table.push([name.into(), value, basis]);
    };
    push(words.decode, single_sequence(ctx, "decode_tok_s"));
    push(words.throughput, throughput(ctx));
    push(words.ttft, single_sequence(ctx, "ttft_s"));
    for (name, figure) in latencies(ctx) {
        push(name, figure);
    }
    push(words.accuracy, accuracy(ctx));
    for (name, figure) in recommendation_rows(ctx) {
        push(name, figure);
    }
    push(words.score, score(ctx));
    section.push(table);
    section.push(resources_table(ctx));
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
    let decoded = single.filter(|case| !case.values("decode_tok_s").is_empty());
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
    let count = |one: &&Latency| one.e2e_s.map_or(0, |e2e| e2e.count);
    let found = single.rev().max_by_key(count).and_then(|one| Some((one, one.e2e_s?)));
    let Some((one, e2e)) = found else {
        return vec![(words.latency_p50, suite_missing(ctx, "consistency"))];
    };
    let kinds = [
        (words.latency_p50, Some(e2e.median)),
        (words.latency_p90, e2e.p90),
        (words.latency_p99, e2e.p99),
        (words.latency_max, Some(e2e.max)),
    ];
    let figure = |value: Option<f64>| match value {
        Some(seconds) => (
            ctx.lang.with_unit(seconds * MS, "ms").into(),
            Cell::from(Text::from_template(
                words.repeated,
                &[("scenario", &one.id), ("count", &ctx.lang.count(e2e.count))],
            )),
        ),
        None => {
            let count = ctx.lang.count(e2e.count);
            (ctx.missing(), Text::from_template(words.few, &[("count", &count)]).into())
        }
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

/// A reading of the whole record with its unit, or the reason why it is missing.
fn resource_row(ctx: &RenderContext, name: &str, reading: &Reading) -> [Cell; 3] {
    let (name, value) = ctx.labelled(name, &CaseState::Valid, reading);
    let why = reading.why.as_deref();
    let none = || Cell::from(why.unwrap_or(ctx.words.absent.no_reason));
    match value {
        Some(value) => [name.into(), value, why.map_or_else(|| "".into(), Cell::from)],
        None => [name.into(), ctx.words.frame.not_measured.into(), none()],
    }
}

fn resources_table(ctx: &RenderContext) -> Table {
    let words = &ctx.words.summary;
    let of = &ctx.analysis.resources;
    let header = [words.resource, ctx.words.frame.value, words.remark];
    let mut table = Table::new(header, 1);
    table.right.pop();
    table.caption = Some(words.resources.into());
    for (name, reading) in [
        ("cpu_utilisation", &of.cpu_utilisation),
        ("gpu_utilisation", &of.gpu_utilisation),
        ("peak_rss_bytes", &of.peak_rss_bytes),
        ("peak_device_bytes", &of.peak_device_bytes),
        ("power_w", &of.power_w),
        ("energy_j_per_token", &of.energy_j_per_token),
    ] {
        table.push(resource_row(ctx, name, reading));
    }
    table
}

/// The metrics of [`energy`] with accessors.
type Column = (&'static str, fn(&ResourceRow) -> &Reading);

const COLUMNS: [Column; 6] = [
    ("cpu_utilisation", |row| &row.cpu_utilisation),
    ("gpu_utilisation", |row| &row.gpu_utilisation),
    ("power_w", |row| &row.power_w),
    ("energy_j_per_token", |row| &row.energy_j_per_token),
    ("roofline_fraction", |row| &row.roofline_fraction),
    ("prefill_flop_fraction", |row| &row.prefill_flop_fraction),
];

/// Utilization, power and bandwidth by scenario; below the table the reasons for missing columns.
pub(super) fn energy(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.energy;
    let rows = &ctx.analysis.resources.rows;
    let mut section = Section::new("energy", words.heading);
    let has = |column: &Column| rows.iter().any(|row| column.1(row).value.is_some());
    let (there, missing): (Vec<Column>, Vec<Column>) = COLUMNS.into_iter().partition(has);
    if !there.is_empty() {
        section.paragraph(words.roofline, &[]);
        if there.iter().any(|(name, _)| *name == "prefill_flop_fraction") {
            section.paragraph(words.arithmetic, &[]);
        }
        section.push(utilization_table(ctx, &there));
    }
    let reason = |(name, of): &Column| {
        // Reasons of invalid scenarios are not reasons for the metric.
        let valid = rows.iter().filter(|row| row.state.is_valid());
        let why = valid.filter_map(|row| of(row).why.as_deref()).next();
        let why = why.unwrap_or(ctx.words.absent.no_reason);
        let name = metric(name).map_or(*name, |metric| ctx.lang.metric_name(metric));
        Text::from_template(words.reason, &[("metric", name), ("why", why)])
    };
    if !missing.is_empty() {
        section.paragraph(words.missing, &[]);
        section.push(Block::List { items: missing.iter().map(reason).collect() });
    }
    (!rows.is_empty()).then_some(section)
}

fn utilization_table(ctx: &RenderContext, columns: &[Column]) -> Table {
    let metrics = || columns.iter().filter_map(|(name, of)| Some((metric(name)?, of)));
    let mut header = vec![ctx.words.frame.scenario.to_owned()];
    header.extend(metrics().map(|(metric, _)| ctx.lang.metric_label(metric)));
    let mut table = Table::new(header, 1);
    for row in &ctx.analysis.resources.rows {
        if columns.iter().any(|(_, of)| of(row).value.is_some()) {
            let values =
                metrics().map(|(metric, of)| ctx.reading(&row.state, of(row), metric.scale));
            table.push(std::iter::once(Cell::from(row.id.as_str())).chain(values));
        }
    }
    table
}
