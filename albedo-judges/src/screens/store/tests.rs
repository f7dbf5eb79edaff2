use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::tables::{TABLES, TABLES_2, TABLES_3};
use super::*;

fn submission(label: &str, parameters: u8) -> Submission {
    let sketch = Sketch {
        anchor: Digest::of("anchor"),
        side: 2,
        tensors: vec!["a".into()],
        values: vec![1.0, -2.0, f32::from(parameters), 0.25],
    };
    let fingerprint = Fingerprint {
        method: "layer_norms_v2_with_samples".into(),
        layer_keys: vec!["a".into()],
        norm_vector: vec![0.1],
        tensor_samples: Some(vec![vec![0.3; 16]]),
        hotkey: String::new(),
    };
    Submission {
        label: label.into(),
        hotkey: "5F".into(),
        block: Some(u64::from(parameters)),
        parameters: Some(Digest::of([parameters])),
        fingerprint: Some(fingerprint),
        sketch: Some(sketch),
        tensors: vec![1, u64::from(parameters)],
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    (folder, path)
}

#[test]
fn what_is_added_comes_back_in_order_and_the_first_stays_first() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    assert!(store.is_empty().expect("counts"));
    for (label, parameters) in [("b", 2), ("a", 1), ("late copy of b", 2)] {
        store.add(&submission(label, parameters)).expect("added");
    }
    drop(store);
    let store = Store::open(&path).expect("opens");
    assert_eq!(store.len().expect("counts"), 2);
    assert_eq!(store.anchor().expect("reads"), Some(Digest::of("anchor")));
    let sketches = store.sketches().expect("reads");
    let labels: Vec<_> = sketches.iter().map(|stored| stored.entry.label.as_str()).collect();
    assert_eq!(labels, ["b", "a"]);
    assert_eq!(Some(&sketches[0].sketch), submission("b", 2).sketch.as_ref());
    assert_eq!(
        Some(&store.fingerprints().expect("reads")[1].fingerprint),
        submission("a", 1).fingerprint.as_ref()
    );
    let entry = store.by_parameters(Digest::of([2])).expect("reads").expect("there");
    assert_eq!((entry.label.as_str(), entry.block), ("b", Some(2)));
    assert!(store.by_parameters(Digest::of([9])).expect("reads").is_none());
}

#[test]
fn nothing_can_be_changed_or_removed() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    store.add(&submission("a", 1)).expect("added");
    store.add(&submission("b", 1)).expect("another label");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    let set = QuestionSet { seed: 1, king: Digest::of("king"), questions: Vec::new() };
    let set = store.add_set(&set).expect("added");
    store.add_answers(set, Digest::of([1]), &[vec![-0.5]]).expect("added");
    for sql in [
        "UPDATE entries SET label = 'b'",
        "DELETE FROM entries",
        "UPDATE sketches SET sketch = x''",
        "DELETE FROM tensors",
        "UPDATE sets SET questions = x''",
        "DELETE FROM answers",
        "DELETE FROM kings",
        "UPDATE aliases SET label = 'c'",
        "DELETE FROM aliases",
    ] {
        let error = connection.execute(sql, []).expect_err(sql);
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    assert_eq!(Store::create(&path).expect_err("exists").kind(), ErrorKind::Conflict);
}

#[test]
fn another_anchors_sketch_is_refused() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    store.add(&submission("a", 1)).expect("added");
    let mut other = submission("b", 2);
    other.sketch.as_mut().expect("a sketch").anchor = Digest::of("another");
    assert_eq!(store.add(&other).expect_err("refused").kind(), ErrorKind::Conflict);
}

#[test]
fn readers_see_a_whole_store_while_one_writes() {
    let (_folder, path) = place();
    let writer = Store::create(&path).expect("a store");
    writer.add(&submission("0", 0)).expect("added");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let reader = Store::open(&path).expect("opens");
                for _ in 0..50 {
                    let seen = reader.sketches().expect("reads");
                    let labels: Vec<_> = seen.iter().map(|stored| stored.entry.label.clone()).collect();
                    let expected: Vec<_> = (0..seen.len()).map(|number| number.to_string()).collect();
                    assert_eq!(labels, expected);
                }
            });
        }
        for number in 1..50 {
            writer.add(&submission(&number.to_string(), number)).expect("added");
        }
    });
    assert_eq!(writer.len().expect("counts"), 50);
}

#[test]
fn what_is_no_store_is_refused_with_a_remedy() {
    let (folder, path) = place();
    let refused = |kind: ErrorKind, words: &str| {
        let error = Store::open(&path).expect_err(words);
        assert_eq!((error.kind(), error.fault()), (kind, Fault::Operator), "{error}");
        assert!(error.to_string().contains(words) && error.hint().is_some(), "{error}");
    };
    let private = || fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    refused(ErrorKind::NotFound, "No such file");
    fs::write(&path, b"not a database, but long enough to be looked at as one".repeat(40)).expect("written");
    private();
    refused(ErrorKind::DataInvalid, "not a database");
    fs::remove_file(&path).expect("removed");
    rusqlite::Connection::open(&path).expect("opens").execute("CREATE TABLE x (y)", []).expect("made");
    private();
    refused(ErrorKind::DataInvalid, "another program's");
    fs::remove_file(&path).expect("removed");
    {
        let store = Store::create(&path).expect("a store");
        for number in 0..50 {
            store.add(&submission(&number.to_string(), number)).expect("added");
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
    refused(ErrorKind::Unavailable, "others than its owner");
    private();
    let mut bytes = fs::read(&path).expect("reads");
    let half = bytes.len() / 2;
    bytes.truncate(half);
    for byte in &mut bytes[half / 2..] {
        *byte = 0xA5;
    }
    fs::write(&path, bytes).expect("written");
    let error = Store::open(&path).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
    drop(folder);
}

#[test]
fn a_new_store_is_private() {
    let (_folder, path) = place();
    drop(Store::create(&path).expect("a store"));
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_python_systems_corpus_is_imported_in_its_order_or_not_at_all() {
    let (folder, path) = place();
    let store = Store::create(&path).expect("a store");
    let corpus = folder.path().join("model_fingerprints.json");
    let print = r#"{"method":"layer_norms_v2_with_samples","layer_keys":["a"],"norm_vector":[1.5],"tensor_samples":[[0.5,1.0]],"hotkey":"5F"}"#;
    fs::write(&corpus, format!(r#"{{"z/m@sha256:1":{print},"a/m@sha256:2":{print}}}"#)).expect("written");
    assert_eq!(store.import_python(&corpus).expect("imported"), 2);
    let stored = store.fingerprints().expect("reads");
    assert_eq!(
        stored.iter().map(|stored| stored.label.as_str()).collect::<Vec<_>>(),
        ["z/m@sha256:1", "a/m@sha256:2"]
    );
    assert_eq!(stored[0].fingerprint.tensor_samples, Some(vec![vec![0.5, 1.0]]));
    let short = print.replace("[1.5]", "[]");
    for text in ["[]".to_owned(), format!(r#"{{"x":{print},"y":{short}}}"#), "{".to_owned()] {
        fs::write(&corpus, text).expect("written");
        assert_eq!(store.import_python(&corpus).expect_err("refused").kind(), ErrorKind::DataInvalid);
    }
    assert_eq!(store.len().expect("counts"), 2);
}

#[test]
fn a_store_of_the_first_format_is_brought_to_this_one_and_keeps_its_entries() {
    let (_folder, path) = place();
    let connection = rusqlite::Connection::open(&path).expect("made");
    let schema = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 1; {TABLES}");
    connection.execute_batch(&schema).expect("made");
    let sql =
        "INSERT INTO entries (label, hotkey, parameters, anchor, sketch) VALUES ('old', '5F', ?1, ?2, x'00')";
    let (parameters, anchor) = (Digest::of([7]), Digest::of("another anchor"));
    connection.execute(sql, [parameters.as_bytes().as_slice(), anchor.as_bytes()]).expect("added");
    drop(connection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");

    let store = Store::open(&path).expect("opens");
    let known = |store: &Store| store.by_parameters(parameters).expect("reads").expect("there").label;
    assert_eq!((known(&store).as_str(), store.outdated().expect("counts")), ("old", 1));
    assert!(store.sketches().expect("reads").is_empty() && store.anchor().expect("reads").is_none());
    // Added again, it stays the first and has a sketch of this format.
    store.add(&submission("b", 1)).expect("added");
    let entry = store.add(&submission("late", 7)).expect("added");
    assert_eq!((entry.label.as_str(), entry.id), ("old", 1));
    assert_eq!((store.outdated().expect("counts"), store.len().expect("counts")), (0, 2));
    let labels: Vec<_> =
        store.sketches().expect("reads").into_iter().map(|stored| stored.entry.label).collect();
    assert_eq!(labels, ["old", "b"]);
    drop(store);
    assert_eq!(known(&Store::open(&path).expect("opens again")), "old");
}

/// A set says which king has replied.
#[test]
fn a_store_of_the_second_format_keeps_its_sketches_and_learns_its_kings() {
    let (_folder, path) = place();
    let added = submission("king", 1);
    let set = QuestionSet { seed: 1, king: Digest::of([1]), questions: Vec::new() };
    let connection = rusqlite::Connection::open(&path).expect("made");
    let schema =
        format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 2; {TABLES} {TABLES_2}");
    connection.execute_batch(&schema).expect("made");
    let sql = "INSERT INTO entries (label, hotkey, block, parameters) VALUES ('king', '5F', 1, ?1)";
    connection.execute(sql, [Digest::of([1]).as_bytes().as_slice()]).expect("added");
    let sketch = added.sketch.expect("a sketch");
    let row = params![sketch.anchor.as_bytes().as_slice(), encode(&sketch).expect("encodes")];
    let sql = "INSERT INTO sketches (entry, anchor, sketch) VALUES (1, ?1, ?2)";
    connection.execute(sql, row).expect("added");
    let (digest, json) = (set.digest().expect("a digest"), serde_json::to_vec(&set).expect("JSON"));
    let row = params![digest.as_bytes().as_slice(), json];
    connection.execute("INSERT INTO sets (digest, questions) VALUES (?1, ?2)", row).expect("added");
    drop(connection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");

    for _ in 0..2 {
        let store = Store::open(&path).expect("opens");
        let kings = store.kings().expect("reads");
        assert_eq!(kings.len(), 1);
        assert_eq!((kings[0].entry.label.as_str(), &kings[0].sketch), ("king", &sketch));
        assert_eq!((store.outdated().expect("counts"), store.sets(9).expect("reads").len()), (0, 1));
    }
}

#[test]
fn kings_come_back_the_latest_first_and_a_set_names_one() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    for number in 1..=3 {
        store.add(&submission(&number.to_string(), number)).expect("added");
    }
    for king in [2, 1, 2, 9] {
        store.add_king(Digest::of([king])).expect("noted");
    }
    let set = QuestionSet { seed: 1, king: Digest::of([3]), questions: Vec::new() };
    store.add_set(&set).expect("added");
    let labels: Vec<_> = store.kings().expect("reads").into_iter().map(|king| king.entry.label).collect();
    assert_eq!(labels, ["3", "1", "2"], "9 has no sketch");
}

/// A submission is screened when its bytes are here, which says nothing of who committed first.
#[test]
fn a_model_is_the_work_of_the_first_commitment_also_if_another_was_seen_first() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    let add = |label: &str, block: Option<u64>| {
        let entry = store.add(&Submission { block, ..submission(label, 1) }).expect("added");
        assert_eq!(entry.label, "bob", "who was seen first stays the entry");
    };
    let own = |labels: &[&str]| {
        let labels: Vec<_> = labels.iter().map(|&label| label.to_owned()).collect();
        store.own(&labels).expect("read")
    };
    store.add(&submission("else", 2)).expect("added");
    add("bob", Some(200));
    assert_eq!(own(&["bob", "else"]), ["bob", "else"], "nobody else had it");
    assert_eq!(store.first_label("bob").expect("read"), None);
    // Ann committed before bob, and was delayed. What came later than she did is left out for her.
    add("ann", Some(100));
    add("ann", Some(100));
    assert_eq!(own(&["ann", "bob"]), ["ann", "bob"]);
    assert_eq!(own(&["ann"]), ["ann", "bob"], "bob's is a copy of hers");
    // Dave came between them: bob is later than he, and ann is not.
    assert!(own(&["dave", "bob"]).iter().all(|label| label == "dave"));
    assert_eq!(store.first_label("bob").expect("read").as_deref(), Some("ann"));
    assert_eq!(store.first_label("else").expect("read"), None);
    // Bob's second try changes nothing. Of one block, nobody is known to be the first.
    add("bob again", Some(300));
    assert!(own(&["bob", "bob again"]).iter().all(|label| label == "bob again"));
    add("cat", Some(100));
    assert!(own(&["ann", "bob"]).iter().all(|label| label == "ann"));
    assert_eq!(own(&["ann", "cat"]), ["ann", "cat", "bob"]);
    assert_eq!(store.len().expect("counts"), 2);
}

/// An operator may add a model's folder, which was never committed.
#[test]
fn a_label_without_a_block_is_never_the_first() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    let add = |label: &str, block: Option<u64>, parameters: u8| {
        store.add(&Submission { block, ..submission(label, parameters) }).expect("added")
    };
    let own = |label: &str| store.own(&[label.to_owned()]).expect("read");
    add("ann", Some(100), 1);
    add("a folder", None, 1);
    assert_eq!(own("ann"), ["ann"]);
    assert_eq!(store.first_label("ann").expect("read"), None);
    add("bob", Some(200), 1);
    assert_eq!(own("bob"), ["bob"], "the entry is ann's");
    // The folder was added first.
    add("a folder", None, 2);
    add("cat", Some(100), 2);
    assert_eq!(own("cat"), ["cat", "a folder"]);
    assert_eq!(store.first_label("a folder").expect("read").as_deref(), Some("cat"));
}

#[test]
fn a_store_of_the_third_format_gets_room_for_labels() {
    let (_folder, path) = place();
    let connection = rusqlite::Connection::open(&path).expect("made");
    let version = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 3;");
    connection.execute_batch(&format!("{version} {TABLES} {TABLES_2} {TABLES_3}")).expect("made");
    let sql = "INSERT INTO entries (label, hotkey, block, parameters) VALUES ('bob', '5F', 200, ?1)";
    connection.execute(sql, [Digest::of([1]).as_bytes().as_slice()]).expect("added");
    drop(connection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    for _ in 0..2 {
        let store = Store::open(&path).expect("opens");
        store.add(&submission("ann", 1)).expect("added");
        assert_eq!(store.first_label("bob").expect("read").as_deref(), Some("ann"));
        assert_eq!(store.len().expect("counts"), 1);
    }
}

/// A process that creates a store may be interrupted at any time.
#[test]
fn a_store_that_was_not_finished_is_finished_when_it_is_opened() {
    let marked = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 2;");
    for begun in ["", "PRAGMA journal_mode = WAL;", &format!("PRAGMA journal_mode = WAL; {marked}")] {
        let (_folder, path) = place();
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        rusqlite::Connection::open(&path).expect("opens").execute_batch(begun).expect("begun");
        let store = Store::open_or_create(&path).unwrap_or_else(|error| panic!("{begun}: {error}"));
        store.add(&submission("a", 1)).expect("added");
        drop(store);
        assert_eq!(Store::open(&path).expect("opens").len().expect("counts"), 1, "{begun}");
    }
}

/// Two processes that screen may add at the same time.
#[test]
fn who_adds_what_another_adds_at_the_same_time_finds_it() {
    let (_folder, path) = place();
    let stores = [Store::create(&path).expect("a store"), Store::open(&path).expect("opens")];
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for store in &stores {
            let start = &start;
            scope.spawn(move || {
                let add = |number| {
                    start.wait();
                    store.add(&submission("one of two", number))
                };
                let added: Vec<_> = (0..40).map(add).collect();
                assert!(added.iter().all(Result::is_ok), "{added:?}");
            });
        }
    });
    assert_eq!(stores[0].len().expect("counts"), 40);
}

#[test]
fn of_two_first_sketches_of_different_anchors_one_is_refused() {
    for _ in 0..20 {
        let (_folder, path) = place();
        let stores = [Store::create(&path).expect("a store"), Store::open(&path).expect("opens")];
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (number, store) in stores.iter().enumerate() {
                let start = &start;
                scope.spawn(move || {
                    let mut one = submission("one of two", number as u8);
                    one.sketch.as_mut().expect("a sketch").anchor = Digest::of([number as u8]);
                    start.wait();
                    let error = store.add(&one).err();
                    assert!(error.is_none_or(|error| error.kind() == ErrorKind::Conflict));
                });
            }
        });
        assert_eq!(stores[0].sketches().expect("reads").len(), 1);
    }
}

#[test]
fn answers_are_kept_by_set_and_parameters() {
    let (_folder, path) = place();
    let store = Store::create(&path).expect("a store");
    store.add(&submission("a", 1)).expect("added");
    let set = |seed| QuestionSet { seed, king: Digest::of("king"), questions: Vec::new() };
    let ids: Vec<_> = [1, 2, 1].map(|seed| store.add_set(&set(seed)).expect("added")).into();
    assert_eq!(ids[0], ids[2]);
    assert_eq!(store.sets(1).expect("reads"), [StoredSet { id: ids[1], set: set(2) }]);
    let said = vec![vec![-0.5, -2.0], vec![], vec![-1.0]];
    store.add_answers(ids[0], Digest::of([1]), &said).expect("added");
    store.add_answers(ids[0], Digest::of([1]), &[vec![-9.0]]).expect("the first stays");
    store.add_answers(ids[0], Digest::of("king"), &said).expect("of no submission");
    let all = store.all_answers(ids[0]).expect("reads");
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].entry.label.as_str(), &all[0].log_probs), ("a", &said));
    assert_eq!(store.answers(ids[0], Digest::of("king")).expect("reads"), Some(said));
    assert_eq!(store.answers(ids[1], Digest::of([1])).expect("reads"), None);
    assert!(store.add_answers(ids[1], Digest::of([1]), &[vec![f32::NAN]]).is_err());
}
