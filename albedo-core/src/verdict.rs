//! The verdict, and the numbers reported with it: pure functions of the plan
//! and the clusters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::decision::Holds;
use crate::decision::{Decision, Ruling, decide};
use crate::judge::Metric;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelPlan;
use crate::stats::{Interval, bootstrap_interval};

/// Share of the samples consumed above which a challenger forfeits whose own
/// arithmetic overflowed on them. Source: albedo. A trained model overflows on none;
/// one that does on every tenth prompt was made to.
pub const MAX_OVERFLOWED: f64 = 0.1;

/// What a duel came to. Code that settles duels has to settle each of these, so
/// that another one will be an incompatible change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The challenger takes the crown.
    Dethroned,
    /// The king keeps it.
    KingHolds(Holds),
    /// The challenger loses by what its submission is, whatever the judges said;
    /// the evidence is in the record. Since format 3.
    Forfeit(Forfeit),
    /// No decision; neither side loses.
    Void(VoidReason),
}

/// Why a challenger forfeits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Forfeit {
    /// A screen rejected the submission: it was not admitted, and there was no duel.
    Screened,
    /// Its own arithmetic overflowed on more than [`MAX_OVERFLOWED`] of the samples.
    Overflow,
}

/// Samples on which a side's own arithmetic overflowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflows {
    /// The king's.
    pub king: u32,
    /// The challenger's.
    pub challenger: u32,
}

impl Overflows {
    /// Counts a sample: whether the king's and the challenger's arithmetic overflowed.
    pub(crate) fn count(&mut self, [king, challenger]: [bool; 2]) {
        self.king += u32::from(king);
        self.challenger += u32::from(challenger);
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a duel is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VoidReason {
    /// More cells are missing than the panel's settings allow.
    TooManyMissing,
}

/// The outcome and the numbers behind it. A score is the mean over samples of
/// the challenger's share, 0 to 100; the king's is 100 minus it; the margin is
/// the challenger's minus the king's, in points.
///
/// ```
/// use albedo_core::{CallContext, MemoryStore, Outcome};
///
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// let (cx, store) = (CallContext::new(), MemoryStore::default());
/// let duel = albedo_core::testing::small_duel().plan(&store, &cx).await?;
/// let verdict = duel.run(&store, &cx).await?.verdict;
/// assert_eq!((verdict.outcome, verdict.samples, verdict.missing), (Outcome::Dethroned, 8, 0));
/// for judge in &verdict.judges {
///     println!("{}: {:+.1} points, {} flips", judge.judge, judge.margin, judge.flips);
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Samples that the decision consumed.
    pub samples: u32,
    /// Challenger minus king in points, mean over samples.
    pub margin: f64,
    /// 95 % bootstrap interval of the margin; approximate: it holds 94 to 95 % at
    /// 50 samples and more, less below (`docs/error-rates.md`).
    pub margin_interval: Interval,
    /// By judge, in panel order.
    pub judges: Vec<JudgeScore>,
    /// Challenger minus king in points by metric, mean over the judges that
    /// speak to it.
    pub metrics: BTreeMap<Metric, f64>,
    /// Missing cells.
    pub missing: u32,
    /// All cells.
    pub cells: u32,
    /// Samples on which a side's own arithmetic overflowed, left out if there is
    /// none. Since format 3.
    #[serde(default, skip_serializing_if = "Overflows::are_none")]
    pub overflows: Overflows,
    /// Whether the challenger would be crowned with every missing cell counted
    /// for the king.
    pub dethroned_if_missing_for_king: bool,
    /// What the rule said.
    pub decision: Decision,
}

/// One judge's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JudgeScore {
    /// The judge's name.
    pub judge: String,
    /// Challenger minus king in points.
    pub margin: f64,
    /// The same by metric.
    pub metrics: BTreeMap<Metric, f64>,
    /// Cells in which the two orders preferred different sides.
    pub flips: u32,
    /// Missing cells.
    pub missing: u32,
}

impl Verdict {
    /// The verdict of `decision` on `clusters` under `plan`, where the sides lost
    /// `overflows` by their own arithmetic.
    pub fn new(plan: &DuelPlan, clusters: &[Cluster], overflows: Overflows, decision: Decision) -> Self {
        let judges: Vec<_> = (0..plan.judges.len()).map(|judge| judge_score(plan, clusters, judge)).collect();
        let metrics = Metric::ALL.into_iter().filter_map(|metric| {
            let scores: Vec<_> = judges.iter().filter_map(|judge| judge.metrics.get(&metric)).collect();
            let mean = scores.iter().copied().sum::<f64>() / scores.len() as f64;
            (!scores.is_empty()).then_some((metric, mean))
        });
        let metrics = metrics.collect();
        let missing = judges.iter().map(|judge| judge.missing).sum();
        let cells = (clusters.len() * plan.judges.len()) as u32;
        let own = plan.metrics();
        let for_king = clusters.iter().map(|cluster| cluster.missing_for_king(&own, plan.panel.reducer));
        let for_king = decide(&plan.rule, plan.rule_context(), for_king);
        let samples = clusters.len() as u32;
        let outcome = if f64::from(overflows.challenger) > MAX_OVERFLOWED * f64::from(samples) {
            Outcome::Forfeit(Forfeit::Overflow)
        } else if f64::from(missing) > plan.panel.max_missing * f64::from(cells) {
            Outcome::Void(VoidReason::TooManyMissing)
        } else {
            match decision.ruling {
                Ruling::Dethroned => Outcome::Dethroned,
                Ruling::KingHolds(holds) => Outcome::KingHolds(holds),
            }
        };
        let differences: Vec<_> = clusters.iter().map(|cluster| cluster.difference).collect();
        Self {
            outcome,
            samples,
            margin: points(differences.iter().copied()),
            margin_interval: bootstrap_interval(&differences, 0.95, plan.seed.entropy()).scaled(100.0),
            judges,
            metrics,
            missing,
            cells,
            overflows,
            dethroned_if_missing_for_king: for_king
                .is_some_and(|decision| decision.ruling == Ruling::Dethroned),
            decision,
        }
    }

    /// The challenger's score, 0 to 100.
    pub fn challenger(&self) -> f64 {
        share(self.margin)
    }

    /// The king's score, 0 to 100.
    pub fn king(&self) -> f64 {
        share(-self.margin)
    }

    /// Share of the scored cells whose two orders preferred different sides.
    pub fn flip_rate(&self) -> f64 {
        let scored = self.cells.saturating_sub(self.missing);
        let flips: u32 = self.judges.iter().map(|judge| judge.flips).sum();
        if scored == 0 { 0.0 } else { f64::from(flips) / f64::from(scored) }
    }
}

/// A margin in points as a score of 100.
pub fn share(margin: f64) -> f64 {
    50.0 + margin / 2.0
}

fn judge_score(plan: &DuelPlan, clusters: &[Cluster], judge: usize) -> JudgeScore {
    let cells: Vec<_> = clusters.iter().filter_map(|cluster| cluster.cells.get(judge)).collect();
    let metrics = plan.judges[judge].metrics.iter();
    JudgeScore {
        judge: plan.judges[judge].identity.name.clone(),
        margin: points(cells.iter().map(|cell| cell.difference())),
        metrics: metrics
            .map(|&metric| (metric, points(cells.iter().map(|cell| cell.metric(metric)))))
            .collect(),
        flips: cells.iter().filter(|cell| matches!(cell, Cell::Scored { flipped: true, .. })).count() as u32,
        missing: cells.iter().filter(|cell| cell.is_missing()).count() as u32,
    }
}

/// The mean of differences in points; 0 for none.
fn points(differences: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = differences.len();
    if count == 0 { 0.0 } else { 100.0 * (differences.sum::<f64>() / count as f64) }
}
