//! Intervals reported beside a verdict.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, PI};

use serde::{Deserialize, Serialize};

use crate::rng::{Stream, Use};

/// Resamples behind a reported interval.
const RESAMPLES: usize = 2_000;

/// A two-sided interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }
}

/// The percentile bootstrap interval (Efron, 1979) of the mean of `values`, one
/// a cluster, at `level`; seeded, so that the same values give the same
/// interval. Approximate: its coverage falls short for few values. Both ends
/// are the one value, or 0, for fewer than two. Negating the values negates and
/// exchanges the ends.
pub fn bootstrap_interval(values: &[f64], level: f64, seed: u64) -> Interval {
    if values.len() < 2 {
        let only = values.first().copied().unwrap_or(0.0);
        return Interval { low: only, high: only };
    }
    let mut stream = Stream::new(seed, Use::Bootstrap);
    let resampled_mean = |_| {
        let mut sum = 0.0;
        for _ in 0..values.len() {
            sum += values[stream.below(values.len() as u64) as usize];
        }
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(resampled_mean).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = ((1.0 - level) / 2.0 * RESAMPLES as f64) as usize;
    Interval { low: means[tail], high: means[RESAMPLES - 1 - tail] }
}

/// The quantile `p`, at most 1/2, of the chi-square distribution with `degrees`
/// of freedom.
pub(crate) fn chi_square_quantile(p: f64, degrees: u32) -> f64 {
    // The median is below the mean.
    root(f64::from(degrees), |x| chi_square_cdf(x, degrees) < p)
}

/// How far from 0, either way, Student's distribution with `degrees` of freedom
/// reaches with probability `level`.
pub(crate) fn student_quantile(level: f64, degrees: u32) -> f64 {
    let angle = root(FRAC_PI_2, |angle| student_within(angle, degrees) < level);
    angle.tan() * f64::from(degrees).sqrt()
}

/// The series of the incomplete gamma function (Abramowitz and Stegun, 6.5.29).
fn chi_square_cdf(x: f64, degrees: u32) -> f64 {
    let (a, x) = (f64::from(degrees) / 2.0, x / 2.0);
    // ln Γ(a + 1), upwards from Γ(1) or Γ(1/2).
    let (mut factor, mut ln_gamma) =
        if degrees.is_multiple_of(2) { (1.0, 0.0) } else { (0.5, PI.ln() / 2.0) };
    while factor <= a {
        ln_gamma += f64::ln(factor);
        factor += 1.0;
    }
    let (mut term, mut sum, mut place) = (1.0, 1.0, a);
    while term > 1e-17 * sum {
        place += 1.0;
        term *= x / place;
        sum += term;
    }
    (a * x.ln() - x - ln_gamma).exp() * sum
}

/// Student's probability of at most √degrees · tan(angle) either way (Abramowitz
/// and Stegun, 26.7.3 and 26.7.4).
fn student_within(angle: f64, degrees: u32) -> f64 {
    let odd = degrees % 2;
    let (sin, cos) = angle.sin_cos();
    let (mut term, mut sum) = (if odd == 1 { cos } else { 1.0 }, 0.0);
    for power in (odd..degrees.saturating_sub(1)).step_by(2) {
        sum += term;
        term *= cos * cos * f64::from(power + 1) / f64::from(power + 2);
    }
    if odd == 1 { (angle + sin * sum) * FRAC_2_PI } else { sin * sum }
}

/// Where, between 0 and `high`, `below` stops being true, by bisection.
fn root(mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    let mut low = 0.0;
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if below(middle) { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_mirrors() {
        let values: Vec<_> = (0..100).map(|index| f64::from(index % 10) / 10.0 - 0.3).collect();
        let mean = values.iter().sum::<f64>() / 100.0;
        let interval = bootstrap_interval(&values, 0.95, 3);
        assert!(interval.low < mean && mean < interval.high);
        let width = interval.high - interval.low;
        assert!((width - 2.0 * 1.96 * 0.2872 / 10.0).abs() < 0.02, "{width}");
        let mirrored: Vec<_> = values.iter().map(|value| -value).collect();
        let mirrored = bootstrap_interval(&mirrored, 0.95, 3);
        assert_eq!((mirrored.low, mirrored.high), (-interval.high, -interval.low));
    }

    #[test]
    fn a_single_value_is_its_own_interval() {
        assert_eq!(bootstrap_interval(&[0.5], 0.95, 0), Interval { low: 0.5, high: 0.5 });
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Abramowitz and Stegun, tables 26.8 (Q = 0.95) and 26.10 (A = 0.95).
        for (degrees, chi_square, student) in [
            (1, 0.003_932_14, 12.706),
            (2, 0.102_587, 4.303),
            (5, 1.145_48, 2.571),
            (10, 3.940_30, 2.228),
            (19, 10.117_0, 2.093),
            (30, 18.492_6, 2.042),
        ] {
            let found = (chi_square_quantile(0.05, degrees), student_quantile(0.95, degrees));
            assert!((found.0 / chi_square - 1.0).abs() < 1e-5, "{degrees}: {found:?}");
            assert!((found.1 - student).abs() < 6e-4, "{degrees}: {found:?}");
        }
        let many = (chi_square_quantile(0.05, 9_999), student_quantile(0.95, 9_999));
        assert!((many.0 - 9_767.5).abs() < 1.0 && (many.1 - 1.960_2).abs() < 1e-3, "{many:?}");
    }
}
