//! The commands of README.md and `docs`: quick ones run, the command line's own parser reads the
//! others, and a command that no table below has is an error.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use candlemark::cli;

use crate::{candlemark, input};

/// Commands that are run, with their exit statuses. `…` is the id of a run, `RECORD` a session.
const RUN: [(&str, i32); 8] = [
    ("./candlemark run short/b1 --model synthetic:nano", RECORDS),
    ("candlemark check", 0),
    ("candlemark check --measure", 0),
    ("candlemark check --record target/candlemark/runs/…/pair.json", 0),
    ("candlemark compare before.json after.json", 0),
    ("candlemark list --suites", 0),
    ("candlemark promote RECORD RECORD RECORD", 0),
    ("candlemark report -o report.html --format html --lang fr", 0),
];

/// The status of a command that measures: a debug build makes no records.
const RECORDS: i32 = if cfg!(debug_assertions) { 2 } else { 0 };

/// Commands that do not run in a test, by reason.
const NOT_RUN: [(&str, &[&str]); 12] = [
    (
        "builds, or runs Cargo within Cargo",
        &[
            "cargo bench",
            "cargo bench -- short/b1",
            "cargo install --locked candlemark",
            "cargo test",
            "CANDLEMARK_KERNELS=kernels.toml cargo bench",
        ],
    ),
    (
        "builds commits of a repository; tests of the engine do so with a small one",
        &[
            "cargo run --release -- pair --base main",
            "candlemark pair --base main",
            "candlemark pair --base v1 --candidate HEAD code --budget 5m",
            "candlemark pair --base origin/main --format md -o verdict.md",
        ],
    ),
    (
        "takes half a minute and needs a release build; `ci/gate.sh` does the same",
        &["CANDLEMARK_INJECT=decode:25% ./candlemark pair --base ./candlemark \
             --candidate ./candlemark short/b1 --model synthetic:nano"],
    ),
    (
        "measures for minutes",
        &[
            "candlemark run --blocks 3",
            "candlemark run all",
            "candlemark run all --resume target/candlemark/runs/…/record.json",
            "candlemark run grid consistency --budget 5m",
            "candlemark peers model.gguf --quick",
            "candlemark peers model.gguf --external llama.cpp=./llama-bench",
        ],
    ),
    (
        "times kernels; a test of the engine does so on one thread",
        &["candlemark machine --kernels"],
    ),
    ("serves a page until it is stopped", &["candlemark monitor"]),
    ("a test of its own runs it with fewer requests", &["candlemark selftest"]),
    (
        "needs a server; tests of its own run it against a mock server",
        &[
            "candlemark load --url http://127.0.0.1:8000 --concurrency 4 --duration 60s",
            "candlemark load --url http://127.0.0.1:8000 --rate 2 --requests 200 --slo \
             ttft=200ms,tpot=50ms",
            "candlemark load --url http://127.0.0.1:8000 --concurrency 1,2,4,8,16 --input-tokens \
             512",
            "candlemark run --url http://127.0.0.1:8000 --blocks 3",
            "candlemark run --url https://gpu-1.example/v1 short/b1 grid --api chat --label gpu=H",
            "candlemark pair --base-url http://127.0.0.1:8000 --candidate-url http://127.0.0.1:8001",
            "candlemark pair --base-url http://127.0.0.1:8061 --candidate-url \
             http://127.0.0.1:8062 short/b1 --gen-tokens 64",
            "candlemark pair --base-cmd \"$BASE\" --candidate-cmd \"$CANDIDATE\" short/b1 code/b4",
            "candlemark load --url http://127.0.0.1:8000 --trace trace.jsonl --trace-speed 10",
            "candlemark load --url http://127.0.0.1:8000 --api chat --turns 5 --think-time 2s \
             --concurrency 4",
            "candlemark load --url http://127.0.0.1:8000 --shared-prefix 1024 --input-tokens \
             uniform:50:200",
            "candlemark load --url http://127.0.0.1:8000 --api embeddings --items 16 \
             --input-tokens normal:300:80",
        ],
    ),
    (
        "needs results of other tools; tests of its own make some",
        &[
            "candlemark merge one.json two.json three.json -o candidate.json",
            "candlemark check --record candidate.json --baseline baseline.json",
        ],
    ),
    (
        "serves a model until it is stopped; tests of the engine do so",
        &["candlemark serve --model synthetic:mini --max-batch 4"],
    ),
    (
        "a script that builds and measures for minutes",
        &["ci/peers.sh --quick", "ci/peers.sh", "ci/peers.sh --shape qwen3-1.7b --engines native"],
    ),
    (
        "a script that installs and runs a server for minutes",
        &[
            "ci/servers/vllm.sh -- ci/servers/load.sh vllm {url}",
            "ci/servers/llama-server.sh -- ci/servers/load.sh llama-server {url}",
            "ci/servers/transformers.sh -- ci/servers/load.sh transformers {url}",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages with their text.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        docs.filter(|page| page.extension().is_some_and(|end| end == "md")).collect();
    pages.push(root().join("README.md"));
    let name = |page: &Path| page.strip_prefix(root()).unwrap().display().to_string();
    pages.iter().map(|page| (name(page), fs::read_to_string(page).unwrap())).collect()
}

/// The commands in fenced blocks: after `$ `, or of a step in CI, without comments.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let lines = blocks
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("$ ").or_else(|| line.trim().strip_prefix("- run: ")));
    let bare = lines.map(|line| line.split(" #").next().unwrap());
    bare.flat_map(|line| line.split(" && ")).map(str::trim).collect()
}

/// The words of a call of candlemark after variables and the name of the binary.
fn arguments(command: &str) -> Option<Vec<&str>> {
    let mut words = command.split_whitespace().skip_while(|word| word.starts_with("CANDLEMARK_"));
    match words.next()? {
        "cargo" if command.starts_with("cargo run ") => {
            words.find(|word| *word == "--").map(|_| ())
        }
        program => program.ends_with("candlemark").then_some(()),
    }?;
    Some(words.collect())
}

/// What a page assumes: a run and a pair of this machine, a baseline, and records to compare.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("records/same.json", "target/candlemark/runs/20260704T120000Z-0123456/record.json"),
        ("pairs/pass.json", "target/candlemark/runs/20260704T120000Z-0123456/pair.json"),
        ("records/base.json", "baselines/amd-epyc-2cpu-1f3a90c2/synthetic-mini-f32.json"),
        ("records/before.json", "before.json"),
        ("records/after.json", "after.json"),
        ("records/session-1.json", "session-1.json"),
        ("records/session-2.json", "session-2.json"),
        ("records/session-3.json", "session-3.json"),
    ] {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(input(from), to).unwrap();
    }
    folder
}

#[test]
fn every_command_is_run_or_has_a_reason() {
    let known = RUN.iter().map(|(command, _)| *command);
    let known: BTreeSet<&str> =
        known.chain(NOT_RUN.iter().flat_map(|(_, commands)| commands.iter().copied())).collect();
    let pages = pages();
    let written: BTreeSet<&str> = pages.iter().flat_map(|(_, text)| commands(text)).collect();
    let unknown: Vec<_> = written.difference(&known).collect();
    assert!(unknown.is_empty(), "run them in this test, or give a reason: {unknown:#?}");
    let gone: Vec<_> = known.difference(&written).collect();
    assert!(gone.is_empty(), "no page has these commands: {gone:#?}");
    for script in written.iter().filter(|command| command.starts_with("ci/")) {
        let path = root().join(script.split(' ').next().unwrap());
        assert!(path.exists(), "no script {}", path.display());
    }
}

#[test]
fn the_command_line_accepts_every_command() {
    for (page, text) in pages() {
        for command in commands(&text) {
            let Some(words) = arguments(command) else { continue };
            let words = ["candlemark"].into_iter().chain(words);
            let parsed = cli::parser().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{page}: {command}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn quick_commands_end_as_documented() {
    for (command, status) in RUN {
        let folder = prepared();
        let mut sessions = (1..).map(|number| format!("session-{number}.json"));
        let words: Vec<String> = arguments(command)
            .unwrap()
            .into_iter()
            .map(|word| match word {
                "RECORD" => sessions.next().unwrap(),
                word => word.replace('…', "20260704T120000Z-0123456"),
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = candlemark(&words, folder.path());
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{command}: {talk}");
    }
}

/// The code spans of a page outside of fenced blocks.
fn spans(page: &str) -> Vec<&str> {
    let prose = page.split("\n```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn prose_names_commands_and_flags_that_exist() {
    let mut seen = 0;
    for (page, text) in pages() {
        for span in spans(&text) {
            let words = span.split_whitespace().skip_while(|word| word.starts_with("CANDLEMARK_"));
            let mut words = words.peekable();
            let called = words.next_if(|word| word.ends_with("candlemark")).is_some();
            let mut parser = cli::parser();
            parser.build();
            let mut command = &parser;
            let mut depth = 0;
            while let Some(found) = words.peek().and_then(|word| command.find_subcommand(word)) {
                (command, depth) = (found, depth + 1);
                words.next();
            }
            if depth == 0 {
                assert!(!called || words.peek().is_none(), "{page}: no command of `{span}`");
                continue;
            }
            let flags =
                words.filter_map(|word| word.strip_prefix("--")).filter(|flag| !flag.is_empty());
            for flag in flags.map(|flag| flag.split(['=', ']']).next().unwrap()) {
                let found = command.get_arguments().any(|one| one.get_long() == Some(flag));
                assert!(found, "{page}: no --{flag} of `{span}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} flags");
}
