//! How likely a rule is to crown a challenger whose samples are like those that were seen.

use serde::{Deserialize, Serialize};

use super::{Rule, RuleContext, Ruling, decide};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::panel::Cluster;
use crate::rng::{Stream, Use};

/// How often a rule crowned in duels that were drawn from the samples of one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// Duels that were drawn.
    pub duels: u32,
    /// Those that ended with a crown.
    pub crowned: u32,
    /// Mean number of samples that they consumed.
    pub samples: f64,
}

impl Power {
    /// The power of `rule` against a challenger whose samples have `differences`, in
    /// [−1, 1]: `duels` duels of at most `context.samples` samples each, which are drawn
    /// from them with replacement.
    ///
    /// It takes the differences as all that there is: how far their mean is from the true
    /// one adds to it.
    ///
    /// ```
    /// use albedo_core::Rule;
    /// use albedo_core::decision::{Power, RuleContext};
    ///
    /// let rule = Rule::default();
    /// let context = RuleContext::new(&rule, 256, 0.01);
    /// let better: Vec<f64> = (0..60).map(|at| if at % 5 == 0 { -0.5 } else { 0.5 }).collect();
    /// let worse: Vec<f64> = better.iter().map(|difference| -difference).collect();
    /// assert_eq!(Power::estimate(&rule, &context, &better, 50, 1)?.crowned, 50);
    /// assert_eq!(Power::estimate(&rule, &context, &worse, 50, 1)?.crowned, 0);
    /// # Ok::<(), albedo_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`]: no differences, or one outside [−1, 1].
    pub fn estimate(
        rule: &Rule,
        context: &RuleContext,
        differences: &[f64],
        duels: u32,
        seed: u64,
    ) -> Result<Self> {
        let invalid = |message: &str| {
            Error::new(ErrorKind::DataInvalid, "estimate the power of a rule", message)
                .with_fault(Fault::Operator)
        };
        if differences.is_empty() {
            return Err(invalid("there are no differences").with_hint("run a duel of some samples"));
        }
        if differences.iter().any(|difference| !(-1.0..=1.0).contains(difference)) {
            return Err(invalid("a difference is not between -1 and 1"));
        }
        let mut stream = Stream::new(seed, Use::Bootstrap);
        let (mut crowned, mut consumed) = (0, 0_u64);
        for _ in 0..duels {
            let mut drawn = 0_u32;
            let clusters = std::iter::from_fn(|| {
                if drawn == context.samples {
                    return None;
                }
                let at = stream.below(differences.len() as u64) as usize;
                let cluster = Cluster {
                    sample: drawn,
                    cells: Vec::new(),
                    difference: differences[at],
                    stratum: String::new(),
                    twins: Vec::new(),
                };
                drawn += 1;
                Some(cluster)
            });
            let decision = decide(rule, context.clone(), clusters);
            consumed += u64::from(drawn);
            crowned += u32::from(decision.is_some_and(|decision| decision.ruling == Ruling::Dethroned));
        }
        Ok(Self { duels, crowned, samples: consumed as f64 / f64::from(duels.max(1)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_samples_show_more_and_nothing_is_made_of_nothing() {
        let rule = Rule::default();
        let differences: Vec<f64> = (0..40).map(|at| if at % 3 == 0 { -0.4 } else { 0.4 }).collect();
        let power = |samples| {
            let context = RuleContext::new(&rule, samples, 0.001);
            Power::estimate(&rule, &context, &differences, 60, 3).expect("estimated")
        };
        assert!(power(64).crowned < power(512).crowned, "{:?} {:?}", power(64), power(512));
        assert!(power(512).samples <= 512.0);
        let context = RuleContext::new(&rule, 64, 0.05);
        for differences in [&[][..], &[f64::NAN], &[1.5]] {
            Power::estimate(&rule, &context, differences, 1, 1).expect_err("no differences");
        }
    }
}
