//! Columns that hold more than `SQLite` knows.

use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chains::database::damaged;
use crate::{Digest, Error, Result};

/// A column with a digest.
pub(super) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error: Error| damaged(column, error))
}

/// A column with JSON.
pub(super) fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| damaged(column, error))
}

/// `value` as a column with JSON holds it.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::bug("write the ledger", error.to_string()))
}
