//! Publishes what waits in an outbox.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;

use super::bucket::{Bucket, Conditions, Content, Mode, Written, check_name, conflict, probe};
use super::exports::{Exports, make};
use super::index::{Indexed, Writer, digest_of};
use super::manifest::{ManifestFile, Ready, RecordManifest, json};
use super::outbox::{Failure, FolderOutbox, Item, Lag, Next, Outbox, Work};
use super::public::{IndexEntry, Status, StatusSource, duel_files};
use super::{LogSource, Reader};
use crate::{CallContext, Clock, Digest, Error, ErrorKind, Fault, Reach, Result, Retry, SystemClock};

const OPERATION: &str = "publish";

const STATUS: &str = "data/status.json";

/// Most bytes of a status that the publisher itself may replace.
const MAX_STATUS: u64 = 4 << 20;

/// The metrics of [`Publisher::lag`].
const LAG: &str = "albedo_publish_lag_seconds";
const WAITING: &str = "albedo_publish_waiting";
const STOPPED: &str = "albedo_publish_stopped";

/// How a publisher works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The log that records are appended to and that is copied into the bucket.
    pub log: Option<LogSource>,
    /// The data sets that are put beside each record; none if `None`.
    pub exports: Option<Exports>,
    /// When to try again what failed.
    pub backoff: Backoff,
    /// How long [`Publisher::drain`] goes on while something waits to be tried again, from when
    /// something was published last.
    pub patience: Duration,
    /// Measures time, and waits.
    pub clock: Arc<dyn Clock>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: None,
            exports: Some(Exports::default()),
            backoff: Backoff::default(),
            patience: Duration::from_mins(5),
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// Pauses between tries. Ours: an outage of minutes costs minutes, one of a day costs a
/// request every five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure; doubled after each.
    pub first: Duration,
    /// The longest pause that a server did not ask for.
    pub most: Duration,
    /// The pause after a failure that an operator has to mend, such as a key that is
    /// refused.
    pub operator: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_mins(5), operator: Duration::from_mins(5) }
    }
}

impl Backoff {
    /// The pause after `error`, which follows `tries` earlier failures; `None` if the
    /// same would come of every try.
    pub fn pause(&self, error: &Error, tries: u32) -> Option<Duration> {
        match (error.fault(), error.retry()) {
            (_, Retry::After(pause)) => Some(pause),
            // The record's own bytes, or ours: nobody but a person mends that.
            (Fault::Bug | Fault::Contestant(_), _) => None,
            _ if is_of_the_record(error) => None,
            (Fault::Operator, _) => Some(self.operator),
            _ => Some(self.first.saturating_mul(2_u32.saturating_pow(tries.min(20))).min(self.most)),
        }
    }
}

/// Whether `error` is about the bytes of what is to be published, or of what is there
/// in its place, and would be met every time.
fn is_of_the_record(error: &Error) -> bool {
    let about = |fact: &str| error.context().iter().any(|(key, _)| *key == fact);
    match error.kind() {
        ErrorKind::DataInvalid | ErrorKind::DigestMismatch | ErrorKind::Unsupported | ErrorKind::NotFound => {
            about("record")
        }
        ErrorKind::Conflict => about("object"),
        _ => false,
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// It is published now.
    New(Digest),
    /// It was published before.
    Already(Digest),
}

/// What [`Publisher::drain`] did.
#[derive(Debug, Clone, Default)]
pub struct Drained {
    /// Records and documents that are published now.
    pub published: u64,
    /// Records that were published before.
    pub already: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Items that wait: to be tried again, or for somebody to act.
    pub waiting: u64,
    /// Items among them that somebody has to act for.
    pub stopped: u64,
    /// The last failure; the first bug, if there was one.
    pub error: Option<Error>,
}

impl Drained {
    /// Keeps `error` unless there was a bug: nothing else that fails hides one.
    fn note(&mut self, error: Error) {
        if self.error.as_ref().is_none_or(|kept| kept.fault() != Fault::Bug) {
            self.error = Some(error);
        }
    }
}

/// Publishes records and documents into a bucket.
///
/// # Behavior
/// - Everything may be repeated, in whole or in part: what is there already is compared,
///   and nothing is listed twice.
/// - Dropped or killed at any moment it leaves the index as it was or as it was to be.
/// - What fails affects nothing but its own publication.
#[derive(Debug)]
pub struct Publisher {
    bucket: Arc<dyn Bucket>,
    conditions: Conditions,
    settings: Settings,
    index: Writer,
    /// The Unix time at which the clock stood at 0.
    origin: Duration,
}

impl Publisher {
    /// A publisher into `bucket`, which is asked whether it keeps the conditions of
    /// writes.
    ///
    /// # Errors
    /// The bucket's.
    pub async fn open(bucket: Arc<dyn Bucket>, settings: Settings, cx: &CallContext) -> Result<Self> {
        let conditions = probe(&*bucket, cx).await?;
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = now.saturating_sub(settings.clock.now());
        metrics::describe_gauge!(
            LAG,
            metrics::Unit::Seconds,
            "How long the oldest item has waited to be published."
        );
        metrics::describe_gauge!(WAITING, "Items that wait to be published.");
        metrics::describe_gauge!(STOPPED, "Items to be published that wait for somebody to act.");
        Ok(Self { index: Writer::new(Arc::clone(&bucket), conditions), bucket, conditions, settings, origin })
    }

    /// Whether the bucket keeps the conditions of writes.
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// A reader of what is published.
    pub fn reader(&self) -> &Reader {
        &self.index.reader
    }

    #[cfg(test)]
    pub(super) fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    #[cfg(test)]
    pub(super) fn index(&self) -> &Writer {
        &self.index
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        (self.origin + self.settings.clock.now()).as_millis() as u64
    }

    /// How far publication is behind, which also sets the gauges
    /// `albedo_publish_lag_seconds`, `albedo_publish_waiting` and
    /// `albedo_publish_stopped` of the program's recorder of [`metrics`]. Draining does
    /// so after every item; a program that drains from time to time asks between.
    /// [`Lag::alerts`] is whether to alert an operator.
    ///
    /// # Errors
    /// The outbox's.
    pub async fn lag(&self, outbox: &dyn Outbox) -> Result<Lag> {
        let now_ms = self.now_ms();
        let lag = outbox.lag(now_ms).await?;
        metrics::gauge!(LAG).set(lag.at(now_ms).as_secs_f64());
        metrics::gauge!(WAITING).set(lag.waiting as f64);
        metrics::gauge!(STOPPED).set(lag.stopped as f64);
        Ok(lag)
    }

    /// Publishes what `outbox` holds, until nothing is left, or nothing that is due
    /// within the settings' patience. What cannot be published waits on, and is counted.
    ///
    /// # Errors
    /// The outbox's; [`ErrorKind::Cancelled`]; the bucket's, if nothing waits and the status of
    /// the competition cannot be read or written.
    pub async fn drain(&self, outbox: &dyn Outbox, cx: &CallContext) -> Result<Drained> {
        let mut drained = Drained::default();
        let patience_ms = u64::try_from(self.settings.patience.as_millis()).unwrap_or(u64::MAX);
        let patient_until_ms = || self.now_ms().saturating_add(patience_ms);
        let mut until_ms = patient_until_ms();
        loop {
            cx.check(OPERATION)?;
            self.lag(outbox).await?;
            let item = match outbox.next(self.now_ms()).await? {
                Next::Due(item) => item,
                Next::Later(at_ms) if at_ms <= until_ms => {
                    let pause = Duration::from_millis(at_ms.saturating_sub(self.now_ms()));
                    let at = self.settings.clock.now() + pause;
                    cx.run(OPERATION, self.settings.clock.sleep_until(at)).await?;
                    continue;
                }
                Next::Later(_) | Next::Nothing => break,
            };
            match self.publish(&item, cx).await {
                Ok(Some(Published::Already(_))) => {
                    drained.already += 1;
                    outbox.done(item.id, self.now_ms()).await?;
                    until_ms = patient_until_ms();
                }
                Ok(_) => {
                    drained.published += 1;
                    outbox.done(item.id, self.now_ms()).await?;
                    until_ms = patient_until_ms();
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    drained.failures += 1;
                    let pause = self.settings.backoff.pause(&error, item.tries);
                    let now_ms = self.now_ms();
                    let again_ms = pause.map(|pause| now_ms + pause.as_millis() as u64);
                    drained.note(error.clone());
                    let failure = Failure { message: error.to_string(), fault: error.fault(), again_ms };
                    outbox.failed(item.id, &failure, now_ms).await?;
                    // A key or a bucket that an operator has to mend is every item's.
                    let of_one = error.context().iter().any(|(key, _)| *key == "record");
                    if error.fault() == Fault::Operator && error.reach() > Reach::Call && !of_one {
                        break;
                    }
                }
            }
        }
        let lag = self.lag(outbox).await?;
        (drained.waiting, drained.stopped) = (lag.waiting, lag.stopped);
        match self.refresh_status(cx).await {
            // It hides no failure of what waits.
            Err(error) if drained.waiting > 0 && error.kind() != ErrorKind::Cancelled => drained.note(error),
            refreshed => refreshed?,
        }
        Ok(drained)
    }

    /// The same for a folder of records, which no other process publishes from meanwhile. Once
    /// nothing waits, the index has every record whose manifest is there: some servers check the
    /// condition of a write before they write, and let one publisher undo what another one did
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Publisher::drain`]; [`ErrorKind::Conflict`], the operator's, if another
    /// process publishes from the folder; the bucket's.
    pub async fn drain_folder(&self, outbox: &FolderOutbox, cx: &CallContext) -> Result<Drained> {
        let _lock = outbox.lock()?;
        let drained = self.drain(outbox, cx).await?;
        if drained.waiting == 0 {
            self.index.repair(None, self.now_ms() / 1000, cx).await?;
        }
        Ok(drained)
    }

    /// Publishes one item; what became of it, if it is a record.
    ///
    /// # Errors
    /// What keeps it from being published.
    pub async fn publish(&self, item: &Item, cx: &CallContext) -> Result<Option<Published>> {
        match &item.work {
            Work::Record { folder, submission, decided_at } => {
                let ready = Ready::read(folder, submission.as_ref(), *decided_at, cx).await?;
                self.record(ready, cx).await.map(Some)
            }
            Work::Document { name, bytes } => self.document(name, bytes.clone(), cx).await.map(|()| None),
        }
    }

    /// Writes a document of the public data, whatever was there.
    ///
    /// # Errors
    /// The bucket's; a bug if the name is none of the public data's.
    pub async fn document(&self, name: &str, bytes: Bytes, cx: &CallContext) -> Result<()> {
        check_name(name)?;
        if !name.starts_with("data/") {
            return Err(
                Error::bug("publish a document", "its name does not begin with `data/`").with("name", name)
            );
        }
        self.bucket.write(name, Content::Bytes(bytes), Mode::Always, cx).await.map(drop)
    }

    /// Publishes the newest head of the log and what it covers; nothing without a log.
    ///
    /// # Errors
    /// The operator's: the published head is another log's, or of another history; the
    /// bucket's.
    pub async fn log(&self, cx: &CallContext) -> Result<()> {
        match &self.settings.log {
            Some(log) => log.copy(&self.bucket, cx).await,
            None => Ok(()),
        }
    }

    async fn record(&self, mut ready: Ready, cx: &CallContext) -> Result<Published> {
        let record = ready.manifest.record;
        if let Some(log) = &self.settings.log {
            let submission =
                ready.manifest.entry.submission.clone().map(|submission| crate::log::Submission {
                    hotkey: submission.hotkey,
                    repository: submission.repository,
                    pin: submission.pin,
                });
            ready.manifest.entry.log_entry = log.append(&ready.record, submission.as_ref(), cx).await?;
        }
        let entry = match self.index.reader.manifest(record, cx).await {
            // It was written after the files that it names.
            Ok(Some(manifest)) => manifest.entry,
            Ok(None) => self.files(ready, cx).await?,
            // Servers that know no conditions may also keep half of what a publisher that
            // was killed has sent.
            Err(error)
                if error.kind() == ErrorKind::DataInvalid && self.conditions == Conditions::Ignored =>
            {
                self.files(ready, cx).await?
            }
            Err(error) => return Err(error),
        };
        if let Some(log) = &self.settings.log {
            log.copy(&self.bucket, cx).await?;
        }
        let now = self.now_ms() / 1000;
        Ok(match self.index.add(&entry, now, cx).await? {
            Indexed::New => Published::New(record),
            Indexed::Already => Published::Already(record),
        })
    }

    /// Writes one file of a record, which is at `path` on this machine.
    async fn file(&self, record: Digest, path: &Path, file: &ManifestFile, cx: &CallContext) -> Result<()> {
        let ManifestFile { at, size, sha256, .. } = file;
        let object = format!("records/{record}/{at}");
        let content = Content::File { path: path.to_owned(), size: *size };
        let written = self.bucket.write(&object, content, Mode::IfAbsent, cx).await?;
        // What was there already, or may have been written over by another publisher: it is
        // the same, or somebody else's.
        let again = written == Written::Refused || self.conditions == Conditions::Ignored;
        if again && digest_of(&*self.bucket, &object, *size, cx).await? != Some(*sha256) {
            return Err(conflict(&object, &self.bucket.place()));
        }
        Ok(())
    }

    /// Writes the files of a record, its data sets, what a page shows of it, and its manifest
    /// last.
    async fn files(&self, ready: Ready, cx: &CallContext) -> Result<IndexEntry> {
        let Ready { record, mut manifest, folder } = ready;
        for file in &manifest.files {
            self.file(manifest.record, &folder.join(&file.name), file, cx).await?;
        }
        if let Some(exports) = &self.settings.exports
            && let Some(made) = make(&record, exports).await?
        {
            for file in &made.files {
                self.file(manifest.record, &made.path(file), file, cx).await?;
            }
            manifest.exports.clone_from(&made.files);
        }
        let mut files = duel_files(&record, &manifest.entry)?;
        files.data.exports.clone_from(&manifest.exports);
        for (number, page) in files.pages.iter().enumerate() {
            let name = format!("data/duels/{}/samples/{number:03}.json", manifest.record);
            self.bucket.write(&name, Content::Bytes(json(page)?.into()), Mode::Always, cx).await?;
        }
        let name = format!("data/duels/{}.json", manifest.record);
        self.bucket.write(&name, Content::Bytes(json(&files.data)?.into()), Mode::Always, cx).await?;
        let name = RecordManifest::at(manifest.record);
        let content = Content::Bytes(manifest.to_bytes()?.into());
        if self.bucket.write(&name, content, Mode::IfAbsent, cx).await? == Written::Yes {
            return Ok(manifest.entry);
        }
        // Another publisher has the same record: its manifest counts.
        let manifest = self.index.reader.manifest(manifest.record, cx).await?;
        manifest.map(|manifest| manifest.entry).ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "the manifest is being written by another publisher",
            )
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
        })
    }

    /// Writes the state of the competition as the records tell it, unless a validator
    /// writes it.
    async fn refresh_status(&self, cx: &CallContext) -> Result<()> {
        if let Some(object) = self.bucket.read(STATUS, MAX_STATUS, cx).await?
            && let Ok(status) = serde_json::from_slice::<Status>(&object.bytes)
            && status.source == StatusSource::Validator
        {
            return Ok(());
        }
        let entries = self.index.reader.entries(cx).await?;
        let Some(mut status) = Status::from_records(&entries, self.now_ms() / 1000) else { return Ok(()) };
        if let Some(log) = &self.settings.log {
            status.log = log.published(&self.bucket, cx).await?;
        }
        self.document(STATUS, json(&status)?.into(), cx).await
    }
}
