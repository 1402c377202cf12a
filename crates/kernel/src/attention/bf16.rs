//! Products of a page of bf16 keys or values with few rows of queries or softmax weights, for
//! decode. Reading the page from memory is the bound: each line is read once, in order, for as many
//! rows as registers hold sums for, and the next page is prefetched meanwhile, since it lies
//! elsewhere and the hardware cannot foresee it. Queries and weights are f32, or rounded to bf16
//! where the CPU multiplies that faster.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::vector::{Avx2, Avx512, Avx512Bf16, LINE, Vector};
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
        queries: &[[f32; 2]],
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
        weights: &[[[f32; 2]; PAGE / 2]],
        sums: &mut [F32x16],
    );
}

/// See [`score_page`].
///
/// # Panics
/// When sizes do not fit.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn score_page_bf16(
    keys: Lines<'_>,
    width: usize,
    queries: &[[u16; 2]],
    scores: &mut [F32x16],
) {
    // SAFETY: the instructions are enabled.
    unsafe { score_rows::<Avx512Bf16>(keys, width, queries, scores) }
}

/// See [`accumulate_page`].
///
/// # Panics
/// When sizes do not fit.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn accumulate_page_bf16(
    values: Lines<'_>,
    positions: usize,
    weights: &[[[u16; 2]; PAGE / 2]],
    sums: &mut [F32x16],
) {
    // SAFETY: the instructions are enabled.
    unsafe { accumulate_rows::<Avx512Bf16>(values, positions, weights, sums) }
}

/// See [`score_page`].
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller is compiled with them.
#[inline(always)]
unsafe fn score_rows<V: Vector>(
    keys: Lines<'_>,
    width: usize,
    queries: &[V::Pair],
    scores: &mut [F32x16],
) {
    let rows = scores.len() / BLOCKS;
    // The bounds check of every access below.
    assert!(keys.lines.len() == width / 2 * BLOCKS && scores.len() == rows * BLOCKS);
    assert!(queries.len() == rows * width / 2, "a query for each row");
    let mut first = 0;
    while first < rows {
        let keys = Pages { lines: keys.lines.as_ptr(), next: (first == 0).then_some(keys.next) };
        let (queries, scores) = (&queries[first * width / 2..], &mut scores[first..]);
        let count = V::ROWS.min(rows - first);
        // SAFETY: the lines, queries and scores that are used are within what was asserted above.
        unsafe {
            match count {
                1 => score::<V, 1>(keys, width / 2, queries, scores, rows),
                2 => score::<V, 2>(keys, width / 2, queries, scores, rows),
                3 => score::<V, 3>(keys, width / 2, queries, scores, rows),
                _ => score::<V, 4>(keys, width / 2, queries, scores, rows),
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
    /// Sixteen pairs; prefetches those of the next page into the second-level cache, since
    /// the first does not hold two pages. Of an unmapped address that does nothing.
    ///
    /// # Safety
    /// The page has so many lines.
    #[inline(always)]
    unsafe fn line<V: Vector>(self, number: usize) -> V::Line {
        if let Some(next) = self.next {
            // SAFETY: x86-64 has this instruction.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(number * LINE).cast()) };
        }
        // SAFETY: as the caller promises.
        unsafe { V::line(&*self.lines.add(number)) }
    }
}

/// The scores of `ROWS` rows, whose two blocks lie `stride` apart.
///
/// # Safety
/// As of [`score_rows`]; there are `pairs` lines of keys a block and as many queries a row.
#[inline(always)]
unsafe fn score<V: Vector, const ROWS: usize>(
    keys: Pages,
    pairs: usize,
    queries: &[V::Pair],
    scores: &mut [F32x16],
    stride: usize,
) {
    let queries = queries.as_ptr();
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[[V::zero(); 2]; BLOCKS]; ROWS];
        for pair in 0..pairs {
            for block in 0..BLOCKS {
                let line = keys.line::<V>(block * pairs + pair);
                for row in 0..ROWS {
                    let sums = &mut sums[row][block];
                    *sums = V::multiply_add_two(line, &*queries.add(row * pairs + pair), *sums);
                }
            }
        }
        for row in 0..ROWS {
            for block in 0..BLOCKS {
                let [even, odd] = sums[row][block];
                even.add(odd).store(scores.get_unchecked_mut(block * stride + row));
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
    weights: &[[V::Pair; PAGE / 2]],
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
    weights: &[[V::Pair; PAGE / 2]],
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
    weights: &[[V::Pair; PAGE / 2]],
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
                let line = page.line::<V>(pair * shape.chunks + first + chunk);
                for row in 0..ROWS {
                    let weights = weights.get_unchecked(row).get_unchecked(pair);
                    let sum = &mut registers[row][chunk];
                    *sum = V::multiply_add(line, weights, *sum);
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
