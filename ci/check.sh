#!/usr/bin/env bash
# Everything that has to hold before a change lands: format, lints, tests, documentation, and the gate on a real bench.
# Usage: ci/check.sh        (about 20 minutes from nothing on 2 cores; needs Rust and a C compiler)
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

install() { # package, for the program
    if ! command -v "$2" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "install $1"
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $1
    fi
}
install "gcc libc6-dev" cc
install chromium chromium || echo "no browser: its test is skipped, and says so"

step "format"
cargo fmt --check

step "lints: the judging half alone, with what is optional there, then everything"
cargo clippy --locked --no-default-features --all-targets -- -D warnings
cargo clippy --locked --no-default-features --features monitor,nvml,png --all-targets -- -D warnings
# `--all-targets` leaves out the benches that a plain `cargo bench` leaves out.
cargo clippy --locked --lib --bins --tests --bench generate --bench grid --bench kernels -- -D warnings

# Tests of kernels run the tiers that the program finds. One that this CPU has and the program does not find must not be
# left out in silence: what the CPU has is asked of Linux, by the rules of src/kernel/isa.rs. AMX is emulated where all of
# it is there but the unit.
flags=" $(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || true) "
has() { for flag in "$@"; do [[ $flags == *" $flag "* ]] || return 1; done; }
tiers=""
if has avx2 fma f16c; then
    tiers="avx2"
    if has avx512f avx512bw avx512dq avx512vl avx512_vnni; then
        tiers+=",avx512"
        if has avx512_bf16; then tiers+=",amx"; fi
    fi
fi

step "tests, with the kernel tiers ${tiers:-of every CPU}"
CANDLEMARK_REQUIRE_TIERS="$tiers" cargo test --locked

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "a short real bench, and a gate that can fail"
cargo build --locked --release --bin candlemark
ci/gate.sh "${CARGO_TARGET_DIR:-target}/release/candlemark"

step "every suite, killed and gone on with, and every form of a report"
ci/suites.sh "${CARGO_TARGET_DIR:-target}/release/candlemark"

step "cargo bench: lists without a model, measures one case"
cargo bench --locked --bench generate -- --list
cargo bench --locked --bench grid -- --list
cargo bench --locked --bench generate -- short/b1 --noplot

printf '\nall checks passed in %ss\n' "$SECONDS"
