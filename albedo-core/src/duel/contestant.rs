//! One side of a duel: a loaded model, and how to load it afresh.

use std::sync::Arc;

use tokio::sync::{RwLock, RwLockReadGuard};

use crate::backend::{
    Completion, GenerateRequest, ModelBackend, ModelInfo, ModelSession, ModelSessionExt, ModelSource,
};
use crate::behaviour;
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Artefact, Error, ErrorKind, Reach, Result, Side};
use crate::events::EventKind;
use crate::identity::Identity;
use crate::plan::ContestantPlan;

const WAIT: &str = "wait for the model";
const RELOAD: &str = "load the model again";

/// One side of a duel: a loaded model and what runs it. Clones share the model.
///
/// ```
/// use albedo_core::{CallContext, Contestant, ModelBackend, ModelSource, Side};
/// # #[cfg(feature = "conformance")]
/// use albedo_core::testing::{ScriptedBackend, ScriptedSession};
/// use std::sync::Arc;
///
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// let cx = CallContext::new();
/// let backend: Arc<dyn ModelBackend> =
///     Arc::new(ScriptedBackend::new("scripted", |_| Ok(Arc::new(ScriptedSession::saying("king", "ls")))));
/// let king = Contestant::load(Side::King, &backend, &ModelSource::served("king"), &cx).await?;
/// assert_eq!(king.model().architecture, "Scripted");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
pub struct Contestant(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    model: ModelInfo,
    backend: Identity,
    /// What its template engine makes of fixed conversations.
    template: Option<Digest>,
    /// What loads the model afresh, if that is known.
    origin: Option<Origin>,
    /// Read to ask the model, written to load it afresh. None if
    /// it was dropped for that and could not be loaded.
    session: RwLock<Option<Arc<dyn ModelSession>>>,
}

#[derive(Debug)]
struct Origin {
    backend: Arc<dyn ModelBackend>,
    source: ModelSource,
}

impl Contestant {
    /// Loads `source` with `backend` as `side`.
    ///
    /// # Errors
    /// Whatever the backend meets, naming the side. An error about a model's own
    /// files whose fault is not said is its owner's: `side`'s if it is about the
    /// model, the king's if it is about the text files that the source takes from
    /// the king.
    pub async fn load(
        side: Side,
        backend: &Arc<dyn ModelBackend>,
        source: &ModelSource,
        cx: &CallContext,
    ) -> Result<Self> {
        let owner = |artefact| match artefact {
            Artefact::Text if source.text_from.is_some() => Side::King,
            _ => side,
        };
        cx.emit(EventKind::Loading { side });
        let session = backend.load(source, cx).await.map_err(|error| {
            let named = error.artefact().map_or(side, owner);
            error.charged_to(owner).with("side", named)
        })?;
        cx.emit(EventKind::Loaded { side, parameters: session.model().parameters });
        let origin = Origin { backend: Arc::clone(backend), source: source.clone() };
        Ok(Self::with(session, backend.identity().clone(), Some(origin)))
    }

    /// A contestant whose model was loaded by other means, by a backend of that
    /// identity. It cannot be loaded afresh, so that an overflow of its arithmetic
    /// is never confirmed: it counts as a failure of infrastructure.
    pub fn new(session: Arc<dyn ModelSession>, backend: Identity) -> Self {
        Self::with(session, backend, None)
    }

    fn with(session: Arc<dyn ModelSession>, backend: Identity, origin: Option<Origin>) -> Self {
        let model = session.model().clone();
        // A digest of token ids cannot fail.
        let template = behaviour::template(&*session).unwrap_or_default();
        Self(Arc::new(Loaded { model, backend, template, origin, session: RwLock::new(Some(session)) }))
    }

    /// The loaded model. Let go of it soon: while it is held, the memory that it
    /// takes is not free for the same model loaded afresh.
    ///
    /// # Errors
    /// The model had to be loaded afresh, and could not be; `cx`.
    pub async fn session(&self, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        Ok(Arc::clone(&*self.loaded(cx).await?))
    }

    /// What was loaded.
    pub fn model(&self) -> &ModelInfo {
        &self.0.model
    }

    /// The backend that loaded it.
    pub fn backend(&self) -> &Identity {
        &self.0.backend
    }

    pub(super) fn template(&self) -> Option<Digest> {
        self.0.template
    }

    pub(super) fn plan(&self) -> ContestantPlan {
        ContestantPlan { model: self.0.model.clone(), backend: self.0.backend.clone() }
    }

    /// The answer to `request`, beside others.
    pub(super) async fn generate(&self, request: GenerateRequest, cx: &CallContext) -> Result<Completion> {
        one_answer(&**self.loaded(cx).await?, request, cx).await
    }

    /// The answer to `request` is in the journal.
    pub(super) fn kept(&self, request: &GenerateRequest) {
        // A session that is being replaced keeps nothing.
        if let Ok(session) = self.0.session.try_read()
            && let Some(session) = &*session
        {
            session.kept(request);
        }
    }

    /// The answer to `request`, asked alone of the model loaded afresh; none if
    /// nobody knows how to load it.
    ///
    /// The loaded model is dropped first, once its requests are answered: two
    /// copies need not fit on the device, and bits of this one may be wrong.
    pub(super) async fn generate_afresh(
        &self,
        request: GenerateRequest,
        cx: &CallContext,
    ) -> Option<Result<Completion>> {
        let origin = self.0.origin.as_ref()?;
        let answer = async {
            let mut session = cx.run(WAIT, self.0.session.write()).await?;
            if let Some(old) = session.take() {
                drop_session(old, cx).await?;
            }
            let fresh = session.insert(self.reload(origin, cx).await?);
            one_answer(&**fresh, request, cx).await
        };
        Some(answer.await)
    }

    /// The loaded model, which is not loaded afresh while this is held.
    pub(super) async fn loaded(
        &self,
        cx: &CallContext,
    ) -> Result<RwLockReadGuard<'_, Arc<dyn ModelSession>>> {
        let session = cx.run(WAIT, self.0.session.read()).await?;
        if let Ok(session) = RwLockReadGuard::try_map(session, Option::as_ref) {
            return Ok(session);
        }
        let mut session = cx.run(WAIT, self.0.session.write()).await?;
        if let (None, Some(origin)) = (&*session, &self.0.origin) {
            *session = Some(self.reload(origin, cx).await?);
        }
        RwLockReadGuard::try_map(session.downgrade(), Option::as_ref)
            .map_err(|_| Error::bug(RELOAD, "a session is gone that nothing can load"))
    }

    async fn reload(&self, origin: &Origin, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let session = origin.backend.load(&origin.source, cx).await?;
        if *session.model() == self.0.model {
            return Ok(session);
        }
        Err(Error::new(ErrorKind::DigestMismatch, RELOAD, "its files are not what they were")
            .with_reach(Reach::Duel)
            .with("was", self.0.model.parameters)
            .with("is", session.model().parameters)
            .with_hint("leave a model's files alone while it is in use"))
    }
}

/// Drops `session`, which may wait for its device.
async fn drop_session(session: Arc<dyn ModelSession>, cx: &CallContext) -> Result<()> {
    let dropped = tokio::task::spawn_blocking(move || drop(session));
    cx.run(RELOAD, dropped).await?.map_err(|error| Error::bug(RELOAD, error.to_string()))
}

/// The one answer to `request`, whose scores can be recorded.
async fn one_answer(
    session: &dyn ModelSession,
    request: GenerateRequest,
    cx: &CallContext,
) -> Result<Completion> {
    let completion = session.generate_one(request, cx).await?;
    let mut scores = completion.reply_scores.iter().flat_map(|scores| &scores.log_probs);
    if scores.any(|log_prob| !log_prob.is_finite()) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "generate a reply",
            "a log-probability of the recorded reply is not finite",
        ));
    }
    Ok(completion)
}
