//! Replies that are shown as they grow, on the CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use albedo_core::{
    CallContext, CallSignal, Completion, ErrorKind, FinishReason, GenerateRequest, Message, MessageRole,
    ModelSession, Prompt, Sampling, ScoreRequest, StreamPart, StreamRequest, TokenLogProb,
};
use futures::future::join_all;
use futures::{FutureExt, StreamExt};

use super::tests::{answers, demo, load, requests};
use crate::text::ChatText;

/// Almost any token, so that there is more than whole characters.
const WILD: Sampling = Sampling { temperature: 8.0, top_p: 1.0, top_k: 0 };

fn streamed(request: &GenerateRequest) -> StreamRequest {
    StreamRequest::new(Prompt::Messages(request.messages.clone()), request.max_new_tokens)
        .with_sampling(request.sampling)
        .with_seed(request.seed)
        .with_log_probs(request.log_probs)
}

/// All parts of a reply that has no error.
async fn parts(session: &dyn ModelSession, request: StreamRequest) -> Vec<StreamPart> {
    session.stream(request, &CallContext::new()).map(|part| part.expect("a part")).collect().await
}

/// The reply that a stream ends with, once its parts are seen to make it, one per token.
fn done(parts: Vec<StreamPart>) -> Completion {
    let (mut ids, mut text, mut likely, mut count) = (Vec::new(), String::new(), Vec::new(), 0);
    for part in parts {
        match part {
            StreamPart::Tokens { ids: next, text: piece, log_probs, .. } => {
                assert_eq!(next.len(), 1, "a part per token");
                ids.extend(next);
                text.push_str(&piece);
                likely.extend(log_probs.into_iter().flatten());
                count += 1;
            }
            StreamPart::Done(completion) => {
                assert_eq!(
                    (&completion.text, &completion.tokens, completion.tokens.len()),
                    (&text, &ids, count)
                );
                assert_eq!(completion.log_probs.as_deref().unwrap_or_default(), likely);
                return completion;
            }
            _ => {}
        }
    }
    panic!("no end after {count} tokens: {text}");
}

/// The prompt's log-probabilities in a stream.
fn of_prompt(parts: &[StreamPart]) -> &[TokenLogProb] {
    match parts.first() {
        Some(StreamPart::Prompt { rest, .. }) => rest,
        other => panic!("no prompt: {other:?}"),
    }
}

#[tokio::test]
async fn who_waits_for_a_reply_hears_of_every_token() {
    let (session, heard) = (load(&demo("king"), 4).await.expect("loads"), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&heard);
    let cx = CallContext::new().with_listener(move |signal| {
        if signal == CallSignal::Token {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let request = GenerateRequest::new(ask("Fix it."), 9).with_sampling(WILD);
    let answer = session.generate(vec![request], &cx).next().await.expect("an answer");
    let written = answer.result.expect("a reply").tokens.len();
    assert_eq!(heard.load(Ordering::Relaxed), written);
}

#[tokio::test]
async fn streams_are_the_replies_that_are_generated_whatever_the_batch() {
    let wild = |seed| GenerateRequest::new(ask("Fix it."), 60).with_sampling(WILD).with_seed(seed);
    let requests: Vec<_> = requests()
        .into_iter()
        .map(|request| request.with_score_reply(None))
        .chain((0..6).map(wild))
        .map(|request| request.with_log_probs(Some(3)))
        .collect();
    let alone = load(&demo("king"), 1).await.unwrap();
    let expected = answers(&*alone, requests.clone()).await;
    assert!(expected.iter().all(|reply| reply.log_probs.as_ref().map(Vec::len) == Some(reply.tokens.len())));
    assert!(expected.iter().any(|reply| reply.text.contains('\u{FFFD}')), "bytes that are no text");
    for max_batch in [1, 5, 32] {
        let session = load(&demo("king"), max_batch).await.unwrap();
        // Whole replies beside streams.
        let streams = join_all(requests.iter().map(|request| parts(&*session, streamed(request))));
        let (streams, whole) = tokio::join!(streams, answers(&*session, requests.clone()));
        assert_eq!(whole, expected, "at most {max_batch}");
        let streams: Vec<_> = streams.into_iter().map(done).collect();
        assert_eq!(streams, expected, "at most {max_batch}");
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_frees_its_place() {
    let session = load(&demo("king"), 2).await.unwrap();
    let cx = CallContext::new();
    let request = |seed| StreamRequest::new(ask("Fix it."), 600).with_sampling(WILD).with_seed(seed);
    // Two that do not end by themselves.
    let mut long = Vec::new();
    for seed in 0.. {
        if done(parts(&*session, request(seed)).await).finish == FinishReason::Length {
            long.push(request(seed));
        }
        if long.len() == 2 {
            break;
        }
    }
    let mut first = session.stream(long[0].clone(), &cx);
    let mut second = session.stream(long[1].clone(), &cx);
    first.next().await.unwrap().unwrap();
    second.next().await.unwrap().unwrap();
    // Both places are taken: this one waits.
    let mut third = session.stream(StreamRequest::new(ask("Fix it."), 3), &cx);
    assert!(third.next().now_or_never().is_none());
    drop(first);
    assert_eq!(third.filter(|part| std::future::ready(part.is_ok())).count().await, 4);
    // Had it waited for a reply to end, the second would have ended as well.
    let mut shown = 1;
    while let Some(Some(part)) = tokio::task::unconstrained(second.next()).now_or_never() {
        assert!(matches!(part, Ok(StreamPart::Tokens { .. })), "{part:?}");
        shown += 1;
    }
    assert!(shown < 300, "{shown} tokens of 600");
}

#[tokio::test]
async fn a_raw_prompt_is_read_as_it_is() {
    let session = load(&demo("king"), 4).await.unwrap();
    let text = ChatText::load(&demo("king"), None).unwrap();
    for request in requests().iter().take(4) {
        let expected = done(parts(&*session, streamed(request)).await);
        let ids = session.prompt_tokens(&request.messages).unwrap().unwrap();
        let rendered = Prompt::from(&*text.decode(&ids).unwrap());
        for prompt in [Prompt::from(ids), rendered] {
            let mut raw = streamed(request);
            raw.prompt = prompt;
            assert_eq!(done(parts(&*session, raw).await), expected);
        }
    }
    for (prompt, kind, words) in [
        (Prompt::from(vec![7, 4096]), ErrorKind::DataInvalid, "token 4096 is outside"),
        (Prompt::from(Vec::<u32>::new()), ErrorKind::DataInvalid, "the prompt has no token"),
        (Prompt::from(""), ErrorKind::DataInvalid, "the prompt has no token"),
        (Prompt::from(vec![7; 4096]), ErrorKind::Unsupported, "do not fit in the context of 4096"),
    ] {
        let parts: Vec<_> =
            session.stream(StreamRequest::new(prompt, 1), &CallContext::new()).collect().await;
        let [Err(error)] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn log_probabilities_of_prompts_are_those_of_scores_and_of_replies() {
    let session = load(&demo("king"), 4).await.unwrap();
    let cx = CallContext::new();
    let text = ChatText::load(&demo("king"), None).unwrap();
    let request = GenerateRequest::new(ask("The tests fail."), 40).with_log_probs(Some(5));
    let reply = answers(&*session, vec![request.clone()]).await.remove(0);
    let likely = reply.log_probs.clone().unwrap();
    for (token, likely) in reply.tokens.iter().zip(&likely) {
        // It is greedy.
        assert_eq!((likely.token.id, likely.likeliest.len()), (Some(*token), 5));
        assert_eq!(likely.likeliest[0], (likely.token.clone(), likely.log_prob));
    }

    let prompt = session.prompt_tokens(&request.messages).unwrap().unwrap();
    let mut ids = prompt.clone();
    ids.extend(&reply.tokens);
    let raw = StreamRequest::new(ids, 0).with_log_probs(Some(5)).with_prompt_log_probs(true);
    let read = parts(&*session, raw).await;
    let same = |one: f32, other: f32| (one - other).abs() < 1e-3;
    let of_reply = &of_prompt(&read)[prompt.len() - 1..];
    assert_eq!(of_reply.len(), likely.len());
    for (read, likely) in of_reply.iter().zip(&likely) {
        assert_eq!(read.token, likely.token);
        assert!(same(read.log_prob, likely.log_prob), "{read:?}, {likely:?}");
        assert!(read.likeliest.iter().zip(&likely.likeliest).all(|(one, other)| same(one.1, other.1)));
    }
    let empty = done(read);
    assert_eq!((&*empty.text, empty.finish), ("", FinishReason::Length));
    assert_eq!((empty.usage.prompt_tokens, empty.usage.completion_tokens), {
        (Some((prompt.len() + reply.tokens.len()) as u32), Some(0))
    });

    let scored = "THOUGHT: I look at the files.";
    let score = session.score(vec![ScoreRequest::new(request.messages.clone(), scored)], &cx).await.unwrap();
    let mut ids = prompt.clone();
    ids.extend(text.encode_reply(scored).unwrap());
    ids.push(text.end_of_turn());
    let read = parts(&*session, StreamRequest::new(ids, 1).with_prompt_log_probs(true)).await;
    let of_reply = &of_prompt(&read)[prompt.len() - 1..];
    assert_eq!(of_reply.len(), score[0].log_probs.len());
    assert!(of_reply.iter().zip(&score[0].log_probs).all(|(read, score)| same(read.log_prob, *score)));
    assert!(of_reply.iter().all(|read| read.likeliest.is_empty()));
}

fn ask(text: &str) -> Vec<Message> {
    vec![Message::new(MessageRole::User, text)]
}
