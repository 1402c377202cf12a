#!/usr/bin/env bash
# Compares our engine with candle-transformers and llama.cpp on the same synthetic GGUF files. The
# last line is JSON: native divided by each of the others, for every case.
# Usage: ci/peers.sh [--quick] [--shape qwen3-0.6b] [arguments of `candlemark peers`]
# --quick measures four cases in less than five minutes after the builds. PEERS_LLAMA (default:
# target/servers/llama-server) is the folder of llama.cpp; ci/servers/llama-build.sh builds it if it
# is not there. CANDLEMARK is the binary to run (default: a release build of this tree).
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

llama=${PEERS_LLAMA:-target/servers/llama-server}
ci/servers/llama-build.sh "$llama"
target=${CARGO_TARGET_DIR:-target}
binary=${CANDLEMARK:-$target/release/candlemark}
[ -n "${CANDLEMARK:-}" ] || cargo build --locked --release --bin candlemark

folder=$target/candlemark/peers
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
"$binary" peers "${files[@]}" --external "llama.cpp=$llama/bin/llama-bench" "${more[@]}"
