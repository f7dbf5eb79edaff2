//! Requests to a hub: bounded, retried, and given up where no progress is made.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::http::{
    Credential, HeaderMap, HeaderValue, HttpRequest, HttpResponse, HttpTransport, Redirects, StatusCode,
    header,
};
use albedo_core::{BuildContext, CallContext, Clock, Error, ErrorKind, Fault, Result, Retry};
use reqwest::Url;
use serde_json::Value;

use crate::http::{self, Refusal, Stall};

pub(crate) const READ: &str = "read a model's file at its hub";

/// The remedy for a model with more bytes than a hub's `max_model_bytes`.
pub(crate) const TOO_LARGE: &str =
    "hand in a smaller model; an operator who has to load this one raises the hub's `max_model_bytes`";

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
        self.stall().within(&operation, self.http.send(request, cx), cx).await?
    }

    fn stall(&self) -> Stall {
        Stall::new(Arc::clone(&self.clock), self.patience.stall, self.patience.least)
    }

    /// The body of `answer`, at most `most` bytes of it, as long as it makes progress.
    pub(crate) async fn body(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        most: usize,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        self.stall().body(operation, answer, most, cx).await
    }

    /// Hands the body of `answer` to `each` as it comes, as long as it makes progress.
    pub(crate) async fn chunks(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        cx: &CallContext,
        each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.stall().pieces(operation, answer, cx, each).await
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

    /// The error that an answer stands for which is no success. It is an absence only if the hub
    /// itself says so ([`absence`]). No status alone does: proxies and ingresses send 401, 403 and
    /// 404, too, and may end no submission.
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
        let said_by = absence(status, &headers, &body, credential.is_some());
        match (status.as_u16(), said_by) {
            // A file that was listed before may come back: it is asked for again. Hugging Face lists a
            // gated repository to everybody, and refuses its files alone.
            (404, Some(_)) | (401 | 403, Some(Hub::HuggingFace)) if operation == READ => {
                let message = "the hub says that it does not have a file that it lists, or does not show it";
                error(ErrorKind::NotFound, format!("{message} ({status})"))
                    .with_retry(Retry::Backoff)
                    .with_hint("upload the model again, open its repository, or name another revision")
            }
            (404, Some(_)) => {
                error(ErrorKind::NotFound, "the hub has no such repository, revision or file".into())
                    .with_hint("check the reference")
            }
            (404, None) => {
                let message = "the answer is 404 without the hub's own error code";
                transient(ErrorKind::Unavailable, operation, message).with("server", server).with_hint(
                    "try again; if it stays so, check the hub's address and what is in front of it",
                )
            }
            (401 | 403, Some(_)) => {
                let without = if credential.is_some() { "to this key" } else { "without a key" };
                error(ErrorKind::NotFound, format!("the hub does not show it {without} ({status})"))
                    .with_hint("check the reference, or configure a key that may read it")
            }
            (401 | 403, None) if credential.is_none() => {
                let message = format!("the answer is {status} without the hub's own error code");
                let error = error(ErrorKind::Unavailable, message)
                    .with_hint("check what is in front of the hub, or configure a key that may read it");
                // It was listed before: a signed address that has run out is asked for again.
                if operation == READ {
                    error
                } else {
                    error.with_fault(Fault::Operator).with_retry(Retry::Never)
                }
            }
            (403, _) => error(ErrorKind::Unavailable, format!("the hub refuses the key ({status})"))
                .with_fault(Fault::Operator)
                .with_retry(Retry::Never)
                .with_hint("use a key that may do this"),
            (300..=399, _) => {
                let message = format!("the server redirects, which is not followed ({status})");
                error(ErrorKind::Unavailable, message)
                    .with_fault(Fault::Operator)
                    .with_retry(Retry::Never)
                    .with_hint("check the hub's address")
            }
            (416, _) => {
                transient(ErrorKind::Protocol, operation, "the server has not the range that was asked for")
                    .with("server", server)
            }
            // What a hub cannot say about a model, it may be able to say later.
            (200..=299, _) => {
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

/// A kind of hub, by how it says that it does not have a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hub {
    HuggingFace,
    Registry,
}

/// The header `X-Error-Code` of Hugging Face. Source: `hf_raise_for_status` of `huggingface_hub` 2.4.
const CODES: [&str; 4] = ["RepoNotFound", "RevisionNotFound", "EntryNotFound", "GatedRepo"];

/// The header `X-Error-Message` of Hugging Face for a key that is none. Source: as above.
const NO_KEY: &str = "Invalid credentials in Authorization header";

/// Codes of a registry that does not have a thing. Source: the OCI distribution specification 1.1;
/// `docker-registry` 2.8.2 answers with the first two.
const UNKNOWN: [&str; 3] = ["BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"];

/// Codes of a registry that does not show a thing, or does not have it. Source: as above.
const WITHHELD: [&str; 2] = ["DENIED", "UNAUTHORIZED"];

/// How messages begin that Harbor sends with its code `NOT_FOUND`. The code alone may be a gateway's:
/// the specification does not have it. Source: `artifact OWNER/MODEL@DIGEST not found` and its like
/// in `src/pkg/{artifact,repository,project}` of Harbor in August 2026.
const HARBOR: [&str; 3] = ["artifact ", "repository ", "project "];

/// The hub that says in this answer that it does not have a thing, or shows it to those alone whom
/// its owner lets in. `body` is JSON, or the text as it is. `None`: the answer may be that of a
/// proxy, or it is about the key and not about the thing.
fn absence(status: StatusCode, headers: &HeaderMap, body: &Value, with_key: bool) -> Option<Hub> {
    let is_unauthorized = status == StatusCode::UNAUTHORIZED;
    if is_unauthorized && with_key {
        return None;
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("x-error-code").is_some_and(|code| CODES.contains(&code)) {
        return Some(Hub::HuggingFace);
    }
    // Hugging Face answers 401 without a code if it is asked without a key for a repository that it
    // does not have or does not show. `hf_raise_for_status` takes every 401 for that, except with one
    // message. Here the hub's header has to be there, too, and the body has to repeat it: no proxy's
    // 401 is like that. Source: answers of huggingface.co, published in July and September 2026. The
    // body is `{"error": MESSAGE}` from the API and `MESSAGE` from the address of a file.
    let repeats = |message: &str| [body["error"].as_str(), body.as_str()].contains(&Some(message));
    let message = header("x-error-message");
    if is_unauthorized && message.is_some_and(|message| message != NO_KEY && repeats(message)) {
        return Some(Hub::HuggingFace);
    }
    // With a key `WITHHELD` says nothing about the repository: Amazon's registry says `DENIED` to a key
    // that has run out, and Harbor `UNAUTHORIZED` to a wrong password.
    let says_so = |error: &Value| {
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        let (code, message) = (text("code"), text("message"));
        UNKNOWN.contains(&code)
            || (WITHHELD.contains(&code) && !with_key)
            || (code == "NOT_FOUND" && HARBOR.iter().any(|begin| message.starts_with(begin)))
    };
    let mut errors = body["errors"].as_array().into_iter().flatten();
    errors.any(says_so).then_some(Hub::Registry)
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
