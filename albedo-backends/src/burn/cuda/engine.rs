//! The device thread of a GPU: admits requests while slots and pages last,
//! reads prompts in chunks, and decodes all sequences together.
//!
//! A step is a token for every sequence whose prompt is read, and then a chunk of the
//! prompts that are not: a long prompt holds up the replies under way by a chunk at a
//! time. Tokens are decoded by a CUDA graph that is replayed; tokens and positions move
//! on on the device, and a step is launched before the results of the one before are
//! read. So a sequence that ended before its last token is computed once too often; what
//! that writes is never read.

use std::collections::{HashMap, VecDeque};

use albedo_core::overflow::{self, Overflow, Place};
use albedo_core::{Error, Result};

use self::admission::Arrival;
use self::chunk::ChunkStep;
use self::decode::DecodeStep;
use self::sequence::Sequence;
use super::device::{Buffer, CudaGraph};
use super::kernels::attention::PAGE;
use super::kernels::attention::prefill::TILE_WORDS;
use super::kernels::rows::NONE;
use super::kv_cache::KvCache;
use super::launch::{Places, SlotSettings, splits};
use super::ops::{CubeOps, Kind, WidePages};
use super::settings::TOKENS;
use crate::burn::model::Qwen3;
use crate::burn::requests::{Chosen, Desk, Inbox, Waiting};

mod admission;
mod chunk;
mod decode;
mod sequence;

const OPERATION: &str = "generate a reply";

/// What the device thread owns.
pub(super) struct Engine<'m> {
    model: &'m Qwen3<CubeOps>,
    desk: Desk,
    slots: Slots,
    pages: KvCache,
    graphs: HashMap<(usize, usize), CudaGraph>,
    sequences: Vec<Option<Sequence>>,
    /// Slots of the sequences whose prompts are not all in chunks yet, oldest first.
    reading: VecDeque<usize>,
    /// Sequences admitted so far.
    admitted: u64,
    /// The largest batch whose kernels are compiled.
    compiled: usize,
}

/// What was launched and whose results were not read yet.
#[derive(Default)]
struct UnderWay {
    decode: Option<DecodeStep>,
    chunk: Option<ChunkStep>,
}

impl UnderWay {
    fn is_empty(&self) -> bool {
        self.decode.is_none() && self.chunk.is_none()
    }
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
            pages: KvCache::new(pages),
            graphs: HashMap::new(),
            sequences: (0..sizes.batch).map(|_| None).collect(),
            reading: VecDeque::new(),
            admitted: 0,
            compiled: 0,
            model,
            desk,
        }
    }

    /// Compiles the kernels of prompts, and of batches of few, so that no step waits for
    /// them one by one. Those of larger batches are compiled when the first of them comes:
    /// most of the time of a start would be theirs.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn compile(&mut self) -> Result<()> {
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
        let tiles = gpu.zeroed(TILE_WORDS);
        let page = gpu.zeroed::<u32>(1);
        let wide = ops.wide_pages().map(|_| WidePages { from: page.clone(), table: page, stride: 1 });
        gpu.compile(|| {
            self.launch(1, 1)?;
            // Two splits to a cube.
            self.launch(sizes.batch.min(TOKENS[0]), self.most_splits())?;
            for rows in ops.chunk_sizes() {
                let (tiles, wide) = (tiles.clone(), wide.clone());
                let kind = Kind::Prefill { tiles, wide, wanted: Some((targets.clone(), 1)) };
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
        })?;
        self.compiled = TOKENS[0];
        Ok(())
    }

    /// Compiles what steps of `rows` decoded rows, or wanted logits, still need: if
    /// anything, then what those of all sizes need, for a few kernels take as long as
    /// many. The caller holds a guard of `Gpu::working`.
    fn compile_for(&mut self, rows: usize) -> Result<()> {
        if rows <= self.compiled {
            return Ok(());
        }
        let batch = self.model.ops().sizes().batch;
        let larger = TOKENS.windows(2).filter(|tokens| tokens[0] < batch).map(|tokens| tokens[1].min(batch));
        let launch = || larger.clone().try_for_each(|size| self.launch(size, self.most_splits()));
        self.model.ops().gpu().compile(launch)?;
        self.compiled = batch;
        Ok(())
    }

    /// Splits of the longest sequence.
    fn most_splits(&self) -> usize {
        splits(self.slots.stride * PAGE - 1)
    }

    /// Serves calls until the device is to be left. Unanswered requests of a
    /// session that is dropped are dropped with their senders.
    pub(super) fn run(mut self, inbox: &mut Inbox) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut arrivals: VecDeque<Arrival> = VecDeque::new();
        let mut under_way = UnderWay::default();
        loop {
            let idle =
                under_way.is_empty() && arrivals.is_empty() && self.sequences.iter().all(Option::is_none);
            let most = self.sequences.len().saturating_sub(arrivals.len());
            if !inbox.collect(idle, &mut waiting, most) || self.desk.is_closed() {
                return;
            }
            arrivals.extend(waiting.drain(..).map(|waiting| Arrival::new(&self.desk, waiting)));
            arrivals.retain(|arrival| self.desk.is_wanted(&arrival.origin));
            self.drop_unwanted();
            if let Err(error) = self.advance(&mut arrivals, &mut under_way) {
                under_way = UnderWay::default();
                let error = self.model.ops().gpu().reason(error);
                self.fail(&error);
            }
        }
    }

    /// Launches the next step, and takes the results of the one `under_way`.
    fn advance(&mut self, arrivals: &mut VecDeque<Arrival>, under_way: &mut UnderWay) -> Result<()> {
        let working = self.model.ops().gpu().working();
        self.admit(arrivals, !under_way.is_empty());
        drop(working);
        let next = UnderWay { decode: self.decode()?, chunk: self.read_prompts()? };
        let before = std::mem::replace(under_way, next);
        // In the order of the device, so that a reply's first token is there before its second.
        if let Some(decode) = before.decode {
            self.take_chosen(decode)?;
        }
        if let Some(chunk) = before.chunk {
            self.take_wanted(chunk)?;
        }
        Ok(())
    }

    /// The sequence in `slot`, if it still is that of `number`.
    fn sequence(&mut self, slot: usize, number: u64) -> Option<&mut Sequence> {
        self.sequences[slot].as_mut().filter(|found| found.number == number)
    }

    /// Adds a token to the reply of a sequence, and frees its slot if the reply is done.
    fn add(&mut self, slot: usize, chosen: &Chosen) {
        let Some(sequence) = self.sequences[slot].take() else { return };
        let limit = sequence.write.map_or(0, |write| write.max_new_tokens);
        match self.desk.add(&sequence.origin, sequence.reply, chosen, limit) {
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
        // What the pages hold, and what graphs name, is not known any more.
        self.pages = KvCache::new(self.pages.count());
        self.graphs.clear();
        self.slots.decoded.clear();
    }

    fn not_finite(&self, step: overflow::Step, position: usize, layer: u32) -> Error {
        let place = if layer == NONE { Place::Logits } else { Place::Layer(layer) };
        let overflow = Overflow { step, position: position as u32, place };
        Error::overflowed(OPERATION, overflow).with("model", &self.desk.name)
    }
}
