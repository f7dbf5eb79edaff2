//! Launches of what reads logits: choosing tokens, and scoring given ones.

use albedo_core::Result;
use cubecl::prelude::CubeDim;

use super::{cubes, require};
use crate::burn::cuda::device::{Buffer, Gpu};
use crate::burn::cuda::kernels::sample::{UNITS, log_prob, sample};

/// What every slot of the batch has on the device.
#[derive(Debug, Clone)]
pub(in crate::burn::cuda) struct SlotSettings {
    pub(in crate::burn::cuda) temperatures: Buffer<f32>,
    pub(in crate::burn::cuda) top_ps: Buffer<f32>,
    pub(in crate::burn::cuda) top_ks: Buffer<u32>,
    /// Two words per slot.
    pub(in crate::burn::cuda) seeds: Buffer<u32>,
    /// Tokens of the reply so far.
    pub(in crate::burn::cuda) lengths: Buffer<u32>,
    /// The last token.
    pub(in crate::burn::cuda) tokens: Buffer<u32>,
    /// The position of the next token.
    pub(in crate::burn::cuda) positions: Buffer<u32>,
}

impl Gpu {
    /// Chooses the next token of every row, as the settings of its slot say.
    pub(in crate::burn::cuda) fn sample(
        &self,
        logits: &Buffer<f32>,
        rows: &Buffer<u32>,
        faults: &Buffer<u32>,
        slots: &SlotSettings,
        chosen: &Buffer<u32>,
        vocabulary: usize,
    ) -> Result<()> {
        require("logits", logits, rows.len() * vocabulary)?;
        require("faults", faults, rows.len())?;
        require("chosen", chosen, 2 * rows.len())?;
        // SAFETY: sizes are checked above; `rows` holds slots.
        unsafe {
            sample::launch_unchecked(
                self.client(),
                cubes(rows.len()),
                CubeDim::new_1d(UNITS),
                logits.arg(1),
                rows.arg(1),
                faults.arg(1),
                slots.temperatures.arg(1),
                slots.top_ps.arg(1),
                slots.top_ks.arg(1),
                slots.seeds.arg(1),
                slots.lengths.arg(1),
                slots.tokens.arg(1),
                chosen.arg(1),
                vocabulary as u32,
            );
        }
        Ok(())
    }

    /// What the log-probabilities of `targets` are made of: two numbers per row.
    pub(in crate::burn::cuda) fn log_prob(
        &self,
        logits: &Buffer<f32>,
        targets: &Buffer<u32>,
        out: &Buffer<f32>,
        vocabulary: usize,
    ) -> Result<()> {
        require("logits", logits, targets.len() * vocabulary)?;
        require("out", out, 2 * targets.len())?;
        // SAFETY: sizes are checked above; targets are ids or absent.
        unsafe {
            log_prob::launch_unchecked(
                self.client(),
                cubes(targets.len()),
                CubeDim::new_1d(UNITS),
                logits.arg(1),
                targets.arg(1),
                out.arg(1),
                vocabulary as u32,
            );
        }
        Ok(())
    }
}
