//! Publishing: records, the log of duels and the state of the competition, in a folder
//! or a bucket that any web server shows, and fetching a record from one.
//!
//! ```text
//! records/DIGEST/record.jsonl …      the record's files, which never change
//! records/DIGEST/exports/…           data sets made of it, which never change either
//! records/DIGEST/manifest.json       names, sizes and SHA-256 of all these
//! data/duels/DIGEST.json …           what a page shows of it
//! log/checkpoint, log/tile/…         the log of duels, if there is one
//! index.json, index/DIGEST.json      every record: the only list
//! ```
//!
//! They are written in this order, so that nothing ever points at what is not there: a
//! publisher that is killed leaves objects that nobody names, and the next one goes on.
//! `index.json` is the one object that several publishers change: each change is made on
//! the state that was read ([`Mode::IfUnchanged`]), or, where a server keeps no such
//! condition, read back and repaired ([`Conditions::Ignored`]).
//!
//! What is to be published waits in an [`Outbox`]: a [`FolderOutbox`] beside the records,
//! or another program's own. A failure delays publication and nothing else.
//!
//! ```
//! use std::sync::Arc;
//!
//! use albedo::CallContext;
//! use albedo::publish::{FolderBucket, FolderOutbox, Publisher, Reader, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> albedo::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let (records, site) = (folder.path().join("duels"), folder.path().join("site"));
//! # std::fs::create_dir_all(records.join("one")).unwrap();
//! # let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures/record-3");
//! # for name in ["record.jsonl", "record.blobs", "record.digest"] {
//! #     std::fs::copy(fixture.join(name), records.join("one").join(name)).unwrap();
//! # }
//! let cx = CallContext::new();
//! let bucket = Arc::new(FolderBucket::open(site)?);
//! let outbox = FolderOutbox::open(&records)?;
//! outbox.scan()?;
//! let publisher = Publisher::open(bucket.clone(), Settings::default(), &cx).await?;
//! let drained = publisher.drain(&outbox, &cx).await?;
//! assert_eq!((drained.published, drained.waiting), (1, 0));
//!
//! let reader = Reader::new(bucket);
//! for entry in reader.entries(&cx).await? {
//!     reader.verify(&entry, &cx).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The module is behind the feature `publish`. `docs/publish.md` is its guide.

pub mod public;

#[cfg(test)]
pub(crate) mod away;
mod bucket;
mod exports;
mod fetch;
mod index;
mod log;
mod manifest;
mod outbox;
mod page;
mod publisher;

pub use bucket::{
    Bucket, Conditions, Content, FolderBucket, Mode, Object, ObjectBucket, Place, Version, Written, probe,
};
pub use exports::Exports;
pub use fetch::{FetchSettings, Fetched, document, fetch};
pub use index::Reader;
pub use log::LogSource;
pub use manifest::{ManifestFile, RecordManifest};
pub use outbox::{Failure, FolderOutbox, Item, Lag, Next, Outbox, QueuedRecord, Work};
pub use page::{PAGE_FILES, PageFile, write_page};
pub use publisher::{Backoff, Drained, Published, Publisher, Settings};

#[cfg(test)]
mod tests;
