//! Jobs: what validators ask of a server.
//!
//! | module | has |
//! | --- | --- |
//! | `store` | jobs, their events and results on the disk |
//! | `run` | takes the job that has waited longest, and does it |
//! | `screen` | screens of behaviour, run where the model is |
//! | `routes` | `/v1/jobs`, `/v1/engine`, `/v1/files` |
//!
//! A job is its request: asking again finds it. Its result is on the disk before the
//! server announces it, and stays until it is acknowledged. What was under way when the server died
//! is done again. The types of requests and results are those of
//! [`protocol`](crate::backends::serve::protocol).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub(super) use self::store::Ended;
use self::store::{Asked, Store};
use crate::backends::serve::protocol::{
    JobRequest, JobStatus, NumberedEvent, SessionKey, TextFile, WireError,
};
use crate::events::JobState;
use crate::{CallContext, Digest, Error, ErrorKind, Event, EventKind, EventSink, Result, Retry};

pub(super) mod routes;
mod run;
#[cfg(feature = "screens")]
mod screen;
mod store;

#[cfg(feature = "nats")]
pub(super) use self::routes::info;
pub(super) use self::routes::router;
pub(super) use self::run::run;
#[cfg(feature = "nats")]
pub(super) use self::run::{check_engine, holds};

/// A result that nobody acknowledges, and the memory of one that was, go after so long.
/// Source: chosen by albedo; a duel that is resumed within it loses no reply.
const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// Name of the file within the server's folder.
const FILE: &str = "jobs.sqlite";

/// The jobs of a server. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    /// The digest of the engine.
    engine: Digest,
    /// The date that chat templates get, if the backend's settings say one.
    date: Option<String>,
    /// A job waits.
    wake: Notify,
    /// Those who follow a job.
    followers: Mutex<BTreeMap<Digest, watch::Sender<()>>>,
    /// What is under way.
    running: Mutex<BTreeMap<Digest, CallContext>>,
    /// The text files of models that were loaded for a client.
    files: Mutex<BTreeMap<Digest, (TextFile, PathBuf)>>,
    /// The sessions that were loaded afresh, each after which job's overflow.
    afresh: tokio::sync::Mutex<BTreeSet<(SessionKey, Digest)>>,
    /// Removed after the store is closed.
    _temporary: Option<tempfile::TempDir>,
}

impl Jobs {
    /// The jobs that are stored in `folder`, which is made, of a server with the engine of
    /// that digest. Those that were under way wait again. Without a folder they are in a
    /// temporary one, and end with the server.
    ///
    /// # Errors
    /// The operator's: the folder cannot be written, or another server uses it.
    pub(super) fn open(folder: Option<&Path>, engine: Digest, date: Option<String>) -> Result<Self> {
        let io = |error| Error::io("open the store of jobs", folder.unwrap_or(Path::new("temporary")), error);
        let temporary = folder.is_none().then(tempfile::tempdir).transpose().map_err(io)?;
        let folder = temporary.as_ref().map(tempfile::TempDir::path).or(folder).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(io)?;
        Ok(Self(Arc::new(Inner {
            store: Store::open(&folder.join(FILE))?,
            engine,
            date,
            wake: Notify::new(),
            followers: Mutex::default(),
            running: Mutex::default(),
            files: Mutex::default(),
            afresh: tokio::sync::Mutex::default(),
            _temporary: temporary,
        })))
    }

    /// The digest by which requests name the engine.
    pub fn engine(&self) -> Digest {
        self.0.engine
    }

    /// Asks for the job `id` with the request of `bytes`; it waits for its turn unless it
    /// is known.
    pub(super) async fn ask(&self, id: Digest, request: &JobRequest, bytes: Vec<u8>) -> Result<Asked> {
        let asked = self.0.store.ask(id, request.kind(), request.is_lasting(), bytes).await?;
        if asked != Asked::Known {
            self.0.wake.notify_one();
            self.tell(id);
        }
        Ok(asked)
    }

    /// How far the job is; none if it is not known.
    pub(super) async fn status(&self, id: Digest) -> Result<Option<JobStatus>> {
        self.0.store.status(id).await
    }

    /// What the job came to; none if it is not known or not over.
    pub(super) async fn ended(&self, id: Digest) -> Result<Option<Ended>> {
        self.0.store.ended(id).await
    }

    /// Waits for the job's end.
    #[cfg(feature = "nats")]
    pub(super) async fn wait(&self, id: Digest, cx: &CallContext) -> Result<Ended> {
        const WAIT: &str = "wait for a job";
        loop {
            let mut news = self.follow(id);
            if let Some(ended) = self.ended(id).await? {
                return Ok(ended);
            }
            // The sender lives as long as a receiver.
            let _ = cx.run(WAIT, news.changed()).await?;
        }
    }

    /// The job's events after number `after`; none if the job is not known.
    pub(super) async fn events(&self, id: Digest, after: u64) -> Result<Option<Vec<NumberedEvent>>> {
        self.0.store.events(id, after).await
    }

    /// Hears of every change of the job from now on.
    pub(super) fn follow(&self, id: Digest) -> watch::Receiver<()> {
        let mut followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|_, news| news.receiver_count() > 0);
        followers.entry(id).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// Lets the job's result go; cancels it if it is not over. `unfinished_only` leaves a
    /// result where it is. Returns whether the job is known.
    pub(super) async fn let_go(&self, id: Digest, unfinished_only: bool) -> Result<bool> {
        let cancelled = Error::cancelled("do the job").with_retry(Retry::Backoff);
        let before = self.0.store.let_go(id, unfinished_only, WireError::from(&cancelled)).await?;
        if before == Some(JobState::Running)
            && let Some(work) = self.running().remove(&id)
        {
            work.cancel();
        }
        if before.is_some() {
            self.tell(id);
        }
        Ok(before.is_some())
    }

    /// Jobs that wait or are under way.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.0.store.unfinished().await
    }

    /// The text file of that digest, if a model that was loaded has it.
    pub(super) fn file(&self, sha256: Digest) -> Option<(TextFile, PathBuf)> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner).get(&sha256).cloned()
    }

    fn tell(&self, id: Digest) {
        let followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(news) = followers.get(&id) {
            news.send_replace(());
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, CallContext>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands the events of a job's work to those who follow it: how far a download or a load
/// is, not more than once per second, and alerts.
struct Follow {
    events: tokio::sync::mpsc::UnboundedSender<Event>,
    /// When the latest one was handed on, in milliseconds since the Unix epoch.
    latest: Mutex<u64>,
}

impl EventSink for Follow {
    fn on(&self, event: &Event) {
        let wanted = match &event.kind {
            EventKind::Alert { .. } => true,
            EventKind::Progress { done, total, .. } => {
                let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
                let due = event.time_ms >= *latest + 1000 || Some(*done) == *total;
                if due {
                    *latest = event.time_ms;
                }
                due
            }
            _ => false,
        };
        if wanted {
            // Nobody hears it once the work is over.
            let _ = self.events.send(event.clone());
        }
    }
}

/// There is no such job.
fn unknown(id: Digest) -> Error {
    Error::new(ErrorKind::NotFound, "find a job", "no job of this digest is known here")
        .with("job", id)
        .with_hint("ask for it with its request: PUT /v1/jobs/{id}")
}
