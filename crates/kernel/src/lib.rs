//! CPU kernels: GEMM and GEMV on packed, quantized weights, attention, RMSNorm, RoPE, and the
//! thread pool that runs them. One set of kernels per tier of SIMD instructions (AVX2, AVX-VNNI,
//! AVX-512 VNNI, AMX; NEON with and without `sdot`); the `portable` tier is the definition that
//! every other tier must agree with.
//!
//! All `unsafe` code of the project lives here: functions compiled with `#[target_feature]`, which
//! are called only after CPU detection, and output slices that tasks write in parallel.
//!
//! Reading order: `isa` (CPU detection), `plan` (variants), `pool` (threads), `arena` (huge pages),
//! `packed`, `pack` and `ggml` (weights), `operands` and `activations`, `portable` and the SIMD
//! tiers, `gemm` (puts them together), `kv_cache` and `attention`; `peak` measures the roofline.

#![expect(unsafe_code, reason = "the only place for it; every block says why it is sound")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows and lanes index several register arrays at once"
)]

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod arena;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod dispatch;
mod elementwise;
mod error;
mod gemm;
mod ggml;
mod isa;
mod kernels;
mod kv_cache;
#[cfg(target_arch = "aarch64")]
mod neon;
mod nonlinear;
mod operands;
mod pack;
mod packed;
mod peak;
mod plan;
mod pool;
mod portable;

pub use activations::{ActivationFormat, Activations};
pub use arena::Arena;
pub use attention::{attention, attention_format};
pub use elementwise::{argmax, qk_norm_rope, rms_norm};
pub use error::{Error, Result};
pub use gemm::{Epilogue, GemmOutput, activation_format, gemm, gemm_swiglu};
pub use ggml::{GgmlType, dequantize, pack, quantize};
pub use isa::Isa;
pub use kv_cache::{KvCache, KvDtype, KvLayout, Span};
pub use operands::DECODE_MAX_ROWS;
pub use packed::{PANEL_ROWS, PackedMatrix, WeightFormat};
pub use peak::{PeakRates, ReadBandwidth, ReadBuffers, peak_rate, peak_rates};
pub use pool::Pool;

/// Reports a skipped test on stderr, bypassing the test harness, which hides the output of tests
/// that pass.
#[cfg(any(test, feature = "emulator"))]
pub fn skipped(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

#[cfg(all(any(test, feature = "emulator"), target_arch = "x86_64", target_os = "linux"))]
mod emulator;
#[cfg(test)]
mod tests;
