//! Plugins by name: what is linked, and what was registered by hand.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backend::ModelBackend;
use crate::chain::ChainClient;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::judge::Judge;
use crate::screen::Screen;
use crate::tasks::TaskSource;

/// A trait whose implementations are chosen by name. Sealed: the roles are
/// albedo's own, their implementations anybody's.
pub trait Role: sealed::Sealed + Send + Sync + 'static {
    /// The role's name in listings and messages.
    const NAME: &'static str;

    #[doc(hidden)]
    fn linked() -> Vec<&'static Factory<Self>>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! roles {
    ($($role:ident = $name:literal),+ $(,)?) => {$(
        inventory::collect!(Factory<dyn $role>);

        impl sealed::Sealed for dyn $role {}

        impl Role for dyn $role {
            const NAME: &'static str = $name;

            fn linked() -> Vec<&'static Factory<Self>> {
                inventory::iter::<Factory<dyn $role>>.into_iter().collect()
            }
        }
    )+

        impl Registry {
            /// Everything that the linked crates have submitted with
            /// [`register!`](crate::register), sorted by name.
            ///
            /// # Errors
            /// [`ErrorKind::Conflict`] if two plugins of one role have the same
            /// name, naming both modules.
            pub fn linked() -> Result<Self> {
                let mut registry = Self::empty();
                $(for factory in <dyn $role as Role>::linked() {
                    registry = registry.with(*factory)?;
                })+
                Ok(registry)
            }

            /// Every plugin: the roles in a fixed order, names ascending.
            pub fn list(&self) -> Vec<PluginInfo> {
                let mut plugins = Vec::new();
                $(plugins.extend(self.of::<dyn $role>().map(|factory| PluginInfo {
                    role: $name,
                    name: factory.name,
                    summary: factory.summary,
                    module: factory.module,
                    schema: (factory.schema)(),
                }));)+
                plugins
            }
        }
    };
}

roles! {
    ModelBackend = "backend",
    TaskSource = "tasks",
    Judge = "judge",
    Screen = "screen",
    ChainClient = "chain",
}

/// How one named implementation of role `R` is checked and built. Made in a
/// constant context from a [`Plugin`], so that registering costs nothing.
pub struct Factory<R: ?Sized + Role> {
    name: &'static str,
    summary: &'static str,
    module: &'static str,
    schema: fn() -> Value,
    check: fn(&Value) -> Result<()>,
    build: for<'a> fn(Value, &'a BuildContext<'a>) -> BoxFuture<'a, Result<Arc<R>>>,
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
            schema: || schemars::schema_for!(P::Config).to_value(),
            check: |config| parse::<R, P>(config).and_then(|config| P::check(&config)),
            build: |config, cx| {
                Box::pin(async move {
                    let config = parse::<R, P>(&config)?;
                    P::check(&config)?;
                    P::build(config, cx).await
                })
            },
        }
    }
}

fn parse<R: ?Sized + Role, P: Plugin<R>>(config: &Value) -> Result<P::Config> {
    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let operation = format!("read the settings of {} `{}`", R::NAME, P::NAME);
        let error = Error::new(ErrorKind::ConfigInvalid, operation, error.inner().to_string());
        if path == "." { error } else { error.with("key", path) }
    })
}

/// A type that can be built from its own strict configuration.
pub trait Plugin<R: ?Sized + Role>: 'static {
    /// The name it is chosen by: lower case, words joined by hyphens.
    const NAME: &'static str;
    /// One line for listings.
    const SUMMARY: &'static str;
    /// Its settings; `deny_unknown_fields`, with defaults where they make sense.
    type Config: DeserializeOwned + JsonSchema + Send + 'static;

    /// Checks `config` without touching anything outside it.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    fn check(_config: &Self::Config) -> Result<()> {
        Ok(())
    }

    /// Builds the implementation from a checked configuration.
    fn build(config: Self::Config, cx: &BuildContext<'_>) -> impl Future<Output = Result<Arc<R>>> + Send;
}

/// What a plugin may use while it is built: other plugins by name.
#[derive(Debug, Clone, Copy)]
pub struct BuildContext<'a> {
    /// Where other plugins are found.
    pub registry: &'a Registry,
    /// Cancellation and deadline.
    pub call: &'a CallContext,
}

impl BuildContext<'_> {
    /// `path` as it stands in the settings, taken from the registry's folder if
    /// it is relative.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.registry.folder.join(path)
    }
}

/// The plugins that can be chosen by name. A value, not a global: tests and
/// embedders add their own with [`Registry::with`].
///
/// ```
/// use albedo_core::{ErrorKind, Judge, Registry};
/// use serde_json::json;
///
/// // What the linked crates registered: nothing but core here.
/// let registry = Registry::linked()?;
/// for plugin in registry.list() {
///     println!("{} {}: {}", plugin.role, plugin.name, plugin.summary);
/// }
/// let error = registry.check::<dyn Judge>("chta", &json!({})).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::UnknownPlugin);
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Registry {
    factories: BTreeMap<(&'static str, &'static str), Box<dyn Any + Send + Sync>>,
    folder: PathBuf,
}

impl Registry {
    /// A registry without plugins.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The registry with relative paths in settings taken from `folder`, by
    /// default the process's working directory.
    #[must_use]
    pub fn relative_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// The registry with `factory` added.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if its role has a plugin of that name.
    pub fn with<R: ?Sized + Role>(mut self, factory: Factory<R>) -> Result<Self> {
        if let Some(earlier) = self.find::<R>(factory.name) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("register {} `{}`", R::NAME, factory.name),
                "the name is taken",
            )
            .with_fault(crate::Fault::Bug)
            .with("first", earlier.module)
            .with("second", factory.module));
        }
        self.factories.insert((R::NAME, factory.name), Box::new(factory));
        Ok(self)
    }

    /// Checks the settings of plugin `name` without building it.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPlugin`], which lists the known names and the
    /// nearest; [`ErrorKind::ConfigInvalid`] with the path of the key.
    pub fn check<R: ?Sized + Role>(&self, name: &str, config: &Value) -> Result<()> {
        (self.get::<R>(name)?.check)(config)
    }

    /// Builds plugin `name` with `config`, an object of its settings.
    ///
    /// # Errors
    /// As [`Registry::check`], and whatever building it meets.
    pub async fn build<R: ?Sized + Role>(
        &self,
        name: &str,
        config: Value,
        cx: &CallContext,
    ) -> Result<Arc<R>> {
        let build = self.get::<R>(name)?.build;
        build(config, &BuildContext { registry: self, call: cx }).await
    }

    fn of<R: ?Sized + Role>(&self) -> impl Iterator<Item = &Factory<R>> {
        self.factories.values().filter_map(|factory| factory.downcast_ref())
    }

    fn find<R: ?Sized + Role>(&self, name: &str) -> Option<&Factory<R>> {
        self.of::<R>().find(|factory| factory.name == name)
    }

    fn get<R: ?Sized + Role>(&self, name: &str) -> Result<&Factory<R>> {
        self.find::<R>(name).ok_or_else(|| {
            let known: Vec<_> = self.of::<R>().map(|factory| factory.name).collect();
            let error = Error::new(
                ErrorKind::UnknownPlugin,
                format!("find a {}", R::NAME),
                format!("there is no {} named `{name}`", R::NAME),
            );
            if known.is_empty() {
                return error.with_hint("none is linked: check the enabled features");
            }
            let nearest = known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, name), known))
                .min()
                .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
                .map(|(_, known)| format!("did you mean `{known}`? "))
                .unwrap_or_default();
            error.with_hint(format!("{nearest}known: {}", known.join(", ")))
        })
    }
}

/// A plugin by name, and its settings: the table's other keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PluginConfig {
    /// The plugin's name; `albedo plugins` lists them.
    pub name: String,
    /// Its settings, checked by the plugin itself.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

impl PluginConfig {
    /// The plugin `name` with its default settings.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), settings: Map::new() }
    }

    /// The settings, as [`Registry::build`] takes them.
    pub fn value(&self) -> Value {
        Value::Object(self.settings.clone())
    }
}

/// One row of [`Registry::list`].
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PluginInfo {
    /// The role it plays.
    pub role: &'static str,
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// The module that registered it.
    pub module: &'static str,
    /// JSON schema of its settings.
    pub schema: Value,
}

/// Registers a [`Plugin`] with everything that links the crate it is in:
/// `albedo_core::register!(dyn Judge => ProtocolJudge);`
#[macro_export]
macro_rules! register {
    ($role:ty => $plugin:ty) => {
        $crate::inventory::submit! {
            $crate::Factory::<$role>::of::<$plugin>(module_path!())
        }
    };
}

#[cfg(test)]
mod tests;
