use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::backend::ModelSession;
use crate::conformance::Violation;
use crate::conformance::session::tests::{self as session, fixture};
use crate::error::{Artefact, Error, Fault, Result, Side};
use crate::identity::Identity;
use crate::model_ref::ModelRef;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    LoadsAnything,
    Unavailable,
    BlamesTheKing,
    IgnoresPins,
    OtherPinError,
    LoadsWhenCancelled,
    FlawedSession,
}

#[derive(Debug)]
struct Fake(Identity, Flaw);

#[async_trait]
impl ModelBackend for Fake {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let operation = "load the model";
        if self.1 != Flaw::LoadsWhenCancelled {
            cx.check(operation)?;
        }
        if model.model != ModelRef::served("there") && self.1 != Flaw::LoadsAnything {
            let missing = |kind| Error::new(kind, operation, "no such folder");
            return Err(match self.1 {
                Flaw::Unavailable => missing(ErrorKind::Unavailable),
                Flaw::BlamesTheKing => missing(ErrorKind::NotFound).with_fault(Fault::Contestant(Side::King)),
                _ => missing(ErrorKind::NotFound),
            });
        }
        let flaw = match self.1 {
            Flaw::FlawedSession => session::Flaw::AnswersTwice,
            _ => session::Flaw::None,
        };
        let session = session::Fake::new(flaw);
        let other = model.parameters.is_some_and(|pinned| pinned != session.model().parameters);
        if other && self.1 != Flaw::IgnoresPins {
            let kind = match self.1 {
                Flaw::OtherPinError => ErrorKind::DataInvalid,
                _ => ErrorKind::DigestMismatch,
            };
            return Err(Error::new(kind, operation, "another model").about(Artefact::Model));
        }
        Ok(Arc::new(session))
    }
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::None, None),
        (Flaw::LoadsAnything, Some("a missing model is refused")),
        (Flaw::Unavailable, Some("a missing model is refused")),
        (Flaw::BlamesTheKing, Some("a missing model is refused")),
        (Flaw::IgnoresPins, Some("a model with another digest than its pin is refused")),
        (Flaw::OtherPinError, Some("a model with another digest than its pin is refused")),
        (Flaw::LoadsWhenCancelled, Some("a stopped call says why")),
        (Flaw::FlawedSession, Some("exactly one answer per request")),
    ] {
        let identity = Identity { name: "fake".into(), version: "1".into(), config: Digest::of("{}") };
        let fixture = BackendFixture {
            model: ModelSource::served("there"),
            missing: ModelSource::served("nowhere"),
            session: fixture(),
        };
        let found = check_backend(&Fake(identity, flaw), &fixture).await.err();
        assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
    }
}
