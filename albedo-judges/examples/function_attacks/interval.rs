//! Exact intervals of shares.

/// The exact 95 % interval of a share of which `hits` of `n` were seen (Clopper and Pearson,
/// *The use of confidence or fiducial limits*, 1934).
pub(crate) fn exact(hits: usize, n: usize) -> (f64, f64) {
    let low = if hits == 0 { 0.0 } else { solve(|p| 1.0 - at_most(hits - 1, n, p), 0.025) };
    let high = if hits == n { 1.0 } else { solve(|p| 1.0 - at_most(hits, n, p), 0.975) };
    (low, high)
}

/// Where a function that rises from 0 to 1 has `value`.
fn solve(rises: impl Fn(f64) -> f64, value: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if rises(middle) < value { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The probability of at most `hits` of `n`, each with probability `p`.
fn at_most(hits: usize, n: usize, p: f64) -> f64 {
    let mut sum = 0.0;
    let mut log_choose = 0.0_f64;
    for k in 0..=hits {
        if k > 0 {
            log_choose += ((n - k + 1) as f64 / k as f64).ln();
        }
        sum += (log_choose + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp();
    }
    sum.min(1.0)
}
