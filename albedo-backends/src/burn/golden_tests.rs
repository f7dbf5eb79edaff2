//! The demo models against reference numbers of another implementation (f32,
//! CPU): `examples/demo/golden.json`. The plain operations in f32, on the CPU
//! and, where there is one, on a GPU.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::burn::config::Qwen3Config;
use crate::burn::cpu::{BurnOps, Segment};
use crate::burn::model::Qwen3;
use crate::burn::weights::WeightFiles;
use crate::text::ChatText;

/// As near as logits have to be.
const LOGIT: f32 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    tokenizer: Vec<Text>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Case {
    instance_id: String,
    prompt_ids: Vec<u32>,
    prompt_text: String,
    reference_text: String,
    reference_ids: Vec<u32>,
    king: Expected,
    challenger: Expected,
}

#[derive(Deserialize)]
struct Expected {
    top5_ids: Vec<u32>,
    top5_logits: Vec<f32>,
    logsumexp: f64,
    reference_logprob: f64,
    greedy_ids: Vec<u32>,
}

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo")
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(demo().join("golden.json")).unwrap()).unwrap()
}

fn load(side: &str) -> Qwen3<BurnOps> {
    load_on(burn::tensor::Device::flex(), side)
}

fn load_on(device: burn::tensor::Device, side: &str) -> Qwen3<BurnOps> {
    let folder = demo().join("models").join(side);
    let config = Qwen3Config::load(&folder).unwrap();
    let files = WeightFiles::open(&folder).unwrap();
    let cx = CallContext::new();
    Qwen3::load(BurnOps::new(&config, device), &config, files.weights(&cx).unwrap()).unwrap()
}

#[test]
fn token_ids_are_equal() {
    let text = ChatText::load(&demo().join("models/king"), None).unwrap();
    let golden = golden();
    for case in &golden.tokenizer {
        assert_eq!(text.encode_reply(&case.text).unwrap(), case.ids, "{:?}", case.text);
    }
    for case in &golden.cases {
        assert_eq!(text.encode_reply(&case.prompt_text).unwrap(), case.prompt_ids, "{}", case.instance_id);
        let mut reply = text.encode_reply(&case.reference_text).unwrap();
        reply.push(text.end_of_turn());
        assert_eq!(reply, case.reference_ids, "{}", case.instance_id);
    }
}

#[test]
fn the_king_computes_the_reference_numbers() {
    computes_the_reference_numbers(&load("king"), |case| &case.king);
}

#[test]
fn the_challenger_computes_the_reference_numbers() {
    computes_the_reference_numbers(&load("challenger"), |case| &case.challenger);
}

#[cfg(feature = "cuda")]
#[test]
fn the_king_computes_the_reference_numbers_on_a_gpu() {
    if cuda::is_present() {
        let _alone = cuda::without_captures();
        computes_the_reference_numbers(&load_on(burn::tensor::Device::cuda(0), "king"), |case| &case.king);
    }
}

fn computes_the_reference_numbers(model: &Qwen3<BurnOps>, reference: impl Fn(&Case) -> &Expected) {
    let vocab = model.vocab_size();
    for case in &golden().cases {
        let expected = reference(case);
        let mut cache = model.cache();
        let prompt = case.prompt_ids.len();
        let logits = model.prefill(&case.prompt_ids, &mut cache, || Ok(())).unwrap();
        for (&id, &logit) in expected.top5_ids.iter().zip(&expected.top5_logits) {
            assert!((logits[id as usize] - logit).abs() < LOGIT, "{}: token {id}", case.instance_id);
        }
        let best = logits.iter().filter(|logit| **logit > expected.top5_logits[4] + LOGIT).count();
        assert!(best <= 4, "{}: {best} logits above the fifth", case.instance_id);
        assert!((sample::log_sum_exp(&logits) - expected.logsumexp).abs() < f64::from(LOGIT));

        // The reference as one block behind the prompt, then, over it, the greedy reply.
        let ids = &case.reference_ids;
        let mut segments = [Segment { cache: &mut cache, start: prompt, rows: ids.len() - 1 }];
        let rows = model.extend(&ids[..ids.len() - 1], &mut segments).unwrap();
        let rows = std::iter::once(logits.as_slice()).chain(rows.chunks_exact(vocab));
        let log_prob: f64 = rows.zip(ids).map(|(row, &id)| f64::from(sample::log_prob(row, id))).sum();
        let off = (log_prob - expected.reference_logprob).abs() / expected.reference_logprob.abs();
        assert!(off < 1e-3, "{}: {log_prob} against {}", case.instance_id, expected.reference_logprob);

        let mut greedy = vec![sample::greedy(&logits)];
        while greedy.len() < expected.greedy_ids.len() {
            let start = prompt + greedy.len() - 1;
            let mut segments = [Segment { cache: &mut cache, start, rows: 1 }];
            let logits = model.extend(&greedy[greedy.len() - 1..], &mut segments).unwrap();
            greedy.push(sample::greedy(&logits));
        }
        assert_eq!(greedy, expected.greedy_ids, "{}", case.instance_id);
    }
}

/// The prompts of all cases in one step, and each alone: the same bits.
#[test]
fn a_step_gives_a_row_the_same_bits_in_any_batch() {
    let model = load("king");
    let cases = golden().cases;
    let mut caches: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut cache = model.cache();
            model.prefill(&case.prompt_ids, &mut cache, || Ok(())).unwrap();
            cache
        })
        .collect();
    let starts: Vec<usize> = cases.iter().map(|case| case.prompt_ids.len()).collect();
    let ids: Vec<u32> = cases.iter().map(|case| case.reference_ids[0]).collect();
    let mut together: Vec<_> =
        caches.iter_mut().zip(&starts).map(|(cache, &start)| Segment { cache, start, rows: 1 }).collect();
    let together = model.extend(&ids, &mut together).unwrap();
    for (index, logits) in together.chunks_exact(model.vocab_size()).enumerate() {
        let mut alone = [Segment { cache: &mut caches[index], start: starts[index], rows: 1 }];
        assert!(model.extend(&ids[index..=index], &mut alone).unwrap() == logits, "case {index}");
    }
}

/// A block of scored tokens, and the same tokens one step after the other.
#[test]
fn a_block_gives_the_bits_of_single_steps() {
    let model = load("challenger");
    let case = &golden().cases[0];
    let start = case.prompt_ids.len();
    let ids = &case.reference_ids;
    let mut cache = model.cache();
    model.prefill(&case.prompt_ids, &mut cache, || Ok(())).unwrap();
    let mut segments = [Segment { cache: &mut cache, start, rows: ids.len() }];
    let block = model.extend(ids, &mut segments).unwrap();
    for (index, logits) in block.chunks_exact(model.vocab_size()).enumerate() {
        let mut segments = [Segment { cache: &mut cache, start: start + index, rows: 1 }];
        assert!(model.extend(&ids[index..=index], &mut segments).unwrap() == logits, "token {index}");
    }
}
