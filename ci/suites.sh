#!/usr/bin/env bash
# Runs every suite on a tiny model, killed, interrupted and resumed: no measurement may be lost or
# repeated. Then writes the record in every format.
# Usage: ci/suites.sh path/to/candlemark
set -euo pipefail
binary=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
record="$work/record.json"
flags="all --model synthetic:nano --quant q8_0 --iters 2 --warmups 1"

measured() { # The values so far, without shares of peak rates, which change when the peak rises.
    "$binary" report "$record" --format csv |
        grep -v "not measured yet\|roofline_fraction\|prefill_flop_fraction"
}

count() { measured | tail -n +2 | wc -l; }

before=0
for seconds in 4 8; do
    echo "-- killed after $seconds s"
    resume=(-o "$record")
    [ ! -f "$record" ] || resume=(--resume "$record")
    # shellcheck disable=SC2086
    "$binary" run $flags "${resume[@]}" >"$work/live" 2>&1 &
    run=$!
    for _ in $(seq 600); do [ -f "$record" ] && break; sleep 0.1; done
    sleep "$seconds"
    # On a busy machine the first scenario may take longer.
    for _ in $(seq 60); do [ "$(count)" -gt "$before" ] && break; sleep 1; done
    kill -9 "$run" 2>/dev/null || { echo "the run ended before it was killed" && exit 1; }
    wait "$run" 2>/dev/null || true
    measured >"$work/after-$seconds"
    before=$(count)
    echo "$before values so far"
done
[ "$(wc -l <"$work/after-8")" -gt "$(wc -l <"$work/after-4")" ] ||
    { echo "the run was not resumed" && exit 1; }

echo "-- Ctrl-C"
# shellcheck disable=SC2086
"$binary" run $flags --resume "$record" >"$work/live" 2>"$work/talk" &
run=$!
sleep 2
kill -INT "$run" 2>/dev/null || { echo "the run ended before it was interrupted" && exit 1; }
status=0
wait "$run" || status=$?
[ "$status" = 130 ] || { echo "interrupted: exit status $status instead of 130" && exit 1; }
grep -q "interrupted: the record so far" "$work/talk" &&
    grep -q "^next: .*candlemark run .*--resume" "$work/talk" ||
    { echo "no command to continue:" && cat "$work/talk" && exit 1; }

echo "-- to the end"
# shellcheck disable=SC2086
"$binary" run $flags --resume "$record"
measured >"$work/whole"
for seconds in 4 8; do
    lost=$(grep -vxcFf "$work/whole" "$work/after-$seconds" || true)
    [ "$lost" = 0 ] || { echo "$lost values before the kill at $seconds s are lost" && exit 1; }
done
twice=$(tail -n +2 "$work/whole" | cut -d, -f1,2,3 | sort | uniq -d | wc -l)
blocks=$(tail -n +2 "$work/whole" | cut -d, -f3 | sort -u | tr -d '\n')
[ "$twice" = 0 ] && [ "$blocks" = 0 ] || { echo "measured twice: blocks $blocks" && exit 1; }

echo "-- every format of a report"
for lang in en fr ko; do
    for format in md html; do
        "$binary" report "$record" --format "$format" --lang "$lang" -o "$work/report.$lang.$format"
        [ -s "$work/report.$lang.$format" ]
    done
done
for format in json csv row benchmark-json prometheus; do
    "$binary" report "$record" --format "$format" -o "$work/export.$format"
    [ -s "$work/export.$format" ]
done
"$binary" compare "$record" "$record" >"$work/compare.md"
echo "all suites ran, all reports were written"
