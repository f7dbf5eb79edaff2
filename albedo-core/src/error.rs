//! The one error type that crosses a role's boundary, who is at fault, and how
//! far an error reaches.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::overflow::Overflow;

mod kind;

pub use kind::{Artefact, ErrorKind, Fault, Reach, Retry, Side};

/// `Result` with albedo's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed (`operation`), why (`message`, `source`), about what
/// (`context`), whose fault it is, how far it reaches and whether to try again.
/// Cloning shares it.
///
/// `Display` is one line: `failed to {operation}: {message}` with the context
/// in brackets and the hint, if any, at the end. Messages are lower-case
/// fragments without a final stop and never hold secrets or prompts. `Debug` is the
/// same line, which Rust prints where `main` returns an error; `{:#?}` shows every
/// part.
///
/// ```
/// use albedo_core::error::{Artefact, Error, ErrorKind, Fault, Reach, Side};
///
/// // Code that reads a model's file says that it is about the model, not whose model it is.
/// let error = Error::new(ErrorKind::DataInvalid, "read the weights", "two tensors overlap")
///     .about(Artefact::Model);
/// assert_eq!((error.fault(), error.reach()), (Fault::Infrastructure, Reach::Call));
///
/// // Code that loads a contestant knows the side.
/// let error = error.charged_to(|_| Side::Challenger);
/// assert_eq!(error.fault(), Fault::Contestant(Side::Challenger));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    /// None where it was not said.
    fault: Option<Fault>,
    reach: Reach,
    retry: Retry,
    about: Option<Artefact>,
    overflow: Option<Overflow>,
    operation: String,
    message: String,
    hint: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` met while doing `operation` ("load the model").
    ///
    /// Fault, reach and retry start at the kind's usual values. Configuration,
    /// unknown plugins, missing things and cancellation are the operator's,
    /// [`ErrorKind::Unexpected`] is a bug, everything else is infrastructure's.
    /// The operator's, bugs and conflicts reach the duel, an overflow the sample,
    /// everything else the call. What is transient by nature may be retried.
    pub fn new(kind: ErrorKind, operation: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            fault: None,
            reach: kind.reach(),
            retry: kind.retry(),
            about: None,
            overflow: None,
            operation: operation.into(),
            message: message.into(),
            hint: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// The arithmetic of a model gave a number that is not finite. Infrastructure's
    /// until it is repeated on a freshly loaded model: a bit of its memory may be wrong.
    pub fn overflowed(operation: impl Into<String>, overflow: Overflow) -> Self {
        let message = "the model computed a number that is not finite";
        let mut error = Self::new(ErrorKind::Overflow, operation, message)
            .about(Artefact::Model)
            .with("step", overflow.step)
            .with("position", overflow.position)
            .with("place", overflow.place)
            .with_hint("its weights overflow");
        error.inner().overflow = Some(overflow);
        error
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
        let new = |kind, fault| Self::new(kind, operation, source.to_string()).with_fault(fault);
        let error = match source.kind() {
            Io::NotFound => new(ErrorKind::NotFound, Fault::Operator).with_hint("check the path"),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => new(ErrorKind::Unavailable, Fault::Operator)
                .with_reach(Reach::Duel)
                .with_retry(Retry::Never)
                .with_hint("check the permissions of the path"),
            Io::StorageFull | Io::QuotaExceeded => new(ErrorKind::ResourceExhausted, Fault::Infrastructure)
                .with_hint("free some space and try again"),
            Io::NotADirectory | Io::IsADirectory => new(ErrorKind::DataInvalid, Fault::Operator)
                .with_reach(Reach::Duel)
                .with_hint("check the path"),
            _ => new(ErrorKind::Unavailable, Fault::Infrastructure),
        };
        error.with("path", path.display()).with_source(source)
    }

    /// Sets whose fault it is. Set where the fact is known; wrappers leave it.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.inner().fault = Some(fault);
        self
    }

    /// Sets how far it reaches.
    #[must_use]
    pub fn with_reach(mut self, reach: Reach) -> Self {
        self.inner().reach = reach;
        self
    }

    /// Sets whether to try again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.inner().retry = retry;
        self
    }

    /// Says that the error is about a model's own files, which only their author
    /// can have made so.
    #[must_use]
    pub fn about(mut self, artefact: Artefact) -> Self {
        self.inner().about = Some(artefact);
        self
    }

    /// Charges the contestant whose file the error is about, as `owner` tells. An
    /// error that already says its fault, and one about no file of a model, stays
    /// as it is.
    #[must_use]
    pub fn charged_to(mut self, owner: impl FnOnce(Artefact) -> Side) -> Self {
        if let (None, Some(artefact)) = (self.0.fault, self.0.about) {
            self.inner().fault = Some(Fault::Contestant(owner(artefact)));
        }
        self
    }

    /// Says what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner().hint = Some(hint.into());
        self
    }

    /// Adds one fact: a path, a name, a digest.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.inner().context.push((key, value.to_string()));
        self
    }

    /// The same error of a setting that lies under `outer`: the fact `key` becomes
    /// `outer.key`, or is `outer` where there was none.
    #[must_use]
    pub fn under(mut self, outer: impl fmt::Display) -> Self {
        match self.inner().context.iter_mut().find(|(name, _)| *name == "key") {
            Some((_, key)) if key.starts_with('[') => *key = format!("{outer}{key}"),
            Some((_, key)) => *key = format!("{outer}.{key}"),
            None => self = self.with("key", outer),
        }
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// To be written to; other clones stay as they are.
    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        self.0.fault.unwrap_or_else(|| self.0.kind.fault())
    }

    /// Who has to act, if [`Error::with_fault`] set it; `None` where it follows from the
    /// kind alone. A program that hands an error on to another process keeps the two apart.
    pub fn said_fault(&self) -> Option<Fault> {
        self.0.fault
    }

    /// How far it reaches.
    pub fn reach(&self) -> Reach {
        self.0.reach
    }

    /// Which of a model's own files it is about, if any.
    pub fn artefact(&self) -> Option<Artefact> {
        self.0.about
    }

    /// Where a model's arithmetic overflowed, if that is the error.
    pub fn overflow(&self) -> Option<Overflow> {
        self.0.overflow
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
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let Inner { kind, reach, retry, operation, message, hint, context, source, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("fault", &self.fault())
            .field("reach", reach)
            .field("retry", retry)
            .field("about", &self.0.about)
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
        assert_eq!((error.fault(), error.reach()), (Fault::Operator, Reach::Duel));
        assert!(!error.is_retryable());
    }

    #[test]
    fn what_main_returns_is_printed_as_that_line_and_every_part_on_request() {
        let error = Error::new(ErrorKind::NotFound, "open the manifest", "no such file").with("path", "a");
        assert_eq!(format!("{error:?}"), error.to_string());
        let parts = format!("{error:#?}");
        assert!(parts.contains("kind: NotFound") && parts.contains("reach: Duel"), "{parts}");
    }

    #[test]
    fn only_an_error_about_an_artefact_whose_fault_is_not_said_is_charged() {
        let malformed = || Error::new(ErrorKind::DataInvalid, "load the model", "malformed");
        let owner = |artefact| match artefact {
            Artefact::Model => Side::Challenger,
            Artefact::Text => Side::King,
        };
        let fault = |error: Error| error.charged_to(owner).fault();
        assert_eq!(fault(malformed().about(Artefact::Model)), Fault::Contestant(Side::Challenger));
        assert_eq!(fault(malformed().about(Artefact::Text)), Fault::Contestant(Side::King));
        assert_eq!(fault(malformed()), Fault::Infrastructure);
        for said in [Fault::Infrastructure, Fault::Operator, Fault::Bug] {
            assert_eq!(fault(malformed().with_fault(said).about(Artefact::Model)), said);
        }
    }

    #[test]
    fn a_clone_is_whole_and_its_own() {
        let source = std::io::Error::other("cause");
        let error = Error::io("read", std::path::Path::new("file"), source).with_reach(Reach::Process);
        let copy = error.clone().with("more", 1);
        assert_eq!((copy.reach(), copy.kind(), copy.fault()), (error.reach(), error.kind(), error.fault()));
        assert!(StdError::source(&copy).is_some_and(|source| source.to_string() == "cause"));
        assert_eq!((error.context().len(), copy.context().len()), (1, 2));
    }

    #[test]
    fn in_doubt_nobody_is_charged_and_only_the_call_is_lost() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "x", "y");
            assert!(!matches!(error.fault(), Fault::Contestant(_)), "{kind:?}");
            if error.fault() == Fault::Infrastructure && kind != ErrorKind::Conflict {
                assert!(error.reach() <= Reach::Sample, "{kind:?}");
            }
        }
    }
}
