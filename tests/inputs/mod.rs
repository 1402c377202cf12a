//! The inputs of tests, made from literal numbers and fixed seeds instead of being stored: records,
//! pairs, a pool, a calibration, and small files. Tests of the library and of the binary share
//! them.

#![expect(dead_code, reason = "no crate of tests uses all of it")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candlemark::files;
use candlemark::record::Record;
use candlemark::record::pair::PairRecord;

pub mod everything;
pub mod pairs;
pub mod pools;
pub mod records;
pub mod results;
pub mod served;

/// The calibration that `check --baselines stored` finds for the machine and model of the records.
pub const CALIBRATION: &str = "stored/amd-epyc-2cpu-1f3a90c2/synthetic-mini-f32.calibration.json";

/// Configurations, and files that are no record.
const TEXTS: [(&str, &str); 7] = [
    ("alias.toml", "[gate.allow_class]\nintel-xeon-4cpu-77aa00bb = \"amd-epyc-2cpu-1f3a90c2\"\n"),
    ("critical.toml", "[gate]\nfail_on = \"critical\"\n"),
    ("misspelt.toml", "[gate]\nfail_at = \"critical\"\n"),
    (
        "removed.toml",
        "[gate.removed]\n\"code/b4\" = \"batches of 4 are part of code/b8 now\"\n\
         \"short/b16\" = \"too slow for a pull request\"\n",
    ),
    ("removed-without-reason.toml", "[gate.removed]\n\"code/b4\" = \"\"\n"),
    ("garbage.json", "not a record\n"),
    ("schema-99.json", "{\"schema\": 99}\n"),
];

/// Every record by file name.
pub fn all_records() -> Vec<(&'static str, Record)> {
    records::all().into_iter().chain(served::all()).collect()
}

/// The record of this file name.
pub fn record(name: &str) -> Record {
    let found = all_records().into_iter().find(|(one, _)| *one == name);
    found.unwrap_or_else(|| panic!("no record `{name}`")).1
}

/// The pair of this file name.
pub fn pair(name: &str) -> PairRecord {
    let found = pairs::all().into_iter().find(|(one, _)| *one == name);
    found.unwrap_or_else(|| panic!("no pair `{name}`")).1
}

/// The folder `inputs` within another one, with every input: `records/NAME.json`,
/// `pairs/NAME.json`, `results/TOOL.json`, `pool.json`, [`CALIBRATION`] and the small files. Written
/// once per process.
pub fn folder(within: &str) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(within).join("inputs");
        for (name, record) in all_records() {
            record.save(&folder.join(format!("records/{name}.json"))).unwrap();
        }
        for (name, pair) in pairs::all() {
            pair.save(&folder.join(format!("pairs/{name}.json"))).unwrap();
        }
        pools::two_machines().save(&folder.join("pool.json")).unwrap();
        records::calibration().save(&folder.join(CALIBRATION)).unwrap();
        for (name, text) in results::all() {
            files::write(&folder.join("results").join(name), text.as_bytes()).unwrap();
        }
        for (name, text) in TEXTS {
            files::write(&folder.join(name), text.as_bytes()).unwrap();
        }
        folder
    })
}
