//! Distributions of lengths in tokens.

use std::fs;
use std::str::FromStr;

use serde::Serialize;

use crate::stats::Random;

/// The longest prompt or answer that a load asks for.
const MAX_TOKENS: u64 = 1_000_000;

/// A distribution of lengths in tokens; each is at least 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Lengths {
    /// Always the same.
    Fixed {
        /// The length.
        tokens: u64,
    },
    /// Every length of a range, equally often.
    Uniform {
        /// The shortest.
        least: u64,
        /// The longest.
        most: u64,
    },
    /// Normal, cut at 1 and at the longest length that is asked for.
    Normal {
        /// The mean before it is cut.
        mean: f64,
        /// The standard deviation before it is cut.
        sd: f64,
    },
    /// Those of a file, equally often.
    File {
        /// Its lengths.
        lengths: Vec<u64>,
    },
}

impl FromStr for Lengths {
    type Err = String;

    /// Parses `512`, `fixed:512`, `uniform:A:B`, `normal:MEAN:SD` or `file:PATH`, a file with one
    /// length per line.
    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |text: &str| text.parse().ok().filter(|n| (1..=MAX_TOKENS).contains(n));
        let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        let (kind, rest) = text.split_once(':').unwrap_or(("fixed", text));
        let two = rest.split_once(':');
        let parsed = match kind {
            "fixed" => whole(rest).map(|tokens| Self::Fixed { tokens }),
            "uniform" => two.and_then(|(least, most)| {
                let (least, most) = (whole(least)?, whole(most)?);
                (least <= most).then_some(Self::Uniform { least, most })
            }),
            "normal" => two.and_then(|(mean, sd)| {
                let mean = number(mean).filter(|mean| (1.0..=MAX_TOKENS as f64).contains(mean));
                Some(Self::Normal { mean: mean?, sd: number(sd)? })
            }),
            "file" => return Self::read(rest, whole),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "write a number of tokens from 1 to {MAX_TOKENS}, uniform:A:B, normal:MEAN:SD, or \
                 file:PATH of a file with one length per line"
            )
        })
    }
}

impl Lengths {
    fn read(path: &str, whole: impl Fn(&str) -> Option<u64>) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|why| format!("cannot read {path}: {why}"))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let length = |(at, line): (usize, &str)| {
            whole(line.trim()).ok_or_else(|| {
                format!("line {} of {path} is no length from 1 to {MAX_TOKENS}", at + 1)
            })
        };
        let lengths = lines.map(length).collect::<Result<Vec<u64>, String>>()?;
        if lengths.is_empty() {
            return Err(format!("{path} has no length"));
        }
        Ok(Self::File { lengths })
    }

    /// A length.
    pub(super) fn draw(&self, random: &mut Random) -> u64 {
        match self {
            Self::Fixed { tokens } => *tokens,
            Self::Uniform { least, most } => {
                least + random.below((most - least + 1) as usize) as u64
            }
            Self::Normal { mean, sd } => {
                (mean + sd * random.normal()).round().clamp(1.0, MAX_TOKENS as f64) as u64
            }
            Self::File { lengths } => lengths[random.below(lengths.len())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{mean, sd};

    #[test]
    fn lengths_have_their_distribution() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "10\n\n30\n").unwrap();
        let of_file = format!("file:{}", file.path().display());
        // Every whole number of a range of n has the variance (n^2 - 1) / 12.
        for (text, expected, spread) in [
            ("512", 512.0, 0.0),
            ("fixed:512", 512.0, 0.0),
            ("uniform:1:7", 4.0, 2.0),
            ("normal:100:9", 100.0, 9.0),
            (of_file.as_str(), 20.0, 10.0),
        ] {
            let lengths: Lengths = text.parse().unwrap();
            let mut random = Random::new(3);
            let drawn: Vec<f64> = (0..40_000).map(|_| lengths.draw(&mut random) as f64).collect();
            let (mean, sd) = (mean(&drawn).unwrap(), sd(&drawn).unwrap());
            assert!((mean - expected).abs() < 0.2, "{text}: {mean}");
            assert!((sd - spread).abs() < 0.2, "{text}: {sd}");
        }
        let cut: Lengths = "normal:2:50".parse().unwrap();
        assert!((0..1000).all(|seed| cut.draw(&mut Random::new(seed)) >= 1));
    }

    #[test]
    fn a_wrong_length_is_explained() {
        for text in ["", "0", "-3", "uniform:7:1", "uniform:7", "normal:0:1", "gamma:3", "x:y:z"] {
            let why = text.parse::<Lengths>().unwrap_err();
            assert!(why.contains("uniform:A:B"), "{text}: {why}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let of_file = format!("file:{}", file.path().display());
        assert!(of_file.parse::<Lengths>().unwrap_err().contains("has no length"));
        fs::write(file.path(), "10\nlong\n").unwrap();
        assert!(of_file.parse::<Lengths>().unwrap_err().contains("line 2 of"));
        assert!("file:/none".parse::<Lengths>().unwrap_err().contains("cannot read /none"));
    }
}
