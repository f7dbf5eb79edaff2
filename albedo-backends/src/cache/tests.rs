//! The cache under a quota, with several users, after kills, and with hostile files.

use std::fs;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use albedo_core::{Digest, ErrorKind, EventSink, Fault};
use async_trait::async_trait;

use super::*;

/// Files of one byte each.
#[derive(Debug)]
struct Files {
    listed: Vec<FileEntry>,
    byte: u8,
    read: AtomicU64,
    /// Ends every read from this one on with an error.
    broken_after: usize,
    reads: AtomicUsize,
}

impl Files {
    fn new(byte: u8, sizes: &[(&str, u64)]) -> Self {
        let entry = |(name, size): &(&str, u64)| {
            FileEntry::new(*name, *size).with_sha256(Digest::of(vec![byte; *size as usize]))
        };
        let listed = sizes.iter().map(entry).collect();
        Self { listed, byte, read: AtomicU64::new(0), broken_after: usize::MAX, reads: AtomicUsize::new(0) }
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl ModelFiles for Files {
    async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
        Ok(self.listed.clone())
    }

    async fn read(&self, _: &str, range: Range<u64>, _: &CallContext) -> Result<Vec<u8>> {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= self.broken_after {
            return Err(Error::new(ErrorKind::Unavailable, "read", "gone"));
        }
        let bytes = range.end - range.start;
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(vec![self.byte; bytes as usize])
    }
}

fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(folder.path());
    cache.set_limits(CacheLimits { quota: None, keep_free: 0 }).expect("set");
    (folder, cache)
}

/// Every path below the folder, and the bytes of all files, each counted once.
fn disk(folder: &Path) -> (Vec<String>, u64) {
    let (mut names, mut bytes, mut waiting) = (Vec::new(), 0, vec![folder.to_owned()]);
    while let Some(path) = waiting.pop() {
        // Models come and go meanwhile.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            names.push(path.strip_prefix(folder).expect("below").display().to_string());
            match fs::metadata(&path) {
                Ok(about) if about.is_dir() => waiting.push(path),
                Ok(about) if path.starts_with(folder.join("blobs")) => bytes += about.len(),
                Ok(about) if path.starts_with(folder.join("partial")) => bytes += about.len(),
                _ => {}
            }
        }
    }
    names.sort();
    (names, bytes)
}

#[tokio::test]
async fn all_files_come_once_with_their_bytes_and_progress() {
    #[derive(Debug, Default)]
    struct Last(AtomicU64);
    impl EventSink for Last {
        fn on(&self, event: &albedo_core::Event) {
            if let EventKind::Progress { done, .. } = event.kind {
                self.0.fetch_max(done, Ordering::Relaxed);
            }
        }
    }
    let (folder, cache) = cache();
    let size = (9 << 20) + 5;
    let files = Files::new(b'x', &[("a/empty", 0), ("a/weights", size), ("copy", size)]);
    let last = Arc::new(Last::default());
    let cx = CallContext::new().with_events(last.clone());
    for _ in 0..2 {
        let held = cache.hold("one", &files, &cx).await.expect("held");
        for (name, size) in [("a/weights", size), ("a/empty", 0), ("copy", size)] {
            assert_eq!(fs::read(held.folder().join(name)).expect("there"), vec![b'x'; size as usize]);
        }
        assert_eq!(held.files(), files.listed);
    }
    assert_eq!(files.read(), size, "nothing is fetched twice, two files of the same bytes once");
    assert_eq!(last.0.load(Ordering::Relaxed), 2 * size);
    // A model that shares a file brings only its own.
    let other = Files::new(b'x', &[("weights", size), ("more", 3)]);
    cache.hold("other", &other, &cx).await.expect("held");
    assert_eq!(other.read(), 3);
    let check = cache.verify(&cx).expect("verifies");
    assert_eq!((check.sound.len(), check.damaged.len()), (2, 0));
    assert_eq!(disk(folder.path()).1, size + 3);
}

#[tokio::test]
async fn what_is_not_vouched_for_leaves_nothing_and_is_nobodys_fault() {
    for (listed, kind, words) in [
        (FileEntry::new("a", 3).with_sha256(Digest::of("other")), ErrorKind::DigestMismatch, "vouches for"),
        (FileEntry::new("a", 3), ErrorKind::DataInvalid, "no digest"),
        (FileEntry::new("../a", 3).with_sha256(Digest::of("xxx")), ErrorKind::DataInvalid, "leaves"),
    ] {
        let (folder, cache) = cache();
        let files = Files { listed: vec![listed], ..Files::new(b'x', &[]) };
        let error = cache.hold("one", &files, &CallContext::new()).await.expect_err("refused");
        assert_eq!((error.kind(), error.fault()), (kind, Fault::Infrastructure), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(cache.list().expect("lists").is_empty());
        cache.collect().expect("collects");
        assert_eq!(disk(folder.path()).0, ["blobs", "keep", "limits.json", "lock", "models", "partial"]);
    }
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let (folder, cache) = cache();
    let size = 64 << 20;
    let mut files = Files::new(b'x', &[("weights", size)]);
    files.broken_after = 9;
    let cx = CallContext::new();
    cache.hold("one", &files, &cx).await.expect_err("broken");
    let got = files.read();
    assert!(got > 0 && cache.list().expect("lists").is_empty());
    // Half a range, and then rubbish, as a crash may leave them.
    let partial = folder.path().join("partial").join(Digest::of(vec![b'x'; size as usize]).to_string());
    let length = fs::metadata(&partial).expect("is there").len();
    assert!(length > 0);
    fs::OpenOptions::new().write(true).open(&partial).expect("opens").set_len(length + 1).expect("grows");
    let files = Files::new(b'x', &[("weights", size)]);
    cache.hold("one", &files, &cx).await.expect("held");
    assert_eq!(files.read() + length, size);

    // What lies on the disk is not believed.
    let (folder, cache) = self::cache();
    fs::create_dir_all(folder.path().join("partial")).expect("a folder");
    fs::write(folder.path().join("partial").join(partial.file_name().expect("a name")), vec![b'y'; 8 << 20])
        .expect("written");
    let files = Files::new(b'x', &[("weights", size)]);
    let held = cache.hold("one", &files, &cx).await.expect("held");
    assert_eq!(
        Digest::of(fs::read(held.folder().join("weights")).expect("there")),
        files.listed[0].sha256.expect("a digest")
    );
}

#[tokio::test]
async fn a_folder_with_a_file_alone_is_no_model() {
    let (folder, cache) = cache();
    let cx = CallContext::new();
    let model = folder.path().join("models").join(Digest::of("one").to_string());
    fs::create_dir_all(&model).expect("a folder");
    fs::write(model.join("config.json"), "xx").expect("written");
    assert!(cache.held("one", &cx).await.expect("looks").is_none());
    let files = Files::new(b'x', &[("config.json", 2), ("weights", 10)]);
    drop(cache.hold("one", &files, &cx).await.expect("held"));
    assert_eq!(files.read(), 12);
    // Nor is one that lost a file.
    fs::remove_file(model.join("weights")).expect("removed");
    assert!(cache.held("one", &cx).await.expect("looks").is_none());
    let again = Files::new(b'x', &[("config.json", 2), ("weights", 10)]);
    cache.hold("one", &again, &cx).await.expect("held");
    assert_eq!(again.read(), 0, "its bytes are still there");
}

#[tokio::test]
async fn two_users_of_a_small_cache_never_take_more_than_its_quota() {
    const SIZE: u64 = 1 << 20;
    let (folder, first) = cache();
    let quota = 6 * SIZE + 6 * 4096;
    first.set_limits(CacheLimits { quota: Some(quota), keep_free: 0 }).expect("set");
    let cx = CallContext::new();
    let king = Files::new(0, &[("weights", SIZE)]);
    drop(first.hold("king", &king, &cx).await.expect("held"));
    first.keep("king", "king").expect("kept");
    let held =
        Arc::new(first.hold("running", &Files::new(1, &[("weights", SIZE)]), &cx).await.expect("held"));
    let user = async |cache: Cache, offset: u8| {
        for model in 0..40_u8 {
            let byte = 2 + (model + offset) % 40;
            let files = Files::new(byte, &[("config.json", 2), ("weights", SIZE)]);
            let own = cache.hold(&format!("model {byte}"), &files, &cx).await.expect("held");
            assert_eq!(fs::read(own.folder().join("weights")).expect("leased").len() as u64, SIZE);
            let bytes = disk(folder.path()).1;
            assert!(bytes <= quota + SIZE + 2, "{bytes}");
        }
    };
    // Two caches of one folder: their locks are as those of two processes.
    futures::join!(user(Cache::new(folder.path()), 0), user(Cache::new(folder.path()), 20));
    assert!(
        held.folder().join("weights").exists() && first.held("king", &cx).await.expect("looks").is_some()
    );
    let listed = first.list().expect("lists");
    assert!((4..=6).contains(&listed.len()), "{listed:?}");
    let kept: Vec<_> =
        listed.iter().filter(|model| !model.kept.is_empty()).map(|model| &model.name).collect();
    assert_eq!(kept, ["king"]);
    assert_eq!(listed.iter().filter(|model| model.in_use).count(), 1);
    // The one used last stays longest.
    first.set_limits(CacheLimits { quota: Some(3 * SIZE + 3 * 4096), keep_free: 0 }).expect("set");
    let newest = listed.last().expect("a model").name.clone();
    let collected = first.collect().expect("collects");
    assert!(collected.bytes <= 3 * SIZE + 3 * 4096 && !collected.models.contains(&newest), "{collected:?}");
    assert!(!collected.models.iter().any(|name| name == "king" || name == "running"));
    first.release("king").expect("released");
    drop(held);
    first.set_limits(CacheLimits { quota: Some(0), keep_free: 0 }).expect("set");
    assert_eq!(first.collect().expect("collects").bytes, 0);
    assert!(first.list().expect("lists").is_empty());
}

#[tokio::test]
async fn space_is_refused_before_the_first_byte() {
    let (_folder, cache) = cache();
    let cx = CallContext::new();
    for (limits, fault, words) in [
        (CacheLimits { quota: Some(10), keep_free: 0 }, Fault::Operator, "quota"),
        (CacheLimits { quota: None, keep_free: 1 << 60 }, Fault::Infrastructure, "free space"),
    ] {
        cache.set_limits(limits).expect("set");
        let files = Files::new(b'x', &[("weights", 1 << 20)]);
        let error = cache.hold("one", &files, &cx).await.expect_err("no room");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, fault), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(files.read(), 0);
    }
}

#[tokio::test]
async fn sizes_that_no_number_holds_together_are_counted_up_to_the_largest() {
    let (_folder, cache) = cache();
    let mut files = Files::new(b'x', &[("a", 3)]);
    // Other names of the same bytes, of which the listing says something else.
    for name in ["b", "c"] {
        files.listed.push(FileEntry::new(name, u64::MAX).with_sha256(Digest::of("xxx")));
    }
    drop(cache.hold("one", &files, &CallContext::new()).await.expect("held"));
    assert!(cache.list().expect("lists").is_empty(), "no model has such files");
}

#[tokio::test]
async fn two_downloads_of_one_file_share_it() {
    let (_folder, cache) = cache();
    let cx = CallContext::new();
    let (one, other) =
        (Files::new(b'x', &[("weights", 40 << 20)]), Files::new(b'x', &[("weights", 40 << 20), ("a", 1)]));
    let (first, second) = futures::join!(cache.hold("one", &one, &cx), cache.hold("other", &other, &cx));
    first.expect("held");
    second.expect("held");
    assert_eq!(one.read() + other.read(), (40 << 20) + 1);
}

#[tokio::test]
async fn damage_is_found_and_removed() {
    let (folder, cache) = cache();
    let cx = CallContext::new();
    drop(cache.hold("one", &Files::new(b'x', &[("weights", 10)]), &cx).await.expect("held"));
    let blob =
        fs::read_dir(folder.path().join("blobs")).expect("a folder").next().expect("one").expect("one");
    let mut permissions = blob.metadata().expect("metadata").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the test does what nobody should")]
    permissions.set_readonly(false);
    fs::set_permissions(blob.path(), permissions).expect("writable");
    fs::write(blob.path(), "xxxxxxxxxy").expect("written");
    let check = cache.verify(&cx).expect("verifies");
    assert_eq!(check.damaged, ["one"]);
    assert!(cache.held("one", &cx).await.expect("looks").is_none());
    cache.hold("one", &Files::new(b'x', &[("weights", 10)]), &cx).await.expect("brought again");
    assert!(cache.verify(&cx).expect("verifies").damaged.is_empty());
    for label in ["", "a/b", "..", "a b"] {
        assert_eq!(cache.keep(label, "one").expect_err("no word").kind(), ErrorKind::ConfigInvalid);
    }
}
