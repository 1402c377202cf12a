//! Every tier against the definitions: the weights of a tile one by one, products in f64, attention
//! as its formula says.

use candle_core::quantized::GgmlDType;

use super::tiles::weight;
use super::*;

/// Numbers that look random and are the same everywhere, in ±1.
pub(super) fn numbers(count: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix of random weights in a form: packed, and as candle expands the same blocks.
pub(super) struct Made {
    form: Form,
    shape: [usize; 2],
    arena: Arena,
    exact: Vec<f32>,
}

impl Made {
    pub(super) fn new(form: Form, [outputs, columns]: [usize; 2], salt: u64) -> Self {
        let values = numbers(outputs * columns, salt);
        let rows = |rows: std::ops::Range<usize>| {
            Ok::<_, ()>(Fill::F32(values[rows.start * columns..rows.end * columns].to_vec()))
        };
        let blocks = matrix(form.dtype(), [outputs, columns], rows).unwrap();
        let mut arena = Arena::new(form.bytes(outputs, columns)).unwrap();
        let row = blocks.data().len() / outputs;
        let tiles = arena.all_mut().chunks_mut(form.tile_bytes(columns));
        for (tile, rows) in tiles.zip(blocks.data().chunks(row * TILE)) {
            pack(form, columns, rows, tile);
        }
        Self { form, shape: [outputs, columns], arena, exact: blocks.expand(0..outputs) }
    }

    pub(super) fn tiles(&self) -> Tiles<'_> {
        let bytes = self.form.bytes(self.shape[0], self.shape[1]);
        Tiles::new(self.form, self.shape, self.arena.get(0..bytes))
    }

    /// The definition of a product, in f64.
    fn product(&self, x: &[f32]) -> Vec<f64> {
        let columns = self.shape[1];
        let dot = |x: &[f32], w: &[f32]| -> f64 {
            x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        x.chunks(columns).flat_map(|x| self.exact.chunks(columns).map(move |w| dot(x, w))).collect()
    }
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    square(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - b))
        / square(&mut b.iter().copied()).max(1e-30)
}

const FORMS: [Form; 6] = [Form::F32, Form::F16, Form::Bf16, Form::Q8_0, Form::Q4K, Form::Q6K];

pub(super) fn inputs(pool: &Pool, x: &[f32], columns: usize) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.fill(pool, x.len() / columns, columns, |row, out| {
        out.copy_from_slice(&x[row * columns..][..columns]);
    });
    inputs
}

#[test]
fn packed_weights_are_those_of_the_file() {
    for form in FORMS {
        for outputs in [1, 16, 35] {
            let made = Made::new(form, [outputs, 512], 3);
            let mut row = vec![0.0; 512];
            for output in 0..outputs {
                made.tiles().row(output, &mut row);
                assert_eq!(row, made.exact[output * 512..][..512], "{form:?} row {output}");
            }
        }
    }
}

#[test]
fn a_matrix_takes_the_bytes_of_its_file() {
    for (form, file) in [(Form::Q8_0, 34), (Form::Q4K, 144 / 8), (Form::Q6K, 210 / 8)] {
        let bytes = form.bytes(64, 1024) as f64;
        let stored = (64 * 1024 / 32 * file) as f64;
        assert!(bytes >= stored && bytes < stored * 1.02, "{form:?}: {bytes} for {stored}");
    }
    assert_eq!(Form::Q4K.bytes(64, 1024), 64 * 4 * 144);
    assert_eq!(Form::Q6K.bytes(64, 1024), 64 * 4 * 210);
    assert_eq!(Form::Bf16.bytes(64, 1024), 64 * 1024 * 2);
}

/// What a product may be off by: the rounding of activations (8 bits: half of 1/127 of the largest
/// of 32, over the root of 3 for what is uniform), or of weights and activations to 12 and 13 bits,
/// or of sums in f32.
fn bound(isa: Isa, form: Form, rows: usize) -> f64 {
    match product::kind(isa, form, rows) {
        Kind::F32 => 2e-6,
        Kind::Int8 => 0.006,
        Kind::Int16 => 4e-4,
        Kind::Bf16 => 4e-3,
    }
}

#[test]
fn every_tier_multiplies_as_the_definition_does() {
    let tiers = Isa::tested();
    let pools = [1, 3].map(|threads| Pool::new(threads).unwrap());
    for form in FORMS {
        let step = form.dtype().block_size();
        for (outputs, columns) in
            [(1, 256), (16, 512), (37, 768), (130, 1280), (24, step * 7), (9, 11 * step)]
        {
            let made = Made::new(form, [outputs, columns], 1);
            for rows in (1..=17).chain([18, 33, 50]) {
                let x = numbers(rows * columns, 99);
                let exact = made.product(&x);
                for &isa in &tiers {
                    let [one, three] = pools.each_ref().map(|pool| {
                        let mut out = vec![f32::NAN; rows * outputs];
                        let part = Part { weights: made.tiles(), out: &mut out, then: Then::Store };
                        products(pool, isa, &mut inputs(pool, &x, columns), &mut [part]);
                        out
                    });
                    assert_eq!(one, three, "threads change nothing");
                    let far = distance(&one, &exact);
                    let name = isa.name();
                    // The fewer the outputs, the more likely that all of them are small by chance.
                    let bound = bound(isa, form, rows) * if outputs < 16 { 5.0 } else { 1.0 };
                    assert!(
                        far < bound,
                        "{name} {form:?} [{outputs}, {columns}] with {rows} rows: {far}"
                    );
                }
            }
        }
    }
}

#[test]
fn tiers_that_round_alike_differ_by_the_order_of_their_sums_alone() {
    let tiers = Isa::tested();
    let pool = Pool::new(1).unwrap();
    for form in FORMS {
        let made = Made::new(form, [48, 1024], 5);
        for rows in [1, 7, 40] {
            let x = numbers(rows * 1024, 4);
            let kind = |isa| product::kind(isa, form, rows);
            let results: Vec<Vec<f32>> = tiers
                .iter()
                .filter(|&&isa| kind(isa) == kind(Isa::PORTABLE))
                .map(|&isa| {
                    let mut out = vec![0.0; rows * 48];
                    let part = Part { weights: made.tiles(), out: &mut out, then: Then::Store };
                    products(&pool, isa, &mut inputs(&pool, &x, 1024), &mut [part]);
                    out
                })
                .collect();
            for result in &results {
                let exact: Vec<f64> = results[0].iter().map(|&v| f64::from(v)).collect();
                assert!(distance(result, &exact) < 2e-6, "{form:?} with {rows} rows");
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_and_beside_others_of_its_kind() {
    let tiers = Isa::tested();
    let pool = Pool::new(2).unwrap();
    for form in FORMS {
        let made = Made::new(form, [40, 512], 8);
        for &isa in &tiers {
            for rows in [3, 16, 17, 29] {
                let x = numbers(rows * 512, 6);
                let run = |x: &[f32]| {
                    let mut out = vec![0.0; x.len() / 512 * 40];
                    let part = Part { weights: made.tiles(), out: &mut out, then: Then::Store };
                    products(&pool, isa, &mut inputs(&pool, x, 512), &mut [part]);
                    out
                };
                let all = run(&x);
                // As many rows as have the same kind of rounding.
                let kind = |rows| product::kind(isa, form, rows);
                let some = [1, 16, 17].into_iter().find(|&some| kind(some) == kind(rows)).unwrap();
                assert_eq!(all[..some * 40], run(&x[..some * 512]), "{form:?} {rows}");
            }
        }
    }
}

#[test]
fn a_gate_may_be_held_otherwise_than_what_it_gates() {
    let tiers = Isa::tested();
    let pool = Pool::new(2).unwrap();
    let made = [Made::new(Form::F32, [40, 256], 1), Made::new(Form::Q4K, [40, 256], 2)];
    for rows in [2, 20] {
        let x = numbers(rows * 256, 3);
        let [a, b] = made.each_ref().map(|made| made.product(&x));
        for &isa in &tiers {
            for (gate, up) in [(0, 1), (1, 0)] {
                let mut out = Inputs::default();
                let tiles = [made[gate].tiles(), made[up].tiles()];
                gated(&pool, isa, &mut inputs(&pool, &x, 256), tiles, &mut out);
                let [of_gate, of_up] = if gate == 0 { [&a, &b] } else { [&b, &a] };
                let exact: Vec<f64> =
                    of_gate.iter().zip(of_up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let rows: Vec<f32> =
                    out.f32().chunks(64).flat_map(|row| row[..40].iter().copied()).collect();
                let far = distance(&rows, &exact);
                assert!(far < 0.02, "{} {gate}: {far}", isa.name());
            }
        }
    }
}

#[test]
fn extremes_do_not_overflow() {
    let tiers = Isa::tested();
    // Weights and activations as large as their blocks can hold, all of one sign.
    let pool = Pool::new(1).unwrap();
    for form in FORMS {
        let columns = 512;
        let fill =
            |rows: std::ops::Range<usize>| Ok::<_, ()>(Fill::F32(vec![-1.0; rows.len() * columns]));
        let blocks = matrix(form.dtype(), [16, columns], fill).unwrap();
        let mut arena = Arena::new(form.bytes(16, columns)).unwrap();
        pack(form, columns, blocks.data(), arena.all_mut());
        let exact: f32 = blocks.expand(0..1).iter().sum();
        for &isa in &tiers {
            for rows in [1, 4, 20] {
                for sign in [1.0f32, -1.0] {
                    let x = vec![sign; rows * columns];
                    let mut out = vec![0.0; rows * 16];
                    let weights =
                        Tiles::new(form, [16, columns], arena.get(0..form.bytes(16, columns)));
                    let part = Part { weights, out: &mut out, then: Then::Store };
                    products(&pool, isa, &mut inputs(&pool, &x, columns), &mut [part]);
                    for out in out {
                        assert!((out - sign * exact).abs() < 1.0, "{form:?}: {out} for {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn results_are_stored_added_and_biased() {
    let tiers = Isa::tested();
    let pool = Pool::new(2).unwrap();
    let (a, b) = (Made::new(Form::F32, [20, 64], 1), Made::new(Form::Q8_0, [33, 64], 2));
    let x = numbers(3 * 64, 5);
    let bias: Vec<f32> = numbers(20, 9);
    let exact_a = a.product(&x);
    let exact_b = b.product(&x);
    for &isa in &tiers {
        let (mut first, mut second) = (vec![f32::NAN; 60], vec![1.0; 99]);
        let parts = &mut [
            Part { weights: a.tiles(), out: &mut first, then: Then::Bias(&bias) },
            Part { weights: b.tiles(), out: &mut second, then: Then::Add },
        ];
        products(&pool, isa, &mut inputs(&pool, &x, 64), parts);
        for (i, (out, exact)) in first.iter().zip(&exact_a).enumerate() {
            assert!((f64::from(*out - bias[i % 20]) - exact).abs() < 1e-5);
        }
        for (out, exact) in second.iter().zip(&exact_b) {
            assert!((f64::from(*out) - 1.0 - exact).abs() < 0.1);
        }
        let up = Made::new(Form::F32, [20, 64], 7);
        let exact_up = up.product(&x);
        let mut out = Inputs::default();
        gated(&pool, isa, &mut inputs(&pool, &x, 64), [a.tiles(), up.tiles()], &mut out);
        assert_eq!((out.rows(), out.columns()), (3, 32));
        for (i, (gate, up)) in exact_a.iter().zip(&exact_up).enumerate() {
            let exact = gate / (1.0 + (-gate).exp()) * up;
            assert!((f64::from(out.f32()[i / 20 * 32 + i % 20]) - exact).abs() < 1e-4);
        }
        assert!(out.f32()[20..32].iter().all(|&v| v == 0.0), "padding is zero");
    }
}

/// Attention as its formula says, in f64: one query against the keys and values up to its position.
fn formula(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
    let dot =
        |k: &Vec<f32>| -> f64 { q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum() };
    let scores: Vec<f64> = keys.iter().map(dot).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..q.len())
        .map(|i| weights.iter().zip(values).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / sum)
        .collect()
}

#[test]
fn attention_is_its_formula_for_ragged_passes() {
    let tiers = Isa::tested();
    let (heads, group, width) = (2, 3, 32);
    let [one, pool] = [1, 3].map(|threads| Pool::new(threads).unwrap());
    for &isa in &tiers {
        for (held, bound) in [(Held::F32, 2e-6), (Held::Bf16, 1.5e-2)] {
            let mut cache = Cache::new(Layout { layers: 2, heads, width, held });
            cache.reset(3);
            let mut keys = vec![vec![Vec::new(); heads]; 3];
            let mut values = keys.clone();
            // Chunks of several sequences, one alone, single tokens beside prompts, and contexts of
            // more than one part.
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
                let salt = 10 * number as u64;
                let (k, v) =
                    (numbers(rows * heads * width, salt), numbers(rows * heads * width, salt + 1));
                let q = numbers(rows * heads * group * width, salt + 2);
                let mut spans = Vec::new();
                let mut start = 0;
                for &(sequence, rows) in *pass {
                    let past = cache.length(sequence).unwrap();
                    cache.grow(sequence, past + rows).unwrap();
                    spans.push(Span { sequence, start, rows, past });
                    start += rows;
                }
                cache.append(&pool, 1, &spans, &k, &v);
                let mut out = Inputs::default();
                attend(&pool, isa, &cache, 1, &spans, &q, &mut out);
                let mut alone = Inputs::default();
                attend(&one, isa, &cache, 1, &spans, &q, &mut alone);
                assert_eq!(out.f32(), alone.f32(), "threads change nothing");
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
                            let far = distance(&out.f32()[from..from + width], &exact);
                            assert!(
                                far < bound,
                                "{} {held:?} {span:?} row {row}: {far}",
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
fn weights_that_are_not_numbers_are_seen() {
    let tiers = Isa::tested();
    let pool = Pool::new(1).unwrap();
    let made = Made::new(Form::Q8_0, [16, 256], 1);
    for &isa in &tiers {
        let mut x = numbers(256, 3);
        x[7] = f32::NAN;
        let mut out = vec![0.0; 16];
        let part = Part { weights: made.tiles(), out: &mut out, then: Then::Store };
        products(&pool, isa, &mut inputs(&pool, &x, 256), &mut [part]);
        assert!(out.iter().all(|v| v.is_nan()), "{}", isa.name());
    }
}

#[test]
fn a_weight_of_each_form_reads_as_its_layout_says() {
    // One block by hand: scale 0.5, quants 0, 1, 2, ...
    let mut row = vec![0x00, 0x38];
    row.extend(0..32u8);
    let mut tile = vec![0; Form::Q8_0.tile_bytes(32)];
    pack(Form::Q8_0, 32, &row, &mut tile);
    for column in 0..32 {
        assert_eq!(weight(Form::Q8_0, &tile, column, 0), column as f32 / 2.0);
        assert_eq!(weight(Form::Q8_0, &tile, column, 1), 0.0);
    }
    assert_eq!(Form::of(GgmlDType::Q5_0), None);
}

#[test]
fn a_tile_takes_the_bytes_of_its_rows_and_half_a_line_for_an_odd_block() {
    for (form, columns, bytes) in [
        (Form::Q8_0, 64, 16 * 2 * 34),
        (Form::Q8_0, 96, 16 * 3 * 34 + 32),
        (Form::Q4K, 768, 16 * 3 * 144),
        (Form::Q6K, 512, 16 * 2 * 210),
        (Form::Q6K, 768, 16 * 3 * 210 + 32),
    ] {
        assert_eq!(form.tile_bytes(columns), bytes, "{form:?} {columns}");
    }
    // Rows of the first and second block of two, and of one that is alone: scales 1, 2 and 3.
    let row: Vec<u8> =
        [0x3c, 0x40, 0x42].iter().flat_map(|&d| [vec![0, d], vec![1; 32]].concat()).collect();
    let mut tile = vec![0; Form::Q8_0.tile_bytes(96)];
    pack(Form::Q8_0, 96, &row, &mut tile);
    for (column, value) in [(0, 1.0), (31, 1.0), (32, 2.0), (63, 2.0), (64, 3.0), (95, 3.0)] {
        assert_eq!(weight(Form::Q8_0, &tile, column, 0), value, "{column}");
    }
    assert_eq!((tile[1], tile[33], tile[64 + 2 * 512 + 1]), (0x3c, 0x40, 0x42), "in order");
}
