//! The charts that open a report: rates, latency and memory by category and batch size.

use crate::analysis::BatchRow;
use crate::report::chart::{Bars, Chart, Data, Group, Panel, svg};
use crate::report::document::{Block, RenderedChart, Section, Text};
use crate::report::full::render_context::{MIB, MS, RenderContext};
use crate::workload::metric;

/// A chart: its name, its metric, the label of its values, and its value of a row.
type Headline<'a> = (&'static str, &'static str, &'a str, fn(&BatchRow) -> Option<f64>);

pub(super) fn headline(ctx: &RenderContext) -> Option<Section> {
    let charts: [Headline<'_>; 4] = [
        ("decode", metric::DECODE_TOK_S, ctx.words.categories.whole, |row| {
            Some(row.aggregate_tok_s?.median)
        }),
        ("first-token", metric::TTFT_S, "ms", |row| Some(row.ttft_s?.median * MS)),
        ("prefill", metric::PREFILL_TOK_S, "tok/s", |row| Some(row.prefill_tok_s?.median)),
        ("peak-memory", metric::PEAK_RSS_BYTES, ctx.lang.unit("MiB"), |row| {
            Some(row.peak_rss_bytes.value? * MIB)
        }),
    ];
    let mut section = Section::new("headline", ctx.words.card.headline);
    for chart in charts.into_iter().filter_map(|chart| by_batch(ctx, chart)) {
        section.push(Block::Chart { chart });
    }
    (!section.blocks.is_empty()).then_some(section)
}

/// A bar per valid scenario; `None` for fewer than two, which need no chart.
fn by_batch(ctx: &RenderContext, (name, of, label, value): Headline<'_>) -> Option<RenderedChart> {
    let words = &ctx.words.card;
    let rows = ctx.analysis.categories.iter().flat_map(|category| &category.batches);
    let valid = rows.filter(|row| row.state.is_valid());
    let (categories, values): (Vec<String>, Vec<Option<f64>>) =
        valid.filter_map(|row| Some((row.id.clone(), Some(value(row)?)))).unzip();
    if values.len() < 2 {
        return None;
    }
    let number = |value: f64, decimals: usize| ctx.lang.fixed(value, decimals);
    let groups = vec![Group { name: label.into(), values }];
    let panels = vec![Panel { label: label.into(), number: &number, groups }];
    let metric = metric(of).map_or(of, |metric| ctx.lang.metric_name(metric));
    let title = Text::from_template(words.by_batch, &[("metric", metric)]).plain_text();
    let first: String = title.chars().take(1).flat_map(char::to_uppercase).collect();
    let title = first + &title.chars().skip(1).collect::<String>();
    let about = Text::from_template(words.by_batch_alt, &[("chart", &title)]);
    let chart =
        Chart { title, alt: about.plain_text(), data: Data::Bars(Bars { categories, panels }) };
    svg(&chart).ok().map(|svg| RenderedChart { name, svg, about })
}
