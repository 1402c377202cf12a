//! The table of functions that makes a kernel tier: one `static` in the file of each instruction
//! set. [`super::dispatch`] chooses among them.

use super::operands::{F32x16, Int16Block, Int16Rows, Q8Block, Q8Rows};
use super::packed::WeightFormat;

/// Adds dot products of rows of 8-bit activations with a quantized panel to `out[row][lane]`.
pub(super) type GemmQ8 = unsafe fn(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]);

/// A loop of independent multiply-adds, of which it returns the operations per iteration.
pub(super) type Peak = unsafe fn(iterations: usize) -> usize;

/// The kernels of a tier; [`super::portable`] defines what each computes, and a tier has those of
/// the tier below where it has none of its own. Callers ensure that the
/// CPU has the instructions of the tier: see [`super::dispatch`].
#[expect(clippy::type_complexity, reason = "a field is the signature of a kernel, told once")]
pub(super) struct Kernels {
    /// `(lines, step, columns, x, stride, out)`
    pub gemm_f32: unsafe fn(&[f32], usize, usize, &[f32], usize, &mut [F32x16]),
    pub gemm_q8_0: GemmQ8,
    pub gemm_q4_k: GemmQ8,
    pub gemm_q6_k: GemmQ8,
    pub gemm_asymmetric: GemmQ8,
    /// `(weights, x, out)`
    pub gemm_int16: unsafe fn(&Int16Block, Int16Rows<'_>, &mut [F32x16]),
    /// `(format, lines, step, columns, x, stride, out)`: F16 or BF16 weights, widened in registers.
    /// Other tiers widen them to a buffer first.
    pub gemm_f16_bf16:
        Option<unsafe fn(WeightFormat, &[[u8; 64]], usize, usize, &[f32], usize, &mut [F32x16])>,
    /// `(format, panel, first, lines)`
    pub widen_to_f32: unsafe fn(WeightFormat, &[u8], usize, &mut [F32x16]),
    /// `(pairs, width, lines)`
    pub widen_bf16_pairs: unsafe fn(&[[u16; 2]], usize, &mut [f32]),
    /// `(lines, block)`
    pub f32_to_int16: unsafe fn(&[F32x16], &mut Int16Block),
    /// `(panel, columns, number, block)`
    pub q8_0_to_int16: unsafe fn(&[u8], usize, usize, &mut Int16Block),
    /// `(values, blocks)`. Other tiers run the loop that the compiler vectorizes.
    pub quantize_q8: Option<unsafe fn(&[f32], &mut [Q8Block])>,
    /// Reads four streams of lines. Other tiers run the loop that the compiler vectorizes.
    pub sum_streams: Option<unsafe fn([&[[u64; 8]]; 4]) -> u64>,
    pub peak_f32: Peak,
    pub peak_int8: Peak,
    pub peak_int16: Peak,
}
