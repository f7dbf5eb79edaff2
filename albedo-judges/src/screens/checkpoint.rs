//! The weight files of a folder, read once from front to back in blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use albedo_core::digest::Hasher;
use albedo_core::safetensors::{Dtype, TensorInfo, read_header};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Result, Retry};
use half::f16;

/// Bytes that are read at once, or one row of a tensor if it is longer. Two
/// blocks are held, so that one is worked on while the other is read.
const BLOCK_BYTES: u64 = 4 << 20;

const OPERATION: &str = "read the checkpoint";

/// The `*.safetensors` files of a folder, open, their headers checked.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    path: PathBuf,
    file: File,
    bytes: u64,
    /// In the order of the file.
    tensors: Vec<(String, TensorInfo)>,
}

/// Whole rows of a tensor, or a part of one row that is longer than a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) name: &'a str,
    pub(crate) info: &'a TensorInfo,
    /// Position of the first element in the flattened tensor.
    pub(crate) start: u64,
    /// Little-endian elements.
    pub(crate) bytes: &'a [u8],
}

/// What a pass over a checkpoint does.
pub(crate) trait Visitor: Send {
    /// Takes the next segment; those of a tensor come in order, and a tensor
    /// without elements comes once with no bytes.
    fn visit(&mut self, segment: Segment<'_>) -> Result<()>;
}

impl Checkpoint {
    /// Opens the weight files of `folder` in byte order of their names.
    ///
    /// # Errors
    /// A folder or file that cannot be read, a malformed header, a tensor in
    /// two files. The local copy is ours: nothing here is the miner's fault.
    pub fn open(folder: &Path) -> Result<Self> {
        let io = |error| Error::io(OPERATION, folder, error);
        let mut shards = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_none_or(|extension| extension != "safetensors") {
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
                return Err(invalid("a weight file's name is not UTF-8", &path));
            };
            shards.push(Shard::open(name, path)?);
        }
        if shards.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "the folder has no *.safetensors file")
                .with("path", folder.display())
                .with_hint("check that the path is a model's folder and that its download is complete"));
        }
        shards.sort_by(|a, b| a.name.cmp(&b.name));
        let mut seen = BTreeMap::new();
        for shard in &shards {
            for (name, _) in &shard.tensors {
                if let Some(earlier) = seen.insert(name.as_str(), shard.name.as_str()) {
                    return Err(invalid("two files hold the same tensor", &shard.path)
                        .with("tensor", name)
                        .with("first", earlier));
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), shards })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all weight files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Every tensor, files and headers in order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.shards.iter().flat_map(|shard| shard.tensors.iter().map(|(name, info)| (name.as_str(), info)))
    }

    /// Elements `from..from + count` of a tensor as `f32`.
    pub(crate) fn read(&self, name: &str, from: u64, count: usize) -> Result<Vec<f32>> {
        let found = self.shards.iter().find_map(|shard| {
            shard.tensors.iter().find(|(known, _)| known == name).map(|(_, info)| (shard, info))
        });
        let Some((shard, info)) = found else { return Err(self.missing(name)) };
        let size = info.dtype.bytes();
        let (begin, bytes) = (info.range.start + from * size, count as u64 * size);
        if begin + bytes > info.range.end {
            return Err(invalid("the tensor is shorter than its place in the network", &shard.path)
                .with("tensor", name));
        }
        let mut block = vec![0; bytes as usize];
        shard.read_at(&mut block, begin)?;
        let mut values = vec![0.0; count];
        to_f32(info.dtype, &block, &mut values).map_err(|error| error.with("tensor", name))?;
        Ok(values)
    }

    /// A tensor that the network needs is not there.
    pub(crate) fn missing(&self, name: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, OPERATION, format!("the files lack the tensor `{name}`"))
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with("path", self.folder.display())
            .with_hint("complete the download; the screen `files` tells whether the model itself lacks it")
    }

    /// Reads everything once, in order, and hands it to `visitor` and, if
    /// `digest` is set, to the digest of the parameters as
    /// [`albedo_core::ModelInfo::parameters`] defines it. `progress` is told
    /// the bytes of each block.
    ///
    /// # Errors
    /// A read error; the visitor's; `cx`.
    pub(crate) fn pass(
        &self,
        visitor: &mut dyn Visitor,
        digest: bool,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<Option<Digest>> {
        let mut lines = Hasher::default();
        let (mut block, mut next) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let mut hasher = Hasher::default();
            let parts = shard.parts();
            if let Some(first) = parts.first() {
                shard.fill(&mut block, first)?;
            }
            for (index, part) in parts.iter().enumerate() {
                cx.check(OPERATION)?;
                let mut visit = || match &part.tensor {
                    Some((tensor, start)) => {
                        let (name, info) = &shard.tensors[*tensor];
                        visitor.visit(Segment { name, info, start: *start, bytes: &block })
                    }
                    None => Ok(()),
                };
                let mut hash = || {
                    if digest {
                        hasher.update(&block);
                    }
                };
                let mut read = || parts.get(index + 1).map_or(Ok(()), |part| shard.fill(&mut next, part));
                // Hashing takes longest and has one core for itself.
                let ((), (read, visited)) = rayon::join(&mut hash, || (read(), visit()));
                read?;
                visited?;
                progress(block.len() as u64);
                std::mem::swap(&mut block, &mut next);
            }
            lines.update(format!("{}  {}\n", hasher.finish(), shard.name));
        }
        Ok(digest.then(|| lines.finish()))
    }
}

/// A range of a file: a header, or rows of a tensor.
struct Part {
    offset: u64,
    bytes: u64,
    /// Index of the tensor and position of the first element.
    tensor: Option<(usize, u64)>,
}

impl Shard {
    fn open(name: String, path: PathBuf) -> Result<Self> {
        let io = |error| Error::io(OPERATION, &path, error);
        let file = File::open(&path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(invalid("a weight file is no regular file", &path));
        }
        let bytes = metadata.len();
        let header = read_header(&mut BufReader::new(&file), bytes).map_err(|error| {
            // What passed `files` was well formed: the copy is what is broken.
            error.with_fault(Fault::Infrastructure).with_retry(Retry::Backoff).with("path", path.display())
        })?;
        let mut tensors: Vec<_> = header.tensors.into_iter().collect();
        tensors.sort_by_key(|(_, info)| (info.range.start, info.range.end));
        Ok(Self { name, path, file, bytes, tensors })
    }

    /// The file from front to back.
    fn parts(&self) -> Vec<Part> {
        let data = self.tensors.first().map_or(self.bytes, |(_, info)| info.range.start);
        let mut parts = vec![Part { offset: 0, bytes: data, tensor: None }];
        for (index, (_, info)) in self.tensors.iter().enumerate() {
            let size = info.dtype.bytes();
            let row = info.shape.iter().skip(1).product::<u64>().saturating_mul(size).max(size);
            let step = if row > BLOCK_BYTES { BLOCK_BYTES } else { BLOCK_BYTES / row * row };
            let mut offset = info.range.start;
            loop {
                let bytes = step.min(info.range.end - offset);
                let start = (offset - info.range.start) / size;
                parts.push(Part { offset, bytes, tensor: Some((index, start)) });
                offset += bytes;
                if offset == info.range.end {
                    break;
                }
            }
        }
        parts
    }

    fn fill(&self, block: &mut Vec<u8>, part: &Part) -> Result<()> {
        // A header can be longer than a block: at most the format's 100 MB.
        block.resize(part.bytes as usize, 0);
        self.read_at(block, part.offset)
    }

    fn read_at(&self, block: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(block, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid("a weight file became shorter", &self.path)
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Backoff)
                .with_hint("fetch it again"),
            _ => Error::io(OPERATION, &self.path, error),
        })
    }
}

/// Elements as `f32`, as many as `values` has room for.
///
/// # Errors
/// A type that is no float of 2, 4 or 8 bytes.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    match dtype {
        Dtype::Bf16 => {
            for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                // The upper half of an `f32`; `half` would look for NaN.
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
            }
        }
        Dtype::F16 => {
            for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*pair).to_f32();
            }
        }
        Dtype::F32 => {
            for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*four);
            }
        }
        Dtype::F64 => {
            for (value, eight) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = f64::from_le_bytes(*eight) as f32;
            }
        }
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                format!("weights of type {other:?} are not compared"),
            ));
        }
    }
    Ok(())
}

fn invalid(message: &str, path: &Path) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message).with("path", path.display())
}

#[cfg(test)]
mod tests;
