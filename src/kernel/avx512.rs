//! Products of a tile with AVX-512 and its dot products of integers; the definitions are in [`super::portable`].
//!
//! A line of a tile is a register, and there are 32 of them: more rows of activations go together than with AVX2, and a byte of
//! weights meets a byte of activations in one instruction, four to a lane, that adds to a sum of 32 bits.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx2::in_groups;
use super::inputs::Int8;
use super::inputs::Int16;
use super::inputs::WEIGHT_16;
use super::portable::Lanes;
use super::portable::Panel;
use super::tiles::BLOCK;
use super::tiles::Form;
use super::tiles::Q4K;
use super::tiles::Q6K;
use super::tiles::SUPER;
use super::tiles::TILE;

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are there to be read, and need no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_ps(values: &Lanes) -> __m512 {
    // SAFETY: sixteen numbers are there to be read, and need no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn store_ps(values: &mut Lanes, v: __m512) {
    // SAFETY: sixteen numbers are there to be written, and need no alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), v) }
}

/// Sixteen bytes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_16(bytes: &[u8; TILE]) -> __m128i {
    // SAFETY: 16 bytes are there to be read, and need no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Sixteen f16 as f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn halves(bytes: &[u8; 32]) -> __m512 {
    // SAFETY: 32 bytes are there to be read, and need no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Four activations of 8 bits, in all lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn four(x: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))
}

/// Adds to the sums of a row.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_to(out: &mut Lanes, sums: __m512) {
    store_ps(out, _mm512_add_ps(load_ps(out), sums));
}

/// See [`super::portable::plain`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    in_groups!(out, [12 1 2 3 4 5 6 7 8 9 10 11], |first, group: ROWS| {
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe { plain_rows::<ROWS>(lines, step, columns, &x[first * stride..], stride, group) }
    });
}

/// Even and odd columns have sums of their own, so that those of few rows wait less for one another.
///
/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`, `stride` apart.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn plain_rows<const ROWS: usize>(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes; ROWS],
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    for pair in 0..columns / 2 {
        for odd in 0..2 {
            let column = 2 * pair + odd;
            // SAFETY: as the caller promises.
            let line = unsafe { _mm512_loadu_ps(lines.add(column * step)) };
            for row in 0..ROWS {
                // SAFETY: as the caller promises.
                let x = _mm512_set1_ps(unsafe { *x.add(row * stride + column) });
                sums[row][odd] = _mm512_fmadd_ps(line, x, sums[row][odd]);
            }
        }
    }
    if columns % 2 == 1 {
        let column = columns - 1;
        // SAFETY: as the caller promises.
        let line = unsafe { _mm512_loadu_ps(lines.add(column * step)) };
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = _mm512_set1_ps(unsafe { *x.add(row * stride + column) });
            sums[row][0] = _mm512_fmadd_ps(line, x, sums[row][0]);
        }
    }
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        add_to(out, _mm512_add_ps(even, odd));
    }
}

/// See [`super::portable::widen`]; for weights of 16 bits.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn widen(form: Form, tile: &[u8], first: usize, lines: &mut [Lanes]) {
    let from = &tile[first * 2 * TILE..];
    if form == Form::F16 {
        for (line, of_line) in lines.iter_mut().zip(from.as_chunks::<32>().0) {
            store_ps(line, halves(of_line));
        }
        return;
    }
    for ([even, odd], pairs) in lines.as_chunks_mut::<2>().0.iter_mut().zip(from.as_chunks().0) {
        let (a, b) = pair_of_bf16(load(pairs));
        store_ps(even, a);
        store_ps(odd, b);
    }
}

/// The lower and the upper bf16 of sixteen pairs.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pair_of_bf16(pairs: __m512i) -> (__m512, __m512) {
    (
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
        _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))),
    )
}

/// Lines of `across` pairs of bf16, a multiple of sixteen, as two lines of f32 each.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn widen_pairs(pairs: &[[u16; 2]], across: usize, lines: &mut [f32]) {
    for (pairs, lines) in pairs.chunks_exact(across).zip(lines.chunks_exact_mut(2 * across)) {
        let (even, odd) = lines.split_at_mut(across);
        let to = even.as_chunks_mut::<TILE>().0.iter_mut().zip(odd.as_chunks_mut::<TILE>().0);
        for (pairs, (even, odd)) in pairs.as_chunks::<TILE>().0.iter().zip(to) {
            // SAFETY: sixteen pairs of two bytes each are there to be read, and need no alignment.
            let (a, b) = pair_of_bf16(unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) });
            store_ps(even, a);
            store_ps(odd, b);
        }
    }
}

/// A row's quants, in blocks of 32 by fours, and its scales, one a block.
type Row<'a> = (&'a [[[i8; 4]; 8]], &'a [f32]);

/// Rows from `first` on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const ROWS: usize>(x: Int8<'_>, first: usize) -> [Row<'_>; ROWS] {
    let blocks = x.columns / BLOCK;
    std::array::from_fn(|row| {
        let quants = &x.quants[(first + row) * x.columns..][..x.columns];
        let scales = &x.scales[(first + row) * blocks..][..blocks];
        (quants.as_chunks::<4>().0.as_chunks::<8>().0, scales)
    })
}

/// The offsets of both halves of each block, of rows from `first` on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn offsets<const ROWS: usize>(x: Int8<'_>, first: usize) -> [&[[i16; 2]]; ROWS] {
    let blocks = x.columns / BLOCK;
    std::array::from_fn(|row| {
        x.offsets[(first + row) * 2 * blocks..][..2 * blocks].as_chunks::<2>().0
    })
}

/// See [`super::portable::q8_0`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q8_0(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        q8_0_rows::<ROWS>(tile, x, first, group)
    });
}

/// The CPU multiplies unsigned with signed bytes, so weights are made 128 too large: their sign bit is turned. What that adds is
/// 128 times the sum of the activations, and offsets are minus 16 times the sums of their halves: sums begin with that.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8_0_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / BLOCK;
    let (rows, offsets) = (rows::<ROWS>(x, first), offsets::<ROWS>(x, first));
    let (quants, scales) = tile.split_at(x.columns * TILE);
    let sign = _mm512_set1_epi8(-128);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    let lines = quants.as_chunks::<64>().0.as_chunks::<8>().0;
    let scales = scales.as_chunks::<32>().0;
    for (block, (lines, scale)) in lines[..blocks].iter().zip(&scales[..blocks]).enumerate() {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            let [a, b] = offsets[row][block];
            sums[row] = _mm512_set1_epi32(8 * (i32::from(a) + i32::from(b)));
        }
        for (group, line) in lines.iter().enumerate() {
            let weights = _mm512_xor_si512(load(line), sign);
            for row in 0..ROWS {
                let x = four(&rows[row].0[block][group]);
                sums[row] = _mm512_dpbusd_epi32(sums[row], weights, x);
            }
        }
        let scale = halves(scale);
        for row in 0..ROWS {
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(rows[row].1[block]));
            totals[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, totals[row]);
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, totals);
    }
}

/// See [`super::portable::q4_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q4_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [6 1 2 3 4 5], |first, group: ROWS| q4_k_rows::<ROWS>(tile, x, first, group));
}

/// The sum of a run is at most 32 x 15 x 127, and times its scale, at most 63, still exact in f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4_k_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / BLOCK;
    let rows = rows::<ROWS>(x, first);
    let sums_of: [&[f32]; ROWS] =
        std::array::from_fn(|row| &x.sums[(first + row) * blocks..][..blocks]);
    let low_bits = _mm512_set1_epi8(15);
    for (i, block) in tile.as_chunks::<{ Q4K::BYTES }>().0.iter().enumerate() {
        let lines = block[..Q4K::LOW].as_chunks::<64>().0.as_chunks::<8>().0;
        let (mut totals, mut minima) = ([_mm512_setzero_ps(); ROWS], [_mm512_setzero_ps(); ROWS]);
        for (pair, lines) in lines.iter().enumerate() {
            let mut of_runs = [[_mm512_setzero_si512(); ROWS]; 2];
            for (group, line) in lines.iter().enumerate() {
                let both = load(line);
                let even = _mm512_and_si512(both, low_bits);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_bits);
                for row in 0..ROWS {
                    let x = &rows[row].0[i * 8 + 2 * pair..][..2];
                    let [a, b] = [four(&x[0][group]), four(&x[1][group])];
                    of_runs[0][row] = _mm512_dpbusd_epi32(of_runs[0][row], even, a);
                    of_runs[1][row] = _mm512_dpbusd_epi32(of_runs[1][row], odd, b);
                }
            }
            let scales = scales_and_minima(block, pair);
            for (odd, (of_run, (scale, minimum))) in of_runs.iter().zip(scales).enumerate() {
                let run = i * 8 + 2 * pair + odd;
                for row in 0..ROWS {
                    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(of_run[row]), scale);
                    let of_x = _mm512_set1_ps(rows[row].1[run]);
                    totals[row] = _mm512_fmadd_ps(products, of_x, totals[row]);
                    let sum = _mm512_set1_ps(sums_of[row][run]);
                    minima[row] = _mm512_fmadd_ps(minimum, sum, minima[row]);
                }
            }
        }
        let (scale, of_minima) = block_scales(block);
        for (row, out) in out.iter_mut().enumerate() {
            let sums = _mm512_mul_ps(scale, totals[row]);
            add_to(out, _mm512_fnmadd_ps(of_minima, minima[row], sums));
        }
    }
}

/// Scales and minima of two runs of 32 columns of a block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scales_and_minima(block: &[u8; Q4K::BYTES], pair: usize) -> [(__m512, __m512); 2] {
    let low = block[Q4K::LOW..Q4K::HIGH].as_chunks::<TILE>().0.as_chunks::<2>().0;
    let high = block[Q4K::HIGH..Q4K::SCALES].as_chunks::<TILE>().0;
    let high = _mm512_cvtepu8_epi32(load_16(&high[pair]));
    let (four_bits, two_bits) = (_mm512_set1_epi32(15), _mm512_set1_epi32(0x30));
    let join = |low: &[u8; TILE], scale: __m512i, minimum: __m512i| {
        let low = _mm512_cvtepu8_epi32(load_16(low));
        let scale =
            _mm512_or_si512(_mm512_and_si512(low, four_bits), _mm512_and_si512(scale, two_bits));
        let minimum =
            _mm512_or_si512(_mm512_srli_epi32::<4>(low), _mm512_and_si512(minimum, two_bits));
        (_mm512_cvtepi32_ps(scale), _mm512_cvtepi32_ps(minimum))
    };
    let [even, odd] = &low[pair];
    [
        join(even, _mm512_slli_epi32::<4>(high), _mm512_slli_epi32::<2>(high)),
        join(odd, high, _mm512_srli_epi32::<2>(high)),
    ]
}

/// A block's scale, and that of its minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn block_scales(block: &[u8; Q4K::BYTES]) -> (__m512, __m512) {
    let scales = block[Q4K::SCALES..].as_chunks::<32>().0;
    (halves(&scales[0]), halves(&scales[1]))
}

/// See [`super::portable::q6_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q6_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [4 1 2 3], |first, group: ROWS| q6_k_rows::<ROWS>(tile, x, first, group));
}

/// Weights are 0 to 63, and 32 too large: sums begin with what takes that off. Two of them, each at most 16 x 32 x 127, are still
/// exact in f32 once they are multiplied with their scales, at most 128, and added.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q6_k_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let (rows, offsets) = (rows::<ROWS>(x, first), offsets::<ROWS>(x, first));
    let (runs, scales) = tile.split_at(x.columns / SUPER * Q6K::BYTES);
    let scales = scales.as_chunks::<32>().0;
    for (i, block) in runs.as_chunks::<{ Q6K::BYTES }>().0.iter().enumerate() {
        let lines = block[..Q6K::SCALES].as_chunks::<64>().0.as_chunks::<3>().0;
        let of_runs = block[Q6K::SCALES..].as_chunks::<TILE>().0;
        let mut totals = [_mm512_setzero_ps(); ROWS];
        for pair in 0..8 {
            let mut products = [_mm512_setzero_ps(); ROWS];
            for odd in 0..2 {
                let run = 2 * pair + odd;
                let weights = sixes(&lines[run]);
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(&of_runs[run])));
                for row in 0..ROWS {
                    let x = &rows[row].0[i * 8 + pair];
                    let offset = i32::from(offsets[row][i * 8 + pair][odd]);
                    let mut sum = _mm512_set1_epi32(2 * offset);
                    for (group, weights) in weights.iter().enumerate() {
                        sum = _mm512_dpbusd_epi32(sum, *weights, four(&x[4 * odd + group]));
                    }
                    products[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, products[row]);
                }
            }
            for row in 0..ROWS {
                let of_x = _mm512_set1_ps(rows[row].1[i * 8 + pair]);
                totals[row] = _mm512_fmadd_ps(products[row], of_x, totals[row]);
            }
        }
        let scale = halves(&scales[i]);
        for (row, out) in out.iter_mut().enumerate() {
            add_to(out, _mm512_mul_ps(scale, totals[row]));
        }
    }
}

/// The weights of a run of 16 columns, by fours, 0 to 63.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sixes([high, a, b]: &[[u8; 64]; 3]) -> [__m512i; 4] {
    let (low_bits, high_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let (high, a, b) = (load(high), load(a), load(b));
    let join = |low: __m512i, high: __m512i| {
        _mm512_or_si512(_mm512_and_si512(low, low_bits), _mm512_and_si512(high, high_bits))
    };
    [
        join(a, _mm512_slli_epi16::<4>(high)),
        join(_mm512_srli_epi16::<4>(a), _mm512_slli_epi16::<2>(high)),
        join(b, high),
        join(_mm512_srli_epi16::<4>(b), _mm512_srli_epi16::<2>(high)),
    ]
}

/// See [`super::portable::round_panel`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn round_panel(lines: &[Lanes], panel: &mut Panel) {
    let mut most = _mm512_setzero_ps();
    for line in lines {
        most = _mm512_max_ps(most, _mm512_abs_ps(load_ps(line)));
    }
    let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(most, _mm512_setzero_ps());
    let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(WEIGHT_16), most);
    for ([a, b], quants) in lines.as_chunks::<2>().0.iter().zip(&mut panel.quants) {
        let a = _mm512_cvtps_epi32(_mm512_mul_ps(load_ps(a), inverse));
        let b = _mm512_cvtps_epi32(_mm512_mul_ps(load_ps(b), inverse));
        let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b));
        // SAFETY: 32 numbers of two bytes are there to be written, and need no alignment.
        unsafe { _mm512_storeu_si512(quants.as_mut_ptr().cast(), both) };
    }
    store_ps(&mut panel.scales, _mm512_div_ps(most, _mm512_set1_ps(WEIGHT_16)));
}

/// See [`super::portable::panel`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn panel(panel: &Panel, x: Int16<'_>, out: &mut [Lanes]) {
    in_groups!(out, [12 1 2 3 4 5 6 7 8 9 10 11], |first, group: ROWS| {
        panel_rows::<ROWS>(panel, x, first, group)
    });
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    let mut sums = [_mm512_setzero_si512(); ROWS];
    for (i, line) in panel.quants[..pairs].iter().enumerate() {
        // SAFETY: a line is 64 bytes, read without alignment.
        let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        for row in 0..ROWS {
            // SAFETY: a row has `pairs` pairs from here on, and a pair needs no alignment.
            let x = unsafe { rows[row].cast::<i32>().add(i).read_unaligned() };
            sums[row] = _mm512_dpwssd_epi32(sums[row], line, _mm512_set1_epi32(x));
        }
    }
    let scale = load_ps(&panel.scales);
    for (row, out) in out.iter_mut().enumerate() {
        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[first + row]));
        store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, load_ps(out)));
    }
}

/// See [`super::inputs::Inputs::make`]; the compiler's own vectors of the plain loop gather single numbers.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn to_int8(
    values: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    offsets: &mut [i16],
) {
    /// Every NaN and both infinities.
    const NOT_FINITE: i32 = 0b1001_1001;
    let blocks = values.as_chunks::<TILE>().0.as_chunks::<2>().0;
    let quants = quants.as_chunks_mut::<TILE>().0.as_chunks_mut::<2>().0;
    let about = scales.iter_mut().zip(sums).zip(offsets.as_chunks_mut::<2>().0);
    for ((values, quants), ((scale, sum), offsets)) in blocks.iter().zip(quants).zip(about) {
        let values = [load_ps(&values[0]), load_ps(&values[1])];
        let extents = values.map(|half| _mm512_abs_ps(half));
        let most = _mm512_reduce_max_ps(_mm512_max_ps(extents[0], extents[1]));
        let inverse = _mm512_set1_ps(if most > 0.0 { 127.0 / most } else { 0.0 });
        let mut of_halves = [0; 2];
        for half in 0..2 {
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(values[half], inverse));
            // SAFETY: sixteen bytes are there to be written, and need no alignment.
            unsafe {
                _mm_storeu_si128(quants[half].as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded));
            }
            of_halves[half] = _mm512_reduce_add_epi32(rounded);
        }
        let wild = values.map(|half| _mm512_fpclass_ps_mask::<NOT_FINITE>(half));
        *scale = if wild == [0; 2] { most / 127.0 } else { f32::NAN };
        *sum = *scale * of_halves[0].wrapping_add(of_halves[1]) as f32;
        *offsets = of_halves.map(|half| half.wrapping_mul(-16) as i16);
    }
}

/// The sum of every number of four rows of lines, for what reads memory and does nothing else.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sum(rows: [&[[u64; 8]]; 4]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 4];
    let [a, b, c, d] = rows;
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (sum, line) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = _mm512_add_epi64(*sum, load(bytemuck::cast_ref(line)));
        }
    }
    let [a, b, c, d] = sums.map(|sum| _mm512_reduce_add_epi64(sum) as u64);
    a.wrapping_add(b).wrapping_add(c.wrapping_add(d))
}

/// Sums that are kept going at once: two a clock, each of which takes five clocks and more.
const SUMS: usize = 16;

/// Multiply-adds as in [`plain`]; the operations of a turn.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_f32(turns: usize) -> usize {
    let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, y, *sum));
    }
    black_box(sums);
    SUMS * 2 * 16
}

/// Multiply-adds as in [`q8_0`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_int8(turns: usize) -> usize {
    let (x, y) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    let mut sums = [_mm512_set1_epi32(black_box(1)); SUMS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, x, y));
    }
    black_box(sums);
    SUMS * 2 * 64
}

/// Multiply-adds as in [`panel`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_int16(turns: usize) -> usize {
    let (x, y) = (_mm512_set1_epi16(black_box(3)), _mm512_set1_epi16(black_box(5)));
    let mut sums = [_mm512_set1_epi32(black_box(1)); SUMS];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpwssd_epi32(*sum, x, y));
    }
    black_box(sums);
    SUMS * 2 * 32
}
