//! The vector index of the pipelines: HNSW (Malkov and Yashunin 2018) from the crate
//! `instant-distance`, which only this module uses.

use instant_distance::{Builder, HnswMap, Point, Search};

use crate::error::{Error, Result};

/// Candidate list of insertion (`ef_construction`) and of search (`ef_search`).
const EF: usize = 100;

/// Seed of the insertion order.
const SEED: u64 = 42;

/// Unit vectors, each with its number.
pub struct Index {
    graph: HnswMap<UnitVector, u32>,
    search: Search,
}

#[derive(Clone)]
struct UnitVector(Vec<f32>);

impl Point for UnitVector {
    /// Squared Euclidean distance, 2 - 2 cos: orders like the cosine, without its loss of precision
    /// near 1.
    fn distance(&self, other: &Self) -> f32 {
        squared_distance(&self.0, &other.0)
    }
}

impl Index {
    /// Inserts vectors, numbered by their place in the list.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn build(vectors: Vec<Vec<f32>>) -> Result<Self> {
        let numbers = (0..vectors.len() as u32).collect();
        let points = vectors.into_iter().map(UnitVector).collect();
        // With several threads the insertion order, and so the graph, would differ between runs.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| {
            Error::Failed(format!("cannot start a thread to build the index: {error}"))
        })?;
        let builder = Builder::default().ef_construction(EF).ef_search(EF).seed(SEED);
        let graph = pool.install(|| builder.build(points, numbers));
        Ok(Self { graph, search: Search::default() })
    }

    /// The numbers of the `count` nearest vectors (or fewer, if there are no more), nearest first.
    pub fn nearest(&mut self, vector: &[f32], count: usize) -> Vec<u32> {
        let found = self.graph.search(&UnitVector(vector.to_vec()), &mut self.search);
        found.take(count).map(|item| *item.value).collect()
    }
}

/// Squared Euclidean distance.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The unit vector of the same direction; `None` for a zero vector or one that is not finite.
pub fn normalised(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return None;
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Some(vector)
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn random(count: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut vector = || (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
        (0..count).map(|_| normalised(vector()).unwrap()).collect()
    }

    /// The definition: an exhaustive search.
    fn exhaustive(vectors: &[Vec<f32>], vector: &[f32], count: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..vectors.len() as u32).collect();
        let distance = |i: &u32| squared_distance(&vectors[*i as usize], vector);
        all.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        all.truncate(count);
        all
    }

    #[test]
    fn a_set_smaller_than_the_candidate_list_is_searched_exactly() {
        let vectors = random(36, 256, 1);
        let mut index = Index::build(vectors.clone()).unwrap();
        for question in random(50, 256, 2) {
            assert_eq!(index.nearest(&question, 3), exhaustive(&vectors, &question, 3));
        }
    }

    #[test]
    fn of_many_vectors_the_nearest_is_found_almost_always() {
        let vectors = random(250, 12, 3);
        let mut index = Index::build(vectors.clone()).unwrap();
        let questions = random(50, 12, 4);
        let found = questions
            .iter()
            .filter(|question| index.nearest(question, 1) == exhaustive(&vectors, question, 1))
            .count();
        assert!(found >= 49, "{found} of 50");
        for (i, vector) in vectors.iter().enumerate().step_by(25) {
            assert_eq!(index.nearest(vector, 1), [i as u32], "a vector is nearest to itself");
        }
    }

    #[test]
    fn a_graph_is_the_same_every_time() {
        let (vectors, questions) = (random(150, 8, 5), random(20, 8, 6));
        let found = || {
            let mut index = Index::build(vectors.clone()).unwrap();
            questions.iter().map(|question| index.nearest(question, 20)).collect::<Vec<_>>()
        };
        assert_eq!(found(), found());
    }

    #[test]
    fn there_may_be_fewer_vectors_than_asked_for() {
        assert_eq!(Index::build(Vec::new()).unwrap().nearest(&[1.0, 0.0], 3), [0; 0]);
        let mut index = Index::build(vec![vec![0.0, 1.0], vec![1.0, 0.0]]).unwrap();
        assert_eq!(index.nearest(&[0.6, 0.8], 3), [0, 1]);
    }

    #[test]
    fn a_direction_has_length_one() {
        assert_eq!(normalised(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        assert_eq!(normalised(vec![0.0, 0.0]), None);
        assert_eq!(normalised(vec![f32::NAN, 1.0]), None);
        assert_eq!(normalised(vec![f32::INFINITY, 1.0]), None);
    }
}
