//! The only ambient argument of a call: cancellation, deadline, and where its
//! events go.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{self, Event, EventKind, EventSink};

/// Handed to every call that can take long. Cloning shares the cancellation;
/// children are cancelled with their parent, not the other way round.
///
/// ```
/// use albedo_core::{CallContext, ErrorKind};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cx = CallContext::new();
/// let hurried = cx.with_timeout(Duration::from_millis(1));
/// let late = hurried.run("wait for ever", std::future::pending::<()>()).await;
/// assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
///
/// let child = cx.child();
/// cx.cancel();
/// assert_eq!(child.check("begin").unwrap_err().kind(), ErrorKind::Cancelled);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct CallContext {
    cancellation: CancellationToken,
    deadline: Option<Instant>,
    listener: Option<Listener>,
    events: Option<Sinks>,
    duel: Option<Digest>,
}

/// Where events go; the latest sink first.
#[derive(Clone)]
struct Sinks(Arc<(Arc<dyn EventSink>, Option<Sinks>)>);

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sinks")
    }
}

/// What an implementation may tell while a call is under way. Nothing depends
/// on it but how patiently the call is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallSignal {
    /// The model has written something, reasoning included. A session that does
    /// not stream never says so; keep-alives are no signal.
    Token,
    /// The provider told its rate limit.
    Limit {
        /// Requests that it will still take.
        remaining: u32,
        /// Until the limit is whole again.
        resets_in: Duration,
    },
}

#[derive(Clone)]
struct Listener(Arc<dyn Fn(CallSignal) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl CallContext {
    /// A context that nothing cancels yet and that has no deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same context with a deadline at most `timeout` from now; an earlier
    /// deadline stays.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "deadlines are Tokio's")]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let limit = Instant::now() + timeout;
        let deadline = Some(self.deadline.map_or(limit, |deadline| deadline.min(limit)));
        Self { deadline, ..self.clone() }
    }

    /// Returns a child context: cancelling the parent cancels the child, not the
    /// reverse.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancellation: self.cancellation.child_token(), ..self.clone() }
    }

    /// The same context with a cancellation of its own: what cancels this one does not
    /// cancel it, and the reverse.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { cancellation: CancellationToken::new(), ..self.clone() }
    }

    /// The same context whose signals `listener` receives, before the listeners
    /// that were there already. A signal does not say which of a call's requests
    /// it is about: to know, make one call per request.
    #[must_use]
    pub fn with_listener(&self, listener: impl Fn(CallSignal) + Send + Sync + 'static) -> Self {
        let before = self.listener.clone();
        let both = move |signal| {
            listener(signal);
            if let Some(Listener(before)) = &before {
                before(signal);
            }
        };
        Self { listener: Some(Listener(Arc::new(both))), ..self.clone() }
    }

    /// Sends a signal to the listeners.
    pub fn signal(&self, signal: CallSignal) {
        if let Some(Listener(listener)) = &self.listener {
            listener(signal);
        }
    }

    /// The same context whose events `sink` receives too.
    #[must_use]
    pub fn with_events(&self, sink: Arc<dyn EventSink>) -> Self {
        let earlier = self.events.clone();
        Self { events: Some(Sinks(Arc::new((sink, earlier)))), ..self.clone() }
    }

    /// The same context whose events belong to the duel whose plan has the digest
    /// `plan`.
    #[must_use]
    pub fn with_duel(&self, plan: Digest) -> Self {
        Self { duel: Some(plan), ..self.clone() }
    }

    /// Emits an event to every sink and to the log.
    pub fn emit(&self, kind: impl Into<EventKind>) {
        let event = Event::new(self.duel, kind.into());
        events::log(&event);
        let mut sinks = self.events.as_ref();
        while let Some(Sinks(sink)) = sinks {
            sink.0.on(&event);
            sinks = sink.1.as_ref();
        }
    }

    /// Cancels every call made with this context or a child of it.
    pub fn cancel(&self) {
        self.cancellation.cancel();
    }

    /// Whether calls made with this context are to stop. A deadline that has
    /// passed does not cancel.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Waits until the context is cancelled.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Returns a guard that cancels this context when it is dropped: move it into
    /// a stream whose work must stop when its reader has gone.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// How long calls made with this context may still take: zero once the
    /// deadline has passed, `None` without one.
    #[expect(clippy::disallowed_methods, reason = "deadlines are Tokio's")]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// `Ok` while the call may go on.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::Timeout`], naming `operation`.
    #[expect(clippy::disallowed_methods, reason = "deadlines are Tokio's")]
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

/// Cancels a [`CallContext`] when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it cancels the context"]
pub struct CancelOnDrop(CallContext);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn timed_out(operation: &str) -> Error {
    Error::new(ErrorKind::Timeout, operation, "the deadline passed")
}
