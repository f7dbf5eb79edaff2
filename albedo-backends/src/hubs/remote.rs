//! Requests to a hub: bounded, retried, and given up where no progress is made.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::http::{
    Credential, HeaderMap, HeaderValue, HttpRequest, HttpResponse, HttpTransport, Redirects, StatusCode,
    header,
};
use albedo_core::{BuildContext, CallContext, Clock, Error, ErrorKind, Fault, Result, Retry};
use futures::future::{Either, select};
use reqwest::Url;
use serde_json::Value;

use crate::http::{self, Refusal};

pub(crate) const READ: &str = "read a model's file at its hub";

/// How patient a hub's client is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How often one request is made.
    pub(crate) tries: u32,
    /// The pause before the second try; it doubles with each.
    pub(crate) pause: Duration,
    /// An answer that brings fewer than `least` bytes in this time has stalled.
    pub(crate) stall: Duration,
    pub(crate) least: u64,
}

impl Default for Patience {
    /// Six tries over half a minute, and 4 KiB/s at the least. Source: chosen by albedo.
    fn default() -> Self {
        Self { tries: 6, pause: Duration::from_secs(1), stall: Duration::from_secs(30), least: 128 << 10 }
    }
}

/// Most bytes of a refusal that are read.
const MOST_WORDS: usize = 16 << 10;

/// The longest pause that a server is granted before the next try. Source: chosen by albedo.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What sends a hub's requests.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    http: Arc<dyn HttpTransport>,
    clock: Arc<dyn Clock>,
    patience: Patience,
}

impl Remote {
    pub(crate) fn new(http: Arc<dyn HttpTransport>, clock: Arc<dyn Clock>) -> Self {
        Self { http, clock, patience: Patience::default() }
    }

    pub(crate) fn of(cx: &BuildContext<'_>) -> Self {
        Self::new(http::transport(cx), Arc::clone(cx.clock()))
    }

    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The same with two tries more: four times as long, which is two minutes.
    pub(crate) fn more_patient(&self) -> Self {
        let patience = Patience { tries: self.patience.tries + 2, ..self.patience };
        Self { patience, ..self.clone() }
    }

    /// Sends `request` once. The head must come before the answer has stalled.
    pub(crate) async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse> {
        let operation = request.operation().to_owned();
        self.within(&operation, self.http.send(request, cx), cx).await?
    }

    /// `work`, unless it takes longer than a stall.
    async fn within<T>(&self, operation: &str, work: impl Future<Output = T>, cx: &CallContext) -> Result<T> {
        let until = self.clock.sleep_until(self.clock.now() + self.patience.stall);
        let first = async move {
            let work = std::pin::pin!(work);
            match select(work, until).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(_) => None,
            }
        };
        cx.run(operation, first).await?.ok_or_else(|| self.stalled(operation))
    }

    fn stalled(&self, operation: &str) -> Error {
        Error::new(ErrorKind::Timeout, operation, "the server makes no progress")
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with("seconds", self.patience.stall.as_secs_f64())
            .with("least bytes", self.patience.least)
    }

    /// The body of `answer`, at most `most` bytes of it, as long as it makes progress.
    pub(crate) async fn body(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        most: usize,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let collect = |chunk: &[u8]| {
            if bytes.len() + chunk.len() > most {
                let message = format!("the server's answer has more than {most} bytes");
                return Err(transient(ErrorKind::Protocol, operation, message));
            }
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        self.chunks(operation, answer, cx, collect).await?;
        Ok(bytes)
    }

    /// Hands the body of `answer` to `each` as it comes, as long as it makes progress.
    pub(crate) async fn chunks(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        cx: &CallContext,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut since = (self.clock.now(), 0_u64);
        loop {
            let left = (since.0 + self.patience.stall).saturating_sub(self.clock.now());
            let until = self.clock.sleep_until(self.clock.now() + left);
            let next = async {
                let chunk = std::pin::pin!(answer.chunk());
                match select(chunk, until).await {
                    Either::Left((chunk, _)) => Some(chunk),
                    Either::Right(_) => None,
                }
            };
            match cx.run(operation, next).await? {
                Some(chunk) => {
                    let Some(chunk) = chunk? else { return Ok(()) };
                    since.1 += chunk.len() as u64;
                    each(&chunk)?;
                }
                None if since.1 < self.patience.least => return Err(self.stalled(operation)),
                None => since = (self.clock.now(), 0),
            }
        }
    }

    /// Bytes `range` of an object of `size` bytes, which are what `answer` brings.
    ///
    /// # Errors
    /// Infrastructure's, which may pass: `answer` brings something else.
    pub(crate) async fn range(
        &self,
        server: &str,
        mut answer: HttpResponse,
        range: &Range<u64>,
        size: u64,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        check_range(&answer, range, size).map_err(|error| error.with("server", server))?;
        let length = range.end - range.start;
        let bytes = self.body(READ, &mut answer, length as usize, cx).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(transient(ErrorKind::Protocol, READ, "the answer ends too early")
            .with("server", server)
            .with("asked bytes", length)
            .with("bytes", bytes.len()))
    }

    /// What `work` gives, tried again after pauses where that may help.
    ///
    /// # Errors
    /// The last one of `work`, if it is final or the tries are spent; the context's.
    pub(crate) async fn retried<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &str,
        cx: &CallContext,
        mut work: impl FnMut() -> F,
    ) -> Result<T> {
        let (mut tried, mut pause) = (0, self.patience.pause);
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tried += 1;
            let wait = match error.retry() {
                _ if tried >= self.patience.tries => return Err(error.with("tries", tried)),
                Retry::Backoff => pause,
                Retry::After(asked) => asked.min(LONGEST_PAUSE).max(pause),
                _ => return Err(error),
            };
            pause = (pause * 2).min(LONGEST_PAUSE);
            cx.run(operation, self.clock.sleep_until(self.clock.now() + wait)).await?;
        }
    }

    /// The error that an answer stands for which is no success. Only an answer that says so
    /// means that the hub does not have something: no outage and no proxy may end a submission.
    pub(crate) async fn refusal(
        &self,
        operation: &str,
        server: &str,
        mut answer: HttpResponse,
        credential: Option<&Credential>,
        cx: &CallContext,
    ) -> Error {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = self.body(operation, &mut answer, MOST_WORDS, cx).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let error = |kind, message: String| Error::new(kind, operation, message).with("server", server);
        match status.as_u16() {
            404 => error(ErrorKind::NotFound, "the hub has no such repository, revision or file".into())
                .with_hint("check the reference"),
            401 | 403 if credential.is_none() => {
                let kind =
                    if is_absence(&headers, &body) { ErrorKind::NotFound } else { ErrorKind::Unavailable };
                let error = error(kind, format!("the hub does not show it without a key ({status})"))
                    .with_hint("check the reference, or configure a key that may read it");
                // It was listed before: a signed address that has run out is asked for again.
                if operation == READ {
                    error
                } else {
                    error.with_fault(Fault::Operator).with_retry(Retry::Never)
                }
            }
            403 => error(ErrorKind::Unavailable, format!("the hub refuses the key ({status})"))
                .with_fault(Fault::Operator)
                .with_retry(Retry::Never)
                .with_hint("use a key that may do this"),
            300..=399 => {
                let message = format!("the server redirects, which is not followed ({status})");
                error(ErrorKind::Unavailable, message)
                    .with_fault(Fault::Operator)
                    .with_retry(Retry::Never)
                    .with_hint("check the hub's address")
            }
            416 => {
                transient(ErrorKind::Protocol, operation, "the server has not the range that was asked for")
                    .with("server", server)
            }
            // What a hub cannot say about a model, it may be able to say later.
            200..=299 => {
                transient(ErrorKind::Protocol, operation, format!("the server answers with {status}"))
                    .with("server", server)
            }
            _ => {
                let refusal = Refusal {
                    operation,
                    server,
                    status,
                    headers: &headers,
                    body: &body,
                    credential,
                    private: &[],
                    address_hint: "check the hub's address",
                };
                let error = refusal.into_error();
                if error.hint().is_some() { error } else { error.with_hint("try again when the hub answers") }
            }
        }
    }
}

/// Whether a hub itself says that it does not have a thing, or shows it to those alone whom its owner
/// lets in, which no proxy before it says. Without a token many hubs say the same of both: Hugging
/// Face by a header, a container registry by a code in the body.
// Sources: `hf_raise_for_status` of `huggingface_hub` 1.x; the error codes of the OCI distribution
// specification 1.1.
fn is_absence(headers: &HeaderMap, body: &Value) -> bool {
    const HEADER: [&str; 4] = ["RepoNotFound", "RevisionNotFound", "EntryNotFound", "GatedRepo"];
    const BODY: [&str; 5] = ["BLOB_UNKNOWN", "DENIED", "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "UNAUTHORIZED"];
    let code = headers.get("x-error-code").and_then(|code| code.to_str().ok());
    let mut errors = body["errors"].as_array().into_iter().flatten();
    code.is_some_and(|code| HEADER.contains(&code))
        || errors.any(|error| error["code"].as_str().is_some_and(|code| BODY.contains(&code)))
}

/// An error of a hub that may pass.
pub(crate) fn transient(kind: ErrorKind, operation: &str, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message).with_fault(Fault::Infrastructure).with_retry(Retry::Backoff)
}

/// The origin that a setting gives: `https`, or plain HTTP to this machine.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] with the key.
pub(crate) fn origin(key: &str, text: &str) -> Result<Url> {
    let invalid = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::ConfigInvalid, "check the settings of a hub", message)
            .with_hint(hint)
            .with("key", key))
    };
    let form = "write https:// and a host, and a port if it is not 443";
    let Ok(url) = Url::parse(text) else { return invalid("the address is no URL", form) };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return invalid("the address does not begin with https:// and a host", form);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return invalid("the address holds a user or a password", "name the secret with the setting for it");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return invalid("the address has a path, a query or a fragment", form);
    }
    if !http::is_private(&url) {
        return invalid("plain HTTP would go to another machine", "write https://");
    }
    Ok(url)
}

/// Asks for the bytes `range`, which is not empty, of an object of `size` bytes. They
/// may be at any server.
pub(crate) fn ask_range(url: &str, range: &Range<u64>, size: u64) -> Result<HttpRequest> {
    let request = HttpRequest::get(READ, url).with_redirects(Redirects::AnyOrigin);
    if range.start == 0 && range.end == size {
        return Ok(request);
    }
    let bytes = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1));
    Ok(request.with_header(header::RANGE, bytes.map_err(|error| Error::bug(READ, error.to_string()))?))
}

/// How many bytes the object has that `answer` is about, as its server says.
pub(crate) fn stated_size(answer: &HttpResponse) -> Option<u64> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    match answer.status() {
        StatusCode::OK => text(header::CONTENT_LENGTH)?.parse().ok(),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            text(header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok()
        }
        _ => None,
    }
}

/// `answer` holds exactly the bytes `range` of `size`.
///
/// # Errors
/// Infrastructure's, which may pass: it does not.
fn check_range(answer: &HttpResponse, range: &Range<u64>, size: u64) -> Result<()> {
    let whole = range.start == 0 && range.end == size;
    match answer.status() {
        StatusCode::OK if whole => Ok(()),
        StatusCode::OK => {
            Err(transient(ErrorKind::Protocol, READ, "the server ignores that a range was asked for"))
        }
        StatusCode::PARTIAL_CONTENT => {
            let stated = answer.headers().get(header::CONTENT_RANGE);
            let stated = stated.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let wanted = format!("bytes {}-{}/", range.start, range.end - 1);
            match stated.strip_prefix(&wanted) {
                Some(total) if total == "*" || total.parse() == Ok(size) => Ok(()),
                Some(_) => Err(transient(
                    ErrorKind::Protocol,
                    READ,
                    "the server has the file in another size than is listed",
                )
                .with("listed", size)
                .with("answered", stated)),
                None => Err(transient(ErrorKind::Protocol, READ, "the server answers with another range")
                    .with("asked", wanted)
                    .with("answered", stated)),
            }
        }
        status => Err(transient(ErrorKind::Protocol, READ, format!("the server answers with {status}"))),
    }
}
