//! Dot products of f32 rows of weights with rows of activations.

/// Partial sums of a dot product: two registers of the widest vectors. With four products at a time, that is as many chains of
/// additions as it takes to wait for none.
const LANES: usize = 32;

/// `sums[r][o] = dot(w[o], x[r])` for rows of `columns` numbers: `sums` is `[rows of x, rows of w]`.
pub type Dots = fn(columns: usize, w: &[f32], x: &[f32], sums: &mut [f32]);

/// The definition. Every version below must agree with it up to the order of its sums.
#[cfg(test)]
fn definition(columns: usize, w: &[f32], x: &[f32], sums: &mut [f32]) {
    let pairs = x.chunks_exact(columns).flat_map(|x| w.chunks_exact(columns).map(move |w| (w, x)));
    for (sum, (w, x)) in sums.iter_mut().zip(pairs) {
        *sum = w.iter().zip(x).map(|(w, x)| w * x).sum();
    }
}

/// The fastest version that this CPU has.
pub fn best() -> Dots {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return |columns, w, x, sums| unsafe { avx512(columns, w, x, sums) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA.
            return |columns, w, x, sums| unsafe { avx2(columns, w, x, sums) };
        }
    }
    portable
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(columns: usize, w: &[f32], x: &[f32], sums: &mut [f32]) {
    by_fours(columns, w, x, sums, f32::mul_add);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(columns: usize, w: &[f32], x: &[f32], sums: &mut [f32]) {
    by_fours(columns, w, x, sums, f32::mul_add);
}

/// Without a fused instruction `mul_add` would be a library call.
fn portable(columns: usize, w: &[f32], x: &[f32], sums: &mut [f32]) {
    by_fours(columns, w, x, sums, |a, b, sum| a * b + sum);
}

/// Four rows of activations share each load of a weight, and stay in the nearest cache while the weights pass by. Inlined into
/// each version, so that the compiler makes vectors of its width.
#[inline(always)]
fn by_fours(
    columns: usize,
    w: &[f32],
    x: &[f32],
    sums: &mut [f32],
    multiply_add: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let outputs = w.len() / columns;
    let mut fours = x.chunks_exact(4 * columns);
    let mut sums = sums.chunks_exact_mut(outputs);
    for four in &mut fours {
        let (ab, cd) = four.split_at(2 * columns);
        let ((a, b), (c, d)) = (ab.split_at(columns), cd.split_at(columns));
        let four_sums = [(); 4].map(|()| sums.next().expect("a row of sums for each row of x"));
        for (o, w) in w.chunks_exact(columns).enumerate() {
            let mut lanes = [[0f32; LANES]; 4];
            let [la, lb, lc, ld] = &mut lanes;
            let blocks = |row| <[f32]>::as_chunks::<LANES>(row).0.iter();
            for ((((w, a), b), c), d) in
                blocks(w).zip(blocks(a)).zip(blocks(b)).zip(blocks(c)).zip(blocks(d))
            {
                for lane in 0..LANES {
                    la[lane] = multiply_add(w[lane], a[lane], la[lane]);
                    lb[lane] = multiply_add(w[lane], b[lane], lb[lane]);
                    lc[lane] = multiply_add(w[lane], c[lane], lc[lane]);
                    ld[lane] = multiply_add(w[lane], d[lane], ld[lane]);
                }
            }
            for (row, (x, lanes)) in [a, b, c, d].into_iter().zip(lanes).enumerate() {
                four_sums[row][o] = finish(w, x, lanes, multiply_add);
            }
        }
    }
    for (row, sums) in fours.remainder().chunks_exact(columns).zip(sums) {
        for (w, sum) in w.chunks_exact(columns).zip(sums) {
            let mut lanes = [0f32; LANES];
            for (w, x) in w.as_chunks::<LANES>().0.iter().zip(row.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    lanes[lane] = multiply_add(w[lane], x[lane], lanes[lane]);
                }
            }
            *sum = finish(w, row, lanes, multiply_add);
        }
    }
}

/// Adds the partial sums and what is left beyond the last whole block: for one row alone and for one of four in the same order.
#[inline(always)]
fn finish(
    w: &[f32],
    x: &[f32],
    mut lanes: [f32; LANES],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    let (w, x) = (w.as_chunks::<LANES>().1, x.as_chunks::<LANES>().1);
    lanes[0] + w.iter().zip(x).fold(0.0, |sum, (w, x)| multiply_add(*w, *x, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_agrees_with_the_definition() {
        let number = |i: usize| ((i * 2_654_435_761) % 2003) as f32 / 1000.0 - 1.0;
        for length in [1, 31, 32, 33, 127, 1000, 4096] {
            let w: Vec<f32> = (0..2 * length).map(number).collect();
            let x: Vec<f32> = (0..7 * length).map(|i| number(i + 17)).collect();
            for (name, dots) in
                [("definition", definition as Dots), ("portable", portable), ("best", best())]
            {
                let mut sums = [0f32; 7 * 2];
                dots(length, &w, &x, &mut sums);
                for (r, x) in x.chunks(length).enumerate() {
                    let mut alone = [0f32; 2];
                    dots(length, &w, x, &mut alone);
                    assert_eq!(alone, sums[2 * r..2 * r + 2], "{name}: a row alone");
                    for (w, sum) in w.chunks(length).zip(alone) {
                        let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let (exact, size): (f64, f64) =
                            (terms.clone().sum(), terms.map(f64::abs).sum());
                        let far = (f64::from(sum) - exact).abs();
                        assert!(far <= size * 4e-6, "{name}, length {length}: {far}");
                    }
                }
            }
        }
    }
}
