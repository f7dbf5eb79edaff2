//! Hubs for tests: a small HTTP server whose answers are a function, a container
//! registry and a stand-in for Hugging Face to be that function. They count what they
//! serve and can be made to misbehave.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

mod hugging_face;
mod registry;

pub use hugging_face::HuggingFace;
pub use registry::{Piece, Registry};

/// A request as it arrived.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path, unescaped.
    pub path: String,
    /// Its query, as it was sent.
    pub query: String,
    /// Its headers, by names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
}

impl Request {
    /// The header `name`, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    sent: Sent,
}

#[derive(Debug, Clone, Copy)]
enum Sent {
    Whole,
    /// Only so many bytes of the body, then the connection ends.
    Cut(usize),
    /// One byte at a time, with a pause.
    Drip(Duration),
}

impl Reply {
    /// `status` with `body`.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), sent: Sent::Whole }
    }

    /// JSON.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string()).with("content-type", "application/json")
    }

    /// A redirect.
    pub fn redirect(to: &str) -> Self {
        Self::new(307, "").with("location", to)
    }

    /// `body`, or the range of it that `request` asks for.
    pub fn ranged(request: &Request, body: &Bytes) -> Self {
        let asked = request.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let Some((start, end)) = asked else { return Self::new(200, body.clone()) };
        let start: usize = start.parse().unwrap_or(usize::MAX);
        let end = end.parse::<usize>().map_or(body.len(), |end| end.saturating_add(1)).min(body.len());
        if start >= end {
            return Self::new(416, "").with("content-range", &format!("bytes */{}", body.len()));
        }
        Self::new(206, body.slice(start..end))
            .with("content-range", &format!("bytes {start}-{}/{}", end - 1, body.len()))
    }

    /// The same with a header, in place of one of that name.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same, cut off after `bytes` of its body.
    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        self.sent = Sent::Cut(bytes);
        self
    }

    /// The same, one byte per `pause`.
    #[must_use]
    pub fn drip(mut self, pause: Duration) -> Self {
        self.sent = Sent::Drip(pause);
        self
    }

    /// The same with another body, under the same headers.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Its body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }
}

type Answer = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A server on this machine. Dropping it closes it.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    answer: Answer,
    seen: Mutex<Vec<Request>>,
    sent: AtomicU64,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A server with these answers, on a free port, or on `port` if it is not 0.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn start(
        port: u16,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { answer: Box::new(answer), seen: Mutex::default(), sent: AtomicU64::new(0) });
        let serving = Arc::clone(&shared);
        let task = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // A client that goes away in the middle is what some tests want.
                connections.spawn(async move { drop(shared.connection(stream).await) });
                while connections.try_join_next().is_some() {}
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle is kept, and the task ends with the server"
        )]
        let task = tokio::spawn(task);
        Ok(Self { address, shared, task })
    }

    /// Its origin.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of bodies that were sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Answers the requests of a connection, one after the other.
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await? {
            let reply = (self.answer)(&request);
            let head_only = request.method == "HEAD";
            {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                // Bodies of uploads are not kept twice.
                seen.push(Request { body: Bytes::new(), ..request });
            }
            self.write(&mut stream, &reply, head_only).await?;
            if matches!(reply.sent, Sent::Cut(_)) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        stream: &mut BufReader<TcpStream>,
        reply: &Reply,
        head_only: bool,
    ) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
        if !reply.headers.iter().any(|(name, _)| name == "content-length") {
            let _ = write!(head, "content-length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        if head_only {
            return stream.flush().await;
        }
        let body = match reply.sent {
            Sent::Cut(bytes) => &reply.body[..bytes.min(reply.body.len())],
            _ => &reply.body[..],
        };
        let (piece, pause) = match reply.sent {
            Sent::Drip(pause) => (1, Some(pause)),
            _ => (256 << 10, None),
        };
        for piece in body.chunks(piece) {
            stream.write_all(piece).await?;
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(pause) = pause {
                stream.flush().await?;
                tokio::time::sleep(pause).await;
            }
        }
        stream.flush().await
    }
}

/// The next request; none at the end.
async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => break,
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request { method, path: unescaped(path), query: query.to_owned(), headers, body: body.into() }))
}

/// `text` with its `%` escapes undone.
pub(crate) fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let escaped =
            escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
