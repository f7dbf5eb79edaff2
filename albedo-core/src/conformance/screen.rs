//! The suites of [`Screen`], one for each stage.

use std::time::Duration;

use super::{Checked, FITTING, brief, broken, ends, ensure, is_contestants, same_identity, stops};
use crate::admission::{Models, inspect_weights};
use crate::backend::{Message, ModelSession};
use crate::context::CallContext;
use crate::digest::canonical_json;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::screen::{Finding, Screen, ScreenPart, ScreenStage};

/// Checks a screen of stage [`ScreenStage::Files`] on `subjects`, pairs of
/// submission and king and at least one, waiting at most `patience` for each
/// call: a stable identity and stage; the same finding for the same subject,
/// which JSON keeps; a contestant's foul never an error; calls can be stopped.
///
/// # Errors
/// The first promise found broken.
pub async fn check_files_screen(
    screen: &dyn Screen,
    subjects: &[[&dyn ModelFiles; 2]],
    patience: Duration,
) -> Checked {
    check(screen, ScreenStage::Files, subjects.len(), patience, |index, cx| async move {
        let [submission, king] = subjects[index];
        let ScreenPart::Files(part) = screen.part() else { return Err(other_stage()) };
        part.inspect(submission, king, &cx).await
    })
    .await
}

/// Checks a screen of stage [`ScreenStage::Parameters`] on `subjects`, as
/// [`check_files_screen`] does; and that it finds the same whether the king is
/// also given as the anchor or there is none.
///
/// # Errors
/// The first promise found broken.
pub async fn check_weights_screen(screen: &dyn Screen, subjects: &[Models], patience: Duration) -> Checked {
    let inspect = |models: Models, cx: CallContext| async move {
        let ScreenPart::Weights(part) = screen.part() else { return Err(other_stage()) };
        inspect_weights(part, &models, &[], &cx).await
    };
    check(screen, ScreenStage::Parameters, subjects.len(), patience, |index, cx| {
        inspect(subjects[index].clone(), cx)
    })
    .await?;
    for models in subjects.iter().filter(|models| models.anchor.is_none()) {
        let alone = found(patience, inspect(models.clone(), CallContext::new())).await?;
        let anchored = Models { anchor: Some(models.king.clone()), ..models.clone() };
        let anchored = found(patience, inspect(anchored, CallContext::new())).await?;
        ensure(alone == anchored, "the king is the anchor if there is no other", || {
            format!("{} after {}", brief(&anchored), brief(&alone))
        })?;
    }
    Ok(())
}

/// Checks a screen of stage [`ScreenStage::Behaviour`] on `subjects`, sessions
/// and seeds, as [`check_files_screen`] does.
///
/// # Errors
/// The first promise found broken.
pub async fn check_behaviour_screen(
    screen: &dyn Screen,
    subjects: &[(&dyn ModelSession, u64)],
    patience: Duration,
) -> Checked {
    check(screen, ScreenStage::Behaviour, subjects.len(), patience, |index, cx| async move {
        let (session, seed) = subjects[index];
        let ScreenPart::Behaviour(part) = screen.part() else { return Err(other_stage()) };
        part.inspect(session, seed, &cx).await
    })
    .await
}

/// Checks a screen of stage [`ScreenStage::Reply`] on `subjects`, conversations
/// and replies, as [`check_files_screen`] does.
///
/// # Errors
/// The first promise found broken.
pub async fn check_reply_screen(
    screen: &dyn Screen,
    subjects: &[(&[Message], &str)],
    patience: Duration,
) -> Checked {
    check(screen, ScreenStage::Reply, subjects.len(), patience, |index, cx| async move {
        let (messages, reply) = subjects[index];
        let ScreenPart::Reply(part) = screen.part() else { return Err(other_stage()) };
        part.inspect(messages, reply, &cx).await
    })
    .await
}

async fn check<F: Future<Output = Result<Finding>>>(
    screen: &dyn Screen,
    stage: ScreenStage,
    subjects: usize,
    patience: Duration,
    inspect: impl Fn(usize, CallContext) -> F,
) -> Checked {
    let identity = screen.identity().clone();
    same_identity(&identity, screen.identity())?;
    ensure(subjects > 0 && screen.stage() == stage, FITTING, || {
        format!("{subjects} subjects of stage {stage:?} for stage {:?}", screen.stage())
    })?;
    for subject in 0..subjects {
        let inspect = |cx| inspect(subject, cx);
        let finding = found(patience, inspect(CallContext::new())).await?;
        let again = found(patience, inspect(CallContext::new())).await?;
        ensure(finding == again, "the same subject has the same finding", || {
            format!("{} after {}", brief(&again), brief(&finding))
        })?;
        let json = canonical_json(&finding).map_err(|error| error.to_string());
        let read =
            json.and_then(|json| serde_json::from_slice::<Finding>(&json).map_err(|error| error.to_string()));
        ensure(read.as_ref() == Ok(&finding), "a finding survives JSON", || {
            format!("{} after {}", brief(&read), brief(&finding))
        })?;
        stops(patience, inspect).await?;
    }
    same_identity(&identity, screen.identity())?;
    ensure(stage == screen.stage(), "the stage is stable", || format!("{:?}", screen.stage()))
}

async fn found(patience: Duration, inspection: impl Future<Output = Result<Finding>>) -> Checked<Finding> {
    match ends(patience, inspection).await? {
        Ok(finding) => Ok(finding),
        Err(error) if is_contestants(&error) => {
            broken("a contestant's foul is a finding, not an error", error.to_string())
        }
        Err(error) => broken("a subject is inspected", error.to_string()),
    }
}

fn other_stage() -> Error {
    Error::bug("inspect a subject", "the screen is of another stage now")
}

#[cfg(test)]
mod tests;
