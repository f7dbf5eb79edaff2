//! The suite of [`ModelHub`].

use std::time::Duration;

use super::{Checked, PATIENCE, brief, broken, check_files, ensure, refuses, stops, succeeds};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::files::FileEntry;
use crate::hub::ModelHub;
use crate::model_ref::{HubRef, Revision};

/// Files of up to this many bytes are read to compare their digest.
const MAX_HASHED: u64 = 1 << 20;

/// What the hub suite needs to know.
#[derive(Debug, Clone)]
pub struct HubFixture {
    /// A model that the hub has.
    pub model: HubRef,
    /// How long to wait for one call; [`PATIENCE`] by default.
    pub patience: Duration,
}

impl HubFixture {
    /// The fixture of a hub that has `model`.
    pub fn new(model: HubRef) -> Self {
        Self { model, patience: PATIENCE }
    }
}

/// Checks a hub: a pinned model resolves to files that pass [`check_files`], all of them there, the
/// same whenever it is asked for, each with the digest of its bytes; a revision or a repository that it does not have
/// is not found, and never answered by another, but accepted, since it may be uploaded; another
/// hub's reference is refused; a call can be stopped.
///
/// # Errors
/// The first promise found broken.
pub async fn check_hub(hub: &dyn ModelHub, fixture: &HubFixture) -> Checked {
    const MISSING: &str = "what the hub does not have is not found";
    const DIGEST: &str = "every file is listed with its digest";
    const FOREIGN: &str = "another hub's reference is refused";
    const ACCEPTED: &str = "what the hub has, or may be given, is accepted";
    let HubFixture { model, patience } = fixture;
    let cx = CallContext::new();
    let accepts =
        |reference: &HubRef| hub.accepts(reference).or_else(|error| broken(ACCEPTED, error.to_string()));
    accepts(model)?;
    let resolve = async || succeeds(*patience, "a pinned model resolves", hub.resolve(model, &cx)).await;
    let files = resolve().await?;
    check_files(&*files, *patience).await?;
    succeeds(*patience, "all that is listed is there", files.present(&cx)).await?;
    let list = async |files| succeeds(*patience, "files are listed", files).await;
    let (listed, again) = (list(files.list(&cx)).await?, list(resolve().await?.list(&cx)).await?);
    ensure(listed == again, "a pin always means the same files", || brief(&again))?;
    for FileEntry { name, size, sha256, .. } in &listed {
        let stated = sha256.map_or_else(|| broken(DIGEST, format!("{name} has none")), Ok)?;
        if *size <= MAX_HASHED {
            let bytes = succeeds(*patience, "a file is read", files.read(name, 0..*size, &cx)).await?;
            let found = Digest::of(bytes);
            ensure(stated == found, DIGEST, || format!("{name} has {found}, listed is {stated}"))?;
        }
    }

    let other = match model.revision() {
        Revision::Sha256(digest) => Revision::Sha256(Digest::of(digest.as_bytes())),
        Revision::Commit(commit) => Revision::Commit(commit.map(|byte| !byte)),
    };
    let named = |hub: &str, repository: &str, revision| {
        HubRef::new(hub, repository, revision).or_else(|error| broken(super::FITTING, error.to_string()))
    };
    let unknown = format!("{}-of-nobody", model.repository());
    for missing in
        [named(model.hub(), model.repository(), other)?, named(model.hub(), &unknown, model.revision())?]
    {
        let error = refuses(*patience, MISSING, hub.resolve(&missing, &cx)).await?;
        ensure(error.kind() == ErrorKind::NotFound, MISSING, || error.to_string())?;
        accepts(&missing)?;
    }
    let foreign = named("another", model.repository(), model.revision())?;
    let error = refuses(*patience, FOREIGN, hub.resolve(&foreign, &cx)).await?;
    ensure(error.kind() == ErrorKind::ConfigInvalid, FOREIGN, || error.to_string())?;
    stops(*patience, |cx| async move { hub.resolve(model, &cx).await }).await
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::conformance::Violation;
    use crate::error::{Error, Result};
    use crate::files::ModelFiles;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Flaw {
        None,
        TakesTheNewest,
        TakesAnyName,
        TakesAnyHub,
        CallsItUnavailable,
        Moves,
        ListsNothing,
        VouchesForNothing,
        VouchesForOthers,
        AcceptsWhatItHas,
    }

    /// One model, `fake:owner/model`.
    #[derive(Debug)]
    struct Hub(Flaw, AtomicU64);

    #[derive(Debug)]
    struct One(u64, Flaw);

    #[async_trait]
    impl ModelFiles for One {
        async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
            let entry = || {
                let entry = FileEntry::new("config.json", self.0);
                match self.1 {
                    Flaw::VouchesForNothing => entry,
                    Flaw::VouchesForOthers => entry.with_sha256(Digest::of("others")),
                    _ => entry.with_sha256(Digest::of(vec![0; self.0 as usize])),
                }
            };
            Ok((self.0 > 0).then(entry).into_iter().collect())
        }

        async fn read(&self, name: &str, range: Range<u64>, _: &CallContext) -> Result<Vec<u8>> {
            if name != "config.json" {
                return Err(Error::new(ErrorKind::NotFound, "read a file", "there is none"));
            }
            if range.end > self.0 {
                return Err(Error::new(ErrorKind::DataInvalid, "read a file", "past the end"));
            }
            Ok(vec![0; (range.end - range.start) as usize])
        }
    }

    fn model() -> HubRef {
        HubRef::new("fake", "owner/model", Revision::Commit([7; 20])).expect("a reference")
    }

    #[async_trait]
    impl ModelHub for Hub {
        async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
            cx.check("resolve")?;
            if self.0 != Flaw::TakesAnyHub {
                reference.require_hub("fake", "resolve")?;
            }
            let known = model();
            let revision = self.0 == Flaw::TakesTheNewest || reference.revision() == known.revision();
            let name = self.0 == Flaw::TakesAnyName || reference.repository() == known.repository();
            if !(revision && name) {
                let kind = match self.0 {
                    Flaw::CallsItUnavailable => ErrorKind::Unavailable,
                    _ => ErrorKind::NotFound,
                };
                return Err(Error::new(kind, "resolve", "there is no such model"));
            }
            let asked = self.1.fetch_add(1, Ordering::Relaxed);
            let bytes = match self.0 {
                Flaw::Moves => 4 + asked,
                Flaw::ListsNothing => 0,
                _ => 4,
            };
            Ok(Arc::new(One(bytes, self.0)))
        }

        fn accepts(&self, reference: &HubRef) -> Result<()> {
            if self.0 == Flaw::AcceptsWhatItHas && *reference != model() {
                return Err(Error::new(ErrorKind::NotFound, "resolve", "there is no such model"));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_flaw_is_found() {
        const MISSING: Option<&str> = Some("what the hub does not have is not found");
        for (flaw, promise) in [
            (Flaw::None, None),
            (Flaw::TakesTheNewest, MISSING),
            (Flaw::TakesAnyName, MISSING),
            (Flaw::CallsItUnavailable, MISSING),
            (Flaw::TakesAnyHub, Some("another hub's reference is refused")),
            (Flaw::Moves, Some("a pin always means the same files")),
            (Flaw::ListsNothing, Some("files are listed")),
            (Flaw::VouchesForNothing, Some("every file is listed with its digest")),
            (Flaw::VouchesForOthers, Some("every file is listed with its digest")),
            (Flaw::AcceptsWhatItHas, Some("what the hub has, or may be given, is accepted")),
        ] {
            let hub = Hub(flaw, AtomicU64::new(0));
            let found = check_hub(&hub, &HubFixture::new(model())).await.err();
            assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
        }
    }
}
