//! One file by parallel ranges, written and hashed in order: the length of the
//! partial file is how far the download is.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use albedo_core::digest::Hasher;
use albedo_core::files::read_exact_at;
use albedo_core::{
    Artefact, CallContext, Digest, Error, ErrorKind, Fault, FileEntry, FilePart, ModelFiles, Result, Retry,
};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{HOLD, Progress, blocking};

/// Bytes of one ranged read of a file whose parts have no digests. With
/// [`RANGES_AT_ONCE`] of two files in memory this is also what a kill costs.
const RANGE: u64 = 4 << 20;

/// Ranges of one file that are on their way at once.
const RANGES_AT_ONCE: usize = 4;

/// How often a whole file is read that does not have its digest.
const TRIES: u32 = 3;

/// Completes the locked `partial` file with what is missing of `entry`, and compares
/// its digest. `progress` gets the number of bytes received, negative if some were discarded.
pub(super) async fn complete(
    files: &dyn ModelFiles,
    entry: &FileEntry,
    mut partial: File,
    progress: &Progress<'_>,
    cx: &CallContext,
) -> Result<File> {
    let stated = entry.sha256.ok_or_else(|| Error::bug(HOLD, "a file has no digest"))?;
    let parts = files.parts(&entry.name, cx).await?;
    let plan = plan(entry.size, &parts)?;
    let mut tries = 0;
    loop {
        let (resumable, resumed, hasher) = resume(partial, plan.clone(), cx).await?;
        let done: u64 = plan[..resumed].iter().map(|(range, _)| range.end - range.start).sum();
        progress.add(done as i64);
        let rest = plan[resumed..].iter().map(|(range, _)| range.clone()).collect();
        let (complete, found) = append(files, entry, resumable, hasher, rest, progress, cx).await?;
        if found == stated {
            return Ok(complete);
        }
        progress.add(-(entry.size as i64));
        partial = blocking(cx, move || {
            complete.set_len(0).map_err(io)?;
            Ok(complete)
        })
        .await?;
        // What lay on the disk proves nothing.
        if !parts.is_empty() && resumed == 0 {
            let message = "the parts have their digests, but together they are not the file that is declared";
            return Err(Error::new(ErrorKind::DataInvalid, HOLD, message)
                .about(Artefact::Model)
                .with_retry(Retry::Never)
                .with("declared", stated)
                .with("found", found));
        }
        tries += 1;
        if tries == TRIES {
            let message = "the bytes are not those that the listing vouches for";
            return Err(Error::new(ErrorKind::DigestMismatch, HOLD, message)
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Backoff)
                .with("listed", stated)
                .with("found", found)
                .with("times read", tries)
                .with_hint("try again; if it happens again, the hub or the way to it is broken"));
        }
    }
}

type Plan = Vec<(Range<u64>, Option<Digest>)>;

/// The ranges that the file is read by.
fn plan(size: u64, parts: &[FilePart]) -> Result<Plan> {
    if parts.is_empty() {
        let range = |part: u64| (part * RANGE..((part + 1) * RANGE).min(size), None);
        return Ok((0..size.div_ceil(RANGE)).map(range).collect());
    }
    let (mut plan, mut at) = (Vec::with_capacity(parts.len()), 0_u64);
    for part in parts {
        let end = at.saturating_add(part.size);
        plan.push((at..end, Some(part.sha256)));
        at = end;
    }
    if at == size { Ok(plan) } else { Err(Error::bug(HOLD, "a file's parts are not as long as the file")) }
}

/// Hashes what an earlier download left, up to the last whole range that is sound,
/// and cuts off the rest. Gives how many ranges are there.
async fn resume(partial: File, plan: Plan, cx: &CallContext) -> Result<(File, usize, Hasher)> {
    let inner = cx.clone();
    blocking(cx, move || {
        let length = partial.metadata().map_err(io)?.len();
        let (mut hasher, mut ranges, mut end) = (Hasher::default(), 0, 0);
        for (range, digest) in plan.into_iter().take_while(|(range, _)| range.end <= length) {
            inner.check(HOLD)?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read_exact_at(&partial, &mut bytes, range.start).map_err(io)?;
            if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
                break;
            }
            hasher.update(&bytes);
            (ranges, end) = (ranges + 1, range.end);
        }
        if length != end {
            partial.set_len(end).map_err(io)?;
        }
        Ok((partial, ranges, hasher))
    })
    .await
}

/// Reads `ranges` and appends them, hashing on the way. Reading goes on while the
/// disk is written to.
async fn append(
    files: &dyn ModelFiles,
    entry: &FileEntry,
    partial: File,
    hasher: Hasher,
    ranges: Vec<Range<u64>>,
    progress: &Progress<'_>,
    cx: &CallContext,
) -> Result<(File, Digest)> {
    let (sender, mut receiver) = mpsc::channel::<(u64, Vec<u8>)>(1);
    let reading = async move {
        let mut pieces =
            stream::iter(ranges).map(|range| read(files, &entry.name, range, cx)).buffered(RANGES_AT_ONCE);
        while let Some(piece) = pieces.next().await {
            if sender.send(piece?).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let writing = async move {
        let (mut partial, mut hasher) = (partial, hasher);
        while let Some((at, bytes)) = receiver.recv().await {
            let length = bytes.len() as i64;
            (partial, hasher) = blocking(cx, move || {
                write_all_at(&partial, &bytes, at).map_err(io)?;
                hasher.update(&bytes);
                Ok((partial, hasher))
            })
            .await?;
            progress.add(length);
        }
        Ok((partial, hasher))
    };
    // What was read before an error is written first, so that nothing of it is left running.
    let (read, written) = futures::join!(reading, writing);
    let (partial, hasher) = written?;
    read?;
    Ok((partial, hasher.finish()))
}

/// The place of a range, and its bytes.
async fn read(
    files: &dyn ModelFiles,
    name: &str,
    range: Range<u64>,
    cx: &CallContext,
) -> Result<(u64, Vec<u8>)> {
    let bytes = files.read(name, range.clone(), cx).await?;
    if bytes.len() as u64 == range.end - range.start {
        return Ok((range.start, bytes));
    }
    Err(Error::bug(HOLD, "a range was read with another length"))
}

fn io(error: std::io::Error) -> Error {
    Error::io(HOLD, Path::new("partial"), error)
}

fn write_all_at(mut file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}
