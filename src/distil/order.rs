//! The order of a stage's conversations: a pure function of the seed.

use crate::rng::{Stream, Use, derive_seed};

/// A conversation in a stage: which one, and in which pass over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its place in the set.
    pub(super) row: usize,
    /// The pass, from 0.
    pub(super) pass: u64,
}

/// The order of one stage. Each pass reads every conversation once, in an order of its own.
#[derive(Debug, Clone)]
pub(super) struct Order {
    seed: u64,
    stage: u64,
    rows: usize,
    /// The order of the pass that was asked for last.
    pass: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// The order of stage `stage` over `rows` conversations, at least one.
    pub(super) fn new(seed: u64, stage: usize, rows: usize) -> Self {
        Self { seed, stage: stage as u64, rows: rows.max(1), pass: None }
    }

    /// The conversation that is read as number `index`, from 0.
    pub(super) fn at(&mut self, index: u64) -> Place {
        let rows = self.rows as u64;
        let (pass, place) = (index / rows, (index % rows) as usize);
        if self.pass.as_ref().is_none_or(|(known, _)| *known != pass) {
            self.pass = Some((pass, self.shuffled(pass)));
        }
        let row = self.pass.as_ref().map_or(place, |(_, order)| order[place]);
        Place { row, pass }
    }

    /// The conversations that step `step` reads, from 0, with `accumulate` for each step.
    pub(super) fn step(&mut self, step: u64, accumulate: usize) -> Vec<Place> {
        let first = step * accumulate as u64;
        (first..first + accumulate as u64).map(|index| self.at(index)).collect()
    }

    /// Every conversation once (Fisher and Yates' shuffle).
    fn shuffled(&self, pass: u64) -> Vec<usize> {
        let parts = [self.seed, self.stage, pass].map(u64::to_le_bytes);
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let mut stream = Stream::new(derive_seed("albedo distil order 1", &parts), Use::RowDraw);
        let mut order: Vec<usize> = (0..self.rows).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, stream.below(last as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_pass_reads_every_row_once_in_an_order_of_its_own() {
        let mut order = Order::new(3, 1, 10);
        let passes: Vec<Vec<Place>> =
            (0..3).map(|pass| (10 * pass..10 * pass + 10).map(|index| order.at(index)).collect()).collect();
        for (number, pass) in passes.iter().enumerate() {
            let rows: BTreeSet<_> = pass.iter().map(|place| place.row).collect();
            assert_eq!(rows.len(), 10);
            assert!(pass.iter().all(|place| place.pass == number as u64));
        }
        let rows = |pass: &[Place]| pass.iter().map(|place| place.row).collect::<Vec<_>>();
        assert_ne!(rows(&passes[0]), rows(&passes[1]));
    }

    #[test]
    fn the_order_follows_from_seed_stage_and_number_alone() {
        let mut forwards = Order::new(3, 1, 7);
        let all: Vec<_> = (0..30).map(|index| forwards.at(index)).collect();
        for index in (0..30).rev() {
            assert_eq!(Order::new(3, 1, 7).at(index), all[index as usize], "{index}");
        }
        assert_eq!(Order::new(3, 1, 7).step(2, 4), all[8..12]);
        for other in [Order::new(4, 1, 7), Order::new(3, 0, 7)] {
            let mut other = other;
            assert_ne!((0..30).map(|index| other.at(index)).collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn the_order_of_this_version_is_known() {
        // Another order would give another model: it needs another number in the domain.
        let mut order = Order::new(0, 0, 6);
        let rows: Vec<_> = (0..12).map(|index| order.at(index).row).collect();
        assert_eq!(rows, KNOWN);
    }

    /// Source: the same draws in Python.
    const KNOWN: [usize; 12] = [1, 5, 3, 2, 0, 4, 0, 3, 1, 2, 5, 4];
}
