//! What another repository needs: `init`, shards, `merge`.

use std::fs;

use candlemark::record::Record;

use crate::{candlemark, input};

#[test]
fn init_writes_the_files_of_a_package_and_keeps_those_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let none = candlemark(&["init"], folder.path());
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8(none.stderr).unwrap().contains("Cargo.toml"));

    let manifest = "[package]\nname = \"my-engine\"\nversion = \"0.1.0\"\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.path().join("candlemark.toml"), "# mine\n").unwrap();
    let made = candlemark(&["init"], folder.path());
    let said = String::from_utf8(made.stdout).unwrap();
    assert_eq!(made.status.code(), Some(0), "{said}");
    assert!(said.contains("written  ./benches/generate.rs"), "{said}");
    assert!(said.contains("kept     ./candlemark.toml"), "{said}");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("candlemark.toml"), "# mine\n");
    assert!(read("benches/generate.rs").contains("register(\"my_engine\", my_engine::load)"));
    assert!(read(".github/workflows/candlemark.yml").contains("candlemark pair --base"));
    let settings = include_str!("../../src/cli/init/candlemark.toml");
    fs::write(folder.path().join("candlemark.toml"), settings).unwrap();
    assert_eq!(candlemark(&["list"], folder.path()).status.code(), Some(0));
}

#[test]
fn shards_are_merged_into_the_record_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Record::load(&input("records/base.json")).unwrap();
    let shard = |first: bool| {
        let mut shard = whole.clone();
        for session in &mut shard.sessions {
            session.harness = "run".into();
        }
        let half = whole.scenarios.len() / 2;
        shard.scenarios.retain(|case| {
            let at = whole.scenarios.iter().position(|known| known.id == case.id).unwrap();
            (at < half) == first
        });
        let kept = |id: &String| shard.scenarios.iter().any(|case| case.id == *id);
        let others = whole.scenarios.iter().map(|case| case.id.clone());
        shard.not_selected = others.filter(|id| !kept(id)).collect();
        shard
    };
    for (name, first) in [("one.json", true), ("two.json", false)] {
        shard(first).save(&folder.path().join(name)).unwrap();
    }
    let merged = ["merge", "two.json", "one.json", "-o", "merged.json"];
    let merged = candlemark(&merged, folder.path());
    assert_eq!(merged.status.code(), Some(0), "{}", String::from_utf8_lossy(&merged.stderr));
    let merged = Record::load(&folder.path().join("merged.json")).unwrap();
    // Everything but when it was measured: each case with all its blocks, machine, build, settings.
    let timeless = |record: &Record| {
        let mut record = record.clone();
        record.sessions.clear();
        record.not_selected.clear();
        record.scenarios.sort_by(|one, other| one.id.cmp(&other.id));
        for block in record.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
            block.session.clear();
        }
        record
    };
    assert_eq!(timeless(&merged), timeless(&whole));
    let sessions: Vec<&str> = merged.sessions.iter().map(|session| session.id.as_str()).collect();
    let mut blocks = merged.scenarios.iter().flat_map(|case| &case.blocks);
    assert!(blocks.all(|block| sessions.contains(&block.session.as_str())), "{sessions:?}");
    assert!(merged.not_selected.is_empty());

    let twice = candlemark(&["merge", "one.json", "one.json"], folder.path());
    assert_eq!(twice.status.code(), Some(4));
    assert!(String::from_utf8(twice.stderr).unwrap().contains("given twice"));
}

#[test]
fn a_package_that_is_not_this_one_says_what_to_build() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"my-engine\"\n").unwrap();
    let pair = candlemark(&["pair", "--base", "main"], folder.path());
    let said = String::from_utf8(pair.stderr).unwrap();
    assert_eq!(pair.status.code(), Some(2), "{said}");
    assert!(said.contains("`my-engine`") && said.contains("[build]"), "{said}");
    let wrong = candlemark(&["pair", "--base", "main", "--partition", "4/3"], folder.path());
    assert_eq!(wrong.status.code(), Some(2));
}
