//! Products of a tile with AVX2, FMA and F16C; the definitions are in [`super::portable`].
//!
//! Eight rows of weights fill a register. Rows of activations go together in small groups, so that
//! what is loaded and unpacked of the weights serves several of them while their sums stay in
//! registers.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::inputs::{Int8, Int16, Rounded, WEIGHT_16};
use super::portable::{Lanes, Panel};
use super::tiles::{BLOCK, Form, Q8_0_BYTES, SUPER, TILE, of_two};

mod k_quants;

pub(super) use k_quants::{q4_k, q6_k};

/// Calls a kernel with as many rows at a time as it has registers for, then with what is left, each
/// count compiled on its own.
macro_rules! in_groups {
    ($out:expr, [$most:literal $($fewer:literal)*], |$first:ident, $group:ident: $rows:ident| $call:expr) => {{
        let out: &mut [Lanes] = $out;
        let (groups, rest) = out.as_chunks_mut::<$most>();
        let whole = groups.len() * $most;
        for (i, $group) in groups.iter_mut().enumerate() {
            let $first = i * $most;
            const $rows: usize = $most;
            $call;
        }
        let $first = whole;
        match rest.len() {
            $($fewer => {
                let $group: &mut [Lanes; $fewer] = rest.try_into().expect("just counted");
                const $rows: usize = $fewer;
                $call;
            })*
            0 => {}
            rows => unreachable!("no kernel for {rows} rows"),
        }
    }};
}
pub(super) use in_groups;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there to be read, and need no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_ps(values: &[f32; 8]) -> __m256 {
    // SAFETY: as above.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_ps(values: &mut [f32; 8], v: __m256) {
    // SAFETY: eight numbers are there to be written, and need no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), v) }
}

/// Eight bytes, the others of the register zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_8(bytes: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

/// Eight f16 as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(bytes: &[u8; 16]) -> __m256 {
    // SAFETY: 16 bytes are there to be read, and need no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Asks for what lies [`AHEAD`] of these weights: integer kernels keep the CPU too busy to look
/// that far ahead by itself. A few lines at a time, since the CPU can wait for some twenty only.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch<T: ?Sized>(weights: &T) {
    let ahead = std::ptr::from_ref(weights).cast::<i8>().wrapping_add(AHEAD);
    for line in (0..size_of_val(weights)).step_by(64) {
        // Of an address that is not there it does nothing.
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line));
    }
}

/// Bytes that are asked for before they are needed: some 200 ns of work.
const AHEAD: usize = 4096;

/// Four activations of 8 bits, in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn four(x: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))
}

/// Adds to eight of the sixteen sums of a row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_to(out: &mut Lanes, half: usize, sums: __m256) {
    let eight = &mut out.as_chunks_mut::<8>().0[half];
    store_ps(eight, _mm256_add_ps(load_ps(eight), sums));
}

/// See [`super::portable::plain`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn plain(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes],
) {
    // Checked once for all that is read below.
    assert!(columns == 0 || lines.len() >= (columns - 1) * step + TILE);
    assert!(out.is_empty() || x.len() >= (out.len() - 1) * stride + columns);
    in_groups!(out, [6 1 2 3 4 5], |first, group: ROWS| {
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe { plain_rows::<ROWS>(lines, step, columns, &x[first * stride..], stride, group) }
    });
}

/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain_rows<const ROWS: usize>(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes; ROWS],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    for column in 0..columns {
        // SAFETY: as the caller promises.
        let (a, b) = unsafe {
            let line = lines.add(column * step);
            (_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8)))
        };
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = _mm256_set1_ps(unsafe { *x.add(row * stride + column) });
            sums[row][0] = _mm256_fmadd_ps(a, x, sums[row][0]);
            sums[row][1] = _mm256_fmadd_ps(b, x, sums[row][1]);
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        add_to(out, 0, sums[0]);
        add_to(out, 1, sums[1]);
    }
}

/// See [`super::portable::widen`]; for weights of 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(form: Form, tile: &[u8], first: usize, lines: &mut [Lanes]) {
    let from = &tile[first * 2 * TILE..];
    match form {
        Form::F16 => {
            let halves_of = from.as_chunks::<16>().0.as_chunks::<2>().0;
            for (line, [a, b]) in lines.iter_mut().zip(halves_of) {
                prefetch(a);
                let eights = line.as_chunks_mut::<8>().0;
                store_ps(&mut eights[0], halves(a));
                store_ps(&mut eights[1], halves(b));
            }
        }
        Form::Bf16 => {
            let pairs = from.as_chunks::<32>().0.as_chunks::<2>().0;
            for (two, halves) in lines.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                prefetch(halves);
                let [even, odd] = two;
                for (half, bytes) in halves.iter().enumerate() {
                    let (a, b) = pair_of_bf16(load(bytes));
                    store_ps(&mut even.as_chunks_mut::<8>().0[half], a);
                    store_ps(&mut odd.as_chunks_mut::<8>().0[half], b);
                }
            }
        }
        Form::F32 | Form::Q8_0 | Form::Q4K | Form::Q6K => not_of_16_bits(form),
    }
}

/// Nobody has such weights widened.
#[cold]
pub(super) fn not_of_16_bits(form: Form) -> ! {
    unreachable!("{form:?} has no 16 bits")
}

/// The lower and the upper bf16 of eight pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_of_bf16(pairs: __m256i) -> (__m256, __m256) {
    (
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
        _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536))),
    )
}

/// See [`super::portable::q8_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [4 1 2 3], |first, group: ROWS| q8_0_rows::<ROWS>(tile, x, first, group));
}

/// The CPU multiplies unsigned with signed bytes, so a weight's sign is put on the activation: |w|
/// (sign(w) x). The sum of two products is at most 2 x 128 x 127, which 16 bits hold.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / BLOCK;
    let rows = rows::<ROWS>(x, first);
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        let (scales, quants) = of_two::<Q8_0_BYTES>(tile, block);
        let scales = scales.as_chunks::<16>().0;
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (group, line) in quants.as_chunks::<32>().0.as_chunks::<2>().0.iter().enumerate() {
            prefetch(line);
            let (a, b) = (load(&line[0]), load(&line[1]));
            let (size_a, size_b) = (_mm256_abs_epi8(a), _mm256_abs_epi8(b));
            for row in 0..ROWS {
                let x = four(&rows[row][block].quants[group]);
                let pairs = _mm256_maddubs_epi16(size_a, _mm256_sign_epi8(x, a));
                sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(size_b, _mm256_sign_epi8(x, b));
                sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(pairs, ones));
            }
        }
        for half in 0..2 {
            let scale = halves(&scales[half]);
            for row in 0..ROWS {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(rows[row][block].scale));
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

/// Rows from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const ROWS: usize>(x: Int8<'_>, first: usize) -> [&[Rounded]; ROWS] {
    std::array::from_fn(|row| x.row(first + row))
}

/// See [`super::portable::panel_of_q8_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn panel_of_q8_0(tile: &[u8], columns: usize, block: usize, panel: &mut Panel) {
    let runs = (SUPER / BLOCK).min(columns / BLOCK - block * SUPER / BLOCK);
    let of_run = |run: usize| {
        let (scales, quants) = of_two::<Q8_0_BYTES>(tile, block * SUPER / BLOCK + run);
        (scales.as_chunks::<16>().0, quants.as_chunks::<32>().0.as_chunks::<2>().0)
    };
    let positive = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    // Of four bytes the first and second, or the third and fourth, each times 256.
    let lane = _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
    let first = _mm256_broadcastsi128_si256(lane);
    let lane = _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15);
    let second = _mm256_broadcastsi128_si256(lane);
    for half in 0..2 {
        let mut most = _mm256_setzero_ps();
        for run in 0..runs {
            let (scales, _) = of_run(run);
            most = _mm256_max_ps(most, _mm256_and_ps(halves(&scales[half]), positive));
        }
        let some = _mm256_cmp_ps::<_CMP_GT_OQ>(most, _mm256_setzero_ps());
        let inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(Panel::SHARE), most), some);
        for run in 0..runs {
            let (scales, lines) = of_run(run);
            let share = _mm256_cvtps_epi32(_mm256_mul_ps(halves(&scales[half]), inverse));
            let share = _mm256_blend_epi16::<0b1010_1010>(share, _mm256_slli_epi32::<16>(share));
            for (group, line) in lines.iter().enumerate() {
                let bytes = load(&line[half]);
                for (pair, order) in [first, second].into_iter().enumerate() {
                    let sixteen = _mm256_srai_epi16::<4>(_mm256_shuffle_epi8(bytes, order));
                    let weights = _mm256_mulhrs_epi16(sixteen, share);
                    let line = &mut panel.quants[run * 16 + group * 2 + pair];
                    let to = &mut line.as_chunks_mut::<TILE>().0[half];
                    // SAFETY: sixteen numbers of two bytes are there to be written, and need no
                    // alignment.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), weights) };
                }
            }
        }
        let scale = _mm256_mul_ps(most, _mm256_set1_ps(Panel::OF_SCALES));
        store_ps(&mut panel.scales.as_chunks_mut::<8>().0[half], scale);
    }
}

/// See [`super::portable::round_panel`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn round_panel(lines: &[Lanes], panel: &mut Panel) {
    let positive = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    for half in 0..2 {
        let mut most = _mm256_setzero_ps();
        for line in lines {
            let size = _mm256_and_ps(load_ps(&line.as_chunks::<8>().0[half]), positive);
            most = _mm256_max_ps(most, size);
        }
        let some = _mm256_cmp_ps::<_CMP_GT_OQ>(most, _mm256_setzero_ps());
        let inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(WEIGHT_16), most), some);
        for (pair, quants) in lines.as_chunks::<2>().0.iter().zip(&mut panel.quants) {
            let [a, b] = pair.each_ref().map(|line| {
                _mm256_cvtps_epi32(_mm256_mul_ps(load_ps(&line.as_chunks::<8>().0[half]), inverse))
            });
            let both = _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(b));
            let to = &mut quants.as_chunks_mut::<TILE>().0[half];
            // SAFETY: sixteen numbers of two bytes are there to be written, and need no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), both) };
        }
        let scale = _mm256_div_ps(most, _mm256_set1_ps(WEIGHT_16));
        store_ps(&mut panel.scales.as_chunks_mut::<8>().0[half], scale);
    }
}

/// See [`super::portable::panel`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn panel(panel: &Panel, x: Int16<'_>, out: &mut [Lanes]) {
    in_groups!(out, [6 1 2 3 4 5], |first, group: ROWS| panel_rows::<ROWS>(panel, x, first, group));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn panel_rows<const ROWS: usize>(
    panel: &Panel,
    x: Int16<'_>,
    first: usize,
    out: &mut [Lanes; ROWS],
) {
    let pairs = x.columns / 2;
    // The slice is checked here, once for all that is read below.
    let rows: [*const i16; ROWS] =
        std::array::from_fn(|row| x.quants[(first + row) * x.columns..][..2 * pairs].as_ptr());
    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
    for (i, line) in panel.quants[..pairs].iter().enumerate() {
        // SAFETY: a line is 64 bytes, read in two halves without alignment.
        let (a, b) = unsafe {
            let line = line.as_ptr().cast::<__m256i>();
            (_mm256_loadu_si256(line), _mm256_loadu_si256(line.add(1)))
        };
        for row in 0..ROWS {
            // SAFETY: a row has `pairs` pairs from here on, and a pair needs no alignment.
            let x = unsafe { rows[row].cast::<i32>().add(i).read_unaligned() };
            let x = _mm256_set1_epi32(x);
            sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(a, x));
            sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(b, x));
        }
    }
    for (row, out) in out.iter_mut().enumerate() {
        let of_x = _mm256_set1_ps(x.scales[first + row]);
        for half in 0..2 {
            let scale = _mm256_mul_ps(load_ps(&panel.scales.as_chunks::<8>().0[half]), of_x);
            add_to(out, half, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), scale));
        }
    }
}

/// Lines of `across` pairs of bf16, a multiple of eight, as two lines of f32 each.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_pairs(pairs: &[[u16; 2]], across: usize, lines: &mut [f32]) {
    for (pairs, lines) in pairs.chunks_exact(across).zip(lines.chunks_exact_mut(2 * across)) {
        let (even, odd) = lines.split_at_mut(across);
        let eights = pairs.as_chunks::<8>().0.iter();
        let to = even.as_chunks_mut::<8>().0.iter_mut().zip(odd.as_chunks_mut::<8>().0);
        for (pairs, (even, odd)) in eights.zip(to) {
            // SAFETY: eight pairs of two bytes each are there to be read, and need no alignment.
            let (a, b) = pair_of_bf16(unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) });
            store_ps(even, a);
            store_ps(odd, b);
        }
    }
}

/// Sums that are kept going at once: two a clock, each of which takes four clocks and more, and the
/// sixteen registers hold them beside their operands.
const SUMS: usize = 12;

/// Multiply-adds as in [`plain`]; the operations of a turn.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_f32(turns: usize) -> usize {
    let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let mut sums = [_mm256_set1_ps(black_box(1.0)); SUMS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(x, y, *sum));
    }
    black_box(sums);
    SUMS * 2 * 8
}

/// Multiply-adds as in [`q4_k`], which needs the fewest instructions for them: eight pairs of
/// products are summed in 16 bits before they are widened. Each depends on the one before, or the
/// compiler would take it out of the loop.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_int8(turns: usize) -> usize {
    const TOGETHER: usize = 8;
    let (x, ones) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi16(black_box(1)));
    let mut sums = [_mm256_set1_epi8(black_box(1)); SUMS];
    for _ in 0..turns {
        for _ in 0..TOGETHER {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x));
            }
        }
        sums.iter_mut()
            .for_each(|sum| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, ones)));
    }
    black_box(sums);
    SUMS * TOGETHER * 2 * 32
}

/// Multiply-adds as in [`panel`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_int16(turns: usize) -> usize {
    let x = _mm256_set1_epi16(black_box(3));
    let mut sums = [_mm256_set1_epi8(black_box(1)); SUMS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, x)));
    }
    black_box(sums);
    SUMS * 2 * 16
}
