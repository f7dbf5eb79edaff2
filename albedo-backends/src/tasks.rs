//! Pinned tasks in parquet files: a folder with `manifest.json` and shards.
//!
//! The manifest pins the shards by SHA-256, and is itself pinned by the SHA-256
//! of its bytes, which goes into the plan:
//!
//! ```json
//! {"shards": [{"name": "data/a.parquet", "rows": 100, "bytes": 95612, "sha256": "72…"}], "total_rows": 100}
//! ```
//!
//! `path` may stand for `name`; `bytes` may be left out; so may `sha256` where
//! [`ParquetTasksConfig::allow_unhashed`] is set. A shard is looked for at its
//! name below the folder, then at the last part of its name.
//!
//! Shards have the columns `instance_id` and `repo`, strings, and `messages`, a
//! list of structures with the strings `role` and `content`; nothing is null.
//!
//! With [`ParquetTasksConfig::from`] (feature `hubs`) a shard that is in neither place is
//! fetched when a draw needs it, compared with the manifest's SHA-256, and kept in the
//! [cache](crate::cache) under its quota. [`build_manifest`] makes the manifest of such a
//! data set, whose shards stay where they are.
//!
//! Each shard is hashed once, when a row of it is first read. `.verified/`
//! beside the manifest remembers size, times, inode and digest, so that the
//! next process need not hash it again: this notices what happens to files, not
//! somebody who may write in that folder and means to deceive. Of a shard, one
//! row group's columns are read up to the row; only a few footers are kept.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::files::open_file;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Fault, Plugin, Result, TaskRow,
    TaskSetInfo, TaskSource,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cache::Held;

mod build;
mod manifest;
#[cfg(feature = "hubs")]
mod origin;
mod shard;
mod verify;
mod write;

pub use build::build_manifest;
pub use manifest::{Manifest, ShardEntry};
use shard::Shard;
use verify::Stamp;
pub use write::write_tasks;

/// Open shards kept, with their footers.
const OPEN_SHARDS: usize = 16;

/// Longest manifest read, in bytes: a million shards.
const LONGEST_MANIFEST: u64 = 256 << 20;

const OPEN: &str = "open the tasks";
const READ: &str = "read a task";

/// Settings of [`ParquetTasks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetTasksConfig {
    /// Folder that holds `manifest.json`.
    pub path: PathBuf,
    /// Refuse a manifest whose bytes have another SHA-256.
    #[serde(default)]
    pub manifest: Option<Digest>,
    /// Accept shards that the manifest gives no digest of; the plan says so.
    #[serde(default)]
    pub allow_unhashed: bool,
    /// The data set that missing shards are fetched from when a draw needs them:
    /// `hf:datasets/owner/name@` and the 40 digits of a commit.
    #[cfg(feature = "hubs")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The settings of the hub of `from`.
    #[cfg(feature = "hubs")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<crate::hubs::hf::HfHubConfig>,
}

impl ParquetTasksConfig {
    /// The tasks in the folder `path`, unpinned, all of whose shards are there.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            manifest: None,
            allow_unhashed: false,
            #[cfg(feature = "hubs")]
            from: None,
            #[cfg(feature = "hubs")]
            hub: None,
        }
    }
}

/// Tasks in parquet files; see the [module](self).
#[derive(Clone)]
pub struct ParquetTasks(Arc<Set>);

/// A shard that is open: its place in the manifest, its rows, and what holds it in the
/// cache if it is there.
type Open = (usize, Arc<Shard>, Option<Arc<Held>>);

struct Set {
    folder: PathBuf,
    manifest: Manifest,
    /// What each shard's file was when it was verified; locked while it is.
    verified: Vec<Mutex<Option<Stamp>>>,
    /// The latest used last.
    open: Mutex<VecDeque<Open>>,
    #[cfg(feature = "hubs")]
    origin: Option<origin::Origin>,
}

impl ParquetTasks {
    /// Opens the tasks in `config.path`: reads the manifest, no shard.
    ///
    /// # Errors
    /// The operator's: no manifest there, one that is malformed or not the one
    /// pinned, shards without digests that were not allowed.
    pub async fn open(config: ParquetTasksConfig, cx: &CallContext) -> Result<Self> {
        blocking(OPEN, cx, move || Set::open(&config)).await.map(|set| Self(Arc::new(set)))
    }

    /// What the manifest pins, shard by shard.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Checks size, digest and footer of the shard at this place in the manifest, which
    /// is fetched first if it is missing and `fetch` is set.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a shard that is missing;
    /// [`ErrorKind::DigestMismatch`] or [`ErrorKind::DataInvalid`] for one that is not
    /// what the manifest pins; what fetching it meets.
    pub async fn check_shard(&self, index: usize, fetch: bool, cx: &CallContext) -> Result<()> {
        let held = if fetch { self.0.fetched(index, cx).await? } else { None };
        let (set, inner) = (Arc::clone(&self.0), cx.clone());
        blocking(READ, cx, move || set.open_shard(index, held.as_deref(), &inner).map(|_| ())).await
    }
}

impl ParquetTasks {
    /// As [`ParquetTasks::open`], also of tasks whose shards are fetched.
    ///
    /// # Errors
    /// As [`ParquetTasks::open`]; the hub's settings.
    pub async fn build_with(config: ParquetTasksConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let config = ParquetTasksConfig { path: cx.path(&config.path), ..config };
        #[cfg(feature = "hubs")]
        if let Some(from) = &config.from {
            let hub = config.hub.clone().unwrap_or_default();
            let origin = origin::Origin::new(from, &hub, cx)?;
            let set = blocking(OPEN, cx.call(), move || Set::open(&config)).await?;
            return Ok(Self(Arc::new(Set { origin: Some(origin), ..set })));
        }
        Self::open(config, cx.call()).await
    }
}

impl fmt::Debug for ParquetTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetTasks")
            .field("folder", &self.0.folder)
            .field("info", self.0.manifest.info())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TaskSource for ParquetTasks {
    fn info(&self) -> &TaskSetInfo {
        self.0.manifest.info()
    }

    async fn row(&self, row: u64, cx: &CallContext) -> Result<TaskRow> {
        let held = match self.0.manifest.locate(row) {
            Some((shard, _)) => self.0.fetched(shard, cx).await?,
            None => None,
        };
        let (set, inner) = (Arc::clone(&self.0), cx.clone());
        blocking(READ, cx, move || set.row(row, held, &inner)).await.map_err(|error| error.with("row", row))
    }
}

impl Plugin<dyn TaskSource> for ParquetTasks {
    const NAME: &'static str = "parquet";
    const SUMMARY: &'static str = "Recorded trajectories in parquet shards pinned by a manifest";
    type Config = ParquetTasksConfig;
    type Checked = ParquetTasksConfig;

    fn check(config: ParquetTasksConfig, _: &CheckContext<'_>) -> Result<ParquetTasksConfig> {
        if config.path.as_os_str().is_empty() {
            let operation = format!("check the settings of tasks `{}`", Self::NAME);
            return Err(
                Error::new(ErrorKind::ConfigInvalid, operation, "`path` is empty").with("key", "path")
            );
        }
        #[cfg(feature = "hubs")]
        match &config.from {
            Some(from) => {
                from.parse::<crate::hubs::hf::DataSetRef>().map_err(|error| error.with("key", "from"))?;
            }
            None if config.hub.is_some() => {
                let operation = format!("check the settings of tasks `{}`", Self::NAME);
                return Err(Error::new(ErrorKind::ConfigInvalid, operation, "nothing is fetched from a hub")
                    .with("key", "hub")
                    .with_hint("set `from`, or leave `hub` out"));
            }
            None => {}
        }
        Ok(config)
    }

    async fn build(config: ParquetTasksConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn TaskSource>> {
        Ok(Arc::new(Self::build_with(config, cx).await?))
    }
}

albedo_core::register!(dyn TaskSource => ParquetTasks);

impl Set {
    fn open(config: &ParquetTasksConfig) -> Result<Self> {
        let path = config.path.join("manifest.json");
        let bytes = read_manifest(&path)?;
        let found = Digest::of(&bytes);
        if let Some(expected) = config.manifest.filter(|&expected| expected != found) {
            return Err(Error::new(ErrorKind::DigestMismatch, OPEN, "the manifest is not the one pinned")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with("expected", expected)
                .with("found", found)
                .with_hint("fetch the tasks again, or pin this manifest"));
        }
        let manifest = Manifest::parse(&bytes).map_err(|error| error.with("path", path.display()))?;
        let unhashed = manifest.shards().iter().find(|shard| shard.sha256.is_none());
        if let (Some(shard), false) = (unhashed, config.allow_unhashed) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                OPEN,
                "the manifest gives no sha256 of a shard",
            )
            .with("path", path.display())
            .with("shard", &shard.name)
            .with_hint("use a manifest with digests, or set `allow_unhashed`, which the plan will show"));
        }
        Ok(Self {
            folder: config.path.clone(),
            verified: manifest.shards().iter().map(|_| Mutex::default()).collect(),
            manifest,
            open: Mutex::default(),
            #[cfg(feature = "hubs")]
            origin: None,
        })
    }

    /// Brings the shard into the cache, if it is not in the folder and there is a hub to
    /// fetch it from.
    #[cfg(feature = "hubs")]
    async fn fetched(&self, index: usize, cx: &CallContext) -> Result<Option<Arc<Held>>> {
        let Some(origin) = &self.origin else { return Ok(None) };
        {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, _, held)) = open.iter().find(|(other, ..)| *other == index) {
                return Ok(held.clone());
            }
        }
        let entry = &self.manifest.shards()[index];
        match self.find(entry, None) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Some(Arc::new(origin.shard(entry, cx).await?)))
            }
            found => found.map(|_| None),
        }
    }

    #[cfg(not(feature = "hubs"))]
    #[expect(clippy::unused_async, reason = "with hubs it fetches")]
    async fn fetched(&self, _: usize, _: &CallContext) -> Result<Option<Arc<Held>>> {
        Ok(None)
    }

    fn row(&self, row: u64, held: Option<Arc<Held>>, cx: &CallContext) -> Result<TaskRow> {
        let (shard, place) = self.manifest.locate(row).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, READ, "there is no such row")
                .with("rows", self.manifest.info().rows)
        })?;
        self.shard(shard, held, cx)?.row(place)
    }

    fn shard(&self, index: usize, held: Option<Arc<Held>>, cx: &CallContext) -> Result<Arc<Shard>> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let mut open = open();
            let place = open.iter().position(|(other, ..)| *other == index);
            place.and_then(|place| open.remove(place))
        };
        let shard = match kept {
            Some((_, shard, _)) if shard.is_unchanged()? => shard,
            _ => Arc::new(self.open_shard(index, held.as_deref(), cx)?),
        };
        let mut open = open();
        open.retain(|(other, ..)| *other != index);
        open.push_back((index, Arc::clone(&shard), held));
        if open.len() > OPEN_SHARDS {
            open.pop_front();
        }
        Ok(shard)
    }

    fn open_shard(&self, index: usize, held: Option<&Held>, cx: &CallContext) -> Result<Shard> {
        let shards = self.manifest.shards();
        let missing = || Error::new(ErrorKind::NotFound, READ, "there is no such shard");
        let entry = shards.get(index).ok_or_else(|| missing().with("shards", shards.len()))?;
        let (file, path) = self.find(entry, held)?;
        let stamp = Stamp::of(&file, &path)?;
        let mut verified = self.verified[index].lock().unwrap_or_else(PoisonError::into_inner);
        if *verified != Some(stamp) {
            verify::verify(entry, &self.folder.join(".verified"), &file, &path, stamp, cx)?;
            *verified = Some(stamp);
        }
        drop(verified);
        Shard::open(entry, file, path, stamp)
    }

    /// The shard's file where it is held, else at its name, else at the last part of
    /// its name.
    fn find(&self, entry: &ShardEntry, held: Option<&Held>) -> Result<(File, PathBuf)> {
        if let Some(held) = held {
            let path = held.folder().join(&entry.name);
            return Ok((open_file(READ, &path)?, path));
        }
        let path = self.folder.join(&entry.name);
        let base = Path::new(&entry.name).file_name().map(|base| self.folder.join(base));
        let failed = |error: Error| {
            let error = error.with("shard", &entry.name);
            if error.kind() == ErrorKind::NotFound { error.with_hint("fetch the shard") } else { error }
        };
        match (open_file(READ, &path), base) {
            (Ok(file), _) => Ok((file, path)),
            (Err(error), Some(base)) if error.kind() == ErrorKind::NotFound => match open_file(READ, &base) {
                Ok(file) => Ok((file, base)),
                Err(_) => Err(failed(error)),
            },
            (Err(error), _) => Err(failed(error)),
        }
    }
}

fn read_manifest(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(OPEN, path)?
        .take(LONGEST_MANIFEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(OPEN, path, error))?;
    if bytes.len() as u64 > LONGEST_MANIFEST {
        return Err(Error::new(ErrorKind::DataInvalid, OPEN, "the manifest is too long")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with("most bytes", LONGEST_MANIFEST));
    }
    Ok(bytes)
}

/// Runs `work` on the blocking pool. The parquet reader may panic on bytes that
/// are not what they claim to be: that is the data's doing, and an error.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    cx: &CallContext,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    cx.run(operation, tokio::task::spawn_blocking(work)).await?.unwrap_or_else(|error| {
        if error.is_cancelled() {
            return Err(Error::cancelled(operation));
        }
        Err(Error::new(ErrorKind::DataInvalid, operation, format!("the data cannot be read: {error}"))
            .with_fault(Fault::Operator)
            .with_hint("fetch the tasks again"))
    })
}

#[cfg(test)]
mod tests;
