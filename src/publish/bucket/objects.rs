//! A bucket of an object store: S3-compatible servers, and whatever else
//! `object_store` reaches.

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, UpdateVersion,
};

use super::{
    Bucket, Content, Headers, MULTIPART_FROM, Mode, Object, PART, Version, Written, check_name, request,
};
use crate::{CallContext, Error, ErrorKind, Fault, Result, Retry};

const READ: &str = "read the bucket";
const WRITE: &str = "write to the bucket";

/// How long the server has to forget an upload that is given up, also of a publisher that is
/// to stop.
const ABORT: Duration = Duration::from_secs(10);

/// A bucket of an object store, or what lies under a prefix of one.
///
/// ```
/// use std::sync::Arc;
///
/// use albedo::CallContext;
/// use albedo::publish::{Bucket, Conditions, ObjectBucket, probe};
/// use object_store::memory::InMemory;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo::Result<()> {
/// let bucket = ObjectBucket::new(Arc::new(InMemory::new()), "memory", "site");
/// assert_eq!(probe(&bucket, &CallContext::new()).await?, Conditions::Kept);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ObjectBucket {
    store: Arc<dyn ObjectStore>,
    name: String,
    prefix: String,
}

// The store's own may hold its key.
impl fmt::Debug for ObjectBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, prefix, .. } = self;
        f.debug_struct("ObjectBucket").field("name", name).field("prefix", prefix).finish_non_exhaustive()
    }
}

impl ObjectBucket {
    /// What `store` has under `prefix`, which may be empty; `name` is what errors call
    /// it. A store that [`Place`](super::Place) does not open has to bound the time of listings, and of
    /// objects that it writes in one piece, by itself: nothing here does.
    pub fn new(store: Arc<dyn ObjectStore>, name: impl Into<String>, prefix: impl Into<String>) -> Self {
        let mut prefix = prefix.into();
        prefix = prefix.trim_matches('/').to_owned();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Self { store, name: name.into(), prefix }
    }

    fn path(&self, name: &str) -> Result<Path> {
        check_name(name)?;
        Ok(Path::from(format!("{}{name}", self.prefix)))
    }

    fn failed(&self, operation: &str, name: &str, error: &object_store::Error) -> Error {
        // What the transport has found out about the server's answer is known best.
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(source) = cause {
            if let Some(ours) = source.downcast_ref::<Error>() {
                return ours.clone().with("object", name).with("bucket", &self.name);
            }
            cause = source.source();
        }
        let (kind, fault, message) = match error {
            object_store::Error::NotFound { .. } => {
                (ErrorKind::NotFound, Fault::Operator, "there is no such object or bucket")
            }
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                (ErrorKind::Unsupported, Fault::Operator, "the store cannot do that")
            }
            // Its words may quote what was signed; the kind of error says enough.
            _ => {
                (ErrorKind::Unavailable, Fault::Infrastructure, "the store gave an answer that it should not")
            }
        };
        Error::new(kind, operation, message).with_fault(fault).with("object", name).with("bucket", &self.name)
    }

    async fn get(
        &self,
        name: &str,
        options: GetOptions,
        most: u64,
        cx: &CallContext,
    ) -> Result<Option<Object>> {
        let path = self.path(name)?;
        request(READ, cx, async {
            let result = match self.store.get_opts(&path, options).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                result => result.map_err(|error| self.failed(READ, name, &error))?,
            };
            let tag = result.meta.e_tag.clone().unwrap_or_default();
            let (mut stream, mut bytes) = (result.into_stream(), Vec::new());
            while let Some(piece) =
                stream.try_next().await.map_err(|error| self.failed(READ, name, &error))?
            {
                if (bytes.len() + piece.len()) as u64 > most {
                    let message = format!("the object has more than {most} bytes");
                    return Err(Error::new(ErrorKind::DataInvalid, READ, message).with("object", name));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(Some(Object { bytes: bytes.into(), version: Version(tag) }))
        })
        .await
    }

    async fn put(&self, name: &str, bytes: Bytes, mode: PutMode, cx: &CallContext) -> Result<Written> {
        let path = self.path(name)?;
        let conditional = mode != PutMode::Overwrite;
        let options = PutOptions { mode, attributes: attributes(name), ..PutOptions::default() };
        // The connector bounds its time, by its bytes.
        let put = async {
            match self.store.put_opts(&path, bytes.into(), options).await {
                Ok(_) => Ok(Written::Yes),
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }
                    | object_store::Error::NotModified { .. },
                ) if conditional => Ok(Written::Refused),
                Err(error) => Err(self.failed(WRITE, name, &error)),
            }
        };
        cx.run(WRITE, put).await?
    }

    /// Writes a large file in parts: one after the other, so that memory holds one.
    async fn put_parts(&self, name: &str, file: PathBuf, size: u64, cx: &CallContext) -> Result<Written> {
        let path = self.path(name)?;
        let options = PutMultipartOptions { attributes: attributes(name), ..PutMultipartOptions::default() };
        let mut upload = request(WRITE, cx, async {
            let begun = self.store.put_multipart_opts(&path, options).await;
            begun.map_err(|error| self.failed(WRITE, name, &error))
        })
        .await?;
        let sent = self.send_parts(&mut *upload, name, file, size, cx).await;
        if sent.is_err() {
            // The server forgets it by itself in the end, as its settings say.
            let _ = CallContext::new().with_timeout(ABORT).run(WRITE, upload.abort()).await;
        }
        sent.map(|()| Written::Yes)
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &str,
        file: PathBuf,
        size: u64,
        cx: &CallContext,
    ) -> Result<()> {
        let mut start = 0;
        while start < size {
            let end = (start + PART).min(size);
            let bytes = part(file.clone(), start, end).await?;
            let sent = upload.put_part(bytes.into());
            request(WRITE, cx, async { sent.await.map_err(|error| self.failed(WRITE, name, &error)) })
                .await?;
            start = end;
        }
        request(WRITE, cx, async {
            upload.complete().await.map(drop).map_err(|error| self.failed(WRITE, name, &error))
        })
        .await
    }
}

#[async_trait]
impl Bucket for ObjectBucket {
    fn place(&self) -> String {
        format!("{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        self.get(name, GetOptions::default(), most, cx).await
    }

    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes> {
        let options = GetOptions { range: Some((start..end).into()), ..GetOptions::default() };
        let wanted = end.saturating_sub(start);
        let object = self.get(name, options, wanted, cx).await?;
        let bytes = object.map(|object| object.bytes).filter(|bytes| bytes.len() as u64 == wanted);
        bytes.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, READ, "the object is missing, or shorter than it was")
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Backoff)
                .with("object", name)
                .with("bucket", &self.name)
        })
    }

    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>> {
        let path = self.path(name)?;
        request(READ, cx, async {
            match self.store.head(&path).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed(READ, name, &error)),
            }
        })
        .await
    }

    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written> {
        match (content, mode) {
            (Content::File { size, .. }, Mode::IfAbsent)
                if size > MULTIPART_FROM && self.size(name, cx).await?.is_some() =>
            {
                Ok(Written::Refused)
            }
            (Content::File { path, size }, Mode::IfAbsent | Mode::Always) if size > MULTIPART_FROM => {
                self.put_parts(name, path, size, cx).await
            }
            (content, mode) => {
                let bytes = match content {
                    Content::Bytes(bytes) => bytes,
                    Content::File { path, size } => part(path, 0, size).await?,
                };
                let mode = match mode {
                    Mode::Always => PutMode::Overwrite,
                    Mode::IfAbsent => PutMode::Create,
                    Mode::IfUnchanged(Version(tag)) => {
                        PutMode::Update(UpdateVersion { e_tag: Some(tag), version: None })
                    }
                };
                self.put(name, bytes, mode, cx).await
            }
        }
    }

    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>> {
        let path = self.path(folder)?;
        // A million records have a thousand pages: the connector bounds the time of each.
        let listed = cx.run(READ, self.store.list_with_delimiter(Some(&path))).await?;
        let listed = listed.map_err(|error| self.failed(READ, folder, &error))?;
        let mut names: Vec<_> = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename())
            .filter(|name| check_name(name).is_ok())
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }
}

fn attributes(name: &str) -> Attributes {
    let Headers { content_type, cache } = Headers::of(name);
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type.into());
    attributes.insert(Attribute::CacheControl, cache.into());
    attributes
}

/// Bytes `start..end` of a file.
async fn part(path: PathBuf, start: u64, end: u64) -> Result<Bytes> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; (end - start) as usize];
        let read = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)
        });
        read.map(|()| Bytes::from(bytes)).map_err(|error| Error::io(WRITE, &path, error))
    });
    read.await.map_err(|error| Error::bug(WRITE, error.to_string()))?
}
