//! The cost of length: the grid of prompt and answer lengths with derived figures, and contexts of
//! growing depth.

use crate::analysis::{CaseState, ContextRow, GridRow};
use crate::report::document::{Cell, Section, Table, Text};
use crate::report::full::render_context::{MIB, MS, RenderContext};
use crate::stats::LineFit;
use crate::workload::metric;

/// Seconds per token as microseconds per thousand tokens.
const US_PER_THOUSAND: f64 = 1e9;

pub(super) fn grid(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.grid;
    let mut section = Section::new("grid", words.heading);
    if let Some(grid) = &ctx.analysis.grid {
        section.table(grid_table(ctx, &grid.rows));
        section.paragraph(words.spread, &[]);
    }
    section.table(derived_table(ctx));
    if let Some(kernels) = &ctx.analysis.kernels {
        // By their share of the traced time.
        let table = Table::of(&kernels.shares)
            .text(words.kernel, |(name, _)| name.as_str())
            .number(words.time_share, |(_, share)| ctx.share(&kernels.state, Some(*share)));
        let caption = Text::from_template(words.kernels, &[("scenario", &kernels.id)]);
        section.table(table.with_caption(caption));
    }
    (ctx.analysis.grid.is_some() || ctx.analysis.kernels.is_some()).then_some(section)
}

fn grid_table(ctx: &RenderContext, rows: &[GridRow]) -> Table {
    let words = &ctx.words.grid;
    let about = [words.s1, words.s2, words.s3, words.s4, words.s5, words.s6];
    let name = |row: &GridRow| row.id.rsplit('/').next().unwrap_or(&row.id).to_owned();
    let about = |row: &GridRow| -> &str {
        let number = name(row).strip_prefix('S').and_then(|number| number.parse::<usize>().ok());
        number.and_then(|number| about.get(number.checked_sub(1)?)).copied().unwrap_or_default()
    };
    Table::of(rows)
        .text(ctx.words.frame.scenario, |row| name(row))
        .number(ctx.words.scenarios.prompt, |row| ctx.count(row.prompt_tokens))
        .number(ctx.words.scenarios.generated, |row| ctx.count(row.new_tokens))
        .number("TTFT (ms)", |row| ctx.spread(&row.state, row.ttft_s, MS))
        .number(ctx.words.context.decode, |row| ctx.spread(&row.state, row.decode_tok_s, 1.0))
        .number(ctx.words.context.prefill, |row| ctx.spread(&row.state, row.prefill_tok_s, 1.0))
        .text(words.about, |row| about(row))
        .into()
}

/// Figures derived from several scenarios, with their interpretation; unmeasured ones are omitted.
fn derived_table(ctx: &RenderContext) -> Table {
    let words = &ctx.words.grid;
    let (valid, kernels) = (&CaseState::Valid, ctx.analysis.kernels.as_ref());
    let mut rows: Vec<((Text, Option<Cell>), &str)> = Vec::new();
    if let Some(grid) = &ctx.analysis.grid {
        let growth = |fit: Option<LineFit>| fit.map(|fit| ctx.slope(&fit, MS));
        let cv = grid.decode_cv.map(|cv| ctx.share(valid, Some(cv)));
        rows.extend([
            ((words.ttft_growth.into(), growth(grid.ttft_growth)), words.growth_meaning),
            ((words.prefill_growth.into(), growth(grid.prefill_growth)), words.growth_meaning),
            ((words.decode_cv.into(), cv), words.cv_meaning),
            (ctx.labelled(metric::LOAD_S, valid, &grid.load_s), words.load_meaning),
            (ctx.labelled(metric::PACK_S, valid, &grid.pack_s), words.pack_meaning),
            (ctx.labelled(metric::COLD_TTFT_S, valid, &grid.cold_ttft_s), words.cold_meaning),
            (ctx.labelled(metric::PEAK_RSS_BYTES, valid, &grid.peak_rss_bytes), words.peak_meaning),
            (
                ctx.labelled(metric::PEAK_DEVICE_BYTES, valid, &grid.peak_device_bytes),
                words.peak_meaning,
            ),
        ]);
    } else if let Some(kernels) = kernels {
        let pack = ctx.labelled(metric::PACK_S, &kernels.state, &kernels.pack_s);
        rows.push((pack, words.pack_meaning));
    }
    if let Some(of) = kernels {
        rows.extend(
            [
                (metric::KERNEL_SHARE, &of.kernel_share, words.share_meaning),
                (metric::KERNEL_OVERHEAD_S, &of.kernel_overhead_s, words.overhead_meaning),
                (metric::KERNELS_PER_STEP, &of.kernels_per_step, words.steps_meaning),
                (metric::REGION_OVERHEAD_S, &of.region_overhead_s, words.region_meaning),
            ]
            .map(|(name, reading, meaning)| (ctx.labelled(name, &of.state, reading), meaning)),
        );
    }
    let header = [ctx.words.summary.figure, ctx.words.frame.value, words.meaning];
    let mut table = Table::new(header, 1..2).with_caption(words.derived);
    for ((name, value), meaning) in rows {
        if let Some(value) = value {
            table.push([name.into(), value, meaning.into()]);
        }
    }
    table
}

pub(super) fn context(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.context;
    let context = ctx.analysis.context.as_ref()?;
    let mut section = Section::with_intro("context", words.heading, words.intro);
    for (extended, caption) in [(false, words.without), (true, words.with)] {
        let mib = |row: &ContextRow, bytes: Option<f64>| ctx.scaled(&row.state, bytes, MIB);
        let table = Table::of(context.rows.iter().filter(|row| row.extended == extended))
            .text(words.depth, |row| ctx.count(row.depth))
            .number(words.decode, |row| ctx.spread(&row.state, row.decode_tok_s, 1.0))
            .number(words.kept, |row| ctx.share(&row.state, row.decode_retention))
            .number(words.step, |row| ctx.spread(&row.state, row.tpot_s, MS))
            .number(words.prefill, |row| ctx.spread(&row.state, row.prefill_tok_s, 1.0))
            .number(words.prefill_kept, |row| ctx.share(&row.state, row.prefill_retention))
            .number(words.expected, |row| mib(row, row.kv_bytes_expected.value))
            .number(words.held, |row| mib(row, row.kv_bytes_held.value))
            .number(words.growth_memory, |row| mib(row, row.peak_delta_bytes.value));
        section.table(table.with_caption(caption));
    }
    let mut growth = Table::new([ctx.words.summary.figure, ctx.words.frame.value], 1..);
    for (name, fit) in
        [(words.growth, context.step_growth), (words.growth_extended, context.step_growth_extended)]
    {
        if let Some(fit) = fit {
            growth.push([name.into(), ctx.slope(&fit, US_PER_THOUSAND)]);
        }
    }
    if !growth.rows.is_empty() {
        section.table(growth);
        section.paragraph(words.growth_meaning, &[]);
    }
    Some(section)
}
