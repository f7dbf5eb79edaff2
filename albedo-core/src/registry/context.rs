//! What plugins may use while they are checked and built.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{Checked, PluginConfig, Registry, Role, Secret, Secrets, SystemSecrets};
use crate::clock::{Clock, SystemClock};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::http::HttpTransport;
use crate::model_ref::ModelRef;

/// What a plugin may use while its settings are checked: the other plugins by
/// name.
#[derive(Debug, Clone)]
pub struct CheckContext<'a> {
    registry: &'a Registry,
}

impl<'a> CheckContext<'a> {
    /// A context in which the plugins of `registry` are known.
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry }
    }

    /// The known plugins.
    pub fn registry(&self) -> &'a Registry {
        self.registry
    }

    /// Checks the plugin that the setting `key` names, and those that it names.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPlugin`] or [`ErrorKind::ConfigInvalid`]; the path of
    /// the mistake begins with `key`.
    pub fn plugin<R: ?Sized + Role>(
        &self,
        key: impl Display,
        plugin: &PluginConfig<R>,
    ) -> Result<Checked<R>> {
        self.registry
            .get::<R>(plugin.name())
            .and_then(|factory| factory.check(&Value::Object(plugin.settings().clone()), self))
            .map(|checked| checked.at(key.to_string()))
            .map_err(|error| error.under(key))
    }

    /// Checks the plugins of the list `key`, in order.
    ///
    /// # Errors
    /// As [`CheckContext::plugin`], of the first mistake: `key[0]`.
    pub fn plugins<R: ?Sized + Role>(
        &self,
        key: impl Display,
        plugins: &[PluginConfig<R>],
    ) -> Result<Vec<Checked<R>>> {
        let places = plugins.iter().enumerate();
        places.map(|(place, plugin)| self.plugin(format_args!("{key}[{place}]"), plugin)).collect()
    }
}

/// What a plugin may use while it is built.
#[derive(Debug, Clone)]
pub struct BuildContext<'a> {
    registry: &'a Registry,
    call: &'a CallContext,
    folder: PathBuf,
    resources: Resources,
    only_looks: bool,
}

impl<'a> BuildContext<'a> {
    /// A context with the [`Resources`] of a plain program, in which relative
    /// paths are taken from the working directory.
    pub fn new(registry: &'a Registry, call: &'a CallContext) -> Self {
        Self { registry, call, folder: PathBuf::new(), resources: Resources::default(), only_looks: false }
    }

    /// The same with other resources.
    #[must_use]
    pub fn with_resources(self, resources: Resources) -> Self {
        Self { resources, ..self }
    }

    /// The same with relative paths taken from `folder`: that of the file which
    /// the settings are from.
    #[must_use]
    pub fn relative_to(&self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), ..self.clone() }
    }

    /// The same for what is only looked with: a plugin makes no file, and opens none that only one
    /// process may have open.
    #[must_use]
    pub fn only_looking(&self) -> Self {
        Self { only_looks: true, ..self.clone() }
    }

    /// Whether what is built is only looked with; see [`BuildContext::only_looking`].
    pub fn only_looks(&self) -> bool {
        self.only_looks
    }

    /// Checks and builds plugin `name` with `settings`; see [`Registry::check`].
    ///
    /// # Errors
    /// As [`Registry::check`], and whatever building it meets.
    pub async fn build<R: ?Sized + Role>(
        &self,
        name: &str,
        settings: impl Serialize + Send,
    ) -> Result<Arc<R>> {
        self.registry.check(name, settings)?.build(self).await
    }

    /// Where other plugins are found.
    pub fn registry(&self) -> &'a Registry {
        self.registry
    }

    /// Cancellation and deadline of the building.
    pub fn call(&self) -> &'a CallContext {
        self.call
    }

    /// `path` as it stands in the settings, taken from the configuration's folder
    /// if it is relative.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// `model` as it stands in the settings, a relative folder taken from the
    /// configuration's.
    pub fn model(&self, model: &ModelRef) -> ModelRef {
        model.relative_to(&self.folder)
    }

    /// The clock that the plugin measures time and waits with.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.resources.clock
    }

    /// The folder for what can be had again, such as downloads. It may not exist
    /// yet.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if none was set and the system has none for this
    /// user.
    pub fn cache_dir(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.resources.cache_dir {
            return Ok(folder.clone());
        }
        let folder = etcetera::choose_base_strategy().map_err(|error| {
            Error::new(ErrorKind::NotFound, "find the cache folder", error.to_string())
                .with_hint("set HOME or XDG_CACHE_HOME")
                .with_source(error)
        })?;
        Ok(etcetera::BaseStrategy::cache_dir(&folder).join("albedo"))
    }

    /// What sends the plugin's requests, where the program or an embedder has
    /// chosen it; a plugin that is given none brings its own.
    pub fn http(&self) -> Option<&Arc<dyn HttpTransport>> {
        self.resources.http.as_ref()
    }

    /// The secret `name`, for example an API key.
    ///
    /// # Errors
    /// The operator's: there is none of that name, or it cannot be read.
    pub fn secret(&self, name: &str) -> Result<Secret> {
        self.resources.secrets.get(name)
    }
}

/// What the plugins of a program share and take from their surroundings. The
/// default is right for a plain program; embedders replace what they own.
///
/// ```
/// use albedo_core::registry::{BuildContext, Resources};
/// use albedo_core::{CallContext, Registry, VirtualClock};
///
/// let (registry, call) = (Registry::linked()?, CallContext::new());
/// let resources = Resources::default().with_clock(VirtualClock::new()).with_cache_dir("cache");
/// let cx = BuildContext::new(&registry, &call).with_resources(resources);
/// assert_eq!(cx.relative_to("panel").path("tasks"), std::path::Path::new("panel/tasks"));
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Resources {
    clock: Arc<dyn Clock>,
    cache_dir: Option<PathBuf>,
    http: Option<Arc<dyn HttpTransport>>,
    secrets: Arc<dyn Secrets>,
}

impl Default for Resources {
    /// The system's clock, the user's cache folder, [`SystemSecrets`].
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            cache_dir: None,
            http: None,
            secrets: Arc::new(SystemSecrets::from_env()),
        }
    }
}

impl Resources {
    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// The same with another folder for what can be had again.
    #[must_use]
    pub fn with_cache_dir(self, folder: impl Into<PathBuf>) -> Self {
        Self { cache_dir: Some(folder.into()), ..self }
    }

    /// The same with `http` for every plugin's requests: one pool of connections,
    /// one choice of proxies and certificates, or a script.
    #[must_use]
    pub fn with_http(self, http: Arc<dyn HttpTransport>) -> Self {
        Self { http: Some(http), ..self }
    }

    /// The same with other secrets.
    #[must_use]
    pub fn with_secrets(self, secrets: impl Secrets) -> Self {
        Self { secrets: Arc::new(secrets), ..self }
    }
}
