//! `candlemark pair` on a git repository: a crate that is a fake worker, built from its refs.

use std::fs;
use std::process::{Command, Stdio};

use super::{FakeWorker, candlemark, pair, with};
use crate::text;

/// A git repository with a crate that is a worker; its decode rate is in its source.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        let manifest = "[package]\nname = \"candlemark\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                        [features]\nengine = []\nhub = []\n[profile.release]\nopt-level = 0\n";
        repository.write("Cargo.toml", manifest);
        repository.write(".gitignore", "/target\n/pair.*\n");
        repository.git(&["init", "-q", "-b", "main"]);
        repository.source("100.0");
        let lock = Command::new(env!("CARGO"))
            .args(["generate-lockfile", "--offline"])
            .current_dir(repository.folder.path())
            .output()
            .unwrap();
        assert!(lock.status.success(), "{}", text(&lock.stderr));
        repository.commit("base");
        repository
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes the source of a worker with this decode rate.
    fn source(&self, speed: &str) {
        let fake = FakeWorker::default();
        let values = fake.values().replace("100.0", "SPEED");
        let source = format!(
            "fn main() {{\n    let mut line = String::new();\n    while std::io::stdin().read_line(&mut line).unwrap() > 0 {{\n        \
             let told = if line.contains(\"protocol\") {{ {:?} }}\n            else if line.contains(\"warm_up\") {{ {:?} }}\n            \
             else if line.contains(\"turn\") {{ {:?} }} else {{ {:?} }};\n        \
             println!(\"{{}}\", told.replace(\"SPEED\", \"{speed}\"));\n        line.clear();\n    }}\n}}\n",
            fake.ready(),
            fake.warm(),
            values,
            fake.case(Some("hash".into()))
        );
        self.write("src/main.rs", &source);
    }

    fn git(&self, args: &[&str]) {
        let output = Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("GIT_DIR")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    fn check(&self, args: &[&str], status: i32, says: &[&str]) {
        let output = pair(self.folder.path(), args).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        for part in says {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
}

#[test]
fn two_refs_are_built_and_compared() {
    let repository = Repository::new();
    repository.write("README.md", "words\n");
    repository.commit("docs");
    let says = ["equal byte for byte", "building main~1"];
    repository.check(&["--base", "main~1"], 0, &says);
    repository.source("80.0");
    // The crate has two of the features that candlemark has by default, and nobody asked for more.
    let without = "the base was built without `bench`, `monitor`, `server`: its tree does not have";
    let says = ["main: built before", "decode of short/b1 -20.0 %", "dirty", without];
    repository.check(&["--base", "main"], 1, &says);
    repository.write("src/other.rs", "");
    repository.commit("slower");
    let says = ["decode of short/b1 +25.0 %", "1 improved"];
    repository.check(&["--base", "main", "--candidate", "main~1"], 0, &says[1..]);
    let index = fs::read_to_string(repository.folder.path().join(".git/HEAD")).unwrap();
    assert_eq!(index, "ref: refs/heads/main\n", "the repository is left as it was");
    // A CI job checks out a commit without a branch.
    repository.git(&["update-ref", "refs/remotes/origin/main", "main"]);
    repository.git(&["checkout", "-q", "--detach"]);
    repository.git(&["branch", "-q", "-D", "main"]);
    let says = ["there is no local branch `main`: using `origin/main`"];
    repository.check(&["--base", "main", "--candidate", "HEAD~1"], 0, &says);
}

#[test]
fn a_feature_that_was_asked_for_and_is_missing_is_an_error() {
    let repository = Repository::new();
    let build = "[build]\nbinary = \"candlemark\"\nfeatures = [\"hub\", \"fast\"]\n";
    repository.write("candlemark.toml", build);
    repository.source("80.0");
    let says = ["NOT COMPARABLE: main does not build", "feature: fast"];
    repository.check(&["--base", "main"], 4, &says);
}

#[test]
fn a_failed_build_shows_the_errors_of_the_compiler() {
    let repository = Repository::new();
    repository.write("src/main.rs", "fn main() { let x: u32 = \"text\"; }\n");
    repository.check(
        &["--base", "main"],
        5,
        &["the working tree does not build", "mismatched types"],
    );
    repository.commit("broken");
    repository.source("100.0");
    let says = ["NOT COMPARABLE: main does not build", "mismatched types"];
    repository.check(&["--base", "main"], 4, &says);
    let refused = [
        "`no-such-ref` is neither a file nor a commit",
        "no `origin/no-such-ref` either",
        "`git fetch origin no-such-ref:refs/remotes/origin/no-such-ref`",
    ];
    repository.check(&["--base", "no-such-ref"], 2, &refused);
    // An unknown ref is an error before the base is built.
    repository.write("README.md", "words\n");
    repository.commit("unbuilt");
    let output =
        pair(repository.folder.path(), &["--base", "main", "--candidate", "no-such-ref"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let talk = text(&output.stderr);
    assert!(talk.contains(refused[0]) && !talk.contains("building"), "{talk}");
}

#[test]
fn a_base_that_does_not_build_is_reported_in_every_format() {
    let repository = Repository::new();
    repository.write("src/main.rs", "fn main() { let x: u32 = \"text\"; }\n");
    repository.commit("broken");
    repository.source("100.0");
    for (format, says) in [
        ("human", "NOT COMPARABLE: main does not build.\n"),
        ("md", "**NOT COMPARABLE**: main does not build.\n"),
        ("json", "\"outcome\": \"not_comparable\""),
        ("html", "<b>NOT COMPARABLE</b> – main does not build."),
        ("github", "::error title=candlemark::NOT COMPARABLE: main does not build.\n"),
        ("junit", "errors=\"1\""),
        ("bmf", "{}\n"),
        ("smaller-is-better", "[]\n"),
    ] {
        let args = ["--base", "main", "--format", format];
        let output = pair(repository.folder.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains(says), "{format}: {said}");
    }
}

#[test]
fn outside_a_repository_two_binaries_are_required() {
    let folder = tempfile::tempdir().unwrap();
    FakeWorker::default().script(&folder.path().join("base"));
    let none = "error: not in a git repository; ";
    for (args, says) in [
        (&["pair", "--base", "main"][..], "give two binaries with `--base` and `--candidate`"),
        (&["pair", "--base", "base"], "give two binaries with `--base` and `--candidate`"),
        (&["gate-eval", "record", "--base", "main"], "give a binary with `--base`"),
        (&["calibrate"], "run this in the repository that has the commit of `--base`"),
    ] {
        let output = candlemark(folder.path()).args(args).output().unwrap();
        let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
        assert_eq!(found, (Some(2), String::new(), format!("{none}{says}\n")), "{args:?}");
    }
    assert_eq!(crate::names(folder.path()), ["base"], "nothing was written");
}

/// Sends SIGINT to a command once it prints `at` on stderr; its exit status and output.
#[track_caller]
fn interrupted(mut command: Command, at: &str) -> (Option<i32>, String) {
    use std::io::{BufRead as _, Read as _};
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut talk = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(at) {
        line.clear();
        assert!(talk.read_line(&mut line).unwrap() > 0, "it ended before it said `{at}`");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        talk.read_to_string(&mut rest).unwrap();
        rest
    });
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout) + &reader.join().unwrap())
}

#[test]
fn ctrl_c_before_anything_is_measured_ends_with_130() {
    let repository = Repository::new();
    repository.source("80.0");
    let building = pair(repository.folder.path(), &["--base", "main"]);
    let (status, said) = interrupted(building, "building main");
    assert_eq!(status, Some(130), "{said}");
    let reason = "UNDECIDED: interrupted before anything was measured.\n";
    assert!(said.starts_with(reason) && said.contains("again to end at once"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    with(|fake| fake.turn = "sleep 0.05").script(&folder.path().join("base"));
    let mut recording = candlemark(folder.path());
    let args = ["gate-eval", "record", "short/b1", "--base", "base", "-o", "pool.json"];
    recording.args(args).args(["--arms", "7", "--environments", "quiet"]);
    let (status, said) = interrupted(recording, "quiet: block 1 of 128");
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("stopping: complete environments are kept"), "{said}");
}

#[test]
fn a_machine_is_calibrated_in_sessions() {
    let repository = Repository::new();
    let folder = repository.folder.path();
    let calibrate = |more: &[&str]| {
        let args = ["calibrate", "short/b1", "--base", "main", "--layouts", "0", "--blocks", "8"];
        candlemark(folder).args(args).args(more).output().unwrap()
    };
    let output = calibrate(&[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(said.contains(", 1 sessions;") && said.contains("detectable, 8 blocks"), "{said}");
    let output = calibrate(&["--more"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(", 2 sessions;"), "{}", text(&output.stdout));
    repository.write("README.md", "words\n");
    repository.commit("another commit");
    let output = calibrate(&["--more"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the commit of the earlier sessions"));
    assert_eq!(calibrate(&["--blocks", "7"]).status.code(), Some(2), "too few to say anything");
    // The next pair uses the calibration, which has no variance between layouts.
    repository.source("99.0");
    repository.check(&["--base", "main"], 0, &["PASS", "0.5 % is assumed"]);
}

#[test]
fn a_pool_is_recorded_and_too_short_for_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    FakeWorker::default().script(&folder.path().join("base"));
    let record = |more: &[&str]| {
        let args = ["gate-eval", "record", "short/b1", "--base", "base", "--layout", "base"];
        let args =
            [&args, ["-o", "pool.json", "--blocks", "3", "--quads", "1"].as_slice(), more].concat();
        candlemark(folder.path()).args(args).output().unwrap()
    };
    let output = record(&["--environments", "quiet,cpu-hog", "--arms", "7,M"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let pool = candlemark::record::pool::Pool::load(&folder.path().join("pool.json")).unwrap();
    let letters: String = pool.arms.iter().map(|arm| arm.letter).collect();
    assert_eq!((letters.as_str(), pool.environments.len()), ("AN7ML", 2));
    let turns = &pool.environments[0].blocks[2].scenarios[0];
    assert_eq!(turns.rounds[0].order.len(), 8, "A N 7 L there and back: {}", turns.rounds[0].order);
    assert_eq!(turns.once["peak_rss_bytes"].len(), 4, "{:?}", turns.once);
    let replay =
        candlemark(folder.path()).args(["gate-eval", "replay", "pool.json"]).output().unwrap();
    assert_eq!(replay.status.code(), Some(3));
    assert!(text(&replay.stderr).contains("accepted blocks; a replay needs 24"));
    for (more, says) in
        [(["--environments", "noisy"], "no environment `noisy`"), (["--arms", "Q"], "no arm `Q`")]
    {
        let output = record(&more);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
}
