#!/usr/bin/env bash
# `transformers serve` on CPU: torch and transformers from PyPI, 6 GB.
# Usage and variables: ci/servers/common.sh. DTYPE (default: float32) is the type of the weights.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

version=5.23.0

if new_venv; then
    pip_install "transformers[serving]==$version" torch
    touch "$folder/installed"
fi

synthetic_model ""
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$threads
serve /health "$venv/bin/transformers" serve "$model" --dtype "${DTYPE:-float32}" --device cpu \
    --host 127.0.0.1 --port "$port"
