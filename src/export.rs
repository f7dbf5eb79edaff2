//! Records as data sets, for the training tools of others: rows of conversations, and pairs
//! of a better and a worse reply, as parquet files or JSON Lines that the `datasets` package
//! loads, and trajectories for agent tools. `docs/export.md` has every column.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::backends::tables::{Column, Form, Kind, TableWriter, Value};
use crate::draw::{DrawOutcome, RowDraw};
use crate::panel::{Cell, Cluster};
use crate::record::{RecordLine, RecordedAnswer, RecordedReply, RecordedSample};
use crate::{Digest, Error, ErrorKind, Fault, FinishReason, Message, MessageRole, Record, Result, Side};

mod atif;
mod card;

pub use atif::{ATIF_VERSION, AtifExport, ExportedTrajectories};

const EXPORT: &str = "export the records";

/// One repository in so many is in the split `test`. Source: chosen by albedo.
const TEST_ONE_IN: u64 = 10;

/// Columns of the rows for supervised fine-tuning.
pub const SFT: &[Column] = &[
    Column::new("id", Kind::Text),
    Column::new("record", Kind::Text),
    Column::new("sample", Kind::Integer),
    Column::new("repo", Kind::Text),
    Column::new("instance_id", Kind::Text),
    Column::new("source", Kind::Text),
    Column::new("model", Kind::MaybeText),
    Column::new("prompt", Kind::Messages),
    Column::new("completion", Kind::Messages),
    Column::new("completion_ids", Kind::Ids),
    Column::new("cut", Kind::Flag),
    Column::new("score", Kind::MaybeNumber),
    Column::new("judges", Kind::Texts),
    Column::new("judge_scores", Kind::Numbers),
    Column::new("flipped", Kind::Texts),
    Column::new("failed_canaries", Kind::Texts),
    Column::new("judged_by_twin", Kind::Flag),
    Column::new("license", Kind::MaybeText),
];

/// Columns of the pairs.
pub const PREFERENCES: &[Column] = &[
    Column::new("id", Kind::Text),
    Column::new("record", Kind::Text),
    Column::new("sample", Kind::Integer),
    Column::new("repo", Kind::Text),
    Column::new("instance_id", Kind::Text),
    Column::new("prompt", Kind::Messages),
    Column::new("chosen", Kind::Messages),
    Column::new("rejected", Kind::Messages),
    Column::new("chosen_ids", Kind::Ids),
    Column::new("rejected_ids", Kind::Ids),
    Column::new("chosen_source", Kind::Text),
    Column::new("margin", Kind::Number),
    Column::new("clear", Kind::Flag),
    Column::new("judges", Kind::Texts),
    Column::new("judge_scores", Kind::Numbers),
    Column::new("flipped", Kind::Texts),
    Column::new("failed_canaries", Kind::Texts),
    Column::new("judged_by_twin", Kind::Flag),
    Column::new("license", Kind::MaybeText),
];

/// A data set of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// [`SFT`].
    Sft,
    /// [`PREFERENCES`].
    Preferences,
}

impl Set {
    const ALL: [Self; 2] = [Self::Sft, Self::Preferences];

    /// Its name, which is that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Preferences => "preferences",
        }
    }

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Sft => SFT,
            Self::Preferences => PREFERENCES,
        }
    }
}

/// Which part of a data set a row is in: by its repository, so that no repository is in
/// both, in any export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Nine of ten repositories.
    Train,
    /// The others.
    Test,
}

impl Split {
    /// That of the rows of `repo`.
    ///
    /// ```
    /// use albedo::export::Split;
    ///
    /// assert_eq!(Split::of("django/django"), Split::of("django/django"));
    /// ```
    pub fn of(repo: &str) -> Self {
        let digest = Digest::of(format!("albedo export split 1\n{repo}"));
        let number = digest.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if number.is_multiple_of(TEST_ONE_IN) { Self::Test } else { Self::Train }
    }

    /// Its name, which is that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The data set.
    pub set: Set,
    /// The split.
    pub split: Split,
    /// Its path below the folder.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
}

/// Writes records into a folder as data sets.
///
/// ```no_run
/// use albedo::Record;
/// use albedo::backends::tables::Form;
/// use albedo::export::Export;
///
/// # fn main() -> albedo::Result<()> {
/// let mut export = Export::create("data".as_ref(), Form::Parquet, Some("CC-BY-4.0".into()))?;
/// export.add(&Record::open("duels/first".as_ref())?)?;
/// for file in export.finish()? {
///     println!("{}: {} rows", file.path.display(), file.rows);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Export {
    folder: PathBuf,
    form: Form,
    license: Option<String>,
    writers: BTreeMap<(Set, Split), TableWriter>,
    records: Vec<Digest>,
    /// The folder was made for this export, and holds nothing that counts yet.
    is_new: bool,
}

/// An export that ends before its first row leaves no folder behind that was not there.
impl Drop for Export {
    fn drop(&mut self) {
        if self.is_new && self.writers.is_empty() {
            // A folder that holds something stays.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl Export {
    /// Begins an export into `folder`, which is made, and is empty if it is there. `license`
    /// is stated in every row and on the card: records do not know that of their tasks.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder holds something; what the disk meets.
    pub fn create(folder: &Path, form: Form, license: Option<String>) -> Result<Self> {
        let is_new = new_folder(folder)?;
        let (folder, writers, records) = (folder.to_owned(), BTreeMap::new(), Vec::new());
        Ok(Self { folder, form, license, writers, records, is_new })
    }

    /// Adds the rows of `record`, which was verified.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it was added before; [`ErrorKind::DataInvalid`] if it lacks
    /// a text; what the disk meets.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        if self.records.contains(&record.digest) {
            return Err(named_twice(record.digest));
        }
        for sample in samples(record) {
            let split = Split::of(sample.repo);
            for row in sample.sft(self.license.as_deref())? {
                self.writer(Set::Sft, split)?.write(row)?;
            }
            if let Some(row) = sample.preference(self.license.as_deref())? {
                self.writer(Set::Preferences, split)?.write(row)?;
            }
        }
        self.records.push(record.digest);
        Ok(())
    }

    fn writer(&mut self, set: Set, split: Split) -> Result<&mut TableWriter> {
        let path = self.folder.join(self.path(set, split));
        Ok(match self.writers.entry((set, split)) {
            Entry::Occupied(writer) => writer.into_mut(),
            Entry::Vacant(place) => place.insert(TableWriter::create(&path, self.form, set.columns())?),
        })
    }

    fn path(&self, set: Set, split: Split) -> PathBuf {
        Path::new(set.name()).join(format!("{}.{}", split.name(), self.form.extension()))
    }

    /// Completes the files, and writes the card, `README.md`, that says which is which.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if there is no row; what the disk meets.
    pub fn finish(mut self) -> Result<Vec<Exported>> {
        let mut files = Vec::new();
        for ((set, split), writer) in std::mem::take(&mut self.writers) {
            files.push(Exported { set, split, path: self.path(set, split), rows: writer.finish()? });
        }
        if files.is_empty() {
            return Err(Error::new(ErrorKind::DataInvalid, EXPORT, "the records have no sample")
                .with_fault(Fault::Operator));
        }
        let card = card::text(&files, &self.records, self.license.as_deref());
        let path = self.folder.join("README.md");
        fs::write(&path, card).map_err(|error| Error::io(EXPORT, &path, error))?;
        Ok(files)
    }
}

/// Makes `folder`, and refuses one that holds something; whether it was not there.
fn new_folder(folder: &Path) -> Result<bool> {
    let io = |error| Error::io(EXPORT, folder, error);
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(io)?;
    if fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Err(Error::new(ErrorKind::Conflict, EXPORT, "the folder is not empty")
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint("name a new one"));
    }
    Ok(is_new)
}

fn named_twice(record: Digest) -> Error {
    Error::new(ErrorKind::Conflict, EXPORT, "the record is named twice")
        .with_fault(Fault::Operator)
        .with("record", record)
}

fn is_flipped(cell: &Cell) -> bool {
    matches!(cell, Cell::Scored { flipped: true, .. })
}

/// A sample of a record with everything that its rows need.
pub(crate) struct Sample<'a> {
    record: &'a Record,
    pub(crate) recorded: RecordedSample<'a>,
    pub(crate) repo: &'a str,
    pub(crate) draw: Option<&'a RowDraw>,
    /// The places of the judges that had failed a canary before, and were not listened to.
    failed: BTreeSet<usize>,
    cluster: Option<&'a Cluster>,
}

/// The samples of `record`.
pub(crate) fn samples(record: &Record) -> Vec<Sample<'_>> {
    let (mut recorded, mut drawn) = (record.samples().into_iter(), None);
    let mut samples: Vec<Sample<'_>> = Vec::new();
    for line in &record.lines {
        match (line, samples.last_mut()) {
            (RecordLine::Draw(draw), _) if draw.outcome == DrawOutcome::Sample => drawn = Some(draw),
            (RecordLine::Sample { repo, .. }, _) => {
                let Some(recorded) = recorded.next() else { break };
                let (draw, failed) = (drawn.take(), BTreeSet::new());
                samples.push(Sample { record, recorded, repo, draw, failed, cluster: None });
            }
            (RecordLine::Assessment { judge, answer: RecordedAnswer::Void, .. }, Some(sample)) => {
                sample.failed.insert(*judge as usize);
            }
            (RecordLine::Cluster(cluster), Some(sample)) => sample.cluster = Some(cluster),
            _ => {}
        }
    }
    samples
}

/// A reply that was finished.
pub(crate) struct Finished<'a> {
    pub(crate) side: Side,
    pub(crate) text: &'a str,
    pub(crate) ids: &'a [u32],
    /// It ended at the limit of its length.
    pub(crate) is_cut: bool,
}

/// A pair of which the panel prefers one reply.
pub(crate) struct Preferred<'a> {
    pub(crate) chosen: Finished<'a>,
    pub(crate) rejected: Finished<'a>,
    /// By how much, above 0 and at most 1.
    pub(crate) margin: f64,
    /// The difference, challenger minus king.
    difference: f64,
}

impl Sample<'_> {
    /// What the panel made of the replies, the challenger's minus the king's, from −1 to 1.
    fn difference(&self) -> Option<f64> {
        self.cluster.map(|cluster| cluster.difference)
    }

    fn finished(&self) -> Result<Vec<Finished<'_>>> {
        let mut finished = Vec::new();
        for (side, reply) in Side::BOTH.into_iter().zip(&self.recorded.replies) {
            if let RecordedReply::Completed { text, finish, tokens, .. } = reply {
                finished.push(Finished {
                    side,
                    text: self.record.text(text)?,
                    ids: tokens.as_ref().map_or(&[], |tokens| &tokens.ids[..]),
                    is_cut: *finish == FinishReason::Length,
                });
            }
        }
        Ok(finished)
    }

    /// The pair, where both sides wrote something else and the panel prefers one.
    pub(crate) fn preferred(&self) -> Result<Option<Preferred<'_>>> {
        let Ok([king, challenger]) = <[Finished<'_>; 2]>::try_from(self.finished()?) else { return Ok(None) };
        let Some(difference) = self.difference() else { return Ok(None) };
        if difference == 0.0 || king.text == challenger.text {
            return Ok(None);
        }
        let (chosen, rejected) = if difference > 0.0 { (challenger, king) } else { (king, challenger) };
        Ok(Some(Preferred { chosen, rejected, margin: difference.abs(), difference }))
    }

    /// Whether a judge was given the twin of `side`'s reply in its place, which talks to judges.
    pub(crate) fn is_judged_by_twin(&self, side: Side) -> bool {
        let mut twins = self.cluster.into_iter().flat_map(|cluster| &cluster.twins);
        twins.any(|twin| twin.side == side && twin.replaced)
    }

    /// Whether every judge gave the same word in both orders, none of them another than
    /// the panel, whose difference is given, and all of them about the replies themselves.
    fn is_clear(&self, difference: f64) -> bool {
        if Side::BOTH.into_iter().any(|side| self.is_judged_by_twin(side)) {
            return false;
        }
        self.cluster.is_some_and(|cluster| {
            cluster.cells.iter().all(|cell| {
                let agrees = cell.difference() * difference >= 0.0;
                matches!(cell, Cell::Scored { flipped: false, .. }) && agrees
            })
        })
    }

    /// The pair that the panel has a preference in, if it is clear.
    #[cfg(feature = "distil")]
    pub(crate) fn clearly_preferred(&self) -> Result<Option<Preferred<'_>>> {
        Ok(self.preferred()?.filter(|preferred| self.is_clear(preferred.difference)))
    }

    /// The names of the judges whose cells `takes` takes.
    fn judges(&self, takes: impl Fn(usize, &Cell) -> bool) -> Vec<String> {
        let cells = self.cluster.map_or(&[][..], |cluster| &cluster.cells);
        let named = cells.iter().zip(&self.record.plan().judges).enumerate();
        named
            .filter(|(place, (cell, _))| takes(*place, cell))
            .map(|(_, (_, judge))| judge.identity.name.clone())
            .collect()
    }

    /// Scores of `side` by the judges that have one, from 0 to 1.
    fn scores(&self, side: Side) -> Vec<f64> {
        let cells = self.cluster.map_or(&[][..], |cluster| &cluster.cells);
        let scored = cells.iter().filter(|cell| !cell.is_missing());
        scored.map(|cell| score(cell.difference(), side)).collect()
    }

    /// The columns that every row begins with.
    fn head(&self, name: &str) -> Vec<Value> {
        let (record, sample) = (self.record.digest, self.recorded.sample);
        let instance = self.draw.map_or_else(String::new, |draw| draw.instance_id.clone());
        vec![
            Value::Text(format!("{record}-{sample}-{name}")),
            Value::Text(record.to_string()),
            Value::Integer(sample.into()),
            Value::Text(self.repo.to_owned()),
            Value::Text(instance),
        ]
    }

    /// The columns that every row ends with, about the judges. The scores are those of `side`; a twin may have stood for
    /// the reply of one of `sides`.
    fn tail(&self, side: Option<Side>, sides: &[Side], license: Option<&str>) -> Vec<Value> {
        let judged = side.is_some();
        let names =
            |takes: &dyn Fn(usize, &Cell) -> bool| if judged { self.judges(takes) } else { Vec::new() };
        vec![
            Value::Texts(names(&|_, cell| !cell.is_missing())),
            Value::Numbers(side.map_or_else(Vec::new, |side| self.scores(side))),
            Value::Texts(names(&|_, cell| is_flipped(cell))),
            Value::Texts(names(&|place, _| self.failed.contains(&place))),
            Value::Flag(sides.iter().any(|side| self.is_judged_by_twin(*side))),
            Value::MaybeText(license.map(str::to_owned)),
        ]
    }

    /// The recorded reply and both sides', as far as they were finished.
    fn sft(&self, license: Option<&str>) -> Result<Vec<Vec<Value>>> {
        let prompt = self.record.messages(&self.recorded.messages)?;
        let plan = self.record.plan();
        let mut rows = Vec::new();
        let mut add = |name: &str, text: &str, model: Option<Digest>, of: Option<&Finished<'_>>| {
            let side = of.map(|finished| finished.side);
            let mut row = self.head(name);
            row.extend([
                Value::Text(name.to_owned()),
                Value::MaybeText(model.map(|digest| digest.to_string())),
                Value::Messages(prompt.clone()),
                Value::Messages(vec![Message::new(MessageRole::Assistant, text)]),
                Value::Ids(of.map_or_else(Vec::new, |finished| finished.ids.to_vec())),
                Value::Flag(of.is_some_and(|finished| finished.is_cut)),
                Value::MaybeNumber(
                    side.and_then(|side| self.difference().map(|difference| score(difference, side))),
                ),
            ]);
            row.extend(self.tail(side, side.as_slice(), license));
            rows.push(row);
        };
        add("recorded", self.record.text(&self.recorded.reference)?, None, None);
        for finished in self.finished()? {
            let contestant = match finished.side {
                Side::King => &plan.king,
                Side::Challenger => &plan.challenger,
            };
            let name = finished.side.to_string();
            add(&name, finished.text, Some(contestant.model.parameters), Some(&finished));
        }
        Ok(rows)
    }

    /// The pair, where the panel prefers one reply.
    fn preference(&self, license: Option<&str>) -> Result<Option<Vec<Value>>> {
        let Some(Preferred { chosen, rejected, margin, difference }) = self.preferred()? else {
            return Ok(None);
        };
        let reply = |of: &Finished<'_>| Value::Messages(vec![Message::new(MessageRole::Assistant, of.text)]);
        let is_clear = self.is_clear(difference);
        let mut row = self.head("pair");
        row.extend([
            Value::Messages(self.record.messages(&self.recorded.messages)?),
            reply(&chosen),
            reply(&rejected),
            Value::Ids(chosen.ids.to_vec()),
            Value::Ids(rejected.ids.to_vec()),
            Value::Text(chosen.side.to_string()),
            Value::Number(margin),
            Value::Flag(is_clear),
        ]);
        row.extend(self.tail(Some(chosen.side), &Side::BOTH, license));
        Ok(Some(row))
    }
}

/// A difference, challenger minus king in [−1, 1], as the score of `side` in [0, 1].
fn score(difference: f64, side: Side) -> f64 {
    match side {
        Side::King => (1.0 - difference) / 2.0,
        Side::Challenger => f64::midpoint(1.0, difference),
    }
}

#[cfg(test)]
mod tests;
