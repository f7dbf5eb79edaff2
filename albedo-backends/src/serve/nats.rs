//! Jobs over NATS JetStream: one work queue, several servers; the broker is the scheduler.
//!
//! | stream | subjects | has |
//! | --- | --- | --- |
//! | `{prefix}-jobs` | `{prefix}.jobs.{engine}` | requests that wait; a work queue per engine |
//! | `{prefix}-results` | `{prefix}.results.{job}` | what jobs came to, in the order in which it was stored |
//! | `{prefix}-parts` | `{prefix}.parts.{sha256}.{number}` | pieces of what is longer than a message |
//!
//! A message of the queue has the job's digest and the request, or where its pieces are.
//! The broker drops a message that is posted twice only within a window, and delivers
//! one again whose worker fell silent; so nothing rests on either. What decides is the
//! **first** result in the stream: a worker looks for one before it works, and a client
//! uses it and compares the later ones. Other bits are an alert.
//!
//! Workers answer on `{prefix}.engine` what they are, and on `{prefix}.files.{sha256}`
//! with pieces of the text files that they have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use albedo_core::registry::Secret;
use albedo_core::{CallContext, Digest, Error, ErrorKind, EventKind, Fault, HubRef, Reach, Result, Retry};
use async_nats::jetstream::stream::{
    Config as StreamConfig, RawMessageError, RawMessageErrorKind, RetentionPolicy, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::link::{Job, Link, another};
use super::protocol::{EngineInfo, JobRequest, JobResult, MAX_REQUEST, MAX_RESULT, TextFile, WireError};
use super::{NatsConfig, Patience};

const CONNECT: &str = "connect to NATS";
const ASK: &str = "ask the fleet";
const PIECES: &str = "fetch a piece from the fleet";

/// The longest request or result that is sent within one message; a NATS server takes
/// 1 MiB by default.
const INLINE: usize = 512 << 10;

/// Bytes of a piece of what is longer.
const PIECE: usize = 512 << 10;

/// How long results and pieces stay. Source: chosen by albedo; a duel that is resumed
/// within it loses no reply.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// How long the broker drops messages that are posted again: only to save work.
const WINDOW: Duration = Duration::from_mins(2);

/// How often a client looks whether a result is there of which it was not told.
const LOOK: Duration = Duration::from_secs(2);

/// How often a client that waits asks whether any worker is there.
const ALIVE: Duration = Duration::from_secs(10);

/// How long the answers of a fleet's engines are gathered after the first one.
const GATHER: Duration = Duration::from_millis(300);

/// How long a worker has to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Used results whose later ones are compared at most.
const COMPARED: usize = 65_536;

/// A message of the work queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobMessage {
    /// The job.
    pub job: Digest,
    /// Its request's canonical JSON, or where its pieces are.
    pub request: Body,
    /// Where the models that it names can be had, for a worker that does not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<HubRef>,
}

/// Bytes, or where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The text itself.
    Inline(String),
    /// Pieces in the stream `{prefix}-parts`.
    Parts {
        /// Digest of the whole.
        sha256: Digest,
        /// Pieces.
        count: u32,
    },
}

/// A message of the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultMessage {
    /// The canonical JSON of a [`JobResult`].
    Done(Body),
    /// There is no result. One that comes later counts.
    Failed(Box<WireError>),
}

/// The streams of a fleet. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct Fleet {
    client: Client,
    context: Context,
    prefix: String,
    results: Stream,
    parts: Stream,
}

impl Fleet {
    /// Connects to the NATS server of `config`, with `token` if it wants one, and makes
    /// the streams that are not there.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`]: there is no server with JetStream.
    pub async fn connect(config: &NatsConfig, token: Option<Secret>, cx: &CallContext) -> Result<Self> {
        let options = ConnectOptions::new().name("albedo");
        let options = match token {
            Some(token) => options.token(token.expose().to_owned()),
            None => options,
        };
        let urls: Vec<_> = config.url.split(',').map(str::trim).collect();
        let client = cx.run(CONNECT, options.connect(urls)).await?;
        let client = client.map_err(|error| {
            failed(CONNECT, &error)
                .with("server", &config.url)
                .with_hint("check the address, and that it runs")
        })?;
        let context = jetstream::new(client.clone());
        let prefix = &config.prefix;
        let stream = |name: &str, retention| StreamConfig {
            name: format!("{prefix}-{name}"),
            subjects: vec![format!("{prefix}.{name}.>")],
            retention,
            duplicate_window: WINDOW,
            max_age: KEPT,
            ..StreamConfig::default()
        };
        make(&context, stream("jobs", RetentionPolicy::WorkQueue), cx).await?;
        let results = make(&context, stream("results", RetentionPolicy::Limits), cx).await?;
        let parts = make(&context, stream("parts", RetentionPolicy::Limits), cx).await?;
        Ok(Self { client, prefix: prefix.clone(), results, parts, context })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The streams' context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The name of the work queue's stream.
    pub fn queue(&self) -> String {
        format!("{}-jobs", self.prefix)
    }

    /// The subject of the jobs of `engine`.
    pub fn jobs(&self, engine: Digest) -> String {
        format!("{}.jobs.{engine}", self.prefix)
    }

    /// The subject on which workers say what they are.
    pub fn engine_subject(&self) -> String {
        format!("{}.engine", self.prefix)
    }

    /// The subject on which workers that have the file answer; `*` in place of a digest
    /// is all of them.
    pub fn file_subject(&self, file: &str) -> String {
        format!("{}.files.{file}", self.prefix)
    }

    fn result_subject(&self, job: &str) -> String {
        format!("{}.results.{job}", self.prefix)
    }

    /// `bytes` as a message has them; long ones are stored in pieces first.
    ///
    /// # Errors
    /// The broker did not store a piece.
    pub async fn body(&self, bytes: Vec<u8>) -> Result<Body> {
        let text = String::from_utf8(bytes).map_err(|error| Error::bug(ASK, error.to_string()))?;
        if text.len() <= INLINE {
            return Ok(Body::Inline(text));
        }
        let sha256 = Digest::of(&text);
        let pieces = text.as_bytes().chunks(PIECE);
        let count = pieces.len() as u32;
        for (number, piece) in pieces.enumerate() {
            let subject = format!("{}.parts.{sha256}.{number}", self.prefix);
            self.publish(subject.clone(), &subject, Bytes::copy_from_slice(piece)).await?;
        }
        Ok(Body::Parts { sha256, count })
    }

    /// The bytes of `body`, at most `most`.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if a piece is gone or not what it was, or the broker has no streams any
    /// more; [`ErrorKind::Unavailable`] if the broker does not answer.
    pub async fn bytes(&self, body: &Body, most: usize) -> Result<Vec<u8>> {
        let (sha256, count) = match body {
            Body::Inline(text) => return Ok(text.clone().into_bytes()),
            Body::Parts { sha256, count } => (sha256, *count),
        };
        let mut bytes = Vec::new();
        for number in 0..count {
            let subject = format!("{}.parts.{sha256}.{number}", self.prefix);
            let piece = self.parts.get_last_raw_message_by_subject(&subject).await;
            let piece = piece.map_err(|error| match error.kind() {
                RawMessageErrorKind::NoMessageFound => lost(number),
                _ => unread(PIECES, &error),
            })?;
            bytes.extend_from_slice(&piece.payload);
            if bytes.len() > most {
                return Err(protocol(&format!("what it names has more than {most} bytes")));
            }
        }
        if Digest::of(&bytes) != *sha256 {
            return Err(protocol("pieces do not have the digest that they are named by"));
        }
        Ok(bytes)
    }

    /// Stores `message` for `job`, behind those that are there.
    ///
    /// # Errors
    /// The broker did not store it.
    pub async fn publish_result(&self, job: Digest, message: &ResultMessage) -> Result<()> {
        let bytes = json(message)?;
        // The broker drops the second of two messages with one id: the same result of two workers at
        // once. The result of a job that was asked for again follows an earlier one, and so has
        // another id.
        let id = format!("{job}-{}-{}", self.newest(job).await?, Digest::of(&bytes).short());
        self.publish(self.result_subject(&job.to_string()), &id, bytes.into()).await.map(drop)
    }

    /// The first result of `job`, if one is stored, its bytes and those of the later ones.
    ///
    /// # Errors
    /// As [`Fleet::bytes`].
    pub async fn result(&self, job: Digest) -> Result<Option<Vec<u8>>> {
        Ok(self.results_after(job, 0).await?.done)
    }

    /// The number of the newest message about `job`; 0 if there is none.
    async fn newest(&self, job: Digest) -> Result<u64> {
        let subject = self.result_subject(&job.to_string());
        match self.results.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(unread(ASK, &error)),
        }
    }

    /// What is stored for `job`; failures up to number `seen` are old.
    async fn results_after(&self, job: Digest, seen: u64) -> Result<Stored> {
        let subject = self.result_subject(&job.to_string());
        let (mut next, mut stored) = (1, Stored { done: None, failed: None, latest: 0 });
        loop {
            let message = match self.results.get_first_raw_message_by_subject(&subject, next).await {
                Ok(message) => message,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(stored),
                Err(error) => return Err(unread(ASK, &error)),
            };
            next = message.sequence + 1;
            stored.latest = message.sequence;
            match read(&message.payload) {
                Ok(ResultMessage::Done(body)) => {
                    stored.done = Some(self.bytes(&body, MAX_RESULT).await?);
                    return Ok(stored);
                }
                Ok(ResultMessage::Failed(error)) if message.sequence > seen => stored.failed = Some(*error),
                // An old failure, or no result at all.
                Ok(ResultMessage::Failed(_)) | Err(_) => {}
            }
        }
    }

    /// Publishes and waits until the broker has stored it.
    async fn publish(&self, subject: String, id: &str, payload: Bytes) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let sent = self.context.publish_with_headers(subject, headers, payload).await;
        let stored = sent.map_err(|error| failed(ASK, &error))?.await;
        stored.map(|ack| ack.sequence).map_err(|error| failed(ASK, &error))
    }
}

/// The stream of `config`, made if it is not there.
async fn make(context: &Context, config: StreamConfig, cx: &CallContext) -> Result<Stream> {
    let name = config.name.clone();
    let made = cx.run(CONNECT, context.get_or_create_stream(config)).await?;
    made.map_err(|error| {
        failed(CONNECT, &error).with("stream", name).with_hint("start the NATS server with JetStream (`-js`)")
    })
}

/// What is stored for a job.
struct Stored {
    /// The first result.
    done: Option<Vec<u8>>,
    /// The latest failure that is not old.
    failed: Option<WireError>,
    /// The number of the latest message that was looked at.
    latest: u64,
}

/// A fleet as a client sees it.
#[derive(Debug)]
pub(super) struct NatsLink {
    fleet: Fleet,
    /// The engine that is wanted, if one is pinned.
    pinned: Option<Digest>,
    patience: Patience,
    shared: Arc<Shared>,
    /// Hears of results; ends with this value.
    _listener: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits for which job.
    waiting: Mutex<BTreeMap<Digest, watch::Sender<u64>>>,
    /// The results that were used: their digest, and whom to tell of another one.
    used: Mutex<BTreeMap<Digest, (Digest, CallContext)>>,
}

impl NatsLink {
    pub(super) async fn connect(
        config: &NatsConfig,
        pinned: Option<Digest>,
        token: Option<Secret>,
        patience: Patience,
        cx: &CallContext,
    ) -> Result<Self> {
        let fleet = Fleet::connect(config, token, cx).await?;
        let results = fleet.client.subscribe(fleet.result_subject("*")).await;
        let results = results.map_err(|error| failed(CONNECT, &error))?;
        let shared = Arc::new(Shared::default());
        let mut listener = JoinSet::new();
        listener.spawn(listen(fleet.clone(), results, Arc::clone(&shared)));
        Ok(Self { fleet, pinned, patience, shared, _listener: listener })
    }

    /// The answers of the workers to `subject`, the first and those soon after.
    async fn gather(&self, subject: String, cx: &CallContext) -> Result<Vec<Bytes>> {
        let clock = &self.patience.clock;
        let client = &self.fleet.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(ASK, &error))?;
        let asked = client.publish_with_reply(subject, inbox, Bytes::new()).await;
        asked.map_err(|error| failed(ASK, &error))?;
        let (mut all, mut until) = (Vec::new(), clock.now() + ANSWER);
        loop {
            let next = cx.run(ASK, next_until(&mut answers, clock.sleep_until(until))).await?;
            let Some(message) = next else { return Ok(all) };
            // With a status it is the broker's own word: nobody listens.
            if message.status.is_some() {
                return Ok(all);
            }
            if all.is_empty() {
                until = clock.now() + GATHER;
            }
            all.push(message.payload);
        }
    }

    /// The engines of the workers that answer, each once.
    async fn engines(&self, cx: &CallContext) -> Result<Vec<EngineInfo>> {
        let mut engines: Vec<EngineInfo> = Vec::new();
        for answer in self.gather(self.fleet.engine_subject(), cx).await? {
            let info: EngineInfo = read(&answer)?;
            match engines.iter_mut().find(|known| known.engine == info.engine) {
                Some(known) => known.models.extend(info.models),
                None => engines.push(info),
            }
        }
        Ok(engines)
    }

    /// Posts the job and waits for its first result. `heard` tells whether the broker took
    /// the job and, where that was asked, a worker is there.
    async fn once(&self, job: &Job, heard: &mut bool, cx: &CallContext) -> Result<Result<Vec<u8>>> {
        let fleet = &self.fleet;
        let mut news = self.shared.wait_for(job.id);
        let lasting = job.request.is_lasting();
        let seen = if lasting {
            let before = fleet.results_after(job.id, 0).await?;
            if let Some(done) = before.done {
                return Ok(Ok(done));
            }
            before.latest
        } else {
            // A result that only says how things were does not stand.
            fleet.newest(job.id).await?
        };
        let message = JobMessage {
            job: job.id,
            request: fleet.body(job.body.clone()).await?,
            references: job.references.clone(),
        };
        // What failed before is posted as something new.
        let id = format!("{}-{seen}", job.id);
        fleet.publish(fleet.jobs(job.request.engine()), &id, json(&message)?.into()).await?;
        *heard = true;
        let clock = &self.patience.clock;
        let mut asked = clock.now();
        loop {
            let look = clock.sleep_until(clock.now() + LOOK);
            futures::future::select(Box::pin(news.changed()), look).await;
            let stored = if lasting {
                fleet.results_after(job.id, seen).await?
            } else {
                fleet.newest_after(job.id, seen).await?
            };
            if let Some(done) = stored.done {
                return Ok(Ok(done));
            }
            if let Some(error) = stored.failed {
                return Ok(Err(error.into_error()));
            }
            if clock.now() >= asked + ALIVE {
                asked = clock.now();
                let engines = self.engines(cx).await?;
                let wanted = job.request.engine();
                if !engines.iter().any(|info| info.engine.digest().is_ok_and(|found| found == wanted)) {
                    *heard = false;
                    return Err(Error::new(ErrorKind::Unavailable, ASK, "no worker of the engine answers")
                        .with("engine", wanted));
                }
            }
        }
    }
}

impl Fleet {
    /// What is stored for `job` behind number `seen`.
    async fn newest_after(&self, job: Digest, seen: u64) -> Result<Stored> {
        let subject = self.result_subject(&job.to_string());
        let message = match self.results.get_first_raw_message_by_subject(&subject, seen + 1).await {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                return Ok(Stored { done: None, failed: None, latest: seen });
            }
            Err(error) => return Err(unread(ASK, &error)),
        };
        let latest = message.sequence;
        Ok(match read(&message.payload)? {
            ResultMessage::Done(body) => {
                Stored { done: Some(self.bytes(&body, MAX_RESULT).await?), failed: None, latest }
            }
            ResultMessage::Failed(error) => Stored { done: None, failed: Some(*error), latest },
        })
    }
}

impl Shared {
    fn wait_for(&self, job: Digest) -> watch::Receiver<u64> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, news| news.receiver_count() > 0);
        waiting.entry(job).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    fn use_result(&self, job: Digest, bytes: &[u8], cx: &CallContext) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= COMPARED {
            used.pop_first();
        }
        used.insert(job, (Digest::of(bytes), cx.clone()));
    }
}

/// Wakes those who wait for a result, and compares the results of jobs whose result was
/// used already.
async fn listen(fleet: Fleet, mut results: Subscriber, shared: Arc<Shared>) {
    while let Some(message) = results.next().await {
        let job = message.subject.rsplit('.').next().and_then(|job| job.parse::<Digest>().ok());
        let Some(job) = job else { continue };
        if let Some(news) = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(&job) {
            news.send_modify(|count| *count += 1);
        }
        let used = shared.used.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned();
        let (Some((used, cx)), Ok(ResultMessage::Done(body))) = (used, read(&message.payload)) else {
            continue;
        };
        let bytes = fleet.bytes(&body, MAX_RESULT).await;
        if bytes.is_ok_and(|bytes| Digest::of(bytes) != used) {
            cx.emit(EventKind::Alert {
                message: format!(
                    "two workers gave different results for the job {}; the first one counts: compare their devices",
                    job.short()
                ),
            });
        }
    }
}

async fn next_until(
    answers: &mut Subscriber,
    end: futures::future::BoxFuture<'static, ()>,
) -> Option<async_nats::Message> {
    match futures::future::select(answers.next(), end).await {
        futures::future::Either::Left((message, _)) => message,
        futures::future::Either::Right(_) => None,
    }
}

#[async_trait]
impl Link for NatsLink {
    async fn engine(&self, cx: &CallContext) -> Result<EngineInfo> {
        let mut tries = self.patience.tries("start `albedo serve` with the same `nats` settings");
        loop {
            let mut engines = self.engines(cx).await?;
            for info in &engines {
                info.check()?;
            }
            if let Some(pinned) = self.pinned {
                engines.retain(|info| info.engine.digest().is_ok_and(|found| found == pinned));
            }
            match (engines.pop(), engines.is_empty()) {
                (Some(info), true) => return Ok(info),
                (Some(info), false) => {
                    engines.push(info);
                    let found = engines.iter().filter_map(|info| info.engine.digest().ok());
                    let found: Vec<_> = found.map(|digest| digest.to_string()).collect();
                    return Err(Error::new(ErrorKind::Conflict, ASK, "its workers are different engines")
                        .with_fault(Fault::Operator)
                        .with("engines", found.join(", "))
                        .with_hint("set `engine` to the one that is meant"));
                }
                (None, _) => {}
            }
            let error = Error::new(ErrorKind::Unavailable, ASK, "no worker answers");
            tries.wait(error, cx).await?;
        }
    }

    async fn result(&self, job: &Job, cx: &CallContext) -> Result<JobResult> {
        let hint = "see that NATS and a worker run; then resume: stored results are not lost";
        let mut tries = self.patience.tries(hint);
        loop {
            let mut heard = false;
            let error = match cx.run(ASK, self.once(job, &mut heard, cx)).await? {
                Ok(Ok(bytes)) => {
                    self.shared.use_result(job.id, &bytes, cx);
                    return read(&bytes);
                }
                Ok(Err(error)) => return Err(error),
                Err(error) if error.reach() > Reach::Call => return Err(error),
                Err(error) => error,
            };
            if heard {
                tries.heard();
            }
            tries.wait(error, cx).await?;
        }
    }

    async fn file(&self, file: TextFile, cx: &CallContext) -> Result<Vec<u8>> {
        let subject = self.fleet.file_subject(&file.sha256.to_string());
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < file.size {
            let offset = bytes.len().to_string();
            let asked = self.fleet.client.request(subject.clone(), offset.into());
            let piece = cx.run(ASK, asked).await?.map_err(|error| failed("fetch a text file", &error))?;
            if piece.payload.is_empty() {
                return Err(another("a text file that ends too early"));
            }
            bytes.extend_from_slice(&piece.payload);
        }
        Ok(bytes)
    }

    // Results go with their age: another client of the fleet may want them too.
    fn acknowledge(&self, _: Digest) {}

    fn abandon(&self, _: Digest) {}

    // Each worker keeps what it has fetched for as long as its lease says.
    fn release(&self, _: Digest, _: String) {}
}

/// Reads a message.
///
/// # Errors
/// [`ErrorKind::Protocol`].
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The words may be a reply's: they are not repeated.
        let place = format!("line {}, column {}", error.line(), error.column());
        protocol(&format!("a message is not what it should be ({place})"))
    })
}

/// Reads the request that `body` names, of the job `job`.
///
/// # Errors
/// As [`JobRequest::read`]; the broker does not have its pieces.
pub async fn request(fleet: &Fleet, job: Digest, body: &Body) -> Result<(JobRequest, Vec<u8>)> {
    let bytes = fleet.bytes(body, MAX_REQUEST).await?;
    Ok((JobRequest::read(job, &bytes)?, bytes))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::bug(ASK, error.to_string()))
}

fn failed(operation: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, operation, error.to_string())
}

/// Why a message of a stream cannot be read. A broker that came back without its streams answers, and
/// goes on having none until somebody connects anew: that is another failure than one that is away.
fn unread(operation: &str, error: &RawMessageError) -> Error {
    match error.kind() {
        RawMessageErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Error::new(ErrorKind::Protocol, operation, "the broker has lost its streams")
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Backoff)
                .with_hint("see that the NATS server keeps its files; a worker makes the streams anew")
        }
        _ => failed(operation, error),
    }
}

/// The broker does not have a piece any more.
fn lost(piece: u32) -> Error {
    Error::new(ErrorKind::Protocol, PIECES, "the broker has lost a piece")
        .with_fault(Fault::Infrastructure)
        .with_retry(Retry::Backoff)
        .with("piece", piece)
}

fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, ASK, message).with_retry(Retry::Never)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A worker waits for a broker that is away, and connects anew to one that has lost its streams.
    #[test]
    fn a_broker_without_its_streams_is_not_away() {
        let said = |code: u64| {
            let error = json!({ "code": 404, "err_code": code, "description": "it says so" });
            let error = RawMessageErrorKind::JetStream(serde_json::from_value(error).expect("an error"));
            unread(ASK, &RawMessageError::new(error)).kind()
        };
        assert_eq!(said(10_059), ErrorKind::Protocol);
        assert_eq!(said(10_008), ErrorKind::Unavailable, "it is not ready yet");
        let away = RawMessageError::new(RawMessageErrorKind::Other);
        assert_eq!(unread(ASK, &away).kind(), ErrorKind::Unavailable);
    }
}
