//! Decoding: one token for every sequence, by replaying a CUDA graph of the whole step.

use albedo_core::{Error, Result, overflow};

use super::{Engine, OPERATION, Slots};
use crate::burn::cuda::device::Reading;
use crate::burn::cuda::kernels::rows::NONE;
use crate::burn::cuda::launch::{Places, splits};
use crate::burn::cuda::ops::Kind;
use crate::burn::requests::Chosen;
use crate::burn::sample::LogProbs;

/// Sizes of batch that have a graph, up to the largest that a session allows, which
/// has one too; a smaller batch is padded.
const BATCHES: [usize; 13] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// A decode step under way: the slots and numbers of its sequences, and the
/// tokens that it chooses.
pub(super) struct DecodeStep {
    sequences: Vec<(usize, u64)>,
    chosen: Reading<u32>,
    logits: Vec<WantedLogits>,
}

/// Of a sequence that wants log-probabilities: how many of the likeliest, and its logits.
type WantedLogits = Option<(u8, Reading<f32>)>;

impl Engine<'_> {
    /// Launches one more token for every sequence that is read, unless it has all of its
    /// tokens.
    pub(super) fn decode(&mut self) -> Result<Option<DecodeStep>> {
        let sequences: Vec<(usize, u64)> = (self.sequences.iter().enumerate())
            .filter_map(|(slot, sequence)| Some((slot, sequence.as_ref().filter(|it| it.writes())?.number)))
            .collect();
        if sequences.is_empty() {
            return Ok(None);
        }
        let slots: Vec<u32> = sequences.iter().map(|&(slot, _)| slot as u32).collect();
        // With room for those that are being read, which spares a graph for every size
        // that a batch has while it grows.
        let soon = self.sequences.iter().flatten().filter(|sequence| sequence.write.is_some()).count();
        let size = BATCHES.into_iter().find(|&size| size >= soon).unwrap_or(soon);
        let size = size.min(self.sequences.len());
        // The step under way may have added a token that is not known yet.
        let longest = self
            .sequences
            .iter()
            .flatten()
            .map(|sequence| splits(sequence.prompt.ids.len() + sequence.reply.tokens.len() + 1))
            .max()
            .unwrap_or(1);
        let splits = rounded(longest).min(self.most_splits());
        let working = self.model.ops().gpu().working();
        self.compile_for(size)?;
        let mut rows = slots.clone();
        rows.resize(size, self.sequences.len() as u32);
        if self.slots.decoded != rows {
            self.model.ops().gpu().write(&self.slots.rows, &rows);
            self.slots.decoded = rows;
        }
        drop(working);
        if !self.graphs.contains_key(&(size, splits)) {
            self.capture(size, splits)?;
        }
        let _working = self.model.ops().gpu().working();
        let graph = self.graphs.get(&(size, splits));
        graph.ok_or_else(|| Error::bug(OPERATION, "a graph was lost"))?.replay()?;
        let chosen = self.model.ops().gpu().read_later(&self.slots.chosen.first(2 * slots.len()));
        let logits = self.read_logits(&sequences)?;
        for &(slot, number) in &sequences {
            if let Some(sequence) = self.sequence(slot, number) {
                sequence.chosen += 1;
            }
        }
        Ok(Some(DecodeStep { sequences, chosen, logits }))
    }

    /// Starts copying back the logits of those of the batch's `sequences` that want
    /// log-probabilities.
    fn read_logits(&self, sequences: &[(usize, u64)]) -> Result<Vec<WantedLogits>> {
        let ops = self.model.ops();
        let (vocabulary, logits) = (ops.vocabulary(), ops.logits()?);
        let read = |(row, &(slot, _)): (usize, &(usize, u64))| {
            let likeliest = self.sequences[slot].as_ref()?.write?.log_probs?;
            Some((likeliest, ops.gpu().read_later(&logits.range(row * vocabulary, vocabulary))))
        };
        Ok(sequences.iter().enumerate().map(read).collect())
    }

    /// Seconds that the device alone takes for a decode step of `size` rows, the mean
    /// of `steps` from `position` on.
    #[cfg(test)]
    pub(in crate::burn::cuda) fn measure_step(
        &mut self,
        size: usize,
        position: usize,
        steps: usize,
    ) -> Result<f64> {
        use crate::burn::cuda::kernels::attention::PAGE;
        let gpu = self.model.ops().gpu();
        let working = gpu.working();
        self.compile_for(size)?;
        drop(working);
        let (positions, pages) = (vec![position as u32; size], (position + steps) / PAGE + 1);
        for slot in 0..size {
            let pages: Vec<u32> = (0..pages).map(|page| (slot * pages + page) as u32).collect();
            gpu.write(&self.slots.table.range(slot * self.slots.stride, pages.len()), &pages);
        }
        gpu.write(&self.slots.rows, &(0..size as u32).collect::<Vec<_>>());
        gpu.write(&self.slots.settings.positions, &positions);
        let splits = splits(position + steps);
        self.capture(size, splits)?;
        let graph = &self.graphs[&(size, splits)];
        let gpu = self.model.ops().gpu();
        graph.replay()?;
        gpu.sync()?;
        gpu.write(&self.slots.settings.positions, &positions);
        let start = std::time::Instant::now();
        for _ in 0..steps {
            graph.replay()?;
        }
        gpu.sync()?;
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }

    /// Captures a decode step. Capturing runs the step once, so tokens, positions and
    /// lengths are put back.
    fn capture(&mut self, size: usize, splits: usize) -> Result<()> {
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let Slots { settings, .. } = &self.slots;
        let working = gpu.working();
        let before =
            (gpu.read(&settings.tokens)?, gpu.read(&settings.positions)?, gpu.read(&settings.lengths)?);
        drop(working);
        let graph = gpu.capture(|| self.launch(size, splits));
        let _working = gpu.working();
        gpu.write(&settings.tokens, &before.0);
        gpu.write(&settings.positions, &before.1);
        gpu.write(&settings.lengths, &before.2);
        self.graphs.insert((size, splits), graph?);
        Ok(())
    }

    /// Launches a decode step of the first `size` rows.
    pub(super) fn launch(&self, size: usize, splits: usize) -> Result<()> {
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let Slots { settings, table, stride, rows, ids, positions, chosen, .. } = &self.slots;
        let rows = rows.first(size);
        let padding = self.sequences.len() as u32;
        gpu.decode_inputs(&rows, &settings.tokens, &settings.positions, ids, positions, padding)?;
        let places = Places {
            positions: positions.clone(),
            slots: rows.clone(),
            pages: table.clone(),
            stride: *stride,
        };
        let mut step = ops.step(size, ids.clone(), places, Kind::Decode { splits })?;
        if let Some(logits) = self.model.forward(&mut step)? {
            gpu.sample(&logits, &rows, &step.faults, settings, chosen, ops.vocabulary())?;
        }
        Ok(())
    }

    /// Waits for the tokens of a step and hands them out.
    pub(super) fn take_chosen(&mut self, step: DecodeStep) -> Result<()> {
        let chosen = step.chosen.wait()?;
        let rows = step.sequences.into_iter().zip(chosen.chunks_exact(2)).zip(step.logits);
        for (((slot, number), chosen), logits) in rows {
            let wait = |(likeliest, logits): (u8, Reading<f32>)| logits.wait().map(|read| (likeliest, read));
            let logits = logits.map(wait).transpose()?;
            // A sequence that ended in the step before has no use for it.
            let Some(sequence) = self.sequence(slot, number) else { continue };
            if chosen[0] == NONE {
                let read = sequence.reply.prompt_tokens + sequence.reply.tokens.len() - 1;
                self.retire(slot, Err(self.not_finite(overflow::Step::Reply, read, chosen[1])));
                continue;
            }
            let log_probs = logits.map(|(likeliest, logits)| LogProbs::of(&logits, chosen[0], likeliest));
            self.add(slot, &Chosen { token: chosen[0], logit_gap: None, log_probs });
        }
        Ok(())
    }
}

/// Splits for which there is a graph: powers of 2, and half-way between.
fn rounded(splits: usize) -> usize {
    let power = splits.next_power_of_two();
    if splits <= power / 4 * 3 { (power / 4 * 3).max(1) } else { power }
}
