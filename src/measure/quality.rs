//! Agreement with the f32 reference: every token of a text is scored by the model as it is run and
//! by the same weights in f32, and the two distributions are compared. Reports call top-1 agreement
//! accuracy. Says nothing of how well the model does at any task.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kernel::{GgmlType, KvDtype};
use crate::machine;
use crate::measure::{text_of_length, work};
use crate::model::{Logits, Step};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Setup;
use crate::workload::{PromptFormat, Scenario, metric};

/// Tokens of the default text: enough to resolve half a percent.
const DEFAULT_TOKENS: usize = 256;

/// Context length; a longer text is split into windows.
const WINDOW: usize = 512;

/// Tokens of a user's text that are scored at most.
const MAX_TOKENS: usize = 8192;

/// Memory to leave free when the f32 weights are loaded beside the model.
const RESERVED_BYTES: u64 = 1 << 30;

/// Scores a text by the model, and by the f32 reference where that is another one.
///
/// # Errors
/// When there is no memory for the f32 weights ([`Error::SkippedMemory`]), the text is too short,
/// or a model fails.
pub fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    setup: &Setup,
    session: &str,
    text: Option<&str>,
) -> Result<Case> {
    let ids = match text {
        Some(text) => engine.encode(text, PromptFormat::Raw)?,
        None => text_of_length(engine, DEFAULT_TOKENS)?,
    };
    let ids = &ids[..ids.len().min(MAX_TOKENS)];
    let windows: Vec<Vec<u32>> =
        ids.chunks(WINDOW).filter(|window| window.len() > 1).map(<[u32]>::to_vec).collect();
    if windows.is_empty() {
        let message = format!("a text of {} tokens is too short; give 2 or more", ids.len());
        return Err(Error::Failed(message));
    }
    let mut reference = load_reference(engine, setup)?;
    let mut sums = ScoreSums::default();
    let mut validity = Validity::default();
    for window in &windows {
        let logits = score(engine, window)?;
        let expected = reference.as_mut().map(|other| score(other, window)).transpose()?;
        let finite = expected.iter().chain([&logits]).all(Logits::is_finite);
        if !finite {
            validity.fail("a logit is not finite");
        }
        sums.add(window, &logits, expected.as_ref());
    }
    let mut block = Block { session: session.into(), ..Block::default() };
    let compared = reference.is_some().then_some(&sums);
    for (name, value) in [
        (metric::PERPLEXITY, Some(sums.perplexity())),
        (metric::PERPLEXITY_F32, compared.map(ScoreSums::reference_perplexity)),
        (metric::TOP1_AGREEMENT, compared.map(ScoreSums::top1_agreement)),
        (metric::KL_NATS, compared.map(ScoreSums::kl_divergence)),
    ] {
        let value = value.filter(|value| value.is_finite());
        block.set(name, value, "the model is the f32 reference itself");
    }
    block.set_missing(metric::PEAK_RSS_BYTES, "two models share the process");
    for name in [metric::POWER_W, metric::ENERGY_J_PER_TOKEN, metric::CPU_UTILIZATION] {
        block.set_missing(name, "two models share the time");
    }
    Ok(Case {
        id: scenario.id.clone(),
        work: Work {
            items: windows.len(),
            stop: String::new(), // Nothing is generated.
            ..work(scenario, &windows, 0)
        },
        labels: [
            ("text".to_string(), text_label(text).to_string()),
            ("reference".to_string(), reference_label(engine).to_string()),
        ]
        .into(),
        validity,
        blocks: vec![block],
        ..Case::default()
    })
}

fn reference_label(engine: &Engine) -> &'static str {
    let info = engine.source.weights.info("model.layers.0.mlp.up_proj.weight");
    let unquantized = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
    match info {
        Some(info) if !unquantized.contains(&info.dtype) => {
            "the weights of the file, expanded to f32"
        }
        _ => "the original weights in f32",
    }
}

fn text_label(text: Option<&str>) -> &'static str {
    if text.is_some() { "of the user" } else { "the prompts of all categories" }
}

/// The same weights in f32 on the native engine; `None` if `engine` is that already.
fn load_reference(engine: &Engine, setup: &Setup) -> Result<Option<Engine>> {
    let footprint = engine.decoder.footprint();
    let is_f32 = footprint.kv_dtype == KvDtype::F32
        && footprint.types.iter().all(|(dtype, _)| *dtype == GgmlType::F32);
    if is_f32 && setup.engine == "native" && setup.device == "cpu" {
        return Ok(None);
    }
    let needed = 4 * engine.source.config.parameters() + RESERVED_BYTES;
    let available = machine::conditions().available_bytes;
    if let Some(available) = available.filter(|available| *available < needed) {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        return Err(Error::SkippedMemory(format!(
            "the f32 reference needs {:.1} GiB of memory, {:.1} GiB are available",
            gib(needed),
            gib(available)
        )));
    }
    let setup = Setup {
        quant: Some("f32".into()),
        kv_dtype: None,
        engine: "native".into(),
        device: "cpu".into(),
        ..setup.clone()
    };
    Ok(Some(Engine::load(&setup, &mut ())?))
}

/// The logits after every token of a window.
fn score(engine: &mut Engine, window: &[u32]) -> Result<Logits> {
    engine.decoder.check_length(window.len())?;
    engine.decoder.reset(1)?;
    engine.decoder.forward_all(Step { sequence: 0, tokens: window })
}

/// Sums over tokens, in nats.
#[derive(Default)]
struct ScoreSums {
    /// Tokens with a next token in the window.
    predicted: usize,
    /// Negative log-likelihood of the next token.
    nll: f64,
    reference_nll: f64,
    /// Tokens whose distributions were compared.
    compared: usize,
    same_top1: usize,
    kl: f64,
}

impl ScoreSums {
    fn add(&mut self, window: &[u32], logits: &Logits, reference: Option<&Logits>) {
        for (at, row) in logits.rows().enumerate() {
            let ln = log_softmax(row);
            let next = window.get(at + 1).map(|id| *id as usize);
            if let Some(next) = next {
                self.predicted += 1;
                self.nll -= ln[next];
            }
            let Some(expected) = reference.and_then(|logits| logits.rows().nth(at)) else {
                continue;
            };
            let expected_ln = log_softmax(expected);
            if let Some(next) = next {
                self.reference_nll -= expected_ln[next];
            }
            self.compared += 1;
            self.same_top1 += usize::from(argmax(row) == argmax(expected));
            self.kl += expected_ln.iter().zip(&ln).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        }
    }

    fn perplexity(&self) -> f64 {
        (self.nll / self.predicted as f64).exp()
    }

    fn reference_perplexity(&self) -> f64 {
        (self.reference_nll / self.predicted as f64).exp()
    }

    fn top1_agreement(&self) -> f64 {
        self.same_top1 as f64 / self.compared as f64
    }

    /// Mean Kullback–Leibler divergence of the model q from the reference p: sum of p (ln p - ln
    /// q).
    fn kl_divergence(&self) -> f64 {
        // Rounding may leave it slightly below zero.
        (self.kl / self.compared as f64).max(0.0)
    }
}

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, value)| if *value > row[best] { i } else { best })
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = row.iter().map(|value| (*value as f64 - max).exp()).sum();
    row.iter().map(|value| *value as f64 - max - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_compared_token_by_token() {
        let logits = |values: &[f32]| Logits { vocab: 2, values: values.to_vec() };
        // Even odds, then three to one for token 1; the reference has three to one both times.
        let (even, three) = (0.0, 3f32.ln());
        let mut sums = ScoreSums::default();
        sums.add(
            &[0, 1],
            &logits(&[0.0, even, 0.0, three]),
            Some(&logits(&[0.0, three, 0.0, three])),
        );
        assert!((sums.perplexity() - 2.0).abs() < 1e-6);
        assert!((sums.reference_perplexity() - 4.0 / 3.0).abs() < 1e-6);
        assert_eq!(sums.top1_agreement(), 0.5, "the first of equal logits wins");
        let kl = 0.25 * (0.25f64 / 0.5).ln() + 0.75 * (0.75f64 / 0.5).ln();
        assert!((sums.kl_divergence() - kl / 2.0).abs() < 1e-6, "{}", sums.kl_divergence());
    }
}
