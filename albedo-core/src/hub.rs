//! Hubs: where models are published, under names that are pinned.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::context::CallContext;
use crate::error::Result;
use crate::files::ModelFiles;
use crate::model_ref::HubRef;

/// Resolves pinned references into files. Its name as a plugin is the hub that
/// references name: `oci`, `hf`.
#[async_trait]
pub trait ModelHub: Debug + Send + Sync + 'static {
    /// The files of the revision that `reference` pins.
    ///
    /// # Behavior
    /// - The listing is that of the pinned revision and no other: it is checked
    ///   against the pin where the pin is a digest.
    /// - Every file of it has its digest ([`FileEntry::sha256`](crate::FileEntry)).
    /// - Ranges are read when they are asked for. A range is not checked against
    ///   its file's digest, since it is not the whole file: a download is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a repository or
    /// revision that the hub does not have;
    /// [`ErrorKind::ConfigInvalid`](crate::ErrorKind::ConfigInvalid), the
    /// operator's, for another hub's reference ([`HubRef::require_hub`]);
    /// [`ErrorKind::DigestMismatch`](crate::ErrorKind::DigestMismatch) for a
    /// listing that is not the pinned one. Whose fault a missing model is, only
    /// the caller knows.
    async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> Result<Arc<dyn ModelFiles>>;

    /// Checks that the hub may have the model of `reference`, by the form of the
    /// reference and the hub's settings alone. Asks nobody: a validator ends a
    /// submission by a refusal, and no outage may end one.
    ///
    /// # Behavior
    /// - Accepts every model that the hub has, and every one that may still be
    ///   uploaded to it. A hub without such rules accepts everything, as by default.
    /// - [`ModelHub::resolve`] refuses whatever is refused here.
    ///
    /// # Errors
    /// The operator's ([`Fault::Operator`](crate::Fault::Operator)): why no model can
    /// be there, whatever is uploaded.
    fn accepts(&self, _reference: &HubRef) -> Result<()> {
        Ok(())
    }
}
