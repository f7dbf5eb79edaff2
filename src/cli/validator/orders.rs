//! What an operator asks of a validator that may be at work: `retry`, `abandon`,
//! `set-aside`, `unfreeze`, `doctor`.

use super::super::exit::Exit;
use super::super::output::{note, print, print_json};
use super::{Which, choose};
use crate::report::Look;
use crate::validator::ledger::{Refusal, SubmissionRow};
use crate::validator::{Check, Found, doctor};
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, Registry, Result};

/// What follows for a validator at work.
const SOON: &str = "a validator at work does it within seconds, else the next one does";

pub(super) async fn retry(which: &Which, id: &str) -> Result<Exit> {
    let ledger = which.beside()?;
    let row = one(which, choose(which, &ledger, id).await?, id)?;
    ledger.retry(row.id).await?;
    print(&format!("submission {} is looked at again: {SOON}\n", row.id))?;
    Ok(Exit::Done)
}

pub(super) async fn abandon(which: &Which, id: &str, reason: &str) -> Result<Exit> {
    let ledger = which.beside()?;
    let row = one(which, choose(which, &ledger, id).await?, id)?;
    ledger.give_up(row.id, reason.to_owned()).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            error.with_hint(format!("`albedo validator status{}` names the open duel", which.again()))
        }
        _ => error,
    })?;
    print(&format!(
        "the duel of submission {} is given up when it is void, and planned anew: {SOON}\n",
        row.id
    ))?;
    note("its share of the error budget stays spent, and the log of duels says why");
    Ok(Exit::Done)
}

pub(super) async fn set_aside(which: &Which, id: &str, reason: &str) -> Result<Exit> {
    let ledger = which.beside()?;
    let row = one(which, choose(which, &ledger, id).await?, id)?;
    ledger.set_aside(row.id, reason.to_owned()).await?;
    print(&format!("submission {} is set aside before it is looked at again: {SOON}\n", row.id))?;
    note("nothing is spent, and the public data say why");
    Ok(Exit::Done)
}

pub(super) async fn unfreeze(which: &Which) -> Result<Exit> {
    let ledger = which.beside()?;
    match (ledger.unfreeze().await?, ledger.forgive().await?) {
        (None, None) => print("nothing was frozen\n")?,
        (bug, refusal) => {
            if let Some(bug) = bug {
                print(&format!("crowns fall again; the bug was: {bug}\n"))?;
            }
            if let Some(Refusal { message, .. }) = refusal {
                print(&format!("the validator is followed again; what was wrong: {message}\n"))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The submission that `id` means, if it is only one.
fn one(which: &Which, mut rows: Vec<SubmissionRow>, id: &str) -> Result<SubmissionRow> {
    match (rows.pop(), rows.len()) {
        (Some(row), 0) => Ok(row),
        (_, others) => {
            let message = format!("{} submissions are meant", others + 1);
            Err(Error::new(ErrorKind::Conflict, "find a submission", message)
                .with_fault(Fault::Operator)
                .with("id", id)
                .with_hint(format!("name one by its number: `albedo validator history{}`", which.again())))
        }
    }
}

pub(super) async fn check(which: &Which, as_json: bool, cx: &CallContext) -> Result<Exit> {
    let config = which.config()?;
    let registry = Registry::linked()?;
    let build = BuildContext::new(&registry, cx).with_resources(super::resources(&config));
    let checks = doctor(&config, &build).await;
    if as_json {
        print_json(&checks)?;
    } else {
        let look = Look::of_stdout();
        let text: String = checks.iter().map(|check| line(look, check)).collect();
        print(&text)?;
    }
    let bad = checks.iter().find_map(|check| match &check.found {
        Found::Bad(error) => Some(error),
        _ => None,
    });
    Ok(bad.map_or(Exit::Done, Exit::of))
}

fn line(look: Look, check: &Check) -> String {
    match &check.found {
        Found::Well(said) => look.entry(check.name, said),
        Found::Skipped(said) => look.entry(check.name, &format!("{}: {said}", look.warning("not tried"))),
        Found::Bad(error) => look.entry(check.name, &format!("{}: {error}", look.bad("bad"))),
    }
}
