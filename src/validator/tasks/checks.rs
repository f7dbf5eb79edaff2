//! Who may take part: pure functions of what the ledger and the chain say.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::{Hotkey, Metagraph};
use crate::chains::ledger::Swap;
use crate::validator::ledger::SubmissionRow;
use crate::validator::table::State;

/// Hotkeys that are one miner: a slot's owner may exchange its hotkey without a new
/// registration.
#[derive(Debug, Default)]
pub(super) struct Miners(BTreeMap<Hotkey, Hotkey>);

impl Miners {
    pub(super) fn new(swaps: &[Swap]) -> Self {
        Self(swaps.iter().map(|swap| (swap.after.clone(), swap.before.clone())).collect())
    }

    /// The first hotkey of `hotkey`'s miner.
    pub(super) fn first<'a>(&'a self, hotkey: &'a Hotkey) -> &'a Hotkey {
        let (mut first, mut seen) = (hotkey, BTreeSet::from([hotkey]));
        while let Some(before) = self.0.get(first).filter(|before| seen.insert(before)) {
            first = before;
        }
        first
    }

    /// Every hotkey of `hotkey`'s miner.
    pub(super) fn hotkeys(&self, hotkey: &Hotkey) -> Vec<Hotkey> {
        let first = self.first(hotkey);
        let others = self.0.keys().filter(|other| self.first(other) == first && *other != first);
        [first].into_iter().chain(others).cloned().collect()
    }
}

/// Why `row` takes no part, if it does not; `all` are the submissions by place, those at least that
/// have its pin or are by its miner.
pub(super) fn barred(
    row: &SubmissionRow,
    all: &[SubmissionRow],
    per_hotkey: u32,
    miners: &Miners,
    metagraph: &Metagraph,
    swaps: &[Swap],
) -> Option<String> {
    if let Some(why) = gone(&row.hotkey, metagraph, swaps) {
        return Some(why);
    }
    let earlier = || all.iter().take_while(|other| other.id != row.id);
    if let Some(first) = claim(row, earlier().filter(|other| other.pin == row.pin), miners) {
        return Some(format!(
            "{} committed to the same files before, in block {}",
            first.hotkey, first.place.block
        ));
    }
    let miner = miners.first(&row.hotkey);
    let counts = |other: &&SubmissionRow| !never_entered(other) && miners.first(&other.hotkey) == miner;
    let entered: Vec<_> = earlier().filter(counts).collect();
    if entered.len() >= per_hotkey as usize {
        let other = entered.iter().find(|other| other.hotkey != row.hotkey);
        return Some(match other {
            Some(other) => format!(
                "the miner has entered {} of {per_hotkey} submissions, also as {}, whose slot this hotkey took over",
                entered.len(),
                other.hotkey
            ),
            None => format!("the hotkey has entered {} of {per_hotkey} submissions", entered.len()),
        });
    }
    None
}

/// Why `hotkey` is not on the subnet, if it is not.
pub(super) fn gone(hotkey: &Hotkey, metagraph: &Metagraph, swaps: &[Swap]) -> Option<String> {
    if metagraph.of(hotkey).is_some() {
        return None;
    }
    Some(match swaps.iter().rev().find(|swap| &swap.before == hotkey) {
        Some(Swap { block, uid, after, .. }) => {
            format!("the hotkey was exchanged for {after} in block {block}, in slot {}", uid.0)
        }
        None => "the hotkey is not registered on the subnet".into(),
    })
}

/// Why `row` is set aside, if the operator wants that.
pub(super) fn ordered(row: &SubmissionRow) -> Option<String> {
    row.set_aside.as_ref().map(|why| format!("the operator has set it aside: {why}"))
}

/// Whether `other` is an earlier try of `row`'s own miner that never entered: nothing that it
/// claims bars its miner.
pub(super) fn is_own_try(other: &SubmissionRow, row: &SubmissionRow, miners: &Miners) -> bool {
    never_entered(other) && is_own(other, row, miners)
}

/// Whether `other` is of `row`'s own miner, whatever hotkey it had then.
pub(super) fn is_own(other: &SubmissionRow, row: &SubmissionRow, miners: &Miners) -> bool {
    miners.first(&other.hotkey) == miners.first(&row.hotkey)
}

fn never_entered(row: &SubmissionRow) -> bool {
    matches!(row.state, State::SetAside | State::Expired)
}

/// The earlier submission that has the claim to the content of `row`, if there is one; `all` are
/// the submissions by place, those at least that have its content.
pub(super) fn same_content<'a>(
    row: &SubmissionRow,
    all: &'a [SubmissionRow],
    miners: &Miners,
) -> Option<&'a SubmissionRow> {
    let content = row.content?;
    let earlier = all.iter().take_while(|other| other.id != row.id);
    // What was set aside has no claim against others.
    let has_it = |other: &&SubmissionRow| {
        other.content == Some(content) && (other.state != State::SetAside || is_own_try(other, row, miners))
    };
    claim(row, earlier.filter(has_it), miners)
}

/// Which of `same` bars `row`: they are the earlier submissions of the same files, by place. The
/// first place has the claim. If it is the miner's own, every other miner's later one is a copy, and
/// only what the miner has entered itself bars it.
fn claim<'a>(
    row: &SubmissionRow,
    mut same: impl Iterator<Item = &'a SubmissionRow>,
    miners: &Miners,
) -> Option<&'a SubmissionRow> {
    let first = same.next()?;
    if !is_own(first, row, miners) {
        return Some(first);
    }
    std::iter::once(first).chain(same).find(|other| is_own(other, row, miners) && !never_entered(other))
}

#[cfg(test)]
mod tests {
    use crate::Digest;
    use crate::chain::{Coldkey, DatedBy, Neuron, Place, Uid};

    use super::*;

    fn row(id: i64, hotkey: &str, pin: &str, state: State) -> SubmissionRow {
        SubmissionRow {
            id,
            hotkey: Hotkey(hotkey.into()),
            text: String::new(),
            repository: "a/b".into(),
            pin: pin.into(),
            place: Place { block: id as u64, extrinsic: None, dated_by: DatedBy::Commitment },
            readable_at: 1,
            state,
            since_ms: 0,
            reason: String::new(),
            content: None,
            held_block: None,
            screened_king: None,
            record: None,
            voids: 0,
            due_ms: 0,
            competition: 1,
            set_aside: None,
            absent_block: None,
            failures: 0,
            is_outage: false,
        }
    }

    fn metagraph(hotkeys: &[&str]) -> Metagraph {
        let neuron = |(uid, hotkey): (usize, &&str)| Neuron {
            uid: Uid(uid as u16),
            hotkey: Hotkey((*hotkey).into()),
            coldkey: Coldkey("owner".into()),
            registered_at: 0,
            validator_permit: false,
            stake: 0,
        };
        Metagraph { neurons: hotkeys.iter().enumerate().map(neuron).collect() }
    }

    fn swap(before: &str, after: &str) -> Swap {
        Swap { block: 9, uid: Uid(3), before: Hotkey(before.into()), after: Hotkey(after.into()) }
    }

    #[test]
    fn who_takes_part_and_who_does_not() {
        let all = [
            row(1, "ann", "p1", State::Lost),
            row(2, "bob", "p2", State::SetAside),
            row(3, "bob", "p3", State::Seen),
            row(4, "cat", "p1", State::Seen),
            row(5, "ann", "p5", State::Seen),
            row(6, "dan", "p6", State::Seen),
            row(7, "eve", "p7", State::Seen),
        ];
        let swaps = [swap("ann", "dan"), swap("gil", "hal")];
        let (miners, metagraph) = (Miners::new(&swaps), metagraph(&["ann", "bob", "cat", "dan"]));
        let barred = |index: usize, most| {
            barred(&all[index], &all, most, &miners, &metagraph, &swaps).unwrap_or_default()
        };
        assert_eq!(barred(0, 1), "", "what came later bars nobody");
        assert_eq!(barred(2, 1), "", "what was set aside does not count");
        assert!(barred(3, 1).contains("ann committed to the same files before, in block 1"));
        assert!(barred(4, 1).contains("entered 1 of 1"));
        assert_eq!(barred(4, 2), "");
        assert!(barred(5, 1).contains("also as ann"), "{}", barred(5, 1));
        assert!(barred(6, 1).contains("not registered"));
        let gone = gone(&Hotkey("gil".into()), &metagraph, &swaps).expect("gone");
        assert!(gone.contains("exchanged for hal in block 9"), "{gone}");
    }

    #[test]
    fn what_never_entered_bars_its_own_miner_from_nothing() {
        let swaps = [swap("ann", "dan")];
        let (miners, metagraph) = (Miners::new(&swaps), metagraph(&["ann", "bob", "dan"]));
        let barred = |all: &[SubmissionRow]| {
            let row = all.last().expect("a row");
            barred(row, all, 1, &miners, &metagraph, &swaps)
        };
        for state in [State::Expired, State::SetAside] {
            let first = row(1, "ann", "p1", state);
            assert_eq!(barred(&[first.clone(), row(2, "ann", "p1", State::Seen)]), None, "{state:?}");
            // A hotkey that took over the slot is the same miner, another miner is not.
            assert_eq!(barred(&[first.clone(), row(2, "dan", "p1", State::Seen)]), None, "{state:?}");
            let why = barred(&[first, row(2, "bob", "p1", State::Seen)]).expect("ann's claim");
            assert!(why.contains("ann committed to the same files before"), "{why}");
        }
        let lost = [row(1, "ann", "p1", State::Lost), row(2, "ann", "p1", State::Seen)];
        assert!(barred(&lost).is_some(), "a content enters once");
    }

    #[test]
    fn a_copy_bars_nobody_from_a_retry() {
        let swaps = [swap("ann", "dan")];
        let (miners, metagraph) = (Miners::new(&swaps), metagraph(&["ann", "bob", "dan"]));
        let content = Some(Digest::of("files"));
        for retry in ["ann", "dan"] {
            // The same pin: bob's row was refused because of ann's first try.
            let rows = [
                row(1, "ann", "p1", State::Expired),
                row(2, "bob", "p1", State::SetAside),
                row(3, retry, "p1", State::Seen),
                row(4, retry, "p1", State::Seen),
            ];
            let barred = |rows: &[SubmissionRow], most| {
                let row = rows.last().expect("a row");
                barred(row, rows, most, &miners, &metagraph, &swaps)
            };
            assert_eq!(barred(&rows[..3], 1), None, "{retry}");
            assert!(barred(&rows[..2], 1).is_some_and(|why| why.contains("ann committed to the same files")));
            // What the retry has entered enters once.
            let mut again = rows.clone();
            again[2].state = State::Lost;
            let why = barred(&again, 2).expect("a content enters once");
            assert!(why.contains("same files before, in block 3"), "{why}");

            // Another pin with the same files: bob forfeited as a copy, and keeps his content.
            for first in [State::Expired, State::SetAside] {
                let mut rows = [
                    row(1, "ann", "p1", first),
                    row(2, "bob", "p2", State::Forfeit),
                    row(3, retry, "p3", State::Admitted),
                    row(4, retry, "p4", State::Admitted),
                ];
                for row in &mut rows {
                    row.content = content;
                }
                let found = |rows: &[SubmissionRow]| {
                    same_content(rows.last().expect("a row"), rows, &miners).map(|row| row.id)
                };
                assert_eq!(found(&rows[..3]), None, "{retry} after {first:?}");
                rows[2].state = State::Lost;
                assert_eq!(found(&rows), Some(3), "{retry}: a content enters once");
            }
        }
    }

    /// Where a hotkey may enter several submissions, one with the same files is set aside: it would
    /// forfeit as a copy of its own miner's.
    #[test]
    fn ones_own_files_are_ones_own_after_an_exchange_of_the_hotkey() {
        let miners = Miners::new(&[swap("ann", "dan")]);
        let mut rows = [row(1, "ann", "p1", State::Lost), row(2, "dan", "p2", State::Admitted)];
        for row in &mut rows {
            row.content = Some(Digest::of("files"));
        }
        let first = same_content(&rows[1], &rows, &miners).expect("a content enters once");
        assert!(first.id == 1 && is_own(first, &rows[1], &miners));
        assert!(!is_own(first, &row(3, "bob", "p3", State::Admitted), &miners));
    }

    #[test]
    fn a_miner_has_every_hotkey_that_its_slot_had() {
        let miners = Miners::new(&[swap("a", "b"), swap("b", "c"), swap("x", "y")]);
        let hotkeys = |hotkey: &str| {
            let all = miners.hotkeys(&Hotkey(hotkey.into()));
            all.into_iter().map(|hotkey| hotkey.0).collect::<Vec<_>>()
        };
        assert_eq!(hotkeys("b"), ["a", "b", "c"]);
        assert_eq!(hotkeys("y"), ["x", "y"]);
        assert_eq!(hotkeys("z"), ["z"]);
    }

    #[test]
    fn a_ring_of_swaps_ends() {
        let miners = Miners::new(&[swap("a", "b"), swap("b", "a")]);
        let hotkey = Hotkey("a".into());
        assert!(["a", "b"].contains(&miners.first(&hotkey).0.as_str()));
    }

    #[test]
    fn the_earliest_place_has_the_content() {
        let content = Some(Digest::of("files"));
        let mut all = [
            row(1, "ann", "p1", State::SetAside),
            row(2, "bob", "p2", State::Lost),
            row(3, "cat", "p3", State::Admitted),
        ];
        let miners = Miners::default();
        assert!(same_content(&all[2], &all, &miners).is_none(), "nothing is known of it yet");
        for row in &mut all {
            row.content = content;
        }
        assert_eq!(same_content(&all[2], &all, &miners).map(|row| row.id), Some(2));
        assert!(same_content(&all[1], &all, &miners).is_none());
        // What has expired has its claim before others, and none before its own miner.
        all[1].state = State::Expired;
        assert_eq!(same_content(&all[2], &all, &miners).map(|row| row.id), Some(2));
        all[2].hotkey = Hotkey("bob".into());
        assert!(same_content(&all[2], &all, &miners).is_none());
    }
}
