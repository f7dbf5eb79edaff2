//! The models of a server: what is configured, held on this machine, and loaded.
//!
//! A model is *held* once its files are here and verified; requests and jobs name it by
//! the digest of its parameters. A held model is *loaded* when a request wants its
//! session. At most [`Limits::loaded_models`](super::Limits::loaded_models) are loaded
//! at a time: another one takes the place of the one used longest ago, once that is
//! idle. Models that do not fit on a device together can also take turns there, by the
//! backend's own setting `in_turn`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::{CheckedServer, ServerConfig};
use super::metrics::{LOAD_SECONDS, MODELS_HELD, MODELS_LOADED, Metrics};
use crate::backends::cache::{Cache, Held};
use crate::backends::serve::protocol::{EngineIdentity, SessionKey};
use crate::checkpoint::is_weight_file;
use crate::config::Hubs;
use crate::{
    BuildContext, CallContext, Digest, Error, ErrorKind, FileEntry, HubRef, ModelBackend, ModelInfo,
    ModelRef, ModelSession, ModelSource, Result,
};

const FIND: &str = "find a model";
const LOAD: &str = "load a model";

/// How often one that waits for an idle model looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The models of a server. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Models(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn ModelBackend>,
    engine: EngineIdentity,
    hubs: Hubs,
    cache: Cache,
    configured: Vec<Configured>,
    most_loaded: usize,
    metrics: Metrics,
    shelf: Mutex<Shelf>,
    /// Held by the one that makes room and loads; the others wait in their order.
    loading: tokio::sync::Mutex<()>,
}

/// A model of the configuration.
#[derive(Debug)]
struct Configured {
    name: String,
    model: ModelRef,
    parameters: Option<Digest>,
    text_from: Option<String>,
}

#[derive(Debug, Default)]
struct Shelf {
    held: BTreeMap<Digest, Files>,
    /// What jobs hold, by their labels.
    labels: BTreeMap<String, Digest>,
    /// What requests may name.
    names: BTreeMap<String, SessionKey>,
    loaded: Vec<Loaded>,
    /// Counts uses, for the order of the last ones.
    uses: u64,
}

/// The files of a held model.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    /// Keeps it in the cache.
    lease: Option<Held>,
    /// Stays without a label.
    configured: bool,
}

#[derive(Debug)]
struct Loaded {
    key: SessionKey,
    session: Arc<dyn ModelSession>,
    used: u64,
    /// Is to make room for another: no request gets it any more.
    leaving: bool,
}

/// How far a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Configured and not here yet.
    Waiting,
    /// Its files are here.
    Held,
    /// It answers at once.
    Loaded,
}

/// A model that a server offers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServedModel {
    /// The name that requests give.
    pub name: String,
    /// How far it is.
    pub state: ModelState,
    /// What jobs name it by, once its files are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SessionKey>,
    /// What is loaded, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ModelInfo>,
}

/// A model whose files are here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldModel {
    /// Its reference.
    pub reference: HubRef,
    /// Digest of its parameters.
    pub parameters: Digest,
    /// Its files, each with its digest.
    pub files: Vec<FileEntry>,
}

impl Models {
    pub(super) async fn new(
        config: &ServerConfig,
        checked: CheckedServer,
        metrics: &Metrics,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let backend = checked.backend.build(cx).await?;
        let engine = EngineIdentity {
            backend: backend.identity().clone(),
            build: crate::build(),
            device: backend.device(),
        };
        let configured = config.models.iter().map(|model| {
            Ok(Configured {
                name: model.name.clone(),
                model: cx.model(&model.model()?),
                parameters: model.parameters,
                text_from: model.text_from.clone(),
            })
        });
        Ok(Self(Arc::new(Inner {
            configured: configured.collect::<Result<_>>()?,
            backend,
            engine,
            hubs: checked.hubs.build(cx).await?,
            cache: Cache::of(cx)?,
            most_loaded: config.limits.loaded_models as usize,
            metrics: metrics.clone(),
            shelf: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        })))
    }

    /// What computes the replies.
    pub fn engine(&self) -> &EngineIdentity {
        &self.0.engine
    }

    /// The most replies that are computed together, where the backend knows.
    pub fn max_batch(&self) -> Option<u32> {
        self.0.backend.max_batch()
    }

    /// Brings every configured model here and loads it once, in the order of the
    /// configuration, so that a model that cannot be served is known at the start.
    pub(super) async fn open(&self, cx: &CallContext) -> Result<()> {
        for model in &self.0.configured {
            self.open_one(model, cx).await.map_err(|error| error.with("served as", &model.name))?;
        }
        Ok(())
    }

    async fn open_one(&self, configured: &Configured, cx: &CallContext) -> Result<()> {
        let Configured { name, model, parameters, text_from } = configured;
        let (folder, lease) = match model {
            ModelRef::Hub(reference) => {
                let held = self.0.hubs.hold(reference, &self.0.cache, cx).await?;
                (held.folder().to_owned(), Some(held))
            }
            model => (model.require_folder(LOAD)?.to_owned(), None),
        };
        let text = text_from.as_ref().map(|text| self.key_of(text)).transpose()?;
        let text_folder = text.map(|text| self.folder(text.parameters)).transpose()?;
        let source = source(&folder, text_folder.as_deref(), *parameters);
        let loading = self.0.loading.lock().await;
        self.make_room(cx).await?;
        let session = self.load(&source, cx).await?;
        let parameters = session.model().parameters;
        let key = SessionKey { parameters, text_from: text.map(|text| text.parameters) };
        let mut shelf = self.shelf();
        let files = Files { folder, lease, configured: true };
        shelf.held.entry(parameters).or_insert(files).configured = true;
        shelf.names.insert(name.clone(), key);
        self.shelve(&mut shelf, key, session);
        drop(loading);
        tracing::info!(name, parameters = %parameters.short(), "a model is served");
        Ok(())
    }

    /// The session that `key` means; loads it if it is not.
    ///
    /// The caller keeps the session for as long as it awaits an answer: a session that is
    /// kept makes room for no other.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if no model of those parameters is held; what loading it
    /// meets; `cx`.
    pub async fn session(&self, key: SessionKey, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        if let Some(session) = self.loaded(key) {
            return Ok(session);
        }
        let loading = cx.run(LOAD, self.0.loading.lock()).await?;
        self.stay(key);
        if let Some(session) = self.loaded(key) {
            return Ok(session);
        }
        let folder = self.folder(key.parameters)?;
        let text = key.text_from.map(|text| self.folder(text)).transpose()?;
        self.make_room(cx).await?;
        let source = source(&folder, text.as_deref(), Some(key.parameters));
        let session = self.load(&source, cx).await?;
        self.shelve(&mut self.shelf(), key, Arc::clone(&session));
        drop(loading);
        Ok(session)
    }

    /// Lets the session of `key` go, once those that use it are done, so that the next
    /// one is loaded afresh.
    ///
    /// # Errors
    /// `cx`.
    pub async fn unload(&self, key: SessionKey, cx: &CallContext) -> Result<()> {
        let _loading = cx.run(LOAD, self.0.loading.lock()).await?;
        loop {
            let gone = {
                let mut shelf = self.shelf();
                let Some(place) = shelf.loaded.iter().position(|loaded| loaded.key == key) else {
                    return Ok(());
                };
                shelf.loaded[place].leaving = true;
                let idle = Arc::strong_count(&shelf.loaded[place].session) == 1;
                let gone = idle.then(|| shelf.loaded.remove(place));
                self.count(&shelf);
                gone
            };
            match gone {
                Some(gone) => {
                    let dropped = cx.run(LOAD, tokio::task::spawn_blocking(move || drop(gone))).await?;
                    dropped.map_err(|error| Error::bug(LOAD, error.to_string()))?;
                }
                None => cx.run(LOAD, tokio::time::sleep(LOOK_AGAIN)).await?,
            }
        }
    }

    /// What requests may name: the configured models in their order, then those that
    /// jobs hold, by their references.
    pub fn list(&self) -> Vec<ServedModel> {
        let shelf = self.shelf();
        let is_configured = |name: &str| self.0.configured.iter().any(|model| model.name == name);
        let configured = self.0.configured.iter().map(|model| (&model.name, shelf.names.get(&model.name)));
        let held = shelf.names.iter().filter(|(name, _)| !is_configured(name));
        let all = configured.chain(held.map(|(name, key)| (name, Some(key))));
        let model = |(name, key): (&String, Option<&SessionKey>)| {
            let loaded = shelf.loaded.iter().find(|loaded| Some(&loaded.key) == key);
            let state = match (key, loaded) {
                (None, _) => ModelState::Waiting,
                (Some(_), None) => ModelState::Held,
                (Some(_), Some(_)) => ModelState::Loaded,
            };
            let info = loaded.map(|loaded| loaded.session.model().clone());
            ServedModel { name: name.clone(), state, key: key.copied(), info }
        };
        all.map(model).collect()
    }

    /// Whether a model of these parameters is held.
    pub fn is_held(&self, parameters: Digest) -> bool {
        self.shelf().held.contains_key(&parameters)
    }

    /// The folder of a held model's files.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn folder(&self, parameters: Digest) -> Result<PathBuf> {
        let shelf = self.shelf();
        let files = shelf.held.get(&parameters).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, FIND, "no model of these parameters is held here")
                .with("parameters", parameters)
                .with_hint("have the server hold it first")
        })?;
        Ok(files.folder.clone())
    }

    /// Brings the model `reference` here through its hub, every byte compared with its
    /// digest, and keeps it under `label` until that is released or given to another.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a hub that is not configured here; the hub's; as
    /// [`Cache::hold`]; a label that is no plain word.
    pub async fn hold(&self, reference: &HubRef, label: &str, cx: &CallContext) -> Result<HeldModel> {
        let held = self.0.hubs.hold(reference, &self.0.cache, cx).await?;
        self.keep(label, Some(reference.to_string()), cx).await?;
        let files = held.files().to_vec();
        let parameters = parameters_of(&files)?;
        let folder = held.folder().to_owned();
        let mut shelf = self.shelf();
        let entry = shelf.held.entry(parameters);
        let entry = entry.or_insert(Files { folder, lease: None, configured: false });
        entry.lease.get_or_insert(held);
        shelf.names.insert(reference.to_string(), SessionKey { parameters, text_from: None });
        if let Some(before) = shelf.labels.insert(label.to_owned(), parameters) {
            shelf.let_go(before);
        }
        self.count(&shelf);
        Ok(HeldModel { reference: reference.clone(), parameters, files })
    }

    /// Ends what [`Models::hold`] began for `label`. What is still in use stays until it
    /// is not.
    ///
    /// # Errors
    /// The operating system's; a label that is no plain word.
    pub async fn release(&self, label: &str, cx: &CallContext) -> Result<()> {
        self.keep(label, None, cx).await?;
        let mut shelf = self.shelf();
        if let Some(parameters) = shelf.labels.remove(label) {
            shelf.let_go(parameters);
        }
        self.count(&shelf);
        Ok(())
    }

    async fn keep(&self, label: &str, name: Option<String>, cx: &CallContext) -> Result<()> {
        const KEEP: &str = "keep a model";
        let (cache, label) = (self.0.cache.clone(), label.to_owned());
        let keep = move || match name {
            Some(name) => cache.keep(&label, &name),
            None => cache.release(&label),
        };
        let kept = cx.run(KEEP, tokio::task::spawn_blocking(keep)).await?;
        kept.map_err(|error| Error::bug(KEEP, error.to_string()))?
    }

    /// What the model that requests name `name` is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: none has this name. [`ErrorKind::Unavailable`]: it is
    /// configured and not here yet.
    pub(super) fn key_of(&self, name: &str) -> Result<SessionKey> {
        if let Some(key) = self.shelf().names.get(name) {
            return Ok(*key);
        }
        if self.0.configured.iter().any(|model| model.name == name) {
            return Err(
                Error::new(ErrorKind::Unavailable, FIND, "the model is not here yet").with("model", name)
            );
        }
        Err(Error::new(ErrorKind::NotFound, FIND, "no model has this name").with("model", name))
    }

    /// A session that is loaded; it counts as used now.
    fn loaded(&self, key: SessionKey) -> Option<Arc<dyn ModelSession>> {
        let mut shelf = self.shelf();
        shelf.uses += 1;
        let used = shelf.uses;
        let found = shelf.loaded.iter_mut().find(|loaded| loaded.key == key && !loaded.leaving)?;
        found.used = used;
        Some(Arc::clone(&found.session))
    }

    /// Takes back that a session makes room: the one that waited for it has gone.
    fn stay(&self, key: SessionKey) {
        let mut shelf = self.shelf();
        if shelf.held.contains_key(&key.parameters)
            && let Some(loaded) = shelf.loaded.iter_mut().find(|loaded| loaded.key == key)
        {
            loaded.leaving = false;
        }
    }

    fn shelve(&self, shelf: &mut Shelf, key: SessionKey, session: Arc<dyn ModelSession>) {
        shelf.uses += 1;
        let used = shelf.uses;
        // Two names of one model have one session.
        if !shelf.loaded.iter().any(|loaded| loaded.key == key && !loaded.leaving) {
            shelf.loaded.push(Loaded { key, session, used, leaving: false });
        }
        self.count(shelf);
    }

    /// Waits until one more model may be loaded. No request gets the one used
    /// longest ago any more; it goes when those that use it are done.
    async fn make_room(&self, cx: &CallContext) -> Result<()> {
        loop {
            let idle = {
                let mut shelf = self.shelf();
                if shelf.loaded.len() < self.0.most_loaded && !shelf.loaded.iter().any(|one| one.leaving) {
                    return Ok(());
                }
                if !shelf.loaded.iter().any(|loaded| loaded.leaving)
                    && let Some(oldest) = shelf.loaded.iter_mut().min_by_key(|loaded| loaded.used)
                {
                    oldest.leaving = true;
                }
                let idle = |loaded: &Loaded| loaded.leaving && Arc::strong_count(&loaded.session) == 1;
                let place = shelf.loaded.iter().position(idle);
                let idle = place.map(|place| shelf.loaded.remove(place));
                self.count(&shelf);
                idle
            };
            match idle {
                // It may wait for its device.
                Some(idle) => {
                    tracing::info!(parameters = %idle.key.parameters.short(), "a model makes room");
                    let dropped = cx.run(LOAD, tokio::task::spawn_blocking(move || drop(idle))).await?;
                    dropped.map_err(|error| Error::bug(LOAD, error.to_string()))?;
                }
                None => cx.run(LOAD, tokio::time::sleep(LOOK_AGAIN)).await?,
            }
        }
    }

    async fn load(&self, source: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let started = Instant::now();
        let session = self.0.backend.load(source, cx).await?;
        self.0.metrics.took(LOAD_SECONDS, &[], started.elapsed().as_secs_f64());
        if let Some(memory) = session.memory() {
            tracing::info!(%memory, "how a session divides the memory of its device");
        }
        Ok(session)
    }

    fn count(&self, shelf: &Shelf) {
        self.0.metrics.set(MODELS_LOADED, shelf.loaded.len() as f64);
        self.0.metrics.set(MODELS_HELD, shelf.held.len() as f64);
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Forgets a model that no label and no configuration has any more.
    fn let_go(&mut self, parameters: Digest) {
        let configured = self.held.get(&parameters).is_some_and(|files| files.configured);
        if configured || self.labels.values().any(|other| *other == parameters) {
            return;
        }
        self.held.remove(&parameters);
        self.names.retain(|_, key| key.parameters != parameters);
        for loaded in &mut self.loaded {
            loaded.leaving |= loaded.key.parameters == parameters;
        }
    }
}

fn source(folder: &Path, text: Option<&Path>, parameters: Option<Digest>) -> ModelSource {
    let source = ModelSource { parameters, ..ModelSource::new(folder) };
    match text {
        Some(text) => source.with_text_from(text),
        None => source,
    }
}

/// The digest of a model's parameters, as [`ModelInfo::parameters`] defines it, from the
/// digests of its files.
fn parameters_of(files: &[FileEntry]) -> Result<Digest> {
    let weights = files.iter().filter(|file| is_weight_file(&file.name));
    let lines = weights.map(|file| {
        let sha256 = file.sha256.ok_or_else(|| {
            Error::bug("work out a model's parameters digest", "a file in the cache has no digest")
        })?;
        Ok(format!("{sha256}  {}\n", file.name))
    });
    Ok(Digest::of(lines.collect::<Result<String>>()?))
}

#[cfg(test)]
pub(super) mod tests;
