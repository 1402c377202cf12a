//! Decode over pages in bf16: the few rows of `is_decode`.

use super::bf16::{Lines, accumulate_page, accumulate_page_bf16, score_page, score_page_bf16};
use super::softmax::{OnlineSoftmax, online_softmax_bf16};
use super::{Context, PAGE};
use crate::activations::f32_to_bf16;
use crate::operands::AmxTile;
use crate::packed::PANEL_ROWS;

/// Attends to all pages of a context with queries and softmax weights in f32.
pub(super) fn attend_f32(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let (isa, rows) = (context.isa, context.rows());
    let queries = bytemuck::cast_slice(queries);
    let mut scores = vec![[0f32; PANEL_ROWS]; PAGE / PANEL_ROWS * rows];
    let mut weights = vec![[0f32; PAGE]; rows];
    for (positions, (keys, values), next) in context.pages() {
        let (keys, values) = (Lines::new(keys, next.0), Lines::new(values, next.1));
        let written = written(positions.len());
        score_page(isa, keys, queries, &mut scores);
        context.weigh(positions, &scores, &mut weights, softmax);
        let weights = bytemuck::cast_slice(&weights);
        accumulate_page(isa, values, written, weights, &mut softmax.values);
    }
}

/// The same with queries and softmax weights in bf16.
pub(super) fn attend_bf16(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let (isa, rows) = (context.isa, context.rows());
    assert!(isa.has_avx512bf16(), "{} has no AVX512-BF16", isa.name());
    let pairs: &[[f32; 2]] = bytemuck::cast_slice(queries);
    let queries: Vec<[u16; 2]> = pairs.iter().map(|pair| pair.map(f32_to_bf16)).collect();
    let mut scores = vec![[0f32; PANEL_ROWS]; PAGE / PANEL_ROWS * rows];
    let mut weights = [AmxTile::ZERO];
    for (positions, (keys, values), next) in context.pages() {
        let (keys, values) = (Lines::new(keys, next.0), Lines::new(values, next.1));
        let written = written(positions.len());
        // SAFETY: the CPU has AVX512-BF16, as was asserted.
        unsafe {
            score_page_bf16(keys, &queries, &mut scores);
            online_softmax_bf16(
                context.group,
                context.before(),
                positions,
                &scores,
                &mut weights,
                softmax,
            );
            let weights = bytemuck::cast_slice(&weights[0].0[..rows]);
            accumulate_page_bf16(values, written, weights, &mut softmax.values);
        }
    }
}

/// How many positions of a page are written when so many are: halves of a page are whole, see
/// `KvCache::append`.
fn written(positions: usize) -> usize {
    positions.next_multiple_of(PANEL_ROWS)
}
