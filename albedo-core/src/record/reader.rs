//! Reading a record back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::blobs::read_blobs;
use super::bounds::{MAX_BLOBS, MAX_DIGEST, MAX_LINE, MAX_LINES};
use super::canonical::{Digests, check_format};
use super::{RecordLine, RecordedAnswer, RecordedReply, TextRef};
use crate::backend::Message;
use crate::digest::{Digest, canonical_json};
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::files::read_bounded;
use crate::judge::Metric;
use crate::missing::Probes;
use crate::plan::DuelPlan;
use crate::twin::TwinCell;
use crate::verdict::Verdict;

/// A record whose bytes are whole and canonical, and have the digest that
/// stands beside them. Whether it is true is [`super::verify`]'s question.
///
/// ```
/// use albedo_core::record::{VerifyOptions, verify_record};
/// use albedo_core::{CallContext, MemoryStore, Record};
///
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// let (cx, store) = (CallContext::new(), MemoryStore::default());
/// let duel = albedo_core::testing::small_duel().plan(&store, &cx).await?;
/// duel.run(&store, &cx).await?;
///
/// let bytes = store.record().expect("the duel is decided");
/// let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest)?;
/// for sample in record.samples() {
///     println!("sample {} of {}", sample.sample, record.plan().samples);
/// }
/// // Works the verdict out again from the facts.
/// verify_record(&record, &VerifyOptions::default(), &cx).await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
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

/// The lines of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedSample<'a> {
    /// Its place in plan order.
    pub sample: u32,
    /// Canonical JSON of the conversation.
    pub messages: TextRef,
    /// The recorded reply.
    pub reference: TextRef,
    /// The replies, the king's first.
    pub replies: Vec<&'a RecordedReply>,
    /// The judges' answers in panel order, the king-first order first.
    pub answers: Vec<&'a RecordedAnswer>,
    /// What judges made of neutral text, by their places in the panel.
    pub probes: BTreeMap<u32, &'a Probes>,
    /// Replies and their twins, as judges compared them.
    pub twins: Vec<RecordedTwin<'a>>,
}

/// A reply and its twin before one judge.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedTwin<'a> {
    /// The judge's place in the panel.
    pub judge: u32,
    /// Whose reply.
    pub side: Side,
    /// Whether the sample was drawn; if not, the judge suspects the reply.
    pub drawn: bool,
    /// The twin; none if the judge would be shown the same of both, and was not asked.
    pub text: Option<TextRef>,
    /// The judge's answers, that with the reply shown first coming first.
    pub answers: Vec<&'a RecordedAnswer>,
}

impl RecordedTwin<'_> {
    /// Whether the twin was judged in place of the reply, by the answers of a judge with `metrics`.
    pub fn is_replaced(&self, metrics: &[Metric]) -> bool {
        let answers = <[&RecordedAnswer; 2]>::try_from(self.answers.clone()).ok();
        TwinCell::new(self.judge, self.side, self.drawn, metrics, answers).replaced
    }
}

impl Record {
    /// Reads the record in `folder` and checks its bytes: digests, blobs, and
    /// that every line is what albedo writes for its value.
    ///
    /// # Errors
    /// A file is missing, altered or malformed, naming it; the record was
    /// written by a newer albedo.
    pub fn open(folder: &Path) -> Result<Self> {
        let [lines, blobs, digest] = read_folder(folder)?;
        Self::from_files(&lines, &blobs, &digest).map_err(|error| error.with("record", folder.display()))
    }

    /// The record of its three files.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn from_files(lines: &[u8], blobs: &[u8], digest: &[u8]) -> Result<Self> {
        Self::from_bytes(lines, blobs, read_digests(lines, blobs, digest)?.root())
    }

    /// The record of two files whose digest has to be `stated`.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn from_bytes(lines: &[u8], blobs: &[u8], stated: Digest) -> Result<Self> {
        let format = read_format(lines).map_err(|error| in_file(error, LINES))?;
        let digest = Digests { format, lines: Digest::of(lines), blobs: Digest::of(blobs) }.root();
        if digest != stated {
            return Err(in_file(altered(stated, digest), "record.jsonl or record.blobs"));
        }
        let lines = read_lines(lines).map_err(|error| in_file(error, LINES))?;
        if let Some(RecordLine::Forfeit { .. }) = lines.get(1) {
            let message = "it is the record of a submission that was not admitted, not of a duel";
            return Err(Error::new(ErrorKind::Unsupported, "read the record", message)
                .with_fault(Fault::Operator)
                .with_hint("`albedo record show` prints its evidence"));
        }
        let blobs = read_blobs(blobs).map_err(|error| in_file(error, BLOBS))?;
        let (Some(RecordLine::Plan { plan }), Some(RecordLine::Verdict(verdict))) =
            (lines.get(1), lines.last())
        else {
            return Err(in_file(invalid("the second line is no plan, or the last no verdict"), LINES));
        };
        let (plan, verdict) = ((**plan).clone(), (**verdict).clone());
        let texts = check_texts(&lines, blobs)?;
        Ok(Self { digest, lines, plan, verdict, texts })
    }

    /// The frozen plan.
    pub fn plan(&self) -> &DuelPlan {
        &self.plan
    }

    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The samples in plan order.
    pub fn samples(&self) -> Vec<RecordedSample<'_>> {
        let mut samples: Vec<RecordedSample<'_>> = Vec::new();
        for line in &self.lines {
            match (line, samples.last_mut()) {
                (&RecordLine::Sample { sample, messages, reference, .. }, _) => {
                    samples.push(RecordedSample {
                        sample,
                        messages,
                        reference,
                        replies: Vec::new(),
                        answers: Vec::new(),
                        probes: BTreeMap::new(),
                        twins: Vec::new(),
                    });
                }
                (RecordLine::Reply { reply, .. }, Some(sample)) => sample.replies.push(reply),
                (RecordLine::Assessment { answer, .. }, Some(sample)) => sample.answers.push(answer),
                (RecordLine::Probes { judge, probes, .. }, Some(sample)) => {
                    sample.probes.insert(*judge, probes);
                }
                (&RecordLine::Twin { judge, side, drawn, text, .. }, Some(sample)) => {
                    sample.twins.push(RecordedTwin { judge, side, drawn, text, answers: Vec::new() });
                }
                (RecordLine::TwinAssessment { answer, .. }, Some(sample)) => {
                    if let Some(twin) = sample.twins.last_mut() {
                        twin.answers.push(answer);
                    }
                }
                _ => {}
            }
        }
        samples
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

    /// The conversation behind `reference`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is not the canonical JSON of messages.
    pub fn messages(&self, reference: &TextRef) -> Result<Vec<Message>> {
        let text = self.text(reference)?;
        let messages: Vec<Message> = serde_json::from_str(text)
            .map_err(|error| invalid(format!("a conversation is malformed: {error}")).with("file", BLOBS))?;
        if canonical_json(&messages)? == text.as_bytes() {
            Ok(messages)
        } else {
            Err(invalid("a conversation is not in canonical form").with("file", BLOBS))
        }
    }
}

pub(super) const LINES: &str = "record.jsonl";
pub(super) const BLOBS: &str = "record.blobs";
pub(super) const DIGEST: &str = "record.digest";

/// The three files of the record in `folder`.
pub(super) fn read_folder(folder: &Path) -> Result<[Vec<u8>; 3]> {
    let read = |name: &str, most| read_bounded("read the record", &folder.join(name), most);
    // The small one first: it says whether there is a record.
    let digest = read(DIGEST, MAX_DIGEST)?;
    Ok([read(LINES, MAX_LINES)?, read(BLOBS, MAX_BLOBS)?, digest])
}

/// The digests of `lines` and `blobs`, which have to be those of `digest`.
pub(super) fn read_digests(lines: &[u8], blobs: &[u8], digest: &[u8]) -> Result<Digests> {
    let digests = Digests::parse(digest).map_err(|error| in_file(error, DIGEST))?;
    for (file, bytes, stated) in [(LINES, lines, digests.lines), (BLOBS, blobs, digests.blobs)] {
        let actual = Digest::of(bytes);
        if actual != stated {
            return Err(in_file(altered(stated, actual), file));
        }
    }
    Ok(digests)
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, "read the record", message)
}

pub(super) fn in_file(error: Error, file: &str) -> Error {
    error.with("file", file)
}

fn altered(stated: Digest, actual: Digest) -> Error {
    Error::new(ErrorKind::DigestMismatch, "read the record", "its bytes do not have their digest")
        .with("stated", stated)
        .with("actual", actual)
        .with_hint("the record was altered or is incomplete: fetch it again")
}

/// The format in the header, which every version of the format has.
fn read_format(lines: &[u8]) -> Result<u32> {
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let header = lines.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Header { format } = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("its first line is no header: {error}")))?;
    check_format(format)?;
    Ok(format)
}

pub(super) fn read_lines(file: &[u8]) -> Result<Vec<RecordLine>> {
    let Some(file) = file.strip_suffix(b"\n") else {
        return Err(invalid("the last line has no end"));
    };
    let read = |(number, bytes): (usize, &[u8])| {
        if bytes.len() as u64 > MAX_LINE {
            let error = invalid(format!("a line has more than {MAX_LINE} bytes"));
            return Err(error.with("line", number + 1));
        }
        let line = serde_json::from_slice(bytes)
            .map_err(|error| invalid(error.to_string()).with("line", number + 1))?;
        if canonical_json(&line)? == bytes {
            Ok(line)
        } else {
            Err(invalid("a line is not in canonical form").with("line", number + 1))
        }
    };
    file.split(|&byte| byte == b'\n').enumerate().map(read).collect()
}

/// The texts that `line` names, in the order in which they are written.
fn texts_of(line: &RecordLine) -> Vec<TextRef> {
    match line {
        RecordLine::Sample { messages, reference, .. } => vec![*messages, *reference],
        RecordLine::Reply { reply: RecordedReply::Completed { text, .. }, .. }
        | RecordLine::Twin { text: Some(text), .. } => vec![*text],
        _ => vec![],
    }
}

/// Exactly the texts that `lines` name, in the order in which they do first.
fn check_texts(lines: &[RecordLine], blobs: Vec<(TextRef, String)>) -> Result<BTreeMap<Digest, String>> {
    let mut seen = BTreeSet::new();
    let mut expected = lines.iter().flat_map(texts_of).filter(|text| seen.insert(*text));
    for (reference, _) in &blobs {
        if expected.next() != Some(*reference) {
            return Err(invalid("a text is not named by a line, or not where it is first named")
                .with("digest", reference.sha256)
                .with("file", BLOBS));
        }
    }
    match expected.next() {
        None => Ok(blobs.into_iter().map(|(reference, text)| (reference.sha256, text)).collect()),
        Some(missing) => Err(invalid("a text that a line names is missing, or has another length")
            .with("digest", missing.sha256)
            .with("file", BLOBS)),
    }
}
