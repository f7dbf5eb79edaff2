//! The data sets that are published beside a record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::manifest::{EXPORTS, ManifestFile, export_at};
use crate::backends::tables::Form;
use crate::export::Export;
use crate::record::AnyRecord;
use crate::{Digest, Error, Result};

const OPERATION: &str = "make the data sets of the record";

/// The data sets that are published beside each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exports {
    /// The form of their files.
    pub form: Form,
    /// The license that every row states, as its SPDX name: records do not know it.
    pub license: Option<String>,
}

impl Default for Exports {
    fn default() -> Self {
        Self { form: Form::Parquet, license: None }
    }
}

/// Data sets in a folder that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Made {
    folder: TempDir,
    pub(super) files: Vec<ManifestFile>,
}

impl Made {
    /// Where `file` is on this machine.
    pub(super) fn path(&self, file: &ManifestFile) -> PathBuf {
        self.folder.path().join(&file.name)
    }
}

/// Makes the data sets of `record`: what `albedo record export` writes. None of a submission
/// that was not admitted, and of a duel without samples.
///
/// # Errors
/// The record lacks a text; what the disk meets.
pub(super) async fn make(record: &Arc<AnyRecord>, settings: &Exports) -> Result<Option<Made>> {
    let (record, settings) = (Arc::clone(record), settings.clone());
    let made = tokio::task::spawn_blocking(move || make_here(&record, &settings)).await;
    made.map_err(|error| Error::bug(OPERATION, error.to_string()))?
}

fn make_here(record: &AnyRecord, settings: &Exports) -> Result<Option<Made>> {
    let AnyRecord::Duel(record) = record else { return Ok(None) };
    if record.samples().is_empty() {
        return Ok(None);
    }
    let failed = |error| Error::io(OPERATION, &std::env::temp_dir(), error);
    let folder = tempfile::tempdir().map_err(failed)?;
    let mut export = Export::create(&folder.path().join(EXPORTS), settings.form, settings.license.clone())?;
    export.add(record)?;
    let written = export.finish()?;
    let paths = written.iter().map(|file| file.path.as_path()).chain([Path::new("README.md")]);
    let files = paths.map(|path| file(folder.path(), path)).collect::<Result<_>>()?;
    Ok(Some(Made { folder, files }))
}

/// What the file at `path` of the data sets is.
fn file(folder: &Path, path: &Path) -> Result<ManifestFile> {
    let name = format!("{EXPORTS}{}", path.display());
    let path = folder.join(&name);
    let io = |error| Error::io(OPERATION, &path, error);
    let file = std::fs::File::open(&path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let sha256 = Digest::of_reader(file).map_err(io)?;
    Ok(ManifestFile { at: export_at(&name, sha256), name, size, sha256 })
}
