//! CPU kernels and the choice of a version. `unsafe` lives only here: functions compiled for more than the baseline, called after
//! the CPU was asked, and blocks seen as the bytes of their file. Each kernel stands beside its definition.

#![expect(unsafe_code, reason = "the only place for it; every block says why it is sound")]

mod blocks;
mod dot;
#[cfg(feature = "llama-cpp")]
mod peer;

pub use blocks::Blocks;
pub use blocks::Fill;
pub use blocks::matrix;
#[cfg(feature = "llama-cpp")]
pub use peer::llama_system_info;

use std::ops::Range;

use rayon::prelude::*;

/// The target of the tracing spans around kernels. Nobody listens but where kernels are profiled.
pub const SPANS: &str = "candlemark::kernel";

/// Outputs that one task computes: 32 rows of some thousand weights, which fit in the second cache and outlast a task's start.
const TASK: usize = 32;

/// `out[r][o] = dot(x[r], w[o])`: `w` is `[outputs, columns]`, `x` is `[rows, columns]`, the result `[rows, outputs]`. Weights are
/// read once however many rows there are, and every sum is the same for any number of rows and threads.
///
/// `weights` shows a range of rows of `w`, so that they may be made on the spot.
///
/// # Errors
/// What `weights` returns.
pub fn products<E: Send>(
    outputs: usize,
    columns: usize,
    x: &[f32],
    weights: impl Fn(Range<usize>, &mut dyn FnMut(&[f32])) -> Result<(), E> + Sync,
) -> Result<Vec<f32>, E> {
    let (rows, dots) = (x.len() / columns, dot::best());
    let part = |range: Range<usize>| {
        let mut part = vec![0f32; rows * range.len()];
        weights(range, &mut |w| dots(columns, w, x, &mut part))?;
        Ok(part)
    };
    Ok(joined(outputs, rows, tasks(outputs).map(part).collect::<Result<Vec<Vec<f32>>, E>>()?))
}

/// Runs `sum` for every row and output: `[rows, outputs]`.
fn in_tasks(outputs: usize, rows: usize, sum: impl Fn(usize, usize) -> f32 + Sync) -> Vec<f32> {
    let part = |range: Range<usize>| {
        let mut part = vec![0f32; rows * range.len()];
        for (i, output) in range.clone().enumerate() {
            (0..rows).for_each(|row| part[row * range.len() + i] = sum(row, output));
        }
        part
    };
    joined(outputs, rows, tasks(outputs).map(part).collect())
}

fn tasks(outputs: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    (0..outputs.div_ceil(TASK))
        .into_par_iter()
        .map(move |i| i * TASK..((i + 1) * TASK).min(outputs))
}

/// Puts the tasks' parts, each `[rows, some outputs]`, side by side.
fn joined(outputs: usize, rows: usize, parts: Vec<Vec<f32>>) -> Vec<f32> {
    if rows == 1 {
        return parts.concat();
    }
    let mut all = vec![0f32; rows * outputs];
    let mut start = 0;
    for part in parts {
        let width = part.len() / rows;
        for (all, part) in all.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
            all[start..start + width].copy_from_slice(part);
        }
        start += width;
    }
    all
}

/// The transpose of a `[rows, columns]` matrix, in tiles that stay in the nearest cache.
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut all = vec![0f32; values.len()];
    all.par_chunks_mut(TILE * rows).enumerate().for_each(|(i, band)| {
        for first in (0..rows).step_by(TILE) {
            for (c, out) in band.chunks_exact_mut(rows).enumerate() {
                let column = i * TILE + c;
                for row in first..(first + TILE).min(rows) {
                    out[row] = values[row * columns + column];
                }
            }
        }
    });
    all
}

/// `silu(gate) * up`, element by element, where silu(z) = z / (1 + exp(-z)).
///
/// # Panics
/// When the two differ in length.
pub fn silu_times(mut gate: Vec<f32>, up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len());
    gate.par_chunks_mut(1 << 14).zip(up.par_chunks(1 << 14)).for_each(|(gate, up)| {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
    });
    gate
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + salt) * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn products_are_the_same_for_any_number_of_rows() {
        let (outputs, columns) = (131, 67);
        let (w, x) = (numbers(outputs * columns, 0), numbers(5 * columns, 3));
        let run = |x: &[f32]| {
            let rows = |range: Range<usize>, use_rows: &mut dyn FnMut(&[f32])| {
                use_rows(&w[range.start * columns..range.end * columns]);
                Ok::<(), ()>(())
            };
            products(outputs, columns, x, rows).unwrap()
        };
        let together = run(&x);
        for (r, x) in x.chunks(columns).enumerate() {
            let alone = run(x);
            assert_eq!(together[r * outputs..(r + 1) * outputs], alone);
            let exact: f64 =
                w[..columns].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            assert!((f64::from(alone[0]) - exact).abs() < 1e-4);
        }
    }

    #[test]
    fn a_transpose_turns_rows_into_columns() {
        assert_eq!(
            transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
        let values = numbers(77 * 130, 0);
        let turned = transposed(&values, 77, 130);
        assert!((0..77).all(|r| (0..130).all(|c| turned[c * 77 + r] == values[r * 130 + c])));
        assert_eq!(transposed(&turned, 130, 77), values);
    }

    #[test]
    fn silu_times_has_known_values() {
        let out = silu_times(vec![0.0, 1.0, -1.0, 100.0, -100.0], &[3.0, 2.0, 2.0, 1.0, 1.0]);
        let exact = [0.0, 1.462_117_2, -0.537_882_8, 100.0, 0.0];
        for (out, exact) in out.iter().zip(exact) {
            assert!((out - exact).abs() < 1e-6, "{out} {exact}");
        }
    }

    #[test]
    fn blocks_multiply_as_their_expansion_does() {
        let (outputs, columns) = (130, 512);
        let (w, x) = (numbers(outputs * columns, 0), numbers(3 * columns, 5));
        for dtype in [
            GgmlDType::F16,
            GgmlDType::BF16,
            GgmlDType::Q4_0,
            GgmlDType::Q5_0,
            GgmlDType::Q8_0,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ] {
            let fill = |rows: Range<usize>| {
                Ok::<_, ()>(Fill::F32(w[rows.start * columns..rows.end * columns].to_vec()))
            };
            let blocks = matrix(dtype, [outputs, columns], fill).unwrap();
            let expanded = blocks.expand(0..outputs);
            assert_eq!(blocks.expand(7..9), expanded[7 * columns..9 * columns]);
            let all = blocks.products(&x);
            for (r, x) in x.chunks(columns).enumerate() {
                assert_eq!(
                    blocks.products(x),
                    all[r * outputs..(r + 1) * outputs],
                    "{dtype:?}: a row alone"
                );
                for o in 0..outputs {
                    let terms =
                        expanded[o * columns..(o + 1) * columns].iter().zip(x).map(|(w, x)| w * x);
                    let exact: f32 = terms.clone().sum();
                    let size: f32 = terms.map(f32::abs).sum();
                    let far = (all[r * outputs + o] - exact).abs();
                    assert!(far < 0.004 * size, "{dtype:?} [{r}, {o}]: {far} of {size}");
                }
            }
        }
    }

    #[test]
    fn bytes_of_a_file_become_the_same_blocks() {
        let values = numbers(64 * 256, 1);
        let fill = |_| Ok::<_, ()>(Fill::F32(values.clone()));
        let made = matrix(GgmlDType::Q6K, [64, 256], fill).unwrap();
        let expanded = made.expand(0..64);
        let tensor = candle_core::quantized::QTensor::new(
            candle_core::quantized::QStorage::Cpu(made.into_candle()),
            (64, 256),
        );
        let bytes = tensor.unwrap().data().unwrap().to_vec();
        assert_eq!(bytes.len(), 64 * 210);
        let read =
            matrix(GgmlDType::Q6K, [64, 256], |_| Ok::<_, ()>(Fill::Bytes(bytes.clone()))).unwrap();
        assert_eq!(read.expand(0..64), expanded);
        assert_eq!(read.bytes(), 64 * 210);
    }
}
