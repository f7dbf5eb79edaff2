use serde_json::json;

use super::*;
use crate::admission::{Screened, ScreenedModel};
use crate::identity::Identity;
use crate::model_ref::{HubRef, Revision};
use crate::record::{FileStore, MemoryStore};
use crate::screen::ScreenStage;

fn screened(name: &str, stage: ScreenStage, finding: Finding) -> Screened {
    let screen = Identity { name: name.into(), version: "1".into(), config: Digest::of("{}") };
    Screened { screen, stage, finding }
}

fn admission(last: Finding) -> Admission {
    let model = |name: &str| ScreenedModel {
        reference: Some(HubRef::new("mirror", name, Revision::Commit([1; 20])).expect("a reference")),
        files: 3,
        bytes: 1000,
        listing: Digest::of(name),
        parameters: Some(Digest::of(name)),
    };
    let findings = vec![
        screened("files", ScreenStage::Files, Finding::Clear(json!({ "files": 3 }))),
        screened("lineage", ScreenStage::Parameters, Finding::Unverified(json!({ "error": "in /var/x" }))),
        screened("digest", ScreenStage::Parameters, last),
    ];
    Admission {
        king: model("king"),
        submission: model("submission"),
        anchor: None,
        profile: None,
        seed: None,
        outcome: AdmissionOutcome::of(&findings),
        findings,
    }
}

fn rejected() -> Finding {
    Finding::Rejected(json!({ "copy_of": "the king", "share": 0.1, "equal": 12 }))
}

#[tokio::test]
async fn a_forfeit_is_recorded_and_verifies_and_any_altered_byte_is_found() {
    let place = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(place.path()).expect("creates");
    let digest =
        admission(rejected()).keep(&store, &CallContext::new()).await.expect("kept").expect("a record");
    assert!(matches!(
        store.stored().await.expect("reads").as_slice(),
        [JournalEvent::Screened { .. }, JournalEvent::Forfeited { record }] if *record == digest
    ));
    drop(store);
    let AnyRecord::Forfeit(record) = AnyRecord::open(place.path()).expect("opens") else {
        panic!("it is a forfeit")
    };
    record.verify(Some(digest)).expect("is true");
    assert!(record.verify(Some(Digest::of("another"))).is_err());
    assert_eq!(record.outcome(), Outcome::Forfeit(Forfeit::Screened));
    assert_eq!(record.admission.findings[2].finding, rejected());
    let error = Record::open(place.path()).expect_err("no duel");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");

    let [lines, blobs, file] = read_folder(place.path()).expect("reads");
    assert!(!String::from_utf8_lossy(&lines).contains("/var/x"), "nothing of our machine is published");
    for position in 0..lines.len() {
        let mut altered = lines.clone();
        altered[position] ^= 1;
        assert!(ForfeitRecord::from_files(&altered, &blobs, &file).is_err(), "{position}");
    }
}

/// Whoever alters a record can give it a digest of its own; what does not follow
/// is found all the same.
#[test]
fn what_does_not_follow_is_found() {
    let record = |admission: Admission| ForfeitRecord { digest: Digest::of(""), admission };
    let published = || admission(rejected()).published();
    assert!(record(published()).verify(None).is_ok());
    let clear = admission(Finding::Clear(json!({}))).published();
    for (admission, why) in [
        (Admission { outcome: AdmissionOutcome::Forfeit, ..clear.clone() }, "does not follow"),
        (clear, "it has no record"),
        (admission(rejected()), "belongs into the journal"),
        (
            Admission { findings: published().findings.into_iter().rev().collect(), ..published() },
            "order of the stages",
        ),
    ] {
        let error = record(admission).verify(None).expect_err("wrong");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn only_a_forfeit_has_a_record() {
    let store = MemoryStore::default();
    let admitted =
        Admission { findings: vec![], outcome: AdmissionOutcome::Admitted, ..admission(rejected()) };
    for admission in [admitted, admission(Finding::Clear(json!({})))] {
        assert_eq!(admission.keep(&store, &CallContext::new()).await.expect("kept"), None);
        assert_eq!(Admission::kept(&store).await.expect("reads"), Some(admission));
    }
    assert_eq!((store.journal().len(), store.record()), (2, None));
    let untrue = Admission { outcome: AdmissionOutcome::Admitted, ..admission(rejected()) };
    assert!(untrue.keep(&store, &CallContext::new()).await.is_err());
}
