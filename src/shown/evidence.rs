//! The evidence of a duel, sample by sample.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Range;
use crate::decision::{FUTILITY_ALPHA, SequentialTest};
use crate::{DuelPlan, Rule};

/// Points at which the confidence sequence is worked out, at most: each takes time in
/// proportion to the samples before it.
const INTERVALS: usize = 24;

/// How the evidence of a duel came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceTrace {
    /// The decision rule.
    pub rule: String,
    /// Samples after which the duel ends at the latest.
    pub cap: u32,
    /// The least win in points that the rule wants.
    pub win_margin: f64,
    /// The logarithm of the e-value that shows that the challenger is better: ln(1 /
    /// alpha). None where the rule has no such evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<f64>,
    /// The logarithm of the e-value that shows that a win by the margin is out of reach.
    /// None where the rule has no such evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub futility_boundary: Option<f64>,
    /// The number of samples after which the rule looks at the mean, rising.
    pub looks: Vec<u32>,
    /// One per sample, in plan order.
    pub points: Vec<EvidencePoint>,
}

/// The evidence after some samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidencePoint {
    /// Samples consumed.
    pub samples: u32,
    /// Their mean in points, challenger minus king.
    pub mean: f64,
    /// The natural logarithm of the e-value against "the challenger is not better".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_e_value: Option<f64>,
    /// The natural logarithm of the e-value against "the challenger wins by the margin": at
    /// some points alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub futility_log_e_value: Option<f64>,
    /// The 95 % confidence sequence of the mean in points: at some points alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Range>,
}

impl EvidenceTrace {
    /// The evidence of a duel under `plan` whose samples so far had `differences`, each
    /// in [−1, 1], in plan order.
    pub fn new(plan: &DuelPlan, differences: &[f64]) -> Self {
        let context = plan.rule_context();
        let (win_margin, mut test) = match plan.rule {
            Rule::Sequential { win_margin, null_margin } => {
                (win_margin, Some(SequentialTest::new(win_margin, null_margin, &context)))
            }
            Rule::Fixed { win_margin, .. }
            | Rule::Margin { win_margin }
            | Rule::MarginLcb { win_margin, .. } => (win_margin, None),
            _ => (0.0, None),
        };
        let every = differences.len().div_ceil(INTERVALS).max(1);
        let (mut sum, mut points) = (0.0, Vec::new());
        for (index, difference) in differences.iter().enumerate() {
            sum += difference;
            let count = index + 1;
            if let Some(test) = &mut test {
                test.consume(*difference);
            }
            let shown = count % every == 0 || count == differences.len();
            let so_far = test.as_ref().filter(|_| shown).map(|test| test.evidence(&differences[..count]));
            points.push(EvidencePoint {
                samples: count as u32,
                mean: 100.0 * (sum / count as f64),
                log_e_value: test.as_ref().map(SequentialTest::log_e_value),
                futility_log_e_value: so_far.as_ref().map(|evidence| evidence.futility_log_e_value),
                interval: so_far.map(|evidence| evidence.confidence.into()),
            });
        }
        let boundary = test.is_some().then(|| -plan.terms.alpha().ln());
        Self {
            rule: plan.rule.name().into(),
            cap: plan.samples,
            win_margin,
            boundary,
            futility_boundary: test.is_some().then(|| -FUTILITY_ALPHA.ln()),
            looks: plan.looks.clone(),
            points,
        }
    }
}
