//! The backend that a command runs a model on.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{CallContext, Error, ErrorKind, ModelBackend, ModelRef, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct BackendArguments {
    /// The backend that runs the model; `albedo plugins` lists them.
    #[arg(long, value_name = "NAME", default_value = "burn")]
    backend: String,
    /// A setting of the backend, once for each. The value is read as JSON, and
    /// as a text if it is none.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// Where the model runs, for example `cpu` or `cuda:1`; the backend's
    /// setting `device`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The date that a chat template gets when it asks for today's date, for
    /// example `2026-11-28`; the backend's setting `date`.
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
}

/// The model that a command line names: a folder, or `name:` and the name under which
/// the backend's server offers it.
pub(super) fn model(named: &Path) -> ModelRef {
    match named.to_str().and_then(|text| text.strip_prefix("name:")) {
        Some(name) => ModelRef::served(name),
        None => ModelRef::from(named),
    }
}

/// `KEY=VALUE`, the value read as JSON, and as a text if it is none.
pub(super) fn setting(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
            Ok((key.into(), value))
        }
        _ => Err("a setting is KEY=VALUE".into()),
    }
}

impl BackendArguments {
    /// The settings that the command line gives.
    ///
    /// # Errors
    /// The operator's: a key that is given twice.
    pub(crate) fn settings(&self) -> Result<Map<String, Value>> {
        let device = self.device.iter().map(|device| ("device".to_owned(), Value::from(device.as_str())));
        let date = self.date.iter().map(|date| ("date".to_owned(), Value::from(date.as_str())));
        let mut settings = Map::new();
        for (key, value) in self.settings.iter().cloned().chain(device).chain(date) {
            if settings.insert(key.clone(), value).is_some() {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    "read the backend's settings",
                    format!("`{key}` is set twice"),
                ));
            }
        }
        Ok(settings)
    }

    /// Builds the backend with `settings`.
    ///
    /// # Errors
    /// The operator's: an unknown backend or setting.
    pub(crate) async fn build(
        &self,
        registry: &Registry,
        settings: Map<String, Value>,
        cx: &CallContext,
    ) -> Result<Arc<dyn ModelBackend>> {
        registry.build::<dyn ModelBackend>(&self.backend, settings, cx).await
    }
}
