//! Servers that lie, forget, fail and come back, behind a scripted transport.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use albedo_core::error::{Artefact, Side};
use albedo_core::events::{Collected, Event, JobEvent, JobState};
use albedo_core::http::{HeaderMap, HttpRequest, HttpResponse, Method, StatusCode};
use albedo_core::{
    Build, Completion, EventKind, FinishReason, GenerateRequest, Message, MessageRole, ModelInfo,
    ModelSessionExt as _, Registry, Resources, Usage, VirtualClock,
};
use serde_json::{Value, json};

use super::protocol::{
    AnsweringModel, EngineIdentity, JobResult, JobStatus, TEXT_FILES, TextFile, VERSION, WireError,
};
use super::*;
use crate::http::scripted::Silent;
use crate::text::ChatText;

/// What a scripted server does otherwise than an honest one.
type Lie = dyn Fn(&Server, &JobRequest, JobResult) -> JobResult + Send + Sync;

/// A server in memory, whose engine answers every conversation with the same words.
struct Scripted {
    state: Mutex<Server>,
    lie: Box<Lie>,
    /// Answers in place of the server's: status and body, the next one first.
    refusals: Mutex<Vec<(u16, Value)>>,
    /// The same in place of the events of a job.
    events: Mutex<Vec<(u16, &'static str)>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[derive(Debug, Clone)]
struct Server {
    engine: EngineIdentity,
    /// Parameters by name.
    models: BTreeMap<String, Digest>,
    jobs: BTreeMap<Digest, Known>,
    /// The requests that were sent, in order: method, path, and job kind.
    seen: Vec<String>,
    computed: usize,
}

#[derive(Debug, Clone)]
struct Known {
    state: JobState,
    result: Option<JobResult>,
    error: Option<WireError>,
    events: u64,
}

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king")
}

fn text_files() -> BTreeMap<String, TextFile> {
    let files = TEXT_FILES.iter().filter_map(|name| Some((*name, fs::read(demo().join(name)).ok()?)));
    files
        .map(|(name, bytes)| {
            (name.to_owned(), TextFile { size: bytes.len() as u64, sha256: Digest::of(&bytes) })
        })
        .collect()
}

fn king() -> Digest {
    Digest::of("the king's parameters")
}

fn info(parameters: Digest) -> ModelInfo {
    let text = ChatText::load(&demo(), None).expect("loads");
    ModelInfo::new(parameters, "Qwen3ForCausalLM", 4096).with_parameter_count(1).with_text(
        text.tokenizer_digest(),
        text.template_digest(),
        text.stop_ids().to_vec(),
    )
}

fn engine() -> EngineIdentity {
    EngineIdentity {
        backend: Identity::new("burn", "0.1.0", &json!({ "device": "cpu" })).expect("an identity"),
        build: Build::default(),
        device: None,
    }
}

fn honest() -> Box<Lie> {
    Box::new(|_, _, result| result)
}

impl Scripted {
    fn new(lie: Box<Lie>) -> Arc<Self> {
        let state = Server {
            engine: engine(),
            models: BTreeMap::from([("king".into(), king())]),
            jobs: BTreeMap::new(),
            seen: Vec::new(),
            computed: 0,
        };
        Arc::new(Self { state: Mutex::new(state), lie, refusals: Mutex::default(), events: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Server> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, what: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.starts_with(what)).count()
    }

    /// What an honest server makes of `request`.
    fn perform(&self, id: Digest, request: &JobRequest) -> Known {
        let mut server = self.state();
        let engine = server.engine.digest().expect("a digest");
        let parameters = request.session().map(|key| key.parameters);
        let model = parameters.map(info);
        let outcome = match request {
            JobRequest::Load(_) => JobOutcome::Loaded(LoadedModel {
                model: model.clone().expect("names a model"),
                text: text_files(),
                date: None,
            }),
            JobRequest::Generate(_) => {
                server.computed += 1;
                let usage = Usage::counted(7, 2).with_price(0.0);
                JobOutcome::Generated(
                    Completion::new("ls", FinishReason::Stop, usage).with_tokens(vec![1, 2]),
                )
            }
            JobRequest::Hold(_) => JobOutcome::Held(protocol::HeldModel { parameters: king() }),
            _ => JobOutcome::Released,
        };
        let result = JobResult { job: id, engine, model: model.as_ref().map(AnsweringModel::from), outcome };
        let result = (self.lie)(&server, request, result);
        Known { state: JobState::Done, result: Some(result), error: None, events: 3 }
    }

    fn answer(&self, request: &HttpRequest) -> (u16, Vec<u8>) {
        let path = request.url().split_once("//").and_then(|(_, rest)| rest.split_once('/'));
        let path = format!("/{}", path.map_or("", |(_, path)| path));
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let id = parts.get(2).and_then(|id| id.parse::<Digest>().ok());
        let asked = serde_json::from_slice::<JobRequest>(request.body()).ok();
        let kind = asked.as_ref().map_or(String::new(), |asked| asked.kind().to_owned());
        let tail = parts.get(3).copied().unwrap_or_default();
        self.state().seen.push(format!("{} {} {kind}{tail}{query}", request.method(), parts[1]));
        if *request.method() == Method::PUT
            && kind == "generate"
            && let Some((status, body)) = self.refusals.lock().expect("no panic").pop()
        {
            return (status, body.to_string().into_bytes());
        }
        if tail == "events"
            && let Some((status, body)) = self.events.lock().expect("no panic").pop()
        {
            return (status, body.as_bytes().to_vec());
        }
        let json = |value: &Value| (200, value.to_string().into_bytes());
        match (request.method().as_str(), parts[1], id, tail) {
            ("GET", "engine", ..) => {
                let server = self.state();
                let info = EngineInfo {
                    version: VERSION,
                    engine: server.engine.clone(),
                    models: server.models.clone(),
                };
                json(&serde_json::to_value(info).expect("writes"))
            }
            ("GET", "files", Some(sha256), _) => {
                let name = text_files().into_iter().find(|(_, file)| file.sha256 == sha256);
                match name {
                    Some((name, _)) => (200, fs::read(demo().join(name)).expect("reads")),
                    None => (404, Vec::new()),
                }
            }
            ("PUT", "jobs", Some(id), _) => {
                let request = JobRequest::read(id, request.body()).expect("a request under its digest");
                let known = self.state().jobs.get(&id).cloned();
                let known = match known {
                    Some(known) if known.state == JobState::Done && request.is_lasting() => known,
                    _ => self.perform(id, &request),
                };
                self.state().jobs.insert(id, known.clone());
                // The client has to follow it.
                let status = status(id, &request, &known, JobState::Running);
                json(&serde_json::to_value(status).expect("writes"))
            }
            ("GET", "jobs", Some(id), "events") => {
                let known = self.state().jobs[&id].clone();
                let event = JobEvent { job: id, kind: "generate".into(), state: known.state, error: None };
                let event = Event::new(None, EventKind::Job(event));
                let mut line = serde_json::to_value(&event).expect("writes");
                line["number"] = json!(known.events + 1);
                (200, format!("{}\n{line}\n", json!({ "heartbeat": known.events })).into_bytes())
            }
            ("GET", "jobs", Some(id), "result") => {
                let known = self.state().jobs[&id].clone();
                json(&serde_json::to_value(known.result.expect("is done")).expect("writes"))
            }
            ("GET", "jobs", Some(id), _) => {
                let known = self.state().jobs[&id].clone();
                let request = JobRequest::Release(protocol::ReleaseJob { engine: id, label: String::new() });
                json(&serde_json::to_value(status(id, &request, &known, known.state)).expect("writes"))
            }
            ("DELETE", "jobs", ..) => (204, Vec::new()),
            _ => (404, Vec::new()),
        }
    }
}

fn status(job: Digest, request: &JobRequest, known: &Known, state: JobState) -> JobStatus {
    JobStatus {
        job,
        kind: request.kind().into(),
        state,
        runs: 1,
        stored: 1,
        events: known.events,
        error: known.error.clone(),
    }
}

#[async_trait]
impl HttpTransport for Scripted {
    async fn send(&self, request: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        let (status, body) = self.answer(&request);
        Ok(HttpResponse::whole(StatusCode::from_u16(status).expect("a status"), HeaderMap::new(), body))
    }
}

/// A client of `server`, on a clock whose time passes by itself.
struct Client {
    backend: ServeBackend,
    _cache: tempfile::TempDir,
}

/// Time passes at once where somebody waits.
#[derive(Debug, Clone, Default)]
struct Hurried(Arc<std::sync::atomic::AtomicU64>);

impl Clock for Hurried {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn sleep_until(&self, at: Duration) -> futures::future::BoxFuture<'static, ()> {
        let now = Arc::clone(&self.0);
        Box::pin(async move {
            // After everything that is ready.
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            now.fetch_max(at.as_millis() as u64, std::sync::atomic::Ordering::SeqCst);
        })
    }
}

async fn connect(server: &Arc<Scripted>, config: ServeConfig) -> Result<Client> {
    let cache = tempfile::tempdir().expect("a folder");
    let resources = Resources::default()
        .with_cache_dir(cache.path())
        .with_clock(Hurried::default())
        .with_http(Arc::clone(server) as Arc<dyn HttpTransport>);
    let (registry, cx) = (Registry::empty(), CallContext::new());
    let build = BuildContext::new(&registry, &cx).with_resources(resources);
    let backend = ServeBackend::open(&config, None, Arc::clone(server) as _, &build).await?;
    Ok(Client { backend, _cache: cache })
}

fn config() -> ServeConfig {
    ServeConfig { patience_secs: 60.0, ..ServeConfig::at("http://127.0.0.1:8080") }
}

async fn session(server: &Arc<Scripted>) -> (Client, Arc<dyn ModelSession>) {
    let client = connect(server, config()).await.expect("connects");
    let loaded = client.backend.load(&ModelSource::served("king"), &CallContext::new()).await;
    (client, loaded.expect("loads"))
}

fn question() -> GenerateRequest {
    GenerateRequest::new([Message::new(MessageRole::User, "Which files are there?")], 8)
}

/// What asking the king through `server` comes to.
async fn ask(server: &Arc<Scripted>) -> Result<Completion> {
    let (_client, session) = session(server).await;
    session.generate_one(question(), &CallContext::new()).await
}

/// The infrastructure's, not to be tried again, and the end of the duel.
fn is_refused(error: &Error, words: &str) {
    assert!(error.to_string().contains(words), "{error}");
    let charged = error.clone().charged_to(|_| Side::Challenger).fault();
    assert_eq!((error.fault(), charged), (Fault::Infrastructure, Fault::Infrastructure), "{error}");
    assert_eq!(error.reach(), Reach::Duel, "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_model_at_a_server_answers_and_counts_with_its_own_tokenizer() {
    let server = Scripted::new(honest());
    let (client, session) = session(&server).await;
    assert_eq!(client.backend.identity(), &engine().backend, "what the plan names is the engine");
    assert_eq!(client.backend.max_in_flight(), Some(128), "for `routes`, which lets no more through");
    let completion = session.generate_one(question(), &CallContext::new()).await.expect("answers");
    assert_eq!(completion.text, "ls");
    let here = ChatText::load(&demo(), None).expect("loads");
    let tokens = here.encode_prompt(&question().messages).expect("encodes");
    assert_eq!(session.prompt_tokens(&question().messages).expect("counts"), Some(tokens));
    // Asked again, the stored result is found; the files are in the cache.
    session.generate_one(question(), &CallContext::new()).await.expect("answers");
    let computed = server.state().computed;
    assert_eq!((computed, server.seen("GET files")), (1, text_files().len()));
}

#[tokio::test]
async fn a_kept_answer_is_acknowledged_and_one_that_nobody_waits_for_is_taken_back() {
    let server = Scripted::new(honest());
    let (_client, session) = session(&server).await;
    session.generate_one(question(), &CallContext::new()).await.expect("answers");
    assert_eq!(server.seen("DELETE"), 0, "not before it is kept");
    session.kept(&question());
    while server.seen("DELETE jobs ") == 0 {
        tokio::task::yield_now().await;
    }
    let other = question().with_seed(9);
    // Dropped before it was asked for: nobody hears of it.
    drop(session.generate(vec![other], &CallContext::new()));
    let cx = CallContext::new();
    cx.cancel();
    let error = session.generate_one(question().with_seed(10), &cx).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn no_reply_of_another_model_is_taken() {
    let other = Digest::of("another model");
    let cases: [(&str, Box<Lie>); 6] = [
        (
            // The king was exchanged behind the client's back.
            "the answer of another model",
            Box::new(move |_, request, mut result| {
                if matches!(request, JobRequest::Generate(_)) {
                    result.model = Some(AnsweringModel::from(&info(other)));
                }
                result
            }),
        ),
        (
            "the answer of another model",
            Box::new(|_, request, mut result| {
                if matches!(request, JobRequest::Generate(_)) {
                    result.model = None;
                }
                result
            }),
        ),
        (
            // It answers with the result of an older job.
            "the answer to another job",
            Box::new(|_, request, mut result| {
                if matches!(request, JobRequest::Generate(_)) {
                    result.job = Digest::of("an older job");
                }
                result
            }),
        ),
        (
            // Another engine took over the address.
            "the answer of another engine",
            Box::new(|_, request, mut result| {
                if matches!(request, JobRequest::Generate(_)) {
                    result.engine = Digest::of("another engine");
                }
                result
            }),
        ),
        (
            "with other text files",
            Box::new(|_, request, mut result| {
                if let (JobRequest::Generate(_), Some(model)) = (request, &mut result.model) {
                    model.chat_template = Digest::of("another template");
                }
                result
            }),
        ),
        (
            "the answer to another kind of job",
            Box::new(|_, request, mut result| {
                if matches!(request, JobRequest::Generate(_)) {
                    result.outcome = JobOutcome::Scored(vec![]);
                }
                result
            }),
        ),
    ];
    for (words, lie) in cases {
        let error = ask(&Scripted::new(lie)).await.expect_err(words);
        is_refused(&error, words);
    }
}

#[tokio::test]
async fn no_other_model_is_loaded() {
    let change = |change: fn(&mut LoadedModel)| -> Box<Lie> {
        Box::new(move |_, _, mut result| {
            if let JobOutcome::Loaded(loaded) = &mut result.outcome {
                change(loaded);
            }
            result
        })
    };
    for (words, lie) in [
        ("another model", change(|loaded| loaded.model.parameters = Digest::of("another model"))),
        (
            "other text files than the server hands out",
            change(|loaded| loaded.model.tokenizer = Digest::of("another tokenizer")),
        ),
        ("other text files than the server hands out", change(|loaded| loaded.model.stop_ids = vec![1])),
        (
            "a text file that no model has",
            change(|loaded| {
                let file = TextFile { size: 1, sha256: Digest::of("x") };
                loaded.text.insert("../../.ssh/authorized_keys".into(), file);
            }),
        ),
        (
            "a text file with another digest",
            change(|loaded| {
                for file in loaded.text.values_mut() {
                    file.size += 1;
                }
            }),
        ),
    ] {
        let server = Scripted::new(lie);
        let client = connect(&server, config()).await.expect("connects");
        let loaded = client.backend.load(&ModelSource::served("king"), &CallContext::new()).await;
        is_refused(&loaded.expect_err(words), words);
    }
}

#[tokio::test]
async fn servers_and_models_that_are_not_meant_are_the_operators() {
    let server = Scripted::new(honest());
    let pinned = ServeConfig { engine: Some(Digest::of("another engine")), ..config() };
    let error = connect(&server, pinned).await.map(drop).expect_err("another engine");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Operator), "{error}");
    let client = connect(&server, config()).await.expect("connects");
    let load = async |source: ModelSource| {
        client.backend.load(&source, &CallContext::new()).await.map(drop).expect_err("refused")
    };
    let error = load(ModelSource::served("nobody")).await;
    assert!(error.to_string().contains("it offers king"), "{error}");
    assert_eq!(error.fault(), Fault::Operator);
    let error = load(ModelSource::new(std::path::Path::new("models/king"))).await;
    assert!(error.to_string().contains("a folder of this machine"), "{error}");
    let pinned = Some(Digest::of("another model"));
    let error = load(ModelSource { parameters: pinned, ..ModelSource::served("king") }).await;
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Operator), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_and_then_ends_the_duel() {
    let server = Scripted::new(honest());
    let (_client, session) = session(&server).await;
    let refuse = |times: usize, status: u16| {
        *server.refusals.lock().expect("no panic") = vec![(status, json!({})); times];
    };
    refuse(5, 503);
    session.generate_one(question(), &CallContext::new()).await.expect("answers once it is back");
    refuse(1000, 502);
    let error = session.generate_one(question(), &CallContext::new()).await.expect_err("is gone");
    assert_eq!((error.fault(), error.reach()), (Fault::Infrastructure, Reach::Duel), "{error}");
    assert!(matches!(error.retry(), albedo_core::Retry::Exhausted { .. }), "{error:#?}");
}

#[tokio::test]
async fn a_server_that_takes_a_job_and_gets_on_with_nothing_ends_the_duel() {
    let server = Scripted::new(honest());
    let (_client, session) = session(&server).await;
    *server.events.lock().expect("no panic") = vec![(503, ""); 1000];
    let error = session.generate_one(question(), &CallContext::new()).await.expect_err("no events");
    assert_eq!((error.fault(), error.reach()), (Fault::Infrastructure, Reach::Duel), "{error}");
    assert!(matches!(error.retry(), Retry::Exhausted { .. }), "{error:#?}");
    let asked = server.seen("PUT jobs generate");
    assert!((10..30).contains(&asked), "the pauses grow: {asked} tries within a minute");

    // One that says that it lives has all the time it wants.
    *server.events.lock().expect("no panic") = vec![(200, "{\"heartbeat\":3}\n"); 100];
    let completion = session.generate_one(question(), &CallContext::new()).await.expect("answers");
    assert_eq!(completion.text, "ls");
}

#[tokio::test]
async fn a_pause_that_never_ends_ends_the_duel() {
    let server = Scripted::new(honest());
    let (_client, session) = session(&server).await;
    let busy = Error::new(ErrorKind::Unavailable, "do the job", "busy");
    let busy = busy.with_retry(Retry::After(Duration::MAX));
    let body = json!({ "error": { "message": "x", "albedo": WireError::from(&busy) } });
    *server.refusals.lock().expect("no panic") = vec![(503, body)];
    let error = session.generate_one(question(), &CallContext::new()).await.expect_err("never");
    assert!(matches!(error.retry(), Retry::Exhausted { attempts: 1 }), "{error:#?}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_and_a_stop_ends_the_wait() {
    let registry = Registry::empty();
    for has_head in [false, true] {
        let connect = async |resources: Resources, cx: &CallContext| {
            let build = BuildContext::new(&registry, cx).with_resources(resources);
            let opened = ServeBackend::open(&config(), None, Arc::new(Silent { has_head }), &build).await;
            opened.map(drop).expect_err("nobody answers")
        };
        let error = connect(Resources::default().with_clock(Hurried::default()), &CallContext::new()).await;
        assert!(error.to_string().contains("fell silent"), "{error}");
        assert!(matches!(error.retry(), Retry::Exhausted { .. }), "{error:#?}");

        // By a clock that stands still.
        let (resources, cx) = (Resources::default().with_clock(VirtualClock::new()), CallContext::new());
        let (error, ()) = futures::join!(connect(resources, &cx), async { cx.cancel() });
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_the_server_said() {
    let server = Scripted::new(honest());
    let (_client, session) = session(&server).await;
    for (status, error) in [
        (
            409,
            Error::new(ErrorKind::Conflict, "do the job", "another engine").with_fault(Fault::Infrastructure),
        ),
        (404, Error::new(ErrorKind::NotFound, "find a model", "it is not held here")),
        (422, Error::new(ErrorKind::DataInvalid, "read a job's request", "no digest")),
    ] {
        let body = json!({ "error": { "message": "x", "albedo": WireError::from(&error) } });
        *server.refusals.lock().expect("no panic") = vec![(status, body)];
        let told = session.generate_one(question(), &CallContext::new()).await.expect_err("refused");
        assert_eq!((told.kind(), told.fault(), told.reach()), (error.kind(), error.fault(), error.reach()));
        assert!(told.to_string().contains(error.message()), "{told}");
        assert_eq!(server.seen("PUT jobs generate"), 1, "not asked twice");
        server.state().seen.clear();
    }
    *server.refusals.lock().expect("no panic") = vec![(401, json!({ "error": { "message": "who?" } }))];
    let told = session.generate_one(question(), &CallContext::new()).await.expect_err("refused");
    assert_eq!((told.fault(), told.reach()), (Fault::Operator, Reach::Duel), "{told}");
}

#[tokio::test]
async fn a_failed_job_has_its_own_error_and_an_overflow_asks_for_a_fresh_load() {
    let overflow = serde_json::from_value(json!({ "step": "reply", "position": 7, "place": "logits" }));
    let overflow = Error::overflowed("write a reply", overflow.expect("an overflow"));
    let server = Scripted::new(honest());
    let (client, session) = session(&server).await;
    let body = json!({ "error": { "message": "x", "albedo": WireError::from(&overflow) } });
    *server.refusals.lock().expect("no panic") = vec![(422, body)];
    let error = session.generate_one(question(), &CallContext::new()).await.expect_err("overflows");
    assert_eq!((error.overflow(), error.artefact()), (overflow.overflow(), Some(Artefact::Model)));
    // The duel loads the model again, which has to be loaded afresh.
    let loads = |server: &Scripted| server.state().jobs.len();
    let before = loads(&server);
    client.backend.load(&ModelSource::served("king"), &CallContext::new()).await.expect("loads");
    assert_eq!(loads(&server), before + 1, "a load of its own");
    client.backend.load(&ModelSource::served("king"), &CallContext::new()).await.expect("loads");
    assert_eq!(loads(&server), before + 1, "and no other after it");
}

#[tokio::test]
async fn a_held_model_that_is_gone_is_held_again() {
    let server = Scripted::new(honest());
    let client = connect(&server, config()).await.expect("connects");
    let reference: HubRef =
        format!("owner/model@sha256:{}", Digest::of("manifest")).parse().expect("a reference");
    let cx = CallContext::new();
    let session = client.backend.load(&ModelSource::new(reference), &cx).await.expect("loads");
    let gone = Error::new(ErrorKind::NotFound, "find a model", "no model of these parameters is held here");
    let body = json!({ "error": { "message": "x", "albedo": WireError::from(&gone) } });
    *server.refusals.lock().expect("no panic") = vec![(404, body)];
    let events = Arc::new(Collected::default());
    let completion = session.generate_one(question(), &cx.with_events(events)).await.expect("answers");
    assert_eq!(completion.text, "ls");
    assert_eq!((server.seen("PUT jobs hold"), server.seen("PUT jobs load")), (2, 2));
    drop((session, client));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let check = |config: Value| {
        let config: ServeConfig = serde_json::from_value(config).expect("reads");
        config.check().expect_err("refused").to_string()
    };
    let url = "http://127.0.0.1:8080";
    for (settings, words) in [
        (json!({}), "nothing names the server"),
        (json!({ "url": url, "nats": { "url": "nats://127.0.0.1" } }), "both name the server"),
        (json!({ "url": url, "token_env": "sk-hush" }), "`token_env` is no variable's name"),
        (json!({ "url": url, "max_in_flight": 0 }), "it must be 1 to 1024"),
        (json!({ "url": url, "patience_secs": 0 }), "above 0"),
        (json!({ "nats": { "url": "nats://me:secret@host" } }), "key: nats.url"),
        (json!({ "nats": { "url": "nats://host", "prefix": "a.b" } }), "key: nats.prefix"),
    ] {
        let error = check(settings);
        assert!(error.contains(words) && !error.contains("hush") && !error.contains("secret"), "{error}");
    }
}
