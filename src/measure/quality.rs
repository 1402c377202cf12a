//! Agreement with the f32 definition: every token of a text is scored by the model as it is run and
//! by the same weights in f32, and the two distributions are compared. What reports call accuracy
//! is the share of tokens after which both find the same next one likeliest. Knows nothing of how
//! well a model does at any task.

use candle_core::quantized::GgmlDType;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::machine;
use crate::measure::{hash_ids, of_length};
use crate::model::{Logits, Step};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Setup;
use crate::workload::{PromptFormat, Scenario};

/// Tokens of our own text: enough for shares of half a percent.
const TOKENS: usize = 256;

/// Tokens that are scored in one context; a longer text is cut into such windows.
const WINDOW: usize = 512;

/// Most tokens of a user's text that are scored.
const MOST: usize = 8192;

/// Memory that is left to the rest when f32 weights are loaded beside the model.
const SPARE: u64 = 1 << 30;

/// Scores a text, twice where the model is not the definition itself.
///
/// # Errors
/// When there is no memory for the weights in f32 ([`Error::SkippedMemory`]), the text is too
/// short, or a model fails.
pub fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    setup: &Setup,
    session: &str,
    text: Option<&str>,
) -> Result<Case> {
    let ids = match text {
        Some(text) => engine.encode(text, PromptFormat::Raw)?,
        None => of_length(engine, TOKENS)?,
    };
    let ids = &ids[..ids.len().min(MOST)];
    let windows: Vec<Vec<u32>> =
        ids.chunks(WINDOW).filter(|window| window.len() > 1).map(<[u32]>::to_vec).collect();
    if windows.is_empty() {
        let why = format!("a text of {} tokens has none to be told from the others", ids.len());
        return Err(Error::Failed(why));
    }
    let mut reference = reference(engine, setup)?;
    let mut sums = Sums::default();
    let mut validity = Validity::default();
    for window in &windows {
        let scores = scores(engine, window)?;
        let by_definition =
            reference.as_mut().map(|other| self::scores(other, window)).transpose()?;
        let finite = by_definition.iter().chain([&scores]).all(Logits::is_finite);
        if !finite && validity.ok() {
            validity.failed.push("a score is not a finite number".into());
        }
        sums.add(window, &scores, by_definition.as_ref());
    }
    let mut block = Block { session: session.into(), ..Block::default() };
    let mut set = |name: &str, value: Option<f64>| {
        let value = value.filter(|value| value.is_finite());
        block.values.insert(name.into(), value);
        if value.is_none() {
            let why = "the weights are held as f32: this is the definition";
            block.notes.insert(name.into(), why.into());
        }
    };
    set("perplexity", Some(sums.perplexity()));
    let compared = reference.is_some().then_some(&sums);
    set("perplexity_f32", compared.map(Sums::perplexity_by_definition));
    set("top1_agreement", compared.map(Sums::agreement));
    set("kl_nats", compared.map(Sums::divergence));
    block.values.insert("peak_rss_bytes".into(), None);
    block.notes.insert("peak_rss_bytes".into(), "two models share the process".into());
    for name in ["power_w", "energy_j_per_token", "cpu_utilisation"] {
        block.values.insert(name.into(), None);
        block.notes.insert(name.into(), "two models share the time".into());
    }
    Ok(Case {
        id: scenario.id.clone(),
        work: Work {
            task: scenario.task(),
            batch: 1,
            prompt_tokens: windows.iter().map(Vec::len).collect(),
            items: windows.len(),
            prompts_sha256: hash_ids(&windows),
            ..Work::default()
        },
        labels: [
            ("text".to_string(), source(text).to_string()),
            ("reference".to_string(), reference_is(engine).to_string()),
        ]
        .into(),
        validity,
        blocks: vec![block],
        ..Case::default()
    })
}

/// What the weights of the definition are.
fn reference_is(engine: &Engine) -> &'static str {
    let info = engine.source.weights.info("model.layers.0.mlp.up_proj.weight");
    let plain = [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16];
    match info {
        Some(info) if !plain.contains(&info.dtype) => "the weights of the file, expanded to f32",
        _ => "the original weights in f32",
    }
}

fn source(text: Option<&str>) -> &'static str {
    if text.is_some() { "of the user" } else { "the prompts of all categories" }
}

/// The same weights in f32 by the native engine, unless that is what the engine is.
fn reference(engine: &Engine, setup: &Setup) -> Result<Option<Engine>> {
    let plain = engine.decoder.footprint().types.iter().all(|(held, _)| *held == GgmlDType::F32);
    if plain && setup.engine == "native" && setup.device == "cpu" {
        return Ok(None);
    }
    let needed = 4 * engine.source.config.parameters() + SPARE;
    let available = machine::conditions().available_bytes;
    if let Some(available) = available.filter(|available| *available < needed) {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        // Another time there may be.
        return Err(Error::SkippedMemory(format!(
            "the f32 definition needs {:.1} GiB of memory, {:.1} GiB are available",
            gib(needed),
            gib(available)
        )));
    }
    let setup = Setup {
        quant: Some("f32".into()),
        engine: "native".into(),
        device: "cpu".into(),
        ..setup.clone()
    };
    Ok(Some(Engine::load(&setup, &mut ())?))
}

/// The scores after every token of a window.
fn scores(engine: &mut Engine, window: &[u32]) -> Result<Logits> {
    engine.decoder.check_length(window.len())?;
    engine.decoder.reset(1)?;
    engine.decoder.forward_all(Step { sequence: 0, tokens: window })
}

/// Sums over tokens, in natural logarithms.
#[derive(Default)]
struct Sums {
    /// Tokens whose next one is known.
    known: usize,
    surprise: f64,
    surprise_by_definition: f64,
    /// Tokens whose distributions were compared.
    compared: usize,
    same: usize,
    divergence: f64,
}

impl Sums {
    fn add(&mut self, window: &[u32], scores: &Logits, by_definition: Option<&Logits>) {
        for (at, row) in scores.rows().enumerate() {
            let ln = log_softmax(row);
            let next = window.get(at + 1).map(|id| *id as usize);
            if let Some(next) = next {
                self.known += 1;
                self.surprise -= ln[next];
            }
            let Some(reference) = by_definition.and_then(|logits| logits.rows().nth(at)) else {
                continue;
            };
            let reference_ln = log_softmax(reference);
            if let Some(next) = next {
                self.surprise_by_definition -= reference_ln[next];
            }
            self.compared += 1;
            self.same += usize::from(likeliest(row) == likeliest(reference));
            self.divergence +=
                reference_ln.iter().zip(&ln).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        }
    }

    /// exp of the mean surprise at the next token.
    fn perplexity(&self) -> f64 {
        (self.surprise / self.known as f64).exp()
    }

    fn perplexity_by_definition(&self) -> f64 {
        (self.surprise_by_definition / self.known as f64).exp()
    }

    fn agreement(&self) -> f64 {
        self.same as f64 / self.compared as f64
    }

    /// Mean Kullback-Leibler divergence of the model from the definition: sum of p (ln p - ln q), p
    /// by definition.
    fn divergence(&self) -> f64 {
        // Rounding may leave a hair below zero, which no divergence is.
        (self.divergence / self.compared as f64).max(0.0)
    }
}

fn likeliest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, value)| if *value > row[best] { i } else { best })
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = row.iter().map(|value| (*value as f64 - most).exp()).sum();
    row.iter().map(|value| *value as f64 - most - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_compared_token_by_token() {
        let logits = |values: &[f32]| Logits { vocab: 2, values: values.to_vec() };
        // Even odds, then three to one for token 1; by definition three to one both times.
        let (even, three) = (0.0, 3f32.ln());
        let mut sums = Sums::default();
        sums.add(
            &[0, 1],
            &logits(&[0.0, even, 0.0, three]),
            Some(&logits(&[0.0, three, 0.0, three])),
        );
        assert!((sums.perplexity() - 2.0).abs() < 1e-6);
        assert!((sums.perplexity_by_definition() - 4.0 / 3.0).abs() < 1e-6);
        assert_eq!(sums.agreement(), 0.5, "the first of equals is likeliest");
        let kl = 0.25 * (0.25f64 / 0.5).ln() + 0.75 * (0.75f64 / 0.5).ln();
        assert!((sums.divergence() - kl / 2.0).abs() < 1e-6, "{}", sums.divergence());
    }
}
