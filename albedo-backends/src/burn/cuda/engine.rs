//! The device thread of a GPU: admits requests while slots and pages last,
//! reads prompts in chunks, and decodes all sequences together.
//!
//! A decode step is a recording that is replayed; tokens and positions move on
//! on the device, and a step is launched before the tokens of the one before
//! are read. So a sequence that ended is computed once too often; what that
//! writes is never read.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{self, Receiver, TryRecvError};

use albedo_core::overflow::{self, Overflow, Place};
use albedo_core::{Digest, Error, Result, TokenScores};

use super::device::{Buffer, Gpu, Reading, Recording};
use super::kernels::attention::{PAGE, TILE};
use super::kernels::rows::NONE;
use super::launch::{Places, SlotSettings, splits};
use super::ops::{CubeOps, Kind, Step};
use super::pages::Pages;
use crate::burn::model::Qwen3;
use crate::burn::requests::{Desk, Inbox, Origin, Prompt, Reply, Waiting, Write};

const OPERATION: &str = "generate a reply";

/// Sizes of batch that have a recording, up to the largest that a session
/// allows, which has one too; a smaller batch is padded.
const BATCHES: [usize; 13] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// What the device thread owns.
pub(super) struct Engine<'m> {
    model: &'m Qwen3<CubeOps>,
    desk: Desk,
    slots: Slots,
    pages: Pages,
    recordings: HashMap<(usize, usize), Recording>,
    sequences: Vec<Option<Sequence>>,
    /// Slots of the sequences whose prompts are not read yet, oldest first.
    reading: VecDeque<usize>,
    /// Sequences admitted so far.
    admitted: u64,
}

/// Everything on the device that has a place for each slot. The slot after the
/// last belongs to the rows that pad a batch.
struct Slots {
    settings: SlotSettings,
    /// `[slot, stride]`.
    table: Buffer<u32>,
    stride: usize,
    /// The slots of the batch that is decoded.
    rows: Buffer<u32>,
    decoded: Vec<u32>,
    ids: Buffer<u32>,
    positions: Buffer<u32>,
    chosen: Buffer<u32>,
}

/// A sequence in a slot.
struct Sequence {
    /// No other sequence has it; a slot has many, one after the other.
    number: u64,
    origin: Origin,
    prompt: Prompt,
    /// Of the prompt's full pages.
    names: Vec<Digest>,
    pages: Vec<u32>,
    /// Tokens of the prompt and then of the scored reply that were read.
    read: usize,
    write: Option<Write>,
    reply: Reply,
    /// Log-probabilities of the scored reply so far.
    scores: Vec<f32>,
}

impl Sequence {
    /// Tokens to read before the reply: of a scored reply all but the last.
    fn to_read(&self) -> usize {
        self.prompt.ids.len() + self.prompt.reply.as_ref().map_or(0, |reply| reply.len().saturating_sub(1))
    }

    fn token(&self, at: usize) -> u32 {
        let prompt = &self.prompt.ids;
        let reply = self.prompt.reply.as_deref().unwrap_or_default();
        prompt.get(at).or_else(|| reply.get(at - prompt.len())).copied().unwrap_or(0)
    }

    /// The token whose log-probability the row at `at` tells.
    fn target(&self, at: usize) -> Option<u32> {
        let reply = self.prompt.reply.as_deref()?;
        reply.get((at + 1).checked_sub(self.prompt.ids.len())?).copied()
    }
}

/// A request whose prompt becomes tokens on another thread.
struct Arrival {
    origin: Origin,
    write: Option<Write>,
    tokens: Tokens,
}

enum Tokens {
    Coming(Receiver<Result<Tokenized>>),
    There(Tokenized),
}

/// A prompt, and the names of its pages.
struct Tokenized {
    prompt: Prompt,
    names: Vec<Digest>,
}

impl Arrival {
    fn new(desk: &Desk, Waiting { origin, request }: Waiting) -> Self {
        let (write, desk) = (request.write, desk.clone());
        let (done, coming) = mpsc::channel();
        rayon::spawn(move || {
            let tokenized = desk.prepare(&request).map(|prompt| {
                let names = Pages::names(&prompt.ids);
                Tokenized { prompt, names }
            });
            // Fails only if nobody waits any more.
            let _ = done.send(tokenized);
        });
        Self { origin, write, tokens: Tokens::Coming(coming) }
    }
}

/// A decode step under way: the slots and numbers of its sequences, and the
/// tokens that it chooses.
struct Pending {
    sequences: Vec<(usize, u64)>,
    chosen: Reading<u32>,
}

/// A chunk of prompts.
#[derive(Default)]
struct Chunk {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    tiles: Vec<u32>,
    wanted: Vec<Wanted>,
    /// Slots and how far their sequences are read after this chunk.
    read: Vec<(usize, usize)>,
}

/// A row whose logits are wanted.
struct Wanted {
    row: u32,
    slot: u32,
    position: usize,
    /// The token to score.
    target: u32,
    /// Whether the first token of the reply is chosen here.
    first: bool,
}

impl<'m> Engine<'m> {
    /// An engine for a model that has entered the GPU, with `pages` pages.
    pub(super) fn new(model: &'m Qwen3<CubeOps>, desk: Desk, pages: usize) -> Self {
        let sizes = model.ops().sizes();
        let gpu = model.ops().gpu();
        let slots = sizes.batch + 1;
        let stride = desk.context_length.min(pages * PAGE).div_ceil(PAGE) + 1;
        let slots = Slots {
            settings: SlotSettings {
                temperatures: gpu.zeroed(slots),
                top_ps: gpu.zeroed(slots),
                top_ks: gpu.zeroed(slots),
                seeds: gpu.zeroed(2 * slots),
                lengths: gpu.zeroed(slots),
                tokens: gpu.zeroed(slots),
                positions: gpu.zeroed(slots),
            },
            table: gpu.zeroed(slots * stride),
            stride,
            rows: gpu.zeroed(sizes.batch),
            decoded: Vec::new(),
            ids: gpu.zeroed(sizes.batch),
            positions: gpu.zeroed(sizes.batch),
            chosen: gpu.zeroed(2 * sizes.batch),
        };
        Self {
            slots,
            pages: Pages::new(pages),
            recordings: HashMap::new(),
            sequences: (0..sizes.batch).map(|_| None).collect(),
            reading: VecDeque::new(),
            admitted: 0,
            model,
            desk,
        }
    }

    /// Compiles the kernels of every step, so that none waits for them later.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn compile(&self) -> Result<()> {
        let ops = self.model.ops();
        let (gpu, sizes) = (ops.gpu(), ops.sizes());
        let targets = gpu.zeroed::<u32>(1);
        let (scores, chosen) = (gpu.zeroed::<f32>(2), gpu.zeroed::<u32>(2));
        let slots = self.slots.rows.first(1);
        let places = Places {
            positions: gpu.zeroed(sizes.rows),
            slots: gpu.zeroed(sizes.rows),
            pages: self.slots.table.clone(),
            stride: self.slots.stride,
        };
        let ids = gpu.zeroed(sizes.rows);
        let tiles = gpu.zeroed(2);
        gpu.compile(|| {
            for size in BATCHES.into_iter().filter(|&size| size < sizes.batch).chain([sizes.batch]) {
                self.launch(size, 1)?;
            }
            // A chunk that is whole tiles of the products, and one that is not.
            for rows in [sizes.rows, sizes.rows - 1] {
                let kind = Kind::Prefill { tiles: tiles.clone(), wanted: Some((targets.clone(), 1)) };
                let mut step = ops.step(rows, ids.clone(), places.clone(), kind)?;
                if let Some(logits) = self.model.forward(&mut step)? {
                    gpu.log_prob(&logits, &targets, &scores, ops.vocabulary())?;
                    gpu.sample(
                        &logits,
                        &slots,
                        &step.faults,
                        &self.slots.settings,
                        &chosen,
                        ops.vocabulary(),
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Serves calls until the device is to be left. Unanswered requests of a
    /// session that is dropped are dropped with their senders.
    pub(super) fn run(mut self, inbox: &mut Inbox) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut arrivals: VecDeque<Arrival> = VecDeque::new();
        let mut pending: Option<Pending> = None;
        loop {
            let idle = pending.is_none() && arrivals.is_empty() && self.sequences.iter().all(Option::is_none);
            let most = self.sequences.len().saturating_sub(arrivals.len());
            if !inbox.collect(idle, &mut waiting, most) || self.desk.is_closed() {
                return;
            }
            arrivals.extend(waiting.drain(..).map(|waiting| Arrival::new(&self.desk, waiting)));
            arrivals.retain(|arrival| self.desk.is_wanted(&arrival.origin));
            self.drop_unwanted();
            if let Err(error) = self.advance(&mut arrivals, &mut pending) {
                pending = None;
                let error = self.model.ops().gpu().reason(error);
                self.fail(&error);
            }
        }
    }

    /// One step of the device.
    fn advance(&mut self, arrivals: &mut VecDeque<Arrival>, pending: &mut Option<Pending>) -> Result<()> {
        let working = Gpu::working();
        self.admit(arrivals, pending.is_some());
        if !self.reading.is_empty() {
            if let Some(pending) = pending.take() {
                self.take_chosen(pending)?;
            }
            return self.read_prompts();
        }
        drop(working);
        let launched = self.decode()?;
        if let Some(before) = std::mem::replace(pending, launched) {
            self.take_chosen(before)?;
        }
        Ok(())
    }

    /// Moves requests into slots, in order, while slots and pages last; a device
    /// that is `busy`, or has a chunk to read, does not wait for a prompt to become
    /// tokens.
    fn admit(&mut self, arrivals: &mut VecDeque<Arrival>, busy: bool) {
        while let Some(slot) = self.sequences.iter().position(Option::is_none)
            && let Some(Arrival { origin, write, tokens }) = arrivals.pop_front()
        {
            let tokenized = match tokens {
                Tokens::There(tokenized) => tokenized,
                Tokens::Coming(coming) => {
                    let busy = busy || self.unread() >= self.model.ops().sizes().rows;
                    let come = if busy { coming.try_recv() } else { coming.recv().map_err(Into::into) };
                    let come = match come {
                        Ok(come) => come,
                        Err(TryRecvError::Empty) => {
                            arrivals.push_front(Arrival { origin, write, tokens: Tokens::Coming(coming) });
                            return;
                        }
                        Err(TryRecvError::Disconnected) => Err(Error::bug(OPERATION, "tokenizing panicked")),
                    };
                    match come.and_then(|tokenized| self.fits(write.as_ref(), tokenized)) {
                        Ok(tokenized) => tokenized,
                        Err(error) => {
                            origin.answer(Err(error));
                            continue;
                        }
                    }
                }
            };
            let needed = pages_of(&tokenized.prompt, write.as_ref());
            let Some((pages, known)) = self.pages.take(&tokenized.names, needed) else {
                arrivals.push_front(Arrival { origin, write, tokens: Tokens::There(tokenized) });
                return;
            };
            let Tokenized { prompt, names } = tokenized;
            let gpu = self.model.ops().gpu();
            let settings = &self.slots.settings;
            if let Some(Write { sampling, seed, .. }) = write {
                gpu.write(&settings.temperatures.at(slot), &[sampling.temperature as f32]);
                gpu.write(&settings.top_ps.at(slot), &[sampling.top_p as f32]);
                gpu.write(&settings.top_ks.at(slot), &[sampling.top_k]);
                gpu.write(&settings.seeds.range(2 * slot, 2), &[seed as u32, (seed >> 32) as u32]);
            }
            gpu.write(&settings.lengths.at(slot), &[0]);
            gpu.write(&settings.positions.at(slot), &[prompt.ids.len() as u32]);
            gpu.write(&self.slots.table.range(slot * self.slots.stride, pages.len()), &pages);
            let reply = Reply { prompt_tokens: prompt.ids.len(), tokens: Vec::new(), scores: None };
            self.admitted += 1;
            self.sequences[slot] = Some(Sequence {
                number: self.admitted,
                origin,
                prompt,
                names,
                pages,
                read: known * PAGE,
                write,
                reply,
                scores: Vec::new(),
            });
            self.reading.push_back(slot);
        }
    }

    /// Tokens of the prompts in slots that are not read yet.
    fn unread(&self) -> usize {
        let sequences = self.reading.iter().filter_map(|&slot| self.sequences[slot].as_ref());
        sequences.map(|sequence| sequence.to_read() - sequence.read).sum()
    }

    /// Refuses what would not fit if it were alone.
    fn fits(&self, write: Option<&Write>, tokenized: Tokenized) -> Result<Tokenized> {
        let prompt = &tokenized.prompt;
        let needed = pages_of(prompt, write);
        if needed <= self.pages.count() && needed <= self.slots.stride {
            return Ok(tokenized);
        }
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            OPERATION,
            format!(
                "{} tokens need {needed} pages of keys and values, the GPU holds {}",
                prompt.ids.len(),
                self.pages.count()
            ),
        )
        .with("model", &self.desk.name)
        .with_hint("raise `memory_share`, or shorten the prompt or `max_new_tokens`"))
    }

    /// Reads a chunk of the prompts that wait.
    fn read_prompts(&mut self) -> Result<()> {
        let chunk = self.next_chunk();
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let places = Places {
            positions: gpu.upload(&chunk.positions),
            slots: gpu.upload(&chunk.slots),
            pages: self.slots.table.clone(),
            stride: self.slots.stride,
        };
        let index: Vec<u32> = chunk.wanted.iter().map(|wanted| wanted.row).collect();
        let longest = chunk.wanted.iter().map(|wanted| splits(wanted.position)).max();
        let wanted = longest.map(|splits| (gpu.upload(&index), splits));
        let kind = Kind::Prefill { tiles: gpu.upload(&chunk.tiles), wanted };
        let mut step = ops.step(chunk.ids.len(), gpu.upload(&chunk.ids), places, kind)?;
        let logits = self.model.forward(&mut step)?;
        for &(slot, read) in &chunk.read {
            if let Some(sequence) = &mut self.sequences[slot] {
                sequence.read = read;
                let full = read.min(sequence.prompt.ids.len()) / PAGE;
                let names = &sequence.names;
                self.pages.learn(&sequence.pages[..full.min(names.len())], names);
            }
        }
        match logits {
            Some(logits) => self.take_wanted(&chunk, &logits, &step),
            None => gpu.sync(),
        }
    }

    /// The next rows of the prompts that wait, oldest first.
    fn next_chunk(&self) -> Chunk {
        let sizes = self.model.ops().sizes();
        let mut chunk = Chunk::default();
        for &slot in &self.reading {
            let Some(sequence) = &self.sequences[slot] else { continue };
            let mut at = sequence.read;
            let first = chunk.ids.len();
            while at < sequence.to_read() && chunk.ids.len() < sizes.rows {
                let last_of_prompt = at + 1 == sequence.prompt.ids.len();
                let target = sequence.target(at);
                if last_of_prompt || target.is_some() {
                    if chunk.wanted.len() == sizes.batch {
                        break;
                    }
                    chunk.wanted.push(Wanted {
                        row: chunk.ids.len() as u32,
                        slot: slot as u32,
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
            for from in (0..rows).step_by(TILE) {
                chunk.tiles.extend([(first + from) as u32, TILE.min(rows - from) as u32]);
            }
            chunk.read.push((slot, at));
            if at < sequence.to_read() {
                break;
            }
        }
        chunk
    }

    /// Scores and chooses from the logits of a chunk, and starts the replies of
    /// the sequences that are read.
    fn take_wanted(&mut self, chunk: &Chunk, logits: &Buffer<f32>, step: &Step) -> Result<()> {
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
        let (scores, chosen) = (gpu.read(&scores)?, gpu.read(&chosen)?);
        for ((wanted, scores), chosen) in
            chunk.wanted.iter().zip(scores.chunks_exact(2)).zip(chosen.chunks_exact(2))
        {
            let slot = wanted.slot as usize;
            let Some(sequence) = &mut self.sequences[slot] else { continue };
            if chosen[0] == NONE {
                let in_prompt = wanted.position < sequence.prompt.ids.len();
                let step = if in_prompt { overflow::Step::Prompt } else { overflow::Step::Score };
                self.retire(slot, Err(self.not_finite(step, wanted.position, chosen[1])));
                continue;
            }
            if wanted.target != NONE {
                sequence.scores.push(scores[0] - scores[1].ln());
            }
            if wanted.first {
                sequence.reply.tokens.push(chosen[0]);
            }
        }
        for &(slot, _) in &chunk.read {
            self.finish_reading(slot);
        }
        Ok(())
    }

    /// Starts the reply of a sequence that is read, or answers it.
    fn finish_reading(&mut self, slot: usize) {
        let Some(sequence) = &mut self.sequences[slot] else { return };
        if sequence.read < sequence.to_read() {
            return;
        }
        self.reading.retain(|&reading| reading != slot);
        if sequence.prompt.reply.is_some() {
            sequence.reply.scores = Some(TokenScores { log_probs: std::mem::take(&mut sequence.scores) });
        }
        if sequence.write.is_none() {
            let scores = sequence.reply.scores.take();
            sequence.origin.answer_score(sequence.reply.prompt_tokens, scores);
            self.free(slot);
        } else {
            self.finish_or_keep(slot);
        }
    }

    /// Launches one more token for every sequence that is read.
    fn decode(&mut self) -> Result<Option<Pending>> {
        let sequences: Vec<(usize, u64)> = (self.sequences.iter().enumerate())
            .filter_map(|(slot, sequence)| Some((slot, sequence.as_ref()?.number)))
            .collect();
        if sequences.is_empty() {
            return Ok(None);
        }
        let slots: Vec<u32> = sequences.iter().map(|&(slot, _)| slot as u32).collect();
        let size = BATCHES.into_iter().find(|&size| size >= slots.len()).unwrap_or(slots.len());
        let size = size.min(self.sequences.len());
        // The step under way may have added a token that is not known yet.
        let longest = self
            .sequences
            .iter()
            .flatten()
            .map(|sequence| splits(sequence.prompt.ids.len() + sequence.reply.tokens.len() + 1))
            .max()
            .unwrap_or(1);
        let splits = rounded(longest).min(splits(self.slots.stride * PAGE - 1));
        if self.slots.decoded != slots {
            let _working = Gpu::working();
            let mut rows = slots.clone();
            rows.resize(size, self.sequences.len() as u32);
            self.model.ops().gpu().write(&self.slots.rows, &rows);
            self.slots.decoded.clone_from(&slots);
        }
        if !self.recordings.contains_key(&(size, splits)) {
            self.record(size, splits)?;
        }
        let _working = Gpu::working();
        let recording = self.recordings.get(&(size, splits));
        recording.ok_or_else(|| Error::bug(OPERATION, "a recording was lost"))?.replay()?;
        let chosen = self.model.ops().gpu().read_later(&self.slots.chosen.first(2 * slots.len()));
        Ok(Some(Pending { sequences, chosen }))
    }

    /// Seconds that the device alone takes for a decode step of `size` rows, the mean
    /// of `steps` from `position` on.
    #[cfg(test)]
    pub(super) fn measure_step(&mut self, size: usize, position: usize, steps: usize) -> Result<f64> {
        let gpu = self.model.ops().gpu();
        let (positions, pages) = (vec![position as u32; size], (position + steps) / PAGE + 1);
        for slot in 0..size {
            let pages: Vec<u32> = (0..pages).map(|page| (slot * pages + page) as u32).collect();
            gpu.write(&self.slots.table.range(slot * self.slots.stride, pages.len()), &pages);
        }
        gpu.write(&self.slots.rows, &(0..size as u32).collect::<Vec<_>>());
        gpu.write(&self.slots.settings.positions, &positions);
        let splits = splits(position + steps);
        self.record(size, splits)?;
        let recording = &self.recordings[&(size, splits)];
        let gpu = self.model.ops().gpu();
        recording.replay()?;
        gpu.sync()?;
        gpu.write(&self.slots.settings.positions, &positions);
        let start = std::time::Instant::now();
        for _ in 0..steps {
            recording.replay()?;
        }
        gpu.sync()?;
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }

    /// Records a decode step. Recording runs the step, so tokens, positions and
    /// lengths are put back.
    fn record(&mut self, size: usize, splits: usize) -> Result<()> {
        let ops = self.model.ops();
        let gpu = ops.gpu();
        let Slots { settings, .. } = &self.slots;
        let working = Gpu::working();
        let before =
            (gpu.read(&settings.tokens)?, gpu.read(&settings.positions)?, gpu.read(&settings.lengths)?);
        drop(working);
        let recording = gpu.record(|| self.launch(size, splits));
        let _working = Gpu::working();
        gpu.write(&settings.tokens, &before.0);
        gpu.write(&settings.positions, &before.1);
        gpu.write(&settings.lengths, &before.2);
        self.recordings.insert((size, splits), recording?);
        Ok(())
    }

    /// Launches a decode step of the first `size` rows.
    fn launch(&self, size: usize, splits: usize) -> Result<()> {
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
    fn take_chosen(&mut self, pending: Pending) -> Result<()> {
        let chosen = pending.chosen.wait()?;
        for (&(slot, number), chosen) in pending.sequences.iter().zip(chosen.chunks_exact(2)) {
            // A sequence that ended in the step before has no use for it.
            let Some(sequence) = self.sequences[slot].as_mut().filter(|found| found.number == number) else {
                continue;
            };
            if chosen[0] == NONE {
                let read = sequence.reply.prompt_tokens + sequence.reply.tokens.len() - 1;
                self.retire(slot, Err(self.not_finite(overflow::Step::Reply, read, chosen[1])));
                continue;
            }
            sequence.reply.tokens.push(chosen[0]);
            self.finish_or_keep(slot);
        }
        Ok(())
    }

    fn finish_or_keep(&mut self, slot: usize) {
        let Some(sequence) = self.sequences[slot].take() else { return };
        let limit = sequence.write.map_or(0, |write| write.max_new_tokens);
        match self.desk.finish_or_keep(&sequence.origin, sequence.reply, limit) {
            Some(reply) => self.sequences[slot] = Some(Sequence { reply, ..sequence }),
            None => self.pages.release(&sequence.pages),
        }
    }

    /// Ends a sequence with `result`.
    fn retire(&mut self, slot: usize, result: Result<albedo_core::Completion>) {
        if let Some(sequence) = &self.sequences[slot] {
            sequence.origin.answer(result);
        }
        self.free(slot);
    }

    fn free(&mut self, slot: usize) {
        self.reading.retain(|&reading| reading != slot);
        if let Some(sequence) = self.sequences[slot].take() {
            self.pages.release(&sequence.pages);
        }
    }

    fn drop_unwanted(&mut self) {
        for slot in 0..self.sequences.len() {
            if self.sequences[slot].as_ref().is_some_and(|sequence| !self.desk.is_wanted(&sequence.origin)) {
                self.free(slot);
            }
        }
    }

    /// Answers every sequence with `error`: the device failed under all of them.
    fn fail(&mut self, error: &Error) {
        for slot in 0..self.sequences.len() {
            if self.sequences[slot].is_some() {
                self.retire(slot, Err(error.clone().with("model", &self.desk.name)));
            }
        }
        // What the pages hold, and what was recorded, is not known any more.
        self.pages = Pages::new(self.pages.count());
        self.recordings.clear();
        self.slots.decoded.clear();
    }

    fn not_finite(&self, step: overflow::Step, position: usize, layer: u32) -> Error {
        let place = if layer == NONE { Place::Logits } else { Place::Layer(layer) };
        let overflow = Overflow { step, position: position as u32, place };
        Error::overflowed(OPERATION, overflow).with("model", &self.desk.name)
    }
}

/// Pages that a request needs from start to end, and for the step too many.
fn pages_of(prompt: &Prompt, write: Option<&Write>) -> usize {
    let reply = prompt.reply.as_ref().map_or(0, Vec::len);
    let new = write.map_or(0, |write| write.max_new_tokens as usize + 1);
    (prompt.ids.len() + reply.max(new)).div_ceil(PAGE)
}

/// Splits for which there is a recording: powers of 2, and half-way between.
fn rounded(splits: usize) -> usize {
    let power = splits.next_power_of_two();
    if splits <= power / 4 * 3 { (power / 4 * 3).max(1) } else { power }
}
