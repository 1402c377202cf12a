//! Products of activations with packed matrices, tile by tile on all threads. Every sum is taken in
//! an order that depends on the instructions and on whether rows are few or many, never on the
//! number of threads or on what other rows there are.

use std::ops::Range;

use super::elementwise::silu_times;
use super::inputs::{Inputs, Int8, Int16, Kind};
use super::isa::{Isa, Tier};
use super::pool::{Pool, Raw};
use super::portable;
use super::portable::{Lanes, Panel};
use super::tiles::{Form, SUPER, TILE, Tiles};

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;

/// Rows from which weights of 8 and 16 bits are made a panel of 16-bit integers first, or
/// activations bf16.
const MANY_ROWS: usize = 17;

/// Rows up to which integers are as fast as a matrix unit: it would multiply no more at a time, and
/// weights be made squares for it.
const SQUARE_ROWS: usize = 16;

/// Tiles that share the rows of squares which they meet, and the bytes they may take so that these
/// stay in the second cache.
const SQUARE_TILES: usize = 4;
const SQUARE_BYTES: usize = 1 << 19;

/// Sums of a matrix that are kept before those of the next are begun.
const STRETCH: usize = 32;

/// Bytes of weights that a task of few rows reads at least, so that it outlasts being given out.
const TASK_BYTES: usize = 1 << 14;

/// What becomes of a product.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// It is the result.
    Store,
    /// It is added to what is there.
    Add,
    /// It is the result, with this added to every row.
    Bias(&'a [f32]),
}

/// A matrix to multiply with, and where `[rows, outputs]` of it go.
pub struct Part<'a> {
    /// The matrix.
    pub weights: Tiles<'a>,
    /// The result.
    pub out: &'a mut [f32],
    /// How it gets there.
    pub then: Then<'a>,
}

/// How activations are rounded for a matrix.
pub fn kind(isa: Isa, form: Form, rows: usize) -> Kind {
    match form {
        Form::F32 => Kind::F32,
        Form::F16 | Form::Bf16 if rows < MANY_ROWS => Kind::F32,
        Form::Bf16 if isa.multiplies_bf16() => Kind::Bf16,
        Form::F16 if isa.multiplies_matrices() => Kind::Bf16,
        Form::Bf16 | Form::Q8_0 | Form::Q4K | Form::Q6K
            if isa.multiplies_matrices() && rows > SQUARE_ROWS =>
        {
            Kind::Bf16
        }
        Form::Q8_0 if isa.sums_bytes() || rows < MANY_ROWS => Kind::Int8,
        Form::F16 | Form::Bf16 | Form::Q8_0 => Kind::Int16,
        Form::Q4K | Form::Q6K => Kind::Int8,
    }
}

/// Whether a matrix unit multiplies.
fn in_squares(isa: Isa, form: Form, rows: usize) -> bool {
    isa.multiplies_matrices() && kind(isa, form, rows) == Kind::Bf16
}

/// `out[r][o] = x[r] · w[o]` for each of the parts, in one parallel region.
///
/// # Panics
/// When a matrix has other columns than the rows, or a result another size.
pub fn products(pool: &Pool, isa: Isa, x: &mut Inputs, parts: &mut [Part<'_>]) {
    let rows = x.rows();
    for part in &*parts {
        check(x, &part.weights);
        assert_eq!(part.out.len(), rows * part.weights.outputs, "[rows, outputs]");
        if let Then::Bias(bias) = part.then {
            assert_eq!(bias.len(), part.weights.outputs, "a bias for each output");
        }
        x.make(isa, pool, kind(isa, part.weights.form, rows));
    }
    let x = &*x;
    let matrices: Vec<Tiles<'_>> = parts.iter().map(|part| part.weights).collect();
    let tasks = tasks(isa, &matrices, rows, pool.threads());
    let outs: Vec<_> =
        parts.iter_mut().map(|part| (part.weights, Raw::new(part.out), part.then)).collect();
    pool.run(tasks.len(), |number, _| {
        let (part, tiles) = tasks[number].clone();
        let (weights, out, then) = &outs[part];
        with_sums(isa, [weights], tiles, x, |tile, [sums]| {
            let at = tile * TILE;
            let width = TILE.min(weights.outputs - at);
            for (row, sums) in sums.iter().enumerate() {
                // SAFETY: the columns of a tile of a part are this task's alone.
                let out = unsafe { out.slice(row * weights.outputs + at, width) };
                match then {
                    Then::Store => put(out, sums),
                    Then::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                    Then::Bias(bias) => {
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[at..]) {
                            *out = sum + bias;
                        }
                    }
                }
            }
        });
    });
}

/// `out = silu(x · gate) * (x · up)`, as the rows of another product.
///
/// # Panics
/// When a matrix has other columns than the rows, or the two differ in shape.
pub fn gated(pool: &Pool, isa: Isa, x: &mut Inputs, [gate, up]: [Tiles<'_>; 2], out: &mut Inputs) {
    let rows = x.rows();
    check(x, &gate);
    check(x, &up);
    assert_eq!(gate.outputs, up.outputs, "a gate for each output");
    x.make(isa, pool, kind(isa, gate.form, rows));
    x.make(isa, pool, kind(isa, up.form, rows));
    let (x, outputs) = (&*x, gate.outputs);
    let tasks = tasks(isa, &[gate], rows, pool.threads());
    let out_rows = Raw::new(out.room(rows, outputs));
    let stride = out.columns();
    pool.run(tasks.len(), |number, _| {
        let tiles = tasks[number].1.clone();
        with_sums(isa, [&gate, &up], tiles, x, |tile, [gates, ups]| {
            silu_times(isa, gates.as_flattened_mut(), ups.as_flattened());
            let at = tile * TILE;
            let width = TILE.min(outputs - at);
            for (row, values) in gates.iter().enumerate() {
                // SAFETY: the columns of a tile are this task's alone.
                let out = unsafe { out_rows.slice(row * stride + at, width) };
                put(out, values);
            }
        });
    });
}

/// Writes sums, fewer than there are where a matrix ends within a tile.
fn put(out: &mut [f32], sums: &Lanes) {
    match out.as_mut_array() {
        Some(out) => *out = *sums, // Without a call.
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

fn check(x: &Inputs, weights: &Tiles<'_>) {
    let columns = weights.columns.next_multiple_of(super::tiles::BLOCK);
    assert_eq!(x.columns(), columns, "a weight for each activation");
}

/// The tiles of matrices, those of one after those of another, as tasks: `(matrix, tiles)`. Where
/// weights are read once, for few rows, a task is a share of what is left: the first are long,
/// since memory is read fastest in long stretches, and the last short, so that no thread waits long
/// for another.
fn tasks(
    isa: Isa,
    matrices: &[Tiles<'_>],
    rows: usize,
    threads: usize,
) -> Vec<(usize, Range<usize>)> {
    let mut left: usize = matrices.iter().map(Tiles::count).sum();
    let mut tasks = Vec::new();
    for (number, weights) in matrices.iter().enumerate() {
        let tile = weights.form.tile_bytes(weights.columns).max(1);
        let mut first = 0;
        while first < weights.count() {
            let share = if in_squares(isa, weights.form, rows) {
                SQUARE_TILES.min(left / (4 * threads))
            } else if rows >= MANY_ROWS {
                1
            } else {
                (left / (2 * threads)).max(TASK_BYTES / tile)
            };
            let count = share.clamp(1, weights.count() - first);
            tasks.push((number, first..first + count));
            (first, left) = (first + count, left - count);
        }
    }
    tasks
}

/// Hands the products of all rows with each of some tiles of matrices of the same shape to `then`.
fn with_sums<const MATRICES: usize>(
    isa: Isa,
    matrices: [&Tiles<'_>; MATRICES],
    tiles: Range<usize>,
    x: &Inputs,
    mut then: impl FnMut(usize, [&mut [Lanes]; MATRICES]),
) {
    let rows = x.rows();
    #[cfg(target_arch = "x86_64")]
    if matrices.iter().all(|weights| in_squares(isa, weights.form, rows)) {
        return by_squares(isa, matrices, tiles, x, then);
    }
    // Of one matrix before those of the next: memory is read fastest in long stretches.
    let stretch = (STRETCH / rows).max(1);
    let mut few = [[0f32; TILE]; 2 * STRETCH];
    let mut many = Vec::new();
    let all = if MATRICES * stretch * rows <= few.len() {
        &mut few[..MATRICES * stretch * rows]
    } else {
        many.resize(MATRICES * stretch * rows, [0f32; TILE]);
        &mut many
    };
    for first in tiles.clone().step_by(stretch) {
        let some = first..tiles.end.min(first + stretch);
        all.fill([0.0; TILE]);
        for (weights, sums) in matrices.iter().zip(all.chunks_exact_mut(stretch * rows)) {
            for (tile, sums) in some.clone().zip(sums.chunks_exact_mut(rows)) {
                multiply(isa, weights, tile, x, sums);
            }
        }
        let mut of_matrices = all.chunks_exact_mut(stretch * rows);
        let mut of_matrices: [_; MATRICES] = std::array::from_fn(|_| {
            of_matrices.next().expect("a part for each matrix").chunks_exact_mut(rows)
        });
        for tile in some {
            then(tile, of_matrices.each_mut().map(|sums| sums.next().expect("sums of each tile")));
        }
    }
}

/// The same with a matrix unit, which multiplies several tiles at once and writes whole squares of
/// sums.
#[cfg(target_arch = "x86_64")]
fn by_squares<const MATRICES: usize>(
    isa: Isa,
    matrices: [&Tiles<'_>; MATRICES],
    tiles: Range<usize>,
    x: &Inputs,
    mut then: impl FnMut(usize, [&mut [Lanes]; MATRICES]),
) {
    assert!(isa.multiplies_matrices(), "{} has no matrix unit", isa.name());
    let (rows, padded) = (x.rows(), x.rows().next_multiple_of(TILE));
    let fit = SQUARE_BYTES / (x.columns() * TILE * 2);
    let step = (fit.min(SQUARE_TILES) / MATRICES).max(2 / MATRICES);
    let mut all = vec![[0f32; TILE]; step * MATRICES * padded];
    for first in tiles.clone().step_by(step) {
        let some = first..tiles.end.min(first + step);
        let mut sums: Vec<&mut [Lanes]> =
            all.chunks_exact_mut(padded).take(some.len() * MATRICES).collect();
        let weights: Vec<(Form, &[u8])> = some
            .clone()
            .flat_map(|tile| matrices.map(|weights| (weights.form, weights.tile(tile))))
            .collect();
        // SAFETY: asserted above, and an `Isa` of a tier with a matrix unit is only made on a CPU
        // that has it.
        unsafe { amx::products(&weights, x.columns(), x.squares(), &mut sums) };
        let mut sums = sums.into_iter().map(|sums| &mut sums[..rows]);
        for tile in some {
            then(tile, matrices.map(|_| sums.next().expect("sums of each tile")));
        }
    }
}

/// Adds the products of all rows with a tile to `sums`.
fn multiply(isa: Isa, weights: &Tiles<'_>, number: usize, x: &Inputs, sums: &mut [Lanes]) {
    let (form, tile) = (weights.form, weights.tile(number));
    let kind = kind(isa, form, x.rows());
    match kind {
        Kind::F32 => match form {
            Form::F32 => plain(isa, floats(tile), TILE, x.columns(), x.f32(), x.columns(), sums),
            Form::F16 | Form::Bf16 => wide(isa, form, tile, x.columns(), x.f32(), sums),
            Form::Q8_0 | Form::Q4K | Form::Q6K => never(form, kind),
        },
        Kind::Int8 => int8(isa, form, tile, x.int8(), sums),
        Kind::Int16 => match form {
            Form::Q8_0 => {
                let mut panel = Panel::EMPTY;
                for block in 0..x.columns().div_ceil(SUPER) {
                    panel_of_q8_0(isa, tile, x.columns(), block, &mut panel);
                    by_panel(isa, &panel, x.int16(block), sums);
                }
            }
            Form::F16 | Form::Bf16 => {
                let mut lines = [[0f32; TILE]; SUPER];
                let mut panel = Panel::EMPTY;
                for (block, first) in (0..x.columns()).step_by(SUPER).enumerate() {
                    let count = SUPER.min(x.columns() - first);
                    widen(isa, form, tile, first, &mut lines[..count]);
                    round_panel(isa, &lines[..count], &mut panel);
                    by_panel(isa, &panel, x.int16(block), sums);
                }
            }
            Form::F32 | Form::Q4K | Form::Q6K => never(form, kind),
        },
        #[cfg(target_arch = "x86_64")]
        Kind::Bf16 if isa.multiplies_matrices() => {
            by_squares(isa, [weights], number..number + 1, x, |_, [products]| {
                sums.copy_from_slice(products);
            });
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Bf16 if isa.multiplies_bf16() && form == Form::Bf16 => {
            // SAFETY: the CPU multiplies bf16, as was just asked.
            unsafe { avx512bf16::products(x.squares(), tile, sums) }
        }
        Kind::Bf16 => never(form, kind),
    }
}

/// Where [`kind`] never leads.
#[cold]
fn never(form: Form, kind: Kind) -> ! {
    unreachable!("weights held as {form:?} do not meet activations rounded to {kind:?}")
}

/// Activations of 8 bits with a tile.
pub(super) fn int8(isa: Isa, form: Form, tile: &[u8], x: Int8<'_>, sums: &mut [Lanes]) {
    match isa.tier() {
        Tier::Portable => match form {
            Form::Q8_0 => portable::q8_0(tile, x, sums),
            Form::Q4K => portable::q4_k(tile, x, sums),
            Form::Q6K => portable::q6_k(tile, x, sums),
            Form::F32 | Form::F16 | Form::Bf16 => never(form, Kind::Int8),
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe {
            match form {
                Form::Q8_0 => avx2::q8_0(tile, x, sums),
                Form::Q4K => avx2::q4_k(tile, x, sums),
                Form::Q6K => avx2::q6_k(tile, x, sums),
                Form::F32 | Form::F16 | Form::Bf16 => never(form, Kind::Int8),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Amx => unsafe {
            match form {
                Form::Q8_0 => avx512::q8_0(tile, x, sums),
                Form::Q4K => avx512::q4_k(tile, x, sums),
                Form::Q6K => avx512::q6_k(tile, x, sums),
                Form::F32 | Form::F16 | Form::Bf16 => never(form, Kind::Int8),
            }
        },
    }
}

/// Weights of 16 bits with f32 activations of few rows.
pub(super) fn wide(
    isa: Isa,
    form: Form,
    tile: &[u8],
    columns: usize,
    x: &[f32],
    sums: &mut [Lanes],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.sums_bytes() {
        let lines = tile.as_chunks().0;
        // SAFETY: tiers that sum bytes have AVX-512, and an `Isa` of them is only made on a CPU
        // that has it.
        return unsafe { avx512::wide(form, lines, 1, columns, x, columns, sums) };
    }
    let mut lines = [[0f32; TILE]; 64];
    for first in (0..columns).step_by(lines.len()) {
        let count = lines.len().min(columns - first);
        widen(isa, form, tile, first, &mut lines[..count]);
        let lines = lines.as_flattened();
        plain(isa, lines, TILE, count, &x[first..], columns, sums);
    }
}

/// The bytes of f32 weights as numbers.
fn floats(tile: &[u8]) -> &[f32] {
    bytemuck::try_cast_slice(tile).expect("tiles begin at a line's boundary")
}

/// See [`portable::plain`].
pub(super) fn plain(
    isa: Isa,
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [Lanes],
) {
    match isa.tier() {
        Tier::Portable => portable::plain(lines, step, columns, x, stride, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe { avx2::plain(lines, step, columns, x, stride, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::plain(lines, step, columns, x, stride, out) },
    }
}

/// Weights of 16 bits from a column on as f32 lines.
fn widen(isa: Isa, form: Form, tile: &[u8], first: usize, lines: &mut [Lanes]) {
    match isa.tier() {
        Tier::Portable => portable::widen(form, tile, first, lines),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe { avx2::widen(form, tile, first, lines) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::widen(form, tile, first, lines) },
    }
}

pub(super) fn panel_of_q8_0(
    isa: Isa,
    tile: &[u8],
    columns: usize,
    block: usize,
    panel: &mut Panel,
) {
    match isa.tier() {
        Tier::Portable => portable::panel_of_q8_0(tile, columns, block, panel),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these tiers is only made on a CPU that has AVX2.
        Tier::Avx2 | Tier::Avx512 | Tier::Amx => unsafe {
            avx2::panel_of_q8_0(tile, columns, block, panel)
        },
    }
}

fn round_panel(isa: Isa, lines: &[Lanes], panel: &mut Panel) {
    match isa.tier() {
        Tier::Portable => portable::round_panel(lines, panel),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe { avx2::round_panel(lines, panel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::round_panel(lines, panel) },
    }
}

pub(super) fn by_panel(isa: Isa, panel: &Panel, x: Int16<'_>, sums: &mut [Lanes]) {
    match isa.tier() {
        Tier::Portable => portable::panel(panel, x, sums),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        Tier::Avx2 => unsafe { avx2::panel(panel, x, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::panel(panel, x, sums) },
    }
}
