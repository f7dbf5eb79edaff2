//! `sanity`: replies that no working model gives.
//!
//! Probes the model on conversations that follow from the seed, greedily and
//! sampled, and looks at every reply by rules: empty, looping, no text, few
//! words, reserved tokens, unclosed or amputated thinking, nothing after it,
//! never ending. `Flagged` if a share of the replies breaks a rule, `Rejected`
//! only if every single one does, in both rounds.

use albedo_core::registry::Checked;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Finding, ModelSession, PluginConfig, Result, Sampling, Screen,
    TaskSource,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Probe};
use super::evidence::one_line;
use super::probes::{Prompts, check_numbers, check_tasks, replies, requests};
use super::replies::faults;

/// Settings of the screen `sanity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SanityConfig {
    /// Conversations; each is answered greedily and sampled.
    pub probes: u32,
    /// Replies are cut after this many tokens.
    pub max_new_tokens: u32,
    /// Share of replies that break a rule, from which on the model is flagged.
    pub share: f64,
    /// Task source that the conversations come from; built-in ones if absent.
    pub tasks: Option<PluginConfig<dyn TaskSource>>,
}

impl Default for SanityConfig {
    fn default() -> Self {
        Self { probes: 16, max_new_tokens: 512, share: 0.25, tasks: None }
    }
}

/// Looks at replies by rules; see the [module](self).
#[derive(Debug)]
struct Sanity {
    config: SanityConfig,
    prompts: Prompts,
}

#[async_trait]
impl Probe for Sanity {
    const NAME: &'static str = "sanity";
    const SUMMARY: &'static str = "replies that no working model gives";
    const VERSION: &'static str = "1";
    type Config = SanityConfig;
    type Checked = (SanityConfig, Option<Checked<dyn TaskSource>>);

    fn check(config: SanityConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        super::probes::check_share(Self::NAME, "share", config.share)?;
        check_numbers(Self::NAME, &[("probes", config.probes), ("max_new_tokens", config.max_new_tokens)])?;
        let tasks = check_tasks(config.tasks.as_ref(), cx)?;
        Ok((config, tasks))
    }

    async fn build((config, tasks): Self::Checked, cx: &BuildContext<'_>) -> Result<Self> {
        Ok(Self { config, prompts: Prompts::build(tasks, cx).await? })
    }

    fn identified(&self) -> Result<Value> {
        self.prompts.identified(&self.config)
    }

    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding> {
        let conversations = self.prompts.draw(Self::NAME, seed, self.config.probes, cx).await?;
        let sampled = Sampling { temperature: 0.7, top_p: 0.8, top_k: 20 };
        let mut asked = Vec::new();
        for sampling in [Sampling::default(), sampled] {
            let openings = conversations.iter().map(|conversation| conversation.opening.as_slice());
            asked.extend(requests(openings, sampling, self.config.max_new_tokens, seed));
        }
        let answers = replies(session, asked, cx).await?;
        let broken: Vec<_> = answers
            .iter()
            .filter_map(|answer| {
                let faults = faults(answer);
                (!faults.is_empty()).then(|| json!({ "reply": one_line(&answer.text), "breaks": faults }))
            })
            .collect();
        let (count, all) = (broken.len(), answers.len());
        let evidence =
            json!({ "replies": all, "broken": count, "examples": broken.iter().take(4).collect::<Vec<_>>() });
        Ok(if count == all {
            Finding::Rejected(evidence)
        } else if count as f64 >= self.config.share * all as f64 {
            Finding::Flagged(evidence)
        } else {
            Finding::Clear(evidence)
        })
    }
}

albedo_core::register!(dyn Screen => Behaviour<Sanity>);
