//! `journal.jsonl` as it is written and read back.

use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::JournalEvent;
use super::blobs::{BlobIndex, TextRef, read_head};
use super::bounds::MAX_LINE;
use super::canonical::check_format;
use super::chain::Chain;
use super::file_store::JOURNAL;
use crate::backend::Usage;
use crate::error::{Error, ErrorKind, Result};
use crate::files::open_file;
use crate::plan::DuelPlan;

/// A line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened.
    pub event: JournalEvent,
}

/// The plan of the duel in `folder`, which may still run; `None` if it has none yet.
///
/// # Errors
/// There is no journal, or its lines are malformed.
pub fn planned(folder: &Path) -> Result<Option<DuelPlan>> {
    let path = folder.join(JOURNAL);
    let file = open_file("read the journal", &path)?;
    for (number, line) in Lines::new(file).enumerate() {
        let line = line.map_err(|error| Error::io("read the journal", &path, error))?;
        let entry: JournalEntry =
            serde_json::from_slice(&line).map_err(|error| malformed(&path, number + 1, &error))?;
        if let JournalEvent::Opened { plan, .. } = entry.event {
            return Ok(Some(*plan));
        }
    }
    Ok(None)
}

impl JournalEvent {
    /// What a judge's answer took, if a model was asked.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Prepared { usage, .. }
            | Self::CanaryPrepared { usage, .. }
            | Self::Failed { usage, .. } => *usage,
            Self::Assessed { assessment, .. }
            | Self::CanaryAssessed { assessment, .. }
            | Self::Probed { assessment, .. }
            | Self::Twinned { assessment, .. } => assessment.usage(),
            _ => None,
        }
    }

    /// The text that a reader of the journal needs beside this event.
    pub(super) fn text(&self) -> Option<&TextRef> {
        match self {
            Self::Replied { text, .. } => Some(text),
            _ => None,
        }
    }
}

/// Length of the whole lines of a journal, whose first line has to have a
/// format that this build knows. A torn last line is not counted. `chain` reads the
/// lines too.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a newer format.
pub(super) fn whole_lines(file: impl Read, path: &Path, chain: Option<&mut Chain>) -> Result<u64> {
    #[derive(Deserialize)]
    struct First {
        event: Opened,
    }
    #[derive(Deserialize)]
    struct Opened {
        format: u32,
    }
    let (mut length, mut chain) = (0, chain);
    for line in Lines::new(file) {
        let line = line.map_err(|error| Error::io("read the journal", path, error))?;
        if length == 0 {
            let First { event } =
                serde_json::from_slice(&line).map_err(|error| malformed(path, 1, &error))?;
            check_format(event.format).map_err(|error| error.with("path", path.display()))?;
        }
        if let Some(chain) = &mut chain {
            chain.read(&line);
        }
        length += line.len() as u64;
    }
    Ok(length)
}

/// The events of a journal in the order of its lines, without those whose text
/// `blobs` lacks.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for a line that is no entry, naming it.
pub(super) fn read_events(file: impl Read, blobs: &BlobIndex, path: &Path) -> Result<Vec<JournalEvent>> {
    let mut events = Vec::new();
    for (number, line) in Lines::new(file).enumerate() {
        let line = line.map_err(|error| Error::io("read the journal", path, error))?;
        let JournalEntry { event, .. } =
            serde_json::from_slice(&line).map_err(|error| malformed(path, number + 1, &error))?;
        if event.text().is_none_or(|text| blobs.position(text).is_some()) {
            events.push(event);
        }
    }
    Ok(events)
}

/// The whole entries of a blob file; a torn last one is not counted. Texts are
/// checked when they are read.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for an entry that is malformed rather than torn.
pub(super) fn index_blobs(file: impl Read + Seek, path: &Path) -> Result<BlobIndex> {
    let failed = |error| Error::io("read the journal's texts", path, error);
    let mut index = BlobIndex::default();
    let mut reader = BufReader::new(file);
    let length = reader.seek(io::SeekFrom::End(0)).map_err(failed)?;
    reader.rewind().map_err(failed)?;
    loop {
        let mut head = Vec::new();
        // A head has 64 digits, a space and at most 20 more.
        reader.by_ref().take(96).read_until(b'\n', &mut head).map_err(failed)?;
        let Some(line) = head.strip_suffix(b"\n") else {
            if head.len() < 96 {
                return Ok(index);
            }
            return Err(malformed(path, index.end(), "an entry's first line is too long"));
        };
        let text =
            read_head(line).map_err(|error| error.with("path", path.display()).with("byte", index.end()))?;
        let end = index.end().saturating_add(head.len() as u64).saturating_add(text.bytes);
        if end >= length {
            return Ok(index);
        }
        reader.seek_relative(text.bytes as i64).map_err(failed)?;
        let mut last = [0];
        reader.read_exact(&mut last).map_err(failed)?;
        if last != *b"\n" {
            return Err(malformed(path, index.end(), "an entry does not end where it says"));
        }
        index.insert(text);
    }
}

/// Whole lines with their ends, of at most [`MAX_LINE`] bytes.
pub(super) struct Lines<R>(BufReader<R>);

impl<R: Read> Lines<R> {
    pub(super) fn new(file: R) -> Self {
        Self(BufReader::new(file))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.0.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line) {
            Ok(_) if line.len() as u64 > MAX_LINE => {
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long")))
            }
            Ok(_) => line.ends_with(b"\n").then_some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }
}

pub(super) fn malformed(path: &Path, at: impl std::fmt::Display, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::DataInvalid, "read the journal", format!("it is malformed: {why}"))
        .with("path", path.display())
        .with("at", at)
        .with_hint("the file was altered: restore it, or start anew in another folder")
}
