//! What the KV cache holds before the prompt: nothing, a prefix, or the conversation so far. It is
//! filled untimed, once; every repetition truncates it to that length.

use crate::engine::{Engine, GenerationRequest};
use crate::error::{Error, Result};
use crate::measure::{check_cache_memory, text_of_length};
use crate::model::Step;
use crate::settings::Generation;
use crate::workload::{Input, Scenario};
use crate::{engine, workload};

/// Tokens before the prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// None: every repetition begins with an empty cache.
    Nothing,
    /// A prefix.
    Prefix(Vec<u32>),
    /// The messages of a conversation, each answered by the model.
    Conversation(Vec<Vec<u32>>),
}

impl Cached {
    /// What comes before the prompt of a scenario, and the token ids of its prompts.
    ///
    /// # Errors
    /// When text cannot be tokenized, the settings turn the KV cache off, or the scenario has no
    /// single generations ([`Error::Unsupported`]).
    pub(super) fn before(
        engine: &Engine,
        scenario: &Scenario,
        generation: &Generation,
    ) -> Result<(Self, Vec<Vec<u32>>)> {
        let prompts = scenario.prompts();
        let encode = |prompt: &String| engine.encode(prompt, generation.prompt_format);
        match scenario.input {
            Input::Category { .. } | Input::Turn { number: 1 } => {
                Ok((Self::Nothing, prompts.iter().map(encode).collect::<Result<_>>()?))
            }
            Input::Length { prompt_tokens } => {
                Ok((Self::Nothing, vec![text_of_length(engine, prompt_tokens)?]))
            }
            Input::Depth { .. } | Input::SharedPrefix { .. } | Input::Turn { .. }
                if !generation.use_kv_cache =>
            {
                let why = "tokens before the prompt need a KV cache, and it is off";
                Err(Error::Unsupported(why.into()))
            }
            Input::Depth { depth: prefix, read } | Input::SharedPrefix { prefix, read } => {
                let longest = prefix + read + scenario.length(generation.gen_tokens);
                engine.decoder.check_length(longest)?;
                check_cache_memory(engine, longest)?;
                let mut text = text_of_length(engine, prefix + read)?;
                let prompt = text.split_off(prefix);
                Ok((Self::Prefix(text), vec![prompt]))
            }
            Input::Turn { number } => {
                let mut messages = Vec::with_capacity(number - 1);
                for (turn, text) in workload::messages_before(number).iter().enumerate() {
                    // A begin-of-text token begins the conversation alone.
                    messages.push(match turn {
                        0 => engine.tokenizer.encode_prompt(text)?,
                        _ => engine.tokenizer.encode(text)?,
                    });
                }
                let prompts = prompts.iter().map(|text| engine.tokenizer.encode(text));
                Ok((Self::Conversation(messages), prompts.collect::<Result<_>>()?))
            }
            Input::Documents(_) | Input::Requests(_) | Input::Texts | Input::Traced => {
                Err(Error::Unsupported(format!(
                    "`{}` has no single generations; measure it with `candlemark run`",
                    scenario.id
                )))
            }
        }
    }

    /// The most tokens that it can have, if each answer has `new_tokens`.
    pub(super) fn longest(&self, new_tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Prefix(tokens) => tokens.len(),
            Self::Conversation(messages) => {
                messages.iter().map(|message| message.len() + new_tokens).sum()
            }
        }
    }

    /// Fills the KV cache; the tokens that it holds then. An answer's last token, which has only
    /// been generated, is read too.
    ///
    /// # Errors
    /// When the engine cannot continue a sequence ([`Error::Unsupported`]), or fails.
    pub(super) fn fill(
        &self,
        engine: &mut Engine,
        new_tokens: usize,
        generation: &Generation,
    ) -> Result<Option<usize>> {
        let messages = match self {
            Self::Nothing => return Ok(None),
            Self::Prefix(tokens) => {
                engine::prefill(engine.decoder.as_mut(), tokens)?;
                return Ok(Some(tokens.len()));
            }
            Self::Conversation(messages) => messages,
        };
        let stop_tokens: &[u32] =
            if generation.natural_stop { engine.tokenizer.end_tokens() } else { &[] };
        let mut length = 0;
        for message in messages {
            let request = GenerationRequest {
                stop_tokens,
                cached_tokens: (length > 0).then_some(length),
                ..GenerationRequest::new(std::slice::from_ref(message), new_tokens, generation)
            };
            let answers = engine::generate(engine.decoder.as_mut(), &request)?.ids;
            for answer in &answers {
                let tokens = &answer[answer.len() - 1..];
                engine.decoder.forward(&[Step { sequence: 0, tokens }])?;
                length += message.len() + answer.len();
            }
        }
        Ok(Some(length))
    }
}
