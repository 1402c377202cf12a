//! A record with data for every part of a report: each suite, a failed, an unsupported and an
//! invalid scenario, and values that are missing with a reason. All measured values differ.

use candlemark::record::{
    Absence, AbsenceKind, Block, Case, Conditions, Record, StressOutcome, StressRequest, Work,
};
use candlemark::workload::Task;

use super::records;

/// Generates values with a small deviation from the requested one.
struct Values(u64);

impl Values {
    fn near(&mut self, value: f64) -> f64 {
        // Knuth's linear congruential generator.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let off = (self.0 >> 40) as f64 / (1u64 << 24) as f64;
        let value = value * (0.97 + 0.06 * off);
        // Six digits keep the file small.
        format!("{value:.5e}").parse().unwrap()
    }

    fn block(&mut self, samples: &[(&str, f64)], count: usize, single: &[(&str, f64)]) -> Block {
        let mut block = Block { session: SESSION.into(), ..Block::default() };
        for (name, centre) in samples {
            let mut values: Vec<f64> = (0..count).map(|_| self.near(*centre)).collect();
            block.samples.insert((*name).into(), values.clone());
            values.sort_by(f64::total_cmp);
            block.values.insert((*name).into(), Some(values[count / 2]));
        }
        for (name, centre) in single {
            block.values.insert((*name).into(), Some(self.near(*centre)));
        }
        block
    }

    /// One block of a scenario that generates.
    fn answers(&mut self, ttft: f64, rate: f64, batch: usize, tokens: usize) -> Block {
        let each = rate / batch as f64;
        let e2e = ttft + (tokens - 1) as f64 / each;
        let samples = [
            ("decode_tok_s", each),
            ("decode_tok_s_aggregate", rate),
            ("ttft_s", ttft),
            ("prefill_tok_s", 40.0 / ttft),
            ("prefill_s", 0.98 * ttft),
            ("tpot_s", 1.0 / each),
            ("e2e_s", e2e),
            ("tokenize_s", 1.1e-4),
        ];
        let single = [
            ("peak_rss_bytes", 1.9e9 + 3e7 * batch as f64),
            ("load_s", 2.4),
            ("pack_s", 1.3),
            ("cold_ttft_s", 3.0 * ttft),
            ("roofline_fraction", 0.62),
            ("cpu_utilisation", 0.91),
        ];
        let mut block = self.block(&samples, 5, &single);
        for name in ["peak_device_bytes", "gpu_utilisation", "power_w", "energy_j_per_token"] {
            let why =
                if name == "peak_device_bytes" { "the device is the CPU" } else { "no counter" };
            block.values.insert(name.into(), None);
            block.notes.insert(name.into(), why.into());
        }
        block.values.insert("prefill_flop_fraction".into(), Some(0.34));
        block.notes.insert("peak_rss_bytes".into(), "high-water mark of the process".into());
        block.steps_s = (0..2).map(|_| (0..6).map(|_| self.near(1.0 / each)).collect()).collect();
        block.ttft_seq_s = vec![(0..batch).map(|_| self.near(ttft)).collect()];
        block
    }
}

const SESSION: &str = "20260704T120000Z-0123456";

fn case(id: &str, task: Task, batch: usize, prompt: usize, new_tokens: usize) -> Case {
    let prompts_sha256 = "ab".repeat(32);
    let prompt_tokens = (0..batch).map(|i| prompt + i).collect();
    let stop = "length".into();
    let work =
        Work { task, batch, prompt_tokens, new_tokens, prompts_sha256, stop, ..Work::default() };
    Case { id: id.into(), work, output_sha256: Some("cd".repeat(32)), ..Case::default() }
}

pub fn everything() -> Record {
    let mut record = records::run(4);
    let mut values = Values(42);
    record.scenarios.clear();
    let session = &mut record.sessions[0];
    session.command =
        ["candlemark", "run", "all", "--model", "it's a model"].map(Into::into).into();
    session.conditions = ["12:00:00", "12:05:00"]
        .map(|time| Conditions {
            at: format!("2026-07-04T{time}Z"),
            load_1m: Some(values.near(0.4)),
            steal: Some(values.near(0.012)),
            cpu_pressure_10s: None,
            available_bytes: Some(values.near(2.2e10) as u64),
        })
        .into();
    let model = &mut record.model;
    (model.spec, model.quant) = ("synthetic:qwen3-1.7b".into(), "q4_k+q6_k".into());
    (model.parameters, model.weight_bytes) = (1_720_574_976, 1_107_409_920);
    (model.layers, model.hidden, model.heads, model.kv_heads) = (28, 2048, 16, 8);
    (model.head_dim, model.vocab, model.context) = (128, 151_936, 40_960);
    record.machine.rates.read_bytes_per_s = Some(3.374e10);
    record.machine.rates.read_huge_bytes_per_s = Some(3.712e10);
    record.machine.rates.f32_flop_per_s = Some(2.018e11);
    record.machine.rates.int8_op_per_s = Some(5.81e11);
    record.machine.rates.int16_op_per_s = Some(3.24e11);
    record.machine.rates.isa = Some("avx2".into());
    record.model.isa = Some("avx2".into());
    record.machine.rates.last_level_cache_bytes = Some(33_554_432);
    record.settings.labels = [("room".into(), "quiet".into())].into();
    let parts = [speed, lengths, trials, pipelines];
    record.scenarios = parts.iter().flat_map(|part| part(&mut values)).collect();
    record
}

fn speed(values: &mut Values) -> Vec<Case> {
    let mut cases = Vec::new();
    for (category, prompt, ttft) in [("short", 11, 0.12), ("code", 58, 0.31)] {
        for (batch, gain) in [(1, 1.0), (4, 2.9), (8, 4.1), (16, 4.3)] {
            let mut one = case(&format!("{category}/b{batch}"), Task::Generate, batch, prompt, 10);
            let rate = 21.0 * gain;
            one.blocks =
                (0..2).map(|_| values.answers(ttft * batch as f64, rate, batch, 10)).collect();
            cases.push(one);
        }
    }
    cases[3].validity.failed.push("decode reads weights faster than memory can".into());
    cases[4].validity.warnings.push("prefill is hardly faster than decode".into());
    for (name, prompt, ttft) in
        [("completion", 43, 0.23), ("chat", 57, 0.29), ("chat-thinking", 53, 0.27)]
    {
        let mut one = case(&format!("api/{name}"), Task::Generate, 1, prompt, 32);
        one.blocks = vec![values.answers(ttft, 20.0, 1, 32)];
        cases.push(one);
    }
    cases
}

fn lengths(values: &mut Values) -> Vec<Case> {
    let mut cases = Vec::new();
    let grid = [(16, 32), (64, 64), (256, 128), (512, 256), (1024, 128), (64, 512)];
    for (at, (prompt, tokens)) in grid.into_iter().enumerate() {
        let mut one = case(&format!("grid/S{}", at + 1), Task::Generate, 1, prompt, tokens);
        one.blocks = vec![values.answers(0.004 * prompt as f64 + 0.02, 19.0, 1, tokens)];
        cases.push(one);
    }
    for (id, depth) in
        [("0", 0), ("512", 512), ("2048", 2048), ("8192", 8192), ("0-yarn", 0), ("2048-yarn", 2048)]
    {
        let mut one = case(&format!("context/{id}"), Task::Depth, 1, 64, 16);
        one.work.depth = depth;
        let (rate, kv) = (20.0 / (1.0 + depth as f64 / 3000.0), 114_688.0 * (depth as f64 + 80.0));
        let samples =
            [("decode_tok_s", rate), ("tpot_s", 1.0 / rate), ("prefill_tok_s", 9.0 * rate)];
        let single = [
            ("kv_bytes_expected", kv),
            ("kv_bytes_held", 1.1 * kv),
            ("peak_delta_bytes", 1.4 * kv),
            ("peak_rss_bytes", 1.9e9 + kv),
        ];
        one.blocks = vec![values.block(&samples, 5, &single), values.block(&samples, 5, &single)];
        cases.push(one);
    }
    let mut failed = case("context/8192-yarn", Task::Depth, 1, 64, 16);
    let why = "the worker ended without an answer";
    failed.absent = Some(Absence::new(AbsenceKind::Failed, why));
    cases.push(failed);
    cases
}

fn trials(values: &mut Values) -> Vec<Case> {
    let mut repeated = case("consistency/answer", Task::Generate, 1, 43, 32);
    let samples = [("e2e_s", 1.81), ("ttft_s", 0.24), ("stalls", 1.0)];
    repeated.blocks = vec![values.block(&samples, 24, &[])];
    repeated.blocks[0].samples.insert("stalls".into(), vec![0.0, 2.0, 0.0, 1.0]);
    let mut cases = vec![repeated];
    for name in ["long", "many", "repeated"] {
        let mut one = case(&format!("stress/{name}"), Task::Stress, 1, 128, 4);
        one.labels.insert("memory_limit".into(), "4 GiB".into());
        let single = [("mem_slope_bytes_per_request", 40_961.0)];
        let mut block = values.block(&[], 0, &single);
        block.values.insert("error_rate".into(), Some(0.25));
        block.values.insert("oom_rate".into(), Some(if name == "long" { 0.25 } else { 0.0 }));
        block.requests = (0..4)
            .map(|at| {
                let answered = at < 3;
                let outcome = match (answered, name) {
                    (true, _) => StressOutcome::Answered,
                    (false, "long") => StressOutcome::OutOfMemory,
                    (false, "many") => StressOutcome::TimedOut,
                    (false, _) => StressOutcome::Refused,
                };
                let why = (!answered).then(|| format!("the {name} one: no more"));
                let (seconds, rss) = (values.near(0.7), values.near(2.1e9 + 3e7 * f64::from(at)));
                StressRequest {
                    prompt_tokens: 130 << at,
                    outcome,
                    why,
                    seconds: answered.then_some(seconds),
                    rss_bytes: answered.then_some(rss as u64),
                }
            })
            .collect();
        one.blocks = vec![block];
        cases.push(one);
    }
    cases
}

fn pipelines(values: &mut Values) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, batch, items, tokens) in [
        ("classification", 4, 12, 4),
        ("summarisation", 4, 8, 24),
        ("extraction", 4, 9, 16),
        ("code", 4, 10, 32),
        ("embedding", 4, 48, 0),
        ("rag", 1, 6, 24),
    ] {
        let mut one = case(&format!("pipelines/{name}"), Task::Items, batch, 90, tokens);
        one.work.items = items;
        let rate = if tokens == 0 { ("chunks_per_min", 410.0) } else { ("items_per_min", 37.0) };
        let mut samples = vec![rate, ("e2e_s", 60.0 * items as f64 / rate.1)];
        if name == "rag" {
            samples.extend([
                ("index_s", 4.1),
                ("embed_s", 0.071),
                ("search_s", 8.3e-5),
                ("assemble_s", 3.9e-4),
                ("ttft_s", 0.93),
                ("answer_s", 2.2),
                ("e2e_simple_s", 3.1),
                ("e2e_complex_s", 3.6),
            ]);
        }
        one.blocks = vec![values.block(&samples, 3, &[("peak_rss_bytes", 2.0e9)])];
        cases.push(one);
    }
    let mut quality = case("quality/text", Task::Quality, 1, 1377, 0);
    let single = [
        ("top1_agreement", 0.953),
        ("kl_nats", 0.0131),
        ("perplexity", 19.1),
        ("perplexity_f32", 18.7),
    ];
    quality.blocks = vec![values.block(&[], 0, &single)];
    quality.labels.insert("reference".into(), "the original weights in f32".into());
    let mut profile = case("profile/answer", Task::Profile, 1, 43, 32);
    let single = [
        ("kernel_share", 0.883),
        ("kernel_overhead_s", 2.7e-6),
        ("kernels_per_step", 399.0),
        ("region_overhead_s", 3.3e-6),
        ("pack_s", 1.3),
        ("traced_matmul_share", 0.71),
        ("traced_attention_share", 0.12),
    ];
    profile.blocks = vec![values.block(&[], 0, &single)];
    let mut other = case("prompts/long-1", Task::Generate, 1, 900, 10);
    let why = "prompts of more than one chunk";
    other.absent = Some(Absence::new(AbsenceKind::Unsupported, why));
    cases.extend([quality, profile, other]);
    cases
}
