//! Scenarios, their ids and prompts, and the table of metrics.

use sha2::Digest as _;

use super::*;

fn ids(words: &[&str]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
    select(&words).unwrap().into_iter().map(|scenario| scenario.id).collect()
}

#[test]
fn fixtures_have_the_same_lines_in_every_checkout() {
    const UNIX: &str = unix_lines!("a\r\nb\rc\n\r\n");
    assert_eq!(UNIX, "a\nb\rc\n\n");
}

#[test]
fn the_running_text_is_that_of_all_records() {
    let sha256 = sha2::Sha256::digest(RUNNING_TEXT);
    let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sha256, "641b7c39efd4a04a5ed1d181d52b38a52c98a09335cd3bd830b3da237d244bc0");
}

#[test]
fn words_select_by_suite_by_segment_and_by_part() {
    assert_eq!(ids(&[]).len(), CATEGORIES.len() * BATCHES.len());
    assert_eq!(ids(&["short"]), ["short/b1", "short/b4", "short/b8", "short/b16"]);
    assert_eq!(ids(&["code/b4"]), ["code/b4"]);
    let single: Vec<String> =
        CATEGORIES.iter().map(|category| format!("{}/b1", category.name)).collect();
    assert_eq!(ids(&["b1"]), single);
    assert_eq!(ids(&["prompts"]).len(), 3 * CATEGORIES.len());
    assert_eq!(ids(&["code-2"]), ["prompts/code-2"]);
    assert_eq!(ids(&["api/chat"]), ["api/chat"], "and not `api/chat-thinking`");
    assert_eq!(ids(&["S3"]), ["grid/S3"]);
    assert_eq!(ids(&["code/b4", "code"]).len(), 4, "nothing is run twice");
}

#[test]
fn every_scenario_is_known_by_one_id() {
    let known = super::ids();
    assert_eq!(known[0], "short/b1");
    for suite in SUITES {
        let scenarios = (suite.scenarios)();
        assert!(scenarios.iter().all(|one| known.contains(&one.id)), "{}", suite.name);
    }
    for (at, id) in known.iter().enumerate() {
        assert!(!known[..at].contains(id), "{id} is there twice");
    }
}

#[test]
fn a_conversation_and_a_prefix_have_ids() {
    let turns = ["conversation/turn-1", "conversation/turn-2", "conversation/turn-3"];
    let last = ["conversation/turn-4", "prefix-1024/cold", "prefix-1024/warm"];
    assert_eq!(ids(&["conversation"]), [turns, last].concat());
    assert_eq!(ids(&["prefix-1024"]), last[1..]);
    let turn = &select(&["conversation/turn-3".into()]).unwrap()[0];
    assert!(turn.prompts()[0].contains("three loaves"), "{:?}", turn.prompts());
    assert_eq!(messages_before(3).len(), 2);
    assert_eq!(messages_before(1), [""; 0]);
}

#[test]
fn an_unknown_word_names_the_nearest() {
    let error = select(&["shrot".into()]).unwrap_err().to_string();
    assert!(error.contains("did you mean `short`?"), "{error}");
}

#[test]
fn sequences_of_a_batch_differ_from_the_start() {
    for scenario in suites::by_batch() {
        let prompts = scenario.prompts();
        for (i, one) in prompts.iter().enumerate() {
            assert!(!one.trim().is_empty());
            for other in &prompts[i + 1..] {
                assert_ne!(one.get(..8), other.get(..8), "{}", scenario.id);
            }
        }
    }
}
