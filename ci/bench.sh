#!/usr/bin/env bash
# Measures sessions and promotes them to a stored baseline. Run it on a quiet machine at a clean
# commit.
# Usage: ci/bench.sh [SESSIONS] [BLOCKS] [PAUSE_S]
set -euo pipefail
cd "$(dirname "$0")/.."
sessions=${1:-5} blocks=${2:-2} pause=${3:-60}
cargo build --locked --release --bin candlemark
binary=${CARGO_TARGET_DIR:-target}/release/candlemark
work=target/candlemark/baseline-$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
for session in $(seq "$sessions"); do
    [ "$session" = 1 ] || sleep "$pause"
    echo "-- session $session of $sessions"
    "$binary" run --blocks "$blocks" --warmups 1 --iters 3 -o "$work/session-$session.json"
done
"$binary" promote "$work"/session-*.json
