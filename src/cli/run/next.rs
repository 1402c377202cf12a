//! What to do after a run: continue it, judge it, or make the baseline that it lacks.

use std::collections::BTreeMap;
use std::path::Path;

use crate::baseline;
use crate::cli::setup::check_words_for_turns;
use crate::compare::{BLOCKS_NEEDED, SESSIONS_NEEDED};
use crate::error::{command, quoted};
use crate::record::Record;

/// Flags of `run` that `pair` does not have, and those that have a value.
const ONLY_RUN: &[(&str, bool)] = &[
    ("-o", true),
    ("--output", true),
    ("--resume", true),
    ("--blocks", true),
    ("--budget", true),
    ("--text", true),
    ("--stress-room", true),
    ("--stress-request", true),
    ("--shared-process", false),
];

/// Flags that name the record.
const FILES: &[(&str, bool)] = &[("-o", true), ("--output", true), ("--resume", true)];

/// The command that continues a record, from the words of the one that began it.
pub(super) fn resume_command(words: &[String], record: &Path) -> String {
    format!("{} --resume {}", candlemark(&without(words, FILES)), quoted(record))
}

/// The next step after a complete run: a verdict where there is a baseline; where there is none, a
/// comparison of two builds in candlemark's repository, otherwise a baseline.
pub(super) fn next_step(
    record: &Record,
    path: &Path,
    words: &[String],
    scenarios: &[String],
    allow_class: &BTreeMap<String, String>,
) -> String {
    if baseline::find(Path::new("baselines"), record, allow_class).is_ok() {
        return format!("`candlemark check --record {}` judges it", quoted(path));
    }
    let blocks = BLOCKS_NEEDED.div_ceil(SESSIONS_NEEDED).to_string();
    let run = [without(words, ONLY_RUN), vec!["--blocks".into(), blocks]].concat();
    let promote = format!(
        "for a baseline, `{}` in {SESSIONS_NEEDED} sessions, then `candlemark promote` their \
         records",
        candlemark(&run)
    );
    let is_engine = record.settings.server.is_none();
    if is_engine && is_repository() && check_words_for_turns(scenarios).is_ok() {
        let pair = pair_command(words);
        return format!("`{pair}` compares the working tree with the last commit; {promote}");
    }
    promote
}

fn candlemark(words: &[String]) -> String {
    command(&[&["candlemark".to_owned()], words].concat())
}

/// The pair of the same scenarios, model and settings.
fn pair_command(words: &[String]) -> String {
    let mut kept = without(words, ONLY_RUN);
    if let Some(run) = kept.iter().position(|word| word == "run") {
        kept.splice(run..=run, ["pair", "--base", "HEAD"].map(String::from));
    }
    candlemark(&kept)
}

/// Whether this folder is in a repository that `pair` can build: that of candlemark.
fn is_repository() -> bool {
    let here = std::env::current_dir().unwrap_or_default();
    let root = here.ancestors().find(|folder| folder.join(".git").exists());
    let manifest = root.and_then(|root| std::fs::read_to_string(root.join("Cargo.toml")).ok());
    manifest.is_some_and(|text| text.lines().any(|line| line.trim() == "name = \"candlemark\""))
}

/// The words without these flags and their values.
fn without(words: &[String], flags: &[(&str, bool)]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let joined = |flag: &str| match word.strip_prefix(flag) {
            Some(rest) => rest.starts_with('=') || (flag.len() == 2 && !rest.is_empty()),
            None => false,
        };
        match flags.iter().find(|(flag, _)| word == flag || joined(flag)) {
            Some((flag, true)) if word == flag => drop(words.next()),
            Some(_) => {}
            None => kept.push(word.clone()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(String::from).collect()
    }

    #[test]
    fn every_flag_that_a_pair_lacks_is_left_out() {
        use clap::Args as _;
        let flags = |command: clap::Command| {
            let long = command.get_arguments().filter_map(|one| one.get_long());
            long.map(|name| format!("--{name}")).collect::<Vec<_>>()
        };
        let pair = flags(crate::cli::pair::Arguments::augment_args(clap::Command::new("pair")));
        let run = flags(crate::cli::run::Arguments::augment_args(clap::Command::new("run")));
        assert!(run.len() > 10, "{run:?}");
        // After a run on a server no pair is suggested.
        let of_builds = run.iter().filter(|flag| *flag != "--url");
        for flag in of_builds.filter(|flag| !pair.contains(flag)) {
            assert!(ONLY_RUN.iter().any(|(known, _)| known == flag), "{flag}");
        }
    }

    #[test]
    fn the_resume_command_names_the_record_and_no_other_file() {
        for (line, expected) in [
            ("run", "candlemark run --resume r.json"),
            ("run code/b4 --iters 2", "candlemark run code/b4 --iters 2 --resume r.json"),
            ("run -o r.json code", "candlemark run code --resume r.json"),
            ("run -or.json code", "candlemark run code --resume r.json"),
            ("run --output=r.json code", "candlemark run code --resume r.json"),
            ("run --resume r.json code", "candlemark run code --resume r.json"),
        ] {
            assert_eq!(resume_command(&words(line), Path::new("r.json")), expected);
        }
    }

    #[test]
    fn the_pair_has_the_scenarios_and_the_model_of_the_run() {
        for (line, expected) in [
            ("run", "candlemark pair --base HEAD"),
            (
                "--config c.toml run short/b1 --blocks 8 --model synthetic:nano --shared-process",
                "candlemark --config c.toml pair --base HEAD short/b1 --model synthetic:nano",
            ),
        ] {
            assert_eq!(pair_command(&words(line)), expected);
        }
    }
}
