//! How much is read of a folder that anybody may have made.

/// The longest line of a record or journal, in bytes. A reply of 32,768 tokens with
/// ids, gaps and log-probabilities has about 1.2 MB.
pub(super) const MAX_LINE: u64 = 16 << 20;

/// The largest `record.jsonl`, in bytes: 10,000 samples with replies of 1,024 tokens
/// take about 250 MB.
pub(super) const MAX_LINES: u64 = 512 << 20;

/// The largest `record.blobs`, in bytes: 10,000 samples with prompts of 16,384 tokens
/// take about 700 MB.
pub(super) const MAX_BLOBS: u64 = 1 << 30;

/// The largest `record.digest`, in bytes.
pub(super) const MAX_DIGEST: u64 = 1 << 10;

/// The largest record of a submission that was not admitted, in bytes: its evidence is
/// any JSON, which takes some twenty times the memory of its text.
pub(super) const MAX_FORFEIT: u64 = 16 << 20;
