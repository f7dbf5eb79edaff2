//! Duels that cannot be audited.

use super::EPOCHS;
use crate::Result;
use crate::chain::EpochIndex;
use crate::validator::ledger::{FollowedRow, Ledger};

/// What becomes of a duel that cannot be audited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WithoutAudit {
    Waits,
    Taken,
    Refused,
}

impl WithoutAudit {
    /// What becomes of the duel that the next entry of `row` ends, perhaps with a crown, and whose
    /// models' files are gone in `epoch`. The epochs count from when they were missing first: a
    /// duel takes some, and so may an outage before its audit.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn of(
        ledger: &Ledger,
        row: &FollowedRow,
        crowns: bool,
        epoch: EpochIndex,
    ) -> Result<Self> {
        let since = ledger.note_missing(row.next, epoch).await?;
        Ok(without_audit(crowns, epoch.saturating_sub(since), row.caught_up))
    }
}

/// What becomes of a duel whose models' files are gone, for so many epochs. A miner may delete
/// them at any time: only a crown is refused for that. What was over before all of the log was
/// followed once is not waited for.
fn without_audit(crowns: bool, waited: EpochIndex, caught_up: bool) -> WithoutAudit {
    match (crowns, waited >= EPOCHS) {
        (true, true) => WithoutAudit::Refused,
        (false, has_waited) if has_waited || !caught_up => WithoutAudit::Taken,
        _ => WithoutAudit::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Hotkey;
    use crate::log::{Announced, End, Ended, Entry, Head};
    use crate::signer::KeyFile;
    use crate::validator::ledger::{Effect, Verified};
    use crate::{Digest, ModelRef, Outcome};

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

    /// The duel was announced in epoch 5; its record is here in epoch 8.
    #[tokio::test]
    async fn an_audit_is_waited_for_from_when_a_model_was_missing_first() {
        use WithoutAudit::{Refused, Taken, Waits};
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path).expect("made");
        ledger.begin_reign(ModelRef::served("the first king"), 1).await.expect("a king");
        let digest = Digest::of("a");
        let announced = Announced {
            plan: digest,
            judges: vec![digest],
            king: digest,
            challenger: digest,
            submission: None,
        };
        let end = End::Recorded { plan: digest, record: digest, outcome: Outcome::Dethroned };
        let entries = vec![Entry::Announced(announced), Entry::Ended(Ended { announced: 0, end })];
        let head = Head::sign("example.com/log", 2, digest, &KeyFile::from_seed(&[7; 32])).expect("signed");
        ledger.follow(&Hotkey("them".into()), &head, "key", 5).await.expect("followed");
        ledger.keep_followed(entries, &head, "news".into(), 5, 2).await.expect("kept");
        ledger.follow_entry(0, Effect::Announced { king: digest }, 5, 3).await.expect("followed");
        ledger.caught_up().await.expect("noted");
        let verified = Verified {
            place: 1,
            record: digest,
            announced: Some(0),
            seen_block: 9,
            on_chain: true,
            replies: 24,
        };
        ledger.note_verified(verified, 4).await.expect("noted");

        let row = ledger.followed().await.expect("read").expect("followed");
        let of = async |ledger: &Ledger, epoch| {
            let lost = WithoutAudit::of(ledger, &row, false, epoch).await.expect("noted");
            [lost, WithoutAudit::of(ledger, &row, true, epoch).await.expect("noted")]
        };
        assert_eq!(of(&ledger, 8).await, [Waits, Waits]);
        // A restart begins no wait anew, and ends none.
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opens");
        assert_eq!(of(&ledger, 9).await, [Waits, Waits]);
        assert_eq!(of(&ledger, 10).await, [Taken, Refused]);
        // They were back, and are gone again.
        ledger.note_found(1).await.expect("noted");
        assert_eq!(of(&ledger, 11).await, [Waits, Waits]);
        assert_eq!(of(&ledger, 13).await, [Taken, Refused]);
    }
}
