//! The real probe: scenarios in fresh worker processes, judged against the stored baseline if there
//! is one. Only the newest record is kept as a file.

use std::path::{Path, PathBuf};

use crate::compare::{Policy, ReferenceData};
use crate::error::{Error, Result};
use crate::monitor::{Measured, Probe, VerdictSummary};
use crate::record::{Case, Record};
use crate::{baseline, compare, report, suite};

/// Runs a suite in worker processes.
pub struct SuiteProbe<'a> {
    /// The suite, without a record file: a full disk must not fail a cycle.
    pub plan: suite::Plan,
    /// The file of the newest record.
    pub newest: PathBuf,
    /// The folder of baselines.
    pub baselines: PathBuf,
    /// The policy of verdicts.
    pub policy: Policy,
    /// Whether to stop before the next worker.
    pub stopped: &'a dyn Fn() -> bool,
    /// Logs errors outside the measurement.
    pub say: &'a dyn Fn(&str),
}

impl Probe for SuiteProbe<'_> {
    fn measure(&mut self) -> Result<Measured> {
        let record = suite::run(&self.plan, &mut (), &mut Quiet { stopped: self.stopped })?;
        if let Err(error) = record.save(&self.newest) {
            (self.say)(&format!("record: {}", error.chain()));
        }
        let verdict = judge_record(&self.baselines, &record, &self.policy);
        Ok(Measured::new(&record, verdict))
    }
}

/// The verdict against the stored baseline, or why there is none.
fn judge_record(folder: &Path, record: &Record, policy: &Policy) -> VerdictSummary {
    let judge = || -> Result<VerdictSummary> {
        let (path, base) = baseline::find(folder, record, &policy.allow_class)?;
        let release = baseline::find_release(&path)?;
        let calibration = baseline::find_calibration(folder, record)?;
        let reference = ReferenceData {
            baseline: &base,
            release: release.as_ref(),
            calibration: calibration.as_ref(),
        };
        let judgement = compare::judge(reference, record, policy);
        Ok(VerdictSummary { outcome: Some(judgement.outcome), text: report::sentence(&judgement) })
    };
    judge().unwrap_or_else(|error| VerdictSummary { outcome: None, text: error_reason(&error) })
}

/// The reason alone, without advice on baselines.
fn error_reason(error: &Error) -> String {
    match error {
        Error::NotComparable(why) => why.clone(),
        error => error.chain(),
    }
}

/// Prints no progress while a worker measures.
struct Quiet<'a> {
    stopped: &'a dyn Fn() -> bool,
}

impl suite::Events for Quiet<'_> {
    fn start(&mut self, _: &[String], _: suite::RunProgress) {}

    fn measured(&mut self, _: &Case) {}

    fn stopped(&self) -> bool {
        (self.stopped)()
    }
}
