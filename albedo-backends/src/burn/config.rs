//! `config.json` of a Qwen3 dense decoder.

use std::path::Path;

use albedo_core::pretrained::normal_config;
use albedo_core::{Artefact, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::files::read_small;

/// The one architecture that is supported.
pub(super) const ARCHITECTURE: &str = "Qwen3ForCausalLM";

const OPERATION: &str = "read the model's configuration";

/// The largest `config.json` that is read; published ones have about 1 kB.
const MAX_BYTES: u64 = 1 << 20;

/// What the engine needs to know of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Qwen3Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) head_dim: usize,
    pub(super) intermediate_size: usize,
    /// Longest prompt and reply together, in tokens.
    pub(super) max_position_embeddings: usize,
    pub(super) rope_theta: f64,
    pub(super) rms_norm_eps: f64,
    /// The output head is the embedding table.
    pub(super) tie_word_embeddings: bool,
}

impl Qwen3Config {
    /// Reads `config.json` of `folder`.
    ///
    /// # Errors
    /// A missing file or key; a value out of range; an architecture, or an
    /// option of it, that is not supported.
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let bytes = read_small(&path, MAX_BYTES, OPERATION, Artefact::Model)?;
        Self::parse(&bytes).map_err(|error| error.with("path", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("not a JSON object: {error}")).with_source(error))?;
        let map = normal_config(map).map_err(|error| error.about(Artefact::Model))?;
        check_supported(&map)?;
        // The bounds keep every product of two or three sizes far inside 64 bits.
        let hidden_size = size(&map, "hidden_size", 1 << 17)?;
        let num_attention_heads = size(&map, "num_attention_heads", 1 << 12)?;
        let config = Self {
            vocab_size: size(&map, "vocab_size", 1 << 21)?,
            hidden_size,
            num_hidden_layers: size(&map, "num_hidden_layers", 1 << 10)?,
            num_attention_heads,
            num_key_value_heads: size(&map, "num_key_value_heads", 1 << 12)?,
            head_dim: size(&map, "head_dim", 1 << 12)?,
            intermediate_size: size(&map, "intermediate_size", 1 << 20)?,
            max_position_embeddings: size(&map, "max_position_embeddings", 1 << 24)?,
            rope_theta: number(&map, "rope_theta")?,
            rms_norm_eps: number(&map, "rms_norm_eps")?,
            tie_word_embeddings: flag(&map, "tie_word_embeddings")?
                .ok_or_else(|| missing("tie_word_embeddings"))?,
        };
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            return Err(invalid(format!(
                "`num_attention_heads` is {}, not a multiple of `num_key_value_heads`, {}",
                config.num_attention_heads, config.num_key_value_heads
            )));
        }
        if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
            return Err(invalid(format!("`head_dim` is {}, it must be even", config.head_dim)));
        }
        if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0) {
            return Err(invalid(format!(
                "`rms_norm_eps` is {}, it must be between 0 and 1",
                config.rms_norm_eps
            )));
        }
        if config.rope_theta < 1.0 {
            return Err(invalid(format!("`rope_theta` is {}, it must be at least 1", config.rope_theta)));
        }
        Ok(config)
    }

    /// Number of parameters; a tied table counts once.
    pub(super) fn parameter_count(&self) -> u64 {
        let (hidden, q, kv) = (self.hidden_size, self.query_width(), self.kv_width());
        let attention = hidden * (2 * q + 2 * kv) + 2 * self.head_dim;
        let layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        (tables * self.vocab_size * hidden + self.num_hidden_layers * layer + hidden) as u64
    }

    /// Width of the queries of all heads.
    pub(super) fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the keys, and of the values, of all heads.
    pub(super) fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

fn check_supported(map: &Map<String, Value>) -> Result<()> {
    let names: Vec<&str> = match map.get("architectures") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        None => return Err(missing("architectures")),
        Some(_) => return Err(invalid("`architectures` is not a list")),
    };
    if !names.contains(&ARCHITECTURE) {
        let given = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(unsupported(format!("the architecture is {given}; supported is {ARCHITECTURE}")));
    }
    match map.get("hidden_act") {
        Some(Value::String(name)) if name == "silu" => {}
        None => return Err(missing("hidden_act")),
        Some(other) => return Err(unsupported(format!("`hidden_act` is {other}; supported is \"silu\""))),
    }
    if map.contains_key("quantization_config") {
        return Err(unsupported("`quantization_config` is set; supported is only a model without it"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if flag(map, key)? == Some(true) {
            return Err(unsupported(format!("`{key}` is true; supported is only false")));
        }
    }
    check_rope(map)?;
    let kinds = map.get("layer_types").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if kinds.iter().any(|kind| kind != "full_attention") {
        return Err(unsupported(
            "`layer_types` has a layer that is not \"full_attention\", which alone is supported",
        ));
    }
    match map.get("num_hidden_layers").and_then(Value::as_u64) {
        Some(layers) if layers == kinds.len() as u64 => Ok(()),
        Some(layers) if layers <= 1 << 10 => Err(invalid(format!(
            "`layer_types` names {} layers, `num_hidden_layers` is {layers}",
            kinds.len()
        ))),
        // Too many, or no number: refused with its name.
        _ => Ok(()),
    }
}

/// Rotary positions of the default type, alike in all layers and channels.
fn check_rope(map: &Map<String, Value>) -> Result<()> {
    let Some(Value::Object(rope)) = map.get("rope_parameters") else {
        return Err(missing("rope_parameters"));
    };
    match rope.get("rope_type") {
        Some(kind) if kind == "default" => {}
        Some(kind) => {
            return Err(unsupported(format!(
                "the rotary positions are of the type {}; supported is \"default\"",
                shown(kind)
            )));
        }
        None => return Err(unsupported("the rotary positions differ by layer, which is not supported")),
    }
    // The type has nothing else, and versions of transformers do not agree on what it
    // would mean.
    match rope.iter().find(|(key, _)| !matches!(&***key, "rope_type" | "rope_theta")) {
        None => Ok(()),
        Some((key, value)) => Err(unsupported(format!(
            "the rotary positions have `{key}` of {}, which is not supported",
            shown(value)
        ))),
    }
}

fn size(map: &Map<String, Value>, key: &'static str, max: usize) -> Result<usize> {
    let value = map.get(key).ok_or_else(|| missing(key))?;
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| {
            invalid(format!("`{key}` is {}, it must be a whole number from 1 to {max}", shown(value)))
        })
}

fn number(map: &Map<String, Value>, key: &'static str) -> Result<f64> {
    let value = map.get(key).ok_or_else(|| missing(key))?;
    value
        .as_f64()
        .filter(|number| number.is_finite())
        .ok_or_else(|| invalid(format!("`{key}` is {}, it must be a number", shown(value))))
}

fn flag(map: &Map<String, Value>, key: &'static str) -> Result<Option<bool>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(invalid(format!("`{key}` is {}, it must be true or false", shown(other)))),
    }
}

/// A value for a message, cut where it is long.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

fn missing(key: &str) -> Error {
    invalid(format!("the key `{key}` is missing"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message).about(Artefact::Model)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, OPERATION, message).about(Artefact::Model)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "vocab_size": 32, "hidden_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 12, "max_position_embeddings": 64, "rope_theta": 1e6,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "rope_scaling": null
        })
    }

    fn parse(value: &Value) -> Result<Qwen3Config> {
        Qwen3Config::parse(value.to_string().as_bytes())
    }

    fn with(key: &str, value: Value) -> Result<Qwen3Config> {
        let mut config = valid();
        config[key] = value;
        parse(&config)
    }

    /// The defaults are transformers': of a key that nobody may leave out there is
    /// none.
    #[test]
    fn what_is_absent_has_transformers_default() {
        assert_eq!(parse(&valid()).unwrap().head_dim, 128);
        assert_eq!(with("head_dim", json!(null)).unwrap().head_dim, 2);
        assert_eq!(with("head_dim", json!(6)).unwrap().head_dim, 6);
        let sparse = json!({ "architectures": ["Qwen3ForCausalLM"] });
        let config = parse(&sparse).unwrap();
        assert_eq!((config.hidden_size, config.rope_theta, config.tie_word_embeddings), (4096, 1e4, false));
        let mut config = valid();
        config.as_object_mut().unwrap().remove("architectures");
        assert!(parse(&config).unwrap_err().message().contains("`architectures`"));
    }

    #[test]
    fn theta_may_stand_under_rope_parameters() {
        let mut config = valid();
        config.as_object_mut().unwrap().remove("rope_theta");
        config["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
        assert_eq!(parse(&config).unwrap().rope_theta, 10000.0);
        config["rope_parameters"]["rope_type"] = json!("yarn");
        assert_eq!(parse(&config).unwrap_err().kind(), ErrorKind::Unsupported);
        // As transformers 5 has it, the one inside counts.
        config["rope_parameters"]["rope_type"] = json!("default");
        config["rope_theta"] = json!(1e6);
        assert_eq!(parse(&config).unwrap().rope_theta, 10000.0);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for (key, value) in [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("architectures", json!([])),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({"type": "yarn"})),
            ("rope_parameters", json!({"type": "linear", "factor": 2.0})),
            ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
            ("rope_parameters", json!({"full_attention": {"rope_type": "default"}})),
            ("partial_rotary_factor", json!(0.5)),
            ("quantization_config", json!({"bits": 4})),
            ("sliding_window", json!(16)),
            ("attention_bias", json!(true)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
        ] {
            let mut config = valid();
            config["max_window_layers"] = json!(1);
            config["use_sliding_window"] = json!(key == "sliding_window");
            config[key] = value;
            let error = parse(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.message().contains("support"), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (key, value) in [
            ("hidden_size", json!(0)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!(1.5)),
            ("vocab_size", json!(u64::MAX)),
            ("num_key_value_heads", json!(3)),
            ("head_dim", json!(3)),
            ("layer_types", json!(["full_attention"])),
            ("layer_types", json!("full_attention")),
            ("rms_norm_eps", json!(0)),
            ("rope_theta", json!("1e6")),
            ("rope_theta", json!(0.5)),
            ("tie_word_embeddings", json!("yes")),
            ("architectures", json!("Qwen3ForCausalLM")),
        ] {
            let error = with(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
            assert!(error.message().contains(key), "{error}");
        }
        assert!(Qwen3Config::parse(b"[]").is_err());
    }
}
