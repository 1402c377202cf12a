//! The analysis of synthetic records.

mod advice;
mod targets;

use super::stress::RequestCounts;
use super::values::{pooled, reading};
use super::*;
use crate::record::{
    Absence, AbsenceKind, Block, Build, Case, Machine, Model, RecordKind, SCHEMA, Settings,
    StressOutcome, StressRequest, Work,
};
use crate::workload::Task;

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
        "{found} is not {expected}"
    );
}

/// A block with values and no samples.
fn block(values: &[(&str, f64)]) -> Block {
    let values = values.iter().map(|&(name, value)| (name.into(), Some(value))).collect();
    Block { values, ..Block::default() }
}

/// A block with samples, and their medians as values.
fn sampled(samples: &[(&str, &[f64])]) -> Block {
    let mut block = Block::default();
    for &(name, values) in samples {
        block.samples.insert(name.into(), values.into());
        block.values.insert(name.into(), crate::stats::median(values));
    }
    block
}

/// A block whose metric has no value, with a note.
fn null(name: &str, why: &str) -> Block {
    let mut block = Block::default();
    block.values.insert(name.into(), None);
    block.notes.insert(name.into(), why.into());
    block
}

fn case(id: &str, blocks: Vec<Block>) -> Case {
    let work = Work { batch: 1, stop: "length".into(), ..Work::default() };
    Case { id: id.into(), work, blocks, ..Case::default() }
}

fn worked(id: &str, prompt_tokens: usize, new_tokens: usize, blocks: Vec<Block>) -> Case {
    let mut case = case(id, blocks);
    (case.work.prompt_tokens, case.work.new_tokens) = (vec![prompt_tokens], new_tokens);
    case
}

fn batched(id: &str, batch: usize, aggregate: f64) -> Case {
    let each = aggregate / batch as f64;
    let values = [("decode_tok_s_aggregate", aggregate), ("decode_tok_s", each)];
    let mut case = case(id, vec![block(&values)]);
    case.work.batch = batch;
    case
}

fn depth(id: &str, decode: f64) -> Case {
    let mut case = case(id, vec![block(&[("decode_tok_s", decode), ("tpot_s", 1.0 / decode)])]);
    case.work.task = Task::Depth;
    case
}

fn absent(id: &str, kind: AbsenceKind, why: &str) -> Case {
    Case { id: id.into(), absent: Some(Absence::new(kind, why)), ..Case::default() }
}

fn failed(id: &str, why: &str) -> Case {
    absent(id, AbsenceKind::Failed, why)
}

fn unsupported(id: &str, why: &str) -> Case {
    absent(id, AbsenceKind::Unsupported, why)
}

fn invalid(mut case: Case) -> Case {
    case.validity.failed.push("too fast to be true".into());
    case
}

fn record(scenarios: Vec<Case>) -> Record {
    Record {
        schema: SCHEMA,
        kind: RecordKind::Run,
        sessions: Vec::new(),
        build: Build::default(),
        machine: Machine::default(),
        model: Model::default(),
        settings: Settings { device: "cpu".into(), ..Settings::default() },
        injected: None,
        scenarios,
        not_selected: Vec::new(),
    }
}

#[test]
fn a_record_without_scenarios_has_nothing_and_no_score() {
    let analysis = Analysis::of(&record(Vec::new()));
    assert_eq!((analysis.grid, analysis.kernels, analysis.context), (None, None, None));
    assert!(analysis.categories.is_empty() && analysis.latencies.is_empty());
    assert!(analysis.api.is_empty() && analysis.consistency.is_empty());
    assert!(analysis.stress.is_empty() && analysis.pipelines.is_empty());
    assert!(analysis.quality.is_empty());
    assert_eq!(analysis.advice.batch, Err(NoAdvice::NoBatches));
    assert_eq!(analysis.advice.context, Err(NoAdvice::NoDepthZero));
    assert_eq!(analysis.advice.memory, Err(NoAdvice::NoPeak));
    assert_eq!(analysis.score.value, None);
    assert!(analysis.score.parts.iter().all(|part| part.value.is_none()));
}

#[test]
fn one_process_spreads_over_its_samples_and_several_over_their_values() {
    let one = case("a/b1", vec![sampled(&[("ttft_s", &[1.0, 2.0, 3.0])])]);
    let expected = Spread { median: 2.0, sd: Some(1.0) };
    assert_eq!(spread(&one, "ttft_s"), Some(expected));

    let first = sampled(&[("ttft_s", &[1.0, 2.0, 3.0])]);
    let second = sampled(&[("ttft_s", &[4.0, 4.0, 9.0])]);
    let two = case("a/b1", vec![first, second]);
    let found = spread(&two, "ttft_s").unwrap();
    assert_eq!(found.median, 3.0);
    near(found.sd.unwrap(), 2f64.sqrt());
    assert_eq!(pooled(&two, "ttft_s"), [1.0, 2.0, 3.0, 4.0, 4.0, 9.0]);

    let baseline = case("a/b1", vec![block(&[("ttft_s", 5.0)])]);
    let expected = Spread { median: 5.0, sd: None };
    assert_eq!(spread(&baseline, "ttft_s"), Some(expected));
    assert_eq!(spread(&baseline, "e2e_s"), None);
    assert_eq!(spread(&failed("a/b1", "x"), "ttft_s"), None);
}

#[test]
fn percentiles_come_with_enough_values() {
    assert_eq!(Distribution::of(&[]), None);
    let one = Distribution::of(&[7.0]).unwrap();
    assert_eq!((one.count, one.mean, one.median, one.sd), (1, 7.0, 7.0, None));
    assert_eq!((one.min, one.max, one.p90, one.p95, one.p99), (7.0, 7.0, None, None, None));
    let count = |n: usize| (1..=n).map(|i| i as f64).collect::<Vec<_>>();
    let twenty = Distribution::of(&count(20)).unwrap();
    assert_eq!((twenty.mean, twenty.median, twenty.p99), (10.5, 10.5, None));
    near(twenty.p90.unwrap(), 18.1);
    near(twenty.p95.unwrap(), 19.05);
    near(twenty.p95_over_p50().unwrap(), 19.05 / 10.5);
    near(Distribution::of(&count(100)).unwrap().p99.unwrap(), 99.01);
    assert_eq!(Distribution::of(&count(19)).unwrap().p95_over_p50(), None);
    assert_eq!(Distribution::of(&[0.0; 20]).unwrap().p95_over_p50(), None);
}

#[test]
fn a_missing_value_passes_its_reason_on() {
    let noted = case("a/b1", vec![null("power_w", "no counter")]);
    let expected = Reading { value: None, why: Some("no counter".into()) };
    assert_eq!(reading(&noted, "power_w"), expected);
    assert_eq!(reading(&noted, "e2e_s"), Reading::default());
    let failed = failed("a/b1", "out of memory");
    assert_eq!(reading(&failed, "power_w").why.as_deref(), Some("failed: out of memory"));
    assert_eq!(CaseState::of(&failed), CaseState::Failed("out of memory".into()));
    let unsupported = unsupported("a/b1", "no such device");
    assert_eq!(CaseState::of(&unsupported), CaseState::Unsupported("no such device".into()));
    let skipped = absent("a/b1", AbsenceKind::SkippedTime, "no time");
    assert_eq!(CaseState::of(&skipped), CaseState::Skipped("no time".into()));
    let skipped = absent("a/b1", AbsenceKind::SkippedMemory, "no room");
    assert_eq!(CaseState::of(&skipped), CaseState::Skipped("no room".into()));
    assert_eq!(CaseState::of(&absent("a/b1", AbsenceKind::NotMeasuredYet, "")), CaseState::Empty);
    assert_eq!(CaseState::of(&case("a/b1", Vec::new())), CaseState::Empty);
    assert_eq!(CaseState::of(&noted), CaseState::Valid);
    let failed = vec!["too fast to be true".into()];
    assert_eq!(CaseState::of(&invalid(noted)), CaseState::Invalid(failed));
}

fn grid_case(i: usize, prompt: usize, new: usize, decode: f64) -> Case {
    let ttft = 0.010 + 0.002 * prompt as f64;
    let values = [("ttft_s", ttft), ("prefill_s", ttft - 0.005), ("decode_tok_s", decode)];
    worked(&format!("grid/S{i}"), prompt, new, vec![block(&values)])
}

#[test]
fn the_grid_grows_with_the_prompt() {
    let mut cases = vec![
        grid_case(1, 16, 32, 20.0),
        grid_case(2, 64, 64, 18.0),
        grid_case(3, 256, 128, 16.0),
        grid_case(4, 512, 256, 14.0),
        grid_case(5, 1024, 128, 12.0),
    ];
    cases.push(invalid(grid_case(6, 64, 512, 1000.0)));
    cases[0].blocks[0].values.insert("load_s".into(), Some(0.25));
    cases[1].blocks[0].values.insert("load_s".into(), Some(0.75));
    cases[1].blocks[0].values.insert("cold_ttft_s".into(), Some(0.5));
    cases[2].blocks[0].values.insert("cold_ttft_s".into(), Some(0.9));
    cases.push(failed("grid/S7", "killed"));
    cases.push(case("profile/answer", vec![block(&[("pack_s", 0.1)])]));
    cases[2].blocks[0].values.insert("peak_rss_bytes".into(), Some(3e9));
    cases[3].blocks[0].values.insert("peak_rss_bytes".into(), Some(2e9));
    cases[0].blocks[0].notes.insert("peak_device_bytes".into(), "CPU".into());
    let grid = Grid::of(&record(cases)).unwrap();
    let growth = grid.ttft_growth.unwrap();
    near(growth.line.slope, 0.002);
    near(growth.line.intercept, 0.010);
    let (low, high) = growth.slope_90.unwrap();
    near(low, 0.002);
    near(high, 0.002);
    assert_eq!(growth.points, 5, "an invalid case is no point");
    near(grid.prefill_growth.unwrap().line.intercept, 0.005);
    near(grid.decode_cv.unwrap(), 10f64.sqrt() / 16.0);
    assert_eq!((grid.load_s.value, grid.cold_ttft_s.value), (Some(0.5), Some(0.5)));
    assert_eq!(grid.pack_s, Reading { value: Some(0.1), why: None }, "traced elsewhere");
    assert_eq!(grid.load_s.why, None, "a failure of another scenario is not said of a value");
    assert_eq!(grid.peak_rss_bytes.value, Some(3e9));
    let device = Reading { value: None, why: Some("CPU".into()) };
    assert_eq!(grid.peak_device_bytes, device);
    assert_eq!(grid.steps, None);
    assert_eq!(grid.rows.len(), 7, "an invalid case is shown");
    assert_eq!((grid.rows[3].prompt_tokens, grid.rows[3].new_tokens), (Some(512), 256));
}

#[test]
fn a_grid_of_one_has_no_growth() {
    let grid = Grid::of(&record(vec![grid_case(1, 16, 32, 20.0)])).unwrap();
    assert_eq!((grid.ttft_growth, grid.decode_cv), (None, None));
    let two = vec![grid_case(1, 16, 32, 20.0), grid_case(2, 64, 64, 18.0)];
    let growth = Grid::of(&record(two)).unwrap().ttft_growth.unwrap();
    assert_eq!((growth.points, growth.slope_90), (2, None));
    let failed = Grid::of(&record(vec![failed("grid/S1", "x")])).unwrap();
    assert_eq!((failed.ttft_growth, failed.steps.clone()), (None, None));
    assert_eq!(failed.rows[0].state, CaseState::Failed("x".into()));
    assert_eq!(failed.rows[0].prompt_tokens, None);
    assert_eq!(failed.load_s.why.as_deref(), Some("failed: x"));
}

#[test]
fn the_curve_is_the_median_of_each_step_of_the_longest_answer() {
    let steps = |steps_s: &[&[f64]]| {
        let steps_s = steps_s.iter().map(|steps| steps.to_vec()).collect();
        vec![Block { steps_s, ..Block::default() }]
    };
    let short = worked("grid/S1", 16, 2, steps(&[&[0.5]]));
    let long = worked("grid/S2", 64, 4, steps(&[&[0.1, 0.2], &[0.3, 0.2, 0.5], &[0.5, 0.8]]));
    let curve = Grid::of(&record(vec![short, long])).unwrap().steps.unwrap();
    assert_eq!(curve.id, "grid/S2");
    let points: Vec<(usize, f64)> = curve.points.iter().map(|p| (p.step, p.tok_s)).collect();
    assert_eq!(points, [(1, 1.0 / 0.3), (2, 5.0), (3, 2.0)]);
}

#[test]
fn traced_kernels_are_read_where_they_were_traced() {
    let values = [
        ("kernel_share", 0.9),
        ("kernels_per_step", 170.0),
        ("traced_norm_share", 0.2),
        ("traced_product_share", 0.7),
        ("pack_s", 0.5),
    ];
    let profile = case("profile/answer", vec![block(&values)]);
    let kernels = Analysis::of(&record(vec![profile])).kernels.unwrap();
    assert_eq!(
        (kernels.kernel_share.value, kernels.kernels_per_step.value),
        (Some(0.9), Some(170.0))
    );
    assert_eq!((kernels.kernel_overhead_s.value, kernels.pack_s.value), (None, Some(0.5)));
    assert_eq!(kernels.shares, [("product".to_string(), 0.7), ("norm".to_string(), 0.2)]);
}

#[test]
fn depths_are_compared_with_their_own_zero() {
    let cases = vec![
        depth("context/4096", 10.0),
        depth("context/0", 20.0),
        failed("context/8192", "out of memory"),
        depth("context/0-yarn", 16.0),
        depth("context/2048-yarn", 12.0),
        invalid(depth("context/512", 99.0)),
        case("context/elsewhere", Vec::new()),
    ];
    let context = Context::of(&record(cases)).unwrap();
    let rows: Vec<(usize, bool, Option<f64>)> =
        context.rows.iter().map(|row| (row.depth, row.extended, row.decode_retention)).collect();
    let plain = [(0, Some(1.0)), (512, None), (4096, Some(0.5)), (8192, None)];
    let extended = [(0, Some(1.0)), (2048, Some(0.75))];
    let expected: Vec<(usize, bool, Option<f64>)> = (plain.into_iter().map(|(d, r)| (d, false, r)))
        .chain(extended.into_iter().map(|(d, r)| (d, true, r)))
        .collect();
    assert_eq!(rows, expected);
    near(context.step_growth.unwrap().line.slope, 0.05 / 4096.0);
    near(context.step_growth_extended.unwrap().line.intercept, 1.0 / 16.0);
    assert_eq!(context.rows[1].decode_tok_s.unwrap().median, 99.0, "shown, though invalid");
    assert_eq!(Context::of(&record(vec![depth("context/512", 3.0)])).unwrap().step_growth, None);
}

#[test]
fn batches_are_compared_with_a_single_sequence() {
    let mut eight = batched("code/b8", 8, 40.0);
    eight.blocks[0].values.insert("peak_rss_bytes".into(), Some(5.0));
    let cases = vec![
        batched("short/b4", 4, 24.0),
        batched("short/b1", 1, 10.0),
        eight,
        invalid(batched("short/b8", 8, 4000.0)),
        failed("short/b16", "killed"),
    ];
    let categories = Analysis::of(&record(cases)).categories;
    let names: Vec<&str> = categories.iter().map(|category| category.name.as_str()).collect();
    assert_eq!(names, ["short", "code"]);
    let found: Vec<(usize, Option<f64>)> =
        categories[0].batches.iter().map(|row| (row.batch, row.efficiency)).collect();
    assert_eq!(found, [(1, Some(1.0)), (4, Some(0.6)), (8, None), (16, None)]);
    let code = &categories[1].batches[0];
    assert_eq!(code.efficiency, None, "batch 1 is missing");
    assert_eq!(
        (code.aggregate_tok_s.unwrap().median, code.peak_rss_bytes.value),
        (40.0, Some(5.0))
    );
    assert_eq!(code.sequence_tok_s.unwrap().median, 5.0);
}

#[test]
fn latencies_pool_sequences_and_steps_of_a_scenario() {
    let process = |ttft: &[f64], steps: &[f64], e2e: f64| Block {
        ttft_seq_s: vec![ttft.to_vec()],
        steps_s: vec![steps.to_vec()],
        ..sampled(&[("e2e_s", &[e2e]), ("ttft_s", &[9.0])])
    };
    let blocks = vec![process(&[1.0, 3.0], &[0.1; 60], 7.0), process(&[2.0, 4.0], &[0.3; 40], 9.0)];
    let baseline = case("code/b1", vec![block(&[("ttft_s", 1.0)])]);
    let mut deep = case("context/0", vec![process(&[1.0], &[0.2], 3.0)]);
    deep.work.task = Task::Depth;
    let plain = case("long/b1", vec![sampled(&[("ttft_s", &[5.0, 6.0])])]);
    let cases = vec![case("short/b2", blocks), baseline, deep, plain];
    let latencies = Analysis::of(&record(cases)).latencies;
    let ids: Vec<&str> = latencies.iter().map(|latency| latency.id.as_str()).collect();
    assert_eq!(ids, ["short/b2", "context/0", "long/b1"], "a baseline has no samples");
    let ttft = latencies[0].ttft_s.unwrap();
    assert_eq!((ttft.count, ttft.median, ttft.max), (4, 2.5, 4.0));
    let step = latencies[0].step_s.unwrap();
    assert_eq!((step.count, step.median, step.p99), (100, 0.1, Some(0.3)));
    assert_eq!(latencies[0].e2e_s.unwrap().mean, 8.0);
    assert_eq!(latencies[1].ttft_s, None, "a depth has no time to the first token");
    assert_eq!(latencies[2].ttft_s.unwrap().mean, 5.5);
}

#[test]
fn requests_of_each_api_are_averaged() {
    let samples = [("e2e_s", [2.0, 4.0].as_slice()), ("decode_tok_s", &[10.0, 30.0])];
    let mut stopped = sampled(&samples);
    stopped.steps_s = vec![vec![0.1; 9], vec![0.1; 19]];
    let cases = vec![
        worked("api/completion", 20, 32, vec![sampled(&samples)]),
        worked("api/chat", 45, 32, vec![stopped]),
        unsupported("api/chat-thinking", "no template"),
    ];
    let api = Analysis::of(&record(cases)).api;
    let plain = &api[0];
    assert_eq!(
        (plain.name.as_str(), plain.prompt_tokens, plain.requests),
        ("completion", Some(20), 2)
    );
    assert_eq!((plain.mean_e2e_s, plain.mean_generated), (Some(3.0), Some(32.0)));
    assert_eq!((plain.mean_decode_tok_s, plain.tokenize_s), (Some(20.0), None));
    assert_eq!(api[1].mean_generated, Some(15.0), "a token more than steps");
    assert_eq!(api[2].state, CaseState::Unsupported("no template".into()));
    assert_eq!(api[2].prompt_tokens, None, "nothing was tokenized");
    assert_eq!((api[2].requests, api[2].mean_e2e_s, api[2].mean_generated), (0, None, None));
    let broken = invalid(worked("api/completion", 20, 32, vec![sampled(&samples)]));
    let broken = Analysis::of(&record(vec![broken])).api.remove(0);
    assert_eq!(broken.state, CaseState::Invalid(vec!["too fast to be true".into()]));
    let means = (broken.mean_e2e_s, broken.mean_generated, broken.mean_decode_tok_s);
    assert_eq!((broken.requests, means), (2, (None, None, None)));
}

#[test]
fn drift_is_found_where_requests_grow_slower() {
    let rising: Vec<f64> = (0..20).map(|i| 1.0 + 0.01 * f64::from(i)).collect();
    let level: Vec<f64> = (0..20).map(|i| 1.0 + 0.01 * f64::from(i * 7 % 5)).collect();
    let of = |values: &[f64]| {
        let block = sampled(&[("e2e_s", values), ("stalls", &[1.0, 0.0, 2.0])]);
        case("consistency/answer", vec![block])
    };
    let repeated = |case| Analysis::of(&record(vec![case])).consistency.remove(0);
    let found = repeated(of(&rising));
    near(found.drift.unwrap().line.slope, 0.01);
    assert!(found.drift.unwrap().slope_90.unwrap().0 > 0.0);
    assert_eq!((found.stalls, found.series_s.len(), found.series_s[0].len()), (Some(3.0), 1, 20));
    near(found.p95_over_p50.unwrap(), (1.0 + 0.01 * 18.05) / 1.095);
    let (low, high) = repeated(of(&level)).drift.unwrap().slope_90.unwrap();
    assert!(low <= 0.0 && 0.0 <= high, "{low}..{high}");
    let short = repeated(of(&[1.0, 2.0]));
    assert_eq!((short.p95_over_p50, short.drift.unwrap().slope_90), (None, None));
    assert_eq!(repeated(of(&[])).drift, None);
    let broken = repeated(invalid(of(&rising)));
    assert_eq!((broken.drift, broken.p95_over_p50, broken.stalls), (None, None, None));
    assert_eq!(broken.e2e_s.unwrap().count, 20, "the times are kept, to be struck out");
    let failed = repeated(failed("consistency/answer", "x"));
    assert_eq!((failed.e2e_s, failed.stalls, failed.drift), (None, None, None));
}

#[test]
fn stress_counts_requests_by_their_end() {
    let request = |prompt_tokens, outcome, rss_bytes| StressRequest {
        prompt_tokens,
        outcome,
        rss_bytes,
        ..StressRequest::default()
    };
    let requests = vec![
        request(64, StressOutcome::Answered, Some(10)),
        request(128, StressOutcome::Answered, Some(20)),
        request(256, StressOutcome::OutOfMemory, None),
        request(512, StressOutcome::Refused, Some(20)),
    ];
    let values = [("mem_slope_bytes_per_request", 10.0)];
    let mut long =
        case("stress/long", vec![Block { requests: requests.clone(), ..block(&values) }]);
    long.labels.insert("memory_limit".into(), "2 GiB".into());
    let all_failed =
        vec![request(64, StressOutcome::Failed, None), request(64, StressOutcome::TimedOut, None)];
    let many = Block {
        requests: all_failed,
        ..null("mem_slope_bytes_per_request", "fewer than 3 requests")
    };
    let stress = Analysis::of(&record(vec![long, case("stress/many", vec![many])])).stress;
    let long = &stress[0];
    let expected =
        RequestCounts { answered: 2, refused: 1, out_of_memory: 1, ..RequestCounts::default() };
    assert_eq!((long.outcomes, long.outcomes.total()), (expected, 4));
    assert_eq!((long.largest_answered, long.smallest_unanswered), (Some(128), Some(256)));
    assert_eq!(long.mem_slope_bytes_per_request.value, Some(10.0));
    assert_eq!((long.memory_limit.as_deref(), &long.requests[0]), (Some("2 GiB"), &requests));
    let many = &stress[1];
    assert_eq!((many.outcomes.failed, many.outcomes.timed_out), (1, 1));
    assert_eq!((many.largest_answered, many.smallest_unanswered), (None, Some(64)));
    let why = many.mem_slope_bytes_per_request.why.as_deref();
    assert_eq!(why, Some("fewer than 3 requests"));
}

#[test]
fn pipelines_and_quality_are_read_as_recorded() {
    let rag = [
        ("search_s", 0.01),
        ("assemble_s", 0.02),
        ("answer_s", 3.0),
        ("items_per_min", 20.0),
        ("e2e_simple_s", 2.5),
        ("e2e_complex_s", 4.5),
    ];
    let mut rag = case("pipelines/rag", vec![block(&rag)]);
    rag.work.items = 12;
    let scores = [("top1_agreement", 0.98), ("kl_nats", 0.01), ("perplexity", 11.0)];
    let text =
        worked("quality/text", 300, 0, vec![block(&scores), block(&[("perplexity_f32", 10.0)])]);
    let broken = invalid(case("quality/other", text.blocks.clone()));
    let text =
        Case { labels: [("reference".into(), "the original weights".into())].into(), ..text };
    let analysis = Analysis::of(&record(vec![rag, text, broken]));
    let rag = &analysis.pipelines[0];
    assert_eq!((rag.name.as_str(), rag.items, rag.chunks_per_min), ("rag", Some(12), None));
    assert_eq!(rag.answer_s.unwrap().median, 3.0);
    assert_eq!(rag.items_per_min.unwrap().median, 20.0);
    let questions = [rag.e2e_simple_s, rag.e2e_complex_s].map(|spread| spread.unwrap().median);
    assert_eq!(questions, [2.5, 4.5]);
    let [text, broken] = analysis.quality.as_slice() else { panic!("two") };
    assert_eq!((text.tokens, text.perplexity_ratio), (Some(300), Some(1.1)));
    assert_eq!(text.labels["reference"], "the original weights");
    assert_eq!((broken.perplexity_ratio, broken.kl_nats.value), (None, Some(0.01)));
}
