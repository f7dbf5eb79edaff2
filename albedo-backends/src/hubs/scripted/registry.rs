//! A container registry with a token service, as the distribution project specifies
//! them and Harbor behaves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use albedo_core::{Digest, HubRef, Result, Revision};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Reply, Request};

/// What is stored; see the [module](super).
#[derive(Debug, Default)]
pub struct Registry {
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    /// By repository and digest or tag.
    manifests: Mutex<BTreeMap<(String, String), Bytes>>,
    uploads: Mutex<BTreeMap<u64, Vec<u8>>>,
    next: AtomicU64,
    /// How many requests one token is good for; all if 0. Without tokens at all where
    /// `None`.
    pub token_uses: Option<u64>,
    token: Mutex<(u64, u64)>,
}

/// One range of a pack that a file is made of.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Place in the pack.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

impl Registry {
    /// A registry that asks for a token, which anybody gets.
    pub fn with_tokens(uses: u64) -> Self {
        Self { token_uses: Some(uses), ..Self::default() }
    }

    /// Stores a blob.
    pub fn blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes);
        digest
    }

    /// Stores a manifest of any bytes.
    ///
    /// # Errors
    /// No such repository can be.
    pub fn manifest(&self, repository: &str, bytes: impl Into<Bytes>) -> Result<HubRef> {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let key = (repository.to_owned(), format!("sha256:{digest}"));
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).insert(key, bytes);
        HubRef::new(HubRef::OCI, repository, Revision::Sha256(digest))
    }

    /// Stores a model, one layer per file.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn plain(&self, repository: &str, files: &[(&str, Bytes)]) -> Result<HubRef> {
        let layers = files.iter().map(|(name, bytes)| {
            json!({
                "mediaType": "application/octet-stream",
                "digest": format!("sha256:{}", self.blob(bytes.clone())),
                "size": bytes.len(),
                "annotations": { "org.opencontainers.image.title": name },
            })
        });
        self.manifest(repository, manifest(&layers.collect::<Vec<_>>(), &json!({})).to_string())
    }

    /// Stores a model of one file, `name`, which is made of `pieces` of one pack.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn chunked(&self, repository: &str, name: &str, pack: &Bytes, pieces: &[Piece]) -> Result<HubRef> {
        let whole: Vec<u8> =
            pieces.iter().flat_map(|piece| pack[piece.offset..piece.offset + piece.size].to_vec()).collect();
        let packed = self.blob(pack.clone());
        let chunks: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let bytes = &pack[piece.offset..piece.offset + piece.size];
                json!({
                    "digest": format!("sha256:{}", Digest::of(bytes)),
                    "offset": piece.offset,
                    "pack": format!("sha256:{packed}"),
                    "size": piece.size,
                })
            })
            .collect();
        let file = json!({ "digest": format!("sha256:{}", Digest::of(&whole)), "size": whole.len() });
        let pointer = json!({ "chunks": chunks, "file": file, "version": "chunked-v2" });
        self.pointed(repository, name, &pointer, &[(packed, pack.len())])
    }

    /// Stores a model of one file, `name`, with any pointer and packs.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn pointed(
        &self,
        repository: &str,
        name: &str,
        pointer: &Value,
        packs: &[(Digest, usize)],
    ) -> Result<HubRef> {
        let bytes = pointer.to_string();
        let mut layers = vec![json!({
            "mediaType": "application/vnd.hippius.pointer.v2",
            "size": bytes.len(),
            "digest": format!("sha256:{}", self.blob(bytes)),
            "annotations": { "org.opencontainers.image.title": name },
        })];
        layers.extend(packs.iter().map(|(digest, size)| {
            json!({
                "mediaType": "application/vnd.hippius.pack.v1",
                "digest": format!("sha256:{digest}"),
                "size": size,
            })
        }));
        let annotations = json!({ "com.hippius.layout": "chunked-v2" });
        self.manifest(repository, manifest(&layers, &annotations).to_string())
    }

    /// The answer to `request`.
    pub fn answer(&self, request: &Request) -> Reply {
        if request.path == "/service/token" {
            let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            *token = (token.0 + 1, 0);
            return Reply::json(200, &json!({ "token": format!("token-{}", token.0), "expires_in": 300 }));
        }
        if let Some(uses) = self.token_uses {
            let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            let valid = request.header("authorization") == format!("Bearer token-{}", token.0);
            if !valid || (uses > 0 && token.1 >= uses) {
                let challenge = format!(
                    "Bearer realm=\"http://{}/service/token\",service=\"harbor-registry\"",
                    request.header("host")
                );
                return error(401, "UNAUTHORIZED").with("www-authenticate", &challenge);
            }
            token.1 += 1;
        }
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, tag)) = path.split_once("/manifests/") {
            return self.manifests(request, repository, tag);
        }
        if let Some((_, id)) = path.split_once("/blobs/uploads/") {
            return self.upload(request, id);
        }
        let digest = path.split_once("/blobs/").and_then(|(_, digest)| digest.parse::<Digest>().ok());
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        match digest.and_then(|digest| blobs.get(&digest)) {
            Some(bytes) => Reply::ranged(request, bytes),
            None => error(404, "BLOB_UNKNOWN"),
        }
    }

    fn manifests(&self, request: &Request, repository: &str, tag: &str) -> Reply {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if request.method == "PUT" {
            let layers: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            let layers = layers["layers"].as_array().cloned().unwrap_or_default();
            let known = |layer: &Value| layer["digest"].as_str().and_then(|text| text.parse().ok());
            if !layers.iter().all(|layer| known(layer).is_some_and(|digest| blobs.contains_key(&digest))) {
                return error(400, "MANIFEST_BLOB_UNKNOWN");
            }
            let digest = format!("sha256:{}", Digest::of(&request.body));
            manifests.insert((repository.to_owned(), tag.to_owned()), request.body.clone());
            manifests.insert((repository.to_owned(), digest.clone()), request.body.clone());
            return Reply::new(201, "").with("docker-content-digest", &digest);
        }
        match manifests.get(&(repository.to_owned(), tag.to_owned())) {
            Some(bytes) => Reply::new(200, bytes.clone())
                .with("content-type", "application/vnd.oci.image.manifest.v1+json"),
            None => error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn upload(&self, request: &Request, id: &str) -> Reply {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if request.method == "POST" {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            uploads.insert(id, Vec::new());
            return Reply::new(202, "").with("location", &format!("{}{id}?state=x", request.path));
        }
        let Some(id) = id.parse().ok().filter(|id| uploads.contains_key(id)) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        let mut bytes = uploads.remove(&id).unwrap_or_default();
        bytes.extend_from_slice(&request.body);
        if request.method == "PATCH" {
            uploads.insert(id, bytes);
            return Reply::new(202, "").with("location", &format!("{}?state=y", request.path));
        }
        let stated = super::unescaped(&request.query);
        let stated = stated.split('&').find_map(|pair| pair.strip_prefix("digest=")?.parse::<Digest>().ok());
        if stated != Some(Digest::of(&bytes)) {
            return error(400, "DIGEST_INVALID");
        }
        self.blob(bytes);
        Reply::new(201, "")
    }
}

fn manifest(layers: &[Value], annotations: &Value) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": format!("sha256:{}", Digest::of("{}")),
            "size": 2,
        },
        "layers": layers,
        "annotations": annotations,
    })
}

fn error(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({ "errors": [{ "code": code, "message": code.to_ascii_lowercase() }] }))
}
