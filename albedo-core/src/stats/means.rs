//! Means of observations that come in clusters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Interval;
use super::distributions::student_quantile;
use crate::rng::{Stream, Use};

/// The most degrees of freedom that Student's quantile is computed for; beyond it the
/// quantile changes by less than a part in 100,000.
const MOST_DEGREES: usize = 100_000;

/// A mean and how certain it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanEstimate {
    /// The mean of all observations.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Its interval.
    pub interval: Interval,
    /// Observations.
    pub observations: usize,
    /// Clusters that they came in.
    pub clusters: usize,
}

/// Sums of one cluster.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    sum: f64,
    count: usize,
}

/// The mean of `observations`, each beside its cluster, with the cluster-robust standard
/// error of Liang and Zeger (1986), corrected by G / (G − 1) for G clusters, and the
/// interval of Student's distribution with G − 1 degrees of freedom at `level`. Where
/// every observation is a cluster of its own these are the plain ones. Of paired
/// observations, give the differences.
///
/// Observations of one repository, one conversation or one author are not independent:
/// as if they were, the error comes out up to three times too small.
///
/// `None` for fewer than two clusters or a value that is not finite.
///
/// ```
/// use albedo_core::stats::clustered_mean;
///
/// let differences = [("tokio", 0.5), ("tokio", 0.5), ("serde", 0.0), ("clap", 0.25)];
/// let estimate = clustered_mean(&differences, 0.95).unwrap();
/// assert_eq!((estimate.mean, estimate.clusters), (0.3125, 3));
/// ```
pub fn clustered_mean<C: Ord>(observations: &[(C, f64)], level: f64) -> Option<MeanEstimate> {
    let clusters = sums(observations)?;
    let (count, groups) = (observations.len() as f64, clusters.len() as f64);
    let mean = clusters.iter().map(|cluster| cluster.sum).sum::<f64>() / count;
    let squares: f64 =
        clusters.iter().map(|cluster| (cluster.sum - cluster.count as f64 * mean).powi(2)).sum();
    let standard_error = (groups / (groups - 1.0) * squares).sqrt() / count;
    let degrees = (clusters.len() - 1).min(MOST_DEGREES) as u32;
    let reach = standard_error * student_quantile(level, degrees);
    Some(MeanEstimate {
        mean,
        standard_error,
        interval: Interval { low: mean - reach, high: mean + reach },
        observations: observations.len(),
        clusters: clusters.len(),
    })
}

/// The percentile bootstrap interval (Efron, 1979) of the mean of `observations` at
/// `level`, from `resamples` draws of whole clusters; seeded. Its standard error is the
/// standard deviation of the resampled means.
///
/// `None` for fewer than two clusters, no resamples or a value that is not finite.
pub fn cluster_bootstrap<C: Ord>(
    observations: &[(C, f64)],
    level: f64,
    resamples: usize,
    seed: u64,
) -> Option<MeanEstimate> {
    let clusters = sums(observations)?;
    if resamples == 0 {
        return None;
    }
    let mut stream = Stream::new(seed, Use::Bootstrap);
    let mut resampled = || {
        let mut total = Sums::default();
        for _ in 0..clusters.len() {
            let drawn = clusters[stream.below(clusters.len() as u64) as usize];
            total = Sums { sum: total.sum + drawn.sum, count: total.count + drawn.count };
        }
        total.sum / total.count as f64
    };
    let mut means: Vec<f64> = (0..resamples).map(|_| resampled()).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (((1.0 - level) / 2.0 * resamples as f64) as usize).min(resamples - 1);
    let center = means.iter().sum::<f64>() / resamples as f64;
    let squares: f64 = means.iter().map(|mean| (mean - center).powi(2)).sum();
    Some(MeanEstimate {
        mean: clusters.iter().map(|cluster| cluster.sum).sum::<f64>() / observations.len() as f64,
        standard_error: (squares / resamples.saturating_sub(1).max(1) as f64).sqrt(),
        interval: Interval { low: means[tail], high: means[resamples - 1 - tail] },
        observations: observations.len(),
        clusters: clusters.len(),
    })
}

/// The sums of each cluster, in the clusters' order; none if there are fewer than two or
/// a value is not finite.
fn sums<C: Ord>(observations: &[(C, f64)]) -> Option<Vec<Sums>> {
    let mut clusters = BTreeMap::<&C, Sums>::new();
    for (cluster, value) in observations {
        if !value.is_finite() {
            return None;
        }
        let sums = clusters.entry(cluster).or_default();
        sums.sum += value;
        sums.count += 1;
    }
    (clusters.len() >= 2).then(|| clusters.into_values().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observations() -> impl Strategy<Value = Vec<(u8, f64)>> {
        proptest::collection::vec((0_u8..8, -1.0..1.0), 2..60)
    }

    proptest! {
        #[test]
        fn the_order_and_names_of_clusters_do_not_matter(observations in observations()) {
            let mut renamed: Vec<_> = observations.iter().map(|&(cluster, value)| (7 - cluster, value)).collect();
            renamed.reverse();
            match (clustered_mean(&observations, 0.95), clustered_mean(&renamed, 0.95)) {
                (Some(one), Some(other)) => {
                    prop_assert!((one.mean - other.mean).abs() < 1e-12);
                    prop_assert!((one.standard_error - other.standard_error).abs() < 1e-12);
                }
                (one, other) => prop_assert_eq!(one.is_none(), other.is_none()),
            }
        }

        #[test]
        fn a_repeated_observation_tells_nothing_new(values in proptest::collection::vec(-1.0..1.0_f64, 2..30)) {
            let once: Vec<_> = values.iter().copied().enumerate().collect();
            let thrice: Vec<_> = once.iter().flat_map(|&observation| [observation; 3]).collect();
            let (once, thrice) = (clustered_mean(&once, 0.9).unwrap(), clustered_mean(&thrice, 0.9).unwrap());
            prop_assert!((once.standard_error - thrice.standard_error).abs() < 1e-12);
        }
    }

    #[test]
    fn the_bootstrap_is_seeded_and_near_the_robust_error() {
        let observations: Vec<(u32, f64)> =
            (0..400).map(|index| (index / 4, f64::from(index * 7919 % 101) / 101.0)).collect();
        let robust = clustered_mean(&observations, 0.95).unwrap();
        let bootstrap = cluster_bootstrap(&observations, 0.95, 4_000, 5).unwrap();
        assert_eq!(Some(bootstrap), cluster_bootstrap(&observations, 0.95, 4_000, 5));
        assert_ne!(Some(bootstrap), cluster_bootstrap(&observations, 0.95, 4_000, 6));
        assert_eq!(bootstrap.mean, robust.mean);
        assert!((bootstrap.standard_error / robust.standard_error - 1.0).abs() < 0.05);
    }

    #[test]
    fn one_cluster_has_no_error() {
        assert_eq!(clustered_mean(&[(1, 0.5), (1, 0.25)], 0.95), None);
        assert_eq!(clustered_mean(&[(1, 0.5), (2, f64::NAN)], 0.95), None);
        assert_eq!(cluster_bootstrap(&[(1, 0.5), (2, 0.5)], 0.95, 0, 1), None);
    }
}
