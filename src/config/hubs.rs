//! Where the models of a configuration are: in folders, at servers, in hubs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backends::files::{FolderFiles, fetch};
use crate::registry::{CheckContext, Checked};
use crate::{
    BuildContext, Digest, Error, ErrorKind, HubRef, ModelFiles, ModelHub, ModelRef, PluginConfig, Result,
};

/// The hubs that the models of a configuration are in, checked.
#[derive(Debug)]
pub(super) struct CheckedHubs(BTreeMap<String, Checked<dyn ModelHub>>);

/// The hubs that the models of a configuration are in.
#[derive(Debug)]
pub(super) struct Hubs(BTreeMap<String, Arc<dyn ModelHub>>);

impl CheckedHubs {
    /// Checks the hubs that the settings list, and those that only a reference
    /// names, each model beside its key.
    ///
    /// # Errors
    /// As [`CheckContext::plugin`]; a hub that is listed twice.
    pub(super) fn check<'a>(
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

    pub(super) async fn build(self, cx: &BuildContext<'_>) -> Result<Hubs> {
        let mut hubs = BTreeMap::new();
        for (name, hub) in self.0 {
            hubs.insert(name, hub.build(cx).await?);
        }
        Ok(Hubs(hubs))
    }
}

impl Hubs {
    /// The files of `model`, where they are.
    ///
    /// # Errors
    /// The hub's; the operator's for a model that is only served.
    pub(super) async fn files(&self, model: &ModelRef, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelFiles>> {
        match model {
            ModelRef::Hub(reference) => self.resolve(reference, cx).await,
            model => Ok(Arc::new(FolderFiles::new(cx.model(model).require_folder("read a model's files")?))),
        }
    }

    /// `model` as a backend on this machine loads it: one in a hub is fetched into
    /// the cache, every byte compared with its digest.
    ///
    /// # Errors
    /// The hub's; as [`fetch`].
    pub(super) async fn local(&self, model: &ModelRef, cx: &BuildContext<'_>) -> Result<ModelRef> {
        let ModelRef::Hub(reference) = model else { return Ok(cx.model(model)) };
        let files = self.resolve(reference, cx).await?;
        let name = reference.to_string();
        let folder = cx.cache_dir()?.join("models").join(Digest::of(&name).to_string());
        let fetched = fetch(&*files, &folder, &name, cx.call()).await;
        fetched.map_err(|error| error.with("model", name))?;
        Ok(ModelRef::from(folder))
    }

    async fn resolve(&self, reference: &HubRef, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelFiles>> {
        let hub = self.0.get(reference.hub());
        let hub =
            hub.ok_or_else(|| Error::bug("find a model's hub", format!("{reference} was not checked")))?;
        hub.resolve(reference, cx.call()).await
    }
}
