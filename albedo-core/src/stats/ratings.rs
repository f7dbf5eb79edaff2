//! Strengths of many contestants from meetings of two.

use serde::{Deserialize, Serialize};

use super::Interval;
use super::distributions::{chi_square_above, logistic, normal_quantile};
use crate::error::{Error, ErrorKind, Result};

/// Newton's steps before a fit is given up; it takes about ten.
const MOST_STEPS: usize = 200;

/// What meetings of contestants, by their numbers from 0, gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairings {
    contestants: usize,
    /// What each row's contestant won against each column's.
    wins: Vec<f64>,
}

impl Pairings {
    /// No meetings yet of `contestants` contestants.
    pub fn new(contestants: usize) -> Self {
        Self { contestants, wins: vec![0.0; contestants * contestants] }
    }

    /// Adds a meeting: `score` is 1 if `first` won, 0 if `second` did, and in between
    /// for a tie or the mean of several judgements.
    ///
    /// # Errors
    /// The operator's: there is no such contestant, one meets itself, or the score is not
    /// between 0 and 1.
    pub fn add(&mut self, first: usize, second: usize, score: f64) -> Result<()> {
        let refused =
            |message: String| Err(Error::new(ErrorKind::ConfigInvalid, "rate contestants", message));
        let last = first.max(second);
        if last >= self.contestants {
            return refused(format!("there is no contestant {last} of {}", self.contestants));
        }
        if first == second {
            return refused(format!("contestant {first} meets itself"));
        }
        if !(0.0..=1.0).contains(&score) {
            return refused(format!("the score is {score}, it must be 0 to 1"));
        }
        self.wins[first * self.contestants + second] += score;
        self.wins[second * self.contestants + first] += 1.0 - score;
        Ok(())
    }

    fn wins(&self, first: usize, second: usize) -> f64 {
        self.wins[first * self.contestants + second]
    }

    fn meetings(&self, first: usize, second: usize) -> f64 {
        self.wins(first, second) + self.wins(second, first)
    }

    /// The contestants in groups: within a group each can be compared with each, over
    /// others if need be, and strengths exist; between groups they do not, as one group
    /// has won everything against the other, or they never met.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let reached: Vec<Vec<bool>> = (0..self.contestants).map(|from| self.reached(from)).collect();
        let mut groups = Vec::<Vec<usize>>::new();
        for (contestant, reaches) in reached.iter().enumerate() {
            let together = |group: &&mut Vec<usize>| reaches[group[0]] && reached[group[0]][contestant];
            match groups.iter_mut().find(together) {
                Some(group) => group.push(contestant),
                None => groups.push(vec![contestant]),
            }
        }
        groups
    }

    /// Whom `from` has won against, and those whom they have won against, and so on.
    fn reached(&self, from: usize) -> Vec<bool> {
        let mut reached = vec![false; self.contestants];
        let mut open = vec![from];
        reached[from] = true;
        while let Some(contestant) = open.pop() {
            for (other, reached) in reached.iter_mut().enumerate() {
                if !*reached && self.wins(contestant, other) > 0.0 {
                    *reached = true;
                    open.push(other);
                }
            }
        }
        reached
    }
}

/// Strengths of contestants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratings {
    /// The natural logarithm of each strength; their mean is 0. The probability that one
    /// wins against another is the logistic function of the difference. Times 173.7 it is
    /// the scale of Elo.
    pub strengths: Vec<f64>,
    /// Their standard errors.
    pub standard_errors: Vec<f64>,
    /// Their intervals.
    pub intervals: Vec<Interval>,
    /// Whether one number per contestant explains the meetings.
    pub fit: Fit,
}

/// The likelihood-ratio test of strengths against a probability for each pair of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The deviance, about chi-square distributed if strengths explain the meetings.
    pub deviance: f64,
    /// Its degrees of freedom: pairs that met beyond those that a tree of all needs.
    pub degrees: u32,
    /// How likely a deviance as large is by chance: small where A beats B, B beats C and C
    /// beats A. None without degrees of freedom.
    pub p_value: Option<f64>,
}

/// The strengths of Bradley and Terry (1952), by maximum likelihood, with standard errors
/// from the observed information and intervals by the normal distribution at `level`. A
/// tie counts as half a win.
///
/// ```
/// use albedo_core::stats::{Pairings, bradley_terry};
///
/// # fn main() -> albedo_core::Result<()> {
/// let mut pairings = Pairings::new(3);
/// for (first, second, score) in [(0, 1, 1.0), (0, 1, 0.5), (1, 2, 1.0), (1, 2, 0.0), (2, 0, 0.5)] {
///     pairings.add(first, second, score)?;
/// }
/// let ratings = bradley_terry(&pairings, 0.95)?;
/// assert!(ratings.strengths[0] > ratings.strengths[1]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::DataInvalid`], infrastructure's: the contestants fall into several
/// [groups](Pairings::groups), which it names, or there are fewer than two.
pub fn bradley_terry(pairings: &Pairings, level: f64) -> Result<Ratings> {
    const OPERATION: &str = "rate contestants";
    let size = pairings.contestants;
    let groups = pairings.groups();
    if groups.len() != 1 || size < 2 {
        let named: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
        let message = "no meetings say how strong they are beside each other";
        return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
            .with("groups", named.join(" "))
            .with_hint("let contestants of different groups meet until each group has won something"));
    }
    let mut strengths = vec![0.0; size];
    let mut likelihood = log_likelihood(pairings, &strengths);
    for _ in 0..MOST_STEPS {
        let Some(covariance) = inverse(information(pairings, &strengths)) else { break };
        let gradient = gradient(pairings, &strengths);
        let step: Vec<f64> = covariance
            .chunks_exact(size)
            .map(|row| row.iter().zip(&gradient).map(|(entry, slope)| entry * slope).sum())
            .collect();
        // Halved until it climbs.
        let mut share = 1.0;
        let climbed = loop {
            let next: Vec<f64> = strengths.iter().zip(&step).map(|(at, step)| at + share * step).collect();
            let found = log_likelihood(pairings, &next);
            if found >= likelihood || share < 1e-6 {
                break (next, found);
            }
            share /= 2.0;
        };
        (strengths, likelihood) = climbed;
        if step.iter().all(|step| step.abs() < 1e-12) {
            break;
        }
    }
    let center = strengths.iter().sum::<f64>() / size as f64;
    for strength in &mut strengths {
        *strength -= center;
    }
    let Some(covariance) = inverse(information(pairings, &strengths)) else {
        return Err(Error::bug(OPERATION, "the information of connected contestants is singular"));
    };
    // Of the information with a one in every place, so that it can be inverted: the
    // inverse has 1 / size too much in every place.
    let variances = (0..size).map(|at| covariance[at * size + at] - 1.0 / (size * size) as f64);
    let standard_errors: Vec<f64> = variances.map(|variance| variance.max(0.0).sqrt()).collect();
    let z = normal_quantile(f64::midpoint(1.0, level));
    let interval = |(at, error): (&f64, &f64)| Interval { low: at - z * error, high: at + z * error };
    let intervals = strengths.iter().zip(&standard_errors).map(interval).collect();
    let fit = fit(pairings, &strengths);
    Ok(Ratings { strengths, standard_errors, intervals, fit })
}

fn pairs(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..size).flat_map(move |first| (first + 1..size).map(move |second| (first, second)))
}

fn log_likelihood(pairings: &Pairings, strengths: &[f64]) -> f64 {
    // ln of the logistic function, without overflow.
    let ln_logistic = |x: f64| if x < 0.0 { x - x.exp().ln_1p() } else { -(-x).exp().ln_1p() };
    pairs(strengths.len())
        .map(|(first, second)| {
            let difference = strengths[first] - strengths[second];
            pairings.wins(first, second) * ln_logistic(difference)
                + pairings.wins(second, first) * ln_logistic(-difference)
        })
        .sum()
}

fn gradient(pairings: &Pairings, strengths: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; strengths.len()];
    for (first, second) in pairs(strengths.len()) {
        let expected = pairings.meetings(first, second) * logistic(strengths[first] - strengths[second]);
        let slope = pairings.wins(first, second) - expected;
        gradient[first] += slope;
        gradient[second] -= slope;
    }
    gradient
}

/// The information, with a one added in every place.
fn information(pairings: &Pairings, strengths: &[f64]) -> Vec<f64> {
    let size = strengths.len();
    let mut information = vec![1.0; size * size];
    for (first, second) in pairs(size) {
        let chance = logistic(strengths[first] - strengths[second]);
        let weight = pairings.meetings(first, second) * chance * (1.0 - chance);
        information[first * size + first] += weight;
        information[second * size + second] += weight;
        information[first * size + second] -= weight;
        information[second * size + first] -= weight;
    }
    information
}

fn fit(pairings: &Pairings, strengths: &[f64]) -> Fit {
    let (mut deviance, mut met) = (0.0, 0);
    for (first, second) in pairs(strengths.len()) {
        let meetings = pairings.meetings(first, second);
        if meetings == 0.0 {
            continue;
        }
        met += 1;
        let chance = logistic(strengths[first] - strengths[second]);
        for (wins, chance) in
            [(pairings.wins(first, second), chance), (pairings.wins(second, first), 1.0 - chance)]
        {
            if wins > 0.0 {
                deviance += 2.0 * wins * (wins / (meetings * chance)).ln();
            }
        }
    }
    let deviance = deviance.max(0.0);
    let degrees = (met - (strengths.len() - 1)) as u32;
    Fit { deviance, degrees, p_value: (degrees > 0).then(|| chi_square_above(deviance, degrees)) }
}

/// The inverse of a symmetric, positive definite matrix by Gauss and Jordan; none if it
/// is singular.
fn inverse(mut matrix: Vec<f64>) -> Option<Vec<f64>> {
    let size = matrix.len().isqrt();
    let mut inverse = vec![0.0; size * size];
    for at in 0..size {
        inverse[at * size + at] = 1.0;
    }
    for column in 0..size {
        let pivot = matrix[column * size + column];
        if pivot <= 0.0 || !pivot.is_finite() {
            return None;
        }
        for at in 0..size {
            matrix[column * size + at] /= pivot;
            inverse[column * size + at] /= pivot;
        }
        for row in (0..size).filter(|row| *row != column) {
            let factor = matrix[row * size + column];
            for at in 0..size {
                matrix[row * size + at] -= factor * matrix[column * size + at];
                inverse[row * size + at] -= factor * inverse[column * size + at];
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn met(contestants: usize, meetings: &[(usize, usize, f64)]) -> Pairings {
        let mut pairings = Pairings::new(contestants);
        for &(first, second, score) in meetings {
            pairings.add(first, second, score).unwrap();
        }
        pairings
    }

    #[test]
    fn two_contestants_have_the_odds_of_their_wins() {
        let pairings = met(2, &[(0, 1, 1.0), (0, 1, 1.0), (0, 1, 1.0), (0, 1, 0.0)]);
        let ratings = bradley_terry(&pairings, 0.95).unwrap();
        assert!((ratings.strengths[0] - ratings.strengths[1] - 3.0_f64.ln()).abs() < 1e-9);
        assert_eq!((ratings.fit.degrees, ratings.fit.p_value), (0, None));
    }

    #[test]
    fn a_circle_is_no_ranking() {
        let circle: Vec<_> = [(0, 1), (1, 2), (2, 0)]
            .into_iter()
            .flat_map(|(winner, loser)| {
                (0..20).map(move |meeting| (winner, loser, if meeting < 18 { 1.0 } else { 0.0 }))
            })
            .collect();
        let ratings = bradley_terry(&met(3, &circle), 0.95).unwrap();
        assert!(ratings.strengths.iter().all(|strength| strength.abs() < 1e-9));
        assert!(ratings.fit.p_value.unwrap() < 1e-6);
    }

    #[test]
    fn who_cannot_be_compared_is_named() {
        // 0 and 1 have won everything against 2 and 3, who never met.
        let pairings = met(4, &[(0, 1, 0.5), (0, 2, 1.0), (1, 3, 1.0)]);
        assert_eq!(pairings.groups(), [vec![0, 1], vec![2], vec![3]]);
        let error = bradley_terry(&pairings, 0.95).unwrap_err();
        assert!(error.to_string().contains("groups: [0, 1] [2] [3]"), "{error}");
        assert!(bradley_terry(&Pairings::new(0), 0.95).is_err());
        assert!(bradley_terry(&Pairings::new(1), 0.95).is_err());
    }

    #[test]
    fn what_is_no_meeting_is_refused() {
        let mut pairings = Pairings::new(2);
        for (first, second, score) in [(0, 2, 0.5), (1, 1, 0.5), (0, 1, 1.5), (0, 1, f64::NAN)] {
            assert!(pairings.add(first, second, score).is_err());
        }
        assert_eq!(pairings, Pairings::new(2));
    }

    proptest! {
        #[test]
        fn exchanging_every_score_negates_the_strengths(
            meetings in proptest::collection::vec((0_usize..4, 0_usize..4, 0_u8..3), 1..60),
        ) {
            let meetings: Vec<(usize, usize, f64)> = meetings
                .into_iter()
                .filter(|(first, second, _)| first != second)
                .map(|(first, second, half)| (first, second, f64::from(half) / 2.0))
                .collect();
            let exchanged: Vec<_> =
                meetings.iter().map(|&(first, second, score)| (first, second, 1.0 - score)).collect();
            match (bradley_terry(&met(4, &meetings), 0.9), bradley_terry(&met(4, &exchanged), 0.9)) {
                (Ok(one), Ok(other)) => {
                    for (one, other) in one.strengths.iter().zip(&other.strengths) {
                        prop_assert!((one + other).abs() < 1e-6, "{one} {other}");
                    }
                }
                (one, other) => prop_assert_eq!(one.is_err(), other.is_err()),
            }
        }
    }
}
