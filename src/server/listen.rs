//! The socket: TLS, how many connections, how long each may take, and letting go of
//! them when the server stops.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::crypto::CryptoProvider;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::config::{Limits, ServerConfig};
use super::metrics::{CONNECTIONS, CONNECTIONS_REFUSED, Counted, Metrics};
use crate::{BuildContext, Error, ErrorKind, Fault, Result};

const LISTEN: &str = "listen for requests";
const READ_TLS: &str = "read the TLS certificate";

/// A socket that is bound.
pub(super) struct Socket {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
}

impl Socket {
    /// Binds the address of `config`.
    ///
    /// # Errors
    /// The operator's: the address is taken or not this machine's; a certificate or key
    /// that cannot be read.
    pub(super) async fn bind(config: &ServerConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                // Two providers may be linked, and then none is the default. It fails
                // only if there is one already.
                let _ = CryptoProvider::install_default(rustls::crypto::ring::default_provider());
                let (certificate, key) = (cx.path(&tls.certificate), cx.path(&tls.key));
                let read = RustlsConfig::from_pem_file(&certificate, &key).await;
                Some(read.map_err(|error| {
                    Error::new(ErrorKind::ConfigInvalid, READ_TLS, error.to_string())
                        .with("certificate", certificate.display())
                        .with("key file", key.display())
                        .with_hint("give PEM files of a certificate and of its own private key")
                })?)
            }
        };
        let wanted = config.address()?;
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "another process listens there: choose another port",
                io::ErrorKind::PermissionDenied => "choose a port from 1024 up",
                _ => "give an address of this machine",
            };
            Error::new(ErrorKind::Unavailable, LISTEN, error.to_string())
                .with_fault(Fault::Operator)
                .with("address", wanted)
                .with_hint(hint)
        };
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, tls })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the routes.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers by `router` until `handle` ends it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) async fn serve(
        self,
        router: Router,
        limits: &Limits,
        metrics: &Metrics,
        handle: Handle<SocketAddr>,
    ) -> Result<()> {
        let Self { listener, address, tls } = self;
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, LISTEN, error.to_string()).with("address", address)
        };
        let secs = Duration::from_secs_f64;
        let bounded = Bounded {
            places: Arc::new(Semaphore::new(limits.connections as usize)),
            patience: secs(limits.write_secs),
            metrics: metrics.clone(),
        };
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let mut server = axum_server::from_tcp(listener)
            .map_err(failed)?
            .handle(handle)
            .http1_only()
            .first_request_timeout(secs(limits.header_secs))
            .accept_error_handler(|peer, error| tracing::debug!(?peer, %error, "a connection failed"));
        server.http_builder().http1().header_read_timeout(secs(limits.header_secs));
        let served = match tls {
            None => server.acceptor(bounded).serve(service).await,
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).handshake_timeout(secs(limits.header_secs));
                server.acceptor(acceptor.acceptor(bounded)).serve(service).await
            }
        };
        served.map_err(failed)
    }
}

/// Accepts so many connections at a time; closes more.
#[derive(Debug, Clone)]
struct Bounded {
    places: Arc<Semaphore>,
    patience: Duration,
    metrics: Metrics,
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = Connection<TcpStream>;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.add(CONNECTIONS_REFUSED, &[], 1);
            return std::future::ready(Err(io::Error::other("too many connections are open")));
        };
        // Tokens are small and must not wait to be joined.
        let stream = stream.set_nodelay(true).map(|()| Connection {
            stream,
            patience: self.patience,
            stalled: None,
            _place: place,
            _counted: self.metrics.hold(CONNECTIONS),
        });
        std::future::ready(stream.map(|stream| (stream, service)))
    }
}

/// A connection that fails once its peer has taken nothing of what is written for too
/// long.
#[derive(Debug)]
struct Connection<S> {
    stream: S,
    patience: Duration,
    /// Until when a write that is under way may wait.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl<S> Connection<S> {
    /// `written`, or that it took too long.
    fn within<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.within(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.within(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn connection(patience: Duration) -> (Connection<DuplexStream>, DuplexStream) {
        let (stream, peer) = duplex(16);
        let connection = Connection {
            stream,
            patience,
            stalled: None,
            _place: Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place"),
            _counted: Metrics::new().expect("metrics").hold(CONNECTIONS),
        };
        (connection, peer)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (mut connection, peer) = connection(Duration::from_millis(20));
        let error = connection.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(peer);
    }

    #[tokio::test]
    async fn a_peer_that_reads_on_is_not() {
        let (mut connection, mut peer) = connection(Duration::from_mins(1));
        let read = async {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).await.map(|_| bytes.len())
        };
        let written = async move {
            connection.write_all(&[0; 64]).await?;
            connection.shutdown().await
        };
        let (written, read) = tokio::join!(written, read);
        written.expect("written");
        assert_eq!(read.expect("read"), 64);
    }
}
