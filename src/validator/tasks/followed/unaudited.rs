//! Duels that cannot be audited.

use super::EPOCHS;
use crate::chain::EpochIndex;

/// What becomes of a duel that cannot be audited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WithoutAudit {
    Waits,
    Taken,
    Refused,
}

/// What becomes of a duel whose models' files are gone, for so many epochs. A miner may delete
/// them at any time: only a crown is refused for that. What was over before all of the log was
/// followed once is not waited for.
pub(super) fn without_audit(crowns: bool, waited: EpochIndex, caught_up: bool) -> WithoutAudit {
    match (crowns, waited >= EPOCHS) {
        (true, true) => WithoutAudit::Refused,
        (false, has_waited) if has_waited || !caught_up => WithoutAudit::Taken,
        _ => WithoutAudit::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duel_whose_models_are_gone_stops_nobody_unless_it_crowned() {
        use WithoutAudit::{Refused, Taken, Waits};
        assert_eq!(
            [0, 1, 2, 9].map(|waited| without_audit(false, waited, true)),
            [Waits, Waits, Taken, Taken]
        );
        assert_eq!([0, 1, 2].map(|waited| without_audit(false, waited, false)), [Taken, Taken, Taken]);
        for caught_up in [false, true] {
            let crowned = [0, 1, 2].map(|waited| without_audit(true, waited, caught_up));
            assert_eq!(crowned, [Waits, Waits, Refused], "{caught_up}");
        }
    }
}
