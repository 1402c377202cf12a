#!/usr/bin/env bash
# Prints the section of a version in CHANGELOG.md.
# Usage: ci/notes.sh vVERSION
set -euo pipefail
notes=$(awk -v heading="## [${1#v}]" 'index($0, heading) == 1 { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md)
[ -n "$notes" ] || { echo "CHANGELOG.md has no section of ${1#v}" >&2 && exit 1; }
printf '%s\n' "$notes"
