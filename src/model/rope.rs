//! RoPE (rotary position embedding): frequencies, YaRN, and tables of cos and sin, computed in f64
//! and stored in f32.
//!
//! Su et al. 2021, arXiv 2104.09864; YaRN: Peng et al. 2023, arXiv 2309.00071, sections 3.2 and
//! 3.4, with the constants of Qwen's model cards (`beta_fast` 32, `beta_slow` 1).

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::model::config::Config;
use crate::settings::RopeScaling;

/// Tables grow by this many positions.
const GROWTH: usize = 1024;

/// Tables of cos and sin, `[positions, head_dim / 2]`, that grow with the longest sequence.
pub(super) struct RopeTables {
    frequencies: Vec<f64>,
    scale: f64,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTables {
    /// The tables of a model, without positions.
    pub(super) fn new(config: &Config) -> Self {
        let (frequencies, scale) =
            frequencies(config.head_dim, config.rope_theta, config.rope_scaling.as_ref());
        Self { frequencies, scale, cos: Vec::new(), sin: Vec::new() }
    }

    fn positions(&self) -> usize {
        self.cos.len() / self.frequencies.len().max(1)
    }

    /// Extends the tables to at least `positions`; returns whether they grew.
    pub(super) fn grow_to(&mut self, positions: usize) -> bool {
        let has = self.positions();
        if positions <= has {
            return false;
        }
        for position in has..positions.next_multiple_of(GROWTH) {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push((cos * self.scale) as f32);
                self.sin.push((sin * self.scale) as f32);
            }
        }
        true
    }

    /// cos and sin of a position within the tables.
    pub(super) fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let width = self.frequencies.len();
        let range = position * width..(position + 1) * width;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// The tables on a device.
pub(super) struct DeviceRope {
    tables: RopeTables,
    device: Device,
    cos: Tensor,
    sin: Tensor,
}

impl DeviceRope {
    /// The tables of a model, without positions.
    pub(super) fn new(config: &Config, device: &Device) -> Result<Self> {
        let tables = RopeTables::new(config);
        let empty = Tensor::zeros((0, config.head_dim / 2), candle_core::DType::F32, device)?;
        Ok(Self { tables, device: device.clone(), cos: empty.clone(), sin: empty })
    }

    /// cos and sin of these positions, one row each.
    pub(super) fn rows(&mut self, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let longest = positions.iter().max().map_or(0, |&last| last as usize + 1);
        if self.tables.grow_to(longest) {
            let shape = (self.tables.positions(), self.tables.frequencies.len());
            self.cos = Tensor::from_slice(&self.tables.cos, shape, &self.device)?;
            self.sin = Tensor::from_slice(&self.tables.sin, shape, &self.device)?;
        }
        let ids = Tensor::new(positions, &self.device)?;
        Ok((self.cos.index_select(&ids, 0)?, self.sin.index_select(&ids, 0)?))
    }
}

/// The angle per position of each pair of a head, and the factor on cos and sin.
///
/// Without scaling, pair `i` of a head of width `d` rotates by `theta^(-2i/d)` per position. YaRN
/// divides the frequencies of pairs with fewer than `beta_slow` rotations over the original context
/// by `factor`, keeps those with more than `beta_fast`, and blends between; it scales cos and sin
/// by `0.1 ln(factor) + 1`.
fn frequencies(head_dim: usize, theta: f64, scaling: Option<&RopeScaling>) -> (Vec<f64>, f64) {
    let d = head_dim as f64;
    let unscaled = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / d));
    let Some(yarn) = scaling else { return (unscaled.collect(), 1.0) };
    let original = yarn.original_max_position_embeddings as f64;
    // The pair with this number of rotations over the original context.
    let pair = |rotations: f64| {
        d * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
    };
    let low = pair(yarn.beta_fast.unwrap_or(32.0)).floor().max(0.0);
    let high = pair(yarn.beta_slow.unwrap_or(1.0)).ceil().min(d - 1.0);
    let width = if high > low { high - low } else { 0.001 };
    let blended = unscaled.enumerate().map(|(i, frequency)| {
        let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
        frequency * ((1.0 - interpolated) + interpolated / yarn.factor)
    });
    (blended.collect(), yarn.attention_factor.unwrap_or(0.1 * yarn.factor.ln() + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yarn(factor: f64) -> RopeScaling {
        RopeScaling {
            rope_type: "yarn".into(),
            factor,
            original_max_position_embeddings: 32768,
            attention_factor: None,
            beta_fast: None,
            beta_slow: None,
        }
    }

    #[test]
    fn yarn_blends_between_the_published_pairs() {
        // For d = 128, theta = 1e6 and 32768 positions the blend runs from pair 23 to pair 40.
        let (unscaled, one) = frequencies(128, 1e6, None);
        let (scaled, scale) = frequencies(128, 1e6, Some(&yarn(4.0)));
        assert_eq!(one, 1.0);
        assert!((scale - 1.138_629_436_111_989).abs() < 1e-15);
        for i in 0..=23 {
            assert_eq!(scaled[i], unscaled[i], "pair {i} is unchanged");
        }
        for i in 40..64 {
            assert!(
                (scaled[i] * 4.0 / unscaled[i] - 1.0).abs() < 1e-15,
                "pair {i} is divided by the factor"
            );
        }
        // Pair 30 is 7/17 of the way: 1 - (7/17) (1 - 1/4).
        assert!((scaled[30] / unscaled[30] - (1.0 - 7.0 / 17.0 * 0.75)).abs() < 1e-15);
        // A factor of one changes nothing.
        assert_eq!(frequencies(128, 1e6, Some(&yarn(1.0))), (unscaled, 1.0));
    }

    #[test]
    fn tables_are_exact_at_position_40000() {
        let config = Config::named("qwen3-0.6b").unwrap();
        let mut rope = DeviceRope::new(&config, &Device::Cpu).unwrap();
        let (cos, sin) = rope.rows(&[0, 1, 40_000]).unwrap();
        let (cos, sin) = (cos.to_vec2::<f32>().unwrap(), sin.to_vec2::<f32>().unwrap());
        assert_eq!((cos[0][0], sin[0][0]), (1.0, 0.0));
        assert_eq!((cos[1][0], sin[1][0]), (0.540_302_3, 0.841_470_96));
        // cos(40000) and sin(40000), from a table with more digits.
        assert!((cos[2][0] - 0.322_587_47).abs() < 1e-6, "{}", cos[2][0]);
        assert!((sin[2][0] - 0.946_539_6).abs() < 1e-6, "{}", sin[2][0]);
        let mut tables = RopeTables::new(&config);
        assert!(tables.grow_to(40_001) && !tables.grow_to(40_000));
        let (row_cos, row_sin) = tables.row(40_000);
        assert_eq!((row_cos, row_sin), (cos[2].as_slice(), sin[2].as_slice()));
    }
}
