//! Results of other tools, read as records, so that the same verdicts judge them.
//!
//! One result is one run: what it repeats, requests for example, lies within one block of each
//! case. What it does not say is absent with the reason. A format is a table of where its values
//! are, and the few fields that name the case.

mod aiperf;
mod guidellm;
mod llama_bench;
#[cfg(test)]
mod tests;
mod vllm;

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::files::hex;
use crate::record::{
    Absence, AbsenceKind, Block, Case, Machine, Model, Record, RecordKind, SCHEMA, Session, Work,
};
use crate::settings::SERVER_ENGINE;
use crate::workload::metric;
use crate::{error, stats};

/// A tool whose results are read.
struct Tool {
    /// Its name, which is the harness of the record.
    name: &'static str,
    /// Whether a document is a result of it.
    matches: fn(&Value) -> bool,
    /// Reads such a document; the error says what it lacks.
    read: fn(&Value) -> Result<Import, String>,
    /// What its results leave open, for the notes of a verdict.
    leaves_open: &'static str,
}

const TOOLS: [&Tool; 4] = [&vllm::TOOL, &guidellm::TOOL, &llama_bench::TOOL, &aiperf::TOOL];

/// Stands for what a result does not say and a record must hold.
pub(crate) const NOT_REPORTED: &str = "not reported";

/// The formats, for messages.
pub(super) const FORMATS: &str = "results of `vllm bench serve --save-result`, of guidellm and \
                                  aiperf (JSON) and of `llama-bench -o json` or `-o jsonl` are \
                                  read, too";

/// What a result says.
#[derive(Default)]
struct Import {
    /// When it began or was written: UTC, RFC 3339; empty if the result does not say it.
    started: String,
    /// The version of the tool, of a tool that runs the model itself that of the engine.
    version: String,
    /// The commit of the engine.
    commit: Option<String>,
    /// What ran the model.
    engine: String,
    device: String,
    threads: usize,
    model: Model,
    machine: Machine,
    labels: BTreeMap<String, String>,
    cases: Vec<Case>,
}

/// The record of a document, if it is a result of a tool.
///
/// # Errors
/// When it lacks what a record needs.
pub(super) fn record(document: &Value, text: &str) -> Option<Result<Record, String>> {
    let tool = TOOLS.iter().find(|tool| (tool.matches)(document))?;
    let import = (tool.read)(document).and_then(|import| match import.cases.is_empty() {
        true => Err("it has no result".into()),
        false => Ok(import),
    });
    let explain = |why| format!("{why}; it was read as a result of {}", tool.name);
    Some(import.map(|import| import.into_record(tool, text)).map_err(explain))
}

/// JSON lines as one array; `None` if any line is no JSON object.
pub(super) fn lines(text: &str) -> Option<Value> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let objects: Option<Vec<Value>> =
        lines.map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).collect();
    objects.filter(|objects| !objects.is_empty()).map(Value::Array)
}

impl Record {
    /// The tool that measured, and what its results leave open; `None` if candlemark measured.
    pub(crate) fn other_tool(&self) -> Option<(&'static str, &'static str)> {
        let harness = &self.sessions.first()?.harness;
        let tool = TOOLS.iter().find(|tool| tool.name == harness)?;
        Some((tool.name, tool.leaves_open))
    }
}

impl Import {
    /// The result of a client: of the server nothing is known but the model's name.
    fn of_client(model: &str) -> Self {
        Self {
            engine: SERVER_ENGINE.into(),
            device: NOT_REPORTED.into(),
            model: named_model(model),
            machine: Machine { class: "not-reported".into(), ..Machine::default() },
            ..Self::default()
        }
    }

    fn into_record(self, tool: &Tool, text: &str) -> Record {
        let digest = hex(&Sha256::digest(text));
        let time: String = self.started.chars().filter(|c| !"-:".contains(*c)).collect();
        let id = format!("{time}-{}", &digest[..8]);
        let mut record = Record {
            schema: SCHEMA,
            kind: RecordKind::Run,
            sessions: vec![Session {
                id: id.trim_start_matches('-').to_owned(),
                started: self.started,
                ended: None,
                command: vec![tool.name.into()],
                harness: tool.name.into(),
                conditions: Vec::new(),
            }],
            build: Default::default(),
            machine: self.machine,
            model: self.model,
            settings: Default::default(),
            injected: None,
            scenarios: self.cases,
            not_selected: Vec::new(),
        };
        record.build.version = self.version;
        record.build.commit = self.commit;
        record.settings.engine = self.engine;
        record.settings.device = self.device;
        record.settings.threads = self.threads;
        record.settings.labels = self.labels;
        let session = &record.sessions[0].id;
        for block in record.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
            block.session.clone_from(session);
        }
        record
    }
}

/// Adds a case; another run of a case is a further block of it.
fn add(cases: &mut Vec<Case>, case: Case) -> Result<(), String> {
    match cases.iter_mut().find(|known| known.id == case.id) {
        None => cases.push(case),
        Some(known) if known.work == case.work && known.absent == case.absent => {
            known.blocks.extend(case.blocks);
            known.validity.warnings.extend(case.validity.warnings);
        }
        Some(_) => return Err(format!("it has `{}` twice, with different work", case.id)),
    }
    Ok(())
}

/// A model of which only the name is known, so that its name stands for its hash.
fn named_model(name: &str) -> Model {
    let sha256 = format!("not reported, named {name}");
    Model { spec: name.into(), sha256, ..Model::default() }
}

fn text(document: &Value, pointer: &str) -> Option<String> {
    document.pointer(pointer)?.as_str().map(error::shortened)
}

fn count(document: &Value, pointer: &str) -> Option<u64> {
    let number = document.pointer(pointer)?;
    number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n.round() as u64))
}

/// A measured value: positive and finite. Tools write 0 where they measured nothing.
fn value(document: &Value, pointer: &str) -> Option<f64> {
    document.pointer(pointer)?.as_f64().filter(|value| value.is_finite() && *value > 0.0)
}

/// Where a value is, and the factor to the metric's unit.
struct Figure {
    metric: &'static str,
    pointer: &'static str,
    scale: f64,
}

const fn figure(metric: &'static str, pointer: &'static str, scale: f64) -> Figure {
    Figure { metric, pointer, scale }
}

impl Figure {
    fn of(&self, document: &Value) -> Option<f64> {
        value(document, self.pointer).map(|value| value * self.scale)
    }
}

/// The samples of figures in a list of requests. A request without a value has no sample of it.
fn request_samples(requests: &[Value], figures: &[Figure]) -> BTreeMap<String, Vec<f64>> {
    let samples = figures.iter().map(|figure| {
        let of_each = requests.iter().filter_map(|request| figure.of(request));
        (figure.metric.to_owned(), of_each.collect::<Vec<f64>>())
    });
    samples.filter(|(_, values)| !values.is_empty()).collect()
}

/// Load on a server at one level, as a client saw it.
struct Level {
    id: String,
    /// Requests in flight of a closed loop; 1 for requests at instants that do not depend on
    /// answers.
    in_flight: u64,
    /// Mean per complete request.
    prompt_tokens: Option<f64>,
    /// Mean per complete request.
    output_tokens: Option<f64>,
    complete: u64,
    failed: u64,
}

impl Level {
    /// The case with one block: each value is that of the tool's summary, else the median of the
    /// samples. Decoding per sequence is the inverse of TPOT.
    fn case(
        self,
        tool: &str,
        document: &Value,
        figures: &[Figure],
        samples: BTreeMap<String, Vec<f64>>,
    ) -> Case {
        let tokens = |mean: Option<f64>| mean.map_or(0, |mean| mean.round() as usize);
        let work = Work {
            batch: self.in_flight as usize,
            prompt_tokens: vec![tokens(self.prompt_tokens)],
            new_tokens: tokens(self.output_tokens),
            stop: NOT_REPORTED.into(),
            ..Work::default()
        };
        let mut case = Case { id: self.id, work, ..Case::default() };
        let sent = self.complete.saturating_add(self.failed);
        if self.complete == 0 {
            let why = format!("none of {} was answered", error::counted(sent as usize, "request"));
            case.absent = Some(Absence::new(AbsenceKind::Failed, why));
            return case;
        }
        if self.failed > 0 {
            case.validity.warnings.push(format!(
                "{} of {sent} requests failed; their times are in no value",
                self.failed
            ));
        }
        let mut block = Block { samples, ..Block::default() };
        let error_rate = self.failed as f64 / sent as f64;
        block.values.insert(metric::ERROR_RATE.into(), Some(error_rate));
        for figure in figures {
            let median = || stats::median(block.samples.get(figure.metric)?);
            match figure.of(document).or_else(median) {
                Some(value) => drop(block.values.insert(figure.metric.into(), Some(value))),
                None => missing(&mut block, figure.metric, &format!("{tool} did not report it")),
            }
        }
        match block.value(metric::TPOT_S) {
            Some(tpot) => {
                block.values.insert(metric::DECODE_TOK_S.into(), Some(1.0 / tpot));
                block.notes.insert(metric::DECODE_TOK_S.into(), "1 / TPOT, per sequence".into());
            }
            None => missing(&mut block, metric::DECODE_TOK_S, "there is no TPOT"),
        }
        let no_memory = format!("{tool} does not report the server's memory");
        missing(&mut block, metric::PEAK_RSS_BYTES, &no_memory);
        let no_prefill = "a client does not see the time of prefill";
        missing(&mut block, metric::PREFILL_TOK_S, no_prefill);
        case.blocks.push(block);
        case
    }
}

fn missing(block: &mut Block, metric: &str, why: &str) {
    block.values.insert(metric.into(), None);
    block.notes.insert(metric.into(), why.into());
}
