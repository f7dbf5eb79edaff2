//! A model's weight files, read once from front to back, with any number of
//! visitors looking on.
//!
//! The reading is asynchronous; visitors work on threads that may block, all of
//! them at the same time on the same block of bytes, while the next block is
//! being read. Two blocks of [`BLOCK_BYTES`] are in memory, or of one row of a
//! tensor if that is longer, and what the visitors asked for beforehand
//! ([`TensorSlice`], at most [`MAX_EARLY_BYTES`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::context::CallContext;
use crate::digest::{Digest, Hasher};
use crate::error::{Artefact, Error, ErrorKind, Fault, Result, Retry};
use crate::files::{FileEntry, ModelFiles, Provenance, leftover};
use crate::safetensors::{TensorInfo, read_header};

mod blocks;
mod reader;
mod seats;

use blocks::{Block, Piece};
use reader::ShardReader;
pub use seats::Seat;
use seats::each;

/// Bytes that are read at once.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// Bytes of a model that its visitors may ask for before the pass, together.
pub const MAX_EARLY_BYTES: u64 = 64 << 20;

/// The largest `config.json` that visitors are shown, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

const OPERATION: &str = "read the checkpoint";

/// Which of the models whose weights are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightsOf {
    /// The model that all others are aligned to.
    Anchor,
    /// The king.
    King,
    /// The submission.
    Submission,
}

/// Looks at weights as they pass by. All methods are called on threads that may
/// block, one at a time for each visitor.
pub trait WeightVisitor: Send + 'static {
    /// The weights of a model come next. Gives the parts of its tensors that the
    /// visitor has to see before the pass, or `None` if it does not look at this
    /// model.
    ///
    /// # Errors
    /// A model that this visitor cannot look at. It sees nothing more; the
    /// others go on.
    fn begin(&mut self, of: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>>;

    /// Takes what [`WeightVisitor::begin`] asked for, in its order: the
    /// little-endian elements of each slice.
    ///
    /// # Errors
    /// As [`WeightVisitor::begin`].
    fn prepare(&mut self, _early: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    /// Takes the next segment. The segments of a tensor come in order; a tensor
    /// without elements comes once, with no bytes.
    ///
    /// # Errors
    /// As [`WeightVisitor::begin`].
    fn visit(&mut self, segment: &Segment<'_>) -> Result<()>;

    /// The model was seen whole. `parameters` is its digest, as
    /// [`crate::ModelInfo::parameters`].
    ///
    /// # Errors
    /// As [`WeightVisitor::begin`].
    fn end(&mut self, parameters: Digest) -> Result<()>;
}

/// Whole rows of a tensor, or a part of one row that is longer than a block.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Its type, shape and place.
    pub info: &'a TensorInfo,
    /// Position of the first element in the flattened tensor.
    pub start: u64,
    /// Little-endian elements.
    pub bytes: &'a [u8],
}

/// Consecutive elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSlice {
    /// The tensor's name.
    pub tensor: String,
    /// Position of the first element in the flattened tensor.
    pub start: u64,
    /// Number of elements.
    pub elements: u64,
}

/// What a checkpoint says about itself before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    config: Option<Vec<u8>>,
    shards: Vec<Shard>,
}

/// One weight file.
#[derive(Debug, Clone, PartialEq)]
struct Shard {
    name: String,
    bytes: u64,
    /// In the order of the file.
    tensors: Vec<(String, TensorInfo)>,
}

/// The weight files of a model, their headers read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    outline: Arc<Outline>,
    readers: Vec<ShardReader>,
}

impl Outline {
    /// The bytes of `config.json`; `None` if there is none, or if it has more
    /// than [`MAX_CONFIG_BYTES`].
    pub fn config(&self) -> Option<&[u8]> {
        self.config.as_deref()
    }

    /// Bytes of all weight files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Every tensor, in the order in which it passes by.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.shards.iter().flat_map(|shard| shard.tensors.iter().map(|(name, info)| (name.as_str(), info)))
    }

    /// Elements `start..start + elements` of `tensor`.
    ///
    /// # Errors
    /// Our copy of the model lacks the tensor; the tensor is shorter.
    pub fn slice(&self, tensor: &str, start: u64, elements: u64) -> Result<TensorSlice> {
        let slice = TensorSlice { tensor: tensor.to_owned(), start, elements };
        self.place(&slice).map(|_| slice)
    }

    /// The tensor that a visitor needs is not there. Nobody is charged: the visitor may ask for
    /// what no model has.
    pub fn missing(&self, tensor: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, OPERATION, format!("the files lack the tensor `{tensor}`"))
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with_hint("complete the download; the screen `files` tells whether the model itself lacks it")
    }

    /// The shard and the bytes of `slice`.
    fn place(&self, slice: &TensorSlice) -> Result<(usize, Range<u64>)> {
        let found = self.shards.iter().enumerate().find_map(|(index, shard)| {
            shard.tensors.iter().find(|(name, _)| *name == slice.tensor).map(|(_, info)| (index, info))
        });
        let Some((shard, info)) = found else { return Err(self.missing(&slice.tensor)) };
        let size = info.dtype.bytes();
        let range = (|| {
            let start = info.range.start.checked_add(slice.start.checked_mul(size)?)?;
            let end = start.checked_add(slice.elements.checked_mul(size)?)?;
            (end <= info.range.end).then_some(start..end)
        })();
        range.map(|range| (shard, range)).ok_or_else(|| {
            let message = "the tensor is shorter than its place in the network";
            Error::new(ErrorKind::DataInvalid, OPERATION, message)
                .with_fault(Fault::Infrastructure)
                .with("file", &self.shards[shard].name)
                .with("tensor", &slice.tensor)
        })
    }
}

impl Checkpoint {
    /// Reads the listing, the headers of the weight files (`*.safetensors`, in
    /// byte order of their names) and `config.json`.
    ///
    /// # Errors
    /// Files that cannot be read; no weight file; a malformed header; a tensor
    /// in two files. The last three are about the model where the files are what was
    /// handed in ([`Provenance::Published`]), and infrastructure's in a copy of ours.
    pub async fn open(files: Arc<dyn ModelFiles>, cx: &CallContext) -> Result<Self> {
        let provenance = files.provenance();
        let mut listed = files.list(cx).await?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let config = match listed.iter().find(|file| file.name == "config.json") {
            Some(file) if file.size <= MAX_CONFIG_BYTES => {
                Some(files.read(&file.name, 0..file.size, cx).await?)
            }
            _ => None,
        };
        let (mut shards, mut readers) = (Vec::new(), Vec::new());
        for FileEntry { name, size, .. } in listed.into_iter().filter(|file| is_weight_file(&file.name)) {
            let mut reader = ShardReader::new(Arc::clone(&files), name.clone(), size);
            let head = reader.header(cx).await?;
            let header = read_header(&mut &*head, size);
            let header = header.map_err(|error| wrong(error, provenance).with("file", &name))?;
            let mut tensors: Vec<_> = header.tensors.into_iter().collect();
            tensors.sort_by_key(|(_, info)| (info.range.start, info.range.end));
            shards.push(Shard { name, bytes: size, tensors });
            readers.push(reader);
        }
        if shards.is_empty() {
            let error = Error::new(ErrorKind::NotFound, OPERATION, "there is no *.safetensors file");
            return Err(wrong(error, provenance)
                .with_hint("check that it is a model's folder and that its download is complete"));
        }
        check_unique(&shards).map_err(|error| wrong(error, provenance))?;
        Ok(Self { outline: Arc::new(Outline { config, shards }), readers })
    }

    /// What is known before the pass.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Reads everything once, in order, and shows it to the visitors. Gives the
    /// digest of the parameters, as [`crate::ModelInfo::parameters`], and the
    /// visitors; `None` and no bytes read if none of them looks at this model.
    /// `progress` gets the bytes of each block when the visitors are done
    /// with it.
    ///
    /// # Errors
    /// A read error; `cx`. A visitor's error ends that visitor only.
    pub async fn pass<V: WeightVisitor + ?Sized>(
        mut self,
        of: WeightsOf,
        visitors: Vec<Seat<V>>,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<(Option<Digest>, Vec<Seat<V>>)> {
        let outline = Arc::clone(&self.outline);
        let asked = each(visitors, cx, move |visitor| visitor.begin(of, &outline)).await?;
        let mut looking: Vec<usize> = Vec::new();
        let mut early = Vec::new();
        let mut seats: Vec<Seat<V>> = Vec::with_capacity(asked.len());
        for (index, asked) in asked.into_iter().enumerate() {
            seats.push(asked.map(|(visitor, slices)| {
                if let Some(slices) = slices {
                    looking.push(index);
                    early.push(slices);
                }
                visitor
            }));
        }
        if looking.is_empty() {
            return Ok((None, seats));
        }
        let (mut resting, mut watching) = (Vec::new(), Vec::new());
        for (index, seat) in seats.into_iter().enumerate() {
            if looking.contains(&index) { watching.push(seat) } else { resting.push((index, seat)) }
        }

        let mut watching = self.prepare(watching, early, cx).await?;
        let mut lines = Hasher::default();
        for shard in 0..self.readers.len() {
            let digest;
            (digest, watching) = self.shard(shard, watching, progress, cx).await?;
            lines.update(format!("{digest}  {}\n", self.outline.shards[shard].name));
        }
        let parameters = lines.finish();
        let ended = each(watching, cx, move |visitor| visitor.end(parameters)).await?;
        let ended = ended.into_iter().map(|seat| seat.map(|(visitor, ())| visitor));

        let mut all: Vec<_> = looking.into_iter().zip(ended).chain(resting).collect();
        all.sort_by_key(|(index, _)| *index);
        Ok((Some(parameters), all.into_iter().map(|(_, seat)| seat).collect()))
    }

    /// Gives each visitor what it asked for; it is not read again in the pass.
    async fn prepare<V: WeightVisitor + ?Sized>(
        &mut self,
        watching: Vec<Seat<V>>,
        early: Vec<Vec<TensorSlice>>,
        cx: &CallContext,
    ) -> Result<Vec<Seat<V>>> {
        let mut left = MAX_EARLY_BYTES;
        let mut prepared = Vec::with_capacity(watching.len());
        for (seat, slices) in watching.into_iter().zip(early) {
            let places: Result<Vec<_>> = slices.iter().map(|slice| self.outline.place(slice)).collect();
            let within = places.and_then(|places| {
                let bytes: u64 = places.iter().map(|(_, range)| range.end - range.start).sum();
                match left.checked_sub(bytes) {
                    Some(rest) => left = rest,
                    None => {
                        return Err(Error::new(
                            ErrorKind::Unsupported,
                            OPERATION,
                            format!("visitors ask for more than {MAX_EARLY_BYTES} bytes before the pass"),
                        ));
                    }
                }
                Ok(places)
            });
            let (visitor, places) = match (seat, within) {
                (Ok(visitor), Ok(places)) => (visitor, places),
                (Err(error), _) | (Ok(_), Err(error)) => {
                    prepared.push(Err(error));
                    continue;
                }
            };
            let mut bytes = Vec::with_capacity(places.len());
            for (shard, range) in places {
                bytes.push(self.readers[shard].keep(range, cx).await?);
            }
            let bytes = Arc::new(bytes);
            let told = each(vec![Ok(visitor)], cx, move |visitor| visitor.prepare(&bytes)).await?;
            prepared.extend(told.into_iter().map(|seat| seat.map(|(visitor, ())| visitor)));
        }
        Ok(prepared)
    }

    /// Shows shard `index`; gives the digest of its file.
    async fn shard<V: WeightVisitor + ?Sized>(
        &self,
        index: usize,
        mut watching: Vec<Seat<V>>,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<(Digest, Vec<Seat<V>>)> {
        let reader = &self.readers[index];
        let mut hasher = Hasher::default();
        let mut blocks = blocks::of(&self.outline.shards[index]).into_iter();
        let mut next = match blocks.next() {
            Some(block) => Some(reader.fill(block, cx).await?),
            None => None,
        };
        while let Some(block) = next {
            let block = Arc::new(block);
            let work = self.show(index, &block, hasher, watching, cx);
            let ahead = async {
                match blocks.next() {
                    Some(block) => reader.fill(block, cx).await.map(Some),
                    None => Ok(None),
                }
            };
            let (shown, ahead) = tokio::join!(work, ahead);
            (hasher, watching) = shown?;
            progress(block.bytes.len() as u64);
            next = ahead?;
        }
        Ok((hasher.finish(), watching))
    }

    /// Hashes a block and shows it to every visitor, all at the same time.
    async fn show<V: WeightVisitor + ?Sized>(
        &self,
        shard: usize,
        block: &Arc<Block>,
        mut hasher: Hasher,
        watching: Vec<Seat<V>>,
        cx: &CallContext,
    ) -> Result<(Hasher, Vec<Seat<V>>)> {
        let hashed = Arc::clone(block);
        let hash = seats::blocking(cx, move || {
            hasher.update(&hashed.bytes);
            hasher
        });
        let (block, outline) = (Arc::clone(block), Arc::clone(&self.outline));
        let visit = each(watching, cx, move |visitor| {
            for Piece { tensor, start, bytes } in &block.pieces {
                let (name, info) = &outline.shards[shard].tensors[*tensor];
                visitor.visit(&Segment { name, info, start: *start, bytes: &block.bytes[bytes.clone()] })?;
            }
            Ok(())
        });
        let (hasher, visited) = tokio::join!(hash, visit);
        let visited = visited?.into_iter().map(|seat| seat.map(|(visitor, ())| visitor));
        Ok((hasher?, visited.collect()))
    }
}

/// Whether a file of that name holds a model's weights.
pub fn is_weight_file(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/') && leftover(name).is_none()
}

fn check_unique(shards: &[Shard]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for shard in shards {
        for (name, _) in &shard.tensors {
            if let Some(earlier) = seen.insert(name.as_str(), shard.name.as_str()) {
                let message = "two files hold the same tensor";
                return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
                    .with("file", &shard.name)
                    .with("tensor", name)
                    .with("first", earlier));
            }
        }
    }
    Ok(())
}

/// `error`, which says what is wrong in the files: about the model that was handed in, or
/// infrastructure's, in a copy of ours that may be incomplete.
fn wrong(error: Error, provenance: Provenance) -> Error {
    match provenance {
        Provenance::Published => error.about(Artefact::Model),
        Provenance::Copy => error
            .with_fault(Fault::Infrastructure)
            .with_retry(Retry::Backoff)
            .with_hint("complete the download; the screen `files` tells whether the model itself is so"),
    }
}

#[cfg(test)]
mod tests;
