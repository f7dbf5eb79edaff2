//! `loops`: a dialogue that goes round in circles.
//!
//! Plays conversations of many turns, the model's own replies in its context,
//! and compares the commands of a conversation in one spelling. A conversation
//! is stuck if half of its commands were given before, or four in a row are the
//! same (the Python system's numbers). `Flagged` if a share of the
//! conversations is stuck, never more: a task can be hopeless.

use albedo_core::registry::Checked;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Finding, ModelSession, PluginConfig, Result, Screen, TaskSource,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Probe};
use super::probes::{Prompts, check_numbers, check_share, check_tasks, dialogues};
use crate::reply::Reply;
use crate::shell::Script;

/// Equal commands in a row that make a conversation stuck.
const ROW: usize = 4;

/// Settings of the screen `loops`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoopsConfig {
    /// Conversations.
    pub probes: u32,
    /// Replies of each.
    pub turns: u32,
    /// Replies are cut after this many tokens.
    pub max_new_tokens: u32,
    /// Share of stuck conversations from which on the model is flagged.
    pub share: f64,
    /// Languages whose fenced blocks are commands.
    pub languages: Vec<String>,
    /// Task source that the conversations come from; built-in ones if absent.
    pub tasks: Option<PluginConfig<dyn TaskSource>>,
}

impl Default for LoopsConfig {
    fn default() -> Self {
        Self {
            probes: 8,
            turns: 12,
            max_new_tokens: 512,
            share: 0.5,
            languages: vec!["bash".into()],
            tasks: None,
        }
    }
}

/// Looks for repeated commands; see the [module](self).
#[derive(Debug)]
struct Loops {
    config: LoopsConfig,
    prompts: Prompts,
}

#[async_trait]
impl Probe for Loops {
    const NAME: &'static str = "loops";
    const SUMMARY: &'static str = "a dialogue that goes round in circles";
    type Config = LoopsConfig;
    type Checked = (LoopsConfig, Option<Checked<dyn TaskSource>>);

    fn check(config: LoopsConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        check_share(Self::NAME, "share", config.share)?;
        crate::reply::check_languages(Self::NAME, &config.languages)?;
        let LoopsConfig { probes, turns, max_new_tokens, .. } = config;
        check_numbers(
            Self::NAME,
            &[("probes", probes), ("turns", turns), ("max_new_tokens", max_new_tokens)],
        )?;
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
        let LoopsConfig { probes, turns, max_new_tokens, .. } = self.config;
        let conversations = self.prompts.draw(Self::NAME, seed, probes, cx).await?;
        let spoken = dialogues(session, &conversations, turns, max_new_tokens, seed, cx).await?;
        let stuck = spoken.iter().filter(|replies| {
            let texts = replies.iter().map(|reply| reply.text.as_str());
            is_stuck(&commands(texts, &self.config.languages))
        });
        let (stuck, all) = (stuck.count(), spoken.len());
        let evidence = json!({ "conversations": all, "stuck": stuck });
        Ok(if stuck as f64 >= self.config.share * all as f64 && stuck > 0 {
            Finding::Flagged(evidence)
        } else {
            Finding::Clear(evidence)
        })
    }
}

albedo_core::register!(dyn Screen => Behaviour<Loops>);

/// The command of each reply in one spelling; a reply without one counts as its
/// own text.
fn commands<'a>(replies: impl Iterator<Item = &'a str>, languages: &[String]) -> Vec<String> {
    replies
        .map(|text| match Reply::parse(text).action(languages) {
            Some(action) => Script::parse(action.code).normalized(),
            None => text.trim().to_owned(),
        })
        .collect()
}

fn is_stuck(commands: &[String]) -> bool {
    let row = commands.chunk_by(|one, other| one == other).map(<[String]>::len).max().unwrap_or(0);
    let mut seen = std::collections::BTreeSet::new();
    let repeated = commands.iter().filter(|command| !seen.insert(command.as_str())).count();
    row >= ROW || (commands.len() >= ROW && 2 * repeated >= commands.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_told_from_progress() {
        let stuck = |texts: &[&str]| is_stuck(&commands(texts.iter().copied(), &["bash".into()]));
        let ls = "THOUGHT: x\n\n```bash\nls  -la\n```";
        let ls_again = "THOUGHT: y\n\n```bash\nls -la # again\n```";
        let cat = "THOUGHT: x\n\n```bash\ncat a.py\n```";
        let run = "THOUGHT: x\n\n```bash\npython -m unittest\n```";
        let edit = "THOUGHT: x\n\n```bash\nsed -i s/a/b/ a.py\n```";
        assert!(stuck(&[ls, ls_again, ls, ls_again]));
        assert!(stuck(&[ls, cat, ls, cat]));
        assert!(stuck(&["", "", "", ""]));
        assert!(!stuck(&[ls, cat, run, edit, run]));
        assert!(!stuck(&[ls, ls, ls]));
        assert!(!stuck(&[]));
    }
}
