//! A server of models: what `albedo serve` runs.
//!
//! It answers OpenAI's routes for people and tools, and jobs for validators. One engine
//! batches the requests of all clients; a client that goes away frees its place before
//! the next step.
//!
//! | module | has |
//! | --- | --- |
//! | `config` | [`ServerConfig`]: models, address, token, certificate, limits |
//! | `models` | [`Models`]: what is configured, held and loaded |
//! | `listen` | the socket: TLS, connections, deadlines, the end |
//! | `access` | tokens, and the queue of replies ([`Gate`]) |
//! | `body` | reading a request's body within its limits ([`Body`], [`JsonBody`]) |
//! | `error` | [`ApiError`]: a status and the body that clients of OpenAI read |
//! | `health` | `/healthz`, `/readyz`, systemd and its watchdog ([`Activity`]) |
//! | [`metrics`] | every metric of `/metrics`, once |
//! | `state` | [`State`]: what handlers share |
//! | `openai` | OpenAI's routes |
//! | `openapi` | `/openapi.json` |
//! | `jobs` | [`Jobs`]: the jobs of validators, their results on the disk |
//! | `nats` | the same jobs from a work queue (feature `nats`) |
//!
//! ```
//! # #[cfg(feature = "cpu")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> albedo::Result<()> {
//! use albedo::server::{Server, ServerConfig};
//! use albedo::{BuildContext, CallContext, Registry};
//!
//! let (registry, stop) = (Registry::linked()?, CallContext::new());
//! let config = ServerConfig { listen: "127.0.0.1:0".into(), ..ServerConfig::default() };
//! let server = Server::bind(&config, &BuildContext::new(&registry, &stop)).await?;
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! stop.cancel();
//! server.run(&stop).await
//! # }
//! # #[cfg(not(feature = "cpu"))]
//! # fn main() {}
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State as From};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum_server::Handle;
use sd_notify::NotifyState;
use tokio::task::JoinSet;

use self::access::Access;
use self::listen::Socket;
use self::metrics::{REQUEST_SECONDS, REQUESTS};
use crate::{BuildContext, CallContext, Error, Result};

mod access;
mod body;
mod config;
mod error;
pub(crate) mod health;
mod jobs;
mod listen;
pub mod metrics;
mod models;
#[cfg(feature = "nats")]
mod nats;
mod openai;
mod openapi;
mod state;

pub use self::access::{Gate, Place, Ticket};
pub use self::body::{Body, JsonBody};
pub use self::config::{Limits, ServedModelConfig, ServerConfig, TlsConfig};
pub use self::error::{ApiError, ErrorBody, ErrorResponse};
pub use self::health::{Activity, Busy, Health, Readiness};
pub use self::jobs::Jobs;
pub use self::metrics::Metrics;
pub use self::models::{HeldModel, ModelState, Models, ServedModel};
pub use self::state::State;
pub use crate::backends::serve::protocol::{EngineIdentity, SessionKey};

/// Work that is still under way at the end of the stopping time is cancelled. It has this long
/// to say so to its client.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What is done once every configured model is loaded.
type Ready = Box<dyn FnOnce(&State) + Send>;

/// A server that listens and does not answer yet.
pub struct Server {
    socket: Socket,
    router: Router,
    state: State,
    ready: Option<Ready>,
    #[cfg(feature = "nats")]
    queue: Option<nats::Queue>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url()).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Server {
    /// Checks `config`, binds its address and builds what it names. Models are brought
    /// and loaded by [`Server::run`].
    ///
    /// # Errors
    /// The operator's: a setting that is wrong, an address of other machines without a
    /// token and a certificate, a secret or file that is not there, an address that is
    /// taken.
    pub async fn bind(config: &ServerConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let cx = &cx.relative_to(&config.folder);
        let checked = config.checked(cx.registry())?;
        let metrics = Metrics::new()?;
        let access = Access::new(config, &metrics, cx)?;
        let socket = Socket::bind(config, cx).await?;
        let models = Models::new(config, checked, &metrics, cx).await?;
        let activity = Activity::new();
        let work = cx.call().detached().with_events(Arc::new(activity.clone()));
        let date = config.backend.settings().get("date").and_then(|date| date.as_str());
        let data = config.data(cx)?;
        let jobs = Jobs::open(data.as_deref(), models.engine().digest()?, date.map(str::to_owned))?;
        let state = State::new(config, models, jobs, metrics, activity, work);
        Ok(Self {
            socket,
            router: router(&state, access),
            state,
            ready: None,
            #[cfg(feature = "nats")]
            queue: config.nats.as_ref().map(|nats| nats::Queue::new(nats, cx)).transpose()?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.socket.address()
    }

    /// The address of its routes: `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        self.socket.url()
    }

    /// What its handlers share.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Calls `ready` once every configured model is loaded.
    #[must_use]
    pub fn on_ready(self, ready: impl FnOnce(&State) + Send + 'static) -> Self {
        Self { ready: Some(Box::new(ready)), ..self }
    }

    /// Answers requests until `stop` is cancelled. Then it takes no more, finishes what
    /// is under way for [`Limits::drain_secs`], and breaks off the rest.
    ///
    /// # Errors
    /// What a configured model cannot be brought or loaded for; the socket's.
    pub async fn run(self, stop: &CallContext) -> Result<()> {
        #[cfg(feature = "nats")]
        let queue = self.queue;
        let Self { socket, router, state, ready, .. } = self;
        let (handle, limits) = (Handle::new(), state.limits().clone());
        let drain = Duration::from_secs_f64(limits.drain_secs);
        // What does jobs.
        let mut workers = JoinSet::new();
        let stopped = OnceLock::new();
        tracing::info!(url = socket.url(), "listening");
        let serving = socket.serve(router, &limits, state.metrics(), handle.clone());
        let opening = async {
            let _busy = state.activity().begin();
            state.models().open(state.work()).await?;
            state.activity().set_ready();
            health::notify(&NotifyState::Ready);
            workers.spawn(jobs::run(state.clone()));
            #[cfg(feature = "nats")]
            if let Some(queue) = queue {
                workers.spawn(nats::run(state.clone(), queue));
            }
            if let Some(ready) = ready {
                ready(&state);
            }
            Ok::<(), Error>(())
        };
        let opening = async {
            match opening.await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            }
        };
        let stopping = async {
            stop.cancelled().await;
            let _ = stopped.set(Instant::now());
            tracing::info!(drain_secs = limits.drain_secs, "stopping: what is under way is finished");
            health::notify(&NotifyState::Stopping);
            state.stopping().cancel();
            handle.graceful_shutdown(Some(drain + LAST_WORDS));
            tokio::time::sleep(drain).await;
            tracing::warn!("what is still under way is broken off");
            state.work().cancel();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            served = serving => served,
            error = opening => if stop.is_cancelled() { Ok(()) } else { Err(error) },
            () = stopping => Ok(()),
            () = health::watch(state.clone()) => Ok(()),
        };
        // Jobs need no connection: they have what is left of the time to finish.
        let left = stopped.get().map_or(Duration::ZERO, |stopped| drain.saturating_sub(stopped.elapsed()));
        state.stopping().cancel();
        let finished = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(left, finished).await.is_err() {
            state.work().cancel();
            let handed_back = async { while workers.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_WORDS, handed_back).await;
        }
        state.work().cancel();
        ended
    }
}

/// Every route. What needs the token is above the line that asks for it.
fn router(state: &State, access: Access) -> Router {
    let guarded = Router::new()
        .merge(openai::router())
        .route("/openapi.json", get(openapi::describe))
        .merge(jobs::router())
        .route("/metrics", get(health::metrics))
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(access, access::authorize));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(state.clone(), observe))
        .with_state(state.clone())
}

/// The routes as metrics name them: a path of a client's own is no name.
const ROUTES: [&str; 10] = [
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/jobs",
    "/v1/engine",
    "/openapi.json",
    "/v1/files",
    "/metrics",
    "/healthz",
    "/readyz",
];

/// Counts a request and its time.
async fn observe(From(state): From<State>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_below =
        |route: &str| path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let route = ROUTES.into_iter().find(|route| is_below(route)).unwrap_or("other");
    let started = Instant::now();
    let method = request.method().clone();
    let response = next.run(request).await;
    let (status, took_secs) = (response.status().as_u16(), started.elapsed().as_secs_f64());
    tracing::debug!(%method, route, status, took_secs, "a request is answered");
    state.metrics().add(REQUESTS, &[("route", route), ("status", &status.to_string())], 1);
    state.metrics().took(REQUEST_SECONDS, &[("route", route)], took_secs);
    response
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is no such route; GET /openapi.json lists them")
}

async fn no_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "the route has no such method; GET /openapi.json lists them",
    )
}
