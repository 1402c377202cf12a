//! The cases of `candlemark peers`.

pub(super) struct PeerCase {
    /// Follows the quantization in keys.
    pub name: &'static str,
    /// Sequences in the batch.
    pub sequences: usize,
    /// Prompt tokens of each sequence; the mean where there are several.
    pub tokens: usize,
    /// Timed decode steps after the first token; 0 times the prefill.
    pub steps: usize,
}

#[rustfmt::skip]
pub(super) const CASES: &[PeerCase] = &[
    PeerCase { name: "prefill_512",       sequences: 1,  tokens: 512,  steps: 0 },
    PeerCase { name: "decode_b1",         sequences: 1,  tokens: 128,  steps: 64 },
    PeerCase { name: "decode_b16",        sequences: 16, tokens: 128,  steps: 32 },
    PeerCase { name: "prefill_4096",      sequences: 1,  tokens: 4096, steps: 0 },
    PeerCase { name: "decode_depth_4096", sequences: 1,  tokens: 4096, steps: 32 },
];

impl PeerCase {
    /// Tokens in the KV caches of all sequences, on average over the steps.
    pub fn cached_tokens(&self) -> usize {
        let prompts: usize = (0..self.sequences).map(|sequence| self.length(sequence)).sum();
        prompts + self.sequences * self.steps / 2
    }

    /// Prompt tokens of a sequence.
    fn length(&self, sequence: usize) -> usize {
        match self.sequences {
            1 => self.tokens,
            // Ragged, with the length as the mean: 112, 119, 126, ...
            _ => self.tokens - self.tokens / 8 + (sequence * 7) % (self.tokens / 4 + 1),
        }
    }

    /// The prompts: pseudorandom tokens, the same on every machine.
    pub fn prompts(&self, vocab: usize) -> Vec<Vec<u32>> {
        let id = |sequence: usize, at: usize| {
            let mixed = ((sequence << 16 | at) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed >> 32) % vocab as u64) as u32
        };
        (0..self.sequences)
            .map(|sequence| (0..self.length(sequence)).map(|at| id(sequence, at)).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_ragged_around_its_length() {
        let case = CASES.iter().find(|case| case.name == "decode_b16").unwrap();
        let lengths: Vec<usize> = case.prompts(3072).iter().map(Vec::len).collect();
        assert_eq!(lengths[..4], [112, 119, 126, 133]);
        let mean = lengths.iter().sum::<usize>() as f64 / 16.0;
        assert!((mean - 128.0).abs() < 1.0, "{mean}");
        assert_eq!(case.cached_tokens(), lengths.iter().sum::<usize>() + 16 * 16);
        assert!(case.prompts(3072).iter().flatten().all(|id| *id < 3072));
    }

    #[test]
    fn names_are_unique() {
        for (at, case) in CASES.iter().enumerate() {
            assert!(CASES[..at].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
