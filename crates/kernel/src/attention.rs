//! Causal attention of a ragged batch over the paged KV cache, in the manner of FlashAttention: one
//! page of positions at a time with an online softmax (Milakov and Gimelshein 2018, arXiv
//! 1805.02867; Dao et al. 2022, arXiv 2205.14135), so memory does not grow with the context.
//!
//! Grouped-query attention (GQA): the query heads that share a key-value head are rows of one GEMM
//! with its keys and values. Decode splits long contexts over threads (split-KV, as Flash-Decoding)
//! and merges the partial softmaxes.

use std::ops::Range;

use super::activations::{ActivationFormat, Activations};
use super::dispatch::{gemm_f32, kernels, widen_bf16_pairs};
use super::isa::Isa;
use super::kv_cache::q8_0::{dequantize_keys, dequantize_values};
use super::kv_cache::{KvCache, KvDtype, KvLayout, PAGE, Span};
use super::operands::F32x16;
use super::packed::{BLOCK, PANEL_ROWS, WeightFormat};
use super::pool::{Pool, SharedSlice};

#[cfg(target_arch = "x86_64")]
mod bf16;
mod q8_0;
mod softmax;

#[cfg(target_arch = "x86_64")]
use bf16::{Lines, accumulate_page, has_kernels, score_page};
#[cfg(target_arch = "x86_64")]
use softmax::online_softmax_bf16;
use softmax::{OnlineSoftmax, merge, normalize, online_softmax};

#[cfg(target_arch = "x86_64")]
use super::activations::round_to_amx_tiles;
#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
#[cfg(target_arch = "x86_64")]
use super::kv_cache::q8_0::{round_keys, round_values};
#[cfg(target_arch = "x86_64")]
use super::operands::AmxTile;

/// Query rows per task, the heads of a group counted each: they share the widening of a page.
const QUERY_BLOCK: usize = 64;

/// Positions per task in decode (split-KV), so that a long context occupies all threads. Splits are
/// merged in order, so results depend on this number and not on that of threads.
const KV_SPLIT: usize = 1024;

/// Query rows of a span, of one key-value head, over a range of positions.
struct Task {
    span: Span,
    head: usize,
    /// First row within the span.
    first: usize,
    rows: usize,
    positions: Range<usize>,
}

/// Whether a span has so few query rows that reading the cache is the bound.
fn is_decode(span: &Span, group: usize) -> bool {
    span.rows * group <= PANEL_ROWS
}

/// The format of queries, and of the softmax weights that multiply values. `rows` are the query
/// rows of a sequence in a pass, the heads of a group counted each.
pub fn attention_format(isa: Isa, layout: KvLayout, rows: usize) -> ActivationFormat {
    let decode = rows <= PANEL_ROWS;
    match layout.dtype {
        KvDtype::Q8_0 if decode => ActivationFormat::Int8,
        KvDtype::Bf16 | KvDtype::Q8_0
            if !decode
                && isa.has_bf16()
                && !isa.choices().f32_attention
                && layout.width.is_multiple_of(BLOCK) =>
        {
            ActivationFormat::Bf16
        }
        KvDtype::F32 | KvDtype::Bf16 | KvDtype::Q8_0 => ActivationFormat::F32,
    }
}

/// `out[row][head] = softmax(q · keys) · values` over the positions up to the row's own, as
/// activations of the next GEMM. `q` is `[rows, heads * width]`, already scaled; keys and values of
/// these rows are in the cache.
///
/// # Panics
/// When sizes do not fit.
pub fn attention(
    pool: &Pool,
    isa: Isa,
    cache: &KvCache,
    layer: usize,
    spans: &[Span],
    q: &[f32],
    out: &mut Activations,
) {
    let KvLayout { heads, width, .. } = cache.layout();
    let rows: usize = spans.iter().map(|span| span.rows).sum();
    let stride = q.len() / rows;
    assert_eq!(q.len(), rows * stride, "whole rows");
    let group = stride / width / heads;
    assert_eq!(stride, group * heads * width, "query heads share key-value heads evenly");
    let mut tasks: Vec<Task> = Vec::new();
    // Number of consecutive tasks that are splits of the same rows.
    let mut splits: Vec<usize> = Vec::new();
    for span in spans {
        let block = (QUERY_BLOCK / group).max(1);
        for first in (0..span.rows).step_by(block) {
            let rows = block.min(span.rows - first);
            let context = span.past + first + rows;
            let split = if is_decode(span, group) { KV_SPLIT } else { context };
            for head in 0..heads {
                splits.push(context.div_ceil(split));
                for start in (0..context).step_by(split) {
                    let positions = start..context.min(start + split);
                    tasks.push(Task { span: *span, head, first, rows, positions });
                }
            }
        }
    }
    let mut results: Vec<Option<OnlineSoftmax>> = Vec::new();
    results.resize_with(tasks.len(), || None);
    let unsplit = splits.iter().all(|&count| count == 1);
    let out_rows = SharedSlice::new(out.rows_mut(rows, stride));
    let out_stride = out.columns();
    let finish = |task: &Task, softmax: &OnlineSoftmax| {
        let rows = softmax.max.len();
        for row in 0..rows {
            let at = (task.span.start + task.first + row / group) * out_stride
                + (task.head * group + row % group) * width;
            // SAFETY: the head of a row is written once: by its only task, or after all tasks.
            let out = unsafe { out_rows.slice(at, width) };
            normalize(isa, softmax, row, out);
        }
    };
    // Longer contexts first, so that no thread is left with one at the end.
    let slots = SharedSlice::new(&mut results);
    pool.run(tasks.len(), |number, _| {
        let number = tasks.len() - 1 - number;
        let context = Context { isa, cache, layer, group, task: &tasks[number] };
        let softmax = run_task(&context, q, stride);
        if unsplit {
            finish(&tasks[number], &softmax);
        } else {
            // SAFETY: each task has a slot of its own.
            let slot = unsafe { slots.slice(number, 1) };
            slot[0] = Some(softmax);
        }
    });
    if !unsplit {
        let mut at = 0;
        for count in splits {
            let softmax = results[at..at + count].iter_mut().filter_map(Option::take).reduce(merge);
            finish(&tasks[at], &softmax.expect("a row attends to itself"));
            at += count;
        }
    }
}

/// The keys and values of one key-value head that the queries of a task attend to.
struct Context<'a> {
    isa: Isa,
    cache: &'a KvCache,
    layer: usize,
    group: usize,
    task: &'a Task,
}

/// Keys and values of a page; see [`KvCache::page`].
type Page<'a> = (&'a [u8], &'a [u8]);

impl<'a> Context<'a> {
    /// Query rows of the task.
    fn rows(&self) -> usize {
        self.task.rows * self.group
    }

    /// Pages with their positions, each beside the page that follows it, if one does, else itself.
    fn pages(&self) -> impl Iterator<Item = (Range<usize>, Page<'a>, Page<'a>)> {
        let (cache, layer, task) = (self.cache, self.layer, self.task);
        let page = move |start| cache.page(task.span.sequence, layer, task.head, start);
        let Range { start: first, end: last } = task.positions;
        (first..last).step_by(PAGE).map(move |start| {
            let end = last.min(start + PAGE);
            (start..end, page(start), page(if end < last { end } else { start }))
        })
    }

    /// The weights of a page's positions; see [`online_softmax`]. The rows of a group are at the
    /// same position and see the same context.
    fn weigh(
        &self,
        positions: Range<usize>,
        scores: &[F32x16],
        weights: &mut [[f32; PAGE]],
        softmax: &mut OnlineSoftmax,
    ) {
        let before = self.task.span.past + self.task.first;
        online_softmax(self.isa, self.group, before, positions, scores, weights, softmax);
    }

    /// The same for several pages, with weights in bf16.
    #[cfg(target_arch = "x86_64")]
    fn weigh_bf16(
        &self,
        positions: Range<usize>,
        scores: &[F32x16],
        p: &mut [AmxTile],
        softmax: &mut OnlineSoftmax,
    ) {
        let before = self.task.span.past + self.task.first;
        assert!(self.isa.has_bf16());
        // SAFETY: as was just asserted.
        unsafe { online_softmax_bf16(self.group, before, positions, scores, p, softmax) }
    }
}

fn run_task(context: &Context<'_>, q: &[f32], stride: usize) -> OnlineSoftmax {
    let Context { isa, cache, group, task, .. } = *context;
    let layout = cache.layout();
    let (width, rows) = (layout.width, context.rows());
    let mut queries = Vec::with_capacity(rows * width);
    for row in 0..task.rows {
        let at = (task.span.start + task.first + row) * stride + task.head * group * width;
        queries.extend_from_slice(&q[at..at + group * width]);
    }
    let format = attention_format(isa, layout, task.span.rows * group);
    let in_bf16 = format == ActivationFormat::Bf16;
    let padded = if in_bf16 { rows.next_multiple_of(PANEL_ROWS) } else { rows };
    let mut softmax = OnlineSoftmax::new(rows, padded, width);
    match format {
        ActivationFormat::Int8 => q8_0::decode(context, &queries, &mut softmax),
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 => prefill_bf16(context, &queries, &mut softmax),
        #[cfg(target_arch = "x86_64")]
        _ if layout.dtype == KvDtype::Bf16 && is_decode(&task.span, group) && has_kernels(isa) => {
            decode_bf16(context, &queries, &mut softmax);
        }
        _ => attend_f32(context, &queries, &mut softmax),
    }
    softmax
}

/// Attends to all pages of a context in f32.
fn attend_f32(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let (isa, rows) = (context.isa, context.rows());
    let KvLayout { width, dtype, .. } = context.cache.layout();
    let mut scores = vec![[0f32; PANEL_ROWS]; PAGE / PANEL_ROWS * rows];
    let mut weights = vec![[0f32; PAGE]; rows];
    // A bf16 page is multiplied as it is where a kernel widens it in registers, else widened first.
    let fused = kernels(isa).gemm_f16_bf16.filter(|_| dtype == KvDtype::Bf16);
    let widened = fused.is_none() && dtype != KvDtype::F32;
    let mut lines = vec![[0f32; PANEL_ROWS]; if widened { PAGE * width / PANEL_ROWS } else { 0 }];
    for (positions, (keys, values), _) in context.pages() {
        let count = positions.len();
        let blocks = count.div_ceil(PANEL_ROWS);
        scores.fill([0.0; PANEL_ROWS]);
        let block_scores = scores.chunks_exact_mut(rows).take(blocks);
        if let Some(gemm) = fused {
            let lines = keys.as_chunks().0.chunks_exact(width / 2);
            for (lines, scores) in lines.zip(block_scores) {
                // SAFETY: an `Isa` is only made on a CPU that has the tier's instructions.
                unsafe { gemm(WeightFormat::Bf16, lines, 1, width, queries, width, scores) };
            }
        } else {
            let keys = match dtype {
                KvDtype::F32 => bytemuck::cast_slice(keys),
                KvDtype::Bf16 => {
                    let lines = lines[..blocks * width].as_flattened_mut();
                    widen_bf16_pairs(isa, keys, PANEL_ROWS, lines);
                    lines
                }
                KvDtype::Q8_0 => {
                    dequantize_keys(isa, keys, width, &mut lines);
                    lines.as_flattened()
                }
            };
            for (lines, scores) in keys.chunks_exact(PANEL_ROWS * width).zip(block_scores) {
                gemm_f32(isa, lines, PANEL_ROWS, width, queries, width, scores);
            }
        }
        context.weigh(positions, &scores, &mut weights, softmax);
        let (chunks, x) = (softmax.values.chunks_exact_mut(rows), weights.as_flattened());
        if let Some(gemm) = fused {
            let lines = values.as_chunks().0;
            let step = width / PANEL_ROWS;
            for (chunk, sums) in chunks.enumerate() {
                let lines = &lines[chunk..];
                // SAFETY: as above.
                unsafe { gemm(WeightFormat::Bf16, lines, step, count, x, PAGE, sums) };
            }
        } else {
            let values = match dtype {
                KvDtype::F32 => bytemuck::cast_slice(values),
                KvDtype::Bf16 => {
                    widen_bf16_pairs(isa, values, width, lines.as_flattened_mut());
                    lines.as_flattened()
                }
                KvDtype::Q8_0 => {
                    dequantize_values(isa, values, width, &mut lines);
                    lines.as_flattened()
                }
            };
            for (chunk, sums) in chunks.enumerate() {
                gemm_f32(isa, &values[chunk * PANEL_ROWS..], width, count, x, PAGE, sums);
            }
        }
    }
}

/// The same for few rows, where reading the cache is the bound.
#[cfg(target_arch = "x86_64")]
fn decode_bf16(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let (isa, rows, width) = (context.isa, context.rows(), context.cache.layout().width);
    let mut scores = vec![[0f32; PANEL_ROWS]; PAGE / PANEL_ROWS * rows];
    let mut weights = vec![[0f32; PAGE]; rows];
    for (positions, (keys, values), next) in context.pages() {
        score_page(isa, Lines::new(keys, next.0), width, queries, &mut scores);
        // Halves of a page are whole: see `KvCache::append`.
        let written = positions.len().next_multiple_of(PANEL_ROWS);
        context.weigh(positions, &scores, &mut weights, softmax);
        let values = Lines::new(values, next.1);
        accumulate_page(isa, values, written, &weights, &mut softmax.values);
    }
}

/// The same in bf16 with AMX or AVX512-BF16: keys and values are operands as they lie in the cache,
/// and queries and softmax weights are rounded to bf16.
#[cfg(target_arch = "x86_64")]
fn prefill_bf16(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let isa = context.isa;
    assert!(isa.has_bf16(), "{} does not multiply bf16", isa.name());
    let width = context.cache.layout().width;
    let (padded, row_tiles) = (softmax.padded, width / BLOCK);
    let mut q = vec![AmxTile::ZERO; padded / PANEL_ROWS * row_tiles];
    for (rows, tiles) in queries.chunks(PANEL_ROWS * width).zip(q.chunks_exact_mut(row_tiles)) {
        round_to_amx_tiles(isa, width, rows, tiles);
    }
    let mut scores = vec![[0f32; PANEL_ROWS]; PREFILL_PAGES * PAGE / PANEL_ROWS * padded];
    let mut p = vec![AmxTile::ZERO; PREFILL_PAGES * padded / PANEL_ROWS];
    // Pages in bf16, keys and then values, where they are not in the cache as they are needed.
    let mut copies = vec![PageCopy::default(); PREFILL_PAGES];
    // SAFETY: an `Isa` with AMX is only made on a CPU that has it.
    let registers = isa.has_amx().then(|| unsafe { amx::TileRegisters::new() });
    let pages: Vec<_> = context.pages().collect();
    for pages in pages.chunks(PREFILL_PAGES) {
        let positions = pages[0].0.start..pages[pages.len() - 1].0.end;
        let pages: Vec<Page<'_>> = pages
            .iter()
            .zip(&mut copies)
            .map(|((positions, page, _), copy)| copy.in_bf16(context, positions.len(), *page))
            .collect();
        let scores = &mut scores[..pages.len() * PAGE / PANEL_ROWS * padded];
        for ((keys, _), scores) in pages.iter().zip(scores.chunks_exact_mut(2 * padded)) {
            let (first, second) = keys.split_at(keys.len() / 2);
            let (first_scores, second_scores) = scores.split_at_mut(padded);
            match &registers {
                Some(registers) => {
                    registers.gemm(&q, [first, second], [first_scores, second_scores]);
                }
                // SAFETY: the CPU has AVX512-BF16, as was asserted.
                None => unsafe {
                    avx512bf16::gemm_bf16(&q, first, first_scores);
                    avx512bf16::gemm_bf16(&q, second, second_scores);
                },
            }
        }
        let p = &mut p[..pages.len() * padded / PANEL_ROWS];
        context.weigh_bf16(positions, scores, p, softmax);
        let values = &mut softmax.values;
        match &registers {
            Some(registers) => {
                for (p, (_, page)) in p.chunks_exact(padded / PANEL_ROWS).zip(&pages) {
                    registers.accumulate(p, page, values);
                }
            }
            None => {
                let pages: Vec<&[u8]> = pages.iter().map(|(_, values)| *values).collect();
                // SAFETY: as above.
                unsafe { avx512bf16::accumulate_bf16(p, &pages, values) }
            }
        }
    }
}

/// Pages per step of prefill in bf16: a step folds the scores of a row to their largest and to their
/// sum once, and loads and stores the sums of values once.
#[cfg(target_arch = "x86_64")]
const PREFILL_PAGES: usize = 4;

/// A page in bf16 that is not in the cache as it is needed.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Default)]
struct PageCopy {
    keys: Vec<AmxTile>,
    values: Vec<AmxTile>,
}

#[cfg(target_arch = "x86_64")]
impl PageCopy {
    /// The page, of which `count` positions are read, or a copy.
    fn in_bf16<'a>(
        &'a mut self,
        context: &Context<'_>,
        count: usize,
        (keys, values): Page<'a>,
    ) -> Page<'a> {
        let KvLayout { width, dtype, .. } = context.cache.layout();
        if dtype == KvDtype::Q8_0 {
            self.keys.resize(PAGE / PANEL_ROWS * width / BLOCK, AmxTile::ZERO);
            self.values.resize(self.keys.len(), AmxTile::ZERO);
            round_keys(context.isa, keys, width, &mut self.keys);
            round_values(context.isa, values, width, &mut self.values);
            return (bytemuck::cast_slice(&self.keys), bytemuck::cast_slice(&self.values));
        }
        if count <= PANEL_ROWS {
            // The second half of the page may never have been written: a NaN there would survive
            // the multiplication with 0. See `KvCache::append`.
            let tiles = values.len() / size_of::<AmxTile>();
            self.values.clear();
            self.values.resize(tiles, AmxTile::ZERO);
            let half = values.len() / 2;
            bytemuck::cast_slice_mut(&mut self.values)[..half].copy_from_slice(&values[..half]);
            return (keys, bytemuck::cast_slice(&self.values));
        }
        (keys, values)
    }
}
