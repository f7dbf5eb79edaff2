//! A bucket for tests that may be away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Bucket, Content, Mode, Object, Written};
use crate::{CallContext, Error, ErrorKind, Result};

/// A bucket that may be away, and counts the requests that it does not answer.
#[derive(Debug)]
pub(crate) struct Away {
    inner: Arc<dyn Bucket>,
    gone: AtomicBool,
    refused: AtomicU64,
}

impl Away {
    pub(crate) fn new(inner: Arc<dyn Bucket>) -> Self {
        Self { inner, gone: AtomicBool::new(false), refused: AtomicU64::new(0) }
    }

    /// Has it answer nothing from now on, or everything.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.gone.store(is_away, Ordering::Relaxed);
    }

    /// How many requests it has not answered.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn bucket(&self) -> Result<&dyn Bucket> {
        if self.gone.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Unavailable, "ask", "the server is away"));
        }
        Ok(&*self.inner)
    }
}

#[async_trait]
impl Bucket for Away {
    fn place(&self) -> String {
        "away".into()
    }

    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        self.bucket()?.read(name, most, cx).await
    }

    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes> {
        self.bucket()?.read_range(name, start, end, cx).await
    }

    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>> {
        self.bucket()?.size(name, cx).await
    }

    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written> {
        self.bucket()?.write(name, content, mode, cx).await
    }

    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>> {
        self.bucket()?.folders(folder, cx).await
    }
}
