//! One judge of a plan.

use serde::{Deserialize, Serialize};

use crate::behaviour::OfflineJudge;
use crate::identity::Identity;
use crate::judge::Metric;

/// One judge of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgePlan {
    /// The judge.
    pub identity: Identity,
    /// The metrics it speaks to, in the rubric's order.
    pub metrics: Vec<Metric>,
    /// Whether canaries are put before it. Since record format 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watched: bool,
    /// Whether it reads the contestants' log-probabilities of the recorded reply. If
    /// not, two identical replies are a tie without asking. Since record format 3;
    /// not known of plans by the rules' first version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference_scores: bool,
    /// Version of the twins that it makes, if some replies are compared with their twins before it
    /// ([`crate::twin`]). Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<u32>,
    /// How anyone can ask it again, if its answers follow from the comparison alone.
    /// Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineJudge>,
}
