#!/usr/bin/env bash
# llama.cpp's server, built by ci/servers/llama-build.sh if it is not in the folder.
# For example: THREADS=1 ci/servers/llama-server.sh target/servers/llama-server -np 1
# Usage and variables: ci/servers/common.sh. QUANT (default: f32) is the model's quantization.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

"$root/ci/servers/llama-build.sh" "$folder"
quant=${QUANT:-f32}
model=$folder/$shape-$quant.gguf
[ -e "$model" ] || "$candlemark" synth --shape "$shape" --quant "$quant" -o "$model" >&2
serve /health "$folder/bin/llama-server" -m "$model" --alias "$shape" --host 127.0.0.1 \
    --port "$port" -t "$threads" -tb "$threads" -c 8192 -np 4 --metrics --no-webui
