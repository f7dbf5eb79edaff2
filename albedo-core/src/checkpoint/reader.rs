//! Reading one weight file, no byte of it twice.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::OPERATION;
use super::blocks::Block;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::files::ModelFiles;

/// Bytes of the length that a weight file starts with.
const LENGTH_BYTES: u64 = 8;

/// The format's own limit on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One weight file, and the bytes of it that were read before the pass.
#[derive(Debug)]
pub(super) struct ShardReader {
    files: Arc<dyn ModelFiles>,
    name: String,
    size: u64,
    /// Bytes that were read and will be wanted again, by position. They do not
    /// overlap.
    kept: BTreeMap<u64, Vec<u8>>,
}

impl ShardReader {
    pub(super) fn new(files: Arc<dyn ModelFiles>, name: String, size: u64) -> Self {
        Self { files, name, size, kept: BTreeMap::new() }
    }

    /// The header with its length, as far as the file has one.
    pub(super) async fn header(&mut self, cx: &CallContext) -> Result<Vec<u8>> {
        let length = self.keep(0..LENGTH_BYTES.min(self.size), cx).await?;
        let Ok(length) = <[u8; LENGTH_BYTES as usize]>::try_from(&*length) else { return Ok(length) };
        let most = MAX_HEADER_BYTES.min(self.size - LENGTH_BYTES);
        // The header's parser refuses a length beyond that.
        let end = LENGTH_BYTES + u64::from_le_bytes(length).min(most);
        self.keep(0..end, cx).await
    }

    /// Bytes `range`, which are kept for the pass.
    pub(super) async fn keep(&mut self, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        for gap in self.gaps(&range) {
            let bytes = self.read(gap.clone(), cx).await?;
            self.kept.insert(gap.start, bytes);
        }
        self.get(range, cx).await
    }

    /// `block` with its bytes.
    pub(super) async fn fill(&self, mut block: Block, cx: &CallContext) -> Result<Block> {
        block.bytes = self.get(block.range.clone(), cx).await?;
        Ok(block)
    }

    /// Bytes `range`: what was kept, and what is read now.
    async fn get(&self, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        let gaps = self.gaps(&range);
        if gaps == [range.clone()] {
            return self.read(range, cx).await;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let at = |position: u64| (position - range.start) as usize;
        for (start, piece) in self.overlapping(&range) {
            let (from, to) = (start.max(range.start), (start + piece.len() as u64).min(range.end));
            bytes[at(from)..at(to)].copy_from_slice(&piece[(from - start) as usize..(to - start) as usize]);
        }
        for gap in gaps {
            let read = self.read(gap.clone(), cx).await?;
            bytes[at(gap.start)..at(gap.end)].copy_from_slice(&read);
        }
        Ok(bytes)
    }

    /// The parts of `range` that are not kept.
    fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (mut gaps, mut at) = (Vec::new(), range.start);
        for (start, piece) in self.overlapping(range) {
            if start > at {
                gaps.push(at..start);
            }
            at = at.max(start + piece.len() as u64);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        let start = range.start;
        self.kept
            .range(..range.end)
            .map(|(position, piece)| (*position, piece))
            .filter(move |(position, piece)| position + piece.len() as u64 > start)
    }

    async fn read(&self, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        cx.check(OPERATION)?;
        let expected = range.end - range.start;
        let bytes = self.files.read(&self.name, range, cx).await?;
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::Protocol, OPERATION, format!("{} bytes came, not {expected}", bytes.len()))
            .with("file", &self.name))
    }
}
