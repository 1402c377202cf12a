//! Embedding and retrieval: vectors of chunks, an index of them, and questions that are answered
//! from the chunks found for them. A vector is the mean of a text's final hidden states, made one
//! long; texts are embedded as they are, without a chat template. Whether what is found fits the
//! question is not judged: that says something of real weights alone.
//!
//! * `chunks_per_min`: chunks by the time of embedding all of them, in batches, with tokenising.
//! * `index_s`: embedding all chunks and inserting their vectors into the index. Done once, before
//!   the first question.
//! * `embed_s`, `search_s`, `assemble_s`, `answer_s`: the parts of one question. It is tokenised
//!   and embedded; the three nearest chunks are searched for; the prompt of them and the question
//!   is put together and tokenised; it is read, and the answer generated and turned into text.
//!   `e2e_s` is the whole of a question, not of the set.

use std::time::{Duration, Instant};

use crate::engine::Injection;
use crate::error::{Error, Result};
use crate::measure::pipeline::index::{Index, normalised, squared_distance};
use crate::measure::pipeline::{Measured, Outcome, Stage, per_minute};
use crate::model::Step;
use crate::workload::documents::{Chunk, Complexity, Question};
use crate::workload::{PromptFormat, documents};

/// Chunks that are embedded in one pass while the index is built.
const TOGETHER: usize = 4;

/// Chunks that a question is answered from.
const FOUND: usize = 3;

/// Passes over the chunks: one vector each. What it gives for the output's hash is each chunk's
/// nearest other one.
pub fn embedding(stage: &mut Stage<'_>) -> Result<Measured> {
    let texts: Vec<&str> = documents::chunks().iter().map(|chunk| chunk.text).collect();
    let inputs = texts.iter().map(|text| stage.encode_plain(text)).collect::<Result<_>>()?;
    let mut measured = Measured::new(inputs, texts.len());
    let batch = stage.scenario.batch;
    if stage.generation.warmups > 0 {
        let first = &texts[..batch.min(texts.len())];
        let start = Instant::now();
        stage.embed(first, batch)?;
        measured.cold = Some(per_minute(first.len(), start.elapsed()));
    }
    stage.repeat(&mut measured, |stage, measured| {
        let start = Instant::now();
        let vectors = stage.embed(&texts, batch)?;
        let spent = start.elapsed();
        measured.sample("e2e_s", spent.as_secs_f64());
        let embedded = vectors.iter().filter(|vector| vector.is_ok()).count();
        measured.sample("chunks_per_min", per_minute(embedded, spent));
        measured.pass(nearest_others(&vectors), spent)
    })?;
    Ok(measured)
}

/// For every vector the number of the nearest other one, by looking at all.
fn nearest_others(vectors: &[Outcome<Vec<f32>>]) -> Vec<Outcome<Vec<u32>>> {
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

/// Builds the index, then answers all questions pass by pass, one after the other.
pub fn questions(stage: &mut Stage<'_>) -> Result<Measured> {
    let (chunks, questions) = (documents::chunks(), documents::questions());
    let given: Vec<&str> =
        chunks.iter().map(|chunk| chunk.text).chain(questions.iter().map(|q| q.text)).collect();
    let inputs = given.iter().map(|text| stage.encode_plain(text)).collect::<Result<_>>()?;
    let mut measured = Measured::new(inputs, questions.len());
    let texts = &given[..chunks.len()];
    if stage.generation.warmups > 0 {
        stage.embed(&texts[..TOGETHER], TOGETHER)?;
    }
    let start = Instant::now();
    let vectors = stage.embed(texts, TOGETHER)?;
    let embedded = start.elapsed();
    let vectors: Outcome<Vec<Vec<f32>>> = vectors.into_iter().collect();
    let mut index = Index::build(vectors.map_err(Error::Failed)?)?;
    measured.sample("index_s", start.elapsed().as_secs_f64());
    measured.sample("chunks_per_min", per_minute(chunks.len(), embedded));
    if stage.generation.warmups > 0 {
        let answered = stage.question(&mut index, &chunks, &questions[0])?;
        measured.cold = answered.ok().map(|answered| 60.0 / answered.whole_s());
    }
    stage.repeat(&mut measured, |stage, measured| {
        let mut outcomes = Vec::with_capacity(questions.len());
        let start = Instant::now();
        for question in &questions {
            let answered = stage.question(&mut index, &chunks, question)?;
            if let Ok(answered) = &answered {
                for (name, time) in PARTS.iter().zip(answered.times) {
                    measured.sample(name, time.as_secs_f64());
                }
                let name = match question.kind {
                    Complexity::Simple => "e2e_simple_s",
                    Complexity::Complex => "e2e_complex_s",
                };
                measured.sample(name, answered.whole_s());
            }
            outcomes.push(answered.map(|answered| answered.output));
        }
        let spent = start.elapsed();
        measured.pass(outcomes, spent)
    })?;
    note(&mut measured, chunks.len());
    Ok(measured)
}

/// Says what the numbers are of.
fn note(measured: &mut Measured, chunks: usize) {
    let built = format!("{chunks} chunks embedded in batches of {TOGETHER}, inserted into HNSW");
    measured.notes.insert("index_s", format!("once a process: {built}"));
    measured.notes.insert("chunks_per_min", "while the index was built, once a process".into());
    for part in PARTS.iter().chain(&["e2e_simple_s", "e2e_complex_s"]) {
        measured.notes.insert(part, "a value a question, all passes".into());
    }
}

/// What the time of a question is made of; the last is all of it.
const PARTS: [&str; 5] = ["embed_s", "search_s", "assemble_s", "answer_s", "e2e_s"];

/// A question that was answered.
struct Answered {
    /// As [`PARTS`].
    times: [Duration; PARTS.len()],
    /// Numbers of the chunks that were found, then the answer's token ids.
    output: Vec<u32>,
}

impl Answered {
    /// All of it.
    fn whole_s(&self) -> f64 {
        self.times[PARTS.len() - 1].as_secs_f64()
    }
}

impl Stage<'_> {
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.encode(text, PromptFormat::Raw)
    }

    /// A vector of length 1 for each text, some texts a pass. A text that cannot be read, or is
    /// longer than the context, fails alone; one that breaks the model takes its batch along.
    ///
    /// # Errors
    /// When the engine shows no hidden states ([`Error::Unsupported`]).
    fn embed(&mut self, texts: &[&str], batch: usize) -> Result<Vec<Outcome<Vec<f32>>>> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in texts.chunks(batch) {
            let read = |text: &&str| {
                let ids = self.encode_plain(text).map_err(|error| error.chain())?;
                let fits = self.engine.decoder.check_length(ids.len());
                fits.map(|()| ids).map_err(|error| error.chain())
            };
            let read: Vec<Outcome<Vec<u32>>> = texts.iter().map(read).collect();
            let ids: Vec<&[u32]> = read.iter().flatten().map(Vec::as_slice).collect();
            let mut vectors = match self.hidden(&ids) {
                Ok(vectors) => vectors.into_iter().map(unit).collect(),
                Err(error @ Error::Unsupported(_)) => return Err(error),
                Err(error) => vec![Err(error.chain()); ids.len()],
            }
            .into_iter();
            let vector = |read: Outcome<Vec<u32>>| {
                read.and_then(|_| vectors.next().expect("there is a vector for each text"))
            };
            all.extend(read.into_iter().map(vector));
        }
        Ok(all)
    }

    /// The mean of the final hidden states of each sequence.
    fn hidden(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
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
    fn question(
        &mut self,
        index: &mut Index,
        chunks: &[Chunk],
        question: &Question,
    ) -> Result<Outcome<Answered>> {
        let start = Instant::now();
        let vector = match self.embed(&[question.text], 1)?.remove(0) {
            Ok(vector) => vector,
            Err(why) => return Ok(Err(why)),
        };
        let embedded = start.elapsed();
        let found = index.nearest(&vector, FOUND);
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
        Ok(Ok(Answered { times, output: [found, ids].concat() }))
    }
}

fn unit(vector: Vec<f32>) -> Outcome<Vec<f32>> {
    normalised(vector).ok_or_else(|| "a vector is zero or not finite".into())
}
