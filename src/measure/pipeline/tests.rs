//! Pipeline samples without a model: counts and failures.

use super::*;

fn samples() -> PipelineSamples {
    PipelineSamples::new(Work::default(), 2)
}

#[test]
fn items_are_counted_by_the_minute() {
    assert_eq!(per_minute(12, Duration::from_secs(3)), 240.0);
    let mut set = samples();
    set.add_pass(vec![Ok(vec![7]), Ok(vec![8])], Duration::from_secs(4)).unwrap();
    assert_eq!(set.block.samples["items_per_min"], [30.0]);
    assert_eq!(set.block.samples["error_rate"], [0.0]);
    assert_eq!(set.output, Some(vec![vec![7], vec![8]]));
    assert_eq!(set.validity.failed, [""; 0]);
}

#[test]
fn a_document_that_fails_is_counted_and_makes_the_case_invalid() {
    let mut set = samples();
    set.add_pass(vec![Ok(vec![7]), Err("too long".into())], Duration::from_secs(2)).unwrap();
    assert_eq!(set.block.samples["items_per_min"], [30.0], "one document in two seconds");
    assert_eq!(set.block.samples["error_rate"], [0.5]);
    assert_eq!(set.validity.failed, ["1 of 2 items failed; the first: too long"]);
    let error = set.add_pass(vec![Err("a".into()), Err("b".into())], Duration::from_secs(2));
    assert_eq!(error.unwrap_err().to_string(), "2 of 2 items failed; the first: a");
}

#[test]
fn passes_must_give_the_same() {
    let mut set = samples();
    for output in [7, 7, 9, 9] {
        set.add_pass(vec![Ok(vec![output])], Duration::from_secs(1)).unwrap();
    }
    assert!(set.differs);
    assert_eq!(set.validity.failed, [""; 0], "sampled output may differ");
    assert_eq!(set.output, Some(vec![vec![7]]));
}
