//! What money rests on.

use proptest::prelude::*;

use super::*;
use crate::publish::Failure;
use crate::validator::table::{after, is_final};

#[tokio::test]
async fn a_verdict_is_one_transaction() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob"]).await;
    let duel = plan(&ledger, ids[0]).await.expect("planned");
    begin(&ledger, &duel).await;
    let before = (ledger.submissions().await.expect("read"), ledger.kings().await.expect("read"));
    let entries = ledger.log_entries(0).await.expect("read");

    // Each part that does not fit takes all the others with it.
    let good = decision(&duel, Outcome::Dethroned);
    let other = Digest::of("another record");
    let ended = |record, outcome| Ended {
        announced: duel.announced,
        end: End::Recorded { plan: other, record, outcome },
    };
    for wrong in [
        Decision { crowned: None, ..good.clone() },
        Decision { duel: 99, ..good.clone() },
        Decision { ended: Ended { announced: 7, ..good.ended.clone() }, ..good.clone() },
        Decision { ended: ended(other, Outcome::Dethroned), ..good.clone() },
        Decision { ended: ended(good.record, LOST), ..good.clone() },
        Decision { outcome: LOST, ..good.clone() },
        Decision { outcome: Outcome::Void(crate::verdict::VoidReason::TooManyMissing), ..good.clone() },
    ] {
        let error = ledger.decide(wrong, 6).await.expect_err("refused");
        assert_eq!(error.fault(), Fault::Bug, "{error}");
    }
    // The last statement of the transaction fails.
    ledger
        .write("test", |transaction| {
            let sql = "CREATE TRIGGER refused BEFORE INSERT ON outbox WHEN NEW.kind = 'record' \
                       BEGIN SELECT RAISE(ABORT, 'no record is put in'); END";
            Ok(transaction.execute(sql, [])?)
        })
        .await
        .expect("written");
    ledger.decide(good.clone(), 6).await.expect_err("it is not published");
    assert_eq!((ledger.submissions().await.expect("read"), ledger.kings().await.expect("read")), before);
    assert_eq!(ledger.log_entries(0).await.expect("read"), entries);
    let call = ledger.called_weights().await.expect("read").expect("a call");
    assert_eq!(call.1, [], "nobody earns before a crown");

    ledger
        .write("test", |transaction| Ok(transaction.execute("DROP TRIGGER refused", [])?))
        .await
        .expect("gone");
    ledger.decide(good.clone(), 6).await.expect("decided");
    let row = ledger.submission(ids[0]).await.expect("read");
    assert_eq!((row.state, row.record), (State::Crowned, Some(good.record)));
    let king = ledger.king().await.expect("read").expect("a king");
    assert_eq!((king.id, king.record, king.submission), (2, Some(good.record), Some(ids[0])));
    let call = ledger.called_weights().await.expect("read").expect("a call");
    assert_eq!(call.1, [Hotkey(format!("winner of {}", duel.id))]);
    assert_eq!(ledger.log_entries(0).await.expect("read").len(), entries.len() + 1);
    // An outcome stays, and is not decided twice.
    ledger.decide(good, 7).await.expect_err("it has ended");
    for step in [Move::Void, Move::SetAside] {
        ledger.step(ids[0], step, Reason::new("again"), 8).await.expect_err("an end");
    }
}

#[tokio::test]
async fn attempts_of_a_reign_have_no_gap_and_spend_once() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob", "cat", "dan"]).await;
    let first = plan(&ledger, ids[0]).await.expect("planned");
    assert_eq!((first.attempt, first.king), (1, 1));
    plan(&ledger, ids[1]).await.expect_err("one duel at a time");
    assert_eq!(ledger.submission(ids[1]).await.expect("read").state, State::Clear);
    assert_eq!(ledger.log_entries(0).await.expect("read").len(), 1, "and nothing was announced");

    // Voids keep attempt, seed and plan.
    begin(&ledger, &first).await;
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    for round in 0..3_u64 {
        ledger.void_duel(first.id, outage.clone(), 0.5, 50, 6 + round).await.expect("void");
        let open = ledger.open_duel().await.expect("read").expect("open");
        assert_eq!((open.id, open.attempt, open.voids), (first.id, 1, round as u32 + 1));
        assert_eq!(open.seed, Some(Seed::from(first.id as u64)));
        ledger.begin(first.id, Seed::from(99), 7).await.expect_err("a seed stays");
        ledger.begin(first.id, Seed::from(first.id as u64), 7).await.expect("goes on");
    }
    ledger.decide(decision(&first, LOST), 8).await.expect("decided");

    // A duel that is given up has spent its share; its submission gets another attempt.
    let second = plan(&ledger, ids[1]).await.expect("planned");
    assert_eq!(second.attempt, 2);
    ledger.abandon(second.id, "the judge is gone for good".into(), 9).await.expect("abandoned");
    assert_eq!(ledger.submission(ids[1]).await.expect("read").state, State::Clear);
    let third = plan(&ledger, ids[1]).await.expect("planned");
    assert_eq!(third.attempt, 3);
    begin(&ledger, &third).await;
    ledger.decide(decision(&third, Outcome::Dethroned), 10).await.expect("decided");

    let spent = ledger.spent(1).await.expect("read");
    assert_eq!(spent.attempts, 3);
    assert!((spent.alpha - budget().spent(3)).abs() < 1e-15, "{spent:?}");
    assert!((spent.usd - 0.75).abs() < 1e-12, "0.5 in the void runs, 0.25 in the third: {spent:?}");
    // Another king's reign begins with attempt 1, and the chain of records anew.
    let next = ledger.next_attempt(2, budget()).await.expect("read");
    assert_eq!((next.number, next.previous), (1, None));
    let stale = ledger.next_attempt(1, budget()).await.expect("read");
    assert_eq!(stale.previous, Some(decision(&third, Outcome::Dethroned).record));
    let drafted = Drafted {
        submission: ids[2],
        attempt: stale,
        settings: DuelSettings::default(),
        announced: announced("stale"),
    };
    let error = ledger.plan(drafted, budget(), 11).await.expect_err("another king reigns");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_seed_needs_an_announcement_under_a_signed_head() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann"]).await;
    let duel = plan(&ledger, ids[0]).await.expect("planned");
    let error = ledger.announced_at(duel.id, 10).await.expect_err("no head");
    assert_eq!(error.fault(), Fault::Bug);
    sign(&ledger).await;
    ledger.announced_at(duel.id, 10).await.expect("noted");
    ledger.announced_at(duel.id, 12).await.expect("said again");
    assert_eq!(
        ledger.open_duel().await.expect("read").expect("open").head_block,
        Some(10),
        "the first counts"
    );
}

#[tokio::test]
async fn a_bug_freezes_crowns_until_somebody_has_looked() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob"]).await;
    let duel = plan(&ledger, ids[0]).await.expect("planned");
    begin(&ledger, &duel).await;
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    assert!(ledger.alert("chain", &outage, 5).await.expect("said"), "news");
    assert!(!ledger.alert("chain", &outage, 6).await.expect("said"), "no news");
    assert_eq!(ledger.frozen().await.expect("read"), None, "an outage freezes nothing");
    ledger.alert("duel", &Error::bug("count", "one and one is three"), 7).await.expect("said");
    let error = ledger.decide(decision(&duel, Outcome::Dethroned), 8).await.expect_err("frozen");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator));
    assert_eq!(ledger.submission(ids[0]).await.expect("read").state, State::Duelling);
    let keys = async || {
        let alerts = ledger.alerts().await.expect("read");
        alerts.into_iter().map(|alert| alert.key).collect::<Vec<_>>()
    };
    assert_eq!(keys().await, ["chain", "duel", "frozen"]);
    // It ends by hand alone, whatever the task does meanwhile, and whatever else fails in it.
    assert!(!ledger.alert("duel", &outage, 8).await.expect("said"), "no news");
    let alerts = ledger.alerts().await.expect("read");
    let told = alerts.iter().find(|alert| alert.key == "duel").expect("it stands");
    assert_eq!((&*told.fault, told.last_ms, told.count), ("bug", 8, 2));
    assert!(told.message.contains("one and one is three"), "{told:?}");
    for key in ["duel", "frozen"] {
        assert!(!ledger.well(key, 9).await.expect("said"), "{key}");
    }
    ledger.alert("weights", &Error::bug("count", "two is three"), 9).await.expect("said");
    let frozen = ledger.alerts().await.expect("read").into_iter().find(|alert| alert.key == "frozen");
    let frozen = frozen.expect("it stands");
    assert!(frozen.message.contains("one and one is three"), "the first bug: {frozen:?}");
    assert_eq!((&*frozen.fault, frozen.first_ms, frozen.count), ("bug", 7, 2));
    let bug = ledger.unfreeze().await.expect("looked").expect("the bug");
    assert!(bug.contains("one and one is three"), "{bug}");
    assert_eq!(keys().await, ["chain"]);
    assert_eq!(ledger.unfreeze().await.expect("looked"), None);
    // After `unfreeze` the alert has the last failure.
    ledger.alert("duel", &outage, 10).await.expect("said");
    assert!(ledger.well("duel", 10).await.expect("said"), "it ends with the outage");
    ledger.decide(decision(&duel, Outcome::Dethroned), 10).await.expect("decided");
}

#[tokio::test]
async fn a_freeze_without_an_alert_gets_one() {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.tell_of_freeze(5).await.expect("looked");
    assert!(ledger.alerts().await.expect("read").is_empty(), "nothing is frozen");
    // As a build left it that knew no such alert.
    let sql = "INSERT INTO meta (key, value) VALUES ('frozen', 'one and one is three')";
    ledger.write("test", move |transaction| Ok(transaction.execute(sql, [])?)).await.expect("written");
    for now_ms in [6, 7] {
        ledger.tell_of_freeze(now_ms).await.expect("told");
        let alerts = ledger.alerts().await.expect("read");
        let told: Vec<_> = alerts.iter().map(|alert| (&*alert.key, &*alert.fault, alert.last_ms)).collect();
        assert_eq!(told, [("frozen", "bug", 6)], "once");
        assert!(alerts[0].message.contains("one and one is three"), "{alerts:?}");
    }
    ledger.unfreeze().await.expect("looked");
    assert!(ledger.alerts().await.expect("read").is_empty());
}

#[tokio::test]
async fn an_epoch_has_one_vector() {
    use crate::chain::{BlockHash, MechanismId, NetUid, Uid, WeightEffect, WeightReceipt};
    use crate::weights::{Share, WeightKey, WeightVector};
    let ledger = Ledger::in_memory().expect("a ledger");
    clear(&ledger, &[]).await;
    let vector = |epoch, hotkey: &str| WeightVector {
        key: WeightKey {
            genesis: BlockHash([1; 32]),
            netuid: NetUid(97),
            mechanism: MechanismId(0),
            epoch,
            hotkey: Hotkey("validator".into()),
        },
        version_key: 0,
        shares: vec![Share { uid: Uid(1), hotkey: Hotkey(hotkey.into()), weight: 65_535 }],
    };
    let first = ledger.choose_vector(1, vector(4, "ann"), 1).await.expect("kept");
    let again = ledger.choose_vector(1, vector(4, "bob"), 2).await.expect("kept");
    assert_eq!(first, again, "what was kept first is sent");
    assert!(!first.is_settled());
    ledger.choose_vector(1, vector(5, "bob"), 3).await.expect("kept");
    assert_eq!(ledger.weights_missed(5, "too late".into()).await.expect("noted"), 1);
    let receipt = WeightReceipt { block: 7, epoch: 5, effect: WeightEffect::Set };
    ledger.weights_landed(5, receipt, 4).await.expect("noted");
    let rows = ledger.epochs(9).await.expect("read");
    assert_eq!(rows.iter().map(|row| row.epoch).collect::<Vec<_>>(), [5, 4]);
    assert_eq!((rows[0].receipt, rows[1].missed.as_deref()), (Some(receipt), Some("too late")));
    // A vector that lands an epoch late serves the epoch in which it landed.
    ledger.choose_vector(1, vector(6, "ann"), 4).await.expect("kept");
    let late = WeightReceipt { block: 9, epoch: 7, effect: WeightEffect::Set };
    ledger.weights_landed(6, late, 5).await.expect("noted");
    let [meant, served] = [6, 7].map(|epoch| ledger.epoch(epoch));
    let (meant, served) = (meant.await.expect("read").expect("6"), served.await.expect("read").expect("7"));
    assert_eq!(
        (meant.receipt, served.receipt, served.vector.shares),
        (None, Some(late), meant.vector.shares)
    );
    assert!(meant.missed.is_some());
    assert_eq!(ledger.last_landed().await.expect("read").expect("one").parts().expect("parts")[0].1, 1.0);
}

#[tokio::test]
async fn a_record_waits_for_its_place_in_the_log_and_a_failure_for_its_time() {
    use super::super::outbox::What;
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann"]).await;
    ledger.forfeit(ids[0], Reason::new("a copy"), Digest::of("r"), "f".into(), 4).await.expect("forfeits");
    for _ in 0..2 {
        let next = ledger.next_waiting(9).await.expect("read").expect("documents");
        assert!(matches!(&next.what, What::Document { bytes: None, .. }), "{next:?}");
        ledger.published(next.id, 9).await.expect("noted");
    }
    assert_eq!(ledger.next_waiting(9).await.expect("read"), None, "the log lacks the record's entry");
    assert_eq!(ledger.lag().await.expect("read").waiting, 1);
    sign(&ledger).await;
    let record = ledger.next_waiting(9).await.expect("read").expect("the record");
    assert!(matches!(&record.what, What::Record { submission, .. } if submission.hotkey == "ann"));
    let failure = Failure { message: "down".into(), fault: Fault::Infrastructure, again_ms: Some(20) };
    ledger.not_published(record.id, &failure, 9).await.expect("noted");
    let later = ledger.next_waiting(9).await.expect("read").expect("later");
    assert_eq!((later.due_ms, later.tries), (20, 1));
    ledger.published(record.id, 21).await.expect("noted");

    // What is said of a version does not count for the next one.
    ledger.put_document("data/running.json", b"1".to_vec(), 30).await.expect("put");
    let old = ledger.next_waiting(30).await.expect("read").expect("a document");
    ledger.put_document("data/running.json", b"2".to_vec(), 31).await.expect("put");
    ledger.published(old.id, 32).await.expect("noted");
    let new = ledger.next_waiting(32).await.expect("read").expect("the next one");
    assert_eq!(
        (new.added_ms, new.what),
        (30, What::Document { name: "data/running.json".into(), bytes: Some(b"2".to_vec()) })
    );
}

#[tokio::test]
async fn changes_of_a_document_do_not_end_an_outage() {
    use super::super::outbox::What;
    const NAME: &str = "data/running.json";
    let ledger = Ledger::in_memory().expect("a ledger");
    let put = async |text: &str, now_ms| {
        ledger.put_document(NAME, text.into(), now_ms).await.expect("put");
        ledger.next_waiting(now_ms).await.expect("read").expect("a document")
    };
    let fail = async |id: u64, fault, again_ms| {
        let failure = Failure { message: "no".into(), fault, again_ms };
        ledger.not_published(id, &failure, 10).await.expect("noted");
    };
    let is_put_off = async |now_ms| ledger.is_put_off(NAME, now_ms).await.expect("read");
    let first = put("1", 10).await;
    assert!(!is_put_off(10).await, "it is due");
    fail(first.id, Fault::Infrastructure, Some(1_010)).await;
    let second = put("2", 20).await;
    assert_eq!((second.added_ms, second.due_ms, second.tries), (10, 1_010, 1));
    assert_eq!(second.what, What::Document { name: NAME.into(), bytes: Some(b"2".to_vec()) });
    assert!(is_put_off(1_009).await && !is_put_off(1_010).await);
    assert!(ledger.unpublished().await.expect("read").is_some(), "the alert stands");
    // A later failure has a longer pause.
    fail(second.id, Fault::Operator, Some(3_010)).await;
    let third = put("3", 1_020).await;
    assert_eq!((third.due_ms, third.tries), (3_010, 2));
    ledger.published(third.id, 3_010).await.expect("noted");
    let fourth = put("4", 3_020).await;
    assert_eq!((fourth.due_ms, fourth.tries), (3_020, 0), "it is over");
    // What somebody has to mend says nothing of the next version.
    fail(fourth.id, Fault::Operator, None).await;
    let fifth = put("5", 3_030).await;
    assert_eq!((fifth.added_ms, fifth.due_ms, fifth.tries), (3_020, 3_030, 0));
    assert_eq!(ledger.unpublished().await.expect("read"), None);
    // The same build would meet the bug again.
    fail(fifth.id, Fault::Bug, None).await;
    assert!(is_put_off(3_040).await);
    ledger.put_document(NAME, b"6".to_vec(), 3_040).await.expect("put");
    assert_eq!(ledger.next_waiting(3_040).await.expect("read"), None);
    assert!(ledger.unpublished().await.expect("read").is_some_and(|bug| bug.is_bug && bug.is_stopped));
    ledger.try_stopped("another build".into(), 3_050).await.expect("asked");
    let sixth = ledger.next_waiting(3_050).await.expect("read").expect("it is tried again");
    assert_eq!((sixth.due_ms, sixth.tries), (3_050, 1));
    assert_eq!(sixth.what, What::Document { name: NAME.into(), bytes: Some(b"6".to_vec()) });
}

#[tokio::test]
async fn a_clock_that_was_wrong_holds_back_neither_what_is_published_nor_what_is_told() {
    use std::time::Duration;
    let ledger = Ledger::in_memory().expect("a ledger");
    let (year, now) = (365 * 86_400_000, 1_000_000);
    // A process whose clock is a year ahead ends.
    ledger.put_document("data/running.json", b"1".to_vec(), now + year).await.expect("put");
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    ledger.alert("bucket", &outage, now + year).await.expect("said");
    let due = ledger.next_waiting(now).await.expect("read").expect("a document");
    assert_eq!(due.due_ms, now, "it is due at once");
    // A pause stays one, and is no longer than the longest.
    let failure =
        |again_ms| Failure { message: "down".into(), fault: Fault::Infrastructure, again_ms: Some(again_ms) };
    ledger.not_published(due.id, &failure(now + 60_000), now).await.expect("noted");
    assert_eq!(ledger.next_waiting(now).await.expect("read").expect("later").due_ms, now + 60_000);
    ledger.not_published(due.id, &failure(now + year), now).await.expect("noted");
    assert_eq!(ledger.next_waiting(now).await.expect("read").expect("later").due_ms, now + 1_800_000);

    let [after, quiet] = [60, 3600].map(Duration::from_secs);
    let begun = ledger.untold(after, quiet, now).await.expect("read").expect("it stands since then");
    ledger.told(&begun, now + year).await.expect("noted");
    ledger.alert("bucket", &outage, now).await.expect("said again");
    assert_eq!(ledger.alerts().await.expect("read")[0].first_ms, now, "it began before it was said");
    ledger.well("bucket", now + 1).await.expect("well");
    let over = ledger.untold(after, quiet, now + 1).await.expect("read").expect("its end");
    ledger.told(&over, now + year).await.expect("noted");
    ledger.alert("bucket", &outage, now + 2).await.expect("said");
    assert!(ledger.untold(after, quiet, now + 70_000).await.expect("read").is_some());
}

#[tokio::test]
async fn what_cannot_be_published_is_known_until_it_is() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let put = async |name: &'static str| {
        ledger.put_document(name, Vec::new(), 10).await.expect("put");
        ledger.next_waiting(10).await.expect("read").expect("a document").id
    };
    let fail = async |id: u64, fault: Fault, again_ms: Option<u64>| {
        let failure = Failure { message: format!("{fault} has to act"), fault, again_ms };
        ledger.not_published(id, &failure, 10).await.expect("noted");
    };
    let known = async || ledger.unpublished().await.expect("read");
    let first = put("data/a.json").await;
    assert_eq!(known().await, None, "it was not tried yet");
    fail(first, Fault::Infrastructure, Some(20)).await;
    let outage = known().await.expect("an outage");
    assert!(outage.is_outage && !outage.is_stopped && outage.name == "data/a.json", "{outage:?}");
    let second = put("data/b.json").await;
    fail(second, Fault::Operator, Some(20)).await;
    let operator = known().await.expect("the operator's");
    assert!(!operator.is_outage && !operator.is_stopped && operator.name == "data/b.json", "{operator:?}");
    let third = put("data/c.json").await;
    fail(third, Fault::Bug, None).await;
    let stopped = known().await.expect("a bug");
    assert!(stopped.is_stopped && stopped.error.contains("bug has to act"), "{stopped:?}");
    assert!(stopped.is_bug && !operator.is_bug, "{stopped:?} {operator:?}");
    assert_eq!(ledger.lag().await.expect("read").stopped, 1);

    // Only another build tries again what a bug has stopped.
    let try_stopped = async |build: &str| {
        ledger.try_stopped(build.into(), 15).await.expect("asked");
        ledger.lag().await.expect("read").stopped
    };
    assert_eq!(try_stopped("one build").await, 0, "no build has tried it before");
    fail(third, Fault::Bug, None).await;
    assert_eq!(try_stopped("one build").await, 1);
    fail(second, Fault::Operator, None).await;
    assert_eq!(try_stopped("one build").await, 1);
    assert_eq!(ledger.next_waiting(15).await.expect("read").map(|waiting| waiting.id), Some(second));
    assert_eq!(try_stopped("another build").await, 0);
    for id in [first, second, third] {
        assert!(known().await.is_some());
        ledger.published(id, 30).await.expect("noted");
    }
    assert_eq!(known().await, None);
}

#[tokio::test]
async fn a_failure_that_repeats_is_counted_and_told_once() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann"]).await;
    let documents = async || {
        let mut all = Vec::new();
        while let Some(next) = ledger.next_waiting(9).await.expect("read") {
            all.push(next.id);
            ledger.published(next.id, 9).await.expect("noted");
        }
        all.len()
    };
    documents().await;
    let moves = ledger.moves(None, 0).await.expect("read").len();
    let outage = |message: &str| Error::new(ErrorKind::Unavailable, "ask", message);
    for (round, (message, kept, published)) in
        (1..).zip([("down", 1, 2), ("down", 1, 0), ("down", 1, 0), ("away", 2, 2), ("away", 2, 0)])
    {
        let reason = Reason::failed(&outage(message), 100 + u64::from(round));
        ledger.step(ids[0], Move::Void, reason, 5).await.expect("void");
        let row = ledger.submission(ids[0]).await.expect("read");
        assert_eq!((row.voids, row.due_ms), (round, 100 + u64::from(round)));
        assert_eq!(ledger.moves(None, 0).await.expect("read").len(), moves + kept, "{round}");
        assert_eq!(documents().await, published, "{round}");
    }
}

#[tokio::test]
async fn the_same_record_is_published_once() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob"]).await;
    let record = Digest::of("the same files");
    for id in ids {
        ledger.forfeit(id, Reason::new("a copy"), record, "f".into(), 4).await.expect("forfeits");
        let row = ledger.submission(id).await.expect("read");
        assert_eq!((row.state, row.record), (State::Forfeit, Some(record)));
    }
    assert_eq!(ledger.log_entries(0).await.expect("read").len(), 2, "the log names both");
    sign(&ledger).await;
    // The two documents, and the record.
    assert_eq!(ledger.lag().await.expect("read").waiting, 3);
}

#[tokio::test]
async fn what_came_later_is_found_by_its_place() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob", "cat"]).await;
    let after = async |id| {
        let row = ledger.submission(id).await.expect("read");
        let rows = ledger.later_than(&row).await.expect("read");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    // A process that was killed may have remembered what the ledger has not as screened.
    assert_eq!(after(ids[0]).await, ids[1..]);
    assert_eq!(after(ids[1]).await, ids[2..]);
    assert!(after(ids[2]).await.is_empty());
}

#[tokio::test]
async fn an_operator_asks_and_what_would_undo_an_outcome_is_refused() {
    let ledger = Ledger::in_memory().expect("a ledger");
    let ids = clear(&ledger, &["ann", "bob"]).await;
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    ledger.step(ids[1], Move::Void, Reason::failed(&outage, 9000), 5).await.expect("void");
    ledger.retry(ids[1]).await.expect("asked");
    assert_eq!(ledger.submission(ids[1]).await.expect("read").due_ms, 0);

    ledger.set_aside(ids[1], "no hub has it".into()).await.expect("asked");
    let ordered = ledger.submission(ids[1]).await.expect("read");
    assert_eq!((ordered.state, ordered.set_aside.as_deref()), (State::Clear, Some("no hub has it")));
    let error = plan(&ledger, ids[1]).await.expect_err("it is to be set aside");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");

    let error = ledger.give_up(ids[0], "why".into()).await.expect_err("it has no duel");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    let duel = plan(&ledger, ids[0]).await.expect("planned");
    let error = ledger.set_aside(ids[0], "why".into()).await.expect_err("it has a duel");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Infrastructure), "{error}");
    begin(&ledger, &duel).await;
    for round in 0..VOIDS {
        let error = ledger.give_up(ids[0], "why".into()).await.expect_err("too early");
        assert!(error.to_string().contains(&format!("voids: {round}")), "{error}");
        ledger.void_duel(duel.id, outage.clone(), 0.0, 0, 6).await.expect("void");
        ledger.begin(duel.id, Seed::from(duel.id as u64), 7).await.expect("goes on");
    }
    ledger.give_up(ids[0], "a judge is gone".into()).await.expect("asked");
    let open = ledger.open_duel().await.expect("read").expect("it goes on until it is void");
    assert_eq!(open.give_up.as_deref(), Some("a judge is gone"));
    ledger.decide(decision(&duel, LOST), 8).await.expect("its verdict was earlier");
    for asked in [ledger.retry(ids[0]).await, ledger.set_aside(ids[0], "why".into()).await] {
        let error = asked.expect_err("an outcome stays");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
        assert!(error.to_string().contains("it has its outcome"), "{error}");
    }
}

#[tokio::test]
async fn somebody_is_told_once_of_what_stands_and_of_its_end() {
    use std::time::Duration;
    let ledger = Ledger::in_memory().expect("a ledger");
    let outage = Error::new(ErrorKind::Unavailable, "ask", "down");
    let [after, quiet] = [60, 3600].map(Duration::from_secs);
    let next = |now_ms| ledger.untold(after, quiet, now_ms);
    ledger.alert("chain", &outage, 1_000).await.expect("said");
    assert_eq!(next(60_999).await.expect("read"), None, "it may pass");
    let begun = next(61_000).await.expect("read").expect("it stands");
    assert!(!begun.is_over && begun.alert.key == "chain");
    ledger.told(&begun, 61_000).await.expect("noted");
    ledger.alert("chain", &outage, 62_000).await.expect("said again");
    assert_eq!(next(90_000).await.expect("read"), None, "they know");
    ledger.well("chain", 91_000).await.expect("well");
    let over = next(91_000).await.expect("read").expect("its end");
    assert!(over.is_over);
    ledger.told(&over, 91_000).await.expect("noted");
    // It comes and goes: that is said once per hour.
    ledger.alert("chain", &outage, 95_000).await.expect("said");
    assert_eq!(next(200_000).await.expect("read"), None);
    assert!(next(91_000 + 3_600_000).await.expect("read").is_some());
    ledger.well("chain", 100_000).await.expect("well");
    assert_eq!(next(10_000_000).await.expect("read"), None, "nobody was told that it came back");
    // Something new is said, too, if the last notice was that long ago; what repeats is not.
    let all = async |now_ms| {
        let notice = next(now_ms).await.expect("read")?;
        ledger.told(&notice, now_ms).await.expect("noted");
        Some(notice.alert)
    };
    let hour = 3_600_000;
    ledger.alert_anew("held", &outage, 100_000).await.expect("said");
    assert_eq!(all(200_000).await.map(|alert| alert.count), Some(1));
    ledger.alert("held", &outage, 210_000).await.expect("said again");
    assert_eq!(all(200_000 + hour).await, None, "nothing is new");
    ledger.alert_anew("held", &outage, 220_000).await.expect("said of another one");
    assert_eq!(all(199_999 + hour).await, None);
    let told = next(200_000 + hour).await.expect("read").expect("it has something new");
    assert_eq!((told.is_over, told.alert.count), (false, 3));
    // One more comes while that is sent.
    ledger.alert_anew("held", &outage, 230_000 + hour).await.expect("said of a third one");
    ledger.told(&told, 240_000 + hour).await.expect("noted");
    assert_eq!(all(230_000 + 2 * hour).await, None);
    assert_eq!(all(240_000 + 2 * hour).await.map(|alert| alert.count), Some(4));
    assert_eq!(all(9 * hour).await, None);
    ledger.well("held", 9 * hour).await.expect("well");
    assert!(next(9 * hour).await.expect("read").expect("its end").is_over);
    ledger.told(&next(9 * hour).await.expect("read").expect("its end"), 9 * hour).await.expect("noted");
    // Who has to act hears of it at once, and a bug freezes.
    ledger.alert("king", &outage.with_fault(Fault::Operator), 101_000).await.expect("said");
    assert!(next(101_000).await.expect("read").is_some());
}

#[tokio::test]
async fn the_first_place_stays_and_the_queue_is_by_place() {
    let ledger = Ledger::in_memory().expect("a ledger");
    // Seen late, and committed first: a hidden commitment that was revealed.
    ledger.observe(vec![commit("late", 9), commit("bad", 3)], 1).await.expect("observed");
    ledger.observe(vec![commit("early", 2)], 2).await.expect("observed");
    let again = Commit { place: Place { block: 1, ..commit("late", 9).place }, ..commit("late", 9) };
    let spoofed = Commit { text: "v5|x|y".into(), ..commit("spoof", 4) };
    assert_eq!(
        ledger.observe(vec![again, spoofed], 3).await.expect("observed"),
        1,
        "one text, one submission"
    );
    let live = ledger.live().await.expect("read");
    let queue: Vec<_> = live.iter().map(|row| (row.hotkey.0.as_str(), row.place.block)).collect();
    assert_eq!(queue, [("early", 2), ("bad", 3), ("late", 9)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Moves in any order through the ledger: it accepts exactly those that the table has,
    /// every one is kept, and what is spent is what was planned.
    #[test]
    fn the_ledger_moves_as_the_table_says(
        tries in proptest::collection::vec((0..3_usize, 0..Move::ALL.len()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let ledger = Ledger::in_memory().expect("a ledger");
            ledger.begin_reign(ModelRef::from(Path::new("genesis")), 1).await.expect("a king");
            ledger.observe(vec![commit("a", 1), commit("b", 2), commit("c", 3)], 2).await.expect("observed");
            let ids: Vec<_> = ledger.live().await.expect("read").iter().map(|row| row.id).collect();
            let mut model = [State::Seen; 3];
            let (mut moves, mut plans) = (0, 0);
            for (round, (which, step)) in tries.into_iter().enumerate() {
                let (id, step) = (ids[which], Move::ALL[step]);
                let open = ledger.open_duel().await.expect("read").filter(|open| open.submission == id);
                // Another reason each time: what repeats is no other move.
                let (reason, outage) = (
                    Reason::new(format!("so {round}")),
                    Error::new(ErrorKind::Unavailable, "ask", format!("down {round}")),
                );
                let made = match (step, &open) {
                    (Move::Plan, _) => plan(&ledger, id).await.map(drop),
                    (Move::Begin, Some(duel)) => {
                        let seed = duel.seed.unwrap_or(Seed::from(duel.id as u64));
                        ledger.begin(duel.id, seed, 5).await
                    }
                    (Move::Crown, Some(duel)) => ledger.decide(decision(duel, Outcome::Dethroned), 6).await,
                    (Move::Lose, Some(duel)) => ledger.decide(decision(duel, LOST), 6).await,
                    (Move::Forfeit, Some(duel)) => {
                        let overflow = Outcome::Forfeit(crate::verdict::Forfeit::Overflow);
                        ledger.decide(decision(duel, overflow), 6).await
                    }
                    (Move::Void, Some(duel)) => ledger.void_duel(duel.id, outage, 0.0, 0, 6).await,
                    (Move::Abandon, Some(duel)) => ledger.abandon(duel.id, "enough".into(), 6).await,
                    (Move::Forfeit, None) => {
                        let record = Digest::of(format!("forfeit of {id}"));
                        ledger.forfeit(id, Reason::new("a copy"), record, "f".into(), 6).await
                    }
                    (Move::Begin | Move::Crown | Move::Lose | Move::Abandon, None) => Err(outage),
                    _ => ledger.step(id, step, reason, 6).await.map(drop),
                };
                let others_duel = (0..3).any(|other| {
                    other != which && matches!(model[other], State::Planned | State::Duelling)
                });
                let expected = after(model[which], step).filter(|_| step != Move::Plan || !others_duel);
                prop_assert_eq!(made.is_ok(), expected.is_some(), "{:?} from {:?}: {:?}", step, model[which], made);
                if let Some(to) = expected {
                    model[which] = to;
                    moves += 1;
                    plans += u64::from(step.spends());
                }
                let rows = ledger.submissions().await.expect("read");
                prop_assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), model.to_vec());
            }
            prop_assert_eq!(ledger.moves(None, 0).await.expect("read").len(), moves);
            let duels = ledger.duels().await.expect("read");
            prop_assert_eq!(duels.len() as u64, plans);
            for king in ledger.kings().await.expect("read") {
                let of_king: Vec<_> = duels.iter().filter(|duel| duel.king == king.id).collect();
                let attempts: Vec<_> = of_king.iter().map(|duel| duel.attempt).collect();
                prop_assert_eq!(attempts, (1..=of_king.len() as u64).collect::<Vec<_>>(), "no gap");
                let spent = ledger.spent(king.id).await.expect("read");
                prop_assert!((spent.alpha - budget().spent(of_king.len() as u64)).abs() < 1e-12);
            }
            let crowns = model.iter().filter(|state| **state == State::Crowned).count();
            prop_assert_eq!(ledger.kings().await.expect("read").len(), 1 + crowns);
            let with_record = rows_with_record(&ledger).await;
            let ended = model.iter().filter(|state| is_final(**state)
                && !matches!(state, State::Expired | State::SetAside)).count();
            prop_assert_eq!(with_record, ended, "a loss rests on a record");
            Ok(())
        })?;
    }
}

async fn rows_with_record(ledger: &Ledger) -> usize {
    ledger.submissions().await.expect("read").iter().filter(|row| row.record.is_some()).count()
}
