//! The suites: named lists of scenarios.

use crate::workload::conversation::MESSAGES;
use crate::workload::{BATCHES, CATEGORIES, Input, Pipeline, PromptFormat, Scenario, StressKind};

/// A named list of scenarios.
#[derive(Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its purpose, in one line.
    pub about: &'static str,
    /// Its scenarios, in order.
    pub scenarios: fn() -> Vec<Scenario>,
}

/// The suites. `cargo bench` and `candlemark run` measure `default` unless told otherwise.
#[rustfmt::skip]
pub const SUITES: &[Suite] = &[
    Suite { name: "default", about: "every category at every batch size", scenarios: by_batch },
    Suite { name: "prompts", about: "every prompt alone, batch 1", scenarios: by_prompt },
    Suite { name: "grid", about: "prompt lengths and answer lengths, S1 to S6", scenarios: grid },
    Suite { name: "context", scenarios: context,
        about: "reading and decoding at depths of 0 to 8192 tokens, with YaRN too" },
    Suite { name: "context-long", scenarios: context_long,
        about: "the same at depths of 16384 to 65536 tokens" },
    Suite { name: "api", scenarios: api,
        about: "a plain completion against chat-templated requests" },
    Suite { name: "consistency", about: "one request 20 times", scenarios: consistency },
    Suite { name: "conversation", scenarios: conversation,
        about: "turns of a conversation, and a shared prefix cold and warm" },
    Suite { name: "stress", scenarios: stress,
        about: "very long and very many prompts under a memory limit" },
    Suite { name: "pipelines", scenarios: pipelines,
        about: "document sets, embedding, retrieval with answers" },
    Suite { name: "quality", about: "agreement with the f32 reference", scenarios: quality },
    Suite { name: "profile", about: "share of time in kernels, traced", scenarios: profile },
    Suite { name: "quick", about: "two scenarios, for monitoring", scenarios: quick },
    Suite { name: "all", about: "everything but `prompts` and `context-long`", scenarios: all },
];

pub(super) fn by_batch() -> Vec<Scenario> {
    let cases =
        CATEGORIES.iter().flat_map(|category| BATCHES.iter().map(move |&batch| (category, batch)));
    cases
        .map(|(category, batch)| {
            let input = Input::Category { name: category.name, first: 0 };
            let id = format!("{}/b{batch}", category.name);
            Scenario::new(id, input, batch, category.new_tokens)
        })
        .collect()
}

fn by_prompt() -> Vec<Scenario> {
    let cases = CATEGORIES
        .iter()
        .flat_map(|category| (0..category.prompts.len()).map(move |i| (category, i)));
    cases
        .map(|(category, i)| {
            let input = Input::Category { name: category.name, first: i };
            let id = format!("prompts/{}-{}", category.name, i + 1);
            Scenario::new(id, input, 1, category.new_tokens)
        })
        .collect()
}

/// Prompt and answer tokens of S1 to S6.
const GRID: [(usize, usize); 6] =
    [(16, 32), (64, 64), (256, 128), (512, 256), (1024, 128), (64, 512)];

fn grid() -> Vec<Scenario> {
    let cases = GRID.iter().enumerate();
    cases
        .map(|(i, &(prompt_tokens, new_tokens))| {
            Scenario::new(
                format!("grid/S{}", i + 1),
                Input::Length { prompt_tokens },
                1,
                new_tokens,
            )
        })
        .collect()
}

/// Prompt and answer tokens at each depth.
const AT_DEPTH: (usize, usize) = (64, 16);

fn at_depth(depth: usize, extended: bool) -> Scenario {
    let suffix = if extended { "-yarn" } else { "" };
    let input = Input::Depth { depth, read: AT_DEPTH.0 };
    let scenario = Scenario::new(format!("context/{depth}{suffix}"), input, 1, AT_DEPTH.1);
    Scenario { extended, ..scenario }
}

fn context() -> Vec<Scenario> {
    let plain = [0, 512, 1024, 2048, 4096, 8192].map(|depth| at_depth(depth, false));
    plain.into_iter().chain([0, 2048, 8192].map(|depth| at_depth(depth, true))).collect()
}

fn context_long() -> Vec<Scenario> {
    let plain = [16384, 32768].map(|depth| at_depth(depth, false));
    // Beyond Qwen3's training context, for which YaRN is made.
    plain.into_iter().chain([32768, 65536].map(|depth| at_depth(depth, true))).collect()
}

/// The prompt of `api` and `consistency`, and the length of its answer.
const QUESTION: (Input, usize) = (Input::Category { name: "medium", first: 0 }, 32);

fn api() -> Vec<Scenario> {
    let requests = [
        ("completion", PromptFormat::Raw),
        ("chat", PromptFormat::Chat),
        ("chat-thinking", PromptFormat::ChatThinking),
    ];
    requests
        .map(|(name, format)| Scenario {
            format: Some(format),
            ..Scenario::new(format!("api/{name}"), QUESTION.0, 1, QUESTION.1)
        })
        .into()
}

fn consistency() -> Vec<Scenario> {
    let scenario = Scenario::new("consistency/answer", QUESTION.0, 1, QUESTION.1);
    vec![Scenario { repetitions: Some(20), ..scenario }]
}

/// Tokens of each answer of a conversation.
const ANSWER: usize = 32;

/// Tokens of the shared prefix, of the prompt after it, and of the answer. The prefix is a multiple
/// of the tokens of a prefill pass, so that the native engine reads it in the same passes with and
/// without a prompt behind it, and warm logits are those of the whole text bit for bit.
const SHARED_PREFIX: (usize, usize, usize) = (1024, 64, 16);

fn conversation() -> Vec<Scenario> {
    let turn = |number| Scenario {
        format: Some(PromptFormat::Raw),
        ..Scenario::new(format!("conversation/turn-{number}"), Input::Turn { number }, 1, ANSWER)
    };
    let (prefix, read, answer) = SHARED_PREFIX;
    let inputs = [
        ("cold", Input::Length { prompt_tokens: prefix + read }),
        ("warm", Input::SharedPrefix { prefix, read }),
    ];
    let prefixed =
        |(name, input)| Scenario::new(format!("prefix-{prefix}/{name}"), input, 1, answer);
    (1..=MESSAGES.len()).map(turn).chain(inputs.map(prefixed)).collect()
}

fn stress() -> Vec<Scenario> {
    [("long", StressKind::Long), ("many", StressKind::Many), ("repeated", StressKind::Repeated)]
        .map(|(name, kind)| Scenario::new(format!("stress/{name}"), Input::Requests(kind), 1, 4))
        .into()
}

fn pipelines() -> Vec<Scenario> {
    [
        ("classification", Pipeline::Classification, 4, 4),
        ("summarisation", Pipeline::Summarization, 4, 24),
        ("extraction", Pipeline::Extraction, 4, 16),
        ("code", Pipeline::Code, 4, 32),
        ("embedding", Pipeline::Embedding, 4, 0),
        ("rag", Pipeline::Rag, 1, 24),
    ]
    .map(|(name, kind, batch, new_tokens)| {
        Scenario::new(format!("pipelines/{name}"), Input::Documents(kind), batch, new_tokens)
    })
    .into()
}

fn quality() -> Vec<Scenario> {
    vec![Scenario::new("quality/text", Input::Texts, 1, 0)]
}

fn profile() -> Vec<Scenario> {
    vec![Scenario::new("profile/answer", Input::Traced, 1, 32)]
}

fn quick() -> Vec<Scenario> {
    by_batch()
        .into_iter()
        .filter(|case| ["short/b1", "code/b1"].contains(&case.id.as_str()))
        .collect()
}

fn all() -> Vec<Scenario> {
    let suites = [
        by_batch,
        grid,
        context,
        api,
        consistency,
        conversation,
        stress,
        pipelines,
        quality,
        profile,
    ];
    suites.into_iter().flat_map(|scenarios| scenarios()).collect()
}
