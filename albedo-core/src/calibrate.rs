//! Calibration: a model duels itself, the two sides with different generation
//! seeds, and what moves a duel besides the chance of its samples is estimated.
//!
//! No test inside one duel can see an effect that all of its samples share. It
//! shows between duels: with `k` self-duels of `n` samples, duel `i` has the mean
//! μ + `u_i` + `e_i`, where the noise `e_i` of its samples has the variance σ² / n,
//! known from within the duels, and the duel-level effect `u_i` the variance τ².

use serde::{Deserialize, Serialize};

use crate::decision::Rule;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DuelSettings, Lanes};
use crate::rng::derive_seed;
use crate::seed::Seed;
use crate::stats::{Interval, chi_square_quantile, student_quantile};

/// Two-sided level of the mean's interval.
const LEVEL: f64 = 0.95;

/// Chance that the duel-level SD is above its upper bound.
const ABOVE: f64 = 0.05;

/// The normal quantile of 95 %.
const Z95: f64 = 1.644_853_626_951_472_2;

/// The most duels of a calibration. Source: albedo.
const MAX_DUELS: u32 = 10_000;

const OPERATION: &str = "calibrate";

/// The settings of `duels` self-duels that are `base` in all but this: each has
/// its own seed derived from `base`'s, the challenger's requests are in lane 1,
/// and the rule `margin` has every sample judged.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`]: fewer than two duels or more than 10,000, or
/// greedy sampling, under which both sides write the same.
pub fn self_duels(base: &DuelSettings, duels: u32) -> Result<Vec<DuelSettings>> {
    if !(2..=MAX_DUELS).contains(&duels) {
        return Err(invalid(format!("{duels} self-duels were asked for, it must be 2 to {MAX_DUELS}"))
            .with_hint("20 do; fewer leave the upper bound wide"));
    }
    if base.generation.sampling.temperature == 0.0 {
        return Err(invalid("sampling is greedy: whatever the seed, a model's two replies are the same")
            .with_hint("calibrate at the temperature of the duels to come, above 0"));
    }
    let rule = Rule::by_name("margin")?;
    let settings = |duel: u32| {
        let seed = derive_seed(OPERATION, &[base.seed.as_bytes(), &duel.to_le_bytes()]);
        let lanes = Lanes { king: 0, challenger: 1 };
        DuelSettings { seed: Seed::from(seed), lanes, rule: rule.clone(), previous: None, ..base.clone() }
    };
    Ok((0..duels).map(settings).collect())
}

/// What self-duels tell, in points of 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Self-duels.
    pub duels: usize,
    /// Samples of each.
    pub samples: usize,
    /// Mean margin: about 0, unless something favours a side.
    pub mean: f64,
    /// Its 95 % interval: Student's, over the duels' margins.
    pub mean_interval: Interval,
    /// Standard deviation of a sample's difference within a duel.
    pub within_sd: f64,
    /// Standard deviation of the duel-level effect: the moment estimate of a
    /// one-way analysis of variance (as `DerSimonian` and Laird, 1986, for duels of
    /// one size), 0 if the duels differ by no more than their samples' noise.
    pub duel_sd: f64,
    /// Its 95 % upper bound.
    pub duel_sd_upper: f64,
    /// The `null_margin` that this suggests: 1.645 times the upper bound. A
    /// challenger that is not better has a duel-level effect above it in at most
    /// 5 % of duels, if such effects are normal.
    pub null_margin: f64,
}

impl Calibration {
    /// Estimates from the differences of self-duels, one per cluster, in [−1, 1].
    ///
    /// The upper bound is the Q-profile's (Viechtbauer, 2007), in closed form
    /// because duels of one size share one sampling variance: that τ² at which
    /// the sum of squares between duels is the 5 % quantile of σ² + n·τ² times a
    /// chi-square variable with k − 1 degrees of freedom. It takes the duels'
    /// means as normal and σ² as known.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: fewer than two duels, fewer than two samples
    /// in a duel, or duels of different sizes. [`ErrorKind::DataInvalid`]: a
    /// difference outside [−1, 1], or all of them the same.
    pub fn estimate(duels: &[Vec<f64>]) -> Result<Self> {
        let [first, _, ..] = duels else {
            return Err(invalid("one duel alone does not tell its own effect from its samples' noise")
                .with_hint("run at least two, better 20"));
        };
        let (k, n) = (duels.len() as f64, first.len() as f64);
        if first.len() < 2 {
            return Err(invalid("a duel of one sample does not show its noise").with_hint("raise `samples`"));
        }
        if duels.iter().any(|duel| duel.len() != first.len()) {
            return Err(invalid("the duels have different numbers of samples"));
        }
        let unusable = |message: &str| Error::new(ErrorKind::DataInvalid, OPERATION, message);
        if duels.iter().flatten().any(|difference| !(-1.0..=1.0).contains(difference)) {
            return Err(unusable("a difference is not between -1 and 1"));
        }
        if duels.iter().flatten().all(|difference| *difference == first[0]) {
            return Err(unusable("all differences are the same: nothing varies that could be estimated")
                .with_hint("raise the temperature, or use judges that tell the replies apart"));
        }

        let means: Vec<_> = duels.iter().map(|duel| mean(duel)).collect();
        let grand = mean(&means);
        let within = duels.iter().zip(&means).map(|(duel, &mean)| squares(duel, mean)).sum::<f64>();
        let within = within / (k * (n - 1.0));
        let spread = squares(&means, grand);
        let degrees = duels.len() as u32 - 1;
        let half = student_quantile(LEVEL, degrees) * (spread / (k - 1.0) / k).sqrt();
        let effect_sd = |spread: f64| (spread - within / n).max(0.0).sqrt();
        let upper = effect_sd(spread / chi_square_quantile(ABOVE, degrees));
        Ok(Self {
            duels: duels.len(),
            samples: first.len(),
            mean: 100.0 * grand,
            mean_interval: Interval { low: grand - half, high: grand + half }.scaled(100.0),
            within_sd: 100.0 * within.sqrt(),
            duel_sd: 100.0 * effect_sd(spread / (k - 1.0)),
            duel_sd_upper: 100.0 * upper,
            null_margin: 100.0 * Z95 * upper,
        })
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sum of the squared distances from `centre`.
fn squares(values: &[f64], centre: f64) -> f64 {
    values.iter().map(|value| (value - centre).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::backend::Sampling;
    use crate::plan::GenerationSettings;
    use crate::rng::{Stream, Use};

    fn warm() -> DuelSettings {
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let generation = GenerationSettings { sampling, ..GenerationSettings::default() };
        DuelSettings { generation, ..DuelSettings::default() }
    }

    fn normal(stream: &mut Stream) -> f64 {
        let mut unit = || (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let (radius, angle) = ((-2.0 * (1.0 - unit()).ln()).sqrt(), std::f64::consts::TAU * unit());
        radius * angle.cos()
    }

    /// `duels` self-duels of `samples` with a duel-level effect of SD `duel_sd`.
    fn simulated(stream: &mut Stream, duels: usize, samples: usize, duel_sd: f64) -> Vec<Vec<f64>> {
        let duel = |_| {
            let effect = duel_sd * normal(stream);
            (0..samples).map(|_| (effect + 0.15 * normal(stream)).clamp(-1.0, 1.0)).collect()
        };
        (0..duels).map(duel).collect()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + a.abs())
    }

    #[test]
    fn self_duels_differ_from_the_base_by_seed_and_lane() {
        let base = warm();
        let duels = self_duels(&base, 20).expect("plans");
        let seeds: BTreeSet<_> = duels.iter().map(|duel| *duel.seed.as_bytes()).collect();
        assert_eq!(seeds.len(), 20);
        assert_eq!(duels[..2], self_duels(&base, 2).expect("plans"), "more duels change none");
        for duel in duels {
            assert_eq!(duel.lanes, Lanes { king: 0, challenger: 1 });
            assert_eq!(duel.rule.name(), "margin");
            assert_eq!((duel.generation, duel.samples), (base.generation, base.samples));
        }
    }

    #[test]
    fn what_cannot_be_calibrated_is_refused() {
        let error = self_duels(&DuelSettings::default(), 20).expect_err("greedy").to_string();
        assert!(error.contains("greedy") && error.contains("above 0"), "{error}");
        assert!(self_duels(&warm(), 1).expect_err("one").to_string().contains("2 to 10000"));
        let refused = |duels: &[&[f64]]| {
            let duels: Vec<_> = duels.iter().map(|duel| duel.to_vec()).collect();
            Calibration::estimate(&duels).expect_err("refused").to_string()
        };
        assert!(refused(&[&[0.1, 0.2]]).contains("one duel alone"));
        assert!(refused(&[&[0.1], &[0.2]]).contains("a duel of one sample"));
        assert!(refused(&[&[0.1, 0.2], &[0.2]]).contains("different numbers"));
        assert!(refused(&[&[0.1, f64::NAN], &[0.2, 0.3]]).contains("not between"));
        assert!(refused(&[&[0.0, 0.0], &[0.0, 0.0]]).contains("raise the temperature"));
    }

    #[test]
    fn a_small_case_is_as_by_hand() {
        // Means 0.1 and 0.3; within variance 0.02; between, 0.02 over 1 degree.
        let calibration = Calibration::estimate(&[vec![0.0, 0.2], vec![0.2, 0.4]]).expect("estimates");
        assert!(close(calibration.mean, 20.0) && close(calibration.within_sd, 100.0 * 0.02_f64.sqrt()));
        assert!(close(calibration.duel_sd, 10.0), "0.02 - 0.02 / 2");
        let half = 12.706_204_74 * 10.0;
        assert!(close(calibration.mean_interval.high, 20.0 + half));
        assert!(close(calibration.duel_sd_upper, 100.0 * (0.02_f64 / 0.003_932_140 - 0.01).sqrt()));
        assert!(close(calibration.null_margin, Z95 * calibration.duel_sd_upper));
    }

    #[test]
    fn the_bound_and_the_interval_hold_as_often_as_they_say() {
        for (seed, duels, samples, duel_sd) in [(1, 20, 64, 0.018), (2, 20, 64, 0.01), (3, 5, 32, 0.05)] {
            let mut stream = Stream::new(seed, Use::Bootstrap);
            let (mut bound, mut interval) = (0, 0);
            for _ in 0..1_000 {
                let calibration = Calibration::estimate(&simulated(&mut stream, duels, samples, duel_sd))
                    .expect("estimates");
                bound += u32::from(calibration.duel_sd_upper >= 100.0 * duel_sd);
                let Interval { low, high } = calibration.mean_interval;
                interval += u32::from(low <= 0.0 && 0.0 <= high);
            }
            assert!((930..=970).contains(&bound), "{bound} of 1000 at {duel_sd}");
            assert!((930..=970).contains(&interval), "{interval} of 1000 at {duel_sd}");
        }
    }

    #[test]
    fn without_an_effect_the_estimate_is_often_zero_and_with_one_near_it() {
        let mut stream = Stream::new(4, Use::Bootstrap);
        let mut estimate = |duel_sd| {
            let duels = simulated(&mut stream, 400, 64, duel_sd);
            Calibration::estimate(&duels).expect("estimates").duel_sd
        };
        assert!(estimate(0.0) < 0.8);
        let found = estimate(0.03);
        assert!((2.7..3.3).contains(&found), "{found}");
    }

    fn numbers(calibration: &Calibration) -> [f64; 5] {
        let Calibration { mean, within_sd, duel_sd, duel_sd_upper, mean_interval, .. } = *calibration;
        [mean, within_sd, duel_sd.powi(2), duel_sd_upper.powi(2), mean_interval.high - mean]
    }

    proptest! {
        #[test]
        fn the_order_of_duels_and_samples_does_not_matter(
            mut duels in proptest::collection::vec(proptest::collection::vec(-1.0..1.0_f64, 6), 2..12),
            turn in 0_usize..12,
        ) {
            let before = numbers(&Calibration::estimate(&duels).expect("estimates"));
            let places = duels.len();
            duels.rotate_left(turn % places);
            for duel in &mut duels {
                duel.reverse();
            }
            let after = numbers(&Calibration::estimate(&duels).expect("estimates"));
            for (before, after) in before.into_iter().zip(after) {
                prop_assert!(close(before, after), "{} {}", before, after);
            }
        }

        #[test]
        fn numbers_scale_with_the_differences_and_mirror(
            duels in proptest::collection::vec(proptest::collection::vec(-1.0..1.0_f64, 6), 2..12),
            factor in 0.1..1.0_f64,
        ) {
            let before = numbers(&Calibration::estimate(&duels).expect("estimates"));
            let scaled: Vec<Vec<_>> =
                duels.iter().map(|duel| duel.iter().map(|value| -factor * value).collect()).collect();
            let after = numbers(&Calibration::estimate(&scaled).expect("estimates"));
            let factors = [-factor, factor, factor.powi(2), factor.powi(2), factor];
            for ((before, after), factor) in before.into_iter().zip(after).zip(factors) {
                prop_assert!(close(factor * before, after), "{} {}", before, after);
            }
        }
    }
}
