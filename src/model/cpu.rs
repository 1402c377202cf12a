//! The `native` engine on the CPU: Qwen3 and Qwen2.5 with the kernels of this crate, a handful of
//! parallel regions per layer.
//!
//! A pass takes the tokens of several sequences one after the other, as a ragged batch without
//! padding: GEMMs see only the number of rows, attention works per sequence. The logits of a
//! sequence do not depend on the other sequences of its pass.

use crate::error::{Error, Result};
use crate::kernel::{
    Activations, Arena, Epilogue, GemmOutput, GgmlType, Isa, KvCache, KvDtype, KvLayout,
    PANEL_ROWS, Pool, Span, WeightFormat, argmax, attention, gemm, gemm_swiglu, qk_norm_rope,
    rms_norm,
};
use crate::model::config::Config;
use crate::model::decoder::{self, Decoder, Footprint, Logits, LogitsFor, Step};
use crate::model::kernels::describe_plan;
use crate::model::layer::{Linear, Weights};
use crate::model::quant::Quant;
use crate::model::rope::RopeTables;
use crate::model::weights::{TRACE_TARGET, WeightSource};

mod loader;

use loader::{ArenaMatrix, CpuLoader};

/// A loaded model with the KV cache of its sequences.
pub(super) struct CpuDecoder {
    config: Config,
    isa: Isa,
    pool: Pool,
    /// All matrices.
    arena: Arena,
    weights: Weights<ArenaMatrix, Vec<f32>>,
    rope: RopeTables,
    cache: KvCache,
    scratch: Scratch,
    dequantized: Vec<GgmlType>,
}

/// Activations of a pass, kept so that the next pass allocates nothing.
#[derive(Default)]
struct Scratch {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    /// `x` after RMSNorm.
    normed: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// The output of attention.
    attended: Activations,
    /// `silu(gate) * up`.
    ffn: Activations,
}

impl CpuDecoder {
    /// Loads a model. `quant` chooses the types of the matrices, otherwise they stay as stored;
    /// types that no format holds are dequantized to bf16.
    ///
    /// # Errors
    /// When reading fails, memory is lacking, or the width of a head is not a multiple of 16.
    pub(super) fn load(
        config: &Config,
        source: &dyn WeightSource,
        quant: Option<Quant>,
        kv_dtype: Option<KvDtype>,
        isa: Isa,
        pool: Pool,
    ) -> Result<Self> {
        if !config.head_dim.is_multiple_of(PANEL_ROWS) {
            let width = config.head_dim;
            return Err(Error::Unsupported(format!(
                "heads of width {width}: the CPU engine needs a multiple of {PANEL_ROWS}; use \
                 `--engine candle`"
            )));
        }
        if let Some(dtype) = kv_dtype
            && !config.head_dim.is_multiple_of(dtype.block_size())
        {
            let (name, width, block) = (dtype.name(), config.head_dim, dtype.block_size());
            return Err(Error::Unsupported(format!(
                "heads of width {width}: a KV cache in {name} needs a multiple of {block}; use \
                 `--kv-dtype bf16`"
            )));
        }
        let mut loader = CpuLoader::new(config, source, quant)?;
        let weights = Weights::load(config, &mut loader)?;
        // An f32 model is the reference that its quantized forms are compared with, so its KV cache
        // is f32 too.
        let dtype = kv_dtype.unwrap_or(match weights.embedding.format {
            WeightFormat::F32 => KvDtype::F32,
            _ => KvDtype::Bf16,
        });
        let layout = KvLayout {
            layers: config.layers,
            heads: config.kv_heads,
            width: config.head_dim,
            dtype,
        };
        Ok(Self {
            config: config.clone(),
            isa,
            pool,
            weights,
            rope: RopeTables::new(config),
            cache: KvCache::new(layout),
            scratch: Scratch::default(),
            dequantized: loader.dequantized,
            arena: loader.arena,
        })
    }

    /// Runs a forward pass. Leaves the final hidden states after the last RMSNorm in
    /// `scratch.normed` and returns their spans.
    fn run(&mut self, steps: &[Step<'_>], logits_for: LogitsFor) -> Result<Vec<Span>> {
        let spans = decoder::spans(steps, |sequence| self.cache.length(sequence), &self.config)?;
        for span in &spans {
            let length = span.past + span.rows;
            self.cache.grow(span.sequence, length).map_err(|error| {
                Error::Failed(format!("no memory for a KV cache of {length} tokens ({error})"))
            })?;
            self.rope.grow_to(length);
        }
        self.embed_tokens(steps)?;
        // The last layer continues only with the rows whose logits are asked for.
        let outputs: Vec<Span> = match logits_for {
            LogitsFor::AllTokens => spans.clone(),
            LogitsFor::LastToken => {
                let last = |(i, span): (usize, &Span)| Span {
                    start: i,
                    rows: 1,
                    past: span.past + span.rows - 1,
                    ..*span
                };
                spans.iter().enumerate().map(last).collect()
            }
        };
        let count = self.weights.layers.len();
        for i in 0..count {
            self.layer(i, &spans, if i + 1 == count { &outputs } else { &spans });
        }
        for span in &spans {
            self.cache.set_length(span.sequence, span.past + span.rows);
        }
        let Self { scratch: Scratch { x, normed, .. }, weights, config, isa, pool, .. } = self;
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        let hidden = config.hidden;
        normed.fill(pool, x.len() / hidden, hidden, |row, out| {
            let x = &x[row * hidden..][..hidden];
            rms_norm(*isa, x, &weights.norm, config.rms_eps as f32, out);
        });
        Ok(outputs)
    }

    fn embed_tokens(&mut self, steps: &[Step<'_>]) -> Result<()> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "embedding").entered();
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let (hidden, vocab) = (self.config.hidden, self.config.vocab);
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::Failed(format!(
                "token id {id} is beyond the {vocab} rows of the embedding"
            )));
        }
        let embedding = self.weights.embedding.packed(&self.arena);
        self.scratch.x.resize(ids.len() * hidden, 0.0);
        let rows = ids.len().div_ceil(4 * self.pool.threads()).max(4);
        self.pool.run_chunks(&mut self.scratch.x, rows * hidden, |number, chunk| {
            for (i, row) in chunk.chunks_exact_mut(hidden).enumerate() {
                embedding.row(ids[number * rows + i] as usize, row);
            }
        });
        Ok(())
    }

    /// Runs one layer: keys and values of all `spans`, queries and everything after them only of
    /// `outputs`, which are all rows or the last row of each span.
    fn layer(&mut self, index: usize, spans: &[Span], outputs: &[Span]) {
        let Self { config, isa, pool, arena, weights, rope, cache, scratch, .. } = self;
        let (layer, isa, arena) = (&weights.layers[index], *isa, &*arena);
        let Scratch { x, normed, q, k, v, attended, ffn } = scratch;
        let (hidden, eps) = (config.hidden, config.rms_eps as f32);
        let (q_width, kv_width) =
            (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let rows = x.len() / hidden;
        let norm = |x: &[f32],
                    weight: &[f32],
                    normed: &mut Activations,
                    source_row: &dyn Fn(usize) -> usize,
                    count| {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
            let rows: Vec<usize> = (0..count).map(source_row).collect();
            normed.fill(pool, count, hidden, |row, out| {
                rms_norm(isa, &x[rows[row] * hidden..][..hidden], weight, eps, out);
            });
        };
        norm(x, &layer.attention_norm, normed, &|row| row, rows);
        k.resize(rows * kv_width, 0.0);
        v.resize(rows * kv_width, 0.0);
        let output_rows: usize = outputs.iter().map(|span| span.rows).sum();
        q.resize(output_rows * q_width, 0.0);
        let only_last_rows = output_rows < rows;
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            let mut gemms = vec![
                projection(&layer.k, arena, k.as_mut_slice()),
                projection(&layer.v, arena, v.as_mut_slice()),
            ];
            if !only_last_rows {
                gemms.insert(0, projection(&layer.q, arena, q.as_mut_slice()));
            }
            gemm(pool, isa, normed, &mut gemms);
        }
        if only_last_rows {
            let last_rows: Vec<usize> =
                spans.iter().map(|span| span.start + span.rows - 1).collect();
            norm(x, &layer.attention_norm, normed, &|row| last_rows[row], output_rows);
            for (to, from) in last_rows.iter().enumerate() {
                x.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
            }
            x.truncate(output_rows * hidden);
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            gemm(pool, isa, normed, &mut [projection(&layer.q, arena, q.as_mut_slice())]);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "rope").entered();
            let (q_norm, k_norm) = match &layer.qk_norm {
                Some((q_norm, k_norm)) => (Some(q_norm.as_slice()), Some(k_norm.as_slice())),
                None => (None, None),
            };
            // The scale of the attention scores, applied to the queries.
            let scale = 1.0 / (config.head_dim as f32).sqrt();
            apply_qk_norm_rope(pool, isa, rope, outputs, q, q_norm, eps, scale);
            apply_qk_norm_rope(pool, isa, rope, spans, k, k_norm, eps, 1.0);
            cache.append(pool, index, spans, k, v);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "attention").entered();
            attention(pool, isa, cache, index, outputs, q, attended);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            gemm(pool, isa, attended, &mut [add_to(x.as_mut_slice(), &layer.o, arena)]);
        }
        norm(x, &layer.mlp_norm, normed, &|row| row, output_rows);
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        gemm_swiglu(pool, isa, normed, [layer.gate.packed(arena), layer.up.packed(arena)], ffn);
        gemm(pool, isa, ffn, &mut [add_to(x.as_mut_slice(), &layer.down, arena)]);
    }

    /// The logits of the hidden states in `scratch.normed`.
    fn logits(&mut self) -> Logits {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        let vocab = self.config.vocab;
        let mut values = vec![0.0; self.scratch.normed.rows() * vocab];
        let weights = self.weights.output().packed(&self.arena);
        let mut gemms = [GemmOutput { weights, out: &mut values, epilogue: Epilogue::Store }];
        gemm(&self.pool, self.isa, &mut self.scratch.normed, &mut gemms);
        Logits { vocab, values }
    }
}

/// `out = x W^T + bias`.
fn projection<'a>(
    linear: &'a Linear<ArenaMatrix, Vec<f32>>,
    arena: &'a Arena,
    out: &'a mut [f32],
) -> GemmOutput<'a> {
    let epilogue = linear.bias.as_deref().map_or(Epilogue::Store, Epilogue::Bias);
    GemmOutput { weights: linear.weight.packed(arena), out, epilogue }
}

/// `out += x W^T`: adds to the residual stream.
fn add_to<'a>(out: &'a mut [f32], matrix: &ArenaMatrix, arena: &'a Arena) -> GemmOutput<'a> {
    GemmOutput { weights: matrix.packed(arena), out, epilogue: Epilogue::Add }
}

/// QK-norm and RoPE of the heads of every row at its position.
#[expect(clippy::too_many_arguments, reason = "a kernel's")]
fn apply_qk_norm_rope(
    pool: &Pool,
    isa: Isa,
    rope: &RopeTables,
    spans: &[Span],
    heads: &mut [f32],
    norm: Option<&[f32]>,
    eps: f32,
    scale: f32,
) {
    let positions: Vec<usize> =
        spans.iter().flat_map(|span| span.past..span.past + span.rows).collect();
    let (width, rows) = (heads.len() / positions.len(), positions.len());
    let chunk = if rows <= 2 { rows } else { rows.div_ceil(4 * pool.threads()) };
    pool.run_chunks(heads, chunk * width, |number, chunk_rows| {
        for (i, row) in chunk_rows.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = rope.row(positions[number * chunk + i]);
            qk_norm_rope(isa, row, norm, eps, cos, sin, scale);
        }
    });
}

impl Decoder for CpuDecoder {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        self.run(steps, LogitsFor::LastToken)?;
        Ok(self.logits())
    }

    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        let logits = self.forward(steps)?;
        Ok(logits.rows().map(|row| argmax(self.isa, row).0 as u32).collect())
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.cache.reset(sequences);
        Ok(())
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        match self.cache.length(sequence) {
            None => Err(decoder::no_sequence(sequence)),
            Some(has) if length > has => Err(decoder::cannot_truncate(sequence, has, length)),
            Some(_) => {
                self.cache.set_length(sequence, length);
                Ok(())
            }
        }
    }

    fn forward_all(&mut self, step: Step<'_>) -> Result<Logits> {
        self.run(&[step], LogitsFor::AllTokens)?;
        Ok(self.logits())
    }

    fn embed(&mut self, steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        let spans = self.run(steps, LogitsFor::AllTokens)?;
        let (normed, hidden) = (&self.scratch.normed, self.config.hidden);
        let rows: Vec<&[f32]> = normed.f32().chunks_exact(normed.columns()).collect();
        let mean = |span: &Span| -> Vec<f32> {
            let mut sum = vec![0.0; hidden];
            for row in &rows[span.start..span.start + span.rows] {
                sum.iter_mut().zip(*row).for_each(|(sum, x)| *sum += x);
            }
            sum.iter_mut().for_each(|sum| *sum /= span.rows as f32);
            sum
        };
        Ok(spans.iter().map(mean).collect())
    }

    fn on_all_threads(&self, work: &(dyn Fn() + Sync)) {
        self.pool.on_each_thread(|_| work());
    }

    fn isa(&self) -> Option<&'static str> {
        Some(self.isa.name())
    }

    fn kernel_plan(&self) -> Option<String> {
        describe_plan(self.isa)
    }

    fn kv_cache_bytes(&self) -> Option<u64> {
        Some(self.cache.bytes() as u64)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.config.check_length(length)
    }

    fn footprint(&self) -> Footprint {
        let bytes = |matrix: &ArenaMatrix| (matrix.dtype, matrix.range.len() as u64);
        let types = self.weights.matrices().map(bytes).collect();
        let kv_dtype = self.cache.layout().dtype;
        Footprint::new(types, &self.config, kv_dtype, self.dequantized.clone())
    }
}
