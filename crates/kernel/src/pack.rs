//! Packing: a row of a GGML type, as files store it, into a lane of a panel. Each function is named
//! after its type and takes `(row, lane, panel)`. Types without kernels of their own go into panels
//! of a format that holds their weights without loss, in more bytes.

use half::f16;

use super::nonlinear::{
    E2M1_DOUBLED, IQ4_NL_BYTES, IQ4_VALUES, IQ4_XS_BYTES, MXFP4_BYTES, half_e8m0, iq4_xs_codes,
    iq4_xs_scale, iq4_xs_super_scale, look_up, nibbles,
};
use super::packed::{
    Asymmetric, BLOCK, PANEL_ROWS, Q4K, Q6K, Q8_0_BYTES, Q8Super, SUPER_BLOCK,
    paired_block_offsets, q4k_low, q6k_byte,
};

/// Writes one item.
fn put<const N: usize>(bytes: &mut [u8], index: usize, item: [u8; N]) {
    bytes[index * N..(index + 1) * N].copy_from_slice(&item);
}

/// Writes the items of one row to its lane, one per sixteen.
fn interleave<const N: usize>(bytes: &mut [u8], lane: usize, items: &[[u8; N]]) {
    for (line, item) in bytes.as_chunks_mut::<N>().0.chunks_exact_mut(PANEL_ROWS).zip(items) {
        line[lane] = *item;
    }
}

pub(super) fn pack_f32(row: &[u8], lane: usize, panel: &mut [u8]) {
    interleave(panel, lane, row.as_chunks::<4>().0);
}

pub(super) fn pack_f16(row: &[u8], lane: usize, panel: &mut [u8]) {
    interleave(panel, lane, row.as_chunks::<2>().0);
}

pub(super) fn pack_bf16(row: &[u8], lane: usize, panel: &mut [u8]) {
    let (pairs, odd) = row.as_chunks::<4>();
    interleave(panel, lane, pairs);
    if let [a, b] = *odd {
        put(panel, pairs.len() * PANEL_ROWS + lane, [a, b, 0, 0]);
    }
}

/// Packs ggml's `block_q8_0`.
pub(super) fn pack_q8_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_signed(row, lane, panel, |block: &[u8; 34]| block[2..].try_into().expect("32 bytes"));
}

/// Packs ggml's `block_q5_0`: quants are offset by 16.
pub(super) fn pack_q5_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_signed(row, lane, panel, |block: &[u8; 22]| {
        five_bits(&block[6..], &block[2..6]).map(|quant| quant.wrapping_sub(16))
    });
}

/// Packs ggml's `block_q4_0`: quants are offset by 8.
pub(super) fn pack_q4_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_signed(row, lane, panel, |block: &[u8; 18]| {
        nibbles(&block[2..]).map(|quant| quant.wrapping_sub(8))
    });
}

/// Packs ggml's `block_iq4_nl`: values of a table of bytes.
pub(super) fn pack_iq4_nl(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_signed(row, lane, panel, |block: &[u8; IQ4_NL_BYTES]| {
        look_up(&block[2..], &IQ4_VALUES).map(|value| value as u8)
    });
}

/// Packs ggml's `block_mxfp4`. Its scales are 2^-128 to 2^127, those of panels in f16 2^-24 to
/// 2^15. Quants of a byte have room for the values times 8, so half scales of 2^-24 to 2^18 are
/// exact. Below that, weights round to multiples of 2^-24 (those of trained models that are so
/// small are zero for any purpose); above it, weights of 262,144 and more become infinite.
pub(super) fn pack_mxfp4(row: &[u8], lane: usize, panel: &mut [u8]) {
    let (least, most) = (f16::from_bits(1).to_f32(), 32_768.0);
    for (i, block) in row.as_chunks::<MXFP4_BYTES>().0.iter().enumerate() {
        let scale = half_e8m0(block[0]);
        let panel_scale = if scale <= most { scale.max(least) } else { (scale / 8.0).max(most) };
        let ratio = scale / panel_scale;
        let values = look_up(&block[1..], &E2M1_DOUBLED);
        let quants = values.map(|value| (f32::from(value) * ratio).round_ties_even() as i8 as u8);
        put_q8_0(panel, i, lane, f16::from_f32(panel_scale).to_le_bytes(), quants);
    }
}

/// Packs ggml's `block_iq4_xs`: a scale per super-block, integer scales per 32 weights, codes of a
/// table of bytes.
pub(super) fn pack_iq4_xs(row: &[u8], lane: usize, panel: &mut [u8]) {
    let blocks = row.as_chunks::<IQ4_XS_BYTES>().0;
    for (block, to) in blocks.iter().zip(panel.chunks_exact_mut(Q8Super::BYTES)) {
        let (scales, panel) = to.split_at_mut(Q8Super::PANEL);
        put(scales, lane, iq4_xs_super_scale(block).to_le_bytes());
        for sub in 0..SUPER_BLOCK / BLOCK {
            let scale = f16::from_f32(iq4_xs_scale(block, sub).into()).to_le_bytes();
            let quants = look_up(iq4_xs_codes(block, sub), &IQ4_VALUES).map(|value| value as u8);
            put_q8_0(panel, sub, lane, scale, quants);
        }
    }
}

/// Packs ggml's `block_q5_1`.
pub(super) fn pack_q5_1(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_unsigned(row, lane, panel, |block: &[u8; 24]| five_bits(&block[8..], &block[4..8]));
}

/// Packs ggml's `block_q4_1`.
pub(super) fn pack_q4_1(row: &[u8], lane: usize, panel: &mut [u8]) {
    pack_unsigned(row, lane, panel, |block: &[u8; 20]| nibbles(&block[4..]));
}

/// Packs blocks of 32 columns that begin with an f16 scale; `quants` gives their signed quants.
fn pack_signed<const N: usize>(
    row: &[u8],
    lane: usize,
    panel: &mut [u8],
    quants: impl Fn(&[u8; N]) -> [u8; BLOCK],
) {
    for (i, block) in row.as_chunks::<N>().0.iter().enumerate() {
        put_q8_0(panel, i, lane, [block[0], block[1]], quants(block));
    }
}

/// Writes a block of a Q8_0 panel: its scale in f16, and the quants.
fn put_q8_0(panel: &mut [u8], number: usize, lane: usize, scale: [u8; 2], quants: [u8; BLOCK]) {
    let [scales, at] = paired_block_offsets(Q8_0_BYTES, number);
    put(&mut panel[scales..], lane, scale);
    interleave(&mut panel[at..][..Q8_0_BYTES], lane, quants.as_chunks::<4>().0);
}

/// Packs blocks of 32 columns that begin with an f16 scale and offset; `quants` gives their
/// unsigned quants.
fn pack_unsigned<const N: usize>(
    row: &[u8],
    lane: usize,
    panel: &mut [u8],
    quants: impl Fn(&[u8; N]) -> [u8; BLOCK],
) {
    let blocks = panel.as_chunks_mut::<{ Asymmetric::BYTES }>().0;
    for (block, to) in row.as_chunks::<N>().0.iter().zip(blocks) {
        put_asymmetric(to, lane, f16_pair(block), quants(block));
    }
}

/// Writes 32 columns of a row: `scale * quant + offset`.
fn put_asymmetric(
    to: &mut [u8; Asymmetric::BYTES],
    lane: usize,
    [scale, offset]: [f32; 2],
    quants: [u8; BLOCK],
) {
    debug_assert!(quants.iter().all(|quant| *quant <= Asymmetric::MAX));
    put(to, lane, scale.to_le_bytes());
    put(&mut to[Asymmetric::OFFSETS..], lane, offset.to_le_bytes());
    interleave(&mut to[Asymmetric::QUANTS..], lane, quants.as_chunks::<4>().0);
}

/// The two f16 at the head of a block.
fn f16_pair(block: &[u8]) -> [f32; 2] {
    [0, 2].map(|at| f16::from_le_bytes([block[at], block[at + 1]]).to_f32())
}

/// 32 quants of five bits: nibbles, and a fifth bit each in 32 bits.
fn five_bits(low: &[u8], high: &[u8]) -> [u8; BLOCK] {
    let low = nibbles(low);
    std::array::from_fn(|column| low[column] | (high[column / 8] >> (column % 8) & 1) << 4)
}

/// Scale and minimum, six bits each, of a sub-block of 32 columns of Q4_K and Q5_K.
fn six_bit_scale_and_min(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let (low, scale, minimum) = (packed[sub + 4], packed[sub - 4], packed[sub]);
        (low & 15 | scale >> 6 << 4, low >> 4 | minimum >> 6 << 4)
    }
}

/// Packs ggml's `block_q4_K`: scale, scale of the minima, scales and minima of 6 bits in twelve
/// bytes, nibbles.
pub(super) fn pack_q4k(row: &[u8], lane: usize, panel: &mut [u8]) {
    let blocks = row.as_chunks::<144>().0;
    for (block, to) in blocks.iter().zip(panel.chunks_exact_mut(Q4K::BYTES)) {
        interleave(&mut to[Q4K::NIBBLES..], lane, block[16..].as_chunks::<4>().0);
        for sub in 0..8 {
            let (scale, minimum) = six_bit_scale_and_min(&block[4..16], sub);
            to[q4k_low(sub) + lane] = scale & 15 | minimum << 4;
            to[Q4K::HIGH + sub / 2 * PANEL_ROWS + lane] |=
                (scale >> 4 | minimum >> 4 << 2) << (4 * (sub % 2));
        }
        put(to, lane, [block[0], block[1]]);
        put(&mut to[2 * PANEL_ROWS..], lane, [block[2], block[3]]);
    }
}

/// Packs ggml's `block_q5_K`: as `block_q4_K`, with a fifth bit per quant before the nibbles. The
/// product of a scale and its scale has 17 bits, which an f32 holds.
pub(super) fn pack_q5k(row: &[u8], lane: usize, panel: &mut [u8]) {
    let subs = panel.as_chunks_mut::<{ Asymmetric::BYTES }>().0.chunks_exact_mut(8);
    for (block, subs) in row.as_chunks::<176>().0.iter().zip(subs) {
        let [d, d_min] = f16_pair(block);
        let (high, low) = block[16..].split_at(32);
        for (sub, to) in subs.iter_mut().enumerate() {
            let (scale, minimum) = six_bit_scale_and_min(&block[4..16], sub);
            let quants = std::array::from_fn(|column| {
                low[sub / 2 * 32 + column] >> (4 * (sub % 2)) & 15 | (high[column] >> sub & 1) << 4
            });
            let head = [d * f32::from(scale), -(d_min * f32::from(minimum))];
            put_asymmetric(to, lane, head, quants);
        }
    }
}

/// Packs ggml's `block_q6_K`: lower four bits, upper two bits, scales, scale of the super-block.
pub(super) fn pack_q6k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (i, block) in row.as_chunks::<210>().0.iter().enumerate() {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(16);
        put_q6k(
            panel,
            i,
            lane,
            [d[0], d[1]],
            |sub| scales[sub],
            |column| {
                // ggml's order: halves of 128 columns, in which four quarters of 32 share bytes.
                let (half, quarter, within) = (column / 128, column % 128 / 32, column % 32);
                let low = low[half * 64 + quarter % 2 * 32 + within] >> (4 * (quarter / 2)) & 15;
                low | (high[half * 32 + within] >> (2 * quarter) & 3) << 4
            },
        );
    }
}

/// Packs ggml's `block_q3_K`: a third bit per quant, whose absence subtracts 4; lower two bits;
/// scales of six bits, offset by 32, in twelve bytes; scale of the super-block.
pub(super) fn pack_q3k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (i, block) in row.as_chunks::<110>().0.iter().enumerate() {
        let (third, rest) = block.split_at(32);
        let (low, rest) = rest.split_at(64);
        let (packed, d) = rest.split_at(12);
        let scale = |sub: usize| {
            let low = packed[sub % 8] >> (4 * (sub / 8)) & 15;
            let high = packed[8 + sub % 4] >> (2 * (sub / 4)) & 3;
            (low | high << 4).wrapping_sub(32)
        };
        put_q6k(panel, i, lane, [d[0], d[1]], scale, |column| {
            let (half, quarter, within) = (column / 128, column % 128 / 32, column % 32);
            let low = low[half * 32 + within] >> (2 * quarter) & 3;
            let third = third[within] >> (4 * half + quarter) & 1;
            32 + low + 4 * third - 4
        });
    }
}

/// Writes a super-block of a Q6_K panel: its scale, the scales of sub-blocks, and the quants, which
/// are offset by 32.
fn put_q6k(
    panel: &mut [u8],
    number: usize,
    lane: usize,
    d: [u8; 2],
    scale: impl Fn(usize) -> u8,
    quant: impl Fn(usize) -> u8,
) {
    let [scales, at] = paired_block_offsets(Q6K::BYTES, number);
    put(&mut panel[scales..], lane, d);
    let to = &mut panel[at..][..Q6K::BYTES];
    for column in 0..SUPER_BLOCK {
        let (sub, group) = (column / 16, column % 16 / 4);
        let quant = quant(column);
        to[q6k_byte(sub, 1 + group / 2, lane, column)] |= (quant & 15) << (4 * (group % 2));
        to[q6k_byte(sub, 0, lane, column)] |= quant >> 4 << (2 * group);
    }
    for sub in 0..16 {
        to[sub * PANEL_ROWS + lane] = scale(sub);
    }
}
