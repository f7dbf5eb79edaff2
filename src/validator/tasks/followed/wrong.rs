//! What keeps a validator from being followed, and why a step ends before an entry is followed.

use super::OPERATION;
use crate::log::Finding;
use crate::validator::ledger::{Cause, Refusal};
use crate::{Error, ErrorKind, Fault};

/// What keeps the validator from being followed.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    pub(super) cause: Cause,
    pub(super) error: Error,
}

impl Wrong {
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        let error = Error::new(ErrorKind::Conflict, OPERATION, message).with_fault(Fault::Operator);
        Self { cause, error }
    }

    pub(super) fn with(self, key: &'static str, value: impl std::fmt::Display) -> Self {
        Self { error: self.error.with(key, value), ..self }
    }

    pub(super) fn with_hint(self, hint: &str) -> Self {
        Self { error: self.error.with_hint(hint), ..self }
    }

    pub(super) fn refusal(&self) -> Refusal {
        Refusal { cause: self.cause, message: self.error.to_string() }
    }
}

/// Why a step ended before an entry was followed.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something is to come first.
    Waits,
    Wrong(Wrong),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Wrong> for Stop {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

/// An error that is evidence against the validator is one; any other stays a failure. An error of an
/// audit that says that it is infrastructure's is no evidence: bytes of the first king may be damaged at a
/// hub, or on the way from it. An error about the model itself, as one that is larger than this validator allows, says
/// no fault and is a refusal, so that an operator can go on past it.
pub(super) fn evidence(cause: Cause) -> impl Fn(Error) -> Stop {
    move |error| match error.kind() {
        _ if cause == Cause::Audit && error.said_fault() == Some(Fault::Infrastructure) => {
            Stop::Failed(error)
        }
        ErrorKind::DataInvalid | ErrorKind::DigestMismatch | ErrorKind::Conflict => {
            Stop::Wrong(Wrong { cause, error: error.with_fault(Fault::Operator) })
        }
        _ => Stop::Failed(error),
    }
}

/// What a head of `size` entries, which is `held`, shows of the log.
pub(super) fn against(cause: Cause, finding: &Finding, size: u64, held: &str) -> Wrong {
    let wrong = match finding {
        Finding::Truncated { size, .. } => {
            Wrong::new(cause, format!("{held} covers more entries than the log shows")).with("shown", size)
        }
        Finding::Contradiction { root, .. } => {
            Wrong::new(cause, format!("{held} and the log contradict each other: there are two histories"))
                .with("the log's hash", root)
        }
        _ => Wrong::new(cause, format!("{held} is not the log's")),
    };
    let hint = match finding {
        Finding::Truncated { .. } => "ask its operator; it is followed again once the log shows them",
        _ => "ask its operator; a validator with one history is followed in another folder under `state`",
    };
    wrong.with("entries", size).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;

    #[test]
    fn damage_is_no_evidence_of_an_audit_and_what_a_loaded_model_shows_is() {
        let is_evidence = |cause, error| matches!(evidence(cause)(error), Stop::Wrong(_));
        for kind in [ErrorKind::DataInvalid, ErrorKind::DigestMismatch, ErrorKind::Conflict] {
            let error = Error::new(kind, "load the model", "other bytes");
            // A pinned manifest that is malformed, a model that is larger than this validator allows: it
            // would be tried again for ever.
            assert!(is_evidence(Cause::Audit, error.clone()), "{kind:?}");
            // A file that has another digest.
            assert!(!is_evidence(Cause::Audit, error.clone().with_fault(Fault::Infrastructure)), "{kind:?}");
            for fault in [Fault::Operator, Fault::Contestant(Side::Challenger)] {
                assert!(is_evidence(Cause::Audit, error.clone().with_fault(fault)), "{kind:?}");
            }
            for cause in Cause::ALL.into_iter().filter(|cause| *cause != Cause::Audit) {
                assert!(is_evidence(cause, error.clone()), "{kind:?} of {cause:?}");
            }
        }
        let outage = Error::new(ErrorKind::Unavailable, "read", "down").with_fault(Fault::Operator);
        assert!(!is_evidence(Cause::Audit, outage));
    }
}
