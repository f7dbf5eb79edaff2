//! What a plugin says of itself, and how it is checked and built.

use std::fmt::{self, Debug};
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::words::mistake;
use super::{BuildContext, CheckContext, PluginInfo, Role};
use crate::backend::ModelBackend;
use crate::error::Result;
use crate::model_ref::ModelRef;

/// A type that can be built from its own strict configuration.
///
/// Settings are read once, checked once, and handed on: [`Plugin::check`] turns
/// them into [`Plugin::Checked`], which [`Plugin::build`] receives. Where building
/// takes nothing from outside, `Checked` is the plugin itself:
///
/// ```
/// # use std::sync::Arc;
/// # use albedo_core::registry::{BuildContext, CheckContext, Plugin};
/// # use albedo_core::*;
/// # #[derive(Debug)]
/// # struct Brief(Identity);
/// # #[async_trait::async_trait]
/// # impl Judge for Brief {
/// #     fn identity(&self) -> &Identity { &self.0 }
/// #     fn profile(&self) -> JudgeProfile { JudgeProfile::new([Metric::Efficiency]) }
/// #     async fn compare(&self, _: &Comparison, _: &CallContext) -> Result<Assessment> {
/// #         Ok(Assessment::Abstained { reason: "an example".into() })
/// #     }
/// # }
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct BriefConfig {
///     longest: u32,
/// }
///
/// impl Plugin<dyn Judge> for Brief {
///     const NAME: &'static str = "brief";
///     const SUMMARY: &'static str = "prefers the shorter reply";
///     type Config = BriefConfig;
///     type Checked = Self;
///
///     fn check(config: BriefConfig, _: &CheckContext<'_>) -> Result<Self> {
///         if config.longest == 0 {
///             let error = Error::new(ErrorKind::ConfigInvalid, "check the judge `brief`", "`longest` is 0");
///             return Err(error.with("key", "longest"));
///         }
///         Ok(Self(Identity::new(Self::NAME, "1", &config)?))
///     }
///
///     async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
///         Ok(Arc::new(judge))
///     }
/// }
/// ```
pub trait Plugin<R: ?Sized + Role>: 'static {
    /// The name it is chosen by: lower case, words joined by hyphens.
    const NAME: &'static str;
    /// One line for listings.
    const SUMMARY: &'static str;
    /// Whether building it and using it reach nothing outside its settings, whatever
    /// they are: no file, network, model or clock. Settings that came with somebody
    /// else's record are given to such plugins only.
    const OFFLINE: bool = false;
    /// Its settings; `deny_unknown_fields`, with defaults where they make sense.
    /// Settings that name other plugins have fields of type
    /// [`PluginConfig`](super::PluginConfig).
    type Config: Settings;
    /// Settings that were checked, together with the plugins that they name.
    type Checked: Send + 'static;

    /// Checks `config` without touching anything outside it. Plugins that it names
    /// are checked by [`CheckContext::plugin`].
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`](crate::ErrorKind::ConfigInvalid), with the
    /// setting's path within `config` as the context `key`.
    fn check(config: Self::Config, cx: &CheckContext<'_>) -> Result<Self::Checked>;

    /// Refuses a model that a *backend* with these settings cannot load because of how it
    /// is named: a server's name given to a backend that reads folders, or a folder to one
    /// that asks a server. A check of a configuration asks this before any work. A hub's
    /// model is loaded from the folder that it is fetched into.
    ///
    /// By default no model is refused here, and `load` has to.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`](crate::ErrorKind::ConfigInvalid), such as
    /// [`ModelRef::require_files`] and [`ModelRef::require_served`] make.
    fn check_model(_checked: &Self::Checked, _model: &ModelRef) -> Result<()> {
        Ok(())
    }

    /// Builds the implementation from checked settings.
    fn build(checked: Self::Checked, cx: &BuildContext<'_>) -> impl Future<Output = Result<Arc<R>>> + Send;
}

/// Settings that are read from a table and described by a JSON schema: every
/// type that derives `serde::Deserialize` and `schemars::JsonSchema`.
pub trait Settings: Sized + Send + 'static {
    #[doc(hidden)]
    fn read(operation: &str, settings: &Value) -> Result<Self>;

    #[doc(hidden)]
    fn schema() -> Value;
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Settings for T {
    fn read(operation: &str, settings: &Value) -> Result<Self> {
        serde_path_to_error::deserialize(settings)
            .map_err(|error| mistake(operation, &error.path().to_string(), &error.inner().to_string()))
    }

    fn schema() -> Value {
        schemars::schema_for!(T).to_value()
    }
}

/// How one named implementation of role `R` is checked and built. Made in a
/// constant context from a [`Plugin`], so that registering costs nothing.
pub struct Factory<R: ?Sized + Role> {
    pub(super) name: &'static str,
    summary: &'static str,
    pub(super) module: &'static str,
    pub(super) offline: bool,
    schema: fn() -> Value,
    check: fn(&Value, &CheckContext<'_>) -> Result<Checked<R>>,
}

impl<R: ?Sized + Role> Clone for Factory<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ?Sized + Role> Copy for Factory<R> {}

impl<R: ?Sized + Role> Debug for Factory<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` from {}", R::NAME, self.name, self.module)
    }
}

impl<R: ?Sized + Role> Factory<R> {
    /// The factory of plugin `P`, whose code is in `module`.
    pub const fn of<P: Plugin<R>>(module: &'static str) -> Self {
        Self {
            name: P::NAME,
            summary: P::SUMMARY,
            module,
            offline: P::OFFLINE,
            schema: P::Config::schema,
            check: |settings, cx| {
                let operation = format!("read the settings of {} `{}`", R::NAME, P::NAME);
                let checked = P::check(P::Config::read(&operation, settings)?, cx)?;
                Ok(Checked { name: P::NAME, key: None, plugin: Box::new(Ready::<R, P>(checked)) })
            },
        }
    }

    pub(super) fn check(&self, settings: &Value, cx: &CheckContext<'_>) -> Result<Checked<R>> {
        (self.check)(settings, cx)
    }

    pub(super) fn info(&self) -> PluginInfo {
        PluginInfo {
            role: R::NAME,
            name: self.name,
            summary: self.summary,
            module: self.module,
            schema: (self.schema)(),
        }
    }
}

/// A plugin's checked settings, whatever its type.
trait Prepared<R: ?Sized>: Send {
    fn check_model(&self, model: &ModelRef) -> Result<()>;

    fn build<'a>(self: Box<Self>, cx: &'a BuildContext<'a>) -> BoxFuture<'a, Result<Arc<R>>>;
}

/// The checked settings of plugin `P`.
struct Ready<R: ?Sized + Role, P: Plugin<R>>(P::Checked);

impl<R: ?Sized + Role, P: Plugin<R>> Prepared<R> for Ready<R, P> {
    fn check_model(&self, model: &ModelRef) -> Result<()> {
        P::check_model(&self.0, model)
    }

    fn build<'a>(self: Box<Self>, cx: &'a BuildContext<'a>) -> BoxFuture<'a, Result<Arc<R>>> {
        Box::pin(P::build(self.0, cx))
    }
}

/// A plugin of role `R` whose settings were checked, and those of all plugins
/// that they name: what is left is to build it.
pub struct Checked<R: ?Sized + Role> {
    name: &'static str,
    /// Where its table is in that of the plugin around it.
    key: Option<String>,
    plugin: Box<dyn Prepared<R>>,
}

impl<R: ?Sized + Role> Debug for Checked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checked {} `{}`", R::NAME, self.name)
    }
}

impl<R: ?Sized + Role> Checked<R> {
    /// The plugin's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn at(self, key: String) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Builds the plugin.
    ///
    /// # Errors
    /// Whatever building it meets, with the path of its table as the context
    /// `key`.
    pub async fn build(self, cx: &BuildContext<'_>) -> Result<Arc<R>> {
        let Self { key, plugin, .. } = self;
        plugin.build(cx).await.map_err(|error| match key {
            Some(key) => error.under(key),
            None => error,
        })
    }
}

impl Checked<dyn ModelBackend> {
    /// Refuses a model that the backend cannot load because of how it is named; see
    /// [`Plugin::check_model`].
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`](crate::ErrorKind::ConfigInvalid), the operator's.
    pub fn check_model(&self, model: &ModelRef) -> Result<()> {
        self.plugin.check_model(model)
    }
}
