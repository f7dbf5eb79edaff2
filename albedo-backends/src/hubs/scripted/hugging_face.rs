//! A stand-in for Hugging Face. The shapes of its answers, with a source each:
//!
//! | answer | source |
//! | --- | --- |
//! | `/api/models/{repo}/revision/{rev}`: `id`, `sha`, `siblings[].rfilename` | the hub's OpenAPI description; `ModelInfo` of `huggingface_hub` 1.x reads these |
//! | `/api/models/{repo}/tree/{rev}`: `type`, `oid`, `size`, `path`, `lfs{oid,size,pointerSize}`; `Link: <…>; rel="next"` | the hub's OpenAPI description; `RepoFile` and `paginate` of `huggingface_hub` |
//! | `HEAD` and `GET /{repo}/resolve/{rev}/{path}`: `X-Repo-Commit`, `ETag` (the blob id), for LFS `X-Linked-Etag` (the SHA-256), `X-Linked-Size` and a redirect to another address | "Hub API endpoints" in the hub's documentation; `get_hf_file_metadata` of `huggingface_hub` |
//! | 404 with `X-Error-Code: RepoNotFound`, `RevisionNotFound`, `EntryNotFound` | `hf_raise_for_status` of `huggingface_hub` |

use std::collections::BTreeMap;

use albedo_core::Digest;
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::hf::blob_id;
use super::{Reply, Request};

/// One repository at one commit.
#[derive(Debug, Clone)]
pub struct HuggingFace {
    /// `models` or `datasets`.
    kind: &'static str,
    repository: String,
    commit: String,
    /// Entries of a page of the tree.
    page: usize,
    files: BTreeMap<String, (Bytes, bool)>,
}

impl HuggingFace {
    /// The repository `models` or `datasets` of `kind`, without files.
    pub fn new(kind: &'static str, repository: &str, commit: &str) -> Self {
        Self {
            kind,
            repository: repository.into(),
            commit: commit.into(),
            page: 1000,
            files: BTreeMap::new(),
        }
    }

    /// The same with a file; `large` ones are kept by LFS.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Bytes>, large: bool) -> Self {
        self.files.insert(name.into(), (bytes.into(), large));
        self
    }

    /// The same with pages of `page` entries.
    #[must_use]
    pub fn paged(self, page: usize) -> Self {
        Self { page, ..self }
    }

    /// The answer to `request`.
    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.path.trim_start_matches('/');
        if let Some(digest) = path.strip_prefix("cdn/") {
            let bytes = self.files.values().find(|(bytes, _)| Digest::of(bytes).to_string() == digest);
            return bytes
                .map_or_else(|| missing("EntryNotFound"), |(bytes, _)| Reply::ranged(request, bytes));
        }
        let api = format!("api/{}/{}/", self.kind, self.repository);
        let files = match self.kind {
            "models" => format!("{}/resolve/", self.repository),
            kind => format!("{kind}/{}/resolve/", self.repository),
        };
        let route = |rest: &str, what: &str| rest.strip_prefix(what).map(str::to_owned);
        if let Some(rest) = path.strip_prefix(&api) {
            return match (route(rest, "revision/"), route(rest, "tree/")) {
                (Some(revision), _) if revision == self.commit => self.info(),
                (_, Some(revision)) if revision == self.commit => self.tree(request),
                _ => missing("RevisionNotFound"),
            };
        }
        let Some(rest) = path.strip_prefix(&files) else { return missing("RepoNotFound") };
        match rest.split_once('/') {
            Some((revision, name)) if revision == self.commit => self.file(request, name),
            _ => missing("RevisionNotFound"),
        }
    }

    fn info(&self) -> Reply {
        let siblings: Vec<_> = self.files.keys().map(|name| json!({ "rfilename": name })).collect();
        Reply::json(200, &json!({ "id": self.repository, "sha": self.commit, "siblings": siblings }))
    }

    fn tree(&self, request: &Request) -> Reply {
        let from = request.query.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok());
        let from: usize = from.unwrap_or(0);
        let entry = |(name, (bytes, large)): (&String, &(Bytes, bool))| {
            let mut entry = json!({
                "type": "file", "oid": blob_id(bytes), "size": bytes.len(), "path": name,
            });
            if *large {
                let oid = Digest::of(bytes).to_string();
                entry["lfs"] = json!({ "oid": oid, "size": bytes.len(), "pointerSize": 134 });
            }
            entry
        };
        let folders = self.files.keys().filter_map(|name| Some(name.rsplit_once('/')?.0));
        let folders = folders.map(|name| json!({ "type": "directory", "oid": "0", "size": 0, "path": name }));
        let all: Vec<Value> = folders.chain(self.files.iter().map(entry)).collect();
        let page: Vec<_> = all.iter().skip(from).take(self.page).cloned().collect();
        let reply = Reply::json(200, &Value::from(page));
        if from + self.page >= all.len() {
            return reply;
        }
        let next = format!(
            "<http://{}{}?recursive=true&cursor={}>; rel=\"next\"",
            request.header("host"),
            request.path,
            from + self.page
        );
        reply.with("link", &next)
    }

    fn file(&self, request: &Request, name: &str) -> Reply {
        let Some((bytes, large)) = self.files.get(name) else { return missing("EntryNotFound") };
        let digest = Digest::of(bytes).to_string();
        let head = |reply: Reply| {
            let reply = reply.with("x-repo-commit", &self.commit);
            if *large {
                reply
                    .with("x-linked-etag", &format!("\"{digest}\""))
                    .with("x-linked-size", &bytes.len().to_string())
            } else {
                reply.with("etag", &format!("\"{}\"", blob_id(bytes)))
            }
        };
        if *large {
            // At another origin, as the hub's storage is: its client follows no other redirect.
            let storage = request.header("host").replace("127.0.0.1", "localhost");
            return head(Reply::redirect(&format!("http://{storage}/cdn/{digest}")));
        }
        head(Reply::ranged(request, bytes))
    }
}

fn missing(code: &str) -> Reply {
    Reply::json(404, &json!({ "error": "not found" })).with("x-error-code", code)
}
