//! The rule `sequential`: evidence by betting, size at planned looks, futility
//! at any time.

use serde::{Deserialize, Serialize};

use super::betting::{Bets, Wealth, above, confidence_sequence, round};
use super::{Holds, RuleContext, Ruling};
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Interval;

/// Level at which "the mean is at least the win margin" is given up.
const FUTILITY_ALPHA: f64 = 0.05;

/// Samples before futility may end a duel, or a quarter of the cap if that is
/// less.
const FUTILITY_FROM: u32 = 64;

/// Level of the reported confidence sequence.
const CONFIDENCE: f64 = 0.95;

/// Standard deviation of true effects that the shrunken estimate assumes: the
/// Python system's last 200 margins spread by 2.5 points, of which the duels'
/// own noise explains 1.5.
const EFFECT_SD: f64 = 0.02;

/// The cap of a duel within a reign at `alpha`: 512 samples at 1 %, in
/// proportion to ln(1 / alpha), rounded up to a multiple of 4. At every alpha it
/// gives about the same power against the same effect.
pub fn cap(alpha: f64) -> u32 {
    let exact = 512.0 * alpha.ln() / 0.01_f64.ln();
    // A hair less: 512 stays 512 whatever the last digit of the logarithms.
    ((exact - 1e-9) / 4.0).ceil() as u32 * 4
}

/// The looks at which a crown can fall: a quarter, a half and all of `cap`.
pub(super) fn looks(cap: u32) -> Vec<u32> {
    let mut looks = vec![cap.div_ceil(4), cap.div_ceil(2), cap];
    looks.dedup();
    looks
}

/// Refuses a cap within which not even a challenger that wins every sample
/// could be crowned.
pub(super) fn check_cap(alpha: f64, cap: u32, null_margin: f64) -> Result<()> {
    let (mut bets, mut evidence) = (Bets::new(alpha, cap), Wealth::ONE);
    for _ in 0..cap {
        evidence.multiply(1.0 + bets.next() * above(1.0, null_margin / 100.0));
        bets.observe(1.0);
        if evidence.reaches(1.0 / alpha) {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        "plan the duel",
        "the cap is too low: even winning every sample would not be evidence enough",
    )
    .with("cap", cap)
    .with("alpha", alpha)
    .with("null_margin", null_margin)
    .with_hint("raise `samples`, or the alpha of `terms`"))
}

/// What `sequential` decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SequentialEvidence {
    /// Level of the evidence.
    pub alpha: f64,
    /// Samples after which the duel would have ended at the latest.
    pub cap: u32,
    /// Samples consumed.
    pub samples: u32,
    /// Their mean in points.
    pub mean: f64,
    /// Natural logarithm of the e-value against "the mean is at most
    /// `null_margin`", at the end.
    pub log_e_value: f64,
    /// Samples after which that e-value had first reached 1 / alpha.
    pub rejected_at: Option<u32>,
    /// The look at which the challenger was crowned, in samples.
    pub crowned_at: Option<u32>,
    /// Natural logarithm of the e-value against "the mean is at least
    /// `win_margin`", at the end.
    pub futility_log_e_value: f64,
    /// Samples after which that e-value had first reached 20.
    pub futile_at: Option<u32>,
    /// 95 % confidence sequence of the mean in points: valid although the duel
    /// stopped when it liked.
    pub confidence: Interval,
    /// The effect in points that a reader should expect: the mean, drawn
    /// towards 0 by its own noise under true effects of SD 2 points. A
    /// crowned challenger's plain mean flatters it.
    pub shrunken: f64,
}

impl SequentialEvidence {
    /// The least mean in points that counts as a win by `win_margin` after this
    /// many samples.
    pub fn least_mean(&self, win_margin: f64) -> f64 {
        least_mean(win_margin, self.cap, self.samples)
    }
}

/// The rule at work on one duel: the clusters' differences in plan order, in
/// constant memory.
#[derive(Debug, Clone)]
pub struct SequentialTest {
    win_margin: f64,
    null_margin: f64,
    alpha: f64,
    looks: Vec<u32>,
    bets: Bets,
    evidence: Wealth,
    rejected_at: Option<u32>,
    crowned_at: Option<u32>,
    futility: Wealth,
    futile_at: Option<u32>,
}

impl SequentialTest {
    /// The rule with its margins in points, before the first cluster.
    pub fn new(win_margin: f64, null_margin: f64, context: &RuleContext) -> Self {
        Self {
            win_margin: win_margin / 100.0,
            null_margin: null_margin / 100.0,
            alpha: context.alpha,
            looks: context.looks.clone(),
            bets: Bets::new(context.alpha, context.samples),
            evidence: Wealth::ONE,
            rejected_at: None,
            crowned_at: None,
            futility: Wealth::ONE,
            futile_at: None,
        }
    }

    /// Consumes the next difference, in [−1, 1]; the ruling, once there is one.
    /// Evidence can be gathered beyond it.
    pub fn consume(&mut self, difference: f64) -> Option<Ruling> {
        let bet = self.bets.next();
        self.evidence.multiply(1.0 + bet * above(difference, self.null_margin));
        self.futility.multiply(1.0 + bet * (self.win_margin - difference) / (1.0 + self.win_margin));
        self.bets.observe(difference);
        let samples = self.bets.count();
        if self.rejected_at.is_none() && self.evidence.reaches(1.0 / self.alpha) {
            self.rejected_at = Some(samples);
        }
        if self.futile_at.is_none() && self.futility.reaches(1.0 / FUTILITY_ALPHA) {
            self.futile_at = Some(samples);
        }
        let cap = self.cap();
        if self.futile_at.is_some() && samples >= FUTILITY_FROM.min(cap / 4) {
            return Some(Ruling::KingHolds(Holds::Futile));
        }
        if self.rejected_at.is_some()
            && self.looks.contains(&samples)
            && self.bets.mean() >= least_mean(self.win_margin, self.cap(), samples)
        {
            self.crowned_at = Some(samples);
            return Some(Ruling::Dethroned);
        }
        (samples >= cap).then_some(Ruling::KingHolds(Holds::NotShown))
    }

    /// Samples consumed.
    pub fn samples(&self) -> u32 {
        self.bets.count()
    }

    /// Samples after which the null hypothesis was rejected.
    pub fn rejected_at(&self) -> Option<u32> {
        self.rejected_at
    }

    /// Natural logarithm of the e-value so far.
    pub fn log_e_value(&self) -> f64 {
        self.evidence.ln()
    }

    /// The numbers so far; `differences` are all that was consumed.
    pub fn evidence(&self, differences: &[f64]) -> SequentialEvidence {
        // To six decimals: logarithms differ in their last digit between platforms.
        let reported = |value: f64| round(value, 1e6);
        let unbet = Bets::new(self.alpha, self.cap());
        let confidence = confidence_sequence(differences, unbet, CONFIDENCE).scaled(100.0);
        let noise = self.bets.variance() / f64::from(self.samples().max(1));
        let mean = 100.0 * self.bets.mean();
        SequentialEvidence {
            alpha: self.alpha,
            cap: self.cap(),
            samples: self.samples(),
            mean: reported(mean),
            log_e_value: reported(self.evidence.ln()),
            rejected_at: self.rejected_at,
            crowned_at: self.crowned_at,
            futility_log_e_value: reported(self.futility.ln()),
            futile_at: self.futile_at,
            confidence: Interval {
                low: (confidence.low * 1e6).floor() / 1e6,
                high: (confidence.high * 1e6).ceil() / 1e6,
            },
            shrunken: reported(mean * EFFECT_SD.powi(2) / (EFFECT_SD.powi(2) + noise)),
        }
    }

    fn cap(&self) -> u32 {
        self.looks.last().copied().unwrap_or(0)
    }
}

/// The least mean that is crowned after `samples`: the margin, scaled by the
/// mean's noise there against that at the cap.
fn least_mean(win_margin: f64, cap: u32, samples: u32) -> f64 {
    win_margin * (f64::from(cap) / f64::from(samples)).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::{Decider, Evidence, Rule, decide};
    use crate::panel::Cluster;
    use crate::rng::{Stream, Use};

    fn context(alpha: f64, samples: u32) -> RuleContext {
        RuleContext { samples, looks: looks(samples), alpha, entropy: 0 }
    }

    fn clusters(differences: &[f64]) -> Vec<Cluster> {
        let cluster = |(sample, &difference)| Cluster { sample: sample as u32, cells: vec![], difference };
        differences.iter().enumerate().map(cluster).collect()
    }

    fn outcome(differences: &[f64], alpha: f64) -> (Ruling, SequentialEvidence) {
        let context = context(alpha, differences.len() as u32);
        let decision = decide(&Rule::default(), context, clusters(differences)).expect("decides by the cap");
        match decision.evidence {
            Evidence::Sequential(evidence) => (decision.ruling, evidence),
            other => panic!("{other:?}"),
        }
    }

    /// -1, 0 and 1 with these probabilities of 1 and -1.
    fn coarse(stream: &mut Stream, win: f64, loss: f64) -> f64 {
        let unit = stream.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        if unit < win {
            1.0
        } else if unit < win + loss {
            -1.0
        } else {
            0.0
        }
    }

    #[test]
    fn caps_follow_the_logarithm_of_alpha() {
        assert_eq!([0.01, 2e-4, 1e-4].map(cap), [512, 948, 1024]);
        assert_eq!((looks(948), looks(5), looks(1)), (vec![237, 474, 948], vec![2, 3, 5], vec![1]));
    }

    #[test]
    fn a_cap_that_cannot_reach_the_evidence_is_refused() {
        assert!(check_cap(0.05, 5, 0.0).is_ok());
        let error = check_cap(0.05, 4, 0.0).expect_err("1.9^4 is 13").to_string();
        assert!(error.contains("cap: 4, alpha: 0.05") && error.contains("raise `samples`"), "{error}");
        assert!(check_cap(0.05, 64, 99.0).is_err());
        assert!(check_cap(2e-4, cap(2e-4), 50.0).is_ok());
    }

    #[test]
    fn a_self_duel_is_futile() {
        let (ruling, evidence) = outcome(&[0.0; 948], 2e-4);
        assert_eq!(ruling, Ruling::KingHolds(Holds::Futile));
        assert_eq!((evidence.samples, evidence.futile_at), (175, Some(175)));
        assert_eq!((evidence.log_e_value, evidence.shrunken), (0.0, 0.0));
    }

    #[test]
    fn winning_or_losing_everything_is_decided_at_the_first_chance() {
        let (ruling, evidence) = outcome(&[1.0; 948], 2e-4);
        assert_eq!(ruling, Ruling::Dethroned);
        assert_eq!((evidence.crowned_at, evidence.rejected_at), (Some(237), Some(17)));
        assert!(evidence.confidence.low > 90.0 && evidence.shrunken > 70.0, "{evidence:?}");
        let (ruling, evidence) = outcome(&[-1.0; 948], 2e-4);
        assert_eq!(ruling, Ruling::KingHolds(Holds::Futile));
        assert_eq!(evidence.samples, 64, "no earlier");
        assert!(evidence.log_e_value < -100.0);
    }

    #[test]
    fn a_small_win_is_crowned_only_where_the_scaled_margin_allows() {
        let wave = |mean: f64| move |index: usize| mean + if index.is_multiple_of(2) { 0.05 } else { -0.05 };
        for (mean, crowned_at) in [(0.041, Some(237)), (0.039, Some(474)), (0.021, Some(948)), (0.019, None)]
        {
            let differences: Vec<_> = (0..948).map(wave(mean)).collect();
            let (ruling, evidence) = outcome(&differences, 0.05);
            assert_eq!(evidence.crowned_at, crowned_at, "{mean}");
            assert_eq!(ruling, Ruling::shown(crowned_at.is_some()));
        }
    }

    #[test]
    fn evidence_is_latched_and_futility_comes_first() {
        // Convincing at first, then so bad that the win is out of reach by the first look.
        let differences: Vec<_> = (0..400).map(|index| if index < 40 { 0.5 } else { -0.5 }).collect();
        let (ruling, evidence) = outcome(&differences, 0.05);
        assert_eq!(ruling, Ruling::KingHolds(Holds::Futile));
        assert!(evidence.rejected_at < Some(40) && evidence.log_e_value < 0.0, "{evidence:?}");
        assert_eq!(evidence.futile_at, Some(evidence.samples));
        // Hopeless at first, better than the margin over all: latched until it may act.
        let differences: Vec<_> = (0..400).map(|index| if index < 20 { -1.0 } else { 0.9 }).collect();
        let (ruling, evidence) = outcome(&differences, 0.05);
        assert_eq!((ruling, evidence.samples), (Ruling::KingHolds(Holds::Futile), 64));
        assert!(evidence.futile_at < Some(20) && evidence.mean > 20.0);
    }

    #[test]
    fn thousands_of_hopeless_clusters_leave_finite_numbers() {
        let rule = Rule::Sequential { win_margin: 0.0, null_margin: 90.0 };
        let mut test = SequentialTest::new(0.0, 90.0, &context(0.05, 20_000));
        let differences = vec![0.0; 20_000];
        let ruling = differences.iter().find_map(|&difference| test.consume(difference));
        assert_eq!(ruling, Some(Ruling::KingHolds(Holds::NotShown)));
        let evidence = test.evidence(&differences);
        assert!(evidence.log_e_value < -1_000.0 && evidence.log_e_value.is_finite());
        let decision = decide(&rule, context(0.05, 20_000), clusters(&differences));
        let text = serde_json::to_string(&decision).expect("serialises");
        assert_eq!(
            serde_json::from_str::<Option<crate::decision::Decision>>(&text).expect("reads"),
            decision
        );
    }

    #[test]
    fn equal_contestants_are_crowned_less_often_than_alpha() {
        let mut stream = Stream::new(9, Use::Bootstrap);
        let mut rejected = 0;
        for _ in 0..4_000 {
            let mut test = SequentialTest::new(0.0, 0.0, &context(0.05, 200));
            while test.consume(coarse(&mut stream, 0.115, 0.115)).is_none() {}
            rejected += u32::from(test.rejected_at().is_some());
        }
        assert!((20..=200).contains(&rejected), "{rejected} of 4000");
    }

    #[test]
    fn the_confidence_sequence_holds_the_mean_at_every_sample() {
        let mut stream = Stream::new(10, Use::Bootstrap);
        let held = (0..300).filter(|_| {
            let differences: Vec<_> = (0..120).map(|_| coarse(&mut stream, 0.3, 0.2)).collect();
            (1..=120).all(|samples| {
                let bets = Bets::new(0.05, 120);
                let interval = confidence_sequence(&differences[..samples], bets, CONFIDENCE);
                interval.low <= 0.1 && 0.1 <= interval.high
            })
        });
        let held = held.count();
        assert!((285..300).contains(&held), "{held} of 300");
    }

    proptest! {
        #[test]
        fn a_decision_rests_on_what_was_consumed_alone(
            differences in proptest::collection::vec(-1.0..=1.0_f64, 20..120),
            shift in -0.5..0.5_f64,
        ) {
            let differences: Vec<_> = differences.iter().map(|value| (value + shift).clamp(-1.0, 1.0)).collect();
            let (ruling, evidence) = outcome(&differences, 0.05);
            let mut decider = Decider::new(Rule::default(), context(0.05, differences.len() as u32));
            let consumed = clusters(&differences[..evidence.samples as usize]);
            let last = consumed.into_iter().map(|cluster| decider.consume(cluster)).last().flatten();
            prop_assert_eq!(last.map(|decision| decision.ruling), Some(ruling));
            prop_assert!(evidence.shrunken.abs() <= evidence.mean.abs());
        }
    }
}
