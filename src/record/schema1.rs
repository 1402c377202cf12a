//! Upgrades records and pairs of schema 1 to schema 2. In schema 1, only texts for people had the
//! kind of an absence and how a value was read; they are parsed here and nowhere else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::record::{Absence, AbsenceKind, Caveat};
use crate::workload::metric;

/// The schema that is upgraded to.
const UPGRADED: u32 = 2;

/// Degrees of freedom of the standard deviation between layouts in a pair of schema 1. It does not
/// store how many builds that was estimated from; its verdicts took the value as exact.
const EXACT: f64 = 1e9;

/// Upgrades a record.
pub(super) fn upgrade_record(record: &mut Value) {
    for case in items(record, "scenarios") {
        upgrade_absence(case);
        for block in items(case, "blocks") {
            upgrade_notes(block);
        }
    }
    record["schema"] = UPGRADED.into();
}

/// Upgrades a pair.
pub(super) fn upgrade_pair(pair: &mut Value) {
    for case in items(pair, "scenarios") {
        for side in ["base", "candidate"] {
            case.get_mut(side).into_iter().for_each(upgrade_absence);
        }
        upgrade_no_value(case);
    }
    if let Some(Value::Object(layout_sd)) =
        pair.as_object_mut().and_then(|pair| pair.remove("layout_sd"))
    {
        let spread = |sd: Value| json!({"sd": sd, "freedom": EXACT});
        pair["layout"] = layout_sd.into_iter().map(|(kind, sd)| (kind, spread(sd))).collect();
    }
    pair["schema"] = UPGRADED.into();
}

/// Replaces the text of an absence by its kind and reason.
pub(crate) fn upgrade_absence(of: &mut Value) {
    if let Some(absent) = of.get_mut("absent")
        && let Some(upgraded) = absent.as_str().map(absence)
    {
        *absent = json!(upgraded);
    }
}

/// The absence that a text of schema 1 means.
fn absence(text: &str) -> Absence {
    let kinds = [
        ("unsupported", AbsenceKind::Unsupported),
        ("unknown", AbsenceKind::Unknown),
        // The text of a scenario skipped for memory ends with how much was available.
        (
            "skipped",
            if text.ends_with("available") {
                AbsenceKind::SkippedMemory
            } else {
                AbsenceKind::SkippedTime
            },
        ),
        ("failed", AbsenceKind::Failed),
    ];
    if text.ends_with(AbsenceKind::NotMeasuredYet.word()) {
        return Absence::not_measured_yet();
    }
    let found = kinds.into_iter().find_map(|(word, kind)| Some((kind, text.strip_prefix(word)?)));
    let (kind, why) = found.unwrap_or((AbsenceKind::Failed, text));
    Absence::new(kind, why.trim_start_matches([':', ' ']))
}

/// Derives the caveats of a block's values from its notes.
fn upgrade_notes(block: &mut Value) {
    let mut caveats = BTreeMap::new();
    for (metric, phrases, caveat) in [
        (metric::PEAK_RSS_BYTES, ["shared_process", "shared_process"], Caveat::SharedProcess),
        (metric::PEAK_DEVICE_BYTES, ["sample", "lower bound"], Caveat::LowerBound),
    ] {
        let note = block["notes"][metric].as_str().unwrap_or_default();
        if block["values"][metric].is_number() && phrases.iter().any(|phrase| note.contains(phrase))
        {
            caveats.insert(metric, caveat);
        }
    }
    if !caveats.is_empty() {
        block["caveats"] = json!(caveats);
    }
}

/// Moves notes on metrics without a value to the arm that lacks it: the one without a value beside
/// the note.
fn upgrade_no_value(case: &mut Value) {
    let mut notes = BTreeMap::new();
    for turns in items(case, "blocks") {
        let removed = turns.as_object_mut().and_then(|turns| turns.remove("notes"));
        if let Some(Value::Object(found)) = removed {
            notes.extend(found);
        }
    }
    for (metric, why) in notes {
        for (letter, side) in [("A", "base"), ("B", "candidate")] {
            let has = items(case, "blocks").any(|turns| turns["once"][&metric][letter].is_number());
            let side = case.get_mut(side).and_then(Value::as_object_mut).filter(|_| !has);
            let entry = side.map(|side| side.entry("no_value").or_insert_with(|| json!({})));
            if let Some(Value::Object(entry)) = entry {
                entry.insert(metric.clone(), why.clone());
            }
        }
    }
}

/// The objects of a list. The reader of schema 2 refuses anything else in it.
fn items<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = value.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter(|item| item.is_object())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::record::Record;
    use crate::record::calibration::SdEstimate;
    use crate::record::pair::PairRecord;

    fn fixture(form: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/schema-1/{form}.json"))
    }

    fn stored(form: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(fixture(form)).unwrap()).unwrap()
    }

    #[test]
    fn texts_of_schema_1_become_kinds_of_absence() {
        use AbsenceKind::*;
        for (text, kind, why) in [
            ("unsupported: no such device", Unsupported, "no such device"),
            ("unknown: the build has no such scenario", Unknown, "the build has no such scenario"),
            (
                "skipped: the time budget of 8m was used up",
                SkippedTime,
                "the time budget of 8m was used up",
            ),
            ("skipped: no time", SkippedTime, "no time"),
            (
                "skipped: the KV cache of 512 tokens needs up to 9 MiB, 5 are available",
                SkippedMemory,
                "the KV cache of 512 tokens needs up to 9 MiB, 5 are available",
            ),
            ("failed: out of memory", Failed, "out of memory"),
            ("failed: not measured yet", NotMeasuredYet, ""),
            ("killed", Failed, "killed"),
            ("", Failed, ""),
        ] {
            assert_eq!(absence(text), Absence::new(kind, why), "{text}");
        }
    }

    #[test]
    fn an_item_that_is_no_object_is_an_error_of_the_reader() {
        let path = Path::new("pair.json");
        for (place, value) in
            [("/scenarios/0", json!(1)), ("/scenarios/0/base", json!(1)), ("/scenarios", json!(1))]
        {
            let mut pair = stored("pair");
            *pair.pointer_mut(place).unwrap() = value;
            let error = PairRecord::parse(&pair.to_string(), path).unwrap_err().to_string();
            assert!(error.contains("invalid type: integer `1`"), "{place}: {error}");
        }
    }

    #[test]
    fn a_record_of_schema_1_is_read() {
        assert_eq!(stored("record")["schema"], 1);
        assert_eq!(stored("record")["scenarios"][1]["absent"], "failed: out of memory");
        let record = Record::load(&fixture("record")).unwrap();
        assert_eq!((record.schema, record.scenarios.len()), (2, 2));
        let failed = Absence::new(AbsenceKind::Failed, "out of memory");
        assert_eq!(
            (&record.scenarios[0].absent, &record.scenarios[1].absent),
            (&None, &Some(failed))
        );
        assert_eq!(record.scenarios[0].values("decode_tok_s").len(), 3);
        assert!(record.not_selected.is_empty(), "schema 1 does not say");
    }

    #[test]
    fn a_pair_of_schema_1_is_read() {
        assert_eq!(stored("pair")["schema"], 1);
        let pair = PairRecord::load(&fixture("pair")).unwrap();
        assert_eq!((pair.schema, pair.scenarios.len(), pair.blocks.len()), (2, 4, 8));
        let unknown = Absence::new(AbsenceKind::Unknown, "no scenario of this name");
        assert_eq!(pair.scenarios[2].base.absent.as_ref(), Some(&unknown));
        assert_eq!(pair.scenarios[3].candidate.absent.as_ref(), Some(&unknown));
        assert_eq!(pair.scenarios[0].candidate.absent, None);
    }

    #[test]
    fn notes_of_schema_1_become_caveats() {
        let mut block = json!({
            "values": {"peak_rss_bytes": 2e9, "peak_device_bytes": 1e9, "ttft_s": 0.1},
            "notes": {
                "peak_rss_bytes": "high water, shared_process",
                "peak_device_bytes": "one sample, after the region: a lower bound of the peak",
                "ttft_s": "a sample",
            },
        });
        upgrade_notes(&mut block);
        let caveats =
            json!({"peak_rss_bytes": "shared_process", "peak_device_bytes": "lower_bound"});
        assert_eq!(block["caveats"], caveats);
        let mut block = json!({
            "values": {"peak_rss_bytes": 2e9, "peak_device_bytes": null},
            "notes": {
                "peak_rss_bytes": "high water, fresh process",
                "peak_device_bytes": "the driver took fewer than two samples",
            },
        });
        let before = block.clone();
        upgrade_notes(&mut block);
        assert_eq!(block, before, "a fresh process and a missing value have none");
    }

    #[test]
    fn a_peak_that_was_not_read_is_that_of_the_arm_without_one() {
        let case = |once: Value| {
            json!({"base": {}, "candidate": {}, "blocks": [
                {"block": 0, "quads": [], "once": once, "notes": {"peak_rss_bytes": "no VmHWM"}},
            ]})
        };
        let none = json!({});
        let no_value = json!({"no_value": {"peak_rss_bytes": "no VmHWM"}});
        for (once, base, candidate) in [
            (json!({"peak_rss_bytes": {"A": 1e8}}), &none, &no_value),
            (json!({"peak_rss_bytes": {"B": 1e8}}), &no_value, &none),
            (json!({}), &no_value, &no_value),
        ] {
            let mut case = case(once);
            upgrade_no_value(&mut case);
            assert_eq!((&case["base"], &case["candidate"]), (base, candidate));
            assert_eq!(case["blocks"][0].get("notes"), None);
        }
    }

    #[test]
    fn the_layout_of_a_pair_of_schema_1_is_taken_as_exact() {
        let mut pair = stored("pair");
        pair["layout_sd"] = json!({"decode": 0.0021});
        let pair = PairRecord::parse(&pair.to_string(), Path::new("pair.json")).unwrap();
        assert_eq!(pair.layout["decode"], SdEstimate { sd: 0.0021, freedom: 1e9 });
    }
}
