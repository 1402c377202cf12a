//! What the requests ask: prompts and lengths, drawn by number, so that equal seeds ask the same.

use serde_json::Value;

use crate::client::{Api, Capabilities, ChatMessage, Generation, OptionalField, Prompt, Request};
use crate::load::dataset::Dataset;
use crate::load::lengths::Lengths;
use crate::load::trace::{BLOCK_TOKENS, Trace, TraceRequest};
use crate::load::{MAX_REQUESTS, Operation};
use crate::stats::Random;
use crate::workload::{CATEGORIES, Category, RUNNING_TEXT};

/// Bytes of English per token of usual vocabularies, where the server's own are not known.
pub const BYTES_PER_TOKEN: f64 = 4.0;

/// Where prompts come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// One of these texts.
    Texts(Vec<&'static str>),
    /// Running text of a length, from any place.
    RunningText(Lengths),
    /// One of these conversations, with the lengths of its answers.
    Dataset(Dataset),
    /// The requests of a trace in order, with their lengths.
    Trace(Trace),
}

impl Source {
    /// The prompts of categories.
    pub fn categories(categories: &[&Category]) -> Self {
        let texts = categories.iter().flat_map(|category| category.prompts);
        Self::Texts(texts.collect())
    }

    /// The names of all categories.
    pub fn category_names() -> Vec<&'static str> {
        CATEGORIES.iter().map(|category| category.name).collect()
    }
}

/// What is asked for, of whom.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// Where prompts come from.
    pub source: Source,
    /// Tokens to generate; `None` where the source says it.
    pub output_tokens: Option<Lengths>,
    /// The API that is asked.
    pub operation: Operation,
    /// The model's name on the server.
    pub model: String,
    /// The optional fields that the server takes.
    pub accepted: Vec<OptionalField>,
    /// Tokens at the start of every prompt that all share.
    pub shared_prefix: u64,
    /// Turns of a conversation.
    pub turns: u64,
    /// Texts per request of embeddings and rerank.
    pub items: u64,
    /// The JSON schema of answers.
    pub schema: Option<Value>,
    /// Seed of prompts, lengths and sampling.
    pub seed: u64,
    /// Begins every prompt with a text that no other request has, so that no prefix cache answers
    /// it; with a shared prefix, or with the blocks of a trace, with one of this level alone.
    pub salt: Option<u64>,
    /// Bytes of running text per token.
    pub bytes_per_token: f64,
}

/// A conversation, or a request by itself.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) number: u64,
    /// The turn that is asked next or that was asked last, from 0.
    pub(super) turn: u64,
    messages: Vec<ChatMessage>,
}

impl Conversation {
    /// A conversation before its first turn.
    pub(super) fn new(number: u64) -> Self {
        Self { number, turn: 0, messages: Vec::new() }
    }

    /// The conversation before its next turn, after this answer; `None` after the last.
    pub(super) fn next(mut self, answer: &str, turns: u64) -> Option<Self> {
        self.turn += 1;
        self.messages.push(ChatMessage { role: "assistant", content: answer.into() });
        (self.turn < turns).then_some(self)
    }
}

/// The number of the prefix that all requests share.
const SHARED: u64 = u64::MAX;

/// Tells the numbers of what requests have for themselves from those of what they share.
const OWN: u64 = 1 << 63;

/// The tokens of a [mark] where each digit is one, as in most vocabularies.
const MARK_TOKENS: u64 = 11;

/// The beginning of a text that no other number has: nine digits that are already different at the
/// first, since some caches know a prompt token by token.
fn mark(salt: u64, number: u64) -> String {
    format!("{:09}: ", Random::at(salt, number).bits() % 1_000_000_000)
}

impl Prompts {
    /// What a server takes.
    pub fn set_server(&mut self, server: &Capabilities) {
        self.model.clone_from(&server.model);
        self.accepted.clone_from(&server.accepted);
    }

    /// The prompts of another level, none of which begins as those of this one.
    #[must_use]
    pub fn of_level(&self, level: u64) -> Self {
        Self { salt: self.salt.map(|salt| salt.wrapping_add(level)), ..self.clone() }
    }

    /// Running text from a place, so long that it and the [mark] before have this number of tokens.
    fn fill(&self, mut text: String, place: usize, tokens: u64) -> String {
        let marked = if text.is_empty() { 0 } else { MARK_TOKENS };
        let missing = (tokens.saturating_sub(marked) as f64 * self.bytes_per_token).round();
        text.extend(RUNNING_TEXT.chars().cycle().skip(place).take(missing as usize));
        text
    }

    /// The text of a turn without what comes before it, and the tokens to generate.
    fn ask(&self, number: u64, turn: u64) -> (String, u64) {
        let mut random = Random::at(self.seed, number.wrapping_add(turn << 32));
        let label = match self.salt.filter(|_| turn == 0) {
            Some(salt) => mark(salt, number),
            None => String::new(),
        };
        let (text, tokens) = match &self.source {
            Source::Texts(texts) => (label + texts[random.below(texts.len())], None),
            Source::RunningText(lengths) => {
                let tokens = lengths.draw(&mut random);
                (self.fill(label, random.below(RUNNING_TEXT.len()), tokens), None)
            }
            Source::Dataset(dataset) => {
                let of = Random::at(self.seed, number).below(dataset.conversations.len());
                let conversation = &dataset.conversations[of];
                let one = &conversation[turn as usize % conversation.len()];
                let tokens = (one.answer_bytes as f64 / self.bytes_per_token).round();
                (label + &one.text, Some(tokens.max(1.0) as u64))
            }
            Source::Trace(trace) => {
                let request =
                    &trace.requests[(number % MAX_REQUESTS) as usize % trace.requests.len()];
                (self.blocks(number, request), Some(request.output_length))
            }
        };
        let drawn = self.output_tokens.as_ref().map(|lengths| lengths.draw(&mut random));
        let text = if turn == 0 { self.prefix(number) + &text } else { text };
        (text, drawn.or(tokens).unwrap_or(1))
    }

    /// What begins the text that requests share. Warm-ups share none with the level.
    fn shared_salt(&self, number: u64) -> u64 {
        let of_warm_up = if number < MAX_REQUESTS { 0 } else { number << 20 };
        self.salt.unwrap_or(0).wrapping_add(of_warm_up)
    }

    /// The prefix that all requests of a level share.
    fn prefix(&self, number: u64) -> String {
        if self.shared_prefix == 0 {
            return String::new();
        }
        let salt = self.shared_salt(number);
        self.fill(mark(salt, SHARED), 0, self.shared_prefix) + "\n"
    }

    /// The blocks of a request of a trace: equal ids of a level are equal texts. What no id names
    /// is the request's own.
    fn blocks(&self, number: u64, request: &TraceRequest) -> String {
        let salt = self.shared_salt(number);
        let mut text = String::new();
        let mut left = request.input_length;
        for id in &request.hash_ids {
            let tokens = left.min(BLOCK_TOKENS);
            if tokens == 0 {
                break;
            }
            let place = Random::at(self.seed, *id).below(RUNNING_TEXT.len());
            text += &self.fill(mark(salt, *id), place, tokens);
            left -= tokens;
        }
        if left > 0 {
            text += &self.fill(mark(salt ^ OWN, number), 0, left);
        }
        text
    }

    /// The request of the conversation's next turn: exactly as many tokens as are drawn where the
    /// server takes such a field, at most as many with a schema.
    pub(super) fn request(&self, conversation: &mut Conversation) -> Request {
        let Conversation { number, turn, .. } = *conversation;
        let (text, tokens) = self.ask(number, turn);
        let Operation::Generate { api } = self.operation else {
            return self.items_request(number, text);
        };
        let mut generation = Generation {
            seed: self.seed,
            accepted: self.accepted.clone(),
            schema: self.schema.clone(),
            ..Generation::exactly(&self.model, tokens)
        };
        if self.schema.is_some() {
            generation.min_tokens = None;
        }
        conversation.messages.push(ChatMessage { role: "user", content: text });
        match api {
            Api::Chat => Request::chat(&conversation.messages, &generation),
            Api::Completions => {
                let said = conversation.messages.iter().map(|message| message.content.as_str());
                let text = said.collect::<Vec<_>>().join("\n");
                Request::completion(&Prompt::Text(text), &generation)
            }
        }
    }

    fn items_request(&self, number: u64, first: String) -> Request {
        let others = (1..self.items).map(|item| self.ask(number, item << 16).0);
        let texts: Vec<String> = std::iter::once(first).chain(others).collect();
        match self.operation {
            Operation::Rerank => {
                let query = self.ask(number, self.items << 16).0;
                Request::rerank(&self.model, &query, &texts)
            }
            _ => Request::embeddings(&self.model, &texts),
        }
    }

    /// A request that shows how many bytes of running text are a token, and its bytes: the whole
    /// text, whose parts differ, if a context of so many tokens takes it. Models of embeddings
    /// usually take 512.
    pub fn calibration(&self, context: Option<u64>) -> (Request, usize) {
        let usual = match self.operation {
            Operation::Generate { .. } => u64::MAX / 2,
            Operation::Embed | Operation::Rerank => 512,
        };
        let fits = 2 * context.unwrap_or(usual) as usize;
        let text: String = RUNNING_TEXT.chars().take(fits).collect();
        let bytes = text.len();
        let mut generation = Generation::exactly(&self.model, 1);
        generation.accepted.clone_from(&self.accepted);
        let request = match self.operation {
            Operation::Generate { api: Api::Chat } => {
                Request::chat(&[ChatMessage { role: "user", content: text }], &generation)
            }
            Operation::Generate { api: Api::Completions } => {
                Request::completion(&Prompt::Text(text), &generation)
            }
            Operation::Embed => Request::embeddings(&self.model, &[text]),
            Operation::Rerank => Request::rerank(&self.model, "?", &[text]),
        };
        (request, bytes)
    }

    /// Takes the bytes and tokens of [`Self::calibration`]; a ratio that no vocabulary gives is
    /// not.
    pub fn calibrate(&mut self, bytes: usize, tokens: u64) {
        let found = bytes as f64 / tokens as f64;
        if (0.5..=8.0).contains(&found) {
            self.bytes_per_token = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn prompts(source: Source, salt: Option<u64>) -> Prompts {
        Prompts {
            source,
            output_tokens: Some(Lengths::Fixed { tokens: 8 }),
            operation: Operation::Generate { api: Api::Completions },
            model: "m".into(),
            accepted: Vec::new(),
            shared_prefix: 0,
            turns: 1,
            items: 1,
            schema: None,
            seed: 3,
            salt,
            bytes_per_token: BYTES_PER_TOKEN,
        }
    }

    fn body(request: &Request) -> Value {
        serde_json::from_slice(request.body.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn prompts_are_drawn_by_seed_and_salted_at_the_start() {
        let source = Source::categories(&[&CATEGORIES[0]]);
        let salted = prompts(source.clone(), Some(0xab));
        assert_eq!(salted.ask(17, 0), salted.ask(17, 0));
        let marks: BTreeSet<String> = [(&salted, 17), (&salted, 18), (&salted.of_level(1), 17)]
            .map(|(prompts, number)| prompts.ask(number, 0).0[..11].to_owned())
            .into();
        assert_eq!(marks.len(), 3, "requests and levels share no prompt: {marks:?}");
        let is_mark = |mark: &String| mark[..9].parse::<u32>().is_ok() && mark.ends_with(": ");
        assert!(marks.iter().all(is_mark), "{marks:?}");
        let plain = prompts(source, None);
        let drawn: BTreeSet<String> = (0..50).map(|number| plain.ask(number, 0).0).collect();
        assert_eq!(drawn.len(), 3, "all prompts of the category occur");
        let long = Source::RunningText(Lengths::Fixed { tokens: 5000 });
        let long = prompts(long, Some(1));
        assert!((0..20).all(|number| long.ask(number, 0).0.len() == 11 + 4 * 4989));
    }

    #[test]
    fn a_shared_prefix_is_that_of_the_level_and_not_of_warm_ups() {
        let mut shared = prompts(Source::categories(&[&CATEGORIES[0]]), Some(1));
        shared.shared_prefix = 100;
        let [one, other, warm_up] = [0, 7, MAX_REQUESTS].map(|number| shared.ask(number, 0).0);
        assert_eq!(one[..368], other[..368]);
        assert!(one[368..].starts_with(&mark(1, 0)) && other[368..].starts_with(&mark(1, 7)));
        assert_ne!(one[..40], warm_up[..40]);
        assert_ne!(one[..10], shared.of_level(1).ask(0, 0).0[..10]);
    }

    #[test]
    fn equal_ids_of_a_trace_are_equal_blocks() {
        let request = |input_length, hash_ids: &[u64]| TraceRequest {
            timestamp: 0.0,
            input_length,
            output_length: 5,
            hash_ids: hash_ids.to_vec(),
        };
        let requests = vec![request(1000, &[1, 2]), request(1024, &[1, 3]), request(600, &[1])];
        let trace = prompts(Source::Trace(Trace { requests }), Some(1));
        let trace = Prompts { output_tokens: None, ..trace };
        let [(one, tokens), (other, _), (short, _)] = [0, 1, 2].map(|number| trace.ask(number, 0));
        let block = 11 + 4 * 501;
        assert_eq!((one.len(), other.len(), short.len(), tokens), (3934, 4030, 2334, 5));
        assert_eq!((&one[..block], &one[..block]), (&other[..block], &short[..block]));
        assert_ne!(one[block..block + 20], other[block..block + 20]);
        assert_ne!(
            one[..block],
            trace.of_level(1).ask(0, 0).0[..block],
            "another level, other text"
        );
    }

    #[test]
    fn a_turn_holds_the_conversation_so_far() {
        let mut chat = prompts(Source::categories(&[&CATEGORIES[0]]), Some(1));
        (chat.turns, chat.operation) = (3, Operation::Generate { api: Api::Chat });
        let mut conversation = Conversation::new(4);
        let first = body(&chat.request(&mut conversation));
        let mut conversation = conversation.next("hello", chat.turns).unwrap();
        let second = body(&chat.request(&mut conversation));
        assert_eq!(second["messages"][0], first["messages"][0]);
        assert_eq!(second["messages"][1]["content"], "hello");
        assert_eq!(second["messages"][2]["role"], "user");
        let later = second["messages"][2]["content"].as_str().unwrap();
        assert!(!later.starts_with(|c: char| c.is_ascii_digit()), "{later}");
        let conversation = conversation.next("", chat.turns).unwrap();
        assert!(conversation.clone().next("", chat.turns).is_none());
        chat.operation = Operation::Generate { api: Api::Completions };
        let mut conversation = conversation;
        let third = body(&chat.request(&mut conversation));
        assert!(third["prompt"].as_str().unwrap().contains("\nhello\n"), "{third}");
    }

    #[test]
    fn lengths_follow_the_server_s_tokens() {
        let mut prompts = prompts(Source::RunningText(Lengths::Fixed { tokens: 100 }), None);
        let (_, bytes) = prompts.calibration(Some(500));
        prompts.calibrate(bytes, 500);
        assert_eq!(prompts.ask(0, 0).0.len(), 200);
        prompts.calibrate(bytes, 3);
        assert_eq!(prompts.bytes_per_token, 2.0, "no vocabulary has tokens of 333 bytes");
    }

    #[test]
    fn items_are_different_texts_of_one_request() {
        let mut many = prompts(Source::RunningText(Lengths::Fixed { tokens: 30 }), Some(1));
        (many.items, many.operation) = (3, Operation::Embed);
        let texts = body(&many.request(&mut Conversation::new(0)))["input"].clone();
        let texts: BTreeSet<&str> =
            texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(texts.len(), 3);
        many.operation = Operation::Rerank;
        let request = body(&many.request(&mut Conversation::new(0)));
        assert_eq!(request["documents"].as_array().unwrap().len(), 3);
        assert!(request["query"].is_string());
    }
}
