//! Calls of the kernels of an [`Isa`]. Every call is sound for the same reason: a value of [`Isa`]
//! exists only for a tier that this CPU has, and the table of a tier needs no other instructions.

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
#[cfg(target_arch = "x86_64")]
use super::avxvnni;
use super::isa::{Isa, Tier};
use super::kernels::{GemmQ8, Kernels};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::operands::{
    AmxTile, F32x16, Int16Block, Int16Rows, Q8Block, Q8Rows, STREAMS_MAX_ROWS, WIDENED_COLUMNS,
    no_kernel,
};
use super::packed::{BLOCK, PANEL_ROWS, Q8Super, SUPER_BLOCK, WeightFormat, f32_at};
use super::portable;

/// The table of a tier. AMX adds a bf16 GEMM to those of AVX-512.
pub(super) fn kernels(isa: Isa) -> &'static Kernels {
    match isa.tier() {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => &avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Tier::AvxVnni => avxvnni::kernels(),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Amx if isa.choices().software_prefetch => &avx512::PREFETCHING_KERNELS,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Amx => &avx512::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => &neon::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Tier::DotProd => &neon::DOTPROD_KERNELS,
        #[cfg(target_arch = "aarch64")]
        Tier::I8mm => &neon::I8MM_KERNELS,
        _ => &portable::KERNELS,
    }
}

/// Functions that call the kernel of their name.
macro_rules! dispatch {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $type),*) {
            // SAFETY: see the head of this file.
            unsafe { (kernels(isa).$name)($($arg),*) }
        }
    )*};
}

dispatch! {
    /// See [`portable::gemm_f32`].
    gemm_f32(
        lines: &[f32],
        step: usize,
        columns: usize,
        x: &[f32],
        stride: usize,
        out: &mut [F32x16],
    );
    /// See [`portable::gemm_int16`].
    gemm_int16(weights: &Int16Block, x: Int16Rows<'_>, out: &mut [F32x16]);
    /// See [`portable::widen_to_f32`].
    widen_to_f32(format: WeightFormat, panel: &[u8], first: usize, lines: &mut [F32x16]);
    /// See [`portable::f32_to_int16`].
    f32_to_int16(lines: &[F32x16], block: &mut Int16Block);
    /// See [`portable::q8_0_to_int16`].
    q8_0_to_int16(panel: &[u8], columns: usize, number: usize, block: &mut Int16Block);
}

/// The kernel of a format of quantized weights with 8-bit activations.
fn gemm_q8(isa: Isa, format: WeightFormat) -> GemmQ8 {
    let kernels = kernels(isa);
    match format {
        WeightFormat::Q8_0 | WeightFormat::Q8Super => kernels.gemm_q8_0,
        WeightFormat::Q4K => kernels.gemm_q4_k,
        WeightFormat::Q6K => kernels.gemm_q6_k,
        WeightFormat::Asymmetric => kernels.gemm_asymmetric,
        other => no_kernel(other),
    }
}

/// Quantized weights with 8-bit activations.
pub(super) fn gemm_int8(
    isa: Isa,
    format: WeightFormat,
    panel: &[u8],
    x: Q8Rows<'_>,
    out: &mut [F32x16],
) {
    let kernel = gemm_q8(isa, format).one;
    match format {
        WeightFormat::Q8Super => {
            gemm_q8_super([panel], x, out.as_chunks_mut().0, |[panel], x, out| {
                // SAFETY: see the head of this file.
                unsafe { kernel(panel, x, out.as_flattened_mut()) }
            })
        }
        // SAFETY: see the head of this file.
        _ => unsafe { kernel(panel, x, out) },
    }
}

/// Whether prefill multiplies two panels of a format at a time.
pub(super) fn multiplies_two_panels(isa: Isa, format: WeightFormat) -> bool {
    !isa.choices().one_panel && gemm_q8(isa, format).two.is_some()
}

/// Whether decode of so many rows reads two panels of a format at a time.
pub(super) fn decodes_two_panels(isa: Isa, format: WeightFormat, rows: usize) -> bool {
    rows <= STREAMS_MAX_ROWS
        && isa.choices().software_prefetch
        && gemm_q8(isa, format).two.is_some()
}

/// The same with two panels.
///
/// # Panics
/// When there is no such kernel; see [`multiplies_two_panels`].
pub(super) fn gemm_int8_two(
    isa: Isa,
    format: WeightFormat,
    panels: [&[u8]; 2],
    x: Q8Rows<'_>,
    out: &mut [[F32x16; 2]],
) {
    let kernel = gemm_q8(isa, format).two.expect("a kernel for two panels");
    match format {
        WeightFormat::Q8Super => gemm_q8_super(panels, x, out, |panels, x, out| {
            // SAFETY: see the head of this file.
            unsafe { kernel(panels, x, out) }
        }),
        // SAFETY: see the head of this file.
        _ => unsafe { kernel(panels, x, out) },
    }
}

/// Rows that share a pass over panels of super-blocks: a multiple of what a kernel keeps in
/// registers of one panel (8) and of two (6), and more than decode has.
const Q8_SUPER_ROWS: usize = 24;

/// Super-blocks of Q8_0 with 8-bit activations: the kernel of Q8_0 multiplies each, and its scale
/// the sums.
fn gemm_q8_super<const PANELS: usize>(
    panels: [&[u8]; PANELS],
    x: Q8Rows<'_>,
    out: &mut [[F32x16; PANELS]],
    gemm_q8_0: impl Fn([&[u8]; PANELS], Q8Rows<'_>, &mut [[F32x16; PANELS]]),
) {
    let mut sums = [[[0f32; PANEL_ROWS]; PANELS]; Q8_SUPER_ROWS];
    for (pass, out) in out.chunks_mut(Q8_SUPER_ROWS).enumerate() {
        let sums = &mut sums[..out.len()];
        for number in 0..x.columns / SUPER_BLOCK {
            let blocks = panels.map(|panel| {
                panel[number * Q8Super::BYTES..][..Q8Super::BYTES].split_at(Q8Super::PANEL)
            });
            let x = x.window(pass * Q8_SUPER_ROWS, number * SUPER_BLOCK / BLOCK, SUPER_BLOCK);
            sums.fill([[0.0; PANEL_ROWS]; PANELS]);
            gemm_q8_0(blocks.map(|(_, panel)| panel), x, sums);
            for (panel, (scales, _)) in blocks.iter().enumerate() {
                let scales: [f32; PANEL_ROWS] = std::array::from_fn(|lane| f32_at(scales, lane));
                for (out, sums) in out.iter_mut().zip(&*sums) {
                    for lane in 0..PANEL_ROWS {
                        out[panel][lane] += sums[panel][lane] * scales[lane];
                    }
                }
            }
        }
    }
}

/// Rows up to which [`Kernels::gemv_f16_bf16`] runs.
const GEMV_ROWS: usize = 2;

/// F16 or BF16 weights with f32 activations, for decode. Without a kernel that widens in registers,
/// blocks of 64 columns are widened to a buffer of 4 KiB, which stays in L1.
pub(super) fn gemm_f16_bf16(
    isa: Isa,
    format: WeightFormat,
    panel: &[u8],
    columns: usize,
    x: &[f32],
    out: &mut [F32x16],
) {
    if let Some(kernel) = kernels(isa).gemm_f16_bf16 {
        // SAFETY: see the head of this file.
        return unsafe { kernel(format, panel.as_chunks().0, 1, columns, x, columns, out) };
    }
    if out.len() <= GEMV_ROWS
        && let Some(kernel) = kernels(isa).gemv_f16_bf16
    {
        // SAFETY: as above.
        return unsafe { kernel(format, panel, columns, x, out) };
    }
    let mut lines = [[0f32; PANEL_ROWS]; WIDENED_COLUMNS];
    for first in (0..columns).step_by(lines.len()) {
        let count = lines.len().min(columns - first);
        widen_to_f32(isa, format, panel, first, &mut lines[..count]);
        gemm_f32(isa, lines.as_flattened(), PANEL_ROWS, count, &x[first..], columns, out);
    }
}

/// BF16 weights with bf16 activations, `[rows / 16, columns / 32]`, rounded up:
/// `sums[row] = x[row] · panel`. The sums of padding rows are dropped.
///
/// # Panics
/// When the CPU does not multiply bf16; see [`Isa::has_bf16`].
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(unused_variables, reason = "no kernels")
)]
pub(super) fn gemm_bf16(isa: Isa, x: &[AmxTile], panel: &[u8], sums: &mut [F32x16]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512bf16() {
        // SAFETY: just asked.
        return unsafe { avx512bf16::gemm_bf16(x, panel, sums) };
    }
    #[cfg(target_arch = "aarch64")]
    if isa.has_bfmmla() {
        // SAFETY: just asked.
        return unsafe { neon::bf16::gemm_bf16(x, panel, sums) };
    }
    no_kernel(WeightFormat::Bf16)
}

/// See [`portable::widen_bf16_pairs`]; `pairs` may be longer than the lines need.
pub(super) fn widen_bf16_pairs(isa: Isa, pairs: &[u8], width: usize, lines: &mut [f32]) {
    let pairs: &[[u16; 2]] = &bytemuck::cast_slice(pairs)[..lines.len() / 2];
    // SAFETY: see the head of this file.
    unsafe { (kernels(isa).widen_bf16_pairs)(pairs, width, lines) }
}

/// Quantizes activations to 8 bits, where the tier has a kernel for it; else returns false.
pub(super) fn quantize_q8(isa: Isa, values: &[f32], blocks: &mut [Q8Block]) -> bool {
    let Some(kernel) = kernels(isa).quantize_q8 else { return false };
    // SAFETY: see the head of this file.
    unsafe { kernel(values, blocks) };
    true
}
