//! Reading records and task sets, and what they may not share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{Example, LeftOut, READ, Rejected, Reply, SourceReport, statement};
use crate::backends::prompts::PromptText;
use crate::config::DuelConfig;
use crate::conversations::conversations;
use crate::distil::config::{DistilConfig, Gate, Source, Turns};
use crate::export::{Finished, Preferred, Split, samples};
use crate::record::{AnyRecord, PromptCounter, VerifyOptions, verify_record};
use crate::registry::CheckContext;
use crate::{
    BuildContext, Digest, Error, ErrorKind, Fault, Message, MessageRole, Record, Result, TaskRow, TaskSource,
};

/// The sets by their `turns`, where they come from, and what was left out of them.
pub(super) struct Read {
    pub(super) sets: BTreeMap<Turns, Vec<Example>>,
    pub(super) sources: Vec<SourceReport>,
    pub(super) left_out: LeftOut,
}

/// What is never trained on.
#[derive(Debug, Default)]
pub(super) struct HeldOut {
    examples: Vec<Example>,
    manifests: BTreeSet<Digest>,
    instances: BTreeSet<String>,
    statements: BTreeSet<Digest>,
    repos: BTreeSet<String>,
}

impl HeldOut {
    /// Reads the held-out sets, and the tasks of the gate's duel.
    pub(super) async fn read(config: &DistilConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let mut held = Self::default();
        for source in &config.data.held_out {
            let path = config.path(source.path());
            let named = |error: Error| error.with("held_out", source.path().display());
            let (digest, rows) = task_rows(&path, cx).await.map_err(named)?;
            held.add(digest, rows);
        }
        if let Gate::Closed(gate) = &config.gate {
            let duel =
                DuelConfig::read(&config.path(&gate.duel)).map_err(|error| error.under("gate.duel"))?;
            let check = CheckContext::new(cx.registry());
            let tasks = check.plugin("tasks", &duel.tasks)?.build(&cx.relative_to(&duel.folder)).await?;
            if !held.manifests.contains(&tasks.info().manifest) {
                let (digest, rows) = all_rows(&*tasks, cx).await?;
                held.add(digest, rows);
            }
        }
        Ok(held)
    }

    fn add(&mut self, digest: Digest, rows: Vec<TaskRow>) {
        self.manifests.insert(digest);
        for (number, row) in rows.into_iter().enumerate() {
            self.hold(Example::of_task(digest, number, row, None));
        }
    }

    fn hold(&mut self, example: Example) {
        self.instances.insert(example.instance.clone());
        self.statements.insert(statement(&example.messages));
        self.repos.insert(example.repo.clone());
        self.examples.push(example);
    }

    /// Holds out the conversations of one repository in ten.
    pub(super) fn take_tenth(&mut self, sets: &BTreeMap<Turns, Vec<Example>>) {
        let recorded = sets.get(&Turns::AllRecorded).or_else(|| sets.values().next());
        for example in recorded.into_iter().flatten() {
            if Split::of(&example.repo) == Split::Test {
                self.hold(example.clone());
            }
        }
    }

    /// Whether `example` may be trained on; counts why not.
    pub(super) fn admits(&self, example: &Example, by_repo: bool, left_out: &mut LeftOut) -> bool {
        if by_repo && self.repos.contains(&example.repo) {
            left_out.held_out_repos += 1;
        } else if self.instances.contains(&example.instance) {
            left_out.same_task += 1;
        } else if self.statements.contains(&statement(&example.messages)) {
            left_out.same_text += 1;
        } else {
            return true;
        }
        false
    }

    /// Refuses a record that was drawn from what is held out.
    fn refuse(&self, record: &Record) -> Result<()> {
        let overlap = |message: &str| {
            Error::new(ErrorKind::Conflict, READ, message)
                .with_fault(Fault::Operator)
                .with_hint("leave the record out, or hold out other tasks")
        };
        if self.manifests.contains(&record.plan().tasks.manifest) {
            return Err(overlap("the record's tasks are held out"));
        }
        let drawn = samples(record);
        let mut instances = drawn.iter().filter_map(|sample| Some(&sample.draw?.instance_id));
        match instances.find(|instance| self.instances.contains(*instance)) {
            Some(instance) => {
                Err(overlap("a row that the record has drawn is held out").with("instance", instance))
            }
            None => Ok(()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    pub(super) fn examples(&self) -> &[Example] {
        &self.examples
    }

    pub(super) fn repos(&self) -> u64 {
        self.repos.len() as u64
    }
}

impl Example {
    fn of_task(source: Digest, number: usize, row: TaskRow, license: Option<&str>) -> Self {
        let TaskRow { instance_id, repo, mut messages } = row;
        // Nothing is learnt from what stands behind the assistant's last turn.
        let last = messages.iter().rposition(|message| message.role == MessageRole::Assistant);
        messages.truncate(last.map_or(0, |last| last + 1));
        Self {
            id: format!("{}-{number}", source.short()),
            repo,
            instance: instance_id,
            messages,
            reply: None,
            rejected: None,
            license: license.map(str::to_owned),
        }
    }
}

/// Reads every source. `wanted` are the sets that a stage learns from.
pub(super) async fn read(
    config: &DistilConfig,
    text: &PromptText,
    wanted: &BTreeSet<Turns>,
    held: &HeldOut,
    cx: &BuildContext<'_>,
) -> Result<Read> {
    let (recorded, left_out) = (Recorded::default(), LeftOut::default());
    let mut reader = Reader { wanted, text, recorded, judged: BTreeMap::new(), left_out };
    let (mut sources, mut records) = (Vec::new(), BTreeSet::new());
    for source in &config.data.records {
        for (name, folder) in record_folders(config, source)? {
            let named = |error: Error| error.with("record", folder.display());
            let AnyRecord::Duel(record) = AnyRecord::open(&folder)? else {
                reader.left_out.forfeits += 1;
                continue;
            };
            if !records.insert(record.digest) {
                return Err(named(
                    Error::new(ErrorKind::Conflict, READ, "the record is named twice")
                        .with_fault(Fault::Operator),
                ));
            }
            // Nothing that does not follow from its facts is taught to anybody.
            verify_record(&record, &VerifyOptions::default(), cx.call()).await.map_err(named)?;
            held.refuse(&record).map_err(named)?;
            let rows = reader.add_record(&record, source.license()).map_err(named)?;
            sources.push(SourceReport {
                name,
                digest: record.digest,
                license: source.license().map(str::to_owned),
                rows,
            });
        }
    }
    for source in &config.data.tasks {
        let named = |error: Error| error.with("tasks", source.path().display());
        let (digest, rows) = task_rows(&config.path(source.path()), cx).await.map_err(named)?;
        if held.manifests.contains(&digest) {
            return Err(named(
                Error::new(ErrorKind::Conflict, READ, "the tasks are held out, too")
                    .with_fault(Fault::Operator)
                    .with_hint("train on others, or hold out others"),
            ));
        }
        sources.push(SourceReport {
            name: source.path().display().to_string(),
            digest,
            license: source.license().map(str::to_owned),
            rows: rows.len() as u64,
        });
        if wanted.contains(&Turns::AllRecorded) {
            for (number, row) in rows.into_iter().enumerate() {
                let example = Example::of_task(digest, number, row, source.license());
                if !example.messages.is_empty() {
                    reader.recorded.add(example, &mut reader.left_out);
                }
            }
        }
    }
    let Reader { recorded, mut judged, left_out, .. } = reader;
    judged.insert(Turns::AllRecorded, recorded.examples);
    let sets = wanted.iter().map(|turns| (*turns, judged.remove(turns).unwrap_or_default())).collect();
    Ok(Read { sets, sources, left_out })
}

struct Reader<'a> {
    wanted: &'a BTreeSet<Turns>,
    text: &'a PromptText,
    recorded: Recorded,
    /// Winners' and losers' replies.
    judged: BTreeMap<Turns, Vec<Example>>,
    left_out: LeftOut,
}

/// Recorded conversations, none of which is the beginning of another.
#[derive(Default)]
struct Recorded {
    examples: Vec<Example>,
    places: BTreeMap<(String, String), Vec<usize>>,
}

impl Recorded {
    fn add(&mut self, example: Example, left_out: &mut LeftOut) {
        let places = self.places.entry((example.repo.clone(), example.instance.clone())).or_default();
        for place in places.iter() {
            let known = &mut self.examples[*place];
            let is_part = known.messages.starts_with(&example.messages);
            if is_part || example.messages.starts_with(&known.messages) {
                left_out.repeated += 1;
                if !is_part {
                    *known = example;
                }
                return;
            }
        }
        places.push(self.examples.len());
        self.examples.push(example);
    }
}

impl Reader<'_> {
    /// Adds what `record` has; gives the number of its samples.
    fn add_record(&mut self, record: &Record, license: Option<&str>) -> Result<u64> {
        let samples = samples(record);
        for sample in &samples {
            let prompt = record.messages(&sample.recorded.messages)?;
            let example = |name: &str, text: &str, reply: Option<Reply>| {
                let mut messages = prompt.clone();
                messages.push(Message::new(MessageRole::Assistant, text));
                Example {
                    id: format!("{}-{}-{name}", record.digest, sample.recorded.sample),
                    repo: sample.repo.to_owned(),
                    instance: sample.draw.map_or_else(String::new, |draw| draw.instance_id.clone()),
                    messages,
                    reply,
                    rejected: None,
                    license: license.map(str::to_owned),
                }
            };
            if self.wanted.contains(&Turns::AllRecorded) {
                let reference = record.text(&sample.recorded.reference)?;
                self.recorded.add(example("recorded", reference, None), &mut self.left_out);
            }
            if self.wanted.contains(&Turns::Pair) {
                match sample.clearly_preferred()? {
                    None => self.left_out.undecided += 1,
                    Some(pair) if pair.chosen.is_cut || pair.rejected.is_cut => self.left_out.unfinished += 1,
                    Some(Preferred { chosen, rejected, margin, .. }) => {
                        if !(chosen.ids.is_empty() && rejected.ids.is_empty()) {
                            self.check_text(record)?;
                        }
                        let reply = |of: &Finished<'_>| Reply { ids: of.ids.to_vec(), margin };
                        let mut example = example(Turns::Pair.name(), chosen.text, Some(reply(&chosen)));
                        let rejected = Rejected { text: rejected.text.to_owned(), reply: reply(&rejected) };
                        example.rejected = Some(rejected);
                        self.judged.entry(Turns::Pair).or_default().push(example);
                    }
                }
            }
            let judged = [Turns::Winner, Turns::Loser].map(|turns| self.wanted.contains(&turns));
            if judged == [false; 2] {
                continue;
            }
            let Some(preferred) = sample.preferred()? else {
                self.left_out.undecided += 1;
                continue;
            };
            let replies = [(Turns::Winner, &preferred.chosen), (Turns::Loser, &preferred.rejected)];
            for ((turns, of), _) in replies.into_iter().zip(judged).filter(|(_, wanted)| *wanted) {
                if of.is_cut {
                    self.left_out.unfinished += 1;
                    continue;
                }
                if !of.ids.is_empty() {
                    self.check_text(record)?;
                }
                let reply = Reply { ids: of.ids.to_vec(), margin: preferred.margin };
                let example = example(turns.name(), of.text, Some(reply));
                self.judged.entry(turns).or_default().push(example);
            }
        }
        Ok(samples.len() as u64)
    }

    /// Refuses ids that another tokenizer gave.
    fn check_text(&self, record: &Record) -> Result<()> {
        let king = &record.plan().king.model;
        let [tokenizer, template] = self.text.text();
        if (king.tokenizer, king.chat_template) == (tokenizer, template) {
            return Ok(());
        }
        let message = "the replies' tokens are of another tokenizer or chat template than the student's";
        Err(Error::new(ErrorKind::Unsupported, READ, message)
            .with_fault(Fault::Operator)
            .with("record's tokenizer", king.tokenizer.short())
            .with("student's", tokenizer.short())
            .with_hint(
                "train a student with the tokenizer of the duel's king, or set `turns = \"all-recorded\"`",
            ))
    }
}

/// The folders of the records that `source` names, each with its name.
fn record_folders(config: &DistilConfig, source: &Source) -> Result<Vec<(String, PathBuf)>> {
    let named = source.path();
    let path = config.path(named);
    let Some(folder) = path.to_str().and_then(|path| path.strip_suffix("/*")).map(Path::new) else {
        return Ok(vec![(named.display().to_string(), path)]);
    };
    let io = |error| Error::io(READ, folder, error);
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.path().join("record.digest").is_file() {
            folders.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    folders.sort_unstable();
    if folders.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, READ, "the folder holds no record")
            .with("path", folder.display())
            .with_hint("name a folder whose folders are records of duels"));
    }
    Ok(folders)
}

/// The rows of the task set at `path`, and its digest.
async fn task_rows(path: &Path, cx: &BuildContext<'_>) -> Result<(Digest, Vec<TaskRow>)> {
    if path.join("manifest.json").is_file() {
        let tasks: Arc<dyn TaskSource> =
            cx.registry().build::<dyn TaskSource>("parquet", json!({ "path": path }), cx.call()).await?;
        return all_rows(&*tasks, cx).await;
    }
    let rows = conversations(path)?;
    Ok((Digest::of_json(&rows)?, rows))
}

/// All rows of `tasks`, and the digest of its manifest.
async fn all_rows(tasks: &dyn TaskSource, cx: &BuildContext<'_>) -> Result<(Digest, Vec<TaskRow>)> {
    let mut rows = Vec::new();
    for row in 0..tasks.info().rows {
        rows.push(tasks.row(row, cx.call()).await?);
    }
    Ok((tasks.info().manifest, rows))
}
