//! The Mann–Whitney U test, a rank test of two independent samples.

use statrs::distribution::{ContinuousCDF as _, Normal};

/// The two-sided p-value of the Mann–Whitney U test (Mann and Whitney 1947): exact without ties,
/// otherwise the normal approximation with corrections for ties and continuity, as in R's
/// `wilcox.test` and SciPy's `mannwhitneyu`. 1 where a sample is empty.
pub(crate) fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return 1.0;
    }
    // 2U is an integer even with ties.
    let twice_u: usize = a
        .iter()
        .flat_map(|x| b.iter().map(move |y| usize::from(x > y) + usize::from(x >= y)))
        .sum();
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    let ties: Vec<f64> = all.chunk_by(|x, y| x == y).map(|tie| tie.len() as f64).collect();
    let extreme = twice_u.max(2 * n * m - twice_u);
    if ties.len() == n + m {
        let ways = ways(n, m);
        let beyond: f64 = ways[extreme / 2..].iter().sum();
        return (2.0 * beyond / ways.iter().sum::<f64>()).min(1.0);
    }
    let (nm, all) = ((n * m) as f64, (n + m) as f64);
    let tied: f64 = ties.iter().map(|tie| tie.powi(3) - tie).sum();
    let variance = nm / 12.0 * (all + 1.0 - tied / (all * (all - 1.0)));
    if variance <= 0.0 {
        return 1.0; // All values are one value.
    }
    let z = (extreme as f64 / 2.0 - nm / 2.0 - 0.5) / variance.sqrt();
    (2.0 * Normal::standard().sf(z)).min(1.0)
}

/// The number of ways in which `n` of `n + m` ranks give each U from 0 to nm: the coefficients of
/// the Gaussian binomial.
fn ways(n: usize, m: usize) -> Vec<f64> {
    let mut ways = vec![0.0; n * m + 1];
    ways[0] = 1.0;
    for i in 1..=n {
        // Times (1 - q^(m+i)) / (1 - q^i), in place.
        for u in (m + i..ways.len()).rev() {
            ways[u] -= ways[u - m - i];
        }
        for u in i..ways.len() {
            ways[u] += ways[u - i];
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_scipy() {
        let count = |from: f64, n: usize| (0..n).map(|i| from + i as f64).collect::<Vec<_>>();
        let mixed = [2.5, 4.5, 6.5, 8.5, 10.5, 11.0, 12.0, 13.0, 14.0, 15.0];
        for (a, b, expected) in [
            (count(1.0, 3), count(4.0, 3), 0.1),
            (count(1.0, 10), mixed.to_vec(), 0.023230639329710537),
            (vec![1.0, 3.0, 5.0, 7.0], vec![2.0, 4.0, 6.0], 1.0),
            (vec![1.0, 2.0, 2.0, 3.0], vec![2.0, 3.0, 4.0, 4.0], 0.13416918012812584),
            (vec![5.0; 3], vec![5.0; 3], 1.0),
            (vec![1.0; 10], vec![2.0; 10], 1.5937911688066244e-05),
            (vec![1.0], vec![2.0], 1.0),
            (vec![], vec![2.0], 1.0),
        ] {
            for (a, b) in [(&a, &b), (&b, &a)] {
                let found = mann_whitney(a, b);
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.max(1e-3),
                    "{a:?} {b:?}: {found}"
                );
            }
        }
    }

    #[test]
    fn ways_are_counted_as_in_the_tables() {
        assert_eq!(ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(ways(3, 2), [1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0]);
        assert_eq!(ways(10, 10).iter().sum::<f64>(), 184_756.0);
    }
}
