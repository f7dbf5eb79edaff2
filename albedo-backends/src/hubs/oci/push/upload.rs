//! Uploading what a manifest names, then the manifest.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use albedo_core::http::{HeaderValue, HttpRequest, HttpResponse, Method, Redirects, StatusCode, header};
use albedo_core::{
    CallContext, Digest, Error, ErrorKind, EventKind, Fault, ModelFiles, Result, Retry, Revision,
};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Url;

use super::super::manifest::MANIFEST;
use super::super::registry::{Access, Registry};
use super::super::{OciHub, transient};
use super::{Blob, Content, PIECE, Pushed};

const PUSH: &str = "push a model to the registry";

/// Blobs that are uploaded at once. Of each a piece is in memory.
const AT_ONCE: usize = 3;

impl OciHub {
    /// Uploads the files, then the manifest that [`OciHub::prepare`] made of them, also
    /// under a tag: registries remove manifests that have none. What the registry has
    /// is not uploaded again, so that an interrupted push goes on.
    ///
    /// # Errors
    /// The registry's, which also compares every blob with its digest; the operator's
    /// for a key that may not push, and for a base of which the registry has lost a pack.
    pub async fn push(&self, mut pushed: Pushed, files: &dyn ModelFiles, cx: &CallContext) -> Result<Pushed> {
        let Revision::Sha256(pinned) = pushed.reference.revision() else {
            return Err(Error::bug(PUSH, "a registry's revision is no digest"));
        };
        let repository = self.registry.repository(pushed.reference.repository())?;
        let upload = Upload { registry: &self.registry, repository, files, cx };
        let name = pushed.reference.to_string();
        let total: u64 = pushed.blobs.iter().map(|blob| blob.size).sum();
        let (done, uploaded) = (AtomicU64::new(0), AtomicU64::new(0));
        let one = |blob| {
            let (upload, name, done, uploaded) = (&upload, &name, &done, &uploaded);
            async move {
                if upload.send(blob).await? {
                    uploaded.fetch_add(blob.size, Ordering::Relaxed);
                }
                let done = done.fetch_add(blob.size, Ordering::Relaxed) + blob.size;
                let (task, name) = ("upload".into(), name.clone());
                cx.emit(EventKind::Progress { task, name, done, total: Some(total) });
                Ok::<_, Error>(())
            }
        };
        stream::iter(&pushed.blobs).map(one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        for tag in [format!("sha256:{pinned}"), format!("albedo-{}", pinned.short())] {
            upload.manifest(&tag, pinned, &pushed.manifest).await?;
        }
        pushed.uploaded = uploaded.into_inner();
        Ok(pushed)
    }
}

struct Upload<'a> {
    registry: &'a Registry,
    repository: &'a str,
    files: &'a dyn ModelFiles,
    cx: &'a CallContext,
}

impl Upload<'_> {
    /// Uploads `blob` unless the registry has it; returns whether it did. After a failure
    /// it begins again.
    async fn send(&self, blob: &Blob) -> Result<bool> {
        let remote = self.registry.remote();
        if remote.retried(PUSH, self.cx, || self.has(blob)).await? {
            return Ok(false);
        }
        let name = match &blob.content {
            Content::Bytes(_) => None,
            Content::File { name, .. } => Some(name),
            Content::Earlier => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    PUSH,
                    "the registry has lost a pack of the base",
                )
                .with_fault(Fault::Operator)
                .with("digest", blob.digest)
                .with_hint("push without a base"));
            }
        };
        let sent = remote.retried(PUSH, self.cx, || self.send_once(blob)).await;
        sent.map(|()| true).map_err(|error| match name {
            Some(name) => error.with("file", name.escape_default()),
            None => error,
        })
    }

    async fn has(&self, blob: &Blob) -> Result<bool> {
        let url = self.registry.url(&format!("{}/blobs/sha256:{}", self.repository, blob.digest));
        // Registries may send for a blob to where it is stored.
        let request = HttpRequest::new(Method::HEAD, PUSH, url).with_redirects(Redirects::AnyOrigin);
        let answer = self.registry.authorised(self.repository, Access::Push, &request, self.cx).await?;
        match answer.status() {
            // What is not here cannot be uploaded, and an answer to HEAD has no code: a proxy's 404 may
            // not pass for the registry's.
            StatusCode::NOT_FOUND if matches!(blob.content, Content::Earlier) => {
                self.has_first_byte(request.url()).await
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.registry.succeeded(&request, answer, self.cx).await.map(|_| true),
        }
    }

    /// Asks for the first byte of the blob at `url`.
    async fn has_first_byte(&self, url: &str) -> Result<bool> {
        let request = HttpRequest::get(PUSH, url)
            .with_redirects(Redirects::AnyOrigin)
            .with_header(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        match self.success(&request).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob in pieces.
    async fn send_once(&self, blob: &Blob) -> Result<()> {
        let (mut session, mut at) = (self.begin().await?, 0);
        while blob.size - at > PIECE {
            let bytes = self.read(blob, at..at + PIECE).await?;
            let range = HeaderValue::from_str(&format!("{at}-{}", at + PIECE - 1));
            let range = range.map_err(|error| Error::bug(PUSH, error.to_string()))?;
            let request = HttpRequest::new(Method::PATCH, PUSH, session.as_str())
                .with_header(header::CONTENT_TYPE, octets())
                .with_header(header::CONTENT_RANGE, range)
                .with_body(bytes);
            session = self.session(&self.success(&request).await?)?;
            at += PIECE;
        }
        let last = self.read(blob, at..blob.size).await?;
        session.query_pairs_mut().append_pair("digest", &format!("sha256:{}", blob.digest));
        let request = HttpRequest::new(Method::PUT, PUSH, session.as_str())
            .with_header(header::CONTENT_TYPE, octets())
            .with_body(last);
        self.success(&request).await.map(drop)
    }

    /// Bytes `range` of a blob.
    async fn read(&self, blob: &Blob, range: Range<u64>) -> Result<Vec<u8>> {
        let (name, ranges) = match &blob.content {
            Content::Bytes(bytes) => return Ok(bytes[range.start as usize..range.end as usize].to_vec()),
            Content::File { name, ranges } => (name, ranges),
            Content::Earlier => {
                return Err(Error::bug(PUSH, "the bytes of an earlier push's pack are not here"));
            }
        };
        let (mut bytes, mut at) = (Vec::new(), 0);
        for part in ranges {
            let end = at + (part.end - part.start);
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                let part = part.start + (from - at)..part.start + (to - at);
                let read = self.files.read(name, part, self.cx).await?;
                // One range is the rule.
                if bytes.is_empty() {
                    bytes = read;
                } else {
                    bytes.extend_from_slice(&read);
                }
            }
            at = end;
        }
        Ok(bytes)
    }

    /// Where the first piece goes.
    async fn begin(&self) -> Result<Url> {
        let url = self.registry.url(&format!("{}/blobs/uploads/", self.repository));
        self.session(&self.success(&HttpRequest::new(Method::POST, PUSH, url)).await?)
    }

    async fn success(&self, request: &HttpRequest) -> Result<HttpResponse> {
        self.registry.success(self.repository, Access::Push, request, self.cx).await
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
                .with_hint("push with the registry's own client; albedo reads what it pushes")
        })
    }

    /// Registers the manifest. A registry may know a blob only tens of seconds after it
    /// was uploaded.
    async fn manifest(&self, tag: &str, pinned: Digest, bytes: &[u8]) -> Result<()> {
        let url = self.registry.url(&format!("{}/manifests/{tag}", self.repository));
        let request = HttpRequest::new(Method::PUT, PUSH, url)
            .with_header(header::CONTENT_TYPE, HeaderValue::from_static(MANIFEST))
            .with_body(bytes.to_vec());
        let put = || self.manifest_once(&request, pinned);
        self.registry.remote().more_patient().retried(PUSH, self.cx, put).await
    }

    async fn manifest_once(&self, request: &HttpRequest, pinned: Digest) -> Result<()> {
        let (remote, server, cx) = (self.registry.remote(), self.registry.server(), self.cx);
        let mut answer = self.registry.authorised(self.repository, Access::Push, request, cx).await?;
        if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            let words = remote.body(PUSH, &mut answer, 16 << 10, cx).await?;
            let words = String::from_utf8_lossy(&words).into_owned();
            let error = if words.contains("BLOB_UNKNOWN") {
                transient(ErrorKind::Unavailable, PUSH, "the registry does not know a file yet")
            } else {
                Error::new(ErrorKind::Refused, PUSH, "the registry refuses the manifest")
                    .with_retry(Retry::Never)
                    .with_hint("see the registry's answer")
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
                    .with("expected", pinned)
                    .with_hint("the registry rewrites manifests: push to another one"))
            }
            _ => Ok(()),
        }
    }
}

fn octets() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}
