//! The stages, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::{Admission, AdmissionOutcome, Admit, Models, Probes, Screened, ScreenedModel};
use crate::checkpoint::{Checkpoint, Seat, WeightsOf};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Artefact, Error, ErrorKind, Fault, Result, Side};
use crate::events::EventKind;
use crate::files::Provenance;
use crate::screen::{Finding, Screen, ScreenPart, ScreenStage, Sessions, WeightsInspection, WeightsScreen};

const OPERATION: &str = "screen the submission";

pub(super) async fn run(
    admit: &Admit,
    observer: &mut (dyn FnMut(&Screened) + Send),
    cx: &CallContext,
) -> Result<Admission> {
    // Work on other threads ends with this call, also if it is dropped.
    let cx = &cx.child();
    let _stop = Stop(cx.clone());
    let [king, submission] = &admit.references;
    let mut admission = Admission {
        king: ScreenedModel::listed(&*admit.models.king, king.clone(), cx).await?,
        submission: ScreenedModel::listed(&*admit.models.submission, submission.clone(), cx).await?,
        anchor: None,
        profile: admit.profile.clone(),
        seed: None,
        findings: Vec::new(),
        outcome: AdmissionOutcome::Admitted,
    };
    for stage in ScreenStage::ADMISSION {
        let screens: Vec<_> = admit.screens.iter().filter(|screen| screen.stage() == stage).collect();
        if screens.is_empty() {
            continue;
        }
        let found = match (stage, &admit.probes) {
            (ScreenStage::Files, _) => files(&screens, admit, cx).await?,
            (ScreenStage::Parameters, _) => weights(&screens, admit, &mut admission, cx).await?,
            (_, Some(probes)) => {
                admission.seed = Some(probes.seed);
                behaviour(&screens, admit, probes, cx).await?
            }
            (_, None) => continue,
        };
        for (screen, finding) in screens.into_iter().zip(found) {
            let screened = Screened { screen: screen.identity().clone(), stage, finding };
            observer(&screened);
            admission.findings.push(screened);
        }
        admission.outcome = AdmissionOutcome::of(&admission.findings);
        if !admission.is_admitted() {
            break;
        }
    }
    Ok(admission)
}

/// Cancels what is still running when it is dropped.
struct Stop(CallContext);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What could not be found out is unverified.
///
/// # Errors
/// The caller's own cancellation or deadline.
fn settle(found: Result<Finding>, cx: &CallContext) -> Result<Finding> {
    found.or_else(|error| {
        cx.check(OPERATION)?;
        match error.kind() {
            ErrorKind::Cancelled => Err(error),
            _ => Ok(Finding::unverified(&error)),
        }
    })
}

/// Runs each screen on a thread that may block: it may parse megabytes, and a screen of
/// another crate may read files of its own. A rejection stands only once the bytes that
/// were read are proven to be the submission's.
async fn files(screens: &[&Arc<dyn Screen>], admit: &Admit, cx: &CallContext) -> Result<Vec<Finding>> {
    let mut findings = Vec::with_capacity(screens.len());
    for &screen in screens {
        let (screen, king, submission) =
            (Arc::clone(screen), Arc::clone(&admit.models.king), Arc::clone(&admit.models.submission));
        let (inner, runtime) = (cx.clone(), tokio::runtime::Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            let ScreenPart::Files(part) = screen.part() else { return Err(changed_stage(&*screen)) };
            runtime.block_on(part.inspect(&*submission, &*king, &inner))
        });
        let found = cx.run(OPERATION, work).await?;
        let found = match found.unwrap_or_else(|panic| Err(panicked(&panic))) {
            Ok(rejected @ Finding::Rejected(_)) => admit.models.submission.prove(cx).await.map(|()| rejected),
            other => other,
        };
        findings.push(settle(found, cx)?);
    }
    Ok(findings)
}

/// One pass over each model's weights, whose visitors are all the screens.
async fn weights(
    screens: &[&Arc<dyn Screen>],
    admit: &Admit,
    admission: &mut Admission,
    cx: &CallContext,
) -> Result<Vec<Finding>> {
    let seats = screens.iter().map(|screen| match screen.part() {
        ScreenPart::Weights(part) => Ok(part.inspection(&admit.own)),
        _ => Err(changed_stage(&***screen)),
    });
    let found = match passes(seats.collect(), &admit.models, cx).await {
        Ok((seats, [anchor, king, submission])) => {
            admission.anchor = anchor;
            admission.king.parameters = king;
            admission.submission.parameters = submission;
            find(seats, cx).await?
        }
        // Proven bytes of the submission are not what its author declared.
        Err(error) if error.fault() == Fault::Contestant(Side::Challenger) => return Err(error),
        // Nobody has seen all the weights.
        Err(error) => {
            let unverified = settle(Err(error), cx)?;
            screens.iter().map(|_| Ok(unverified.clone())).collect()
        }
    };
    found.into_iter().map(|found| settle(found, cx)).collect()
}

/// The finding of `screen` alone on the weights of `models`; `own` as for
/// [`WeightsScreen::inspection`].
///
/// # Errors
/// What could not be found out; `cx`.
pub async fn inspect_weights(
    screen: &dyn WeightsScreen,
    models: &Models,
    own: &[String],
    cx: &CallContext,
) -> Result<Finding> {
    let (seats, _) = passes(vec![Ok(screen.inspection(own))], models, cx).await?;
    let found = find(seats, cx).await?.pop();
    found.unwrap_or_else(|| Err(Error::bug(OPERATION, "there is no finding")))
}

type Seats = Vec<Seat<dyn WeightsInspection>>;

/// Shows the weights of anchor, king and submission to `seats`; gives the
/// digests of the parameters of those that a screen looked at.
async fn passes(mut seats: Seats, models: &Models, cx: &CallContext) -> Result<(Seats, [Option<Digest>; 3])> {
    let mut checkpoints = Vec::new();
    for (of, files) in [
        (WeightsOf::Anchor, models.anchor.as_ref()),
        (WeightsOf::King, Some(&models.king)),
        (WeightsOf::Submission, Some(&models.submission)),
    ] {
        checkpoints.push(match files {
            Some(files) => {
                let owner = if of == WeightsOf::Submission { Side::Challenger } else { Side::King };
                let opened = async {
                    files.hold(cx).await?;
                    Checkpoint::open(Arc::clone(files), cx).await
                };
                let checkpoint = opened.await.map_err(|error| error.charged_to(|_| owner))?;
                Some((of, checkpoint))
            }
            None => None,
        });
    }
    let all: u64 = checkpoints.iter().flatten().map(|(_, checkpoint)| checkpoint.outline().bytes()).sum();
    let read = AtomicU64::new(0);
    let progress = |bytes: u64| {
        let read = read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        cx.emit(EventKind::weights("the admission", read, all));
    };
    let mut digests = [None; 3];
    for (digest, checkpoint) in digests.iter_mut().zip(checkpoints) {
        if let Some((of, checkpoint)) = checkpoint {
            (*digest, seats) = checkpoint.pass(of, seats, &progress, cx).await?;
        }
    }
    Ok((seats, digests))
}

/// What each inspection finds, all of them at the same time on threads that may
/// block.
async fn find(seats: Seats, cx: &CallContext) -> Result<Vec<Result<Finding>>> {
    let running: Vec<_> = seats
        .into_iter()
        .map(|seat| seat.map(|inspection| tokio::task::spawn_blocking(move || inspection.find())))
        .collect();
    let mut found = Vec::with_capacity(running.len());
    for running in running {
        found.push(match running {
            Ok(running) => cx.run(OPERATION, running).await?.unwrap_or_else(|panic| Err(panicked(&panic))),
            Err(error) => Err(error),
        });
    }
    Ok(found)
}

async fn behaviour(
    screens: &[&Arc<dyn Screen>],
    admit: &Admit,
    probes: &Probes,
    cx: &CallContext,
) -> Result<Vec<Finding>> {
    let loaded = probes.backend.load(&probes.model, cx).await;
    if let Err(error) = &loaded {
        let error = error.clone().charged_to(|artefact| match artefact {
            Artefact::Text if probes.model.text_from.is_some() => Side::King,
            _ => Side::Challenger,
        });
        // What was handed in is no model that can be run. A copy of ours may be incomplete.
        if error.fault() == Fault::Contestant(Side::Challenger)
            && admit.models.submission.provenance() == Provenance::Published
        {
            return Err(error);
        }
    }
    // The king is loaded for the screens that ask for him, and goes with the last of them.
    let mut king = None;
    let mut findings = Vec::with_capacity(screens.len());
    for &screen in screens {
        let submission = match &loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                cx.check(OPERATION)?;
                findings.push(Finding::unverified(error));
                continue;
            }
        };
        let found = match (screen.part(), &admit.king) {
            (ScreenPart::Behaviour(part), _) => part.inspect(&**submission, probes.seed, cx).await,
            (ScreenPart::Beside(_), None) => Ok(Finding::Flagged(json!({
                "reasons": ["not compared with the king: nobody said how to run him"],
                "rules": ["not-compared"],
            }))),
            (ScreenPart::Beside(part), Some(source)) => {
                if king.is_none() {
                    king = Some(probes.backend.load(source, cx).await);
                }
                match &king {
                    Some(Ok(king)) => {
                        let sessions = Sessions { submission: &**submission, king: &**king };
                        part.inspect(sessions, &admit.own, probes.seed, cx).await
                    }
                    // What keeps the king from being run is not the submission's fault.
                    Some(Err(error)) => Ok(Finding::unverified(error)),
                    None => Err(changed_stage(&**screen)),
                }
            }
            _ => Err(changed_stage(&**screen)),
        };
        findings.push(settle(found, cx)?);
    }
    let passed = findings.iter().all(|found| matches!(found, Finding::Clear(_) | Finding::Flagged(_)));
    if let (Some(seed), true, Ok(submission), Some(Ok(king))) = (admit.questions, passed, &loaded, &king) {
        for screen in screens {
            if let ScreenPart::Beside(part) = screen.part() {
                part.remember(Sessions { submission: &**submission, king: &**king }, seed, cx).await?;
            }
        }
    }
    Ok(findings)
}

fn changed_stage(screen: &dyn Screen) -> Error {
    Error::bug(OPERATION, format!("screen `{}` changed its stage", screen.identity().name))
}

fn panicked(panic: &tokio::task::JoinError) -> Error {
    Error::bug(OPERATION, format!("a screen panicked: {panic}"))
}
