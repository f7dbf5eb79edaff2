//! What a distillation leaves behind: `distil.json`, which says what was trained on what and
//! what came of it, and `metrics.jsonl`, which says how it went.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{GateSettings, Open, StageSettings};
use super::data::DataReport;
use crate::backends::burn::train::{CHECKPOINT, Settings};
use crate::config::DuelConfig;
use crate::durable::replace;
use crate::{
    Build, Digest, DuelPlan, DuelSettings, Error, ErrorKind, Outcome, PluginConfig, Result, Screen, Screened,
    Seed, Terms,
};

mod model;
mod verify;

pub(super) use model::{ModelDigests, context, digests, parameters};

/// Version of the form of `distil.json` that this build writes. It reads the first one, too,
/// which has paths of the machine, and knows neither the duel of the gate nor all files of models.
pub const SCHEMA: u32 = 2;

pub(super) const RECORD: &str = "distil.json";
const METRICS: &str = "metrics.jsonl";
const READ: &str = "read the record of a distillation";
const WRITE: &str = "write the record of a distillation";

/// The largest `distil.json` that is read. Source: [`MAX_STEPS`](crate::backends::burn::train::MAX_STEPS)
/// steps with a checkpoint after each take 149 MB.
const MAX_RECORD: u64 = 192 << 20;

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
    /// Every exported file: SHA-256 over the lines `{sha256}  {name}\n`. Since schema 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Digest>,
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
    /// What it learns from. Sources are called by the last part of their path; before schema 2, by
    /// the path.
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
    /// The gate.
    pub gate: GatePlan,
}

/// The gate of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GatePlan {
    /// Nothing.
    Open(Open),
    /// Behaviour, and a duel won.
    Closed(ClosedGate),
}

/// The screens and the duel of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClosedGate {
    /// The file of the duel's configuration, before schema 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duel: Option<PathBuf>,
    /// Samples of the duel, in place of its configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// The duel's seed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// What the result's behaviour is screened with.
    pub screens: Vec<PluginConfig<dyn Screen>>,
    /// What the screens' questions follow from.
    pub probe: u64,
    /// Digest of the settings that the duel is decided by: samples, sampler, seed, generation, lanes,
    /// panel, rule, terms. Since schema 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Digest>,
    /// What the duel's judges are called, in order: the duel's own plan may lack those that failed its
    /// canaries. Since schema 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<String>,
}

/// One stage as it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    /// As it was configured; since schema 2 without the teacher's folder.
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
    /// Digest of its `config.json` in [normal form](crate::pretrained::normal_config). Since schema 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
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

/// Steps of `stages` together. A record that somebody else has written can name any numbers.
fn steps(stages: &[StagePlan]) -> u64 {
    stages.iter().fold(0, |all, stage| all.saturating_add(stage.engine.steps))
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
        steps(&self.stages)
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
        steps(&self.stages[..stage])
    }

    /// Whether a checkpoint is due after `step` steps.
    pub(super) fn is_due(&self, step: u64) -> bool {
        let ends_stage = self.stage_of(step).is_none_or(|(_, within)| within == 0);
        step > 0 && (ends_stage || step.is_multiple_of(self.checkpoint_every))
    }

    /// Names of the fields in which `other` is another plan, ascending. Paths of the machine, and
    /// what an older plan does not say, are not compared.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |plan: Self| match serde_json::to_value(plan) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (fields(self.beside(other)), fields(other.beside(self)));
        let all: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        all.into_iter().filter(|&key| ours.get(key) != theirs.get(key)).cloned().collect()
    }

    /// The plan without paths of the machine, and without what `other` does not say.
    fn beside(&self, other: &Self) -> Self {
        let mut plan = self.clone();
        plan.student.config = plan.student.config.filter(|_| other.student.config.is_some());
        plan.data = plan.data.without_paths();
        for (own, others) in plan.stages.iter_mut().zip(&other.stages) {
            own.settings.teacher = None;
            if let (Some(own), Some(others)) = (&mut own.teacher, &others.teacher) {
                own.config = own.config.filter(|_| others.config.is_some());
            }
        }
        if let (GatePlan::Closed(own), GatePlan::Closed(others)) = (&mut plan.gate, &other.gate) {
            own.duel = None;
            if others.settings.is_none() {
                (own.settings, own.judges) = (None, Vec::new());
            }
        }
        plan
    }
}

impl DataReport {
    /// The report with each source called by the last part of its path.
    pub(super) fn without_paths(mut self) -> Self {
        for source in &mut self.sources {
            if let Some(last) = Path::new(&source.name).file_name() {
                source.name = last.to_string_lossy().into_owned();
            }
        }
        self
    }
}

impl ClosedGate {
    /// That of `gate`, whose duel is `duel`.
    pub(super) fn of(gate: &GateSettings, duel: &DuelConfig) -> Result<Self> {
        let DuelSettings { sampler, seed, generation, lanes, panel, rule, terms, .. } = &duel.duel;
        let samples = duel.duel.planned_samples();
        let decides = (samples, sampler, seed, generation, lanes, panel, rule, terms);
        Ok(Self {
            duel: None,
            samples: gate.samples,
            seed: gate.seed,
            screens: gate.screens.clone(),
            probe: gate.probe,
            settings: Some(Digest::of_json(&decides)?),
            judges: duel.judge_labels().map(str::to_owned).collect(),
        })
    }

    /// Whether a duel of `plan` is the one that the gate asks for, as far as the plan says.
    fn asks_for(&self, plan: &DuelPlan) -> Result<bool> {
        if !self.has_panel_of(plan) {
            return Ok(false);
        }
        let DuelPlan { samples, sampler, seed, generation, lanes, panel, rule, terms, .. } = plan;
        if let Some(settings) = self.settings {
            let decides = (samples, sampler, seed, generation, lanes, panel, rule, terms);
            return Ok(settings == Digest::of_json(&decides)?);
        }
        // Within a reign, a rule can set its own number of samples.
        let is_alone = matches!(terms, Terms::Standalone { .. });
        let as_many = self.samples.is_none_or(|own| own == *samples || !is_alone);
        Ok(as_many && self.seed.is_none_or(|own| own == *seed))
    }

    /// Whether the judges of `plan` are the gate's, in their order. Only canaries take judges off a
    /// panel before the duel.
    fn has_panel_of(&self, plan: &DuelPlan) -> bool {
        if self.judges.is_empty() {
            return true;
        }
        let mut left = self.judges.iter();
        let is_part = plan.judges.iter().all(|judge| left.any(|own| *own == judge.identity.name));
        is_part && (plan.canaries.is_some() || plan.judges.len() == self.judges.len())
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
            files: None,
            gate: None,
        }
    }

    /// Reads the record in `folder`; none if there is none.
    ///
    /// # Errors
    /// It is malformed, or was altered, or another albedo wrote it.
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
        if !(1..=SCHEMA).contains(&schema) {
            return Err(Error::new(ErrorKind::Unsupported, READ, "another albedo wrote it")
                .with("path", path.display())
                .with("schema", schema)
                .with_hint(format!("this build reads schemas 1 to {SCHEMA}")));
        }
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if record.json()? != bytes {
            return Err(malformed("the file is not as albedo writes it: it was altered".into())
                .with_hint("put the file back as it was"));
        }
        Ok(Some(record))
    }

    /// The bytes of its file.
    fn json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Writes the record into `folder`, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(RECORD);
        replace(&path, &folder.join(format!("{RECORD}.partial")), &self.json()?)
            .map_err(|error| Error::io(WRITE, &path, error))
    }

    /// Whether the model with the digests `found` is the result.
    pub(super) fn is_of(&self, found: &ModelDigests) -> bool {
        self.model == Some(found.parameters) && self.files.is_none_or(|files| files == found.files)
    }

    /// The last value of the held-out loss whose name is `of`.
    pub fn nats(&self, of: &str) -> Option<f64> {
        self.held_out.iter().find(|loss| loss.of == of).map(|loss| loss.nats)
    }

    /// The checkpoints that are still in `folder`, the newest first.
    pub(super) fn kept(&self, folder: &Path) -> impl Iterator<Item = &Checkpoint> {
        self.checkpoints.iter().rev().filter(move |checkpoint| checkpoint.file(folder).is_file())
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

impl Checkpoint {
    /// Its folder, below that of the distillation.
    pub(super) fn folder(&self, of: &Path) -> PathBuf {
        checkpoint_folder(of, self.step)
    }

    /// Its file, whose digest it has.
    fn file(&self, of: &Path) -> PathBuf {
        self.folder(of).join(CHECKPOINT)
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

#[cfg(test)]
mod tests;
