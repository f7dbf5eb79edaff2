//! The rule `fixed`: evidence by bets that aim at the last sample of a fixed number.

use serde::{Deserialize, Serialize};

use super::betting::{Bets, Left, Population, Wealth, above, confidence_sequence, round};
use super::{Decision, Evidence, RuleContext, Ruling};
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Interval;

/// Level of the reported confidence sequence.
const CONFIDENCE: f64 = 0.95;

/// What `fixed` decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixedEvidence {
    /// Level of the evidence.
    pub alpha: f64,
    /// Samples, as many as planned.
    pub samples: u32,
    /// Their mean in points.
    pub mean: f64,
    /// Natural logarithm of the e-value against "the mean is at most `null_margin`",
    /// at the end.
    pub log_e_value: f64,
    /// Samples after which that e-value had first reached 1 / alpha.
    pub rejected_at: Option<u32>,
    /// The mean is at least `win_margin`.
    pub margin_met: bool,
    /// 95 % confidence sequence of the mean in points, by the bets of `sequential`.
    pub confidence: Interval,
}

/// The bets of [`Rule::Fixed`](super::Rule::Fixed) at work, against "the mean is at most
/// a null": each aims at the evidence that is needed by the last of `samples`.
#[derive(Debug, Clone)]
pub(crate) struct Star {
    alpha: f64,
    samples: u32,
    left: Left,
    /// Only for the spread.
    seen: Bets,
    wealth: Wealth,
    rejected_at: Option<u32>,
}

impl Star {
    /// Before the first of `samples` differences in [−1, 1].
    pub(crate) fn new(null: f64, alpha: f64, samples: u32, population: Population) -> Self {
        let (seen, left) = (Bets::new(alpha, samples), Left::new(population, null));
        Self { alpha, samples, left, seen, wealth: Wealth::ONE, rejected_at: None }
    }

    /// Consumes the next difference.
    pub(crate) fn consume(&mut self, difference: f64) {
        if let Some(null) = self.left.null() {
            let (needed, left) = (-self.alpha.ln() - self.wealth.ln(), self.samples - self.seen.count());
            // Rounded, so that no library's last digit of a logarithm shows.
            let scale = round((2.0 * needed.max(0.0) / f64::from(left)).sqrt(), 1e9);
            self.wealth.multiply(1.0 + self.seen.next_of(scale) * above(difference, null));
        }
        self.seen.observe(difference);
        self.left.draw(difference);
        if self.rejected_at.is_none() && (self.left.is_refuted() || self.wealth.reaches(1.0 / self.alpha)) {
            self.rejected_at = Some(self.seen.count());
        }
    }

    /// Natural logarithm of the e-value so far.
    pub(crate) fn log_e_value(&self) -> f64 {
        self.wealth.ln()
    }

    /// Samples after which the e-value had first reached 1 / alpha, or the null was
    /// refuted for certain.
    pub(crate) fn rejected_at(&self) -> Option<u32> {
        self.rejected_at
    }
}

/// What the rule says of `differences`, as many as planned.
pub(super) fn decide(
    differences: &[f64],
    win_margin: f64,
    null_margin: f64,
    context: &RuleContext,
) -> Decision {
    let RuleContext { alpha, samples, .. } = *context;
    let mut star = Star::new(null_margin / 100.0, alpha, samples, Population::Endless);
    for &difference in differences {
        star.consume(difference);
    }
    let mean = 100.0 * star.seen.mean();
    let margin_met = mean >= win_margin;
    let confidence = confidence_sequence(differences, Bets::new(alpha, samples), CONFIDENCE).scaled(100.0);
    let evidence = FixedEvidence {
        alpha,
        samples,
        mean: round(mean, 1e6),
        log_e_value: round(star.log_e_value(), 1e6),
        rejected_at: star.rejected_at,
        margin_met,
        confidence: Interval {
            low: (confidence.low * 1e6).floor() / 1e6,
            high: (confidence.high * 1e6).ceil() / 1e6,
        },
    };
    let ruling = Ruling::shown(margin_met && star.rejected_at.is_some());
    Decision { ruling, evidence: Evidence::Fixed(evidence), evidence_for_king: None }
}

/// Samples within which the rule `fixed` shows an effect of `effect` points at
/// `alpha` in 90 to 97 % of duels, where single samples have the standard deviation
/// `sd` in points: twice ln(1 / alpha) / growth, where the best bet adds growth =
/// effect² / 2 (sd² + effect²) to the logarithm of the wealth per sample
/// (Waudby-Smith and Ramdas, 2024). Source of "twice": simulated at alpha 1 % and
/// 0.02 %, effects of 3 to 10 points and SDs of 15 to 48.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`]: an effect that is not above 0, an SD below 0, an
/// alpha that is not between 0 and 0.5, or more than 1,000,000 samples.
pub fn samples_to_show(effect: f64, sd: f64, alpha: f64) -> Result<u32> {
    let invalid = |message: &str| Err(Error::new(ErrorKind::ConfigInvalid, "plan the samples", message));
    if !(effect > 0.0 && effect <= 100.0 && (0.0..=100.0).contains(&sd)) {
        return invalid("the effect must be above 0, the SD at least 0, and neither above 100 points");
    }
    if !(alpha > 0.0 && alpha < 0.5) {
        return invalid("alpha must be between 0 and 0.5");
    }
    let samples = (-4.0 * alpha.ln() * (sd * sd + effect * effect) / (effect * effect)).ceil();
    if samples > 1e6 {
        return invalid(
            "it takes more than 1,000,000 samples: look for a greater effect, or judge more finely",
        );
    }
    Ok(samples as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::{Holds, Rule};
    use crate::rng::{Stream, Use};

    fn decided(differences: &[f64], alpha: f64) -> (Ruling, FixedEvidence) {
        let context = RuleContext::new(&Rule::default(), differences.len() as u32, alpha);
        let Decision { ruling, evidence, .. } = decide(differences, 2.0, 0.0, &context);
        match evidence {
            Evidence::Fixed(evidence) => (ruling, evidence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bets_end_where_the_evidence_is_reached() {
        let (ruling, evidence) = decided(&[0.5; 200], 0.01);
        assert_eq!(ruling, Ruling::Dethroned);
        assert!(evidence.rejected_at < Some(200) && evidence.log_e_value >= 100_f64.ln() - 1e-6);
        assert!(evidence.log_e_value < 100_f64.ln() + 0.5, "nothing is staked after that: {evidence:?}");
        let (ruling, evidence) = decided(&[0.015; 200], 0.4);
        assert_eq!(ruling, Ruling::KingHolds(Holds::NotShown));
        assert!(!evidence.margin_met && evidence.rejected_at.is_some());
    }

    #[test]
    fn equal_contestants_are_rejected_less_often_than_alpha_and_better_ones_mostly() {
        let mut stream = Stream::new(12, Use::Bootstrap);
        let mut rejected = |win: f64| {
            (0..2_000)
                .filter(|_| {
                    let mut star = Star::new(0.0, 0.05, 200, Population::Endless);
                    for _ in 0..200 {
                        let unit = stream.below(1 << 20) as f64 / f64::from(1 << 20);
                        star.consume(if unit < win {
                            1.0
                        } else if unit > 0.8 {
                            -1.0
                        } else {
                            0.0
                        });
                    }
                    star.rejected_at.is_some()
                })
                .count()
        };
        let (equal, better) = (rejected(0.2), rejected(0.4));
        assert!((20..=100).contains(&equal), "{equal} of 2000");
        assert!(better > 1_700, "{better} of 2000");
    }

    #[test]
    fn planned_samples_follow_the_growth_of_the_wealth() {
        assert_eq!(samples_to_show(5.0, 15.0, 0.01).expect("plans"), 185);
        assert_eq!(samples_to_show(100.0, 0.0, 0.01).expect("plans"), 19);
        for (effect, sd, alpha) in [(0.0, 1.0, 0.1), (1.0, -1.0, 0.1), (1.0, 1.0, 0.5), (0.01, 90.0, 0.01)] {
            assert!(samples_to_show(effect, sd, alpha).is_err());
        }
    }

    proptest! {
        #[test]
        fn exchanging_the_sides_mirrors_the_mean_and_crowns_one_at_most(
            differences in proptest::collection::vec(-1.0..=1.0_f64, 1..100),
        ) {
            let mirrored: Vec<_> = differences.iter().map(|difference| -difference).collect();
            let ((here, one), (there, other)) = (decided(&differences, 0.05), decided(&mirrored, 0.05));
            prop_assert_eq!(one.mean, -other.mean);
            prop_assert!(here != Ruling::Dethroned || there != Ruling::Dethroned);
            prop_assert!(one.log_e_value.is_finite());
        }
    }
}
