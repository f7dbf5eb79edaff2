//! Whether two models have the same tokenizer, chat template and generation
//! settings, whichever version of transformers wrote their files.
//!
//! `save_pretrained` moves the template into a file of its own, drops what is a
//! default, adds files that repeat what stands elsewhere (`vocab.json`,
//! `merges.txt`, `added_tokens.json`, `special_tokens_map.json`) and writes
//! `tokenizer.json` anew. None of that makes another model. What such a file repeats
//! has to be what it repeats.

use albedo_core::pretrained::{
    chat_template, differing_settings, normal_generation, normal_tokenizer, normal_tokenizer_config,
    token_text,
};
use albedo_core::{CallContext, Result};
use serde_json::{Map, Value};

use super::evidence::{Problem, Problems};
use super::files::kings;
use super::listing::{CONFIG, Listing, MAX_TEXT_BYTES, breaks_off, object};

/// The files whose meaning is known.
pub(crate) const FILES: [&str; 8] = [
    TOKENIZER,
    SETTINGS,
    TEMPLATE,
    GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";

/// A file of the submission is read as JSON if it has at most this many times the
/// bytes of the king's: indentation takes three times as many.
const MAX_RATIO: u64 = 4;

/// Bytes that a file may have all the same.
const SMALL: u64 = 1 << 20;

/// Compares the files `differ` of [`FILES`], which differ from the king's in their
/// bytes.
///
/// # Errors
/// A file that could not be read; whatever is wrong with the king's.
pub(crate) async fn compare(
    differ: &[&str],
    submission: &Listing<'_>,
    king: &Listing<'_>,
    problems: &mut Problems,
    cx: &CallContext,
) -> Result<()> {
    if differ.is_empty() {
        return Ok(());
    }
    let kings_word = |problem: Problem| kings(&problem, king.provenance());
    let expected = Text::read(king, king, cx).await?.map_err(kings_word)?;
    let found = match Text::read(submission, king, cx).await? {
        Ok(found) => found,
        Err(problem) => {
            problems.push(problem);
            return Ok(());
        }
    };
    for &name in differ {
        for problem in found.problems(name, &expected) {
            problems.push(problem);
        }
    }
    Ok(())
}

/// What a model's files say about text, each as it is.
struct Text {
    tokenizer: Option<Value>,
    settings: Map<String, Value>,
    template: Option<String>,
    generation: Option<Map<String, Value>>,
    config: Map<String, Value>,
    /// The files that repeat what stands in the others.
    special: Option<Map<String, Value>>,
    added: Option<Map<String, Value>>,
    vocab: Option<Map<String, Value>>,
    merges: Option<String>,
    /// Files that are empty or break off, and so may be a copy's that is incomplete.
    cut: Vec<String>,
}

impl Text {
    /// The files in `listing`; nothing much larger than the king's is read.
    async fn read(
        listing: &Listing<'_>,
        king: &Listing<'_>,
        cx: &CallContext,
    ) -> Result<Result<Self, Problem>> {
        let mut files = Vec::new();
        let mut cut = Vec::new();
        for name in FILES.into_iter().chain([CONFIG]) {
            let beside = king.entries().get(name).copied().unwrap_or_default();
            let most = (beside.saturating_mul(MAX_RATIO).saturating_add(SMALL)).min(MAX_TEXT_BYTES);
            match listing.text(name, most, cx).await? {
                Some(Ok(bytes)) => {
                    let is_json = !matches!(name, TEMPLATE | "merges.txt");
                    if bytes.is_empty() || (is_json && breaks_off(&bytes)) {
                        cut.push(name.to_owned());
                    }
                    files.push(Some(bytes));
                }
                Some(Err(problem)) => return Ok(Err(problem)),
                None => files.push(None),
            }
        }
        let at = |name: &str| {
            let index = FILES.iter().position(|file| *file == name).unwrap_or(FILES.len());
            files[index].as_deref()
        };
        let map = |name: &str| at(name).map(|bytes| object(name, bytes)).transpose();
        let text = |name: &str| {
            let utf8 = |bytes: &[u8]| {
                String::from_utf8(bytes.to_vec())
                    .map_err(|_| Problem::new("as-king", name, "it is not UTF-8"))
            };
            at(name).map(utf8).transpose()
        };
        let read = || {
            Ok(Self {
                tokenizer: map(TOKENIZER)?.map(Value::Object).map(normal_tokenizer),
                settings: map(SETTINGS)?.unwrap_or_default(),
                template: text(TEMPLATE)?,
                generation: map(GENERATION)?,
                config: map(CONFIG)?.unwrap_or_default(),
                special: map("special_tokens_map.json")?,
                added: map("added_tokens.json")?,
                vocab: map("vocab.json")?,
                merges: text("merges.txt")?,
                cut,
            })
        };
        Ok(read())
    }

    /// What in the file `name` means something else than the king's files do.
    fn problems(&self, name: &str, king: &Self) -> Vec<Problem> {
        let what = match name {
            TOKENIZER => self.tokenizer_differs(king),
            SETTINGS => {
                let [own, kings] = [self, king].map(|text| normal_tokenizer_config(text.settings.clone()));
                let keys = differing_settings(&own, &kings);
                let key = keys.first().map(|key| format!("`{key}` is not the king's"));
                key.or_else(|| self.template_differs(king)).or_else(|| self.decoder_differs())
            }
            TEMPLATE => self.template_differs(king),
            GENERATION => {
                let [own, kings] =
                    [self, king].map(|text| normal_generation(text.generation.clone(), &text.config));
                let keys = differing_settings(&own, &kings);
                keys.first().map(|key| format!("`{key}` is not the king's"))
            }
            "special_tokens_map.json" => self.special_differs(),
            "added_tokens.json" => self.added_differs(),
            "vocab.json" => {
                let vocab = self.model("vocab").and_then(Value::as_object);
                let own = self.vocab.as_ref();
                own.filter(|own| Some(*own) != vocab)
                    .map(|_| format!("it is not the vocabulary in {TOKENIZER}"))
            }
            "merges.txt" => self.merges_differ(),
            _ => None,
        };
        let begins = |own: &Option<String>, kings: &Option<String>| match (own, kings) {
            (Some(own), Some(kings)) => kings.starts_with(&**own),
            _ => false,
        };
        let breaks_off = (name == TEMPLATE && begins(&self.template, &king.template))
            || (name == "merges.txt" && begins(&self.merges, &king.merges));
        let cut = breaks_off || self.cut.iter().any(|cut| cut == name) || self.is_missing(name);
        what.map(|what| Problem { cut, ..Problem::new("as-king", name, what) }).into_iter().collect()
    }

    fn is_missing(&self, name: &str) -> bool {
        match name {
            TOKENIZER => self.tokenizer.is_none(),
            TEMPLATE => self.template.is_none(),
            GENERATION => self.generation.is_none(),
            SETTINGS => self.settings.is_empty(),
            _ => false,
        }
    }

    fn tokenizer_differs(&self, king: &Self) -> Option<String> {
        if self.tokenizer == king.tokenizer {
            return None;
        }
        let members = |text: &Self| text.tokenizer.as_ref()?.as_object().cloned();
        let (Some(own), Some(kings)) = (members(self), members(king)) else {
            return Some("only one of submission and king has the file".into());
        };
        let keys = differing_settings(&own, &kings);
        Some(format!(
            "the tokenizer differs from the king's, first in `{}`",
            keys.first().map_or("", |key| key)
        ))
    }

    fn template_differs(&self, king: &Self) -> Option<String> {
        let [own, kings] = [self, king].map(|text| chat_template(text.template.as_deref(), &text.settings));
        (own != kings).then(|| "the chat template differs from the king's".into())
    }

    fn model(&self, key: &str) -> Option<&Value> {
        self.tokenizer.as_ref()?.get("model")?.get(key)
    }

    /// The id of an added token.
    fn added_id(&self, token: &str) -> Option<u64> {
        let tokens = self.tokenizer.as_ref()?.get("added_tokens")?.as_array()?;
        let found = tokens.iter().find(|known| known.get("content").is_some_and(|text| text == token))?;
        found.get("id")?.as_u64()
    }

    /// `added_tokens_decoder` repeats the added tokens by their ids.
    fn decoder_differs(&self) -> Option<String> {
        let decoder = self.settings.get("added_tokens_decoder")?.as_object()?;
        let wrong = decoder.iter().find(|(id, token)| {
            let known = token_text(token).and_then(|token| self.added_id(token));
            known.is_none() || known != id.parse().ok()
        });
        wrong.map(|(id, _)| format!("`added_tokens_decoder` has another token {id} than {TOKENIZER}"))
    }

    fn added_differs(&self) -> Option<String> {
        let wrong = self.added.as_ref()?.iter().find(|(token, id)| self.added_id(token) != id.as_u64());
        wrong.map(|(token, _)| format!("{TOKENIZER} does not have the token {token:?} of that id"))
    }

    /// Each named token is that of `tokenizer_config.json`; the others are added
    /// tokens.
    fn special_differs(&self) -> Option<String> {
        let wrong = self.special.as_ref()?.iter().find(|(key, value)| match value {
            Value::Array(tokens) => tokens
                .iter()
                .any(|token| token_text(token).is_none_or(|token| self.added_id(token).is_none())),
            token => token_text(token) != self.settings.get(*key).and_then(token_text),
        });
        wrong.map(|(key, _)| format!("`{key}` is not that of {SETTINGS} and {TOKENIZER}"))
    }

    fn merges_differ(&self) -> Option<String> {
        let lines =
            self.merges.as_ref()?.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        let merges = self.model("merges").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let parts = |merge: &Value| Some(format!("{} {}", merge.get(0)?.as_str()?, merge.get(1)?.as_str()?));
        let same = lines.map(|line| Some(line.to_owned())).eq(merges.iter().map(parts));
        (!same).then(|| format!("they are not the merges in {TOKENIZER}"))
    }
}

#[cfg(test)]
mod tests {
    use albedo_core::{FilesScreen as _, Finding, ModelFiles};
    use serde_json::json;

    use super::super::files::{FilesConfig, FilesScreen};
    use super::super::testing::{Copied, Memory, safetensors};
    use super::*;

    const TENSOR: &str = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;

    fn files(files: &[(&str, &Value)]) -> Memory {
        let mut memory = Memory([("model.safetensors".to_owned(), safetensors(TENSOR, 12))].into());
        for (name, value) in files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            memory.0.insert((*name).into(), text.into_bytes());
        }
        memory
    }

    fn tokenizer() -> Value {
        json!({
            "version": "1.0", "added_tokens": [{ "id": 3, "content": "<|im_end|>", "special": true }],
            "post_processor": null, "model": { "type": "BPE", "continuing_subword_prefix": null,
                "vocab": { "a": 0, "b": 1, "ab": 2 }, "merges": [["a", "b"]] },
        })
    }

    fn king() -> Vec<(&'static str, Value)> {
        vec![
            ("config.json", json!({ "eos_token_id": 3, "model_type": "qwen3" })),
            ("tokenizer.json", tokenizer()),
            (
                "tokenizer_config.json",
                json!({ "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "add_bos_token": false,
                    "added_tokens_decoder": { "3": { "content": "<|im_end|>" } }, "chat_template": "{{ x }}\n" }),
            ),
            ("generation_config.json", json!({ "eos_token_id": [3], "do_sample": false })),
        ]
    }

    async fn screen(submission: &dyn ModelFiles, king: &Memory) -> Finding {
        let config = FilesConfig { max_size_ratio: 50.0, ..FilesConfig::default() };
        let screen = FilesScreen::new(config).expect("a screen");
        screen.inspect(submission, king, &CallContext::new()).await.expect("a finding")
    }

    fn changed(change: &[(&'static str, Value)]) -> Memory {
        let mut all = king();
        for (name, value) in change {
            all.retain(|(known, _)| known != name);
            if !value.is_null() {
                all.push((name, value.clone()));
            }
        }
        let borrowed: Vec<_> = all.iter().map(|(name, value)| (*name, value)).collect();
        files(&borrowed)
    }

    #[tokio::test]
    async fn what_save_pretrained_makes_of_the_kings_files_is_the_kings() {
        let by_5 = changed(&[
            ("chat_template.jinja", json!("{{ x }}\n")),
            (
                "tokenizer_config.json",
                json!({ "tokenizer_class": "Qwen2TokenizerFast", "eos_token": { "content": "<|im_end|>" },
                    "backend": "tokenizers", "is_local": true }),
            ),
            ("generation_config.json", json!({ "eos_token_id": 3, "transformers_version": "5.24.0" })),
        ]);
        let repeated = [
            ("special_tokens_map.json", json!({ "eos_token": { "content": "<|im_end|>" } })),
            ("added_tokens.json", json!({ "<|im_end|>": 3 })),
            ("vocab.json", json!({ "b": 1, "a": 0, "ab": 2 })),
            ("merges.txt", json!("#version: 0.2\na b\n")),
        ];
        let by_4 = changed(&repeated);
        for other in [&by_5, &by_4, &changed(&[("generation_config.json", json!(null))])] {
            for king in [&changed(&[]), &by_5, &by_4] {
                let finding = screen(other, king).await;
                assert!(matches!(finding, Finding::Clear(_)), "{finding:?}\n{other:?}\n{king:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_means_something_else_is_not() {
        let with = |pointer: &str, value: Value| {
            let mut tokenizer = tokenizer();
            *tokenizer.pointer_mut(pointer).expect("there") = value;
            tokenizer
        };
        let settings = |more: Value| {
            let mut settings = king().remove(2).1;
            settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            settings
        };
        let twice = tokenizer().to_string().replacen('{', r#"{"decoder":null,"decoder":null,"#, 1);
        let twice = json!(twice);
        for (name, value, words) in [
            ("tokenizer.json", with("/model/vocab", json!({ "a": 1, "b": 0, "ab": 2 })), "first in `model`"),
            ("tokenizer.json", with("/added_tokens/0/content", json!("<x>")), "first in `added_tokens`"),
            // What the crate `tokenizers` does not read.
            ("tokenizer.json", with("/version", json!("2.0")), "first in `version`"),
            ("tokenizer.json", twice, "is there twice"),
            ("tokenizer_config.json", settings(json!({ "eos_token": "a" })), "`eos_token` is not the king's"),
            ("tokenizer_config.json", settings(json!({ "add_bos_token": true })), "`add_bos_token`"),
            ("tokenizer_config.json", settings(json!({ "auto_map": {} })), "`auto_map`"),
            ("tokenizer_config.json", settings(json!({ "chat_template": "y" })), "the chat template differs"),
            (
                "tokenizer_config.json",
                settings(json!({ "added_tokens_decoder": { "2": { "content": "<|im_end|>" } } })),
                "another token 2",
            ),
            ("chat_template.jinja", json!("{{ y }}"), "the chat template differs"),
            ("generation_config.json", json!({ "eos_token_id": 2 }), "`eos_token_id` is not the king's"),
            ("generation_config.json", json!({ "eos_token_id": 3, "temperature": 2.0 }), "`temperature`"),
            ("special_tokens_map.json", json!({ "eos_token": "a" }), "`eos_token` is not that of"),
            ("special_tokens_map.json", json!({ "additional_special_tokens": ["<x>"] }), "is not that of"),
            ("added_tokens.json", json!({ "<|im_end|>": 2 }), "does not have the token"),
            ("vocab.json", json!({ "a": 0 }), "not the vocabulary"),
            ("merges.txt", json!("b a\n"), "not the merges"),
            ("tokenizer.json", json!("[1, 2"), "sequence"),
        ] {
            let finding = screen(&changed(&[(name, value)]), &changed(&[])).await;
            let Finding::Rejected(evidence) = &finding else { panic!("{name}, {words}: {finding:?}") };
            assert!(evidence.to_string().contains(words), "{name}: {evidence}");
        }
    }

    #[tokio::test]
    async fn a_copy_whose_files_break_off_is_unverified() {
        for (name, value) in [
            ("tokenizer.json", json!("{\"model\": {")),
            ("tokenizer_config.json", json!("")),
            ("tokenizer_config.json", json!("{\"eos_token\":")),
            ("generation_config.json", json!("{")),
        ] {
            let finding = screen(&Copied(changed(&[(name, value)])), &changed(&[])).await;
            assert!(matches!(finding, Finding::Unverified(_)), "{name}: {finding:?}");
        }
    }
}
