//! A folder as a bucket: any web server of static files shows what is in it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Bucket, Content, Mode, Object, Version, Written, check_name};
use crate::{CallContext, Digest, Error, ErrorKind, Result};

const OPERATION: &str = "publish into the folder";

/// Where files are written before they are moved to their places; a web server has no
/// reason to show it.
const BESIDE: &str = ".albedo";

/// How long a file that nobody moved to its place is kept.
const KEPT: Duration = Duration::from_hours(24);

/// A folder. Several processes on one machine may write to it.
///
/// # Behavior
/// - A file is written beside its place, to the disk, and moved there in one step.
/// - Writes that replace a file hold a lock on the folder, which ends with the process.
#[derive(Debug, Clone)]
pub struct FolderBucket(PathBuf);

impl FolderBucket {
    /// The bucket in `folder`, which is made if there is none.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let beside = folder.join(BESIDE);
        fs::create_dir_all(&beside).map_err(|error| Error::io(OPERATION, &beside, error))?;
        sweep(&beside);
        Ok(Self(folder))
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        cx: &CallContext,
        work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        cx.check(OPERATION)?;
        let folder = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.map_err(|error| Error::bug(OPERATION, error.to_string()))?
    }
}

#[async_trait]
impl Bucket for FolderBucket {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        check_name(name)?;
        let name = name.to_owned();
        self.blocking(cx, move |folder| read(&folder.join(name), most)).await
    }

    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes> {
        check_name(name)?;
        let name = name.to_owned();
        self.blocking(cx, move |folder| {
            let path = folder.join(name);
            let failed = |error| Error::io(OPERATION, &path, error);
            let mut file = File::open(&path).map_err(failed)?;
            let mut bytes = vec![0; end.saturating_sub(start) as usize];
            file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>> {
        check_name(name)?;
        let name = name.to_owned();
        self.blocking(cx, move |folder| {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(Error::io(OPERATION, &path, error)),
            }
        })
        .await
    }

    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written> {
        check_name(name)?;
        let name = name.to_owned();
        self.blocking(cx, move |folder| write(folder, &name, &content, &mode)).await
    }

    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>> {
        check_name(folder)?;
        let below = folder.to_owned();
        self.blocking(cx, move |folder| folders(&folder.join(below))).await
    }
}

fn read(path: &Path, most: u64) -> Result<Option<Object>> {
    let file = match File::open(path) {
        Err(error) if is_absent(&error) => return Ok(None),
        opened => opened.map_err(|error| Error::io(OPERATION, path, error))?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(OPERATION, path, error))?;
    if bytes.len() as u64 > most {
        let message = format!("the file has more than {most} bytes");
        return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message).with("path", path.display()));
    }
    let version = Version::new(Digest::of(&bytes).to_string());
    Ok(Some(Object { bytes: bytes.into(), version }))
}

fn write(folder: &Path, name: &str, content: &Content, mode: &Mode) -> Result<Written> {
    let path = folder.join(name);
    let failed = |error| Error::io(OPERATION, &path, error);
    let lock = File::create(folder.join(BESIDE).join("lock")).map_err(failed)?;
    let replaces = *mode != Mode::IfAbsent;
    if replaces {
        // Held until the end; other writers wait, readers do not.
        lock.lock().map_err(failed)?;
    }
    match mode {
        Mode::IfAbsent if path.exists() => return Ok(Written::Refused),
        Mode::IfAbsent | Mode::Always => {}
        Mode::IfUnchanged(version) => {
            let now = match File::open(&path) {
                Ok(file) => Digest::of_reader(file).map_err(failed)?.to_string(),
                Err(error) if is_absent(&error) => return Ok(Written::Refused),
                Err(error) => return Err(failed(error)),
            };
            if now != version.0 {
                return Ok(Written::Refused);
            }
        }
    }
    let beside = beside(folder);
    let mut made = File::create(&beside).map_err(failed)?;
    let written = match content {
        Content::Bytes(bytes) => made.write_all(bytes),
        Content::File { path, size } => copy(path, *size, &mut made),
    };
    let parent = path.parent().unwrap_or(folder);
    let moved =
        written.and_then(|()| made.sync_all()).and_then(|()| fs::create_dir_all(parent)).and_then(|()| {
            if replaces {
                fs::rename(&beside, &path)?;
            } else {
                // Unlike a rename, a link does not replace what another writer has made.
                let linked = fs::hard_link(&beside, &path);
                fs::remove_file(&beside)?;
                linked?;
            }
            let mut folders = parent.ancestors().take_while(|at| at.starts_with(folder));
            folders.try_for_each(|at| File::open(at)?.sync_all())
        });
    match moved {
        Ok(()) => Ok(Written::Yes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::Refused),
        Err(error) => {
            // What is left over is of no use to anybody.
            let _ = fs::remove_file(&beside);
            Err(failed(error))
        }
    }
}

fn copy(path: &Path, size: u64, to: &mut File) -> io::Result<()> {
    let copied = io::copy(&mut File::open(path)?.take(size + 1), to)?;
    if copied == size { Ok(()) } else { Err(io::Error::other("the file changed while it was read")) }
}

/// A new name beside the files of `folder`.
fn beside(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(BESIDE).join(format!("{}-{number}.partial", std::process::id()))
}

/// Deletes what processes that were killed a day ago and more have left. If that
/// fails, nothing is lost but space.
fn sweep(beside: &Path) {
    let old = |path: &Path| {
        let age = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?.elapsed().ok()?;
        (age > KEPT).then_some(())
    };
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "partial") && old(&path).is_some() {
            let _ = fs::remove_file(path);
        }
    }
}

fn folders(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io(OPERATION, folder, error);
    let entries = match fs::read_dir(folder) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if entry.file_type().map_err(failed)?.is_dir() && check_name(&name).is_ok() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
