//! Uploading a folder. Its manifest has no time in it, so that its digest is known
//! before any byte leaves, and equal folders have equal references.

use std::collections::{BTreeMap, BTreeSet};

use albedo_core::http::{HeaderValue, HttpRequest, HttpResponse, Method, StatusCode, header};
use albedo_core::{
    CallContext, Digest, Error, ErrorKind, EventKind, Fault, FileEntry, HubRef, ModelFiles, Result, Retry,
    Revision,
};
use reqwest::Url;

use super::manifest::{Descriptor, File, MANIFEST, MOST_BYTES, Manifest, TITLE};
use super::registry::Access;
use super::{OciHub, Registry, transient};
use crate::cache::file_name;

const PUSH: &str = "push a model to the registry";

/// Bytes of one request of an upload.
const PIECE: u64 = 16 << 20;

/// What a model of ours says that it is.
const ARTIFACT: &str = "application/vnd.albedo.model.v1";

/// The empty configuration. Source: the OCI image specification 1.1, "empty descriptor".
const EMPTY: &[u8] = b"{}";
const EMPTY_KIND: &str = "application/vnd.oci.empty.v1+json";

/// A model and the reference that it has, or will have, in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The pinned reference.
    pub reference: HubRef,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were uploaded: what the registry had already was not.
    pub uploaded: u64,
}

impl OciHub {
    /// The reference that the files have as a model of ours, before anything is
    /// uploaded. Reads every byte.
    ///
    /// # Errors
    /// The operator's: no files, a name that a registry cannot keep; what `files` meets.
    pub async fn prepare(
        &self,
        repository: &str,
        files: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Pushed> {
        let invalid = |message: &str, name: &str| {
            Error::new(ErrorKind::ConfigInvalid, PUSH, message)
                .with_fault(Fault::Operator)
                .with("file", name.escape_default())
        };
        let (mut layers, mut bytes) = (Vec::new(), 0_u64);
        for entry in files.list(cx).await? {
            file_name(&entry.name).map_err(|why| invalid(why, &entry.name))?;
            let digest = digest(files, &entry, cx).await?;
            bytes = bytes.saturating_add(entry.size);
            layers.push(Descriptor {
                media_type: "application/octet-stream".into(),
                digest: format!("sha256:{digest}"),
                size: entry.size,
                annotations: Some(BTreeMap::from([(TITLE.to_owned(), entry.name)])),
            });
        }
        if layers.is_empty() {
            return Err(invalid("the folder has no files", ""));
        }
        let config = Descriptor {
            media_type: EMPTY_KIND.into(),
            digest: format!("sha256:{}", Digest::of(EMPTY)),
            size: EMPTY.len() as u64,
            annotations: None,
        };
        let manifest = serde_json::to_vec(&Manifest::new(ARTIFACT, config, layers))
            .map_err(|error| Error::bug(PUSH, error.to_string()))?;
        if manifest.len() > MOST_BYTES {
            return Err(invalid("the folder has more files than a manifest can list", ""));
        }
        super::manifest::parse(&manifest).map_err(|error| error.with_fault(Fault::Operator))?;
        let reference = HubRef::new(HubRef::OCI, repository, Revision::Sha256(Digest::of(&manifest)))?;
        Ok(Pushed { reference, manifest, bytes, uploaded: 0 })
    }

    /// Uploads the files, then the manifest that [`OciHub::prepare`] made of them, also
    /// under a tag: registries remove manifests that have none. What the registry has
    /// is not uploaded again, so that an interrupted push goes on.
    ///
    /// # Errors
    /// The registry's, which also compares every file with its digest; the operator's
    /// for a key that may not push.
    pub async fn push(&self, mut pushed: Pushed, files: &dyn ModelFiles, cx: &CallContext) -> Result<Pushed> {
        let Revision::Sha256(pinned) = pushed.reference.revision() else {
            return Err(Error::bug(PUSH, "a registry's revision is no digest"));
        };
        let name = pushed.reference.to_string();
        let repository = self.registry.repository(pushed.reference.repository())?.to_owned();
        let upload = Upload { registry: &self.registry, repository: &repository };
        let mut there = BTreeSet::new();
        let mut done = 0;
        for file in super::manifest::parse(&pushed.manifest)?.files {
            if there.insert(file.digest) && !upload.has(file.digest, cx).await? {
                let uploaded = upload.file(files, &file, cx).await;
                uploaded.map_err(|error| error.with("file", &file.name))?;
                pushed.uploaded += file.size;
            }
            done += file.size;
            cx.emit(EventKind::Progress {
                task: "upload".into(),
                name: name.clone(),
                done,
                total: Some(pushed.bytes),
            });
        }
        let empty = Digest::of(EMPTY);
        if !upload.has(empty, cx).await? {
            upload.small(EMPTY, empty, cx).await?;
        }
        for tag in [format!("sha256:{pinned}"), format!("albedo-{}", pinned.short())] {
            upload.manifest(&tag, pinned, &pushed.manifest, cx).await?;
        }
        Ok(pushed)
    }
}

struct Upload<'a> {
    registry: &'a Registry,
    repository: &'a str,
}

impl Upload<'_> {
    async fn has(&self, digest: Digest, cx: &CallContext) -> Result<bool> {
        let url = self.registry.url(&format!("{}/blobs/sha256:{digest}", self.repository));
        let request = HttpRequest::new(Method::HEAD, PUSH, url);
        let answer = self.registry.authorised(self.repository, Access::Push, &request, cx).await?;
        Ok(answer.status() == StatusCode::OK)
    }

    async fn small(&self, bytes: &'static [u8], digest: Digest, cx: &CallContext) -> Result<()> {
        let mut tries = self.registry.remote().tries(PUSH, cx);
        loop {
            let sent = async {
                let session = self.begin(cx).await?;
                self.end(session, digest, bytes.to_vec(), cx).await
            };
            match sent.await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// Uploads one file in pieces; after a failure from its beginning.
    async fn file(&self, files: &dyn ModelFiles, entry: &File, cx: &CallContext) -> Result<()> {
        let mut tries = self.registry.remote().tries(PUSH, cx);
        loop {
            match self.file_once(files, entry, cx).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn file_once(&self, files: &dyn ModelFiles, entry: &File, cx: &CallContext) -> Result<()> {
        let (mut session, mut at) = (self.begin(cx).await?, 0);
        while entry.size - at > PIECE {
            let bytes = files.read(&entry.name, at..at + PIECE, cx).await?;
            let range = HeaderValue::from_str(&format!("{at}-{}", at + PIECE - 1));
            let range = range.map_err(|error| Error::bug(PUSH, error.to_string()))?;
            let request = HttpRequest::new(Method::PATCH, PUSH, session.as_str())
                .with_header(header::CONTENT_TYPE, octets())
                .with_header(header::CONTENT_RANGE, range)
                .with_body(bytes);
            let answer = self.registry.success(self.repository, Access::Push, &request, cx).await?;
            session = self.session(&answer)?;
            at += PIECE;
        }
        let last = files.read(&entry.name, at..entry.size, cx).await?;
        self.end(session, entry.digest, last, cx).await
    }

    /// Where the next piece goes.
    async fn begin(&self, cx: &CallContext) -> Result<Url> {
        let url = self.registry.url(&format!("{}/blobs/uploads/", self.repository));
        let request = HttpRequest::new(Method::POST, PUSH, url);
        let answer = self.registry.success(self.repository, Access::Push, &request, cx).await?;
        self.session(&answer)
    }

    async fn end(&self, mut session: Url, digest: Digest, last: Vec<u8>, cx: &CallContext) -> Result<()> {
        session.query_pairs_mut().append_pair("digest", &format!("sha256:{digest}"));
        let request = HttpRequest::new(Method::PUT, PUSH, session.as_str())
            .with_header(header::CONTENT_TYPE, octets())
            .with_body(last);
        self.registry.success(self.repository, Access::Push, &request, cx).await.map(|_| ())
    }

    /// The address that an answer names, at the registry itself: bytes and token go to
    /// no other server.
    fn session(&self, answer: &HttpResponse) -> Result<Url> {
        let home = Url::parse(&self.registry.url(""));
        let home = home.map_err(|error| Error::bug(PUSH, error.to_string()))?;
        let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| home.join(location).ok());
        url.filter(|url| url.origin() == home.origin()).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, PUSH, "the registry wants the upload at another server")
                .with_fault(Fault::Operator)
                .with_retry(Retry::Never)
                .with("server", self.registry.server())
        })
    }

    /// Registers the manifest. A registry may know a blob only some time after it was
    /// uploaded.
    async fn manifest(&self, tag: &str, pinned: Digest, bytes: &[u8], cx: &CallContext) -> Result<()> {
        let url = self.registry.url(&format!("{}/manifests/{tag}", self.repository));
        let request = HttpRequest::new(Method::PUT, PUSH, url)
            .with_header(header::CONTENT_TYPE, HeaderValue::from_static(MANIFEST))
            .with_body(bytes.to_vec());
        let mut tries = self.registry.remote().tries(PUSH, cx);
        loop {
            match self.manifest_once(&request, pinned, cx).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn manifest_once(&self, request: &HttpRequest, pinned: Digest, cx: &CallContext) -> Result<()> {
        let (remote, server) = (self.registry.remote(), self.registry.server());
        let mut answer = self.registry.authorised(self.repository, Access::Push, request, cx).await?;
        if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            let words = remote.body(PUSH, &mut answer, 16 << 10, cx).await?;
            let words = String::from_utf8_lossy(&words).into_owned();
            let error = if words.contains("BLOB_UNKNOWN") {
                transient(ErrorKind::Unavailable, PUSH, "the registry does not know a file yet")
            } else {
                Error::new(ErrorKind::Refused, PUSH, "the registry refuses the manifest")
                    .with_retry(Retry::Never)
            };
            let words: String = words.chars().take(200).collect();
            return Err(error.with("server", server).with("answer", words.escape_default()));
        }
        if !answer.status().is_success() {
            return Err(remote.refusal(PUSH, &server, answer, self.registry.credential(), cx).await);
        }
        let named = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match named {
            Some(other) if other != format!("sha256:{pinned}") => {
                Err(Error::new(ErrorKind::Protocol, PUSH, "the registry gave the manifest another digest")
                    .with("found", other.escape_default())
                    .with("expected", pinned))
            }
            _ => Ok(()),
        }
    }
}

fn octets() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}

async fn digest(files: &dyn ModelFiles, entry: &FileEntry, cx: &CallContext) -> Result<Digest> {
    let (mut hasher, mut at) = (albedo_core::digest::Hasher::default(), 0);
    while at < entry.size {
        let end = (at + PIECE).min(entry.size);
        let bytes = files.read(&entry.name, at..end, cx).await?;
        hasher = tokio::task::spawn_blocking(move || {
            hasher.update(&bytes);
            hasher
        })
        .await
        .map_err(|error| Error::bug(PUSH, error.to_string()))?;
        at = end;
    }
    Ok(hasher.finish())
}
