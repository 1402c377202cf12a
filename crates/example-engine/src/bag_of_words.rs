//! An engine written from nothing: a bag of words. The logits of a sequence are the products of the
//! mean embedding of its tokens with every embedding. It knows no language, but it does real work,
//! so it can be measured, and it can get slower.

use candlemark::Result;
use candlemark::model::config::Config;
use candlemark::model::{Decoder, Footprint, Logits, ModelSource, Step};
use candlemark::settings::Setup;

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The engine: what its weights and its sequences are, is its own business.
pub struct BagOfWords {
    config: Config,
    /// `[vocab, hidden]`
    embedding: Vec<f32>,
    /// The sum of the embeddings of each sequence's tokens, and their number.
    sequences: Vec<(Vec<f32>, usize)>,
}

/// Loads the engine; what `candlemark::engine::register` takes.
///
/// # Errors
/// When the weights cannot be read.
pub fn load(source: &ModelSource, _: &Setup) -> Result<Box<dyn Decoder>> {
    let config = source.config.clone();
    let embedding = source.weights.rows(EMBEDDING, 0..config.vocab)?.into_f32();
    Ok(Box::new(BagOfWords { config, embedding, sequences: Vec::new() }))
}

impl Decoder for BagOfWords {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let hidden = self.config.hidden;
        let mut values = Vec::with_capacity(steps.len() * self.config.vocab);
        for step in steps {
            let length = self.sequences[step.sequence].1 + step.tokens.len();
            self.check_length(length)?;
            let (sum, count) = &mut self.sequences[step.sequence];
            for token in step.tokens {
                let row = self.embedding[*token as usize * hidden..][..hidden].iter();
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            *count = length;
            let rows = self.embedding.chunks_exact(hidden);
            values.extend(rows.map(|row| {
                let product = row.iter().zip(&*sum).map(|(a, b)| a * b).sum::<f32>();
                product / length as f32
            }));
        }
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.sequences = vec![(vec![0.0; self.config.hidden], 0); sequences];
        Ok(())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.config.check_length(length)
    }

    fn footprint(&self) -> Footprint {
        Footprint::of_f32(4 * self.embedding.len() as u64)
    }
}
