//! Elementwise kernels: RMSNorm, RoPE, SiLU, exp, argmax. Plain loops that the compiler vectorizes,
//! once for each tier.

use super::isa::multiversion;

/// e^x in f32, within 2 units in the last place; 0 where the result would be subnormal.
///
/// Cephes' `expf` (Moshier): x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is
/// exact, and a polynomial of degree 7 for e^r.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: adding it rounds to an integer.
    let clamped = x.clamp(-87.0, 88.0);
    let n = clamped * std::f32::consts::LOG2_E + ROUND;
    let power = f32::from_bits(n.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let n = n - ROUND;
    let r = clamped - n * (355.0 / 512.0) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let value = (p * r * r + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { value }
}

multiversion! {
    /// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of rows as wide as the weight:
    ///
    /// `out = x w / sqrt(mean(x²) + eps)`.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            let factor = inverse_rms(x, eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        }
    }
}

/// 1 / sqrt(mean(x²) + eps), summed in sixteen lanes.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for lane in 0..16 {
            lanes[lane] += block[lane] * block[lane];
        }
    }
    let sum: f32 = lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

multiversion! {
    /// QK-norm and RoPE of the heads of one position. Each head is normalized where there is a
    /// weight, rotated by the angles with these cosines and sines (the first half of a head against
    /// the second, as GPT-NeoX), and scaled.
    pub fn qk_norm_rope(
        heads: &mut [f32],
        norm: Option<&[f32]>,
        eps: f32,
        cos: &[f32],
        sin: &[f32],
        scale: f32,
    ) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            if let Some(weight) = norm {
                let factor = inverse_rms(head, eps);
                for (x, weight) in head.iter_mut().zip(weight) {
                    *x *= factor * weight;
                }
            }
            let (low, high) = head.split_at_mut(half);
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = ((*a * cos - *b * sin) * scale, (*b * cos + *a * sin) * scale);
            }
        }
    }
}

multiversion! {
    /// `gate = silu(gate) * up`, where silu(z) = z / (1 + e^-z).
    pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

multiversion! {
    /// Index and value of the largest number: the first of equals, never NaN.
    pub fn argmax(values: &[f32]) -> (usize, f32) {
        let mut best = (0, f32::NEG_INFINITY);
        for (i, block) in values.chunks(256).enumerate() {
            let larger = |max, &v| if v > max { v } else { max };
            let max = block.iter().fold(f32::NEG_INFINITY, larger);
            if max > best.1 {
                let at = block.iter().position(|&v| v == max).unwrap_or(0);
                best = (i * 256 + at, max);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::*;

    #[test]
    fn exponentials_are_within_a_few_units_in_the_last_place() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}): {error}");
        }
        assert_eq!((exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(1000.0) > 1e38);
    }

    #[test]
    fn every_tier_has_known_values() {
        for isa in Isa::for_tests() {
            let mut gate = [0.0, 1.0, -1.0, 100.0, -100.0];
            silu_mul(isa, &mut gate, &[3.0, 2.0, 2.0, 1.0, 1.0]);
            for (out, exact) in gate.iter().zip([0.0, 1.462_117_2, -0.537_882_8, 100.0, 0.0]) {
                assert!((out - exact).abs() < 1e-6, "{out} {exact}");
            }
            let mut out = [0.0; 4];
            rms_norm(isa, &[3.0, 4.0, 0.0, 5.0], &[2.0, 1.0], 0.0, &mut out);
            let root = 12.5f32.sqrt();
            for (out, exact) in out.iter().zip([3.0 / root * 2.0, 4.0 / root, 0.0, 5.0 / root]) {
                assert!((out - exact).abs() < 1e-6, "{out} {exact}");
            }
            let mut heads = [1.0, 2.0, 3.0, 4.0];
            qk_norm_rope(isa, &mut heads, None, 0.0, &[0.0, 1.0], &[1.0, 0.0], 0.5);
            assert_eq!(heads, [-1.5, 1.0, 0.5, 2.0], "rotated by 90 degrees, and by 0");
            let mut values = vec![0.5; 1000];
            (values[3], values[700], values[900]) = (f32::NAN, 2.0, 2.0);
            assert_eq!(argmax(isa, &values), (700, 2.0));
        }
    }
}
