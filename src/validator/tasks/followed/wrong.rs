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

/// An error that is evidence against the validator is one; any other stays a failure.
pub(super) fn evidence(cause: Cause) -> impl Fn(Error) -> Stop {
    move |error| match error.kind() {
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
