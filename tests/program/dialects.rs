//! A duel before a chat judge whose server answers as real servers do, each time in
//! another dialect; and one whose account is empty halfway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use albedo::backends::openai::scripted::{Answer, ScriptedServer, Seen};
use albedo::prelude::*;
use albedo::rng::{Stream, Use};
use albedo::{Fault, Reach};
use serde_json::{Value, json};

use crate::chat::{contestant, differences};
use crate::numbers::numbers;
use crate::question::between;

/// Prefers the longer reply, with the nonce of the question.
fn verdict(seen: &Seen) -> String {
    let prompt = seen.body["messages"][1]["content"].as_str().expect("a prompt");
    let fence = between(prompt, "The mark of this comparison is ", ".");
    let part = |name: &str| {
        between(prompt, &format!("[[{fence} {name}]]\n"), &format!("\n[[{fence} end of {name}]]")).len()
    };
    let word = match part("first reply").cmp(&part("second reply")) {
        std::cmp::Ordering::Greater => "first",
        std::cmp::Ordering::Less => "second",
        std::cmp::Ordering::Equal => "tie",
    };
    let nonce = prompt.rsplit('"').nth(1).expect("the nonce is last");
    json!({
        "correctness": word, "grounding": word, "progress": word, "protocol": "tie", "efficiency": word, "nonce": nonce,
    })
    .to_string()
}

fn chunk(delta: &Value, finish: &Value, more: &Value) -> String {
    let mut choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    choice.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    json!({ "id": "c1", "object": "chat.completion.chunk", "choices": [choice] }).to_string()
}

const DIALECTS: usize = 12;

/// `text` in one of the dialects, each of a real server.
fn spoken(dialect: usize, text: &str) -> Answer {
    const STREAM: &str = "text/event-stream";
    let (one, two) = text.split_at(text.len() / 2);
    let none = Value::Null;
    let piece = |text: &str, finish: &Value| chunk(&json!({ "content": text }), finish, &none);
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 5 } }).to_string();
    let stop = |word: &str| chunk(&json!({}), &json!(word), &none);
    let events = |events: &[String], between: &str| {
        let events: Vec<_> = events.iter().map(|event| format!("data: {event}{between}")).collect();
        events.concat() + "data: [DONE]" + between
    };
    let whole = json!({
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "" }],
        "usage": { "prompt_tokens": null, "completion_tokens": "5" },
    })
    .to_string();
    let pieces = [piece(one, &none), piece(two, &none)];
    let ended = |word: &str| [pieces[0].clone(), pieces[1].clone(), stop(word), usage.clone()];
    match dialect {
        0 => Answer::raw(STREAM, events(&ended("stop"), "\n\n")),
        1 => {
            let empty = json!("");
            Answer::raw(STREAM, events(&[piece(one, &empty), piece(two, &empty), stop("stop")], "\n\n"))
        }
        2 => Answer::raw(STREAM, events(&ended("STOP"), "\r\n\r\n")),
        3 => Answer::raw("text/plain; charset=utf-8", events(&ended("eos_token"), "\n\n")),
        // The message once more, whole.
        4 => {
            let last = json!({ "delta": null, "message": { "content": text } });
            let last = chunk(&none, &json!("stop"), &last);
            Answer::raw(STREAM, events(&[pieces[0].clone(), pieces[1].clone(), last], "\n\n"))
        }
        // Ever longer messages beside the pieces, and a price in parts.
        5 => {
            let grown = |piece: &str, whole: &str, finish: &Value| {
                chunk(&json!({ "content": piece }), finish, &json!({ "message": { "content": whole } }))
            };
            let cost = json!({ "choices": [], "usage": { "cost": { "total_cost": 0.01 } } }).to_string();
            let all =
                [grown(one, one, &none), grown(two, text, &none), grown("", text, &json!("stop")), cost];
            Answer::raw(STREAM, events(&all, "\n\n"))
        }
        6 => Answer::raw("application/json", events(&ended("end_turn"), "\n\n")),
        // The last event has no blank line after it, and nothing comes after.
        7 => Answer::raw(
            STREAM,
            format!("data: {}\n\ndata: {}", piece(one, &none), piece(two, &json!("stop"))),
        ),
        8 => Answer::raw(STREAM, events(&ended("stop"), "\n")),
        9 => Answer::raw("application/json", format!("\n\n  \n{whole}")),
        // The same id on every event, and keep-alives of all kinds.
        10 => {
            let named: Vec<_> = ended("stop")
                .iter()
                .map(|event| format!("id: c1\ndata: {event}\n\n: hm\n\ndata:\n\n"))
                .collect();
            Answer::raw(STREAM, format!("event: ping\ndata: {{}}\n\n{}data: [DONE] \n\n", named.concat()))
        }
        _ => Answer::raw(STREAM, format!("{whole}\n\ndata: [DONE]\n\n")),
    }
}

async fn duel(backend: Value, samples: u32) -> Duel {
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("links"));
    let judge = json!({ "backend": backend, "model": "m" });
    let judge = BuildContext::new(&registry, &cx).build::<dyn Judge>("chat", judge).await.expect("builds");
    let king = contestant(Side::King, "even").await;
    let challenger = contestant(Side::Challenger, "odd").await;
    let mut settings = DuelSettings { samples, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.limits.samples_in_flight = 4;
    let duel = Duel::builder(king, challenger).tasks(Arc::new(numbers(500))).judge(judge).settings(settings);
    duel.plan(&MemoryStore::default(), &cx).await.expect("plans")
}

#[tokio::test]
async fn a_duel_is_the_same_in_whatever_dialects_its_judge_answers() {
    let mut scores = Vec::new();
    for random in [false, true] {
        let heard: Arc<Mutex<[usize; DIALECTS]>> = Arc::default();
        let counted = Arc::clone(&heard);
        let server = ScriptedServer::start(move |seen| {
            if seen.path.ends_with("/models") {
                return Answer::models(&["m"]);
            }
            let dialect = Stream::new(seen.number as u64, Use::RowDraw).below(DIALECTS as u64) as usize;
            let dialect = if random { dialect } else { 0 };
            counted.lock().expect("unpoisoned")[dialect] += 1;
            spoken(dialect, &verdict(seen))
        });
        let server = server.await.expect("a free port");
        let duel = duel(json!({ "name": "openai", "base_url": server.base_url() }), 16).await;
        let store = MemoryStore::default();
        let report = duel.run(&store, &CallContext::new()).await.expect("runs");
        assert_eq!(report.verdict.missing, 0);
        scores.push(differences(&store));
        let heard = *heard.lock().expect("unpoisoned");
        assert_eq!(heard.iter().sum::<usize>(), 32, "no question is asked twice: {heard:?}");
        assert!(!random || heard.iter().filter(|times| **times > 0).count() >= 9, "{heard:?}");
    }
    assert_eq!(scores[0], scores[1]);
    assert!(scores[0].iter().any(|difference| *difference != 0.0));
}

#[tokio::test]
async fn every_dialect_is_read_alike() {
    for dialect in 0..DIALECTS {
        let server = ScriptedServer::start(move |seen| {
            if seen.path.ends_with("/models") {
                Answer::models(&["m"])
            } else {
                spoken(dialect, &verdict(seen))
            }
        });
        let server = server.await.expect("a free port");
        let duel = duel(json!({ "name": "openai", "base_url": server.base_url() }), 1).await;
        let report = duel.run(&MemoryStore::default(), &CallContext::new()).await.expect("runs");
        assert_eq!(report.verdict.missing, 0, "dialect {dialect}");
    }
}

/// However a server says that the account may spend no more, the duel stops, nobody
/// loses a sample, and it goes on once that is mended.
#[tokio::test]
async fn an_empty_account_stops_the_duel_which_goes_on_later() {
    let key_limit = || Answer::refuse(403, "Key limit exceeded (total limit). Manage it in your settings");
    let inside = || {
        Answer::raw(
            "text/event-stream",
            "data: {\"error\":{\"code\":402,\"message\":\"Insufficient credits\"}}\n\n",
        )
    };
    let quota = || Answer::refuse(429, "You exceeded your current quota, please check your plan");
    let refusals: [fn() -> Answer; 3] = [key_limit, inside, quota];
    for (index, refusal) in refusals.into_iter().enumerate() {
        let left = Arc::new(AtomicUsize::new(5));
        let spent = Arc::clone(&left);
        let server = ScriptedServer::start(move |seen| {
            if seen.path.ends_with("/models") {
                return Answer::models(&["m"]);
            }
            let paid = spent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if paid.is_ok() { spoken(0, &verdict(seen)) } else { refusal() }
        });
        let server = server.await.expect("a free port");
        let openai = json!({ "name": "openai", "base_url": server.base_url() });
        let backend = if index == 0 { openai } else { json!({ "name": "routes", "order": [openai] }) };
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        let first = duel(backend.clone(), 8).await;
        let error = first.run(&store, &cx).await.expect_err("the account is empty");
        assert_eq!((error.fault(), error.reach()), (Fault::Operator, Reach::Duel), "{error}");
        left.store(1000, Ordering::SeqCst);
        // Another run: in the first, the route is stopped for good.
        let report = duel(backend, 8).await.run(&store, &cx).await.expect("goes on");
        assert_eq!(report.verdict.missing, 0, "{index}");
    }
}
