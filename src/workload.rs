//! What is run and what is measured: categories with their prompts, scenarios and their ids,
//! suites, and the one table of metrics. Knows nothing of models: prompts are text until an
//! engine's tokenizer has seen them.

pub mod documents;
mod metrics;
mod suites;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, nearest, shortened};

pub use metrics::{Better, Gate, METRICS, Metric, metric};
pub use suites::{SUITES, Suite};

/// A prompt category: its prompts and how many tokens each answer has.
#[derive(Debug)]
pub struct Category {
    /// The first part of a scenario's id.
    pub name: &'static str,
    /// Three prompts of different lengths, so that batches are ragged.
    pub prompts: [&'static str; 3],
    /// Tokens generated per sequence; end-of-text is ignored, so that the length is exact.
    pub new_tokens: usize,
}

/// A fixture with the line ends that git has, also where a checkout has CRLF: prompts, their hashes
/// and numbers of tokens must not depend on it.
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

/// Bytes of a text once each CRLF is LF.
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

/// Batch sizes that every category is run with.
pub const BATCHES: &[usize] = &[1, 4, 8, 16];

/// What a scenario is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Prompts of a category, one a sequence.
    Category {
        /// Its name.
        name: &'static str,
        /// Which of its prompts the first sequence has; the others follow in turn.
        first: usize,
    },
    /// A text of exactly so many tokens.
    Length {
        /// Tokens.
        prompt_tokens: usize,
    },
    /// Tokens that are read after others that the cache holds already, and were read untimed.
    Depth {
        /// Tokens in the cache.
        depth: usize,
        /// Tokens read after them, timed.
        read: usize,
    },
    /// A set of documents.
    Documents(Pipeline),
    /// Requests under a memory limit.
    Requests(StressKind),
    /// Texts whose every token is scored, here and by the f32 definition.
    Texts,
    /// An answer whose kernels are traced.
    Traced,
}

/// What is done with documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// A label each.
    Classification,
    /// A few sentences each.
    Summarisation,
    /// Fields each.
    Extraction,
    /// A function for each description.
    Code,
    /// A vector for each chunk.
    Embedding,
    /// Questions that are answered from the chunks nearest to them.
    Rag,
}

/// How memory is put under stress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StressKind {
    /// Prompts that double in length until one is refused or does not fit.
    Long,
    /// Many short prompts, one after the other.
    Many,
    /// One phrase many times over.
    Repeated,
}

/// What a scenario does, as records keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Prompts are answered.
    #[default]
    Generate,
    /// A prompt is answered after tokens that the cache holds already.
    Depth,
    /// Documents go through a pipeline.
    Items,
    /// Requests are made until something gives way.
    Stress,
    /// Scores are compared with those of the f32 definition.
    Quality,
    /// Kernels are traced; its times are not those of other scenarios.
    Profile,
}

impl Task {
    /// Whether it is the usual one, which records leave out.
    pub fn is_generate(&self) -> bool {
        *self == Task::Generate
    }
}

/// The exact work of a scenario. Two cases of one id are comparable only when this is equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// What is done.
    #[serde(default, skip_serializing_if = "Task::is_generate")]
    pub task: Task,
    /// Sequences.
    pub batch: usize,
    /// Token ids fed per sequence.
    pub prompt_tokens: Vec<usize>,
    /// Tokens in the cache before the prompt, which were read untimed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: usize,
    /// Documents, chunks or requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: usize,
    /// Tokens generated per sequence.
    pub new_tokens: usize,
    /// SHA-256 of the prompts' token ids.
    pub prompts_sha256: String,
    /// `length` (end-of-text ignored) or `natural`.
    pub stop: String,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What is done to a prompt before it is tokenized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// Nothing: plain continuation.
    #[default]
    Raw,
    /// A user's message in the model's chat template, thinking off.
    Chat,
    /// The same with thinking on.
    ChatThinking,
}

impl PromptFormat {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            PromptFormat::Raw => "raw",
            PromptFormat::Chat => "chat",
            PromptFormat::ChatThinking => "chat_thinking",
        }
    }
}

/// One measured case. Its id is the same string in Criterion, in records and in reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// For example `code/b4`.
    pub id: String,
    /// What it is given.
    pub input: Input,
    /// Sequences answered together.
    pub batch: usize,
    /// Tokens generated per sequence.
    pub new_tokens: usize,
    /// In place of the format that the settings ask for.
    pub format: Option<PromptFormat>,
    /// At least so many repetitions, whatever the settings ask for.
    pub repetitions: Option<usize>,
    /// With YaRN, four times the context.
    pub extended: bool,
}

impl Scenario {
    /// A scenario that leaves the rest to the settings.
    pub fn new(id: impl Into<String>, input: Input, batch: usize, new_tokens: usize) -> Self {
        let id = id.into();
        Self { id, input, batch, new_tokens, format: None, repetitions: None, extended: false }
    }

    /// What it does.
    pub fn task(&self) -> Task {
        match self.input {
            Input::Category { .. } | Input::Length { .. } => Task::Generate,
            Input::Depth { .. } => Task::Depth,
            Input::Documents(_) => Task::Items,
            Input::Requests(_) => Task::Stress,
            Input::Texts => Task::Quality,
            Input::Traced => Task::Profile,
        }
    }

    /// Tokens generated per sequence where the settings may ask for another length: that of
    /// categories only.
    pub fn length(&self, asked: Option<usize>) -> usize {
        match self.input {
            Input::Category { .. } => asked.unwrap_or(self.new_tokens),
            _ => self.new_tokens,
        }
    }

    /// Whether it can be measured in one process with others: not where it has another model, or
    /// wants memory for itself.
    pub fn shares_process(&self) -> bool {
        !self.extended && matches!(self.task(), Task::Generate | Task::Depth | Task::Items)
    }

    /// The prompts of a category's batch, one a sequence, all distinct and distinct from their
    /// first token on; none for scenarios that are given something else.
    ///
    /// Sequence 0 has a prompt of the category as it is written; the others take the next ones in
    /// turn and carry their number in front, because equal sequences would share caches and
    /// give every expert the same load.
    pub fn prompts(&self) -> Vec<String> {
        let Input::Category { name, first } = self.input else { return Vec::new() };
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

/// The category of this name, if there is one.
pub fn category(name: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.name == name)
}

/// The ids of every scenario that this build knows, each once, in the order of the suites.
pub fn ids() -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for scenario in SUITES.iter().flat_map(|suite| (suite.scenarios)()) {
        if !ids.contains(&scenario.id) {
            ids.push(scenario.id);
        }
    }
    ids
}

/// The scenarios that the words select: suite names, or parts of scenario ids (`code`, `code/b4`,
/// `b16`). No words means the default suite.
///
/// A word equal to an id or to whole segments of one takes just those; otherwise any id that
/// contains it.
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

/// The nearest of all names is suggested, but only those of suites and categories are listed.
fn unknown(word: &str, all: &[Scenario]) -> Error {
    let categories = CATEGORIES.iter().map(|category| category.name);
    let short: Vec<&str> = SUITES.iter().map(|suite| suite.name).chain(categories).collect();
    let ids = all.iter().map(|scenario| scenario.id.as_str());
    let near = nearest(word, &short.iter().copied().chain(ids).collect::<Vec<_>>());
    let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
    Error::Unknown {
        kind: "suite or scenario",
        name: shortened(word),
        hint,
        known: short.join(", "),
    }
}

fn has_segments(id: &str, word: &str) -> bool {
    format!("/{id}/").contains(&format!("/{word}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        select(&words).unwrap().into_iter().map(|scenario| scenario.id).collect()
    }

    #[test]
    fn fixtures_have_the_same_lines_in_every_checkout() {
        const TURNED: &str = unix_lines!("a\r\nb\rc\n\r\n");
        assert_eq!(TURNED, "a\nb\rc\n\n");
    }

    #[test]
    fn words_select_by_suite_by_segment_and_by_part() {
        assert_eq!(ids(&[]).len(), 20);
        assert_eq!(ids(&["short"]), ["short/b1", "short/b4", "short/b8", "short/b16"]);
        assert_eq!(ids(&["code/b4"]), ["code/b4"]);
        assert_eq!(ids(&["b1"]), ["short/b1", "medium/b1", "long/b1", "code/b1", "extraction/b1"]);
        assert_eq!(ids(&["prompts"]).len(), 15);
        assert_eq!(ids(&["code-2"]), ["prompts/code-2"]);
        assert_eq!(ids(&["api/chat"]), ["api/chat"], "and not `api/chat-thinking`");
        assert_eq!(ids(&["S3"]), ["grid/S3"]);
        assert_eq!(ids(&["code/b4", "code"]).len(), 4, "nothing is run twice");
    }

    #[test]
    fn every_scenario_is_known_by_one_id() {
        let known = super::ids();
        assert_eq!((known.len(), known[0].as_str()), (69, "short/b1"));
        for suite in SUITES {
            let scenarios = (suite.scenarios)();
            assert!(scenarios.iter().all(|one| known.contains(&one.id)), "{}", suite.name);
        }
        for (at, id) in known.iter().enumerate() {
            assert!(!known[..at].contains(id), "{id} is there twice");
        }
    }

    #[test]
    fn an_unknown_word_names_the_nearest() {
        let error = select(&["shrot".into()]).unwrap_err().to_string();
        assert!(error.contains("did you mean `short`?"), "{error}");
    }

    #[test]
    fn sequences_of_a_batch_differ_from_the_start() {
        for scenario in suites::by_batch() {
            let prompts = scenario.prompts();
            for (i, one) in prompts.iter().enumerate() {
                assert!(!one.trim().is_empty());
                for other in &prompts[i + 1..] {
                    assert_ne!(one.get(..8), other.get(..8), "{}", scenario.id);
                }
            }
        }
    }
}
