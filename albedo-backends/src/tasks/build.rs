//! Making a manifest of shards that are there, in a folder or at a hub.

use albedo_core::digest::Hasher;
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, FileEntry, ModelFiles, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::file::metadata::ParquetMetaDataReader;
use serde::Serialize;

use super::{Manifest, blocking};

const MAKE: &str = "make a manifest of tasks";

/// The end of a shard is read in one piece, which mostly holds its whole footer.
const TAIL: u64 = 256 << 10;

/// Largest footer that is read. Source: chosen by albedo.
const LARGEST_FOOTER: u64 = 64 << 20;

/// Bytes that are hashed at once.
const PIECE: u64 = 8 << 20;

/// Shards that are looked at at once.
const AT_ONCE: usize = 6;

// Keys in byte order: equal shards have equal manifests.
#[derive(Serialize)]
struct ManifestFile {
    shards: Vec<ShardFile>,
    total_rows: u64,
}

#[derive(Serialize)]
struct ShardFile {
    bytes: u64,
    name: String,
    rows: u64,
    sha256: Digest,
}

/// The bytes of the manifest of all files that end in `.parquet` and begin with
/// `prefix`, in byte order of their names: rows, bytes and SHA-256 of each. Reads the
/// footer of each shard; a whole shard only where the listing has no digest of it.
///
/// # Errors
/// The operator's: no shards, a file that is no parquet file; what `files` meets.
pub async fn build_manifest(files: &dyn ModelFiles, prefix: &str, cx: &CallContext) -> Result<Vec<u8>> {
    let mut listed = files.list(cx).await?;
    listed.retain(|file| file.name.ends_with(".parquet") && file.name.starts_with(prefix));
    let shards: Vec<ShardFile> =
        stream::iter(&listed).map(|file| shard(files, file, cx)).buffered(AT_ONCE).try_collect().await?;
    let total_rows = shards.iter().fold(0_u64, |sum, shard| sum.saturating_add(shard.rows));
    let bytes = serde_json::to_vec(&ManifestFile { shards, total_rows })
        .map_err(|error| Error::bug(MAKE, error.to_string()))?;
    Manifest::parse(&bytes).map_err(|error| {
        let hint = "name a folder or data set with parquet files that have rows";
        error.with_fault(Fault::Operator).with("prefix", prefix).with_hint(hint)
    })?;
    Ok(bytes)
}

async fn shard(files: &dyn ModelFiles, file: &FileEntry, cx: &CallContext) -> Result<ShardFile> {
    let named = |error: Error| error.with("shard", &file.name);
    let sha256 = match file.sha256 {
        Some(sha256) => sha256,
        None => digest(files, file, cx).await.map_err(named)?,
    };
    let rows = rows(files, file, cx).await.map_err(named)?;
    Ok(ShardFile { bytes: file.size, name: file.name.clone(), rows, sha256 })
}

async fn digest(files: &dyn ModelFiles, file: &FileEntry, cx: &CallContext) -> Result<Digest> {
    let (mut hasher, mut at) = (Hasher::default(), 0);
    while at < file.size {
        let end = (at + PIECE).min(file.size);
        let bytes = files.read(&file.name, at..end, cx).await?;
        hasher = blocking(MAKE, cx, move || {
            hasher.update(bytes);
            Ok(hasher)
        })
        .await?;
        at = end;
    }
    Ok(hasher.finish())
}

/// Rows by the shard's footer.
async fn rows(files: &dyn ModelFiles, file: &FileEntry, cx: &CallContext) -> Result<u64> {
    /// Length of the footer and the magic bytes.
    // Source: the Parquet format, "File format".
    const END: u64 = 8;
    let invalid =
        |message: String| Error::new(ErrorKind::DataInvalid, MAKE, message).with_fault(Fault::Operator);
    let size = file.size;
    let mut tail = files.read(&file.name, size.saturating_sub(TAIL)..size, cx).await?;
    let end = tail.last_chunk::<8>().filter(|end| end.ends_with(b"PAR1"));
    let length = end.map(|[a, b, c, d, ..]| u64::from(u32::from_le_bytes([*a, *b, *c, *d])));
    let length = length.filter(|length| *length <= LARGEST_FOOTER && length + END <= size);
    let Some(length) = length else { return Err(invalid("it is no parquet file".into())) };
    if length + END > tail.len() as u64 {
        tail = files.read(&file.name, size - END - length..size, cx).await?;
    }
    let end = tail.len() - END as usize;
    let footer = Bytes::from(tail).slice(end - length as usize..end);
    blocking(MAKE, cx, move || {
        let footer = ParquetMetaDataReader::decode_metadata(&footer)
            .map_err(|error| invalid(format!("it is no parquet file: {error}")))?;
        u64::try_from(footer.file_metadata().num_rows()).map_err(|error| invalid(error.to_string()))
    })
    .await
}
