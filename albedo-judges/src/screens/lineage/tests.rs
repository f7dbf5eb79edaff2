use std::fs;
use std::path::Path;

use albedo_core::conformance::{PATIENCE, check_weights_screen};
use albedo_core::{CallContext, Models};

use super::*;
use crate::screens::store::Submission;
use crate::screens::testing::{demo_king, find, folder, wait};
use crate::screens::{AlignTo, Measurement};

#[path = "../../../examples/screen_attacks/disguise.rs"]
#[expect(dead_code, reason = "the attack generator uses all of it")]
mod disguise;
mod forward;

use disguise::{Dice, Model};

type Disguise = fn(&mut Model, &mut Dice);

/// What a copyist can do without changing what the model says.
const DISGUISES: [(&str, Disguise); 10] = [
    ("identical", |_, _| ()),
    ("neurons permuted", Model::permute_neurons),
    ("neurons rescaled", Model::rescale_neurons),
    ("heads permuted", Model::permute_heads),
    ("values rotated", Model::rotate_values),
    ("planes turned", Model::turn_planes),
    ("norms folded", Model::fold_norms),
    ("channels permuted", Model::permute_channels),
    ("stream scaled", |model, _| model.scale_stream(1.7)),
    ("all", |model, dice| {
        for (_, disguise) in &DISGUISES[1..9] {
            disguise(model, dice);
        }
    }),
];

fn small() -> Model {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 160,
        "vocab_size": 300, "tie_word_embeddings": true,
    });
    Model::synthetic(config, 3).rounded()
}

/// What training would do: a change of few directions.
fn trained(king: &Model, seed: u64) -> Model {
    let mut model = king.clone();
    model.add_rank(6, 0.02, &mut Dice::new("trained", seed));
    model
}

fn measured(path: &Path, align: AlignTo) -> Measurement {
    wait(Measurement::take(folder(path), align, &CallContext::new())).expect("measured")
}

struct Place {
    folder: tempfile::TempDir,
    king: PathBuf,
    anchor: Arc<Anchor>,
}

impl Place {
    fn new(king: &Model) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("king");
        king.write(&path, None);
        let anchor = measured(&path, AlignTo::Itself).anchor.expect("an anchor");
        Self { folder, king: path, anchor }
    }

    fn measure(&self, model: &Model) -> Measurement {
        let path = self.folder.path().join("model");
        model.write(&path, None);
        measured(&path, AlignTo::Anchor(self.anchor.clone()))
    }

    fn store(&self, models: &[(&str, &Model)]) -> PathBuf {
        let path = self.folder.path().join("store");
        let store = Store::create(&path).expect("a store");
        for (label, model) in models {
            let measured = self.measure(model);
            let submission = Submission {
                label: (*label).into(),
                hotkey: String::new(),
                block: None,
                parameters: Some(measured.digests.parameters),
                fingerprint: None,
                sketch: measured.aligned.map(|aligned| aligned.sketch.clone()),
            };
            store.add(&submission).expect("added");
        }
        path
    }

    fn judge(&self, store: Option<&Path>, model: &Model) -> Finding {
        let store = store.map(|path| Arc::new(Store::open(path).expect("opens")));
        let screen = LineageScreen::new(LineageConfig::default(), store).expect("a screen");
        let aligned = self.measure(model).aligned.expect("aligned");
        screen.judge(&aligned, self.anchor.own(), &[]).expect("a finding")
    }
}

#[test]
fn the_disguises_keep_what_the_model_says() {
    let king = small();
    let tokens = [5, 17, 250, 3, 99, 42];
    let expected = forward::logits(&king, &tokens);
    for (name, disguise) in DISGUISES {
        let mut model = king.clone();
        disguise(&mut model, &mut Dice::new(name, 1));
        let off = forward::logits(&model, &tokens)
            .iter()
            .zip(&expected)
            .map(|(one, other)| (one - other).abs())
            .fold(0.0, f64::max);
        let size = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        assert!(off < 1e-3 * size, "{name}: logits of {size} are off by {off}");
    }
}

#[test]
fn a_copy_is_rejected_under_every_disguise_and_training_is_not() {
    let king = small();
    let place = Place::new(&king);
    let (rival, other) = (trained(&king, 1), trained(&king, 2));
    let store = place.store(&[("rival", &rival)]);
    assert!(matches!(place.judge(Some(&store), &other), Finding::Clear(_)));
    for (name, disguise) in DISGUISES {
        for (of, source) in [("king", &king), ("rival", &rival)] {
            let mut model = source.clone();
            disguise(&mut model, &mut Dice::new(name, 2));
            let found = place.judge(Some(&store), &model);
            assert!(matches!(found, Finding::Rejected(_)), "{name}, copy of {of}: {found:?}");
        }
        let mut model = other.clone();
        disguise(&mut model, &mut Dice::new(name, 2));
        let found = place.judge(Some(&store), &model);
        assert!(!matches!(found, Finding::Rejected(_)), "{name}, honest: {found:?}");
    }
    let mut noisy = king.clone();
    noisy.add_noise(0.02, &mut Dice::new("noise", 1));
    assert!(matches!(place.judge(None, &noisy), Finding::Rejected(_)));
    let mut scaled = king.clone();
    scaled.add_difference(0.5, &rival, &king);
    assert!(matches!(place.judge(Some(&store), &scaled), Finding::Rejected(_)));
    assert!(matches!(place.judge(None, &scaled), Finding::Clear(_)));
}

/// A disguise rounds the weights again, which moves them by as much.
#[test]
fn work_that_is_hardly_more_than_rounding_is_known_in_a_disguised_copy() {
    let king = small();
    let place = Place::new(&king);
    let moved = |seed| {
        let mut model = king.clone();
        model.add_rank(6, 0.002, &mut Dice::new("trained", seed));
        model.rounded()
    };
    let store = place.store(&[("rival", &moved(1))]);
    let mut copy = moved(1);
    DISGUISES[9].1(&mut copy, &mut Dice::new("all", 2));
    let found = place.judge(Some(&store), &copy);
    let Finding::Rejected(evidence) = &found else { panic!("{found:?}") };
    let nearest = &evidence["nearest"][0];
    let cosine = nearest["cosine"].as_f64().expect("a cosine");
    assert!(cosine < 0.85 && evidence["reasons"].to_string().contains("the work is"), "{evidence}");
    let found = place.judge(Some(&store), &moved(2));
    assert!(!matches!(found, Finding::Rejected(_)), "{found:?}");
}

#[test]
fn alignment_comes_to_the_same_sketch() {
    let king = small();
    let place = Place::new(&king);
    let rival = trained(&king, 1);
    let plain = place.measure(&rival).aligned.expect("aligned").sketch.clone();
    let rows: f64 = plain.values.iter().map(|&value| f64::from(value).powi(2)).sum();
    for (name, disguise) in DISGUISES {
        let mut model = rival.clone();
        disguise(&mut model, &mut Dice::new(name, 3));
        let aligned = place.measure(&model).aligned.expect("aligned");
        let off: f64 = aligned
            .sketch
            .values
            .iter()
            .zip(&plain.values)
            .map(|(one, other)| f64::from(one - other).powi(2))
            .sum();
        assert!((off / rows).sqrt() < 6e-3, "{name}: off by {}", (off / rows).sqrt());
        let undone = aligned.undone;
        assert_eq!(undone.neurons_moved > 0, name.contains("neurons permuted") || name == "all", "{name}");
        assert_eq!(undone.channels_moved > 0, name.contains("channels") || name == "all", "{name}");
        assert_eq!(undone.heads_moved > 0, name.contains("heads") || name == "all", "{name}");
    }
}

#[test]
fn what_is_far_from_the_king_is_flagged_and_what_is_not_finite_rejected() {
    let king = small();
    let place = Place::new(&king);
    let stranger = Model::synthetic(king.config.clone(), 99);
    assert!(matches!(place.judge(None, &stranger), Finding::Flagged(_)));
    let mut broken = king.clone();
    broken.tensors.get_mut("model.layers.1.mlp.up_proj.weight").expect("there").values[7] = f32::NAN;
    assert!(matches!(place.judge(None, &broken), Finding::Rejected(_)));
}

#[tokio::test]
async fn the_screen_conforms_and_fails_closed() {
    let (king, challenger) = (demo_king(), demo_king().join("../challenger"));
    let screen = LineageScreen::new(LineageConfig::default(), None).expect("a screen");
    let subjects = [&challenger, &king].map(|submission| Models::new(folder(&king), folder(submission)));
    check_weights_screen(&screen, &subjects, PATIENCE).await.expect("conforms");

    let place = tempfile::tempdir().expect("a folder");
    let error = find(&screen, place.path(), &[]).await.expect_err("empty");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let whole = fs::read(king.join("model.safetensors")).expect("reads");
    fs::write(place.path().join("model.safetensors"), &whole[..whole.len() / 3]).expect("written");
    let error = find(&screen, place.path(), &[]).await.expect_err("half");
    assert_eq!(error.fault(), albedo_core::Fault::Infrastructure, "{error}");
}

/// One pass over each model finds what is found of models that were measured
/// one by one.
#[tokio::test(flavor = "multi_thread")]
async fn models_that_pass_by_are_aligned_to_the_anchor_that_passed_first() {
    let (king, rival) = (small(), trained(&small(), 1));
    let (place, models) = tokio::task::spawn_blocking(move || {
        let place = Place::new(&king);
        let paths = [("submission", &rival), ("other", &trained(&king, 2))].map(|(name, model)| {
            let path = place.folder.path().join(name);
            model.write(&path, None);
            path
        });
        (place, paths)
    })
    .await
    .expect("written");
    let [submission, anchor] = &models;
    let screen = LineageScreen::new(LineageConfig::default(), None).expect("a screen");
    let inspect = async |anchor: Option<&Path>| {
        let models =
            Models { anchor: anchor.map(folder), ..Models::new(folder(&place.king), folder(submission)) };
        let ScreenPart::Weights(part) = screen.part() else { panic!("{screen:?}") };
        let cx = CallContext::new();
        albedo_core::admission::inspect_weights(part, &models, &[], &cx).await.expect("a finding")
    };
    let Finding::Clear(by_king) = inspect(None).await else { panic!("it was trained") };
    let Finding::Clear(by_other) = inspect(Some(anchor)).await else { panic!("it was trained") };
    assert_eq!(by_king["anchor"], json!(place.anchor.parameters()));
    assert_ne!(by_other["anchor"], by_king["anchor"]);
    let distance = |evidence: &serde_json::Value| evidence["to_king"]["distance"].as_f64().expect("a number");
    assert!((distance(&by_king) / distance(&by_other) - 1.0).abs() < 0.05, "{by_king} {by_other}");
}

#[test]
fn an_anchor_that_is_not_the_stores_is_refused() {
    let king = small();
    let place = Place::new(&king);
    let store = Store::open(&place.store(&[("rival", &trained(&king, 1))])).expect("opens");
    let other = place.folder.path().join("other");
    trained(&king, 5).write(&other, None);
    let screen = LineageScreen::new(LineageConfig::default(), Some(Arc::new(store))).expect("a screen");
    let models = Models { anchor: Some(folder(&other)), ..Models::new(folder(&place.king), folder(&other)) };
    let cx = CallContext::new();
    let error = wait(albedo_core::admission::inspect_weights(&screen, &models, &[], &cx));
    assert_eq!(error.expect_err("another anchor").kind(), ErrorKind::Conflict);
}
