//! Admission: requests become tokens, and then sequences while slots and pages last.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use albedo_core::{Digest, Error, ErrorKind, Result};

use super::sequence::Sequence;
use super::{Engine, OPERATION};
use crate::burn::cuda::kernels::attention::PAGE;
use crate::burn::cuda::kv_cache::KvCache;
use crate::burn::requests::{Desk, Origin, Prompt, Reply, Waiting, Write};

/// A request whose prompt becomes tokens on another thread.
pub(super) struct Arrival {
    pub(super) origin: Origin,
    pub(super) write: Option<Write>,
    pub(super) tokens: Tokens,
}

pub(super) enum Tokens {
    Coming(Receiver<Result<Tokenized>>),
    There(Tokenized),
}

/// A prompt, and the names of its pages.
pub(super) struct Tokenized {
    pub(super) prompt: Prompt,
    pub(super) names: Vec<Digest>,
}

impl Arrival {
    pub(super) fn new(desk: &Desk, Waiting { origin, request }: Waiting) -> Self {
        let (write, desk) = (request.write, desk.clone());
        let (done, coming) = mpsc::channel();
        rayon::spawn(move || {
            let tokenized = desk.prepare(&request).map(|prompt| {
                // What is read from known pages has no logits.
                let known = if prompt.own_reader.is_some() { &[] } else { &prompt.ids[..] };
                let names = KvCache::names(known);
                Tokenized { prompt, names }
            });
            // Fails only if nobody waits any more.
            let _ = done.send(tokenized);
        });
        Self { origin, write, tokens: Tokens::Coming(coming) }
    }
}

impl Engine<'_> {
    /// Moves requests into slots, in order, while slots and pages last; a device
    /// that is `busy`, or has a chunk to read, does not wait for a prompt to become
    /// tokens.
    pub(super) fn admit(&mut self, arrivals: &mut VecDeque<Arrival>, busy: bool) {
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
            let reply = Reply::new(prompt.ids.len(), None);
            self.admitted += 1;
            self.sequences[slot] = Some(Sequence {
                number: self.admitted,
                origin,
                prompt,
                names,
                pages,
                read: known * PAGE,
                write,
                chosen: 0,
                reply,
                first: None,
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
}

/// Pages of the KV cache that a request needs from start to end, and for the step
/// after the last.
fn pages_of(prompt: &Prompt, write: Option<&Write>) -> usize {
    let reply = prompt.reply.as_ref().map_or(0, Vec::len);
    let new = write.map_or(0, |write| write.max_new_tokens as usize + 1);
    (prompt.ids.len() + reply.max(new)).div_ceil(PAGE)
}
