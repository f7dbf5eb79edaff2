use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use albedo_core::audit::token_score;
use albedo_core::conformance::{BackendFixture, SessionFixture, check_backend};
use albedo_core::overflow::{Overflow, Place, Step};
use albedo_core::rng::{Stream, Use};
use albedo_core::safetensors::{Dtype, read_header};
use albedo_core::{
    Artefact, Completion, Fault, GenerateRequest, LogitsReader, LogitsRequest, Message, MessageRole, Reach,
    Sampling, ScoreRequest,
};
use futures::StreamExt;
use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::text::ChatText;

pub(super) fn demo(side: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models").join(side)
}

pub(super) async fn load(folder: &Path, max_batch: u32) -> Result<Arc<dyn ModelSession>> {
    let backend = BurnBackend::new(&BurnConfig { max_batch, ..BurnConfig::default() })?;
    backend.load(&ModelSource::new(folder), &CallContext::new()).await
}

fn request(prompt: &str, seed: u64) -> GenerateRequest {
    GenerateRequest::new(
        vec![
            Message::new(MessageRole::System, "You repair small Python projects."),
            Message::new(MessageRole::User, prompt),
        ],
        24,
    )
    .with_seed(seed)
    .with_score_reply(Some("THOUGHT: I list its files first.\n\n```bash\nls\n```".into()))
}

/// Sixteen requests, every other one sampled.
pub(super) fn requests() -> Vec<GenerateRequest> {
    (0..16)
        .map(|index| {
            let prompt = "one two three four five six seven ".repeat(1 + index * 5 % 7);
            let sampling = match index % 2 {
                0 => Sampling::default(),
                _ => Sampling { temperature: 1.0, top_p: 0.95, top_k: 40 },
            };
            request(&prompt, index as u64).with_sampling(sampling)
        })
        .collect()
}

pub(super) async fn answers(session: &dyn ModelSession, requests: Vec<GenerateRequest>) -> Vec<Completion> {
    let answers: BTreeMap<_, _> = session
        .generate(requests, &CallContext::new())
        .map(|answer| (answer.index, answer.result.expect("answers")))
        .collect()
        .await;
    answers.into_values().collect()
}

#[tokio::test]
async fn a_reply_does_not_depend_on_the_batch() {
    let alone = load(&demo("king"), 1).await.unwrap();
    let expected = answers(&*alone, requests()).await;
    assert_eq!(expected.len(), 16);
    for max_batch in [2, 5, 16] {
        let session = load(&demo("king"), max_batch).await.unwrap();
        assert_eq!(answers(&*session, requests()).await, expected, "at most {max_batch} at once");
        let mut reversed = answers(&*session, requests().into_iter().rev().collect()).await;
        reversed.reverse();
        assert_eq!(reversed, expected, "at most {max_batch} at once, in reverse");
    }
}

#[tokio::test]
async fn replicas_answer_as_one_does() {
    let config = BurnConfig { max_batch: 3, ..BurnConfig::default() };
    let one = BurnBackend::new(&config).unwrap();
    let replicas = BurnBackend { devices: vec![Device::Cpu; 3], ..BurnBackend::new(&config).unwrap() };
    assert_eq!((one.max_batch(), replicas.max_batch()), (Some(3), Some(9)));
    let (king, cx) = (ModelSource::new(demo("king")), CallContext::new());
    let expected = answers(&*one.load(&king, &cx).await.unwrap(), requests()).await;
    let session = replicas.load(&king, &cx).await.unwrap();
    // Two calls at once, and one that is dropped while its requests wait for places.
    drop(session.generate(requests(), &cx).next().await);
    let both = tokio::join!(answers(&*session, requests()), answers(&*session, requests()));
    assert_eq!((&both.0, &both.1), (&expected, &expected));
    let broken = ModelSource::new(demo("nobody"));
    assert_eq!(
        replicas.load(&broken, &cx).await.unwrap_err().kind(),
        one.load(&broken, &cx).await.unwrap_err().kind()
    );
}

/// As devices do that load a model at once.
#[test]
fn many_read_the_headers_of_one_folder_at_once() {
    let files = weights::WeightFiles::open(&demo("king")).unwrap();
    let cx = CallContext::new();
    std::thread::scope(|scope| {
        let read = || (0..100).for_each(|_| drop(files.weights(&cx).unwrap()));
        for _ in 0..4 {
            scope.spawn(read);
        }
    });
}

#[test]
fn several_devices_are_gpus_each_named_once() {
    let config = |device: &str, devices: &[u32]| {
        serde_json::from_value::<BurnConfig>(json!({"device": device, "devices": devices})).unwrap().check()
    };
    for (device, devices) in [("cpu", &[0, 1][..]), ("cuda:1", &[0, 1]), ("cuda", &[0, 1, 0])] {
        let error = config(device, devices).unwrap_err();
        assert!(error.message().contains("`devices`"), "{error}");
    }
    if cfg!(feature = "cuda") {
        config("cuda", &[1, 0]).unwrap();
    }
}

/// King and challenger of the demo, and what they answer; both have been asked at
/// once, and have answered as two that are loaded as `side_by_side` says.
pub(super) struct InTurn {
    pub(super) backend: BurnBackend,
    pub(super) king: Arc<dyn ModelSession>,
    pub(super) challenger: Arc<dyn ModelSession>,
    pub(super) expected: [Vec<Completion>; 2],
}

impl InTurn {
    pub(super) async fn new(side_by_side: &BurnConfig, in_turn: &BurnConfig) -> Self {
        let cx = CallContext::new();
        let load = async |backend: &BurnBackend, side| {
            backend.load(&ModelSource::new(demo(side)), &cx).await.unwrap()
        };
        let backend = BurnBackend::new(side_by_side).unwrap();
        let expected = [
            answers(&*load(&backend, "king").await, requests()).await,
            answers(&*load(&backend, "challenger").await, requests()).await,
        ];
        let backend = BurnBackend::new(in_turn).unwrap();
        let (king, challenger) = (load(&backend, "king").await, load(&backend, "challenger").await);
        for _ in 0..2 {
            let both = tokio::join!(answers(&*king, requests()), answers(&*challenger, requests()));
            assert_eq!([both.0, both.1], expected);
        }
        Self { backend, king, challenger, expected }
    }
}

#[tokio::test]
async fn models_that_take_turns_answer_as_side_by_side() {
    let config = BurnConfig { max_batch: 4, ..BurnConfig::default() };
    let in_turn = BurnConfig { in_turn: true, ..config.clone() };
    let InTurn { backend, king: _king, challenger, expected } = InTurn::new(&config, &in_turn).await;
    // One that waits for its turn can be dropped.
    let cx = CallContext::new();
    let third = backend.load(&ModelSource::new(demo("king")), &cx).await.unwrap();
    drop(third.generate(requests(), &cx).next().await);
    drop(third);
    assert_eq!(answers(&*challenger, requests()).await, expected[1]);
}

#[test]
fn a_cpu_stores_keys_as_they_are() {
    let error =
        BurnBackend::new(&BurnConfig { kv_dtype: KvDtype::Int8, ..BurnConfig::default() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.message().contains("kv_dtype") || format!("{error:?}").contains("kv_dtype"), "{error}");
    let config: BurnConfig = serde_json::from_value(json!({"device": "cuda:1", "kv_dtype": "int8"})).unwrap();
    assert_eq!((config.device, config.kv_dtype), (Device::Cuda(1), KvDtype::Int8));
    assert!(serde_json::from_value::<BurnConfig>(json!({"kv_dtype": "fp8"})).is_err());
}

#[tokio::test]
async fn a_model_that_changes_while_it_is_away_is_refused() {
    let folder = model(&[("model.safetensors", &safetensors(&tensors(), "BF16"))]);
    let backend = BurnBackend::new(&BurnConfig { in_turn: true, ..BurnConfig::default() }).unwrap();
    let cx = CallContext::new();
    let away = backend.load(&ModelSource::new(folder.path()), &cx).await.unwrap();
    let here = backend.load(&ModelSource::new(demo("king")), &cx).await.unwrap();
    assert_eq!(answers(&*here, vec![request("Fix it.", 1)]).await.len(), 1);
    let file = std::fs::File::options().append(true).open(folder.path().join("model.safetensors")).unwrap();
    std::io::Write::write_all(&mut &file, b"more").unwrap();
    let mut stream = away.generate(vec![request("Fix it.", 1)], &cx);
    let error = stream.next().await.unwrap().result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    assert_eq!(answers(&*here, vec![request("Fix it.", 1)]).await.len(), 1);
}

#[tokio::test]
async fn scores_beside_a_reply_are_those_of_a_call_of_their_own() {
    let session = load(&demo("challenger"), 4).await.unwrap();
    let request = request("The tests fail.", 0);
    let reply = request.score_reply.clone().expect("a reply to score");
    let score = ScoreRequest::new(request.messages.clone(), reply);
    let alone = session.score(vec![score], &CallContext::new()).await.unwrap();
    let beside = answers(&*session, vec![request]).await;
    assert_eq!(beside[0].reply_scores.as_ref(), alone.first());
    assert!(alone[0].log_probs.iter().all(|value| value.is_finite() && *value <= 0.0));
}

#[tokio::test]
async fn a_recorded_reply_beyond_the_context_is_scored_as_far_as_it_fits() {
    let weights = std::fs::read(demo("king").join("model.safetensors")).unwrap();
    let folder = model(&[("model.safetensors", &weights)]);
    let long = load(folder.path(), 4).await.unwrap();
    let request = request("The tests fail.", 0).with_max_new_tokens(2);
    let prompt = long.count_prompt_tokens(&request.messages).unwrap().unwrap();
    // The longest reply fits, and of the recorded one three tokens.
    set(folder.path(), "max_position_embeddings", &json!(prompt + 3));
    let short = load(folder.path(), 4).await.unwrap();
    assert_eq!(short.model().context_length, prompt + 3);
    let whole = answers(&*long, vec![request.clone()]).await.remove(0);
    let cut = answers(&*short, vec![request.clone()]).await.remove(0);
    assert_eq!((&cut.tokens, &cut.text, cut.finish), (&whole.tokens, &whole.text, whole.finish));
    let log_probs = |reply: &Completion| reply.reply_scores.clone().expect("scores").log_probs;
    assert!(log_probs(&whole).len() > 3);
    assert_eq!(log_probs(&cut)[..], log_probs(&whole)[..3]);
    // A call for scores alone has nothing to give instead.
    let score = ScoreRequest::new(request.messages.clone(), request.score_reply.clone().expect("a reply"));
    let error = short.score(vec![score], &CallContext::new()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("scored tokens"), "{error}");
}

/// Audits a reply by its own logits, and keeps the log-probability of each token.
#[derive(Debug)]
struct Audited {
    tokens: Vec<u32>,
    sampling: Sampling,
    seed: u64,
    seen: std::sync::Mutex<BTreeMap<usize, (f64, f32)>>,
}

impl LogitsReader for Audited {
    fn read(&self, token: usize, logits: &[f32]) {
        let unit = Stream::new(self.seed, Use::Token).unit_at(token as u64);
        let id = self.tokens[token];
        let score = token_score(logits, id, &self.sampling, unit, 0.0, 1.0);
        let before = self.seen.lock().unwrap().insert(token, (score, sample::log_prob(logits, id)));
        assert_eq!(before, None, "token {token} is shown once");
    }
}

#[tokio::test]
async fn a_reply_s_logits_are_those_that_its_tokens_were_chosen_from() {
    let (session, cx) = (load(&demo("king"), 4).await.unwrap(), CallContext::new());
    let requests = requests();
    let replies = answers(&*session, requests.clone()).await;
    let audit = |seed: u64| {
        let of = |(request, reply): (&GenerateRequest, &Completion)| {
            Arc::new(Audited {
                tokens: reply.tokens.clone(),
                sampling: request.sampling,
                seed: request.seed ^ seed,
                seen: std::sync::Mutex::default(),
            })
        };
        requests.iter().zip(&replies).map(of).collect::<Vec<_>>()
    };
    let read = async |readers: &[Arc<Audited>]| {
        let request = |(request, reader): (&GenerateRequest, &Arc<Audited>)| {
            LogitsRequest::new(request.messages.clone(), reader.tokens.clone(), Arc::<Audited>::clone(reader))
        };
        let texts =
            session.read_logits(requests.iter().zip(readers).map(request).collect(), &cx).await.unwrap();
        let scores = readers.iter().map(|reader| {
            let seen = reader.seen.lock().unwrap();
            assert_eq!(seen.len(), reader.tokens.len());
            seen.values().copied().unzip::<_, _, Vec<f64>, Vec<f32>>()
        });
        (texts, scores.collect::<Vec<_>>())
    };
    let (texts, scores) = read(&audit(0)).await;
    assert_eq!(texts, replies.iter().map(|reply| reply.text.clone()).collect::<Vec<_>>());
    assert!(scores.iter().all(|(scores, _)| scores.iter().all(|&score| score == 0.0)), "{scores:?}");
    // With other seeds, only the greedy half is still as it was.
    let (_, other) = read(&audit(1)).await;
    for (index, (scores, _)) in other.iter().enumerate() {
        assert_eq!(scores.iter().any(|&score| score > 0.0), index % 2 == 1, "{index}: {scores:?}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_served_fails_alone() {
    let session = load(&demo("king"), 4).await.unwrap();
    let good = request("Fix it.", 1);
    let too_long = good.clone().with_max_new_tokens(4096);
    let nothing = good.clone().with_max_new_tokens(0);
    let absurd = good.clone().with_sampling(Sampling { temperature: -1.0, ..Sampling::default() });
    let answers: BTreeMap<_, _> = session
        .generate(vec![too_long, good, nothing, absurd], &CallContext::new())
        .map(|answer| (answer.index, answer.result.map_err(|error| error.kind())))
        .collect()
        .await;
    assert_eq!(answers[&0], Err(ErrorKind::Unsupported));
    assert!(answers[&1].is_ok());
    assert_eq!(answers[&2], Err(ErrorKind::ConfigInvalid));
    assert_eq!(answers[&3], Err(ErrorKind::ConfigInvalid));
}

#[tokio::test]
async fn cancelling_and_dropping_leave_the_session_usable() {
    let session = load(&demo("king"), 4).await.unwrap();
    let cx = CallContext::new();
    let mut stream = session.generate(requests(), &cx);
    stream.next().await.expect("a first answer").result.expect("answers");
    cx.cancel();
    let rest: Vec<_> = stream.collect().await;
    assert_eq!(rest.len(), 15);
    assert!(
        rest.iter().any(|answer| {
            answer.result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled)
        })
    );
    drop(session.generate(requests(), &CallContext::new()).next().await);
    let fresh = load(&demo("king"), 4).await.unwrap();
    let request = vec![request("Fix it.", 1)];
    assert_eq!(answers(&*session, request.clone()).await, answers(&*fresh, request).await);
}

#[tokio::test]
async fn the_stream_outlives_a_dropped_session_with_errors() {
    let session = load(&demo("king"), 1).await.unwrap();
    let stream = session.generate(requests(), &CallContext::new());
    drop(session);
    let answers: Vec<_> = stream.collect().await;
    assert_eq!(answers.len(), 16);
    assert!(answers.iter().all(|answer| answer.result.is_err()));
}

#[tokio::test]
async fn the_backend_conforms() {
    let backend = BurnBackend::new(&BurnConfig { max_batch: 3, ..BurnConfig::default() }).unwrap();
    check_backend(&backend, &fixture()).await.unwrap();
}

/// What every device has to conform to.
pub(super) fn fixture() -> BackendFixture {
    let conversation = |words: usize| {
        vec![
            Message::new(MessageRole::System, "You repair small Python projects."),
            Message::new(MessageRole::User, "It fails. ".repeat(words)),
        ]
    };
    let reply = "THOUGHT: I list its files first.\n\n```bash\nls\n```";
    let text = ChatText::load(&demo("king"), None).unwrap();
    let replies =
        [reply, "", "naïve 日本"].map(|reply| (reply.to_owned(), text.encode_reply(reply).unwrap().len()));
    BackendFixture {
        model: ModelSource::new(demo("king")),
        missing: ModelSource::new(demo("nobody")),
        session: SessionFixture {
            replies: replies.into(),
            ..SessionFixture::new([1, 7, 40, 3].map(conversation).into())
        },
    }
}

type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// The king's tensors, widened.
fn tensors() -> Tensors {
    let bytes = std::fs::read(demo("king").join("model.safetensors")).unwrap();
    let header = read_header(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
    let widen = |pair: &[u8]| bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
    (header.tensors.into_iter())
        .map(|(name, info)| {
            assert_eq!(info.dtype, Dtype::Bf16);
            let range = info.range.start as usize..info.range.end as usize;
            (name, (info.shape, bytes[range].chunks_exact(2).map(widen).collect()))
        })
        .collect()
}

/// A safetensors file of `tensors` in the data type `dtype`.
fn safetensors(tensors: &Tensors, dtype: &str) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        for value in values {
            match dtype {
                "F32" => data.extend(value.to_le_bytes()),
                "F16" => data.extend(f16::from_f32(*value).to_le_bytes()),
                _ => data.extend(bf16::from_f32(*value).to_le_bytes()),
            }
        }
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A model folder with the king's configuration and text, and `files`.
fn model(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(demo("king").join(name), folder.path().join(name)).unwrap();
    }
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

async fn reply(folder: &Path) -> Completion {
    answers(&*load(folder, 4).await.unwrap(), vec![request("Fix it.", 1)]).await.remove(0)
}

#[tokio::test]
async fn the_layout_of_the_files_does_not_matter() {
    let expected = reply(&demo("king")).await;
    let tensors = tensors();
    let wide = model(&[("model.safetensors", &safetensors(&tensors, "F32"))]);
    assert_eq!(reply(wide.path()).await, expected);

    let mut halves = [Tensors::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        map.insert(name.clone(), json!(format!("part-{}.safetensors", index % 2)));
        halves[index % 2].insert(name.clone(), tensor.clone());
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    let parts = halves.map(|half| safetensors(&half, "BF16"));
    let sharded = model(&[
        ("part-0.safetensors", &parts[0]),
        ("part-1.safetensors", &parts[1]),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    assert_eq!(reply(sharded.path()).await, expected);

    let mut untied = tensors.clone();
    untied.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    let untied = model(&[("model.safetensors", &safetensors(&untied, "BF16"))]);
    assert_eq!(reply(untied.path()).await, expected, "a tied head may be repeated");
    set(untied.path(), "tie_word_embeddings", &json!(false));
    assert_eq!(reply(untied.path()).await, expected, "and may stand alone");
}

#[tokio::test]
async fn half_precision_is_read() {
    let folder = model(&[("model.safetensors", &safetensors(&tensors(), "F16"))]);
    let [exact, half] = [reply(&demo("king")).await, reply(folder.path()).await];
    let mean = |completion: &Completion| {
        completion.reply_scores.as_ref().and_then(albedo_core::TokenScores::mean).expect("scores")
    };
    assert!((mean(&exact) - mean(&half)).abs() < 1e-3);
}

fn set(folder: &Path, key: &str, value: &Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value.clone();
    std::fs::write(path, config.to_string()).unwrap();
}

#[tokio::test]
async fn broken_weights_are_named_with_tensor_and_reason() {
    const GATE: &str = "model.layers.2.mlp.gate_proj.weight";
    let change = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors();
        change(&mut tensors);
        safetensors(&tensors, "BF16")
    };
    let whole = std::fs::read(demo("king").join("model.safetensors")).unwrap();
    for (bytes, expected) in [
        (whole[..whole.len() - 100].to_vec(), "the header promises"),
        (whole[..5].to_vec(), "safetensors"),
        (change(&|tensors| tensors.get_mut(GATE).unwrap().1[7] = f32::NAN), "is not finite: NaN at index 7"),
        (
            change(&|tensors| tensors.get_mut(GATE).unwrap().1[9] = f32::INFINITY),
            "is not finite: inf at index 9",
        ),
        (change(&|tensors| drop(tensors.remove(GATE))), "`model.layers.2.mlp.gate_proj.weight` is missing"),
        (change(&|tensors| tensors.get_mut(GATE).unwrap().0.reverse()), "has the shape [192, 576]"),
        (
            change(&|tensors| drop(tensors.insert("extra".into(), (vec![1], vec![0.0])))),
            "the tensor `extra` is no part of the architecture",
        ),
    ] {
        let folder = model(&[("model.safetensors", &bytes)]);
        let error = load(folder.path(), 4).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("model.safetensors") || expected.contains("missing"), "{error}");
    }
}

#[tokio::test]
async fn an_overflow_says_where_and_is_about_the_model() {
    let mut tensors = tensors();
    // Finite weights, whose products are beyond f32.
    for name in ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"] {
        for value in &mut tensors.get_mut(name).unwrap().1 {
            *value *= 1e25;
        }
    }
    let folder = model(&[("model.safetensors", &safetensors(&tensors, "BF16"))]);
    let session = load(folder.path(), 4).await.unwrap();
    let request = request("Fix it.", 1);
    let prompt = session.count_prompt_tokens(&request.messages).unwrap().unwrap();
    let mut answers = session.generate(vec![request], &CallContext::new());
    let error = answers.next().await.unwrap().result.unwrap_err();
    let overflow = Overflow { step: Step::Prompt, position: prompt - 1, place: Place::Logits };
    assert_eq!((error.kind(), error.overflow()), (ErrorKind::Overflow, Some(overflow)), "{error}");
    assert_eq!((error.fault(), error.reach()), (Fault::Infrastructure, Reach::Sample));
    assert_eq!(error.artefact(), Some(Artefact::Model));
}

#[tokio::test]
async fn a_malformed_file_is_about_the_model_or_its_text() {
    let half = |name: &str| {
        let weights = std::fs::read(demo("king").join("model.safetensors")).unwrap();
        let folder = model(&[("model.safetensors", &weights)]);
        let whole = std::fs::read(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name), &whole[..whole.len() / 2]).unwrap();
        folder
    };
    for (name, artefact) in [
        ("model.safetensors", Artefact::Model),
        ("config.json", Artefact::Model),
        ("tokenizer.json", Artefact::Text),
        ("tokenizer_config.json", Artefact::Text),
    ] {
        let error = load(half(name).path(), 4).await.unwrap_err();
        assert_eq!(error.artefact(), Some(artefact), "{error}");
        assert_eq!(error.fault(), Fault::Infrastructure, "whose model it is, the caller knows: {error}");
    }
}

#[tokio::test]
async fn folders_that_are_no_model_are_refused() {
    let weights = std::fs::read(demo("king").join("model.safetensors")).unwrap();
    let error = load(&demo("nobody"), 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = load(model(&[]).path(), 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    let other = model(&[("model.safetensors", &weights)]);
    set(other.path(), "architectures", &json!(["LlamaForCausalLM"]));
    let error = load(other.path(), 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("LlamaForCausalLM; supported is Qwen3ForCausalLM"), "{error}");

    let small = model(&[("model.safetensors", &weights)]);
    set(small.path(), "vocab_size", &json!(100));
    let error = load(small.path(), 4).await.unwrap_err();
    assert!(error.to_string().contains("the tokenizer has 4096 ids, the model's vocabulary 100"), "{error}");

    let two = model(&[("model.safetensors", &weights), ("copy.safetensors", &weights)]);
    let error = load(two.path(), 4).await.unwrap_err();
    assert!(error.to_string().contains("two files hold the tensor"), "{error}");
}

#[tokio::test]
async fn a_pinned_digest_has_to_be_met() {
    let backend = BurnBackend::new(&BurnConfig::default()).unwrap();
    let cx = CallContext::new();
    let digest = backend.load(&ModelSource::new(demo("king")), &cx).await.unwrap().model().parameters;
    let pinned = |digest| ModelSource { parameters: Some(digest), ..ModelSource::new(demo("king")) };
    assert!(backend.load(&pinned(digest), &cx).await.is_ok());
    let error = backend.load(&pinned(Digest::of("other")), &cx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    cx.cancel();
    assert_eq!(backend.load(&pinned(digest), &cx).await.unwrap_err().kind(), ErrorKind::Cancelled);
}
