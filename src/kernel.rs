//! CPU kernels and the choice of instructions. `unsafe` lives only here: functions compiled for
//! more than the baseline, called after the CPU was asked, results that tasks write side by side,
//! and blocks seen as the bytes of their file. Each kernel stands beside its definition: `portable`
//! is what every other version must agree with.
//!
//! Reading order: `isa` (which instructions), `pool` (threads), `arena` (memory), `tiles`
//! (weights), `inputs` (activations), `portable` and its faster twins, `product` (all of it
//! together), `cache` and `attention`; `peak` is what all of them are held against.

#![expect(unsafe_code, reason = "the only place for it; every block says why it is sound")]
#![expect(
    clippy::needless_range_loop,
    reason = "rows and halves are registers, told apart by number"
)]

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
mod blocks;
mod cache;
mod elementwise;
mod inputs;
mod isa;
mod peak;
#[cfg(feature = "llama-cpp")]
mod peer;
mod pool;
mod portable;
mod product;
mod tiles;

pub use arena::{Arena, HUGE_PAGE};
pub use attention::{attend, attention_kind};
pub use blocks::{Blocks, Fill, matrix};
pub use cache::{Cache, Held, Layout, Span};
pub use elementwise::{largest, rms_norm, turn};
pub use inputs::{Inputs, Kind};
pub use isa::Isa;
pub use peak::{Peaks, ReadRates, peaks, read_rates};
#[cfg(feature = "llama-cpp")]
pub use peer::llama_system_info;
pub use pool::Pool;
pub use product::{Part, Then, gated, kind, products};
pub use tiles::{Form, TILE, Tiles, pack};

/// The target of the tracing spans around kernels. Nobody listens but where kernels are profiled.
pub const SPANS: &str = "candlemark::kernel";

/// Says what a test leaves out, and why, past the harness: it keeps what passing tests print.
#[cfg(test)]
pub(crate) fn skipped(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
#[cfg(all(test, unix))]
mod guard;
#[cfg(test)]
mod tests;
