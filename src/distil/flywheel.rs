//! Rounds in which a king learns from its own duels: a duel on training tasks, a
//! distillation on its record, and the gate, whose duel on other tasks decides whether the
//! child is the next king. The teacher stays.
//!
//! | in the folder | what |
//! | --- | --- |
//! | `flywheel.json` | [`Chain`]: the records of each round by their digests |
//! | `duels/1` | the record of the first round's duel |
//! | `distil/1` | its distillation: `distil.json`, the child, the gate's duel in `gate` |
//! | `tasks` | the training tasks, where they were made of conversations |

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{DistilConfig, Gate, LicensedSource, Source, Turns, Weight};
use super::data;
use super::gate::fight;
use super::record::{DistilRecord, ModelFacts, RECORD, State, digests, parameters};
use super::run::{Checked, Distillation};
use crate::backends::tasks::{ParquetTasks, ParquetTasksConfig, write_tasks};
use crate::config::{DuelConfig, ModelConfig};
use crate::conversations::conversations;
use crate::demo::Demo;
use crate::durable::{lock, replace};
use crate::record::{VerifyOptions, verify_record};
use crate::rng::derive_seed;
use crate::{
    BuildContext, Digest, Error, ErrorKind, Fault, ModelRef, Plugin, PluginConfig, Record, Result, Rule,
    Seed, TaskSource,
};

/// Version of the form of `flywheel.json` that this build writes.
pub const SCHEMA: u32 = 1;

const CHAIN: &str = "flywheel.json";
const TURN: &str = "turn the flywheel";
const VERIFY: &str = "verify a flywheel";

/// The largest `flywheel.json` that is read, in bytes: some thousand rounds. Source: chosen
/// by albedo.
const MAX_CHAIN: u64 = 4 << 20;

/// Tokens of the demo's first stage, which reads what was preferred in its duels. Source:
/// chosen by albedo: two passes over 128 replies with their prompts.
const DEMO_WINNERS: u64 = 200_000;

/// Rates of that stage: few tokens want smaller ones than many (`docs/distil.md`).
const DEMO_WINNERS_RATE: f64 = 5e-4;
const DEMO_WINNERS_MUON_RATE: f64 = 0.005;

/// What every round does.
#[derive(Debug, Clone, PartialEq)]
pub struct FlywheelConfig {
    /// The duel on training tasks. Its king is the first one, in a folder; its challenger
    /// is the teacher.
    pub duel: DuelConfig,
    /// The distillation. Its student is the round's king, and the records of all rounds so
    /// far are added to its data; it needs a gate.
    pub distil: DistilConfig,
    /// The license of these records as its SPDX name.
    pub license: Option<String>,
    /// Conversations (`.jsonl`, `.jsonl.gz`) that the duel's tasks are made of, in place of
    /// its own.
    pub conversations: Option<PathBuf>,
    /// The folder of everything.
    pub out: PathBuf,
}

/// `flywheel.json`: the rounds that were ended, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The rounds.
    pub rounds: Vec<Round>,
}

/// One round by the digests of what it left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// The parameters of the king, which is the student.
    pub king: Digest,
    /// The parameters of the teacher, which is the duel's challenger.
    pub teacher: Digest,
    /// The manifest of the training tasks.
    pub tasks: Digest,
    /// The record of the duel on them.
    pub duel: Digest,
    /// The file `distil.json`.
    pub distillation: Digest,
    /// The record of the gate's duel; none if the child's behaviour was refused before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Digest>,
    /// The parameters of the child.
    pub child: Digest,
    /// Every file of the child, except what systems and hubs leave in folders: SHA-256 over the lines
    /// `{sha256}  {name}\n`.
    pub files: Digest,
    /// Whether the child has passed its gate, and is the next king.
    pub crowned: bool,
}

impl Round {
    /// The parameters of the next round's king.
    pub fn heir(&self) -> Digest {
        if self.crowned { self.child } else { self.king }
    }
}

impl Chain {
    /// Reads the chain in `folder`; none if there is none. Nothing is checked but its form:
    /// see [`verify`].
    ///
    /// # Errors
    /// It is malformed, or another albedo wrote it.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(CHAIN);
        if !path.exists() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_CHAIN).read_to_end(&mut bytes));
        read.map_err(|error| Error::io(VERIFY, &path, error))?;
        let invalid = |message: String| {
            Error::new(ErrorKind::DataInvalid, VERIFY, message).with("path", path.display())
        };
        let chain: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if chain.schema != SCHEMA {
            return Err(Error::new(ErrorKind::Unsupported, VERIFY, "another albedo wrote it")
                .with("path", path.display())
                .with("schema", chain.schema)
                .with_hint(format!("this build reads schema {SCHEMA}")));
        }
        if chain.json()? != bytes {
            return Err(invalid("the file is not as albedo writes it: it was altered".into()));
        }
        Ok(Some(chain))
    }

    /// The folder of the king after the last round, in the flywheel's folder `out`; none if the
    /// first king stays.
    pub fn king(&self, out: &Path) -> Option<PathBuf> {
        let place = self.rounds.iter().rposition(|round| round.crowned)?;
        Some(distil_folder(out, place + 1).join("model"))
    }

    fn json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::bug(TURN, error.to_string()).with_source(error))?;
        json.push(b'\n');
        Ok(json)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CHAIN);
        replace(&path, &folder.join(format!("{CHAIN}.partial")), &self.json()?)
            .map_err(|error| Error::io(TURN, &path, error))
    }
}

/// The folder of round `number`'s duel, from 1.
pub fn duel_folder(out: &Path, number: usize) -> PathBuf {
    out.join("duels").join(number.to_string())
}

/// The folder of round `number`'s distillation, from 1.
pub fn distil_folder(out: &Path, number: usize) -> PathBuf {
    out.join("distil").join(number.to_string())
}

/// A flywheel whose folder is open. Each round is [`Flywheel::duel`],
/// [`Flywheel::distillation`] and its [`run`](Distillation::run), and [`Flywheel::close`];
/// each of them does not do again what is done.
#[derive(Debug)]
pub struct Flywheel {
    config: FlywheelConfig,
    chain: Chain,
    /// Keeps other processes out while it is open.
    _lock: File,
}

impl Flywheel {
    /// Opens the folder, which is new, or holds a chain, which is verified. Call
    /// [`Flywheel::check`] before the first round.
    ///
    /// # Errors
    /// A distillation without a gate; a king that is not in a folder; a chain of another
    /// king, or one that does not verify; another process works in the folder; conversations that
    /// are missing or malformed.
    pub async fn open(mut config: FlywheelConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let invalid = |key: &'static str, message: &str| {
            Error::new(ErrorKind::ConfigInvalid, TURN, message).with("key", key)
        };
        if matches!(config.distil.gate, Gate::Open(_)) {
            return Err(invalid("gate", "without a gate every child would be king")
                .with_hint("give the distillation a table `[gate]` with `duel = FILE`"));
        }
        for folder in [&mut config.out, &mut config.duel.folder, &mut config.distil.folder] {
            *folder = absolute(folder)?;
        }
        let ModelRef::Folder(king) = config.duel.king.model()? else {
            return Err(invalid("king", "the king is not in a folder")
                .with_hint("name a model's folder in `king.path`: it is trained"));
        };
        let out = &config.out;
        fs::create_dir_all(out).map_err(|error| Error::io(TURN, out, error))?;
        let path = out.join("lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|error| Error::io(TURN, &path, error))?;
        lock(TURN, &file, &path)?;
        let chain = match Chain::read(out)? {
            Some(_) => verify(out, cx).await?,
            None => Chain { schema: SCHEMA, rounds: Vec::new() },
        };
        if let Some(first) = chain.rounds.first() {
            let own = parameters(&config.duel.folder.join(king))?;
            if own != first.king {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    TURN,
                    "the folder holds the rounds of another king",
                )
                .with_fault(Fault::Operator)
                .with("folder", out.display())
                .with("its first king", first.king)
                .with("this king", own)
                .with_hint("choose another folder with `--out DIR`"));
            }
        }
        if let Some(conversations) = &config.conversations {
            let tasks = made_tasks(conversations, out)?;
            config.duel.tasks = PluginConfig::named(ParquetTasks::NAME).with("path", path_value(&tasks)?);
        }
        Ok(Self { config, chain, _lock: file })
    }

    /// Checks the distillation of the round ahead as far as it can be before the round's duel: reads
    /// its data and its models' files.
    ///
    /// # Errors
    /// As [`Distillation::prepare`]; a stage whose teacher is not the duel's challenger; tasks of the
    /// duel that are missing, malformed or held out.
    pub async fn check(&self, cx: &BuildContext<'_>) -> Result<()> {
        let (mut config, duel) = (self.distil_config()?, &self.config.duel);
        let teachers = Checked::of(&config, cx)?.teachers;
        if let ModelRef::Folder(challenger) = duel.challenger.model()? {
            let challenger = parameters(&duel.folder.join(challenger));
            let challenger = challenger.map_err(|error| error.under("challenger.path"))?;
            check_teachers(teachers.iter().map(Option::as_ref), challenger)?;
        }
        // The records of the rounds are the last source. That of the round ahead is not there yet.
        config.data.records.pop();
        data::check(&config, duel, cx).await
    }

    /// The configuration of the distillation of the round ahead.
    fn distil_config(&self) -> Result<DistilConfig> {
        let (mut config, number) = (self.config.distil.clone(), self.ahead());
        config.student.path = self.king()?;
        config.student.out = distil_folder(&self.config.out, number);
        let path = self.config.out.join("duels/*");
        config.data.records.push(match &self.config.license {
            Some(license) => Source::Licensed(LicensedSource { path, license: license.clone() }),
            None => Source::Path(path),
        });
        if number > 1 {
            let seed = Seed::from(config.train.seed);
            config.train.seed = later(seed, number).entropy();
            if let Gate::Closed(gate) = &mut config.gate {
                gate.seed = Some(later(gate.seed.unwrap_or(seed), number));
            }
        }
        Ok(config)
    }

    /// The rounds that were ended.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Its folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        &self.config.out
    }

    /// The number of the round ahead, from 1.
    pub fn ahead(&self) -> usize {
        self.chain.rounds.len() + 1
    }

    /// The folder of the king of the round ahead.
    ///
    /// # Errors
    /// The first king is named in no way that [`Flywheel::open`] takes.
    pub fn king(&self) -> Result<PathBuf> {
        if let Some(king) = self.chain.king(&self.config.out) {
            return Ok(king);
        }
        match self.config.duel.king.model()? {
            ModelRef::Folder(king) => Ok(self.config.duel.folder.join(king)),
            _ => Err(Error::bug(TURN, "the king is not in a folder")),
        }
    }

    /// Runs the duel of the round ahead, or goes on with it, and gives its record.
    ///
    /// # Errors
    /// As a duel's; [`ErrorKind::Unavailable`] if it is void.
    pub async fn duel(&self, cx: &BuildContext<'_>) -> Result<Record> {
        let (mut duel, number) = (self.config.duel.clone(), self.ahead());
        duel.king = ModelConfig { backend: duel.king.backend.take(), ..ModelConfig::folder(self.king()?) };
        duel.duel.seed = later(duel.duel.seed, number);
        (duel.screens, duel.screen_profile) = (None, None);
        let folder = duel_folder(&self.config.out, number);
        fight(&duel, &folder, cx).await?;
        Record::open(&folder)
    }

    /// The distillation of the round ahead, whose duel is decided.
    ///
    /// # Errors
    /// As [`Distillation::prepare`]; a stage whose teacher is not the challenger of `duel`.
    pub async fn distillation(&self, duel: &Record, cx: &BuildContext<'_>) -> Result<Distillation> {
        let distillation = Distillation::prepare(self.distil_config()?, cx).await?;
        let teachers = distillation.plan().stages.iter().map(|stage| stage.teacher.as_ref());
        check_teachers(teachers, duel.plan().challenger.model.parameters)?;
        Ok(distillation)
    }

    /// Ends the round ahead, whose distillation is through its gate: checks what it left
    /// behind, and writes its digests into the chain.
    ///
    /// # Errors
    /// Something does not fit, naming it; what the disk meets.
    pub async fn close(&mut self, cx: &BuildContext<'_>) -> Result<&Round> {
        let round = round(&self.config.out, &self.chain.rounds, cx).await?;
        self.chain.rounds.push(round);
        self.chain.write(&self.config.out)?;
        let round = self.chain.rounds.last();
        round.ok_or_else(|| Error::bug(TURN, "the round was not kept"))
    }
}

/// Verifies the chain in `folder`: that each round's records verify, are the ones that the
/// chain names, and fit to each other and to the round before.
///
/// # Errors
/// [`ErrorKind::NotFound`] without a chain; else what does not fit, with the round.
pub async fn verify(folder: &Path, cx: &BuildContext<'_>) -> Result<Chain> {
    let chain = Chain::read(folder)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, VERIFY, "the folder holds no chain")
            .with_fault(Fault::Operator)
            .with("folder", folder.display())
            .with_hint("name the folder that `albedo flywheel` has written")
    })?;
    for (place, named) in chain.rounds.iter().enumerate() {
        let found = round(folder, &chain.rounds[..place], cx).await?;
        let both = [
            ("king", named.king, found.king),
            ("teacher", named.teacher, found.teacher),
            ("tasks", named.tasks, found.tasks),
            ("duel", named.duel, found.duel),
            ("distillation", named.distillation, found.distillation),
            ("child", named.child, found.child),
            ("files of the child", named.files, found.files),
        ];
        let other = both.into_iter().find(|(_, named, found)| named != found);
        if let Some((what, named, found)) = other {
            return Err(broken(place + 1, "the chain names another than there is")
                .with("what", what)
                .with("named", named)
                .with("found", found));
        }
        if *named != found {
            return Err(broken(place + 1, "the chain says otherwise how the gate ended")
                .with("what", if named.gate == found.gate { "crowned" } else { "gate" }));
        }
    }
    Ok(chain)
}

fn broken(number: usize, message: &str) -> Error {
    Error::new(ErrorKind::DigestMismatch, VERIFY, message).with("round", number)
}

/// The round after `before` as its folders have it: every record is verified and fits to the
/// others.
async fn round(out: &Path, before: &[Round], cx: &BuildContext<'_>) -> Result<Round> {
    let number = before.len() + 1;
    let numbered = |error: Error| error.with("round", number);
    let unlike = |message: &str, found: Digest, expected: Digest| {
        broken(number, message).with("found", found).with("expected", expected)
    };
    let same = |message: &str, found: Digest, expected: Digest| {
        if found == expected { Ok(()) } else { Err(unlike(message, found, expected)) }
    };

    let duel = Record::open(&duel_folder(out, number)).map_err(numbered)?;
    let tasks = training_tasks(out, duel.plan().tasks.manifest, cx).await.map_err(numbered)?;
    let tasks = tasks.as_ref().map(|tasks| tasks as &dyn TaskSource);
    let options = VerifyOptions { tasks, ..VerifyOptions::default() };
    verify_record(&duel, &options, cx.call())
        .await
        .map_err(|error| numbered(error.with("record", "duel")))?;
    let plan = duel.plan();
    let (king, teacher) = (plan.king.model.parameters, plan.challenger.model.parameters);
    if let (Some(first), Some(last)) = (before.first(), before.last()) {
        same("its king is not the one that the round before has left", king, last.heir())?;
        same("its teacher is not that of the first round", teacher, first.teacher)?;
        same("its tasks are not those of the first round", plan.tasks.manifest, first.tasks)?;
    }

    let folder = distil_folder(out, number);
    let record = DistilRecord::read(&folder).map_err(numbered)?;
    let record = record.ok_or_else(|| broken(number, "there is no distillation"))?;
    record.verify(&folder, cx.call()).await.map_err(numbered)?;
    let (Some(child), Some(gate)) = (record.model, &record.gate) else {
        return Err(broken(number, "the distillation is not through its gate"));
    };
    same("the student is not the king", record.plan.student.parameters, king)?;
    for stage in record.plan.stages.iter().filter_map(|stage| stage.teacher.as_ref()) {
        same("a stage has another teacher than the duel's challenger", stage.parameters, teacher)?;
    }
    for record_of in before.iter().map(|round| round.duel).chain([duel.digest]) {
        if !record.plan.data.sources.iter().any(|source| source.digest == record_of) {
            return Err(broken(number, "the distillation has not read a duel of the rounds so far")
                .with("record", record_of));
        }
    }
    let crowned = record.state == State::Exported;
    if gate.duel.is_some() {
        let decided = Record::open(&folder.join("gate")).map_err(numbered)?;
        if decided.plan().tasks.manifest == duel.plan().tasks.manifest {
            return Err(broken(number, "the gate's duel was on the training tasks"));
        }
    }
    let bytes = fs::read(folder.join(RECORD)).map_err(|error| Error::io(VERIFY, &folder, error))?;
    let place = folder.join(if crowned { "model" } else { "candidate" });
    Ok(Round {
        king,
        teacher,
        tasks: duel.plan().tasks.manifest,
        duel: duel.digest,
        distillation: Digest::of(bytes),
        gate: gate.duel.as_ref().and_then(|duel| duel.record),
        child,
        files: digests(&place).map_err(numbered)?.files,
        crowned,
    })
}

/// The training tasks that were made in `out`, whole; none if the duel has its own.
async fn training_tasks(out: &Path, manifest: Digest, cx: &BuildContext<'_>) -> Result<Option<ParquetTasks>> {
    let folder = out.join("tasks");
    if !folder.exists() {
        return Ok(None);
    }
    let config = ParquetTasksConfig { manifest: Some(manifest), ..ParquetTasksConfig::folder(&folder) };
    let tasks = ParquetTasks::build_with(config, cx).await?;
    for shard in 0..tasks.manifest().shards().len() {
        tasks.check_shard(shard, false, cx.call()).await?;
    }
    Ok(Some(tasks))
}

/// Refuses a stage whose teacher is not the duel's challenger, the model with these parameters.
fn check_teachers<'a>(
    teachers: impl Iterator<Item = Option<&'a ModelFacts>>,
    challenger: Digest,
) -> Result<()> {
    for (number, teacher) in teachers.enumerate() {
        if let Some(other) = teacher.filter(|own| own.parameters != challenger) {
            let message = "the stage has another teacher than the duel's challenger";
            return Err(Error::new(ErrorKind::ConfigInvalid, TURN, message)
                .with("key", format!("stage[{number}].teacher"))
                .with("teacher", other.parameters)
                .with("challenger", challenger)
                .with_hint("name the same model in both: the teacher stays"));
        }
    }
    Ok(())
}

/// The seed of round `number`, whose first one is `seed`.
fn later(seed: Seed, number: usize) -> Seed {
    if number == 1 {
        return seed;
    }
    Seed::from(derive_seed("albedo flywheel round 1", &[seed.as_bytes(), &(number as u64).to_le_bytes()]))
}

/// The task set in `out` made of the conversations at `path`, whole or not at all.
fn made_tasks(path: &Path, out: &Path) -> Result<PathBuf> {
    let (tasks, partial) = (out.join("tasks"), out.join("tasks.partial"));
    if tasks.exists() {
        return Ok(tasks);
    }
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| Error::io(TURN, &partial, error))?;
    }
    write_tasks(&partial, conversations(path)?.into_iter().map(Ok))?;
    fs::rename(&partial, &tasks).map_err(|error| Error::io(TURN, &tasks, error))?;
    Ok(tasks)
}

/// `folder` as an absolute path; the working folder if it is empty, as that of a configuration
/// that was read from no file.
fn absolute(folder: &Path) -> Result<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::path::absolute(folder).map_err(|error| Error::io(TURN, folder, error))
}

fn path_value(path: &Path) -> Result<serde_json::Value> {
    serde_json::to_value(path).map_err(|error| Error::bug(TURN, error.to_string()).with_source(error))
}

/// The demo's flywheel in `out`: its king duels its challenger on the pack's training tasks,
/// and learns from it on what the panel preferred and on all recorded turns. The gate's duel
/// is on the pack's other tasks.
///
/// # Errors
/// The pack's files are malformed.
pub fn demo(demo: &Demo, out: &Path) -> Result<FlywheelConfig> {
    let mut distil = super::demo(demo, out)?;
    let mut duel = DuelConfig::read(&demo.config())?;
    // What teaches is every sample: the duel is not to end once it is decided.
    duel.duel.rule = Rule::by_name("margin")?;
    let training = distil.data.tasks.first();
    let license = training.and_then(Source::license).map(str::to_owned);
    let conversations = training.map(|source| distil.folder.join(source.path()));
    if let Gate::Closed(gate) = &distil.gate {
        duel.duel.samples = gate.samples.unwrap_or(duel.duel.samples);
    }
    if let Some(mut winners) = distil.stage.first().cloned() {
        (winners.turns, winners.weight, winners.prompts) = (Turns::Winner, Weight::Margin, 0.0);
        winners.tokens = Some(DEMO_WINNERS);
        (winners.rate, winners.muon_rate) = (Some(DEMO_WINNERS_RATE), Some(DEMO_WINNERS_MUON_RATE));
        distil.stage.insert(0, winners);
    }
    Ok(FlywheelConfig { duel, distil, license, conversations, out: out.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(crowned: bool) -> Round {
        let digest = Digest::of("x");
        Round {
            king: digest,
            teacher: digest,
            tasks: digest,
            duel: digest,
            distillation: digest,
            gate: Some(digest),
            child: Digest::of("child"),
            files: digest,
            crowned,
        }
    }

    #[test]
    fn a_child_is_king_if_it_was_crowned() {
        assert_eq!(round(true).heir(), Digest::of("child"));
        assert_eq!(round(false).heir(), Digest::of("x"));
    }

    #[test]
    fn the_demos_first_stage_learns_from_winners_replies_alone() {
        let config = demo(&Demo::locate().expect("the pack"), Path::new("wheel")).expect("reads");
        let [winners, all] = &config.distil.stage[..] else {
            panic!("two stages: {:?}", config.distil.stage)
        };
        assert_eq!((winners.turns, winners.weight), (Turns::Winner, Weight::Margin));
        assert_eq!((winners.tokens, winners.prompts), (Some(DEMO_WINNERS), 0.0));
        assert_eq!(
            (winners.rate, winners.muon_rate),
            (Some(DEMO_WINNERS_RATE), Some(DEMO_WINNERS_MUON_RATE))
        );
        assert_eq!((winners.objective, &winners.teacher), (all.objective, &all.teacher));
        assert!(all.turns == Turns::AllRecorded && all.prompts > 0.0, "{all:?}");
    }

    #[test]
    fn every_byte_of_a_chain_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Chain::read(folder.path()).expect("reads"), None);
        let chain = Chain { schema: SCHEMA, rounds: vec![round(true), round(false)] };
        chain.write(folder.path()).expect("writes");
        assert_eq!(Chain::read(folder.path()).expect("reads"), Some(chain));
        let path = folder.path().join(CHAIN);
        let text = fs::read_to_string(&path).expect("reads");
        for (altered, words) in [
            (text.replace("\"schema\": 1", "\"schema\": 2"), "another albedo wrote it"),
            (text.replace("crowned", "crown"), "unknown field"),
            (text.replacen("  ", " ", 1), "not as albedo writes it"),
            (text.trim_end().to_owned(), "not as albedo writes it"),
            (text.replacen(": true", ": truer", 1), "line"),
        ] {
            fs::write(&path, altered).expect("writes");
            let error = Chain::read(folder.path()).expect_err(words).to_string();
            assert!(error.contains(words) && error.contains(CHAIN), "{error}");
        }
    }

    #[test]
    fn later_rounds_have_seeds_of_their_own() {
        let seeds: Vec<_> = (1..4).map(|number| later(Seed::from(7), number)).collect();
        assert_eq!(seeds[0], Seed::from(7));
        assert!(seeds[1] != seeds[0] && seeds[2] != seeds[1] && later(Seed::from(8), 2) != seeds[1]);
    }
}
