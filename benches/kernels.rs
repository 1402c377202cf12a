//! CPU kernels on the shapes of a small model: GEMM for every weight format, and attention. Every
//! tier is verified against the portable one, which is the definition, then timed. A table at the
//! end shows which fraction of the roofline each reaches.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a bench talks to the terminal")]

use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

use candlemark::error::Cause;
use candlemark::kernel::{
    ActivationFormat, Activations, Arena, Epilogue, GemmOutput, GgmlType, Isa, KvCache, KvDtype,
    KvLayout, PANEL_ROWS, PackedMatrix, Pool, Span, WeightFormat,
};
use candlemark::record::Rates;
use candlemark::settings::{Config, Setup};
use candlemark::{Error, kernel, machine, measure};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

/// A feed-forward matrix of Qwen3-0.6B, `[outputs, columns]`.
const SHAPE: [usize; 2] = [3072, 1024];

/// Outputs that are verified; the portable tier is slow.
const VERIFIED_OUTPUTS: usize = 6 * PANEL_ROWS;

/// A GGML type of each format of panels.
const TYPES: [(&str, GgmlType); 8] = [
    ("q8_0", GgmlType::Q8_0),
    ("iq4_xs", GgmlType::IQ4XS),
    ("q4_k", GgmlType::Q4K),
    ("q5_k", GgmlType::Q5K),
    ("q6_k", GgmlType::Q6K),
    ("bf16", GgmlType::BF16),
    ("f16", GgmlType::F16),
    ("f32", GgmlType::F32),
];

const ROWS: [usize; 5] = [1, 4, 16, 128, 512];

/// Rows for the portable tier: decode alone, since prefill takes too long.
const PORTABLE_ROWS: [usize; 2] = [1, 16];

/// Rows up to which reading weights is the bound, so that they must come from memory.
const MEMORY_BOUND_ROWS: usize = 4;

/// Size of all copies of a matrix, in last-level caches: with fewer, some lines survive in the
/// cache until their next use.
const LLC_MULTIPLE: usize = 8;

/// Attention as in Qwen3-0.6B, with so many layers that their KV cache does not fit in a CPU cache.
const HEADS: usize = 8;
const GROUP: usize = 2;
const WIDTH: usize = 128;
const LAYERS: usize = 8;

/// `(rows, past)`: decode over a long context, and prefill.
const PASSES: [(usize, usize); 2] = [(1, 4096), (512, 0)];

/// Largest relative error of a product with activations in a format: rounding of activations and
/// weights, or the order of additions.
fn rounding_error(format: ActivationFormat) -> f64 {
    match format {
        ActivationFormat::F32 => 2e-6,
        ActivationFormat::Int8 => 6e-3,
        ActivationFormat::Int16 => 4e-4,
        ActivationFormat::Bf16 => 4e-3,
    }
}

/// Largest relative difference of two tiers. With the same format they differ only by the order of
/// additions.
fn tolerance(definition: ActivationFormat, other: ActivationFormat) -> f64 {
    if other == definition {
        rounding_error(ActivationFormat::F32)
    } else {
        rounding_error(other) + rounding_error(definition)
    }
}

/// A timed kernel: its bytes and operations, and its best time.
struct Timed {
    name: String,
    bytes: usize,
    operations: usize,
    format: ActivationFormat,
    best: Duration,
}

fn main() {
    let config = Config::read(None, std::env::vars_os()).unwrap_or_else(|error| exit(&error));
    let threads = Setup::new(&config).threads;
    let pool = Pool::new(threads).unwrap_or_else(|error| exit(&error.into()));
    let peaks = BestRates { threads, rates: RefCell::default() };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let mut timed = Vec::new();
    for (name, dtype) in TYPES {
        gemm(&mut criterion, &pool, &peaks, name, dtype, &mut timed);
    }
    attention(&mut criterion, &pool, &peaks, &mut timed);
    criterion.final_summary();
    if !timed.is_empty() && !is_test() {
        peaks.measure();
        print_table(&timed, &peaks.rates.borrow(), threads);
    }
}

/// Criterion itself cannot fail a bench.
fn exit(error: &Error) -> ! {
    eprintln!("error: {}", error.chain());
    std::process::exit(if error.cause() == Cause::Usage { 2 } else { 5 })
}

/// Whether each case runs once, untimed (`cargo test --benches`).
fn is_test() -> bool {
    std::env::args_os().any(|arg| arg == "--test")
}

/// The best peak rates so far. They are measured again before every group: a shared or throttled
/// machine changes within minutes, and the roofline must not fall below what a kernel reaches.
struct BestRates {
    threads: usize,
    rates: RefCell<Rates>,
}

impl BestRates {
    fn measure(&self) {
        if is_test() {
            return;
        }
        let now = measure::peak_rates(self.threads, measure::ReadBudget::BRIEF)
            .unwrap_or_else(|error| exit(&error));
        let best = self.rates.borrow().best_of(&now);
        self.rates.replace(best);
    }
}

/// Copies of a matrix, more than the last-level cache holds, so that decode reads it from memory.
struct MatrixCopies {
    format: WeightFormat,
    arena: Arena,
    copies: usize,
}

impl MatrixCopies {
    fn new(dtype: GgmlType) -> Self {
        let [outputs, columns] = SHAPE;
        let format = format_of(dtype);
        let values = numbers(outputs * columns, 1);
        let blocks = kernel::quantize(dtype, &values);
        let bytes = format.bytes(outputs, columns);
        let cache = machine::last_level_cache_bytes().unwrap_or(64 << 20) as usize;
        let copies = (LLC_MULTIPLE * cache).div_ceil(bytes);
        let mut arena = Arena::new(copies * bytes).expect("memory for the copies");
        let mut one = vec![0; bytes];
        let row = blocks.len() / outputs;
        let panels = one.chunks_mut(format.panel_bytes(columns));
        for (panel, rows) in panels.zip(blocks.chunks(row * PANEL_ROWS)) {
            kernel::pack(dtype, columns, rows, panel);
        }
        for copy in arena.get_mut(0..copies * bytes).chunks_exact_mut(bytes) {
            copy.copy_from_slice(&one);
        }
        Self { format, arena, copies }
    }

    /// The first outputs of a copy.
    fn packed(&self, copy: usize, outputs: usize) -> PackedMatrix<'_> {
        let [all, columns] = SHAPE;
        let start = copy % self.copies * self.format.bytes(all, columns);
        let bytes = self.format.bytes(outputs, columns);
        PackedMatrix::new(self.format, [outputs, columns], self.arena.get(start..start + bytes))
    }
}

fn format_of(dtype: GgmlType) -> WeightFormat {
    WeightFormat::from_dtype(dtype).expect("panels hold the types of this bench")
}

fn gemm(
    criterion: &mut Criterion,
    pool: &Pool,
    peaks: &BestRates,
    name: &str,
    dtype: GgmlType,
    timed: &mut Vec<Timed>,
) {
    let mut group = criterion.benchmark_group(format!("kernel-{name}"));
    group.sampling_mode(SamplingMode::Flat);
    let matrix = OnceCell::new();
    let ([outputs, columns], format) = (SHAPE, format_of(dtype));
    for rows in ROWS {
        let (bytes, operations) = (format.bytes(outputs, columns), 2 * rows * outputs * columns);
        group.throughput(if rows <= MEMORY_BOUND_ROWS {
            Throughput::Bytes(bytes as u64)
        } else {
            Throughput::Elements(operations as u64)
        });
        let x = numbers(rows * columns, 2);
        let multiply = |isa: Isa,
                        activations: &mut Activations,
                        weights: PackedMatrix<'_>,
                        out: &mut [f32]| {
            // Filled and converted each time, as in a layer.
            activations.fill(pool, rows, columns, |row, to| {
                to.copy_from_slice(&x[row * columns..][..columns]);
            });
            let output = GemmOutput { weights, out, epilogue: Epilogue::Store };
            kernel::gemm(pool, isa, activations, &mut [output]);
        };
        for isa in Isa::available() {
            if isa == Isa::PORTABLE && !PORTABLE_ROWS.contains(&rows) {
                continue;
            }
            let x_format = kernel::activation_format(isa, format, rows);
            let portable = kernel::activation_format(Isa::PORTABLE, format, rows);
            let tolerance = tolerance(portable, x_format);
            let mut activations = Activations::default();
            let mut out = vec![0.0; rows * outputs];
            let mut copy = 0;
            let mut best = None;
            group.bench_function(BenchmarkId::new(isa.name(), rows), |bencher| {
                let matrix = matrix.get_or_init(|| {
                    peaks.measure();
                    MatrixCopies::new(dtype)
                });
                if best.is_none() {
                    verify(name, isa, rows, tolerance, |isa| {
                        let mut out = vec![0.0; rows * VERIFIED_OUTPUTS];
                        let weights = matrix.packed(0, VERIFIED_OUTPUTS);
                        multiply(isa, &mut Activations::default(), weights, &mut out);
                        out
                    });
                }
                bencher.iter_custom(|iterations| {
                    time(iterations, &mut best, || {
                        multiply(isa, &mut activations, matrix.packed(copy, outputs), &mut out);
                        copy += 1;
                        black_box(&out);
                    })
                });
            });
            let name = format!("{name}/{}/{rows}", isa.name());
            timed.extend(best.map(|best| Timed {
                name,
                bytes,
                operations,
                format: x_format,
                best,
            }));
        }
    }
    group.finish();
}

fn layout(dtype: KvDtype) -> KvLayout {
    KvLayout { layers: LAYERS, heads: HEADS, width: WIDTH, dtype }
}

/// A cache of `past` positions, and of `rows` more whose length is not set yet, as in a pass over
/// them.
fn fill_cache(pool: &Pool, dtype: KvDtype, rows: usize, past: usize) -> KvCache {
    let mut cache = KvCache::new(layout(dtype));
    cache.reset(1);
    for (rows, past) in [(past, 0), (rows, past)] {
        // Keeps the past positions and frees pages beyond them.
        cache.set_length(0, past);
        cache.grow(0, past + rows).expect("memory for the cache");
        let [keys, values] = [3, 4].map(|seed| numbers(rows * HEADS * WIDTH, seed));
        for layer in 0..LAYERS {
            let span = Span { sequence: 0, start: 0, rows, past };
            cache.append(pool, layer, &[span], &keys, &values);
        }
    }
    cache
}

fn attention(criterion: &mut Criterion, pool: &Pool, peaks: &BestRates, timed: &mut Vec<Timed>) {
    for dtype in [KvDtype::Q8_0, KvDtype::Bf16, KvDtype::F32] {
        let name = dtype.name();
        let mut group = criterion.benchmark_group(format!("kernel-attention-{name}"));
        group.sampling_mode(SamplingMode::Flat);
        for (rows, past) in PASSES {
            let cache = OnceCell::new();
            let q: Vec<f32> =
                numbers(rows * HEADS * GROUP * WIDTH, 5).iter().map(|q| q / 8.0).collect();
            let spans = [Span { sequence: 0, start: 0, rows, past }];
            // Keys and values of every position are read; each row attends up to its own position.
            let bytes = 2 * (past + rows) * HEADS * dtype.bytes(WIDTH);
            let pairs = rows * past + rows * (rows + 1) / 2;
            let operations = 4 * pairs * HEADS * GROUP * WIDTH;
            group.throughput(if rows <= MEMORY_BOUND_ROWS {
                Throughput::Bytes(bytes as u64)
            } else {
                Throughput::Elements(operations as u64)
            });
            let pass = format!("{rows}-at-{past}");
            for isa in Isa::available() {
                let q_format = |isa| kernel::attention_format(isa, layout(dtype), rows * GROUP);
                let (portable, x_format) = (q_format(Isa::PORTABLE), q_format(isa));
                let (mut layer, mut out, mut best) = (0, Activations::default(), None);
                group.bench_function(BenchmarkId::new(isa.name(), &pass), |bencher| {
                    let cache = cache.get_or_init(|| {
                        peaks.measure();
                        fill_cache(pool, dtype, rows, past)
                    });
                    if best.is_none() {
                        let tolerance = tolerance(portable, x_format);
                        verify(&format!("attention-{name}"), isa, rows, tolerance, |isa| {
                            let mut out = Activations::default();
                            kernel::attention(pool, isa, cache, 0, &spans, &q, &mut out);
                            out.f32().to_vec()
                        });
                    }
                    bencher.iter_custom(|iterations| {
                        time(iterations, &mut best, || {
                            kernel::attention(pool, isa, cache, layer, &spans, &q, &mut out);
                            layer = (layer + 1) % LAYERS;
                            black_box(&out);
                        })
                    });
                });
                let name = format!("attention-{name}/{}/{pass}", isa.name());
                timed.extend(best.map(|best| Timed {
                    name,
                    bytes,
                    operations,
                    format: x_format,
                    best,
                }));
            }
        }
        group.finish();
    }
}

/// The time of all iterations. Keeps the best mean in `best`.
fn time(iterations: u64, best: &mut Option<Duration>, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..iterations).for_each(|_| work());
    let all = start.elapsed();
    let each = all / u32::try_from(iterations).unwrap_or(u32::MAX).max(1);
    *best = Some(best.map_or(each, |best| best.min(each)));
    all
}

/// Verifies a tier against the portable one before it is timed.
fn verify(name: &str, isa: Isa, rows: usize, tolerance: f64, result: impl Fn(Isa) -> Vec<f32>) {
    if isa == Isa::PORTABLE {
        return;
    }
    let (definition, other) = (result(Isa::PORTABLE), result(isa));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = || definition.iter().zip(&other);
    let error = norm(&mut pairs().map(|(a, b)| f64::from(*a) - f64::from(*b)))
        / norm(&mut pairs().map(|(a, _)| f64::from(*a)));
    let isa = isa.name();
    assert!(error < tolerance, "{name} with {rows} rows: relative error of {isa} is {error:.1e}");
}

/// Prints the fraction of the roofline that each kernel reached: the longer of the times for its
/// bytes and for its operations at peak rates, divided by its measured time.
fn print_table(timed: &[Timed], rates: &Rates, threads: usize) {
    let read = rates.best_read_bytes_per_s();
    let giga =
        |rate: Option<f64>| rate.map_or("not measured".into(), |rate| format!("{:.1}", rate / 1e9));
    println!("\nevery tier agrees with the portable one\n");
    println!(
        "peak of {threads} threads: {} GB/s; {} f32, {} int8, {} int16, {} bf16 GFLOP/s\n",
        giga(read),
        giga(rates.f32_flop_per_s),
        giga(rates.int8_op_per_s),
        giga(rates.int16_op_per_s),
        giga(rates.bf16_flop_per_s),
    );
    println!("{:<36} {:>9} {:>8} {:>9} {:>9}", "kernel", "ms", "GB/s", "GFLOP/s", "roofline");
    for Timed { name, bytes, operations, format, best } in timed {
        let (seconds, bytes, operations) = (best.as_secs_f64(), *bytes as f64, *operations as f64);
        let peak = match format {
            ActivationFormat::F32 => rates.f32_flop_per_s,
            ActivationFormat::Int8 => rates.int8_op_per_s,
            ActivationFormat::Int16 => rates.int16_op_per_s,
            ActivationFormat::Bf16 => rates.bf16_flop_per_s,
        };
        let fraction = read.zip(peak).map_or("-".into(), |(read, peak)| {
            format!("{:.0} %", 100.0 * (bytes / read).max(operations / peak) / seconds)
        });
        println!(
            "{name:<36} {:>9.3} {:>8.1} {:>9.1} {fraction:>9}",
            seconds * 1e3,
            bytes / seconds / 1e9,
            operations / seconds / 1e9,
        );
    }
}

/// Pseudorandom numbers in ±1 (xorshift), the same on every machine. Operands need different seeds:
/// products of a vector with itself only add up, which exaggerates the effect of summation order.
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
