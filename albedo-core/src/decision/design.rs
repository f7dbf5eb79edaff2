//! How many samples show an effect by the rule `fixed`, and which effect samples show: by
//! duels that are drawn.

use super::betting::Population;
use super::fixed::Star;
use crate::error::{Error, ErrorKind, Result};
use crate::rng::{Stream, Use};

/// Duels that one answer rests on. Source: albedo.
const DUELS: u32 = 1_000;

/// Of these have to end with a crown: nine of ten, and two standard errors of such a share
/// more, so that nine of ten is true also where the drawn duels were lucky ones.
const CROWNED: u32 = 920;

/// Steps of a drawn duel, at most. In one of more samples a step consumes several under one
/// bet. Source: simulated; with 64 to 512 steps the share of crowns differs by less than 0.01.
const STEPS: u32 = 128;

/// The most samples that are planned.
const MOST_SAMPLES: u32 = 1_000_000;

/// How near an answer is to the least one, as a share of it. Source: albedo; the noise of the
/// drawn duels is larger.
const NEAR: f64 = 0.005;

const PLAN: &str = "plan the samples";

/// A duel of the rule [`Fixed`](crate::Rule::Fixed) that is being planned. All is in points,
/// except `alpha`.
///
/// Its answers hold in nine of ten duels whose samples spread evenly around the effect. They
/// are found by drawing duels, always the same ones, and letting the rule decide them. Where
/// a few samples differ widely and most not at all, fewer duels may show the effect.
///
/// ```
/// use albedo_core::decision::Design;
///
/// // Right or wrong on real tasks, and the margins of the rule's defaults.
/// let design = Design { sd: 48.0, alpha: 0.05, win_margin: 2.0, null_margin: 0.0 };
/// let samples = design.samples(10.0)?;
/// assert!((200..300).contains(&samples));
/// assert!(design.effect(samples)?.is_some_and(|effect| effect < 10.5));
/// assert!(design.samples(2.0).is_err(), "half of the means are below the margin");
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    /// Standard deviation of one sample's difference.
    pub sd: f64,
    /// The level of the evidence.
    pub alpha: f64,
    /// The least mean that is crowned.
    pub win_margin: f64,
    /// The true effect up to which a challenger counts as not better.
    pub null_margin: f64,
}

impl Design {
    /// The least number of samples that shows an effect of `effect` points.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: a number out of range, an effect that is not above both
    /// margins, or more than 1,000,000 samples.
    pub fn samples(&self, effect: f64) -> Result<u32> {
        let case = self.case()?;
        if !(effect > 0.0 && effect <= 100.0) {
            return invalid("the effect must be above 0 and at most 100 points".into());
        }
        if effect <= self.win_margin.max(self.null_margin) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                PLAN,
                format!(
                    "no number of samples shows {effect} points: the rule's `win_margin` is {}, its `null_margin` {}",
                    self.win_margin, self.null_margin
                ),
            )
            .with_hint("look for an effect above both, or lower them"));
        }
        case.samples(effect / 100.0).ok_or_else(|| {
            Error::new(ErrorKind::ConfigInvalid, PLAN, "it takes more than 1,000,000 samples")
                .with_hint("look for a greater effect, or judge more finely")
        })
    }

    /// The least effect in points that `samples` show; none if they are too few for any.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: a number out of range.
    pub fn effect(&self, samples: u32) -> Result<Option<f64>> {
        Ok(self.case()?.effect(samples).map(|effect| 100.0 * effect))
    }

    /// The design, checked, in shares of the range.
    fn case(&self) -> Result<Case> {
        let Self { sd, alpha, win_margin, null_margin } = *self;
        if !(0.0..=100.0).contains(&sd) {
            return invalid("the SD must be from 0 to 100 points".into());
        }
        if !(alpha > 0.0 && alpha < 0.5) {
            return invalid("alpha must be between 0 and 0.5".into());
        }
        if !((0.0..=100.0).contains(&win_margin) && (0.0..100.0).contains(&null_margin)) {
            return invalid("the margins must be from 0 to 100 points".into());
        }
        Ok(Case { sd: sd / 100.0, alpha, null: null_margin / 100.0, least: win_margin / 100.0 })
    }
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::new(ErrorKind::ConfigInvalid, PLAN, message))
}

/// What is asked of the bets of `fixed`. All is in shares of the range of differences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Standard deviation of one difference.
    pub(crate) sd: f64,
    pub(crate) alpha: f64,
    /// The bets are against "the mean is at most this".
    pub(crate) null: f64,
    /// The mean has to be at least this; −1 if it may be any.
    pub(crate) least: f64,
}

impl Case {
    /// The least effect that `samples` show; none if they are too few for any.
    pub(crate) fn effect(&self, samples: u32) -> Option<f64> {
        let base = self.null.max(self.least);
        if samples == 0 || base >= 1.0 {
            return None;
        }
        let step = (-4.0 * self.alpha.ln() / f64::from(samples)).sqrt() * self.sd.max(1e-9);
        let (mut low, mut high) = (base, (base + step).min(1.0));
        while !self.is_shown(high, samples) {
            if high >= 1.0 {
                return None;
            }
            (low, high) = (high, (base + 2.0 * (high - base)).min(1.0));
        }
        while high - low > NEAR * high {
            let middle = f64::midpoint(low, high);
            if self.is_shown(middle, samples) { high = middle } else { low = middle }
        }
        Some(high)
    }

    /// The least number of samples that shows `effect`; none if it is above
    /// [`MOST_SAMPLES`].
    fn samples(&self, effect: f64) -> Option<u32> {
        // Where the search begins: twice ln(1 / alpha) / growth, where the best bet adds growth =
        // effect² / 2 (sd² + effect²) to the logarithm of the wealth per sample (Waudby-Smith and
        // Ramdas, 2024).
        let beyond = effect - self.null;
        let begin = -4.0 * self.alpha.ln() * (self.sd.powi(2) + beyond.powi(2)) / beyond.powi(2);
        let (mut low, mut high) = (0, begin.ceil().clamp(1.0, f64::from(MOST_SAMPLES)) as u32);
        while !self.is_shown(effect, high) {
            if high >= MOST_SAMPLES {
                return None;
            }
            (low, high) = (high, (2 * high).min(MOST_SAMPLES));
        }
        while low == 0 && high > 1 {
            let half = high / 2;
            if self.is_shown(effect, half) { high = half } else { low = half }
        }
        while high - low > ((NEAR * f64::from(high)) as u32).max(1) {
            let middle = u32::midpoint(low, high);
            if self.is_shown(effect, middle) { high = middle } else { low = middle }
        }
        Some(high)
    }

    /// Whether `samples` show `effect` in nine of ten duels.
    fn is_shown(&self, effect: f64, samples: u32) -> bool {
        let (spread, stream) = (Spread::new(effect, self.sd), Stream::new(0, Use::Bootstrap));
        let mut missed = 0;
        (0..DUELS).all(|duel| {
            missed += u32::from(!self.is_crowned(&spread, samples, duel, &stream));
            missed <= DUELS - CROWNED
        })
    }

    /// Whether the drawn duel number `duel` ends with a crown.
    fn is_crowned(&self, spread: &Spread, samples: u32, duel: u32, stream: &Stream) -> bool {
        let mut star = Star::new(self.null, self.alpha, samples, Population::Endless);
        let steps = samples.min(STEPS);
        let (mut seen, mut sum, mut bits) = (0, 0.0, 0);
        for step in 0..steps {
            // Each 64 bits are the luck of four steps.
            if step % 4 == 0 {
                bits = stream.at(u64::from(duel * (STEPS / 4) + step / 4));
            }
            let luck = (((bits >> (16 * (step % 4))) & 0xFFFF) as f64 + 0.5) / 65_536.0;
            let end = (u64::from(samples) * u64::from(step + 1) / u64::from(steps)) as u32;
            let count = end - seen;
            seen = end;
            if count == 1 {
                let difference = spread.draw(luck);
                sum += difference;
                if star.rejected_at().is_none() {
                    star.consume(difference);
                }
            } else {
                let luck = normal(luck);
                sum += f64::from(count) * spread.mean_of(count, luck);
                if star.rejected_at().is_none() {
                    star.leap(count, spread, luck);
                }
            }
        }
        star.rejected_at().is_some() && sum / f64::from(samples) >= self.least
    }
}

/// One of the three values that have the first five moments of the standard normal
/// distribution.
fn normal(luck: f64) -> f64 {
    let rim = 3.0_f64.sqrt();
    if luck < 1.0 / 6.0 {
        -rim
    } else if luck >= 5.0 / 6.0 {
        rim
    } else {
        0.0
    }
}

/// The values that a drawn difference has, and how likely each is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    values: [f64; 3],
    shares: [f64; 3],
    mean: f64,
    variance: f64,
}

impl Spread {
    /// Differences of that mean, 0 to 1, and standard deviation: the mean and two values as far below
    /// as above it, with the first five moments of a normal distribution, as far as [−1, 1] allows.
    fn new(mean: f64, sd: f64) -> Self {
        let above = (3.0_f64.sqrt() * sd).min(1.0 - mean);
        let (values, shares) = if above <= 0.0 {
            ([mean; 3], [0.0, 1.0, 0.0])
        } else if above < sd {
            // The value above is 1, and the one below as far as the variance asks for.
            let below = sd.powi(2).min(1.0 - mean.powi(2)) / above;
            let top = below / (above + below);
            ([mean - below, mean - below, mean + above], [1.0 - top, 0.0, top])
        } else {
            let rim = sd.powi(2) / (2.0 * above.powi(2));
            ([mean - above, mean, mean + above], [rim, 1.0 - 2.0 * rim, rim])
        };
        let mut spread = Self { values, shares, mean, variance: 0.0 };
        (spread.mean, spread.variance) = spread.moments(|value| value);
        spread
    }

    /// The value at `luck`, which is uniform from 0 to 1.
    fn draw(&self, luck: f64) -> f64 {
        if luck < self.shares[0] {
            self.values[0]
        } else if luck >= 1.0 - self.shares[2] {
            self.values[2]
        } else {
            self.values[1]
        }
    }

    /// Mean and variance of what `of` makes of a value.
    pub(super) fn moments(&self, of: impl Fn(f64) -> f64) -> (f64, f64) {
        let found = self.values.map(of);
        let expected = |values: [f64; 3]| -> f64 {
            values.into_iter().zip(self.shares).map(|(value, share)| value * share).sum()
        };
        let mean = expected(found);
        (mean, expected(found.map(|value| (value - mean).powi(2))))
    }

    /// The mean of `count` values, `luck` standard deviations from the expected one.
    pub(super) fn mean_of(&self, count: u32, luck: f64) -> f64 {
        self.mean + (self.variance / f64::from(count)).sqrt() * luck
    }

    /// The variance of a value.
    pub(super) fn variance(&self) -> f64 {
        self.variance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(sd: f64, alpha: f64) -> Case {
        Case { sd, alpha, null: 0.0, least: -1.0 }
    }

    /// Of 1,000 duels of another luck and another spread, one standard deviation above or
    /// below the effect, those that are crowned.
    fn crowned(case: Case, effect: f64, samples: u32) -> u32 {
        let mut stream = Stream::new(7, Use::Bootstrap);
        let mut crowned = 0;
        for _ in 0..1_000 {
            let mut star = Star::new(case.null, case.alpha, samples, Population::Endless);
            let mut sum = 0.0;
            for _ in 0..samples {
                let difference = effect + if stream.below(2) == 0 { case.sd } else { -case.sd };
                sum += difference;
                star.consume(difference);
            }
            let shown = star.rejected_at().is_some() && sum / f64::from(samples) >= case.least;
            crowned += u32::from(shown);
        }
        crowned
    }

    /// Fewest crowns of 1,000 where nine of ten are to be expected: three standard errors fewer.
    const FEWEST: u32 = 872;

    #[test]
    fn an_effect_that_is_planned_for_is_shown_in_nine_of_ten_duels() {
        for (samples, sd, alpha) in [
            (30, 0.1, 0.05),
            (100, 0.1, 0.05),
            (100, 0.05, 0.05),
            (400, 0.05, 0.05),
            (100, 0.48, 0.05),
            (1_000, 0.48, 0.05),
            (200, 0.2, 2e-4),
        ] {
            let case = case(sd, alpha);
            let effect = case.effect(samples).expect("enough samples");
            let (here, below) = (crowned(case, effect, samples), crowned(case, 0.75 * effect, samples));
            assert!(here >= FEWEST, "{samples} of SD {sd}: {here} show {effect}");
            assert!(below < FEWEST, "{samples} of SD {sd}: {below} show less than {effect}");
        }
        assert_eq!([0, 1, 4].map(|samples| case(0.5, 0.05).effect(samples)), [None; 3]);
    }

    #[test]
    fn samples_that_are_planned_show_an_effect_beyond_both_margins() {
        for (effect, sd, win_margin, null_margin, alpha) in [
            (10.0, 15.0, 0.0, 0.0, 0.05),
            (20.0, 15.0, 0.0, 0.0, 0.05),
            (3.0, 48.0, 2.0, 0.0, 0.05),
            (5.0, 15.0, 2.0, 1.0, 0.01),
        ] {
            let design = Design { sd, alpha, win_margin, null_margin };
            let samples = design.samples(effect).expect("plans");
            let case = design.case().expect("in range");
            let (here, fewer) =
                (crowned(case, effect / 100.0, samples), crowned(case, effect / 100.0, samples / 2));
            assert!(here >= FEWEST, "{here} show {effect} by {samples}: {design:?}");
            assert!(fewer < FEWEST, "{fewer} show {effect} by half of {samples}: {design:?}");
            let back = design.effect(samples).expect("in range").expect("enough samples");
            assert!((back / effect - 1.0).abs() < 0.05, "{back} by {samples}: {design:?}");
        }
    }

    #[test]
    fn steps_of_several_samples_say_what_single_ones_say() {
        let effects = [64, STEPS, STEPS + 1, 1_024, 1_000_000].map(|samples| {
            let effect = case(0.3, 0.05).effect(samples).expect("enough samples");
            effect * f64::from(samples).sqrt()
        });
        let alike = |one: f64, other: f64| (one / other - 1.0).abs() < 0.02;
        assert!(alike(effects[1], effects[2]) && alike(effects[3], effects[4]), "{effects:?}");
        // The longer the duel, the smaller the part of the first bets, which know no spread.
        assert!(effects[0] > effects[1] && effects[2] > effects[3] && effects[4] > 0.8, "{effects:?}");
    }

    #[test]
    fn what_cannot_be_planned_is_said() {
        let design = Design { sd: 15.0, alpha: 0.01, win_margin: 0.0, null_margin: 0.0 };
        assert!((185..=205).contains(&design.samples(5.0).expect("plans")));
        assert!((7..=9).contains(&Design { sd: 0.0, ..design }.samples(100.0).expect("plans")));
        for (effect, design) in [
            (0.0, design),
            (f64::NAN, design),
            (101.0, design),
            (1.0, Design { sd: -1.0, ..design }),
            (1.0, Design { alpha: 0.5, ..design }),
            (1.0, Design { win_margin: -1.0, ..design }),
            (1.0, Design { win_margin: 1.0, ..design }),
            (1.0, Design { null_margin: 2.0, ..design }),
            (0.01, Design { sd: 90.0, ..design }),
        ] {
            let error = design.samples(effect).expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        }
    }
}
