//! Requests that are refused, each with an error that says why.

use serde_json::{Value, json};

use super::{options, serve};
use crate::serve::Options;
use crate::serve::tests::client::{get, post, request, send};

#[test]
fn what_is_not_done_or_wrong_is_an_error_that_names_the_field() {
    let server = serve(Options { max_batch: 2, max_waiting: 3, ..options() });
    let user = json!([{ "role": "user", "content": "hi" }]);
    for (path, body, status, param, says) in [
        ("completions", json!({ "prompt": "a", "n": 2 }), 400, "n", "`n` is not supported"),
        ("completions", json!({ "prompt": "a", "best_of": 3 }), 400, "best_of", "not supported"),
        ("completions", json!({ "prompt": "a", "echo": true }), 400, "echo", "not supported"),
        ("completions", json!({ "prompt": "a", "logprobs": 0 }), 400, "logprobs", "not supported"),
        (
            "completions",
            json!({ "prompt": "a", "presence_penalty": 0.5 }),
            400,
            "presence_penalty",
            "",
        ),
        (
            "completions",
            json!({ "prompt": "a", "temperature": "hot" }),
            400,
            "temperature",
            "expected a number",
        ),
        ("completions", json!({ "prompt": "a", "temperature": -1 }), 400, "temperature", "from 0"),
        ("completions", json!({ "prompt": "a", "top_p": 0 }), 400, "top_p", "above 0"),
        ("completions", json!({ "prompt": "a", "max_tokens": 0 }), 400, "max_tokens", "at least 1"),
        ("completions", json!({ "prompt": "a", "min_tokens": 17 }), 400, "min_tokens", "more than"),
        ("completions", json!({ "prompt": "a", "stop": [""] }), 400, "stop", "empty"),
        (
            "completions",
            json!({ "prompt": "a", "stream_options": {} }),
            400,
            "stream_options",
            "stream",
        ),
        (
            "completions",
            json!({ "model": "gpt" , "prompt": "a" }),
            404,
            "model",
            "this server has `nano`",
        ),
        ("completions", json!({}), 400, "prompt", "`prompt` is missing"),
        ("completions", json!({ "prompt": [[1], "a", 2] }), 400, "prompt", "list of token ids"),
        (
            "completions",
            json!({ "prompt": ["a", "a", "a", "a", "a", "a"] }),
            400,
            "prompt",
            "at most 5 run and wait",
        ),
        ("completions", json!({ "prompt": "" }), 400, "", "no tokens"),
        ("completions", json!({ "prompt": [4_000_000] }), 400, "", "beyond the vocabulary"),
        (
            "completions",
            json!({ "prompt": "a", "max_tokens": 40960 }),
            400,
            "",
            "maximum context length is 40960 tokens",
        ),
        ("completions", json!({ "prompt": vec![1; 40960] }), 400, "", "maximum context length"),
        (
            "chat/completions",
            json!({ "messages": user, "tools": [{ "type": "function" }] }),
            400,
            "tools",
            "",
        ),
        (
            "chat/completions",
            json!({ "messages": user, "response_format": { "type": "json_object" } }),
            400,
            "response_format",
            "",
        ),
        ("chat/completions", json!({ "messages": user, "logprobs": true }), 400, "logprobs", ""),
        ("chat/completions", json!({ "messages": [] }), 400, "messages", "at least one"),
        (
            "chat/completions",
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
            400,
            "messages",
            "tool",
        ),
        (
            "chat/completions",
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            "messages",
            "not text",
        ),
        (
            "embeddings",
            json!({ "input": vec![1; 8193] }),
            400,
            "input",
            "at most 8192 are embedded",
        ),
        (
            "embeddings",
            json!({ "input": "a", "dimensions": 8 }),
            400,
            "dimensions",
            "not supported",
        ),
    ] {
        let response = post(&server, &format!("/v1/{path}"), &body);
        let error: Value = serde_json::from_str(&response.text).unwrap();
        let error = &error["error"];
        let text = error["message"].as_str().unwrap();
        assert_eq!(response.status, status, "{text}");
        assert_eq!(error["param"].as_str().unwrap_or(""), param, "{text}");
        assert!(text.contains(says), "{text}");
    }
    // Values that change nothing, and fields that nobody knows.
    let body = json!({
        "prompt": "a", "n": 1, "best_of": null, "echo": false, "logprobs": null, "tools": [],
        "frequency_penalty": 0, "skip_special_tokens": true, "user": "me", "future": { "x": 1 },
        "top_k": -1, "stop": null, "response_format": { "type": "text" },
    });
    assert_eq!(post(&server, "/v1/completions", &body).status, 200);
    let text = get(&server, "/metrics").text;
    assert!(text.contains("candlemark_server_requests_total{outcome=\"invalid\"} 28\n"), "{text}");
}

#[test]
fn the_transport_has_limits() {
    let server = serve(Options { max_body: 1000, api_key: Some("secret".into()), ..options() });
    let authorized = |body: &str| {
        let request = String::from_utf8(request("/v1/completions", body)).unwrap();
        request.replacen("\r\n", "\r\nAuthorization: Bearer secret\r\n", 1)
    };
    let large = json!({ "prompt": "a".repeat(1000) }).to_string();
    let small = json!({ "prompt": "a", "max_tokens": 1 }).to_string();
    for (request, status, says) in [
        (authorized(&large), 413, "more than 1000 bytes"),
        (authorized(&"a".repeat(7000)), 413, "more than 1000 bytes"),
        (authorized("{"), 400, "not valid"),
        (authorized("[]"), 400, "not valid"),
        (authorized(&small).replace("application/json", "text/plain"), 415, "application/json"),
        (authorized(&small).replace("POST", "GET"), 405, "takes POST only"),
        (authorized(&small).replace("/v1/completions", "/v1/responses"), 404, "no `/v1/responses`"),
        (authorized(&small).replace("secret", "Secret"), 401, "Authorization: Bearer KEY"),
        (String::from_utf8(request("/v1/completions", &small)).unwrap(), 401, "API key"),
        (authorized(&small), 200, "text_completion"),
    ] {
        let response = send(&server, request.as_bytes());
        assert_eq!(response.status, status, "{}", response.text);
        assert!(response.text.contains(says), "{}", response.text);
        assert!(!response.text.contains("secret"));
    }
    assert_eq!(get(&server, "/v1/models").status, 401);
    assert_eq!(get(&server, "/health").status, 200);
}
