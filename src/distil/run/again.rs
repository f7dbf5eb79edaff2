//! Taking steps again, to see whether they give the same bits.

use std::path::Path;

use super::{Distillation, TRAIN};
use crate::distil::order::Order;
use crate::distil::record::{DistilRecord, parameters};
use crate::{CallContext, Error, ErrorKind, Fault, Result};

/// What came of steps that were taken again.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Again {
    /// Steps before the checkpoint that it began with.
    pub from: u64,
    /// Steps taken.
    pub steps: u64,
    /// The first step whose loss has other bits.
    pub other_loss: Option<u64>,
    /// Steps after which a checkpoint was compared, and whether it has the recorded digest.
    pub checkpoints: Vec<(u64, bool)>,
    /// Whether the parameters after the last step are the recorded ones, if it was reached.
    pub model: Option<bool>,
}

impl Again {
    /// Whether everything was the same.
    pub fn is_same(&self) -> bool {
        let checkpoints = self.checkpoints.iter().all(|(_, same)| *same);
        self.other_loss.is_none() && checkpoints && self.model != Some(false)
    }
}

/// Takes `steps` steps of the recorded distillation again, from the oldest checkpoint that is
/// there and has steps ahead in its stage, and compares losses, checkpoints and, at the end,
/// the model. What is written goes into `scratch`, an empty folder.
///
/// # Errors
/// The folder holds no record of this plan, or no such checkpoint; as the training itself.
pub fn regenerate(this: &Distillation, steps: u64, scratch: &Path, cx: &CallContext) -> Result<Again> {
    let operator = |kind, message: &str| {
        let error = Error::new(kind, "train again", message).with_fault(Fault::Operator);
        error.with("folder", this.folder.display())
    };
    let record = DistilRecord::read(&this.folder)?
        .ok_or_else(|| operator(ErrorKind::NotFound, "the folder holds no record of a distillation"))?;
    let differences = record.plan.differences(&this.plan);
    if !differences.is_empty() {
        return Err(operator(ErrorKind::Conflict, "the folder holds another distillation")
            .with("differs in", differences.join(", "))
            .with_hint("give the configuration, the data and the build that it was made with"));
    }
    let taken = record.losses.len() as u64;
    let ahead = |step: u64| record.plan.stage_of(step).filter(|(_, within)| *within > 0 && step < taken);
    let checkpoint = record
        .checkpoints
        .iter()
        .find(|checkpoint| checkpoint.folder(&this.folder).is_dir() && ahead(checkpoint.step).is_some());
    let from = checkpoint.map_or(0, |checkpoint| checkpoint.step);
    let Some((number, within)) = record.plan.stage_of(from).filter(|_| taken > from) else {
        return Err(operator(ErrorKind::NotFound, "no step was taken after a checkpoint that is there"));
    };
    let mut trainer = this.open(if within == 0 { 0 } else { from }, checkpoint)?;
    let stage = &record.plan.stages[number];
    let mut order = Order::new(record.plan.seed, number, stage.conversations as usize);
    let last = stage.engine.steps.min(within + steps).min(within + taken - from);
    let mut again = Again { from, steps: 0, other_loss: None, checkpoints: Vec::new(), model: None };
    for step in within..last {
        cx.check(TRAIN)?;
        let loss = trainer
            .step(&this.rows(number, step, &mut order, &trainer, &scratch.join("sampling"), cx)?)?
            .loss;
        again.steps += 1;
        let done = from + again.steps;
        let recorded = record.losses[done as usize - 1];
        if loss.to_bits() != recorded.to_bits() {
            again.other_loss.get_or_insert(done);
        }
        if let Some(recorded) = record.checkpoints.iter().find(|checkpoint| checkpoint.step == done) {
            let digest = trainer.save(&scratch.join("checkpoint"))?;
            again.checkpoints.push((done, digest == recorded.digest));
        }
    }
    if from + again.steps == record.plan.steps()
        && let Some(model) = record.model
    {
        let folder = scratch.join("model");
        trainer.export(&folder)?;
        again.model = Some(parameters(&folder)? == model);
    }
    Ok(again)
}
