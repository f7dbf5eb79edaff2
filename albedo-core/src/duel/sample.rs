//! One sample's way through the duel: both replies, then every judge in both
//! orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{join_all, try_join_all};

use super::Duel;
use super::answer::{Judged, JudgedAnswer, JudgedTwin};
use super::ask::{Asked, Asking, Panelist};
use super::reply::Reply;
use super::stored::{StoredAnswer, StoredCanary, StoredProbes, StoredSample, StoredTwins};
use crate::backend::FinishReason;
use crate::canary::{CanaryDraw, Series, VoidJudges};
use crate::digest::canonical_json;
use crate::draw::RowDraw;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::judge::{Candidate, Comparison};
use crate::marks::{Marks, Probe, Question};
use crate::missing::{self, Lack, NEUTRAL, Probed, Probes, SideProbes};
use crate::order::Order;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelPlan;
use crate::record::{JournalEvent, RecordBuilder, RecordLine, RecordedReply};
use crate::sample::Sample;
use crate::twin::{self, Twin};

/// What a sample needs of the duel around it.
#[derive(Clone, Copy)]
pub(super) struct SampleRun<'a> {
    pub(super) duel: &'a Duel,
    pub(super) asking: Asking<'a>,
    /// The judges that have failed a canary before the next sample decided: they
    /// need not be asked any more.
    pub(super) void: &'a [AtomicBool],
}

/// Whom to ask about neutral text, and in place of which replies.
struct Probing<'a> {
    sample: u32,
    panelist: Panelist<'a>,
    king: &'a Candidate,
    challenger: &'a Candidate,
}

/// What judges have answered about a sample before, by judge.
struct StoredAnswers {
    preparations: BTreeMap<u32, String>,
    answers: BTreeMap<(u32, Order), StoredAnswer>,
    probes: BTreeMap<u32, StoredProbes>,
    twins: BTreeMap<u32, StoredTwins>,
}

/// A canary before a sample, and what the journal holds of it, by judge.
pub(super) struct StoredCanaryAnswers {
    pub(super) canary: u32,
    pub(super) answers: Vec<StoredCanary>,
}

/// A judged canary.
struct FinishedCanary {
    draw: CanaryDraw,
    /// Answers of the watched judges, in panel order, that with the better reply shown first coming first.
    judged: Vec<(usize, [JudgedAnswer; 2])>,
}

/// A sample that was judged, or that a side lost without judges.
pub(super) struct FinishedSample {
    sample: Sample,
    draws: Vec<RowDraw>,
    /// The king's first.
    replies: [Reply; 2],
    /// Every judge's word, in panel order.
    judged: Vec<Judged>,
    canary: Option<FinishedCanary>,
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
                self.asking.journal.write(event, vec![]).await?;
            }
            Some(stored) if stored == draws => {}
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "resume the duel",
                    "the tasks give another draw than the journal holds",
                )
                .with_fault(Fault::Operator)
                .with("sample", index)
                .with_hint("the tasks or the king's tokenizer were changed: restore them"));
            }
        }

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
        let judged = match (king.candidate(), challenger.candidate()) {
            (Some(king), Some(challenger)) => {
                let StoredSample { preparations, answers, probes, twins, .. } = stored;
                let stored = StoredAnswers { preparations, answers, probes, twins };
                self.assess(&sample, &king, &challenger, stored).await?
            }
            _ => vec![Judged::no_pair(); self.duel.judges.len()],
        };
        Ok(FinishedSample { sample, draws, replies: [king, challenger], judged, canary })
    }

    /// Every judge's answers in both orders, in panel order.
    async fn assess(
        &self,
        sample: &Sample,
        king: &Candidate,
        challenger: &Candidate,
        mut stored: StoredAnswers,
    ) -> Result<Vec<Judged>> {
        let judges = (0..self.duel.judges.len()).map(|judge| {
            let preparation = stored.preparations.remove(&(judge as u32));
            let mut probes = stored.probes.remove(&(judge as u32)).unwrap_or_default();
            let twins = stored.twins.remove(&(judge as u32)).unwrap_or_default();
            let mut stored =
                Order::BOTH.map(|order| stored.answers.remove(&(judge as u32, order)).unwrap_or_default());
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok(Judged::void());
                }
                let (panelist, asking) = (self.panelist(judge), &self.asking);
                if self.duel.plan.are_a_tie(panelist.plan, king, challenger) {
                    return Ok(Judged::identical());
                }
                let asked = Asked { question: Question::Sample(sample.index), sample: Some(sample.index) };
                let Sample { messages, reference, .. } = sample;
                let prepared = asking.preparation(asked, panelist, messages, reference, preparation).await?;
                let preparation = match prepared {
                    Ok(preparation) => preparation,
                    Err(error) => return Ok(Judged::unprepared(error, self.duel.plan.rule_version)),
                };
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
                let (twins, are_new) =
                    self.twins(sample.index, panelist, [king, challenger], &comparison, twins).await?;
                if are_new {
                    // What it said before may be of a reply that its twin replaces now.
                    stored.iter_mut().chain(probes.values_mut()).for_each(StoredAnswer::forget);
                }
                let [king_first_stored, challenger_first_stored] = stored;
                let [king, challenger] = &judged_of(panelist, [king, challenger], &twins);
                let king_first = |marks| comparison(king, challenger, marks);
                let challenger_first = |marks| comparison(challenger, king, marks);
                let king_first =
                    asking.answer(asked, panelist, Order::KingFirst, king_first, king_first_stored);
                let challenger_first = asking.answer(
                    asked,
                    panelist,
                    Order::ChallengerFirst,
                    challenger_first,
                    challenger_first_stored,
                );
                let answers = asking.both(asked, panelist, king_first, challenger_first).await?;
                let probed = Probing { sample: sample.index, panelist, king, challenger };
                let probes = self.probes(probed, &answers, comparison, probes).await?;
                Ok(Judged { preparation, twins, answers, probes })
            }
        });
        join_all(judges).await.into_iter().collect()
    }

    /// What `panelist` makes of the replies and their twins, where the sample is drawn or it suspects a reply; and
    /// whether some of it was not stored.
    async fn twins(
        &self,
        sample: u32,
        panelist: Panelist<'_>,
        replies: [&Candidate; 2],
        comparison: &(impl Fn(&Candidate, &Candidate, Marks) -> Comparison + Sync),
        mut stored: StoredTwins,
    ) -> Result<(Vec<JudgedTwin>, bool)> {
        let plan = &self.duel.plan;
        let (Some(settings), Some(_)) = (plan.twins, panelist.plan.twins) else {
            return Ok((Vec::new(), false));
        };
        let drawn = settings.draws(&plan.seed, sample);
        let words = twin::words(&plan.seed, sample);
        let mut twins = Vec::new();
        for (side, reply) in Side::BOTH.into_iter().zip(replies) {
            let twin = panelist.judge.twin(&comparison(reply, reply, Marks::default()), words)?;
            let answers = Order::BOTH.map(|order| stored.remove(&(side, order)).unwrap_or_default());
            if drawn || twin.as_ref().is_some_and(|twin| twin.suspected) {
                twins.push((side, reply, twin, answers));
            }
        }
        let asked = twins.into_iter().map(|(side, reply, twin, answers)| async move {
            let Some(Twin { text, .. }) = twin else {
                return Ok((JudgedTwin { side, drawn, asked: None }, false));
            };
            let text: Arc<str> = text.into();
            let twin = Candidate { text: Arc::clone(&text), ..reply.clone() };
            let asked_before = answers.each_ref().map(StoredAnswer::asked);
            let [reply_first_stored, twin_first_stored] = answers;
            let asked = Asked { question: Question::Twin(sample, side), sample: Some(sample) };
            let asking = &self.asking;
            let reply_first = |marks| comparison(reply, &twin, marks);
            let twin_first = |marks| comparison(&twin, reply, marks);
            let reply_first =
                asking.answer(asked, panelist, Order::KingFirst, reply_first, reply_first_stored);
            let twin_first =
                asking.answer(asked, panelist, Order::ChallengerFirst, twin_first, twin_first_stored);
            let answers = asking.both(asked, panelist, reply_first, twin_first).await?;
            let is_new = answers
                .iter()
                .zip(asked_before)
                .any(|(answer, before)| answer.assessment().is_some() && answer.asked > before);
            Ok((JudgedTwin { side, drawn, asked: Some((text, answers)) }, is_new))
        });
        let (twins, are_new): (_, Vec<_>) = try_join_all(asked).await?.into_iter().unzip();
        Ok((twins, are_new.contains(&true)))
    }

    /// What a judge makes of neutral text, if `answers` call for it.
    async fn probes(
        &self,
        Probing { sample, panelist, king, challenger }: Probing<'_>,
        answers: &[JudgedAnswer; 2],
        comparison: impl Fn(&Candidate, &Candidate, Marks) -> Comparison,
        mut stored: StoredProbes,
    ) -> Result<Option<Probes>> {
        let lack = Lack::of(answers.each_ref().map(|answer| &answer.answer));
        let Some(lack) = lack.filter(|lack| lack.needs_probes()) else { return Ok(None) };
        if self.duel.plan.rule_version.is_first() {
            return Ok(None);
        }
        // The king's scores on both sides: what is neutral does not lack them.
        let reference_scores = king.reference_scores.clone();
        let neutral = Candidate { reference_scores, ..Candidate::new(NEUTRAL, FinishReason::Stop) };
        let mut ask = async |probe, order, first: &Candidate, second: &Candidate| {
            let asked = Asked { question: Question::Probe(sample, probe), sample: Some(sample) };
            let stored = stored.remove(&(probe, order)).unwrap_or_default();
            let question = |marks| comparison(first, second, marks);
            let answer = self.asking.answer(asked, panelist, order, question, stored).await?;
            Ok::<_, Error>(Probed::of(&answer.answer))
        };
        let outcome = ask(Probe::Neutral, Order::KingFirst, &neutral, &neutral).await?;
        let mut sides = None;
        if lack.needs_sides(outcome) {
            let mut both = async |probe, reply: &Candidate| {
                let first = ask(probe, Order::KingFirst, reply, &neutral).await?;
                Ok::<_, Error>([first, ask(probe, Order::ChallengerFirst, &neutral, reply).await?])
            };
            let king = both(Probe::King, king).await?;
            sides = Some(SideProbes { king, challenger: both(Probe::Challenger, challenger).await? });
        }
        Ok(Some(Probes { neutral: outcome, sides }))
    }

    /// The canary before sample `place`, put to every watched judge that is not
    /// void.
    async fn canary(&self, place: u32, stored: StoredCanaryAnswers) -> Result<FinishedCanary> {
        let Duel { plan, tasks, .. } = self.duel;
        let StoredCanaryAnswers { canary, answers } = stored;
        let (draw, known) =
            Series::Planned.draw(&plan.seed, canary, &**tasks, self.asking.journal.cx).await?;
        let watched = answers.into_iter().enumerate().filter(|(judge, _)| plan.judges[*judge].watched);
        let judged = watched.map(|(judge, stored)| {
            let (draw, known) = (&draw, &known);
            async move {
                if self.void[judge].load(Ordering::Relaxed) {
                    return Ok((judge, Judged::void().answers));
                }
                let panelist = self.panelist(judge);
                Ok((judge, self.asking.canary(draw, known, panelist, Some(place), stored).await?))
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

/// What `panelist` is asked about in place of `replies`: the twin of a reply that has beaten it.
fn judged_of(panelist: Panelist<'_>, replies: [&Candidate; 2], twins: &[JudgedTwin]) -> [Candidate; 2] {
    let mut judged = replies.map(Clone::clone);
    for twin in twins {
        if let Some((text, _)) = &twin.asked
            && twin.cell(panelist.place, &panelist.plan.metrics).replaced
        {
            judged[usize::from(twin.side == Side::Challenger)].text = Arc::clone(text);
        }
    }
    judged
}

impl FinishedCanary {
    /// Writes the lines of the canary. A judge that fails it is `void` from here on.
    fn write(self, record: &mut RecordBuilder, plan: &DuelPlan, void: &mut VoidJudges) -> Result<()> {
        let Self { draw, judged } = self;
        let (canary, kind) = (draw.canary, draw.kind);
        record.line(&RecordLine::Canary(draw))?;
        for (judge, mut answers) in judged {
            if void.contains(judge) {
                answers = Judged::void().answers;
            }
            let [better_first, worse_first] = answers.each_ref().map(JudgedAnswer::assessment);
            void.count(judge, kind.outcome(&plan.judges[judge].metrics, better_first, worse_first));
            let judge = judge as u32;
            for (order, JudgedAnswer { asked, answer, .. }) in Order::BOTH.into_iter().zip(answers) {
                record.line(&RecordLine::CanaryAssessment { canary, judge, order, asked, answer })?;
            }
        }
        Ok(())
    }
}

impl FinishedSample {
    /// Which side's own arithmetic overflowed, the king's first.
    pub(super) fn overflowed(&self) -> [bool; 2] {
        self.replies.each_ref().map(|reply| reply.recorded.overflowed())
    }

    /// Writes the lines and texts of the sample and of the canary before it; what
    /// the decision consumes. A judge that fails the canary is `void` from here on.
    pub(super) fn write(
        mut self,
        record: &mut RecordBuilder,
        plan: &DuelPlan,
        void: &mut VoidJudges,
    ) -> Result<Cluster> {
        if let Some(canary) = self.canary.take() {
            canary.write(record, plan, void)?;
        }
        for (judge, judged) in self.judged.iter_mut().enumerate() {
            if void.contains(judge) {
                *judged = Judged::void();
            }
        }
        let cluster = self.cluster(plan);
        self.write_facts(record)?;
        record.line(&RecordLine::Cluster(cluster.clone()))?;
        Ok(cluster)
    }

    /// What the panel makes of the answers.
    fn cluster(&self, plan: &DuelPlan) -> Cluster {
        let unjudged = RecordedReply::unjudged(self.replies.each_ref().map(|reply| &reply.recorded));
        let cells = self.judged.iter().zip(&plan.judges).map(|(judged, judge)| {
            if let Some(difference) = unjudged {
                return Cell::unjudged(&judge.metrics, difference);
            }
            let answers = judged.answers.each_ref().map(|judged| &judged.answer);
            missing::cell(plan.rule_version, &judge.metrics, answers, judged.probes.as_ref())
        });
        let twins = (0..).zip(self.judged.iter().zip(&plan.judges)).flat_map(|(place, (judged, judge))| {
            judged.twins.iter().map(move |twin| twin.cell(place, &judge.metrics))
        });
        let twins = twins.collect();
        let cluster = Cluster::new(self.sample.index, cells.collect(), plan.panel.reducer).with_twins(twins);
        if plan.rule_version.is_first() { cluster } else { cluster.in_stratum(&*self.sample.repo) }
    }

    /// Writes draws, sample, replies and answers.
    fn write_facts(self, record: &mut RecordBuilder) -> Result<()> {
        let Self { sample: Sample { index: sample, repo, messages, reference, .. }, .. } = self;
        for draw in self.draws {
            record.line(&RecordLine::Draw(draw))?;
        }
        let messages = String::from_utf8(canonical_json(&messages)?)
            .map_err(|error| Error::bug("write the record", error.to_string()))?;
        let messages = record.text(&messages);
        let reference = record.text(&reference);
        record.line(&RecordLine::Sample { sample, repo, messages, reference })?;
        for (side, Reply { recorded: reply, text }) in Side::BOTH.into_iter().zip(self.replies) {
            if matches!(reply, RecordedReply::Completed { .. }) {
                record.text(&text);
            }
            record.line(&RecordLine::Reply { sample, side, reply })?;
        }
        for (judge, Judged { preparation, twins, answers, probes }) in (0..).zip(self.judged) {
            if let Some(text) = preparation {
                record.line(&RecordLine::Preparation { sample, judge, text })?;
            }
            for JudgedTwin { side, drawn, asked } in twins {
                let text = asked.as_ref().map(|(text, _)| record.text(text));
                record.line(&RecordLine::Twin { sample, judge, side, drawn, text })?;
                let answers = asked.into_iter().flat_map(|(_, answers)| answers);
                for (order, JudgedAnswer { asked, answer, .. }) in Order::BOTH.into_iter().zip(answers) {
                    record.line(&RecordLine::TwinAssessment { sample, judge, side, order, asked, answer })?;
                }
            }
            for (order, JudgedAnswer { asked, answer, .. }) in Order::BOTH.into_iter().zip(answers) {
                record.line(&RecordLine::Assessment { sample, judge, order, asked, answer })?;
            }
            if let Some(probes) = probes {
                record.line(&RecordLine::Probes { sample, judge, probes })?;
            }
        }
        Ok(())
    }
}
