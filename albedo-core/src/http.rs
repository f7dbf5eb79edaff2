//! HTTP as plugins see it: a transport that sends one request. It is a trait,
//! so that core connects to nothing, tests answer from a script, and an embedder
//! brings a client of its own. Types of messages are the `http` crate's.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Reach, Result, Retry};

/// Sends requests.
///
/// # Behavior
/// - A request is sent once: trying again is [`wrappers`](crate::wrappers)'.
/// - Every status is an answer, not an error.
/// - A credential is sent to the request's own origin (scheme, host and port)
///   and to no other, and never over plain HTTP to another machine unless the
///   request allows it.
/// - Redirects are followed as the request says, never from TLS to plain HTTP.
/// - No error and no `Debug` holds a credential or a URL's query, which may be a
///   signature.
#[async_trait]
pub trait HttpTransport: Debug + Send + Sync + 'static {
    /// Sends `request`; the head of the answer has arrived.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there was no answer;
    /// [`ErrorKind::ConfigInvalid`] for a URL, a proxy or a way of sending a
    /// credential that is refused before anything is sent.
    async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse>;
}

/// One request.
///
/// ```
/// use albedo_core::http::{Credential, HttpRequest, Redirects};
///
/// # fn main() -> albedo_core::Result<()> {
/// let token = Credential::bearer("HUB_TOKEN", "hush-hush")?;
/// let request = HttpRequest::get("list a model's files", "https://hub.example/v2/tags")
///     .with_credential(token)
///     .with_redirects(Redirects::SameOrigin);
/// assert!(!format!("{request:?}").contains("hush-hush"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HttpRequest {
    operation: String,
    method: Method,
    url: Address,
    headers: HeaderMap,
    body: Bytes,
    credential: Option<Credential>,
    plain_credential: bool,
    redirects: Redirects,
}

/// A URL, of which `Debug` leaves out what may be secret.
#[derive(Clone)]
struct Address(String);

impl Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(without_query(&self.0))
    }
}

/// What to do when a server answers that the thing asked for is elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Redirects {
    /// The answer is handed on as it is.
    #[default]
    Refuse,
    /// Followed for `GET` and `HEAD`, to the same scheme, host and port alone.
    SameOrigin,
    /// Followed for `GET` and `HEAD`; a request to another origin has neither the
    /// credential nor the caller's headers but those that choose among
    /// representations (`accept`, `range`): where hubs send blobs elsewhere.
    AnyOrigin,
}

impl HttpRequest {
    /// `method url`; `operation` is what errors call it: a verb phrase.
    pub fn new(method: Method, operation: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            method,
            url: Address(url.into()),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            credential: None,
            plain_credential: false,
            redirects: Redirects::Refuse,
        }
    }

    /// `GET url`.
    pub fn get(operation: impl Into<String>, url: impl Into<String>) -> Self {
        Self::new(Method::GET, operation, url)
    }

    /// `POST url` with a JSON `body`.
    pub fn post_json(operation: impl Into<String>, url: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, operation, url)
            .with_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .with_body(body)
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same with `body`.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The same, authorised by `credential`.
    #[must_use]
    pub fn with_credential(mut self, credential: Credential) -> Self {
        self.credential = Some(credential);
        self
    }

    /// The same; the operator allows the credential over plain HTTP to another
    /// machine, where everybody on the way can read it.
    #[must_use]
    pub fn with_plain_credential(mut self, allowed: bool) -> Self {
        self.plain_credential = allowed;
        self
    }

    /// The same with another way to meet redirects.
    #[must_use]
    pub fn with_redirects(mut self, redirects: Redirects) -> Self {
        self.redirects = redirects;
        self
    }

    /// What errors call it.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// Its method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Where it goes. May hold a signature: errors name
    /// [`HttpRequest::address`].
    pub fn url(&self) -> &str {
        &self.url.0
    }

    /// Where it goes, without query and fragment.
    pub fn address(&self) -> &str {
        without_query(&self.url.0)
    }

    /// Its headers, without that of the credential.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Its body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What authorises it.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Whether the credential may go over plain HTTP to another machine.
    pub fn plain_credential(&self) -> bool {
        self.plain_credential
    }

    /// How redirects are met.
    pub fn redirects(&self) -> Redirects {
        self.redirects
    }
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// What a request is authorised by. Nothing prints it.
#[derive(Clone)]
pub struct Credential {
    source: String,
    scheme: &'static str,
    secret: Arc<str>,
}

impl Credential {
    /// The bearer token `secret`; `source` is what errors call it: the name of
    /// the environment variable that holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], the operator's: it is empty, or holds what no
    /// header can carry.
    pub fn bearer(source: impl Into<String>, secret: &str) -> Result<Self> {
        Self::new(source, "Bearer", secret)
    }

    /// The base64 text of a user and a password, for `Basic`.
    ///
    /// # Errors
    /// As [`Credential::bearer`].
    pub fn basic(source: impl Into<String>, secret: &str) -> Result<Self> {
        Self::new(source, "Basic", secret)
    }

    fn new(source: impl Into<String>, scheme: &'static str, secret: &str) -> Result<Self> {
        let credential = Self { source: source.into(), scheme, secret: secret.trim().into() };
        let message = match () {
            () if credential.secret.is_empty() => "it is empty",
            () if HeaderValue::from_str(&credential.secret).is_err() => {
                "it holds characters that no header can carry"
            }
            () => return Ok(credential),
        };
        Err(Error::new(ErrorKind::Unavailable, "read a credential", message)
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with_retry(Retry::Never)
            .with("credential", credential.source)
            .with_hint("set it to the key or token alone"))
    }

    /// What errors call it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The secret itself: for the request that needs it, and to take it out of
    /// texts.
    pub fn expose(&self) -> &str {
        &self.secret
    }

    /// The value of the header `authorization`, which nothing prints.
    ///
    /// # Errors
    /// [`ErrorKind::Unexpected`]: none that [`Credential::bearer`] accepts.
    pub fn header(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{} {}", self.scheme, self.secret))
            .map_err(|error| Error::bug("write a credential", error.to_string()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret in {}", self.source)
    }
}

/// An answer, of which the head has arrived.
pub struct HttpResponse {
    operation: String,
    status: StatusCode,
    headers: HeaderMap,
    body: BoxStream<'static, Result<Bytes>>,
}

impl Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, status, .. } = self;
        f.debug_struct("HttpResponse")
            .field("operation", operation)
            .field("status", status)
            .finish_non_exhaustive()
    }
}

impl HttpResponse {
    /// The answer to `operation`, its body as a stream whose errors name no
    /// secret.
    pub fn new(
        operation: impl Into<String>,
        status: StatusCode,
        headers: HeaderMap,
        body: BoxStream<'static, Result<Bytes>>,
    ) -> Self {
        Self { operation: operation.into(), status, headers, body }
    }

    /// An answer that is whole: for scripts.
    pub fn whole(status: StatusCode, headers: HeaderMap, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::new("answer", status, headers, stream::once(async { Ok(body) }).boxed())
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next piece of its body; `None` at the end.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the connection failed.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.body.next().await.transpose()
    }

    /// Its body, whole.
    ///
    /// # Errors
    /// As [`HttpResponse::chunk`]; [`ErrorKind::Protocol`] if it has more than
    /// `most` bytes, of which no more are read.
    pub async fn read(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if bytes.len() + piece.len() > most {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    &*self.operation,
                    format!("the server's answer has more than {most} bytes"),
                ));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let token = Credential::bearer("TOKEN", " hush-hush\n").expect("a token");
        assert_eq!((token.source(), token.expose()), ("TOKEN", "hush-hush"));
        let header = token.header().expect("a header");
        assert_eq!(header.to_str().expect("text"), "Bearer hush-hush");
        let request = HttpRequest::get("fetch", "https://cdn.example/blob?signature=hush-hush#hush")
            .with_credential(token.clone());
        assert_eq!(request.address(), "https://cdn.example/blob");
        for text in [format!("{token:?}"), format!("{header:?}"), format!("{request:?}")] {
            assert!(!text.contains("hush"), "{text}");
        }
        for (secret, words) in [("", "it is empty"), (" \n", "it is empty"), ("hush\nhush", "no header")] {
            let error = Credential::bearer("TOKEN", secret).expect_err("no token");
            assert_eq!((error.fault(), error.retry()), (Fault::Operator, Retry::Never));
            assert!(error.to_string().contains(words) && !format!("{error:?}").contains("hush"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_bound() {
        let answer = |pieces: &[&'static [u8]]| {
            let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
            HttpResponse::new("read", StatusCode::OK, HeaderMap::new(), stream::iter(pieces).boxed())
        };
        assert_eq!(answer(&[b"ab", b"", b"c"]).read(3).await.expect("fits"), b"abc");
        let error = answer(&[b"ab", b"cd"]).read(3).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("more than 3 bytes"), "{error}");
    }
}
