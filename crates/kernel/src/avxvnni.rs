//! GEMM kernels with AVX-VNNI, on CPUs without AVX-512; [`super::portable`] defines their results.
//! The instructions of VNNI in 256-bit registers: `vpdpbusd` multiplies four unsigned bytes with
//! four signed ones per 32-bit lane and adds them to an i32, which takes three instructions with
//! AVX2; `vpdpwssd` does so with two 16-bit integers.
//!
//! Register blocking: five or six rows of activations by the sixteen lanes of a panel, which is ten
//! or twelve independent sums. Two instructions per cycle with a latency of five need ten.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx2;
use super::avx2::{add_to, broadcast_i8x4, load, load_f16, load_ps, prefetch, rows};
use super::kernels::{GemmQ8, Kernels};
use super::operands::{F32x16, Int16Block, Int16Rows, Q8Block, Q8Rows, for_row_blocks};
use super::packed::{Asymmetric, BLOCK, PANEL_ROWS, Q8_0_BYTES, paired_block};

mod k_quants;
#[cfg(any(test, feature = "emulator"))]
mod model;

use k_quants::{gemm_q4_k, gemm_q6_k};

/// The tier of CPUs with AVX-VNNI; of others in tests, with a model of its instructions.
pub(super) fn kernels() -> &'static Kernels {
    #[cfg(any(test, feature = "emulator"))]
    if !is_x86_feature_detected!("avxvnni") {
        static EMULATED: Kernels = table::<true>();
        return &EMULATED;
    }
    static KERNELS: Kernels = table::<false>();
    &KERNELS
}

/// The kernels, with the instructions of the CPU or with a model of them.
const fn table<const EMULATED: bool>() -> Kernels {
    Kernels {
        gemm_q8_0: GemmQ8::one(gemm_q8_0::<EMULATED>),
        gemm_q4_k: GemmQ8::one(gemm_q4_k::<EMULATED>),
        gemm_q6_k: GemmQ8::one(gemm_q6_k::<EMULATED>),
        gemm_asymmetric: GemmQ8::one(gemm_asymmetric::<EMULATED>),
        gemm_int16: gemm_int16::<EMULATED>,
        peak_int8: peak_int8::<EMULATED>,
        peak_int16: peak_int16::<EMULATED>,
        ..avx2::KERNELS
    }
}

/// `vpdpbusd`. Inline assembly instead of the intrinsic: a function that is compiled for AVX-VNNI
/// could not run with the model, since the compiler may use the instruction anywhere in it.
///
/// # Safety
/// The CPU has AVX-VNNI, unless it is emulated.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dpbusd<const EMULATED: bool>(
    mut sums: __m256i,
    unsigned: __m256i,
    x: __m256i,
) -> __m256i {
    #[cfg(any(test, feature = "emulator"))]
    if EMULATED {
        return model::dpbusd(sums, unsigned, x);
    }
    // SAFETY: the instruction accesses registers only, and the CPU has it, as the caller promises.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {sums}, {unsigned}, {x}",
            sums = inlateout(ymm_reg) sums,
            unsigned = in(ymm_reg) unsigned,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `vpdpwssd`; see [`dpbusd`].
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dpwssd<const EMULATED: bool>(mut sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    #[cfg(any(test, feature = "emulator"))]
    if EMULATED {
        return model::dpwssd(sums, weights, x);
    }
    // SAFETY: as in `dpbusd`.
    unsafe {
        asm!(
            "{{vex}} vpdpwssd {sums}, {weights}, {x}",
            sums = inlateout(ymm_reg) sums,
            weights = in(ymm_reg) weights,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// See [`super::portable::gemm_q8_0`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_q8_0<const EMULATED: bool>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q8_0_rows::<ROWS, EMULATED>(panel, x, first, block) }
    });
}

/// `vpdpbusd` multiplies unsigned with signed bytes, so flipping the sign bit adds 128 to each
/// weight. Sums start at -128 times the sum of the activations, which corrects that.
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_q8_0_rows<const ROWS: usize, const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let sign_bit = _mm256_set1_epi8(-128);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for number in 0..x.columns / BLOCK {
        let (scales, quants) = paired_block::<Q8_0_BYTES>(panel, number);
        let x: [&Q8Block; ROWS] = std::array::from_fn(|row| &rows[row][number]);
        let mut sums = x.map(|x| [_mm256_set1_epi32(x.minus_128_sum); 2]);
        for (group, line) in quants.as_chunks::<32>().0.as_chunks::<2>().0.iter().enumerate() {
            prefetch(line);
            let weights = line.each_ref().map(|half| _mm256_xor_si256(load(half), sign_bit));
            for row in 0..ROWS {
                let x = broadcast_i8x4(&x[row].quants[group]);
                for half in 0..2 {
                    // SAFETY: as the caller promises.
                    sums[row][half] =
                        unsafe { dpbusd::<EMULATED>(sums[row][half], weights[half], x) };
                }
            }
        }
        for (half, scale) in scales.as_chunks::<16>().0.iter().enumerate() {
            let scale = load_f16(scale);
            for row in 0..ROWS {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x[row].scale));
                let sums = _mm256_cvtepi32_ps(sums[row][half]);
                totals[row][half] = _mm256_fmadd_ps(sums, scale, totals[row][half]);
            }
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, 0, totals[0]);
        add_to(out, 1, totals[1]);
    }
}

/// See [`super::portable::gemm_asymmetric`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_asymmetric<const EMULATED: bool>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_asymmetric_rows::<ROWS, EMULATED>(panel, x, first, block) }
    });
}

/// `vpdpbusd` of weights that are unsigned as they are.
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_asymmetric_rows<const ROWS: usize, const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    let blocks = &panel.as_chunks::<{ Asymmetric::BYTES }>().0[..x.columns / BLOCK];
    for (number, block) in blocks.iter().enumerate() {
        let (head, quants) = block.split_at(Asymmetric::QUANTS);
        prefetch(head);
        let x: [&Q8Block; ROWS] = std::array::from_fn(|row| &rows[row][number]);
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (group, line) in quants.as_chunks::<32>().0.as_chunks::<2>().0.iter().enumerate() {
            prefetch(line);
            let weights = line.each_ref().map(|half| load(half));
            for row in 0..ROWS {
                let x = broadcast_i8x4(&x[row].quants[group]);
                for half in 0..2 {
                    // SAFETY: as the caller promises.
                    sums[row][half] =
                        unsafe { dpbusd::<EMULATED>(sums[row][half], weights[half], x) };
                }
            }
        }
        let head: &[f32] = bytemuck::cast_slice(head);
        let [scales, offsets] = [0, 1].map(|at| head[at * PANEL_ROWS..].as_chunks::<8>().0);
        for half in 0..2 {
            let (scale, offset) = (load_ps(&scales[half]), load_ps(&offsets[half]));
            for row in 0..ROWS {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x[row].scale));
                let sums = _mm256_cvtepi32_ps(sums[row][half]);
                let total = _mm256_fmadd_ps(sums, scale, totals[row][half]);
                totals[row][half] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x[row].sum), total);
            }
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, 0, totals[0]);
        add_to(out, 1, totals[1]);
    }
}

/// See [`super::portable::gemm_int16`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_int16<const EMULATED: bool>(
    weights: &Int16Block,
    x: Int16Rows<'_>,
    out: &mut [F32x16],
) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_int16_rows::<ROWS, EMULATED>(weights, x, first, block) }
    });
}

/// `vpdpwssd` on a broadcast pair of activations.
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_int16_rows<const ROWS: usize, const EMULATED: bool>(
    weights: &Int16Block,
    x: Int16Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let pairs = x.columns / 2;
    let rows = x.pairs::<ROWS>(first);
    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
    for (i, line) in weights.quants[..pairs].iter().enumerate() {
        let line: &[[u8; 32]; 2] = bytemuck::cast_ref(line);
        let weights = line.each_ref().map(|half| load(half));
        for row in 0..ROWS {
            // SAFETY: a row has `pairs` pairs from here on, and a pair needs no alignment.
            let x = unsafe { rows[row].add(i).read_unaligned() };
            let x = _mm256_set1_epi32(x);
            for half in 0..2 {
                // SAFETY: as the caller promises.
                sums[row][half] = unsafe { dpwssd::<EMULATED>(sums[row][half], weights[half], x) };
            }
        }
    }
    for (row, out) in out.iter_mut().enumerate() {
        let x_scale = _mm256_set1_ps(x.scales[first + row]);
        for half in 0..2 {
            let scale = _mm256_mul_ps(load_ps(&weights.scales.as_chunks::<8>().0[half]), x_scale);
            add_to(out, half, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), scale));
        }
    }
}

/// Independent sums in the peak loops, as many as the kernels have.
const PEAK_SUMS: usize = 12;

/// The multiply-adds of [`gemm_q8_0`] without loads; returns operations per iteration.
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn peak_int8<const EMULATED: bool>(iterations: usize) -> usize {
    let x = _mm256_set1_epi8(black_box(3));
    let mut sums = [_mm256_set1_epi8(black_box(1)); PEAK_SUMS];
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: as the caller promises.
            *sum = unsafe { dpbusd::<EMULATED>(*sum, x, x) };
        }
    }
    black_box(sums);
    PEAK_SUMS * 2 * 32
}

/// The multiply-adds of [`gemm_int16`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn peak_int16<const EMULATED: bool>(iterations: usize) -> usize {
    let x = _mm256_set1_epi16(black_box(3));
    let mut sums = [_mm256_set1_epi8(black_box(1)); PEAK_SUMS];
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: as the caller promises.
            *sum = unsafe { dpwssd::<EMULATED>(*sum, x, x) };
        }
    }
    black_box(sums);
    PEAK_SUMS * 2 * 16
}
