//! A plugin as a configuration names it.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Role;
use crate::error::{Error, ErrorKind, Result};

/// A plugin of role `R` by name, and its settings: the table's other keys.
///
/// In a plugin's settings type it says that the plugin uses another one. The JSON
/// schema then lists the known plugins of the role.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct PluginConfig<R: ?Sized + Role> {
    name: String,
    #[serde(flatten)]
    settings: Map<String, Value>,
    #[serde(skip)]
    role: PhantomData<fn(&R)>,
}

impl<R: ?Sized + Role> PluginConfig<R> {
    /// The plugin `name` with its default settings.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), settings: Map::new(), role: PhantomData }
    }

    /// The same with one setting, in place of an earlier one of that key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// The plugin's name; `albedo plugins` lists them.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings as they were given, not checked.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }
}

impl<R: ?Sized + Role> Clone for PluginConfig<R> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), settings: self.settings.clone(), role: PhantomData }
    }
}

impl<R: ?Sized + Role> PartialEq for PluginConfig<R> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.settings == other.settings
    }
}

impl<R: ?Sized + Role> Debug for PluginConfig<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` {:?}", R::NAME, self.name, self.settings)
    }
}

impl<R: ?Sized + Role> JsonSchema for PluginConfig<R> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        R::NAME.into()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        format!("{}::{}", module_path!(), R::NAME).into()
    }

    // `Registry::schema` puts the known plugins in its place.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": { "name": { "type": "string" } },
            "required": ["name"],
        })
    }
}

/// The settings of plugin `name` as a value.
pub(super) fn to_value(name: &str, settings: impl Serialize) -> Result<Value> {
    serde_json::to_value(settings).map_err(|error| {
        let operation = format!("write the settings of `{name}`");
        Error::new(ErrorKind::ConfigInvalid, operation, error.to_string()).with_source(error)
    })
}
