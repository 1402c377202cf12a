//! What differs between two records beside their numbers, and whether it forbids a comparison.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::compare::paired::Course;
use crate::compare::{BLOCKS_NEEDED, Finding, Grounds, SESSIONS_NEEDED, Verdict, normalised};
use crate::record::calibration::Calibration;
use crate::record::pair::{Arm, Ended, Paired, Parting};
use crate::record::{Record, Work};
use crate::workload;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name, as `machine: cpu`.
    pub field: String,
    /// In the baseline.
    pub old: String,
    /// In the run.
    pub new: String,
    /// Whether it forbids a comparison.
    pub weight: Weight,
}

/// Whether a difference forbids a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The numbers mean different things.
    Blocks,
    /// It may be what changed them.
    Informs,
}

/// Settings that change how often something is measured, not what.
const HOW_OFTEN: &[&str] = &["iters", "warmup_tokens", "warmups"];

/// Everything in which a run differs from what it is judged by, which must not have been slowed
/// down on purpose.
pub fn differences(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let injected = old.injected.as_ref().map(|injected| Difference {
        field: "slowdown on purpose, which a baseline must not have,".into(),
        old: injected.clone(),
        new: "none".into(),
        weight: Weight::Blocks,
    });
    injected.into_iter().chain(between(old, new, allow_class)).collect()
}

/// Everything that differs between two records, slowdowns on purpose aside. Machines differ when
/// their classes do, unless `allow_class` lets the old one stand in for the new one; model, engine
/// and generation settings must be equal.
pub fn between(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut field = |weight: Weight, field: &str, old: &str, new: &str| {
        if old != new {
            found.push(Difference {
                field: field.into(),
                old: old.into(),
                new: new.into(),
                weight,
            });
        }
    };
    use Weight::{Blocks, Informs};

    let (before, now) = (&old.machine, &new.machine);
    let allowed = allow_class.get(&now.class) == Some(&before.class);
    let machine = if allowed { Informs } else { Blocks };
    field(machine, "machine class", &before.class, &now.class);
    if before.class != now.class {
        let names: BTreeSet<&String> = before.fields.keys().chain(now.fields.keys()).collect();
        for name in names {
            let value = |fields: &BTreeMap<String, String>| {
                fields.get(name).cloned().unwrap_or_else(|| "absent".into())
            };
            field(
                machine,
                &format!("machine: {name}"),
                &value(&before.fields),
                &value(&now.fields),
            );
        }
    }
    let (before, now) = (&old.model, &new.model);
    field(Blocks, "model: sha256", short(&before.sha256), short(&now.sha256));
    field(Blocks, "model: quant", &before.quant, &now.quant);
    field(Blocks, "model: kv_dtype", &before.kv_dtype, &now.kv_dtype);
    field(Blocks, "model: rope_scaling", &json(&before.rope_scaling), &json(&now.rope_scaling));
    field(Informs, "model: spec", &before.spec, &now.spec);
    if let (Some(before), Some(now)) = (&before.isa, &now.isa) {
        field(Informs, "model: isa", before, now);
    }
    let (before, now) = (&old.settings, &new.settings);
    field(Blocks, "settings: engine", &before.engine, &now.engine);
    field(Blocks, "settings: device", &before.device, &now.device);
    field(Blocks, "settings: threads", &before.threads.to_string(), &now.threads.to_string());
    each(&before.generation, &now.generation, |name, old, new| {
        let weight = if HOW_OFTEN.contains(&name) { Informs } else { Blocks };
        field(weight, &format!("settings: {name}"), old, new);
    });
    each(&before.environment, &now.environment, |name, old, new| field(Informs, name, old, new));
    each(&old.build, &new.build, |name, old, new| {
        if name != "crates" && name != "binary_sha256" {
            field(Informs, &format!("build: {name}"), short(old), short(new));
        }
    });
    each(&old.build.crates, &new.build.crates, |name, old, new| {
        field(Informs, &format!("crate {name}"), old, new)
    });
    found
}

/// What differs in the exact work of a scenario.
pub(crate) fn work(old: &Work, new: &Work) -> Option<String> {
    let mut fields = Vec::new();
    each(old, new, |name, old, new| {
        if old != new {
            fields.push(format!("{name} was {} and is {}", short(old), short(new)));
        }
    });
    (!fields.is_empty()).then(|| fields.join(", "))
}

/// What a reader of the verdict has to know.
pub(super) fn notes(grounds: &Grounds, current: &Record, findings: &[Finding]) -> Vec<String> {
    let Grounds { baseline, calibration, .. } = *grounds;
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
            "the baseline was measured by `{old}` and this run by `{new}`, which warm up and repeat differently: \
             a small change may be theirs"
        ));
    }
    let conditions = current.sessions.iter().flat_map(|session| &session.conditions);
    let steal = conditions.filter_map(|one| one.steal).fold(0.0, f64::max);
    if steal > 0.05 {
        notes.push(format!("other guests of the host took {:.0} % of the CPU time", 100.0 * steal));
    }
    notes.extend(calibrated(baseline, calibration, findings));
    notes.extend(renamed(baseline, current, findings));
    notes.extend(normalised::notes(baseline, current));
    let (before, now) = (&baseline.machine.rates, &current.machine.rates);
    // Measured with other instructions, or by a matrix product as before, it is another figure.
    let f32_before = before.f32_flop_per_s.filter(|_| before.isa == now.isa);
    for (what, old, new) in [
        ("memory read rate", before.read_bytes_per_s, now.read_bytes_per_s),
        ("read rate with huge pages", before.read_huge_bytes_per_s, now.read_huge_bytes_per_s),
        ("f32 rate", f32_before, now.f32_flop_per_s),
    ] {
        let drift = old.zip(new).filter(|(old, _)| *old > 0.0).map(|(old, new)| new / old - 1.0);
        if let Some(drift) = drift.filter(|drift| drift.abs() > 0.10) {
            notes.push(format!(
                "the machine's own {what} is {:+.0} % from the baseline's: the machine changed, or was busy",
                100.0 * drift
            ));
        }
    }
    if current.build.is_unoptimised() {
        notes.push(format!(
            "this run is of an unoptimised build (profile `{}`)",
            current.build.profile
        ));
    }
    for case in &current.scenarios {
        notes
            .extend(case.validity.warnings.iter().map(|warning| format!("{}: {warning}", case.id)));
    }
    notes
}

/// What is known of the machine, and what that leaves undecided.
fn calibrated(
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
    let s = |count: usize| if count == 1 { "" } else { "s" };
    let thin = judged.iter().filter(|finding| finding.base_blocks.len() < BLOCKS_NEEDED).count();
    let uncertain = (sessions < SESSIONS_NEEDED && calibration.is_none()) || thin > 0;
    if uncertain {
        notes.push(format!(
            "the baseline is uncalibrated: it has {sessions} session{} and {thin} of {} metrics have fewer than \
             {BLOCKS_NEEDED} blocks; a verdict needs {SESSIONS_NEEDED} sessions and {BLOCKS_NEEDED} blocks, so \
             sessions are taken to differ by 3 % and nothing can be called a regression",
            s(sessions),
            judged.len(),
        ));
    }
    match calibration {
        Some(calibration) => {
            let last = calibration.sessions.iter().map(|session| session.started.as_str()).max();
            let day = last.and_then(|last| last.get(..10)).unwrap_or("an unknown day");
            let of = calibration.sessions.len();
            notes.push(format!("calibrated on {day} from {of} session{}", s(of)));
        }
        None if uncertain => {}
        None => notes.push(
            "uncalibrated: two builds of one source are taken to differ by 0.5 %, and sessions by as much as those of \
             the baseline; `candlemark calibrate` measures both"
                .into(),
        ),
    }
    notes
}

/// Scenarios that are new and do the work of one that is missing.
fn renamed(baseline: &Record, current: &Record, findings: &[Finding]) -> Vec<String> {
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

/// What differs between two builds beside their numbers. Their trees and compilers may differ: that
/// is what is judged.
pub(super) fn between_arms(base: &Arm, candidate: &Arm) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut field = |weight: Weight, field: &str, old: &str, new: &str| {
        if old != new {
            let (field, old, new) = (field.into(), short(old).into(), short(new).into());
            found.push(Difference { field, old, new, weight });
        }
    };
    let never = ["binary_sha256", "crates", "lock_sha256"];
    each(&base.build, &candidate.build, |name, old, new| {
        if !never.contains(&name) {
            field(Weight::Informs, &format!("build: {name}"), old, new);
        }
    });
    each(&base.build.crates, &candidate.build.crates, |name, old, new| {
        field(Weight::Informs, &format!("crate {name}"), old, new);
    });
    each(&base.model, &candidate.model, |name, old, new| {
        field(Weight::Informs, &format!("model: {name}"), old, new);
    });
    each(&base.settings, &candidate.settings, |name, old, new| {
        field(Weight::Informs, &format!("settings: {name}"), old, new);
    });
    found
}

/// Where two outputs part.
pub(super) fn parting(parting: &Parting) -> String {
    let token = |token: Option<u32>| token.map_or("the end".into(), |token| token.to_string());
    format!(
        "token {} of sequence {} was {} and is {}",
        parting.token + 1,
        parting.sequence + 1,
        token(parting.base),
        token(parting.candidate)
    )
}

/// What a reader of a pair's verdict has to know.
pub(super) fn pair_notes(paired: &Paired, course: &Course) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, arm) in [("base", &paired.base), ("candidate", &paired.candidate)] {
        if let Some(injected) = &arm.injected {
            notes.push(format!("the {name} was slowed down on purpose: {injected}"));
        }
    }
    if let Some(why) = &paired.output_change {
        notes.push(format!("the output is meant to change: {why}"));
    }
    if paired.duet {
        let threads = paired.candidate.settings.threads;
        let s = if threads == 1 { "" } else { "s" };
        notes.push(format!(
            "both builds ran at once, each on half of the CPUs with {threads} thread{s}"
        ));
    }
    match &paired.ended {
        Ended::Identical => {
            notes.push("both binaries are equal byte for byte: nothing was measured".into());
        }
        Ended::Budget => notes.push("out of time: what is undecided stays so".into()),
        Ended::Interrupted => {
            notes.push("interrupted: this is the verdict of the blocks so far".into());
        }
        Ended::Failed(why) => notes.push(format!("measuring failed: {why}")),
        Ended::Open => notes.push("measuring was cut off: this is the verdict so far".into()),
        Ended::Decided | Ended::Looks | Ended::Rejected => {}
    }
    for null in &course.null {
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
    if !course.rejected.is_empty() {
        notes.push(format!(
            "{} of {} blocks were rejected and measured again: {}",
            course.rejected.len(),
            paired.blocks.len(),
            course
                .rejected
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join("; ")
        ));
    }
    if paired.layout.is_empty() && paired.ended != Ended::Identical {
        notes.push(
            "how much the layout of code matters here was not measured: 0.5 % is assumed; \
             `candlemark calibrate` measures it"
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

/// Calls `with` for each field of either value, as text; a field that is not there is `null`.
fn each<T: Serialize>(old: &T, new: &T, mut with: impl FnMut(&str, &str, &str)) {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("a struct or map of plain data is an object"),
    };
    let (old, new) = (fields(old), fields(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let text = |value: Option<&serde_json::Value>| match value {
        None => "null".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    for name in names {
        with(name, &text(old.get(name)), &text(new.get(name)));
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

/// A hash as people quote it; anything else as it is.
fn short(text: &str) -> &str {
    let hash = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash { &text[..12] } else { text }
}
