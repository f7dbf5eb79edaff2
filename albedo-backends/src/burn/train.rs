//! Training a Qwen3 model on the CPU: cross-entropy or distillation from a teacher, in
//! `f32`, with the same bits on every run.

use std::path::{Path, PathBuf};

use albedo_core::rng::{Stream, Use, derive_seed};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Reach, Result};
use burn::tensor::Device;

pub use self::files::CHECKPOINT;
pub use self::settings::{
    Decay, Distil, Divergence, Dpo, Lora, MAX_RANK, MAX_STEPS, Objective, Optimizer, Precision, Settings,
};

use self::decoder::{Decoder, Pass, Target};
use self::head::Teacher;
use self::optimizer::State;
use self::params::{Gradients, Params};
use super::config::Qwen3Config;

mod attention;
mod decoder;
mod files;
mod head;
mod kernels;
mod matrix;
mod optimizer;
mod params;
mod settings;

#[cfg(test)]
mod tests;

const OPERATION: &str = "train the model";
const EVALUATE: &str = "evaluate the model";

/// One text to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Token ids, at least one.
    pub ids: Vec<u32>,
    /// The weight of the loss of predicting `ids[i]` from the ids before it, 0 or more; as
    /// many as there are ids. `weights[0]` is 0, since nothing is before it.
    pub weights: Vec<f32>,
}

/// What one step of the optimizer did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Which step it was; the first is 1.
    pub step: u64,
    /// The loss before the step, in nats per weighted token: cross-entropy, or the
    /// divergence from the teacher.
    pub loss: f64,
    /// The Euclidean norm of the whole gradient, before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the step: [`Settings::rate`] times the schedule's share.
    pub rate: f64,
    /// Tokens that the student read.
    pub tokens: u64,
    /// Tokens with a weight above 0.
    pub supervised: u64,
}

/// A student in training, with its teacher if it has one.
///
/// Weights are kept in `f32`. All sums are taken in an order that the rows alone decide, so
/// the same rows give the same bits on every run and with any number of threads of one
/// machine. Calls block and use all threads of the process's pool.
#[derive(Debug)]
pub struct Trainer {
    /// The folder of the student, whose text is exported with it.
    source: PathBuf,
    config: Qwen3Config,
    device: Device,
    params: Params,
    states: Vec<State>,
    steps: u64,
    settings: Settings,
    teacher: Option<(Decoder, Distil)>,
}

impl Trainer {
    /// Refuses, without reading weights, models that [`Trainer::open`] could not train with: reads the
    /// configuration of the student and of its teacher, and compares their vocabularies.
    ///
    /// # Errors
    /// What [`Trainer::open`] says of such a model: no `config.json`, a malformed one, an architecture
    /// that is not Qwen3. [`ErrorKind::ConfigInvalid`], with the first difference, for a teacher with
    /// another vocabulary.
    pub fn check_models(student: &Path, teacher: Option<&Path>) -> Result<()> {
        let config = Qwen3Config::load(student)?;
        let Some(teacher) = teacher else { return Ok(()) };
        let others = Qwen3Config::load(teacher)?;
        files::require_same_vocabulary((student, &config), (teacher, &others))
    }

    /// Loads the student, and the teacher of a distillation.
    ///
    /// # Errors
    /// Settings out of range; an objective that lacks its teacher, or a teacher that no
    /// objective needs; a teacher with another vocabulary; whatever loading a model meets.
    pub fn open(student: &Path, settings: &Settings, teacher: Option<&Path>) -> Result<Self> {
        settings.check()?;
        let config = Qwen3Config::load(student)?;
        let device = Device::flex();
        let teacher = load_teacher(settings, teacher, (student, &config), &device)?;
        let mut params = Params::load(student, &config)?;
        if let Some(lora) = settings.lora {
            params.adapt(lora, settings.seed);
        }
        Ok(Self {
            source: student.to_owned(),
            states: optimizer::states(params.trained(), settings),
            config,
            device,
            params,
            steps: 0,
            settings: settings.clone(),
            teacher,
        })
    }

    /// Begins another stage: the weights stay as they are, in `f32`; the optimizer's state
    /// and the count of steps start afresh. Adapters of the stage before are merged.
    ///
    /// # Errors
    /// As [`Trainer::open`].
    pub fn stage(self, settings: &Settings, teacher: Option<&Path>) -> Result<Self> {
        settings.check()?;
        let teacher = load_teacher(settings, teacher, (&self.source, &self.config), &self.device)?;
        let mut params = Params { list: self.params.merged(&self.device)?, adapters: None };
        if let Some(lora) = settings.lora {
            params.adapt(lora, settings.seed);
        }
        Ok(Self {
            states: optimizer::states(params.trained(), settings),
            params,
            steps: 0,
            settings: settings.clone(),
            teacher,
            ..self
        })
    }

    /// Takes one step of the optimizer on `rows`: the loss is the mean over all their
    /// tokens, by weight, however they are cut into passes. With [`Objective::Dpo`] rows come
    /// in pairs, the better reply first, and the loss is the mean over pairs.
    ///
    /// # Errors
    /// No row, or no weight above 0; a row that is longer than the model's context, has an
    /// id beyond the vocabulary or weights that do not fit; a loss or gradient that is not
    /// finite, with the step. After an error nothing has changed.
    pub fn step(&mut self, rows: &[Row]) -> Result<Step> {
        let step = self.steps + 1;
        let mut batch = self.batch(rows).map_err(|error| error.with("step", step))?;
        if self.settings.shuffled {
            batch.shuffle(self.settings.seed, step);
        }
        let (loss, gradients) = match self.settings.objective {
            Objective::Dpo(dpo) => {
                let loss = self.prefer(&mut batch, rows.len(), dpo)?;
                (loss, self.gradients(&batch)?.1)
            }
            _ => self.gradients(&batch)?,
        };
        let gradient_norm = optimizer::norm(&gradients);
        for (what, value) in [("loss", loss), ("gradient", gradient_norm)] {
            if !value.is_finite() {
                return Err(Error::new(ErrorKind::Overflow, OPERATION, format!("the {what} is not finite"))
                    .with_reach(Reach::Duel)
                    .with("step", step)
                    .with_hint("lower the learning rate, and go on from the last checkpoint"));
            }
        }
        let clip = self.settings.clip;
        let scale = if clip > 0.0 && gradient_norm > clip { clip / gradient_norm } else { 1.0 };
        optimizer::update(
            self.params.trained_mut(),
            &mut self.states,
            &gradients,
            scale,
            step,
            &self.settings,
            &self.device,
        )?;
        self.steps = step;
        let rate = self.settings.rate * optimizer::schedule(&self.settings, step);
        Ok(Step { step, loss, gradient_norm, rate, tokens: batch.tokens, supervised: batch.supervised })
    }

    /// The cross-entropy of the student on `rows`, in nats per weighted token. Nothing
    /// changes.
    ///
    /// # Errors
    /// As [`Trainer::step`]; an end of the call `cx`, which is noticed between passes.
    pub fn evaluate(&self, rows: &[Row], cx: &CallContext) -> Result<f64> {
        let batch = self.batch(rows)?;
        let student = self.params.decoder(&self.config, &self.device)?;
        let mut sum = 0.0;
        for pass in &batch.passes {
            cx.check(EVALUATE)?;
            let residual = student.forward(pass, None)?;
            sum += head::loss(&student, &residual, pass, None)?;
        }
        let loss = sum / batch.weight;
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(Error::new(ErrorKind::Overflow, EVALUATE, "the loss is not finite")
            .with_reach(Reach::Duel)
            .with("step", self.steps)
            .with_hint("go back to an older checkpoint, and lower the learning rate"))
    }

    /// Steps taken in this stage.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The settings of this stage.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// The longest row that student and teacher can read, in tokens.
    pub fn context(&self) -> usize {
        let own = self.config.max_position_embeddings;
        let others = self.teacher.as_ref().map(|(decoder, _)| decoder.config.max_position_embeddings);
        others.map_or(own, |others| own.min(others))
    }

    /// Writes a checkpoint to `folder`: weights, the optimizer's state and the step. A crash
    /// leaves the checkpoint that was there before, or this one. Returns the digest of its file,
    /// [`CHECKPOINT`]: two trainers with the same bits have the same.
    ///
    /// # Errors
    /// A weight that is not finite; the operating system's, for example of a full disk. The
    /// older checkpoint is then kept.
    pub fn save(&self, folder: &Path) -> Result<Digest> {
        files::save(folder, &self.params, &self.states, self.steps, &self.settings)
    }

    /// Goes on from the checkpoint in `folder`, with the same bits as without a stop. `saved` is
    /// what [`Trainer::save`] gave: no byte of the checkpoint is used if it has another digest.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] for a checkpoint that is damaged, or another one; a
    /// checkpoint that is missing, of another model or of other settings. The trainer is then
    /// as before.
    pub fn resume(&mut self, folder: &Path, saved: Digest) -> Result<()> {
        let read = files::resume(folder, saved, &self.params, &self.states, &self.settings)?;
        (self.params, self.states, self.steps) = (read.params, read.states, read.steps);
        Ok(())
    }

    /// Writes the student to `folder` as Hugging Face's tools expect it:
    /// `model.safetensors` in bf16 with adapters merged, `config.json`, and the tokenizer's
    /// and template's files of the student that was opened.
    ///
    /// # Errors
    /// The operating system's; a weight beyond the range of bf16.
    pub fn export(&self, folder: &Path) -> Result<()> {
        self.export_as(folder, Precision::Bf16)
    }

    /// As [`Trainer::export`], in a data type of choice.
    ///
    /// # Errors
    /// As [`Trainer::export`].
    pub fn export_as(&self, folder: &Path, precision: Precision) -> Result<()> {
        files::export(folder, &self.source, &self.params.merged(&self.device)?, precision)
    }

    /// The mean loss of `batch`, and what it means for the parameters that are trained.
    fn gradients(&self, batch: &Batch) -> Result<(f64, Gradients)> {
        let student = self.params.decoder(&self.config, &self.device)?;
        let mut gradients = params::zeros(&self.params.list);
        let mut sum = 0.0;
        for pass in &batch.passes {
            let others = match (&self.teacher, self.settings.objective) {
                (Some((decoder, distil)), Objective::Distil(_)) => {
                    Some((decoder, *distil, decoder.forward(pass, None)?))
                }
                _ => None,
            };
            let teacher = others.as_ref().map(|(decoder, distil, residual)| Teacher {
                decoder,
                residual,
                distil: *distil,
            });
            let mut kept = Vec::new();
            let residual = student.forward(pass, Some(&mut kept))?;
            let (loss, dx) =
                head::loss_and_gradient(&student, &residual, pass, teacher, batch.weight, &mut gradients)?;
            sum += loss;
            student.backward(pass, kept, dx, &mut gradients)?;
        }
        Ok((sum / batch.weight, self.params.project(gradients, &self.device)?))
    }

    /// The loss of the pairs in `batch`, of which there are half as many as `rows`. Weights
    /// become what the loss of each token counts in its gradient: less than 0 in the worse
    /// reply.
    fn prefer(&self, batch: &mut Batch, rows: usize, dpo: Dpo) -> Result<f64> {
        let (reference, _) = self
            .teacher
            .as_ref()
            .ok_or_else(|| Error::bug(OPERATION, "there is no reference to compare with"))?;
        let student = self.params.decoder(&self.config, &self.device)?;
        // By how much likelier each reply is than to the reference, in nats.
        let mut gains = vec![0.0; rows];
        let mut learnt = vec![false; rows];
        for pass in &batch.passes {
            let own = head::losses(&student, &student.forward(pass, None)?, pass)?;
            let others = head::losses(reference, &reference.forward(pass, None)?, pass)?;
            for ((target, own), other) in pass.targets.iter().zip(own).zip(others) {
                gains[target.row] += f64::from(target.weight) * (other - own);
                learnt[target.row] = true;
            }
        }
        if !rows.is_multiple_of(2) || learnt.contains(&false) {
            return Err(invalid("the rows are no pairs of replies")
                .with_hint("give two rows for each pair, both with a token to learn"));
        }
        let (mut sum, mut slopes) = (0.0, Vec::new());
        for pair in gains.chunks_exact(2) {
            let apart = dpo.beta * (pair[0] - pair[1]);
            // softplus(-x), and the slope of it, without an overflow.
            sum += (-apart).max(0.0) + (-apart.abs()).exp().ln_1p();
            slopes.push(dpo.beta / (1.0 + apart.exp()));
        }
        for target in batch.passes.iter_mut().flat_map(|pass| &mut pass.targets) {
            let slope = slopes[target.row / 2] as f32;
            target.weight *= if target.row.is_multiple_of(2) { slope } else { -slope };
        }
        batch.weight = slopes.len() as f64;
        Ok(sum / batch.weight)
    }

    /// Checks rows and packs them, in their order, into passes.
    fn batch(&self, rows: &[Row]) -> Result<Batch> {
        let mut batch = Batch { passes: Vec::new(), weight: 0.0, tokens: 0, supervised: 0 };
        for (number, row) in rows.iter().enumerate() {
            self.check(row).map_err(|error| error.with("row", number))?;
            // Nothing is learnt of what comes after the last weight.
            let Some(last) = row.weights.iter().rposition(|weight| *weight > 0.0) else { continue };
            let most = self.settings.pass_tokens;
            if batch.passes.last().is_none_or(|pass| pass.ids.len() + last > most) {
                batch.passes.push(Pass::default());
            }
            let Some(pass) = batch.passes.last_mut() else { continue };
            let start = pass.ids.len();
            pass.ids.extend_from_slice(&row.ids[..last]);
            pass.segments.push(start..start + last);
            for (index, (&id, &weight)) in row.ids.iter().zip(&row.weights).enumerate() {
                if weight > 0.0 {
                    let position = start + index - 1;
                    pass.targets.push(Target { position, source: position, id, weight, row: number });
                    batch.weight += f64::from(weight);
                    batch.supervised += 1;
                }
            }
            batch.tokens += last as u64;
        }
        if batch.weight > 0.0 {
            return Ok(batch);
        }
        let message = if rows.is_empty() { "the batch has no row" } else { "no token has a weight above 0" };
        Err(invalid(message).with_hint("give at least one row with a token to learn"))
    }

    fn check(&self, row: &Row) -> Result<()> {
        let Row { ids, weights } = row;
        if ids.len() != weights.len() {
            return Err(invalid(format!("the row has {} ids and {} weights", ids.len(), weights.len())));
        }
        let context = self.context();
        if ids.len() > context {
            return Err(invalid(format!("the row has {} tokens, the context {context}", ids.len()))
                .with_hint("cut the row, or leave it out"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocab_size) {
            return Err(invalid(format!(
                "the id {id} is beyond the vocabulary of {}",
                self.config.vocab_size
            ))
            .with_hint("encode the row with the student's tokenizer"));
        }
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(invalid(format!("a weight is {weight}, it must be 0 or more")));
        }
        if weights.first().is_some_and(|weight| *weight > 0.0) {
            return Err(invalid("the first token has a weight, but nothing is before it")
                .with_hint("set `weights[0]` to 0"));
        }
        Ok(())
    }
}

/// Rows, as they go through the model.
struct Batch {
    passes: Vec<Pass>,
    /// The sum of all weights.
    weight: f64,
    tokens: u64,
    supervised: u64,
}

impl Batch {
    /// Exchanges what is to be learnt among the targets of each pass (Fisher and Yates'
    /// shuffle), by seed, step and pass.
    fn shuffle(&mut self, seed: u64, step: u64) {
        for (number, pass) in self.passes.iter_mut().enumerate() {
            let parts = [seed, step, number as u64].map(u64::to_le_bytes);
            let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
            let mut stream = Stream::new(derive_seed("albedo shuffled labels 1", &parts), Use::RowDraw);
            let mut learnt: Vec<_> = pass.targets.iter().map(|target| (target.source, target.id)).collect();
            for last in (1..learnt.len()).rev() {
                learnt.swap(last, stream.below(last as u64 + 1) as usize);
            }
            for (target, learnt) in pass.targets.iter_mut().zip(learnt) {
                (target.source, target.id) = learnt;
            }
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message).with_fault(Fault::Operator)
}

/// The teacher that the objective asks for.
fn load_teacher(
    settings: &Settings,
    teacher: Option<&Path>,
    student: (&Path, &Qwen3Config),
    device: &Device,
) -> Result<Option<(Decoder, Distil)>> {
    match (settings.objective, teacher) {
        (Objective::Sft, None) => Ok(None),
        (Objective::Sft, Some(_)) => {
            Err(settings::invalid("objective", "the objective `sft` has no teacher, but one is given")
                .with_hint("leave the teacher out, or set `objective = { distil = {} }`"))
        }
        (Objective::Distil(_), None) => {
            Err(settings::invalid("objective", "the objective `distil` needs a teacher")
                .with_hint("name the folder of a teacher"))
        }
        (Objective::Dpo(_), None) => {
            Err(settings::invalid("objective", "the objective `dpo` needs a reference")
                .with_hint("name the folder of the model that the student began as"))
        }
        (Objective::Distil(_) | Objective::Dpo(_), Some(folder)) => {
            let distil = match settings.objective {
                Objective::Distil(distil) => distil,
                _ => Distil::default(),
            };
            let config = Qwen3Config::load(folder)?;
            files::require_same_vocabulary(student, (folder, &config))?;
            let params = Params::load(folder, &config)?;
            Ok(Some((Decoder::new(&config, &params.list, device), distil)))
        }
    }
}
