#!/usr/bin/env bash
# Promotes the records of a folder to a baseline, commits it on a branch, and opens a pull request
# that says what moved. Needs `gh` and its token in GH_TOKEN.
# Usage: ci/promote.sh TOOL FOLDER BRANCH
set -euo pipefail
tool=$1 folder=$2 branch=$3
body=$(mktemp)
trap 'rm -f "$body"' EXIT

# What moved since the baseline that is stored now; 4 says that there is none.
status=0
"$tool" check --record "$(find "$folder" -name '*.json' | sort | head -1)" --single-look \
    --format md -o "$body" || status=$?
case $status in 0 | 1 | 3 | 4) ;; *) echo "exit status $status" >&2 && exit "$status" ;; esac

find "$folder" -name '*.json' -print0 | sort -z | xargs -0 "$tool" promote
git switch -c "$branch"
git add baselines
if git diff --cached --quiet; then
    echo "the baseline is as it was" && exit
fi
git -c user.name="candlemark" -c user.email="candlemark@users.noreply.github.com" \
    commit -qm "baselines: three sessions of $(git rev-parse --short HEAD)"
git push -q origin "$branch"
gh pr create --title "Baseline of $(git rev-parse --short HEAD~1)" --body-file "$body" --head "$branch"
