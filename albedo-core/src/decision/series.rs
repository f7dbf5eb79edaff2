//! Two series of the same samples: missing cells as ties, and as wins of the king.

use super::{Holds, Ruling, SequentialEvidence, SequentialTest};

/// `sequential` on two series of the same samples, so that nobody wins a crown by
/// cells that are missing.
///
/// In the first series missing cells are ties, in the second they are wins of the
/// king. A crown falls at the first sample by which both show a win; whether a win
/// is out of reach, the first alone tells. In the rules' first version, and as long
/// as nothing is missing, the two are one.
///
/// ```
/// use albedo_core::decision::{Rule, RuleContext, Ruling, SequentialTest, TwoSeries};
///
/// let context = RuleContext::new(&Rule::default(), 64, 0.05);
/// let mut series = TwoSeries::new(SequentialTest::new(2.0, 0.0, &context));
/// // A challenger that wins by 50 points; of every eighth sample half is missing.
/// let ruling = (1..=64).find_map(|sample| {
///     if sample % 8 == 0 { series.consume(0.25, -0.25) } else { series.consume(0.5, 0.5) }
/// });
/// assert_eq!((ruling, series.samples()), (Some(Ruling::Dethroned), 16));
/// ```
#[derive(Debug, Clone)]
pub struct TwoSeries {
    ties: SequentialTest,
    /// None as long as it is the same.
    for_king: Option<SequentialTest>,
}

impl TwoSeries {
    /// Both series before the first sample, decided by `test`.
    pub fn new(test: SequentialTest) -> Self {
        Self { ties: test, for_king: None }
    }

    /// Consumes the next sample's difference with missing cells as ties and as
    /// wins of the king; the ruling, once there is one.
    pub fn consume(&mut self, tie: f64, for_king: f64) -> Option<Ruling> {
        if tie.to_bits() != for_king.to_bits() {
            self.for_king.get_or_insert_with(|| self.ties.clone().never_giving_up());
        }
        let ruling = self.ties.consume(tie);
        let Some(second) = &mut self.for_king else { return ruling };
        second.consume(for_king);
        match ruling {
            Some(Ruling::Dethroned) if second.crowned_at().is_none() => {
                let over = self.ties.samples() >= self.ties.cap();
                over.then_some(Ruling::KingHolds(Holds::NotShown))
            }
            ruling => ruling,
        }
    }

    /// Whether the first series shows a win and the second does not.
    pub fn disputed(&self) -> bool {
        self.ties.crowned_at().is_some()
            && self.for_king.as_ref().is_some_and(|second| second.crowned_at().is_none())
    }

    /// Samples consumed.
    pub fn samples(&self) -> u32 {
        self.ties.samples()
    }

    /// The numbers of both series so far; none of the second if it is the same.
    /// `ties` and `for_king` are all that was consumed.
    pub(super) fn evidence(
        &self,
        ties: &[f64],
        for_king: &[f64],
    ) -> (SequentialEvidence, Option<SequentialEvidence>) {
        (self.ties.evidence(ties), self.for_king.as_ref().map(|second| second.evidence(for_king)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::{Rule, RuleContext};

    fn series(samples: u32) -> TwoSeries {
        TwoSeries::new(SequentialTest::new(2.0, 0.0, &RuleContext::new(&Rule::default(), samples, 0.05)))
    }

    fn run(samples: &[(f64, f64)]) -> (Option<Ruling>, TwoSeries) {
        let mut series = series(samples.len() as u32);
        let ruling = samples.iter().find_map(|&(tie, king)| series.consume(tie, king));
        (ruling, series)
    }

    #[test]
    fn a_win_that_rests_on_missing_cells_is_disputed_until_the_second_series_shows_it() {
        let mut series = series(256);
        // The challenger wins by 20 points, and of the first 30 samples most is missing.
        let mut disputed = 0;
        let ruling = (0..256).find_map(|sample| {
            let ruling = series.consume(0.2, if sample < 30 { -0.4 } else { 0.2 });
            disputed += u32::from(series.disputed());
            ruling
        });
        assert_eq!(ruling, Some(Ruling::Dethroned));
        let (first, second) = series.evidence(&[0.2], &[0.2]);
        assert_eq!(first.crowned_at, Some(48));
        let second = second.and_then(|second| second.crowned_at).expect("crowned");
        assert_eq!((second, disputed), (series.samples(), second - 48));
    }

    #[test]
    fn a_win_that_the_second_series_never_shows_is_not_shown() {
        let samples = vec![(0.2, -0.2); 64];
        let (ruling, series) = run(&samples);
        assert_eq!(ruling, Some(Ruling::KingHolds(Holds::NotShown)));
        assert!(series.disputed() && series.samples() == 64);
    }

    #[test]
    fn what_becomes_hopeless_after_a_disputed_win_is_futile() {
        let samples: Vec<_> =
            (0..256).map(|sample| if sample < 70 { (0.2, -0.2) } else { (-1.0, -1.0) }).collect();
        let (ruling, series) = run(&samples);
        assert_eq!(ruling, Some(Ruling::KingHolds(Holds::Futile)));
        assert!(series.samples() < 200);
    }

    proptest! {
        #[test]
        fn a_crown_of_both_is_one_of_each_and_the_later(
            samples in proptest::collection::vec((-1.0..=1.0_f64, 0.0..=1.0_f64), 20..120),
            shift in 0.0..0.6_f64,
        ) {
            let samples: Vec<_> = samples
                .into_iter()
                .map(|(value, lost)| {
                    let tie = (value / 2.0 + shift).min(1.0);
                    (tie, if lost < 0.1 { (tie - 0.5).max(-1.0) } else { tie })
                })
                .collect();
            let (ruling, _) = run(&samples);
            let alone = |of: fn(&(f64, f64)) -> f64| {
                let mut test = series(samples.len() as u32).ties.never_giving_up();
                for sample in &samples {
                    test.consume(of(sample));
                }
                test.crowned_at()
            };
            let (ties, king) = (alone(|sample| sample.0), alone(|sample| sample.1));
            if ruling == Some(Ruling::Dethroned) {
                prop_assert!(ties.is_some() && king.is_some(), "{:?} {:?}", ties, king);
            }
        }
    }
}
