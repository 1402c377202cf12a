//! Vectors of decode over pages in bf16: sums of products of pairs, per set of instructions.

use std::arch::x86_64::*;

use crate::avx512bf16::as_bf16_pairs;
use crate::operands::F32x16;
use crate::packed::PANEL_ROWS;

/// Bytes of a line of a page: sixteen pairs of bf16.
pub(super) const LINE: usize = 4 * PANEL_ROWS;

/// Sixteen f32 sums in the registers of a tier.
///
/// # Safety
/// Every function: the CPU has the instructions, and the caller is compiled with them.
pub(super) trait Sums: Copy {
    unsafe fn zero() -> Self;
    unsafe fn load(from: &F32x16) -> Self;
    unsafe fn store(self, to: &mut F32x16);
    unsafe fn add(self, other: Self) -> Self;
}

/// Products of pairs of a page with a pair `X` of a query or of weights: two f32, or two bf16.
///
/// # Safety
/// As of [`Sums`].
pub(super) trait Multiply<X>: Sums {
    /// Sixteen pairs of a page.
    type Line: Copy;
    /// Rows of a pass over a page, at most eight.
    const ROWS: usize;
    /// Sums of a pass over values.
    const SUMS: usize;
    unsafe fn line(line: &[u8; LINE]) -> Self::Line;
    /// Adds the dot product of each pair with `x`.
    unsafe fn multiply_add(line: Self::Line, x: &X, sums: Self) -> Self;
    /// The same with two sums whose total is wanted, the second 0 if it is not used.
    #[inline(always)]
    unsafe fn multiply_add_two(line: Self::Line, x: &X, [sums, second]: [Self; 2]) -> [Self; 2] {
        // SAFETY: as the caller promises.
        [unsafe { Self::multiply_add(line, x, sums) }, second]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

// SAFETY of every block below: as the caller promises; sixteen numbers are read or written without
// alignment.
impl Sums for Avx512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: &F32x16) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut F32x16) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

/// Pairs are widened to their even and odd numbers. A pair is passed by reference and read as two
/// numbers: of one word, LLVM makes broadcasts from general registers, which take longer.
impl Multiply<[f32; 2]> for Avx512 {
    type Line = [__m512; 2];
    const ROWS: usize = 4;
    const SUMS: usize = 16;

    #[inline(always)]
    unsafe fn line(line: &[u8; LINE]) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_loadu_si512(line.as_ptr().cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-65536));
            [_mm512_slli_epi32::<16>(pairs), odd].map(|bits| _mm512_castsi512_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn multiply_add([even, odd]: [__m512; 2], [a, b]: &[f32; 2], sums: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let sums = _mm512_fmadd_ps(even, _mm512_set1_ps(*a), sums.0);
            Self(_mm512_fmadd_ps(odd, _mm512_set1_ps(*b), sums))
        }
    }

    /// A sum for even and one for odd columns: with few rows, one would wait for the latency of
    /// every addition.
    #[inline(always)]
    unsafe fn multiply_add_two(
        [even, odd]: [__m512; 2],
        [a, b]: &[f32; 2],
        [even_sums, odd_sums]: [Self; 2],
    ) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            [
                Self(_mm512_fmadd_ps(even, _mm512_set1_ps(*a), even_sums.0)),
                Self(_mm512_fmadd_ps(odd, _mm512_set1_ps(*b), odd_sums.0)),
            ]
        }
    }
}

/// `vdpbf16ps` multiplies pairs as they are.
impl Multiply<[u16; 2]> for Avx512 {
    type Line = __m512bh;
    const ROWS: usize = 8;
    const SUMS: usize = 16;

    #[inline(always)]
    unsafe fn line(line: &[u8; LINE]) -> __m512bh {
        // SAFETY: see above.
        unsafe { as_bf16_pairs(_mm512_loadu_si512(line.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn multiply_add(line: __m512bh, x: &[u16; 2], sums: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let x = as_bf16_pairs(_mm512_set1_epi32(bytemuck::cast(*x)));
            Self(_mm512_dpbf16_ps(sums.0, line, x))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2([__m256; 2]);

// SAFETY of every block below: as of `Avx512`.
impl Sums for Avx2 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { [_mm256_setzero_ps(); 2] })
    }

    #[inline(always)]
    unsafe fn load(from: &F32x16) -> Self {
        // SAFETY: see above.
        unsafe { Self([_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())]) }
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut F32x16) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        // SAFETY: see above.
        Self(unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] })
    }
}

impl Multiply<[f32; 2]> for Avx2 {
    type Line = [[__m256; 2]; 2];
    const ROWS: usize = 2;
    const SUMS: usize = 4;

    #[inline(always)]
    unsafe fn line(line: &[u8; LINE]) -> [[__m256; 2]; 2] {
        // SAFETY: see above.
        unsafe {
            let a = _mm256_loadu_si256(line.as_ptr().cast());
            let b = _mm256_loadu_si256(line[LINE / 2..].as_ptr().cast());
            let high = _mm256_set1_epi32(-65536);
            let even = [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
            ];
            let odd = [
                _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                _mm256_castsi256_ps(_mm256_and_si256(b, high)),
            ];
            [even, odd]
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(
        [even, odd]: [[__m256; 2]; 2],
        [a, b]: &[f32; 2],
        Self([low, high]): Self,
    ) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = _mm256_set1_ps(*a);
            let low = _mm256_fmadd_ps(even[0], a, low);
            let high = _mm256_fmadd_ps(even[1], a, high);
            let b = _mm256_set1_ps(*b);
            Self([_mm256_fmadd_ps(odd[0], b, low), _mm256_fmadd_ps(odd[1], b, high)])
        }
    }
}
