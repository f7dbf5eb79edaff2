//! Numbers reported beside a verdict, and what studies of many duels need: no verdict
//! rests on them but where a rule says so.
//!
//! | question | here |
//! | --- | --- |
//! | how large is a mean difference, and how certain | [`clustered_mean`], [`cluster_bootstrap`], [`bootstrap_interval`] |
//! | do two systems differ in what they get right | [`mcnemar_exact`] |
//! | how often does something happen | [`proportion`] |
//! | who is stronger, of many who met in pairs | [`bradley_terry`] |
//! | do raters agree | [`cohen_kappa`], [`krippendorff_alpha`] |
//! | do two numbers go together | [`correlation`] |
//! | would the longer reply have won anyway | [`length_controlled`] |
//! | how many samples does an effect need | [`samples_for`], [`detectable_effect`] |
//!
//! `.ci/statistics` compares them with `scipy`, `statsmodels`, `choix` and `krippendorff`.

use serde::{Deserialize, Serialize};

use crate::rng::{Stream, Use};

mod agreement;
mod correlation;
mod distributions;
mod length;
mod means;
mod proportions;
mod ratings;
mod sizes;

pub use agreement::{Kappa, Scale, cohen_kappa, krippendorff_alpha};
pub use correlation::correlation;
pub use length::{LengthControlled, length_controlled};
pub use means::{MeanEstimate, cluster_bootstrap, clustered_mean};
pub use proportions::{Proportion, exact_proportion, mcnemar_exact, proportion};
pub use ratings::{Fit, Pairings, Ratings, bradley_terry};
pub use sizes::{detectable_effect, samples_for};

pub(crate) use distributions::{chi_square_quantile, student_quantile};

/// Resamples behind a reported interval.
const RESAMPLES: usize = 2_000;

/// A two-sided interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }
}

/// The percentile bootstrap interval (Efron, 1979) of the mean of `values`, one
/// a cluster, at `level`; seeded, so that the same values give the same
/// interval. Approximate: its coverage falls short for few values. Both ends
/// are the one value, or 0, for fewer than two. Negating the values negates and
/// exchanges the ends.
pub fn bootstrap_interval(values: &[f64], level: f64, seed: u64) -> Interval {
    if values.len() < 2 {
        let only = values.first().copied().unwrap_or(0.0);
        return Interval { low: only, high: only };
    }
    let mut stream = Stream::new(seed, Use::Bootstrap);
    let resampled_mean = |_| {
        let mut sum = 0.0;
        for _ in 0..values.len() {
            sum += values[stream.below(values.len() as u64) as usize];
        }
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(resampled_mean).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = ((1.0 - level) / 2.0 * RESAMPLES as f64) as usize;
    Interval { low: means[tail], high: means[RESAMPLES - 1 - tail] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_mirrors() {
        let values: Vec<_> = (0..100).map(|index| f64::from(index % 10) / 10.0 - 0.3).collect();
        let mean = values.iter().sum::<f64>() / 100.0;
        let interval = bootstrap_interval(&values, 0.95, 3);
        assert!(interval.low < mean && mean < interval.high);
        let width = interval.high - interval.low;
        assert!((width - 2.0 * 1.96 * 0.2872 / 10.0).abs() < 0.02, "{width}");
        let mirrored: Vec<_> = values.iter().map(|value| -value).collect();
        let mirrored = bootstrap_interval(&mirrored, 0.95, 3);
        assert_eq!((mirrored.low, mirrored.high), (-interval.high, -interval.low));
    }

    #[test]
    fn a_single_value_is_its_own_interval() {
        assert_eq!(bootstrap_interval(&[0.5], 0.95, 0), Interval { low: 0.5, high: 0.5 });
    }
}
