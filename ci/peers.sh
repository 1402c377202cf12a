#!/usr/bin/env bash
# Compares our engine with candle-transformers and llama.cpp on the same synthetic GGUF files. The
# last line is JSON: native divided by llama-cpp for every case.
# Usage: ci/peers.sh [--quick] [--shape qwen3-0.6b] [arguments of `candlemark peers`]
# --quick measures four cases in less than five minutes after the build. The build needs cmake,
# clang and libomp: gcc 12 miscompiles ggml's AMX tiles.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=false shape=qwen3-0.6b more=()
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=true ;;
    --shape) shape=$2 && shift ;;
    *) more+=("$1") ;;
    esac
    shift
done

newest() { # PROGRAM: its path, or its name with the highest version suffix
    command -v "$1" ||
        compgen -c "$1-" | grep -E "^$(sed 's/+/\\+/g' <<<"$1")-[0-9]+$" |
        sort -t- -k2 -rn | head -1
}

if ! { newest clang++ && command -v cmake; } >/dev/null &&
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        clang libclang-dev libomp-dev cmake g++ make
fi
if cxx=$(newest clang++) && cc=$(newest clang); then
    export CC=$cc CXX=$cxx
else
    echo "no clang: llama.cpp is built with $(c++ --version | head -1)" >&2
fi

# ggml is compiled for this CPU, as in its own builds. The build script of llama-cpp-sys-2 does that
# only with `-C target-cpu=native`, which would change our engine, too. It passes these flags on.
# It builds in release mode in every profile.
export CMAKE_C_FLAGS="${CMAKE_C_FLAGS--march=native -fPIC}"
export CMAKE_CXX_FLAGS="${CMAKE_CXX_FLAGS--march=native -fPIC}"
cargo build --locked --release --features llama-cpp --bin candlemark
binary=${CARGO_TARGET_DIR:-target}/release/candlemark

folder=${CARGO_TARGET_DIR:-target}/candlemark/peers
mkdir -p "$folder"
files=()
for quant in q8_0 q4_k_m bf16; do
    file=$folder/$shape-$quant.gguf
    [ -f "$file" ] || "$binary" synth --shape "$shape" --quant "$quant" -o "$file" >/dev/null
    files+=("$file")
done

if $quick; then
    more+=(--seconds 15)
    for key in q8_0_prefill_512 q8_0_decode_b16 q4_k_m_decode_b1 bf16_prefill_512; do
        more+=(--only "$key")
    done
fi
uptime >&2
"$binary" peers "${files[@]}" "${more[@]}"
