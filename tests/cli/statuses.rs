//! Exit statuses: command lines with their expected status, and the lists of statuses.

use std::fs;
use std::path::Path;

use crate::{candlemark, input};

/// Replaces `CHECK` in command lines.
const CHECK: &str = "check --baseline records/base.json --record";

/// Exit status, stdout and stderr of a command.
fn run(args: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let output = candlemark(args, folder);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_wrong_command_line_ends_with_2_a_reason_and_no_output() {
    for (line, says) in [
        ("", "Usage:"),
        ("chekc", "unrecognized subcommand 'chekc'"),
        ("check --format pdf", "invalid value 'pdf'"),
        ("compare one.json", "2 values required"),
        ("report records/same.json --format csv --lang fr", "`--lang` is for `--format md`"),
        ("list cdoe", "no suite or scenario `cdoe` (did you mean `code`?)"),
        ("list --config none.toml", "cannot read `none.toml`: No such file"),
        ("list --config misspelt.toml", "did you mean `fail_on`?"),
        ("check --record none.json", "cannot read `none.json`: No such file"),
        ("CHECK garbage.json", "`garbage.json` is not valid"),
        ("CHECK pool.json", "`pool.json` is not valid"),
        ("check --record records/same.json --baseline garbage.json", "is not valid"),
        ("CHECK pairs/pass.json", "contains its base; give no `--baseline`"),
        ("report none.json", "cannot read `none.json`: No such file"),
        ("report pairs/pass.json", "judge it with `candlemark check --record"),
        ("report records/same.json --scenario code/b1", "`--scenario` is for `--format row`"),
        ("report records/same.json --format row --scenario no/b1", "no scenario in the record"),
        ("report records/same.json --targets none.toml", "cannot read `none.toml`"),
        ("compare records/base.json none.json", "cannot read `none.json`"),
        ("promote none.json", "cannot read `none.json`"),
        ("promote records/session-1.json -o - --release", "a release needs a baseline in a file"),
        ("gate-eval replay none.json", "no pool `none.json`"),
        ("gate-eval replay garbage.json", "`garbage.json` is not valid"),
        ("gate-eval replay pool.json --rules our", "no rule `our` (did you mean `ours`?)"),
        ("gate-eval replay pool.json --runs 0", "invalid value '0' for '--runs <RUNS>'"),
    ] {
        let line = line.replace("CHECK", CHECK);
        let args: Vec<&str> = line.split_whitespace().collect();
        let (status, text, talk) = run(&args, &input(""));
        assert_eq!((status, text.as_str()), (Some(2), ""), "{line}: {talk}");
        assert!(talk.contains(says) && !talk.contains("panicked"), "{line}: {talk}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_2_and_the_valid_range() {
    let folder = tempfile::tempdir().unwrap();
    for (config, says) in [
        ("[generation]\niters = 0", "`generation.iters` is out of its range: 1 to 10000"),
        (
            "[generation]\ntemperature = nan",
            "`generation.temperature` is out of its range: from 0 to 1000",
        ),
        ("[model]\nthreads = 0", "`model.threads` is out of its range: 1 to 8192"),
        ("[suite]\nblocks = 0", "`suite.blocks` is out of its range: 1 to 10000"),
        ("[suite]\nscenarios = [\"cdoe\"]", "did you mean `code`?"),
        ("[generation", "TOML parse error"),
    ] {
        fs::write(folder.path().join("candlemark.toml"), config).unwrap();
        let (status, text, talk) = run(&["list"], folder.path());
        assert_eq!((status, text.as_str()), (Some(2), ""), "{config}: {talk}");
        assert!(talk.contains(says), "{config}: {talk}");
    }
    for (gate, says) in [
        ("limits = { decode_toks = 0.1 }", "did you mean `decode_tok_s`?"),
        ("limits = { ttft_s = 10.0 }", "limit of `ttft_s` is 10; it is a share"),
        ("fail_on = \"never\"", "no fail_on `never`"),
    ] {
        fs::write(folder.path().join("candlemark.toml"), format!("[gate]\n{gate}")).unwrap();
        let (status, text, talk) = run(&["check"], folder.path());
        assert_eq!((status, text.as_str()), (Some(2), ""), "{gate}: {talk}");
        assert!(talk.contains(says), "{gate}: {talk}");
    }
}

#[test]
fn the_example_configuration_is_valid_in_every_part() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/candlemark.toml");
    let text = fs::read_to_string(example).unwrap();
    let edited = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest,
        _ => line,
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), edited.collect::<Vec<_>>().join("\n")).unwrap();
    let config = file.path().to_str().unwrap();
    for line in ["list".to_owned(), format!("{CHECK} records/same.json")] {
        let words: Vec<&str> = ["--config", config].into_iter().chain(line.split(' ')).collect();
        let (status, _, talk) = run(&words, &input(""));
        assert_eq!(status, Some(0), "{talk}");
    }
}

#[test]
fn every_other_status_has_its_cause() {
    for (line, status) in [
        ("list code", 0),
        ("CHECK records/same.json", 0),
        ("check --record pairs/identical.json", 0),
        ("CHECK records/slower.json", 1),
        ("check --record pairs/regressed.json", 1),
        ("CHECK records/noisy.json", 3),
        ("check --record pairs/few.json", 3),
        ("promote records/session-1.json -o -", 3),
        ("check", 4),
        ("check --baseline none.json --record records/same.json", 4),
        ("check --baselines none --record records/same.json", 4),
        ("check --baseline schema-99.json --record records/same.json", 4),
        ("report schema-99.json", 4),
        ("CHECK records/other-machine.json", 4),
        ("CHECK records/partial.json", 4),
        ("promote records/injected.json -o -", 4),
        ("CHECK records/failed.json", 5),
        ("CHECK records/invalid.json", 5),
        ("CHECK records/output-changed.json", 5),
        ("check --record pairs/failed.json", 5),
    ] {
        let line = line.replace("CHECK", CHECK);
        let args: Vec<&str> = line.split_whitespace().collect();
        let (found, _, talk) = run(&args, &input(""));
        assert_eq!(found, Some(status), "{line}: {talk}");
    }
}

/// The statuses and meanings in the help of a command, whose lines may be wrapped.
fn statuses_in_help(command: &[&str]) -> Vec<(String, String)> {
    let (_, text, _) = run(&[command, &["--help"]].concat(), &input(""));
    let listed = text.split_once("Exit status:\n").unwrap_or_else(|| panic!("{text}")).1;
    let mut found: Vec<(String, String)> = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.split_first(), found.last_mut()) {
            (Some((first, rest)), _) if first.parse::<u8>().is_ok() => {
                found.push(((*first).to_owned(), rest.join(" ")));
            }
            (Some(_), Some((_, meaning))) => *meaning += &format!(" {}", words.join(" ")),
            _ => {}
        }
    }
    found
}

#[test]
fn the_readme_and_the_help_list_the_same_statuses() {
    let readme = include_str!("../../README.md");
    let table = readme.split_once("| exit status | meaning |\n|---|---|\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let mut cells = row.trim_matches('|').splitn(2, '|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    };
    let rows: Vec<(String, String)> = rows.map(cells).collect();
    let statuses: Vec<&str> = rows.iter().map(|(status, _)| status.as_str()).collect();
    assert_eq!(statuses, ["0", "1", "2", "3", "4", "5", "130"]);
    assert_eq!(statuses_in_help(&[]), rows);
    assert_eq!(statuses_in_help(&["check"]), rows);
    if cfg!(feature = "engine") {
        assert_eq!(statuses_in_help(&["pair"]), rows);
    }
}
