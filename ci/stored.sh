#!/usr/bin/env bash
# Measures the main suite and judges it against the stored baseline of this class of machines.
# Leaves record.json, verdict.md, junit.xml and status in OUT. Without a baseline of this class,
# `status` is "no baseline" and the record is offered as one. The exit status is 0 whenever there is
# an answer.
# Usage: ci/stored.sh TOOL OUT [ARGUMENT of `run`...]
set -euo pipefail
tool=$1 out=$2
shift 2
mkdir -p "$out"
"$tool" run "$@" --blocks 4 -o "$out/record.json"

status=0
"$tool" check --record "$out/record.json" --measure --budget 10m --format md -o "$out/verdict.md" ||
    status=$?
[ -s "$out/verdict.md" ] || { echo "no verdict: exit status $status" >&2 && exit "$status"; }
"$tool" check --record "$out/record.json" --format junit -o "$out/junit.xml" || true
"$tool" check --record "$out/record.json" --format github || true
if [ "$status" = 4 ]; then
    class=$("$tool" check --record "$out/record.json" --format json | sed -n 's/.*"machine": "\(.*\)".*/\1/p' | head -1)
    if [ -n "$class" ] && [ ! -d "baselines/$class" ]; then
        status="no baseline"
        printf '\nNo baseline of the class `%s` is stored. Three records of one commit, from\n' "$class"
        printf 'sessions an hour apart, make one: `candlemark promote RECORD RECORD RECORD`.\n'
    fi >>"$out/verdict.md"
fi
echo "$status" >"$out/status"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/verdict.md" >>"$GITHUB_STEP_SUMMARY"; fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "status=$status" >>"$GITHUB_OUTPUT"; fi
