//! Calls to models and judges: tried again, paid from one budget, and in the
//! journal before they are used.

use std::sync::Arc;

use futures::TryFutureExt;
use tracing::Instrument;

use super::answer::JudgedAnswer;
use super::budget::Budget;
use super::stored::{FailedCalls, StoredAnswer, StoredCanary};
use crate::backend::{FinishReason, Message, Usage};
use crate::canary::{CanaryDraw, Series};
use crate::clock::SystemClock;
use crate::context::CallContext;
use crate::digest::{Digest, canonical_json};
use crate::error::{Error, ErrorKind, Reach, Result, Retry};
use crate::events::{EventKind, Journal};
use crate::judge::{Assessment, Candidate, Comparison, Judge, Preparation};
use crate::marks::{DuelSecret, JudgementKey, Marks, Question};
use crate::order::Order;
use crate::plan::JudgePlan;
use crate::record::{Call, JournalEvent};
use crate::retry::{Passes, RetrySettings};
use crate::rng::derive_seed;
use crate::sample::Sample;

/// What all calls of a duel, or of its preflight, have in common.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) journal: Journal<'a>,
    pub(super) budget: &'a Budget,
    /// Tries of a call, and answers to a question that cannot be parsed.
    pub(super) call_tries: u32,
    pub(super) secret: DuelSecret,
    /// What marks are made for: the plan's digest, or the preflight's key.
    pub(super) key: Digest,
    /// Which canaries are asked.
    pub(super) series: Series,
    /// Calls that are not made again, because they had failed when the duel was decided.
    pub(super) failed: Option<&'a FailedCalls>,
}

/// A judge, and its place on the panel (in a preflight: in the settings).
#[derive(Clone, Copy)]
pub(super) struct Panelist<'a> {
    pub(super) judge: &'a dyn Judge,
    pub(super) plan: &'a JudgePlan,
    pub(super) place: u32,
}

/// What a judge is asked, and the sample that it is or stands before.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) question: Question,
    /// None before the plan is frozen.
    pub(super) sample: Option<u32>,
}

/// What came of a call; an error once it has failed for good, and the duel goes on
/// without its answer.
pub(super) type Tried<T> = std::result::Result<T, Error>;

/// The tries of a call so far.
#[derive(Debug, Default)]
pub(super) struct Tries {
    made: u32,
    /// Those that failed, or gave what cannot be used. Being asked to slow down is not counted.
    failures: u32,
}

impl Asking<'_> {
    /// The answer to a question. One that cannot be parsed is journalled too, and
    /// the question asked again with the next nonce, as often as the limits allow.
    pub(super) async fn answer(
        &self,
        Asked { question, sample }: Asked,
        panelist: Panelist<'_>,
        order: Order,
        comparison: impl Fn(Marks) -> Comparison,
        mut stored: StoredAnswer,
    ) -> Result<JudgedAnswer> {
        let Panelist { judge: asked, plan, place: judge } = panelist;
        let key = JudgementKey { plan: self.key, question, judge: &plan.identity, order };
        let call = match question {
            Question::Sample(_) => Call::Assessment { judge, order },
            Question::Canary(canary) => Call::Canary { canary, judge, order },
            Question::Probe(_, probe) => Call::Probe { probe, judge, order },
            Question::Twin(_, side) => Call::Twin { side, judge, order },
        };
        loop {
            if let Some(assessment) = stored.standing(self.call_tries) {
                return Ok(JudgedAnswer::standing(stored.asked(), assessment.clone()));
            }
            let paying = self.budget.enter().await?;
            let comparison = comparison(self.secret.marks(&key, stored.asked() + 1)?);
            let attempt = || compare(asked, plan, &comparison, self.journal.cx);
            let (call_try, assessment) =
                match self.tries(sample, call, &mut Tries::default(), attempt).await? {
                    Ok(answered) => answered,
                    Err(error) => return Ok(JudgedAnswer::failed(error)),
                };
            let paid = paying.paid(&plan.identity.name, assessment.usage());
            stored.add(assessment.clone());
            let event = match question {
                Question::Sample(sample) => {
                    JournalEvent::Assessed { sample, judge, order, call_try, assessment }
                }
                Question::Canary(canary) => {
                    let series = self.series;
                    JournalEvent::CanaryAssessed { series, canary, judge, order, call_try, assessment }
                }
                Question::Probe(sample, probe) => {
                    JournalEvent::Probed { sample, probe, judge, order, call_try, assessment }
                }
                Question::Twin(sample, side) => {
                    JournalEvent::Twinned { sample, side, judge, order, call_try, assessment }
                }
            };
            self.journal.write(event, vec![]).await?;
            self.spent(paid);
        }
    }

    /// What a judge writes before it sees the replies, journalled, if it needs
    /// anything. What cannot be used is paid and journalled too, and asked for again: it counts
    /// among the tries that the limits allow.
    pub(super) async fn preparation(
        &self,
        Asked { question, sample }: Asked,
        Panelist { judge: asked, plan, place: judge }: Panelist<'_>,
        messages: &Arc<[Message]>,
        reference: &Arc<str>,
        stored: Option<String>,
    ) -> Result<Tried<Option<String>>> {
        if !asked.profile().preparation || stored.is_some() {
            return Ok(Ok(stored));
        }
        let request = Preparation {
            messages: Arc::clone(messages),
            reference: Arc::clone(reference),
            fence: self.secret.preparation_fence(self.key, question, &plan.identity)?,
        };
        let call = Call::Preparation { judge };
        let named = |error: Error| error.with("judge", &plan.identity.name);
        let mut tries = Tries::default();
        loop {
            let paying = self.budget.enter().await?;
            let attempt = || asked.prepare(&request, self.journal.cx).map_err(named);
            let (call_try, prepared) = match self.tries(sample, call, &mut tries, attempt).await? {
                Ok(prepared) => prepared,
                Err(error) => return Ok(Err(error)),
            };
            let usage = prepared.usage();
            let paid = paying.paid(&plan.identity.name, usage);
            let error = match prepared.written() {
                Ok(written) => {
                    let text = written.clone();
                    let event = match question {
                        Question::Sample(sample) | Question::Probe(sample, _) | Question::Twin(sample, _) => {
                            JournalEvent::Prepared { sample, judge, call_try, text, usage }
                        }
                        Question::Canary(canary) => {
                            let series = self.series;
                            JournalEvent::CanaryPrepared { series, canary, judge, call_try, text, usage }
                        }
                    };
                    self.journal.write(event, vec![]).await?;
                    self.spent(paid);
                    return Ok(Ok(Some(written)));
                }
                Err(error) => named(error),
            };
            self.failure(sample, call, call_try, &error, usage).await?;
            self.spent(paid);
            tries.failures += 1;
            if tries.failures >= self.call_tries {
                let exhausted = Retry::Exhausted { attempts: tries.made };
                return Ok(Err(error.with_retry(exhausted).with("tries", tries.made)));
            }
        }
    }

    /// What a judge answers to canary `draw`, made from `known`, in the order
    /// [better reply shown first, worse reply shown first].
    pub(super) async fn canary(
        &self,
        draw: &CanaryDraw,
        known: &Sample,
        panelist: Panelist<'_>,
        sample: Option<u32>,
        StoredCanary { preparation, answers: [better_first, worse_first] }: StoredCanary,
    ) -> Result<[JudgedAnswer; 2]> {
        let asked = Asked { question: Question::Canary(draw.canary), sample };
        let prepared =
            self.preparation(asked, panelist, &known.messages, &known.reference, preparation).await?;
        let preparation = match prepared {
            Ok(preparation) => preparation.map(Arc::from),
            Err(error) => return Ok([JudgedAnswer::failed(error.clone()), JudgedAnswer::failed(error)]),
        };
        let [better, worse] =
            &draw.kind.pair(&known.reference).map(|text| Candidate::new(text, FinishReason::Stop));
        let comparison = |first: &Candidate, second: &Candidate, marks| {
            Comparison::new(known.messages.clone(), known.reference.clone(), first.clone(), second.clone())
                .with_preparation(preparation.clone())
                .with_marks(marks)
        };
        let better_is_first = |marks| comparison(better, worse, marks);
        let worse_is_first = |marks| comparison(worse, better, marks);
        self.both(
            asked,
            panelist,
            self.answer(asked, panelist, Order::KingFirst, better_is_first, better_first),
            self.answer(asked, panelist, Order::ChallengerFirst, worse_is_first, worse_first),
        )
        .await
    }

    /// The answers in both orders, the king-first order first. Which one is asked
    /// first the judge cannot know.
    pub(super) async fn both(
        &self,
        asked: Asked,
        panelist: Panelist<'_>,
        king_first: impl Future<Output = Result<JudgedAnswer>>,
        challenger_first: impl Future<Output = Result<JudgedAnswer>>,
    ) -> Result<[JudgedAnswer; 2]> {
        // The macro polls its first future first.
        match self.secret.asked_first(self.key, asked.question, &panelist.plan.identity)? {
            Order::KingFirst => {
                let (king_first, challenger_first) = futures::try_join!(king_first, challenger_first)?;
                Ok([king_first, challenger_first])
            }
            Order::ChallengerFirst => {
                let (challenger_first, king_first) = futures::try_join!(challenger_first, king_first)?;
                Ok([king_first, challenger_first])
            }
        }
    }

    /// Journals that try `call_try` of `call` failed with `error`, and what it cost all the
    /// same.
    async fn failure(
        &self,
        sample: Option<u32>,
        call: Call,
        call_try: u32,
        error: &Error,
        usage: Option<Usage>,
    ) -> Result<()> {
        let (kind, fault, message) = (error.kind(), error.fault(), error.to_string());
        let event = JournalEvent::Failed { sample, call, call_try, kind, fault, message, usage };
        self.journal.write(event, vec![]).await
    }

    /// Emits what is spent by now: sums of answers that were journalled at the same
    /// time would come out of order.
    fn spent(&self, paid: bool) {
        if paid {
            self.journal.cx.emit(EventKind::Spent { usd: self.budget.spent_usd() });
        }
    }

    /// Calls until there is an answer, with the number of the try that gave it, or
    /// until another try makes no sense after those of `tries`. A call that had failed when the
    /// duel was decided fails at once.
    ///
    /// # Errors
    /// One that reaches the duel, and cancellation.
    pub(super) async fn tries<T, F: Future<Output = Result<T>>>(
        &self,
        sample: Option<u32>,
        call: Call,
        tries: &mut Tries,
        attempt: impl Fn() -> F,
    ) -> Result<Tried<(u32, T)>> {
        let failed = self.failed.zip(sample).and_then(|(failed, sample)| failed.get(&(sample, call)));
        if let Some(&kind) = failed {
            let message = "the call had failed when the duel was decided";
            return Ok(Err(Error::new(kind, "make the record again", message)));
        }
        let attempts = self.call_tries.saturating_sub(tries.failures);
        let settings = RetrySettings { attempts, ..RetrySettings::default() };
        let clock = SystemClock::default();
        let mut passes = Passes::new(&settings, &clock);
        loop {
            tries.made += 1;
            let call_try = tries.made;
            let span = tracing::debug_span!("call", ?call, call_try);
            let error = match attempt().instrument(span).await {
                Ok(answer) => return Ok(Ok((call_try, answer))),
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Cancelled {
                return Err(error);
            }
            self.failure(sample, call, call_try, &error, None).await?;
            tries.failures += u32::from(error.kind() != ErrorKind::RateLimited);
            if error.reach() >= Reach::Duel {
                return Err(match sample {
                    Some(sample) => error.with("sample", sample),
                    None => error,
                });
            }
            let place = canonical_json(&(sample, call))?;
            let spread = || derive_seed("retry of a duel's call", &[self.key.as_bytes(), &place]);
            if let Err(error) =
                self.journal.cx.run("wait before the next try", passes.wait(error, spread)).await?
            {
                return Ok(Err(error));
            }
        }
    }
}

/// `judge`'s answer, which has a score for exactly its planned metrics.
async fn compare(
    judge: &dyn Judge,
    plan: &JudgePlan,
    comparison: &Comparison,
    cx: &CallContext,
) -> Result<Assessment> {
    let named = |error: Error| error.with("judge", &plan.identity.name);
    let assessment = judge.compare(comparison, cx).await.map_err(named)?;
    match &assessment {
        Assessment::Scored { scores, .. } if !scores.keys().eq(&plan.metrics) => {
            let why = "the judge scored other metrics than its own";
            Err(named(Error::new(ErrorKind::Protocol, "compare the replies", why)))
        }
        _ => Ok(assessment),
    }
}
