//! CPU kernels on the shapes of a small model: GEMM for every weight format, and attention. Every
//! tier is verified against the portable one, which is the definition, then timed. A table at the
//! end shows which fraction of the roofline of its tier each reaches: the peak of arithmetic in the
//! number format of its activations, and in decode that of reading memory.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a bench talks to the terminal")]

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use candlemark::error::Cause;
use candlemark::kernel::{
    ActivationFormat, Activations, Arena, DECODE_MAX_ROWS, Epilogue, GemmOutput, GgmlType, Isa,
    KvCache, KvDtype, KvLayout, PANEL_ROWS, PackedMatrix, Pool, ReadBuffers, Span, WeightFormat,
};
use candlemark::settings::{Config, Setup};
use candlemark::{Error, kernel, machine, stats};
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

/// `(rows, past)`: decode over a long context, of one token and of several, and prefill.
const PASSES: [(usize, usize); 3] = [(1, 4096), (4, 4096), (512, 0)];

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

/// A kernel: its work and times.
struct Timed {
    name: String,
    isa: Isa,
    rows: usize,
    bytes: usize,
    operations: usize,
    format: ActivationFormat,
    /// The mean of the last sample, and the best.
    last: Duration,
    best: Duration,
    /// Of each sample: the time that the roofline allows, divided by its own.
    fractions: Vec<f64>,
}

impl Timed {
    fn new(
        name: String,
        isa: Isa,
        rows: usize,
        [bytes, operations]: [usize; 2],
        format: ActivationFormat,
    ) -> Self {
        let (last, best, fractions) = (Duration::MAX, Duration::MAX, Vec::new());
        Self { name, isa, rows, bytes, operations, format, last, best, fractions }
    }

    fn is_new(&self) -> bool {
        self.best == Duration::MAX
    }

    /// The time of all iterations.
    fn time(&mut self, iterations: u64, mut work: impl FnMut()) -> Duration {
        let start = Instant::now();
        (0..iterations).for_each(|_| work());
        let all = start.elapsed();
        self.last = all / u32::try_from(iterations).unwrap_or(u32::MAX).max(1);
        self.best = self.best.min(self.last);
        all
    }

    /// Compares the last sample with the roofline at this moment. After Criterion has taken the
    /// sample's time, which this must not prolong.
    fn compare(&mut self, peaks: &Peaks<'_>) {
        if is_test() {
            return;
        }
        let mut least = self.operations as f64 / peaks.arithmetic(self.isa, self.format);
        if self.rows <= DECODE_MAX_ROWS {
            let Some(rate) = peaks.read(self.isa) else { return };
            least = least.max(self.bytes as f64 / rate);
        }
        self.fractions.push(least / self.last.as_secs_f64());
    }
}

/// Time for measuring a peak.
const PEAK_BUDGET: Duration = Duration::from_millis(5);

/// Measures the peaks of a tier, and keeps the best. A shared or throttled machine changes its rate
/// within seconds, so every sample has its own.
struct Peaks<'a> {
    pool: &'a Pool,
    /// `None` if the memory has no room for them.
    buffers: OnceCell<Option<ReadBuffers<'a>>>,
    best: RefCell<BTreeMap<(&'static str, &'static str), f64>>,
}

impl Peaks<'_> {
    /// Operations per second.
    fn arithmetic(&self, isa: Isa, format: ActivationFormat) -> f64 {
        let name = match format {
            ActivationFormat::F32 => "f32",
            ActivationFormat::Int8 => "int8",
            ActivationFormat::Int16 => "int16",
            ActivationFormat::Bf16 => "bf16",
        };
        self.keep_best(isa, name, kernel::peak_rate(self.pool, isa, format, PEAK_BUDGET))
    }

    /// Bytes per second.
    fn read(&self, isa: Isa) -> Option<f64> {
        let buffers = self.buffers.get_or_init(|| {
            machine::read_buffer_bytes(0).and_then(|bytes| ReadBuffers::new(self.pool, bytes).ok())
        });
        let read = buffers.as_ref()?.bandwidth(isa, 1, PEAK_BUDGET);
        let rate = read.small_pages_bytes_per_s.max(read.huge_pages_bytes_per_s);
        Some(self.keep_best(isa, "read", rate))
    }

    fn keep_best(&self, isa: Isa, name: &'static str, rate: f64) -> f64 {
        let mut best = self.best.borrow_mut();
        let best = best.entry((isa.name(), name)).or_default();
        *best = rate.max(*best);
        rate
    }
}

fn main() {
    let config = Config::read(None, std::env::vars_os()).unwrap_or_else(|error| exit(&error));
    let threads = Setup::new(&config).threads;
    let pool = Pool::new(threads).unwrap_or_else(|error| exit(&error.into()));
    let peaks = Peaks { pool: &pool, buffers: OnceCell::new(), best: RefCell::default() };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let mut timed = Vec::new();
    for (name, dtype) in TYPES {
        gemm(&mut criterion, &peaks, name, dtype, &mut timed);
    }
    attention(&mut criterion, &peaks, &mut timed);
    criterion.final_summary();
    if !timed.is_empty() && !is_test() {
        print_table(&timed, &peaks);
    }
}

/// Criterion itself cannot fail a bench.
fn exit(error: &Error) -> ! {
    eprintln!("error: {}", error.chain());
    std::process::exit(if error.cause() == Cause::Usage { 2 } else { 5 })
}

/// Whether each case runs once, untimed (`cargo test --benches`).
fn is_test() -> bool {
    let has = |flag| std::env::args_os().any(|arg| arg == flag);
    has("--test") || !has("--bench")
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
    peaks: &Peaks<'_>,
    name: &str,
    dtype: GgmlType,
    all: &mut Vec<Timed>,
) {
    let mut group = criterion.benchmark_group(format!("kernel-{name}"));
    group.sampling_mode(SamplingMode::Flat);
    let (pool, matrix) = (peaks.pool, OnceCell::new());
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
            let name_of_case = format!("{name}/{}/{rows}", isa.name());
            let mut timed = Timed::new(name_of_case, isa, rows, [bytes, operations], x_format);
            group.bench_function(BenchmarkId::new(isa.name(), rows), |bencher| {
                let matrix = matrix.get_or_init(|| MatrixCopies::new(dtype));
                if timed.is_new() {
                    verify(name, isa, rows, tolerance, |isa| {
                        let mut out = vec![0.0; rows * VERIFIED_OUTPUTS];
                        let weights = matrix.packed(0, VERIFIED_OUTPUTS);
                        multiply(isa, &mut Activations::default(), weights, &mut out);
                        out
                    });
                }
                bencher.iter_custom(|iterations| {
                    timed.time(iterations, || {
                        multiply(isa, &mut activations, matrix.packed(copy, outputs), &mut out);
                        copy += 1;
                        black_box(&out);
                    })
                });
                timed.compare(peaks);
            });
            all.extend((!timed.is_new()).then_some(timed));
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

fn attention(criterion: &mut Criterion, peaks: &Peaks<'_>, all: &mut Vec<Timed>) {
    let pool = peaks.pool;
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
                let (mut layer, mut out) = (0, Activations::default());
                let name_of_case = format!("attention-{name}/{}/{pass}", isa.name());
                let mut timed = Timed::new(name_of_case, isa, rows, [bytes, operations], x_format);
                group.bench_function(BenchmarkId::new(isa.name(), &pass), |bencher| {
                    let cache = cache.get_or_init(|| fill_cache(pool, dtype, rows, past));
                    if timed.is_new() {
                        // Softmax weights are rounded, too: their last digits may decide how.
                        let tolerance = tolerance(portable, x_format).max(rounding_error(x_format));
                        verify(&format!("attention-{name}"), isa, rows, tolerance, |isa| {
                            let mut out = Activations::default();
                            kernel::attention(pool, isa, cache, 0, &spans, &q, &mut out);
                            out.f32().to_vec()
                        });
                    }
                    bencher.iter_custom(|iterations| {
                        timed.time(iterations, || {
                            kernel::attention(pool, isa, cache, layer, &spans, &q, &mut out);
                            layer = (layer + 1) % LAYERS;
                            black_box(&out);
                        })
                    });
                    timed.compare(peaks);
                });
                all.extend((!timed.is_new()).then_some(timed));
            }
        }
        group.finish();
    }
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

/// Prints the best rate of each kernel, and the median of its fractions of the roofline.
fn print_table(timed: &[Timed], peaks: &Peaks<'_>) {
    println!("\nevery tier agrees with the portable one\n");
    println!("best peaks of {} threads, GB/s and GFLOP/s:", peaks.pool.threads());
    for ((isa, name), rate) in &*peaks.best.borrow() {
        println!("{isa:<12} {name:<6} {:>8.1}", rate / 1e9);
    }
    println!("\n{:<36} {:>9} {:>8} {:>9} {:>9}", "kernel", "ms", "GB/s", "GFLOP/s", "roofline");
    for Timed { name, bytes, operations, best, fractions, .. } in timed {
        let seconds = best.as_secs_f64();
        println!(
            "{name:<36} {:>9.3} {:>8.1} {:>9.1} {:>9}",
            seconds * 1e3,
            *bytes as f64 / seconds / 1e9,
            *operations as f64 / seconds / 1e9,
            stats::median(fractions)
                .map_or("-".into(), |median| format!("{:.0} %", 100.0 * median)),
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
