//! The inference library: what a model is and where it comes from. `open` finds and checks a model,
//! `load` makes a `Decoder` of it. Values go in and out as plain numbers on the host, so a decoder
//! is done with its work when it returns.

/// Shapes of models.
pub mod config;
mod cpu;
#[cfg(test)]
mod fuzz;
/// GGUF files.
pub mod gguf;
/// The Hugging Face hub.
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "llama-cpp")]
mod llama_cpp;
/// Weight matrices in the form they are multiplied in.
pub mod matrix;
mod qwen;
mod reference;
/// Rotary position embedding.
pub mod rope;
/// safetensors files.
pub mod safetensors;
/// Seeded random weights.
pub mod synthetic;
/// Sources of weights and their types.
pub mod weights;

use std::io;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};
use crate::kernel::{Isa, Pool};
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::synthetic::Synthetic;
use crate::model::weights::{Positioned, Quant, Source};
use crate::settings::RopeScaling;
use crate::{files, settings};

/// New tokens of one sequence, to follow what it has been shown before.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Which sequence, counted from 0.
    pub sequence: usize,
    /// At least one token id.
    pub tokens: &'a [u32],
}

/// One model with the caches of its sequences.
pub trait Decoder: Send {
    /// Shows sequences their next tokens, in one pass; the logits after the last token of each
    /// step, in their order.
    ///
    /// # Errors
    /// When the device fails, a sequence would outgrow the context, or the engine cannot do such a
    /// step ([`Error::Unsupported`]).
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits>;

    /// As [`Decoder::forward`], but only the likeliest token of each step; the first of equals.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn greedy(&mut self, steps: &[Step<'_>]) -> Result<Vec<u32>> {
        Ok(self.forward(steps)?.argmax())
    }

    /// Forgets everything and makes room for so many sequences.
    ///
    /// # Errors
    /// When the engine cannot hold so many ([`Error::Unsupported`]).
    fn reset(&mut self, sequences: usize) -> Result<()>;

    /// Forgets what a sequence was shown after its first `length` tokens.
    ///
    /// # Errors
    /// When the engine cannot go back ([`Error::Unsupported`]), or the sequence has not so many.
    fn truncate(&mut self, _sequence: usize, _length: usize) -> Result<()> {
        Err(Error::Unsupported("this engine cannot go back in a sequence".into()))
    }

    /// As [`Decoder::forward`] for one step, but the logits after every one of its tokens, a row a
    /// token.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn scores(&mut self, step: Step<'_>) -> Result<Logits> {
        let mut all = Logits { vocab: 0, values: Vec::new() };
        for tokens in step.tokens.chunks(1) {
            let Logits { vocab, values } = self.forward(&[Step { tokens, ..step }])?;
            all.vocab = vocab;
            all.values.extend(values);
        }
        Ok(all)
    }

    /// The final hidden states of each step's tokens, normalised and averaged: one vector a step.
    ///
    /// # Errors
    /// As [`Decoder::forward`]; also when the engine does not show them ([`Error::Unsupported`]).
    fn embed(&mut self, _steps: &[Step<'_>]) -> Result<Vec<Vec<f32>>> {
        Err(Error::Unsupported("this engine does not show hidden states".into()))
    }

    /// Runs something on every thread that the forward pass has, at once.
    fn on_all_threads(&self, work: &(dyn Fn() + Sync)) {
        rayon::broadcast(|_| work());
    }

    /// The instructions that the forward pass was chosen for, if it has such a choice.
    fn isa(&self) -> Option<&'static str> {
        None
    }

    /// Bytes that the caches of all sequences take, if the engine tells.
    fn cache_bytes(&self) -> Option<u64> {
        None
    }

    /// Says whether a sequence of so many tokens fits.
    ///
    /// # Errors
    /// When it does not.
    fn check_length(&self, length: usize) -> Result<()>;

    /// Most tokens that a pass over prompts should have, if the engine has a wish.
    fn pass_rows(&self) -> Option<usize> {
        None
    }

    /// What the weights take.
    fn footprint(&self) -> Footprint;

    /// How the engine is set up, if it can be set up in ways that change its speed.
    fn describe(&self) -> Option<String> {
        None
    }
}

/// Scores of the next token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Scores a row.
    pub vocab: usize,
    /// Rows one after the other.
    pub values: Vec<f32>,
}

impl Logits {
    /// One row a step.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab)
    }

    /// The likeliest token of each row; the first of equals. NaN is never the largest.
    pub fn argmax(&self) -> Vec<u32> {
        self.rows().map(argmax).collect()
    }

    /// Whether every score is a finite number.
    pub fn finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }
}

/// The likeliest token of one row; the first of equals. NaN is never the largest.
fn argmax(row: &[f32]) -> u32 {
    let best = row
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best });
    best.0 as u32
}

/// What the weights of a loaded model take.
#[derive(Debug, Clone, PartialEq)]
pub struct Footprint {
    /// Bytes of each matrix with the type it is held as.
    pub types: Vec<(GgmlDType, u64)>,
    /// Bytes of all matrices.
    pub weight_bytes: u64,
    /// Bytes of weights that a decode step reads.
    pub step_bytes: u64,
    /// Bytes of one number of the KV cache.
    pub kv_type_bytes: usize,
    /// Types of the file that the engine cannot multiply with as they are, and holds as bf16.
    pub expanded: Vec<GgmlDType>,
}

impl Footprint {
    /// What the matrices are held as, in one word: `q8_0`, `q4_k_m`, `bf16+q8_0-from-q5_0`.
    pub fn describe(&self) -> String {
        let held = weights::describe(&self.types);
        if self.expanded.is_empty() {
            return held;
        }
        let names: Vec<String> =
            self.expanded.iter().map(|dtype| weights::type_name(*dtype)).collect();
        format!("{held}-from-{}", names.join("+"))
    }
}

/// A model's name as the user gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `synthetic:SHAPE`
    Synthetic(String),
    /// A `.gguf` file.
    Gguf(PathBuf),
    /// A folder with config.json, safetensors and tokenizer.json.
    Folder(PathBuf),
    /// `owner/name[@revision][:file]`
    Hub(String),
}

impl Spec {
    /// Reads a model's name.
    ///
    /// # Errors
    /// When it is neither the path of a model nor a name of another kind.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(shape) = text.strip_prefix("synthetic:") {
            return Ok(Spec::Synthetic(shape.into()));
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Spec::Folder(path.into()));
        }
        if path.is_file() {
            return Self::of_file(path);
        }
        let repository = text.split(['@', ':']).next().unwrap_or_default();
        let looks_like_hub = repository.split('/').count() == 2
            && !text.starts_with(['.', '/', '~'])
            && !text.contains('\\');
        if looks_like_hub && (!text.ends_with(".gguf") || text.contains(':')) {
            return Ok(Spec::Hub(text.into()));
        }
        Err(Error::Usage(format!(
            "no model `{text}`: it is no file or folder here; other forms are `synthetic:SHAPE` and `owner/name[@revision][:file]`"
        )))
    }

    /// A file that is a model, or is the weights of the folder that it is in.
    fn of_file(path: &Path) -> Result<Self> {
        let begins = first_bytes(path)?;
        if begins.starts_with(b"GGUF") {
            return Ok(Spec::Gguf(path.into()));
        }
        refuse_pointer(path).map_err(Error::of_named_file)?;
        let folder = files::folder_of(path);
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("safetensors") && folder.join("config.json").is_file() {
            let files = safetensors::files(folder).map_err(Error::of_named_file)?;
            if files.iter().any(|file| file.file_name() == path.file_name()) {
                return Ok(Spec::Folder(folder.into()));
            }
        }
        let advice = match extension {
            Some("safetensors") => format!(
                "it is one file of a model; give a folder that has `config.json`, \
                 `tokenizer.json` and the weights by their usual names, and `{}` is none",
                folder.display()
            ),
            Some("json") => format!("give the folder that it is in, `{}`", folder.display()),
            Some("bin" | "pt" | "pth" | "ckpt" | "pkl") => {
                "PyTorch's own format is not read; convert it to safetensors or GGUF".into()
            }
            _ if begins.starts_with(b"<") => {
                "it is a web page, and no download of a model; download it again".into()
            }
            _ if extension == Some("gguf") => {
                "it does not begin with `GGUF`; download it again".into()
            }
            _ => "give a GGUF file, or a folder with `config.json` and safetensors".into(),
        };
        Err(Error::Usage(format!("`{}` is no model: {advice}", path.display())))
    }
}

/// How a Git LFS pointer begins, which stands for a file that was not fetched.
const POINTER: &[u8] = b"version https://git-lfs";

/// The first bytes of a file.
fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = Positioned::open(path)?;
    file.read(0, file.size.min(64) as usize)
}

/// Refuses a pointer to a file that is not here.
fn refuse_pointer(path: &Path) -> Result<()> {
    if !first_bytes(path)?.starts_with(POINTER) {
        return Ok(());
    }
    let why = "it is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`";
    Err(Error::Invalid { path: path.into(), why: why.into() })
}

/// Where a model's tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vocabulary {
    /// The tiny one of `fixtures/tiny`, for synthetic models.
    Tiny,
    /// A folder with tokenizer.json.
    Folder(PathBuf),
    /// A GGUF file's metadata.
    Gguf(PathBuf),
}

/// A model that has been found and checked, but not loaded.
pub struct Opened {
    /// As it was asked for.
    pub spec: String,
    /// Its shape.
    pub config: Config,
    /// Its weights.
    pub source: Box<dyn Source>,
    /// Its tokenizer.
    pub vocabulary: Vocabulary,
    /// The hub's commit.
    pub commit: Option<String>,
}

/// Hears how a download goes.
pub trait Progress {
    /// `so_far` of the `size` bytes of `file` are on disk, those of an earlier run among them.
    /// What the cache holds in full is not mentioned.
    fn update(&mut self, file: &str, so_far: u64, size: u64);

    /// Something about the model that whoever measures it should know: what was assumed of it, or
    /// left out of account.
    fn note(&mut self, _: &str) {}
}

/// Says nothing.
impl Progress for () {
    fn update(&mut self, _: &str, _: u64, _: u64) {}
}

/// Checks a model's name, and the files of one that is here, without reading weights or downloading
/// anything.
///
/// # Errors
/// As [`open`], but of a model on the hub only for its name.
pub fn check(spec: &str, seed: u64, scaling: Option<RopeScaling>) -> Result<()> {
    #[cfg(feature = "hub")]
    if let Spec::Hub(name) = Spec::parse(spec)? {
        return name.parse::<hub::HubSpec>().map(drop);
    }
    open(spec, seed, scaling, &mut ()).map(drop)
}

/// Finds a model, downloads it if it is on the hub, and checks its files without reading the
/// weights.
///
/// `seed` is that of synthetic weights; `scaling` replaces the model's own RoPE scaling.
///
/// # Errors
/// When it is not found, its files are damaged, or it is of a kind that is not known.
pub fn open(
    spec: &str,
    seed: u64,
    scaling: Option<RopeScaling>,
    progress: &mut dyn Progress,
) -> Result<Opened> {
    let mut notes = Vec::new();
    let (config, source, vocabulary, commit): Found = match Spec::parse(spec)? {
        Spec::Synthetic(shape) => {
            let config = Config::named(&shape)?;
            (config.clone(), Box::new(Synthetic::new(config, seed)), Vocabulary::Tiny, None)
        }
        Spec::Gguf(path) => open_gguf(&path, None, &mut notes)?,
        Spec::Folder(path) => open_folder(&path, None, &mut notes)?,
        Spec::Hub(name) => download(&name, progress, &mut notes)?,
    };
    check_weights(&config, source.as_ref())?;
    for note in &notes {
        progress.note(note);
    }
    if let Some(scaling) = &scaling {
        config::check_scaling(scaling).map_err(Error::Usage)?;
    }
    let config = config.scaled(scaling).checked().map_err(Error::Usage)?;
    Ok(Opened { spec: spec.into(), config, source, vocabulary, commit })
}

type Found = (Config, Box<dyn Source>, Vocabulary, Option<String>);

fn open_gguf(path: &Path, commit: Option<String>, notes: &mut Vec<String>) -> Result<Found> {
    let gguf = Gguf::open(path)?;
    let (config, vocabulary) = (gguf.config(notes)?, Vocabulary::Gguf(gguf.path().into()));
    Ok((config, Box::new(gguf), vocabulary, commit))
}

fn open_folder(dir: &Path, commit: Option<String>, notes: &mut Vec<String>) -> Result<Found> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(no_folder(dir));
    }
    for file in [&path, &dir.join("tokenizer.json")] {
        if file.exists() {
            refuse_pointer(file)?;
        }
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::Read { path: path.clone(), source }.of_named_file())?;
    let config = Config::from_json(&path, &text, notes)?;
    let folder = safetensors::Folder::open(dir, notes)?;
    let lacks_output = !config.tied && folder.info("lm_head.weight").is_none();
    if folder.is_bare() && lacks_output {
        let dir = dir.display();
        return Err(Error::UnsupportedModel(format!(
            "`{dir}` is an embedding model: it has no output matrix, and `tie_word_embeddings` is \
             not true, so there is nothing to generate with"
        )));
    }
    if lacks_output && folder.info("model.embed_tokens.weight").is_some() {
        let why = "the weights have no output matrix `lm_head.weight`, and `tie_word_embeddings` \
                   is not true; write that it is if the embedding stands for both";
        return Err(Error::Invalid { path, why: why.into() });
    }
    if folder.is_bare() {
        notes.push(config::embedding_model(dir));
    }
    Ok((config, Box::new(folder), Vocabulary::Folder(dir.into()), commit))
}

/// What a folder without `config.json` is instead.
fn no_folder(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let gguf = names.iter().find(|name| name.ends_with(".gguf"));
    let what = if let Some(name) = gguf {
        format!("it has no `config.json`; give its GGUF file, as in `{}`", dir.join(name).display())
    } else if names.iter().any(|name| name == "adapter_config.json") {
        "it is an adapter (LoRA) without its model; merge the two, and give the result".into()
    } else if names.is_empty() {
        "it is empty".into()
    } else {
        "it has no `config.json`".into()
    };
    Error::Usage(format!("`{}` is no model: {what}", dir.display()))
}

/// Refuses weights that lack a tensor of the model, have one of another shape, or have more than
/// the model uses: what is left out of a computation is another model.
fn check_weights(config: &Config, source: &dyn Source) -> Result<()> {
    let tensors = config.tensors();
    for (name, shape) in &tensors {
        matrix::check_shape(source, name, shape)?;
    }
    let mut beyond = source.beyond(&tensors);
    // Copies of what is known anyhow.
    beyond.retain(|name| {
        let is_output = ["lm_head.weight", "output.weight"].contains(&name.as_str());
        !(name.ends_with("rotary_emb.inv_freq") || config.tied && is_output)
    });
    beyond.sort();
    let Some(first) = beyond.first() else { return Ok(()) };
    let layers = config.layers;
    let next = [format!("model.layers.{layers}."), format!("blk.{layers}.")];
    if beyond.iter().any(|name| next.iter().any(|layer| name.starts_with(layer))) {
        return Err(Error::Failed(format!(
            "the weights go on after the {layers} layers that the configuration asks for"
        )));
    }
    let heads = ["score.", "classifier", "cls.", "v_head", "value_head"];
    let head = beyond.iter().find(|name| heads.iter().any(|head| name.starts_with(head)));
    if let Some(head) = head {
        return Err(Error::UnsupportedModel(format!(
            "the weights have `{head}`, the head of a classifier, reranker or reward model"
        )));
    }
    let others = match beyond.len() {
        1 => String::new(),
        count => format!(" and {} others", count - 1),
    };
    Err(Error::UnsupportedModel(format!(
        "the weights have `{first}`{others}, which the model as it is configured does not use"
    )))
}

#[cfg(feature = "hub")]
fn download(name: &str, progress: &mut dyn Progress, notes: &mut Vec<String>) -> Result<Found> {
    let snapshot = hub::Hub::from_env()?.fetch(&name.parse()?, progress)?;
    let commit = Some(snapshot.commit);
    let is_gguf = |path: &&std::path::PathBuf| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    };
    // Of a model in parts the first, beside the others.
    match snapshot.files.iter().find(is_gguf) {
        Some(path) => open_gguf(path, commit, notes),
        None => open_folder(&snapshot.dir, commit, notes),
    }
}

#[cfg(not(feature = "hub"))]
fn download(name: &str, _: &mut dyn Progress, _: &mut Vec<String>) -> Result<Found> {
    Err(Error::Usage(format!("`{name}` is on the hub, and this build has no feature `hub`")))
}

/// Devices that a decoder can run on.
///
/// # Errors
/// When the name is unknown, or the device is not there or not built in: asking for one never falls
/// back to another.
pub fn device(name: &str) -> Result<Device> {
    let (kind, number) = device_name(name)?;
    match kind {
        "cuda" => Device::new_cuda(number).map_err(|error| no_device(name, "cuda", &error)),
        "metal" => Device::new_metal(number).map_err(|error| no_device(name, "metal", &error)),
        _ => Ok(Device::Cpu),
    }
}

/// Checks the name of a device, and opens none that is built in: that is for the worker which uses
/// it.
///
/// # Errors
/// When the name is unknown, or the device is not built in.
pub fn check_device(name: &str) -> Result<()> {
    let (kind, _) = device_name(name)?;
    let lacking = (kind == "cuda" && !cfg!(feature = "cuda"))
        || (kind == "metal" && !cfg!(feature = "metal"));
    if lacking { device(name).map(drop) } else { Ok(()) }
}

/// A device's kind, which is one of those known, and its number.
fn device_name(name: &str) -> Result<(&str, usize)> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let number: usize = number
        .parse()
        .map_err(|_| Error::Usage(format!("`{number}` in device `{name}` is not a number")))?;
    let known = ["cpu", "cuda", "metal"];
    if !known.contains(&kind) {
        return Err(Error::unknown("device", kind, known));
    }
    Ok((kind, number))
}

fn no_device(name: &str, feature: &str, error: &candle_core::Error) -> Error {
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    let built = match feature {
        "cuda" => cfg!(feature = "cuda"),
        _ => cfg!(feature = "metal"),
    };
    let build =
        if built { String::new() } else { format!("build with `--features {feature}`, or ") };
    Error::Usage(format!("no device `{name}` ({why}); {build}use `--device cpu`"))
}

/// Which implementation runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Our own forward pass.
    Native,
    /// candle-transformers as published, as the reference.
    Candle,
    /// llama.cpp, as the peer to compare with.
    LlamaCpp,
}

impl EngineKind {
    /// The names that `--engine` takes.
    pub const NAMES: [&str; 3] = ["native", "candle", "llama-cpp"];

    /// The engine of this name.
    ///
    /// # Errors
    /// When there is none, or it is not built in.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "native" => Ok(EngineKind::Native),
            "candle" => Ok(EngineKind::Candle),
            "llama-cpp" if cfg!(feature = "llama-cpp") => Ok(EngineKind::LlamaCpp),
            "llama-cpp" => Err(no_llama_cpp()),
            other => Err(Error::unknown("engine", other, Self::NAMES)),
        }
    }
}

fn no_llama_cpp() -> Error {
    Error::Usage(
        "the engine `llama-cpp` is not in this build; make one that has it with \
         `CC=clang CXX=clang++ cargo build --release --features llama-cpp`"
            .into(),
    )
}

/// Loads a model; `threads` are those of the native engine on the CPU.
///
/// # Errors
/// When a tensor is missing or damaged, the engine cannot run the model ([`Error::Unsupported`]),
/// the device fails, or the system refuses a thread.
pub fn load(
    opened: &Opened,
    engine: EngineKind,
    quant: Option<Quant>,
    device: &Device,
    threads: usize,
) -> Result<Box<dyn Decoder>> {
    match engine {
        EngineKind::Native if device.is_cpu() => {
            let (config, source) = (&opened.config, opened.source.as_ref());
            let pool = pool(threads, std::env::var(PIN).ok().as_deref(), settings::cpus_by_core())?;
            start_rayon(threads)?;
            Ok(Box::new(cpu::Cpu::load(config, source, quant, Isa::from_env()?, pool)?))
        }
        EngineKind::Native => {
            start_rayon(threads)?;
            Ok(Box::new(qwen::Qwen::load(&opened.config, opened.source.as_ref(), quant, device)?))
        }
        EngineKind::Candle => {
            // Beside rayon's threads, candle starts as many of its own, and panics where the system
            // refuses one: here it shows whether there is room for both.
            let as_many = Pool::new(threads)?;
            start_rayon(threads)?;
            drop(as_many);
            Ok(Box::new(reference::Reference::load(opened, quant, device)?))
        }
        #[cfg(feature = "llama-cpp")]
        EngineKind::LlamaCpp => {
            drop(Pool::new(threads)?); // OpenMP ends the process where the system refuses a thread.
            Ok(Box::new(llama_cpp::LlamaCpp::load(opened, quant, device, threads)?))
        }
        #[cfg(not(feature = "llama-cpp"))]
        EngineKind::LlamaCpp => Err(no_llama_cpp()),
    }
}

/// Set to 1 to keep each thread of the native engine on a physical core, all but the calling one.
pub const PIN: &str = "CANDLEMARK_PIN";

/// Checks what variables say of the native engine on the CPU.
///
/// # Errors
/// When the instructions are unknown or not here, or threads cannot be pinned as asked.
pub fn check_variables(threads: usize) -> Result<()> {
    Isa::from_env()?;
    pinned(threads, std::env::var(PIN).ok().as_deref(), settings::cpus_by_core()).map(drop)
}

/// The threads of the native engine on the CPU; `pin` is what [`PIN`] says, `cpus` are those for as
/// many threads as there are, in order.
fn pool(threads: usize, pin: Option<&str>, cpus: Option<Vec<usize>>) -> Result<Pool> {
    let Some(cpus) = pinned(threads, pin, cpus)? else { return Pool::new(threads) };
    Pool::pinned(threads, &cpus).map_err(|error| match error {
        Error::Failed(why) => Error::Failed(format!("{PIN}: {why}")),
        error => error,
    })
}

/// The CPUs to pin threads to; `None` where they are not to be pinned.
fn pinned(
    threads: usize,
    pin: Option<&str>,
    cpus: Option<Vec<usize>>,
) -> Result<Option<Vec<usize>>> {
    match pin {
        None | Some("" | "0") => return Ok(None),
        Some("1") => {}
        Some(other) => {
            return Err(Error::Usage(format!("{PIN} is `{other}`; write 1 to pin threads, or 0")));
        }
    }
    let cpus = cpus.ok_or_else(|| {
        Error::Usage(format!("{PIN}: this system does not say which CPUs share a core; unset it"))
    })?;
    if threads > cpus.len() {
        let there_are = cpus.len();
        return Err(Error::Usage(format!(
            "{PIN}: {threads} threads cannot each have one of {there_are} CPUs; \
             set `--threads {there_are}`, or unset it"
        )));
    }
    Ok(Some(cpus))
}

/// Starts the threads of rayon, which expand weights and run candle's kernels: at its first use,
/// rayon would panic where the system refuses one.
fn start_rayon(threads: usize) -> Result<()> {
    let Err(error) = rayon::ThreadPoolBuilder::new().build_global() else { return Ok(()) };
    // Without a cause they are there already.
    let Some(cause) = std::error::Error::source(&error) else { return Ok(()) };
    let source = io::Error::other(cause.to_string());
    let told = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    Err(Error::Threads { threads: told.unwrap_or(threads), source })
}

/// Refuses a sequence longer than the context: what is too long for a model is unsupported,
/// wherever it shows.
fn check_length(length: usize, config: &Config) -> Result<()> {
    if length > config.context {
        return Err(Error::Unsupported(format!(
            "a sequence of {length} tokens is beyond the model's context of {}",
            config.context
        )));
    }
    Ok(())
}

fn no_sequence(sequence: usize, sequences: usize) -> Error {
    Error::Failed(format!("no sequence {sequence} among {sequences}"))
}

fn no_step(sequence: usize) -> Error {
    Error::Failed(format!("sequence {sequence} has no token, or two parts in one step"))
}

fn no_way_back(sequence: usize, has: usize, length: usize) -> Error {
    Error::Failed(format!("sequence {sequence} has {has} tokens, not {length} to go back to"))
}

#[cfg(test)]
mod tests;
