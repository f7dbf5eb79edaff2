use albedo_core::chain::{Hotkey, MechanismId, NetUid, Uid};
use albedo_core::conformance::{PATIENCE, check_journal};
use albedo_core::weights::{Share, WeightJournal, WeightVector};

use super::*;

const ACCOUNT: Account = Account { genesis: BlockHash([1; 32]), signer: [2; 32] };

fn key(epoch: EpochIndex) -> WeightKey {
    WeightKey {
        genesis: ACCOUNT.genesis,
        netuid: NetUid(97),
        mechanism: MechanismId(0),
        epoch,
        hotkey: Hotkey("validator".into()),
    }
}

async fn clear(journal: &ChainJournal, epoch: EpochIndex) -> Digest {
    let share = Share { uid: Uid(0), hotkey: Hotkey("king".into()), weight: u16::MAX };
    let vector = WeightVector { key: key(epoch), version_key: 0, shares: vec![share] };
    let cleared = WeightJournal::new(journal.clone()).clear(vector).await.expect("cleared");
    Digest::of_json(cleared.get()).expect("a digest")
}

fn extrinsic(nonce: u64, weights: Option<(EpochIndex, Digest)>) -> Extrinsic {
    let weights = weights.map(|(epoch, digest)| SignedWeights {
        key: key(epoch),
        digest,
        effect: WeightEffect::Committed { reveal_round: 77 },
    });
    Extrinsic {
        id: 0,
        account: ACCOUNT,
        nonce,
        bytes: vec![nonce as u8; 5],
        call: "SubtensorModule.commit_timelocked_weights".into(),
        birth: 100,
        last_block: 131,
        spec_version: 475,
        weights,
        content: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_in_memory_and_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = ChainJournal::open(&folder.path().join("chain.sqlite")).expect("opens");
    for journal in [file, ChainJournal::in_memory().expect("opens")] {
        let journal = Arc::new(WeightJournal::new(journal));
        check_journal(journal, key(5), PATIENCE).await.expect("conforms");
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_a_later_one_finds_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chain.sqlite");
    let journal = ChainJournal::open(&path).expect("opens");
    let digest = clear(&journal, 3).await;
    let signed = journal.record(extrinsic(7, Some((3, digest)))).await.expect("recorded");
    let error = ChainJournal::open(&path).expect_err("locked");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
    drop(journal);
    let journal = ChainJournal::open(&path).expect("opens again");
    assert_eq!(journal.live(ACCOUNT).await.expect("read"), Some(signed.clone()));
    assert_eq!(journal.submission(&key(3), digest).await.expect("read"), Some((signed, None)));
}

#[tokio::test]
async fn a_key_has_one_live_extrinsic() {
    let journal = ChainJournal::in_memory().expect("opens");
    let first = journal.record(extrinsic(7, None)).await.expect("recorded");
    let error = journal.record(extrinsic(8, None)).await.expect_err("another");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let other = Extrinsic { account: Account { signer: [3; 32], ..ACCOUNT }, ..extrinsic(8, None) };
    journal.record(other).await.expect("another key");
    journal.settle(first.id, Outcome::Expired { reason: "block 131 passed".into() }).await.expect("settled");
    assert_eq!(journal.live(ACCOUNT).await.expect("read"), None);
    journal.record(extrinsic(7, None)).await.expect("the nonce is free again");
    let twice = journal.settle(first.id, Outcome::Included { block: 9, epoch: None }).await;
    assert!(twice.is_err(), "an outcome stays");
}

#[tokio::test]
async fn what_was_asked_for_is_known_by_its_content() {
    let journal = ChainJournal::in_memory().expect("opens");
    let (one, other) = (Digest::of("one"), Digest::of("another"));
    let first = Extrinsic { content: Some(one), ..extrinsic(7, None) };
    let first = journal.record(first).await.expect("recorded");
    assert_eq!(journal.live(ACCOUNT).await.expect("read"), Some(first.clone()));
    assert_eq!(first.content, Some(one));
    assert_eq!(journal.landed(ACCOUNT, one).await.expect("read"), None, "it has not landed");
    journal.settle(first.id, Outcome::Included { block: 110, epoch: None }).await.expect("settled");
    let refused = Extrinsic { content: Some(other), ..extrinsic(8, None) };
    let refused = journal.record(refused).await.expect("recorded");
    let reason = "Commitments.SpaceLimitExceeded".to_owned();
    journal.settle(refused.id, Outcome::Failed { block: 111, reason }).await.expect("settled");
    let digest = clear(&journal, 3).await;
    let weights = journal.record(extrinsic(9, Some((3, digest)))).await.expect("recorded");
    assert_eq!(journal.live(ACCOUNT).await.expect("read").and_then(|live| live.content), None);
    journal.settle(weights.id, Outcome::Included { block: 112, epoch: Some(3) }).await.expect("settled");
    for (content, block) in [(one, Some(110)), (other, None), (digest, None)] {
        assert_eq!(journal.landed(ACCOUNT, content).await.expect("read"), block);
    }
    let nobody = Account { signer: [3; 32], ..ACCOUNT };
    assert_eq!(journal.landed(nobody, one).await.expect("read"), None);
}

#[tokio::test]
async fn a_nonce_that_landed_is_used_up() {
    let journal = ChainJournal::in_memory().expect("opens");
    let first = journal.record(extrinsic(7, None)).await.expect("recorded");
    journal.settle(first.id, Outcome::Included { block: 110, epoch: None }).await.expect("settled");
    assert!(journal.record(extrinsic(7, None)).await.is_err());
}

#[tokio::test]
async fn an_outcome_that_nobody_can_tell_frees_the_key_and_not_the_nonce() {
    let journal = ChainJournal::in_memory().expect("opens");
    assert_eq!(journal.next_nonce(ACCOUNT, 7).await.expect("first sight"), 7);
    let digest = clear(&journal, 3).await;
    let first = journal.record(extrinsic(7, Some((3, digest)))).await.expect("recorded");
    let unclear = Outcome::Unclear { block: 105, reason: "its events are gone".into() };
    journal.settle(first.id, unclear.clone()).await.expect("settled");
    assert_eq!(journal.live(ACCOUNT).await.expect("read"), None);
    assert_eq!(journal.epoch(&key(3)).await.expect("read"), None);
    let found = journal.submission(&key(3), digest).await.expect("read").expect("it was signed");
    assert_eq!(found.1, Some(unclear));
    assert_eq!(journal.next_nonce(ACCOUNT, 8).await.expect("ours, and used up"), 8);
}

#[tokio::test]
async fn only_cleared_weights_are_signed_once_per_epoch() {
    let journal = ChainJournal::in_memory().expect("opens");
    let uncleared = journal.record(extrinsic(7, Some((3, Digest::of("x"))))).await.expect_err("not cleared");
    assert!(uncleared.message().contains("not cleared"), "{uncleared}");
    let (third, fourth) = (clear(&journal, 3).await, clear(&journal, 4).await);

    // Refused by the chain: the same vector may be signed anew.
    let failed = journal.record(extrinsic(7, Some((3, third)))).await.expect("recorded");
    let reason = "SubtensorModule.CommittingWeightsTooFast".to_owned();
    journal.settle(failed.id, Outcome::Failed { block: 105, reason }).await.expect("settled");
    assert_eq!(journal.epoch(&key(3)).await.expect("read"), None);
    let again = journal.record(extrinsic(8, Some((3, third)))).await.expect("signed anew");

    // It lands in epoch 4: that one is served, and 3 was missed.
    journal.settle(again.id, Outcome::Included { block: 130, epoch: Some(4) }).await.expect("settled");
    let receipt =
        WeightReceipt { block: 130, epoch: 4, effect: WeightEffect::Committed { reveal_round: 77 } };
    let served = Epoch::Served { digest: third, receipt };
    assert_eq!(journal.epoch(&key(4)).await.expect("read"), Some(served.clone()));
    assert!(matches!(journal.epoch(&key(3)).await.expect("read"), Some(Epoch::Missed(_))));
    let second = journal.record(extrinsic(9, Some((4, fourth)))).await.expect_err("served");
    assert!(second.message().contains("has its weights already"), "{second}");
    journal.miss(&key(4), "too late").await.expect("recorded");
    assert_eq!(journal.epoch(&key(4)).await.expect("read"), Some(served), "served stays served");
    assert_eq!(journal.epochs().await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_nonce_of_somebody_else_stops_the_key_until_it_is_acknowledged() {
    let journal = ChainJournal::in_memory().expect("opens");
    assert_eq!(journal.next_nonce(ACCOUNT, 7).await.expect("first sight"), 7);
    let ours = journal.record(extrinsic(7, None)).await.expect("recorded");
    journal.settle(ours.id, Outcome::Included { block: 110, epoch: None }).await.expect("settled");
    assert_eq!(journal.next_nonce(ACCOUNT, 8).await.expect("ours"), 8);
    let behind = journal.next_nonce(ACCOUNT, 7).await.expect_err("behind");
    assert!(behind.is_retryable(), "{behind}");
    for nonce in [9, 8] {
        let error = journal.next_nonce(ACCOUNT, nonce).await.expect_err("not ours");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
    }
    let error = journal.record(extrinsic(9, None)).await.expect_err("stopped");
    let (key, genesis) = (crate::address::address(&ACCOUNT.signer), ACCOUNT.genesis);
    let command = format!("albedo chain acknowledge {key} --journal ':memory:' --genesis {genesis}");
    assert!(error.to_string().contains(&command), "{error}");
    assert!(journal.alerted(ACCOUNT).await.expect("read").is_some());
    journal.acknowledge(ACCOUNT).await.expect("acknowledged");
    assert_eq!(journal.next_nonce(ACCOUNT, 9).await.expect("believed"), 9);
    journal.record(extrinsic(9, None)).await.expect("goes on");
}
