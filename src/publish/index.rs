//! The index of all published records: read, verified, and moved on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::bucket::{Bucket, Conditions, Content, Mode, Object, PART, Version, Written};
use super::manifest::{MAX_MANIFEST, RecordManifest, check_format, json, unresolved};
use super::public::{FORMAT, Index, IndexEntry, IndexPage, PageRef};
use crate::digest::Hasher;
use crate::{CallContext, Digest, Error, ErrorKind, Result};

pub(super) const INDEX: &str = "index.json";

/// Records of a full page: about 200 KB.
pub(super) const PAGE: usize = 256;

/// Most bytes of `index.json` and of a page: a million records have 4,000 pages.
const MAX_INDEX: u64 = 4 << 20;

/// How often the index is read and written again before the publisher gives up: another
/// one was faster each time.
const MOVES: u32 = 50;

/// How often a document that ends in its middle is read again, after 50 ms first and then
/// twice as long each time.
const CUT_SHORT: u32 = 5;

const READ: &str = "read the index";
const WRITE: &str = "write the index";

/// Reads what is published: as any stranger would, nothing is believed.
#[derive(Debug)]
pub struct Reader {
    bucket: Arc<dyn Bucket>,
    /// Pages never change.
    pages: Mutex<BTreeMap<Digest, Arc<IndexPage>>>,
}

impl Reader {
    /// A reader of what is in `bucket`.
    pub fn new(bucket: Arc<dyn Bucket>) -> Self {
        Self { bucket, pages: Mutex::default() }
    }

    /// The index; `None` if nothing is published yet.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is malformed; the bucket's.
    pub async fn index(&self, cx: &CallContext) -> Result<Option<Index>> {
        Ok(self.versioned(cx).await?.map(|(index, _)| index))
    }

    /// Every record in the index, the oldest first.
    ///
    /// # Errors
    /// As [`Reader::index`]; a page is missing or has another digest.
    pub async fn entries(&self, cx: &CallContext) -> Result<Vec<IndexEntry>> {
        let Some(index) = self.index(cx).await? else { return Ok(Vec::new()) };
        self.entries_of(&index, cx).await
    }

    async fn entries_of(&self, index: &Index, cx: &CallContext) -> Result<Vec<IndexEntry>> {
        let mut entries = Vec::new();
        for page in &index.pages {
            entries.extend(self.page(*page, cx).await?.entries.iter().cloned());
        }
        entries.extend(index.entries.iter().cloned());
        if entries.len() as u64 != index.records {
            return Err(wrong_number());
        }
        Ok(entries)
    }

    /// Checks that everything `entry` points at is there and what its digests say.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::DigestMismatch`], naming the object; the
    /// bucket's.
    pub async fn verify(&self, entry: &IndexEntry, cx: &CallContext) -> Result<RecordManifest> {
        const OPERATION: &str = "verify a published record";
        let manifest = self.manifest(entry.record, cx).await?.ok_or_else(|| {
            unresolved(OPERATION, "the manifest of a record in the index is missing", entry.record)
        })?;
        let mut lines = String::new();
        for file in manifest.files.iter().chain(&manifest.exports) {
            let name = format!("records/{}/{}", entry.record, file.at);
            if digest_of(&*self.bucket, &name, file.size, cx).await? != Some(file.sha256) {
                let error =
                    unresolved(OPERATION, "a file of the record is missing or another one", entry.record);
                return Err(error.with("object", name));
            }
            if file.name == "record.digest" {
                let object = self.bucket.read(&name, 1 << 10, cx).await?;
                let bytes = object.map(|object| object.bytes).unwrap_or_default();
                lines = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        // The digest is that of the lines after the first, which name the digests of both
        // files.
        let covered = lines.split_once('\n').map_or("", |(_, covered)| covered);
        let named = manifest
            .files
            .iter()
            .take(2)
            .all(|file| covered.contains(&format!("{}  {}\n", file.sha256, file.name)));
        if Digest::of(covered) == entry.record && named {
            return Ok(manifest);
        }
        Err(unresolved(OPERATION, "the files are those of another record", entry.record))
    }

    /// The manifest of `record`; `None` if there is none.
    pub(super) async fn manifest(&self, record: Digest, cx: &CallContext) -> Result<Option<RecordManifest>> {
        let name = RecordManifest::at(record);
        let Some(object) = self.document(&name, MAX_MANIFEST, cx).await? else { return Ok(None) };
        let manifest = RecordManifest::parse(&object.bytes);
        let manifest = manifest.map_err(|error| error.with("object", &name))?;
        if manifest.record == record {
            return Ok(Some(manifest));
        }
        Err(Error::new(ErrorKind::DataInvalid, "read a record's manifest", "it is another record's")
            .with("object", name))
    }

    /// The document `name`. A server may show what another writer has only begun to write
    /// (`s3rver` does), so that one that ends in its middle is read again.
    async fn document(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        for again in 0..CUT_SHORT {
            let Some(object) = self.bucket.read(name, most, cx).await? else { return Ok(None) };
            if !breaks_off(&object.bytes) {
                return Ok(Some(object));
            }
            cx.run(READ, tokio::time::sleep(Duration::from_millis(50 << again))).await?;
        }
        self.bucket.read(name, most, cx).await
    }

    /// Whether the manifest of `record` ends in its middle.
    async fn is_cut(&self, record: Digest, cx: &CallContext) -> Result<bool> {
        let manifest = self.bucket.read(&RecordManifest::at(record), MAX_MANIFEST, cx).await?;
        Ok(manifest.is_some_and(|object| breaks_off(&object.bytes)))
    }

    async fn versioned(&self, cx: &CallContext) -> Result<Option<(Index, Version)>> {
        let Some(Object { bytes, version }) = self.document(INDEX, MAX_INDEX, cx).await? else {
            return Ok(None);
        };
        check_format(&bytes, READ).map_err(|error| match error.kind() {
            ErrorKind::DataInvalid => damaged(error.message()),
            _ => error.with("object", INDEX),
        })?;
        let index = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(Some((index, version)))
    }

    async fn page(&self, page: PageRef, cx: &CallContext) -> Result<Arc<IndexPage>> {
        let kept = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = kept().get(&page.page) {
            return Ok(Arc::clone(page));
        }
        let read = Arc::new(self.read_page(page, cx).await?);
        kept().insert(page.page, Arc::clone(&read));
        Ok(read)
    }

    /// Reads a page, which is not kept.
    async fn read_page(&self, PageRef { page, records }: PageRef, cx: &CallContext) -> Result<IndexPage> {
        let name = page_name(page);
        let invalid = |message: &str| damaged(message).with("page", &name);
        let object = self.bucket.read(&name, MAX_INDEX, cx).await?;
        let bytes = object.ok_or_else(|| invalid("a page of it is missing"))?.bytes;
        if Digest::of(&bytes) != page {
            return Err(invalid("a page of it has another digest"));
        }
        let read: IndexPage = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if read.entries.len() != records as usize {
            return Err(invalid("a page of it has another number of records"));
        }
        Ok(read)
    }
}

fn page_name(page: Digest) -> String {
    format!("index/{page}.json")
}

/// The SHA-256 of the object `name`, read in parts; `None` if it is not there or does not
/// have `size` bytes.
pub(super) async fn digest_of(
    bucket: &dyn Bucket,
    name: &str,
    size: u64,
    cx: &CallContext,
) -> Result<Option<Digest>> {
    if bucket.size(name, cx).await? != Some(size) {
        return Ok(None);
    }
    let (mut hasher, mut start) = (Hasher::default(), 0);
    while start < size {
        let end = (start + PART).min(size);
        hasher.update(bucket.read_range(name, start, end, cx).await?);
        start = end;
    }
    Ok(Some(hasher.finish()))
}

/// Moves the index on.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) reader: Reader,
    conditions: Conditions,
    /// The records of each full page: of what never changes, a publisher that lives long keeps
    /// no more.
    paged: Mutex<BTreeMap<Digest, Arc<BTreeSet<Digest>>>>,
}

/// Whether a record was new to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indexed {
    New,
    Already,
}

impl Writer {
    pub(super) fn new(bucket: Arc<dyn Bucket>, conditions: Conditions) -> Self {
        Self { reader: Reader::new(bucket), conditions, paged: Mutex::default() }
    }

    /// Whether `index` has `record`.
    async fn has(&self, index: &Index, record: Digest, cx: &CallContext) -> Result<bool> {
        let paged = || self.paged.lock().unwrap_or_else(PoisonError::into_inner);
        for page in &index.pages {
            let kept = paged().get(&page.page).map(Arc::clone);
            let records = if let Some(records) = kept {
                records
            } else {
                let read = self.reader.read_page(*page, cx).await?;
                let records: BTreeSet<_> = read.entries.iter().map(|entry| entry.record).collect();
                let records = Arc::new(records);
                paged().insert(page.page, Arc::clone(&records));
                records
            };
            if records.contains(&record) {
                return Ok(true);
            }
        }
        let counted = index.pages.iter().map(|page| u64::from(page.records)).sum::<u64>();
        if counted + index.entries.len() as u64 != index.records {
            return Err(wrong_number());
        }
        Ok(index.entries.iter().any(|entry| entry.record == record))
    }

    /// Adds `entry`, unless its record is in the index already. `now` is the time of the
    /// change. Without an index it is made from every manifest that is there.
    ///
    /// # Errors
    /// The bucket's; [`ErrorKind::Conflict`] if another publisher was faster too often.
    pub(super) async fn add(&self, entry: &IndexEntry, now: u64, cx: &CallContext) -> Result<Indexed> {
        if self.conditions == Conditions::Ignored {
            return self.repair(Some(entry.record), now, cx).await;
        }
        for turn in 0..MOVES {
            let Some((index, version)) = self.reader.versioned(cx).await? else {
                return self.repair(Some(entry.record), now, cx).await;
            };
            if self.has(&index, entry.record, cx).await? {
                return Ok(Indexed::Already);
            }
            let index = self.extended(index, [entry.clone()], now, cx).await?;
            let (content, mode) = (Content::Bytes(json(&index)?.into()), Mode::IfUnchanged(version));
            if self.reader.bucket.write(INDEX, content, mode, cx).await? == Written::Yes {
                return Ok(Indexed::New);
            }
            // Another publisher was faster. Each pauses for another time.
            let pause = u64::from(turn) * (5 + u64::from(std::process::id() % 23));
            cx.run(WRITE, tokio::time::sleep(Duration::from_millis(pause))).await?;
        }
        Err(Error::new(ErrorKind::Conflict, WRITE, "other publishers were faster every time")
            .with_fault(crate::Fault::Infrastructure)
            .with_reach(crate::Reach::Call)
            .with_retry(crate::Retry::Backoff)
            .with("tries", MOVES))
    }

    /// Compares the index with the manifests that are there, and adds what it lacks, until it
    /// lacks nothing: the last writer finds what another write has undone, and repairs it. For
    /// no record's manifest comes after the index was written for it. Gives whether `record` is
    /// new to it.
    ///
    /// # Errors
    /// The bucket's; [`ErrorKind::Conflict`] if other publishers undid every change. Without a
    /// `record`, or where there was no index, and once the index has all the others: for a record
    /// whose manifest is damaged the operator's; infrastructure's for one that ends in its middle.
    pub(super) async fn repair(&self, record: Option<Digest>, now: u64, cx: &CallContext) -> Result<Indexed> {
        let (mut indexed, mut is_made_anew) = (Indexed::Already, false);
        for turn in 0..MOVES {
            let (index, mode) = match self.reader.versioned(cx).await? {
                Some((index, version)) => (index, Mode::IfUnchanged(version)),
                None => (empty(), Mode::IfAbsent),
            };
            is_made_anew |= turn == 0 && mode == Mode::IfAbsent;
            let mode = if self.conditions == Conditions::Kept { mode } else { Mode::Always };
            let known: BTreeSet<_> =
                self.reader.entries_of(&index, cx).await?.iter().map(|entry| entry.record).collect();
            let (mut missing, mut damaged, mut begun) = (Vec::new(), None, None);
            for name in self.reader.bucket.folders("records", cx).await? {
                let Some(other) = name.parse().ok().filter(|record| !known.contains(record)) else {
                    continue;
                };
                if record == Some(other) {
                    indexed = Indexed::New;
                }
                match self.reader.manifest(other, cx).await {
                    Err(error) if error.kind() == ErrorKind::DataInvalid && record != Some(other) => {
                        if !self.reader.is_cut(other, cx).await? {
                            damaged.get_or_insert_with(|| unlisted(other, error));
                        } else if self.conditions == Conditions::Kept {
                            begun.get_or_insert_with(|| unfinished(other, error));
                        }
                        // Servers that know no conditions show and keep half of what is sent: the
                        // record's publisher comes here after it has sent the rest.
                    }
                    manifest => missing.extend(manifest?.map(|manifest| manifest.entry)),
                }
            }
            if missing.is_empty() {
                // What another record lacks is no failure of this one, once the index has it.
                let is_all = record.is_none() || is_made_anew;
                return damaged.or(begun).filter(|_| is_all).map_or(Ok(indexed), Err);
            }
            missing.sort_by_key(|entry| (entry.decided_at, entry.record.to_string()));
            let index = self.extended(index, missing, now, cx).await?;
            self.reader.bucket.write(INDEX, Content::Bytes(json(&index)?.into()), mode, cx).await?;
        }
        Err(Error::new(ErrorKind::Conflict, WRITE, "other publishers undo every change")
            .with_fault(crate::Fault::Infrastructure)
            .with_reach(crate::Reach::Call)
            .with_retry(crate::Retry::Backoff)
            .with_hint("publish to a server that keeps If-Match, or from one process alone"))
    }

    /// `index` with `entries` after its own; what is a full page goes into a page first.
    async fn extended(
        &self,
        mut index: Index,
        entries: impl IntoIterator<Item = IndexEntry>,
        now: u64,
        cx: &CallContext,
    ) -> Result<Index> {
        for entry in entries {
            if index.entries.len() >= PAGE {
                let rest = index.entries.split_off(PAGE);
                let page = IndexPage { format: FORMAT, entries: std::mem::replace(&mut index.entries, rest) };
                let bytes = Bytes::from(json(&page)?);
                let digest = Digest::of(&bytes);
                // Its name is the digest of its content: every writer wrote the same.
                self.reader.bucket.write(&page_name(digest), Content::Bytes(bytes), Mode::Always, cx).await?;
                index.pages.push(PageRef { page: digest, records: PAGE as u32 });
            }
            index.entries.push(entry);
            index.records += 1;
        }
        index.updated_at = index.updated_at.max(now);
        Ok(index)
    }
}

/// Whether `bytes` are the beginning of JSON, or of nothing.
fn breaks_off(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_err_and(|error| error.is_eof())
}

/// The index lacks `record`, because of `error` in its manifest.
fn unlisted(record: Digest, error: Error) -> Error {
    let message = format!("the index lacks a record whose manifest is damaged: {}", error.message());
    Error::new(ErrorKind::DataInvalid, WRITE, message)
        .with_fault(crate::Fault::Operator)
        .with_reach(crate::Reach::Call)
        .with_retry(crate::Retry::Never)
        .with("record", record)
        .with("object", RecordManifest::at(record))
        .with_hint(
            "remove this object and publish the record again (`albedo publish push`), then run `albedo publish retry`; \
             a validator tries it again when it starts",
        )
        .with_source(error)
}

/// The index lacks `record`, whose manifest ends in its middle: its publisher adds it once it has
/// sent the rest. The error names no record, since the same need not come of every try.
fn unfinished(record: Digest, error: Error) -> Error {
    let message = format!("the index lacks a record whose manifest is not whole: {}", error.message());
    Error::new(ErrorKind::DataInvalid, WRITE, message)
        .with_fault(crate::Fault::Infrastructure)
        .with_reach(crate::Reach::Call)
        .with_retry(crate::Retry::Backoff)
        .with("object", RecordManifest::at(record))
        .with_hint(
            "publish again in a minute; if it stays so, remove this object and publish its record again",
        )
        .with_source(error)
}

fn wrong_number() -> Error {
    damaged("it has another number of records than it states")
}

/// All that the index says is in the manifests too.
fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, message)
        .with("object", INDEX)
        .with_hint("remove this object: the next publication makes the index again from the records")
}

fn empty() -> Index {
    Index { format: FORMAT, updated_at: 0, records: 0, pages: Vec::new(), entries: Vec::new() }
}
