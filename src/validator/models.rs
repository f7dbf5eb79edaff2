//! Where models are: hubs by name, and the cache of this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backends::cache::{Cache, CachedFiles, Held};
use crate::backends::files::FolderFiles;
use crate::registry::CheckContext;
use crate::{
    BuildContext, CallContext, Digest, Error, ErrorKind, Fault, HubRef, ModelBackend, ModelFiles, ModelHub,
    ModelRef, PluginConfig, Result, Revision,
};

use super::config::EntrySettings;

/// Models of hubs, resolved and held.
#[derive(Debug)]
pub(super) struct Models {
    hubs: BTreeMap<String, Arc<dyn ModelHub>>,
    cache: Cache,
    entry: EntrySettings,
}

/// A model on this machine, which cannot go while this value lives.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) folder: PathBuf,
    /// The lease of one in the cache; a folder of the operator's has none.
    _held: Option<Arc<Held>>,
}

impl Local {
    pub(super) fn files(&self) -> Arc<dyn ModelFiles> {
        Arc::new(FolderFiles::new(&self.folder).published())
    }
}

impl Models {
    /// Builds the hubs that are listed, and those that commitments name.
    pub(super) async fn build(
        listed: &[PluginConfig<dyn ModelHub>],
        entry: &EntrySettings,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let check = CheckContext::new(cx.registry());
        let mut hubs = BTreeMap::new();
        for (place, hub) in listed.iter().enumerate() {
            let built = check.plugin(format_args!("hubs[{place}]"), hub)?.build(cx).await?;
            hubs.insert(hub.name().to_owned(), built);
        }
        for (key, name) in [("entry.manifests", &entry.manifests), ("entry.revisions", &entry.revisions)] {
            if !hubs.contains_key(name) {
                let built = check.plugin(key, &PluginConfig::named(name.clone()))?.build(cx).await?;
                hubs.insert(name.clone(), built);
            }
        }
        Ok(Self { hubs, cache: Cache::of(cx)?, entry: entry.clone() })
    }

    /// What a commitment to `pin` of `repository` refers to.
    ///
    /// # Errors
    /// No hub has such a name or revision.
    pub(super) fn reference(&self, repository: &str, pin: &str) -> Result<HubRef> {
        reference(&self.entry, repository, pin)
    }

    /// The files of `reference`: at its hub until they are held.
    pub(super) async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<CachedFiles> {
        let hub = self
            .hubs
            .get(reference.hub())
            .ok_or_else(|| Error::bug("find a model's hub", "it was not built").with("model", reference))?;
        let files = hub.resolve(reference, cx).await?;
        Ok(CachedFiles::new(files, self.cache.clone(), reference.to_string()))
    }

    /// Whether the hub of `model`, asked now, says that it does not have it. An outage and
    /// whatever fails on this machine is no such answer.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(super) async fn is_absent(&self, model: &ModelRef, cx: &CallContext) -> Result<bool> {
        let ModelRef::Hub(reference) = model else { return Ok(false) };
        let listed = async { self.resolve(reference, cx).await?.list(cx).await };
        match listed.await {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            listed => Ok(listed.is_err_and(|error| is_absence(&error))),
        }
    }

    /// `model` on this machine, brought here if it is not.
    pub(super) async fn local(&self, model: &ModelRef, cx: &CallContext) -> Result<Local> {
        let reference = match model {
            ModelRef::Hub(reference) => reference,
            ModelRef::Folder(folder) => return Ok(Local { folder: folder.clone(), _held: None }),
            other => {
                let folder = other.require_folder("find a model's files")?;
                return Ok(Local { folder: folder.to_owned(), _held: None });
            }
        };
        let name = reference.to_string();
        let mut held = self.cache.held(&name, cx).await?;
        if held.is_none() {
            self.resolve(reference, cx).await?.bring(cx).await?;
            held = self.cache.held(&name, cx).await?;
        }
        let held =
            held.ok_or_else(|| Error::bug("hold a model", "it is gone from the cache").with("model", name))?;
        Ok(Local { folder: held.folder().to_owned(), _held: Some(Arc::new(held)) })
    }

    /// `model` as `backend` takes it, and what keeps its files here: a server fetches models
    /// of hubs itself.
    pub(super) async fn for_backend(
        &self,
        backend: &dyn ModelBackend,
        model: &ModelRef,
        cx: &CallContext,
    ) -> Result<(ModelRef, Option<Local>)> {
        if backend.takes_references() {
            return Ok((model.clone(), None));
        }
        let local = self.local(model, cx).await?;
        Ok((ModelRef::from(local.folder.clone()), Some(local)))
    }

    /// Keeps the king's files although no process uses them.
    pub(super) async fn keep_king(&self, model: &ModelRef) -> Result<()> {
        let ModelRef::Hub(reference) = model else { return Ok(()) };
        let (cache, name) = (self.cache.clone(), reference.to_string());
        blocking("keep the king's files", move || cache.keep("king", &name)).await
    }
}

/// Whether a hub's `error` means that it does not have a model, or shows it to those alone whom
/// its owner lets in.
pub(super) fn is_absence(error: &Error) -> bool {
    match (error.kind(), error.fault()) {
        (ErrorKind::NotFound, fault) => !matches!(fault, Fault::Infrastructure | Fault::Bug),
        (ErrorKind::Unavailable | ErrorKind::Refused, fault) => matches!(fault, Fault::Contestant(_)),
        _ => false,
    }
}

/// What `pin` of `repository` refers to, with the hubs of `entry`.
///
/// # Errors
/// No hub has such a name or revision.
pub(super) fn reference(entry: &EntrySettings, repository: &str, pin: &str) -> Result<HubRef> {
    match pin.strip_prefix("sha256:") {
        Some(digest) => {
            HubRef::new(&entry.manifests, repository, Revision::Sha256(digest.parse::<Digest>()?))
        }
        None => format!("{}:{repository}@{pin}", entry.revisions).parse(),
    }
}

/// Digest of the names and digests of a listing: what a submission is, wherever it is.
///
/// # Errors
/// The hub does not vouch for a file.
pub(super) async fn content(files: &dyn ModelFiles, cx: &CallContext) -> Result<Digest> {
    const OPERATION: &str = "list a submission's files";
    let mut listed = Vec::new();
    for file in files.list(cx).await? {
        let digest = file.sha256.ok_or_else(|| {
            Error::new(ErrorKind::Protocol, OPERATION, "the hub states no digest of a file")
                .with_fault(Fault::Infrastructure)
                .with("file", &file.name)
        })?;
        listed.push((file.name, digest));
    }
    listed.sort();
    Digest::of_json(&listed)
}

pub(super) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::bug(operation, error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;

    #[test]
    fn only_a_hubs_word_or_the_contestants_own_doing_is_an_absence() {
        use ErrorKind::{DataInvalid, NotFound, Refused, Timeout, Unavailable};
        let error = |kind| Error::new(kind, "resolve a model", "no");
        let challenger = Fault::Contestant(Side::Challenger);
        for absent in [
            error(NotFound),
            error(NotFound).with_fault(Fault::Operator),
            error(NotFound).with_fault(challenger),
            error(Unavailable).with_fault(challenger),
            error(Refused).with_fault(challenger),
        ] {
            assert!(is_absence(&absent), "{absent:#?}");
        }
        for other in [
            error(NotFound).with_fault(Fault::Infrastructure),
            error(NotFound).with_fault(Fault::Bug),
            error(Unavailable),
            error(Unavailable).with_fault(Fault::Operator),
            error(Timeout),
            error(DataInvalid).with_fault(challenger),
        ] {
            assert!(!is_absence(&other), "{other:#?}");
        }
    }
}
