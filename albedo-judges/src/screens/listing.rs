//! Small reads of a model's files: headers, index and text, with a bound on
//! each, whatever the files say of themselves.

use std::collections::BTreeMap;

use albedo_core::safetensors::{Dtype, Header, read_header};
use albedo_core::{CallContext, Error, ErrorKind, FileEntry, ModelFiles, Result};
use serde::Deserialize;
use serde_json::Value;

use super::evidence::Problem;

/// Name of the index of a sharded model.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The largest header that a screen reads, in bytes. Qwen3-235B has 94 shards
/// with headers below 1 MB; the format allows 100 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The largest text file that a screen reads, in bytes: tokenizers of 150,000
/// words have 11 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A model's listing, with what was wrong in the names.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    files: &'a dyn ModelFiles,
    entries: BTreeMap<String, u64>,
}

/// Name, type and shape of every tensor of a model.
pub(crate) type Tensors = BTreeMap<String, TensorFacts>;

/// One tensor, as its shard's header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorFacts {
    pub(crate) shard: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

impl<'a> Listing<'a> {
    /// Lists `files`; names that no model has are problems.
    ///
    /// # Errors
    /// The listing's own: it could not be read.
    pub(crate) async fn read(
        files: &'a dyn ModelFiles,
        problems: &mut Vec<Problem>,
        cx: &CallContext,
    ) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for FileEntry { name, size } in files.list(cx).await? {
            let inside = !name.contains(['\\', '\0'])
                && !name.chars().any(char::is_control)
                && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !inside {
                problems.push(Problem::new("name", &name, "the name does not lie inside the model's folder"));
            } else if entries.insert(name.clone(), size).is_some() {
                problems.push(Problem::new("name", &name, "the name is listed twice"));
            }
        }
        Ok(Self { files, entries })
    }

    /// Names and sizes in bytes.
    pub(crate) fn entries(&self) -> &BTreeMap<String, u64> {
        &self.entries
    }

    /// The whole of a text file; `None` if there is none of that name, a
    /// problem if it is longer than any that a model needs.
    pub(crate) async fn text(
        &self,
        name: &str,
        cx: &CallContext,
    ) -> Result<Option<Result<Vec<u8>, Problem>>> {
        let Some(&size) = self.entries.get(name) else { return Ok(None) };
        if size > MAX_TEXT_BYTES {
            let message = format!("the file has {size} bytes, a screen reads at most {MAX_TEXT_BYTES}");
            return Ok(Some(Err(Problem::new("size", name, message))));
        }
        self.files.read(name, 0..size, cx).await.map(|bytes| Some(Ok(bytes)))
    }

    /// The shards' tensors. What a header or the index gets wrong is a problem.
    ///
    /// # Errors
    /// A range that could not be read.
    pub(crate) async fn tensors(&self, problems: &mut Vec<Problem>, cx: &CallContext) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        let shards: Vec<_> = self.entries.iter().filter(|(name, _)| is_weights(name)).collect();
        for &(shard, &size) in &shards {
            let header = match self.header(shard, size, cx).await? {
                Ok(header) => header,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            for (name, info) in header.tensors {
                let facts = TensorFacts { shard: shard.clone(), dtype: info.dtype, shape: info.shape };
                if let Some(earlier) = tensors.insert(name.clone(), facts) {
                    let message = format!("the tensor is in {} and in {shard}", earlier.shard);
                    problems.push(Problem::new("tensors", &name, message));
                }
            }
        }
        match self.text(INDEX, cx).await? {
            Some(Err(problem)) => problems.push(problem),
            Some(Ok(bytes)) => check_index(&bytes, &tensors, problems),
            None if shards.len() > 1 => {
                let message = format!("{} weight files but no index", shards.len());
                problems.push(Problem::new("index", INDEX, message));
            }
            None => {}
        }
        Ok(tensors)
    }

    async fn header(&self, shard: &str, size: u64, cx: &CallContext) -> Result<Result<Header, Problem>> {
        let problem = |message: String| Ok(Err(Problem::new("header", shard, message)));
        if size < 8 {
            return problem(format!("the file has {size} bytes, too few for a header"));
        }
        let length = self.files.read(shard, 0..8, cx).await?;
        let length = <[u8; 8]>::try_from(length).map(u64::from_le_bytes).map_err(|bytes| {
            Error::new(
                ErrorKind::Protocol,
                "read a model's header",
                format!("{} bytes came, not 8", bytes.len()),
            )
        })?;
        if length > MAX_HEADER_BYTES || length > size - 8 {
            return problem(format!(
                "the header calls itself {length} bytes long; the file has {size}, a screen reads at most \
                 {MAX_HEADER_BYTES}"
            ));
        }
        let bytes = self.files.read(shard, 0..8 + length, cx).await?;
        match read_header(&mut &*bytes, size) {
            Ok(header) => Ok(Ok(header)),
            Err(error) if error.kind() == ErrorKind::DataInvalid => problem(error.to_string()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a file of that name holds a model's weights.
pub(crate) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/')
}

/// Reads a JSON object: hostile input of a bounded size.
pub(crate) fn object(name: &str, bytes: &[u8]) -> Result<serde_json::Map<String, Value>, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::new("json", name, error.to_string()))
}

fn check_index(bytes: &[u8], tensors: &Tensors, problems: &mut Vec<Problem>) {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = match serde_json::from_slice(bytes) {
        Ok(index) => index,
        Err(error) => return problems.push(Problem::new("index", INDEX, error.to_string())),
    };
    for (name, shard) in &weight_map {
        match tensors.get(name) {
            Some(facts) if facts.shard == *shard => {}
            Some(facts) => problems.push(Problem::new(
                "index",
                name,
                format!("the index puts the tensor into {shard}, it is in {}", facts.shard),
            )),
            None => problems.push(Problem::new("index", name, format!("the tensor is not in {shard}"))),
        }
    }
    for name in tensors.keys().filter(|name| !weight_map.contains_key(*name)) {
        problems.push(Problem::new("index", name, "the index does not name the tensor"));
    }
}

#[cfg(test)]
mod tests;
