#!/usr/bin/env bash
# Sees the gate pass and fail on this machine: makes a baseline of six short sessions, judges an unchanged run (must not say
# regression) and one that is slowed down by a quarter (must). Usage: ci/gate.sh path/to/candlemark
set -euo pipefail
binary=$1
scenarios="short/b1 code/b4"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

measure() { # name, blocks
    # shellcheck disable=SC2086
    "$binary" run $scenarios --blocks "$2" --warmups 1 --iters 5 -o "$work/$1.json"
}

judge() { # names of records, judged together; prints the verdict and sets $verdict to the exit status
    local records=() name
    for name in "$@"; do records+=(--record "$work/$name.json"); done
    verdict=0
    "$binary" check "${records[@]}" --baseline "$work/baseline.json" || verdict=$?
    echo "exit status: $verdict"
}

for session in 1 2 3 4 5 6; do
    echo "-- session $session of the baseline"
    measure "session-$session" 2
    sleep 1 # Sessions are told apart by the second they began in.
done
"$binary" promote "$work"/session-*.json -o "$work/baseline.json"

# The baseline is a minute old, so a host that turns slow now looks like a regression: once more tells the two apart.
for round in 1 2; do
    echo "-- an unchanged run, round $round"
    measure "unchanged-$round" 4
    judge "unchanged-$round"
    [ "$verdict" = 1 ] || break
done
case $verdict in
0) echo "unchanged: pass" ;;
3) echo "unchanged: cannot decide (the machine is too noisy for a pass)" ;;
*) echo "unchanged: the gate said $verdict, which is wrong" && exit 1 ;;
esac

# Where one run cannot decide, the answer is to measure more and judge the runs together.
slowed=()
for round in 1 2 3; do
    echo "-- a run with decoding slowed down by 25 %, round $round"
    CANDLEMARK_INJECT=decode:25% measure "slowed-$round" 4
    slowed+=("slowed-$round")
    judge "${slowed[@]}"
    [ "$verdict" = 3 ] || break
    sleep 1
done
[ "$verdict" = 1 ] || { echo "slowed: the gate said $verdict instead of 1: it is dead" && exit 1; }
echo "slowed: regression, as it has to be"

echo "-- a slowed run never becomes a baseline"
if "$binary" promote "$work"/session-1.json "$work"/session-2.json "$work/slowed-1.json" -o "$work/bad.json"; then
    echo "promote took an injected record" && exit 1
fi

if [ -d baselines ] && [ -n "$(ls -A baselines)" ]; then
    echo "-- the unchanged run against the baselines in the repository (other machines are refused, never compared)"
    status=0
    "$binary" check --record "$work/unchanged-1.json" || status=$?
    case $status in
    0 | 1 | 3) echo "repository baseline: exit status $status (information: it was made in other sessions of such a machine)" ;;
    4) echo "repository baseline: not comparable here" ;;
    *) echo "repository baseline: exit status $status" && exit 1 ;;
    esac
fi
