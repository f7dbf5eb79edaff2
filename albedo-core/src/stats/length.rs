//! Preferences as they would be between replies of one length.

use serde::{Deserialize, Serialize};

use super::distributions::{logistic, normal_quantile};
use super::{Interval, Proportion};

/// Newton's steps before a fit is given up; it takes about ten.
const MOST_STEPS: usize = 100;

/// How often one side is preferred, and what its length has to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// How often it would be preferred if both replies were equally long.
    pub preferred: Proportion,
    /// By how much the log-odds rise where its reply is far longer.
    pub length: f64,
    /// The interval of `length`.
    pub length_interval: Interval,
}

/// How often one side would be preferred if both replies were equally long, after
/// Dubois and others (*Length-Controlled `AlpacaEval`*, 2024): a logistic regression of each
/// preference, 0 to 1, on tanh of the difference of lengths divided by its standard
/// deviation, read at a difference of 0. `pairs` are the preference and the length of its
/// reply minus the other's, in any unit. Intervals at `level` from the robust covariance
/// of White (1980), as preferences between 0 and 1 are not coin throws.
///
/// `None` if there is nothing to fit: fewer than three pairs, lengths that never differ,
/// a side that is always preferred, or preferences that length alone decides.
pub fn length_controlled(pairs: &[(f64, f64)], level: f64) -> Option<LengthControlled> {
    let n = pairs.len() as f64;
    let in_range =
        |&(preference, length): &(f64, f64)| (0.0..=1.0).contains(&preference) && length.is_finite();
    if pairs.len() < 3 || !pairs.iter().all(in_range) {
        return None;
    }
    let mean = pairs.iter().map(|(_, length)| length).sum::<f64>() / n;
    let spread = (pairs.iter().map(|(_, length)| (length - mean).powi(2)).sum::<f64>() / n).sqrt();
    if spread == 0.0 {
        return None;
    }
    let scaled: Vec<(f64, f64)> =
        pairs.iter().map(|&(preference, length)| (preference, (length / spread).tanh())).collect();
    let (mut intercept, mut slope, mut converged) = (0.0, 0.0, false);
    for _ in 0..MOST_STEPS {
        let mut gradient = [0.0; 2];
        for &(preference, length) in &scaled {
            let left = preference - logistic(intercept + slope * length);
            gradient[0] += left;
            gradient[1] += left * length;
        }
        let inverse = inverse(information(&scaled, intercept, slope))?;
        let step = [
            inverse[0] * gradient[0] + inverse[1] * gradient[1],
            inverse[1] * gradient[0] + inverse[2] * gradient[1],
        ];
        intercept += step[0];
        slope += step[1];
        converged = step.iter().all(|step| step.abs() < 1e-12);
        // Beyond these odds a side is preferred always, and the fit has no end.
        if converged || !(intercept.abs() < 30.0 && slope.abs() < 100.0) {
            break;
        }
    }
    if !converged {
        return None;
    }
    let bread = inverse(information(&scaled, intercept, slope))?;
    let mut meat = [0.0; 3];
    for &(preference, length) in &scaled {
        let square = (preference - logistic(intercept + slope * length)).powi(2);
        meat[0] += square;
        meat[1] += square * length;
        meat[2] += square * length * length;
    }
    let quadratic = |a: f64, b: f64| a * a * meat[0] + 2.0 * a * b * meat[1] + b * b * meat[2];
    let (intercept_error, slope_error) =
        (quadratic(bread[0], bread[1]).sqrt(), quadratic(bread[1], bread[2]).sqrt());
    let z = normal_quantile(f64::midpoint(1.0, level));
    let (low, high) = (intercept - z * intercept_error, intercept + z * intercept_error);
    Some(LengthControlled {
        preferred: Proportion {
            share: logistic(intercept),
            interval: Interval { low: logistic(low), high: logistic(high) },
            of: pairs.len() as u64,
        },
        length: slope,
        length_interval: Interval { low: slope - z * slope_error, high: slope + z * slope_error },
    })
}

/// The information of intercept, both, and slope.
fn information(scaled: &[(f64, f64)], intercept: f64, slope: f64) -> [f64; 3] {
    let mut information = [0.0; 3];
    for &(_, length) in scaled {
        let chance = logistic(intercept + slope * length);
        let weight = chance * (1.0 - chance);
        information[0] += weight;
        information[1] += weight * length;
        information[2] += weight * length * length;
    }
    information
}

/// The inverse of a symmetric matrix of two rows.
fn inverse([a, b, d]: [f64; 3]) -> Option<[f64; 3]> {
    let determinant = a * d - b * b;
    (determinant > 1e-12 * a * d).then(|| [d / determinant, -b / determinant, a / determinant])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_that_wins_by_length_alone_is_no_better() {
        // Preferred in 3 of 4 where it is longer by 100, in 1 of 4 where it is shorter.
        let pairs: Vec<(f64, f64)> = (0..400)
            .map(|index| {
                let longer = index % 3 != 0;
                let wins = if longer { index % 4 != 0 } else { index % 4 == 0 };
                (f64::from(u8::from(wins)), if longer { 100.0 } else { -100.0 })
            })
            .collect();
        let raw = pairs.iter().map(|(preference, _)| preference).sum::<f64>() / 400.0;
        let controlled = length_controlled(&pairs, 0.95).unwrap();
        assert!(raw > 0.55, "{raw}");
        let interval = controlled.preferred.interval;
        assert!(interval.low < 0.5 && 0.5 < interval.high, "{controlled:?}");
        assert!(controlled.length_interval.low > 0.0, "{controlled:?}");
    }

    #[test]
    fn what_cannot_be_fitted_is_said() {
        let always: Vec<_> = (0..50).map(|index| (1.0, f64::from(index % 7))).collect();
        let by_length: Vec<_> =
            (0..50).map(|index| (f64::from(index % 2), f64::from(index % 2) - 0.5)).collect();
        let one_length: Vec<_> = (0..50).map(|index| (f64::from(index % 2), 3.0)).collect();
        for pairs in [always, by_length, one_length, vec![(0.5, 1.0); 2], vec![(0.5, f64::NAN); 9]] {
            assert_eq!(length_controlled(&pairs, 0.95), None, "{:?}", &pairs[..2]);
        }
    }
}
