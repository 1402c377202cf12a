//! The record of a run: how it begins, and how results are merged into it.

use crate::engine::Injection;
use crate::error::{Result, command_words};
use crate::model::Progress;
use crate::record::{Case, Model, Record, RecordKind, SCHEMA, Session, Validity};
use crate::settings::Setup;
use crate::suite::job::ScenarioResult;
use crate::workload::Scenario;
use crate::{engine, machine, measure};

/// A record with everything but scenarios. Opens the model to hash it and measures the machine.
///
/// # Errors
/// When the model cannot be found or read.
pub(crate) fn new_record(
    setup: &Setup,
    harness: &str,
    injected: Option<String>,
    progress: &mut dyn Progress,
) -> Result<Record> {
    Injection::parse_if_any(&injected)?;
    let identity = engine::identify(setup, progress)?;
    let build = machine::build();
    let mut machine = machine::measured_by(setup);
    // Only the CPU's peak rates can be measured.
    if setup.device == "cpu" {
        machine.rates = measure::peak_rates(setup.threads, measure::ReadBudget::BRIEF)?;
    }
    let session = new_session(harness, build.commit.as_deref());
    Ok(Record {
        schema: SCHEMA,
        kind: RecordKind::Run,
        sessions: vec![session],
        build,
        machine,
        model: Model {
            spec: setup.model.clone(),
            sha256: identity.sha256,
            commit: identity.commit,
            ..Model::default()
        },
        settings: measure::describe_settings(setup),
        injected,
        scenarios: Vec::new(),
        not_selected: Vec::new(),
    })
}

/// A session that begins now.
pub(crate) fn new_session(harness: &str, commit: Option<&str>) -> Session {
    Session {
        id: machine::session_id(commit),
        started: machine::now(),
        ended: None,
        command: command_line(harness),
        harness: harness.into(),
        conditions: vec![machine::conditions()],
    }
}

/// The command line for the record. The program's name replaces its path, which differs between
/// machines.
fn command_line(harness: &str) -> Vec<String> {
    let name = if harness == "criterion" { "cargo bench --" } else { "candlemark" };
    let words = command_words().into_iter().filter(|word| word != "--bench");
    std::iter::once(name.to_owned()).chain(words).collect()
}

/// Begins another session if the last one ended more than an hour ago: the state of the machine
/// may have changed.
pub(super) fn resume_session(sessions: &mut Vec<Session>) {
    let now = machine::now();
    let Some(last) = sessions.last() else { return };
    let ended = last.ended.as_ref().unwrap_or(&last.started);
    if !machine::is_one_session(ended, &now, machine::SESSION_GAP) {
        let commit = machine::stamp().commit;
        sessions.push(Session {
            id: machine::session_id(commit.as_deref()),
            started: now,
            ended: None,
            conditions: vec![machine::conditions()],
            ..last.clone()
        });
    }
}

/// Adds a worker's result to the record.
pub(super) fn add_result(record: &mut Record, scenario: &Scenario, result: ScenarioResult) {
    if result.model != Model::default() {
        merge_model(&mut record.model, result.model, scenario.extended);
    }
    if let Some(rates) = result.rates {
        measure::update_peak_rates(&mut record.machine.rates, &mut record.scenarios, &rates);
    }
    merge_case(record, result.case);
}

/// Takes over a worker's description of the model, but keeps the hash and the commit, which only
/// the host knows. The description of a model loaded with an extended context counts only while
/// there is no other.
fn merge_model(known: &mut Model, loaded: Model, extended: bool) {
    if extended && known.layers > 0 {
        return;
    }
    let (sha256, commit) = (std::mem::take(&mut known.sha256), known.commit.take());
    let rope_scaling = loaded.rope_scaling.clone().filter(|_| !extended);
    *known = Model { sha256, commit, rope_scaling, ..loaded };
}

/// What is said of a server whose greedy output is not repeatable: its requests share batches and
/// caches with others, which changes the order of sums.
pub(crate) const OUTPUT_VARIES: &str = "the server's text for equal prompts varies";

/// Adds a case's block to the record's case of the same id. Greedy output that differs between
/// processes makes the case INVALID; that of a server is then not compared.
pub(super) fn merge_case(record: &mut Record, case: Case) {
    let is_server = record.settings.server.is_some();
    let Some(old) = record.scenarios.iter_mut().find(|old| old.id == case.id) else {
        record.scenarios.push(case);
        return;
    };
    if old.blocks.is_empty() {
        *old = case;
        return;
    }
    if let Some(absent) = case.absent {
        return old.validity.fail(format!("a later process: {absent}"));
    }
    if case.output_sha256 != old.output_sha256 {
        if is_server {
            old.output_sha256 = None;
            let warnings = vec![OUTPUT_VARIES.into()];
            old.validity.merge(Validity { failed: Vec::new(), warnings });
        } else {
            old.validity.fail("greedy output differs between processes");
        }
    }
    old.validity.merge(case.validity);
    old.blocks.extend(case.blocks);
}
