//! Jobs: what a worker process is asked to measure, and the host's side of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::measure::Sharing;
use crate::record::{Absence, Case, Model, Rates, Work};
use crate::settings::{Generation, Setup};
use crate::suite::worker::{NoResponse, STDIN_STAYS_OPEN, WorkerProcess, own_process_group};
use crate::workload::Scenario;

/// Set for a worker process, to the kind of its work: `1` for a [`Job`], `turns`, or `stress`.
pub const WORKER: &str = "CANDLEMARK_WORKER";

/// A deliberate regression, `decode:25%`; see [`Injection`](crate::engine::Injection).
pub(crate) const INJECT: &str = "CANDLEMARK_INJECT";

/// What a worker is to measure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Job {
    /// How to load and run the model.
    pub setup: Setup,
    /// Ids of the scenarios, in the order of measurement.
    pub scenarios: Vec<String>,
    /// The session that blocks belong to.
    pub session: String,
    /// Whether the process measures one scenario or several.
    pub sharing: Sharing,
    /// Measured peak rates of the machine, for the checks.
    pub rates: Rates,
    /// A deliberate regression.
    pub injection: Option<String>,
    /// Whether the reference kernels are measured before and after each scenario.
    #[serde(default)]
    pub references: bool,
    /// The text to measure quality on; default: the prompts of all categories.
    #[serde(default)]
    pub text: Option<String>,
}

/// A worker's response for one scenario of its job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// The loaded model, without the hash of its weights.
    pub model: Model,
    /// The scenario with one block.
    pub case: Case,
    /// Peak rates measured again, where the scenario exceeded those of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// A scenario that could not be measured, with the reason in place of numbers.
pub(crate) fn absent_case(scenario: &Scenario, generation: &Generation, reason: Absence) -> Case {
    Case {
        id: scenario.id.clone(),
        work: Work {
            task: scenario.task(),
            batch: scenario.batch,
            new_tokens: scenario.length(generation.gen_tokens),
            ..Work::default()
        },
        absent: Some(reason),
        ..Case::default()
    }
}

/// This binary as a worker of a kind ([`WORKER`]).
pub(super) fn worker_command(binary: &Path, kind: &str) -> Command {
    let mut command = Command::new(binary);
    command.env(WORKER, kind).env(STDIN_STAYS_OPEN, "1").stderr(Stdio::piped());
    own_process_group(&mut command);
    command
}

/// Runs a job in a worker process and passes each result to `each` as it arrives.
///
/// # Errors
/// When the worker cannot be started, dies, or sends an invalid response.
pub fn run_job(
    binary: &Path,
    job: &Job,
    each: &mut dyn FnMut(ScenarioResult) -> Result<()>,
) -> Result<()> {
    run_job_until(binary, job, None, each)
}

/// As [`run_job`]; at the instant `end` the worker is killed, and the error is that of `end`.
pub(super) fn run_job_until(
    binary: &Path,
    job: &Job,
    end: Option<(Instant, Error)>,
    each: &mut dyn FnMut(ScenarioResult) -> Result<()>,
) -> Result<()> {
    let mut worker = WorkerProcess::spawn(&mut worker_command(binary, "1"), job.setup.threads)?;
    // If the worker dies before it has read the job, its exit below tells why.
    let _ = worker.send(job);
    let deadline = end.as_ref().map(|(at, _)| *at);
    let mut results = 0;
    let outcome = loop {
        let done = match worker.receive(deadline) {
            Ok(result) if results < job.scenarios.len() => each(result),
            Ok(_) => Err(Error::Failed("a worker sent more results than it was asked for".into())),
            Err(NoResponse::Closed) => break Ok(()),
            Err(NoResponse::TimedOut) => break end.map_or(Ok(()), |(_, error)| Err(error)),
            Err(NoResponse::Invalid(error)) => Err(error),
        };
        if done.is_err() {
            break done;
        }
        results += 1;
    };
    if outcome.is_err() {
        worker.kill();
    }
    let exit = worker.wait()?;
    outcome?;
    if !exit.status.success() || results < job.scenarios.len() {
        return Err(exit.error());
    }
    Ok(())
}

/// The error of a worker that exited in order before it measured anything, so that any other would
/// do the same: in the worker's own words.
pub(crate) fn startup_error(error: Error) -> Error {
    match error {
        Error::Worker { code: Some(2), stderr, .. } => {
            Error::Usage(stderr.trim_matches('`').into())
        }
        Error::Worker { stderr, .. } => Error::Failed(stderr.trim_matches('`').into()),
        error => error,
    }
}

/// Whether a worker exited with one of candlemark's own exit statuses.
pub(super) fn is_orderly_exit(error: &Error) -> bool {
    matches!(error, Error::Worker { code: Some(2..=5), .. })
}

/// Opens the device in a worker, which frees it again: a missing device is reported before the
/// model is hashed.
pub(super) fn check_device(binary: &Path, setup: &Setup) -> Result<()> {
    if setup.device == "cpu" || setup.server.is_some() {
        return Ok(());
    }
    let setup = Setup { model: "synthetic:nano".into(), rope_scaling: None, ..setup.clone() };
    let job = Job { setup, ..Job::default() };
    run_job(binary, &job, &mut |_| Ok(())).map_err(startup_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job { scenarios: vec!["short/b1".into()], session: "s".into(), ..Job::default() }
    }

    #[cfg(unix)]
    #[test]
    fn a_worker_that_exceeds_the_budget_is_killed() {
        let end = (Instant::now(), Error::SkippedTime("the time budget was used up".into()));
        // `tail` waits for the end of its standard input, which stays open.
        let error = run_job_until(Path::new("/usr/bin/tail"), &job(), Some(end), &mut |_| Ok(()));
        assert!(matches!(error, Err(Error::SkippedTime(_))), "{error:?}");
    }

    #[test]
    fn a_worker_that_prints_garbage_or_dies_is_an_error_that_quotes_it() {
        let job = job();
        let error = |binary| run_job(Path::new(binary), &job, &mut |_| Ok(())).unwrap_err();
        let text = error("/bin/cat").to_string();
        assert!(text.contains("invalid response: `{\"setup\""), "{text}");
        let text = error("/bin/false").to_string();
        assert!(text.contains("ended with exit status: 1 and printed nothing"), "{text}");
        let text = error("/bin/true").to_string();
        assert!(text.contains("ended with exit status: 0"), "no result is no success: {text}");
        assert!(matches!(error("/no/such/binary"), Error::Read { .. }));
    }
}
