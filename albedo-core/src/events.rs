//! One stream of events: everything that happens while albedo works, in arrival
//! order.
//!
//! The engine, the wrappers and the plugins emit events through their
//! [`CallContext`]. Terminal, JSON lines, logs and servers are sinks
//! of that one stream. An event that the journal holds is emitted by the same call
//! that journals it, right after it is safe ([`EventKind::Journal`]), so no sink
//! sees less than the journal.
//!
//! Events own their data and serialise to one JSON object per line. They hold no
//! secret and no text of a prompt or a reply: texts are named by digest.
//!
//! ```
//! use std::sync::Arc;
//! use albedo_core::events::{Collected, EventKind};
//! use albedo_core::CallContext;
//!
//! let seen = Arc::new(Collected::default());
//! let cx = CallContext::new().with_events(seen.clone());
//! cx.emit(EventKind::Spent { usd: 0.25 });
//! let line = serde_json::to_string(&seen.events()[0]).unwrap();
//! assert!(line.contains(r#""event":"spent","usd":0.25"#));
//! ```

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::backend::Usage;
use crate::clock::unix_ms;
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::record::{JournalEvent, RecordStore};

/// Version of the events that this build emits. A change that could break a
/// reader raises it; new kinds and new optional fields do not.
pub const VERSION: u32 = 1;

/// Something that happened in a duel or around it, with its time. Events are
/// versioned and serialisable: one per line, they are the file of
/// `albedo duel --events`, from which a terminal's progress can be printed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// [`VERSION`] of the build that emitted it.
    pub version: u32,
    /// Milliseconds since the Unix epoch by the system's clock. For people:
    /// nothing is computed from it.
    pub time_ms: u64,
    /// Digest of the plan of the duel that it belongs to; none outside a duel and
    /// before its plan is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duel: Option<Digest>,
    /// What happened: what a duel's journal keeps ([`JournalEvent`]), and what only an
    /// onlooker wants to know.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// `kind`, now, in `duel`.
    pub fn new(duel: Option<Digest>, kind: EventKind) -> Self {
        Self { version: VERSION, time_ms: unix_ms(), duel, kind }
    }

    /// Reads one line of JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an event of a newer version,
    /// [`ErrorKind::DataInvalid`] for anything that is not an event.
    pub fn parse(line: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let invalid =
            |error: serde_json::Error| Error::new(ErrorKind::DataInvalid, "read an event", error.to_string());
        let Versioned { version } = serde_json::from_str(line).map_err(invalid)?;
        if version > VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "read an event", "it has a newer version")
                .with("version", version)
                .with("known", VERSION)
                .with_hint("update albedo"));
        }
        serde_json::from_str(line).map_err(invalid)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A contestant's model begins to load.
    Loading {
        /// Whose.
        side: Side,
    },
    /// A contestant's model is loaded.
    Loaded {
        /// Whose.
        side: Side,
        /// Digest of its parameters.
        parameters: Digest,
    },
    /// Work whose size is known goes on: bytes are read, downloaded or sent.
    Progress {
        /// What is worked on, for example `weights`.
        task: String,
        /// Of what: a model, a file, a shard.
        name: String,
        /// Bytes done so far.
        done: u64,
        /// Bytes in all, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A duel goes on from its journal, whose answers are not asked for again.
    Restored {
        /// Replies in the journal.
        replies: u64,
        /// Judges' answers in the journal.
        assessments: u64,
    },
    /// A judge's answer was paid.
    Spent {
        /// What the judges' answers have cost so far, in US dollars, in all runs of
        /// the duel, as far as their providers report it.
        usd: f64,
    },
    /// The decision consumed the next sample in plan order.
    Decided {
        /// The sample.
        sample: u32,
        /// Its difference, challenger minus king, in [−1, 1].
        difference: f64,
    },
    /// A try of a call to a provider is over.
    Call(CallEvent),
    /// A job of a server changed its state.
    Job(JobEvent),
    /// Something that an operator has to look at; the work goes on.
    Alert {
        /// What happened, in one line.
        message: String,
    },
    /// The journal holds it: it is durable before any sink sees it.
    #[serde(untagged)]
    Journal(JournalEvent),
}

impl EventKind {
    /// `done` of `total` bytes of the weights of `name` are read.
    pub fn weights(name: &str, done: u64, total: u64) -> Self {
        Self::Progress { task: "weights".into(), name: name.into(), done, total: Some(total) }
    }

    /// `done` of `total` bytes of the model `name` are downloaded.
    pub fn download(name: &str, done: u64, total: u64) -> Self {
        Self::Progress { task: "download".into(), name: name.into(), done, total: Some(total) }
    }
}

impl From<JournalEvent> for EventKind {
    fn from(event: JournalEvent) -> Self {
        Self::Journal(event)
    }
}

/// A job of a server that changed its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEvent {
    /// The job: the digest of its request.
    pub job: Digest,
    /// What it does, for example `generate`.
    pub kind: String,
    /// Its state now.
    pub state: JobState,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a job of a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is under way.
    Running,
    /// Its result is stored.
    Done,
    /// It ended without a result; asked for again, it is tried again.
    Failed,
    /// Its result was acknowledged and is gone.
    Acknowledged,
}

impl JobState {
    /// Whether nothing happens any more unless the job is asked for again.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// A try of a call to a provider that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallEvent {
    /// The route that it was sent to.
    pub route: String,
    /// Seconds that it waited for admission.
    pub waited_secs: f64,
    /// Seconds from sending it to the first token, if the session reported one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_secs: Option<f64>,
    /// Seconds from sending it to its end.
    pub took_secs: f64,
    /// What became of it.
    pub outcome: CallOutcome,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallOutcome {
    /// It was answered.
    Answered {
        /// Tokens and price, if the answer has them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// It failed.
    Failed {
        /// What went wrong.
        kind: ErrorKind,
        /// Who has to act.
        fault: Fault,
        /// The error in one line.
        message: String,
    },
    /// Nothing waited for it any more: another route was faster, or the caller
    /// went away.
    Abandoned,
}

impl From<&Error> for CallOutcome {
    fn from(error: &Error) -> Self {
        Self::Failed { kind: error.kind(), fault: error.fault(), message: error.to_string() }
    }
}

/// Receives events. It is called from the task that emits them and must not block.
/// A closure is one.
///
/// ```
/// use albedo_core::{CallContext, Event, EventKind};
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
///
/// let read = Arc::new(AtomicU64::new(0));
/// let seen = Arc::clone(&read);
/// let cx = CallContext::new().with_events(Arc::new(move |event: &Event| {
///     if let EventKind::Progress { done, .. } = event.kind {
///         seen.store(done, Ordering::Relaxed);
///     }
/// }));
/// cx.emit(EventKind::weights("models/king", 4, 8));
/// assert_eq!(read.load(Ordering::Relaxed), 4);
/// ```
pub trait EventSink: Send + Sync {
    /// `event` has just happened.
    fn on(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> EventSink for F {
    fn on(&self, event: &Event) {
        self(event);
    }
}

/// Keeps every event in memory, for tests and short runs.
#[derive(Debug, Default)]
pub struct Collected(Mutex<Vec<Event>>);

impl Collected {
    /// The events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl EventSink for Collected {
    fn on(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}

/// The journal of a duel as the first consumer of its events: what is written here
/// is durable before any sink sees it.
#[derive(Clone, Copy)]
pub(crate) struct Journal<'a> {
    pub(crate) store: &'a dyn RecordStore,
    pub(crate) cx: &'a CallContext,
}

impl Journal<'_> {
    /// Appends `event` and the texts that it names, then emits it.
    pub(crate) async fn write(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        self.store.append(event.clone(), texts).await?;
        self.cx.emit(event);
        Ok(())
    }
}

/// The log line of an event: failures and alerts at `warn`, the frame of a duel at
/// `info`, the rest at `debug`.
pub(crate) fn log(event: &Event) {
    match &event.kind {
        EventKind::Journal(JournalEvent::Failed { sample, call_try, fault, message, .. }) => {
            tracing::warn!(sample, call_try, %fault, "{message}");
        }
        EventKind::Journal(JournalEvent::Overflowed { sample, side, overflow, repeated }) => {
            tracing::warn!(sample, %side, %overflow, repeated, "a model's arithmetic overflowed");
        }
        EventKind::Journal(JournalEvent::Opened { digest, plan, .. }) => {
            tracing::info!(plan = %digest.short(), samples = plan.samples, "the plan is frozen");
        }
        EventKind::Journal(JournalEvent::Ended { verdict, .. }) => {
            tracing::info!(outcome = ?verdict.outcome, samples = verdict.samples, margin = verdict.margin, "the duel ended");
        }
        EventKind::Restored { replies, assessments } => {
            tracing::info!(replies, assessments, "the duel goes on from its journal");
        }
        EventKind::Loaded { side, parameters } => {
            tracing::info!(%side, parameters = %parameters.short(), "a model is loaded");
        }
        EventKind::Call(CallEvent {
            route,
            took_secs,
            outcome: CallOutcome::Failed { fault, message, .. },
            ..
        }) => {
            tracing::warn!(route, took_secs, %fault, "{message}");
        }
        EventKind::Call(CallEvent { route, took_secs, .. }) => {
            tracing::debug!(route, took_secs, "a call is over");
        }
        EventKind::Decided { sample, difference } => {
            tracing::debug!(sample, difference, "a sample is decided");
        }
        EventKind::Journal(JournalEvent::Replied { sample, side, usage, .. }) => {
            tracing::debug!(sample, %side, tokens = usage.completion_tokens, "a side replied");
        }
        EventKind::Journal(JournalEvent::Assessed { sample, judge, order, .. }) => {
            tracing::debug!(sample, judge, ?order, "a judge answered");
        }
        EventKind::Job(JobEvent { job, kind, state, error: Some(error) }) => {
            tracing::warn!(job = %job.short(), kind, ?state, "{error}");
        }
        EventKind::Job(JobEvent { job, kind, state, error: None }) => {
            tracing::debug!(job = %job.short(), kind, ?state, "a job goes on");
        }
        EventKind::Alert { message } => tracing::warn!("{message}"),
        EventKind::Progress { task, name, done, total } => {
            tracing::trace!(task, name, done, total, "progress");
        }
        EventKind::Loading { .. } | EventKind::Spent { .. } | EventKind::Journal(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_line() {
        let failed = CallOutcome::from(&Error::new(ErrorKind::Timeout, "ask", "no answer"));
        let call = |outcome| {
            EventKind::Call(CallEvent {
                route: "a".into(),
                waited_secs: 0.0,
                first_token_secs: Some(0.5),
                took_secs: 1.25,
                outcome,
            })
        };
        for kind in [
            EventKind::Loading { side: Side::King },
            EventKind::Loaded { side: Side::Challenger, parameters: Digest::of("x") },
            EventKind::Progress { task: "weights".into(), name: "m".into(), done: 1, total: Some(2) },
            EventKind::Restored { replies: 3, assessments: 4 },
            EventKind::Spent { usd: 0.1 },
            EventKind::Decided { sample: 7, difference: -0.25 },
            call(CallOutcome::Answered { usage: None }),
            call(failed),
            call(CallOutcome::Abandoned),
            EventKind::Job(JobEvent {
                job: Digest::of("a request"),
                kind: "generate".into(),
                state: JobState::Failed,
                error: Some("no such model".into()),
            }),
            EventKind::Alert { message: "two results of one job differ".into() },
            JournalEvent::Resumed { build: None, unchained: false }.into(),
            JournalEvent::Drawn { sample: 1, draws: vec![] }.into(),
        ] {
            let event = Event::new(Some(Digest::of("plan")), kind);
            let line = serde_json::to_string(&event).expect("writes");
            assert!(!line.contains('\n'));
            assert_eq!(Event::parse(&line).expect("reads"), event, "{line}");
        }
    }

    #[test]
    fn a_newer_event_is_refused_with_the_remedy() {
        let error = Event::parse(r#"{"version":99,"time_ms":0,"event":"unheard_of"}"#).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(Event::parse("{}").expect_err("nothing").kind(), ErrorKind::DataInvalid);
    }

    #[test]
    fn every_sink_of_a_context_and_its_children_sees_an_event() {
        let (first, second) = (Arc::new(Collected::default()), Arc::new(Collected::default()));
        let outer = CallContext::new().with_events(first.clone());
        let inner = outer.child().with_events(second.clone()).with_duel(Digest::of("plan"));
        outer.emit(EventKind::Spent { usd: 1.0 });
        inner.emit(EventKind::Spent { usd: 2.0 });
        assert_eq!((first.events().len(), second.events().len()), (2, 1));
        assert_eq!(first.events()[0].duel, None);
        assert_eq!(second.events()[0].duel, Some(Digest::of("plan")));
    }
}
