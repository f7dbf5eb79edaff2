//! The requests of `object_store` through albedo's one HTTP client: its TLS, its
//! proxies, its bounds, and what a refusal means decided here.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body::Body;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest as StoreRequest, HttpRequestBody,
    HttpResponse as StoreResponse, HttpService,
};

use super::{MULTIPART_FROM, timeout};
use crate::backends::http::{Stall, retry_after};
use crate::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use crate::{CallContext, Clock, Error, ErrorKind, Fault, Reach, Retry};

const OPERATION: &str = "ask the bucket's server";

/// What to do where the server gives no answer.
const AGAIN: &str = "publish again when it answers: what is published stays as it is";

/// The longest answer that is read: an object that goes up in one piece.
const MAX_ANSWER: usize = MULTIPART_FROM as usize + (1 << 20);

/// The longest text of a refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

/// Hands `object_store` the transport instead of a client of its own, and bounds the time of each
/// request: a listing is many, one per thousand names.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    transport: Arc<dyn HttpTransport>,
    clock: Arc<dyn Clock>,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: StoreRequest) -> Result<StoreResponse, HttpError> {
        let limit = timeout(request.body().content_length() as u64);
        let stall = Stall::new(Arc::clone(&self.clock), limit, 1);
        let sent = stall.within(OPERATION, self.send(request), &CallContext::new()).await;
        sent.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, OPERATION, "the server has not answered in time")
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Backoff)
                .with("seconds", limit.as_secs())
                .with_hint(AGAIN))
        })
        // Trying again is the publisher's decision: no kind that `object_store` would repeat.
        .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))
    }
}

impl Connector {
    pub(super) fn new(transport: Arc<dyn HttpTransport>, clock: Arc<dyn Clock>) -> Self {
        Self { transport, clock }
    }

    async fn send(&self, request: StoreRequest) -> crate::Result<StoreResponse> {
        let (head, body) = request.into_parts();
        let mut ours = HttpRequest::new(head.method.clone(), OPERATION, head.uri.to_string());
        for (name, value) in &head.headers {
            ours = ours.with_header(name.clone(), value.clone());
        }
        ours = ours.with_body(whole(body).await?);
        let mut answer = self.transport.send(ours, &CallContext::new()).await?;
        let status = answer.status();
        let text = match status {
            _ if status.is_success() => Bytes::from(answer.read(MAX_ANSWER).await?),
            // Answers to conditions.
            StatusCode::NOT_MODIFIED | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Bytes::new(),
            _ => {
                let code = refusal_code(&mut answer).await;
                if status != StatusCode::NOT_FOUND || code.as_deref() == Some("NoSuchBucket") {
                    return Err(refusal(status, code.as_deref(), answer.headers()));
                }
                Bytes::new()
            }
        };
        let mut response = StoreResponse::new(text.into());
        *response.status_mut() = status;
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

/// The bytes of a request, of which `object_store` has one piece per part.
async fn whole(mut body: HttpRequestBody) -> crate::Result<Bytes> {
    if let Some(bytes) = body.as_bytes() {
        return Ok(bytes.clone());
    }
    let mut pieces = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        pieces.extend(frame.into_data().ok());
    }
    Ok(match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces
            .iter()
            .fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(piece);
                all
            })
            .freeze(),
    })
}

/// The code in a refusal's XML, such as `AccessDenied`; nothing else of it is looked
/// at, since it may quote what was signed.
async fn refusal_code(answer: &mut HttpResponse) -> Option<String> {
    let text = answer.read(MAX_REFUSAL).await.ok()?;
    let text = String::from_utf8_lossy(&text);
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let fits = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fits.then(|| code.to_owned())
}

/// What a server's refusal means.
fn refusal(status: StatusCode, code: Option<&str>, headers: &HeaderMap) -> Error {
    let pause = || {
        let asked = retry_after(headers, SystemTime::now());
        asked.map_or(Retry::Backoff, Retry::After)
    };
    let operators = |kind, message: &str, hint: &str| {
        Error::new(kind, OPERATION, message)
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with_retry(Retry::Never)
            .with_hint(hint)
    };
    let error = match (status.as_u16(), code) {
        (_, Some("NoSuchBucket")) => operators(
            ErrorKind::NotFound,
            "the server has no such bucket",
            "make the bucket, or check its name",
        ),
        (_, Some("RequestTimeTooSkewed")) => operators(
            ErrorKind::Unavailable,
            "the server's clock and this machine's differ too much",
            "set this machine's clock",
        ),
        (_, Some("AuthorizationHeaderMalformed")) | (301 | 302 | 307 | 308, _) => operators(
            ErrorKind::ConfigInvalid,
            "the server sends the request elsewhere, which is not followed",
            "check `endpoint` and `region`",
        ),
        (401 | 403, _) => operators(
            ErrorKind::Unavailable,
            "the server refuses the key",
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the key may read, write and list the bucket",
        ),
        (429, _) | (_, Some("SlowDown")) => {
            Error::new(ErrorKind::RateLimited, OPERATION, "the server asks to slow down").with_retry(pause())
        }
        (507, _) => operators(
            ErrorKind::ResourceExhausted,
            "the bucket's server has no room left",
            "make room, or publish elsewhere",
        ),
        (501, _) => Error::new(ErrorKind::Unsupported, OPERATION, "the server cannot do that"),
        (408 | 425 | 500.., _) => Error::new(ErrorKind::Unavailable, OPERATION, "the server failed")
            .with_retry(pause())
            .with_hint(AGAIN),
        _ => Error::new(ErrorKind::Refused, OPERATION, "the server refuses the request"),
    };
    let error = error.with("status", status.as_u16());
    match code {
        Some(code) => error.with("code", code),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use object_store::RetryConfig;
    use object_store::aws::AmazonS3Builder;

    use super::*;
    use crate::VirtualClock;
    use crate::publish::{Bucket, ObjectBucket};

    /// Lists one folder per page, on five pages, and takes `pause` for each.
    #[derive(Debug)]
    struct Pages {
        clock: VirtualClock,
        pause: Duration,
        asked: AtomicU32,
    }

    #[async_trait]
    impl HttpTransport for Pages {
        async fn send(&self, _: HttpRequest, _: &CallContext) -> crate::Result<HttpResponse> {
            self.clock.sleep_until(self.clock.now() + self.pause).await;
            let page = self.asked.fetch_add(1, Ordering::SeqCst);
            let next = if page < 4 { "<NextContinuationToken>x</NextContinuationToken>" } else { "" };
            let text = format!(
                "<ListBucketResult><CommonPrefixes><Prefix>records/{page}/</Prefix></CommonPrefixes>{next}\
                 </ListBucketResult>"
            );
            Ok(HttpResponse::whole(StatusCode::OK, HeaderMap::new(), text))
        }
    }

    #[test]
    fn each_page_of_a_listing_has_its_own_time() {
        for (seconds, is_listed) in [(100, true), (200, false)] {
            let clock = VirtualClock::new();
            let pause = Duration::from_secs(seconds);
            let pages = Pages { clock: clock.clone(), pause, asked: AtomicU32::new(0) };
            let store = AmazonS3Builder::new()
                .with_bucket_name("duels")
                .with_region("auto")
                .with_endpoint("https://example.com")
                .with_access_key_id("name")
                .with_secret_access_key("key")
                .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
                .with_http_connector(Connector::new(Arc::new(pages), Arc::new(clock.clone())))
                .build()
                .expect("builds");
            let bucket = ObjectBucket::new(Arc::new(store), "s3://duels", "");
            let cx = CallContext::new();
            let listed = clock.run(bucket.folders("records", &cx)).expect("it ends");
            if is_listed {
                assert_eq!(listed.expect("lists"), ["0", "1", "2", "3", "4"]);
                assert_eq!(clock.now(), 5 * pause);
            } else {
                let error = listed.expect_err("too late");
                assert_eq!((error.kind(), clock.now()), (ErrorKind::Timeout, timeout(0)), "{error}");
                assert_eq!(error.hint(), Some(AGAIN));
            }
        }
    }

    #[test]
    fn a_refusal_says_whose_it_is_and_when_to_ask_again() {
        let mut slow = HeaderMap::new();
        slow.insert("retry-after", "7".parse().expect("a value"));
        let refuse = |status: u16, code, headers: &HeaderMap| {
            refusal(StatusCode::from_u16(status).expect("a status"), code, headers)
        };
        let none = HeaderMap::new();
        for (status, code, headers, kind, fault, retry) in [
            (403, Some("AccessDenied"), &none, ErrorKind::Unavailable, Fault::Operator, Retry::Never),
            (404, Some("NoSuchBucket"), &none, ErrorKind::NotFound, Fault::Operator, Retry::Never),
            (301, None, &none, ErrorKind::ConfigInvalid, Fault::Operator, Retry::Never),
            (
                503,
                Some("SlowDown"),
                &slow,
                ErrorKind::RateLimited,
                Fault::Infrastructure,
                Retry::After(Duration::from_secs(7)),
            ),
            (
                503,
                None,
                &slow,
                ErrorKind::Unavailable,
                Fault::Infrastructure,
                Retry::After(Duration::from_secs(7)),
            ),
            (500, None, &none, ErrorKind::Unavailable, Fault::Infrastructure, Retry::Backoff),
        ] {
            let error = refuse(status, code, headers);
            assert_eq!((error.kind(), error.fault(), error.retry()), (kind, fault, retry), "{error}");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_refusal_but_its_code_is_repeated() {
        let answer = |text: &'static str| HttpResponse::whole(StatusCode::FORBIDDEN, HeaderMap::new(), text);
        let text = "<Error><Code>SignatureDoesNotMatch</Code><StringToSign>AWS4 hush</StringToSign></Error>";
        let code = refusal_code(&mut answer(text)).await;
        assert_eq!(code.as_deref(), Some("SignatureDoesNotMatch"));
        assert!(
            !refusal(StatusCode::FORBIDDEN, code.as_deref(), &HeaderMap::new()).to_string().contains("hush")
        );
        assert_eq!(refusal_code(&mut answer("<Code>hush hush</Code>")).await, None);
        assert_eq!(refusal_code(&mut answer("")).await, None);
    }
}
