//! The weight files of a model folder: found, digested, and read by position,
//! tensor by tensor, into `f32`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::SystemTime;

use albedo_core::checkpoint::is_weight_file;
use albedo_core::digest::Hasher;
use albedo_core::files::{Tail, open_file, read_exact_at};
use albedo_core::safetensors::{Dtype, TensorInfo, read_header};
use albedo_core::{Artefact, CallContext, Digest, Error, ErrorKind, Reach, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Deserialize;

use crate::files::read_small;

const OPERATION: &str = "load the model's weights";
const INDEX: &str = "model.safetensors.index.json";

/// The largest index that is read: a model of a thousand layers has 2 MB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Values that one thread reads at a time.
#[cfg(feature = "cuda")]
const READ_BLOCK: usize = 1 << 20;

/// Bytes that are read while as many are hashed.
const DIGEST_BLOCK: u64 = 1 << 20;

/// Rows of the result that are transposed together: one cache line of `f32`.
const TRANSPOSE_BLOCK: usize = 16;

/// Every `*.safetensors` of a folder, open.
#[derive(Debug)]
pub(super) struct WeightFiles {
    folder: PathBuf,
    /// In byte order of their names.
    files: Vec<WeightFile>,
}

#[derive(Debug)]
struct WeightFile {
    name: String,
    path: PathBuf,
    file: File,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl WeightFiles {
    /// Opens the files of `folder`.
    ///
    /// # Errors
    /// A folder or file that cannot be read; a folder without weight files.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let io = |error| Error::io(OPERATION, folder, error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_none_or(|extension| extension != "safetensors") {
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
                return Err(invalid("the name of a weight file is not UTF-8").with("path", path.display()));
            };
            if !is_weight_file(&name) {
                continue;
            }
            let file = open_file(OPERATION, &path)?;
            let metadata = file.metadata().map_err(|error| Error::io(OPERATION, &path, error))?;
            let (bytes, modified) = (metadata.len(), metadata.modified().ok());
            files.push(WeightFile { name, path, file, bytes, modified });
        }
        if files.is_empty() {
            if let Some(other) = other_weights(folder) {
                let message = format!("the weights are in `{other}`; supported is safetensors");
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                    .about(Artefact::Model)
                    .with("path", folder.display())
                    .with_hint("save the model as safetensors, as `save_pretrained` does"));
            }
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "the folder has no *.safetensors file")
                .with("path", folder.display())
                .with_hint("check that the path is a model's folder and that its download is complete"));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// Checks that the files have not changed since they were opened.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] with the file; a file that cannot be looked at.
    pub(super) fn require_unchanged(&self) -> Result<()> {
        for WeightFile { path, file, bytes, modified, .. } in &self.files {
            let metadata = file.metadata().map_err(|error| Error::io(OPERATION, path, error))?;
            if metadata.len() != *bytes || metadata.modified().ok() != *modified {
                return Err(Error::new(
                    ErrorKind::DigestMismatch,
                    OPERATION,
                    "the file was changed while its model was out of memory",
                )
                .with_reach(Reach::Duel)
                .with("path", path.display())
                .with_hint("leave a model's files alone while it is in use, and load it again"));
            }
        }
        Ok(())
    }

    /// The parameters digest, as [`albedo_core::ModelInfo::parameters`] defines it.
    ///
    /// # Errors
    /// A read error; `cx`.
    pub(super) fn digest(&self, cx: &CallContext) -> Result<Digest> {
        let digests: Vec<Digest> =
            self.files.par_iter().map(|file| file.digest(cx)).collect::<Result<_>>()?;
        let mut lines = Hasher::default();
        for (file, digest) in self.files.iter().zip(digests) {
            lines.update(format!("{digest}  {}\n", file.name));
        }
        Ok(lines.finish())
    }

    /// Reads the headers, and the index if there is one.
    ///
    /// # Errors
    /// A malformed or truncated file; a tensor in two files; an index that
    /// disagrees with the files, or several files without one.
    pub(super) fn weights<'a>(&'a self, cx: &'a CallContext) -> Result<Weights<'a>> {
        let mut left = BTreeMap::new();
        for weight_file in &self.files {
            cx.check(OPERATION)?;
            // Several devices may load these files at once.
            let mut start = BufReader::new(Tail::new(&weight_file.file, 0));
            let header = read_header(&mut start, weight_file.bytes)
                .map_err(|error| error.with("path", weight_file.path.display()))?;
            for (name, info) in header.tensors {
                if let Some(Tensor { file: other, .. }) = left.get(&name) {
                    let other: &WeightFile = other;
                    return Err(invalid(format!("two files hold the tensor `{name}`"))
                        .with("first", &other.name)
                        .with("second", &weight_file.name));
                }
                left.insert(name.clone(), Tensor { name, info, file: weight_file });
            }
        }
        self.check_index(&left)?;
        Ok(Weights { left, cx })
    }

    fn check_index(&self, tensors: &BTreeMap<String, Tensor<'_>>) -> Result<()> {
        let path = self.folder.join(INDEX);
        if !path.exists() {
            if self.files.len() == 1 {
                return Ok(());
            }
            let names: Vec<_> = self.files.iter().map(|file| file.name.as_str()).collect();
            return Err(invalid(format!("several weight files but no {INDEX}: {}", names.join(", ")))
                .with("path", self.folder.display())
                .with_hint("remove the file that is not the model's, or complete the download"));
        }
        let bytes = read_small(&path, MAX_INDEX_BYTES, OPERATION, Artefact::Model)?;
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| {
            invalid(format!("not a weight index: {error}")).with("path", path.display()).with_source(error)
        })?;
        let wrong = |message: String| Err(invalid(message).with("path", path.display()));
        for (name, file) in &weight_map {
            match tensors.get(name) {
                Some(tensor) if tensor.file.name == *file => {}
                Some(tensor) => {
                    return wrong(format!("the index has `{name}` in {file}, it is in {}", tensor.file.name));
                }
                None => return wrong(format!("no file holds `{name}`, which the index has in {file}")),
            }
        }
        match tensors.keys().find(|name| !weight_map.contains_key(*name)) {
            Some(name) => wrong(format!("the index does not have `{name}`, which a file holds")),
            None => Ok(()),
        }
    }
}

/// A file of weights in a format that is not read.
fn other_weights(folder: &Path) -> Option<String> {
    const ENDINGS: [&str; 8] = ["bin", "pt", "pth", "gguf", "ggml", "msgpack", "h5", "onnx"];
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ends = |name: &String| name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending));
    names.filter(ends).min()
}

impl WeightFile {
    /// One thread reads the next block while this one hashes.
    fn digest(&self, cx: &CallContext) -> Result<Digest> {
        let (filled, blocks) = mpsc::sync_channel::<Result<Vec<u8>>>(1);
        let (spare, empty) = mpsc::channel::<Vec<u8>>();
        let read = move || {
            let mut offset = 0;
            // Ends, too, when nobody hashes any more.
            while offset < self.bytes
                && let Ok(mut block) = empty.recv()
            {
                let size = (self.bytes - offset).min(DIGEST_BLOCK);
                block.resize(size as usize, 0);
                let read = cx.check(OPERATION).and_then(|()| self.read_at(&mut block, offset));
                let failed = read.is_err();
                if filled.send(read.map(|()| block)).is_err() || failed {
                    return;
                }
                offset += size;
            }
        };
        std::thread::scope(|scope| {
            let io = |error| Error::io("start a thread that reads", &self.path, error);
            let reader = std::thread::Builder::new().name("albedo-read".to_owned());
            reader.spawn_scoped(scope, read).map_err(io)?;
            let mut hasher = Hasher::default();
            for block in [Vec::new(), Vec::new()] {
                // Fails only once all is read, as below.
                let _ = spare.send(block);
            }
            for block in blocks {
                let block = block?;
                hasher.update(&block);
                let _ = spare.send(block);
            }
            Ok(hasher.finish())
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, buffer, offset).map_err(|error| Error::io(OPERATION, &self.path, error))
    }
}

/// A tensor that was taken: its name and shape are right, its values unread.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    name: String,
    info: TensorInfo,
    file: &'a WeightFile,
}

/// The tensors of a model: first each is taken by name, then their values are
/// read.
#[derive(Debug)]
pub(super) struct Weights<'a> {
    left: BTreeMap<String, Tensor<'a>>,
    cx: &'a CallContext,
}

impl<'a> Weights<'a> {
    /// Takes the tensor `name` of `shape`.
    ///
    /// # Errors
    /// It is missing, has another shape, or a data type other than `F32`,
    /// `F16` and `BF16`.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor<'a>> {
        let tensor =
            self.left.remove(name).ok_or_else(|| invalid(format!("the tensor `{name}` is missing")))?;
        let expected: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
        if tensor.info.shape != expected {
            return Err(tensor.wrong(format!(
                "has the shape {:?}, the configuration asks for {expected:?}",
                tensor.info.shape
            )));
        }
        if !matches!(tensor.info.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            let message = format!(
                "the tensor `{name}` has the data type {:?}; supported are F32, F16 and BF16",
                tensor.info.dtype
            );
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                .about(Artefact::Model)
                .with("path", tensor.file.path.display()));
        }
        Ok(tensor)
    }

    /// Whether a tensor `name` is left.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// A tensor that the model did not use, by name.
    pub(super) fn finish(self) -> Result<Values<'a>> {
        let more = self.left.len().saturating_sub(1);
        match self.left.into_values().next() {
            None => Ok(Values { cx: self.cx }),
            Some(tensor) => {
                let others = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                Err(tensor.wrong(format!("is no part of the architecture{others}")))
            }
        }
    }
}

/// Reads the values of tensors.
#[derive(Debug)]
pub(super) struct Values<'a> {
    cx: &'a CallContext,
}

impl Values<'_> {
    /// The values of `tensor`, row by row.
    ///
    /// # Errors
    /// A read error; a value that is not finite, with its index; `cx`.
    pub(super) fn read(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>> {
        self.cx.check(OPERATION)?;
        let bytes = tensor.bytes()?;
        let mut values = buffer::<f32>(tensor.len())?;
        match tensor.info.dtype {
            Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
            Dtype::F16 => {
                values.extend(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()));
            }
            _ => values.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())),
        }
        if values.len() != tensor.len() {
            return Err(tensor.wrong("has a size that is not its shape's"));
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(tensor.wrong(format!("is not finite: {} at index {index}", values[index]))),
        }
    }

    /// Writes the values of `tensor` from `from` on to `out`, two bytes each,
    /// little-endian, rounded to bf16 where they are stored otherwise.
    ///
    /// # Errors
    /// As [`Values::read`]; a value beyond the range of bf16 is not finite.
    #[cfg(feature = "cuda")]
    pub(super) fn read_bf16(&self, tensor: &Tensor<'_>, from: usize, out: &mut [u8]) -> Result<()> {
        self.cx.check(OPERATION)?;
        let size = if tensor.info.dtype == Dtype::F32 { 4 } else { 2 };
        let range = &tensor.info.range;
        if range.end - range.start != (tensor.len() * size) as u64 {
            return Err(tensor.wrong("has a size that is not its shape's"));
        }
        out.par_chunks_mut(2 * READ_BLOCK).enumerate().try_for_each(|(block, out)| {
            let first = from + block * READ_BLOCK;
            let offset = range.start + (first * size) as u64;
            if tensor.info.dtype == Dtype::Bf16 {
                tensor.file.read_at(out, offset)?;
            } else {
                let mut bytes = vec![0; out.len() / 2 * size];
                tensor.file.read_at(&mut bytes, offset)?;
                let wide: Vec<f32> = match tensor.info.dtype {
                    Dtype::F32 => {
                        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
                    }
                    _ => {
                        bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()
                    }
                };
                for (out, value) in out.as_chunks_mut().0.iter_mut().zip(wide) {
                    *out = bf16::from_f32(value).to_le_bytes();
                }
            }
            let values = out.as_chunks().0;
            match values.iter().position(|&bytes| !bf16::from_le_bytes(bytes).is_finite()) {
                None => Ok(()),
                Some(index) => {
                    let value = bf16::from_le_bytes(values[index]);
                    Err(tensor.wrong(format!("is not finite: {value} at index {}", first + index)))
                }
            }
        })
    }

    /// Matrices `[out, in]` of the same `in`, each transposed, side by side:
    /// `[in, out + out + …]`.
    ///
    /// # Errors
    /// As [`Values::read`].
    pub(super) fn read_transposed(&self, tensors: &[Tensor<'_>]) -> Result<Vec<f32>> {
        let size = tensors.iter().map(Tensor::len).sum();
        let mut joined = buffer(size)?;
        joined.resize(size, 0.0);
        let inputs = tensors.first().map_or(1, Tensor::columns);
        let width = size / inputs;
        let mut left = 0;
        for tensor in tensors {
            let values = self.read(tensor)?;
            let outputs = values.len() / inputs;
            joined.par_chunks_mut(TRANSPOSE_BLOCK * width).enumerate().for_each(|(block, joined)| {
                let first = block * TRANSPOSE_BLOCK;
                let rows = joined.len() / width;
                for (output, values) in values.chunks_exact(inputs).enumerate() {
                    for (row, value) in values[first..first + rows].iter().enumerate() {
                        joined[row * width + left + output] = *value;
                    }
                }
            });
            left += outputs;
        }
        Ok(joined)
    }

    /// Checks that two tensors have the same values.
    ///
    /// # Errors
    /// They do not; as [`Values::read`].
    pub(super) fn require_equal(&self, tensor: &Tensor<'_>, other: &Tensor<'_>) -> Result<()> {
        if self.read(tensor)? == self.read(other)? {
            return Ok(());
        }
        Err(other.wrong(format!("differs from `{}`, to which the configuration ties it", tensor.name)))
    }
}

impl Tensor<'_> {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.info.shape.iter().product::<u64>() as usize
    }

    /// Size of the last dimension.
    pub(super) fn columns(&self) -> usize {
        self.info.shape.last().map_or(1, |&size| size as usize)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let range = &self.info.range;
        let size = range.end.saturating_sub(range.start) as usize;
        let mut bytes = buffer(size)?;
        bytes.resize(size, 0);
        self.file.read_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        invalid(format!("the tensor `{}` {what}", self.name)).with("path", self.file.path.display())
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message).about(Artefact::Model)
}

/// An empty vector with room for `len` values.
fn buffer<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|error| {
        Error::new(ErrorKind::ResourceExhausted, OPERATION, format!("no memory for a tensor of {len} values"))
            .with_source(error)
    })?;
    Ok(values)
}
