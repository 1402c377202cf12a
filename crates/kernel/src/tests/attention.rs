//! Attention against its formula, and against itself in other passes.

use super::*;

/// The formula of attention in f64: one query against the keys and values up to its position.
pub(super) fn formula(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
    let dot =
        |k: &Vec<f32>| -> f64 { q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum() };
    let scores: Vec<f64> = keys.iter().map(dot).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..q.len())
        .map(|i| weights.iter().zip(values).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / sum)
        .collect()
}

#[test]
fn attention_agrees_with_its_formula_for_ragged_batches() {
    let tiers = Isa::for_tests();
    let (heads, group, width) = (2, 3, 32);
    let [one, pool] = [1, 3].map(|threads| Pool::new(threads).unwrap());
    for &isa in &tiers {
        for (dtype, bound) in [(KvDtype::F32, 2e-6), (KvDtype::Bf16, 1.5e-2)] {
            let mut cache = KvCache::new(KvLayout { layers: 2, heads, width, dtype });
            cache.reset(3);
            let mut keys = vec![vec![Vec::new(); heads]; 3];
            let mut values = keys.clone();
            // Prompts of several sequences, one alone, decode beside prefill, and contexts of more
            // than one split.
            let passes: [&[(usize, usize)]; 6] = [
                &[(0, 40), (1, 3), (2, 33)],
                &[(1, 1), (0, 1)],
                &[(2, 70), (1, 1)],
                &[(0, 1200)],
                &[(0, 1), (1, 1), (2, 1)],
                &[(0, 2100), (2, 1)],
            ];
            for (number, pass) in passes.iter().enumerate() {
                let rows: usize = pass.iter().map(|(_, rows)| rows).sum();
                let seed = 10 * number as u64;
                let (k, v) =
                    (numbers(rows * heads * width, seed), numbers(rows * heads * width, seed + 1));
                let q = numbers(rows * heads * group * width, seed + 2);
                let mut spans = Vec::new();
                let mut start = 0;
                for &(sequence, rows) in *pass {
                    let past = cache.length(sequence).unwrap();
                    cache.grow(sequence, past + rows).unwrap();
                    spans.push(Span { sequence, start, rows, past });
                    start += rows;
                }
                cache.append(&pool, 1, &spans, &k, &v);
                let mut out = Activations::default();
                attention(&pool, isa, &cache, 1, &spans, &q, &mut out);
                let mut alone = Activations::default();
                attention(&one, isa, &cache, 1, &spans, &q, &mut alone);
                assert_eq!(out.f32(), alone.f32(), "the result does not depend on threads");
                for span in &spans {
                    for row in 0..span.rows {
                        let at = span.start + row;
                        for head in 0..heads {
                            let from = (at * heads + head) * width;
                            keys[span.sequence][head].push(k[from..from + width].to_vec());
                            values[span.sequence][head].push(v[from..from + width].to_vec());
                        }
                        // Every row of short spans, some of long ones.
                        if row % 97 > 2 && row + 1 < span.rows {
                            continue;
                        }
                        for head in 0..heads * group {
                            let from = (at * heads * group + head) * width;
                            let exact = formula(
                                &q[from..from + width],
                                &keys[span.sequence][head / group],
                                &values[span.sequence][head / group],
                            );
                            let error = distance(&out.f32()[from..from + width], &exact);
                            assert!(
                                error < bound,
                                "{} {dtype:?} {span:?} row {row}: {error}",
                                isa.name()
                            );
                        }
                    }
                    cache.set_length(span.sequence, span.past + span.rows);
                }
            }
        }
    }
}

#[test]
fn attention_in_chunks_has_the_bits_of_one_pass() {
    let (heads, group, width, rows) = (2, 2, 32, 300);
    let pool = Pool::new(2).unwrap();
    let [k, v] = [1, 2].map(|seed| numbers(rows * heads * width, seed));
    let q = numbers(rows * heads * group * width, 3);
    for isa in Isa::for_tests() {
        for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Q8_0] {
            let attend = |cuts: &[usize]| {
                let mut cache = KvCache::new(KvLayout { layers: 1, heads, width, dtype });
                cache.reset(1);
                let mut all = Vec::new();
                for cut in cuts.windows(2) {
                    let (past, rows) = (cut[0], cut[1] - cut[0]);
                    let span = Span { sequence: 0, start: 0, rows, past };
                    cache.grow(0, past + rows).unwrap();
                    let [k, v] = [&k, &v].map(|all| &all[past * heads * width..]);
                    let kv = rows * heads * width;
                    cache.append(&pool, 0, &[span], &k[..kv], &v[..kv]);
                    let mut out = Activations::default();
                    let q = &q[past * heads * group * width..][..kv * group];
                    attention(&pool, isa, &cache, 0, &[span], q, &mut out);
                    all.extend_from_slice(out.f32());
                    cache.set_length(0, past + rows);
                }
                all
            };
            let (whole, chunks) = (attend(&[0, rows]), attend(&[0, 37, 100, 165, rows]));
            assert!(whole == chunks, "{} {dtype:?}", isa.name());
        }
    }
}

#[test]
fn decode_of_any_group_and_width_agrees_with_the_formula_over_reused_pages() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(2).unwrap();
    for (group, width) in [(1, 64), (2, 96), (3, 32), (4, 128), (5, 48), (7, 64), (16, 32)] {
        for (dtype, bound) in [(KvDtype::F32, 2e-6), (KvDtype::Bf16, 1.5e-2)] {
            for rows in [1, 2, 16 / group] {
                // The new rows end with the first page, or within the first half of the second.
                let past = 31;
                let [k, v] = [1, 2].map(|seed| numbers((past + rows) * width, seed));
                let q = numbers(rows * group * width, 3);
                let rows_of = |all: &[f32]| -> Vec<Vec<f32>> {
                    all.chunks(width).map(<[f32]>::to_vec).collect()
                };
                let (keys, values) = (rows_of(&k), rows_of(&v));
                let mut cache = KvCache::new(KvLayout { layers: 1, heads: 1, width, dtype });
                let append = |cache: &mut KvCache, past, k: &[f32], v: &[f32]| {
                    let span = Span { sequence: 0, start: 0, rows: k.len() / width, past };
                    cache.grow(0, past + span.rows).unwrap();
                    cache.append(&pool, 0, &[span], k, v);
                    cache.set_length(0, past + span.rows);
                    span
                };
                // What an earlier sequence left in these pages.
                let left = vec![f32::NAN; 64 * width];
                cache.reset(1);
                append(&mut cache, 0, &left, &left);
                cache.reset(1);
                append(&mut cache, 0, &k[..past * width], &v[..past * width]);
                let span = append(&mut cache, past, &k[past * width..], &v[past * width..]);
                for &isa in &tiers {
                    let mut out = Activations::default();
                    attention(&pool, isa, &cache, 0, &[span], &q, &mut out);
                    for (i, q) in q.chunks(width).enumerate() {
                        let (row, head) = (i / group, i % group);
                        let seen = past + row + 1;
                        let exact = formula(q, &keys[..seen], &values[..seen]);
                        let error = distance(
                            &out.f32()[row * out.columns() + head * width..][..width],
                            &exact,
                        );
                        let isa = isa.name();
                        assert!(error < bound, "{isa} {dtype:?} {group} {width} {i}: {error}");
                    }
                }
            }
        }
    }
}
