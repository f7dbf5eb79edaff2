//! Jobs over NATS JetStream: several workers, which are killed, cut off and started again,
//! and a broker that is killed, too. Skipped where there is no `nats-server`.
//!
//! `ALBEDO_NATS_JOBS`, `ALBEDO_NATS_WORKER_KILLS` and `ALBEDO_NATS_BROKER_KILLS` set the
//! numbers: 60, 4 and 1 unless they are set.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use albedo::backends::http::Client;
use albedo::backends::serve::nats::{Fleet, JobMessage, ResultMessage};
use albedo::backends::serve::protocol::{
    GenerateJob, JobOutcome, JobRequest, JobResult, LoadJob, SessionKey,
};
use albedo::backends::serve::{NatsConfig, ServeBackend, ServeConfig};
use albedo::events::Collected;
use albedo::http::{HttpRequest, HttpTransport};
use albedo::registry::{Resources, SystemSecrets};
use albedo::{
    BuildContext, CallContext, Completion, Digest, EventKind, GenerateRequest, Message, MessageRole,
    ModelBackend, ModelSession, ModelSource, Registry, Sampling, canonical_json,
};
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::run::demo;
use crate::serve_jobs::{Serving, copy, path, settings};

/// A broker; killed at the end.
struct Broker {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Broker {
    /// None where there is no `nats-server`.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        match spawn(port, folder.path()) {
            Ok(child) => Some(Self { child, port, folder }),
            Err(error) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "skipped: there is no `nats-server` here ({error}); Debian has the package of that name"
                );
                None
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, self.folder.path()).expect("starts");
    }

    fn config(&self) -> NatsConfig {
        serde_json::from_value(json!({
            "url": format!("nats://127.0.0.1:{}", self.port),
            "ack_wait_secs": 5.0,
        }))
        .expect("settings")
    }

    async fn fleet(&self) -> Fleet {
        let cx = CallContext::new();
        loop {
            match Fleet::connect(&self.config(), None, &cx).await {
                Ok(fleet) => return fleet,
                // It is not there yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

fn spawn(port: u16, folder: &Path) -> std::io::Result<Child> {
    let server = ["nats-server", "/usr/sbin/nats-server"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    });
    server.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// A way to a broker that can be cut: what is sent meanwhile arrives afterwards, as TCP
/// has it after a partition of the network.
struct Cable {
    port: u16,
    is_whole: watch::Sender<bool>,
    _connections: JoinSet<()>,
}

impl Cable {
    async fn to(broker: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (is_whole, whole) = watch::channel(true);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let whole = whole.clone();
                open.spawn(async move {
                    // The broker may be down: the worker tries again.
                    let Ok(far) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
                    let ((near_read, near_write), (far_read, far_write)) =
                        (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(near_read, far_write, whole.clone()) => {}
                        () = carry(far_read, near_write, whole) => {}
                    }
                });
            }
        });
        Self { port, is_whole, _connections: connections }
    }

    fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if whole.wait_for(|whole| *whole).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |number| number.parse().expect("a number"))
}

fn request(seed: u64) -> GenerateRequest {
    let question = format!("Which files are there? The folder is number {seed}.");
    GenerateRequest::new([Message::new(MessageRole::User, question)], 6)
        .with_sampling(Sampling { temperature: 1.0, ..Sampling::default() })
        .with_seed(seed)
}

/// A worker in `folder`, whose broker is at `port`. It has few jobs in its hands: each of
/// them loses one of its five deliveries when the worker is killed.
fn worker(folder: &Path, port: u16) -> Serving {
    worker_of(["king", "challenger"], "", folder, port)
}

/// The same with the models `sides` and further `limits`.
fn worker_of(sides: [&str; 2], limits: &str, folder: &Path, port: u16) -> Serving {
    fs::create_dir_all(folder).expect("a folder");
    let nats = format!("[nats]\nurl = \"nats://127.0.0.1:{port}\"\nack_wait_secs = 5.0\n");
    settings(folder, 0, sides, &format!("[limits]\nstreams = 4\n{limits}{nats}"));
    Serving::start(folder)
}

/// How many models `worker` has loaded since it started.
async fn loads(worker: &Serving) -> u32 {
    let request = HttpRequest::get("count the loads", format!("{}/metrics", worker.url));
    let mut answer = Client::from_env().send(request, &CallContext::new()).await.expect("an answer");
    let metrics = String::from_utf8(answer.read(1 << 20).await.expect("a body")).expect("UTF-8");
    let count = metrics.lines().find_map(|line| line.strip_prefix("albedo_model_load_seconds_count "));
    count.expect("the count of loads").parse().expect("a number")
}

async fn connect(broker: &Broker, cache: &Path) -> ServeBackend {
    let (registry, cx) = (Registry::linked().expect("a registry"), CallContext::new());
    let build = BuildContext::new(&registry, &cx).with_resources(Resources::default().with_cache_dir(cache));
    let config = ServeConfig { nats: Some(broker.config()), patience_secs: 120.0, ..ServeConfig::default() };
    ServeBackend::connect(&config, &SystemSecrets::from_env(), &build).await.expect("connects")
}

/// What one host alone answers.
async fn expected(requests: &[GenerateRequest]) -> Vec<Completion> {
    let (registry, cx) = (Registry::linked().expect("a registry"), CallContext::new());
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await.expect("builds");
    let king = ModelSource::new(demo().join("models/king"));
    let session = backend.load(&king, &cx).await.expect("loads");
    let answers: BTreeMap<_, _> = session
        .generate(requests.to_vec(), &cx)
        .map(|answer| (answer.index, answer.result.expect("answers")))
        .collect()
        .await;
    answers.into_values().collect()
}

/// Posts `job` as it is, without what would make the broker drop it as posted already.
async fn post(fleet: &Fleet, job: &JobRequest) -> Digest {
    let (id, body) = (job.id().expect("an id"), canonical_json(job).expect("writes"));
    let message =
        JobMessage { job: id, request: fleet.body(body).await.expect("a body"), references: vec![] };
    let bytes = serde_json::to_vec(&message).expect("writes");
    let sent = fleet.context().publish(fleet.jobs(job.engine()), bytes.into()).await.expect("sends");
    sent.await.expect("is stored");
    id
}

/// The queue of the workers of `engine`.
async fn workers_queue(fleet: &Fleet, engine: Digest) -> PullConsumer {
    let stream = fleet.context().get_stream(fleet.queue()).await.expect("a stream");
    stream.get_consumer(&format!("engine-{}", engine.short())).await.expect("the workers' consumer")
}

/// Waits until nothing waits in `queue` and nothing of it is under way.
async fn empty(queue: &mut PullConsumer) {
    loop {
        let info = queue.info().await.expect("what it has");
        if (info.num_pending, info.num_ack_pending) == (0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_broker_may_die_and_every_result_is_used_once() {
    let Some(mut broker) = Broker::start() else { return };
    let jobs = number("ALBEDO_NATS_JOBS", 60);
    let (worker_kills, broker_kills) =
        (number("ALBEDO_NATS_WORKER_KILLS", 4), number("ALBEDO_NATS_BROKER_KILLS", 1));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let fleet = Box::pin(broker.fleet()).await;
    let places: Vec<_> = (0..3).map(|place| folder.join(format!("worker-{place}"))).collect();
    let cable = Cable::to(broker.port).await;
    let ports = [broker.port, broker.port, cable.port];
    let start = |place: usize| {
        let (folder, port) = (places[place].clone(), ports[place]);
        tokio::task::spawn_blocking(move || worker(&folder, port))
    };
    let mut workers = Vec::new();
    for place in 0..3 {
        workers.push(start(place).await.expect("starts"));
    }
    let backend = connect(&broker, &folder.join("cache")).await;
    let session = backend.load(&ModelSource::served("king"), &CallContext::new()).await.expect("loads");
    let requests: Vec<_> = (0..jobs as u64).map(request).collect();
    let expected = expected(&requests).await;

    let alerts = Arc::new(Collected::default());
    let cx = CallContext::new().with_events(alerts.clone());
    let (answered, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(BTreeMap::new())));
    let mut asking = tokio::task::JoinSet::new();
    {
        let (answered, answers) = (Arc::clone(&answered), Arc::clone(&answers));
        let mut stream = session.generate(requests.clone(), &cx);
        asking.spawn(async move {
            while let Some(answer) = stream.next().await {
                let before = answers.lock().expect("no panic").insert(answer.index, answer.result);
                assert!(before.is_none(), "one answer per request");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let kills = worker_kills + broker_kills;
    for kill in 0..kills {
        let moment = jobs * (kill + 1) / (kills + 2);
        while answered.load(Ordering::SeqCst) < moment && !asking.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if asking.try_join_next().is_some() {
                break;
            }
        }
        // One worker is cut off with jobs in its hands, for longer than the broker waits.
        if kill == 0 {
            cable.cut();
        }
        if kill % (worker_kills / broker_kills.max(1) + 1) == worker_kills / broker_kills.max(1) {
            broker.restart();
        } else {
            let victim = kill % 2;
            workers[victim].kill();
            workers[victim] = start(victim).await.expect("starts");
        }
    }
    // It comes back when others have done its work, and tells its own results, too late.
    cable.mend();
    while let Some(ended) = asking.join_next().await {
        ended.expect("no panic");
    }
    let answers = std::mem::take(&mut *answers.lock().expect("no panic"));
    assert_eq!(answers.len(), jobs);
    for (index, answer) in answers {
        let answer = answer.unwrap_or_else(|error| panic!("request {index}: {error}"));
        assert_eq!(answer, expected[index], "the bits of one host alone");
    }

    // Posted once more, as after the broker's window: the stored result is found.
    let engine = backend.engine().engine.digest().expect("a digest");
    let king = SessionKey::new(session.model().parameters);
    let job = |request: &GenerateRequest| JobRequest::Generate(GenerateJob::new(engine, king, request));
    let fleet_again = Box::pin(broker.fleet()).await;
    for request in requests.iter().take(20) {
        post(&fleet_again, &job(request)).await;
    }
    // A broker that was killed may keep messages that it knows to be acknowledged: what
    // counts is what it would still deliver.
    empty(&mut workers_queue(&fleet_again, engine).await).await;
    drop(fleet);
    let alerted = alerts.events().into_iter().filter(|event| matches!(event.kind, EventKind::Alert { .. }));
    assert_eq!(alerted.count(), 0, "no two results of one job differ");
    // What a worker computed after its job was given to another one.
    let mut computed = 0;
    for worker in &mut workers {
        worker.kill();
        let stored = worker.jobs().into_iter().filter(|(kind, ..)| kind == "generate");
        computed += stored.map(|(.., stored)| stored as usize).sum::<usize>();
    }
    println!(
        "{jobs} jobs, {worker_kills} workers and {broker_kills} brokers killed, one worker cut off: {computed} \
         results, {jobs} used, the bits of one host"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_result_counts_and_another_one_is_an_alert() {
    let Some(broker) = Broker::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let fleet = Box::pin(broker.fleet()).await;
    let _worker = worker(&folder.join("worker"), broker.port);
    let backend = connect(&broker, &folder.join("cache")).await;
    let session: Arc<dyn ModelSession> =
        backend.load(&ModelSource::served("king"), &CallContext::new()).await.expect("loads");
    let alerts = Arc::new(Collected::default());
    let cx = CallContext::new().with_events(alerts.clone());
    let answer = async |request: GenerateRequest| {
        let mut stream = session.generate(vec![request], &cx);
        stream.next().await.expect("an answer").result.expect("answers")
    };
    let first = answer(request(1)).await;

    // A worker that computes something else.
    let engine = backend.engine().engine.digest().expect("a digest");
    let king = SessionKey::new(session.model().parameters);
    let job = JobRequest::Generate(GenerateJob::new(engine, king, &request(1)));
    let id = job.id().expect("an id");
    let stored = fleet.result(id).await.expect("asks").expect("a result");
    let mut other: JobResult = serde_json::from_slice(&stored).expect("reads");
    if let JobOutcome::Generated(completion) = &mut other.outcome {
        completion.text.push('!');
    }
    let other = fleet.body(canonical_json(&other).expect("writes")).await.expect("a body");
    fleet.publish_result(id, &ResultMessage::Done(other)).await.expect("stores");
    while alerts.events().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = serde_json::to_string(&alerts.events()[0]).expect("writes");
    assert!(told.contains("different results"), "{told}");
    assert_eq!(answer(request(1)).await, first, "the first one counts");
    assert_eq!(fleet.result(id).await.expect("asks"), Some(stored));

    // A job that no worker can do is told so.
    let nobody = SessionKey::new(Digest::of("nobody"));
    let job = JobRequest::Generate(GenerateJob::new(engine, nobody, &request(1)));
    let id = post(&fleet, &job).await;
    let mut queue = fleet.context().get_stream(fleet.queue()).await.expect("a stream");
    while queue.info().await.expect("what it has").state.messages > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fleet.result(id).await.expect("asks"), None, "a failure is no result");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_five_deliveries_do_not_finish_is_set_aside_with_an_alert() {
    let Some(broker) = Broker::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let fleet = Box::pin(broker.fleet()).await;
    let place = folder.join("worker");
    let mut first = worker(&place, broker.port);
    let backend = connect(&broker, &folder.join("cache")).await;
    let session: Arc<dyn ModelSession> =
        backend.load(&ModelSource::served("king"), &CallContext::new()).await.expect("loads");
    let engine = backend.engine().engine.digest().expect("a digest");
    let mut queue = workers_queue(&fleet, engine).await;
    empty(&mut queue).await;
    first.kill();

    // Five workers take the job, one after the other, and none finishes it.
    let mut asked = session.generate(vec![request(1)], &CallContext::new());
    let mut asking = JoinSet::new();
    asking.spawn(async move { asked.next().await.expect("an answer").result });
    for delivery in 1..=5 {
        let message = loop {
            let fetched = queue.batch().max_messages(1).expires(Duration::from_secs(1)).messages().await;
            if let Some(message) = fetched.expect("asks").next().await {
                break message.expect("a message");
            }
        };
        assert_eq!(message.info().expect("its number").delivered, delivery);
        message.ack_with(AckKind::Nak(None)).await.expect("gives it back");
    }
    let worker = tokio::task::spawn_blocking(move || worker(&place, broker.port)).await.expect("starts");
    let error = asking.join_next().await.expect("one").expect("no panic").expect_err("it is set aside");
    assert!(error.to_string().contains("given to workers too often (deliveries: 5)"), "{error}");
    assert!(!error.is_retryable(), "{error}");
    let log = fs::read_to_string(folder.join("worker/log")).expect("a log");
    assert!(log.contains("delivered 5 times and has no result: it is set aside"), "{log}");
    empty(&mut queue).await;

    // Asked for again, it is tried again.
    let again = session.generate(vec![request(1)], &CallContext::new()).next().await.expect("an answer");
    assert_eq!(again.result.expect("answers"), expected(&[request(1)]).await.remove(0));
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_done_once_however_often_it_is_sent_and_again_after_it_failed() {
    let Some(broker) = Broker::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let fleet = Box::pin(broker.fleet()).await;
    let king = folder.join("king");
    copy(&demo().join("models/king"), &king);
    // One model at a time: the challenger, which is loaded last, has taken the king's place.
    let worker =
        worker_of([path(&king), "challenger"], "loaded_models = 1\n", &folder.join("worker"), broker.port);
    let backend = connect(&broker, &folder.join("cache")).await;
    let load = async |name: &str| backend.load(&ModelSource::served(name), &CallContext::new()).await;
    let mut done = loads(&worker).await;
    assert_eq!(done, 2, "each model at the start");

    // The client sees each failed load; the next one succeeds when the weights are back.
    let (weights, aside) = (king.join("model.safetensors"), folder.join("weights"));
    fs::rename(&weights, &aside).expect("moves");
    for _ in 0..2 {
        let error = load("king").await.expect_err("it has no weights");
        assert!(error.to_string().contains("the folder has no *.safetensors file"), "{error}");
    }
    fs::rename(&aside, &weights).expect("moves");
    let session = load("king").await.expect("loads");
    done += 1;
    assert_eq!(loads(&worker).await, done);

    // A model that is loaded is answered as it is.
    load("king").await.expect("is loaded");
    assert_eq!(loads(&worker).await, done);

    // Sent twice before the first one is done, it is done once, and both messages are taken.
    load("challenger").await.expect("loads");
    done += 1;
    let engine = backend.engine().engine.digest().expect("a digest");
    let model = SessionKey::new(session.model().parameters);
    let job = JobRequest::Load(LoadJob { engine, model, after_overflow: None });
    futures::join!(post(&fleet, &job), post(&fleet, &job));
    empty(&mut workers_queue(&fleet, engine).await).await;
    done += 1;
    assert_eq!(loads(&worker).await, done);
    load("king").await.expect("is loaded");
    assert_eq!(loads(&worker).await, done);
    let answer = session.generate(vec![request(1)], &CallContext::new()).next().await.expect("an answer");
    assert_eq!(answer.result.expect("answers"), expected(&[request(1)]).await.remove(0));
}
