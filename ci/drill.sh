#!/usr/bin/env bash
# Plays a pull request through, with the workflows' own commands, in a scratch repository that has an
# engine of its own: a slower commit, one that changes documentation only, odd checkouts. Takes about
# 15 minutes; with the dependencies built in CARGO_TARGET_DIR, less.
# Usage: ci/drill.sh path/to/candlemark
set -euo pipefail
tool=$(realpath "$1")
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
repo="$work/a repository" # With a space: paths are quoted everywhere.
words=(short/b1 --budget 3m --target-dir "${CARGO_TARGET_DIR:-$work/target}")
unset CARGO_TARGET_DIR

step() { printf '\n-- %s (%ss)\n' "$1" "$SECONDS"; }
fail() { echo "FAILED: $1" && exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: \`$2\` instead of \`$3\`"; }

# GitHub's comments, as files.
mkdir -p "$work/bin" "$work/comments"
cat >"$work/bin/gh" <<'GH'
#!/usr/bin/env bash
set -euo pipefail
cd "$COMMENTS"
body() { for word in "$@"; do case $word in body=*) printf '%s' "${word#body=}" ;; esac; done; }
case "$*" in
"api --paginate "*) ls ;;
"api --method PATCH "*) body "$@" >"${4##*/}" && echo edited >>../log ;;
*"--jq .body") cat "${2##*/}" ;;
*) body "$@" >7 && echo made >>../log ;;
esac
GH
chmod +x "$work/bin/gh"
export COMMENTS="$work/comments" PATH="$work/bin:$PATH"

step "a repository with an engine of its own"
mkdir -p "$repo"
cp -r "$root/crates/example-engine/." "$repo"
cd "$repo"
git init -q -b main
git config user.name drill
git config user.email drill@example.com
printf '/target\n' >.gitignore
sed -e "s|path = \"../..\"|path = \"$root\"|" -e 's/^edition\.workspace.*/edition = "2024"/' \
    -e 's/^version\.workspace.*/version = "0.1.0"/' \
    -e 's/^\(candle-[a-z]*\)\.workspace.*/\1 = "=0.11.1"/' -e '/^rust-version\|^license/d' \
    -e '/^\[lints\]/,$d' -i Cargo.toml
# With the same profile, a target folder of this repository has the dependencies.
sed -n '/^\[profile\.release\]/,/^#/p' "$root/Cargo.toml" | grep -v '^#' >>Cargo.toml
cp "$root/Cargo.lock" "$root/rust-toolchain.toml" .
cargo update --workspace --offline --quiet
git add -A && git commit -qm "the engine"

step "a slower commit"
git switch -qc slower
sed -i 's|let product = row.iter()|let _ = std::hint::black_box(row.iter().zip(\&*sum).map(\|(a, b)\| a * b).sum::<f32>());\n                let product = row.iter()|' src/bag_of_words.rs
git diff --quiet && fail "nothing changed"
git commit -qam "slower"
summary="$work/summary" && : >"$summary"
GITHUB_STEP_SUMMARY=$summary GITHUB_OUTPUT="$work/output" \
    "$root/ci/pull_request.sh" "$tool" main "$work/slower" "${words[@]}" | tee "$work/annotations"
is "status" "$(cat "$work/slower/status")" 1
is "output" "$(cat "$work/output")" "status=1"
grep -q REGRESSION "$summary" || fail "no regression in the summary"
grep -q '^::error' "$work/annotations" || fail "no annotation"
[ "$(grep -c '^::' "$work/annotations")" -le 20 ] || fail "too many annotations"
for file in comment.md page.html junit.xml bmf.json pair.json; do
    [ -s "$work/slower/$file" ] || fail "no $file"
done
grep -q '<failure' "$work/slower/junit.xml" || fail "no failure in junit.xml"
is "comment" "$("$root/ci/comment.sh" o/n 1 "$work/slower/comment.md")" "commented"
is "the same again" "$("$root/ci/comment.sh" o/n 1 "$work/slower/comment.md")" "nothing new"

step "documentation only"
git switch -q main && git switch -qc docs
echo "Words." >README.md && git add -A && git commit -qm "words"
"$root/ci/pull_request.sh" "$tool" main "$work/docs" "${words[@]}"
is "status" "$(cat "$work/docs/status")" 0
is "comment" "$("$root/ci/comment.sh" o/n 1 "$work/docs/comment.md")" "edited"
is "the same again" "$("$root/ci/comment.sh" o/n 1 "$work/docs/comment.md")" "nothing new"
rm "$COMMENTS"/*
is "without a comment" "$("$root/ci/comment.sh" o/n 1 "$work/docs/comment.md")" \
    "pass: no comment needed"

step "no such base; a base that does not build"
status=0
"$root/ci/pull_request.sh" "$tool" nowhere "$work/none" "${words[@]}" || status=$?
is "no such base" "$status" 2
git switch -q main && echo 'fn' >>src/lib.rs && git commit -qam "broken" && git switch -qc mended
git revert --no-edit HEAD >/dev/null
"$root/ci/pull_request.sh" "$tool" main "$work/broken" "${words[@]}"
is "status" "$(cat "$work/broken/status")" 4
[ -s "$work/broken/comment.md" ] || fail "no comment"

step "odd checkouts: shallow, detached, without HOME, in another locale, read-only"
git clone -q --depth 1 --branch slower "file://$repo" "$work/shallow"
(cd "$work/shallow" && status=0 && "$tool" pair --base main 2>"$work/said" || status=$?
    is "shallow" "$status" 2
    grep -q 'git fetch origin main' "$work/said" || fail "no way out: $(cat "$work/said")")
git clone -q "$repo" "$work/detached"
cp "$work/slower/pair.json" "$work/detached"
(cd "$work/detached" && git checkout -q --detach && status=0
    env -u HOME LC_ALL=tr_TR.UTF-8 "$tool" check --record pair.json >/dev/null || status=$?
    is "no HOME, another locale" "$status" 1)
# Root may write everywhere: read-only is a folder of somebody else for it.
other=()
if [ "$(id -u)" = 0 ]; then
    other=(setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ GIT_CONFIG_COUNT=1
        GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*')
    chmod a+rx "$work"
fi
cp "$tool" "$work/candlemark"
chmod a-w "$work/detached"
(cd "$work/detached" && status=0
    "${other[@]}" "$work/candlemark" pair --base HEAD~1 2>"$work/said" || status=$?
    is "read-only" "$status" 2
    grep -q "Permission denied.*--raw" "$work/said" || fail "read-only: $(cat "$work/said")")
mkdir "$work/no git"
(cd "$work/no git" && status=0 && "$tool" pair --base main 2>"$work/said" || status=$?
    is "no git" "$status" 2
    grep -q 'not in a git repository' "$work/said" || fail "$(cat "$work/said")")

step "stored baselines: none, a new one, an old one"
mkdir "$work/stored" && cd "$work/stored"
nano=(short/b1 --model synthetic:nano)
for session in 1 2 3; do
    "$root/ci/stored.sh" "$tool" "$work/none$session" "${nano[@]}"
    is "status without a baseline" "$(cat "$work/none$session/status")" "no baseline"
done
grep -q "candlemark promote" "$work/none1/verdict.md" || fail "no offer: $(cat "$work/none1/verdict.md")"
# Sessions at other times: $1 days ago, two hours apart.
records() {
    for session in 1 2 3; do
        then=$(date -u -d "$1 days ago $((2 * session)) hours ago" +%FT%H:%M)
        sed -e "s/\(\"\(started\|ended\|at\)\": *\"\)[-0-9]*T[0-9]*:[0-9]*/\1$then/g" \
            -e 's/"dirty": true/"dirty": false/' "$work/none$session/record.json" >"record-$session.json"
    done
}
records 1
"$tool" promote record-*.json
"$root/ci/stored.sh" "$tool" "$work/judged" "${nano[@]}"
status=$(cat "$work/judged/status")
case $status in 0 | 1 | 3) ;; *) fail "status $status: $(cat "$work/judged/verdict.md")" ;; esac
grep -q "older than the run" "$work/judged/verdict.md" && fail "a day is old"
rm -r baselines && records 100
"$tool" promote record-*.json
"$root/ci/stored.sh" "$tool" "$work/old" "${nano[@]}"
grep -q "the baseline is 100 days.* older than the run" "$work/old/verdict.md" ||
    fail "not old: $(cat "$work/old/verdict.md")"

cd "$root"
printf '\nthe drill passed in %ss\n' "$SECONDS"
