//! The hub `folder`: a local mirror, whose models are pinned by the digests of
//! their files. Each revision is a folder of its own:
//!
//! ```text
//! mirror/owner/model/{digest}/SHA256SUMS     sha256sum * > SHA256SUMS
//! mirror/owner/model/{digest}/config.json    and every other file that it lists
//! ```
//!
//! `folder:owner/model@sha256:{digest}` is its reference, with the digest of
//! `SHA256SUMS` itself (`sha256sum SHA256SUMS`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::digest::Hasher;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Fault, FileEntry, HubRef, ModelFiles,
    ModelHub, Plugin, Provenance, Result, Revision,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files::{FolderFiles, read_small};

const RESOLVE: &str = "resolve a model of the mirror";
const PROVE: &str = "prove a model of the mirror";
const SUMS: &str = "SHA256SUMS";

/// Most bytes of `SHA256SUMS`: some ten thousand files. Source: chosen by albedo.
const MAX_SUMS: u64 = 1 << 20;

/// Bytes that are read at once to compare a file with its digest. Source: chosen by albedo.
const BLOCK: u64 = 8 << 20;

/// Settings of [`FolderHub`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderHubConfig {
    /// The mirror's folder.
    pub path: PathBuf,
}

/// Models of a local mirror; see the [module](self).
#[derive(Debug, Clone)]
pub struct FolderHub {
    folder: PathBuf,
}

impl FolderHub {
    /// The mirror in `folder`, which is looked at when a model is resolved.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// `error`, unless all of the mirror is gone: that a model is not there cannot be known then.
    fn absent(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound || self.folder.is_dir() {
            return error;
        }
        Error::new(ErrorKind::Unavailable, RESOLVE, "the mirror's folder is not there")
            .with_fault(Fault::Infrastructure)
            .with("path", self.folder.display())
            .with_hint("mount it, or correct the hub's `path`")
            .with_source(error)
    }
}

#[async_trait]
impl ModelHub for FolderHub {
    async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        let pinned = pinned(reference)?;
        let folder = self.folder.join(reference.repository()).join(pinned.to_string());
        let path = folder.join(SUMS);
        let listed = tokio::task::spawn_blocking(move || sums(&path, pinned));
        let listed =
            cx.run(RESOLVE, listed).await?.map_err(|error| Error::bug(RESOLVE, error.to_string()))?;
        let names = listed.map_err(|error| self.absent(error).with("reference", reference))?;
        Ok(Arc::new(Mirrored { files: FolderFiles::new(folder).published(), names }))
    }

    fn accepts(&self, reference: &HubRef) -> Result<()> {
        pinned(reference).map(drop)
    }
}

/// What pins the model of `reference`.
///
/// # Errors
/// The operator's: `reference` is another hub's, or names a Git commit.
fn pinned(reference: &HubRef) -> Result<Digest> {
    reference.require_hub(FolderHub::NAME, RESOLVE)?;
    let Revision::Sha256(pinned) = reference.revision() else {
        return Err(Error::new(ErrorKind::ConfigInvalid, RESOLVE, "a mirror's revision is no Git commit")
            .with_fault(Fault::Operator)
            .with("reference", reference)
            .with_hint("pin the digest of its SHA256SUMS: `@sha256:` and 64 digits"));
    };
    Ok(pinned)
}

impl Plugin<dyn ModelHub> for FolderHub {
    const NAME: &'static str = "folder";
    const SUMMARY: &'static str = "a local mirror, pinned by the digests of its files";
    type Config = FolderHubConfig;
    type Checked = FolderHubConfig;

    fn check(config: FolderHubConfig, _: &CheckContext<'_>) -> Result<FolderHubConfig> {
        Ok(config)
    }

    async fn build(config: FolderHubConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelHub>> {
        Ok(Arc::new(Self::new(cx.path(config.path))))
    }
}

albedo_core::register!(dyn ModelHub => FolderHub);

/// The files that `SHA256SUMS` lists, and no other.
#[derive(Debug)]
struct Mirrored {
    files: FolderFiles,
    names: BTreeMap<String, Digest>,
}

impl Mirrored {
    async fn digest(&self, file: &FileEntry, cx: &CallContext) -> Result<Digest> {
        let (mut hasher, mut at) = (Hasher::default(), 0);
        while at < file.size {
            let end = file.size.min(at + BLOCK);
            hasher.update(self.files.read(&file.name, at..end, cx).await?);
            at = end;
        }
        Ok(hasher.finish())
    }
}

#[async_trait]
impl ModelFiles for Mirrored {
    /// The pin vouches for the digests, and they for the files: [`Mirrored::prove`] compares
    /// them before a file convicts anybody.
    fn provenance(&self) -> Provenance {
        Provenance::Published
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        let mut listed = self.files.list(cx).await?;
        listed.retain_mut(|file| {
            file.sha256 = self.names.get(&file.name).copied();
            file.sha256.is_some()
        });
        match self.names.keys().find(|name| !listed.iter().any(|file| file.name == **name)) {
            Some(missing) => {
                Err(Error::new(ErrorKind::DataInvalid, RESOLVE, "the mirror lacks a file that it lists")
                    .with_fault(Fault::Infrastructure)
                    .with("file", missing)
                    .with_hint("copy the model into the mirror again"))
            }
            None => Ok(listed),
        }
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        if !self.names.contains_key(name) {
            let message = "the name is not one of the listing";
            return Err(Error::new(ErrorKind::NotFound, "read a model's file", message).with("name", name));
        }
        self.files.read(name, range, cx).await
    }

    /// Compares every file with its digest: also what the sizes of the listing say is
    /// proven by nothing else.
    async fn prove(&self, cx: &CallContext) -> Result<()> {
        for file in self.list(cx).await? {
            let found = self.digest(&file, cx).await?;
            if file.sha256 != Some(found) {
                let message = "a file of the mirror is not the one that it lists";
                return Err(Error::new(ErrorKind::DigestMismatch, PROVE, message)
                    .with_fault(Fault::Infrastructure)
                    .with("file", &file.name)
                    .with("found", found)
                    .with_hint("copy the model into the mirror again"));
            }
        }
        Ok(())
    }
}

/// The names and digests in the file `path`, whose own digest is `pinned`.
fn sums(path: &Path, pinned: Digest) -> Result<BTreeMap<String, Digest>> {
    let bytes = read_small(path, MAX_SUMS, RESOLVE, None)?;
    let found = Digest::of(&bytes);
    if found != pinned {
        return Err(Error::new(
            ErrorKind::DigestMismatch,
            RESOLVE,
            "the list of files is not the pinned one",
        )
        .with_fault(Fault::Infrastructure)
        .with("path", path.display())
        .with("found", found)
        .with_hint("copy the model into the mirror again"));
    }
    let invalid = |line: usize, message: &str| {
        Error::new(ErrorKind::DataInvalid, RESOLVE, message)
            .with_fault(Fault::Infrastructure)
            .with("path", path.display())
            .with("line", line)
            .with_hint("make it with `sha256sum`")
    };
    let text = String::from_utf8(bytes).map_err(|_| invalid(1, "the list of files is not UTF-8"))?;
    let mut names = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split_once("  ").and_then(|(digest, name)| Some((digest.parse().ok()?, name)));
        let Some((digest, name)) = entry else {
            return Err(invalid(number + 1, "the line is not a digest, two spaces and a name"));
        };
        if name.contains(['\\', '\0']) || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(number + 1, "the name leaves the model's folder"));
        }
        if names.insert(name.to_owned(), digest).is_some() {
            return Err(invalid(number + 1, "the name is listed twice"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use albedo_core::conformance::{HubFixture, check_hub};

    use super::*;

    /// A mirror of one model whose list of files is `sums`.
    fn mirror(sums: &str) -> (tempfile::TempDir, HubRef) {
        let mirror = tempfile::tempdir().expect("a folder");
        let digest = Digest::of(sums);
        let folder = mirror.path().join("owner/model").join(digest.to_string());
        fs::create_dir_all(folder.join("weights")).expect("a folder");
        fs::write(folder.join("config.json"), "{}").expect("writes");
        fs::write(folder.join("weights/1"), "0123456789").expect("writes");
        fs::write(folder.join("unlisted"), "x").expect("writes");
        fs::write(folder.join(SUMS), sums).expect("writes");
        let reference = HubRef::new("folder", "owner/model", Revision::Sha256(digest)).expect("a reference");
        (mirror, reference)
    }

    fn good() -> String {
        format!("{}  config.json\n{}  weights/1\n", Digest::of("{}"), Digest::of("0123456789"))
    }

    async fn refusal(mirror: &Path, reference: &HubRef) -> Error {
        let cx = CallContext::new();
        match FolderHub::new(mirror).resolve(reference, &cx).await {
            Ok(files) => files.list(&cx).await.expect_err("refused"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn a_mirror_conforms() {
        let (mirror, reference) = mirror(&good());
        check_hub(&FolderHub::new(mirror.path()), &HubFixture::new(reference)).await.expect("conforms");
    }

    #[tokio::test]
    async fn only_what_is_listed_is_there() {
        let (mirror, reference) = mirror(&good());
        let cx = CallContext::new();
        let files = FolderHub::new(mirror.path()).resolve(&reference, &cx).await.expect("resolves");
        let listed = files.list(&cx).await.expect("lists");
        let names: Vec<_> = listed.iter().map(|file| (file.name.as_str(), file.size)).collect();
        assert_eq!(names, [("config.json", 2), ("weights/1", 10)]);
        for name in ["unlisted", SUMS] {
            let error = files.read(name, 0..1, &cx).await.expect_err("not listed");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        }
    }

    #[tokio::test]
    async fn a_mirror_that_is_not_whole_is_our_fault() {
        let (folder, reference) = mirror(&format!("{}{}  model.safetensors\n", good(), Digest::of("")));
        let error = refusal(folder.path(), &reference).await;
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Infrastructure));
        assert!(error.to_string().contains("model.safetensors"), "{error}");

        let (folder, reference) = mirror(&good());
        let pinned = folder.path().join("owner/model").join(Digest::of(good()).to_string());
        fs::write(pinned.join(SUMS), "").expect("writes");
        let error = refusal(folder.path(), &reference).await;
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure));
        // A model that is not there, and a mirror that is not.
        let other =
            HubRef::new("folder", "owner/other", Revision::Sha256(Digest::of(""))).expect("a reference");
        assert_eq!(refusal(folder.path(), &other).await.kind(), ErrorKind::NotFound);
        let error = refusal(&folder.path().join("unmounted"), &other).await;
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
    }

    #[tokio::test]
    async fn a_file_is_what_was_handed_in_once_it_has_its_digest() {
        let (folder, reference) = mirror(&good());
        let cx = CallContext::new();
        let files = FolderHub::new(folder.path()).resolve(&reference, &cx).await.expect("resolves");
        assert_eq!(files.provenance(), Provenance::Published);
        files.prove(&cx).await.expect("as it is listed");
        let model = folder.path().join("owner/model").join(Digest::of(good()).to_string());
        for damaged in ["012345678", "0123456780", "01234567890", ""] {
            fs::write(model.join("weights/1"), damaged).expect("writes");
            let error = files.prove(&cx).await.expect_err("damaged");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure));
            assert!(error.to_string().contains("weights/1"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_hostile_list_is_refused() {
        let digest = Digest::of("{}");
        for (line, words) in [
            ("config.json".to_owned(), "two spaces"),
            (format!("{digest} config.json"), "two spaces"),
            (format!("{digest}  ../config.json"), "leaves the model's folder"),
            (format!("{digest}  /etc/hostname"), "leaves the model's folder"),
            (format!("{digest}  a\\b"), "leaves the model's folder"),
            (format!("{digest}  "), "leaves the model's folder"),
            (format!("{digest}  a\n{digest}  a"), "listed twice"),
        ] {
            let (folder, reference) = mirror(&line);
            let error = refusal(folder.path(), &reference).await;
            assert_eq!(error.kind(), ErrorKind::DataInvalid);
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
        let commit = HubRef::new("folder", "owner/model", Revision::Commit([1; 20])).expect("a reference");
        let refused = FolderHub::new("nowhere").accepts(&commit).expect_err("a commit");
        for error in [refusal(Path::new("nowhere"), &commit).await, refused] {
            assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
        }
    }
}
