use albedo_core::backend::{Completion, GenerateRequest, Generated, ModelInfo, TokenScores};
use albedo_core::{Message, Usage};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use albedo_core::Digest;

use super::*;
use crate::screens::is_like_the_king_alone;
use crate::screens::store::Submission;
use crate::screens::testing::{disguise, wait};

#[path = "../../../examples/function_attacks/attacks.rs"]
mod attacks;
#[path = "../../../examples/function_attacks/network.rs"]
mod network;
#[path = "../../../examples/function_attacks/train.rs"]
mod train;

use attacks::{ATTACKS, Class, Scene};
use disguise::{Dice, Model};

/// A model whose log-probability of a token is the king's and what its training did, both
/// fixed functions of the prompt and the token.
#[derive(Debug)]
struct Scored {
    info: ModelInfo,
    /// Seed of the training, its size, and the size of an individual rest.
    trained: u64,
    size: f64,
    rest: f64,
    /// It cannot stand one token of every reply whose place is a multiple of that.
    spoiled: Option<usize>,
}

impl Scored {
    fn new(name: &str, trained: u64, size: f64, rest: f64) -> Self {
        let digest = Digest::of("text");
        let info = ModelInfo::new(Digest::of(name), name, 4096)
            .with_dtype("f32")
            .with_text(digest, digest, vec![])
            .with_config(digest);
        Self { info, trained, size, rest, spoiled: None }
    }

    fn spoiled(self) -> Self {
        Self { spoiled: Some(3), ..self }
    }

    fn spoiled_in_every_reply(self) -> Self {
        Self { spoiled: Some(1), ..self }
    }

    /// What the store remembers of it: it is called what it is named.
    fn submission(&self) -> Submission {
        Submission {
            label: self.info.architecture.clone(),
            hotkey: String::new(),
            block: None,
            parameters: Some(self.info.parameters),
            fingerprint: None,
            sketch: None,
            tensors: Vec::new(),
        }
    }
}

/// A number between −1 and 1.
fn dice(words: &str) -> f64 {
    let digest = Digest::of(words);
    let bits = digest.as_bytes()[..4].iter().fold(0_u32, |value, &byte| value << 8 | u32::from(byte));
    f64::from(bits) / f64::from(u32::MAX) * 2.0 - 1.0
}

#[async_trait]
impl ModelSession for Scored {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
        Ok(None)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, _: &CallContext) -> BoxStream<'static, Generated> {
        let replies = requests.into_iter().enumerate().map(|(index, request)| {
            let words: Vec<String> = (0..40).map(|word| format!("{}-{word}", request.seed)).collect();
            let reason = if index % 2 == 0 { FinishReason::Stop } else { FinishReason::Length };
            Generated { index, result: Ok(Completion::new(words.join(" "), reason, Usage::default())) }
        });
        stream::iter(replies.collect::<Vec<_>>()).boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        cx.check("score")?;
        let score = |(place, request): (usize, &ScoreRequest)| {
            let score = |token: &str| {
                let training = self.size * dice(&format!("{} {token}", self.trained));
                let rest = self.rest * dice(&format!("{} {token}", self.info.parameters));
                let is_spoiled = self.spoiled.is_some_and(|every| place.is_multiple_of(every));
                let is_spoiled = is_spoiled && token.ends_with("-7");
                let spoiled = if is_spoiled { -700.0 } else { 0.0 };
                (-2.0 + dice(token) + training + rest + spoiled) as f32
            };
            let tokens = request.reply.split(' ').chain(["stop"]);
            TokenScores { log_probs: tokens.map(score).collect() }
        };
        Ok(requests.iter().enumerate().map(score).collect())
    }
}

fn place() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Store::create(&folder.path().join("store")).expect("a store"));
    (folder, store)
}

fn find(screen: &FunctionalScreen, king: &Scored, model: &Scored, own: &[&str]) -> Finding {
    let own: Vec<_> = own.iter().map(|&label| label.to_owned()).collect();
    let sessions = Sessions { submission: model, king };
    wait(BesideScreen::inspect(screen, sessions, &own, 5, &CallContext::new())).expect("a finding")
}

fn rules(finding: &Finding) -> String {
    finding.evidence()["rules"].to_string()
}

#[test]
fn copies_of_the_king_and_of_another_are_told_from_colleagues() {
    let (_folder, store) = place();
    let screen =
        FunctionalScreen::new(FunctionalConfig::default(), Some(Arc::clone(&store))).expect("a screen");
    let king = Scored::new("king", 0, 0.0, 0.0);
    let rival = Scored::new("rival", 1, 0.3, 0.0);
    let submission = Submission {
        label: "rival".into(),
        hotkey: String::new(),
        block: Some(4),
        parameters: Some(rival.info.parameters),
        fingerprint: None,
        sketch: None,
        tensors: Vec::new(),
    };
    store.add(&submission).expect("added");
    for seed in [1, 2] {
        let sessions = Sessions { submission: &rival, king: &king };
        wait(screen.remember(sessions, seed, &CallContext::new())).expect("remembered");
    }
    assert_eq!(store.sets(9).expect("reads").len(), 2);

    let copy = find(&screen, &king, &Scored::new("copy", 0, 0.0, 1e-4), &[]);
    assert!(is_like_the_king_alone(&copy) && rules(&copy).contains("same"), "{copy:?}");
    let near = find(&screen, &king, &Scored::new("near", 7, 0.02, 0.0), &[]);
    assert!(matches!(near, Finding::Flagged(_)) && rules(&near).contains("near"), "{near:?}");
    // The rival's work whole, halved and with a rest of its own.
    for (size, rest) in [(0.3, 0.001), (0.15, 0.0), (0.3, 0.1)] {
        let found = find(&screen, &king, &Scored::new("copy of the rival", 1, size, rest), &[]);
        assert!(matches!(found, Finding::Rejected(_)) && rules(&found).contains("copied"), "{found:?}");
        assert_eq!(found.evidence()["rejected_for"], json!(["rival"]));
        assert_eq!(
            (&found.evidence()["nearest"][0]["of"], &found.evidence()["compared"]),
            (&json!("rival"), &json!(1))
        );
    }
    let merged = find(&screen, &king, &Scored::new("merge", 1, 0.3, 0.25), &[]);
    assert!(matches!(merged, Finding::Flagged(_)) && rules(&merged).contains("alike"), "{merged:?}");
    let honest = find(&screen, &king, &Scored::new("colleague", 3, 0.3, 0.0), &[]);
    assert!(matches!(honest, Finding::Clear(_)), "{honest:?}");
    let own = find(&screen, &king, &rival, &["rival"]);
    assert!(matches!(own, Finding::Clear(_)), "{own:?}");
    // The rival's work so many times that nothing is left of the king's.
    let broken = find(&screen, &king, &Scored::new("broken", 1, 4.0, 0.0), &[]);
    assert!(matches!(broken, Finding::Clear(_)), "{broken:?}");
    let evidence = broken.evidence();
    assert_eq!((&evidence["broken"], &evidence["compared"]), (&json!(true), &json!(0)), "{broken:?}");
}

/// The replies that were cut have no stop token of the king's choice.
#[test]
fn only_tokens_that_the_king_chose_count() {
    let screen = FunctionalScreen::new(FunctionalConfig::default(), None).expect("a screen");
    let (king, model) = (Scored::new("king", 0, 0.0, 0.0), Scored::new("model", 1, 0.3, 0.0));
    let found = find(&screen, &king, &model, &[]);
    assert_eq!(found.evidence()["tokens"], 24 * 40 + 12);
}

/// Another king replies to other questions, and stored ones are compared all the same.
#[test]
fn a_new_king_asks_the_stored_questions_himself() {
    let (_folder, store) = place();
    let screen =
        FunctionalScreen::new(FunctionalConfig::default(), Some(Arc::clone(&store))).expect("a screen");
    let (old, king) = (Scored::new("old king", 9, 0.5, 0.0), Scored::new("king", 0, 0.0, 0.0));
    let rival = Scored::new("rival", 1, 0.3, 0.0);
    let submission = Submission {
        label: "rival".into(),
        hotkey: String::new(),
        block: None,
        parameters: Some(rival.info.parameters),
        fingerprint: None,
        sketch: None,
        tensors: Vec::new(),
    };
    store.add(&submission).expect("added");
    let sessions = Sessions { submission: &rival, king: &old };
    wait(screen.remember(sessions, 1, &CallContext::new())).expect("remembered");
    let found = find(&screen, &king, &Scored::new("copy", 1, 0.3, 0.01), &[]);
    assert!(rules(&found).contains("copied"), "{found:?}");
    let found = find(&screen, &king, &Scored::new("colleague", 2, 0.3, 0.0), &[]);
    assert!(matches!(found, Finding::Clear(_)), "{found:?}");
}

/// Those who trained an earlier king share what the crown has changed since, and nothing
/// else: they are compared from that king, too.
#[test]
fn a_crown_makes_nobody_a_copy() {
    let (_folder, store) = place();
    let screen =
        FunctionalScreen::new(FunctionalConfig::default(), Some(Arc::clone(&store))).expect("a screen");
    let (old, king) = (Scored::new("old king", 0, 0.0, 0.0), Scored::new("king", 9, 0.5, 0.0));
    let (first, rival) = (Scored::new("first", 5, 0.1, 0.0), Scored::new("rival", 1, 0.1, 0.0));
    for model in [&old, &rival] {
        store.add(&model.submission()).expect("added");
    }
    let remember = |model: &Scored, king: &Scored| {
        let sessions = Sessions { submission: model, king };
        wait(screen.remember(sessions, 1, &CallContext::new())).expect("remembered")
    };
    let sets = [remember(&first, &old), remember(&rival, &king)];
    assert_ne!(sets[0], sets[1], "each king has replies of his own");
    assert_eq!(remember(&rival, &king), sets[1], "a set is made once");
    assert_eq!(store.sets(9).expect("reads").len(), 2);

    // From the king alone, their answers differ by the crown: cosine 0.96.
    let colleague = find(&screen, &king, &Scored::new("colleague", 2, 0.1, 0.0), &[]);
    assert!(matches!(colleague, Finding::Clear(_)), "{colleague:?}");
    let nearest = &colleague.evidence()["nearest"];
    assert_eq!((&nearest[0]["kings"], &nearest[1]["kings"]), (&json!(2), &json!(2)), "{nearest}");
    for (name, trained, size, of) in [("copy", 1, 0.1, "rival"), ("the old king again", 0, 0.0, "old king")] {
        let found = find(&screen, &king, &Scored::new(name, trained, size, 1e-4), &[]);
        assert!(matches!(found, Finding::Rejected(_)) && rules(&found).contains("copied"), "{found:?}");
        assert_eq!(found.evidence()["nearest"][0]["of"], of, "{found:?}");
    }
}

/// A few rare tokens cost nothing in a duel, and make the mean of any divergence huge.
#[test]
fn a_few_spoiled_tokens_disarm_nothing() {
    let (_folder, store) = place();
    let screen =
        FunctionalScreen::new(FunctionalConfig::default(), Some(Arc::clone(&store))).expect("a screen");
    let king = Scored::new("king", 0, 0.0, 0.0);
    for rival in [Scored::new("rival", 1, 0.3, 0.0), Scored::new("spoiled rival", 2, 0.3, 0.0).spoiled()] {
        store.add(&rival.submission()).expect("added");
        let sessions = Sessions { submission: &rival, king: &king };
        wait(screen.remember(sessions, 1, &CallContext::new())).expect("remembered");
    }
    let look = |name: &str, trained: u64, size: f64, rest: f64| {
        let found = find(&screen, &king, &Scored::new(name, trained, size, rest).spoiled(), &[]);
        let evidence = found.evidence();
        assert!(evidence["divergence"].as_f64().is_some_and(|mean| mean > 2.0), "{found:?}");
        assert_eq!((&evidence["broken"], &evidence["compared"]), (&json!(false), &json!(2)), "{found:?}");
        found
    };
    let copy = look("copy of the rival", 1, 0.3, 0.001);
    assert!(matches!(copy, Finding::Rejected(_)) && rules(&copy).contains("copied"), "{copy:?}");
    assert_eq!(copy.evidence()["nearest"][0]["of"], "rival");
    let copy = look("copy of the king", 0, 0.0, 1e-4);
    assert!(matches!(copy, Finding::Rejected(_)) && rules(&copy).contains("same"), "{copy:?}");
    let near = look("near", 7, 0.02, 0.0);
    assert!(matches!(near, Finding::Flagged(_)) && rules(&near).contains("near"), "{near:?}");
    for found in [&copy, &near] {
        let reasons = found.evidence()["reasons"].to_string();
        assert!(reasons.contains("nats per token in the median of its replies"), "{reasons}");
    }
    // The same tokens are spoiled in the second rival.
    let colleague = look("colleague", 3, 0.3, 0.0);
    assert!(matches!(colleague, Finding::Clear(_)), "{colleague:?}");
    // Nor does one token of every reply make a model broken.
    let everywhere = Scored::new("another copy", 1, 0.3, 0.001).spoiled_in_every_reply();
    let found = find(&screen, &king, &everywhere, &[]);
    let evidence = found.evidence();
    assert!(evidence["typical_divergence"].as_f64().is_some_and(|median| median > 2.0), "{found:?}");
    assert_eq!((&evidence["broken"], &evidence["compared"]), (&json!(false), &json!(2)), "{found:?}");
}

/// There is a set per week and king: what a rival answered is soon not among the latest.
#[test]
fn a_rival_of_long_ago_is_compared() {
    let (_folder, store) = place();
    let config = FunctionalConfig { sets: 2, ..FunctionalConfig::default() };
    let screen = FunctionalScreen::new(config, Some(Arc::clone(&store))).expect("a screen");
    let king = Scored::new("king", 0, 0.0, 0.0);
    for week in 1..=5 {
        let rival = Scored::new(&format!("rival of week {week}"), week, 0.3, 0.0);
        store.add(&rival.submission()).expect("added");
        let sessions = Sessions { submission: &rival, king: &king };
        wait(screen.remember(sessions, week, &CallContext::new())).expect("remembered");
    }
    let copy = find(&screen, &king, &Scored::new("copy", 1, 0.3, 0.001), &[]);
    assert!(matches!(copy, Finding::Rejected(_)) && rules(&copy).contains("copied"), "{copy:?}");
    let evidence = copy.evidence();
    assert_eq!(
        (&evidence["nearest"][0]["of"], &evidence["compared"], evidence.get("not_compared")),
        (&json!("rival of week 1"), &json!(5), None)
    );
}

#[test]
fn who_could_not_be_compared_is_counted() {
    let (_folder, store) = place();
    let screen =
        FunctionalScreen::new(FunctionalConfig::default(), Some(Arc::clone(&store))).expect("a screen");
    let king = Scored::new("king", 0, 0.0, 0.0);
    for week in 0..20 {
        let set = QuestionSet { seed: week, king: king.info.parameters, questions: Vec::new() };
        let set = store.add_set(&set).expect("added");
        let rival = Scored::new(&format!("rival of week {week}"), week, 0.3, 0.0);
        store.add(&rival.submission()).expect("added");
        store.add_answers(set, rival.info.parameters, &[]).expect("added");
    }
    let found = find(&screen, &king, &Scored::new("colleague", 30, 0.3, 0.0), &[]);
    let evidence = found.evidence();
    assert_eq!((&evidence["compared"], &evidence["not_compared"]), (&json!(16), &json!(4)), "{found:?}");
}

/// A backend that cannot score is no fault of anybody's, and is seen.
#[test]
fn without_log_probabilities_nothing_is_compared_and_that_is_flagged() {
    let screen = FunctionalScreen::new(FunctionalConfig::default(), None).expect("a screen");
    let speaker = crate::screens::testing::Speaker::new(|_: &GenerateRequest| Some("yes".into()));
    let sessions = Sessions { submission: &speaker, king: &speaker };
    let found = wait(BesideScreen::inspect(&screen, sessions, &[], 5, &CallContext::new()));
    let found = found.expect("a finding");
    assert!(matches!(found, Finding::Flagged(_)) && rules(&found).contains("not-compared"), "{found:?}");
}

fn small() -> Model {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
        "vocab_size": 120, "tie_word_embeddings": true, "rope_theta": 1e6,
    });
    Model::synthetic(config, 3).rounded()
}

/// Texts that `model` writes, `count` of `length` tokens.
fn texts(model: &Model, count: usize, length: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut dice = Dice::new("texts", seed);
    let mut write = || {
        let (mut text, mut reading) = (vec![1], network::Reading::new(model));
        while text.len() < length {
            let logits = reading.next(text[text.len() - 1]);
            let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let mut left = dice.unit() * weights.iter().sum::<f64>();
            text.push(
                weights
                    .iter()
                    .position(|weight| {
                        left -= weight;
                        left <= 0.0
                    })
                    .unwrap_or(0),
            );
        }
        text
    };
    (0..count).map(|_| write()).collect()
}

#[test]
fn gradients_are_those_of_the_loss() {
    let model = small();
    let text = &texts(&model, 1, 12, 1)[0];
    let (loss, gradients) = network::gradients(&model, text);
    let mean = |model: &Model| {
        let scores = network::log_probs(model, text, 1);
        -scores.iter().map(|&score| f64::from(score)).sum::<f64>() / scores.len() as f64
    };
    assert!((mean(&model) - loss).abs() < 1e-5);
    for (name, gradient) in &gradients {
        let most = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
        let most = most.expect("not empty");
        let step = 1e-3_f32.max(0.02 * model.tensors[name].values[most].abs());
        let moved = |by: f32| {
            let mut model = model.clone();
            model.tensors.get_mut(name).expect("there").values[most] += by;
            mean(&model)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let off = (slope - f64::from(gradient[most])).abs();
        assert!(off < 0.05 * slope.abs() + 2e-4, "{name}: {slope} for {}", gradient[most]);
    }
}

/// A short slice of the bench `function_attacks`: copies that keep the function beside
/// fine-tunes that were trained apart.
#[test]
fn disguises_answer_like_their_source_and_colleagues_do_not() {
    let king = small();
    let questions = texts(&king, 24, 24, 7);
    let answers = |model: &Model| -> Vec<Vec<f32>> {
        questions.iter().map(|text| network::log_probs(model, text, 4)).collect()
    };
    let kings = answers(&king);
    let difference = |model: &Model| Difference::between(&answers(model), &kings).expect("the same tokens");
    let recipe = train::RECIPES.iter().find(|recipe| recipe.name == "adamw 1e-3").expect("a recipe");
    let trained = |seed| train::train(&king, recipe, &texts(&king, 32, 24, 100 + seed), seed);
    let (rival, colleague) = (trained(1), trained(2));
    let (work, other) = (difference(&rival), difference(&colleague));
    let thresholds = FunctionalConfig::default();
    assert!(other.beside(&work).cosine < thresholds.alike, "{:?}", other.beside(&work));
    assert!(other.divergence() > thresholds.near, "{}", other.divergence());
    let mut kinds = 0;
    for (kind, _, attack) in ATTACKS.iter().filter(|(_, class, _)| *class == Class::Kept) {
        kinds += 1;
        let copy = |source: &Model| {
            let mut model = source.clone();
            attack(&mut model, &mut Scene { king: &king, other: &colleague, dice: Dice::new(kind, 1) });
            difference(&model.rounded())
        };
        let copied = copy(&rival);
        let found = copied.beside(&work);
        assert!(found.cosine >= thresholds.copied, "{kind}: {found:?}");
        let judged = thresholds.judge(&copied, &[("colleague", &other), ("rival", &work)]);
        assert!(matches!(judged, Finding::Rejected(_)), "{kind}: {judged:?}");
        assert_eq!(judged.evidence()["nearest"][0]["of"], "rival", "{kind}");
        let divergence = copy(&king).divergence();
        assert!(divergence <= thresholds.same, "{kind}: {divergence:e}");
    }
    assert!(kinds >= 14);
}
