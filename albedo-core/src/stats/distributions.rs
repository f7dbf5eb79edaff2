//! Distribution functions and quantiles.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, PI};

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
    let ln_gamma = ln_gamma_of_half(degrees + 2);
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

/// The probability that a chi-square variable with `degrees` of freedom is above `x`.
pub(super) fn chi_square_above(x: f64, degrees: u32) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < f64::from(degrees) + 2.0 {
        return 1.0 - chi_square_cdf(x, degrees);
    }
    // The continued fraction of the incomplete gamma function (Abramowitz and Stegun,
    // 6.5.31), by Lentz's method: exact where the series would cancel.
    let (a, x) = (f64::from(degrees) / 2.0, x / 2.0);
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (f64::MAX, 1.0 / b);
    let mut fraction = d;
    for step in 1..10_000 {
        let step = f64::from(step);
        let numerator = -step * (step - a);
        b += 2.0;
        d = 1.0 / (numerator * d + b);
        c = b + numerator / c;
        let change = c * d;
        fraction *= change;
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (a * x.ln() - x - ln_gamma_of_half(degrees)).exp() * fraction
}

/// The quantile `p`, between 0 and 1, of the standard normal distribution.
pub(super) fn normal_quantile(p: f64) -> f64 {
    // Of the smaller tail, which is exact where the larger would round to 1.
    let tail = p.min(1.0 - p);
    let distance = root(40.0, |x| normal_above(x) > tail);
    if p < 0.5 { -distance } else { distance }
}

/// The probability that a standard normal variable is above `x`, which is not negative.
fn normal_above(x: f64) -> f64 {
    chi_square_above(x * x, 1) / 2.0
}

/// The probability that a fair coin shows heads at most `heads` times in `throws`.
pub(super) fn fair_coin_at_most(heads: u64, throws: u64) -> f64 {
    if heads >= throws {
        return 1.0;
    }
    // The largest term, then downwards: each is the one above it times k / (n - k + 1).
    let (n, k) = (throws as f64, heads as f64);
    let ln_term = ln_choose(throws, heads) - n * 2.0_f64.ln();
    let (mut term, mut sum, mut place) = (1.0, 1.0, k);
    while place > 0.0 && term > 1e-18 * sum {
        term *= place / (n - place + 1.0);
        sum += term;
        place -= 1.0;
    }
    (ln_term.exp() * sum).min(1.0)
}

/// ln of the number of ways to choose `k` of `n`.
fn ln_choose(n: u64, k: u64) -> f64 {
    let k = k.min(n - k);
    // One by one while they are few, so that no digits cancel.
    if k <= 1_000_000 {
        return (1..=k).map(|i| (((n - k + i) as f64) / i as f64).ln()).sum();
    }
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Stirling's series (Abramowitz and Stegun, 6.1.41).
fn ln_factorial(n: u64) -> f64 {
    let x = n as f64 + 1.0;
    (x - 0.5) * x.ln() - x + (2.0 * PI).ln() / 2.0 + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

/// ln Γ(degrees / 2), upwards from Γ(1) or Γ(1/2).
fn ln_gamma_of_half(degrees: u32) -> f64 {
    let (mut factor, mut sum) = if degrees.is_multiple_of(2) { (1.0, 0.0) } else { (0.5, PI.ln() / 2.0) };
    let a = f64::from(degrees) / 2.0;
    while factor < a {
        sum += f64::ln(factor);
        factor += 1.0;
    }
    sum
}

/// Logistic function.
pub(super) fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

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
