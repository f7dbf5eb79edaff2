//! Decision rules: pure functions of the clusters consumed so far, in plan
//! order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::panel::Cluster;

mod margin;

pub use margin::{LcbEvidence, MarginEvidence};

/// How a duel is decided, with its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
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
        Self::MarginLcb {
            win_margin: default_win_margin(),
            alpha: default_lcb_alpha(),
            resamples: default_resamples(),
        }
    }
}

impl Rule {
    /// Names of all rules.
    pub const NAMES: [&'static str; 2] = ["margin", "margin-lcb"];

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
        let (Self::Margin { win_margin } | Self::MarginLcb { win_margin, .. }) = self;
        if !(0.0..=100.0).contains(win_margin) {
            return invalid(format!("`win_margin` is {win_margin}, it must be between 0 and 100 points"));
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
}

/// What a rule is told about the duel besides the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleContext {
    /// Samples planned.
    pub samples: u32,
    /// Entropy of the rule's resampling: the first 8 bytes, little-endian, of
    /// the plan's seed.
    pub entropy: u64,
}

/// A rule at work: consumes clusters in plan order until it decides.
#[derive(Debug, Clone)]
pub struct Decider {
    rule: Rule,
    context: RuleContext,
    clusters: Vec<Cluster>,
}

impl Decider {
    /// `rule` before the first cluster.
    pub fn new(rule: Rule, context: RuleContext) -> Self {
        Self { rule, context, clusters: Vec::new() }
    }

    /// Consumes the next cluster; the decision, once there is one.
    pub fn consume(&mut self, cluster: Cluster) -> Option<Decision> {
        self.clusters.push(cluster);
        (self.clusters.len() == self.context.samples as usize).then(|| match self.rule {
            Rule::Margin { win_margin } => margin::decide(&self.clusters, win_margin),
            Rule::MarginLcb { win_margin, alpha, resamples } => {
                margin::decide_lcb(&self.clusters, win_margin, alpha, resamples, self.context.entropy)
            }
        })
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
    /// The challenger takes the crown.
    pub dethroned: bool,
    /// The numbers behind it.
    pub evidence: Evidence,
}

/// The numbers that a rule decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Evidence {
    /// Of [`Rule::Margin`].
    Margin(MarginEvidence),
    /// Of [`Rule::MarginLcb`].
    MarginLcb(LcbEvidence),
}
