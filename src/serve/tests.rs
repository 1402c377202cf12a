//! The server over a socket, against the same engine in this process.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Engine, GenerationRequest, generate};
use crate::serve::{Options, Server};
use crate::settings::{Generation, Setup};

mod client;
mod ends;
mod limits;
mod scripted;
mod sequences;

use client::{events, post};

const QUANT: &str = "q8_0";

fn engine(kind: &str) -> Engine {
    let quant = (kind == "native").then(|| QUANT.into());
    let model = "synthetic:nano".into();
    let setup = Setup { model, engine: kind.into(), quant, threads: 2, ..Setup::default() };
    Engine::load(&setup, &mut ()).unwrap()
}

fn options() -> Options {
    Options {
        host: "127.0.0.1".into(),
        port: 0,
        model: "nano".into(),
        api_key: None,
        max_batch: 4,
        max_waiting: 64,
        max_body: 1 << 20,
        sampling: Generation::default(),
        injection: None,
    }
}

fn serve(options: Options) -> Server {
    Server::start(engine("native"), options).unwrap()
}

/// Tokens that the engine generates for each prompt alone.
fn alone(engine: &mut Engine, prompts: &[(Vec<u32>, usize)]) -> Vec<Vec<u32>> {
    let greedy = Generation::default();
    let mut one = |(prompt, new_tokens): &(Vec<u32>, usize)| {
        let prompts = [prompt.clone()];
        let request = GenerationRequest::new(&prompts, *new_tokens, &greedy);
        generate(engine.decoder.as_mut(), &request).unwrap().ids.remove(0)
    };
    prompts.iter().map(&mut one).collect()
}

const PROMPT: &str = "fn main() { println!(\"hello\"); }";

/// The prompt's ids, 40 tokens after it, and their text.
static REFERENCE: LazyLock<(Vec<u32>, Vec<u32>, String)> = LazyLock::new(|| {
    let mut engine = engine("native");
    let prompt = engine.tokenizer.encode_prompt(PROMPT).unwrap();
    let ids = alone(&mut engine, &[(prompt.clone(), 40)]).remove(0);
    let shown: Vec<u32> =
        ids.iter().copied().filter(|id| !engine.tokenizer.is_control(*id)).collect();
    let text = engine.tokenizer.decode(&shown);
    (prompt, ids, text)
});

fn completion(more: Value) -> Value {
    let mut body = json!({
        "model": "nano", "prompt": PROMPT, "max_tokens": 40, "ignore_eos": true,
        "return_token_ids": true,
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The ids of `token_ids` in order.
fn ids(choices: &[Value]) -> Vec<u32> {
    let all = choices.iter().flat_map(|choice| choice["token_ids"].as_array().unwrap());
    all.map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The first choice of every chunk that has one.
fn choices(events: &[Value]) -> Vec<Value> {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    choices.cloned().collect()
}

fn text(choices: &[Value]) -> String {
    choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[test]
fn a_completion_is_the_engines_own_generation_whole_and_streamed() {
    let server = serve(options());
    let (prompt, expected, expected_text) = &*REFERENCE;
    let usage = json!({
        "prompt_tokens": prompt.len(), "completion_tokens": 40, "total_tokens": prompt.len() + 40,
    });

    let whole = post(&server, "/v1/completions", &completion(json!({}))).ok();
    assert_eq!(ids(&choices(std::slice::from_ref(&whole))), *expected);
    assert_eq!(whole["choices"][0]["text"], expected_text.as_str());
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"], usage);
    assert_eq!((&whole["object"], &whole["model"]), (&json!("text_completion"), &json!("nano")));

    let streamed = completion(json!({
        "stream": true, "stream_options": { "include_usage": true }, "prompt": prompt,
    }));
    let chunks = events(&server, "/v1/completions", &streamed);
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
    let choices = choices(chunks);
    assert_eq!(ids(&choices), *expected);
    assert_eq!(text(&choices), *expected_text);
    let (end, others) = choices.split_last().unwrap();
    assert_eq!(end["finish_reason"], "length");
    for other in others {
        assert_eq!(other["finish_reason"], Value::Null);
        assert_ne!(other["text"], "", "a chunk without text: {other}");
    }
    let tokenizer = &engine("native").tokenizer;
    let mut stream = tokenizer.stream();
    let mut completes = |id: &&u32| !tokenizer.is_control(**id) && stream.push(**id).is_some();
    let complete = expected[..39].iter().filter(|id| completes(id)).count();
    assert_eq!(others.len(), complete, "one chunk per token whose text is complete");
}

#[test]
fn a_chat_has_a_role_first_and_its_template() {
    let server = serve(options());
    let tokenizer = &engine("native").tokenizer;
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "What is 1 + 1?" }] },
    ]);
    let mut prompts = Vec::new();
    for thinking in [true, false] {
        let body = json!({
            "messages": messages, "max_completion_tokens": 6, "return_token_ids": true,
            "chat_template_kwargs": { "enable_thinking": thinking }, "ignore_eos": true,
        });
        let whole = post(&server, "/v1/chat/completions", &body).ok();
        let choice = &whole["choices"][0];
        assert_eq!(
            (&whole["object"], &choice["message"]["role"]),
            (&json!("chat.completion"), &json!("assistant"))
        );

        let mut body = body;
        body["stream"] = true.into();
        let chunks = choices(&events(&server, "/v1/chat/completions", &body));
        assert_eq!(chunks[0]["delta"], json!({ "role": "assistant", "content": "" }));
        assert_eq!(chunks[0]["prompt_token_ids"], choice["prompt_token_ids"]);
        assert_eq!(ids(&chunks[1..]), ids(std::slice::from_ref(choice)));
        let content = |choice: &Value| choice["delta"]["content"].as_str().unwrap().to_owned();
        let streamed: String = chunks.iter().map(content).collect();
        assert_eq!(choice["message"]["content"], streamed);
        prompts.push(choice["prompt_token_ids"].clone());
    }
    use crate::tokenizer::{Message, Role, Thinking};
    let messages =
        [Message::new(Role::System, "Be brief."), Message::new(Role::User, "What is 1 + 1?")];
    for (prompt, thinking) in prompts.iter().zip([Thinking::On, Thinking::Off]) {
        let text = tokenizer.chat(&messages, thinking).unwrap();
        assert_eq!(*prompt, json!(tokenizer.encode(&text).unwrap()));
    }
    assert_ne!(prompts[0], prompts[1]);
}

#[test]
fn a_list_of_prompts_has_a_choice_for_each() {
    let server = serve(options());
    let body = completion(json!({ "prompt": [PROMPT, "x = 1", PROMPT], "max_tokens": 5 }));
    let whole = post(&server, "/v1/completions", &body).ok();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_eq!(ids(&choices[..1]), REFERENCE.1[..5]);
    assert_eq!(ids(&choices[2..]), REFERENCE.1[..5]);
    let prompts: usize =
        choices.iter().map(|choice| choice["prompt_token_ids"].as_array().unwrap().len()).sum();
    assert_eq!(whole["usage"]["prompt_tokens"], prompts);
    assert_eq!(whole["usage"]["completion_tokens"], 15);
}

#[test]
fn sampling_repeats_with_its_seed() {
    let server = serve(options());
    let sample = |seed: i64| {
        let body = completion(json!({ "temperature": 1.0, "top_p": 0.95, "seed": seed }));
        let whole = post(&server, "/v1/completions", &body).ok();
        ids(&choices(&[whole]))
    };
    let one = sample(1);
    assert_eq!(one, sample(1));
    assert_ne!(one, sample(2));
    assert_ne!(one, REFERENCE.1);
}

#[test]
fn timings_follow_one_another_and_are_counted() {
    let server = serve(options());
    let start = std::time::Instant::now();
    let whole = post(&server, "/v1/completions", &completion(json!({ "timings": true }))).ok();
    let took = start.elapsed();
    let timings = whole["timings"].as_object().unwrap();
    let seconds = |stage: &str| timings[&format!("{stage}_s")].as_f64().unwrap();
    let sum: f64 =
        ["tokenize", "queue", "prefill", "first_token", "decode"].map(seconds).iter().sum();
    assert!(seconds("prefill") > 0.0 && seconds("decode") > 0.0 && sum <= took.as_secs_f64());
    assert!(seconds("detokenize") > 0.0);

    let body = completion(
        json!({ "timings": true, "prompt": [1, 2, 3], "max_tokens": 1, "stream": true }),
    );
    let last = events(&server, "/v1/completions", &body).pop().unwrap();
    assert_eq!(last["timings"]["tokenize_s"], Value::Null, "{last}");
    assert_eq!(last["timings"]["decode_s"], Value::Null, "{last}");

    let text = client::get(&server, "/metrics").text;
    let prompt = REFERENCE.0.len() + 3;
    for line in [
        "# TYPE candlemark_server_requests_total counter",
        "candlemark_server_requests_total{outcome=\"completed\"} 2",
        "candlemark_server_requests_total{outcome=\"failed\"} 0",
        "candlemark_server_waiting_sequences 0",
        &format!("candlemark_server_prompt_tokens_total {prompt}"),
        "candlemark_server_generated_tokens_total 41",
    ] {
        assert!(text.lines().any(|other| other == line), "no `{line}` in\n{text}");
    }
    let sum = |stage: &str| -> f64 {
        let name = format!("candlemark_server_{stage}_seconds_total ");
        text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().parse().unwrap()
    };
    assert!(sum("decode") >= seconds("decode") - 1e-6 && sum("prefill") > seconds("prefill"));
}

#[test]
fn an_embedding_is_the_engines_own() {
    let server = serve(options());
    let mut engine = engine("native");
    let prompt = engine.tokenizer.encode_prompt(PROMPT).unwrap();
    engine.decoder.reset(1).unwrap();
    let step = crate::model::Step { sequence: 0, tokens: &prompt };
    let vector = engine.decoder.embed(&[step]).unwrap().remove(0);
    let vector = crate::measure::unit_vector(vector).unwrap();
    let whole = post(&server, "/v1/embeddings", &json!({ "input": [PROMPT, "other"] })).ok();
    let data = whole["data"].as_array().unwrap();
    assert_eq!((data.len(), &data[0]["embedding"]), (2, &json!(vector)));
    assert_eq!(data[1]["index"], 1);
    let base64 = json!({ "input": PROMPT, "encoding_format": "base64" });
    let whole = post(&server, "/v1/embeddings", &base64).ok();
    let text = whole["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), (4 * vector.len()).div_ceil(3) * 4);
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": prompt.len(), "total_tokens": prompt.len() })
    );
}

#[test]
fn the_model_is_listed() {
    let server = serve(options());
    let models: Value = serde_json::from_str(&client::get(&server, "/v1/models").text).unwrap();
    assert_eq!(models["data"][0]["id"], "nano");
    assert_eq!(models["data"][0]["max_model_len"], 40960);
    assert_eq!(client::get(&server, "/health").text, "{\"status\":\"ok\"}");
    server.stop(Duration::ZERO).unwrap();
}
