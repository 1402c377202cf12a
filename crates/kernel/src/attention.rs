//! Causal attention of a ragged batch over the paged KV cache, in the manner of FlashAttention: one
//! or several pages of positions at a time with an online softmax (Milakov and Gimelshein 2018,
//! arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135), so memory does not grow with the context.
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
#[cfg(target_arch = "x86_64")]
mod decode;
#[cfg(target_arch = "x86_64")]
mod prefill;
mod q8_0;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod vector;

use softmax::{OnlineSoftmax, merge, normalize, online_softmax};

/// Query rows per task, the heads of a group counted each: they share the widening of a page.
const QUERY_BLOCK: usize = 64;

/// Positions per task in decode (split-KV), so that a long context occupies all threads. Splits are
/// merged in order, so results depend on this number and not on that of threads.
const KV_SPLIT: usize = 1024;

/// Query rows of decode for which f32 is as fast as the memory that keys and values are read from:
/// measured on Zen 4.
const F32_DECODE_ROWS: usize = 2;

/// Query rows of a span, of one key-value head, over a range of positions.
struct Task {
    span: Span,
    head: usize,
    /// First row within the span.
    first: usize,
    rows: usize,
    positions: Range<usize>,
}

/// Whether so few query rows of a sequence are decode: no more than a tile has.
fn is_decode(rows: usize) -> bool {
    rows <= PANEL_ROWS
}

/// The format of queries, and of the softmax weights that multiply values. `rows` are the query
/// rows of a sequence in a pass, the heads of a group counted each.
pub fn attention_format(isa: Isa, layout: KvLayout, rows: usize) -> ActivationFormat {
    let decode = is_decode(rows);
    // CPUs with AMX issue `vdpbf16ps` at half the rate of f32: see `Plan::of`.
    let f32_is_as_fast = isa.has_amx() || rows <= F32_DECODE_ROWS;
    let bf16 = isa.has_avx512bf16()
        && !isa.choices().f32_attention
        && !(decode && f32_is_as_fast)
        && layout.width.is_multiple_of(BLOCK);
    match layout.dtype {
        KvDtype::Q8_0 if decode => ActivationFormat::Int8,
        KvDtype::Bf16 | KvDtype::Q8_0 if bf16 => ActivationFormat::Bf16,
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
            let split = if is_decode(span.rows * group) { KV_SPLIT } else { context };
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

    /// Positions before the first row of the task.
    fn before(&self) -> usize {
        self.task.span.past + self.task.first
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
        let before = self.before();
        online_softmax(self.isa, self.group, before, positions, scores, weights, softmax);
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
    let decode = is_decode(task.span.rows * group);
    let tiles = format == ActivationFormat::Bf16 && !decode;
    let padded = if tiles { rows.next_multiple_of(PANEL_ROWS) } else { rows };
    let mut softmax = OnlineSoftmax::new(rows, padded, width);
    match format {
        ActivationFormat::Int8 => q8_0::decode(context, &queries, &mut softmax),
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 if decode => decode::attend_bf16(context, &queries, &mut softmax),
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 => prefill::attend(context, &queries, &mut softmax),
        #[cfg(target_arch = "x86_64")]
        _ if layout.dtype == KvDtype::Bf16 && decode && bf16::has_kernels(isa) => {
            decode::attend_f32(context, &queries, &mut softmax);
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
