//! Rules on simulated pools, where the true change is known.

use super::rule::{PairedBlock, RuleInput, RuleVerdict};
use super::rules::RuleKind;
use super::*;
use crate::inputs::pools::*;
use crate::record::pool::Pool;

fn replay(pool: &Pool, runs: usize, names: &[&str]) -> Evaluation {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let plan = ReplayPlan { runs, seed: 1, rules: rules(&names).unwrap() };
    evaluate(std::slice::from_ref(pool), &plan).unwrap()
}

fn figure(evaluation: &Evaluation, rule: &str, column: &str, name: &str) -> f64 {
    evaluation.columns[rule][column].get(name).unwrap_or_else(|| panic!("no {name} of {rule}"))
}

#[test]
fn without_noise_every_change_is_detected_and_no_alarm_is_false() {
    let size = Size { scenarios: 2, blocks: 34, rounds: 2 };
    let evaluation = replay(&pool(&[NOISELESS], size, ALL), 20, &[]);
    assert_eq!(evaluation.judged, 60);
    assert_eq!(evaluation.rules.len(), RULES.len());
    for rule in RULES {
        let of = |name| figure(&evaluation, rule.name, "quiet", name);
        for name in ["false_alarm", "suite_false_alarm", "suite_false_alarm_layout"] {
            assert_eq!(of(name), 0.0, "{} {name}", rule.name);
        }
        assert_eq!(of("suite_pass_unchanged"), 1.0, "{}", rule.name);
        assert!(of("bias").abs() < 1e-9, "{}", rule.name);
        if rule.name.starts_with("ours") {
            for (name, expected) in [
                ("detect_3", 0.0),
                ("detect_7_5", 1.0),
                ("detect_10", 1.0),
                ("detect_20", 1.0),
                ("detect_ttft_20", 1.0),
                ("detect_memory_20", 1.0),
                ("pass_3", 1.0),
                ("pass_5", 0.0),
                ("inconclusive", 0.0),
                ("coverage", 1.0),
            ] {
                assert_eq!(of(name), expected, "{} {name}", rule.name);
            }
            let first = match rule.name {
                "ours_from_8" | "ours_before" => 8.0,
                _ => 5.0,
            };
            // Two rounds a block, except for memory.
            let blocks = match rule.name {
                "ours_one_process" => (3.0 + 3.0 + first) / 3.0,
                _ => first,
            };
            assert!((of("blocks") - blocks).abs() < 0.3, "{}", rule.name);
        }
    }
    // 5 blocks of three processes that take 0.1 s each to start; per block 20 scenarios of two arms
    // with 0.2 s of warm-up and two rounds of 0.5 s.
    let seconds = figure(&evaluation, "ours", "quiet", "seconds");
    assert!((seconds - 5.0 * (0.3 + 20.0 * 2.0 * 1.2)).abs() < 1e-6, "{seconds}");
}

#[test]
fn the_same_pool_and_seed_give_the_same_figures() {
    let size = Size { scenarios: 2, blocks: 40, rounds: 1 };
    let hosts = [TYPICAL, BAD];
    let names = ["ours", "criterion", "naive_5"];
    let pool = pool(&hosts, size, "N7");
    let first = replay(&pool, 200, &names);
    assert_eq!(replay(&pool, 200, &names), first);
    let rules = rules(&["ours".to_owned()]).unwrap();
    let other =
        evaluate(std::slice::from_ref(&pool), &ReplayPlan { runs: 200, seed: 2, rules }).unwrap();
    assert_ne!(other.columns["ours"], first.columns["ours"]);
}

#[test]
fn what_a_pool_lacks_is_absent() {
    let size = Size { scenarios: 1, blocks: 33, rounds: 1 };
    let evaluation = replay(&pool(&[QUIET], size, "N"), 10, &["ours"]);
    let figures = &evaluation.columns["ours"]["quiet"];
    assert!(figures.get("pass_unchanged").is_some());
    assert!(figures.get("detect_10").is_some(), "a slowdown can be computed from the copy");
    assert_eq!(figures.get("detect_memory_20"), None, "memory cannot");
    assert_eq!(figures.get("suite_false_alarm_layout"), None);
    assert!(!evaluation.columns["ours"].contains_key("hostile"));
    let hostile = evaluation.targets.iter().filter(|result| result.column.name() == "hostile");
    assert!(
        hostile.clone().count() > 0
            && hostile.clone().all(|result| result.status == GateTargetStatus::NotMeasured)
    );
    let short = pool(&[QUIET], Size { blocks: 23, ..size }, "N");
    let plan = ReplayPlan { runs: 1, seed: 1, rules: RULES.iter().collect() };
    let error = evaluate(std::slice::from_ref(&short), &plan).unwrap_err().to_string();
    assert!(error.contains("`quiet` has 23 accepted blocks; a replay needs 24"), "{error}");
    let error = rules(&["our".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("did you mean `ours`?"), "{error}");
}

/// Loose bands around section 8 of `gate.md`, for a naive rule and this gate without the term for
/// code layout.
#[test]
fn simulated_noise_gives_the_expected_rates() {
    let size = Size { scenarios: 2, blocks: 400, rounds: 1 };
    let evaluation =
        replay(&pool(&[QUIET, TYPICAL, BAD], size, "N357T"), 300, &["ours_no_layout", "naive_5"]);
    for (rule, column, name, low, high) in [
        ("naive_5", "quiet", "detect_7_5", 0.90, 1.0),
        ("naive_5", "typical", "detect_5", 0.42, 0.58),
        ("naive_5", "typical", "detect_7_5", 0.80, 0.95),
        ("naive_5", "hostile", "detect_10", 0.74, 0.92),
        ("ours_no_layout", "quiet", "pass_unchanged", 0.999, 1.0),
        ("ours_no_layout", "quiet", "detect_7_5", 0.99, 1.0),
        ("ours_no_layout", "typical", "pass_unchanged", 0.995, 1.0),
        ("ours_no_layout", "typical", "detect_3", 0.0, 0.03),
        ("ours_no_layout", "typical", "pass_5", 0.0, 0.08),
        ("ours_no_layout", "typical", "detect_7_5", 0.98, 1.0),
        ("ours_no_layout", "hostile", "false_alarm", 0.0, 0.005),
        ("ours_no_layout", "hostile", "detect_7_5", 0.85, 1.0),
    ] {
        let found = figure(&evaluation, rule, column, name);
        assert!((low..=high).contains(&found), "{rule} {column} {name}: {found}");
    }
}

#[test]
fn counterbalanced_turns_cancel_a_drift() {
    let host = Host { drift: 0.002, turn: 0.001, ..NOISELESS };
    let size = Size { scenarios: 1, blocks: 60, rounds: 1 };
    let evaluation = replay(&pool(&[host], size, "N7"), 50, &["ours", "ours_no_abba"]);
    let coverage = |rule| figure(&evaluation, rule, "quiet", "coverage");
    assert!(coverage("ours") >= coverage("ours_no_abba"));
    let pool = pool(&[host], size, "N7");
    let turns = pool.environments[0].blocks[0].scenarios[0].paired(0);
    let metric = crate::workload::metric("decode_tok_s").unwrap();
    let block = PairedBlock::new(&turns, metric, '7', false).unwrap();
    let truth = -(-0.075f64).ln_1p();
    assert!((block.effect - truth).abs() < 0.003, "{block:?}");
    assert!((block.first_turns - truth).abs() >= 0.0015, "{block:?}");
    assert_eq!((block.base.len(), block.other.len(), block.rounds.len()), (2, 2, 1));
}

#[test]
fn rejected_blocks_do_not_count_and_can_withdraw_a_verdict() {
    let host = Host { rejected: 0.15, ..QUIET };
    let size = Size { scenarios: 1, blocks: 80, rounds: 1 };
    let pool = pool(&[host], size, "N7");
    let rejected = pool.environments[0].blocks.iter().filter(|block| block.rejected.is_some());
    assert!(rejected.count() > 5);
    let evaluation = replay(&pool, 200, &["ours"]);
    let of = |name| figure(&evaluation, "ours", "quiet", name);
    assert_eq!(of("pass_unchanged"), 1.0);
    assert!(of("blocks") > 5.3, "rejected blocks are measured, too");
}

#[test]
fn a_verdict_that_rejected_blocks_contradict_is_withdrawn() {
    let block = |effect: f64, rejected| PairedBlock {
        effect,
        first_turns: effect,
        rounds: vec![effect],
        base: vec![1.0],
        other: vec![effect.exp()],
        rejected,
    };
    let judge = |before: &PairedBlock, rule: &str| {
        let slow = block(0.08, false);
        let blocks = [vec![before; 8], vec![&slow; 32]].concat();
        let metric = crate::workload::metric("decode_tok_s").unwrap();
        let rule = RULES.iter().find(|one| one.name == rule).unwrap();
        let RuleKind::Joint(gate) = &rule.kind else { panic!("a rule of this gate") };
        let input = gate.prepare(RuleInput { blocks, metric });
        let output = gate.decide(&[&input], 60)[0];
        (output.verdict, output.blocks)
    };
    let (fast, slow) = (block(0.0, true), block(0.08, true));
    assert_eq!(judge(&slow, "ours"), (RuleVerdict::Regressed, 16));
    assert_eq!(judge(&fast, "ours"), (RuleVerdict::Undecided, 16));
    assert_eq!(judge(&fast, "ours_no_layout"), (RuleVerdict::Regressed, 16));
}

/// Prints the figures of every rule on the machines of section 8.
#[test]
#[ignore = "a table for people"]
#[expect(clippy::print_stdout, reason = "it is the point")]
fn operating_characteristics() {
    let size = Size { scenarios: 4, blocks: 4000, rounds: 1 };
    let layout = 0.005;
    let hosts = [QUIET, TYPICAL, BAD].map(|host| Host { layout, ..host });
    let evaluation = replay(&pool(&hosts, size, ALL), 4000, &[]);
    for (rule, columns) in &evaluation.columns {
        for (column, figures) in columns {
            println!("{rule:20} {column:8} {}", serde_json::to_string(figures).unwrap());
        }
    }
}

#[test]
fn confidence_intervals_use_verdicts_that_share_no_block() {
    let size = Size { scenarios: 2, blocks: 40, rounds: 1 };
    let quiet = pool(&[NOISELESS], size, "N7");
    let figures = |pools: &[Pool]| {
        let plan = ReplayPlan {
            runs: 5,
            seed: 1,
            rules: rules(&["ours".to_owned(), "naive_5".to_owned()]).unwrap(),
        };
        evaluate(pools, &plan).unwrap()
    };
    let one = figures(std::slice::from_ref(&quiet));
    let of = |evaluation: &Evaluation, rule: &str, name| {
        let Proportion { hits, cases } =
            evaluation.columns[rule]["quiet"].proportion(name).unwrap();
        (hits, cases)
    };
    // Two scenarios, 40 blocks: a verdict takes 5 where nothing moves and 8 for a regression, a
    // naive one takes 1.
    assert_eq!(of(&one, "ours", "pass_unchanged"), (3 * 16, 3 * 16));
    assert_eq!(of(&one, "ours", "detect_7_5"), (10, 10));
    assert_eq!(of(&one, "ours", "suite_false_alarm"), (0, 0), "16 scenarios are no suite of 20");
    assert_eq!(of(&one, "naive_5", "suite_false_alarm"), (0, 4));
    let two = figures(&[quiet.clone(), quiet]);
    assert_eq!(of(&two, "ours", "suite_false_alarm"), (0, 1));
    assert_eq!((two.pools.len(), two.environments.len()), (2, 2));
    assert_eq!(two.pools[1].columns["ours"], one.columns["ours"]);
    let alarms = two.targets.iter().find(|result| result.figure == "suite_false_alarm").unwrap();
    assert_eq!((alarms.status, alarms.value), (GateTargetStatus::NotShown, Some(0.0)));
}
