//! The one HTTP client of albedo: TLS, proxies, redirects, bounds and what may
//! be printed are decided here, for model servers, hubs, storage and publishing
//! alike.
//!
//! - **TLS** is rustls with the certificates of the system, which `SSL_CERT_FILE`
//!   and `SSL_CERT_DIR` replace, and with the cryptography that the process has
//!   installed, else ring. They are loaded for the first `https` address: plain
//!   HTTP to a server beside albedo needs none.
//! - **Proxies** are those of the environment ([`Proxies`]).
//! - **HTTP/1.1** is what it speaks, also to servers that offer HTTP/2: one slow body
//!   holds up no other, since each has its connection.
//! - **Redirects** are a request's choice; by default none is followed.
//! - **Credentials** stay at their origin, and off plain HTTP to other machines.
//! - **Errors** name the server, never a secret or a quotation of a prompt
//!   ([`redact`]); what a refusal means is decided in one place ([`Refusal`]).
//!
//! The module `conformance` (feature `http-conformance`) has the suite that shows it, for any client.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::http::{HttpRequest, HttpResponse, HttpTransport, Redirects};
use albedo_core::{BuildContext, CallContext, Error, ErrorKind, Fault, Reach, Result, Retry};
use async_trait::async_trait;
use futures::StreamExt;
use reqwest::Url;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use reqwest::{Method, StatusCode, redirect};
use tokio::sync::OnceCell;

#[cfg(any(test, feature = "http-conformance"))]
pub mod conformance;
mod proxies;
mod redact;
mod refusal;
mod retry_after;
#[cfg(any(test, feature = "scripted-server"))]
pub mod scripted;
mod stall;
mod tls;

pub use proxies::Proxies;
pub use redact::redact;
pub use refusal::Refusal;
#[cfg(feature = "openai")]
pub(crate) use refusal::is_error;
pub use retry_after::retry_after;
#[cfg(feature = "openai")]
pub(crate) use retry_after::{number, seconds};
pub use stall::Stall;
pub use tls::Roots;

/// What sends the requests of a plugin that `cx` builds: the program's or the
/// embedder's choice, else a client with the environment's proxies and the
/// system's certificates.
pub fn transport(cx: &BuildContext<'_>) -> Arc<dyn HttpTransport> {
    cx.http().map_or_else(|| Arc::new(Client::from_env()) as Arc<dyn HttpTransport>, Arc::clone)
}

/// For connecting only: the caller bounds what comes after. Source: albedo.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most redirects that are followed. Source: albedo; hubs need two.
const MAX_REDIRECTS: usize = 5;

/// Headers of the caller that follow a redirect to another origin: they choose
/// what is sent, and name nobody.
const NEUTRAL: [reqwest::header::HeaderName; 6] =
    [ACCEPT, RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE];

/// The client; see the [module](self). Cloning shares its connections.
///
/// ```no_run
/// use albedo_backends::http::Client;
/// use albedo_core::CallContext;
/// use albedo_core::http::{HttpRequest, HttpTransport};
///
/// # async fn run() -> albedo_core::Result<()> {
/// let request = HttpRequest::get("list the models", "http://localhost:8000/v1/models");
/// let mut answer = Client::from_env().send(request, &CallContext::new()).await?;
/// let listing = answer.read(1 << 20).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    proxies: Proxies,
    roots: Roots,
    /// Without certificates, for plain HTTP.
    plain: OnceCell<reqwest::Client>,
    tls: OnceCell<reqwest::Client>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { proxies, roots, .. } = &*self.0;
        f.debug_struct("Client").field("proxies", proxies).field("roots", roots).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with the proxies of the environment and the certificates of the
    /// system.
    pub fn from_env() -> Self {
        Self::new(Proxies::from_env(), Roots::System)
    }

    /// A client that goes through `proxies` and trusts `roots`.
    pub fn new(proxies: Proxies, roots: Roots) -> Self {
        Self(Arc::new(Shared { proxies, roots, plain: OnceCell::new(), tls: OnceCell::new() }))
    }

    /// The client that reaches `url`.
    async fn reaching(&self, url: &Url) -> Result<&reqwest::Client> {
        let Shared { proxies, roots, plain, tls } = &*self.0;
        let through = proxies.through(url)?;
        if url.scheme() == "https" || through.is_some_and(|proxy| proxy.scheme() == "https") {
            tls.get_or_try_init(|| async { build(roots.config()?, proxies) }).await
        } else {
            plain.get_or_try_init(|| async { build(Roots::none()?, proxies) }).await
        }
    }

    /// Sends `request` to `url` and to nowhere else.
    async fn once(&self, request: &HttpRequest, url: &Url, headers: HeaderMap) -> Result<reqwest::Response> {
        let client = self.reaching(url).await?;
        let sent = client
            .request(request.method().clone(), url.clone())
            .headers(headers)
            .body(request.body().clone())
            .send()
            .await;
        sent.map_err(|error| self.failed(request, url, &error))
    }

    /// The connection failed, before the answer or within it.
    fn failed(&self, request: &HttpRequest, url: &Url, error: &reqwest::Error) -> Error {
        self.secrets(request).failed(request.operation(), url, error)
    }

    fn secrets(&self, request: &HttpRequest) -> Secrets {
        let credential = request.credential().map(|credential| credential.expose().to_owned());
        Secrets(credential.into_iter().chain(self.0.proxies.passwords()).collect())
    }
}

/// What no error may hold.
struct Secrets(Vec<String>);

impl Secrets {
    fn failed(&self, operation: &str, url: &Url, error: &reqwest::Error) -> Error {
        let hint = match () {
            () if tls::is_certificate(error) => {
                Some("check the server's certificate, and the system's root certificates or `SSL_CERT_FILE`")
            }
            () if error.is_connect() => Some("check the server's address and the network"),
            () => None,
        };
        let secrets: Vec<_> = self.0.iter().map(String::as_str).collect();
        let error = Error::new(ErrorKind::Unavailable, operation, redact(&causes(error), &secrets, []))
            .with("server", origin(url));
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

#[async_trait]
impl HttpTransport for Client {
    async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse> {
        let operation = request.operation();
        let mut url = address(operation, request.url())?;
        let home = url.origin();
        let mut headers = request.headers().clone();
        if let Some(credential) = request.credential() {
            if !is_private(&url) && !request.plain_credential() {
                return Err(refused(operation, "the key would go over plain HTTP to another machine")
                    .with("server", origin(&url))
                    .with("key", credential.source())
                    .with_hint("use https, or allow it where nobody else can listen"));
            }
            headers.insert(AUTHORIZATION, credential.header()?);
        }
        for _ in 0..=MAX_REDIRECTS {
            let answer = cx.run(operation, self.once(&request, &url, headers.clone())).await??;
            if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    operation,
                    "the proxy asks for a user and a password",
                )
                .with_fault(Fault::Operator)
                .with_reach(Reach::Duel)
                .with_retry(Retry::Never)
                .with("server", origin(&url))
                .with_hint("write them into the proxy's address, before its host"));
            }
            let Some(target) = redirection(&request, &url, &answer)? else {
                let (status, headers) = (answer.status(), answer.headers().clone());
                let (secrets, of) = (self.secrets(&request), operation.to_owned());
                let body = answer
                    .bytes_stream()
                    .map(move |piece| piece.map_err(|error| secrets.failed(&of, &url, &error)));
                return Ok(HttpResponse::new(operation, status, headers, body.boxed()));
            };
            if target.origin() != home {
                headers = NEUTRAL
                    .into_iter()
                    .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
                    .collect();
            }
            url = target;
        }
        Err(Error::new(
            ErrorKind::Protocol,
            operation,
            format!("the server redirects more than {MAX_REDIRECTS} times"),
        )
        .with("server", origin(&url)))
    }
}

/// Where `answer` sends `request`, if that is to be followed.
fn redirection(request: &HttpRequest, url: &Url, answer: &reqwest::Response) -> Result<Option<Url>> {
    let followed = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && request.redirects() != Redirects::Refuse;
    let Some(location) = answer.headers().get(LOCATION).filter(|_| followed) else { return Ok(None) };
    let refused = |message: &str| {
        Error::new(ErrorKind::Unavailable, request.operation(), message)
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Never)
            .with("server", origin(url))
    };
    let target = location.to_str().ok().and_then(|location| url.join(location).ok());
    let target = target.filter(|target| matches!(target.scheme(), "http" | "https") && target.has_host());
    let Some(mut target) = target else {
        return Err(refused("the server redirects to what is no address"));
    };
    if url.scheme() == "https" && target.scheme() == "http" {
        return Err(refused("the server redirects from TLS to plain HTTP"));
    }
    if target.origin() != url.origin() && request.redirects() == Redirects::SameOrigin {
        return Err(refused("the server redirects to another server").with("to", origin(&target)));
    }
    if is_loopback(&target) && !is_loopback(url) {
        return Err(refused("the server redirects to this machine"));
    }
    // A user and a password that a server makes up are not ours to send.
    if target.set_username("").and(target.set_password(None)).is_err() {
        return Err(refused("the server redirects to what is no address"));
    }
    Ok(Some(target))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that makes clients")]
fn build(tls: rustls::ClientConfig, proxies: &Proxies) -> Result<reqwest::Client> {
    let proxies = proxies.clone();
    reqwest::Client::builder()
        .user_agent(concat!("albedo/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::none())
        // Another crate turns reqwest's feature `http2` on.
        .http1_only()
        .no_proxy()
        // What cannot be gone through was refused before.
        .proxy(reqwest::Proxy::custom(move |url| proxies.through(url).ok().flatten().cloned()))
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|error| Error::new(ErrorKind::ConfigInvalid, "prepare the HTTP client", causes(&error)))
}

/// The URL in `text`.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] for what is not `http` or `https` with a host,
/// and for one with a user or a password.
fn address(operation: &str, text: &str) -> Result<Url> {
    let Ok(url) = Url::parse(text) else { return Err(refused(operation, "the address is no URL")) };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused(operation, "the address does not begin with https:// or http:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(operation, "the address holds a user or a password, which errors would print"));
    }
    Ok(url)
}

fn refused(operation: &str, message: &str) -> Error {
    Error::new(ErrorKind::ConfigInvalid, operation, message).with_fault(Fault::Operator)
}

/// A setting that names a server: what it is called, the setting that names the variable
/// of its secret, and an example.
#[cfg(any(feature = "openai", feature = "serve"))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseSetting {
    pub(crate) key: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) example: &'static str,
}

#[cfg(any(feature = "openai", feature = "serve"))]
impl BaseSetting {
    /// Checks that `base` is the address of a server and holds no secret, and that a
    /// secret (`keyed`) is not read on the way to it.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`].
    pub(crate) fn check(self, base: &str, keyed: bool) -> Result<()> {
        let Self { key, secret, example } = self;
        let invalid = |message: String, hint: String| {
            Err(Error::new(ErrorKind::ConfigInvalid, "check the server's address", message).with_hint(hint))
        };
        let example = format!("set `{key}` to something like {example}");
        let Ok(url) = Url::parse(base) else { return invalid(format!("`{key}` is no URL"), example) };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return invalid(format!("`{key}` does not begin with https:// or http:// and a host"), example);
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let message = format!("`{key}` holds a user, a password or a query: keys belong in `{secret}`");
            return invalid(message, example);
        }
        if keyed && !is_private(&url) {
            return invalid(
                format!("`{key}` is plain HTTP to another machine: everybody on the way could read the key"),
                format!("use https, leave `{secret}` out, or set `allow_plain_http = true`"),
            );
        }
        Ok(())
    }
}

/// Whether `name` is one that a shell can set: letters, digits and underscores.
#[cfg(any(feature = "openai", feature = "serve"))]
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Nobody but the server can read what is sent to `url`: TLS, or this machine.
pub(crate) fn is_private(url: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url)
}

/// `url` is on this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches([']', '.']);
    let named = host == "localhost" || host.ends_with(".localhost");
    named || host.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback())
}

/// Scheme, host and port of `url`.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The causes of `error` on one line, without the address.
fn causes(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    words.dedup();
    if words.is_empty() { "the connection failed".into() } else { words.join(": ") }
}

#[cfg(test)]
mod tests;
