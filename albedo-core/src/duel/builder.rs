//! What a duel is made of, until its plan is frozen.

use std::sync::Arc;

use super::preflight::{panel, preflight};
use super::{Contestant, Duel};
use crate::admission::Admission;
use crate::behaviour::{Behaviour, offline_judge};
use crate::canary::CanaryPlan;
use crate::context::CallContext;
use crate::decision::RuleVersion;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::judge::Judge;
use crate::origin::Build;
use crate::plan::{DuelPlan, DuelSettings, JudgePlan};
use crate::record::{JournalEvent, RecordStore};
use crate::tasks::TaskSource;

const PLAN: &str = "plan the duel";

/// The parts of a duel, made by [`Duel::builder`]. A clone shares the models, the
/// tasks and the judges, so that one builder serves many duels.
#[derive(Debug, Clone)]
pub struct DuelBuilder {
    king: Contestant,
    challenger: Contestant,
    tasks: Option<Arc<dyn TaskSource>>,
    judges: Vec<Arc<dyn Judge>>,
    settings: DuelSettings,
    admission: Option<Admission>,
    build: Build,
}

impl DuelBuilder {
    pub(super) fn new(king: Contestant, challenger: Contestant) -> Self {
        let (settings, build) = (DuelSettings::default(), Build::default());
        let (tasks, judges, admission) = (None, Vec::new(), None);
        Self { king, challenger, tasks, judges, settings, admission, build }
    }

    /// Sets the tasks that samples are drawn from.
    #[must_use]
    pub fn tasks(self, tasks: Arc<dyn TaskSource>) -> Self {
        Self { tasks: Some(tasks), ..self }
    }

    /// Puts one more judge on the panel.
    #[must_use]
    pub fn judge(mut self, judge: Arc<dyn Judge>) -> Self {
        self.judges.push(judge);
        self
    }

    /// Puts more judges on the panel, in this order.
    #[must_use]
    pub fn judges(mut self, judges: impl IntoIterator<Item = Arc<dyn Judge>>) -> Self {
        self.judges.extend(judges);
        self
    }

    /// Says which build runs the duel, for the record: a program knows its own sources.
    #[must_use]
    pub fn build(self, build: Build) -> Self {
        Self { build, ..self }
    }

    /// Sets everything else that can change the verdict, and the limits.
    #[must_use]
    pub fn settings(self, settings: DuelSettings) -> Self {
        Self { settings, ..self }
    }

    /// Puts the challenger's admission into the plan, and so into the record.
    #[must_use]
    pub fn admission(self, admission: Admission) -> Self {
        Self { admission: Some(admission), ..self }
    }

    /// Checks everything that takes no judge's answer, and returns the plan as it
    /// is without canaries.
    ///
    /// # Errors
    /// The operator's: absurd settings, no tasks or fewer than samples, no judge,
    /// two judges of one identity, a challenger loaded with another tokenizer,
    /// template or stop ids than the king's, an admission that admits nobody or is
    /// of other models. The challenger's: another architecture than the king's.
    pub fn draft(&self) -> Result<DuelPlan> {
        self.frozen(self.judges.clone(), None, RuleVersion::NEWEST).map(|duel| duel.plan)
    }

    /// Freezes the plan: if the journal of `store` holds one, that one, which has to be
    /// this duel's. The rules are then of the version that it names.
    ///
    /// With canaries in the settings, every judge that reads replies answers them
    /// first (the *preflight*), after everything else is checked: a judge that
    /// fails one, or gives no answer that can be read, is not on the panel. Its
    /// answers go to the journal of `store`, in which the duel is to run, and what
    /// that journal holds is not asked for again: an interrupted preflight goes
    /// on. Without canaries, `store` is only read.
    ///
    /// # Errors
    /// As [`DuelBuilder::draft`]; [`ErrorKind::Conflict`] if `store` holds another
    /// duel. With canaries: a quorum beyond the panel;
    /// [`ErrorKind::Unavailable`] if fewer judges than the quorum are left: there is
    /// no duel, and nothing else is spent; [`ErrorKind::Conflict`] if `store` holds
    /// another duel; what the tasks or the store meet; a judge's error that reaches
    /// the duel.
    pub async fn plan(&self, store: &dyn RecordStore, cx: &CallContext) -> Result<Duel> {
        let Self { judges, settings, .. } = self;
        let rule_version = begun_rule_version(&store.stored().await?);
        let duel = if settings.canaries.is_none() {
            self.frozen(judges.clone(), None, rule_version)?
        } else {
            // Judges are paid for their answers: what is wrong is said before.
            self.draft()?;
            let tasks = &**self.task_source()?;
            let preflight = preflight(settings, tasks, judges, store, cx).await?;
            let (judges, canaries) = panel(settings, judges.clone(), preflight)?;
            self.frozen(judges, Some(canaries), rule_version)?
        };
        duel.in_journal(&store.stored().await?)
    }

    fn task_source(&self) -> Result<&Arc<dyn TaskSource>> {
        self.tasks.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::ConfigInvalid, PLAN, "there are no tasks")
                .with_hint("give the builder a task source with `tasks`")
        })
    }

    pub(super) fn frozen(
        &self,
        judges: Vec<Arc<dyn Judge>>,
        canaries: Option<CanaryPlan>,
        rule_version: RuleVersion,
    ) -> Result<Duel> {
        let Self { king, challenger, settings, .. } = self;
        let tasks = self.task_source()?;
        settings.check()?;
        check_contestants(king, challenger)?;
        let admission = self.admission.clone().map(|admission| Box::new(admission.published()));
        if let Some(admission) = &admission {
            admission.check_admits(king.model().parameters, challenger.model().parameters)?;
        }
        let mut judge_plans = plan_judges(&judges, canaries.is_some())?;
        let first = rule_version.is_first();
        for judge in &mut judge_plans {
            judge.reference_scores &= !first;
            judge.twins = judge.twins.filter(|_| !first && !settings.twins.is_off());
        }
        let twins = judge_plans.iter().any(|judge| judge.twins.is_some()).then_some(settings.twins);
        let info = tasks.info();
        let samples = settings.planned_samples();
        if info.rows < u64::from(samples) {
            let hint = if samples == settings.samples {
                "lower `samples` or use more tasks"
            } else {
                "use more tasks, or the rule `fixed`: within a reign `sequential` plans this many, whatever \
                 `samples` says"
            };
            return Err(Error::new(ErrorKind::ConfigInvalid, PLAN, "there are fewer tasks than samples")
                .with("rows", info.rows)
                .with("samples", samples)
                .with_hint(hint));
        }
        let [longest, shorter] = [king, challenger].map(|side| side.model().context_length);
        // Between a server and a model that runs here, nobody is charged for a limit.
        let longest = if are_comparable(king, challenger) { longest } else { longest.min(shorter) };
        let context_tokens = settings.context_tokens.unwrap_or(longest);
        if context_tokens > longest || context_tokens <= settings.generation.max_new_tokens {
            return Err(Error::new(ErrorKind::ConfigInvalid, PLAN, "the context does not fit")
                .with("context tokens", context_tokens)
                .with("the king's context", longest)
                .with("max_new_tokens", settings.generation.max_new_tokens)
                .with_hint("lower `context_tokens` or `generation.max_new_tokens`"));
        }
        if shorter < context_tokens {
            // Else a contestant could choose which tasks are too long for the duel.
            let message = "the challenger's context is shorter than the duel's, which is the king's";
            return Err(Error::new(ErrorKind::Unsupported, PLAN, message)
                .with_fault(Fault::Contestant(Side::Challenger))
                .with("the challenger's context", shorter)
                .with("context tokens", context_tokens)
                .with_hint("the submission has to declare at least the king's context"));
        }
        let mut plan = DuelPlan {
            version: None,
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
            rule_version,
            terms: settings.terms,
            previous: settings.previous,
            canaries,
            twins,
            admission,
            effect_prior: settings.effect_prior.filter(|_| !rule_version.is_first()),
            call_tries: Some(settings.limits.call_tries),
            behaviour: None,
        };
        plan.behaviour = Some(Behaviour::of(&plan, king.template())?);
        Ok(Duel {
            digest: plan.digest()?,
            plan,
            build: self.build.clone(),
            limits: settings.limits,
            contestants: [king.clone(), challenger.clone()],
            tasks: Arc::clone(tasks),
            judges,
        })
    }
}

/// Which version of the rules the plan in a journal names; the newest if there is
/// none.
fn begun_rule_version(events: &[JournalEvent]) -> RuleVersion {
    let begun = events.iter().find_map(|event| match event {
        JournalEvent::Opened { plan, .. } => Some(plan.rule_version),
        _ => None,
    });
    begun.unwrap_or(RuleVersion::NEWEST)
}

/// Whether architecture, tokenizer and context of the sides can be compared: both run
/// here, or of both only their servers know what they are.
fn are_comparable(king: &Contestant, challenger: &Contestant) -> bool {
    king.model().is_opaque() == challenger.model().is_opaque()
}

fn check_contestants(king: &Contestant, challenger: &Contestant) -> Result<()> {
    if !are_comparable(king, challenger) {
        return Ok(());
    }
    let (king, challenger) = (king.model(), challenger.model());
    if king.architecture != challenger.architecture {
        return Err(Error::new(ErrorKind::Unsupported, PLAN, "the challenger has another architecture")
            .with_fault(Fault::Contestant(Side::Challenger))
            .with("king", &king.architecture)
            .with("challenger", &challenger.architecture));
    }
    let text =
        |model: &crate::backend::ModelInfo| (model.tokenizer, model.chat_template, model.stop_ids.clone());
    if text(king) != text(challenger) {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            PLAN,
            "the challenger was loaded with another tokenizer, chat template or stop ids than the king",
        )
        .with_hint("load it with `ModelSource::with_text_from` the king's folder"));
    }
    Ok(())
}

/// What the plan says of `judges`, whose answers canaries watch if `canaries`.
///
/// # Errors
/// No judge, two of one identity, one that speaks to no metric.
pub(super) fn plan_judges(judges: &[Arc<dyn Judge>], canaries: bool) -> Result<Vec<JudgePlan>> {
    let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, PLAN, message);
    if judges.is_empty() {
        return Err(invalid("there is no judge".into()).with_hint("name at least one"));
    }
    let mut plans: Vec<JudgePlan> = Vec::new();
    for judge in judges {
        let profile = judge.profile();
        let plan = JudgePlan {
            identity: judge.identity().clone(),
            metrics: profile.metrics.into_iter().collect(),
            watched: canaries && profile.canaries,
            reference_scores: profile.reference_scores,
            twins: profile.twins,
            offline: offline_judge(&**judge)?,
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
