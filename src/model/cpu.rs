//! The `native` engine on the CPU: Qwen3 and Qwen2.5 on slices, in a handful of parallel regions a
//! layer, with the kernels of this crate. A pass takes the tokens of several sequences one after
//! the other without padding; products see only the number of rows, attention works per sequence.
//! What a sequence gets does not depend on who shares its pass.

use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};
use crate::kernel::{
    Activations, Arena, Epilogue, GemmOutput, Isa, KvCache, KvDtype, KvLayout, PANEL_ROWS,
    PackedMatrix, Pool, Span, TRACE_TARGET, WeightFormat, argmax, attention, gemm, gemm_swiglu,
    qk_norm_rope, rms_norm,
};
use crate::model::config::Config;
use crate::model::rope::Tables;
use crate::model::weights::{Quant, Source};
use crate::model::{Decoder, Footprint, Logits, Step};

mod loader;

use loader::Loader;

/// A loaded model with the caches of its sequences.
pub struct Cpu {
    config: Config,
    isa: Isa,
    pool: Pool,
    /// All matrices.
    arena: Arena,
    embedding: Packed,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Option<Packed>,
    rope: Tables,
    cache: KvCache,
    memory: Memory,
    expanded: Vec<GgmlDType>,
}

/// A matrix in the arena.
struct Packed {
    format: WeightFormat,
    shape: [usize; 2],
    at: Range<usize>,
}

struct Layer {
    attention_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// RMSNorm of every head of q and k (Qwen3).
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    o: Packed,
    mlp_norm: Vec<f32>,
    gate: Packed,
    up: Packed,
    down: Packed,
}

struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

/// Activations of a pass, kept so that none is allocated in the next.
#[derive(Default)]
struct Memory {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    normed: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Activations,
    inner: Activations,
}

/// Which rows of a pass have an answer that is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// The last of each span.
    Last,
}

impl Cpu {
    /// Loads a model. Matrices are held as `quant` says, or as stored; types that have no kernel
    /// are held as bf16.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration, reading fails, there
    /// is no memory, or heads have a width that is no multiple of 16.
    pub fn load(
        config: &Config,
        source: &dyn Source,
        quant: Option<Quant>,
        isa: Isa,
        pool: Pool,
    ) -> Result<Self> {
        if !config.head_dim.is_multiple_of(PANEL_ROWS) {
            let width = config.head_dim;
            return Err(Error::Unsupported(format!(
                "heads of width {width}: the CPU engine takes multiples of {PANEL_ROWS}; `--engine candle` takes others"
            )));
        }
        let mut loader = Loader::new(config, source, quant)?;
        let layers: Result<Vec<Layer>> = (0..config.layers).map(|i| loader.layer(i)).collect();
        let rows = [config.vocab, config.hidden];
        let embedding = loader.matrix("model.embed_tokens.weight", rows)?;
        let output = if config.tied { None } else { Some(loader.matrix("lm_head.weight", rows)?) };
        let norm = loader.vector("model.norm.weight", config.hidden)?;
        // A model that is held in f32 is the definition of its quantised forms, so nothing of it is
        // rounded.
        let dtype =
            if embedding.format == WeightFormat::F32 { KvDtype::F32 } else { KvDtype::Bf16 };
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
            layers: layers?,
            embedding,
            norm,
            output,
            rope: Tables::new(config),
            cache: KvCache::new(layout),
            memory: Memory::default(),
            expanded: loader.expanded,
            arena: loader.arena,
        })
    }

    fn spans(&self, steps: &[Step<'_>]) -> Result<Vec<Span>> {
        let mut start = 0;
        let mut spans: Vec<Span> = Vec::with_capacity(steps.len());
        for step in steps {
            let Some(past) = self.cache.length(step.sequence) else {
                return Err(super::no_sequence(step.sequence, self.cache.sequences()));
            };
            if step.tokens.is_empty() || spans.iter().any(|span| span.sequence == step.sequence) {
                return Err(super::no_step(step.sequence));
            }
            let rows = step.tokens.len();
            super::check_length(past + rows, &self.config)?;
            spans.push(Span { sequence: step.sequence, start, rows, past });
            start += rows;
        }
        Ok(spans)
    }

    /// Runs a pass; the final hidden states of the wanted rows, normalised, are in `memory.normed`.
    fn pass(&mut self, steps: &[Step<'_>], wanted: Wanted) -> Result<Vec<Span>> {
        let spans = self.spans(steps)?;
        for span in &spans {
            let length = span.past + span.rows;
            self.cache.grow(span.sequence, length).map_err(|error| {
                Error::Failed(format!("no memory for a cache of {length} tokens ({error})"))
            })?;
            self.rope.reach(length);
        }
        self.embed_tokens(steps)?;
        // Of the last layer only the rows whose answer is wanted go on.
        let last: Vec<Span> = match wanted {
            Wanted::All => spans.clone(),
            Wanted::Last => {
                let one = |(i, span): (usize, &Span)| Span {
                    start: i,
                    rows: 1,
                    past: span.past + span.rows - 1,
                    ..*span
                };
                spans.iter().enumerate().map(one).collect()
            }
        };
        for i in 0..self.layers.len() {
            let of_answers = if i + 1 == self.layers.len() { &last } else { &spans };
            self.layer(i, &spans, of_answers);
        }
        for span in &spans {
            self.cache.set_length(span.sequence, span.past + span.rows);
        }
        let Self { memory: Memory { x, normed, .. }, norm, config, isa, pool, .. } = self;
        let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
        let hidden = config.hidden;
        normed.fill(pool, x.len() / hidden, hidden, |row, out| {
            rms_norm(*isa, &x[row * hidden..][..hidden], norm, config.rms_eps as f32, out);
        });
        Ok(last)
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
        let tiles = self.embedding.tiles(&self.arena);
        self.memory.x.resize(ids.len() * hidden, 0.0);
        let rows = ids.len().div_ceil(4 * self.pool.threads()).max(4);
        self.pool.run_chunks(&mut self.memory.x, rows * hidden, |number, part| {
            for (i, row) in part.chunks_exact_mut(hidden).enumerate() {
                tiles.row(ids[number * rows + i] as usize, row);
            }
        });
        Ok(())
    }

    /// One layer over all rows of a pass, of which those of `answers` go on: all, or the last of
    /// each span.
    fn layer(&mut self, index: usize, spans: &[Span], answers: &[Span]) {
        let Self { config, isa, pool, arena, layers, rope, cache, memory, .. } = self;
        let (layer, isa, arena) = (&layers[index], *isa, &*arena);
        let Memory { x, normed, q, k, v, mixed, inner } = memory;
        let (hidden, eps) = (config.hidden, config.rms_eps as f32);
        let (q_width, kv_width) =
            (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let rows = x.len() / hidden;
        let norm = |x: &[f32],
                    weight: &[f32],
                    normed: &mut Activations,
                    number: &dyn Fn(usize) -> usize,
                    count| {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "norm").entered();
            let rows: Vec<usize> = (0..count).map(number).collect();
            normed.fill(pool, count, hidden, |row, out| {
                rms_norm(isa, &x[rows[row] * hidden..][..hidden], weight, eps, out);
            });
        };
        norm(x, &layer.attention_norm, normed, &|row| row, rows);
        k.resize(rows * kv_width, 0.0);
        v.resize(rows * kv_width, 0.0);
        let answer_rows: usize = answers.iter().map(|span| span.rows).sum();
        q.resize(answer_rows * q_width, 0.0);
        let some = answer_rows < rows;
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            let mut parts =
                vec![layer.k.part(arena, k.as_mut_slice()), layer.v.part(arena, v.as_mut_slice())];
            if !some {
                parts.insert(0, layer.q.part(arena, q.as_mut_slice()));
            }
            gemm(pool, isa, normed, &mut parts);
        }
        if some {
            let ends: Vec<usize> = spans.iter().map(|span| span.start + span.rows - 1).collect();
            norm(x, &layer.attention_norm, normed, &|row| ends[row], answer_rows);
            for (to, from) in ends.iter().enumerate() {
                x.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
            }
            x.truncate(answer_rows * hidden);
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            gemm(pool, isa, normed, &mut [layer.q.part(arena, q.as_mut_slice())]);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "rope").entered();
            let norms = layer.head_norms.as_ref();
            let scale = 1.0 / (config.head_dim as f32).sqrt();
            rotate(pool, isa, rope, answers, q, norms.map(|norms| norms.0.as_slice()), eps, scale);
            rotate(pool, isa, rope, spans, k, norms.map(|norms| norms.1.as_slice()), eps, 1.0);
            cache.append(pool, index, spans, k, v);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "attention").entered();
            attention(pool, isa, cache, index, answers, q, mixed);
        }
        {
            let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
            gemm(pool, isa, mixed, &mut [layer.o.add(arena, x.as_mut_slice())]);
        }
        norm(x, &layer.mlp_norm, normed, &|row| row, answer_rows);
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        gemm_swiglu(pool, isa, normed, [layer.gate.tiles(arena), layer.up.tiles(arena)], inner);
        gemm(pool, isa, inner, &mut [layer.down.add(arena, x.as_mut_slice())]);
    }

    /// Scores of the hidden states in `memory.normed`.
    fn scores_of_rows(&mut self) -> Logits {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        let vocab = self.config.vocab;
        let mut values = vec![0.0; self.memory.normed.rows() * vocab];
        let weights = self.output.as_ref().unwrap_or(&self.embedding).tiles(&self.arena);
        let mut parts = [GemmOutput { weights, out: &mut values, epilogue: Epilogue::Store }];
        gemm(&self.pool, self.isa, &mut self.memory.normed, &mut parts);
        Logits { vocab, values }
    }

    fn matrices(&self) -> impl Iterator<Item = &Packed> {
        std::iter::once(&self.embedding).chain(&self.output).chain(self.layers.iter().flat_map(
            |layer| {
                let Layer { q, k, v, o, gate, up, down, .. } = layer;
                [&q.weight, &k.weight, &v.weight, o, gate, up, down]
            },
        ))
    }
}

/// Norms and turns the heads of every row by its position.
#[expect(clippy::too_many_arguments, reason = "a kernel's")]
fn rotate(
    pool: &Pool,
    isa: Isa,
    rope: &Tables,
    spans: &[Span],
    heads: &mut [f32],
    norm: Option<&[f32]>,
    eps: f32,
    scale: f32,
) {
    let positions: Vec<usize> =
        spans.iter().flat_map(|span| span.past..span.past + span.rows).collect();
    let (width, rows) = (heads.len() / positions.len(), positions.len());
    let part = if rows <= 2 { rows } else { rows.div_ceil(4 * pool.threads()) };
    pool.run_chunks(heads, part * width, |number, part_rows| {
        for (i, row) in part_rows.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = rope.row(positions[number * part + i]);
            qk_norm_rope(isa, row, norm, eps, cos, sin, scale);
        }
    });
}

impl Decoder for Cpu {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        self.pass(steps, Wanted::Last)?;
        Ok(self.scores_of_rows())
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
        let has = self.cache.length(sequence).unwrap_or(0);
        if length > has || sequence >= self.cache.sequences() {
            return Err(super::no_way_back(sequence, has, length));
        }
        self.cache.set_length(sequence, length);
        Ok(())
    }

    fn scores(&mut self, step: Step<'_>) -> Result<Logits> {
        self.pass(&[step], Wanted::All)?;
        Ok(self.scores_of_rows())
    }

    fn embed(&mut self, steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        let spans = self.pass(steps, Wanted::All)?;
        let (normed, hidden) = (&self.memory.normed, self.config.hidden);
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
        // As many tasks as threads, none of which is done before all have begun, so that each
        // thread has one.
        let all = std::sync::Barrier::new(self.pool.threads());
        self.pool.run(self.pool.threads(), |_, _| {
            all.wait();
            work();
        });
    }

    fn isa(&self) -> Option<&'static str> {
        Some(self.isa.name())
    }

    fn cache_bytes(&self) -> Option<u64> {
        Some(self.cache.bytes() as u64)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        super::check_length(length, &self.config)
    }

    fn footprint(&self) -> Footprint {
        let types: Vec<(GgmlDType, u64)> =
            self.matrices().map(|matrix| (matrix.format.dtype(), matrix.at.len() as u64)).collect();
        let weight_bytes: u64 = types.iter().map(|(_, bytes)| bytes).sum();
        let embedding = self.embedding.at.len() as u64;
        // With an output matrix of its own, the embedding is only looked up.
        let step_bytes = if self.output.is_some() {
            weight_bytes - embedding + embedding / self.config.vocab as u64
        } else {
            weight_bytes
        };
        let kv_type_bytes = self.cache.layout().dtype.bytes();
        let expanded = self.expanded.clone();
        Footprint { types, weight_bytes, step_bytes, kv_type_bytes, expanded }
    }
}

impl Packed {
    fn tiles<'a>(&self, arena: &'a Arena) -> PackedMatrix<'a> {
        PackedMatrix::new(self.format, self.shape, arena.get(self.at.clone()))
    }

    fn add<'a>(&self, arena: &'a Arena, out: &'a mut [f32]) -> GemmOutput<'a> {
        GemmOutput { weights: self.tiles(arena), out, epilogue: Epilogue::Add }
    }
}

impl Linear {
    fn part<'a>(&'a self, arena: &'a Arena, out: &'a mut [f32]) -> GemmOutput<'a> {
        let epilogue = self.bias.as_deref().map_or(Epilogue::Store, Epilogue::Bias);
        GemmOutput { weights: self.weight.tiles(arena), out, epilogue }
    }
}
