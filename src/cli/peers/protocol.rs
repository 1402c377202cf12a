//! Messages between `candlemark peers` and the process of an engine, one JSON object per line.

use serde::{Deserialize, Serialize};

use crate::record::Absence;

/// Sent once by the process, after it has loaded the model.
#[derive(Serialize, Deserialize)]
pub(super) enum Hello {
    /// How the engine is configured.
    Loaded(String),
    /// Why the engine cannot run the model.
    Unsupported(String),
}

/// Asks for one turn.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub case: String,
    pub kind: TurnKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TurnKind {
    /// Warms up and returns the top-2 margins, for which the logits are copied.
    Pilot,
    /// Counts.
    Timed,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Response {
    Measured {
        /// Tokens per second.
        rate: f64,
        /// Of the whole turn, including what is not timed.
        seconds: f64,
        /// Generated tokens of each sequence.
        ids: Vec<Vec<u32>>,
        /// Top-2 margin at each token, in standard deviations of the logits; empty in timed turns.
        margins: Vec<Vec<f64>>,
    },
    Failed {
        absent: Absence,
    },
}
