//! Requests to one server with one key, and what its refusals mean.

use std::fmt;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use albedo_core::{CallContext, Error, ErrorKind, Fault, Message, Reach, Result, Retry};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde_json::Value;

use super::limits;

/// For connecting only, ours: what comes after is for the caller to bound.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of an answer that are read: ours, above any reply of a judge.
pub(super) const MAX_BODY: usize = 16 << 20;

/// Most bytes of an error's body that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Most characters of the provider's own words in an error.
const MAX_WORDS: usize = 300;

/// OpenRouter's words, in lower case, for a key that may spend no more: it answers
/// 403, as to a request that it refuses.
const KEY_LIMIT: &str = "key limit exceeded";

/// A quotation of the prompt in the provider's words, in characters.
const QUOTATION: usize = 24;

/// A key, which nothing prints.
#[derive(Clone)]
pub(super) struct Key {
    /// The environment variable that it is from.
    variable: String,
    secret: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key in {}", self.variable)
    }
}

impl Key {
    /// The key `secret`, which is named `variable`.
    ///
    /// # Errors
    /// The operator's: it is empty, or holds what cannot be sent.
    pub(super) fn new(variable: &str, secret: impl AsRef<str>) -> Result<Self> {
        let secret = secret.as_ref().trim().to_owned();
        let key = Self { variable: variable.to_owned(), secret };
        let invalid = |message: &str| {
            Err(Error::new(ErrorKind::Unavailable, "read the provider's key", message)
                .with_fault(Fault::Operator)
                .with_reach(Reach::Duel)
                .with_retry(Retry::Never)
                .with("variable", variable)
                .with_hint("set the variable to the key, or `key_env` to the variable that holds it"))
        };
        if key.secret.is_empty() {
            return invalid("the environment variable is not set");
        }
        if key.header().is_none() {
            return invalid("the environment variable holds characters that no key has");
        }
        Ok(key)
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.secret)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    base: String,
    key: Option<Key>,
}

impl Server {
    /// The server at `base`, for example `https://llm.chutes.ai/v1`.
    ///
    /// # Errors
    /// The operator's: the TLS library or the system's certificates are unusable.
    #[expect(clippy::disallowed_methods, reason = "this is the transport")]
    pub(super) fn new(base: &str, key: Option<Key>) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        // An embedder who has installed another keeps it.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let headers = key.as_ref().and_then(Key::header).map(|key| (AUTHORIZATION, key)).into_iter();
        let client = Client::builder()
            .user_agent(concat!("albedo/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.collect())
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirection would take the key to a server that nobody named.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::ConfigInvalid, "prepare the HTTP client", chain(&error))
                    .with_hint("check the system's root certificates")
            })?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), key })
    }

    /// `GET path`, read whole.
    pub(super) async fn get(&self, operation: &str, path: &str) -> Result<Vec<u8>> {
        let request = self.client.get(format!("{}{path}", self.base));
        let response = request.send().await.map_err(|error| self.failed(operation, &error))?;
        if !response.status().is_success() {
            return Err(self.refusal(operation, response, &[]).await);
        }
        self.read(operation, response, MAX_BODY).await
    }

    /// `POST path` with a JSON `body` made of `messages`; the answer's headers
    /// have arrived.
    pub(super) async fn post(
        &self,
        operation: &str,
        path: &str,
        body: Vec<u8>,
        messages: &[Message],
        cx: &CallContext,
    ) -> Result<Response> {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| self.failed(operation, &error))?;
        if let Some(limit) = limits::limit(response.headers(), SystemTime::now()) {
            cx.signal(limit);
        }
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(operation, response, messages).await)
        }
    }

    /// The body of `response`, no longer than `most`.
    pub(super) async fn read(&self, operation: &str, mut response: Response, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.failed(operation, &error))? {
            if bytes.len() + piece.len() > most {
                return Err(too_long(operation, most));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The connection failed, before the answer or within it.
    pub(super) fn failed(&self, operation: &str, error: &reqwest::Error) -> Error {
        let hint = error.is_connect().then_some("check `base_url` and the network");
        let error = Error::new(ErrorKind::Unavailable, operation, self.redact(&chain(error), &[]))
            .with("server", &self.base);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    async fn refusal(&self, operation: &str, response: Response, messages: &[Message]) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read(operation, response, MAX_ERROR_BODY).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.refused(operation, status, &headers, &body, messages)
    }

    /// The error that `status` and the provider's `body` stand for.
    ///
    /// What the operator has to mend is the operator's, final, and reaches the
    /// duel: a key (401), an account or a key's limit (402, 429, 403), an address
    /// or model (404, redirections). What one request provokes (400, 403, 413,
    /// 422) is final but costs that request only, and says nothing about a
    /// contestant: moderation, a firewall or a region may be behind it. The rest
    /// may pass.
    pub(super) fn refused(
        &self,
        operation: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Value,
        messages: &[Message],
    ) -> Error {
        let inner = body.get("error").filter(|error| !error.is_null()).unwrap_or(body);
        let code = inner.get("code").and_then(Value::as_str).unwrap_or_default();
        let words = [inner.get("message"), body.get("detail"), body.get("message"), Some(inner)];
        let words = words.into_iter().flatten().find_map(Value::as_str).unwrap_or_default();
        let limited = words.to_ascii_lowercase().contains(KEY_LIMIT);
        let words = self.redact(words, messages);
        let message = |what: &str| {
            if words.is_empty() {
                format!("{what} ({status})")
            } else {
                format!("{what} ({status}): {words}")
            }
        };
        let operators = |kind, what, hint: String| {
            let error = Error::new(kind, operation, message(what));
            error.with_fault(Fault::Operator).with_reach(Reach::Duel).with_retry(Retry::Never).with_hint(hint)
        };
        let key = match &self.key {
            Some(key) => format!("the key in {}", key.variable),
            None => "`key_env`, which names no variable".to_owned(),
        };
        let passing = |kind, what| {
            let retry = limits::retry_after(headers, SystemTime::now()).map_or(Retry::Backoff, Retry::After);
            Error::new(kind, operation, message(what)).with_retry(retry)
        };
        let refused = |kind| {
            let error = Error::new(kind, operation, message("the server refuses the request"));
            error.with_fault(Fault::Infrastructure).with_retry(Retry::Never)
        };
        let error = match status.as_u16() {
            401 => operators(ErrorKind::Unavailable, "the server refuses the key", format!("check {key}")),
            402 => operators(ErrorKind::ResourceExhausted, "the account is empty", format!("pay for {key}")),
            429 if code == "insufficient_quota" => {
                operators(ErrorKind::ResourceExhausted, "the quota is used up", format!("pay for {key}"))
            }
            403 if limited => operators(
                ErrorKind::ResourceExhausted,
                "the key's limit is reached",
                format!("raise that of {key}"),
            ),
            404 => operators(
                ErrorKind::NotFound,
                "the server has no such address or model",
                "check `base_url`, which usually ends in /v1, and `model`".into(),
            ),
            300..=399 => operators(
                ErrorKind::NotFound,
                "the server redirects, which is not followed",
                "set `base_url` to where it redirects".into(),
            ),
            429 => passing(ErrorKind::RateLimited, "the server asks to slow down"),
            408 => passing(ErrorKind::Timeout, "the server gave up waiting"),
            409 | 425 | 500.. => passing(ErrorKind::Unavailable, "the server failed"),
            403 => refused(ErrorKind::Unavailable),
            _ => refused(ErrorKind::DataInvalid),
        };
        error.with("server", &self.base)
    }

    /// `words` on one line of bounded length, without the key and without
    /// anything that quotes `messages`.
    fn redact(&self, words: &str, messages: &[Message]) -> String {
        let words = match &self.key {
            Some(key) => words.replace(&key.secret, "[key]"),
            None => words.to_owned(),
        };
        let words: String =
            words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS).collect();
        let starts: Vec<_> = words.char_indices().map(|(at, _)| at).chain([words.len()]).collect();
        let quotes = starts.windows(QUOTATION + 1).any(|window| {
            let quoted = &words[window[0]..window[QUOTATION]];
            messages.iter().any(|message| message.content.contains(quoted))
        });
        if quotes { "its words quote the prompt and are left out".into() } else { words }
    }
}

/// An answer without an end.
pub(super) fn too_long(operation: &str, most: usize) -> Error {
    Error::new(ErrorKind::Protocol, operation, format!("the server's answer has more than {most} bytes"))
}

/// Checks that `base` is the address of a server and holds no secret.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`].
pub(super) fn check_base(base: &str) -> Result<()> {
    let invalid = |message: &str| {
        Err(Error::new(ErrorKind::ConfigInvalid, "check the server's address", message)
            .with_hint("set `base_url` to something like https://llm.chutes.ai/v1"))
    };
    let Ok(url) = Url::parse(base) else { return invalid("`base_url` is no URL") };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return invalid("`base_url` does not begin with https:// or http:// and a host");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return invalid("`base_url` holds a user, a password or a query: keys belong in `key_env`");
    }
    Ok(())
}

/// An error and its causes on one line, without the address.
fn chain(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    words.dedup();
    if words.is_empty() { "the connection failed".into() } else { words.join(": ") }
}
