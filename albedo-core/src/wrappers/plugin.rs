//! The backend `routes`: other backends, guarded.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BreakerSettings, ConcurrencySettings, DeadlineSettings, Guarded, Guards, RetrySettings, Route,
    Surroundings,
};
use crate::backend::{ModelBackend, ModelSession, ModelSource};
use crate::clock::{Clock, SystemClock};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::meter::Meter;
use crate::model_ref::ModelRef;
use crate::registry::{BuildContext, CheckContext, Checked, Plugin, PluginConfig};

/// Loads a model through other backends, in their order, behind the guards of
/// the [module](super). All its sessions share one budget; each has limits and
/// breakers of its own.
#[derive(Debug)]
pub struct RoutesBackend {
    identity: Identity,
    backends: Vec<(String, Arc<dyn ModelBackend>)>,
    guards: Guards,
    meter: Arc<Meter>,
    clock: Arc<dyn Clock>,
}

/// Settings of [`RoutesBackend`].
///
/// ```toml
/// name = "routes"
/// order = [
///     { name = "openai", preset = "chutes", model = "deepseek-ai/DeepSeek-V3.2-TEE" },
///     { name = "openai", preset = "openrouter", model = "deepseek/deepseek-v3.2" },
/// ]
/// budget_usd = 5.0
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoutesConfig {
    /// The backends, each with its settings; the first is asked first.
    pub order: Vec<PluginConfig<dyn ModelBackend>>,
    /// When to try again.
    #[serde(default)]
    pub retry: RetrySettings,
    /// How long a try may take.
    #[serde(default)]
    pub deadlines: DeadlineSettings,
    /// How many calls of a route may be under way.
    #[serde(default)]
    pub concurrency: ConcurrencySettings,
    /// When to leave a route alone.
    #[serde(default)]
    pub breaker: BreakerSettings,
    /// Ask the next route as well once one has not answered for this long.
    #[serde(default)]
    pub hedge_after_secs: Option<f64>,
    /// Send no call once this much is spent, in US dollars, in this run.
    #[serde(default)]
    pub budget_usd: Option<f64>,
}

impl RoutesConfig {
    fn guards(&self) -> Guards {
        Guards {
            retry: self.retry,
            deadlines: self.deadlines,
            concurrency: self.concurrency,
            breaker: self.breaker,
            hedge_after_secs: self.hedge_after_secs,
            budget_usd: self.budget_usd,
        }
    }
}

impl RoutesBackend {
    /// The backends of `order`, guarded by `guards`, with the system's clock.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`].
    pub fn new(order: Vec<Arc<dyn ModelBackend>>, guards: Guards) -> Result<Self> {
        guards.check()?;
        check_order(order.len())?;
        Self::checked(order, guards, Arc::new(SystemClock::default()))
    }

    fn checked(order: Vec<Arc<dyn ModelBackend>>, guards: Guards, clock: Arc<dyn Clock>) -> Result<Self> {
        // Which backend answers can change an answer; how patiently it is
        // waited for cannot.
        let identities: Vec<_> = order.iter().map(|backend| backend.identity()).collect();
        Ok(Self {
            identity: Identity::new(Self::NAME, env!("CARGO_PKG_VERSION"), &identities)?,
            backends: (order.into_iter().enumerate())
                .map(|(place, backend)| (format!("{} {}", backend.identity().name, place + 1), backend))
                .collect(),
            guards,
            meter: Arc::new(Meter::new(guards.budget_usd)),
            clock,
        })
    }

    /// What its sessions have spent.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }
}

fn check_order(routes: usize) -> Result<()> {
    if routes == 0 {
        let error = Error::new(ErrorKind::ConfigInvalid, "check the routes", "`order` names no backend");
        return Err(
            error.with_hint("name at least one, for example { name = \"openai\", preset = \"chutes\" }")
        );
    }
    Ok(())
}

#[async_trait]
impl ModelBackend for RoutesBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn takes_references(&self) -> bool {
        self.backends.iter().all(|(_, backend)| backend.takes_references())
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        cx.check("load the model over the routes")?;
        let route = |(name, backend): &(String, Arc<dyn ModelBackend>)| {
            let most = backend.max_in_flight();
            let (backend, model) = (Arc::clone(backend), model.clone());
            let route = Route::lazy(name, move |cx| -> BoxFuture<'static, Result<Arc<dyn ModelSession>>> {
                let (backend, model) = (Arc::clone(&backend), model.clone());
                Box::pin(async move { backend.load(&model, &cx).await })
            });
            // What waits for its turn waits at the gate.
            most.into_iter().fold(route, Route::at_most)
        };
        let surroundings = Surroundings::new(Arc::clone(&self.clock), &self.guards);
        let surroundings = Surroundings { meter: Arc::clone(&self.meter), ..surroundings };
        let routes = self.backends.iter().map(route).collect();
        Ok(Arc::new(Guarded::open(routes, self.guards, surroundings, cx).await?))
    }
}

impl Plugin<dyn ModelBackend> for RoutesBackend {
    const NAME: &'static str = "routes";
    const SUMMARY: &'static str = "other backends in order, with retries, deadlines, limits and a budget";
    type Config = RoutesConfig;
    type Checked = (Vec<Checked<dyn ModelBackend>>, Guards);

    fn check(config: RoutesConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        check_order(config.order.len())?;
        let guards = config.guards();
        guards.check()?;
        Ok((cx.plugins("order", &config.order)?, guards))
    }

    fn check_model((backends, _): &Self::Checked, model: &ModelRef) -> Result<()> {
        for (place, backend) in backends.iter().enumerate() {
            let route = format_args!("{} {}", backend.name(), place + 1);
            backend.check_model(model).map_err(|error| error.with("route", route))?;
        }
        Ok(())
    }

    async fn build(
        (backends, guards): Self::Checked,
        cx: &BuildContext<'_>,
    ) -> Result<Arc<dyn ModelBackend>> {
        let mut order = Vec::with_capacity(backends.len());
        for backend in backends {
            order.push(backend.build(cx).await?);
        }
        Ok(Arc::new(Self::checked(order, guards, Arc::clone(cx.clock()))?))
    }
}

crate::register!(dyn ModelBackend => RoutesBackend);
