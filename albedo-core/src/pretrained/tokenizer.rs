//! `tokenizer.json`, `tokenizer_config.json` and the chat template.

use serde_json::{Map, Value, json};

/// The normal form of a `tokenizer.json`: what has no effect on the ids of a text or
/// on the text of ids is left out (truncation and padding, which callers set;
/// offsets, which nobody asks for; steps that do nothing), and merges are pairs. A
/// version that the crate `tokenizers` does not read stays.
pub fn normal_tokenizer(mut tokenizer: Value) -> Value {
    let Some(members) = tokenizer.as_object_mut() else { return tokenizer };
    members.retain(|key, value| match &**key {
        "truncation" | "padding" => false,
        "version" => *value != "1.0",
        _ => !value.is_null(),
    });
    for key in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        if let Some(step) = members.get_mut(key) {
            without_offsets(step);
        }
    }
    if members.get("post_processor").is_some_and(does_nothing) {
        members.remove("post_processor");
    }
    if let Some(decoder) = members.get_mut("decoder")
        && is_byte_level(decoder)
        && let Some(decoder) = decoder.as_object_mut()
    {
        // These are for the way there.
        decoder.retain(|key, _| key == "type");
    }
    if let Some(model) = members.get_mut("model").and_then(Value::as_object_mut) {
        model.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)) && *value != "");
        if let Some(Value::Array(merges)) = model.get_mut("merges") {
            merges.iter_mut().for_each(pair);
        }
    }
    if let Some(Value::Array(tokens)) = members.get_mut("added_tokens") {
        tokens.sort_by_key(|token| token.get("id").and_then(Value::as_u64));
    }
    tokenizer
}

fn without_offsets(step: &mut Value) {
    match step {
        Value::Object(members) => {
            members.remove("trim_offsets");
            members.values_mut().for_each(without_offsets);
        }
        Value::Array(steps) => steps.iter_mut().for_each(without_offsets),
        _ => {}
    }
}

/// Whether a step is of the type `kind` and has no members except `members`. The crate `tokenizers`
/// takes many a step for what its members fit, whatever its type: with others it could be
/// another step.
fn is_only(step: &Value, kind: &str, members: &[&str]) -> bool {
    step.get("type").is_some_and(|named| named == kind)
        && step
            .as_object()
            .is_some_and(|step| step.keys().all(|key| key == "type" || members.contains(&key.as_str())))
}

fn is_byte_level(step: &Value) -> bool {
    is_only(step, "ByteLevel", &["add_prefix_space", "trim_offsets", "use_regex"])
}

/// Whether a post-processor leaves the tokens of a text as they are. A template may also leave them
/// out, or have them several times.
fn does_nothing(step: &Value) -> bool {
    match step.get("type").and_then(Value::as_str) {
        // It trims offsets.
        Some("ByteLevel") => is_byte_level(step),
        Some("TemplateProcessing") => {
            if !is_only(step, "TemplateProcessing", &["single", "pair", "special_tokens"]) {
                return false;
            }
            let is_each_once = |key: &str, texts: &[&str]| {
                let items = step.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                items.len() == texts.len()
                    && items.iter().zip(texts).all(|(item, id)| {
                        item.get("Sequence").is_some_and(|text| text.get("id").is_some_and(|text| text == id))
                    })
            };
            is_each_once("single", &["A"]) && is_each_once("pair", &["A", "B"])
        }
        Some("Sequence") => {
            let steps = step.get("processors").and_then(Value::as_array);
            is_only(step, "Sequence", &["processors"])
                && steps.is_some_and(|steps| steps.iter().all(does_nothing))
        }
        _ => false,
    }
}

/// `"a b"` as `["a", "b"]`, as newer files write it.
fn pair(merge: &mut Value) {
    if let Some((left, right)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
        *merge = json!([left, right]);
    }
}

/// The chat template of a model: the text of `chat_template.jinja` if there is one,
/// else what `tokenizer_config.json` holds. Line ends are line feeds, as Jinja reads
/// them.
pub fn chat_template(file: Option<&str>, config: &Map<String, Value>) -> Option<String> {
    let configured = || match config.get("chat_template")? {
        Value::String(template) => Some(template.as_str()),
        Value::Array(named) => named
            .iter()
            .find(|named| named.get("name").is_some_and(|name| name == "default"))
            .and_then(|named| named.get("template")?.as_str()),
        _ => None,
    };
    file.or_else(configured).map(|template| template.replace("\r\n", "\n").replace('\r', "\n"))
}

/// The text of a special token: itself, or the `content` of its description.
pub fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The normal form of a `tokenizer_config.json`, without the chat template
/// ([`chat_template`]): special tokens are their texts; what is null, a default or a
/// remark of transformers is left out, and so is what only padding and truncation
/// ask for, which callers set themselves.
pub fn normal_tokenizer_config(mut config: Map<String, Value>) -> Map<String, Value> {
    const REMARKS: [&str; 20] = [
        "chat_template",
        "transformers_version",
        "backend",
        "is_local",
        "local_files_only",
        "name_or_path",
        "processor_class",
        "tokenizer_file",
        "special_tokens_map_file",
        "init_inputs",
        // In tokenizer.json too, which is compared.
        "added_tokens_decoder",
        "additional_special_tokens",
        "extra_special_tokens",
        "model_max_length",
        "max_length",
        "padding_side",
        "truncation_side",
        "truncation_strategy",
        "stride",
        "pad_to_multiple_of",
    ];
    const TOKENS: [&str; 7] =
        ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];
    config.retain(|key, value| {
        let default = match &**key {
            "add_bos_token"
            | "add_eos_token"
            | "add_prefix_space"
            | "split_special_tokens"
            | "clean_up_tokenization_spaces"
            | "legacy" => json!(false),
            "errors" => json!("replace"),
            "pad_token_type_id" => json!(0),
            _ => Value::Null,
        };
        !REMARKS.contains(&&**key) && !value.is_null() && *value != default
    });
    for key in TOKENS {
        if let Some(token) = config.get_mut(key)
            && let Some(text) = token_text(token).map(str::to_owned)
        {
            *token = text.into();
        }
    }
    if let Some(Value::String(class)) = config.get_mut("tokenizer_class")
        && let Some(slow) = class.strip_suffix("Fast")
    {
        // One is the other's implementation.
        *class = slow.to_owned();
    }
    config
}

/// The members in which two normal forms differ.
pub fn differing_settings(one: &Map<String, Value>, other: &Map<String, Value>) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers 5 makes of a tokenizer that 4 leaves as it is.
    #[test]
    fn a_tokenizer_that_gives_the_same_ids_is_the_same() {
        let by_4 = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": { "type": "NFC" },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            ] },
            "post_processor": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            "model": { "type": "BPE", "dropout": null, "continuing_subword_prefix": null, "fuse_unk": false,
                "vocab": { "a": 0, "b": 1, "ab": 2 }, "merges": ["a b"] },
        });
        let by_5 = json!({
            "version": "1.0", "truncation": { "max_length": 9 }, "added_tokens": [], "normalizer": { "type": "NFC" },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ] },
            "post_processor": { "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "A", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": {} },
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "byte_fallback": false,
                "ignore_merges": false, "vocab": { "b": 1, "a": 0, "ab": 2 }, "merges": [["a", "b"]] },
        });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let pair = json!([text("A"), text("B")]);
        let normal = normal_tokenizer(by_4.clone());
        assert_eq!(normal_tokenizer(by_5), normal);
        for (pointer, value) in [
            ("/version", json!("2.0")),
            ("/version", Value::Null),
            ("/model/vocab/a", json!(7)),
            ("/model/merges/0", json!("b a")),
            ("/model/fuse_unk", json!(true)),
            ("/normalizer/type", json!("NFKC")),
            ("/pre_tokenizer/pretokenizers/0/add_prefix_space", json!(true)),
            ("/post_processor", json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": {} }] })),
            ("/post_processor", json!({ "type": "TemplateProcessing", "single": [], "pair": [] })),
            (
                "/post_processor",
                json!({ "type": "TemplateProcessing", "single": [text("A"), text("A")], "pair": pair }),
            ),
            ("/post_processor", json!({ "type": "TemplateProcessing", "single": [text("B")], "pair": pair })),
            // What the crate `tokenizers` takes for a template, another step, or a decoder with a suffix.
            (
                "/post_processor",
                json!({ "type": "ByteLevel", "single": [], "pair": [], "special_tokens": {} }),
            ),
            (
                "/post_processor",
                json!({ "type": "Sequence", "processors": [], "single": [text("A"), text("A")], "pair": pair,
                    "special_tokens": {} }),
            ),
            (
                "/post_processor",
                json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel", "single": [], "pair": [],
                    "special_tokens": {} }] }),
            ),
            (
                "/post_processor",
                json!({ "type": "TemplateProcessing", "single": [text("A")], "pair": pair, "special_tokens": {},
                    "sep": ["b", 1], "cls": ["a", 0] }),
            ),
            ("/decoder/suffix", json!("a")),
            ("/added_tokens", json!([{ "id": 3, "content": "<x>" }])),
        ] {
            let mut other = by_4.clone();
            match pointer {
                "/decoder/suffix" => other["decoder"]["suffix"] = value,
                _ => *other.pointer_mut(pointer).expect("there") = value,
            }
            assert_ne!(normal_tokenizer(other), normal, "{pointer}");
        }
    }

    #[test]
    fn settings_of_no_effect_are_left_out_and_tokens_are_texts() {
        let map = |value: Value| value.as_object().cloned().expect("an object");
        let eos = json!({ "content": "<|im_end|>", "lstrip": false, "special": true });
        let by_4 = map(json!({ "tokenizer_class": "Qwen2TokenizerFast", "eos_token": eos, "bos_token": null,
            "add_bos_token": false, "errors": "replace", "added_tokens_decoder": { "3": eos }, "chat_template": "x",
            "extra_special_tokens": {}, "padding_side": "left", "model_max_length": 4096 }));
        let by_5 = map(
            json!({ "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "backend": "tokenizers",
            "is_local": true, "model_max_length": 1e30 }),
        );
        let normal = normal_tokenizer_config(by_4);
        assert_eq!(normal_tokenizer_config(by_5.clone()), normal);
        let mut other = by_5;
        other.insert("eos_token".into(), "<|endoftext|>".into());
        other.insert("add_prefix_space".into(), true.into());
        let differing = differing_settings(&normal_tokenizer_config(other), &normal);
        assert_eq!(differing, ["add_prefix_space", "eos_token"]);
    }

    #[test]
    fn the_template_is_that_of_its_file_and_lines_end_with_line_feeds() {
        let named =
            json!([{ "name": "tools", "template": "no" }, { "name": "default", "template": "a\r\nb\rc" }]);
        let config = json!({ "chat_template": named });
        let config = config.as_object().expect("an object");
        assert_eq!(chat_template(None, config).as_deref(), Some("a\nb\nc"));
        assert_eq!(chat_template(Some("own"), config).as_deref(), Some("own"));
        assert_eq!(chat_template(None, &Map::new()), None);
    }
}
