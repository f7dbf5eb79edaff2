//! The public data that follows from the ledger: the state of the competition, and every
//! submission with its reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::unknown;
use crate::publish::public::{
    FORMAT, King, PublicCompetition, PublicLog, PublicSubmission, Queued, Registration, Reign, Status,
    StatusSource, SubmissionStatus, Submissions,
};
use crate::validator::ledger::{Competition, KingRow, SubmissionRow};
use crate::validator::parts::Shared;
use crate::validator::running::name;
use crate::validator::table::action;
use crate::{Error, Result};

/// After how many seconds a reader should doubt that the validator still writes: its chain
/// moves every few seconds, and so does this. Source: albedo.
const STALE_SECS: u64 = 3600;

/// Most submissions that are published, the newest first: a page that a browser still
/// reads. Older ones are in the records. Source: albedo.
const MOST: usize = 2000;

/// The bytes of the document `name`, as the ledger is now.
pub(in crate::validator) async fn written(document: &str, shared: &Shared, now_ms: u64) -> Result<Vec<u8>> {
    match document {
        "data/status.json" => json(&status(shared, now_ms).await?),
        "data/submissions.json" => json(&submissions(shared, now_ms).await?),
        other => Err(unknown(other)),
    }
}

async fn status(shared: &Shared, now_ms: u64) -> Result<Status> {
    let (rows, of_kings) = (shared.ledger.live().await?, shared.ledger.of_kings().await?);
    let kings = shared.ledger.kings().await?;
    let weights: BTreeMap<String, f64> = match shared.ledger.last_landed().await? {
        Some(epoch) => epoch.parts()?.into_iter().map(|(hotkey, part)| (hotkey.0, part)).collect(),
        None => BTreeMap::new(),
    };
    let kings: Vec<King> = kings.iter().map(|king| public_king(king, &of_kings, &weights)).collect();
    let reign = match (kings.first(), shared.ledger.king().await?) {
        (Some(king), Some(row)) => {
            let attempts = shared.ledger.spent(row.id).await?.attempts;
            Some(Reign::new(king.clone(), &shared.budget, attempts))
        }
        _ => None,
    };
    let queued = |row: &SubmissionRow| Queued {
        submission: public(row),
        state: row.state,
        since: row.since_ms / 1000,
    };
    let registration = shared
        .newest()
        .map(|seen| Registration { rao: seen.subnet.registration_cost, block: seen.head.number });
    Ok(Status {
        format: FORMAT,
        updated_at: now_ms / 1000,
        stale_after_secs: STALE_SECS,
        source: StatusSource::Validator,
        validator: Some(shared.hotkey.0.clone()),
        competitions: competitions(shared).await?,
        reign,
        kings,
        queue: rows.iter().map(queued).collect(),
        registration,
        log: Some(PublicLog {
            origin: shared.log.origin().to_owned(),
            key: shared.log.source().key().to_string(),
            size: shared.ledger.signed().await?,
        }),
    })
}

/// The competitions, the present one first.
async fn competitions(shared: &Shared) -> Result<Vec<PublicCompetition>> {
    let kings = shared.ledger.kings().await?;
    let public = |competition: &Competition| PublicCompetition {
        number: competition.id as u64,
        version: format!("v{}", competition.version),
        began_at: (competition.began_ms > 0).then_some(competition.began_ms / 1000),
        reason: sentence(&competition.reason),
        first_king: kings.iter().rfind(|king| king.competition == competition.id).map(|king| king.id as u64),
    };
    Ok(shared.ledger.competitions().await?.iter().rev().map(public).collect())
}

async fn submissions(shared: &Shared, now_ms: u64) -> Result<Submissions> {
    let rows = shared.ledger.newest_submissions(MOST).await?;
    let shown = |row: &SubmissionRow| SubmissionStatus {
        submission: public(row),
        state: row.state,
        since: row.since_ms / 1000,
        reason: sentence(&row.reason),
        action: action(row.state).into(),
        record: row.record,
        competition: Some(row.competition as u64),
    };
    Ok(Submissions {
        format: FORMAT,
        updated_at: now_ms / 1000,
        submissions: rows.iter().map(shown).collect(),
    })
}

fn public_king(king: &KingRow, rows: &BTreeMap<i64, SubmissionRow>, weights: &BTreeMap<String, f64>) -> King {
    let submission = king.submission.and_then(|id| rows.get(&id));
    let mut model = name(&king.model);
    model.parameters = king.parameters;
    King {
        number: king.id as u64,
        model,
        submission: submission.map(public),
        record: king.record,
        crowned_at: Some(king.crowned_ms / 1000),
        weight: king.hotkey.as_ref().and_then(|hotkey| weights.get(&hotkey.0).copied()),
        competition: Some(king.competition as u64),
    }
}

fn public(row: &SubmissionRow) -> PublicSubmission {
    PublicSubmission {
        hotkey: row.hotkey.0.clone(),
        repository: row.repository.clone(),
        pin: row.pin.clone(),
    }
}

/// The reason as a sentence.
fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let rest = characters.as_str();
    let stop = if rest.ends_with('.') { "" } else { "." };
    format!("{first}{rest}{stop}")
}

/// `document` as it is published.
pub(in crate::validator) fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| Error::bug("write the public data", error.to_string()))
}
