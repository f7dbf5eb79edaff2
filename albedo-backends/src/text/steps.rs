//! The steps of a `tokenizer.json` around its model, as the crate `tokenizers` reads them.
//!
//! A step's `type` is no proof of what it does: the crate takes a post-processor for the first kind
//! whose members it has, and so every step whose `type` is missing, unknown or there twice.

use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

/// Every step is null, or has the members of its kind alone.
#[derive(Debug)]
pub(super) struct Steps {
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
}

impl Steps {
    /// Reads the steps of the `tokenizer.json` in `bytes`, and not its model or its tokens: reading
    /// tokens runs the normalizer.
    pub(super) fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Parsed {
            normalizer: Option<NormalizerWrapper>,
            pre_tokenizer: Option<PreTokenizerWrapper>,
            post_processor: Option<PostProcessorWrapper>,
            decoder: Option<DecoderWrapper>,
        }
        let Parsed { normalizer, pre_tokenizer, post_processor, decoder } = serde_json::from_slice(bytes)?;
        Ok(Self {
            normalizer: serde_json::to_value(normalizer)?,
            pre_tokenizer: serde_json::to_value(pre_tokenizer)?,
            post_processor: serde_json::to_value(post_processor)?,
            decoder: serde_json::to_value(decoder)?,
        })
    }

    /// Puts the steps in place of those in `file`.
    pub(super) fn put_into(self, file: &mut Json) {
        file["normalizer"] = self.normalizer;
        file["pre_tokenizer"] = self.pre_tokenizer;
        file["post_processor"] = self.post_processor;
        file["decoder"] = self.decoder;
    }

    /// How many steps there are, those within others included.
    pub(super) fn count(&self) -> usize {
        [&self.normalizer, &self.pre_tokenizer, &self.post_processor, &self.decoder]
            .into_iter()
            .map(count)
            .sum()
    }

    /// How many times longer the steps may make a text, or the decoder that of a token: hostile ones
    /// double it over and over.
    pub(super) fn growth(&self) -> usize {
        growth(&self.normalizer).saturating_mul(growth(&self.pre_tokenizer)).max(growth(&self.decoder))
    }

    /// Whether the post-processor has the tokens of a text once, whatever it puts beside them.
    pub(super) fn keep_the_text(&self) -> bool {
        keeps_the_text(&self.post_processor)
    }
}

/// The steps of a sequence.
fn parts(step: &Json) -> impl Iterator<Item = &Json> {
    let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
    lists.into_iter().find_map(|key| step[key].as_array()).into_iter().flatten()
}

fn count(step: &Json) -> usize {
    if step.is_null() { 0 } else { 1 + parts(step).map(count).sum::<usize>() }
}

fn growth(step: &Json) -> usize {
    let length = |key: &str| step[key].as_str().map_or(0, str::len);
    match step["type"].as_str() {
        Some("Sequence") => parts(step).map(growth).fold(1, usize::saturating_mul),
        Some("Replace") => match step["pattern"]["String"].as_str().map(str::len) {
            Some(pattern) if pattern > 0 => length("content").div_ceil(pattern).max(1),
            // What a pattern matches may be as short as nothing.
            _ => length("content").saturating_add(1),
        },
        Some("Prepend") => length("prepend").saturating_add(1),
        // In front of each word, and in place of each space: a word may have one byte.
        Some("Metaspace") => length("replacement").saturating_add(1),
        // A space in front of a token.
        Some("WordPiece") => 2,
        // A character of two bytes for each byte, and a space in front of a word of one byte.
        Some("ByteLevel") => 2 + usize::from(step["add_prefix_space"] == true),
        Some("Precompiled") => longest(step["precompiled_charsmap"].as_str().unwrap_or_default()).max(1),
        // U+FDFA: 3 bytes become 33.
        Some("NFKC" | "NFKD") => 11,
        // A letter with three marks, or a syllable of Hangul: 3 bytes become 9.
        Some("NFC" | "NFD") => 3,
        // Spaces around a character of 3 bytes, and NFD.
        Some("BertNormalizer") => 6,
        // A space between all characters.
        Some("BPEDecoder") if length("suffix") == 0 => 3,
        Some("CTC") if length("word_delimiter_token") == 0 => 3,
        _ => 1,
    }
}

/// The bytes of the longest text in a map of characters: base64 of the length of an index
/// (4 bytes, the least first), the index, and the texts, each of which ends with a zero.
fn longest(map: &str) -> usize {
    let mut bytes = Vec::with_capacity(map.len() / 4 * 3);
    let (mut held, mut bits) = (0_u32, 0);
    for character in map.bytes() {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        held = (held << 6) | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return 0 };
    let units = u32::from_le_bytes(*length) as usize / 4;
    let texts = rest.get(units * 4..).unwrap_or_default();
    texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

fn keeps_the_text(step: &Json) -> bool {
    match step["type"].as_str() {
        Some("TemplateProcessing") => {
            let items = step["single"].as_array().into_iter().flatten();
            items.filter_map(|item| item.get("Sequence")).map(|text| &text["id"]).eq(["A"])
        }
        Some("Sequence") => parts(step).all(keeps_the_text),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(key: &str, step: &Json) -> Steps {
        Steps::read(json!({ key: step }).to_string().as_bytes()).expect("steps")
    }

    fn texts(single: &[Json]) -> Json {
        json!({ "single": single, "pair": [], "special_tokens": {} })
    }

    fn text() -> Json {
        json!({ "Sequence": { "id": "A", "type_id": 0 } })
    }

    /// `step` with the members of `other`, too.
    fn with(mut step: Json, other: &Json) -> Json {
        for (key, value) in other.as_object().expect("an object") {
            step[key] = value.clone();
        }
        step
    }

    #[test]
    fn a_post_processor_has_a_text_once() {
        let special = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
        let second = json!({ "Sequence": { "id": "B", "type_id": 0 } });
        for (single, keeps) in [
            (vec![text()], true),
            (vec![special.clone(), text(), special.clone()], true),
            (vec![], false),
            (vec![special], false),
            (vec![text(), text()], false),
            (vec![second], false),
        ] {
            let template = with(json!({ "type": "TemplateProcessing" }), &texts(&single));
            let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false });
            let several = json!({ "type": "Sequence", "processors": [bytes, template] });
            for step in [template, several] {
                assert_eq!(of("post_processor", &step).keep_the_text(), keeps, "{step}");
            }
        }
    }

    #[test]
    fn a_post_processor_is_what_its_members_make_of_it() {
        for kind in [
            json!({ "type": "ByteLevel" }),
            json!({ "type": "Sequence", "processors": [] }),
            json!({ "type": "RobertaProcessing" }),
            json!({}),
        ] {
            for single in [vec![], vec![text(), text()]] {
                let step = with(kind.clone(), &texts(&single));
                assert!(!of("post_processor", &step).keep_the_text(), "{step}");
            }
        }
    }

    /// What transformers makes of a tokenizer of SentencePiece, here with a text of 33 bytes in the
    /// map of characters, which is the longest of XLM-RoBERTa's.
    #[test]
    fn a_published_tokenizer_is_not_refused() {
        let metaspace =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
        let map = format!("BAAAAAAAAABh{}YWEA", "YWFh".repeat(10));
        let steps = json!({ "type": "Sequence", "normalizers": [
            { "type": "Precompiled", "precompiled_charsmap": map },
            { "type": "Strip", "strip_left": false, "strip_right": true },
            { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "▁" },
        ] });
        let text = json!({ "normalizer": steps, "pre_tokenizer": metaspace, "decoder": metaspace });
        let steps = Steps::read(text.to_string().as_bytes()).expect("steps");
        assert_eq!((steps.growth(), steps.count()), (528, 6));
        assert!(steps.growth() <= crate::text::MAX_GROWTH && steps.count() <= crate::text::MAX_STEPS);
    }

    #[test]
    fn steps_are_counted_wherever_they_stand() {
        let lower = json!({ "type": "Lowercase" });
        let several = json!({ "type": "Sequence", "normalizers": [lower, lower] });
        let nested = json!({ "type": "Sequence", "normalizers": [several, several, lower] });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false });
        let processors = json!({ "type": "Sequence", "processors": [bytes, bytes] });
        let digits =
            json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }] });
        let fuse = json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }] });
        for (key, step, expected) in [
            ("normalizer", Json::Null, 0),
            ("normalizer", lower.clone(), 1),
            ("normalizer", nested, 8),
            ("post_processor", processors, 3),
            ("pre_tokenizer", digits, 2),
            ("decoder", fuse, 2),
        ] {
            assert_eq!(of(key, &step).count(), expected, "{step}");
        }
    }

    #[test]
    fn a_step_grows_as_its_members_say() {
        let replace = json!({ "pattern": { "String": "a" }, "content": "aaaa" });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false });
        let twice = |key: &str, step: &Json| json!({ "type": "Sequence", key: [step, step] });
        let metaspace =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
        for (key, step, expected) in [
            ("normalizer", with(json!({ "type": "Replace" }), &replace), 4),
            // No known kind, and none.
            ("normalizer", with(json!({ "type": "Nothing" }), &replace), 4),
            ("normalizer", replace.clone(), 4),
            ("decoder", with(json!({ "type": "Nothing" }), &replace), 4),
            ("normalizer", json!({ "type": "Prepend", "prepend": "▁▁" }), 7),
            // Each round makes five of a letter.
            (
                "normalizer",
                json!({ "type": "Sequence", "normalizers": [
                    { "type": "Replace", "pattern": { "String": "ل" }, "content": "ﷺ" },
                    { "type": "NFKC" },
                ] }),
                22,
            ),
            ("normalizer", twice("normalizers", &json!({ "type": "ByteLevel" })), 4),
            ("pre_tokenizer", twice("pretokenizers", &bytes), 4),
            ("decoder", twice("decoders", &json!({ "type": "BPEDecoder", "suffix": "" })), 9),
            ("decoder", json!({ "type": "BPEDecoder", "suffix": "</w>" }), 1),
            (
                "decoder",
                twice("decoders", &json!({ "type": "WordPiece", "prefix": "##", "cleanup": false })),
                4,
            ),
            ("pre_tokenizer", twice("pretokenizers", &metaspace), 16),
            // A list that the kind does not have hides none.
            (
                "decoder",
                with(
                    twice("decoders", &with(json!({ "type": "Replace" }), &replace)),
                    &json!({ "normalizers": [], "pretokenizers": [] }),
                ),
                16,
            ),
            // An index of one unit, and the texts `abc` and `d`.
            (
                "normalizer",
                json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhYmMAZAA=" }),
                3,
            ),
        ] {
            assert_eq!(of(key, &step).growth(), expected, "{step}");
        }
    }
}
