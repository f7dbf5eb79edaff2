//! Copying a model's files into a folder, all or none.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use albedo_core::digest::Hasher;
use albedo_core::{CallContext, Error, ErrorKind, EventKind, Fault, FileEntry, ModelFiles, Result};

const FETCH: &str = "fetch the model";

/// Bytes that are read at once.
const PART: u64 = 8 << 20;

/// Copies `files` into the folder `into`, which is there only once it holds all of
/// them, each with the digest that its listing vouches for. A folder that is there
/// is left as it is. Processes that fetch into one folder take turns. Emits how
/// many bytes are there, under `name`.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`], infrastructure's, for bytes that are not those of
/// the listing; [`ErrorKind::DataInvalid`], infrastructure's, for a file that its
/// listing does not vouch for or whose name leaves the folder; what `files` and the
/// disk meet. Nothing is left but what a later call begins again with.
pub async fn fetch(files: &dyn ModelFiles, into: &Path, name: &str, cx: &CallContext) -> Result<()> {
    let beside = |ending: &str| {
        let mut name = into.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        into.with_file_name(name)
    };
    let (target, staging, lock) = (into.to_owned(), beside(".part"), beside(".lock"));
    let _lock = blocking(cx, move || locked(&lock)).await?;
    if blocking(cx, move || Ok(target.is_dir())).await? {
        return Ok(());
    }
    let folder = staging.clone();
    blocking(cx, move || emptied(&folder)).await?;
    let listed = files.list(cx).await?;
    let mut progress = Progress { name, done: 0, total: listed.iter().map(|file| file.size).sum() };
    for file in &listed {
        copy(files, file, &staging, &mut progress, cx)
            .await
            .map_err(|error| error.with("file", &file.name))?;
    }
    let into = into.to_owned();
    blocking(cx, move || {
        fs::rename(&staging, &into).map_err(|error| Error::io(FETCH, &into, error))?;
        sync_folder(into.parent().unwrap_or(Path::new(".")))
    })
    .await
}

struct Progress<'a> {
    name: &'a str,
    done: u64,
    total: u64,
}

/// Copies one file and compares its digest.
async fn copy(
    files: &dyn ModelFiles,
    entry: &FileEntry,
    folder: &Path,
    progress: &mut Progress<'_>,
    cx: &CallContext,
) -> Result<()> {
    let distrusted =
        |message: &str| Error::new(ErrorKind::DataInvalid, FETCH, message).with_fault(Fault::Infrastructure);
    let Some(stated) = entry.sha256 else { return Err(distrusted("its listing has no digest of the file")) };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if !entry.name.split('/').all(plain) {
        return Err(distrusted("the name leaves the model's folder"));
    }
    let path = folder.join(&entry.name);
    let created = path.clone();
    let mut file = blocking(cx, move || create(&created)).await?;
    let mut hasher = Hasher::default();
    for range in parts(entry.size) {
        let bytes = files.read(&entry.name, range, cx).await?;
        progress.done += bytes.len() as u64;
        let path = path.clone();
        (file, hasher) = blocking(cx, move || {
            let mut file: File = file;
            file.write_all(&bytes).map_err(|error| Error::io(FETCH, &path, error))?;
            hasher.update(&bytes);
            Ok((file, hasher))
        })
        .await?;
        let Progress { name, done, total } = *progress;
        cx.emit(EventKind::download(name, done, total));
    }
    blocking(cx, move || file.sync_all().map_err(|error| Error::io(FETCH, &path, error))).await?;
    let found = hasher.finish();
    if found == stated {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DigestMismatch, FETCH, "the bytes are not those that the listing vouches for")
        .with_fault(Fault::Infrastructure)
        .with("listed", stated)
        .with("found", found)
        .with_hint("try again; if it happens again, the hub or the way to it is broken"))
}

fn parts(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(PART)).map(move |part| part * PART..((part + 1) * PART).min(size))
}

/// Waits until no other process fetches into the same folder.
fn locked(path: &Path) -> Result<File> {
    let io = |error| Error::io(FETCH, path, error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(file)
}

/// An empty folder, whatever an interrupted call has left there.
fn emptied(folder: &Path) -> Result<()> {
    let io = |error| Error::io(FETCH, folder, error);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(io)
}

fn create(path: &PathBuf) -> Result<File> {
    let io = |error| Error::io(FETCH, path, error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    File::create_new(path).map_err(io)
}

/// Makes a rename in `folder` last, where the file system can.
fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::io(FETCH, folder, error)),
        // Network file systems refuse it; the files themselves are on disk.
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    cx: &CallContext,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = cx.run(FETCH, tokio::task::spawn_blocking(work)).await?;
    done.map_err(|error| Error::bug(FETCH, error.to_string()))?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use albedo_core::{Digest, EventSink};
    use async_trait::async_trait;

    use super::*;

    /// Files whose listing is `listed`, each of whose bytes is `byte`.
    #[derive(Debug)]
    struct Files {
        listed: Vec<FileEntry>,
        byte: u8,
        read: AtomicU64,
    }

    impl Files {
        fn new(listed: Vec<FileEntry>) -> Self {
            Self { listed, byte: b'x', read: AtomicU64::new(0) }
        }
    }

    #[async_trait]
    impl ModelFiles for Files {
        async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
            Ok(self.listed.clone())
        }

        async fn read(&self, _: &str, range: Range<u64>, _: &CallContext) -> Result<Vec<u8>> {
            let bytes = range.end - range.start;
            self.read.fetch_add(bytes, Ordering::Relaxed);
            Ok(vec![self.byte; bytes as usize])
        }
    }

    fn entry(name: &str, size: u64) -> FileEntry {
        FileEntry::new(name, size).with_sha256(Digest::of(vec![b'x'; size as usize]))
    }

    #[tokio::test]
    async fn all_files_come_once_with_their_bytes_and_progress() {
        #[derive(Debug, Default)]
        struct Last(AtomicU64);
        impl EventSink for Last {
            fn on(&self, event: &albedo_core::Event) {
                if let EventKind::Progress { done, .. } = event.kind {
                    self.0.store(done, Ordering::Relaxed);
                }
            }
        }
        let place = tempfile::tempdir().expect("a folder");
        let into = place.path().join("models/one");
        let size = 2 * PART + 5;
        let files = Files::new(vec![entry("a/empty", 0), entry("a/weights", size)]);
        let last = Arc::new(Last::default());
        let cx = CallContext::new().with_events(last.clone());
        for _ in 0..2 {
            fetch(&files, &into, "one", &cx).await.expect("fetched");
        }
        assert_eq!(fs::read(into.join("a/weights")).expect("there"), vec![b'x'; size as usize]);
        assert_eq!(fs::read(into.join("a/empty")).expect("there"), b"");
        assert_eq!(files.read.load(Ordering::Relaxed), size, "nothing is fetched twice");
        assert_eq!(last.0.load(Ordering::Relaxed), size);
    }

    #[tokio::test]
    async fn what_is_not_vouched_for_leaves_no_folder_and_is_nobodys_fault() {
        for (listed, byte, kind, words) in [
            (entry("a", 3), b'y', ErrorKind::DigestMismatch, "vouches for"),
            (FileEntry::new("a", 3), b'x', ErrorKind::DataInvalid, "no digest"),
            (entry("../a", 3), b'x', ErrorKind::DataInvalid, "leaves the model's folder"),
            (entry("/a", 3), b'x', ErrorKind::DataInvalid, "leaves the model's folder"),
            (entry("b\\..\\a", 3), b'x', ErrorKind::DataInvalid, "leaves the model's folder"),
        ] {
            let place = tempfile::tempdir().expect("a folder");
            let into = place.path().join("model");
            let files = Files { byte, ..Files::new(vec![listed]) };
            let error = fetch(&files, &into, "one", &CallContext::new()).await.expect_err("refused");
            assert_eq!((error.kind(), error.fault()), (kind, Fault::Infrastructure), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!into.exists() && !place.path().join("a").exists());
        }
    }

    #[tokio::test]
    async fn what_an_interrupted_call_left_is_begun_again() {
        let place = tempfile::tempdir().expect("a folder");
        let into = place.path().join("model");
        fs::create_dir(place.path().join("model.part")).expect("a folder");
        fs::write(place.path().join("model.part/stale"), "half").expect("writes");
        fetch(&Files::new(vec![entry("a", 3)]), &into, "one", &CallContext::new()).await.expect("fetched");
        let names: Vec<_> = fs::read_dir(&into)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        assert_eq!(names, ["a"]);
        assert!(!place.path().join("model.part").exists());
    }
}
