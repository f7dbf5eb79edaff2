//! What watches a validator: `/metrics`, `/healthz` and `/readyz` on a loopback address,
//! the service manager, and the room on the disk.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::beats::Idle;
use super::parts::Base;
use super::table::{STATES, name};
use super::webhook::WebhookSettings;
use crate::server::Readiness;
use crate::server::health::healthz;
use crate::server::metrics::{Metric, Metrics, OPEN_FDS, RESIDENT_BYTES};
use crate::{CallContext, Error, ErrorKind, Fault, Result};

const LISTEN: &str = "listen for those who watch";

/// How the validator is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OperateSettings {
    /// A loopback address for `/metrics`, `/healthz` and `/readyz`; none by default.
    pub listen: Option<SocketAddr>,
    /// Room that the disk of `state` keeps free, in gigabytes (10⁹ bytes): with less, the
    /// validator does not start, and raises an alert while it runs.
    pub reserve_gb: u64,
    /// Where alerts are sent; nowhere by default.
    pub webhook: Option<WebhookSettings>,
}

impl Default for OperateSettings {
    fn default() -> Self {
        Self { listen: None, reserve_gb: 1, webhook: None }
    }
}

impl OperateSettings {
    /// Checks the settings without touching anything.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`].
    pub fn check(&self) -> Result<()> {
        match self.listen {
            Some(address) if !address.ip().is_loopback() => {
                let message = "everybody who reaches the address could read the metrics: there is no token";
                Err(Error::new(ErrorKind::ConfigInvalid, "check the validator's settings", message)
                    .with("key", "operate.listen")
                    .with_hint("name a loopback address such as 127.0.0.1:9744, and a proxy before it"))
            }
            _ => Ok(()),
        }
    }

    /// The disk of the folder `state`.
    pub(super) fn disk(&self, state: &Path) -> Disk {
        Disk { state: state.to_owned(), reserve: self.reserve_gb.saturating_mul(1_000_000_000) }
    }
}

/// The disk of the validator's state, some of whose room is kept free.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    state: PathBuf,
    reserve: u64,
}

impl Disk {
    const OPERATION: &str = "check the disk";

    /// Free bytes.
    pub(super) fn free(&self) -> Result<u64> {
        let about = rustix::fs::statvfs(&self.state)
            .map_err(|error| Error::io(Self::OPERATION, &self.state, error.into()))?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Free bytes, which are no fewer than the reserve.
    ///
    /// # Errors
    /// [`ErrorKind::ResourceExhausted`] with less than the reserve.
    pub(super) fn check(&self) -> Result<u64> {
        let free = self.free()?;
        if free >= self.reserve {
            return Ok(free);
        }
        Err(Error::new(ErrorKind::ResourceExhausted, Self::OPERATION, "less room than the reserve is free")
            .with_fault(Fault::Infrastructure)
            .with("path", self.state.display())
            .with("free_bytes", free)
            .with("reserve_bytes", self.reserve)
            .with_hint("free some space, or lower `operate.reserve_gb`"))
    }
}

const SUBMISSIONS: Metric = Metric::gauge("albedo_validator_submissions", "Submissions by state.");
const KING: Metric = Metric::gauge("albedo_validator_king", "Number of the king that reigns.");
const ATTEMPTS: Metric = Metric::gauge("albedo_validator_attempts", "Attempts against the king that reigns.");
const ALPHA: Metric =
    Metric::gauge("albedo_validator_alpha", "Share of the reign's error budget that is spent, from 0 to 1.");
const USD: Metric =
    Metric::gauge("albedo_validator_judges_usd", "US dollars that the reign's judges have cost.");
const BLOCK: Metric =
    Metric::gauge("albedo_validator_block", "The newest finalised block that was followed to.");
const EPOCH: Metric = Metric::gauge("albedo_validator_epoch", "The epoch of that block.");
const SET: Metric =
    Metric::gauge("albedo_validator_weights_epoch", "The newest epoch for which weights were set.");
const ALERTS: Metric = Metric::gauge("albedo_validator_alerts", "Alerts that stand, by who has to act.");
const FROZEN: Metric =
    Metric::gauge("albedo_validator_frozen", "1 while no crown falls after a bug, else 0.");
const REFUSED: Metric =
    Metric::gauge("albedo_validator_refused", "1 while a followed validator is refused, else 0.");
const FOLLOWED: Metric =
    Metric::gauge("albedo_validator_followed_entries", "Entries of a followed log that were verified.");
const IDLE: Metric = Metric::gauge("albedo_validator_idle_seconds", "Seconds since each task last got on.");
const LAG: Metric =
    Metric::gauge("albedo_validator_publish_lag_seconds", "How long the oldest publication has waited.");
const WAITING: Metric = Metric::gauge("albedo_validator_publish_waiting", "Publications that wait.");
const FREE: Metric = Metric::gauge("albedo_validator_free_bytes", "Free bytes on the disk of the state.");

/// Every metric.
const ALL: [Metric; 18] = [
    SUBMISSIONS,
    KING,
    ATTEMPTS,
    ALPHA,
    USD,
    BLOCK,
    EPOCH,
    SET,
    ALERTS,
    FROZEN,
    REFUSED,
    FOLLOWED,
    IDLE,
    LAG,
    WAITING,
    FREE,
    RESIDENT_BYTES,
    OPEN_FDS,
];

/// The routes, bound and not answered yet.
#[derive(Debug)]
pub(super) struct Routes {
    listener: TcpListener,
}

impl Routes {
    /// Binds `address`.
    ///
    /// # Errors
    /// The operator's: it is taken.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = bound.map_err(|error| {
            Error::new(ErrorKind::Unavailable, LISTEN, error.to_string())
                .with_fault(Fault::Operator)
                .with("address", address)
                .with_hint("choose another port for `operate.listen`")
        })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `cx` is cancelled.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) async fn serve(&self, base: &Arc<Base>, cx: &CallContext) -> Result<()> {
        let failed = |error: std::io::Error| Error::new(ErrorKind::Unavailable, LISTEN, error.to_string());
        let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let watched = Watched { base: Arc::clone(base), metrics: Metrics::of(&ALL)? };
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(watched);
        let stop = cx.clone();
        let served = axum::serve(listener.map_err(failed)?, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        served.await.map_err(failed)
    }
}

#[derive(Clone)]
struct Watched {
    base: Arc<Base>,
    metrics: Metrics,
}

/// Ready once the chain was followed to a block, while every task gets on.
async fn readyz(State(watched): State<Watched>) -> Response {
    let Base { beats, time, .. } = &*watched.base;
    let mut waiting_for: Vec<String> = beats
        .idle(time.clock.now())
        .iter()
        .filter(|idle| idle.is_stalled)
        .map(|idle| idle.task.into())
        .collect();
    if watched.base.newest().is_none() {
        waiting_for.push("chain".into());
    }
    let ready = waiting_for.is_empty();
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "waiting") };
    (status, Json(Readiness { status: word, waiting_for })).into_response()
}

async fn metrics(State(watched): State<Watched>) -> Response {
    match gather(&watched.base, &watched.metrics).await {
        Ok(()) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], watched.metrics.render()).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Sets every metric to what the ledger and the tasks say now.
async fn gather(base: &Base, metrics: &Metrics) -> Result<()> {
    let counts = base.ledger.counts().await?;
    for state in STATES {
        let count = counts.get(name(state)).copied().unwrap_or_default();
        metrics.set_of(SUBMISSIONS, &[("state", name(state))], count as f64);
    }
    if let Some(king) = base.ledger.king().await? {
        let spent = base.ledger.spent(king.id).await?;
        metrics.set(KING, king.id as f64);
        metrics.set(ATTEMPTS, spent.attempts as f64);
        metrics.set(ALPHA, spent.alpha);
        metrics.set(USD, spent.usd);
    }
    if let Some(seen) = base.newest() {
        metrics.set(BLOCK, seen.head.number as f64);
        metrics.set(EPOCH, seen.subnet.epoch as f64);
    }
    if let Some(epoch) = base.ledger.last_landed().await? {
        metrics.set(SET, epoch.epoch as f64);
    }
    let alerts = base.ledger.alerts().await?;
    for fault in ["infrastructure", "operator", "bug", "contestant"] {
        let standing = alerts.iter().filter(|alert| alert.fault.starts_with(fault)).count();
        metrics.set_of(ALERTS, &[("fault", fault)], standing as f64);
    }
    metrics.set(FROZEN, f64::from(u8::from(base.ledger.frozen().await?.is_some())));
    if let Some(followed) = base.ledger.followed().await? {
        metrics.set(REFUSED, f64::from(u8::from(followed.refusal.is_some())));
        metrics.set(FOLLOWED, followed.next as f64);
    }
    let now = base.time.clock.now();
    for Idle { task, time, .. } in base.beats.idle(now) {
        metrics.set_of(IDLE, &[("task", task)], time.as_secs_f64());
    }
    let lag = base.ledger.lag().await?;
    metrics.set(LAG, lag.at(base.time.now_ms()).as_secs_f64());
    metrics.set(WAITING, lag.waiting as f64);
    if let Ok(free) = base.disk.free() {
        metrics.set(FREE, free as f64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_below_its_reserve_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk =
            |reserve_gb| OperateSettings { reserve_gb, ..OperateSettings::default() }.disk(folder.path());
        let free = disk(0).check().expect("nothing is reserved");
        assert!(free > 0);
        let error = disk(u64::MAX).check().expect_err("no disk is that large");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, Fault::Infrastructure));
        assert!(error.to_string().contains("operate.reserve_gb"), "{error}");
    }

    #[test]
    fn only_this_machine_may_look() {
        let listen = |address: &str| {
            let listen = Some(address.parse().expect("an address"));
            OperateSettings { listen, ..OperateSettings::default() }.check()
        };
        listen("127.0.0.1:0").expect("loopback");
        listen("[::1]:0").expect("loopback");
        let error = listen("0.0.0.0:9744").expect_err("everybody");
        assert!(error.to_string().contains("operate.listen"), "{error}");
    }
}
