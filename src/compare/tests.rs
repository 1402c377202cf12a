//! Verdicts on literal numbers, and the records that other tests use.

use super::*;
use crate::record::{
    Absence, AbsenceKind, Block, Build, Case, Machine, Model, RecordKind, SCHEMA, Session,
    Settings, Work,
};
use crate::settings::GateConfig;
use crate::workload::Better;

mod simulation;

/// A scenario's id and, by metric, the block values of each session.
pub(crate) type ScenarioBlocks<'a> = (&'a str, &'a [(&'a str, &'a [&'a [f64]])]);

/// A record of these scenarios.
pub(crate) fn record(scenarios: &[ScenarioBlocks]) -> Record {
    let cases: Vec<Case> = scenarios.iter().map(|(id, metrics)| case(id, metrics)).collect();
    let sessions = scenarios
        .iter()
        .flat_map(|(_, metrics)| metrics.iter().map(|(_, sessions)| sessions.len()))
        .max();
    Record {
        schema: SCHEMA,
        kind: RecordKind::Run,
        sessions: (0..sessions.unwrap_or(1))
            .map(|i| Session {
                id: format!("2026070{}T000000Z-0123456", i + 1),
                started: format!("2026-07-0{}T00:00:00Z", i + 1),
                ended: None,
                command: vec!["candlemark".into(), "run".into()],
                harness: "run".into(),
                conditions: Vec::new(),
            })
            .collect(),
        build: Build {
            version: "0.1.0".into(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            dirty: Some(false),
            profile: "release".into(),
            rustc: "rustc 1.95.0".into(),
            ..Build::default()
        },
        machine: Machine {
            class: "amd-epyc-2cpu-1f3a90c2".into(),
            fields: [("cpu", "EPYC"), ("os", "linux"), ("threads", "2")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            ..Machine::default()
        },
        model: Model {
            spec: "synthetic:mini".into(),
            sha256: "ab".repeat(32),
            quant: "f32".into(),
            kv_dtype: "f32".into(),
            parameters: 62_000_000,
            ..Model::default()
        },
        settings: Settings {
            engine: "native".into(),
            device: "cpu".into(),
            threads: 2,
            ..Settings::default()
        },
        injected: None,
        scenarios: cases,
        not_selected: Vec::new(),
    }
}

pub(super) fn case(id: &str, metrics: &[(&str, &[&[f64]])]) -> Case {
    let batch = id.rsplit_once("/b").map_or(1, |(_, batch)| batch.parse().unwrap());
    let shape: Vec<usize> = metrics
        .first()
        .map_or(Vec::new(), |(_, sessions)| sessions.iter().map(|s| s.len()).collect());
    let mut blocks = Vec::new();
    for (session, count) in shape.iter().enumerate() {
        for i in 0..*count {
            let values = metrics
                .iter()
                .map(|(name, sessions)| (name.to_string(), Some(sessions[session][i])));
            let session = format!("2026070{}T000000Z-0123456", session + 1);
            blocks.push(Block { session, values: values.collect(), ..Block::default() });
        }
    }
    Case {
        id: id.into(),
        work: Work {
            batch,
            prompt_tokens: vec![16; batch],
            new_tokens: 16,
            stop: "length".into(),
            ..Work::default()
        },
        output_sha256: Some("cd".repeat(32)),
        blocks,
        ..Case::default()
    }
}

const STEADY: &[&[f64]] = &[&[100.0, 101.0, 99.0], &[100.5, 99.5, 100.0], &[99.8, 100.2, 100.1]];

fn verdict_of(base: &[&[f64]], now: &[&[f64]]) -> Verdict {
    let (base, now) = (
        record(&[("code/b1", &[("decode_tok_s", base)])]),
        record(&[("code/b1", &[("decode_tok_s", now)])]),
    );
    let judgement = judge(&base, &now, &Policy::default());
    assert_eq!(judgement.findings.len(), 1);
    judgement.findings[0].verdict.clone()
}

#[test]
fn a_regression_is_significant_and_large() {
    let regressed = |proven, critical| Verdict::Regressed { proven, critical };
    for (now, expected) in [
        ([100.0, 100.5, 99.5], Verdict::Pass),
        ([97.3, 97.0, 97.6], Verdict::SlowerWithin),
        ([106.0, 107.0, 105.0], Verdict::Improved),
        ([94.5, 94.0, 95.0], regressed(false, false)),
        ([92.0, 91.0, 91.5], regressed(true, false)),
        ([80.0, 81.0, 79.0], regressed(true, true)),
        ([95.6, 95.4, 95.8], Verdict::Undecided(Why::Borderline)),
        ([93.0, 80.0, 106.0], Verdict::Undecided(Why::Noisy)),
    ] {
        assert_eq!(verdict_of(STEADY, &[&now]), expected, "{now:?}");
    }
}

#[test]
fn a_baseline_of_few_sessions_never_fails() {
    let uncalibrated = Verdict::Undecided(Why::Uncalibrated);
    assert_eq!(verdict_of(&STEADY[..1], &[&[50.0, 50.1, 49.9]]), uncalibrated);
    assert_eq!(
        verdict_of(&STEADY[..2], &[&[100.0, 100.1, 99.9]]),
        uncalibrated,
        "an sd of 3 % cannot exclude a slowdown of 5 %"
    );
    assert_eq!(verdict_of(&STEADY[..1], &[&[150.0, 150.1, 149.9]]), Verdict::Improved);
    assert_eq!(verdict_of(&[&[100.0]], &[&[50.0]]), Verdict::Undecided(Why::TooFewBlocks));
}

#[test]
fn one_block_a_session_is_calibrated_by_the_sessions() {
    let eight: &[&[f64]] =
        &[&[100.0], &[101.0], &[99.0], &[100.5], &[99.5], &[100.2], &[99.8], &[100.1]];
    assert_eq!(verdict_of(eight, &[&[100.3]]), Verdict::Pass);
    assert_eq!(verdict_of(eight, &[&[85.0]]), Verdict::Regressed { proven: true, critical: true });
}

#[test]
fn memory_that_repeats_to_the_byte_is_judged() {
    let flat: &[&[f64]] = &[[1e9, 1e9, 1e9].as_slice(); 3];
    let judged = |now: f64| {
        let (base, now) = (
            record(&[("code/b1", &[("peak_rss_bytes", flat)])]),
            record(&[("code/b1", &[("peak_rss_bytes", &[&[now; 3]])])]),
        );
        judge(&base, &now, &Policy::default()).findings.remove(0)
    };
    assert_eq!(judged(1e9).verdict, Verdict::Pass);
    assert!(judged(1e9).change.unwrap().evidence.unwrap().standard_error > 0.004);
    assert_eq!(judged(1.2e9).verdict, Verdict::Regressed { proven: true, critical: false });
}

#[test]
fn a_share_has_the_metrics_own_sign() {
    for (better, limit, theta) in [
        (Better::Higher, 0.05, 0.05129),
        (Better::Lower, 0.10, 0.09531),
        (Better::Lower, 0.15, 0.13976),
    ] {
        assert!((margin(better, limit) - theta).abs() < 1e-5);
    }
    assert!((share(Better::Higher, margin(Better::Higher, 0.05)) + 0.05).abs() < 1e-12);
    assert!((share(Better::Lower, margin(Better::Lower, 0.10)) - 0.10).abs() < 1e-12);
}

#[test]
fn another_machine_model_or_setting_is_not_compared() {
    let base = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    let blocking = |change: fn(&mut Record)| {
        let mut now = base.clone();
        change(&mut now);
        let judgement = judge(&base, &now, &Policy::default());
        assert_eq!(judgement.outcome, Outcome::NotComparable);
        assert!(judgement.findings.is_empty());
        judgement.differences.into_iter().map(|d| d.field).collect::<Vec<_>>()
    };
    let fields = blocking(|r| {
        r.machine.class = "other".into();
        r.machine.fields.insert("cpu".into(), "Xeon".into());
    });
    assert_eq!(fields, ["machine class", "machine: cpu"]);
    assert_eq!(blocking(|r| r.model.quant = "q8_0".into()), ["model: quant"]);
    assert_eq!(blocking(|r| r.model.kv_dtype = "q8_0".into()), ["model: kv_dtype"]);
    assert_eq!(
        blocking(|r| r.settings.generation.use_kv_cache = false),
        ["settings: use_kv_cache"]
    );
    let mut broken = base.clone();
    broken.machine.class = "other".into();
    broken.scenarios[0].absent = Some(Absence::new(AbsenceKind::Failed, "crash"));
    assert_eq!(judge(&base, &broken, &Policy::default()).outcome, Outcome::Failed);
    let mut slow = base.clone();
    slow.injected = Some("decode:0.1".into());
    assert_eq!(judge(&slow, &base, &Policy::default()).outcome, Outcome::NotComparable);
    let judgement = judge(&base, &slow, &Policy::default());
    assert_eq!(judgement.outcome, Outcome::Pass);
    assert!(judgement.notes[0].contains("slowed down on purpose: decode:0.1"));
}

#[test]
fn rates_of_the_machine_are_compared_where_they_were_measured_alike() {
    let mut base = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    let mut now = base.clone();
    base.machine.rates.f32_flop_per_s = Some(100.0);
    (now.machine.rates.f32_flop_per_s, now.machine.rates.isa) = (Some(150.0), Some("avx2".into()));
    let notes = |base: &Record, now: &Record| -> Vec<String> {
        let notes = judge(base, now, &Policy::default()).notes;
        notes
            .into_iter()
            .filter(|note| note.contains("since the baseline: the machine changed"))
            .collect()
    };
    assert_eq!(notes(&base, &now), [""; 0], "the older rate is that of a GEMM");
    base.machine.rates.isa = now.machine.rates.isa.clone();
    base.machine.rates.read_huge_bytes_per_s = Some(40.0);
    now.machine.rates.read_huge_bytes_per_s = Some(30.0);
    let notes = notes(&base, &now);
    assert!(notes[0].contains("read rate with huge pages changed by -25 %"), "{notes:?}");
    assert!(notes[1].contains("f32 rate changed by +50 %") && notes.len() == 2, "{notes:?}");
    (base.model.isa, now.model.isa) = (None, Some("avx2".into()));
    assert_eq!(judge(&base, &now, &Policy::default()).differences, [], "an older record has none");
    base.model.isa = Some("portable".into());
    let judgement = judge(&base, &now, &Policy::default());
    assert_eq!(judgement.outcome, Outcome::Pass, "the tier may be the change that is judged");
    assert_eq!(judgement.differences[0].field, "model: isa");
}

#[test]
fn an_alias_of_the_class_is_allowed_and_shown() {
    let base = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    let mut now = base.clone();
    now.machine.class = "other".into();
    let allow_class = [("other".to_owned(), base.machine.class.clone())].into();
    let judgement = judge(&base, &now, &Policy { allow_class, ..Policy::default() });
    assert_eq!(judgement.outcome, Outcome::Pass);
    assert_eq!(judgement.differences[0].field, "machine class");
}

#[test]
fn scenarios_that_cannot_be_compared_are_named() {
    let scenarios: &[ScenarioBlocks] =
        &[("a/b1", &[("decode_tok_s", STEADY)]), ("b/b1", &[("decode_tok_s", STEADY)])];
    let base = record(scenarios);
    let whole_scenario = |change: fn(&mut Record)| {
        let mut now = base.clone();
        change(&mut now);
        let judgement = judge(&base, &now, &Policy::default());
        (
            judgement.findings.iter().find(|f| f.metric.is_none()).unwrap().verdict.clone(),
            judgement.outcome,
        )
    };
    assert_eq!(
        whole_scenario(|r| r.scenarios[1].output_sha256 = Some("00".into())),
        (Verdict::OutputChanged(None), Outcome::Failed)
    );
    assert_eq!(
        whole_scenario(|r| r.scenarios[1].validity.failed.push("ttft is 0".into())),
        (Verdict::Invalid("ttft is 0".into()), Outcome::Failed)
    );
    assert_eq!(
        whole_scenario(|r| r.scenarios[1].work.new_tokens = 8),
        (Verdict::NotComparable("new_tokens was 16 and is 8".into()), Outcome::NotComparable)
    );
    let mut now = base.clone();
    now.scenarios.clear();
    assert_eq!(
        judge(&base, &now, &Policy::default()).outcome,
        Outcome::NotComparable,
        "nothing was compared"
    );
}

#[test]
fn a_run_of_schema_1_does_not_say_what_was_not_selected() {
    let scenarios: &[ScenarioBlocks] =
        &[("a/b1", &[("decode_tok_s", STEADY)]), ("b/b1", &[("decode_tok_s", STEADY)])];
    let base = record(scenarios);
    let mut now = base.clone();
    now.scenarios.pop();
    let note = |now: &Record| {
        let judgement = judge(&base, now, &Policy::default());
        assert_eq!(judgement.outcome, Outcome::NotComparable);
        judgement.notes.iter().any(|note| note.contains("(records of schema 1 never do)"))
    };
    assert!(note(&now));
    now.not_selected = vec!["grid/S1".into()];
    assert!(!note(&now), "this run says it, and `b/b1` is not listed");
}

#[test]
fn a_removed_scenario_that_is_still_measured_is_noted() {
    let base = record(&[("a/b1", &[("decode_tok_s", STEADY)])]);
    let removed = [("a/b1".to_owned(), "merged".to_owned()), ("b/b1".into(), "old".into())];
    let policy = Policy { removed: removed.into(), ..Policy::default() };
    let judgement = judge(&base, &base, &policy);
    assert_eq!(judgement.outcome, Outcome::Pass);
    let notes: Vec<&String> =
        judgement.notes.iter().filter(|note| note.contains("listed as removed")).collect();
    assert_eq!(notes, ["`a/b1` is listed as removed but still measured"]);
}

#[test]
fn a_policy_refuses_unknown_names() {
    let config = |text: &str| toml::from_str::<GateConfig>(text).unwrap();
    let error = Policy::new(&config("limits = { decode_toks = 0.1 }")).unwrap_err().to_string();
    assert!(error.contains("did you mean `decode_tok_s`?"), "{error}");
    assert!(Policy::new(&config("limits = { ttft_s = 10.0 }")).is_err());
    assert!(Policy::new(&config("fail_on = \"never\"")).is_err());
    assert_eq!(Policy::new(&config("fail_on = \"critical\"")).unwrap().fail_on, FailOn::Critical);
    let error = Policy::new(&config("removed = { \"a/b1\" = \" \" }")).unwrap_err().to_string();
    assert_eq!(error, "removed scenario `a/b1` has no reason; say why it is gone");
    let policy = Policy::new(&config("removed = { \"a/b1\" = \"merged\" }")).unwrap();
    assert_eq!(policy.removed["a/b1"], "merged");
}

#[test]
fn with_fail_on_critical_only_a_critical_regression_fails() {
    let base = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    let critical = Policy { fail_on: FailOn::Critical, ..Policy::default() };
    for (speed, outcome) in [(91.5, Outcome::Pass), (80.0, Outcome::Regression)] {
        let now =
            record(&[("code/b1", &[("decode_tok_s", &[&[speed, speed + 0.5, speed - 0.5]])])]);
        assert_eq!(judge(&base, &now, &critical).outcome, outcome);
    }
}
