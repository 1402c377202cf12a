//! Products of a page of bf16 keys or values with few rows of queries or softmax weights, for
//! decode. Reading the page from memory is the bound: each line is read once, in order, for as many
//! rows as registers hold sums for, and the next page is prefetched meanwhile, since it lies
//! elsewhere and the hardware cannot foresee it.

use std::arch::x86_64::*;

use crate::isa::{Isa, Tier};
use crate::kv_cache::PAGE;
use crate::operands::F32x16;
use crate::packed::PANEL_ROWS;

/// Keys or values of a page, in lines of sixteen pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    lines: &'a [[u8; LINE]],
    /// Those that are read next, which lie elsewhere.
    next: *const u8,
}

const LINE: usize = 4 * PANEL_ROWS;

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8], next: &'a [u8]) -> Self {
        Self { lines: bytes.as_chunks().0, next: next.as_ptr() }
    }
}

/// Whether the tier has these kernels.
pub(super) fn has_kernels(isa: Isa) -> bool {
    matches!(isa.tier(), Tier::Avx2 | Tier::AvxVnni | Tier::Avx512 | Tier::Amx)
}

/// Functions that call the one of their name in the tier's instructions.
macro_rules! dispatch {
    ($($(#[$doc:meta])* $name:ident = $generic:ident($($arg:ident: $type:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $type),*) {
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) {
                // SAFETY: the instructions are enabled.
                unsafe { $generic::<Avx2>($($arg),*) }
            }
            #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { $generic::<Avx512>($($arg),*) }
            }
            assert!(has_kernels(isa), "{} has no kernel for this", isa.name());
            // SAFETY: an `Isa` is only made on a CPU that has the tier's instructions.
            unsafe {
                match isa.tier() {
                    Tier::Avx512 | Tier::Amx => avx512($($arg),*),
                    _ => avx2($($arg),*),
                }
            }
        }
    )*};
}

dispatch! {
    /// `scores[block][row] = queries[row] · keys[block]` for both blocks of sixteen keys.
    ///
    /// # Panics
    /// When sizes do not fit.
    score_page = score_rows(
        keys: Lines<'_>,
        width: usize,
        queries: &[f32],
        scores: &mut [F32x16],
    );
    /// `sums[chunk][row] += weights[row] · values[chunk]` over the first `positions` of a page, for
    /// each chunk of sixteen columns.
    ///
    /// # Panics
    /// When sizes do not fit.
    accumulate_page = accumulate_rows(
        values: Lines<'_>,
        positions: usize,
        weights: &[[f32; PAGE]],
        sums: &mut [F32x16],
    );
}

/// See [`score_page`].
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller is compiled with them.
#[inline(always)]
unsafe fn score_rows<V: Vector>(
    keys: Lines<'_>,
    width: usize,
    queries: &[f32],
    scores: &mut [F32x16],
) {
    let rows = scores.len() / BLOCKS;
    // The bounds check of every access below.
    assert!(keys.lines.len() == width / 2 * BLOCKS && scores.len() == rows * BLOCKS);
    assert!(queries.len() == rows * width, "a query for each row");
    let mut first = 0;
    while first < rows {
        let keys = Pages { lines: keys.lines.as_ptr(), next: (first == 0).then_some(keys.next) };
        let (queries, scores) = (&queries[first * width..], &mut scores[first..]);
        let count = V::ROWS.min(rows - first);
        // SAFETY: the lines, queries and scores that are used are within what was asserted above.
        unsafe {
            match count {
                1 => score::<V, 1>(keys, width, queries, scores, rows),
                2 => score::<V, 2>(keys, width, queries, scores, rows),
                3 => score::<V, 3>(keys, width, queries, scores, rows),
                _ => score::<V, 4>(keys, width, queries, scores, rows),
            }
        }
        first += count;
    }
}

/// Blocks of sixteen keys in a page.
const BLOCKS: usize = PAGE / PANEL_ROWS;

/// Lines of this page, and of the next if it is still to be prefetched.
#[derive(Clone, Copy)]
struct Pages {
    lines: *const [u8; LINE],
    next: Option<*const u8>,
}

impl Pages {
    /// Sixteen pairs, widened; prefetches those of the next page into the second-level cache, since
    /// the first does not hold two pages. Of an unmapped address that does nothing.
    ///
    /// # Safety
    /// The page has so many lines.
    #[inline(always)]
    unsafe fn line<V: Vector>(self, number: usize) -> [V; 2] {
        if let Some(next) = self.next {
            // SAFETY: x86-64 has this instruction.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(number * LINE).cast()) };
        }
        // SAFETY: as the caller promises.
        unsafe { V::widen(&*self.lines.add(number)) }
    }
}

/// The scores of `ROWS` rows, whose two blocks lie `stride` apart. Even and odd columns have
/// separate sums, so that the latency of additions is no bound.
///
/// # Safety
/// As of [`score_rows`]; there are `width` lines of keys and as many queries and scores.
#[inline(always)]
unsafe fn score<V: Vector, const ROWS: usize>(
    keys: Pages,
    width: usize,
    queries: &[f32],
    scores: &mut [F32x16],
    stride: usize,
) {
    let queries = queries.as_ptr();
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[[V::zero(); 2]; BLOCKS]; ROWS];
        for pair in 0..width / 2 {
            for block in 0..BLOCKS {
                let [even, odd]: [V; 2] = keys.line(block * (width / 2) + pair);
                for row in 0..ROWS {
                    let [a, b] = *queries.add(row * width + 2 * pair).cast::<[f32; 2]>();
                    let sums = &mut sums[row][block];
                    sums[0] = even.multiply_add(a, sums[0]);
                    let chain = V::CHAINS - 1;
                    sums[chain] = odd.multiply_add(b, sums[chain]);
                }
            }
        }
        for row in 0..ROWS {
            for block in 0..BLOCKS {
                let sums = sums[row][block];
                let sum = if V::CHAINS == 2 { sums[0].add(sums[1]) } else { sums[0] };
                sum.store(scores.get_unchecked_mut(block * stride + row));
            }
        }
    }
}

/// See [`accumulate_page`].
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller is compiled with them.
#[inline(always)]
unsafe fn accumulate_rows<V: Vector>(
    values: Lines<'_>,
    positions: usize,
    weights: &[[f32; PAGE]],
    sums: &mut [F32x16],
) {
    let (rows, chunks) = (weights.len(), values.lines.len() / (PAGE / 2));
    // The bounds check of every access below.
    assert!(positions <= PAGE && positions.is_multiple_of(2), "pairs of positions");
    assert!(values.lines.len() == chunks * (PAGE / 2) && sums.len() == chunks * rows);
    let mut first = 0;
    while first < rows {
        let next = (first == 0).then_some(values.next);
        let page = Pages { lines: values.lines.as_ptr(), next };
        let shape = Shape { chunks, positions, stride: rows };
        let (weights, sums) = (&weights[first..], &mut sums[first..]);
        let count = V::ROWS.min(rows - first);
        // SAFETY: the lines, weights and sums that are used are within what was asserted above.
        unsafe {
            match count {
                1 => accumulate_chunks::<V, 1>(page, shape, weights, sums),
                2 => accumulate_chunks::<V, 2>(page, shape, weights, sums),
                3 => accumulate_chunks::<V, 3>(page, shape, weights, sums),
                _ => accumulate_chunks::<V, 4>(page, shape, weights, sums),
            }
        }
        first += count;
    }
}

/// Values are `[positions / 2][chunks]` lines; the sums of chunks lie `stride` apart.
#[derive(Clone, Copy)]
struct Shape {
    chunks: usize,
    positions: usize,
    stride: usize,
}

/// All chunks of `ROWS` rows, as many at a time as registers hold sums for.
///
/// # Safety
/// As of [`accumulate_rows`]; lines, weights and sums are of this shape.
#[inline(always)]
unsafe fn accumulate_chunks<V: Vector, const ROWS: usize>(
    page: Pages,
    shape: Shape,
    weights: &[[f32; PAGE]],
    sums: &mut [F32x16],
) {
    let mut chunk = 0;
    while chunk < shape.chunks {
        // SAFETY: as the caller promises; so many chunks are left.
        chunk += unsafe {
            match (V::SUMS / ROWS).min(shape.chunks - chunk) {
                8.. => accumulate::<V, ROWS, 8>(page, shape, chunk, weights, sums),
                4.. => accumulate::<V, ROWS, 4>(page, shape, chunk, weights, sums),
                2.. => accumulate::<V, ROWS, 2>(page, shape, chunk, weights, sums),
                _ => accumulate::<V, ROWS, 1>(page, shape, chunk, weights, sums),
            }
        };
    }
}

/// `CHUNKS` chunks from `first` on. Returns `CHUNKS`.
///
/// # Safety
/// As of [`accumulate_chunks`]; so many chunks are left.
#[inline(always)]
unsafe fn accumulate<V: Vector, const ROWS: usize, const CHUNKS: usize>(
    page: Pages,
    shape: Shape,
    first: usize,
    weights: &[[f32; PAGE]],
    sums: &mut [F32x16],
) -> usize {
    // SAFETY: as the caller promises.
    unsafe {
        let mut registers = [[V::zero(); CHUNKS]; ROWS];
        for row in 0..ROWS {
            for chunk in 0..CHUNKS {
                let sums = sums.get_unchecked((first + chunk) * shape.stride + row);
                registers[row][chunk] = V::load(sums);
            }
        }
        for pair in 0..shape.positions / 2 {
            for chunk in 0..CHUNKS {
                let [even, odd]: [V; 2] = page.line(pair * shape.chunks + first + chunk);
                for row in 0..ROWS {
                    let weights = weights.get_unchecked(row);
                    let sum = &mut registers[row][chunk];
                    *sum = even.multiply_add(*weights.get_unchecked(2 * pair), *sum);
                    *sum = odd.multiply_add(*weights.get_unchecked(2 * pair + 1), *sum);
                }
            }
        }
        for row in 0..ROWS {
            for chunk in 0..CHUNKS {
                let sums = sums.get_unchecked_mut((first + chunk) * shape.stride + row);
                registers[row][chunk].store(sums);
            }
        }
    }
    CHUNKS
}

/// Sixteen f32 in the registers of a tier.
///
/// # Safety
/// Every function: the CPU has the instructions, and the caller is compiled with them.
trait Vector: Copy {
    /// Rows of a pass over a page, at most four.
    const ROWS: usize;
    /// Sums per row and block of keys, one or two.
    const CHAINS: usize;
    /// Sums of a pass over values.
    const SUMS: usize;
    unsafe fn zero() -> Self;
    unsafe fn load(from: &F32x16) -> Self;
    unsafe fn store(self, to: &mut F32x16);
    /// The lower and the upper bf16 of sixteen pairs.
    unsafe fn widen(line: &[u8; LINE]) -> [Self; 2];
    unsafe fn add(self, other: Self) -> Self;
    /// `self * x + sums`
    unsafe fn multiply_add(self, x: f32, sums: Self) -> Self;
}

#[derive(Clone, Copy)]
struct Avx512(__m512);

// SAFETY of every block below: as the caller promises; sixteen numbers are read or written without
// alignment.
impl Vector for Avx512 {
    const ROWS: usize = 4;
    const CHAINS: usize = 2;
    const SUMS: usize = 16;

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
    unsafe fn widen(line: &[u8; LINE]) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_loadu_si512(line.as_ptr().cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-65536));
            [_mm512_slli_epi32::<16>(pairs), odd].map(|bits| Self(_mm512_castsi512_ps(bits)))
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, x: f32, sums: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, _mm512_set1_ps(x), sums.0) })
    }
}

#[derive(Clone, Copy)]
struct Avx2([__m256; 2]);

// SAFETY of every block below: as of `Avx512`.
impl Vector for Avx2 {
    const ROWS: usize = 2;
    const CHAINS: usize = 1;
    const SUMS: usize = 4;

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
    unsafe fn widen(line: &[u8; LINE]) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let a = _mm256_loadu_si256(line.as_ptr().cast());
            let b = _mm256_loadu_si256(line[LINE / 2..].as_ptr().cast());
            let high = _mm256_set1_epi32(-65536);
            let even = Self([
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
            ]);
            let odd = Self([
                _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                _mm256_castsi256_ps(_mm256_and_si256(b, high)),
            ]);
            [even, odd]
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        // SAFETY: see above.
        Self(unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, x: f32, sums: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, sums.0);
        // SAFETY: see above.
        unsafe {
            let x = _mm256_set1_ps(x);
            Self([_mm256_fmadd_ps(a, x, c), _mm256_fmadd_ps(b, x, d)])
        }
    }
}
