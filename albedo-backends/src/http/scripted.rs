//! Servers for tests that make no progress.

use std::sync::Arc;
use std::time::Duration;

use albedo_core::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use albedo_core::{CallContext, Clock, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

/// Takes every request and says nothing, or no more than the head of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Silent {
    /// Whether there is a head.
    pub has_head: bool,
}

#[async_trait]
impl HttpTransport for Silent {
    async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        if self.has_head {
            let body = stream::pending().boxed();
            return Ok(HttpResponse::new("answer", StatusCode::OK, HeaderMap::new(), body));
        }
        std::future::pending().await
    }
}

/// Answers every request with spaces without an end, one after each `pause` of `clock`.
#[derive(Debug, Clone)]
pub struct Dripping {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The time between two bytes.
    pub pause: Duration,
}

#[async_trait]
impl HttpTransport for Dripping {
    async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let Self { clock, pause } = self.clone();
        let body = stream::unfold((), move |()| {
            let pause = clock.sleep_until(clock.now() + pause);
            async move {
                pause.await;
                Some((Ok(Bytes::from_static(b" ")), ()))
            }
        });
        Ok(HttpResponse::new("answer", StatusCode::OK, HeaderMap::new(), body.boxed()))
    }
}
