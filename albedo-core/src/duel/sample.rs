//! One sample's way through the duel: both replies, then every judge in both
//! orders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;

use super::stored::{StoredAnswer, StoredReply, StoredSample};
use super::{Duel, DuelEvent, Observer};
use crate::backend::{Completion, FinishReason, GenerateRequest, ModelSession, ResponseFormat};
use crate::canary::{CanaryDraw, Series, VoidJudges};
use crate::context::CallContext;
use crate::digest::canonical_json;
use crate::draw::{RowDraw, Sample};
use crate::error::{Error, ErrorKind, Fault, Result, Retry, Side};
use crate::judge::{Assessment, Candidate, Comparison, Judge, Preparation};
use crate::marks::{DuelSecret, JudgementKey, Marks, Question};
use crate::panel::{Cell, Cluster, Order};
use crate::plan::{DuelPlan, JudgePlan};
use crate::record::{
    Call, JournalEvent, RecordBuilder, RecordLine, RecordStore, RecordedAnswer, RecordedReply, TextRef,
};

/// Pause before the second try of a failed call; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(250);

/// What a sample needs of the duel around it.
#[derive(Clone, Copy)]
pub(super) struct SampleRun<'a> {
    pub(super) duel: &'a Duel,
    pub(super) store: &'a dyn RecordStore,
    pub(super) observer: &'a dyn Observer,
    pub(super) cx: &'a CallContext,
    /// The judges that have failed a canary before the next sample decided: they
    /// need not be asked any more.
    pub(super) void: &'a [AtomicBool],
}

/// A canary before a sample, and what the journal holds of it, by judge.
pub(super) struct StoredCanary {
    pub(super) canary: u32,
    pub(super) answers: Vec<[StoredAnswer; 2]>,
}

/// A judged canary.
struct FinishedCanary {
    draw: CanaryDraw,
    /// Answers of the watched judges, in panel order.
    judged: Vec<(usize, [Answer; 2])>,
}

/// A judged sample.
pub(super) struct FinishedSample {
    sample: Sample,
    draws: Vec<RowDraw>,
    replies: [Result<Completion, ErrorKind>; 2],
    judged: Vec<Judged>,
    canary: Option<FinishedCanary>,
}

/// One judge's word on a sample.
#[derive(Clone)]
struct Judged {
    preparation: Option<String>,
    /// The king-first order first.
    answers: [Answer; 2],
}

#[derive(Clone)]
struct Answer {
    /// Which of the answers to its question it is, from 1.
    asked: u32,
    answer: RecordedAnswer,
}

impl Answer {
    fn missing(kind: Option<ErrorKind>) -> Self {
        Self { asked: 1, answer: RecordedAnswer::Missing { kind } }
    }
}

impl Judged {
    fn void() -> Self {
        let void = || Answer { asked: 1, answer: RecordedAnswer::Void };
        Self { preparation: None, answers: [void(), void()] }
    }

    fn missing(kind: Option<ErrorKind>) -> Self {
        Self { preparation: None, answers: [Answer::missing(kind), Answer::missing(kind)] }
    }
}

impl SampleRun<'_> {
    /// Judges `sample`, asking only for what is not in `stored`.
    pub(super) async fn run(
        self,
        sample: Sample,
        draws: Vec<RowDraw>,
        stored: StoredSample,
        canary: Option<StoredCanary>,
    ) -> Result<FinishedSample> {
        let index = sample.index;
        match stored.draws {
            None => {
                let event = JournalEvent::Drawn { sample: index, draws: draws.clone() };
                self.store.append(event, vec![]).await?;
            }
            Some(stored) if stored == draws => {}
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "resume the duel",
                    "the tasks give another draw than the journal holds",
                )
                .with("sample", index)
                .with_hint("the tasks or the king's tokenizer were changed: restore them"));
            }
        }
        self.observer.on(&DuelEvent::Drawn { sample: index });

        let canary = async {
            match canary {
                Some(canary) => self.canary(index, canary).await.map(Some),
                None => Ok(None),
            }
        };
        let pair = async {
            futures::try_join!(
                self.reply(&sample, Side::King, stored.king),
                self.reply(&sample, Side::Challenger, stored.challenger),
            )
        };
        let (canary, (king, challenger)) = futures::try_join!(canary, pair)?;
        let judged = match (&king, &challenger) {
            (Ok(king), Ok(challenger)) => {
                self.assess(&sample, king, challenger, stored.preparations, stored.answers).await?
            }
            _ => vec![Judged::missing(None); self.duel.judges.len()],
        };
        Ok(FinishedSample { sample, draws, replies: [king, challenger], judged, canary })
    }

    /// `side`'s reply, journalled; the kind of the last error if there is none.
    async fn reply(
        &self,
        sample: &Sample,
        side: Side,
        stored: Option<StoredReply>,
    ) -> Result<Result<Completion, ErrorKind>> {
        let duel = self.duel;
        if let Some(StoredReply { text, finish, usage, reference_scores }) = stored {
            let text = self.store.text(&text).await?;
            let reply_scores = reference_scores;
            return Ok(Ok(Completion {
                text,
                reasoning: None,
                tokens: vec![],
                finish,
                usage,
                reply_scores,
                log_probs: None,
            }));
        }
        let needs_scores = duel.judges.iter().any(|judge| judge.needs().reference_scores);
        let request = GenerateRequest {
            messages: sample.messages.clone(),
            sampling: duel.plan.generation.sampling,
            max_new_tokens: duel.plan.generation.max_new_tokens,
            seed: duel.plan.request_seed(sample.index, side),
            score_reply: needs_scores.then(|| sample.reference.clone()),
            response: ResponseFormat::Text,
            log_probs: None,
        };
        let session = &*duel.sessions[match side {
            Side::King => 0,
            Side::Challenger => 1,
        }];
        let call = || generate(session, request.clone(), self.cx);
        let (call_try, completion) = match self.tries(sample.index, Call::Reply(side), call).await? {
            Ok(answered) => answered,
            Err(kind) => return Ok(Err(kind)),
        };
        let event = JournalEvent::Replied {
            sample: sample.index,
            side,
            call_try,
            text: TextRef::of(&completion.text),
            finish: completion.finish,
            usage: completion.usage,
            reference_scores: completion.reply_scores.clone(),
        };
        self.store.append(event, vec![completion.text.clone()]).await?;
        self.observer.on(&DuelEvent::Replied { sample: sample.index, side, usage: completion.usage });
        Ok(Ok(completion))
    }

    /// Every judge's answers in both orders, in panel order.
    async fn assess(
        &self,
        sample: &Sample,
        king: &Completion,
        challenger: &Completion,
        mut preparations: BTreeMap<u32, String>,
        mut stored: BTreeMap<(u32, Order), StoredAnswer>,
    ) -> Result<Vec<Judged>> {
        let judges = (0..self.duel.judges.len()).map(|judge| {
            let preparation = preparations.remove(&(judge as u32));
            let stored = Order::BOTH.map(|order| stored.remove(&(judge as u32, order)).unwrap_or_default());
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok(Judged::void());
                }
                let preparation = match self.prepare(sample, judge, preparation).await? {
                    Ok(preparation) => preparation,
                    Err(kind) => return Ok(Judged::missing(Some(kind))),
                };
                let [king_first_stored, challenger_first_stored] = stored;
                let comparison = |first: &Completion, second: &Completion, marks| Comparison {
                    messages: sample.messages.clone(),
                    reference: sample.reference.clone(),
                    first: candidate(first),
                    second: candidate(second),
                    preparation: preparation.clone(),
                    marks,
                };
                let king_first = |marks| comparison(king, challenger, marks);
                let challenger_first = |marks| comparison(challenger, king, marks);
                let asked = |order| Asked {
                    question: Question::Sample(sample.index),
                    sample: sample.index,
                    judge,
                    order,
                };
                let (king_first, challenger_first) = futures::try_join!(
                    self.answer(asked(Order::KingFirst), king_first, king_first_stored),
                    self.answer(asked(Order::ChallengerFirst), challenger_first, challenger_first_stored),
                )?;
                Ok(Judged { preparation, answers: [king_first, challenger_first] })
            }
        });
        join_all(judges).await.into_iter().collect()
    }

    /// What `judge` writes before it sees the replies, journalled, if it needs
    /// anything; the kind of the last error if it could not.
    async fn prepare(
        &self,
        sample: &Sample,
        judge: usize,
        stored: Option<String>,
    ) -> Result<Result<Option<String>, ErrorKind>> {
        let asked = &self.duel.judges[judge];
        if !asked.needs().preparation || stored.is_some() {
            return Ok(Ok(stored));
        }
        let request = Preparation {
            messages: sample.messages.clone(),
            reference: sample.reference.clone(),
            fence: DuelSecret::new(&self.duel.plan.seed)
                .fence(self.duel.digest, Question::Sample(sample.index)),
        };
        let index = judge as u32;
        let call = || asked.prepare(&request, self.cx);
        let (call_try, text) =
            match self.tries(sample.index, Call::Preparation { judge: index }, call).await? {
                Ok(prepared) => prepared,
                Err(kind) => return Ok(Err(kind)),
            };
        let event =
            JournalEvent::Prepared { sample: sample.index, judge: index, call_try, text: text.clone() };
        self.store.append(event, vec![]).await?;
        Ok(Ok(Some(text)))
    }

    /// The canary before sample `place`, put to every watched judge that is not
    /// void. Its better reply stands for the king's.
    async fn canary(&self, place: u32, stored: StoredCanary) -> Result<FinishedCanary> {
        let Duel { plan, digest, .. } = self.duel;
        let StoredCanary { canary, answers } = stored;
        let (draw, sample) = Series::Planned.draw(&plan.seed, canary, &*self.duel.tasks, self.cx).await?;
        let [better, worse] = draw.kind.pair(&sample.reference).map(known);
        let question = Question::Canary(canary);
        let fence = DuelSecret::new(&plan.seed).fence(*digest, question);
        let watched = answers.into_iter().enumerate().filter(|(judge, _)| plan.judges[*judge].watched);
        let judged = watched.map(|(judge, stored)| {
            let (sample, better, worse) = (&sample, &better, &worse);
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok((judge, Judged::void().answers));
                }
                let asked = &self.duel.judges[judge];
                let preparation = if asked.needs().preparation {
                    let request = Preparation {
                        messages: sample.messages.clone(),
                        reference: sample.reference.clone(),
                        fence,
                    };
                    let call = Call::Preparation { judge: judge as u32 };
                    match self.tries(place, call, || asked.prepare(&request, self.cx)).await? {
                        Ok((_, preparation)) => Some(preparation),
                        Err(kind) => return Ok((judge, Judged::missing(Some(kind)).answers)),
                    }
                } else {
                    None
                };
                let comparison = |first: &Candidate, second: &Candidate, marks| Comparison {
                    messages: sample.messages.clone(),
                    reference: sample.reference.clone(),
                    first: first.clone(),
                    second: second.clone(),
                    preparation: preparation.clone(),
                    marks,
                };
                let [better_first, worse_first] = stored;
                let asked = |order| Asked { question, sample: place, judge, order };
                let (better_first, worse_first) = futures::try_join!(
                    self.answer(
                        asked(Order::KingFirst),
                        |marks| comparison(better, worse, marks),
                        better_first
                    ),
                    self.answer(
                        asked(Order::ChallengerFirst),
                        |marks| comparison(worse, better, marks),
                        worse_first
                    ),
                )?;
                Ok((judge, [better_first, worse_first]))
            }
        });
        let judged: Result<Vec<_>> = join_all(judged).await.into_iter().collect();
        Ok(FinishedCanary { draw, judged: judged? })
    }

    /// The answer to `asked`. One that nobody can read is journalled too, and the
    /// question asked again with the next nonce, as often as the limits allow.
    async fn answer(
        &self,
        Asked { question, sample, judge, order }: Asked,
        comparison: impl Fn(Marks) -> Comparison,
        mut stored: StoredAnswer,
    ) -> Result<Answer> {
        let Duel { plan, digest, .. } = self.duel;
        let (index, judge_plan) = (judge as u32, &plan.judges[judge]);
        let secret = DuelSecret::new(&plan.seed);
        let key = JudgementKey { plan: *digest, question, judge: &judge_plan.identity, order };
        let called = match question {
            Question::Sample(_) => Call::Assessment { judge: index, order },
            Question::Canary(canary) => Call::Canary { canary, judge: index, order },
        };
        loop {
            if let Some(assessment) = stored.standing(self.duel.limits.call_tries) {
                let answer = RecordedAnswer::Answered(assessment.clone().canonical());
                return Ok(Answer { asked: stored.asked(), answer });
            }
            let comparison = comparison(secret.marks(&key, stored.asked() + 1)?);
            let call = || compare(&*self.duel.judges[judge], judge_plan, &comparison, self.cx);
            let (call_try, assessment) = match self.tries(sample, called, call).await? {
                Ok(answered) => answered,
                Err(kind) => return Ok(Answer::missing(Some(kind))),
            };
            stored.add(assessment.clone());
            let judge = index;
            let event = match question {
                Question::Sample(sample) => {
                    JournalEvent::Assessed { sample, judge, order, call_try, assessment }
                }
                Question::Canary(canary) => {
                    JournalEvent::CanaryAssessed { canary, judge, order, call_try, assessment }
                }
            };
            self.store.append(event, vec![]).await?;
            if matches!(question, Question::Sample(_)) {
                self.observer.on(&DuelEvent::Assessed { sample, judge, order });
            }
        }
    }

    /// Calls until there is an answer, with the number of the try that gave it;
    /// the kind of the last error once infrastructure has failed for good.
    /// Everybody else's faults end the duel.
    async fn tries<T, F: Future<Output = Result<T>>>(
        &self,
        sample: u32,
        call: Call,
        attempt: impl Fn() -> F,
    ) -> Result<Result<(u32, T), ErrorKind>> {
        let mut call_try = 1;
        loop {
            let error = match attempt().await {
                Ok(answer) => return Ok(Ok((call_try, answer))),
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Cancelled {
                return Err(error);
            }
            let event = JournalEvent::Failed {
                sample,
                call,
                call_try,
                kind: error.kind(),
                fault: error.fault(),
                message: error.to_string(),
            };
            self.store.append(event, vec![]).await?;
            self.observer.on(&DuelEvent::Failed { sample, call_try, error: &error });
            if error.fault() != Fault::Infrastructure {
                return Err(error.with("sample", sample));
            }
            if call_try == self.duel.limits.call_tries {
                return Ok(Err(error.kind()));
            }
            let pause = match error.retry() {
                Retry::Backoff => BACKOFF * 2_u32.saturating_pow(call_try - 1),
                Retry::After(pause) => pause,
                Retry::Never | Retry::Exhausted { .. } => return Ok(Err(error.kind())),
            };
            self.cx.run("wait before the next try", tokio::time::sleep(pause)).await?;
            call_try += 1;
        }
    }
}

/// A question to a judge, and the sample that it is or stands before.
#[derive(Clone, Copy)]
struct Asked {
    question: Question,
    sample: u32,
    judge: usize,
    order: Order,
}

impl FinishedSample {
    /// Writes the lines and texts of the sample and of the canary before it;
    /// what the decision consumes. A judge that fails the canary is `void` from
    /// here on.
    pub(super) fn write(
        self,
        record: &mut RecordBuilder,
        plan: &DuelPlan,
        void: &mut VoidJudges,
    ) -> Result<Cluster> {
        let Self {
            sample: Sample { index: sample, repo, messages, reference, .. },
            draws,
            replies,
            mut judged,
            canary,
        } = self;
        if let Some(FinishedCanary { draw, judged }) = canary {
            record.line(&RecordLine::Canary(draw))?;
            for (judge, mut answers) in judged {
                if void.contains(judge) {
                    answers = Judged::void().answers;
                }
                let [better_first, worse_first] = answers.each_ref().map(|answer| answered(&answer.answer));
                void.count(judge, draw.kind.outcome(&plan.judges[judge].metrics, better_first, worse_first));
                let (canary, judge) = (draw.canary, judge as u32);
                for (order, Answer { asked, answer }) in Order::BOTH.into_iter().zip(answers) {
                    record.line(&RecordLine::CanaryAssessment { canary, judge, order, asked, answer })?;
                }
            }
        }
        for (judge, judged) in judged.iter_mut().enumerate() {
            if void.contains(judge) {
                *judged = Judged::void();
            }
        }
        let cells = judged.iter().zip(&plan.judges).map(|(judged, judge)| {
            let [king_first, challenger_first] =
                judged.answers.each_ref().map(|answer| answered(&answer.answer));
            Cell::new(&judge.metrics, king_first, challenger_first)
        });
        let cluster = Cluster::new(sample, cells.collect(), plan.panel.reducer);
        for draw in draws {
            record.line(&RecordLine::Draw(draw))?;
        }
        let messages = String::from_utf8(canonical_json(&messages)?)
            .map_err(|error| Error::bug("write the record", error.to_string()))?;
        let messages = record.text(&messages);
        let reference = record.text(&reference);
        record.line(&RecordLine::Sample { sample, repo, messages, reference })?;
        for (side, reply) in Side::BOTH.into_iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => RecordedReply::Completed {
                    text: record.text(&reply.text),
                    finish: reply.finish,
                    prompt_tokens: reply.usage.prompt_tokens,
                    completion_tokens: reply.usage.completion_tokens,
                    reference_scores: reply.reply_scores,
                },
                Err(kind) => RecordedReply::Missing { kind },
            };
            record.line(&RecordLine::Reply { sample, side, reply })?;
        }
        for (judge, Judged { preparation, answers }) in (0..).zip(judged) {
            if let Some(text) = preparation {
                record.line(&RecordLine::Preparation { sample, judge, text })?;
            }
            for (order, Answer { asked, answer }) in Order::BOTH.into_iter().zip(answers) {
                record.line(&RecordLine::Assessment { sample, judge, order, asked, answer })?;
            }
        }
        record.line(&RecordLine::Cluster(cluster.clone()))?;
        Ok(cluster)
    }
}

/// The one answer to `request`, whose scores can be recorded.
async fn generate(
    session: &dyn ModelSession,
    request: GenerateRequest,
    cx: &CallContext,
) -> Result<Completion> {
    let mut answers = session.generate(vec![request], cx);
    let Some(answer) = answers.next().await else {
        cx.check("generate a reply")?;
        return Err(Error::bug("generate a reply", "the session ended its answers without one"));
    };
    let completion = answer.result?;
    let mut scores = completion.reply_scores.iter().flat_map(|scores| &scores.log_probs);
    if scores.any(|log_prob| !log_prob.is_finite()) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "generate a reply",
            "a log-probability of the recorded reply is not finite",
        ));
    }
    Ok(completion)
}

/// `judge`'s answer, which has a score for exactly its planned metrics.
async fn compare(
    judge: &dyn Judge,
    plan: &JudgePlan,
    comparison: &Comparison,
    cx: &CallContext,
) -> Result<Assessment> {
    let assessment = judge.compare(comparison, cx).await?;
    match &assessment {
        Assessment::Scored { scores, .. } if !scores.keys().eq(&plan.metrics) => Err(Error::new(
            ErrorKind::Protocol,
            "compare the replies",
            "the judge scored other metrics than its own",
        )
        .with("judge", &plan.identity.name)),
        _ => Ok(assessment),
    }
}

/// One side of a canary.
pub(super) fn known(text: String) -> Candidate {
    Candidate { text, finish: FinishReason::Stop, reference_scores: None }
}

fn candidate(completion: &Completion) -> Candidate {
    Candidate {
        text: completion.text.clone(),
        finish: completion.finish,
        reference_scores: completion.reply_scores.clone(),
    }
}

fn answered(answer: &RecordedAnswer) -> Option<&Assessment> {
    match answer {
        RecordedAnswer::Answered(assessment) => Some(assessment),
        RecordedAnswer::Missing { .. } | RecordedAnswer::Void => None,
    }
}
