use std::fs;

use super::*;
use crate::Revision;
use crate::chain::{BlockRef, DatedBy, Hotkey, Metagraph, Place};
use crate::validator::ledger::{Commit, Ledger};
use crate::validator::parts::testing::{Quick, shared};

/// The chain as it is, at block `number`.
async fn at(shared: &Shared, number: BlockNumber) -> Seen {
    let cx = CallContext::new();
    let head = shared.chain.head(&cx).await.expect("a head");
    let subnet = shared.chain.subnet(shared.netuid, &head, &cx).await.expect("read");
    let metagraph = shared.chain.metagraph(shared.netuid, &head, &cx).await.expect("read");
    Seen { head: BlockRef { number, ..head }, subnet, metagraph }
}

/// The submission of `hotkey`, readable from block 5, after `steps`.
async fn submitted(ledger: &Ledger, hotkey: &str, repository: &str, steps: &[Move]) -> SubmissionRow {
    let text = format!("v7|{repository}|sha256:{}", Digest::of(hotkey));
    let place = Place { block: 4, extrinsic: Some(0), dated_by: DatedBy::Commitment };
    let (hotkey, named) = (Hotkey(hotkey.into()), text.clone());
    let commit = Commit { hotkey, text, place, readable_at: 5, witnessed: true };
    ledger.observe(vec![commit], 1).await.expect("observed");
    let live = ledger.live().await.expect("read");
    let id = live.iter().find(|row| row.text == named).expect("it is new").id;
    for step in steps {
        let reason = Reason::new(step.name());
        let reason = match step {
            Move::ClearFiles => reason.content(Digest::of("files")),
            Move::Hold => reason.held_at(0),
            _ => reason,
        };
        ledger.step(id, *step, reason, 2).await.expect("moved");
    }
    ledger.submission(id).await.expect("read")
}

#[tokio::test]
async fn files_that_are_deleted_end_a_submission_in_time_and_an_outage_ends_none() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let mirror = folder.path().join("mirror");
    let (early, late) = (at(&shared, 45).await, at(&shared, 46).await);
    let miners: [(&str, &[Move]); 2] =
        [("amy", &[Move::Admit, Move::ClearFiles]), ("ben", &[Move::Admit, Move::ClearFiles, Move::Hold])];
    for (hotkey, steps) in miners {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), steps).await;
        // Without the mirror nobody can say what is in it.
        let error = admissions.look_at(&row, &king, &late, &cx).await.expect_err("an outage");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
        fs::create_dir(&mirror).expect("makes");
        let looked = admissions.look_at(&row, &king, &early, &cx).await.expect("looked");
        assert!(matches!(looked, Looked::Waits(_)), "{hotkey}: {looked:?}");
        let waits = ledger.submission(row.id).await.expect("read");
        assert_eq!((waits.state, waits.voids), (row.state, 0));
        assert!(waits.reason.contains("may come back until block 45"), "{}", waits.reason);
        let looked = admissions.look_at(&waits, &king, &late, &cx).await.expect("looked");
        assert_eq!(looked, Looked::Moved);
        let ended = ledger.submission(row.id).await.expect("read");
        assert_eq!(ended.state, State::Expired, "{}", ended.reason);
        assert!(ended.reason.contains("no longer had its files"), "{}", ended.reason);
        fs::remove_dir(&mirror).expect("goes away");
    }
}

#[tokio::test]
async fn nobody_is_judged_by_the_chain_before_the_commitment() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, cx) = (&shared.ledger, CallContext::new());
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let admissions = Admissions::new(Arc::clone(&shared));
    let nobody = async |number: BlockNumber| {
        let seen = at(&shared, number).await;
        Seen { metagraph: Metagraph { neurons: Vec::new() }, ..seen }
    };
    let miners: [(&str, &[Move]); 3] = [
        ("amy", &[]),
        ("ben", &[Move::Admit, Move::ClearFiles]),
        ("dan", &[Move::Admit, Move::ClearFiles, Move::Hold]),
    ];
    for (hotkey, steps) in miners {
        let row = submitted(ledger, hotkey, &format!("{hotkey}/model"), steps).await;
        let looked = admissions.look_at(&row, &king, &nobody(4).await, &cx).await.expect("looked");
        assert!(matches!(looked, Looked::Waits(_)), "{hotkey}: {looked:?}");
        assert_eq!(ledger.submission(row.id).await.expect("read").state, row.state);
        admissions.look_at(&row, &king, &nobody(5).await, &cx).await.expect("looked");
        let row = ledger.submission(row.id).await.expect("read");
        assert_eq!(row.state, State::SetAside, "{hotkey}: {}", row.reason);
        assert!(row.reason.contains("not registered"), "{}", row.reason);
    }
    let row = submitted(ledger, "eve", "eve/model", &[]).await;
    admissions.look_at(&row, &king, &at(&shared, 5).await, &cx).await.expect("looked");
    assert_eq!(ledger.submission(row.id).await.expect("read").state, State::Admitted);
}

#[tokio::test]
async fn nothing_is_a_copy_of_its_own_earlier_try_or_of_what_came_later() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let ledger = &shared.ledger;
    let king = ledger.begin_reign(shared.genesis.clone(), 1).await.expect("a king");
    let steps = [Move::Admit, Move::ClearFiles];
    let first = submitted(ledger, "amy", "amy/first", &steps).await;
    ledger.step(first.id, Move::Expire, Reason::new("gone"), 3).await.expect("moved");
    let again = submitted(ledger, "amy", "amy/second", &steps).await;
    let later = submitted(ledger, "ben", "ben/model", &[Move::Admit, Move::ClearFiles, Move::Hold]).await;
    let admissions = Admissions::new(Arc::clone(&shared));
    let labels = async || admissions.labels(&again, &CallContext::new()).await.expect("read");
    assert_eq!(labels().await, [label(&first), label(&again)]);
    let screened = Reason::new("passed").screened(found(Finding::Clear(json!({}))), king.id);
    ledger.step(later.id, Move::Clear, screened, 4).await.expect("moved");
    assert_eq!(labels().await, [label(&first), label(&later), label(&again)]);
}

/// An admission in which a screen has found that.
fn found(finding: Finding) -> Admission {
    let model = ScreenedModel {
        reference: None,
        files: 0,
        bytes: 0,
        listing: Digest::of("listing"),
        parameters: None,
    };
    let screen = Identity::new("screen", "1", &json!({})).expect("an identity");
    let findings = vec![Screened { screen, stage: ScreenStage::Behaviour, finding }];
    Admission {
        king: model.clone(),
        submission: model,
        anchor: None,
        profile: None,
        seed: None,
        outcome: AdmissionOutcome::of(&findings),
        findings,
    }
}

#[test]
fn a_model_that_a_server_could_not_fetch_is_told_from_an_outage() {
    let reference =
        |name: &str| HubRef::new("oci", name, Revision::Sha256(Digest::of(name))).expect("a reference");
    let (own, kings) = (reference("ann/model"), reference("a/king"));
    let lacks = |model: &HubRef| {
        Error::new(ErrorKind::NotFound, "load the model", "the hub does not have it").with("model", model)
    };
    let is_it = |error: &Error| is_unfetched(&found(Finding::unverified(error)), &own);
    assert!(is_it(&lacks(&own)));
    assert!(!is_it(&lacks(&own).with_fault(Fault::Infrastructure)), "an outage");
    assert!(!is_it(&lacks(&kings)), "the king");
    assert!(!is_unfetched(&found(Finding::Clear(json!({}))), &own));
}
