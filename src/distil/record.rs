//! What a distillation leaves behind: `distil.json`, which says what was trained on what and
//! what came of it, and `metrics.jsonl`, which says how it went.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{Gate, StageSettings};
use super::data::DataReport;
use crate::backends::burn::train::Settings;
use crate::backends::prompts::PromptText;
use crate::durable::replace;
use crate::record::{PromptCounter, Record, VerifyOptions, verify_record};
use crate::{Build, CallContext, Digest, Error, ErrorKind, Fault, Outcome, Result, Screened};

/// Version of the form of `distil.json` that this build writes.
pub const SCHEMA: u32 = 1;

pub(super) const RECORD: &str = "distil.json";
const METRICS: &str = "metrics.jsonl";
const READ: &str = "read the record of a distillation";
const WRITE: &str = "write the record of a distillation";
const VERIFY: &str = "verify a distillation";

/// The largest `distil.json` that is read. Source: chosen by albedo, a million steps.
const MAX_RECORD: u64 = 64 << 20;

/// `distil.json`: a distillation without times and without paths of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistilRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What is done; frozen before the first step.
    pub plan: DistilPlan,
    /// How far it is.
    pub state: State,
    /// The checkpoints that were written, in order; the last ones are still there.
    pub checkpoints: Vec<Checkpoint>,
    /// The loss of each step, in nats per weighted token.
    pub losses: Vec<f64>,
    /// The cross-entropy on held-out conversations.
    pub held_out: Vec<HeldOutLoss>,
    /// The digest of the exported parameters, as a duel names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Digest>,
    /// What the gate found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateReport>,
}

/// What a distillation does. The same plan gives the same parameters on the same machine and
/// build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistilPlan {
    /// The build.
    pub build: Build,
    /// What the order of the data follows from.
    pub seed: u64,
    /// The model that learns.
    pub student: ModelFacts,
    /// What it learns from.
    pub data: DataReport,
    /// The stages.
    pub stages: Vec<StagePlan>,
    /// Conversations per step.
    pub accumulate: usize,
    /// The longest conversation in tokens.
    pub max_tokens: usize,
    /// Whether names are replaced.
    pub rename: bool,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// The gate, as it was configured.
    pub gate: Gate,
}

/// One stage as it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    /// As it was configured.
    pub settings: StageSettings,
    /// What the engine is asked to do.
    pub engine: Settings,
    /// The teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<ModelFacts>,
    /// Conversations that it reads from.
    pub conversations: u64,
    /// Digest of the list of what it reads, in order.
    pub order: Digest,
}

/// Which model it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Digest of its parameters, as a duel names them.
    pub parameters: Digest,
    /// Digest of its tokenizer's file.
    pub tokenizer: Digest,
    /// Digest of its chat template and special tokens.
    pub chat_template: Digest,
    /// Digest of its vocabulary.
    pub vocabulary: Digest,
}

/// How far a distillation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is trained, or its gate is not through.
    Running,
    /// The result has passed its gate, or there is none: it is in `model/`.
    Exported,
    /// The result has not passed its gate: it is in `candidate/`.
    Refused,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps before it, over all stages. It is in `checkpoints/` under this number.
    pub step: u64,
    /// Its digest.
    pub digest: Digest,
}

/// The cross-entropy of a model on the held-out conversations that are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLoss {
    /// Whose: `student`, `stage 1`, `teacher of stage 1`.
    pub of: String,
    /// Nats per token of the assistant.
    pub nats: f64,
}

/// What the gate found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// Whether the result passed.
    pub passed: bool,
    /// Why not, or what it showed, in one sentence.
    pub evidence: String,
    /// The screens' findings about the result.
    pub findings: Vec<Screened>,
    /// How the duel ended, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duel: Option<GateDuel>,
}

/// The duel of the student as king and the result as challenger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateDuel {
    /// How it ended.
    pub outcome: Outcome,
    /// The result's margin in points.
    pub margin: f64,
    /// Samples that were decided on.
    pub samples: u32,
    /// The digest of its record, in `gate/`.
    pub record: Option<Digest>,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step over all stages, from 1.
    pub step: u64,
    /// The stage, from 1.
    pub stage: usize,
    /// Nats per weighted token, before the step.
    pub loss: f64,
    /// The norm of the gradient.
    pub gradient_norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Tokens read in the step.
    pub tokens: u64,
    /// Tokens with a loss in the step.
    pub supervised: u64,
    /// Tokens read per second, in this run of the program.
    pub tokens_per_second: f64,
    /// Seconds that the steps ahead will take at this speed.
    pub seconds_left: f64,
}

impl DistilPlan {
    /// The plan's digest: SHA-256 of its canonical JSON.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_json(self)
    }

    /// Steps over all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.engine.steps).sum()
    }

    /// The stage of step `step`, counted from 0 over all stages, and its number in the
    /// stage.
    pub(super) fn stage_of(&self, step: u64) -> Option<(usize, u64)> {
        let mut rest = step;
        for (number, stage) in self.stages.iter().enumerate() {
            if rest < stage.engine.steps {
                return Some((number, rest));
            }
            rest -= stage.engine.steps;
        }
        None
    }

    /// Steps before stage `stage`.
    pub(super) fn before(&self, stage: usize) -> u64 {
        self.stages[..stage].iter().map(|stage| stage.engine.steps).sum()
    }

    /// Names of the fields in which `other` is another plan, ascending.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |plan: &Self| match serde_json::to_value(plan) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (fields(self), fields(other));
        let all: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        all.into_iter().filter(|&key| ours.get(key) != theirs.get(key)).cloned().collect()
    }
}

impl DistilRecord {
    /// The record of a distillation that has not begun.
    pub(super) fn new(plan: DistilPlan) -> Self {
        Self {
            schema: SCHEMA,
            plan,
            state: State::Running,
            checkpoints: Vec::new(),
            losses: Vec::new(),
            held_out: Vec::new(),
            model: None,
            gate: None,
        }
    }

    /// Reads the record in `folder`; none if there is none.
    ///
    /// # Errors
    /// It is malformed, or was written by a newer albedo.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Header {
            schema: u32,
        }
        let path = folder.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_RECORD + 1).read_to_end(&mut bytes));
        read.map_err(|error| Error::io(READ, &path, error))?;
        let malformed =
            |message: String| Error::new(ErrorKind::DataInvalid, READ, message).with("path", path.display());
        if bytes.len() as u64 > MAX_RECORD {
            return Err(malformed(format!("the file has more than {MAX_RECORD} bytes")));
        }
        let Header { schema } =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if schema != SCHEMA {
            return Err(Error::new(ErrorKind::Unsupported, READ, "another albedo wrote it")
                .with("path", path.display())
                .with("schema", schema)
                .with_hint(format!("this build reads schema {SCHEMA}")));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| malformed(error.to_string()))
    }

    /// Writes the record into `folder`, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(RECORD);
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
        json.push(b'\n');
        replace(&path, &folder.join(format!("{RECORD}.partial")), &json)
            .map_err(|error| Error::io(WRITE, &path, error))
    }

    /// Checks that the record in `folder` agrees with itself, with the model beside it, and with
    /// the record of its gate's duel.
    ///
    /// # Errors
    /// What does not, naming it.
    pub async fn verify(&self, folder: &Path, cx: &CallContext) -> Result<()> {
        let (steps, all) = (self.losses.len() as u64, self.plan.steps());
        if steps > all || (self.state != State::Running && steps != all) {
            return Err(invalid("it has not one loss for each step")
                .with("losses", steps)
                .with("steps", all));
        }
        if let Some(late) = self.checkpoints.iter().find(|checkpoint| checkpoint.step > steps) {
            return Err(invalid("a checkpoint is later than the last step").with("checkpoint", late.step));
        }
        let passed = match (&self.plan.gate, &self.gate) {
            (Gate::Open(_), None) => true,
            (Gate::Closed(_), Some(gate)) => gate.passed,
            (Gate::Closed(_), None) if self.state == State::Running => return Ok(()),
            (Gate::Closed(_), None) => return Err(invalid("its plan has a gate, of which it says nothing")),
            (Gate::Open(_), Some(_)) => {
                return Err(invalid("its plan has no gate, of which it says something"));
            }
        };
        let place = match (self.state, passed) {
            (State::Running, _) => return Ok(()),
            (State::Exported, true) => folder.join("model"),
            (State::Refused, false) => folder.join("candidate"),
            _ => return Err(invalid("its end is not what its gate says")),
        };
        let own = parameters(&place)?;
        if Some(own) != self.model {
            return Err(Error::new(ErrorKind::DigestMismatch, VERIFY, "the model is not the recorded one")
                .with("path", place.display())
                .with("parameters", own)
                .with("recorded", self.model.map_or_else(|| "none".into(), |model| model.to_string())));
        }
        match &self.gate {
            Some(gate) => self.verify_gate(gate, own, &folder.join("gate"), cx).await,
            None => Ok(()),
        }
    }

    /// Checks that `gate` says what the record of its duel in `folder` says, of the student and
    /// `child`.
    async fn verify_gate(
        &self,
        gate: &GateReport,
        child: Digest,
        folder: &Path,
        cx: &CallContext,
    ) -> Result<()> {
        let Some(found) = &gate.duel else {
            return if gate.passed { Err(invalid("its result has passed without a duel")) } else { Ok(()) };
        };
        let decided = Record::open(folder)?;
        let options = VerifyOptions { expect: found.record, ..VerifyOptions::default() };
        let verified =
            verify_record(&decided, &options, cx).await.map_err(|error| error.with("record", "gate"))?;
        let (king, challenger) = (&verified.plan.king.model, &verified.plan.challenger.model);
        if king.parameters != self.plan.student.parameters {
            return Err(invalid("the gate's king is not the student").with("found", king.parameters));
        }
        if challenger.parameters != child {
            return Err(
                invalid("the gate's challenger is not the result").with("found", challenger.parameters)
            );
        }
        let is_crowned = verified.outcome == Outcome::Dethroned;
        if (found.outcome, gate.passed) == (verified.outcome, is_crowned) {
            return Ok(());
        }
        Err(invalid("the gate's duel has ended otherwise than the distillation says"))
    }

    /// The last value of the held-out loss whose name is `of`.
    pub fn nats(&self, of: &str) -> Option<f64> {
        self.held_out.iter().find(|loss| loss.of == of).map(|loss| loss.nats)
    }

    /// The newest checkpoint that is still in `folder`.
    pub(super) fn newest(&self, folder: &Path) -> Option<&Checkpoint> {
        self.checkpoints.iter().rev().find(|checkpoint| checkpoint.folder(folder).is_dir())
    }

    /// Forgets what came after the first `steps` steps.
    pub(super) fn truncate(&mut self, steps: u64) {
        self.losses.truncate(steps as usize);
        self.checkpoints.retain(|checkpoint| checkpoint.step <= steps);
        let stages = &self.plan;
        let done = (0..stages.stages.len()).filter(|stage| stages.before(stage + 1) <= steps);
        let done: BTreeSet<String> = done.map(|stage| format!("stage {}", stage + 1)).collect();
        self.held_out.retain(|loss| !loss.of.starts_with("stage ") || done.contains(&loss.of));
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, VERIFY, message)
}

impl Checkpoint {
    /// Its folder, below that of the distillation.
    pub(super) fn folder(&self, of: &Path) -> PathBuf {
        checkpoint_folder(of, self.step)
    }
}

/// The folder of the checkpoint after `step` steps.
pub(super) fn checkpoint_folder(of: &Path, step: u64) -> PathBuf {
    of.join("checkpoints").join(format!("{step:06}"))
}

/// The file `metrics.jsonl`, which is appended to.
#[derive(Debug)]
pub(super) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file in `folder`, and forgets what it says of steps after `steps`: they are
    /// taken again.
    pub(super) fn open(folder: &Path, steps: u64) -> Result<Self> {
        let path = folder.join(METRICS);
        let io = |error| Error::io(WRITE, &path, error);
        let mut kept = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    let line = line.map_err(io)?;
                    // The last line of a process that was killed can be a part of one.
                    let Ok(metrics) = serde_json::from_str::<Metrics>(&line) else { break };
                    if metrics.step > steps {
                        break;
                    }
                    kept.extend_from_slice(line.as_bytes());
                    kept.push(b'\n');
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        replace(&path, &folder.join(format!("{METRICS}.partial")), &kept).map_err(io)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        Ok(Self { path, file })
    }

    pub(super) fn add(&mut self, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| Error::io(WRITE, &self.path, error))
    }
}

impl ModelFacts {
    /// Those of the model in `folder`.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let text = PromptText::load(folder)?;
        let [tokenizer, chat_template] = text.text();
        let vocabulary = text.vocabulary()?;
        Ok(Self { parameters: parameters(folder)?, tokenizer, chat_template, vocabulary })
    }
}

/// The digest of the parameters of the model in `folder`: SHA-256 over the lines
/// `{sha256}  {name}\n` of its weight files in byte order of their names.
///
/// # Errors
/// There is no weight file; what the disk meets.
pub(super) fn parameters(folder: &Path) -> Result<Digest> {
    digest_of(folder, |name| name.ends_with(".safetensors"))
}

/// The same of the files in `folder` whose names `takes` takes.
///
/// # Errors
/// There is none; what the disk meets.
pub(super) fn digest_of(folder: &Path, takes: impl Fn(&str) -> bool) -> Result<Digest> {
    const DIGEST: &str = "digest a model";
    let io = |error| Error::io(DIGEST, folder, error);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if takes(&name) {
            let file = File::open(&path).map_err(|error| Error::io(DIGEST, &path, error))?;
            files.insert(name, Digest::of_reader(file).map_err(|error| Error::io(DIGEST, &path, error))?);
        }
    }
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, DIGEST, "the folder has no file of weights")
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint("name the folder of a model with `*.safetensors`"));
    }
    let mut lines = String::new();
    for (name, digest) in files {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{digest}  {name}");
    }
    Ok(Digest::of(lines))
}
