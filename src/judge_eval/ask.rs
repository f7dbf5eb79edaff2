//! Questions to judges: tried again, paid from one budget, and ended by the first error that
//! reaches further than its call.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, stream};

use super::{Evaluation, LabelledPair, OPERATION};
use crate::clock::Clock;
use crate::meter::Meter;
use crate::rng::derive_seed;
use crate::wrappers::{Passes, RetrySettings};
use crate::{
    Assessment, CallContext, Candidate, Comparison, Digest, DuelSecret, Error, ErrorKind, Judge,
    JudgementKey, Message, Order, Preparation, Question, Reach, Result, Usage,
};

/// A judge's answers to a pair.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    /// The order with `a` first coming first; none where it was not asked.
    pub(super) orders: [Option<Answer>; 2],
    /// What every try took that was answered.
    pub(super) spent: Vec<Usage>,
}

/// A judge's answer to a pair in one order.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// None if it failed.
    pub(super) assessment: Option<Assessment>,
    /// Seconds from the last try to its answer.
    pub(super) seconds: f64,
}

impl Answer {
    const FAILED: Self = Self { assessment: None, seconds: 0.0 };
}

impl Answers {
    /// The assessments, the order with `a` first coming first.
    pub(super) fn assessments(&self) -> [Option<&Assessment>; 2] {
        self.orders.each_ref().map(|answer| answer.as_ref().and_then(|answer| answer.assessment.as_ref()))
    }
}

/// The questions of one evaluation.
pub(super) struct Asking<'a> {
    evaluation: &'a Evaluation,
    meter: Meter,
    clock: &'a dyn Clock,
    secret: DuelSecret,
    /// The first error that reaches further than one call: nothing is asked after it.
    stopped: OnceLock<Error>,
    cx: &'a CallContext,
    /// Ends the pauses between tries where the evaluation ends.
    pauses: CallContext,
}

impl<'a> Asking<'a> {
    pub(super) fn new(evaluation: &'a Evaluation, clock: &'a dyn Clock, cx: &'a CallContext) -> Self {
        Self {
            evaluation,
            meter: Meter::named("limits.budget_usd", evaluation.budget_usd),
            clock,
            secret: DuelSecret::new(&evaluation.seed),
            stopped: OnceLock::new(),
            cx,
            pauses: cx.child(),
        }
    }

    /// What ended the evaluation, if something did.
    pub(super) fn stopped(self) -> Option<Error> {
        self.stopped.into_inner()
    }

    /// The answers of `judge` to `pairs`, in their order. Once the evaluation is stopped, questions under way are waited
    /// for, and no other is asked.
    pub(super) async fn about(&self, judge: &dyn Judge, pairs: &[LabelledPair]) -> Vec<Answers> {
        let answers = pairs.iter().enumerate().map(|(place, pair)| async move {
            let mut answers = Answers::default();
            if let Err(error) = self.pair(judge, place as u32, pair, &mut answers).await {
                // Later ones may follow from the first.
                let _ = self.stopped.set(error);
                self.pauses.cancel();
            }
            answers
        });
        stream::iter(answers).buffered(self.evaluation.in_flight.max(1)).collect().await
    }

    /// Whether another question may be asked.
    fn check(&self) -> Result<()> {
        if let Some(error) = self.stopped.get() {
            return Err(error.clone());
        }
        self.meter.check().map_err(|error| match error.kind() {
            ErrorKind::ResourceExhausted => error
                .with_hint("raise `limits.budget_usd`, or give fewer pairs: an evaluation keeps no answers"),
            _ => error,
        })
    }

    /// Asks `judge` about pair number `place` in both orders.
    ///
    /// # Errors
    /// One that reaches further than one call; what was answered before is in `answers`.
    async fn pair(
        &self,
        judge: &dyn Judge,
        place: u32,
        pair: &LabelledPair,
        answers: &mut Answers,
    ) -> Result<()> {
        // The marks of no plan: those of a duel are its own.
        let plan = Digest::of("albedo judge eval");
        let question = Question::Sample(place);
        let messages: Arc<[Message]> = pair.messages.clone().into();
        let reference: Arc<str> = pair.reference.as_str().into();
        let Answers { orders, spent } = answers;
        let mut preparation = None;
        if judge.profile().preparation {
            let fence = self.secret.preparation_fence(plan, question, judge.identity())?;
            let request =
                Preparation { messages: Arc::clone(&messages), reference: Arc::clone(&reference), fence };
            let Some(text) = self.prepared(judge, &request, place, spent).await? else {
                *orders = [Some(Answer::FAILED), Some(Answer::FAILED)];
                return Ok(());
            };
            preparation = Some(text.into());
        }
        let a = Candidate::new(pair.a.as_str(), pair.a_finish);
        let b = Candidate::new(pair.b.as_str(), pair.b_finish);
        for (order, answer) in Order::BOTH.into_iter().zip(orders) {
            let key = JudgementKey { plan, question, judge: judge.identity(), order };
            let (first, second) = if order == Order::KingFirst { (&a, &b) } else { (&b, &a) };
            // An answer that cannot be read is asked for again with the next nonce, as in a duel.
            for number in 1..=self.call_tries() {
                self.check()?;
                if answer.is_none() {
                    *answer = Some(Answer::FAILED);
                }
                let comparison = Comparison::new(
                    Arc::clone(&messages),
                    Arc::clone(&reference),
                    first.clone(),
                    second.clone(),
                )
                .with_preparation(preparation.clone())
                .with_marks(self.secret.marks(&key, number)?);
                let tried = self.tries(place, || judge.compare(&comparison, self.cx)).await?;
                let Some((assessment, seconds)) = tried else { break };
                self.paid(judge, assessment.usage(), spent);
                let is_read = !matches!(assessment, Assessment::Unreadable { .. });
                *answer = Some(Answer { assessment: Some(assessment), seconds });
                if is_read {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What `judge` writes before it sees the replies; none if it cannot.
    async fn prepared(
        &self,
        judge: &dyn Judge,
        request: &Preparation,
        place: u32,
        spent: &mut Vec<Usage>,
    ) -> Result<Option<String>> {
        for _ in 0..self.call_tries() {
            self.check()?;
            let tried = self.tries(place, || judge.prepare(request, self.cx)).await?;
            let Some((prepared, _)) = tried else { break };
            self.paid(judge, prepared.usage(), spent);
            if let Ok(text) = prepared.written() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn call_tries(&self) -> u32 {
        self.evaluation.call_tries.max(1)
    }

    fn paid(&self, judge: &dyn Judge, usage: Option<Usage>, spent: &mut Vec<Usage>) {
        self.meter.count(&judge.identity().name, usage);
        spent.extend(usage);
    }

    /// Calls until there is an answer, with the seconds that the last try took; none where another try makes no sense.
    ///
    /// # Errors
    /// One that reaches further than one call.
    async fn tries<T, F: Future<Output = Result<T>>>(
        &self,
        place: u32,
        attempt: impl Fn() -> F,
    ) -> Result<Option<(T, f64)>> {
        let settings = RetrySettings { attempts: self.call_tries(), ..RetrySettings::default() };
        let mut passes = Passes::new(&settings, self.clock);
        let spread = || derive_seed("retry of an evaluation's call", &[&place.to_le_bytes()]);
        loop {
            let begun = self.clock.now();
            let error = match attempt().await {
                Ok(answer) => {
                    let seconds = self.clock.now().saturating_sub(begun).as_secs_f64();
                    return Ok(Some((answer, seconds)));
                }
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Cancelled || error.reach() >= Reach::Duel {
                return Err(error);
            }
            match self.pauses.run(OPERATION, passes.wait(error, spread)).await? {
                Ok(()) => self.check()?,
                Err(_) => return Ok(None),
            }
        }
    }
}
