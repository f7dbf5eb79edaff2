//! What a folder is as a model in a registry. Its manifest has no time in it, so that
//! its digest is known before any byte leaves, and equal folders have equal references.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use albedo_core::digest::Hasher;
use albedo_core::{
    CallContext, Digest, Error, ErrorKind, Fault, FileEntry, HubRef, ModelFiles, Plugin, Result, Revision,
};

use super::chunks::{Chunked, FilePacker, PackId, Packer, Place, Placed, Sizes};
use super::manifest::{Descriptor, MOST_BYTES, Manifest};
use super::{Blobs, OciHub, Pointers, pointer};
use crate::cache::file_name;
use crate::hubs::files::{Chunk, Source};

mod upload;

const PREPARE: &str = "prepare a model for the registry";

/// Bytes that are read of a file at once, and of one request of an upload.
const PIECE: u64 = 16 << 20;

/// The empty configuration. Source: the OCI image specification 1.1, "empty descriptor".
const EMPTY: &[u8] = b"{}";
const EMPTY_KIND: &str = "application/vnd.oci.empty.v1+json";

/// How the files of a model are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Each as it is.
    #[default]
    Plain,
    /// Large ones in chunks that are cut where their content says, in packs of about
    /// 64 MiB. After an edit only the packs that it lies in are uploaded.
    Chunked {
        /// Bytes that a large file has at least.
        from: u64,
        /// A model of the same repository whose chunks are used again where they are.
        /// It makes an upload smaller, and the reference another one.
        base: Option<HubRef>,
    },
}

impl Layout {
    /// From how many bytes on hippius-hub 0.7.2 stores files in chunks: 256 MiB.
    pub const CHUNKED_FROM: u64 = 256 << 20;
}

/// A model and the reference that it has, or will have, in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The pinned reference.
    pub reference: HubRef,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were uploaded: what the registry had already was not.
    pub uploaded: u64,
    /// What the manifest names.
    blobs: Vec<Blob>,
}

/// Something to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    digest: Digest,
    size: u64,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    /// Ranges of a file, one after the other.
    File {
        name: String,
        ranges: Vec<Range<u64>>,
    },
    /// It has to be there.
    Earlier,
}

impl OciHub {
    /// The reference that the files will have in the registry, before anything is
    /// uploaded. Reads every byte.
    ///
    /// # Errors
    /// The operator's: no files, a name that a registry cannot keep, a base that cannot
    /// be read or is of another repository; what `files` meets.
    pub async fn prepare(
        &self,
        repository: &str,
        files: &dyn ModelFiles,
        layout: &Layout,
        cx: &CallContext,
    ) -> Result<Pushed> {
        let (from, earlier) = match layout {
            Layout::Plain => (u64::MAX, BTreeMap::new()),
            Layout::Chunked { from, base: None } => (*from, BTreeMap::new()),
            Layout::Chunked { from, base: Some(base) } => {
                (*from, self.chunks_of(base, repository, cx).await?)
            }
        };
        let mut packer = Packer::new(Sizes::default(), earlier);
        let mut cut: Vec<(String, Chunked)> = Vec::new();
        let (mut layers, mut blobs, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
        for entry in files.list(cx).await? {
            file_name(&entry.name).map_err(|why| invalid(why).with("file", entry.name.escape_default()))?;
            bytes = bytes.saturating_add(entry.size);
            if entry.size > 0 && entry.size >= from {
                let one;
                (packer, one) = chunked(files, &entry, packer, cx).await?;
                cut.push((entry.name, one));
            } else {
                let digest = digest(files, &entry, cx).await?;
                layers.push(Descriptor::file(&entry.name, digest, entry.size));
                let ranges = std::iter::once(0..entry.size).collect();
                let content = Content::File { name: entry.name, ranges };
                blobs.push(Blob { digest, size: entry.size, content });
            }
        }
        if bytes == 0 && layers.is_empty() {
            return Err(invalid("the folder has no files"));
        }
        add_chunked(&cut, &packer, &mut layers, &mut blobs)?;
        blobs.push(Blob {
            digest: Digest::of(EMPTY),
            size: EMPTY.len() as u64,
            content: Content::Bytes(EMPTY.to_vec()),
        });
        let mut seen = BTreeSet::new();
        blobs.retain(|blob| seen.insert(blob.digest));
        let config = Descriptor::new(EMPTY_KIND, Digest::of(EMPTY), EMPTY.len() as u64);
        let manifest = serde_json::to_vec(&Manifest::new(config, layers))
            .map_err(|error| Error::bug(PREPARE, error.to_string()))?;
        if manifest.len() > MOST_BYTES {
            return Err(invalid("the folder has more files than a manifest can list"));
        }
        super::manifest::parse(&manifest).map_err(|error| error.with_fault(Fault::Operator))?;
        let reference = HubRef::new(HubRef::OCI, repository, Revision::Sha256(Digest::of(&manifest)))?;
        Ok(Pushed { reference, manifest, bytes, uploaded: 0, blobs })
    }

    /// Where the chunks of the model `base` are.
    async fn chunks_of(
        &self,
        base: &HubRef,
        repository: &str,
        cx: &CallContext,
    ) -> Result<BTreeMap<Digest, Place>> {
        base.require_hub(Self::NAME, PREPARE)?;
        let (home, Revision::Sha256(pinned)) =
            (self.registry.repository(base.repository())?, base.revision())
        else {
            return Err(Error::bug(PREPARE, "a registry's revision is no digest"));
        };
        if home != self.registry.repository(repository)? {
            return Err(invalid("the base is in another repository").with("base", base));
        }
        let read = async {
            let objects = Blobs::new(self, home);
            let layers = super::manifest::parse(&self.registry.manifest(home, pinned, cx).await?)?;
            let (mut chunks, mut pointers) = (BTreeMap::new(), Pointers::new());
            for file in &layers.files {
                let Some(declared) = &file.pointer else { continue };
                let bytes = objects.pointer(file, &mut pointers, cx).await?;
                if let (_, Source::Chunked(found)) = pointer::parse(&bytes, file, declared, &layers.packs)? {
                    for chunk in found.iter() {
                        let pack = PackId::Earlier { digest: chunk.key.parse()?, size: chunk.object };
                        chunks.entry(chunk.sha256).or_insert(Place { pack, offset: chunk.offset });
                    }
                }
            }
            Ok(chunks)
        };
        // The user who pushes has chosen it.
        read.await.map_err(|error: Error| match error.artefact() {
            Some(_) => error.with_fault(Fault::Operator).with("base", base),
            None => error.with("base", base),
        })
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::ConfigInvalid, PREPARE, message).with_fault(Fault::Operator)
}

/// Adds what files that were cut are stored as: the layer of each pointer, then the packs
/// that it is the first to name.
fn add_chunked(
    cut: &[(String, Chunked)],
    packer: &Packer,
    layers: &mut Vec<Descriptor>,
    blobs: &mut Vec<Blob>,
) -> Result<()> {
    for pack in packer.packs() {
        let content = Content::File { name: pack.file.clone(), ranges: pack.ranges.clone() };
        blobs.push(Blob { digest: pack.digest, size: pack.size, content });
    }
    let mut listed = BTreeSet::new();
    for (name, file) in cut {
        let mut start = 0;
        let chunks: Vec<_> = file.chunks.iter().map(|chunk| located(chunk, packer, &mut start)).collect();
        let bytes = pointer::write(file.sha256, &chunks)?;
        if bytes.len() as u64 > pointer::MOST_BYTES {
            return Err(invalid("a file has more chunks than a pointer can list").with("file", name));
        }
        layers.push(Descriptor::pointer(name, &bytes, file.sha256, file.size, chunks.len()));
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        blobs.push(Blob { digest, size, content: Content::Bytes(bytes) });
        for chunk in &file.chunks {
            let (digest, size) = pack_of(chunk, packer);
            if listed.insert(digest) {
                layers.push(Descriptor::pack(digest, size));
                if matches!(chunk.place.pack, PackId::Earlier { .. }) {
                    blobs.push(Blob { digest, size, content: Content::Earlier });
                }
            }
        }
    }
    Ok(())
}

/// Digest and size of the pack that a chunk is in.
fn pack_of(chunk: &Placed, packer: &Packer) -> (Digest, u64) {
    match chunk.place.pack {
        PackId::Earlier { digest, size } => (digest, size),
        PackId::New(index) => (packer.packs()[index].digest, packer.packs()[index].size),
    }
}

/// The chunk as a pointer names it; `start` moves to its end.
fn located(chunk: &Placed, packer: &Packer, start: &mut u64) -> Chunk {
    let (digest, object) = pack_of(chunk, packer);
    let Placed { sha256, size, place } = *chunk;
    let chunk = Chunk { sha256, start: *start, size, key: digest.to_string(), offset: place.offset, object };
    *start += size;
    chunk
}

async fn digest(files: &dyn ModelFiles, entry: &FileEntry, cx: &CallContext) -> Result<Digest> {
    let hasher = fold(files, entry, Hasher::default(), |hasher, bytes| hasher.update(bytes), cx).await?;
    Ok(hasher.finish())
}

async fn chunked(
    files: &dyn ModelFiles,
    entry: &FileEntry,
    packer: Packer,
    cx: &CallContext,
) -> Result<(Packer, Chunked)> {
    let packer = fold(files, entry, packer.file(&entry.name), FilePacker::update, cx).await?;
    blocking(move || packer.finish()).await
}

/// Hands a file to `step`, a piece at a time; the next piece is read meanwhile.
async fn fold<T: Send + 'static>(
    files: &dyn ModelFiles,
    entry: &FileEntry,
    mut state: T,
    step: fn(&mut T, &[u8]),
    cx: &CallContext,
) -> Result<T> {
    let read = async |at: u64| {
        if at == entry.size {
            return Ok(None);
        }
        files.read(&entry.name, at..(at + PIECE).min(entry.size), cx).await.map(Some)
    };
    let (mut at, mut next) = (0, read(0).await?);
    while let Some(bytes) = next {
        at += bytes.len() as u64;
        let work = blocking(move || {
            step(&mut state, &bytes);
            state
        });
        (state, next) = futures::try_join!(work, read(at))?;
    }
    Ok(state)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::bug(PREPARE, error.to_string()))
}
