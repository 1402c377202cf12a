#!/usr/bin/env bash
# `transformers serve` on CPU: torch and transformers from PyPI, 6 GB.
# Usage and variables: ci/servers/common.sh. DTYPE (default: float32) is the type of the weights.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

version=5.19.0 torch=2.13.0

if new_venv; then
    pip_install "transformers[serving]==$version" "torch==$torch" accelerate
    touch "$folder/installed"
fi

synthetic_model ""
# It lists the models of the hub's cache alone, and fails without one: the model is put there.
commit=0000000000000000000000000000000000000000
entry=$folder/hub/models--local--$shape
mkdir -p "$entry/refs" "$entry/snapshots"
printf %s "$commit" >"$entry/refs/main"
ln -sfn "$model" "$entry/snapshots/$commit"
export HF_HUB_CACHE=$folder/hub HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$threads
serve /health "$venv/bin/transformers" serve "local/$shape" --dtype "${DTYPE:-float32}" \
    --device cpu --host 127.0.0.1 --port "$port"
