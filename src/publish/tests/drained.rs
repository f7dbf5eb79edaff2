//! What a drain tells of its failures.

use std::collections::VecDeque;

use super::*;
use crate::publish::away::Away;
use crate::publish::index::Writer;

/// Works that are tried once each, in their order, and wait for ever.
#[derive(Debug)]
struct Once(Mutex<VecDeque<Work>>);

#[async_trait]
impl Outbox for Once {
    async fn next(&self, _: u64) -> Result<Next> {
        let work = self.0.lock().expect("lock").pop_front();
        Ok(work.map_or(Next::Nothing, |work| Next::Due(Item { id: 1, work, added_ms: 0, tries: 0 })))
    }

    async fn done(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    async fn failed(&self, _: u64, _: &Failure, _: u64) -> Result<()> {
        Ok(())
    }

    async fn lag(&self, _: u64) -> Result<Lag> {
        Ok(Lag { waiting: 1, ..Lag::default() })
    }
}

#[tokio::test]
async fn a_bug_is_told_whatever_else_fails_before_and_after_it() {
    let cx = CallContext::new();
    let bucket = Arc::new(Away::new(memory()));
    let publisher = Publisher::open(bucket.clone(), hasty(), &cx).await.expect("opens");
    bucket.set_away(true);
    let document = |name: &str| Work::Document { name: name.into(), bytes: Bytes::new() };
    let (bug, outage) = (document("elsewhere.json"), document("data/a.json"));
    for (works, fault) in [
        (vec![bug.clone(), outage.clone()], Fault::Bug),
        (vec![outage.clone(), bug.clone()], Fault::Bug),
        (vec![outage.clone(), bug, outage.clone()], Fault::Bug),
        (vec![outage.clone(), outage], Fault::Infrastructure),
    ] {
        let failures = works.len() as u64;
        // The status of the competition cannot be read, either.
        let drained = publisher.drain(&Once(Mutex::new(works.into())), &cx).await.expect("drains");
        assert_eq!((drained.published, drained.failures), (0, failures));
        let error = drained.error.expect("an error");
        assert_eq!(error.fault(), fault, "{error}");
    }
    assert!(bucket.refused() > 4, "the outage is met");
}

#[tokio::test]
async fn a_record_that_a_new_index_lacks_is_named() {
    let (cx, store) = (CallContext::new(), Arc::new(InMemory::new()));
    let bucket: Arc<dyn Bucket> = Arc::new(ObjectBucket::new(store.clone(), "memory", "site"));
    let publisher = Publisher::open(Arc::clone(&bucket), hasty(), &cx).await.expect("opens");
    let records = records(3);
    let [before, after] = [&records[..2], &records[2..]].map(folder_of);
    let publish = async |folder: &tempfile::TempDir| {
        let outbox = FolderOutbox::open(folder.path()).expect("opens");
        outbox.scan().expect("scans");
        publisher.drain(&outbox, &cx).await.expect("drains")
    };
    publish(&before).await;
    let name = RecordManifest::at(digest(&records[0]));
    let write = async |bytes: Bytes| {
        bucket.write(&name, Content::Bytes(bytes), Mode::Always, &cx).await.expect("writes")
    };
    let whole = bucket.read(&name, 1 << 20, &cx).await.expect("reads").expect("is there").bytes;
    write(Bytes::from_static(b"<html>")).await;
    store.delete(&"site/index.json".into()).await.expect("is removed");

    let drained = publish(&after).await;
    let error = drained.error.expect("one is lacking");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(drained.stopped, 1, "it waits for somebody");
    assert_eq!(publisher.reader().entries(&cx).await.expect("reads").len(), 2, "the others are there");

    write(whole).await;
    publisher.index().repair(None, 0, &cx).await.expect("nothing is damaged any more");
    assert_eq!(publisher.reader().entries(&cx).await.expect("reads").len(), 3);
}

#[tokio::test]
async fn a_damaged_manifest_keeps_no_later_record_from_being_published() {
    let (cx, store) = (CallContext::new(), Arc::new(InMemory::new()));
    let bucket: Arc<dyn Bucket> = Arc::new(ObjectBucket::new(store.clone(), "memory", "site"));
    let publisher = Publisher::open(Arc::clone(&bucket), hasty(), &cx).await.expect("opens");
    let records = records(4);
    let folder = folder_of(&records);
    let outbox = FolderOutbox::open(folder.path()).expect("opens");
    outbox.scan().expect("scans");
    publisher.drain(&outbox, &cx).await.expect("drains");
    let entries = publisher.reader().entries(&cx).await.expect("reads");
    let (first, rest) = entries.split_first().expect("four");
    let name = RecordManifest::at(first.record);
    let write = async |name: &str, bytes: Bytes| {
        bucket.write(name, Content::Bytes(bytes), Mode::Always, &cx).await.expect("writes")
    };
    let whole = bucket.read(&name, 1 << 20, &cx).await.expect("reads").expect("is there").bytes;
    let listed = async || publisher.reader().entries(&cx).await.expect("reads").len();
    let without_index = async || store.delete(&"site/index.json".into()).await.expect("is removed");

    // Where the server ignores conditions, every record is added by way of a repair.
    write(&name, Bytes::from_static(b"<html>")).await;
    let ignoring = Writer::new(Arc::clone(&bucket), Conditions::Ignored);
    without_index().await;
    let damaged = ignoring.add(&rest[0], 1, &cx).await.expect_err("the index is made anew");
    assert_eq!((damaged.kind(), damaged.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{damaged}");
    assert_eq!(listed().await, 3, "all the others are there");
    ignoring.add(&rest[1], 2, &cx).await.expect("the index has it");
    assert!(ignoring.repair(None, 3, &cx).await.is_err(), "who compares all is told");

    // One that another publisher just writes may be whole at the next try.
    write(&name, whole.slice(..whole.len() / 2)).await;
    let keeping = Writer::new(Arc::clone(&bucket), Conditions::Kept);
    without_index().await;
    let begun = keeping.add(&rest[0], 4, &cx).await.expect_err("one is not whole");
    assert_eq!((begun.fault(), begun.retry()), (Fault::Infrastructure, Retry::Backoff), "{begun}");
    assert!(hasty().backoff.pause(&begun, 0).is_some(), "it is tried again");
    assert_eq!(hasty().backoff.pause(&damaged, 0), None);
    assert_eq!(listed().await, 3);
    keeping.add(&rest[0], 5, &cx).await.expect("the index has it");
    write(&name, whole).await;
    keeping.add(first, 6, &cx).await.expect("its publisher adds it");
    assert_eq!(listed().await, 4);
}
