use std::collections::BTreeSet;

use super::*;
use crate::{Registry, demo::Demo};

async fn bench(seed: u64) -> (Bench, Load) {
    let cx = CallContext::new();
    let registry = Registry::linked().expect("plugins");
    let backend =
        registry.build::<dyn ModelBackend>("burn", serde_json::json!({}), &cx).await.expect("builds");
    let king = Demo::locate().expect("the demo").king();
    Bench::load(&*backend, &king.into(), seed, 2, &cx).await.expect("loads")
}

const PREFILL: Case = Case::Prefill { batch: 3, prompt_tokens: 40 };
const DECODE: Case = Case::Decode { batch: 2, context_tokens: 70, steps: 8 };
const RUN: Case = Case::Run { prompts: 5, longest_prompt: 60, new_tokens: 4 };

#[tokio::test]
async fn prompts_have_their_exact_length_and_no_two_begin_alike() {
    let (bench, _) = bench(1).await;
    let mut beginnings = BTreeSet::new();
    let mut prompts = 0;
    for (case, rounds) in [(PREFILL, 0..3), (DECODE, 0..1), (RUN, 0..3)] {
        for round in rounds {
            for messages in bench.prompts(&case, round).expect("prompts") {
                let tokens = bench.session.count_prompt_tokens(&messages).expect("counts").expect("knows");
                match case {
                    Case::Prefill { .. } => assert_eq!(tokens, 40),
                    Case::Decode { .. } => assert_eq!(tokens + SHORT_REPLY + 8 / 2, 70),
                    Case::Run { .. } => assert!((15..=60).contains(&tokens), "{tokens}"),
                }
                let words: Vec<_> = messages[0].content.split(' ').take(2).map(str::to_owned).collect();
                beginnings.insert(words);
                prompts += 1;
            }
        }
    }
    // Two words of some thousand: a clash is possible, many are not.
    assert!(beginnings.len() + 1 >= prompts, "{} of {prompts}", beginnings.len());
    assert_eq!(bench.prompts(&DECODE, 0).expect("prompts"), bench.prompts(&DECODE, 2).expect("prompts"));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_prompts() {
    let (one, _) = bench(1).await;
    let (again, _) = bench(1).await;
    let (other, _) = bench(2).await;
    let prompts = |bench: &Bench| bench.prompts(&RUN, 1).expect("prompts");
    assert_eq!(prompts(&one), prompts(&again));
    assert_ne!(prompts(&one), prompts(&other));
}

#[tokio::test]
async fn every_case_is_measured_on_whole_replies() {
    let (bench, load) = bench(0).await;
    let cx = CallContext::new();
    assert!(0.0 < load.seconds && load.seconds < load.first_token_seconds);
    for (case, prompt_tokens, new_tokens) in [(PREFILL, 120, 3), (DECODE, 100, 16)] {
        let figures = bench.measure(&case, &cx).await.expect("measures");
        assert_eq!((figures.tokens_read, figures.tokens_written), (prompt_tokens, new_tokens), "{case}");
        assert_eq!(figures.seconds.rounds.len(), 2);
    }
    let figures = bench.measure(&RUN, &cx).await.expect("measures");
    assert_eq!(figures.tokens_written, 5 * 4);
    assert!(figures.seconds.low > 0.0 && figures.tokens_per_second.low > 0.0);
    cx.cancel();
    assert_eq!(bench.measure(&RUN, &cx).await.expect_err("stopped").kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn cases_that_cannot_be_are_refused() {
    let (bench, _) = bench(0).await;
    for (case, expected) in [
        (Case::Prefill { batch: 1, prompt_tokens: 4096 }, "the model's context: 4096"),
        (Case::Prefill { batch: 0, prompt_tokens: 8 }, "of one request"),
        (Case::Prefill { batch: 1, prompt_tokens: 2 }, "there is no prompt of 2 tokens"),
        (Case::Decode { batch: 1, context_tokens: 10, steps: 8 }, "there is no prompt of 0 tokens"),
        (Case::Decode { batch: 1, context_tokens: 4095, steps: 8 }, "the model's context: 4096"),
        (Case::Run { prompts: 1, longest_prompt: 40, new_tokens: 0 }, "of one request"),
        (Case::Run { prompts: 1, longest_prompt: u32::MAX, new_tokens: u32::MAX }, "context"),
    ] {
        let error = bench.measure(&case, &CallContext::new()).await.expect_err("refuses");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_spread_has_the_middle_and_the_ends() {
    let spread = Spread::of(vec![3.0, 1.0, 2.0]);
    assert_eq!((spread.median, spread.low, spread.high), (2.0, 1.0, 3.0));
    assert_eq!(spread.rounds, [3.0, 1.0, 2.0]);
    let spread = Spread::of(vec![4.0, 1.0, 2.0, 3.0]);
    assert_eq!((spread.median, spread.low, spread.high), (2.5, 1.0, 4.0));
    assert!(Spread::of(Vec::new()).median.is_nan());
}

#[test]
fn a_model_without_a_byte_level_vocabulary_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Corpus::of_model(folder.path()).expect_err("no tokenizer");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for text in ["{", "[]", "{}", r#"{"model": {"vocab": {"Ġa": 1, "ÿ": 2}}}"#] {
        fs::write(folder.path().join(TOKENIZER), text).expect("writes");
        let error = Corpus::of_model(folder.path()).expect_err("refuses");
        assert!(matches!(error.kind(), ErrorKind::DataInvalid | ErrorKind::Unsupported), "{error}");
    }
}
