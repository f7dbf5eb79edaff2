//! From messages to token ids and back: a model's tokenizer, chat template and
//! stop ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use albedo_core::pretrained::{chat_template, normal_generation, stop_ids, token_text};
use albedo_core::{Artefact, Digest, Error, ErrorKind, Fault, Message, Reach, Result};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use tokenizers::Tokenizer;

use self::jinja::{Failed, Template};
use self::pieces::{PIECE, may_be_cut, pieces};
use self::steps::Steps;
use crate::files::read_small;

#[cfg(feature = "burn")]
mod growing;
mod jinja;
mod pieces;
mod steps;

#[cfg(feature = "burn")]
pub(crate) use growing::Growing;
pub(crate) use jinja::Date;

const LOAD: &str = "load the model's tokenizer";
const RENDER: &str = "render the chat template";

/// The largest file that is read; Qwen3's `tokenizer.json` has 11 MB.
const MAX_BYTES: u64 = 64 << 20;

/// How many times longer a tokenizer may make a text before it reads it. Source:
/// albedo; the steps of published tokenizers make it 528 times as long at most
/// (XLM-RoBERTa, as transformers converts it: one character becomes 33 bytes, what a
/// pattern of spaces matches three more than it has, and a word begins with three more).
const MAX_GROWTH: usize = 600;

/// Most steps around a tokenizer's model: each costs time, also where none makes a text
/// longer. Source: albedo; published tokenizers have some ten.
const MAX_STEPS: usize = 64;

/// What a model folder says about text: `tokenizer.json`, the chat template
/// (`chat_template.jinja`, else `chat_template` in `tokenizer_config.json`) and
/// the ids that end a reply (`eos_token_id` in `generation_config.json`, or in
/// `config.json` where there is no such file, and the `eos_token` of
/// `tokenizer_config.json`).
#[derive(Debug)]
pub(crate) struct ChatText {
    folder: PathBuf,
    tokenizer: Tokenizer,
    /// Whether long texts become tokens in pieces.
    in_pieces: bool,
    /// Whether tokens are bytes, whatever stands beside them.
    #[cfg(feature = "burn")]
    in_bytes: bool,
    tokenizer_digest: Digest,
    template: Template,
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

impl ChatText {
    /// Reads the text files of `folder` and renders a first prompt with them; `date`
    /// is the date that a template gets if it asks for today's.
    ///
    /// # Errors
    /// A file that is missing or malformed; no chat template, or one that does
    /// not render; a special token that the template or the configuration names
    /// and the tokenizer does not have.
    pub(crate) fn load(folder: &Path, date: Option<Date>) -> Result<Self> {
        let bytes = read_tokenizer(folder)?;
        let (tokenizer, steps) =
            parse_tokenizer(&bytes).map_err(|error| in_file(error, folder, "tokenizer.json"))?;
        let config = read_json(folder, "tokenizer_config.json")?;
        let special = SpecialTokens {
            bos: special_token(&config, "bos_token")?,
            eos: special_token(&config, "eos_token")?,
            pad: special_token(&config, "pad_token")?,
            unk: special_token(&config, "unk_token")?,
        };
        let template = read_template(folder, &config)?;
        require_tokens(&tokenizer, &template).map_err(|error| error.with("path", folder.display()))?;
        let end_of_turn = end_of_turn(&tokenizer, &special)
            .map_err(|error| in_file(error, folder, "tokenizer_config.json"))?;

        let mut stop_ids = configured_stop_ids(folder)?;
        stop_ids.push(end_of_turn);
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let largest = tokenizer.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(Some(0), |id| id.checked_add(1)).ok_or_else(|| {
            in_file(invalid(format!("the id of a token is {}", u32::MAX)), folder, "tokenizer.json")
        })?;

        let mut file: Json = serde_json::from_slice(&bytes).unwrap_or_default();
        steps.put_into(&mut file);

        #[derive(Serialize)]
        struct Digested<'a> {
            template: &'a str,
            special: &'a SpecialTokens,
        }
        let text = Self {
            folder: folder.to_owned(),
            tokenizer_digest: Digest::of(&bytes),
            in_pieces: may_be_cut(&file),
            #[cfg(feature = "burn")]
            in_bytes: file["decoder"]["type"] == "ByteLevel",
            tokenizer,
            template_digest: Digest::of_json(&Digested { template: &template, special: &special })?,
            template: Template::new(&template, date)
                .map_err(|failed| refused(&failed).about(Artefact::Text).with("path", folder.display()))?,
            special,
            end_of_turn,
            stop_ids,
            vocab_size,
        };
        let hello = [Message::new(albedo_core::MessageRole::User, "Hello")];
        let ids = text.encode_prompt(&hello).map_err(|error| error.about(Artefact::Text))?;
        text.decode(&ids).map_err(|error| error.about(Artefact::Text))?;
        Ok(text)
    }

    /// `messages` as the model reads them, the generation prompt at the end.
    ///
    /// # Errors
    /// Messages that the template refuses.
    fn render(&self, messages: &[Message]) -> Result<String> {
        let SpecialTokens { bos, eos, pad, unk } = &self.special;
        let special = [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)];
        let special: Vec<_> =
            special.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?))).collect();
        self.template
            .render(messages, &special)
            .map_err(|failed| refused(&failed).with("model", self.folder.display()))
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
        guarded("tokenize a text", || self.tokenizer.encode_fast(text, false))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| error.with("model", self.folder.display()))
    }

    /// The text of `ids`, special tokens by their names; bytes that are not
    /// UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded("decode a reply", || self.tokenizer.decode(ids, false))
            .map_err(|error| error.with("model", self.folder.display()))
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

    /// Digest of which text has which id.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn vocabulary(&self) -> Result<Digest> {
        let ids: BTreeMap<String, u32> = self.tokenizer.get_vocab(true).into_iter().collect();
        Digest::of_json(&ids)
    }
}

/// The special token `key`, if the model has one.
fn special_token(config: &Map<String, Json>, key: &'static str) -> Result<Option<String>> {
    match config.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(token) => match token_text(token) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(invalid(format!("malformed: `{key}` is no token"))),
        },
    }
}

/// The ids that the folder's configurations end a reply with.
fn configured_stop_ids(folder: &Path) -> Result<Vec<u32>> {
    let optional =
        |name: &'static str| folder.join(name).exists().then(|| read_json(folder, name)).transpose();
    let generation = optional("generation_config.json")?;
    // A folder of text files alone has none.
    let config = optional("config.json")?.unwrap_or_default();
    let name = if generation.is_some() { "generation_config.json" } else { "config.json" };
    stop_ids(&normal_generation(generation, &config))
        .ok_or_else(|| in_file(invalid("malformed: `eos_token_id` is no id"), folder, name))
}

/// The bytes of `tokenizer.json`.
fn read_tokenizer(folder: &Path) -> Result<Vec<u8>> {
    const OTHERS: [&str; 3] = ["tokenizer.model", "vocab.json", "tekken.json"];
    let other = OTHERS.into_iter().find(|name| folder.join(name).exists());
    match other.filter(|_| !folder.join("tokenizer.json").exists()) {
        Some(other) => Err(Error::new(
            ErrorKind::Unsupported,
            LOAD,
            format!("the tokenizer is in `{other}`; supported is `tokenizer.json`"),
        )
        .about(Artefact::Text)
        .with("path", folder.display())
        .with_hint("save it with the fast tokenizer of transformers")),
        None => read(folder, "tokenizer.json"),
    }
}

fn parse_tokenizer(bytes: &[u8]) -> Result<(Tokenizer, Steps)> {
    // Before anything is read that runs the steps.
    let steps = guarded(LOAD, || Steps::read(bytes).map_err(Into::into))
        .map_err(|error| invalid(format!("not a tokenizer: {}", error.message())))?;
    let count = steps.count();
    if count > MAX_STEPS {
        return Err(invalid(format!("it has {count} steps around its model, and may have {MAX_STEPS}")));
    }
    if steps.growth() > MAX_GROWTH {
        return Err(invalid(format!("it may make a text more than {MAX_GROWTH} times as long")));
    }
    if !steps.keep_the_text() {
        return Err(invalid("its post-processor leaves a text out, or has it several times"));
    }
    let mut tokenizer = guarded(LOAD, || Tokenizer::from_bytes(bytes))
        .map_err(|error| invalid(format!("not a tokenizer: {}", error.message())))?;
    tokenizer
        .with_truncation(None)
        .map_err(|error| invalid(format!("its truncation cannot be switched off: {error}")))?;
    tokenizer.with_padding(None);
    Ok((tokenizer, steps))
}

fn read_template(folder: &Path, config: &Map<String, Json>) -> Result<String> {
    const FILE: &str = "chat_template.jinja";
    let file = if folder.join(FILE).exists() {
        let text = String::from_utf8(read(folder, FILE)?);
        Some(text.map_err(|_| in_file(invalid("not UTF-8"), folder, FILE))?)
    } else {
        None
    };
    chat_template(file.as_deref(), config).ok_or_else(|| {
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

/// What the tokenizer makes of something. It panics on some files that it has read.
fn guarded<T>(
    operation: &str,
    work: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T> {
    let invalid = |message: String| Error::new(ErrorKind::DataInvalid, operation, message);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| invalid(error.to_string())),
        Err(_) => Err(invalid("the tokenizer breaks down on it".into())),
    }
}

/// The error that a template's refusal is.
fn refused(failed: &Failed) -> Error {
    let line = failed.line.map(|line| format!(" in line {line}")).unwrap_or_default();
    let message = format!("{}{line}", failed.message);
    if failed.wants_date {
        return Error::new(ErrorKind::ConfigInvalid, RENDER, message)
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with_hint("set the backend's `date` to a day such as 2026-11-28, or give `--date`");
    }
    Error::new(ErrorKind::DataInvalid, RENDER, message)
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    read_small(&folder.join(name), MAX_BYTES, LOAD, Artefact::Text)
}

fn read_json(folder: &Path, name: &str) -> Result<Map<String, Json>> {
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
