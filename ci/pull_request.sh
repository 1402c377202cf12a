#!/usr/bin/env bash
# Compares the working tree with BASE, both builds in turns, and leaves all documents of the verdict
# in OUT: comment.md, page.html, junit.xml, bmf.json, pair.json, status. Prints annotations for a
# GitHub job, and adds the verdict to its summary. The exit status is 0 whenever there is an answer;
# `status` has the gate's.
# Usage: ci/pull_request.sh TOOL BASE OUT [ARGUMENT of `pair`...]
set -euo pipefail
tool=$1 base=$2 out=$3
shift 3
mkdir -p "$out"
# Building into the same target folder would replace the running binary.
cp "$tool" "$out/tool"
tool=$out/tool

status=0
"$tool" pair --base "$base" --raw "$out/pair.json" --format md -o "$out/comment.md" "$@" || status=$?
echo "$status" >"$out/status"
# A wrong command line writes no verdict: the job must fail, not pass without one.
[ -s "$out/comment.md" ] || { echo "no verdict: exit status $status" >&2 && exit "$status"; }

if [ -f "$out/pair.json" ]; then
    for form in html:page.html junit:junit.xml bmf:bmf.json; do
        "$tool" check --record "$out/pair.json" --format "${form%%:*}" -o "$out/${form##*:}" || true
    done
    "$tool" check --record "$out/pair.json" --format github || true
fi
rm "$out/tool"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/comment.md" >>"$GITHUB_STEP_SUMMARY"; fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "status=$status" >>"$GITHUB_OUTPUT"; fi
