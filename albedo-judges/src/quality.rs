//! Qualities in [0, 1], and scores that mirror exactly.

use albedo_core::{Result, Score};

/// Qualities are rounded to multiples of 1 / 2³².
const STEPS: f64 = 4_294_967_296.0;

/// Half a point plus half the difference of two qualities in [0, 1].
///
/// The qualities are rounded to multiples of 2⁻³² first. Difference and score
/// are then exact in `f64`, so that the scores of the two orders add up to 1
/// without rounding, and the last bits of a mathematical library do not matter.
pub(crate) fn graded(first: f64, second: f64) -> Result<Score> {
    let round = |quality: f64| (quality * STEPS).round() / STEPS;
    Score::from_difference(round(first), round(second))
}

/// `part` of `whole`; 1 if there is nothing to have a part of.
pub(crate) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_two_orders_add_up_to_one(first in 0.0..=1.0_f64, second in 0.0..=1.0_f64) {
            let here = graded(first, second).expect("qualities");
            let there = graded(second, first).expect("qualities");
            prop_assert_eq!(here.value() + there.value(), 1.0);
            prop_assert_eq!(here.value() - 0.5, 0.5 - there.value());
        }
    }

    #[test]
    fn a_share_of_nothing_is_whole() {
        assert_eq!(share(0, 0), 1.0);
        assert_eq!(share(1, 4), 0.25);
    }
}
