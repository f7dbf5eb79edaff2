//! A small HTTP/1.1 server on this machine that keeps what it is sent: one
//! request per connection, with TLS or without, or a proxy.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(in crate::http) struct Seen {
    pub(in crate::http) method: String,
    pub(in crate::http) target: String,
    pub(in crate::http) headers: Vec<(String, String)>,
}

impl Seen {
    /// Whether any header holds `secret`.
    pub(in crate::http) fn holds(&self, secret: &str) -> bool {
        self.headers.iter().any(|(_, value)| value.contains(secret))
    }
}

/// An answer.
pub(in crate::http) struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    pub(in crate::http) fn ok(body: &str) -> Self {
        Self::status(200, body)
    }

    pub(in crate::http) fn status(status: u16, body: &str) -> Self {
        Self { head: format!("{status} Scripted\r\ncontent-length: {}", body.len()), body: body.into() }
    }

    pub(in crate::http) fn redirect(status: u16, to: &str) -> Self {
        Self { head: format!("{status} Scripted\r\ncontent-length: 0\r\nlocation: {to}"), body: Vec::new() }
    }

    /// `bytes` bytes of which the head does not tell how many there are.
    pub(in crate::http) fn unmeasured(bytes: usize) -> Self {
        Self { head: "200 Scripted".into(), body: vec![b'x'; bytes] }
    }
}

/// Dropping it closes it.
pub(in crate::http) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    tls: Option<TlsAcceptor>,
    /// Where `CONNECT` leads.
    behind: Option<SocketAddr>,
    answer: Box<dyn Fn(&Seen) -> Reply + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(in crate::http) async fn plain(
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start(None, None, Box::new(answer)).await
    }

    pub(in crate::http) async fn tls(
        config: Arc<ServerConfig>,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start(Some(TlsAcceptor::from(config)), None, Box::new(answer)).await
    }

    /// A proxy: whatever is asked for in a tunnel is at `behind`; plain requests
    /// it answers itself.
    pub(in crate::http) async fn proxy(
        behind: SocketAddr,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start(None, Some(behind), Box::new(answer)).await
    }

    async fn start(
        tls: Option<TlsAcceptor>,
        behind: Option<SocketAddr>,
        answer: Box<dyn Fn(&Seen) -> Reply + Send + Sync>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { tls, behind, answer, seen: Mutex::default() });
        let serving = Arc::clone(&shared);
        let task = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // A client that gives up in the middle is what some checks want.
                connections.spawn(async move { drop(shared.connection(stream).await) });
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle is kept, and the task ends with the server"
        )]
        let task = tokio::spawn(task);
        Ok(Self { address, shared, task })
    }

    pub(in crate::http) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as `localhost`, for which certificates are made.
    pub(in crate::http) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/hello", self.address.port())
    }

    pub(in crate::http) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any header of any request held `secret`.
    pub(in crate::http) fn saw(&self, secret: &str) -> bool {
        self.seen().iter().any(|seen| seen.holds(secret))
    }
}

impl Shared {
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        match &self.tls {
            Some(tls) => self.answer(tls.accept(stream).await?).await,
            None => self.answer(stream).await,
        }
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let seen = head(&mut stream).await?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        if let ("CONNECT", Some(behind)) = (seen.method.as_str(), self.behind) {
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
            let mut behind = TcpStream::connect(behind).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut behind).await?;
            return Ok(());
        }
        let Reply { head, body } = (self.answer)(&seen);
        stream.write_all(format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }
}

/// Reads a request's head; the suite sends no bodies.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Seen> {
    const MOST: usize = 64 << 10;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") && bytes.len() < MOST {
        bytes.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Seen {
        method: first.next().unwrap_or_default(),
        target: first.next().unwrap_or_default(),
        headers: lines.filter_map(header).collect(),
    })
}
