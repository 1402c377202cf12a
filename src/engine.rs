//! From prompts to tokens, with the instant of each: batches, sampling, stopping. One generation
//! gives every metric of time. Knows nothing of scenarios or records.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::files::hex;
use crate::model;
use crate::model::gguf::Gguf;
use crate::model::weights::Quant;
use crate::model::{Decoder, EngineKind, Logits, Opened, Progress, Step, Vocabulary};
use crate::settings::{Generation, Setup};
use crate::tokenizer::{Message, Role, Thinking, Tokenizer};
use crate::workload::PromptFormat;

/// A loaded model with its tokenizer.
pub struct Engine {
    /// The model.
    pub decoder: Box<dyn Decoder>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The model before it was loaded: its shape and where it came from.
    pub opened: Opened,
    /// Reading, expanding and quantising the weights.
    pub load: Duration,
}

impl Engine {
    /// Finds and loads a model as a setup says.
    ///
    /// # Errors
    /// When a name in the setup is unknown, the model is missing or damaged, its tokenizer has more
    /// tokens than it has rows, or the device is not there.
    pub fn load(setup: &Setup, progress: &mut dyn Progress) -> Result<Self> {
        let quant = setup.quant.as_deref().map(Quant::parse).transpose()?;
        let kind = EngineKind::parse(&setup.engine)?;
        let device = model::device(&setup.device)?;
        let (opened, tokenizer) = open(setup, progress)?;
        let start = Instant::now();
        let decoder = model::load(&opened, kind, quant, &device, setup.threads)?;
        Ok(Self { decoder, tokenizer, opened, load: start.elapsed() })
    }

    /// The token ids of a prompt.
    ///
    /// # Errors
    /// When the chat template fails.
    pub fn encode(&self, prompt: &str, format: PromptFormat) -> Result<Vec<u32>> {
        let chat = |thinking| self.tokenizer.chat(&[Message::new(Role::User, prompt)], thinking);
        match format {
            PromptFormat::Raw => self.tokenizer.encode_prompt(prompt),
            PromptFormat::Chat => self.tokenizer.encode(&chat(Thinking::Off)?),
            PromptFormat::ChatThinking => self.tokenizer.encode(&chat(Thinking::On)?),
        }
    }
}

/// Finds a model and its tokenizer, and checks that they belong together.
fn open(setup: &Setup, progress: &mut dyn Progress) -> Result<(Opened, Tokenizer)> {
    let opened =
        model::open(&setup.model, setup.generation.seed, setup.rope_scaling.clone(), progress)?;
    let tokenizer = match &opened.vocabulary {
        Vocabulary::Tiny => Tokenizer::tiny()?,
        Vocabulary::Folder(folder) => Tokenizer::from_folder(folder)?,
        Vocabulary::Gguf(path) => Tokenizer::from_gguf(Gguf::open(path)?.vocabulary()?)?,
    };
    tokenizer.check_rows(opened.config.vocab)?;
    Ok((opened, tokenizer))
}

/// Checks what a setup names, for commands, before they begin: no weight is read, nothing is
/// downloaded.
///
/// # Errors
/// When a name is unknown or not built in, there is no such model here, its files are damaged, or a
/// variable of the native engine is set to nonsense.
pub fn check(setup: &Setup) -> Result<()> {
    setup.quant.as_deref().map(Quant::parse).transpose()?;
    let kind = EngineKind::parse(&setup.engine)?;
    model::check_device(&setup.device)?;
    if kind == EngineKind::Native && setup.device == "cpu" {
        model::check_variables(setup.threads)?;
    }
    model::check(&setup.model, setup.generation.seed, setup.rope_scaling.clone())
}

/// What a model is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 over the weights' own, the shape and the tokenizer.
    pub sha256: String,
    /// The hub's commit.
    pub commit: Option<String>,
}

/// Reads a model from end to end, without loading it, to tell what it is.
///
/// # Errors
/// As [`Engine::load`], but for the device.
pub fn identify(setup: &Setup, progress: &mut dyn Progress) -> Result<Identity> {
    setup.quant.as_deref().map(Quant::parse).transpose()?;
    EngineKind::parse(&setup.engine)?;
    let (opened, tokenizer) = open(setup, progress)?;
    let text = format!(
        "{}\n{}\n{}",
        opened.source.sha256()?,
        opened.config.to_json(),
        tokenizer.sha256()?
    );
    Ok(Identity { sha256: hex(&sha2::Sha256::digest(text)), commit: opened.commit })
}

/// Rows of a prefill pass: enough to fill the matrix products, few enough to bound the memory of
/// activations.
const PASS_ROWS: usize = 512;

/// What is to be generated.
pub struct Request<'a> {
    /// Token ids of each sequence.
    pub prompts: &'a [Vec<u32>],
    /// Tokens per sequence.
    pub new_tokens: usize,
    /// Tokens that end a sequence early; none for an exact length.
    pub stops: &'a [u32],
    /// Sampler, cache and seed.
    pub sampling: &'a Generation,
    /// So many tokens of each sequence are in the cache and stay there; `None` begins from
    /// nothing.
    pub kept: Option<usize>,
    /// A deliberate slowdown, for tests of the gate.
    pub injection: Option<Injection>,
}

/// What was generated and when. Every duration is on the monotonic clock; tokenising is outside.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Token ids per sequence.
    pub ids: Vec<Vec<u32>>,
    /// From the start until each sequence's first token is on the host.
    pub first: Vec<Duration>,
    /// Forward passes over prompts, without sampling.
    pub prefill: Duration,
    /// Each decode step of the whole batch, forward pass and sampling: from one token being there
    /// to the next.
    pub steps: Vec<Duration>,
    /// From the start until the last token is there.
    pub total: Duration,
    /// Whether every score of the first tokens was a finite number.
    pub finite: bool,
}

impl Generated {
    /// From the start until every sequence has its first token.
    pub fn all_first(&self) -> Duration {
        self.first.iter().max().copied().unwrap_or_default()
    }
}

/// A change for the worse that is made on purpose, so that the gate can be seen to fail. Time is
/// added in proportion to what the work itself took, so that the size of the change does not depend
/// on the machine. It is stamped into the record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Injection {
    stage: Stage,
    /// The share by which a rate drops, or a time or the memory rises.
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Decode,
    Prefill,
    Ttft,
    Memory,
}

impl Injection {
    /// Reads `decode:25%` or `prefill:10%`, by which the rate drops, `ttft:20%` or `memory:20%`,
    /// which rise by it.
    ///
    /// # Errors
    /// When it is of another form or size.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Usage(format!(
                "injection `{text}` is not of the form `decode:25%`, `prefill:10%`, `ttft:20%` or `memory:20%`, above 0 \
                 and below 100 %"
            ))
        };
        let (stage, share) = text.split_once(':').ok_or_else(wrong)?;
        let stage = match stage {
            "decode" => Stage::Decode,
            "prefill" => Stage::Prefill,
            "ttft" => Stage::Ttft,
            "memory" => Stage::Memory,
            _ => return Err(wrong()),
        };
        let share: f64 =
            share.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        if !(share > 0.0 && share < 100.0) {
            return Err(wrong());
        }
        Ok(Self { stage, share: share / 100.0 })
    }

    /// Spins after a decode step: x / (1 - x) of the time that it took, which makes the rate drop
    /// by exactly the share x.
    fn after_step(injection: Option<Self>, decoder: &dyn Decoder, work: Duration) {
        if let Some(Self { stage: Stage::Decode, share }) = injection {
            spin(decoder, work.mul_f64(share / (1.0 - share)));
        }
    }

    /// Spins after a pass over prompts, until the rate has dropped by the share, or the time has
    /// risen by it.
    pub(crate) fn after_pass(injection: Option<Self>, decoder: &dyn Decoder, work: Duration) {
        match injection {
            Some(Self { stage: Stage::Prefill, share }) => {
                spin(decoder, work.mul_f64(share / (1.0 - share)))
            }
            Some(Self { stage: Stage::Ttft, share }) => spin(decoder, work.mul_f64(share)),
            _ => {}
        }
    }

    /// Memory that is written to, so that it counts: as much as lifts what is held `now` to the
    /// share above the `peak`, both in bytes. Empty for injections of another kind.
    pub fn ballast(self, peak: u64, now: u64) -> Vec<u8> {
        let wanted = (peak as f64 * (1.0 + self.share)) as u64;
        match self.stage {
            Stage::Memory => vec![1; wanted.saturating_sub(now) as usize],
            _ => Vec::new(),
        }
    }
}

/// Keeps all threads busy, as work would: threads that were left to fall asleep would make the next
/// step slower still.
fn spin(decoder: &dyn Decoder, wait: Duration) {
    let start = Instant::now();
    decoder.on_all_threads(&|| {
        while start.elapsed() < wait {
            std::hint::spin_loop();
        }
    });
}

/// Generates with a decoder that is reset first.
///
/// Prompts are read in passes of at most 512 tokens, sequence by sequence, so that first tokens
/// come one after the other; then all sequences step together until each has its tokens or has
/// stopped.
///
/// # Errors
/// When there is nothing to read, a sequence would outgrow the context, the sampler is set to
/// nonsense, or the decoder fails.
pub fn generate(decoder: &mut dyn Decoder, request: &Request<'_>) -> Result<Generated> {
    if request.prompts.is_empty() || request.prompts.iter().any(Vec::is_empty) {
        return Err(Error::Failed("the prompt is empty: there is no token to continue".into()));
    }
    if request.new_tokens == 0 {
        return Err(Error::Failed("no token to generate: ask for at least 1".into()));
    }
    for prompt in request.prompts {
        let kept = request.kept.unwrap_or(0);
        decoder.check_length(kept + prompt.len() + request.new_tokens).map_err(|error| {
            let (prompt, new) = (prompt.len(), request.new_tokens);
            match error {
                Error::Unsupported(why) => Error::Unsupported(format!(
                    "a prompt of {prompt} tokens and {new} new ones: {why}"
                )),
                error => error,
            }
        })?;
    }
    let mut run = Run {
        choosers: Chooser::for_batch(request)?,
        request,
        ids: vec![Vec::new(); request.prompts.len()],
    };
    match request.kept {
        Some(kept) => {
            (0..request.prompts.len()).try_for_each(|sequence| decoder.truncate(sequence, kept))?
        }
        None => decoder.reset(request.prompts.len())?,
    }
    let start = Instant::now();
    let (first, prefill, logits) = run.prefill(decoder, start)?;
    let mut steps = Vec::with_capacity(request.new_tokens - 1);
    let mut before = first.iter().max().copied().unwrap_or_default();
    loop {
        let active: Vec<usize> =
            (0..run.ids.len()).filter(|&sequence| !run.finished(sequence)).collect();
        if active.is_empty() {
            break;
        }
        run.step(decoder, &active)?;
        Injection::after_step(request.injection, decoder, start.elapsed() - before);
        let now = start.elapsed();
        steps.push(now - before);
        before = now;
    }
    let finite = logits.iter().all(Logits::finite);
    Ok(Generated { ids: run.ids, first, prefill, steps, total: before, finite })
}

/// Reads tokens into the cache of a decoder that is reset first and has one sequence.
///
/// # Errors
/// When there are more tokens than the context has, or the decoder fails.
pub fn fill(decoder: &mut dyn Decoder, tokens: &[u32]) -> Result<()> {
    decoder.check_length(tokens.len())?;
    decoder.reset(1)?;
    for tokens in tokens.chunks(decoder.pass_rows().unwrap_or(PASS_ROWS)) {
        decoder.forward(&[Step { sequence: 0, tokens }])?;
    }
    Ok(())
}

struct Run<'a> {
    request: &'a Request<'a>,
    choosers: Option<Vec<Chooser>>,
    ids: Vec<Vec<u32>>,
}

type Prefilled = (Vec<Duration>, Duration, Vec<Logits>);

impl Run<'_> {
    fn finished(&self, sequence: usize) -> bool {
        let ids = &self.ids[sequence];
        ids.len() >= self.request.new_tokens
            || ids.last().is_some_and(|id| self.request.stops.contains(id))
    }

    fn prefill(&mut self, decoder: &mut dyn Decoder, start: Instant) -> Result<Prefilled> {
        let prompts = self.request.prompts;
        let (mut first, mut forward, mut logits) =
            (vec![Duration::ZERO; prompts.len()], Duration::ZERO, Vec::new());
        for pass in passes(prompts, decoder.pass_rows().unwrap_or(PASS_ROWS)) {
            let begin = Instant::now();
            let steps: Vec<Step<'_>> = pass
                .iter()
                .map(|(sequence, range)| Step {
                    sequence: *sequence,
                    tokens: &prompts[*sequence][range.clone()],
                })
                .collect();
            let scores = decoder.forward(&steps)?;
            Injection::after_pass(self.request.injection, decoder, begin.elapsed());
            forward += begin.elapsed();
            let greedy = scores.argmax();
            for (row, (sequence, range)) in pass.iter().enumerate() {
                if range.end == prompts[*sequence].len() {
                    let id = self.choose(*sequence, &scores, row, &greedy)?;
                    self.ids[*sequence].push(id);
                    first[*sequence] = start.elapsed();
                }
            }
            logits.push(scores);
        }
        Ok((first, forward, logits))
    }

    /// One token for each of the active sequences.
    fn step(&mut self, decoder: &mut dyn Decoder, active: &[usize]) -> Result<()> {
        let whole: Vec<Vec<u32>>;
        let tokens: Vec<&[u32]> = if self.request.sampling.use_kv_cache {
            active.iter().map(|&sequence| last(&self.ids[sequence])).collect()
        } else {
            // Without a cache every step reads the sequences from their start.
            decoder.reset(self.ids.len())?;
            whole = active
                .iter()
                .map(|&s| [self.request.prompts[s].as_slice(), &self.ids[s]].concat())
                .collect();
            whole.iter().map(Vec::as_slice).collect()
        };
        let steps: Vec<Step<'_>> = active
            .iter()
            .zip(&tokens)
            .map(|(&sequence, tokens)| Step { sequence, tokens })
            .collect();
        let chosen = if self.choosers.is_none() {
            decoder.greedy(&steps)?
        } else {
            let scores = decoder.forward(&steps)?;
            let rows = active.iter().enumerate();
            rows.map(|(row, &sequence)| self.choose(sequence, &scores, row, &[]))
                .collect::<Result<_>>()?
        };
        for (&sequence, id) in active.iter().zip(chosen) {
            self.ids[sequence].push(id);
        }
        Ok(())
    }

    fn choose(
        &mut self,
        sequence: usize,
        scores: &Logits,
        row: usize,
        greedy: &[u32],
    ) -> Result<u32> {
        let Some(choosers) = &mut self.choosers else { return Ok(greedy[row]) };
        let seen = self.request.prompts[sequence]
            .iter()
            .chain(&self.ids[sequence])
            .copied()
            .collect::<Vec<u32>>();
        let scores = &scores.values[row * scores.vocab..(row + 1) * scores.vocab];
        choosers[sequence].choose(scores, &seen)
    }
}

fn last(ids: &[u32]) -> &[u32] {
    &ids[ids.len() - 1..]
}

/// Cuts prompts into passes of at most `rows` tokens; a part is a sequence and a range of its
/// tokens.
fn passes(prompts: &[Vec<u32>], rows: usize) -> Vec<Vec<(usize, std::ops::Range<usize>)>> {
    let mut all = vec![Vec::new()];
    let mut room = rows;
    for (sequence, prompt) in prompts.iter().enumerate() {
        let mut start = 0;
        while start < prompt.len() {
            if room == 0 {
                all.push(Vec::new());
                room = rows;
            }
            let end = prompt.len().min(start + room);
            all.last_mut().expect("there is one from the start").push((sequence, start..end));
            room -= end - start;
            start = end;
        }
    }
    all
}

/// The sampler of one sequence: candle's, with the repetition penalty of Keskar et al. 2019 in
/// front.
struct Chooser {
    processor: LogitsProcessor,
    penalty: f32,
}

impl Chooser {
    /// One a sequence, or none if plain greedy is asked for.
    fn for_batch(request: &Request<'_>) -> Result<Option<Vec<Self>>> {
        let s = request.sampling;
        let penalty = s.repetition_penalty;
        let sensible = s.temperature >= 0.0
            && s.temperature.is_finite()
            && penalty.is_finite()
            && penalty > 0.0
            && s.top_p.is_none_or(|p| p > 0.0 && p <= 1.0)
            && s.top_k != Some(0);
        if !sensible {
            return Err(Error::Failed(
                "the sampler needs temperature >= 0, top_k >= 1, 0 < top_p <= 1 and repetition_penalty > 0".into(),
            ));
        }
        let greedy = s.deterministic || s.temperature == 0.0;
        if greedy && penalty == 1.0 {
            return Ok(None);
        }
        let temperature = s.temperature;
        let sampling = match (s.top_k, s.top_p) {
            _ if greedy => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        let seeds = (0..request.prompts.len() as u64).map(|i| s.seed.wrapping_add(i));
        let chooser = |seed| Self {
            processor: LogitsProcessor::from_sampling(seed, sampling.clone()),
            penalty: penalty as f32,
        };
        Ok(Some(seeds.map(chooser).collect()))
    }

    fn choose(&mut self, scores: &[f32], seen: &[u32]) -> Result<u32> {
        let mut scores = Tensor::new(scores, &Device::Cpu)?;
        if self.penalty != 1.0 {
            scores = candle_transformers::utils::apply_repeat_penalty(&scores, self.penalty, seen)?;
        }
        Ok(self.processor.sample(&scores)?)
    }
}

#[cfg(test)]
mod tests;
