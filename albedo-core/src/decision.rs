//! Decision rules: pure functions of the clusters consumed so far, in plan
//! order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::panel::Cluster;

mod betting;
mod margin;
mod sequential;

pub use margin::{LcbEvidence, MarginEvidence};
pub use sequential::{SequentialEvidence, SequentialTest, cap};

/// How a duel is decided, with its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Rule {
    /// Evidence that the challenger is better by a betting e-process (Waudby-Smith
    /// and Ramdas, 2024), valid at any sample, and a win by `win_margin`, looked
    /// at after a quarter, a half and all of the cap, where it is scaled by
    /// √(cap / samples). An e-process against a win of that size ends a hopeless
    /// duel at once.
    Sequential {
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
    pub const NAMES: [&'static str; 3] = ["sequential", "margin", "margin-lcb"];

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
            .with_hint(format!("known: {}", Self::NAMES.join(", ")))
        })
    }

    /// The name in configuration and records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sequential { .. } => "sequential",
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
        | Self::Margin { win_margin }
        | Self::MarginLcb { win_margin, .. }) = self;
        if !(0.0..=100.0).contains(win_margin) {
            return invalid(format!("`win_margin` is {win_margin}, it must be between 0 and 100 points"));
        }
        if let Self::Sequential { null_margin, .. } = self
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
            Self::Margin { .. } | Self::MarginLcb { .. } => vec![samples],
        }
    }

    /// Checks that a duel of at most `samples` at `alpha` can crown at all.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`].
    pub fn check_reach(&self, alpha: f64, samples: u32) -> Result<()> {
        match self {
            Self::Sequential { null_margin, .. } => sequential::check_cap(alpha, samples, *null_margin),
            Self::Margin { .. } | Self::MarginLcb { .. } => Ok(()),
        }
    }
}

/// What a rule needs of the duel besides the clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleContext {
    /// Samples planned; the cap of a rule that may stop early.
    pub samples: u32,
    /// The sample counts at which the rule may crown, rising.
    pub looks: Vec<u32>,
    /// Level at which a duel may crown wrongly.
    pub alpha: f64,
    /// Entropy of the rule's resampling: the first 8 bytes, little-endian, of
    /// the plan's seed.
    pub entropy: u64,
}

/// A rule at work: consumes clusters in plan order until it decides.
#[derive(Debug, Clone)]
pub struct Decider {
    rule: Rule,
    context: RuleContext,
    sequential: Option<SequentialTest>,
    clusters: Vec<Cluster>,
}

impl Decider {
    /// `rule` before the first cluster.
    pub fn new(rule: Rule, context: RuleContext) -> Self {
        let sequential = match rule {
            Rule::Sequential { win_margin, null_margin } => {
                Some(SequentialTest::new(win_margin, null_margin, &context))
            }
            Rule::Margin { .. } | Rule::MarginLcb { .. } => None,
        };
        Self { rule, context, sequential, clusters: Vec::new() }
    }

    /// Consumes the next cluster; the decision, once there is one.
    pub fn consume(&mut self, cluster: Cluster) -> Option<Decision> {
        let difference = cluster.difference;
        self.clusters.push(cluster);
        if let Some(test) = &mut self.sequential {
            let ruling = test.consume(difference)?;
            let differences: Vec<_> = self.clusters.iter().map(|cluster| cluster.difference).collect();
            return Some(Decision { ruling, evidence: Evidence::Sequential(test.evidence(&differences)) });
        }
        if self.clusters.len() < self.context.samples as usize {
            return None;
        }
        match self.rule {
            Rule::Sequential { .. } => None,
            Rule::Margin { win_margin } => Some(margin::decide(&self.clusters, win_margin)),
            Rule::MarginLcb { win_margin, alpha, resamples } => {
                Some(margin::decide_lcb(&self.clusters, win_margin, alpha, resamples, self.context.entropy))
            }
        }
    }

    /// What was consumed so far.
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
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
    /// Of [`Rule::Margin`].
    Margin(MarginEvidence),
    /// Of [`Rule::MarginLcb`].
    MarginLcb(LcbEvidence),
}
