//! Small records of literal numbers: a run, its changes, a baseline and a calibration.

use candlemark::machine::SESSION_GAP;
use candlemark::record::calibration::{
    Calibration, CalibrationKind, CalibrationSession, MachineId, ModelId, NoiseFloor, SdEstimate,
};
use candlemark::record::{
    Absence, AbsenceKind, Block, Build, Case, KernelTimes, Machine, Model, Record, RecordKind,
    SCHEMA, Session, Settings, Work,
};

/// A run of two scenarios in three blocks with small deviations.
pub fn run(day: usize) -> Record {
    let id = format!("2026070{day}T120000Z-0123456");
    let mut record = Record {
        schema: SCHEMA,
        kind: RecordKind::Run,
        sessions: vec![Session {
            id: id.clone(),
            started: format!("2026-07-0{day}T12:00:00Z"),
            ended: Some(format!("2026-07-0{day}T12:05:00Z")),
            command: vec!["candlemark".into(), "run".into()],
            harness: "run".into(),
            conditions: Vec::new(),
        }],
        build: Build {
            version: "0.1.0".into(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            dirty: Some(false),
            rustc: "rustc 1.95.0".into(),
            profile: "release".into(),
            target: "x86_64-unknown-linux-gnu".into(),
            ..Build::default()
        },
        machine: Machine {
            class: "amd-epyc-2cpu-1f3a90c2".into(),
            fields: [("cpu", "AMD EPYC"), ("cpus", "2"), ("os", "linux")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..Machine::default()
        },
        model: Model {
            spec: "synthetic:mini".into(),
            architecture: "qwen3".into(),
            sha256: "5e".repeat(32),
            parameters: 62_000_000,
            weight_bytes: 248_000_000,
            quant: "f32".into(),
            kv_dtype: "f32".into(),
            ..Model::default()
        },
        settings: Settings {
            engine: "native".into(),
            device: "cpu".into(),
            threads: 2,
            ..Settings::default()
        },
        injected: None,
        scenarios: Vec::new(),
        not_selected: Vec::new(),
    };
    let (wobble, drift) = ([1.0, 1.01, 0.99], [1.0, 1.005, 0.995][day % 3]);
    for (scenario, batch, decode, rate, ttft, peak) in [
        ("code/b1", 1, "decode_tok_s", 40.0, 0.250, 3.0e8),
        ("code/b4", 4, "decode_tok_s_aggregate", 90.0, 0.900, 3.5e8),
    ] {
        let blocks = wobble.map(|off| {
            let values = [
                (decode, rate * off * drift),
                ("ttft_s", ttft / off / drift),
                ("peak_rss_bytes", peak),
            ];
            let values = values.map(|(metric, value)| (metric.to_owned(), Some(value)));
            Block { session: id.clone(), values: values.into(), ..Block::default() }
        });
        record.scenarios.push(Case {
            id: scenario.into(),
            work: Work {
                batch,
                prompt_tokens: vec![64; batch],
                new_tokens: 32,
                prompts_sha256: "ab".repeat(32),
                stop: "length".into(),
                ..Work::default()
            },
            output_sha256: Some("cd".repeat(32)),
            blocks: blocks.into(),
            ..Case::default()
        });
    }
    record
}

/// Multiplies every value of a metric.
fn times(record: &mut Record, metric: &str, factors: [f64; 3]) {
    for case in &mut record.scenarios {
        for (block, factor) in case.blocks.iter_mut().zip(factors) {
            if let Some(Some(value)) = block.values.get_mut(metric) {
                *value *= factor;
            }
        }
    }
}

fn times_all(record: &mut Record, metric: &str, factor: f64) {
    for block in record.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
        if let Some(Some(value)) = block.values.get_mut(metric) {
            *value *= factor;
        }
    }
}

/// Adds reference kernels to each block; reading memory takes `stream_s`.
fn with_kernels(mut record: Record, stream_s: f64) -> Record {
    for block in record.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
        let one = KernelTimes { compute_s: 0.0013, stream_s, dispatch_s: 0.002 };
        block.references = Some([one; 2]);
    }
    record
}

/// The calibration of the machine of the records.
pub fn calibration() -> Calibration {
    let of = run(3);
    let spread = |sd| SdEstimate { sd, freedom: 9.0 };
    let kinds = |sd: [f64; 3]| {
        let kinds = ["decode", "ttft", "memory"].into_iter().zip(sd);
        kinds.map(|(kind, sd)| (kind.to_owned(), spread(sd))).collect()
    };
    let floor = |metric: &str| NoiseFloor {
        scenario: "code/b1".into(),
        metric: metric.into(),
        within_sd: Some(0.01),
        block_sd: 0.015,
        smallest_at: [(8, 0.027), (16, 0.018)].into(),
    };
    Calibration {
        schema: candlemark::record::calibration::SCHEMA,
        kind: CalibrationKind::Calibration,
        machine: MachineId { class: of.machine.class, fields: of.machine.fields },
        model: ModelId { spec: of.model.spec, sha256: of.model.sha256, quant: of.model.quant },
        commit: of.build.commit,
        sessions: [1, 2, 3]
            .map(|day| run(day).sessions.remove(0))
            .map(|one| CalibrationSession { id: one.id, started: one.started, ended: one.ended })
            .into(),
        layout_sd: kinds([0.003, 0.004, 0.0]),
        session_sd: kinds([0.006, 0.008, 0.001]),
        floors: vec![floor("decode_tok_s"), floor("ttft_s")],
    }
}

fn changed(change: impl FnOnce(&mut Record)) -> Record {
    let mut record = run(4);
    change(&mut record);
    record
}

/// Replaces the blocks of a scenario by a reason for their absence.
fn absent(record: &mut Record, at: usize, kind: AbsenceKind, why: &str) {
    record.scenarios[at].absent = Some(Absence::new(kind, why));
    record.scenarios[at].blocks.clear();
}

/// Every record by file name.
pub fn all() -> Vec<(&'static str, Record)> {
    let sessions = [run(1), run(2), run(3)];
    let base = candlemark::baseline::promote(&sessions, SESSION_GAP).unwrap();
    let kernels = sessions.clone().map(|record| with_kernels(record, 0.005));
    let mut release = base.clone();
    release.sessions[0].id = "20260601T120000Z-0abcdef".into();
    times_all(&mut release, "decode_tok_s", 1.08);
    times_all(&mut release, "decode_tok_s_aggregate", 1.2);
    let [one, two, three] = sessions;
    vec![
        ("everything", super::everything::everything()),
        ("rolling", base.clone()),
        ("rolling.release", release),
        ("kernels", candlemark::baseline::promote(&kernels, SESSION_GAP).unwrap()),
        (
            "drifted",
            changed(|record| {
                *record = with_kernels(record.clone(), 0.0056);
                times(record, "decode_tok_s", [0.9; 3]);
            }),
        ),
        ("session-1", one),
        ("session-2", two),
        ("session-3", three),
        ("base", base),
        ("same", run(4)),
        ("again", run(5)),
        ("slower", changed(|record| times(record, "decode_tok_s", [0.92; 3]))),
        ("critical", changed(|record| times(record, "decode_tok_s", [0.75; 3]))),
        ("faster", changed(|record| times(record, "ttft_s", [0.8; 3]))),
        ("noisy", changed(|record| times(record, "decode_tok_s", [0.95, 0.8, 1.1]))),
        ("larger", changed(|record| times(record, "peak_rss_bytes", [1.2; 3]))),
        (
            "injected",
            changed(|record| {
                record.injected = Some("decode:0.25".into());
                times(record, "decode_tok_s", [0.75; 3]);
            }),
        ),
        (
            "other-machine",
            changed(|record| {
                record.machine.class = "intel-xeon-4cpu-77aa00bb".into();
                record.machine.fields.insert("cpu".into(), "Intel Xeon".into());
                record.machine.fields.insert("cpus".into(), "4".into());
            }),
        ),
        ("other-model", changed(|record| record.model.quant = "q8_0".into())),
        (
            "partial",
            changed(|record| {
                record.scenarios.pop();
                record.not_selected = vec!["grid/S1".into()];
            }),
        ),
        (
            "not-selected",
            changed(|record| {
                record.not_selected =
                    record.scenarios.pop().map(|case| case.id).into_iter().collect();
            }),
        ),
        (
            "no-value",
            changed(|record| {
                for block in &mut record.scenarios[0].blocks {
                    block.values.insert("decode_tok_s".into(), None);
                    block.notes.insert("decode_tok_s".into(), "sequences of two lengths".into());
                }
            }),
        ),
        (
            "out-of-time",
            changed(|record| {
                absent(record, 1, AbsenceKind::SkippedTime, "the time budget of 8m was used up");
            }),
        ),
        ("interrupted", changed(|record| absent(record, 1, AbsenceKind::NotMeasuredYet, ""))),
        (
            "interrupted-at-once",
            changed(|record| {
                (0..2).for_each(|at| absent(record, at, AbsenceKind::NotMeasuredYet, ""));
            }),
        ),
        (
            "output-changed",
            changed(|record| record.scenarios[1].output_sha256 = Some("ef".repeat(32))),
        ),
        (
            "invalid",
            changed(|record| {
                record.scenarios[0]
                    .validity
                    .failed
                    .push("decode reads weights faster than memory can".into());
            }),
        ),
        (
            "failed",
            changed(|record| {
                absent(record, 1, AbsenceKind::Failed, "out of memory");
            }),
        ),
        (
            "hostile",
            changed(|record| {
                record.model.spec = "a|b <script>alert(1)</script>\n\u{1b}[31m".into();
                record.scenarios[0].validity.warnings.push("`x` | <b>\u{1b}]0;t\u{7}".into());
            }),
        ),
    ]
}
