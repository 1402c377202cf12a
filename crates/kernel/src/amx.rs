//! GEMM with AMX: `tdpbf16ps` multiplies 16 rows of activations with 16 rows of weights over 32
//! columns, 16,384 operations per instruction. A panel of weights is dequantized to bf16 tiles once
//! for all rows; bf16 panels already have that layout.
//!
//! Sums are f32, in the order of the columns: results do not depend on how many rows and panels
//! there are.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;

use super::avx512::{
    block_scales, load, load_f16, load_u8_as_f32, load_u8x16, scales_and_minima, unpack_q6,
};
use super::operands::{AmxTile, F32x16, no_kernel};
use super::packed::{BLOCK, PANEL_ROWS, Q4K, Q6K, Q8_0_BYTES, WeightFormat, paired_block};

const TILE_BYTES: usize = size_of::<AmxTile>();
/// Bytes of a row of a tile.
const LINE: usize = TILE_BYTES / PANEL_ROWS;

/// Rows that are multiplied with all panels of a pass before the next ones.
const BLOCK_ROWS: usize = 2 * PANEL_ROWS;

/// Assembly that prefetches the sixteen lines of the tile `ahead` of a pointer.
macro_rules! prefetch_tile {
    ($pointer:literal) => {
        concat!(
            ".irp i,0,64,128,192,256,320,384,448,512,576,640,704,768,832,896,960\n",
            "prefetcht0 [{",
            $pointer,
            "} + {ahead} + \\i]\n",
            ".endr"
        )
    };
}

/// Operand of `ldtilecfg` (Intel's `__tile_config`).
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// All eight tile registers as 16 rows of 64 bytes.
static TILE_CONFIG: TileConfig = {
    let (mut bytes_per_row, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (bytes_per_row[register], rows[register]) = (LINE as u16, PANEL_ROWS as u8);
        register += 1;
    }
    TileConfig { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row, rows }
};

/// Buffers of a thread, reused.
#[derive(Default)]
struct Scratch {
    /// Weights dequantized to bf16.
    weights: Vec<AmxTile>,
    /// Sums of a block of rows.
    sums: Vec<F32x16>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The tile registers of this thread, configured as long as this value lives.
pub(super) struct TileRegisters {
    /// Not `Send`: tile registers belong to a thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        // SAFETY: `new` configured them; this returns them to their initial state.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Products of activations, `[rows / 16, columns / 32]`, rounded up, with panels of matrices of
/// `width` panels each. `epilogue(first_row, sums)` gets those of up to [`BLOCK_ROWS`] rows,
/// padding included: `[matrices, rows, width]`.
///
/// # Safety
/// The CPU has AVX512-BF16 and AMX-BF16, and the operating system permits the process to use AMX.
pub(super) unsafe fn gemm(
    panels: &[(WeightFormat, &[u8])],
    width: usize,
    columns: usize,
    x: &[AmxTile],
    mut epilogue: impl FnMut(usize, &mut [F32x16]),
) {
    let row_tiles = columns / BLOCK;
    SCRATCH.with_borrow_mut(|Scratch { weights, sums }| {
        weights.resize(weights.len().max(panels.len() * row_tiles), AmxTile::ZERO);
        for (&(format, panel), tiles) in panels.iter().zip(weights.chunks_exact_mut(row_tiles)) {
            if format != WeightFormat::Bf16 {
                // SAFETY: the CPU has the instructions, as the caller promises.
                unsafe { dequantize_to_bf16(format, panel, tiles) };
            }
        }
        let dequantized: &[u8] = bytemuck::cast_slice(weights);
        let bytes = |number: usize| match panels[number] {
            (WeightFormat::Bf16, panel) => &panel[..row_tiles * TILE_BYTES],
            _ => &dequantized[number * row_tiles * TILE_BYTES..][..row_tiles * TILE_BYTES],
        };
        sums.resize(sums.len().max(panels.len() * BLOCK_ROWS), [0.0; PANEL_ROWS]);
        // SAFETY: as the caller promises.
        let registers = unsafe { TileRegisters::new() };
        // Cache blocking: the sums of a block of rows and its tiles of activations stay in L1 or
        // L2 while it is multiplied with all panels.
        for (number, x) in x.chunks(BLOCK_ROWS / PANEL_ROWS * row_tiles).enumerate() {
            let rows = x.len() / row_tiles * PANEL_ROWS;
            let sums = &mut sums[..panels.len() * rows];
            for first in (0..panels.len()).step_by(2) {
                // The last panel may be alone, and is multiplied twice.
                let pair = [first, (first + 1).min(panels.len() - 1)];
                let at = pair.map(|panel| panel / width * rows * width + panel % width);
                registers.microkernel(x, pair.map(bytes), sums, at, width);
            }
            epilogue(number * BLOCK_ROWS, sums);
        }
    });
}

impl TileRegisters {
    /// # Safety
    /// As of [`gemm`].
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the configuration is valid, and the CPU has AMX, as the caller promises.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const TILE_CONFIG, options(nostack, readonly))
        };
        Self { not_send: PhantomData }
    }

    /// `sums[i][row] = x[row] · weights[i]`: `x` is `[rows / 16, columns / 32]`.
    pub(super) fn gemm(&self, x: &[AmxTile], weights: [&[u8]; 2], sums: &mut [F32x16]) {
        let row_tiles = weights[0].len() / TILE_BYTES;
        let rows = sums.len() / 2;
        for (number, x) in x.chunks(BLOCK_ROWS / PANEL_ROWS * row_tiles).enumerate() {
            let first = number * BLOCK_ROWS;
            self.microkernel(x, weights, sums, [first, rows + first], 1);
        }
    }

    /// `sums[chunk][row] += x[row] · weights[chunk]` over 32 columns, where `weights` are
    /// `[16][chunks][16][2]`, and `x` is `[rows / 16]`.
    pub(super) fn accumulate(&self, x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
        let rows = x.len() * PANEL_ROWS;
        let chunks = sums.len() / rows;
        assert!(sums.len() == chunks * rows && weights.len() == chunks * TILE_BYTES);
        for (chunk, sums) in sums.chunks_exact_mut(rows).enumerate() {
            for (x, sums) in x.iter().zip(sums.as_chunks_mut::<PANEL_ROWS>().0) {
                // SAFETY: reads a tile of activations and one of weights, `chunks` lines apart,
                // both within what was asserted, and adds to a tile of sums.
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

    /// `sums[at[i] + row * step] = x[row] · weights[i]`. Register blocking: 2 x 2 tiles of sums
    /// (tmm0 to tmm3), so that each of the four loads per step of 32 columns serves two
    /// `tdpbf16ps`; the last row of tiles may be alone. Tiles lie in L2: with two rows, those two
    /// steps ahead are prefetched.
    fn microkernel(
        &self,
        x: &[AmxTile],
        weights: [&[u8]; 2],
        sums: &mut [F32x16],
        at: [usize; 2],
        step: usize,
    ) {
        let row_tiles = weights[0].len() / TILE_BYTES;
        let rows = x.len() / row_tiles;
        assert!(
            weights.iter().all(|weights| weights.len() == row_tiles * TILE_BYTES) && row_tiles > 0
        );
        assert!(at.iter().all(|at| at + (rows * PANEL_ROWS - 1) * step < sums.len()));
        let [b0, b1] = weights.map(<[u8]>::as_ptr);
        // From one base: panels of the same matrix lie between each other's lines.
        let sums = sums.as_mut_ptr();
        let [c0, c1] = at.map(|at| sums.wrapping_add(at));
        let stride = step * size_of::<F32x16>();
        match rows {
            // SAFETY: reads `row_tiles` tiles of activations and of both weights, and writes one
            // tile to each of the sums; their sizes were asserted above.
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
                    "add {a0}, {tile}",
                    "add {b0}, {tile}",
                    "add {b1}, {tile}",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{c0} + {stride}], tmm0",
                    "tilestored [{c1} + {stride}], tmm1",
                    a0 = inout(reg) x.as_ptr() => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    c0 = in(reg) c0,
                    c1 = in(reg) c1,
                    count = inout(reg) row_tiles => _,
                    line = in(reg) LINE,
                    stride = in(reg) stride,
                    tile = const TILE_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            },
            // SAFETY: as above, with two rows of tiles and two tiles of each of the sums.
            2 => unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    prefetch_tile!("a0"),
                    "tileloadd tmm4, [{a0} + {line}]",
                    prefetch_tile!("b0"),
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    prefetch_tile!("b1"),
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    prefetch_tile!("a1"),
                    "tileloadd tmm5, [{a1} + {line}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, {tile}",
                    "add {a1}, {tile}",
                    "add {b0}, {tile}",
                    "add {b1}, {tile}",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{c0} + {stride}], tmm0",
                    "tilestored [{c1} + {stride}], tmm1",
                    "add {c0}, {below}",
                    "add {c1}, {below}",
                    "tilestored [{c0} + {stride}], tmm2",
                    "tilestored [{c1} + {stride}], tmm3",
                    a0 = inout(reg) x.as_ptr() => _,
                    a1 = inout(reg) x[row_tiles..].as_ptr() => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    c0 = inout(reg) c0 => _,
                    c1 = inout(reg) c1 => _,
                    count = inout(reg) row_tiles => _,
                    line = in(reg) LINE,
                    stride = in(reg) stride,
                    below = in(reg) PANEL_ROWS * stride,
                    tile = const TILE_BYTES,
                    ahead = const 2 * TILE_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            },
            rows => unreachable!("{rows} rows of tiles"),
        }
    }
}

/// The four `tdpbf16ps` of the microkernel without loads; returns operations per iteration.
///
/// # Safety
/// As of [`gemm`].
pub(super) unsafe fn peak_bf16(iterations: usize) -> usize {
    // SAFETY: as the caller promises.
    let _registers = unsafe { TileRegisters::new() };
    // SAFETY: uses tile registers alone, which start at zero. The count is at least one, so the
    // loop ends.
    unsafe {
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {count}",
            "jnz 2b",
            count = inout(reg) iterations.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
    4 * 2 * PANEL_ROWS * PANEL_ROWS * BLOCK
}

/// Dequantizes a panel to bf16 in the layout of [`WeightFormat::Bf16`], which is that of AMX tiles.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn dequantize_to_bf16(format: WeightFormat, panel: &[u8], tiles: &mut [AmxTile]) {
    let order = interleave_order();
    match format {
        WeightFormat::F16 => {
            let columns = panel.as_chunks::<32>().0.as_chunks::<2>().0.as_chunks::<PANEL_ROWS>().0;
            for (tile, lines) in tiles.iter_mut().zip(columns) {
                for (line, [even, odd]) in tile.0.iter_mut().zip(lines) {
                    store_bf16_pairs(order, line, load_f16(even), load_f16(odd));
                }
            }
        }
        WeightFormat::Q8_0 => {
            for (block, tile) in tiles.iter_mut().enumerate() {
                let (scale, quants) = paired_block::<Q8_0_BYTES>(panel, block);
                let scale = load_f16(scale);
                let lines = quants.as_chunks::<64>().0;
                for (to, line) in tile.0.as_chunks_mut::<2>().0.iter_mut().zip(lines) {
                    let [a, b, c, d] = unpack_i8x4(load(line));
                    store_bf16_pairs(
                        order,
                        &mut to[0],
                        _mm512_mul_ps(a, scale),
                        _mm512_mul_ps(b, scale),
                    );
                    store_bf16_pairs(
                        order,
                        &mut to[1],
                        _mm512_mul_ps(c, scale),
                        _mm512_mul_ps(d, scale),
                    );
                }
            }
        }
        WeightFormat::Q4K => {
            let low_bits = _mm512_set1_epi8(15);
            let blocks = panel.as_chunks::<{ Q4K::BYTES }>().0;
            for (tiles, block) in tiles.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
                let (scale, min_scale) = block_scales(block);
                let lines = block[Q4K::NIBBLES..].as_chunks::<64>().0.as_chunks::<8>().0;
                let [scales, minima] = scales_and_minima(block);
                let pairs = tiles.as_chunks_mut::<2>().0.iter_mut().zip(lines);
                for (pair, ([even, odd], lines)) in pairs.enumerate() {
                    let [even_scale, odd_scale] = [0, 1].map(|odd| {
                        let [sub_scale, minimum] = [&scales[odd], &minima[odd]]
                            .map(|bytes| load_u8_as_f32(&bytes.as_chunks::<PANEL_ROWS>().0[pair]));
                        (_mm512_mul_ps(scale, sub_scale), _mm512_mul_ps(min_scale, minimum))
                    });
                    let (even, odd) = (even.0.as_chunks_mut::<2>().0, odd.0.as_chunks_mut::<2>().0);
                    for ((even, odd), line) in even.iter_mut().zip(odd).zip(lines) {
                        let both = load(line);
                        store_4_columns(order, even, _mm512_and_si512(both, low_bits), even_scale);
                        let upper = _mm512_srli_epi16::<4>(both);
                        store_4_columns(order, odd, _mm512_and_si512(upper, low_bits), odd_scale);
                    }
                }
            }
        }
        WeightFormat::Q6K => {
            for (i, tiles) in tiles.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (scale, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
                let scale = load_f16(scale);
                let sub_scales = block[..Q6K::SUB_BLOCKS].as_chunks::<PANEL_ROWS>().0;
                let lines = block[Q6K::SUB_BLOCKS..].as_chunks::<64>().0.as_chunks::<3>().0;
                // A tile is two sub-blocks.
                let to = bytemuck::cast_slice_mut::<AmxTile, [u16; BLOCK]>(tiles);
                let to = to.as_chunks_mut::<2>().0.as_chunks_mut::<4>().0;
                for ((to, lines), sub_scale) in to.iter_mut().zip(lines).zip(sub_scales) {
                    let sub_scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_u8x16(sub_scale)));
                    let sub_scale = _mm512_mul_ps(scale, sub_scale);
                    let offset = _mm512_mul_ps(sub_scale, _mm512_set1_ps(32.0));
                    for (to, quants) in to.iter_mut().zip(unpack_q6(lines)) {
                        store_4_columns(order, to, quants, (sub_scale, offset));
                    }
                }
            }
        }
        other => no_kernel(other),
    }
}

/// Writes four columns of unsigned bytes as bf16: quant times scale minus offset (`vfmsub`).
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn store_4_columns(
    order: __m512i,
    to: &mut [[u16; BLOCK]; 2],
    quants: __m512i,
    (scale, offset): (__m512, __m512),
) {
    let byte = _mm512_set1_epi32(255);
    let a = _mm512_cvtepi32_ps(_mm512_and_si512(quants, byte));
    let b = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<8>(quants), byte));
    let c = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<16>(quants), byte));
    let d = _mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(quants));
    let (a, b) = (_mm512_fmsub_ps(a, scale, offset), _mm512_fmsub_ps(b, scale, offset));
    let (c, d) = (_mm512_fmsub_ps(c, scale, offset), _mm512_fmsub_ps(d, scale, offset));
    store_bf16_pairs(order, &mut to[0], a, b);
    store_bf16_pairs(order, &mut to[1], c, d);
}

/// The four signed bytes of each lane as f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn unpack_i8x4(quants: __m512i) -> [__m512; 4] {
    [
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(quants))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(quants))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(quants))),
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(quants)),
    ]
}

/// Rounds two columns to interleaved pairs of bf16 (`vcvtne2ps2bf16`, `vpermw`).
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn store_bf16_pairs(order: __m512i, line: &mut [u16; BLOCK], even: __m512, odd: __m512) {
    // SAFETY: both vectors are 64 bytes, and every bit pattern is valid.
    let both: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even)) };
    // SAFETY: 64 bytes are writable, and the store needs no alignment.
    unsafe {
        _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, both));
    }
}

/// 0, 16, 1, 17, ...: the `vpermw` indices that interleave the halves of a register.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn interleave_order() -> __m512i {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let upper = _mm512_add_epi32(lanes, _mm512_set1_epi32(PANEL_ROWS as i32));
    _mm512_or_si512(lanes, _mm512_slli_epi32::<16>(upper))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::ggml::GgmlType;
    use super::super::isa::Isa;
    use super::super::skipped;
    use super::super::tests::RandomMatrix;
    use super::*;

    /// The GEMM itself is tested with all other tiers. This test tells an error of the
    /// dequantization from one of the microkernel.
    #[test]
    fn weights_are_dequantized_as_their_layout_says() {
        if !Isa::for_tests().into_iter().any(Isa::has_avx512bf16) {
            return skipped("weights were not dequantized: this CPU has no AVX512-BF16");
        }
        for dtype in [GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4K, GgmlType::Q6K] {
            let format = WeightFormat::from_dtype(dtype).unwrap();
            for columns in [256, 512, 768] {
                let matrix = RandomMatrix::new(dtype, [PANEL_ROWS, columns], 5);
                let panel = matrix.packed().panel(0);
                let mut tiles = vec![AmxTile::ZERO; columns / BLOCK];
                // SAFETY: the CPU has AVX-512 with bf16.
                unsafe { dequantize_to_bf16(format, panel, &mut tiles) };
                for column in 0..columns {
                    let line = tiles[column / BLOCK].0[column % BLOCK / 2];
                    for row in 0..PANEL_ROWS {
                        let exact = super::super::packed::weight(format, panel, column, row);
                        let dequantized = bf16::from_bits(line[2 * row + column % 2]).to_f32();
                        let near = (dequantized - exact).abs() <= exact.abs() / 256.0 + 1e-6;
                        assert!(near, "{format:?} {column} {row}: {dequantized} of {exact}");
                    }
                }
            }
        }
    }
}
