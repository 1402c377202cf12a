//! Pseudorandom numbers that depend on the seed alone, on every machine and in every version.

/// SplitMix64 (Steele, Lea and Flood 2014): good enough for drawing suites and for the bootstrap.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// The step of the state: 2^64 divided by the golden ratio, odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence of this seed from its number `index` on.
    #[inline]
    pub fn at(seed: u64, index: u64) -> Self {
        Self(seed.wrapping_add(index.wrapping_mul(GAMMA)))
    }

    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniform index below `count`, to within 2^-53.
    ///
    /// # Panics
    /// When `count` is zero.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is something to choose from");
        ((self.uniform() * count as f64) as usize).min(count - 1)
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_published_generator() {
        let mut random = Random::new(1_234_567);
        let bits: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(bits, published);
        assert_eq!(Random::at(1_234_567, 2).bits(), published[2]);
    }

    #[test]
    fn normal_numbers_are_normal_and_indices_in_range() {
        let mut random = Random::new(7);
        let normal: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        assert!(crate::stats::mean(&normal).unwrap().abs() < 0.02);
        assert!((crate::stats::sd(&normal).unwrap() - 1.0).abs() < 0.02);
        let beyond = normal.iter().filter(|value| value.abs() > 1.96).count() as f64 / 20_000.0;
        assert!((beyond - 0.05).abs() < 0.006, "{beyond}");
        let mut counts = [0; 5];
        (0..5000).for_each(|_| counts[random.below(5)] += 1);
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
    }
}
