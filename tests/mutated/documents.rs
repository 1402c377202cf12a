//! Records, pairs, pools, calibrations, settings and targets.

use std::path::Path;
use std::time::Duration;

use candlemark::analysis::{Analysis, Targets};
use candlemark::compare::{Judgement, Policy, ReferenceData, judge, paired};
use candlemark::evaluate::ReplayPlan;
use candlemark::record::Record;
use candlemark::record::calibration::Calibration;
use candlemark::record::pair::PairRecord;
use candlemark::record::pool::Pool;
use candlemark::report::{Lang, ReportOptions};
use candlemark::settings::Config;
use candlemark::{baseline, evaluate, report};

use crate::mutator::Mutator;
use crate::{Reader, exclusive, inputs};

/// Renders a verdict in every format except the page.
fn render(judgement: &Judgement) {
    let command = "candlemark check";
    report::verdict_text(judgement, command);
    report::verdict_markdown(judgement, command);
    report::verdict_json(judgement);
    report::annotations(judgement);
    report::junit(judgement, "2026-11-29T00:00:00Z");
    report::bmf(judgement);
    report::smaller_is_better(judgement);
}

#[test]
fn records_are_read_judged_and_promoted() {
    let files = [
        "inputs/records/after.json",
        "inputs/records/base.json",
        "inputs/records/hostile.json",
        "inputs/records/rolling.json",
        "inputs/records/no-value.json",
        "fixtures/schema-1/record.json",
    ];
    let guard = exclusive();
    let (base, calibration) = (inputs::record("base"), inputs::records::calibration());
    drop(guard);
    let policy = Policy::default();
    Reader::of("record.json", &files, Mutator::json).run(1, Record::load, |record| {
        for (baseline, current) in [(&base, record), (record, &base)] {
            let release = Some(baseline);
            let calibration = Some(&calibration);
            render(&judge(ReferenceData { baseline, release, calibration }, current, &policy));
        }
        let gap = Duration::from_secs(1);
        let _ = baseline::combine(&[base.clone(), record.clone()]);
        let _ = baseline::promote(&[base.clone(), record.clone()], gap);
        assert!(!record.to_json().is_empty());
    });
}

#[test]
fn results_of_other_tools_are_read_judged_and_rendered() {
    let guard = exclusive();
    let baselines: Vec<Record> = inputs::results::all()
        .into_iter()
        .map(|(name, text)| {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&path, text).unwrap();
            Record::load(&path).unwrap()
        })
        .collect();
    drop(guard);
    let policy = Policy::default();
    for name in
        ["vllm.json", "guidellm.json", "aiperf.json", "llama-bench.json", "llama-bench.jsonl"]
    {
        let file = format!("inputs/results/{name}");
        Reader::of(name, &[&file], Mutator::json).run(2, Record::load, |record| {
            for baseline in &baselines {
                let (release, calibration) = (None, None);
                render(&judge(ReferenceData { baseline, release, calibration }, record, &policy));
            }
            let _ = baseline::combine(&[record.clone(), record.clone()]);
            let _ = Analysis::of(record);
            report::csv(record);
            let _ = report::benchmark_json(record, None);
            report::comparison_markdown(&[("a".into(), record.clone())]);
            assert!(!record.to_json().is_empty());
        });
    }
}

#[test]
fn records_are_rendered_in_every_format() {
    let files = ["inputs/records/everything.json", "inputs/records/after.json"];
    let targets = Targets::builtin();
    Reader::of("shown.json", &files, Mutator::json).run(20, Record::load, |record| {
        let _ = Analysis::of(record);
        report::csv(record);
        let _ = report::row(record, None);
        let _ = report::benchmark_json(record, None);
        report::prometheus(record);
        report::comparison_markdown(&[("a".into(), record.clone()), ("b".into(), record.clone())]);
        report::comparison_json(&[("a".into(), record.clone())]);
        for lang in [Lang::En, Lang::Fr, Lang::Ko] {
            let options = ReportOptions { lang, targets: &targets };
            report::markdown(record, options, Some("charts"));
        }
        report::page(record, None).unwrap();
    });
}

#[test]
fn pairs_are_read_and_judged() {
    let files = [
        "inputs/pairs/regressed.json",
        "inputs/pairs/rejected.json",
        "inputs/pairs/new-and-missing.json",
        "inputs/pairs/interrupted.json",
        "fixtures/schema-1/pair.json",
    ];
    let policy = Policy::default();
    Reader::of("pair.json", &files, Mutator::json).run(1, PairRecord::load, |pair| {
        let judgement = paired::judge(pair, &policy);
        render(&judgement);
        report::pair_page(pair, &judgement, "candlemark pair").unwrap();
    });
}

#[test]
fn pools_are_read_and_replayed() {
    let rules = evaluate::rules(&["ours".into()]).unwrap();
    let plan = ReplayPlan { runs: 1, seed: 1, rules };
    Reader::of("pool.json", &["inputs/pool.json"], Mutator::json).run(20, Pool::load, |pool| {
        let _ = evaluate::evaluate(std::slice::from_ref(pool), &plan);
        let _ = evaluate::calibrate(pool, 0.05);
    });
}

#[test]
fn calibrations_are_read() {
    let file = &format!("inputs/{}", inputs::CALIBRATION);
    Reader::of("calibration.json", &[file], Mutator::json).run(1, Calibration::load, |one| {
        report::calibration_text(one);
    });
}

#[test]
fn settings_and_targets_are_read() {
    let read = |path: &Path| Config::read(Some(path), std::iter::empty());
    let config = ["inputs/removed.toml", "inputs/critical.toml"];
    Reader::of("candlemark.toml", &config, Mutator::bytes).run(1, read, |config| {
        let _ = Policy::new(&config.gate);
    });
    let targets = ["fixtures/targets.toml"];
    Reader::of("targets.toml", &targets, Mutator::bytes).run(1, Targets::load, |_| {});
}
