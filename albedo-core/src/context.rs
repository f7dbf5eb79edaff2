//! The only ambient argument of a call: cancellation and deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};

/// Handed to every call that can take long. Cloning shares the cancellation;
/// children are cancelled with their parent, not the other way round.
#[derive(Debug, Clone, Default)]
pub struct CallContext {
    cancellation: CancellationToken,
    deadline: Option<Instant>,
}

impl CallContext {
    /// A context that nothing cancels yet and that has no deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// A context that `token` cancels.
    pub fn with_cancellation(token: CancellationToken) -> Self {
        Self { cancellation: token, deadline: None }
    }

    /// The same context with a deadline at most `timeout` from now; an earlier
    /// deadline stays.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let limit = Instant::now() + timeout;
        let deadline = Some(self.deadline.map_or(limit, |deadline| deadline.min(limit)));
        Self { cancellation: self.cancellation.clone(), deadline }
    }

    /// A context of its own cancellation, which this one's also cancels.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancellation: self.cancellation.child_token(), deadline: self.deadline }
    }

    /// Cancels every call made with this context or a child of it.
    pub fn cancel(&self) {
        self.cancellation.cancel();
    }

    /// The token itself, for code that waits on it.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// When calls made with this context have to be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// `Ok` while the call may go on.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::Timeout`], naming `operation`.
    pub fn check(&self, operation: &str) -> Result<()> {
        if self.cancellation.is_cancelled() {
            return Err(Error::cancelled(operation));
        }
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out(operation));
        }
        Ok(())
    }

    /// Waits for `future`, but no longer than cancellation and deadline allow;
    /// then `future` is dropped.
    ///
    /// # Errors
    /// As [`CallContext::check`].
    pub async fn run<T>(&self, operation: &str, future: impl Future<Output = T>) -> Result<T> {
        self.check(operation)?;
        let expired = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancellation.cancelled() => Err(Error::cancelled(operation)),
            value = future => Ok(value),
            () = expired => Err(timed_out(operation)),
        }
    }
}

fn timed_out(operation: &str) -> Error {
    Error::new(ErrorKind::Timeout, operation, "the deadline passed")
}
