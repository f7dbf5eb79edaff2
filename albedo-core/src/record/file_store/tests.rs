use super::*;
use crate::draw::{DrawOutcome, RowDraw};
use crate::duel::scripted;
use crate::error::Side;
use crate::record::{FORMAT, TextRef};

fn opened(format: u32) -> JournalEvent {
    let judge = scripted::Asked::new("fair", scripted::fair);
    let [king, challenger] = ["plain", "better"].map(scripted::Scripted::new);
    let plan = scripted::duel(king, challenger, vec![judge]).plan().clone();
    JournalEvent::Opened { format, digest: Digest::of("plan"), plan: Box::new(plan), build: None }
}

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
        tokens: None,
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
    assert_eq!(texts, [(TextRef::of("hello"), "hello".into())], "a text is kept once");
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

#[test]
fn two_stores_never_share_a_journal() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = FileStore::create(folder.path()).expect("creates");
    let error = FileStore::resume(folder.path()).expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("another process has it open"), "{error}");
    drop(first);
    FileStore::resume(folder.path()).expect("free again");
}

#[tokio::test]
async fn what_is_torn_is_cut_off_and_what_is_whole_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    store.append(opened(FORMAT), vec![]).await.expect("appends");
    store.append(replied("hello"), vec!["hello".into()]).await.expect("appends");
    drop(store);
    for (name, torn) in [(JOURNAL, "{\"time_ms\":1"), (JOURNAL_BLOBS, &format!("{} 9\ncut", Digest::of("x")))]
    {
        let mut file = open().open(folder.path().join(name)).expect("opens");
        file.write_all(torn.as_bytes()).expect("writes");
    }
    let store = FileStore::resume(folder.path()).expect("resumes");
    assert_eq!(store.stored().await.expect("reads"), [opened(FORMAT), replied("hello")]);
    assert_eq!(store.text(&TextRef::of("hello")).await.expect("reads"), "hello");
    assert_eq!(store.text(&TextRef::of("x")).await.expect_err("torn").kind(), ErrorKind::NotFound);
    store.append(replied("x"), vec!["x".into()]).await.expect("appends");
    drop(store);
    let store = FileStore::resume(folder.path()).expect("resumes");
    assert_eq!(store.stored().await.expect("reads").len(), 3);
    assert_eq!(store.text(&TextRef::of("x")).await.expect("reads"), "x");
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(FileStore::resume(folder.path()).expect_err("none").kind(), ErrorKind::NotFound);
    let store = FileStore::create(folder.path()).expect("creates");
    store.append(opened(FORMAT + 1), vec![]).await.expect("appends");
    store.append(replied("hello"), vec!["hello".into()]).await.expect("appends");
    drop(store);
    let read = |name: &str| fs::read(folder.path().join(name)).expect("reads");
    let (journal, blobs) = (read(JOURNAL), read(JOURNAL_BLOBS));
    let error = FileStore::resume(folder.path()).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.hint(), Some("update albedo"));
    assert_eq!(read(JOURNAL), journal);

    let older =
        String::from_utf8_lossy(&journal).replace(&format!("\"format\":{}", FORMAT + 1), "\"format\":1");
    fs::write(folder.path().join(JOURNAL), older).expect("writes");
    let altered = String::from_utf8_lossy(&blobs).replace(" 5\n", " 3\n");
    fs::write(folder.path().join(JOURNAL_BLOBS), &altered).expect("writes");
    assert_eq!(FileStore::resume(folder.path()).expect_err("altered").kind(), ErrorKind::DataInvalid);
    assert_eq!(read(JOURNAL_BLOBS), altered.as_bytes());

    let altered = String::from_utf8_lossy(&blobs).replace("hello", "hallo");
    fs::write(folder.path().join(JOURNAL_BLOBS), &altered).expect("writes");
    let store = FileStore::resume(folder.path()).expect("resumes");
    let error = store.text(&TextRef::of("hello")).await.expect_err("altered");
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn after_a_full_disk_nothing_more_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    store.append(opened(FORMAT), vec![]).await.expect("appends");
    std::os::unix::fs::symlink("/dev/full", folder.path().join("record.jsonl.partial")).expect("links");
    store.begin().await.expect("is sent");
    store.extend(RecordPart { lines: b"{}\n".into(), blobs: vec![] }).await.expect("is sent");
    let error = store.append(drawn(0), vec![]).await.expect_err("full");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, Fault::Infrastructure));
    assert!(error.to_string().contains("record.jsonl.partial"), "{error}");
    let digests = Digests { format: FORMAT, lines: Digest::of("{}\n"), blobs: Digest::of("") };
    assert!(store.publish(&digests).await.is_err());
    drop(store);
    assert!(!folder.path().join("record.digest").exists());
    let store = FileStore::resume(folder.path()).expect("resumes");
    assert_eq!(store.stored().await.expect("reads"), [opened(FORMAT)], "what was acknowledged is kept");
}

#[test]
fn what_a_file_system_does_not_offer_is_told_from_what_fails() {
    let error = |code| std::io::Error::from_raw_os_error(code);
    // EINVAL, ENOSYS, EOPNOTSUPP, EBADF: of CIFS, FUSE and vboxsf.
    for code in [22, 38, 95, 9] {
        assert!(synced(Err(error(code))).is_ok(), "{}", error(code));
    }
    // EIO, ENOSPC, EDQUOT, EROFS.
    for code in [5, 28, 122, 30] {
        assert!(synced(Err(error(code))).is_err(), "{}", error(code));
    }
    let refusal = refused("open", Path::new("journal"), error(95));
    assert_eq!((refusal.kind(), refusal.fault()), (ErrorKind::Unsupported, Fault::Operator));
    assert!(refusal.to_string().contains("local disk"), "{refusal}");
}

#[test]
fn a_pipe_in_a_journals_place_is_not_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [JOURNAL, JOURNAL_BLOBS] {
        let path = folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let error = match name {
            JOURNAL => FileStore::resume(folder.path()),
            _ => FileStore::create(folder.path()),
        };
        let error = error.expect_err("a pipe");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
        fs::remove_file(&path).expect("removed");
        // No dead end: with the pipe away the same folder can be used.
        drop(FileStore::create(folder.path()).expect("creates"));
        fs::remove_file(folder.path().join(JOURNAL)).expect("removed");
        fs::remove_file(folder.path().join(JOURNAL_BLOBS)).expect("removed");
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_the_operators() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    drop(FileStore::create(folder.path()).expect("creates"));
    let journal = folder.path().join(JOURNAL);
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o444)).expect("sets");
    let error = if open().open(&journal).is_err() {
        FileStore::resume(folder.path()).expect_err("read-only")
    } else {
        // The superuser may write everything but what is no file.
        fs::remove_file(&journal).expect("removes");
        fs::create_dir(&journal).expect("creates");
        FileStore::resume(folder.path()).expect_err("a folder")
    };
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains(JOURNAL), "{error}");
}

#[tokio::test]
async fn an_unpublished_record_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    store.begin().await.expect("begins");
    store.extend(RecordPart { lines: b"{}\n".into(), blobs: vec![] }).await.expect("extends");
    drop(store);
    let names = fs::read_dir(folder.path()).expect("lists").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    assert_eq!(names, [JOURNAL_BLOBS, JOURNAL]);
}
