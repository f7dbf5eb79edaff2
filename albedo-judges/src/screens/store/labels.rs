//! Submissions with the same parameters: one entry, and a label for each of them.

use std::collections::BTreeMap;

use albedo_core::Result;
use rusqlite::{Connection, params};

use super::{Entry, Store, Submission};

/// An entry that several submissions share.
#[derive(Debug)]
struct Shared {
    /// The entry's own label: whose submission was seen first.
    label: String,
    /// The block and the label of each submission whose block is known; there is one at least.
    all: Vec<(i64, String)>,
}

impl Shared {
    /// Labels of those that were committed first: several, if that was in one block.
    fn first(&self) -> impl Iterator<Item = &str> {
        let block = self.all.iter().map(|(block, _)| *block).min();
        self.all.iter().filter(move |(of, _)| Some(*of) == block).map(|(_, label)| label.as_str())
    }
}

impl Store {
    /// The labels of the entries that are the work of the submitter whose labels are `own`.
    ///
    /// - An entry that several submissions share is the work of the one that was committed first, by
    ///   its block. Which one was added first does not matter.
    /// - If several were committed first, in one block, `own` must have all of their labels.
    /// - A label without a block is never first.
    /// - A label that no other submission shares stays in the list.
    ///
    /// # Errors
    /// The store's.
    pub fn own(&self, own: &[String]) -> Result<Vec<String>> {
        let mut labels = own.to_vec();
        for shared in self.shared()? {
            labels.retain(|label| *label != shared.label);
            if shared.first().all(|first| own.iter().any(|own| own == first)) {
                labels.push(shared.label);
            }
        }
        Ok(labels)
    }

    /// The label of the submission that was committed first of all that had the parameters of the entry
    /// `label`. `None` if it is that entry's own, or if nothing tells.
    ///
    /// # Errors
    /// The store's.
    pub fn first_label(&self, label: &str) -> Result<Option<String>> {
        let shared = self.shared()?.into_iter().find(|shared| shared.label == label);
        let first = shared.and_then(|shared| shared.first().next().map(str::to_owned));
        Ok(first.filter(|first| first != label))
    }

    fn shared(&self) -> Result<Vec<Shared>> {
        let sql = "SELECT e.id, e.label, e.block, a.label, a.block
                   FROM entries e JOIN aliases a ON a.entry = e.id ORDER BY e.id, a.rowid";
        let rows = self.select(sql, |row| {
            let own: (i64, String, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let alias: (i64, String) = (row.get(4)?, row.get(3)?);
            Ok((own, alias))
        })?;
        let mut shared = BTreeMap::new();
        for ((id, label, block), alias) in rows {
            let one = shared.entry(id).or_insert_with(|| {
                let all = block.map(|block| (block, label.clone())).into_iter().collect();
                Shared { label, all }
            });
            one.all.push(alias);
        }
        Ok(shared.into_values().collect())
    }
}

/// Keeps the label of `submission`, whose parameters `known` has. Does nothing if the label is known,
/// or if the submission has no block: who was first cannot follow from it.
pub(super) fn add(connection: &Connection, known: &Entry, submission: &Submission) -> rusqlite::Result<()> {
    let Some(block) = submission.block.map(|block| block as i64) else { return Ok(()) };
    if submission.label == known.label {
        return Ok(());
    }
    let sql = "INSERT OR IGNORE INTO aliases (entry, label, hotkey, block) VALUES (?1, ?2, ?3, ?4)";
    connection.execute(sql, params![known.id, submission.label, submission.hotkey, block]).map(drop)
}
