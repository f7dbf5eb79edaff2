//! What a study has cost: the one budget of all its records.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::JOURNAL;
use crate::record::JournalEntry;
use crate::{Error, ErrorKind, Fault, Result};

const OPERATION: &str = "count what the study has cost";

/// What the judges of studies have cost, by study and folder, in US dollars. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Spending(Arc<Mutex<Studies>>);

type Studies = BTreeMap<PathBuf, BTreeMap<PathBuf, f64>>;

impl Spending {
    /// Waits until no other record of any study is judged. What `study` holds of earlier runs is counted first.
    ///
    /// # Errors
    /// A journal of the study cannot be read.
    pub(super) async fn turn(&self, study: &Path) -> Result<Turn<'_>> {
        let mut studies = self.0.lock().await;
        if let Entry::Vacant(place) = studies.entry(study.to_owned()) {
            place.insert(earlier(study)?);
        }
        Ok(Turn { studies, study: study.to_owned() })
    }
}

/// The turn of one record, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    studies: MutexGuard<'a, Studies>,
    study: PathBuf,
}

impl Turn<'_> {
    /// What the study's folders have cost, except `folder`.
    pub(super) fn of_others(&self, folder: &Path) -> f64 {
        let folders = self.studies.get(&self.study).into_iter().flatten();
        folders.filter(|(other, _)| *other != folder).map(|(_, usd)| usd).sum()
    }

    /// Counts what `folder` has cost by now.
    ///
    /// # Errors
    /// Its journal cannot be read.
    pub(super) fn count(&mut self, folder: &Path) -> Result<()> {
        let usd = paid(folder)?;
        self.studies.entry(self.study.clone()).or_default().insert(folder.to_owned(), usd);
        Ok(())
    }
}

/// What each folder of `study` has cost.
fn earlier(study: &Path) -> Result<BTreeMap<PathBuf, f64>> {
    let failed = |error| Error::io(OPERATION, study, error);
    let entries = match fs::read_dir(study) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(failed)?,
    };
    let mut folders = BTreeMap::new();
    for entry in entries {
        let folder = entry.map_err(failed)?.path();
        if folder.join(JOURNAL).is_file() {
            let usd = paid(&folder)?;
            folders.insert(folder, usd);
        }
    }
    Ok(folders)
}

/// What the answers in the journal of `folder` have cost, as far as their prices are known.
fn paid(folder: &Path) -> Result<f64> {
    let path = folder.join(JOURNAL);
    let failed = |error| Error::io(OPERATION, &path, error);
    let mut journal = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0.0),
        file => BufReader::new(file.map_err(failed)?),
    };
    let (mut usd, mut line) = (0.0, Vec::new());
    loop {
        line.clear();
        journal.read_until(b'\n', &mut line).map_err(failed)?;
        // A torn last line is no answer: it is cut off when its duel goes on.
        if !line.ends_with(b"\n") {
            return Ok(usd);
        }
        let JournalEntry { event, .. } = serde_json::from_slice(&line).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, OPERATION, format!("a journal is malformed: {error}"))
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("move this folder out of the study, or choose another study with `--out DIR`")
        })?;
        usd += event.usage().and_then(|usage| usage.price_usd).unwrap_or_default();
    }
}
