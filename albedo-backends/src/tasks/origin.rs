//! Shards that are fetched when a draw needs them.

use std::ops::Range;
use std::sync::Arc;

use albedo_core::{BuildContext, CallContext, Error, ErrorKind, FileEntry, ModelFiles, Result};
use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{READ, ShardEntry};
use crate::cache::{Cache, Held};
use crate::hubs::hf::{DataSetRef, HfHub, HfHubConfig};

/// A data set at a hub, and the cache that its shards go into.
#[derive(Debug)]
pub(super) struct Origin {
    reference: DataSetRef,
    hub: HfHub,
    cache: Cache,
    files: OnceCell<Arc<dyn ModelFiles>>,
}

impl Origin {
    /// The data set `reference`; no request is made yet.
    pub(super) fn new(reference: &str, hub: &HfHubConfig, cx: &BuildContext<'_>) -> Result<Self> {
        Ok(Self {
            reference: reference.parse().map_err(|error: Error| error.with("key", "from"))?,
            hub: HfHub::build_with(hub, cx)?,
            cache: Cache::of(cx)?,
            files: OnceCell::new(),
        })
    }

    /// The shard in the cache, fetched if it is not there, with the digest that the
    /// manifest pins. The hub's listing is not believed.
    ///
    /// # Errors
    /// As [`Cache::hold`]; the operator's for a shard without size or digest.
    pub(super) async fn shard(&self, shard: &ShardEntry, cx: &CallContext) -> Result<Held> {
        let (Some(bytes), Some(sha256)) = (shard.bytes, shard.sha256) else {
            let message = "a shard can be fetched only if the manifest has its bytes and sha256";
            return Err(Error::new(ErrorKind::ConfigInvalid, READ, message)
                .with("shard", &shard.name)
                .with_hint("make the manifest anew: `albedo tasks manifest`"));
        };
        let name = format!("{}/{}", self.reference, shard.name);
        if let Some(held) = self.cache.held(&name, cx).await? {
            return Ok(held);
        }
        let files = self.files.get_or_try_init(|| self.hub.data_set(&self.reference, cx)).await?;
        let entry = FileEntry::new(&shard.name, bytes).with_sha256(sha256);
        let held = self.cache.hold(&name, &One { files: Arc::clone(files), entry }, cx).await;
        held.map_err(|error| error.with("shard", &shard.name))
    }
}

/// One file of a listing, as the manifest pins it.
#[derive(Debug)]
struct One {
    files: Arc<dyn ModelFiles>,
    entry: FileEntry,
}

#[async_trait]
impl ModelFiles for One {
    async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
        Ok(vec![self.entry.clone()])
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        self.files.read(name, range, cx).await
    }
}
