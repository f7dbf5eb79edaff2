//! The Python system's rules, with its formulas and its rounding.

use serde::{Deserialize, Serialize};

use super::{Decision, Evidence, Ruling};
use crate::compat::numpy;
use crate::judge::Metric;
use crate::panel::{Cell, Cluster};

/// Scores of 100 as the Python system publishes and compares them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarginEvidence {
    /// The challenger's score, rounded to 4 decimals.
    pub challenger: f64,
    /// 100 minus the challenger's score.
    pub king: f64,
    /// The difference is at least the win margin.
    pub margin_met: bool,
}

/// [`MarginEvidence`] and the bootstrap of the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LcbEvidence {
    /// The challenger's score, rounded to 4 decimals.
    pub challenger: f64,
    /// 100 minus the challenger's score.
    pub king: f64,
    /// The difference is at least the win margin.
    pub margin_met: bool,
    /// Mean over samples of the panel's score minus 0.5, in [−0.5, 0.5].
    pub mean_delta: f64,
    /// The bootstrap quantile of that mean.
    pub lcb: f64,
    /// The mean's standard error.
    pub standard_error: f64,
}

pub(super) fn decide(clusters: &[Cluster], win_margin: f64) -> Decision {
    let evidence = compare(clusters, win_margin);
    Decision {
        ruling: Ruling::shown(evidence.margin_met),
        evidence: Evidence::Margin(evidence),
        evidence_for_king: None,
    }
}

pub(super) fn decide_lcb(
    clusters: &[Cluster],
    win_margin: f64,
    alpha: f64,
    resamples: u32,
    entropy: u64,
) -> Decision {
    let MarginEvidence { challenger, king, margin_met } = compare(clusters, win_margin);
    let deltas: Vec<_> = clusters.iter().map(delta).collect();
    let evidence = LcbEvidence {
        challenger,
        king,
        margin_met,
        mean_delta: numpy::mean(&deltas),
        lcb: lower_bound(&deltas, alpha, resamples, entropy),
        standard_error: numpy::standard_error(&deltas),
    };
    let ruling = Ruling::shown(margin_met && evidence.lcb > 0.0);
    Decision { ruling, evidence: Evidence::MarginLcb(evidence), evidence_for_king: None }
}

/// Metric first: each judge's mean a metric over all samples, the judge's mean
/// over its metrics, the mean over judges; rounded before it is compared.
fn compare(clusters: &[Cluster], win_margin: f64) -> MarginEvidence {
    let judges = clusters.first().map_or(0, |cluster| cluster.cells.len());
    let judge_scores: Vec<_> = (0..judges).map(|judge| judge_score(clusters, judge)).collect();
    let challenger = round(100.0 * numpy::mean(&judge_scores), 4);
    let king = round(100.0 - challenger, 4);
    MarginEvidence { challenger, king, margin_met: round(challenger - king, 4) >= win_margin }
}

fn judge_score(clusters: &[Cluster], judge: usize) -> f64 {
    let cells = || clusters.iter().filter_map(|cluster| cluster.cells.get(judge));
    let own: Vec<_> = Metric::ALL
        .into_iter()
        .filter(|metric| {
            cells().any(
                |cell| matches!(cell, Cell::Scored { difference, .. } if difference.contains_key(metric)),
            )
        })
        .map(|metric| numpy::mean(&cells().map(|cell| share(cell.metric(metric))).collect::<Vec<_>>()))
        .collect();
    if own.is_empty() { 0.5 } else { numpy::mean(&own) }
}

/// A sample's delta: the mean over judges of their scores, each rounded to 6
/// decimals, minus 0.5.
fn delta(cluster: &Cluster) -> f64 {
    let scores: Vec<_> = cluster.cells.iter().map(|cell| round(share(cell.difference()), 6)).collect();
    numpy::mean(&scores) - 0.5
}

/// A difference in [−1, 1] as the challenger's share in [0, 1].
fn share(difference: f64) -> f64 {
    f64::midpoint(1.0, difference)
}

/// The `alpha` quantile of `resamples` bootstrap means of `deltas`; 0 for none.
fn lower_bound(deltas: &[f64], alpha: f64, resamples: u32, entropy: u64) -> f64 {
    let mut generator = numpy::Generator::new(entropy);
    let mut resample = vec![0.0; deltas.len()];
    let means = (0..resamples).map(|_| {
        for value in &mut resample {
            *value = deltas[generator.below(deltas.len() as u32) as usize];
        }
        numpy::mean(&resample)
    });
    numpy::quantile(means.collect(), alpha)
}

/// Python's `round(value, digits)`: the decimal nearest to the exact binary
/// value, ties to even, as Rust's own formatting rounds.
fn round(value: f64, digits: usize) -> f64 {
    format!("{value:.digits$}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Holds;
    use crate::panel::Reducer;

    const HELD: Ruling = Ruling::KingHolds(Holds::NotShown);

    fn cluster(difference: f64) -> Cluster {
        let cell = Cell::Scored { difference: [(Metric::Protocol, difference)].into(), flipped: false };
        Cluster::new(0, vec![cell], Reducer::Mean)
    }

    #[test]
    fn the_bootstrap_equals_the_python_systems() {
        let deltas = [0.1, -0.033_333_3, 0.2, 0.0, -0.1, 0.3, 0.033_333_3, -0.2, 0.1, 0.066_666_7];
        let entropy = 2_000_061_265_262_017_674;
        assert!((numpy::mean(&deltas) - 0.046_666_67).abs() < 1e-8);
        assert!((lower_bound(&deltas, 0.05, 10_000, entropy) - -0.023_333_33).abs() < 1e-8);
        assert!((lower_bound(&deltas, 0.05, 100, entropy) - -0.019_999_990_5).abs() < 1e-10);
        assert_eq!(numpy::standard_error(&deltas), 0.045_324_617_517_265_99);
    }

    #[test]
    fn the_margin_is_met_on_rounded_numbers() {
        // 51.00000 and 50.99999 of 100: a margin of 2.0000 and of 2.0000 after rounding.
        assert_eq!(decide(&[cluster(0.02)], 2.0).ruling, Ruling::Dethroned);
        assert_eq!(decide(&[cluster(0.019_999_9)], 2.0).ruling, Ruling::Dethroned);
        assert_eq!(decide(&[cluster(0.019_99)], 2.0).ruling, HELD);
    }

    #[test]
    fn the_lower_bound_must_be_above_zero() {
        let clear: Vec<_> = (0..20).map(|_| cluster(0.2)).collect();
        assert_eq!(decide_lcb(&clear, 2.0, 0.05, 1000, 1).ruling, Ruling::Dethroned);
        let noisy: Vec<_> = (0..20).map(|index| cluster(if index < 11 { 1.0 } else { -1.0 })).collect();
        assert_eq!(decide(&noisy, 2.0).ruling, Ruling::Dethroned);
        assert_eq!(decide_lcb(&noisy, 2.0, 0.05, 1000, 1).ruling, HELD);
        let equal = vec![cluster(0.0); 20];
        assert_eq!(decide_lcb(&equal, 0.0, 0.05, 1000, 1).ruling, HELD);
    }

    #[test]
    fn a_missing_cell_enters_as_a_tie() {
        let missing = Cluster::new(1, vec![Cell::Missing], Reducer::Mean);
        let evidence = compare(&[cluster(1.0), missing], 2.0);
        assert_eq!((evidence.challenger, evidence.king), (75.0, 25.0));
    }

    #[test]
    fn rounding_is_pythons() {
        assert_eq!(round(2.675, 2), 2.67);
        assert_eq!(round(0.5, 0), 0.0);
        assert_eq!(round(1.5, 0), 2.0);
    }
}
