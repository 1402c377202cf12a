#!/usr/bin/env bash
# Sees the gate pass and fail on this machine, in both its forms. Two builds in turns: equal ones must not be called a
# regression, one that is slowed down by a quarter must. The same against a stored baseline of six short sessions. And the rule
# itself on recorded blocks of known changes. Usage: ci/gate.sh path/to/candlemark
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

pair() { # more arguments; prints the verdict and sets $verdict to the exit status
    verdict=0
    "$binary" pair --base "$binary" --candidate "$binary" --even-if-identical --budget 3m --raw "$work/pair.json" "$@" || verdict=$?
    echo "exit status: $verdict"
}

echo "-- two equal builds in turns"
pair short/b1
case $verdict in
0) echo "equal: pass" ;;
3) echo "equal: cannot decide (the machine is too noisy for a pass)" ;;
*) echo "equal: the gate said $verdict, which is wrong" && exit 1 ;;
esac

echo "-- two builds in turns, decoding of one slowed down by 25 %"
CANDLEMARK_INJECT=decode:25% pair short/b1
[ "$verdict" = 1 ] || { echo "slowed: the gate said $verdict instead of 1: it is dead" && exit 1; }
echo "-- the same verdict from its file alone"
verdict=0
"$binary" check --record "$work/pair.json" >/dev/null || verdict=$?
[ "$verdict" = 1 ] || { echo "the file says $verdict instead of 1" && exit 1; }

if [ -d fixtures/gate ]; then
    echo "-- every rule on recorded blocks of known changes"
    "$binary" gate-eval replay --runs 20 --rules ours,naive_5 | tail -1 | grep -q '"ours"' || { echo "no figures" && exit 1; }
fi

for session in 1 2 3 4 5 6; do
    echo "-- session $session of the baseline"
    measure "session-$session" 2
    sleep 1 # Sessions are told apart by the second they began in.
done
# A baseline for use is of sessions at other times of the day; this one has to be there in minutes.
"$binary" promote --session-gap 1s "$work"/session-*.json -o "$work/baseline.json"

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

# Where one run cannot decide, the answer is to measure more and judge the runs together. On a host that moves by a third between
# sessions no number of them shows a quarter; such a gate must still see a change that is larger than the host's own.
for by in 25 90; do
    slowed=()
    for round in 1 2 3; do
        echo "-- a run whose decoding takes $by % more time, round $round"
        CANDLEMARK_INJECT=decode:$by% measure "slowed-$by-$round" 4
        slowed+=("slowed-$by-$round")
        judge "${slowed[@]}"
        [ "$verdict" = 3 ] || break 2
        sleep 1
    done
    echo "slowed: cannot decide about $by % here (the machine is too noisy)"
done
[ "$verdict" = 1 ] || { echo "slowed: the gate said $verdict instead of 1: it is dead" && exit 1; }
echo "slowed: regression, as it has to be"

echo "-- a slowed run never becomes a baseline"
if "$binary" promote --session-gap 1s "$work"/session-1.json "$work"/session-2.json "$work/slowed-25-1.json" -o "$work/bad.json"; then
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
