//! Types of four bits whose codes stand for values of a table: IQ4_NL, IQ4_XS and MXFP4. Layouts
//! are those of ggml; a quantizer takes the value nearest to each weight, with scales from the
//! largest weights.

use half::f16;

use super::packed::{BLOCK, SUPER_BLOCK};

/// Values of the codes of IQ4_NL and IQ4_XS, in units of the scale.
pub(super) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of E2M1 (OCP Microscaling Formats 1.0): units are half of the scale.
pub(super) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Exponent of the largest value of E2M1, 6.
const E2M1_MAX_EXPONENT: u8 = 2;

/// Sizes of blocks in bytes: `block_iq4_nl`, `block_iq4_xs` (256 weights), `block_mxfp4`.
pub(super) const IQ4_NL_BYTES: usize = 18;
pub(super) const IQ4_XS_BYTES: usize = 136;
pub(super) const MXFP4_BYTES: usize = 17;

/// 32 quants of four bits: the lower nibbles of sixteen bytes, then the upper ones.
pub(super) fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|column| bytes[column % 16] >> (4 * (column / 16)) & 15)
}

/// The values of 32 codes.
pub(super) fn look_up(bytes: &[u8], values: &[i8; 16]) -> [i8; BLOCK] {
    nibbles(bytes).map(|code| values[usize::from(code)])
}

/// Integer scale of a sub-block of 32 weights of IQ4_XS, -32 to 31: four bits of it in `low`, two
/// in `high`, offset by 32.
pub(super) fn iq4_xs_scale(block: &[u8; IQ4_XS_BYTES], sub: usize) -> i8 {
    let (high, low) = (u16::from_le_bytes([block[2], block[3]]), &block[4..8]);
    let low = low[sub / 2] >> (4 * (sub % 2)) & 15;
    (low | ((high >> (2 * sub) & 3) as u8) << 4) as i8 - 32
}

/// The scale of a super-block of IQ4_XS.
pub(super) fn iq4_xs_super_scale(block: &[u8; IQ4_XS_BYTES]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// The codes of a sub-block of IQ4_XS.
pub(super) fn iq4_xs_codes(block: &[u8; IQ4_XS_BYTES], sub: usize) -> &[u8] {
    &block[8 + 16 * sub..][..16]
}

/// 2^(e - 128): half of the scale that E8M0 `e` stands for, so that doubled values fit it. The two
/// smallest are subnormal.
pub(super) fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x20_0000 << e } else { u32::from(e - 1) << 23 })
}

pub(super) fn dequantize_iq4_nl(bytes: &[u8]) -> Vec<f32> {
    let block = |block: &[u8; IQ4_NL_BYTES]| {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        look_up(&block[2..], &IQ4_VALUES).map(|value| scale * f32::from(value))
    };
    bytes.as_chunks().0.iter().flat_map(block).collect()
}

pub(super) fn dequantize_iq4_xs(bytes: &[u8]) -> Vec<f32> {
    let sub_block = |(block, sub): (&[u8; IQ4_XS_BYTES], usize)| {
        let scale = iq4_xs_super_scale(block) * f32::from(iq4_xs_scale(block, sub));
        look_up(iq4_xs_codes(block, sub), &IQ4_VALUES).map(|value| scale * f32::from(value))
    };
    let blocks = bytes.as_chunks().0.iter();
    blocks.flat_map(|block| (0..8).map(move |sub| (block, sub))).flat_map(sub_block).collect()
}

pub(super) fn dequantize_mxfp4(bytes: &[u8]) -> Vec<f32> {
    let block = |block: &[u8; MXFP4_BYTES]| {
        let scale = half_e8m0(block[0]);
        look_up(&block[1..], &E2M1_DOUBLED).map(|value| scale * f32::from(value))
    };
    bytes.as_chunks().0.iter().flat_map(block).collect()
}

pub(super) fn quantize_iq4_nl(values: &[f32]) -> Vec<u8> {
    let block = |values: &[f32; BLOCK]| {
        let scale = f16::from_f32(iq4_scale(values));
        let mut block = [0; IQ4_NL_BYTES];
        block[..2].copy_from_slice(&scale.to_le_bytes());
        block[2..].copy_from_slice(&codes(values, scale.to_f32(), &IQ4_VALUES));
        block
    };
    values.as_chunks().0.iter().flat_map(block).collect()
}

pub(super) fn quantize_iq4_xs(values: &[f32]) -> Vec<u8> {
    let super_block = |values: &[f32; SUPER_BLOCK]| {
        let subs = values.as_chunks::<BLOCK>().0;
        let scales: [f32; 8] = std::array::from_fn(|sub| iq4_scale(&subs[sub]));
        // The largest scale becomes -32, the integer of largest magnitude.
        let super_scale = f16::from_f32(largest(&scales) / -32.0);
        let mut block = [0; IQ4_XS_BYTES];
        block[..2].copy_from_slice(&super_scale.to_le_bytes());
        let super_scale = super_scale.to_f32();
        let mut high = 0u16;
        for (sub, (values, scale)) in subs.iter().zip(scales).enumerate() {
            let scale = (scale * inverse(super_scale)).round_ties_even().clamp(-32.0, 31.0);
            let bits = (scale as i8 + 32) as u8;
            block[4 + sub / 2] |= (bits & 15) << (4 * (sub % 2));
            high |= u16::from(bits >> 4) << (2 * sub);
            let codes = codes(values, super_scale * scale, &IQ4_VALUES);
            block[8 + 16 * sub..][..16].copy_from_slice(&codes);
        }
        block[2..4].copy_from_slice(&high.to_le_bytes());
        block
    };
    values.as_chunks().0.iter().flat_map(super_block).collect()
}

/// The scale is the power of two that gives the block's largest weight the exponent of E2M1's
/// largest value, as OCP's specification has it: a weight above 6 times the scale becomes that.
pub(super) fn quantize_mxfp4(values: &[f32]) -> Vec<u8> {
    let block = |values: &[f32; BLOCK]| {
        let exponent = (largest(values).abs().to_bits() >> 23) as u8;
        let e = exponent.saturating_sub(E2M1_MAX_EXPONENT);
        let mut block = [e; MXFP4_BYTES];
        block[1..].copy_from_slice(&codes(values, half_e8m0(e), &E2M1_DOUBLED));
        block
    };
    values.as_chunks().0.iter().flat_map(block).collect()
}

/// The scale that makes the largest weight the value of largest magnitude, -127.
fn iq4_scale(values: &[f32]) -> f32 {
    largest(values) / f32::from(IQ4_VALUES[0])
}

/// The number of largest magnitude, with its sign.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max: f32, value| if value.abs() > max.abs() { *value } else { max })
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The codes of the nearest values, the first of equals, in nibbles.
fn codes(weights: &[f32; BLOCK], scale: f32, values: &[i8; 16]) -> [u8; 16] {
    let inverse = inverse(scale);
    let codes = weights.map(|weight| {
        let distance = |code: usize| (weight * inverse - f32::from(values[code])).abs();
        (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
    });
    std::array::from_fn(|i| (codes[i] | codes[16 + i] << 4) as u8)
}
