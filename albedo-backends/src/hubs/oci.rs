//! The hub `oci`: models in a container registry, as `hippius-hub` pushes them.
//!
//! `owner/model@sha256:{digest}` is a reference, with the digest of the manifest. The
//! registry is the configuration's: a reference that names another one is refused.
//!
//! ```toml
//! [[hubs]]
//! name = "oci"
//! registry = "https://registry.hippius.com"   # the default
//! username = "validator"                      # only for private repositories and for pushing
//! password_env = "HUB_PASSWORD"
//! ```
//!
//! Every byte that counts is proven: the manifest by the reference, each layer by the
//! manifest, each chunk by its pointer. So a manifest that is malformed, and files that
//! differ from what their pointer declares, are the contestant's
//! ([`Artefact::Model`](albedo_core::Artefact)); bytes that match no digest are the
//! registry's or the network's.
//!
//! Two layouts are read (`docs/hubs.md` has their limits): *plain*, one layer per file
//! with its name in `org.opencontainers.image.title`; *chunked-v2*, where a pointer layer
//! maps a file to ranges of pack layers. [`OciHub::push`] writes both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use albedo_core::http::Credential;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, HubRef, ModelFiles, ModelHub, Plugin,
    Result, Revision,
};
use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::files::{Objects, RemoteFiles, has, proven};
use super::remote::{READ, Remote, TOO_LARGE, origin, transient};

mod auth;
mod chunks;
mod manifest;
mod pointer;
mod push;
mod registry;

pub use push::{Layout, Pushed};
use registry::{Answer, Registry};

const RESOLVE: &str = "resolve a model in the registry";

/// Settings of [`OciHub`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OciHubConfig {
    /// The registry's origin: `https://` and its host; plain HTTP only to this machine.
    pub registry: String,
    /// The origin of the service that gives out tokens, if it is not the registry's.
    /// Tokens are asked of no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_service: Option<String>,
    /// The user's name at the registry. Without one, repositories are read as anybody
    /// may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Name of the secret that is the user's password or access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// Most bytes of one model. A larger one is refused as its author's mistake.
    pub max_model_bytes: u64,
}

impl Default for OciHubConfig {
    /// Hippius's registry, read anonymously; models of at most 100 GiB.
    fn default() -> Self {
        Self {
            registry: "https://registry.hippius.com".into(),
            token_service: None,
            username: None,
            password_env: None,
            max_model_bytes: 100 << 30,
        }
    }
}

/// Models of a container registry; see the [module](self).
#[derive(Debug, Clone)]
pub struct OciHub {
    registry: Arc<Registry>,
    max_model_bytes: u64,
}

#[async_trait]
impl ModelHub for OciHub {
    async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        reference.require_hub(Self::NAME, RESOLVE)?;
        let Revision::Sha256(pinned) = reference.revision() else {
            return Err(Error::bug(RESOLVE, "a registry's revision is no digest"));
        };
        let files = self.files(self.repository(reference)?, pinned, cx).await;
        files.map_err(|error| error.with("reference", reference))
    }

    fn accepts(&self, reference: &HubRef) -> Result<()> {
        reference.require_hub(Self::NAME, RESOLVE)?;
        self.repository(reference).map(|_| ())
    }
}

impl OciHub {
    /// The repository of `reference`, as the registry calls it.
    ///
    /// # Errors
    /// The operator's: `reference` names another registry than the settings, or no registry can
    /// have a repository of its name.
    fn repository<'a>(&self, reference: &'a HubRef) -> Result<&'a str> {
        let repository = self.registry.repository(reference.repository())?;
        if registry::is_name(repository) {
            return Ok(repository);
        }
        let message = "no registry can have a repository of this name";
        let hint = "write each part as letters and digits, with `.`, `_`, `__` or dashes between them";
        Err(Error::new(ErrorKind::NotFound, RESOLVE, message).with("reference", reference).with_hint(hint))
    }

    async fn files(&self, repository: &str, pinned: Digest, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        let bytes = self.registry.manifest(repository, pinned, cx).await?;
        let layers = manifest::parse(&bytes)?;
        let objects = Arc::new(Blobs::new(self, repository));
        let (mut files, mut pointers) = (Vec::with_capacity(layers.files.len()), Pointers::new());
        for file in &layers.files {
            files.push(match &file.pointer {
                None => file.plain(),
                Some(declared) => {
                    let bytes = objects.pointer(file, &mut pointers, cx).await?;
                    pointer::parse(&bytes, file, declared, &layers.packs)
                        .map_err(|error| error.with("file", file.name.escape_default()))?
                }
            });
        }
        let total = files.iter().fold(0_u64, |total, (entry, _)| total.saturating_add(entry.size));
        if total > self.max_model_bytes {
            return Err(manifest::malformed("the model is larger than allowed")
                .with("bytes", total)
                .with("most", self.max_model_bytes)
                .with_hint(TOO_LARGE));
        }
        Ok(Arc::new(RemoteFiles::new(objects, files)))
    }

    /// A hub whose requests `remote` sends.
    fn new(config: &OciHubConfig, credential: Option<Credential>, remote: Remote) -> Result<Self> {
        let home = origin("registry", &config.registry)?;
        let tokens = match &config.token_service {
            Some(service) => origin("token_service", service)?,
            None => home.clone(),
        };
        Ok(Self {
            registry: Arc::new(Registry::new(home, tokens, credential, remote)),
            max_model_bytes: config.max_model_bytes,
        })
    }

    /// The hub with these settings, for callers that are given no registry of plugins.
    ///
    /// # Errors
    /// The operator's: wrong settings, a secret that is missing.
    pub fn build_with(config: &OciHubConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let credential = match (&config.username, &config.password_env) {
            (Some(user), Some(name)) => {
                let text = format!("{user}:{}", cx.secret(name)?.expose());
                Some(Credential::basic(name, &Base64::encode_string(text.as_bytes()))?)
            }
            _ => None,
        };
        Self::new(config, credential, Remote::of(cx))
    }
}

impl Plugin<dyn ModelHub> for OciHub {
    const NAME: &'static str = HubRef::OCI;
    const SUMMARY: &'static str = "models in a container registry, pinned by their manifests";
    type Config = OciHubConfig;
    type Checked = OciHubConfig;

    fn check(config: OciHubConfig, _: &CheckContext<'_>) -> Result<OciHubConfig> {
        origin("registry", &config.registry)?;
        if let Some(service) = &config.token_service {
            origin("token_service", service)?;
        }
        let invalid = |key: &str, message: &str| {
            Err(Error::new(ErrorKind::ConfigInvalid, "check the settings of a hub", message).with("key", key))
        };
        match (&config.username, &config.password_env) {
            (Some(user), _) if user.is_empty() || user.contains(':') => {
                invalid("username", "the name is empty or holds a colon")
            }
            (Some(_), None) => invalid("password_env", "a user has no password: name its secret"),
            (None, Some(_)) => invalid("username", "a password belongs to no user: name the user"),
            _ => Ok(config),
        }
    }

    async fn build(config: OciHubConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelHub>> {
        Ok(Arc::new(Self::build_with(&config, cx)?))
    }
}

albedo_core::register!(dyn ModelHub => OciHub);

/// The pointers of a model that were read, by their digests and sizes.
type Pointers = BTreeMap<(Digest, u64), Bytes>;

/// The blobs of one repository.
#[derive(Debug)]
struct Blobs {
    registry: Arc<Registry>,
    repository: String,
    most_bytes: u64,
    /// Sizes of blobs that are not as listed: none where the registry's bytes have
    /// another digest.
    weighed: Mutex<BTreeMap<String, Option<u64>>>,
}

impl Blobs {
    fn new(hub: &OciHub, repository: &str) -> Self {
        Self {
            registry: Arc::clone(&hub.registry),
            repository: repository.to_owned(),
            most_bytes: hub.max_model_bytes,
            weighed: Mutex::default(),
        }
    }

    /// The pointer of `file`, which has the digest that the manifest gives. Equal files have
    /// equal pointers: one of `known` is not fetched again.
    async fn pointer(&self, file: &manifest::File, known: &mut Pointers, cx: &CallContext) -> Result<Bytes> {
        if let Some(bytes) = known.get(&(file.digest, file.size)) {
            return Ok(bytes.clone());
        }
        if file.size > pointer::MOST_BYTES {
            return Err(manifest::malformed("a pointer is too large")
                .with("file", file.name.escape_default())
                .with("bytes", file.size)
                .with("most", pointer::MOST_BYTES));
        }
        let key = file.digest.to_string();
        let bytes = proven(self, &key, 0..file.size, file.size, has(Some(file.digest)), cx).await?;
        let bytes = Bytes::from(bytes);
        known.insert((file.digest, file.size), bytes.clone());
        Ok(bytes)
    }

    /// What it means that the manifest lists `size` bytes for a blob of which the
    /// registry says that it has `stated`. That proves nothing; but if all bytes that the
    /// registry has are those with the digest, and are not so many, the manifest is wrong.
    async fn other_size(&self, digest: &str, size: u64, stated: u64, cx: &CallContext) -> Error {
        let distrusted = || {
            let message = "the registry has the blob in another size than is listed";
            transient(ErrorKind::Protocol, READ, message)
                .with("server", self.registry.server())
                .with("digest", digest)
                .with("listed", size)
                .with("answered", stated)
        };
        if stated > self.most_bytes {
            return distrusted();
        }
        // Of many ranges that are read at once the first one weighs.
        let mut weighed = self.weighed.lock().await;
        let real = match weighed.get(digest) {
            Some(real) => *real,
            None => match self.registry.weigh(&self.repository, digest, stated, cx).await {
                Ok((found, real)) => {
                    let real = (found.to_string() == digest).then_some(real);
                    weighed.insert(digest.to_owned(), real);
                    real
                }
                Err(error) => return error,
            },
        };
        match real.filter(|&real| real != size) {
            Some(real) => manifest::malformed("the manifest lists a blob with another size than it has")
                .with("digest", digest)
                .with("listed", size)
                .with("bytes", real),
            None => distrusted(),
        }
    }
}

#[async_trait]
impl Objects for Blobs {
    async fn get(&self, key: &str, range: Range<u64>, size: u64, cx: &CallContext) -> Result<Vec<u8>> {
        match self.registry.blob(&self.repository, key, range, size, cx).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::OtherSize(stated) => Err(self.other_size(key, size, stated, cx).await),
        }
    }

    fn remote(&self) -> &Remote {
        self.registry.remote()
    }
}

#[cfg(test)]
mod tests;
