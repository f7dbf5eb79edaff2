//! Seeds of the screens and of audits, from blocks that nobody could know before. A duel's seed
//! is [`Seed::on_chain`](crate::Seed::on_chain), of the block after its announcement.

use crate::Digest;
use crate::chain::{BlockHash, BlockNumber};
use crate::rng::derive_seed;

/// Blocks of a week of Bittensor's, 12 seconds each.
const WEEK: BlockNumber = 7 * 24 * 60 * 5;

/// The block that questions of the screens follow from when bytes were held at `head`: one
/// per week, so that submissions of one week answer the same
/// ([`Seed::of_questions`](crate::Seed::of_questions)).
///
/// ```
/// use albedo::validator::seeds::week;
///
/// assert_eq!((week(0), week(50_399), week(50_400), week(100_000)), (0, 0, 50_400, 50_400));
/// ```
pub const fn week(head: BlockNumber) -> BlockNumber {
    head - head % WEEK
}

/// What the screens' probes of a submission follow from: the hash of the first block
/// finalised after its bytes were held, and the digest of its content.
///
/// ```
/// use albedo::Digest;
/// use albedo::chain::BlockHash;
/// use albedo::validator::seeds;
///
/// let (block, content) = (BlockHash([7; 32]), Digest::of("files"));
/// let seed = seeds::screens(block, content);
/// assert_ne!(seed, seeds::screens(BlockHash([8; 32]), content));
/// assert_ne!(seed, seeds::screens(block, Digest::of("other files")));
/// ```
pub fn screens(block: BlockHash, content: Digest) -> u64 {
    derive_seed("screens", &[&block.0, content.as_bytes()])
}

/// What chooses the replies of `record` that a follower audits: the hash of the first block
/// finalised after the record was published, so that its author could not know them.
///
/// ```
/// use albedo::Digest;
/// use albedo::chain::BlockHash;
/// use albedo::validator::seeds;
///
/// let (block, record) = (BlockHash([7; 32]), Digest::of("record"));
/// let seed = seeds::audit(block, record);
/// assert_ne!(seed, seeds::audit(BlockHash([8; 32]), record));
/// assert_ne!(seed, seeds::audit(block, Digest::of("another record")));
/// ```
pub fn audit(block: BlockHash, record: Digest) -> u64 {
    derive_seed("audit", &[&block.0, record.as_bytes()])
}
