//! The `llama-cpp` engine: llama.cpp behind our trait, to compare with, set up as it runs fastest.
//! It reads GGUF files and nothing else, on the CPU; what it cannot do is an [`Error::Unsupported`]
//! with its reason, never a number.

use std::cell::Cell;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use llama_cpp_2::LogOptions;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use crate::error::{Error, Result};
use crate::kernel;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::weights::{Quant, held_as, row_bytes};
use crate::model::{Decoder, Footprint, Logits, Opened, Step, Vocabulary, argmax};

/// Tokens of one call at most; llama.cpp cuts a call into its own passes, as `llama-bench` lets it.
const CALL: usize = 2048;

/// Steps of so many tokens go through alone. llama.cpp cuts a call with several sequences into
/// pieces that are equally long in each, so that ragged prompts would end in passes of a few rows,
/// each of which reads all weights.
const ALONE: usize = 64;

/// Rows of scores that are held at once, where every token's are wanted: 40 MB of a vocabulary of
/// 150 000.
const SCORED: usize = 64;

/// Positions per sequence are given out in steps of so many, which llama.cpp rounds to itself.
const BLOCK: usize = 256;

/// Most sequences that llama.cpp holds (`LLAMA_MAX_SEQ`).
const MOST_SEQUENCES: usize = 256;

/// A model of llama.cpp.
pub struct LlamaCpp {
    /// Contexts borrow it and come and go, so it stays until the process ends. A process loads one
    /// model.
    model: &'static LlamaModel,
    context: Option<LlamaContext<'static>>,
    batch: LlamaBatch<'static>,
    options: Options,
    config: Config,
    footprint: Footprint,
    threads: usize,
    /// What each sequence was shown: its position, and what a larger context is shown again.
    shown: Vec<Vec<u32>>,
    /// Positions that each sequence has.
    capacity: usize,
    /// The longest sequence that was announced since.
    announced: Cell<usize>,
    built: String,
}

impl LlamaCpp {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// When the model is no GGUF file, is to be quantised or scaled otherwise than it is, or
    /// llama.cpp cannot load it.
    pub fn load(
        opened: &Opened,
        quant: Option<Quant>,
        device: &Device,
        threads: usize,
    ) -> Result<Self> {
        let Vocabulary::Gguf(path) = &opened.vocabulary else {
            return Err(unsupported(&format!(
                "`{}`: it reads GGUF files only; write one with `candlemark synth --shape SHAPE --quant QUANT -o FILE.gguf`",
                opened.spec
            )));
        };
        if !matches!(device, Device::Cpu) {
            return Err(unsupported("other devices than the CPU here; use `--device cpu`"));
        }
        let config = &opened.config;
        if let Some(quant) = quant.filter(|quant| !is_held_as(opened, *quant)) {
            return Err(unsupported(&format!(
                "--quant {}: it runs a file as it is; write one that is quantised so, with `candlemark synth` for example",
                quant.name()
            )));
        }
        if Gguf::open(path)?.config(&mut Vec::new())? != *config {
            return Err(unsupported("RoPE scaling other than the file's here"));
        }
        let options = Options::from_variables(&|name| std::env::var(name).ok())?;
        let (model, log) = heard(|| {
            let params =
                LlamaModelParams::default().with_n_gpu_layers(0).with_use_mmap(options.mmap);
            LlamaModel::load_from_file(backend(), path, &params)
        });
        let model = model.map_err(|error| {
            Error::Failed(format!(
                "llama.cpp cannot load `{}` ({error}): {}",
                path.display(),
                log.last().map_or("it says nothing more", String::as_str)
            ))
        })?;
        let vocab = usize::try_from(model.n_vocab()).unwrap_or_default();
        if vocab != config.vocab {
            return Err(unsupported(&format!(
                "this file: its tokenizer has {vocab} tokens and its embedding {} rows",
                config.vocab
            )));
        }
        let built = kernel::llama_system_info().trim_end_matches([' ', '|']).to_owned();
        let this = Self {
            model: Box::leak(Box::new(model)),
            context: None,
            batch: LlamaBatch::new(CALL, 1),
            options,
            config: config.clone(),
            footprint: footprint(opened),
            threads,
            shown: Vec::new(),
            capacity: 0,
            announced: Cell::new(0),
            built,
        };
        let mut err = std::io::stderr().lock();
        // A closed stderr is no reason not to measure.
        let _ = writeln!(err, "llama.cpp: {}", this.description());
        for line in log.iter().filter(|line| line.contains("buffer size")) {
            let _ = writeln!(err, "llama.cpp: {}", line.trim());
        }
        let missing = missing(&this.built);
        if !missing.is_empty() {
            let _ = writeln!(
                err,
                "warning: llama.cpp was compiled without {}, which this CPU has; docs/peers.md says how to build it for this CPU",
                missing.join(", ")
            );
        }
        Ok(this)
    }

    /// What runs: what it was compiled for, and how it is set up.
    fn description(&self) -> String {
        let Options { flash, ubatch, mmap } = self.options;
        let (flash, mmap) = (flash.name(), if mmap { "on" } else { "off" });
        let threads = self.threads;
        format!(
            "flash attention {flash}, ubatch {ubatch}, mmap {mmap}, threads {threads}; {}",
            self.built
        )
    }

    /// Makes a context for so many sequences of so many positions each.
    fn make(&mut self, sequences: usize, positions: usize) -> Result<()> {
        self.context = None; // Two at once would be the peak of memory.
        let capacity = positions.next_multiple_of(BLOCK);
        let size = u32::try_from(capacity * sequences).ok().and_then(NonZeroU32::new);
        let size = size.ok_or_else(|| unsupported("so many positions in one context"))?;
        let threads = i32::try_from(self.threads).unwrap_or(i32::MAX);
        let params = LlamaContextParams::default()
            .with_n_ctx(Some(size))
            .with_n_seq_max(sequences as u32)
            .with_n_batch(CALL as u32)
            .with_n_ubatch(self.options.ubatch)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_flash_attention_policy(self.options.flash as i32)
            .with_kv_unified(false) // As in `llama-batched-bench`: a sequence attends to itself alone.
            .with_no_perf(true);
        let (context, log) = heard(|| self.model.new_context(backend(), params));
        self.context = Some(context.map_err(|error| {
            Error::Failed(format!(
                "llama.cpp cannot make a context of {size} positions ({error}): {}",
                log.last().map_or("it says nothing more", String::as_str)
            ))
        })?);
        self.capacity = capacity;
        Ok(())
    }

    /// Sees to it that sequences of so many tokens fit. A larger context is shown all tokens again;
    /// that is slow, which is why lengths are announced by [`Decoder::check_length`] before the
    /// clock starts.
    fn make_room(&mut self, length: usize) -> Result<()> {
        if length <= self.capacity {
            return Ok(());
        }
        // Half as much again: a sequence that grows unannounced is not shown again at every block.
        let positions = (self.capacity + self.capacity / 2).clamp(length, self.config.context);
        let before = std::mem::take(&mut self.shown);
        self.make(before.len(), positions)?;
        self.shown = vec![Vec::new(); before.len()];
        let again = before.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        for (sequence, tokens) in again {
            self.call(&[(0, Step { sequence, tokens })], Wanted::Nothing, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Shows steps their tokens; `row` gets the scores that are wanted of each, with the step's
    /// number.
    fn show(
        &mut self,
        steps: &[Step<'_>],
        wanted: Wanted,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut longest = 0;
        for step in steps {
            let Some(shown) = self.shown.get(step.sequence) else {
                let (sequence, all) = (step.sequence, self.shown.len());
                return Err(Error::Failed(format!("no sequence {sequence}: there are {all}")));
            };
            if step.tokens.is_empty() {
                return Err(Error::Failed("a step without a token".into()));
            }
            longest = longest.max(shown.len() + step.tokens.len());
        }
        super::check_length(longest, &self.config)?;
        self.make_room(longest)?;
        let numbered = steps.iter().copied().enumerate();
        let (alone, together): (Vec<_>, Vec<_>) =
            numbered.partition(|(_, step)| step.tokens.len() >= ALONE);
        for step in alone {
            self.call(&[step], wanted, row)?;
        }
        self.call(&together, wanted, row)
    }

    /// Shows some numbered steps their tokens, together.
    fn call(
        &mut self,
        steps: &[(usize, Step<'_>)],
        wanted: Wanted,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let most = if wanted == Wanted::All { SCORED } else { CALL };
        let mut rows = Vec::new();
        for (number, step) in steps {
            for (at, &token) in step.tokens.iter().enumerate() {
                if self.batch.n_tokens() as usize == most {
                    self.decode(&mut rows, row)?;
                }
                let is_wanted = match wanted {
                    Wanted::Nothing => false,
                    Wanted::Last => at + 1 == step.tokens.len(),
                    Wanted::All => true,
                };
                if is_wanted {
                    rows.push((self.batch.n_tokens(), *number));
                }
                let shown = &mut self.shown[step.sequence];
                let (position, sequence) = (shown.len() as i32, step.sequence as i32);
                self.batch
                    .add(LlamaToken(token as i32), position, &[sequence], is_wanted)
                    .map_err(|error| failed(&error))?;
                shown.push(token);
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
        let context = self.context.as_mut().expect("sequences have one");
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

/// Which scores of a step are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Last,
    All,
}

impl Decoder for LlamaCpp {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let vocab = self.config.vocab;
        let mut values = vec![0.0; steps.len() * vocab];
        self.show(steps, Wanted::Last, &mut |number, row| {
            values[number * vocab..(number + 1) * vocab].copy_from_slice(row);
        })?;
        Ok(Logits { vocab, values })
    }

    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        let mut ids = vec![0; steps.len()];
        self.show(steps, Wanted::Last, &mut |number, row| ids[number] = argmax(row))?;
        Ok(ids)
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        if sequences > MOST_SEQUENCES {
            return Err(unsupported(&format!("more than {MOST_SEQUENCES} sequences")));
        }
        let length = self.announced.take().max(1);
        let fits = self.shown.len() == sequences && length <= self.capacity;
        self.shown = vec![Vec::new(); sequences];
        match &mut self.context {
            // The cells are forgotten, and not wiped as well, which could be within somebody's
            // time.
            Some(context) if fits => {
                context.clear_kv_cache_seq(None, None, None).map_err(|error| failed(&error))?;
                Ok(())
            }
            _ => self.make(sequences.max(1), length),
        }
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        let announced = self.announced.get();
        let shown = self.shown.get_mut(sequence).filter(|shown| length <= shown.len());
        let Some(shown) = shown else {
            return Err(Error::Failed(format!("sequence {sequence} has no {length} tokens")));
        };
        shown.truncate(length);
        if announced > self.capacity {
            return self.make_room(announced);
        }
        let context = self.context.as_mut().expect("sequences have one");
        let removed = context
            .clear_kv_cache_seq(Some(sequence as u32), Some(length as u32), None)
            .map_err(|error| failed(&error))?;
        if removed { Ok(()) } else { Err(unsupported("going back in this model's sequences")) }
    }

    fn scores(&mut self, step: Step<'_>) -> Result<Logits> {
        let mut all = Logits { vocab: self.config.vocab, values: Vec::new() };
        self.show(&[step], Wanted::All, &mut |_, row| all.values.extend(row))?;
        Ok(all)
    }

    fn cache_bytes(&self) -> Option<u64> {
        let Config { layers, kv_heads, head_dim, .. } = self.config;
        let position = 2 * layers * kv_heads * head_dim * self.footprint.kv_type_bytes;
        Some((position * self.capacity * self.shown.len()) as u64)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        super::check_length(length, &self.config)?;
        self.announced.set(self.announced.get().max(length));
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }

    fn describe(&self) -> Option<String> {
        Some(self.description())
    }
}

/// How llama.cpp is set up, by environment variables; docs/peers.md says what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Options {
    flash: Flash,
    ubatch: u32,
    mmap: bool,
}

/// `llama_flash_attn_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flash {
    Auto = -1,
    Off = 0,
    On = 1,
}

impl Flash {
    fn name(self) -> &'static str {
        match self {
            Flash::Auto => "auto",
            Flash::Off => "off",
            Flash::On => "on",
        }
    }
}

impl Options {
    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |name: &str, text: &str, known: &str| {
            Error::Usage(format!("{name} is `{text}`; write {known}"))
        };
        let (name, known) = ("CANDLEMARK_LLAMA_FA", "`on`, `off` or `auto`");
        let flash = match get(name).as_deref() {
            Some("on") => Flash::On,
            Some("off") => Flash::Off,
            Some("auto") | None => Flash::Auto,
            Some(other) => return Err(wrong(name, other, known)),
        };
        let (name, known) = ("CANDLEMARK_LLAMA_MMAP", "`on` or `off`");
        let mmap = match get(name).as_deref() {
            Some("on") | None => true,
            Some("off") => false,
            Some(other) => return Err(wrong(name, other, known)),
        };
        let (name, known) = ("CANDLEMARK_LLAMA_UBATCH", "a number from 1 to 2048");
        let ubatch = match get(name) {
            Some(text) => {
                let number = text.parse().ok().filter(|rows| (1..=CALL as u32).contains(rows));
                number.ok_or_else(|| wrong(name, &text, known))?
            }
            None => 512,
        };
        Ok(Self { flash, ubatch, mmap })
    }
}

/// Whether the file has every matrix as this quantisation would make it of plain numbers, or near
/// to it.
fn is_held_as(opened: &Opened, quant: Quant) -> bool {
    let Opened { config, source, .. } = opened;
    config.tensors().iter().filter(|(_, shape)| shape.len() == 2).all(|(name, _)| {
        source.info(name).is_none_or(|info| held_as(name, &info, Some(quant), config) == info.dtype)
    })
}

fn footprint(opened: &Opened) -> Footprint {
    let Opened { config, source, .. } = opened;
    let mut types: Vec<(GgmlDType, u64)> = Vec::new();
    for (name, shape) in config.tensors() {
        let (Some(info), &[rows, columns]) = (source.info(&name), shape.as_slice()) else {
            continue;
        };
        let bytes = row_bytes(info.dtype, columns).unwrap_or(0) * rows;
        types.push((info.dtype, bytes as u64));
    }
    let weight_bytes = types.iter().map(|(_, bytes)| bytes).sum();
    let embedding = types.first().map_or(0, |(_, bytes)| *bytes);
    // With an output matrix of its own, the embedding is only looked up.
    let looked_up = embedding - embedding / config.vocab as u64;
    let step_bytes = if config.tied { weight_bytes } else { weight_bytes - looked_up };
    Footprint { types, weight_bytes, step_bytes, kv_type_bytes: 2, expanded: Vec::new() }
}

/// What this CPU has and llama.cpp's kernels were compiled without.
fn missing(built: &str) -> Vec<&'static str> {
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
    let absent = |name: &str| !built.contains(&format!("{name} = 1"));
    has.into_iter().filter(|(name, has)| *has && absent(name)).map(|(name, _)| name).collect()
}

/// llama.cpp may be initialised once in a process.
fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        llama_cpp_2::send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().expect("nobody else initialises it")
    })
}

/// Does something, and hears what llama.cpp says meanwhile.
fn heard<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    backend();
    let lines = Arc::default();
    let done = tracing::subscriber::with_default(Listener(Arc::clone(&lines)), work);
    let lines = std::mem::take(&mut *lines.lock().expect("no listener panics"));
    (done, lines)
}

/// Keeps what llama.cpp logs. At other times nobody listens, and it is silent.
struct Listener(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llama-cpp-2" && *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut visit = |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            if field.name() == "message" {
                let text = format!("{value:?}").trim_matches('"').to_owned();
                self.0.lock().expect("no listener panics").push(text);
            }
        };
        event.record(&mut visit);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("llama.cpp does not do {what}"))
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::Failed(format!("llama.cpp failed: {error}"))
}

#[cfg(test)]
mod tests;
