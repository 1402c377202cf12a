//! The `native` engine on GPUs: Qwen3 and Qwen2.5 on candle tensors. Tests run it on the CPU too.
//!
//! A pass takes the tokens of several sequences one after the other, as a ragged batch without
//! padding: matrix products see only the number of rows, attention works per sequence on its own KV
//! cache. Sequences have positions of their own, so prefill may come in chunks, after decode, and
//! beside other sequences.

use candle_core::{D, DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernel::{GgmlType, KvDtype, Span};
use crate::model::config::Config;
use crate::model::decoder::{self, Decoder, Footprint, Logits, LogitsFor, Step};
use crate::model::layer::{Layer, Linear, TensorLoader, Weights};
use crate::model::quant::{Quant, weight_dtype};
use crate::model::rope::DeviceRope;
use crate::model::weights::{TRACE_TARGET, WeightSource, check_shapes, tensor_info};

mod matrix;

use matrix::Matrix;

/// Query rows per block of attention scores: bounds the memory of a long prefill.
const QUERY_BLOCK: usize = 256;

/// A KV cache grows to a multiple of this many positions, and by an eighth at least.
const CACHE_GROWTH: usize = 32;

/// A loaded model with the KV caches of its sequences.
pub(super) struct GpuDecoder {
    config: Config,
    device: Device,
    /// The type of activations and of the KV cache.
    dtype: DType,
    weights: Weights<Matrix, Tensor>,
    /// Types of the file that candle does not have: their matrices are dequantized to bf16.
    dequantized: Vec<GgmlType>,
    rope: DeviceRope,
    sequences: Vec<Sequence>,
}

#[derive(Default)]
struct Sequence {
    length: usize,
    /// Per layer, keys and values as `[kv_heads, capacity, head_dim]`.
    cache: Vec<(Tensor, Tensor)>,
}

impl GpuDecoder {
    /// Loads a model. `quant` chooses the types of the matrices, otherwise they stay as stored.
    ///
    /// # Errors
    /// When reading or the device fails.
    pub(super) fn load(
        config: &Config,
        source: &dyn WeightSource,
        quant: Option<Quant>,
        device: &Device,
    ) -> Result<Self> {
        check_shapes(config, source)?;
        let mut loader = GpuLoader { config, source, quant, device, dequantized: Vec::new() };
        let weights = Weights::load(config, &mut loader)?;
        let dtype = match weights.embedding.dtype() {
            GgmlType::BF16 if !device.is_cpu() => DType::BF16,
            _ => DType::F32,
        };
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            dtype,
            weights,
            dequantized: loader.dequantized,
            rope: DeviceRope::new(config, device)?,
            sequences: Vec::new(),
        })
    }

    fn spans(&self, steps: &[Step<'_>]) -> Result<Vec<Span>> {
        let length = |sequence: usize| Some(self.sequences.get(sequence)?.length);
        decoder::spans(steps, length, &self.config)
    }

    /// Runs a forward pass: the final hidden states after the last RMSNorm, one row per token or
    /// per step.
    fn hidden_states(
        &mut self,
        steps: &[Step<'_>],
        spans: &[Span],
        logits_for: LogitsFor,
    ) -> Result<Tensor> {
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let positions: Vec<u32> =
            spans.iter().flat_map(|s| (s.past..s.past + s.rows).map(|p| p as u32)).collect();
        let output_rows: Vec<u32> = match logits_for {
            LogitsFor::AllTokens => (0..ids.len() as u32).collect(),
            LogitsFor::LastToken => {
                spans.iter().map(|span| (span.start + span.rows - 1) as u32).collect()
            }
        };
        let output_rows = Tensor::new(output_rows, &self.device)?;
        let (cos, sin) = self.rope.rows(&positions)?;
        let mut x = self.weights.embedding.rows(&ids)?.to_dtype(self.dtype)?;
        let count = self.weights.layers.len();
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let normed = self.norm(&x, &layer.attention_norm)?;
            let attended = attention(
                &self.config,
                layer,
                &normed,
                (&cos, &sin),
                spans,
                &mut self.sequences,
                i,
            )?;
            // The last layer continues only with the rows whose logits are asked for.
            let (residual, attended) = if i + 1 == count {
                (x.index_select(&output_rows, 0)?, attended.index_select(&output_rows, 0)?)
            } else {
                (x, attended)
            };
            x = (residual + layer.o.forward(&attended)?.to_dtype(self.dtype)?)?;
            let normed = self.norm(&x, &layer.mlp_norm)?;
            let ffn = swiglu(&layer.gate.forward(&normed)?, &layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&ffn)?.to_dtype(self.dtype)?)?;
        }
        for span in spans {
            self.sequences[span.sequence].length += span.rows;
        }
        self.norm(&x, &self.weights.norm)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        Ok(candle_nn::ops::rms_norm(&x.contiguous()?, weight, self.config.rms_eps as f32)?)
    }

    /// Logits `[rows, vocab]`.
    fn logits(&mut self, steps: &[Step<'_>], logits_for: LogitsFor) -> Result<Tensor> {
        let spans = self.spans(steps)?;
        let hidden = self.hidden_states(steps, &spans, logits_for)?;
        Ok(self.weights.output().forward(&hidden)?.to_dtype(DType::F32)?)
    }
}

impl Decoder for GpuDecoder {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let values = self.logits(steps, LogitsFor::LastToken)?.flatten_all()?.to_vec1()?;
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        // Only the ids leave the device; reading them waits for it.
        Ok(self.logits(steps, LogitsFor::LastToken)?.argmax(D::Minus1)?.to_vec1()?)
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.sequences.clear();
        self.sequences.resize_with(sequences, Sequence::default);
        Ok(())
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        let Some(found) = self.sequences.get_mut(sequence) else {
            return Err(decoder::no_sequence(sequence));
        };
        if length > found.length {
            return Err(decoder::cannot_truncate(sequence, found.length, length));
        }
        // Later passes overwrite the cache beyond the length before they read it.
        found.length = length;
        Ok(())
    }

    fn forward_all(&mut self, step: Step<'_>) -> Result<Logits> {
        let values = self.logits(&[step], LogitsFor::AllTokens)?.flatten_all()?.to_vec1()?;
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn embed(&mut self, steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        let spans = self.spans(steps)?;
        let hidden = self.hidden_states(steps, &spans, LogitsFor::AllTokens)?;
        let hidden = hidden.to_dtype(DType::F32)?;
        let mean = |span: &Span| -> Result<Vec<f32>> {
            Ok(hidden.narrow(0, span.start, span.rows)?.mean(0)?.to_vec1()?)
        };
        spans.iter().map(mean).collect()
    }

    fn kv_cache_bytes(&self) -> Option<u64> {
        let caches = self.sequences.iter().flat_map(|sequence| &sequence.cache);
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        Some(caches.map(|(keys, values)| (bytes(keys) + bytes(values)) as u64).sum())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.config.check_length(length)
    }

    fn footprint(&self) -> Footprint {
        let bytes = |matrix: &Matrix| (matrix.dtype(), matrix.bytes());
        let types = self.weights.matrices().map(bytes).collect();
        let kv_dtype = if self.dtype == DType::F32 { KvDtype::F32 } else { KvDtype::Bf16 };
        Footprint::new(types, &self.config, kv_dtype, self.dequantized.clone())
    }
}

struct GpuLoader<'a> {
    config: &'a Config,
    source: &'a dyn WeightSource,
    quant: Option<Quant>,
    device: &'a Device,
    dequantized: Vec<GgmlType>,
}

impl TensorLoader for GpuLoader<'_> {
    type Matrix = Matrix;
    type Vector = Tensor;

    fn matrix(&mut self, name: &str) -> Result<Matrix> {
        let info = tensor_info(self.source, name)?;
        let dtype = weight_dtype(name, &info, self.quant, self.config);
        if dtype.candle().is_none() {
            if info.dtype != dtype {
                let what = format!("{} weights on a GPU: candle lacks the type", dtype.name());
                return Err(Error::Unsupported(what));
            }
            if !self.dequantized.contains(&dtype) {
                self.dequantized.push(dtype);
            }
        }
        Matrix::load(self.source, name, &info.shape, dtype, self.device)
    }

    fn vector(&mut self, name: &str) -> Result<Tensor> {
        let values = self.source.rows(name, 0..1)?.into_f32();
        let dtype = if self.quant == Some(Quant::Bf16) && !self.device.is_cpu() {
            DType::BF16
        } else {
            DType::F32
        };
        Ok(Tensor::new(values, self.device)?.to_dtype(dtype)?)
    }
}

impl Linear<Matrix, Tensor> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => Ok(y.to_dtype(bias.dtype())?.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// SwiGLU: `silu(gate) * up`.
fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let _span = tracing::trace_span!(target: TRACE_TARGET, "silu").entered();
    Ok((gate.silu()? * up)?)
}

/// Attention of every sequence of a pass over its own KV cache: `[rows, heads * head_dim]`.
fn attention(
    config: &Config,
    layer: &Layer<Matrix, Tensor>,
    x: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    spans: &[Span],
    sequences: &mut [Sequence],
    index: usize,
) -> Result<Tensor> {
    let rows = x.dim(0)?;
    // [rows, heads * d] -> [1, heads, rows, d]
    let split = |y: Tensor, heads: usize| {
        y.reshape((1, rows, heads, config.head_dim))?.transpose(1, 2)?.contiguous()
    };
    let mut q = split(layer.q.forward(x)?, config.heads)?;
    let mut k = split(layer.k.forward(x)?, config.kv_heads)?;
    let v = split(layer.v.forward(x)?, config.kv_heads)?.to_dtype(x.dtype())?.squeeze(0)?;
    if let Some((q_norm, k_norm)) = &layer.qk_norm {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        let eps = config.rms_eps as f32;
        q = candle_nn::ops::rms_norm(&q.to_dtype(q_norm.dtype())?, q_norm, eps)?;
        k = candle_nn::ops::rms_norm(&k.to_dtype(k_norm.dtype())?, k_norm, eps)?;
    }
    // In f32 whatever the type of the activations: bf16 has 8 bits, positions need 16.
    let rope = |y: Tensor| {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "rope").entered();
        candle_nn::rotary_emb::rope(&y.to_dtype(DType::F32)?, cos, sin)?
            .to_dtype(x.dtype())?
            .squeeze(0)
    };
    let (q, k) = (rope(q)?, rope(k)?);
    let mut slots: Vec<Option<&mut Sequence>> = sequences.iter_mut().map(Some).collect();
    let mut slot = |span: &Span| slots[span.sequence].take().expect("a sequence has one span");
    let work: Vec<(&Span, &mut Sequence)> = spans.iter().map(|span| (span, slot(span))).collect();
    let attend_one = |(span, sequence): (&Span, &mut Sequence)| {
        let rows_of = |y: &Tensor| y.narrow(1, span.start, span.rows)?.contiguous();
        let (keys, values) = sequence.append(index, rows_of(&k)?, rows_of(&v)?, span.past)?;
        let _span = tracing::trace_span!(target: TRACE_TARGET, "attention").entered();
        attend(config, &rows_of(&q)?, &keys, &values, span.past)
    };
    let mut outputs = work.into_iter().map(attend_one).collect::<Result<Vec<Tensor>>>()?;
    Ok(if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 0)? })
}

/// Causal attention of one sequence: q `[heads, rows, d]` over keys and values
/// `[kv_heads, past + rows, d]`, to `[rows, heads * d]`.
fn attend(
    config: &Config,
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    past: usize,
) -> Result<Tensor> {
    let (heads, rows, d) = q.dims3()?;
    let group = heads / config.kv_heads;
    let scale = 1.0 / (d as f64).sqrt();
    let mut blocks = Vec::new();
    for start in (0..rows).step_by(QUERY_BLOCK) {
        let count = QUERY_BLOCK.min(rows - start);
        let visible = past + start + count;
        // GQA: query heads that share a key head are stacked as rows of one product.
        let q =
            (q.narrow(1, start, count)? * scale)?.reshape((config.kv_heads, group * count, d))?;
        let scores = q.matmul(&keys.narrow(1, 0, visible)?.t()?)?.to_dtype(DType::F32)?;
        let scores = if count == 1 {
            scores
        } else {
            let mask = causal_mask(past + start, count, visible, q.device())?;
            let shape = (config.kv_heads, group, count, visible);
            scores.reshape(shape)?.broadcast_add(&mask)?.reshape((
                config.kv_heads,
                group * count,
                visible,
            ))?
        };
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(values.dtype())?;
        let attended = weights.matmul(&values.narrow(1, 0, visible)?)?;
        blocks.push(
            attended.reshape((heads, count, d))?.transpose(0, 1)?.reshape((count, heads * d))?,
        );
    }
    Ok(if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(&blocks, 0)? })
}

/// The causal mask `[rows, columns]`: row `i`, at position `first + i`, has 0 up to that position
/// and -inf after it.
fn causal_mask(first: usize, rows: usize, columns: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows)
        .flat_map(|row| {
            (0..columns)
                .map(move |position| if position <= first + row { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Ok(Tensor::from_vec(values, (rows, columns), device)?)
}

impl Sequence {
    /// Writes keys and values `[kv_heads, rows, d]` of a layer after `past` positions and returns
    /// those of all positions.
    fn append(
        &mut self,
        layer: usize,
        k: Tensor,
        v: Tensor,
        past: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (heads, rows, d) = k.dims3()?;
        let needed = past + rows;
        let grown = |old: Option<&Tensor>| -> Result<Tensor> {
            let capacity = (needed + needed / 8).next_multiple_of(CACHE_GROWTH);
            let new = Tensor::zeros((heads, capacity, d), k.dtype(), k.device())?;
            if let Some(old) = old.filter(|_| past > 0) {
                new.slice_set(&old.narrow(1, 0, past)?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        match self.cache.get_mut(layer) {
            Some((keys, values)) if keys.dim(1)? < needed => {
                (*keys, *values) = (grown(Some(keys))?, grown(Some(values))?)
            }
            Some(_) => {}
            None => self.cache.push((grown(None)?, grown(None)?)),
        }
        let (keys, values) = &self.cache[layer];
        keys.slice_set(&k, 1, past)?;
        values.slice_set(&v, 1, past)?;
        Ok((keys.narrow(1, 0, needed)?, values.narrow(1, 0, needed)?))
    }
}
