//! What an interrupted or void duel has left in its journal, to go on from.

use std::collections::BTreeMap;

use super::DuelReport;
use crate::backend::{FinishReason, TokenScores, Usage};
use crate::digest::Digest;
use crate::draw::RowDraw;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::judge::Assessment;
use crate::panel::Order;
use crate::plan::DuelPlan;
use crate::record::{JournalEvent, TextRef};
use crate::verdict::Outcome;

/// The answers of a journal, by sample. Nothing in it is asked for again.
#[derive(Debug, Default)]
pub(super) struct Stored {
    samples: BTreeMap<u32, StoredSample>,
    /// Answers to canaries, by canary, judge and order.
    canaries: BTreeMap<(u32, u32, Order), StoredAnswer>,
    /// Whether the journal has its first line.
    pub(super) opened: bool,
    /// How the duel ended, if it was decided.
    pub(super) report: Option<DuelReport>,
}

/// The answers to one sample.
#[derive(Debug, Default)]
pub(super) struct StoredSample {
    pub(super) draws: Option<Vec<RowDraw>>,
    pub(super) king: Option<StoredReply>,
    pub(super) challenger: Option<StoredReply>,
    pub(super) preparations: BTreeMap<u32, String>,
    pub(super) answers: BTreeMap<(u32, Order), StoredAnswer>,
}

/// The answers to one question, of which the last counts.
#[derive(Debug, Default)]
pub(super) struct StoredAnswer {
    /// Answers journalled.
    asked: u32,
    /// Those among them that nobody could read, since the duel began or was
    /// last void.
    unreadable: u32,
    last: Option<Assessment>,
}

impl StoredAnswer {
    /// Counts `assessment`, unless there is one that could be read.
    pub(super) fn add(&mut self, assessment: Assessment) {
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
            *self = Self { asked: self.asked, ..Self::default() };
        }
    }
}

/// A reply whose text is in the store.
#[derive(Debug)]
pub(super) struct StoredReply {
    pub(super) text: TextRef,
    pub(super) finish: FinishReason,
    pub(super) usage: Usage,
    pub(super) reference_scores: Option<TokenScores>,
}

impl Stored {
    /// What `events` hold for the duel of `plan`. The first of two answers to
    /// one call counts, of answers that nobody can read the last; an assessment
    /// counts only after both replies. Once a duel was void, whatever was not
    /// scored is asked for again.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the journal is another duel's,
    /// [`ErrorKind::DataInvalid`] if it does not begin with its plan.
    pub(super) fn read(events: Vec<JournalEvent>, plan: &DuelPlan, digest: Digest) -> Result<Self> {
        let mut stored = Self::default();
        for event in events {
            match event {
                JournalEvent::Opened { digest: theirs, .. } if theirs == digest => stored.opened = true,
                JournalEvent::Opened { digest: theirs, plan: their_plan, .. } => {
                    return Err(another_duel(theirs, &their_plan, digest, plan));
                }
                _ if !stored.opened => {
                    return Err(Error::new(
                        ErrorKind::DataInvalid,
                        "resume the duel",
                        "the journal does not begin with a plan",
                    ));
                }
                JournalEvent::Drawn { sample, draws } => {
                    stored.samples.entry(sample).or_default().draws.get_or_insert(draws);
                }
                JournalEvent::Replied { sample, side, text, finish, usage, reference_scores, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    let reply = StoredReply { text, finish, usage, reference_scores };
                    match side {
                        Side::King => sample.king.get_or_insert(reply),
                        Side::Challenger => sample.challenger.get_or_insert(reply),
                    };
                }
                JournalEvent::Assessed { sample, judge, order, assessment, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    if sample.king.is_some() && sample.challenger.is_some() {
                        sample.answers.entry((judge, order)).or_default().add(assessment);
                    }
                }
                JournalEvent::CanaryAssessed { canary, judge, order, assessment, .. } => {
                    stored.canaries.entry((canary, judge, order)).or_default().add(assessment);
                }
                JournalEvent::Prepared { sample, judge, text, .. } => {
                    let sample = stored.samples.entry(sample).or_default();
                    sample.preparations.entry(judge).or_insert(text);
                }
                JournalEvent::Ended { verdict, record } => {
                    stored.end(DuelReport { plan: digest, verdict: *verdict, record });
                }
                JournalEvent::Resumed | JournalEvent::Failed { .. } => {}
            }
        }
        Ok(stored)
    }

    /// Takes out judge `judge`'s answers to canary `canary`, in both orders.
    pub(super) fn take_canary(&mut self, canary: u32, judge: usize) -> [StoredAnswer; 2] {
        Order::BOTH.map(|order| self.canaries.remove(&(canary, judge as u32, order)).unwrap_or_default())
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
            self.canaries.values_mut().for_each(StoredAnswer::forget_unless_scored);
            for sample in self.samples.values_mut() {
                sample.answers.values_mut().for_each(StoredAnswer::forget_unless_scored);
            }
        } else {
            self.report = Some(report);
        }
    }
}

fn another_duel(theirs: Digest, their_plan: &DuelPlan, ours: Digest, our_plan: &DuelPlan) -> Error {
    Error::new(ErrorKind::Conflict, "resume the duel", "the journal is that of another duel")
        .with("its plan", theirs)
        .with("this plan", ours)
        .with("they differ in", our_plan.differences(their_plan).join(", "))
        .with_hint("resume it with the settings, models and tasks that it was begun with")
}
