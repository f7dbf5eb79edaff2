//! The log of duels beside the records: appended to where a record lacks, and copied to
//! the bucket, its head last.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::bucket::{Bucket, Content, Mode, Object, Written};
use super::public::PublicLog;
use crate::log::{Entry, FolderLog, Head, History, Log, LogFiles, LogWriter, Submission, files_since};
use crate::record::AnyRecord;
use crate::{CallContext, Error, ErrorKind, Fault, PublicKey, Result, Signer};

const OPERATION: &str = "publish the log";

/// The log's newest head, under the log's own folder.
const CHECKPOINT: &str = "checkpoint";

/// The newest entries that are looked at one by one, for a record and for what is new to the
/// bucket, before all are read: a log grows for as long as it is kept. Source: albedo; what a
/// validator publishes is among the last few.
const NEWEST: u64 = 32;

/// Most bytes of a head and of a tile.
const MAX_HEAD: u64 = 64 << 10;
const MAX_TILE: u64 = 32 << 20;

/// A log of duels in a folder, and what signs it.
///
/// Several publishers may share a bucket, but a log has one key and one writer: each log
/// needs a bucket or prefix of its own.
#[derive(Debug, Clone)]
pub struct LogSource {
    folder: PathBuf,
    signer: Arc<dyn Signer>,
    origin: Option<String>,
}

impl LogSource {
    /// The log in `folder`, signed by `signer`. If there is none yet, it is begun under
    /// the name `origin`: the address that it will be served at, without its scheme.
    pub fn new(folder: impl Into<PathBuf>, signer: Arc<dyn Signer>, origin: Option<String>) -> Self {
        Self { folder: folder.into(), signer, origin }
    }

    /// Opens the log to append to it.
    ///
    /// # Errors
    /// As [`LogWriter::open`].
    pub fn open(&self) -> Result<LogWriter> {
        LogWriter::open(&self.folder, self.origin.as_deref(), Arc::clone(&self.signer))
    }

    /// The key that signs its heads.
    pub fn key(&self) -> PublicKey {
        self.signer.key()
    }

    /// Appends what the log lacks of `record`, which was verified; gives the place of
    /// the entry that names it.
    ///
    /// # Errors
    /// As [`LogWriter::open`].
    pub(super) async fn append(
        &self,
        record: &AnyRecord,
        submission: Option<&Submission>,
        cx: &CallContext,
    ) -> Result<Option<u64>> {
        if self.folder.join(CHECKPOINT).exists() {
            let log = self.log(cx).await?;
            let size = log.head().size;
            for place in (size.saturating_sub(NEWEST)..size).rev() {
                let entry = log.prove_inclusion(place, cx).await?.entry;
                if Entry::parse(&entry)?.record() == Some(record.digest()) {
                    return Ok(Some(place));
                }
            }
            let history = history(&log, cx).await?;
            if let Some(place) = history.place(record.digest()) {
                return Ok(Some(place));
            }
        }
        // Only the holder of the writer appends: what is missing is determined again.
        let source = self.clone();
        let mut writer = blocking(move || source.open()).await?;
        let history = history(&self.log(cx).await?, cx).await?;
        let entries = history.lacks(record, submission.cloned())?;
        let place = history.entries().len() as u64 + entries.len() as u64;
        let named = entries.last().and_then(Entry::record).is_some();
        blocking(move || writer.append(&entries).map(|_head| ())).await?;
        Ok(named.then(|| place - 1))
    }

    /// The log that `bucket` has, as the public data names it.
    ///
    /// # Errors
    /// The bucket's; its head is malformed.
    pub(super) async fn published(
        &self,
        bucket: &Arc<dyn Bucket>,
        cx: &CallContext,
    ) -> Result<Option<PublicLog>> {
        let Some(object) = bucket.read(&at(CHECKPOINT), MAX_HEAD, cx).await? else { return Ok(None) };
        let head = Head::parse(&String::from_utf8_lossy(&object.bytes))?;
        let key = self.signer.key().to_string();
        Ok(head.verify(&self.signer.key()).is_ok().then_some(PublicLog {
            origin: head.origin,
            key,
            size: head.size,
        }))
    }

    async fn log(&self, cx: &CallContext) -> Result<Log> {
        Log::open(Arc::new(FolderLog::new(&self.folder)), Some(&self.signer.key()), cx).await
    }

    /// Copies what `bucket` lacks of the log into `log/`, the head last. A log that
    /// contradicts the published head, or is shorter, is never published.
    ///
    /// # Errors
    /// The operator's: the published head is another log's, of another key, or of
    /// another history; the bucket's.
    pub(super) async fn copy(&self, bucket: &Arc<dyn Bucket>, cx: &CallContext) -> Result<()> {
        let log = self.log(cx).await?;
        let head = log.head().clone();
        let published = bucket.read(&at(CHECKPOINT), MAX_HEAD, cx).await?;
        let (size, mode) = match published {
            None => (0, Mode::IfAbsent),
            Some(Object { bytes, version }) => {
                let held = String::from_utf8_lossy(&bytes).into_owned();
                let held = Head::parse(&held)?;
                held.verify(&self.signer.key()).map_err(|_| {
                    contradicts("the published head of the log is not signed by this key")
                        .with("key", self.signer.key())
                })?;
                if !goes_on(&log, &held, cx).await?
                    && let Some(finding) = history(&log, cx).await?.check_head(&held)?
                {
                    let message = format!("the published log has another history ({})", word(&finding));
                    return Err(contradicts(message).with("published entries", held.size));
                }
                (held.size, Mode::IfUnchanged(version))
            }
        };
        // What is new is what the head covers.
        if head.size.saturating_sub(size) > NEWEST {
            log.entries(cx).await?;
        } else {
            for place in size..head.size {
                log.prove_inclusion(place, cx).await?;
            }
        }
        for file in files_since(size, head.size) {
            let bytes = FolderLog::new(&self.folder).read(&file, MAX_TILE, cx).await?.ok_or_else(|| {
                Error::new(ErrorKind::DataInvalid, OPERATION, "a file of the log is missing")
                    .with("file", &file)
            })?;
            bucket.write(&at(&file), Content::Bytes(bytes.into()), Mode::Always, cx).await?;
        }
        if size < head.size || mode == Mode::IfAbsent {
            let content = Content::Bytes(Bytes::from(head.to_string()));
            if bucket.write(&at(CHECKPOINT), content, mode, cx).await? == Written::Refused {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    OPERATION,
                    "the published head changed meanwhile",
                )
                .with_fault(Fault::Infrastructure)
                .with_reach(crate::Reach::Call)
                .with_retry(crate::Retry::Backoff));
            }
        }
        Ok(())
    }
}

/// Whether `log` goes on from `held`, by its hashes alone: no entry is read.
async fn goes_on(log: &Log, held: &Head, cx: &CallContext) -> Result<bool> {
    if held.origin != log.head().origin || held.size > log.head().size {
        return Ok(false);
    }
    Ok(log.prove_consistency(held.size, cx).await?.root == held.root)
}

/// All of `log`.
async fn history(log: &Log, cx: &CallContext) -> Result<History> {
    History::new(log.head(), &log.entries(cx).await?)
}

fn at(file: &str) -> String {
    format!("log/{file}")
}

fn word(finding: &crate::log::Finding) -> &'static str {
    match finding {
        crate::log::Finding::Truncated { .. } => "it is longer",
        _ => "the same entries have another hash",
    }
}

fn contradicts(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Conflict, OPERATION, message)
        .with_fault(Fault::Operator)
        .with_hint("restore the log that was published, or publish this one elsewhere: a log has one history")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::bug(OPERATION, error.to_string()))?
}
