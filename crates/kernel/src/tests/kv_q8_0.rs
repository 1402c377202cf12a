//! Attention over a KV cache in 8 bits, against the formula over the numbers that the cache holds.

use super::attention::formula;
use super::{distance, numbers};
use crate::kv_cache::q8_0::{dequantize_keys, dequantize_values};
use crate::*;

const HEADS: usize = 2;

/// Sequences with their rows, as passes of a ragged batch: prompts, decode beside prefill, decode
/// alone.
const PASSES: [&[(usize, usize)]; 4] =
    [&[(0, 34), (1, 3)], &[(1, 40), (0, 1)], &[(0, 1), (1, 1), (2, 1)], &[(2, 2), (0, 1)]];

/// Rows of a pass.
struct Rows {
    spans: Vec<Span>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Rows {
    fn new(cache: &KvCache, pass: &[(usize, usize)], group: usize, seed: u64) -> Self {
        let mut spans: Vec<Span> = Vec::new();
        for &(sequence, rows) in pass {
            let start = spans.last().map_or(0, |span| span.start + span.rows);
            let past = cache.length(sequence).unwrap();
            spans.push(Span { sequence, start, rows, past });
        }
        let rows: usize = pass.iter().map(|(_, rows)| rows).sum();
        let width = HEADS * cache.layout().width;
        Self {
            spans,
            q: numbers(rows * width * group, seed).iter().map(|q| q / 4.0).collect(),
            k: numbers(rows * width, seed + 1),
            v: numbers(rows * width, seed + 2),
        }
    }

    /// Of one sequence, as the first of a cache.
    fn alone(&self, span: &Span) -> Self {
        let rows: usize = self.spans.iter().map(|span| span.rows).sum();
        let part = |values: &[f32]| {
            let width = values.len() / rows;
            values[span.start * width..(span.start + span.rows) * width].to_vec()
        };
        let spans = vec![Span { sequence: 0, start: 0, ..*span }];
        Self { spans, q: part(&self.q), k: part(&self.k), v: part(&self.v) }
    }

    /// Appends these rows; what they attend to.
    fn attend(&self, pool: &Pool, isa: Isa, cache: &mut KvCache) -> Vec<f32> {
        for span in &self.spans {
            cache.grow(span.sequence, span.past + span.rows).unwrap();
        }
        cache.append(pool, 0, &self.spans, &self.k, &self.v);
        let mut out = Activations::default();
        attention(pool, isa, cache, 0, &self.spans, &self.q, &mut out);
        for span in &self.spans {
            cache.set_length(span.sequence, span.past + span.rows);
        }
        out.f32().to_vec()
    }
}

fn cache(width: usize, sequences: usize) -> KvCache {
    let mut cache = KvCache::new(KvLayout { layers: 1, heads: HEADS, width, dtype: KvDtype::Q8_0 });
    cache.reset(sequences);
    cache
}

/// The keys and the values of a head in f32, as the cache holds them.
fn stored(cache: &KvCache, sequence: usize, head: usize) -> [Vec<Vec<f32>>; 2] {
    let width = cache.layout().width;
    let [mut keys, mut values] = [Vec::new(), Vec::new()];
    for position in 0..cache.length(sequence).unwrap() {
        let page = cache.page(sequence, 0, head, position);
        let mut lines = vec![[0f32; PANEL_ROWS]; 32 * width / PANEL_ROWS];
        dequantize_keys(Isa::PORTABLE, page.0, width, &mut lines);
        let (at, lane) = (position % 32, position % PANEL_ROWS);
        let block = &lines[at / PANEL_ROWS * width..][..width];
        keys.push(block.iter().map(|line| line[lane]).collect());
        dequantize_values(Isa::PORTABLE, page.1, width, &mut lines);
        values.push(lines.as_flattened()[at * width..][..width].to_vec());
    }
    [keys, values]
}

#[test]
fn attention_in_8_bits_is_the_formula_over_what_the_cache_holds() {
    let [one, three] = [1, 3].map(|threads| Pool::new(threads).unwrap());
    for isa in Isa::for_tests() {
        for (width, group) in [(64, 1), (64, 7), (128, 2)] {
            let (mut batched, mut other) = (cache(width, 3), cache(width, 3));
            let mut each: Vec<KvCache> = (0..3).map(|_| cache(width, 1)).collect();
            for (number, pass) in PASSES.iter().enumerate() {
                let rows = Rows::new(&batched, pass, group, 10 * number as u64);
                let out = rows.attend(&three, isa, &mut batched);
                let name = format!("{} width {width} group {group} pass {number}", isa.name());
                assert_eq!(out, rows.attend(&one, isa, &mut other), "{name}: threads");
                let stride = HEADS * group * width;
                for span in &rows.spans {
                    let of_span = &out[span.start * stride..][..span.rows * stride];
                    let alone = rows.alone(span).attend(&one, isa, &mut each[span.sequence]);
                    assert_eq!(of_span, alone, "{name}: {span:?} alone");
                    for head in 0..HEADS * group {
                        let [keys, values] = stored(&batched, span.sequence, head / group);
                        for row in [0, span.rows / 2, span.rows - 1] {
                            let at = row * stride + head * width;
                            let q = &rows.q[span.start * stride + at..][..width];
                            let end = span.past + row + 1;
                            let exact = formula(q, &keys[..end], &values[..end]);
                            let error = distance(&of_span[at..][..width], &exact);
                            assert!(error < 1.5e-2, "{name} {span:?} row {row}: {error}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_long_context_in_8_bits_is_split_over_threads() {
    let [one, three] = [1, 3].map(|threads| Pool::new(threads).unwrap());
    let isa = Isa::best();
    let mut results = [&one, &three].map(|pool| {
        let mut cache = cache(64, 1);
        Rows::new(&cache, &[(0, 2100)], 2, 1).attend(pool, isa, &mut cache);
        let rows = Rows::new(&cache, &[(0, 1)], 2, 5);
        (rows.attend(pool, isa, &mut cache), rows, cache)
    });
    assert_eq!(results[0].0, results[1].0);
    let (out, rows, cache) = &mut results[0];
    for head in 0..4 {
        let [keys, values] = stored(cache, 0, head / 2);
        let exact = formula(&rows.q[head * 64..][..64], &keys, &values);
        let error = distance(&out[head * 64..][..64], &exact);
        assert!(error < 1.5e-2, "{error}");
    }
}
