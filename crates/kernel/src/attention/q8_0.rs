//! Decode over pages in 8 bits, with the kernels of Q8_0 weights: queries are rounded to 8 bits per
//! 32 columns, softmax weights times the scales of values to 8 bits per 32 positions.

use super::softmax::OnlineSoftmax;
use super::{Context, PAGE};
use crate::activations::quantize_q8;
use crate::dispatch::gemm_int8;
use crate::kv_cache::q8_0::{scale_weights, values};
use crate::operands::{Q8Block, Q8Rows};
use crate::packed::{BLOCK, PANEL_ROWS, Q8_0_BYTES, WeightFormat};

/// Bytes of scales before a block of a Q8_0 panel.
const SCALES: usize = 4 * PANEL_ROWS;

/// A Q8_0 panel of sixteen columns of values, whose columns are the 32 positions of a page, with
/// scales of 1.
#[repr(align(64))]
struct UnitPanel([u8; SCALES + Q8_0_BYTES]);

impl UnitPanel {
    fn new() -> Self {
        /// 1 in f16.
        const ONE: [u8; 2] = 0x3c00_u16.to_le_bytes();
        let mut panel = [0; SCALES + Q8_0_BYTES];
        panel[..SCALES].as_chunks_mut().0.fill(ONE);
        Self(panel)
    }

    /// The panel of these quants.
    fn with(&mut self, quants: &[u8; Q8_0_BYTES]) -> &[u8] {
        self.0[SCALES..].copy_from_slice(quants);
        &self.0
    }
}

/// Attends to all pages of a context.
pub(super) fn decode(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let (isa, rows, width) = (context.isa, context.rows(), context.cache.layout().width);
    let (panel_bytes, format) = (WeightFormat::Q8_0.panel_bytes(width), WeightFormat::Q8_0);
    let mut q = vec![Q8Block::default(); queries.len() / BLOCK];
    quantize_q8(isa, queries, &mut q);
    let q = Q8Rows::new(width, &q);
    let mut scores = vec![[0f32; PANEL_ROWS]; PAGE / PANEL_ROWS * rows];
    let mut weights = vec![[0f32; PAGE]; rows];
    let mut scaled = weights.clone();
    let mut x = vec![Q8Block::default(); rows];
    let mut unit_panel = UnitPanel::new();
    for (positions, (keys, page_values), next) in context.pages() {
        scores.fill([0.0; PANEL_ROWS]);
        let panels = keys.chunks_exact(panel_bytes).zip(next.0.chunks_exact(panel_bytes));
        for ((panel, next), scores) in panels.zip(scores.chunks_exact_mut(rows)) {
            prefetch(next);
            gemm_int8(isa, format, panel, q, scores);
        }
        context.weigh(positions, &scores, &mut weights, softmax);
        let blocks = values(page_values).zip(values(next.1));
        for ((block, next), sums) in blocks.zip(softmax.values.chunks_exact_mut(2 * rows)) {
            scale_weights(isa, &weights, block.scales, &mut scaled);
            quantize_q8(isa, scaled.as_flattened(), &mut x);
            prefetch(next.scales);
            let halves = block.halves.into_iter().zip(next.halves);
            for ((half, next), sums) in halves.zip(sums.chunks_exact_mut(rows)) {
                prefetch(next);
                gemm_int8(isa, format, unit_panel.with(half), Q8Rows::new(PAGE, &x), sums);
            }
        }
    }
}

/// Prefetches a part of the next page into the second-level cache: it lies elsewhere, so the
/// hardware cannot foresee it.
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.as_chunks::<64>().0 {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: x86-64 has this instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
