//! Notes for readers of the verdicts: conditions under which the numbers were measured.

use std::collections::BTreeSet;

use crate::compare::{
    BLOCKS_NEEDED, Finding, PairSummary, SESSIONS_NEEDED, Verdict, Why, normalized,
};
use crate::error::counted;
use crate::record::Record;
use crate::record::calibration::Calibration;
use crate::record::pair::{Ended, PairRecord};
use crate::settings::ServerBlocks;
use crate::workload;

/// Notes on a run against a stored baseline.
pub(super) fn record_notes(
    baseline: &Record,
    calibration: Option<&Calibration>,
    current: &Record,
    findings: &[Finding],
) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(injected) = &current.injected {
        notes.push(format!("this run was slowed down on purpose: {injected}"));
    }
    let known = |id: &str| baseline.sessions.iter().any(|session| session.id == id);
    if current.sessions.iter().any(|session| known(&session.id)) {
        notes.push("this run is part of the baseline: it is compared with itself".into());
    }
    let harness = |record: &Record| record.sessions.first().map(|session| session.harness.clone());
    if let (Some(old), Some(new)) = (harness(baseline), harness(current))
        && old != new
    {
        notes.push(format!(
            "the baseline was measured by `{old}` and this run by `{new}`, which warm up and \
             repeat differently: this may explain a small change"
        ));
    }
    notes.extend(other_tool_notes(current, findings));
    let conditions = current.sessions.iter().flat_map(|session| &session.conditions);
    let steal = conditions.filter_map(|one| one.steal).fold(0.0, f64::max);
    if steal > 0.05 {
        notes.push(format!("other guests of the host took {:.0} % of the CPU time", 100.0 * steal));
    }
    notes.extend(calibration_notes(baseline, calibration, findings));
    notes.extend(rename_notes(baseline, current, findings));
    notes.extend(normalized::notes(baseline, current));
    let (before, now) = (&baseline.machine.rates, &current.machine.rates);
    // Rates that were measured with different instructions cannot be compared.
    let f32_before = before.f32_flop_per_s.filter(|_| before.isa == now.isa);
    for (what, old, new) in [
        ("memory read rate", before.read_bytes_per_s, now.read_bytes_per_s),
        ("read rate with huge pages", before.read_huge_bytes_per_s, now.read_huge_bytes_per_s),
        ("f32 rate", f32_before, now.f32_flop_per_s),
    ] {
        let drift = old.zip(new).filter(|(old, _)| *old > 0.0).map(|(old, new)| new / old - 1.0);
        if let Some(drift) = drift.filter(|drift| drift.abs() > 0.10) {
            notes.push(format!(
                "the machine's {what} changed by {:+.0} % since the baseline: the machine changed, \
                 or was busy",
                100.0 * drift
            ));
        }
    }
    if current.build.is_unoptimized() {
        notes.push(format!(
            "this run is of an unoptimized build (profile `{}`)",
            current.build.profile
        ));
    }
    for case in &current.scenarios {
        notes
            .extend(case.validity.warnings.iter().map(|warning| format!("{}: {warning}", case.id)));
    }
    notes
}

/// What the results of another tool leave open.
fn other_tool_notes(current: &Record, findings: &[Finding]) -> Vec<String> {
    let Some((tool, leaves_open)) = current.other_tool() else { return Vec::new() };
    let mut notes = vec![format!("measured by {tool}: {leaves_open}")];
    let is_single = |finding: &Finding| finding.verdict == Verdict::Undecided(Why::TooFewBlocks);
    if findings.iter().any(is_single) {
        notes.push("one result is one run, and one run has no interval".into());
    }
    notes
}

/// How well the machine's own variation is known, and what that leaves undecided.
fn calibration_notes(
    baseline: &Record,
    calibration: Option<&Calibration>,
    findings: &[Finding],
) -> Vec<String> {
    let judged: Vec<&Finding> =
        findings.iter().filter(|finding| finding.change.is_some()).collect();
    if judged.is_empty() {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let sessions = baseline.sessions.len();
    let thin = judged.iter().filter(|finding| finding.base_blocks.len() < BLOCKS_NEEDED).count();
    let uncertain = (sessions < SESSIONS_NEEDED && calibration.is_none()) || thin > 0;
    if uncertain {
        notes.push(format!(
            "the baseline is uncalibrated: it has {} and {thin} of {} metrics \
             have fewer than {BLOCKS_NEEDED} blocks; a verdict needs {SESSIONS_NEEDED} sessions \
             and {BLOCKS_NEEDED} blocks, so a standard deviation of 3 % between sessions is \
             assumed and no regression is called",
            counted(sessions, "session"),
            judged.len(),
        ));
    }
    match calibration {
        Some(calibration) => {
            let last = calibration.sessions.iter().map(|session| session.started.as_str()).max();
            let day = last.and_then(|last| last.get(..10)).unwrap_or("an unknown day");
            let of = calibration.sessions.len();
            notes.push(format!("calibrated on {day} from {}", counted(of, "session")));
        }
        None if uncertain => {}
        None => notes.push(
            "uncalibrated: a standard deviation of 0.5 % between two builds of one source is \
             assumed, and between sessions that of the baseline; `candlemark calibrate` measures \
             both"
                .into(),
        ),
    }
    notes
}

/// New scenarios that do the same work as a missing one.
fn rename_notes(baseline: &Record, current: &Record, findings: &[Finding]) -> Vec<String> {
    let whole = |is: fn(&Verdict) -> bool| {
        findings
            .iter()
            .filter(move |finding| finding.metric.is_none() && is(&finding.verdict))
            .map(|finding| finding.scenario.as_str())
    };
    let is_new = |verdict: &Verdict| *verdict == Verdict::New;
    let is_missing = |verdict: &Verdict| matches!(verdict, Verdict::Missing(_));
    let mut notes = Vec::new();
    for (new, case) in whole(is_new).filter_map(|id| Some((id, current.case(id)?))) {
        let same = |old: &&str| {
            let work = baseline.case(old).map(|case| &case.work);
            current.case(old).is_none()
                && work.is_some_and(|work| !work.prompts_sha256.is_empty() && *work == case.work)
        };
        if let Some(old) = whole(is_missing).find(same) {
            notes.push(format!("`{new}` looks like `{old}` under a new name"));
        }
    }
    notes
}

/// Notes on a pair.
pub(super) fn pair_notes(paired: &PairRecord, summary: &PairSummary) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, arm) in [("base", &paired.base), ("candidate", &paired.candidate)] {
        if let Some(injected) = &arm.injected {
            notes.push(format!("the {name} was slowed down on purpose: {injected}"));
        }
        if !arm.missing_features.is_empty() {
            let missing = arm.missing_features.join("`, `");
            notes.push(format!(
                "the {name} was built without `{missing}`: its tree does not have what is on by \
                 default now"
            ));
        }
    }
    if let Some(why) = &paired.output_change {
        notes.push(format!("the output is meant to change: {why}"));
    }
    if paired.duet {
        let threads = paired.candidate.settings.threads;
        notes.push(format!(
            "both builds ran at the same time, each on half of the CPUs with {}",
            counted(threads, "thread")
        ));
    }
    match &paired.ended {
        Ended::Identical => {
            notes.push("both binaries are equal byte for byte: nothing was measured".into());
        }
        Ended::Budget => notes.push("out of time: what is undecided stays undecided".into()),
        Ended::Interrupted => {
            notes.push("interrupted: this is the verdict of the blocks so far".into());
        }
        Ended::Failed(why) => notes.push(format!("measuring failed: {why}")),
        Ended::Open => notes.push("measuring was cut off: this is the verdict so far".into()),
        Ended::Decided | Ended::Looks | Ended::Rejected => {}
    }
    for null in &summary.null {
        let word = if null.contaminated { "CONTAMINATED: " } else { "" };
        notes.push(format!(
            "{word}the base against a copy of itself, {} of {}: {:+.2} % of cost [{:+.2}, {:+.2}]",
            workload::metric(null.metric).map_or(null.metric, |metric| metric.label),
            null.scenario,
            100.0 * null.theta.exp_m1(),
            100.0 * null.interval.lo.exp_m1(),
            100.0 * null.interval.hi.exp_m1(),
        ));
    }
    if !summary.rejected.is_empty() {
        let reasons: BTreeSet<&str> = summary.rejected.iter().map(String::as_str).collect();
        notes.push(format!(
            "{} of {} blocks were rejected and measured again: {}",
            summary.rejected.len(),
            paired.blocks.len(),
            reasons.into_iter().collect::<Vec<_>>().join("; ")
        ));
    }
    let server =
        [&paired.candidate, &paired.base].into_iter().find_map(|arm| arm.settings.server.as_ref());
    if let Some(server) = server {
        notes.push(match server.blocks {
            ServerBlocks::Windows => {
                "blocks are windows of time on servers that ran on, each with \
                a fresh client process: what a restart of a server changes is not covered"
                    .into()
            }
            ServerBlocks::Restarts => "every block started both servers anew".into(),
        });
    }
    let has_layout = server.is_none() && paired.ended != Ended::Identical;
    if paired.layout.is_empty() && has_layout {
        notes.push(
            "the effect of code layout was not measured here: a standard deviation of 0.5 % is \
             assumed; `candlemark calibrate` measures it"
                .into(),
        );
    }
    let mut unread = BTreeSet::new();
    for side in paired.scenarios.iter().flat_map(|case| [&case.base, &case.candidate]) {
        unread
            .extend(side.no_value.iter().map(|(name, why)| format!("{name} has no value: {why}")));
    }
    notes.extend(unread);
    notes
}
