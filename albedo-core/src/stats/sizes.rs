//! How many samples an effect needs, and which effect samples can show.

use super::distributions::normal_quantile;

/// Samples after which a one-sided test at level `alpha` shows a mean difference of
/// `effect` with probability `power`, where one sample's difference has standard deviation
/// `sd`: the normal approximation for a test that looks once. `effect` and `sd` are in the
/// same unit; a sample is a cluster. A sequential rule needs more at the most, and fewer
/// on average where the effect is large.
///
/// `None` unless `effect` and `sd` are positive and both shares lie between 0 and 1.
///
/// ```
/// use albedo_core::stats::samples_for;
///
/// // Right or wrong on real tasks: a standard deviation of 0.48; 5 points more.
/// assert_eq!(samples_for(0.05, 0.48, 0.05, 0.8), Some(570));
/// ```
pub fn samples_for(effect: f64, sd: f64, alpha: f64, power: f64) -> Option<u64> {
    let reach = reach(sd, alpha, power)?;
    (effect > 0.0 && effect.is_finite()).then(|| (reach / effect).powi(2).ceil() as u64)
}

/// The least mean difference that a one-sided test at level `alpha` shows with
/// probability `power` after `samples`, as for [`samples_for`].
///
/// `None` unless there are samples, `sd` is positive and both shares lie between 0 and 1.
pub fn detectable_effect(samples: u64, sd: f64, alpha: f64, power: f64) -> Option<f64> {
    let reach = reach(sd, alpha, power)?;
    (samples > 0).then(|| reach / (samples as f64).sqrt())
}

/// The effect that one sample shows.
fn reach(sd: f64, alpha: f64, power: f64) -> Option<f64> {
    let share = |value: f64| value > 0.0 && value < 1.0;
    if !(share(alpha) && share(power) && sd > 0.0 && sd.is_finite()) {
        return None;
    }
    Some((normal_quantile(1.0 - alpha) + normal_quantile(power)).max(0.0) * sd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_are_inverse() {
        for samples in [1, 10, 143, 10_000] {
            let effect = detectable_effect(samples, 0.48, 0.05, 0.8).unwrap();
            let found = samples_for(effect, 0.48, 0.05, 0.8).unwrap();
            assert!(found == samples || found == samples + 1, "{samples}: {found}");
        }
    }

    #[test]
    fn nonsense_has_no_answer() {
        for (effect, sd, alpha, power) in [
            (0.0, 0.5, 0.05, 0.8),
            (0.1, 0.0, 0.05, 0.8),
            (0.1, 0.5, 0.0, 0.8),
            (0.1, 0.5, 0.05, 1.0),
            (f64::NAN, 0.5, 0.05, 0.8),
            (0.1, f64::INFINITY, 0.05, 0.8),
        ] {
            assert_eq!(samples_for(effect, sd, alpha, power), None);
        }
        assert_eq!(detectable_effect(0, 0.5, 0.05, 0.8), None);
    }
}
