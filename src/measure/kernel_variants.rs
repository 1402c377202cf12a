//! The variants of the CPU kernels, timed on shapes of a small model: what a kernel plan chooses
//! among.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::kernel::{
    self, Activations, Arena, Epilogue, GemmOutput, GgmlType, Isa, KvCache, KvDtype, KvLayout,
    PackedMatrix, Pool, Span, WeightFormat,
};

/// Rows of a pass of prefill.
const ROWS: usize = 512;

/// Weights that one token reads: more than most CPUs cache.
const DECODE_BYTES: usize = 256 << 20;

/// A feed-forward matrix of Qwen3-0.6B, `[outputs, columns]`.
const SHAPE: [usize; 2] = [3072, 1024];

/// Attention of Qwen3-0.6B: key-value heads, query heads of each, head dimension.
const HEADS: usize = 8;
const GROUP: usize = 2;
const WIDTH: usize = 128;

/// Time for one variant of one kernel; the fastest pass counts.
const BUDGET: Duration = Duration::from_millis(150);

/// One kernel of an operation with the rates of its variants.
pub(crate) struct VariantRates {
    /// The operation, as a kernel plan names it.
    pub(crate) operation: &'static str,
    /// What was multiplied: `q8_0` for example, or `decode of q8_0`.
    pub(crate) kernel: &'static str,
    /// The variants, and operations per second of each; a multiply-add is two.
    pub(crate) rates: [(&'static str, f64); 2],
}

/// Times the variants of a tier on `threads` threads.
///
/// # Errors
/// When the system refuses a thread or memory.
pub(crate) fn variant_rates(isa: Isa, threads: usize) -> Result<Vec<VariantRates>> {
    let pool = Pool::new(threads)?;
    let mut found = Vec::new();
    for (operation, variants) in isa.variants() {
        let kernels: &[(&str, GgmlType)] = match operation {
            "int8" => &[
                ("q8_0", GgmlType::Q8_0),
                ("q4_k", GgmlType::Q4K),
                ("q5_k", GgmlType::Q5K),
                ("q6_k", GgmlType::Q6K),
            ],
            "attention" => &[("bf16 cache", GgmlType::BF16)],
            "prefetch" => &[
                ("decode of q8_0", GgmlType::Q8_0),
                ("decode of q4_k", GgmlType::Q4K),
                ("decode of q6_k", GgmlType::Q6K),
                ("decode of bf16", GgmlType::BF16),
            ],
            _ => &[("bf16", GgmlType::BF16)],
        };
        for &(kernel, dtype) in kernels {
            let time = |variant| -> Result<(&'static str, f64)> {
                let isa = isa.with_variant(operation, variant)?;
                let rate = match operation {
                    "attention" => attention_rate(isa, &pool)?,
                    "prefetch" => gemm_rate(isa, &pool, dtype, 1)?,
                    _ => gemm_rate(isa, &pool, dtype, ROWS)?,
                };
                Ok((variant, rate))
            };
            let rates = [time(variants[0])?, time(variants[1])?];
            found.push(VariantRates { operation, kernel, rates });
        }
    }
    Ok(found)
}

/// Operations per second of the fastest pass.
fn best_rate(operations: usize, mut pass: impl FnMut()) -> f64 {
    let (began, mut best) = (Instant::now(), Duration::MAX);
    while began.elapsed() < BUDGET {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed());
    }
    operations as f64 / best.as_secs_f64()
}

/// Numbers in ±1, the same on every machine.
fn numbers(count: usize) -> Vec<f32> {
    let fraction = |i: usize| (i.wrapping_mul(2_654_435_761) % 65_536) as f32 / 32_768.0 - 1.0;
    (0..count).map(fraction).collect()
}

/// Of one row, copies of the matrix are multiplied one after the other, so that they come from
/// memory.
fn gemm_rate(isa: Isa, pool: &Pool, dtype: GgmlType, rows: usize) -> Result<f64> {
    let [outputs, columns] = SHAPE;
    let format = WeightFormat::from_dtype(dtype).expect("a type with kernels");
    let blocks = kernel::quantize(dtype, &numbers(outputs * columns));
    let bytes = format.bytes(outputs, columns);
    let copies = if rows == 1 { DECODE_BYTES / bytes } else { 1 };
    let mut arena = Arena::new(copies * bytes).map_err(|source| no_memory(&source))?;
    let rows_of_panel = blocks.len() / outputs * kernel::PANEL_ROWS;
    let (first, others) = arena.get_mut(0..copies * bytes).split_at_mut(bytes);
    let panels = first.chunks_mut(format.panel_bytes(columns));
    for (panel, rows) in panels.zip(blocks.chunks(rows_of_panel)) {
        kernel::pack(dtype, columns, rows, panel);
    }
    others.chunks_exact_mut(bytes).for_each(|copy| copy.copy_from_slice(first));
    let x = numbers(rows * columns);
    let (mut activations, mut out) = (Activations::default(), vec![0.0; rows * outputs]);
    Ok(best_rate(2 * copies * rows * outputs * columns, || {
        for copy in 0..copies {
            let packed = arena.get(copy * bytes..(copy + 1) * bytes);
            activations.fill(pool, rows, columns, |row, to| {
                to.copy_from_slice(&x[row * columns..][..columns]);
            });
            let weights = PackedMatrix::new(format, SHAPE, packed);
            let output = GemmOutput { weights, out: &mut out, epilogue: Epilogue::Store };
            kernel::gemm(pool, isa, &mut activations, &mut [output]);
        }
    }))
}

fn attention_rate(isa: Isa, pool: &Pool) -> Result<f64> {
    let dtype = KvDtype::Bf16;
    let mut cache = KvCache::new(KvLayout { layers: 1, heads: HEADS, width: WIDTH, dtype });
    cache.reset(1);
    cache.grow(0, ROWS).map_err(|source| no_memory(&source))?;
    let spans = [Span { sequence: 0, start: 0, rows: ROWS, past: 0 }];
    let keys = numbers(ROWS * HEADS * WIDTH);
    cache.append(pool, 0, &spans, &keys, &keys);
    let q: Vec<f32> = numbers(ROWS * HEADS * GROUP * WIDTH).iter().map(|q| q / 8.0).collect();
    let mut out = Activations::default();
    // Each row attends to the positions up to its own.
    let pairs = ROWS * (ROWS + 1) / 2;
    Ok(best_rate(4 * pairs * HEADS * GROUP * WIDTH, || {
        kernel::attention(pool, isa, &cache, 0, &spans, &q, &mut out);
    }))
}

fn no_memory(error: &std::io::Error) -> Error {
    Error::Failed(format!("no memory to time kernels ({error})"))
}
