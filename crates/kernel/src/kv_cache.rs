//! Paged KV cache: keys and values of all sequences in pages of 32 positions, handed out as
//! sequences grow, so that growing copies nothing.
//!
//! A page holds for every layer and key-value head the keys, sixteen positions interleaved
//! (`[2][width][16]` f32, or pairs along the width `[2][width/2][16][2]` bf16), then the values
//! (`[32][width]` f32, or pairs of positions `[16][width][2]` bf16). These are weight panels to the
//! GEMM kernels, and sixteen keys in bf16 are AMX tiles. [`q8_0`] has the layout in 8 bits.

use half::bf16;

use super::arena::{Arena, HUGE_PAGE};
use super::packed::{BLOCK, PANEL_ROWS};
use super::pool::{Pool, SharedSlice};

pub(super) mod q8_0;

/// Positions per page.
pub(super) const PAGE: usize = 32;

/// Smallest and largest slab that is allocated at a time; in between, an eighth of the cache. Slabs
/// take physical memory only as they are used, but a limit on address space counts them whole.
const SLAB: [usize; 2] = [HUGE_PAGE, 64 << 20];

/// Rows of a pass up to which one thread writes them: waking others would take longer.
const SERIAL_ROWS: usize = 16;

/// Number format of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// 8 bits, one f16 scale per 32 numbers of a key or a value.
    Q8_0,
}

impl KvDtype {
    /// All formats.
    pub const ALL: [Self; 3] = [KvDtype::F32, KvDtype::Bf16, KvDtype::Q8_0];

    /// Its name, which ggml has too.
    pub fn name(self) -> &'static str {
        match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
            KvDtype::Q8_0 => "q8_0",
        }
    }

    /// Numbers of a key must be a multiple of this.
    pub fn block_size(self) -> usize {
        match self {
            KvDtype::F32 | KvDtype::Bf16 => PANEL_ROWS,
            KvDtype::Q8_0 => BLOCK,
        }
    }

    /// Bytes of a key or a value of so many numbers.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            KvDtype::F32 => 4 * numbers,
            KvDtype::Bf16 => 2 * numbers,
            KvDtype::Q8_0 => numbers / BLOCK * (BLOCK + 2),
        }
    }
}

/// Shape of a cache.
#[derive(Debug, Clone, Copy)]
pub struct KvLayout {
    /// Layers.
    pub layers: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Numbers per key, a multiple of [`KvDtype::block_size`].
    pub width: usize,
    /// Number format.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Bytes of the keys, and of the values, of one layer and head in a page.
    fn part_bytes(&self) -> [usize; 2] {
        match self.dtype {
            KvDtype::F32 | KvDtype::Bf16 => [PAGE * self.dtype.bytes(self.width); 2],
            KvDtype::Q8_0 => [q8_0::key_bytes(self.width), q8_0::value_bytes(self.width)],
        }
    }

    /// Bytes of the keys and values of one layer and head in a page.
    fn head_bytes(&self) -> usize {
        self.part_bytes().iter().sum()
    }

    fn page_bytes(&self) -> usize {
        self.head_bytes() * self.heads * self.layers
    }
}

/// Keys and values of several sequences.
pub struct KvCache {
    layout: KvLayout,
    slabs: Vec<Arena>,
    /// Slab and offset of every page.
    pages: Vec<(usize, usize)>,
    /// Free list of pages.
    free: Vec<usize>,
    sequences: Vec<Sequence>,
}

#[derive(Default)]
struct Sequence {
    length: usize,
    pages: Vec<usize>,
}

/// The rows of one sequence in a ragged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Sequence number.
    pub sequence: usize,
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Positions of the sequence before these rows.
    pub past: usize,
}

impl KvCache {
    /// A cache without sequences.
    ///
    /// # Panics
    /// When the width is no multiple of [`KvDtype::block_size`].
    pub fn new(layout: KvLayout) -> Self {
        assert!(layout.width.is_multiple_of(layout.dtype.block_size()), "keys are whole blocks");
        let (slabs, pages, free, sequences) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { layout, slabs, pages, free, sequences }
    }

    /// Its shape.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Frees all pages and starts so many empty sequences.
    pub fn reset(&mut self, sequences: usize) {
        self.free.extend(self.sequences.drain(..).flat_map(|sequence| sequence.pages));
        // The lowest pages are handed out next: their memory is already mapped.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.sequences.resize_with(sequences, Sequence::default);
    }

    /// Positions of a sequence, if it exists.
    pub fn length(&self, sequence: usize) -> Option<usize> {
        self.sequences.get(sequence).map(|sequence| sequence.length)
    }

    /// Sets the length of a sequence: shorter, or as far as all layers were appended. Frees the
    /// pages beyond it.
    ///
    /// # Panics
    /// When the sequence has too few pages.
    pub fn set_length(&mut self, sequence: usize, length: usize) {
        let sequence = &mut self.sequences[sequence];
        assert!(length <= sequence.pages.len() * PAGE, "its pages hold them");
        sequence.length = length;
        for page in sequence.pages.drain(length.div_ceil(PAGE)..).rev() {
            self.free.push(page);
        }
    }

    /// Bytes of the pages in use.
    pub fn bytes(&self) -> usize {
        let pages: usize = self.sequences.iter().map(|sequence| sequence.pages.len()).sum();
        pages * self.layout.page_bytes()
    }

    /// Allocates pages for so many positions of a sequence.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn grow(&mut self, sequence: usize, length: usize) -> std::io::Result<()> {
        while self.sequences[sequence].pages.len() * PAGE < length {
            let page = match self.free.pop() {
                Some(page) => page,
                None => {
                    let size = self.layout.page_bytes().max(1);
                    let bytes = (self.pages.len() * size / 8).clamp(SLAB[0], SLAB[1]);
                    let (slab, first, count) =
                        (self.slabs.len(), self.pages.len(), (bytes / size).max(1));
                    // Whole huge pages: a slab's end in small ones would be read more slowly.
                    self.slabs.push(Arena::new((count * size).next_multiple_of(HUGE_PAGE))?);
                    self.pages.extend((0..count).map(|i| (slab, i * size)));
                    self.free.extend((first + 1..first + count).rev());
                    first
                }
            };
            self.sequences[sequence].pages.push(page);
        }
        Ok(())
    }

    /// Slab and offset of the keys of a layer and head in the page of a position.
    fn offset(
        &self,
        sequence: usize,
        layer: usize,
        head: usize,
        position: usize,
    ) -> (usize, usize) {
        let page = self.sequences[sequence].pages[position / PAGE];
        let (slab, at) = self.pages[page];
        let within = (layer * self.layout.heads + head) * self.layout.head_bytes();
        (slab, at + within)
    }

    /// Keys and values of a layer and head in the page of a position; layout as above.
    pub(super) fn page(
        &self,
        sequence: usize,
        layer: usize,
        head: usize,
        position: usize,
    ) -> (&[u8], &[u8]) {
        let (slab, at) = self.offset(sequence, layer, head, position);
        let [keys, values] = self.layout.part_bytes();
        self.slabs[slab].get(at..at + keys + values).split_at(keys)
    }

    /// Writes the keys and values of a pass, `[rows, heads * width]`, behind the past positions of
    /// its spans. Lengths stay as they are until [`KvCache::set_length`].
    ///
    /// # Panics
    /// When pages are missing (see [`KvCache::grow`]), or two spans are of one sequence.
    pub fn append(&mut self, pool: &Pool, layer: usize, spans: &[Span], k: &[f32], v: &[f32]) {
        let KvLayout { heads, width, .. } = self.layout;
        for (i, span) in spans.iter().enumerate() {
            let repeated = spans[..i].iter().any(|other| other.sequence == span.sequence);
            assert!(!repeated, "a sequence has one span");
        }
        let [key_bytes, value_bytes] = self.layout.part_bytes();
        let slabs: Vec<SharedSlice<u8>> =
            self.slabs.iter_mut().map(|slab| SharedSlice::new(slab.all_mut())).collect();
        let this = &*self;
        let task = |number: usize| {
            let (span, head) = (&spans[number / heads], number % heads);
            for row in 0..span.rows {
                let position = span.past + row;
                let (slab, at) = this.offset(span.sequence, layer, head, position);
                let from = ((span.start + row) * heads + head) * width;
                // SAFETY: only this task writes this layer and head of this page: spans are of
                // different sequences, and sequences share no pages.
                let page = unsafe { slabs[slab].slice(at, key_bytes + value_bytes) };
                let (keys, values) = page.split_at_mut(key_bytes);
                let (k, v) = (&k[from..][..width], &v[from..][..width]);
                write(this.layout, position % PAGE, k, v, keys, values);
            }
        };
        let (tasks, rows) =
            (spans.len() * heads, spans.iter().map(|span| span.rows).sum::<usize>());
        if rows <= SERIAL_ROWS {
            (0..tasks).for_each(task);
        } else {
            pool.run(tasks, |number, _| task(number));
        }
    }
}

/// Writes the key and the value of a position of the page. A first one zeroes what an earlier
/// sequence left behind the end: kernels multiply whole blocks, and NaN times 0 is NaN.
fn write(layout: KvLayout, at: usize, k: &[f32], v: &[f32], keys: &mut [u8], values: &mut [u8]) {
    let KvLayout { width, dtype, .. } = layout;
    let (block, lane) = (at / PANEL_ROWS, at % PANEL_ROWS);
    if dtype == KvDtype::Q8_0 {
        if at == 0 {
            q8_0::clear(values);
        }
    } else if lane == 0 {
        for part in [&mut *keys, &mut *values] {
            let bytes = part.len() / (PAGE / PANEL_ROWS);
            part[block * bytes..(block + 1) * bytes].fill(0);
        }
    }
    match dtype {
        KvDtype::F32 => {
            let (keys, values): (&mut [f32], &mut [f32]) =
                (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
            let lines = keys[block * width * PANEL_ROWS..].chunks_exact_mut(PANEL_ROWS);
            for (line, k) in lines.zip(k) {
                line[lane] = *k;
            }
            values[at * width..(at + 1) * width].copy_from_slice(v);
        }
        KvDtype::Bf16 => {
            let (keys, values): (&mut [[u16; 2]], &mut [[u16; 2]]) =
                (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
            let lines = keys[block * width / 2 * PANEL_ROWS..].chunks_exact_mut(PANEL_ROWS);
            for (line, k) in lines.zip(k.as_chunks::<2>().0) {
                line[lane] = k.map(|k| bf16::from_f32(k).to_bits());
            }
            for (pair, v) in values[at / 2 * width..][..width].iter_mut().zip(v) {
                pair[at % 2] = bf16::from_f32(*v).to_bits();
            }
        }
        KvDtype::Q8_0 => q8_0::write(at, k, v, keys, values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dtype: KvDtype) -> KvCache {
        KvCache::new(KvLayout { layers: 2, heads: 3, width: 16, dtype })
    }

    #[test]
    fn pages_are_allocated_and_freed() {
        let mut cache = cache(KvDtype::Bf16);
        cache.reset(2);
        assert_eq!((cache.sequences.len(), cache.bytes(), cache.length(2)), (2, 0, None));
        cache.grow(0, 33).unwrap();
        cache.grow(1, 1).unwrap();
        let page = 2 * 3 * 2 * 32 * 16 * 2;
        assert_eq!(cache.bytes(), 3 * page);
        cache.set_length(0, 33);
        cache.set_length(0, 32);
        assert_eq!((cache.bytes(), cache.length(0)), (2 * page, Some(32)));
        let (old, free) = (cache.sequences[0].pages[0], cache.free.len());
        cache.reset(1);
        assert_eq!((cache.bytes(), cache.free.len()), (0, free + 2));
        cache.grow(0, 1).unwrap();
        assert_eq!(cache.sequences[0].pages[0], old, "the first page is the first again");
    }

    #[test]
    fn a_cache_in_8_bits_takes_34_bytes_for_32_numbers_in_whole_pages() {
        let layout = KvLayout { layers: 2, heads: 3, width: 64, dtype: KvDtype::Q8_0 };
        let mut cache = KvCache::new(layout);
        cache.reset(1);
        for positions in [1, 32, 33, 4096] {
            cache.grow(0, positions).unwrap();
            let numbers = 2 * 3 * 2 * 64 * positions.next_multiple_of(32);
            assert_eq!(cache.bytes(), numbers / 32 * 34, "{positions}");
            assert_eq!(layout.dtype.bytes(numbers), cache.bytes());
        }
    }

    #[test]
    fn appended_keys_and_values_lie_where_the_layout_says_and_the_rest_is_zero() {
        let pool = Pool::new(2).unwrap();
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            let mut cache = cache(dtype);
            for reuse in [false, true] {
                cache.reset(1);
                cache.grow(0, 40).unwrap();
                if reuse {
                    // Garbage of an earlier sequence.
                    let bytes = cache.slabs[0].all_mut();
                    bytes[..4096].fill(0xff);
                }
                let number =
                    |row: usize, i: usize, salt: usize| (row * 48 + i + salt) as f32 / 64.0;
                let rows = |rows: std::ops::Range<usize>, salt| -> Vec<f32> {
                    rows.flat_map(|row| (0..48).map(move |i| number(row, i, salt))).collect()
                };
                let mut past = 0;
                for count in [1, 2, 30] {
                    let span = Span { sequence: 0, start: 0, rows: count, past };
                    let (k, v) = (rows(past..past + count, 0), rows(past..past + count, 7));
                    cache.append(&pool, 1, &[span], &k, &v);
                    past += count;
                }
                for position in 0..48 {
                    let (keys, values) = cache.page(0, 1, 2, position.min(39));
                    for i in 0..16 {
                        let at = position % PAGE;
                        let (key, value) = match dtype {
                            KvDtype::Q8_0 => unreachable!("tested where its layout is"),
                            KvDtype::F32 => {
                                let (keys, values): (&[f32], &[f32]) =
                                    (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
                                (keys[(at / 16 * 16 + i) * 16 + at % 16], values[at * 16 + i])
                            }
                            KvDtype::Bf16 => {
                                let (keys, values): (&[u16], &[u16]) =
                                    (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
                                let k = ((at / 16 * 8 + i / 2) * 16 + at % 16) * 2 + i % 2;
                                let v = (at / 2 * 16 + i) * 2 + at % 2;
                                (
                                    bf16::from_bits(keys[k]).to_f32(),
                                    bf16::from_bits(values[v]).to_f32(),
                                )
                            }
                        };
                        let exact =
                            |salt| if position < 33 { number(position, 32 + i, salt) } else { 0.0 };
                        assert!(
                            (key - exact(0)).abs() <= exact(0) / 256.0,
                            "{position} {i}: {key}"
                        );
                        assert!((value - exact(7)).abs() <= exact(7) / 256.0);
                    }
                }
            }
        }
    }
}
