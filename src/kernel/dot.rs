//! The dot product of two f32 vectors.

/// Partial sums: four registers of the widest vectors, so that no addition waits for the one before it.
const LANES: usize = 64;

/// A version of the dot product.
pub type Dot = fn(&[f32], &[f32]) -> f32;

/// The definition. Every version below must agree with it up to the order of its sums.
#[cfg(test)]
fn definition(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The fastest version that this CPU has.
pub fn best() -> Dot {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return |a, b| unsafe { avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA.
            return |a, b| unsafe { avx2(a, b) };
        }
    }
    portable
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(a: &[f32], b: &[f32]) -> f32 {
    in_lanes(a, b, f32::mul_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(a: &[f32], b: &[f32]) -> f32 {
    in_lanes(a, b, f32::mul_add)
}

/// Without a fused instruction `mul_add` would be a library call.
fn portable(a: &[f32], b: &[f32]) -> f32 {
    in_lanes(a, b, |x, y, sum| x * y + sum)
}

/// Inlined into each version, so that the compiler makes vectors of the width that the version allows.
#[inline(always)]
fn in_lanes(a: &[f32], b: &[f32], multiply_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let rest = rest.fold(0.0, |sum, (x, y)| multiply_add(*x, *y, sum));
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] = multiply_add(a[lane], b[lane], sums[lane]);
        }
    }
    // Halving keeps the order of the last sums the same in every version.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_agrees_with_the_definition() {
        let number = |i: usize| ((i * 2_654_435_761) % 2003) as f32 / 1000.0 - 1.0;
        for length in [0, 1, 63, 64, 65, 127, 1000, 4096] {
            let a: Vec<f32> = (0..length).map(number).collect();
            let b: Vec<f32> = (0..length).map(|i| number(i + 17)).collect();
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let scale: f64 = a.iter().zip(&b).map(|(x, y)| f64::from((x * y).abs())).sum();
            for (name, dot) in
                [("definition", definition as Dot), ("portable", portable), ("best", best())]
            {
                let far = (f64::from(dot(&a, &b)) - exact).abs();
                assert!(far <= scale * 2e-6, "{name}, length {length}: {far}");
            }
        }
    }
}
