//! The instants at which an open loop sends.

use std::str::FromStr;

use serde::Serialize;

use crate::stats::Random;

/// The distribution of the time between requests of an open loop, with mean 1 / rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Arrival {
    /// Always the mean.
    Constant,
    /// Exponential: a Poisson process.
    Poisson,
    /// Gamma of this shape: burstier than Poisson below 1, more regular above.
    Gamma {
        /// The shape.
        shape: f64,
    },
}

impl FromStr for Arrival {
    type Err = String;

    /// Parses `constant`, `poisson` or `gamma:SHAPE`.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("gamma:").map(str::parse::<f64>)) {
            ("constant", _) => Ok(Self::Constant),
            ("poisson", _) => Ok(Self::Poisson),
            (_, Some(Ok(shape))) if (0.01..=1000.0).contains(&shape) => Ok(Self::Gamma { shape }),
            (_, Some(_)) => Err("the shape of gamma is a number from 0.01 to 1000".into()),
            _ => Err("write constant, poisson or gamma:SHAPE, for example gamma:0.5".into()),
        }
    }
}

impl Arrival {
    /// A time between requests, with mean 1.
    fn draw(self, random: &mut Random) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Poisson => exponential(random),
            Self::Gamma { shape } => gamma(shape, random) / shape,
        }
    }

    /// The instants of requests in seconds: the first at 0, then by the drawn times. Equal seeds
    /// give equal instants.
    pub(super) fn instants(self, rate: f64, seed: u64) -> impl Iterator<Item = f64> {
        let mut random = Random::new(seed);
        let mut next = 0.0;
        std::iter::repeat_with(move || {
            let at = next;
            next += self.draw(&mut random) / rate;
            at
        })
    }
}

fn exponential(random: &mut Random) -> f64 {
    -(1.0 - random.uniform()).ln()
}

/// Gamma with scale 1, by the squeeze of Marsaglia and Tsang (2000); below shape 1 with their
/// boost.
fn gamma(shape: f64, random: &mut Random) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - random.uniform()).powf(1.0 / shape);
        return gamma(shape + 1.0, random) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = random.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - random.uniform();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{mean, sd};

    #[test]
    fn arrivals_have_their_mean_and_spread() {
        // The coefficient of variation of gamma is 1 / sqrt(shape).
        for (text, spread) in
            [("constant", 0.0), ("poisson", 1.0), ("gamma:0.25", 2.0), ("gamma:4", 0.5)]
        {
            let arrival: Arrival = text.parse().unwrap();
            let instants: Vec<f64> = arrival.instants(4.0, 7).take(100_001).collect();
            assert_eq!(instants[0], 0.0);
            let gaps: Vec<f64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (mean, sd) = (mean(&gaps).unwrap(), sd(&gaps).unwrap());
            assert!((mean - 0.25).abs() < 0.005, "{text}: {mean}");
            assert!((sd / mean - spread).abs() < 0.03, "{text}: {}", sd / mean);
            let again: Vec<f64> = arrival.instants(4.0, 7).take(10).collect();
            assert_eq!(again, instants[..10]);
        }
    }

    #[test]
    fn a_wrong_arrival_is_explained() {
        assert!("gamma:0".parse::<Arrival>().unwrap_err().contains("0.01 to 1000"));
        assert!("uniform".parse::<Arrival>().unwrap_err().contains("gamma:SHAPE"));
    }
}
