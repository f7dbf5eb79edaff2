//! Who may ask, and how much at a time: tokens, browsers' pages, the queue of replies.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, Request, State as From};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::{Limits, ServerConfig};
use super::error::ApiError;
use super::metrics::{Counted, Metrics, QUEUE, STREAMS, UNAUTHORIZED};
use crate::{BuildContext, CallContext, Digest, Error, EventKind, Result};

/// Who may ask a server.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// Digest of the token; its comparison reveals nothing of the token itself.
    token: Option<Digest>,
    metrics: Metrics,
    /// Where alerts go.
    events: CallContext,
}

impl Access {
    /// Those who know the token that `config` names.
    ///
    /// # Errors
    /// The operator's: there is no secret of that name.
    pub(super) fn new(config: &ServerConfig, metrics: &Metrics, cx: &BuildContext<'_>) -> Result<Self> {
        let secret = |name: &String| cx.secret(name).map_err(|error| error.with("key", "token_env"));
        let token = config.token_env.as_ref().map(secret).transpose()?;
        Ok(Self {
            token: token.map(|token| Digest::of(token.expose())),
            metrics: metrics.clone(),
            events: cx.call().detached(),
        })
    }

    /// # Errors
    /// 401 for a request without the token. Where none is asked for, 403 for one that a
    /// page of a browser sends: such a server is for the programs of its machine.
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return check_host(headers) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match given {
            Some(given) if same(&Digest::of(given), token) => Ok(()),
            Some(_) => Err(refused("the token is not this server's").with_code("invalid_api_key")),
            None => Err(refused("no token was given; send `Authorization: Bearer TOKEN`")),
        }
    }
}

fn refused(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

/// Compares in a time that does not depend on where two digests differ.
fn same(one: &Digest, other: &Digest) -> bool {
    let pairs = one.as_bytes().iter().zip(other.as_bytes());
    std::hint::black_box(pairs.fold(0, |differing, (one, other)| differing | (one ^ other))) == 0
}

/// A page of a browser can send requests to this machine: under its own name
/// (`Origin`), or under a name that it has let point here (`Host`).
fn check_host(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    let local = |host: &str| {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    };
    let origin = text(header::ORIGIN).map(|origin| origin.split("://").nth(1).unwrap_or(origin));
    match [text(header::HOST), origin].into_iter().flatten().find(|host| !local(host)) {
        None => Ok(()),
        Some(_) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "a server without a token answers requests to this machine's own address only; set `token_env`",
        )),
    }
}

/// Lets a request with the token through, and counts the others.
pub(super) async fn authorize(From(access): From<Access>, request: Request, next: Next) -> Response {
    match access.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
            let peer = peer.map_or_else(|| "unknown".to_owned(), |ConnectInfo(peer)| peer.to_string());
            access.metrics.add(UNAUTHORIZED, &[], 1);
            let message = format!("a request was refused (peer: {peer}): {}", error.body().error.message);
            access.events.emit(EventKind::Alert { message });
            error.into_response()
        }
    }
}

/// The queue of replies that the engine is to write: so many at a time, so many that
/// wait, first come first served. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    places: Arc<Semaphore>,
    most_waiting: usize,
    /// Announced and without a place yet.
    waiting: Mutex<usize>,
    metrics: Metrics,
}

/// A reply that waits for its turn.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    _counted: Counted,
}

/// A reply's place among those that are written, until this is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Gate {
    pub(super) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        Self(Arc::new(Queue {
            places: Arc::new(Semaphore::new((limits.streams as usize).min(Semaphore::MAX_PERMITS))),
            most_waiting: limits.queue as usize,
            waiting: Mutex::new(0),
            metrics: metrics.clone(),
        }))
    }

    /// Tickets for `replies` of one request, all or none.
    ///
    /// # Errors
    /// 429: more would wait than the configuration allows.
    pub fn announce(&self, replies: usize) -> Result<Vec<Ticket>, ApiError> {
        let queue = &self.0;
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting + replies > queue.most_waiting + queue.places.available_permits() {
            let message = format!("{waiting} replies wait already, and at most {} may", queue.most_waiting);
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full"));
        }
        *waiting += replies;
        let ticket = || Ticket { queue: Arc::clone(queue), _counted: queue.metrics.hold(QUEUE) };
        Ok(std::iter::repeat_with(ticket).take(replies).collect())
    }
}

impl Ticket {
    /// Waits for its turn.
    ///
    /// # Errors
    /// `cx`.
    pub async fn enter(self, cx: &CallContext) -> Result<Place> {
        const WAIT: &str = "wait for a place among the replies";
        let permit = cx.run(WAIT, Arc::clone(&self.queue.places).acquire_owned()).await?;
        let permit = permit.map_err(|error| Error::bug(WAIT, error.to_string()))?;
        Ok(Place { _permit: permit, _counted: self.queue.metrics.hold(STREAMS) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn access(token: Option<&str>) -> Access {
        Access {
            token: token.map(Digest::of),
            metrics: Metrics::new().expect("metrics"),
            events: CallContext::new(),
        }
    }

    fn status(access: &Access, headers: &[(header::HeaderName, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a header")));
        match access.check(&headers.collect()) {
            Ok(()) => 200,
            Err(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn only_the_token_opens() {
        let access = access(Some("open sesame"));
        let with = |value: &str| status(&access, &[(header::AUTHORIZATION, value)]);
        assert_eq!((with("Bearer open sesame"), with("bearer open sesame")), (200, 200));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer open",
            "Bearer open sesame!",
            "Basic open sesame",
            "open sesame",
        ] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(status(&access, &[]), 401);
        // With a token, a host of any name is fine.
        let named = [(header::AUTHORIZATION, "Bearer open sesame"), (header::HOST, "gpu.example")];
        assert_eq!(status(&access, &named), 200);
        assert!(!format!("{access:?}").contains("sesame"));
    }

    #[test]
    fn a_server_without_a_token_answers_no_page_of_a_browser() {
        let access = access(None);
        for host in ["localhost:8080", "127.0.0.1:1", "[::1]:8080", "LOCALHOST", "127.9.9.9"] {
            assert_eq!(status(&access, &[(header::HOST, host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8080", "192.0.2.1", "[2001:db8::1]:80", ""] {
            assert_eq!(status(&access, &[(header::HOST, host)]), 403, "{host}");
        }
        let origin = |origin| status(&access, &[(header::HOST, "localhost"), (header::ORIGIN, origin)]);
        assert_eq!(
            (origin("http://localhost:3000"), origin("https://evil.example"), origin("null")),
            (200, 403, 403)
        );
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_served_in_order() {
        let metrics = Metrics::new().expect("metrics");
        let limits = Limits { streams: 2, queue: 3, ..Limits::default() };
        let (gate, cx) = (Gate::new(&limits, &metrics), CallContext::new());
        let mut tickets = gate.announce(5).expect("two places and three that wait");
        let refused = gate.announce(1).expect_err("one too many");
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let last = tickets.pop().expect("a ticket");
        let first = tickets.remove(0).enter(&cx).await.expect("a place");
        let second = tickets.remove(0).enter(&cx).await.expect("a place");
        assert!(metrics.render().contains("albedo_streams 2"), "{}", metrics.render());
        assert!(gate.announce(1).is_err(), "three wait");
        // A client that goes away makes room.
        drop(last);
        let more = gate.announce(1).expect("room");
        let waiting = tickets.remove(0).enter(&cx);
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending(), "both places are taken");
        drop(first);
        let third = waiting.await.expect("a place");
        drop((second, third, tickets, more));
        assert!(metrics.render().contains("albedo_queue 0") && metrics.render().contains("albedo_streams 0"));
        let stopped = CallContext::new();
        stopped.cancel();
        let ticket = gate.announce(1).expect("room").remove(0);
        assert!(ticket.enter(&stopped).await.is_err());
    }
}
