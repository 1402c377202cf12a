//! Document pipelines on a server: answers by its completions or chat, vectors by
//! `/v1/embeddings`, and the search between them here. A batch is as many requests at once.
//!
//! * Every prompt of an answer begins with a salt, so that no pass is answered from a prefix cache;
//!   answers differ with it and are not hashed. Texts to embed have none: which chunks are found
//!   must not change.
//! * `assemble_s` has no tokenization in it, which is the server's and part of `answer_s`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Connection;
use super::prompts::hash_texts;
use super::sample::{cached_share, median_timings};
use super::shared::unwanted_hits;
use super::template::RequestTemplate;
use super::unseen::set_unseen;
use crate::client::{Exchange, Fault, Request, Scrape};
use crate::error::{Error, Result};
use crate::measure::pipeline::{Backend, ItemResult, unit_vector};
use crate::measure::{hash_ids, pipeline};
use crate::record::{Case, Work};
use crate::settings::Generation;
use crate::workload::{Pipeline, Scenario, TEXT_HASH};

/// Measures a pipeline on a server: a case with one block.
///
/// # Errors
/// When the server does not have what the pipeline needs ([`Error::Unsupported`]), or every
/// document fails.
pub(crate) fn pipeline_case(
    connection: &mut Connection,
    scenario: &Scenario,
    pipeline: Pipeline,
    generation: &Generation,
    session: &str,
) -> Result<Case> {
    let template = RequestTemplate::new(connection, scenario, generation)?;
    let mut remote = Remote {
        connection,
        scenario,
        template,
        before: None,
        counters: BTreeMap::new(),
        timings: Vec::new(),
        most_cached: 0.0,
        other_length: None,
    };
    let samples = pipeline::run(&mut remote, scenario, pipeline, generation)?;
    // Answers of a server are empty here; numbers of chunks are not.
    let output = samples.output.as_deref().filter(|all| all.iter().any(|one| !one.is_empty()));
    let output_sha256 = output.map(|output| TEXT_HASH.to_owned() + &hash_ids(output));
    let mut case = Case { output_sha256, ..samples.into_case(scenario, session) };
    if let Some(other) = remote.other_length {
        let wanted = scenario.new_tokens;
        case.validity.fail(format!("an answer has {other} tokens instead of {wanted}"));
    }
    case.validity.warnings.extend(unwanted_hits(remote.most_cached));
    if cfg!(debug_assertions) {
        case.validity.warnings.push("the client's build has debug assertions".into());
    }
    for block in &mut case.blocks {
        set_unseen(block);
        block.server.clone_from(&remote.counters);
        block.server.extend(median_timings(remote.timings.iter()));
    }
    Ok(case)
}

/// A server that answers and embeds.
struct Remote<'a> {
    connection: &'a mut Connection,
    scenario: &'a Scenario,
    template: RequestTemplate,
    /// The server's metrics when the passes began.
    before: Option<Scrape>,
    /// What they counted during the passes.
    counters: BTreeMap<String, f64>,
    /// Where the time of each answer went, as the server says.
    timings: Vec<BTreeMap<String, f64>>,
    /// The largest share of a prompt that came from the server's prefix cache.
    most_cached: f64,
    /// The length of an answer that has not the wanted one.
    other_length: Option<u64>,
}

impl Remote<'_> {
    /// The work on these texts. The tokens of prompts are the server's secret until they are sent,
    /// and then have those of a salt among them.
    fn work<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Work {
        Work {
            task: self.scenario.task(),
            batch: self.scenario.batch,
            new_tokens: self.scenario.new_tokens,
            prompts_sha256: hash_texts(texts),
            stop: if self.template.is_exact() { "length" } else { "natural" }.into(),
            ..Work::default()
        }
    }

    fn embeddings(&self, texts: &[&str]) -> Exchange {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let request = Request::embeddings(self.template.model(), &texts);
        self.connection.exchange(vec![request]).remove(0)
    }

    /// Keeps what an answer says beside its text.
    fn note(&mut self, answer: &Exchange) {
        self.timings.push(answer.timings.clone());
        self.most_cached = self.most_cached.max(cached_share(answer).unwrap_or(0.0));
        let wanted = self.scenario.new_tokens as u64;
        let tokens = answer.completion_tokens(None).map(|(tokens, _)| tokens);
        let other = tokens.filter(|tokens| self.template.is_exact() && *tokens != wanted);
        self.other_length = self.other_length.or(other);
    }
}

impl Backend for Remote<'_> {
    type Prompt = String;

    fn answering(&mut self, prompts: &[String]) -> Result<Work> {
        Ok(self.work(prompts.iter().map(String::as_str)))
    }

    fn embedding(&mut self, texts: &[&str]) -> Result<Work> {
        let first = self.embeddings(&texts[..1]);
        match (&first.fault, vectors(&first.content, 1)) {
            (None, Ok(_)) => Ok(self.work(texts.iter().copied())),
            (None, Err(why)) => {
                Err(Error::Unsupported(format!("the server gives no embeddings: {why}")))
            }
            (Some(fault), _) if is_refusal(fault) => {
                Err(Error::Unsupported(format!("the server gives no embeddings: {fault}")))
            }
            (Some(fault), _) => {
                Err(Error::Failed(format!("`/v1/embeddings`: {}: {fault}", fault.name())))
            }
        }
    }

    fn prompt(&mut self, text: &str) -> String {
        self.connection.salts.salted(text)
    }

    fn generate(&mut self, prompts: Vec<String>) -> Result<Vec<ItemResult<Vec<u32>>>> {
        let tokens = self.scenario.new_tokens;
        let requests = prompts.iter().map(|text| self.template.request(text, tokens)).collect();
        let answers = self.connection.exchange(requests);
        let result = |answer: &Exchange| match &answer.fault {
            Some(fault) => Err(format!("{}: {fault}", fault.name())),
            None => {
                self.note(answer);
                Ok(Vec::new())
            }
        };
        Ok(answers.iter().map(result).collect())
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<ItemResult<Vec<f32>>>> {
        let answer = self.embeddings(texts);
        let found = match &answer.fault {
            Some(fault) => Err(format!("{}: {fault}", fault.name())),
            None => vectors(&answer.content, texts.len()),
        };
        Ok(match found {
            Ok(vectors) => vectors.into_iter().map(unit_vector).collect(),
            Err(why) => vec![Err(why); texts.len()],
        })
    }

    fn begin(&mut self) {
        self.before = self.connection.scrape();
    }

    fn end(&mut self) {
        self.counters = self.connection.counters_since(self.before.as_ref());
    }
}

/// Whether a server answers that it does not do this: llama-server says 501.
fn is_refusal(fault: &Fault) -> bool {
    matches!(fault, Fault::ClientError { .. } | Fault::ServerError { status: 501, .. })
}

/// The vectors in the answer to so many texts, in their order.
fn vectors(body: &str, texts: usize) -> ItemResult<Vec<Vec<f32>>> {
    let body: Value =
        serde_json::from_str(body).map_err(|error| format!("invalid JSON: {error}"))?;
    let mut found: Vec<Option<Vec<f32>>> = vec![None; texts];
    let items = body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (position, item) in items.iter().enumerate() {
        let index = item["index"].as_u64().map_or(position, |index| index as usize);
        let vector = item["embedding"].as_array();
        let vector = vector.and_then(|all| all.iter().map(|x| Some(x.as_f64()? as f32)).collect());
        if let (Some(place), Some(vector)) = (found.get_mut(index), vector) {
            *place = Some(vector);
        }
    }
    let known = found.iter().flatten().count();
    let all: Option<Vec<Vec<f32>>> = found.into_iter().collect();
    all.ok_or_else(|| format!("{known} of {texts} vectors in the answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_in_the_order_of_their_index_and_none_is_missing() {
        let two = r#"{ "data": [{ "index": 1, "embedding": [3, 4] },
                                { "index": 0, "embedding": [1, 0.5] }] }"#;
        assert_eq!(vectors(two, 2), Ok(vec![vec![1.0, 0.5], vec![3.0, 4.0]]));
        let bare = r#"{ "data": [{ "embedding": [1] }, { "embedding": [2] }] }"#;
        assert_eq!(
            vectors(bare, 2),
            Ok(vec![vec![1.0], vec![2.0]]),
            "without an index their order"
        );
        for (body, why) in [
            (two, "2 of 3 vectors in the answer"),
            (r#"{ "data": [{ "index": 9, "embedding": [1] }] }"#, "0 of 3 vectors in the answer"),
            (r#"{ "data": [{ "embedding": ["a"] }] }"#, "0 of 3 vectors in the answer"),
            ("{}", "0 of 3 vectors in the answer"),
        ] {
            assert_eq!(vectors(body, 3), Err(why.into()), "{body}");
        }
        assert!(vectors("<html>", 1).unwrap_err().starts_with("invalid JSON: "));
    }
}
