//! Products of a tile with AVX-512 and its dot products of integers; the definitions are in
//! [`super::portable`].
//!
//! A line of a tile is a register, and there are 32 of them: more rows of activations go together
//! than with AVX2, and a byte of weights meets a byte of activations in one instruction, four to a
//! lane, that adds to a sum of 32 bits.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx2::{in_groups, not_of_16_bits};
use super::inputs::{Int8, Int16, Rounded, WEIGHT_16};
use super::portable::{Lanes, Panel};
use super::tiles::{BLOCK, Form, Q8_0_BYTES, TILE, of_two};

mod k_quants;

pub(super) use k_quants::{block_scales, bytes_ps, q4_k, q6_k, scales_and_minima, sixes};

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
pub(super) fn store_ps(values: &mut Lanes, v: __m512) {
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

/// Asks for what lies [`AHEAD`] of a line. Of an address that is not there it does nothing.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn ask_ahead(line: &[u8; 64]) {
    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast());
}

/// Bytes that are asked for before they are needed.
const AHEAD: usize = 4096;

/// Rows from which multiplying keeps the CPU too busy to look ahead by itself. Fewer are slower
/// with its help.
const BUSY: usize = 3;

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
    in_groups!(out, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe { plain_rows::<ROWS>(lines, step, columns, &x[first * stride..], stride, group) }
    });
}

/// Even and odd columns have sums of their own, so that those of few rows wait less for one
/// another. Eight rows at most: they often lie a multiple of 4 KB apart, and as many lines of such
/// memory are what a set of the first-level cache holds.
///
/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
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
    match form {
        Form::F16 => {
            for (line, of_line) in lines.iter_mut().zip(from.as_chunks::<32>().0) {
                store_ps(line, halves(of_line));
            }
        }
        Form::Bf16 => {
            let twos = lines.as_chunks_mut::<2>().0.iter_mut();
            for ([even, odd], pairs) in twos.zip(from.as_chunks().0) {
                let (a, b) = pair_of_bf16(load(pairs));
                store_ps(even, a);
                store_ps(odd, b);
            }
        }
        Form::F32 | Form::Q8_0 | Form::Q4K | Form::Q6K => not_of_16_bits(form),
    }
}

/// Weights of 16 bits with f32, each widened as it is read; see [`super::portable::widen`] and
/// [`super::portable::plain`]. A line is two columns of sixteen rows, the next one `step` lines
/// after it; rows of `x` begin `stride` apart.
///
/// # Panics
/// When lines or rows are missing.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn wide(
    form: Form,
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes],
) {
    // Checked once for all that is read below.
    assert!(columns == 0 || lines.len() > (columns.div_ceil(2) - 1) * step);
    assert!(out.is_empty() || x.len() >= (out.len() - 1) * stride + columns);
    in_groups!(out, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        let x = &x[first * stride..];
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe {
            match form {
                Form::F16 => wide_rows::<ROWS, true>(lines, step, columns, x, stride, group),
                Form::Bf16 => wide_rows::<ROWS, false>(lines, step, columns, x, stride, group),
                Form::F32 | Form::Q8_0 | Form::Q4K | Form::Q6K => not_of_16_bits(form),
            }
        }
    });
}

/// # Safety
/// There is a line for every two of `columns`, and `x` has `ROWS` rows of as many.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn wide_rows<const ROWS: usize, const IN_F16: bool>(
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes; ROWS],
) {
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    let columns_of = |pair: usize| {
        // SAFETY: as the caller promises.
        let line = unsafe { &*lines.add(pair * step) };
        if ROWS >= BUSY {
            ask_ahead(line);
        }
        if IN_F16 {
            let [even, odd] = line.as_chunks().0.as_array().expect("two columns of 32 bytes");
            (halves(even), halves(odd))
        } else {
            pair_of_bf16(load(line))
        }
    };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..columns / 2 {
        let (even, odd) = columns_of(pair);
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let [a, b] = unsafe { *x.add(row * stride + 2 * pair).cast::<[f32; 2]>() };
            sums[row][0] = _mm512_fmadd_ps(even, _mm512_set1_ps(a), sums[row][0]);
            sums[row][1] = _mm512_fmadd_ps(odd, _mm512_set1_ps(b), sums[row][1]);
        }
    }
    if columns % 2 == 1 {
        // What lies in the other half may be anything.
        let (even, _) = columns_of(columns / 2);
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = unsafe { *x.add(row * stride + columns - 1) };
            sums[row][0] = _mm512_fmadd_ps(even, _mm512_set1_ps(x), sums[row][0]);
        }
    }
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        add_to(out, _mm512_add_ps(even, odd));
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

/// Rows from `first` on. Where they begin, since their ends are not looked at again for every run:
/// it costs as much as the products.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const ROWS: usize>(x: Int8<'_>, first: usize) -> [*const Rounded; ROWS] {
    std::array::from_fn(|row| x.row(first + row).as_ptr())
}

/// A run of a row.
///
/// # Safety
/// The row has so many.
#[inline(always)]
unsafe fn run<'a>(row: *const Rounded, number: usize) -> &'a Rounded {
    // SAFETY: as the caller promises.
    unsafe { &*row.add(number) }
}

/// See [`super::portable::q8_0`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q8_0(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    // Those that read the tile from memory: the more go together, the less they wait. Eight are
    // enough to multiply what is in the cache.
    let (before, rest) = match out.split_first_chunk_mut::<16>() {
        Some((group, rest)) => {
            q8_0_rows::<16>(tile, x, 0, group);
            (16, rest)
        }
        None => (0, out),
    };
    in_groups!(rest, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        q8_0_rows::<ROWS>(tile, x, before + first, group)
    });
}

/// The CPU multiplies unsigned with signed bytes, so weights are made 128 too large: their sign bit
/// is turned. What that adds is 128 times the sum of the activations: sums begin with what takes it
/// off.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8_0_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / BLOCK;
    let rows = rows::<ROWS>(x, first);
    let sign = _mm512_set1_epi8(-128);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for block in 0..blocks {
        let (scale, quants) = of_two::<Q8_0_BYTES>(tile, block);
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            // SAFETY: a row has as many runs as a tile has blocks of 32 columns.
            sums[row] = _mm512_set1_epi32(unsafe { run(rows[row], block).minus_128 });
        }
        for (group, line) in quants.as_chunks::<64>().0.iter().enumerate() {
            if ROWS >= BUSY {
                ask_ahead(line);
            }
            let weights = _mm512_xor_si512(load(line), sign);
            for row in 0..ROWS {
                // SAFETY: as above.
                let x = four(unsafe { &run(rows[row], block).quants[group] });
                sums[row] = _mm512_dpbusd_epi32(sums[row], weights, x);
            }
        }
        let scale = halves(scale);
        for row in 0..ROWS {
            // SAFETY: as above.
            let of_x = _mm512_set1_ps(unsafe { run(rows[row], block).scale });
            let scale = _mm512_mul_ps(scale, of_x);
            totals[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, totals[row]);
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, totals);
    }
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

/// See [`super::inputs::Inputs::make`]; the compiler's own vectors of the plain loop gather single
/// numbers.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn to_int8(values: &[f32], runs: &mut [Rounded]) {
    /// Every NaN and both infinities.
    const NOT_FINITE: i32 = 0b1001_1001;
    for (values, run) in values.as_chunks::<TILE>().0.as_chunks::<2>().0.iter().zip(runs) {
        let values = values.each_ref().map(|half| load_ps(half));
        let extents = values.map(|half| _mm512_abs_ps(half));
        let most = _mm512_reduce_max_ps(_mm512_max_ps(extents[0], extents[1]));
        let inverse = _mm512_set1_ps(if most > 0.0 { 127.0 / most } else { 0.0 });
        let mut sums = [0; 2];
        let quants = run.quants.as_flattened_mut().as_chunks_mut::<TILE>().0;
        for ((value, quants), sum) in values.iter().zip(quants).zip(&mut sums) {
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(*value, inverse));
            // SAFETY: sixteen bytes are there to be written, and need no alignment.
            unsafe { _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded)) };
            *sum = _mm512_reduce_add_epi32(rounded);
        }
        let wild = values.map(|half| _mm512_fpclass_ps_mask::<NOT_FINITE>(half));
        run.scale = if wild == [0; 2] { most / 127.0 } else { f32::NAN };
        run.keep_sums(sums);
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
