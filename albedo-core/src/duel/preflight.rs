//! Canaries before a plan is frozen.

use std::sync::Arc;

use futures::future::join_all;

use super::sample::known;
use crate::canary::{
    CanaryDraw, CanaryOutcome, CanaryPlan, CanarySettings, JudgePreflight, Preflight, Series,
};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::draw::Sample;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::judge::{Assessment, Comparison, Judge, Preparation};
use crate::marks::{DuelSecret, JudgementKey, Question};
use crate::panel::Order;
use crate::plan::{DuelSettings, Seed};
use crate::record::{JournalEvent, RecordStore};
use crate::tasks::TaskSource;

const OPERATION: &str = "ask the judges before the duel";

/// Puts the canaries of `settings` to every watched judge of `judges`: who fails
/// one, or gives no answer that can be read, will not be on the panel. A store
/// that holds a duel's journal holds its preflight, and nobody is asked.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] without canaries in the settings; what the task
/// source or the store meets; a judge's error that is the operator's to mend. A
/// judge that is down is no error.
pub async fn preflight(
    settings: &DuelSettings,
    tasks: &dyn TaskSource,
    judges: &[Arc<dyn Judge>],
    store: Option<&dyn RecordStore>,
    cx: &CallContext,
) -> Result<Preflight> {
    let Some(canaries) = settings.canaries else {
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "the settings have no `canaries`"));
    };
    settings.check()?;
    let watched: Vec<_> = judges.iter().filter(|judge| judge.watched()).collect();
    let key = key(settings, canaries, tasks, judges)?;
    if let Some(store) = store
        && let Some(JournalEvent::Opened { plan, .. }) = store.stored().await?.into_iter().next()
        && let Some(planned) = plan.canaries
        && planned.preflight.key == key
    {
        return Ok(planned.preflight);
    }
    let mut drawn = Vec::new();
    for canary in 0..canaries.preflight {
        drawn.push(Series::Preflight.draw(&settings.seed, canary, tasks, cx).await?);
    }
    let asked = watched.iter().map(|judge| async {
        let outcomes = drawn.iter().map(|(draw, sample)| outcome(&***judge, settings, key, draw, sample, cx));
        let outcomes: Result<Vec<_>> = join_all(outcomes).await.into_iter().collect();
        Ok(JudgePreflight { judge: judge.identity().clone(), outcomes: outcomes? })
    });
    let judges: Result<Vec<_>> = join_all(asked).await.into_iter().collect();
    Ok(Preflight { key, judges: judges? })
}

/// What of `judges` the preflight leaves, and what the plan says of it.
pub(super) fn panel(
    settings: &DuelSettings,
    tasks: &dyn TaskSource,
    judges: Vec<Arc<dyn Judge>>,
    preflight: Preflight,
) -> Result<(Vec<Arc<dyn Judge>>, CanaryPlan)> {
    let Some(canaries) = settings.canaries else {
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "the settings have no `canaries`"));
    };
    if key(settings, canaries, tasks, &judges)? != preflight.key {
        return Err(Error::new(
            ErrorKind::Conflict,
            "plan the duel",
            "the preflight asked other judges, or for another duel",
        ));
    }
    let all = judges.len();
    let left: Vec<_> = judges
        .into_iter()
        .filter(|judge| {
            !judge.watched() || preflight.judges.iter().any(|of| of.judge == *judge.identity() && of.passed())
        })
        .collect();
    if left.len() < canaries.quorum as usize {
        let failed: Vec<_> = (preflight.judges.iter())
            .filter(|judge| !judge.passed())
            .map(|judge| format!("{} {:?}", judge.judge.name, judge.outcomes))
            .collect();
        return Err(Error::new(
            ErrorKind::Unavailable,
            "plan the duel",
            "the preflight left fewer judges than the quorum: there is no duel, and nothing is spent",
        )
        .with("left", left.len())
        .with("of", all)
        .with("quorum", canaries.quorum)
        .with("not on the panel", failed.join("; "))
        .with_hint("try again later, or ask other judges"));
    }
    Ok((left, CanaryPlan { settings: canaries, preflight }))
}

fn key(
    settings: &DuelSettings,
    canaries: CanarySettings,
    tasks: &dyn TaskSource,
    judges: &[Arc<dyn Judge>],
) -> Result<Digest> {
    let judges: Vec<_> = judges.iter().map(|judge| judge.identity()).collect();
    let seed: Seed = settings.seed;
    Digest::of_json(&(seed, canaries, tasks.info(), judges))
}

/// What `judge` makes of one canary.
async fn outcome(
    judge: &dyn Judge,
    settings: &DuelSettings,
    key: Digest,
    draw: &CanaryDraw,
    sample: &Sample,
    cx: &CallContext,
) -> Result<CanaryOutcome> {
    let secret = DuelSecret::new(&settings.seed);
    let question = Question::Canary(draw.canary);
    let tries = settings.limits.call_tries;
    let preparation = if judge.needs().preparation {
        let request = Preparation {
            messages: sample.messages.clone(),
            reference: sample.reference.clone(),
            fence: secret.fence(key, question),
        };
        match answered(tries, || judge.prepare(&request, cx)).await? {
            Some(preparation) => Some(preparation),
            None => return Ok(CanaryOutcome::Unanswered),
        }
    } else {
        None
    };
    let [better, worse] = draw.kind.pair(&sample.reference).map(known);
    let ask = async |order| {
        let (first, second) = match order {
            Order::KingFirst => (&better, &worse),
            Order::ChallengerFirst => (&worse, &better),
        };
        let (mut asked, mut last) = (0, None);
        while asked < tries && matches!(last, None | Some(Assessment::Unreadable { .. })) {
            asked += 1;
            let judgement = JudgementKey { plan: key, question, judge: judge.identity(), order };
            let comparison = Comparison {
                messages: sample.messages.clone(),
                reference: sample.reference.clone(),
                first: first.clone(),
                second: second.clone(),
                preparation: preparation.clone(),
                marks: secret.marks(&judgement, asked)?,
            };
            match answered(tries, || judge.compare(&comparison, cx)).await? {
                Some(assessment) => last = Some(assessment),
                None => return Ok(None),
            }
        }
        Ok::<_, Error>(last)
    };
    let (better_first, worse_first) = futures::try_join!(ask(Order::KingFirst), ask(Order::ChallengerFirst))?;
    let metrics: Vec<_> = judge.metrics().into_iter().collect();
    Ok(draw.kind.outcome(&metrics, better_first.as_ref(), worse_first.as_ref()))
}

/// The answer within `tries` calls; none from infrastructure that is down.
async fn answered<T, F: Future<Output = Result<T>>>(tries: u32, call: impl Fn() -> F) -> Result<Option<T>> {
    for _ in 0..tries {
        match call().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) if error.fault() != Fault::Infrastructure => return Err(error),
            Err(error) if !error.is_retryable() => return Ok(None),
            Err(_) => {}
        }
    }
    Ok(None)
}
