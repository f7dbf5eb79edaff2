//! Reading the body of a request: so many bytes, in so much time, as JSON of a known
//! form.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::state::State;
use crate::registry::nearest;

/// Bytes of a body that is too large which are read and dropped before it is refused:
/// most clients write their whole body first, and would find a closed connection instead
/// of the answer. Source: albedo.
const DROPPED: u64 = 64 << 20;

/// The bytes of a request's body, within the limits.
#[derive(Debug, Clone)]
pub struct Body(pub Bytes);

/// A request's body, read from JSON. Keys that the type does not have are refused.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl FromRequest<State> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let (limits, headers) = (state.limits(), request.headers());
        let most = limits.body_bytes;
        let too_large = || {
            let message = format!("the body has more than {most} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let declared_too_large = declared.is_some_and(|declared: u64| declared > most);
        // A client that sends this header waits for an answer before the body.
        if declared_too_large && headers.contains_key(header::EXPECT) {
            return Err(too_large());
        }
        let mut parts = request.into_body().into_data_stream();
        let (mut bytes, mut size) = (BytesMut::new(), 0);
        let read = async {
            while let Some(part) = parts.next().await {
                let part =
                    part.map_err(|error| ApiError::invalid(format!("the body cannot be read: {error}")))?;
                size += part.len() as u64;
                if size <= most {
                    bytes.extend_from_slice(&part);
                } else if size > most.saturating_add(DROPPED) {
                    break;
                }
            }
            Ok(())
        };
        let read = tokio::time::timeout(Duration::from_secs_f64(limits.body_secs), read).await;
        if declared_too_large || size > most {
            return Err(too_large());
        }
        let Ok(read) = read else {
            let message = format!("the body was not there after {} s", limits.body_secs);
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
        };
        read.map(|()| Self(bytes.freeze()))
    }
}

impl<T: DeserializeOwned> FromRequest<State> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        check_type(request.headers())?;
        let Body(bytes) = Body::from_request(request, state).await?;
        json(&bytes).map(Self)
    }
}

/// A page of a browser can send other types to a server that it may not read from.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let kind = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "the body is JSON: send `Content-Type: application/json`";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Reads JSON; an error names the path of the mistake.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would read a list as the fields in their order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(ApiError::invalid("The body is not the JSON of a request: it is no object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        // What is no JSON has no field that could be wrong.
        let has_field = error.inner().is_data() && path != ".";
        match unknown_field(&message) {
            Some((name, words)) => {
                let outer = path.strip_suffix(name).unwrap_or_default();
                ApiError::field(format!("{outer}{name}"), words).with_code("unknown_parameter")
            }
            None if !has_field => {
                ApiError::invalid(format!("The body is not the JSON of a request: {message}"))
            }
            None => ApiError::field(path.clone(), format!("Invalid value for '{path}': {message}")),
        }
    })?;
    let rest = reader.end().map_err(|error| ApiError::invalid(format!("The body is not JSON: {error}")));
    rest.map(|()| read)
}

/// serde's "unknown field `x`, expected one of `a`, `b`", as OpenAI says it.
fn unknown_field(message: &str) -> Option<(&str, String)> {
    let (name, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let near = nearest(name, expected.split('`').skip(1).step_by(2));
    let near = near.map(|near| format!(" Did you mean '{near}'?")).unwrap_or_default();
    Some((name, format!("Unknown parameter: '{name}'.{near}")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "is only read")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "is only read")]
        temperature: f64,
    }

    #[test]
    fn a_mistake_is_told_with_its_path() {
        for (text, param, words) in [
            (
                r#"{"inner":[{"temperatur":1}]}"#,
                Some("inner[0].temperatur"),
                "Unknown parameter: 'temperatur'. Did you mean 'temperature'?",
            ),
            (r#"{"colour":1}"#, Some("colour"), "Unknown parameter: 'colour'."),
            (
                r#"{"inner":[{"temperature":"hot"}]}"#,
                Some("inner[0].temperature"),
                "Invalid value for 'inner[0].temperature'",
            ),
            (r#"{"inner":[]} x"#, None, "not JSON"),
            ("{", None, "EOF"),
            ("", None, "EOF"),
            ("[1]", None, "not the JSON of a request"),
        ] {
            let error = json::<Outer>(text.as_bytes()).expect_err(text);
            let body = error.body().error;
            assert_eq!((error.status(), body.param.as_deref()), (StatusCode::BAD_REQUEST, param), "{text}");
            assert!(body.message.contains(words), "{text}: {}", body.message);
        }
        json::<Outer>(br#" {"inner":[{"temperature":0.5}]} "#).expect("reads");
    }
}
