//! The vector index of the pipelines: an exact search. Over some dozens of chunks it takes
//! microseconds, less than the graph of an approximate index would.

/// Unit vectors, numbered by their place.
pub struct Index(Vec<Vec<f32>>);

impl Index {
    /// An index of unit vectors.
    pub fn new(vectors: Vec<Vec<f32>>) -> Self {
        Self(vectors)
    }

    /// The numbers of the `count` nearest vectors (or fewer, if there are no more), nearest first.
    pub fn nearest(&self, vector: &[f32], count: usize) -> Vec<u32> {
        let distances = self.0.iter().map(|other| squared_distance(other, vector));
        let mut all: Vec<(f32, u32)> = distances.zip(0..).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.into_iter().take(count).map(|(_, number)| number).collect()
    }
}

/// Squared Euclidean distance of unit vectors, 2 - 2 cos: orders like the cosine, without its loss
/// of precision near 1.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The unit vector of the same direction; `None` for a zero vector or one that is not finite.
pub fn normalized(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return None;
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_there_may_be_fewer_than_asked_for() {
        assert_eq!(Index::new(Vec::new()).nearest(&[1.0, 0.0], 3), [0; 0]);
        let index = Index::new(vec![vec![0.0, 1.0], vec![1.0, 0.0], vec![-1.0, 0.0]]);
        assert_eq!(index.nearest(&[0.6, 0.8], 5), [0, 1, 2]);
        assert_eq!(index.nearest(&[-0.8, 0.6], 2), [2, 0]);
    }

    #[test]
    fn a_direction_has_length_one() {
        assert_eq!(normalized(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        assert_eq!(normalized(vec![0.0, 0.0]), None);
        assert_eq!(normalized(vec![f32::NAN, 1.0]), None);
        assert_eq!(normalized(vec![f32::INFINITY, 1.0]), None);
    }
}
