//! Whose a model is that several submissions have had.

use super::*;
use crate::chain::{DatedBy, Hotkey, Place};
use crate::judges::screens::store::Submission;
use crate::validator::ledger::Commit;

/// The submission of `hotkey`, who committed to `text` in `block`, after `steps`.
pub(super) async fn committed(
    ledger: &Ledger,
    hotkey: &str,
    text: String,
    block: BlockNumber,
    steps: &[Move],
) -> SubmissionRow {
    let place = Place { block, extrinsic: Some(0), dated_by: DatedBy::Commitment };
    let (hotkey, named) = (Hotkey(hotkey.into()), text.clone());
    let commit = Commit { hotkey: hotkey.clone(), text, place, readable_at: block + 1, witnessed: true };
    ledger.observe(vec![commit], 1).await.expect("observed");
    let live = ledger.live().await.expect("read");
    let id = live.iter().find(|row| row.text == named && row.hotkey == hotkey).expect("it is new").id;
    for step in steps {
        ledger.step(id, *step, Reason::new(step.name()), 2).await.expect("moved");
    }
    ledger.submission(id).await.expect("read")
}

#[tokio::test]
async fn a_copy_is_held_against_the_original_although_a_later_copy_was_screened_first() {
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
    let shared = Arc::new(shared(folder.path(), &clock).await);
    let (ledger, store, cx) = (&shared.ledger, &shared.store, CallContext::new());
    let admissions = Admissions::new(Arc::clone(&shared));
    let mut rows = Vec::new();
    // The same weights beside another README: each has a manifest of its own.
    for (hotkey, block) in [("amy", 100), ("dan", 150), ("ben", 200)] {
        let text = format!("v7|{hotkey}/model|sha256:{}", Digest::of(hotkey));
        rows.push(committed(ledger, hotkey, text, block, &[Move::Admit]).await);
    }
    let [amy, dan, ben] = [0, 1, 2].map(|place| label(&rows[place]));
    let remember = |row: &SubmissionRow| {
        let submission = Submission {
            label: label(row),
            hotkey: row.hotkey.0.clone(),
            block: Some(row.place.block),
            parameters: Some(Digest::of("weights")),
            fingerprint: None,
            sketch: None,
            tensors: Vec::new(),
        };
        store.add(&submission).expect("added");
    };
    let own = async |place: usize| admissions.own(&rows[place], &cx).await.expect("read");
    // The first one was delayed: nothing that came later is held against it.
    remember(&rows[2]);
    assert_eq!(own(0).await, [dan.clone(), ben.clone(), amy.clone()]);
    assert!(own(1).await.contains(&ben), "nobody has it who came before");
    // Once it was screened, too, a copy that came between the two is one.
    remember(&rows[0]);
    assert!(own(0).await.contains(&ben));
    assert!(!own(1).await.contains(&ben) && !own(2).await.contains(&ben));

    // What was clear before she was screened is screened again before it duels.
    // Weights that are not equal may be a copy's, too: no label tells.
    for row in &rows {
        for step in [Move::ClearFiles, Move::Hold, Move::Clear] {
            ledger.step(row.id, step, Reason::new(step.name()), 2).await.expect("moved");
        }
    }
    for _ in 0..2 {
        admissions.screen_later_again(&rows[1]).await.expect("screened again");
        let states = ledger.live().await.expect("read").into_iter().map(|row| row.state);
        assert_eq!(states.collect::<Vec<_>>(), [State::Clear, State::Clear, State::Held]);
    }
    admissions.screen_later_again(&rows[0]).await.expect("screened again");
    let live = ledger.live().await.expect("read");
    assert_eq!([0, 1, 2].map(|place| live[place].state), [State::Clear, State::Held, State::Held]);
    assert!(live[1].reason.starts_with("amy, who committed before, in block 100"), "{}", live[1].reason);

    let copy = admission([Finding::Rejected(json!({ "copy_of": ben, "rules": ["copy"] }))]);
    let why = rejected(&copy, |of| store.first_label(of)).expect("read");
    assert!(why.contains(&format!("a copy of {ben}, a model that {amy} committed to first")), "{why}");
    let copy = admission([Finding::Rejected(json!({ "copy_of": "the king" }))]);
    let why = rejected(&copy, |of| store.first_label(of)).expect("read");
    assert!(why.ends_with("rejected it: a copy of the king"), "{why}");
}
