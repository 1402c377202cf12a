//! Values of settings that have a range: counts, temperatures, durations.

use std::time::Duration;

use crate::error::{Error, Result, shortened};

/// The range of an integer setting, for its flag, its variable and its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The smallest value.
    pub min: usize,
    /// The largest value.
    pub max: usize,
}

impl Count {
    /// Threads: as many as CPUs that Linux supports.
    pub(crate) const THREADS: Self = Self { min: 1, max: 8192 };
    /// Processes per scenario, and other repetitions of whole processes.
    pub(crate) const BLOCKS: Self = Self { min: 1, max: 10_000 };
    /// Measured generations per process; their samples are kept in memory.
    pub(crate) const ITERS: Self = Self { min: 1, max: 10_000 };
    /// Warm-ups.
    pub(crate) const WARMUPS: Self = Self { min: 0, max: 1000 };
    /// Rounds of turns.
    pub(crate) const ROUNDS: Self = Self { min: 1, max: 1000 };
    /// Tokens of a sequence or a vocabulary: beyond today's models.
    pub(crate) const TOKENS: Self = Self { min: 1, max: 1 << 20 };

    pub(super) fn contains(self, count: usize) -> bool {
        (self.min..=self.max).contains(&count)
    }

    /// Parses a value.
    ///
    /// # Errors
    /// When it is not an integer in the range.
    pub fn parse(self, text: &str) -> Result<usize> {
        let count = text.parse().ok().filter(|count| self.contains(*count));
        count.ok_or_else(|| Error::Usage(format!("give a whole number, {self}")))
    }

    /// [`Count::parse`] as a flag's parser.
    pub fn parser(self) -> impl Fn(&str) -> Result<usize> + Clone + Send + Sync + 'static {
        move |text| self.parse(text)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// Parses a sampling temperature. Above 1000, f32 scores no longer differ.
///
/// # Errors
/// When it is not a number in the range.
pub fn temperature(text: &str) -> Result<f64> {
    let number = text.parse().ok().filter(|temperature| is_temperature(*temperature));
    number.ok_or_else(|| Error::Usage(format!("give a number {TEMPERATURES}")))
}

pub(super) fn is_temperature(number: f64) -> bool {
    (0.0..=1000.0).contains(&number)
}

pub(super) const TEMPERATURES: &str = "from 0 to 1000; 0 is greedy";

/// A year; sums of times must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(8760 * 3600);

/// Parses a duration: `90s`, `10m`, `1h 30m`.
///
/// # Errors
/// When it has another form, is negative, or is longer than a year.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let parsed =
        text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    let parsed = parsed.ok_or_else(|| {
        let text = shortened(text);
        Error::Usage(format!("`{text}` is not a duration; write `90s`, `10m` or `1h 30m`"))
    })?;
    if parsed > MAX_DURATION {
        return Err(Error::Usage("give no more than a year, `8760h`".into()));
    }
    Ok(parsed)
}

/// Parses an interval of repeated runs.
///
/// # Errors
/// When it is not a duration, or less than a second.
pub fn interval(text: &str) -> Result<Duration> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) {
        return Err(Error::Usage("give a second or more".into()));
    }
    Ok(time)
}
