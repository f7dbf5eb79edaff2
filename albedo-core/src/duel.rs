//! The duel engine: draws, generates, judges and decides, as pairs complete,
//! in plan order.
//!
//! 1. [`Contestant::load`] loads a side's model through a backend.
//! 2. [`Duel::builder`] takes contestants, tasks, judges and settings;
//!    [`DuelBuilder::plan`] checks them and freezes a [`DuelPlan`], whose digest names the
//!    duel before any work is done.
//! 3. [`Duel::run`] draws samples, asks both models, puts each pair of replies before
//!    every judge in both orders, and hands one difference per sample to the rule until
//!    it decides. Everything is journalled in a [`RecordStore`] before it is used, so
//!    that a duel that was interrupted goes on.
//! 4. The [`DuelReport`] has the [`Verdict`] and the digest of the record.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::stream;
use tracing::Instrument;

use crate::canary::{Series, VoidJudges};
use crate::context::CallContext;
use crate::decision::Decider;
use crate::digest::Digest;
use crate::draw::Drawer;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::events::{EventKind, Journal};
use crate::judge::Judge;
use crate::marks::DuelSecret;
use crate::missing::Cause;
use crate::origin::Build;
use crate::plan::{DuelPlan, Limits};
use crate::record::{JournalEvent, RecordBuilder, RecordLine, RecordStore};
use crate::tasks::TaskSource;
use crate::twin::TwinReport;
use crate::verdict::{Outcome, Overflows, Verdict};

mod answer;
mod ask;
mod budget;
mod builder;
mod contestant;
mod preflight;
mod reply;
mod sample;
mod stored;

use ask::Asking;
use budget::Budget;
pub use builder::DuelBuilder;
pub use contestant::Contestant;
use sample::{SampleRun, StoredCanaryAnswers};
use stored::{Decided, Stored, another_duel, another_end};

/// Bytes of the record that are gathered before the store is given them.
const PART: usize = 64 << 10;

/// A duel whose plan is frozen and whose parts are at hand.
///
/// ```
/// # #[cfg(feature = "conformance")]
/// use albedo_core::testing::{Rows, ScriptedJudge, ScriptedSession};
/// use albedo_core::{CallContext, Duel, DuelSettings, MemoryStore, Outcome, Rule};
/// use std::sync::Arc;
///
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// let (cx, store) = (CallContext::new(), MemoryStore::default());
/// // Two models that each say one thing, and a judge that prefers the longer.
/// let king = ScriptedSession::saying("king", "ls").contestant();
/// let challenger = ScriptedSession::saying("challenger", "ls -l").contestant();
/// let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 10.0).min(1.0));
///
/// let duel = Duel::builder(king, challenger)
///     .tasks(Arc::new(Rows::numbered(20)))
///     .judge(Arc::new(judge))
///     .settings(DuelSettings { samples: 8, rule: Rule::by_name("margin")?, ..DuelSettings::default() })
///     .plan(&store, &cx)
///     .await?;
/// let report = duel.run(&store, &cx).await?;
/// assert_eq!(report.verdict.outcome, Outcome::Dethroned);
/// assert!(report.record.is_some(), "a duel that is decided has a record");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Duel {
    plan: DuelPlan,
    digest: Digest,
    build: Build,
    limits: Limits,
    contestants: [Contestant; 2],
    tasks: Arc<dyn TaskSource>,
    judges: Vec<Arc<dyn Judge>>,
}

/// How a duel ended: its verdict, and the digest under which it is known.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DuelReport {
    /// The plan's digest.
    pub plan: Digest,
    /// The verdict.
    pub verdict: Verdict,
    /// The record's digest; none if the duel is void.
    pub record: Option<Digest>,
}

impl Duel {
    /// Begins a duel between `king` and `challenger`; the builder's
    /// [`plan`](DuelBuilder::plan) freezes it.
    pub fn builder(king: Contestant, challenger: Contestant) -> DuelBuilder {
        DuelBuilder::new(king, challenger)
    }

    /// The frozen plan.
    pub fn plan(&self) -> &DuelPlan {
        &self.plan
    }

    /// The plan's digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    fn contestant(&self, side: Side) -> &Contestant {
        let [king, challenger] = &self.contestants;
        match side {
            Side::King => king,
            Side::Challenger => challenger,
        }
    }

    /// Runs the duel: every answer is in `store`'s journal before it is used,
    /// the canonical record is published at the end. Events go to the sinks of `cx`
    /// as they happen ([`CallContext::with_events`]).
    ///
    /// A store that holds this duel's journal is gone on with: nothing that it
    /// holds is asked for again (with the exception below), verdict and record are those
    /// of a run without interruption (if judges and models answer alike), and a duel
    /// that was decided is not run again: its verdict is read from the record, and a
    /// record that is gone or altered is made again from the journal, which asks
    /// nobody. After a void end only what is missing is asked.
    ///
    /// The exception: an outage may keep a judge from comparing a reply with its twin
    /// ([`crate::twin`]) until it has scored the replies. Once it has compared them, it is
    /// asked about the replies again, because a twin may replace its reply. The record
    /// counts both answers.
    ///
    /// Where the challenger has won with missing answers as ties and not with them as
    /// wins of the king, the missing answers are asked for again once, and the rule
    /// starts again from the first sample. What an outage keeps missing then makes the
    /// duel void; what is missing because of the replies stays a win of the king, and
    /// the duel goes on.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] with how far it got, once `cx` is cancelled;
    /// [`ErrorKind::Conflict`] if the store holds another duel, or other draws
    /// than the tasks now give; what the task source or the store meets; an error
    /// of a model or judge that reaches the duel ([`Reach`](crate::Reach)). Too
    /// many missing answers are not an error but the outcome [`Outcome::Void`], and
    /// too many overflows of the challenger's arithmetic are
    /// [`Outcome::Forfeit`].
    ///
    /// # Cancellation
    /// Dropping the future at any await leaves a journal that ends in a whole
    /// line, and no record.
    pub async fn run(&self, store: &dyn RecordStore, cx: &CallContext) -> Result<DuelReport> {
        let span = tracing::info_span!("duel", plan = %self.digest.short());
        self.go(store, &cx.child().with_duel(self.digest)).instrument(span).await
    }

    async fn go(&self, store: &dyn RecordStore, cx: &CallContext) -> Result<DuelReport> {
        let journal = Journal { store, cx };
        let events = store.stored().await?;
        let budget = Budget::new(self.limits.budget_usd, &events);
        let mut stored = self.open(events, journal).await?;
        let decided = stored.take_end();
        if let Some(Decided { report, .. }) = &decided
            && let Some(report) = self.published(report, store).await?
        {
            let DuelReport { verdict, record, .. } = report.clone();
            cx.emit(JournalEvent::Ended { verdict: Box::new(verdict), record });
            return Ok(report);
        }
        loop {
            if let Some(report) = self.run_from_start(stored, &budget, decided.as_ref(), journal).await? {
                return Ok(report);
            }
            stored = self.stored(store.stored().await?)?;
        }
    }

    /// Tries of a call, and answers to a question that cannot be parsed.
    fn call_tries(&self) -> u32 {
        self.plan.call_tries.unwrap_or(self.limits.call_tries)
    }

    /// What `events`, a journal, hold for this duel.
    fn stored(&self, events: Vec<JournalEvent>) -> Result<Stored> {
        Stored::read(events, &self.plan, self.digest, self.call_tries())
    }

    /// Runs the duel from its first sample on what is `stored`; none if answers that
    /// a disputed win hangs on have to be asked for again. `decided` is how it ended
    /// before, if its record has to be made again.
    async fn run_from_start(
        &self,
        mut stored: Stored,
        budget: &Budget,
        decided: Option<&Decided>,
        journal: Journal<'_>,
    ) -> Result<Option<DuelReport>> {
        let Journal { store, cx } = journal;
        let asked_again = stored.asked_again;
        store.begin().await?;
        let mut record = RecordBuilder::default();
        record.line(&RecordLine::Header { format: crate::record::FORMAT })?;
        record.line(&RecordLine::Plan { plan: Box::new(self.plan.clone()) })?;
        record.line(&RecordLine::Origin(stored.origin.clone()))?;
        let mut decider = Decider::new(self.plan.rule.clone(), self.plan.rule_context());

        let drawer = Drawer::new(&self.plan, Arc::clone(&self.tasks));
        let drawn = stream::unfold(Some(drawer), |drawer| async {
            let mut drawer = drawer?;
            let drawn = match self.contestant(Side::King).loaded(cx).await {
                Ok(king) => drawer.next(&king, cx).await,
                Err(error) => Err(error),
            };
            match drawn {
                Ok(None) => None,
                Ok(Some(drawn)) => Some((Ok(drawn), Some(drawer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let mut overflows = Overflows::default();
        let mut void = VoidJudges::none(self.judges.len());
        let flags: Vec<_> = self.judges.iter().map(|_| AtomicBool::new(false)).collect();
        let asking = Asking {
            journal,
            budget,
            call_tries: self.call_tries(),
            secret: DuelSecret::new(&self.plan.seed),
            key: self.digest,
            series: Series::Planned,
            failed: decided.map(|decided| &decided.failed),
        };
        let run = SampleRun { duel: self, asking, void: &flags };
        // Samples that were under way behind the decision are not gone on with.
        let most = decided.map_or(self.plan.samples, |decided| decided.report.verdict.samples);
        let runs = drawn.take(most as usize).map(|drawn| {
            let drawn = drawn.map(|(sample, draws)| {
                let canary = self.canary_before(sample.index, &mut stored);
                (stored.take(sample.index), canary, sample, draws)
            });
            async move {
                let (stored, canary, sample, draws) = drawn?;
                let span = tracing::debug_span!("sample", sample = sample.index);
                run.run(sample, draws, stored, canary).instrument(span).await
            }
        });
        let mut finished = Box::pin(runs.buffered(self.limits.samples_in_flight as usize));

        // `buffered` hands the samples over in plan order, whatever order they
        // finish in: otherwise stopping early would favour short replies.
        while let Some(sample) = finished.next().await {
            let sample = sample.map_err(|error| match error.kind() {
                ErrorKind::Cancelled => error
                    .with("samples decided", decider.clusters().len())
                    .with("of", self.plan.samples)
                    .with_hint("what was journalled is kept"),
                _ => error,
            })?;
            overflows.count(sample.overflowed());
            let cluster = sample.write(&mut record, &self.plan, &mut void)?;
            for (judge, flag) in flags.iter().enumerate() {
                flag.store(void.contains(judge), Ordering::Relaxed);
            }
            if record.pending() >= PART {
                store.extend(record.take()).await?;
            }
            let index = cluster.sample;
            let decision = decider.consume(cluster);
            cx.emit(EventKind::Decided {
                sample: index,
                difference: decider.clusters()[index as usize].difference,
            });
            if decided.is_none() && decider.holds_up(decision.as_ref()) {
                let unasked = decider.clusters().get(asked_again as usize..).unwrap_or_default();
                let mut cells = unasked.iter().flat_map(|cluster| &cluster.cells);
                if cells.any(|cell| cell.cause().is_some_and(Cause::is_asked_again)) {
                    drop(finished);
                    journal.write(JournalEvent::AskedAgain { samples: index + 1 }, vec![]).await?;
                    return Ok(None);
                }
            }
            if let Some(verdict) = Verdict::after(&self.plan, &decider, overflows, decision) {
                drop(finished);
                return self.finish(verdict, record, decided, journal).await.map(Some);
            }
        }
        match decided {
            Some(decided) => Err(another_end(decided.report.record, None)),
            None => Err(Error::bug("run the duel", "the samples ended and the rule had not decided")),
        }
    }

    /// The canary before sample `sample`, if the plan has one there.
    fn canary_before(&self, sample: u32, stored: &mut Stored) -> Option<StoredCanaryAnswers> {
        let canary = self.plan.canaries.as_ref()?.settings.before(sample)?;
        let answers = (0..self.judges.len()).map(|judge| stored.take_canary(canary, judge)).collect();
        Some(StoredCanaryAnswers { canary, answers })
    }

    /// What `events`, the store's journal, hold of this duel; opened or resumed in
    /// it.
    async fn open(&self, events: Vec<JournalEvent>, journal: Journal<'_>) -> Result<Stored> {
        let mut stored = self.stored(events)?;
        let opened = JournalEvent::Opened {
            format: crate::record::FORMAT,
            digest: self.digest,
            plan: Box::new(self.plan.clone()),
            build: Some(self.build.clone()),
        };
        if !stored.opened {
            stored.origin.add(Some(self.build.clone()));
            journal.write(opened, vec![]).await?;
            return Ok(stored);
        }
        // A stream of events begins with the plan, whichever run it is.
        journal.cx.emit(opened);
        if stored.report.is_none() {
            let unchained = !journal.store.chained().await?;
            stored.origin.add(Some(self.build.clone()));
            stored.origin.unchained |= unchained;
            let resumed = JournalEvent::Resumed { build: Some(self.build.clone()), unchained };
            journal.write(resumed, vec![]).await?;
            let (replies, assessments) = stored.counts();
            let (replies, assessments) = (replies as u64, assessments as u64);
            journal.cx.emit(EventKind::Restored { replies, assessments });
        }
        Ok(stored)
    }

    /// The end that `report`, the journal's last word, says, if its record is
    /// published: the record is what counts. None if it is gone, or another one.
    async fn published(&self, report: &DuelReport, store: &dyn RecordStore) -> Result<Option<DuelReport>> {
        let Some(record) = store.published().await? else { return Ok(None) };
        if report.record != Some(record.digest) || record.plan().digest()? != self.digest {
            return Ok(None);
        }
        let verdict = record.verdict().clone();
        Ok(Some(DuelReport { plan: self.digest, verdict, record: report.record }))
    }

    /// Publishes the record and notes the end, unless the journal has it: then `decided`
    /// has the digest that the record, made again, has to have.
    async fn finish(
        &self,
        verdict: Verdict,
        mut record: RecordBuilder,
        decided: Option<&Decided>,
        journal: Journal<'_>,
    ) -> Result<DuelReport> {
        let finished = if matches!(verdict.outcome, Outcome::Void(_)) {
            None
        } else {
            record.line(&RecordLine::Verdict(Box::new(verdict.clone())))?;
            Some(record.finish())
        };
        let digest = finished.as_ref().map(|(_, digests)| digests.root());
        if let Some(Decided { report, .. }) = decided
            && report.record != digest
        {
            return Err(another_end(report.record, digest));
        }
        if let Some((part, digests)) = finished {
            journal.store.extend(part).await?;
            journal.store.publish(&digests).await?;
        }
        let event = JournalEvent::Ended { verdict: Box::new(verdict.clone()), record: digest };
        if let Some(message) = verdict.twins.as_ref().and_then(TwinReport::finding) {
            journal.cx.emit(EventKind::Alert { message });
        }
        match decided {
            Some(_) => journal.cx.emit(event),
            None => journal.write(event, vec![]).await?,
        }
        Ok(DuelReport { plan: self.digest, verdict, record: digest })
    }

    /// The duel as the journal `events` holds it: a journal that a build before record
    /// format 3 opened has the plan in that format's form, under another digest.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is another duel's.
    fn in_journal(mut self, events: &[JournalEvent]) -> Result<Self> {
        let opened = events.iter().find_map(|event| match event {
            JournalEvent::Opened { digest, plan, .. } => Some((*digest, plan)),
            _ => None,
        });
        let Some((digest, plan)) = opened else { return Ok(self) };
        // A duel that a build without twins began goes on without.
        if plan.twins.is_none() && self.plan.twins.is_some() {
            self.plan = self.plan.without_twins();
            self.digest = self.plan.digest()?;
        }
        if let Some(version) = &plan.version {
            let older = self.plan.as_frozen_by(version);
            if older == **plan {
                (self.digest, self.plan) = (older.digest()?, older);
            }
        }
        if digest == self.digest {
            Ok(self)
        } else {
            Err(another_duel(digest, plan, self.digest, &self.plan))
        }
    }
}

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod canary_tests;
#[cfg(test)]
mod missing_tests;
#[cfg(test)]
mod overflow_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod side_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin_tests;
