//! Decision rules: pure functions of the clusters consumed so far, in plan
//! order.
//!
//! A *cluster* is what the panel made of one sample: a difference, challenger minus
//! king, in [−1, 1], and the cells that it is made of. A [`Rule`] consumes clusters one
//! by one until it has a *ruling*: who has the crown. The *evidence* is the numbers
//! behind it. In a configuration file a rule is a table with its constants:
//!
//! ```toml
//! [duel]
//! rule = { name = "sequential", win_margin = 2.0, null_margin = 0.0 }
//! ```
//!
//! ```
//! use albedo_core::decision::{Rule, RuleContext, SequentialTest};
//!
//! // The rule `sequential` at work on differences alone: a challenger that is clearly
//! // better is crowned long before the cap of 64 samples.
//! let context = RuleContext::new(&Rule::default(), 64, 0.05);
//! let mut test = SequentialTest::new(2.0, 0.0, &context);
//! for sample in 0..64 {
//!     if test.consume(if sample % 4 == 0 { 0.1 } else { 0.5 }).is_some() {
//!         break;
//!     }
//! }
//! assert!(test.crowned_at().is_some_and(|samples| samples < 64));
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::judge::Metric;
use crate::missing::Cause;
use crate::panel::{Cell, Cluster, Reducer};
use crate::registry::nearest;

mod betting;
mod design;
mod fixed;
mod margin;
mod power;
mod sequential;
mod series;

pub use design::Design;
pub use fixed::{FixedEvidence, FixedTest};
pub use margin::{LcbEvidence, MarginEvidence};
pub use power::Power;
pub use sequential::{FUTILITY_ALPHA, SequentialEvidence, SequentialTest, SizeEvidence, cap};
pub use series::TwoSeries;

pub(crate) use betting::{Bets, Population, confidence_sequence_of, round};
pub(crate) use design::Case;
pub(crate) use fixed::Star;

/// Which version of the rules a plan names. Plans are made with the newest; the
/// others decide the records and the unfinished duels of plans that name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
#[non_exhaustive]
pub enum RuleVersion {
    /// That of plans which name none: missing cells are ties, and `sequential`
    /// looks at the size of a win after a quarter, a half and all of the cap.
    #[default]
    First,
    /// A crown has to survive its missing cells ([`TwoSeries`]), and `sequential`
    /// has a second betting process. Since record format 3.
    Second,
}

impl RuleVersion {
    /// That of new plans.
    pub const NEWEST: Self = Self::Second;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(crate) fn is_first(&self) -> bool {
        *self == Self::First
    }
}

impl From<RuleVersion> for u32 {
    fn from(version: RuleVersion) -> Self {
        match version {
            RuleVersion::First => 1,
            RuleVersion::Second => 2,
        }
    }
}

impl TryFrom<u32> for RuleVersion {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        match number {
            1 => Ok(Self::First),
            2 => Ok(Self::Second),
            _ => Err(format!("there is no version {number} of the decision rules")),
        }
    }
}

/// How a duel is decided, with its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Rule {
    /// Evidence that the challenger is better by a betting e-process (Waudby-Smith
    /// and Ramdas, 2024), valid at any sample, and of a win of some size: by a
    /// second e-process against half the `win_margin` or one point below it,
    /// whichever is more, at any sample; or by the mean after a quarter, a half and
    /// all of the cap, where the `win_margin` is scaled by √(cap / samples). An
    /// e-process against a win by `win_margin` ends a hopeless duel at once.
    Sequential {
        /// Least win in points of 100.
        #[serde(default = "default_win_margin")]
        win_margin: f64,
        /// The true effect in points up to which a challenger counts as not
        /// better.
        #[serde(default)]
        null_margin: f64,
    },
    /// Evidence by betting and a mean of at least `win_margin` over a fixed number of
    /// samples, looked at once, at the end: for the second stage of a confirmation
    /// ([`crate::confirmation`]). A bet is √(2 · (ln(1 / alpha) − ln wealth) / samples
    /// left) / σ̂, at most 0.9 (`STaR` bets: Voráček and Orabona, 2025), which reaches
    /// the evidence by the end more often than the bets of `sequential`, and later.
    Fixed {
        /// Least win in points of 100.
        #[serde(default = "default_win_margin")]
        win_margin: f64,
        /// The true effect in points up to which a challenger counts as not
        /// better.
        #[serde(default)]
        null_margin: f64,
    },
    /// The challenger's score must exceed the king's by `win_margin`; looked at
    /// once, at the end. The Python system's first gate alone.
    Margin {
        /// Least win in points of 100.
        #[serde(default = "default_win_margin")]
        win_margin: f64,
    },
    /// As `margin`, and the lower bound of a bootstrap of the mean must be above
    /// zero; looked at once, at the end. The Python system's two gates.
    MarginLcb {
        /// Least win in points of 100.
        #[serde(default = "default_win_margin")]
        win_margin: f64,
        /// Quantile of the bootstrap means that must be above zero.
        #[serde(default = "default_lcb_alpha")]
        #[schemars(extend("x-unit" = "probability"))]
        alpha: f64,
        /// Bootstrap resamples.
        #[serde(default = "default_resamples")]
        resamples: u32,
    },
}

fn default_win_margin() -> f64 {
    2.0
}

fn default_lcb_alpha() -> f64 {
    0.05
}

fn default_resamples() -> u32 {
    10_000
}

impl Default for Rule {
    fn default() -> Self {
        Self::Sequential { win_margin: default_win_margin(), null_margin: 0.0 }
    }
}

impl Rule {
    /// Names of all rules.
    pub const NAMES: [&'static str; 4] = ["sequential", "fixed", "margin", "margin-lcb"];

    /// The rule `name` with its default constants.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], listing the names.
    pub fn by_name(name: &str) -> Result<Self> {
        serde_json::from_value(serde_json::json!({ "name": name })).map_err(|_| {
            Error::new(
                ErrorKind::ConfigInvalid,
                "choose a decision rule",
                format!("there is no rule named `{name}`"),
            )
            .with_hint(match nearest(name, Self::NAMES.into_iter()) {
                Some(rule) => format!("did you mean `{rule}`? known: {}", Self::NAMES.join(", ")),
                None => format!("known: {}", Self::NAMES.join(", ")),
            })
        })
    }

    /// The name in configuration and records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sequential { .. } => "sequential",
            Self::Fixed { .. } => "fixed",
            Self::Margin { .. } => "margin",
            Self::MarginLcb { .. } => "margin-lcb",
        }
    }

    /// Checks the constants' ranges.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the constant.
    pub fn check(&self) -> Result<()> {
        let invalid =
            |message: String| Err(Error::new(ErrorKind::ConfigInvalid, "check the decision rule", message));
        let (Self::Sequential { win_margin, .. }
        | Self::Fixed { win_margin, .. }
        | Self::Margin { win_margin }
        | Self::MarginLcb { win_margin, .. }) = self;
        if !(0.0..=100.0).contains(win_margin) {
            return invalid(format!("`win_margin` is {win_margin}, it must be between 0 and 100 points"));
        }
        if let Self::Sequential { null_margin, .. } | Self::Fixed { null_margin, .. } = self
            && !(0.0..100.0).contains(null_margin)
        {
            return invalid(format!("`null_margin` is {null_margin}, it must be from 0 to below 100 points"));
        }
        if let Self::MarginLcb { alpha, resamples, .. } = self {
            if !(*alpha > 0.0 && *alpha < 0.5) {
                return invalid(format!("`alpha` is {alpha}, it must be between 0 and 0.5"));
            }
            if !(100..=1_000_000).contains(resamples) {
                return invalid(format!("`resamples` is {resamples}, it must be between 100 and 1,000,000"));
            }
        }
        Ok(())
    }

    /// The sample counts at which a duel of at most `samples` can crown.
    pub fn looks(&self, samples: u32) -> Vec<u32> {
        match self {
            Self::Sequential { .. } => sequential::looks(samples),
            Self::Fixed { .. } | Self::Margin { .. } | Self::MarginLcb { .. } => vec![samples],
        }
    }

    /// Checks that a duel of at most `samples` at `alpha` can crown at all.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`].
    pub fn check_reach(&self, alpha: f64, samples: u32) -> Result<()> {
        match self {
            Self::Sequential { null_margin, .. } | Self::Fixed { null_margin, .. } => {
                sequential::check_cap(alpha, samples, *null_margin)
            }
            Self::Margin { .. } | Self::MarginLcb { .. } => Ok(()),
        }
    }
}

/// What a rule needs of the duel besides the clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleContext {
    /// Which version of the rule.
    pub version: RuleVersion,
    /// Samples planned; the cap of a rule that may stop early.
    pub samples: u32,
    /// The sample counts at which the rule may crown by the mean, rising.
    pub looks: Vec<u32>,
    /// Level at which a duel may crown wrongly.
    pub alpha: f64,
    /// Entropy of the rule's resampling: the first 8 bytes, little-endian, of
    /// the plan's seed.
    pub entropy: u64,
    /// The judges' own metrics, in panel order.
    pub metrics: Vec<Vec<Metric>>,
    /// How the judges' differences become one.
    pub reducer: Reducer,
    /// Standard deviation of true effects in points, if it is known.
    pub effect_sd: Option<f64>,
}

impl RuleContext {
    /// That of the newest version of `rule` in a duel of at most `samples`, with
    /// entropy 0 and no panel: enough for differences that are not made of cells.
    pub fn new(rule: &Rule, samples: u32, alpha: f64) -> Self {
        Self {
            version: RuleVersion::NEWEST,
            samples,
            looks: rule.looks(samples),
            alpha,
            entropy: 0,
            metrics: Vec::new(),
            reducer: Reducer::Mean,
            effect_sd: None,
        }
    }
}

/// A rule at work: consumes clusters in plan order until it decides.
///
/// From the rules' second version on it reads two series of the same samples, one
/// with missing cells as ties and one with them as wins of the king
/// ([`Cluster::missing_for_king`]). Both have to show a win; what is hopeless, the
/// first tells.
#[derive(Debug, Clone)]
pub struct Decider {
    rule: Rule,
    context: RuleContext,
    sequential: Option<TwoSeries>,
    clusters: Vec<Cluster>,
}

impl Decider {
    /// `rule` before the first cluster.
    pub fn new(rule: Rule, context: RuleContext) -> Self {
        let sequential = match rule {
            Rule::Sequential { win_margin, null_margin } => {
                Some(TwoSeries::new(SequentialTest::new(win_margin, null_margin, &context)))
            }
            Rule::Fixed { .. } | Rule::Margin { .. } | Rule::MarginLcb { .. } => None,
        };
        Self { rule, context, sequential, clusters: Vec::new() }
    }

    /// Consumes the next cluster; the decision, once there is one.
    pub fn consume(&mut self, cluster: Cluster) -> Option<Decision> {
        let difference = cluster.difference;
        let for_king = self.for_king(&cluster).map_or(difference, |cluster| cluster.difference);
        self.clusters.push(cluster);
        match &mut self.sequential {
            Some(series) => {
                let ruling = series.consume(difference, for_king)?;
                Some(self.decision(ruling))
            }
            None if self.clusters.len() < self.context.samples as usize => None,
            None => Some(self.look()),
        }
    }

    /// Whether the challenger has won with missing cells as ties, and not with
    /// missing cells as wins of the king.
    pub fn disputed(&self) -> bool {
        match &self.sequential {
            Some(series) => series.disputed(),
            None => {
                self.clusters.len() >= self.context.samples as usize
                    && self.look().ruling != Ruling::Dethroned
                    && self.once(&self.clusters).ruling == Ruling::Dethroned
            }
        }
    }

    /// Whether missing cells hold up what would otherwise be a crown, after the last
    /// cluster brought `decision`.
    pub(crate) fn holds_up(&self, decision: Option<&Decision>) -> bool {
        let over = |decision: &Decision| decision.ruling != Ruling::KingHolds(Holds::NotShown);
        !decision.is_some_and(over) && self.disputed()
    }

    /// Whether a win hangs on answers that an outage has cost, after the last cluster brought
    /// `decision`: the duel is void.
    pub(crate) fn hangs_on_outage(&self, decision: Option<&Decision>) -> bool {
        let mut cells = self.clusters.iter().flat_map(|cluster| &cluster.cells);
        self.holds_up(decision) && cells.any(|cell| cell.cause() == Some(Cause::Outage))
    }

    /// The decision if the duel ended here: that the win is not shown, unless the
    /// rule has decided otherwise.
    pub(crate) fn so_far(&self) -> Decision {
        let ruling = Ruling::KingHolds(Holds::NotShown);
        if self.sequential.is_some() { self.decision(ruling) } else { Decision { ruling, ..self.look() } }
    }

    /// What was consumed so far.
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// `cluster` with its missing cells as wins of the king, where that counts.
    fn for_king(&self, cluster: &Cluster) -> Option<Cluster> {
        let RuleContext { version, metrics, reducer, .. } = &self.context;
        (!version.is_first() && cluster.cells.iter().any(Cell::counts_for_king))
            .then(|| cluster.missing_for_king(metrics, *reducer))
    }

    /// The decision of `sequential` with its numbers.
    fn decision(&self, ruling: Ruling) -> Decision {
        let difference = |cluster: &Cluster| cluster.difference;
        let ties: Vec<_> = self.clusters.iter().map(difference).collect();
        let for_king = self
            .clusters
            .iter()
            .map(|cluster| self.for_king(cluster).as_ref().map_or(cluster.difference, difference));
        let for_king: Vec<_> = for_king.collect();
        let evidence = self.sequential.as_ref().map(|series| series.evidence(&ties, &for_king));
        match evidence {
            Some((evidence, for_king)) => Decision {
                ruling,
                evidence: Evidence::Sequential(evidence),
                evidence_for_king: for_king.map(Evidence::Sequential),
            },
            None => self.look(),
        }
    }

    /// The decision of a rule that looks once.
    fn look(&self) -> Decision {
        let decision = self.once(&self.clusters);
        if self.clusters.iter().all(|cluster| self.for_king(cluster).is_none()) {
            return decision;
        }
        let for_king = self.clusters.iter().map(|cluster| self.for_king(cluster));
        let for_king: Vec<_> =
            for_king.zip(&self.clusters).map(|(king, ties)| king.unwrap_or_else(|| ties.clone())).collect();
        let for_king = self.once(&for_king);
        let both = [decision.ruling, for_king.ruling].iter().all(|ruling| *ruling == Ruling::Dethroned);
        Decision { ruling: Ruling::shown(both), evidence_for_king: Some(for_king.evidence), ..decision }
    }

    /// What a rule that looks once says of `clusters`.
    fn once(&self, clusters: &[Cluster]) -> Decision {
        match self.rule {
            Rule::MarginLcb { win_margin, alpha, resamples } => {
                margin::decide_lcb(clusters, win_margin, alpha, resamples, self.context.entropy)
            }
            Rule::Fixed { win_margin, null_margin } => {
                let differences: Vec<_> = clusters.iter().map(|cluster| cluster.difference).collect();
                fixed::decide(&differences, win_margin, null_margin, &self.context)
            }
            Rule::Margin { win_margin } | Rule::Sequential { win_margin, .. } => {
                margin::decide(clusters, win_margin)
            }
        }
    }
}

/// What the rule says about `clusters`, all of those that a duel consumed.
pub fn decide(
    rule: &Rule,
    context: RuleContext,
    clusters: impl IntoIterator<Item = Cluster>,
) -> Option<Decision> {
    let mut decider = Decider::new(rule.clone(), context);
    clusters.into_iter().find_map(|cluster| decider.consume(cluster))
}

/// The rule's word, and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Who has the crown.
    #[serde(flatten)]
    pub ruling: Ruling,
    /// The numbers behind it.
    pub evidence: Evidence,
    /// The same with missing cells as wins of the king, where that makes a
    /// difference. Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_for_king: Option<Evidence>,
}

/// Who has the crown after a duel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "snake_case")]
pub enum Ruling {
    /// The challenger takes it.
    Dethroned,
    /// The king keeps it.
    KingHolds(Holds),
}

impl Ruling {
    /// The challenger's crown if `dethroned`, otherwise a win not shown.
    fn shown(dethroned: bool) -> Self {
        if dethroned { Self::Dethroned } else { Self::KingHolds(Holds::NotShown) }
    }
}

/// Why a king holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Holds {
    /// A win by the margin was shown to be out of reach.
    Futile,
    /// A win by the margin was not shown.
    NotShown,
}

/// The numbers that a rule decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Evidence {
    /// Of [`Rule::Sequential`].
    Sequential(SequentialEvidence),
    /// Of [`Rule::Fixed`].
    Fixed(FixedEvidence),
    /// Of [`Rule::Margin`].
    Margin(MarginEvidence),
    /// Of [`Rule::MarginLcb`].
    MarginLcb(LcbEvidence),
}
