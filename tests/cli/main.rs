//! The real binary on records that the test makes: text and exit status. `BLESS=1 cargo test`
//! rewrites the files under `fixtures/golden`; review that diff like code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use candlemark::baseline;
use candlemark::record::Record;
use candlemark::record::pair::PairRecord;
use candlemark::workload::SUITES;

mod analysis;
#[cfg(all(feature = "engine", feature = "monitor", feature = "server"))]
mod docs;
mod gate_eval;
#[path = "../inputs/mod.rs"]
mod inputs;
#[cfg(feature = "server")]
mod load;
mod looks;
mod missing;
mod no_verdict;
mod other_tools;
mod pair;
mod report;
mod repository;
#[cfg(feature = "server")]
mod selftest;
mod served;
mod statuses;

const CHECK: [&str; 3] = ["check", "--baseline", "records/base.json"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name)
}

/// A file of the folder of inputs, in which commands run.
fn input(name: &str) -> PathBuf {
    inputs::folder(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn blessing() -> bool {
    std::env::var_os("BLESS").is_some()
}

fn candlemark(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlemark"));
    command.env("CARGO_TARGET_DIR", "target"); // That of this package may hold records.
    for name in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        command.env_remove(name);
    }
    command.current_dir(folder).args(args).output().unwrap()
}

/// Compares stdout, stderr after a separator line, and the exit status of a command with a golden
/// file.
fn check(args: &[&str], file: &str, status: i32) {
    let output = candlemark(args, &input(""));
    let mut text = String::from_utf8(output.stdout).unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    if !talk.is_empty() {
        text += &format!("--- stderr\n{talk}");
    }
    same(&text, file);
    assert_eq!(output.status.code(), Some(status), "{args:?}\n{text}");
}

/// Removes the current time from a document without a record.
fn without_now(text: &str) -> String {
    let now = |stamp: &str| {
        let time = format!("{stamp}Z").parse::<jiff::Timestamp>();
        time.is_ok_and(|time| jiff::Timestamp::now().duration_since(time).as_secs().abs() < 600)
    };
    let mut parts: Vec<&str> = text.split('"').collect();
    for part in &mut parts {
        if now(part) {
            *part = "NOW";
        }
    }
    parts.join("\"")
}

/// The text that a command prints.
fn stdout(args: &[&str]) -> String {
    String::from_utf8(candlemark(args, &input("")).stdout).unwrap()
}

/// Replaces the style sheet of a page, which has a golden file of its own.
fn without_style(page: &str) -> String {
    let (before, rest) = page.split_once("<style>\n").unwrap();
    let (style, after) = rest.split_once("</style>").unwrap();
    same(style, "page.css");
    format!("{before}<style>see page.css</style>{after}")
}

fn same(text: &str, file: &str) {
    let mut text = without_now(text);
    if text.starts_with("<!doctype html>") {
        text = without_style(&text);
    }
    if blessing() {
        fs::write(golden(file), &text).unwrap();
    }
    assert_eq!(text, expected(file), "{file} differs; BLESS=1 accepts the new text");
}

fn expected(file: &str) -> String {
    fs::read_to_string(golden(file))
        .unwrap_or_else(|error| panic!("{file} cannot be read: {error}; BLESS=1 writes it"))
}

#[test]
#[should_panic(expected = "BLESS=1 writes it")]
fn a_missing_golden_file_is_not_an_empty_one() {
    expected("no-such-file.txt");
}

fn checked(record: &str) -> Vec<String> {
    let record = format!("records/{record}.json");
    CHECK.iter().map(|word| (*word).to_owned()).chain(["--record".to_owned(), record]).collect()
}

fn check_record(record: &str, more: &[&str], file: &str, status: i32) {
    let args = checked(record);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    check(&args, file, status);
}

#[test]
fn inputs_are_read_as_they_were_written() {
    for (name, record) in inputs::all_records() {
        assert_eq!(Record::load(&input(&format!("records/{name}.json"))).unwrap(), record);
    }
    for (name, pair) in inputs::pairs::all() {
        let path = input(&format!("pairs/{name}.json"));
        assert_eq!(PairRecord::load(&path).unwrap(), pair, "{name}");
    }
    let (folder, of) = (input("stored"), inputs::record("same"));
    let path = baseline::calibration_path(&folder, &of.machine.class, &of.model, &of.settings);
    assert_eq!(path, input(inputs::CALIBRATION));
    let found = baseline::find_calibration(&folder, &of).unwrap();
    assert_eq!(found, Some(inputs::records::calibration()));
}

#[test]
fn the_stored_formats_change_only_on_purpose() {
    for (stored, file) in [
        ("records/kernels.json", "record.json"),
        ("pairs/few.json", "pair.json"),
        (inputs::CALIBRATION, "calibration.json"),
    ] {
        same(&fs::read_to_string(input(stored)).unwrap(), file);
    }
}

#[test]
fn the_published_schemas_are_current() {
    use candlemark::record::Record;
    use candlemark::record::pair::PairRecord;
    for (form, schema) in [("record", Record::json_schema()), ("pair", PairRecord::json_schema())] {
        same(&schema, &format!("../{form}.schema.json"));
        let output = candlemark(&["schema", form], &input(""));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), schema);
    }
    let plain = candlemark(&["schema"], &input(""));
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), Record::json_schema());
}

#[test]
fn an_unchanged_run_passes() {
    check_record("same", &[], "same.txt", 0);
}

#[test]
fn a_faster_run_passes_and_says_so() {
    check_record("faster", &[], "faster.txt", 0);
}

#[test]
fn a_slower_decode_fails() {
    check_record("slower", &[], "slower.txt", 1);
    check_record("slower", &["--format", "md"], "slower.md", 1);
    check_record("slower", &["--format", "github"], "slower.github.txt", 1);
}

#[test]
fn more_memory_fails() {
    check_record("larger", &[], "larger.txt", 1);
}

#[test]
fn a_critical_regression_fails_where_a_lesser_one_does_not() {
    check_record("critical", &["--fail-on", "critical"], "critical.txt", 1);
    check_record("slower", &["--fail-on", "critical"], "slower-fail-on-critical.txt", 0);
    check_record("slower", &["--config", "critical.toml"], "slower-config-critical.txt", 0);
}

#[test]
fn an_injected_slowdown_is_judged_and_named_and_is_no_baseline() {
    check_record("injected", &[], "injected.txt", 1);
    let args =
        ["check", "--baseline", "records/injected.json", "--record", "records/session-1.json"];
    check(&args, "injected-baseline.txt", 4);
}

#[test]
fn noise_cannot_be_decided() {
    check_record("noisy", &[], "noisy.txt", 3);
}

#[test]
fn an_undecided_verdict_names_the_command_that_continues() {
    let folder = tempfile::tempdir().unwrap();
    let run = "target/candlemark/runs/20260704T120000Z-0123456";
    fs::create_dir_all(folder.path().join(run)).unwrap();
    fs::copy(input("records/noisy.json"), folder.path().join(run).join("record.json")).unwrap();
    let base = input("records/base.json").display().to_string();
    let output = candlemark(&["check", "--baseline", &base], folder.path());
    assert_eq!(output.status.code(), Some(3));
    let talk = String::from_utf8(output.stderr).unwrap();
    let command =
        format!("candlemark check --baseline {base} --record {run}/record.json --measure");
    assert_eq!(talk, format!("to decide: `{command}`\n"));
}

#[cfg(feature = "engine")]
#[test]
fn measuring_further_needs_open_scenarios_a_release_build_and_a_budget() {
    let status = |args: &[&str]| {
        let args: Vec<&str> = CHECK.iter().chain(args).copied().collect();
        let output = candlemark(&args, &input(""));
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (record, code) in [("records/same.json", 0), ("records/slower.json", 1)] {
        let talk = "measure: 6 of 6 findings decided; 10 minutes left\n".to_owned();
        assert_eq!(status(&["--record", record, "--measure"]), (code, talk));
    }
    assert_eq!(status(&["--record", "records/noisy.json", "--budget", "5m"]).0, 2);
    assert_eq!(status(&["--record", "records/noisy.json", "--measure", "--budget", "5"]).0, 2);
    let pair = candlemark(&["check", "--record", "pairs/analysed.json", "--measure"], &input(""));
    assert_eq!(pair.status.code(), Some(2), "a pair is measured by `candlemark pair`");
    if cfg!(debug_assertions) {
        let (code, talk) = status(&["--record", "records/noisy.json", "--measure"]);
        assert_eq!(code, 2);
        assert!(talk.contains("a debug build makes no records"), "{talk}");
    }
}

#[cfg(feature = "engine")]
#[test]
fn too_many_mebibytes_are_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let synth = ["synth", "--shape", "nano", "-o", "x", "--shard-mib"];
    for args in [&["run", "short", "--stress-room"][..], &synth] {
        let output = candlemark(&[args, &["17592186044416"]].concat(), folder.path());
        let talk = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{talk}");
        assert!(talk.contains("17592186044416 is not in "), "{talk}");
        assert!(talk.contains("..=17592186044415"), "{talk}");
    }
}

#[test]
fn a_drifted_machine_is_undecided() {
    let args = ["check", "--baseline", "records/kernels.json", "--record", "records/drifted.json"];
    check(&args, "drifted.txt", 3);
    let output = candlemark(&[&args[..], &["--format", "json"]].concat(), &input(""));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["findings"][0]["verdict"]["detail"], "drifted");
    let change = &verdict["findings"][0]["change"];
    let theta = |name: &str| (1000.0 * change[name].as_f64().unwrap()).round();
    assert_eq!((theta("theta"), theta("normalised")), (100.0, -13.0));
}

#[test]
fn drift_since_the_release_is_reported_without_a_verdict() {
    let args = ["check", "--baseline", "records/rolling.json", "--record", "records/same.json"];
    check(&args, "release-drift.txt", 0);
    for (format, file) in [("md", "release-drift.md"), ("github", "release-drift.github.txt")] {
        check(&[&args[..], &["--format", format]].concat(), file, 0);
    }
    let output = candlemark(&[&args[..], &["--format", "json"]].concat(), &input(""));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["drift"][0]["metric"], "decode_tok_s");
    assert_eq!(verdict["drift"][0]["warns"], false);
    assert_eq!(verdict["drift"][1]["warns"], true);
    let output = candlemark(&[&args[..], &["--format", "html"]].concat(), &input(""));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("WARNING, drift since the release"));
}

#[test]
fn a_calibration_in_the_folder_of_baselines_is_used() {
    check_record("same", &["--baselines", "stored"], "calibrated.txt", 0);
}

#[test]
fn a_baseline_of_one_session_is_undecided() {
    let args =
        ["check", "--baseline", "records/session-1.json", "--record", "records/critical.json"];
    check(&args, "uncalibrated.txt", 3);
}

#[test]
fn another_machine_or_model_is_not_compared() {
    check_record("other-machine", &[], "other-machine.txt", 4);
    check_record("other-model", &["--format", "md"], "other-model.md", 4);
}

#[test]
fn another_machine_is_compared_if_the_configuration_allows_it() {
    check_record("other-machine", &["--config", "alias.toml"], "other-machine-allowed.txt", 0);
}

#[test]
fn a_missing_baseline_is_not_a_pass() {
    check(
        &["check", "--baseline", "none.json", "--record", "records/same.json"],
        "no-baseline.txt",
        4,
    );
    check(
        &["check", "--baselines", "none", "--record", "records/same.json"],
        "no-baselines.txt",
        4,
    );
    check(&["check"], "no-record.txt", 4);
}

#[test]
fn a_baseline_of_another_schema_is_named() {
    check(
        &["check", "--baseline", "schema-99.json", "--record", "records/same.json"],
        "schema.txt",
        4,
    );
}

#[test]
fn changed_output_failed_runs_and_invalid_numbers_fail() {
    check_record("output-changed", &[], "output-changed.txt", 5);
    check_record("failed", &[], "failed.txt", 5);
    check_record("invalid", &[], "invalid.txt", 5);
}

#[test]
fn invalid_named_files_are_usage_errors() {
    let args = ["check", "--baseline", "records/base.json", "--record", "garbage.json"];
    check(&args, "garbage.txt", 2);
    check_record("same", &["--config", "misspelt.toml"], "misspelt.txt", 2);
}

#[test]
fn runs_of_one_commit_are_judged_together() {
    check_record("same", &["--record", "records/again.json"], "pooled.txt", 0);
    check_record("same", &["--record", "records/same.json"], "pooled-twice.txt", 4);
    check_record("session-1", &[], "part-of-baseline.txt", 0);
}

#[test]
fn three_sessions_make_a_baseline_that_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let record = |name: &str| input(&format!("records/{name}.json")).display().to_string();
    let sessions = ["session-1", "session-2", "session-3"].map(record);
    let mut args = vec!["promote"];
    args.extend(sessions.iter().map(String::as_str));
    let output = candlemark(&args, folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let rolling = "baselines/amd-epyc-2cpu-1f3a90c2/synthetic-mini-f32.json";
    let release = "baselines/amd-epyc-2cpu-1f3a90c2/synthetic-mini-f32.release.json";
    assert_eq!(said, format!("{rolling}\n{release}\n"), "the first one is the release");
    let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(read(rolling), fs::read_to_string(input("records/base.json")).unwrap());
    assert_eq!(read(release), read(rolling));
    fs::write(folder.path().join(release), "as it was").unwrap();
    let output = candlemark(&args, folder.path());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{rolling}\n"));
    assert_eq!(read(release), "as it was", "a promotion leaves the release alone");
    let output = candlemark(&[&args[..], &["--release"]].concat(), folder.path());
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("release: pinned"));
    assert_eq!(read(release), read(rolling));

    let newest = folder.path().join("target/candlemark/runs/20260704T120000Z-0123456");
    fs::create_dir_all(&newest).unwrap();
    fs::copy(input("records/slower.json"), newest.join("record.json")).unwrap();
    let older = folder.path().join("target/candlemark/runs/20260703T120000Z-0123456");
    fs::create_dir_all(&older).unwrap();
    fs::copy(input("records/same.json"), older.join("record.json")).unwrap();
    assert_eq!(candlemark(&["check"], folder.path()).status.code(), Some(1));
}

#[test]
fn too_few_sessions_make_no_baseline() {
    check(&["promote", "records/session-1.json", "-o", "-"], "promote-one.txt", 3);
    check(&["promote", "records/injected.json", "-o", "-"], "promote-injected.txt", 4);
    let sessions =
        ["session-1", "session-2", "session-3"].map(|name| format!("records/{name}.json"));
    let args = ["promote", &sessions[0], &sessions[1], &sessions[2], "-o", "-", "--release"];
    assert_eq!(
        candlemark(&args, &input("")).status.code(),
        Some(2),
        "stdout is no place for a release"
    );
}

#[test]
fn a_verdict_is_json() {
    let args = checked("slower");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--format", "json"]).collect();
    let output = candlemark(&args, &input(""));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["outcome"], "regression");
    assert_eq!(verdict["judged"], 6);
    assert_eq!(verdict["findings"][0]["metric"], "decode_tok_s");
    assert_eq!(verdict["findings"][0]["verdict"]["is"], "regressed");
    assert_eq!(verdict["findings"][0]["base_blocks"].as_array().unwrap().len(), 9);
}

#[test]
fn records_are_compared_side_by_side() {
    check(&["compare", "records/base.json", "records/slower.json"], "compare.md", 0);
    let three =
        ["compare", "records/base.json", "records/other-machine.json", "records/injected.json"];
    check(&three, "compare-machines.md", 0);
}

#[test]
fn scenarios_are_listed() {
    let suites = ["grid", "context", "api", "consistency", "conversation"];
    let more = ["stress", "pipelines", "quality", "profile"];
    check(&[&["list", "code"], &suites[..], &more].concat(), "list.txt", 0);

    let output = candlemark(&["list", "--suites"], &golden(""));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), SUITES.len());
    for (line, suite) in text.lines().zip(SUITES) {
        let count = (suite.scenarios)().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let noun = if count == 1 { "scenario:" } else { "scenarios:" };
        assert_eq!(words[..3], [suite.name, &count.to_string(), noun]);
        assert!(line.ends_with(&format!(": {}", suite.about)), "{line}");
    }

    let output = candlemark(&["list", "cdoe"], &golden(""));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    let says = "error: no suite or scenario `cdoe` (did you mean `code`?); known are default, ";
    assert!(text.starts_with(says) && text.contains(", short, "), "{text}");
}

#[test]
fn a_closed_pipe_keeps_the_exit_status() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_candlemark"))
        .args(checked("slower"))
        .current_dir(input(""))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn completions_are_printed() {
    let output = candlemark(&["completions", "bash"], &input(""));
    assert!(String::from_utf8(output.stdout).unwrap().contains("_candlemark"));
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlemark(&["man", "pages"], folder.path());
    let read =
        |name: &str| std::fs::read_to_string(folder.path().join("pages").join(name)).unwrap();
    let named = String::from_utf8(output.stdout).unwrap();
    for command in candlemark::cli::parser().get_subcommands() {
        assert!(named.contains(&format!("candlemark-{}.1\n", command.get_name())), "{named}");
    }
    assert!(read("candlemark-check.1").contains("candlemark\\-check \\- Judge a record"));
    assert!(read("candlemark-gate-eval-replay.1").contains(".SH OPTIONS"));
}
