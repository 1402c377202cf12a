//! Whole tokenizers: round trips over our corpus and hostile strings, streams, GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::normalizers::unicode::NFC;

use super::parse::parse;
use super::*;

mod train;

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn texts(folder: &str) -> Vec<String> {
    fixtures(folder).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// Texts in NFC, which must survive a round trip unchanged.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n",
        "  two  \t\ttabs\u{a0}\u{3000}",
        "CRLF\r\nCR\rLF\n\n\r\n  x",
        "\0\u{1}\u{7f}\u{80}\u{9f}\u{ad}\u{feff}\u{fffd}\u{ffff}\u{10ffff}",
        "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☕️",
        "x\u{301}\u{302}\u{303}\u{304}",
        "日本語のテキスト、中文文本。한국어 ไทย हिन्दी العربية עברית",
        "don't DON'T it'\u{17f} 12345 ½ Ⅻ ٣",
        "[PAD3071] Ġword Ċ </s> <|not_special|> <|im_start",
        "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n\n<|endoftext|>",
    ]
    .map(String::from)
    .into();
    // Every character of one and two bytes, and a sample of the longer ones.
    texts.push(
        ('\0'..='\u{7ff}')
            .map(|c| format!("{c}"))
            .filter(|c| is_nfc(c))
            .collect::<Vec<_>>()
            .join("-"),
    );
    texts.push(
        ('\u{800}'..=char::MAX)
            .step_by(997)
            .map(|c| format!("{c}"))
            .filter(|c| is_nfc(c))
            .collect::<Vec<_>>()
            .join("-"),
    );
    texts.push(" ".repeat(100_000));
    texts
}

fn is_nfc(text: &str) -> bool {
    nfc(text) == text
}

fn nfc(text: &str) -> String {
    use tokenizers::Normalizer;
    let mut normalized = tokenizers::NormalizedString::from(text);
    NFC.normalize(&mut normalized).unwrap();
    normalized.get().into()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let text: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
    text + &stream.finish().unwrap_or_default()
}

#[test]
fn every_text_survives_a_round_trip() {
    let tiny = Tokenizer::tiny().unwrap();
    for text in texts("corpus").into_iter().chain(texts("prompts")).chain(hostile()) {
        let ids = tiny.encode(&text).unwrap();
        assert_eq!(tiny.decode(&ids), text);
        assert_eq!(streamed(&tiny, &ids), text);
        assert_eq!(tiny.inner.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn decoding_gives_the_text_in_nfc() {
    let tiny = Tokenizer::tiny().unwrap();
    for (text, expected) in [("e\u{301}", "é"), ("\u{212b}", "Å"), ("각", "각")] {
        assert_eq!(tiny.decode(&tiny.encode(text).unwrap()), expected);
    }
}

#[test]
fn a_stream_equals_whole_decoding_for_any_ids() {
    let tiny = Tokenizer::tiny().unwrap();
    // Random ids, as of a model with random weights: mostly broken characters, and padding rows.
    let mut state = 1u64;
    for length in 0..200 {
        let ids: Vec<u32> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u32 % 3200
            })
            .collect();
        let expected = tiny.inner.decode(&ids, false).unwrap();
        assert_eq!(tiny.decode(&ids), expected);
        assert_eq!(streamed(&tiny, &ids), expected);
    }
}

#[test]
fn an_added_token_is_one_id() {
    let tiny = Tokenizer::tiny().unwrap();
    assert_eq!(tiny.vocab_size(), 3072);
    for (token, id) in
        [("<|endoftext|>", 3046), ("<|im_start|>", 3047), ("<|im_end|>", 3048), ("</think>", 3071)]
    {
        assert_eq!(tiny.encode(token).unwrap(), [id]);
        assert_eq!(tiny.encode(&format!("a{token}b")).unwrap()[1], id);
    }
    assert_eq!(tiny.end_tokens(), [3048, 3046]);
}

#[test]
fn the_embedded_tokenizer_equals_that_of_the_folder() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
    let folder = Tokenizer::from_folder(&dir).unwrap();
    let tiny = Tokenizer::tiny().unwrap();
    assert_eq!(folder.sha256().unwrap(), tiny.sha256().unwrap());
    assert_eq!(folder.end_tokens(), tiny.end_tokens());
}

#[test]
fn a_tokenizer_survives_gguf() {
    let tiny = Tokenizer::tiny().unwrap();
    let vocabulary = tiny.to_gguf(3136).unwrap();
    assert_eq!(vocabulary.tokens[3048], "<|im_end|>");
    assert_eq!(vocabulary.tokens[3135], "[PAD3135]");
    assert_eq!([0, 3048, 3071, 3072].map(|id| vocabulary.token_types[id]), [1, 3, 4, 5]);
    let loaded = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
    for text in texts("corpus").into_iter().chain(texts("prompts")).chain(hostile()) {
        assert_eq!(loaded.encode(&text).unwrap(), tiny.encode(&text).unwrap());
    }
    assert_eq!(loaded.sha256().unwrap(), tiny.sha256().unwrap());
    assert_eq!(loaded.end_tokens(), tiny.end_tokens());
    assert_eq!(loaded.vocab_size(), 3072);
    assert_eq!(loaded.to_gguf(3136).unwrap(), vocabulary);
    let hello = [Message::new(Role::User, "Hello")];
    assert_eq!(
        loaded.chat(&hello, Thinking::Off).unwrap(),
        tiny.chat(&hello, Thinking::Off).unwrap()
    );
}

#[test]
fn a_model_needs_an_embedding_row_for_every_token() {
    let tiny = Tokenizer::tiny().unwrap();
    for rows in [3072, 151_936] {
        tiny.check_rows(rows).unwrap();
    }
    let expected = "the tokenizer has 3072 tokens and the model 3071 embedding rows; use the tokenizer that belongs to the model";
    assert_eq!(tiny.check_rows(3071).unwrap_err().to_string(), expected);
    assert_eq!(tiny.to_gguf(3071).unwrap_err().to_string(), expected);
}

/// Normalizer and pre-tokenizer as in Qwen's published `tokenizer.json`.
#[test]
fn normalizer_and_pre_tokenizer_are_the_published_ones() {
    let expected = concat!(
        r#"[{"type":"NFC"},{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":""#,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
        r"|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        r#""},"behavior":"Isolated","invert":false},"#,
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}]}]"#,
    );
    assert_eq!(Tokenizer::tiny().unwrap().pipeline_json().unwrap(), expected);
}

#[test]
fn the_built_in_template_depends_on_the_tokens() {
    let hello = [Message::new(Role::User, "Hello")];
    let chat = |old: &str, new: &str| {
        let json = std::str::from_utf8(Tokenizer::TINY_JSON).unwrap().replace(old, new);
        Tokenizer::new(parse(json.as_bytes(), Path::new("x")).unwrap(), None, &[])
            .unwrap()
            .chat(&hello, Thinking::Off)
    };
    let user = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(chat("", "").unwrap(), format!("{user}<think>\n\n</think>\n\n"));
    let system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
    assert_eq!(
        chat("<think>", "<x>").unwrap(),
        format!("<|im_start|>system\n{system}<|im_end|>\n{user}")
    );
    let err = chat("<|im_start|>", "<x>").unwrap_err().to_string();
    assert!(
        err.starts_with(
            "unsupported model: this tokenizer has no chat template; put a `chat_template.jinja`"
        ),
        "{err}"
    );
}

/// The result of encoding with a `tokenizer.json` of these components.
fn encode_with(components: &str) -> String {
    let json = format!(r#"{{"version":"1.0","added_tokens":[],{components}}}"#);
    let tokenizer = parse(json.as_bytes(), Path::new("x.json"));
    let encoded = tokenizer.and_then(|inner| Tokenizer::new(inner, None, &[])?.encode("a"));
    encoded.map_or_else(|error| error.to_string(), |ids| format!("{ids:?}"))
}

#[test]
fn only_byte_level_tokenizers_load() {
    let model = r#""model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}"#;
    let decoder = r#""decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false}"#;
    let with = |component: &str| encode_with(&format!("{component},{decoder},{model}"));
    let unsupported = "unsupported model: `x.json` has the ";
    for (result, expected) in [
        (
            encode_with(r#""model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}"#),
            format!("{unsupported}model `WordLevel`; supported for byte-level BPE: BPE"),
        ),
        (encode_with(model), "unsupported model: a tokenizer without a byte-level decoder".into()),
        (
            with(r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"AAA="}"#),
            format!("{unsupported}normalizer `Precompiled`; "),
        ),
        (
            with(
                r#""normalizer":{"type":"Sequence","normalizers":[{"type":"Replace",
                "pattern":{"String":""},"content":"x"}]}"#,
            ),
            "`x.json` is not valid: the pattern of its normalizer `Replace` is empty".into(),
        ),
        (
            with(r#""pre_tokenizer":{"type":"FixedLength","length":0}"#),
            format!("{unsupported}pre-tokenizer `FixedLength`; "),
        ),
        (with(r#""pre_tokenizer":7"#), format!("{unsupported}pre-tokenizer ``; ")),
        (
            encode_with(&format!(
                r#"{decoder},"model":{{"type":"BPE","dropout":0.5,"vocab":{{"a":0}},"merges":[]}}"#
            )),
            "`x.json` is not valid: its `dropout` is not 0".into(),
        ),
        (
            encode_with(&format!(
                r#"{decoder},"model":{{"type":"BPE","continuing_subword_prefix":"pre",
                "vocab":{{"a":0,"b":1}},"merges":[["a","b"]]}}"#
            )),
            "`x.json` is not valid: ".into(), // The crate panics here.
        ),
        (
            with(
                r#""truncation":{"direction":"Right","max_length":1099511627776,
                "strategy":"LongestFirst","stride":0},"padding":{"strategy":{"Fixed":1099511627776},
                "direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,
                "pad_token":"a"}"#,
            ),
            "[0]".into(), // Truncation and padding are turned off.
        ),
    ] {
        assert!(result.starts_with(&expected), "{result}");
    }
}

/// Qwen3's own files against the ids and texts of Python, from `fixtures/tokenizer.py`.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_published_tokenizer_agrees_with_python() {
    let Some(folder) = std::env::var_os("CANDLEMARK_TEST_TOKENIZER") else {
        eprintln!(
            "SKIPPED: CANDLEMARK_TEST_TOKENIZER is not set to a folder with Qwen3's tokenizer"
        );
        return;
    };
    #[derive(Deserialize)]
    struct Expected {
        texts: Vec<(String, Vec<u32>)>,
        chats: Vec<Chat>,
    }
    #[derive(Deserialize)]
    struct Chat {
        messages: minijinja::Value,
        tools: minijinja::Value,
        thinking: bool,
        text: String,
    }
    let tokenizer = Tokenizer::from_folder(Path::new(&folder)).unwrap();
    let golden = include_str!("../../fixtures/golden/tokenizer-qwen3.json");
    let expected: Expected = serde_json::from_str(golden).unwrap();
    assert_eq!((expected.texts.len(), expected.chats.len()), (200, 14));
    assert_eq!(tokenizer.vocab_size(), 151_669);
    for (text, ids) in expected.texts {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text}");
    }
    for chat in expected.chats {
        let thinking = if chat.thinking { Thinking::On } else { Thinking::Off };
        let template = tokenizer.template.as_ref().unwrap();
        assert_eq!(template.render(chat.messages, chat.tools, thinking).unwrap(), chat.text);
    }
}
