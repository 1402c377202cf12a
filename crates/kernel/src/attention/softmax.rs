//! The softmax of attention, one page of positions at a time.

use std::ops::Range;

use crate::elementwise::exp;
use crate::isa::multiversion;
use crate::kv_cache::PAGE;
use crate::operands::F32x16;
use crate::packed::PANEL_ROWS;

/// The state of an online softmax, for query rows.
pub(super) struct OnlineSoftmax {
    /// Weighted sums of values, `[width / 16][rows]`; rows padded to whole AMX tiles for bf16.
    pub values: Vec<F32x16>,
    /// Rows with padding.
    pub padded: usize,
    /// Largest score of each row.
    pub max: Vec<f32>,
    /// Sum of e^(score - max) of each row.
    pub sum: Vec<f32>,
}

impl OnlineSoftmax {
    /// No position yet.
    pub(super) fn new(rows: usize, padded: usize, width: usize) -> Self {
        Self {
            values: vec![[0.0; PANEL_ROWS]; width / PANEL_ROWS * padded],
            padded,
            max: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
        }
    }
}

/// The softmax over the positions of both.
pub(super) fn merge(mut a: OnlineSoftmax, b: OnlineSoftmax) -> OnlineSoftmax {
    let padded = a.padded;
    for row in 0..a.max.len() {
        let max = a.max[row].max(b.max[row]);
        let (a_factor, b_factor) = (exp(a.max[row] - max), exp(b.max[row] - max));
        a.max[row] = max;
        a.sum[row] = a.sum[row] * a_factor + b.sum[row] * b_factor;
        for (a, b) in
            a.values[row..].iter_mut().step_by(padded).zip(b.values[row..].iter().step_by(padded))
        {
            for lane in 0..PANEL_ROWS {
                a[lane] = a[lane] * a_factor + b[lane] * b_factor;
            }
        }
    }
    a
}

multiversion! {
    /// Turns the scores of a page into weights e^(score - max), 0 for positions that the causal
    /// mask hides, and rescales the sums so far where the running max has grown.
    pub(super) fn online_softmax(
        group: usize,
        before: usize,
        positions: Range<usize>,
        scores: &[F32x16],
        weights: &mut [[f32; PAGE]],
        softmax: &mut OnlineSoftmax,
    ) {
        let padded = softmax.padded;
        for (row, weights) in weights.iter_mut().enumerate() {
            let visible = (before + row / group + 1).min(positions.end);
            let visible = visible.saturating_sub(positions.start);
            for block in 0..PAGE / PANEL_ROWS {
                weights[block * PANEL_ROWS..(block + 1) * PANEL_ROWS]
                    .copy_from_slice(&scores[block * padded + row]);
            }
            if visible < PAGE {
                weights[visible..].fill(f32::NEG_INFINITY);
            }
            let mut lanes = [f32::NEG_INFINITY; PANEL_ROWS];
            for block in weights.as_chunks::<PANEL_ROWS>().0 {
                for lane in 0..PANEL_ROWS {
                    lanes[lane] = larger(block[lane], lanes[lane]);
                }
            }
            let max = larger(fold(lanes, larger), softmax.max[row]);
            if max == f32::NEG_INFINITY {
                weights.fill(0.0);
                continue;
            }
            let mut sums = [0f32; PANEL_ROWS];
            for block in weights.as_chunks_mut::<PANEL_ROWS>().0 {
                for lane in 0..PANEL_ROWS {
                    block[lane] = exp(block[lane] - max);
                    sums[lane] += block[lane];
                }
            }
            let sum = fold(sums, |a, b| a + b);
            if max > softmax.max[row] {
                let factor = exp(softmax.max[row] - max);
                softmax.max[row] = max;
                softmax.sum[row] *= factor;
                for values in softmax.values[row..].iter_mut().step_by(padded) {
                    for value in values {
                        *value *= factor;
                    }
                }
            }
            softmax.sum[row] += sum;
        }
    }
}

/// Folds lanes as a tree, which is faster than one after the other.
#[inline(always)]
fn fold(lanes: F32x16, of: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|lane| of(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| of(eight[lane], eight[lane + 4]));
    of(of(four[0], four[2]), of(four[1], four[3]))
}

/// The larger number. Unlike `f32::max` one instruction; a NaN may be lost.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
