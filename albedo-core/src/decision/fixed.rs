//! The rule `fixed`: evidence by bets that aim at the last sample of a fixed number.

use serde::{Deserialize, Serialize};

use super::betting::{Bets, Left, Population, Wealth, above, confidence_sequence, round};
use super::design::Spread;
use super::{Decision, Evidence, RuleContext, Ruling};
use crate::stats::Interval;

/// Level of the reported confidence sequence.
const CONFIDENCE: f64 = 0.95;

/// The most that one step of [`Star::leap`] adds to the logarithm of the wealth: what a float holds, and
/// far beyond any evidence that is needed.
const MOST_GROWTH: f64 = 100.0;

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
            self.wealth.multiply(1.0 + self.bet() * above(difference, null));
        }
        self.seen.observe(difference);
        self.left.draw(difference);
        self.look();
    }

    /// Consumes the next `count` differences of an endless population at once: their bets are one, and
    /// the logarithm of what they bring is normal. It is `luck` standard deviations from what
    /// `spread` lets expect. For planning alone.
    pub(super) fn leap(&mut self, count: u32, spread: &Spread, luck: f64) {
        if let Some(null) = self.left.null() {
            let bet = self.bet();
            let (growth, variance) = spread.moments(|value| (1.0 + bet * above(value, null)).ln());
            let growth = f64::from(count) * growth + (f64::from(count) * variance).sqrt() * luck;
            self.wealth.multiply(growth.clamp(-MOST_GROWTH, MOST_GROWTH).exp());
        }
        self.seen.observe_many(count, spread.mean_of(count, luck), spread.variance());
        self.look();
    }

    /// The bet on the next difference.
    fn bet(&self) -> f64 {
        let (needed, left) = (-self.alpha.ln() - self.wealth.ln(), self.samples - self.seen.count());
        // Rounded, so that no library's last digit of a logarithm shows.
        let scale = round((2.0 * needed.max(0.0) / f64::from(left)).sqrt(), 1e9);
        self.seen.next_of(scale)
    }

    /// Takes note of the first time that the evidence is reached.
    fn look(&mut self) {
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

/// The evidence of [`Rule::Fixed`](super::Rule::Fixed) on differences alone, sample by sample in plan order. The rule
/// itself looks at it once, at the end.
#[derive(Debug, Clone)]
pub struct FixedTest(Star);

impl FixedTest {
    /// The rule with its `null_margin` in points, before the first difference.
    pub fn new(null_margin: f64, context: &RuleContext) -> Self {
        Self(Star::new(null_margin / 100.0, context.alpha, context.samples, Population::Endless))
    }

    /// Consumes the next difference, in [−1, 1]. Differences beyond the planned samples change nothing.
    pub fn consume(&mut self, difference: f64) {
        let Self(star) = self;
        if star.seen.count() < star.samples {
            star.consume(difference);
        }
    }

    /// Natural logarithm of the e-value so far.
    pub fn log_e_value(&self) -> f64 {
        self.0.log_e_value()
    }

    /// The 95 % confidence sequence of the mean in points; `differences` are all that was consumed.
    pub fn confidence(&self, differences: &[f64]) -> Interval {
        let bets = Bets::new(self.0.alpha, self.0.samples);
        let confidence = confidence_sequence(differences, bets, CONFIDENCE).scaled(100.0);
        Interval { low: (confidence.low * 1e6).floor() / 1e6, high: (confidence.high * 1e6).ceil() / 1e6 }
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
    let mut test = FixedTest::new(null_margin, context);
    for &difference in differences {
        test.consume(difference);
    }
    let (confidence, FixedTest(star)) = (test.confidence(differences), test);
    let mean = 100.0 * star.seen.mean();
    let margin_met = mean >= win_margin;
    let evidence = FixedEvidence {
        alpha,
        samples,
        mean: round(mean, 1e6),
        log_e_value: round(star.log_e_value(), 1e6),
        rejected_at: star.rejected_at,
        margin_met,
        confidence,
    };
    let ruling = Ruling::shown(margin_met && star.rejected_at.is_some());
    Decision { ruling, evidence: Evidence::Fixed(evidence), evidence_for_king: None }
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
