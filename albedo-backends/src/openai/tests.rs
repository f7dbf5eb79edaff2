use std::time::Duration;

use albedo_core::conformance::{BackendFixture, SessionFixture, check_backend};
use albedo_core::http::{HeaderMap, HttpRequest, HttpResponse};
use albedo_core::registry::{Resources, SystemSecrets};
use albedo_core::{
    Clock, Fault, FinishReason, MessageRole, Registry, ResponseFormat, Retry, Sampling, VirtualClock,
};
use proptest::prelude::*;
use serde_json::json;

use super::scripted::{Act, Answer, ScriptedServer, Seen, delta};
use super::*;
use crate::http::{Proxies, Roots};

const SECRET: &str = "sk-very-secret-0123456789";

fn request(prompt: &str) -> GenerateRequest {
    GenerateRequest::new(
        vec![
            Message::new(MessageRole::System, "You compare two replies."),
            Message::new(MessageRole::User, prompt),
        ],
        16,
    )
    .with_seed(7)
}

/// A server that serves `judge` and answers each chat request as `script` says.
async fn server(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> ScriptedServer {
    let script = move |seen: &Seen| match seen.path.as_str() {
        "/v1/models" => Answer::models(&["judge", "judge-large"]),
        "/v1/chat/completions" => script(seen),
        _ => Answer::refuse(404, "no such path"),
    };
    ScriptedServer::start(script).await.expect("a free port")
}

fn backend(server: &ScriptedServer, config: OpenAiConfig) -> OpenAiBackend {
    let config = OpenAiConfig { base_url: Some(server.base_url()), ..config };
    let config = config.check().expect("a valid configuration");
    let key = Credential::bearer("ALBEDO_TEST_KEY", SECRET).expect("a key");
    let transport = Client::new(Proxies::none(), Roots::System);
    OpenAiBackend::with_key(config, Some(key), Arc::new(transport)).expect("builds")
}

async fn session(server: &ScriptedServer, config: OpenAiConfig) -> Arc<dyn ModelSession> {
    backend(server, config).load(&ModelSource::served("judge"), &CallContext::new()).await.expect("loads")
}

async fn ask(session: &dyn ModelSession, request: GenerateRequest, cx: &CallContext) -> Result<Completion> {
    session.generate(vec![request], cx).next().await.expect("an answer").result
}

/// The answer to one request of a server that always answers `answer`.
async fn answer_to(request: GenerateRequest, answer: Answer) -> Result<Completion> {
    let server = server(move |_| answer.clone()).await;
    ask(&*session(&server, OpenAiConfig::default()).await, request, &CallContext::new()).await
}

fn whole() -> OpenAiConfig {
    OpenAiConfig { stream: false, ..OpenAiConfig::default() }
}

/// Words that depend on the request, as many as it allows.
fn obliging(seen: &Seen) -> Answer {
    let [system, user] = [0, 1].map(|at| seen.body["messages"][at]["content"].as_str().unwrap_or_default());
    let warm = seen.body["temperature"].as_f64() > Some(0.0);
    let seed = if warm { seen.body["seed"].as_u64() } else { None };
    let digest = Digest::of(format!("{system} {user} {seed:?}")).to_string();
    let words: Vec<_> = digest.as_bytes().chunks(8).map(|word| String::from_utf8_lossy(word)).collect();
    let free = seen.body["response_format"].is_null();
    let words: Vec<&str> = if free { words.iter().map(AsRef::as_ref).collect() } else { vec!["{", "}"] };
    let most = seen.body["max_tokens"].as_u64().unwrap_or(0) as usize;
    if seen.body["stream"] == true {
        if most < words.len() {
            let cut = words[..most].iter().map(|word| delta(&json!({ "content": word }), None));
            return Answer::events(&cut.collect::<Vec<_>>()).event(&delta(&json!({}), Some("length"))).event(
                &json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": most } }),
            );
        }
        Answer::stream(&words)
    } else {
        Answer::reply(&words[..most.min(words.len())].join(" "))
    }
}

#[tokio::test]
async fn the_backend_keeps_its_roles_promises() {
    let server = server(obliging).await;
    let conversation = |text: &str| request(text).messages.to_vec();
    for stream in [true, false] {
        let fixture = BackendFixture {
            model: ModelSource::served("judge"),
            missing: ModelSource::served("nobody"),
            session: SessionFixture::new(["a", "b c", "d e f"].map(conversation).into()),
        };
        let backend = backend(&server, OpenAiConfig { stream, ..OpenAiConfig::default() });
        check_backend(&backend, &fixture).await.unwrap_or_else(|broken| panic!("stream {stream}: {broken}"));
    }
}

#[tokio::test]
async fn a_request_says_all_that_is_asked_for() {
    let server = server(|_| Answer::reply("{}")).await;
    let extra = json!({ "provider": { "order": ["a"] } }).as_object().cloned().expect("an object");
    let session = session(&server, OpenAiConfig { extra, ..whole() }).await;
    let schema = json!({ "type": "object" });
    let full = request("which?")
        .with_sampling(Sampling { temperature: 0.5, top_p: 0.9, top_k: 40 })
        .with_seed(u64::MAX)
        .with_response(ResponseFormat::Schema { name: "verdict".into(), schema: schema.clone() })
        .with_log_probs(Some(5));
    ask(&*session, full, &CallContext::new()).await.expect("an answer");
    let seen = server.seen();
    let body = &seen[1].body;
    assert_eq!(
        *body,
        json!({
            "model": "judge",
            "messages": [
                { "role": "system", "content": "You compare two replies." },
                { "role": "user", "content": "which?" },
            ],
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 0x7fff_ffff, "max_tokens": 16,
            "stream": false, "logprobs": true, "top_logprobs": 5,
            "response_format": {
                "type": "json_schema",
                "json_schema": { "name": "verdict", "strict": true, "schema": schema },
            },
            "provider": { "order": ["a"] },
        })
    );
    let header = |name| seen[1].headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    assert_eq!(header("authorization"), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(header("content-type"), Some("application/json"));
    let json = request("which?").with_response(ResponseFormat::Json);
    ask(&*session, json, &CallContext::new()).await.expect("an answer");
    assert_eq!(server.seen()[2].body["response_format"], json!({ "type": "json_object" }));
}

#[tokio::test]
async fn a_stream_gives_text_reasoning_log_probabilities_and_usage() {
    let likely = json!([{ "token": "B", "logprob": -0.1 }, { "token": "A", "logprob": -2.5 }]);
    let token = json!({ "content": [{ "token": "B", "logprob": -0.1, "top_logprobs": likely }] });
    let answer = Answer::events(&[
        delta(&json!({ "role": "assistant", "content": null }), None),
        delta(&json!({ "reasoning_content": "first " }), None),
        delta(&json!({ "reasoning": "then" }), None),
        json!({ "choices": [{
            "index": 0, "delta": { "content": "B" }, "logprobs": token, "finish_reason": null,
        }] }),
        json!({ "choices": [{ "index": 1, "delta": { "content": "another choice" } }] }),
        delta(&json!({ "content": [{ "type": "text", "text": " it is" }] }), Some("stop")),
        json!({ "choices": [], "usage": { "prompt_tokens": 11, "completion_tokens": 5, "cost": 0.002 } }),
    ])
    .act(Act::Send(b": keep-alive\n\ndata: [DONE]\n\ndata: {\"after\": \"the end\"}\n\n".to_vec()));
    let server = server(move |_| answer.clone()).await;
    let session = session(&server, OpenAiConfig::default()).await;
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    let cx =
        CallContext::new().with_listener(move |signal| listener.lock().expect("unpoisoned").push(signal));
    let completion = ask(&*session, request("x").with_log_probs(Some(2)), &cx).await.expect("an answer");
    assert_eq!(completion.text, "B it is");
    assert_eq!(completion.reasoning.as_deref(), Some("first then"));
    assert_eq!(completion.finish, FinishReason::Stop);
    assert_eq!((completion.usage.prompt_tokens, completion.usage.completion_tokens), (Some(11), Some(5)));
    assert_eq!(completion.usage.price_usd, Some(0.002));
    let log_probs = completion.log_probs.expect("log-probabilities");
    let likeliest = log_probs[0].likeliest.iter().map(|(token, log_prob)| (&*token.text, *log_prob));
    assert_eq!(likeliest.collect::<Vec<_>>(), [("B", -0.1), ("A", -2.5)]);
    // One for each chunk in which the model wrote: no empty one, no keep-alive.
    assert_eq!(*heard.lock().expect("unpoisoned"), [CallSignal::Token; 4]);
}

#[tokio::test]
async fn prices_are_the_providers_or_the_configurations() {
    let server = server(|_| Answer::reply("four words it has")).await;
    let price = Some(Price { prompt_usd: 1.0, completion_usd: 10.0 });
    let priced = session(&server, OpenAiConfig { price, ..whole() }).await;
    let usage = ask(&*priced, request("x"), &CallContext::new()).await.expect("an answer").usage;
    assert_eq!(usage.price_usd, Some((7.0 + 40.0) / 1e6));
    let unpriced = session(&server, whole()).await;
    let usage = ask(&*unpriced, request("x"), &CallContext::new()).await.expect("an answer").usage;
    assert_eq!(usage.price_usd, None);
}

#[tokio::test]
async fn a_reply_without_an_end_says_so() {
    let begun = || Answer::events(&[delta(&json!({ "content": "half a" }), None)]);
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 2 } });
    let ended = || begun().event(&delta(&json!({}), Some("stop")));
    for (answer, finish) in [
        (begun(), FinishReason::Unknown),
        (begun().event(&delta(&json!({}), Some("content_filter"))), FinishReason::Unknown),
        (begun().act(Act::Send(b"data: [DONE]\n\n".to_vec())), FinishReason::Stop),
        (ended().event(&usage).act(Act::Reset), FinishReason::Stop),
    ] {
        let completion = answer_to(request("x"), answer).await.expect("an answer");
        assert_eq!((&*completion.text, completion.finish), ("half a", finish));
    }
    let error = answer_to(request("x"), ended().act(Act::Reset)).await.expect_err("its usage was to come");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn what_breaks_on_the_way_is_infrastructure_and_may_be_tried_again() {
    let begun = || Answer::events(&[delta(&json!({ "content": "half a" }), None)]);
    for (what, answer, kind) in [
        ("cut in the body", begun().act(Act::Cut), ErrorKind::Unavailable),
        ("reset in the body", begun().act(Act::Reset), ErrorKind::Unavailable),
        ("garbage", Answer::events(&[json!("garbage")]), ErrorKind::Protocol),
        ("broken JSON", begun().act(Act::Send(b"data: {\"cho\n\n".to_vec())), ErrorKind::Protocol),
        ("bytes", begun().act(Act::Send(b"data: \xff\xfe\n\n".to_vec())), ErrorKind::Protocol),
        ("no event at all", Answer::events(&[]), ErrorKind::Protocol),
        ("an empty object", Answer::json(200, &json!({})), ErrorKind::Protocol),
        (
            "an error within",
            begun().event(&json!({ "error": { "code": 502, "message": "lost" } })),
            ErrorKind::Unavailable,
        ),
        ("an error as reason", begun().event(&delta(&json!({}), Some("error"))), ErrorKind::Unavailable),
        ("an endless line", begun().act(Act::Send(vec![b'x'; 2 << 20])), ErrorKind::Protocol),
        ("an endless body", Answer::json(200, &json!("x".repeat(MAX_BODY + 1))), ErrorKind::Protocol),
        ("500", Answer::refuse(500, "boom"), ErrorKind::Unavailable),
        ("503", Answer::refuse(503, "loading"), ErrorKind::Unavailable),
        ("408", Answer::refuse(408, "late"), ErrorKind::Timeout),
    ] {
        let error = answer_to(request("x"), answer).await.expect_err(what);
        let verdict = (error.kind(), error.fault(), error.retry());
        assert_eq!(verdict, (kind, Fault::Infrastructure, Retry::Backoff), "{what}: {error}");
    }
    // Inside an answer that began as a success, the provider's own code counts.
    let error = json!({ "error": { "code": 429, "message": "slow down" } });
    let error = answer_to(request("x"), Answer::json(200, &error)).await.expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
}

#[tokio::test]
async fn refusals_have_their_kind_fault_and_retry() {
    let infrastructure = Fault::Infrastructure;
    for (status, kind, fault, hint) in [
        (400, ErrorKind::Refused, infrastructure, ""),
        (403, ErrorKind::Refused, infrastructure, ""),
        (422, ErrorKind::Refused, infrastructure, ""),
        (401, ErrorKind::Unavailable, Fault::Operator, "check the key in ALBEDO_TEST_KEY"),
        (402, ErrorKind::ResourceExhausted, Fault::Operator, "pay for the key in ALBEDO_TEST_KEY"),
        (404, ErrorKind::NotFound, Fault::Operator, "check `base_url`"),
        (307, ErrorKind::NotFound, Fault::Operator, "to where it redirects"),
    ] {
        let answer = Answer::refuse(status, "the reason").header("location", "http://127.0.0.1:1/");
        let error = answer_to(request("x"), answer).await.expect_err("refused");
        assert_eq!((error.kind(), error.fault(), error.retry()), (kind, fault, Retry::Never), "{error}");
        let reach = if fault == Fault::Operator { Reach::Duel } else { Reach::Call };
        assert_eq!((error.reach(), error.artefact()), (reach, None), "{error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{error}");
        assert!(error.to_string().contains("the reason"), "{error}");
    }
    let quota = json!({ "error": { "code": "insufficient_quota", "message": "spent" } });
    let limit = json!({ "error": { "code": 403, "message": "Key limit exceeded (total limit)" } });
    for answer in [Answer::json(429, &quota), Answer::json(403, &limit)] {
        let error = answer_to(request("x"), answer).await.expect_err("refused");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, Fault::Operator));
        assert_eq!(error.reach(), Reach::Duel);
    }
    for (headers, retry) in [
        (vec![], Retry::Backoff),
        (vec![("retry-after", "3")], Retry::After(Duration::from_secs(3))),
        (
            vec![("date", "Wed, 25 Nov 2026 12:00:00 GMT"), ("retry-after", "Wed, 25 Nov 2026 12:00:09 GMT")],
            Retry::After(Duration::from_secs(9)),
        ),
    ] {
        let with =
            |answer: Answer| headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value));
        for (status, kind) in [(429, ErrorKind::RateLimited), (503, ErrorKind::Unavailable)] {
            let error =
                answer_to(request("x"), with(Answer::refuse(status, "later"))).await.expect_err("refused");
            assert_eq!(
                (error.kind(), error.fault(), error.retry()),
                (kind, infrastructure, retry),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn limit_headers_are_told_to_who_listens() {
    let answer = Answer::reply("x")
        .header("x-ratelimit-remaining-requests", "2")
        .header("x-ratelimit-reset-requests", "1.5s");
    let server = server(move |_| answer.clone()).await;
    let session = session(&server, whole()).await;
    let (sender, heard) = std::sync::mpsc::channel();
    let cx = CallContext::new().with_listener(move |signal| sender.send(signal).expect("heard"));
    ask(&*session, request("x"), &cx).await.expect("an answer");
    let told = CallSignal::Limit { remaining: 2, resets_in: Duration::from_millis(1500) };
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [told]);
}

#[tokio::test]
async fn neither_key_nor_prompt_is_in_any_error_or_debug() {
    let prompt = "the contestants' secret words, which nobody else may read";
    let server = server(|seen| {
        let echo = format!("bad key {SECRET} for input '{}'", seen.body["messages"][1]["content"]);
        Answer::refuse([401, 500, 400][seen.number % 3], &echo)
    })
    .await;
    let backend = backend(&server, OpenAiConfig::default());
    let session = backend.load(&ModelSource::served("judge"), &CallContext::new()).await.expect("loads");
    let mut texts = vec![format!("{backend:?} {session:?} {:?}", backend.identity())];
    for _ in 0..3 {
        let error = ask(&*session, request(prompt), &CallContext::new()).await.expect_err("refused");
        texts.extend([error.to_string(), format!("{error:?}")]);
    }
    let error = ask(&*session, request("short"), &CallContext::new()).await.expect_err("refused");
    assert!(error.to_string().contains("bad key [key] for input"), "{error}");
    texts.extend([error.to_string(), format!("{error:?}")]);
    for text in texts {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains("nobody else"), "{text}");
    }
}

#[tokio::test]
async fn what_the_operator_has_to_mend_is_named() {
    let server = server(obliging).await;
    let backend = backend(&server, OpenAiConfig::default());
    let cx = CallContext::new();
    let error = backend.load(&ModelSource::served("jugde-large"), &cx).await.expect_err("not served");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    assert!(error.to_string().contains("does not serve `jugde-large`"), "{error}");
    assert!(error.to_string().contains("did you mean `judge-large`?"), "{error}");

    let elsewhere =
        OpenAiConfig { base_url: Some(server.base_url().replace("/v1", "/v2")), ..OpenAiConfig::default() };
    let error = OpenAiBackend::new(elsewhere, &SystemSecrets::default()).expect("builds");
    let error = error.load(&ModelSource::served("judge"), &cx).await.expect_err("no such path");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator), "{error}");
    assert!(error.to_string().contains("check `base_url`"), "{error}");

    // A port that was free a moment ago: nobody listens.
    let nobody = OpenAiConfig { base_url: Some("http://127.0.0.1:9/v1".into()), ..OpenAiConfig::default() };
    let error = OpenAiBackend::new(nobody, &SystemSecrets::default()).expect("builds");
    let error = error.load(&ModelSource::served("judge"), &cx).await.expect_err("nobody listens");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure), "{error}");
    assert!(error.to_string().contains("check the server's address and the network"), "{error}");

    let keyless =
        OpenAiConfig { preset: Some(Preset::Chutes), key_env: Some("ALBEDO_NO_SUCH_KEY".into()), ..whole() };
    let error = OpenAiBackend::new(keyless, &SystemSecrets::default()).expect_err("no key");
    assert_eq!(
        (error.kind(), error.fault(), error.retry()),
        (ErrorKind::Unavailable, Fault::Operator, Retry::Never)
    );
    assert!(error.to_string().contains("ALBEDO_NO_SUCH_KEY"), "{error}");
}

#[test]
fn settings_are_checked() {
    let at = |base_url: &str| OpenAiConfig { base_url: Some(base_url.into()), ..OpenAiConfig::default() };
    at("http://localhost:8080/v1").check().expect("valid");
    at("http://10.0.0.2:8080/v1").check().expect("no key is sent");
    for base_url in ["https://h/v1", "http://localhost:8080/v1", "http://[::1]/v1"] {
        OpenAiConfig { key_env: Some("K".into()), ..at(base_url) }.check().expect("nobody can listen");
    }
    let allowed = OpenAiConfig { key_env: Some("K".into()), allow_plain_http: true, ..at("http://h/v1") };
    allowed.check().expect("allowed");
    for (config, expected) in [
        (OpenAiConfig::default(), "`base_url` is missing"),
        (at("localhost:8080"), "https://"),
        (at("not a url"), "no URL"),
        (at("https://user:word@host/v1"), "keys belong in `key_env`"),
        (at("https://host/v1?key=1"), "keys belong in `key_env`"),
        (OpenAiConfig { max_in_flight: 0, ..at("http://h/v1") }, "`max_in_flight` is 0"),
        (OpenAiConfig { context_length: Some(0), ..at("http://h/v1") }, "`context_length`"),
        (OpenAiConfig { max_tokens_key: "tokens".into(), ..at("http://h/v1") }, "`max_tokens`"),
        (OpenAiConfig { key_env: Some(String::new()), ..at("http://h/v1") }, "`key_env` is empty"),
        (OpenAiConfig { key_env: Some("K".into()), ..at("http://h/v1") }, "`allow_plain_http = true`"),
        (OpenAiConfig { key_env: Some("K".into()), ..at("http://127.0.0.1.h/v1") }, "plain HTTP"),
        (
            OpenAiConfig {
                price: Some(Price { prompt_usd: -1.0, completion_usd: 0.0 }),
                ..at("http://h/v1")
            },
            "`price`",
        ),
    ] {
        let error = config.check().expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_preset_fills_in_what_is_not_given() {
    let preset = |preset| OpenAiConfig { preset: Some(preset), ..OpenAiConfig::default() };
    let chutes = preset(Preset::Chutes).resolved();
    assert_eq!(chutes.base_url.as_deref(), Some("https://llm.chutes.ai/v1"));
    assert_eq!(chutes.key_env.as_deref(), Some("CHUTES_API_KEY"));
    let openrouter = OpenAiConfig { key_env: Some("MINE".into()), ..preset(Preset::OpenRouter) }.resolved();
    assert_eq!(openrouter.base_url.as_deref(), Some("https://openrouter.ai/api/v1"));
    assert_eq!(openrouter.key_env.as_deref(), Some("MINE"));
    assert_eq!(openrouter.extra["usage"], json!({ "include": true }));
    let parsed: OpenAiConfig = serde_json::from_value(json!({ "preset": "openrouter" })).expect("parses");
    assert_eq!(parsed.preset, Some(Preset::OpenRouter));
}

#[test]
fn the_identity_is_of_what_can_change_an_answer() {
    let base = || OpenAiConfig { base_url: Some("http://h/v1".into()), ..OpenAiConfig::default() };
    let identity = |config, key| {
        let transport = Arc::new(Client::new(Proxies::none(), Roots::System));
        OpenAiBackend::with_key(config, key, transport).expect("builds").identity().clone()
    };
    let key = |secret| Some(Credential::bearer("K", secret).expect("a key"));
    let plain = identity(base(), None);
    assert_eq!(plain, identity(OpenAiConfig { stream: false, max_in_flight: 3, ..base() }, key("one")));
    assert_ne!(plain, identity(OpenAiConfig { model: Some("m".into()), ..base() }, None));
    let extra = json!({ "reasoning": { "enabled": false } }).as_object().cloned().expect("an object");
    assert_ne!(plain, identity(OpenAiConfig { extra, ..base() }, None));
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let server = server(|seen| {
        let answer = obliging(seen);
        if seen.number < 8 { answer.slow_headers(Duration::from_millis(5)) } else { answer }
    })
    .await;
    let session = session(&server, OpenAiConfig { max_in_flight: 4, ..OpenAiConfig::default() }).await;
    let requests: Vec<_> = (0..24).map(|number| request(&format!("question {number}"))).collect();
    let cx = CallContext::new();
    let calls =
        requests.chunks(8).map(|requests| session.generate(requests.to_vec(), &cx).collect::<Vec<_>>());
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().flatten().all(|answer| answer.result.is_ok()));
    assert!((2..=4).contains(&server.most_in_flight()), "{}", server.most_in_flight());
}

/// Two servers on a bad day, over real HTTP, behind the wrappers.
#[tokio::test]
async fn routes_bring_every_request_through() {
    let begun = || Answer::events(&[delta(&json!({ "content": "half a" }), None)]);
    let first = server(move |seen| match seen.number {
        number if number >= 30 => Answer::refuse(402, "pay first"),
        number => match number % 7 {
            0 => Answer::refuse(500, "boom"),
            1 => Answer::refuse(429, "slower").header("retry-after", "0"),
            2 => begun().act(Act::Reset),
            3 => begun().act(Act::Cut),
            4 => Answer::events(&[json!("garbage")]),
            5 => begun().act(Act::Hang),
            _ => obliging(seen),
        },
    })
    .await;
    let second = server(|seen| match seen.number % 5 {
        0 => Answer::refuse(503, "loading"),
        1 => Answer::events(&[]).act(Act::Hang),
        2 => obliging(seen).slow_headers(Duration::from_millis(2)),
        _ => obliging(seen),
    })
    .await;
    let route = |server: &ScriptedServer| json!({ "name": "openai", "base_url": server.base_url() });
    let config = json!({
        "order": [route(&first), route(&second)],
        "retry": { "attempts": 50, "base_secs": 0.001, "max_secs": 0.01 },
        "deadlines": { "first_token_secs": 0.2, "stall_secs": 0.2, "total_secs": 5.0 },
        "concurrency": { "initial": 2, "max": 4 },
        "breaker": { "failures": 20, "cooldown_secs": 0.01 },
    });
    let (registry, cx) = (Registry::linked().expect("linked"), CallContext::new());
    let backend = registry.build::<dyn ModelBackend>("routes", config, &cx).await.expect("builds");
    let session = backend.load(&ModelSource::served("judge"), &cx).await.expect("loads");
    let requests: Vec<_> = (0..64).map(|number| request(&format!("question {number}"))).collect();
    let answers: Vec<_> = session.generate(requests.clone(), &cx).collect().await;
    assert_eq!(answers.len(), 64);
    let good = server(obliging).await;
    let direct = self::session(&good, OpenAiConfig::default()).await;
    for Generated { index, result } in answers {
        let text = result.unwrap_or_else(|error| panic!("request {index}: {error}")).text;
        let whole = ask(&*direct, requests[index].clone(), &cx).await.expect("an answer");
        assert_eq!(text, whole.text, "request {index}");
    }
    let chats = first.seen().iter().filter(|seen| seen.path.ends_with("/chat/completions")).count();
    assert!((31..=34).contains(&chats), "{chats}: what was under way at the first 402, and no more");
}

#[tokio::test]
async fn a_silent_server_holds_nobody_beyond_the_deadline() {
    let silent = |seen: &Seen| {
        let answer = Answer::events(&[]);
        match seen.number {
            0 => answer.act(Act::Hang),
            _ => answer.event(&delta(&json!({ "content": "half" }), None)).act(Act::Hang),
        }
    };
    let server = server(silent).await;
    let session = session(&server, OpenAiConfig::default()).await;
    for _ in 0..2 {
        let cx = CallContext::new().with_timeout(Duration::from_millis(50));
        let error = ask(&*session, request("x"), &cx).await.expect_err("too late");
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
    let cx = CallContext::new();
    let mut answers = session.generate(vec![request("x")], &cx);
    assert!(futures::poll!(answers.next()).is_pending());
    cx.cancel();
    let error = answers.next().await.expect("an answer").result.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

proptest! {
    #[test]
    fn a_quotation_of_the_prompt_is_left_out(
        before in "[a-z ]{0,40}", prompt in "[A-Zéß ]{60,120}", at in 0_usize..30,
    ) {
        let transport = Arc::new(Client::new(Proxies::none(), Roots::System));
        let server = Server::new(transport, "http://h/v1", None, false);
        let quoted: String = prompt.chars().skip(at).take(30).collect();
        let words = json!({ "error": { "message": format!("{before}{quoted}") } });
        let messages = [Message::new(MessageRole::User, prompt.split_whitespace().collect::<Vec<_>>().join(" "))];
        let status = StatusCode::BAD_REQUEST;
        let error = server.refused("x", status, &HeaderMap::new(), &words, &messages).to_string();
        let quoted = quoted.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assume!(quoted.chars().count() >= 24);
        prop_assert!(!error.contains(&quoted), "{error}");
    }
}

/// The answer from memory to `request`.
fn canned(request: &HttpRequest) -> HttpResponse {
    let body = match request.url().rsplit('/').next() {
        Some("models") => json!({ "data": [{ "id": "judge" }] }),
        _ => json!({ "choices": [{ "message": { "content": "yes" }, "finish_reason": "stop" }] }),
    };
    HttpResponse::whole(StatusCode::OK, HeaderMap::new(), body.to_string())
}

/// Answers from memory, and keeps what was sent.
#[derive(Debug)]
struct Scripted(std::sync::Mutex<Vec<HttpRequest>>);

#[async_trait]
impl HttpTransport for Scripted {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let answer = canned(&request);
        self.0.lock().expect("no panic").push(request);
        Ok(answer)
    }
}

#[tokio::test]
async fn any_transport_carries_the_requests() {
    let transport = Arc::new(Scripted(std::sync::Mutex::default()));
    let config = OpenAiConfig { base_url: Some("https://llm.test/v1/".into()), ..whole() };
    let key = Credential::bearer("ALBEDO_TEST_KEY", SECRET).expect("a key");
    let backend = OpenAiBackend::with_key(config, Some(key), transport.clone()).expect("builds");
    let cx = CallContext::new();
    let session = backend.load(&ModelSource::served("judge"), &cx).await.expect("loads");
    assert_eq!(ask(&*session, request("x"), &cx).await.expect("an answer").text, "yes");
    let sent = transport.0.lock().expect("no panic");
    let sent: Vec<_> = sent.iter().map(|request| (request.method().as_str(), request.url())).collect();
    assert_eq!(
        sent,
        [("GET", "https://llm.test/v1/models"), ("POST", "https://llm.test/v1/chat/completions")]
    );
}

/// Takes 40 seconds of its clock for each reply.
#[derive(Debug)]
struct Slow(VirtualClock);

#[async_trait]
impl HttpTransport for Slow {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        if request.url().ends_with("/chat/completions") {
            self.0.sleep_until(self.0.now() + Duration::from_secs(40)).await;
        }
        Ok(canned(&request))
    }
}

/// Each has 60 seconds to its first token, and the last one waits for two minutes before it is sent.
#[test]
fn a_request_that_waits_for_its_turn_is_not_timed() {
    let clock = VirtualClock::new();
    let transport = Arc::new(Slow(clock.clone()));
    let resources = Resources::default().with_clock(clock.clone()).with_http(transport);
    let (registry, cx) = (Registry::linked().expect("linked"), CallContext::new());
    let build = BuildContext::new(&registry, &cx).with_resources(resources);
    let config = json!({
        "order": [{ "name": "openai", "base_url": "https://llm.test/v1", "stream": false, "max_in_flight": 1 }],
        "retry": { "attempts": 1 },
    });
    let asked = async {
        let backend = build.build::<dyn ModelBackend>("routes", config).await.expect("builds");
        let session = backend.load(&ModelSource::served("judge"), &cx).await.expect("loads");
        let requests = (0..4).map(|number| request(&format!("question {number}"))).collect();
        session.generate(requests, &cx).collect::<Vec<_>>().await
    };
    let answers = clock.run(asked).expect("nothing waits for ever");
    for Generated { index, result } in answers {
        result.unwrap_or_else(|error| panic!("request {index}: {error}"));
    }
    assert_eq!(clock.now(), Duration::from_secs(4 * 40));
}
