//! Sessions on the first GPU; without one, every test says so and passes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::conformance::check_backend;
use albedo_core::{
    CallContext, ErrorKind, Fault, GenerateRequest, Message, MessageRole, ModelBackend, ModelSession,
    ModelSource, Reach,
};
use cubecl::MemoryScope;
use cubecl::prelude::*;
use futures::StreamExt;

use super::device::{Buffer, Gpu};
use super::engine::Engine;
use super::kv_cache::KvCache;
use super::memory::{MemoryPlan, StepSizes};
use super::{Loaded, Place, is_present};
use crate::burn::config::Qwen3Config;
use crate::burn::requests::Desk;
use crate::burn::tests::{InTurn, answers, demo, fixture, requests};
use crate::burn::weights::WeightFiles;
use crate::burn::{BurnBackend, BurnConfig, Device, KvDtype};
use crate::text::ChatText;

/// A small part of the card, so that the tests can run side by side.
const SMALL: BurnConfig = BurnConfig {
    device: Device::Cuda(0),
    devices: Vec::new(),
    max_batch: 4,
    memory_share: 0.05,
    prefill_rows: 256,
    kv_dtype: KvDtype::Bf16,
    in_turn: false,
    date: None,
};

async fn load(config: BurnConfig, model: PathBuf) -> Arc<dyn ModelSession> {
    let backend = BurnBackend::new(&config).unwrap();
    backend.load(&ModelSource::new(model), &CallContext::new()).await.unwrap()
}

#[tokio::test]
async fn the_backend_conforms() {
    if !is_present() {
        return;
    }
    for kv_dtype in [KvDtype::Bf16, KvDtype::Int8] {
        let backend = BurnBackend::new(&BurnConfig { max_batch: 3, kv_dtype, ..SMALL }).unwrap();
        check_backend(&backend, &fixture()).await.unwrap();
    }
}

/// Replies depend on it, and on the sizes of batches they do not.
#[test]
fn what_keys_are_stored_as_is_part_of_the_identity() {
    let identity = |config: BurnConfig| BurnBackend::new(&config).unwrap().identity.clone();
    let half = identity(SMALL);
    assert_eq!(identity(BurnConfig { max_batch: 9, ..SMALL }), half);
    assert_ne!(identity(BurnConfig { kv_dtype: KvDtype::Int8, ..SMALL }), half);
}

/// Batches, chunks, orders of arrival, and pages that are known already.
#[tokio::test]
async fn a_reply_depends_on_its_request_alone() {
    if !is_present() {
        return;
    }
    for kv_dtype in [KvDtype::Bf16, KvDtype::Int8] {
        same_replies(kv_dtype).await;
    }
}

async fn same_replies(kv_dtype: KvDtype) {
    let small = BurnConfig { kv_dtype, ..SMALL };
    let alone = load(BurnConfig { max_batch: 1, ..small.clone() }, demo("king")).await;
    let expected = answers(&*alone, requests()).await;
    assert_eq!(answers(&*alone, requests()).await, expected, "{kv_dtype:?}, from known pages");
    for (max_batch, prefill_rows) in [(2, 128), (5, 300), (7, 2048), (16, 131), (256, 8192)] {
        let session = load(BurnConfig { max_batch, prefill_rows, ..small.clone() }, demo("king")).await;
        assert_eq!(
            answers(&*session, requests()).await,
            expected,
            "{kv_dtype:?}, {max_batch}, {prefill_rows}"
        );
        let mut reversed = answers(&*session, requests().into_iter().rev().collect()).await;
        reversed.reverse();
        assert_eq!(reversed, expected, "{kv_dtype:?}, {max_batch}, {prefill_rows}, in reverse");
    }
    // Most have to wait for pages.
    let config = Qwen3Config::load(&demo("king")).unwrap();
    let (sizes, total) = (StepSizes { rows: 256, batch: 16, kv_dtype }, Gpu::open(0).unwrap().memory());
    let plan = |share: &f64| MemoryPlan::new(&config, sizes, total, *share, None);
    let memory_share = (1..9999).map(|at| f64::from(at) * 1e-5).find(|share| plan(share).is_ok()).unwrap();
    assert!(plan(&memory_share).unwrap().pages < 32);
    let session = load(BurnConfig { max_batch: 16, memory_share, ..small }, demo("king")).await;
    assert_eq!(answers(&*session, requests()).await, expected, "{kv_dtype:?}, with few pages");
}

/// A reply is written while the prompt of another is read in many chunks.
#[tokio::test]
async fn a_long_prompt_does_not_hold_up_a_reply_under_way() {
    if !is_present() {
        return;
    }
    let session = load(BurnConfig { prefill_rows: 128, ..SMALL }, demo("king")).await;
    let short = requests().swap_remove(0).with_max_new_tokens(8).with_score_reply(None);
    let words = "one two three four five six seven ".repeat(300);
    let long = GenerateRequest::new(vec![Message::new(MessageRole::User, words)], 1);
    let answers = session.generate(vec![short, long], &CallContext::new());
    let answers: Vec<_> = answers.map(|answer| (answer.index, answer.result.unwrap())).collect().await;
    let [(0, short), (1, long)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((short.tokens.len(), long.tokens.len()), (8, 1));
    assert!(long.usage.prompt_tokens.unwrap() > 20 * 128, "{:?}", long.usage);
}

/// All GPUs of the machine, which may be one.
#[tokio::test]
async fn replicas_have_the_bits_of_one() {
    if !is_present() {
        return;
    }
    let devices: Vec<u32> = (0..64).take_while(|&index| Gpu::open(index).is_ok()).collect();
    println!("{} GPUs", devices.len());
    for kv_dtype in [KvDtype::Bf16, KvDtype::Int8] {
        let small = BurnConfig { kv_dtype, ..SMALL };
        let one = answers(&*load(small.clone(), demo("king")).await, requests()).await;
        let all = load(BurnConfig { devices: devices.clone(), ..small }, demo("king")).await;
        for _ in 0..2 {
            assert_eq!(answers(&*all, requests()).await, one);
        }
    }
}

/// King and challenger on GPUs of their own, at once: what one captures, the other does
/// not disturb.
#[tokio::test]
async fn two_models_on_two_gpus_answer_as_on_one() {
    if !is_present() || Gpu::open(1).is_err() {
        println!("skipped: there is one GPU");
        return;
    }
    let second = BurnConfig { device: Device::Cuda(1), ..SMALL };
    let expected = answers(&*load(SMALL, demo("challenger")).await, requests()).await;
    let expected = [answers(&*load(SMALL, demo("king")).await, requests()).await, expected];
    for _ in 0..3 {
        let (king, challenger) =
            tokio::join!(load(SMALL, demo("king")), load(second.clone(), demo("challenger")));
        let both = tokio::join!(answers(&*king, requests()), answers(&*challenger, requests()));
        assert_eq!([both.0, both.1], expected);
    }
}

/// Two models that take turns, each with most of the card, answer as side by side.
#[tokio::test]
#[ignore = "takes most of the GPU: run it alone"]
async fn models_that_take_turns_give_their_memory_back() {
    if !is_present() {
        return;
    }
    let in_turn = BurnConfig { memory_share: 0.9, in_turn: true, ..SMALL };
    let InTurn { backend, king, challenger, expected } = InTurn::new(&SMALL, &in_turn).await;
    // A third does not stay, and goes by itself.
    let third = backend.load(&ModelSource::new(demo("king")), &CallContext::new()).await.unwrap();
    let all = tokio::join!(answers(&*third, requests()), answers(&*challenger, requests()));
    assert_eq!([all.0, all.1], expected);
    drop(challenger);
    assert_eq!(answers(&*third, requests()).await, expected[0]);
    assert_eq!(answers(&*king, requests()).await, expected[0]);
}

/// bf16 beside f32: scores are as near as those of transformers in bf16 (root
/// mean square 0.03 for the king and 0.06 for the challenger on these prompts, at
/// most 0.29; ours, measured on a CPU), and few greedy tokens differ.
#[tokio::test]
async fn a_gpu_agrees_with_the_cpu() {
    if !is_present() {
        return;
    }
    for (side, kv_dtype) in [
        ("king", KvDtype::Bf16),
        ("challenger", KvDtype::Bf16),
        ("king", KvDtype::Int8),
        ("challenger", KvDtype::Int8),
    ] {
        let on_gpu = BurnConfig { kv_dtype, ..SMALL };
        let (cpu, gpu) = (load(BurnConfig::default(), demo(side)).await, load(on_gpu, demo(side)).await);
        let greedy: Vec<GenerateRequest> = requests().into_iter().step_by(2).collect();
        let (cpu, gpu) = (answers(&*cpu, greedy.clone()).await, answers(&*gpu, greedy).await);
        let mut off = Vec::new();
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            let [cpu, gpu] = [cpu, gpu].map(|reply| &reply.reply_scores.as_ref().unwrap().log_probs);
            off.extend(cpu.iter().zip(gpu).map(|(cpu, gpu)| f64::from((cpu - gpu).abs())));
        }
        let worst = off.iter().copied().fold(0.0, f64::max);
        let mean = (off.iter().map(|off| off * off).sum::<f64>() / off.len() as f64).sqrt();
        println!("{side}, {kv_dtype:?}: {worst} at most, root mean square {mean}");
        assert!(worst < 0.6 && mean < 0.09, "{side}: {worst} at most, root mean square {mean}");
        // After a near tie that falls the other way, two replies have nothing in common.
        let [mut same, mut all] = [0, 0];
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            same += cpu.tokens.iter().zip(&gpu.tokens).take_while(|(cpu, gpu)| cpu == gpu).count();
            all += cpu.tokens.len();
        }
        assert!(2 * same > all, "{side}: {same} of {all} tokens before the first that differs");
    }
}

/// Writes outside of any memory, after which the driver refuses its process.
#[cube(launch_unchecked)]
fn write_far_away(out: &mut [u32]) {
    out[4_000_000_000u32 as usize] = 1;
}

#[tokio::test]
#[ignore = "takes the GPU from its process: run it alone"]
async fn a_process_outlives_its_gpu() {
    if !is_present() {
        return;
    }
    let lose = || {
        let gpu = Gpu::open(0).unwrap();
        let small: Buffer<u32> = gpu.zeroed(1);
        // SAFETY: none, that is the point; the process is not used for anything else.
        unsafe {
            write_far_away::launch_unchecked(
                gpu.client(),
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(1),
                small.arg(1),
            );
        }
        let _ = gpu.sync();
    };
    let session = load(SMALL, demo("king")).await;
    let long = requests()[0].clone().with_max_new_tokens(400);
    let mut replies = session.generate(vec![long.clone(); 9], &CallContext::new());
    let mut errors = Vec::new();
    let mut lost = false;
    while let Some(reply) = replies.next().await {
        if !std::mem::replace(&mut lost, true) {
            tokio::task::spawn_blocking(lose).await.unwrap();
        }
        errors.extend(reply.result.err());
    }
    assert!(!errors.is_empty());
    // So is every later request, and every later load.
    let mut later = session.generate(requests(), &CallContext::new());
    while let Some(reply) = later.next().await {
        errors.push(reply.result.unwrap_err());
    }
    let backend = BurnBackend::new(&SMALL).unwrap();
    let (king, cx) = (ModelSource::new(demo("king")), CallContext::new());
    errors.push(backend.load(&king, &cx).await.map(drop).unwrap_err());
    for error in errors {
        let verdict = (error.kind(), error.fault(), error.reach());
        assert_eq!(verdict, (ErrorKind::DeviceLost, Fault::Infrastructure, Reach::Process), "{error}");
        println!("{error}");
    }
    drop(session);
    let cpu = load(BurnConfig::default(), demo("king")).await;
    assert_eq!(answers(&*cpu, requests()).await.len(), requests().len());
}

/// `ALBEDO_LOADS` times (default 6), the model of `ALBEDO_MODEL` (default the demo's king).
#[tokio::test]
#[ignore = "counts the memory of the whole GPU: run it alone"]
async fn loading_again_and_again_takes_no_more_memory() {
    if !is_present() {
        return;
    }
    let loads: usize = std::env::var("ALBEDO_LOADS").map_or(6, |loads| loads.parse().unwrap());
    let model = std::env::var("ALBEDO_MODEL").map_or_else(|_| demo("king"), PathBuf::from);
    let share = if std::env::var_os("ALBEDO_MODEL").is_some() { 0.4 } else { SMALL.memory_share };
    let gpu = Gpu::open(0).unwrap();
    let mut reserved = Vec::new();
    for _ in 0..loads {
        let session = load(BurnConfig { memory_share: share, ..SMALL }, model.clone()).await;
        let replies = answers(&*session, requests().into_iter().take(2).collect()).await;
        assert_eq!(replies.len(), 2);
        reserved.push(gpu.client().memory_report(MemoryScope::Device).usage().bytes_reserved);
    }
    println!("reserved: {reserved:?}");
    let (first, second) = reserved.split_at(loads / 2);
    assert!(second.iter().max() <= first.iter().max(), "{reserved:?}");
}

/// Prints how long the parts of a start take, one after the other, for the model in
/// the folder `ALBEDO_MODEL`.
#[test]
#[ignore = "a measurement: run it alone"]
fn measure_a_start() {
    let mut last = std::time::Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {:.3} s", last.elapsed().as_secs_f64());
        last = std::time::Instant::now();
    };
    if !is_present() {
        return;
    }
    lap("the driver");
    let model = std::env::var("ALBEDO_MODEL").map_or_else(|_| demo("king"), PathBuf::from);
    let config = Qwen3Config::load(&model).unwrap();
    let desk = desk(&model, &config);
    lap("the text");
    let text = "Which of these two answers is the better one, and why? ".repeat(400);
    let tokens = desk.text.encode_prompt(&[Message::new(MessageRole::User, text)]).unwrap();
    lap(&format!("a prompt of {} tokens", tokens.len()));
    KvCache::names(&tokens);
    lap("the names of its pages");
    let cx = CallContext::new();
    let files = WeightFiles::open(&model).unwrap();
    let placed = BurnConfig { max_batch: 128, memory_share: 0.9, prefill_rows: 8192, ..SMALL };
    let place = Place::new(0, &BurnBackend::new(&placed).unwrap().placement, &config, None).unwrap();
    lap("the GPU");
    let mut loaded = Loaded::new(&place, &config, files.weights(&cx).unwrap()).unwrap();
    lap("weights");
    let gpu = loaded.model.ops().gpu().clone();
    gpu.keep(|| loaded.model.ops_mut().enter(&config, &loaded.plan)).unwrap();
    gpu.sync().unwrap();
    lap("memory");
    let mut engine = Engine::new(&loaded.model, desk, loaded.plan.pages);
    engine.compile().unwrap();
    lap("kernels");
    engine.measure_step(1, 20, 1).unwrap();
    lap("a graph and two steps");
    files.digest(&cx).unwrap();
    lap("the files' digest, which runs beside all of this");
}

/// Prints what the engine adds to the device's time for a step, at 32 rows of a
/// short context, where it weighs most.
#[tokio::test]
#[ignore = "a measurement: run it alone"]
async fn measure_the_engine_beside_the_device() {
    if !is_present() {
        return;
    }
    let model = std::env::var("ALBEDO_MODEL").map_or_else(|_| demo("king"), PathBuf::from);
    let placed = BurnConfig { max_batch: 32, memory_share: 0.4, ..SMALL };
    let session = load(placed.clone(), model.clone()).await;
    let (mut seconds, mut prompt) = ([0.0; 2], 0);
    for round in 0..3 {
        for (tokens, seconds) in [20, 170].into_iter().zip(&mut seconds) {
            let one = requests()[0].clone().with_max_new_tokens(tokens).with_score_reply(None);
            let start = std::time::Instant::now();
            let replies = answers(&*session, vec![one; 32]).await;
            assert!(replies.iter().all(|reply| reply.tokens.len() == tokens as usize), "a reply ended");
            *seconds = start.elapsed().as_secs_f64();
            prompt = replies[0].usage.prompt_tokens.expect("counted") as usize;
        }
        let step = (seconds[1] - seconds[0]) / 150.0;
        println!("round {round}: the engine's step takes {:.3} ms", step * 1e3);
    }
    drop(session);

    let config = Qwen3Config::load(&model).unwrap();
    let desk = desk(&model, &config);
    let files = WeightFiles::open(&model).unwrap();
    let cx = CallContext::new();
    let backend = BurnBackend::new(&placed).unwrap();
    let place = Place::new(0, &backend.placement, &config, None).unwrap();
    let mut loaded = Loaded::new(&place, &config, files.weights(&cx).unwrap()).unwrap();
    let mut engine = loaded.open(&desk).unwrap();
    println!("the device's {:.3} ms", engine.measure_step(32, prompt + 20, 150).unwrap() * 1e3);
}

fn desk(model: &Path, config: &Qwen3Config) -> Desk {
    Desk {
        text: Arc::new(ChatText::load(model, None).unwrap()),
        name: "measured".into(),
        context_length: config.max_position_embeddings,
        vocab_size: config.vocab_size,
        session: CallContext::new(),
    }
}
