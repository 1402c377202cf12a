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
"$tool" check --record "$out/record.json" --format junit -o "$out/junit.xml" 2>/dev/null || true
"$tool" check --record "$out/record.json" --format github 2>/dev/null || true
if [ "$status" = 4 ]; then
    "$tool" check --record "$out/record.json" --format json -o "$out/verdict.json" 2>/dev/null || true
    if grep -q '^  "reason": "no baseline ' "$out/verdict.json"; then
        status="no baseline"
        printf '\nThree records of one commit, from sessions an hour apart, make one:\n' >>"$out/verdict.md"
        printf '`candlemark promote RECORD RECORD RECORD`. The artifact has the first.\n' >>"$out/verdict.md"
    fi
fi
echo "$status" >"$out/status"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/verdict.md" >>"$GITHUB_STEP_SUMMARY"; fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "status=$status" >>"$GITHUB_OUTPUT"; fi
