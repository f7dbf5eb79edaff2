//! The configuration of a duel.

use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::{self, READ};
use crate::durable::replace;
use crate::files::open_file;
use crate::record::JournalKey;
use crate::{
    Digest, DuelSettings, Error, ErrorKind, Fault, HubRef, Judge, ModelBackend, ModelHub, ModelRef,
    PluginConfig, Registry, Result, Screen, TaskSource, canonical_json,
};

/// Name of the file in which a duel's folder keeps its configuration, so that
/// the folder is all that resuming takes.
const SAVED: &str = "duel.json";
const SAVE: &str = "save the configuration";

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
    /// The backend that loads the sides which have none of their own; `burn` by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<PluginConfig<dyn ModelBackend>>,
    /// The tasks.
    pub tasks: PluginConfig<dyn TaskSource>,
    /// The panel, in order.
    pub judges: Vec<PluginConfig<dyn Judge>>,
    /// What the challenger has to pass before the duel, in order; nothing if
    /// absent. `albedo screen` then takes those of the current
    /// profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screens: Option<Vec<PluginConfig<dyn Screen>>>,
    /// The screens and thresholds of this profile, for example `sn97-2026-12`, in place of
    /// `screens`. The admission records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_profile: Option<String>,
    /// The model that screens align all others to; the king if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<ModelConfig>,
    /// The hubs that references name, with their settings; a hub without settings
    /// need not be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<PluginConfig<dyn ModelHub>>,
    /// Everything else that can change the verdict, and the limits.
    #[serde(default)]
    pub duel: DuelSettings,
    /// Relative paths are taken from here: the file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A side's model, named by exactly one of `path`, `name` and `ref`; what its
/// parameters are pinned to, and what runs it.
///
/// ```
/// use albedo::config::ModelConfig;
/// use albedo::ModelRef;
///
/// // A model behind a server; `path` would be a folder, `ref` a model in a hub.
/// let served: ModelConfig = serde_json::from_value(serde_json::json!({
///     "name": "Qwen/Qwen3-8B",
///     "backend": { "name": "openai", "base_url": "http://localhost:8000/v1" },
/// }))?;
/// assert!(matches!(served.model()?, ModelRef::Served(name) if name == "Qwen/Qwen3-8B"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The name under which the backend's server offers the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The model in a hub, pinned to one revision.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<HubRef>,
    /// Refuse parameters of another digest.
    pub parameters: Option<Digest>,
    /// The backend that loads this side, in place of the shared one: for example
    /// the same one on another GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<PluginConfig<dyn ModelBackend>>,
}

impl ModelConfig {
    /// The model in the folder `path`, unpinned.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// The last part of the folder, served name or repository.
    fn place(&self) -> Option<String> {
        let model = self.model().ok()?;
        let text = match &model {
            ModelRef::Folder(folder) => folder.file_name()?.to_string_lossy().into_owned(),
            ModelRef::Served(name) => name.clone(),
            ModelRef::Hub(reference) => reference.repository().to_owned(),
            _ => return None,
        };
        text.rsplit('/').next().map(str::to_owned)
    }

    /// What the settings name.
    ///
    /// # Errors
    /// As [`ModelRef::one_of`].
    pub fn model(&self) -> Result<ModelRef> {
        ModelRef::one_of([
            ("path", self.path.as_ref().map(ModelRef::from)),
            ("name", self.name.as_ref().map(ModelRef::served)),
            ("ref", self.reference.clone().map(ModelRef::from)),
        ])
    }
}

/// `error`, of a key that stands outside every table and belongs to `[duel]`, with that
/// remedy.
fn elsewhere(error: Error) -> Error {
    let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.clone());
    let settings = serde_json::to_value(DuelSettings::default()).unwrap_or_default();
    match key {
        Some(key) if error.message().starts_with("unknown key") && settings.get(&key).is_some() => {
            error.with_hint(format!("write `{key}` below the line `[duel]`, or as `duel.{key}`"))
        }
        _ => error,
    }
}

/// What is said of a model that duels itself.
pub(crate) const BOTH_SIDES: &str =
    "both sides are the same model: a duel cannot tell them apart (`albedo calibrate` measures its noise)";

/// What `judge` is called on a panel.
pub(crate) fn label(judge: &PluginConfig<dyn Judge>) -> &str {
    judge.settings().get("label").and_then(Value::as_str).unwrap_or(judge.name())
}

impl DuelConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`read`](super::read).
    pub fn read(path: &Path) -> Result<Self> {
        let read: Self = file::read(path).map_err(elsewhere)?;
        Ok(Self { folder: file::folder(path).to_owned(), ..read })
    }

    /// Reads the configuration in `text`.
    ///
    /// # Errors
    /// As [`parse`](super::parse).
    pub fn parse(text: &str) -> Result<Self> {
        file::parse(text).map_err(elsewhere)
    }

    /// Keeps the configuration in `duel`, a folder that holds no duel yet, and is
    /// created. It is not part of the record. Gives what the journal is to be chained
    /// to ([`FileStore::create_keyed`](crate::FileStore::create_keyed)).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder holds a duel; the operating system's.
    pub fn save_new(&self, duel: &Path, key: &JournalKey) -> Result<Digest> {
        let io = |error| Error::io(SAVE, duel, error);
        std::fs::create_dir_all(duel).map_err(io)?;
        // A configuration without a journal is of a run that asked nothing.
        if duel.join("journal.jsonl").exists() {
            return Err(Error::new(ErrorKind::Conflict, SAVE, "the folder already holds a duel")
                .with_fault(Fault::Operator)
                .with("path", duel.display())
                .with_hint("resume it, or choose another folder"));
        }
        self.save(duel, key)
    }

    /// Keeps the configuration in a duel's folder in place of the one that is there,
    /// whole or not at all.
    ///
    /// # Errors
    /// The operator's: the path of the configuration is not UTF-8; the operating system's.
    pub fn save(&self, duel: &Path, key: &JournalKey) -> Result<Digest> {
        let path = duel.join(SAVED);
        let io = |error| Error::io(SAVE, &path, error);
        let saved = Saved { folder: self.kept_folder()?, config: self.clone(), mac: None };
        let mac = saved.tag(key)?;
        let json = serde_json::to_vec_pretty(&Saved { mac: Some(mac), ..saved })
            .map_err(|error| Error::bug(SAVE, error.to_string()).with_source(error))?;
        let partial = duel.join(format!("{SAVED}.partial"));
        replace(&path, &partial, &json).map_err(io)?;
        Ok(mac)
    }

    /// What [`DuelConfig::save`] would give.
    ///
    /// # Errors
    /// The current folder is gone; the operator's, as of [`DuelConfig::save`].
    pub fn tag(&self, key: &JournalKey) -> Result<Digest> {
        Saved { folder: self.kept_folder()?, config: self.clone(), mac: None }.tag(key)
    }

    /// The configuration's own folder, which a duel's folder keeps as text.
    fn kept_folder(&self) -> Result<PathBuf> {
        let folder =
            std::path::absolute(&self.folder).map_err(|error| Error::io(SAVE, &self.folder, error))?;
        if folder.to_str().is_some() {
            return Ok(folder);
        }
        let message = "the path of the configuration's folder is not UTF-8, and a duel keeps it as text";
        Err(Error::new(ErrorKind::ConfigInvalid, SAVE, message)
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint("rename the folder"))
    }

    /// The configuration that a duel's folder keeps. The maker of the folder wrote it:
    /// see [`SavedDuel`].
    ///
    /// # Errors
    /// The operator's: there is none, or it is malformed.
    pub fn saved(duel: &Path) -> Result<SavedDuel> {
        let path = duel.join(SAVED);
        let mut bytes = Vec::new();
        let file = open_file(READ, &path).map_err(|error| {
            error.with_hint(
                "name the folder of a duel that `albedo duel` began; where it holds a journal alone, give \
                 the configuration with `--config`",
            )
        })?;
        (&file).read_to_end(&mut bytes).map_err(|error| Error::io(READ, &path, error))?;
        let saved = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, READ, error.to_string()).with("path", path.display())
        })?;
        Ok(SavedDuel(saved))
    }

    /// What each judge is called: its setting `label` if it has one, else its plugin's
    /// name.
    pub fn judge_labels(&self) -> impl Iterator<Item = &str> {
        self.judges.iter().map(label)
    }

    /// What is well-formed and probably not meant, each in one line: both sides are one
    /// model, or they look exchanged. Nothing outside is looked at.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let (king, challenger) = (&self.king, &self.challenger);
        let same = (&king.path, &king.name, &king.reference, &king.backend)
            == (&challenger.path, &challenger.name, &challenger.reference, &challenger.backend);
        if same {
            doubts.push(BOTH_SIDES.to_owned());
        }
        let mentions = |side: &ModelConfig, word: &str| {
            side.place().is_some_and(|place| place.to_ascii_lowercase().contains(word))
        };
        let exchanged = (mentions(king, "challenger") && !mentions(king, "king"))
            || (mentions(challenger, "king") && !mentions(challenger, "challenger"));
        if exchanged && !same {
            let [king, challenger] = [king, challenger].map(|side| side.place().unwrap_or_default());
            doubts.push(format!(
                "the king is `{king}` and the challenger is `{challenger}`: the sides look exchanged"
            ));
        }
        doubts
    }

    /// Checks every setting, also of the plugins that plugins name, without
    /// touching anything outside.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] or [`ErrorKind::UnknownPlugin`], naming the
    /// first mistake and its path.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        self.checked(registry).map(drop)
    }

    /// The JSON schema of a configuration file, with the settings of every plugin
    /// of `registry`, also where plugins name others.
    pub fn schema(registry: &Registry) -> Value {
        registry.schema::<Self>()
    }
}

/// The configuration in a duel's folder, which names servers and the variables that
/// hold their keys: it is used only where this user wrote it.
#[derive(Debug)]
pub struct SavedDuel(Saved);

impl SavedDuel {
    /// The configuration, if it was written under `key`, and what the folder's journal
    /// is chained to.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn of(self, key: &JournalKey) -> Result<Option<(DuelConfig, Digest)>> {
        let Self(saved) = self;
        let Some(mac) = saved.mac else { return Ok(None) };
        let own = saved.tag(key)? == mac;
        Ok(own.then(|| (saved.into_config(), mac)))
    }

    /// The configuration, not authenticated: to be looked at, not to be run.
    pub fn unverified(self) -> DuelConfig {
        self.0.into_config()
    }
}

/// What [`DuelConfig::save`] writes.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    folder: PathBuf,
    config: DuelConfig,
    /// Of the other two, under the user's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Digest>,
}

impl Saved {
    fn tag(&self, key: &JournalKey) -> Result<Digest> {
        let tagged = canonical_json(&(&self.folder, &self.config))?;
        Ok(key.tag(&[b"duel.json", &tagged[..]].concat()))
    }

    fn into_config(self) -> DuelConfig {
        DuelConfig { folder: self.folder, ..self.config }
    }
}

#[cfg(test)]
mod tests;
