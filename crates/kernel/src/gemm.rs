//! GEMM: activations times packed matrices, panel by panel on all threads. Decode (up to sixteen
//! rows) is a batched GEMV, bound by the bandwidth of reading weights once; prefill is bound by
//! arithmetic.
//!
//! The order of additions depends on the kernel tier and on whether it is decode or prefill, never
//! on the number of threads or on the other rows: results are reproducible.

use std::ops::Range;

use super::activations::{ActivationFormat, Activations};
use super::dispatch::{
    decodes_two_panels, f32_to_int16, gemm_bf16, gemm_f16_bf16, gemm_f32, gemm_int8, gemm_int8_two,
    gemm_int16, multiplies_two_panels, q8_0_to_int16, widen_to_f32,
};
use super::elementwise::silu_mul;
use super::isa::Isa;
use super::operands::{DECODE_MAX_ROWS, F32x16, Int16Block, STREAMS_MAX_ROWS, no_kernel};
use super::packed::{BLOCK, PANEL_ROWS, PackedMatrix, Q8Super, SUPER_BLOCK, WeightFormat, f32_at};
use super::pool::{Pool, SharedSlice};

#[cfg(target_arch = "x86_64")]
use super::amx;

/// L2 blocking with AMX: panels per pass over the activation tiles, and the bytes that their bf16
/// tiles may take, so that they and some of the activations stay in L2.
#[cfg(target_arch = "x86_64")]
const AMX_L2_BYTES: usize = 1 << 20;
const AMX_PANELS: usize = 8;

/// Sums per matrix, in panels times rows, before the next matrix is read; they fit in L1.
const PASS_SUMS: usize = 32;

/// Bytes of weights that a decode task reads at least, so that it outweighs its dispatch.
const MIN_TASK_BYTES: usize = 1 << 14;

/// Prefill with 8-bit activations: panels per task and rows per chunk, which together stay in L2,
/// and columns at a time of two panels and a few rows, which stay in L1. The columns are whole
/// block pairs of every format.
const PREFILL_PANELS: usize = 8;
const PREFILL_ROWS: usize = 144;
const PREFILL_COLUMNS: usize = 512;

/// Chunks of rows are multiples of what kernels keep in registers: 4, 6 or 12.
const ROWS_MULTIPLE: usize = 12;

/// What a GEMM does with its sums.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// `out = sum`
    Store,
    /// `out += sum`
    Add,
    /// `out = sum + bias`, one bias per output.
    Bias(&'a [f32]),
}

/// A weight matrix and the result of its product.
pub struct GemmOutput<'a> {
    /// The matrix, `[outputs, columns]`.
    pub weights: PackedMatrix<'a>,
    /// The result, `[rows, outputs]`.
    pub out: &'a mut [f32],
    /// How sums are written.
    pub epilogue: Epilogue<'a>,
}

/// The format that activations are converted to for weights of a format.
pub fn activation_format(isa: Isa, format: WeightFormat, rows: usize) -> ActivationFormat {
    let decode = rows <= DECODE_MAX_ROWS;
    match format {
        WeightFormat::F32 => ActivationFormat::F32,
        // Matrix instructions would multiply padding rows, so decode takes f32.
        WeightFormat::Bf16 if decode && (isa.has_amx() || isa.is_arm()) => ActivationFormat::F32,
        WeightFormat::Bf16 if isa.has_bf16() && !isa.choices().widen_bf16 => ActivationFormat::Bf16,
        WeightFormat::F16 | WeightFormat::Bf16 if decode => ActivationFormat::F32,
        WeightFormat::F16 | WeightFormat::Bf16 if isa.is_arm() => ActivationFormat::F32,
        WeightFormat::F16 if isa.has_amx() => ActivationFormat::Bf16,
        WeightFormat::Q8_0 | WeightFormat::Q4K | WeightFormat::Q6K if isa.has_amx() && !decode => {
            ActivationFormat::Bf16
        }
        WeightFormat::F16 | WeightFormat::Bf16 => ActivationFormat::Int16,
        // Without VNNI, their products of 8 bits are widened to 32 at once or after four groups of
        // columns, which takes longer than converting a panel once for many rows.
        WeightFormat::Q8_0 | WeightFormat::Q8Super | WeightFormat::Asymmetric
            if !isa.has_vnni() && !isa.is_arm() && !decode =>
        {
            ActivationFormat::Int16
        }
        WeightFormat::Q8_0
        | WeightFormat::Q8Super
        | WeightFormat::Asymmetric
        | WeightFormat::Q4K
        | WeightFormat::Q6K => ActivationFormat::Int8,
    }
}

fn uses_amx(isa: Isa, format: WeightFormat, rows: usize) -> bool {
    isa.has_amx() && activation_format(isa, format, rows) == ActivationFormat::Bf16
}

/// `out[r][o] = x[r] · w[o]` for each of the outputs, in one parallel region.
///
/// # Panics
/// When a matrix has other columns than the activations, or a result another size.
pub fn gemm(pool: &Pool, isa: Isa, x: &mut Activations, outputs: &mut [GemmOutput<'_>]) {
    let rows = x.rows();
    for output in &*outputs {
        check_columns(x, &output.weights);
        assert_eq!(output.out.len(), rows * output.weights.outputs, "[rows, outputs]");
        if let Epilogue::Bias(bias) = output.epilogue {
            assert_eq!(bias.len(), output.weights.outputs, "a bias for each output");
        }
        x.convert(isa, pool, activation_format(isa, output.weights.format, rows));
    }
    let x = &*x;
    let matrices: Vec<PackedMatrix<'_>> = outputs.iter().map(|output| output.weights).collect();
    let tasks = split_into_tasks(isa, &matrices, rows, pool.threads());
    let outputs: Vec<_> = outputs
        .iter_mut()
        .map(|output| (output.weights, SharedSlice::new(output.out), output.epilogue))
        .collect();
    pool.run(tasks.len(), |number, _| {
        let (output, panels) = tasks[number].clone();
        let (weights, out, epilogue) = &outputs[output];
        for_each_panel(isa, [weights], panels, x, |first, panels, [sums]| {
            let at = panels.start * PANEL_ROWS;
            let width = (panels.end * PANEL_ROWS).min(weights.outputs) - at;
            for (row, sums) in sums.chunks_exact(panels.len()).enumerate() {
                let (row, sums) = (first + row, sums.as_flattened());
                // SAFETY: only this task writes the columns of these panels of this output.
                let out = unsafe { out.slice(row * weights.outputs + at, width) };
                match epilogue {
                    Epilogue::Store => store_sums(out, sums),
                    Epilogue::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                    Epilogue::Bias(bias) => {
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[at..]) {
                            *out = sum + bias;
                        }
                    }
                }
            }
        });
    });
}

/// SwiGLU (Shazeer 2020, arXiv 2002.05202): `out = silu(x · gate) * (x · up)`, as activations of
/// the next GEMM.
///
/// # Panics
/// When a matrix has other columns than the activations, or the two differ in shape.
pub fn gemm_swiglu(
    pool: &Pool,
    isa: Isa,
    x: &mut Activations,
    [gate, up]: [PackedMatrix<'_>; 2],
    out: &mut Activations,
) {
    let rows = x.rows();
    check_columns(x, &gate);
    check_columns(x, &up);
    assert_eq!(gate.outputs, up.outputs, "a gate for each output");
    x.convert(isa, pool, activation_format(isa, gate.format, rows));
    x.convert(isa, pool, activation_format(isa, up.format, rows));
    let (x, outputs) = (&*x, gate.outputs);
    let tasks = split_into_tasks(isa, &[gate], rows, pool.threads());
    let out_rows = SharedSlice::new(out.rows_mut(rows, outputs));
    let stride = out.columns();
    pool.run(tasks.len(), |number, _| {
        let panels = tasks[number].1.clone();
        for_each_panel(isa, [&gate, &up], panels, x, |first, panels, [gates, ups]| {
            silu_mul(isa, gates.as_flattened_mut(), ups.as_flattened());
            let at = panels.start * PANEL_ROWS;
            let width = (panels.end * PANEL_ROWS).min(outputs) - at;
            for (row, values) in gates.chunks_exact(panels.len()).enumerate() {
                // SAFETY: only this task writes the columns of these panels.
                let out = unsafe { out_rows.slice((first + row) * stride + at, width) };
                store_sums(out, values.as_flattened());
            }
        });
    });
}

/// Writes the sums of a row; `out` is shorter where a matrix ends within a panel.
fn store_sums(out: &mut [f32], sums: &[f32]) {
    match (out.as_mut_array::<PANEL_ROWS>(), sums.as_array()) {
        (Some(out), Some(sums)) => *out = *sums, // One vector store instead of a call of memcpy.
        _ => out.copy_from_slice(&sums[..out.len()]),
    }
}

fn check_columns(x: &Activations, weights: &PackedMatrix<'_>) {
    assert_eq!(x.columns(), weights.columns.next_multiple_of(BLOCK), "a weight per activation");
}

/// Splits the panels of matrices into tasks `(matrix, panels)`, matrix by matrix. In decode, where
/// weights are read once, a task is a fraction of the remaining panels: the first tasks are long,
/// since long sequential reads are fastest, and the last are short, so that threads end together.
fn split_into_tasks(
    isa: Isa,
    matrices: &[PackedMatrix<'_>],
    rows: usize,
    threads: usize,
) -> Vec<(usize, Range<usize>)> {
    let mut left: usize = matrices.iter().map(PackedMatrix::panel_count).sum();
    let mut tasks = Vec::new();
    for (number, weights) in matrices.iter().enumerate() {
        let panel_bytes = weights.format.panel_bytes(weights.columns).max(1);
        let mut first = 0;
        while first < weights.panel_count() {
            let count = if uses_amx(isa, weights.format, rows) {
                AMX_PANELS.min(left / (4 * threads))
            } else if rows > DECODE_MAX_ROWS {
                let most =
                    if is_int8_prefill(isa, weights.format, rows) { PREFILL_PANELS } else { 1 };
                most.min(left / (4 * threads))
            } else {
                (left / (2 * threads)).max(MIN_TASK_BYTES / panel_bytes)
            };
            let count = count.clamp(1, weights.panel_count() - first);
            tasks.push((number, first..first + count));
            (first, left) = (first + count, left - count);
        }
    }
    tasks
}

/// Calls `epilogue(first_row, panels, sums)` for the panels in a range, one or several at a time,
/// of matrices of the same shape. Sums are `[rows, panels]`.
fn for_each_panel<const MATRICES: usize>(
    isa: Isa,
    matrices: [&PackedMatrix<'_>; MATRICES],
    panels: Range<usize>,
    x: &Activations,
    mut epilogue: impl FnMut(usize, Range<usize>, [&mut [F32x16]; MATRICES]),
) {
    let rows = x.rows();
    #[cfg(target_arch = "x86_64")]
    if matrices.iter().all(|weights| uses_amx(isa, weights.format, rows)) {
        return for_each_panel_amx(isa, matrices, panels, x, epilogue);
    }
    if matrices.iter().all(|weights| is_int8_prefill(isa, weights.format, rows)) {
        return prefill_int8(isa, matrices, panels, x, epilogue);
    }
    // Several panels of one matrix before those of the next: long sequential reads are fastest.
    let pass = (PASS_SUMS / rows).max(1);
    let mut on_stack = [[0f32; PANEL_ROWS]; 2 * PASS_SUMS];
    let mut on_heap = Vec::new();
    let all = if MATRICES * pass * rows <= on_stack.len() {
        &mut on_stack[..MATRICES * pass * rows]
    } else {
        on_heap.resize(MATRICES * pass * rows, [0f32; PANEL_ROWS]);
        &mut on_heap
    };
    for first in panels.clone().step_by(pass) {
        let pass_panels = first..panels.end.min(first + pass);
        all.fill([0.0; PANEL_ROWS]);
        for (weights, sums) in matrices.iter().zip(all.chunks_exact_mut(pass * rows)) {
            gemm_panels(isa, weights, pass_panels.clone(), x, sums);
        }
        let mut by_matrix = all.chunks_exact_mut(pass * rows);
        let mut by_matrix: [_; MATRICES] = std::array::from_fn(|_| {
            by_matrix.next().expect("sums of each matrix").chunks_exact_mut(rows)
        });
        for panel in pass_panels {
            epilogue(
                0,
                panel..panel + 1,
                by_matrix.each_mut().map(|sums| sums.next().expect("sums of each panel")),
            );
        }
    }
}

fn is_int8_prefill(isa: Isa, format: WeightFormat, rows: usize) -> bool {
    rows > DECODE_MAX_ROWS && activation_format(isa, format, rows) == ActivationFormat::Int8
}

/// The same for prefill in 8 bits. L2 blocking: a chunk of rows and the panels of a task. L1
/// blocking: columns of one or two panels.
fn prefill_int8<const MATRICES: usize>(
    isa: Isa,
    matrices: [&PackedMatrix<'_>; MATRICES],
    panels: Range<usize>,
    x: &Activations,
    mut epilogue: impl FnMut(usize, Range<usize>, [&mut [F32x16]; MATRICES]),
) {
    let chunk = x.rows().div_ceil(x.rows().div_ceil(PREFILL_ROWS)).next_multiple_of(ROWS_MULTIPLE);
    let all_two = matrices.iter().all(|weights| multiplies_two_panels(isa, weights.format));
    let mut all = vec![[0f32; PANEL_ROWS]; MATRICES * 2 * chunk];
    for first in (0..x.rows()).step_by(chunk) {
        let rows = chunk.min(x.rows() - first);
        let mut next = panels.start;
        while next < panels.end {
            let two = all_two && panels.end - next >= 2;
            let count = if two { 2 } else { 1 };
            let mut sums = all.chunks_exact_mut(rows * count);
            let sums = matrices.map(|weights| {
                let sums = sums.next().expect("sums of each matrix");
                sums.fill([0.0; PANEL_ROWS]);
                for column in (0..x.columns()).step_by(PREFILL_COLUMNS) {
                    let columns = PREFILL_COLUMNS.min(x.columns() - column);
                    let [at, bytes] = [column, columns].map(|n| weights.format.panel_bytes(n));
                    let x = x.q8().window(first, column / BLOCK, columns);
                    let panel = |number| &weights.panel(number)[at..][..bytes];
                    if two {
                        let panels = [panel(next), panel(next + 1)];
                        gemm_int8_two(isa, weights.format, panels, x, sums.as_chunks_mut().0);
                    } else {
                        gemm_int8(isa, weights.format, panel(next), x, sums);
                    }
                }
                sums
            });
            epilogue(first, next..next + count, sums);
            next += count;
        }
    }
}

/// The same with AMX, which multiplies several panels per pass, and rows by whole tiles.
#[cfg(target_arch = "x86_64")]
fn for_each_panel_amx<const MATRICES: usize>(
    isa: Isa,
    matrices: [&PackedMatrix<'_>; MATRICES],
    panels: Range<usize>,
    x: &Activations,
    mut epilogue: impl FnMut(usize, Range<usize>, [&mut [F32x16]; MATRICES]),
) {
    assert!(isa.has_amx(), "{} has no AMX", isa.name());
    let fit = AMX_L2_BYTES / (x.columns() * PANEL_ROWS * 2);
    let pass = (fit.min(AMX_PANELS) / MATRICES).max(2 / MATRICES);
    for first in panels.clone().step_by(pass) {
        let panels = first..panels.end.min(first + pass);
        let weights: Vec<(WeightFormat, &[u8])> = matrices
            .iter()
            .flat_map(|weights| panels.clone().map(|panel| (weights.format, weights.panel(panel))))
            .collect();
        let width = panels.len();
        let epilogue = |first: usize, sums: &mut [F32x16]| {
            let rows = (x.rows() - first).min(sums.len() / (MATRICES * width));
            let mut sums = sums.chunks_exact_mut(sums.len() / MATRICES);
            let sums =
                matrices.map(|_| &mut sums.next().expect("sums of each matrix")[..rows * width]);
            epilogue(first, panels.clone(), sums);
        };
        // SAFETY: asserted above, and an `Isa` with AMX is only made on a CPU that has it.
        unsafe { amx::gemm(&weights, width, x.columns(), x.amx_tiles(), epilogue) };
    }
}

/// Products of all rows with several panels, `[panels, rows]`; `sums` are zero.
fn gemm_panels(
    isa: Isa,
    weights: &PackedMatrix<'_>,
    panels: Range<usize>,
    x: &Activations,
    sums: &mut [F32x16],
) {
    let rows = x.rows();
    let is_int8 = activation_format(isa, weights.format, rows) == ActivationFormat::Int8;
    let half =
        if is_int8 && decodes_two_panels(isa, weights.format, rows) { panels.len() / 2 } else { 0 };
    let (halves, rest) = sums.split_at_mut(2 * half * rows);
    let (first, second) = halves.split_at_mut(half * rows);
    let mut both = [[[0f32; PANEL_ROWS]; 2]; STREAMS_MAX_ROWS];
    let both = &mut both[..rows.min(STREAMS_MAX_ROWS)];
    for (number, (first, second)) in
        first.chunks_exact_mut(rows).zip(second.chunks_exact_mut(rows)).enumerate()
    {
        let number = panels.start + number;
        both.fill([[0.0; PANEL_ROWS]; 2]);
        let panels = [number, number + half].map(|number| weights.panel(number));
        gemm_int8_two(isa, weights.format, panels, x.q8(), both);
        for ((first, second), both) in first.iter_mut().zip(second).zip(&*both) {
            [*first, *second] = *both;
        }
    }
    for (panel, sums) in (panels.start + 2 * half..panels.end).zip(rest.chunks_exact_mut(rows)) {
        gemm_panel(isa, weights, panel, x, sums);
    }
}

/// Adds the products of all rows with one panel to `sums`.
fn gemm_panel(
    isa: Isa,
    weights: &PackedMatrix<'_>,
    number: usize,
    x: &Activations,
    sums: &mut [F32x16],
) {
    let (format, panel, columns) = (weights.format, weights.panel(number), x.columns());
    match activation_format(isa, format, x.rows()) {
        ActivationFormat::F32 => match format {
            WeightFormat::F32 => {
                gemm_f32(isa, as_f32(panel), PANEL_ROWS, columns, x.f32(), columns, sums);
            }
            WeightFormat::F16 | WeightFormat::Bf16 => {
                gemm_f16_bf16(isa, format, panel, columns, x.f32(), sums);
            }
            other => no_kernel(other),
        },
        ActivationFormat::Int8 => gemm_int8(isa, format, panel, x.q8(), sums),
        ActivationFormat::Int16 => {
            let (mut lines, mut int16) = ([[0f32; PANEL_ROWS]; SUPER_BLOCK], Int16Block::EMPTY);
            for block in 0..columns.div_ceil(SUPER_BLOCK) {
                panel_to_int16(isa, format, panel, columns, block, &mut lines, &mut int16);
                gemm_int16(isa, &int16, x.int16(block), sums);
            }
        }
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 if isa.has_amx() => {
            for_each_panel_amx(isa, [weights], number..number + 1, x, |first, _, [products]| {
                sums[first..][..products.len()].copy_from_slice(products);
            });
        }
        ActivationFormat::Bf16 if format == WeightFormat::Bf16 => {
            gemm_bf16(isa, x.amx_tiles(), panel, sums);
        }
        ActivationFormat::Bf16 => no_kernel(format),
    }
}

/// Converts a block of 256 columns, or of those left, by way of `lines`.
pub(super) fn panel_to_int16(
    isa: Isa,
    format: WeightFormat,
    panel: &[u8],
    columns: usize,
    block: usize,
    lines: &mut [F32x16; SUPER_BLOCK],
    int16: &mut Int16Block,
) {
    match format {
        WeightFormat::Q8_0 => q8_0_to_int16(isa, panel, columns, block, int16),
        WeightFormat::Q8Super => {
            let (scales, panel) =
                panel[block * Q8Super::BYTES..][..Q8Super::BYTES].split_at(Q8Super::PANEL);
            q8_0_to_int16(isa, panel, SUPER_BLOCK, 0, int16);
            for (lane, scale) in int16.scales.iter_mut().enumerate() {
                *scale *= f32_at(scales, lane);
            }
        }
        _ => {
            let first = block * SUPER_BLOCK;
            let lines = &mut lines[..SUPER_BLOCK.min(columns - first)];
            widen_to_f32(isa, format, panel, first, lines);
            f32_to_int16(isa, lines, int16);
        }
    }
}

/// The bytes of an f32 panel as numbers.
fn as_f32(panel: &[u8]) -> &[f32] {
    bytemuck::try_cast_slice(panel).expect("panels are aligned to 64 bytes")
}
