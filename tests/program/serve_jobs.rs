//! Jobs: duels on the models of a server, killed and resumed, and a server's answers to
//! requests that are wrong.
//!
//! `ALBEDO_SERVE_KILLS` sets the number of kills, 10 unless it is set.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use albedo::backends::http::Client;
use albedo::backends::serve::protocol::{
    EngineInfo, GenerateJob, JobRequest, JobStatus, LoadJob, SessionKey,
};
use albedo::events::JobState;
use albedo::http::{Credential, HttpRequest, HttpTransport, Method};
use albedo::rng::{Stream, Use};
use albedo::{CallContext, Digest, GenerateRequest, Message, MessageRole, Record};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::run::{command, demo, root, stdout};

/// A server's process; killed at the end.
pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
    folder: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(crate) fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Settings of a server of the demo's models, as king and challenger, below `folder`.
pub(crate) fn settings(folder: &Path, port: u16, sides: [&str; 2], more: &str) -> PathBuf {
    let model = |side: &str| demo().join("models").join(side);
    let text = format!(
        "listen = \"127.0.0.1:{port}\"\n\
         data = {:?}\n\
         {more}\n\
         [[models]]\nname = \"king\"\npath = {:?}\n\
         [[models]]\nname = \"challenger\"\npath = {:?}\ntext_from = \"king\"\n",
        path(&folder.join("data")),
        path(&model(sides[0])),
        path(&model(sides[1])),
    );
    let path = folder.join("serve.toml");
    fs::write(&path, text).expect("writes");
    path
}

impl Serving {
    /// Starts a server by the settings in `folder` and waits until it is ready.
    pub(crate) fn start(folder: &Path) -> Self {
        let ready = folder.join("ready");
        let _ = fs::remove_file(&ready);
        let (config, ready_file) = (folder.join("serve.toml"), ready.clone());
        let arguments = ["serve", "--config", path(&config), "--ready-file", path(&ready_file)];
        let log = fs::File::create(folder.join("log")).expect("creates");
        let mut command = command(arguments);
        command.env("XDG_CACHE_HOME", folder.join("server-cache")).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("starts");
        let mut serving = Self { child, url: String::new(), folder: folder.to_owned() };
        while !ready.exists() {
            let ended = serving.child.try_wait().expect("asks");
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the server ended: {log}");
            std::thread::yield_now();
        }
        serving.url = fs::read_to_string(&ready).expect("reads");
        serving
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has the server finish what it does, and waits for it.
    pub(crate) fn end(&mut self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success(), "the server was not there");
        let ended = self.child.wait().expect("waits");
        assert!(ended.success(), "{ended}");
    }

    /// The jobs in the store of a server that is not running: kind, state, and how often
    /// each was begun and its result stored.
    pub(crate) fn jobs(&self) -> Vec<(String, String, u32, u32)> {
        let store = Connection::open(self.folder.join("data/jobs.sqlite")).expect("opens");
        let mut rows = store.prepare("SELECT kind, state, runs, stored FROM jobs").expect("prepares");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
        rows.expect("reads").map(|row| row.expect("a row")).collect()
    }
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A duel over the demo's tasks with `contestants`, written into `folder`.
pub(crate) fn duel(folder: &Path, name: &str, contestants: &str) -> PathBuf {
    let text = format!(
        "{contestants}\n\
         [tasks]\nname = \"parquet\"\npath = {:?}\n\
         [[judges]]\nname = \"protocol\"\n\
         [[judges]]\nname = \"reference-likelihood\"\n\
         [duel]\nsamples = 12\nseed = 3\nrule = {{ name = \"margin\" }}\n\
         generation.max_new_tokens = 48\n\
         generation.sampling.temperature = 0.7\n\
         limits.samples_in_flight = 4\n",
        path(&demo().join("tasks")),
    );
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, text).expect("writes");
    path
}

pub(crate) fn local(folder: &Path) -> PathBuf {
    let model = |side: &str| demo().join("models").join(side);
    let (king, challenger) = (model("king"), model("challenger"));
    let contestants = format!("king.path = {:?}\nchallenger.path = {:?}", path(&king), path(&challenger));
    duel(folder, "local", &contestants)
}

fn remote(folder: &Path, backend: &str) -> PathBuf {
    let contestants = "king.name = \"king\"\nchallenger.name = \"challenger\"";
    duel(folder, "remote", &format!("{contestants}\n[backend]\nname = \"serve\"\n{backend}"))
}

/// `albedo duel` with `arguments`, its cache below `folder`.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(["duel"].into_iter().chain(arguments.iter().copied()));
    command.env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

pub(crate) fn record(folder: &Path) -> (Digest, Value) {
    let record = Record::open(folder).expect("a record");
    (record.digest, serde_json::to_value(record.verdict()).expect("writes"))
}

#[test]
fn a_duel_through_a_server_has_the_record_of_the_local_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    settings(folder, 0, ["king", "challenger"], "");
    let mut server = Serving::start(folder);
    let (here, there) = (folder.join("here"), folder.join("there"));
    let config = local(folder);
    stdout(&run(folder, &["--config", path(&config), "--out", path(&here)]).output().expect("runs"));
    let config = remote(folder, &format!("url = {:?}", server.url));
    stdout(&run(folder, &["--config", path(&config), "--out", path(&there)]).output().expect("runs"));
    // Verdict, replies, and everything else that the record holds.
    assert_eq!(record(&there), record(&here));
    server.kill();
    let jobs = server.jobs();
    assert_eq!(jobs.iter().filter(|(kind, ..)| kind == "generate").count(), 24, "{jobs:?}");
    assert!(jobs.iter().all(|(kind, .., stored)| *stored == 1 || kind != "generate"), "{jobs:?}");
    let kept = |(kind, state, ..): &(String, String, u32, u32)| kind == "generate" && state != "acknowledged";
    assert!(!jobs.iter().any(kept), "answers that the journal holds are let go: {jobs:?}");
}

#[test]
fn killed_by_turns_client_and_server_end_with_the_same_record() {
    let kills: usize =
        std::env::var("ALBEDO_SERVE_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let config = local(folder);
    let here = folder.join("here");
    stdout(&run(folder, &["--config", path(&config), "--out", path(&here)]).output().expect("runs"));
    let expected = record(&here);

    let (mut moments, mut killed, mut round) = (Stream::new(7, Use::RowDraw), 0, 0);
    while killed < kills {
        round += 1;
        let base = folder.join(format!("round-{round}"));
        fs::create_dir(&base).expect("a folder");
        settings(&base, port(), ["king", "challenger"], "");
        let mut server = Serving::start(&base);
        let config = remote(&base, &format!("url = {:?}", server.url));
        let out = base.join("duel");
        let journal = out.join("journal.jsonl");
        let written = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
        let begin = || {
            let first = ["--config", path(&config), "--out", path(&out)];
            let again = ["--resume", path(&out)];
            let log = fs::File::create(base.join("client.log")).expect("creates");
            let mut command = if journal.exists() { run(folder, &again) } else { run(folder, &first) };
            if out.exists() && !journal.exists() {
                fs::remove_dir_all(&out).expect("removes what asked nothing");
            }
            command.stdout(Stdio::null()).stderr(log).spawn().expect("starts")
        };
        let mut client = begin();
        for turn in 0..6.min(kills - killed) {
            // A moment within what is left: so many lines of the journal later.
            let moment = written() + moments.below(12) as usize;
            while written() < moment && client.try_wait().expect("asks").is_none() {
                std::thread::yield_now();
            }
            killed += 1;
            if turn % 2 == 0 {
                server.kill();
                server = Serving::start(&base);
            } else {
                client.kill().expect("kills");
                client.wait().expect("ends");
                client = begin();
            }
        }
        let ended = client.wait().expect("ends");
        let log = fs::read_to_string(base.join("client.log")).unwrap_or_default();
        assert!(ended.success(), "the last process finishes the duel: {log}");
        assert_eq!(record(&out), expected, "after {killed} kills");
        server.kill();
        for (kind, state, runs, stored) in server.jobs() {
            let lasting = matches!(kind.as_str(), "generate" | "score");
            assert!(!lasting || stored <= 1, "{kind} {state}: {runs} runs, {stored} results stored");
        }
    }
    println!("{killed} kills in {round} duels, the same record each time");
}

/// The replies that a duel's journal holds.
fn replied(duel: &Path) -> usize {
    fs::read_to_string(duel.join("journal.jsonl")).map_or(0, |text| text.matches("\"replied\"").count())
}

#[test]
fn no_reply_of_another_model_reaches_a_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let port = port();
    settings(folder, port, ["king", "challenger"], "");
    let mut server = Serving::start(folder);
    let config = remote(folder, &format!("url = {:?}", server.url));
    let out = folder.join("duel");
    let log = || fs::File::create(folder.join("client.log")).expect("creates");
    let arguments = ["--config", path(&config), "--out", path(&out)];
    let mut client = run(folder, &arguments).stdout(Stdio::null()).stderr(log()).spawn().expect("starts");
    while replied(&out) < 2 && client.try_wait().expect("asks").is_none() {
        std::thread::yield_now();
    }
    // The king is exchanged behind the client's back: under the same name and address there
    // is another model from now on. One bit of one weight differs.
    server.kill();
    let before = replied(&out);
    let other = folder.join("other");
    copy(&demo().join("models/king"), &other);
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("writes");
    settings(folder, port, [path(&other), "challenger"], "");
    let impostor = Serving::start(folder);
    let ended = client.wait().expect("ends");
    let said = fs::read_to_string(folder.join("client.log")).expect("reads");
    assert!(!ended.success() && !out.join("record.jsonl").exists(), "{said}");
    assert!(said.contains("no model of these parameters is held here"), "{said}");
    // Nor does the duel go on with it.
    let resumed = run(folder, &["--resume", path(&out)]).output().expect("runs");
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(!resumed.status.success() && !out.join("record.jsonl").exists(), "{said}");
    drop(impostor);

    // With the king back it ends as it would have.
    settings(folder, port, ["king", "challenger"], "");
    let _server = Serving::start(folder);
    stdout(&run(folder, &["--resume", path(&out)]).output().expect("runs"));
    let here = folder.join("here");
    let config = local(folder);
    stdout(&run(folder, &["--config", path(&config), "--out", path(&here)]).output().expect("runs"));
    assert_eq!(record(&out), record(&here));
    println!("{before} replies before the models were exchanged");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
}

/// A client that says whatever a test says.
struct Rude {
    url: String,
    client: Client,
    token: Option<Credential>,
}

impl Rude {
    fn new(url: &str, token: Option<&str>) -> Self {
        let token = token.map(|token| Credential::bearer("TOKEN", token).expect("a token"));
        Self { url: url.to_owned(), client: Client::from_env(), token }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> (u16, Value) {
        let request = HttpRequest::new(method, "ask", format!("{}{path}", self.url)).with_body(body);
        let request = match &self.token {
            Some(token) => request.with_credential(token.clone()),
            None => request,
        };
        let mut response = self.client.send(request, &CallContext::new()).await.expect("an answer");
        let body = response.read(64 << 20).await.expect("a body");
        (response.status().as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn put(&self, request: &JobRequest) -> (u16, Value) {
        let id = request.id().expect("an id");
        self.send(Method::PUT, &format!("/v1/jobs/{id}"), albedo::canonical_json(request).expect("writes"))
            .await
    }

    /// Waits for the end of the job and gives its status.
    async fn end(&self, id: Digest) -> JobStatus {
        let url = format!("{}/v1/jobs/{id}/events", self.url);
        let mut response = self.client.send(HttpRequest::get("follow", url), &CallContext::new()).await;
        let events = response.as_mut().expect("an answer").read(64 << 20).await.expect("events");
        assert!(!events.is_empty());
        let (_, status) = self.send(Method::GET, &format!("/v1/jobs/{id}"), Vec::new()).await;
        serde_json::from_value(status).expect("a status")
    }
}

fn question(seed: u64) -> GenerateRequest {
    GenerateRequest::new([Message::new(MessageRole::User, "Which files are there?")], 8).with_seed(seed)
}

#[tokio::test]
async fn requests_that_are_wrong_are_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    settings(folder, 0, ["king", "challenger"], "[limits]\nbody_bytes = 100000\nstreams = 1\nqueue = 1");
    let server = Serving::start(folder);
    let rude = Rude::new(&server.url, None);
    let (code, info) = rude.send(Method::GET, "/v1/engine", Vec::new()).await;
    assert_eq!(code, 200, "{info}");
    let info: EngineInfo = serde_json::from_value(info).expect("what it is");
    let engine = info.engine.digest().expect("a digest");
    let king = SessionKey::new(info.models["king"]);
    let generate =
        |engine, model, seed| JobRequest::Generate(GenerateJob::new(engine, model, &question(seed)));

    // A request without a digest, one that has another digest, and one that is none.
    let good = generate(engine, king, 1);
    let id = good.id().expect("an id");
    let mut without = serde_json::to_value(&good).expect("writes");
    without["model"] = json!({});
    let nameless = Digest::of(albedo::canonical_json(&without).expect("writes"));
    for (id, body) in [
        (nameless, without.to_string()),
        (id, serde_json::to_string(&generate(engine, king, 2)).expect("writes")),
        (id, "{".to_owned()),
        (id, json!({ "job": "shell", "command": "ls" }).to_string()),
    ] {
        let (code, told) = rude.send(Method::PUT, &format!("/v1/jobs/{id}"), body.into_bytes()).await;
        assert_eq!(code, 422, "{told}");
        assert!(
            told["error"]["message"].is_string() && told["error"]["albedo"]["kind"].is_string(),
            "{told}"
        );
    }
    let (code, told) = rude.send(Method::PUT, "/v1/jobs/king", b"{}".to_vec()).await;
    assert_eq!(code, 422, "{told}");
    // Another engine; a model that is not held; a job that nobody asked for.
    let (code, told) = rude.put(&generate(Digest::of("another engine"), king, 1)).await;
    assert_eq!((code, &told["error"]["albedo"]["fault"]), (409, &json!("infrastructure")), "{told}");
    let nobody = SessionKey::new(Digest::of("nobody"));
    assert_eq!(rude.put(&generate(engine, nobody, 1)).await.0, 404);
    let other_text = king.with_text_from(Some(Digest::of("nobody")));
    assert_eq!(rude.put(&generate(engine, other_text, 1)).await.0, 404);
    for tail in ["", "/events", "/result"] {
        assert_eq!(
            rude.send(Method::GET, &format!("/v1/jobs/{id}{tail}"), Vec::new()).await.0,
            404,
            "{tail}"
        );
    }
    assert_eq!(rude.send(Method::DELETE, &format!("/v1/jobs/{id}"), Vec::new()).await.0, 404);
    // A body that is too large.
    let long = GenerateRequest::new([Message::new(MessageRole::User, "x".repeat(200_000))], 8);
    let long = JobRequest::Generate(GenerateJob::new(engine, king, &long));
    assert_eq!(rude.put(&long).await.0, 413);

    // A good one: 201, then 200, and the same result for whoever asks.
    let (code, told) = rude.put(&good).await;
    assert_eq!(code, 201, "{told}");
    let status = rude.end(id).await;
    assert_eq!((status.state, status.runs, status.stored), (JobState::Done, 1, 1), "{status:?}");
    let (_, first) = rude.send(Method::GET, &format!("/v1/jobs/{id}/result"), Vec::new()).await;
    assert_eq!((rude.put(&good).await.0, &first["model"]["parameters"]), (200, &json!(king.parameters)));
    let (_, again) = rude.send(Method::GET, &format!("/v1/jobs/{id}/result"), Vec::new()).await;
    assert_eq!(again, first);
    // Taking back what is not finished leaves it; acknowledging lets it go.
    let unfinished = format!("/v1/jobs/{id}?only=unfinished");
    assert_eq!(rude.send(Method::DELETE, &unfinished, Vec::new()).await.0, 204);
    assert_eq!(rude.end(id).await.state, JobState::Done);
    assert_eq!(rude.send(Method::DELETE, &format!("/v1/jobs/{id}"), Vec::new()).await.0, 204);
    assert_eq!(rude.end(id).await.state, JobState::Acknowledged);

    // A request that the model cannot answer fails with its own error, and is tried again
    // when it is asked for again.
    let empty = JobRequest::Generate(GenerateJob::new(engine, king, &question(1).with_max_new_tokens(0)));
    let empty_id = empty.id().expect("an id");
    assert_eq!(rude.put(&empty).await.0, 201);
    let status = rude.end(empty_id).await;
    assert_eq!((status.state, status.stored), (JobState::Failed, 0), "{status:?}");
    assert!(status.error.is_some_and(|error| error.message.contains("max_new_tokens")));

    // A queue that is full.
    let long = |seed| {
        let request = question(seed).with_max_new_tokens(2000);
        JobRequest::Generate(GenerateJob::new(engine, king, &request))
    };
    let mut codes = Vec::new();
    for seed in 100..110 {
        codes.push(rude.put(&long(seed)).await.0);
    }
    assert!(codes.contains(&201) && codes.contains(&429), "{codes:?}");
    for seed in 100..110 {
        let id = long(seed).id().expect("an id");
        rude.send(Method::DELETE, &format!("/v1/jobs/{id}"), Vec::new()).await;
    }
    // Loading is a job like any other, and says how things are.
    let load = JobRequest::Load(LoadJob { engine, model: king, after_overflow: None });
    assert_eq!(rude.put(&load).await.0, 201);
    let id = load.id().expect("an id");
    assert_eq!(rude.end(id).await.state, JobState::Done);
    assert_eq!(rude.put(&load).await.0, 200);
    let status = rude.end(id).await;
    assert_eq!((status.state, status.runs), (JobState::Done, 2), "{status:?}");
}

#[tokio::test]
async fn without_the_token_nothing_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    settings(folder, 0, ["king", "challenger"], "token_env = \"ALBEDO_TEST_SERVE_TOKEN\"");
    let secret = folder.join("token");
    fs::write(&secret, "a token of the test\n").expect("writes");
    let ready = folder.join("ready");
    let mut child =
        command(["serve", "--config", path(&folder.join("serve.toml")), "--ready-file", path(&ready)])
            .env("ALBEDO_TEST_SERVE_TOKEN_FILE", &secret)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
    while !ready.exists() {
        assert!(child.try_wait().expect("asks").is_none(), "the server ended");
        std::thread::yield_now();
    }
    let url = fs::read_to_string(&ready).expect("reads");
    let id = Digest::of("x");
    for token in [None, Some("another token")] {
        let rude = Rude::new(&url, token);
        for (method, path) in [
            (Method::GET, "/v1/engine".to_owned()),
            (Method::PUT, format!("/v1/jobs/{id}")),
            (Method::GET, format!("/v1/jobs/{id}/events")),
            (Method::GET, format!("/v1/files/{id}")),
            (Method::DELETE, format!("/v1/jobs/{id}")),
        ] {
            assert_eq!(rude.send(method, &path, Vec::new()).await.0, 401, "{path}");
        }
    }
    let known = Rude::new(&url, Some("a token of the test"));
    assert_eq!(known.send(Method::GET, "/v1/engine", Vec::new()).await.0, 200);
    child.kill().expect("kills");
    child.wait().expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms_over_a_real_server() {
    use albedo::backends::serve::{ServeBackend, ServeConfig};
    use albedo::conformance::{BackendFixture, SessionFixture, check_backend};
    use albedo::registry::{Resources, SystemSecrets};
    use albedo::server::{ServedModelConfig, Server, ServerConfig};
    use albedo::{BuildContext, ModelSource, Registry};

    let folder = tempfile::tempdir().expect("a folder");
    let (registry, stop) = (Registry::linked().expect("a registry"), CallContext::new());
    let config = ServerConfig {
        listen: "127.0.0.1:0".into(),
        models: vec![ServedModelConfig::folder("king", root().join("examples/demo/models/king"))],
        ..ServerConfig::default()
    };
    let resources = Resources::default().with_cache_dir(folder.path());
    let build = BuildContext::new(&registry, &stop).with_resources(resources.clone());
    let server = Server::bind(&config, &build).await.expect("binds");
    let url = server.url();
    let mut serving = tokio::task::JoinSet::new();
    let stopped = stop.clone();
    serving.spawn(async move { server.run(&stopped).await });
    let cx = CallContext::new();
    let build = BuildContext::new(&registry, &cx).with_resources(resources);
    let backend = ServeBackend::connect(&ServeConfig::at(url), &SystemSecrets::from_env(), &build).await;
    let user = |content: &str| vec![Message::new(MessageRole::User, content)];
    let conversations = vec![
        user("Which files are there?"),
        user("one two three four five six seven eight nine ten eleven twelve"),
        vec![
            Message::new(MessageRole::System, "You repair small Python projects."),
            Message::new(MessageRole::User, "List them."),
        ],
    ];
    let session = SessionFixture { replies: replies(&registry).await, ..SessionFixture::new(conversations) };
    let fixture = BackendFixture {
        model: ModelSource::served("king"),
        missing: ModelSource::served("nobody"),
        session,
    };
    let backend: Arc<dyn albedo::ModelBackend> = Arc::new(backend.expect("connects"));
    Box::pin(check_backend(&*backend, &fixture)).await.expect("conforms");
    drop(backend);
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_mins(1), serving.join_next()).await;
    ended.expect("stops").expect("ran").expect("no panic").expect("no error");
}

/// Replies to score, each with its number of tokens, as the engine in this process counts
/// them.
async fn replies(registry: &albedo::Registry) -> Vec<(String, usize)> {
    let cx = CallContext::new();
    let backend = registry.build::<dyn albedo::ModelBackend>("burn", json!({}), &cx).await.expect("builds");
    let king = albedo::ModelSource::new(demo().join("models/king"));
    let session = backend.load(&king, &cx).await.expect("loads");
    let mut replies = Vec::new();
    for reply in ["THOUGHT: I list its files first.\n\n```bash\nls\n```", "", "naïve 日本"] {
        let request = albedo::ScoreRequest::new(question(0).messages, reply);
        let scores = session.score(vec![request], &cx).await.expect("scores");
        replies.push((reply.to_owned(), scores[0].log_probs.len() - 1));
    }
    replies
}
