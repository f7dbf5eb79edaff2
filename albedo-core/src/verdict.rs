//! The verdict, and the numbers reported with it: pure functions of the plan
//! and the clusters.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::decision::Holds;
use crate::decision::{Decider, Decision, Evidence, Ruling, decide};
use crate::judge::Metric;
use crate::missing::Cause;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelPlan;
use crate::stats::{Interval, bootstrap_interval};
use crate::twin::TwinReport;

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

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dethroned => "the challenger is crowned",
            Self::KingHolds(Holds::NotShown) => "the king holds, a clear win was not shown",
            Self::KingHolds(Holds::Futile) => "the king holds, a clear win is out of reach",
            Self::Forfeit(Forfeit::Screened) => "the challenger forfeits, a screen rejected it",
            Self::Forfeit(Forfeit::Overflow) => "the challenger forfeits, its own arithmetic overflowed",
            Self::Void(VoidReason::TooManyMissing) => "the duel is void, too many answers are missing",
            Self::Void(VoidReason::Disputed) => "the duel is void, who wins hangs on missing answers",
        })
    }
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
    /// More cells are missing than the panel's settings allow, for other reasons
    /// than what the replies say.
    TooManyMissing,
    /// The challenger has won, but not if what an outage keeps missing counts as
    /// wins of the king, and it was missing when it was asked for again too. Since
    /// format 3.
    Disputed,
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
    /// 95 % bootstrap interval of the margin, where the number of samples was fixed:
    /// approximate, it holds 93 to 95 % at 50 samples and more under most kinds of
    /// scores, and less below or where rare wins decide (`docs/error-rates.md`). A duel that stops when it likes has its interval in
    /// `decision` ([`Verdict::interval`]); in the rules' first version it has this one
    /// too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_interval: Option<Interval>,
    /// How the first half of the samples compares with the second: a judge that
    /// changes during the duel shows here. None for fewer than four samples, and in
    /// the rules' first version. Since format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// How far a sample's repository predicts its difference. None if too few have an
    /// earlier sample of their repository, if nothing varies, and in the rules' first
    /// version. Since format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strata: Option<Strata>,
    /// What comparing replies with their twins showed; none if the plan has no twins. It decides nothing but which of
    /// the two was judged. Since format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<TwinReport>,
    /// By judge, in panel order.
    pub judges: Vec<JudgeScore>,
    /// Challenger minus king in points by metric, mean over the judges that
    /// speak to it.
    pub metrics: BTreeMap<Metric, f64>,
    /// Missing cells.
    pub missing: u32,
    /// The same by cause; left out in the rules' first version. Since format 3.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<Cause, u32>,
    /// All cells.
    pub cells: u32,
    /// Samples on which a side's own arithmetic overflowed, left out if there is
    /// none. Since format 3.
    #[serde(default, skip_serializing_if = "Overflows::are_none")]
    pub overflows: Overflows,
    /// Whether the challenger would be crowned with missing cells counted as wins of
    /// the king ([`Cluster::missing_for_king`]). From the rules' second version on the
    /// rule itself asks for that ([`crate::decision::TwoSeries`]).
    pub dethroned_if_missing_for_king: bool,
    /// What the rule said.
    pub decision: Decision,
}

/// The two halves of a duel. One sample in the middle belongs to neither.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Drift {
    /// Challenger minus king in points, mean over the first half.
    pub early: f64,
    /// The same over the second.
    pub late: f64,
    /// Standard error of their difference in points, as if samples were independent.
    pub standard_error: f64,
}

impl Drift {
    /// Of the differences of a duel, in [−1, 1].
    fn of(differences: &[f64]) -> Option<Self> {
        let half = differences.len() / 2;
        if half < 2 {
            return None;
        }
        let moments = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / half as f64;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (100.0 * mean, squares / (half - 1) as f64 / half as f64)
        };
        let (early, noise) = moments(&differences[..half]);
        let (late, later_noise) = moments(&differences[differences.len() - half..]);
        Some(Self { early, late, standard_error: 100.0 * (noise + later_noise).sqrt() })
    }

    /// Late minus early in standard errors; 0 if nothing varies.
    pub fn score(&self) -> f64 {
        if self.standard_error > 0.0 { (self.late - self.early) / self.standard_error } else { 0.0 }
    }
}

/// How far a sample's repository predicts its difference. What a control variate over
/// repositories would save is about `rho`² of the variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Strata {
    /// Correlation of a sample's difference with the mean of the earlier ones of its
    /// repository.
    pub rho: f64,
    /// Samples with an earlier one of their repository.
    pub samples: u32,
}

/// Samples with an earlier one of their stratum below which no correlation is
/// reported: its standard error would be above 0.3. Source: albedo.
const MIN_PREDICTED: usize = 10;

impl Strata {
    /// Of `clusters` in plan order; none if too little can be said.
    fn of(clusters: &[Cluster]) -> Option<Self> {
        let mut earlier: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        let mut pairs = Vec::new();
        for Cluster { stratum, difference, .. } in clusters {
            let (sum, count) = earlier.entry(stratum).or_default();
            if *count > 0.0 {
                pairs.push((*sum / *count, *difference));
            }
            (*sum, *count) = (*sum + difference, *count + 1.0);
        }
        let count = pairs.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
        let (before, after) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let (mut both, mut squares) = (0.0, (0.0, 0.0));
        for (predicted, found) in &pairs {
            both += (predicted - before) * (found - after);
            squares = (squares.0 + (predicted - before).powi(2), squares.1 + (found - after).powi(2));
        }
        let scale = (squares.0 * squares.1).sqrt();
        let samples = pairs.len() as u32;
        (pairs.len() >= MIN_PREDICTED && scale > 0.0).then(|| Self { rho: both / scale, samples })
    }
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
        let mut verdict = Self::counted(plan, clusters, overflows, decision);
        if f64::from(overflows.challenger) > MAX_OVERFLOWED * f64::from(verdict.samples) {
            verdict.outcome = Outcome::Forfeit(Forfeit::Overflow);
        } else if verdict.misses_too_many(plan) {
            verdict.outcome = Outcome::Void(VoidReason::TooManyMissing);
        }
        verdict
    }

    /// The verdict after the last cluster that `decider` consumed, which brought `decision`: none
    /// unless the rule has decided, or a win hangs on answers that an outage has cost. Then the duel
    /// is void.
    pub fn after(
        plan: &DuelPlan,
        decider: &Decider,
        overflows: Overflows,
        decision: Option<Decision>,
    ) -> Option<Self> {
        let clusters = decider.clusters();
        if decider.hangs_on_outage(decision.as_ref()) {
            return Some(Self::disputed(plan, clusters, overflows, decider.so_far()));
        }
        decision.map(|decision| Self::new(plan, clusters, overflows, decision))
    }

    /// Whether more cells are missing, for other reasons than what the replies say, than
    /// the panel's settings allow.
    fn misses_too_many(&self, plan: &DuelPlan) -> bool {
        let unexplained = self.missing - self.causes.get(&Cause::Replies).copied().unwrap_or(0);
        f64::from(unexplained) > plan.panel.max_missing * f64::from(self.cells)
    }

    /// The verdict where a win is disputed and an outage goes on; `decision` is what
    /// the rule says so far.
    fn disputed(plan: &DuelPlan, clusters: &[Cluster], overflows: Overflows, decision: Decision) -> Self {
        let verdict = Self::counted(plan, clusters, overflows, decision);
        let too_many = verdict.misses_too_many(plan);
        let reason = if too_many { VoidReason::TooManyMissing } else { VoidReason::Disputed };
        Self { outcome: Outcome::Void(reason), ..verdict }
    }

    /// The verdict as the rule alone has it.
    fn counted(plan: &DuelPlan, clusters: &[Cluster], overflows: Overflows, decision: Decision) -> Self {
        let judges: Vec<_> = (0..plan.judges.len()).map(|judge| judge_score(plan, clusters, judge)).collect();
        let metrics = Metric::ALL.into_iter().filter_map(|metric| {
            let scores: Vec<_> = judges.iter().filter_map(|judge| judge.metrics.get(&metric)).collect();
            let mean = scores.iter().copied().sum::<f64>() / scores.len() as f64;
            (!scores.is_empty()).then_some((metric, mean))
        });
        let metrics = metrics.collect();
        let missing = judges.iter().map(|judge| judge.missing).sum();
        let cells = (clusters.len() * plan.judges.len()) as u32;
        let mut causes = BTreeMap::new();
        for cause in clusters.iter().flat_map(|cluster| &cluster.cells).filter_map(Cell::cause) {
            *causes.entry(cause).or_default() += 1;
        }
        let first = plan.rule_version.is_first();
        let dethroned_if_missing_for_king = if first {
            let own = plan.metrics();
            let for_king = clusters.iter().map(|cluster| cluster.missing_for_king(&own, plan.panel.reducer));
            let for_king = decide(&plan.rule, plan.rule_context(), for_king);
            for_king.is_some_and(|decision| decision.ruling == Ruling::Dethroned)
        } else {
            decision.ruling == Ruling::Dethroned
        };
        let samples = clusters.len() as u32;
        let outcome = match decision.ruling {
            Ruling::Dethroned => Outcome::Dethroned,
            Ruling::KingHolds(holds) => Outcome::KingHolds(holds),
        };
        let differences: Vec<_> = clusters.iter().map(|cluster| cluster.difference).collect();
        let fixed = !matches!(decision.evidence, Evidence::Sequential(_));
        Self {
            outcome,
            samples,
            margin: points(differences.iter().copied()),
            margin_interval: (first || fixed)
                .then(|| bootstrap_interval(&differences, 0.95, plan.seed.entropy()).scaled(100.0)),
            drift: Drift::of(&differences).filter(|_| !first),
            strata: Strata::of(clusters).filter(|_| !first),
            twins: TwinReport::of(plan, clusters),
            judges,
            metrics,
            missing,
            causes,
            cells,
            overflows,
            dethroned_if_missing_for_king,
            decision,
        }
    }

    /// The 95 % interval of the margin in points that holds however the duel ended:
    /// the confidence sequence of `sequential`, or the bootstrap interval where the
    /// number of samples was fixed.
    pub fn interval(&self) -> Option<Interval> {
        match &self.decision.evidence {
            Evidence::Sequential(evidence) => Some(evidence.confidence),
            Evidence::Fixed(evidence) => Some(evidence.confidence),
            _ => self.margin_interval,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, Use};

    #[test]
    fn strata_that_differ_are_told_from_those_that_do_not() {
        let cluster = |(sample, (stratum, difference)): (usize, (&str, f64))| {
            let empty = Cluster::new(sample as u32, vec![], crate::panel::Reducer::Mean);
            Cluster { difference, ..empty }.in_stratum(stratum)
        };
        let of = |samples: &[(&str, f64)]| {
            Strata::of(&samples.iter().copied().enumerate().map(cluster).collect::<Vec<_>>())
        };
        let told = of(&[("a", 0.5), ("b", -0.5)].repeat(6)).expect("ten are predicted");
        assert!((told.rho - 1.0).abs() < 1e-12 && told.samples == 10, "{told:?}");
        let mut stream = Stream::new(1, Use::Bootstrap);
        let noise: Vec<_> = (0..400).map(|_| ("a", stream.below(2) as f64 - 0.5)).collect();
        let not = of(&noise).expect("all but one are predicted");
        assert!(not.rho.abs() < 0.2 && not.samples == 399, "{not:?}");
        assert_eq!(of(&[("a", 0.5), ("b", -0.5)].repeat(5)), None, "too few");
        assert_eq!(of(&[("a", 0.5); 20]), None, "nothing varies");
    }

    #[test]
    fn the_halves_of_a_duel_are_compared() {
        assert_eq!(Drift::of(&[0.1, 0.2, 0.3]), None);
        let drift = Drift::of(&[0.1, 0.3, 0.9, -0.1, -0.3]).expect("two of each");
        assert!((drift.early - 20.0).abs() < 1e-9 && (drift.late + 20.0).abs() < 1e-9);
        // Each half has the variance 0.02, its mean half of that.
        assert!((drift.standard_error - 100.0 * 0.02_f64.sqrt()).abs() < 1e-9);
        assert!((drift.score() + 40.0 / 100.0 / 0.02_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Drift::of(&[0.0; 8]).expect("four of each").score(), 0.0);
    }
}
