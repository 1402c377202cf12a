#!/usr/bin/env bash
# Puts three loads on a running server (closed loops of 1 and 4, an open loop of 2 requests per
# second) and prints a row of a table for each; the results stay as JSON in OUT.
# For example: ci/servers/vllm.sh target/servers/vllm -- ci/servers/load.sh vllm {url}
# Usage: ci/servers/load.sh NAME URL [OUT [ARGUMENT_OF_LOAD…]]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
candlemark=${CANDLEMARK:-${CARGO_TARGET_DIR:-$root/target}/release/candlemark}
name=$1 url=$2 out=${3:-$root/target/servers/loads}
mkdir -p "$out"

printf '| %s ' server load sent errors "TTFT p50, ms" "TPOT p50, ms" "output tok/s" \
    "tokens in / out / cached" "tokens per chunk"
echo "|"
echo "|---|---|--:|--:|--:|--:|--:|--:|--:|"
for pace in "--concurrency 1" "--concurrency 4" "--rate 2"; do
    file=$out/$name-${pace//[ -]/}.json
    rm -f "$file"
    # shellcheck disable=SC2086
    "$candlemark" load --url "$url" $pace --requests 16 --input-tokens 64 --output-tokens 32 \
        --max-lag 1s "${@:4}" --json -o "$file" 2>"${file%.json}.log" || {
        echo "-- $name, $pace: exit status $?" >&2
        tail -n 5 "${file%.json}.log" >&2
        [ -f "$file" ] || exit 1
    }
    jq -r --arg name "$name" --arg pace "${pace#--}" '
        def ms: if . == null then "–" else . * 1000 | round end;
        def whole: if . == null then "–" else round end;
        def hundredths: if . == null then "–" else . * 100 | round / 100 end;
        .levels[] | "| \($name) | \($pace) | \(.sent) | \(.sent - .complete)"
        + " | \(.whole.ttft.p50 | ms) | \(.whole.tpot.p50 | ms) | \(.whole.output_tok_s | whole)"
        + " | \(.prompt_tokens // "–") / \(.output_tokens // "–") / \(.cached_tokens // "–")"
        + " | \(.tokens_per_chunk | hundredths) |"' "$file"
done
