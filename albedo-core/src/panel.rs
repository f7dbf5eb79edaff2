//! The panel: how judges' answers to one sample become one difference.
//!
//! Everything here is a pure function. A *cell* is one judge's word on one
//! sample: both orders, or missing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::judge::{Assessment, Metric, Score};
use crate::missing::Cause;
use crate::twin::TwinCell;

/// How the panel is put together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PanelSettings {
    /// How the judges' differences on one sample become one.
    pub reducer: Reducer,
    /// The duel is void if, where it would end, more than this share of the
    /// cells consumed is missing for other reasons than what the replies say.
    #[schemars(extend("x-unit" = "share"))]
    pub max_missing: f64,
}

impl Default for PanelSettings {
    fn default() -> Self {
        Self { reducer: Reducer::Mean, max_missing: 0.1 }
    }
}

/// Combines the judges' differences on one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reducer {
    /// The arithmetic mean.
    Mean,
    /// The middle value; the mean of the two middle ones for an even panel.
    Median,
    /// The mean without the lowest and the highest value; the plain mean for
    /// fewer than three judges.
    Trimmed,
}

impl Reducer {
    /// Reduces `values`, one per judge; 0 for none. Negating every value negates
    /// the result exactly.
    pub fn reduce(self, values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let kept = match self {
            Self::Median if sorted.len() > 2 => &sorted[(sorted.len() - 1) / 2..=sorted.len() / 2],
            Self::Trimmed if sorted.len() > 2 => &sorted[1..sorted.len() - 1],
            _ => values,
        };
        symmetric_mean(kept)
    }
}

/// The mean of `values`; summed from the outside in where they are sorted, so
/// that reversing and negating them negates the mean exactly.
fn symmetric_mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let forward: f64 = values.iter().sum();
    let backward: f64 = values.iter().rev().sum();
    f64::midpoint(forward, backward) / values.len() as f64
}

/// One judge's word on one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Challenger minus king for each of the judge's metrics, in [−1, 1]: the
    /// mean over both orders (win and loss 0, win and tie 0.5, win twice 1).
    Scored {
        /// The differences.
        difference: BTreeMap<Metric, f64>,
        /// The two orders preferred different sides.
        flipped: bool,
    },
    /// Some answer is absent, unparseable or an abstention: a tie that counts. In
    /// the rules' first version.
    Missing,
    /// The same in their second version, with its cause. Since record format 3.
    MissingFor(Cause),
}

impl Cell {
    /// The cell of a judge with `metrics` whose answers are `king_first` and
    /// `challenger_first`.
    ///
    /// With `k` the first reply's score when the king is shown first and `c`
    /// when the challenger is, challenger minus king is `c − k`: half the sum of
    /// `(2c − 1)` and `(1 − 2k)`. Exchanging the sides exchanges `c` and `k`, so
    /// it negates the difference without rounding.
    pub fn new(
        metrics: &[Metric],
        king_first: Option<&Assessment>,
        challenger_first: Option<&Assessment>,
    ) -> Self {
        let (Some(king_first), Some(challenger_first)) = (scores(king_first), scores(challenger_first))
        else {
            return Self::Missing;
        };
        let mut difference = BTreeMap::new();
        let (mut king_bias, mut challenger_bias) = (0.0, 0.0);
        for &metric in metrics {
            let (Some(k), Some(c)) = (king_first.get(&metric), challenger_first.get(&metric)) else {
                return Self::Missing;
            };
            difference.insert(metric, c.value() - k.value());
            king_bias += k.value() - 0.5;
            challenger_bias += c.value() - 0.5;
        }
        // Shown first, both sides won, or both lost: the orders disagree.
        Self::Scored { difference, flipped: king_bias * challenger_bias > 0.0 }
    }

    /// The cell of a judge with `metrics` that follows without its answers:
    /// `difference` in every metric. A side lost the sample by its own arithmetic or
    /// by a text that is refused, or both replies are the same.
    pub fn unjudged(metrics: &[Metric], difference: f64) -> Self {
        let difference = metrics.iter().map(|&metric| (metric, difference)).collect();
        Self::Scored { difference, flipped: false }
    }

    /// The judge's difference: the mean over its metrics; 0 if missing.
    pub fn difference(&self) -> f64 {
        match self {
            Self::Scored { difference, .. } if !difference.is_empty() => {
                difference.values().sum::<f64>() / difference.len() as f64
            }
            _ => 0.0,
        }
    }

    /// The difference in one metric; 0 if missing or not the judge's own.
    pub fn metric(&self, metric: Metric) -> f64 {
        match self {
            Self::Scored { difference, .. } => difference.get(&metric).copied().unwrap_or(0.0),
            Self::Missing | Self::MissingFor(_) => 0.0,
        }
    }

    /// Why the cell is missing, if it is and its version of the rules tells.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::MissingFor(cause) => Some(*cause),
            Self::Scored { .. } | Self::Missing => None,
        }
    }

    /// Whether the cell is missing, and a win of the king where missing cells count for
    /// it ([`Cluster::missing_for_king`]).
    pub(crate) fn counts_for_king(&self) -> bool {
        match self {
            Self::Scored { .. } => false,
            Self::Missing => true,
            Self::MissingFor(cause) => cause.counts_for_king(),
        }
    }

    /// Whether the cell is missing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing | Self::MissingFor(_))
    }
}

fn scores(assessment: Option<&Assessment>) -> Option<&BTreeMap<Metric, Score>> {
    match assessment {
        Some(Assessment::Scored { scores, .. }) => Some(scores),
        _ => None,
    }
}

/// One sample as the decision rule consumes it. A sample is its own cluster:
/// no two samples of a duel share an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The sample's place in plan order.
    pub sample: u32,
    /// One cell per judge, in panel order.
    pub cells: Vec<Cell>,
    /// Challenger minus king, reduced over the panel, in [−1, 1].
    pub difference: f64,
    /// What the sample has in common with others: its repository. Empty in the rules'
    /// first version. Since record format 3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stratum: String,
    /// What came of replies and their twins, by judge, the king's first. Since record format 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<TwinCell>,
}

impl Cluster {
    /// The cluster of `cells` under `reducer`.
    pub fn new(sample: u32, cells: Vec<Cell>, reducer: Reducer) -> Self {
        let differences: Vec<_> = cells.iter().map(Cell::difference).collect();
        let (stratum, twins) = (String::new(), Vec::new());
        Self { sample, difference: reducer.reduce(&differences), cells, stratum, twins }
    }

    /// The cluster of a sample of `stratum`.
    #[must_use]
    pub fn in_stratum(self, stratum: impl Into<String>) -> Self {
        Self { stratum: stratum.into(), ..self }
    }

    /// The cluster with what came of its replies and their twins.
    #[must_use]
    pub fn with_twins(self, twins: Vec<TwinCell>) -> Self {
        Self { twins, ..self }
    }

    /// The same cluster with missing cells counted as wins of the king in all of
    /// the judge's metrics (`metrics`, in panel order), except those whose cause is
    /// neither a contestant's nor passing ([`Cause::counts_for_king`]).
    #[must_use]
    pub fn missing_for_king(&self, metrics: &[Vec<Metric>], reducer: Reducer) -> Self {
        let cells = self.cells.iter().zip(metrics).map(|(cell, metrics)| {
            if cell.counts_for_king() { Cell::unjudged(metrics, -1.0) } else { cell.clone() }
        });
        Self::new(self.sample, cells.collect(), reducer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(score: f64) -> Assessment {
        Assessment::scored([(Metric::Protocol, Score::new(score).expect("in range"))])
    }

    fn cell(king_first: f64, challenger_first: f64) -> Cell {
        Cell::new(&[Metric::Protocol], Some(&answer(king_first)), Some(&answer(challenger_first)))
    }

    #[test]
    fn both_orders_make_one_difference() {
        for (king_first, challenger_first, difference, flipped) in [
            (0.0, 1.0, 1.0, false),  // the challenger wins both
            (1.0, 1.0, 0.0, true),   // the first reply wins
            (0.5, 1.0, 0.5, false),  // win and tie
            (1.0, 0.0, -1.0, false), // the king wins both
        ] {
            let expected = Cell::Scored { difference: [(Metric::Protocol, difference)].into(), flipped };
            assert_eq!(cell(king_first, challenger_first), expected);
        }
    }

    #[test]
    fn any_absent_answer_makes_the_cell_missing() {
        let abstained = Assessment::Abstained { reason: "no".into() };
        let metrics = [Metric::Protocol];
        assert!(Cell::new(&metrics, None, Some(&answer(1.0))).is_missing());
        assert!(Cell::new(&metrics, Some(&answer(1.0)), Some(&abstained)).is_missing());
        assert!(Cell::new(&[Metric::Progress], Some(&answer(1.0)), Some(&answer(1.0))).is_missing());
    }

    #[test]
    fn a_missing_cell_is_a_tie_and_can_be_given_to_the_king() {
        let cluster = Cluster::new(0, vec![cell(0.0, 1.0), Cell::Missing], Reducer::Mean);
        assert_eq!(cluster.difference, 0.5);
        let metrics = vec![vec![Metric::Protocol]; 2];
        assert_eq!(cluster.missing_for_king(&metrics, Reducer::Mean).difference, 0.0);
        for (cause, difference) in
            [(Cause::Outage, 0.0), (Cause::Replies, 0.0), (Cause::Question, 0.5), (Cause::Void, 0.5)]
        {
            let cluster = Cluster::new(0, vec![cell(0.0, 1.0), Cell::MissingFor(cause)], Reducer::Mean);
            assert_eq!(cluster.difference, 0.5);
            assert_eq!(cluster.missing_for_king(&metrics, Reducer::Mean).difference, difference);
        }
    }

    #[test]
    fn reducers_reduce() {
        let values = [-1.0, 0.25, 1.0, 0.75];
        assert_eq!(Reducer::Mean.reduce(&values), 0.25);
        assert_eq!(Reducer::Median.reduce(&values), 0.5);
        assert_eq!(Reducer::Trimmed.reduce(&values), 0.5);
        assert_eq!(Reducer::Median.reduce(&[]), 0.0);
    }

    proptest! {
        #[test]
        fn exchanging_the_sides_negates_exactly(answers in proptest::collection::vec((0.0..=1.0_f64, 0.0..=1.0_f64), 1..6)) {
            for reducer in [Reducer::Mean, Reducer::Median, Reducer::Trimmed] {
                let here = Cluster::new(0, answers.iter().map(|&(k, c)| cell(k, c)).collect(), reducer);
                let there = Cluster::new(0, answers.iter().map(|&(k, c)| cell(c, k)).collect(), reducer);
                prop_assert_eq!(here.difference, -there.difference);
            }
        }
    }
}
