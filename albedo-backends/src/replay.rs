//! `replay`: replies from a record instead of a model.
//!
//! A model's served name is its side: `king` or `challenger`. Sessions are the
//! recorded models and the backend has the recorded identity, so that the plan
//! of a duel replayed with it stays the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::draw::DrawOutcome;
use albedo_core::record::{RecordLine, RecordedReply, TextRef};
use albedo_core::{
    BuildContext, CallContext, CheckContext, Completion, Contestant, Digest, DuelPlan, Error, ErrorKind,
    Fault, GenerateRequest, Generated, Identity, Message, ModelBackend, ModelInfo, ModelRef, ModelSession,
    ModelSource, Plugin, Record, Result, Retry, ScoreRequest, Side, TokenScores, Usage,
};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const LOAD: &str = "load a recorded side";

/// Settings of [`ReplayBackend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Folder of the record.
    pub record: PathBuf,
}

/// Loads the sides of a record; see the [module](self).
#[derive(Debug)]
pub struct ReplayBackend {
    record: Arc<Record>,
    plan: DuelPlan,
    identity: Identity,
}

impl ReplayBackend {
    /// The sides of `record`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if two backends ran them: one cannot be both.
    pub fn new(record: Arc<Record>) -> Result<Self> {
        let operation = "replay a record";
        let plan = record.plan().clone();
        if plan.king.backend != plan.challenger.backend {
            return Err(Error::new(ErrorKind::Unsupported, operation, "its sides were run by two backends")
                .with_fault(Fault::Operator)
                .with("king", &plan.king.backend.name)
                .with("challenger", &plan.challenger.backend.name));
        }
        let identity = plan.king.backend.clone();
        Ok(Self { record, plan, identity })
    }

    /// The two sides of `record` as contestants, whichever backends ran them: the king's
    /// first.
    ///
    /// # Errors
    /// `cx`.
    pub async fn contestants(record: &Arc<Record>, cx: &CallContext) -> Result<[Contestant; 2]> {
        Ok([
            Self::contestant(record, Side::King, cx).await?,
            Self::contestant(record, Side::Challenger, cx).await?,
        ])
    }

    async fn contestant(record: &Arc<Record>, side: Side, cx: &CallContext) -> Result<Contestant> {
        let plan = record.plan().clone();
        let (identity, source) = match side {
            Side::King => (plan.king.backend.clone(), ModelSource::served("king")),
            Side::Challenger => (plan.challenger.backend.clone(), ModelSource::served("challenger")),
        };
        // Loaded, so that what a side's arithmetic did can be asked of it again.
        let backend: Arc<dyn ModelBackend> = Arc::new(Self { record: Arc::clone(record), plan, identity });
        Contestant::load(side, &backend, &source, cx).await
    }
}

#[async_trait]
impl ModelBackend for ReplayBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn load(&self, model: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let side = side(&model.model)?;
        let info = match side {
            Side::King => &self.plan.king.model,
            Side::Challenger => &self.plan.challenger.model,
        };
        if model.parameters.is_some_and(|pinned| pinned != info.parameters) {
            let message = "the recorded model is not the pinned one";
            return Err(Error::new(ErrorKind::DigestMismatch, LOAD, message)
                .with_fault(Fault::Operator)
                .with("model", &model.model)
                .with("recorded", info.parameters));
        }
        Ok(Arc::new(ReplaySession::new(Arc::clone(&self.record), &self.plan, info.clone(), side)))
    }
}

impl Plugin<dyn ModelBackend> for ReplayBackend {
    const NAME: &'static str = "replay";
    const SUMMARY: &'static str = "replies from a record instead of a model";
    type Config = ReplayConfig;
    type Checked = ReplayConfig;

    fn check(config: ReplayConfig, _: &CheckContext<'_>) -> Result<ReplayConfig> {
        Ok(config)
    }

    fn check_model(_: &ReplayConfig, model: &ModelRef) -> Result<()> {
        side(model).map(drop)
    }

    async fn build(config: ReplayConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self::new(Arc::new(Record::open(&cx.path(&config.record))?))?))
    }
}

albedo_core::register!(dyn ModelBackend => ReplayBackend);

/// The recorded side that `model` names.
fn side(model: &ModelRef) -> Result<Side> {
    match model {
        ModelRef::Served(name) if name == "king" => Ok(Side::King),
        ModelRef::Served(name) if name == "challenger" => Ok(Side::Challenger),
        _ => Err(Error::new(ErrorKind::ConfigInvalid, LOAD, "a record has no such side")
            .with_fault(Fault::Operator)
            .with("model", model)
            .with_hint("write `name = \"king\"` or `name = \"challenger\"`")),
    }
}

/// One side of a record.
#[derive(Debug)]
struct ReplaySession {
    record: Arc<Record>,
    info: ModelInfo,
    /// Replies by conversation and request seed.
    replies: BTreeMap<(Digest, u64), RecordedReply>,
    /// Scores by conversation and recorded reply.
    scores: BTreeMap<(Digest, Digest), TokenScores>,
    /// Prompt tokens of the samples' conversations.
    prompts: BTreeMap<Digest, Option<u32>>,
    /// Those among them that were asked for.
    counted: Mutex<BTreeSet<Digest>>,
    /// Prompt tokens of the draws that were too long, whose conversations are
    /// not recorded: counted in the order in which they are drawn.
    too_long: Vec<Option<u32>>,
    next_too_long: AtomicUsize,
}

impl ReplaySession {
    fn new(record: Arc<Record>, plan: &DuelPlan, info: ModelInfo, side: Side) -> Self {
        let (mut replies, mut scores) = (BTreeMap::new(), BTreeMap::new());
        for sample in record.samples() {
            let Some(&reply) = sample.replies.get(usize::from(side == Side::Challenger)) else { continue };
            let messages = sample.messages.sha256;
            if let RecordedReply::Completed { reference_scores: Some(recorded), .. } = reply {
                scores.insert((messages, sample.reference.sha256), recorded.clone());
            }
            replies.insert((messages, plan.request_seed(sample.sample, side)), reply.clone());
        }
        let (mut prompts, mut too_long, mut tokens) = (BTreeMap::new(), Vec::new(), None);
        for line in &record.lines {
            match line {
                RecordLine::Draw(draw) if draw.outcome == DrawOutcome::TooLong => {
                    too_long.push(draw.prompt_tokens);
                }
                RecordLine::Draw(draw) => tokens = draw.prompt_tokens,
                RecordLine::Sample { messages, .. } => {
                    prompts.insert(messages.sha256, tokens);
                }
                _ => {}
            }
        }
        let (counted, next_too_long) = (Mutex::default(), AtomicUsize::new(0));
        Self { record, info, replies, scores, prompts, counted, too_long, next_too_long }
    }

    fn reply(&self, request: &GenerateRequest) -> Result<Completion> {
        request.response.require_text(OPERATION)?;
        let recorded = &self.record.plan().generation;
        if (request.sampling, request.max_new_tokens) != (recorded.sampling, recorded.max_new_tokens) {
            let message = "the record's replies were generated with other settings";
            return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
                .with("max_new_tokens", recorded.max_new_tokens)
                .with("temperature", recorded.sampling.temperature)
                .with_hint(
                    "write the recorded duel's `generation` into `[duel]`: `albedo record show DIR --json`",
                ));
        }
        let messages = Digest::of_json(&request.messages)?;
        match self.replies.get(&(messages, request.seed)) {
            Some(RecordedReply::Completed {
                text, finish, prompt_tokens, completion_tokens, tokens, ..
            }) => {
                let reply_scores = match &request.score_reply {
                    Some(reply) => Some(self.recorded_scores(messages, reply)?),
                    None => None,
                };
                let usage = Usage {
                    prompt_tokens: *prompt_tokens,
                    completion_tokens: *completion_tokens,
                    price_usd: None,
                };
                let sampled = tokens.as_ref();
                Ok(Completion::new(self.record.text(text)?.to_owned(), *finish, usage)
                    .with_tokens(sampled.map(|tokens| tokens.ids.clone()).unwrap_or_default())
                    .with_logit_gaps(sampled.and_then(|tokens| tokens.logit_gaps.clone()))
                    .with_reply_scores(reply_scores))
            }
            Some(&RecordedReply::Overflowed(overflow)) => Err(Error::overflowed(OPERATION, overflow)),
            Some(&RecordedReply::Missing { kind }) => {
                Err(Error::new(kind, OPERATION, "the model had no reply")
                    .with_fault(Fault::Infrastructure)
                    .with_retry(Retry::Never))
            }
            Some(_) => Err(unknown("the record has a reply of a kind that this build cannot give again")),
            None => Err(unknown("the record has no reply to such a conversation and seed")),
        }
    }

    /// Why a conversation that is drawn is not in the record. `counted` of the record's
    /// conversations were asked for before.
    fn no_conversation(&self, counted: usize) -> Error {
        let samples = self.record.samples().len();
        let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
        // Samples may have one conversation.
        if counted < self.prompts.len() {
            return invalid("the record has no such conversation".into())
                .with_hint("take the recorded duel's `[tasks]`, `seed` and `sampler`");
        }
        invalid(format!("the recorded duel ended after {samples} samples, and this one goes on")).with_hint(
            format!("decide on those: `samples = {samples}`, with `rule = {{ name = \"margin\" }}`"),
        )
    }

    fn recorded_scores(&self, messages: Digest, reply: &str) -> Result<TokenScores> {
        let scores = self.scores.get(&(messages, TextRef::of(reply).sha256)).cloned();
        scores.ok_or_else(|| unknown("the record has no log-probabilities of such a reply"))
    }
}

#[async_trait]
impl ModelSession for ReplaySession {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        let conversation = Digest::of_json(&messages)?;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = self.prompts.get(&conversation) {
            counted.insert(conversation);
            return Ok(*tokens);
        }
        let place = self.next_too_long.fetch_add(1, Ordering::Relaxed);
        self.too_long.get(place).copied().ok_or_else(|| self.no_conversation(counted.len()))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, _: &CallContext) -> BoxStream<'static, Generated> {
        let answer = |(index, request)| Generated { index, result: self.reply(&request) };
        let answers: Vec<_> = requests.into_iter().enumerate().map(answer).collect();
        stream::iter(answers).boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        let score =
            |request: ScoreRequest| self.recorded_scores(Digest::of_json(&request.messages)?, &request.reply);
        requests.into_iter().map(score).collect()
    }
}

const OPERATION: &str = "answer from the record";

fn unknown(message: &str) -> Error {
    Error::new(ErrorKind::NotFound, OPERATION, message)
}

#[cfg(test)]
mod tests;
