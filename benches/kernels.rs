//! CPU kernels on one matrix of a small model: every tier against the definition, which is the
//! portable one. Each is verified, then timed; a table at the end says how much of what this
//! machine can do each one reaches.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a bench talks to the terminal")]

use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

use candlemark::error::Cause;
use candlemark::kernel::{
    Arena, Cache, Fill, Form, Held, Inputs, Isa, Kind, Layout, Part, Pool, Span, TILE, Then, Tiles,
};
use candlemark::record::Rates;
use candlemark::settings::{Config, Setup};
use candlemark::{Error, kernel, machine, measure};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

/// The feed-forward part of Qwen3-0.6B: one of its matrices.
const SHAPE: [usize; 2] = [3072, 1024];

/// Outputs that are verified. The definition takes its time.
const VERIFIED: usize = 6 * TILE;

const FORMS: [(&str, Form); 6] = [
    ("q8_0", Form::Q8_0),
    ("q4_k", Form::Q4K),
    ("q6_k", Form::Q6K),
    ("bf16", Form::Bf16),
    ("f16", Form::F16),
    ("f32", Form::F32),
];

const ROWS: [usize; 5] = [1, 4, 16, 128, 512];

/// What the definition is timed with, too: the least of either way to multiply.
const ROWS_OF_PORTABLE: [usize; 2] = [1, 16];

/// Up to so many rows, reading the weights takes longest, and they must not be in a cache.
const FEW_ROWS: usize = 4;

/// Times the last-level cache that the copies of a matrix take: in a few times of it, some lines
/// are still there from the last time.
const BEYOND_CACHE: usize = 8;

/// As in Qwen3-0.6B, and layers enough that their caches do not stay in a cache of the CPU.
const HEADS: usize = 8;
const GROUP: usize = 2;
const WIDTH: usize = 128;
const LAYERS: usize = 8;

/// Rows of a pass, and positions before them.
const PASSES: [(usize, usize); 2] = [(1, 4096), (512, 0)];

/// How far what is rounded so may be from the exact product: by the order of sums, or by the
/// rounding of activations and weights.
fn off(kind: Kind) -> f64 {
    match kind {
        Kind::F32 => 2e-6,
        Kind::Int8 => 6e-3,
        Kind::Int16 => 4e-4,
        Kind::Bf16 => 4e-3,
    }
}

/// How far two results may be from one another. Tiers that round alike differ by the order of their
/// sums alone.
fn apart(definition: Kind, other: Kind) -> f64 {
    if other == definition { off(Kind::F32) } else { off(other) + off(definition) }
}

/// What was timed: its bytes and operations, and the best time.
struct Timed {
    name: String,
    bytes: usize,
    operations: usize,
    kind: Kind,
    best: Duration,
}

fn main() {
    let config = Config::read(None, std::env::vars_os()).unwrap_or_else(|error| exit(&error));
    let threads = Setup::new(&config).threads;
    let pool = Pool::new(threads).unwrap_or_else(|error| exit(&error));
    let best = Best { threads, rates: RefCell::default() };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let mut all = Vec::new();
    for (name, form) in FORMS {
        products(&mut criterion, &pool, &best, name, form, &mut all);
    }
    attention(&mut criterion, &pool, &best, &mut all);
    criterion.final_summary();
    if !all.is_empty() && !is_test() {
        best.again();
        table(&all, &best.rates.borrow(), threads);
    }
}

/// Criterion has no way to say that a bench failed.
fn exit(error: &Error) -> ! {
    eprintln!("error: {}", error.chain());
    std::process::exit(if error.cause() == Cause::Usage { 2 } else { 5 })
}

/// Whether each case is run once, to see that it runs.
fn is_test() -> bool {
    std::env::args_os().any(|arg| arg == "--test")
}

/// The best rates of the machine so far. They are measured again with every group: a machine that
/// is shared or throttled is not the same a minute later, and what was timed on its better side is
/// held against that.
struct Best {
    threads: usize,
    rates: RefCell<Rates>,
}

impl Best {
    fn again(&self) {
        if is_test() {
            return;
        }
        let now = measure::peak_rates(self.threads, measure::ReadBudget::Brief)
            .unwrap_or_else(|error| exit(&error));
        let best = self.rates.borrow().best_of(&now);
        self.rates.replace(best);
    }
}

/// A matrix, over and over, so that few rows find it in memory.
struct Matrix {
    form: Form,
    arena: Arena,
    copies: usize,
}

impl Matrix {
    fn new(form: Form) -> Self {
        let [outputs, columns] = SHAPE;
        let values = numbers(outputs * columns, 1);
        let fill = |rows: std::ops::Range<usize>| {
            let values = values[rows.start * columns..rows.end * columns].to_vec();
            Ok::<_, std::convert::Infallible>(Fill::F32(values))
        };
        let Ok(blocks) = kernel::matrix(form.dtype(), SHAPE, fill);
        let bytes = form.bytes(outputs, columns);
        let cache = machine::last_level_cache_bytes().unwrap_or(64 << 20) as usize;
        let copies = (BEYOND_CACHE * cache).div_ceil(bytes);
        let mut arena = Arena::new(copies * bytes).expect("room for the copies");
        let mut one = vec![0; bytes];
        let row = blocks.data().len() / outputs;
        let tiles = one.chunks_mut(form.tile_bytes(columns));
        for (tile, rows) in tiles.zip(blocks.data().chunks(row * TILE)) {
            kernel::pack(form, columns, rows, tile);
        }
        for copy in arena.get_mut(0..copies * bytes).chunks_exact_mut(bytes) {
            copy.copy_from_slice(&one);
        }
        Self { form, arena, copies }
    }

    /// The first outputs of a copy.
    fn tiles(&self, copy: usize, outputs: usize) -> Tiles<'_> {
        let [all, columns] = SHAPE;
        let start = copy % self.copies * self.form.bytes(all, columns);
        let bytes = self.form.bytes(outputs, columns);
        Tiles::new(self.form, [outputs, columns], self.arena.get(start..start + bytes))
    }
}

fn products(
    criterion: &mut Criterion,
    pool: &Pool,
    best_rates: &Best,
    name: &str,
    form: Form,
    all: &mut Vec<Timed>,
) {
    let mut group = criterion.benchmark_group(format!("kernel-{name}"));
    group.sampling_mode(SamplingMode::Flat);
    let matrix = OnceCell::new();
    let [outputs, columns] = SHAPE;
    for rows in ROWS {
        let (bytes, operations) = (form.bytes(outputs, columns), 2 * rows * outputs * columns);
        group.throughput(if rows <= FEW_ROWS {
            Throughput::Bytes(bytes as u64)
        } else {
            Throughput::Elements(operations as u64)
        });
        let x = numbers(rows * columns, 2);
        let multiply = |isa: Isa, inputs: &mut Inputs, weights: Tiles<'_>, out: &mut [f32]| {
            // Taken in and rounded anew each time, as a layer does.
            inputs.fill(pool, rows, columns, |row, to| {
                to.copy_from_slice(&x[row * columns..][..columns]);
            });
            let part = Part { weights, out, then: Then::Store };
            kernel::products(pool, isa, inputs, &mut [part]);
        };
        for isa in Isa::available() {
            if isa == Isa::PORTABLE && !ROWS_OF_PORTABLE.contains(&rows) {
                continue;
            }
            let kind = kernel::kind(isa, form, rows);
            let apart = apart(kernel::kind(Isa::PORTABLE, form, rows), kind);
            let mut inputs = Inputs::default();
            let mut out = vec![0.0; rows * outputs];
            let mut copy = 0;
            let mut best = None;
            group.bench_function(BenchmarkId::new(isa.name(), rows), |bencher| {
                let matrix = matrix.get_or_init(|| {
                    best_rates.again();
                    Matrix::new(form)
                });
                if best.is_none() {
                    verify(name, isa, rows, apart, |isa| {
                        let mut out = vec![0.0; rows * VERIFIED];
                        let weights = matrix.tiles(0, VERIFIED);
                        multiply(isa, &mut Inputs::default(), weights, &mut out);
                        out
                    });
                }
                bencher.iter_custom(|iterations| {
                    time(iterations, &mut best, || {
                        multiply(isa, &mut inputs, matrix.tiles(copy, outputs), &mut out);
                        copy += 1;
                        black_box(&out);
                    })
                });
            });
            let name = format!("{name}/{}/{rows}", isa.name());
            all.extend(best.map(|best| Timed { name, bytes, operations, kind, best }));
        }
    }
    group.finish();
}

fn layout(held: Held) -> Layout {
    Layout { layers: LAYERS, heads: HEADS, width: WIDTH, held }
}

/// Layers of keys and values: those of `past` positions, then of `rows` that are not counted yet,
/// as in a pass over them.
fn filled(pool: &Pool, held: Held, rows: usize, past: usize) -> Cache {
    let mut cache = Cache::new(layout(held));
    cache.reset(1);
    for (rows, past) in [(past, 0), (rows, past)] {
        // Positions before are kept, any room beyond them is given back.
        cache.set_length(0, past);
        cache.grow(0, past + rows).expect("room for the cache");
        let [keys, values] = [3, 4].map(|seed| numbers(rows * HEADS * WIDTH, seed));
        for layer in 0..LAYERS {
            let span = Span { sequence: 0, start: 0, rows, past };
            cache.append(pool, layer, &[span], &keys, &values);
        }
    }
    cache
}

fn attention(criterion: &mut Criterion, pool: &Pool, best_rates: &Best, all: &mut Vec<Timed>) {
    for (name, held) in [("bf16", Held::Bf16), ("f32", Held::F32)] {
        let mut group = criterion.benchmark_group(format!("kernel-attention-{name}"));
        group.sampling_mode(SamplingMode::Flat);
        for (rows, past) in PASSES {
            let cache = OnceCell::new();
            let q: Vec<f32> =
                numbers(rows * HEADS * GROUP * WIDTH, 5).iter().map(|q| q / 8.0).collect();
            let spans = [Span { sequence: 0, start: 0, rows, past }];
            // Keys and values of every position; of each row with those up to its own.
            let bytes = 2 * (past + rows) * HEADS * WIDTH * held.bytes();
            let pairs = rows * past + rows * (rows + 1) / 2;
            let operations = 4 * pairs * HEADS * GROUP * WIDTH;
            group.throughput(if rows <= FEW_ROWS {
                Throughput::Bytes(bytes as u64)
            } else {
                Throughput::Elements(operations as u64)
            });
            let pass = format!("{rows}-at-{past}");
            for isa in Isa::available() {
                let kind = |isa| kernel::attention_kind(isa, layout(held), rows * GROUP);
                let (definition, kind) = (kind(Isa::PORTABLE), kind(isa));
                let (mut layer, mut out, mut best) = (0, Inputs::default(), None);
                group.bench_function(BenchmarkId::new(isa.name(), &pass), |bencher| {
                    let cache = cache.get_or_init(|| {
                        best_rates.again();
                        filled(pool, held, rows, past)
                    });
                    if best.is_none() {
                        let apart = apart(definition, kind);
                        verify(&format!("attention-{name}"), isa, rows, apart, |isa| {
                            let mut out = Inputs::default();
                            kernel::attend(pool, isa, cache, 0, &spans, &q, &mut out);
                            out.f32().to_vec()
                        });
                    }
                    bencher.iter_custom(|iterations| {
                        time(iterations, &mut best, || {
                            kernel::attend(pool, isa, cache, layer, &spans, &q, &mut out);
                            layer = (layer + 1) % LAYERS;
                            black_box(&out);
                        })
                    });
                });
                let name = format!("attention-{name}/{}/{pass}", isa.name());
                all.extend(best.map(|best| Timed { name, bytes, operations, kind, best }));
            }
        }
        group.finish();
    }
}

/// The time of all iterations; the best mean of them is kept.
fn time(iterations: u64, best: &mut Option<Duration>, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..iterations).for_each(|_| work());
    let all = start.elapsed();
    let each = all / u32::try_from(iterations).unwrap_or(u32::MAX).max(1);
    *best = Some(best.map_or(each, |best| best.min(each)));
    all
}

/// Holds a tier against the definition before its clock starts.
fn verify(name: &str, isa: Isa, rows: usize, apart: f64, result: impl Fn(Isa) -> Vec<f32>) {
    if isa == Isa::PORTABLE {
        return;
    }
    let (definition, other) = (result(Isa::PORTABLE), result(isa));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = || definition.iter().zip(&other);
    let far = square(&mut pairs().map(|(a, b)| f64::from(*a) - f64::from(*b)))
        / square(&mut pairs().map(|(a, _)| f64::from(*a)));
    let isa = isa.name();
    assert!(far < apart, "{name} with {rows} rows: {isa} is {far:.1e} from the definition");
}

/// How much of the roofline each reached: the longer of the times that its bytes and its operations
/// need at least, as a share of the time that it took.
fn table(all: &[Timed], rates: &Rates, threads: usize) {
    let read = rates.best_read_bytes_per_s();
    let giga =
        |rate: Option<f64>| rate.map_or("not measured".into(), |rate| format!("{:.1}", rate / 1e9));
    println!("\nevery tier agrees with the definition\n");
    println!(
        "{threads} threads read {} GB/s and do {} f32, {} int8, {} int16, {} bf16 operations (1e9/s)\n",
        giga(read),
        giga(rates.f32_flop_per_s),
        giga(rates.int8_op_per_s),
        giga(rates.int16_op_per_s),
        giga(rates.bf16_flop_per_s),
    );
    println!("{:<36} {:>9} {:>8} {:>9} {:>9}", "kernel", "ms", "GB/s", "GFLOP/s", "roofline");
    for Timed { name, bytes, operations, kind, best } in all {
        let (seconds, bytes, operations) = (best.as_secs_f64(), *bytes as f64, *operations as f64);
        let peak = match kind {
            Kind::F32 => rates.f32_flop_per_s,
            Kind::Int8 => rates.int8_op_per_s,
            Kind::Int16 => rates.int16_op_per_s,
            Kind::Bf16 => rates.bf16_flop_per_s,
        };
        let share = read.zip(peak).map_or("-".into(), |(read, peak)| {
            format!("{:.0} %", 100.0 * (bytes / read).max(operations / peak) / seconds)
        });
        println!(
            "{name:<36} {:>9.3} {:>8.1} {:>9.1} {share:>9}",
            seconds * 1e3,
            bytes / seconds / 1e9,
            operations / seconds / 1e9,
        );
    }
}

/// Numbers that look random and are the same everywhere, in ±1. What is multiplied with one another
/// has seeds of its own: numbers times themselves only add up, and then the order of sums shows
/// more than elsewhere.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(2 * seed + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
