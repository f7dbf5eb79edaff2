//! `config.json`.

use serde_json::{Map, Value, json};

use super::generation::normal_ids;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "read the model's configuration";

/// `rope_theta` of transformers, where a file names none.
const DEFAULT_THETA: f64 = 10_000.0;

/// The normal form of a `config.json`:
///
/// - a member that is null is left out; of a model of type `qwen3` what is absent
///   has transformers' default, `head_dim` too (128);
/// - `rope_parameters` holds everything about rotary positions, with `rope_type` and
///   `rope_theta`. `rope_scaling` comes before it, and a value inside before one
///   beside it, as in transformers 5; an older `type` is `rope_type`. `rope_theta` beside it
///   has the same value, `rope_scaling` is left out;
/// - `layer_types` has a name for every layer; the settings of a sliding window are left out
///   where no layer slides;
/// - `torch_dtype` is `dtype`; `eos_token_id` is one id, or several in order.
///
/// ```
/// use serde_json::json;
///
/// # fn main() -> albedo_core::Result<()> {
/// let by_4 = json!({ "rope_theta": 1000000, "rope_scaling": null, "torch_dtype": "bfloat16" });
/// let by_5 = json!({ "rope_parameters": { "rope_theta": 1000000, "rope_type": "default" }, "dtype": "bfloat16" });
/// let [by_4, by_5] = [by_4, by_5].map(|config| config.as_object().cloned().unwrap_or_default());
/// assert_eq!(albedo_core::pretrained::normal_config(by_4)?, albedo_core::pretrained::normal_config(by_5)?);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for rotary positions or layers that are described by
/// the wrong type.
pub fn normal_config(mut config: Map<String, Value>) -> Result<Map<String, Value>> {
    let is_qwen3 = config.get("model_type").and_then(Value::as_str) == Some("qwen3")
        || config.get("architectures") == Some(&json!(["Qwen3ForCausalLM"]));
    // Null is not absent here: transformers takes it to be what else is there.
    for (key, other) in [("num_key_value_heads", "num_attention_heads")] {
        if config.get(key) == Some(&Value::Null)
            && let Some(other) = config.get(other).cloned()
        {
            config.insert(key.into(), other);
        }
    }
    if config.get("head_dim") == Some(&Value::Null)
        && let (Some(hidden), Some(heads)) =
            (whole(&config, "hidden_size"), whole(&config, "num_attention_heads"))
        && heads > 0
    {
        config.insert("head_dim".into(), (hidden / heads).into());
    }
    config.retain(|_, value| !value.is_null());
    if is_qwen3 {
        let Value::Object(defaults) = qwen3_defaults() else { return Ok(config) };
        for (key, value) in defaults {
            config.entry(key).or_insert(value);
        }
    }
    if let Some(dtype) = config.remove("torch_dtype") {
        config.entry("dtype").or_insert(dtype);
    }
    if let Some(ids) = config.get_mut("eos_token_id") {
        *ids = normal_ids(ids);
    }
    rope(&mut config)?;
    layers(&mut config)?;
    Ok(config)
}

/// The defaults of `Qwen3Config` in transformers 4.57 and 5.
fn qwen3_defaults() -> Value {
    json!({
        "attention_bias": false,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "tie_word_embeddings": false,
        "use_sliding_window": false,
        "vocab_size": 151_936,
    })
}

fn rope(config: &mut Map<String, Value>) -> Result<()> {
    let mut object = |key: &'static str| match config.remove(key) {
        None => Ok(Map::new()),
        Some(Value::Object(mut members)) => {
            members.retain(|_, value| !value.is_null());
            Ok(members)
        }
        Some(_) => Err(invalid(format!("`{key}` is not an object"))),
    };
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    let mut rope = if scaling.is_empty() { parameters } else { scaling };
    if rope.values().any(Value::is_object) {
        // One description for each kind of layer.
        config.insert("rope_parameters".into(), rope.into());
        return Ok(());
    }
    let older = rope.remove("type");
    let kind = rope.entry("rope_type").or_insert_with(|| older.unwrap_or_else(|| "default".into())).clone();
    let theta = config.remove("rope_theta").unwrap_or_else(|| DEFAULT_THETA.into());
    let theta = rope.entry("rope_theta").or_insert(theta).clone();
    if let Some(factor) = config.remove("partial_rotary_factor") {
        rope.entry("partial_rotary_factor").or_insert(factor);
    }
    if rope.get("partial_rotary_factor").and_then(Value::as_f64) == Some(1.0) {
        rope.remove("partial_rotary_factor");
    }
    if matches!(kind.as_str(), Some("yarn" | "llama3" | "longrope"))
        && let Some(most) = config.get("max_position_embeddings")
    {
        rope.entry("original_max_position_embeddings").or_insert_with(|| most.clone());
    }
    config.insert("rope_theta".into(), theta);
    config.insert("rope_parameters".into(), rope.into());
    Ok(())
}

fn layers(config: &mut Map<String, Value>) -> Result<()> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let slides = config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false);
    if !slides {
        config.remove("sliding_window");
    }
    match config.get("layer_types") {
        Some(Value::Array(_)) => {}
        Some(_) => return Err(invalid("`layer_types` is not a list")),
        None => {
            // More layers than any model has are refused elsewhere.
            let layers = whole(config, "num_hidden_layers").filter(|&layers| layers <= 1 << 10);
            let full = whole(config, "max_window_layers").unwrap_or(u64::MAX);
            let slides = config.contains_key("sliding_window");
            if let Some(layers) = layers {
                let kind = |layer| if slides && layer >= full { SLIDING } else { FULL };
                config.insert("layer_types".into(), (0..layers).map(kind).collect());
            }
        }
    }
    // Once every layer has its name, how that was found out means nothing.
    config.remove("max_window_layers");
    let sliding = config.get("layer_types").and_then(Value::as_array);
    if sliding.is_some_and(|kinds| kinds.iter().all(|kind| kind == FULL)) {
        config.remove("sliding_window");
        config.insert("use_sliding_window".into(), false.into());
    }
    Ok(())
}

fn whole(config: &Map<String, Value>, key: &str) -> Option<u64> {
    config.get(key)?.as_u64()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(config: &Value) -> Value {
        normal_config(config.as_object().cloned().expect("an object")).expect("a configuration").into()
    }

    /// The demo king's as it is, and as transformers 4.57.6 and 5.24.0 save it, in
    /// turn and one after the other.
    #[test]
    fn whoever_saved_it_it_means_the_same() {
        let base = json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 4096, "hidden_size": 192,
            "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
            "intermediate_size": 576, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true, "eos_token_id": 4091,
        });
        let with = |more: Value| {
            let mut config = base.clone();
            config.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
            normal(&config)
        };
        let full = json!(["full_attention", "full_attention", "full_attention"]);
        let rope = json!({ "rope_theta": 1e6, "rope_type": "default" });
        let king = with(json!({ "rope_theta": 1e6, "torch_dtype": "bfloat16", "use_sliding_window": false,
            "sliding_window": null, "max_window_layers": 3, "rope_scaling": null, "attention_bias": false }));
        for same in [
            json!({ "rope_theta": 1e6, "dtype": "bfloat16", "layer_types": full, "rope_scaling": null }),
            json!({ "rope_parameters": rope, "dtype": "bfloat16", "layer_types": full }),
            // 4 keeps what it does not know, and writes its own default beside it.
            json!({ "rope_parameters": rope, "rope_theta": 1e4, "rope_scaling": null, "dtype": "bfloat16" }),
            json!({ "rope_theta": 1e6, "rope_scaling": {}, "torch_dtype": "bfloat16", "eos_token_id": [4091] }),
            json!({ "rope_theta": 1e6, "rope_scaling": { "type": "default" }, "torch_dtype": "bfloat16" }),
            json!({ "rope_parameters": { "rope_theta": 1e6 }, "dtype": "bfloat16", "partial_rotary_factor": 1.0 }),
            json!({ "rope_theta": 1e6, "dtype": "bfloat16", "sliding_window": 4096, "max_window_layers": 28 }),
        ] {
            assert_eq!(with(same.clone()), king, "{same}");
        }
        for other in [
            json!({ "dtype": "bfloat16" }),
            json!({ "rope_parameters": { "rope_theta": 1e4 }, "rope_theta": 1e6, "dtype": "bfloat16" }),
            json!({ "rope_theta": 1e6, "rope_parameters": { "type": "yarn", "factor": 4.0 }, "dtype": "bfloat16" }),
            json!({ "rope_theta": 1e6, "partial_rotary_factor": 0.5, "dtype": "bfloat16" }),
            json!({ "rope_theta": 1e6, "use_sliding_window": true, "max_window_layers": 2, "dtype": "bfloat16" }),
            json!({ "rope_theta": 1e6, "eos_token_id": [4091, 4093], "dtype": "bfloat16" }),
        ] {
            assert_ne!(with(other.clone()), king, "{other}");
        }
    }

    #[test]
    fn absent_is_what_transformers_takes_it_to_be() {
        let defaults = normal(&json!({ "model_type": "qwen3", "num_key_value_heads": null }));
        for (key, value) in [
            ("head_dim", json!(128)),
            ("num_key_value_heads", json!(32)),
            ("rope_theta", json!(10_000.0)),
            ("tie_word_embeddings", json!(false)),
        ] {
            assert_eq!(defaults[key], value, "{key}");
        }
        let given = json!({ "num_attention_heads": 6, "num_key_value_heads": null, "hidden_size": 12, "head_dim": null });
        assert_eq!(
            (&normal(&given)["num_key_value_heads"], &normal(&given)["head_dim"]),
            (&json!(6), &json!(2))
        );
        let yarn =
            json!({ "rope_scaling": { "type": "yarn", "factor": 2.0 }, "max_position_embeddings": 64 });
        assert_eq!(
            normal(&yarn)["rope_parameters"],
            json!({ "rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64 })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for config in
            [json!({ "rope_parameters": [] }), json!({ "rope_scaling": "yarn" }), json!({ "layer_types": 1 })]
        {
            let config = config.as_object().cloned().expect("an object");
            assert_eq!(normal_config(config).expect_err("refused").kind(), ErrorKind::DataInvalid);
        }
    }
}
