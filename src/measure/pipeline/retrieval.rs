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

use crate::error::{Error, Result};
use crate::measure::pipeline::{Backend, ItemResult, PipelineSamples, Runner, per_minute};
use crate::workload::documents::Question;
use crate::workload::{documents, metric};

/// Batch size of embedding while the index is built.
const INDEX_BATCH: usize = 4;

/// Chunks retrieved for a question.
const TOP_K: usize = 3;

/// Passes over the chunks, one vector each. The output that is hashed is each chunk's nearest
/// neighbour.
pub(super) fn embed_chunks<B: Backend>(runner: &mut Runner<'_, B>) -> Result<PipelineSamples> {
    let texts: Vec<&str> = documents::chunks();
    let mut samples = PipelineSamples::new(runner.backend.embedding(&texts)?, texts.len());
    let embed = |runner: &mut Runner<'_, B>, texts: &[&str]| runner.backend.embed(texts);
    runner.run_set(&mut samples, &texts, embed, |samples, vectors, elapsed| {
        let embedded = vectors.iter().filter(|vector| vector.is_ok()).count();
        samples.block.add_sample(metric::CHUNKS_PER_MIN, per_minute(embedded, elapsed));
        samples.add_pass(nearest_neighbours(&vectors), elapsed)
    })?;
    Ok(samples)
}

/// The number of each vector's nearest neighbour.
fn nearest_neighbours(vectors: &[ItemResult<Vec<f32>>]) -> Vec<ItemResult<Vec<u32>>> {
    let known = || (0..).zip(vectors).filter_map(|(i, vector)| Some((i, vector.as_ref().ok()?)));
    let neighbour = |(i, vector): (u32, &ItemResult<Vec<f32>>)| {
        let vector = vector.as_ref().map_err(String::clone)?;
        Ok(nearest(known().filter(|(j, _)| *j != i), vector, 1))
    };
    (0..).zip(vectors).map(neighbour).collect()
}

/// Builds the index, then answers the questions one after the other, in passes.
pub(super) fn answer_questions<B: Backend>(runner: &mut Runner<'_, B>) -> Result<PipelineSamples> {
    let (chunks, questions) = (documents::chunks(), documents::questions());
    let given: Vec<&str> = chunks.iter().copied().chain(questions.iter().map(|q| q.text)).collect();
    let mut samples = PipelineSamples::new(runner.backend.embedding(&given)?, questions.len());
    let texts = &given[..chunks.len()];
    if runner.generation.warmups > 0 {
        runner.backend.embed(&texts[..INDEX_BATCH])?;
    }
    let start = Instant::now();
    let mut vectors = Vec::with_capacity(texts.len());
    for texts in texts.chunks(INDEX_BATCH) {
        vectors.extend(runner.backend.embed(texts)?);
    }
    let embedded = start.elapsed();
    let index = vectors.into_iter().collect::<ItemResult<Vec<_>>>().map_err(Error::Failed)?;
    samples.block.add_sample(metric::INDEX_S, start.elapsed().as_secs_f64());
    samples.block.add_sample(metric::CHUNKS_PER_MIN, per_minute(chunks.len(), embedded));
    if runner.generation.warmups > 0 {
        let answer = runner.answer_question(&index, &chunks, &questions[0])?;
        if let Ok(answer) = answer {
            samples.set_cold(60.0 / answer.e2e_s());
        }
    }
    runner.run_passes(&mut samples, |runner, samples| {
        let mut results = Vec::with_capacity(questions.len());
        let start = Instant::now();
        for question in &questions {
            let result = runner.answer_question(&index, &chunks, question)?;
            if let Ok(answer) = &result {
                for (name, time) in STAGES.iter().zip(answer.times) {
                    samples.block.add_sample(name, time.as_secs_f64());
                }
                let name = match question.is_complex {
                    false => metric::E2E_SIMPLE_S,
                    true => metric::E2E_COMPLEX_S,
                };
                samples.block.add_sample(name, answer.e2e_s());
            }
            results.push(result.map(|answer| answer.output));
        }
        let elapsed = start.elapsed();
        samples.add_pass(results, elapsed)
    })?;
    let built = format!(
        "once per process: {} chunks embedded in batches of {INDEX_BATCH}, searched exactly",
        chunks.len()
    );
    let notes = &mut samples.block.notes;
    notes.insert(metric::INDEX_S.into(), built);
    let built = "while the index was built, once per process";
    notes.insert(metric::CHUNKS_PER_MIN.into(), built.into());
    for name in STAGES.into_iter().chain([metric::E2E_SIMPLE_S, metric::E2E_COMPLEX_S]) {
        notes.insert(name.into(), "one value per question, all passes".into());
    }
    Ok(samples)
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

impl<B: Backend> Runner<'_, B> {
    /// Answers a question from the chunks nearest to it.
    fn answer_question(
        &mut self,
        index: &[Vec<f32>],
        chunks: &[&str],
        question: &Question,
    ) -> Result<ItemResult<Answer>> {
        let start = Instant::now();
        let vector = match self.backend.embed(&[question.text])?.remove(0) {
            Ok(vector) => vector,
            Err(why) => return Ok(Err(why)),
        };
        let embedded = start.elapsed();
        let found = nearest((0..).zip(index), &vector, TOP_K);
        let searched = start.elapsed();
        let texts: Vec<&str> = found.iter().map(|&chunk| chunks[chunk as usize]).collect();
        let prompt = self.backend.prompt(&documents::prompt_with_context(question.text, &texts));
        let assembled = start.elapsed();
        let answer = self.backend.generate(vec![prompt])?.remove(0);
        let end = start.elapsed();
        let times = [embedded, searched - embedded, assembled - searched, end - assembled, end];
        Ok(answer.map(|ids| Answer { times, output: [found, ids].concat() }))
    }
}

/// The numbers of the `count` unit vectors nearest to one (or fewer, if there are no more), nearest
/// first: an exact search. Over some dozens of chunks it takes microseconds, less than the graph of
/// an approximate index would.
fn nearest<'a>(
    vectors: impl Iterator<Item = (u32, &'a Vec<f32>)>,
    vector: &[f32],
    count: usize,
) -> Vec<u32> {
    // Squared Euclidean distance of unit vectors, 2 - 2 cos: orders like the cosine, without its
    // loss of precision near 1.
    let distance =
        |other: &[f32]| -> f32 { other.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum() };
    let mut all: Vec<(f32, u32)> =
        vectors.map(|(number, other)| (distance(other), number)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(count).map(|(_, number)| number).collect()
}

/// The unit vector of the same direction.
pub(crate) fn unit_vector(mut vector: Vec<f32>) -> ItemResult<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return Err("a vector is zero or not finite".into());
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_there_may_be_fewer_than_asked_for() {
        let of = |vectors: &[Vec<f32>], vector, count| nearest((0..).zip(vectors), vector, count);
        assert_eq!(of(&[], &[1.0, 0.0], 3), [0; 0]);
        let vectors = [vec![0.0, 1.0], vec![1.0, 0.0], vec![-1.0, 0.0]];
        assert_eq!(of(&vectors, &[0.6, 0.8], 5), [0, 1, 2]);
        assert_eq!(of(&vectors, &[-0.8, 0.6], 2), [2, 0]);
        let vectors = [Ok(vec![0.0, 1.0]), Err("no".to_owned()), Ok(vec![1.0, 0.0])];
        let neighbours = nearest_neighbours(&vectors);
        assert_eq!(neighbours, [Ok(vec![2]), Err("no".into()), Ok(vec![0])]);
    }

    #[test]
    fn a_direction_has_length_one() {
        assert_eq!(unit_vector(vec![3.0, 4.0]), Ok(vec![0.6, 0.8]));
        for vector in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert!(unit_vector(vector.to_vec()).is_err(), "{vector:?}");
        }
    }
}
