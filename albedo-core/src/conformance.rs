//! One suite per role: checks on any implementation what the engine relies on.
//!
//! A suite calls an implementation as a duel would, and worse, and ends with
//! the first promise that it finds broken:
//!
//! ```
//! # use albedo_core::{CallContext, Comparison, Judge};
//! # use albedo_core::conformance::{JudgeFixture, Violation, check_judge};
//! # async fn check(judge: &dyn Judge, comparisons: Vec<Comparison>) -> Result<(), Violation> {
//! check_judge(judge, &JudgeFixture::new(comparisons)).await
//! # }
//! ```
//!
//! A suite cannot catch everything: an implementation that aborts the process
//! (a stack overflow) takes the suite with it, and what only some inputs break
//! needs property tests of its own.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Side};
use crate::identity::Identity;

mod backend;
mod chain;
mod files;
mod hub;
mod journal;
mod judge;
mod screen;
pub(crate) mod session;
mod tasks;

pub use backend::{BackendFixture, check_backend};
pub use chain::{ChainFixture, check_chain};
pub use files::check_files;
pub use hub::{HubFixture, check_hub};
pub use journal::{MemoryJournal, check_journal};
pub use judge::{JudgeFixture, check_comparison, check_judge};
pub use screen::{check_behaviour_screen, check_files_screen, check_reply_screen, check_weights_screen};
pub use session::{SessionFixture, check_session};
pub use tasks::check_tasks;

/// How long a suite waits for one call unless its fixture says otherwise: a
/// call that takes longer counts as one that never ends.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A promise of a role that an implementation does not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    promise: &'static str,
    found: String,
}

impl Violation {
    /// `promise` is broken: `found` instead. For suites outside of core.
    pub fn new(promise: &'static str, found: impl Into<String>) -> Self {
        Self { promise, found: found.into() }
    }

    /// The promise, in a few words.
    pub fn promise(&self) -> &'static str {
        self.promise
    }

    /// What was found instead.
    pub fn found(&self) -> &str {
        &self.found
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken promise: {}; found {}", self.promise, self.found)
    }
}

impl std::error::Error for Violation {}

type Checked<T = ()> = Result<T, Violation>;

/// The promise that a fixture makes to its suite.
const FITTING: &str = "the fixture fits the implementation";

fn broken<T>(promise: &'static str, found: impl Into<String>) -> Checked<T> {
    Err(Violation::new(promise, found))
}

fn ensure(kept: bool, promise: &'static str, found: impl FnOnce() -> String) -> Checked {
    if kept { Ok(()) } else { broken(promise, found()) }
}

/// Waits for `call`, which must neither hang nor panic.
async fn ends<T>(patience: Duration, call: impl Future<Output = T>) -> Checked<T> {
    match tokio::time::timeout(patience, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => broken("no call panics", format!("a panic: {}", words(&*panic))),
        Err(_) => broken("every call ends", format!("one that takes more than {patience:?}")),
    }
}

/// Waits for `call`, which must succeed.
async fn succeeds<T>(
    patience: Duration,
    promise: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Checked<T> {
    ends(patience, call).await?.or_else(|error| broken(promise, error.to_string()))
}

/// Waits for `call`, which must fail: by the operator's fault or a bug, or because
/// of a model's own files. Whose they are, the callee does not know: charging a
/// contestant is for the caller.
async fn refuses<T: fmt::Debug>(
    patience: Duration,
    promise: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Checked<Error> {
    match ends(patience, call).await? {
        Err(error) if matches!(error.fault(), Fault::Operator | Fault::Bug) => Ok(error),
        Err(error) if error.artefact().is_some() && !is_contestants(&error) => Ok(error),
        Err(error) => broken(promise, format!("fault {}: {error}", error.fault())),
        Ok(value) => broken(promise, format!("an answer: {}", brief(&value))),
    }
}

/// Makes a call with a cancelled context and one whose deadline has passed;
/// each must end, with that error or with an answer.
async fn stops<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    call: impl Fn(CallContext) -> F,
) -> Checked {
    for (cx, kind) in stopped() {
        if let Err(error) = ends(patience, call(cx)).await? {
            says(kind, Err::<(), _>(error))?;
        }
    }
    Ok(())
}

/// Checks that the answer to a stopped call is an error of `kind`.
fn says<T: fmt::Debug>(kind: ErrorKind, answer: Result<T, Error>) -> Checked {
    match answer {
        Err(error) if error.kind() == kind => Ok(()),
        answer => broken("a stopped call says why", format!("not {kind:?}: {}", brief(&answer))),
    }
}

/// Contexts that end every call, and the kind of error that says so.
fn stopped() -> [(CallContext, ErrorKind); 2] {
    let parent = CallContext::new();
    let cancelled = parent.child();
    parent.cancel();
    [(cancelled, ErrorKind::Cancelled), (CallContext::new().with_timeout(Duration::ZERO), ErrorKind::Timeout)]
}

fn same_identity(before: &Identity, now: &Identity) -> Checked {
    ensure(!now.name.is_empty() && !now.version.is_empty(), "an identity has a name and a version", || {
        format!("{now:?}")
    })?;
    ensure(before == now, "the identity is stable", || format!("{now:?} after {before:?}"))
}

fn is_contestants(error: &Error) -> bool {
    Side::BOTH.into_iter().any(|side| error.fault() == Fault::Contestant(side))
}

/// `value` in at most 200 characters: it may hold a whole reply.
fn brief(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".into())
}
