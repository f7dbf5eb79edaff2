//! What a server's refusal means: whose fault it is, how far it reaches and
//! whether to ask again.
//!
//! Servers say it by the status, by a code in the body (a number, a number as
//! text, or a name), or by words alone; some send an error inside an answer that
//! began as a success. All of them come to one [`Refusal`].

use std::time::SystemTime;

use albedo_core::http::{Credential, HeaderMap, StatusCode};
use albedo_core::{Error, ErrorKind, Fault, Reach, Retry};
use serde_json::Value;

use super::{redact, retry_after};

/// A server's refusal of one request.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// What was being done, as a verb phrase.
    pub operation: &'a str,
    /// The server, as errors name it.
    pub server: &'a str,
    /// The answer's status. One that says success stands for an error inside an
    /// answer: then the body's own code counts, else 502.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: &'a HeaderMap,
    /// The body: JSON, or a string that holds it as it is.
    pub body: &'a Value,
    /// What authorised the request.
    pub credential: Option<&'a Credential>,
    /// Texts that the server was sent and errors may not quote.
    pub private: &'a [&'a str],
    /// What to do where the server knows no such address.
    pub address_hint: &'a str,
}

/// What an error's code or type is called, in lower case and without `_` and `-`,
/// and the status that it stands for: those of the providers and servers that
/// `docs/remote-models.md` names, and of their upstreams.
const NAMES: [(&str, u16); 50] = [
    ("insufficientquota", 402),
    ("quotaexceeded", 402),
    ("exceededcurrentquotaerror", 402),
    ("billinghardlimitreached", 402),
    ("billingnotactive", 402),
    ("billingerror", 402),
    ("insufficientbalance", 402),
    ("insufficientcredits", 402),
    ("insufficientfunds", 402),
    ("insufficientuserquota", 402),
    ("paymentrequired", 402),
    ("arrearage", 402),
    ("accountdeactivated", 402),
    ("accountsuspended", 402),
    ("ratelimitexceeded", 429),
    ("ratelimiterror", 429),
    ("ratelimitreached", 429),
    ("ratelimited", 429),
    ("ratelimit", 429),
    ("toomanyrequests", 429),
    ("resourceexhausted", 429),
    ("throttlingexception", 429),
    ("throttling", 429),
    ("invalidapikey", 401),
    ("authenticationerror", 401),
    ("unauthenticated", 401),
    ("unauthorized", 401),
    ("permissionerror", 403),
    ("permissiondenied", 403),
    ("permissiondeniederror", 403),
    ("forbidden", 403),
    ("contentpolicyviolation", 403),
    ("modelnotfound", 404),
    ("notfounderror", 404),
    ("notfound", 404),
    ("contextlengthexceeded", 400),
    ("exceedcontextsizeerror", 400),
    ("invalidrequesterror", 400),
    ("badrequesterror", 400),
    ("badrequest", 400),
    ("invalidargument", 400),
    ("invalidprompt", 400),
    ("requesttoolarge", 413),
    ("timeouterror", 408),
    ("requesttimeout", 408),
    ("deadlineexceeded", 408),
    ("overloadederror", 503),
    ("overloaded", 503),
    ("unavailable", 503),
    ("serviceunavailable", 503),
];

/// Words, in lower case, of a server that refuses because of the account: its
/// key may spend no more, it is empty or it is closed. The statuses differ (400,
/// 403, 429); these are the providers' own words.
const ACCOUNT: [&str; 16] = [
    "key limit exceeded",
    "key limit reached",
    "exceeded your current quota",
    "insufficient_quota",
    "insufficient quota",
    "insufficient balance",
    "insufficient credit",
    "insufficient funds",
    "credit balance is too low",
    "not enough credits",
    "out of credits",
    "requires more credits",
    "billing hard limit",
    "spending limit",
    "account is suspended",
    "account has been deactivated",
];

impl Refusal<'_> {
    /// The error that it stands for.
    ///
    /// What the operator has to mend is the operator's, final, and reaches the
    /// duel: a key (401), an account or a key's limit (402, and whatever has a
    /// code or words for it), an address or model (404, redirections). What one
    /// request provokes (400, 403, 413, 422) is final but costs that request only,
    /// and says nothing about a contestant: moderation, a firewall or a region may
    /// be behind it. The rest may pass.
    pub fn into_error(self) -> Error {
        let error = inner(self.body);
        let said = said(self.body, error);
        let code = code(self.body, error);
        let status = self.status(code.as_deref());
        let key: Vec<_> = self.credential.iter().map(|credential| credential.expose()).collect();
        let words = redact(&said, &key, self.private.iter().copied());
        let message = |what: &str| {
            if words.is_empty() {
                format!("{what} ({status})")
            } else {
                format!("{what} ({status}): {words}")
            }
        };
        let operators = |kind, what, hint: String| {
            let error = Error::new(kind, self.operation, message(what));
            error.with_fault(Fault::Operator).with_reach(Reach::Duel).with_retry(Retry::Never).with_hint(hint)
        };
        let key_name = match self.credential {
            Some(credential) => format!("the key in {}", credential.source()),
            None => "`key_env`, which names no variable".to_owned(),
        };
        let passing = |kind, what| {
            let retry = retry_after(self.headers, SystemTime::now()).map_or(Retry::Backoff, Retry::After);
            Error::new(kind, self.operation, message(what)).with_retry(retry)
        };
        let refused = || {
            let error =
                Error::new(ErrorKind::Refused, self.operation, message("the server refuses the request"));
            error.with_fault(Fault::Infrastructure).with_retry(Retry::Never)
        };
        let account = matches!(status.as_u16(), 400..=499) && self.is_account(&words);
        let error = match status.as_u16() {
            401 => {
                operators(ErrorKind::Unavailable, "the server refuses the key", format!("check {key_name}"))
            }
            402 => {
                operators(ErrorKind::ResourceExhausted, "the account is empty", format!("pay for {key_name}"))
            }
            _ if account => operators(
                ErrorKind::ResourceExhausted,
                "the account or its key may spend no more",
                format!("pay for {key_name}, or raise its limit"),
            ),
            404 => operators(
                ErrorKind::NotFound,
                "the server has no such address or model",
                self.address_hint.to_owned(),
            ),
            300..=399 => operators(
                ErrorKind::NotFound,
                "the server redirects, which is not followed",
                "set the address to where it redirects".into(),
            ),
            429 => passing(ErrorKind::RateLimited, "the server asks to slow down"),
            408 => passing(ErrorKind::Timeout, "the server gave up waiting"),
            409 | 425 | 500.. => passing(ErrorKind::Unavailable, "the server failed"),
            _ => refused(),
        };
        let code = code.map(|code| redact(&code, &key, self.private.iter().copied()));
        let error = error.with("server", self.server);
        match code.filter(|code| !code.is_empty() && *code != status.as_str()) {
            Some(code) => error.with("code", code),
            None => error,
        }
    }

    /// The status that counts: that of the answer, or of the error inside it. A
    /// code that says that the account may spend no more counts beside any other
    /// status.
    fn status(&self, code: Option<&str>) -> StatusCode {
        let meant = code.and_then(meaning).or_else(|| {
            let error = inner(self.body);
            ["type", "status"].iter().find_map(|key| meaning(error.get(key)?.as_str()?))
        });
        if meant == Some(StatusCode::PAYMENT_REQUIRED) || !self.status.is_success() {
            return meant.filter(|meant| meant.as_u16() == 402).unwrap_or(self.status);
        }
        meant.unwrap_or(StatusCode::BAD_GATEWAY)
    }

    /// Whether `words`, which no longer quote what the server was sent, say that
    /// the account may spend no more. A phrase that the server was sent itself
    /// says nothing: a contestant may have written it.
    fn is_account(&self, words: &str) -> bool {
        let words = words.to_ascii_lowercase();
        let sent = |phrase: &str| self.private.iter().any(|text| text.to_ascii_lowercase().contains(phrase));
        ACCOUNT.iter().any(|phrase| words.contains(phrase) && !sent(phrase))
    }
}

/// Whether `body` is an error, in any of the shapes in which servers put one into
/// an answer that began as a success: a member `error` or `errors` that holds
/// something, an object that calls itself an error, or one that has words and no
/// answer.
#[cfg(feature = "openai")]
pub(crate) fn is_error(body: &Value) -> bool {
    let holds = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    };
    let named = |key: &str| body.get(key).and_then(Value::as_str) == Some("error");
    if ["error", "errors"].iter().any(|key| body.get(key).is_some_and(holds))
        || ["object", "type", "status"].iter().any(|key| named(key))
        || body.get("success").and_then(Value::as_bool) == Some(false)
    {
        return true;
    }
    let answers = ["choices", "usage", "content", "response"].iter().any(|key| body.get(key).is_some());
    let worded = ["message", "detail", "msg", "error_msg"];
    !answers
        && worded.iter().any(|key| body.get(key).is_some_and(|words| words.is_string() || words.is_array()))
}

/// The error itself: a member of the body, or the body.
fn inner(body: &Value) -> &Value {
    match body.get("error").filter(|error| !error.is_null()) {
        Some(error) => error,
        None => match body.get("errors") {
            Some(Value::Array(errors)) => errors.first().unwrap_or(body),
            _ => body,
        },
    }
}

/// The server's words.
fn said(body: &Value, error: &Value) -> String {
    let words = |value: &Value| match value {
        Value::String(text) => (!text.is_empty()).then(|| plain(text)),
        // FastAPI's list of what is wrong with a request.
        Value::Array(several) => {
            let each = several.iter().filter_map(|one| one.as_str().or_else(|| one.get("msg")?.as_str()));
            let joined = each.collect::<Vec<_>>().join("; ");
            (!joined.is_empty()).then_some(joined)
        }
        Value::Object(_) => value.get("message").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let keys = ["message", "detail", "msg", "error_msg", "error_description", "error"];
    let members = [error, body].into_iter().flat_map(|value| keys.iter().filter_map(|key| value.get(key)));
    let first = members.chain([error]).find_map(words).unwrap_or_default();
    // OpenRouter's own words are "Provider returned error"; the provider's lie here.
    match error.get("metadata").and_then(|metadata| metadata.get("raw")).and_then(Value::as_str) {
        Some(raw) if !raw.is_empty() => format!("{first}: {raw}"),
        _ => first,
    }
}

/// The title of a web page, or else `text` as it is.
fn plain(text: &str) -> String {
    if !text.trim_start().starts_with('<') {
        return text.to_owned();
    }
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    title.map_or("a web page", |(title, _)| title.trim()).to_owned()
}

/// The code that the server gives, as text.
fn code(body: &Value, error: &Value) -> Option<String> {
    let keys = ["code", "error_code", "status_code", "http_code", "http_status", "status"];
    let members = [error, body].into_iter().flat_map(|value| keys.iter().filter_map(|key| value.get(key)));
    let mut codes = members.filter_map(|code| match code {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() && text != "error" => Some(text.clone()),
        _ => None,
    });
    codes.next()
}

/// The status that a code or a name stands for, if it is one of a refusal.
fn meaning(code: &str) -> Option<StatusCode> {
    let status = if let Ok(number) = code.parse::<f64>() {
        Some(number as u16)
    } else {
        let name: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = name.to_ascii_lowercase();
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, status)| *status)
    };
    status.and_then(|status| StatusCode::from_u16(status).ok()).filter(|status| status.as_u16() >= 300)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(status: u16, body: &Value, private: &[&str]) -> Error {
        Refusal {
            operation: "ask",
            server: "http://h/v1",
            status: StatusCode::from_u16(status).expect("a status"),
            headers: &HeaderMap::new(),
            body,
            credential: None,
            private,
            address_hint: "check it",
        }
        .into_error()
    }

    #[test]
    fn an_account_that_may_spend_no_more_is_the_operators_whatever_the_status() {
        for (status, body) in [
            (402, json!({})),
            (403, json!({ "error": { "message": "Key limit exceeded (total limit).", "code": 403 } })),
            (429, json!({ "error": { "code": "insufficient_quota", "message": "spent" } })),
            (429, json!({ "error": { "type": "insufficient_quota", "code": null, "message": "spent" } })),
            (429, json!({ "error": { "message": "You exceeded your current quota, check your plan" } })),
            (400, json!({ "type": "error", "error": { "message": "Your credit balance is too low" } })),
            (400, json!({ "code": "Arrearage", "message": "Access denied" })),
            (429, json!({ "error": { "type": "exceeded_current_quota_error", "message": "x" } })),
            (200, json!({ "error": { "code": 402, "message": "x" } })),
            (200, json!({ "error": { "code": "402" } })),
            (200, json!({ "error": "Insufficient Balance", "code": 403 })),
        ] {
            let error = refused(status, &body, &[]);
            let verdict = (error.kind(), error.fault(), error.reach(), error.retry());
            let expected = (ErrorKind::ResourceExhausted, Fault::Operator, Reach::Duel, Retry::Never);
            assert_eq!(verdict, expected, "{status} {body}: {error}");
        }
        // What a contestant wrote and the server quotes closes no account.
        let body = json!({ "error": { "message": "refused: 'key limit exceeded'" } });
        let error = refused(403, &body, &["my reply is: Key limit exceeded"]);
        assert_eq!((error.fault(), error.reach()), (Fault::Infrastructure, Reach::Call), "{error}");
    }

    #[test]
    fn codes_count_in_every_spelling_and_the_servers_words_are_told() {
        for (body, kind, words) in [
            (json!({ "error": { "code": 429, "message": "slow" } }), ErrorKind::RateLimited, "slow"),
            (json!({ "error": { "code": "429", "message": "slow" } }), ErrorKind::RateLimited, "slow"),
            (json!({ "error": { "code": "rate_limit_exceeded" } }), ErrorKind::RateLimited, "rate_limit"),
            (json!({ "error": { "type": "rate_limit_error", "message": "s" } }), ErrorKind::RateLimited, "s"),
            (json!({ "error": { "status": "RESOURCE_EXHAUSTED", "code": 429 } }), ErrorKind::RateLimited, ""),
            (
                json!({ "error": { "type": "overloaded_error", "message": "b" } }),
                ErrorKind::Unavailable,
                "503",
            ),
            (
                json!({ "object": "error", "message": "too long", "code": 400 }),
                ErrorKind::Refused,
                "too long",
            ),
            (json!({ "detail": [{ "msg": "bad field" }] }), ErrorKind::Unavailable, "bad field"),
            (json!({ "errors": [{ "message": "first", "code": 400 }] }), ErrorKind::Refused, "first"),
            (json!({ "error": "model is loading" }), ErrorKind::Unavailable, "model is loading"),
            (json!({ "error": { "code": "invalid_api_key" } }), ErrorKind::Unavailable, "401"),
            (
                json!({ "error": { "message": "Provider returned error", "code": 500,
                    "metadata": { "raw": "the engine died" } } }),
                ErrorKind::Unavailable,
                "the engine died",
            ),
        ] {
            assert!(is_error(&body), "{body}");
            let error = refused(200, &body, &[]);
            assert_eq!(error.kind(), kind, "{body}: {error}");
            assert!(error.to_string().contains(words), "{body}: {error}");
        }
        let page = json!("<html><head><title>502 Bad Gateway</title></head><body>cloud</body></html>");
        assert!(refused(502, &page, &[]).to_string().contains(": 502 Bad Gateway ("));
    }

    #[test]
    fn an_answer_is_no_error() {
        for body in [
            json!({ "choices": [], "error": null }),
            json!({ "choices": [], "message": "hello" }),
            json!({ "usage": {}, "error": {} }),
            json!({ "type": "ping" }),
            json!({ "id": "x", "object": "chat.completion.chunk" }),
            json!(null),
            json!([]),
        ] {
            assert!(!is_error(&body), "{body}");
        }
    }
}
