//! One side's reply to a sample: asked for, repeated where its arithmetic
//! overflowed, journalled, or taken from the journal.

use std::sync::Arc;

use super::ask::Tries;
use super::contestant::Contestant;
use super::sample::SampleRun;
use super::stored::StoredReply;
use crate::backend::{Completion, GenerateRequest};
use crate::context::CallContext;
use crate::error::{Result, Side};
use crate::judge::Candidate;
use crate::overflow::Overflow;
use crate::record::{Call, JournalEvent, RecordedReply, TextRef};
use crate::sample::Sample;

/// A side's reply as the record keeps it, and its text.
pub(super) struct Reply {
    pub(super) recorded: RecordedReply,
    /// Empty if there is none.
    pub(super) text: Arc<str>,
}

impl Reply {
    fn none(recorded: RecordedReply) -> Self {
        Self { recorded, text: "".into() }
    }

    /// What judges see of it; none if there is no text.
    pub(super) fn candidate(&self) -> Option<Candidate> {
        match &self.recorded {
            RecordedReply::Completed { finish, reference_scores, .. } => Some(
                Candidate::new(Arc::clone(&self.text), *finish)
                    .with_reference_scores(reference_scores.clone()),
            ),
            _ => None,
        }
    }
}

/// What asking a contestant came to.
enum Asked {
    Completed {
        completion: Completion,
        /// An overflow that the model did not repeat once it was loaded afresh: a failure
        /// of the machine, not of the model.
        not_repeated: Option<Overflow>,
    },
    /// The model overflowed again: its own.
    Overflowed(Overflow),
}

impl SampleRun<'_> {
    /// `side`'s reply to `sample`, journalled.
    pub(super) async fn reply(
        &self,
        sample: &Sample,
        side: Side,
        stored: Option<StoredReply>,
    ) -> Result<Reply> {
        match stored {
            Some(StoredReply::Completed { text, finish, usage, tokens, reference_scores }) => {
                let recorded = RecordedReply::Completed {
                    text,
                    finish,
                    prompt_tokens: usage.prompt_tokens,
                    completion_tokens: usage.completion_tokens,
                    tokens,
                    reference_scores,
                };
                return Ok(Reply { recorded, text: self.asking.journal.store.text(&text).await?.into() });
            }
            Some(StoredReply::Overflowed(overflow)) => {
                return Ok(Reply::none(RecordedReply::Overflowed(overflow)));
            }
            None => {}
        }
        let contestant = self.duel.contestant(side);
        let request = self.request(sample, side);
        let call = || ask(contestant, request.clone(), self.asking.journal.cx);
        let tries = &mut Tries::default();
        let tried = self.asking.tries(Some(sample.index), Call::Reply(side), tries, call).await?;
        match tried {
            Ok((call_try, Asked::Completed { completion, not_repeated })) => {
                if let Some(overflow) = not_repeated {
                    self.overflowed(sample.index, side, overflow, false).await?;
                }
                let reply = self.completed(sample.index, side, call_try, completion).await?;
                contestant.kept(&request);
                Ok(reply)
            }
            Ok((_, Asked::Overflowed(overflow))) => {
                self.overflowed(sample.index, side, overflow, true).await?;
                Ok(Reply::none(RecordedReply::Overflowed(overflow)))
            }
            Err(error) => Ok(Reply::none(RecordedReply::Missing { kind: error.kind() })),
        }
    }

    fn request(&self, sample: &Sample, side: Side) -> GenerateRequest {
        let plan = &self.duel.plan;
        let needs_scores = self.duel.judges.iter().any(|judge| judge.profile().reference_scores);
        GenerateRequest::new(Arc::clone(&sample.messages), plan.generation.max_new_tokens)
            .with_sampling(plan.generation.sampling)
            .with_seed(plan.request_seed(sample.index, side))
            .with_score_reply(needs_scores.then(|| Arc::clone(&sample.reference)))
    }

    async fn completed(
        &self,
        sample: u32,
        side: Side,
        call_try: u32,
        completion: Completion,
    ) -> Result<Reply> {
        let tokens = completion.sampled_tokens();
        let Completion { text, finish, usage, reply_scores, .. } = completion;
        let named = TextRef::of(&text);
        let event = JournalEvent::Replied {
            sample,
            side,
            call_try,
            text: named,
            finish,
            usage,
            tokens: tokens.clone(),
            reference_scores: reply_scores.clone(),
        };
        self.asking.journal.write(event, vec![text.clone()]).await?;
        let recorded = RecordedReply::Completed {
            text: named,
            finish,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            tokens,
            reference_scores: reply_scores,
        };
        Ok(Reply { recorded, text: text.into() })
    }

    async fn overflowed(&self, sample: u32, side: Side, overflow: Overflow, repeated: bool) -> Result<()> {
        let event = JournalEvent::Overflowed { sample, side, overflow, repeated };
        self.asking.journal.write(event, vec![]).await
    }
}

/// Asks `contestant`. Where its arithmetic overflows, loads the model afresh and asks it
/// once more, alone: an overflow that repeats is the model's, any other the machine's.
///
/// # Errors
/// What kept it from an answer. An overflow of a model that cannot be loaded afresh is
/// one too: then nothing tells whether the model or the machine caused it.
async fn ask(contestant: &Contestant, request: GenerateRequest, cx: &CallContext) -> Result<Asked> {
    let error = match contestant.generate(request.clone(), cx).await {
        Ok(completion) => return Ok(Asked::Completed { completion, not_repeated: None }),
        Err(error) => error,
    };
    let Some(first) = error.overflow() else { return Err(error) };
    let again = match contestant.generate_afresh(request, cx).await {
        None => return Err(error),
        Some(Ok(completion)) => return Ok(Asked::Completed { completion, not_repeated: Some(first) }),
        Some(Err(again)) => again,
    };
    again.overflow().map(Asked::Overflowed).ok_or(again)
}
