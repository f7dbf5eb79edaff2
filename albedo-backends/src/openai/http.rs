//! Requests to one server with one key, and what its refusals mean.

use std::sync::Arc;
use std::time::SystemTime;

use albedo_core::http::{Credential, HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use albedo_core::{CallContext, Error, ErrorKind, Fault, Message, Reach, Result, Retry};
use reqwest::Url;
use serde_json::Value;

use super::limits;
use crate::http::{is_private, redact, retry_after};

/// Most bytes of an answer that are read: ours, above any reply of a judge.
pub(super) const MAX_BODY: usize = 16 << 20;

/// Most bytes of an error's body that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// OpenRouter's words, in lower case, for a key that may spend no more: it answers
/// 403, as to a request that it refuses.
const KEY_LIMIT: &str = "key limit exceeded";

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    transport: Arc<dyn HttpTransport>,
    base: String,
    key: Option<Credential>,
    /// The key may go over plain HTTP to another machine.
    plain_key: bool,
}

impl Server {
    /// The server at `base`, for example `https://llm.chutes.ai/v1`.
    pub(super) fn new(
        transport: Arc<dyn HttpTransport>,
        base: &str,
        key: Option<Credential>,
        plain_key: bool,
    ) -> Self {
        Self { transport, base: base.trim_end_matches('/').to_owned(), key, plain_key }
    }

    /// `GET path`, read whole.
    pub(super) async fn get(&self, operation: &str, path: &str, cx: &CallContext) -> Result<Vec<u8>> {
        let request = HttpRequest::get(operation, format!("{}{path}", self.base));
        let mut response = self.send(request, cx).await?;
        if !response.status().is_success() {
            return Err(self.refusal(operation, response, &[]).await);
        }
        response.read(MAX_BODY).await
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
    ) -> Result<HttpResponse> {
        let request = HttpRequest::post_json(operation, format!("{}{path}", self.base), body);
        let response = self.send(request, cx).await?;
        if let Some(limit) = limits::limit(response.headers(), SystemTime::now()) {
            cx.signal(limit);
        }
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(operation, response, messages).await)
        }
    }

    async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse> {
        let request = match &self.key {
            Some(key) => request.with_credential(key.clone()).with_plain_credential(self.plain_key),
            None => request,
        };
        self.transport.send(request, cx).await
    }

    async fn refusal(&self, operation: &str, mut response: HttpResponse, messages: &[Message]) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.read(MAX_ERROR_BODY).await.unwrap_or_default();
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
            Some(key) => format!("the key in {}", key.source()),
            None => "`key_env`, which names no variable".to_owned(),
        };
        let passing = |kind, what| {
            let retry = retry_after(headers, SystemTime::now()).map_or(Retry::Backoff, Retry::After);
            Error::new(kind, operation, message(what)).with_retry(retry)
        };
        let refused = || {
            let error = Error::new(ErrorKind::Refused, operation, message("the server refuses the request"));
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
            _ => refused(),
        };
        error.with("server", &self.base)
    }

    /// What of `words` may be printed: neither the key nor anything that quotes
    /// `messages`.
    fn redact(&self, words: &str, messages: &[Message]) -> String {
        let key: Vec<_> = self.key.iter().map(Credential::expose).collect();
        redact(words, &key, messages.iter().map(|message| message.content.as_str()))
    }
}

/// An answer without an end.
pub(super) fn too_long(operation: &str, most: usize) -> Error {
    Error::new(ErrorKind::Protocol, operation, format!("the server's answer has more than {most} bytes"))
}

/// Checks that `base` is the address of a server and holds no secret, and that a
/// key (`keyed`) is not read on the way to it.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`].
pub(super) fn check_base(base: &str, keyed: bool) -> Result<()> {
    let invalid = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::ConfigInvalid, "check the server's address", message).with_hint(hint))
    };
    let example = "set `base_url` to something like https://llm.chutes.ai/v1";
    let Ok(url) = Url::parse(base) else { return invalid("`base_url` is no URL", example) };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return invalid("`base_url` does not begin with https:// or http:// and a host", example);
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        let message = "`base_url` holds a user, a password or a query: keys belong in `key_env`";
        return invalid(message, example);
    }
    if keyed && !is_private(&url) {
        return invalid(
            "`base_url` is plain HTTP to another machine: everybody on the way could read the key",
            "use https, leave `key_env` out, or set `allow_plain_http = true`",
        );
    }
    Ok(())
}
