//! Workloads and metrics: prompt categories, scenarios and their ids, suites, and the table of
//! metrics. Knows nothing of models: prompts are text until an engine tokenizes them.

mod conversation;
pub mod documents;
mod metrics;
mod partition;
mod suites;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, nearest};

pub(crate) use metrics::METRICS;
pub use metrics::{Better, Gate, Metric, metric};
pub use partition::Partition;
pub use suites::{SUITES, Suite};

/// A prompt category: its prompts and the length of their answers.
#[derive(Debug)]
pub struct Category {
    /// The first segment of a scenario's id.
    pub name: &'static str,
    /// Three prompts of different lengths, so that batches are ragged.
    pub prompts: [&'static str; 3],
    /// Tokens generated per sequence; end-of-text is ignored.
    pub new_tokens: usize,
}

/// A fixture with LF line ends even in a checkout with CRLF: prompts, their hashes and token counts
/// must not depend on the checkout.
macro_rules! unix_lines {
    ($text:expr) => {{
        const TEXT: &str = $text;
        const LINES: [u8; $crate::workload::unix_length(TEXT)] = $crate::workload::unix_bytes(TEXT);
        match std::str::from_utf8(&LINES) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        }
    }};
}
pub(crate) use unix_lines;

/// Length of a text with LF for each CRLF.
pub(crate) const fn unix_length(text: &str) -> usize {
    let (bytes, mut at, mut length) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        length += !is_crlf(bytes, at) as usize;
        at += 1;
    }
    length
}

/// A text with LF for each CRLF; `N` is its [`unix_length`].
pub(crate) const fn unix_bytes<const N: usize>(text: &str) -> [u8; N] {
    let (bytes, mut at) = (text.as_bytes(), 0);
    let (mut lines, mut length) = ([0; N], 0);
    while at < bytes.len() {
        if !is_crlf(bytes, at) {
            lines[length] = bytes[at];
            length += 1;
        }
        at += 1;
    }
    lines
}

const fn is_crlf(bytes: &[u8], at: usize) -> bool {
    bytes[at] == b'\r' && at + 1 < bytes.len() && bytes[at + 1] == b'\n'
}

macro_rules! prompts {
    ($name:literal) => {
        [
            unix_lines!(include_str!(concat!("../fixtures/prompts/", $name, "-1.txt"))),
            unix_lines!(include_str!(concat!("../fixtures/prompts/", $name, "-2.txt"))),
            unix_lines!(include_str!(concat!("../fixtures/prompts/", $name, "-3.txt"))),
        ]
    };
}

/// The categories. A new one is a line here and three files under `fixtures/prompts`.
pub const CATEGORIES: &[Category] = &[
    Category { name: "short", prompts: prompts!("short"), new_tokens: 10 },
    Category { name: "medium", prompts: prompts!("medium"), new_tokens: 10 },
    Category { name: "long", prompts: prompts!("long"), new_tokens: 10 },
    Category { name: "code", prompts: prompts!("code"), new_tokens: 10 },
    Category { name: "extraction", prompts: prompts!("extraction"), new_tokens: 8 },
];

/// The text of prompts of an exact length, repeated as needed. No category's prompts: a new
/// category changes none of the scenarios that read it.
pub(crate) const RUNNING_TEXT: &str = unix_lines!(include_str!("../fixtures/running_text.txt"));

/// Batch sizes of every category.
pub const BATCHES: &[usize] = &[1, 4, 8, 16];

/// The input of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Prompts of a category, one per sequence.
    Category {
        /// The category's name.
        name: &'static str,
        /// Index of the first sequence's prompt; the others follow cyclically.
        first: usize,
    },
    /// Running text of an exact length.
    Length {
        /// Its tokens.
        prompt_tokens: usize,
    },
    /// A prompt after a prefix in the KV cache, which is read untimed.
    Depth {
        /// Tokens of the prefix.
        depth: usize,
        /// Tokens of the prompt, timed.
        read: usize,
    },
    /// A message of a conversation, after the earlier ones and their answers, which are in the KV
    /// cache.
    Turn {
        /// Its number, from 1.
        number: usize,
    },
    /// A prompt after a prefix that other prompts begin with too, and that is in the KV cache.
    SharedPrefix {
        /// Tokens of the prefix.
        prefix: usize,
        /// Tokens of the prompt.
        read: usize,
    },
    /// A set of documents.
    Documents(Pipeline),
    /// Requests under a memory limit.
    Requests(StressKind),
    /// Texts whose every token is scored, by the model and by the f32 reference.
    Texts,
    /// A generation whose kernels are traced.
    Traced,
}

/// A document pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// A label per document.
    Classification,
    /// A few sentences per document.
    Summarization,
    /// Fields of each document.
    Extraction,
    /// A function per description.
    Code,
    /// A vector per chunk.
    Embedding,
    /// Questions, each answered from the nearest chunks.
    Rag,
}

/// A memory stress test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StressKind {
    /// Prompts of doubling length until one is refused or does not fit.
    Long,
    /// Many short prompts, one after the other.
    Many,
    /// A phrase repeated many times.
    Repeated,
}

/// What a scenario does, as stored in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Prompts are answered.
    #[default]
    Generate,
    /// A prompt is answered after a prefix in the KV cache.
    Depth,
    /// Documents go through a pipeline.
    Items,
    /// Requests are made until memory runs out.
    Stress,
    /// Logits are compared with those of the f32 reference.
    Quality,
    /// Kernels are traced; the times are not comparable with those of other scenarios.
    Profile,
}

impl Task {
    /// Whether this is the default, which records leave out.
    pub(crate) fn is_generate(&self) -> bool {
        *self == Task::Generate
    }
}

/// The exact work of a scenario. Two cases of one id are comparable only if it is equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// What is done.
    #[serde(default, skip_serializing_if = "Task::is_generate")]
    pub task: Task,
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens of each sequence.
    pub prompt_tokens: Vec<usize>,
    /// Tokens in the KV cache before the prompt, read untimed. A server is sent them with every
    /// prompt, and they count as prompt tokens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: usize,
    /// Documents, chunks or requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: usize,
    /// Tokens generated per sequence.
    pub new_tokens: usize,
    /// SHA-256 of the prompts' token ids, or of their text (which begins with `text-`).
    pub prompts_sha256: String,
    /// `length` (end-of-text ignored) or `natural`.
    pub stop: String,
}

/// Begins hashes of text, which says nothing about hashes of token ids: a server is given the one,
/// an engine the other.
pub(crate) const TEXT_HASH: &str = "text-";

/// Whether two hashes differ; `None` if one is of text and the other of token ids.
pub(crate) fn hashes_differ(one: &str, other: &str) -> Option<bool> {
    (one.starts_with(TEXT_HASH) == other.starts_with(TEXT_HASH)).then_some(one != other)
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How a prompt is formatted before tokenization.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// As it is: plain completion.
    #[default]
    Raw,
    /// As a user's message in the model's chat template, thinking off.
    Chat,
    /// The same with thinking on.
    ChatThinking,
}

impl PromptFormat {
    /// The name in settings and records.
    pub fn name(self) -> &'static str {
        match self {
            PromptFormat::Raw => "raw",
            PromptFormat::Chat => "chat",
            PromptFormat::ChatThinking => "chat_thinking",
        }
    }
}

/// One measured case. Its id is the same in Criterion, records and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// For example `code/b4`.
    pub id: String,
    /// Its input.
    pub input: Input,
    /// Sequences answered together.
    pub batch: usize,
    /// Tokens generated per sequence.
    pub new_tokens: usize,
    /// Overrides the prompt format of the settings.
    pub format: Option<PromptFormat>,
    /// The minimum of repetitions, whatever the settings.
    pub repetitions: Option<usize>,
    /// With YaRN at four times the context length.
    pub extended: bool,
}

impl Scenario {
    /// A scenario with the settings' format and repetitions.
    pub fn new(id: impl Into<String>, input: Input, batch: usize, new_tokens: usize) -> Self {
        let id = id.into();
        Self { id, input, batch, new_tokens, format: None, repetitions: None, extended: false }
    }

    /// Its task.
    pub fn task(&self) -> Task {
        match self.input {
            Input::Category { .. }
            | Input::Length { .. }
            | Input::Turn { .. }
            | Input::SharedPrefix { .. } => Task::Generate,
            Input::Depth { .. } => Task::Depth,
            Input::Documents(_) => Task::Items,
            Input::Requests(_) => Task::Stress,
            Input::Texts => Task::Quality,
            Input::Traced => Task::Profile,
        }
    }

    /// Tokens generated per sequence. The settings override only the length of categories.
    pub fn length(&self, from_settings: Option<usize>) -> usize {
        match self.input {
            Input::Category { .. } => from_settings.unwrap_or(self.new_tokens),
            _ => self.new_tokens,
        }
    }

    /// Whether it can be measured in one process with others. It cannot if it loads the model in
    /// another way, or measures memory.
    pub(crate) fn shares_process(&self) -> bool {
        !self.extended && matches!(self.task(), Task::Generate | Task::Depth | Task::Items)
    }

    /// The prompts of a category's batch, one per sequence, distinct from the first token on; the
    /// message of a turn; none for other inputs.
    ///
    /// Sequence 0 has a prompt as it is. The others are prefixed with their number: equal sequences
    /// would share caches, and route to the same experts.
    pub fn prompts(&self) -> Vec<String> {
        let (name, first) = match self.input {
            Input::Category { name, first } => (name, first),
            Input::Turn { number } => return vec![conversation::MESSAGES[number - 1].into()],
            _ => return Vec::new(),
        };
        let category = category(name).expect("scenarios are made from the table of categories");
        (0..self.batch)
            .map(|i| {
                let prompt = category.prompts[(first + i) % category.prompts.len()].trim_end();
                if i == 0 {
                    prompt.into()
                } else {
                    format!("{} of {}: {prompt}", i + 1, self.batch)
                }
            })
            .collect()
    }
}

/// The messages of a conversation before the turn of this number, counted from 1.
pub(crate) fn messages_before(turn: usize) -> &'static [&'static str] {
    &conversation::MESSAGES[..turn - 1]
}

/// The category of this name, if there is one.
pub fn category(name: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.name == name)
}

/// The scenario of this id, if there is one.
pub fn scenario(id: &str) -> Option<Scenario> {
    SUITES.iter().flat_map(|suite| (suite.scenarios)()).find(|scenario| scenario.id == id)
}

/// The scenario of this id.
///
/// # Errors
/// When there is none.
pub(crate) fn find(id: &String) -> Result<Scenario> {
    select(std::slice::from_ref(id))?; // Suggests the nearest of an unknown id.
    scenario(id).ok_or_else(|| Error::Failed(format!("no scenario `{id}`")))
}

/// The ids of all scenarios, each once, in the order of the suites.
pub fn ids() -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for scenario in SUITES.iter().flat_map(|suite| (suite.scenarios)()) {
        if !ids.contains(&scenario.id) {
            ids.push(scenario.id);
        }
    }
    ids
}

/// Selects scenarios by suite names or parts of scenario ids (`code`, `code/b4`, `b16`); without
/// words, the default suite.
///
/// A word that equals whole segments of ids selects those; otherwise every id that contains it.
///
/// # Errors
/// When a word selects nothing.
pub fn select(words: &[String]) -> Result<Vec<Scenario>> {
    if words.is_empty() {
        return Ok(suites::by_batch());
    }
    let all: Vec<Scenario> = SUITES.iter().flat_map(|suite| (suite.scenarios)()).collect();
    let mut chosen: Vec<Scenario> = Vec::new();
    for word in words {
        let suite = SUITES.iter().find(|suite| suite.name == word);
        let mut found = match suite {
            Some(suite) => (suite.scenarios)(),
            None => suites::by_batch().into_iter().filter(|s| has_segments(&s.id, word)).collect(),
        };
        for fits in [has_segments, |id: &str, word: &str| id.contains(word)] {
            if found.is_empty() {
                found = all.iter().filter(|s| fits(&s.id, word)).cloned().collect();
            }
        }
        if found.is_empty() {
            return Err(unknown(word, &all));
        }
        for scenario in found {
            if !chosen.contains(&scenario) {
                chosen.push(scenario);
            }
        }
    }
    Ok(chosen)
}

/// Suggests the nearest of all names, but lists only suites and categories.
fn unknown(word: &str, all: &[Scenario]) -> Error {
    let categories = CATEGORIES.iter().map(|category| category.name);
    let short: Vec<&str> = SUITES.iter().map(|suite| suite.name).chain(categories).collect();
    let ids = all.iter().map(|scenario| scenario.id.as_str());
    let near = nearest(word, &short.iter().copied().chain(ids).collect::<Vec<_>>());
    Error::unknown_but_near("suite or scenario", word, near, &short)
}

fn has_segments(id: &str, word: &str) -> bool {
    format!("/{id}/").contains(&format!("/{word}/"))
}

#[cfg(test)]
mod tests;
