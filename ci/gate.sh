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

judge() { # name; prints the verdict and the exit status
    local status=0
    "$binary" check --record "$work/$1.json" --baseline "$work/baseline.json" || status=$?
    echo "exit status: $status"
    verdict=$status
}

for session in 1 2 3 4 5 6; do
    echo "-- session $session of the baseline"
    measure "session-$session" 2
    sleep 1 # Sessions are told apart by the second they began in.
done
"$binary" promote "$work"/session-*.json -o "$work/baseline.json"

echo "-- an unchanged run"
measure unchanged 4
judge unchanged
case $verdict in
0) echo "unchanged: pass" ;;
3) echo "unchanged: cannot decide (the machine is too noisy for a pass)" ;;
*) echo "unchanged: the gate said $verdict, which is wrong" && exit 1 ;;
esac

echo "-- a run with decoding slowed down by 25 %"
CANDLEMARK_INJECT=decode:25% measure slowed 4
judge slowed
[ "$verdict" = 1 ] || { echo "slowed: the gate said $verdict instead of 1: it is dead" && exit 1; }
echo "slowed: regression, as it has to be"

echo "-- a slowed run never becomes a baseline"
if "$binary" promote "$work"/session-1.json "$work"/session-2.json "$work/slowed.json" -o "$work/bad.json"; then
    echo "promote took an injected record" && exit 1
fi

if [ -d baselines ] && [ -n "$(ls -A baselines)" ]; then
    echo "-- the unchanged run against the baselines in the repository (other machines are refused, never compared)"
    status=0
    "$binary" check --record "$work/unchanged.json" || status=$?
    case $status in
    0 | 1 | 3) echo "repository baseline: exit status $status (information: it was made in another session of such a machine)" ;;
    4) echo "repository baseline: not comparable here" ;;
    *) echo "repository baseline: exit status $status" && exit 1 ;;
    esac
fi
