//! Requests to one server with one key.

use std::sync::Arc;
use std::time::SystemTime;

use albedo_core::http::header::CONTENT_ENCODING;
use albedo_core::http::{Credential, HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use albedo_core::{CallContext, Error, ErrorKind, Message, Result, Retry};
use serde_json::Value;

use super::{lenient, limits};
use crate::http::Refusal;

/// Most bytes of an answer that are read. Source: albedo; above any reply of a judge.
pub(super) const MAX_BODY: usize = 16 << 20;

/// Most bytes of an error's body that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

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
        if !response.status().is_success() {
            return Err(self.refusal(operation, response, messages).await);
        }
        match encoding(response.headers()) {
            None => Ok(response),
            Some(encoding) => {
                let message =
                    format!("the server compressed its answer (`{encoding}`), which nobody asked for");
                Err(Error::new(ErrorKind::Protocol, operation, message)
                    .with_retry(Retry::Never)
                    .with("server", &self.base)
                    .with_hint(
                        "switch the compression of answers off at the server, or at a proxy before it",
                    ))
            }
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
        let body = lenient::value(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).trim().to_owned()));
        self.refused(operation, status, &headers, &body, messages)
    }

    /// The error that `status` and the provider's `body` stand for; a status of
    /// success is that of an answer with an error in it.
    pub(super) fn refused(
        &self,
        operation: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Value,
        messages: &[Message],
    ) -> Error {
        let private: Vec<_> = messages.iter().map(|message| message.content.as_str()).collect();
        let address_hint = if operation == super::LOAD {
            "check `base_url`, which usually ends in /v1; `check_model = false` does without a list of models"
        } else {
            "check `base_url`, which usually ends in /v1, and `model`"
        };
        let refusal = Refusal {
            operation,
            server: &self.base,
            status,
            headers,
            body,
            credential: self.key.as_ref(),
            private: &private,
            address_hint,
        };
        refusal.into_error()
    }
}

/// How a body is encoded, if it is.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let encoding =
        headers.get(CONTENT_ENCODING)?.to_str().unwrap_or("unreadable").trim().to_ascii_lowercase();
    (!matches!(&*encoding, "" | "identity")).then(|| encoding.escape_debug().take(40).collect())
}

/// An answer without an end.
pub(super) fn too_long(operation: &str, most: usize) -> Error {
    Error::new(ErrorKind::Protocol, operation, format!("the server's answer has more than {most} bytes"))
}
