//! What the requests ask.

use crate::client::{Api, Capabilities, ChatMessage, Generation, Prompt, Request};
use crate::stats::Random;
use crate::workload::{CATEGORIES, Category, RUNNING_TEXT};

/// Bytes of English per token of usual vocabularies. The server's own count is what is reported.
const BYTES_PER_TOKEN: usize = 4;

/// The prompts of a load, in a drawn order.
#[derive(Debug, Clone)]
pub struct Prompts {
    texts: Vec<String>,
    seed: u64,
    /// Begins every prompt with a number that no other request has, so that no prefix is cached.
    salt: Option<u64>,
}

impl Prompts {
    /// The prompts of categories.
    pub fn of_categories(categories: &[&Category], seed: u64, salt: Option<u64>) -> Self {
        let texts = categories.iter().flat_map(|category| category.prompts);
        Self { texts: texts.map(String::from).collect(), seed, salt }
    }

    /// Running text of about this number of tokens, from different places.
    pub fn of_length(tokens: usize, seed: u64, salt: Option<u64>) -> Self {
        const PLACES: usize = 8;
        let text: Vec<char> = RUNNING_TEXT.chars().collect();
        let from = |place: usize| {
            let start = text.iter().cycle().skip(place * text.len() / PLACES);
            start.take(tokens * BYTES_PER_TOKEN).collect()
        };
        Self { texts: (0..PLACES).map(from).collect(), seed, salt }
    }

    /// The names of all categories.
    pub fn categories() -> Vec<&'static str> {
        CATEGORIES.iter().map(|category| category.name).collect()
    }

    /// The text of the request of this number.
    fn text(&self, number: u64) -> String {
        let text = &self.texts[Random::at(self.seed, number).below(self.texts.len())];
        match self.salt {
            Some(salt) => format!("[{salt:x}-{number}] {text}"),
            None => text.clone(),
        }
    }

    /// The request of this number: exactly `tokens` tokens where the server takes such a field.
    pub(super) fn request(&self, server: &Capabilities, tokens: u64, number: u64) -> Request {
        let generation = Generation {
            seed: self.seed,
            accepted: server.accepted.clone(),
            ..Generation::exactly(&server.model, tokens)
        };
        let text = self.text(number);
        match server.api {
            Api::Completions => Request::completion(&Prompt::Text(text), &generation),
            Api::Chat => Request::chat(&[ChatMessage { role: "user", content: text }], &generation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_drawn_by_seed_and_salted_at_the_start() {
        let prompts = Prompts::of_categories(&[&CATEGORIES[0]], 3, Some(0xab));
        assert!(prompts.text(17).starts_with("[ab-17] "));
        assert_eq!(prompts.text(17), prompts.text(17));
        let plain = Prompts::of_categories(&[&CATEGORIES[0]], 3, None);
        let drawn: std::collections::BTreeSet<String> = (0..50).map(|n| plain.text(n)).collect();
        assert_eq!(drawn.len(), 3, "all prompts of the category occur");
        let long = Prompts::of_length(5000, 3, None);
        assert!((0..20).all(|number| long.text(number).chars().count() == 20_000));
    }
}
