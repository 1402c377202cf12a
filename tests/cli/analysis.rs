//! The statistics of a stored pair against those that `fixtures/analyse.py` computed with scipy.

use candlemark::compare::Policy;
use candlemark::compare::paired::judge;

use crate::{golden, inputs};

#[test]
fn a_stored_pair_gives_the_numbers_of_scipy() {
    let expected = std::fs::read_to_string(golden("analysed.json")).unwrap();
    let expected: Vec<serde_json::Value> = serde_json::from_str(&expected).unwrap();
    let judgement = judge(&inputs::pair("analysed"), &Policy::default());
    assert_eq!(judgement.findings.len(), expected.len());
    for (finding, expected) in judgement.findings.iter().zip(&expected) {
        let change = finding.change.as_ref().unwrap();
        let evidence = change.evidence.unwrap();
        let name = format!("{} of {}", finding.metric.unwrap().name, finding.scenario);
        assert_eq!(expected["scenario"], finding.scenario);
        assert_eq!(expected["metric"], finding.metric.unwrap().name);
        assert_eq!(expected["blocks"], finding.changes.len(), "{name}");
        let verdict = serde_json::to_value(&finding.verdict).unwrap();
        assert_eq!(expected["verdict"], verdict["is"], "{name}");
        for (what, ours, scipys) in [
            ("theta", change.theta, &expected["theta"]),
            ("error", evidence.standard_error, &expected["error"]),
            ("freedom", evidence.freedom, &expected["freedom"]),
            ("single.lo", evidence.ci_90.lo, &expected["single"][0]),
            ("single.hi", evidence.ci_90.hi, &expected["single"][1]),
            ("pass", evidence.pass_bound, &expected["pass"]),
            ("family.lo", evidence.ci_familywise.lo, &expected["family"][0]),
            ("family.hi", evidence.ci_familywise.hi, &expected["family"][1]),
            ("smallest", evidence.smallest_detectable, &expected["smallest"]),
        ] {
            let scipys = scipys.as_f64().unwrap();
            assert!((ours - scipys).abs() <= 1e-10, "{what} of {name}: {ours} is not {scipys}");
        }
    }
}
