#!/usr/bin/env bash
# Everything that has to hold before a change lands: format, lints, tests, documentation, and the gate on a real bench.
# Usage: ci/check.sh        (about 20 minutes from nothing on 2 cores; needs Rust and a C compiler)
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

if ! command -v cc >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "install a C compiler"
    apt-get update -q && apt-get install -qy gcc libc6-dev
fi

step "format"
cargo fmt --check

step "lints: the judging half alone, with counters of GPUs, then everything"
cargo clippy --locked --no-default-features --all-targets -- -D warnings
cargo clippy --locked --no-default-features --features nvml --all-targets -- -D warnings
cargo clippy --locked --all-targets -- -D warnings

step "tests"
cargo test --locked

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "a short real bench, and a gate that can fail"
cargo build --locked --release --bin candlemark
ci/gate.sh "${CARGO_TARGET_DIR:-target}/release/candlemark"

step "cargo bench: lists without a model, measures one case"
cargo bench --locked --bench generate -- --list
cargo bench --locked --bench generate -- short/b1 --noplot

printf '\nall checks passed in %ss\n' "$SECONDS"
