//! Attention of the rows of a pass over the cached positions of their sequences, causal. Query
//! heads that share a key-value head go together as rows of one product, a page of positions at a
//! time, with the softmax kept up as pages pass by (Milakov and Gimelshein 2018, arXiv 1805.02867;
//! Dao et al. 2022, arXiv 2205.14135): memory does not grow with the context.

use super::cache::{Cache, Held, Layout, PAGE, Span};
use super::elementwise::exp;
#[cfg(target_arch = "x86_64")]
use super::inputs::Square;
#[cfg(target_arch = "x86_64")]
use super::inputs::to_bf16;
use super::inputs::{Inputs, Kind};
use super::isa::{Isa, Tier, tiered};
use super::pool::{Pool, Raw};
use super::portable::Lanes;
use super::product::plain;
#[cfg(target_arch = "x86_64")]
use super::tiles::Form;
use super::tiles::{BLOCK, TILE};

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;

/// Rows of queries, heads of a group counted each, that see a page together: they share its
/// widening to f32.
const QUERIES: usize = 64;

/// Positions that are one part of the work of few rows, so that a long context keeps all threads
/// busy. Parts are joined in order, so results depend on this number and not on that of threads.
const PART: usize = 1024;

/// What a task computes: rows of a span, for a key-value head, over some positions.
struct Task {
    span: Span,
    head: usize,
    /// First row within the span, and how many.
    first: usize,
    rows: usize,
    positions: std::ops::Range<usize>,
}

/// A softmax that has seen some positions, for rows of queries.
struct Running {
    /// `[width / 16][rows]`, a matrix unit's rows padded to whole squares: weighted sums of
    /// values.
    values: Vec<Lanes>,
    /// Those rows with their padding.
    padded: usize,
    /// The largest score, and the sum of e^(score - largest).
    most: Vec<f32>,
    sums: Vec<f32>,
}

/// How queries are rounded for keys, and what the softmax makes of scores for values: of a sequence
/// with so many rows of queries in a pass, heads that share a key-value head counted each.
pub fn attention_kind(isa: Isa, layout: Layout, rows: usize) -> Kind {
    let in_squares = rows > TILE && layout.width.is_multiple_of(BLOCK);
    match layout.held {
        Held::Bf16 if in_squares && isa.multiplies_bf16() => Kind::Bf16,
        Held::Bf16 | Held::F32 => Kind::F32,
    }
}

/// `out[row][head] = softmax(q · keys) · values` over the positions up to the row's own, as the
/// rows of a product: `q` is `[rows, heads * width]`, scaled before, and keys and values of these
/// rows are appended.
///
/// # Panics
/// When sizes do not fit.
pub fn attend(
    pool: &Pool,
    isa: Isa,
    cache: &Cache,
    layer: usize,
    spans: &[Span],
    q: &[f32],
    out: &mut Inputs,
) {
    let Layout { heads, width, .. } = cache.layout();
    let rows: usize = spans.iter().map(|span| span.rows).sum();
    let stride = q.len() / rows;
    assert_eq!(q.len(), rows * stride, "whole rows");
    let group = stride / width / heads;
    assert_eq!(stride, group * heads * width, "query heads share key-value heads evenly");
    let mut tasks: Vec<Task> = Vec::new();
    // Tasks of the same rows follow one another: their number.
    let mut joined: Vec<usize> = Vec::new();
    for span in spans {
        let block = (QUERIES / group).max(1);
        for first in (0..span.rows).step_by(block) {
            let rows = block.min(span.rows - first);
            let seen = span.past + first + rows;
            let part = if span.rows * group <= TILE { PART } else { seen };
            for head in 0..heads {
                joined.push(seen.div_ceil(part));
                for start in (0..seen).step_by(part) {
                    let positions = start..seen.min(start + part);
                    tasks.push(Task { span: *span, head, first, rows, positions });
                }
            }
        }
    }
    let mut results: Vec<Option<Running>> = Vec::new();
    results.resize_with(tasks.len(), || None);
    let whole = joined.iter().all(|&parts| parts == 1);
    let out_rows = Raw::new(out.room(rows, stride));
    let out_stride = out.columns();
    let finish = |task: &Task, running: &Running| {
        let rows = running.most.len();
        for row in 0..rows {
            let at = (task.span.start + task.first + row / group) * out_stride
                + (task.head * group + row % group) * width;
            // SAFETY: the heads of a group in a row are written once, by the last who has them.
            let out = unsafe { out_rows.slice(at, width) };
            let scale = 1.0 / running.sums[row];
            for (chunk, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                let values = &running.values[chunk * running.padded + row];
                for lane in 0..TILE {
                    out[lane] = values[lane] * scale;
                }
            }
        }
    };
    // Longer contexts first, so that no thread is left with one at the end.
    let slots = Raw::new(&mut results);
    pool.run(tasks.len(), |number, _| {
        let number = tasks.len() - 1 - number;
        let running = run(isa, cache, layer, q, stride, group, &tasks[number]);
        if whole {
            finish(&tasks[number], &running);
        } else {
            // SAFETY: each task has a slot of its own.
            let slot = unsafe { slots.slice(number, 1) };
            slot[0] = Some(running);
        }
    });
    if !whole {
        let mut at = 0;
        for parts in joined {
            let running = results[at..at + parts].iter_mut().filter_map(Option::take).reduce(join);
            finish(&tasks[at], &running.expect("a row sees itself"));
            at += parts;
        }
    }
}

/// The softmax over the positions of both.
fn join(mut a: Running, b: Running) -> Running {
    let padded = a.padded;
    for row in 0..a.most.len() {
        let most = a.most[row].max(b.most[row]);
        let (of_a, of_b) = (exp(a.most[row] - most), exp(b.most[row] - most));
        a.most[row] = most;
        a.sums[row] = a.sums[row] * of_a + b.sums[row] * of_b;
        for (a, b) in
            a.values[row..].iter_mut().step_by(padded).zip(b.values[row..].iter().step_by(padded))
        {
            for lane in 0..TILE {
                a[lane] = a[lane] * of_a + b[lane] * of_b;
            }
        }
    }
    a
}

fn run(
    isa: Isa,
    cache: &Cache,
    layer: usize,
    q: &[f32],
    stride: usize,
    group: usize,
    task: &Task,
) -> Running {
    let Layout { width, held, .. } = cache.layout();
    let rows = task.rows * group;
    let mut queries = Vec::with_capacity(rows * width);
    for row in 0..task.rows {
        let at = (task.span.start + task.first + row) * stride + task.head * group * width;
        queries.extend_from_slice(&q[at..at + group * width]);
    }
    let in_squares = attention_kind(isa, cache.layout(), task.span.rows * group) == Kind::Bf16;
    let padded = if in_squares { rows.next_multiple_of(TILE) } else { rows };
    let mut running = Running {
        values: vec![[0.0; TILE]; width / TILE * padded],
        padded,
        most: vec![f32::NEG_INFINITY; rows],
        sums: vec![0.0; rows],
    };
    #[cfg(target_arch = "x86_64")]
    if in_squares {
        run_in_squares(isa, cache, layer, &queries, group, task, &mut running);
        return running;
    }
    let mut scores = vec![[0f32; TILE]; PAGE / TILE * rows];
    let mut weights = vec![[0f32; PAGE]; rows];
    let (in_pairs, widened) = match held {
        Held::F32 => (false, false),
        Held::Bf16 => (isa.sums_bytes(), !isa.sums_bytes()),
    };
    let mut lines = vec![0f32; if widened { PAGE * width } else { 0 }];
    for start in task.positions.clone().step_by(PAGE) {
        let (keys, values) = cache.page(task.span.sequence, layer, task.head, start);
        let end = task.positions.end.min(start + PAGE);
        let blocks = (end - start).div_ceil(TILE);
        scores.fill([0.0; TILE]);
        let of_blocks = scores.chunks_exact_mut(rows).take(blocks);
        if in_pairs {
            let lines = keys.as_chunks().0.chunks_exact(width / 2);
            for (lines, scores) in lines.zip(of_blocks) {
                of_pairs(isa, lines, 1, width, &queries, width, scores);
            }
        } else {
            let of_keys = if widened {
                widen_pairs(isa, keys, TILE, &mut lines[..blocks * TILE * width]);
                lines.as_slice()
            } else {
                bytemuck::cast_slice(keys)
            };
            for (lines, scores) in of_keys.chunks_exact(TILE * width).zip(of_blocks) {
                plain(isa, lines, TILE, width, &queries, width, scores);
            }
        }
        // Rows of one position see as many.
        let before = task.span.past + task.first;
        soften(isa, group, before, start..end, &scores, &mut weights, &mut running);
        let (of_chunks, x) = (running.values.chunks_exact_mut(rows), weights.as_flattened());
        if in_pairs {
            let lines = values.as_chunks().0;
            for (chunk, sums) in of_chunks.enumerate() {
                of_pairs(isa, &lines[chunk..], width / TILE, end - start, x, PAGE, sums);
            }
        } else {
            let of_values = if widened {
                widen_pairs(isa, values, width, &mut lines);
                lines.as_slice()
            } else {
                bytemuck::cast_slice(values)
            };
            for (chunk, sums) in of_chunks.enumerate() {
                plain(isa, &of_values[chunk * TILE..], width, end - start, x, PAGE, sums);
            }
        }
    }
    running
}

/// The same where bf16 is multiplied, by a matrix unit or without one: keys and values are weights
/// as they lie, and queries, and what the softmax makes of scores, are rounded to bf16 too.
#[cfg(target_arch = "x86_64")]
fn run_in_squares(
    isa: Isa,
    cache: &Cache,
    layer: usize,
    queries: &[f32],
    group: usize,
    task: &Task,
    running: &mut Running,
) {
    assert!(isa.multiplies_bf16(), "{} does not multiply bf16", isa.name());
    let width = cache.layout().width;
    let (padded, across) = (running.padded, width / BLOCK);
    let mut q = vec![Square::ZERO; padded / TILE * across];
    for (rows, squares) in queries.chunks(TILE * width).zip(q.chunks_exact_mut(across)) {
        to_bf16(isa, width, rows, squares);
    }
    let mut scores = vec![[0f32; TILE]; PAGE / TILE * padded];
    let mut weights = vec![[0f32; PAGE]; running.most.len()];
    let mut p = vec![Square::ZERO; padded / TILE];
    let mut beginning = Vec::new();
    // SAFETY: an `Isa` with a matrix unit is only made on a CPU that has one.
    let unit = isa.multiplies_matrices().then(|| unsafe { amx::Unit::new() });
    for start in task.positions.clone().step_by(PAGE) {
        let (keys, mut values) = cache.page(task.span.sequence, layer, task.head, start);
        let end = task.positions.end.min(start + PAGE);
        let (first, second) = keys.split_at(keys.len() / 2);
        let (of_first, of_second) = scores.split_at_mut(padded);
        match &unit {
            Some(unit) => unit.products(&q, [first, second], [of_first, of_second]),
            // SAFETY: the CPU multiplies bf16, as was asserted.
            None => unsafe {
                avx512bf16::products(&q, first, of_first);
                avx512bf16::products(&q, second, of_second);
            },
        }
        let before = task.span.past + task.first;
        soften(isa, group, before, start..end, &scores, &mut weights, running);
        for (rows, square) in weights.chunks(TILE).zip(&mut p) {
            to_bf16(isa, PAGE, rows.as_flattened(), std::slice::from_mut(square));
        }
        if end - start <= TILE {
            // The second half may never have been written, and what is there may not even be
            // multiplied with 0: see `append`.
            beginning.clear();
            beginning.extend_from_slice(&values[..values.len() / 2]);
            beginning.resize(values.len(), 0);
            values = &beginning;
        }
        match &unit {
            Some(unit) => unit.add(&p, values, &mut running.values),
            // SAFETY: as above.
            None => unsafe { avx512bf16::add(&p, values, &mut running.values) },
        }
    }
}

tiered! {
    /// Makes weights of scores: e^(score - largest so far), 0 for positions that a row does not see; and scales what was
    /// summed so far where the largest has changed.
    fn soften(
        group: usize,
        before: usize,
        positions: std::ops::Range<usize>,
        scores: &[Lanes],
        weights: &mut [[f32; PAGE]],
        running: &mut Running,
    ) {
        let padded = running.padded;
        for (row, weights) in weights.iter_mut().enumerate() {
            let sees = (before + row / group + 1).min(positions.end);
            let sees = sees.saturating_sub(positions.start);
            for block in 0..PAGE / TILE {
                weights[block * TILE..(block + 1) * TILE].copy_from_slice(&scores[block * padded + row]);
            }
            if sees < PAGE {
                weights[sees..].fill(f32::NEG_INFINITY);
            }
            let mut lanes = [f32::NEG_INFINITY; TILE];
            for block in weights.as_chunks::<TILE>().0 {
                for lane in 0..TILE {
                    lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
                }
            }
            let most = lanes.into_iter().fold(running.most[row], f32::max);
            if most == f32::NEG_INFINITY {
                weights.fill(0.0);
                continue;
            }
            let mut sums = [0f32; TILE];
            for block in weights.as_chunks_mut::<TILE>().0 {
                for lane in 0..TILE {
                    block[lane] = exp(block[lane] - most);
                    sums[lane] += block[lane];
                }
            }
            let sum: f32 = sums.iter().sum();
            if most > running.most[row] {
                let factor = exp(running.most[row] - most);
                running.most[row] = most;
                running.sums[row] *= factor;
                for values in running.values[row..].iter_mut().step_by(padded) {
                    for value in values {
                        *value *= factor;
                    }
                }
            }
            running.sums[row] += sum;
        }
    }
}

/// Lines of pairs of bf16 with f32 rows, without widening them first, for tiers that have it,
/// AVX-512 and up.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no such tier"))]
fn of_pairs(
    isa: Isa,
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes],
) {
    match isa.tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these tiers is only made on a CPU that has AVX-512.
        Tier::Avx512 | Tier::Amx => unsafe {
            avx512::wide(Form::Bf16, lines, step, columns, x, stride, out);
        },
        Tier::Portable => unreachable!("{} has to widen them", isa.name()),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unreachable!("{} has to widen them", isa.name()),
    }
}

/// Lines of `across` pairs of bf16 as two lines of f32 each.
fn widen_pairs(isa: Isa, pairs: &[u8], across: usize, lines: &mut [f32]) {
    let pairs: &[[u16; 2]] = &bytemuck::cast_slice(pairs)[..lines.len() / 2];
    match isa.tier() {
        Tier::Portable => {
            for (pairs, lines) in pairs.chunks_exact(across).zip(lines.chunks_exact_mut(2 * across))
            {
                let (even, odd) = lines.split_at_mut(across);
                for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
                    [*even, *odd] = pair.map(|bits| f32::from_bits(u32::from(bits) << 16));
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe { avx2::widen_pairs(pairs, across, lines) },
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Amx => unreachable!("{} reads them as they are", isa.name()),
    }
}
