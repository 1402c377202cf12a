//! Products of a page of bf16 keys or values with few rows of queries or softmax weights, for
//! decode. Reading the page from memory is the bound for the fewest rows: each line is read once,
//! in order, for as many rows as registers hold sums for, and the next page is prefetched
//! meanwhile, since it lies elsewhere and the hardware cannot foresee it. Queries and weights are
//! f32, or rounded to bf16 where the CPU multiplies that faster.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::vector::{Avx2, Avx512, LINE, Multiply};
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
                unsafe { $generic::<Avx2, _>($($arg),*) }
            }
            #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { $generic::<Avx512, _>($($arg),*) }
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
pub(super) fn score_page_bf16(keys: Lines<'_>, queries: &[[u16; 2]], scores: &mut [F32x16]) {
    // SAFETY: the instructions are enabled.
    unsafe { score_rows::<Avx512, _>(keys, queries, scores) }
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
    unsafe { accumulate_rows::<Avx512, _>(values, positions, weights, sums) }
}

/// See [`score_page`].
///
/// # Safety
/// The CPU has the instructions of `V`, and the caller is compiled with them.
#[inline(always)]
unsafe fn score_rows<V: Multiply<X>, X>(keys: Lines<'_>, queries: &[X], scores: &mut [F32x16]) {
    let (rows, pairs) = (scores.len() / BLOCKS, keys.lines.len() / BLOCKS);
    // The bounds check of every access below.
    assert!(keys.lines.len() == pairs * BLOCKS && scores.len() == rows * BLOCKS, "whole blocks");
    assert!(queries.len() == rows * pairs, "a query for each row");
    let mut first = 0;
    while first < rows {
        let keys = Pages { lines: keys.lines.as_ptr(), next: (first == 0).then_some(keys.next) };
        let (queries, scores) = (&queries[first * pairs..], &mut scores[first..]);
        let count = V::ROWS.min(rows - first);
        // SAFETY: the lines, queries and scores that are used are within what was asserted above.
        unsafe {
            match count {
                1 => score::<V, X, 1>(keys, pairs, queries, scores, rows),
                2 => score::<V, X, 2>(keys, pairs, queries, scores, rows),
                3 => score::<V, X, 3>(keys, pairs, queries, scores, rows),
                4 => score::<V, X, 4>(keys, pairs, queries, scores, rows),
                5 => score::<V, X, 5>(keys, pairs, queries, scores, rows),
                6 => score::<V, X, 6>(keys, pairs, queries, scores, rows),
                7 => score::<V, X, 7>(keys, pairs, queries, scores, rows),
                _ => score::<V, X, 8>(keys, pairs, queries, scores, rows),
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
    unsafe fn line<V: Multiply<X>, X>(self, number: usize) -> V::Line {
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
unsafe fn score<V: Multiply<X>, X, const ROWS: usize>(
    keys: Pages,
    pairs: usize,
    queries: &[X],
    scores: &mut [F32x16],
    stride: usize,
) {
    let queries = queries.as_ptr();
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[[V::zero(); 2]; BLOCKS]; ROWS];
        for pair in 0..pairs {
            for block in 0..BLOCKS {
                let line = keys.line::<V, X>(block * pairs + pair);
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
unsafe fn accumulate_rows<V: Multiply<X>, X>(
    values: Lines<'_>,
    positions: usize,
    weights: &[[X; PAGE / 2]],
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
                1 => accumulate_chunks::<V, X, 1>(page, shape, weights, sums),
                2 => accumulate_chunks::<V, X, 2>(page, shape, weights, sums),
                3 => accumulate_chunks::<V, X, 3>(page, shape, weights, sums),
                4 => accumulate_chunks::<V, X, 4>(page, shape, weights, sums),
                5 => accumulate_chunks::<V, X, 5>(page, shape, weights, sums),
                6 => accumulate_chunks::<V, X, 6>(page, shape, weights, sums),
                7 => accumulate_chunks::<V, X, 7>(page, shape, weights, sums),
                _ => accumulate_chunks::<V, X, 8>(page, shape, weights, sums),
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
unsafe fn accumulate_chunks<V: Multiply<X>, X, const ROWS: usize>(
    page: Pages,
    shape: Shape,
    weights: &[[X; PAGE / 2]],
    sums: &mut [F32x16],
) {
    let mut chunk = 0;
    while chunk < shape.chunks {
        // SAFETY: as the caller promises; so many chunks are left.
        chunk += unsafe {
            match (V::SUMS / ROWS).min(shape.chunks - chunk) {
                8.. => accumulate::<V, X, ROWS, 8>(page, shape, chunk, weights, sums),
                4.. => accumulate::<V, X, ROWS, 4>(page, shape, chunk, weights, sums),
                2.. => accumulate::<V, X, ROWS, 2>(page, shape, chunk, weights, sums),
                _ => accumulate::<V, X, ROWS, 1>(page, shape, chunk, weights, sums),
            }
        };
    }
}

/// `CHUNKS` chunks from `first` on. Returns `CHUNKS`.
///
/// # Safety
/// As of [`accumulate_chunks`]; so many chunks are left.
#[inline(always)]
unsafe fn accumulate<V: Multiply<X>, X, const ROWS: usize, const CHUNKS: usize>(
    page: Pages,
    shape: Shape,
    first: usize,
    weights: &[[X; PAGE / 2]],
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
                let line = page.line::<V, X>(pair * shape.chunks + first + chunk);
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::tests::guard::GuardedBuffer;
    use crate::tests::numbers;

    /// Pairs of numbers that bf16 holds.
    fn pairs(count: usize, seed: u64) -> Vec<[f32; 2]> {
        let exact = |number: f32| f32::from_bits(number.to_bits() & 0xffff_0000);
        numbers(2 * count, seed).as_chunks().0.iter().map(|pair| pair.map(exact)).collect()
    }

    fn in_bf16(pairs: &[[f32; 2]]) -> Vec<[u16; 2]> {
        pairs.iter().map(|pair| pair.map(|number| (number.to_bits() >> 16) as u16)).collect()
    }

    fn dot(a: [f32; 2], b: [f32; 2]) -> f32 {
        a[0] * b[0] + a[1] * b[1]
    }

    /// The sums of a kernel, which are 1 before it and lie before a guard page, are `exact(number,
    /// lane)`.
    fn assert_sums(
        count: usize,
        kernel: impl FnOnce(&mut [F32x16]),
        exact: impl Fn(usize, usize) -> f32,
        what: &str,
    ) {
        let mut sums = GuardedBuffer::new(&vec![[1f32; PANEL_ROWS]; count]);
        kernel(sums.get_mut());
        for (number, sums) in sums.get().iter().enumerate() {
            for (lane, sum) in sums.iter().enumerate() {
                let exact = exact(number, lane);
                assert!((sum - exact).abs() < 1e-4, "{what} {number} {lane}: {sum} for {exact}");
            }
        }
    }

    #[test]
    fn kernels_of_decode_stay_within_their_operands() {
        let tiers: Vec<Isa> =
            Isa::for_tests().into_iter().filter(|isa| has_kernels(*isa)).collect();
        for (width, rows) in [32, 96, 128].into_iter().flat_map(|n| (1..=16).map(move |m| (n, m))) {
            let (width_pairs, chunks) = (width / 2, width / PANEL_ROWS);
            let keys = pairs(BLOCKS * width_pairs * PANEL_ROWS, 1);
            let queries = pairs(rows * width_pairs, 2);
            let score = |number: usize, lane: usize| -> f32 {
                let (block, row) = (number / rows, number % rows);
                let key = |pair| keys[(block * width_pairs + pair) * PANEL_ROWS + lane];
                (0..width_pairs).map(|pair| dot(queries[row * width_pairs + pair], key(pair))).sum()
            };
            let page = GuardedBuffer::new(&in_bf16(&keys));
            let lines = Lines::new(bytemuck::cast_slice(page.get()), &[]);
            let count = BLOCKS * rows;
            let x = GuardedBuffer::new(&queries);
            let x_bf16 = GuardedBuffer::new(&in_bf16(&queries));
            for &isa in &tiers {
                let what = format!("{} scores {width} {rows}", isa.name());
                assert_sums(count, |sums| score_page(isa, lines, x.get(), sums), score, &what);
                if isa.has_avx512bf16() {
                    // SAFETY: it was asked.
                    let kernel =
                        |sums: &mut [_]| unsafe { score_page_bf16(lines, x_bf16.get(), sums) };
                    assert_sums(count, kernel, score, &format!("{what} bf16"));
                }
            }
            for positions in [PANEL_ROWS, PAGE] {
                let values = pairs(PAGE / 2 * width, 3);
                let weights = pairs(rows * PAGE / 2, 4);
                let sum = |number: usize, lane: usize| -> f32 {
                    let (chunk, row) = (number / rows, number % rows);
                    let value = |pair| values[(pair * chunks + chunk) * PANEL_ROWS + lane];
                    let products = (0..positions / 2)
                        .map(|pair| dot(weights[row * PAGE / 2 + pair], value(pair)));
                    1.0 + products.sum::<f32>()
                };
                // What is not written must not be read: NaN.
                let mut page = in_bf16(&values);
                page[positions / 2 * width..].fill([0xffff; 2]);
                let page = GuardedBuffer::new(&page);
                let lines = Lines::new(bytemuck::cast_slice(page.get()), &[]);
                let count = chunks * rows;
                let weights_bf16 = in_bf16(&weights);
                let x: GuardedBuffer<[[f32; 2]; PAGE / 2]> =
                    GuardedBuffer::new(weights.as_chunks().0);
                let x_bf16: GuardedBuffer<[[u16; 2]; PAGE / 2]> =
                    GuardedBuffer::new(weights_bf16.as_chunks().0);
                for &isa in &tiers {
                    let what = format!("{} values {width} {rows} {positions}", isa.name());
                    let kernel =
                        |sums: &mut [_]| accumulate_page(isa, lines, positions, x.get(), sums);
                    assert_sums(count, kernel, sum, &what);
                    if isa.has_avx512bf16() {
                        // SAFETY: it was asked.
                        let kernel = |sums: &mut [_]| unsafe {
                            accumulate_page_bf16(lines, positions, x_bf16.get(), sums);
                        };
                        assert_sums(count, kernel, sum, &format!("{what} bf16"));
                    }
                }
            }
        }
    }
}
