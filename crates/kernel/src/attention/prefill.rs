//! Prefill over pages in bf16, with AMX or AVX512-BF16: keys and values are operands as they lie in
//! the cache, and queries and softmax weights are rounded to bf16.

use super::softmax::{OnlineSoftmax, PREFILL_PAGES, online_softmax_bf16};
use super::{Context, PAGE, Page};
use crate::activations::round_to_amx_tiles;
use crate::kv_cache::q8_0::{round_keys, round_values};
use crate::kv_cache::{KvDtype, KvLayout};
use crate::operands::AmxTile;
use crate::packed::{BLOCK, PANEL_ROWS};
use crate::{amx, avx512bf16};

/// Attends to all pages of a context, several per step.
pub(super) fn attend(context: &Context<'_>, queries: &[f32], softmax: &mut OnlineSoftmax) {
    let Context { isa, group, .. } = *context;
    assert!(isa.has_avx512bf16(), "{} has no AVX512-BF16", isa.name());
    let width = context.cache.layout().width;
    let (padded, row_tiles) = (softmax.padded, width / BLOCK);
    let mut q = vec![AmxTile::ZERO; padded / PANEL_ROWS * row_tiles];
    for (rows, tiles) in queries.chunks(PANEL_ROWS * width).zip(q.chunks_exact_mut(row_tiles)) {
        round_to_amx_tiles(isa, width, rows, tiles);
    }
    let mut scores = vec![[0f32; PANEL_ROWS]; PREFILL_PAGES * PAGE / PANEL_ROWS * padded];
    let mut p = vec![AmxTile::ZERO; PREFILL_PAGES * padded / PANEL_ROWS];
    let mut copies = vec![PageCopy::default(); PREFILL_PAGES];
    // SAFETY: an `Isa` with AMX is only made on a CPU that has it.
    let registers = isa.has_amx().then(|| unsafe { amx::TileRegisters::new() });
    let pages: Vec<_> = context.pages().collect();
    for pages in pages.chunks(PREFILL_PAGES) {
        let positions = pages[0].0.start..pages[pages.len() - 1].0.end;
        let pages: Vec<Page<'_>> = pages
            .iter()
            .zip(&mut copies)
            .map(|((positions, page, _), copy)| copy.in_bf16(context, positions.len(), *page))
            .collect();
        let scores = &mut scores[..pages.len() * PAGE / PANEL_ROWS * padded];
        for ((keys, _), scores) in pages.iter().zip(scores.chunks_exact_mut(2 * padded)) {
            let (first, second) = keys.split_at(keys.len() / 2);
            match &registers {
                Some(registers) => registers.gemm(&q, [first, second], scores),
                None => {
                    let (first_scores, second_scores) = scores.split_at_mut(padded);
                    // SAFETY: the CPU has AVX512-BF16, as was asserted.
                    unsafe {
                        avx512bf16::prefill_bf16(&q, first, first_scores);
                        avx512bf16::prefill_bf16(&q, second, second_scores);
                    }
                }
            }
        }
        let p = &mut p[..pages.len() * padded / PANEL_ROWS];
        // SAFETY: as above.
        unsafe { online_softmax_bf16(group, context.before(), positions, scores, p, softmax) };
        let sums = &mut softmax.values;
        match &registers {
            Some(registers) => {
                for (p, (_, values)) in p.chunks_exact(padded / PANEL_ROWS).zip(&pages) {
                    registers.accumulate(p, values, sums);
                }
            }
            None => {
                let values: Vec<&[u8]> = pages.iter().map(|(_, values)| *values).collect();
                // SAFETY: as above.
                unsafe { avx512bf16::accumulate_bf16(p, &values, sums) }
            }
        }
    }
}

/// Room for a page in bf16 that does not lie in the cache as it is needed.
#[derive(Clone, Default)]
struct PageCopy {
    keys: Vec<AmxTile>,
    values: Vec<AmxTile>,
}

impl PageCopy {
    /// The page, of which `count` positions are read, as bf16 operands: as it lies in the cache, or
    /// a copy.
    fn in_bf16<'a>(
        &'a mut self,
        context: &Context<'_>,
        count: usize,
        (keys, values): Page<'a>,
    ) -> Page<'a> {
        let KvLayout { width, dtype, .. } = context.cache.layout();
        let tiles = PAGE / PANEL_ROWS * width / BLOCK;
        if dtype == KvDtype::Q8_0 {
            self.keys.resize(tiles, AmxTile::ZERO);
            self.values.resize(tiles, AmxTile::ZERO);
            round_keys(context.isa, keys, width, &mut self.keys);
            round_values(context.isa, values, width, &mut self.values);
            return (bytemuck::cast_slice(&self.keys), bytemuck::cast_slice(&self.values));
        }
        if count > PANEL_ROWS {
            return (keys, values);
        }
        // The second half of the page may never have been written: a NaN there would survive the
        // multiplication with 0. See `KvCache::append`.
        self.values.clear();
        self.values.resize(tiles, AmxTile::ZERO);
        let half = values.len() / 2;
        bytemuck::cast_slice_mut(&mut self.values)[..half].copy_from_slice(&values[..half]);
        (keys, bytemuck::cast_slice(&self.values))
    }
}
