//! The rule `sequential`: evidence and size by betting, size also at planned
//! looks, futility at any time.

use serde::{Deserialize, Serialize};

use super::betting::{Bets, Wealth, above, confidence_sequence, round, scale};
use super::{Holds, RuleContext, RuleVersion, Ruling};
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Interval;

/// Level at which "the mean is at least the win margin" is given up.
pub const FUTILITY_ALPHA: f64 = 0.05;

/// Samples before futility may end a duel, or a quarter of the cap if that is
/// less.
const FUTILITY_FROM: u32 = 64;

/// Level of the second betting process, against "the mean is at most the size's
/// null". Source: albedo; at 2 % clear winners are crowned hardly earlier, and challengers
/// of +1 point a third more often (simulated, see `docs/error-rates.md`).
const SIZE_ALPHA: f64 = 0.01;

/// The second betting process is sized for a third of the cap: a win twice as
/// large as the win margin is shown by then. Source: albedo.
const SIZE_HORIZON: f64 = 1.0 / 3.0;

/// Samples before the second betting process may crown, or a quarter of the cap
/// if that is less. Source: albedo.
const SIZE_FROM: u32 = 48;

/// Level of the reported confidence sequence.
const CONFIDENCE: f64 = 0.95;

/// Standard deviation of true effects that the shrunken estimate of the
/// rules' first version assumes: the Python system's last 200 margins spread by 2.5
/// points, of which the duels' own noise explains 1.5.
const FIRST_EFFECT_SD: f64 = 0.02;

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
    if can_crown(alpha, cap, null_margin) {
        return Ok(());
    }
    let hint = match least_cap(alpha, cap, null_margin) {
        Some(least) => format!("raise `samples` to at least {least}, or the alpha of `terms`"),
        None => "lower the rule's `null_margin`, or raise the alpha of `terms`".to_owned(),
    };
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        "plan the duel",
        "the cap is too low: even winning every sample would not be evidence enough",
    )
    .with("cap", cap)
    .with("alpha", alpha)
    .with("null_margin", null_margin)
    .with_hint(hint))
}

/// Whether winning every sample within `cap` is evidence enough.
fn can_crown(alpha: f64, cap: u32, null_margin: f64) -> bool {
    let (mut bets, mut evidence) = (Bets::new(alpha, cap), Wealth::ONE);
    (0..cap).any(|_| {
        evidence.multiply(1.0 + bets.next() * above(1.0, null_margin / 100.0));
        bets.observe(1.0);
        evidence.reaches(1.0 / alpha)
    })
}

/// The least cap above `cap` that allows a crown; none below [`LARGEST_ADVISED`].
fn least_cap(alpha: f64, cap: u32, null_margin: f64) -> Option<u32> {
    let (mut low, mut high) = (cap, cap.max(1));
    while !can_crown(alpha, high, null_margin) {
        (low, high) = (high, high.checked_mul(2).filter(|high| *high <= LARGEST_ADVISED)?);
    }
    while high - low > 1 {
        let middle = u32::midpoint(low, high);
        if can_crown(alpha, middle, null_margin) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The largest number of samples that an error advises. Source: chosen by albedo.
const LARGEST_ADVISED: u32 = 100_000;

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
    /// Samples after which the challenger had won.
    pub crowned_at: Option<u32>,
    /// The second betting process; none in the rules' first version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<SizeEvidence>,
    /// Natural logarithm of the e-value against "the mean is at least
    /// `win_margin`", at the end.
    pub futility_log_e_value: f64,
    /// Samples after which that e-value had first reached 20.
    pub futile_at: Option<u32>,
    /// 95 % confidence sequence of the mean in points: valid although the duel
    /// stopped when it liked.
    pub confidence: Interval,
    /// The effect in points that a reader should expect: the mean, drawn towards 0
    /// by its own noise where true effects have the SD of the plan's
    /// [`EffectPrior`](crate::reign::EffectPrior), and cut to `confidence`. A crowned
    /// challenger's plain mean flatters it. None without a prior; in the rules' first
    /// version the SD is always 2 points, and nothing is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunken: Option<f64>,
}

impl SequentialEvidence {
    /// The least mean in points that counts as a win by `win_margin` after this
    /// many samples.
    pub fn least_mean(&self, win_margin: f64) -> f64 {
        least_mean(win_margin, self.cap, self.samples)
    }
}

/// What the second betting process of `sequential` came to: evidence that the win
/// is of some size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizeEvidence {
    /// The true effect in points up to which a win is too small.
    pub null: f64,
    /// Natural logarithm of the e-value against "the mean is at most `null`", at
    /// the end.
    pub log_e_value: f64,
    /// Samples after which that e-value had first reached 100.
    pub rejected_at: Option<u32>,
}

/// The null hypothesis of the second betting process in points: half the win
/// margin or one point below it, whichever is more, and at least `null_margin`.
fn size_null(win_margin: f64, null_margin: f64) -> f64 {
    null_margin.max(win_margin / 2.0).max(win_margin - 1.0)
}

/// The second betting process at work.
#[derive(Debug, Clone)]
struct Size {
    null: f64,
    scale: f64,
    evidence: Wealth,
    rejected_at: Option<u32>,
}

impl Size {
    fn new(win_margin: f64, null_margin: f64, cap: u32) -> Self {
        Self {
            null: size_null(win_margin, null_margin),
            scale: scale(SIZE_ALPHA, SIZE_HORIZON * f64::from(cap)),
            evidence: Wealth::ONE,
            rejected_at: None,
        }
    }

    /// Bets on `difference`, sample number `sample`, with what `bets` had seen before.
    fn consume(&mut self, difference: f64, sample: u32, bets: &Bets) {
        self.evidence.multiply(1.0 + bets.next_of(self.scale) * above(difference, self.null / 100.0));
        if self.rejected_at.is_none() && self.evidence.reaches(1.0 / SIZE_ALPHA) {
            self.rejected_at = Some(sample);
        }
    }
}

/// The rule at work on one series of differences, in plan order and constant
/// memory.
///
/// A challenger wins at the first sample by which the evidence against "the mean
/// is at most `null_margin`" has reached 1 / alpha and the size is shown: by the
/// second betting process, from sample min(48, ⌈cap / 4⌉) on, or at a look by the
/// scaled margin. What was reached once stays reached. Futility comes first. The
/// rules' first version has no second betting process.
#[derive(Debug, Clone)]
pub struct SequentialTest {
    win_margin: f64,
    null_margin: f64,
    alpha: f64,
    looks: Vec<u32>,
    bets: Bets,
    evidence: Wealth,
    rejected_at: Option<u32>,
    size: Option<Size>,
    crowned_at: Option<u32>,
    futility: Wealth,
    futile_at: Option<u32>,
    /// Whether a duel ends where a win is out of reach.
    gives_up: bool,
    version: RuleVersion,
    effect_sd: Option<f64>,
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
            size: match context.version {
                RuleVersion::First => None,
                RuleVersion::Second => Some(Size::new(win_margin, null_margin, context.samples)),
            },
            crowned_at: None,
            futility: Wealth::ONE,
            futile_at: None,
            gives_up: true,
            version: context.version,
            effect_sd: context.effect_sd,
        }
    }

    /// The same test, which goes on where a win is out of reach.
    pub(super) fn never_giving_up(self) -> Self {
        Self { gives_up: false, ..self }
    }

    /// Consumes the next difference, in [−1, 1]; the ruling, once there is one.
    /// Evidence can be gathered beyond it: a win stays one unless it becomes futile.
    pub fn consume(&mut self, difference: f64) -> Option<Ruling> {
        let bet = self.bets.next();
        if let Some(size) = &mut self.size {
            size.consume(difference, self.bets.count() + 1, &self.bets);
        }
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
        if self.gives_up && self.futile_at.is_some() && samples >= FUTILITY_FROM.min(cap / 4) {
            return Some(Ruling::KingHolds(Holds::Futile));
        }
        if self.crowned_at.is_none() && self.rejected_at.is_some() && self.size_is_shown(samples) {
            self.crowned_at = Some(samples);
        }
        if self.crowned_at.is_some() {
            return Some(Ruling::Dethroned);
        }
        (samples >= cap).then_some(Ruling::KingHolds(Holds::NotShown))
    }

    fn size_is_shown(&self, samples: u32) -> bool {
        let cap = self.cap();
        let by_betting = self.size.as_ref().is_some_and(|size| size.rejected_at.is_some());
        (by_betting && samples >= SIZE_FROM.min(cap.div_ceil(4)))
            || (self.looks.contains(&samples)
                && self.bets.mean() >= least_mean(self.win_margin, cap, samples))
    }

    /// Samples after which the challenger had won.
    pub fn crowned_at(&self) -> Option<u32> {
        self.crowned_at
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
        let shrunken = |sd: f64| mean * sd.powi(2) / (sd.powi(2) + noise);
        let shrunken = match self.version {
            RuleVersion::First => Some(shrunken(FIRST_EFFECT_SD)),
            RuleVersion::Second => {
                self.effect_sd.map(|points| shrunken(points / 100.0).clamp(confidence.low, confidence.high))
            }
        };
        SequentialEvidence {
            alpha: self.alpha,
            cap: self.cap(),
            samples: self.samples(),
            mean: reported(mean),
            log_e_value: reported(self.evidence.ln()),
            rejected_at: self.rejected_at,
            crowned_at: self.crowned_at,
            size: self.size.as_ref().map(|size| SizeEvidence {
                null: size.null,
                log_e_value: reported(size.evidence.ln()),
                rejected_at: size.rejected_at,
            }),
            futility_log_e_value: reported(self.futility.ln()),
            futile_at: self.futile_at,
            confidence: Interval {
                low: (confidence.low * 1e6).floor() / 1e6,
                high: (confidence.high * 1e6).ceil() / 1e6,
            },
            shrunken: shrunken.map(reported),
        }
    }

    /// Samples after which the duel ends at the latest.
    pub(super) fn cap(&self) -> u32 {
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
    use crate::panel::{Cluster, Reducer};
    use crate::rng::{Stream, Use};

    fn context(alpha: f64, samples: u32) -> RuleContext {
        RuleContext { version: RuleVersion::First, ..newest(alpha, samples) }
    }

    fn newest(alpha: f64, samples: u32) -> RuleContext {
        RuleContext::new(&Rule::default(), samples, alpha)
    }

    fn ended(mut test: SequentialTest, differences: &[f64]) -> (Option<Ruling>, SequentialTest) {
        let ruling = differences.iter().find_map(|&difference| test.consume(difference));
        (ruling, test)
    }

    fn clusters(differences: &[f64]) -> Vec<Cluster> {
        let cluster = |(sample, &difference)| {
            let empty = Cluster::new(sample as u32, vec![], Reducer::Mean);
            Cluster { difference, ..empty }
        };
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
        assert!(error.contains("cap: 4, alpha: 0.05") && error.contains("to at least 5,"), "{error}");
        let error = check_cap(0.05, 64, 99.0).expect_err("out of reach").to_string();
        assert!(error.contains("to at least") || error.contains("lower the rule's `null_margin`"), "{error}");
        for (alpha, cap, null) in [(0.05, 1, 0.0), (1e-6, 3, 0.0), (0.05, 2, 40.0)] {
            let least = least_cap(alpha, cap, null).expect("there is one");
            assert!(can_crown(alpha, least, null) && !can_crown(alpha, least - 1, null), "{least}");
        }
        assert!(check_cap(2e-4, cap(2e-4), 50.0).is_ok());
    }

    #[test]
    fn a_self_duel_is_futile() {
        let (ruling, evidence) = outcome(&[0.0; 948], 2e-4);
        assert_eq!(ruling, Ruling::KingHolds(Holds::Futile));
        assert_eq!((evidence.samples, evidence.futile_at), (175, Some(175)));
        assert_eq!((evidence.log_e_value, evidence.shrunken), (0.0, Some(0.0)));
    }

    #[test]
    fn winning_or_losing_everything_is_decided_at_the_first_chance() {
        let (ruling, evidence) = outcome(&[1.0; 948], 2e-4);
        assert_eq!(ruling, Ruling::Dethroned);
        assert_eq!((evidence.crowned_at, evidence.rejected_at), (Some(237), Some(17)));
        assert!(evidence.confidence.low > 90.0 && evidence.shrunken > Some(70.0), "{evidence:?}");
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
    fn a_clear_winner_is_crowned_at_the_first_sample_by_which_evidence_and_size_are_shown() {
        for (alpha, cap, difference, crowned_at) in
            [(2e-4, 948, 1.0, 48), (0.05, 64, 1.0, 16), (0.05, 64, 0.4, 16), (0.05, 10, 1.0, 5)]
        {
            let test = SequentialTest::new(2.0, 0.0, &newest(alpha, cap));
            let (ruling, test) = ended(test, &vec![difference; cap as usize]);
            assert_eq!((ruling, test.crowned_at()), (Some(Ruling::Dethroned), Some(crowned_at)), "{cap}");
        }
    }

    #[test]
    fn size_is_latched_as_evidence_is() {
        // The size is shown by sample 40, the evidence much later.
        let context = newest(1e-20, 948);
        let differences: Vec<_> = (0..948).map(|sample| if sample < 40 { 0.5 } else { 0.1 }).collect();
        let (ruling, test) = ended(SequentialTest::new(2.0, 0.0, &context), &differences);
        assert_eq!(ruling, Some(Ruling::Dethroned));
        let evidence = test.evidence(&differences[..test.samples() as usize]);
        let size = evidence.size.clone().expect("is in the second version");
        assert!(size.rejected_at < Some(40) && size.null == 1.0, "{size:?}");
        assert_eq!(evidence.rejected_at, Some(evidence.samples));
        assert!(![237, 474, 948].contains(&evidence.samples), "{evidence:?}");
    }

    #[test]
    fn the_size_to_show_grows_with_both_margins() {
        let nulls = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (5.0, 0.0), (2.0, 1.5), (2.0, 4.0)];
        let nulls = nulls.map(|(win_margin, null_margin)| size_null(win_margin, null_margin));
        assert_eq!(nulls, [0.0, 0.5, 1.0, 2.0, 4.0, 1.5, 4.0]);
    }

    #[test]
    fn an_effect_of_the_sizes_null_is_rarely_crowned_by_betting() {
        let mut stream = Stream::new(11, Use::Bootstrap);
        let mut by_betting = 0;
        for _ in 0..1_000 {
            let mut test = SequentialTest::new(0.0, 1.0, &newest(0.4, 300));
            let differences: Vec<_> = (0..300).map(|_| coarse(&mut stream, 0.055, 0.045)).collect();
            for &difference in &differences {
                test.consume(difference);
            }
            let size = test.evidence(&differences).size.expect("is in the second version");
            by_betting += u32::from(size.rejected_at.is_some());
        }
        // 1 % and three standard errors.
        assert!((1..=19).contains(&by_betting), "{by_betting} of 1000");
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
        fn the_second_version_is_never_longer_and_crowns_whatever_the_first_does(
            differences in proptest::collection::vec(-1.0..=1.0_f64, 20..300),
            shift in -0.3..0.6_f64,
            spread in 0.05..1.0_f64,
            alpha in prop_oneof![Just(0.05), Just(0.01), Just(2e-4)],
            win_margin in prop_oneof![Just(1.0), Just(2.0), Just(5.0)],
        ) {
            let differences: Vec<_> =
                differences.iter().map(|value| (spread * value + shift).clamp(-1.0, 1.0)).collect();
            let by = |context: &RuleContext| {
                ended(SequentialTest::new(win_margin, 0.0, context), &differences)
            };
            let cap = differences.len() as u32;
            let ((before, first), (now, second)) = (by(&context(alpha, cap)), by(&newest(alpha, cap)));
            prop_assert!(second.samples() <= first.samples());
            prop_assert!(before != Some(Ruling::Dethroned) || now == Some(Ruling::Dethroned));
            if second.samples() == first.samples() {
                prop_assert_eq!(before, now);
            } else {
                prop_assert_eq!(now, Some(Ruling::Dethroned));
            }
        }

        #[test]
        fn exchanging_the_sides_mirrors_the_mean_and_its_interval(
            differences in proptest::collection::vec(-1.0..=1.0_f64, 1..100),
        ) {
            let evidence = |sign: f64| {
                let values: Vec<_> = differences.iter().map(|value| sign * value).collect();
                let mut test = SequentialTest::new(2.0, 0.0, &newest(0.05, 100));
                for &value in &values {
                    test.consume(value);
                }
                test.evidence(&values)
            };
            let (here, there) = (evidence(1.0), evidence(-1.0));
            prop_assert_eq!(here.mean, -there.mean);
            prop_assert_eq!((here.confidence.low, here.confidence.high), (-there.confidence.high, -there.confidence.low));
        }

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
            prop_assert!(evidence.shrunken.is_some_and(|shrunken| shrunken.abs() <= evidence.mean.abs()));
        }

        #[test]
        fn a_shrunken_estimate_lies_in_the_interval_beside_it(
            differences in proptest::collection::vec(-1.0..=1.0_f64, 1..100),
            shift in -0.8..0.8_f64,
            sd in 0.0..20.0_f64,
        ) {
            let differences: Vec<_> =
                differences.iter().map(|value| (value / 4.0 + shift).clamp(-1.0, 1.0)).collect();
            let shrunken = |effect_sd| {
                let context = RuleContext { effect_sd, ..newest(0.05, 100) };
                let evidence = ended(SequentialTest::new(2.0, 0.0, &context), &differences).1.evidence(&differences);
                (evidence.shrunken, evidence.confidence)
            };
            let (estimate, interval) = shrunken(Some(sd));
            let estimate = estimate.expect("there is a prior");
            prop_assert!(interval.low <= estimate && estimate <= interval.high);
            prop_assert_eq!(shrunken(None).0, None);
        }
    }
}
