//! The one error type that crosses a role's boundary, and who is at fault.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `Result` with albedo's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One of the two contestants of a duel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The reigning best submission.
    King,
    /// The submission that tries to dethrone the king.
    Challenger,
}

impl Side {
    /// Both sides, the king first.
    pub const BOTH: [Self; 2] = [Self::King, Self::Challenger];

    /// The other side.
    #[must_use]
    pub fn opponent(self) -> Self {
        match self {
            Self::King => Self::Challenger,
            Self::Challenger => Self::King,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::King => "king",
            Self::Challenger => "challenger",
        })
    }
}

/// Who has to act on an error. In doubt it is [`Fault::Infrastructure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A contestant's own bytes are at fault, and the evidence depends on
    /// nothing else. A claim until the duel engine has confirmed it.
    Contestant(Side),
    /// Something of ours, or a provider's, failed: the duel is void, not lost.
    Infrastructure,
    /// The operator's configuration or environment must change first.
    Operator,
    /// An invariant of albedo is broken.
    Bug,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contestant(side) => write!(f, "contestant ({side})"),
            Self::Infrastructure => f.write_str("infrastructure"),
            Self::Operator => f.write_str("operator"),
            Self::Bug => f.write_str("bug"),
        }
    }
}

/// What went wrong, independent of who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value is missing, unknown, out of range or contradictory.
    ConfigInvalid,
    /// No plugin of that name is registered for the role.
    UnknownPlugin,
    /// A file, row, model or record does not exist.
    NotFound,
    /// Bytes do not have the digest they are pinned to.
    DigestMismatch,
    /// Bytes are not in the format they claim to be in.
    DataInvalid,
    /// Well-formed, but outside what this implementation supports.
    Unsupported,
    /// Memory, disk or another bounded resource ran out.
    ResourceExhausted,
    /// The compute device was lost or answered with an error.
    DeviceLost,
    /// A provider asked to slow down.
    RateLimited,
    /// A service or file system did not answer, or refused to.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The caller cancelled the operation.
    Cancelled,
    /// A peer answered with something outside the protocol.
    Protocol,
    /// The operation contradicts an earlier one.
    Conflict,
    /// None of the above; a bug until shown otherwise.
    Unexpected,
}

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same call fails again.
    Never,
    /// Worth another try after a pause of the caller's choice.
    Backoff,
    /// Worth another try, not earlier than this.
    After(Duration),
    /// Was worth retrying, and the tries are used up.
    Exhausted {
        /// Tries made in all.
        attempts: u32,
    },
}

/// What failed (`operation`), why (`message`, `source`), about what
/// (`context`), whose fault it is and whether to try again.
///
/// `Display` is one line: `failed to {operation}: {message}` with the context
/// in brackets and the hint, if any, at the end. Messages are lower-case
/// fragments without a final stop and never hold secrets or prompts.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    fault: Fault,
    retry: Retry,
    operation: String,
    message: String,
    hint: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` met while doing `operation` ("load the model").
    ///
    /// Fault and retry start at the kind's usual values: configuration,
    /// unknown plugins and missing things are the operator's and final;
    /// cancellation is the operator's wish; everything else is infrastructure,
    /// and what is transient by nature may be retried.
    pub fn new(kind: ErrorKind, operation: impl Into<String>, message: impl Into<String>) -> Self {
        let fault = match kind {
            ErrorKind::ConfigInvalid
            | ErrorKind::UnknownPlugin
            | ErrorKind::NotFound
            | ErrorKind::Unsupported
            | ErrorKind::DigestMismatch
            | ErrorKind::DataInvalid
            | ErrorKind::Cancelled
            | ErrorKind::Conflict => Fault::Operator,
            ErrorKind::Unexpected => Fault::Bug,
            _ => Fault::Infrastructure,
        };
        let retry = match kind {
            ErrorKind::RateLimited
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::DeviceLost
            | ErrorKind::ResourceExhausted
            | ErrorKind::Protocol => Retry::Backoff,
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            fault,
            retry,
            operation: operation.into(),
            message: message.into(),
            hint: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// The caller cancelled `operation`.
    pub fn cancelled(operation: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, operation, "cancelled")
    }

    /// An invariant is broken.
    pub fn bug(operation: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unexpected, operation, message)
    }

    /// An input or output error on `path`, with the kind and fault that the
    /// operating system's answer suggests.
    pub fn io(operation: impl Into<String>, path: &std::path::Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, fault, hint) = match source.kind() {
            Io::NotFound => (ErrorKind::NotFound, Fault::Operator, Some("check the path")),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => {
                (ErrorKind::Unavailable, Fault::Operator, Some("check the permissions of the path"))
            }
            Io::StorageFull | Io::QuotaExceeded => {
                (ErrorKind::ResourceExhausted, Fault::Infrastructure, Some("free some space and try again"))
            }
            Io::NotADirectory | Io::IsADirectory => {
                (ErrorKind::DataInvalid, Fault::Operator, Some("check the path"))
            }
            _ => (ErrorKind::Unavailable, Fault::Infrastructure, None),
        };
        let mut error =
            Self::new(kind, operation, source.to_string()).with_fault(fault).with("path", path.display());
        if let Some(hint) = hint {
            error = error.with_hint(hint);
        }
        error.with_source(source)
    }

    /// Sets whose fault it is. Set where the fact is known; wrappers leave it.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.0.fault = fault;
        self
    }

    /// Sets whether to try again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds one fact: a path, a name, a digest.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether the same call may succeed if it is made again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.retry, Retry::Backoff | Retry::After(_))
    }

    /// What was being done, as a verb phrase.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Why it failed, without operation, context and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reader can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The facts attached, in the order in which they were added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, message, context, hint, .. } = &*self.0;
        write!(f, "failed to {operation}: {message}")?;
        for (index, (key, value)) in context.iter().enumerate() {
            let open = if index == 0 { " (" } else { ", " };
            write!(f, "{open}{key}: {value}")?;
        }
        if !context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(hint) = hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, fault, retry, operation, message, hint, context, source } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("fault", fault)
            .field("retry", retry)
            .field("operation", operation)
            .field("message", message)
            .field("hint", hint)
            .field("context", context)
            .field("source", source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_with_context_and_hint() {
        let error = Error::new(ErrorKind::NotFound, "open the manifest", "no such file")
            .with("path", "tasks/manifest.json")
            .with_hint("check `tasks.path`");
        assert_eq!(
            error.to_string(),
            "failed to open the manifest: no such file (path: tasks/manifest.json); check `tasks.path`"
        );
        assert_eq!(error.fault(), Fault::Operator);
        assert!(!error.is_retryable());
    }
}
