use std::fs;
use std::path::Path;

use albedo_core::conformance::{PATIENCE, check_screen};

use super::*;
use crate::screens::store::Submission;
use crate::screens::testing::demo_king;

async fn inspect(screen: &DigestScreen, submission: &Path) -> Finding {
    let king = demo_king();
    screen
        .inspect(Subject::Parameters { submission, king: &king }, &CallContext::new())
        .await
        .expect("a finding")
}

#[tokio::test]
async fn copies_are_found_whole_and_by_tensors_and_the_screen_conforms() {
    let (king, challenger) = (demo_king(), demo_king().join("../challenger"));
    let screen = DigestScreen::new(&DigestConfig::default()).expect("a screen");
    assert!(matches!(inspect(&screen, &king).await, Finding::Rejected(_)));
    let Finding::Clear(evidence) = inspect(&screen, &challenger).await else { panic!("it is no copy") };
    assert_eq!(evidence["equal_to_the_kings"], 0);

    let folder = tempfile::tempdir().expect("a folder");
    let renamed = folder.path().join("weights.safetensors");
    fs::copy(king.join("model.safetensors"), &renamed).expect("copied");
    assert!(matches!(inspect(&screen, folder.path()).await, Finding::Rejected(_)));
    let subjects = [Subject::Parameters { submission: &challenger, king: &king }];
    check_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
}

#[tokio::test]
async fn an_earlier_submission_is_found_and_ones_own_is_not_held_against_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let challenger = demo_king().join("../challenger");
    let wanted = Wanted { digest: true, ..Wanted::default() };
    let measured = measure(&challenger, &wanted, &CallContext::new()).await.expect("measured");
    let earlier = Submission {
        label: "miner/one".into(),
        hotkey: "5F".into(),
        block: Some(3),
        parameters: measured.parameters,
        fingerprint: None,
        sketch: None,
    };
    Store::create(&path).expect("a store").add(&earlier).expect("added");
    let screen = |own| DigestScreen::new(&DigestConfig { store: Some(path.clone()), own }).expect("a screen");
    let Finding::Rejected(evidence) = inspect(&screen(vec![]), &challenger).await else { panic!("a copy") };
    assert_eq!(evidence["copy_of"], "miner/one");
    let own = screen(vec!["miner/one".into()]);
    assert!(matches!(inspect(&own, &challenger).await, Finding::Clear(_)));
}
