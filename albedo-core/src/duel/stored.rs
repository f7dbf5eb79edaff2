//! What an interrupted or void duel has left in its journal, to go on from.

use std::collections::BTreeMap;

use super::DuelReport;
use crate::backend::{FinishReason, SampledTokens, TokenScores, Usage};
use crate::canary::{Preflight, Series};
use crate::digest::Digest;
use crate::draw::RowDraw;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::judge::Assessment;
use crate::marks::Probe;
use crate::order::Order;
use crate::origin::Origin;
use crate::overflow::Overflow;
use crate::plan::DuelPlan;
use crate::record::{Call, JournalEvent, TextRef};
use crate::verdict::Outcome;

/// The answers of a journal, by sample. What it has is not asked for again.
#[derive(Debug, Default)]
pub(super) struct Stored {
    samples: BTreeMap<u32, StoredSample>,
    canaries: StoredCanaries,
    /// Of how many samples the missing answers were asked for again.
    pub(super) asked_again: u32,
    /// What kept calls from an answer, the last time each failed.
    failed: FailedCalls,
    /// Who ran the duel so far.
    pub(super) origin: Origin,
    /// Whether the journal has its first line.
    pub(super) opened: bool,
    /// How the duel ended, if it was decided.
    pub(super) report: Option<DuelReport>,
}

/// The end of a duel that was decided.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) report: DuelReport,
    /// Calls without an answer, and why: they are not made again.
    pub(super) failed: FailedCalls,
}

/// The kind of the last error of each call that failed, by sample.
pub(super) type FailedCalls = BTreeMap<(u32, Call), ErrorKind>;

/// The answers to one sample.
#[derive(Debug, Default)]
pub(super) struct StoredSample {
    pub(super) draws: Option<Vec<RowDraw>>,
    pub(super) king: Option<StoredReply>,
    pub(super) challenger: Option<StoredReply>,
    pub(super) preparations: BTreeMap<u32, String>,
    pub(super) answers: BTreeMap<(u32, Order), StoredAnswer>,
    /// What judges have made of neutral text.
    pub(super) probes: BTreeMap<u32, StoredProbes>,
    /// What judges have made of replies and their twins.
    pub(super) twins: BTreeMap<u32, StoredTwins>,
}

/// What one judge has made of neutral text.
pub(super) type StoredProbes = BTreeMap<(Probe, Order), StoredAnswer>;

/// What one judge has made of replies and their twins.
pub(super) type StoredTwins = BTreeMap<(Side, Order), StoredAnswer>;

impl StoredSample {
    /// Whatever is not scored is asked for again, and its cause found out again.
    fn forget_unless_scored(&mut self) {
        self.answers.values_mut().for_each(StoredAnswer::forget_unless_scored);
        let twins = self.twins.values_mut().flat_map(BTreeMap::values_mut);
        twins.for_each(StoredAnswer::forget_unless_scored);
        for answer in self.probes.values_mut().flat_map(BTreeMap::values_mut) {
            answer.forget();
        }
    }

    /// Notes what judge `judge` made of a side's reply and its twin, asked up to `call_tries`
    /// times. What the judge said of the replies before may be of one that its twin replaces.
    fn add_twin(&mut self, judge: u32, question: (Side, Order), assessment: Assessment, call_tries: u32) {
        let answer = self.twins.entry(judge).or_default().entry(question).or_default();
        let asked = answer.asked();
        answer.add(assessment);
        if answer.asked() == asked || answer.standing(call_tries).is_none() {
            return;
        }
        let answers = self.answers.iter_mut().filter(|((of, _), _)| *of == judge).map(|(_, answer)| answer);
        let probes = self.probes.get_mut(&judge).into_iter().flat_map(BTreeMap::values_mut);
        answers.chain(probes).for_each(|answer| answer.superseded = true);
    }

    /// Forgets the answer to `call` that a judged twin has superseded: the judge was asked again.
    fn forget_if_superseded(&mut self, call: Call) {
        let answer = match call {
            Call::Assessment { judge, order } => self.answers.get_mut(&(judge, order)),
            Call::Probe { probe, judge, order } => {
                self.probes.get_mut(&judge).and_then(|probes| probes.get_mut(&(probe, order)))
            }
            _ => None,
        };
        if let Some(answer) = answer {
            answer.forget_if_superseded();
        }
    }

    /// Forgets every answer that a judged twin has superseded.
    fn forget_superseded(&mut self) {
        let probes = self.probes.values_mut().flat_map(BTreeMap::values_mut);
        self.answers.values_mut().chain(probes).for_each(StoredAnswer::forget_if_superseded);
    }

    /// Keeps `reply` unless there is one.
    fn keep(&mut self, side: Side, reply: StoredReply) {
        match side {
            Side::King => self.king.get_or_insert(reply),
            Side::Challenger => self.challenger.get_or_insert(reply),
        };
    }
}

/// What judges have made of canaries, by canary and judge.
#[derive(Debug, Default)]
pub(super) struct StoredCanaries(BTreeMap<(u32, u32), StoredCanary>);

/// What one judge has made of a canary.
#[derive(Debug, Default)]
pub(super) struct StoredCanary {
    pub(super) preparation: Option<String>,
    /// In the order [better reply shown first, worse reply shown first].
    pub(super) answers: [StoredAnswer; 2],
}

impl StoredCanaries {
    /// Keeps `event` if it is about a canary of `series`.
    fn keep(&mut self, series: Series, event: JournalEvent) {
        match event {
            JournalEvent::CanaryPrepared { series: of, canary, judge, text, .. } if of == series => {
                self.0.entry((canary, judge)).or_default().preparation.get_or_insert(text);
            }
            JournalEvent::CanaryAssessed { series: of, canary, judge, order, assessment, .. }
                if of == series =>
            {
                let answers = &mut self.0.entry((canary, judge)).or_default().answers;
                answers[usize::from(order == Order::ChallengerFirst)].add(assessment);
            }
            _ => {}
        }
    }

    /// Takes out what judge `judge` has made of canary `canary`.
    pub(super) fn take(&mut self, canary: u32, judge: usize) -> StoredCanary {
        self.0.remove(&(canary, judge as u32)).unwrap_or_default()
    }
}

/// What a journal holds of a preflight.
#[derive(Debug)]
pub(super) enum StoredPreflight {
    /// The plan was frozen after it.
    Over(Preflight),
    /// It has begun, or not even that.
    Unfinished { begun: bool, canaries: StoredCanaries },
}

impl StoredPreflight {
    /// What `events` hold of the preflight `key`.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the journal is another duel's.
    pub(super) fn read(events: Vec<JournalEvent>, key: Digest) -> Result<Self> {
        let (mut begun, mut canaries) = (false, StoredCanaries::default());
        for event in events {
            match event {
                JournalEvent::Preflight { key: theirs, .. } if theirs == key => begun = true,
                JournalEvent::Opened { plan, .. } => {
                    let planned = plan.canaries.map(|canaries| canaries.preflight);
                    let ours = planned.filter(|preflight| preflight.key == key);
                    return ours.map(Self::Over).ok_or_else(another_preflight);
                }
                JournalEvent::Preflight { .. } => return Err(another_preflight()),
                event => canaries.keep(Series::Preflight, event),
            }
        }
        Ok(Self::Unfinished { begun, canaries })
    }
}

fn another_preflight() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "ask the judges before the duel",
        "the journal is that of another duel, or of other judges",
    )
    .with_fault(Fault::Operator)
    .with_hint("resume it with the settings, judges and tasks that it was begun with")
}

/// The answers to one question, of which the last counts.
#[derive(Debug, Default)]
pub(super) struct StoredAnswer {
    /// Answers journalled.
    asked: u32,
    /// Those among them that could not be parsed, since the duel began or was
    /// last void.
    unreadable: u32,
    last: Option<Assessment>,
    /// The judge has compared one of the replies with its twin since, and the twin may replace it:
    /// the question is asked again.
    superseded: bool,
}

impl StoredAnswer {
    /// Counts `assessment`, unless there is one that could be read and still counts.
    pub(super) fn add(&mut self, assessment: Assessment) {
        self.forget_if_superseded();
        if matches!(self.last, None | Some(Assessment::Unreadable { .. })) {
            self.asked += 1;
            self.unreadable += u32::from(matches!(assessment, Assessment::Unreadable { .. }));
            self.last = Some(assessment);
        }
    }

    /// Answers journalled to the question.
    pub(super) fn asked(&self) -> u32 {
        self.asked
    }

    /// The answer that stands: one that could be read, or the last of `tries`
    /// that could not.
    pub(super) fn standing(&self, tries: u32) -> Option<&Assessment> {
        self.last
            .as_ref()
            .filter(|last| !matches!(last, Assessment::Unreadable { .. }) || self.unreadable >= tries)
    }

    /// After a void end whatever is not scored is asked for again.
    fn forget_unless_scored(&mut self) {
        if !matches!(self.last, Some(Assessment::Scored { .. })) {
            self.forget();
        }
    }

    fn forget_if_superseded(&mut self) {
        if self.superseded {
            self.forget();
        }
    }

    /// The question is asked again.
    pub(super) fn forget(&mut self) {
        *self = Self { asked: self.asked, ..Self::default() };
    }
}

/// What a side answered.
#[derive(Debug)]
pub(super) enum StoredReply {
    /// A reply whose text is in the store.
    Completed {
        text: TextRef,
        finish: FinishReason,
        usage: Usage,
        tokens: Option<SampledTokens>,
        reference_scores: Option<TokenScores>,
    },
    /// Its own arithmetic overflowed, and did so again.
    Overflowed(Overflow),
}

impl Stored {
    /// What `events` hold for the duel of `plan`. The first of two answers to
    /// one call counts, of answers that cannot be parsed the last; an assessment
    /// counts only after both replies. Once a duel was void or its win disputed,
    /// whatever was not scored is asked for again. So is what a judge said of replies
    /// before it had compared one of them with its twin, unless the duel was decided: then
    /// a build that did not ask again may have run it. An answer that cannot be parsed
    /// stands after `call_tries` of them.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the journal is another duel's,
    /// [`ErrorKind::DataInvalid`] if it does not begin with its plan.
    pub(super) fn read(
        events: Vec<JournalEvent>,
        plan: &DuelPlan,
        digest: Digest,
        call_tries: u32,
    ) -> Result<Self> {
        let mut stored = Self::default();
        let preflight = plan.canaries.as_ref().map(|canaries| canaries.preflight.key);
        for event in events {
            match event {
                JournalEvent::Preflight { key, .. } if Some(key) == preflight => {}
                JournalEvent::Preflight { .. } => return Err(another_preflight()),
                JournalEvent::Opened { digest: theirs, build, .. } if theirs == digest => {
                    stored.opened = true;
                    stored.origin.add(build);
                }
                JournalEvent::Resumed { build, unchained } if stored.opened => {
                    stored.origin.add(build);
                    stored.origin.unchained |= unchained;
                }
                JournalEvent::Opened { digest: theirs, plan: their_plan, .. } => {
                    return Err(another_duel(theirs, &their_plan, digest, plan));
                }
                JournalEvent::CanaryPrepared { series: Series::Preflight, .. }
                | JournalEvent::CanaryAssessed { series: Series::Preflight, .. }
                | JournalEvent::Screened { .. }
                | JournalEvent::Failed { sample: None, .. } => {}
                JournalEvent::Failed { sample: Some(sample), call, kind, .. } => {
                    stored.failed.insert((sample, call), kind);
                    if let Some(sample) = stored.samples.get_mut(&sample) {
                        sample.forget_if_superseded(call);
                    }
                }
                _ if !stored.opened => {
                    return Err(Error::new(
                        ErrorKind::DataInvalid,
                        "resume the duel",
                        "the journal does not begin with a plan",
                    )
                    .with_fault(Fault::Operator));
                }
                JournalEvent::Drawn { sample, draws } => {
                    stored.samples.entry(sample).or_default().draws.get_or_insert(draws);
                }
                JournalEvent::Replied {
                    sample, side, text, finish, usage, tokens, reference_scores, ..
                } => {
                    let reply = StoredReply::Completed { text, finish, usage, tokens, reference_scores };
                    stored.samples.entry(sample).or_default().keep(side, reply);
                }
                JournalEvent::Overflowed { sample, side, overflow, repeated: true } => {
                    let reply = StoredReply::Overflowed(overflow);
                    stored.samples.entry(sample).or_default().keep(side, reply);
                }
                JournalEvent::Assessed { sample, judge, order, assessment, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    if sample.king.is_some() && sample.challenger.is_some() {
                        sample.answers.entry((judge, order)).or_default().add(assessment);
                    }
                }
                JournalEvent::Probed { sample, probe, judge, order, assessment, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    sample
                        .probes
                        .entry(judge)
                        .or_default()
                        .entry((probe, order))
                        .or_default()
                        .add(assessment);
                }
                JournalEvent::Twinned { sample, side, judge, order, assessment, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    sample.add_twin(judge, (side, order), assessment, call_tries);
                }
                JournalEvent::AskedAgain { samples } => {
                    stored.asked_again = stored.asked_again.max(samples);
                    for (_, sample) in stored.samples.range_mut(..samples) {
                        sample.forget_unless_scored();
                    }
                }
                JournalEvent::CanaryPrepared { .. } | JournalEvent::CanaryAssessed { .. } => {
                    stored.canaries.keep(Series::Planned, event);
                }
                JournalEvent::Prepared { sample, judge, text, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    sample.preparations.entry(judge).or_insert(text);
                }
                JournalEvent::Ended { verdict, record } => {
                    stored.end(DuelReport { plan: digest, verdict: *verdict, record });
                }
                JournalEvent::Resumed { .. }
                | JournalEvent::Forfeited { .. }
                | JournalEvent::Overflowed { repeated: false, .. } => {}
            }
        }
        if stored.report.is_none() {
            stored.samples.values_mut().for_each(StoredSample::forget_superseded);
        }
        Ok(stored)
    }

    /// Takes out what judge `judge` has made of canary `canary`.
    pub(super) fn take_canary(&mut self, canary: u32, judge: usize) -> StoredCanary {
        self.canaries.take(canary, judge)
    }

    /// Takes out how the duel was decided, if it was, and the calls that had failed
    /// then: with the answers they give its record again.
    pub(super) fn take_end(&mut self) -> Option<Decided> {
        let failed = std::mem::take(&mut self.failed);
        self.report.take().map(|report| Decided { report, failed })
    }

    /// Takes out the answers to `sample`.
    pub(super) fn take(&mut self, sample: u32) -> StoredSample {
        self.samples.remove(&sample).unwrap_or_default()
    }

    /// Replies and assessments stored.
    pub(super) fn counts(&self) -> (usize, usize) {
        let replies = |sample: &StoredSample| {
            usize::from(sample.king.is_some()) + usize::from(sample.challenger.is_some())
        };
        let samples = || self.samples.values();
        let answers =
            |sample: &StoredSample| sample.answers.values().filter(|answer| answer.last.is_some()).count();
        (samples().map(replies).sum(), samples().map(answers).sum())
    }

    fn end(&mut self, report: DuelReport) {
        if matches!(report.verdict.outcome, Outcome::Void(_)) {
            let canaries = self.canaries.0.values_mut().flat_map(|canary| &mut canary.answers);
            canaries.for_each(StoredAnswer::forget_unless_scored);
            self.samples.values_mut().for_each(StoredSample::forget_unless_scored);
        } else {
            self.report = Some(report);
        }
    }
}

pub(super) fn another_duel(
    theirs: Digest,
    their_plan: &DuelPlan,
    ours: Digest,
    our_plan: &DuelPlan,
) -> Error {
    Error::new(ErrorKind::Conflict, "resume the duel", "the journal is that of another duel")
        .with_fault(Fault::Operator)
        .with("its plan", theirs)
        .with("this plan", ours)
        .with("they differ in", our_plan.differences(their_plan).join(", "))
        .with_hint("resume it with the settings, models and tasks that it was begun with")
}

/// The journal of a decided duel gives the record `made` where it noted `noted`.
pub(super) fn another_end(noted: Option<Digest>, made: Option<Digest>) -> Error {
    let shown = |digest: Option<Digest>| digest.map_or_else(|| "none".into(), |digest| digest.to_string());
    let message = "the journal does not give the record that it ended with";
    Error::new(ErrorKind::DataInvalid, "make the record again", message)
        .with_fault(Fault::Operator)
        .with("noted", shown(noted))
        .with("made again", shown(made))
        .with_hint("the journal was altered, or another build wrote it: restore the record")
}
