//! Proportions, and whether two that are paired differ.

use serde::{Deserialize, Serialize};

use super::Interval;
use super::distributions::{fair_coin_at_most, normal_quantile};

/// How often something happened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The share, 0 to 1.
    pub share: f64,
    /// Its interval.
    pub interval: Interval,
    /// Out of how many.
    pub of: u64,
}

/// The share of `count` in `of` with Wilson's score interval (1927) at `level`, which
/// holds up for few observations and shares near 0 and 1: of judgements in both orders
/// that agree, for example, or of answers that are right.
///
/// `None` if `of` is 0 or less than `count`.
pub fn proportion(count: u64, of: u64, level: f64) -> Option<Proportion> {
    if of == 0 || count > of {
        return None;
    }
    let (n, z) = (of as f64, normal_quantile(f64::midpoint(1.0, level)));
    let (share, square) = (count as f64 / n, z * z);
    let center = (share + square / (2.0 * n)) / (1.0 + square / n);
    let reach = z / (1.0 + square / n) * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    // At shares of 0 and 1 an end is the share, but for rounding.
    let interval =
        Interval { low: (center - reach).clamp(0.0, share), high: (center + reach).clamp(share, 1.0) };
    Some(Proportion { share, interval, of })
}

/// The share of `count` in `of` with the exact interval of Clopper and Pearson (1934) at `level`, which holds the true
/// share at least that often, however few the observations. It is wider than that of [`proportion`].
///
/// `None` if `of` is 0 or less than `count`.
///
/// ```
/// use albedo_core::stats::exact_proportion;
///
/// // Nothing among 200: the share is at most 1.8 %.
/// assert!((exact_proportion(0, 200, 0.95).unwrap().interval.high - 0.018275).abs() < 1e-6);
/// ```
pub fn exact_proportion(count: u64, of: u64, level: f64) -> Option<Proportion> {
    if of == 0 || count > of {
        return None;
    }
    let tail = (1.0 - level) / 2.0;
    // The share at which at most `most` of `of` have the probability `wanted`, which falls as the share rises.
    let share_at = |most: u64, wanted: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(low, high);
            if binomial_at_most(most, of, middle) > wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    let low = if count == 0 { 0.0 } else { share_at(count - 1, 1.0 - tail) };
    let high = if count == of { 1.0 } else { share_at(count, tail) };
    Some(Proportion { share: count as f64 / of as f64, interval: Interval { low, high }, of })
}

/// Steps of a bisection: an error below 2⁻⁵⁰.
const BISECTIONS: u32 = 50;

/// The probability of at most `most` successes in `of` trials of a share strictly between 0 and 1: the terms of the
/// binomial distribution from the greatest on, so that none is lost to underflow.
fn binomial_at_most(most: u64, of: u64, share: f64) -> f64 {
    let odds = (share / (1.0 - share)).ln();
    // Logarithms of the terms, up to a constant.
    let (mut term, mut terms) = (0.0_f64, Vec::with_capacity(of as usize + 1));
    terms.push(term);
    for successes in 0..of {
        term += ((of - successes) as f64 / (successes + 1) as f64).ln() + odds;
        terms.push(term);
    }
    let greatest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = |terms: &[f64]| terms.iter().map(|term| (term - greatest).exp()).sum::<f64>();
    sum(&terms[..=most as usize]) / sum(&terms)
}

/// The two-sided p-value of the exact test of `McNemar` (1947) that two systems are right
/// equally often on the same items: `only_first` and `only_second` are the items that one
/// of them alone got right. 1 if there are none.
pub fn mcnemar_exact(only_first: u64, only_second: u64) -> f64 {
    let fewer = only_first.min(only_second);
    (2.0 * fair_coin_at_most(fewer, only_first + only_second)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_interval_is_that_of_others() {
        // scipy.stats.binomtest(count, of).proportion_ci(0.95, "exact")
        for (count, of, low, high) in [
            (0, 10, 0.0, 0.308_497),
            (5, 10, 0.187_086, 0.812_914),
            (9, 85, 0.049_566, 0.191_514),
            (80, 100, 0.708_179, 0.873_332),
            (10, 10, 0.691_503, 1.0),
        ] {
            let exact = exact_proportion(count, of, 0.95).expect("a share").interval;
            assert!(
                (exact.low - low).abs() < 2e-4 && (exact.high - high).abs() < 2e-4,
                "{count} of {of}: {exact:?}"
            );
        }
        assert_eq!((exact_proportion(0, 0, 0.95), exact_proportion(2, 1, 0.95)), (None, None));
        let many = exact_proportion(500, 1_000, 0.95).expect("a share").interval;
        assert!(many.low > 0.46 && many.high < 0.54, "{many:?}");
    }

    #[test]
    fn the_test_counts_the_throws_of_a_coin() {
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(mcnemar_exact(5, 5), 1.0);
        // (1 + 5) / 2^5 · 2
        assert!((mcnemar_exact(1, 4) - 0.375).abs() < 1e-15);
        assert!((mcnemar_exact(40, 0) - 2.0_f64.powi(-39)).abs() < 1e-24);
        assert_eq!(mcnemar_exact(3, 11), mcnemar_exact(11, 3));
    }

    #[test]
    fn an_interval_stays_within_0_and_1() {
        for (count, of) in [(0, 1), (1, 1), (0, 1_000), (1_000, 1_000), (3, 7)] {
            let Proportion { share, interval, .. } = proportion(count, of, 0.95).unwrap();
            assert!(0.0 <= interval.low && interval.low <= share && share <= interval.high);
            assert!(interval.high <= 1.0);
        }
        assert_eq!(proportion(0, 0, 0.95), None);
        assert_eq!(proportion(2, 1, 0.95), None);
    }
}
