//! Models, the worker and the commands of the engine, on the real binary. A debug build makes no
//! records, so measurements are tested on a worker: the binary with a job on stdin.
#![cfg(feature = "engine")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use candlemark::measure::Sharing;
use candlemark::record::{Case, Rates};
use candlemark::settings::{Config, Generation, Setup};
use candlemark::suite;
use candlemark::suite::{Job, ScenarioResult};
use candlemark::workload::{BATCHES, CATEGORIES};

mod conversation;
mod damaged;
#[cfg(all(feature = "server", unix))]
mod endpoint;
#[cfg(all(feature = "server", unix))]
mod endpoint_suites;
mod generation;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "monitor")]
mod monitor;
mod names;
#[cfg(unix)]
mod pair;
mod pipelines;
#[cfg(all(feature = "server", unix))]
mod serve;
#[cfg(all(feature = "server", unix))]
mod server_pairs;
mod statuses;
mod suites;
mod synthetic;
#[cfg(target_os = "linux")]
mod threads;
mod worker;

const BINARY: &str = env!("CARGO_BIN_EXE_candlemark");

/// Removes environment variables that change the behaviour.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CANDLEMARK_", "HF_", "HUGGING", "TRANSFORMERS_", "RUST_BACKTRACE"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

fn candlemark(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.current_dir(folder).args(args).output().unwrap()
}

/// Runs a command that must succeed; its stdout.
fn succeeds(args: &[&str], folder: &Path) -> String {
    let output = candlemark(args, folder);
    assert_eq!(output.status.code(), Some(0), "{args:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must end with this status, these texts on stderr, and an empty stdout.
fn fails(args: &[&str], folder: &Path, status: i32, says: &[&str]) {
    refused(&candlemark(args, folder), status, says);
}

fn refused(output: &Output, status: i32, says: &[&str]) {
    let talk = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{talk}");
    assert_eq!(text(&output.stdout), "", "{talk}");
    assert!(talk.starts_with("error: ") && !talk.contains("panicked"), "{talk}");
    for part in says {
        assert!(talk.contains(part), "`{part}` is not in: {talk}");
    }
}

/// Prints what a test skips and why, past the test harness, which captures the output of passing
/// tests.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A setup with few tokens and repetitions, because a debug build is slow.
fn setup(model: &str) -> Setup {
    let generation =
        Generation { gen_tokens: Some(4), warmups: 0, iters: 1, ..Generation::default() };
    Setup { model: model.into(), threads: 2, generation, ..Setup::new(&Config::default()) }
}

fn nano() -> Setup {
    setup("synthetic:nano")
}

fn with(setup: Setup, change: impl FnOnce(&mut Generation)) -> Setup {
    let mut setup = setup;
    change(&mut setup.generation);
    setup
}

fn at(path: &Path) -> Setup {
    setup(path.to_str().unwrap())
}

fn job(setup: &Setup, scenarios: &[&str]) -> Job {
    Job {
        setup: setup.clone(),
        scenarios: scenarios.iter().map(|id| (*id).into()).collect(),
        session: "20260704T120000Z-0123456".into(),
        sharing: Sharing::Fresh,
        rates: Rates::default(),
        injection: None,
        references: true,
        text: None,
    }
}

fn worker(mut command: Command, job: &Job) -> Output {
    clean(&mut command);
    let job = serde_json::to_string(job).unwrap();
    command.env(suite::WORKER, "1").write_stdin(job).output().unwrap()
}

/// The cases of a worker that must succeed.
fn work(job: &Job) -> Vec<Case> {
    let output = worker(Command::new(BINARY), job);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer = |line: &str| serde_json::from_str::<ScenarioResult>(line).unwrap().case;
    text(&output.stdout).lines().map(answer).collect()
}

/// The case of a scenario whose only failed check is that of the debug build.
fn measured(setup: &Setup, scenario: &str) -> Case {
    let mut cases = work(&job(setup, &[scenario]));
    let case = cases.pop().unwrap();
    assert!(cases.is_empty());
    assert_eq!(case.absent, None);
    let debug = "the build has debug assertions";
    assert!(case.validity.failed.iter().all(|why| why == debug), "{:?}", case.validity);
    case
}

fn output_of(setup: &Setup) -> String {
    measured(setup, "short/b1").output_sha256.unwrap()
}

/// Runs a worker on a model that it must refuse.
fn worker_refuses(setup: &Setup, status: i32, says: &[&str]) {
    refused(&worker(Command::new(BINARY), &job(setup, &["short/b1"])), status, says);
}

fn synth(folder: &Path, args: &[&str]) {
    succeeds(&[&["synth", "--shape", "nano"], args].concat(), folder);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Replaces a text in a file.
fn edit(file: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(file, text.replace(old, new)).unwrap();
}

/// Keeps only the first bytes of a file.
fn truncate(file: &Path, bytes: u64) {
    fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_machine_has_a_class() {
    let here = tempfile::tempdir().unwrap();
    let text = succeeds(&["machine", "--threads", "2"], here.path());
    let json = succeeds(&["machine", "--threads", "2", "--json"], here.path());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let class = json["class"].as_str().unwrap();
    assert_eq!(text.lines().next(), Some(class));
    assert!(text.contains("\nrates\n") && text.contains("\nbuild\n"), "{text}");
    assert_eq!(json["fields"]["threads"], "2");
    assert!(json["rates"]["isa"].as_str().is_some_and(|isa| text.contains(isa)));
    for rate in [
        "read_bytes_per_s",
        "read_huge_bytes_per_s",
        "f32_flop_per_s",
        "int8_op_per_s",
        "int16_op_per_s",
    ] {
        assert!(json["rates"][rate].as_f64().unwrap() > 0.0, "{rate}");
    }
}

#[test]
fn the_kernel_plan_is_printed_as_the_file_that_forces_it() {
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("kernels.toml");
    let plan = |forced: &str| {
        fs::write(&file, forced).unwrap();
        let mut command = Command::new(BINARY);
        clean(&mut command);
        let command = command.env("CANDLEMARK_KERNELS", &file).current_dir(here.path());
        let out = command.args(["machine", "--kernels", "--threads", "1"]).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let values = |plan: &str| plan.parse::<toml::Table>().unwrap();
    let default = plan("");
    if values(&default).is_empty() {
        return skipped("this tier has one kernel for each operation");
    }
    assert_eq!(values(&plan(&default)), values(&default), "it can be read again");
    let forced = plan("int8 = \"one-panel\"");
    assert_eq!(values(&forced)["int8"].as_str(), Some("one-panel"));
    assert!(forced.contains("# q8_0: two-panels ") && forced.contains(", one-panel "), "{forced}");
}

#[test]
fn scenarios_are_listed() {
    let here = tempfile::tempdir().unwrap();
    let all = succeeds(&["list"], here.path()).lines().count();
    assert_eq!(all, CATEGORIES.len() * BATCHES.len());
    let one = succeeds(&["list", "short/b4"], here.path());
    assert!(one.starts_with("short/b4  ") && one.lines().count() == 1, "{one}");
}
