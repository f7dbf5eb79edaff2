//! Where the models of a configuration are: in folders, at servers, in hubs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

#[cfg(feature = "server")]
use crate::CallContext;
#[cfg(feature = "server")]
use crate::backends::cache::Held;
use crate::backends::cache::{Cache, CachedFiles};
use crate::backends::files::FolderFiles;
use crate::registry::{CheckContext, Checked};
use crate::{
    BuildContext, Error, ErrorKind, HubRef, ModelBackend, ModelFiles, ModelHub, ModelRef, PluginConfig,
    Result,
};

/// The hubs that the models of a configuration are in, checked.
#[derive(Debug)]
pub(crate) struct CheckedHubs(BTreeMap<String, Checked<dyn ModelHub>>);

/// The hubs that the models of a configuration are in.
#[derive(Debug)]
pub(crate) struct Hubs {
    hubs: BTreeMap<String, Arc<dyn ModelHub>>,
    /// What was resolved, so that what screens read is compared with what is loaded.
    resolved: Mutex<BTreeMap<HubRef, Arc<CachedFiles>>>,
}

impl CheckedHubs {
    /// Checks the hubs that the settings list, and those that only a reference
    /// names, each model beside its key.
    ///
    /// # Errors
    /// As [`CheckContext::plugin`]; a hub that is listed twice.
    pub(crate) fn check<'a>(
        listed: &[PluginConfig<dyn ModelHub>],
        models: impl IntoIterator<Item = (&'a str, &'a ModelRef)>,
        cx: &CheckContext<'_>,
    ) -> Result<Self> {
        let mut hubs = BTreeMap::new();
        for (place, hub) in listed.iter().enumerate() {
            let checked = cx.plugin(format_args!("hubs[{place}]"), hub)?;
            if hubs.insert(hub.name().to_owned(), checked).is_some() {
                let error = Error::new(
                    ErrorKind::ConfigInvalid,
                    "check the hubs",
                    format!("hub `{}` is listed twice", hub.name()),
                );
                return Err(error.with("key", format!("hubs[{place}]")).with_hint("keep one"));
            }
        }
        for (key, model) in models {
            if let ModelRef::Hub(reference) = model
                && !hubs.contains_key(reference.hub())
            {
                let checked = cx.plugin(format_args!("{key}.ref"), &PluginConfig::named(reference.hub()))?;
                hubs.insert(reference.hub().to_owned(), checked);
            }
        }
        Ok(Self(hubs))
    }

    pub(crate) async fn build(self, cx: &BuildContext<'_>) -> Result<Hubs> {
        let mut hubs = BTreeMap::new();
        for (name, hub) in self.0 {
            hubs.insert(name, hub.build(cx).await?);
        }
        Ok(Hubs { hubs, resolved: Mutex::default() })
    }
}

impl Hubs {
    /// The files of `model`: in its folder; in the cache, if it is there; else at its
    /// hub, until they are held.
    ///
    /// # Errors
    /// The hub's; the operator's for a model that is only served.
    pub(super) async fn files(&self, model: &ModelRef, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelFiles>> {
        let ModelRef::Hub(reference) = model else {
            return Ok(Arc::new(FolderFiles::new(cx.model(model).require_folder("read a model's files")?)));
        };
        if let Some(held) = Cache::of(cx)?.held(&reference.to_string(), cx.call()).await? {
            return Ok(Arc::new(FolderFiles::new(held.for_process()).published()));
        }
        Ok(self.resolve(reference, cx).await?)
    }

    /// `model` as `backend` takes it: a server fetches models of hubs itself.
    ///
    /// # Errors
    /// As [`Hubs::local`].
    pub(super) async fn for_backend(
        &self,
        backend: &dyn ModelBackend,
        model: &ModelRef,
        cx: &BuildContext<'_>,
    ) -> Result<ModelRef> {
        if backend.takes_references() { Ok(cx.model(model)) } else { self.local(model, cx).await }
    }

    /// `model` as a backend on this machine loads it: one in a hub is brought into the
    /// cache, every byte compared with its digest, and stays there until this process
    /// ends. What is there is used without asking the hub.
    ///
    /// # Errors
    /// The hub's; as [`Cache::hold`].
    async fn local(&self, model: &ModelRef, cx: &BuildContext<'_>) -> Result<ModelRef> {
        let ModelRef::Hub(reference) = model else { return Ok(cx.model(model)) };
        let (cache, name) = (Cache::of(cx)?, reference.to_string());
        if let Some(held) = cache.held(&name, cx.call()).await? {
            return Ok(ModelRef::from(held.for_process()));
        }
        let files = self.resolve(reference, cx).await?;
        // Its lease ends with the hubs; the backend may load the model again later.
        files.bring(cx.call()).await?;
        let held = cache.held(&name, cx.call()).await?;
        let held = held.ok_or_else(|| Error::bug("find a model in the cache", format!("{name} is gone")))?;
        Ok(ModelRef::from(held.for_process()))
    }

    /// Brings the model `reference` into `cache`, every byte compared with its digest,
    /// where it stays while the value lives. What is there is used without asking the
    /// hub.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], the operator's, for a hub that is not one of these; the
    /// hub's; as [`Cache::hold`].
    #[cfg(feature = "server")]
    pub(crate) async fn hold(&self, reference: &HubRef, cache: &Cache, cx: &CallContext) -> Result<Held> {
        let hub = self.hubs.get(reference.hub()).ok_or_else(|| {
            let known: Vec<_> = self.hubs.keys().map(String::as_str).collect();
            Error::new(ErrorKind::NotFound, "find a model's hub", "no hub of that name is configured here")
                .with("model", reference)
                .with_hint(format!("known: {}", known.join(", ")))
        })?;
        let name = reference.to_string();
        if let Some(held) = cache.held(&name, cx).await? {
            return Ok(held);
        }
        let files = hub.resolve(reference, cx).await?;
        cache.hold(&name, &*files, cx).await
    }

    async fn resolve(&self, reference: &HubRef, cx: &BuildContext<'_>) -> Result<Arc<CachedFiles>> {
        let mut resolved = self.resolved.lock().await;
        if let Some(files) = resolved.get(reference) {
            return Ok(Arc::clone(files));
        }
        let hub = self.hubs.get(reference.hub());
        let hub =
            hub.ok_or_else(|| Error::bug("find a model's hub", format!("{reference} was not checked")))?;
        let files = hub.resolve(reference, cx.call()).await?;
        let files = Arc::new(CachedFiles::new(files, Cache::of(cx)?, reference.to_string()));
        resolved.insert(reference.clone(), Arc::clone(&files));
        Ok(files)
    }
}
