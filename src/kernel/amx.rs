//! Products of many rows with a matrix unit for bf16, AMX: sixteen rows of activations with sixteen
//! rows of weights, 32 columns in one instruction. Weights of a tile are made bf16 once for all
//! rows, or are read as they lie where they are bf16.
//!
//! Results do not depend on how many rows and tiles there are: each is summed over the columns in
//! order, in f32.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;

use super::avx512::{block_scales, bytes_ps, halves, load, load_16, scales_and_minima, sixes};
use super::inputs::Square;
use super::portable::Lanes;
use super::tiles::{BLOCK, Form, Q4K, Q6K, Q8_0_BYTES, TILE, of_two};

/// Bytes of a square, and of its lines.
const SQUARE: usize = size_of::<Square>();
const LINE: usize = SQUARE / TILE;

/// How the unit's registers are used: all eight as squares.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    first_row: u8,
    reserved: [u8; 14],
    bytes_a_row: [u16; 16],
    rows: [u8; 16],
}

static SQUARES: Configuration = {
    let (mut bytes_a_row, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (bytes_a_row[register], rows[register]) = (LINE as u16, TILE as u8);
        register += 1;
    }
    Configuration { palette: 1, first_row: 0, reserved: [0; 14], bytes_a_row, rows }
};

/// What a thread made of weights, kept for the next.
#[derive(Default)]
struct Scratch {
    weights: Vec<Square>,
    /// Where the products of a tile that there is not would go.
    spare: Vec<Lanes>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The unit of this thread, configured while this lives.
pub(super) struct Unit {
    /// Threads have units of their own.
    stays: PhantomData<*const ()>,
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: gives up what was configured.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// `sums[tile][row] = x[row] · weights[tile]`: `x` is `[rows / 16, columns / 32]`, rounded up, and
/// `sums` have as many rows.
///
/// # Safety
/// The CPU has AVX-512 with bf16 and AMX, and the system lets the process use it.
pub(super) unsafe fn products(
    tiles: &[(Form, &[u8])],
    columns: usize,
    x: &[Square],
    sums: &mut [&mut [Lanes]],
) {
    let across = columns / BLOCK;
    assert_eq!(tiles.len(), sums.len(), "a result for each tile");
    SCRATCH.with_borrow_mut(|Scratch { weights, spare }| {
        weights.resize(weights.len().max(tiles.len() * across), Square::ZERO);
        for (&(form, tile), squares) in tiles.iter().zip(weights.chunks_exact_mut(across)) {
            if form != Form::Bf16 {
                // SAFETY: the CPU has the instructions, as the caller promises.
                unsafe { narrow(form, tile, squares) };
            }
        }
        let made: &[u8] = bytemuck::cast_slice(weights);
        let bytes = |number: usize| match tiles[number] {
            (Form::Bf16, tile) => &tile[..across * SQUARE],
            (Form::F32 | Form::F16 | Form::Q8_0 | Form::Q4K | Form::Q6K, _) => {
                &made[number * across * SQUARE..][..across * SQUARE]
            }
        };
        spare.resize(x.len() / across * TILE, [0.0; TILE]);
        // SAFETY: as the caller promises.
        let unit = unsafe { Unit::new() };
        // Two rows of squares meet all tiles before the next two: they stay near.
        for (number, x) in x.chunks(2 * across).enumerate() {
            for (pair, sums) in sums.chunks_mut(2).enumerate() {
                let second = (2 * pair + 1).min(tiles.len() - 1);
                let b = [bytes(2 * pair), bytes(second)];
                let (c0, rest) = sums.split_first_mut().expect("chunks are not empty");
                let c1 = rest.first_mut().map_or(spare.as_mut_slice(), |sums| sums);
                let at = number * 2 * TILE..number * 2 * TILE + x.len() / across * TILE;
                unit.rows(x, b, [&mut c0[at.clone()], &mut c1[at]]);
            }
        }
    });
}

impl Unit {
    /// # Safety
    /// As of [`products`].
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the configuration is valid, and the CPU has the unit, as the caller promises.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SQUARES, options(nostack, readonly)) };
        Self { stays: PhantomData }
    }

    /// `sums[i][row] = x[row] · weights[i]`: `x` is `[rows / 16, columns / 32]`.
    pub(super) fn products(&self, x: &[Square], weights: [&[u8]; 2], [c0, c1]: [&mut [Lanes]; 2]) {
        let across = weights[0].len() / SQUARE;
        let sums = c0.chunks_mut(2 * TILE).zip(c1.chunks_mut(2 * TILE));
        for (x, (c0, c1)) in x.chunks(2 * across).zip(sums) {
            self.rows(x, weights, [c0, c1]);
        }
    }

    /// `sums[chunk][row] += x[row] · weights[chunk]` over 32 columns, where `weights` are
    /// `[16][chunks][16][2]`, and `x` is `[rows / 16]`.
    pub(super) fn add(&self, x: &[Square], weights: &[u8], sums: &mut [Lanes]) {
        let rows = x.len() * TILE;
        let chunks = sums.len() / rows;
        assert!(sums.len() == chunks * rows && weights.len() == chunks * SQUARE);
        for (chunk, sums) in sums.chunks_exact_mut(rows).enumerate() {
            for (x, sums) in x.iter().zip(sums.as_chunks_mut::<TILE>().0) {
                // SAFETY: reads a square of activations, one of weights whose lines are those of a
                // chunk, all within what was asserted, and adds to a square of
                // sums.
                unsafe {
                    asm!(
                        "tileloadd tmm0, [{c} + {line}]",
                        "tileloadd tmm4, [{a} + {line}]",
                        "tileloadd tmm6, [{b} + {stride}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tilestored [{c} + {line}], tmm0",
                        a = in(reg) x,
                        b = in(reg) weights[chunk * LINE..].as_ptr(),
                        c = in(reg) sums.as_mut_ptr(),
                        line = in(reg) LINE,
                        stride = in(reg) chunks * LINE,
                        out("tmm0") _, out("tmm4") _, out("tmm6") _,
                        options(nostack),
                    );
                }
            }
        }
    }

    /// One or two rows of squares, with two of weights; a sum for each row of activations.
    fn rows(&self, x: &[Square], weights: [&[u8]; 2], sums: [&mut [Lanes]; 2]) {
        let across = weights[0].len() / SQUARE;
        let rows = x.len() / across;
        assert!(weights.iter().all(|weights| weights.len() == across * SQUARE) && across > 0);
        assert!(sums.iter().all(|sums| sums.len() == rows * TILE));
        let [b0, b1] = weights.map(<[u8]>::as_ptr);
        let [c0, c1] = sums.map(<[Lanes]>::as_mut_ptr);
        match rows {
            // SAFETY: reads `across` squares from the beginning of a row of them and from both
            // weights, and writes two squares, one to each of the sums; all just
            // counted.
            1 => unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm4, [{a0} + {line}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {a0}, {square}",
                    "add {b0}, {square}",
                    "add {b1}, {square}",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{c0} + {line}], tmm0",
                    "tilestored [{c1} + {line}], tmm1",
                    a0 = inout(reg) x.as_ptr() => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    c0 = in(reg) c0,
                    c1 = in(reg) c1,
                    count = inout(reg) across => _,
                    line = in(reg) LINE,
                    square = const SQUARE,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            },
            // SAFETY: as above, for two rows of squares, and two squares of each of the sums.
            2 => unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a0} + {line}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {line}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, {square}",
                    "add {a1}, {square}",
                    "add {b0}, {square}",
                    "add {b1}, {square}",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{c0} + {line}], tmm0",
                    "tilestored [{c1} + {line}], tmm1",
                    "tilestored [{c0} + {line} + {square}], tmm2",
                    "tilestored [{c1} + {line} + {square}], tmm3",
                    a0 = inout(reg) x.as_ptr() => _,
                    a1 = inout(reg) x[across..].as_ptr() => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    c0 = in(reg) c0,
                    c1 = in(reg) c1,
                    count = inout(reg) across => _,
                    line = in(reg) LINE,
                    square = const SQUARE,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            },
            rows => unreachable!("{rows} rows of squares"),
        }
    }
}

/// Multiply-adds of two rows of squares with two of weights; the operations of a turn.
///
/// # Safety
/// As of [`products`].
pub(super) unsafe fn peak_bf16(turns: usize) -> usize {
    // SAFETY: as the caller promises.
    let _unit = unsafe { Unit::new() };
    // SAFETY: registers of the unit alone, which begin as zeros. At least one turn, so that the
    // count ends.
    unsafe {
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {count}",
            "jnz 2b",
            count = inout(reg) turns.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
    4 * 2 * TILE * TILE * BLOCK
}

/// Rounds the weights of a tile to squares of bf16, as [`Form::Bf16`] has them.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn narrow(form: Form, tile: &[u8], squares: &mut [Square]) {
    let order = alternate();
    match form {
        Form::F32 | Form::Bf16 => unreachable!("not narrowed"),
        Form::F16 => {
            let of_squares = tile.as_chunks::<32>().0.as_chunks::<2>().0.as_chunks::<TILE>().0;
            for (square, lines) in squares.iter_mut().zip(of_squares) {
                for (line, [even, odd]) in square.0.iter_mut().zip(lines) {
                    put(order, line, halves(even), halves(odd));
                }
            }
        }
        Form::Q8_0 => {
            for (block, square) in squares.iter_mut().enumerate() {
                let (scale, quants) = of_two::<Q8_0_BYTES>(tile, block);
                let scale = halves(scale);
                let lines = quants.as_chunks::<64>().0;
                for (to, line) in square.0.as_chunks_mut::<2>().0.iter_mut().zip(lines) {
                    let [a, b, c, d] = each_signed_byte(load(line));
                    put(order, &mut to[0], _mm512_mul_ps(a, scale), _mm512_mul_ps(b, scale));
                    put(order, &mut to[1], _mm512_mul_ps(c, scale), _mm512_mul_ps(d, scale));
                }
            }
        }
        Form::Q4K => {
            let low_bits = _mm512_set1_epi8(15);
            let blocks = tile.as_chunks::<{ Q4K::BYTES }>().0;
            for (squares, block) in squares.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
                let (scale, of_minima) = block_scales(block);
                let lines = block[Q4K::NIBBLES..].as_chunks::<64>().0.as_chunks::<8>().0;
                let [scales, minima] = scales_and_minima(block);
                let pairs = squares.as_chunks_mut::<2>().0.iter_mut().zip(lines);
                for (pair, ([even, odd], lines)) in pairs.enumerate() {
                    let [of_even, of_odd] = [0, 1].map(|odd| {
                        let [of_run, minimum] = [&scales[odd], &minima[odd]]
                            .map(|bytes| bytes_ps(&bytes.as_chunks::<TILE>().0[pair]));
                        (_mm512_mul_ps(scale, of_run), _mm512_mul_ps(of_minima, minimum))
                    });
                    let (even, odd) = (even.0.as_chunks_mut::<2>().0, odd.0.as_chunks_mut::<2>().0);
                    for ((even, odd), line) in even.iter_mut().zip(odd).zip(lines) {
                        let both = load(line);
                        put_four(order, even, _mm512_and_si512(both, low_bits), of_even);
                        let upper = _mm512_srli_epi16::<4>(both);
                        put_four(order, odd, _mm512_and_si512(upper, low_bits), of_odd);
                    }
                }
            }
        }
        Form::Q6K => {
            for (i, squares) in squares.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (scale, block) = of_two::<{ Q6K::BYTES }>(tile, i);
                let scale = halves(scale);
                let of_runs = block[..Q6K::RUNS].as_chunks::<TILE>().0;
                let lines = block[Q6K::RUNS..].as_chunks::<64>().0.as_chunks::<3>().0;
                // A square is two runs.
                let to = bytemuck::cast_slice_mut::<Square, [u16; BLOCK]>(squares);
                let to = to.as_chunks_mut::<2>().0.as_chunks_mut::<4>().0;
                for ((to, lines), of_run) in to.iter_mut().zip(lines).zip(of_runs) {
                    let of_run = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(of_run)));
                    let of_run = _mm512_mul_ps(scale, of_run);
                    let zero = _mm512_mul_ps(of_run, _mm512_set1_ps(32.0));
                    for (to, four) in to.iter_mut().zip(sixes(lines)) {
                        put_four(order, to, four, (of_run, zero));
                    }
                }
            }
        }
    }
}

/// Four columns of unsigned bytes, each times the first of `of_run` less the second.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn put_four(
    order: __m512i,
    to: &mut [[u16; BLOCK]; 2],
    four: __m512i,
    (scale, offset): (__m512, __m512),
) {
    let byte = _mm512_set1_epi32(255);
    let a = _mm512_cvtepi32_ps(_mm512_and_si512(four, byte));
    let b = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<8>(four), byte));
    let c = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<16>(four), byte));
    let d = _mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(four));
    let (a, b) = (_mm512_fmsub_ps(a, scale, offset), _mm512_fmsub_ps(b, scale, offset));
    let (c, d) = (_mm512_fmsub_ps(c, scale, offset), _mm512_fmsub_ps(d, scale, offset));
    put(order, &mut to[0], a, b);
    put(order, &mut to[1], c, d);
}

/// The four bytes of each lane as numbers.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn each_signed_byte(four: __m512i) -> [__m512; 4] {
    [
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(four))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(four))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(four))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(four)),
    ]
}

/// Rounds the weights of two columns to pairs.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn put(order: __m512i, line: &mut [u16; BLOCK], even: __m512, odd: __m512) {
    // SAFETY: 32 numbers of two bytes in both vectors.
    let both: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even)) };
    // SAFETY: 32 numbers of two bytes are there to be written, and need no alignment.
    unsafe {
        _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, both));
    }
}

/// 0, 16, 1, 17, ...: puts the numbers of the lower half of a register beside those of the upper.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn alternate() -> __m512i {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let upper = _mm512_add_epi32(lanes, _mm512_set1_epi32(TILE as i32));
    _mm512_or_si512(lanes, _mm512_slli_epi32::<16>(upper))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::isa::Isa;
    use super::super::skipped;
    use super::super::tests::Made;
    use super::*;

    /// The unit itself is tested with all other tiers. This tells an error of what is made for it
    /// from one of its own.
    #[test]
    fn weights_are_narrowed_as_their_layout_says() {
        if !Isa::tested().into_iter().any(Isa::multiplies_bf16) {
            return skipped("weights were not narrowed: this CPU does not multiply bf16");
        }
        for form in [Form::F16, Form::Q8_0, Form::Q4K, Form::Q6K] {
            for columns in [256, 512, 768] {
                let made = Made::new(form, [TILE, columns], 5);
                let tile = made.tiles().tile(0);
                let mut squares = vec![Square::ZERO; columns / BLOCK];
                // SAFETY: the CPU has AVX-512 with bf16.
                unsafe { narrow(form, tile, &mut squares) };
                for column in 0..columns {
                    let line = squares[column / BLOCK].0[column % BLOCK / 2];
                    for row in 0..TILE {
                        let exact = super::super::tiles::weight(form, tile, column, row);
                        let narrowed = bf16::from_bits(line[2 * row + column % 2]).to_f32();
                        let near = (narrowed - exact).abs() <= exact.abs() / 256.0 + 1e-6;
                        assert!(near, "{form:?} {column} {row}: {narrowed} of {exact}");
                    }
                }
            }
        }
    }
}
