//! The files of a resolved model, read at the hub by ranges.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::{
    CallContext, Digest, Error, ErrorKind, Fault, FileEntry, FilePart, ModelFiles, Provenance, Result,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::remote::{READ, Remote, transient};

/// The beginning of a file is read in one request, since what needs a header reads
/// its length first.
const HEAD: u64 = 1 << 20;

/// Heads that are kept in memory.
const MOST_HEADS: usize = 64;

/// Objects that a hub is asked for at the same time. Source: chosen by albedo.
const ASKED_AT_ONCE: usize = 8;

/// What a hub stores under a key: a digest, or a path.
#[async_trait]
pub(super) trait Objects: Debug + Send + Sync + 'static {
    /// Bytes `range`, of which there is at least one, of the object `key`, which has
    /// `size` bytes, from one request.
    async fn get(&self, key: &str, range: Range<u64>, size: u64, cx: &CallContext) -> Result<Vec<u8>>;

    fn remote(&self) -> &Remote;
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// One object.
    Whole { key: String },
    /// Ranges of objects, in order, each with a digest of its own.
    Chunked(Arc<[Chunk]>),
    /// Here.
    Here(Bytes),
}

#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) sha256: Digest,
    /// Place in the file.
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) key: String,
    /// Place in the object, and the object's size.
    pub(super) offset: u64,
    pub(super) object: u64,
}

/// Files by name, each with its digest.
#[derive(Debug)]
pub(super) struct RemoteFiles {
    objects: Arc<dyn Objects>,
    files: BTreeMap<String, (FileEntry, Source)>,
    heads: Mutex<BTreeMap<String, Bytes>>,
}

impl RemoteFiles {
    pub(super) fn new(objects: Arc<dyn Objects>, files: Vec<(FileEntry, Source)>) -> Self {
        let files = files.into_iter().map(|file| (file.0.name.clone(), file)).collect();
        Self { objects, files, heads: Mutex::default() }
    }

    fn file(&self, name: &str) -> Result<&(FileEntry, Source)> {
        self.files.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, READ, "the name is not one of the listing").with("file", name)
        })
    }

    /// Reads the first byte of the object `key`, which has `size` bytes.
    async fn ask_for(&self, key: String, size: u64, cx: &CallContext) -> Result<()> {
        let first = proven(&*self.objects, &key, 0..1, size, has(None), cx).await;
        first.map(drop).map_err(|error| error.with("object", key))
    }

    async fn bytes(
        &self,
        entry: &FileEntry,
        source: &Source,
        range: Range<u64>,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        match source {
            Source::Here(bytes) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
            Source::Whole { key } => {
                let digest = entry.sha256.filter(|_| range.start == 0 && range.end == entry.size);
                proven(&*self.objects, key, range, entry.size, has(digest), cx).await
            }
            Source::Chunked(chunks) => {
                let first = chunks.partition_point(|chunk| chunk.start + chunk.size <= range.start);
                let mut bytes = Vec::new();
                for chunk in chunks[first..].iter().take_while(|chunk| chunk.start < range.end) {
                    let place = chunk.offset..chunk.offset + chunk.size;
                    let check = has(Some(chunk.sha256));
                    let whole = proven(&*self.objects, &chunk.key, place, chunk.object, check, cx).await?;
                    if range == (chunk.start..chunk.start + chunk.size) {
                        return Ok(whole);
                    }
                    let from = range.start.saturating_sub(chunk.start);
                    let to = (range.end - chunk.start).min(chunk.size);
                    bytes.extend_from_slice(&whole[from as usize..to as usize]);
                }
                Ok(bytes)
            }
        }
    }
}

/// Bytes `range` of an object, asked for again where that may help, also if `check`
/// refuses them.
pub(super) async fn proven(
    objects: &dyn Objects,
    key: &str,
    range: Range<u64>,
    size: u64,
    check: impl Fn(&[u8]) -> Result<()> + Sync,
    cx: &CallContext,
) -> Result<Vec<u8>> {
    let read = || async {
        let bytes = if range.is_empty() {
            Vec::new()
        } else {
            objects.get(key, range.clone(), size, cx).await.map_err(lost)?
        };
        check(&bytes)?;
        Ok(bytes)
    };
    objects.remote().retried(READ, cx, read).await
}

/// Bytes with the digest `listed`; any, if there is none.
pub(super) fn has(listed: Option<Digest>) -> impl Fn(&[u8]) -> Result<()> + Sync {
    move |bytes| match listed {
        Some(listed) => {
            let found = Digest::of(bytes);
            if found == listed { Ok(()) } else { Err(other_bytes(listed, found)) }
        }
        None => Ok(()),
    }
}

/// The hub's bytes are not those that were listed.
pub(super) fn other_bytes(listed: impl Display, found: impl Display) -> Error {
    transient(ErrorKind::DigestMismatch, READ, "the bytes are not those that have the listed digest")
        .with("listed", listed)
        .with("found", found)
}

/// What a listing names was there: a hub that does not find it may find it later. An error that
/// may be tried again is the hub's own word that it does not have it, and stays an absence.
fn lost(error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound || error.is_retryable() {
        return error;
    }
    transient(ErrorKind::Unavailable, READ, error.message().to_owned())
        .with_hint("try again; the hub has lost a file of the model, or does not show it")
}

#[async_trait]
impl ModelFiles for RemoteFiles {
    fn provenance(&self) -> Provenance {
        Provenance::Published
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        cx.check("list a model's files at its hub")?;
        Ok(self.files.values().map(|(entry, _)| entry.clone()).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        let (entry, source) = self.file(name)?;
        if range.start > range.end || range.end > entry.size {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                READ,
                "the range reaches past the end of the file",
            )
            .with_fault(Fault::Infrastructure)
            .with("file", name)
            .with("range", format!("{}..{}", range.start, range.end))
            .with("size", entry.size));
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let head = entry.size.min(HEAD);
        let whole = range == (0..entry.size);
        let read = async {
            if range.end > head || whole || matches!(source, Source::Here(_)) {
                return self.bytes(entry, source, range.clone(), cx).await;
            }
            let kept = self.heads.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
            let bytes = if let Some(bytes) = kept {
                bytes
            } else {
                let bytes = Bytes::from(self.bytes(entry, source, 0..head, cx).await?);
                let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
                if heads.len() < MOST_HEADS {
                    heads.insert(name.to_owned(), bytes.clone());
                }
                bytes
            };
            Ok(bytes[range.start as usize..range.end as usize].to_vec())
        };
        read.await.map_err(|error| error.with("file", name))
    }

    async fn parts(&self, name: &str, _: &CallContext) -> Result<Vec<FilePart>> {
        Ok(match &self.file(name)?.1 {
            Source::Chunked(chunks) => {
                chunks.iter().map(|chunk| FilePart { size: chunk.size, sha256: chunk.sha256 }).collect()
            }
            Source::Whole { .. } | Source::Here(_) => Vec::new(),
        })
    }

    async fn present(&self, cx: &CallContext) -> Result<()> {
        // Each object once, however many files it is of.
        let mut objects = BTreeMap::<String, u64>::new();
        for (entry, source) in self.files.values() {
            match source {
                Source::Whole { key } => {
                    objects.insert(key.clone(), entry.size);
                }
                Source::Chunked(chunks) => {
                    objects.extend(chunks.iter().map(|chunk| (chunk.key.clone(), chunk.object)));
                }
                Source::Here(_) => {}
            }
        }
        objects.retain(|_, size| *size > 0);
        stream::iter(objects)
            .map(|(key, size)| self.ask_for(key, size, cx))
            .buffer_unordered(ASKED_AT_ONCE)
            .try_collect::<()>()
            .await
    }
}
