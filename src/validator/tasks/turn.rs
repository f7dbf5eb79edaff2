//! Whose turn it is, and how long a failure pauses: pure functions.

use std::time::Duration;

use crate::Fault;
use crate::validator::ledger::SubmissionRow;
use crate::validator::table::State;

/// The longest pause after a failure, in seconds. Source: albedo.
const LONGEST_SECS: u64 = 1800;

/// Failures since its last move forward after which a submission holds up no other one while it waits:
/// some forty minutes of an outage, half an hour where an operator has to act. After twice as many it
/// takes no other one's room, either. Source: albedo.
const PATIENCE: u32 = 9;

/// Whether what is due at `due_ms` waits at `now_ms`, both in milliseconds since the Unix
/// epoch. Nothing waits for longer than the longest pause: a later time is of a clock that was
/// wrong, and it is due at once.
pub(super) fn waits(due_ms: u64, now_ms: u64) -> bool {
    due_ms > now_ms && due_ms - now_ms <= LONGEST_SECS * 1000
}

/// Whether others no longer wait for `row`, which fails again and again.
fn is_passed_over(row: &SubmissionRow, now_ms: u64) -> bool {
    row.failures >= PATIENCE && waits(row.due_ms, now_ms)
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
/// `skip`.
pub(super) fn next_to_screen<'a>(
    live: &'a [SubmissionRow],
    king: i64,
    ahead: usize,
    now_ms: u64,
    skip: &[i64],
) -> Turn<'a> {
    // What the operator sets aside waits for nothing.
    let is_ordered =
        |row: &&SubmissionRow| row.set_aside.is_some() && is_admissions(row, king) && !skip.contains(&row.id);
    if let Some(row) = live.iter().find(is_ordered) {
        return Turn::Take(row);
    }
    let mut queue = Queue::new(king, ahead, now_ms);
    let mut due: Option<u64> = None;
    for row in live {
        if !queue.screens(row) || skip.contains(&row.id) {
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

/// Whether admission has `row`, and not the duels.
fn is_admissions(row: &SubmissionRow, king: i64) -> bool {
    match row.state {
        State::Seen | State::Admitted | State::FilesClear | State::Held => true,
        State::Clear => !is_clear_beside(row, king),
        _ => false,
    }
}

/// Whether `row` waits for its duel against `king`.
pub(super) fn is_clear_beside(row: &SubmissionRow, king: i64) -> bool {
    row.state == State::Clear && row.screened_king == Some(king)
}

/// The submission that duels next: the first one that is clear beside `king`. It waits for an
/// earlier one that admission fetches or screens at the moment, and for no other one.
pub(super) fn next_to_duel(live: &[SubmissionRow], king: i64, ahead: usize, now_ms: u64) -> Turn<'_> {
    let mut queue = Queue::new(king, ahead, now_ms);
    let mut due: Option<u64> = None;
    for row in live {
        let is_admissions = queue.screens(row);
        match row.state {
            State::Clear if waits(row.due_ms, now_ms) => {
                due = Some(due.map_or(row.due_ms, |due| due.min(row.due_ms)));
            }
            State::Clear if is_clear_beside(row, king) => return Turn::Take(row),
            State::FilesClear | State::Held | State::Clear if is_admissions && !waits(row.due_ms, now_ms) => {
                return Turn::Wait(due);
            }
            _ => {}
        }
    }
    Turn::Wait(due)
}

/// What admission has met of the queue, which it goes through by place.
///
/// - At most `ahead` submissions are fetched and screened before their turn.
/// - A submission is not screened before an earlier one whose bytes are here, or whose last look ended
///   with an outage: a copy would be screened before its original.
/// - A submission that is passed over holds up no other one. If its bytes are here and `ahead`
///   others are passed over already, it still counts among those that are fetched until it has
///   failed twice as often, so that an outage does not have the whole queue fetched.
struct Queue {
    king: i64,
    ahead: usize,
    now_ms: u64,
    fetched: usize,
    passed_over: usize,
    /// Whether an earlier one has to be screened first.
    is_held_up: bool,
}

impl Queue {
    fn new(king: i64, ahead: usize, now_ms: u64) -> Self {
        Self { king, ahead: ahead.max(1), now_ms, fetched: 0, passed_over: 0, is_held_up: false }
    }

    /// Whether admission works on `row`, the next one, once it is due.
    fn screens(&mut self, row: &SubmissionRow) -> bool {
        let is_passed_over = is_passed_over(row, self.now_ms);
        match row.state {
            State::Planned | State::Duelling => return false,
            State::Clear | State::FilesClear | State::Held => {
                // Its hub no longer has the files: it is looked at, and takes no room of others.
                let is_gone = row.state == State::FilesClear && row.absent_block.is_some();
                // Nothing is here of one that is only listed.
                let takes_room = row.state != State::FilesClear && row.failures < 2 * PATIENCE;
                if is_passed_over && takes_room && self.passed_over < self.ahead {
                    self.passed_over += 1;
                } else if (takes_room || !is_passed_over) && !is_gone {
                    self.fetched += 1;
                }
                let place = self.fetched + usize::from(is_gone);
                if is_clear_beside(row, self.king) || place > self.ahead {
                    return false;
                }
            }
            _ => {}
        }
        let is_blocked = self.is_held_up && row.state == State::Held;
        self.is_held_up |= match row.state {
            State::Held => !is_passed_over,
            // Any other failure may follow from what was committed, as a name that no file can have. So
            // does an answer of the hub that the files are not there.
            State::Admitted | State::FilesClear => row.is_outage && !is_passed_over,
            _ => false,
        };
        !is_blocked
    }
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
            set_aside: None,
            absent_block: None,
            failures: 0,
            is_outage: false,
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
    fn what_the_operator_sets_aside_waits_for_nothing_and_is_the_duels_while_it_is_clear() {
        use State::{Admitted, Clear, FilesClear, Held, Seen};
        let ordered = |row: SubmissionRow| SubmissionRow { set_aside: Some("why".into()), ..row };
        let screen = |row: SubmissionRow, king| {
            let rows = [self::row(1, Held, 0), self::row(2, Clear, 0), self::row(3, Clear, 0), row];
            taken(&next_to_screen(&rows, king, 1, 10, &[]))
        };
        for state in [Seen, Admitted, FilesClear, Held] {
            assert_eq!(screen(ordered(row(4, state, 99)), 1), Some(4), "{state:?}");
        }
        assert_eq!(screen(ordered(row(4, Clear, 99)), 2), Some(4), "another king reigns");
        assert_eq!(screen(ordered(row(4, Clear, 99)), 1), Some(1));
        let rows = [ordered(row(1, Held, 0)), row(2, Admitted, 0)];
        assert_eq!(taken(&next_to_screen(&rows, 1, 1, 10, &[1])), Some(2));
    }

    #[test]
    fn duels_go_by_place_and_pass_an_outage() {
        use State::{Admitted, Clear, FilesClear, Held};
        let duel = |states: &[(State, u64)], king| {
            let rows: Vec<_> = (1..).zip(states).map(|(id, (state, due))| row(id, *state, *due)).collect();
            taken(&next_to_duel(&rows, king, 2, 10))
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

    /// Rows of `states`, each due at that time after so many outages.
    fn failing(states: &[(State, u64, u32)]) -> Vec<SubmissionRow> {
        let failed = |(id, (state, due, failures)): (i64, &(State, u64, u32))| SubmissionRow {
            failures: *failures,
            is_outage: *failures > 0,
            ..row(id, *state, *due)
        };
        (1..).zip(states).map(failed).collect()
    }

    #[test]
    fn no_copy_is_screened_before_an_original_that_could_not_be_had_at_once() {
        use State::{Admitted, Clear, FilesClear, Held};
        let screen = |states: &[(State, u64, u32)]| taken(&next_to_screen(&failing(states), 1, 2, 10, &[]));
        let duel = |states: &[(State, u64, u32)]| taken(&next_to_duel(&failing(states), 1, 2, 10));
        for state in [Admitted, FilesClear] {
            let copy = |voids| [(state, 99, voids), (Held, 0, 0)];
            for voids in 1..PATIENCE {
                assert_eq!(screen(&copy(voids)), None, "{state:?} after {voids}");
            }
            // A miner who never uploads, or deletes the files, holds up nobody.
            for voids in [0, PATIENCE, 2 * PATIENCE] {
                assert_eq!(screen(&copy(voids)), Some(2), "{state:?} after {voids}");
            }
            assert_eq!(screen(&[(state, 0, 1), (Held, 0, 0)]), Some(1), "it is due");
            // What waits like that holds up no duel, and nothing that is fetched.
            assert_eq!(duel(&[(state, 99, 1), (Held, 0, 0), (Clear, 0, 0)]), Some(3), "{state:?}");
            assert_eq!(screen(&[(state, 99, 1), (FilesClear, 0, 0)]), Some(2), "{state:?}");
            assert_eq!(screen(&[(state, 99, 1), (Admitted, 0, 0)]), Some(2), "{state:?}");
        }
    }

    #[test]
    fn what_may_follow_from_what_was_committed_holds_up_nobody() {
        use State::{Admitted, FilesClear, Held};
        for state in [Admitted, FilesClear] {
            // A name that no file can have, or a project that its miner has made private.
            let failed = SubmissionRow { failures: 1, voids: 1, ..row(1, state, 99) };
            let outage = SubmissionRow { is_outage: true, ..failed.clone() };
            let screen = |first: &SubmissionRow| {
                let rows = [first.clone(), row(2, Held, 0)];
                taken(&next_to_screen(&rows, 1, 2, 10, &[]))
            };
            assert_eq!((screen(&failed), screen(&outage)), (Some(2), None), "{state:?}");
            // Answers of its hub in between do not end the count.
            let again = SubmissionRow { failures: PATIENCE, ..outage };
            assert_eq!(screen(&again), Some(2), "{state:?}");
        }
    }

    #[test]
    fn what_its_hub_no_longer_has_takes_no_room() {
        use State::{Clear, FilesClear};
        let gone = |id, due| SubmissionRow { absent_block: Some(7), ..row(id, FilesClear, due) };
        let screen = |rows: &[SubmissionRow]| taken(&next_to_screen(rows, 1, 2, 10, &[]));
        assert_eq!(screen(&[gone(1, 99), gone(2, 99), row(3, FilesClear, 0)]), Some(3));
        assert_eq!(screen(&[row(1, FilesClear, 99), row(2, FilesClear, 99), row(3, FilesClear, 0)]), None);
        assert_eq!(screen(&[row(1, Clear, 0), gone(2, 0)]), Some(2), "it is looked at");
        assert_eq!(screen(&[row(1, Clear, 0), row(2, Clear, 0), gone(3, 0)]), None, "its files may be back");
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
        // An outage in which they all fail has no more than twice as many fetched, for hours.
        for state in [Held, Clear] {
            let behind = |count, voids| {
                let mut states = vec![(state, 99, voids); count];
                states.push((FilesClear, 0, 0));
                screen(&states)
            };
            assert_eq!(behind(3, PATIENCE), Some(4), "{state:?}");
            assert_eq!(behind(4, PATIENCE), None, "{state:?}");
            assert_eq!(behind(4, 2 * PATIENCE - 1), None, "{state:?}");
            // What fails for ever takes nobody's room, however many do.
            for count in [4, 9] {
                assert_eq!(behind(count, 2 * PATIENCE), Some(count as i64 + 1), "{state:?}");
            }
        }
        // Those that fail for ever leave the others their room, too.
        let mut states = vec![(Held, 99, 2 * PATIENCE); 4];
        states.extend([(Held, 99, PATIENCE), (Held, 99, PATIENCE), (FilesClear, 0, 0)]);
        assert_eq!(screen(&states), Some(7));
        // Nothing is here of those that could not be fetched.
        let mut states = vec![(FilesClear, 99, PATIENCE); 9];
        states.push((FilesClear, 0, 0));
        assert_eq!(screen(&states), Some(10));
        let duel = |states: &[(State, u64, u32)]| taken(&next_to_duel(&failing(states), 1, 2, 10));
        let behind = |voids| [(Held, 99, voids), (Held, 0, 0), (Held, 0, 0), (Clear, 0, 0)];
        assert_eq!(duel(&behind(1)), Some(4), "the second and third are not screened before the first");
        assert_eq!(duel(&behind(PATIENCE)), None, "the second is screened now");
        assert_eq!(duel(&[(Held, 99, 1), (FilesClear, 0, 0), (Clear, 0, 0)]), None, "the second is fetched");
        // Two are held for hours, two more take the room: the fifth is not fetched, nor waited for.
        let mut states = vec![(Held, 99, PATIENCE); 4];
        states.extend([(FilesClear, 0, 0), (Clear, 0, 0)]);
        assert_eq!((screen(&states), duel(&states)), (None, Some(6)));
        states[..4].fill((Held, 99, 2 * PATIENCE));
        assert_eq!((screen(&states), duel(&states)), (Some(5), None), "the fifth is fetched");
    }

    #[test]
    fn a_clock_that_was_wrong_holds_up_nobody() {
        let hour = 3_600_000;
        assert!(waits(hour + 1, hour) && waits(hour + 1_800_000, hour));
        assert!(!waits(hour, hour) && !waits(hour - 1, hour), "it is due");
        // The clock was an hour ahead when the pause was entered.
        assert!(!waits(2 * hour + 10_000, hour));
        let rows = [row(1, State::Clear, 2 * hour)];
        assert_eq!(taken(&next_to_duel(&rows, 1, 2, 0)), Some(1));
        let rows = [row(1, State::Admitted, 2 * hour)];
        assert_eq!(taken(&next_to_screen(&rows, 1, 2, 0, &[])), Some(1));
    }

    #[test]
    fn pauses_double_to_a_limit() {
        let secs = |fault, times| pause(fault, times).as_secs();
        assert_eq!([0, 1, 2, 30].map(|times| secs(Fault::Infrastructure, times)), [10, 20, 40, 1800]);
        assert_eq!([0, 9].map(|times| secs(Fault::Operator, times)), [60, 300]);
        // What it takes to be passed over: the pauses before the last failure.
        let patience = |fault| (0..PATIENCE - 1).map(|times| secs(fault, times)).sum::<u64>();
        assert_eq!([Fault::Infrastructure, Fault::Operator].map(patience), [42 * 60 + 30, 32 * 60]);
    }
}
