//! The mark of a study's folder, by which a report tells it from a duel that decided something.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::LETS_ALL;
use crate::durable::replace;
use crate::{Digest, DuelPlan, Error, ErrorKind, Fault, Result};

/// The mark beside the journal.
const STUDY: &str = "study.json";

const WRITE: &str = "mark the folder of the study";
const READ: &str = "look whether the record is of a study";

/// What a mark says.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    /// The record whose replies were judged again.
    record: Digest,
}

/// Marks `folder` as one of a study, in which `record` is judged again.
pub(super) fn write(folder: &Path, record: Digest) -> Result<()> {
    let path = folder.join(STUDY);
    let mut json = serde_json::to_vec_pretty(&Mark { record })
        .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
    json.push(b'\n');
    if fs::read(&path).is_ok_and(|known| known == json) {
        return Ok(());
    }
    replace(&path, &folder.join(format!("{STUDY}.partial")), &json)
        .map_err(|error| Error::io(WRITE, &path, error))
}

/// Whether `folder`, which has the record of a duel under `plan`, is one of a study
/// ([`Rejudge::run`](super::Rejudge::run)): its rule only lets every sample be judged, and a file beside the record says so.
/// Before there was such a file, the folder's name did: it names the judged record and the plan.
///
/// # Errors
/// The file is malformed; what the disk meets.
pub fn is_study(folder: &Path, plan: &DuelPlan) -> Result<bool> {
    if plan.rule != LETS_ALL {
        return Ok(false);
    }
    let path = folder.join(STUDY);
    if path.exists() {
        let bytes = fs::read(&path).map_err(|error| Error::io(READ, &path, error))?;
        serde_json::from_slice::<Mark>(&bytes).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, READ, format!("the mark of the study is malformed: {error}"))
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("delete it, and run `albedo record rejudge` with the study again")
        })?;
        return Ok(true);
    }
    let whole = fs::canonicalize(folder).map_err(|error| Error::io(READ, folder, error))?;
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let planned = plan.digest()?.short();
    Ok(name.split_once('-').is_some_and(|(_, of)| of == planned))
}
