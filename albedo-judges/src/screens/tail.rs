//! `tail`: a dialogue whose late turns fall apart.
//!
//! Plays long conversations and compares the late half of each with its early
//! half by the rules of [`super::sanity`]. `Flagged` if late replies break rules
//! much more often than early ones, never more: long contexts are hard. A
//! conversation of one reply has no halves; `Flagged` as `not-compared` if most
//! are such.

use albedo_core::registry::Checked;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Finding, ModelSession, PluginConfig, Result, Screen, TaskSource,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Probe};
use super::evidence::{Reasons, to_value};
use super::probes::{Played, Prompts, check_numbers, check_share, check_tasks, check_turns, dialogues};
use super::replies::faults;

/// Replies of a conversation that has two halves.
const HALVES: usize = 2;

/// Settings of the screen `tail`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TailConfig {
    /// Conversations.
    pub probes: u32,
    /// Replies of each, 2 or more.
    pub turns: u32,
    /// Replies are cut after this many tokens.
    pub max_new_tokens: u32,
    /// How much larger the share of broken replies may be in the late half.
    pub decline: f64,
    /// Task source that the conversations come from; built-in ones if absent.
    pub tasks: Option<PluginConfig<dyn TaskSource>>,
}

impl Default for TailConfig {
    fn default() -> Self {
        Self { probes: 8, turns: 16, max_new_tokens: 512, decline: 0.3, tasks: None }
    }
}

/// Compares late replies with early ones; see the [module](self).
#[derive(Debug)]
struct Tail {
    config: TailConfig,
    prompts: Prompts,
}

#[async_trait]
impl Probe for Tail {
    const NAME: &'static str = "tail";
    const SUMMARY: &'static str = "a dialogue whose late turns fall apart";
    const VERSION: &'static str = "2";
    type Config = TailConfig;
    type Checked = (TailConfig, Option<Checked<dyn TaskSource>>);

    fn check(config: TailConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        check_share(Self::NAME, "decline", config.decline)?;
        let TailConfig { probes, turns, max_new_tokens, .. } = config;
        check_numbers(Self::NAME, &[("probes", probes), ("max_new_tokens", max_new_tokens)])?;
        check_turns(Self::NAME, turns, HALVES)?;
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
        let TailConfig { probes, turns, max_new_tokens, .. } = self.config;
        let conversations = self.prompts.draw(Self::NAME, seed, probes, cx).await?;
        let spoken = dialogues(session, &conversations, turns, max_new_tokens, seed, cx).await?;
        let [mut early, mut late] = [[0_usize; 2]; 2];
        for replies in spoken.iter().filter(|replies| replies.len() >= HALVES) {
            for (turn, reply) in replies.iter().enumerate() {
                let half = if turn < replies.len() / 2 { &mut early } else { &mut late };
                half[0] += 1;
                half[1] += usize::from(!faults(reply).is_empty());
            }
        }
        let share = |[all, broken]: [usize; 2]| broken as f64 / all.max(1) as f64;
        let (early, late) = (share(early), share(late));
        let played = Played::of(&spoken, HALVES);
        let mut reasons = Reasons::default();
        if late - early >= self.config.decline {
            let [early, late] = [early, late].map(|share| 100.0 * share);
            reasons
                .flag("declines", format!("{late:.0} % of the late replies are broken, {early:.0} % before"));
        }
        played.tell(&mut reasons);
        let mut facts = to_value(&played)?;
        facts["broken_early"] = json!(early);
        facts["broken_late"] = json!(late);
        Ok(reasons.finding(facts))
    }
}

albedo_core::register!(dyn Screen => Behaviour<Tail>);

#[cfg(test)]
mod tests {
    use albedo_core::{GenerateRequest, MessageRole};

    use super::*;
    use crate::screens::testing::{Speaker, recorded};
    use crate::testing::EDIT;

    async fn found(session: &dyn ModelSession, turns: usize) -> Finding {
        let tail = Tail { config: TailConfig::default(), prompts: recorded(turns, MessageRole::Tool) };
        tail.inspect(session, 7, &CallContext::new()).await.expect("a finding")
    }

    #[tokio::test]
    async fn late_turns_are_compared_with_early_ones_and_single_turns_with_nothing() {
        let sound = Speaker::new(|_: &GenerateRequest| Some(EDIT.into()));
        let failing = Speaker::new(|request: &GenerateRequest| {
            Some(String::from(if request.messages.len() > 5 { "" } else { EDIT }))
        });
        let broken = Speaker::new(|_: &GenerateRequest| Some(String::new()));
        assert!(matches!(found(&sound, 6).await, Finding::Clear(_)));
        let declines = found(&failing, 6).await;
        assert!(matches!(declines, Finding::Flagged(_)), "{declines:?}");
        assert_eq!(declines.evidence()["rules"], json!(["declines"]));
        let single = found(&broken, 1).await;
        assert!(matches!(single, Finding::Flagged(_)), "{single:?}");
        let evidence = single.evidence();
        assert_eq!((&evidence["rules"], &evidence["judged"]), (&json!(["not-compared"]), &json!(0)));
    }
}
