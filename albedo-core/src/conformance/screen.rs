//! The suite of [`Screen`].

use std::path::Path;
use std::time::Duration;

use super::{Checked, FITTING, brief, broken, ends, ensure, is_contestants, same_identity, stops};
use crate::context::CallContext;
use crate::digest::canonical_json;
use crate::error::Fault;
use crate::screen::{Finding, Screen, ScreenStage, Subject};

/// Checks a screen on `subjects`, all of its stage and at least one, waiting
/// at most `patience` for each call: a stable identity and stage; the same
/// finding for the same subject, which JSON keeps; a subject of another stage
/// is a bug, a contestant's foul never an error; calls can be stopped.
///
/// # Errors
/// The first promise found broken.
pub async fn check_screen(screen: &dyn Screen, subjects: &[Subject<'_>], patience: Duration) -> Checked {
    let (identity, stage) = (screen.identity().clone(), screen.stage());
    same_identity(&identity, screen.identity())?;
    let cx = CallContext::new();
    let fits = !subjects.is_empty() && subjects.iter().all(|subject| subject.stage() == stage);
    ensure(fits, FITTING, || format!("{subjects:?} for stage {stage:?}"))?;

    for subject in subjects {
        let finding = inspect(screen, *subject, patience).await?;
        let again = inspect(screen, *subject, patience).await?;
        ensure(finding == again, "the same subject has the same finding", || {
            format!("{} after {}", brief(&again), brief(&finding))
        })?;
        let json = canonical_json(&finding).map_err(|error| error.to_string());
        let read =
            json.and_then(|json| serde_json::from_slice::<Finding>(&json).map_err(|error| error.to_string()));
        ensure(read.as_ref() == Ok(&finding), "a finding survives JSON", || {
            format!("{} after {}", brief(&read), brief(&finding))
        })?;
        stops(patience, |cx| async move { screen.inspect(*subject, &cx).await }).await?;
    }

    let other = match stage {
        ScreenStage::Reply => Subject::Parameters { submission: Path::new("."), king: Path::new(".") },
        _ => Subject::Reply { messages: &[], reply: "" },
    };
    match ends(patience, screen.inspect(other, &cx)).await? {
        Err(error) if error.fault() == Fault::Bug => {}
        answer => return broken("a subject of another stage is a bug", brief(&answer)),
    }
    same_identity(&identity, screen.identity())?;
    ensure(stage == screen.stage(), "the stage is stable", || format!("{:?}", screen.stage()))
}

async fn inspect(screen: &dyn Screen, subject: Subject<'_>, patience: Duration) -> Checked<Finding> {
    let cx = CallContext::new();
    match ends(patience, screen.inspect(subject, &cx)).await? {
        Ok(finding) => Ok(finding),
        Err(error) if is_contestants(&error) => {
            broken("a contestant's foul is a finding, not an error", error.to_string())
        }
        Err(error) => broken("a subject is inspected", error.to_string()),
    }
}

#[cfg(test)]
mod tests;
