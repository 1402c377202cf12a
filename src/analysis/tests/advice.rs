//! Advice, the score, and what they are made of.

use super::*;

fn peak(id: &str, task: Task, bytes: f64) -> Case {
    let mut case = case(id, vec![block(&[("peak_rss_bytes", bytes)])]);
    case.work.task = task;
    case
}

#[test]
fn the_roofline_fraction_is_typical_of_one_sequence_and_memory_of_serving() {
    let with = |id: &str, values: &[(&str, f64)]| case(id, vec![block(values)]);
    let mut four = with("short/b4", &[("roofline_fraction", 0.1)]);
    four.work.batch = 4;
    let record = record(vec![
        with("short/b1", &[("roofline_fraction", 0.6)]),
        with("code/b1", &[("roofline_fraction", 0.8)]),
        four,
        invalid(with("long/b1", &[("roofline_fraction", 7.0)])),
        peak("pipelines/rag", Task::Items, 300.0),
        peak("stress/long", Task::Stress, 900.0),
        peak("quality/text", Task::Quality, 800.0),
    ]);
    near(Score::of(&record).parts[0].value.unwrap(), 0.7);
    assert_eq!(Advice::of(&record).memory.unwrap().peak_bytes, 300.0);
}

fn batch_of(rates: &[(&str, usize, f64)]) -> Result<BatchAdvice, NoAdvice> {
    let cases =
        rates.iter().map(|&(name, batch, rate)| batched(&format!("{name}/b{batch}"), batch, rate));
    Advice::of(&record(cases.collect())).batch
}

#[test]
fn a_batch_is_worth_a_tenth_more_and_five_tokens_a_second() {
    for (rates, expected) in [
        ([("short", 1, 20.0)].as_slice(), Err(NoAdvice::NoBatches)),
        (&[("short", 1, 20.0), ("short", 4, 60.0), ("short", 8, 65.0)], Ok(4)), // 8 gains 8.3 %.
        (&[("short", 1, 20.0), ("short", 4, 60.0), ("short", 8, 66.0)], Ok(8)), // Just 10 %.
        (&[("short", 1, 20.0), ("short", 4, 60.0), ("short", 16, 79.0)], Ok(4)), // 4.9 each.
        // Not over batch 1.
        (&[("short", 1, 20.0), ("short", 4, 19.0), ("short", 8, 21.0)], Ok(1)),
        (&[("short", 4, 60.0), ("short", 8, 61.0)], Ok(4)), // The smallest.
        (&[("short", 1, 4.0), ("short", 4, 60.0)], Err(NoAdvice::TooSlow)),
        (&[("short", 1, 20.0), ("short", 8, 80.0), ("code", 1, 20.0), ("code", 8, 20.0)], Ok(1)),
        // `code` says nothing.
        (&[("short", 1, 20.0), ("short", 8, 80.0), ("code", 8, 20.0)], Ok(8)),
    ] {
        assert_eq!(batch_of(rates).map(|advice| advice.batch), expected, "{rates:?}");
    }
    let advice = batch_of(&[("short", 1, 20.0), ("short", 4, 60.0)]).unwrap();
    let steps = &advice.categories[0].steps;
    assert_eq!((steps[1].sequence_tok_s, steps[1].worth_it), (15.0, true));
}

#[test]
fn a_context_ends_where_decoding_halves_or_fails() {
    let of = |cases: Vec<Case>| Advice::of(&record(cases)).context;
    let zero = || depth("context/0", 20.0);
    let advice = of(vec![zero(), depth("context/512", 18.0), depth("context/1024", 10.0)]).unwrap();
    assert_eq!((advice.depth, advice.retention), (1024, 0.5));
    assert_eq!(advice.end, ContextEnd::NotMeasured);

    let slow = vec![zero(), depth("context/512", 9.0), depth("context/1024", 19.0)];
    let advice = of(slow).unwrap();
    assert_eq!((advice.depth, advice.retention), (0, 1.0));
    assert_eq!(advice.end, ContextEnd::Slow { depth: 512, retention: 0.45 });

    let failed = vec![depth("context/512", 18.0), failed("context/2048", "out of memory"), zero()];
    let advice = of(failed).unwrap();
    assert_eq!(advice.depth, 512);
    assert_eq!(advice.end, ContextEnd::NoRate { depth: 2048 });

    assert_eq!(of(vec![depth("context/512", 18.0)]), Err(NoAdvice::NoDepthZero));
    assert_eq!(of(vec![invalid(zero()), depth("context/512", 1.0)]), Err(NoAdvice::NoDepthZero));
    assert_eq!(of(vec![zero()]), Err(NoAdvice::NoDepths));
    let extended = vec![zero(), depth("context/0-yarn", 20.0), depth("context/2048-yarn", 15.0)];
    assert_eq!(of(extended), Err(NoAdvice::NoDepths), "YaRN answers another question");
}

#[test]
fn memory_is_the_largest_peak_with_headroom() {
    const MIB: f64 = 1048576.0;
    let of = |cases: Vec<Case>| Advice::of(&record(cases)).memory;
    let cases = vec![
        peak("short/b1", Task::Generate, 1000.0 * MIB),
        peak("context/8192", Task::Depth, 1100.0 * MIB),
        peak("stress/long", Task::Stress, 9000.0 * MIB),
        invalid(peak("long/b1", Task::Generate, 9000.0 * MIB)),
    ];
    // 1100 times 1.2 is 1320 MiB; the next multiple of 256 is 1536.
    let expected =
        MemoryAdvice { bytes: 1536 << 20, peak_bytes: 1100.0 * MIB, id: "context/8192".into() };
    assert_eq!(of(cases), Ok(expected));
    assert_eq!(of(vec![peak("stress/long", Task::Stress, 1.0)]), Err(NoAdvice::NoPeak));
    let advice = Advice::of(&record(vec![peak("short/b1", Task::Generate, MIB)]));
    assert_eq!(advice.memory.map(|advice| advice.bytes), Ok(256 << 20));
    assert_eq!(advice.device_memory, Err(NoAdvice::NoPeak));
}

#[test]
fn the_score_is_ten_times_the_geometric_mean_of_what_was_measured() {
    let mut single = batched("short/b1", 1, 20.0);
    single.blocks[0].values.insert("roofline_fraction".into(), Some(0.5));
    let mut latencies = vec![1.0; 20];
    latencies[19] = 3.0; // The 95th percentile of twenty is 5 % of the way to the largest: 1.1.
    let cases = vec![
        single,
        batched("short/b4", 4, 64.0),
        depth("context/0", 20.0),
        depth("context/512", 10.0),
        case("consistency/answer", vec![sampled(&[("e2e_s", &latencies)])]),
        failed("long/b1", "killed"),
        unsupported("code/b1", "no such thing"),
        absent("code/b4", AbsenceKind::SkippedTime, "no time"),
        failed("stress/long", "killed"),
        invalid(batched("medium/b1", 1, 1e9)),
    ];
    let score = Score::of(&record(cases));
    let values: Vec<(ScorePartKind, f64)> =
        score.parts.iter().map(|part| (part.kind, part.value.unwrap())).collect();
    let expected = [
        (ScorePartKind::Roofline, 0.5),
        (ScorePartKind::BatchEfficiency, 0.8),
        (ScorePartKind::ContextRetention, 0.5),
        (ScorePartKind::Consistency, 1.0 / 1.1),
        (ScorePartKind::Success, 5.0 / 7.0),
    ];
    for ((kind, value), (expected_kind, expected)) in values.into_iter().zip(expected) {
        assert_eq!(kind, expected_kind);
        near(value, expected);
    }
    near(score.value.unwrap(), 10.0 * (0.5 * 0.8 * 0.5 / 1.1 * 5.0 / 7.0f64).powf(0.2));
}

#[test]
fn slow_requests_lower_the_score_and_do_not_end_it() {
    let consistency = |slow: f64| {
        let times = [vec![1.0; 18], vec![slow; 2]].concat();
        let cases = vec![case("consistency/answer", vec![sampled(&[("e2e_s", &times)])])];
        Score::of(&record(cases)).parts[3].value.unwrap()
    };
    for (slow, expected) in [(1.0, 1.0), (2.0, 0.5), (4.0, 0.25)] {
        near(consistency(slow), expected);
    }
}

#[test]
fn a_score_needs_three_parts_and_says_which_are_missing() {
    let mut single = batched("short/b1", 1, 20.0);
    single.blocks[0].values.insert("roofline_fraction".into(), None);
    let two = Score::of(&record(vec![single.clone(), batched("short/b8", 8, 160.0)]));
    assert_eq!(two.value, None, "batches and success are two parts");
    assert_eq!((two.parts[1].value, two.parts[2].value), (Some(1.0), None));
    let three = vec![
        single,
        batched("short/b8", 8, 200.0), // Clamped to 1.
        depth("context/0", 20.0),
        depth("context/512", 20.0),
    ];
    near(Score::of(&record(three)).value.unwrap(), 10.0);
}
