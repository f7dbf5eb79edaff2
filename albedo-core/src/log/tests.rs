use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::record::{AnyRecord, MemoryStore, Record};
use crate::seed::Seed;
use crate::signer::{KeyFile, Signer};

const ORIGIN: &str = "example.com/log";

fn key() -> Arc<KeyFile> {
    Arc::new(KeyFile::from_seed(&[9; 32]))
}

fn writer(folder: &Path) -> LogWriter {
    LogWriter::open(folder, Some(ORIGIN), key()).expect("opens")
}

/// Entries `from` to `to` of a history that `name` tells from others.
fn entries(name: &str, from: u64, to: u64) -> Vec<Entry> {
    let entry = |number: u64| {
        let record = Digest::of(format!("{name} {number}"));
        Entry::Forfeited(Forfeited { record, submission: None })
    };
    (from..to).map(entry).collect()
}

fn open(folder: &Path) -> Result<Log> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        Log::open(Arc::new(FolderLog::new(folder)), Some(&key().key()), &CallContext::new()).await
    })
}

/// Reads the whole log, which has to fit together.
fn read(folder: &Path) -> Result<(Head, Vec<Entry>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let cx = CallContext::new();
        let log = Log::open(Arc::new(FolderLog::new(folder)), Some(&key().key()), &cx).await?;
        let entries = log.entries(&cx).await?;
        assert_eq!(entries.len() as u64, log.head().size);
        Ok((log.head().clone(), History::new(log.head(), &entries)?.entries().to_vec()))
    })
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_log_grows_by_any_steps_and_proves_its_entries_and_its_past() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut writer, mut size, mut heads) = (writer(folder.path()), 0, Vec::new());
    for step in [1, 1, 2, 3, 120, 128, 1, 0, 1, 255, 256, 257, 513] {
        writer.append(&entries("a", size, size + step)).expect("appends");
        size += step;
        let (head, read) = read(folder.path()).expect("fits together");
        assert_eq!((head.size, read), (size, entries("a", 0, size)));
        heads.push(head);
    }
    // No partial tile is left beside its full one.
    for path in files(folder.path()) {
        if let Some((full, _)) = path.to_string_lossy().split_once(".p/") {
            assert!(!Path::new(full).exists(), "{full}");
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (cx, key) = (CallContext::new(), key().key());
        let log = Log::open(Arc::new(FolderLog::new(folder.path())), Some(&key), &cx).await.expect("opens");
        for index in [0, 1, 255, 256, 257, 511, 512, 1024, size - 1] {
            let proof = log.prove_inclusion(index, &cx).await.expect("proves");
            proof.verify(&key).expect("is proved");
            assert_eq!(InclusionProof::parse(&proof.to_string()).expect("reads"), proof);
            assert_eq!(Entry::parse(&proof.entry).expect("reads"), entries("a", index, index + 1)[0]);
            let moved = InclusionProof { index: index ^ 1, ..proof.clone() };
            assert!(moved.verify(&key).is_err(), "{index}");
            assert!(proof.verify(&KeyFile::from_seed(&[1; 32]).key()).is_err());
        }
        let kind = log.prove_inclusion(size, &cx).await.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::NotFound));
        for held in &heads {
            let proof = log.prove_consistency(held.size, &cx).await.expect("proves");
            proof.verify(held, &key).expect("is proved");
        }
    });
}

/// Every step of an append may be the last that is taken, and the last may be torn.
#[test]
fn an_append_that_is_killed_anywhere_leaves_a_log_that_goes_on() {
    for (old, new) in [(0, 1), (255, 300), (250, 520)] {
        let folder = tempfile::tempdir().expect("a folder");
        let start = folder.path().join("start");
        writer(&start).append(&entries("a", 0, old)).expect("appends");
        let bytes: Vec<_> =
            entries("b", old, new).iter().map(|entry| entry.to_bytes().expect("an entry")).collect();
        let (steps, _) = writer(&start).steps(&bytes).expect("steps");
        let covered = steps.iter().position(|step| step.writes("checkpoint")).expect("writes a head");
        assert!(covered >= 2, "entries and hashes first");
        for taken in 0..=steps.len() {
            for torn in [false, true] {
                let killed = folder.path().join(format!("{taken}-{torn}"));
                copy(&start, &killed);
                for step in &steps[..taken] {
                    step.take(&killed).expect("takes the step");
                }
                if let (true, Some(step)) = (torn, steps.get(taken)) {
                    step.tear(&killed);
                }
                let size = if taken > covered { new } else { old };
                let (head, before) = read(&killed).expect("fits together");
                assert_eq!(head.size, size, "{old} to {new}, {taken} steps taken");
                // Other entries than those that were lost.
                writer(&killed).append(&entries("c", size, size + 9)).expect("goes on");
                let (head, after) = read(&killed).expect("fits together");
                assert_eq!(head.size, size + 9);
                assert_eq!(after, [before, entries("c", size, size + 9)].concat());
            }
        }
    }
}

#[test]
fn no_file_of_a_log_can_be_altered_shortened_or_taken_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    writer(&whole).append(&entries("a", 0, 300)).expect("appends");
    let files = files(&whole).into_iter().filter(|path| !path.ends_with(".lock")).collect::<Vec<_>>();
    assert_eq!(files.len(), 6, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file).expect("reads");
        let altered = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        let (end, middle) = (bytes.len() - 1, bytes.len() / 2);
        for other in [
            Some(altered(0)),
            Some(altered(middle)),
            Some(altered(end - 2)),
            Some(bytes[..end].to_vec()),
            None,
        ] {
            let copy_of = folder.path().join(format!("copy {number}"));
            copy(&whole, &copy_of);
            let path = copy_of.join(file.strip_prefix(&whole).expect("is inside"));
            match &other {
                Some(other) => std::fs::write(&path, other).expect("writes"),
                None => std::fs::remove_file(&path).expect("removes"),
            }
            let error = read(&copy_of).expect_err("is altered");
            assert!(
                matches!(error.kind(), ErrorKind::DataInvalid | ErrorKind::NotFound),
                "{file:?}: {error}"
            );
            std::fs::remove_dir_all(&copy_of).expect("removes");
        }
    }
}

#[test]
fn a_second_history_and_a_shortened_one_are_found_by_the_heads_of_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    writer(&one).append(&entries("a", 0, 10)).expect("appends");
    copy(&one, &two);
    writer(&one).append(&entries("a", 10, 20)).expect("appends");
    writer(&two).append(&entries("b", 10, 30)).expect("appends");
    let (of_one, of_two) = (read(&one).expect("fits together").0, read(&two).expect("fits together").0);

    let history = |folder: &Path, head: &Head| {
        let bytes: Vec<_> =
            read(folder).expect("fits").1.iter().map(|entry| entry.to_bytes().expect("bytes")).collect();
        History::new(head, &bytes).expect("reads")
    };
    let (one, two) = (history(&one, &of_one), history(&two, &of_two));
    assert_eq!(one.check_head(&of_one).expect("its own"), None);
    assert!(matches!(two.check_head(&of_one).expect("the other's"), Some(Finding::Contradiction { .. })));
    let longer = one.check_head(&of_two).expect("the other's");
    assert!(matches!(longer, Some(Finding::Truncated { size: 20, .. })), "{longer:?}");
    let elsewhere = Head::sign("example.com/other", 0, Digest::of([]), &*key()).expect("signs");
    assert!(one.check_head(&elsewhere).is_err());

    let on_chain = |head: &Head| Anchor { head: head.into(), block: 7 };
    assert_eq!(one.check_anchor(&on_chain(&of_one)), None);
    let held = AnchoredHead::from(&of_one).to_string();
    assert!(
        matches!(two.check_anchor(&on_chain(&of_one)), Some(Finding::Contradiction { held: text, .. }) if text == held)
    );
    let longer = one.check_anchor(&on_chain(&of_two));
    assert!(matches!(longer, Some(Finding::Truncated { size: 20, .. })), "{longer:?}");
}

#[test]
fn a_log_has_one_name_one_key_and_one_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let refused = |origin, key| LogWriter::open(path, origin, key).expect_err("is refused").to_string();
    assert!(refused(None, key()).contains("give the log a name"));
    let held = writer(path);
    assert!(refused(None, key()).contains("another process"));
    drop(held);
    assert!(refused(Some("example.com/other"), key()).contains("another name"));
    assert!(refused(None, Arc::new(KeyFile::from_seed(&[8; 32]))).contains("not signed by this key"));
    writer(path).append(&entries("a", 0, 1)).expect("appends");
    std::fs::remove_file(path.join("checkpoint")).expect("removes");
    assert!(refused(Some(ORIGIN), key()).contains("restore it"));
    assert_eq!(open(path).map_err(|error| error.kind()).err(), Some(ErrorKind::NotFound));
}

#[test]
fn a_duel_is_announced_without_its_seed_and_ended_by_its_record() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (cx, store) = (CallContext::new(), MemoryStore::default());
    let record = runtime.block_on(async {
        let duel = crate::testing::small_duel().plan(&store, &cx).await.expect("plans");
        duel.run(&store, &cx).await.expect("runs");
        let bytes = store.record().expect("is decided");
        Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads")
    });
    let plan = record.plan();
    let submission = Submission::new("5Hot", "v7|someone/model|sha256:00").expect("a submission");
    let announced = Announced::new(plan, Some(submission.clone())).expect("a plan");
    let other_seed = crate::plan::DuelPlan { seed: Seed::from(plan.seed.entropy() ^ 1), ..plan.clone() };
    assert!(announced.announces(&other_seed).expect("a plan"));
    let other_cap = crate::plan::DuelPlan { samples: plan.samples + 1, ..plan.clone() };
    assert!(!announced.announces(&other_cap).expect("a plan"));
    let fewer = crate::plan::DuelPlan { judges: plan.judges[1..].to_vec(), ..plan.clone() };
    assert!(!announced.announces(&fewer).expect("a plan"), "no preflight took the judge off");

    let head = Head::sign(ORIGIN, 0, Digest::of([]), &*key()).expect("signs");
    let history = |entries: &[Entry]| {
        let bytes: Vec<_> = entries.iter().map(|entry| entry.to_bytes().expect("bytes")).collect();
        History::new(&head, &bytes).expect("reads")
    };
    let start = [Entry::Announced(announced.clone())];
    let end = |announced| Entry::Ended(Ended::recorded(announced, &record).expect("a record"));
    let published = AnyRecord::Duel(Box::new(record.clone()));

    let open = history(&start);
    assert_eq!(open.check_ends(), [Finding::NoEnd { entry: 0, announced: announced.clone() }]);
    assert_eq!(open.announcement(&other_seed).expect("a plan"), Some(0));
    let not_logged = Some(Finding::NotLogged { record: record.digest });
    assert_eq!(open.check_record(&published).expect("checks"), not_logged);

    let ended = history(&[start[0].clone(), end(0)]);
    assert_eq!(ended.check_ends(), []);
    assert_eq!(ended.announcement(plan).expect("a plan"), None);
    assert_eq!(ended.check_record(&published).expect("checks"), None);

    // What a head on chain attests: the announcements that it covers, by its own history.
    let twice = [start[0].clone(), end(0), start[0].clone()];
    let hashes: Vec<_> =
        twice.iter().map(|entry| merkle::leaf_hash(&entry.to_bytes().expect("bytes"))).collect();
    let anchor = |size: usize, block| {
        let root = super::reader::root(&hashes[..size]);
        Anchor { head: AnchoredHead { size: size as u64, root }, block }
    };
    let forged = Anchor { head: AnchoredHead { size: 3, root: Digest::of("else") }, block: 1 };
    let attested = |anchors: &[Anchor]| {
        history(&twice).attested(anchors).iter().map(|at| (at.entry, at.block)).collect::<Vec<_>>()
    };
    assert_eq!(attested(&[forged, anchor(3, 9), anchor(2, 6), anchor(1, 4), anchor(0, 2)]), [(0, 4), (2, 9)]);
    assert_eq!(attested(&[forged, anchor(0, 2)]), []);

    let abandoned = Ended { announced: 0, end: End::Abandoned { reason: "no judge answers".into() } };
    let twice = history(&[start[0].clone(), Entry::Ended(abandoned), end(0), end(7)]);
    let wrong = |entry, announced| Finding::WrongEnd { entry, announced };
    assert_eq!(twice.check_ends(), [wrong(2, 0), wrong(3, 7)]);

    let other = Entry::Announced(Announced::new(&other_cap, None).expect("a plan"));
    let exchanged = history(&[other, end(0)]);
    let not_so = Some(Finding::NotAsAnnounced { record: record.digest, entry: 1 });
    assert_eq!(exchanged.check_record(&published).expect("checks"), not_so);

    // What the chain has and the log has not.
    let digest = Digest::of("model");
    let list = serde_json::json!({"block": {"number": 9}, "reveals": [
        {"hotkey": "5Hot", "place": {"block": 4, "extrinsic": null, "dated_by": "commitment"}, "readable_at": 5,
         "content": {"text": "…"}, "seen": "unknown",
         "submission": {"version": 7, "repository": "someone/model", "pin": {"revision": "sha256:00"}}},
        {"hotkey": "5Cold", "place": {"block": 6}, "readable_at": null,
         "submission": {"version": 4, "repository": "else/one", "pin": {"manifest": digest}}},
        {"hotkey": "5Hidden", "place": {"block": 7}, "content": {"hidden": {"reveal_round": 3}}},
        {"hotkey": "5Bad", "place": {"block": 8}, "refusal": "its pin is no digest"},
    ]});
    let revealed = Revealed::read(list.to_string().as_bytes()).expect("reads");
    assert_eq!(revealed.len(), 2);
    let missing =
        Submission { hotkey: "5Cold".into(), repository: "else/one".into(), pin: format!("sha256:{digest}") };
    let never = Finding::NeverEntered { submission: missing, block: Some(6) };
    assert_eq!(ended.check_reveals(&revealed), [never]);
    assert_eq!(ended.entries()[0].submission(), Some(&submission));
    assert!(Revealed::read(b"[]").is_err());
    assert!(Submission::new("5Hot", "a text").is_err());
}

#[test]
fn an_entry_that_is_not_canonical_or_unknown_is_refused() {
    let bytes = entries("a", 0, 1)[0].to_bytes().expect("bytes");
    assert!(Entry::parse(&bytes).is_ok());
    let spaced = String::from_utf8(bytes).expect("UTF-8").replace(':', ": ");
    for wrong in [spaced.as_bytes(), b"{}", br#"{"entry":"other"}"#, b"", b"\xff"] {
        assert!(Entry::parse(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
    }
    let long = Entry::Ended(Ended { announced: 0, end: End::Abandoned { reason: "x".repeat(70_000) } });
    assert_eq!(long.to_bytes().map_err(|error| error.kind()), Err(ErrorKind::Unsupported));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// However the entries are divided among appends, the log is the same.
    #[test]
    fn a_log_is_its_entries_however_they_came(mut cuts in prop::collection::vec(0_u64..700, 0..6)) {
        cuts.sort_unstable();
        cuts.push(700);
        let folder = tempfile::tempdir().expect("a folder");
        let (mut writer, mut size) = (writer(folder.path()), 0);
        for cut in cuts {
            writer.append(&entries("a", size, cut)).expect("appends");
            size = cut;
        }
        drop(writer);
        let all: Vec<_> = entries("a", 0, 700).iter().map(|entry| merkle::leaf_hash(&entry.to_bytes().expect("bytes"))).collect();
        let (head, read) = read(folder.path()).expect("fits together");
        prop_assert_eq!(head.root, reader::root(&all));
        prop_assert_eq!(read, entries("a", 0, 700));
    }
}
