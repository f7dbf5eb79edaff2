//! The hub `hf`: models and data sets of Hugging Face, pinned to a commit.
//!
//! `hf:owner/model@{40 digits}` is a reference. What it pins is a Git commit, which
//! says nothing about the bytes of large files: the listing of the commit is the hub's
//! word, given over TLS. Files are compared with it: large ones (LFS) by SHA-256, small
//! ones by their Git blob id. So nothing that is wrong with a listing is a contestant's
//! fault, in contrast to [`oci`](super::oci). A listing that is as it should be, and says that
//! the model is larger than allowed, is
//! ([`Artefact::Model`](albedo_core::Artefact)).
//!
//! ```toml
//! [[hubs]]
//! name = "hf"
//! endpoint = "https://huggingface.co"   # the default
//! token_env = "HF_TOKEN"                # only for private and gated repositories
//! ```
//!
//! Two JSON routes and ranged reads are all that is asked:
//! `/api/models/{repository}/revision/{commit}`, whose `sha` must be the commit (a branch
//! may have a name of 40 digits); `/api/models/{repository}/tree/{commit}`, page by page;
//! `/{repository}/resolve/{commit}/{file}`.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use albedo_core::http::{Credential, HttpRequest, HttpResponse, Redirects, header};
use albedo_core::{
    Artefact, BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Fault, FileEntry, HubRef,
    ModelFiles, ModelHub, Plugin, Result, Retry, Revision,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use super::files::{Objects, RemoteFiles, Source, other_bytes, proven};
use super::remote::{Remote, TOO_LARGE, ask_range, origin, transient};
use crate::cache::file_name;

const RESOLVE: &str = "resolve a revision at Hugging Face";

/// Most bytes of one page of JSON.
const MOST_JSON: usize = 32 << 20;

/// Most pages of a listing, and most files.
const MOST_PAGES: usize = 200;
const MOST_FILES: usize = 50_000;

/// Most bytes of a file that Git keeps itself, and of all of them: the hub refuses
/// larger ones from 10 MB on.
const MOST_SMALL: u64 = 16 << 20;
const MOST_SMALL_TOTAL: u64 = 64 << 20;

/// Small files that are read at once.
const SMALL_AT_ONCE: usize = 6;

/// Settings of [`HfHub`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HfHubConfig {
    /// The hub's origin: `https://` and its host; plain HTTP only to this machine.
    pub endpoint: String,
    /// Name of the secret that is an access token. Without one, repositories are read
    /// as anybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Most bytes of one model. A larger one is refused as its author's mistake.
    pub max_model_bytes: u64,
}

impl Default for HfHubConfig {
    /// Hugging Face itself, read anonymously; models of at most 100 GiB.
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".into(), token_env: None, max_model_bytes: 100 << 30 }
    }
}

/// Models and data sets of Hugging Face; see the [module](self).
#[derive(Debug, Clone)]
pub struct HfHub {
    site: Arc<Site>,
    max_model_bytes: u64,
}

/// A data set of Hugging Face, pinned to a commit: `hf:datasets/owner/name@` and 40
/// digits.
///
/// ```
/// use albedo_backends::hubs::hf::DataSetRef;
///
/// let text = "hf:datasets/owner/tasks@1cfa9a7208912126459214e8b04321603b3df60c";
/// let reference: DataSetRef = text.parse()?;
/// assert_eq!((reference.repository(), reference.to_string().as_str()), ("owner/tasks", text));
/// assert!("hf:datasets/owner/tasks@main".parse::<DataSetRef>().is_err());
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSetRef(HubRef);

const DATASETS: &str = "hf:datasets/";

impl DataSetRef {
    /// Whether `text` is meant as one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(DATASETS)
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }
}

impl FromStr for DataSetRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix(DATASETS) else {
            return Err(Error::new(ErrorKind::ConfigInvalid, "read a data set's reference", "it is none")
                .with("reference", text.escape_default())
                .with_hint("write hf:datasets/owner/name@ and the 40 digits of a commit"));
        };
        format!("hf:{rest}").parse().map(Self)
    }
}

impl fmt::Display for DataSetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DATASETS}{}@{}", self.0.repository(), self.0.revision())
    }
}

#[async_trait]
impl ModelHub for HfHub {
    async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        reference.require_hub(Self::NAME, RESOLVE)?;
        let files = self.files("models", reference.repository(), reference.revision(), cx).await;
        files.map_err(|error| error.with("reference", reference))
    }
}

impl HfHub {
    /// The files of a data set.
    ///
    /// # Errors
    /// As [`ModelHub::resolve`].
    pub async fn data_set(&self, reference: &DataSetRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        let files = self.files("datasets", reference.repository(), reference.0.revision(), cx).await;
        files.map_err(|error| error.with("reference", reference))
    }

    async fn files(
        &self,
        kind: &'static str,
        repository: &str,
        revision: Revision,
        cx: &CallContext,
    ) -> Result<Arc<dyn ModelFiles>> {
        let Revision::Commit(_) = revision else {
            return Err(Error::bug(RESOLVE, "a revision of Hugging Face is no commit"));
        };
        let commit = revision.to_string();
        let revision =
            Arc::new(At { site: Arc::clone(&self.site), kind, repository: repository.to_owned(), commit });
        revision.check(cx).await?;
        let mut listed = revision.tree(cx).await?;
        // Of a data set only the shards are wanted, of which there may be thousands.
        listed.retain(|file| kind == "models" || file.path.ends_with(".parquet"));
        // The operator names a data set, and its author a model.
        let too_large = |message: &str, bytes: u64, most: u64, hint: &str| {
            let error = if kind == "models" {
                Error::new(ErrorKind::DataInvalid, RESOLVE, message).about(Artefact::Model)
            } else {
                Error::new(ErrorKind::ResourceExhausted, RESOLVE, message).with_fault(Fault::Operator)
            };
            error.with_retry(Retry::Never).with("bytes", bytes).with("most", most).with_hint(hint)
        };
        let small = || listed.iter().filter(|file| file.lfs.is_none());
        // Before anything is said of their sum: a hub that no longer tells which files are large would
        // list all weights like that.
        if let Some(file) = small().find(|file| file.size > MOST_SMALL) {
            let message = "a large file has no SHA-256 at the hub";
            return Err(revision.wrong(&file.path, message).with("bytes", file.size));
        }
        let bytes = downloaded(small());
        if bytes > MOST_SMALL_TOTAL {
            let message = "the repository has too many bytes in files that Git keeps itself";
            let hint = "keep large files with LFS";
            return Err(too_large(message, bytes, MOST_SMALL_TOTAL, hint));
        }
        // Of a data set nobody may want all shards: the cache's quota bounds those that are fetched.
        let bytes = downloaded(&listed);
        if kind == "models" && bytes > self.max_model_bytes {
            let message = "the model is larger than allowed";
            return Err(too_large(message, bytes, self.max_model_bytes, TOO_LARGE));
        }
        let files: Vec<_> = stream::iter(listed)
            .map(|file| revision.file(file, cx))
            .buffer_unordered(SMALL_AT_ONCE)
            .try_collect()
            .await?;
        Ok(Arc::new(RemoteFiles::new(revision, files)))
    }

    /// A hub whose requests `remote` sends.
    fn new(config: &HfHubConfig, token: Option<Credential>, remote: Remote) -> Result<Self> {
        let site = Site { home: origin("endpoint", &config.endpoint)?, token, remote };
        Ok(Self { site: Arc::new(site), max_model_bytes: config.max_model_bytes })
    }

    /// The hub with these settings, for callers that are given no registry of plugins.
    ///
    /// # Errors
    /// The operator's: wrong settings, a secret that is missing.
    pub fn build_with(config: &HfHubConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let token = match &config.token_env {
            Some(name) => Some(Credential::bearer(name, cx.secret(name)?.expose())?),
            None => None,
        };
        Self::new(config, token, Remote::of(cx))
    }
}

impl Plugin<dyn ModelHub> for HfHub {
    const NAME: &'static str = HubRef::HUGGING_FACE;
    const SUMMARY: &'static str = "models of Hugging Face, pinned to a commit";
    type Config = HfHubConfig;
    type Checked = HfHubConfig;

    fn check(config: HfHubConfig, _: &CheckContext<'_>) -> Result<HfHubConfig> {
        origin("endpoint", &config.endpoint)?;
        Ok(config)
    }

    async fn build(config: HfHubConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelHub>> {
        Ok(Arc::new(Self::build_with(&config, cx)?))
    }
}

albedo_core::register!(dyn ModelHub => HfHub);

#[derive(Debug)]
struct Site {
    home: Url,
    token: Option<Credential>,
    remote: Remote,
}

/// One commit of one repository.
#[derive(Debug)]
struct At {
    site: Arc<Site>,
    kind: &'static str,
    repository: String,
    commit: String,
}

// Source of both shapes: the hub's OpenAPI description, `/api/models/{namespace}/{repo}/revision/{rev}`
// and `…/tree/{rev}/{path}`.
#[derive(Deserialize)]
struct RevisionInfo {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// How many bytes are downloaded for `files`: of a large one those that LFS has.
fn downloaded<'a>(files: impl IntoIterator<Item = &'a TreeEntry>) -> u64 {
    let sizes = files.into_iter().map(|file| file.lfs.as_ref().map_or(file.size, |lfs| lfs.size));
    sizes.fold(0, u64::saturating_add)
}

impl At {
    fn remote(&self) -> &Remote {
        &self.site.remote
    }

    fn server(&self) -> String {
        self.site.home.origin().ascii_serialization()
    }

    /// An address at the hub, each part of the path escaped.
    fn url<'a>(&'a self, parts: impl IntoIterator<Item = &'a str>) -> Result<Url> {
        let mut url = self.site.home.clone();
        url.path_segments_mut()
            .map_err(|()| Error::bug(RESOLVE, "the hub's address has no path"))?
            .clear()
            .extend(parts.into_iter().flat_map(|part| part.split('/')));
        Ok(url)
    }

    async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse> {
        let operation = request.operation().to_owned();
        let request = match &self.site.token {
            Some(token) => request.with_credential(token.clone()),
            None => request,
        };
        let answer = self.remote().send(request, cx).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let token = self.site.token.as_ref();
        Err(self.remote().refusal(&operation, &self.server(), answer, token, cx).await)
    }

    /// The JSON at `url`, and where the next page is.
    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        cx: &CallContext,
    ) -> Result<(T, Option<Url>)> {
        let read = || async {
            let request = HttpRequest::get(RESOLVE, url.as_str()).with_redirects(Redirects::SameOrigin);
            let mut answer = self.send(request, cx).await?;
            let next = self.next_page(&answer)?;
            let bytes = self.remote().body(RESOLVE, &mut answer, MOST_JSON, cx).await?;
            let value = serde_json::from_slice(&bytes).map_err(|error| {
                transient(ErrorKind::Protocol, RESOLVE, format!("the hub's answer is malformed: {error}"))
                    .with("server", self.server())
            })?;
            Ok((value, next))
        };
        self.remote().retried(RESOLVE, cx, read).await
    }

    /// The header `link`, whose next page has to be at the hub itself.
    fn next_page(&self, answer: &HttpResponse) -> Result<Option<Url>> {
        let link =
            answer.headers().get(header::LINK).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let next = link.split(',').find(|link| link.contains("rel=\"next\""));
        let Some(next) = next.and_then(|next| Some(next.split_once('<')?.1.split_once('>')?.0)) else {
            return Ok(None);
        };
        let url = self.site.home.join(next).ok().filter(|url| url.origin() == self.site.home.origin());
        let message = "the next page of the listing is at another server";
        url.map(Some)
            .ok_or_else(|| transient(ErrorKind::Protocol, RESOLVE, message).with("server", self.server()))
    }

    /// The revision is a commit of the repository.
    async fn check(&self, cx: &CallContext) -> Result<()> {
        let url = self.url(["api", self.kind, &self.repository, "revision", &self.commit])?;
        let (RevisionInfo { sha }, _) = self.json(&url, cx).await?;
        if sha == self.commit {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, RESOLVE, "the revision is a branch or tag, not a commit")
            .with("server", self.server())
            .with("commit", sha.escape_default())
            .with_hint("pin the commit itself"))
    }

    async fn tree(&self, cx: &CallContext) -> Result<Vec<TreeEntry>> {
        let mut url = self.url(["api", self.kind, &self.repository, "tree", &self.commit])?;
        url.query_pairs_mut().append_pair("recursive", "true").append_pair("expand", "false");
        let mut files: Vec<TreeEntry> = Vec::new();
        for _ in 0..MOST_PAGES {
            let (page, next) = self.json::<Vec<TreeEntry>>(&url, cx).await?;
            files.extend(page.into_iter().filter(|entry| entry.kind == "file"));
            if files.len() > MOST_FILES {
                break;
            }
            match next {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        let message = format!("the listing has more than {MOST_FILES} files or {MOST_PAGES} pages");
        Err(Error::new(ErrorKind::DataInvalid, RESOLVE, message).with_fault(Fault::Infrastructure))
    }

    /// The listing is not as it should be: the hub's own doing, since the commit does not prove it.
    fn wrong(&self, path: &str, message: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, RESOLVE, message)
            .with_fault(Fault::Infrastructure)
            .with("server", self.server())
            .with("file", path.escape_default())
    }

    /// The file with its SHA-256: a large one's is listed, a small one is read.
    async fn file(&self, listed: TreeEntry, cx: &CallContext) -> Result<(FileEntry, Source)> {
        let TreeEntry { path, size, oid, lfs, .. } = listed;
        let wrong = |message: &str| self.wrong(&path, message);
        file_name(&path).map_err(wrong)?;
        if let Some(lfs) = lfs {
            let sha256 =
                lfs.oid.parse::<Digest>().map_err(|_| wrong("the listing has no digest of the file"))?;
            let entry = FileEntry::new(&path, lfs.size).with_sha256(sha256);
            return Ok((entry, Source::Whole { key: path }));
        }
        let check = |bytes: &[u8]| {
            let found = blob_id(bytes);
            if found == oid { Ok(()) } else { Err(other_bytes(&oid, found)) }
        };
        let bytes = proven(self, &path, 0..size, size, check, cx).await;
        let bytes = bytes.map_err(|error| error.with("file", path.escape_default()))?;
        let entry = FileEntry::new(path, size).with_sha256(Digest::of(&bytes));
        Ok((entry, Source::Here(Bytes::from(bytes))))
    }
}

/// Git's name of a file with these bytes.
pub(super) fn blob_id(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().fold(String::new(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[async_trait]
impl Objects for At {
    async fn get(&self, key: &str, range: Range<u64>, size: u64, cx: &CallContext) -> Result<Vec<u8>> {
        let kind = (self.kind == "datasets").then_some("datasets");
        let parts = kind.into_iter().chain([self.repository.as_str(), "resolve", &self.commit, key]);
        let answer = self.send(ask_range(self.url(parts)?.as_str(), &range, size)?, cx).await?;
        self.remote().range(&self.server(), answer, &range, size, cx).await
    }

    fn remote(&self) -> &Remote {
        &self.site.remote
    }
}

#[cfg(test)]
mod tests;
