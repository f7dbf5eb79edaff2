//! Betting on a bounded mean (Waudby-Smith and Ramdas, *Estimating means of
//! bounded random variables by betting*, 2024).
//!
//! Wealth that starts at 1 and is multiplied by `1 + bet · x` for every value
//! `x ≥ −1`, with a bet fixed before the value is seen, is a supermartingale
//! whenever the mean of `x` given the past is at most 0: it ever reaches
//! `1 / alpha` with probability at most `alpha`, however long one looks on.

use crate::stats::Interval;

/// Largest share of the wealth that one value can cost. Source: albedo; close to the best
/// bet for graded scores, and a single lost cluster still leaves a tenth.
/// Measured in `docs/error-rates.md`.
const MAX_BET: f64 = 0.9;

/// The variance estimate before any value, and its weight in values: the
/// spread of scores that are ties half of the time. Source: albedo, measured in
/// `docs/error-rates.md`.
const PRIOR_VARIANCE: f64 = 0.25;

/// Steps of the bisection behind a confidence bound: an error below 2⁻³⁰.
const BISECTIONS: u32 = 31;

/// The bets, from what was seen before: `scale / σ̂`, the predictable plug-in
/// bet for a horizon, at most [`MAX_BET`]. Negating every value changes none.
#[derive(Debug, Clone)]
pub(crate) struct Bets {
    scale: f64,
    count: u32,
    mean: f64,
    squares: f64,
}

impl Bets {
    /// Bets of [`scale`] before the first value.
    pub(crate) fn new(alpha: f64, horizon: u32) -> Self {
        Self { scale: scale(alpha, f64::from(horizon)), count: 0, mean: 0.0, squares: 0.0 }
    }

    /// The bet on the next value.
    pub(super) fn next(&self) -> f64 {
        self.next_of(self.scale)
    }

    /// The bet of `scale` on the next value.
    pub(crate) fn next_of(&self, scale: f64) -> f64 {
        (scale / self.variance().sqrt()).min(MAX_BET)
    }

    /// Takes note of `value`.
    pub(crate) fn observe(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / f64::from(self.count);
        self.squares += before * (value - self.mean);
    }

    /// Takes note of `count` values of that mean and variance.
    pub(super) fn observe_many(&mut self, count: u32, mean: f64, variance: f64) {
        let (before, many) = (f64::from(self.count), f64::from(count));
        self.count += count;
        let (all, apart) = (f64::from(self.count), mean - self.mean);
        self.mean += apart * many / all;
        self.squares += many * variance + apart * apart * before * many / all;
    }

    /// Values seen.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Their mean; 0 for none.
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// Their variance, drawn towards [`PRIOR_VARIANCE`].
    pub(crate) fn variance(&self) -> f64 {
        (PRIOR_VARIANCE + self.squares) / (f64::from(self.count) + 1.0)
    }
}

/// The scale of the bets that are best for evidence of `1 / alpha` at `horizon`
/// values: √(2 ln(1 / alpha) / horizon), to nine decimals, so that no library's
/// last digit of the logarithm shows.
pub(super) fn scale(alpha: f64, horizon: f64) -> f64 {
    round((-2.0 * alpha.ln() / horizon).sqrt(), 1e9)
}

/// A wealth far beyond the range of a float: `mantissa · 2^(256 · exponent)`,
/// made of exact scalings and products only, so that it is the same on every
/// machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wealth {
    mantissa: f64,
    exponent: i32,
}

impl Wealth {
    /// The wealth before the first bet.
    pub(crate) const ONE: Self = Self { mantissa: 1.0, exponent: 0 };
    /// 2²⁵⁶.
    const STEP: f64 = f64::from_bits(0x4FF0_0000_0000_0000);

    /// Multiplies by `factor`, which is positive and finite.
    pub(crate) fn multiply(&mut self, factor: f64) {
        self.mantissa *= factor;
        if self.mantissa > Self::STEP {
            self.mantissa /= Self::STEP;
            self.exponent += 1;
        } else if self.mantissa < 1.0 / Self::STEP {
            self.mantissa *= Self::STEP;
            self.exponent -= 1;
        }
    }

    /// Whether it is at least `threshold`.
    pub(crate) fn reaches(self, threshold: f64) -> bool {
        self.mantissa >= threshold * Self::STEP.powi(-self.exponent)
    }

    /// Its natural logarithm.
    pub(crate) fn ln(self) -> f64 {
        self.mantissa.ln() + f64::from(self.exponent) * Self::STEP.ln()
    }
}

/// A value's relation to the null hypothesis "the mean is at most `null`" on
/// [−1, 1]: at least −1, with mean at most 0 where the hypothesis holds.
pub(crate) fn above(value: f64, null: f64) -> f64 {
    (value - null) / (1.0 + null)
}

/// The confidence sequence of the mean at the last of `values`: with
/// probability `level` the intervals after 1, 2, 3, … values *all* hold the
/// mean, so that stopping early costs no coverage.
///
/// An end is the last mean that the bets of `bets`, which has seen nothing yet,
/// have at any time rejected at half of `1 − level`; wealth falls as the mean
/// under test rises, so that it is found by bisection. Negating the values
/// negates and exchanges the ends.
pub(super) fn confidence_sequence(values: &[f64], bets: Bets, level: f64) -> Interval {
    confidence_sequence_of(values, bets, level, Population::Endless)
}

/// The same for values drawn from `population`.
pub(crate) fn confidence_sequence_of(
    values: &[f64],
    mut bets: Bets,
    level: f64,
    population: Population,
) -> Interval {
    let threshold = 2.0 / (1.0 - level);
    let staked: Vec<_> = values
        .iter()
        .map(|&value| {
            let bet = bets.next();
            bets.observe(value);
            (value, bet)
        })
        .collect();
    let bound = |sign: f64| {
        let rejected = |null: f64| {
            let (mut wealth, mut left) = (Wealth::ONE, Left::new(population, null));
            staked.iter().any(|&(value, bet)| {
                let value = sign * value;
                if let Some(null) = left.null() {
                    wealth.multiply(1.0 + bet * above(value, null));
                }
                left.draw(value);
                left.is_refuted() || wealth.reaches(threshold)
            })
        };
        let (mut low, mut high) = (-1.0, 1.0);
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(low, high);
            if rejected(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    };
    Interval { low: bound(1.0), high: -bound(-1.0) }
}

/// What values are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Population {
    /// More than will ever be drawn.
    Endless,
    /// So many, each of which is drawn once at most: what was drawn says what is left.
    Pool(u64),
}

/// What a hypothesis on the mean of a population says of the values that are not drawn
/// yet (Waudby-Smith and Ramdas, *Confidence sequences for sampling without
/// replacement*, 2020).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left {
    Endless {
        null: f64,
    },
    /// The most that `count` values can sum to, if the hypothesis holds.
    Pool {
        sum: f64,
        count: u64,
    },
}

impl Left {
    /// Before the first draw, if the mean is at most `null`.
    pub(crate) fn new(population: Population, null: f64) -> Self {
        match population {
            Population::Endless => Self::Endless { null },
            Population::Pool(count) => Self::Pool { sum: null * count as f64, count },
        }
    }

    /// The most that the mean of the next draw can be; none where that is nothing to bet
    /// against.
    pub(crate) fn null(self) -> Option<f64> {
        match self {
            Self::Endless { null } => Some(null),
            Self::Pool { count: 0, .. } => None,
            Self::Pool { sum, count } => {
                Some(sum / count as f64).filter(|mean| (-1.0 + ROUNDING..1.0).contains(mean))
            }
        }
    }

    /// Takes note of a value that was drawn.
    pub(crate) fn draw(&mut self, value: f64) {
        if let Self::Pool { sum, count } = self {
            *sum -= value;
            *count = count.saturating_sub(1);
        }
    }

    /// Whether no values that are left could make the hypothesis true.
    pub(crate) fn is_refuted(self) -> bool {
        match self {
            Self::Endless { .. } => false,
            Self::Pool { sum, count } => sum < -(count as f64) - ROUNDING * (count as f64 + 1.0),
        }
    }
}

/// What sums of values in [−1, 1] may be off by, per value. Source: far above the rounding
/// of a million of them, far below what a score can differ by.
const ROUNDING: f64 = 1e-9;

/// `value` to the nearest multiple of `1 / per_unit`.
pub(crate) fn round(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bets() -> Bets {
        Bets::new(0.05, 64)
    }

    #[test]
    fn the_first_bet_knows_nothing_and_later_ones_the_spread() {
        assert!((Bets::new(0.01, 512).next() - 2.0 * (2.0 * 100.0_f64.ln() / 512.0).sqrt()).abs() < 1e-8);
        let after = |spread: f64| {
            let mut bets = Bets::new(0.01, 512);
            for index in 0..100 {
                bets.observe(if index % 2 == 0 { spread } else { -spread });
            }
            bets.next()
        };
        assert_eq!(after(0.0), MAX_BET);
        assert!(after(0.25) < MAX_BET && after(0.5) < after(0.25) && after(1.0) < after(0.5));
    }

    #[test]
    fn wealth_survives_what_a_float_does_not() {
        let mut wealth = Wealth::ONE;
        for _ in 0..5_000 {
            wealth.multiply(0.1);
        }
        assert!((wealth.ln() / 0.1_f64.ln() - 5_000.0).abs() < 1e-9);
        assert!(!wealth.reaches(1e-300));
        for _ in 0..5_001 {
            wealth.multiply(10.0);
        }
        assert!((wealth.ln() - 10.0_f64.ln()).abs() < 1e-9);
        assert!(wealth.reaches(9.99) && !wealth.reaches(10.01));
        for _ in 0..5_000 {
            wealth.multiply(10.0);
        }
        assert!(wealth.reaches(1e300));
    }

    #[test]
    fn the_interval_starts_whole_and_closes_in() {
        let whole = Interval { low: -1.0, high: 1.0 };
        assert_eq!(confidence_sequence(&[], bets(), 0.95), whole);
        let extreme = confidence_sequence(&vec![1.0; 5_000], bets(), 0.95);
        assert!(extreme.low > 0.99 && extreme.high == 1.0, "{extreme:?}");
        let equal = confidence_sequence(&vec![0.0; 5_000], bets(), 0.95);
        assert!(equal.high < 0.001 && equal.low == -equal.high, "{equal:?}");
    }

    proptest! {
        /// Over both values of a fair coin between the extremes, wealth neither
        /// grows nor falls on average: whatever the bet, it is a martingale.
        #[test]
        fn the_average_over_all_null_sequences_is_one(null in -0.9..0.9_f64, length in 1_usize..10) {
            let heads = f64::midpoint(1.0, null);
            let mut total = 0.0;
            for outcomes in 0_u32..1 << length {
                let (mut bets, mut wealth, mut probability) = (bets(), Wealth::ONE, 1.0);
                for index in 0..length {
                    let won = outcomes >> index & 1 == 1;
                    let value = if won { 1.0 } else { -1.0 };
                    wealth.multiply(1.0 + bets.next() * above(value, null));
                    bets.observe(value);
                    probability *= if won { heads } else { 1.0 - heads };
                }
                total += probability * wealth.ln().exp();
            }
            prop_assert!((total - 1.0).abs() < 1e-9, "{total}");
        }

        #[test]
        fn negating_the_values_mirrors_the_interval(values in proptest::collection::vec(-1.0..=1.0_f64, 0..200)) {
            let here = confidence_sequence(&values, bets(), 0.95);
            let negated: Vec<_> = values.iter().map(|value| -value).collect();
            let there = confidence_sequence(&negated, bets(), 0.95);
            prop_assert_eq!(here, Interval { low: -there.high, high: -there.low });
        }

        #[test]
        fn more_values_never_widen_the_interval(values in proptest::collection::vec(-1.0..=1.0_f64, 2..200), split in 0.0..1.0_f64) {
            let part = &values[..(values.len() as f64 * split) as usize];
            let (part, whole) = (confidence_sequence(part, bets(), 0.95), confidence_sequence(&values, bets(), 0.95));
            prop_assert!(part.low <= whole.low && whole.high <= part.high);
        }
    }
}
