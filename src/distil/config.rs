//! The configuration of a distillation.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::backends::burn::train::{Decay, Lora, MAX_STEPS, Optimizer, Settings};
use crate::config::{folder, parse, read};
use crate::registry::CheckContext;
use crate::{Error, ErrorKind, PluginConfig, Registry, Result, Screen, Seed};

mod stage;

pub use stage::{Control, Objective, StageSettings, Turns, Weight};

const CHECK: &str = "check the distillation's configuration";

/// Most conversations of a step. Source: chosen by albedo: those of a step are in memory together.
const MAX_ACCUMULATE: usize = 4096;

/// What is trained, on what, how, and what its result has to show. Unknown keys are refused;
/// relative paths are taken from the file's folder.
///
/// ```
/// let config = albedo::distil::DistilConfig::parse(
///     r#"
///     gate = "none"
///
///     [student]
///     path = "models/king"
///
///     [data]
///     records = ["duels/first"]
///
///     [[stage]]
///     objective = "sft"
///     steps = 100
///     "#,
/// )?;
/// assert_eq!((config.stage.len(), config.train.accumulate), (1, 8));
/// # Ok::<(), albedo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistilConfig {
    /// The model that learns.
    pub student: StudentSettings,
    /// What it learns from, and what it may not see.
    pub data: DataSettings,
    /// The stages, in order, each a table `[[stage]]`.
    pub stage: Vec<StageSettings>,
    /// How every stage trains.
    #[serde(default)]
    pub train: TrainSettings,
    /// What the result has to show before it is the final model: a table, or `"none"`.
    pub gate: Gate,
    /// Relative paths are taken from here: the file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// The model that learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StudentSettings {
    /// Its folder. It is read, never written.
    pub path: PathBuf,
    /// The folder of the distillation: its record, its checkpoints and the model.
    #[serde(default = "out")]
    pub out: PathBuf,
}

fn out() -> PathBuf {
    "distil".into()
}

/// What the student learns from, and what it may not see.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// Records of duels: folders, or `FOLDER/*` for all records in a folder. Each is
    /// verified first.
    pub records: Vec<Source>,
    /// Task sets: folders with a `manifest.json`, or files of conversations in JSON Lines
    /// (`.jsonl`, `.jsonl.gz`).
    pub tasks: Vec<Source>,
    /// Task sets that are never trained on, as `tasks`. The tasks of the gate's duel are
    /// held out, too.
    pub held_out: Vec<Source>,
    /// What is kept apart: `"repo"` trains on no repository that is held out, and holds out
    /// one in ten if there is no held-out set; `"none"` leaves out the same tasks and texts
    /// alone.
    pub split: Split,
    /// Trains on copies in which the names of the code are replaced, differently in each
    /// pass over the data.
    pub rename: bool,
    /// Held-out conversations that the loss is measured on, before the first stage and
    /// after each.
    pub held_out_rows: Rows,
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Rows(pub usize);

impl Default for Rows {
    /// Source: chosen by albedo: half a minute on two cores for the demo's models.
    fn default() -> Self {
        Self(64)
    }
}

/// What is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Repositories.
    #[default]
    Repo,
    /// The same tasks and texts alone.
    None,
}

/// Where data are, as a text, or as a table with the license of the data.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(description = "paths, or tables with `path` and `license`")]
#[serde(untagged)]
pub enum Source {
    /// A folder or file.
    Path(PathBuf),
    /// A folder or file with its license.
    Licensed(LicensedSource),
}

/// Where data are, and under which license.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LicensedSource {
    /// The folder or file.
    pub path: PathBuf,
    /// The license as its SPDX name: neither records nor tasks know it.
    pub license: String,
}

impl Source {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Licensed(LicensedSource { path, .. }) => path,
        }
    }

    /// Its license, if it was stated.
    pub fn license(&self) -> Option<&str> {
        match self {
            Self::Path(_) => None,
            Self::Licensed(source) => Some(&source.license),
        }
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// How every stage trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// `"adamw"` for every parameter, or `"muon"` for the matrices of the layers and AdamW
    /// for embedding, norms and head.
    pub optimizer: Optimizer,
    /// The highest learning rate of AdamW.
    pub rate: f64,
    /// The highest learning rate of Muon.
    pub muon_rate: f64,
    /// Steps over which the rate rises from 0 at the beginning of a stage. A short stage
    /// warms up over a fifth of its steps at most.
    pub warmup: u64,
    /// How the rate falls after that, to 0 at the end of the stage.
    pub decay: Decay,
    /// The share of a matrix that a step takes away, times the rate.
    pub weight_decay: f64,
    /// The largest norm of the gradient; a longer one is scaled down. 0 never scales.
    pub clip: f64,
    /// Conversations per step, 1 to 4,096. Their mean is weighted by tokens.
    pub accumulate: usize,
    /// The longest conversation in tokens. A longer one is cut behind its last whole reply
    /// that fits, and counted.
    pub max_tokens: usize,
    /// Most tokens that go through the model together: more are faster and need more memory.
    pub pass_tokens: usize,
    /// Trains thin matrices beside the linear layers instead of all parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// What the order of the data, the new names and the adapters' first values follow from.
    pub seed: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept, the newest; at least 2, so that a step can be repeated.
    pub keep: usize,
}

impl Default for TrainSettings {
    fn default() -> Self {
        let Settings { rate, muon_rate, warmup, decay, weight_decay, clip, pass_tokens, .. } =
            Settings::default();
        Self {
            optimizer: Optimizer::default(),
            rate,
            muon_rate,
            warmup,
            decay,
            weight_decay,
            clip,
            accumulate: 8,
            max_tokens: 2048,
            pass_tokens,
            lora: None,
            seed: 0,
            checkpoint_every: 50,
            keep: 2,
        }
    }
}

/// What the result has to show before it is the final model.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(description = "a table, or `\"none\"`")]
#[serde(untagged)]
pub enum Gate {
    /// Nothing.
    Open(Open),
    /// Behaviour, and a duel won.
    Closed(GateSettings),
}

/// No gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// The result is the final model, whatever it is worth.
    None,
}

/// The screens and the duel that the result has to pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    /// The configuration of the duel of student and result. Its king and challenger are
    /// replaced by them; its tasks are held out.
    pub duel: PathBuf,
    /// Samples of the duel, in place of its configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// The duel's seed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// What the result's behaviour is screened with, on the duel's tasks. A finding counts
    /// against it unless the student has the same one.
    #[serde(default = "behaviour")]
    pub screens: Vec<PluginConfig<dyn Screen>>,
    /// What the screens' questions follow from.
    #[serde(default)]
    pub probe: u64,
}

fn behaviour() -> Vec<PluginConfig<dyn Screen>> {
    ["sanity", "loops", "tail"].map(PluginConfig::named).into()
}

/// Reads a [`Source`].
struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a table with `path` and `license`")
    }

    fn visit_str<E>(self, text: &str) -> Result<Source, E> {
        Ok(Source::Path(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
        LicensedSource::deserialize(MapAccessDeserializer::new(map)).map(Source::Licensed)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Reads a [`Gate`].
struct GateVisitor;

impl<'de> Visitor<'de> for GateVisitor {
    type Value = Gate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with `duel`, or `\"none\"`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Gate, E> {
        if text == "none" {
            return Ok(Gate::Open(Open::None));
        }
        Err(E::unknown_variant(text, &["none"]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Gate, A::Error> {
        GateSettings::deserialize(MapAccessDeserializer::new(map)).map(Gate::Closed)
    }
}

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GateVisitor)
    }
}

impl DistilConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`read`](crate::config::read).
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read(path).map_err(ungated)?;
        Ok(Self { folder: folder(path).to_owned(), ..config })
    }

    /// Reads the configuration in `text`.
    ///
    /// # Errors
    /// As [`parse`](crate::config::parse).
    pub fn parse(text: &str) -> Result<Self> {
        parse(text).map_err(ungated)
    }

    /// The JSON schema of the file, with the settings of every plugin of `registry`.
    pub fn schema(registry: &Registry) -> Value {
        registry.schema::<Self>()
    }

    /// Checks every setting that can be checked without reading a file.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] with the key.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        if self.data.records.is_empty() && self.data.tasks.is_empty() {
            return Err(invalid("data", "there is nothing to learn from")
                .with_hint("name records in `data.records`, or task sets in `data.tasks`"));
        }
        if self.stage.is_empty() {
            return Err(
                invalid("stage", "there is no stage").with_hint("write at least one table `[[stage]]`")
            );
        }
        let at_least = |key: &'static str, value: u64, least: u64| {
            if value >= least {
                return Ok(());
            }
            Err(invalid(key, format!("it is {value}, and must be at least {least}")))
        };
        let accumulate = self.train.accumulate;
        if !(1..=MAX_ACCUMULATE).contains(&accumulate) {
            let message = format!("it is {accumulate}, and must be 1 to {MAX_ACCUMULATE}");
            return Err(invalid("train.accumulate", message));
        }
        at_least("train.max_tokens", self.train.max_tokens as u64, 2)?;
        at_least("train.checkpoint_every", self.train.checkpoint_every, 1)?;
        at_least("train.keep", self.train.keep as u64, 2)?;
        at_least("data.held_out_rows", self.data.held_out_rows.0 as u64, 1)?;
        self.trained(1).check().map_err(|error| error.under("train"))?;
        for (place, stage) in self.stage.iter().enumerate() {
            let under = |error: Error| error.under(format_args!("stage[{place}]"));
            stage.check(&self.data).map_err(under)?;
            // The number of steps is known once the data are read.
            self.settings(stage, stage.steps.unwrap_or(1)).check().map_err(under)?;
        }
        let known: Vec<u64> = self.stage.iter().map(|stage| stage.steps.unwrap_or(1)).collect();
        self.check_length(&known)?;
        if let Gate::Closed(gate) = &self.gate {
            CheckContext::new(registry)
                .plugins("screens", &gate.screens)
                .map_err(|error| error.under("gate"))?;
            if gate.samples == Some(0) {
                return Err(invalid("gate.samples", "a duel needs at least one sample"));
            }
        }
        Ok(())
    }

    /// Refuses stages of so many `steps`, one number per stage, if the record could not hold them.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] with the key of the stage that has too many.
    pub(super) fn check_length(&self, steps: &[u64]) -> Result<()> {
        let mut all = 0_u64;
        for (place, (stage, steps)) in self.stage.iter().zip(steps).enumerate() {
            all = all.saturating_add(*steps);
            if all > MAX_STEPS {
                let (key, hint) = match stage.tokens {
                    Some(_) => ("tokens", "lower `tokens`, or raise `train.accumulate`"),
                    None => ("steps", "lower `steps` of this stage, or the length of one before it"),
                };
                return Err(invalid(key, format!("the stages have more than {MAX_STEPS} steps together"))
                    .under(format_args!("stage[{place}]"))
                    .with("steps up to this stage", all)
                    .with_hint(hint));
            }
        }
        Ok(())
    }

    /// What the engine is asked to do in a stage of `steps` steps.
    pub(super) fn settings(&self, stage: &StageSettings, steps: u64) -> Settings {
        let trained = self.trained(steps);
        Settings {
            objective: stage.learnt(),
            rate: stage.rate.unwrap_or(trained.rate),
            muon_rate: stage.muon_rate.unwrap_or(trained.muon_rate),
            shuffled: stage.control == Some(Control::Shuffled),
            ..trained
        }
    }

    /// What the table `[train]` says of `steps` steps.
    fn trained(&self, steps: u64) -> Settings {
        let train = &self.train;
        Settings {
            optimizer: train.optimizer,
            rate: train.rate,
            muon_rate: train.muon_rate,
            weight_decay: train.weight_decay,
            clip: train.clip,
            steps,
            warmup: train.warmup.min(steps / 5),
            decay: train.decay,
            lora: train.lora,
            seed: train.seed,
            pass_tokens: train.pass_tokens,
            ..Settings::default()
        }
    }

    /// `path` as it is found from the working folder.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

/// `error`, of a file that says nothing about its gate, with the remedy.
fn ungated(error: Error) -> Error {
    if error.message().contains("`gate`") && error.message().contains("missing") {
        return error
            .with_hint("write `[gate]` with `duel = FILE`, or `gate = \"none\"` above the first table");
    }
    error
}

fn invalid(key: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigInvalid, CHECK, message).with("key", key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::burn::train::{Distil, Objective as Learnt};

    const SMALL: &str = r#"
        gate = "none"
        student.path = "king"
        data.records = ["duels/*", { path = "other", license = "MIT" }]

        [[stage]]
        objective = "kd"
        teacher = "challenger"
        tokens = 1000
    "#;

    fn checked(text: &str) -> Result<DistilConfig> {
        let config = DistilConfig::parse(text)?;
        config.check(&Registry::linked()?).map(|()| config)
    }

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config = checked(SMALL).expect("reads");
        assert_eq!(config.gate, Gate::Open(Open::None));
        assert_eq!(config.data.records[0], Source::from("duels/*"));
        assert_eq!(config.data.records[1].license(), Some("MIT"));
        assert_eq!((config.data.split, config.data.held_out_rows), (Split::Repo, Rows(64)));
        let settings = config.settings(&config.stage[0], 40);
        assert_eq!((settings.steps, settings.warmup), (40, 8), "a short stage warms up shortly");
        assert_eq!(settings.objective, Learnt::Distil(Distil::default()));
        assert!(!settings.shuffled);
        let control = SMALL.replace("tokens = 1000", "tokens = 1000\ncontrol = \"shuffled\"");
        let control = checked(&control).expect("reads");
        assert!(control.settings(&control.stage[0], 40).shuffled);
        let json = serde_json::to_value(&config).expect("JSON");
        assert_eq!(serde_json::from_value::<DistilConfig>(json).expect("reads back"), config);
    }

    #[test]
    fn the_configurations_of_the_guide_are_in_order() {
        let guide = include_str!("../../docs/distil.md");
        let blocks: Vec<_> =
            guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let [whole, gate] = blocks[..] else { panic!("{} blocks", blocks.len()) };
        let open = checked(whole).expect("in order");
        assert_eq!((open.stage.len(), open.data.rename), (2, true));
        let ungated = whole.lines().filter(|line| !line.starts_with("gate")).collect::<Vec<_>>().join("\n");
        let closed = checked(&format!("{ungated}\n{gate}")).expect("in order");
        let Gate::Closed(gate) = closed.gate else { panic!("a gate") };
        assert_eq!((gate.samples, gate.screens), (Some(128), behaviour()));
    }

    #[test]
    fn what_makes_a_stage_shorter_depends_on_how_its_length_is_given() {
        let refused = |text: &str| {
            let config = checked(text).expect("reads");
            config.check_length(&[MAX_STEPS + 1]).expect_err("too long").to_string()
        };
        let tokens = refused(SMALL);
        assert!(tokens.contains("stage[0].tokens") && tokens.contains("train.accumulate"), "{tokens}");
        let steps = refused(&SMALL.replace("tokens = 1000", "steps = 1000"));
        assert!(steps.contains("stage[0].steps") && !steps.contains("train.accumulate"), "{steps}");
    }

    #[test]
    fn mistakes_are_named_with_their_key_and_a_remedy() {
        let sft = SMALL.replace("\"kd\"", "\"sft\"");
        for (text, words) in [
            (SMALL.replace("\"kd\"", "\"rl\""), "known: sft, kd, on-policy, dpo"),
            (SMALL.replace("\"kd\"", "\"dpo\""), "learns from pairs"),
            (SMALL.replace("tokens = 1000", "tokens = 1000\nbeta = 1"), "only the objective `dpo`"),
            (SMALL.replace("tokens = 1000", "tokens = 1000\nprompts = 1.5"), "from 0 to 1"),
            (SMALL.replace("\"kd\"", "\"on-policy\"\nprompts = 0.3"), "replies alone"),
            (
                SMALL.replace("\"kd\"", "\"dpo\"\nturns = \"pair\"\nprompts = 0.3"),
                "(key: stage[0].prompts); leave it out",
            ),
            (SMALL.replace("tokens = 1000", "tokens = 1000\nsampling = {}"), "samples nothing"),
            (SMALL.replace("objective", "objektive"), "did you mean `objective`"),
            (SMALL.replace("tokens = 1000", "token = 1000"), "did you mean `tokens`"),
            (SMALL.replace("tokens = 1000", ""), "set `steps` or `tokens`"),
            (SMALL.replace("tokens = 1000", "tokens = 0"), "no step"),
            (SMALL.replace("gate = \"none\"", ""), "gate = \"none\""),
            (SMALL.replace("\"none\"", "\"open\""), "none"),
            (
                SMALL.replace("gate = \"none\"", "gate = { duel = \"d\", sample = 1 }"),
                "did you mean `samples`",
            ),
            (SMALL.replace("teacher = \"challenger\"", ""), "needs a teacher"),
            (sft, "has no teacher"),
            (SMALL.replace("tokens = 1000", "tokens = 1000\ncontrol = \"shuffle\""), "shuffled"),
            (
                SMALL.replace("data.records", "data.tasks").replace("tokens", "turns = \"loser\"\ntokens"),
                "only records have winners and losers",
            ),
            (SMALL.replace("license", "licence"), "did you mean `license`"),
            (format!("train.rate = -1\n{SMALL}"), "`rate` is -1"),
            (format!("train.keep = 1\n{SMALL}"), "at least 2"),
            (format!("train.accumulate = 0\n{SMALL}"), "must be 1 to 4096"),
            (format!("train.accumulate = 9223372036854775807\n{SMALL}"), "must be 1 to 4096"),
            (format!("train.lora = {{ rank = 1025, alpha = 1 }}\n{SMALL}"), "`lora.rank` is 1025"),
            (SMALL.replace("tokens = 1000", "tokens = 9223372036854775807"), "key: stage[0].tokens"),
            (SMALL.replace("tokens = 1000", "steps = 1000001"), "key: stage[0].steps"),
            (
                SMALL.replace(
                    "tokens = 1000",
                    "steps = 600000\n[[stage]]\nobjective = \"sft\"\nsteps = 600000",
                ),
                "key: stage[1].steps, steps up to this stage: 1200000",
            ),
            (SMALL.replace("data.records", "data.held_out"), "nothing to learn from"),
        ] {
            let error = checked(&text).expect_err(words);
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
