//! Kernels beside memory that they must not touch. What they read and write ends with the last page
//! of a file, and the page that is mapped behind it is none: whoever goes there is ended by the
//! system.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use memmap2::{MmapMut, MmapOptions};

use super::inputs::{Int16, Rounded};
use super::portable::{Lanes, Panel};
use super::product::{by_panel, int8, panel_of_q8_0, plain, wide};
use super::tests::{Made, numbers};
use super::tiles::SUPER;
use super::*;

/// A multiple of every page size there is.
const PAGE: usize = 1 << 16;

/// Numbers that end where memory does.
struct Guarded<T> {
    map: MmapMut,
    start: usize,
    count: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Copy> Guarded<T> {
    fn new(items: &[T]) -> Self {
        let size = size_of_val(items);
        let whole = size.next_multiple_of(PAGE).max(PAGE);
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(whole as u64).unwrap();
        // SAFETY: the file is this test's alone.
        let mut map = unsafe { MmapOptions::new().len(whole + PAGE).map_copy(&file) }.unwrap();
        let start = whole - size;
        // SAFETY: as many bytes as the items have, of the file's own pages.
        unsafe {
            map.as_mut_ptr().add(start).copy_from_nonoverlapping(items.as_ptr().cast(), size);
        }
        Self { map, start, count: items.len(), of: std::marker::PhantomData }
    }

    fn get(&self) -> &[T] {
        // SAFETY: so many items were written there, at a multiple of their size before a page's
        // end, which is a multiple of their alignment.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start).cast(), self.count) }
    }

    fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start).cast(), self.count)
        }
    }
}

/// One tile of a form, with an edge behind it.
fn tile(form: Form, columns: usize) -> Guarded<u8> {
    Guarded::new(Made::new(form, [TILE, columns], 1).tiles().tile(0))
}

fn made(isa: Isa, rows: usize, columns: usize, kind: Kind) -> Inputs {
    let pool = Pool::new(1).unwrap();
    let mut inputs = tests::inputs(&pool, &numbers(rows * columns, 2), columns);
    inputs.make(isa, &pool, kind);
    inputs
}

/// What a kernel adds to sums with an edge behind them.
fn sums(rows: usize, kernel: impl FnOnce(&mut [Lanes])) -> Vec<Lanes> {
    let mut out = Guarded::new(&vec![[0f32; TILE]; rows]);
    kernel(out.get_mut());
    out.get().to_vec()
}

fn assert_near(a: &[Lanes], b: &[Lanes], what: &str) {
    let most = b.as_flattened().iter().fold(0f32, |most, v| most.max(v.abs()));
    for (a, b) in a.as_flattened().iter().zip(b.as_flattened()) {
        assert!((a - b).abs() <= 1e-5 * most, "{what}: {a} for {b}");
    }
}

const ROWS: std::ops::RangeInclusive<usize> = 1..=17;

#[test]
fn what_goes_beyond_is_ended() {
    const VARIABLE: &str = "CANDLEMARK_TEST_BEYOND";
    if std::env::var_os(VARIABLE).is_some() {
        let edge = Guarded::new(&[1u8; 100]);
        // SAFETY: not sound, which is what is shown: the byte is within the mapping, but beyond the
        // file.
        let beyond = unsafe { edge.get().as_ptr().add(100).read_volatile() };
        unreachable!("{beyond} was read");
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kernel::guard::what_goes_beyond_is_ended", "--nocapture"])
        .env(VARIABLE, "1")
        .status()
        .unwrap();
    assert!(status.signal().is_some(), "{status}");
}

#[test]
fn integers_of_8_bits_stay_within() {
    let tiers = Isa::tested();
    for (form, all_columns) in
        [(Form::Q8_0, [32, 96, 512]), (Form::Q4K, [256, 512, 768]), (Form::Q6K, [256, 512, 768])]
    {
        for columns in all_columns {
            let tile = tile(form, columns);
            for rows in ROWS {
                let exact = made(Isa::PORTABLE, rows, columns, Kind::Int8);
                let expected = sums(rows, |sums| {
                    int8(Isa::PORTABLE, form, tile.get(), exact.int8(), sums);
                });
                let runs: Guarded<Rounded> = Guarded::new(exact.int8().runs);
                for &isa in &tiers {
                    let x = inputs::Int8 { columns, runs: runs.get() };
                    let out = sums(rows, |sums| int8(isa, form, tile.get(), x, sums));
                    assert_near(&out, &expected, &format!("{} {form:?} {rows}", isa.name()));
                }
            }
        }
    }
}

#[test]
fn wide_and_plain_weights_stay_within() {
    let tiers = Isa::tested();
    for columns in [32, 64, 96, 288] {
        let lines = Guarded::new(&numbers(columns * TILE, 1));
        for rows in ROWS {
            let x = Guarded::new(&numbers(rows * columns, 2));
            let run = |isa| {
                sums(rows, |sums| plain(isa, lines.get(), TILE, columns, x.get(), columns, sums))
            };
            let expected = run(Isa::PORTABLE);
            for &isa in &tiers {
                assert_near(&run(isa), &expected, &format!("{} f32 {rows}", isa.name()));
            }
            for form in [Form::F16, Form::Bf16] {
                let tile = tile(form, columns);
                let run =
                    |isa| sums(rows, |sums| wide(isa, form, tile.get(), columns, x.get(), sums));
                let expected = run(Isa::PORTABLE);
                for &isa in &tiers {
                    assert_near(&run(isa), &expected, &format!("{} {form:?} {rows}", isa.name()));
                }
            }
        }
    }
}

#[test]
fn panels_stay_within() {
    let tiers = Isa::tested();
    for columns in [32, 256, 320] {
        let tile = tile(Form::Q8_0, columns);
        for rows in ROWS {
            let made = made(Isa::PORTABLE, rows, columns, Kind::Int16);
            let run = |isa| {
                sums(rows, |sums| {
                    for block in 0..columns.div_ceil(SUPER) {
                        let mut panel = Panel::EMPTY;
                        panel_of_q8_0(isa, tile.get(), columns, block, &mut panel);
                        let Int16 { columns, quants, scales } = made.int16(block);
                        let (quants, scales) = (Guarded::new(quants), Guarded::new(scales));
                        let x = Int16 { columns, quants: quants.get(), scales: scales.get() };
                        by_panel(isa, &panel, x, sums);
                    }
                })
            };
            let expected = run(Isa::PORTABLE);
            for &isa in &tiers {
                assert_near(&run(isa), &expected, &format!("{} panel {rows}", isa.name()));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn squares_stay_within() {
    let mut tiers = Isa::tested();
    tiers.retain(|isa| isa.multiplies_bf16());
    if tiers.is_empty() {
        return skipped("no squares were multiplied: this CPU does not multiply bf16");
    }
    for isa in tiers {
        for columns in [32, 96, 512] {
            let tile = tile(Form::Bf16, columns);
            for rows in [1, 15, 16, 17, 40] {
                let made = made(isa, rows, columns, Kind::Bf16);
                let squares = Guarded::new(made.squares());
                // SAFETY: the CPU was asked whether it multiplies bf16.
                let out = sums(rows, |sums| unsafe {
                    avx512bf16::products(squares.get(), tile.get(), sums);
                });
                let expected = sums(rows, |sums| {
                    wide(isa, Form::Bf16, tile.get(), columns, made.f32(), sums);
                });
                let most = expected.as_flattened().iter().fold(0f32, |most, v| most.max(v.abs()));
                for (a, b) in out.as_flattened().iter().zip(expected.as_flattened()) {
                    assert!((a - b).abs() <= 0.01 * most, "{columns} {rows}: {a} for {b}");
                }
                if isa.multiplies_matrices() && rows % TILE == 0 {
                    let of_unit = sums(rows, |sums| {
                        // SAFETY: the CPU has a matrix unit.
                        unsafe {
                            amx::products(
                                &[(Form::Bf16, tile.get())],
                                columns,
                                squares.get(),
                                &mut [sums],
                            );
                        }
                    });
                    assert_near(&of_unit, &out, "matrix unit");
                }
            }
        }
    }
}
