//! Checkpoints and exported models on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use albedo_core::durable::replace;
use albedo_core::files::open_file;
use albedo_core::safetensors::{Dtype, read_header};
use albedo_core::{Artefact, CallContext, Digest, Error, ErrorKind, Result};
use half::bf16;
use serde_json::{Map, Value, json};

use super::optimizer::State;
use super::params::{HEAD, Param, Params, TABLE};
use super::settings::{Precision, Settings};
use crate::burn::config::Qwen3Config;
use crate::burn::weights::WeightFiles;
use crate::files::read_small;

const SAVE: &str = "save the checkpoint";
const RESUME: &str = "read the checkpoint";
const EXPORT: &str = "export the model";

/// The name of the one file of a checkpoint, in its folder.
pub const CHECKPOINT: &str = "training.safetensors";

/// What the file says that it is.
const FORMAT: &str = "albedo-training-1";

/// Files of a model that belong to its text, and its licence.
const COPIED: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
];

/// The largest of those that is read: tokenizers of 250,000 tokens have 20 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// What a checkpoint holds.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) params: Params,
    pub(super) states: Vec<State>,
    pub(super) steps: u64,
}

/// Tensors by name, with their shapes.
pub(super) type Tensors<'a> = BTreeMap<String, (Vec<usize>, &'a [f32])>;

/// A safetensors file of `tensors`, in the order of their names.
pub(super) fn safetensors(tensors: &Tensors<'_>, precision: Precision, metadata: &Value) -> Vec<u8> {
    let (dtype, size) = match precision {
        Precision::Bf16 => ("BF16", 2),
        Precision::F32 => ("F32", 4),
    };
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata.clone());
    let mut end = 0;
    for (name, (shape, values)) in tensors {
        let start = end;
        end += size * values.len();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (_, values) in tensors.values() {
        match precision {
            Precision::Bf16 => {
                bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()));
            }
            Precision::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
    bytes
}

fn create(operation: &'static str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Error::io(operation, folder, error))
}

fn write(operation: &'static str, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    replace(&path, &beside, bytes).map_err(|error| {
        // What is left of it would only take room.
        let _ = fs::remove_file(&beside);
        Error::io(operation, &path, error)
    })
}

/// The parts of a checkpoint, with the names that they have in its file.
fn parts<'a>(params: &'a Params, states: &'a [State]) -> Tensors<'a> {
    let mut parts = Tensors::new();
    for param in &params.list {
        parts.insert(format!("weight.{}", param.name), (param.shape.to_vec(), &param.values));
    }
    for (param, state) in params.trained().iter().zip(states) {
        if params.adapters.is_some() {
            parts.insert(format!("adapter.{}", param.name), (param.shape.to_vec(), &param.values));
        }
        for (what, values) in [("first", &state.first), ("second", &state.second)] {
            if !values.is_empty() {
                parts.insert(format!("{what}.{}", param.name), (param.shape.to_vec(), values));
            }
        }
    }
    parts
}

/// Writes a checkpoint to `folder`, whole or not at all.
///
/// # Errors
/// The operating system's; a value that is not finite.
pub(super) fn save(
    folder: &Path,
    params: &Params,
    states: &[State],
    steps: u64,
    settings: &Settings,
) -> Result<Digest> {
    if !params.is_finite() {
        return Err(Error::new(ErrorKind::Overflow, SAVE, "a weight is not finite")
            .with("step", steps)
            .with_hint("go back to an older checkpoint, and lower the learning rate"));
    }
    let metadata = json!({
        "format": FORMAT,
        "steps": steps.to_string(),
        "settings": written(settings)?,
    });
    let bytes = safetensors(&parts(params, states), Precision::F32, &metadata);
    create(SAVE, folder)?;
    write(SAVE, folder, CHECKPOINT, &bytes)?;
    Ok(Digest::of(&bytes))
}

fn written(settings: &Settings) -> Result<String> {
    serde_json::to_string(settings)
        .map_err(|error| Error::bug(SAVE, "the settings cannot be written").with_source(error))
}

/// Reads the checkpoint in `folder`, whose bytes have the digest `saved`. It has to be of the same
/// shapes as `params` and `states`, and of the same settings.
///
/// # Errors
/// It is missing, damaged, or another.
pub(super) fn resume(
    folder: &Path,
    saved: Digest,
    params: &Params,
    states: &[State],
    settings: &Settings,
) -> Result<Checkpoint> {
    let path = folder.join(CHECKPOINT);
    let wrong = |message: String| {
        Error::new(ErrorKind::DataInvalid, RESUME, message)
            .with("path", path.display())
            .with_hint("name the checkpoint of this training, or start it afresh in another folder")
    };
    // Opened first, so that only a regular file is read.
    drop(open_file(RESUME, &path)?);
    let bytes = fs::read(&path).map_err(|error| Error::io(RESUME, &path, error))?;
    // A power cut can leave a file of the right length with blocks of zeros.
    let found = Digest::of(&bytes);
    if found != saved {
        let message = "the checkpoint is damaged, or it is another one";
        return Err(Error::new(ErrorKind::DigestMismatch, RESUME, message)
            .with("path", path.display())
            .with("found", found)
            .with("saved", saved)
            .with_hint("go on from an older checkpoint, or start the training afresh in another folder"));
    }
    let header = read_header(&mut Cursor::new(&bytes), bytes.len() as u64)
        .map_err(|error| wrong(error.message().to_owned()).with_source(error))?;
    if header.metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(wrong("the file is no checkpoint of a training".to_owned()));
    }
    let steps = header.metadata.get("steps").and_then(|steps| steps.parse().ok());
    let steps = steps.ok_or_else(|| wrong("the checkpoint does not say its step".to_owned()))?;
    if header.metadata.get("settings") != Some(&written(settings)?) {
        return Err(wrong("the checkpoint was made with other settings".to_owned()));
    }

    let expected = parts(params, states);
    if let Some(name) = header.tensors.keys().find(|name| !expected.contains_key(*name)) {
        return Err(wrong(format!("the checkpoint has `{name}`, which this training does not")));
    }
    let mut read = BTreeMap::new();
    for (name, (shape, _)) in &expected {
        let Some(info) = header.tensors.get(name) else {
            return Err(wrong(format!("the checkpoint lacks `{name}`")));
        };
        let same = info.shape.iter().map(|&size| size as usize).eq(shape.iter().copied());
        if !same || info.dtype != Dtype::F32 {
            return Err(wrong(format!("`{name}` has another shape or data type than in this training")));
        }
        let range = info.range.start as usize..info.range.end as usize;
        let (values, _) = bytes[range].as_chunks();
        read.insert(name.clone(), values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<_>>());
    }
    let mut take =
        |what: &str, param: &Param| read.remove(&format!("{what}.{}", param.name)).unwrap_or_default();

    let mut params = params.clone();
    let states = params
        .trained()
        .iter()
        .map(|param| State { first: take("first", param), second: take("second", param) })
        .collect();
    for param in &mut params.list {
        param.values = take("weight", param);
    }
    if params.adapters.is_some() {
        for param in params.trained_mut() {
            param.values = take("adapter", param);
        }
    }
    Ok(Checkpoint { params, states, steps })
}

/// Writes a model of `params` to `folder`, with the text and the tensors of the model in
/// `source`.
///
/// # Errors
/// The operating system's; a value that is not finite in `precision`.
pub(super) fn export(folder: &Path, source: &Path, params: &[Param], precision: Precision) -> Result<()> {
    let mut tensors = Tensors::new();
    for param in params {
        let finite = |value: &f32| match precision {
            Precision::Bf16 => bf16::from_f32(*value).is_finite(),
            Precision::F32 => value.is_finite(),
        };
        if let Some(index) = param.values.iter().position(|value| !finite(value)) {
            let message = format!("the weight `{}` is beyond the data type at index {index}", param.name);
            return Err(Error::new(ErrorKind::Overflow, EXPORT, message)
                .with_hint("go back to an older checkpoint, and lower the learning rate"));
        }
        let shape =
            if param.kind == super::params::Kind::Gain { &param.shape[1..] } else { &param.shape[..] };
        tensors.insert(param.name.clone(), (shape.to_vec(), &param.values));
    }
    if let Some(table) = params.get(TABLE)
        && !tensors.contains_key(HEAD)
        && has_head(source)?
    {
        tensors.insert(HEAD.to_owned(), (table.shape.to_vec(), &table.values));
    }
    let weights = safetensors(&tensors, precision, &json!({"format": "pt"}));
    let path = source.join("config.json");
    let config = read_small(&path, 1 << 20, EXPORT, Artefact::Model)?;
    let mut config: Map<String, Value> = serde_json::from_slice(&config).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, EXPORT, format!("not a JSON object: {error}"))
            .about(Artefact::Model)
            .with("path", path.display())
            .with_source(error)
    })?;
    let dtype = match precision {
        Precision::Bf16 => "bfloat16",
        Precision::F32 => "float32",
    };
    // Transformers 5 writes `dtype`, older ones `torch_dtype`.
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.to_owned(), json!(dtype));
    let config = format!("{:#}\n", Value::Object(config));

    create(EXPORT, folder)?;
    for name in COPIED {
        let path = source.join(name);
        if path.exists() {
            write(EXPORT, folder, name, &read_small(&path, MAX_TEXT_BYTES, EXPORT, Artefact::Text)?)?;
        }
    }
    write(EXPORT, folder, "config.json", config.as_bytes())?;
    write(EXPORT, folder, "model.safetensors", &weights)
}

/// Whether the files of the model in `folder` have a head.
fn has_head(folder: &Path) -> Result<bool> {
    let (files, cx) = (WeightFiles::open(folder)?, CallContext::new());
    let weights = files.weights(&cx)?;
    Ok(weights.contains(HEAD))
}

/// The tokens of the model in `folder` by their ids, if it has a tokenizer.
fn tokens(folder: &Path) -> Result<Option<BTreeMap<u64, String>>> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let operation = "read the tokenizer";
    let bytes = read_small(&path, MAX_TEXT_BYTES, operation, Artefact::Text)?;
    let tokenizer: Value = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, operation, format!("not JSON: {error}"))
            .about(Artefact::Text)
            .with("path", path.display())
            .with_source(error)
    })?;
    let mut tokens = BTreeMap::new();
    for (token, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
        tokens.extend(id.as_u64().map(|id| (id, token.clone())));
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().map(str::to_owned);
        tokens.extend(added["id"].as_u64().zip(token));
    }
    Ok(Some(tokens))
}

/// Checks that a teacher speaks the student's vocabulary.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] with the first difference.
pub(super) fn require_same_vocabulary(
    student: (&Path, &Qwen3Config),
    teacher: (&Path, &Qwen3Config),
) -> Result<()> {
    let wrong = |message: String| {
        Error::new(ErrorKind::ConfigInvalid, super::OPERATION, message)
            .with("student", student.0.display())
            .with("teacher", teacher.0.display())
            .with_hint("choose a teacher with the student's tokenizer")
    };
    let (own, others) = (student.1.vocab_size, teacher.1.vocab_size);
    if own != others {
        return Err(wrong(format!(
            "the teacher has another vocabulary: {others} tokens, the student has {own}"
        )));
    }
    let (Some(own), Some(others)) = (tokens(student.0)?, tokens(teacher.0)?) else { return Ok(()) };
    if own == others {
        return Ok(());
    }
    let id = own.keys().chain(others.keys()).find(|id| own.get(id) != others.get(id)).copied();
    Err(wrong(format!("the teacher has another vocabulary: token {} is another", id.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burn::train::Trainer;
    use crate::burn::train::params::Kind;
    use crate::burn::train::tests::tiny;

    #[test]
    fn an_export_has_the_tensors_of_its_start() {
        let (student, out) = (tiny(21, true), tempfile::tempdir().expect("a folder"));
        let names = |folder: &Path| -> Vec<String> {
            let bytes = fs::read(folder.join("model.safetensors")).expect("reads");
            let header = read_header(&mut Cursor::new(&bytes), bytes.len() as u64).expect("a header");
            header.tensors.into_keys().collect()
        };
        let exported = |name: &str| {
            let (settings, out) = (Settings::default(), out.path().join(name));
            let trainer = Trainer::open(student.path(), &settings, None).expect("opens");
            trainer.export(&out).expect("exports");
            Trainer::open(&out, &settings, None).expect("a model");
            names(&out)
        };
        let plain = names(student.path());
        assert!(!plain.contains(&HEAD.to_owned()));
        assert_eq!(exported("plain"), plain);

        // The table again, as its head.
        let config = Qwen3Config::load(student.path()).expect("a configuration");
        let params = Params::load(student.path(), &config).expect("loads").list;
        let mut tensors = Tensors::new();
        for param in &params {
            let shape = if param.kind == Kind::Gain { &param.shape[1..] } else { &param.shape[..] };
            tensors.insert(param.name.clone(), (shape.to_vec(), &param.values));
        }
        tensors.insert(HEAD.to_owned(), (params[TABLE].shape.to_vec(), &params[TABLE].values));
        let bytes = safetensors(&tensors, Precision::F32, &json!({}));
        fs::write(student.path().join("model.safetensors"), bytes).expect("writes");
        let repeated = names(student.path());
        assert_eq!(repeated.len(), plain.len() + 1);
        assert_eq!(exported("repeated"), repeated);
    }
}
