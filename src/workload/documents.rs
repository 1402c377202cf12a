//! The documents of the suite `pipelines`: texts, the prompts around them, chunks of articles, and
//! questions about them. Knows nothing of models: lengths are in words.

use std::ops::Range;

use crate::workload::{Pipeline, unix_lines};

/// A question about the articles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Its text.
    pub text: &'static str,
    /// Whether the answer has several facts or reasons, instead of one fact.
    pub is_complex: bool,
}

const TICKETS: &str = unix_lines!(include_str!("../../fixtures/documents/tickets.txt"));
const ARTICLES: &str = unix_lines!(include_str!("../../fixtures/documents/articles.txt"));
const RECORDS: &str = unix_lines!(include_str!("../../fixtures/documents/records.txt"));
const FUNCTIONS: &str = unix_lines!(include_str!("../../fixtures/documents/functions.txt"));
const QUESTIONS: &str = unix_lines!(include_str!("../../fixtures/documents/questions.txt"));

/// Words of a chunk, and how many of them the next one repeats.
const CHUNK: usize = 60;
const OVERLAP: usize = 20;

/// The documents of a pipeline with their ids; the articles, if it works on chunks.
pub fn documents(pipeline: Pipeline) -> Vec<(&'static str, &'static str)> {
    let file = match pipeline {
        Pipeline::Classification => TICKETS,
        Pipeline::Extraction => RECORDS,
        Pipeline::Code => FUNCTIONS,
        Pipeline::Summarization | Pipeline::Embedding | Pipeline::Rag => ARTICLES,
    };
    sections(file).collect()
}

/// The articles in chunks of at most 60 words that overlap by 20; no chunk spans two articles.
pub fn chunks() -> Vec<&'static str> {
    sections(ARTICLES).flat_map(|(_, text)| windows(text, CHUNK, OVERLAP)).collect()
}

/// The questions, simple ones first. The head of each is the id of the article that answers it, and
/// its complexity.
pub fn questions() -> Vec<Question> {
    let questions = sections(QUESTIONS)
        .map(|(head, text)| Question { text, is_complex: head.ends_with(" complex") });
    questions.collect()
}

/// The prompt for a document. All prompts of a pipeline share a prefix, as in practice.
pub fn prompt(pipeline: Pipeline, text: &str) -> String {
    let (before, after) = match pipeline {
        Pipeline::Classification => (
            "Sort the message into one of: fault, billing, delivery, wish, other. Answer with that \
             word alone.\n\nMessage: ",
            "\n\nKind:",
        ),
        Pipeline::Summarization => ("Summarise the article in two sentences.\n\n", "\n\nSummary:"),
        Pipeline::Extraction => (
            "Return the names, dates, amounts and units of the record as JSON, null for what it \
             does not say.\n\n",
            "\n\nJSON:",
        ),
        Pipeline::Code => ("Write a Rust function, without explanation.\n\n", "\n\n```rust\n"),
        Pipeline::Embedding => ("", ""),
        Pipeline::Rag => ("Question: ", "\nAnswer:"),
    };
    format!("{before}{text}{after}")
}

/// The prompt for a question with its retrieved chunks, nearest first.
pub(crate) fn prompt_with_context(question: &str, chunks: &[&str]) -> String {
    let mut prompt = String::from("Answer in one or two sentences, from these notes alone.\n\n");
    for (i, note) in chunks.iter().enumerate() {
        prompt += &format!("Note {}: {note}\n\n", i + 1);
    }
    prompt + &self::prompt(Pipeline::Rag, question)
}

/// The sections of a file, each below a line `== head`.
fn sections(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = file.split("== ").filter(|section| !section.trim().is_empty());
    sections.map(|section| {
        let (head, text) = section.split_once('\n').unwrap_or((section, ""));
        (head.trim(), text.trim())
    })
}

/// Splits a text into windows of at most `length` words, each beginning with the last `overlap`
/// words of the previous one.
fn windows(text: &str, length: usize, overlap: usize) -> Vec<&str> {
    let words: Vec<Range<usize>> = text
        .split_whitespace()
        .map(|word| {
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            start..start + word.len()
        })
        .collect();
    let mut parts = Vec::new();
    let mut first = 0;
    while let Some(rest) = words.get(first..).filter(|rest| !rest.is_empty()) {
        let last = &rest[rest.len().min(length) - 1];
        parts.push(&text[rest[0].start..last.end]);
        if rest.len() <= length {
            break;
        }
        first += length - overlap;
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn documents_of_a_set_are_distinct_and_of_similar_length() {
        for (pipeline, count, words) in [
            (Pipeline::Classification, 24, 10..40),
            (Pipeline::Summarization, 12, 100..200),
            (Pipeline::Extraction, 12, 30..70),
            (Pipeline::Code, 12, 10..50),
        ] {
            let all = documents(pipeline);
            let ids: BTreeSet<&str> = all.iter().map(|(id, _)| *id).collect();
            let texts: BTreeSet<&str> = all.iter().map(|(_, text)| *text).collect();
            assert_eq!((all.len(), ids.len(), texts.len()), (count, count, count), "{pipeline:?}");
            for (id, text) in all {
                let length = text.split_whitespace().count();
                assert!(words.contains(&length), "{id} has {length} words");
                assert!(!id.contains(' ') && text.is_ascii() && !text.contains('\n'), "{id}");
            }
        }
    }

    #[test]
    fn every_question_has_its_article() {
        let articles: BTreeSet<&str> = documents(Pipeline::Rag).iter().map(|(id, _)| *id).collect();
        let complexity: Vec<bool> = questions().iter().map(|one| one.is_complex).collect();
        assert_eq!(complexity, [false, false, false, false, true, true, true, true]);
        for (head, text) in sections(QUESTIONS) {
            let (article, kind) = head.split_once(' ').unwrap();
            assert!(articles.contains(article) && text.len() > 20, "{article}");
            assert!(["simple", "complex"].contains(&kind), "{head}");
        }
    }

    #[test]
    fn windows_overlap_and_leave_nothing_out() {
        assert_eq!(windows("a bb  c d e f g", 4, 2), ["a bb  c d", "c d e f", "e f g"]);
        assert_eq!(windows("a b c d", 4, 2), ["a b c d"]);
        assert_eq!(windows("a b c d e", 4, 0), ["a b c d", "e"]);
        assert_eq!(windows("a", 4, 2), ["a"]);
        assert_eq!(windows(" \n", 4, 2), [""; 0]);
    }

    #[test]
    fn chunks_cover_the_articles() {
        let all = chunks();
        assert_eq!(all.len(), 36);
        for (article, text) in documents(Pipeline::Embedding) {
            let own: Vec<&str> = all.iter().copied().filter(|chunk| text.contains(chunk)).collect();
            assert!(text.starts_with(own[0]));
            assert!(text.ends_with(own[own.len() - 1]));
            for pair in own.windows(2) {
                let words: Vec<&str> = pair[0].split_whitespace().collect();
                assert_eq!(words.len(), CHUNK);
                let shared = words[CHUNK - OVERLAP..].join(" ");
                assert!(pair[1].starts_with(&shared), "{article}");
            }
        }
    }

    #[test]
    fn retrieved_chunks_come_before_the_question() {
        let text = prompt_with_context("Why?", &["First.", "Second."]);
        assert!(text.ends_with("Note 1: First.\n\nNote 2: Second.\n\nQuestion: Why?\nAnswer:"));
        assert!(prompt(Pipeline::Code, "Adds.").ends_with("Adds.\n\n```rust\n"));
        assert_eq!(prompt(Pipeline::Embedding, "As it is."), "As it is.");
    }
}
