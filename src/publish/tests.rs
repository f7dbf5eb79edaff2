//! What a reader sees while publishers work, fail and are killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::http::{HeaderMap, HttpRequest, HttpResponse, HttpTransport, StatusCode};
use crate::log::{FolderLog, History, Log};
use crate::plan::DuelSettings;
use crate::rng::{Stream, Use};
use crate::signer::KeyFile;
use crate::{
    CallContext, Clock, Digest, Error, ErrorKind, Fault, FileStore, Result, Retry, Rule, Seed, Signer,
    VirtualClock,
};

mod drained;
mod exported;
mod lies;

fn make_records(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..6_u64 {
            let store = FileStore::create(folder.join(number.to_string())).expect("a store");
            let (cx, rule) = (CallContext::new(), Rule::Margin { win_margin: 2.0 });
            let settings =
                DuelSettings { samples: 8, rule, seed: Seed::from(number), ..DuelSettings::default() };
            let duel = crate::testing::small_duel().settings(settings).plan(&store, &cx).await;
            duel.expect("plans").run(&store, &cx).await.expect("runs");
        }
    });
}

/// Records of small duels, made once: `count` of them, from the first.
fn records(count: usize) -> Vec<PathBuf> {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        // On a thread without a runtime: the caller's test may run in one.
        std::thread::scope(|scope| scope.spawn(|| make_records(folder.path())).join()).expect("are made");
        folder
    });
    (0..count).map(|number| made.path().join(number.to_string())).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures").join(name)
}

fn copy(record: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes");
    for name in ["record.jsonl", "record.blobs", "record.digest"] {
        fs::copy(record.join(name), to.join(name)).expect("copies");
    }
}

/// A folder with copies of `records`.
fn folder_of(records: &[PathBuf]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for record in records {
        copy(record, &folder.path().join(record.file_name().expect("a name")));
    }
    folder
}

fn digest(record: &Path) -> Digest {
    let text = fs::read_to_string(record.join("record.digest")).expect("reads");
    text.lines().next().expect("a line").parse().expect("a digest")
}

fn memory() -> Arc<dyn Bucket> {
    Arc::new(ObjectBucket::new(Arc::new(InMemory::new()), "memory", "site"))
}

fn hasty() -> Settings {
    let millisecond = Duration::from_millis(1);
    Settings {
        backoff: Backoff { first: millisecond, most: millisecond, operator: millisecond },
        patience: Duration::from_millis(200),
        ..Settings::default()
    }
}

/// A bucket whose requests fail before or after they took effect, whose answers come in
/// any order, and whose user is killed at some request.
#[derive(Debug)]
struct Flaky {
    inner: Arc<dyn Bucket>,
    stream: Mutex<Stream>,
    /// Of 100 requests.
    failures: u64,
    /// Requests until the kill.
    left: Mutex<u64>,
    keeps: Keeps,
}

/// How a bucket takes the conditions of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Conditions,
    /// It checks one first, and writes a while later.
    ConditionsAtFirst,
    None,
}

impl Flaky {
    fn draw(&self, below: u64) -> u64 {
        self.stream.lock().expect("lock").below(below)
    }

    async fn request<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        for _ in 0..self.draw(4) {
            tokio::task::yield_now().await;
        }
        let killed = || Err(Error::cancelled("killed"));
        {
            let mut left = self.left.lock().expect("lock");
            if *left == 0 {
                return killed();
            }
            *left -= 1;
            if *left == 0 && self.draw(2) == 0 {
                return killed();
            }
        }
        let failed = || {
            let error = Error::new(ErrorKind::Unavailable, "ask", "the server failed");
            Err(error.with_retry(Retry::Backoff))
        };
        let fails = self.draw(100) < self.failures;
        if fails && self.draw(2) == 0 {
            return failed();
        }
        let done = work.await;
        for _ in 0..self.draw(4) {
            tokio::task::yield_now().await;
        }
        if *self.left.lock().expect("lock") == 0 {
            return killed();
        }
        if fails { failed() } else { done }
    }
}

#[async_trait]
impl Bucket for Flaky {
    fn place(&self) -> String {
        "flaky".into()
    }

    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        self.request(self.inner.read(name, most, cx)).await
    }

    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes> {
        self.request(self.inner.read_range(name, start, end, cx)).await
    }

    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>> {
        self.request(self.inner.size(name, cx)).await
    }

    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written> {
        let mode = match (self.keeps, mode) {
            (Keeps::None, _) => Mode::Always,
            (Keeps::ConditionsAtFirst, Mode::IfUnchanged(version)) => {
                let there = self.inner.read(name, u64::MAX, cx).await?;
                if there.is_none_or(|object| object.version != version) {
                    return self.request(async { Ok(Written::Refused) }).await;
                }
                Mode::Always
            }
            (_, mode) => mode,
        };
        self.request(self.inner.write(name, content, mode, cx)).await
    }

    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>> {
        self.request(self.inner.folders(folder, cx)).await
    }
}

/// Publishes from `folder` until nothing is left, or until it is killed.
async fn publish_until_killed(bucket: Flaky, folder: &Path) -> bool {
    let cx = CallContext::new();
    let Ok(publisher) = Publisher::open(Arc::new(bucket), hasty(), &cx).await else { return false };
    let outbox = FolderOutbox::open(folder).expect("opens");
    outbox.scan().expect("scans");
    matches!(publisher.drain_folder(&outbox, &cx).await, Ok(drained) if drained.waiting == 0)
}

/// Reads the index again and again until `ended`: whatever it names is there and true.
async fn poll(bucket: Arc<dyn Bucket>, ended: &AtomicBool) -> usize {
    let (cx, mut reads) = (CallContext::new(), 0);
    while !ended.load(Ordering::SeqCst) {
        let reader = Reader::new(Arc::clone(&bucket));
        for entry in reader.entries(&cx).await.expect("the index can be read at any time") {
            reader.verify(&entry, &cx).await.expect("what the index names is there");
        }
        reads += 1;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    reads
}

/// Two publishers with records in common, failing and killed; what is in the index then.
fn two_publishers(seed: u64, keeps: Keeps) -> Vec<Digest> {
    let all = records(6);
    let folders = [folder_of(&all[..4]), folder_of(&all[2..])];
    let bucket = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ended = AtomicBool::new(false);
        let work = async {
            let mut stream = Stream::new(seed, Use::Chaos);
            let mut done = [false; 2];
            for round in 0..60 {
                let mut flaky = |failures| Flaky {
                    inner: Arc::clone(&bucket),
                    stream: Mutex::new(Stream::new(stream.below(u64::MAX), Use::Chaos)),
                    failures,
                    // Later rounds live longer, so that all of it ends.
                    left: Mutex::new(1 + stream.below(40 + 30 * round)),
                    keeps,
                };
                let (one, other) = (flaky(15), flaky(15));
                let (one, other) = futures::join!(
                    publish_until_killed(one, folders[0].path()),
                    publish_until_killed(other, folders[1].path())
                );
                done = [done[0] || one, done[1] || other];
                if done == [true; 2] {
                    break;
                }
            }
            assert_eq!(done, [true; 2], "both come to an end");
            ended.store(true, Ordering::SeqCst);
        };
        let (reads, ()) = futures::join!(poll(Arc::clone(&bucket), &ended), work);
        assert!(reads > 1, "the reader was there all the time");
        let (cx, reader) = (CallContext::new(), Reader::new(bucket));
        let entries = reader.entries(&cx).await.expect("reads");
        for entry in &entries {
            reader.verify(entry, &cx).await.expect("is true");
        }
        entries.iter().map(|entry| entry.record).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_never_sees_what_is_not_there_and_every_record_is_listed_once(seed: u64, keeps in 0..3_usize) {
        let keeps = [Keeps::Conditions, Keeps::ConditionsAtFirst, Keeps::None][keeps];
        let listed = two_publishers(seed, keeps);
        let distinct: BTreeSet<_> = listed.iter().copied().collect();
        let expected: BTreeSet<_> = records(6).iter().map(|record| digest(record)).collect();
        prop_assert_eq!(listed.len(), 6, "each once");
        prop_assert_eq!(distinct, expected);
    }
}

/// What every bucket promises.
async fn promises(bucket: Arc<dyn Bucket>) {
    let (cx, bytes) =
        (CallContext::new(), |text: &'static str| Content::Bytes(Bytes::from_static(text.as_bytes())));
    let write =
        async |name: &str, text, mode| bucket.write(name, bytes(text), mode, &cx).await.expect("writes");
    assert_eq!(probe(&*bucket, &cx).await.expect("probes"), Conditions::Kept);
    assert_eq!(bucket.read("a/b.json", 10, &cx).await.expect("reads"), None);
    assert_eq!(bucket.size("a/b.json", &cx).await.expect("asks"), None);
    let missing = Mode::IfUnchanged(Version::new("\"0\""));
    assert_eq!(
        write("a/b.json", "no", missing).await,
        Written::Refused,
        "what is not there is not unchanged"
    );
    assert_eq!(write("a/b.json", "one", Mode::IfAbsent).await, Written::Yes);
    assert_eq!(write("a/b.json", "two", Mode::IfAbsent).await, Written::Refused);
    let first = bucket.read("a/b.json", 3, &cx).await.expect("reads").expect("is there");
    assert_eq!(&first.bytes[..], b"one");
    assert_eq!(write("a/b.json", "three", Mode::IfUnchanged(first.version.clone())).await, Written::Yes);
    assert_eq!(write("a/b.json", "four", Mode::IfUnchanged(first.version)).await, Written::Refused);
    assert_eq!(bucket.size("a/b.json", &cx).await.expect("asks"), Some(5));
    assert_eq!(&bucket.read_range("a/b.json", 1, 4, &cx).await.expect("reads")[..], b"hre");
    assert!(bucket.read_range("a/b.json", 3, 9, &cx).await.is_err(), "it is shorter");
    assert!(bucket.read("a/b.json", 4, &cx).await.is_err(), "it is longer than may be read");
    for name in ["a/c/d", "a/b/e", "a/c/f/g", "ab/c/d"] {
        write(name, "x", Mode::Always).await;
    }
    assert_eq!(bucket.folders("a", &cx).await.expect("lists"), ["b", "c"]);
    assert_eq!(bucket.folders("nothing", &cx).await.expect("lists"), <[String; 0]>::default());
    for name in ["../x", "a//b", "/etc/x", ""] {
        assert_eq!(bucket.read(name, 1, &cx).await.expect_err("no name").fault(), Fault::Bug, "{name}");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "from a file").expect("writes");
    let content = |size| Content::File { path: file.path().to_owned(), size };
    bucket.write("a/file", content(11), Mode::IfAbsent, &cx).await.expect("writes");
    let read = bucket.read("a/file", 11, &cx).await.expect("reads").expect("is there");
    assert_eq!(&read.bytes[..], b"from a file");
    assert!(bucket.write("a/short", content(12), Mode::IfAbsent, &cx).await.is_err(), "the file has changed");
    assert_eq!(bucket.size("a/short", &cx).await.expect("asks"), None, "nothing is half there");
    cx.cancel();
    assert_eq!(bucket.read("ab", 1, &cx).await.expect_err("cancelled").kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn folders_and_stores_keep_the_same_promises() {
    promises(memory()).await;
    let folder = tempfile::tempdir().expect("a folder");
    promises(Arc::new(FolderBucket::open(folder.path()).expect("opens"))).await;
    let left: Vec<_> = fs::read_dir(folder.path().join(".albedo")).expect("reads").flatten().collect();
    assert_eq!(left.len(), 1, "only the lock is left: {left:?}");
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_only_once() {
    let (bucket, cx) = (memory(), CallContext::new());
    let file = tempfile::NamedTempFile::new().expect("a file");
    let size = (64 << 20) + 12_345;
    file.as_file().set_len(size).expect("sets");
    let content = || Content::File { path: file.path().to_owned(), size };
    let write = async || bucket.write("records/x/record.blobs", content(), Mode::IfAbsent, &cx).await;
    assert_eq!(write().await.expect("writes"), Written::Yes);
    assert_eq!(write().await.expect("asks"), Written::Refused);
    let read = super::index::digest_of(&*bucket, "records/x/record.blobs", size, &cx).await.expect("reads");
    assert_eq!(read, Some(Digest::of_reader(file.reopen().expect("opens")).expect("reads")));
}

/// Documents that wait, each with the time from which on it is due.
#[derive(Debug)]
struct Waiting(Mutex<Vec<(Item, u64)>>);

impl Waiting {
    fn items(&self) -> std::sync::MutexGuard<'_, Vec<(Item, u64)>> {
        self.0.lock().expect("lock")
    }
}

#[async_trait]
impl Outbox for Waiting {
    async fn next(&self, now_ms: u64) -> Result<Next> {
        let items = self.items();
        Ok(match items.iter().min_by_key(|(_, due_ms)| *due_ms) {
            Some((item, due_ms)) if *due_ms <= now_ms => Next::Due(item.clone()),
            Some((_, due_ms)) => Next::Later(*due_ms),
            None => Next::Nothing,
        })
    }

    async fn done(&self, id: u64, _: u64) -> Result<()> {
        self.items().retain(|(item, _)| item.id != id);
        Ok(())
    }

    async fn failed(&self, id: u64, failure: &Failure, _: u64) -> Result<()> {
        let mut items = self.items();
        let (item, due_ms) = items.iter_mut().find(|(item, _)| item.id == id).expect("it waits");
        item.tries += 1;
        *due_ms = failure.again_ms.expect("an outage");
        Ok(())
    }

    async fn lag(&self, _: u64) -> Result<Lag> {
        Ok(Lag { waiting: self.items().len() as u64, ..Lag::default() })
    }
}

/// A bucket that takes two minutes to write a document, fails every other time, and always with
/// one of them.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Bucket>,
    clock: VirtualClock,
    fails: AtomicBool,
}

#[async_trait]
impl Bucket for Slow {
    fn place(&self) -> String {
        "slow".into()
    }

    async fn read(&self, name: &str, most: u64, cx: &CallContext) -> Result<Option<Object>> {
        self.inner.read(name, most, cx).await
    }

    async fn read_range(&self, name: &str, start: u64, end: u64, cx: &CallContext) -> Result<Bytes> {
        self.inner.read_range(name, start, end, cx).await
    }

    async fn size(&self, name: &str, cx: &CallContext) -> Result<Option<u64>> {
        self.inner.size(name, cx).await
    }

    async fn write(&self, name: &str, content: Content, mode: Mode, cx: &CallContext) -> Result<Written> {
        if name.starts_with("data/") {
            self.clock.sleep_until(self.clock.now() + Duration::from_mins(2)).await;
            if name == "data/never.json" || !self.fails.fetch_xor(true, Ordering::SeqCst) {
                let error = Error::new(ErrorKind::Unavailable, "ask", "the server failed");
                return Err(error.with_retry(Retry::Backoff));
            }
        }
        self.inner.write(name, content, mode, cx).await
    }

    async fn folders(&self, folder: &str, cx: &CallContext) -> Result<Vec<String>> {
        self.inner.folders(folder, cx).await
    }
}

#[tokio::test]
async fn a_document_that_is_being_written_is_read_again() {
    let cx = CallContext::new();
    let (bucket, folder) = (memory(), folder_of(&records(2)));
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    let publisher = Publisher::open(Arc::clone(&bucket), hasty(), &cx).await.expect("opens");
    publisher.drain_folder(&outbox, &cx).await.expect("drains");
    let reader = Reader::new(Arc::clone(&bucket));
    let entries = reader.entries(&cx).await.expect("reads");
    let write = async |name: &str, bytes: Bytes| {
        bucket.write(name, Content::Bytes(bytes), Mode::Always, &cx).await.expect("writes")
    };
    for name in ["index.json", &RecordManifest::at(entries[0].record)] {
        let whole = bucket.read(name, 1 << 20, &cx).await.expect("reads").expect("is there").bytes;
        for shown in [0, whole.len() / 2] {
            write(name, whole.slice(..shown)).await;
            // The reader comes first, and the writer goes on while it pauses.
            let read = async { (reader.index(&cx).await, reader.manifest(entries[0].record, &cx).await) };
            let ((index, manifest), _) = tokio::join!(read, write(name, whole.clone()));
            assert!(matches!((index, manifest), (Ok(Some(_)), Ok(Some(_)))), "{name}, {shown} bytes");
        }
    }
    write("index.json", Bytes::from_static(b"{")).await;
    let never = reader.index(&cx).await.expect_err("nobody goes on");
    assert_eq!(never.kind(), ErrorKind::DataInvalid, "{never}");
    assert!(never.to_string().contains("index.json"), "{never}");
    assert!(never.hint().is_some_and(|hint| hint.starts_with("remove this object")), "{never}");
}

#[tokio::test]
async fn an_index_that_was_removed_is_made_again_from_the_records() {
    let cx = CallContext::new();
    let store = Arc::new(InMemory::new());
    let bucket: Arc<dyn Bucket> = Arc::new(ObjectBucket::new(store.clone(), "memory", "site"));
    let publisher = Publisher::open(bucket, hasty(), &cx).await.expect("opens");
    let publish = async |records: &[PathBuf]| {
        let folder = folder_of(records);
        let outbox = FolderOutbox::open(folder.path()).expect("opens");
        outbox.scan().expect("scans");
        // As a validator does: afterwards nothing compares the index with what is there.
        publisher.drain(&outbox, &cx).await.expect("drains").published
    };
    let records = records(4);
    assert_eq!(publish(&records[..3]).await, 3);
    store.delete(&"site/index.json".into()).await.expect("is removed");
    assert_eq!(publish(&records[3..]).await, 1);
    assert_eq!(publisher.reader().entries(&cx).await.expect("reads").len(), 4);
}

#[test]
fn patience_lasts_as_long_as_something_is_published() {
    let clock = VirtualClock::new();
    let bucket = Slow { inner: memory(), clock: clock.clone(), fails: AtomicBool::new(false) };
    let item = |id, name: &str| {
        let work = Work::Document { name: format!("data/{name}.json"), bytes: Bytes::new() };
        (Item { id, work, added_ms: 0, tries: 0 }, 0)
    };
    let items = (0..10).map(|id| item(id, &id.to_string())).chain([item(10, "never")]);
    let outbox = Waiting(Mutex::new(items.collect()));
    let patience = Duration::from_mins(5);
    let settings = Settings { clock: Arc::new(clock.clone()), patience, ..Settings::default() };
    let drained = clock.run(async {
        let cx = CallContext::new();
        let publisher = Publisher::open(Arc::new(bucket), settings, &cx).await.expect("opens");
        publisher.drain(&outbox, &cx).await.expect("drains")
    });
    let drained = drained.expect("it ends, though one never gets through");
    assert_eq!((drained.published, drained.waiting), (10, 1), "{drained:?}");
    assert!(clock.now() > 4 * patience, "it took longer than its patience");
}

#[tokio::test]
async fn patience_may_be_endless() {
    let (cx, settings) = (CallContext::new(), Settings { patience: Duration::MAX, ..Settings::default() });
    let publisher = Publisher::open(memory(), settings, &cx).await.expect("opens");
    let drained = publisher.drain(&Waiting(Mutex::default()), &cx).await.expect("drains");
    assert_eq!(drained.waiting, 0);
}

#[tokio::test]
async fn one_failure_keeps_no_other_record_from_being_published() {
    let cx = CallContext::new();
    let folder = folder_of(&records(3));
    let altered = folder.path().join("1/record.blobs");
    let whole = fs::read(&altered).expect("reads");
    fs::write(&altered, &whole[1..]).expect("writes");
    copy(&fixture("forfeit-3"), &folder.path().join("deep/er/forfeit"));
    let (bucket, outbox) = (memory(), FolderOutbox::open(folder.path()).expect("opens"));
    assert_eq!(outbox.scan().expect("scans"), 4);
    assert_eq!(outbox.scan().expect("scans"), 0, "all are in the queue");
    let publisher = Publisher::open(Arc::clone(&bucket), hasty(), &cx).await.expect("opens");
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    assert_eq!((drained.published, drained.waiting, drained.stopped, drained.failures), (3, 1, 1, 1));
    let error = drained.error.expect("an error").to_string();
    assert!(error.contains("record.blobs") && error.contains("altered"), "{error}");
    let queue = outbox.list(9).expect("lists");
    assert_eq!(
        (queue[0].folder.as_str(), queue[0].due_ms, queue[0].tries),
        ("1", None, 1),
        "somebody has to act"
    );
    let lag = outbox.lag(publisher.now_ms()).await.expect("asks");
    assert!(
        lag.oldest_ms.is_some() && lag.at(lag.oldest_ms.expect("waits") + 7_000) == Duration::from_secs(7)
    );

    // Mended, and tried again.
    fs::write(&altered, whole).expect("writes");
    assert_eq!(
        publisher.drain_folder(&outbox, &cx).await.expect("drains").published,
        0,
        "nobody has said so"
    );
    assert_eq!(outbox.retry().expect("retries"), 1);
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    assert_eq!((drained.published, drained.waiting), (1, 0));
    assert_eq!(outbox.counts().expect("counts"), (4, 4));

    // A queue that was lost finds what is published.
    fs::remove_file(folder.path().join("publish.sqlite")).expect("removes");
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    assert_eq!((drained.published, drained.already, drained.waiting), (0, 4, 0));
    let reader = Reader::new(bucket);
    let status = publisher.bucket_read("data/status.json", &cx).await.expect("reads");
    let status: public::Status = serde_json::from_slice(&status).expect("a status");
    assert_eq!(status.source, public::StatusSource::Records);
    assert_eq!(status.kings.len(), 4, "each small duel crowns its challenger");
    assert_eq!(reader.entries(&cx).await.expect("reads").len(), 4);
}

#[cfg(feature = "server")]
#[test]
fn the_lag_is_a_metric_with_its_help() {
    let folder = folder_of(&records(2));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let asked = async {
        let cx = CallContext::new();
        let outbox = FolderOutbox::open(folder.path()).expect("opens");
        outbox.scan().expect("scans");
        let publisher = Publisher::open(memory(), hasty(), &cx).await.expect("opens");
        publisher.lag(&outbox).await.expect("asks")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let lag = metrics::with_local_recorder(&recorder, || runtime.block_on(asked));
    assert_eq!((lag.waiting, lag.stopped), (2, 0));
    let text = recorder.handle().render();
    assert!(text.contains("albedo_publish_waiting 2") && text.contains("albedo_publish_stopped 0"), "{text}");
    assert!(text.contains("# HELP albedo_publish_lag_seconds "), "{text}");
}

#[tokio::test]
async fn a_second_process_does_not_publish_from_the_same_folder() {
    let folder = folder_of(&records(1));
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    let _lock = outbox.lock().expect("locks");
    let again = FolderOutbox::open(folder.path()).expect("others may look").lock().expect_err("is locked");
    assert_eq!((again.kind(), again.fault()), (ErrorKind::Conflict, Fault::Operator));
    let damaged = folder_of(&records(1));
    fs::write(damaged.path().join("publish.sqlite"), vec![7; 8192]).expect("writes");
    let error = FolderOutbox::open(damaged.path()).expect_err("no database");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
    let error = FolderOutbox::open(folder.path().join("none")).expect_err("no folder");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn pauses_grow_and_nobody_waits_for_what_time_does_not_mend() {
    let backoff = Backoff::default();
    let of = |kind| Error::new(kind, "publish", "no");
    let secs = |error: &Error, tries| backoff.pause(error, tries).map(|pause| pause.as_secs());
    let outage = of(ErrorKind::Unavailable);
    assert_eq!([0, 1, 2, 8, 40].map(|tries| secs(&outage, tries)), [1, 2, 4, 256, 300].map(Some));
    let asked = of(ErrorKind::RateLimited).with_retry(Retry::After(Duration::from_secs(7)));
    assert_eq!(secs(&asked, 9), Some(7), "a server that says when is believed");
    assert_eq!(secs(&outage.clone().with_fault(Fault::Operator), 0), Some(300));
    assert_eq!(secs(&of(ErrorKind::DataInvalid).with("record", "x"), 0), None);
    assert_eq!(secs(&of(ErrorKind::DataInvalid), 0), Some(1), "the server's answer, not the record");
    assert_eq!(secs(&Error::bug("publish", "no"), 0), None);
}

#[tokio::test]
async fn a_log_is_published_before_what_it_logs_and_never_a_second_history() {
    let cx = CallContext::new();
    let (folder, place) = (folder_of(&records(2)), tempfile::tempdir().expect("a folder"));
    let key = Arc::new(KeyFile::from_seed(&[7; 32]));
    let log =
        |name: &str| LogSource::new(place.path().join(name), key.clone(), Some("example.com/log".into()));
    let bucket: Arc<dyn Bucket> = Arc::new(FolderBucket::open(place.path().join("site")).expect("opens"));
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    let settings = Settings { log: Some(log("log")), ..hasty() };
    let publisher = Publisher::open(Arc::clone(&bucket), settings.clone(), &cx).await.expect("opens");
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    assert_eq!((drained.published, drained.waiting), (2, 0), "{:?}", drained.error);

    let published = Arc::new(FolderLog::new(place.path().join("site/log")));
    let read = Log::open(published, Some(&key.key()), &cx).await.expect("opens");
    let history = History::new(read.head(), &read.entries(&cx).await.expect("reads")).expect("entries");
    assert_eq!((history.entries().len(), history.check_ends().len()), (4, 0));
    let entries = publisher.reader().entries(&cx).await.expect("reads");
    for entry in &entries {
        assert_eq!(entry.log_entry, history.place(entry.record), "the index names the entry");
    }

    // Published again from the start, nothing is appended.
    outbox_again(folder.path());
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    assert_eq!(publisher.drain_folder(&outbox, &cx).await.expect("drains").already, 2);

    // Another log of the same key and name, begun anew.
    outbox_again(folder.path());
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    let settings = Settings { log: Some(log("other")), ..settings };
    let publisher = Publisher::open(bucket, settings, &cx).await.expect("opens");
    let drained = publisher.drain_folder(&outbox, &cx).await.expect("drains");
    let error = drained.error.expect("refused");
    assert!(error.to_string().contains("another history"), "{error}");
    assert_eq!((error.fault(), drained.published + drained.already), (Fault::Operator, 0));
    let read =
        Log::open(Arc::new(FolderLog::new(place.path().join("site/log"))), Some(&key.key()), &cx).await;
    assert_eq!(read.expect("opens").head().size, 4, "what is published stays");
}

fn outbox_again(folder: &Path) {
    for name in ["publish.sqlite", "publish.sqlite-wal", "publish.sqlite-shm"] {
        let _ = fs::remove_file(folder.join(name));
    }
}

#[tokio::test]
async fn the_index_has_pages_and_a_newer_one_is_refused() {
    let (cx, bucket) = (CallContext::new(), memory());
    let publisher = Publisher::open(Arc::clone(&bucket), hasty(), &cx).await.expect("opens");
    let folder = folder_of(&records(1));
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    publisher.drain_folder(&outbox, &cx).await.expect("drains");
    let one = publisher.reader().entries(&cx).await.expect("reads").remove(0);
    let entry = |number: u64| public::IndexEntry { record: Digest::of(number.to_string()), ..one.clone() };
    for number in 0..600 {
        publisher.index_add(&entry(number), number, &cx).await.expect("adds");
    }
    let reader = Reader::new(Arc::clone(&bucket));
    let index = reader.index(&cx).await.expect("reads").expect("is there");
    assert_eq!((index.records, index.pages.len(), index.entries.len()), (601, 2, 601 - 512));
    let listed: Vec<_> = reader.entries(&cx).await.expect("reads").iter().map(|entry| entry.record).collect();
    let expected: Vec<_> =
        std::iter::once(one.record).chain((0..600).map(|number| entry(number).record)).collect();
    assert_eq!(listed, expected, "in the order of publication");
    // Also one in an old page is not listed again.
    publisher.index_add(&entry(3), 9, &cx).await.expect("is there");
    assert_eq!(reader.index(&cx).await.expect("reads").expect("is there").records, 601);

    let newer = Content::Bytes(Bytes::from_static(b"{\"format\":2}"));
    bucket.write("index.json", newer, Mode::Always, &cx).await.expect("writes");
    let error = publisher.index_add(&entry(700), 9, &cx).await.expect_err("a newer format");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

impl Publisher {
    async fn bucket_read(&self, name: &str, cx: &CallContext) -> Option<Bytes> {
        let object = self.bucket().read(name, 1 << 20, cx).await.expect("reads");
        object.map(|object| object.bytes)
    }

    async fn index_add(&self, entry: &public::IndexEntry, now: u64, cx: &CallContext) -> Result<()> {
        self.index().add(entry, now, cx).await.map(drop)
    }
}
