use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The table as it stands in the design, row by row. A change of `after` has to be made
/// here, too.
const ALLOWED: [(&str, &str, &str); 32] = [
    ("seen", "admit", "admitted"),
    ("seen", "set_aside", "set_aside"),
    ("admitted", "clear_files", "files_clear"),
    ("admitted", "forfeit", "forfeit"),
    ("admitted", "void", "admitted"),
    ("admitted", "expire", "expired"),
    ("admitted", "set_aside", "set_aside"),
    ("files_clear", "hold", "held"),
    ("files_clear", "forfeit", "forfeit"),
    ("files_clear", "void", "files_clear"),
    ("files_clear", "expire", "expired"),
    ("files_clear", "set_aside", "set_aside"),
    ("held", "clear", "clear"),
    ("held", "forfeit", "forfeit"),
    ("held", "void", "held"),
    ("held", "expire", "expired"),
    ("held", "set_aside", "set_aside"),
    ("clear", "rescreen", "held"),
    ("clear", "plan", "planned"),
    ("clear", "forfeit", "forfeit"),
    ("clear", "void", "clear"),
    ("clear", "expire", "expired"),
    ("clear", "set_aside", "set_aside"),
    ("planned", "begin", "duelling"),
    ("planned", "void", "planned"),
    ("planned", "abandon", "clear"),
    ("duelling", "crown", "crowned"),
    ("duelling", "lose", "lost"),
    ("duelling", "forfeit", "forfeit"),
    ("duelling", "void", "planned"),
    // Two that are easy to get wrong, and must not be there.
    ("planned", "set_aside", ""),
    ("planned", "forfeit", ""),
];

#[test]
fn every_pair_of_state_and_move_is_as_it_is_written_down() {
    let allowed: BTreeSet<_> = ALLOWED.into_iter().filter(|(_, _, to)| !to.is_empty()).collect();
    let mut found = BTreeSet::new();
    for state in STATES {
        for step in Move::ALL {
            if let Some(to) = after(state, step) {
                found.insert((name(state), step.name(), name(to)));
            }
        }
    }
    assert_eq!(found, allowed);
}

#[test]
fn names_are_those_of_the_public_data_and_read_back() {
    for state in STATES {
        assert_eq!(serde_json::to_value(state).ok(), Some(name(state).into()));
        assert_eq!(by_name(name(state)), Some(state));
    }
    assert_eq!(by_name("unheard of"), None);
    assert_eq!(Move::ALL.map(Move::name).into_iter().collect::<BTreeSet<_>>().len(), Move::ALL.len());
}

/// The states that moves other than `without` lead to from `from`.
fn reachable(from: State, without: &[Move]) -> Vec<State> {
    let mut reached = vec![from];
    let mut next = 0;
    while next < reached.len() {
        let state = reached[next];
        next += 1;
        let moves = Move::ALL.into_iter().filter(|step| !without.contains(step));
        for to in moves.filter_map(|step| after(state, step)) {
            if !reached.contains(&to) {
                reached.push(to);
            }
        }
    }
    reached
}

#[test]
fn every_state_is_reached_and_every_live_one_has_a_way_to_an_end() {
    assert_eq!(reachable(State::Seen, &[]).len(), STATES.len());
    for state in STATES {
        let ends = reachable(state, &[Move::Void, Move::Abandon, Move::Rescreen]);
        assert!(ends.into_iter().any(is_final), "{state:?} has no way out");
        let moves = Move::ALL.into_iter().filter(|step| after(state, *step).is_some()).count();
        assert_eq!(moves == 0, is_final(state), "{state:?}");
    }
}

#[test]
fn nobody_loses_by_an_outage_and_nothing_is_spent_without_a_duel() {
    for state in STATES {
        if let Some(to) = after(state, Move::Void) {
            assert!(!is_final(to), "an outage ends nothing");
        }
        assert!(!reachable(state, &[Move::Plan]).contains(&State::Planned) || state >= State::Planned);
    }
    // A crown or a loss needs a duel that began, a duel a plan.
    for without in [Move::Begin, Move::Plan] {
        let reached = reachable(State::Seen, &[without]);
        assert!(!reached.contains(&State::Crowned) && !reached.contains(&State::Lost), "{without:?}");
    }
    let spending: Vec<_> = Move::ALL.into_iter().filter(|step| step.spends()).collect();
    assert_eq!(spending, [Move::Plan]);
    assert!(Move::ALL.into_iter().filter(|step| step.needs_record()).eq([
        Move::Crown,
        Move::Lose,
        Move::Forfeit
    ]));
}

proptest! {
    /// Whatever is tried in whatever order: what is spent follows from the moves that were
    /// made, and an end is an end.
    #[test]
    fn no_sequence_of_moves_breaks_the_books(
        tries in proptest::collection::vec(0..Move::ALL.len(), 0..200),
    ) {
        let (mut state, mut plans, mut abandoned, mut ended) = (State::Seen, 0, 0, false);
        for step in tries.into_iter().map(|index| Move::ALL[index]) {
            let Some(to) = after(state, step) else { continue };
            prop_assert!(!ended, "a move out of an end");
            plans += u32::from(step.spends());
            abandoned += u32::from(step == Move::Abandon);
            let has_plan = matches!(to, State::Planned | State::Duelling | State::Crowned | State::Lost);
            // A share is spent per plan; a void keeps its plan, only an abandoned one is replaced.
            if has_plan {
                prop_assert_eq!(plans, abandoned + 1);
            } else if to != State::Forfeit {
                prop_assert_eq!(plans, abandoned);
            }
            (state, ended) = (to, is_final(to));
        }
    }
}
