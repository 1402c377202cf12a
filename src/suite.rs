//! Runs scenarios in worker processes and writes the record as it goes. A worker is this very
//! binary, started with a job on its standard input; it answers with one line of JSON per scenario.
//! Knows nothing of verdicts.

use std::collections::VecDeque;
use std::io;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::Injection;
use crate::error::{Error, Result, shortened};
use crate::measure::Sharing;
use crate::model::Progress;
use crate::record::{Absence, Case, Model, Rates, Record, RecordKind, SCHEMA, Session};
use crate::settings::Setup;
use crate::workload::{Input, Scenario};
use crate::{files, machine, measure};

mod order;
mod process;
mod stress;
pub mod turns;

pub use order::{Done, GRACE};
pub use process::{absent, work};
pub use stress::{STRESS, Stress, work as work_on_requests};

use order::Pace;

/// Set for a process that is to work on a job; [`turns::TURNS`] for one that takes turns.
pub const WORKER: &str = "CANDLEMARK_WORKER";

/// A deliberate change for the worse, `decode:25%`; see [`Injection`].
pub const INJECT: &str = "CANDLEMARK_INJECT";

/// Set for a worker whose standard input stays open for as long as somebody waits for its answers.
pub const HELD: &str = "CANDLEMARK_HELD";

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// How to load and run the model.
    pub setup: Setup,
    /// Ids of the scenarios, in their order.
    pub scenarios: Vec<String>,
    /// The session that blocks belong to.
    pub session: String,
    /// Whether the process measures one scenario or several.
    pub sharing: Sharing,
    /// Measured rates of the machine, for the checks.
    pub rates: Rates,
    /// A deliberate slowdown.
    pub injection: Option<String>,
    /// Whether the machine's reference kernels are measured before and after each scenario.
    #[serde(default)]
    pub references: bool,
    /// The text that quality is measured on, in place of ours.
    #[serde(default)]
    pub text: Option<String>,
}

/// What a worker answers for each scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The model as it was loaded, without the hash of its weights.
    pub model: Model,
    /// The scenario with one block.
    pub case: Case,
    /// What the machine did when it was measured again, because the scenario had done more than it
    /// was measured to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// A process of this binary that works, with its streams in our hands.
fn worker(binary: &Path, kind: &str, threads: &str) -> Command {
    let mut command = Command::new(binary);
    command
        .env(WORKER, kind)
        .env(HELD, "1")
        .env("RAYON_NUM_THREADS", threads)
        .env("CANDLE_NUM_THREADS", threads)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    #[cfg(unix)]
    {
        // Ctrl-C is for who asked: a worker that died of it would be a scenario that failed.
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
    }
    command
}

/// What a worker prints to stderr, once it has ended.
pub(crate) fn complaints(child: &mut Child) -> Result<JoinHandle<String>> {
    let mut stderr = child.stderr.take().expect("it is piped");
    thread(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// The lines that a worker prints to stdout, as they come, and the thread that reads them.
pub(crate) fn lines(child: &mut Child) -> Result<(Receiver<io::Result<String>>, JoinHandle<bool>)> {
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (send, receive) = mpsc::channel();
    let reader = thread(move || lines.map(|line| send.send(line)).all(|sent| sent.is_ok()))?;
    Ok((receive, reader))
}

/// A thread that reads, waits or listens. A worker whose streams are dropped because there is none
/// ends by itself.
pub(crate) fn thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let refused = |source| {
        Error::Failed(format!("the system refuses another thread ({source}); raise `ulimit -u`"))
    };
    std::thread::Builder::new().spawn(work).map_err(refused)
}

/// Starts a worker and hands it a job; `each` gets every answer as it comes.
///
/// # Errors
/// When the worker cannot be started, dies, or prints something that is no answer.
pub fn start(binary: &Path, job: &Job, each: &mut dyn FnMut(Answer) -> Result<()>) -> Result<()> {
    start_until(binary, job, None, each)
}

/// As [`start`], with an instant at which the worker is ended, and the error that it then is.
fn start_until(
    binary: &Path,
    job: &Job,
    end: Option<(Instant, Error)>,
    each: &mut dyn FnMut(Answer) -> Result<()>,
) -> Result<()> {
    let threads = job.setup.threads.to_string();
    let fail = |source| Error::Read { path: binary.into(), source };
    let mut child = worker(binary, "1", &threads).spawn().map_err(fail)?;
    let text = serde_json::to_string(job).expect("plain data") + "\n";
    let mut held = child.stdin.take().expect("it is piped");
    // A worker that dies before it has read the job says why on its standard error, which is read
    // below.
    let _ = held.write_all(text.as_bytes());
    let complaints = complaints(&mut child)?;
    let mut answers = 0;
    let mut outcome = Ok(());
    let (receive, reader) = lines(&mut child)?;
    loop {
        let line = match &end {
            Some((at, _)) => receive.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => receive.recv().map_err(RecvTimeoutError::from),
        };
        let line = match line {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                outcome = end.map_or(Ok(()), |(_, error)| Err(error));
                break;
            }
        };
        let answer = line.map_err(fail).and_then(|line| {
            serde_json::from_str(&line).map_err(|_| {
                Error::Failed(format!("a worker printed what is no answer: `{}`", shortened(&line)))
            })
        });
        let surplus = || Error::Failed("a worker answered more than it was asked".into());
        let answer = answer
            .and_then(|one| if answers < job.scenarios.len() { Ok(one) } else { Err(surplus()) });
        outcome = answer.and_then(&mut *each);
        if outcome.is_err() {
            let _ = child.kill();
            break;
        }
        answers += 1;
    }
    drop(held);
    let status = child.wait().map_err(fail)?;
    let complaint = complaints.join().unwrap_or_default();
    let _ = reader.join();
    outcome?;
    if !status.success() || answers < job.scenarios.len() {
        return Err(ended(&status.to_string(), status.code(), &complaint));
    }
    Ok(())
}

/// The error for a worker that ended before it had answered everything; `code` is its exit status,
/// and `complaint` what it printed to stderr.
pub(crate) fn ended(status: &str, code: Option<i32>, complaint: &str) -> Error {
    let complaint = complaint.trim().trim_start_matches("error: ");
    let said =
        if complaint.is_empty() { "nothing".into() } else { format!("`{}`", shortened(complaint)) };
    Error::Worker { status: status.into(), code, said }
}

/// What a worker could not begin with: it ended in order, so that none that follows can either. The
/// error is in its own words.
fn not_begun(error: Error) -> Error {
    match error {
        Error::Worker { code: Some(2), said, .. } => Error::Usage(said.trim_matches('`').into()),
        Error::Worker { said, .. } => Error::Failed(said.trim_matches('`').into()),
        error => error,
    }
}

/// Whether a worker ended in order, with an error of ours.
fn ended_in_order(error: &Error) -> bool {
    matches!(error, Error::Worker { code: Some(2..=5), .. })
}

/// Opens the device in a process of its own, which frees it again: one that is not there is found
/// before the model is hashed.
fn check_device(plan: &Plan) -> Result<()> {
    if plan.setup.device == "cpu" {
        return Ok(());
    }
    let job = Job {
        setup: Setup { model: "synthetic:nano".into(), rope_scaling: None, ..plan.setup.clone() },
        scenarios: Vec::new(),
        session: String::new(),
        sharing: plan.sharing,
        rates: Rates::default(),
        injection: None,
        references: false,
        text: None,
    };
    start(&plan.binary, &job, &mut |_| Ok(())).map_err(not_begun)
}

/// What is to be run and where it goes.
pub struct Plan {
    /// The binary that works: this one, usually.
    pub binary: PathBuf,
    /// How to run the model.
    pub setup: Setup,
    /// What to measure.
    pub scenarios: Vec<Scenario>,
    /// Processes per scenario.
    pub blocks: usize,
    /// Whether a process measures one scenario or all.
    pub sharing: Sharing,
    /// A deliberate slowdown.
    pub injection: Option<String>,
    /// Id of the session that begins; `None` takes the time and the commit.
    pub session: Option<String>,
    /// Where the record is written after every scenario; `None` keeps it in memory.
    pub path: Option<PathBuf>,
    /// A record that was cut off, to go on with.
    pub resume: Option<Record>,
    /// Nothing is begun that would end after so much time, and nothing goes on for more than
    /// [`GRACE`] after it.
    pub budget: Option<Duration>,
    /// The text that quality is measured on, in place of ours.
    pub text: Option<String>,
    /// Limits of stress scenarios.
    pub stress: Stress,
}

impl Plan {
    fn save(&self, record: &Record) -> Result<()> {
        self.path.as_deref().map_or(Ok(()), |path| record.save(path))
    }

    /// Writes the record so far, unless it goes where it can be written once only.
    fn keep(&self, record: &Record) -> Result<()> {
        match &self.path {
            Some(path) if files::is_stream(path) => Ok(()),
            _ => self.save(record),
        }
    }
}

/// Hears how a run goes.
pub trait Events {
    /// A process is about to start.
    fn start(&mut self, ids: &[String], done: Done);
    /// A scenario has one more block.
    fn measured(&mut self, case: &Case);
    /// Whether no further process is to be started.
    fn stopped(&self) -> bool {
        false
    }
}

/// Measures a plan's scenarios, a block of each in turn, in an order that is shuffled per block
/// from the seed, so that a machine that drifts treats all alike. The record is saved after every
/// scenario.
///
/// # Errors
/// When nothing can be measured at all (no such model or device, or none that can be loaded), the
/// record cannot be written, or it was stopped. A scenario that fails is `absent` in the record,
/// with its reason.
pub fn run(plan: &Plan, progress: &mut dyn Progress, events: &mut dyn Events) -> Result<Record> {
    let mut record = match &plan.resume {
        Some(cut_off) => cut_off.clone(),
        None => {
            check_device(plan)?;
            begin(&plan.setup, "run", plan.injection.clone(), progress)?
        }
    };
    if plan.resume.is_some() {
        go_on(&mut record.sessions);
    } else if let (Some(id), [session]) = (&plan.session, &mut record.sessions[..]) {
        session.id.clone_from(id);
    }
    for scenario in &plan.scenarios {
        if record.case(&scenario.id).is_none() {
            let pending = absent(scenario, &plan.setup.generation, Absence::not_measured_yet());
            record.scenarios.push(pending);
        }
    }
    record.set_not_selected();
    let session = record.sessions.last().expect("a run has one").id.clone();
    let mut queue = VecDeque::from(order::jobs(plan, &record));
    let mut pace = Pace::new(queue.iter(), &plan.setup.generation);
    while let Some(scenarios) = queue.pop_front() {
        if events.stopped() {
            if plan.path.as_deref().is_some_and(files::is_stream) {
                plan.save(&record)?;
            }
            return Err(Error::Interrupted);
        }
        if let Some(why) = pace.beyond(plan.budget, &scenarios) {
            pace.skip(&scenarios);
            for scenario in &scenarios {
                if record.case(&scenario.id).is_none_or(|case| case.blocks.is_empty()) {
                    merge(&mut record, absent(scenario, &plan.setup.generation, (&why).into()));
                }
            }
            continue;
        }
        events.start(&order::ids(&scenarios), pace.done());
        let mut arrived = 0;
        let rates = record.machine.rates.clone();
        let end = plan.budget.map(|budget| pace.end(budget));
        let outcome = measure_job(plan, &scenarios, &session, &rates, end, &mut |answer| {
            let scenario = &scenarios[arrived];
            arrived += 1;
            if answer.model != Model::default() {
                take_model(&mut record.model, answer.model, scenario.extended);
            }
            if let Some(rates) = answer.rates {
                measure::raise(&mut record.machine.rates, &mut record.scenarios, &rates);
            }
            merge(&mut record, answer.case);
            events.measured(record.case(&scenario.id).expect("it was just merged"));
            plan.keep(&record)
        });
        if let (Err(error), Some(scenario)) = (outcome, scenarios.get(arrived)) {
            let measured = record.scenarios.iter().any(|case| !case.blocks.is_empty());
            if !measured && arrived == 0 && !scenario.extended && ended_in_order(&error) {
                return Err(not_begun(error));
            }
            // The process died of this one; those after it get another.
            merge(&mut record, absent(scenario, &plan.setup.generation, (&error).into()));
            events.measured(record.case(&scenario.id).expect("it was just merged"));
            plan.keep(&record)?;
            let rest = scenarios[arrived + 1..].to_vec();
            pace.measured(&scenarios[..=arrived]);
            if !rest.is_empty() {
                pace.one_more();
                queue.push_front(rest);
            }
        } else {
            plan.keep(&record)?; // What went wrong after the last answer may have been this.
            pace.measured(&scenarios);
        }
    }
    if plan.setup.device == "cpu" && !record.build.is_unoptimised() {
        let seen = measure::rates(plan.setup.threads)?;
        measure::raise(&mut record.machine.rates, &mut record.scenarios, &seen);
    }
    let last = record.sessions.last_mut().expect("a run has one");
    last.ended = Some(machine::now());
    last.conditions.push(machine::conditions());
    plan.save(&record)?;
    Ok(record)
}

/// A run that goes on more than an hour later is another session: the machine may have had another
/// day.
fn go_on(sessions: &mut Vec<Session>) {
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

/// Keeps what a worker says of the model; what is known without loading it stays. A model that was
/// loaded with another context is told of only where no other was.
fn take_model(known: &mut Model, told: Model, extended: bool) {
    if extended && known.layers > 0 {
        return;
    }
    let (sha256, commit) = (std::mem::take(&mut known.sha256), known.commit.take());
    let rope_scaling = told.rope_scaling.clone().filter(|_| !extended);
    *known = Model { sha256, commit, rope_scaling, ..told };
}

/// Has the scenarios of one process measured.
fn measure_job(
    plan: &Plan,
    scenarios: &[Scenario],
    session: &str,
    rates: &Rates,
    end: Option<(Instant, Error)>,
    each: &mut dyn FnMut(Answer) -> Result<()>,
) -> Result<()> {
    let job = Job {
        setup: order::setup(&plan.setup, &scenarios[0]),
        scenarios: order::ids(scenarios),
        session: session.into(),
        sharing: if scenarios.len() > 1 { plan.sharing } else { Sharing::Fresh },
        rates: rates.clone(),
        injection: plan.injection.clone(),
        references: true,
        text: plan.text.clone(),
    };
    match scenarios {
        [Scenario { input: Input::Requests(kind), .. }] => {
            each(stress::measure(&plan.binary, &job, &scenarios[0], *kind, &plan.stress)?)
        }
        _ => start_until(&plan.binary, &job, end, each),
    }
}

/// A record with everything but scenarios. Opens the model to hash it and measures the machine.
///
/// # Errors
/// When the model cannot be found or read.
pub fn begin(
    setup: &Setup,
    harness: &str,
    injected: Option<String>,
    progress: &mut dyn Progress,
) -> Result<Record> {
    injected.as_deref().map(Injection::parse).transpose()?;
    let identity = crate::engine::identify(setup, progress)?;
    let build = machine::build();
    let mut machine = machine::fingerprint(setup.threads, &setup.device);
    if setup.device == "cpu" {
        machine.rates = measure::rates(setup.threads)?; // Those of another device are not its host's.
    }
    let session = Session {
        id: machine::session_id(build.commit.as_deref()),
        started: machine::now(),
        ended: None,
        command: command(harness),
        harness: harness.into(),
        conditions: vec![machine::conditions()],
    };
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

/// The command line without the folder of the binary, which says where and not what.
pub(crate) fn command(harness: &str) -> Vec<String> {
    let name = if harness == "criterion" { "cargo bench --" } else { "candlemark" };
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words = words.filter(|word| word != "--bench");
    std::iter::once(name.to_owned()).chain(words).collect()
}

/// Adds a case's block to the record's case of the same id. Output that differs between processes
/// makes a greedy case INVALID.
fn merge(record: &mut Record, case: Case) {
    let Some(old) = record.scenarios.iter_mut().find(|old| old.id == case.id) else {
        record.scenarios.push(case);
        return;
    };
    if old.blocks.is_empty() {
        *old = case;
        return;
    }
    if let Some(absent) = case.absent {
        old.validity.failed.push(format!("a later process: {absent}"));
        return;
    }
    if case.output_sha256 != old.output_sha256 {
        old.validity.failed.push("greedy output differs between processes".into());
    }
    for (known, more) in [
        (&mut old.validity.failed, case.validity.failed),
        (&mut old.validity.warnings, case.validity.warnings),
    ] {
        for what in more {
            if !known.contains(&what) {
                known.push(what);
            }
        }
    }
    old.blocks.extend(case.blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            setup: Setup::new(&crate::settings::Config::default()),
            scenarios: vec!["short/b1".into()],
            session: "s".into(),
            sharing: Sharing::Fresh,
            rates: Rates::default(),
            injection: None,
            references: false,
            text: None,
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_worker_that_goes_on_past_the_budget_is_ended() {
        let end = (Instant::now(), Error::SkippedTime("the time budget was used up".into()));
        // It waits for the end of its standard input, which stays open.
        let error = start_until(Path::new("/usr/bin/tail"), &job(), Some(end), &mut |_| Ok(()));
        assert!(matches!(error, Err(Error::SkippedTime(_))), "{error:?}");
    }

    #[test]
    fn a_worker_that_prints_garbage_or_dies_is_an_error_that_quotes_it() {
        let job = job();
        let error = start(Path::new("/bin/cat"), &job, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no answer: `{\"setup\""), "{error}");
        let error = start(Path::new("/bin/false"), &job, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("ended with exit status: 1 and said nothing"), "{error}");
        let error = start(Path::new("/bin/true"), &job, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("ended with exit status: 0"), "no answer is no success: {error}");
        assert!(start(Path::new("/no/such/binary"), &job, &mut |_| Ok(())).is_err());
    }
}
