//! A validator that is followed, and what was entered from another system.

use super::super::followed::Verified;
use super::*;
use crate::log::Head;
use crate::signer::KeyFile;

fn head(origin: &str, size: u64) -> Head {
    Head::sign(origin, size, Digest::of("root"), &KeyFile::from_seed(&[7; 32])).expect("signed")
}

/// A ledger that follows a validator whose log has `entries`.
async fn following(entries: Vec<Entry>) -> Ledger {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.begin_reign(ModelRef::served("the first king"), 1).await.expect("a king");
    let head = head("example.com/log", entries.len() as u64);
    ledger.follow(&Hotkey("them".into()), &head, "key", 5).await.expect("followed");
    ledger.keep_followed(entries, &head, "news".into(), 5, 2).await.expect("kept");
    ledger
}

fn ended(announced: u64, record: &str, outcome: Outcome) -> Entry {
    let end = End::Recorded { plan: Digest::of("plan"), record: Digest::of(record), outcome };
    Entry::Ended(Ended { announced, end })
}

fn crown(hotkey: &str) -> FollowedCrown {
    FollowedCrown {
        hotkey: Hotkey(hotkey.into()),
        model: ModelRef::served("model"),
        parameters: Digest::of(hotkey),
        record: Digest::of("record"),
    }
}

#[tokio::test]
async fn a_followed_log_is_entered_in_its_order() {
    let entries = vec![Entry::Announced(announced("a")), ended(0, "record", Outcome::Dethroned)];
    let ledger = following(entries.clone()).await;
    assert_eq!(ledger.choice(true).await.expect("read"), Choice::None, "not all of it was followed");
    assert_eq!(ledger.log_entries(0).await.expect("read"), entries);
    let king = Digest::of("the first king's");
    let error = ledger.follow_entry(1, Effect::Nothing, 5, 3).await.expect_err("it is not the next");
    assert_eq!(error.fault(), Fault::Bug);
    ledger.follow_entry(0, Effect::Announced { king }, 5, 3).await.expect("followed");
    let duel = ledger.followed_duel().await.expect("read").expect("open");
    assert_eq!((duel.announced, duel.king, duel.attempt), (0, 1, 1));
    assert_eq!(ledger.king().await.expect("read").expect("reigns").parameters, Some(king));
    let verified = Verified {
        place: 1,
        record: Digest::of("record"),
        announced: Some(0),
        seen_block: 9,
        on_chain: true,
        replies: 24,
    };
    ledger.note_verified(verified, 4).await.expect("noted");
    ledger.note_verified(Verified { seen_block: 10, ..verified }, 5).await.expect("the first counts");
    assert_eq!(ledger.followed_records(0).await.expect("read")[0].seen_block, 9);
    let effect = Effect::Ended { announced: 0, crowned: Some(crown("ann")) };
    ledger.follow_entry(1, effect.clone(), 6, 6).await.expect("followed");
    ledger.follow_entry(1, effect, 6, 7).await.expect_err("once");
    let (_, kings) = ledger.called_weights().await.expect("read").expect("called");
    assert_eq!(kings, [Hotkey("ann".into())]);
    assert_eq!(ledger.last_followed(1).await.expect("read"), Some(Digest::of("record")));
    ledger.caught_up().await.expect("noted");
    assert_eq!(ledger.choice(true).await.expect("read"), Choice::Called);
    assert_eq!(ledger.lag().await.expect("read").waiting, 0, "it publishes nothing");
}

#[tokio::test]
async fn a_refusal_keeps_the_weights_and_ends() {
    let ledger = following(vec![Entry::Announced(announced("a"))]).await;
    ledger.caught_up().await.expect("noted");
    let refusal = Refusal { cause: Cause::Audit, message: "replies".into() };
    assert!(ledger.refuse(Some(refusal.clone())).await.expect("noted"));
    assert!(!ledger.refuse(Some(refusal.clone())).await.expect("noted"), "no news");
    assert_eq!(ledger.choice(true).await.expect("read"), Choice::Last);
    assert_eq!(ledger.forgive().await.expect("forgiven"), Some(refusal));
    assert_eq!(ledger.choice(true).await.expect("read"), Choice::Called);
    assert_eq!(ledger.forgive().await.expect("forgiven"), None);
    let other = head("example.com/other", 1);
    let error = ledger.follow(&Hotkey("them".into()), &other, "key", 6).await.expect_err("another log");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator));
    // A ledger of duels has its own weights.
    let own = Ledger::in_memory().expect("a ledger");
    assert_eq!(own.choice(false).await.expect("read"), Choice::Called);
    assert_eq!(own.choice(true).await.expect("read"), Choice::None);
}

#[tokio::test]
async fn an_entry_is_due_from_when_the_log_has_it() {
    let entries =
        [Entry::Announced(announced("a")), ended(0, "record", LOST), Entry::Announced(announced("b"))];
    let ledger = following(entries[..1].to_vec()).await;
    let keep = async |size: usize, epoch| {
        let (entries, head) = (entries[..size].to_vec(), head("example.com/log", size as u64));
        ledger.keep_followed(entries, &head, format!("news of {epoch}"), epoch, 4).await.expect("kept");
        ledger.followed().await.expect("read").expect("followed").next_epoch
    };
    let king = Digest::of("king");
    ledger.follow_entry(0, Effect::Announced { king }, 5, 3).await.expect("followed");
    assert_eq!(keep(1, 7).await, 5, "nothing new");
    // The duel ends three epochs after its announcement.
    assert_eq!(keep(2, 8).await, 8);
    // It waits for its record; what comes behind it changes nothing.
    assert_eq!([keep(3, 9).await, keep(3, 10).await], [8, 8]);
}

#[tokio::test]
async fn a_record_that_could_not_be_audited_is_counted() {
    let ledger =
        following(vec![Entry::Announced(announced("a")), ended(0, "record", Outcome::Dethroned)]).await;
    let king = Digest::of("king");
    ledger.follow_entry(0, Effect::Announced { king }, 5, 3).await.expect("followed");
    let verified = Verified {
        place: 1,
        record: Digest::of("record"),
        announced: Some(0),
        seen_block: 9,
        on_chain: true,
        replies: 24,
    };
    ledger.note_verified(verified, 4).await.expect("noted");
    assert_eq!(ledger.followed_totals().await.expect("read").unaudited, 0, "it is to be audited");
    ledger.take_unaudited(1).await.expect("noted");
    assert_eq!(ledger.followed_records(1).await.expect("read")[0].passed, Some(true));
    let totals = ledger.followed_totals().await.expect("read");
    assert_eq!((totals.duels, totals.audited, totals.unaudited), (1, 0, 1));
}

#[tokio::test]
async fn an_absence_is_noted_before_the_record_is_verified() {
    let announced = |name: &str| Entry::Announced(announced(name));
    let ledger =
        following(vec![announced("a"), ended(0, "one", LOST), announced("b"), ended(2, "two", LOST)]).await;
    let note = async |epoch| ledger.note_missing(3, epoch).await.expect("noted");
    assert_eq!([note(8).await, note(9).await], [8, 8]);
    for _ in 0..2 {
        ledger.note_found(3).await.expect("noted");
    }
    assert_eq!([note(10).await, note(11).await], [10, 10]);
    assert_eq!([note(13).await, note(14).await], [13, 13], "nobody has looked meanwhile");
}

/// What another system had: two kings and a hotkey.
pub(super) fn import() -> Import {
    let king = |hotkey: &str, ms| ImportedKing {
        hotkey: Hotkey(hotkey.into()),
        model: ModelRef::served(hotkey),
        crowned_ms: ms,
        crowned_block: Some(ms),
    };
    Import {
        source: Digest::of("files"),
        genesis: ModelRef::from(Path::new("genesis")),
        kings: vec![king("ann", 5), king("bob", 6)],
        hotkeys: vec![(Hotkey("cat".into()), "has taken part before".into())],
        contents: vec![
            ("x/y".into(), String::new(), "has taken part before".into()),
            ("x/z".into(), "sha256:1".into(), "was a king before".into()),
        ],
        fingerprints: 0,
    }
}

#[tokio::test]
async fn another_systems_state_is_entered_once_and_into_nothing_else() {
    let ledger = Ledger::in_memory().expect("a ledger");
    ledger.begin_reign(ModelRef::from(Path::new("genesis")), 1).await.expect("a king");
    assert_eq!(ledger.import(import(), 10).await.expect("entered"), Imported::Done);
    assert_eq!(ledger.import(import(), 11).await.expect("entered"), Imported::Already);
    let other = Import { source: Digest::of("other files"), ..import() };
    let error = ledger.import(other, 12).await.expect_err("another history");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator));
    let kings = ledger.kings().await.expect("read");
    assert_eq!(kings.iter().map(|king| king.id).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(kings[0].hotkey, Some(Hotkey("bob".into())));
    let (_, called) = ledger.called_weights().await.expect("read").expect("called");
    assert_eq!(called, ["bob", "ann"].map(|hotkey| Hotkey(hotkey.into())));
    let used = async |hotkey: &str, repository: &str, pin: &str| {
        ledger.used_before(&Hotkey(hotkey.into()), repository, pin).await.expect("read")
    };
    assert_eq!(
        used("cat", "new/model", "sha256:9").await.as_deref(),
        Some("the hotkey has taken part before")
    );
    assert_eq!(used("dan", "x/y", "sha256:9").await.as_deref(), Some("the model has taken part before"));
    assert_eq!(used("dan", "else/where", "sha256:1").await.as_deref(), Some("the model was a king before"));
    assert_eq!(used("dan", "new/model", "sha256:9").await, None);
    // Another competition begins anew.
    let reset = Reset { version: 8, genesis: ModelRef::from(Path::new("other")), reason: "x".into() };
    ledger.reset(reset, 13).await.expect("begun");
    assert_eq!(used("cat", "new/model", "sha256:9").await, None);

    let ledger = Ledger::in_memory().expect("a ledger");
    clear(&ledger, &["ann"]).await;
    ledger.import(import(), 10).await.expect_err("it has submissions");
}
