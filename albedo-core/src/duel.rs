//! The duel engine: draws, generates, judges and decides, as pairs complete,
//! in plan order.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::stream;

use crate::canary::{CanaryPlan, Preflight, Series, VoidJudges};
use crate::context::CallContext;
use crate::decision::Decider;
use crate::digest::Digest;
use crate::draw::Drawer;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::judge::Judge;
use crate::marks::DuelSecret;
use crate::plan::{DuelPlan, DuelSettings, JudgePlan, Limits};
use crate::record::{JournalEvent, RecordBuilder, RecordLine, RecordStore};
use crate::tasks::TaskSource;
use crate::verdict::{Outcome, Overflows, Verdict};

mod answer;
mod ask;
mod budget;
mod contestant;
mod event;
mod preflight;
mod reply;
mod sample;
mod stored;

use ask::Asking;
use budget::Budget;
pub use contestant::Contestant;
pub use event::{DuelEvent, Observer};
pub use preflight::preflight;
use sample::{SampleRun, StoredCanaryAnswers};
use stored::Stored;

/// Bytes of the record that are gathered before the store is given them.
const PART: usize = 64 << 10;

/// A duel whose plan is frozen and whose parts are at hand.
#[derive(Debug)]
pub struct Duel {
    plan: DuelPlan,
    digest: Digest,
    limits: Limits,
    contestants: [Contestant; 2],
    tasks: Arc<dyn TaskSource>,
    judges: Vec<Arc<dyn Judge>>,
}

/// How a duel ended.
#[derive(Debug, Clone, PartialEq)]
pub struct DuelReport {
    /// The plan's digest.
    pub plan: Digest,
    /// The verdict.
    pub verdict: Verdict,
    /// The record's digest; none if the duel is void.
    pub record: Option<Digest>,
}

impl Duel {
    /// Freezes the plan of a duel between `king` and `challenger` on `tasks`
    /// before `judges`.
    ///
    /// # Errors
    /// The operator's: absurd settings, settings with canaries
    /// ([`Duel::watched`] has them), no judge, two judges of one identity,
    /// fewer tasks than samples, a challenger loaded with another tokenizer,
    /// template or stop ids than the king's. The challenger's: another
    /// architecture than the king's.
    pub fn new(
        settings: &DuelSettings,
        king: Contestant,
        challenger: Contestant,
        tasks: Arc<dyn TaskSource>,
        judges: Vec<Arc<dyn Judge>>,
    ) -> Result<Self> {
        if settings.canaries.is_some() {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "plan the duel",
                "`canaries` are set, and the judges have answered none",
            )
            .with_hint("ask `preflight` and plan with `Duel::watched`, or leave `canaries` out"));
        }
        Self::planned(settings, king, challenger, tasks, judges, None)
    }

    /// Freezes the plan of a duel with canaries: those of `judges` are on its
    /// panel that have passed `preflight`, or are not watched.
    ///
    /// # Errors
    /// As [`Duel::new`]; [`ErrorKind::Conflict`] if the preflight is another's;
    /// [`ErrorKind::Unavailable`] if it left fewer judges than the quorum: there
    /// is no duel, and nothing is spent.
    pub fn watched(
        settings: &DuelSettings,
        king: Contestant,
        challenger: Contestant,
        tasks: Arc<dyn TaskSource>,
        judges: Vec<Arc<dyn Judge>>,
        preflight: Preflight,
    ) -> Result<Self> {
        let (judges, canaries) = preflight::panel(settings, &*tasks, judges, preflight)?;
        Self::planned(settings, king, challenger, tasks, judges, Some(canaries))
    }

    fn planned(
        settings: &DuelSettings,
        king: Contestant,
        challenger: Contestant,
        tasks: Arc<dyn TaskSource>,
        judges: Vec<Arc<dyn Judge>>,
        canaries: Option<CanaryPlan>,
    ) -> Result<Self> {
        settings.check()?;
        check_contestants(&king, &challenger)?;
        let judge_plans = plan_judges(&judges, canaries.is_some())?;
        let info = tasks.info();
        let samples = settings.planned_samples();
        if info.rows < u64::from(samples) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "plan the duel",
                "there are fewer tasks than samples",
            )
            .with("rows", info.rows)
            .with("samples", samples)
            .with_hint("lower `samples` or use more tasks"));
        }
        let longest = [&king, &challenger].map(|side| side.model().context_length);
        let longest = longest[0].min(longest[1]);
        let context_tokens = settings.context_tokens.unwrap_or(longest);
        if context_tokens > longest || context_tokens <= settings.generation.max_new_tokens {
            return Err(Error::new(ErrorKind::ConfigInvalid, "plan the duel", "the context does not fit")
                .with("context tokens", context_tokens)
                .with("the models' context", longest)
                .with("max_new_tokens", settings.generation.max_new_tokens)
                .with_hint("lower `context_tokens` or `generation.max_new_tokens`"));
        }
        let plan = DuelPlan {
            version: env!("CARGO_PKG_VERSION").into(),
            king: king.plan(),
            challenger: challenger.plan(),
            tasks: info.clone(),
            sampler: settings.sampler,
            samples,
            looks: settings.rule.looks(samples),
            seed: settings.seed,
            context_tokens,
            generation: settings.generation,
            lanes: settings.lanes,
            judges: judge_plans,
            panel: settings.panel,
            rule: settings.rule.clone(),
            terms: settings.terms,
            previous: settings.previous,
            canaries,
        };
        Ok(Self {
            digest: plan.digest()?,
            plan,
            limits: settings.limits,
            contestants: [king, challenger],
            tasks,
            judges,
        })
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
    /// the canonical record is published at the end. `observer` sees what
    /// happens as it happens.
    ///
    /// A store that holds this duel's journal is gone on with: nothing that it
    /// holds is asked for again, verdict and record are those of a run without
    /// interruption (if judges and models answer alike), and a duel that was
    /// decided is not run again. After a void end only what is missing is asked.
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
    pub async fn run(
        &self,
        store: &dyn RecordStore,
        observer: &dyn Observer,
        cx: &CallContext,
    ) -> Result<DuelReport> {
        let cx = cx.child();
        let events = store.stored().await?;
        let budget = Budget::new(self.limits.budget_usd, &events);
        let mut stored = self.open(events, store, observer).await?;
        if let Some(report) = stored.report {
            observer.on(&DuelEvent::Ended { outcome: report.verdict.outcome });
            return Ok(report);
        }
        store.begin().await?;
        let mut record = RecordBuilder::default();
        record.line(&RecordLine::Header { format: crate::record::FORMAT })?;
        record.line(&RecordLine::Plan { plan: Box::new(self.plan.clone()) })?;
        let mut decider = Decider::new(self.plan.rule.clone(), self.plan.rule_context());

        let drawer = Drawer::new(&self.plan, Arc::clone(&self.tasks));
        let drawn = stream::unfold(Some(drawer), |drawer| async {
            let mut drawer = drawer?;
            let drawn = match self.contestant(Side::King).loaded(&cx).await {
                Ok(king) => drawer.next(&**king, &cx).await,
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
            store,
            observer,
            cx: &cx,
            budget: &budget,
            call_tries: self.limits.call_tries,
            secret: DuelSecret::new(&self.plan.seed),
            key: self.digest,
            series: Series::Planned,
        };
        let run = SampleRun { duel: self, asking, void: &flags };
        let runs = drawn.map(|drawn| {
            let drawn = drawn.map(|(sample, draws)| {
                let canary = self.canary_before(sample.index, &mut stored);
                (stored.take(sample.index), canary, sample, draws)
            });
            async move {
                let (stored, canary, sample, draws) = drawn?;
                run.run(sample, draws, stored, canary).await
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
            observer.on(&DuelEvent::Decided {
                sample: index,
                difference: decider.clusters()[index as usize].difference,
            });
            if let Some(decision) = decision {
                drop(finished);
                let verdict = Verdict::new(&self.plan, decider.clusters(), overflows, decision);
                return self.finish(verdict, record, store, observer).await;
            }
        }
        Err(Error::bug("run the duel", "the samples ended and the rule had not decided"))
    }

    /// The canary before sample `sample`, if the plan has one there.
    fn canary_before(&self, sample: u32, stored: &mut Stored) -> Option<StoredCanaryAnswers> {
        let canary = self.plan.canaries.as_ref()?.settings.before(sample)?;
        let answers = (0..self.judges.len()).map(|judge| stored.take_canary(canary, judge)).collect();
        Some(StoredCanaryAnswers { canary, answers })
    }

    /// What `events`, the store's journal, hold of this duel; opened or resumed in
    /// it.
    async fn open(
        &self,
        events: Vec<JournalEvent>,
        store: &dyn RecordStore,
        observer: &dyn Observer,
    ) -> Result<Stored> {
        let stored = Stored::read(events, &self.plan, self.digest)?;
        observer.on(&DuelEvent::Planned { plan: self.digest, samples: self.plan.samples });
        if !stored.opened {
            let event = JournalEvent::Opened {
                format: crate::record::FORMAT,
                digest: self.digest,
                plan: Box::new(self.plan.clone()),
            };
            store.append(event, vec![]).await?;
        } else if stored.report.is_none() {
            store.append(JournalEvent::Resumed, vec![]).await?;
            let (replies, assessments) = stored.counts();
            observer.on(&DuelEvent::Resumed { replies, assessments });
        }
        Ok(stored)
    }

    async fn finish(
        &self,
        verdict: Verdict,
        mut record: RecordBuilder,
        store: &dyn RecordStore,
        observer: &dyn Observer,
    ) -> Result<DuelReport> {
        let mut digest = None;
        if !matches!(verdict.outcome, Outcome::Void(_)) {
            record.line(&RecordLine::Verdict(Box::new(verdict.clone())))?;
            let (part, digests) = record.finish();
            store.extend(part).await?;
            store.publish(&digests).await?;
            digest = Some(digests.root());
        }
        store
            .append(JournalEvent::Ended { verdict: Box::new(verdict.clone()), record: digest }, vec![])
            .await?;
        observer.on(&DuelEvent::Ended { outcome: verdict.outcome });
        Ok(DuelReport { plan: self.digest, verdict, record: digest })
    }
}

fn check_contestants(king: &Contestant, challenger: &Contestant) -> Result<()> {
    let (king, challenger) = (king.model(), challenger.model());
    if king.architecture != challenger.architecture {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "plan the duel",
            "the challenger has another architecture",
        )
        .with_fault(Fault::Contestant(Side::Challenger))
        .with("king", &king.architecture)
        .with("challenger", &challenger.architecture));
    }
    let text =
        |model: &crate::backend::ModelInfo| (model.tokenizer, model.chat_template, model.stop_ids.clone());
    if text(king) != text(challenger) {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "plan the duel",
            "the challenger was loaded with another tokenizer, chat template or stop ids than the king",
        )
        .with_hint("load it with `ModelSource::with_text_from` the king's folder"));
    }
    Ok(())
}

fn plan_judges(judges: &[Arc<dyn Judge>], canaries: bool) -> Result<Vec<JudgePlan>> {
    let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, "plan the duel", message);
    if judges.is_empty() {
        return Err(invalid("there is no judge".into()).with_hint("name at least one"));
    }
    let mut plans: Vec<JudgePlan> = Vec::new();
    for judge in judges {
        let plan = JudgePlan {
            identity: judge.identity().clone(),
            metrics: judge.metrics().into_iter().collect(),
            watched: canaries && judge.watched(),
        };
        if plan.metrics.is_empty() {
            return Err(
                invalid(format!("judge `{}` speaks to no metric", plan.identity.name)).with_fault(Fault::Bug)
            );
        }
        if plans.iter().any(|other| other.identity == plan.identity) {
            return Err(invalid(format!("judge `{}` is on the panel twice", plan.identity.name))
                .with_hint("one judge is one voice: remove one"));
        }
        plans.push(plan);
    }
    Ok(plans)
}

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod canary_tests;
#[cfg(test)]
mod overflow_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;
