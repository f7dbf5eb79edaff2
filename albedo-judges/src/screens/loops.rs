//! `loops`: a dialogue that goes round in circles.
//!
//! Plays conversations of many turns, the model's own replies in its context,
//! and compares the commands of a conversation in one spelling. A conversation
//! is stuck if half of its commands were given before, or four in a row are the
//! same (the Python system's numbers). `Flagged` if a share of the
//! conversations is stuck, never more: a task can be hopeless. Conversations of
//! fewer than four replies tell nothing; `Flagged` as `not-compared` if they are
//! most of them.

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
    /// Replies of each, 4 or more.
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
    const VERSION: &'static str = "2";
    type Config = LoopsConfig;
    type Checked = (LoopsConfig, Option<Checked<dyn TaskSource>>);

    fn check(config: LoopsConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        check_share(Self::NAME, "share", config.share)?;
        crate::reply::check_languages(Self::NAME, &config.languages)?;
        let LoopsConfig { probes, turns, max_new_tokens, .. } = config;
        check_numbers(Self::NAME, &[("probes", probes), ("max_new_tokens", max_new_tokens)])?;
        check_turns(Self::NAME, turns, ROW)?;
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
        let stuck = stuck.count();
        let played = Played::of(&spoken, ROW);
        let mut reasons = Reasons::default();
        if stuck > 0 && stuck as f64 >= self.config.share * played.judged as f64 {
            let of = played.judged;
            reasons.flag("stuck", format!("{stuck} of {of} conversations go round in circles"));
        }
        played.tell(&mut reasons);
        let mut facts = to_value(&played)?;
        facts["stuck"] = json!(stuck);
        Ok(reasons.finding(facts))
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
    use albedo_core::{GenerateRequest, MessageRole};

    use super::*;
    use crate::screens::testing::{Speaker, recorded};

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

    #[expect(clippy::unnecessary_wraps, reason = "a speaker may have no reply")]
    fn circle(_: &GenerateRequest) -> Option<String> {
        Some("THOUGHT: x\n\n```bash\nls\n```".into())
    }

    /// What `loops` finds of conversations of `turns` replies: the rules, and how many
    /// conversations were asked, judged and stuck.
    async fn found(session: &dyn ModelSession, turns: usize, role: MessageRole) -> (Value, [Value; 3]) {
        let loops = Loops { config: LoopsConfig::default(), prompts: recorded(turns, role) };
        let found = loops.inspect(session, 7, &CallContext::new()).await.expect("a finding");
        assert!(matches!(found, Finding::Flagged(_)), "{found:?}");
        let evidence = found.evidence();
        (evidence["rules"].clone(), ["asked", "judged", "stuck"].map(|key| evidence[key].clone()))
    }

    #[tokio::test]
    async fn what_cannot_be_judged_is_not_called_clear() {
        let (stuck, few) = (json!(["stuck"]), json!(["not-compared"]));
        let counts = |counts: [u32; 3]| counts.map(|count| json!(count));
        let session = Speaker::new(circle);
        for role in [MessageRole::User, MessageRole::Tool] {
            assert_eq!(found(&session, 6, role).await, (stuck.clone(), counts([8, 8, 8])));
            assert_eq!(found(&session, 3, role).await, (few.clone(), counts([8, 0, 0])));
        }
        // The first prompt has three words; a reply of 512 tokens has to fit behind it.
        let narrow = |room: u32| Speaker::new(circle).with_context(512 + room);
        assert_eq!(found(&narrow(2), 6, MessageRole::Tool).await, (few.clone(), counts([0, 0, 0])));
        assert_eq!(found(&narrow(4), 6, MessageRole::Tool).await, (few, counts([8, 0, 0])));
    }
}
