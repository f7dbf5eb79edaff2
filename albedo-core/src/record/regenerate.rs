//! Whether a record's replies are the models': some are generated again.

use std::sync::Arc;

use serde::Serialize;

use super::{Record, RecordedReply};
use crate::backend::{
    Completion, GenerateRequest, Message, ModelSession, ModelSessionExt, ScoreRequest, TokenScores,
};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
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
    /// Largest difference between a recorded log-probability of the reference and the
    /// one computed again, in nats; none if the record has none. It is 0 on the same
    /// device model and build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_prob_difference: Option<f64>,
}

/// How a regenerated reply differs from the recorded one. It need not be the
/// record's fault: bits are promised on the same device model and build only.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Difference {
    /// First differing character, from 0.
    pub character: usize,
    /// Where the model's arithmetic overflowed, in the one of both that has no text
    /// for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// First differing token, from 0, if both have their ids or the session can
    /// score. Other tokens may have the same text.
    pub token: Option<usize>,
    /// Log-probability of the regenerated reply's token there minus that of the
    /// recorded one's, in nats. Near 0: two tokens were all but equally likely,
    /// and rounding chose.
    pub log_prob_gap: Option<f64>,
    /// The texts are the same, and the record's finish reason or numbers of tokens are
    /// not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub facts: bool,
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
    require_models(record, sessions, operation)?;
    let mut replies = Vec::new();
    for sample in record.samples() {
        for (side, reply) in Side::BOTH.into_iter().zip(&sample.replies) {
            let recorded = match reply {
                RecordedReply::Completed { .. } => Ok(*reply),
                RecordedReply::Overflowed(overflow) => Err(*overflow),
                RecordedReply::Missing { .. } => continue,
            };
            let place = format!("{seed} {} {side}", sample.sample);
            replies.push((
                Digest::of(place),
                sample.sample,
                side,
                [sample.messages, sample.reference],
                recorded,
            ));
        }
    }
    replies.sort_unstable_by_key(|&(place, ..)| place);
    replies.truncate(count);
    let again = replies.into_iter().map(|(_, sample, side, [messages, reference], recorded)| async move {
        let session = &*sessions[usize::from(side == Side::Challenger)];
        let messages = record.messages(&messages)?;
        let request = GenerateRequest::new(messages.clone(), plan.generation.max_new_tokens)
            .with_sampling(plan.generation.sampling)
            .with_seed(plan.request_seed(sample, side));
        let scored = match recorded {
            Ok(RecordedReply::Completed { reference_scores: Some(scores), .. }) => Some(scores),
            _ => None,
        };
        let reference = scored.map(|_| record.text(&reference)).transpose()?;
        let request = request.with_score_reply(reference.map(Arc::from));
        let regenerated = match session.generate_one(request, cx).await {
            Ok(completion) => Ok(completion),
            Err(error) => Err(error.overflow().ok_or(error)?),
        };
        let mut log_prob_difference = None;
        let difference = match (recorded, regenerated) {
            (Ok(recorded), Ok(regenerated)) => {
                log_prob_difference =
                    scored.zip(regenerated.reply_scores.as_ref()).map(|(old, new)| largest(old, new));
                compare(session, messages, (record, recorded), &regenerated, cx).await?
            }
            (Err(_), Err(_)) => None,
            (Err(overflow), Ok(_)) | (Ok(_), Err(overflow)) => {
                Some(Difference { overflow: Some(overflow), ..Difference::default() })
            }
        };
        Ok(Regenerated { sample, side, difference, log_prob_difference })
    });
    futures::future::try_join_all(again).await
}

/// Checks that `sessions`, the king's first, have the models and the text files of the
/// record's plan.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`], the operator's: the models are here and whole, and are others.
pub(crate) fn require_models(
    record: &Record,
    sessions: &[Arc<dyn ModelSession>; 2],
    operation: &str,
) -> Result<()> {
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
            .with_fault(Fault::Operator)
            .with("side", side)
            .with("recorded", planned.parameters)
            .with("loaded", model.parameters)
            .with_hint("load it with the king's tokenizer, as in the duel"));
        }
    }
    Ok(())
}

/// How a reply differs from the recorded one, if it does: in its text, or where both
/// have them in its tokens.
async fn compare(
    session: &dyn ModelSession,
    messages: Vec<Message>,
    (record, recorded): (&Record, &RecordedReply),
    regenerated: &Completion,
    cx: &CallContext,
) -> Result<Option<Difference>> {
    let RecordedReply::Completed { text, finish, prompt_tokens, completion_tokens, tokens, .. } = recorded
    else {
        return Ok(None);
    };
    let again = regenerated.sampled_tokens();
    let facts = (*finish, *prompt_tokens, *completion_tokens)
        != (regenerated.finish, regenerated.usage.prompt_tokens, regenerated.usage.completion_tokens);
    let recorded = record.text(text)?;
    let token = tokens.as_ref().zip(again.as_ref()).and_then(|(recorded, again)| {
        (recorded.ids != again.ids).then(|| first_difference(recorded.ids.iter(), again.ids.iter()))
    });
    let regenerated = &*regenerated.text;
    let character = first_difference(recorded.chars(), regenerated.chars());
    let mut difference = Difference { character, token, ..Difference::default() };
    if recorded == regenerated {
        difference.facts = facts;
        return Ok((token.is_some() || facts).then_some(difference));
    }
    let request = |reply: &str| ScoreRequest::new(messages.clone(), reply);
    let scores = match session.score(vec![request(recorded), request(regenerated)], cx).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Some(difference)),
        scores => scores?,
    };
    if let [recorded, regenerated] = &scores[..] {
        // Up to the first other token both were scored after the same tokens.
        let token = first_difference(recorded.log_probs.iter(), regenerated.log_probs.iter());
        let at = |scores: &TokenScores| scores.log_probs.get(token).copied().map(f64::from);
        difference.token.get_or_insert(token);
        difference.log_prob_gap = at(regenerated).zip(at(recorded)).map(|(new, old)| new - old);
    }
    Ok(Some(difference))
}

/// The largest difference between log-probabilities of the same tokens; infinite if
/// their numbers differ.
fn largest(recorded: &TokenScores, again: &TokenScores) -> f64 {
    if recorded.log_probs.len() != again.log_probs.len() {
        return f64::INFINITY;
    }
    let pairs = recorded.log_probs.iter().zip(&again.log_probs);
    pairs.map(|(old, new)| f64::from((old - new).abs())).fold(0.0, f64::max)
}

/// Where two sequences part.
fn first_difference<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::ScriptedSession;

    /// A validator that follows another one tells it by its fault from bytes that are damaged.
    #[test]
    fn other_models_than_the_records_are_no_failure_of_infrastructure() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record-3");
        let record = Record::open(&fixture).expect("a record");
        let session = |name: &str| -> Arc<dyn ModelSession> { Arc::new(ScriptedSession::saying(name, "ls")) };
        let sessions = [session("one"), session("another")];
        let error = require_models(&record, &sessions, "compare").expect_err("other models");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Operator), "{error}");
    }
}
