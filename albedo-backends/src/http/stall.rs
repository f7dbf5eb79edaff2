//! Servers that make no progress.

use std::sync::Arc;
use std::time::Duration;

use albedo_core::http::HttpResponse;
use albedo_core::{CallContext, Clock, Error, ErrorKind, Fault, Result, Retry};
use futures::future::{Either, select};

/// When a server is given up: its answer does not begin within a time, or brings too few bytes in
/// each such time.
#[derive(Debug, Clone)]
pub struct Stall {
    clock: Arc<dyn Clock>,
    time: Duration,
    least: u64,
}

impl Stall {
    /// An answer has stalled that brings fewer than `least` bytes in `time`, by `clock`.
    pub fn new(clock: Arc<dyn Clock>, time: Duration, least: u64) -> Self {
        Self { clock, time, least }
    }

    /// What `work` comes to, unless it takes longer than a stall.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`], which may pass; `cx`.
    pub async fn within<T>(
        &self,
        operation: &str,
        work: impl Future<Output = T>,
        cx: &CallContext,
    ) -> Result<T> {
        let until = self.clock.sleep_until(self.clock.now() + self.time);
        let first = async move {
            let work = std::pin::pin!(work);
            match select(work, until).await {
                Either::Left((done, _)) => Some(done),
                Either::Right(_) => None,
            }
        };
        cx.run(operation, first).await?.ok_or_else(|| self.stalled(operation))
    }

    /// Hands the body of `answer` to `each` as it comes, as long as it makes progress.
    ///
    /// # Errors
    /// As [`Stall::within`]; those of the connection and of `each`.
    pub async fn pieces(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        cx: &CallContext,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut since = (self.clock.now(), 0_u64);
        loop {
            let left = (since.0 + self.time).saturating_sub(self.clock.now());
            let until = self.clock.sleep_until(self.clock.now() + left);
            let next = async {
                let piece = std::pin::pin!(answer.chunk());
                match select(piece, until).await {
                    Either::Left((piece, _)) => Some(piece),
                    Either::Right(_) => None,
                }
            };
            match cx.run(operation, next).await? {
                Some(piece) => {
                    let Some(piece) = piece? else { return Ok(()) };
                    since.1 += piece.len() as u64;
                    each(&piece)?;
                }
                None if since.1 < self.least => return Err(self.stalled(operation)),
                None => since = (self.clock.now(), 0),
            }
        }
    }

    /// The body of `answer`, at most `most` bytes of it, as long as it makes progress.
    ///
    /// # Errors
    /// As [`Stall::pieces`]; [`ErrorKind::Protocol`] for more bytes.
    pub async fn body(
        &self,
        operation: &str,
        answer: &mut HttpResponse,
        most: usize,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let collect = |piece: &[u8]| {
            if bytes.len() + piece.len() > most {
                let message = format!("the server's answer has more than {most} bytes");
                return Err(passing(ErrorKind::Protocol, operation, message));
            }
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.pieces(operation, answer, cx, collect).await?;
        Ok(bytes)
    }

    fn stalled(&self, operation: &str) -> Error {
        passing(ErrorKind::Timeout, operation, "the server makes no progress".into())
            .with("seconds", self.time.as_secs_f64())
            .with("least bytes", self.least)
    }
}

fn passing(kind: ErrorKind, operation: &str, message: String) -> Error {
    Error::new(kind, operation, message).with_fault(Fault::Infrastructure).with_retry(Retry::Backoff)
}

#[cfg(test)]
mod tests {
    use albedo_core::VirtualClock;
    use albedo_core::http::{HttpRequest, HttpTransport};

    use super::*;
    use crate::http::scripted::{Dripping, Silent};

    const MINUTE: Duration = Duration::from_mins(1);

    /// What comes of reading at most 100 bytes from `server`, and when.
    fn read(server: &dyn HttpTransport, clock: &VirtualClock, least: u64) -> (Result<Vec<u8>>, Duration) {
        let (stall, cx) = (Stall::new(Arc::new(clock.clone()), MINUTE, least), CallContext::new());
        let read = clock.run(async {
            let request = HttpRequest::get("ask", "https://example.com/");
            let mut answer = stall.within("ask", server.send(request, &cx), &cx).await??;
            stall.body("ask", &mut answer, 100, &cx).await
        });
        (read.expect("nothing waits for ever"), clock.now())
    }

    #[test]
    fn a_server_is_given_up_that_is_silent_or_too_slow() {
        let clock = VirtualClock::new();
        let dripping = |pause| Dripping { clock: Arc::new(clock.clone()), pause };
        let servers: [(Box<dyn HttpTransport>, u64); 4] = [
            (Box::new(Silent { has_head: false }), 1),
            (Box::new(Silent { has_head: true }), 1),
            // One byte in each minute, and two are asked for.
            (Box::new(dripping(Duration::from_secs(59))), 2),
            // No byte in the first minute.
            (Box::new(dripping(Duration::from_secs(61))), 1),
        ];
        for (server, least) in servers {
            let before = clock.now();
            let (read, after) = read(&*server, &clock, least);
            let error = read.expect_err("makes no progress");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Timeout, Fault::Infrastructure), "{error}");
            assert!(error.is_retryable(), "{error}");
            assert_eq!(after, before + MINUTE, "{server:?}");
        }
    }

    #[test]
    fn a_server_that_makes_progress_is_read_to_the_bound() {
        let clock = VirtualClock::new();
        let server = Dripping { clock: Arc::new(clock.clone()), pause: Duration::from_secs(20) };
        let (read, after) = read(&server, &clock, 2);
        assert_eq!(read.expect_err("has no end").kind(), ErrorKind::Protocol);
        assert_eq!(after, 101 * Duration::from_secs(20));
    }
}
