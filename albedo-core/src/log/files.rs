//! Where a log's files are read from.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::files::read_bounded;
use crate::http::{HttpRequest, HttpTransport, StatusCode};

const OPERATION: &str = "read the log";

/// The static files of a log: a folder, a bucket or a web server.
#[async_trait]
pub trait LogFiles: Debug + Send + Sync + 'static {
    /// The bytes of the file at `path`, with `/` between its parts; `None` if there
    /// is none.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for a file of more than `most` bytes; whatever
    /// keeps it from being read.
    async fn read(&self, path: &str, most: u64, cx: &CallContext) -> Result<Option<Vec<u8>>>;
}

/// A log in a folder.
#[derive(Debug, Clone)]
pub struct FolderLog(PathBuf);

impl FolderLog {
    /// The log in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }
}

#[async_trait]
impl LogFiles for FolderLog {
    async fn read(&self, path: &str, most: u64, cx: &CallContext) -> Result<Option<Vec<u8>>> {
        cx.check(OPERATION)?;
        let path = self.0.join(path);
        let read = tokio::task::spawn_blocking(move || read_file(&path, most));
        read.await.map_err(|error| Error::bug(OPERATION, error.to_string()))?
    }
}

/// The bytes of a regular file; `None` if there is none.
pub(super) fn read_file(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    match read_bounded(OPERATION, path, most) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    }
}

/// A log that a web server has.
#[derive(Debug, Clone)]
pub struct HttpLog {
    transport: Arc<dyn HttpTransport>,
    address: String,
}

impl HttpLog {
    /// The log at `address`, without its last slash.
    pub fn new(transport: Arc<dyn HttpTransport>, address: impl Into<String>) -> Self {
        let mut address = address.into();
        address.truncate(address.trim_end_matches('/').len());
        Self { transport, address }
    }
}

#[async_trait]
impl LogFiles for HttpLog {
    async fn read(&self, path: &str, most: u64, cx: &CallContext) -> Result<Option<Vec<u8>>> {
        let url = format!("{}/{path}", self.address);
        let mut response = self.transport.send(HttpRequest::get(OPERATION, url), cx).await?;
        match response.status() {
            StatusCode::OK => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                Ok(Some(response.read(most).await?))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => {
                Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("the server answers {status}"))
                    .with_fault(Fault::Infrastructure)
                    .with("path", path))
            }
        }
    }
}
