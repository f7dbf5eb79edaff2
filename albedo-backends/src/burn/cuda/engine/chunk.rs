//! Chunks: rows of prompts that go through the layers together.

use albedo_core::{LogitsReader as _, Result, TokenScores, overflow};

use super::Engine;
use crate::burn::cuda::device::{Buffer, Reading};
use crate::burn::cuda::kernels::attention::PAGE;
use crate::burn::cuda::kernels::attention::prefill::TILE;
use crate::burn::cuda::kernels::rows::{NONE, TOGETHER};
use crate::burn::cuda::launch::{Places, splits};
use crate::burn::cuda::ops::{Kind, Step, WidePages};
use crate::burn::requests::Chosen;
use crate::burn::sample::LogProbs;

/// A chunk of prompts.
#[derive(Default)]
struct Chunk {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    tiles: Vec<u32>,
    /// The pages that its sequences see, where they are widened for it.
    pages: Vec<Vec<u32>>,
    wanted: Vec<Wanted>,
    sequences: Vec<Part>,
}

/// What a chunk has of a sequence.
struct Part {
    slot: usize,
    number: u64,
    /// How far it is read after this chunk.
    read: usize,
    /// Whether that is all there is to read.
    ends: bool,
}

/// A chunk under way, and what comes back of it.
pub(super) struct ChunkStep {
    chunk: Chunk,
    results: Results,
}

enum Results {
    /// Of the rows whose logits are wanted, two numbers each: what their log-probabilities
    /// are made of, and the token chosen with the row's fault; and all logits, if
    /// somebody wants to see them.
    Wanted { scores: Reading<f32>, chosen: Reading<u32>, logits: Option<Reading<f32>> },
    /// None are: something to wait for.
    Nothing(Reading<u32>),
}

impl Chunk {
    /// A row that belongs to no sequence, but to `slot`, that of the padding.
    fn push_padding(&mut self, slot: usize) {
        self.ids.push(0);
        self.positions.push(0);
        self.slots.push(slot as u32);
    }

    /// The pages that are widened, which of those are whose, `[sequence, stride]`, and the
    /// stride.
    fn wide_pages(&self) -> (Vec<u32>, Vec<u32>, usize) {
        let stride = self.pages.iter().map(Vec::len).max().unwrap_or(0);
        let mut table = vec![0; stride * self.pages.len()];
        let mut copies = 0..;
        for (sequence, pages) in self.pages.iter().enumerate() {
            for (place, copy) in table[sequence * stride..].iter_mut().zip(copies.by_ref().take(pages.len()))
            {
                *place = copy;
            }
        }
        (self.pages.concat(), table, stride)
    }
}

/// A row whose logits are wanted.
struct Wanted {
    row: u32,
    slot: u32,
    number: u64,
    position: usize,
    /// The token to score.
    target: u32,
    /// Whether the first token of the reply is chosen here.
    first: bool,
}

impl Engine<'_> {
    /// Launches the next chunk of the prompts that wait, if any do.
    pub(super) fn read_prompts(&mut self) -> Result<Option<ChunkStep>> {
        if self.reading.is_empty() {
            return Ok(None);
        }
        let chunk = self.next_chunk();
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let _working = gpu.working();
        self.compile_for(chunk.wanted.len())?;
        let places = Places {
            positions: gpu.upload(&chunk.positions),
            slots: gpu.upload(&chunk.slots),
            pages: self.slots.table.clone(),
            stride: self.slots.stride,
        };
        let index: Vec<u32> = chunk.wanted.iter().map(|wanted| wanted.row).collect();
        let longest = chunk.wanted.iter().map(|wanted| splits(wanted.position)).max();
        let wanted = longest.map(|splits| (gpu.upload(&index), splits));
        let wide = ops.wide_pages().map(|_| {
            let (from, table, stride) = chunk.wide_pages();
            WidePages { from: gpu.upload(&from), table: gpu.upload(&table), stride }
        });
        let kind = Kind::Prefill { tiles: gpu.upload(&chunk.tiles), wide, wanted };
        let mut step = ops.step(chunk.ids.len(), gpu.upload(&chunk.ids), places, kind)?;
        let logits = self.model.forward(&mut step)?;
        let results = match logits {
            Some(logits) => self.choose(&chunk, &logits, &step)?,
            None => Results::Nothing(gpu.read_later(&step.faults.first(1))),
        };
        for &Part { slot, read, ends, .. } in &chunk.sequences {
            if let Some(sequence) = &mut self.sequences[slot] {
                sequence.read = read;
                let full = read.min(sequence.prompt.ids.len()) / PAGE;
                let names = &sequence.names;
                self.pages.learn(&sequence.pages[..full.min(names.len())], names);
            }
            if ends {
                self.reading.retain(|&reading| reading != slot);
            }
        }
        for wanted in chunk.wanted.iter().filter(|wanted| wanted.first) {
            if let Some(sequence) = &mut self.sequences[wanted.slot as usize] {
                sequence.chosen = 1;
            }
        }
        Ok(Some(ChunkStep { chunk, results }))
    }

    /// The next rows of the prompts that wait, oldest first. A few rows between them belong
    /// to none.
    fn next_chunk(&self) -> Chunk {
        let sizes = self.model.ops().sizes();
        let mut chunk = Chunk::default();
        let mut tiles = Vec::new();
        let mut wide_pages = self.model.ops().wide_pages();
        for &slot in &self.reading {
            let Some(sequence) = &self.sequences[slot] else { continue };
            let mut at = sequence.read;
            // Values of so many positions are written together, if their rows lie as they do.
            let together = TOGETHER as usize;
            while chunk.ids.len() % together != at % together && chunk.ids.len() < sizes.rows {
                chunk.push_padding(self.sequences.len());
            }
            let first = chunk.ids.len();
            // All that its rows see has to fit, too. The first sequence always does.
            let most = wide_pages.map_or(usize::MAX, |pages| pages * PAGE).min(sequence.to_read());
            if most <= at && at < sequence.to_read() {
                break;
            }
            while at < most && chunk.ids.len() < sizes.rows {
                let last_of_prompt = at + 1 == sequence.prompt.ids.len();
                let target = sequence.target(at);
                if last_of_prompt || target.is_some() {
                    if chunk.wanted.len() == sizes.batch {
                        break;
                    }
                    chunk.wanted.push(Wanted {
                        row: chunk.ids.len() as u32,
                        slot: slot as u32,
                        number: sequence.number,
                        position: at,
                        target: target.unwrap_or(NONE),
                        first: last_of_prompt && sequence.write.is_some(),
                    });
                }
                chunk.ids.push(sequence.token(at));
                chunk.positions.push(at as u32);
                chunk.slots.push(slot as u32);
                at += 1;
            }
            let rows = chunk.ids.len() - first;
            // Where tiles find the number of a page: by slot, or by sequence of the chunk.
            let mut table = slot;
            if let Some(left) = &mut wide_pages {
                let seen = at.div_ceil(PAGE);
                *left -= seen;
                table = chunk.pages.len();
                chunk.pages.push(sequence.pages[..seen].to_vec());
            }
            for from in (0..rows).step_by(TILE) {
                let count = TILE.min(rows - from);
                tiles.push([first + from, count, sequence.read + from, table]);
            }
            let ends = at == sequence.to_read();
            chunk.sequences.push(Part { slot, number: sequence.number, read: at, ends });
            if !ends {
                break;
            }
        }
        // Those that see most keys first, as attention wants them.
        tiles.sort_by_key(|&[_, count, position, _]| std::cmp::Reverse(position + count));
        chunk.tiles = tiles.into_iter().flatten().map(|number| number as u32).collect();
        chunk
    }

    /// Launches scoring and choosing from the logits of a chunk.
    fn choose(&self, chunk: &Chunk, logits: &Buffer<f32>, step: &Step) -> Result<Results> {
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let targets: Vec<u32> = chunk.wanted.iter().map(|wanted| wanted.target).collect();
        let scores = gpu.zeroed::<f32>(2 * targets.len());
        gpu.log_prob(logits, &gpu.upload(&targets), &scores, ops.vocabulary())?;
        // Rows that only score choose for the slot of the padding.
        let padding = self.sequences.len() as u32;
        let slots: Vec<u32> =
            chunk.wanted.iter().map(|wanted| if wanted.first { wanted.slot } else { padding }).collect();
        let chosen = gpu.zeroed::<u32>(2 * slots.len());
        gpu.sample(
            logits,
            &gpu.upload(&slots),
            &step.faults,
            &self.slots.settings,
            &chosen,
            ops.vocabulary(),
        )?;
        // Few requests want to see them: they are the vocabulary for each row.
        let shown = chunk.wanted.iter().any(|wanted| self.is_shown(wanted));
        Ok(Results::Wanted {
            scores: gpu.read_later(&scores),
            chosen: gpu.read_later(&chosen),
            logits: shown.then(|| gpu.read_later(logits)),
        })
    }

    /// Waits for the results of a chunk, and starts the replies of the sequences that it
    /// ends reading.
    pub(super) fn take_wanted(&mut self, ChunkStep { chunk, results }: ChunkStep) -> Result<()> {
        let vocabulary = self.model.ops().vocabulary();
        let (scores, chosen, shown) = match results {
            Results::Wanted { scores, chosen, logits } => {
                (scores.wait()?, chosen.wait()?, logits.map(Reading::wait).transpose()?.unwrap_or_default())
            }
            Results::Nothing(done) => return done.wait().map(drop),
        };
        for (row, ((wanted, scores), chosen)) in
            chunk.wanted.iter().zip(scores.chunks_exact(2)).zip(chosen.chunks_exact(2)).enumerate()
        {
            let slot = wanted.slot as usize;
            // A sequence that nobody wants any more, or that met a fault, is gone.
            let Some(sequence) = self.sequence(slot, wanted.number) else { continue };
            if chosen[0] == NONE {
                let in_prompt = wanted.position < sequence.prompt.ids.len();
                let step = if in_prompt { overflow::Step::Prompt } else { overflow::Step::Score };
                self.retire(slot, Err(self.not_finite(step, wanted.position, chosen[1])));
                continue;
            }
            let logits = || &shown[row * vocabulary..][..vocabulary];
            if wanted.target != NONE {
                let prompt = &sequence.prompt;
                match (wanted.position + 1).checked_sub(prompt.ids.len()) {
                    Some(token) => {
                        if let Some(reader) = &prompt.reader {
                            reader.read(token, logits());
                        }
                        sequence.scores.push(scores[0] - scores[1].ln());
                    }
                    None => {
                        if let Some(reader) = &prompt.own_reader {
                            reader.read(wanted.position, logits());
                        }
                    }
                }
            }
            if wanted.first {
                let likeliest = sequence.write.and_then(|write| write.log_probs);
                let log_probs = likeliest.map(|likeliest| LogProbs::of(logits(), chosen[0], likeliest));
                sequence.first = Some(Chosen { token: chosen[0], logit_gap: None, log_probs });
            }
        }
        for Part { slot, number, .. } in chunk.sequences.into_iter().filter(|part| part.ends) {
            self.finish_reading(slot, number);
        }
        Ok(())
    }

    /// Whether somebody is shown the logits of a row.
    fn is_shown(&self, wanted: &Wanted) -> bool {
        self.sequences[wanted.slot as usize].as_ref().is_some_and(|sequence| {
            let prompt = &sequence.prompt;
            let read = prompt.reader.is_some() || prompt.own_reader.is_some();
            (read && wanted.target != NONE)
                || (wanted.first && sequence.write.is_some_and(|write| write.log_probs.is_some()))
        })
    }

    /// Starts the reply of a sequence that is read, or answers it.
    fn finish_reading(&mut self, slot: usize, number: u64) {
        let Some(sequence) = self.sequences[slot].as_mut().filter(|found| found.number == number) else {
            return;
        };
        self.desk.show_prompt(&sequence.origin, &sequence.prompt);
        if sequence.prompt.reply.is_some() {
            sequence.reply.scores = Some(TokenScores { log_probs: std::mem::take(&mut sequence.scores) });
        }
        if let Some(first) = sequence.first.take() {
            self.add(slot, &first);
        } else {
            let scores = sequence.reply.scores.take();
            sequence.origin.answer_read(sequence.reply.prompt_tokens, scores);
            self.free(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Chunk;

    #[test]
    fn every_sequence_finds_its_pages_among_those_that_are_widened() {
        let chunk = Chunk { pages: vec![vec![7, 3], vec![], vec![9], vec![3, 8]], ..Chunk::default() };
        let (from, table, stride) = chunk.wide_pages();
        assert_eq!((&from[..], stride), (&[7, 3, 9, 3, 8][..], 2));
        for (sequence, pages) in chunk.pages.iter().enumerate() {
            let found = table[sequence * stride..][..pages.len()].iter().map(|&copy| from[copy as usize]);
            assert_eq!(found.collect::<Vec<_>>(), *pages);
        }
    }
}
