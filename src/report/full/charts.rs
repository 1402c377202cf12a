//! The charts of a record. A chart whose scenarios were not measured is omitted; invalid scenarios
//! are not drawn.

use crate::analysis::{BatchRow, CaseState, Consistency, GridRow, Spread};
use crate::record::StressOutcome;
use crate::report::chart::{
    Axis, Bars, Chart, Data, Histogram, Lines, Panel, Point, Scale, Series, SeriesStyle, svg,
};
use crate::report::document::{Block, RenderedChart, Section, Text};
use crate::report::full::render_context::{MIB, MS, RenderContext};
use crate::workload::metric;

/// The charts that open a report: rates, latency and memory by category and batch size.
pub(super) fn headline(ctx: &RenderContext) -> Option<Section> {
    let by_batch = |name, metric, label, value| by_batch(ctx, name, metric, label, value);
    let charts = [
        by_batch("decode", metric::DECODE_TOK_S, ctx.words.categories.whole, |row| {
            Some(row.aggregate_tok_s?.median)
        }),
        by_batch("first-token", metric::TTFT_S, "ms", |row| Some(row.ttft_s?.median * MS)),
        by_batch("prefill", metric::PREFILL_TOK_S, "tok/s", |row| Some(row.prefill_tok_s?.median)),
        by_batch("peak-memory", metric::PEAK_RSS_BYTES, ctx.lang.unit("MiB"), |row| {
            Some(row.peak_rss_bytes.value? * MIB)
        }),
    ];
    section("headline", ctx.words.card.headline, charts)
}

pub(super) fn charts(ctx: &RenderContext) -> Option<Section> {
    let charts = [
        first_token(ctx),
        steps(ctx),
        rates(ctx),
        times(ctx),
        depths(ctx),
        repeats(ctx),
        growth(ctx),
    ];
    section("charts", ctx.words.charts.heading, charts)
}

fn section<const N: usize>(
    id: &'static str,
    heading: &'static str,
    charts: [Option<RenderedChart>; N],
) -> Option<Section> {
    let mut section = Section::new(id, heading);
    section.blocks.extend(charts.into_iter().flatten().map(Block::Chart));
    (!section.blocks.is_empty()).then_some(section)
}

/// A rendered chart, if its data can be drawn.
fn chart(
    ctx: &RenderContext,
    name: &'static str,
    title: &str,
    about: impl Into<Text>,
    data: Data,
) -> Option<RenderedChart> {
    let about = about.into();
    let number = |value: f64, decimals: usize| ctx.lang.fixed(value, decimals);
    let chart = Chart { title: title.into(), alt: about.plain_text(), number: &number, data };
    svg(&chart).ok().map(|svg| RenderedChart { name, svg, about })
}

fn lines((x, x_scale): (&str, Scale), (y, y_scale): (&str, Scale), series: Vec<Series>) -> Data {
    let axis = |label: &str, scale| Axis { label: label.into(), scale };
    Data::Lines(Lines { x: axis(x, x_scale), y: axis(y, y_scale), series })
}

/// A curve; the style of a series that no chart says otherwise about.
fn curve(name: &str, points: impl IntoIterator<Item = Point>) -> Series {
    let points = points.into_iter().collect();
    Series { name: name.into(), points, style: SeriesStyle::Line }
}

/// The median of a valid scenario.
fn valid_median(state: &CaseState, spread: Option<Spread>) -> Option<f64> {
    spread.filter(|_| state.is_valid()).map(|spread| spread.median)
}

/// A bar per valid scenario; `None` for fewer than two, which need no chart.
fn by_batch(
    ctx: &RenderContext,
    name: &'static str,
    of: &str,
    label: &str,
    value: fn(&BatchRow) -> Option<f64>,
) -> Option<RenderedChart> {
    let words = &ctx.words.card;
    let rows = ctx.analysis.categories.iter().flat_map(|category| &category.batches);
    let valid = rows.filter(|row| row.state.is_valid());
    let (categories, values): (Vec<String>, Vec<Option<f64>>) =
        valid.filter_map(|row| Some((row.id.clone(), Some(value(row)?)))).unzip();
    if values.len() < 2 {
        return None;
    }
    let metric = metric(of).map_or(of, |metric| ctx.lang.metric_name(metric));
    let title = Text::from_template(words.by_batch, &[("metric", metric)]).plain_text();
    let first: String = title.chars().take(1).flat_map(char::to_uppercase).collect();
    let title = first + &title.chars().skip(1).collect::<String>();
    let about = Text::from_template(words.by_batch_alt, &[("chart", &title)]);
    let panels = vec![Panel { label: label.into(), values }];
    chart(ctx, name, &title, about, Data::Bars(Bars { categories, panels }))
}

fn first_token(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words.charts;
    let grid = ctx.analysis.grid.as_ref()?;
    let point = |row: &GridRow| {
        let seconds = valid_median(&row.state, row.ttft_s)?;
        Some((row.prompt_tokens? as f64, Some(seconds * MS)))
    };
    let mut points: Vec<Point> = grid.rows.iter().filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (first, last) = (points.first()?.0, points.last()?.0);
    let mut series = vec![Series { style: SeriesStyle::Points, ..curve(words.measured, points) }];
    if let Some(fit) = grid.ttft_growth {
        // A time below zero is impossible: the line starts where it crosses zero.
        let zero = -fit.line.intercept / fit.line.slope;
        let from = if fit.line.at(first) < 0.0 { zero } else { first };
        let points = [from, last].map(|x| (x, Some(fit.line.at(x) * MS)));
        series.push(Series { style: SeriesStyle::Reference, ..curve(words.fit, points) });
    }
    let data = lines((words.prompt_axis, Scale::Zero), ("TTFT (ms)", Scale::Zero), series);
    chart(ctx, "ttft", words.ttft, words.ttft_alt, data)
}

fn steps(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words.charts;
    let steps = ctx.analysis.grid.as_ref()?.steps.as_ref()?;
    let points = steps.points.iter().map(|one| (one.step as f64, Some(one.tok_s)));
    let (x, y) = ((words.step_axis, Scale::Whole), (words.rate_axis, Scale::Zero));
    let about = Text::from_template(words.steps_alt, &[("scenario", &steps.id)]);
    chart(ctx, "steps", words.steps, about, lines(x, y, vec![curve(&steps.id, points)]))
}

fn rates(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words;
    let rows = &ctx.analysis.grid.as_ref()?.rows;
    let name = |row: &GridRow| row.id.rsplit('/').next().unwrap_or(&row.id).to_owned();
    let panel = |label: &str, of: fn(&GridRow) -> Option<Spread>| Panel {
        label: label.into(),
        values: rows.iter().map(|row| valid_median(&row.state, of(row))).collect(),
    };
    let panels = vec![
        panel(words.context.prefill, |row| row.prefill_tok_s),
        panel(words.context.decode, |row| row.decode_tok_s),
    ];
    let data = Data::Bars(Bars { categories: rows.iter().map(name).collect(), panels });
    chart(ctx, "rates", words.charts.rates, words.charts.rates_alt, data)
}

fn times(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words;
    let single = ctx.analysis.categories.iter().filter_map(|category| {
        let row = category.batches.iter().find(|row| row.batch == 1)?;
        Some((category.name.clone(), valid_median(&row.state, row.e2e_s).map(|e2e| e2e * MS)))
    });
    let (categories, values): (Vec<String>, Vec<Option<f64>>) = single.unzip();
    let panels = vec![Panel { label: words.categories.whole_answer.into(), values }];
    let data = Data::Bars(Bars { categories, panels });
    chart(ctx, "times", words.charts.times, words.charts.times_alt, data)
}

fn depths(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words.charts;
    let rows = &ctx.analysis.context.as_ref()?.rows;
    let series = [(false, words.plain), (true, words.yarn)].map(|(extended, name)| {
        let rows = rows.iter().filter(|row| row.extended == extended);
        let point = rows.map(|row| (row.depth as f64, valid_median(&row.state, row.decode_tok_s)));
        curve(name, point)
    });
    let series = series.into_iter().filter(|one| one.points.iter().any(|(_, y)| y.is_some()));
    let (x, y) = ((words.depth_axis, Scale::Zero), (words.rate_axis, Scale::Zero));
    chart(ctx, "context", words.depths, words.depths_alt, lines(x, y, series.collect()))
}

fn repeats(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words;
    let measured = |one: &&Consistency| one.state.is_valid() && !one.series_s.is_empty();
    let one = ctx.analysis.consistency.iter().find(measured)?;
    let of = one.e2e_s?;
    let mark = |name: &str, at: f64| (name.to_owned(), at * MS);
    let marks = [Some(mark("p50", of.median)), of.p95.map(|p95| mark("p95", p95))];
    let data = Data::Histogram(Histogram {
        x: words.latency.e2e.into(),
        y: words.charts.count_axis.into(),
        values: one.series_s.iter().flatten().map(|seconds| seconds * MS).collect(),
        marks: marks.into_iter().flatten().collect(),
    });
    let about = Text::from_template(words.charts.repeats_alt, &[("scenario", &one.id)]);
    chart(ctx, "repeats", words.charts.repeats, about, data)
}

/// Memory after each request of the first process; crosses mark unanswered requests.
fn growth(ctx: &RenderContext) -> Option<RenderedChart> {
    let words = &ctx.words.charts;
    let mut failed: Vec<Point> = Vec::new();
    let mut series: Vec<Series> = Vec::new();
    for row in ctx.analysis.stress.iter().filter(|row| row.state.is_valid()) {
        let requests = || row.requests.iter().take(1).flatten().zip(1..);
        let memory = requests().map(|(request, at)| {
            (f64::from(at), request.rss_bytes.map(|bytes| bytes as f64 * MIB))
        });
        series.push(curve(&row.name, memory));
        let answered = StressOutcome::Answered;
        let unanswered = requests().filter(|(request, _)| request.outcome != answered);
        failed.extend(unanswered.map(|(_, at)| (f64::from(at), None)));
    }
    series.retain(|one| one.points.iter().any(|(_, y)| y.is_some()));
    if !failed.is_empty() {
        failed.sort_by(|a, b| a.0.total_cmp(&b.0));
        series.push(Series { style: SeriesStyle::Failures, ..curve(words.unanswered, failed) });
    }
    let (x, y) = ((words.request_axis, Scale::Whole), (words.memory_axis, Scale::Around));
    chart(ctx, "memory", words.growth, words.growth_alt, lines(x, y, series))
}
