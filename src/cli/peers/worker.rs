//! The process of one engine: loads the model once, then answers requests until stdin closes.

use std::time::Instant;

use crate::engine::Engine;
use crate::model::{Decoder, Logits, Step};
use crate::settings::Setup;
use crate::suite::worker::{first_request, next_request, respond};
use crate::{Error, Result, suite};

use super::PEERS;
use super::cases::{CASES, PeerCase};
use super::process::{Loaded, Request, Response, Turn, TurnKind};

/// Tokens per prefill pass, where the engine has no preference.
const PASS_ROWS: usize = 512;

/// Runs as the worker process of an engine if the environment says so ([`suite::WORKER`]).
pub(crate) fn work() -> Option<Result<()>> {
    (std::env::var_os(suite::WORKER)? == PEERS).then(serve)
}

fn serve() -> Result<()> {
    let setup: Setup = first_request()?;
    let mut engine = match Engine::load(&setup, &mut ()) {
        Ok(engine) => engine,
        Err(error @ Error::Unsupported(_)) => return respond(&Loaded::Err(error.chain())),
        Err(error) => return Err(error),
    };
    respond(&Loaded::Ok(()))?;
    let vocab = engine.source.config.vocab;
    let mut cache = None;
    while let Some(Request { case, kind }) = next_request()? {
        let case = CASES.iter().find(|known| known.name == case);
        let case = case.ok_or_else(|| Error::Failed("no such case".into()))?;
        let turn = TurnWorker { case, kind }.run(engine.decoder.as_mut(), vocab, &mut cache);
        respond(&Response::from(turn.map_err(|error| (&error).into())))?;
    }
    Ok(())
}

/// The case whose prompts are in the KV cache, and the first token after each prompt.
type PromptCache = Option<(&'static str, GreedyTokens)>;

/// The next token of each sequence, with its top-2 margin in a pilot.
#[derive(Clone)]
struct GreedyTokens {
    ids: Vec<u32>,
    margins: Vec<f64>,
}

struct TurnWorker {
    case: &'static PeerCase,
    kind: TurnKind,
}

impl TurnWorker {
    /// Prefills the prompts, unless the cache holds them, and decodes. Times the decode steps, or
    /// the prefill of a case without steps, which always starts from an empty cache.
    fn run(
        &self,
        decoder: &mut dyn Decoder,
        vocab: usize,
        cache: &mut PromptCache,
    ) -> Result<Turn> {
        let began = Instant::now();
        let PeerCase { name, steps, .. } = *self.case;
        let prompts = self.case.prompts(vocab);
        for prompt in &prompts {
            decoder.check_length(prompt.len() + steps)?;
        }
        let cached = cache.take().filter(|(cached, _)| {
            steps > 0 && *cached == name && truncate_to_prompts(decoder, &prompts)
        });
        if cached.is_none() {
            decoder.reset(prompts.len())?;
        }
        let mut start = Instant::now();
        let first = match cached {
            Some((_, first)) => first,
            None => self.prefill(decoder, &prompts)?,
        };
        let mut timed_tokens = prompts.iter().map(Vec::len).sum();
        let mut all = vec![first.clone()];
        if steps > 0 {
            (start, timed_tokens) = (Instant::now(), steps * prompts.len());
        }
        for _ in 0..steps {
            let last = &all.last().expect("there is the first").ids;
            let last: Vec<Step<'_>> = last
                .chunks(1)
                .enumerate()
                .map(|(sequence, tokens)| Step { sequence, tokens })
                .collect();
            let next = self.step(decoder, &last)?;
            all.push(next);
        }
        let rate = timed_tokens as f64 / start.elapsed().as_secs_f64();
        *cache = Some((name, first));
        let (ids, margins): (Vec<_>, Vec<_>) =
            all.into_iter().map(|tokens| (tokens.ids, tokens.margins)).unzip();
        let (ids, margins) = (transpose(&ids), transpose(&margins));
        Ok(Turn { rate, seconds: began.elapsed().as_secs_f64(), ids, margins })
    }

    /// Prefills the prompts, sequence by sequence, in passes of the engine's preferred length.
    fn prefill(&self, decoder: &mut dyn Decoder, prompts: &[Vec<u32>]) -> Result<GreedyTokens> {
        let rows = decoder.prefill_chunk().unwrap_or(PASS_ROWS);
        let mut all = GreedyTokens { ids: Vec::new(), margins: Vec::new() };
        for (sequence, prompt) in prompts.iter().enumerate() {
            let mut last = None;
            for tokens in prompt.chunks(rows) {
                last = Some(self.step(decoder, &[Step { sequence, tokens }])?);
            }
            let last = last.expect("prompts have tokens");
            all.ids.extend(last.ids);
            all.margins.extend(last.margins);
        }
        Ok(all)
    }

    fn step(&self, decoder: &mut dyn Decoder, steps: &[Step<'_>]) -> Result<GreedyTokens> {
        if self.kind == TurnKind::Timed {
            return Ok(GreedyTokens { ids: decoder.greedy(steps)?, margins: Vec::new() });
        }
        let logits = decoder.forward(steps)?;
        Ok(GreedyTokens { ids: logits.argmax(), margins: margins(&logits) })
    }
}

/// Truncates the KV cache to the prompts; false if the engine cannot.
fn truncate_to_prompts(decoder: &mut dyn Decoder, prompts: &[Vec<u32>]) -> bool {
    prompts
        .iter()
        .enumerate()
        .all(|(sequence, prompt)| decoder.truncate(sequence, prompt.len()).is_ok())
}

/// Top-2 margin of each row of logits, in standard deviations of the row.
fn margins(logits: &Logits) -> Vec<f64> {
    let margin = |row: &[f32]| {
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        let (mut sum, mut squares) = (0.0, 0.0);
        for &logit in row {
            (best, second) = (best.max(logit), second.max(logit.min(best)));
            sum += f64::from(logit);
            squares += f64::from(logit) * f64::from(logit);
        }
        let mean = sum / row.len() as f64;
        f64::from(best - second) / (squares / row.len() as f64 - mean * mean).sqrt()
    };
    logits.rows().map(margin).collect()
}

/// From one list per step to one list per sequence.
fn transpose<T: Copy>(steps: &[Vec<T>]) -> Vec<Vec<T>> {
    let sequences = steps.first().map_or(0, Vec::len);
    (0..sequences)
        .map(|sequence| steps.iter().filter_map(|step| step.get(sequence).copied()).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_in_standard_deviations() {
        let logits = Logits { vocab: 4, values: vec![1.0, -1.0, 1.0, -1.0, 3.0, 0.0, 0.0, -3.0] };
        let margins = margins(&logits);
        assert_eq!(margins[0], 0.0, "the best two are equal");
        assert!((margins[1] - 3.0 / 4.5f64.sqrt()).abs() < 1e-12, "{}", margins[1]);
    }

    #[test]
    fn steps_become_sequences() {
        assert_eq!(
            transpose(&[vec![1, 2], vec![3, 4], vec![5, 6]]),
            [vec![1, 3, 5], vec![2, 4, 6]]
        );
        assert_eq!(transpose::<u32>(&[vec![], vec![]]), Vec::<Vec<u32>>::new());
    }
}
