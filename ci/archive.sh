#!/usr/bin/env bash
# Packs the binary of FOLDER with licences, man pages and completions into OUT.
# Usage: ci/archive.sh FOLDER VERSION OUT
set -euo pipefail
folder=$1 version=$2 out=$3
host=$(rustc -vV | sed -n 's/^host: //p')
name=candlemark-$version-$host
mkdir -p "$out/$name"
cp "$folder"/candlemark* "$out/$name" 2>/dev/null || true
rm -f "$out/$name"/*.d "$out/$name"/*.pdb
[ -n "$(ls "$out/$name")" ] || { echo "no binary in $folder" >&2 && exit 1; }
cp LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md "$out/$name"
for shell in bash zsh fish powershell; do
    "$folder/candlemark" completions "$shell" >"$out/$name/completions.$shell"
done
"$folder/candlemark" man "$out/$name/man" >/dev/null
tar -C "$out" -czf "$out/$name.tar.gz" "$name"
rm -r "${out:?}/$name"
