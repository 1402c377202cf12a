#!/usr/bin/env bash
# All checks before a change lands: format, lints, tests, documentation, and the gate on a real
# bench. Takes about 30 minutes on 2 cores without a cache; needs Rust and a C compiler.
# Usage: ci/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

install() { # PACKAGES PROGRAM: installs the packages if the program is missing
    if ! command -v "$2" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "install $1"
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $1
    fi
}
install "gcc libc6-dev" cc
install chromium chromium || echo "no browser: the browser test will be skipped"

step "format"
cargo fmt --all --check

step "lints: without the engine, then everything that builds without a system library"
cargo clippy --locked --no-default-features --all-targets -- -D warnings
# `--all-targets` skips benches with `bench = false`.
cargo clippy --locked --features nvml --lib --bins --tests --bench generate --bench grid \
    --bench kernels -- -D warnings

step "lints: the kernels of Arm"
arm=aarch64-unknown-linux-gnu
if command -v rustup >/dev/null && rustup target list --installed | grep -qx "$arm"; then
    cargo clippy --locked -p candlemark-kernel --target "$arm" --lib --tests -- -D warnings
else
    echo "SKIPPED: needs \`rustup target add $arm\`"
fi

# Kernel tests run the tiers that the program detects. A tier that this CPU has but the program does
# not detect must fail, so the expected tiers come from Linux, by the rules of crates/kernel/src/isa.rs.
# AMX is emulated where only the unit itself is missing.
flags=" $(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || true) "
has() { for flag in "$@"; do [[ $flags == *" $flag "* ]] || return 1; done; }
tiers=""
if has avx2 fma f16c; then
    tiers="avx2"
    if has avx_vnni; then tiers+=",avxvnni"; fi
    if has avx512f avx512bw avx512dq avx512vl avx512_vnni; then
        tiers+=",avx512"
        if has avx512_bf16; then tiers+=",amx"; fi
    fi
fi
if has asimd; then
    tiers="neon"
    if has asimddp; then
        tiers+=",dotprod"
        if has i8mm; then tiers+=",i8mm"; fi
    fi
fi

step "tests, requiring the kernel tiers: ${tiers:-none}"
CANDLEMARK_REQUIRE_TIERS="$tiers" cargo test --locked

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "build the benches, and with them the binary"
# One build: what the benches need as well would otherwise compile the crates that both use twice.
engines=$(cargo bench --locked --workspace --no-run --bench generate --bench grid --bench llama \
    --message-format=json-render-diagnostics |
    sed -n '/example-engine\/Cargo.toml/s/.*"executable":"\([^"]*\)".*/\1/p')

step "a short real bench, and a gate that can fail"
ci/gate.sh "${CARGO_TARGET_DIR:-target}/release/candlemark"

[ "$(wc -l <<<"$engines")" = 2 ] || { echo "not two engines: $engines" && exit 1; }
tool=${CARGO_TARGET_DIR:-target}/release/candlemark
slowed() { # ENGINE ARGUMENT...: the gate must fail on an engine of half its speed
    local status=0
    CANDLEMARK_INJECT=decode:50% "$tool" pair --base "$1" --candidate "$1" short/b1 --budget 2m \
        "${@:2}" || status=$?
    [ "$status" = 1 ] || { echo "slowed: exit status $status instead of 1" && exit 1; }
}

step "an engine of another crate: its bench is a worker, and the gate fails on it"
slowed "$(grep -v llama <<<"$engines")"

step "a Llama of candle-transformers from a folder, which candlemark itself cannot read"
# A Llama has the tensors of Qwen2, and no biases.
llama=${CARGO_TARGET_DIR:-target}/llama
rm -rf "$llama" # Of an earlier run.
"$tool" synth --shape nano-qwen2 -o "$llama"
sed -i.bak 's/"qwen2"/"llama"/' "$llama/config.json"
engine=$(grep llama <<<"$engines")
CANDLEMARK_MODEL=$llama "$engine" --bench 'short/b1$' --noplot
slowed "$engine" --model "$llama"

step "every suite, killed and resumed, and every format of a report"
ci/suites.sh "${CARGO_TARGET_DIR:-target}/release/candlemark"

step "cargo bench: list without a model, measure one case"
cargo bench --locked --bench generate -- --list
cargo bench --locked --bench grid -- --list
cargo bench --locked --bench generate -- short/b1 --noplot

printf '\nall checks passed in %ss\n' "$SECONDS"
