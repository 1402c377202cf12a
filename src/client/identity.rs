//! What a server says of itself: its program, version and model. It is the server's word; what it
//! does not say is absent.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::Client;
use super::request::Request;

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its program: `vllm`, `sglang`, `llama.cpp`, …
    pub software: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// The most tokens of a prompt and its answer.
    pub context: Option<usize>,
    /// What else it says of the model: size, vocabulary, parallel slots.
    pub facts: BTreeMap<String, String>,
}

/// Where servers say their version: path, JSON pointer, and the program, if the answer tells it.
const VERSIONS: &[(&str, &str, Option<&str>)] = &[
    ("/version", "/version", None), // vLLM, candlemark
    ("/props", "/build_info", Some("llama.cpp")),
    ("/get_server_info", "/version", Some("sglang")),
    ("/info", "/version", Some("text-generation-inference")),
    ("/api/version", "/version", Some("ollama")),
];

/// The programs behind the words in `owned_by`.
const OWNERS: &[(&str, &str)] = &[
    ("candlemark", "candlemark"),
    ("library", "ollama"),
    ("llamacpp", "llama.cpp"),
    ("sglang", "sglang"),
    ("vllm", "vllm"),
];

/// Asks a server what it is. What it does not answer is left out.
pub async fn identify(client: &Client, model: &str) -> Identity {
    let mut identity = Identity::default();
    if let Some(models) = document(client, Request::models()).await {
        identity.take_model(&models, model);
    }
    for (path, pointer, software) in VERSIONS {
        let Some(document) = document(client, Request::json(path)).await else { continue };
        let Some(version) = document.pointer(pointer).and_then(Value::as_str) else { continue };
        identity.version = Some(version.into());
        identity.software = identity.software.or(software.map(String::from));
        identity.take_props(&document);
        break;
    }
    identity
}

async fn document(client: &Client, request: Request) -> Option<Value> {
    let exchange = client.send(&request, Instant::now()).await;
    exchange.fault.is_none().then(|| serde_json::from_str(&exchange.content).ok())?
}

impl Identity {
    /// Takes what `/v1/models` says of the model.
    fn take_model(&mut self, models: &Value, name: &str) {
        let listed = models.get("data").and_then(Value::as_array).into_iter().flatten();
        let of_name = |one: &&Value| one.get("id").and_then(Value::as_str) == Some(name);
        let Some(model) = listed.into_iter().find(of_name) else { return };
        let owner = model.get("owned_by").and_then(Value::as_str);
        let known = OWNERS.iter().find(|(word, _)| Some(*word) == owner);
        self.software = known.map(|(_, software)| (*software).into());
        let context = model.get("max_model_len").and_then(Value::as_u64);
        self.context = context.map(|context| context as usize);
        let meta = model.get("meta").and_then(Value::as_object).into_iter().flatten();
        for (name, value) in meta.filter(|(_, value)| value.is_number()) {
            self.facts.insert(name.clone(), value.to_string());
        }
    }

    /// Takes what llama-server's `/props` says: the context of a slot, and their number.
    fn take_props(&mut self, props: &Value) {
        let context = props.pointer("/default_generation_settings/n_ctx").and_then(Value::as_u64);
        self.context = self.context.or(context.map(|context| context as usize));
        if let Some(slots) = props.get("total_slots").and_then(Value::as_u64) {
            self.facts.insert("slots".into(), slots.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_told_apart_by_their_own_words() {
        let vllm = json!({ "data": [
            { "id": "other", "owned_by": "vllm", "max_model_len": 1 },
            { "id": "mini", "owned_by": "vllm", "max_model_len": 2048, "root": "/models/mini" },
        ]});
        let mut identity = Identity::default();
        identity.take_model(&vllm, "mini");
        let expected =
            Identity { software: Some("vllm".into()), context: Some(2048), ..Identity::default() };
        assert_eq!(identity, expected);

        let llama = json!({ "data": [{ "id": "m.gguf", "owned_by": "llamacpp",
            "meta": { "n_vocab": 3072, "size": 123, "ftype": "F32" } }] });
        let mut identity = Identity::default();
        identity.take_model(&llama, "m.gguf");
        identity.take_props(
            &json!({ "total_slots": 4, "default_generation_settings": { "n_ctx": 1024 } }),
        );
        assert_eq!(
            (identity.software.as_deref(), identity.context),
            (Some("llama.cpp"), Some(1024))
        );
        let facts = [("n_vocab", "3072"), ("size", "123"), ("slots", "4")];
        assert_eq!(identity.facts, facts.map(|(n, v)| (n.into(), v.into())).into());
        identity.take_model(&json!({ "data": [] }), "m.gguf");
    }
}
