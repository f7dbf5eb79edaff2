//! A model's files in a local folder.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use albedo_core::files::{leftover, open_file, read_exact_at};
use albedo_core::{
    Artefact, CallContext, Error, ErrorKind, Fault, FileEntry, ModelFiles, Provenance, Result,
};
use async_trait::async_trait;

/// The files below a folder. Files are read by position, and nothing outside
/// the folder is, whatever the links in it say; but a snapshot in the cache of the
/// Hugging Face hub (`snapshots/REVISION`) is links into the `blobs` beside it, which
/// are its files.
///
/// What systems leave in a folder ([`leftover`]) is no file of a copy; a folder whose
/// digests were compared ([`FolderFiles::published`]) has none.
#[derive(Debug, Clone)]
pub struct FolderFiles {
    folder: PathBuf,
    provenance: Provenance,
}

impl FolderFiles {
    /// The files below `folder`, which is looked at when it is listed or read.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), provenance: Provenance::Copy }
    }

    /// The folder holds what was handed in, no more and no less: the caller has
    /// compared its digests with the hub's.
    #[must_use]
    pub fn published(mut self) -> Self {
        self.provenance = Provenance::Published;
        self
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        cx: &CallContext,
        work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let folder = self.folder.clone();
        let work = move || {
            let folder = fs::canonicalize(&folder).map_err(|error| Error::io(operation, &folder, error))?;
            work(&folder)
        };
        cx.run(operation, tokio::task::spawn_blocking(work))
            .await?
            .map_err(|error| Error::bug(operation, error.to_string()))?
    }
}

#[async_trait]
impl ModelFiles for FolderFiles {
    fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// All files below the folder. A link to a file in the folder is that file.
    ///
    /// In a folder that was handed in ([`FolderFiles::published`]), whatever is no file of
    /// the folder is listed as [special](FileEntry::special), so that screens find it: a
    /// link out of the folder or to a folder, what is neither file nor folder, a name that
    /// is not UTF-8 (the listing has the replacement character in its place).
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for any of these in a copy.
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        let (inner, copied) = (cx.clone(), self.provenance == Provenance::Copy);
        self.run(LIST, cx, move |folder| list(folder, copied, &inner)).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        let name = name.to_owned();
        self.run(READ, cx, move |folder| read(folder, &name, range)).await
    }
}

/// Reads a small file whole, but no more than `most` bytes of it: what calls
/// itself a file may be without an end.
///
/// # Errors
/// The operating system's; [`ErrorKind::DataInvalid`] about `artefact`, whose file
/// it is, if it is longer.
pub(crate) fn read_small(
    path: &Path,
    most: u64,
    operation: &str,
    artefact: impl Into<Option<Artefact>>,
) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    open_file(operation, path)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(operation, path, error))?;
    if bytes.len() as u64 <= most {
        return Ok(bytes);
    }
    let error = Error::new(ErrorKind::DataInvalid, operation, format!("the file has more than {most} bytes"))
        .with("path", path.display());
    Err(match artefact.into() {
        Some(artefact) => error.about(artefact),
        None => error,
    })
}

const LIST: &str = "list the model's files";
const READ: &str = "read a model's file";
const NOT_UTF_8: &str = "a file's name is not UTF-8";

fn list(folder: &Path, copied: bool, cx: &CallContext) -> Result<Vec<FileEntry>> {
    let (mut files, mut waiting) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(relative) = waiting.pop() {
        let path = folder.join(&relative);
        for entry in fs::read_dir(&path).map_err(|error| Error::io(LIST, &path, error))? {
            cx.check(LIST)?;
            let entry = entry.map_err(|error| Error::io(LIST, &path, error))?;
            let path = entry.path();
            let relative = relative.join(entry.file_name());
            // A download tool's books tell whether the download is complete.
            let left = relative.to_str().and_then(leftover);
            if copied && left.is_some_and(|who| who != "a download tool") {
                continue;
            }
            let kind = entry.file_type().map_err(|error| Error::io(LIST, &path, error))?;
            if kind.is_dir() {
                waiting.push(relative);
                continue;
            }
            let lossy = relative.to_string_lossy();
            let special = |what: &str| FileEntry::special(lossy.clone(), what);
            let entry = match (relative.to_str(), contained(folder, &path, LIST)?) {
                (None, _) if copied => return Err(refused(LIST, NOT_UTF_8, &path)),
                (None, _) => special(NOT_UTF_8),
                (Some(name), Place::File(_, size)) => FileEntry::new(name, size),
                (Some(_), place) if copied => return Err(place.refused(LIST, &path)),
                (Some(_), place) => special(place.words()),
            };
            files.push(entry);
        }
    }
    files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

fn read(folder: &Path, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
    let plain = |part| matches!(part, Component::Normal(_));
    if name.is_empty() || !Path::new(name).components().all(plain) {
        return Err(
            Error::new(ErrorKind::NotFound, READ, "the name is not one of the listing").with("name", name)
        );
    }
    let path = folder.join(name);
    let (path, size) = match contained(folder, &path, READ)? {
        Place::File(path, size) => (path, size),
        place => return Err(place.refused(READ, &path)),
    };
    if range.start > range.end || range.end > size {
        return Err(Error::new(ErrorKind::DataInvalid, READ, "the range reaches past the end of the file")
            .with("path", path.display())
            .with("range", format!("{}..{}", range.start, range.end))
            .with("size", size));
    }
    let length = (range.end - range.start) as usize;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|error| {
        Error::new(ErrorKind::ResourceExhausted, READ, error.to_string())
            .with("path", path.display())
            .with("bytes", length)
            .with_source(error)
    })?;
    bytes.resize(length, 0);
    let file = open_file(READ, &path)?;
    read_exact_at(&file, &mut bytes, range.start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::DataInvalid, READ, "the file became shorter").with("path", path.display())
        }
        _ => Error::io(READ, &path, error),
    })?;
    Ok(bytes)
}

/// What a path in a folder is.
enum Place {
    /// A regular file, or a link to one in the folder: where it is, and its bytes.
    File(PathBuf, u64),
    /// A link to what does not lie in the folder.
    Outside,
    /// A folder that is linked to, a pipe, a socket, a device.
    NoFile,
}

impl Place {
    fn words(&self) -> &'static str {
        match self {
            Self::Outside => "a symbolic link leaves the folder",
            Self::File(..) | Self::NoFile => "it is no regular file",
        }
    }

    /// The error that it is in a copy of ours: what lies in a folder on this machine is
    /// for its operator to mend.
    fn refused(&self, operation: &'static str, path: &Path) -> Error {
        let error = refused(operation, self.words(), path);
        match self {
            Self::Outside => error.with_hint("put a copy of the file in its place"),
            Self::File(..) | Self::NoFile => error,
        }
    }
}

/// What `path` is, or links to, in the canonical `folder`. A link to nothing leads
/// outside.
fn contained(folder: &Path, path: &Path, operation: &'static str) -> Result<Place> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            return Ok(Place::Outside);
        }
        Err(error) => return Err(Error::io(operation, path, error)),
    };
    if !target.starts_with(folder) && target.parent() != blobs(folder).as_deref() {
        return Ok(Place::Outside);
    }
    let metadata = fs::metadata(&target).map_err(|error| Error::io(operation, path, error))?;
    Ok(if metadata.is_file() { Place::File(target, metadata.len()) } else { Place::NoFile })
}

/// Where a snapshot of the hub's cache keeps its files, if `folder` is one.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots =
        folder.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    Some(snapshots.parent()?.join("blobs"))
}

fn refused(operation: &'static str, message: &str, path: &Path) -> Error {
    Error::new(ErrorKind::DataInvalid, operation, message)
        .with_fault(Fault::Operator)
        .with("path", path.display())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use albedo_core::conformance::{PATIENCE, check_files};

    use super::*;

    /// `a/b.bin`, `a-c` and `z.txt`, the last a link to the first.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("a folder");
        fs::write(folder.path().join("a/b.bin"), b"0123456789").expect("written");
        fs::write(folder.path().join("a-c"), b"").expect("written");
        symlink("a/b.bin", folder.path().join("z.txt")).expect("linked");
        folder
    }

    async fn refusal(folder: &Path) -> String {
        let error = FolderFiles::new(folder).list(&CallContext::new()).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        error.to_string()
    }

    #[tokio::test]
    async fn a_folder_conforms() {
        let folder = folder();
        check_files(&FolderFiles::new(folder.path()), PATIENCE).await.expect("conforms");
    }

    #[tokio::test]
    async fn files_are_listed_in_byte_order_and_read_by_position() {
        let folder = folder();
        let (files, cx) = (FolderFiles::new(folder.path()), CallContext::new());
        let listed = files.list(&cx).await.expect("listed");
        let names: Vec<_> = listed.iter().map(|file| (file.name.as_str(), file.size)).collect();
        assert_eq!(names, [("a-c", 0), ("a/b.bin", 10), ("z.txt", 10)]);
        assert_eq!(files.read("a/b.bin", 3..6, &cx).await.expect("read"), b"345");
        assert_eq!(files.read("z.txt", 0..10, &cx).await.expect("read"), b"0123456789");
        assert_eq!(files.read("a-c", 0..0, &cx).await.expect("read"), b"");
    }

    #[tokio::test]
    async fn a_range_past_the_end_is_an_error() {
        let folder = folder();
        let (files, cx) = (FolderFiles::new(folder.path()), CallContext::new());
        for range in [5..11, 11..11, u64::MAX - 1..u64::MAX, Range { start: 6, end: 5 }] {
            let error = files.read("a/b.bin", range, &cx).await.expect_err("past the end");
            assert_eq!(error.kind(), ErrorKind::DataInvalid);
            assert!(error.to_string().contains("past the end of the file"), "{error}");
        }
    }

    #[tokio::test]
    async fn names_cannot_leave_the_folder() {
        let folder = folder();
        let outside = folder.path().join("a-c");
        let files = FolderFiles::new(folder.path().join("a"));
        for name in ["", "../a-c", "./b.bin", outside.to_str().expect("UTF-8"), "none"] {
            let error = files.read(name, 0..0, &CallContext::new()).await.expect_err("not there");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        }
    }

    #[tokio::test]
    async fn links_out_of_the_folder_and_to_folders_are_refused() {
        let folder = folder();
        let inner = folder.path().join("a");
        symlink("../a-c", inner.join("out")).expect("linked");
        let message = refusal(&inner).await;
        assert!(
            message.contains("a symbolic link leaves the folder") && message.contains("out"),
            "{message}"
        );
        let error = FolderFiles::new(&inner).read("out", 0..0, &CallContext::new()).await;
        assert!(error.expect_err("refused").to_string().contains("leaves the folder"));

        fs::remove_file(inner.join("out")).expect("removed");
        symlink(".", inner.join("loop")).expect("linked");
        assert!(refusal(&inner).await.contains("it is no regular file"));
    }

    #[tokio::test]
    async fn what_was_handed_in_is_listed_whatever_it_is_and_never_read() {
        let folder = folder();
        symlink("/etc/hostname", folder.path().join("out")).expect("linked");
        symlink("nowhere", folder.path().join("dangling")).expect("linked");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        let (files, cx) = (FolderFiles::new(folder.path()).published(), CallContext::new());
        let listed = files.list(&cx).await.expect("lists");
        let special: Vec<_> =
            listed.iter().filter_map(|file| Some((file.name.as_str(), file.special.as_deref()?))).collect();
        let leaves = "a symbolic link leaves the folder";
        assert_eq!(special, [("dangling", leaves), ("out", leaves), ("pipe", "it is no regular file")]);
        for name in ["dangling", "out", "pipe"] {
            assert_eq!(files.read(name, 0..0, &cx).await.expect_err(name).kind(), ErrorKind::DataInvalid);
        }
        assert_eq!(
            FolderFiles::new(folder.path()).list(&cx).await.expect_err("a copy").fault(),
            Fault::Operator
        );
    }

    #[tokio::test]
    async fn a_snapshot_of_the_hubs_cache_is_a_folder_of_files() {
        let cache = tempfile::tempdir().expect("a folder");
        let model = cache.path().join("models--owner--model");
        let snapshot = model.join("snapshots/0123abcd");
        for folder in [&snapshot, &model.join("blobs/deeper"), &model.join("refs")] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(model.join("blobs/aa11"), "{}").expect("written");
        fs::write(model.join("refs/main"), "0123abcd").expect("written");
        symlink("../../blobs/aa11", snapshot.join("config.json")).expect("linked");
        let (files, cx) = (FolderFiles::new(&snapshot), CallContext::new());
        let listed = files.list(&cx).await.expect("lists");
        assert_eq!(listed, [FileEntry::new("config.json", 2)]);
        assert_eq!(files.read("config.json", 0..2, &cx).await.expect("read"), b"{}");
        // Nothing else outside.
        symlink("../../refs/main", snapshot.join("main")).expect("linked");
        assert!(refusal(&snapshot).await.contains("leaves the folder"));
        fs::remove_file(snapshot.join("main")).expect("removed");
        fs::write(model.join("blobs/deeper/x"), "x").expect("written");
        symlink("../../blobs/deeper/x", snapshot.join("deep")).expect("linked");
        assert!(refusal(&snapshot).await.contains("leaves the folder"));
    }

    #[tokio::test]
    async fn what_systems_leave_is_no_file_of_a_copy() {
        let folder = folder();
        for name in ["._z.txt", ".DS_Store", ".git/config", ".cache/huggingface/x.metadata"] {
            fs::create_dir_all(folder.path().join(name).parent().expect("a folder")).expect("a folder");
            fs::write(folder.path().join(name), "x").expect("written");
        }
        let names = async |files: FolderFiles| {
            let listed = files.list(&CallContext::new()).await.expect("lists");
            listed.into_iter().map(|file| file.name).collect::<Vec<_>>()
        };
        let copy = names(FolderFiles::new(folder.path())).await;
        assert_eq!(copy, [".cache/huggingface/x.metadata", "a-c", "a/b.bin", "z.txt"]);
        assert_eq!(names(FolderFiles::new(folder.path()).published()).await.len(), 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_name_that_is_not_utf_8_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let folder = folder();
        let name = std::ffi::OsStr::from_bytes(b"a\xff.safetensors");
        fs::write(folder.path().join(name), b"").expect("written");
        let message = refusal(folder.path()).await;
        assert!(message.contains("not UTF-8") && message.contains("a\u{FFFD}.safetensors"), "{message}");
    }

    #[tokio::test]
    async fn a_missing_folder_and_a_cancelled_call_say_so() {
        let files = FolderFiles::new("/nowhere/at/all");
        let cx = CallContext::new();
        assert_eq!(files.list(&cx).await.expect_err("missing").kind(), ErrorKind::NotFound);
        cx.cancel();
        assert_eq!(files.list(&cx).await.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    }
}
