//! Publishes what the outbox holds: records, the log, and the public data.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::{IDLE, Next, Task, raise};
use crate::publish::{Backoff, Failure, Item, Lag, Next as Due, Outbox, Publisher, Settings, Work};
use crate::validator::ledger::outbox::{Unpublished, What};
use crate::validator::parts::{Base, Shared};
use crate::validator::table::State;
use crate::{Build, CallContext, Error, ErrorKind, Fault, Result};

pub(in crate::validator) mod documents;

/// How long a publication may go without progress. Source: albedo.
const LIMIT: Duration = Duration::from_mins(30);

/// How often the running duel is published. Source: albedo.
const RUNNING: Duration = Duration::from_secs(2);

/// How often the public data is written although nothing has changed: well within the time
/// after which readers doubt it. Source: albedo.
const FRESH_MS: u64 = 10 * 60 * 1000;

/// How often what waits for somebody is tried again all the same. Source: albedo.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The document of the running duel.
const RUNNING_DUEL: &str = "data/running.json";

/// Alert: something cannot be published.
const HELD_UP: &str = "a publication is held up";

#[derive(Debug)]
pub(super) struct Publishing {
    shared: Arc<Shared>,
    state: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    /// Made by the first step that can reach the bucket.
    publisher: Option<Publisher>,
    /// Entries of the log whose head is published.
    signed: Option<u64>,
    /// When the public data was last said to be written anew.
    fresh_ms: u64,
    /// When what waits for somebody was last tried again.
    stopped_ms: u64,
    told: Told,
}

/// What the ledger's alert says.
#[derive(Debug, Default, PartialEq, Eq)]
enum Told {
    /// An earlier process may have left one.
    #[default]
    Unknown,
    Known(Option<Unpublished>),
}

impl Publishing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: Mutex::default() }
    }

    /// Whether a duel runs: it moves on without a change of the ledger, and begins and ends with
    /// one. A duel that is void waits for up to half an hour.
    async fn is_running(&self) -> Result<bool> {
        let ledger = &self.shared.ledger;
        match ledger.open_duel().await? {
            Some(duel) => Ok(ledger.submission(duel.submission).await?.state == State::Duelling),
            None => Ok(false),
        }
    }

    /// Raises or ends the alert of what cannot be published, as the ledger has it: a try that waits
    /// for its time is no success.
    async fn tell(&self, told: &mut Told) -> Result<()> {
        let Base { ledger, time, .. } = &**self.shared;
        let found = Told::Known(ledger.unpublished().await?);
        if *told == found {
            return Ok(());
        }
        let is_written = match &found {
            Told::Known(Some(unpublished)) => raise(ledger, time, HELD_UP, &error_of(unpublished)).await,
            _ => ledger.well(HELD_UP, time.now_ms()).await.is_ok(),
        };
        if is_written {
            *told = found;
        }
        Ok(())
    }
}

#[async_trait]
impl Task for Publishing {
    fn name(&self) -> &'static str {
        "publisher"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let Shared { log, bucket, .. } = &*self.shared;
        let Base { ledger, time, .. } = &**self.shared;
        log.write(ledger, time.now_ms(), cx).await?;
        let mut state = self.state.lock().await;
        let Opened { publisher, signed, fresh_ms, stopped_ms, told } = &mut *state;
        let publisher = match publisher {
            Some(publisher) => publisher,
            none => {
                let settings = Settings {
                    log: Some(log.source().clone()),
                    exports: self.shared.exports.clone(),
                    backoff: Backoff::default(),
                    patience: Duration::ZERO,
                    clock: Arc::clone(&time.clock),
                };
                none.insert(Publisher::open(Arc::clone(bucket), settings, cx).await?)
            }
        };
        // A head is published at once, also where its record is still to come.
        let size = ledger.signed().await?;
        if *signed != Some(size) {
            publisher.log(cx).await?;
            *signed = Some(size);
        }
        let now_ms = time.now_ms();
        // In an outage the next version is made when the one that waits is tried again.
        if !ledger.is_put_off(RUNNING_DUEL, now_ms).await? {
            let running = self.shared.running().document(now_ms);
            if let Some(running) = running {
                ledger.put_document(RUNNING_DUEL, documents::json(&running)?, now_ms).await?;
            }
        }
        if now_ms.saturating_sub(*fresh_ms) >= FRESH_MS {
            ledger.refresh_documents(now_ms).await?;
            *fresh_ms = now_ms;
        }
        if now_ms.saturating_sub(*stopped_ms) >= DAY_MS {
            ledger.try_stopped(build(), now_ms).await?;
            *stopped_ms = now_ms;
        }
        let waiting = ledger.next_waiting(now_ms).await?;
        let due_ms = waiting.map(|waiting| waiting.due_ms);
        if due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            self.tell(told).await?;
            let most = if self.is_running().await? { RUNNING } else { IDLE };
            let due = due_ms.map(|due_ms| Duration::from_millis(due_ms - now_ms));
            return Ok(Next::Change(due.map_or(most, |due| due.min(most))));
        }
        let drained = publisher.drain(&LedgerOutbox(&self.shared), cx).await?;
        self.tell(told).await?;
        match drained.error.filter(|error| error.fault() == Fault::Bug) {
            // It freezes crowns.
            Some(bug) => Err(bug),
            None => Ok(Next::After(RUNNING / 4)),
        }
    }
}

/// The ledger as the publisher's outbox.
#[derive(Debug)]
struct LedgerOutbox<'a>(&'a Shared);

#[async_trait]
impl Outbox for LedgerOutbox<'_> {
    async fn next(&self, now_ms: u64) -> Result<Due> {
        let Some(waiting) = self.0.ledger.next_waiting(now_ms).await? else { return Ok(Due::Nothing) };
        if waiting.due_ms > now_ms {
            return Ok(Due::Later(waiting.due_ms));
        }
        let work = match waiting.what {
            What::Record { folder, submission, decided_ms } => {
                Work::Record { folder, submission: Some(submission), decided_at: decided_ms / 1000 }
            }
            What::Document { name, bytes } => {
                let bytes = match bytes {
                    Some(bytes) => bytes,
                    None => documents::written(&name, self.0, now_ms).await?,
                };
                Work::Document { name, bytes: Bytes::from(bytes) }
            }
        };
        Ok(Due::Due(Item { id: waiting.id, work, added_ms: waiting.added_ms, tries: waiting.tries }))
    }

    async fn done(&self, id: u64, now_ms: u64) -> Result<()> {
        self.0.ledger.published(id, now_ms).await
    }

    async fn failed(&self, id: u64, failure: &Failure, now_ms: u64) -> Result<()> {
        self.0.ledger.not_published(id, failure, now_ms).await
    }

    async fn lag(&self, _: u64) -> Result<Lag> {
        self.0.ledger.lag().await
    }
}

/// This build, as the ledger keeps it: the same build meets a bug again.
fn build() -> String {
    let Build { version, source } = crate::build();
    match source {
        Some(source) => format!("{version} {source}"),
        None => version,
    }
}

/// The error of the alert. A bug has frozen crowns when it was met: somebody has to act on what is
/// left of it.
fn error_of(unpublished: &Unpublished) -> Error {
    let Unpublished { name, error, is_outage, is_bug, is_stopped } = unpublished;
    let fault = if *is_outage { Fault::Infrastructure } else { Fault::Operator };
    let message = format!("`{name}` waits: {error}");
    let told = Error::new(ErrorKind::Unavailable, "publish", message).with_fault(fault);
    match (*is_stopped, *is_bug) {
        (true, true) => told.with_hint("report it: another build of albedo tries it again"),
        (true, false) => {
            told.with_hint("mend it: it is tried again once per day and when the validator starts")
        }
        (false, _) => told,
    }
}

/// A document that nothing writes.
fn unknown(name: &str) -> Error {
    Error::bug("write the public data", "there is no such document").with("name", name)
}

#[cfg(test)]
mod tests;
