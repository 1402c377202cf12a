//! The table of functions that makes a kernel tier: one `static` in the file of each instruction
//! set. [`super::dispatch`] chooses among them.

use super::operands::{F32x16, Int16Block, Int16Rows, Q8Block, Q8Rows};
use super::packed::WeightFormat;

/// Adds dot products of rows of 8-bit activations with quantized panels to sums.
#[derive(Clone, Copy)]
#[expect(clippy::type_complexity, reason = "a field is the signature of a kernel, told once")]
pub(super) struct GemmQ8 {
    /// Of one panel, to `out[row][lane]`.
    pub one: unsafe fn(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]),
    /// Of two panels, to `out[row][panel][lane]`, with the same bits: each broadcast of activations
    /// serves both. Where the lanes of a panel are two registers, `one` does that.
    pub two: Option<unsafe fn(panels: [&[u8]; 2], x: Q8Rows<'_>, out: &mut [[F32x16; 2]])>,
}

impl GemmQ8 {
    /// A kernel that multiplies panel by panel.
    pub(super) const fn one(one: unsafe fn(&[u8], Q8Rows<'_>, &mut [F32x16])) -> Self {
        Self { one, two: None }
    }
}

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
    /// Other tiers widen them to a buffer first, but see `gemv_f16_bf16`.
    pub gemm_f16_bf16:
        Option<unsafe fn(WeightFormat, &[[u8; 64]], usize, usize, &[f32], usize, &mut [F32x16])>,
    /// `(format, panel, columns, x, out)`: the same for one or two rows, where more are faster
    /// with a buffer. The bits are those of the buffer.
    pub gemv_f16_bf16: Option<unsafe fn(WeightFormat, &[u8], usize, &[f32], &mut [F32x16])>,
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
