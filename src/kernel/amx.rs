//! Products of many rows with a matrix unit for bf16, AMX: sixteen rows of activations with sixteen rows of weights, 32 columns in one
//! instruction. Weights of a tile are made bf16 once for all rows, or are read as they lie where they are bf16.
//!
//! Results do not depend on how many rows and tiles there are: each is summed over the columns in order, in f32.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use super::avx512::block_scales;
use super::avx512::halves;
use super::avx512::load;
use super::avx512::load_16;
use super::avx512::scales_and_minima;
use super::avx512::sixes;
use super::inputs::Square;
use super::portable::Lanes;
use super::tiles::BLOCK;
use super::tiles::Form;
use super::tiles::Q4K;
use super::tiles::Q6K;
use super::tiles::SUPER;
use super::tiles::TILE;

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

/// `sums[tile][row] = x[row] · weights[tile]`: `x` is `[rows / 16, columns / 32]`, rounded up, and `sums` have as many rows.
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
        weights.resize(weights.len().max(tiles.len() * across), bytemuck::Zeroable::zeroed());
        for (&(form, tile), squares) in tiles.iter().zip(weights.chunks_exact_mut(across)) {
            if form != Form::Bf16 {
                // SAFETY: the CPU has the instructions, as the caller promises.
                unsafe { narrow(form, tile, columns, squares) };
            }
        }
        let made: &[u8] = bytemuck::cast_slice(weights);
        let bytes = |number: usize| match tiles[number] {
            (Form::Bf16, tile) => &tile[..across * SQUARE],
            _ => &made[number * across * SQUARE..][..across * SQUARE],
        };
        spare.resize(x.len() / across * TILE, [0.0; TILE]);
        // SAFETY: the configuration is valid, and the CPU has the unit. All of its registers are given up: see `release`.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SQUARES, options(nostack, readonly)) };
        // Two rows of squares meet all tiles before the next two: they stay near.
        for (number, x) in x.chunks(2 * across).enumerate() {
            for (pair, sums) in sums.chunks_mut(2).enumerate() {
                let second = (2 * pair + 1).min(tiles.len() - 1);
                let b = [bytes(2 * pair), bytes(second)];
                let (c0, rest) = sums.split_first_mut().expect("chunks are not empty");
                let c1 = rest.first_mut().map_or(spare.as_mut_slice(), |sums| sums);
                let at = number * 2 * TILE..number * 2 * TILE + x.len() / across * TILE;
                // SAFETY: the unit is there and configured.
                unsafe { squares(x, b, [&mut c0[at.clone()], &mut c1[at]]) };
            }
        }
        // SAFETY: gives up what was configured above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    });
}

/// One or two rows of squares, with two of weights; a sum for each row of activations.
///
/// # Safety
/// The unit is there and configured.
unsafe fn squares(x: &[Square], weights: [&[u8]; 2], sums: [&mut [Lanes]; 2]) {
    let across = weights[0].len() / SQUARE;
    let rows = x.len() / across;
    assert!(weights.iter().all(|weights| weights.len() == across * SQUARE) && across > 0);
    assert!(sums.iter().all(|sums| sums.len() == rows * TILE));
    let [b0, b1] = weights.map(<[u8]>::as_ptr);
    let [c0, c1] = sums.map(<[Lanes]>::as_mut_ptr);
    match rows {
        // SAFETY: reads `across` squares from the beginning of a row of them and from both weights, and writes two squares, one to
        // each of the sums; all just counted.
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

/// Rounds the weights of a tile to squares of bf16, as [`Form::Bf16`] has them.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn narrow(form: Form, tile: &[u8], columns: usize, squares: &mut [Square]) {
    let mut lines = bytemuck::cast_slice_mut::<Square, [u16; BLOCK]>(squares).iter_mut();
    let mut put = |even: __m512, odd: __m512| {
        let line = lines.next().expect("a line for each pair of columns");
        put_pair(line, even, odd);
    };
    match form {
        Form::F32 | Form::Bf16 => unreachable!("not narrowed"),
        Form::F16 => {
            for [even, odd] in &tile.as_chunks::<32>().0.as_chunks::<2>().0[..columns / 2] {
                put(halves(even), halves(odd));
            }
        }
        Form::Q8_0 => {
            let (quants, scales) = tile.split_at(columns * TILE);
            let lines = quants.as_chunks::<64>().0.as_chunks::<8>().0;
            for (lines, scale) in lines.iter().zip(scales.as_chunks::<32>().0) {
                let scale = halves(scale);
                for line in lines {
                    let bytes = load(line);
                    let of = |upper: __m512i| {
                        let value = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(upper));
                        _mm512_mul_ps(value, scale)
                    };
                    put(of(_mm512_slli_epi32::<24>(bytes)), of(_mm512_slli_epi32::<16>(bytes)));
                    put(of(_mm512_slli_epi32::<8>(bytes)), of(bytes));
                }
            }
        }
        Form::Q4K => {
            let low_bits = _mm512_set1_epi8(15);
            for block in tile.as_chunks::<{ Q4K::BYTES }>().0 {
                let (scale, of_minima) = block_scales(block);
                let lines = block[..Q4K::LOW].as_chunks::<64>().0.as_chunks::<8>().0;
                for (pair, lines) in lines.iter().enumerate() {
                    let [even, odd] = scales_and_minima(block, pair);
                    for (odd, (of_run, minimum)) in [even, odd].into_iter().enumerate() {
                        let of_run = _mm512_mul_ps(scale, of_run);
                        let minimum = _mm512_mul_ps(of_minima, minimum);
                        for line in lines {
                            let both = load(line);
                            let upper = _mm512_srli_epi16::<4>(both);
                            let four = if odd == 0 { both } else { upper };
                            let four = _mm512_and_si512(four, low_bits);
                            let of = |quant| _mm512_fmsub_ps(quant, of_run, minimum);
                            let [a, b, c, d] = each_byte(four);
                            put(of(a), of(b));
                            put(of(c), of(d));
                        }
                    }
                }
            }
        }
        Form::Q6K => {
            let (runs, scales) = tile.split_at(columns / SUPER * Q6K::BYTES);
            let blocks = runs.as_chunks::<{ Q6K::BYTES }>().0.iter();
            for (block, scale) in blocks.zip(scales.as_chunks::<32>().0) {
                let scale = halves(scale);
                let lines = block[..Q6K::SCALES].as_chunks::<64>().0.as_chunks::<3>().0;
                let of_runs = block[Q6K::SCALES..].as_chunks::<TILE>().0;
                for (lines, of_run) in lines.iter().zip(of_runs) {
                    let of_run = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(of_run)));
                    let of_run = _mm512_mul_ps(scale, of_run);
                    let zero = _mm512_mul_ps(of_run, _mm512_set1_ps(32.0));
                    for four in sixes(lines) {
                        let of = |quant| _mm512_fmsub_ps(quant, of_run, zero);
                        let [a, b, c, d] = each_byte(four);
                        put(of(a), of(b));
                        put(of(c), of(d));
                    }
                }
            }
        }
    }
}

/// The four bytes of each lane as numbers.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn each_byte(four: __m512i) -> [__m512; 4] {
    let byte = _mm512_set1_epi32(255);
    [
        _mm512_cvtepi32_ps(_mm512_and_si512(four, byte)),
        _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<8>(four), byte)),
        _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<16>(four), byte)),
        _mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(four)),
    ]
}

/// Rounds the weights of two columns to pairs.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn put_pair(line: &mut [u16; BLOCK], even: __m512, odd: __m512) {
    // SAFETY: 32 numbers of two bytes in both vectors.
    let both: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even)) };
    let side_by_side = _mm512_permutexvar_epi16(alternate(), both);
    // SAFETY: 32 numbers of two bytes are there to be written, and need no alignment.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), side_by_side) };
}

/// 0, 16, 1, 17, ...
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn alternate() -> __m512i {
    const ORDER: [u16; BLOCK] = {
        let mut order = [0; BLOCK];
        let mut i = 0;
        while i < BLOCK {
            order[i] = (i / 2 + i % 2 * TILE) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 numbers of two bytes are there to be read, and need no alignment.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}

/// Multiply-adds of squares, of which four are summed at once as in [`products`]; the operations of a turn.
///
/// # Safety
/// The CPU has AMX with bf16, and the system lets the process use it.
pub(super) unsafe fn peak_bf16(turns: usize) -> usize {
    let zeros = [0u8; SQUARE];
    // SAFETY: the configuration is valid, the squares that are loaded are whole, and all of the unit's registers are given up
    // again at the end. The loop turns at least once.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm0, [{zeros} + {stride}]",
            "tileloadd tmm1, [{zeros} + {stride}]",
            "tilezero tmm4",
            "tilezero tmm5",
            "tilezero tmm6",
            "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm4, tmm0, tmm1",
            "tdpbf16ps tmm5, tmm0, tmm1",
            "tdpbf16ps tmm6, tmm0, tmm1",
            "tdpbf16ps tmm7, tmm0, tmm1",
            "dec {turns}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const SQUARES,
            zeros = in(reg) zeros.as_ptr(),
            stride = in(reg) LINE,
            turns = inout(reg) turns.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly)
        );
    }
    4 * 2 * TILE * TILE * BLOCK
}
