//! The suite of [`ModelBackend`].

use super::{Checked, SessionFixture, ends, ensure, refuses, same_identity, says, stopped, succeeds};
use crate::backend::{ModelBackend, ModelSource};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::ErrorKind;

/// What the backend suite needs to know.
#[derive(Debug, Clone)]
pub struct BackendFixture {
    /// A model that loads, unpinned.
    pub model: ModelSource,
    /// One that does not exist.
    pub missing: ModelSource,
    /// What the session suite needs to know of the loaded model.
    pub session: SessionFixture,
}

/// Checks a backend: a stable identity; a missing model and a wrong digest are
/// refused as such, never as infrastructure; a stopped call loads nothing; the
/// same model loads alike, and its session passes
/// [`check_session`](super::check_session).
///
/// # Errors
/// The first promise found broken.
pub async fn check_backend(backend: &dyn ModelBackend, fixture: &BackendFixture) -> Checked {
    const PINNED: &str = "a model with another digest than its pin is refused";
    const LOADS: &str = "a good model loads";
    let BackendFixture { model, missing, session: session_fixture } = fixture;
    let patience = session_fixture.patience;
    let identity = backend.identity().clone();
    same_identity(&identity, backend.identity())?;
    let cx = CallContext::new();

    refuses(patience, "a missing model is refused", backend.load(missing, &cx)).await?;
    let pinned = |parameters| ModelSource { parameters: Some(parameters), ..model.clone() };
    let other = pinned(Digest::of("another model"));
    let error = refuses(patience, PINNED, backend.load(&other, &cx)).await?;
    ensure(error.kind() == ErrorKind::DigestMismatch, PINNED, || error.to_string())?;
    for (cx, kind) in stopped() {
        says(kind, ends(patience, backend.load(model, &cx)).await?)?;
    }

    let session = succeeds(patience, LOADS, backend.load(model, &cx)).await?;
    let info = session.model().clone();
    let again = succeeds(patience, LOADS, backend.load(&pinned(info.parameters), &cx)).await?;
    ensure(&info == again.model(), "the same model loads alike", || format!("{:?}", again.model()))?;
    drop(again);
    Box::pin(super::check_session(&*session, session_fixture)).await?;
    same_identity(&identity, backend.identity())
}

#[cfg(test)]
mod tests;
