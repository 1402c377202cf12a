//! Guard pages behind the operands of kernels: each operand ends with the last page of a file, and
//! an access to the mapped page behind it raises SIGBUS. Shows that kernels read and write nothing
//! beyond their operands.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use memmap2::{MmapMut, MmapOptions};

use super::*;
use crate::dispatch::{
    gemm_bf16, gemm_f16_bf16, gemm_f32, gemm_int8, gemm_int8_two, gemm_int16, multiplies_two_panels,
};
use crate::gemm::panel_to_int16;
use crate::operands::{F32x16, Int16Block, Int16Rows, Q8Block, Q8Rows};
use crate::packed::SUPER_BLOCK;

/// A multiple of every page size.
const PAGE: usize = 1 << 16;

/// Items directly before a guard page.
pub(crate) struct GuardedBuffer<T> {
    map: MmapMut,
    start: usize,
    count: usize,
    item: std::marker::PhantomData<T>,
}

impl<T: Copy> GuardedBuffer<T> {
    pub(crate) fn new(items: &[T]) -> Self {
        let size = size_of_val(items);
        let whole = size.next_multiple_of(PAGE).max(PAGE);
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(whole as u64).unwrap();
        // SAFETY: no other process maps or truncates this file.
        let mut map = unsafe { MmapOptions::new().len(whole + PAGE).map_copy(&file) }.unwrap();
        let start = whole - size;
        // SAFETY: these bytes are within the pages of the file.
        unsafe {
            map.as_mut_ptr().add(start).copy_from_nonoverlapping(items.as_ptr().cast(), size);
        }
        Self { map, start, count: items.len(), item: std::marker::PhantomData }
    }

    pub(crate) fn get(&self) -> &[T] {
        // SAFETY: so many items were written there; they end at a page boundary, so they are
        // aligned.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start).cast(), self.count) }
    }

    pub(crate) fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start).cast(), self.count)
        }
    }
}

/// One panel of random weights before a guard page.
fn panel(dtype: GgmlType, columns: usize) -> GuardedBuffer<u8> {
    panels(dtype, columns).0
}

/// Two different panels, each before a guard page of its own.
fn panels(dtype: GgmlType, columns: usize) -> (GuardedBuffer<u8>, GuardedBuffer<u8>) {
    let matrix = RandomMatrix::new(dtype, [2 * PANEL_ROWS, columns], 1);
    let panel = |number| GuardedBuffer::new(matrix.packed().panel(number));
    (panel(0), panel(1))
}

fn converted(isa: Isa, rows: usize, columns: usize, format: ActivationFormat) -> Activations {
    let pool = Pool::new(1).unwrap();
    let mut x = activations(&pool, &numbers(rows * columns, 2), columns);
    x.convert(isa, &pool, format);
    x
}

/// The sums of a kernel, written before a guard page.
fn sums(rows: usize, kernel: impl FnOnce(&mut [F32x16])) -> Vec<F32x16> {
    let mut out = GuardedBuffer::new(&vec![[0f32; PANEL_ROWS]; rows]);
    kernel(out.get_mut());
    out.get().to_vec()
}

fn assert_near(a: &[F32x16], b: &[F32x16], what: &str) {
    let max = b.as_flattened().iter().fold(0f32, |max, v| max.max(v.abs()));
    for (a, b) in a.as_flattened().iter().zip(b.as_flattened()) {
        assert!((a - b).abs() <= 1e-5 * max, "{what}: {a} for {b}");
    }
}

const ROWS: std::ops::RangeInclusive<usize> = 1..=17;

#[test]
fn an_access_to_the_guard_page_ends_the_process() {
    const VARIABLE: &str = "CANDLEMARK_TEST_BEYOND";
    if std::env::var_os(VARIABLE).is_some() {
        let guarded = GuardedBuffer::new(&[1u8; 100]);
        // SAFETY: deliberately out of bounds: the byte is within the mapping, but behind the file.
        let beyond = unsafe { guarded.get().as_ptr().add(100).read_volatile() };
        unreachable!("{beyond} was read");
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::guard::an_access_to_the_guard_page_ends_the_process",
            "--nocapture",
        ])
        .env(VARIABLE, "1")
        .status()
        .unwrap();
    assert!(status.signal().is_some(), "{status}");
}

#[test]
fn gemm_int8_stays_within_its_operands() {
    let tiers = Isa::for_tests();
    for (dtype, all_columns) in [
        (GgmlType::Q8_0, [32, 96, 512]),
        (GgmlType::IQ4XS, [256, 512, 768]),
        (GgmlType::Q5_1, [32, 96, 512]),
        (GgmlType::Q4K, [256, 512, 768]),
        (GgmlType::Q6K, [256, 512, 768]),
    ] {
        let format = WeightFormat::from_dtype(dtype).unwrap();
        for columns in all_columns {
            let (panel, other) = panels(dtype, columns);
            for rows in ROWS {
                let exact = converted(Isa::PORTABLE, rows, columns, ActivationFormat::Int8);
                let expected = sums(rows, |sums| {
                    gemm_int8(Isa::PORTABLE, format, panel.get(), exact.q8(), sums);
                });
                let blocks: GuardedBuffer<Q8Block> = GuardedBuffer::new(exact.q8().blocks);
                for &isa in &tiers {
                    let x = Q8Rows::new(columns, blocks.get());
                    let out = sums(rows, |sums| gemm_int8(isa, format, panel.get(), x, sums));
                    let what = format!("{} {format:?} {rows}", isa.name());
                    assert_near(&out, &expected, &what);
                    if !multiplies_two_panels(isa, format) {
                        continue;
                    }
                    let second = sums(rows, |sums| gemm_int8(isa, format, other.get(), x, sums));
                    let both = sums(2 * rows, |sums| {
                        let panels = [panel.get(), other.get()];
                        gemm_int8_two(isa, format, panels, x, sums.as_chunks_mut().0);
                    });
                    let one_by_one: Vec<F32x16> =
                        out.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
                    assert_eq!(both, one_by_one, "{what}: two panels have the bits of each");
                }
            }
        }
    }
}

#[test]
fn gemm_f32_and_f16_bf16_stay_within_their_operands() {
    let tiers = Isa::for_tests();
    for columns in [32, 64, 96, 288] {
        let lines = GuardedBuffer::new(&numbers(columns * PANEL_ROWS, 1));
        for rows in ROWS {
            let x = GuardedBuffer::new(&numbers(rows * columns, 2));
            let run = |isa| {
                sums(rows, |sums| {
                    gemm_f32(isa, lines.get(), PANEL_ROWS, columns, x.get(), columns, sums)
                })
            };
            let expected = run(Isa::PORTABLE);
            for &isa in &tiers {
                assert_near(&run(isa), &expected, &format!("{} f32 {rows}", isa.name()));
            }
            for dtype in [GgmlType::F16, GgmlType::BF16] {
                let format = WeightFormat::from_dtype(dtype).unwrap();
                let panel = panel(dtype, columns);
                let run = |isa| {
                    sums(rows, |sums| {
                        gemm_f16_bf16(isa, format, panel.get(), columns, x.get(), sums)
                    })
                };
                let expected = run(Isa::PORTABLE);
                for &isa in &tiers {
                    let out = run(isa);
                    assert_near(&out, &expected, &format!("{} {format:?} {rows}", isa.name()));
                    for few in 1..rows.min(3) {
                        let x = &x.get()[..few * columns];
                        let few = sums(few, |sums| {
                            gemm_f16_bf16(isa, format, panel.get(), columns, x, sums)
                        });
                        assert_eq!(few, out[..few.len()], "{} {format:?} alone", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn gemm_int16_stays_within_its_operands() {
    let tiers = Isa::for_tests();
    let cases = [
        (GgmlType::F16, 32),
        (GgmlType::F16, 320),
        (GgmlType::Q8_0, 32),
        (GgmlType::Q8_0, 256),
        (GgmlType::Q8_0, 320),
        (GgmlType::Q5_1, 32),
        (GgmlType::Q5_1, 320),
        (GgmlType::IQ4XS, 512),
    ];
    for (dtype, columns) in cases {
        let (format, panel) = (WeightFormat::from_dtype(dtype).unwrap(), panel(dtype, columns));
        for rows in ROWS {
            let x = converted(Isa::PORTABLE, rows, columns, ActivationFormat::Int16);
            let run = |isa| {
                sums(rows, |sums| {
                    for block in 0..columns.div_ceil(SUPER_BLOCK) {
                        let (mut lines, mut weights) =
                            ([[0.0; PANEL_ROWS]; SUPER_BLOCK], Int16Block::EMPTY);
                        let panel = panel.get();
                        panel_to_int16(
                            isa,
                            format,
                            panel,
                            columns,
                            block,
                            &mut lines,
                            &mut weights,
                        );
                        let Int16Rows { columns, quants, scales } = x.int16(block);
                        let (quants, scales) =
                            (GuardedBuffer::new(quants), GuardedBuffer::new(scales));
                        let x = Int16Rows { columns, quants: quants.get(), scales: scales.get() };
                        gemm_int16(isa, &weights, x, sums);
                    }
                })
            };
            let expected = run(Isa::PORTABLE);
            let prefill = DECODE_MAX_ROWS + 1;
            let converts = |isa| activation_format(isa, format, prefill) == ActivationFormat::Int16;
            for isa in tiers.iter().copied().filter(|isa| converts(*isa)) {
                assert_near(&run(isa), &expected, &format!("{} panel {rows}", isa.name()));
            }
        }
    }
}

#[test]
fn bf16_gemm_stays_within_its_operands() {
    let mut tiers = Isa::for_tests();
    tiers.retain(|isa| isa.has_bf16());
    if tiers.is_empty() {
        return skipped("no tiles were multiplied: this CPU does not multiply bf16");
    }
    for isa in tiers {
        for columns in [32, 96, 288, 512] {
            let panel = panel(GgmlType::BF16, columns);
            for rows in ROWS.chain([40]) {
                let x = converted(isa, rows, columns, ActivationFormat::Bf16);
                let tiles = GuardedBuffer::new(x.amx_tiles());
                let out = sums(rows, |sums| gemm_bf16(isa, tiles.get(), panel.get(), sums));
                let expected = sums(rows, |sums| {
                    gemm_f16_bf16(isa, WeightFormat::Bf16, panel.get(), columns, x.f32(), sums);
                });
                let max = expected.as_flattened().iter().fold(0f32, |max, v| max.max(v.abs()));
                for (a, b) in out.as_flattened().iter().zip(expected.as_flattened()) {
                    assert!((a - b).abs() <= 0.01 * max, "{columns} {rows}: {a} for {b}");
                }
                #[cfg(target_arch = "x86_64")]
                if isa.has_amx() && rows % PANEL_ROWS == 0 {
                    let amx_sums = sums(rows, |sums| {
                        let panels = [(WeightFormat::Bf16, panel.get())];
                        // SAFETY: `has_amx` was asked.
                        unsafe {
                            amx::gemm(&panels, 1, columns, tiles.get(), |first, block| {
                                sums[first..][..block.len()].copy_from_slice(block);
                            });
                        }
                    });
                    assert_near(&amx_sums, &out, "AMX");
                }
            }
        }
    }
}
