//! What the commands of a miner know of a model that is to be handed in: a file beside the
//! model's folder. Each command adds to it, and refuses bytes that the one before has not seen.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backends::files::FolderFiles;
use crate::backends::hubs::oci::{Layout, OciHub, OciHubConfig};
use crate::cli::output::word;
use crate::cli::source::absolute;
use crate::{
    AdmissionOutcome, BuildContext, CallContext, Digest, Error, ErrorKind, Fault, HubRef, ModelRef, Registry,
    Result, Revision,
};

/// The form of the file.
const FORMAT: u32 = 1;

/// Which file it is.
#[derive(Debug, clap::Args)]
pub(super) struct DraftArguments {
    /// File of what is known of the submission [default: beside the folder, with the ending
    /// `.submission.json`].
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
}

/// What is known of a model that is to be handed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    format: u32,
    /// The digest that the plain manifest of its files has: what the folder holds.
    pub(super) content: Digest,
    /// What `check` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) check: Option<Checked>,
    /// What `pack` made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pack: Option<Packed>,
    /// Whether `upload` has brought all of it to the registry.
    #[serde(default)]
    pub(super) is_uploaded: bool,
}

/// What `check` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checked {
    pub(super) king: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<String>,
    pub(super) outcome: AdmissionOutcome,
}

/// What a model will be in the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packed {
    pub(super) reference: HubRef,
    /// What is committed to.
    pub(super) text: String,
    pub(super) bytes: u64,
    /// Bytes from which on files are stored in chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chunked: Option<u64>,
}

impl Packed {
    pub(super) fn layout(&self) -> Layout {
        layout(self.chunked)
    }
}

pub(super) fn layout(chunked: Option<u64>) -> Layout {
    chunked.map_or(Layout::Plain, |from| Layout::Chunked { from, base: None })
}

impl DraftArguments {
    /// The file for the model in `folder`.
    pub(super) fn path(&self, folder: &Path) -> Result<PathBuf> {
        if let Some(path) = &self.draft {
            return Ok(path.clone());
        }
        let folder = absolute(folder)?;
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(".submission.json");
        Ok(folder.with_file_name(name))
    }

    /// What the file says of the model in `folder`.
    ///
    /// # Errors
    /// The operator's: there is no such file, or it is malformed.
    pub(super) fn read(&self, folder: &Path) -> Result<Draft> {
        read(&self.path(folder)?, folder)
    }
}

/// The draft at `path`, of the model in `folder`.
pub(super) fn read(path: &Path, folder: &Path) -> Result<Draft> {
    const OPERATION: &str = "read what is known of a submission";
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, OPERATION, "the model was not checked yet")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint(format!("check it first: `albedo miner check {} --king MODEL`", word(folder)))
        }
        _ => Error::io(OPERATION, path, error),
    })?;
    let draft: Draft = serde_json::from_slice(&bytes).map_err(|error| invalid(path, &error.to_string()))?;
    if draft.format == FORMAT {
        return Ok(draft);
    }
    Err(invalid(path, &format!("its format is {}, this program reads {FORMAT}", draft.format)))
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, "read what is known of a submission", why.to_owned())
        .with_fault(Fault::Operator)
        .with("path", path.display())
        .with_hint("remove the file, and check the model again")
}

impl Draft {
    /// A model that was checked.
    pub(super) fn checked(content: Digest, check: Checked) -> Self {
        Self { format: FORMAT, content, check: Some(check), pack: None, is_uploaded: false }
    }

    /// Writes it whole, or leaves the file as it was.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "keep what is known of a submission";
        let json =
            serde_json::to_vec_pretty(self).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        let part = path.with_extension("json.part");
        crate::durable::replace(path, &part, &json).map_err(|error| Error::io(OPERATION, path, error))
    }

    /// Whether the folder still holds what was checked.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], the operator's.
    pub(super) fn require(&self, content: Digest, folder: &Path) -> Result<()> {
        if self.content == content {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::DigestMismatch,
            "find a checked model",
            "the folder has changed since its check",
        )
        .with_fault(Fault::Operator)
        .with("folder", folder.display())
        .with_hint(format!("check it again: `albedo miner check {} --king MODEL`", word(folder))))
    }
}

/// The digest of what `folder` holds: that of its plain manifest, wherever it is uploaded.
/// Reads every byte.
pub(super) async fn content(folder: &Path, cx: &CallContext) -> Result<Digest> {
    let registry = Registry::linked()?;
    let hub = OciHub::build_with(&OciHubConfig::default(), &BuildContext::new(&registry, cx))?;
    let files = FolderFiles::new(folder);
    let pushed = hub.prepare("content/only", &files, &Layout::Plain, cx).await?;
    match pushed.reference.revision() {
        Revision::Sha256(digest) => Ok(digest),
        _ => Err(Error::bug("name a folder's content", "a registry's revision is no digest")),
    }
}

/// The model as the draft names it.
pub(super) fn named(model: &ModelRef) -> String {
    model.to_string()
}
