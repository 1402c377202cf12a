//! What is measured, as rows of a table.

/// One measurement.
pub(super) struct Item {
    /// In keys, after the quantisation.
    pub name: &'static str,
    /// Sequences in the batch.
    pub sequences: usize,
    /// Tokens that each sequence reads first, about so many where there are several.
    pub tokens: usize,
    /// Steps that are timed after the first token; none times the reading.
    pub steps: usize,
}

#[rustfmt::skip]
pub(super) const ITEMS: &[Item] = &[
    Item { name: "prefill_512",       sequences: 1,  tokens: 512,  steps: 0 },
    Item { name: "decode_b1",         sequences: 1,  tokens: 128,  steps: 64 },
    Item { name: "decode_b16",        sequences: 16, tokens: 128,  steps: 32 },
    Item { name: "prefill_4096",      sequences: 1,  tokens: 4096, steps: 0 },
    Item { name: "decode_depth_4096", sequences: 1,  tokens: 4096, steps: 32 },
];

impl Item {
    /// The tokens that each sequence reads: look random, and are the same everywhere.
    pub fn prompts(&self, vocab: usize) -> Vec<Vec<u32>> {
        let id = |sequence: usize, at: usize| {
            let mixed = ((sequence << 16 | at) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed >> 32) % vocab as u64) as u32
        };
        let length = |sequence: usize| match self.sequences {
            1 => self.tokens,
            // Ragged, and of the length on average: 112, 119, 126, ...
            _ => self.tokens - self.tokens / 8 + (sequence * 7) % (self.tokens / 4 + 1),
        };
        (0..self.sequences)
            .map(|sequence| (0..length(sequence)).map(|at| id(sequence, at)).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_ragged_around_its_length() {
        let item = ITEMS.iter().find(|item| item.name == "decode_b16").unwrap();
        let lengths: Vec<usize> = item.prompts(3072).iter().map(Vec::len).collect();
        assert_eq!(lengths[..4], [112, 119, 126, 133]);
        let mean = lengths.iter().sum::<usize>() as f64 / 16.0;
        assert!((mean - 128.0).abs() < 3.0, "{mean}");
        assert!(item.prompts(3072).iter().flatten().all(|id| *id < 3072));
    }

    #[test]
    fn names_are_told_apart() {
        for (at, item) in ITEMS.iter().enumerate() {
            assert!(ITEMS[..at].iter().all(|other| other.name != item.name), "{}", item.name);
        }
    }
}
