//! The store's file: its tables, and how a file gets them.

use albedo_core::Digest;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::Deserialize;

use super::damaged;

/// Marks the file as ours (`PRAGMA application_id`): "albs".
pub(super) const APPLICATION: i64 = 0x616c_6273;

/// Version of the tables (`PRAGMA user_version`), and of what alignment and
/// projections make of a model: sketches of two versions must never meet. A store of
/// an earlier format is brought to this one when it is opened. The sketches of format 1
/// stay where they are, are compared with nothing, and count as
/// [outdated](super::Store::outdated); those of later formats are of this one, too.
pub(super) const FORMAT: i64 = 4;

pub(super) const TABLES: &str = "
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        label TEXT NOT NULL,
        hotkey TEXT NOT NULL,
        block INTEGER,
        parameters BLOB UNIQUE,
        fingerprint BLOB,
        anchor BLOB,
        sketch BLOB
    ) STRICT;
    CREATE TRIGGER entries_keep BEFORE UPDATE ON entries
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER entries_stay BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
";

/// What format 2 has besides the entries: their sketches (`entries.sketch` is format 1's),
/// the prints of their tensors, sets of questions, and what each entry says of a set's
/// replies.
pub(super) const TABLES_2: &str = "
    CREATE TABLE sketches (
        entry INTEGER PRIMARY KEY REFERENCES entries (id),
        anchor BLOB NOT NULL,
        sketch BLOB NOT NULL
    ) STRICT;
    CREATE TABLE tensors (
        entry INTEGER PRIMARY KEY REFERENCES entries (id),
        prints BLOB NOT NULL
    ) STRICT;
    CREATE TABLE sets (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        questions BLOB NOT NULL
    ) STRICT;
    CREATE TABLE answers (
        question_set INTEGER NOT NULL REFERENCES sets (id),
        parameters BLOB NOT NULL,
        log_probs BLOB NOT NULL,
        PRIMARY KEY (question_set, parameters)
    ) STRICT;
    CREATE TRIGGER sketches_keep BEFORE UPDATE ON sketches
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER sketches_stay BEFORE DELETE ON sketches
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER tensors_keep BEFORE UPDATE ON tensors
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER tensors_stay BEFORE DELETE ON tensors
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER sets_keep BEFORE UPDATE ON sets
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER sets_stay BEFORE DELETE ON sets
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER answers_keep BEFORE UPDATE ON answers
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER answers_stay BEFORE DELETE ON answers
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
";

/// What format 3 has besides: the kings, from whom earlier submissions were trained.
pub(super) const TABLES_3: &str = "
    CREATE TABLE kings (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        parameters BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE TRIGGER kings_keep BEFORE UPDATE ON kings
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER kings_stay BEFORE DELETE ON kings
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
";

/// What format 4 has besides: later submissions with the parameters of an entry.
pub(super) const TABLES_4: &str = "
    CREATE TABLE aliases (
        entry INTEGER NOT NULL REFERENCES entries (id),
        label TEXT NOT NULL,
        hotkey TEXT NOT NULL,
        block INTEGER NOT NULL,
        PRIMARY KEY (entry, label)
    ) STRICT;
    CREATE TRIGGER aliases_keep BEFORE UPDATE ON aliases
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
    CREATE TRIGGER aliases_stay BEFORE DELETE ON aliases
        BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;
";

/// Whether the file has no tables and is no other program's: it is new, or the process that made
/// it was interrupted.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok([0, APPLICATION].contains(&number("PRAGMA application_id")?)
        && number("SELECT count(*) FROM sqlite_schema")? == 0)
}

/// Gives an empty file the tables of a store: all of them, or none. Two programs may do so at
/// the same time: the second finds that it is done.
pub(super) fn furnish(connection: &Connection) -> rusqlite::Result<()> {
    // No transaction can change it, and it says nothing of what the file is.
    connection.execute_batch("PRAGMA journal_mode = WAL;")?;
    let transaction = begin(connection)?;
    if is_empty(&transaction)? {
        transaction.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {TABLES} {TABLES_2} {TABLES_3} \
             {TABLES_4}"
        ))?;
    }
    transaction.commit()
}

/// Brings a store of an earlier format to this one. Two programs may open it at the same
/// time: the second finds that it is done.
pub(super) fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    let format: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format < 2 {
        transaction.execute_batch(TABLES_2)?;
    }
    if format < 3 {
        transaction.execute_batch(TABLES_3)?;
        add_kings_of_sets(&transaction)?;
    }
    if format < 4 {
        transaction.execute_batch(TABLES_4)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {FORMAT};"))?;
    transaction.commit()
}

/// Notes that the model of these parameters is a king.
pub(super) fn add_king(connection: &Connection, parameters: Digest) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO kings (parameters) VALUES (?1)";
    connection.execute(sql, [parameters.as_bytes().as_slice()]).map(drop)
}

/// A set says which king has replied.
fn add_kings_of_sets(connection: &Connection) -> rusqlite::Result<()> {
    #[derive(Deserialize)]
    struct Of {
        king: Digest,
    }
    let mut statement = connection.prepare("SELECT questions FROM sets ORDER BY id")?;
    let kings = statement.query_map([], |row| {
        let bytes: Vec<u8> = row.get(0)?;
        serde_json::from_slice::<Of>(&bytes).map(|set| set.king).map_err(|error| damaged(0, error))
    })?;
    for king in kings.collect::<rusqlite::Result<Vec<_>>>()? {
        add_king(connection, king)?;
    }
    Ok(())
}

/// A transaction that no other writer can come between.
fn begin(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
}
