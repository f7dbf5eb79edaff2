//! Where journal and record go.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{CanonicalRecord, Digests, JournalEvent, Record, RecordPart, TextRef};
use crate::error::{Error, ErrorKind, Result};

/// Keeps one duel's journal and record.
#[async_trait]
pub trait RecordStore: Debug + Send + Sync + 'static {
    /// The events that the journal holds, in the order of their appending; what
    /// a duel goes on from. An event whose text was lost is left out.
    async fn stored(&self) -> Result<Vec<JournalEvent>>;

    /// A text that a stored event names.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it was never appended,
    /// [`ErrorKind::DigestMismatch`] if it was altered.
    async fn text(&self, text: &TextRef) -> Result<String>;

    /// Whether nobody else can have written what [`RecordStore::stored`] returns. If
    /// not, the record of a duel that goes on says so.
    async fn chained(&self) -> Result<bool> {
        Ok(true)
    }

    /// The record that was published, if it is there and whole.
    async fn published(&self) -> Result<Option<Record>> {
        Ok(None)
    }

    /// Appends `event` and the texts that it names; returns once they survive a
    /// crash as well as this store can promise.
    ///
    /// # Errors
    /// What is not acknowledged must not be used. After an error the store
    /// takes nothing more.
    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()>;

    /// Starts a canonical record; parts of an unpublished one are dropped.
    async fn begin(&self) -> Result<()>;

    /// Adds the next part of the record. May return before it is written: an
    /// error then comes from a later call.
    async fn extend(&self, part: RecordPart) -> Result<()>;

    /// Publishes the record whose parts have `digests`, whole or not at all.
    async fn publish(&self, digests: &Digests) -> Result<()>;
}

/// Memory: for tests, and for callers that only want the verdict.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    journal: Vec<JournalEvent>,
    texts: BTreeMap<TextRef, String>,
    part: RecordPart,
    record: Option<CanonicalRecord>,
}

impl MemoryStore {
    /// The journal so far.
    pub fn journal(&self) -> Vec<JournalEvent> {
        self.kept().journal.clone()
    }

    /// The record, once published.
    pub fn record(&self) -> Option<CanonicalRecord> {
        self.kept().record.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    async fn stored(&self) -> Result<Vec<JournalEvent>> {
        Ok(self.journal())
    }

    async fn published(&self) -> Result<Option<Record>> {
        let Some(CanonicalRecord { lines, blobs, digest }) = self.record() else { return Ok(None) };
        Record::from_bytes(&lines, &blobs, digest).map(Some)
    }

    async fn text(&self, text: &TextRef) -> Result<String> {
        self.kept().texts.get(text).cloned().ok_or_else(|| missing(text))
    }

    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        let mut kept = self.kept();
        kept.journal.push(event);
        kept.texts.extend(texts.into_iter().map(|text| (TextRef::of(&text), text)));
        Ok(())
    }

    async fn begin(&self) -> Result<()> {
        self.kept().part = RecordPart::default();
        Ok(())
    }

    async fn extend(&self, mut part: RecordPart) -> Result<()> {
        let mut kept = self.kept();
        kept.part.lines.append(&mut part.lines);
        kept.part.blobs.append(&mut part.blobs);
        Ok(())
    }

    async fn publish(&self, digests: &Digests) -> Result<()> {
        let mut kept = self.kept();
        let RecordPart { lines, blobs } = std::mem::take(&mut kept.part);
        kept.record = Some(CanonicalRecord { lines, blobs, digest: digests.root() });
        Ok(())
    }
}

/// The journal has no text of that digest.
pub(super) fn missing(text: &TextRef) -> Error {
    Error::new(ErrorKind::NotFound, "read the journal", "it has no text of that digest")
        .with("digest", text.sha256)
}
