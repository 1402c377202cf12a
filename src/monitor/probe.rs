//! The real probe: scenarios in fresh worker processes, judged against the stored baseline if there
//! is one. Only the newest record is kept as a file.

use std::path::{Path, PathBuf};

use crate::compare::Policy;
use crate::error::{Error, Result};
use crate::monitor::{Measured, Probe, VerdictSummary};
use crate::record::Record;
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
        let mut quiet = self.stopped;
        let record = suite::run(&self.plan, &mut (), &mut quiet)?;
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
        let stored = baseline::Stored::find(folder, record, &policy.allow_class)?;
        let judgement = compare::judge(&stored, record, policy);
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
