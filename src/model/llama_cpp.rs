//! The `llama-cpp` engine: llama.cpp as a reference to compare with, with its fastest settings, for
//! GGUF files on the CPU. What it does not support is an [`Error::Unsupported`] with its reason,
//! never a number.

use std::cell::Cell;
use std::io::Write as _;
use std::num::NonZeroU32;

use candle_core::Device;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use crate::error::{Error, Result};
use crate::kernel;
use crate::kernel::GgmlType;
use crate::model::config::Config;
use crate::model::decoder::{
    Decoder, Footprint, Logits, LogitsFor, Step, argmax, cannot_truncate, no_sequence,
};
use crate::model::gguf::Gguf;
use crate::model::quant::{Quant, weight_dtype};
use crate::model::source::{ModelSource, TokenizerSource};
use crate::model::weights::row_bytes;

mod logs;
mod options;

use logs::{backend, with_logs};
use options::{LlamaOptions, MAX_BATCH};

/// Steps of at least this many tokens have a call of their own. llama.cpp splits a call with
/// several sequences into pieces of equal length per sequence, so ragged prompts would end in
/// passes of a few rows, each of which reads all weights.
const MIN_OWN_CALL: usize = 64;

/// Tokens per call if the logits of all are needed: 40 MB for a vocabulary of 150,000.
const MAX_LOGITS_ROWS: usize = 64;

/// The capacity of a sequence is a multiple of this, as llama.cpp rounds it itself.
const CAPACITY_STEP: usize = 256;

/// llama.cpp's limit (`LLAMA_MAX_SEQ`).
const MAX_SEQUENCES: usize = 256;

/// The KV cache is f16.
const KV_DTYPE_BYTES: usize = 2;

/// A model of llama.cpp.
pub(super) struct LlamaCppDecoder {
    /// Leaked, because contexts borrow it and are replaced. A process loads one model.
    model: &'static LlamaModel,
    context: Option<LlamaContext<'static>>,
    batch: LlamaBatch<'static>,
    options: LlamaOptions,
    config: Config,
    footprint: Footprint,
    threads: usize,
    /// The tokens of each sequence, which are decoded again when a larger context is needed.
    history: Vec<Vec<u32>>,
    /// Positions per sequence in the context.
    capacity: usize,
    /// The longest sequence that [`Decoder::check_length`] was asked about.
    expected_length: Cell<usize>,
    /// The instruction sets that llama.cpp was compiled for.
    system_info: String,
}

impl LlamaCppDecoder {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// When the model is not a GGUF file, is to be quantized or scaled differently, or llama.cpp
    /// cannot load it.
    pub(super) fn load(
        source: &ModelSource,
        quant: Option<Quant>,
        device: &Device,
        threads: usize,
    ) -> Result<Self> {
        let TokenizerSource::Gguf(path) = &source.tokenizer else {
            return Err(unsupported(&format!(
                "`{}`: it reads GGUF files only; write one with `candlemark synth --shape SHAPE \
                 --quant QUANT -o FILE.gguf`",
                source.spec
            )));
        };
        if !matches!(device, Device::Cpu) {
            return Err(unsupported("devices other than the CPU here; use `--device cpu`"));
        }
        let config = &source.config;
        if let Some(quant) = quant.filter(|quant| !has_quant(source, *quant)) {
            return Err(unsupported(&format!(
                "--quant {}: it runs a file as it is; write a file with this quantization, for \
                 example with `candlemark synth`",
                quant.name()
            )));
        }
        if Gguf::open(path)?.config(&mut Vec::new())? != *config {
            return Err(unsupported("a RoPE scaling other than the file's here"));
        }
        let options = LlamaOptions::from_variables(&|name| std::env::var(name).ok())?;
        let (model, log) = with_logs(|| {
            let params =
                LlamaModelParams::default().with_n_gpu_layers(0).with_use_mmap(options.mmap);
            LlamaModel::load_from_file(backend(), path, &params)
        });
        let model = model.map_err(|error| {
            Error::Failed(format!(
                "llama.cpp cannot load `{}` ({error}): {}",
                path.display(),
                log.last().map_or("it logged nothing", String::as_str)
            ))
        })?;
        let vocab = usize::try_from(model.n_vocab()).unwrap_or_default();
        if vocab != config.vocab {
            return Err(unsupported(&format!(
                "this file: its tokenizer has {vocab} tokens and its embedding {} rows",
                config.vocab
            )));
        }
        let system_info = kernel::llama_system_info().trim_end_matches([' ', '|']).to_owned();
        let this = Self {
            model: Box::leak(Box::new(model)),
            context: None,
            batch: LlamaBatch::new(MAX_BATCH, 1),
            options,
            config: config.clone(),
            footprint: footprint(source),
            threads,
            history: Vec::new(),
            capacity: 0,
            expected_length: Cell::new(0),
            system_info,
        };
        let mut err = std::io::stderr().lock();
        // A closed stderr must not stop the measurement.
        let _ = writeln!(err, "llama.cpp: {}", this.description());
        for line in log.iter().filter(|line| line.contains("buffer size")) {
            let _ = writeln!(err, "llama.cpp: {}", line.trim());
        }
        let missing = missing_cpu_features(&this.system_info);
        if !missing.is_empty() {
            let _ = writeln!(
                err,
                "warning: llama.cpp was compiled without {}, which this CPU has; docs/peers.md \
                 says how to build it for this CPU",
                missing.join(", ")
            );
        }
        Ok(this)
    }

    /// Settings and instruction sets.
    fn description(&self) -> String {
        let LlamaOptions { flash_attention, ubatch, mmap } = self.options;
        let (flash, mmap) = (flash_attention.name(), if mmap { "on" } else { "off" });
        let threads = self.threads;
        format!(
            "flash attention {flash}, ubatch {ubatch}, mmap {mmap}, threads {threads}; {}",
            self.system_info
        )
    }

    /// Creates a context for `sequences` of `positions` each.
    fn create_context(&mut self, sequences: usize, positions: usize) -> Result<()> {
        self.context = None; // Two at a time would raise the memory peak.
        let capacity = positions.next_multiple_of(CAPACITY_STEP);
        let size = u32::try_from(capacity * sequences).ok().and_then(NonZeroU32::new);
        let size = size.ok_or_else(|| unsupported("so many positions in one context"))?;
        let threads = i32::try_from(self.threads).unwrap_or(i32::MAX);
        let params = LlamaContextParams::default()
            .with_n_ctx(Some(size))
            .with_n_seq_max(sequences as u32)
            .with_n_batch(MAX_BATCH as u32)
            .with_n_ubatch(self.options.ubatch)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_flash_attention_policy(self.options.flash_attention as i32)
            .with_kv_unified(false) // One KV cache per sequence, as in `llama-batched-bench`.
            .with_no_perf(true);
        let (context, log) = with_logs(|| self.model.new_context(backend(), params));
        self.context = Some(context.map_err(|error| {
            Error::Failed(format!(
                "llama.cpp cannot make a context of {size} positions ({error}): {}",
                log.last().map_or("it logged nothing", String::as_str)
            ))
        })?);
        self.capacity = capacity;
        Ok(())
    }

    /// Ensures that sequences of `length` tokens fit. A larger context decodes all tokens again,
    /// which is slow; [`Decoder::check_length`] tells the length before the clock starts.
    fn ensure_capacity(&mut self, length: usize) -> Result<()> {
        if length <= self.capacity {
            return Ok(());
        }
        // At least half as much again, so that an unexpectedly growing sequence is decoded again
        // only a few times.
        let positions = (self.capacity + self.capacity / 2).clamp(length, self.config.context);
        let history = std::mem::take(&mut self.history);
        self.create_context(history.len(), positions)?;
        self.history = vec![Vec::new(); history.len()];
        let decoded = history.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        for (sequence, tokens) in decoded {
            self.call(&[(0, Step { sequence, tokens })], None, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Runs steps; `row` receives each row of logits with the index of its step.
    fn run(
        &mut self,
        steps: &[Step<'_>],
        logits_for: LogitsFor,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut longest = 0;
        for step in steps {
            let history = self.history.get(step.sequence);
            let history = history.ok_or_else(|| no_sequence(step.sequence))?;
            if step.tokens.is_empty() {
                return Err(Error::Failed("a step without a token".into()));
            }
            longest = longest.max(history.len() + step.tokens.len());
        }
        self.config.check_length(longest)?;
        self.ensure_capacity(longest)?;
        let numbered = steps.iter().copied().enumerate();
        let (alone, together): (Vec<_>, Vec<_>) =
            numbered.partition(|(_, step)| step.tokens.len() >= MIN_OWN_CALL);
        for step in alone {
            self.call(&[step], Some(logits_for), row)?;
        }
        self.call(&together, Some(logits_for), row)
    }

    /// Runs some indexed steps together; `logits_for` is `None` if no logits are needed.
    fn call(
        &mut self,
        steps: &[(usize, Step<'_>)],
        logits_for: Option<LogitsFor>,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let limit =
            if logits_for == Some(LogitsFor::AllTokens) { MAX_LOGITS_ROWS } else { MAX_BATCH };
        let mut rows = Vec::new();
        for (number, step) in steps {
            for (at, &token) in step.tokens.iter().enumerate() {
                if self.batch.n_tokens() as usize == limit {
                    self.decode(&mut rows, row)?;
                }
                let has_logits = match logits_for {
                    None => false,
                    Some(LogitsFor::LastToken) => at + 1 == step.tokens.len(),
                    Some(LogitsFor::AllTokens) => true,
                };
                if has_logits {
                    rows.push((self.batch.n_tokens(), *number));
                }
                let history = &mut self.history[step.sequence];
                let (position, sequence) = (history.len() as i32, step.sequence as i32);
                self.batch
                    .add(LlamaToken(token as i32), position, &[sequence], has_logits)
                    .map_err(|error| failed(&error))?;
                history.push(token);
            }
        }
        self.decode(&mut rows, row)
    }

    fn decode(
        &mut self,
        rows: &mut Vec<(i32, usize)>,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        if self.batch.n_tokens() == 0 {
            return Ok(());
        }
        let context = self.context.as_mut().expect("`reset` creates one");
        let decoded = context.decode(&mut self.batch);
        self.batch.clear();
        decoded.map_err(|error| failed(&error))?;
        context.synchronize();
        for (at, number) in rows.drain(..) {
            row(number, context.get_logits_ith(at));
        }
        Ok(())
    }
}

impl Decoder for LlamaCppDecoder {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let vocab = self.config.vocab;
        let mut values = vec![0.0; steps.len() * vocab];
        self.run(steps, LogitsFor::LastToken, &mut |number, row| {
            values[number * vocab..(number + 1) * vocab].copy_from_slice(row);
        })?;
        Ok(Logits { vocab, values })
    }

    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        let mut ids = vec![0; steps.len()];
        self.run(steps, LogitsFor::LastToken, &mut |number, row| ids[number] = argmax(row))?;
        Ok(ids)
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        if sequences > MAX_SEQUENCES {
            return Err(unsupported(&format!("more than {MAX_SEQUENCES} sequences")));
        }
        let length = self.expected_length.take().max(1);
        let fits = self.history.len() == sequences && length <= self.capacity;
        self.history = vec![Vec::new(); sequences];
        match &mut self.context {
            // Clears the table of positions and not the memory, which would take measured time.
            Some(context) if fits => {
                context.clear_kv_cache_seq(None, None, None).map_err(|error| failed(&error))?;
                Ok(())
            }
            _ => self.create_context(sequences.max(1), length),
        }
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        let expected_length = self.expected_length.get();
        let Some(history) = self.history.get_mut(sequence) else {
            return Err(no_sequence(sequence));
        };
        if length > history.len() {
            return Err(cannot_truncate(sequence, history.len(), length));
        }
        history.truncate(length);
        if expected_length > self.capacity {
            return self.ensure_capacity(expected_length);
        }
        let context = self.context.as_mut().expect("`reset` creates one");
        let removed = context
            .clear_kv_cache_seq(Some(sequence as u32), Some(length as u32), None)
            .map_err(|error| failed(&error))?;
        if removed { Ok(()) } else { Err(unsupported("truncating the sequences of this model")) }
    }

    fn forward_all(&mut self, step: Step<'_>) -> Result<Logits> {
        let mut all = Logits { vocab: self.config.vocab, values: Vec::new() };
        self.run(&[step], LogitsFor::AllTokens, &mut |_, row| all.values.extend(row))?;
        Ok(all)
    }

    fn kv_cache_bytes(&self) -> Option<u64> {
        let Config { layers, kv_heads, head_dim, .. } = self.config;
        let position = 2 * layers * kv_heads * head_dim * KV_DTYPE_BYTES;
        Some((position * self.capacity * self.history.len()) as u64)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.config.check_length(length)?;
        self.expected_length.set(self.expected_length.get().max(length));
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }

    fn describe(&self) -> Option<String> {
        Some(self.description())
    }
}

/// Whether every matrix of the file has the type of this quantization.
fn has_quant(source: &ModelSource, quant: Quant) -> bool {
    let ModelSource { config, weights, .. } = source;
    config.tensors().iter().filter(|(_, shape)| shape.len() == 2).all(|(name, _)| {
        weights
            .info(name)
            .is_none_or(|info| weight_dtype(name, &info, Some(quant), config) == info.dtype)
    })
}

fn footprint(source: &ModelSource) -> Footprint {
    let ModelSource { config, weights, .. } = source;
    let mut types: Vec<(GgmlType, u64)> = Vec::new();
    for (name, shape) in config.tensors() {
        let (Some(info), &[rows, columns]) = (weights.info(&name), shape.as_slice()) else {
            continue;
        };
        let bytes = row_bytes(info.dtype, columns).unwrap_or(0) * rows;
        types.push((info.dtype, bytes as u64));
    }
    Footprint::new(types, config, KV_DTYPE_BYTES, Vec::new())
}

/// Instruction sets of this CPU that llama.cpp was compiled without.
fn missing_cpu_features(system_info: &str) -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
        ("AVX512", std::arch::is_x86_feature_detected!("avx512f")),
        ("AVX512_VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("AVX512_BF16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let has: [(&str, bool); 0] = [];
    let absent = |name: &str| !system_info.contains(&format!("{name} = 1"));
    has.into_iter().filter(|(name, has)| *has && absent(name)).map(|(name, _)| name).collect()
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("llama.cpp does not support {what}"))
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::Failed(format!("llama.cpp failed: {error}"))
}

#[cfg(test)]
mod tests;
