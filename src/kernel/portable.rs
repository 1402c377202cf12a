//! Products of a tile in plain Rust: what every other version is held against, and what runs where
//! there is none.
//!
//! Each function adds to `out[row][lane]` the product of the activations' rows with the tile's
//! sixteen rows of weights.

use super::inputs::{INPUT_16, Int8, Int16, WEIGHT_16, round};
use super::tiles::{BLOCK, Form, Q4K, Q6K, Q8_0_BYTES, SUPER, TILE, of_two, q4k_scales, weight};

/// Sixteen sums, one a row of weights.
pub(super) type Lanes = [f32; TILE];

/// Weights of 256 columns as numbers of 16 bits: in pairs of columns, `[128][16][2]`, with a scale
/// for each row.
#[repr(align(64))]
pub(super) struct Panel {
    pub quants: [[i16; 2 * TILE]; SUPER / 2],
    pub scales: Lanes,
}

impl Panel {
    /// The largest of the scales of a row of 8-bit weights, as a share in 16 bits.
    pub(super) const SHARE: f32 = 32767.0;

    /// What the largest scale of a row of 8-bit weights is multiplied with to be the panel's:
    /// weights are there in sixteenths of a quant, times the share of 32768.
    pub(super) const OF_SCALES: f32 = 32768.0 / 32767.0 / 16.0;

    pub(super) const EMPTY: Self = Self { quants: [[0; 2 * TILE]; SUPER / 2], scales: [0.0; TILE] };
}

/// f32 weights, the line of each column `step` numbers after the one before; rows of `x` begin
/// `stride` apart.
pub(super) fn plain(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes],
) {
    for (row, out) in out.iter_mut().enumerate() {
        for (column, &x) in x[row * stride..row * stride + columns].iter().enumerate() {
            let line = &lines[column * step..column * step + TILE];
            for lane in 0..TILE {
                out[lane] += line[lane] * x;
            }
        }
    }
}

/// Weights as f32 lines, from column `first` on.
pub(super) fn widen(form: Form, tile: &[u8], first: usize, lines: &mut [Lanes]) {
    for (i, line) in lines.iter_mut().enumerate() {
        for (lane, value) in line.iter_mut().enumerate() {
            *value = weight(form, tile, first + i, lane);
        }
    }
}

/// 8-bit activations with weights of 8 bits.
pub(super) fn q8_0(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    for (row, out) in out.iter_mut().enumerate() {
        for (block, run) in x.row(row).iter().enumerate() {
            let (scales, quants) = of_two::<Q8_0_BYTES>(tile, block);
            let mut sums = [0i32; TILE];
            for (line, x) in quants.as_chunks::<64>().0.iter().zip(&run.quants) {
                for (sum, weights) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
                    for (weight, x) in weights.iter().zip(x) {
                        *sum += i32::from(*weight as i8) * i32::from(*x);
                    }
                }
            }
            for lane in 0..TILE {
                let scale = half(scales, lane) * run.scale;
                out[lane] += sums[lane] as f32 * scale;
            }
        }
    }
}

/// 8-bit activations with weights of 4 bits.
pub(super) fn q4_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    for (row, out) in out.iter_mut().enumerate() {
        for (i, block) in tile.chunks_exact(Q4K::BYTES).enumerate() {
            let (mut sums, mut minima) = ([0f32; TILE], [0f32; TILE]);
            for run in 0..8 {
                let of_x = &x.row(row)[i * 8 + run];
                let mut products = [0i32; TILE];
                for (group, x) in of_x.quants.iter().enumerate() {
                    let line = &block[Q4K::NIBBLES + (run / 2 * 8 + group) * 64..][..64];
                    for (product, weights) in products.iter_mut().zip(line.as_chunks::<4>().0) {
                        for (weight, x) in weights.iter().zip(x) {
                            *product += i32::from(weight >> (4 * (run % 2)) & 15) * i32::from(*x);
                        }
                    }
                }
                for lane in 0..TILE {
                    let (of_run, minimum) = q4k_scales(block, run, lane);
                    sums[lane] += (products[lane] * i32::from(of_run)) as f32 * of_x.scale;
                    minima[lane] += f32::from(minimum) * of_x.sum;
                }
            }
            for lane in 0..TILE {
                out[lane] += half(block, lane) * sums[lane];
                out[lane] -= half(block, TILE + lane) * minima[lane];
            }
        }
    }
}

/// 8-bit activations with weights of 6 bits.
pub(super) fn q6_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    for (row, out) in out.iter_mut().enumerate() {
        for i in 0..x.columns / SUPER {
            let (scales, block) = of_two::<{ Q6K::BYTES }>(tile, i);
            let mut sums = [0f32; TILE];
            for pair in 0..8 {
                let mut products = [0i32; TILE];
                let of_x = &x.row(row)[i * 8 + pair];
                for run in [2 * pair, 2 * pair + 1] {
                    let (high, low) = block[Q6K::RUNS + run * Q6K::RUN..][..Q6K::RUN].split_at(64);
                    let x = of_x.quants.as_chunks::<4>().0[run % 2];
                    for (lane, product) in products.iter_mut().enumerate() {
                        let mut of_run = 0;
                        for (group, x) in x.iter().enumerate() {
                            for (byte, x) in x.iter().enumerate() {
                                let low =
                                    low[group / 2 * 64 + lane * 4 + byte] >> (4 * (group % 2)) & 15;
                                let high = high[lane * 4 + byte] >> (2 * group) & 3;
                                of_run += (i32::from(low | high << 4) - 32) * i32::from(*x);
                            }
                        }
                        let scale = block[run * TILE + lane] as i8;
                        *product += of_run * i32::from(scale);
                    }
                }
                for lane in 0..TILE {
                    sums[lane] += products[lane] as f32 * of_x.scale;
                }
            }
            for lane in 0..TILE {
                out[lane] += half(scales, lane) * sums[lane];
            }
        }
    }
}

/// Rounds f32 lines, at most 256, to a panel.
pub(super) fn round_panel(lines: &[Lanes], panel: &mut Panel) {
    let mut most = [0f32; TILE];
    for line in lines {
        for lane in 0..TILE {
            most[lane] = most[lane].max(line[lane].abs());
        }
    }
    let inverse = most.map(|most| if most > 0.0 { WEIGHT_16 / most } else { 0.0 });
    for (pair, quants) in lines.as_chunks::<2>().0.iter().zip(&mut panel.quants) {
        for lane in 0..TILE {
            quants[2 * lane] = round(pair[0][lane] * inverse[lane]) as i16;
            quants[2 * lane + 1] = round(pair[1][lane] * inverse[lane]) as i16;
        }
    }
    panel.scales = most.map(|most| most / WEIGHT_16);
}

/// The panel of a block of columns of 8-bit weights. Quants of sixteenths of the largest scale's
/// are exact where a run has that scale, and else rounded to 12 bits as other weights are.
pub(super) fn panel_of_q8_0(tile: &[u8], columns: usize, block: usize, panel: &mut Panel) {
    let runs = (SUPER / BLOCK).min(columns / BLOCK - block * SUPER / BLOCK);
    let first = block * SUPER / BLOCK;
    for lane in 0..TILE {
        let scale = |run: usize| half(of_two::<Q8_0_BYTES>(tile, first + run).0, lane);
        let most = (0..runs).map(|run| scale(run).abs()).fold(0.0, f32::max);
        let inverse = if most > 0.0 { Panel::SHARE / most } else { 0.0 };
        for run in 0..runs {
            let share = round(scale(run) * inverse);
            let (_, quants) = of_two::<Q8_0_BYTES>(tile, first + run);
            for column in 0..BLOCK {
                let at = (column / 4 * TILE + lane) * 4 + column % 4;
                let product = i32::from(quants[at] as i8) * 16 * share;
                // Rounded as the CPU's instruction does: the nearest, upwards of two.
                panel.quants[run * 16 + column / 2][2 * lane + column % 2] =
                    ((product + (1 << 14)) >> 15) as i16;
            }
        }
        panel.scales[lane] = most * Panel::OF_SCALES;
    }
}

/// 16-bit activations with the panel of the same block of columns.
pub(super) fn panel(panel: &Panel, x: Int16<'_>, out: &mut [Lanes]) {
    for (row, out) in out.iter_mut().enumerate() {
        let mut sums = [0i32; TILE];
        let pairs = x.quants[row * x.columns..(row + 1) * x.columns].as_chunks::<2>().0;
        for (line, x) in panel.quants.iter().zip(pairs) {
            for (sum, weights) in sums.iter_mut().zip(line.as_chunks::<2>().0) {
                *sum += i32::from(weights[0]) * i32::from(x[0])
                    + i32::from(weights[1]) * i32::from(x[1]);
            }
        }
        for lane in 0..TILE {
            out[lane] += sums[lane] as f32 * (panel.scales[lane] * x.scales[row]);
        }
    }
}

/// The most that the sums of a panel can be: no order of additions overflows.
const _: () = assert!(SUPER as i64 * INPUT_16 as i64 * (WEIGHT_16 as i64) < 1 << 31);

/// The f16 of this number.
pub(super) fn half(bytes: &[u8], number: usize) -> f32 {
    half::f16::from_le_bytes([bytes[2 * number], bytes[2 * number + 1]]).to_f32()
}
