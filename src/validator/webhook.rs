//! Alerts for the operator: one POST per alert that begins or ends.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ledger::Alert;
use crate::backends::http;
use crate::chain::{Hotkey, NetUid};
use crate::http::{HttpRequest, HttpTransport};
use crate::registry::Secret;
use crate::{BuildContext, CallContext, Error, ErrorKind, Result};

const OPERATION: &str = "send an alert";

/// Where alerts are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Name of the secret (an environment variable, or a credential of systemd) with the
    /// URL, which is often a key itself.
    pub url_env: String,
    /// The form of the message.
    #[serde(default)]
    pub form: Form,
    /// Seconds that an outage stands before its alert is sent. A bug, and what an operator
    /// has to mend, is sent at once.
    #[serde(default = "two_minutes")]
    pub after_secs: u64,
    /// Seconds within which the same alert is not sent twice.
    #[serde(default = "an_hour")]
    pub quiet_secs: u64,
}

/// The form of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// An object with a key per fact.
    #[default]
    Json,
    /// Slack's incoming webhooks, and whatever takes `{"text": …}`.
    Slack,
}

fn two_minutes() -> u64 {
    120
}

fn an_hour() -> u64 {
    3600
}

/// An alert that begins or ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    pub(super) alert: Alert,
    /// It is well again.
    pub(super) is_over: bool,
}

/// Sends notices.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) settings: WebhookSettings,
    url: Secret,
    transport: Arc<dyn HttpTransport>,
    hotkey: Hotkey,
    netuid: NetUid,
}

impl Webhook {
    pub(super) fn new(
        settings: &WebhookSettings,
        hotkey: Hotkey,
        netuid: NetUid,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let url = cx.secret(&settings.url_env)?;
        Ok(Self { settings: settings.clone(), url, transport: http::transport(cx), hotkey, netuid })
    }

    /// Sends the notice, once.
    ///
    /// # Errors
    /// The webhook does not answer, or not with success. No error holds its URL.
    pub(super) async fn tell(&self, notice: &Notice, cx: &CallContext) -> Result<()> {
        let body = message(notice, self.settings.form, &self.hotkey, self.netuid).to_string();
        let request = HttpRequest::post_json(OPERATION, self.url.expose(), body);
        let failed = |message: String| {
            Error::new(ErrorKind::Unavailable, OPERATION, message)
                .with("url_env", &self.settings.url_env)
                .with_hint("check the webhook's URL and its server")
        };
        match self.transport.send(request, cx).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(failed(format!("the webhook answers {}", answer.status()))),
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            // Its text may hold the URL.
            Err(error) => Err(failed(format!("the webhook cannot be reached: {:?}", error.kind()))),
        }
    }
}

/// What is sent.
fn message(notice: &Notice, form: Form, hotkey: &Hotkey, netuid: NetUid) -> Value {
    let Notice { alert: Alert { key, message, fault, first_ms, last_ms, count }, is_over } = notice;
    let state = if *is_over { "over" } else { "raised" };
    match form {
        Form::Json => json!({
            "format": 1, "validator": hotkey, "subnet": netuid, "alert": key, "state": state, "fault": fault,
            "message": message, "since": first_ms / 1000, "last": last_ms / 1000, "count": count,
        }),
        Form::Slack => {
            let text = if *is_over {
                format!("albedo, subnet {}: over: {key}", netuid.0)
            } else {
                format!("albedo, subnet {}: {key} ({fault}): {message}", netuid.0)
            };
            json!({ "text": text })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::http::{HeaderMap, HttpResponse, StatusCode};

    #[derive(Debug)]
    struct Scripted(Mutex<Vec<String>>, Option<StatusCode>);

    #[async_trait]
    impl HttpTransport for Scripted {
        async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            self.0.lock().expect("no panic").push(String::from_utf8_lossy(request.body()).into_owned());
            match self.1 {
                Some(status) => Ok(HttpResponse::whole(status, HeaderMap::new(), "")),
                None => Err(Error::new(ErrorKind::Unavailable, OPERATION, "no route to https://hook/SECRET")),
            }
        }
    }

    fn notice(is_over: bool) -> Notice {
        let alert = Alert {
            key: "weights".into(),
            message: "the chain is away".into(),
            fault: "infrastructure".into(),
            first_ms: 5000,
            last_ms: 9000,
            count: 3,
        };
        Notice { alert, is_over }
    }

    fn webhook(form: Form, status: Option<StatusCode>) -> (Webhook, Arc<Scripted>) {
        let transport = Arc::new(Scripted(Mutex::default(), status));
        let settings = WebhookSettings { url_env: "HOOK".into(), form, after_secs: 120, quiet_secs: 3600 };
        let webhook = Webhook {
            settings,
            url: Secret::new("https://hook/SECRET"),
            transport: Arc::clone(&transport) as Arc<dyn HttpTransport>,
            hotkey: Hotkey("5F".into()),
            netuid: NetUid(97),
        };
        (webhook, transport)
    }

    #[tokio::test]
    async fn both_forms_say_what_is_wrong() {
        let cx = CallContext::new();
        let (webhook, sent) = self::webhook(Form::Json, Some(StatusCode::OK));
        webhook.tell(&notice(false), &cx).await.expect("sent");
        let body: Value = serde_json::from_str(&sent.0.lock().expect("no panic")[0]).expect("JSON");
        let expected = json!({
            "format": 1, "validator": "5F", "subnet": 97, "alert": "weights", "state": "raised",
            "fault": "infrastructure", "message": "the chain is away", "since": 5, "last": 9, "count": 3,
        });
        assert_eq!(body, expected);
        let (webhook, sent) = self::webhook(Form::Slack, Some(StatusCode::OK));
        webhook.tell(&notice(true), &cx).await.expect("sent");
        let body: Value = serde_json::from_str(&sent.0.lock().expect("no panic")[0]).expect("JSON");
        assert_eq!(body, json!({ "text": "albedo, subnet 97: over: weights" }));
    }

    #[tokio::test]
    async fn no_error_holds_the_url() {
        let cx = CallContext::new();
        for status in [None, Some(StatusCode::FORBIDDEN)] {
            let (webhook, _) = webhook(Form::Json, status);
            let error = webhook.tell(&notice(false), &cx).await.expect_err("refused");
            let said = format!("{error} {error:?} {webhook:?}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }
}
