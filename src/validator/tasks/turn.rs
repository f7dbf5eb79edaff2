//! Whose turn it is, and how long a failure pauses: pure functions.

use std::time::Duration;

use crate::Fault;
use crate::validator::ledger::SubmissionRow;
use crate::validator::table::State;

/// The longest pause after a failure, in seconds. Source: albedo.
const LONGEST_SECS: u64 = 1800;

/// Failures in a row after which a submission holds up no other one while it waits: of an
/// outage, some forty minutes. Source: albedo.
const PATIENCE: u32 = 8;

/// Whether what is due at `due_ms` waits at `now_ms`, both in milliseconds since the Unix
/// epoch. Nothing waits for longer than the longest pause: a later time is of a clock that was
/// wrong, and it is due at once.
pub(super) fn waits(due_ms: u64, now_ms: u64) -> bool {
    due_ms > now_ms && due_ms - now_ms <= LONGEST_SECS * 1000
}

/// Whether others no longer wait for `row`, which fails again and again.
fn is_passed_over(row: &SubmissionRow, now_ms: u64) -> bool {
    row.voids >= PATIENCE && waits(row.due_ms, now_ms)
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Turn<'a> {
    /// This submission.
    Take(&'a SubmissionRow),
    /// Nothing before that time, in milliseconds since the Unix epoch; nothing at all
    /// without one.
    Wait(Option<u64>),
}

/// The submission that admission looks at next, of `live`, which are by place; none of
/// `skip`. At most `ahead` are fetched and screened before their turn. A submission is not
/// screened before an earlier one whose bytes are here: a copy would be screened before its
/// original. One that fails for long is passed over while it waits.
pub(super) fn next_to_screen<'a>(
    live: &'a [SubmissionRow],
    king: i64,
    ahead: usize,
    now_ms: u64,
    skip: &[i64],
) -> Turn<'a> {
    let (mut fetched, mut held_before) = (0, false);
    let mut due: Option<u64> = None;
    for row in live {
        let (beside_this_king, counts) = (row.screened_king == Some(king), !is_passed_over(row, now_ms));
        match row.state {
            State::Planned | State::Duelling => continue,
            State::Clear if beside_this_king => {
                fetched += usize::from(counts);
                continue;
            }
            State::Clear | State::FilesClear | State::Held => {
                fetched += usize::from(counts);
                if fetched > ahead.max(1) {
                    continue;
                }
            }
            _ => {}
        }
        let blocked = held_before && row.state == State::Held;
        held_before |= counts && row.state == State::Held;
        if blocked || skip.contains(&row.id) {
            continue;
        }
        if waits(row.due_ms, now_ms) {
            due = Some(due.map_or(row.due_ms, |due| due.min(row.due_ms)));
            continue;
        }
        return Turn::Take(row);
    }
    Turn::Wait(due)
}

/// The submission that duels next: the first one that is clear beside `king`. It waits for
/// an earlier one that is fetched or screened at the moment, not for one whose outage
/// lasts, nor for those that are not screened before that one.
pub(super) fn next_to_duel(live: &[SubmissionRow], king: i64, now_ms: u64) -> Turn<'_> {
    let (mut due, mut blocked): (Option<u64>, bool) = (None, false);
    for row in live {
        let is_waiting = waits(row.due_ms, now_ms);
        match row.state {
            State::Held if blocked => {}
            State::Held if is_waiting => blocked = !is_passed_over(row, now_ms),
            State::FilesClear | State::Held if !is_waiting => return Turn::Wait(due),
            State::Clear if is_waiting => {
                due = Some(due.map_or(row.due_ms, |due| due.min(row.due_ms)));
            }
            State::Clear if row.screened_king == Some(king) => return Turn::Take(row),
            State::Clear => return Turn::Wait(due),
            _ => {}
        }
    }
    Turn::Wait(due)
}

/// How long what failed `times` in a row before waits, by who has to act: an outage is
/// asked again soon, doubling to half an hour; an operator is given five minutes. Source:
/// albedo.
pub(super) fn pause(fault: Fault, times: u32) -> Duration {
    let doubled = |first: u64, most: u64| {
        Duration::from_secs(first.saturating_mul(2_u64.saturating_pow(times.min(20))).min(most))
    };
    match fault {
        Fault::Infrastructure => doubled(10, LONGEST_SECS),
        Fault::Operator | Fault::Contestant(_) => doubled(60, 300),
        _ => doubled(60, LONGEST_SECS),
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::{DatedBy, Hotkey, Place};

    use super::*;

    fn row(id: i64, state: State, due_ms: u64) -> SubmissionRow {
        SubmissionRow {
            id,
            hotkey: Hotkey(id.to_string()),
            text: String::new(),
            repository: String::new(),
            pin: String::new(),
            place: Place { block: id as u64, extrinsic: None, dated_by: DatedBy::Commitment },
            readable_at: 1,
            state,
            since_ms: 0,
            reason: String::new(),
            content: None,
            held_block: None,
            screened_king: (state == State::Clear).then_some(1),
            record: None,
            voids: 0,
            due_ms,
            competition: 1,
        }
    }

    fn taken(turn: &Turn<'_>) -> Option<i64> {
        match turn {
            Turn::Take(row) => Some(row.id),
            Turn::Wait(_) => None,
        }
    }

    #[test]
    fn admission_goes_by_place_and_not_too_far_ahead() {
        use State::{Admitted, Clear, FilesClear, Held, Planned, Seen};
        let screen = |states: &[(State, u64)], king, skip: &[i64]| {
            let rows: Vec<_> = (1..).zip(states).map(|(id, (state, due))| row(id, *state, *due)).collect();
            taken(&next_to_screen(&rows, king, 2, 10, skip))
        };
        assert_eq!(screen(&[(Planned, 0), (Clear, 0), (Held, 0), (FilesClear, 0)], 1, &[]), Some(3));
        assert_eq!(screen(&[(Clear, 0), (Clear, 0), (FilesClear, 0)], 1, &[]), None, "two are ahead");
        assert_eq!(screen(&[(Clear, 0), (Clear, 0), (FilesClear, 0), (Seen, 0)], 1, &[]), Some(4));
        assert_eq!(screen(&[(Held, 99), (Held, 0)], 1, &[]), None, "a copy never before its original");
        assert_eq!(screen(&[(Admitted, 99), (Held, 0)], 1, &[]), Some(2), "whose bytes nobody has");
        assert_eq!(screen(&[(Admitted, 0), (Held, 0)], 1, &[1]), Some(2));
        assert_eq!(screen(&[(Clear, 0), (Held, 0)], 2, &[]), Some(1), "another king reigns");
        let rows = [row(1, Admitted, 30), row(2, Admitted, 20)];
        assert_eq!(next_to_screen(&rows, 1, 2, 10, &[]), Turn::Wait(Some(20)));
    }

    #[test]
    fn duels_go_by_place_and_pass_an_outage() {
        use State::{Admitted, Clear, FilesClear, Held};
        let duel = |states: &[(State, u64)], king| {
            let rows: Vec<_> = (1..).zip(states).map(|(id, (state, due))| row(id, *state, *due)).collect();
            taken(&next_to_duel(&rows, king, 10))
        };
        assert_eq!(
            duel(&[(Admitted, 0), (Clear, 0), (Clear, 0)], 1),
            Some(2),
            "who never uploads holds up nobody"
        );
        assert_eq!(duel(&[(Held, 0), (Clear, 0)], 1), None);
        assert_eq!(duel(&[(FilesClear, 99), (Clear, 0)], 1), Some(2));
        assert_eq!(duel(&[(Clear, 99), (Clear, 0)], 1), Some(2));
        assert_eq!(duel(&[(Clear, 0)], 2), None, "it is compared with the new king first");
    }

    /// Rows of `states`, each due at that time after so many failures.
    fn failing(states: &[(State, u64, u32)]) -> Vec<SubmissionRow> {
        let failed = |(id, (state, due, voids)): (i64, &(State, u64, u32))| SubmissionRow {
            voids: *voids,
            ..row(id, *state, *due)
        };
        (1..).zip(states).map(failed).collect()
    }

    #[test]
    fn what_fails_for_ever_holds_up_others_for_a_while_only() {
        use State::{Clear, FilesClear, Held};
        let screen = |states: &[(State, u64, u32)]| taken(&next_to_screen(&failing(states), 1, 2, 10, &[]));
        assert_eq!(screen(&[(Held, 99, PATIENCE - 1), (Held, 0, 0)]), None);
        assert_eq!(screen(&[(Held, 99, PATIENCE), (Held, 0, 0)]), Some(2));
        assert_eq!(screen(&[(Held, 0, PATIENCE), (Held, 0, 0)]), Some(1), "it is tried again first");
        // Nor do two of them take all the places of those that are fetched.
        for state in [FilesClear, Held, Clear] {
            let two = |voids| [(state, 99, voids), (state, 99, voids), (FilesClear, 0, 0)];
            assert_eq!(screen(&two(PATIENCE - 1)), None, "{state:?}");
            assert_eq!(screen(&two(PATIENCE)), Some(3), "{state:?}");
        }
        let duel = |states: &[(State, u64, u32)]| taken(&next_to_duel(&failing(states), 1, 10));
        let behind = |voids| [(Held, 99, voids), (Held, 0, 0), (Held, 0, 0), (Clear, 0, 0)];
        assert_eq!(duel(&behind(1)), Some(4), "the second and third are not screened before the first");
        assert_eq!(duel(&behind(PATIENCE)), None, "the second is screened now");
        assert_eq!(duel(&[(Held, 99, 1), (FilesClear, 0, 0), (Clear, 0, 0)]), None, "the second is fetched");
    }

    #[test]
    fn a_clock_that_was_wrong_holds_up_nobody() {
        let hour = 3_600_000;
        assert!(waits(hour + 1, hour) && waits(hour + 1_800_000, hour));
        assert!(!waits(hour, hour) && !waits(hour - 1, hour), "it is due");
        // The clock was an hour ahead when the pause was entered.
        assert!(!waits(2 * hour + 10_000, hour));
        let rows = [row(1, State::Clear, 2 * hour)];
        assert_eq!(taken(&next_to_duel(&rows, 1, 0)), Some(1));
        let rows = [row(1, State::Admitted, 2 * hour)];
        assert_eq!(taken(&next_to_screen(&rows, 1, 2, 0, &[])), Some(1));
    }

    #[test]
    fn pauses_double_to_a_limit() {
        let secs = |fault, times| pause(fault, times).as_secs();
        assert_eq!([0, 1, 2, 30].map(|times| secs(Fault::Infrastructure, times)), [10, 20, 40, 1800]);
        assert_eq!([0, 9].map(|times| secs(Fault::Operator, times)), [60, 300]);
    }
}
