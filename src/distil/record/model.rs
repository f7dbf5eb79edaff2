//! What a distillation knows of a model's folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::ModelFacts;
use crate::backends::prompts::PromptText;
use crate::files::{leftover, open_file};
use crate::pretrained::normal_config;
use crate::record::PromptCounter;
use crate::{Artefact, Digest, Error, ErrorKind, Fault, Result};

const DIGEST: &str = "digest a model";
const CONFIG: &str = "read the model's configuration";

/// The largest `config.json` that is read, in bytes. Source: as the engine.
const MAX_CONFIG: u64 = 1 << 20;

/// Folders that the clients of Hugging Face's hub keep beside a model's files.
const HUB_FOLDERS: [&str; 2] = [".cache", ".huggingface"];

impl ModelFacts {
    /// Those of the model in `folder`.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub(in crate::distil) fn of(folder: &Path) -> Result<Self> {
        let text = PromptText::load(folder)?;
        let [tokenizer, chat_template] = text.text();
        Ok(Self {
            parameters: parameters(folder)?,
            tokenizer,
            chat_template,
            vocabulary: text.vocabulary()?,
            config: Some(Digest::of_json(&config(folder)?)?),
        })
    }
}

/// The digests of the files of a model.
#[derive(Debug, Clone, Copy)]
pub(in crate::distil) struct ModelDigests {
    /// Of the weight files, as a duel names them.
    pub(in crate::distil) parameters: Digest,
    /// Of all files except what systems and hubs leave in folders.
    pub(in crate::distil) files: Digest,
}

/// The digests of the files of the model in `folder`.
///
/// # Errors
/// There is no weight file; what the disk meets.
pub(in crate::distil) fn digests(folder: &Path) -> Result<ModelDigests> {
    let files = files_of(folder, |name| leftover(name).is_none())?;
    let weights = files.iter().filter(|(name, _)| is_weights(name));
    let weights: BTreeMap<_, _> = weights.map(|(name, digest)| (name.clone(), *digest)).collect();
    Ok(ModelDigests { parameters: of_lines(&weights, folder)?, files: of_lines(&files, folder)? })
}

/// The digest of the parameters of the model in `folder`: SHA-256 over the lines
/// `{sha256}  {name}\n` of its weight files in byte order of their names.
///
/// # Errors
/// There is no weight file; what the disk meets.
pub(in crate::distil) fn parameters(folder: &Path) -> Result<Digest> {
    of_lines(&files_of(folder, is_weights)?, folder)
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// The digests of the files in `folder` whose names `takes` takes, by name.
fn files_of(folder: &Path, takes: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Digest>> {
    let io = |error| Error::io(DIGEST, folder, error);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !takes(&name) {
            continue;
        }
        if path.is_dir() {
            if HUB_FOLDERS.contains(&&*name) {
                continue;
            }
            return Err(Error::new(ErrorKind::DataInvalid, DIGEST, "a folder is no file of the model")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("move it out of the model's folder"));
        }
        let file = File::open(&path).map_err(|error| Error::io(DIGEST, &path, error))?;
        files.insert(name, Digest::of_reader(file).map_err(|error| Error::io(DIGEST, &path, error))?);
    }
    Ok(files)
}

/// The digest of the lines of `files`, which are in `folder`.
fn of_lines(files: &BTreeMap<String, Digest>, folder: &Path) -> Result<Digest> {
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, DIGEST, "the folder has no file of weights")
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint("name the folder of a model with `*.safetensors`"));
    }
    let mut lines = String::new();
    for (name, digest) in files {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{digest}  {name}");
    }
    Ok(Digest::of(lines))
}

/// The longest text that the model in `folder` reads, in tokens; none if its configuration does
/// not say.
///
/// # Errors
/// Its configuration is missing or malformed.
pub(in crate::distil) fn context(folder: &Path) -> Result<Option<u64>> {
    Ok(config(folder)?.get("max_position_embeddings").and_then(Value::as_u64))
}

/// The configuration of the model in `folder`, in normal form.
fn config(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("config.json");
    let mut bytes = Vec::new();
    let read = open_file(CONFIG, &path)?.take(MAX_CONFIG + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(CONFIG, &path, error))?;
    let invalid = |message: String| {
        let error = Error::new(ErrorKind::DataInvalid, CONFIG, message).about(Artefact::Model);
        error.with("path", path.display())
    };
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(invalid(format!("the file has more than {MAX_CONFIG} bytes")));
    }
    let config: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("not a JSON object: {error}")).with_source(error))?;
    normal_config(config).map_err(|error| error.about(Artefact::Model).with("path", path.display()))
}
