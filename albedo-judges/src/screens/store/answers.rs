//! What models say of sets of questions: how likely each of them finds the replies.

use std::collections::BTreeMap;

use albedo_core::{Digest, Error, ErrorKind, Fault, Message, Result};
use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::{READ, Store, damaged, digest, sqlite, tables};

/// A conversation and the reply that a king gave to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The reply, whose tokens are scored.
    pub reply: String,
    /// Whether the king ended it; else it was cut.
    pub ended: bool,
}

/// Questions that models are compared by. It is the same set wherever it follows from the
/// same seed, king and settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionSet {
    /// What the conversations follow from.
    pub seed: u64,
    /// Digest of the parameters of the king who replied.
    pub king: Digest,
    /// The questions.
    pub questions: Vec<Question>,
}

/// A stored set, and who has scored its replies: the digests of their parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSet {
    /// Where it is in the store; later sets have larger numbers.
    pub id: i64,
    /// The set.
    pub set: QuestionSet,
}

impl QuestionSet {
    /// The digest of the set.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_json(self)
    }
}

impl Store {
    /// Adds a set of questions, if it is not there, and gives its number. Its king is one of the
    /// store's from then on ([`Store::add_king`]).
    pub fn add_set(&self, set: &QuestionSet) -> Result<i64> {
        const OPERATION: &str = "add questions to the store";
        let json = serde_json::to_vec(set).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        let digest = set.digest()?;
        let failed = |error| sqlite(OPERATION, &self.path, error);
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let row = params![digest.as_bytes().as_slice(), json];
        let sql = "INSERT OR IGNORE INTO sets (digest, questions) VALUES (?1, ?2)";
        transaction.execute(sql, row).map_err(failed)?;
        tables::add_king(&transaction, set.king).map_err(failed)?;
        let sql = "SELECT id FROM sets WHERE digest = ?1";
        let id = transaction.query_row(sql, [digest.as_bytes().as_slice()], |row| row.get(0));
        let id = id.map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(id)
    }

    /// The latest `most` sets of questions, the latest first.
    pub fn sets(&self, most: u32) -> Result<Vec<StoredSet>> {
        let sql = format!("SELECT id, questions FROM sets ORDER BY id DESC LIMIT {most}");
        self.select(&sql, stored_set)
    }

    /// The numbers of the latest `most` sets, the latest first.
    pub(crate) fn latest_sets(&self, most: u32) -> Result<Vec<i64>> {
        let sql = format!("SELECT id FROM sets ORDER BY id DESC LIMIT {most}");
        self.select(&sql, |row| row.get(0))
    }

    /// The set of this number.
    ///
    /// # Errors
    /// The store's; a number that no set has.
    pub(crate) fn set(&self, id: i64) -> Result<StoredSet> {
        let sql = "SELECT id, questions FROM sets WHERE id = ?1";
        let read = self.lock().query_row(sql, [id], stored_set);
        read.map_err(|error| sqlite(READ, &self.path, error))
    }

    /// Remembers what the model of these parameters says of the set: the log-probability of
    /// each token of each reply. The first answer stays.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for a number that is not finite; the store's.
    pub fn add_answers(&self, set: i64, parameters: Digest, log_probs: &[Vec<f32>]) -> Result<()> {
        const OPERATION: &str = "add answers to the store";
        if log_probs.iter().flatten().any(|value| !value.is_finite()) {
            let error = Error::new(ErrorKind::DataInvalid, OPERATION, "a log-probability is not finite");
            return Err(error.with_fault(Fault::Infrastructure));
        }
        let row = params![set, parameters.as_bytes().as_slice(), encode(log_probs)];
        let sql = "INSERT OR IGNORE INTO answers (question_set, parameters, log_probs) VALUES (?1, ?2, ?3)";
        self.lock().execute(sql, row).map_err(|error| sqlite(OPERATION, &self.path, error))?;
        Ok(())
    }

    /// What the model of these parameters says of a set, if it was asked.
    pub fn answers(&self, set: i64, parameters: Digest) -> Result<Option<Vec<Vec<f32>>>> {
        let sql = "SELECT log_probs FROM answers WHERE question_set = ?1 AND parameters = ?2";
        let row = params![set, parameters.as_bytes().as_slice()];
        let read = |row: &Row<'_>| decode(&row.get::<_, Vec<u8>>(0)?);
        let read = self.lock().query_row(sql, row, read).optional();
        read.map_err(|error| sqlite(READ, &self.path, error))
    }

    /// What every submission that was asked says of a set, in the order of first sight.
    pub fn all_answers(&self, set: i64) -> Result<Vec<StoredAnswers>> {
        let sql = format!(
            "SELECT e.id, e.label, e.block, e.parameters, a.log_probs
             FROM entries e JOIN answers a ON a.parameters = e.parameters
             WHERE a.question_set = {set} ORDER BY e.id"
        );
        self.select(&sql, |row| {
            let parameters = digest(row, 3)?.ok_or_else(|| damaged(3, "there is no digest"))?;
            let log_probs = decode(&row.get::<_, Vec<u8>>(4)?)?;
            Ok(StoredAnswers { entry: super::entry(row)?, parameters, log_probs })
        })
    }

    /// What every king that was asked says of a set: the digest of his parameters, and his
    /// answers.
    pub(crate) fn kings_answers(&self, set: i64) -> Result<Vec<(Digest, Vec<Vec<f32>>)>> {
        let sql = format!(
            "SELECT k.parameters, a.log_probs FROM kings k JOIN answers a ON a.parameters = k.parameters
             WHERE a.question_set = {set} ORDER BY k.id"
        );
        self.select(&sql, |row| {
            let parameters = digest(row, 0)?.ok_or_else(|| damaged(0, "there is no digest"))?;
            Ok((parameters, decode(&row.get::<_, Vec<u8>>(1)?)?))
        })
    }

    /// Which submissions have answered which sets, and how many kings other than `now`.
    pub(crate) fn answered(&self, now: Digest) -> Result<Answered> {
        let by = self.select(
            "SELECT a.question_set, e.id, e.label FROM entries e JOIN answers a ON a.parameters = e.parameters",
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let kings = self.select(
            "SELECT a.question_set, k.parameters FROM kings k JOIN answers a ON a.parameters = k.parameters",
            |row| Ok((row.get(0)?, digest(row, 1)?)),
        )?;
        let mut count: BTreeMap<i64, usize> = BTreeMap::new();
        for (set, _) in kings.into_iter().filter(|(_, king)| *king != Some(now)) {
            *count.entry(set).or_default() += 1;
        }
        Ok(Answered { by, kings: count })
    }
}

/// Who has answered which sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Numbers of a set and of an entry that has answered it, and the entry's label.
    pub(crate) by: Vec<(i64, i64, String)>,
    /// How many kings have answered a set.
    pub(crate) kings: BTreeMap<i64, usize>,
}

/// What a stored submission says of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAnswers {
    /// The submission.
    pub entry: super::Entry,
    /// Digest of its parameters.
    pub parameters: Digest,
    /// The log-probability of each token of each reply.
    pub log_probs: Vec<Vec<f32>>,
}

fn stored_set(row: &Row<'_>) -> rusqlite::Result<StoredSet> {
    let bytes: Vec<u8> = row.get(1)?;
    let set = serde_json::from_slice(&bytes).map_err(|error| damaged(1, error))?;
    Ok(StoredSet { id: row.get(0)?, set })
}

/// Each reply's number of tokens and its numbers, little-endian.
fn encode(log_probs: &[Vec<f32>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for reply in log_probs {
        bytes.extend((reply.len() as u32).to_le_bytes());
        bytes.extend(reply.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> rusqlite::Result<Vec<Vec<f32>>> {
    let broken = || damaged(0, "the answers are malformed");
    let mut replies = Vec::new();
    while let Some((count, rest)) = bytes.split_first_chunk::<4>() {
        let size = 4 * u32::from_le_bytes(*count) as usize;
        let (values, rest) = rest.split_at_checked(size).ok_or_else(broken)?;
        replies.push(values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        bytes = rest;
    }
    if bytes.is_empty() { Ok(replies) } else { Err(broken()) }
}
