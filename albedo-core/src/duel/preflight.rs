//! Canaries before a plan is frozen.

use std::sync::Arc;

use futures::future::join_all;

use super::answer::JudgedAnswer;
use super::ask::{Asking, Panelist};
use super::budget::Budget;
use super::builder::plan_judges;
use super::stored::{StoredCanaries, StoredPreflight};
use crate::canary::{
    CanaryDraw, CanaryOutcome, CanaryPlan, CanarySettings, JudgePreflight, Preflight, Series,
};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Journal;
use crate::judge::Judge;
use crate::marks::DuelSecret;
use crate::plan::DuelSettings;
use crate::record::{JournalEvent, RecordStore};
use crate::sample::Sample;
use crate::tasks::TaskSource;

const OPERATION: &str = "ask the judges before the duel";

/// Puts the canaries of `settings` to every watched judge of `judges`: who fails
/// one, or gives no answer that can be read, will not be on the panel.
///
/// Every answer is in `store`'s journal before it is used, and what that journal
/// holds is not asked for again: after an interruption, and after a preflight that
/// left too few judges, only what is missing is asked. Once the plan is frozen,
/// the preflight is over, and no judge is asked.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] without canaries in the settings, or with a quorum
/// beyond the panel; [`ErrorKind::Conflict`] if the store holds another duel; what
/// the task source or the store meets; a judge's error that is the operator's to
/// mend. A judge that is down is no error, but [`ErrorKind::Unavailable`] if that
/// leaves fewer judges than the quorum.
pub(super) async fn preflight(
    settings: &DuelSettings,
    tasks: &dyn TaskSource,
    judges: &[Arc<dyn Judge>],
    store: &dyn RecordStore,
    cx: &CallContext,
) -> Result<Preflight> {
    let canaries = canaries(settings)?;
    settings.check()?;
    canaries.check_panel(judges.len())?;
    let key = key(settings, canaries, tasks, judges)?;
    let journal = Journal { store, cx };
    let events = store.stored().await?;
    let budget = Budget::new(settings.limits.budget_usd, &events);
    let mut stored = match StoredPreflight::read(events, key)? {
        StoredPreflight::Over(preflight) => return Ok(preflight),
        StoredPreflight::Unfinished { begun, canaries } => {
            if !begun {
                let event = JournalEvent::Preflight { format: crate::record::FORMAT, key };
                journal.write(event, vec![]).await?;
            }
            canaries
        }
    };
    let mut drawn = Vec::new();
    for canary in 0..canaries.preflight {
        drawn.push(Series::Preflight.draw(&settings.seed, canary, tasks, cx).await?);
    }
    let asking = Asking {
        journal,
        budget: &budget,
        call_tries: settings.limits.call_tries,
        secret: DuelSecret::new(&settings.seed),
        key,
        series: Series::Preflight,
        failed: None,
    };
    let watched: Vec<_> = judges.iter().filter(|judge| judge.profile().canaries).cloned().collect();
    let plans = plan_judges(&watched, true)?;
    let asked = watched.iter().zip(&plans).enumerate().map(|(place, (judge, plan))| {
        let panelist = Panelist { judge: &**judge, plan, place: place as u32 };
        ask(asking, panelist, &drawn, &mut stored)
    });
    let asked: Vec<_> = asked.collect();
    let asked: Result<Vec<_>> = join_all(asked).await.into_iter().collect();
    let (outcomes, reasons): (Vec<_>, Vec<_>) = asked?.into_iter().unzip();
    let failed: Vec<_> = reasons.into_iter().flatten().collect();
    check_quorum(judges.len(), &outcomes, canaries, &failed)?;
    Ok(Preflight { key, judges: outcomes })
}

/// What `panelist` makes of the canaries `drawn`, and why it is not on the panel
/// if it is not.
fn ask<'a>(
    asking: Asking<'a>,
    panelist: Panelist<'a>,
    drawn: &'a [(CanaryDraw, Sample)],
    stored: &mut StoredCanaries,
) -> impl Future<Output = Result<(JudgePreflight, Option<String>)>> + use<'a> {
    let stored: Vec<_> =
        drawn.iter().map(|(draw, _)| stored.take(draw.canary, panelist.place as usize)).collect();
    async move {
        let answers = drawn.iter().zip(stored).map(|((draw, known), stored)| async move {
            let answers = asking.canary(draw, known, panelist, None, stored).await?;
            Ok(judged(draw, panelist, answers))
        });
        let answers: Result<Vec<_>> = join_all(answers).await.into_iter().collect();
        let (outcomes, errors): (Vec<_>, Vec<_>) = answers?.into_iter().unzip();
        let judge = JudgePreflight { judge: panelist.plan.identity.clone(), outcomes };
        let reason = (!judge.passed()).then(|| reason(drawn, &judge, errors.into_iter().flatten().last()));
        Ok((judge, reason))
    }
}

/// What a judge made of `draw`, and the error that kept it from answering.
fn judged(
    draw: &CanaryDraw,
    panelist: Panelist<'_>,
    [better_first, worse_first]: [JudgedAnswer; 2],
) -> (CanaryOutcome, Option<Error>) {
    let metrics = &panelist.plan.metrics;
    let outcome = draw.kind.outcome(metrics, better_first.assessment(), worse_first.assessment());
    (outcome, worse_first.error.or(better_first.error))
}

/// Why `judge` is not on the panel.
fn reason(drawn: &[(CanaryDraw, Sample)], judge: &JudgePreflight, error: Option<Error>) -> String {
    let of = |outcome| {
        let kinds = drawn.iter().zip(&judge.outcomes).filter(move |(_, of)| **of == outcome);
        kinds.map(|((draw, _), _)| draw.kind.as_str()).collect::<Vec<_>>().join(", ")
    };
    let mut reason = judge.judge.name.clone();
    for (outcome, words) in
        [(CanaryOutcome::Failed, " failed: "), (CanaryOutcome::Unanswered, " gave no readable answer to: ")]
    {
        let kinds = of(outcome);
        if !kinds.is_empty() {
            reason.extend([words, &kinds]);
        }
    }
    match error {
        Some(error) => format!("{reason} ({error})"),
        None => reason,
    }
}

fn canaries(settings: &DuelSettings) -> Result<CanarySettings> {
    settings
        .canaries
        .ok_or_else(|| Error::new(ErrorKind::ConfigInvalid, OPERATION, "the settings have no `canaries`"))
}

/// Refuses a panel of `all` judges of which `watched` left too few, for the `reasons`.
/// Who gave no readable answer may give one when it is asked again; who answered
/// wrongly stays off the panel of this duel.
fn check_quorum(
    all: usize,
    watched: &[JudgePreflight],
    canaries: CanarySettings,
    reasons: &[String],
) -> Result<()> {
    let lost = watched.iter().filter(|judge| !judge.passed()).count();
    let failed = watched.iter().filter(|judge| judge.outcomes.contains(&CanaryOutcome::Failed)).count();
    let (left, quorum) = (all - lost, canaries.quorum as usize);
    if left >= quorum {
        return Ok(());
    }
    let error = if all - failed >= quorum {
        let message = "too few judges are left for the quorum: there is no duel";
        Error::new(ErrorKind::Unavailable, OPERATION, message)
            .with_hint("try again when the judges answer, or begin a duel with others")
    } else {
        let message = "too many judges answered a canary wrongly for the quorum: there is no duel";
        Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
            .with_hint("begin a new duel with other judges; `albedo judge try` shows what one answers")
    };
    Err(error
        .with("left", left)
        .with("of", all)
        .with("quorum", quorum)
        .with("not on the panel", reasons.join("; ")))
}

/// What of `judges` the preflight leaves, and what the plan says of it.
pub(super) fn panel(
    settings: &DuelSettings,
    judges: Vec<Arc<dyn Judge>>,
    preflight: Preflight,
) -> Result<(Vec<Arc<dyn Judge>>, CanaryPlan)> {
    let canaries = canaries(settings)?;
    let all = judges.len();
    let left: Vec<_> = judges
        .into_iter()
        .filter(|judge| {
            !judge.profile().canaries
                || preflight.judges.iter().any(|of| of.judge == *judge.identity() && of.passed())
        })
        .collect();
    let failed = preflight.judges.iter().filter(|judge| !judge.passed());
    let failed: Vec<_> = failed.map(|judge| judge.judge.name.clone()).collect();
    check_quorum(all, &preflight.judges, canaries, &failed)?;
    Ok((left, CanaryPlan { settings: canaries, preflight }))
}

fn key(
    settings: &DuelSettings,
    canaries: CanarySettings,
    tasks: &dyn TaskSource,
    judges: &[Arc<dyn Judge>],
) -> Result<Digest> {
    let judges: Vec<_> = judges.iter().map(|judge| judge.identity()).collect();
    Digest::of_json(&(settings.seed, canaries, tasks.info(), judges))
}
