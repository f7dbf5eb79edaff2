use std::fs;

use albedo_core::Models;
use albedo_core::conformance::{PATIENCE, check_weights_screen};

use super::*;
use crate::screens::store::Submission;
use crate::screens::testing::disguise::{Dice, Model};
use crate::screens::testing::{demo_king, find, folder};
use crate::screens::{AlignTo, Measurement, is_like_the_king_alone};

#[tokio::test]
async fn copies_are_found_whole_and_by_tensors_and_the_screen_conforms() {
    let (king, challenger) = (demo_king(), demo_king().join("../challenger"));
    let screen = DigestScreen::new(&DigestConfig::default(), None).expect("a screen");
    let copy = find(&screen, &king, &[]).await.expect("a finding");
    assert!(is_like_the_king_alone(&copy), "{copy:?}");
    let Ok(Finding::Clear(evidence)) = find(&screen, &challenger, &[]).await else { panic!("it is no copy") };
    assert_eq!(evidence["equal_to_the_kings"], 0);

    let place = tempfile::tempdir().expect("a folder");
    let renamed = place.path().join("weights.safetensors");
    fs::copy(king.join("model.safetensors"), &renamed).expect("copied");
    assert!(matches!(find(&screen, place.path(), &[]).await, Ok(Finding::Rejected(_))));
    let subjects = [Models::new(folder(&king), folder(&challenger))];
    check_weights_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
}

#[tokio::test]
async fn an_earlier_submission_is_found_and_ones_own_is_not_held_against_one() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("store");
    let challenger = demo_king().join("../challenger");
    let cx = albedo_core::CallContext::new();
    let measured = Measurement::take(folder(&challenger), AlignTo::Nothing, &cx).await;
    let earlier = Submission {
        label: "miner/one".into(),
        hotkey: "5F".into(),
        block: Some(3),
        parameters: Some(measured.expect("measured").digests.parameters),
        fingerprint: None,
        sketch: None,
        tensors: Vec::new(),
    };
    let store = Store::create(&path).expect("a store");
    store.add(&earlier).expect("added");
    let screen = DigestScreen::new(&DigestConfig::default(), Some(Arc::new(store))).expect("a screen");
    let copy = find(&screen, &challenger, &[]).await.expect("a finding");
    assert!(matches!(copy, Finding::Rejected(_)) && !is_like_the_king_alone(&copy), "{copy:?}");
    assert_eq!(copy.evidence()["copy_of"], "miner/one");
    assert_eq!(copy.evidence()["rejected_for"], json!(["miner/one"]));
    assert!(matches!(find(&screen, &challenger, &["miner/one"]).await, Ok(Finding::Clear(_))));
}

#[tokio::test]
async fn a_screen_is_the_same_wherever_its_store_lies() {
    let registry = albedo_core::Registry::linked().expect("a registry");
    let cx = albedo_core::CallContext::new();
    for name in ["digest", "fingerprint-v2", "lineage"] {
        let mut identities = Vec::new();
        for machine in ["one", "another"] {
            let place = tempfile::tempdir().expect("a folder");
            let path = place.path().join(machine);
            Store::create(&path).expect("a store");
            let screen = registry.build::<dyn Screen>(name, json!({ "store": path }), &cx).await;
            identities.push(screen.expect("a screen").identity().clone());
        }
        assert_eq!(identities[0], identities[1], "{name}");
        let alone = registry.build::<dyn Screen>(name, json!({}), &cx).await.expect("a screen");
        assert_ne!(*alone.identity(), identities[0], "{name}: without a store it finds less");
    }
}

/// Nine tenths of a model's tensors are another's: an operator has to look at it.
#[test]
fn a_model_that_is_mostly_anothers_byte_for_byte_is_flagged() {
    let digests = |name: &str, changed: usize| Digests {
        parameters: Digest::of(name),
        tensors: (0..68)
            .map(|tensor| {
                let of = if tensor < changed { format!("{name} {tensor}") } else { tensor.to_string() };
                (format!("tensor {tensor}"), Digest::of(of))
            })
            .collect(),
        head_apart: false,
    };
    let (king, rival) = (digests("king", 0), digests("rival", 68));
    let place = tempfile::tempdir().expect("a folder");
    let store = Store::create(&place.path().join("store")).expect("a store");
    let submission = Submission {
        label: "rival".into(),
        hotkey: String::new(),
        block: None,
        parameters: Some(rival.parameters),
        fingerprint: None,
        sketch: None,
        tensors: rival.prints(),
    };
    store.add(&submission).expect("added");
    let screen = DigestScreen::new(&DigestConfig::default(), Some(Arc::new(store))).expect("a screen");
    let judge = |model: &Digests, own: &[String]| screen.judge(model, &king, own).expect("a finding");
    let mut touched = rival.clone();
    touched.parameters = Digest::of("touched");
    for tensor in 0..6 {
        touched.tensors.insert(format!("tensor {tensor}"), Digest::of("touched"));
    }
    for (model, of) in [(&digests("other", 1), "the king's"), (&touched, "rival")] {
        let found = judge(model, &[]);
        let Finding::Flagged(evidence) = &found else { panic!("{found:?}") };
        assert!(evidence["reasons"][0].as_str().is_some_and(|reason| reason.contains(of)), "{evidence}");
    }
    assert!(matches!(judge(&touched, &["rival".into()]), Finding::Clear(_)));
    assert!(matches!(judge(&digests("other", 8), &[]), Finding::Clear(_)));
}

/// A tied head that is stored beside the embedding repeats it, or is another model.
#[tokio::test]
async fn a_tied_head_is_the_embedding_or_a_foul() {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
        "vocab_size": 120, "tie_word_embeddings": true,
    });
    let place = tempfile::tempdir().expect("a folder");
    let king = Model::synthetic(config, 3).rounded();
    let written = |name: &str, model: &Model| {
        let path = place.path().join(name);
        model.write(&path, None);
        folder(&path)
    };
    let kings = written("king", &king);
    let screen = DigestScreen::new(&DigestConfig::default(), None).expect("a screen");
    let inspect = async |name: &str, model: &Model| {
        let models = Models::new(kings.clone(), written(name, model));
        let cx = albedo_core::CallContext::new();
        albedo_core::admission::inspect_weights(&screen, &models, &[], &cx).await.expect("a finding")
    };
    let mut copy = king.clone();
    copy.write_head();
    let found = inspect("copy", &copy).await;
    let Finding::Rejected(evidence) = &found else { panic!("{found:?}") };
    assert_eq!(evidence["copy_of"], "the king");
    let mut trained = king.clone();
    trained.add_rank(2, 0.05, &mut Dice::new("trained", 1));
    let mut trained = trained.rounded();
    trained.write_head();
    let found = inspect("trained", &trained).await;
    let Finding::Clear(evidence) = &found else { panic!("{found:?}") };
    assert_eq!(evidence["tensors"], king.tensors.len());
    let head = trained.tensors.get_mut("lm_head.weight").expect("it was written");
    head.values[7] += 1.0;
    let found = inspect("another head", &trained).await;
    let Finding::Rejected(evidence) = &found else { panic!("{found:?}") };
    assert_eq!((&evidence["rules"], &evidence["rejected_for"]), (&json!(["head"]), &json!([null])));
    // Without the tie it is a head like any other.
    trained.config["tie_word_embeddings"] = json!(false);
    assert!(matches!(inspect("untied", &trained).await, Finding::Clear(_)));
}

/// The parameters' digest of a copy is another one where it alone repeats the tied head.
#[tokio::test]
async fn a_copy_that_adds_or_drops_a_tied_head_is_known() {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
        "vocab_size": 120, "tie_word_embeddings": true,
    });
    let place = tempfile::tempdir().expect("a folder");
    let king = Model::synthetic(config, 3).rounded();
    let mut without = king.clone();
    without.add_rank(2, 0.05, &mut Dice::new("trained", 1));
    let without = without.rounded();
    let mut with = without.clone();
    with.write_head();
    let cx = albedo_core::CallContext::new();
    let digests = async |name: &str, model: &Model| {
        let path = place.path().join(name);
        model.write(&path, None);
        let measured = Measurement::take(folder(&path), AlignTo::Nothing, &cx).await;
        measured.expect("measured").digests
    };
    let king = digests("king", &king).await;
    let (without, with) = (digests("without", &without).await, digests("with", &with).await);
    assert_ne!(without.parameters, with.parameters);
    // A store of before has the head, too.
    let mut of_before = with.clone();
    of_before.tensors.insert(HEAD.into(), of_before.tensors[EMBEDDING]);
    for (number, (rival, copy)) in
        [(&without, &with), (&with, &without), (&of_before, &without)].into_iter().enumerate()
    {
        let store = Store::create(&place.path().join(number.to_string())).expect("a store");
        let submission = Submission {
            label: "rival".into(),
            hotkey: String::new(),
            block: None,
            parameters: Some(rival.parameters),
            fingerprint: None,
            sketch: None,
            tensors: rival.prints(),
        };
        store.add(&submission).expect("added");
        let screen = DigestScreen::new(&DigestConfig::default(), Some(Arc::new(store))).expect("a screen");
        let found = screen.judge(copy, &king, &[]).expect("a finding");
        let Finding::Rejected(evidence) = &found else { panic!("{number}: {found:?}") };
        assert_eq!(evidence["copy_of"], "rival", "{number}");
        let own = screen.judge(copy, &king, &["rival".into()]).expect("a finding");
        assert!(matches!(own, Finding::Clear(_)), "{number}: {own:?}");
    }
}
