//! The cost of length: the grid of prompt and answer lengths with derived figures, and contexts of
//! growing depth.

use crate::analysis::{CaseState, ContextRow, Grid, KernelProfile, Reading};
use crate::report::document::{Block, Cell, Section, Table, Text};
use crate::report::full::render_context::{MIB, MS, RenderContext};
use crate::stats::LineFit;
use crate::workload::metric;

/// Seconds per token as microseconds per thousand tokens.
const US_PER_THOUSAND: f64 = 1e9;

pub(super) fn grid(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.grid;
    let mut section = Section::new("grid", words.heading);
    if let Some(grid) = &ctx.analysis.grid {
        section.push(grid_table(ctx, grid));
        section.paragraph(words.spread, &[]);
    }
    let shares = ctx.analysis.kernels.as_ref().and_then(|kernels| kernel_table(ctx, kernels));
    let derived = derived_table(ctx);
    if !derived.rows.is_empty() {
        section.push(derived);
    }
    if let Some(shares) = shares {
        section.push(shares);
    }
    (ctx.analysis.grid.is_some() || ctx.analysis.kernels.is_some()).then_some(section)
}

fn grid_table(ctx: &RenderContext, grid: &Grid) -> Table {
    let (words, lang) = (&ctx.words.grid, ctx.lang);
    let header = [
        ctx.words.frame.scenario,
        ctx.words.scenarios.prompt,
        ctx.words.scenarios.generated,
        "TTFT (ms)",
        ctx.words.context.decode,
        ctx.words.context.prefill,
        words.about,
    ];
    let mut table = Table::new(header, 1);
    table.right.pop();
    for row in &grid.rows {
        let name = row.id.rsplit('/').next().unwrap_or(&row.id);
        let about = match name {
            "S1" => words.s1,
            "S2" => words.s2,
            "S3" => words.s3,
            "S4" => words.s4,
            "S5" => words.s5,
            "S6" => words.s6,
            _ => "",
        };
        table.push([
            name.into(),
            ctx.count(row.prompt_tokens),
            lang.count(row.new_tokens).into(),
            ctx.spread(&row.state, row.ttft_s, MS),
            ctx.spread(&row.state, row.decode_tok_s, 1.0),
            ctx.spread(&row.state, row.prefill_tok_s, 1.0),
            Cell::from(about),
        ]);
    }
    table
}

/// Figures derived from several scenarios, with their interpretation; unmeasured ones are omitted.
fn derived_table(ctx: &RenderContext) -> Table {
    let words = &ctx.words.grid;
    let header = [ctx.words.summary.figure, ctx.words.frame.value, words.meaning];
    let mut table = Table::new(header, 1);
    table.right.pop();
    table.caption = Some(words.derived.into());
    let mut push = |name: Text, value: Option<Cell>, meaning: &'static str| {
        if let Some(value) = value {
            table.push([name.into(), value, meaning.into()]);
        }
    };
    let valid = &CaseState::Valid;
    if let Some(grid) = &ctx.analysis.grid {
        let growth = |fit: Option<LineFit>| Some(ctx.slope(&fit?, MS));
        push(words.ttft_growth.into(), growth(grid.ttft_growth), words.growth_meaning);
        push(words.prefill_growth.into(), growth(grid.prefill_growth), words.growth_meaning);
        let cv = grid.decode_cv.map(|cv| ctx.share(valid, Some(cv)));
        push(words.decode_cv.into(), cv, words.cv_meaning);
        for (name, reading, meaning) in [
            (metric::LOAD_S, &grid.load_s, words.load_meaning),
            (metric::PACK_S, &grid.pack_s, words.pack_meaning),
            (metric::COLD_TTFT_S, &grid.cold_ttft_s, words.cold_meaning),
            (metric::PEAK_RSS_BYTES, &grid.peak_rss_bytes, words.peak_meaning),
            (metric::PEAK_DEVICE_BYTES, &grid.peak_device_bytes, words.peak_meaning),
        ] {
            let (name, value) = ctx.labelled(name, valid, reading);
            push(name, value, meaning);
        }
    }
    if let Some(kernels) = &ctx.analysis.kernels {
        if ctx.analysis.grid.is_none() {
            let (name, value) = ctx.labelled(metric::PACK_S, &kernels.state, &kernels.pack_s);
            push(name, value, words.pack_meaning);
        }
        let state = &kernels.state;
        for (name, reading, meaning) in [
            (metric::KERNEL_SHARE, &kernels.kernel_share, words.share_meaning),
            (metric::KERNEL_OVERHEAD_S, &kernels.kernel_overhead_s, words.overhead_meaning),
            (metric::KERNELS_PER_STEP, &kernels.kernels_per_step, words.steps_meaning),
            (metric::REGION_OVERHEAD_S, &kernels.region_overhead_s, words.region_meaning),
        ] {
            let (name, value) = ctx.labelled(name, state, reading);
            push(name, value, meaning);
        }
    }
    table
}

/// KernelProfile by their share of the traced time.
fn kernel_table(ctx: &RenderContext, kernels: &KernelProfile) -> Option<Table> {
    let words = &ctx.words.grid;
    let mut table = Table::new([words.kernel, words.time_share], 1);
    table.caption = Some(Text::from_template(words.kernels, &[("scenario", &kernels.id)]));
    for (name, share) in &kernels.shares {
        table.push([name.as_str().into(), ctx.share(&kernels.state, Some(*share))]);
    }
    (!table.rows.is_empty()).then_some(table)
}

pub(super) fn context(ctx: &RenderContext) -> Option<Section> {
    let words = &ctx.words.context;
    let context = ctx.analysis.context.as_ref()?;
    let mut section = Section::new("context", words.heading);
    section.paragraph(words.intro, &[]);
    for (extended, caption) in [(false, words.without), (true, words.with)] {
        let rows: Vec<&ContextRow> =
            context.rows.iter().filter(|row| row.extended == extended).collect();
        if rows.is_empty() {
            continue;
        }
        let header = [
            words.depth,
            words.decode,
            words.kept,
            words.step,
            words.prefill,
            words.prefill_kept,
            words.expected,
            words.held,
            words.growth_memory,
        ];
        let mut table = Table::new(header, 1);
        table.caption = Some(caption.into());
        for row in rows {
            table.push(depth_row(ctx, row));
        }
        section.push(table);
    }
    let growth = [
        (words.growth, context.step_growth),
        (words.growth_extended, context.step_growth_extended),
    ];
    let mut table = Table::new([ctx.words.summary.figure, ctx.words.frame.value], 1);
    for (name, fit) in growth.iter().filter_map(|(name, fit)| Some((*name, fit.as_ref()?))) {
        table.push([name.into(), ctx.slope(fit, US_PER_THOUSAND)]);
    }
    if !table.rows.is_empty() {
        section.push(table);
        let text = Text::from(words.growth_meaning);
        section.push(Block::Paragraph { text });
    }
    Some(section)
}

fn depth_row(ctx: &RenderContext, row: &ContextRow) -> Vec<Cell> {
    let state = &row.state;
    let mib = |reading: &Reading| ctx.reading(state, reading, MIB);
    vec![
        ctx.lang.count(row.depth).into(),
        ctx.spread(state, row.decode_tok_s, 1.0),
        ctx.share(state, row.decode_retention),
        ctx.spread(state, row.tpot_s, MS),
        ctx.spread(state, row.prefill_tok_s, 1.0),
        ctx.share(state, row.prefill_retention),
        mib(&row.kv_bytes_expected),
        mib(&row.kv_bytes_held),
        mib(&row.peak_delta_bytes),
    ]
}
