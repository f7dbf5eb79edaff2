use std::collections::BTreeMap;

use albedo_core::conformance::{PATIENCE, check_weights_screen};
use albedo_core::{CallContext, Models};
use proptest::prelude::*;

use super::*;
use crate::screens::testing::{demo_king, find, folder, wait};
use crate::screens::{AlignTo, Measurement, is_like_the_king_alone};

/// Norm, number of elements, positions and samples of each tensor of the demo king, by
/// `reference.py`.
const REFERENCE: &str = include_str!("king.json");

fn take(path: &std::path::Path) -> Fingerprint {
    let cx = CallContext::new();
    wait(Measurement::take(folder(path), AlignTo::Nothing, &cx)).expect("measured").fingerprint
}

#[test]
fn positions_are_the_reference_vectors() {
    // From the written description of the Python system.
    let positions = sample_positions("model.layers.0.self_attn.q_proj.weight", 2560 * 4096);
    assert_eq!(
        positions,
        [
            3_217_628, 7_995_405, 10_159_967, 7_057_745, 6_609_214, 7_405_334, 4_702_462, 9_692_136,
            7_458_256, 6_873_519, 4_492_263, 9_840_619, 6_826_229, 1_411_169, 5_984_814, 269_069
        ]
    );
    assert_eq!(sample_positions("x", 0), [0; SAMPLES]);
}

#[test]
fn the_demo_kings_is_that_of_an_independent_implementation() {
    let reference: BTreeMap<String, (f64, u64, Vec<u64>, Vec<f32>)> =
        serde_json::from_str(REFERENCE).expect("JSON");
    let taken = take(&demo_king());
    assert!(taken.layer_keys.iter().eq(reference.keys()));
    let samples = taken.tensor_samples.expect("samples");
    for ((name, (norm, elements, positions, values)), (own_norm, own)) in
        reference.iter().zip(taken.norm_vector.iter().zip(&samples))
    {
        assert_eq!(sample_positions(name, *elements).as_slice(), positions, "{name}");
        assert!((own_norm / norm - 1.0).abs() < 1e-6, "{name}: {own_norm} is not {norm}");
        assert_eq!(own, values, "{name}");
    }
}

fn of(names: &[&str], samples: &[[f32; 2]]) -> Fingerprint {
    Fingerprint {
        method: METHOD.into(),
        layer_keys: names.iter().map(|&name| name.to_owned()).collect(),
        norm_vector: samples.iter().map(|pair| f64::from(pair[0].hypot(pair[1]))).collect(),
        tensor_samples: Some(samples.iter().map(|pair| pair.to_vec()).collect()),
        hotkey: String::new(),
    }
}

#[test]
fn similarity_is_the_written_rule() {
    let one = of(&["a", "b"], &[[1.0, 2.0], [0.0, 0.0]]);
    assert_eq!(one.similarity(&one), 1.0);
    assert_eq!(one.similarity(&of(&["a", "b"], &[[2.0, 4.0], [0.0, 0.0]])), 1.0);
    assert_eq!(one.similarity(&of(&["a", "b"], &[[1.0, 2.1], [0.0, 0.0]])), 0.5);
    assert_eq!(one.similarity(&of(&["a", "b"], &[[1.0, 2.0], [0.0, 1.0]])), 0.5);
    assert_eq!(one.similarity(&of(&["a", "c"], &[[1.0, 2.0], [0.0, 0.0]])), 0.0);
    assert_eq!(one.similarity(&of(&["a"], &[[1.0, 2.0]])), 0.0);
    // A tied head that only one of the files repeats.
    let headed = of(&["a", "b", "lm_head.weight"], &[[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]]);
    assert_eq!((one.similarity(&headed), headed.similarity(&one)), (1.0, 1.0));
    let other = of(&["a", "b", "lm_head.weight"], &[[1.0, 2.1], [0.0, 1.0], [5.0, 6.0]]);
    assert_eq!(headed.similarity(&other), 1.0 / 3.0);
    let first = Fingerprint { tensor_samples: None, ..of(&["a", "b"], &[[3.0, 4.0], [0.0, 1.0]]) };
    assert!((first.similarity(&first) - 1.0).abs() < 1e-12);
    assert!(first.check().is_ok() && Fingerprint { norm_vector: vec![], ..first }.check().is_err());
}

#[tokio::test]
async fn the_screen_flags_the_king_and_conforms() {
    let (king, challenger) = (demo_king(), demo_king().join("../challenger"));
    let screen = FingerprintScreen::new(&FingerprintConfig::default(), None).expect("a screen");
    assert!(matches!(find(&screen, &king, &[]).await, Ok(Finding::Flagged(_))));
    let rejects = FingerprintConfig { reject: true, ..FingerprintConfig::default() };
    let rejects = FingerprintScreen::new(&rejects, None).expect("a screen");
    let copy = find(&rejects, &king, &[]).await.expect("a finding");
    assert!(is_like_the_king_alone(&copy), "{copy:?}");
    assert!(matches!(find(&screen, &challenger, &[]).await, Ok(Finding::Clear(_))));
    let subjects = [Models::new(folder(&king), folder(&challenger))];
    check_weights_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
    let config = FingerprintConfig { threshold: 1.5, ..FingerprintConfig::default() };
    assert_eq!(FingerprintScreen::new(&config, None).expect_err("refused").kind(), ErrorKind::ConfigInvalid);
}

proptest! {
    #[test]
    fn positions_stay_below(name in ".{0,40}", elements in 1_u64..1 << 40) {
        prop_assert!(sample_positions(&name, elements).iter().all(|&at| at < elements));
    }
}
