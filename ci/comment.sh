#!/usr/bin/env bash
# Keeps one comment of the gate on a pull request: writes it, edits it, or leaves it as it is when
# it would say the same. Needs the program `gh` and its token in GH_TOKEN.
# Usage: ci/comment.sh OWNER/NAME PULL_REQUEST FILE.md
set -euo pipefail
repository=$1 number=$2 file=$3
marker="<!-- candlemark verdict -->"
case $number in *[!0-9]* | "") echo "the number of a pull request is not \`$number\`" >&2 && exit 2 ;; esac
[ -s "$file" ] || { echo "no verdict in $file" >&2 && exit 1; }

body=$(printf '%s\n%s' "$marker" "$(cat "$file")")
comments=$(gh api --paginate "repos/$repository/issues/$number/comments" \
    --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id")
id=${comments%%$'\n'*}
if [ -z "$id" ]; then
    # A first comment is worth a message only if there is something to say.
    if head -1 "$file" | grep -qE '^\W*PASS\b'; then
        echo "pass: no comment needed"
        exit
    fi
    gh api "repos/$repository/issues/$number/comments" -f body="$body" >/dev/null
    echo "commented"
    exit
fi
known=$(gh api "repos/$repository/issues/comments/$id" --jq .body)
if [ "$known" = "$body" ]; then
    echo "nothing new"
    exit
fi
gh api --method PATCH "repos/$repository/issues/comments/$id" -f body="$body" >/dev/null
echo "edited"
