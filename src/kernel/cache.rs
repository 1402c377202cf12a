//! Keys and values of all sequences, in pages of positions that are handed out as sequences grow:
//! nothing is copied to make room.
//!
//! In a page, for every layer and key-value head: keys, sixteen positions side by side
//! (`[2][width][16]`, as f32 or in pairs along the width as bf16, `[2][width/2][16][2]`), then
//! values (`[32][width]`, or in pairs of positions, `[16][width][2]`). These are lines of weights
//! to the products of attention, and a block of keys in bf16 is what a matrix unit takes.

use half::bf16;

use super::arena::{Arena, HUGE_PAGE};
use super::pool::{Pool, Raw};
use super::tiles::TILE;

/// Positions of a page.
pub const PAGE: usize = 32;

/// Bytes that are asked of the system at a time: an eighth of what is there, within these bounds.
/// They take memory only as they are used, but a limit on data counts them from the start.
const SLAB: [usize; 2] = [HUGE_PAGE, 64 << 20];

/// Rows of a pass that are written by one thread, since others would take longer to begin.
const FEW_ROWS: usize = 16;

/// How numbers of the cache are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// 32 bits.
    F32,
    /// 16 bits.
    Bf16,
}

impl Held {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Held::F32 => 4,
            Held::Bf16 => 2,
        }
    }
}

/// Sizes of a cache.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Layers.
    pub layers: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Numbers of a key; a multiple of 16.
    pub width: usize,
    /// How they are held.
    pub held: Held,
}

impl Layout {
    /// Bytes of a page's keys of one layer and head, and of its values.
    fn half_bytes(&self) -> usize {
        PAGE * self.width * self.held.bytes()
    }

    fn page_bytes(&self) -> usize {
        2 * self.half_bytes() * self.heads * self.layers
    }
}

/// The caches of some sequences.
pub struct Cache {
    layout: Layout,
    slabs: Vec<Arena>,
    /// Of every page its slab, and where it begins there.
    pages: Vec<(usize, usize)>,
    /// Pages that no sequence has.
    free: Vec<usize>,
    sequences: Vec<Sequence>,
}

#[derive(Default)]
struct Sequence {
    length: usize,
    pages: Vec<usize>,
}

/// Where the rows of one sequence lie in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which sequence.
    pub sequence: usize,
    /// Its first row.
    pub start: usize,
    /// How many.
    pub rows: usize,
    /// Positions before them.
    pub past: usize,
}

impl Cache {
    /// An empty cache without sequences.
    ///
    /// # Panics
    /// When the width is no multiple of 16.
    pub fn new(layout: Layout) -> Self {
        assert!(layout.width.is_multiple_of(TILE), "keys are whole lines");
        let (slabs, pages, free, sequences) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { layout, slabs, pages, free, sequences }
    }

    /// Its sizes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Forgets everything and makes room for so many sequences.
    pub fn reset(&mut self, sequences: usize) {
        self.free.extend(self.sequences.drain(..).flat_map(|sequence| sequence.pages));
        // The lowest are handed out next: they were used before, and so is their memory.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.sequences.resize_with(sequences, Sequence::default);
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Positions of a sequence, if there is such a one.
    pub fn length(&self, sequence: usize) -> Option<usize> {
        self.sequences.get(sequence).map(|sequence| sequence.length)
    }

    /// Sets the positions of a sequence: fewer than it had, or what was appended in all layers.
    ///
    /// # Panics
    /// When there is no room for so many.
    pub fn set_length(&mut self, sequence: usize, length: usize) {
        let sequence = &mut self.sequences[sequence];
        assert!(length <= sequence.pages.len() * PAGE, "its pages hold them");
        sequence.length = length;
        for page in sequence.pages.drain(length.div_ceil(PAGE)..).rev() {
            self.free.push(page);
        }
    }

    /// Bytes of the pages that sequences have.
    pub fn bytes(&self) -> usize {
        let pages: usize = self.sequences.iter().map(|sequence| sequence.pages.len()).sum();
        pages * self.layout.page_bytes()
    }

    /// Makes room for so many positions of a sequence.
    ///
    /// # Errors
    /// When the system gives no more memory.
    pub fn grow(&mut self, sequence: usize, length: usize) -> std::io::Result<()> {
        while self.sequences[sequence].pages.len() * PAGE < length {
            let page = match self.free.pop() {
                Some(page) => page,
                None => {
                    let size = self.layout.page_bytes().max(1);
                    let wanted = (self.pages.len() * size / 8).clamp(SLAB[0], SLAB[1]);
                    let (slab, first, count) =
                        (self.slabs.len(), self.pages.len(), (wanted / size).max(1));
                    self.slabs.push(Arena::new(count * size)?);
                    self.pages.extend((0..count).map(|i| (slab, i * size)));
                    self.free.extend((first + 1..first + count).rev());
                    first
                }
            };
            self.sequences[sequence].pages.push(page);
        }
        Ok(())
    }

    /// Slab and offset of the keys of a layer and head in the page that has a position.
    fn place(&self, sequence: usize, layer: usize, head: usize, position: usize) -> (usize, usize) {
        let page = self.sequences[sequence].pages[position / PAGE];
        let (slab, at) = self.pages[page];
        let within = (layer * self.layout.heads + head) * 2 * self.layout.half_bytes();
        (slab, at + within)
    }

    /// Keys and values of a layer and head in the page that has a position: see the head of this
    /// file.
    pub(super) fn page(
        &self,
        sequence: usize,
        layer: usize,
        head: usize,
        position: usize,
    ) -> (&[u8], &[u8]) {
        let (slab, at) = self.place(sequence, layer, head, position);
        let half = self.layout.half_bytes();
        self.slabs[slab].get(at..at + 2 * half).split_at(half)
    }

    /// Writes keys and values of a pass, `[rows, heads * width]`, behind the positions that its
    /// spans say.
    ///
    /// # Panics
    /// When there is no room: see [`Cache::grow`]; or two spans are of one sequence.
    pub fn append(&mut self, pool: &Pool, layer: usize, spans: &[Span], k: &[f32], v: &[f32]) {
        let Layout { heads, width, held, .. } = self.layout;
        for (i, span) in spans.iter().enumerate() {
            let again = spans[..i].iter().any(|other| other.sequence == span.sequence);
            assert!(!again, "a sequence has one span");
        }
        let half = self.layout.half_bytes();
        let slabs: Vec<Raw<u8>> =
            self.slabs.iter_mut().map(|slab| Raw::new(slab.all_mut())).collect();
        let this = &*self;
        let task = |number: usize| {
            let (span, head) = (&spans[number / heads], number % heads);
            for row in 0..span.rows {
                let position = span.past + row;
                let (slab, at) = this.place(span.sequence, layer, head, position);
                let from = ((span.start + row) * heads + head) * width;
                // SAFETY: this part of the page is of one sequence, layer and head, and so this
                // task's alone: spans are of different sequences, which have
                // different pages.
                let page = unsafe { slabs[slab].slice(at, 2 * half) };
                let (keys, values) = page.split_at_mut(half);
                if position % TILE == 0 {
                    // What an earlier sequence left beyond the end must not be multiplied, not even
                    // with 0: it may be NaN.
                    let block = PAGE / TILE;
                    let at = position % PAGE / TILE * (half / block);
                    keys[at..at + half / block].fill(0);
                    values[at..at + half / block].fill(0);
                }
                write(
                    held,
                    width,
                    position % PAGE,
                    &k[from..][..width],
                    &v[from..][..width],
                    keys,
                    values,
                );
            }
        };
        let (tasks, rows) =
            (spans.len() * heads, spans.iter().map(|span| span.rows).sum::<usize>());
        if rows <= FEW_ROWS {
            (0..tasks).for_each(task);
        } else {
            pool.run(tasks, |number, _| task(number));
        }
    }
}

fn write(
    held: Held,
    width: usize,
    at: usize,
    k: &[f32],
    v: &[f32],
    keys: &mut [u8],
    values: &mut [u8],
) {
    let (block, lane) = (at / TILE, at % TILE);
    match held {
        Held::F32 => {
            let (keys, values): (&mut [f32], &mut [f32]) =
                (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
            for (line, k) in keys[block * width * TILE..].chunks_exact_mut(TILE).zip(k) {
                line[lane] = *k;
            }
            values[at * width..(at + 1) * width].copy_from_slice(v);
        }
        Held::Bf16 => {
            let (keys, values): (&mut [[u16; 2]], &mut [[u16; 2]]) =
                (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
            let lines = keys[block * width / 2 * TILE..].chunks_exact_mut(TILE);
            for (line, k) in lines.zip(k.as_chunks::<2>().0) {
                line[lane] = k.map(|k| bf16::from_f32(k).to_bits());
            }
            for (pair, v) in values[at / 2 * width..][..width].iter_mut().zip(v) {
                pair[at % 2] = bf16::from_f32(*v).to_bits();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(held: Held) -> Cache {
        Cache::new(Layout { layers: 2, heads: 3, width: 16, held })
    }

    #[test]
    fn pages_are_handed_out_and_taken_back() {
        let mut cache = cache(Held::Bf16);
        cache.reset(2);
        assert_eq!((cache.sequences(), cache.bytes(), cache.length(2)), (2, 0, None));
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
    fn what_is_appended_lies_where_the_layout_says_and_the_rest_is_zero() {
        let pool = Pool::new(2).unwrap();
        for held in [Held::F32, Held::Bf16] {
            let mut cache = cache(held);
            for round in 0..2 {
                cache.reset(1);
                cache.grow(0, 40).unwrap();
                if round == 1 {
                    // Left by an earlier sequence.
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
                        let (key, value) = match held {
                            Held::F32 => {
                                let (keys, values): (&[f32], &[f32]) =
                                    (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
                                (keys[(at / 16 * 16 + i) * 16 + at % 16], values[at * 16 + i])
                            }
                            Held::Bf16 => {
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
