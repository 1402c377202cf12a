//! Embedding and retrieval-augmented answers. The vector of a text is the normalized mean of its
//! final hidden states; texts are embedded without a chat template. Retrieval quality is not
//! judged: it would depend on real weights.
//!
//! * `chunks_per_min`: chunks per minute of embedding all of them, in batches, tokenization
//!   included.
//! * `index_s`: embedding all chunks and inserting their vectors into the index, once, before the
//!   first question.
//! * `embed_s`, `search_s`, `assemble_s`, `answer_s`: the stages of one question: tokenize and
//!   embed it; search the three nearest chunks; assemble and tokenize the prompt; prefill it,
//!   generate the answer and detokenize it. `e2e_s` is the whole question, not the set.

use std::time::{Duration, Instant};

use crate::engine::Injection;
use crate::error::{Error, Result};
use crate::measure::pipeline::index::{Index, normalized, squared_distance};
use crate::measure::pipeline::{ItemResult, PipelineSamples, Runner, per_minute};
use crate::model::Step;
use crate::workload::documents::{Chunk, Complexity, Question};
use crate::workload::{PromptFormat, documents, metric};

/// Batch size of embedding while the index is built.
const INDEX_BATCH: usize = 4;

/// Chunks retrieved for a question.
const TOP_K: usize = 3;

/// Passes over the chunks, one vector each. The output that is hashed is each chunk's nearest
/// neighbour.
pub fn embed_chunks(runner: &mut Runner<'_>) -> Result<PipelineSamples> {
    let texts: Vec<&str> = documents::chunks().iter().map(|chunk| chunk.text).collect();
    let inputs = texts.iter().map(|text| runner.encode_raw(text)).collect::<Result<_>>()?;
    let mut samples = PipelineSamples::new(inputs, texts.len());
    let batch = runner.scenario.batch;
    if runner.generation.warmups > 0 {
        let first = &texts[..batch.min(texts.len())];
        let start = Instant::now();
        runner.embed(first, batch)?;
        samples.cold = Some(per_minute(first.len(), start.elapsed()));
    }
    runner.run_passes(&mut samples, |runner, samples| {
        let start = Instant::now();
        let vectors = runner.embed(&texts, batch)?;
        let elapsed = start.elapsed();
        samples.add(metric::E2E_S, elapsed.as_secs_f64());
        let embedded = vectors.iter().filter(|vector| vector.is_ok()).count();
        samples.add(metric::CHUNKS_PER_MIN, per_minute(embedded, elapsed));
        samples.add_pass(nearest_neighbours(&vectors), elapsed)
    })?;
    Ok(samples)
}

/// The number of each vector's nearest neighbour, by exhaustive search.
fn nearest_neighbours(vectors: &[ItemResult<Vec<f32>>]) -> Vec<ItemResult<Vec<u32>>> {
    let nearest = |i: usize, vector: &Vec<f32>| {
        let others = vectors.iter().enumerate().filter(|(j, _)| *j != i);
        let distances = others.filter_map(|(j, other)| {
            let other = other.as_ref().ok()?;
            Some((squared_distance(vector, other), j as u32))
        });
        distances.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, j)| j).into_iter().collect()
    };
    let all = vectors.iter().enumerate();
    all.map(|(i, vector)| vector.as_ref().map(|vector| nearest(i, vector)).map_err(Clone::clone))
        .collect()
}

/// Builds the index, then answers the questions one after the other, in passes.
pub fn answer_questions(runner: &mut Runner<'_>) -> Result<PipelineSamples> {
    let (chunks, questions) = (documents::chunks(), documents::questions());
    let given: Vec<&str> =
        chunks.iter().map(|chunk| chunk.text).chain(questions.iter().map(|q| q.text)).collect();
    let inputs = given.iter().map(|text| runner.encode_raw(text)).collect::<Result<_>>()?;
    let mut samples = PipelineSamples::new(inputs, questions.len());
    let texts = &given[..chunks.len()];
    if runner.generation.warmups > 0 {
        runner.embed(&texts[..INDEX_BATCH], INDEX_BATCH)?;
    }
    let start = Instant::now();
    let vectors = runner.embed(texts, INDEX_BATCH)?;
    let embedded = start.elapsed();
    let vectors: ItemResult<Vec<Vec<f32>>> = vectors.into_iter().collect();
    let index = Index::new(vectors.map_err(Error::Failed)?);
    samples.add(metric::INDEX_S, start.elapsed().as_secs_f64());
    samples.add(metric::CHUNKS_PER_MIN, per_minute(chunks.len(), embedded));
    if runner.generation.warmups > 0 {
        let answer = runner.answer_question(&index, &chunks, &questions[0])?;
        samples.cold = answer.ok().map(|answer| 60.0 / answer.e2e_s());
    }
    runner.run_passes(&mut samples, |runner, samples| {
        let mut results = Vec::with_capacity(questions.len());
        let start = Instant::now();
        for question in &questions {
            let result = runner.answer_question(&index, &chunks, question)?;
            if let Ok(answer) = &result {
                for (name, time) in STAGES.iter().zip(answer.times) {
                    samples.add(name, time.as_secs_f64());
                }
                let name = match question.kind {
                    Complexity::Simple => metric::E2E_SIMPLE_S,
                    Complexity::Complex => metric::E2E_COMPLEX_S,
                };
                samples.add(name, answer.e2e_s());
            }
            results.push(result.map(|answer| answer.output));
        }
        let elapsed = start.elapsed();
        samples.add_pass(results, elapsed)
    })?;
    add_notes(&mut samples, chunks.len());
    Ok(samples)
}

/// Notes how often and on what each metric was measured.
fn add_notes(samples: &mut PipelineSamples, chunks: usize) {
    let built = format!("{chunks} chunks embedded in batches of {INDEX_BATCH}, searched exactly");
    samples.notes.insert(metric::INDEX_S, format!("once per process: {built}"));
    samples
        .notes
        .insert(metric::CHUNKS_PER_MIN, "while the index was built, once per process".into());
    for name in STAGES.iter().chain(&[metric::E2E_SIMPLE_S, metric::E2E_COMPLEX_S]) {
        samples.notes.insert(name, "one value per question, all passes".into());
    }
}

/// The stages of a question, and last the whole.
const STAGES: [&str; 5] =
    [metric::EMBED_S, metric::SEARCH_S, metric::ASSEMBLE_S, metric::ANSWER_S, metric::E2E_S];

/// The answer to a question.
struct Answer {
    /// In the order of [`STAGES`].
    times: [Duration; STAGES.len()],
    /// Numbers of the retrieved chunks, then the answer's token ids.
    output: Vec<u32>,
}

impl Answer {
    fn e2e_s(&self) -> f64 {
        self.times[STAGES.len() - 1].as_secs_f64()
    }
}

impl Runner<'_> {
    fn encode_raw(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.encode(text, PromptFormat::Raw)
    }

    /// The unit vector of each text. A text that cannot be tokenized, or is longer than the
    /// context, fails alone; a failed forward pass fails its batch.
    ///
    /// # Errors
    /// When the engine gives no hidden states ([`Error::Unsupported`]).
    fn embed(&mut self, texts: &[&str], batch: usize) -> Result<Vec<ItemResult<Vec<f32>>>> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in texts.chunks(batch) {
            let tokenize = |text: &&str| {
                let ids = self.encode_raw(text).map_err(|error| error.chain())?;
                let fits = self.engine.decoder.check_length(ids.len());
                fits.map(|()| ids).map_err(|error| error.chain())
            };
            let tokens: Vec<ItemResult<Vec<u32>>> = texts.iter().map(tokenize).collect();
            let ids: Vec<&[u32]> = tokens.iter().flatten().map(Vec::as_slice).collect();
            let mut vectors = match self.mean_hidden_states(&ids) {
                Ok(vectors) => vectors.into_iter().map(unit_vector).collect(),
                Err(error @ Error::Unsupported(_)) => return Err(error),
                Err(error) => vec![Err(error.chain()); ids.len()],
            }
            .into_iter();
            all.extend(tokens.into_iter().map(|tokens| {
                tokens.and_then(|_| vectors.next().expect("there is a vector for each text"))
            }));
        }
        Ok(all)
    }

    /// The mean of the final hidden states of each sequence.
    fn mean_hidden_states(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let decoder = &mut self.engine.decoder;
        decoder.reset(ids.len())?;
        let steps: Vec<Step<'_>> =
            ids.iter().enumerate().map(|(sequence, tokens)| Step { sequence, tokens }).collect();
        let vectors = decoder.embed(&steps)?;
        Injection::after_pass(self.injection, decoder.as_ref(), start.elapsed());
        Ok(vectors)
    }

    /// Answers a question from the chunks nearest to it.
    fn answer_question(
        &mut self,
        index: &Index,
        chunks: &[Chunk],
        question: &Question,
    ) -> Result<ItemResult<Answer>> {
        let start = Instant::now();
        let vector = match self.embed(&[question.text], 1)?.remove(0) {
            Ok(vector) => vector,
            Err(why) => return Ok(Err(why)),
        };
        let embedded = start.elapsed();
        let found = index.nearest(&vector, TOP_K);
        let searched = start.elapsed();
        let texts: Vec<&str> = found.iter().map(|&chunk| chunks[chunk as usize].text).collect();
        let prompt = self.encode(&documents::prompt_with_context(question.text, &texts));
        let assembled = start.elapsed();
        let fits = prompt.and_then(|prompt| self.check_length(&prompt).map(|()| prompt));
        let prompt = match fits {
            Ok(prompt) => prompt,
            Err(error) => return Ok(Err(error.chain())),
        };
        let ids = match self.generate(&[prompt]) {
            Ok(mut answers) => answers.remove(0),
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => return Ok(Err(error.chain())),
        };
        let end = start.elapsed();
        let times = [embedded, searched - embedded, assembled - searched, end - assembled, end];
        Ok(Ok(Answer { times, output: [found, ids].concat() }))
    }
}

fn unit_vector(vector: Vec<f32>) -> ItemResult<Vec<f32>> {
    normalized(vector).ok_or_else(|| "a vector is zero or not finite".into())
}
