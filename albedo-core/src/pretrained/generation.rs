//! `generation_config.json`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The normal form of how a model generates: `generation`, the object in
/// `generation_config.json`, or, where there is no such file, what transformers makes
/// of `config`, the object in `config.json`. What is null, a default of
/// transformers or a remark is left out.
pub fn normal_generation(
    generation: Option<Map<String, Value>>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    let mut generation = generation.unwrap_or_else(|| {
        let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
        ids.iter().filter_map(|&key| Some((key.to_owned(), config.get(key)?.clone()))).collect()
    });
    let defaults = defaults();
    generation.retain(|key, value| {
        let remark = matches!(&**key, "transformers_version" | "_from_model_config");
        !remark && !value.is_null() && !defaults.get(key).is_some_and(|default| same(default, value))
    });
    if let Some(ids) = generation.get_mut("eos_token_id") {
        *ids = normal_ids(ids);
    }
    generation
}

/// The ids of the tokens that end a reply, of a normal form; `None` if they are no
/// ids.
pub fn stop_ids(generation: &Map<String, Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match generation.get("eos_token_id") {
        None => Some(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    }
}

/// One id, or several in ascending order, once each.
pub(super) fn normal_ids(ids: &Value) -> Value {
    let Value::Array(several) = ids else { return ids.clone() };
    let Some(numbers) = several.iter().map(Value::as_u64).collect::<Option<BTreeSet<_>>>() else {
        return ids.clone();
    };
    match numbers.len() {
        1 => several.first().cloned().unwrap_or_default(),
        _ => numbers.into_iter().collect(),
    }
}

/// The defaults of `GenerationConfig` that files spell out.
fn defaults() -> Value {
    json!({
        "do_sample": false,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_length": 20,
        "min_length": 0,
        "num_beams": 1,
        "num_beam_groups": 1,
        "num_return_sequences": 1,
        "diversity_penalty": 0.0,
        "early_stopping": false,
        "use_cache": true,
        "output_attentions": false,
        "output_hidden_states": false,
        "output_scores": false,
        "return_dict_in_generate": false,
        "renormalize_logits": false,
        "remove_invalid_values": false,
    })
}

/// Equal values; numbers by value.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn what_is_left_out_and_what_is_spelt_out_mean_the_same() {
        let config =
            map(&json!({ "eos_token_id": [4093, 4091], "pad_token_id": 4089, "bos_token_id": null }));
        let made = normal_generation(None, &config);
        assert_eq!(stop_ids(&made), Some(vec![4091, 4093]));
        for same in [
            json!({ "eos_token_id": [4091, 4093], "pad_token_id": 4089, "do_sample": false }),
            json!({ "eos_token_id": [4091, 4093, 4091], "pad_token_id": 4089, "transformers_version": "5.24.0" }),
            json!({ "eos_token_id": [4091, 4093], "pad_token_id": 4089, "_from_model_config": true, "top_k": 50 }),
        ] {
            assert_eq!(normal_generation(Some(map(&same)), &Map::new()), made, "{same}");
        }
        for other in
            [json!({ "pad_token_id": 4089 }), json!({ "eos_token_id": [4091, 4093], "temperature": 0.6 })]
        {
            assert_ne!(normal_generation(Some(map(&other)), &config), made, "{other}");
        }
    }

    #[test]
    fn ids_are_numbers() {
        let ids = |value: Value| {
            stop_ids(&normal_generation(Some(map(&json!({ "eos_token_id": value }))), &Map::new()))
        };
        assert_eq!(ids(json!(7)), Some(vec![7]));
        assert_eq!(ids(json!([7])), Some(vec![7]));
        assert_eq!(ids(json!(null)), Some(vec![]));
        for wrong in [json!("stop"), json!(-1), json!([1, "x"]), json!(1_u64 << 40)] {
            assert_eq!(ids(wrong), None);
        }
    }
}
