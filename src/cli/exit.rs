//! Exit statuses and their causes.

use crate::compare::Outcome;
use crate::error::{Cause, Error};

/// The exit status. clap, too, ends with 2 on a wrong command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Pass = 0,
    Regression = 1,
    Usage = 2,
    Undecided = 3,
    NotComparable = 4,
    Failed = 5,
    Interrupted = 130,
}

/// The answer of a command, or the error that stopped it.
pub(crate) type CommandResult = anyhow::Result<Exit>;

/// The meaning of every exit status, for `--help`. README has the same table.
pub(crate) const STATUSES: &str = "\
Exit status:
  0    pass or improved (also: equal binaries)
  1    regression
  2    wrong command line, configuration, or file named in them; nothing was
       measured
  3    undecided: too noisy, too few blocks, not calibrated, machine
       changed, out of time, interrupted
  4    not comparable: other machine, model, settings or prompts, no
       baseline, base does not build; or what was asked for is missing
  5    the run failed, or greedy output changed
  130  interrupted: what was measured is kept; `run --resume` continues";

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Usage => Exit::Usage,
            Cause::Undecided => Exit::Undecided,
            Cause::NotComparable => Exit::NotComparable,
            Cause::Interrupted => Exit::Interrupted,
            Cause::Failed => Exit::Failed,
        }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass => Exit::Pass,
            Outcome::Regression => Exit::Regression,
            Outcome::Undecided => Exit::Undecided,
            Outcome::NotComparable => Exit::NotComparable,
            Outcome::Failed => Exit::Failed,
        }
    }
}

/// The cause of an error; errors of other crates are failures.
pub(crate) fn cause(error: &anyhow::Error) -> Cause {
    error.downcast_ref::<Error>().map_or(Cause::Failed, Error::cause)
}
