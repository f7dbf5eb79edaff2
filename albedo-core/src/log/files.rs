//! Where a log's files are read from.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::files::read_bounded;
use crate::http::{HttpRequest, HttpTransport, StatusCode};

const OPERATION: &str = "read the log";

/// A server that says nothing for this long is given up. Source: chosen by albedo.
const SILENCE: Duration = Duration::from_mins(1);

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
        let mut response = heard(self.transport.send(HttpRequest::get(OPERATION, url), cx), cx).await?;
        match response.status() {
            StatusCode::OK => {
                let mut bytes = Vec::new();
                while let Some(piece) = heard(response.chunk(), cx).await? {
                    if (bytes.len() + piece.len()) as u64 > most {
                        let message = format!("the server's answer has more than {most} bytes");
                        return Err(Error::new(ErrorKind::Protocol, OPERATION, message).with("path", path));
                    }
                    bytes.extend_from_slice(&piece);
                }
                Ok(Some(bytes))
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

/// What `next` comes to, unless `cx` ends it or the server is silent for too long.
async fn heard<T>(next: impl Future<Output = Result<T>>, cx: &CallContext) -> Result<T> {
    let heard = cx.with_timeout(SILENCE).run(OPERATION, next).await.and_then(|next| next);
    match heard {
        Err(error) if error.kind() == ErrorKind::Timeout && cx.check(OPERATION).is_ok() => {
            let message = format!("the server says nothing for {} s", SILENCE.as_secs());
            Err(Error::new(ErrorKind::Timeout, OPERATION, message)
                .with_hint("try again when the server answers"))
        }
        heard => heard,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{StreamExt as _, stream};

    use super::*;
    use crate::http::{HeaderMap, HttpResponse};

    /// A server whose answer begins with these pieces and does not end.
    #[derive(Debug)]
    struct Endless(&'static [&'static [u8]]);

    #[async_trait]
    impl HttpTransport for Endless {
        async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            let pieces = stream::iter(self.0).map(|piece| Ok(Bytes::from_static(piece)));
            let body = pieces.chain(stream::pending()).boxed();
            Ok(HttpResponse::new(OPERATION, StatusCode::OK, HeaderMap::new(), body))
        }
    }

    #[tokio::test]
    async fn a_file_has_a_bound_and_a_stop_ends_the_wait_for_its_end() {
        let log = HttpLog::new(Arc::new(Endless(&[b"ab", b"cd"])), "https://log.example/");
        let cx = CallContext::new();
        let error = log.read("checkpoint", 3, &cx).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        let (read, ()) = futures::join!(log.read("checkpoint", 4, &cx), async { cx.cancel() });
        assert_eq!(read.expect_err("stopped").kind(), ErrorKind::Cancelled);
    }
}
