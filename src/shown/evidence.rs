//! The evidence of a duel, sample by sample.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Range;
use crate::decision::{FUTILITY_ALPHA, FixedTest, SequentialTest};
use crate::stats::Interval;
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
                let test = SequentialTest::new(win_margin, null_margin, &context);
                (win_margin, Some(Test::Sequential(test)))
            }
            Rule::Fixed { win_margin, null_margin } => {
                (win_margin, Some(Test::Fixed(FixedTest::new(null_margin, &context))))
            }
            Rule::Margin { win_margin } | Rule::MarginLcb { win_margin, .. } => (win_margin, None),
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
            let so_far = test.as_ref().filter(|_| shown).map(|test| test.so_far(&differences[..count]));
            points.push(EvidencePoint {
                samples: count as u32,
                mean: 100.0 * (sum / count as f64),
                log_e_value: test.as_ref().map(Test::log_e_value),
                futility_log_e_value: so_far.and_then(|(futility, _)| futility),
                interval: so_far.map(|(_, interval)| interval.into()),
            });
        }
        let boundary = test.is_some().then(|| -plan.terms.alpha().ln());
        let gives_up = matches!(test, Some(Test::Sequential(_)));
        Self {
            rule: plan.rule.name().into(),
            cap: plan.samples,
            win_margin,
            boundary,
            futility_boundary: gives_up.then(|| -FUTILITY_ALPHA.ln()),
            looks: plan.looks.clone(),
            points,
        }
    }
}

/// The bets of a rule that goes by evidence.
enum Test {
    Sequential(SequentialTest),
    Fixed(FixedTest),
}

impl Test {
    fn consume(&mut self, difference: f64) {
        match self {
            Self::Sequential(test) => _ = test.consume(difference),
            Self::Fixed(test) => test.consume(difference),
        }
    }

    fn log_e_value(&self) -> f64 {
        match self {
            Self::Sequential(test) => test.log_e_value(),
            Self::Fixed(test) => test.log_e_value(),
        }
    }

    /// What is worked out at some points alone, after `differences`: the evidence that a win is out of reach, if the rule
    /// gives up, and the confidence sequence.
    fn so_far(&self, differences: &[f64]) -> (Option<f64>, Interval) {
        match self {
            Self::Sequential(test) => {
                let evidence = test.evidence(differences);
                (Some(evidence.futility_log_e_value), evidence.confidence)
            }
            Self::Fixed(test) => (None, test.confidence(differences)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Evidence;
    use crate::testing::small_duel;
    use crate::{CallContext, DuelSettings, MemoryStore, Record};

    #[tokio::test]
    async fn the_trace_of_a_rule_with_evidence_ends_where_its_verdict_does() {
        for rule in [
            Rule::Fixed { win_margin: 2.0, null_margin: 0.0 },
            Rule::Sequential { win_margin: 2.0, null_margin: 0.0 },
        ] {
            let (store, cx) = (MemoryStore::default(), CallContext::new());
            let settings = DuelSettings { samples: 16, rule: rule.clone(), ..DuelSettings::default() };
            let duel = small_duel().settings(settings).plan(&store, &cx).await.expect("plans");
            let verdict = duel.run(&store, &cx).await.expect("runs").verdict;
            let bytes = store.record().expect("decided");
            let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record");
            let trace = crate::shown::shown(&record).expect("shows").evidence;
            let last = trace.points.last().expect("a point");
            let (log_e_value, confidence, gives_up) = match verdict.decision.evidence {
                Evidence::Fixed(evidence) => (evidence.log_e_value, evidence.confidence, false),
                Evidence::Sequential(evidence) => (evidence.log_e_value, evidence.confidence, true),
                other => panic!("no evidence: {other:?}"),
            };
            assert_eq!(trace.points.len(), verdict.samples as usize);
            assert!((last.log_e_value.expect("a bet") - log_e_value).abs() < 1e-6, "{last:?}");
            assert_eq!(last.interval, Some(confidence.into()), "{}", rule.name());
            assert_eq!(trace.boundary, Some(-f64::ln(0.05)));
            assert_eq!(trace.futility_boundary.is_some(), gives_up);
        }
    }
}
