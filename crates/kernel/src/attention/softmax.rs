//! The softmax of attention, one or several pages of positions at a time.

use std::ops::Range;

use crate::elementwise::exp;
use crate::isa::multiversion;
use crate::kv_cache::PAGE;
use crate::operands::F32x16;
use crate::packed::PANEL_ROWS;

#[cfg(target_arch = "x86_64")]
use crate::avx512bf16::softmax_row;
#[cfg(target_arch = "x86_64")]
use crate::operands::AmxTile;

/// The state of an online softmax, for query rows.
pub(super) struct OnlineSoftmax {
    /// Weighted sums of values, `[width / 16][rows]`; rows padded to whole AMX tiles for
    /// prefill in bf16.
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

    /// Makes `max` the largest score of a row.
    #[inline(always)]
    fn rescale(&mut self, row: usize, max: f32) {
        let factor = exp(self.max[row] - max);
        self.max[row] = max;
        self.sum[row] *= factor;
        for values in self.values[row..].iter_mut().step_by(self.padded) {
            for value in values {
                *value *= factor;
            }
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
    /// The weighted mean of values of a row.
    pub(super) fn normalize(softmax: &OnlineSoftmax, row: usize, out: &mut [f32]) {
        let scale = 1.0 / softmax.sum[row];
        let values = softmax.values[row..].iter().step_by(softmax.padded);
        for (out, values) in out.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().zip(values) {
            for lane in 0..PANEL_ROWS {
                out[lane] = values[lane] * scale;
            }
        }
    }
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
            let visible = visible(before + row / group, &positions);
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
                softmax.rescale(row, max);
            }
            softmax.sum[row] += sum;
        }
    }
}

/// The same for one or several pages, whose weights are rounded to bf16: `scores` are
/// `[2 pages][padded]`, and `p` is `[pages][padded / 16]`, rounded up.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn online_softmax_bf16(
    group: usize,
    before: usize,
    positions: Range<usize>,
    scores: &[F32x16],
    p: &mut [AmxTile],
    softmax: &mut OnlineSoftmax,
) {
    for row in 0..softmax.max.len() {
        let visible = visible(before + row / group, &positions);
        let largest = softmax.max[row];
        let (max, sum) = match positions.len().div_ceil(PAGE) {
            1 => softmax_row::<1>(scores, row, visible, largest, p),
            2 => softmax_row::<2>(scores, row, visible, largest, p),
            3 => softmax_row::<3>(scores, row, visible, largest, p),
            PREFILL_PAGES => softmax_row::<PREFILL_PAGES>(scores, row, visible, largest, p),
            pages => unreachable!("{pages} pages in a step"),
        };
        if max > largest {
            softmax.rescale(row, max);
        }
        softmax.sum[row] += sum;
    }
}

/// Pages per step of prefill in bf16, at most: a step folds the lanes of a row to their largest and
/// their sum once.
#[cfg(target_arch = "x86_64")]
pub(super) const PREFILL_PAGES: usize = 4;

/// How many of these positions the causal mask shows to a row at position `at`.
#[inline(always)]
fn visible(at: usize, positions: &Range<usize>) -> usize {
    (at + 1).min(positions.end).saturating_sub(positions.start)
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::packed::BLOCK;
    use crate::skipped;

    #[test]
    fn weights_in_bf16_are_those_of_the_formula_rounded() {
        if Isa::for_tests().into_iter().all(|isa| !isa.has_avx512bf16()) {
            return skipped("no softmax in bf16: this CPU has no AVX512-BF16");
        }
        let (group, rows, padded, start) = (3, 15, 16, 32);
        // Rows that see nothing of these pages, a part of them, and all.
        for (pages, before) in (1..=4).flat_map(|pages| [0, 30, 70, 500].map(|n| (pages, n))) {
            for scale in [1.0, 30.0, 100.0, 1e4] {
                let score = |i: usize| (i * 7919 % 2003) as f32 / 1001.0 * scale - scale;
                let scores: Vec<F32x16> = (0..2 * pages * padded)
                    .map(|at| std::array::from_fn(|lane| score(at * PANEL_ROWS + lane)))
                    .collect();
                let positions = start..start + pages * PAGE - 5;
                let mut softmax = OnlineSoftmax::new(rows, padded, PANEL_ROWS);
                let mut p = vec![AmxTile([[0x7fc0; BLOCK]; PANEL_ROWS]); pages];
                // SAFETY: `has_avx512bf16` was asked.
                unsafe {
                    let positions = positions.clone();
                    online_softmax_bf16(group, before, positions, &scores, &mut p, &mut softmax);
                }
                for row in 0..rows {
                    let case = format!("row {row} of {pages} pages after {before} at {scale}");
                    let visible = positions.end.min(before + row / group + 1).max(start) - start;
                    let seen: Vec<f64> = (0..visible)
                        .map(|at| scores[at / PANEL_ROWS * padded + row][at % PANEL_ROWS].into())
                        .collect();
                    let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    assert_eq!(f64::from(softmax.max[row]), max, "{case}");
                    // The distance to the largest score is rounded, and its product with log2 e,
                    // which is at most 126 where the weight is not 0.
                    let error = 1.5e-7 + 2.0 * 126.0 * 6e-8;
                    let mut sum = 0.0;
                    for at in 0..pages * PAGE {
                        let weight = seen.get(at).map_or(0.0, |score| (score - max).exp());
                        let bits = p[at / PAGE].0[row][at % PAGE];
                        let rounded = f64::from(f32::from_bits(u32::from(bits) << 16));
                        let bound = weight * (1.0 / 256.0 + error) + 1e-37;
                        assert!((rounded - weight).abs() <= bound, "{case}: {rounded} {weight}");
                        sum += weight;
                    }
                    let near = f64::from(softmax.sum[row]);
                    assert!((near - sum).abs() <= (error + 1e-6) * sum, "{case}: {near} {sum}");
                }
            }
        }
    }

    #[test]
    fn steps_rescale_and_scores_without_a_largest_weigh_nothing() {
        if Isa::for_tests().into_iter().all(|isa| !isa.has_avx512bf16()) {
            return skipped("no softmax in bf16: this CPU has no AVX512-BF16");
        }
        let mut softmax = OnlineSoftmax::new(17, 32, PANEL_ROWS);
        softmax.values.fill([1.0; PANEL_ROWS]);
        let mut step = |number: usize, score: f32| {
            let scores = vec![[score; PANEL_ROWS]; 2 * 32];
            let mut p = vec![AmxTile([[0x7fc0; BLOCK]; PANEL_ROWS]); 2];
            let positions = number * PAGE..(number + 1) * PAGE;
            // SAFETY: `has_avx512bf16` was asked.
            unsafe { online_softmax_bf16(1, 500, positions, &scores, &mut p, &mut softmax) };
            // The last row is alone in its tile.
            (softmax.max[16], softmax.sum[16], softmax.values[16][0], p[1].0[0][0])
        };
        let one = 0x3f80;
        assert_eq!(step(0, f32::NEG_INFINITY), (f32::NEG_INFINITY, 0.0, 1.0, 0));
        assert_eq!(step(1, 1e9), (1e9, 31.999_998, 0.0, one), "e^(-inf - 1e9) is 0");
        assert_eq!(step(2, 1e9), (1e9, 63.999_996, 0.0, one));
        let (max, sum, ..) = step(3, 1e9 + 64.0);
        assert_eq!((max, sum), (1e9 + 64.0, 31.999_998), "e^-64 of what was");
        assert!(step(4, f32::NAN).1.is_nan());
    }
}
