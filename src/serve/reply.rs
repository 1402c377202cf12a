//! Answers in the API's words: whole, or as chunks of a stream.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::serve::job::{Delta, End, Timings};
use crate::serve::request::{Endpoint, Options};
use crate::workload::metric;

/// What the answers to one request have in common.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) endpoint: Endpoint,
    /// Unique in this process.
    pub(super) id: String,
    /// Unix time in seconds.
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) options: Options,
    /// Token ids of each prompt.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Tokenization of all prompts; `None` if they came as ids.
    pub(super) tokenize: Option<Duration>,
    /// The answer so far to each prompt.
    pub(super) answers: Vec<Answer>,
}

/// The answer to one prompt, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Empty in a stream.
    text: String,
    /// Empty in a stream.
    ids: Vec<u32>,
    tokens: usize,
    pub(super) end: Option<End>,
    vector: Option<(Vec<f32>, Timings)>,
}

impl Answer {
    pub(super) fn is_complete(&self) -> bool {
        self.end.is_some() || self.vector.is_some()
    }
}

impl Reply {
    pub(super) fn is_complete(&self) -> bool {
        self.answers.iter().all(Answer::is_complete)
    }

    /// Adds to the whole answer.
    pub(super) fn add(&mut self, delta: Delta) {
        let answer = &mut self.answers[delta.index];
        answer.text += &delta.text;
        answer.tokens += delta.ids.len();
        answer.ids.extend(delta.ids);
        answer.end = delta.end;
    }

    pub(super) fn add_vector(&mut self, index: usize, values: Vec<f32>, timings: Timings) {
        self.answers[index].vector = Some((values, timings));
    }

    /// The chunks before any text: the roles of a chat.
    pub(super) fn first_chunks(&self) -> Vec<Value> {
        if self.endpoint != Endpoint::Chat {
            return Vec::new();
        }
        let mut choice = json!({
            "index": 0, "delta": { "role": "assistant", "content": "" }, "logprobs": null,
            "finish_reason": null,
        });
        if self.options.return_token_ids {
            choice["prompt_token_ids"] = json!(self.prompts[0]);
        }
        vec![self.chunk_of(vec![choice])]
    }

    /// The chunk of a delta, and after the last one that of the usage, if it was asked for.
    pub(super) fn chunks(&mut self, delta: Delta) -> Vec<Value> {
        let Delta { index, text, ids, end } = delta;
        let is_first = self.answers[index].tokens == 0;
        let mut choice = json!({ "index": index, "logprobs": null });
        match self.endpoint {
            Endpoint::Chat => choice["delta"] = json!({ "content": text }),
            _ => choice["text"] = text.into(),
        }
        if self.options.return_token_ids {
            choice["token_ids"] = json!(ids);
            if is_first && self.endpoint != Endpoint::Chat {
                choice["prompt_token_ids"] = json!(self.prompts[index]);
            }
        }
        add_end(&mut choice, end.as_ref());
        let answer = &mut self.answers[index];
        answer.tokens += ids.len();
        answer.end = end;
        let mut chunks = vec![self.chunk_of(vec![choice])];
        if self.is_complete() {
            if self.options.include_usage {
                let mut last = self.chunk_of(Vec::new());
                last["usage"] = self.usage();
                chunks.push(last);
            }
            self.add_timings(chunks.last_mut().expect("there is one"));
        }
        chunks
    }

    fn chunk_of(&self, choices: Vec<Value>) -> Value {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            _ => "text_completion",
        };
        let mut chunk = self.head(object);
        chunk["choices"] = choices.into();
        if self.options.continuous_usage {
            chunk["usage"] = self.usage();
        } else if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The whole answer, when it is complete.
    pub(super) fn whole(&self) -> Value {
        let mut whole = match self.endpoint {
            Endpoint::Embeddings => json!({ "object": "list", "model": self.model }),
            Endpoint::Chat => self.head("chat.completion"),
            Endpoint::Completions => self.head("text_completion"),
        };
        let answers = self.answers.iter().enumerate();
        match self.endpoint {
            Endpoint::Embeddings => {
                whole["data"] =
                    answers.map(|(index, answer)| self.embedding(index, answer)).collect();
            }
            _ => {
                whole["choices"] =
                    answers.map(|(index, answer)| self.choice(index, answer)).collect()
            }
        }
        whole["usage"] = self.usage();
        self.add_timings(&mut whole);
        whole
    }

    fn choice(&self, index: usize, answer: &Answer) -> Value {
        let mut choice = json!({ "index": index, "logprobs": null });
        match self.endpoint {
            Endpoint::Chat => {
                choice["message"] = json!({ "role": "assistant", "content": answer.text });
            }
            _ => choice["text"] = answer.text.as_str().into(),
        }
        if self.options.return_token_ids {
            choice["token_ids"] = json!(answer.ids);
            choice["prompt_token_ids"] = json!(self.prompts[index]);
        }
        add_end(&mut choice, answer.end.as_ref());
        choice
    }

    fn embedding(&self, index: usize, answer: &Answer) -> Value {
        let values = answer.vector.as_ref().map_or(&[][..], |(values, _)| values);
        let embedding = match self.options.base64 {
            true => {
                base64(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).into()
            }
            false => json!(values),
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    }

    fn head(&self, object: &str) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model })
    }

    /// Token counts so far.
    fn usage(&self) -> Value {
        let prompt: usize = self.prompts.iter().map(Vec::len).sum();
        let generated: usize = self.answers.iter().map(|answer| answer.tokens).sum();
        match self.endpoint {
            Endpoint::Embeddings => json!({ "prompt_tokens": prompt, "total_tokens": prompt }),
            _ => json!({
                "prompt_tokens": prompt, "completion_tokens": generated,
                "total_tokens": prompt + generated,
            }),
        }
    }

    /// Adds where the time went, if it was asked for: an object, or a list of one per prompt.
    fn add_timings(&self, to: &mut Value) {
        if !self.options.timings {
            return;
        }
        let of_answer = |answer: &Answer| {
            let vector = answer.vector.as_ref().map(|(_, timings)| timings);
            let timings = answer.end.as_ref().map(|end| &end.timings).or(vector);
            timings.map_or(Value::Null, |timings| self.timings(timings))
        };
        to["timings"] = match self.answers.as_slice() {
            [one] => of_answer(one),
            all => all.iter().map(of_answer).collect(),
        };
    }

    /// Seconds of each stage; `null` for one that did not happen.
    fn timings(&self, timings: &Timings) -> Value {
        let &Timings { queue, prefill, first_token, decode, detokenize } = timings;
        let stages = [
            (metric::TOKENIZE_S, self.tokenize),
            ("queue_s", Some(queue)),
            (metric::PREFILL_S, Some(prefill)),
            ("first_token_s", first_token),
            ("decode_s", decode),
            ("detokenize_s", detokenize),
        ];
        let seconds = |time: Option<Duration>| json!(time.map(|time| time.as_secs_f64()));
        let object: Map<String, Value> =
            stages.into_iter().map(|(name, time)| (name.into(), seconds(time))).collect();
        object.into()
    }
}

/// Adds the reason of the end, `null` before it.
fn add_end(choice: &mut Value, end: Option<&End>) {
    choice["finish_reason"] = json!(end.map(|end| end.finish));
    if let Some(End { stop_string, .. }) = end {
        choice["stop_reason"] = json!(stop_string);
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_padding = digit > group.len();
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if is_padding { '=' } else { DIGITS[value as usize].into() });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_has_the_digits_of_rfc_4648() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(super::base64(text.as_bytes()), expected);
        }
        assert_eq!(super::base64(&[0xfb, 0xff]), "+/8=");
    }
}
