//! Plugins by name: the roles, the plugins that are linked or were registered
//! by hand, their settings and how they are checked and built.
//!
//! A table of a configuration file goes three steps:
//!
//! 1. [`PluginConfig`] holds it as it was written: a name and settings.
//! 2. [`CheckContext::plugin`] reads the settings into the plugin's own type and
//!    checks them, together with the plugins that they name, however deep. It
//!    touches nothing outside. A mistake is named with its whole path:
//!    `judges[0].backend.order[1].base_url`.
//! 3. [`Checked::build`] makes the plugin of what the check made. Nothing is read
//!    or checked twice.
//!
//! ```
//! use albedo_core::registry::{CheckContext, PluginConfig};
//! use albedo_core::{ErrorKind, ModelBackend, Registry};
//!
//! let registry = Registry::linked()?;
//! let inner = serde_json::json!([{ "name": "rotues", "order": [] }]);
//! let backend = PluginConfig::<dyn ModelBackend>::named("routes").with("order", inner);
//! let error = CheckContext::new(&registry).plugin("backend", &backend).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::UnknownPlugin);
//! assert!(error.to_string().contains("key: backend.order[0]"));
//! assert!(error.to_string().contains("did you mean `routes`?"));
//! # Ok::<(), albedo_core::Error>(())
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::backend::ModelBackend;
use crate::chain::ChainClient;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::hub::ModelHub;
use crate::judge::Judge;
use crate::record::RecordStore;
use crate::screen::Screen;
use crate::tasks::TaskSource;

mod context;
mod names;
mod plugin;
mod schema;
mod secrets;
mod settings;
mod stores;
mod words;

pub use context::{BuildContext, CheckContext, Resources};
#[doc(hidden)]
pub use names::nearest;
pub use plugin::{Checked, Factory, Plugin, Settings};
pub use secrets::{Secret, Secrets, SystemSecrets};
pub use settings::PluginConfig;
pub use stores::{FileStoreConfig, MemoryStoreConfig};
#[doc(hidden)]
pub use words::mistake;

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

/// A factory that [`register!`](crate::register) has submitted: what collects it shows on
/// no page of the documentation.
#[doc(hidden)]
#[derive(Debug)]
pub struct Linked<R: ?Sized + Role>(pub Factory<R>);

macro_rules! roles {
    ($($role:ident = $name:literal),+ $(,)?) => {$(
        inventory::collect!(Linked<dyn $role>);

        impl sealed::Sealed for dyn $role {}

        impl Role for dyn $role {
            const NAME: &'static str = $name;

            fn linked() -> Vec<&'static Factory<Self>> {
                inventory::iter::<Linked<dyn $role>>.into_iter().map(|linked| &linked.0).collect()
            }
        }
    )+

        /// The names of all roles.
        const ROLES: &[&str] = &[$($name),+];

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
                $(plugins.extend(self.of::<dyn $role>().map(Factory::info));)+
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
    RecordStore = "store",
    ModelHub = "hub",
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
}

impl Registry {
    /// A registry without plugins.
    pub fn empty() -> Self {
        Self::default()
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
            .with_fault(Fault::Bug)
            .with("first", earlier.module)
            .with("second", factory.module));
        }
        self.factories.insert((R::NAME, factory.name), Box::new(factory));
        Ok(self)
    }

    /// Checks plugin `name` with `settings`, which serialise as an object: a
    /// `serde_json::json!({…})` or the plugin's own settings type. Touches nothing
    /// outside.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownPlugin`], which lists the known names and the
    /// nearest; [`ErrorKind::ConfigInvalid`] with the path of the key.
    pub fn check<R: ?Sized + Role>(&self, name: &str, settings: impl Serialize) -> Result<Checked<R>> {
        let settings = settings::to_value(name, settings)?;
        self.get::<R>(name)?.check(&settings, &CheckContext::new(self))
    }

    /// Checks and builds plugin `name` with `settings`, with the [`Resources`] of
    /// a plain program and relative paths taken from the working directory; for
    /// others there is [`BuildContext::build`].
    ///
    /// # Errors
    /// As [`Registry::check`], and whatever building it meets.
    pub async fn build<R: ?Sized + Role>(
        &self,
        name: &str,
        settings: impl Serialize + Send,
        cx: &CallContext,
    ) -> Result<Arc<R>> {
        BuildContext::new(self, cx).build(name, settings).await
    }

    /// Whether there is a plugin `name` that reaches nothing outside its settings
    /// ([`Plugin::OFFLINE`]).
    pub fn is_offline<R: ?Sized + Role>(&self, name: &str) -> bool {
        self.find::<R>(name).is_some_and(|factory| factory.offline)
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
            let nearest = names::nearest(name, known.iter().copied());
            let nearest = nearest.map(|known| format!("did you mean `{known}`? ")).unwrap_or_default();
            error.with_hint(format!("{nearest}known: {}", known.join(", ")))
        })
    }
}

/// One row of [`Registry::list`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
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

/// Puts a [`Plugin`] into [`Registry::linked`] of every program that links the crate it
/// is in.
///
/// A crate that is a dependency and that nothing names is not linked: its plugins are
/// not there, and a configuration that asks for one is refused. A program names it
/// with `use my_judges as _;`.
///
/// ```
/// # use albedo_core::registry::{BuildContext, CheckContext, Plugin};
/// # use albedo_core::*;
/// # use std::sync::Arc;
/// # #[derive(Debug)]
/// # struct Coin(Identity);
/// # #[async_trait::async_trait]
/// # impl Judge for Coin {
/// #     fn identity(&self) -> &Identity { &self.0 }
/// #     fn profile(&self) -> JudgeProfile { JudgeProfile::new([Metric::Efficiency]) }
/// #     async fn compare(&self, _: &Comparison, _: &CallContext) -> Result<Assessment> {
/// #         Ok(Assessment::Abstained { reason: "an example".into() })
/// #     }
/// # }
/// # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// # struct Settings {}
/// # impl Plugin<dyn Judge> for Coin {
/// #     const NAME: &'static str = "coin";
/// #     const SUMMARY: &'static str = "an example";
/// #     type Config = Settings;
/// #     type Checked = Self;
/// #     fn check(config: Settings, _: &CheckContext<'_>) -> Result<Self> {
/// #         Ok(Self(Identity::new(Self::NAME, "1", &config)?))
/// #     }
/// #     async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
/// #         Ok(Arc::new(judge))
/// #     }
/// # }
/// // `Coin` implements `Judge` and `Plugin<dyn Judge>` with the name `coin`.
/// register!(dyn Judge => Coin);
///
/// # fn main() -> Result<()> {
/// let names: Vec<_> = Registry::linked()?.list().iter().map(|plugin| plugin.name).collect();
/// assert!(names.contains(&"coin"));
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! register {
    ($role:ty => $plugin:ty) => {
        $crate::__register::submit! {
            $crate::__register::Linked($crate::Factory::<$role>::of::<$plugin>(module_path!()))
        }
    };
}

#[cfg(test)]
mod tests;
