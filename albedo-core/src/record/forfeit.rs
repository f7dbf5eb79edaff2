//! The record of a submission that was not admitted: its screens' findings, and
//! no plan.

use std::path::Path;

use super::bounds::MAX_FORFEIT;
use super::reader::{BLOBS, LINES, in_file, invalid, read_digests, read_folder, read_lines};
use super::{FORMAT, JournalEvent, Record, RecordBuilder, RecordLine, RecordStore};
use crate::admission::{Admission, AdmissionOutcome};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::events::Journal;
use crate::screen::Finding;
use crate::verdict::{Forfeit, Outcome};

/// The first format that has such records.
const SINCE: u32 = 3;

/// The record of a submission that forfeited before a plan was made.
#[derive(Debug, Clone, PartialEq)]
pub struct ForfeitRecord {
    /// The digest of the record.
    pub digest: Digest,
    /// The admission, as it was published.
    pub admission: Admission,
}

/// A record of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyRecord {
    /// Of a duel.
    Duel(Box<Record>),
    /// Of a submission that was not admitted.
    Forfeit(Box<ForfeitRecord>),
}

impl AnyRecord {
    /// Reads the record in `folder` and checks its bytes.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn open(folder: &Path) -> Result<Self> {
        let [lines, blobs, digest] = read_folder(folder)?;
        let read = if forfeit_line(&lines) {
            let record = ForfeitRecord::from_files(&lines, &blobs, &digest);
            record.map(|record| Self::Forfeit(Box::new(record)))
        } else {
            Record::from_files(&lines, &blobs, &digest).map(|record| Self::Duel(Box::new(record)))
        };
        read.map_err(|error| error.with("record", folder.display()))
    }

    /// The digest of the record.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Duel(record) => record.digest,
            Self::Forfeit(record) => record.digest,
        }
    }
}

impl Admission {
    /// Keeps the admission in `store`: the whole of it in the journal and, if the
    /// submission forfeits, what may be [published](Admission::published) in a
    /// record. Gives the record's digest. The duel of an admitted submission goes
    /// on in the same store.
    ///
    /// # Errors
    /// The store's; an outcome that does not follow from the findings.
    pub async fn keep(&self, store: &dyn RecordStore, cx: &CallContext) -> Result<Option<Digest>> {
        self.check()?;
        let journal = Journal { store, cx };
        let screened = JournalEvent::Screened { format: FORMAT, admission: Box::new(self.clone()) };
        journal.write(screened, vec![]).await?;
        if self.outcome != AdmissionOutcome::Forfeit {
            return Ok(None);
        }
        store.begin().await?;
        let mut record = RecordBuilder::default();
        record.line(&RecordLine::Header { format: FORMAT })?;
        record.line(&RecordLine::Forfeit { admission: Box::new(self.clone().published()) })?;
        let (part, digests) = record.finish();
        store.extend(part).await?;
        store.publish(&digests).await?;
        journal.write(JournalEvent::Forfeited { record: digests.root() }, vec![]).await?;
        Ok(Some(digests.root()))
    }

    /// The admission that the journal of `store` holds; of several the last.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept(store: &dyn RecordStore) -> Result<Option<Self>> {
        let mut admissions = store.stored().await?.into_iter().filter_map(|event| match event {
            JournalEvent::Screened { admission, .. } => Some(*admission),
            _ => None,
        });
        Ok(admissions.next_back())
    }
}

impl ForfeitRecord {
    /// The record of its three files.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn from_files(lines: &[u8], blobs: &[u8], digest: &[u8]) -> Result<Self> {
        if lines.len() as u64 > MAX_FORFEIT {
            return Err(in_file(invalid(format!("it has more than {MAX_FORFEIT} bytes")), LINES));
        }
        let digests = read_digests(lines, blobs, digest)?;
        if !blobs.is_empty() {
            return Err(in_file(invalid("the record of a forfeit has no texts"), BLOBS));
        }
        let format = digests.format;
        let lines = read_lines(lines).map_err(|error| in_file(error, LINES))?;
        match <[RecordLine; 2]>::try_from(lines) {
            Ok([RecordLine::Header { format: header }, RecordLine::Forfeit { admission }])
                if header == format && format >= SINCE =>
            {
                Ok(Self { digest: digests.root(), admission: *admission })
            }
            _ => Err(in_file(invalid("it is not a header and a forfeit of a format that has them"), LINES)),
        }
    }

    /// What the submission's attempt came to.
    pub fn outcome(&self) -> Outcome {
        Outcome::Forfeit(Forfeit::Screened)
    }

    /// Verifies what follows from the record alone: that the stages are in order,
    /// that the outcome is what the findings amount to, that it is a forfeit, and
    /// that nothing of the operator's machine is in it. Whether a finding is true
    /// takes the submission's bytes and the screens.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] if it is another record than `expect`;
    /// [`ErrorKind::DataInvalid`] with the first thing that does not follow.
    pub fn verify(&self, expect: Option<Digest>) -> Result<()> {
        const OPERATION: &str = "verify the record";
        if let Some(expected) = expect
            && expected != self.digest
        {
            let message = "it is another record than the expected";
            return Err(Error::new(ErrorKind::DigestMismatch, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("expected", expected)
                .with("actual", self.digest));
        }
        let wrong = |why: String| Error::new(ErrorKind::DataInvalid, OPERATION, why).with("file", LINES);
        self.admission.check().map_err(|error| wrong(error.message().to_owned()))?;
        if self.admission.outcome != AdmissionOutcome::Forfeit {
            return Err(wrong(format!("the admission is {}: it has no record", self.admission.outcome)));
        }
        let told = |finding: &Finding| matches!(finding, Finding::Unverified(why) if !why.is_null());
        if self.admission.findings.iter().any(|screened| told(&screened.finding)) {
            return Err(wrong("what could not be found out belongs into the journal".into()));
        }
        Ok(())
    }
}

/// Whether the second line is a forfeit's, however the file goes on.
fn forfeit_line(lines: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        line: String,
    }
    let second = lines.split(|&byte| byte == b'\n').nth(1).unwrap_or_default();
    serde_json::from_slice::<Kind>(second).is_ok_and(|kind| kind.line == "forfeit")
}

#[cfg(test)]
mod tests;
