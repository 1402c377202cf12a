#!/usr/bin/env bash
# Runs whole `candlemark pair`s of known truth, in turns, and counts their verdicts: equal builds, and a candidate made worse by a
# known share. Usage: ci/trials.sh BINARY [ROUNDS] [BUDGET]
# A round is three pairs of equal builds and one each of decode 5, 7.5 and 10 % down, TTFT 20 % up and memory 20 % up; ten rounds
# take about a quarter of an hour. The model is the smallest, so that a block takes less than a second. Every verdict is a line of target/candlemark/trials/verdicts-<time>.csv.
set -euo pipefail
binary=$(realpath "$1") rounds=${2:-10} budget=${3:-30s}
folder=${CARGO_TARGET_DIR:-target}/candlemark/trials
mkdir -p "$folder"
table=$folder/verdicts-$(date -u +%Y%m%dT%H%M%SZ).csv
echo "injected,status,seconds,blocks,verdict" >"$table"

trial() { # what is injected, or none
    local raw=$folder/pair-$RANDOM$RANDOM.json began=$SECONDS status=0 text blocks
    local -a with=(env)
    [ "$1" = none ] || with+=("CANDLEMARK_INJECT=$1")
    text=$("${with[@]}" "$binary" pair --base "$binary" --candidate "$binary" --even-if-identical short/b1 --model synthetic:nano \
        --budget "$budget" --order-seed "$RANDOM" --raw "$raw" 2>/dev/null) || status=$?
    blocks=$(grep -c '"total_s"' "$raw" || true)
    echo "$1,$status,$((SECONDS - began)),$blocks,\"$(head -1 <<<"$text")\"" | tee -a "$table"
    rm -f "${raw%.json}.html"
}

for _ in $(seq "$rounds"); do
    for injected in none decode:5% none decode:7.5% none decode:10% ttft:20% memory:20%; do trial "$injected"; done
done

echo
echo "injected     runs  pass(0) regression(1) cannot decide(3) other  median seconds"
tail -n +2 "$table" | sort -t, -k1,1 -k3,3n | awk -F, '
    function show() { printf "%-12s %4d %8d %13d %16d %5d %15s\n", last, n, pass, regressed, undecided, other, seconds[int((n + 1) / 2)] }
    $1 != last { if (n) show(); last = $1; n = pass = regressed = undecided = other = 0 }
    { seconds[++n] = $3; if ($2 == 0) pass++; else if ($2 == 1) regressed++; else if ($2 == 3) undecided++; else other++ }
    END { if (n) show() }'
