//! Requests under a memory limit. A worker answers them one by one and says of each what became of
//! it; when it dies of one, that is the request's outcome, and another worker goes on with the
//! next. The suite itself never dies of it.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::machine::memory;
use crate::model::weights::hex;
use crate::record::{Block, Case, Model, StressOutcome, StressRequest, Work};
use crate::settings::Setup;
use crate::suite::process::say;
use crate::suite::{Answer, Job};
use crate::workload::{PromptFormat, Scenario, Stress as Kind};
use crate::{engine, measure, stats, suite, workload};

/// The value of [`suite::WORKER`] for a worker that answers requests under a memory limit.
pub const STRESS: &str = "stress";

/// Limits of stress scenarios.
#[derive(Debug, Clone, PartialEq)]
pub struct Stress {
    /// Memory that requests may take beyond what the loaded model has, in bytes.
    pub room_bytes: u64,
    /// Longest time of one request.
    pub request: Duration,
    /// Requests of the scenario that makes many.
    pub many: usize,
}

impl Default for Stress {
    fn default() -> Self {
        Self { room_bytes: 512 << 20, request: Duration::from_secs(60), many: 60 }
    }
}

/// Longest time to load a model: of tens of gigabytes, from a slow disk.
const LOADING: Duration = Duration::from_secs(1800);

/// Workers that may die; the model is loaded anew for each.
const DEATHS: usize = 5;

/// Tokens of the first long prompt; each further one has twice as many.
const SHORTEST: usize = 1024;

/// Phrases that are repeated, and how often.
const PHRASES: [(&str, usize); 3] = [
    ("Explain in detail how a lighthouse keeps its lamp turning. ", 100),
    ("Write the manual of a water pump, part by part. ", 50),
    ("Document this function. ", 200),
];

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Requests {
    setup: Setup,
    /// Prompts as text, or as a number of tokens of running text.
    prompts: Vec<Prompt>,
    new_tokens: usize,
    room_bytes: u64,
    /// Each asks for more than the one before, so that after one that failed the others would.
    growing: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Prompt {
    Text(String),
    Tokens(usize),
}

/// What a worker says: first that it has loaded, then of each request how long it is and what
/// became of it.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Loaded { model: Box<Model>, rss_bytes: Option<u64>, limit: Option<String> },
    Begun { prompt_tokens: usize },
    Ended(StressRequest),
}

/// The prompts of a kind of stress.
fn prompts(kind: Kind, many: usize) -> Vec<Prompt> {
    let short = || workload::category("short").expect("it is in the table").prompts;
    match kind {
        Kind::Long => (0..7).map(|i| Prompt::Tokens(SHORTEST << i)).collect(),
        Kind::Many => short()
            .iter()
            .cycle()
            .take(many)
            .enumerate()
            .map(|(i, prompt)| Prompt::Text(format!("{}: {prompt}", i + 1)))
            .collect(),
        Kind::Repeated => {
            PHRASES.iter().map(|(phrase, times)| Prompt::Text(phrase.repeat(*times))).collect()
        }
    }
}

/// Makes the requests of a stress scenario and says what became of each.
///
/// # Errors
/// When no worker can be started, or none can load the model.
pub(super) fn measure(
    binary: &Path,
    job: &Job,
    scenario: &Scenario,
    kind: Kind,
    limits: &Stress,
) -> Result<Answer> {
    let prompts = prompts(kind, limits.many);
    let mut all: Vec<StressRequest> = Vec::new();
    let mut seen = Seen::default();
    let mut workers = 0;
    while all.len() < prompts.len() && workers <= DEATHS {
        workers += 1;
        let requests = Requests {
            setup: job.setup.clone(),
            prompts: prompts[all.len()..].to_vec(),
            new_tokens: scenario.new_tokens,
            room_bytes: limits.room_bytes,
            growing: kind == Kind::Long,
        };
        let before = all.len();
        answer_some(binary, &requests, limits.request, &mut all, &mut seen)?;
        let stopped = all.last().is_some_and(|last| last.outcome != StressOutcome::Answered);
        if all.len() == before {
            return Err(Error::Failed("a worker under a memory limit answered nothing".into()));
        }
        if requests.growing && stopped {
            break;
        }
    }
    let made = Made { planned: &prompts, requests: all, workers, seen: &seen };
    let case = case(job, scenario, made);
    Ok(Answer { model: seen.model, case, rates: None })
}

/// What the workers told of themselves.
#[derive(Default)]
struct Seen {
    model: Model,
    limit: Option<String>,
    rss_bytes: Option<u64>,
}

/// One worker's share of the requests: all of them, unless it dies of one or has to be stopped.
fn answer_some(
    binary: &Path,
    requests: &Requests,
    longest: Duration,
    all: &mut Vec<StressRequest>,
    seen: &mut Seen,
) -> Result<()> {
    let fail = |source| Error::Read { path: binary.into(), source };
    let threads = requests.setup.threads.to_string();
    let mut child = suite::worker(binary, STRESS, &threads).spawn().map_err(fail)?;
    let text = serde_json::to_string(requests).expect("plain data") + "\n";
    let mut held = child.stdin.take().expect("it is piped");
    // A worker that dies before it has read everything says why on its standard error, which is
    // read below.
    let _ = held.write_all(text.as_bytes());
    let complaints = suite::complaints(&mut child)?;
    let (receive, reader) = suite::lines(&mut child)?;
    let mut begun: Option<usize> = None;
    let mut loaded = false;
    let end = loop {
        let line = receive.recv_timeout(if begun.is_some() { longest } else { LOADING });
        let line = line.and_then(|line| line.map_err(|_| RecvTimeoutError::Disconnected));
        match line {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Said::Loaded { model, rss_bytes, limit }) => {
                    loaded = true;
                    *seen = Seen { model: *model, limit, rss_bytes };
                }
                Ok(Said::Begun { prompt_tokens }) => begun = Some(prompt_tokens),
                // It may have been answered, too late, while we were busy.
                Ok(Said::Ended(StressRequest { seconds: Some(seconds), .. }))
                    if begun.is_some() && seconds > longest.as_secs_f64() =>
                {
                    let _ = child.kill();
                    break End::Late;
                }
                Ok(Said::Ended(request)) => {
                    begun = None;
                    all.push(request);
                }
                Err(_) => {
                    let _ = child.kill();
                    break End::Garbled(line);
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                break End::Late;
            }
            Err(RecvTimeoutError::Disconnected) => break End::Own,
        }
    };
    drop(held);
    let status = child.wait().map_err(fail)?;
    let _ = reader.join();
    let complaint = complaints.join().unwrap_or_default();
    match begun {
        Some(prompt_tokens) => all.push(fatal(prompt_tokens, end, longest, status, &complaint)),
        None if !loaded => {
            if matches!(end, End::Late) {
                let why =
                    format!("a worker took longer than {} min to load", LOADING.as_secs() / 60);
                return Err(Error::Failed(why));
            }
            return Err(suite::ended(&status.to_string(), status.code(), &complaint));
        }
        None if !status.success() => {
            return Err(suite::ended(&status.to_string(), status.code(), &complaint));
        }
        None => {}
    }
    Ok(())
}

/// How a worker came to its end.
enum End {
    /// By itself.
    Own,
    /// We ended it, because it took too long.
    Late,
    /// We ended it, because it printed this.
    Garbled(String),
}

/// The request that a worker died of.
fn fatal(
    prompt_tokens: usize,
    end: End,
    longest: Duration,
    status: ExitStatus,
    complaint: &str,
) -> StressRequest {
    let said = complaint.trim().lines().next().unwrap_or_default();
    let own = || format!("{status}: {}", crate::error::shortened(said));
    let (outcome, why) = match end {
        End::Late => {
            (StressOutcome::TimedOut, format!("it took longer than {} s", longest.as_secs()))
        }
        End::Garbled(line) => {
            let line = crate::error::shortened(&line);
            (StressOutcome::Failed, format!("the worker printed what is no answer: `{line}`"))
        }
        End::Own if of_memory(status, complaint) => (StressOutcome::OutOfMemory, own()),
        End::Own => (StressOutcome::Failed, own()),
    };
    StressRequest { prompt_tokens, outcome, why: Some(why), seconds: None, rss_bytes: None }
}

/// Whether a process died for want of memory: Rust's own words, the C library's, or a kill from
/// outside that we did not send.
fn of_memory(status: ExitStatus, complaint: &str) -> bool {
    #[cfg(unix)]
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    #[cfg(not(unix))]
    let killed = false;
    killed || says_memory(complaint) && !status.success()
}

fn says_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    ["memory allocation of", "cannot allocate memory", "out of memory", "out_of_memory"]
        .iter()
        .any(|words| text.contains(words))
}

/// What was asked, and what became of it.
struct Made<'a> {
    planned: &'a [Prompt],
    requests: Vec<StressRequest>,
    workers: usize,
    seen: &'a Seen,
}

fn case(job: &Job, scenario: &Scenario, made: Made<'_>) -> Case {
    let Made { planned, requests, workers, seen } = made;
    let share = |wanted: &dyn Fn(StressOutcome) -> bool| {
        let found = requests.iter().filter(|request| wanted(request.outcome)).count();
        Some(found as f64 / requests.len() as f64)
    };
    let mut block = Block { session: job.session.clone(), ..Block::default() };
    let mut set = |name: &str, value: Option<f64>| block.values.insert(name.into(), value);
    set("error_rate", share(&|outcome| outcome != StressOutcome::Answered));
    set("oom_rate", share(&|outcome| outcome == StressOutcome::OutOfMemory));
    set("rss_after_load_bytes", seen.rss_bytes.map(|bytes| bytes as f64));
    let series: Vec<(f64, f64)> = requests
        .iter()
        .enumerate()
        .filter_map(|(i, request)| Some((i as f64, request.rss_bytes? as f64)))
        .collect();
    // Growth is that of equal requests: longer prompts need more memory by themselves.
    let equal = scenario.input == workload::Input::Requests(Kind::Many);
    let slope = (equal && series.len() >= 3 && workers == 1)
        .then(|| stats::theil_sen(&series).map(|line| line.slope))
        .flatten();
    set("mem_slope_bytes_per_request", slope);
    if slope.is_none() {
        let why = if workers > 1 {
            "a worker died: memory of several processes is no growth"
        } else {
            "told by at least 3 requests of one kind"
        };
        block.notes.insert("mem_slope_bytes_per_request".into(), why.into());
    }
    block.samples.insert("e2e_s".into(), requests.iter().filter_map(|r| r.seconds).collect());
    for name in ["power_w", "energy_j_per_token", "cpu_utilisation"] {
        block.values.insert(name.into(), None);
        block
            .notes
            .insert(name.into(), "not read around requests that may kill their process".into());
    }
    // The work is what is asked for, whatever becomes of it.
    let text = serde_json::to_string(planned).expect("plain data");
    let work = Work {
        task: scenario.task(),
        batch: 1,
        items: planned.len(),
        new_tokens: scenario.new_tokens,
        prompts_sha256: hex(&sha2::Sha256::digest(text)),
        stop: "length".into(),
        ..Work::default()
    };
    block.requests = requests;
    let none = || "none: this system has no limit that is set here".to_owned();
    let limit = match &seen.limit {
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

/// Answers the requests that standard input holds, under their memory limit. For `main`, when
/// [`suite::WORKER`] is [`STRESS`].
///
/// # Errors
/// When the requests cannot be read, the model cannot be loaded, or an answer cannot be written.
/// What happens to a request is said of it.
pub fn work() -> Result<()> {
    let requests: Requests = serde_json::from_str(&suite::process::asked()?)
        .map_err(|error| Error::Failed(format!("no requests on standard input: {error}")))?;
    let mut engine = Engine::load(&requests.setup, &mut ())?;
    // Before the limit: what it says is of answering.
    let all =
        requests.prompts.iter().map(|prompt| ids(&engine, prompt)).collect::<Result<Vec<_>>>()?;
    let rss_bytes = memory::read().current;
    let limit = limit_memory(requests.room_bytes)?;
    let model = Box::new(measure::describe_model(&engine, None));
    say(&Said::Loaded { model, rss_bytes, limit })?;
    for ids in all {
        say(&Said::Begun { prompt_tokens: ids.len() })?;
        let ended = one(&mut engine, ids, &requests);
        let stopped = ended.outcome != StressOutcome::Answered;
        say(&Said::Ended(ended))?;
        if requests.growing && stopped {
            break;
        }
    }
    Ok(())
}

fn ids(engine: &Engine, prompt: &Prompt) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Text(text) => engine.encode(text, PromptFormat::Raw),
        Prompt::Tokens(count) => measure::of_length(engine, *count),
    }
}

fn one(engine: &mut Engine, ids: Vec<u32>, requests: &Requests) -> StressRequest {
    let prompt_tokens = ids.len();
    let refused = |error: Error| StressRequest {
        prompt_tokens,
        outcome: StressOutcome::Refused,
        why: Some(error.chain()),
        seconds: None,
        rss_bytes: memory::read().current,
    };
    if let Err(error) = engine.decoder.check_length(prompt_tokens + requests.new_tokens) {
        return refused(error);
    }
    let start = Instant::now();
    let made = engine::generate(
        engine.decoder.as_mut(),
        &engine::Request {
            prompts: &[ids],
            new_tokens: requests.new_tokens,
            stops: &[],
            sampling: &requests.setup.generation,
            kept: None,
            injection: None,
        },
    );
    let seconds = start.elapsed().as_secs_f64();
    let rss_bytes = memory::read().current;
    match made {
        Ok(_) => StressRequest {
            prompt_tokens,
            outcome: StressOutcome::Answered,
            why: None,
            seconds: Some(seconds),
            rss_bytes,
        },
        Err(error) => {
            // A device says so where a process dies.
            let why = error.chain();
            let outcome =
                if says_memory(&why) { StressOutcome::OutOfMemory } else { StressOutcome::Failed };
            StressRequest { prompt_tokens, outcome, why: Some(why), seconds: None, rss_bytes }
        }
    }
}

/// Allows this process so much more data than it has, and says so; `None` where the system has no
/// such limit.
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
    fn a_death_for_want_of_memory_is_told_from_others() {
        let aborted = ExitStatus::from_raw(6);
        for (status, complaint, expected) in [
            (aborted, "memory allocation of 1073741824 bytes failed", StressOutcome::OutOfMemory),
            (aborted, "assertion failed", StressOutcome::Failed),
            (ExitStatus::from_raw(9), "", StressOutcome::OutOfMemory),
            (ExitStatus::from_raw(11), "", StressOutcome::Failed),
            (ExitStatus::from_raw(1 << 8), "error: out of memory", StressOutcome::OutOfMemory),
        ] {
            let request = fatal(7, End::Own, Duration::from_secs(1), status, complaint);
            assert_eq!(request.outcome, expected, "{status} {complaint}");
            assert_eq!((request.prompt_tokens, request.seconds), (7, None));
        }
        let killed = ExitStatus::from_raw(9);
        let garbled = fatal(7, End::Garbled("hm".into()), Duration::from_secs(60), killed, "");
        assert_eq!(garbled.outcome, StressOutcome::Failed, "our own kill says nothing of memory");
        let late = fatal(7, End::Late, Duration::from_secs(60), killed, "");
        assert_eq!(late.outcome, StressOutcome::TimedOut);
        assert_eq!(late.why.as_deref(), Some("it took longer than 60 s"));
    }

    #[test]
    fn prompts_are_as_many_and_as_long_as_their_kind_says() {
        assert_eq!(prompts(Kind::Many, 5).len(), 5);
        assert_eq!(prompts(Kind::Repeated, 5).len(), 3);
        let last = prompts(Kind::Long, 5).pop();
        assert!(matches!(last, Some(Prompt::Tokens(65536))), "{last:?}");
    }
}
