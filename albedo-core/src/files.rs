//! A model's files: a listing with ranged reads, wherever they are.

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// A listing of a model's files and ranged reads of them, so that headers and
/// small files can be inspected before gigabytes are fetched.
#[async_trait]
pub trait ModelFiles: Debug + Send + Sync + 'static {
    /// What the listing stands for. A hub's own listing is
    /// [`Provenance::Published`]; in doubt it is a copy.
    fn provenance(&self) -> Provenance {
        Provenance::Copy
    }

    /// All files, in byte order of their names.
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>>;

    /// Bytes `range` of file `name`, exactly that many.
    ///
    /// # Errors
    /// No such file; the range reaches past its end.
    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>>;
}

/// What the names and sizes of a listing stand for, and so whose fault a file
/// is that is missing or ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// What the contestant handed in, as the store that holds it says: a file
    /// that is cut short was handed in so.
    Published,
    /// A copy of ours, which a download may have left incomplete.
    Copy,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the model's root, `/` between parts.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

#[cfg(test)]
pub(crate) mod memory;
