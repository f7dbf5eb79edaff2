use super::*;
use crate::Digest;
use crate::chain::{DatedBy, Hotkey, Place};
use crate::publish::away::Away;
use crate::validator::ledger::{Commit, Reason};
use crate::validator::parts::testing::{Quick, shared};
use crate::validator::table::Move;

#[tokio::test]
async fn what_cannot_be_published_is_told_until_it_is_published() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let text = format!("v7|ann/model|sha256:{}", Digest::of("ann"));
    let place = Place { block: 1, extrinsic: Some(0), dated_by: DatedBy::Commitment };
    let commit = Commit { hotkey: Hotkey("ann".into()), text, place, readable_at: 1, witnessed: true };
    ledger.observe(vec![commit], 2).await.expect("observed");
    let id = ledger.live().await.expect("read")[0].id;
    ledger.step(id, Move::Admit, Reason::new("may take part"), 3).await.expect("moved");
    // A record whose folder somebody has moved away.
    let record = Digest::of("record");
    let nowhere = folder.path().join("nowhere");
    ledger.forfeit(id, Reason::new("a copy"), record, nowhere, 4).await.expect("forfeits");

    let publishing = Publishing::new(Arc::clone(&shared));
    let told = async || {
        let alerts = ledger.alerts().await.expect("read");
        alerts.into_iter().map(|alert| (alert.key, alert.count)).collect::<Vec<_>>()
    };
    // Steps that have nothing to try end no alert, and a new process knows it.
    for publishing in [&publishing, &Publishing::new(Arc::clone(&shared))] {
        for _ in 0..3 {
            publishing.step(&cx).await.expect("goes on");
        }
        let told = told().await;
        assert_eq!(told.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), [HELD_UP], "{told:?}");
    }
    let waiting = ledger.unpublished().await.expect("read").expect("the record");
    assert!(waiting.is_stopped && waiting.name == record.to_string(), "{waiting:?}");
    // After a day it is tried again. Its publication ends the alert.
    ledger.try_stopped(build(), 5).await.expect("asked");
    let waiting = ledger.next_waiting(6).await.expect("read").expect("the record");
    ledger.published(waiting.id, 6).await.expect("noted");
    publishing.step(&cx).await.expect("goes on");
    assert!(told().await.is_empty(), "it is over");
}

#[tokio::test]
async fn what_a_bug_has_stopped_is_tried_by_another_build_alone() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let publishing = Publishing::new(Arc::clone(&shared));
    publishing.step(&cx).await.expect("goes on");
    // Nothing but the public data may have such a name.
    ledger.put_document("elsewhere.json", Vec::new(), shared.time.now_ms()).await.expect("put");
    let bug = publishing.step(&cx).await.expect_err("a bug");
    assert_eq!(bug.fault(), Fault::Bug, "{bug}");
    let alerts = ledger.alerts().await.expect("read");
    let told = alerts.iter().find(|alert| alert.key == HELD_UP).expect("an alert");
    assert!(told.message.contains("another build"), "{told:?}");

    // Started again, the same build would meet it again.
    for _ in 0..2 {
        Publishing::new(Arc::clone(&shared)).step(&cx).await.expect("goes on");
        clock.pass(Duration::from_hours(25));
        publishing.step(&cx).await.expect("goes on");
    }
    assert_eq!(ledger.lag().await.expect("read").stopped, 1);
    ledger.try_stopped("another build".into(), shared.time.now_ms()).await.expect("asked");
    let bug = publishing.step(&cx).await.expect_err("this one");
    assert_eq!(bug.fault(), Fault::Bug, "{bug}");
}

#[tokio::test]
async fn an_outage_while_a_duel_runs_costs_few_requests_and_few_writes() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let mut shared = shared(folder.path(), &clock).await;
    let bucket = Arc::new(Away::new(Arc::clone(&shared.bucket)));
    shared.bucket = bucket.clone();
    let shared = Arc::new(shared);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let publishing = Publishing::new(Arc::clone(&shared));
    let goes_on = async |secs: u64| {
        for _ in 0..secs / 2 {
            // The duel has got on.
            shared.running().end();
            publishing.step(&cx).await.expect("goes on");
            clock.pass(Duration::from_secs(2));
        }
    };
    goes_on(10).await;
    assert_eq!(ledger.lag().await.expect("read").waiting, 0, "all is published");

    bucket.set_away(true);
    let written = *ledger.changes().borrow();
    goes_on(600).await;
    // The pauses of each document double to five minutes: it is tried some ten times.
    let refused = bucket.refused();
    assert!((10..100).contains(&refused), "{refused} requests in ten minutes");
    let written = *ledger.changes().borrow() - written;
    assert!((10..100).contains(&written), "{written} writes in ten minutes");
    let alerts = ledger.alerts().await.expect("read");
    assert_eq!(alerts.iter().map(|alert| &*alert.key).collect::<Vec<_>>(), [HELD_UP], "{alerts:?}");

    bucket.set_away(false);
    goes_on(310).await;
    assert_eq!(ledger.unpublished().await.expect("read"), None);
    assert!(ledger.alerts().await.expect("read").is_empty(), "it is over");
}
