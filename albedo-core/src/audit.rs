//! Audits: whether recorded replies are the model's, on any device, by one
//! teacher-forced pass per reply (after Token-DiFR, arXiv 2511.20621).
//!
//! A token was chosen by a number that follows from the plan's seed. The auditor
//! computes his own distribution at the token's place and asks whether that number
//! falls where the token lies in it. Devices round differently, so he allows each
//! logit to have moved by δ ([`token_interval`]); what is left is the distance of the
//! number from the token's interval ([`token_score`]). Honest replies have hardly any;
//! another model, other weights, another temperature or seed, an edited reply do.
//!
//! Two statistics are compared with what honest replies had ([`Calibration`]): the mean
//! score per token, and the largest sum of scores of one reply. `docs/audit.md` has
//! the numbers that were measured.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::backend::{LogitsReader, LogitsRequest, Message, ModelSession, Sampling};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::record::{Record, RecordedReply, require_models};
use crate::rng::{Stream, Use};

mod calibration;
mod interval;

pub use calibration::{Alternative, Calibration, LEVEL, Thresholds};
pub use interval::{Interval, token_interval, token_score};

/// A reply as statistics see it: how many tokens it has, and the sum of their scores.
pub type Reply = (u32, f64);

/// A reply whose tokens are known, as it may be audited.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditedReply {
    /// The conversation.
    pub messages: Arc<[Message]>,
    /// The ids as they were sampled, the one that ended the reply included.
    pub tokens: Arc<[u32]>,
    /// How they were chosen.
    pub sampling: Sampling,
    /// Seed of the reply's random stream.
    pub seed: u64,
}

/// A reply's tokens as the auditor's model sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredReply {
    /// The text of the tokens.
    pub text: String,
    /// The score of each token.
    pub scores: Vec<f64>,
}

impl ScoredReply {
    /// What statistics see of it.
    pub fn reply(&self) -> Reply {
        (self.scores.len() as u32, self.scores.iter().sum())
    }
}

/// Scores the tokens of `reply` by `session`'s own distribution, allowing each logit
/// to have moved by `delta`; no score is above `clip`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the session cannot show logits; what it meets.
pub async fn score_reply(
    session: &dyn ModelSession,
    reply: &AuditedReply,
    [delta, clip]: [f64; 2],
    cx: &CallContext,
) -> Result<ScoredReply> {
    let scorer = Arc::new(Scorer {
        reply: reply.clone(),
        stream: Stream::new(reply.seed, Use::Token),
        delta,
        clip,
        scores: Mutex::new(vec![None; reply.tokens.len()]),
    });
    let (messages, tokens) = (Arc::clone(&reply.messages), Arc::clone(&reply.tokens));
    let request = LogitsRequest::new(messages, tokens, Arc::<Scorer>::clone(&scorer));
    let mut texts = session.read_logits(vec![request], cx).await?;
    let scores = scorer.scores.lock().unwrap_or_else(PoisonError::into_inner);
    let scores = scores.iter().copied().collect::<Option<Vec<f64>>>();
    match (texts.pop(), scores) {
        (Some(text), Some(scores)) => Ok(ScoredReply { text, scores }),
        _ => Err(Error::bug(OPERATION, "the session did not show every token's logits")),
    }
}

/// Takes each token's score of its logits as they pass by.
#[derive(Debug)]
struct Scorer {
    reply: AuditedReply,
    stream: Stream,
    delta: f64,
    clip: f64,
    scores: Mutex<Vec<Option<f64>>>,
}

impl LogitsReader for Scorer {
    fn read(&self, token: usize, logits: &[f32]) {
        let AuditedReply { tokens, sampling, .. } = &self.reply;
        let unit = self.stream.unit_at(token as u64);
        let score =
            tokens.get(token).map(|&id| token_score(logits, id, sampling, unit, self.delta, self.clip));
        if let Some(place) = self.scores.lock().unwrap_or_else(PoisonError::into_inner).get_mut(token) {
            *place = score;
        }
    }
}

const OPERATION: &str = "audit the replies";

/// Audits `count` of the record's replies (all, if it has fewer) by `sessions`, the
/// king's first. `seed` chooses which, so that the author of the record cannot know
/// them.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`] if a session has another model, tokenizer, template or
/// stop ids than the plan; the operator's if the record has no reply to audit, or the
/// calibration is not for its sampling; what a session meets.
pub async fn audit(
    record: &Record,
    sessions: &[Arc<dyn ModelSession>; 2],
    count: usize,
    seed: u64,
    calibration: &Calibration,
    cx: &CallContext,
) -> Result<AuditReport> {
    require_models(record, sessions, OPERATION)?;
    let plan = record.plan();
    let sampling = plan.generation.sampling;
    if calibration.greedy != (sampling.temperature == 0.0) {
        let message = "the calibration is for another way of sampling: one is greedy, the other is not";
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
            .with_fault(Fault::Operator)
            .with("temperature", sampling.temperature)
            .with_hint("make a calibration with the example `audit_calibrate`"));
    }
    let (mut replies, mut without_tokens) = (Vec::new(), 0);
    for sample in record.samples() {
        for (side, reply) in Side::BOTH.into_iter().zip(&sample.replies) {
            let RecordedReply::Completed { text, tokens, .. } = reply else { continue };
            let Some(tokens) = tokens else {
                without_tokens += 1;
                continue;
            };
            let audited = AuditedReply {
                messages: record.messages(&sample.messages)?.into(),
                tokens: tokens.ids.clone().into(),
                sampling,
                seed: plan.request_seed(sample.sample, side),
            };
            let place = Digest::of(format!("{seed} {} {side}", sample.sample));
            replies.push((place, (sample.sample, side), record.text(text)?, audited));
        }
    }
    replies.sort_unstable_by_key(|&(place, ..)| place);
    replies.truncate(count);
    let scored = replies.iter().map(|(_, of, text, reply)| async move {
        let session = &*sessions[usize::from(of.1 == Side::Challenger)];
        let scores = score_reply(session, reply, [calibration.delta, calibration.clip], cx).await?;
        Ok((*of, scores.reply(), scores.text != **text))
    });
    let scored: Vec<((u32, Side), Reply, bool)> = futures::future::try_join_all(scored).await?;
    let other_text = scored.iter().filter(|(.., differs)| *differs).map(|(of, ..)| *of).collect();
    let scores: Vec<_> = scored.into_iter().map(|(of, reply, _)| (of, reply)).collect();
    let mut report = AuditReport::new(&scores, calibration)?;
    report.without_tokens = without_tokens;
    report.alarm |= !Vec::is_empty(&other_text);
    report.other_text = other_text;
    Ok(report)
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditReport {
    /// Replies audited.
    pub replies: u32,
    /// Their tokens.
    pub tokens: u64,
    /// Replies of the record whose tokens are not known: nothing is said about them.
    pub without_tokens: u32,
    /// The chance that an audit of honest replies alarms.
    pub level: f64,
    /// By how much each logit may have moved.
    pub delta: f64,
    /// The highest score of a token.
    pub clip: f64,
    /// Which pair of devices the calibration is of: where replies were written, and
    /// where they were audited.
    pub calibrated: [String; 2],
    /// The mean score per token, and the largest sum of scores of one reply.
    pub statistics: Statistics,
    /// What honest audits of as many replies stay at or below.
    pub thresholds: Thresholds,
    /// The sample and the side that the largest sum is of, unless it is 0.
    pub worst_reply: Option<(u32, Side)>,
    /// Replies whose text is not that of their tokens.
    pub other_text: Vec<(u32, Side)>,
    /// Whether the replies are not the models', at this level.
    pub alarm: bool,
    /// How likely an audit of as many replies finds what the calibration tried.
    pub power: Vec<Power>,
}

/// How likely an audit finds one kind of dishonest replies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Power {
    /// What was done to the replies.
    pub name: String,
    /// The share of audits that alarmed.
    pub found: f64,
}

impl AuditReport {
    /// What the scores of `replies` say, by `calibration`.
    ///
    /// # Errors
    /// The operator's: there is no reply to audit.
    pub fn new(replies: &[((u32, Side), Reply)], calibration: &Calibration) -> Result<Self> {
        let tokens: u64 = replies.iter().map(|(_, (tokens, _))| u64::from(*tokens)).sum();
        if tokens == 0 {
            let message = "there is no reply whose tokens are known";
            return Err(Error::new(ErrorKind::NotFound, OPERATION, message)
                .with_fault(Fault::Operator)
                .with_hint("records have tokens from format 3 on, where the backend tells them"));
        }
        let statistics = Statistics::of(replies.iter().map(|(_, reply)| *reply));
        let thresholds = calibration.thresholds(replies.len());
        let worst = replies.iter().find(|(_, (_, sum))| *sum > 0.0 && *sum >= statistics.worst);
        let power = calibration.alternatives.iter().map(|alternative| Power {
            name: alternative.name.clone(),
            found: calibration.power(alternative, replies.len(), &thresholds),
        });
        Ok(Self {
            replies: replies.len() as u32,
            tokens,
            without_tokens: 0,
            level: LEVEL,
            delta: calibration.delta,
            clip: calibration.clip,
            calibrated: [calibration.generator.clone(), calibration.auditor.clone()],
            statistics,
            worst_reply: worst.map(|(of, _)| *of),
            other_text: Vec::new(),
            alarm: thresholds.alarm(statistics),
            thresholds,
            power: power.collect(),
        })
    }
}

/// Both statistics of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    /// The mean score per token.
    pub mean: f64,
    /// The largest sum of scores of one reply.
    pub worst: f64,
}

impl Statistics {
    /// Those of some replies.
    pub fn of(replies: impl IntoIterator<Item = Reply>) -> Self {
        let (mut all, mut tokens, mut worst) = (0.0, 0_u64, 0.0_f64);
        for (count, sum) in replies {
            all += sum;
            tokens += u64::from(count);
            worst = worst.max(sum);
        }
        Self { mean: all / tokens.max(1) as f64, worst }
    }
}
