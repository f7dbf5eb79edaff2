//! Counts with exact intervals, and work spread over threads.

use std::fmt;

/// `hits` of `trials`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Trials that count.
    pub(crate) hits: usize,
    /// All trials.
    pub(crate) trials: usize,
}

impl Rate {
    /// How many of `trials` are true.
    pub(crate) fn of(trials: impl ExactSizeIterator<Item = bool>) -> Self {
        let all = trials.len();
        Self { hits: trials.filter(|&hit| hit).count(), trials: all }
    }

    /// The exact 95 % interval of Clopper and Pearson (1934).
    pub(crate) fn interval(self) -> (f64, f64) {
        let Self { hits, trials } = self;
        let low = if hits == 0 { 0.0 } else { solve(|p| 1.0 - at_most(hits - 1, trials, p) < 0.025) };
        let high = if hits == trials { 1.0 } else { solve(|p| at_most(hits, trials, p) > 0.025) };
        (low, high)
    }
}

impl fmt::Display for Rate {
    /// In percent with its interval.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let percent = 100.0 * self.hits as f64 / self.trials as f64;
        write!(f, "{percent:.2} ({:.2}–{:.2})", 100.0 * low, 100.0 * high)
    }
}

/// The largest `p` for which `below` holds.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The probability of at most `hits` successes in `trials` at `p`.
fn at_most(hits: usize, trials: usize, p: f64) -> f64 {
    let (mut logarithm, mut total) = (trials as f64 * (-p).ln_1p(), 0.0);
    for successes in 0..=hits {
        total += logarithm.exp();
        let ratio = (trials - successes) as f64 / (successes + 1) as f64;
        logarithm += (ratio * p / (1.0 - p)).ln();
    }
    total
}

/// `trial(0)` to `trial(count − 1)`, in order, computed on all cores.
pub(crate) fn simulate<T: Send>(count: usize, trial: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads).max(1);
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    std::thread::scope(|scope| {
        for (chunk, results) in results.chunks_mut(share).enumerate() {
            let trial = &trial;
            scope.spawn(move || {
                for (index, result) in results.iter_mut().enumerate() {
                    *result = Some(trial(chunk * share + index));
                }
            });
        }
    });
    results.into_iter().flatten().collect()
}
