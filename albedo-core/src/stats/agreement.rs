//! Whether raters agree by more than chance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Interval;
use super::distributions::normal_quantile;

/// Agreement of two raters beyond chance: 1 is perfect, 0 is what chance gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kappa {
    /// Cohen's kappa.
    pub kappa: f64,
    /// Its large-sample standard error.
    pub standard_error: f64,
    /// Its interval, by the normal distribution.
    pub interval: Interval,
}

/// Cohen's kappa (1960) of `ratings`, the categories that two raters gave each item, with
/// the standard error of Fleiss, Cohen and Everitt (1969) and its interval at `level`.
///
/// `None` without ratings, or if both raters gave everything one category: then chance
/// alone agrees.
///
/// ```
/// use albedo_core::stats::cohen_kappa;
///
/// let ratings = [("win", "win"), ("tie", "tie"), ("loss", "loss"), ("win", "tie")];
/// assert!(cohen_kappa(&ratings, 0.95).unwrap().kappa > 0.6);
/// ```
pub fn cohen_kappa<C: Ord>(ratings: &[(C, C)], level: f64) -> Option<Kappa> {
    let mut places = BTreeMap::<&C, usize>::new();
    for (first, second) in ratings {
        for category in [first, second] {
            let next = places.len();
            places.entry(category).or_insert(next);
        }
    }
    let (size, n) = (places.len(), ratings.len() as f64);
    let mut shares = vec![vec![0.0; size]; size];
    for (first, second) in ratings {
        shares[places[first]][places[second]] += 1.0 / n;
    }
    let first: Vec<f64> = shares.iter().map(|row| row.iter().sum()).collect();
    let second: Vec<f64> = (0..size).map(|column| shares.iter().map(|row| row[column]).sum()).collect();
    let observed: f64 = (0..size).map(|at| shares[at][at]).sum();
    let chance: f64 = first.iter().zip(&second).map(|(first, second)| first * second).sum();
    if ratings.is_empty() || chance >= 1.0 - 1e-12 {
        return None;
    }
    let kappa = (observed - chance) / (1.0 - chance);
    let apart = 1.0 - kappa;
    let (mut same, mut other) = (0.0, 0.0);
    for (row, shares) in shares.iter().enumerate() {
        for (column, share) in shares.iter().enumerate() {
            if row == column {
                same += share * (1.0 - (first[row] + second[row]) * apart).powi(2);
            } else {
                other += share * (second[row] + first[column]).powi(2);
            }
        }
    }
    let spread = same + apart.powi(2) * other - (kappa - chance * apart).powi(2);
    let standard_error = (spread.max(0.0) / n).sqrt() / (1.0 - chance);
    let reach = normal_quantile(f64::midpoint(1.0, level)) * standard_error;
    let interval = Interval { low: kappa - reach, high: kappa + reach };
    Some(Kappa { kappa, standard_error, interval })
}

/// How far apart two values of a rating are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Values are names: equal or not.
    Nominal,
    /// Values have an order, and nothing more.
    Ordinal,
    /// Values are numbers: the square of their difference.
    Interval,
}

/// Krippendorff's alpha (Content Analysis, 2004) over `items`, each with what any number
/// of raters gave it; an item with fewer than two ratings tells nothing. 1 is perfect
/// agreement, 0 is what chance gives.
///
/// `None` if no two ratings can be compared, all are equal, or one is not finite.
pub fn krippendorff_alpha(items: &[Vec<f64>], scale: Scale) -> Option<f64> {
    let items: Vec<&[f64]> = items.iter().map(Vec::as_slice).filter(|ratings| ratings.len() >= 2).collect();
    let mut values: Vec<f64> = items.concat();
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let rated = values.len() as f64;
    values.sort_unstable_by(f64::total_cmp);
    let mut counts = Vec::<(f64, f64)>::new();
    for value in values {
        match counts.last_mut() {
            Some((last, count)) if *last == value => *count += 1.0,
            _ => counts.push((value, 1.0)),
        }
    }
    let place = |value: f64| counts.partition_point(|(known, _)| *known < value);
    // Ranks of the values: how many ratings lie below the middle of each.
    let mut below = 0.0;
    let ranks: Vec<f64> = counts
        .iter()
        .map(|(_, count)| {
            below += count;
            below - count / 2.0
        })
        .collect();
    let distance = |one: usize, other: usize| match scale {
        Scale::Nominal => f64::from(u8::from(one != other)),
        Scale::Ordinal => (ranks[one] - ranks[other]).powi(2),
        Scale::Interval => (counts[one].0 - counts[other].0).powi(2),
    };
    let mut observed = 0.0;
    for ratings in items {
        let mut apart = 0.0;
        for (at, one) in ratings.iter().enumerate() {
            apart += ratings[at + 1..].iter().map(|other| distance(place(*one), place(*other))).sum::<f64>();
        }
        observed += apart / (ratings.len() - 1) as f64;
    }
    let mut expected = 0.0;
    for (one, (_, count)) in counts.iter().enumerate() {
        for (other, (_, others)) in counts.iter().enumerate().skip(one + 1) {
            expected += count * others * distance(one, other);
        }
    }
    (expected > 0.0).then(|| 1.0 - (rated - 1.0) * observed / expected)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_agreement_is_1_and_one_category_tells_nothing() {
        let same = [(0, 0), (1, 1), (2, 2), (1, 1)];
        let kappa = cohen_kappa(&same, 0.95).unwrap();
        assert!((kappa.kappa - 1.0).abs() < 1e-12 && kappa.standard_error < 1e-9);
        assert_eq!(cohen_kappa(&[(1, 1), (1, 1)], 0.95), None);
        assert_eq!(cohen_kappa::<u8>(&[], 0.95), None);
        assert_eq!(krippendorff_alpha(&[vec![1.0, 1.0], vec![2.0, 2.0]], Scale::Ordinal), Some(1.0));
        assert_eq!(krippendorff_alpha(&[vec![1.0], vec![2.0]], Scale::Nominal), None);
        assert_eq!(krippendorff_alpha(&[vec![1.0, f64::NAN]], Scale::Interval), None);
    }

    proptest! {
        #[test]
        fn agreement_never_exceeds_1_and_the_order_of_raters_does_not_matter(
            ratings in proptest::collection::vec((0_u8..4, 0_u8..4), 2..40),
        ) {
            let exchanged: Vec<_> = ratings.iter().map(|&(first, second)| (second, first)).collect();
            if let Some(Kappa { kappa, standard_error, .. }) = cohen_kappa(&ratings, 0.95) {
                prop_assert!(kappa <= 1.0 + 1e-12 && standard_error.is_finite());
                let other = cohen_kappa(&exchanged, 0.95).unwrap();
                prop_assert!((kappa - other.kappa).abs() < 1e-12);
                prop_assert!((standard_error - other.standard_error).abs() < 1e-9);
            }
            let items: Vec<Vec<f64>> =
                ratings.iter().map(|&(first, second)| vec![f64::from(first), f64::from(second)]).collect();
            for scale in [Scale::Nominal, Scale::Ordinal, Scale::Interval] {
                let reversed: Vec<Vec<f64>> = items.iter().rev().map(|item| vec![item[1], item[0]]).collect();
                let (one, other) = (krippendorff_alpha(&items, scale), krippendorff_alpha(&reversed, scale));
                prop_assert_eq!(one.is_some(), other.is_some());
                if let (Some(one), Some(other)) = (one, other) {
                    prop_assert!(one <= 1.0 && (one - other).abs() < 1e-9);
                }
            }
        }
    }
}
