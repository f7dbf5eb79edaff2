//! `reference-action`: how close the proposed command is to the recorded one.
//!
//! Both commands are read by a small shell parser and compared in one
//! spelling, in which white space, quoting, comments, line continuations, the
//! places of redirections and a leading `cd` to the checkout make no
//! difference. Each metric is its own quantity in [0, 1]:
//!
//! - **correctness**, the whole command: 1 − distance / length of the longer
//!   spelling, with Levenshtein's distance in characters. Beyond what both
//!   spellings share at their ends, the first 1024 characters of each are
//!   compared; the rest counts as different.
//! - **grounding**, what it is about: half the share of its names (words of
//!   files, functions, patterns; of a here-document or inline program those in
//!   string literals) that occur in the conversation or the recorded reply
//!   rather than nowhere; half the overlap (Dice) of its names with the
//!   recorded command's.
//! - **progress**, the step taken: half for the same kind of step (hand in,
//!   look, review, set up, run, edit: the greatest of its commands'), half the
//!   overlap (Dice) of the programs called, with the argument that chooses
//!   their work (`git diff`, `python -m unittest`).
//! - **efficiency**, its length: length of the recorded spelling / length of
//!   its own, at most 1; 0 unless it takes the same kind of step, because a
//!   command that does something else is not economical at any length.
//!
//! A reply without exactly one action runs nothing and has quality 0 in all
//! four. What is outside the command (the thought) is not looked at. A
//! different command that works just as well is not recognised: that is what
//! other judges are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use albedo_core::{
    Assessment, BuildContext, CallContext, CheckContext, Comparison, Identity, Judge, JudgeProfile, Message,
    Metric, Plugin, Result,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{names, string_literals};
use crate::quality::{graded, share};
use crate::reply::{self, Reply};
use crate::shell::{Script, StepKind};

/// Characters of each command that the edit distance compares: its cost grows
/// with the square.
const MAX_COMPARED: usize = 1024;

/// Settings of [`ReferenceActionJudge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceActionConfig {
    /// Languages whose fenced blocks are actions, in any case.
    pub languages: Vec<String>,
}

impl Default for ReferenceActionConfig {
    fn default() -> Self {
        Self { languages: vec!["bash".into()] }
    }
}

impl ReferenceActionConfig {
    fn check(&self) -> Result<()> {
        reply::check_languages(ReferenceActionJudge::NAME, &self.languages)
    }
}

/// Compares the proposed commands with the recorded one; see the [module](self).
#[derive(Debug)]
pub struct ReferenceActionJudge {
    identity: Identity,
    config: ReferenceActionConfig,
}

impl ReferenceActionJudge {
    /// A judge with `config`.
    ///
    /// # Errors
    /// [`albedo_core::ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: ReferenceActionConfig) -> Result<Self> {
        config.check()?;
        let identity = Identity::new(<Self as Plugin<dyn Judge>>::NAME, "1", &config)?;
        Ok(Self { identity, config })
    }

    fn action(&self, text: &str) -> Option<Action> {
        let reply = Reply::parse(text);
        let script = Script::parse(reply.action(&self.config.languages)?.code);
        (!script.is_empty()).then(|| Action::of(&script))
    }
}

#[async_trait]
impl Judge for ReferenceActionJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Correctness, Metric::Grounding, Metric::Progress, Metric::Efficiency])
            .with_offline(&self.config)
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        cx.check("compare commands with the recorded one")?;
        let Some(recorded) = self.action(&request.reference) else {
            return Ok(Assessment::Abstained { reason: "the recorded reply has no single action".into() });
        };
        let replies = [&request.first, &request.second].map(|candidate| self.action(&candidate.text));
        let known = known_names(&replies, &request.messages, &request.reference);
        let [first, second] = replies
            .map(|action| action.map_or_else(BTreeMap::new, |action| action.qualities(&recorded, &known)));
        let quality = |of: &BTreeMap<Metric, f64>, metric| of.get(&metric).copied().unwrap_or(0.0);
        let scores = self.profile().metrics.into_iter().map(|metric| {
            graded(quality(&first, metric), quality(&second, metric)).map(|score| (metric, score))
        });
        Ok(Assessment::scored(scores.collect::<Result<BTreeMap<_, _>>>()?))
    }
}

impl Plugin<dyn Judge> for ReferenceActionJudge {
    const NAME: &'static str = "reference-action";
    const OFFLINE: bool = true;
    const SUMMARY: &'static str = "how close the proposed command is to the recorded one";
    type Config = ReferenceActionConfig;
    type Checked = Self;

    fn check(config: ReferenceActionConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

albedo_core::register!(dyn Judge => ReferenceActionJudge);

/// A command, as far as the metrics see it.
#[derive(Debug)]
struct Action {
    normalized: Vec<char>,
    kind: Option<StepKind>,
    /// How often each program is called.
    calls: BTreeMap<String, usize>,
    names: BTreeSet<String>,
}

impl Action {
    fn of(script: &Script) -> Self {
        let steps = script.steps();
        let mut calls = BTreeMap::new();
        for step in &steps {
            *calls.entry(step.call.clone()).or_default() += 1;
        }
        let operands = steps.iter().flat_map(|step| step.operands.iter().copied());
        let literals = steps.iter().flat_map(|step| step.code.iter().flat_map(|code| string_literals(code)));
        let mut names: BTreeSet<_> = operands.chain(literals).flat_map(names).map(str::to_owned).collect();
        // An unknown program is a name, even if it does not look like one.
        let unknown = steps.iter().filter(|step| step.kind == StepKind::Other).map(|step| &step.call);
        names.extend(unknown.filter(|call| crate::names::names(call).next().is_none()).cloned());
        Self {
            normalized: script.normalized().chars().collect(),
            kind: steps.iter().map(|step| step.kind).max(),
            calls,
            names,
        }
    }

    fn qualities(&self, recorded: &Self, known: &BTreeSet<String>) -> BTreeMap<Metric, f64> {
        let shared_calls: usize = self
            .calls
            .iter()
            .map(|(call, &count)| count.min(recorded.calls.get(call).copied().unwrap_or(0)))
            .sum();
        let (calls, recorded_calls) = (self.calls.values().sum(), recorded.calls.values().sum());
        // Two unknown programs are compared by name alone.
        let same_kind =
            self.kind == recorded.kind && (self.kind != Some(StepKind::Other) || shared_calls > 0);
        let same_kind = f64::from(u8::from(same_kind));

        let is_known = |name: &&String| known.contains(*name) || recorded.names.contains(*name);
        let known_names = share(self.names.iter().filter(is_known).count(), self.names.len());
        let shared_names = self.names.intersection(&recorded.names).count();
        let about_the_same = dice(shared_names, self.names.len(), recorded.names.len());

        let length = self.normalized.len();
        let longer = length.max(recorded.normalized.len());
        let distance = distance(&self.normalized, &recorded.normalized);
        let economy = share(recorded.normalized.len(), length).min(1.0);
        [
            (Metric::Correctness, share(longer - distance, longer)),
            (Metric::Grounding, f64::midpoint(known_names, about_the_same)),
            (Metric::Progress, f64::midpoint(same_kind, dice(shared_calls, calls, recorded_calls))),
            (Metric::Efficiency, same_kind * economy),
        ]
        .into()
    }
}

/// Those names of `actions` that occur in `messages` or in `reference`.
fn known_names(actions: &[Option<Action>], messages: &[Message], reference: &str) -> BTreeSet<String> {
    let mut unknown: BTreeSet<&str> =
        actions.iter().flatten().flat_map(|action| action.names.iter().map(String::as_str)).collect();
    let mut known = BTreeSet::new();
    for text in messages.iter().map(|message| message.content.as_str()).chain([reference]) {
        for name in names(text) {
            if unknown.remove(name) {
                known.insert(name.to_owned());
            }
        }
    }
    known
}

/// Dice's overlap of two sets; 1 if both are empty.
fn dice(shared: usize, first: usize, second: usize) -> f64 {
    share(2 * shared, first + second)
}

/// Levenshtein's distance, or an upper bound of it for long texts (see the
/// [module](self)); at most the length of the longer text.
fn distance(first: &[char], second: &[char]) -> usize {
    let shared = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let (first, second) = (&first[shared..], &second[shared..]);
    let shared = first.iter().rev().zip(second.iter().rev()).take_while(|(a, b)| a == b).count();
    let (first, second) = (&first[..first.len() - shared], &second[..second.len() - shared]);
    let head = |text: &[char]| text[..text.len().min(MAX_COMPARED)].to_vec();
    let rest = first.len().max(second.len()).saturating_sub(MAX_COMPARED);
    strsim::generic_levenshtein(&head(first), &head(second)) + rest
}

#[cfg(test)]
mod tests;
