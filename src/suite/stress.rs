//! Requests under a memory limit. A worker runs them one by one and reports the outcome of each. A
//! request that kills the worker has that as its outcome, and another worker continues with the
//! next one.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::engine::{Engine, GenerationRequest};
use crate::error::{Error, Result, shortened};
use crate::machine::memory;
use crate::record::{Block, Case, Model, StressOutcome, StressRequest, Work};
use crate::settings::Setup;
use crate::suite::job::{Job, ScenarioResult, worker_command};
use crate::suite::worker::{
    NoResponse, WorkerExit, WorkerProcess, exit_with_host, first_request, respond,
};
use crate::workload::{Input, PromptFormat, Scenario, StressKind, metric};
use crate::{engine, files, measure, stats, workload};

/// The value of [`WORKER`](crate::suite::WORKER) for a worker that runs requests under a memory
/// limit.
pub(crate) const STRESS: &str = "stress";

/// Limits of stress scenarios.
#[derive(Debug, Clone, PartialEq)]
pub struct StressLimits {
    /// Memory that requests may take beyond that of the loaded model, in bytes.
    pub room_bytes: u64,
    /// Timeout of one request.
    pub request: Duration,
    /// Requests of `stress/many`.
    pub many: usize,
}

impl Default for StressLimits {
    fn default() -> Self {
        Self { room_bytes: 512 << 20, request: Duration::from_secs(60), many: 60 }
    }
}

/// Enough to load tens of gigabytes from a slow disk.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1800);

/// Workers started after the first one; each loads the model again.
const MAX_RESTARTS: usize = 5;

/// Tokens of the first prompt of `stress/long`; each further one has twice as many.
const FIRST_LENGTH: usize = 1024;

/// Phrases of `stress/repeated`, and how often each is repeated.
const PHRASES: [(&str, usize); 3] = [
    ("Explain in detail how a lighthouse keeps its lamp turning. ", 100),
    ("Write the manual of a water pump, part by part. ", 50),
    ("Document this function. ", 200),
];

/// What a worker is to run.
#[derive(Debug, Serialize, Deserialize)]
struct StressJob {
    setup: Setup,
    prompts: Vec<Prompt>,
    new_tokens: usize,
    room_bytes: u64,
    /// Each request needs more than the one before: the worker stops at the first that fails.
    growing: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Prompt {
    Text(String),
    /// Running text of this many tokens.
    Tokens(usize),
}

/// What a worker reports.
#[derive(Debug, Serialize, Deserialize)]
enum StressEvent {
    Loaded { model: Box<Model>, rss_bytes: Option<u64>, limit: Option<String> },
    Started { prompt_tokens: usize },
    Finished(StressRequest),
}

/// The prompts of a stress scenario.
fn prompts(kind: StressKind, many: usize) -> Vec<Prompt> {
    let short = || workload::category("short").expect("it is in the table").prompts;
    match kind {
        StressKind::Long => (0..7).map(|i| Prompt::Tokens(FIRST_LENGTH << i)).collect(),
        StressKind::Many => short()
            .iter()
            .cycle()
            .take(many)
            .enumerate()
            .map(|(i, prompt)| Prompt::Text(format!("{}: {prompt}", i + 1)))
            .collect(),
        StressKind::Repeated => {
            PHRASES.iter().map(|(phrase, times)| Prompt::Text(phrase.repeat(*times))).collect()
        }
    }
}

/// Runs the requests of a stress scenario and records the outcome of each.
///
/// # Errors
/// When no worker can be started, or none can load the model.
pub(super) fn measure(
    binary: &Path,
    job: &Job,
    scenario: &Scenario,
    kind: StressKind,
    limits: &StressLimits,
) -> Result<ScenarioResult> {
    let prompts = prompts(kind, limits.many);
    let mut run = StressRun { planned: &prompts, ..StressRun::default() };
    while run.requests.len() < prompts.len() && run.workers <= MAX_RESTARTS {
        run.workers += 1;
        let before = run.requests.len();
        let requests = StressJob {
            setup: job.setup.clone(),
            prompts: prompts[before..].to_vec(),
            new_tokens: scenario.new_tokens,
            room_bytes: limits.room_bytes,
            growing: kind == StressKind::Long,
        };
        run_one_worker(binary, &requests, limits.request, &mut run)?;
        let failed =
            run.requests.last().is_some_and(|last| last.outcome != StressOutcome::Answered);
        if run.requests.len() == before {
            let message = "a worker under a memory limit answered no request";
            return Err(Error::Failed(message.into()));
        }
        if requests.growing && failed {
            break;
        }
    }
    let model = std::mem::take(&mut run.model);
    Ok(ScenarioResult { model, case: case(job, scenario, run), rates: None })
}

/// The requests of a scenario and what the workers reported.
#[derive(Default)]
struct StressRun<'a> {
    planned: &'a [Prompt],
    requests: Vec<StressRequest>,
    workers: usize,
    model: Model,
    limit: Option<String>,
    rss_bytes: Option<u64>,
}

/// Runs requests in one worker: all of them, unless one kills it or it has to be killed.
fn run_one_worker(
    binary: &Path,
    requests: &StressJob,
    timeout: Duration,
    run: &mut StressRun<'_>,
) -> Result<()> {
    let mut command = worker_command(binary, STRESS);
    let mut worker = WorkerProcess::spawn(&mut command, requests.setup.threads)?;
    // If the worker dies before it has read the requests, its exit below tells why.
    let _ = worker.send(requests);
    let mut started: Option<usize> = None;
    let mut loaded = false;
    let end = loop {
        let limit = if started.is_some() { timeout } else { LOAD_TIMEOUT };
        match worker.receive(Some(Instant::now() + limit)) {
            Ok(StressEvent::Loaded { model, rss_bytes, limit }) => {
                loaded = true;
                (run.model, run.limit, run.rss_bytes) = (*model, limit, rss_bytes);
            }
            Ok(StressEvent::Started { prompt_tokens }) => started = Some(prompt_tokens),
            // Answered too late, while this process was busy.
            Ok(StressEvent::Finished(StressRequest { seconds: Some(seconds), .. }))
                if started.is_some() && seconds > timeout.as_secs_f64() =>
            {
                break NoResponse::TimedOut;
            }
            Ok(StressEvent::Finished(request)) => {
                started = None;
                run.requests.push(request);
            }
            Err(end) => break end,
        }
    };
    if !matches!(end, NoResponse::Closed) {
        worker.kill();
    }
    let exit = worker.wait()?;
    match started {
        Some(prompt_tokens) => {
            run.requests.push(fatal_request(prompt_tokens, end, timeout, &exit));
            Ok(())
        }
        None if !loaded && matches!(end, NoResponse::TimedOut) => {
            let minutes = LOAD_TIMEOUT.as_secs() / 60;
            Err(Error::Failed(format!("a worker took longer than {minutes} min to load")))
        }
        None if !loaded || !exit.status.success() => Err(exit.error()),
        None => Ok(()),
    }
}

/// The request that a worker died of. One that did not close its output was killed.
fn fatal_request(
    prompt_tokens: usize,
    end: NoResponse,
    timeout: Duration,
    exit: &WorkerExit,
) -> StressRequest {
    let exited = || {
        let first_line = exit.stderr.trim().lines().next().unwrap_or_default();
        format!("{}: {}", exit.status, shortened(first_line))
    };
    let (outcome, why) = match end {
        NoResponse::TimedOut => {
            (StressOutcome::TimedOut, format!("it took longer than {} s", timeout.as_secs()))
        }
        NoResponse::Invalid(error) => (StressOutcome::Failed, error.chain()),
        NoResponse::Closed if is_out_of_memory(exit) => (StressOutcome::OutOfMemory, exited()),
        NoResponse::Closed => (StressOutcome::Failed, exited()),
    };
    StressRequest { prompt_tokens, outcome, why: Some(why), seconds: None, rss_bytes: None }
}

/// Whether a worker ran out of memory: it printed a message of Rust's or the C library's, or was
/// killed by SIGKILL, which only the system sends to a worker that is not killed here.
fn is_out_of_memory(exit: &WorkerExit) -> bool {
    is_sigkill(exit.status) || mentions_memory(&exit.stderr) && !exit.status.success()
}

#[cfg(unix)]
fn is_sigkill(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[cfg(not(unix))]
fn is_sigkill(_: ExitStatus) -> bool {
    false
}

fn mentions_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    ["memory allocation of", "cannot allocate memory", "out of memory", "out_of_memory"]
        .iter()
        .any(|words| text.contains(words))
}

fn case(job: &Job, scenario: &Scenario, run: StressRun<'_>) -> Case {
    let StressRun { planned, requests, workers, limit, rss_bytes, .. } = run;
    let share = |counts: &dyn Fn(StressOutcome) -> bool| {
        let count = requests.iter().filter(|request| counts(request.outcome)).count();
        Some(count as f64 / requests.len() as f64)
    };
    let mut block = Block { session: job.session.clone(), ..Block::default() };
    for (name, value) in [
        (metric::ERROR_RATE, share(&|outcome| outcome != StressOutcome::Answered)),
        (metric::OOM_RATE, share(&|outcome| outcome == StressOutcome::OutOfMemory)),
        (metric::RSS_AFTER_LOAD_BYTES, rss_bytes.map(|bytes| bytes as f64)),
    ] {
        block.values.insert(name.into(), value);
    }
    let series: Vec<(f64, f64)> = requests
        .iter()
        .enumerate()
        .filter_map(|(i, request)| Some((i as f64, request.rss_bytes? as f64)))
        .collect();
    // Growth is measured over equal requests: longer prompts need more memory anyway.
    let equal = scenario.input == Input::Requests(StressKind::Many);
    let slope = (equal && series.len() >= 3 && workers == 1)
        .then(|| stats::theil_sen(&series).map(|line| line.slope))
        .flatten();
    let why_none = match workers {
        0 | 1 => "needs at least 3 equal requests",
        _ => "a worker died: no growth across processes",
    };
    block.set(metric::MEM_SLOPE_BYTES_PER_REQUEST, slope, why_none);
    block.samples.insert(metric::E2E_S.into(), requests.iter().filter_map(|r| r.seconds).collect());
    for name in [metric::POWER_W, metric::ENERGY_J_PER_TOKEN, metric::CPU_UTILIZATION] {
        block.set_missing(name, "not read around requests that may kill their process");
    }
    // The work is what was planned, whatever the outcomes.
    let text = serde_json::to_string(planned).expect("plain data");
    let work = Work {
        task: scenario.task(),
        batch: 1,
        items: planned.len(),
        new_tokens: scenario.new_tokens,
        prompts_sha256: files::hex(&Sha256::digest(text)),
        stop: "length".into(),
        ..Work::default()
    };
    block.requests = requests;
    let none = || "none: this system has no limit that is set here".to_owned();
    let limit = match &limit {
        Some(limit) if job.setup.device != "cpu" => format!("{limit}, of the host only"),
        limit => limit.clone().unwrap_or_else(none),
    };
    Case {
        id: scenario.id.clone(),
        work,
        labels: [("memory_limit".to_string(), limit)].into(),
        blocks: vec![block],
        ..Case::default()
    }
}

/// Runs the requests on standard input under their memory limit. For `main`, when
/// [`WORKER`](crate::suite::WORKER) is [`STRESS`].
///
/// # Errors
/// When the requests cannot be read, the model cannot be loaded, or an event cannot be written. The
/// failure of a request is its outcome.
pub(crate) fn run_stress_worker() -> Result<()> {
    let requests: StressJob = first_request()?;
    exit_with_host()?;
    let mut engine = Engine::load(&requests.setup, &mut ())?;
    // Tokenized before the limit is set, which is on generation alone.
    let all = requests
        .prompts
        .iter()
        .map(|prompt| token_ids(&engine, prompt))
        .collect::<Result<Vec<_>>>()?;
    let rss_bytes = memory::read().current;
    let limit = limit_memory(requests.room_bytes)?;
    let model = Box::new(measure::describe_model(&engine, None));
    respond(&StressEvent::Loaded { model, rss_bytes, limit })?;
    for ids in all {
        respond(&StressEvent::Started { prompt_tokens: ids.len() })?;
        let request = run_request(&mut engine, ids, &requests);
        let failed = request.outcome != StressOutcome::Answered;
        respond(&StressEvent::Finished(request))?;
        if requests.growing && failed {
            break;
        }
    }
    Ok(())
}

fn token_ids(engine: &Engine, prompt: &Prompt) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Text(text) => engine.encode(text, PromptFormat::Raw),
        Prompt::Tokens(count) => measure::text_of_length(engine, *count),
    }
}

fn run_request(engine: &mut Engine, ids: Vec<u32>, requests: &StressJob) -> StressRequest {
    let mut request = StressRequest {
        prompt_tokens: ids.len(),
        outcome: StressOutcome::Answered,
        why: None,
        seconds: None,
        rss_bytes: None,
    };
    let fits = engine.decoder.check_length(ids.len() + requests.new_tokens);
    let is_refused = fits.is_err();
    let (prompts, generation) = ([ids], &requests.setup.generation);
    let start = Instant::now();
    let output = fits.and_then(|()| {
        let request = GenerationRequest::new(&prompts, requests.new_tokens, generation);
        engine::generate(engine.decoder.as_mut(), &request)
    });
    let seconds = start.elapsed().as_secs_f64();
    request.rss_bytes = memory::read().current;
    match output {
        Ok(_) => request.seconds = Some(seconds),
        Err(error) => {
            let why = error.chain();
            request.outcome = match is_refused {
                true => StressOutcome::Refused,
                // A device reports an error where the CPU's allocator aborts the process.
                false if mentions_memory(&why) => StressOutcome::OutOfMemory,
                false => StressOutcome::Failed,
            };
            request.why = Some(why);
        }
    }
    request
}

/// Limits this process to `room_bytes` more private memory than it has, and describes the limit;
/// `None` where the system has no such limit.
#[cfg(target_os = "linux")]
fn limit_memory(room_bytes: u64) -> Result<Option<String>> {
    let limit = memory::data_bytes()?.saturating_add(room_bytes);
    let set = rlimit::setrlimit(rlimit::Resource::DATA, limit, limit);
    set.map_err(|error| Error::Failed(format!("cannot limit the memory of a worker: {error}")))?;
    Ok(Some(format!("{} MiB of data beyond the loaded model (RLIMIT_DATA)", room_bytes >> 20)))
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(_: u64) -> Result<Option<String>> {
    Ok(None)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn running_out_of_memory_is_told_from_other_deaths() {
        let aborted = ExitStatus::from_raw(6);
        for (status, stderr, expected) in [
            (aborted, "memory allocation of 1073741824 bytes failed", StressOutcome::OutOfMemory),
            (aborted, "assertion failed", StressOutcome::Failed),
            (ExitStatus::from_raw(9), "", StressOutcome::OutOfMemory),
            (ExitStatus::from_raw(11), "", StressOutcome::Failed),
            (ExitStatus::from_raw(1 << 8), "error: out of memory", StressOutcome::OutOfMemory),
        ] {
            let exit = WorkerExit { status, stderr: stderr.into() };
            let request = fatal_request(7, NoResponse::Closed, Duration::from_secs(1), &exit);
            assert_eq!(request.outcome, expected, "{status} {stderr}");
            assert_eq!((request.prompt_tokens, request.seconds), (7, None));
        }
        let killed = WorkerExit { status: ExitStatus::from_raw(9), stderr: String::new() };
        let fatal = |end| fatal_request(7, end, Duration::from_secs(60), &killed);
        let invalid = fatal(NoResponse::Invalid(Error::Failed("hm".into())));
        assert_eq!(invalid.outcome, StressOutcome::Failed, "a kill of ours is no sign of memory");
        let late = fatal(NoResponse::TimedOut);
        assert_eq!(late.outcome, StressOutcome::TimedOut);
        assert_eq!(late.why.as_deref(), Some("it took longer than 60 s"));
    }

    #[test]
    fn every_kind_has_its_number_and_lengths_of_prompts() {
        assert_eq!(prompts(StressKind::Many, 5).len(), 5);
        assert_eq!(prompts(StressKind::Repeated, 5).len(), 3);
        let last = prompts(StressKind::Long, 5).pop();
        assert!(matches!(last, Some(Prompt::Tokens(65536))), "{last:?}");
    }
}
