//! Whether a server lives, is ready and gets on: `/healthz`, `/readyz`, systemd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State as From;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sd_notify::NotifyState;
use serde::Serialize;

use super::models::ModelState;
use super::state::State;
use crate::{Event, EventSink};

/// How often the times of requests are gathered where nobody scrapes.
const TIDY: Duration = Duration::from_secs(5);

/// What a server does now, and whether it gets on. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    busy: AtomicUsize,
    steps: AtomicU64,
    ready: AtomicBool,
}

/// A piece of work that is under way until this is dropped.
#[derive(Debug)]
pub struct Busy(Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Notes that work begins, which has to get on by [`Activity::step`] until the value
    /// is dropped.
    pub fn begin(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        self.step();
        Busy(self.clone())
    }

    /// Notes that some work got on: a token, an event, an end.
    pub fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Whether nothing is under way, or it got on since `steps`, which becomes the
    /// number of steps now.
    pub(super) fn gets_on(&self, steps: &mut u64) -> bool {
        let now = self.0.steps.load(Ordering::Relaxed);
        let before = std::mem::replace(steps, now);
        self.0.busy.load(Ordering::Relaxed) == 0 || now != before
    }
}

impl Busy {
    /// As [`Activity::step`].
    pub fn step(&self) {
        self.0.step();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.step();
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every event of the work is a step.
impl EventSink for Activity {
    fn on(&self, _: &Event) {
        self.step();
    }
}

/// Answers while the process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "The process answers", body = Health))
)]
pub(crate) async fn healthz() -> Response {
    Json(Health { status: "ok" }).into_response()
}

/// What `/healthz` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: &'static str,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// `ready`, `loading` or `stopping`.
    pub status: &'static str,
    /// The configured models that are not there yet.
    pub waiting_for: Vec<String>,
}

/// Answers whether every configured model is there: 503 before, and while the server
/// stops.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "Every configured model is there", body = Readiness),
        (status = 503, description = "Some are not, or the server stops", body = Readiness),
    )
)]
pub(super) async fn readyz(From(state): From<State>) -> Response {
    let waiting_for = (state.models().list().into_iter())
        .filter(|model| model.state == ModelState::Waiting)
        .map(|model| model.name)
        .collect();
    let (status, word) = match () {
        () if state.stopping().is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        () if !state.activity().is_ready() => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        () => (StatusCode::OK, "ready"),
    };
    (status, Json(Readiness { status: word, waiting_for })).into_response()
}

/// Answers what the server counts, as Prometheus reads it.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "Prometheus' text format", content_type = "text/plain", body = String))
)]
pub(super) async fn metrics(From(state): From<State>) -> Response {
    let text = state.metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Notifies the service manager, if one started the process.
pub(crate) fn notify(change: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(change)) {
        tracing::warn!(%error, "the service manager cannot be notified of `{change}`");
    }
}

/// Feeds the service manager's watchdog while the work gets on, and gathers the metrics.
/// A process whose work stands still is not fed, and so is started again.
pub(super) async fn watch(state: State) {
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    let mut tick = tokio::time::interval(watchdog.unwrap_or(TIDY).min(TIDY));
    let (mut steps, mut unfed) = (0, Duration::ZERO);
    loop {
        tick.tick().await;
        state.metrics().tidy();
        unfed += tick.period();
        if watchdog.is_some_and(|every| unfed >= every) {
            if state.activity().gets_on(&mut steps) {
                notify(&NotifyState::Watchdog);
                unfed = Duration::ZERO;
            } else {
                tracing::warn!("nothing that is under way gets on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_stands_still_does_not_feed_the_watchdog() {
        let (activity, mut steps) = (Activity::new(), 0);
        assert!(activity.gets_on(&mut steps) && activity.gets_on(&mut steps), "idle");
        let busy = activity.begin();
        assert!(activity.gets_on(&mut steps), "it began");
        assert!(!activity.gets_on(&mut steps), "it stands still");
        activity.step();
        assert!(activity.gets_on(&mut steps), "a token");
        assert!(!activity.gets_on(&mut steps));
        drop(busy);
        assert!(activity.gets_on(&mut steps) && activity.gets_on(&mut steps), "idle again");
    }
}
