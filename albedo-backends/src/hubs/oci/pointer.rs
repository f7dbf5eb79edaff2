//! Pointers of the layout chunked-v2: which ranges of packs a file is made of. The
//! same range may be used many times, so sizes are bounded by what is declared, never
//! by what the packs hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use albedo_core::{Digest, Error, FileEntry, Result};
use serde::{Deserialize, Serialize};

use super::manifest::{Declared, File, check_empty, malformed, sha256};
use crate::hubs::files::{Chunk, Source};

/// Largest pointer. Source: chosen by albedo; 100,000 chunks, which is a file of 400 GB.
pub(super) const MOST_BYTES: u64 = 32 << 20;

/// Most bytes of all pointers of a model together. Source: chosen by albedo; 300,000 chunks,
/// which is a model of more than 1 TB.
pub(super) const MOST_TOGETHER: u64 = 64 << 20;

/// Largest chunk. hippius-hub 0.7.2 cuts at 16 MiB; twice that is what a download
/// has room for.
const LARGEST_CHUNK: u64 = 32 << 20;

const VERSION: &str = "chunked-v2";

/// A pointer. Its fields are in the order of hippius-hub's canonical JSON, so that
/// equal files have equal pointers.
#[derive(Serialize, Deserialize)]
struct Pointer {
    chunks: Vec<PointerChunk>,
    file: PointerFile,
    version: String,
}

#[derive(Serialize, Deserialize)]
struct PointerFile {
    digest: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct PointerChunk {
    digest: String,
    offset: u64,
    pack: String,
    size: u64,
}

/// The bytes of a file's pointer; `chunks` are in the file's order.
pub(super) fn write(file: Digest, chunks: &[Chunk]) -> Result<Vec<u8>> {
    let prefixed = |digest: &dyn std::fmt::Display| format!("sha256:{digest}");
    let pointer = Pointer {
        chunks: chunks
            .iter()
            .map(|chunk| PointerChunk {
                digest: prefixed(&chunk.sha256),
                offset: chunk.offset,
                pack: prefixed(&chunk.key),
                size: chunk.size,
            })
            .collect(),
        file: PointerFile { digest: prefixed(&file), size: chunks.iter().map(|chunk| chunk.size).sum() },
        version: VERSION.into(),
    };
    serde_json::to_vec(&pointer).map_err(|error| Error::bug("write a pointer", error.to_string()))
}

/// Reads the pointer of `file`, whose bytes have the digest that the manifest gives.
///
/// # Errors
/// [`malformed`].
pub(super) fn parse(
    bytes: &[u8],
    file: &File,
    declared: &Declared,
    packs: &BTreeMap<Digest, u64>,
) -> Result<(FileEntry, Source)> {
    let pointer: Pointer =
        serde_json::from_slice(bytes).map_err(|error| malformed(format!("the pointer is none: {error}")))?;
    if pointer.version != VERSION {
        return Err(malformed("the pointer is of an unknown version")
            .with("version", pointer.version.escape_default()));
    }
    let (size, digest) = (pointer.file.size, sha256(&pointer.file.digest)?);
    check_empty(size, digest)?;
    let count = pointer.chunks.len() as u64;
    let contradicts = declared.size.is_some_and(|stated| stated != size)
        || declared.digest.is_some_and(|stated| stated != digest)
        || declared.chunks.is_some_and(|stated| stated != count);
    if contradicts {
        return Err(malformed("the pointer contradicts its layer's annotations"));
    }
    let (mut chunks, mut start) = (Vec::with_capacity(pointer.chunks.len()), 0_u64);
    for (index, chunk) in pointer.chunks.into_iter().enumerate() {
        let wrong = |message: &str| malformed(message).with("chunk", index);
        let (sha256, pack) = (sha256(&chunk.digest)?, sha256(&chunk.pack)?);
        if chunk.size == 0 || chunk.size > LARGEST_CHUNK {
            return Err(wrong("a chunk's size is not in its bounds")
                .with("bytes", chunk.size)
                .with("most", LARGEST_CHUNK));
        }
        let Some(&object) = packs.get(&pack) else {
            return Err(wrong("a chunk lies in a pack that the manifest does not list"));
        };
        if chunk.offset.checked_add(chunk.size).is_none_or(|end| end > object) {
            return Err(wrong("a chunk reaches past the end of its pack"));
        }
        chunks.push(Chunk {
            sha256,
            start,
            size: chunk.size,
            key: pack.to_string(),
            offset: chunk.offset,
            object,
        });
        start = start.saturating_add(chunk.size);
    }
    if start != size {
        return Err(malformed("the sizes of the chunks do not add up to the file's")
            .with("sum", start)
            .with("declared", size));
    }
    let entry = FileEntry::new(&file.name, size).with_sha256(digest);
    Ok((entry, Source::Chunked(Arc::from(chunks))))
}
