//! Deliberate regressions, to test that the gate fails.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::Decoder;

/// A deliberate regression, to test that the gate fails. It adds time in proportion to the measured
/// work, so its size does not depend on the machine. The record stores it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Injection {
    pub(super) stage: Stage,
    /// The fraction by which a rate drops, or a time or memory rises.
    pub(super) share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    Decode,
    Prefill,
    Ttft,
    Memory,
}

impl Injection {
    /// Parses `decode:25%` or `prefill:10%`, which lower the rate, or `ttft:20%` or `memory:20%`,
    /// which raise the value.
    ///
    /// # Errors
    /// When the form is another or the percentage is out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Usage(format!(
                "injection `{text}` is not of the form `decode:25%`, `prefill:10%`, `ttft:20%` or \
                 `memory:20%`, above 0 and below 100 %"
            ))
        };
        let (stage, share) = text.split_once(':').ok_or_else(wrong)?;
        let stage = match stage {
            "decode" => Stage::Decode,
            "prefill" => Stage::Prefill,
            "ttft" => Stage::Ttft,
            "memory" => Stage::Memory,
            _ => return Err(wrong()),
        };
        let share: f64 =
            share.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        if !(share > 0.0 && share < 100.0) {
            return Err(wrong());
        }
        Ok(Self { stage, share: share / 100.0 })
    }

    /// [`Injection::parse`], if there is one.
    ///
    /// # Errors
    /// As [`Injection::parse`].
    pub(crate) fn parse_if_any(text: &Option<String>) -> Result<Option<Self>> {
        text.as_deref().map(Self::parse).transpose()
    }

    /// Spins after a decode step for x / (1 - x) of its time, which lowers the rate by exactly x.
    pub(crate) fn after_step(injection: Option<Self>, decoder: &dyn Decoder, work: Duration) {
        if let Some(Self { stage: Stage::Decode, share }) = injection {
            spin(decoder, work.mul_f64(share / (1.0 - share)));
        }
    }

    /// Spins after a prefill pass.
    pub(crate) fn after_pass(injection: Option<Self>, decoder: &dyn Decoder, work: Duration) {
        match injection {
            Some(Self { stage: Stage::Prefill, share }) => {
                spin(decoder, work.mul_f64(share / (1.0 - share)))
            }
            Some(Self { stage: Stage::Ttft, share }) => spin(decoder, work.mul_f64(share)),
            _ => {}
        }
    }

    /// Memory that raises the `now` resident bytes to the fraction above the `peak`; written to, so
    /// that it is resident. Empty for other injections.
    pub(crate) fn ballast(self, peak: u64, now: u64) -> Vec<u8> {
        let target = (peak as f64 * (1.0 + self.share)) as u64;
        match self.stage {
            Stage::Memory => vec![1; target.saturating_sub(now) as usize],
            _ => Vec::new(),
        }
    }
}

/// Spins on all threads, as work would: threads that fall asleep would slow the next step further.
fn spin(decoder: &dyn Decoder, wait: Duration) {
    let start = Instant::now();
    decoder.on_all_threads(&|| {
        while start.elapsed() < wait {
            std::hint::spin_loop();
        }
    });
}
