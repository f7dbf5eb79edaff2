//! `protocol`: does the reply keep the operating contract?
//!
//! The contract of the pinned trajectories is in their system prompt: "answer
//! every turn with a line that starts with THOUGHT: and then exactly one bash
//! block". Each rule is a [`Check`] with a weight; the quality of a reply is
//! the kept share of the weights, and 0 if it has no action or an empty one,
//! because then nothing can be executed.
//!
//! | check | weight | kept if |
//! | --- | --- | --- |
//! | `required-parts` | 3 | every required part starts a line before the action, in order, with text after it |
//! | `one-action` | 4 | there is exactly one closed block in an action language; blocks in others do not count |
//! | `not-empty` | 4 | an action has a command, not just white space and comments |
//! | `allowed-programs` | 3 | every word in command position is an allowed program; left out without a list |
//! | `not-truncated` | 3 | the reply was not cut at the token limit |
//! | `not-looping` | 3 | neither the reply nor its prose nor its action loops |
//! | `no-reserved-tokens` | 3 | no template token, unless the conversation or the recorded reply quotes it |
//! | `nothing-after` | 1 | only white space follows the action |
//!
//! A text *loops* if its last 4096 bytes end in at least five equal periods
//! that cover 128 bytes or more; or if, among its lines with a letter or
//! digit, one stands there eight times in a row; or if there are at least 24
//! of them and three in four repeat an earlier one. Template tokens are
//! `<|word|>`, `<tool_call>`, `<tool_response>` and their ends, and `<think>`
//! and `</think>` except around a section that opens the reply and is closed.
//!
//! It speaks to **protocol** alone. Looping is counted here because a looping
//! reply no longer answers in the form asked for; the contract says nothing
//! about length, so there is no verdict on efficiency.

use std::collections::BTreeSet;
use std::sync::Arc;

use albedo_core::{
    Assessment, BuildContext, CallContext, Candidate, CheckContext, Comparison, Error, ErrorKind,
    FinishReason, Identity, Judge, JudgeProfile, Metric, Plugin, Result,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quality::{graded, share};
use crate::reply::{self, Reply};
use crate::shell::Script;

pub(crate) mod looping;
pub(crate) mod reserved;

/// Settings of [`ProtocolJudge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProtocolConfig {
    /// What lines before the action start with, in this order.
    pub required_parts: Vec<String>,
    /// Languages whose fenced blocks are actions, in any case.
    pub languages: Vec<String>,
    /// The programs that an action may call, as they are written; any if
    /// absent. Substitutions are looked into; programs that others start
    /// (`xargs rm`, `sh -c`) are not: this is a rule of form, not a sandbox.
    pub allowed_programs: Option<BTreeSet<String>>,
}

impl Default for ProtocolConfig {
    fn default() -> Self {
        Self {
            required_parts: vec!["THOUGHT:".into()],
            languages: vec!["bash".into()],
            allowed_programs: None,
        }
    }
}

impl ProtocolConfig {
    fn check(&self) -> Result<()> {
        reply::check_languages(ProtocolJudge::NAME, &self.languages)?;
        let invalid = |key, message, hint| {
            let operation = format!("check the settings of judge `{}`", ProtocolJudge::NAME);
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key).with_hint(hint))
        };
        if self.required_parts.iter().any(|part| part.trim().is_empty() || part.contains('\n')) {
            let message = format!("required_parts is {:?}", self.required_parts);
            return invalid(
                "required_parts",
                message,
                "give what a line starts with, for example \"THOUGHT:\"",
            );
        }
        if self.allowed_programs.as_ref().is_some_and(BTreeSet::is_empty) {
            let message = "allowed_programs allows nothing".to_owned();
            return invalid("allowed_programs", message, "name programs, or leave the key out to allow any");
        }
        Ok(())
    }
}

/// Checks both replies against the operating contract; see the [module](self).
#[derive(Debug)]
pub struct ProtocolJudge {
    identity: Identity,
    config: ProtocolConfig,
}

/// One rule of the contract; see the [module](self) for what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// `required-parts`
    RequiredParts,
    /// `one-action`
    OneAction,
    /// `not-empty`
    NotEmpty,
    /// `allowed-programs`
    AllowedPrograms,
    /// `not-truncated`
    NotTruncated,
    /// `not-looping`
    NotLooping,
    /// `no-reserved-tokens`
    NoReservedTokens,
    /// `nothing-after`
    NothingAfter,
}

impl Check {
    /// All checks.
    pub const ALL: [Self; 8] = [
        Self::RequiredParts,
        Self::OneAction,
        Self::NotEmpty,
        Self::AllowedPrograms,
        Self::NotTruncated,
        Self::NotLooping,
        Self::NoReservedTokens,
        Self::NothingAfter,
    ];

    /// The name in the judge's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequiredParts => "required-parts",
            Self::OneAction => "one-action",
            Self::NotEmpty => "not-empty",
            Self::AllowedPrograms => "allowed-programs",
            Self::NotTruncated => "not-truncated",
            Self::NotLooping => "not-looping",
            Self::NoReservedTokens => "no-reserved-tokens",
            Self::NothingAfter => "nothing-after",
        }
    }

    /// What it counts in the quality.
    pub fn weight(self) -> usize {
        match self {
            Self::OneAction | Self::NotEmpty => 4,
            Self::NothingAfter => 1,
            _ => 3,
        }
    }
}

impl ProtocolJudge {
    /// A judge with `config`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: ProtocolConfig) -> Result<Self> {
        config.check()?;
        let identity = Identity::new(<Self as Plugin<dyn Judge>>::NAME, "1", &config)?;
        Ok(Self { identity, config })
    }

    /// The checks that `candidate`, a reply to the conversation of `request`,
    /// does not pass.
    pub fn broken(&self, candidate: &Candidate, request: &Comparison) -> BTreeSet<Check> {
        let ProtocolConfig { required_parts, languages, allowed_programs } = &self.config;
        let reply = Reply::parse(&candidate.text);
        let actions: Vec<_> = reply.actions(languages).collect();
        let scripts: Vec<_> = actions.iter().map(|action| Script::parse(action.code)).collect();
        let before = actions.first().map_or(reply.text, |action| &reply.text[..action.range.start]);
        let after = actions.last().map_or("", |action| &reply.text[action.range.end..]);
        let allowed = |program| allowed_programs.as_ref().is_none_or(|allowed| allowed.contains(program));
        let mut pieces = [candidate.text.as_ref(), reply.thinking, before]
            .into_iter()
            .chain(actions.iter().map(|action| action.code));
        let mut kept = |check| match check {
            Check::RequiredParts => has_parts(before, required_parts),
            Check::OneAction => actions.len() == 1,
            Check::NotEmpty => scripts.iter().any(|script| !script.is_empty()),
            Check::AllowedPrograms => scripts.iter().flat_map(Script::programs).all(allowed),
            Check::NotTruncated => candidate.finish != FinishReason::Length,
            Check::NotLooping => !pieces.any(looping::loops),
            Check::NoReservedTokens => !reserved::leaks(&reply, request),
            Check::NothingAfter => after.trim().is_empty(),
        };
        Check::ALL.into_iter().filter(|&check| !kept(check)).collect()
    }

    /// The quality in [0, 1] of a reply that does not pass `broken`.
    fn quality(&self, broken: &BTreeSet<Check>) -> f64 {
        if broken.contains(&Check::NotEmpty) {
            return 0.0;
        }
        let applies =
            |check: &Check| *check != Check::AllowedPrograms || self.config.allowed_programs.is_some();
        let all: usize = Check::ALL.into_iter().filter(applies).map(Check::weight).sum();
        let lost: usize = broken.iter().copied().map(Check::weight).sum();
        share(all.saturating_sub(lost), all)
    }
}

#[async_trait]
impl Judge for ProtocolJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Protocol]).with_offline(&self.config)
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        cx.check("check replies against the operating contract")?;
        let [first, second] =
            [&request.first, &request.second].map(|candidate| self.broken(candidate, request));
        let score = graded(self.quality(&first), self.quality(&second))?;
        let broken = !(first.is_empty() && second.is_empty());
        let rationale = broken.then(|| format!("first {}; second {}", words(&first), words(&second)));
        Ok(Assessment::Scored {
            scores: [(Metric::Protocol, score)].into(),
            rationale,
            usage: None,
            evidence: None,
        })
    }
}

impl Plugin<dyn Judge> for ProtocolJudge {
    const NAME: &'static str = "protocol";
    const OFFLINE: bool = true;
    const SUMMARY: &'static str =
        "whether the reply keeps the operating contract: parts, one action, no loops, nothing else";
    type Config = ProtocolConfig;
    type Checked = Self;

    fn check(config: ProtocolConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

albedo_core::register!(dyn Judge => ProtocolJudge);

fn words(broken: &BTreeSet<Check>) -> String {
    if broken.is_empty() {
        return "keeps the contract".into();
    }
    let names: Vec<_> = broken.iter().map(|check| check.as_str()).collect();
    format!("breaks {}", names.join(", "))
}

/// Whether each of `parts` starts a line of `text`, in order, with something
/// other than white space between it and the next.
fn has_parts(text: &str, parts: &[String]) -> bool {
    let mut rest = Some(text);
    for (position, part) in parts.iter().enumerate() {
        let starts_line = |text: &str, at: usize| at == 0 || text.as_bytes()[at - 1] == b'\n';
        rest = rest.and_then(|text| {
            let (at, _) = text.match_indices(part.as_str()).find(|&(at, _)| starts_line(text, at))?;
            (position == 0 || !text[..at].trim().is_empty()).then(|| &text[at + part.len()..])
        });
    }
    rest.is_some_and(|text| parts.is_empty() || !text.trim().is_empty())
}

#[cfg(test)]
mod tests;
