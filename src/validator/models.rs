//! Where models are: hubs by name, and the cache of this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backends::cache::{Cache, CachedFiles, Held};
use crate::backends::files::FolderFiles;
use crate::registry::CheckContext;
use crate::{
    BuildContext, CallContext, Digest, Error, ErrorKind, Fault, FileEntry, HubRef, ModelBackend, ModelFiles,
    ModelHub, ModelRef, PluginConfig, Result, Revision,
};

use super::config::EntrySettings;

/// Models of hubs, resolved and held.
#[derive(Debug)]
pub(super) struct Models {
    hubs: BTreeMap<String, Arc<dyn ModelHub>>,
    cache: Cache,
    entry: EntrySettings,
}

/// What a hub says of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has every file.
    There,
    /// It does not have it, or a file that it lists of it.
    Absent,
    /// It refuses it to this validator, and does not say whether it has it.
    Refused,
    /// Nothing: it is away, or something failed on this machine.
    Unknown,
}

/// A model on this machine, which cannot go while this value lives.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) folder: PathBuf,
    /// The lease of one in the cache; a folder of the operator's has none.
    held: Option<Arc<Held>>,
}

impl Local {
    pub(super) fn files(&self) -> Arc<dyn ModelFiles> {
        Arc::new(FolderFiles::new(&self.folder).published())
    }

    /// What its hub listed when it was brought here, whatever has become of the repository and of
    /// the folder since. None of a folder of the operator's.
    pub(super) fn listed(&self) -> Option<&[FileEntry]> {
        self.held.as_deref().map(Held::files)
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

    /// Why no hub of this validator can have what a commitment to `pin` of `repository` names: by
    /// its form and the settings alone. No hub is asked, so that no outage is a refusal.
    ///
    /// # Errors
    /// What keeps a hub from telling.
    pub(super) fn refusal(&self, repository: &str, pin: &str) -> Result<Option<String>> {
        let reference = match self.reference(repository, pin) {
            Ok(reference) => reference,
            Err(mistake) => return Ok(Some(mistake.to_string())),
        };
        match self.hub(&reference)?.accepts(&reference) {
            Ok(()) => Ok(None),
            Err(refusal) if refusal.fault() == Fault::Operator => Ok(Some(refusal.to_string())),
            Err(error) => Err(error),
        }
    }

    fn hub(&self, reference: &HubRef) -> Result<&dyn ModelHub> {
        let hub = self.hubs.get(reference.hub()).map(|hub| &**hub);
        hub.ok_or_else(|| Error::bug("find a model's hub", "it was not built").with("model", reference))
    }

    /// The files of `reference`: at its hub until they are held.
    pub(super) async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<CachedFiles> {
        let files = self.hub(reference)?.resolve(reference, cx).await?;
        Ok(CachedFiles::new(files, self.cache.clone(), reference.to_string()))
    }

    /// Whether the hub of `model`, asked now, says that it does not have it, or a file that it
    /// lists of it. An outage and whatever fails on this machine is no such answer.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(super) async fn is_absent(&self, model: &ModelRef, cx: &CallContext) -> Result<bool> {
        Ok(self.presence(model, cx).await? == Presence::Absent)
    }

    /// What the hub of `model`, asked now, says of it. What is of no hub is there.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(super) async fn presence(&self, model: &ModelRef, cx: &CallContext) -> Result<Presence> {
        let ModelRef::Hub(reference) = model else { return Ok(Presence::There) };
        let present = async {
            let files = self.resolve(reference, cx).await?;
            files.list(cx).await?;
            files.present(cx).await
        };
        match present.await {
            Ok(()) => Ok(Presence::There),
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) if is_absence(&error) => Ok(Presence::Absent),
            Err(error) if is_refusal(&error) => Ok(Presence::Refused),
            Err(_) => Ok(Presence::Unknown),
        }
    }

    /// `model` on this machine, brought here if it is not.
    pub(super) async fn local(&self, model: &ModelRef, cx: &CallContext) -> Result<Local> {
        let reference = match model {
            ModelRef::Hub(reference) => reference,
            ModelRef::Folder(folder) => return Ok(Local { folder: folder.clone(), held: None }),
            other => {
                let folder = other.require_folder("find a model's files")?;
                return Ok(Local { folder: folder.to_owned(), held: None });
            }
        };
        if let Some(held) = self.held(reference, cx).await? {
            return Ok(held);
        }
        self.resolve(reference, cx).await?.bring(cx).await?;
        let held = self.held(reference, cx).await?;
        held.ok_or_else(|| Error::bug("hold a model", "it is gone from the cache").with("model", reference))
    }

    /// The model of `reference`, if every byte of it is on this machine. Its hub is not asked.
    pub(super) async fn held(&self, reference: &HubRef, cx: &CallContext) -> Result<Option<Local>> {
        let held = self.cache.held(&reference.to_string(), cx).await?;
        Ok(held.map(|held| Local { folder: held.folder().to_owned(), held: Some(Arc::new(held)) }))
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

/// Whether `error` is a hub's word that it does not have a model. Hubs say the same of a model
/// that its owner does not show to everybody. What is charged to a contestant is about files that
/// are here, and no such word.
pub(super) fn is_absence(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.fault() == Fault::Operator
}

/// Whether `error` is that of a hub which refuses a model to this validator, as a private project's. The
/// same error on this machine's disk is none, so that only an answer of [`Models::presence`] decides.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && error.fault() == Fault::Operator
}

/// Whether `error` says that the bytes which came are not those that have the listed digests, or not as
/// many: they are damaged at the hub, or on the way from it. An outage is no damage.
pub(super) fn is_damage(error: &Error) -> bool {
    let kinds = [ErrorKind::DigestMismatch, ErrorKind::DataInvalid, ErrorKind::Protocol];
    kinds.contains(&error.kind()) && error.said_fault() == Some(Fault::Infrastructure)
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
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::Side;
    use crate::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
    use crate::validator::parts::testing::{Quick, shared, shared_with_registry};

    /// A registry that gives one answer to every request.
    #[derive(Debug, Default)]
    struct OneAnswer(Mutex<(StatusCode, &'static str)>);

    #[async_trait]
    impl HttpTransport for OneAnswer {
        async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            let (status, body) = *self.0.lock().expect("no panic");
            Ok(HttpResponse::whole(status, HeaderMap::new(), body))
        }
    }

    #[tokio::test]
    async fn a_registrys_code_is_an_absence_and_a_404_of_an_ingress_is_none() {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let registry = Arc::new(OneAnswer::default());
        let shared = shared_with_registry(folder.path(), &clock, Arc::<OneAnswer>::clone(&registry)).await;
        let revision = Revision::Sha256(Digest::of("a manifest"));
        let model = ModelRef::from(HubRef::new(HubRef::OCI, "ann/model", revision).expect("a reference"));
        for (status, body, absent) in [
            (404, "", false),
            (404, "default backend - 404", false),
            (404, "<html>404 Not Found</html>", false),
            (404, r#"{ "errors": [{ "code": "NOT_FOUND", "message": "no such route" }] }"#, false),
            (503, "", false),
            (404, r#"{ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "manifest unknown" }] }"#, true),
            (404, r#"{ "errors": [{ "code": "NAME_UNKNOWN", "message": "repository name" }] }"#, true),
        ] {
            *registry.0.lock().expect("no panic") = (StatusCode::from_u16(status).expect("a status"), body);
            let found = shared.models.is_absent(&model, &CallContext::new()).await.expect("asked");
            assert_eq!(found, absent, "{status} {body}");
        }
    }

    /// A hub whose rules refuse every reference with that error.
    #[derive(Debug)]
    struct Strict(Error);

    #[async_trait]
    impl ModelHub for Strict {
        async fn resolve(&self, _: &HubRef, _: &CallContext) -> Result<Arc<dyn ModelFiles>> {
            Err(self.0.clone())
        }

        fn accepts(&self, _: &HubRef) -> Result<()> {
            Err(self.0.clone())
        }
    }

    #[tokio::test]
    async fn a_refusal_is_a_hubs_rule_and_no_failure() {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let mut models = shared(folder.path(), &clock).await.models;
        let pin = format!("sha256:{}", Digest::of("a manifest"));
        assert_eq!(models.refusal("ann/model", &pin).expect("told"), None);
        let refused = models.refusal("ann/model", "main").expect("told").expect("a branch moves");
        assert!(refused.contains("can be moved"), "{refused}");
        let error = Error::new(ErrorKind::ConfigInvalid, "resolve a model", "no name of this hub's");
        models.hubs.insert("folder".into(), Arc::new(Strict(error.clone())));
        let refused = models.refusal("ann/model", &pin).expect("told").expect("refused");
        assert!(refused.contains("no name of this hub's"), "{refused}");
        for fault in [Fault::Infrastructure, Fault::Bug] {
            models.hubs.insert("folder".into(), Arc::new(Strict(error.clone().with_fault(fault))));
            assert_eq!(models.refusal("ann/model", &pin).expect_err("it failed").fault(), fault);
        }
    }

    #[test]
    fn neither_an_outage_nor_a_models_own_mistake_is_damage_or_a_refusal() {
        use ErrorKind::{DataInvalid, DigestMismatch, Protocol, RateLimited, Timeout, Unavailable};
        let error = |kind, fault| Error::new(kind, "fetch a model", "no").with_fault(fault);
        for kind in [DigestMismatch, DataInvalid, Protocol] {
            assert!(is_damage(&error(kind, Fault::Infrastructure)), "{kind:?}");
            // A model that is larger than this validator allows says no fault.
            assert!(!is_damage(&Error::new(kind, "fetch a model", "no")), "{kind:?}");
            assert!(!is_damage(&error(kind, Fault::Contestant(Side::Challenger))), "{kind:?}");
        }
        assert!(is_refusal(&error(Unavailable, Fault::Operator)));
        for kind in [Timeout, Unavailable, RateLimited] {
            let outage = error(kind, Fault::Infrastructure);
            assert!(!is_damage(&outage) && !is_refusal(&outage), "{kind:?}");
        }
    }

    #[test]
    fn only_a_hubs_word_is_an_absence() {
        use ErrorKind::{DataInvalid, NotFound, Timeout, Unavailable};
        let error = |kind| Error::new(kind, "resolve a model", "no");
        let challenger = Fault::Contestant(Side::Challenger);
        for absent in [error(NotFound), error(NotFound).with_fault(Fault::Operator)] {
            assert!(is_absence(&absent), "{absent:#?}");
        }
        for other in [
            error(NotFound).with_fault(challenger),
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
