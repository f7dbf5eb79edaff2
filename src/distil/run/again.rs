//! Taking steps again, to see whether they give the same bits.

use std::path::Path;

use super::{Distillation, TRAIN};
use crate::distil::order::Order;
use crate::distil::record::{DistilRecord, digests};
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

/// Takes `steps` steps of the recorded distillation again, or as many as were taken after the
/// oldest checkpoint that is there, and compares losses, checkpoints and, at the end, the model.
/// What is written goes into `scratch`, an empty folder.
///
/// # Errors
/// The folder holds no record of this plan, or no step after such a checkpoint; as the training
/// itself.
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
    let checkpoint = record.kept(&this.folder).filter(|checkpoint| checkpoint.step < taken).last();
    let from = checkpoint.map_or(0, |checkpoint| checkpoint.step);
    if from == taken {
        return Err(operator(ErrorKind::NotFound, "no step was taken after a checkpoint that is there"));
    }
    let mut trainer = this.open(checkpoint)?;
    let mut again = Again { from, steps: 0, other_loss: None, checkpoints: Vec::new(), model: None };
    let (mut done, last) = (from, taken.min(from.saturating_add(steps)));
    while let Some((number, within)) = record.plan.stage_of(done).filter(|_| done < last) {
        let stage = &record.plan.stages[number];
        if within == 0 && done > 0 {
            trainer = trainer.stage(&stage.engine, this.teacher(number).as_deref())?;
        }
        let mut order = Order::new(record.plan.seed, number, stage.conversations as usize);
        for step in within..stage.engine.steps.min(within + (last - done)) {
            cx.check(TRAIN)?;
            let rows = this.rows(number, step, &mut order, &trainer, &scratch.join("sampling"), cx)?;
            let loss = trainer.step(&rows)?.loss;
            done += 1;
            let recorded = record.losses[done as usize - 1];
            if loss.to_bits() != recorded.to_bits() {
                again.other_loss.get_or_insert(done);
            }
            if let Some(recorded) = record.checkpoints.iter().find(|checkpoint| checkpoint.step == done) {
                let digest = trainer.save(&scratch.join("checkpoint"))?;
                again.checkpoints.push((done, digest == recorded.digest));
            }
        }
    }
    again.steps = done - from;
    if done == record.plan.steps() && record.model.is_some() {
        let folder = scratch.join("model");
        trainer.export(&folder)?;
        again.model = Some(record.is_of(&digests(&folder)?));
    }
    Ok(again)
}
