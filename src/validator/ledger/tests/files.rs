//! The file: versions, damage, a second process, backups.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;

use super::super::FORMAT;
use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.sqlite");
    (folder, path)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_and_in_a_backup() {
    let (folder, path) = folder();
    let ledger = Ledger::open(&path).expect("made");
    let ids = clear(&ledger, &["ann", "bob"]).await;
    let duel = plan(&ledger, ids[0]).await.expect("planned");
    begin(&ledger, &duel).await;
    // Others look on meanwhile, and a copy is whole.
    let looking = Ledger::read(&path).expect("beside the validator");
    assert_eq!(looking.submissions().await.expect("read"), ledger.submissions().await.expect("read"));
    looking.step(ids[1], Move::Void, Reason::new("x"), 9).await.expect_err("only to look at");
    let copy = folder.path().join("copy.sqlite");
    looking.backup(&copy).await.expect("backed up");
    let error = looking.backup(&copy).await.expect_err("it exists");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let open = ledger.open_duel().await.expect("read");
    drop((ledger, looking));

    for path in [&path, &copy] {
        let again = Ledger::open(path).expect("opens");
        assert_eq!(again.open_duel().await.expect("read"), open);
        let error =
            again.bind("another".into()).await.map(|()| again.bind("one".into())).expect("bound").await;
        assert_eq!(error.expect_err("another competition's").kind(), ErrorKind::ConfigInvalid);
    }
    #[cfg(unix)]
    for path in [&path, &copy] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(path).expect("is there").permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_second_validator_is_refused_and_others_may_look() {
    let (_folder, path) = folder();
    let first = Ledger::open(&path).expect("made");
    let error = Ledger::open(&path).expect_err("refused");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Infrastructure));
    assert!(error.to_string().contains("another validator works with it"), "{error}");
    Ledger::read(&path).expect("looks");
    drop(first);
    Ledger::open(&path).expect("the next one");
}

#[tokio::test]
async fn what_is_asked_beside_a_validator_is_noticed() {
    let (_folder, path) = folder();
    Ledger::beside(&path).expect_err("nobody but a validator makes one");
    let working = Ledger::open(&path).expect("made");
    let ids = clear(&working, &["ann"]).await;
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    working.step(ids[0], Move::Void, Reason::failed(&outage, 9000), 5).await.expect("void");
    let changes = working.changes();
    let before = working.notice_others(None).await.expect("looked");
    assert_eq!(working.notice_others(Some(before)).await.expect("looked"), before);
    assert!(!changes.has_changed().expect("open"), "its own writes are told elsewhere");
    Ledger::beside(&path).expect("opens").retry(ids[0]).await.expect("asked");
    assert_ne!(working.notice_others(Some(before)).await.expect("looked"), before);
    assert!(changes.has_changed().expect("open"));
}

#[tokio::test]
async fn a_ledger_that_is_not_this_programs_is_refused_and_stays_as_it_is() {
    let (folder, path) = folder();
    drop(Ledger::open(&path).expect("made"));
    let whole = fs::read(&path).expect("reads");
    let refused = |path: &Path, words: &str| {
        let before = fs::read(path).expect("reads");
        for open in [Ledger::open, Ledger::read] {
            let error = open(path).expect_err(words);
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(fs::read(path).expect("reads"), before, "untouched");
    };
    let altered = |name: &str, sql: &str| {
        let path = folder.path().join(name);
        fs::write(&path, &whole).expect("writes");
        Connection::open(&path).and_then(|connection| connection.execute_batch(sql)).expect("altered");
        path
    };
    refused(&altered("newer", "PRAGMA user_version = 99;"), "its format is 99");
    refused(&altered("foreign", "PRAGMA application_id = 5;"), "another program's");
    let text = folder.path().join("text");
    fs::write(&text, "no database".repeat(500)).expect("writes");
    refused(&text, "not a database");

    let cut = folder.path().join("cut");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("writes");
    let error = Ledger::open(&cut).expect_err("cut short");
    assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
    let missing = Ledger::read(&folder.path().join("missing")).expect_err("is not there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// Every format that was ever written is read for ever.
#[tokio::test]
async fn the_ledger_of_format_1_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-1.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    let counts = ledger.counts().await.expect("read");
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("crowned".into(), 1), ("duelling".into(), 1), ("lost".into(), 1)]
    );
    let open = ledger.open_duel().await.expect("read").expect("open");
    assert_eq!((open.attempt, open.king, open.seed), (1, 2, Some(Seed::from(3))));
    assert_eq!(open.announcement, announced("plan of 3"));
    assert_eq!(ledger.kings().await.expect("read").len(), 2);
    assert_eq!(ledger.log_entries(0).await.expect("read").len(), 5);
    ledger.decide(decision(&open, LOST), 99).await.expect("and gone on with");
    assert_eq!(ledger.competition().await.expect("read").version, 7);
}

#[tokio::test]
async fn the_ledger_of_format_2_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-2.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    let competitions = ledger.competitions().await.expect("read");
    assert_eq!(competitions.iter().map(|one| one.version).collect::<Vec<_>>(), [7, 8]);
    let entered = ledger.entered().await.expect("read");
    assert_eq!(entered.iter().map(|row| row.hotkey.0.as_str()).collect::<Vec<_>>(), ["dan"]);
    assert_eq!(ledger.submissions().await.expect("read").len(), 4);
    assert_eq!(ledger.first_king().await.expect("read").map(|king| king.id), Some(3));
}

#[tokio::test]
async fn the_ledger_of_format_3_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-3.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    let followed = ledger.followed().await.expect("read").expect("followed");
    assert_eq!((followed.hotkey.0.as_str(), followed.next, followed.caught_up), ("them", 1, false));
    assert_eq!(followed.refusal.map(|refusal| refusal.cause), Some(Cause::Log));
    assert_eq!(ledger.followed_duel().await.expect("read").map(|duel| duel.king), Some(3));
    assert_eq!(ledger.followed_totals().await.expect("read").replies, 24);
    let used = ledger.used_before(&Hotkey("cat".into()), "a/b", "sha256:0").await.expect("read");
    assert_eq!(used.as_deref(), Some("the hotkey has taken part before"));
    assert_eq!(ledger.can_import(super::followed::import().source).await.expect("read"), Imported::Already);
}

/// A validator lives for years: what it asks for with every block is found by an index.
#[tokio::test]
async fn what_is_asked_for_with_every_block_reads_nothing_that_is_over() {
    let ledger = Ledger::in_memory().expect("a ledger");
    for (sql, index) in [
        (super::super::submissions::live_sql(), "submissions_live"),
        (super::super::epochs::MISS.into(), "epochs_open"),
    ] {
        let read = move |transaction: &rusqlite::Transaction<'_>| {
            let mut statement = transaction.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let mut rows = statement.raw_query();
            let mut plan = String::new();
            while let Some(row) = rows.next()? {
                plan.push_str(&row.get::<_, String>(3)?);
            }
            Ok(plan)
        };
        let plan = ledger.look("explain", read).await.expect("explained");
        assert!(plan.contains(index), "{plan}");
    }
}

#[tokio::test]
async fn the_ledger_of_format_4_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-4.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    let followed = ledger.followed().await.expect("read").expect("followed");
    assert_eq!((followed.hotkey.0.as_str(), followed.next, followed.caught_up), ("them", 1, false));
    assert_eq!((ledger.log_size().await.expect("read"), ledger.signed().await.expect("read")), (1, 1));
}

#[tokio::test]
async fn the_ledger_of_format_5_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-5.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    let followed = ledger.followed().await.expect("read").expect("followed");
    assert_eq!((followed.hotkey.0.as_str(), followed.next, followed.caught_up), ("them", 1, false));
    assert_eq!(ledger.note_missing(0, 7).await.expect("noted"), 6, "the first counts");
}

#[tokio::test]
async fn the_ledger_of_format_6_is_read() {
    let (_folder, path) = folder();
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("../fixtures/ledger-6.sql")).expect("the fixture is whole");
    drop(connection);
    let ledger = Ledger::open(&path).expect("opens");
    assert_eq!(ledger.note_missing(0, 7).await.expect("noted"), 6, "the first counts");
    let row = ledger.live().await.expect("read").remove(0);
    assert_eq!((row.hotkey.0.as_str(), row.set_aside.as_deref()), ("ann", Some("no hub has it")));
    assert_eq!(ledger.note_absent(row.id, 99).await.expect("noted"), 50, "the first counts");
    let alert = ledger.alerts().await.expect("read").remove(0);
    assert_eq!((alert.key.as_str(), alert.count), ("a submission is held up", 1));
}

/// Writes the fixture of the newest format: its SQL goes to standard output.
#[tokio::test]
#[ignore = "run it once for a new format, and keep what it prints"]
async fn print_a_fixture() {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.import(super::followed::import(), 1).await.expect("entered");
    let key = crate::signer::KeyFile::from_seed(&[7; 32]);
    let head = crate::log::Head::sign("example.com/log", 1, Digest::of("root"), &key).expect("signed");
    ledger.follow(&Hotkey("them".into()), &head, "key", 5).await.expect("followed");
    let entries = vec![Entry::Announced(announced("a"))];
    ledger.keep_followed(entries, &head, "news".into(), 5, 2).await.expect("kept");
    let effect = Effect::Announced { king: Digest::of("king") };
    ledger.follow_entry(0, effect, 5, 3).await.expect("followed");
    let verified = Verified {
        place: 0,
        record: Digest::of("record"),
        announced: Some(0),
        seen_block: 9,
        on_chain: true,
        replies: 24,
    };
    ledger.note_verified(verified, 4).await.expect("noted");
    ledger.note_missing(0, 6).await.expect("noted");
    ledger.observe(vec![commit("ann", 7)], 5).await.expect("observed");
    ledger.note_absent(1, 50).await.expect("noted");
    ledger.set_aside(1, "no hub has it".into()).await.expect("asked");
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    ledger.alert_anew("a submission is held up", &outage, 6).await.expect("said");
    let refusal = Refusal { cause: Cause::Log, message: "two histories".into() };
    ledger.refuse(Some(refusal)).await.expect("noted");
    let dump = ledger.look("dump", |transaction| Ok(dump(transaction)?)).await.expect("dumped");
    println!("{dump}");
}

/// The database as SQL, as the shell's `.dump` writes it.
fn dump(connection: &Connection) -> rusqlite::Result<String> {
    let mut text = format!(
        "PRAGMA foreign_keys = OFF;\nPRAGMA application_id = {};\nPRAGMA user_version = {};\n",
        connection.query_row("PRAGMA application_id", [], |row| row.get::<_, i64>(0))?,
        FORMAT.version
    );
    let mut schema = connection.prepare(
        "SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'
         ORDER BY type = 'trigger', type = 'view', type = 'index', rowid",
    )?;
    let objects: Vec<(String, String, String)> =
        schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
    for (name, kind, sql) in &objects {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{sql};");
        if kind == "table" {
            let columns = connection.prepare(&format!("SELECT * FROM {name}"))?;
            let columns: Vec<_> = columns.column_names().map(|column| format!("quote({column})")).collect();
            let sql = format!("SELECT {} FROM {name}", columns.join(" || ', ' || "));
            let mut rows = connection.prepare(&sql)?;
            for row in rows.query_map([], |row| row.get::<_, String>(0))? {
                let _ = writeln!(text, "INSERT INTO {name} VALUES ({});", row?);
            }
        }
    }
    Ok(text)
}
