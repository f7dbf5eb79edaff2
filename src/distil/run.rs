//! Training, stage by stage, so that a process that is killed anywhere goes on from its
//! newest checkpoint with the same bits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::config::{DistilConfig, Gate, Objective, StageSettings};
use super::data::View;
use super::gate::configured;
use super::order::Order;
use super::record::{
    Checkpoint, ClosedGate, DistilPlan, DistilRecord, GatePlan, HeldOutLoss, Metrics, MetricsFile,
    ModelDigests, ModelFacts, RECORD, StagePlan, State, checkpoint_folder, context, digests,
};
use super::sample::Sampler;
use crate::backends::burn::train::{Row, Settings, Step, Trainer};
use crate::config::DuelConfig;
use crate::digest::Hasher;
use crate::durable;
use crate::rng::derive_seed;
use crate::{BuildContext, CallContext, Clock, Error, ErrorKind, Fault, Result};

mod again;

pub use again::{Again, regenerate};

const PREPARE: &str = "prepare the distillation";
const TRAIN: &str = "distil";

/// What happens in a distillation, for people who watch it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Happening<'a> {
    /// The checkpoint after so many steps is damaged: an older one is taken, if there is one.
    Damaged(u64),
    /// It goes on after a stop, with this many steps done.
    Resumed(u64),
    /// A stage begins or goes on: its number, from 1, and its steps.
    Stage(usize, u64),
    /// A step was taken, of so many over all stages.
    Step(&'a Metrics, u64),
    /// The loss on held-out conversations was measured.
    Measured(&'a HeldOutLoss),
    /// A checkpoint was written after so many steps.
    Saved(u64),
    /// The result's behaviour is screened.
    Screening,
    /// The result duels its start.
    Duelling,
}

/// Who watches a distillation, from the thread that trains.
pub type Watcher = Arc<dyn Fn(&Happening<'_>) + Send + Sync>;

/// The same for a call.
pub(super) type Watch<'a> = &'a (dyn Fn(&Happening<'_>) + Send + Sync);

/// A distillation whose data are read and whose plan is frozen.
#[derive(Debug)]
pub struct Distillation {
    pub(super) config: DistilConfig,
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) plan: DistilPlan,
    view: View,
    /// The duel of the gate, if there is one.
    duel: Option<DuelConfig>,
    /// Samples the student's own replies, if a stage learns from them.
    sampler: Option<Sampler>,
}

/// What is known of a distillation before its data are read.
pub(super) struct Checked {
    student: ModelFacts,
    /// The teacher of each stage.
    pub(super) teachers: Vec<Option<ModelFacts>>,
    gate: GatePlan,
    /// The duel of the gate, if there is one.
    duel: Option<DuelConfig>,
}

impl Checked {
    /// Checks the settings of `config`, its models and its gate.
    ///
    /// # Errors
    /// As [`Distillation::prepare`], except those of the data.
    pub(super) fn of(config: &DistilConfig, cx: &BuildContext<'_>) -> Result<Self> {
        config.check(cx.registry())?;
        let folder = config.path(&config.student.path);
        let of_student = |error: Error| error.under("student.path");
        check_context(context(&folder).map_err(of_student)?, &folder, config)?;
        let student = ModelFacts::of(&folder).map_err(of_student)?;
        Trainer::check_models(&folder, None).map_err(of_student)?;
        let teachers = teachers(config, (&folder, &student))?;
        let (gate, duel) = match &config.gate {
            Gate::Open(open) => (GatePlan::Open(*open), None),
            Gate::Closed(gate) => {
                let duel = configured(config, gate)?;
                super::gate::check(config, duel.clone(), cx.registry())?;
                (GatePlan::Closed(ClosedGate::of(gate, &duel)?), Some(duel))
            }
        };
        Ok(Self { student, teachers, gate, duel })
    }
}

impl Distillation {
    /// Reads the data and the models that `config` names and freezes the plan. Nothing is
    /// written.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the data or the models' files; a teacher with
    /// another vocabulary; a length cap beyond what a model can read.
    pub async fn prepare(config: DistilConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let Checked { student, teachers, gate, duel } = Checked::of(&config, cx)?;
        let view = View::read(&config, cx).await?;
        let lengths = config.stage.iter().map(|stage| view.steps(stage, config.train.accumulate));
        let lengths: Vec<u64> = lengths.collect();
        config.check_length(&lengths)?;
        let mut stages = Vec::new();
        for (number, ((stage, teacher), steps)) in config.stage.iter().zip(teachers).zip(lengths).enumerate()
        {
            let engine = config.settings(stage, steps);
            let conversations = view.len(stage);
            let mut order = Order::new(config.train.seed, number, conversations);
            let mut read = Hasher::default();
            for step in 0..steps {
                for place in order.step(step, config.train.accumulate) {
                    read.update(view.name(stage, place));
                    read.update(b"\n");
                }
            }
            stages.push(StagePlan {
                // A model is its digests, wherever it is.
                settings: StageSettings { teacher: None, ..stage.clone() },
                engine,
                teacher,
                conversations: conversations as u64,
                order: read.finish(),
            });
        }
        let plan = DistilPlan {
            build: crate::build(),
            seed: config.train.seed,
            student,
            data: view.report.clone().without_paths(),
            stages,
            accumulate: config.train.accumulate,
            max_tokens: config.train.max_tokens,
            rename: config.data.rename,
            checkpoint_every: config.train.checkpoint_every,
            gate,
        };
        let folder = config.path(&config.student.out);
        let samples = config.stage.iter().any(|stage| stage.objective == Objective::OnPolicy);
        let sampler = if samples { Some(Sampler::build(cx).await?) } else { None };
        Ok(Self { config, folder, plan, view, duel, sampler })
    }

    /// What will be done.
    pub fn plan(&self) -> &DistilPlan {
        &self.plan
    }

    /// The folder of its record, its checkpoints and the model.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Trains, or goes on, exports the result and leads it through its gate. What is done
    /// already is not done again. The record says what came of it.
    ///
    /// # Errors
    /// The folder holds another distillation, or another process works in it; a loss that is
    /// not finite; a full disk; a duel that is void. In each case the last checkpoint is
    /// kept, and the same call goes on from it.
    pub async fn run(self, watch: Watcher, cx: &BuildContext<'_>) -> Result<DistilRecord> {
        let lock = self.lock()?;
        let mut record = self.record()?;
        if record.state != State::Running {
            return Ok(record);
        }
        let candidate = self.folder.join("candidate");
        let is_there = record.model.is_some() && digests(&candidate).is_ok_and(|own| record.is_of(&own));
        let this = Arc::new(self);
        if !is_there {
            let (worker, call, clock) = (Arc::clone(&this), cx.call().clone(), Arc::clone(cx.clock()));
            let shown = Arc::clone(&watch);
            let trained = tokio::task::spawn_blocking(move || {
                worker.train(&mut record, &*shown, &*clock, &call).map(|()| record)
            });
            record =
                trained.await.map_err(|error| Error::bug(TRAIN, error.to_string()).with_source(error))??;
        }
        match &this.config.gate {
            Gate::Open(_) => record.state = State::Exported,
            Gate::Closed(gate) => {
                let duel = this.duel.clone().ok_or_else(|| Error::bug(TRAIN, "the gate has no duel"))?;
                let report = super::gate::judge(&this, (gate, duel), &candidate, &*watch, cx).await?;
                record.state = if report.passed { State::Exported } else { State::Refused };
                record.gate = Some(report);
            }
        }
        if record.state == State::Exported {
            let model = this.folder.join("model");
            // A process that ended here has put it there before.
            if model.exists() {
                fs::remove_dir_all(&model).map_err(|error| Error::io(TRAIN, &model, error))?;
            }
            fs::rename(&candidate, &model).map_err(|error| Error::io(TRAIN, &model, error))?;
        }
        record.write(&this.folder)?;
        drop(lock);
        Ok(record)
    }

    /// Keeps other processes out of the folder while the file is open.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.folder).map_err(|error| Error::io(PREPARE, &self.folder, error))?;
        let path = self.folder.join("lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|error| Error::io(PREPARE, &path, error))?;
        durable::lock(PREPARE, &file, &path)?;
        Ok(file)
    }

    /// The record that the folder holds, if it is this plan's. A new one if the folder is empty, or
    /// holds only the record of another plan that has taken no step. Refuses any other folder: a record
    /// with steps is never replaced, not even if its checkpoints were moved away.
    fn record(&self) -> Result<DistilRecord> {
        let conflict = |message: &str| {
            Error::new(ErrorKind::Conflict, PREPARE, message)
                .with_fault(Fault::Operator)
                .with("folder", self.folder.display())
                .with_hint("choose another folder with `--out DIR` or `student.out`")
        };
        let others = fs::read_dir(&self.folder).map_err(|error| Error::io(PREPARE, &self.folder, error))?;
        let has_more = others
            .flatten()
            .map(|entry| entry.file_name())
            .any(|name| name != "lock" && name != RECORD && !name.to_string_lossy().ends_with(".partial"));
        match DistilRecord::read(&self.folder)? {
            Some(record) => {
                let differences = record.plan.differences(&self.plan);
                if differences.is_empty() {
                    return Ok(record);
                }
                if has_more || !record.losses.is_empty() || record.state != State::Running {
                    let error = conflict("the folder holds another distillation");
                    return Err(error.with("differs in", differences.join(", ")).with_hint(
                        "put back what was changed, or choose another folder with `--out DIR` or `student.out`",
                    ));
                }
            }
            None if has_more => return Err(conflict("the folder is not empty")),
            None => {}
        }
        let record = DistilRecord::new(self.plan.clone());
        record.write(&self.folder)?;
        Ok(record)
    }

    /// Takes the steps that are left and exports the result as `candidate/`.
    fn train(
        &self,
        record: &mut DistilRecord,
        watch: Watch<'_>,
        clock: &dyn Clock,
        cx: &CallContext,
    ) -> Result<()> {
        self.measure_models(record, watch, cx)?;
        let (mut trainer, mut done) = self.reopened(record, watch)?;
        record.truncate(done);
        if done > 0 {
            watch(&Happening::Resumed(done));
        }
        let mut metrics = MetricsFile::open(&self.folder, done)?;
        let mut pace = Pace { begun: clock.now(), tokens: 0, steps: 0 };
        let all = self.plan.steps();
        while let Some((number, within)) = self.plan.stage_of(done) {
            let stage = &self.plan.stages[number];
            if within == 0 && done > 0 {
                self.measure_stage(number - 1, &trainer, record, watch, cx)?;
                trainer = trainer.stage(&stage.engine, self.teacher(number).as_deref())?;
            }
            watch(&Happening::Stage(number + 1, stage.engine.steps));
            let mut order = Order::new(self.plan.seed, number, stage.conversations as usize);
            for step in within..stage.engine.steps {
                if cx.is_cancelled() {
                    return Err(self.interrupted(&trainer, done, record, watch));
                }
                let rows = self.rows(number, step, &mut order, &trainer, &self.folder.join("sampling"), cx);
                let rows = match rows {
                    // Replies are sampled for a long time: an interrupt is mostly noticed there.
                    Err(error) if error.kind() == ErrorKind::Cancelled => {
                        return Err(self.interrupted(&trainer, done, record, watch));
                    }
                    rows => rows?,
                };
                let taken = trainer.step(&rows).map_err(|error| self.stopped(error, done + 1, record))?;
                if !taken.loss.is_finite() {
                    let error = Error::new(ErrorKind::Overflow, TRAIN, "the loss is not finite");
                    return Err(self.stopped(error, done + 1, record));
                }
                done += 1;
                record.losses.push(taken.loss);
                pace.add(&taken);
                let line = pace.metrics(done, number + 1, &taken, all, clock);
                metrics.add(&line)?;
                watch(&Happening::Step(&line, all));
                if self.plan.is_due(done) {
                    self.save(&trainer, done, record, watch)?;
                }
            }
        }
        self.measure_stage(self.plan.stages.len() - 1, &trainer, record, watch, cx)?;
        let exported = self.export(&trainer)?;
        (record.model, record.files) = (Some(exported.parameters), Some(exported.files));
        record.write(&self.folder)
    }

    /// The trainer after the newest checkpoint that is whole, and the steps before it; a new one if
    /// no checkpoint is there.
    ///
    /// # Errors
    /// Every checkpoint that is there is damaged.
    fn reopened(&self, record: &DistilRecord, watch: Watch<'_>) -> Result<(Trainer, u64)> {
        let mut damaged = None;
        for checkpoint in record.kept(&self.folder) {
            match self.open(Some(checkpoint)) {
                Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                    watch(&Happening::Damaged(checkpoint.step));
                    damaged = damaged.or(Some(error));
                }
                opened => return Ok((opened?, checkpoint.step)),
            }
        }
        match damaged {
            None => Ok((self.open(None)?, 0)),
            Some(error) => {
                let folder = self.folder.join("checkpoints");
                let hint = format!("delete the folder `{}`: the training begins anew", folder.display());
                Err(error.with_hint(hint))
            }
        }
    }

    /// The trainer after the steps that `checkpoint` holds.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] if it is damaged.
    fn open(&self, checkpoint: Option<&Checkpoint>) -> Result<Trainer> {
        // The step before tells the stage: its checkpoint is the stage's.
        let last = checkpoint.map_or(0, |checkpoint| checkpoint.step.saturating_sub(1));
        let number = self.plan.stage_of(last).map_or(0, |(number, _)| number);
        let student = self.config.path(&self.config.student.path);
        let engine = &self.plan.stages[number].engine;
        let mut trainer = Trainer::open(&student, engine, self.teacher(number).as_deref())?;
        if let Some(checkpoint) = checkpoint {
            trainer.resume(&checkpoint.folder(&self.folder), checkpoint.digest)?;
        }
        Ok(trainer)
    }

    /// The folder of the teacher of stage `number`, or of what it is compared with.
    fn teacher(&self, number: usize) -> Option<PathBuf> {
        if self.config.stage[number].objective == Objective::Dpo {
            return Some(self.config.path(&self.config.student.path));
        }
        self.config.stage[number].teacher.as_ref().map(|teacher| self.config.path(teacher))
    }

    /// What step `step` of stage `number` reads. What the student samples of it follows from
    /// `trainer`, which is written to `scratch` in between.
    fn rows(
        &self,
        number: usize,
        step: u64,
        order: &mut Order,
        trainer: &Trainer,
        scratch: &Path,
        cx: &CallContext,
    ) -> Result<Vec<Row>> {
        let stage = &self.config.stage[number];
        let places = order.step(step, self.plan.accumulate);
        let mut rows = Vec::new();
        let Some(sampler) = self.sampler.as_ref().filter(|_| stage.objective == Objective::OnPolicy) else {
            for place in places {
                rows.extend(self.view.rows(stage, place)?);
            }
            return Ok(rows);
        };
        let mut prompts = Vec::new();
        for place in places {
            prompts.push(self.view.prompt(stage, place)?);
        }
        let parts = [self.plan.seed, number as u64, step].map(u64::to_le_bytes);
        let seed = derive_seed("albedo distil samples of a step 1", &[&parts[0], &parts[1], &parts[2]]);
        let replies = sampler.replies(trainer, stage, prompts.clone(), seed, scratch, cx)?;
        for (prompt, reply) in prompts.iter().zip(&replies) {
            rows.extend(self.view.answered(prompt, reply)?);
        }
        Ok(rows)
    }

    /// Measures the student and the teachers, once.
    fn measure_models(&self, record: &mut DistilRecord, watch: Watch<'_>, cx: &CallContext) -> Result<()> {
        let mut models = BTreeMap::new();
        models.insert("student".to_owned(), self.config.path(&self.config.student.path));
        for (number, stage) in self.config.stage.iter().enumerate() {
            if matches!(stage.objective, Objective::Kd | Objective::OnPolicy)
                && let Some(teacher) = self.teacher(number)
            {
                models.insert(format!("teacher of stage {}", number + 1), teacher);
            }
        }
        for (of, folder) in models {
            if record.nats(&of).is_none() && !self.view.measured().is_empty() {
                let engine = Settings { pass_tokens: self.config.train.pass_tokens, ..Settings::default() };
                self.measure(&Trainer::open(&folder, &engine, None)?, of, record, watch, cx)?;
            }
        }
        record.write(&self.folder)
    }

    /// Measures `trainer` at the end of stage `number`, whose checkpoint is written: a stop
    /// within it takes no step away.
    fn measure_stage(
        &self,
        number: usize,
        trainer: &Trainer,
        record: &mut DistilRecord,
        watch: Watch<'_>,
        cx: &CallContext,
    ) -> Result<()> {
        let of = format!("stage {}", number + 1);
        if record.nats(&of).is_some() {
            return Ok(());
        }
        self.measure(trainer, of, record, watch, cx)
    }

    /// Measures `trainer`, and writes down what it has.
    fn measure(
        &self,
        trainer: &Trainer,
        of: String,
        record: &mut DistilRecord,
        watch: Watch<'_>,
        cx: &CallContext,
    ) -> Result<()> {
        if self.view.measured().is_empty() {
            return Ok(());
        }
        let nats = trainer.evaluate(self.view.measured(), cx).map_err(|error| match error.kind() {
            ErrorKind::Cancelled => error.with_hint("the same command goes on from what is written"),
            _ => error,
        })?;
        let loss = HeldOutLoss { of, nats };
        watch(&Happening::Measured(&loss));
        record.held_out.push(loss);
        record.write(&self.folder)
    }

    /// Writes a checkpoint, then the record that names it; older ones are deleted last.
    fn save(&self, trainer: &Trainer, done: u64, record: &mut DistilRecord, watch: Watch<'_>) -> Result<()> {
        let folder = checkpoint_folder(&self.folder, done);
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(|error| Error::io(TRAIN, parent, error))?;
        }
        let digest = trainer.save(&folder).map_err(|error| self.kept(error, record))?;
        // The checkpoint of an interrupt is forgotten: a run that nobody disturbed has none there.
        record.checkpoints.retain(|other| other.step != done && self.plan.is_due(other.step));
        record.checkpoints.push(Checkpoint { step: done, digest });
        record.write(&self.folder).map_err(|error| self.kept(error, record))?;
        self.sweep(record)?;
        watch(&Happening::Saved(done));
        Ok(())
    }

    /// Writes a checkpoint after an interrupt, unless the newest one has every step; gives the error that
    /// ends the run.
    fn interrupted(
        &self,
        trainer: &Trainer,
        done: u64,
        record: &mut DistilRecord,
        watch: Watch<'_>,
    ) -> Error {
        if record.checkpoints.last().map_or(0, |last| last.step) < done
            && let Err(error) = self.save(trainer, done, record, watch)
        {
            return error;
        }
        Error::cancelled(TRAIN)
            .with("steps", format!("{done} of {}", self.plan.steps()))
            .with_hint("the same command goes on from the checkpoint")
    }

    /// Deletes every checkpoint but the newest ones of `record`.
    fn sweep(&self, record: &DistilRecord) -> Result<()> {
        let newest = record.checkpoints.iter().rev().take(self.config.train.keep);
        let newest: BTreeSet<u64> = newest.map(|checkpoint| checkpoint.step).collect();
        let folder = self.folder.join("checkpoints");
        let entries = fs::read_dir(&folder).map_err(|error| Error::io(TRAIN, &folder, error))?;
        for entry in entries.flatten() {
            let step = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            let old = entry.path();
            if step.is_some_and(|step| !newest.contains(&step)) && old.is_dir() {
                fs::remove_dir_all(&old).map_err(|error| Error::io(TRAIN, &old, error))?;
            }
        }
        Ok(())
    }

    /// Writes the result into `candidate/`, whole or not at all; gives its digests.
    fn export(&self, trainer: &Trainer) -> Result<ModelDigests> {
        let (partial, candidate) = (self.folder.join("candidate.partial"), self.folder.join("candidate"));
        for folder in [&partial, &candidate] {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(|error| Error::io(TRAIN, folder, error))?;
            }
        }
        trainer.export(&partial)?;
        fs::rename(&partial, &candidate).map_err(|error| Error::io(TRAIN, &candidate, error))?;
        digests(&candidate)
    }

    /// `error`, which ended the training at `step`, with what is left of it.
    fn stopped(&self, error: Error, step: u64, record: &DistilRecord) -> Error {
        let error = self.kept(error.with("step of all stages", step), record);
        match error.kind() {
            ErrorKind::Overflow => {
                error.with_hint("lower `train.rate` and begin anew in another folder with `--out DIR`")
            }
            _ => error,
        }
    }

    /// `error` with the checkpoint that is kept.
    fn kept(&self, error: Error, record: &DistilRecord) -> Error {
        match record.kept(&self.folder).next() {
            Some(checkpoint) => error.with("last checkpoint", checkpoint.folder(&self.folder).display()),
            None => error,
        }
    }
}

/// How fast the steps are taken.
struct Pace {
    begun: Duration,
    tokens: u64,
    steps: u64,
}

impl Pace {
    fn add(&mut self, step: &Step) {
        self.tokens += step.tokens;
        self.steps += 1;
    }

    fn metrics(&self, done: u64, stage: usize, step: &Step, all: u64, clock: &dyn Clock) -> Metrics {
        let seconds = clock.now().saturating_sub(self.begun).as_secs_f64().max(1e-6);
        Metrics {
            step: done,
            stage,
            loss: step.loss,
            gradient_norm: step.gradient_norm,
            rate: step.rate,
            tokens: step.tokens,
            supervised: step.supervised,
            tokens_per_second: self.tokens as f64 / seconds,
            seconds_left: seconds / self.steps.max(1) as f64 * all.saturating_sub(done) as f64,
        }
    }
}

/// The facts of the stages' teachers. `student` is its folder and its facts.
fn teachers(config: &DistilConfig, student: (&Path, &ModelFacts)) -> Result<Vec<Option<ModelFacts>>> {
    let mut teachers = Vec::new();
    for (number, stage) in config.stage.iter().enumerate() {
        let under = |error: Error| error.under(format_args!("stage[{number}]"));
        teachers.push(match &stage.teacher {
            None => None,
            Some(teacher) => {
                let folder = config.path(teacher);
                let context = context(&folder).map_err(|error| under(error.under("teacher")))?;
                check_context(context, &folder, config)?;
                Some(teacher_facts(&folder, student).map_err(under)?)
            }
        });
    }
    Ok(teachers)
}

/// Refuses a length cap beyond `context`, what the model in `folder` can read.
fn check_context(context: Option<u64>, folder: &Path, config: &DistilConfig) -> Result<()> {
    let cap = config.train.max_tokens;
    match context {
        Some(context) if context < cap as u64 => {
            let message = "the length cap is longer than what a model can read";
            Err(Error::new(ErrorKind::ConfigInvalid, PREPARE, message)
                .with("key", "train.max_tokens")
                .with("max_tokens", cap)
                .with("context", context)
                .with("model", folder.display())
                .with_hint("lower it to the context"))
        }
        _ => Ok(()),
    }
}

/// The facts of a teacher. Refuses one that has another vocabulary than the student, or that the engine
/// cannot run, before the first stage is trained.
fn teacher_facts(folder: &Path, student: (&Path, &ModelFacts)) -> Result<ModelFacts> {
    let facts = ModelFacts::of(folder).map_err(|error| error.under("teacher"))?;
    let (own, student) = student;
    if facts.vocabulary == student.vocabulary {
        Trainer::check_models(own, Some(folder)).map_err(|error| error.under("teacher"))?;
        return Ok(facts);
    }
    let message = "the teacher has another vocabulary than the student: its ids mean other texts";
    Err(Error::new(ErrorKind::Unsupported, PREPARE, message)
        .with_fault(Fault::Operator)
        .with("key", "teacher")
        .with("teacher", folder.display())
        .with_hint("choose a teacher with the student's tokenizer, or `objective = \"sft\"` on its replies"))
}
