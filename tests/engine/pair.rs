//! `candlemark pair` with fake workers: shell scripts that speak the protocol.

mod repository;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use candlemark::record::pair::{Ended, PairRecord};
use candlemark::record::{Absence, AbsenceKind, Block, Case, Work};
use candlemark::suite::turns::{HelloResponse, PROTOCOL, Response};

use crate::{BINARY, text};

/// A worker with fixed responses.
#[derive(Clone)]
struct FakeWorker {
    protocol: u32,
    profile: &'static str,
    scenarios: Vec<String>,
    decode_tok_s: f64,
    peak_bytes: f64,
    ids: Vec<u32>,
    /// Metrics of a turn.
    metrics: &'static [&'static str],
    /// Its response to a warm-up.
    cannot: Option<Absence>,
    /// Shell code before the response to a turn.
    turn: &'static str,
    /// Shell code before the first request is read.
    start: &'static str,
}

impl Default for FakeWorker {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL,
            profile: "release, opt-level 3",
            scenarios: vec!["short/b1".into()],
            decode_tok_s: 100.0,
            peak_bytes: 1e8,
            ids: vec![3, 1, 4],
            metrics: &["decode_tok_s", "ttft_s"],
            cannot: None,
            turn: ":",
            start: ":",
        }
    }
}

impl FakeWorker {
    fn ready(&self) -> String {
        let mut ready = HelloResponse {
            protocol: self.protocol,
            build: Default::default(),
            model: Default::default(),
            settings: Default::default(),
            scenarios: self.scenarios.clone(),
            unsupported: None,
        };
        ready.build.profile = self.profile.into();
        serde_json::to_string(&ready).unwrap()
    }

    fn values(&self) -> String {
        let values = [("decode_tok_s", self.decode_tok_s), ("ttft_s", 0.01)].into_iter();
        let has = values.filter(|(name, _)| self.metrics.contains(name));
        let values = has.map(|(name, value)| (name.to_owned(), value)).collect();
        serde_json::to_string(&Response::Values { values }).unwrap()
    }

    fn warm(&self) -> String {
        let told = match self.cannot.clone() {
            Some(absent) => Response::Cannot { absent },
            None => Response::Warm { ids: vec![self.ids.clone()] },
        };
        serde_json::to_string(&told).unwrap()
    }

    /// Like a real worker, a scenario without a turn has no output.
    fn case(&self, output_sha256: Option<String>) -> String {
        let values = [("peak_rss_bytes".to_owned(), Some(self.peak_bytes))].into();
        let case = Case {
            id: "short/b1".into(),
            work: Work { batch: 1, prompt_tokens: vec![21], new_tokens: 3, ..Work::default() },
            output_sha256,
            blocks: vec![Block { values, ..Block::default() }],
            ..Case::default()
        };
        serde_json::to_string(&Response::Case { case: Box::new(case) }).unwrap()
    }

    /// Writes the worker as a shell script.
    fn script(&self, path: &Path) -> PathBuf {
        let Self { start, turn, .. } = self;
        let (ready, values) = (self.ready(), self.values());
        let (warm, none) = (self.warm(), self.case(None));
        let case = self.case(Some(format!("{:?}", self.ids)));
        let script = format!(
            "#!/bin/sh\n{start}\nread opening\necho '{ready}'\nwhile read ask; do case \"$ask\" in\n\
             *warm_up*) turned=no; echo '{warm}';;\n*turn*) {turn}; turned=yes; echo '{values}';;\n\
             *) if [ $turned = yes ]; then echo '{case}'; else echo '{none}'; fi;;\nesac; done\n"
        );
        fs::write(path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        path.into()
    }
}

fn pair(folder: &Path, args: &[&str]) -> Command {
    let mut command = candlemark(folder);
    command.arg("pair").args(args).args(["--raw", "pair.json"]);
    command
}

fn candlemark(folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CANDLEMARK_", "CARGO_", "GIT_", "RUSTFLAGS"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.current_dir(folder);
    command
}

/// Runs a pair of fake workers.
fn run_pair(base: &FakeWorker, candidate: &FakeWorker, more: &[&str]) -> (Output, PairRecord) {
    let folder = tempfile::tempdir().unwrap();
    base.script(&folder.path().join("base"));
    candidate.script(&folder.path().join("candidate"));
    let args = [&["--base", "base", "--candidate", "candidate"], more].concat();
    let output = pair(folder.path(), &args).output().unwrap();
    let paired = PairRecord::load(&folder.path().join("pair.json"))
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let left: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("arms") || name.contains("tmp"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left behind");
    (output, paired)
}

/// Checks the exit status and the text of the verdict on a pair of fake workers.
fn check(
    base: &FakeWorker,
    candidate: &FakeWorker,
    more: &[&str],
    status: i32,
    says: &[&str],
) -> PairRecord {
    let (output, paired) = run_pair(base, candidate, more);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(status), "{said}{}", text(&output.stderr));
    for part in says {
        assert!(said.contains(part), "`{part}` is not in: {said}{}", text(&output.stderr));
    }
    paired
}

fn with(change: impl FnOnce(&mut FakeWorker)) -> FakeWorker {
    let mut fake = FakeWorker::default();
    change(&mut fake);
    fake
}

#[test]
fn equal_builds_pass_a_slower_one_regresses_and_a_faster_one_improved() {
    let other = with(|fake| fake.turn = "true");
    let paired =
        check(&FakeWorker::default(), &other, &[], 0, &["PASS: none of 3 metrics regressed"]);
    assert_eq!((paired.ended, paired.blocks.len()), (Ended::Decided, 5));
    let slower = with(|fake| fake.decode_tok_s = 80.0);
    check(
        &FakeWorker::default(),
        &slower,
        &[],
        1,
        &["1 of 3 metrics regressed: decode", "-20.0 %"],
    );
    let faster = with(|fake| fake.decode_tok_s = 120.0);
    check(&FakeWorker::default(), &faster, &[], 0, &["1 improved"]);
    let larger = with(|fake| fake.peak_bytes = 1.2e8);
    check(&FakeWorker::default(), &larger, &[], 1, &["peak memory of short/b1 +20.0 %"]);
}

#[test]
fn equal_binaries_pass_without_measurement_unless_requested() {
    let fake = FakeWorker::default();
    let paired = check(&fake, &fake, &[], 0, &["both binaries are equal byte for byte"]);
    assert_eq!((paired.ended, paired.blocks.len()), (Ended::Identical, 0));
    let paired = check(&fake, &fake, &["--even-if-identical"], 0, &["PASS"]);
    assert_eq!(paired.blocks.len(), 5);
    let rounds: Vec<&str> = paired.scenarios[0]
        .blocks
        .iter()
        .flat_map(|turns| &turns.rounds)
        .map(|round| round.order.as_str())
        .collect();
    assert!(rounds.iter().all(|order| order.len() == 6), "the null control takes part: {rounds:?}");
    assert!(rounds.iter().any(|order| *order != rounds[0]), "orders are drawn: {rounds:?}");
    for order in rounds {
        assert_eq!(order, order.chars().rev().collect::<String>(), "every order is a palindrome");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_duet_runs_both_builds_at_once_on_half_of_the_cpus() {
    let cpus = candlemark::settings::cpus_by_core().unwrap_or_default().len();
    if cpus < 2 {
        return crate::skipped("turns at once need two CPUs");
    }
    let turn = "grep Cpus_allowed_list: /proc/$$/status >> masks";
    let (base, slower) =
        (with(|fake| fake.turn = turn), with(|fake| (fake.turn, fake.decode_tok_s) = (turn, 80.0)));
    let folder = tempfile::tempdir().unwrap();
    base.script(&folder.path().join("base"));
    slower.script(&folder.path().join("candidate"));
    let args = ["--base", "base", "--candidate", "candidate", "--duet"];
    let output = pair(folder.path(), &args).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert!(said.contains("-20.0 %") && said.contains("ran at the same time"), "{said}");
    let paired = PairRecord::load(&folder.path().join("pair.json")).unwrap();
    let masks = fs::read_to_string(folder.path().join("masks")).unwrap();
    let halves: std::collections::BTreeSet<&str> = masks.lines().collect();
    assert_eq!(halves.len(), 2, "each turn is on one half of the CPUs or the other: {halves:?}");
    assert!(paired.duet);
    for round in
        paired.scenarios.iter().flat_map(|case| &case.blocks).flat_map(|turns| &turns.rounds)
    {
        let order = &round.order;
        assert_eq!(*order, order.chars().rev().collect::<String>(), "every order is a palindrome");
        assert!(order.len() == 4 && order.contains('A'), "the base meets one other: {order}");
    }
}

#[test]
fn a_budget_that_cannot_decide_anything_is_refused() {
    let slower = with(|fake| {
        fake.decode_tok_s = 50.0;
        fake.turn = "sleep 0.2";
    });
    for budget in ["0s", "5s"] {
        let (output, paired) = run_pair(&FakeWorker::default(), &slower, &["--budget", budget]);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), String::new()),
            "{said}"
        );
        assert!(said.contains("cannot decide anything: a verdict needs 5 blocks"), "{said}");
        assert!(said.contains("; give `--budget "), "{said}");
        assert_eq!(paired.blocks, []);
    }
}

#[test]
fn changed_output_fails_with_its_first_token_unless_declared() {
    let other = with(|fake| fake.ids = vec![3, 7, 4]);
    let place = "short/b1 OUTPUT CHANGED: token 2 of sequence 1 was 1 and is 7";
    let paired = check(&FakeWorker::default(), &other, &[], 5, &[place]);
    assert!(paired.scenarios[0].blocks.is_empty(), "times of different answers are not taken");
    let declared = ["--output-change", "a better sampler"];
    check(
        &FakeWorker::default(),
        &other,
        &declared,
        0,
        &["PASS", "meant to change: a better sampler"],
    );
    let shorter = with(|fake| fake.ids = vec![3]);
    check(
        &FakeWorker::default(),
        &shorter,
        &[],
        5,
        &["token 2 of sequence 1 was 1 and is the end"],
    );
}

#[test]
fn a_broken_worker_is_a_failure_with_its_arm_and_reason() {
    let killed = with(|fake| fake.turn = "kill -9 $$");
    check(
        &FakeWorker::default(),
        &killed,
        &[],
        5,
        &["short/b1 FAILED: candidate: a worker ended with signal: 9"],
    );
    let garbage = with(|fake| fake.turn = "echo Segmentation fault");
    let says = ["FAILED: candidate: a worker sent an invalid response: `Segmentation fault`"];
    check(&FakeWorker::default(), &garbage, &[], 5, &says);
    check(&killed, &FakeWorker::default(), &[], 5, &["FAILED: base: a worker ended"]);
    let never = with(|fake| fake.start = "echo no such model >&2; exit 5");
    let says = ["the candidate `candidate` cannot take turns", "no such model"];
    check(&FakeWorker::default(), &never, &[], 5, &says);
    let debug = with(|fake| fake.profile = "dev, opt-level 0");
    check(&FakeWorker::default(), &debug, &[], 5, &["unoptimized build"]);
}

#[test]
fn a_base_without_the_turn_protocol_is_not_comparable() {
    for (base, says) in [
        (
            with(|fake| fake.start = "echo 'no job on standard input' >&2; exit 5"),
            "no job on standard input",
        ),
        (with(|fake| fake.protocol = 7), "uses turn protocol 7"),
        (with(|fake| fake.start = "echo hello"), "invalid response: `hello`"),
    ] {
        let (output, _) = run_pair(&base, &FakeWorker::default(), &[]);
        let talk = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{talk}");
        assert!(
            talk.contains(says) && talk.contains("the base `base` cannot take turns"),
            "{talk}"
        );
    }
}

#[test]
fn engines_and_models_are_checked_by_the_workers_that_have_them() {
    // The host knows neither.
    let foreign = ["--engine", "mine", "--model", "a folder of mine", "--quant", "q3"];
    let other = with(|fake| fake.turn = "true");
    check(&FakeWorker::default(), &other, &foreign, 0, &["PASS: none of 3 metrics regressed"]);
    // What no worker knows is an error of the command line; what one knows is not.
    let folder = tempfile::tempdir().unwrap();
    FakeWorker::default().script(&folder.path().join("mine"));
    let refused = |base: &str, candidate: &str, flags: [&str; 2]| {
        let args = ["--base", base, "--candidate", candidate, "--even-if-identical"];
        let output = pair(folder.path(), &[&args[..], &flags].concat()).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for (flags, says) in [
        (["--engine", "mine"], "no engine `mine`"),
        (["--model", "nowhere.gguf"], "no model `nowhere.gguf`"),
    ] {
        for (base, candidate, expected) in
            [(BINARY, BINARY, 2), (BINARY, "mine", 4), ("mine", BINARY, 5)]
        {
            let (status, said) = refused(base, candidate, flags);
            assert_eq!(status, Some(expected), "{said}");
            assert!(said.contains(says), "{said}");
        }
    }
}

#[test]
fn a_stopped_clock_does_not_pass() {
    let stuck = with(|fake| fake.decode_tok_s = 0.0);
    check(
        &FakeWorker::default(),
        &stuck,
        &[],
        5,
        &["INVALID: a turn has a value that is not a positive number"],
    );
    check(&stuck, &FakeWorker::default(), &[], 5, &["INVALID: the base: a turn has a value"]);
}

#[test]
fn a_metric_that_is_no_longer_reported_is_missing() {
    let silent = with(|fake| fake.metrics = &["ttft_s"]);
    let says = ["decode of short/b1 is missing: a turn did not report it", "TTFT", "PASS"];
    let paired = check(&FakeWorker::default(), &silent, &[], 4, &says);
    assert_eq!((paired.ended, paired.blocks.len()), (Ended::Decided, 5), "the rest is judged");
    check(&silent, &FakeWorker::default(), &[], 0, &["NEW"]);
    let says = ["PASS: none of 2 metrics", "decode_tok_s has no value: a turn did not report it"];
    check(&silent, &silent, &["--even-if-identical"], 0, &says);
}

#[test]
fn a_scenario_unsupported_by_the_candidate_is_missing_and_by_both_ignored() {
    let cannot = |kind| with(|fake| fake.cannot = Some(Absence::new(kind, "failed: a text")));
    let unsupported = cannot(AbsenceKind::Unsupported);
    let says = ["short/b1 is missing: unsupported: failed: a text"];
    check(&FakeWorker::default(), &unsupported, &[], 4, &says);
    check(
        &FakeWorker::default(),
        &cannot(AbsenceKind::SkippedMemory),
        &[],
        4,
        &["MISSING: skipped"],
    );
    let failed = ["FAILED: candidate: failed: a text"];
    check(&FakeWorker::default(), &cannot(AbsenceKind::Failed), &[], 5, &failed);
    check(&unsupported, &FakeWorker::default(), &[], 4, &["NEW"]);
}

#[test]
fn scenarios_of_one_arm_are_new_or_missing() {
    let scenarios = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let old = with(|fake| fake.scenarios = scenarios(&["short/b1", "old/b1"]));
    let new = with(|fake| fake.scenarios = scenarios(&["short/b1", "new/b1"]));
    let says = ["new/b1", "NEW", "old/b1", "MISSING: the build has no such scenario"];
    check(&old, &new, &[], 4, &says);
}

#[test]
fn ctrl_c_gives_the_verdict_so_far_and_a_kill_leaves_complete_blocks() {
    for signal in ["-INT", "-KILL"] {
        let folder = tempfile::tempdir().unwrap();
        let slow = with(|fake| fake.turn = "sleep 0.02");
        slow.script(&folder.path().join("base"));
        with(|fake| fake.turn = "sleep 0.03").script(&folder.path().join("candidate"));
        let args = ["--base", "base", "--candidate", "candidate"];
        let child = pair(folder.path(), &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let raw = folder.path().join("pair.json");
        let began = Instant::now();
        while PairRecord::load(&raw).map_or(0, |paired| paired.blocks.len()) < 2 {
            assert!(began.elapsed() < Duration::from_secs(60), "no block was measured");
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let paired = PairRecord::load(&raw).unwrap();
        assert!(paired.blocks.len() >= 2);
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
            assert_eq!(paired.ended, Ended::Interrupted);
            assert!(text(&output.stdout).contains("interrupted"), "{}", text(&output.stdout));
        } else {
            assert_eq!(paired.ended, Ended::Open);
        }
        let check = Command::new(BINARY).args(["check", "--record"]).arg(&raw).output().unwrap();
        assert_eq!(check.status.code(), Some(3), "{}", text(&check.stderr));
    }
}

/// `fixtures/worker.py`: an engine in another language.
#[test]
fn a_worker_in_python_is_judged_like_any_other() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        crate::skipped("there is no python3");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/worker.py");
    let arm = |name: &str, slower: &str| {
        let path = folder.path().join(name);
        let script = format!("#!/bin/sh\nSLOWER={slower} exec python3 '{}'\n", worker.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let (base, slower) = (arm("base", "1"), arm("slower", "3"));
    let pair = ["pair", "--base", &base, "--candidate", &slower, "short/b1", "--budget", "30s"];
    let output = crate::candlemark(&[&pair[..], &["--raw", "pair.json"]].concat(), folder.path());
    // On a busy machine, half a minute need not be enough for a verdict.
    assert!(matches!(output.status.code(), Some(1 | 3)), "{}", text(&output.stderr));
    let pair = PairRecord::load(&folder.path().join("pair.json")).unwrap();
    let case = &pair.scenarios[0];
    assert_eq!((case.id.as_str(), &case.divergence), ("short/b1", &None));
    let rate = |arm| case.blocks[0].rounds[0].mean_ln("decode_tok_s", arm, |rate| rate).unwrap();
    assert!(rate('A') > 0.5 + rate('B'), "{} and {}", rate('A'), rate('B'));
}
