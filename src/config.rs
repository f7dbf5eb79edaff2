//! A duel as a TOML file describes it.
//!
//! ```
//! # fn main() -> albedo::Result<()> {
//! let config = albedo::config::DuelConfig::parse(
//!     r#"
//!     [king]
//!     path = "models/king"
//!
//!     [challenger]
//!     path = "models/challenger"
//!
//!     [tasks]
//!     name = "parquet"
//!     path = "tasks"
//!
//!     [[judges]]
//!     name = "reference-action"
//!
//!     [duel]
//!     samples = 128
//!     generation.sampling = { temperature = 0.7, top_p = 0.95 }
//!     "#,
//! )?;
//! assert_eq!(config.duel.samples, 128);
//! # Ok(())
//! # }
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use albedo_core::PluginConfig;

use crate::{
    CallContext, Contestant, Digest, Duel, DuelBuilder, DuelSettings, Error, ErrorKind, Fault, Judge,
    ModelBackend, ModelSource, Registry, Result, Side, TaskSource,
};

const READ: &str = "read the configuration";

/// Name of the file in which a duel's folder keeps its configuration, so that
/// the folder is all that resuming takes.
const SAVED: &str = "duel.json";

/// The largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The contestants, what runs them, what they answer and who judges. Unknown
/// keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DuelConfig {
    /// The reigning model.
    pub king: ModelConfig,
    /// The model that tries to dethrone it; it is given the king's tokenizer,
    /// chat template and stop ids.
    pub challenger: ModelConfig,
    /// The backend that loads both; `burn` by default.
    #[serde(default = "burn")]
    pub backend: PluginConfig,
    /// The tasks.
    pub tasks: PluginConfig,
    /// The panel, in order.
    pub judges: Vec<PluginConfig>,
    /// Everything else that can change the verdict, and the limits.
    #[serde(default)]
    pub duel: DuelSettings,
    /// Relative paths are taken from here: the file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A model's folder and what its parameters are pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The folder.
    pub path: PathBuf,
    /// Refuse parameters of another digest.
    pub parameters: Option<Digest>,
}

fn burn() -> PluginConfig {
    PluginConfig::named("burn")
}

impl DuelConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The operator's: no such file; as [`DuelConfig::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |error| Error::io(READ, path, error);
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
        let invalid = |message: String| {
            Error::new(ErrorKind::ConfigInvalid, READ, message).with("path", path.display())
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(invalid(format!("the file has more than {MAX_BYTES} bytes"))
                .with_hint("name a configuration file"));
        }
        let text = String::from_utf8(bytes).map_err(|_| invalid("the file is not UTF-8".into()))?;
        let config = Self::parse(&text).map_err(|error| error.with("path", path.display()))?;
        // The parent of a bare file name is empty, which is no path.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), ..config })
    }

    /// Reads the configuration in `text`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] with the line of a syntax error, or the path
    /// of a key that is unknown, missing or of the wrong type.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |error: &toml::de::Error| {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            let line = error.span().and_then(|span| text.get(..span.start));
            let error = Error::new(ErrorKind::ConfigInvalid, READ, message);
            match line {
                Some(before) => error.with("line", before.matches('\n').count() + 1),
                None => error,
            }
        };
        let deserializer = toml::Deserializer::parse(text).map_err(|error| invalid(&error))?;
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            let inner = invalid(error.inner());
            if path == "." { inner } else { inner.with("key", path) }
        })
    }

    /// Keeps the configuration in a duel's folder. It is not part of the record.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, duel: &Path) -> Result<()> {
        let path = duel.join(SAVED);
        let io = |error| Error::io("save the configuration", &path, error);
        let saved = Saved { folder: std::path::absolute(&self.folder).map_err(io)?, config: self.clone() };
        let json = serde_json::to_vec_pretty(&saved)
            .map_err(|error| Error::bug("save the configuration", error.to_string()).with_source(error))?;
        std::fs::write(&path, json).map_err(io)
    }

    /// The configuration that a duel's folder keeps.
    ///
    /// # Errors
    /// The operator's: there is none, or it is malformed.
    pub fn saved(duel: &Path) -> Result<Self> {
        let path = duel.join(SAVED);
        let bytes = std::fs::read(&path).map_err(|error| {
            Error::io(READ, &path, error).with_hint("name the folder of a duel that `albedo duel` began")
        })?;
        let Saved { folder, config } = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, READ, error.to_string())
                .with_fault(Fault::Operator)
                .with("path", path.display())
        })?;
        Ok(Self { folder, ..config })
    }

    /// Checks every setting without touching anything outside.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] or [`ErrorKind::UnknownPlugin`], naming the
    /// first mistake.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        self.duel.check()?;
        if let Some(canaries) = &self.duel.canaries {
            canaries.check_panel(self.judges.len())?;
        }
        registry.check::<dyn ModelBackend>(&self.backend.name, &self.backend.value())?;
        registry.check::<dyn TaskSource>(&self.tasks.name, &self.tasks.value())?;
        for judge in &self.judges {
            registry.check::<dyn Judge>(&judge.name, &judge.value())?;
        }
        Ok(())
    }

    /// The JSON schema of a configuration file, with the settings of every
    /// plugin of `registry`.
    pub fn schema(registry: &Registry) -> Value {
        let mut schema = schemars::schema_for!(Self).to_value();
        let plugins = registry.list();
        for (key, role) in [("backend", "backend"), ("tasks", "tasks"), ("judges", "judge")] {
            let of_role: Vec<_> = plugins.iter().filter(|plugin| plugin.role == role).collect();
            let names: Vec<_> = of_role.iter().map(|plugin| format!("{role}-{}", plugin.name)).collect();
            for (plugin, name) in of_role.iter().zip(&names) {
                let mut settings = plugin.schema.clone();
                move_references(&mut settings, name);
                settings["properties"]["name"] = json!({ "const": plugin.name });
                let required = settings["required"].as_array().cloned().unwrap_or_default();
                settings["required"] = required.into_iter().chain([json!("name")]).collect();
                schema["$defs"][name] = settings;
            }
            let any: Vec<_> = names.iter().map(|name| json!({ "$ref": format!("#/$defs/{name}") })).collect();
            let table = &mut schema["properties"][key];
            let description = table["description"].take();
            *table = json!({ "description": description });
            if key == "judges" {
                table["type"] = json!("array");
                table["items"] = json!({ "oneOf": any });
            } else {
                table["oneOf"] = json!(any);
            }
        }
        schema
    }

    /// Checks every setting and builds every part: what
    /// [`plan`](DuelBuilder::plan) freezes. Names and settings are checked before
    /// any model is loaded.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the files that they name, or one
    /// side's model.
    pub async fn builder(&self, registry: Registry, cx: &CallContext) -> Result<DuelBuilder> {
        let registry = registry.relative_to(&self.folder);
        self.check(&registry)?;
        let tasks = registry.build::<dyn TaskSource>(&self.tasks.name, self.tasks.value(), cx).await?;
        let mut judges = Vec::with_capacity(self.judges.len());
        for judge in &self.judges {
            judges.push(registry.build::<dyn Judge>(&judge.name, judge.value(), cx).await?);
        }
        let [king, challenger] = self.contestants(&registry, cx).await?;
        Ok(Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(self.duel.clone()))
    }

    /// Loads both contestants, the king first; a model that duels itself once.
    ///
    /// # Errors
    /// Whatever is wrong with the backend's settings or one side's model.
    pub async fn contestants(&self, registry: &Registry, cx: &CallContext) -> Result<[Contestant; 2]> {
        let backend =
            registry.build::<dyn ModelBackend>(&self.backend.name, self.backend.value(), cx).await?;
        let source = |model: &ModelConfig| ModelSource {
            location: self.folder.join(&model.path),
            parameters: model.parameters,
            text_from: Some(self.folder.join(&self.king.path)),
        };
        let king = Contestant::load(Side::King, &backend, &source(&self.king), cx).await?;
        let challenger = if self.challenger == self.king {
            king.clone()
        } else {
            Contestant::load(Side::Challenger, &backend, &source(&self.challenger), cx).await?
        };
        Ok([king, challenger])
    }
}

/// Makes the references of a schema that becomes definition `name` of another
/// point into itself.
fn move_references(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match value {
                    Value::String(target) if key == "$ref" => {
                        *target = target.replacen("#/", &format!("#/$defs/{name}/"), 1);
                    }
                    other => move_references(other, name),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, name)),
        _ => {}
    }
}

/// What [`DuelConfig::save`] writes.
#[derive(Serialize, Deserialize)]
struct Saved {
    folder: PathBuf,
    config: DuelConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        judges = []
        king.path = "k"
        challenger.path = "c"
        tasks.name = "parquet"
    "#;

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config = DuelConfig::parse(SMALL).expect("reads");
        assert_eq!(config.backend, PluginConfig::named("burn"));
        assert_eq!(config.duel, DuelSettings::default());
    }

    #[test]
    fn what_is_saved_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("{SMALL}\ntasks.path = \"t\"\nduel.seed = 7\nduel.sampler = \"albedo-py\"");
        let config = DuelConfig { folder: "/somewhere".into(), ..DuelConfig::parse(&text).expect("reads") };
        config.save(folder.path()).expect("saves");
        assert_eq!(DuelConfig::saved(folder.path()).expect("reads"), config);
    }

    #[test]
    fn a_plugins_other_keys_are_its_settings() {
        let config = DuelConfig::parse(&format!("{SMALL}\ntasks.path = \"t\"")).expect("reads");
        assert_eq!(config.tasks.settings["path"], "t");
    }

    #[test]
    fn the_guides_panel_is_well_formed() {
        let guide = include_str!("../docs/judge-panels.md");
        let (_, panel) = guide.split_once("```toml\n").expect("an example");
        let (panel, _) = panel.split_once("```").expect("its end");
        let sides =
            "king.path = \"k\"\nchallenger.path = \"c\"\ntasks = { name = \"parquet\", path = \"t\" }\n";
        let config = DuelConfig::parse(&format!("{sides}{panel}")).expect("reads");
        config.check(&Registry::linked().expect("links")).expect("is well-formed");
        assert_eq!((config.judges.len(), config.duel.canaries.is_some()), (3, true));
    }

    #[test]
    fn mistakes_are_named_with_their_path() {
        for (line, expected) in [
            ("duel.sampels = 3", "unknown field `sampels`"),
            ("duel.sampels = 3", "key: duel.sampels"),
            ("duel.generation.max_new_tokens = \"many\"", "key: duel.generation.max_new_tokens"),
            ("king.parameters = \"abc\"", "is not 64 hexadecimal digits"),
            ("duel.rule = { name = \"majority\" }", "unknown variant `majority`"),
            ("duel.seed = -1", "a seed is not negative"),
            ("duel = ", "line: 6"),
        ] {
            let error = DuelConfig::parse(&format!("{SMALL}{line}")).expect_err("a mistake");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        let error = DuelConfig::parse("judges = []").expect_err("no king");
        assert!(error.to_string().contains("missing field `king`"), "{error}");
    }
}
