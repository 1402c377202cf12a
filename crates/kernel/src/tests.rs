//! Every tier against the definitions in f64: dequantized weights, dot products, the formula of
//! attention.

use super::ggml::{dtypes, one_of_each_format};
use super::packed::weight;
use super::*;

mod attention;
#[cfg(unix)]
pub(super) mod guard;
mod kv_q8_0;
mod types;

/// Pseudorandom numbers in ±1 (xorshift), the same on every machine.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix of random weights: packed, and the same blocks dequantized.
pub(super) struct RandomMatrix {
    format: WeightFormat,
    shape: [usize; 2],
    arena: Arena,
    exact: Vec<f32>,
}

impl RandomMatrix {
    pub(super) fn new(dtype: GgmlType, [outputs, columns]: [usize; 2], seed: u64) -> Self {
        let format = WeightFormat::from_dtype(dtype).unwrap();
        let values = numbers(outputs * columns, seed);
        let blocks = quantize(dtype, &values);
        let mut arena = Arena::new(format.bytes(outputs, columns)).unwrap();
        let row = blocks.len() / outputs;
        let panels = arena.all_mut().chunks_mut(format.panel_bytes(columns));
        for (panel, rows) in panels.zip(blocks.chunks(row * PANEL_ROWS)) {
            pack(dtype, columns, rows, panel);
        }
        let exact = dequantize(dtype, &blocks);
        Self { format, shape: [outputs, columns], arena, exact }
    }

    pub(super) fn packed(&self) -> PackedMatrix<'_> {
        let bytes = self.format.bytes(self.shape[0], self.shape[1]);
        PackedMatrix::new(self.format, self.shape, self.arena.get(0..bytes))
    }

    /// The product in f64.
    fn product(&self, x: &[f32]) -> Vec<f64> {
        let columns = self.shape[1];
        let dot = |x: &[f32], w: &[f32]| -> f64 {
            x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        x.chunks(columns).flat_map(|x| self.exact.chunks(columns).map(move |w| dot(x, w))).collect()
    }
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - b))
        / norm(&mut b.iter().copied()).max(1e-30)
}

pub(super) fn activations(pool: &Pool, x: &[f32], columns: usize) -> Activations {
    let mut x_rows = Activations::default();
    x_rows.fill(pool, x.len() / columns, columns, |row, out| {
        out.copy_from_slice(&x[row * columns..][..columns]);
    });
    x_rows
}

/// The product with one matrix.
fn gemm_alone(pool: &Pool, isa: Isa, weights: PackedMatrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weights.columns * weights.outputs];
    let output = GemmOutput { weights, out: &mut out, epilogue: Epilogue::Store };
    gemm(pool, isa, &mut activations(pool, x, weights.columns), &mut [output]);
    out
}

#[test]
fn packed_weights_are_those_of_the_file() {
    for dtype in dtypes() {
        for outputs in [1, 16, 35] {
            let matrix = RandomMatrix::new(dtype, [outputs, 512], 3);
            let mut row = vec![0.0; 512];
            for output in 0..outputs {
                matrix.packed().row(output, &mut row);
                assert_eq!(row, matrix.exact[output * 512..][..512], "{dtype:?} row {output}");
            }
        }
    }
}

#[test]
fn a_matrix_takes_the_bytes_of_its_file() {
    for (format, file) in
        [(WeightFormat::Q8_0, 34), (WeightFormat::Q4K, 144 / 8), (WeightFormat::Q6K, 210 / 8)]
    {
        let bytes = format.bytes(64, 1024) as f64;
        let stored = (64 * 1024 / 32 * file) as f64;
        assert!(bytes >= stored && bytes < stored * 1.02, "{format:?}: {bytes} for {stored}");
    }
    assert_eq!(WeightFormat::Q4K.bytes(64, 1024), 64 * 4 * 144);
    assert_eq!(WeightFormat::Q6K.bytes(64, 1024), 64 * 4 * 210);
    assert_eq!(WeightFormat::Bf16.bytes(64, 1024), 64 * 1024 * 2);
}

/// Largest relative error of a product. It stems from rounding activations (8 bits: half of 1/127
/// of the largest of 32, divided by √3 for uniform values), or weights and activations to 12 and 13
/// bits, or sums in f32.
fn bound(isa: Isa, format: WeightFormat, rows: usize) -> f64 {
    match activation_format(isa, format, rows) {
        ActivationFormat::F32 => 2e-6,
        ActivationFormat::Int8 => 0.006,
        ActivationFormat::Int16 => 4e-4,
        ActivationFormat::Bf16 => 4e-3,
    }
}

#[test]
fn every_tier_multiplies_as_the_definition_does() {
    let tiers = Isa::for_tests();
    let pools = [1, 3].map(|threads| Pool::new(threads).unwrap());
    for dtype in one_of_each_format() {
        let step = dtype.block_size();
        for (outputs, columns) in
            [(1, 256), (16, 512), (37, 768), (130, 1280), (24, step * 7), (9, 11 * step)]
        {
            let matrix = RandomMatrix::new(dtype, [outputs, columns], 1);
            let format = matrix.format;
            for rows in (1..=17).chain([18, 33, 50]) {
                let x = numbers(rows * columns, 99);
                let exact = matrix.product(&x);
                for &isa in &tiers {
                    let [one, three] =
                        pools.each_ref().map(|pool| gemm_alone(pool, isa, matrix.packed(), &x));
                    assert_eq!(one, three, "the result does not depend on threads");
                    let error = distance(&one, &exact);
                    let name = isa.name();
                    // The fewer outputs, the more likely that all of them are small by chance.
                    let bound = bound(isa, format, rows) * if outputs < 16 { 5.0 } else { 1.0 };
                    assert!(
                        error < bound,
                        "{name} {dtype:?} [{outputs}, {columns}] with {rows} rows: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn tiers_with_the_same_activation_format_differ_only_by_summation_order() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(1).unwrap();
    for dtype in one_of_each_format() {
        let matrix = RandomMatrix::new(dtype, [48, 1024], 5);
        let format = matrix.format;
        for rows in [1, 7, 40] {
            let x = numbers(rows * 1024, 4);
            let mut firsts: Vec<(ActivationFormat, Vec<f64>)> = Vec::new();
            for &isa in &tiers {
                let converted_to = activation_format(isa, format, rows);
                let result = gemm_alone(&pool, isa, matrix.packed(), &x);
                match firsts.iter().find(|(first, _)| *first == converted_to) {
                    Some((_, first)) => {
                        let error = distance(&result, first);
                        assert!(error < 2e-6, "{} {dtype:?} {rows}: {error}", isa.name());
                    }
                    None => {
                        firsts.push((converted_to, result.into_iter().map(f64::from).collect()))
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_other_rows() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(2).unwrap();
    for dtype in one_of_each_format() {
        let matrix = RandomMatrix::new(dtype, [40, 512], 8);
        let format = matrix.format;
        for &isa in &tiers {
            for rows in [3, 16, 17, 29] {
                let x = numbers(rows * 512, 6);
                let run = |x: &[f32]| gemm_alone(&pool, isa, matrix.packed(), x);
                let all = run(&x);
                // A number of rows with the same kernel.
                let kernel = |rows| {
                    let converted_to = activation_format(isa, format, rows);
                    (
                        converted_to,
                        converted_to == ActivationFormat::Bf16 && rows <= DECODE_MAX_ROWS,
                    )
                };
                let fewer =
                    [1, 16, 17].into_iter().find(|&fewer| kernel(fewer) == kernel(rows)).unwrap();
                assert_eq!(all[..fewer * 40], run(&x[..fewer * 512]), "{dtype:?} {rows}");
            }
        }
    }
}

#[test]
fn swiglu_takes_a_gate_of_another_format() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(1).unwrap();
    for (dtypes, outputs, columns) in [
        ([GgmlType::F32, GgmlType::Q4K], 40, 256),
        // Several passes over several panels, of which the last pass has an odd number.
        ([GgmlType::Q8_0, GgmlType::Q4K], 600, 256),
        ([GgmlType::F16, GgmlType::BF16], 600, 96),
    ] {
        let [a, b] = [(dtypes[0], 1), (dtypes[1], 2)]
            .map(|(dtype, seed)| RandomMatrix::new(dtype, [outputs, columns], seed));
        for rows in [2, 20, 50] {
            let x = numbers(rows * columns, 3);
            let [a_sums, b_sums] = [&a, &b].map(|matrix| matrix.product(&x));
            for &isa in &tiers {
                let alone = gemm_alone(&pool, isa, a.packed(), &x);
                let error = distance(&alone, &a_sums);
                assert!(error < 0.02, "{} {dtypes:?} {rows}: {error}", isa.name());
                for [(gate, gate_sums), (up, up_sums)] in
                    [[(&a, &a_sums), (&b, &b_sums)], [(&b, &b_sums), (&a, &a_sums)]]
                {
                    let mut out = Activations::default();
                    let weights = [gate.packed(), up.packed()];
                    gemm_swiglu(
                        &pool,
                        isa,
                        &mut activations(&pool, &x, columns),
                        weights,
                        &mut out,
                    );
                    let silu_mul = |(g, u): (&f64, &f64)| g / (1.0 + (-g).exp()) * u;
                    let exact: Vec<f64> = gate_sums.iter().zip(up_sums).map(silu_mul).collect();
                    let rows_of = out.f32().chunks(out.columns());
                    let products: Vec<f32> =
                        rows_of.flat_map(|row| row[..outputs].iter().copied()).collect();
                    let error = distance(&products, &exact);
                    assert!(error < 0.02, "{} {dtypes:?} {rows}: {error}", isa.name());
                }
            }
        }
    }
}

#[test]
fn extremes_do_not_overflow() {
    let tiers = Isa::for_tests();
    // Weights and activations as large as their blocks can hold, all of one sign.
    let pool = Pool::new(1).unwrap();
    for dtype in one_of_each_format() {
        let (columns, format) = (512, WeightFormat::from_dtype(dtype).unwrap());
        let blocks = quantize(dtype, &vec![-1.0; 16 * columns]);
        let mut arena = Arena::new(format.bytes(16, columns)).unwrap();
        pack(dtype, columns, &blocks, arena.all_mut());
        let exact: f32 = dequantize(dtype, &blocks)[..columns].iter().sum();
        for &isa in &tiers {
            for rows in [1, 4, 20] {
                for sign in [1.0f32, -1.0] {
                    let x = vec![sign; rows * columns];
                    let bytes = arena.get(0..format.bytes(16, columns));
                    let weights = PackedMatrix::new(format, [16, columns], bytes);
                    let out = gemm_alone(&pool, isa, weights, &x);
                    for out in out {
                        assert!((out - sign * exact).abs() < 1.0, "{dtype:?}: {out} for {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn results_are_stored_added_and_biased() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(2).unwrap();
    let (a, b) = (
        RandomMatrix::new(GgmlType::F32, [20, 64], 1),
        RandomMatrix::new(GgmlType::Q8_0, [33, 64], 2),
    );
    let x = numbers(3 * 64, 5);
    let bias: Vec<f32> = numbers(20, 9);
    let exact_a = a.product(&x);
    let exact_b = b.product(&x);
    for &isa in &tiers {
        let (mut first, mut second) = (vec![f32::NAN; 60], vec![1.0; 99]);
        let outputs = &mut [
            GemmOutput { weights: a.packed(), out: &mut first, epilogue: Epilogue::Bias(&bias) },
            GemmOutput { weights: b.packed(), out: &mut second, epilogue: Epilogue::Add },
        ];
        gemm(&pool, isa, &mut activations(&pool, &x, 64), outputs);
        for (i, (out, exact)) in first.iter().zip(&exact_a).enumerate() {
            assert!((f64::from(*out - bias[i % 20]) - exact).abs() < 1e-5);
        }
        for (out, exact) in second.iter().zip(&exact_b) {
            assert!((f64::from(*out) - 1.0 - exact).abs() < 0.1);
        }
        let up = RandomMatrix::new(GgmlType::F32, [20, 64], 7);
        let exact_up = up.product(&x);
        let mut out = Activations::default();
        gemm_swiglu(
            &pool,
            isa,
            &mut activations(&pool, &x, 64),
            [a.packed(), up.packed()],
            &mut out,
        );
        assert_eq!((out.rows(), out.columns()), (3, 32));
        for (i, (gate, up)) in exact_a.iter().zip(&exact_up).enumerate() {
            let exact = gate / (1.0 + (-gate).exp()) * up;
            assert!((f64::from(out.f32()[i / 20 * 32 + i % 20]) - exact).abs() < 1e-4);
        }
        assert!(out.f32()[20..32].iter().all(|&v| v == 0.0), "padding is zero");
    }
}

#[test]
fn a_nan_activation_makes_the_result_nan() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(1).unwrap();
    let matrix = RandomMatrix::new(GgmlType::Q8_0, [16, 256], 1);
    for &isa in &tiers {
        let mut x = numbers(256, 3);
        x[7] = f32::NAN;
        let out = gemm_alone(&pool, isa, matrix.packed(), &x);
        assert!(out.iter().all(|v| v.is_nan()), "{}", isa.name());
    }
}

#[test]
fn a_q8_0_weight_reads_as_its_layout_says() {
    // One block by hand: scale 0.5, quants 0, 1, 2, ...
    let mut row = vec![0x00, 0x38];
    row.extend(0..32u8);
    let mut panel = vec![0; WeightFormat::Q8_0.panel_bytes(32)];
    pack(GgmlType::Q8_0, 32, &row, &mut panel);
    for column in 0..32 {
        assert_eq!(weight(WeightFormat::Q8_0, &panel, column, 0), column as f32 / 2.0);
        assert_eq!(weight(WeightFormat::Q8_0, &panel, column, 1), 0.0);
    }
    assert_eq!(WeightFormat::from_dtype(GgmlType::Q5_0), Some(WeightFormat::Q8_0));
    assert_eq!(WeightFormat::from_dtype(GgmlType::Q2K), None);
}

#[test]
fn a_panel_takes_the_bytes_of_its_rows_and_half_a_line_for_an_odd_block() {
    for (format, columns, bytes) in [
        (WeightFormat::Q8_0, 64, 16 * 2 * 34),
        (WeightFormat::Q8_0, 96, 16 * 3 * 34 + 32),
        (WeightFormat::Q8Super, 512, 16 * 2 * (8 * 34 + 4)),
        (WeightFormat::Q4K, 768, 16 * 3 * 144),
        (WeightFormat::Q6K, 512, 16 * 2 * 210),
        (WeightFormat::Q6K, 768, 16 * 3 * 210 + 32),
    ] {
        assert_eq!(format.panel_bytes(columns), bytes, "{format:?} {columns}");
    }
    // A block pair and a block that is alone: scales 1, 2 and 3.
    let row: Vec<u8> =
        [0x3c, 0x40, 0x42].iter().flat_map(|&d| [vec![0, d], vec![1; 32]].concat()).collect();
    let mut panel = vec![0; WeightFormat::Q8_0.panel_bytes(96)];
    pack(GgmlType::Q8_0, 96, &row, &mut panel);
    for (column, value) in [(0, 1.0), (31, 1.0), (32, 2.0), (63, 2.0), (64, 3.0), (95, 3.0)] {
        assert_eq!(weight(WeightFormat::Q8_0, &panel, column, 0), value, "{column}");
    }
    assert_eq!((panel[1], panel[33], panel[64 + 2 * 512 + 1]), (0x3c, 0x40, 0x42), "in order");
}
