//! `architecture`: does `config.json` describe the king's network?
//!
//! The keys in `locked` must have the king's values; `spec`, where it is given, has
//! keys and values in their stead. What is compared is what the file means, in its
//! normal form ([`normal_config`]): `save_pretrained` of transformers 4 and of 5 spell
//! the same network differently, and leave other defaults out. The keys in `forbidden`
//! must be nowhere in the file, at any depth: `auto_map` and `custom_pipelines` run code of
//! the repository's; `quantization_config`, `compression_config` and their kin make a server
//! compute with other numbers than the weights', `dual_chunk_attention_config` with another
//! attention.

use std::sync::Arc;

use albedo_core::pretrained::normal_config;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Finding, Identity, ModelFiles, Plugin, Result, Screen,
    ScreenPart,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::evidence::{Problem, Problems};
use super::files::kings;
use super::listing::{CONFIG, Listing, MAX_CONFIG_BYTES, object};

/// Settings of [`ArchitectureScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchitectureConfig {
    /// Keys of `config.json` that must have the king's values.
    pub locked: Vec<String>,
    /// Keys that must not occur, at any depth.
    pub forbidden: Vec<String>,
    /// Keys and values that stand in for the king's locked keys.
    pub spec: Option<Map<String, Value>>,
}

impl Default for ArchitectureConfig {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            // The Python system's eleven, then what it left open: rope and norm
            // settings, the attention's form, the activation.
            locked: names(&[
                "architectures",
                "vocab_size",
                "model_type",
                "max_position_embeddings",
                "tie_word_embeddings",
                "rope_theta",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
                "head_dim",
                "rope_scaling",
                "rope_parameters",
                "rms_norm_eps",
                "hidden_act",
                "attention_bias",
                "use_sliding_window",
                "sliding_window",
                "max_window_layers",
                "layer_types",
                "bos_token_id",
                "eos_token_id",
            ]),
            forbidden: names(&[
                "auto_map",
                "custom_pipelines",
                "quantization_config",
                // vLLM and SGLang read it where there is no `quantization_config`.
                "compression_config",
                "sparsity_config",
                // MLX's name for it.
                "quantization",
                "quant_method",
                "dual_chunk_attention_config",
            ]),
            spec: None,
        }
    }
}

/// Compares configurations; see the [module](self).
#[derive(Debug)]
pub struct ArchitectureScreen {
    identity: Identity,
    config: ArchitectureConfig,
}

impl ArchitectureScreen {
    /// A screen with `config`.
    pub fn new(config: ArchitectureConfig) -> Result<Self> {
        Ok(Self { identity: Identity::new(Self::NAME, "3", &config)?, config })
    }

    /// What is wrong with `submission`, of which `normal` is the normal form, beside
    /// the king's.
    fn check_config(
        &self,
        submission: &Map<String, Value>,
        normal: &Map<String, Value>,
        king: &Map<String, Value>,
    ) -> Problems {
        let mut problems = Problems::default();
        let locked: Vec<&String> = match &self.config.spec {
            Some(spec) => spec.keys().collect(),
            None => self.config.locked.iter().collect(),
        };
        for key in locked {
            let (found, expected) = (meant(normal, key), meant(king, key));
            let (found, expected) = (found.as_ref(), expected.as_ref());
            if !same(found, expected) {
                let word = |value: Option<&Value>| value.map_or_else(|| "absent".into(), Value::to_string);
                let message = format!("it is {}, it has to be {}", word(found), word(expected));
                problems.push(Problem::new("locked", key, message));
            }
        }
        for key in &self.config.forbidden {
            if submission.iter().any(|(name, value)| name == key || holds(value, key)) {
                problems.push(Problem::new("forbidden", key, "no configuration may have this key"));
            }
        }
        problems
    }
}

impl Screen for ArchitectureScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Files(self)
    }
}

#[async_trait]
impl albedo_core::FilesScreen for ArchitectureScreen {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Finding> {
        let expected = match &self.config.spec {
            Some(spec) => spec.clone(),
            None => config(king, cx).await?.map_err(|problem| kings(&problem, king.provenance()))?,
        };
        let expected = normal(expected).map_err(|problem| kings(&problem, king.provenance()))?;
        let found = config(submission, cx).await?.and_then(|found| Ok((normal(found.clone())?, found)));
        let problems = match found {
            Ok((normal, found)) => self.check_config(&found, &normal, &expected),
            Err(problem) => {
                let mut problems = Problems::default();
                problems.push(problem);
                problems
            }
        };
        Ok(problems.finding(submission.provenance(), json!({ "locked": self.config.locked.len() })))
    }
}

impl Plugin<dyn Screen> for ArchitectureScreen {
    const NAME: &'static str = "architecture";
    const SUMMARY: &'static str = "whether config.json describes the king's network";
    type Config = ArchitectureConfig;
    type Checked = Self;

    fn check(config: ArchitectureConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(screen: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        Ok(Arc::new(screen))
    }
}

albedo_core::register!(dyn Screen => ArchitectureScreen);

/// The configuration among `files`, or what is wrong with it.
async fn config(files: &dyn ModelFiles, cx: &CallContext) -> Result<Result<Map<String, Value>, Problem>> {
    let listing = Listing::read(files, &mut Problems::default(), cx).await?;
    let missing = || Problem::cut("required", CONFIG, "the file is missing");
    let bytes = listing.text(CONFIG, MAX_CONFIG_BYTES, cx).await?.unwrap_or_else(|| Err(missing()));
    Ok(bytes.and_then(|bytes| object(CONFIG, &bytes)))
}

/// The normal form of a configuration, or what is wrong with it.
fn normal(config: Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    normal_config(config).map_err(|error| Problem::new("json", CONFIG, error.message()))
}

/// What `key` means in a normal form, also where the form says it by another key.
fn meant(normal: &Map<String, Value>, key: &str) -> Option<Value> {
    match key {
        "torch_dtype" => normal.get("dtype").cloned(),
        "max_window_layers" => normal.get("layer_types").cloned(),
        // All of the rotary positions but their base, which has a key of its own.
        "rope_scaling" => {
            let mut rope = normal.get("rope_parameters")?.clone();
            rope.as_object_mut()?.remove("rope_theta");
            Some(rope)
        }
        key => normal.get(key).cloned(),
    }
}

/// Equal values; numbers by value, so that `1e6` is `1000000`, at any depth.
fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    match (one, other) {
        (Some(Value::Number(one)), Some(Value::Number(other))) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Some(Value::Null) | None, Some(Value::Null) | None) => true,
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            one.keys().chain(other.keys()).all(|key| same(one.get(key), other.get(key)))
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(Some(one), Some(other)))
        }
        _ => one == other,
    }
}

/// Whether `key` occurs in `value` at any depth; the JSON reader bounds the depth.
fn holds(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| name == key || holds(value, key)),
        Value::Array(values) => values.iter().any(|value| holds(value, key)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
