use super::*;
use crate::draw::{DrawOutcome, RowDraw};
use crate::error::Side;
use crate::record::{Record, TextRef};

fn drawn(sample: u32) -> JournalEvent {
    let draw = RowDraw {
        row: u64::from(sample),
        instance_id: "instance".into(),
        turns: 1,
        turn: Some(0),
        prompt_tokens: Some(9),
        outcome: DrawOutcome::Sample,
    };
    JournalEvent::Drawn { sample, draws: vec![draw] }
}

fn replied(text: &str) -> JournalEvent {
    JournalEvent::Replied {
        sample: 0,
        side: Side::King,
        call_try: 1,
        text: TextRef::of(text),
        finish: crate::FinishReason::Stop,
        usage: crate::Usage::default(),
        reference_scores: None,
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path().join("duel")).expect("creates");
    for sample in 0..3 {
        store.append(drawn(sample), vec![]).await.expect("appends");
        let text = fs::read_to_string(store.folder().join("journal.jsonl")).expect("reads");
        let entries: Vec<JournalEntry> =
            text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect();
        assert_eq!(entries.len(), sample as usize + 1);
        assert_eq!(entries[sample as usize].event, drawn(sample));
    }
    store.append(replied("hello"), vec!["hello".into()]).await.expect("appends");
    store.append(replied("hello"), vec!["hello".into()]).await.expect("appends");
    let blobs = fs::read(store.folder().join("journal.blobs")).expect("reads");
    let texts = crate::record::blobs::read_blobs(&blobs).expect("well-formed");
    assert_eq!(texts.into_values().collect::<Vec<_>>(), ["hello"], "a text is kept once");
}

#[tokio::test]
async fn appends_at_once_all_arrive() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    let appends = (0..2000).map(|sample| store.append(drawn(sample), vec![]));
    for result in futures::future::join_all(appends).await {
        result.expect("appends");
    }
    let text = fs::read_to_string(folder.path().join("journal.jsonl")).expect("reads");
    assert_eq!(text.lines().count(), 2000);
}

#[test]
fn a_folder_with_a_journal_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = FileStore::create(folder.path()).expect("creates");
    let error = FileStore::create(folder.path()).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(first);
    assert!(FileStore::create(folder.path()).is_err(), "it still holds a duel");
}

#[test]
fn a_file_in_the_way_is_the_operators() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("writes");
    let error = FileStore::create(file.join("duel")).expect_err("no folder");
    assert_eq!(error.fault(), Fault::Operator);
}

#[tokio::test]
async fn a_published_record_opens_and_an_altered_one_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    let mut builder = crate::record::RecordBuilder::default();
    builder.text("hello");
    let record = builder.finish();
    store.publish(&record).await.expect("publishes");
    // It has no plan and no verdict, so it is refused, but not for its digest.
    assert_eq!(Record::open(folder.path()).expect_err("empty").kind(), ErrorKind::DataInvalid);
    let missing = folder.path().join("record.digest");
    fs::remove_file(&missing).expect("removes");
    assert_eq!(Record::open(folder.path()).expect_err("no digest").kind(), ErrorKind::NotFound);
}
