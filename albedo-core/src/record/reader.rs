//! Reading a record back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::blobs::read_blobs;
use super::canonical::root_digest;
use super::{FORMAT, RecordLine, TextRef};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::DuelPlan;
use crate::verdict::Verdict;

/// A record whose bytes have the digest that stands beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The digest of the duel.
    pub digest: Digest,
    /// All lines, the header first.
    pub lines: Vec<RecordLine>,
    plan: DuelPlan,
    verdict: Verdict,
    texts: BTreeMap<Digest, String>,
}

impl Record {
    /// Reads the record in `folder` and checks its digest, its blobs and its
    /// shape.
    ///
    /// # Errors
    /// A file is missing, altered or malformed; the record was written by a
    /// newer albedo.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| Error::io("read the record", &path, error))
        };
        let stated: Digest = String::from_utf8_lossy(&read("record.digest")?)
            .trim()
            .parse()
            .map_err(|error: Error| error.with("file", folder.join("record.digest").display()))?;
        Self::from_bytes(&read("record.jsonl")?, &read("record.blobs")?, stated)
            .map_err(|error| error.with("record", folder.display()))
    }

    /// The record of two files whose digest has to be `stated`.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn from_bytes(lines: &[u8], blobs: &[u8], stated: Digest) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::DataInvalid, "read the record", message);
        let text = std::str::from_utf8(lines).map_err(|_| invalid("`record.jsonl` is not UTF-8".into()))?;
        let format = read_format(text)?;
        let digest = root_digest(format, lines, blobs);
        if digest != stated {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                "read the record",
                "`record.jsonl` or `record.blobs` does not have the digest in `record.digest`",
            )
            .with("stated", stated)
            .with("actual", digest)
            .with_hint("the record was altered or is incomplete: fetch it again"));
        }
        let lines = text.lines().enumerate().map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| invalid(format!("line {}: {error}", number + 1)))
        });
        let lines = lines.collect::<Result<Vec<RecordLine>>>()?;
        let (Some(RecordLine::Plan { plan }), Some(RecordLine::Verdict(verdict))) =
            (lines.get(1), lines.last())
        else {
            return Err(invalid("the second line is no plan, or the last no verdict".into()));
        };
        let (plan, verdict) = ((**plan).clone(), (**verdict).clone());
        Ok(Self { digest, lines, plan, verdict, texts: read_blobs(blobs)? })
    }

    /// The frozen plan.
    pub fn plan(&self) -> &DuelPlan {
        &self.plan
    }

    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The text behind `reference`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if no blob has that digest.
    pub fn text(&self, reference: &TextRef) -> Result<&str> {
        self.texts.get(&reference.sha256).map(String::as_str).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read the record", "a text is missing from `record.blobs`")
                .with("digest", reference.sha256)
        })
    }
}

/// The format in the header, which every version of the format has.
fn read_format(text: &str) -> Result<u32> {
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let header = text.lines().next().unwrap_or_default();
    let Header { format } = serde_json::from_str(header).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, "read the record", format!("its first line is no header: {error}"))
    })?;
    if (1..=FORMAT).contains(&format) {
        return Ok(format);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "read the record",
        "it has a format that this albedo does not know",
    )
    .with("format", format)
    .with("known", format!("1 to {FORMAT}"))
    .with_hint("update albedo"))
}
