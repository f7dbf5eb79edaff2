//! From messages to token ids and back: a model's tokenizer, chat template and
//! stop ids.

use std::path::{Path, PathBuf};

use albedo_core::{Artefact, Digest, Error, ErrorKind, Message, Result};
use minijinja::{Environment, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use self::pieces::{PIECE, may_be_cut, pieces};
use crate::files::read_small;

mod pieces;

const LOAD: &str = "load the model's tokenizer";
const RENDER: &str = "render the chat template";

/// The largest file that is read; Qwen3's `tokenizer.json` has 11 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Instructions that one rendering may take: Qwen3's template takes about 60 a
/// message, so that this is enough for a hundred thousand of them.
const FUEL: u64 = 10_000_000;

/// The name under which the template is compiled.
const TEMPLATE: &str = "chat_template";

/// What a model folder says about text: `tokenizer.json`, the chat template
/// (`chat_template.jinja`, else `chat_template` in `tokenizer_config.json`) and
/// the ids that end a reply (`eos_token_id` in `generation_config.json`, and the
/// `eos_token` of `tokenizer_config.json`).
#[derive(Debug)]
pub(crate) struct ChatText {
    folder: PathBuf,
    tokenizer: Tokenizer,
    /// Whether long texts become tokens in pieces.
    in_pieces: bool,
    tokenizer_digest: Digest,
    templates: Environment<'static>,
    template_digest: Digest,
    special: SpecialTokens,
    end_of_turn: u32,
    stop_ids: Vec<u32>,
    vocab_size: u32,
}

/// Tokens that a template may name; those that a model does not have are
/// undefined.
#[derive(Debug, Clone, Default, Serialize)]
struct SpecialTokens {
    #[serde(rename = "bos_token", skip_serializing_if = "Option::is_none")]
    bos: Option<String>,
    #[serde(rename = "eos_token", skip_serializing_if = "Option::is_none")]
    eos: Option<String>,
    #[serde(rename = "pad_token", skip_serializing_if = "Option::is_none")]
    pad: Option<String>,
    #[serde(rename = "unk_token", skip_serializing_if = "Option::is_none")]
    unk: Option<String>,
}

/// The keys of `tokenizer_config.json` that matter here.
#[derive(Deserialize)]
struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Object { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl ChatText {
    /// Reads the text files of `folder` and renders a first prompt with them.
    ///
    /// # Errors
    /// A file that is missing or malformed; no chat template, or one that does
    /// not render; a special token that the template or the configuration names
    /// and the tokenizer does not have.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let bytes = read(folder, "tokenizer.json")?;
        let tokenizer = parse_tokenizer(&bytes).map_err(|error| in_file(error, folder, "tokenizer.json"))?;
        let config: TokenizerConfig = read_json(folder, "tokenizer_config.json")?;
        let special = SpecialTokens {
            bos: config.bos_token.map(SpecialToken::text),
            eos: config.eos_token.map(SpecialToken::text),
            pad: config.pad_token.map(SpecialToken::text),
            unk: config.unk_token.map(SpecialToken::text),
        };
        let template = read_template(folder, config.chat_template)?;
        require_tokens(&tokenizer, &template).map_err(|error| error.with("path", folder.display()))?;
        let end_of_turn = end_of_turn(&tokenizer, &special)
            .map_err(|error| in_file(error, folder, "tokenizer_config.json"))?;

        let mut stop_ids = vec![end_of_turn];
        if folder.join("generation_config.json").exists() {
            let generation: GenerationConfig = read_json(folder, "generation_config.json")?;
            match generation.eos_token_id {
                None => {}
                Some(Ids::One(id)) => stop_ids.push(id),
                Some(Ids::Many(ids)) => stop_ids.extend(ids),
            }
        }
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id + 1);

        #[derive(Serialize)]
        struct Digested<'a> {
            template: &'a str,
            special: &'a SpecialTokens,
        }
        let text = Self {
            folder: folder.to_owned(),
            tokenizer_digest: Digest::of(&bytes),
            in_pieces: serde_json::from_slice(&bytes).is_ok_and(|json: Json| may_be_cut(&json)),
            tokenizer,
            template_digest: Digest::of_json(&Digested { template: &template, special: &special })?,
            templates: compile(template)
                .map_err(|error| error.about(Artefact::Text).with("path", folder.display()))?,
            special,
            end_of_turn,
            stop_ids,
            vocab_size,
        };
        text.render(&[Message::new(albedo_core::MessageRole::User, "Hello")])
            .map_err(|error| error.about(Artefact::Text))?;
        Ok(text)
    }

    /// `messages` as the model reads them, the generation prompt at the end.
    ///
    /// # Errors
    /// Messages that the template refuses.
    fn render(&self, messages: &[Message]) -> Result<String> {
        let context = context! {
            messages, add_generation_prompt => true, tools => (), documents => (),
            ..Value::from_serialize(&self.special)
        };
        self.templates
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context))
            .map_err(|error| refused(error).with("model", self.folder.display()))
    }

    /// The ids of `messages` and the generation prompt.
    ///
    /// # Errors
    /// Messages that the template refuses.
    pub(crate) fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_reply(&self.render(messages)?)
    }

    /// The ids of `text`; names of special tokens in it become those tokens.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub(crate) fn encode_reply(&self, text: &str) -> Result<Vec<u32>> {
        if self.in_pieces && text.len() > 2 * PIECE {
            let ids: Vec<Vec<u32>> =
                pieces(text, PIECE).into_par_iter().map(|piece| self.encode(piece)).collect::<Result<_>>()?;
            return Ok(ids.concat());
        }
        self.encode(text)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "tokenize a text", error.to_string())
                .with("model", self.folder.display())
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens by their names; bytes that are not
    /// UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "decode a reply", error.to_string())
                .with("model", self.folder.display())
        })
    }

    /// SHA-256 of `tokenizer.json`.
    pub(crate) fn tokenizer_digest(&self) -> Digest {
        self.tokenizer_digest
    }

    /// Digest of the chat template and the special tokens that it may name.
    pub(crate) fn template_digest(&self) -> Digest {
        self.template_digest
    }

    /// The token that closes a turn.
    pub(crate) fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Ids that end a reply, ascending; [`ChatText::end_of_turn`] among them.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> u32 {
        self.vocab_size
    }
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            Self::Text(content) | Self::Object { content } => content,
        }
    }
}

fn parse_tokenizer(bytes: &[u8]) -> Result<Tokenizer> {
    let mut tokenizer =
        Tokenizer::from_bytes(bytes).map_err(|error| invalid(format!("not a tokenizer: {error}")))?;
    tokenizer
        .with_truncation(None)
        .map_err(|error| invalid(format!("its truncation cannot be switched off: {error}")))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

fn read_template(folder: &Path, configured: Option<Templates>) -> Result<String> {
    const FILE: &str = "chat_template.jinja";
    if folder.join(FILE).exists() {
        return String::from_utf8(read(folder, FILE)?)
            .map_err(|_| in_file(invalid("not UTF-8"), folder, FILE));
    }
    let template = match configured {
        Some(Templates::One(template)) => Some(template),
        Some(Templates::Named(named)) => {
            named.into_iter().find(|named| named.name == "default").map(|named| named.template)
        }
        None => None,
    };
    template.ok_or_else(|| {
        in_file(invalid("there is no chat template"), folder, "tokenizer_config.json")
            .with_hint("add the `chat_template` that the model was trained with")
    })
}

/// Checks that every `<|name|>` in `template` is one token.
fn require_tokens(tokenizer: &Tokenizer, template: &str) -> Result<()> {
    let mut rest = template;
    while let Some((_, tail)) = rest.split_once("<|") {
        rest = tail;
        let Some((name, _)) = tail.split_once("|>") else { return Ok(()) };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(is_name) {
            continue;
        }
        let token = format!("<|{name}|>");
        if tokenizer.token_to_id(&token).is_none() {
            return Err(invalid(format!(
                "the chat template writes `{token}`, which the tokenizer does not have"
            ))
            .with_hint("use tokenizer and template of the same model"));
        }
    }
    Ok(())
}

fn end_of_turn(tokenizer: &Tokenizer, special: &SpecialTokens) -> Result<u32> {
    let Some(token) = &special.eos else {
        return Err(invalid("there is no `eos_token`").with_hint("name the token that ends a turn"));
    };
    tokenizer
        .token_to_id(token)
        .ok_or_else(|| invalid(format!("the tokenizer does not have the `eos_token`, `{token}`")))
}

/// Compiles a template as the Hugging Face tokenizers do: block tags take their
/// line with them, undefined values are empty, strings have Python's methods.
fn compile(template: String) -> Result<Environment<'static>> {
    let mut templates = Environment::new();
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    templates.set_undefined_behavior(UndefinedBehavior::Lenient);
    templates.set_unknown_method_callback(unknown_method_callback);
    templates.set_fuel(Some(FUEL));
    templates.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
    });
    templates.add_template_owned(TEMPLATE, template).map_err(refused)?;
    Ok(templates)
}

fn refused(error: minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::new(ErrorKind::DataInvalid, RENDER, format!("{reason}{line}")).with_source(error)
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    read_small(&folder.join(name), MAX_BYTES, LOAD, Artefact::Text)
}

fn read_json<T: for<'de> Deserialize<'de>>(folder: &Path, name: &str) -> Result<T> {
    serde_json::from_slice(&read(folder, name)?)
        .map_err(|error| in_file(invalid(format!("malformed: {error}")).with_source(error), folder, name))
}

fn in_file(error: Error, folder: &Path, name: &str) -> Error {
    error.with("path", folder.join(name).display())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, LOAD, message).about(Artefact::Text)
}

#[cfg(test)]
mod tests;
