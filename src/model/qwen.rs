//! The `native` engine on GPUs: Qwen3 and Qwen2.5 on candle tensors. It runs on the CPU, too, for
//! tests. A pass takes the tokens of several sequences one after the other without padding; matrix
//! products see only the number of rows, attention works per sequence on its own cache. Every
//! sequence has its own positions, so prefill may come in chunks, after decode, and beside other
//! sequences.

use candle_core::quantized::GgmlDType;
use candle_core::{D, DType, Device, Tensor};

use crate::error::Result;
use crate::kernel::TRACE_TARGET;
use crate::model::config::{Config, Family};
use crate::model::matrix::{Matrix, check_shape};
use crate::model::rope::Rope;
use crate::model::weights::{Quant, Source, held_as};
use crate::model::{Decoder, Footprint, Logits, Step};

/// Query rows whose scores are held at once: bounds the memory of a long prefill.
const QUERY_BLOCK: usize = 256;

/// Positions that a cache grows by at least; beyond, by an eighth of what it has.
const CACHE_GROWTH: usize = 32;

/// A loaded model with the caches of its sequences.
pub struct Qwen {
    config: Config,
    device: Device,
    /// Type of activations and caches.
    dtype: DType,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Option<Matrix>,
    rope: Rope,
    sequences: Vec<Sequence>,
}

struct Layer {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    /// RMSNorm of every head of q and k (Qwen3).
    head_norms: Option<(Tensor, Tensor)>,
    o: Matrix,
    mlp_norm: Tensor,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

#[derive(Default)]
struct Sequence {
    length: usize,
    /// Per layer, keys and values as `[kv_heads, capacity, head_dim]`.
    cache: Vec<(Tensor, Tensor)>,
}

/// Where the rows of one sequence lie in a pass.
struct Span {
    sequence: usize,
    start: usize,
    rows: usize,
    /// Positions before them.
    past: usize,
}

impl Qwen {
    /// Loads a model. Matrices are held as `quant` says, or as stored.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration, or reading or the
    /// device fails.
    pub fn load(
        config: &Config,
        source: &dyn Source,
        quant: Option<Quant>,
        device: &Device,
    ) -> Result<Self> {
        let weights = Loader { config, source, quant, device };
        let layers: Result<Vec<Layer>> = (0..config.layers).map(|i| weights.layer(i)).collect();
        let embedding =
            weights.matrix("model.embed_tokens.weight", [config.vocab, config.hidden])?;
        let output = if config.tied {
            None
        } else {
            Some(weights.matrix("lm_head.weight", [config.vocab, config.hidden])?)
        };
        let dtype = match embedding.dtype() {
            GgmlDType::BF16 if !device.is_cpu() => DType::BF16,
            _ => DType::F32,
        };
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            dtype,
            embedding,
            layers: layers?,
            norm: weights.vector("model.norm.weight", config.hidden)?,
            output,
            rope: Rope::new(config, device)?,
            sequences: Vec::new(),
        })
    }

    /// The final hidden states of the last token of each step, normalised: `[steps, hidden]`.
    fn hidden(&mut self, steps: &[Step<'_>]) -> Result<Tensor> {
        let spans = self.spans(steps)?;
        let last: Vec<u32> = spans.iter().map(|span| (span.start + span.rows - 1) as u32).collect();
        self.hidden_of(steps, &spans, last)
    }

    /// The final hidden states of the wanted rows of a pass, normalised: `[wanted, hidden]`.
    fn hidden_of(
        &mut self,
        steps: &[Step<'_>],
        spans: &[Span],
        wanted: Vec<u32>,
    ) -> Result<Tensor> {
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let positions: Vec<u32> =
            spans.iter().flat_map(|s| (s.past..s.past + s.rows).map(|p| p as u32)).collect();
        let wanted = Tensor::new(wanted, &self.device)?;
        let (cos, sin) = self.rope.rows(&positions)?;
        let mut x = self.embedding.rows(&ids)?.to_dtype(self.dtype)?;
        let count = self.layers.len();
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&x, &layer.attention_norm)?;
            let mixed = attention(
                &self.config,
                layer,
                &normed,
                (&cos, &sin),
                spans,
                &mut self.sequences,
                i,
            )?;
            // Of the last layer only the rows whose answer is wanted go on.
            let (rest, mixed) = if i + 1 == count {
                (x.index_select(&wanted, 0)?, mixed.index_select(&wanted, 0)?)
            } else {
                (x, mixed)
            };
            x = (rest + layer.o.forward(&mixed)?.to_dtype(self.dtype)?)?;
            let normed = self.norm(&x, &layer.mlp_norm)?;
            let inner = gated(&layer.gate.forward(&normed)?, &layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&inner)?.to_dtype(self.dtype)?)?;
        }
        for span in spans {
            self.sequences[span.sequence].length += span.rows;
        }
        self.norm(&x, &self.norm)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        Ok(candle_nn::ops::rms_norm(&x.contiguous()?, weight, self.config.rms_eps as f32)?)
    }

    fn spans(&self, steps: &[Step<'_>]) -> Result<Vec<Span>> {
        let mut start = 0;
        let mut spans: Vec<Span> = Vec::with_capacity(steps.len());
        for step in steps {
            let Some(sequence) = self.sequences.get(step.sequence) else {
                return Err(super::no_sequence(step.sequence, self.sequences.len()));
            };
            if step.tokens.is_empty() || spans.iter().any(|span| span.sequence == step.sequence) {
                return Err(super::no_step(step.sequence));
            }
            let (past, rows) = (sequence.length, step.tokens.len());
            super::check_length(past + rows, &self.config)?;
            spans.push(Span { sequence: step.sequence, start, rows, past });
            start += rows;
        }
        Ok(spans)
    }

    fn logits(&mut self, steps: &[Step<'_>]) -> Result<Tensor> {
        let hidden = self.hidden(steps)?;
        self.output(&hidden)
    }

    /// Scores of hidden states: `[rows, vocab]`.
    fn output(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.output.as_ref().unwrap_or(&self.embedding).forward(hidden)?.to_dtype(DType::F32)?)
    }
}

impl Decoder for Qwen {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let logits = self.logits(steps)?;
        Ok(Logits { vocab: self.config.vocab, values: logits.flatten_all()?.to_vec1()? })
    }

    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        // Only the ids leave the device; reading them waits for it.
        Ok(self.logits(steps)?.argmax(D::Minus1)?.to_vec1()?)
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.sequences.clear();
        self.sequences.resize_with(sequences, Sequence::default);
        Ok(())
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        match self.sequences.get_mut(sequence) {
            // What lies beyond the length in the caches is overwritten before it is read.
            Some(found) if length <= found.length => found.length = length,
            found => {
                let has = found.map_or(0, |found| found.length);
                return Err(super::no_way_back(sequence, has, length));
            }
        }
        Ok(())
    }

    fn scores(&mut self, step: Step<'_>) -> Result<Logits> {
        let spans = self.spans(&[step])?;
        let hidden = self.hidden_of(&[step], &spans, (0..step.tokens.len() as u32).collect())?;
        let values = self.output(&hidden)?.flatten_all()?.to_vec1()?;
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn embed(&mut self, steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        let spans = self.spans(steps)?;
        let rows: usize = spans.iter().map(|span| span.rows).sum();
        let hidden = self.hidden_of(steps, &spans, (0..rows as u32).collect())?;
        let hidden = hidden.to_dtype(DType::F32)?;
        let mean = |span: &Span| -> Result<Vec<f32>> {
            Ok(hidden.narrow(0, span.start, span.rows)?.mean(0)?.to_vec1()?)
        };
        spans.iter().map(mean).collect()
    }

    fn cache_bytes(&self) -> Option<u64> {
        let caches = self.sequences.iter().flat_map(|sequence| &sequence.cache);
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        Some(caches.map(|(keys, values)| (bytes(keys) + bytes(values)) as u64).sum())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        super::check_length(length, &self.config)
    }

    fn footprint(&self) -> Footprint {
        let mut types: Vec<(GgmlDType, u64)> = Vec::new();
        let mut add = |matrix: &Matrix| types.push((matrix.dtype(), matrix.bytes()));
        add(&self.embedding);
        self.output.iter().for_each(&mut add);
        for layer in &self.layers {
            for matrix in [
                &layer.q.weight,
                &layer.k.weight,
                &layer.v.weight,
                &layer.o,
                &layer.gate,
                &layer.up,
                &layer.down,
            ] {
                add(matrix);
            }
        }
        let embedding_row = self.embedding.bytes() / self.config.vocab as u64;
        let weight_bytes: u64 = types.iter().map(|(_, bytes)| bytes).sum();
        // With an output matrix of its own, the embedding is only looked up.
        let step_bytes = if self.output.is_some() {
            weight_bytes - self.embedding.bytes() + embedding_row
        } else {
            weight_bytes
        };
        Footprint {
            types,
            weight_bytes,
            step_bytes,
            kv_type_bytes: self.dtype.size_in_bytes(),
            expanded: Vec::new(),
        }
    }
}

struct Loader<'a> {
    config: &'a Config,
    source: &'a dyn Source,
    quant: Option<Quant>,
    device: &'a Device,
}

impl Loader<'_> {
    fn layer(&self, i: usize) -> Result<Layer> {
        let Config { hidden, intermediate, head_dim, .. } = *self.config;
        let (q, kv) = (self.config.heads * head_dim, self.config.kv_heads * head_dim);
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let linear = |part: &str, rows: usize| -> Result<Linear> {
            let weight = self.matrix(&name(&format!("{part}.weight")), [rows, hidden])?;
            let bias = match self.config.family {
                Family::Qwen2 => Some(self.vector(&name(&format!("{part}.bias")), rows)?),
                Family::Qwen3 => None,
            };
            Ok(Linear { weight, bias })
        };
        let head_norms = match self.config.family {
            Family::Qwen3 => Some((
                self.vector(&name("self_attn.q_norm.weight"), head_dim)?,
                self.vector(&name("self_attn.k_norm.weight"), head_dim)?,
            )),
            Family::Qwen2 => None,
        };
        Ok(Layer {
            attention_norm: self.vector(&name("input_layernorm.weight"), hidden)?,
            q: linear("self_attn.q_proj", q)?,
            k: linear("self_attn.k_proj", kv)?,
            v: linear("self_attn.v_proj", kv)?,
            head_norms,
            o: self.matrix(&name("self_attn.o_proj.weight"), [hidden, q])?,
            mlp_norm: self.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate: self.matrix(&name("mlp.gate_proj.weight"), [intermediate, hidden])?,
            up: self.matrix(&name("mlp.up_proj.weight"), [intermediate, hidden])?,
            down: self.matrix(&name("mlp.down_proj.weight"), [hidden, intermediate])?,
        })
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        check_shape(self.source, name, &shape)?;
        let info = self.source.info(name).expect("its shape was just compared");
        let dtype = held_as(name, &info, self.quant, self.config);
        Matrix::load(self.source, name, shape, dtype, self.device)
    }

    fn vector(&self, name: &str, length: usize) -> Result<Tensor> {
        check_shape(self.source, name, &[length])?;
        let values = self.source.rows(name, 0..1)?.into_f32(length);
        let dtype = if self.quant == Some(Quant::Bf16) && !self.device.is_cpu() {
            DType::BF16
        } else {
            DType::F32
        };
        Ok(Tensor::from_vec(values, length, self.device)?.to_dtype(dtype)?)
    }
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => Ok(y.to_dtype(bias.dtype())?.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// `silu(gate) * up`.
fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let _span = tracing::trace_span!(target: TRACE_TARGET, "silu").entered();
    Ok((gate.silu()? * up)?)
}

/// Attention of every sequence of a pass over its own cache: `[rows, heads * head_dim]`.
fn attention(
    config: &Config,
    layer: &Layer,
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
    if let Some((q_norm, k_norm)) = &layer.head_norms {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        let eps = config.rms_eps as f32;
        q = candle_nn::ops::rms_norm(&q.to_dtype(q_norm.dtype())?, q_norm, eps)?;
        k = candle_nn::ops::rms_norm(&k.to_dtype(k_norm.dtype())?, k_norm, eps)?;
    }
    // Angles in f32 whatever the activations are: bf16 has 8 bits for positions of 16.
    let turn = |y: Tensor| {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "rope").entered();
        candle_nn::rotary_emb::rope(&y.to_dtype(DType::F32)?, cos, sin)?
            .to_dtype(x.dtype())?
            .squeeze(0)
    };
    let (q, k) = (turn(q)?, turn(k)?);
    let mut slots: Vec<Option<&mut Sequence>> = sequences.iter_mut().map(Some).collect();
    let mut slot = |span: &Span| slots[span.sequence].take().expect("a sequence has one span");
    let work: Vec<(&Span, &mut Sequence)> = spans.iter().map(|span| (span, slot(span))).collect();
    let one = |(span, sequence): (&Span, &mut Sequence)| {
        let part = |y: &Tensor| y.narrow(1, span.start, span.rows)?.contiguous();
        let (keys, values) = sequence.append(index, part(&k)?, part(&v)?, span.past)?;
        let _span = tracing::trace_span!(target: TRACE_TARGET, "attention").entered();
        attend(config, &part(&q)?, &keys, &values, span.past)
    };
    let mut outputs = work.into_iter().map(one).collect::<Result<Vec<Tensor>>>()?;
    Ok(if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 0)? })
}

/// One sequence: q `[heads, rows, d]` against keys and values `[kv_heads, past + rows, d]`, causal;
/// `[rows, heads * d]`.
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
        let seen = past + start + count;
        // Heads that share keys are stacked as rows of one product.
        let q =
            (q.narrow(1, start, count)? * scale)?.reshape((config.kv_heads, group * count, d))?;
        let scores = q.matmul(&keys.narrow(1, 0, seen)?.t()?)?.to_dtype(DType::F32)?;
        let scores = if count == 1 {
            scores
        } else {
            let mask = mask(past + start, count, seen, q.device())?;
            let shape = (config.kv_heads, group, count, seen);
            scores.reshape(shape)?.broadcast_add(&mask)?.reshape((
                config.kv_heads,
                group * count,
                seen,
            ))?
        };
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(values.dtype())?;
        let mixed = weights.matmul(&values.narrow(1, 0, seen)?)?;
        blocks
            .push(mixed.reshape((heads, count, d))?.transpose(0, 1)?.reshape((count, heads * d))?);
    }
    Ok(if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(&blocks, 0)? })
}

/// 0 where row `i`, at position `first + i`, may look, and -inf after it: `[rows, seen]`.
fn mask(first: usize, rows: usize, seen: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows)
        .flat_map(|row| {
            (0..seen)
                .map(move |position| if position <= first + row { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Ok(Tensor::from_vec(values, (rows, seen), device)?)
}

impl Sequence {
    /// Adds keys and values `[kv_heads, rows, d]` of a layer after `past` positions and returns all
    /// of them so far.
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
