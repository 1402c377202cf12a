//! The interface of an engine: token ids in, logits out, both plain numbers on the host, so a
//! decoder has finished its work when it returns. Knows nothing of files.

use crate::error::{Error, Result};
use crate::kernel::{GgmlType, KvDtype, Span};
use crate::model::config::Config;
use crate::model::quant::mix_name;

/// New tokens of one sequence; they follow the tokens that its KV cache already has.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Which sequence, counted from 0.
    pub sequence: usize,
    /// At least one token id.
    pub tokens: &'a [u32],
}

/// A loaded model with the KV caches of its sequences.
pub trait Decoder: Send {
    /// One forward pass over the tokens of all steps. Returns the logits after the last token of
    /// each step, one row per step.
    ///
    /// # Errors
    /// When the device fails, a sequence would outgrow the context, or the engine does not support
    /// such a step ([`Error::Unsupported`]).
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits>;

    /// As [`Decoder::forward`], but returns only the argmax of each row; the first of equals.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        Ok(self.forward(steps)?.argmax())
    }

    /// Clears the KV caches and prepares them for this number of sequences.
    ///
    /// # Errors
    /// When the engine does not support so many ([`Error::Unsupported`]).
    fn reset(&mut self, sequences: usize) -> Result<()>;

    /// Removes the tokens of a sequence after its first `length` from the KV cache.
    ///
    /// # Errors
    /// When the engine cannot truncate ([`Error::Unsupported`]), or the sequence is shorter.
    fn truncate(&mut self, _sequence: usize, _length: usize) -> Result<()> {
        Err(Error::Unsupported("this engine cannot truncate a sequence".into()))
    }

    /// As [`Decoder::forward`] for one step, but returns the logits after every token, one row per
    /// token.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn forward_all(&mut self, step: Step<'_>) -> Result<Logits> {
        let mut all = Logits { vocab: 0, values: Vec::new() };
        for tokens in step.tokens.chunks(1) {
            let Logits { vocab, values } = self.forward(&[Step { tokens, ..step }])?;
            all.vocab = vocab;
            all.values.extend(values);
        }
        Ok(all)
    }

    /// Embeddings: the final hidden states of each step's tokens after the last RMSNorm, mean
    /// pooled; one vector per step.
    ///
    /// # Errors
    /// As [`Decoder::forward`]; also when the engine does not expose hidden states
    /// ([`Error::Unsupported`]).
    fn embed(&mut self, _steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        Err(Error::Unsupported("this engine does not expose hidden states".into()))
    }

    /// Runs `work` on every thread of the forward pass at once.
    fn on_all_threads(&self, work: &(dyn Fn() + Sync)) {
        rayon::broadcast(|_| work());
    }

    /// The kernel tier of the forward pass, if the engine has several.
    fn isa(&self) -> Option<&'static str> {
        None
    }

    /// The variants of the tier's kernels that run, `bf16=int16` for example, if it has several.
    fn kernel_plan(&self) -> Option<String> {
        None
    }

    /// Bytes of the KV caches of all sequences, if the engine knows.
    fn kv_cache_bytes(&self) -> Option<u64> {
        None
    }

    /// Checks that a sequence of `length` tokens fits into the context.
    ///
    /// # Errors
    /// When it does not.
    fn check_length(&self, length: usize) -> Result<()>;

    /// The largest number of tokens per prefill pass, if the engine prescribes one.
    fn prefill_chunk(&self) -> Option<usize> {
        None
    }

    /// Types and sizes of the weights in memory.
    fn footprint(&self) -> Footprint;
}

/// Logits `[rows, vocab]`: one score per token of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Columns.
    pub vocab: usize,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Logits {
    /// The rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab)
    }

    /// The token with the largest logit of each row; the first of equals. NaN never wins.
    pub(crate) fn argmax(&self) -> Vec<u32> {
        self.rows().map(argmax).collect()
    }

    /// Whether every logit is finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }
}

/// The token with the largest logit of one row; the first of equals. NaN never wins.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let best = row
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best });
    best.0 as u32
}

/// Tokens of a step whose logits a forward pass computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LogitsFor {
    AllTokens,
    LastToken,
}

/// Types and sizes of a loaded model's weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Footprint {
    /// Type and bytes of each matrix in memory.
    pub types: Vec<(GgmlType, u64)>,
    /// Bytes of all matrices.
    pub weight_bytes: u64,
    /// Bytes of weights that a decode step reads.
    pub step_bytes: u64,
    /// Number format of the KV cache.
    pub kv_dtype: KvDtype,
    /// Types of the file that have no kernel here and were dequantized to bf16.
    pub dequantized: Vec<GgmlType>,
}

impl Footprint {
    /// The footprint of matrices of which the first is the embedding. With an output matrix of its
    /// own, a decode step reads one row of the embedding; otherwise it reads all of it.
    pub(super) fn new(
        types: Vec<(GgmlType, u64)>,
        config: &Config,
        kv_dtype: KvDtype,
        dequantized: Vec<GgmlType>,
    ) -> Self {
        let weight_bytes = types.iter().map(|(_, bytes)| bytes).sum();
        let embedding = types.first().map_or(0, |(_, bytes)| *bytes);
        let step_bytes = if config.tied {
            weight_bytes
        } else {
            weight_bytes - embedding + embedding / config.vocab as u64
        };
        Footprint { types, weight_bytes, step_bytes, kv_dtype, dequantized }
    }

    /// The footprint of an engine that keeps all weights in f32 and reads all of them in a step.
    pub fn of_f32(weight_bytes: u64) -> Self {
        Footprint {
            types: vec![(GgmlType::F32, weight_bytes)],
            weight_bytes,
            step_bytes: weight_bytes,
            kv_dtype: KvDtype::F32,
            dequantized: Vec::new(),
        }
    }

    /// The types of the matrices in one word: `q8_0`, `q4_k_m`, `bf16+q8_0-from-q5_0`.
    pub(crate) fn quant_name(&self) -> String {
        let types = mix_name(&self.types);
        if self.dequantized.is_empty() {
            return types;
        }
        let names: Vec<&str> = self.dequantized.iter().map(|dtype| dtype.name()).collect();
        format!("{types}-from-{}", names.join("+"))
    }
}

/// The rows of a pass that belong to each step; `length` gives the tokens that a sequence has.
pub(super) fn spans(
    steps: &[Step<'_>],
    length: impl Fn(usize) -> Option<usize>,
    config: &Config,
) -> Result<Vec<Span>> {
    let mut start = 0;
    let mut spans: Vec<Span> = Vec::with_capacity(steps.len());
    for &Step { sequence, tokens } in steps {
        let past = length(sequence).ok_or_else(|| no_sequence(sequence))?;
        if tokens.is_empty() || spans.iter().any(|span| span.sequence == sequence) {
            return Err(Error::Failed(format!(
                "sequence {sequence} has no token, or two steps in one pass"
            )));
        }
        let rows = tokens.len();
        config.check_length(past + rows)?;
        spans.push(Span { sequence, start, rows, past });
        start += rows;
    }
    Ok(spans)
}

pub(super) fn no_sequence(sequence: usize) -> Error {
    Error::Failed(format!("no sequence {sequence}: `reset` sets their number"))
}

pub(super) fn cannot_truncate(sequence: usize, length: usize, to: usize) -> Error {
    Error::Failed(format!("sequence {sequence} has {length} tokens; it cannot keep {to}"))
}
