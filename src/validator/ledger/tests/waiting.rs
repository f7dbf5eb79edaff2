//! Submissions that wait: those that are held up, and those whose files are gone.

use super::*;

#[tokio::test]
async fn what_fails_for_long_or_for_an_operator_is_held_up_until_it_moves() {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.observe(vec![commit("ann", 1), commit("bob", 2)], 2).await.expect("observed");
    let ids: Vec<_> = ledger.live().await.expect("read").iter().map(|row| row.id).collect();
    let fail = async |id, fault, times: u32| {
        let error = Error::new(ErrorKind::Unavailable, "fetch a file", "down").with_fault(fault);
        for due in 1..=u64::from(times) {
            ledger.step(id, Move::Void, Reason::failed(&error, due), 3).await.expect("void");
        }
    };
    let held_up = async || ledger.held_up(5).await.expect("read");
    for id in &ids {
        ledger.step(*id, Move::Admit, Reason::new("may take part"), 3).await.expect("moved");
    }
    fail(ids[0], Fault::Infrastructure, 5).await;
    assert!(held_up().await.is_empty(), "an outage may pass");
    fail(ids[0], Fault::Infrastructure, 1).await;
    assert_eq!(held_up().await, ids[..1]);
    fail(ids[1], Fault::Operator, 1).await;
    assert_eq!(held_up().await, ids, "each is");
    ledger.step(ids[1], Move::ClearFiles, Reason::new("clear"), 4).await.expect("moved");
    assert_eq!(held_up().await, ids[..1], "another one has moved");
    ledger.step(ids[0], Move::ClearFiles, Reason::new("clear"), 4).await.expect("moved");
    assert!(held_up().await.is_empty());
    fail(ids[1], Fault::Operator, 1).await;
    assert_eq!(held_up().await, ids[1..], "nobody but an operator mends it");
    ledger.wait(ids[1], "its files are not there yet".into(), 9).await.expect("noted");
    assert!(held_up().await.is_empty(), "its hub has answered");
    fail(ids[1], Fault::Infrastructure, 5).await;
    assert!(held_up().await.is_empty(), "the count began anew");
    // Duels have alerts of their own.
    for step in [Move::Hold, Move::Clear] {
        ledger.step(ids[1], step, Reason::new(step.name()), 5).await.expect("moved");
    }
    fail(ids[1], Fault::Operator, 9).await;
    assert!(held_up().await.is_empty());
}

#[tokio::test]
async fn an_absence_counts_from_when_it_was_noted_first_until_the_next_move() {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.observe(vec![commit("ann", 1)], 2).await.expect("observed");
    let id = ledger.live().await.expect("read")[0].id;
    for step in [Move::Admit, Move::ClearFiles] {
        ledger.step(id, step, Reason::new(step.name()), 3).await.expect("moved");
    }
    let note = async |head| ledger.note_absent(id, head).await.expect("noted");
    assert_eq!([note(70).await, note(90).await], [70, 70]);
    ledger.wait(id, "its files are gone".into(), 9).await.expect("noted");
    assert_eq!(note(95).await, 70, "to wait is no move");
    // An outage says nothing of the files, and a hub that was away may have had them meanwhile.
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    for again in 0..2 {
        ledger.step(id, Move::Void, Reason::failed(&outage, 9), 3).await.expect("void");
        let head = 100 + again;
        assert_eq!(note(head).await, head, "{again}");
    }
    // So does any other failure: only one absence after the other counts. An absence does not end the count
    // of failures, so that a miner who makes his project private and deletes it in turn holds up others
    // for a while only.
    let refused = Error::new(ErrorKind::Unavailable, "ask", "the hub refuses the key");
    let refused = refused.with_fault(Fault::Operator);
    for failures in [3_u32, 4, 5] {
        ledger.step(id, Move::Void, Reason::failed(&refused, 9), 3).await.expect("void");
        let row = ledger.submission(id).await.expect("read");
        assert_eq!((row.failures, row.is_outage, row.absent_block), (failures, false, None));
        let head = 100 + u64::from(failures);
        assert_eq!([note(head).await, note(head + 9).await], [head; 2]);
        ledger.wait(id, "its files are gone".into(), 9).await.expect("noted");
        assert_eq!(ledger.submission(id).await.expect("read").voids, 0);
    }
    ledger.step(id, Move::Void, Reason::failed(&outage, 9), 3).await.expect("void");
    assert!(ledger.submission(id).await.expect("read").is_outage);
    ledger.wait(id, "its files are gone".into(), 9).await.expect("noted");
    let row = ledger.submission(id).await.expect("read");
    assert_eq!((row.failures, row.is_outage, row.absent_block), (6, false, None));
    ledger.step(id, Move::Hold, Reason::new("here").held_at(110), 4).await.expect("moved");
    let row = ledger.submission(id).await.expect("read");
    assert_eq!((row.failures, row.absent_block), (0, None));
}
