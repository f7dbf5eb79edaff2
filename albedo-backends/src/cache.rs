//! Models on this machine: files by content digest, shared by all processes of a
//! user, under a quota.
//!
//! ```text
//! blobs/{sha256}          the bytes of a file, complete and verified
//! partial/{sha256}        a file that is being downloaded; its length is how far it is
//! models/{id}/            a model's files, links to blobs
//! models/{id}.json        the completion marker, written last: the model is there
//! models/{id}.lease       locked while a process uses the model; its time is the last use
//! models/{id}.part/       links that keep the blobs of a model that is not complete yet
//! keep/{label}.json       a model that stays although no process uses it: the king
//! limits.json             quota and free space ([`CacheLimits`])
//! ```
//!
//! A model is what its marker says, so a folder with `config.json` alone is none. The
//! model that was used longest ago goes first when space is needed. A model that a
//! process holds ([`Held`]) or that is kept ([`Cache::keep`]) never goes.
//!
//! Processes share a cache through file locks, which end with their process. The
//! folder must be on one local file system with hard links.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use albedo_core::{
    BuildContext, CallContext, Clock, Error, EventKind, FileEntry, ModelFiles, Result, SystemClock,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

mod check;
mod download;
mod files;
mod store;

#[cfg(feature = "hubs")]
pub(crate) use check::name as file_name;
pub use files::CachedFiles;
use store::{Begun, Claim, Store};

pub(crate) const HOLD: &str = "bring a model into the cache";

/// Files of one model that are downloaded at the same time.
const FILES_AT_ONCE: usize = 2;

/// How often a process looks whether another one has finished a file that both need.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A cache of models; see the [module](self). Methods that are not `async` block on
/// the disk.
///
/// ```
/// use albedo_backends::cache::{Cache, CacheLimits};
///
/// # fn main() -> albedo_core::Result<()> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let folder = folder.path();
/// let cache = Cache::new(folder);
/// cache.set_limits(CacheLimits { quota: Some(200 << 30), keep_free: 20 << 30 })?;
/// assert!(cache.list()?.is_empty());
/// assert_eq!(cache.collect()?.bytes, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cache {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
}

/// How much a cache may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheLimits {
    /// Most bytes of blobs and downloads together; no limit if absent.
    pub quota: Option<u64>,
    /// Bytes of the file system that stay free.
    pub keep_free: u64,
}

impl Default for CacheLimits {
    /// No quota; 2 GiB stay free. Source: chosen by albedo.
    fn default() -> Self {
        Self { quota: None, keep_free: 2 << 30 }
    }
}

/// A model in the cache that cannot go while this value lives.
#[derive(Debug)]
pub struct Held {
    folder: PathBuf,
    files: Vec<FileEntry>,
    lease: File,
}

impl Held {
    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its files, in byte order of their names, each with its digest.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The folder, held until the process ends: for a program that runs one duel.
    pub fn for_process(self) -> PathBuf {
        // The system ends the lock with the process.
        std::mem::forget(self.lease);
        self.folder
    }
}

/// A model of a cache, as [`Cache::list`] tells.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CachedModel {
    /// Its reference.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Files.
    pub files: usize,
    /// Bytes, those shared with other models included.
    pub bytes: u64,
    /// Seconds since it was used last.
    pub idle_s: u64,
    /// Whether a process uses it now.
    pub in_use: bool,
    /// The labels that it is kept under.
    pub kept: Vec<String>,
}

/// What [`Cache::collect`] removed, and what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// References of the models that were removed.
    pub models: Vec<String>,
    /// Bytes that were freed.
    pub freed: u64,
    /// Bytes of the cache now.
    pub bytes: u64,
}

/// What [`Cache::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheCheck {
    /// Models that have every byte.
    pub sound: Vec<String>,
    /// Models with a file that is missing or has other bytes. They were removed
    /// unless a process uses them.
    pub damaged: Vec<String>,
}

impl Cache {
    /// The cache in `folder`, which is made when it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { store: Arc::new(Store::new(folder.into())), clock: Arc::new(SystemClock::default()) }
    }

    /// The cache in the folder that `cx` has for what can be had again.
    ///
    /// # Errors
    /// As [`BuildContext::cache_dir`].
    pub fn of(cx: &BuildContext<'_>) -> Result<Self> {
        Ok(Self::new(cx.cache_dir()?).with_clock(Arc::clone(cx.clock())))
    }

    /// The same, waiting by `clock`.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// How much it may take.
    ///
    /// # Errors
    /// The operator's: its `limits.json` is malformed.
    pub fn limits(&self) -> Result<CacheLimits> {
        self.store.limits()
    }

    /// Sets how much it may take, for every process. Nothing is removed before space
    /// is needed or [`Cache::collect`] is called.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_limits(&self, limits: CacheLimits) -> Result<()> {
        self.store.set_limits(limits)
    }

    /// Brings all of `files` into the cache under `name` and holds them. What is there
    /// already is not downloaded again, whichever model or process brought it, and a
    /// download that was interrupted goes on where it stopped. Space is reserved before
    /// the first byte. Emits how many bytes are there.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`](albedo_core::ErrorKind::DigestMismatch),
    /// infrastructure's, for bytes that are not those of the listing, read three times;
    /// [`ErrorKind::DataInvalid`](albedo_core::ErrorKind::DataInvalid), about the model,
    /// if parts that have their digests are together another file than its own listing
    /// says; infrastructure's for a listing that does not vouch for a file or whose names
    /// leave the folder; [`ErrorKind::ResourceExhausted`](albedo_core::ErrorKind::ResourceExhausted)
    /// without enough space; what `files` and the disk meet. Nothing of the model is
    /// visible then.
    pub async fn hold(&self, name: &str, files: &dyn ModelFiles, cx: &CallContext) -> Result<Held> {
        let entries = match self.held(name, cx).await? {
            Some(held) => return Ok(held),
            None => files.list(cx).await?,
        };
        check::listing(&entries)?;
        let begun = {
            let (store, name, entries) = (Arc::clone(&self.store), name.to_owned(), entries.clone());
            blocking(cx, move || store.begin(&name, &entries)).await?
        };
        let (lease, claimed, busy) = match begun {
            Begun::Complete(held) => return Ok(held),
            Begun::Missing { lease, claimed, busy } => (lease, claimed, busy),
        };
        let total = bytes_of(&entries);
        let missing = bytes_of(claimed.iter().map(|(entry, _)| entry).chain(&busy));
        let progress = Progress { name, done: AtomicU64::new(total.saturating_sub(missing)), total, cx };
        // What this process has claimed comes first, so that two that wait for each
        // other's files both get on.
        stream::iter(claimed)
            .map(|(entry, partial)| self.download(name, files, entry, partial, &progress, cx))
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        for entry in busy {
            self.share(name, files, entry, &progress, cx).await?;
        }
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking(cx, move || store.commit(&name, entries, lease)).await
    }

    async fn download(
        &self,
        name: &str,
        files: &dyn ModelFiles,
        entry: FileEntry,
        partial: File,
        progress: &Progress<'_>,
        cx: &CallContext,
    ) -> Result<()> {
        let partial = download::complete(files, &entry, partial, progress, cx).await;
        let partial = partial.map_err(|error| error.with("file", &entry.name))?;
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking(cx, move || store.finish(&name, entry.sha256, &partial)).await
    }

    /// Waits for a file that another process downloads, and takes over if it stops.
    async fn share(
        &self,
        name: &str,
        files: &dyn ModelFiles,
        entry: FileEntry,
        progress: &Progress<'_>,
        cx: &CallContext,
    ) -> Result<()> {
        loop {
            let (store, model, wanted) = (Arc::clone(&self.store), name.to_owned(), entry.clone());
            match blocking(cx, move || store.claim(&model, &wanted)).await? {
                Claim::Present => {
                    progress.add(entry.size as i64);
                    return Ok(());
                }
                Claim::Mine(partial) => {
                    return self.download(name, files, entry, partial, progress, cx).await;
                }
                Claim::Busy => {
                    let until = self.clock.now() + LOOK_AGAIN;
                    cx.run(HOLD, self.clock.sleep_until(until)).await?;
                }
            }
        }
    }

    /// The model `name`, if it is complete in the cache; it counts as used now.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn held(&self, name: &str, cx: &CallContext) -> Result<Option<Held>> {
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking(cx, move || store.held(&name)).await
    }

    /// The complete models, the one used longest ago first.
    ///
    /// # Errors
    /// The operating system's.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        self.store.list(SystemTime::now())
    }

    /// Keeps the model `name` under `label` (`king`, `next`) although no process uses
    /// it, in place of the one that the label kept before.
    ///
    /// # Errors
    /// The operating system's; a label that is no plain word.
    pub fn keep(&self, label: &str, name: &str) -> Result<()> {
        self.store.keep(label, Some(name))
    }

    /// Ends what [`Cache::keep`] began.
    ///
    /// # Errors
    /// As [`Cache::keep`].
    pub fn release(&self, label: &str) -> Result<()> {
        self.store.keep(label, None)
    }

    /// Removes what interrupted processes left, blobs that no model has, and models,
    /// the one used longest ago first, until the limits are met.
    ///
    /// # Errors
    /// The operating system's.
    pub fn collect(&self) -> Result<Collected> {
        self.store.collect()
    }

    /// Reads every byte of every model and compares its digest. Removes what is
    /// damaged and not in use.
    ///
    /// # Errors
    /// The operating system's; `cx`.
    pub fn verify(&self, cx: &CallContext) -> Result<CacheCheck> {
        self.store.verify(cx)
    }
}

/// How much of a model is there.
struct Progress<'a> {
    name: &'a str,
    done: AtomicU64,
    total: u64,
    cx: &'a CallContext,
}

impl Progress<'_> {
    /// So many bytes came, or, if they are fewer than none, have to come again.
    fn add(&self, bytes: i64) {
        let before = self.done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |done| {
            Some(done.saturating_add_signed(bytes))
        });
        let done = before.unwrap_or_default().saturating_add_signed(bytes);
        self.cx.emit(EventKind::download(self.name, done, self.total));
    }
}

/// The bytes of `files` together; a listing may say any sizes.
fn bytes_of<'a>(files: impl IntoIterator<Item = &'a FileEntry>) -> u64 {
    files.into_iter().map(|file| file.size).fold(0, u64::saturating_add)
}

async fn blocking<T: Send + 'static>(
    cx: &CallContext,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = cx.run(HOLD, tokio::task::spawn_blocking(work)).await?;
    done.map_err(|error| Error::bug(HOLD, error.to_string()))?
}

#[cfg(test)]
mod tests;
