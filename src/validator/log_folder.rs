//! The log of duels in its folder: made from the ledger, which has every entry first.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::ledger::Ledger;
use super::models::blocking;
use crate::log::{Entry, FolderLog, Log};
use crate::publish::LogSource;
use crate::{CallContext, Error, Fault, Result, Signer};

const OPERATION: &str = "write the log of duels";

/// The folder and what signs its heads.
#[derive(Debug)]
pub(super) struct LogFolder {
    folder: PathBuf,
    origin: String,
    source: LogSource,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl LogFolder {
    /// The log in `folder`, which is begun under the name `origin`.
    pub(super) fn new(folder: PathBuf, origin: String, signer: Arc<dyn Signer>) -> Self {
        let source = LogSource::new(folder.clone(), signer, Some(origin.clone()));
        Self { folder, origin, source, writing: Mutex::default() }
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn source(&self) -> &LogSource {
        &self.source
    }

    /// Appends what the folder lacks, has the new head signed, and keeps it in the ledger.
    /// Killed in between, the next call goes on: entries are in the ledger first, and a
    /// folder that has some of them gets the rest.
    ///
    /// # Errors
    /// A bug: the folder has entries that the ledger does not have. What the disk meets.
    pub(super) async fn write(&self, ledger: &Ledger, now_ms: u64, cx: &CallContext) -> Result<()> {
        let _writing = self.writing.lock().await;
        let size = ledger.log_size().await?;
        if ledger.signed().await? == size && (size > 0 || self.folder.exists()) {
            return Ok(());
        }
        let there = self.there(ledger, cx).await?;
        let entries = ledger.log_entries(there).await?;
        let source = self.source.clone();
        let head = blocking(OPERATION, move || {
            let mut writer = source.open()?;
            // Another process may have appended since.
            let written = writer.head().size.saturating_sub(there) as usize;
            Ok(writer.append(entries.get(written..).unwrap_or_default())?.clone())
        });
        ledger.keep_head(&head.await?, now_ms).await
    }

    /// How many entries the folder has, which are the ledger's. A head that the ledger has kept
    /// covers its entries: they are compared one by one only where the folder has another head,
    /// as after a crash or a restored copy.
    async fn there(&self, ledger: &Ledger, cx: &CallContext) -> Result<u64> {
        if !self.folder.join("checkpoint").exists() {
            return Ok(0);
        }
        let log = Log::open(Arc::new(FolderLog::new(&self.folder)), Some(&self.source.key()), cx).await?;
        let size = log.head().size;
        let kept = ledger.head_of(size).await?;
        if kept.is_some_and(|kept| kept.root == log.head().root) && ledger.log_size().await? >= size {
            return Ok(size);
        }
        let there = log.entries(cx).await?;
        let entries = ledger.log_entries(0).await?;
        let ours: Vec<_> = entries.iter().map(Entry::to_bytes).collect::<Result<_>>()?;
        if ours.starts_with(&there) {
            return Ok(size);
        }
        Err(Error::bug(OPERATION, "the log's folder has entries that the ledger does not have")
            .with_fault(Fault::Bug)
            .with("folder", self.folder.display())
            .with("entries in the folder", there.len())
            .with("entries in the ledger", ours.len())
            .with_hint("an old copy of the ledger was restored: restore the newest, a log has one history"))
    }
}
