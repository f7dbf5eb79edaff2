//! Whether a record's replies are the models': some are generated again.

use std::sync::Arc;

use serde::Serialize;

use super::{Record, RecordedReply};
use crate::backend::{GenerateRequest, Message, ModelSession, ModelSessionExt, ScoreRequest};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::overflow::Overflow;

/// A reply that was generated again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Regenerated {
    /// The sample.
    pub sample: u32,
    /// Whose reply.
    pub side: Side,
    /// How it differs from the recorded one; none if it was reproduced.
    pub difference: Option<Difference>,
}

/// How a regenerated reply differs from the recorded one. It need not be the
/// record's fault: bits are promised on the same device model and build only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// First differing character, from 0.
    pub character: usize,
    /// Where the model's arithmetic overflowed, in the one of both that has no text
    /// for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// First differing token, from 0, if the session can score.
    pub token: Option<usize>,
    /// Log-probability of the regenerated reply's token there minus that of the
    /// recorded one's, in nats. Near 0: two tokens were all but equally likely,
    /// and rounding chose.
    pub log_prob_gap: Option<f64>,
}

/// Generates `count` of the record's replies again (all, if it has fewer) with
/// `sessions`, the king's first. `seed` chooses which, so that the author of the
/// record cannot know them.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`] if a session has another model, tokenizer,
/// template or stop ids than the plan; what a session meets.
pub async fn regenerate(
    record: &Record,
    sessions: &[Arc<dyn ModelSession>; 2],
    count: usize,
    seed: u64,
    cx: &CallContext,
) -> Result<Vec<Regenerated>> {
    let operation = "regenerate replies";
    let plan = record.plan();
    for ((side, session), planned) in
        Side::BOTH.into_iter().zip(sessions).zip([&plan.king.model, &plan.challenger.model])
    {
        let model = session.model();
        if (model.parameters, model.tokenizer, model.chat_template, &model.stop_ids)
            != (planned.parameters, planned.tokenizer, planned.chat_template, &planned.stop_ids)
        {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                operation,
                "the loaded model is not the recorded one",
            )
            .with("side", side)
            .with("recorded", planned.parameters)
            .with("loaded", model.parameters)
            .with_hint("load it with the king's tokenizer, as in the duel"));
        }
    }
    let mut replies = Vec::new();
    for sample in record.samples() {
        for (side, reply) in Side::BOTH.into_iter().zip(&sample.replies) {
            let recorded = match reply {
                RecordedReply::Completed { text, .. } => Ok(*text),
                RecordedReply::Overflowed(overflow) => Err(*overflow),
                RecordedReply::Missing { .. } => continue,
            };
            let place = format!("{seed} {} {side}", sample.sample);
            replies.push((Digest::of(place), sample.sample, side, sample.messages, recorded));
        }
    }
    replies.sort_unstable_by_key(|&(place, ..)| place);
    replies.truncate(count);
    let again = replies.into_iter().map(|(_, sample, side, messages, recorded)| async move {
        let session = &*sessions[usize::from(side == Side::Challenger)];
        let messages = record.messages(&messages)?;
        let request = GenerateRequest::new(messages.clone(), plan.generation.max_new_tokens)
            .with_sampling(plan.generation.sampling)
            .with_seed(plan.request_seed(sample, side));
        let regenerated = match session.generate_one(request, cx).await {
            Ok(completion) => Ok(completion.text),
            Err(error) => Err(error.overflow().ok_or(error)?),
        };
        let difference = match (recorded, regenerated) {
            (Ok(recorded), Ok(regenerated)) => {
                let recorded = record.text(&recorded)?;
                if recorded == regenerated {
                    None
                } else {
                    Some(compare(session, messages, recorded, &regenerated, cx).await?)
                }
            }
            (Err(_), Err(_)) => None,
            (Err(overflow), Ok(_)) | (Ok(_), Err(overflow)) => {
                Some(Difference { character: 0, overflow: Some(overflow), token: None, log_prob_gap: None })
            }
        };
        Ok(Regenerated { sample, side, difference })
    });
    futures::future::try_join_all(again).await
}

async fn compare(
    session: &dyn ModelSession,
    messages: Vec<Message>,
    recorded: &str,
    regenerated: &str,
    cx: &CallContext,
) -> Result<Difference> {
    let mut difference = Difference {
        character: first_difference(recorded.chars(), regenerated.chars()),
        overflow: None,
        token: None,
        log_prob_gap: None,
    };
    let request = |reply: &str| ScoreRequest::new(messages.clone(), reply);
    let scores = match session.score(vec![request(recorded), request(regenerated)], cx).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(difference),
        scores => scores?,
    };
    if let [recorded, regenerated] = &scores[..] {
        // Up to the first other token both were scored after the same tokens.
        let token = first_difference(recorded.log_probs.iter(), regenerated.log_probs.iter());
        let at = |scores: &crate::backend::TokenScores| scores.log_probs.get(token).copied().map(f64::from);
        difference.token = Some(token);
        difference.log_prob_gap = at(regenerated).zip(at(recorded)).map(|(new, old)| new - old);
    }
    Ok(difference)
}

/// Where two sequences part.
fn first_difference<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}
