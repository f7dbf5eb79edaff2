//! Small reads of a model's files: headers, index and text, with a bound on
//! each, whatever the files say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use albedo_core::checkpoint::is_weight_file;
use albedo_core::files::leftover;
use albedo_core::pretrained::normal_config;
use albedo_core::safetensors::{Dtype, Header, read_promise};
use albedo_core::{CallContext, Error, ErrorKind, FileEntry, ModelFiles, Provenance, Result};
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::evidence::{Problem, Problems};

/// Name of the index of a sharded model.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The head, where it has a tensor of its own.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The embedding, which is the head, too, where the configuration ties the two.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The largest header that a screen reads, in bytes. Qwen3-235B has 94 shards
/// with headers below 1 MB; the format allows 100 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Bytes of headers that are read of a model in any case, and beside them for each tensor that it may
/// have: an entry of a header has 100 to 200.
const HEADERS_BYTES: u64 = 2 * MAX_HEADER_BYTES;
const TENSOR_BYTES: u64 = 1024;

/// The largest text file that a screen compares, in bytes: tokenizers of
/// 150,000 words have 11 MB.
pub(crate) const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Name of the configuration.
pub(crate) const CONFIG: &str = "config.json";

/// The largest `config.json` that is read, in bytes: JSON takes up to thirty
/// times as much memory when it is read as values.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The largest index that a screen reads, in bytes: that of Qwen3-235B has
/// 4 MB.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// How the text starts that Git keeps in the place of a large file which was
/// not fetched.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Endings of files that a download has not finished.
const UNFINISHED: [&str; 3] = [".incomplete", ".part", ".aria2"];

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
    /// Lists `files`; names that no model has are problems. What systems and
    /// download tools leave in a copy ([`leftover`]) is left out.
    ///
    /// # Errors
    /// The listing's own: it could not be read.
    pub(crate) async fn read(
        files: &'a dyn ModelFiles,
        problems: &mut Problems,
        cx: &CallContext,
    ) -> Result<Self> {
        let copied = files.provenance() == Provenance::Copy;
        let mut entries = BTreeMap::new();
        for FileEntry { name, size, special, .. } in files.list(cx).await? {
            if let Some(what) = special {
                problems.push(Problem::new("special", &name, what));
                continue;
            }
            if copied && UNFINISHED.iter().any(|ending| name.ends_with(ending)) {
                problems.push(Problem::cut("complete", &name, "a download is under way or was broken off"));
                continue;
            }
            // No model is read from them, and only a copy may have them.
            if copied && leftover(&name).is_some() {
                continue;
            }
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

    /// What the listing stands for.
    pub(crate) fn provenance(&self) -> Provenance {
        self.files.provenance()
    }

    /// Names and sizes in bytes.
    pub(crate) fn entries(&self) -> &BTreeMap<String, u64> {
        &self.entries
    }

    /// Whether a weight file calls itself part of more than are there, as
    /// `model-00001-of-00002.safetensors` does alone.
    pub(crate) fn parts_missing(&self) -> bool {
        let mut parts = BTreeMap::<u64, u64>::new();
        for name in self.entries.keys().filter(|name| is_weight_file(name)) {
            let all = name.strip_suffix(".safetensors").and_then(|stem| stem.rsplit_once("-of-"));
            if let Some(all) = all.and_then(|(_, all)| all.parse().ok()) {
                *parts.entry(all).or_default() += 1;
            }
        }
        parts.into_iter().any(|(all, there)| there < all)
    }

    /// The whole of a text file; `None` if there is none of that name, a
    /// problem if it has more than `most` bytes.
    pub(crate) async fn text(
        &self,
        name: &str,
        most: u64,
        cx: &CallContext,
    ) -> Result<Option<Result<Vec<u8>, Problem>>> {
        let Some(&size) = self.entries.get(name) else { return Ok(None) };
        if size > most {
            let message = format!("the file has {size} bytes, a screen reads at most {most}");
            return Ok(Some(Err(Problem::new("size", name, message))));
        }
        let bytes = self.files.read(name, 0..size, cx).await?;
        Ok(Some(if bytes.starts_with(POINTER) { Err(pointer(name)) } else { Ok(bytes) }))
    }

    /// The shards' tensors. What a header or the index gets wrong is a problem. Shards after `most`
    /// tensors are not read, nor after as many bytes of headers as these could have: headers may have
    /// as many bytes as the model, and be all alike, or wrong.
    ///
    /// # Errors
    /// A range that could not be read.
    pub(crate) async fn tensors(
        &self,
        most: usize,
        problems: &mut Problems,
        cx: &CallContext,
    ) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        let mut unread = BTreeSet::new();
        let most_bytes = (most as u64).saturating_mul(TENSOR_BYTES).saturating_add(HEADERS_BYTES);
        let mut read_bytes = 0;
        let shards: Vec<_> = self.entries.iter().filter(|(name, _)| is_weight_file(name)).collect();
        for &(shard, &size) in &shards {
            if read_bytes > most_bytes {
                let message = format!(
                    "the headers before this file's have {read_bytes} bytes, a screen reads at most {most_bytes} \
                     for {most} tensors"
                );
                problems.push(Problem::new("header", shard, message));
                return Ok(tensors);
            }
            let header = match self.header(shard, size, &mut read_bytes, cx).await? {
                Ok(header) => header,
                Err(problem) => {
                    if problem.cut {
                        unread.insert(shard.as_str());
                    }
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
            if tensors.len() > most {
                let message =
                    format!("with this file there are {} tensors, at most {most} are read", tensors.len());
                problems.push(Problem::new("tensors", shard, message));
                return Ok(tensors);
            }
        }
        match self.text(INDEX, MAX_INDEX_BYTES, cx).await? {
            Some(Err(problem)) => problems.push(problem),
            Some(Ok(bytes)) => self.check_index(&bytes, &tensors, &unread, problems),
            None if shards.len() > 1 => {
                let message = format!("{} weight files but no index", shards.len());
                problems.push(Problem::cut("index", INDEX, message));
            }
            None => {}
        }
        Ok(tensors)
    }

    /// The header of `shard`; adds the bytes that it has to `read_bytes`.
    async fn header(
        &self,
        shard: &str,
        size: u64,
        read_bytes: &mut u64,
        cx: &CallContext,
    ) -> Result<Result<Header, Problem>> {
        let problem = |message: String| Ok(Err(Problem::new("header", shard, message)));
        let cut = |message: String| Ok(Err(Problem::cut("header", shard, message)));
        if size < 8 {
            return cut(format!("the file has {size} bytes, too few for a header"));
        }
        let length = self.files.read(shard, 0..8, cx).await?;
        let length = <[u8; 8]>::try_from(length).map(u64::from_le_bytes).map_err(|bytes| {
            Error::new(
                ErrorKind::Protocol,
                "read a model's header",
                format!("{} bytes came, not 8", bytes.len()),
            )
        })?;
        if POINTER.starts_with(&length.to_le_bytes()) {
            return Ok(Err(pointer(shard)));
        }
        if length > MAX_HEADER_BYTES || length > size - 8 {
            let message = format!(
                "the header calls itself {length} bytes long; the file has {size}, a screen reads at most \
                 {MAX_HEADER_BYTES}"
            );
            return if length > MAX_HEADER_BYTES { problem(message) } else { cut(message) };
        }
        *read_bytes += 8 + length;
        let bytes = self.files.read(shard, 0..8 + length, cx).await?;
        match read_promise(&mut &*bytes, size) {
            Ok((header, promised)) if promised == size => Ok(Ok(header)),
            Ok((_, promised)) => {
                let message = format!("the file has {size} bytes, the header promises {promised}");
                if size < promised { cut(message) } else { problem(message) }
            }
            Err(error) if error.kind() == ErrorKind::DataInvalid => problem(error.to_string()),
            Err(error) => Err(error),
        }
    }

    fn check_index(&self, bytes: &[u8], tensors: &Tensors, unread: &BTreeSet<&str>, problems: &mut Problems) {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let Index { weight_map } = match serde_json::from_slice(bytes) {
            Ok(index) => index,
            Err(error) => return problems.push(json_problem("index", INDEX, &error)),
        };
        for (name, shard) in &weight_map {
            match tensors.get(name) {
                Some(facts) if facts.shard == *shard => {}
                Some(facts) => problems.push(Problem::new(
                    "index",
                    name,
                    format!("the index puts the tensor into {shard}, it is in {}", facts.shard),
                )),
                None => {
                    let cut = !self.entries.contains_key(shard) || unread.contains(shard.as_str());
                    let message = format!("the tensor is not in {shard}");
                    problems.push(Problem { cut, ..Problem::new("index", name, message) });
                }
            }
        }
        for name in tensors.keys().filter(|name| !weight_map.contains_key(*name)) {
            problems.push(Problem::new("index", name, "the index does not name the tensor"));
        }
    }
}

/// Whether the `config.json` of these bytes ties the head to the embedding. What cannot be read
/// ties nothing: the screen `architecture` says what is wrong with it.
pub(crate) fn ties_head(config: &[u8]) -> bool {
    let config = serde_json::from_slice(config).ok().and_then(|config| normal_config(config).ok());
    config.is_some_and(|config| config.get("tie_word_embeddings") == Some(&Value::Bool(true)))
}

/// Whether `bytes` are the beginning of JSON, or of nothing.
pub(crate) fn breaks_off(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_err_and(|error| error.is_eof())
}

/// Reads a JSON object: hostile input of a bounded size. A key that an object has twice is a
/// problem: some readers take the last of the two, others refuse the file.
pub(crate) fn object(name: &str, bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    let read: serde_json::Result<UniqueMap> = serde_json::from_slice(bytes);
    read.map(|UniqueMap(members)| members).map_err(|error| json_problem("json", name, &error))
}

/// An object that has no key twice, nor has any in it.
struct UniqueMap(Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueMembers).map(Self)
    }
}

struct UniqueMembers;

impl<'de> Visitor<'de> for UniqueMembers {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, Unique(value))) = members.next_entry::<String, Unique>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            values.insert(key, value);
        }
        Ok(values)
    }
}

/// A value in which no object has a key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueValue).map(Self)
    }
}

struct UniqueValue;

impl<'de> Visitor<'de> for UniqueValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Value, A::Error> {
        UniqueMembers.visit_map(members).map(Value::Object)
    }
}

fn json_problem(check: &'static str, name: &str, error: &serde_json::Error) -> Problem {
    Problem { cut: error.is_eof(), ..Problem::new(check, name, error.to_string()) }
}

fn pointer(name: &str) -> Problem {
    Problem::cut("complete", name, "the file is a pointer of Git LFS, not what it points to")
}

#[cfg(test)]
mod tests;
