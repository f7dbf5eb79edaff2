//! What the handlers of a server share.

use std::sync::Arc;

use super::access::Gate;
use super::config::{Limits, ServerConfig};
use super::health::Activity;
use super::jobs::Jobs;
use super::metrics::Metrics;
use super::models::Models;
use crate::{CallContext, Result};

/// What the handlers of a server share. Cloning shares it.
#[derive(Debug, Clone)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    models: Models,
    jobs: Jobs,
    metrics: Metrics,
    gate: Gate,
    activity: Activity,
    stopping: CallContext,
    work: CallContext,
}

impl State {
    pub(super) fn new(
        config: &ServerConfig,
        models: Models,
        jobs: Jobs,
        metrics: Metrics,
        activity: Activity,
        work: CallContext,
    ) -> Self {
        Self(Arc::new(Inner {
            gate: Gate::new(&config.limits, &metrics),
            limits: config.limits.clone(),
            models,
            jobs,
            metrics,
            activity,
            stopping: CallContext::new(),
            work,
        }))
    }

    /// How much is accepted, and how long is waited.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The models.
    pub fn models(&self) -> &Models {
        &self.0.models
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Who may let the engine write replies now.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// What is under way, and whether it gets on.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// Cancelled when the server stops: nothing new is begun. What is under
    /// way goes on until [`State::work`] is cancelled.
    pub fn stopping(&self) -> &CallContext {
        &self.0.stopping
    }

    /// The context of everything that the server does for its clients; cancelled when a
    /// server that stops waits no longer.
    pub fn work(&self) -> &CallContext {
        &self.0.work
    }

    /// `Ok` unless the server is about to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub fn go_on(&self) -> Result<()> {
        self.0.stopping.check("answer a request, as the server stops")
    }
}
