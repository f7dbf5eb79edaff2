//! A hub's files, read where they are until they are held.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::{
    CallContext, Digest, Error, ErrorKind, Fault, FileEntry, FilePart, ModelFiles, Provenance, Result, Retry,
};
use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{Cache, Held};
use crate::files::FolderFiles;

const PROVE: &str = "prove what was read of a model";

/// Ranges that are remembered of a model. Screens read a few per file.
const MOST_RANGES: usize = 1 << 16;

/// Files of up to this size are read whole to prove a range of them.
const SMALL: u64 = 32 << 20;

/// The files of a hub with a place in a cache: read by ranges at the hub first, and
/// from the cache once they are held ([`ModelFiles::hold`]).
///
/// What was read at the hub is remembered by its digest and compared with the bytes
/// that are held or proven: a hub may answer differently twice.
#[derive(Debug)]
pub struct CachedFiles {
    hub: Arc<dyn ModelFiles>,
    cache: Cache,
    name: String,
    seen: Mutex<BTreeMap<(String, u64, u64), Digest>>,
    held: OnceCell<(FolderFiles, Held)>,
}

impl CachedFiles {
    /// The files that `hub` has under the reference `name`.
    pub fn new(hub: Arc<dyn ModelFiles>, cache: Cache, name: impl Into<String>) -> Self {
        Self { hub, cache, name: name.into(), seen: Mutex::default(), held: OnceCell::new() }
    }

    /// The model in the cache, brought there if it is not.
    ///
    /// # Errors
    /// As [`Cache::hold`]; [`ErrorKind::DigestMismatch`], infrastructure's, if a range
    /// that was read before had other bytes.
    pub async fn bring(&self, cx: &CallContext) -> Result<&Held> {
        let held = self.held.get_or_try_init(|| async {
            let held = self.cache.hold(&self.name, &*self.hub, cx).await;
            let held = held.map_err(|error| error.with("model", &self.name))?;
            let folder = FolderFiles::new(held.folder()).published();
            for ((name, start, end), digest) in self.seen() {
                let bytes = folder.read(&name, start..end, cx).await?;
                self.compare(&name, start..end, digest, &bytes)?;
            }
            Ok::<_, Error>((folder, held))
        });
        held.await.map(|(_, held)| held)
    }

    fn seen(&self) -> BTreeMap<(String, u64, u64), Digest> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn compare(&self, name: &str, range: Range<u64>, seen: Digest, bytes: &[u8]) -> Result<()> {
        if seen == Digest::of(bytes) {
            return Ok(());
        }
        let message = "the hub answered with other bytes before than those that have the listed digest";
        Err(Error::new(ErrorKind::DigestMismatch, PROVE, message)
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with("model", &self.name)
            .with("file", name)
            .with("range", format!("{}..{}", range.start, range.end))
            .with_hint("screen the model again"))
    }

    /// Reads where the model is published.
    async fn at_hub(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        self.hub.read(name, range, cx).await.map_err(|error| error.with("model", &self.name))
    }

    /// Compares one range with bytes that have a digest of the listing; `false` if
    /// only the whole large file has one.
    async fn proven(
        &self,
        entry: &FileEntry,
        range: Range<u64>,
        seen: Digest,
        cx: &CallContext,
    ) -> Result<bool> {
        let parts = self.hub.parts(&entry.name, cx).await?;
        let covering = if parts.is_empty() {
            if entry.size > SMALL {
                return Ok(false);
            }
            0..entry.size
        } else {
            covering(&parts, &range)
        };
        let mut bytes = Vec::new();
        if parts.is_empty() {
            bytes = self.at_hub(&entry.name, covering.clone(), cx).await?;
            if entry.sha256 != Some(Digest::of(&bytes)) {
                let message = "the bytes are not those that the listing vouches for";
                return Err(Error::new(ErrorKind::DigestMismatch, PROVE, message)
                    .with_fault(Fault::Infrastructure)
                    .with_retry(Retry::Backoff)
                    .with("model", &self.name)
                    .with("file", &entry.name));
            }
        } else {
            let mut at = 0;
            for part in parts {
                let one = at..at + part.size;
                at = one.end;
                if covering.start <= one.start && one.end <= covering.end {
                    // Exactly one part: the hub has compared its digest.
                    bytes.extend(self.at_hub(&entry.name, one, cx).await?);
                }
            }
        }
        let (from, to) = (range.start - covering.start, range.end - covering.start);
        self.compare(&entry.name, range, seen, &bytes[from as usize..to as usize])?;
        Ok(true)
    }
}

/// The whole parts that `range` touches.
fn covering(parts: &[FilePart], range: &Range<u64>) -> Range<u64> {
    let (mut at, mut covering) = (0, range.clone());
    for part in parts {
        let end = at + part.size;
        if at <= range.start && range.start < end {
            covering.start = at;
        }
        if at < range.end && range.end <= end {
            covering.end = end;
        }
        at = end;
    }
    covering
}

#[async_trait]
impl ModelFiles for CachedFiles {
    fn provenance(&self) -> Provenance {
        self.hub.provenance()
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        self.hub.list(cx).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        if let Some((folder, _)) = self.held.get() {
            return folder.read(name, range, cx).await;
        }
        let bytes = self.at_hub(name, range.clone(), cx).await?;
        if range.start < range.end {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (name.to_owned(), range.start, range.end);
            if seen.len() < MOST_RANGES || seen.contains_key(&key) {
                let digest = Digest::of(&bytes);
                let before = *seen.entry(key).or_insert(digest);
                drop(seen);
                self.compare(name, range, before, &bytes)?;
            } else {
                return Err(Error::new(ErrorKind::ResourceExhausted, PROVE, "too many ranges were read")
                    .with("model", &self.name)
                    .with("most", MOST_RANGES)
                    .with_hint("hold the model before it is read in many pieces"));
            }
        }
        Ok(bytes)
    }

    async fn parts(&self, name: &str, cx: &CallContext) -> Result<Vec<FilePart>> {
        self.hub.parts(name, cx).await
    }

    async fn present(&self, cx: &CallContext) -> Result<()> {
        if self.held.initialized() {
            return Ok(());
        }
        self.hub.present(cx).await.map_err(|error| error.with("model", &self.name))
    }

    async fn prove(&self, cx: &CallContext) -> Result<()> {
        if self.held.initialized() {
            return Ok(());
        }
        self.hub.prove(cx).await?;
        let listed = self.hub.list(cx).await?;
        for ((name, start, end), digest) in self.seen() {
            let Some(entry) = listed.iter().find(|entry| entry.name == name) else { continue };
            if !self.proven(entry, start..end, digest, cx).await? {
                return self.bring(cx).await.map(|_| ());
            }
        }
        Ok(())
    }

    async fn hold(&self, cx: &CallContext) -> Result<()> {
        self.bring(cx).await.map(|_| ())
    }
}
