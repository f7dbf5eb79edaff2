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
    /// All files, in byte order of their names.
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>>;

    /// Bytes `range` of file `name`, exactly that many.
    ///
    /// # Errors
    /// No such file; the range reaches past its end.
    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>>;
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the model's root, `/` between parts.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}
