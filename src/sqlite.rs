//! `SQLite` files of albedo's own: whose a file is, and in which format.

use rusqlite::Connection;

/// What marks a file as one kind of albedo's, and its tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// `PRAGMA application_id`.
    pub(crate) application: i64,
    /// `PRAGMA user_version`.
    pub(crate) version: i64,
    pub(crate) tables: &'static str,
}

impl Format {
    /// Makes the tables in an empty file. Says what is wrong with a file that is another
    /// program's or has another version. Call it within a transaction.
    ///
    /// # Errors
    /// The file's.
    pub(crate) fn make_or_check(&self, connection: &Connection) -> rusqlite::Result<Result<(), String>> {
        let Self { application, version, tables } = self;
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let found = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
        let is_empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
        if is_empty && found == (0, 0) {
            let sql =
                format!("PRAGMA application_id = {application}; PRAGMA user_version = {version}; {tables}");
            return connection.execute_batch(&sql).map(Ok);
        }
        Ok(match found {
            _ if found == (*application, *version) => Ok(()),
            (other, found) if other == *application => {
                Err(format!("its format is {found}, this program reads {version}"))
            }
            _ => Err("it is another program's database".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_no_other_is_touched() {
        let format = Format { application: 0x616c_0000, version: 2, tables: "CREATE TABLE t (x INTEGER);" };
        let connection = Connection::open_in_memory().expect("opens");
        for _ in 0..2 {
            assert_eq!(format.make_or_check(&connection).expect("asks"), Ok(()));
        }
        let later = Format { version: 3, ..format };
        let said = later.make_or_check(&connection).expect("asks").expect_err("an old one");
        assert_eq!(said, "its format is 2, this program reads 3");
        let other = Format { application: 7, ..format };
        let said = other.make_or_check(&connection).expect("asks").expect_err("another's");
        assert_eq!(said, "it is another program's database");
        let foreign = Connection::open_in_memory().expect("opens");
        foreign.execute_batch("CREATE TABLE theirs (x INTEGER);").expect("makes");
        assert!(format.make_or_check(&foreign).expect("asks").is_err());
    }
}
