//! Ends of answers, on an engine whose tokens the test chooses.

use serde_json::{Value, json};

use super::{choices, engine, ids, options, text};
use crate::error::Result;
use crate::model::{Decoder, Footprint, Logits, Step};
use crate::serve::Server;
use crate::serve::tests::client::{events, post};

/// Generates the tokens of a script after a prompt of one token; where one has no probability, the
/// token 0.
struct Scripted {
    script: Vec<u32>,
    vocab: usize,
    lengths: Vec<usize>,
}

impl Decoder for Scripted {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let mut values = vec![0.0; steps.len() * self.vocab];
        for (step, row) in steps.iter().zip(values.chunks_exact_mut(self.vocab)) {
            let length = &mut self.lengths[step.sequence];
            *length += step.tokens.len();
            row[self.script[(*length - 1) % self.script.len()] as usize] = 2.0;
            row[0] = f32::max(row[0], 1.0);
        }
        Ok(Logits { vocab: self.vocab, values })
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.lengths = vec![0; sequences];
        Ok(())
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        self.lengths[sequence] = length;
        Ok(())
    }

    fn check_length(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint::of_f32(0)
    }
}

/// A server that says this text, then an end token, again and again; the ids of one round.
fn says(answer: &str) -> (Server, Vec<u32>) {
    let mut engine = engine("native");
    let mut script = engine.tokenizer.encode(answer).unwrap();
    script.push(engine.tokenizer.end_tokens()[0]);
    let vocab = engine.source.config.vocab;
    engine.decoder = Box::new(Scripted { script: script.clone(), vocab, lengths: Vec::new() });
    (Server::start(engine, options()).unwrap(), script)
}

fn body(more: Value) -> Value {
    let mut body = json!({ "prompt": [5], "max_tokens": 400, "return_token_ids": true });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The only choice, whole and streamed; both must say the same.
fn answer(server: &Server, more: Value) -> Value {
    let mut body = body(more);
    let whole = post(server, "/v1/completions", &body).ok()["choices"][0].clone();
    body["stream"] = true.into();
    let streamed = choices(&events(server, "/v1/completions", &body));
    assert_eq!(whole["text"], text(&streamed));
    assert_eq!(ids(std::slice::from_ref(&whole)), ids(&streamed));
    let last = streamed.last().unwrap();
    for field in ["finish_reason", "stop_reason"] {
        assert_eq!(whole[field], last[field]);
    }
    whole
}

#[test]
fn an_end_token_ends_an_answer_unless_it_is_ignored_or_comes_too_early() {
    let (server, script) = says("x = 1;\n");
    let natural = answer(&server, json!({}));
    assert_eq!((&natural["text"], &natural["finish_reason"]), (&json!("x = 1;\n"), &json!("stop")));
    assert_eq!(natural["token_ids"], json!(script), "the end token counts, and is no text");

    let length = 2 * script.len() + 1;
    let ignored = answer(&server, json!({ "ignore_eos": true, "max_tokens": length }));
    assert_eq!(ignored["finish_reason"], "length");
    assert_eq!(ignored["token_ids"], json!([&script[..], &script, &script[..1]].concat()));
    assert!(ignored["text"].as_str().unwrap().starts_with("x = 1;\nx = 1;\n"));

    // The first end token loses its probability, the second is late enough.
    let late = answer(&server, json!({ "min_tokens": script.len() + 1 }));
    let mut expected = [&script[..], &script].concat();
    expected[script.len() - 1] = 0;
    assert_eq!((&late["token_ids"], &late["finish_reason"]), (&json!(expected), &json!("stop")));

    let stopped = answer(&server, json!({ "stop_token_ids": [script[1]] }));
    assert_eq!(stopped["token_ids"], json!(script[..2]));
}

#[test]
fn a_stop_string_ends_an_answer_wherever_tokens_end() {
    let said = "one two three four five";
    let (server, script) = says(said);
    assert!(script.len() > 5, "several tokens: {script:?}");
    for start in 0..said.len() - 8 {
        for length in [1, 2, 5, 8] {
            let stop = &said[start..start + length];
            let stopped = answer(&server, json!({ "stop": [stop, "never"] }));
            let text = &said[..said.find(stop).unwrap()];
            assert_eq!(stopped["text"], text, "{stop:?}");
            assert_eq!(
                (&stopped["finish_reason"], &stopped["stop_reason"]),
                (&json!("stop"), &json!(stop))
            );
        }
    }
    // What only begins a stop string is not lost.
    let other = answer(&server, json!({ "stop": "five or six" }));
    assert_eq!((&other["text"], &other["stop_reason"]), (&json!(said), &Value::Null));
    // Before the smallest number of tokens, none is looked for.
    let late = answer(&server, json!({ "stop": "two", "min_tokens": script.len() - 1 }));
    assert_eq!(late["text"], said);
}

#[test]
fn a_character_waits_for_all_its_tokens() {
    let said = "ꙮ 𝔊 🜲!";
    let (server, script) = says(said);
    assert!(script.len() > said.chars().count() + 4, "characters of several tokens: {script:?}");
    let streamed = choices(&events(&server, "/v1/completions", &body(json!({ "stream": true }))));
    assert_eq!(text(&streamed), said);
    for choice in &streamed {
        assert!(!choice["text"].as_str().unwrap().contains(char::REPLACEMENT_CHARACTER));
    }
    assert!(streamed.len() < script.len(), "no chunk for a part of a character");
    assert_eq!(ids(&streamed), script);
    // Cut within the first character: its bytes so far are one U+FFFD.
    let cut = answer(&server, json!({ "max_tokens": 1 }));
    assert_eq!(cut["text"], "\u{fffd}");
}
