//! `reference-likelihood`: which side gives the recorded reply the higher
//! log-probability.
//!
//! With `d` the difference of the two mean log-probabilities of the recorded
//! reply's tokens, the closing stop token included, in nats per token, the score
//! is the logistic function of `d / scale`. It is made of the size of `d` and
//! reflected by its sign, so that the two orders add up to exactly 1.
//!
//! Of a recorded reply that does not fit the context behind its prompt, both sides
//! score the tokens that fit. Models of different context lengths score different
//! numbers of its tokens: the judge then abstains.
//!
//! It speaks to **correctness** alone: the recorded reply is one that was
//! executed and led to the recorded outcome, so its probability says how far
//! the model knows what works here. It is one number about the whole reply and
//! does not depend on the text the model wrote, so it says nothing about that
//! text's grounding, progress, form or length. It cannot tell a model that
//! understands from one that has seen the data set.

use std::sync::Arc;

use albedo_core::{
    Assessment, BuildContext, CallContext, CheckContext, Comparison, Error, ErrorKind, Identity, Judge,
    JudgeProfile, Metric, Plugin, Result,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quality::graded;

/// Settings of [`ReferenceLikelihoodJudge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceLikelihoodConfig {
    /// The difference, in nats per token, at which the odds of the better side
    /// are e : 1 (a score of 0.73); above 0. Related models of one size differ
    /// by hundredths to tenths of a nat: the default 0.25 keeps those apart
    /// without letting single samples with larger differences decide.
    pub scale: f64,
}

impl Default for ReferenceLikelihoodConfig {
    fn default() -> Self {
        Self { scale: 0.25 }
    }
}

impl ReferenceLikelihoodConfig {
    fn check(&self) -> Result<()> {
        if self.scale > 0.0 && self.scale.is_finite() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!("check the settings of judge `{}`", ReferenceLikelihoodJudge::NAME),
            format!("scale is {}", self.scale),
        )
        .with("key", "scale")
        .with_hint("give a finite number above 0, in nats per token"))
    }
}

/// Compares the probabilities of the recorded reply; see the [module](self).
#[derive(Debug)]
pub struct ReferenceLikelihoodJudge {
    identity: Identity,
    config: ReferenceLikelihoodConfig,
}

impl ReferenceLikelihoodJudge {
    /// A judge with `config`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: ReferenceLikelihoodConfig) -> Result<Self> {
        config.check()?;
        let identity = Identity::new(<Self as Plugin<dyn Judge>>::NAME, "1", &config)?;
        Ok(Self { identity, config })
    }

    /// The first side's lead in nats per token, or why there is none.
    fn lead(request: &Comparison) -> Result<f64, &'static str> {
        let (Some(first), Some(second)) = (&request.first.reference_scores, &request.second.reference_scores)
        else {
            return Err("a side has no log-probabilities of the recorded reply");
        };
        if first.log_probs.len() != second.log_probs.len() {
            return Err("the sides read the recorded reply as different numbers of tokens");
        }
        let (Some(first), Some(second)) = (first.mean(), second.mean()) else {
            return Err("the recorded reply has no tokens");
        };
        let lead = first - second;
        if lead.is_nan() {
            Err("the log-probabilities of the recorded reply are not finite")
        } else {
            Ok(lead)
        }
    }
}

#[async_trait]
impl Judge for ReferenceLikelihoodJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Correctness]).with_reference_scores().with_offline(&self.config)
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        cx.check("compare the probabilities of the recorded reply")?;
        let lead = match Self::lead(request) {
            Ok(lead) => lead,
            Err(reason) => return Ok(Assessment::Abstained { reason: reason.into() }),
        };
        // logistic(x) = 1/2 + tanh(x/2)/2: the better side's quality is the
        // hyperbolic tangent, the other's is 0.
        let better = (lead.abs() / self.config.scale / 2.0).tanh();
        let score = if lead >= 0.0 { graded(better, 0.0)? } else { graded(0.0, better)? };
        Ok(Assessment::scored([(Metric::Correctness, score)]))
    }
}

impl Plugin<dyn Judge> for ReferenceLikelihoodJudge {
    const NAME: &'static str = "reference-likelihood";
    const OFFLINE: bool = true;
    const SUMMARY: &'static str = "which model gives the recorded reply the higher log-probability per token";
    type Config = ReferenceLikelihoodConfig;
    type Checked = Self;

    fn check(config: ReferenceLikelihoodConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

albedo_core::register!(dyn Judge => ReferenceLikelihoodJudge);

#[cfg(test)]
mod tests {
    use albedo_core::TokenScores;

    use super::*;
    use crate::testing::{comparison, score};

    const RECORDED: &str = "THOUGHT: I list its files first.\n\n```bash\nls\n```";

    fn judge() -> ReferenceLikelihoodJudge {
        ReferenceLikelihoodJudge::new(ReferenceLikelihoodConfig::default()).expect("default settings")
    }

    fn request(first: Option<Vec<f32>>, second: Option<Vec<f32>>) -> Comparison {
        let mut request = comparison(RECORDED, RECORDED, RECORDED);
        request.first.reference_scores = first.map(|log_probs| Arc::new(TokenScores { log_probs }));
        request.second.reference_scores = second.map(|log_probs| Arc::new(TokenScores { log_probs }));
        request
    }

    async fn lead(first: Vec<f32>, second: Vec<f32>) -> f64 {
        score(&judge(), &request(Some(first), Some(second)), Metric::Correctness).await
    }

    #[tokio::test]
    async fn the_score_is_the_logistic_of_the_lead() {
        let score = lead(vec![-0.25, -0.5], vec![-0.5, -0.75]).await;
        assert!((score - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-9, "{score}");
        assert_eq!(lead(vec![-0.5, -0.5], vec![-0.25, -0.75]).await, 0.5);
    }

    #[tokio::test]
    async fn a_lead_too_large_for_numbers_is_a_win() {
        assert_eq!(lead(vec![-1.0], vec![f32::NEG_INFINITY]).await, 1.0);
        assert_eq!(lead(vec![f32::MIN], vec![-1.0]).await, 0.0);
    }

    #[tokio::test]
    async fn it_abstains_where_there_is_nothing_to_compare() {
        for (first, second, expected) in [
            (None, Some(vec![-1.0]), "no log-probabilities"),
            (Some(vec![-1.0]), None, "no log-probabilities"),
            (Some(vec![]), Some(vec![]), "no tokens"),
            (Some(vec![-1.0]), Some(vec![-1.0, -1.0]), "different numbers"),
            (Some(vec![-1.0]), Some(vec![f32::NAN]), "not finite"),
            (Some(vec![f32::NEG_INFINITY]), Some(vec![f32::NEG_INFINITY]), "not finite"),
        ] {
            let answer =
                judge().compare(&request(first, second), &CallContext::new()).await.expect("answers");
            let Assessment::Abstained { reason } = answer else { panic!("scored: {answer:?}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn a_scale_that_divides_nothing_is_refused() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error =
                ReferenceLikelihoodJudge::new(ReferenceLikelihoodConfig { scale }).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_scores_are_mirrored_exactly(pairs in proptest::collection::vec((-30.0..0.0_f32, -30.0..0.0_f32), 1..20)) {
            let (first, second): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            crate::testing::check_laws(&judge(), &request(Some(first), Some(second)));
        }
    }
}
