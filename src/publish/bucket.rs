//! Where records are published: a bucket of an S3-compatible server, or a folder.
//!
//! A bucket holds objects under names. What publishing needs of it beyond reading and
//! writing is that two writers do not undo each other's work: an object is written
//! only if it is absent, or only if it is still the one that was read ([`Mode`]).
//! Servers differ in whether they keep such a promise; [`probe`] finds out.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{CallContext, Error, ErrorKind, Fault, Reach, Result, Retry};

mod folder;
mod objects;
mod place;
mod transport;

pub use folder::FolderBucket;
pub use objects::ObjectBucket;
pub use place::Place;

/// Files above this many bytes go up in parts.
pub(super) const MULTIPART_FROM: u64 = 64 << 20;

/// Bytes of a part. S3 wants at least 5 MiB and at most 10,000 parts: 16 MiB reach 156
/// GiB, and are what a retry repeats.
pub(super) const PART: u64 = 16 << 20;

/// The longest time that one request may take, and that it may take for each [`PART`] of its
/// body: a part at 1 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);

/// Holds objects under names.
///
/// # Behavior
/// - A write is whole or not there at all, whatever happens to the writer.
/// - What a write has acknowledged, every later read sees.
/// - No error holds a credential.
#[async_trait]
pub trait Bucket: Debug + Send + Sync + 'static {
    /// What errors and `status` call it.
    fn place(&self) -> String;

    /// The object `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it has more than `most` bytes; whatever keeps it
    /// from being read.
    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>>;

    /// Bytes `start..end` of the object `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, or it is shorter than `end`.
    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes>;

    /// How many bytes the object `name` has; `None` if there is none.
    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>>;

    /// Writes the object `name`, if `mode` allows.
    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written>;

    /// The names of the folders right below `folder`, none of them with a `/`.
    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>>;
}

/// An object that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its content.
    pub bytes: Bytes,
    /// Which state of the object it is.
    pub version: Version,
}

/// A state of an object, in the bucket's own words: an entity tag, a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub(super) String);

impl Version {
    /// The state that the bucket calls `tag`.
    pub fn new(tag: impl Into<String>) -> Self {
        Self(tag.into())
    }
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes.
    Bytes(Bytes),
    /// The file at `path`, which has `size` bytes and does not change meanwhile.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
}

impl Content {
    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

/// When a write takes place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Always; what was there is replaced.
    Always,
    /// If there is no object of that name. A bucket in parts has no such condition for
    /// files above 64 MiB: there, what is there is asked for first.
    IfAbsent,
    /// If the object is still the one that was read.
    IfUnchanged(Version),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    Yes,
    /// The mode did not allow it: nothing was written.
    Refused,
}

/// Whether a bucket keeps the conditions of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// It does.
    Kept,
    /// It takes the write and ignores its condition, or knows none: another writer's
    /// work can be undone. What is written is read back, and what is missing written
    /// again.
    Ignored,
}

/// The object that [`probe`] writes.
const PROBE: &str = ".albedo-probe";

/// Finds out whether `bucket` keeps the conditions of writes.
///
/// # Errors
/// The bucket's: it cannot be read or written.
pub async fn probe(bucket: &dyn Bucket, cx: &CallContext) -> Result<Conditions> {
    let content =
        || Content::Bytes(Bytes::from_static(b"albedo asks whether conditions of writes are kept\n"));
    bucket.write(PROBE, content(), Mode::Always, cx).await?;
    let other = Version::new("\"00000000000000000000000000000000\"");
    for mode in [Mode::IfAbsent, Mode::IfUnchanged(other)] {
        match bucket.write(PROBE, content(), mode, cx).await {
            Ok(Written::Refused) => {}
            Ok(Written::Yes) => return Ok(Conditions::Ignored),
            // Servers that know no conditions may say so.
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Conditions::Ignored),
            Err(error) => return Err(error),
        }
    }
    // A server that refuses every condition knows none either. Another probe may write
    // between reading and writing.
    for _ in 0..5 {
        let object = bucket.read(PROBE, 1 << 10, cx).await?;
        let Some(Object { version, .. }) = object else { break };
        if bucket.write(PROBE, content(), Mode::IfUnchanged(version), cx).await? == Written::Yes {
            return Ok(Conditions::Kept);
        }
    }
    Ok(Conditions::Ignored)
}

/// Content type and cache lifetime of the object `name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) content_type: &'static str,
    pub(super) cache: &'static str,
}

impl Headers {
    /// Kept for ever: the name says what is in it.
    const IMMUTABLE: &'static str = "public, max-age=31536000, immutable";
    /// Asked for again every time: the index, the public data, the page.
    const FRESH: &'static str = "no-cache";

    pub(super) fn of(name: &str) -> Self {
        let content_type = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("json") => "application/json",
            Some("svg") => "image/svg+xml",
            Some("jsonl") => "application/x-ndjson",
            Some("md") => "text/markdown; charset=utf-8",
            Some("parquet") => "application/vnd.apache.parquet",
            Some("digest" | "signatures") => "text/plain; charset=utf-8",
            _ if name.ends_with("/checkpoint") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        };
        let record = name.contains("records/") && !name.ends_with("/manifest.json");
        let lasts = record || name.contains("log/tile/") || name.contains("index/");
        Self { content_type, cache: if lasts { Self::IMMUTABLE } else { Self::FRESH } }
    }
}

/// Checks the name of an object: parts of letters, digits, `.`, `_` and `-`, with `/`
/// between them, none of which is `.` or `..`.
///
/// # Errors
/// A bug: names are ours.
pub(super) fn check_name(name: &str) -> Result<()> {
    let part = |part: &str| {
        let letters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        letters && !matches!(part, "" | "." | "..")
    };
    if name.len() <= 512 && name.split('/').all(part) {
        return Ok(());
    }
    Err(Error::bug("name an object", "the name has parts that no bucket should have").with("name", name))
}

/// Waits for one request, within cancellation and [`REQUEST_TIMEOUT`].
pub(super) async fn request<T>(
    operation: &str,
    cx: &CallContext,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    cx.with_timeout(REQUEST_TIMEOUT).run(operation, work).await?
}

/// How long a request with a body of `bytes` may take.
fn timeout(bytes: u64) -> Duration {
    REQUEST_TIMEOUT * bytes.div_ceil(PART).max(1) as u32
}

/// Another object is there than the one that should be: somebody else writes to the
/// bucket.
pub(super) fn conflict(name: &str, place: &str) -> Error {
    Error::new(ErrorKind::Conflict, "publish", "another object of that name is there")
        .with_fault(Fault::Operator)
        .with_reach(Reach::Call)
        .with_retry(Retry::Never)
        .with("object", name)
        .with("bucket", place)
        .with_hint("find out who wrote it; delete it, then run `albedo publish retry`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_changes_is_kept_and_everything_has_a_type() {
        for (name, content_type, immutable) in [
            ("records/ab/record.jsonl", "application/x-ndjson", true),
            ("site/records/ab/record.blobs", "application/octet-stream", true),
            ("records/ab/exports/cd.parquet", "application/vnd.apache.parquet", true),
            ("records/ab/exports/cd.md", "text/markdown; charset=utf-8", true),
            ("records/ab/manifest.json", "application/json", false),
            ("index.json", "application/json", false),
            ("index/ab.json", "application/json", true),
            ("log/checkpoint", "text/plain; charset=utf-8", false),
            ("log/tile/0/000", "application/octet-stream", true),
            ("data/status.json", "application/json", false),
            ("page.js", "text/javascript; charset=utf-8", false),
        ] {
            let headers = Headers::of(name);
            assert_eq!(headers.content_type, content_type, "{name}");
            assert_eq!(headers.cache == Headers::IMMUTABLE, immutable, "{name}");
        }
    }

    #[test]
    fn a_slow_line_has_time_for_every_body() {
        assert_eq!([0, 1, PART].map(timeout), [REQUEST_TIMEOUT; 3]);
        for bytes in [PART + 1, 18 << 20, 40 << 20, MULTIPART_FROM] {
            let at_1_mbit_s = Duration::from_secs(bytes * 8 / 1_000_000);
            assert!(at_1_mbit_s < timeout(bytes), "{bytes} bytes have {:?}", timeout(bytes));
        }
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for name in ["", "/", "a//b", "../a", "a/..", "a/./b", "a b", "a\\b", "ä", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("records/0a/record.jsonl").expect("a name");
    }
}
