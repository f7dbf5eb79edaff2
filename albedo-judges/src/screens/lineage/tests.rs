use std::fs;
use std::path::Path;

use albedo_core::conformance::{PATIENCE, check_weights_screen};
use albedo_core::{CallContext, Models};

use super::*;
use crate::screens::store::Submission;
use crate::screens::testing::{demo_king, disguise, find, folder, wait};
use crate::screens::{AlignTo, Measurement, is_like_the_king_alone};

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

/// The rules that a finding rests on.
fn rules(finding: &Finding) -> Vec<String> {
    let rules = finding.evidence()["rules"].as_array().expect("rules").iter();
    rules.map(|rule| rule.as_str().expect("a word").to_owned()).collect()
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
                tensors: Vec::new(),
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

    /// Judges `model` where `king` reigns, who is not the anchor.
    fn judge_under(&self, king: &Model, store: &Path, model: &Model) -> Finding {
        let store = Arc::new(Store::open(store).expect("opens"));
        let screen = LineageScreen::new(LineageConfig::default(), Some(store)).expect("a screen");
        let [king, model] = [king, model].map(|model| self.measure(model).aligned.expect("aligned"));
        screen.judge(&model, &king, &[]).expect("a finding")
    }

    /// Notes in the store that `models` are kings.
    fn crown(&self, store: &Path, models: &[&Model]) {
        let store = Store::open(store).expect("opens");
        for model in models {
            store.add_king(self.measure(model).digests.parameters).expect("noted");
        }
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
fn a_copy_is_found_under_every_disguise_and_training_is_not() {
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
            // What rounding the king again leaves looks like noise, and that forfeits nothing.
            let noise = of == "king" && rules(&found).contains(&"noise".to_owned());
            assert!(noise || matches!(found, Finding::Rejected(_)), "{name}, copy of {of}: {found:?}");
        }
        let mut model = other.clone();
        disguise(&mut model, &mut Dice::new(name, 2));
        let found = place.judge(Some(&store), &model);
        assert!(!matches!(found, Finding::Rejected(_)), "{name}, honest: {found:?}");
    }
    let mut noisy = king.clone();
    noisy.add_noise(0.02, &mut Dice::new("noise", 1));
    assert!(rules(&place.judge(None, &noisy)).contains(&"noise".to_owned()));
    let mut scaled = king.clone();
    scaled.add_difference(0.5, &rival, &king);
    assert!(matches!(place.judge(Some(&store), &scaled), Finding::Rejected(_)));
    assert!(matches!(place.judge(None, &scaled), Finding::Clear(_)));
}

#[test]
fn a_rejection_says_whose_copy_it_is() {
    let king = small();
    let place = Place::new(&king);
    let rival = trained(&king, 1);
    let store = place.store(&[("rival", &rival)]);
    let mut scaled = king.clone();
    scaled.add_difference(0.5, &rival, &king);
    let mut broken = king.clone();
    broken.tensors.get_mut("model.norm.weight").expect("there").values[3] = f32::NAN;
    for (model, of) in [
        (&king, json!("the king")),
        (&rival, json!("rival")),
        (&scaled, json!("rival")),
        (&broken, json!(null)),
    ] {
        let found = place.judge(Some(&store), model);
        assert_eq!(found.evidence()["rejected_for"], json!([of]), "{found:?}");
        assert_eq!(is_like_the_king_alone(&found), of == "the king", "{found:?}");
    }
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

/// Steps of an optimiser that makes them orthogonal, as Muon does, have a flat spectrum.
#[test]
fn what_a_difference_looks_like_forfeits_nothing() {
    let king = small();
    let place = Place::new(&king);
    let mut orthogonal = king.clone();
    orthogonal.add_orthogonal(0.02, &mut Dice::new("orthogonal", 1));
    let found = place.judge(None, &orthogonal);
    let structure = found.evidence()["to_king"]["structure"].as_f64().expect("a number");
    assert!(structure < 0.95 && matches!(found, Finding::Clear(_)), "{found:?}");
    let mut noisy = king.clone();
    noisy.add_noise(0.02, &mut Dice::new("search without gradients", 1));
    let found = place.judge(None, &noisy);
    assert!(matches!(found, Finding::Flagged(_)) && rules(&found) == ["noise"], "{found:?}");
}

/// The scale of the stream is a median over rows, and one tensor that was spoiled moves no
/// median of cosines.
#[test]
fn an_unused_row_of_the_embedding_disarms_nothing() {
    let king = small();
    let place = Place::new(&king);
    let rival = trained(&king, 1);
    let store = place.store(&[("rival", &rival)]);
    for (of, source, expected) in [("king", &king, "few-differ"), ("rival", &rival, "shared")] {
        let mut model = source.clone();
        let embedding = model.tensors.get_mut("model.embed_tokens.weight").expect("there");
        let columns = embedding.columns();
        embedding.values[299 * columns..].iter_mut().for_each(|value| *value *= 10.0);
        let found = place.judge(Some(&store), &model);
        let rules = rules(&found);
        assert!(
            rules.contains(&expected.to_owned()) && rules.contains(&"rows".to_owned()),
            "{of}: {found:?}"
        );
    }
    // Nor does it hide a rival's work under a disguise, which leaves no matrix as it was.
    let mut model = rival.clone();
    DISGUISES[9].1(&mut model, &mut Dice::new("all", 2));
    let embedding = model.tensors.get_mut("model.embed_tokens.weight").expect("there");
    let columns = embedding.columns();
    embedding.values[299 * columns..].iter_mut().for_each(|value| *value *= 10.0);
    let found = place.judge(Some(&store), &model);
    assert!(matches!(found, Finding::Rejected(_)), "{found:?}");
}

#[test]
fn one_weight_of_one_matrix_is_few() {
    let king = small();
    let place = Place::new(&king);
    let mut model = king.clone();
    model.tensors.get_mut("model.layers.1.self_attn.q_proj.weight").expect("there").values[7] = 3.0;
    let found = place.judge(None, &model);
    assert_eq!(rules(&found), ["few-differ"], "{found:?}");
}

/// Channels of equal gain may be turned into one another, with a tied head, too.
#[test]
fn a_turned_stream_is_turned_back() {
    let mut king = small();
    king.tensors.get_mut("model.norm.weight").expect("there").values.fill(1.5);
    let king = king.rounded();
    let place = Place::new(&king);
    let rival = trained(&king, 1);
    let store = place.store(&[("rival", &rival)]);
    for degrees in [1.0, 10.0, 40.0] {
        for (of, source) in [("king", &king), ("rival", &rival)] {
            let mut model = source.clone();
            model.turn_stream(degrees, &mut Dice::new("turned", 1));
            let tokens = [5, 17, 250, 3];
            let (one, other) = (forward::logits(&model, &tokens), forward::logits(source, &tokens));
            let off = one.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
            assert!(off < 1e-4 * other.iter().fold(0.0_f64, |most, value| most.max(value.abs())), "{off}");
            let found = place.judge(Some(&store), &model);
            assert!(rules(&found).contains(&"rotated".to_owned()), "{degrees}, {of}: {found:?}");
            let distance = found.evidence()["to_king"]["distance"].as_f64().expect("a number");
            if of == "king" {
                assert!(distance < 0.01, "{degrees}: {found:?}");
            } else {
                assert!(matches!(found, Finding::Rejected(_)), "{degrees}: {found:?}");
            }
        }
    }
    let found = place.judge(Some(&store), &trained(&king, 2));
    assert!(matches!(found, Finding::Clear(_)), "{found:?}");
}

/// Planes that hardly turn may change places.
#[test]
fn slow_planes_are_brought_back() {
    let mut config = small().config;
    config["rope_theta"] = json!(1e6);
    config["head_dim"] = json!(32);
    let mut king = Model::synthetic(config, 5);
    for layer in 0..3 {
        for norm in ["q_norm", "k_norm"] {
            let name = format!("model.layers.{layer}.self_attn.{norm}.weight");
            king.tensors.get_mut(&name).expect("there").values.fill(1.25);
        }
    }
    let king = king.rounded();
    let place = Place::new(&king);
    let mut model = king.clone();
    model.permute_slow_planes(4, &mut Dice::new("planes", 1));
    let found = place.judge(None, &model);
    assert!(found.evidence()["to_king"]["distance"].as_f64().expect("a number") < 2e-3, "{found:?}");
}

/// Scales that a disguise puts into one matrix and takes out of the next, powers of two, so
/// that nothing is rounded.
#[test]
fn extreme_scales_are_undone() {
    let king = small();
    let place = Place::new(&king);
    for by in [60, 83].map(|power| 2.0_f32.powi(power)) {
        let mut model = king.clone();
        model.rescale_one_neuron(by);
        let found = place.judge(None, &model);
        assert!(matches!(found, Finding::Rejected(_)), "{by}: {found:?}");
    }
}

#[test]
fn reasons_are_true_of_weights_that_are_no_numbers_and_of_huge_ones() {
    let king = small();
    let place = Place::new(&king);
    let reason = |model: &Model| {
        let found = place.judge(None, model);
        assert!(matches!(found, Finding::Rejected(_)), "{found:?}");
        found.evidence()["reasons"][0].as_str().expect("a reason").to_owned()
    };
    let mut broken = king.clone();
    broken.tensors.get_mut("model.norm.weight").expect("there").values[3] = f32::NAN;
    assert_eq!(reason(&broken), "a weight of model.norm.weight is not finite");
    let mut huge = king.clone();
    for tensor in huge.tensors.values_mut() {
        tensor.values.fill(3.3e38);
    }
    assert!(reason(&huge).contains("sums of such weights overflow"), "{}", reason(&huge));
}

fn moved(from: &Model, by: f64, seed: u64) -> Model {
    let mut model = from.clone();
    model.add_rank(6, by, &mut Dice::new("trained", seed));
    model.rounded()
}

/// Those who trained a former king share what crowns have changed since, and nothing else.
#[test]
fn a_crown_makes_nobody_a_copy() {
    let first = small();
    let place = Place::new(&first);
    let (king, rival, colleague) = (moved(&first, 0.05, 1), moved(&first, 0.01, 2), moved(&first, 0.01, 3));
    let store = place.store(&[("the first king", &first), ("the king", &king), ("rival", &rival)]);
    let found = place.judge_under(&king, &store, &colleague);
    assert!(rules(&found).contains(&"copied".to_owned()), "nobody said who was king: {found:?}");
    place.crown(&store, &[&first, &king]);
    let found = place.judge_under(&king, &store, &colleague);
    assert!(matches!(found, Finding::Clear(_)), "{found:?}");
    let nearest = found.evidence()["nearest"].as_array().expect("a list");
    let of = |label: &str| nearest.iter().find(|near| near["of"] == label).expect("compared");
    // The first king is nearest to all of them, and sees nothing that they have in common.
    assert_eq!((&of("rival")["kings"], &of("the first king")["kings"]), (&json!(1), &json!(1)));

    // The rival's work is known all the same, and the first king.
    let mut copy = rival.clone();
    DISGUISES[9].1(&mut copy, &mut Dice::new("all", 2));
    let found = place.judge_under(&king, &store, &copy);
    assert!(matches!(found, Finding::Rejected(_)), "{found:?}");
    assert!(found.evidence()["reasons"].to_string().contains("rival"), "{found:?}");
    let found = place.judge_under(&king, &store, &first);
    assert!(matches!(found, Finding::Rejected(_)), "{found:?}");
    assert_eq!(rules(&found), ["nothing-differs"]);
    let mut rescaled = first.clone();
    DISGUISES[2].1(&mut rescaled, &mut Dice::new("rescaled", 1));
    let found = place.judge_under(&king, &store, &rescaled);
    assert!(rules(&found).contains(&"hardly-differs".to_owned()), "{found:?}");
}

/// A former king sees what the crown has changed in both a rival's work and a part of it.
#[test]
fn a_scaled_copy_is_known_after_a_crown() {
    let first = small();
    let place = Place::new(&first);
    let king = moved(&first, 0.05, 1);
    let (rival, colleague) = (moved(&king, 0.05, 2), moved(&king, 0.05, 3));
    let store = place.store(&[("the first king", &first), ("the king", &king), ("rival", &rival)]);
    place.crown(&store, &[&first, &king]);
    let mut scaled = king.clone();
    scaled.add_difference(0.2, &rival, &king);
    let found = place.judge_under(&king, &store, &scaled);
    assert!(rules(&found).contains(&"copied".to_owned()), "{found:?}");
    assert!(found.evidence()["reasons"].to_string().contains("rival"), "{found:?}");
    let found = place.judge_under(&king, &store, &colleague);
    assert!(matches!(found, Finding::Clear(_)), "{found:?}");
}

/// Somebody adds to the king what a rival has made of the king before: the crown, which is larger,
/// hides it from both kings.
#[test]
fn work_that_was_moved_to_another_king_is_flagged() {
    let first = small();
    let place = Place::new(&first);
    let (king, rival) = (moved(&first, 0.05, 1), moved(&first, 0.02, 2));
    let store = place.store(&[("the first king", &first), ("the king", &king), ("rival", &rival)]);
    place.crown(&store, &[&first, &king]);
    for (factor, is_disguised) in [(1.0, false), (0.5, false), (1.0, true)] {
        let mut copy = king.clone();
        copy.add_difference(factor, &rival, &first);
        if is_disguised {
            DISGUISES[9].1(&mut copy, &mut Dice::new("all", 2));
        }
        let found = place.judge_under(&king, &store, &copy.rounded());
        let is_moved = rules(&found).contains(&"moved".to_owned());
        assert!(matches!(found, Finding::Flagged(_)) && is_moved, "{factor}: {found:?}");
        let reasons = found.evidence()["reasons"].to_string();
        assert!(reasons.contains("the change of rival from another king"), "{reasons}");
        let nearest = &found.evidence()["nearest"][0];
        let number = |key: &str| nearest[key].as_f64().expect("a number");
        assert!(nearest["of"] == "rival" && number("moved") > 0.9 && number("cosine") < 0.5, "{nearest}");
    }
}

#[test]
fn trainings_of_two_kings_are_not_taken_for_moved_work() {
    let first = small();
    let place = Place::new(&first);
    let king = moved(&first, 0.05, 1);
    let (rival, late) = (moved(&first, 0.02, 2), moved(&king, 0.02, 3));
    let store =
        place.store(&[("the first king", &first), ("the king", &king), ("rival", &rival), ("late", &late)]);
    place.crown(&store, &[&first, &king]);
    for (base, of) in [(&king, "rival"), (&first, "late")] {
        let found = place.judge_under(&king, &store, &moved(base, 0.02, 4));
        assert!(matches!(found, Finding::Clear(_)), "{of}: {found:?}");
        let nearest = found.evidence()["nearest"].as_array().expect("a list");
        let near = nearest.iter().find(|near| near["of"] == of).expect("compared");
        assert!(near["moved"].as_f64().expect("it has another king").abs() < 0.2, "{near}");
    }
}

/// An adapter's matrices alone move: the others stay a former king's.
#[test]
fn matrices_of_a_former_king_are_nobodys_work() {
    let first = small();
    let place = Place::new(&first);
    let king = moved(&first, 0.05, 1);
    let adapted = |seed: u64| {
        let (trained, mut model) = (moved(&first, 0.02, seed), first.clone());
        for (name, tensor) in &mut model.tensors {
            if name.contains("q_proj") || name.contains("gate_proj") {
                *tensor = trained.tensors[name].clone();
            }
        }
        model
    };
    let rival = adapted(2);
    let store = place.store(&[("the first king", &first), ("rival", &rival)]);
    let found = place.judge_under(&king, &store, &adapted(3));
    assert!(rules(&found).contains(&"shared".to_owned()), "nobody said who was king: {found:?}");
    place.crown(&store, &[&first, &king]);
    let found = place.judge_under(&king, &store, &adapted(3));
    assert!(matches!(found, Finding::Clear(_)), "{found:?}");
    // The rival's own matrices stay the rival's.
    let mut taken = adapted(4);
    for (name, tensor) in &mut taken.tensors {
        if name.contains("q_proj") {
            *tensor = rival.tensors[name].clone();
        }
    }
    let found = place.judge_under(&king, &store, &taken);
    assert!(rules(&found).contains(&"shared".to_owned()), "{found:?}");
    assert!(found.evidence()["reasons"].to_string().contains("those of rival, and no king's"), "{found:?}");
}

/// Sketches are read some at a time.
#[test]
fn every_sketch_of_a_large_store_is_compared() {
    let king = small();
    let place = Place::new(&king);
    let (rival, other) = (trained(&king, 1), trained(&king, 2));
    let path = place.store(&[]);
    let store = Store::open(&path).expect("opens");
    let [rivals, others] =
        [&rival, &other].map(|model| place.measure(model).aligned.expect("aligned").sketch.clone());
    let count = 2 * AT_A_TIME + 3;
    for number in 0..count {
        let submission = Submission {
            label: number.to_string(),
            hotkey: String::new(),
            block: None,
            parameters: Some(Digest::of(number.to_string())),
            fingerprint: None,
            sketch: Some(if number == count - 2 { rivals.clone() } else { others.clone() }),
            tensors: Vec::new(),
        };
        store.add(&submission).expect("added");
    }
    let mut copy = rival.clone();
    DISGUISES[9].1(&mut copy, &mut Dice::new("all", 2));
    let found = place.judge(Some(&path), &copy);
    let evidence = found.evidence();
    assert_eq!((&evidence["compared"], &evidence["nearest"][0]["of"]), (&json!(count), &json!("129")));
    assert_eq!(evidence["nearest"].as_array().map(Vec::len), Some(NEAREST));
    assert!(matches!(found, Finding::Rejected(_)), "{found:?}");
}
