//! Which of the stored sets a submission is asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::screens::store::Answered;

/// Most sets that a submission is asked, unless the setting `sets` is larger. Source: chosen by
/// albedo; a set is one pass over some tens of replies.
const MOST: usize = 16;

/// The chosen sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Their numbers, the latest first.
    pub(super) sets: Vec<i64>,
    /// Earlier submissions that have answered any set, each with the sets that it may be compared
    /// on: those that most kings have answered.
    fitting: BTreeMap<i64, BTreeSet<i64>>,
}

impl Choice {
    /// The sets `latest`, which are the latest ones in order, and of earlier ones as many as it
    /// takes until every submission that `answered` any set, except those of a label in `own`, can
    /// be compared.
    pub(super) fn of(latest: &[i64], answered: &Answered, own: &[String]) -> Self {
        let kings = |set: &i64| answered.kings.get(set).copied().unwrap_or(0);
        let mut fitting: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for (set, entry, label) in &answered.by {
            if own.contains(label) {
                continue;
            }
            let sets = fitting.entry(*entry).or_default();
            let most = sets.first().map_or(0, kings);
            if kings(set) > most {
                sets.clear();
            }
            if kings(set) >= most {
                sets.insert(*set);
            }
        }
        let mut chosen: BTreeSet<i64> = latest.iter().copied().collect();
        let most = MOST.max(chosen.len());
        let mut missed: Vec<&BTreeSet<i64>> = fitting.values().collect();
        loop {
            missed.retain(|sets| sets.is_disjoint(&chosen));
            if missed.is_empty() || chosen.len() >= most {
                break;
            }
            let mut covers: BTreeMap<i64, usize> = BTreeMap::new();
            for set in missed.iter().copied().flatten() {
                *covers.entry(*set).or_default() += 1;
            }
            // Of those that cover as many, the latest.
            let Some((set, _)) = covers.into_iter().max_by_key(|(set, count)| (*count, *set)) else { break };
            chosen.insert(set);
        }
        Self { sets: chosen.into_iter().rev().collect(), fitting }
    }

    /// Whether the submission `entry` is compared on `set`.
    pub(super) fn fits(&self, entry: i64, set: i64) -> bool {
        self.fitting.get(&entry).is_some_and(|sets| sets.contains(&set))
    }

    /// Submissions that could be compared if there were enough sets.
    pub(super) fn entries(&self) -> usize {
        self.fitting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(by: &[(i64, &[i64])], kings: &[(i64, usize)]) -> Answered {
        let by = by.iter().flat_map(|(entry, sets)| {
            sets.iter().map(|set| (*set, *entry, format!("entry {entry}"))).collect::<Vec<_>>()
        });
        Answered { by: by.collect(), kings: kings.iter().copied().collect() }
    }

    #[test]
    fn earlier_sets_are_asked_until_everybody_is_among_those_who_answered() {
        // One set per week, and who came in a week answered its set and the one before.
        let weeks: Vec<(i64, [i64; 2])> = (1..=9).map(|week| (week, [week, week - 1])).collect();
        let by: Vec<(i64, &[i64])> = weeks.iter().map(|(week, sets)| (*week, &sets[..])).collect();
        let choice = Choice::of(&[9, 8], &answered(&by, &[]), &[]);
        assert_eq!((choice.sets, choice.fitting.len()), (vec![9, 8, 6, 4, 2, 1], 9));
        let own: Vec<_> = (1..=5).map(|week| format!("entry {week}")).collect();
        let choice = Choice::of(&[9, 8], &answered(&by, &[]), &own);
        assert_eq!((&choice.sets, choice.entries()), (&vec![9, 8, 6], 4));
    }

    #[test]
    fn nobody_is_compared_where_fewer_kings_have_answered() {
        let by: [(i64, &[i64]); 3] = [(1, &[1]), (2, &[1, 2]), (3, &[2, 3])];
        let choice = Choice::of(&[3], &answered(&by, &[(1, 2), (2, 1), (3, 1)]), &[]);
        assert_eq!(choice.sets, [3, 1]);
        assert!(choice.fits(2, 1) && !choice.fits(2, 2) && choice.fits(3, 3) && choice.fits(3, 2));
    }

    #[test]
    fn the_number_of_sets_is_bounded() {
        let weeks: Vec<(i64, [i64; 1])> = (1..=40).map(|week| (week, [week])).collect();
        let by: Vec<(i64, &[i64])> = weeks.iter().map(|(week, sets)| (*week, &sets[..])).collect();
        let choice = Choice::of(&[40, 39], &answered(&by, &[]), &[]);
        assert_eq!((choice.sets.len(), choice.entries()), (MOST, 40));
        assert!((25..=40).all(|week| choice.sets.contains(&week)), "the latest: {:?}", choice.sets);
    }
}
