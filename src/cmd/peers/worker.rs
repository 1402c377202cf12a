//! The process of one engine: loads the model once, then measures what it is asked until nobody
//! asks any more.

use std::io;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use anyhow::Context as _;
use candlemark::Error;
use candlemark::engine::Engine;
use candlemark::model::{Decoder, Logits, Step};
use candlemark::settings::Setup;
use serde::Serialize;

use super::item::{ITEMS, Item};
use super::seat::{Ask, Kind, Ready, Told};

/// Tokens of a pass over prompts, where the engine has no wish.
const PASS_ROWS: usize = 512;

pub(super) fn work(setup: &Setup) -> anyhow::Result<()> {
    let mut engine = match Engine::load(setup, &mut ()) {
        Ok(engine) => engine,
        Err(error @ Error::Unsupported(_)) => return say(&Ready::Unsupported(error.chain())),
        Err(error) => return Err(error.into()),
    };
    say(&Ready::Loaded(engine.decoder.describe().unwrap_or_default()))?;
    let vocab = engine.source.config.vocab;
    let mut kept = None;
    for line in io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?).context("not understood on standard input")?;
        let item = ITEMS.iter().find(|item| item.name == ask.item).context("no such item")?;
        let begun = Instant::now();
        let turn = Turn { item, kind: ask.kind };
        let told = match turn.take(engine.decoder.as_mut(), vocab, &mut kept) {
            Ok((rate, ids, gaps)) => {
                Told::Measured { rate, seconds: begun.elapsed().as_secs_f64(), ids, gaps }
            }
            Err(error) => {
                kept = None;
                Told::Cannot { absent: (&error).into() }
            }
        };
        say(&told)?;
    }
    Ok(())
}

fn say<T: Serialize>(told: &T) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(told)?)?;
    Ok(out.flush()?)
}

/// What the caches hold: prompts of this item, and the first token after each.
type Kept = Option<(&'static str, Chosen)>;

/// The next token of each sequence, and how far apart its best two scores are, if that is asked
/// for.
#[derive(Clone)]
struct Chosen {
    ids: Vec<u32>,
    gaps: Vec<f64>,
}

type Measured = (f64, Vec<Vec<u32>>, Vec<Vec<f64>>);

struct Turn {
    item: &'static Item,
    kind: Kind,
}

impl Turn {
    fn take(
        &self,
        decoder: &mut dyn Decoder,
        vocab: usize,
        kept: &mut Kept,
    ) -> candlemark::Result<Measured> {
        let prompts = self.item.prompts(vocab);
        for prompt in &prompts {
            decoder.check_length(prompt.len() + self.item.steps)?;
        }
        if self.item.steps == 0 {
            *kept = None;
            decoder.reset(prompts.len())?;
            let start = Instant::now();
            let chosen = self.read(decoder, &prompts)?;
            let tokens: usize = prompts.iter().map(Vec::len).sum();
            let rate = tokens as f64 / start.elapsed().as_secs_f64();
            return Ok((rate, columns(&[chosen.ids]), columns(&[chosen.gaps])));
        }
        let first = match kept.take().filter(|(name, _)| *name == self.item.name) {
            Some((_, first)) if go_back(decoder, &prompts) => first,
            _ => {
                decoder.reset(prompts.len())?;
                self.read(decoder, &prompts)?
            }
        };
        let mut all = vec![first.clone()];
        let start = Instant::now();
        for _ in 0..self.item.steps {
            let last = &all.last().expect("there is the first").ids;
            let steps: Vec<Step<'_>> = last
                .chunks(1)
                .enumerate()
                .map(|(sequence, tokens)| Step { sequence, tokens })
                .collect();
            let next = self.choose(decoder, &steps)?;
            all.push(next);
        }
        let rate = (self.item.steps * prompts.len()) as f64 / start.elapsed().as_secs_f64();
        *kept = Some((self.item.name, first));
        let (ids, gaps): (Vec<_>, Vec<_>) =
            all.into_iter().map(|chosen| (chosen.ids, chosen.gaps)).unzip();
        Ok((rate, columns(&ids), columns(&gaps)))
    }

    /// Reads the prompts, sequence by sequence, in passes of the length that the engine likes.
    fn read(&self, decoder: &mut dyn Decoder, prompts: &[Vec<u32>]) -> candlemark::Result<Chosen> {
        let rows = decoder.prefill_chunk().unwrap_or(PASS_ROWS);
        let mut all = Chosen { ids: Vec::new(), gaps: Vec::new() };
        for (sequence, prompt) in prompts.iter().enumerate() {
            let mut last = None;
            for tokens in prompt.chunks(rows) {
                last = Some(self.choose(decoder, &[Step { sequence, tokens }])?);
            }
            let last = last.expect("prompts have tokens");
            all.ids.extend(last.ids);
            all.gaps.extend(last.gaps);
        }
        Ok(all)
    }

    fn choose(&self, decoder: &mut dyn Decoder, steps: &[Step<'_>]) -> candlemark::Result<Chosen> {
        if self.kind == Kind::Timed {
            return Ok(Chosen { ids: decoder.greedy(steps)?, gaps: Vec::new() });
        }
        let logits = decoder.forward(steps)?;
        Ok(Chosen { ids: logits.argmax(), gaps: gaps(&logits) })
    }
}

/// Goes back to the end of the prompts, if the engine can.
fn go_back(decoder: &mut dyn Decoder, prompts: &[Vec<u32>]) -> bool {
    prompts
        .iter()
        .enumerate()
        .all(|(sequence, prompt)| decoder.truncate(sequence, prompt.len()).is_ok())
}

/// How far apart the best two scores of each row are, in standard deviations of the row.
fn gaps(logits: &Logits) -> Vec<f64> {
    let gap = |row: &[f32]| {
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        let (mut sum, mut squares) = (0.0, 0.0);
        for &score in row {
            (best, second) = (best.max(score), second.max(score.min(best)));
            sum += f64::from(score);
            squares += f64::from(score) * f64::from(score);
        }
        let mean = sum / row.len() as f64;
        f64::from(best - second) / (squares / row.len() as f64 - mean * mean).sqrt()
    };
    logits.rows().map(gap).collect()
}

/// One list a sequence, out of one list a step.
fn columns<T: Copy>(steps: &[Vec<T>]) -> Vec<Vec<T>> {
    let sequences = steps.first().map_or(0, Vec::len);
    (0..sequences)
        .map(|sequence| steps.iter().filter_map(|step| step.get(sequence).copied()).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_in_standard_deviations() {
        let logits = Logits { vocab: 4, values: vec![1.0, -1.0, 1.0, -1.0, 3.0, 0.0, 0.0, -3.0] };
        let gaps = gaps(&logits);
        assert_eq!(gaps[0], 0.0, "the best two are equal");
        assert!((gaps[1] - 3.0 / 4.5f64.sqrt()).abs() < 1e-12, "{}", gaps[1]);
    }

    #[test]
    fn steps_become_sequences() {
        assert_eq!(columns(&[vec![1, 2], vec![3, 4], vec![5, 6]]), [vec![1, 3, 5], vec![2, 4, 6]]);
        assert_eq!(columns::<u32>(&[vec![], vec![]]), Vec::<Vec<u32>>::new());
    }
}
