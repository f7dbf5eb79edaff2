//! What a server counts, in the text of Prometheus.
//!
//! Every metric is one constant here, with its help text. Nothing is counted under a
//! name that is not in the list.

use std::sync::Arc;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusRecorder};

use crate::{Error, Result};

/// Upper bounds of the buckets of every time, in seconds: from a first token on a fast
/// card to a long reply on a CPU. Source: chosen by albedo.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// One quantity that a server counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only grows.
    Counter,
    /// Is so many now.
    Gauge,
    /// Times in seconds.
    Seconds,
}

impl Metric {
    pub(crate) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    pub(crate) const fn seconds(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Seconds, help }
    }
}

/// Requests answered, by route and status.
pub const REQUESTS: Metric =
    Metric::counter("albedo_requests_total", "Requests answered, by route and status.");
/// Time from a request's head to the head of its answer.
pub const REQUEST_SECONDS: Metric = Metric::seconds(
    "albedo_request_seconds",
    "Seconds from a request's head to the head of its answer, by route.",
);
/// Requests without the right token.
pub const UNAUTHORIZED: Metric =
    Metric::counter("albedo_unauthorized_total", "Requests with a missing or wrong token.");
/// Connections open.
pub const CONNECTIONS: Metric = Metric::gauge("albedo_connections", "Connections that are open.");
/// Connections closed because there were too many.
pub const CONNECTIONS_REFUSED: Metric = Metric::counter(
    "albedo_connections_refused_total",
    "Connections that were closed at once because too many were open.",
);
/// Replies being written.
pub const STREAMS: Metric = Metric::gauge("albedo_streams", "Replies that are being written.");
/// Replies that wait for their turn.
pub const QUEUE: Metric = Metric::gauge("albedo_queue", "Replies that wait for their turn.");
/// Replies by how they ended.
pub const REPLIES: Metric = Metric::counter(
    "albedo_replies_total",
    "Replies by model and by how they ended: stop, length, failed, or abandoned by their client.",
);
/// Tokens of prompts.
pub const PROMPT_TOKENS: Metric =
    Metric::counter("albedo_prompt_tokens_total", "Tokens of the prompts that were read, by model.");
/// Tokens of replies.
pub const COMPLETION_TOKENS: Metric =
    Metric::counter("albedo_completion_tokens_total", "Tokens of replies that were written, by model.");
/// Time to the first token.
pub const FIRST_TOKEN_SECONDS: Metric = Metric::seconds(
    "albedo_first_token_seconds",
    "Seconds from a reply's request to its first token, time in the queue included, by model.",
);
/// Time to the last token.
pub const REPLY_SECONDS: Metric = Metric::seconds(
    "albedo_reply_seconds",
    "Seconds from a reply's request to its last token, time in the queue included, by model.",
);
/// Models that are loaded.
pub const MODELS_LOADED: Metric = Metric::gauge("albedo_models_loaded", "Models that are loaded.");
/// Models that are held.
pub const MODELS_HELD: Metric = Metric::gauge("albedo_models_held", "Models whose files are held here.");
/// Time to load a model.
pub const LOAD_SECONDS: Metric =
    Metric::seconds("albedo_model_load_seconds", "Seconds that loading a model took.");
/// Memory of the process.
pub const RESIDENT_BYTES: Metric =
    Metric::gauge("process_resident_memory_bytes", "Resident memory of the process in bytes.");
/// Open files of the process.
pub const OPEN_FDS: Metric =
    Metric::gauge("process_open_fds", "Files and sockets that the process has open.");

/// Every metric.
const ALL: [Metric; 17] = [
    REQUESTS,
    REQUEST_SECONDS,
    UNAUTHORIZED,
    CONNECTIONS,
    CONNECTIONS_REFUSED,
    STREAMS,
    QUEUE,
    REPLIES,
    PROMPT_TOKENS,
    COMPLETION_TOKENS,
    FIRST_TOKEN_SECONDS,
    REPLY_SECONDS,
    MODELS_LOADED,
    MODELS_HELD,
    LOAD_SECONDS,
    RESIDENT_BYTES,
    OPEN_FDS,
];

/// The counts of one server. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<PrometheusRecorder>);

impl Metrics {
    /// A server's, where nothing is counted yet.
    ///
    /// # Errors
    /// A bug: the buckets of times are refused.
    pub fn new() -> Result<Self> {
        let metrics = Self::of(&ALL)?;
        // What has no label is there from the start, so that its absence means something.
        for metric in [UNAUTHORIZED, CONNECTIONS_REFUSED] {
            metrics.add(metric, &[], 0);
        }
        for metric in [CONNECTIONS, STREAMS, QUEUE, MODELS_LOADED, MODELS_HELD] {
            metrics.set(metric, 0.0);
        }
        Ok(metrics)
    }

    /// Those that are listed, with their help texts.
    ///
    /// # Errors
    /// As [`Metrics::new`].
    pub(crate) fn of(listed: &[Metric]) -> Result<Self> {
        let bug = |error: BuildError| Error::bug("set up the metrics", error.to_string());
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(bug)?;
        let recorder = builder.build_recorder();
        for &Metric { name, kind, help } in listed {
            let (name, help) = (KeyName::from_const_str(name), help.into());
            match kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Seconds => recorder.describe_histogram(name, Some(Unit::Seconds), help),
            }
        }
        Ok(Self(Arc::new(recorder)))
    }

    /// Adds `count` to a counter.
    pub fn add(&self, metric: Metric, labels: &[(&'static str, &str)], count: u64) {
        self.0.register_counter(&key(metric, labels), &METADATA).increment(count);
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, value: f64) {
        self.set_of(metric, &[], value);
    }

    /// Sets the gauge of these labels.
    pub(crate) fn set_of(&self, metric: Metric, labels: &[(&'static str, &str)], value: f64) {
        self.0.register_gauge(&key(metric, labels), &METADATA).set(value);
    }

    /// Notes that something took `seconds`.
    pub fn took(&self, metric: Metric, labels: &[(&'static str, &str)], seconds: f64) {
        self.0.register_histogram(&key(metric, labels), &METADATA).record(seconds);
    }

    /// Counts one in `metric` until the value is dropped.
    pub fn hold(&self, metric: Metric) -> Counted {
        self.0.register_gauge(&key(metric, &[]), &METADATA).increment(1.0);
        Counted { metrics: self.clone(), metric }
    }

    /// All counts as Prometheus reads them.
    pub fn render(&self) -> String {
        if let Some((resident, files)) = process() {
            self.set(RESIDENT_BYTES, resident);
            self.set(OPEN_FDS, files);
        }
        self.0.handle().render()
    }

    /// Gathers the times noted since the last call, which nothing else does where
    /// nobody scrapes.
    pub(super) fn tidy(&self) {
        self.0.handle().run_upkeep();
    }
}

/// One that is counted in a gauge.
#[derive(Debug)]
pub struct Counted {
    metrics: Metrics,
    metric: Metric,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.0.register_gauge(&key(self.metric, &[]), &METADATA).decrement(1.0);
    }
}

static METADATA: Metadata<'static> = Metadata::new("albedo", Level::INFO, None);

fn key(metric: Metric, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<_> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(metric.name, labels)
}

/// Resident bytes and open files of the process, where the system reports them.
fn process() -> Option<(f64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some((kib * 1024.0, std::fs::read_dir("/proc/self/fd").ok()?.count() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once_and_named_as_prometheus_wants() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        let metrics = Metrics::new().expect("metrics");
        for metric in ALL {
            match metric.kind {
                Kind::Counter => metrics.add(metric, &[], 1),
                Kind::Gauge => metrics.set(metric, 1.0),
                Kind::Seconds => metrics.took(metric, &[], 0.2),
            }
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{metric:?}");
            assert_eq!(metric.kind == Kind::Seconds, metric.name.ends_with("_seconds"), "{metric:?}");
        }
        let text = metrics.render();
        for Metric { name, help, .. } in ALL {
            assert!(text.contains(&format!("# HELP {name} {help}")), "{name}\n{text}");
        }
        assert!(text.contains("albedo_request_seconds_bucket{le=\"0.25\"} 1"), "{text}");
    }

    #[test]
    fn a_gauge_counts_what_lives() {
        let metrics = Metrics::new().expect("metrics");
        let (one, other) = (metrics.hold(STREAMS), metrics.hold(STREAMS));
        assert!(metrics.render().contains("albedo_streams 2"));
        drop((one, other));
        assert!(metrics.render().contains("albedo_streams 0"));
    }
}
