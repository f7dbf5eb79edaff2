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
