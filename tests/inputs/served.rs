//! Records before and after a change of a server's configuration, with all data that exports read;
//! and a record of injection attacks.

use candlemark::record::{Absence, AbsenceKind, Block, Case, Record, StressOutcome, StressRequest};
use candlemark::workload::Task;

use super::records;

/// A run of a server's model: batch 1 and 4, a depth, stress, and an invalid, a failed and an
/// unsupported scenario. `speed` multiplies every rate; `noise` is the deviation between processes.
fn served(day: usize, speed: f64, noise: f64) -> Record {
    let mut record = records::run(day);
    let session = record.sessions[0].id.clone();
    record.machine.fields.insert("cpu_name".into(), "AMD EPYC".into());
    record.machine.fields.insert("arch".into(), "x86_64".into());
    record.machine.facts.insert("os_version".into(), "Linux (Debian GNU/Linux 12)".into());
    record.build.crates = [("candle-core", "0.11.1"), ("criterion", "0.8.2")]
        .map(|(name, version)| (name.into(), version.into()))
        .into();
    record.model.spec = "Qwen/Qwen3-0.6B".into();
    record.model.commit = Some("c1899de289a04d12100db370d81485cdf75e47ca".into());
    record.model.quant = "q8_0".into();
    (record.model.layers, record.model.heads, record.model.hidden) = (28, 16, 1024);
    (record.model.kv_heads, record.model.head_dim) = (8, 128);
    (record.model.vocab, record.model.context) = (151_936, 40_960);
    let block = |decode: f64, prefill: f64, batch: usize, process: usize| {
        let off = speed * (1.0 + noise * (process as f64 - 1.0));
        let rate = if batch == 1 { "decode_tok_s" } else { "decode_tok_s_aggregate" };
        let mut block = Block { session: session.clone(), ..Block::default() };
        for (metric, value) in [
            (rate, decode * off),
            ("prefill_tok_s", prefill * off),
            ("ttft_s", 64.0 / prefill / off),
            ("e2e_s", (64.0 / prefill + 31.0 / decode) / off),
            ("step_cv", noise),
            ("stalls", if noise > 0.05 { 2.0 } else { 0.0 }),
            ("peak_rss_bytes", 3e8 * (2.0 - speed)),
        ] {
            block.values.insert(metric.into(), Some(value));
            if metric != "peak_rss_bytes" {
                block.samples.insert(metric.into(), vec![value * 1.01, value, value * 0.99]);
            }
        }
        block.values.insert("peak_device_bytes".into(), None);
        block.notes.insert("peak_device_bytes".into(), "the device is the CPU".into());
        let step = 1.0 / decode / off;
        block.steps_s = vec![[&[step; 29][..], &[step * (1.0 + noise); 2]].concat(); 3];
        block
    };
    let pattern = record.scenarios[0].clone();
    let case = |id: &str, batch: usize, decode: f64| {
        let mut case = Case { id: id.into(), ..pattern.clone() };
        (case.work.batch, case.work.prompt_tokens) = (batch, vec![64; batch]);
        case.blocks = [0, 1, 2].map(|process| block(decode, 500.0, batch, process)).into();
        case
    };
    let mut deep = case("context/512", 1, 35.0);
    (deep.work.task, deep.work.depth) = (Task::Depth, 512);
    for block in &mut deep.blocks {
        for metric in ["ttft_s", "e2e_s"] {
            block.values.insert(metric.into(), None);
            block.samples.remove(metric);
            block.notes.insert(metric.into(), "the cache was filled untimed".into());
        }
    }
    let mut false_one = case("long/b1", 1, 4000.0);
    false_one.validity.failed.push("decode reads weights faster than memory can".into());
    let absent = |id: &str, kind: AbsenceKind, why: &str| {
        let mut absent = case(id, 1, 1.0);
        absent.absent = Some(Absence::new(kind, why));
        absent.blocks.clear();
        absent.output_sha256 = None;
        absent
    };
    record.scenarios = vec![
        case("code/b1", 1, 40.0),
        case("code/b4", 4, 90.0),
        deep,
        false_one,
        stress(&session, if speed < 1.05 { 1 } else { 0 }),
        absent("pipelines/rag", AbsenceKind::Failed, "out of memory"),
        absent("profile/answer", AbsenceKind::Unsupported, "the engine traces no kernels"),
    ];
    record
}

/// Four requests, of which `without_memory` run out of memory.
fn stress(session: &str, without_memory: usize) -> Case {
    let request = |at: usize| StressRequest {
        prompt_tokens: 1024 << at,
        outcome: if at < 4 - without_memory {
            StressOutcome::Answered
        } else {
            StressOutcome::OutOfMemory
        },
        why: None,
        seconds: Some(1.5),
        rss_bytes: Some(400_000_000),
    };
    let rate = without_memory as f64 / 4.0;
    let values = [("error_rate", rate), ("oom_rate", rate)];
    let block = Block {
        session: session.into(),
        values: values.map(|(metric, value)| (metric.into(), Some(value))).into(),
        requests: [0, 1, 2, 3].map(request).into(),
        ..Block::default()
    };
    let mut case = Case { id: "stress/long".into(), blocks: vec![block], ..Case::default() };
    (case.work.task, case.work.batch, case.work.items) = (Task::Stress, 1, 4);
    (case.work.new_tokens, case.work.stop) = (4, "length".into());
    case
}

fn labelled(mut record: Record, labels: &[(&str, &str)]) -> Record {
    record.settings.labels =
        labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    record
}

/// Injections: HTML, Markdown, workflow commands, Prometheus labels, terminal escapes, spreadsheet
/// formulas, bidirectional text.
const HOSTILE: [&str; 4] = [
    "::error::a|b <script>alert(1)</script> `x` \"q\" 'r' \\ \n# y\n::stop-commands::z\n##[add-mask]w",
    "=cmd()|'c'!A1,\u{0}\u{1b}[31m\u{1b}]0;t\u{7}\r\n\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}",
    "@all [l](javascript:0) ![i](x) </td></table> {{ 7*7 }} {% x %} %0A::error::v",
    "a\"} 1\ncandlemark_fake{x=\"",
];

fn hostile() -> Record {
    let mut record = served(4, 1.0, 0.01);
    let [commands, terminal, links, label] = HOSTILE.map(String::from);
    record.model.spec = commands.clone();
    record.model.quant = label.clone();
    record.machine.class = terminal.clone();
    record.machine.fields.insert("cpu_name".into(), commands.clone());
    record.build.commit = Some(links.clone());
    record.settings.engine = label.clone();
    record.settings.device = terminal.clone();
    record.settings.labels =
        [(commands.clone(), terminal.clone()), (links.clone(), label.clone())].into();
    record.sessions[0].started = commands.clone();
    for (case, id) in record.scenarios.iter_mut().zip([&label, &terminal, &commands, &links]) {
        case.id.clone_from(id);
        case.labels = [(terminal.clone(), commands.clone())].into();
        case.validity.warnings.push(commands.clone());
        case.blocks[0].notes.insert("ttft_s".into(), commands.clone());
    }
    record.scenarios[3].validity.failed.push(commands.clone());
    let [failed, unsupported] = [AbsenceKind::Failed, AbsenceKind::Unsupported];
    record.scenarios[5].absent = Some(Absence::new(failed, &commands));
    record.scenarios[6].absent = Some(Absence::new(unsupported, commands));
    record
}

/// Every record by file name.
pub fn all() -> Vec<(&'static str, Record)> {
    let mut after = labelled(
        served(5, 1.06, 0.01),
        &[
            ("CUDA_VISIBLE_DEVICES", "0,1"),
            ("gpu-memory-utilization", "0.99"),
            (
                "rope-scaling",
                r#"{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}"#,
            ),
            ("tensor-parallel-size", "2"),
        ],
    );
    after.settings.threads = 4;
    after.scenarios.retain(|case| case.id != "profile/answer");
    after.scenarios[0].output_sha256 = Some("ef".repeat(32));
    let depth = after.scenarios.iter_mut().find(|case| case.id == "context/512").unwrap();
    depth.labels = [("rope_scaling".into(), "yarn x4".into())].into();
    vec![
        (
            "before",
            labelled(
                served(4, 1.0, 0.06),
                &[("gpu-memory-utilization", "0.9999"), ("tensor-parallel-size", "1")],
            ),
        ),
        ("after", after),
        ("hostile-served", hostile()),
    ]
}
