//! One sample's way through the duel: both replies, then every judge in both
//! orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::future::join_all;

use super::ask::{Asked, Asking, Panelist, Standing, Tried};
use super::stored::{StoredAnswer, StoredCanary, StoredReply, StoredSample};
use super::{Duel, DuelEvent};
use crate::backend::{Completion, GenerateRequest, ModelSession};
use crate::canary::{CanaryDraw, Series, VoidJudges};
use crate::context::CallContext;
use crate::digest::canonical_json;
use crate::draw::RowDraw;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::judge::{Assessment, Candidate, Comparison};
use crate::marks::Question;
use crate::order::Order;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelPlan;
use crate::record::{Call, JournalEvent, RecordBuilder, RecordLine, RecordedAnswer, RecordedReply, TextRef};
use crate::sample::Sample;

/// What a sample needs of the duel around it.
#[derive(Clone, Copy)]
pub(super) struct SampleRun<'a> {
    pub(super) duel: &'a Duel,
    pub(super) asking: Asking<'a>,
    /// The judges that have failed a canary before the next sample decided: they
    /// need not be asked any more.
    pub(super) void: &'a [AtomicBool],
}

/// A canary before a sample, and what the journal holds of it, by judge.
pub(super) struct StoredCanaryAnswers {
    pub(super) canary: u32,
    pub(super) answers: Vec<StoredCanary>,
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
    fn new(tried: Tried<Standing>) -> Self {
        match tried {
            Ok(Standing { asked, assessment }) => {
                Self { asked, answer: RecordedAnswer::Answered(assessment.canonical()) }
            }
            Err(error) => Self::missing(Some(error.kind())),
        }
    }

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
        canary: Option<StoredCanaryAnswers>,
    ) -> Result<FinishedSample> {
        let index = sample.index;
        match stored.draws {
            None => {
                let event = JournalEvent::Drawn { sample: index, draws: draws.clone() };
                self.asking.store.append(event, vec![]).await?;
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
        self.asking.observer.on(&DuelEvent::Drawn { sample: index });

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
            let text = self.asking.store.text(&text).await?;
            let reply_scores = reference_scores;
            return Ok(Ok(Completion::new(text, finish, usage).with_reply_scores(reply_scores)));
        }
        let needs_scores = duel.judges.iter().any(|judge| judge.needs().reference_scores);
        let request = GenerateRequest::new(sample.messages.clone(), duel.plan.generation.max_new_tokens)
            .with_sampling(duel.plan.generation.sampling)
            .with_seed(duel.plan.request_seed(sample.index, side))
            .with_score_reply(needs_scores.then(|| sample.reference.clone()));
        let session = &*duel.sessions[match side {
            Side::King => 0,
            Side::Challenger => 1,
        }];
        let Asking { store, observer, cx, .. } = self.asking;
        let call = || generate(session, request.clone(), cx);
        let (call_try, completion) =
            match self.asking.tries(Some(sample.index), Call::Reply(side), call).await? {
                Ok(answered) => answered,
                Err(error) => return Ok(Err(error.kind())),
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
        store.append(event, vec![completion.text.clone()]).await?;
        observer.on(&DuelEvent::Replied { sample: sample.index, side, usage: completion.usage });
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
        let [king, challenger] = &[king, challenger].map(candidate);
        let judges = (0..self.duel.judges.len()).map(|judge| {
            let preparation = preparations.remove(&(judge as u32));
            let stored = Order::BOTH.map(|order| stored.remove(&(judge as u32, order)).unwrap_or_default());
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok(Judged::void());
                }
                let (panelist, asking) = (self.panelist(judge), &self.asking);
                let asked = Asked { question: Question::Sample(sample.index), sample: Some(sample.index) };
                let Sample { messages, reference, .. } = sample;
                let prepared = asking.preparation(asked, panelist, messages, reference, preparation).await?;
                let preparation = match prepared {
                    Ok(preparation) => preparation,
                    Err(error) => return Ok(Judged::missing(Some(error.kind()))),
                };
                let [king_first_stored, challenger_first_stored] = stored;
                let shared: Option<Arc<str>> = preparation.as_deref().map(Arc::from);
                let comparison = |first: &Candidate, second: &Candidate, marks| {
                    Comparison::new(
                        Arc::clone(messages),
                        Arc::clone(reference),
                        first.clone(),
                        second.clone(),
                    )
                    .with_preparation(shared.clone())
                    .with_marks(marks)
                };
                let king_first = |marks| comparison(king, challenger, marks);
                let challenger_first = |marks| comparison(challenger, king, marks);
                let (king_first, challenger_first) = futures::try_join!(
                    asking.answer(asked, panelist, Order::KingFirst, king_first, king_first_stored),
                    asking.answer(
                        asked,
                        panelist,
                        Order::ChallengerFirst,
                        challenger_first,
                        challenger_first_stored
                    ),
                )?;
                let answers = [king_first, challenger_first].map(Answer::new);
                Ok(Judged { preparation, answers })
            }
        });
        join_all(judges).await.into_iter().collect()
    }

    /// The canary before sample `place`, put to every watched judge that is not
    /// void.
    async fn canary(&self, place: u32, stored: StoredCanaryAnswers) -> Result<FinishedCanary> {
        let Duel { plan, tasks, .. } = self.duel;
        let StoredCanaryAnswers { canary, answers } = stored;
        let (draw, known) = Series::Planned.draw(&plan.seed, canary, &**tasks, self.asking.cx).await?;
        let watched = answers.into_iter().enumerate().filter(|(judge, _)| plan.judges[*judge].watched);
        let judged = watched.map(|(judge, stored)| {
            let (draw, known) = (&draw, &known);
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok((judge, Judged::void().answers));
                }
                let panelist = self.panelist(judge);
                let answers = self.asking.canary(draw, known, panelist, Some(place), stored).await?;
                Ok((
                    judge,
                    match answers {
                        Ok(answers) => answers.map(Answer::new),
                        Err(error) => Judged::missing(Some(error.kind())).answers,
                    },
                ))
            }
        });
        let judged: Result<Vec<_>> = join_all(judged).await.into_iter().collect();
        Ok(FinishedCanary { draw, judged: judged? })
    }

    fn panelist(&self, judge: usize) -> Panelist<'_> {
        let Duel { plan, judges, .. } = self.duel;
        Panelist { judge: &*judges[judge], plan: &plan.judges[judge], place: judge as u32 }
    }
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

fn candidate(completion: &Completion) -> Candidate {
    Candidate::new(completion.text.clone(), completion.finish)
        .with_reference_scores(completion.reply_scores.clone())
}

fn answered(answer: &RecordedAnswer) -> Option<&Assessment> {
    match answer {
        RecordedAnswer::Answered(assessment) => Some(assessment),
        RecordedAnswer::Missing { .. } | RecordedAnswer::Void => None,
    }
}
