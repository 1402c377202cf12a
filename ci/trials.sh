#!/usr/bin/env bash
# Runs complete `candlemark pair`s with known changes and counts their verdicts.
# Usage: ci/trials.sh BINARY [ROUNDS] [BUDGET] [SCENARIO...]
# A round is three pairs of equal builds, and one pair each with decode 5, 7.5 and 10 % down, TTFT
# 20 % up and memory 20 % up. Twenty rounds of the default scenario take about twenty minutes: the
# model is the smallest, so that a block takes less than a second. Every verdict is a line of
# target/candlemark/trials/verdicts-<time>.csv; intervals have 95 % confidence.
set -euo pipefail
binary=$(realpath "$1") rounds=${2:-20} budget=${3:-30s}
shift $(($# < 3 ? $# : 3))
scenarios=("${@:-short/b1}")
folder=${CARGO_TARGET_DIR:-target}/candlemark/trials
mkdir -p "$folder"
table=$folder/verdicts-$(date -u +%Y%m%dT%H%M%SZ).csv
echo "injected,status,seconds,blocks,verdict" >"$table"

trial() { # INJECTION, or none
    local raw=$folder/pair-$RANDOM$RANDOM.json began=$SECONDS status=0 text blocks
    local -a with=(env)
    [ "$1" = none ] || with+=("CANDLEMARK_INJECT=$1")
    text=$("${with[@]}" "$binary" pair --base "$binary" --candidate "$binary" --even-if-identical \
        "${scenarios[@]}" --model synthetic:nano --budget "$budget" --order-seed "$RANDOM" \
        --raw "$raw" 2>/dev/null) || status=$?
    blocks=$(grep -c '"total_s"' "$raw" || true)
    echo "$1,$status,$((SECONDS - began)),$blocks,\"$(head -1 <<<"$text")\"" | tee -a "$table"
    rm -f "${raw%.json}.html"
}

for _ in $(seq "$rounds"); do
    for injected in none decode:5% none decode:7.5% none decode:10% ttft:20% memory:20%; do
        trial "$injected"
    done
done

echo
printf '%-12s %5s %8s %14s %17s %6s %8s  %s\n' injected pairs 'pass(0)' 'regression(1)' \
    'undecided(3)' other seconds 'regression, 95 %'
for injected in none decode:5% decode:7.5% decode:10% ttft:20% memory:20%; do
    rows=$(grep "^$injected," "$table")
    count() { cut -d, -f2 <<<"$rows" | grep -cx "$1" || true; }
    pairs=$(wc -l <<<"$rows") pass=$(count 0) regressed=$(count 1) undecided=$(count 3)
    median=$(cut -d, -f3 <<<"$rows" | sort -n | sed -n "$(((pairs + 1) / 2))p")
    interval=$("$binary" gate-eval bounds "$regressed" "$pairs")
    printf '%-12s %5s %8s %14s %17s %6s %8s  %s %%\n' "$injected" "$pairs" "$pass" "$regressed" \
        "$undecided" $((pairs - pass - regressed - undecided)) "$median" "$interval"
done
