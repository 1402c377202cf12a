//! Reference kernels, calibrations and releases beside a baseline, on literal numbers.

use super::*;
use crate::compare::tests::record;
use crate::compare::{Finding, Judgement, Outcome, ReferenceData, judge, share};
use crate::record::calibration::{CalibrationKind, CalibrationSession, MachineId, ModelId};
use crate::record::{Caveat, KernelTimes, calibration};
use crate::workload::Better;

const STEADY: &[&[f64]] = &[&[100.0, 101.0, 99.0], &[100.5, 99.5, 100.0], &[99.8, 100.2, 100.1]];
const SAME: &[&[f64]] = &[&[100.0, 100.5, 99.5]];
const SLOW: &[&[f64]] = &[&[92.0, 92.5, 91.5]];

fn decode(blocks: &[&[f64]]) -> Record {
    record(&[("code/b1", &[("decode_tok_s", blocks)])])
}

/// Gives each block the reference kernels, which take the same time before and after.
fn with_kernels(mut record: Record, stream_s: &[f64]) -> Record {
    for case in &mut record.scenarios {
        for (block, stream_s) in case.blocks.iter_mut().zip(stream_s.iter().cycle()) {
            let one = KernelTimes { compute_s: 0.001, stream_s: *stream_s, dispatch_s: 0.002 };
            block.references = Some([one; 2]);
        }
    }
    record
}

fn decide(base: &Record, now: &Record) -> (Finding, Judgement) {
    let mut judgement = judge(base, now, &Policy::default());
    (judgement.findings.remove(0), judgement)
}

#[test]
fn a_verdict_that_the_machine_explains_is_withdrawn() {
    let base = with_kernels(decode(STEADY), &[0.005]);
    let drifted = Verdict::Undecided(Why::Drifted);
    let regressed = Verdict::Regressed { proven: true, critical: false };
    for (now, stream_s, verdict, normalized) in [
        (SLOW, [0.005].as_slice(), regressed.clone(), 0.0834),
        (SLOW, &[0.0054], drifted.clone(), 0.0064), // Memory is 8 % slower, too.
        (SAME, &[0.005], Verdict::Pass, 0.0),
        (SAME, &[0.0046], drifted.clone(), 0.0834), // Memory is 8 % faster, and decoding is not.
        (SAME, &[0.0053], Verdict::Pass, -0.0583),
        // Noisy kernels withdraw no verdict by their noise alone.
        (SAME, &[0.0046, 0.005, 0.0055], Verdict::Pass, 0.0),
        (SLOW, &[0.0046, 0.005, 0.0055], regressed, 0.0834),
        (SLOW, &[0.0051, 0.0054, 0.0062], drifted, 0.0064),
    ] {
        let (finding, judgement) = decide(&base, &with_kernels(decode(now), stream_s));
        assert_eq!(finding.verdict, verdict, "{now:?} {stream_s:?}");
        let change = finding.change.unwrap();
        let found = change.normalized.unwrap();
        assert!((found - normalized).abs() < 0.006, "{stream_s:?}: {found}");
        let undecided = matches!(verdict, Verdict::Undecided(_));
        assert_eq!(judgement.outcome == Outcome::Undecided, undecided);
    }
}

#[test]
fn a_metric_is_normalized_only_if_every_block_has_the_kernels() {
    let (base, now) = (decode(STEADY), decode(SLOW));
    let kernels = |record: &Record| with_kernels(record.clone(), &[0.0054]);
    let mut holed = kernels(&now);
    holed.scenarios[0].blocks[1].references = None;
    let mut zero = kernels(&now);
    zero.scenarios[0].blocks[1].references.as_mut().unwrap()[1].dispatch_s = 0.0;
    for (base, now) in
        [(&base, &kernels(&now)), (&kernels(&base), &holed), (&kernels(&base), &zero)]
    {
        let finding = decide(base, now).0;
        assert!(matches!(finding.verdict, Verdict::Regressed { .. }), "{:?}", finding.verdict);
        assert_eq!(finding.change.unwrap().normalized, None);
    }
    let memory = |bytes: f64| record(&[("code/b1", &[("peak_rss_bytes", &[&[bytes; 9]])])]);
    let finding = decide(&kernels(&memory(1e9)), &kernels(&memory(1e9))).0;
    assert_eq!(finding.change.unwrap().normalized, None, "memory depends on no kernel");
}

#[test]
fn a_kernel_that_changed_is_noted() {
    let base = with_kernels(decode(STEADY), &[0.005]);
    let notes = |stream_s| decide(&base, &with_kernels(decode(SAME), &[stream_s])).1.notes;
    let kernel_note =
        |notes: Vec<String>| notes.into_iter().find(|note| note.contains("reference kernel"));
    assert_eq!(kernel_note(notes(0.0054)), None, "8 % get no note");
    let note = kernel_note(notes(0.006)).unwrap();
    assert!(note.contains("reading memory takes 20 % more time"), "{note}");
}

#[test]
fn memory_of_a_shared_process_is_not_that_of_a_fresh_one() {
    let of = |shared| {
        let steady: &[&[f64]] =
            &[&[2e9, 2.01e9, 1.99e9], &[2e9, 2.0e9, 1.99e9], &[2.01e9, 2e9, 2e9]];
        let mut record =
            record(&[("code/b1", &[("decode_tok_s", STEADY), ("peak_rss_bytes", steady)])]);
        for block in &mut record.scenarios[0].blocks {
            if shared {
                block.caveats.insert("peak_rss_bytes".into(), Caveat::SharedProcess);
            }
        }
        record
    };
    let (fresh, shared) = (of(false), of(true));
    for (base, now) in [(&fresh, &shared), (&shared, &fresh)] {
        let judgement = judge(base, now, &Policy::default());
        let [decode, memory] = judgement.findings.as_slice() else { panic!("two") };
        assert_eq!(decode.verdict, Verdict::Pass, "rates are compared");
        assert_eq!(memory.metric.unwrap().name, "peak_rss_bytes");
        assert_eq!(memory.verdict, Verdict::NotComparable(SHARED.into()));
        assert_eq!(judgement.outcome, Outcome::NotComparable);
    }
    for one in [&fresh, &shared] {
        let judgement = judge(one, one, &Policy::default());
        assert_eq!(judgement.findings[1].verdict, Verdict::Pass);
    }
}

#[test]
fn an_impossible_value_never_passes() {
    let base = decode(STEADY);
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let (finding, judgement) = decide(&base, &decode(&[&[100.0, value, 100.0]]));
        assert!(matches!(finding.verdict, Verdict::Invalid(_)), "{value}: {:?}", finding.verdict);
        assert_eq!((judgement.outcome, judgement.judged), (Outcome::Failed, 0));
        let (finding, judgement) = decide(&decode(&[&[100.0, value, 100.0]]), &base);
        assert!(matches!(finding.verdict, Verdict::NotComparable(_)), "{value}");
        assert_eq!(judgement.outcome, Outcome::NotComparable);
    }
}

fn calibration(sd: f64, freedom: f64) -> Calibration {
    let of = decode(STEADY);
    let spread =
        || ["decode", "memory"].map(|kind| (kind.to_owned(), SdEstimate { sd, freedom })).into();
    Calibration {
        schema: calibration::SCHEMA,
        kind: CalibrationKind::Calibration,
        machine: MachineId { class: of.machine.class, fields: of.machine.fields },
        model: ModelId { spec: of.model.spec, sha256: of.model.sha256, quant: of.model.quant },
        commit: of.build.commit,
        sessions: [1, 2, 3]
            .map(|day| CalibrationSession {
                started: format!("2026-07-0{day}T00:00:00Z"),
                ..CalibrationSession::default()
            })
            .into(),
        layout_sd: spread(),
        session_sd: spread(),
        floors: Vec::new(),
    }
}

#[test]
fn a_calibration_decides_where_the_baseline_alone_cannot() {
    let judged = |base: &[&[f64]], now: &[&[f64]], calibration: Option<&Calibration>| {
        let baseline = decode(base);
        let reference = ReferenceData { baseline: &baseline, release: None, calibration };
        let judgement = judge(reference, &decode(now), &Policy::default());
        (judgement.findings[0].verdict.clone(), judgement.notes)
    };
    // Nine blocks of one session.
    let one: &[&[f64]] = &[&[100.0, 101.0, 99.0, 100.5, 99.5, 100.0, 99.8, 100.2, 100.1]];
    let quiet = calibration(0.005, 10.0);
    assert_eq!(judged(one, &[&[85.0; 3]], None).0, Verdict::Undecided(Why::Uncalibrated));
    let (verdict, notes) = judged(one, &[&[85.0; 3]], Some(&quiet));
    assert_eq!(verdict, Verdict::Regressed { proven: true, critical: true });
    assert_eq!(notes.last().unwrap(), "calibrated on 2026-07-03 from 3 sessions");
    // One degree of freedom is too few for sessions.
    let weak = calibration(0.005, 1.0);
    assert_eq!(judged(one, &[&[85.0; 3]], Some(&weak)).0, Verdict::Undecided(Why::Uncalibrated));
    // Large variances between sessions and layouts withdraw the pass of three sessions that agreed.
    assert_eq!(judged(STEADY, SAME, None).0, Verdict::Pass);
    let noisy = calibration(0.04, 20.0);
    assert_eq!(judged(STEADY, SAME, Some(&noisy)).0, Verdict::Undecided(Why::Noisy));
    // Too few blocks neither pass nor fail, however well sessions are known.
    for now in [100.0, 50.0] {
        let verdict = judged(&[&[100.0, 100.1, 99.9]], &[&[now, now, now]], Some(&noisy)).0;
        assert!(matches!(verdict, Verdict::Undecided(_)), "{now}: {verdict:?}");
    }
    let mut foreign = quiet.clone();
    foreign.machine.class = "other".into();
    let (verdict, notes) = judged(one, &[&[85.0; 3]], Some(&foreign));
    assert_eq!(verdict, Verdict::Undecided(Why::Uncalibrated));
    assert!(
        notes.contains(&"the calibration is of another machine or model and is not used".into())
    );
}

/// Three sessions of three blocks at some speed.
fn sessions(speed: f64) -> Record {
    let blocks: Vec<Vec<f64>> =
        STEADY.iter().map(|session| session.iter().map(|value| value * speed).collect()).collect();
    let sessions: Vec<&[f64]> = blocks.iter().map(Vec::as_slice).collect();
    let mut record = decode(&sessions);
    record.sessions[0].id = format!("at {speed}");
    record
}

#[test]
fn ten_small_steps_that_each_pass_are_reported_as_drift_since_the_release() {
    let release = sessions(1.0);
    let mut rolling = release.clone();
    let mut last = None;
    for step in 1..=10 {
        let now = sessions(0.99_f64.powi(step));
        let reference =
            ReferenceData { baseline: &rolling, release: Some(&release), calibration: None };
        let judgement = judge(reference, &now, &Policy::default());
        assert_eq!(judgement.outcome, Outcome::Pass, "step {step}");
        assert_eq!(judgement.drift.is_empty(), step <= 5, "step {step}: {:?}", judgement.drift);
        last = judgement.drift.into_iter().next();
        rolling = now;
    }
    let drift = last.unwrap();
    let (scenario, metric) = (drift.scenario.as_str(), drift.metric.name);
    assert_eq!((scenario, metric, drift.limit), ("code/b1", "decode_tok_s", 0.05));
    assert!((share(Better::Higher, drift.theta) + 0.0956).abs() < 1e-4, "{drift:?}");
    assert!(!drift.warns, "9.6 % is not beyond twice the limit");
    let now = sessions(0.89);
    let reference =
        ReferenceData { baseline: &rolling, release: Some(&release), calibration: None };
    let judgement = judge(reference, &now, &Policy::default());
    assert!(judgement.drift[0].warns);
    assert_eq!(judgement.outcome, Outcome::Pass, "a warning decides nothing");
}

#[test]
fn a_release_that_cannot_be_compared_is_noted_and_one_that_equals_the_baseline_is_not() {
    let (rolling, now) = (sessions(1.0), sessions(0.8));
    let mut release = sessions(1.1);
    release.model.quant = "q8_0".into();
    let judged = |release: &Record| {
        let reference =
            ReferenceData { baseline: &rolling, release: Some(release), calibration: None };
        judge(reference, &now, &Policy::default())
    };
    let judgement = judged(&release);
    assert!(judgement.drift.is_empty());
    let note = "drift since the release is not known: model: quant was `q8_0` and is `f32`";
    assert!(judgement.notes.iter().any(|one| one == note), "{:?}", judgement.notes);
    assert!(judged(&rolling).drift.is_empty(), "the change itself shows it already");
}

#[test]
fn a_renamed_scenario_is_recognized_by_its_work() {
    let mut base = decode(STEADY);
    base.scenarios[0].work.prompts_sha256 = "ab".repeat(32);
    let mut now = base.clone();
    now.scenarios[0].id = "program/b1".into();
    now.sessions[0].id = "another".into();
    now.not_selected = vec!["grid/S1".into()];
    let notes = |now: &Record| judge(&base, now, &Policy::default()).notes;
    assert_eq!(notes(&now)[1..], ["`program/b1` looks like `code/b1` under a new name"]);
    let verdicts: Vec<Verdict> = judge(&base, &now, &Policy::default())
        .findings
        .into_iter()
        .map(|finding| finding.verdict)
        .collect();
    let missing = Verdict::Missing(GONE.into());
    assert_eq!(verdicts, [Verdict::New, missing], "it is still both");
    now.scenarios[0].work.new_tokens = 8;
    assert_eq!(notes(&now).len(), 1, "{:?}", notes(&now));
}
