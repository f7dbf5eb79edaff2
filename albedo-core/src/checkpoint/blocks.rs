//! How a weight file is divided into blocks.

use std::ops::Range;

use super::{BLOCK_BYTES, Shard};

/// Consecutive bytes of a weight file: its header, or pieces of tensors.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) range: Range<u64>,
    /// In order; together the whole block.
    pub(super) pieces: Vec<Piece>,
    /// The bytes, once they were read.
    pub(super) bytes: Vec<u8>,
}

/// Whole rows of a tensor, or a part of a row that is longer than a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the tensor in the shard.
    pub(super) tensor: usize,
    /// Position of the first element in the flattened tensor.
    pub(super) start: u64,
    /// Place in the block.
    pub(super) bytes: Range<usize>,
}

impl Block {
    fn new(start: u64) -> Self {
        Self { range: start..start, pieces: Vec::new(), bytes: Vec::new() }
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The file from front to back: the header first, then small tensors together
/// and large ones in rows, [`BLOCK_BYTES`] at a time.
pub(super) fn of(shard: &Shard) -> Vec<Block> {
    let data = shard.tensors.first().map_or(shard.bytes, |(_, info)| info.range.start);
    let mut blocks = vec![Block { range: 0..data, ..Block::new(0) }];
    let mut block = Block::new(data);
    for (tensor, (_, info)) in shard.tensors.iter().enumerate() {
        let size = info.dtype.bytes();
        // An empty tensor may have any other dimensions.
        let row = info.shape.iter().skip(1).fold(size, |row, &by| row.saturating_mul(by)).max(size);
        let step = if row > BLOCK_BYTES { BLOCK_BYTES } else { BLOCK_BYTES / row * row };
        let mut offset = info.range.start;
        loop {
            let bytes = step.min(info.range.end - offset);
            if block.len() + bytes > BLOCK_BYTES {
                blocks.push(std::mem::replace(&mut block, Block::new(offset)));
            }
            let at = block.len() as usize;
            block.pieces.push(Piece {
                tensor,
                start: (offset - info.range.start) / size,
                bytes: at..at + bytes as usize,
            });
            offset += bytes;
            block.range.end = offset;
            if offset == info.range.end {
                break;
            }
        }
    }
    if !block.pieces.is_empty() {
        blocks.push(block);
    }
    blocks
}
