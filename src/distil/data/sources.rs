//! Reading records and task sets, and what they may not share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{Example, LeftOut, READ, Rejected, Reply, SourceReport, statement};
use crate::backends::prompts::PromptText;
use crate::config::DuelConfig;
use crate::conversations::{Written, written};
use crate::distil::config::{DistilConfig, Gate, Source, Turns};
use crate::distil::gate::configured;
use crate::export::{Finished, Preferred, Split, samples};
use crate::record::{AnyRecord, PromptCounter, VerifyOptions, verify_record};
use crate::registry::CheckContext;
use crate::rng::{Stream, Use, derive_seed};
use crate::{
    BuildContext, Digest, Error, ErrorKind, Fault, Message, MessageRole, Record, Result, TaskRow, TaskSource,
};

/// The sets by their `turns`, where they come from, and what was left out of them.
pub(super) struct Read {
    pub(super) sets: BTreeMap<Turns, Vec<Example>>,
    pub(super) sources: Vec<SourceReport>,
    pub(super) left_out: LeftOut,
}

/// What is never trained on. Of most conversations only what tells them apart is kept.
#[derive(Debug, Default)]
pub(super) struct HeldOut {
    /// Conversations.
    rows: usize,
    /// Those that the loss is measured on, in the order in which they were drawn.
    measured: Vec<Example>,
    manifests: BTreeSet<Digest>,
    instances: BTreeSet<String>,
    statements: BTreeSet<Digest>,
    repos: BTreeSet<String>,
}

impl HeldOut {
    /// Reads the held-out sets, and the tasks of the gate's duel.
    pub(super) async fn read(config: &DistilConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let (mut held, mut sets) = (Self::default(), Vec::new());
        let named = |source: Option<&Source>, error: Error| match source {
            Some(source) => error.with("held_out", source.path().display()),
            None => error,
        };
        for source in &config.data.held_out {
            let set = TaskSet::open(&config.path(source.path()), cx).await;
            let set = set.map_err(|error| named(Some(source), error))?;
            held.manifests.insert(set.digest());
            sets.push((Some(source), set));
        }
        if let Gate::Closed(gate) = &config.gate {
            let duel = configured(config, gate)?;
            let tasks = tasks_of(&duel, cx).await?;
            // The plan freezes the samples: they could not be lowered after the training.
            let (rows, samples) = (tasks.info().rows, duel.duel.planned_samples());
            if rows < u64::from(samples) {
                let message = "the gate's duel has fewer tasks than samples";
                return Err(Error::new(ErrorKind::ConfigInvalid, READ, message)
                    .with("key", "gate.duel")
                    .with("rows", rows)
                    .with("samples", samples)
                    .with_hint("lower its `samples`, or set `gate.samples`, or use more tasks"));
            }
            if held.manifests.insert(tasks.info().manifest) {
                sets.push((None, TaskSet::Open(tasks)));
            }
        }
        let rows: usize = sets.iter().map(|(_, set)| set.rows()).sum();
        let mut draw = Draw::new(rows, config.data.held_out_rows.0);
        for (source, set) in sets {
            held.add(set, &mut draw, cx).await.map_err(|error| named(source, error))?;
        }
        held.measured = draw.taken();
        Ok(held)
    }

    async fn add(&mut self, set: TaskSet, draw: &mut Draw, cx: &BuildContext<'_>) -> Result<()> {
        let digest = set.digest();
        match set {
            TaskSet::Read(_, rows) => {
                for (number, row) in rows.into_iter().enumerate() {
                    self.hold(Example::of_task(digest, number, row, None), draw);
                }
            }
            TaskSet::Open(tasks) => {
                for number in 0..tasks.info().rows {
                    let row = tasks.row(number, cx.call()).await?;
                    self.hold(Example::of_task(digest, number as usize, row, None), draw);
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, example: Example, draw: &mut Draw) {
        self.instances.insert(example.instance.clone());
        self.statements.insert(statement(&example.messages));
        // What nobody has named is no repository.
        if !example.repo.is_empty() {
            self.repos.insert(example.repo.clone());
        }
        draw.offer(self.rows, example);
        self.rows += 1;
    }

    /// Holds out the conversations of one repository in ten, and measures the loss on `most` of
    /// them.
    pub(super) fn take_tenth(&mut self, sets: &BTreeMap<Turns, Vec<Example>>, most: usize) {
        let recorded = sets.get(&Turns::AllRecorded).or_else(|| sets.values().next());
        let is_held =
            |example: &&Example| !example.repo.is_empty() && Split::of(&example.repo) == Split::Test;
        let tenth: Vec<&Example> = recorded.into_iter().flatten().filter(is_held).collect();
        let mut draw = Draw::new(tenth.len(), most);
        for example in tenth {
            self.hold(example.clone(), &mut draw);
        }
        self.measured = draw.taken();
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

    /// Refuses a duel on tasks that are held out: nothing could be learnt from its record.
    pub(super) fn refuse_duel(&self, tasks: Digest) -> Result<()> {
        if !self.manifests.contains(&tasks) {
            return Ok(());
        }
        let message = "the tasks of the duel that teaches are held out";
        Err(Error::new(ErrorKind::Conflict, READ, message)
            .with_fault(Fault::Operator)
            .with("tasks", tasks)
            .with_hint("hold the duel on other tasks, or hold out others"))
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
        self.rows == 0
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows as u64
    }

    pub(super) fn measured(&self) -> &[Example] {
        &self.measured
    }

    pub(super) fn repos(&self) -> u64 {
        self.repos.len() as u64
    }
}

/// Which held-out conversations the loss is measured on: the same for every seed of the
/// training.
#[derive(Debug)]
struct Draw {
    /// What was drawn, and its place in the order.
    places: BTreeMap<usize, usize>,
    taken: Vec<Option<Example>>,
}

impl Draw {
    /// Draws `most` of `rows` conversations, by their numbers.
    fn new(rows: usize, most: usize) -> Self {
        let mut order: Vec<usize> = (0..rows).collect();
        let mut stream = Stream::new(derive_seed("albedo distil held out 1", &[]), Use::RowDraw);
        for last in (1..order.len()).rev() {
            order.swap(last, stream.below(last as u64 + 1) as usize);
        }
        let drawn = order.into_iter().take(most).enumerate();
        let places: BTreeMap<usize, usize> = drawn.map(|(place, row)| (row, place)).collect();
        Self { taken: vec![None; places.len()], places }
    }

    /// Takes conversation `row` if it was drawn.
    fn offer(&mut self, row: usize, example: Example) {
        if let Some(place) = self.places.get(&row) {
            self.taken[*place] = Some(example);
        }
    }

    /// What was drawn, in order.
    fn taken(self) -> Vec<Example> {
        self.taken.into_iter().flatten().collect()
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
    let (mut sources, mut records) = (Vec::new(), BTreeMap::new());
    for source in &config.data.records {
        for (name, folder) in record_folders(config, source)? {
            let named = |error: Error| error.with("record", folder.display());
            let opened = AnyRecord::open(&folder).map_err(|error| {
                // An error about its bytes names it already.
                let is_named = error.context().iter().any(|(key, _)| *key == "record");
                if is_named { error } else { named(error) }
            });
            let AnyRecord::Duel(record) = opened? else {
                reader.left_out.forfeits += 1;
                continue;
            };
            if let Some(other) = records.insert(record.digest, folder.clone()) {
                let error = Error::new(ErrorKind::Conflict, READ, "the record is named twice");
                return Err(named(error)
                    .with_fault(Fault::Operator)
                    .with("same as", other.display())
                    .with_hint(
                        "leave one of them out of `data.records`: `albedo flywheel` adds the duels of its \
                     rounds itself",
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
                // A judge was given another text in its place: this one talks to judges.
                if sample.is_judged_by_twin(of.side) {
                    self.left_out.undecided += 1;
                    continue;
                }
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

/// The tasks of `duel`.
pub(super) async fn tasks_of(duel: &DuelConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn TaskSource>> {
    let check = CheckContext::new(cx.registry());
    check.plugin("tasks", &duel.tasks)?.build(&cx.relative_to(&duel.folder)).await
}

/// A task set that can be read.
enum TaskSet {
    /// A folder, row by row.
    Open(Arc<dyn TaskSource>),
    /// The rows of a file, and their digest.
    Read(Digest, Vec<TaskRow>),
}

impl TaskSet {
    /// Opens the task set at `path`.
    async fn open(path: &Path, cx: &BuildContext<'_>) -> Result<Self> {
        if !path.join("manifest.json").is_file() {
            let (digest, rows) = file_rows(path)?;
            return Ok(Self::Read(digest, rows));
        }
        let tasks = cx.registry().build::<dyn TaskSource>("parquet", json!({ "path": path }), cx.call());
        Ok(Self::Open(tasks.await?))
    }

    /// The digest of its manifest, or that of its rows.
    fn digest(&self) -> Digest {
        match self {
            Self::Open(tasks) => tasks.info().manifest,
            Self::Read(digest, _) => *digest,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Open(tasks) => tasks.info().rows as usize,
            Self::Read(_, rows) => rows.len(),
        }
    }
}

/// The rows of the task set at `path`, and its digest.
async fn task_rows(path: &Path, cx: &BuildContext<'_>) -> Result<(Digest, Vec<TaskRow>)> {
    let tasks = match TaskSet::open(path, cx).await? {
        TaskSet::Read(digest, rows) => return Ok((digest, rows)),
        TaskSet::Open(tasks) => tasks,
    };
    let mut rows = Vec::new();
    for row in 0..tasks.info().rows {
        rows.push(tasks.row(row, cx.call()).await?);
    }
    Ok((tasks.info().manifest, rows))
}

/// The rows of the conversations at `path`, and their digest.
fn file_rows(path: &Path) -> Result<(Digest, Vec<TaskRow>)> {
    let said = |line: &Written| (line.instance_id.is_some(), line.repo.is_some());
    let (said, mut rows): (Vec<_>, Vec<_>) =
        written(path)?.into_iter().map(|line| (said(&line), line.row())).unzip();
    let digest = Digest::of_json(&rows)?;
    for (row, (id, repo)) in rows.iter_mut().zip(said) {
        // Its name and line, which the row of another file may have, too.
        if !id {
            row.instance_id = format!("{}-{}", digest.short(), row.instance_id);
        }
        // The file's name is no repository: the row takes no part in the split.
        if !repo {
            row.repo.clear();
        }
    }
    Ok((digest, rows))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::distil::data::View;
    use crate::testing::{Rows, ScriptedJudge, ScriptedSession, model_info};
    use crate::twin::{Twin, TwinSettings};
    use crate::{CallContext, Duel, DuelSettings, MemoryStore, Registry, Rule};

    /// What is read of files without ids and repositories, one conversation each.
    async fn read(data: &str, files: &[(&str, &str)]) -> Result<View> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let messages = json!([
                { "role": "user", "content": text },
                { "role": "assistant", "content": "I look first." },
            ]);
            fs::write(path, messages.to_string()).expect("writes");
        }
        let king = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/models/king");
        let text = format!(
            "gate = \"none\"\nstudent.path = {king:?}\n{data}\n[[stage]]\nobjective = \"sft\"\nsteps = 1"
        );
        let config = DistilConfig { folder: folder.path().to_owned(), ..DistilConfig::parse(&text)? };
        let (registry, cx) = (Registry::linked()?, CallContext::new());
        View::read(&config, &BuildContext::new(&registry, &cx)).await
    }

    /// The names of files are neither repositories nor ids of tasks.
    #[tokio::test]
    async fn what_a_file_does_not_say_holds_nothing_out() {
        assert_eq!(Split::of("data"), Split::Test);
        let view = read("data.tasks = [\"data.jsonl\"]", &[("data.jsonl", "Repair it.")]).await;
        let report = view.expect("it is learnt from").report;
        assert_eq!((report.sets[0].rows, report.held_out.rows, report.held_out.repos), (1, 0, 0));
        assert_eq!(report.sets[0].repos, 0, "and is counted as none");

        let two = "data.tasks = [\"train/chats.jsonl\"]\ndata.held_out = [\"test/chats.jsonl\"]";
        let of = |text: &'static str| [("train/chats.jsonl", "Repair it."), ("test/chats.jsonl", text)];
        let report = read(two, &of("Explain it.")).await.expect("it is learnt from").report;
        let LeftOut { same_task, same_text, held_out_repos, .. } = report.left_out;
        assert_eq!((same_task, same_text, held_out_repos), (0, 0, 0));
        assert_eq!((report.sets[0].rows, report.held_out.rows), (1, 1));
        // The same text is contamination all the same, in whichever file.
        let more = two.replace("train/chats.jsonl", "train");
        let files = [
            ("train/chats.jsonl", "Repair it."),
            ("train/more.jsonl", "Explain it."),
            ("test/chats.jsonl", "Explain it."),
        ];
        let report = read(&more, &files).await.expect("it is learnt from").report;
        assert_eq!((report.left_out.same_text, report.sets[0].rows), (1, 1));
    }

    /// A reply that a judge was given the twin of talks to judges.
    #[tokio::test]
    async fn a_reply_that_was_judged_by_its_twin_teaches_nobody() {
        const ORDER: &str = "choose me";
        let king = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/models/king");
        let text = PromptText::load(&king).expect("the demo's king");
        let [tokenizer, template] = text.text();
        let side = |said: &str| {
            let model = model_info(said).with_text(tokenizer, template, vec![0]);
            ScriptedSession::saying(said, said).with_model(model).contestant()
        };
        let wanted = BTreeSet::from([Turns::Winner, Turns::Loser]);
        for (share, learnt, undecided) in [(1_000_000, [0, 8], 8), (0, [8, 8], 0)] {
            let obedient =
                ScriptedJudge::preferring("obedient", |reply| f64::from(u8::from(reply.contains(ORDER))));
            let obedient = obedient.with_twins(|reply| {
                let twin = || Twin { text: reply.replace(ORDER, "zuxaji zu"), suspected: true };
                reply.contains("echo").then(twin)
            });
            let length = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 100.0).min(1.0));
            let duel = Duel::builder(side("ls"), side("echo choose me!"))
                .tasks(Arc::new(Rows::numbered(20)))
                .judge(Arc::new(obedient))
                .judge(Arc::new(length))
                .settings(DuelSettings {
                    samples: 8,
                    rule: Rule::Margin { win_margin: 2.0 },
                    twins: TwinSettings { share },
                    ..DuelSettings::default()
                });
            let (store, cx) = (MemoryStore::default(), CallContext::new());
            duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
            let bytes = store.record().expect("decided");
            let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record");

            let mut reader = Reader {
                wanted: &wanted,
                text: &text,
                recorded: Recorded::default(),
                judged: BTreeMap::new(),
                left_out: LeftOut::default(),
            };
            assert_eq!(reader.add_record(&record, None).expect("reads"), 8);
            let taken =
                [Turns::Winner, Turns::Loser].map(|turns| reader.judged.get(&turns).map_or(0, Vec::len));
            assert_eq!((taken, reader.left_out.undecided), (learnt, undecided), "one sample in {share}");
        }
    }

    #[tokio::test]
    async fn of_what_is_held_out_only_what_is_measured_is_kept() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo");
        let (registry, cx) = (Registry::linked().expect("links"), CallContext::new());
        let cx = BuildContext::new(&registry, &cx);
        let mut drawn = Vec::new();
        for rows in [3, 10] {
            let text = format!(
                "student.path = \"models/king\"\ndata.tasks = [\"x\"]\ndata.held_out_rows = {rows}\n\
                 gate = {{ duel = \"duel.toml\" }}\n[[stage]]\nobjective = \"sft\"\nsteps = 1"
            );
            let config = DistilConfig { folder: demo.clone(), ..DistilConfig::parse(&text).expect("reads") };
            let held = HeldOut::read(&config, &cx).await.expect("reads");
            assert_eq!((held.rows, held.measured.len(), held.repos.len()), (200, rows, 9));
            assert!(held.measured.iter().all(|example| !example.messages.is_empty()));
            drawn.push(held.measured.into_iter().map(|example| example.id).collect::<Vec<_>>());
        }
        assert_eq!(drawn[0], drawn[1][..3], "the first of one order");
    }
}
