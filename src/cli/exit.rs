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

/// The meaning of every exit status, for `--help`. README has the same table.
const STATUSES: [(Exit, &str); 7] = [
    (Exit::Pass, "pass or improved (also: equal binaries)"),
    (Exit::Regression, "regression"),
    (Exit::Usage, "wrong command line, configuration, or file named in them; nothing was measured"),
    (
        Exit::Undecided,
        "cannot decide: too noisy, too few blocks, not calibrated, machine changed, out of time, \
         interrupted",
    ),
    (
        Exit::NotComparable,
        "not comparable: other machine, model, settings or prompts, no baseline, base does not \
         build; or what was asked for is missing",
    ),
    (Exit::Failed, "the run failed, or greedy output changed"),
    (Exit::Interrupted, "interrupted: what was measured is kept; `--resume`"),
];

/// The table of exit statuses, for `--help`.
pub(crate) fn statuses() -> String {
    let mut text = "Exit status:".to_owned();
    for (exit, meaning) in STATUSES {
        text += &format!("\n  {:<3} ", exit as u8);
        let mut column = 0;
        for word in meaning.split(' ') {
            if column + word.len() > 70 {
                text += "\n      ";
                column = 0;
            }
            text += " ";
            text += word;
            column += word.len() + 1;
        }
    }
    text
}

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
