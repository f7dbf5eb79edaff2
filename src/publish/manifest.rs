//! The manifest of a published record: what its files are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bucket::check_name;
use super::public::{DuelNumbers, FORMAT, IndexEntry, ModelName, PublicOutcome, PublicSubmission};
use crate::admission::ScreenedModel;
use crate::log::Submission;
use crate::plan::{ContestantPlan, Terms};
use crate::record::{self, AnyRecord, SIGNATURES};
use crate::{CallContext, Digest, Error, ErrorKind, Fault, Result};

/// The files of a record: the three that its digest covers, and its signatures.
const FILES: [&str; 3] = ["record.jsonl", "record.blobs", "record.digest"];

/// Most bytes of a manifest.
pub(super) const MAX_MANIFEST: u64 = 1 << 20;

/// The folder of the data sets in a record's folder.
pub(super) const EXPORTS: &str = "exports/";

/// Most files of data sets beside a record. Source: albedo, which writes five.
const MOST_EXPORTS: usize = 64;

/// `records/DIGEST/manifest.json`: every file of the record, written after them.
///
/// The record's digest proves the three files that it covers; a signature proves itself.
/// So it does not matter who wrote the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecordManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The record's digest.
    pub record: Digest,
    /// Its line in the index.
    pub entry: IndexEntry,
    /// Its files.
    pub files: Vec<ManifestFile>,
    /// Data sets that its publisher has made of it: they follow from the record, and no
    /// digest of the record covers them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<ManifestFile>,
}

/// One file of a published record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its name in a record's folder.
    pub name: String,
    /// Where it is, from the manifest's folder: `name`, but for signatures and data sets, of
    /// which several publishers may have different ones.
    pub at: String,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of them.
    pub sha256: Digest,
}

impl RecordManifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], saying what is wrong; [`ErrorKind::Unsupported`] for
    /// a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid =
            |message: String| Error::new(ErrorKind::DataInvalid, "read a record's manifest", message);
        check_format(bytes, "read a record's manifest")?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if manifest.entry.record != manifest.record {
            return Err(invalid("its entry is another record's".into()));
        }
        let names: Vec<_> = manifest.files.iter().map(|file| file.name.as_str()).collect();
        if names[..] != FILES && names[..] != [FILES[0], FILES[1], FILES[2], SIGNATURES] {
            return Err(invalid("it does not name the files of a record".into()));
        }
        for file in &manifest.files {
            let place = if file.name == SIGNATURES { signatures_at(file.sha256) } else { file.name.clone() };
            if file.at != place {
                return Err(invalid(format!("`{}` is not where it should be", file.name)));
            }
        }
        let mut names = BTreeSet::new();
        for file in &manifest.exports {
            let is_inside = file.name.starts_with(EXPORTS) && check_name(&file.name).is_ok();
            if !is_inside || !names.insert(&file.name) {
                return Err(invalid(format!("`{}` is no name of a data set", file.name.escape_default())));
            }
            if file.at != export_at(&file.name, file.sha256) {
                return Err(invalid(format!("`{}` is not where it should be", file.name)));
            }
        }
        if names.len() > MOST_EXPORTS {
            return Err(invalid(format!("it names more than {MOST_EXPORTS} files of data sets")));
        }
        Ok(manifest)
    }

    /// The bytes of the manifest.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        json(self)
    }

    /// Its object's name.
    pub fn at(record: Digest) -> String {
        format!("records/{record}/manifest.json")
    }
}

fn signatures_at(sha256: Digest) -> String {
    format!("signatures/{sha256}.signatures")
}

/// Where the file `name` of the data sets is: under its digest, so that publishers whose
/// license or version differs do not meet.
pub(super) fn export_at(name: &str, sha256: Digest) -> String {
    let ending =
        name.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, ending)| ending);
    format!("{EXPORTS}{sha256}.{ending}")
}

/// The bytes of a published file: JSON that people can read, in one order of its keys.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|error| Error::bug("write the public data", error.to_string()).with_source(error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Refuses what a newer albedo wrote.
pub(super) fn check_format(bytes: &[u8], operation: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorKind::DataInvalid, operation, error.to_string()))?;
    if head.format == FORMAT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, operation, "it has a format that this albedo does not know")
        .with("format", head.format)
        .with("known", FORMAT)
        .with_hint("update albedo"))
}

/// A record that is ready to be published: read, found true, and described.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) record: Arc<AnyRecord>,
    pub(super) manifest: RecordManifest,
    pub(super) folder: PathBuf,
}

impl Ready {
    /// Reads the record in `folder` and works its verdict out again: nothing is
    /// published that a reader would find false.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(super) async fn read(
        folder: &Path,
        submission: Option<&Submission>,
        decided_at: u64,
        cx: &CallContext,
    ) -> Result<Self> {
        let named = |error: Error| {
            let is_named = error.context().iter().any(|(key, _)| *key == "record");
            if is_named { error } else { error.with("record", folder.display()) }
        };
        let path = folder.to_owned();
        let read = move || -> Result<(AnyRecord, Vec<ManifestFile>)> {
            let record = AnyRecord::open(&path)?;
            record::signers(&path, &record).map(drop)?;
            let mut files = Vec::new();
            for name in FILES.into_iter().chain([SIGNATURES]) {
                let path = path.join(name);
                let io = |error| Error::io("read the record", &path, error);
                let file = match std::fs::File::open(&path) {
                    Err(error) if name == SIGNATURES && error.kind() == std::io::ErrorKind::NotFound => {
                        continue;
                    }
                    file => file.map_err(io)?,
                };
                let size = file.metadata().map_err(io)?.len();
                let sha256 = Digest::of_reader(file).map_err(io)?;
                let at = if name == SIGNATURES { signatures_at(sha256) } else { name.into() };
                files.push(ManifestFile { name: name.into(), at, size, sha256 });
            }
            Ok((record, files))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| Error::bug("read the record", error.to_string()))?;
        let (record, files) = read.map_err(named)?;
        match &record {
            AnyRecord::Forfeit(forfeit) => forfeit.verify(None).map_err(named)?,
            AnyRecord::Duel(duel) => {
                let verified = record::verify_record(duel, &record::VerifyOptions::default(), cx).await;
                verified.map(drop).map_err(named)?;
            }
        }
        let entry = entry(&record, submission, decided_at);
        let exports = Vec::new();
        let manifest = RecordManifest { format: FORMAT, record: record.digest(), entry, files, exports };
        Ok(Self { record: Arc::new(record), manifest, folder: folder.to_owned() })
    }
}

/// The line of `record` in the index.
fn entry(record: &AnyRecord, submission: Option<&Submission>, decided_at: u64) -> IndexEntry {
    let screened = |model: &ScreenedModel| ModelName {
        parameters: model.parameters,
        reference: model.reference.as_ref().map(ToString::to_string),
    };
    let mut entry = IndexEntry {
        record: record.digest(),
        decided_at,
        outcome: PublicOutcome::Forfeit,
        reason: Some("screened".into()),
        king: ModelName::default(),
        challenger: ModelName::default(),
        submission: submission.cloned().map(PublicSubmission::from),
        numbers: None,
        log_entry: None,
    };
    match record {
        AnyRecord::Forfeit(forfeit) => {
            entry.king = screened(&forfeit.admission.king);
            entry.challenger = screened(&forfeit.admission.submission);
        }
        AnyRecord::Duel(duel) => {
            let (plan, verdict) = (duel.plan(), duel.verdict());
            let planned = |side: &ContestantPlan, model: Option<&ScreenedModel>| ModelName {
                parameters: Some(side.model.parameters),
                reference: model.and_then(|model| model.reference.as_ref()).map(ToString::to_string),
            };
            let admission = plan.admission.as_deref();
            entry.king = planned(&plan.king, admission.map(|admission| &admission.king));
            entry.challenger = planned(&plan.challenger, admission.map(|admission| &admission.submission));
            (entry.outcome, entry.reason) = PublicOutcome::of(verdict.outcome);
            let attempt = match plan.terms {
                Terms::Reign { attempt, .. } => Some(attempt),
                Terms::Standalone { .. } => None,
            };
            entry.numbers = Some(DuelNumbers {
                samples: verdict.samples,
                planned: plan.samples,
                margin: verdict.margin,
                interval: verdict.interval().map(Into::into),
                rule: plan.rule.name().into(),
                alpha: plan.terms.alpha(),
                attempt,
            });
        }
    }
    entry
}

/// An object that a manifest names is missing or another one.
pub(super) fn unresolved(operation: &str, message: &str, record: Digest) -> Error {
    Error::new(ErrorKind::DigestMismatch, operation, message)
        .with_fault(Fault::Infrastructure)
        .with("record", record)
}
