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

    /// The option that means the same file again.
    pub(super) fn again(&self) -> String {
        self.draft.as_ref().map(|path| format!(" --draft {}", word(path))).unwrap_or_default()
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

/// The draft at `path` before a check writes it anew; none if there is none.
///
/// # Errors
/// The operator's: the file holds something else, which is left as it is; nothing can be written
/// beside it.
pub(super) fn before_a_check(path: &Path) -> Result<Option<Draft>> {
    let draft = match read(path, Path::new("FOLDER")) {
        Ok(draft) => Some(draft),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let part = part(path);
    let written = std::fs::write(&part, b"").and_then(|()| std::fs::remove_file(&part));
    written.map_err(|error| Error::io(KEEP, path, error))?;
    Ok(draft)
}

/// What is done when a draft is written.
const KEEP: &str = "keep what is known of a submission";

/// Where a draft is written first.
fn part(path: &Path) -> PathBuf {
    path.with_extension("json.part")
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, "read what is known of a submission", why.to_owned())
        .with_fault(Fault::Operator)
        .with("path", path.display())
        .with_hint("name another file with `--draft FILE`, or remove this one and check the model again")
}

impl Draft {
    /// A model that was checked. What is known of the same content from `before` stays.
    pub(super) fn checked(content: Digest, check: Checked, before: Option<Self>) -> Self {
        let (pack, is_uploaded) = match before.filter(|before| before.content == content) {
            Some(before) => (before.pack, before.is_uploaded),
            None => (None, false),
        };
        Self { format: FORMAT, content, check: Some(check), pack, is_uploaded }
    }

    /// Writes it whole, or leaves the file as it was.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::bug(KEEP, error.to_string()))?;
        crate::durable::replace(path, &part(path), &json).map_err(|error| Error::io(KEEP, path, error))
    }

    /// Whether the last check has admitted the model.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], the operator's.
    pub(super) fn require_admitted(&self, operation: &str, folder: &Path) -> Result<()> {
        let message = match self.check.as_ref().map(|check| check.outcome) {
            Some(AdmissionOutcome::Admitted) => return Ok(()),
            Some(AdmissionOutcome::Void) => "a screen could not find out whether the model passes",
            Some(AdmissionOutcome::Forfeit) => "a screen rejected the model: it would forfeit",
            None => "the model was not checked yet",
        };
        Err(Error::new(ErrorKind::Conflict, operation, message)
            .with_fault(Fault::Operator)
            .with("folder", folder.display())
            .with_hint(format!("see what it is: `albedo miner check {} --king MODEL`", word(folder))))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(content: &str, outcome: AdmissionOutcome, before: Option<Draft>) -> Draft {
        Draft::checked(Digest::of(content), Checked { king: "k".into(), profile: None, outcome }, before)
    }

    #[test]
    fn a_second_check_keeps_what_is_known_of_the_same_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m.submission.json");
        assert_eq!(before_a_check(&path).expect("may be written"), None);
        let digest = Digest::of("manifest");
        let packed = Packed {
            reference: format!("oci:owner/model@sha256:{digest}").parse().expect("a reference"),
            text: format!("v7|owner/model|sha256:{digest}"),
            bytes: 5,
            chunked: None,
        };
        let mut first = checked("content", AdmissionOutcome::Admitted, None);
        (first.pack, first.is_uploaded) = (Some(packed.clone()), true);
        first.write(&path).expect("writes");
        let before = || before_a_check(&path).expect("reads");
        let again = checked("content", AdmissionOutcome::Forfeit, before());
        assert_eq!((&again.pack, again.is_uploaded), (&Some(packed), true));
        assert!(again.require_admitted("x", folder.path()).is_err(), "and says what the last check found");
        let other = checked("other content", AdmissionOutcome::Admitted, before());
        assert_eq!((&other.pack, other.is_uploaded), (&None, false));
        other.require_admitted("x", folder.path()).expect("is admitted");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "the draft alone");
    }

    #[test]
    fn a_file_that_is_no_draft_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{\"model_type\": \"qwen3\"}").expect("writes");
        let error = before_a_check(&path).expect_err("no draft");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
        assert!(error.to_string().contains("--draft FILE"), "{error}");
        let nowhere = folder.path().join("none/m.json");
        assert_eq!(before_a_check(&nowhere).expect_err("no folder").kind(), ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    }
}
