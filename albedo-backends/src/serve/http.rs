//! One server of jobs over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use albedo_core::events::{EventKind, JobState};
use albedo_core::http::{Credential, HttpRequest, HttpResponse, HttpTransport, Method};
use albedo_core::{CallContext, Clock, Digest, Error, ErrorKind, Fault, Reach, Result, Retry};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Patience;
use super::link::{Job, Link};
use super::protocol::{
    EngineInfo, EventLine, HEARTBEAT_SECS, JobRequest, JobResult, JobStatus, MAX_RESULT, MAX_TEXT_FILE,
    ReleaseJob, TextFile, WireError,
};
use crate::http::{BaseSetting, Refusal, Stall};

const ASK: &str = "ask the server";

/// Most bytes of an answer that is neither a result nor a file.
const MAX_SMALL: usize = 4 << 20;

/// Most bytes of one line of events.
const MAX_LINE: usize = 1 << 20;

/// A server that says nothing for this long is gone: three heartbeats.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECS);

/// The same until an answer begins: the longest request takes 67 s at 1 Mbit/s.
const ANSWER: Duration = Duration::from_secs(100);

/// What waits to be told to a server at most; more is left to the server's own cleaning.
const NOTES: usize = 4096;

/// A server over HTTP.
#[derive(Debug)]
pub(super) struct HttpLink {
    server: Arc<Remote>,
    patience: Patience,
    notes: mpsc::Sender<Note>,
    /// Tells the notes.
    courier: JoinSet<()>,
}

impl Drop for HttpLink {
    fn drop(&mut self) {
        // The task ends when it has sent every note.
        self.courier.detach_all();
    }
}

#[derive(Debug)]
struct Remote {
    transport: Arc<dyn HttpTransport>,
    clock: Arc<dyn Clock>,
    base: String,
    token: Option<Credential>,
    plain_token: bool,
}

/// Something that a server may be told whenever there is time.
#[derive(Debug)]
enum Note {
    Acknowledge(Digest),
    Abandon(Digest),
    Release(Box<(Digest, Vec<u8>)>),
}

/// Why there is no answer.
enum Trouble {
    /// The server may be back soon.
    Passing(Error),
    /// It will be the same again.
    Final(Error),
}

impl HttpLink {
    pub(super) fn new(
        base: &str,
        token: Option<Credential>,
        plain_token: bool,
        transport: Arc<dyn HttpTransport>,
        patience: Patience,
    ) -> Self {
        let base = base.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let clock = Arc::clone(&patience.clock);
        let server = Arc::new(Remote { transport, clock, base, token, plain_token });
        let (notes, waiting) = mpsc::channel(NOTES);
        let mut courier = JoinSet::new();
        courier.spawn(tell(Arc::clone(&server), waiting, Courier::new()));
        Self { server, patience, notes, courier }
    }

    /// Tries `work` until it succeeds, or fails for good, or the server was away for too
    /// long. `heard` is raised where the server gets on with it.
    async fn patiently<T, F: Future<Output = Result<T, Trouble>> + Send>(
        &self,
        heard: &AtomicBool,
        work: impl Fn() -> F,
        cx: &CallContext,
    ) -> Result<T> {
        let hint = "see that the server runs; then resume: what it has stored is not lost";
        let mut tries = self.patience.tries(hint);
        loop {
            let error = match work().await {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(error)) => error,
            };
            if heard.swap(false, Ordering::Relaxed) {
                tries.heard();
            }
            tries.wait(error, cx).await?;
        }
    }

    /// Asks for `job` and waits for its end.
    async fn once(&self, job: &Job, heard: &AtomicBool, cx: &CallContext) -> Result<JobResult, Trouble> {
        let path = format!("/v1/jobs/{}", job.id);
        let request = self.server.request(Method::PUT, &path).with_body(job.body.clone()).with_header(
            albedo_core::http::header::CONTENT_TYPE,
            albedo_core::http::HeaderValue::from_static("application/json"),
        );
        let status: JobStatus = self.server.json(request, cx).await?;
        let mut state = status.state;
        if !state.is_over() {
            // What happened before, also in an earlier try, is no news.
            state = self.follow(&path, status.events, heard, cx).await?;
        }
        if state == JobState::Failed {
            let status: JobStatus = self.server.json(self.server.request(Method::GET, &path), cx).await?;
            return Err(match status.error.map(WireError::into_error) {
                // Another client took it back.
                Some(error) if error.kind() == ErrorKind::Cancelled => Trouble::Passing(error),
                Some(error) => Trouble::Final(error),
                None => Trouble::Passing(away("another client asked for the job again")),
            });
        }
        let request = self.server.request(Method::GET, &format!("{path}/result"));
        let mut response = self.server.known(request, cx).await?;
        let bytes = self.server.read(&mut response, MAX_RESULT, cx).await?;
        parse(&bytes)
    }

    /// Follows the events of a job after number `after` until it is over. Each of them, and
    /// each heartbeat, raises `heard`.
    async fn follow(
        &self,
        path: &str,
        after: u64,
        heard: &AtomicBool,
        cx: &CallContext,
    ) -> Result<JobState, Trouble> {
        let request = self.server.request(Method::GET, &format!("{path}/events?after={after}"));
        let mut response = self.server.known(request, cx).await?;
        let mut rest = Vec::new();
        loop {
            let piece = self.server.heard(SILENCE, response.chunk(), cx).await?.map_err(broken)?;
            let Some(piece) = piece else {
                return Err(Trouble::Passing(away("the events ended before the job did")));
            };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line: EventLine = parse(&line)?;
                heard.store(true, Ordering::Relaxed);
                let EventLine::Event(numbered) = line else { continue };
                match numbered.event.kind {
                    EventKind::Job(job) if job.state.is_over() => return Ok(job.state),
                    EventKind::Progress { .. } | EventKind::Alert { .. } => cx.emit(numbered.event.kind),
                    _ => {}
                }
            }
            if rest.len() > MAX_LINE {
                return Err(Trouble::Final(protocol("a line of its events has no end")));
            }
        }
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn engine(&self, cx: &CallContext) -> Result<EngineInfo> {
        let server = &self.server;
        let ask = || server.json(server.request(Method::GET, "/v1/engine"), cx);
        self.patiently(&AtomicBool::default(), ask, cx).await
    }

    async fn result(&self, job: &Job, cx: &CallContext) -> Result<JobResult> {
        let heard = AtomicBool::default();
        self.patiently(&heard, || self.once(job, &heard, cx), cx).await
    }

    async fn file(&self, file: TextFile, cx: &CallContext) -> Result<Vec<u8>> {
        let path = format!("/v1/files/{}", file.sha256);
        let most = file.size.min(MAX_TEXT_FILE) as usize;
        let ask = || async {
            let request = self.server.request(Method::GET, &path);
            let mut response = self.server.send(request, cx).await?;
            self.server.read(&mut response, most, cx).await
        };
        self.patiently(&AtomicBool::default(), ask, cx).await
    }

    // A note that finds no room is left to the server's own cleaning, here and below.
    fn acknowledge(&self, job: Digest) {
        let _ = self.notes.try_send(Note::Acknowledge(job));
    }

    fn abandon(&self, job: Digest) {
        let _ = self.notes.try_send(Note::Abandon(job));
    }

    fn release(&self, engine: Digest, label: String) {
        let job = Job::new(JobRequest::Release(ReleaseJob { engine, label }), Vec::new());
        if let Ok(Job { id, body, .. }) = job {
            let _ = self.notes.try_send(Note::Release(Box::new((id, body))));
        }
    }
}

/// The couriers of this process that have not told all their notes.
static COURIERS: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::channel(0).0);

/// One that counts in [`COURIERS`] until it is dropped.
struct Courier;

impl Courier {
    fn new() -> Self {
        COURIERS.send_modify(|count| *count += 1);
        Self
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        COURIERS.send_modify(|count| *count -= 1);
    }
}

/// Waits until every server was told what was left to tell by links that are dropped, at
/// most for the time that `cx` has.
///
/// # Errors
/// `cx`.
pub(super) async fn settle(cx: &CallContext) -> Result<()> {
    let mut couriers = COURIERS.subscribe();
    // The sender is never dropped.
    cx.run(ASK, couriers.wait_for(|count| *count == 0)).await.map(drop)
}

/// Tells `notes` one after the other. What cannot be told is not told again: the server
/// cleans up by itself.
async fn tell(server: Arc<Remote>, mut notes: mpsc::Receiver<Note>, _courier: Courier) {
    let cx = CallContext::new();
    while let Some(note) = notes.recv().await {
        let request = match note {
            Note::Acknowledge(job) => server.request(Method::DELETE, &format!("/v1/jobs/{job}")),
            Note::Abandon(job) => server.request(Method::DELETE, &format!("/v1/jobs/{job}?only=unfinished")),
            Note::Release(job) => {
                let (id, body) = *job;
                server.request(Method::PUT, &format!("/v1/jobs/{id}")).with_body(body)
            }
        };
        let cx = cx.with_timeout(SILENCE);
        if let Ok(mut response) = server.send(request, &cx).await {
            let _ = server.read(&mut response, MAX_SMALL, &cx).await;
        }
    }
}

impl Remote {
    fn request(&self, method: Method, path: &str) -> HttpRequest {
        let request = HttpRequest::new(method, ASK, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.with_credential(token.clone()).with_plain_credential(self.plain_token),
            None => request,
        }
    }

    /// The answer to `request`, if it is a success.
    async fn send(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse, Trouble> {
        let sent = self.heard(ANSWER, self.transport.send(request, cx), cx).await?;
        let mut response = sent.map_err(|error| match error.kind() {
            ErrorKind::Unavailable if error.fault() == Fault::Infrastructure => Trouble::Passing(error),
            _ => Trouble::Final(error),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let body = self.read(&mut response, MAX_SMALL, cx).await.unwrap_or_default();
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).trim().to_owned()));
        let said = body.pointer("/error/albedo").cloned();
        let said = said.and_then(|said| serde_json::from_value::<WireError>(said).ok());
        let refusal = || {
            let address_hint = "check `url`: it has to be that of `albedo serve`";
            let (operation, server, credential) = (ASK, &*self.base, self.token.as_ref());
            let (headers, body, private) = (&headers, &body, &[][..]);
            Refusal { operation, server, status, headers, body, credential, private, address_hint }
                .into_error()
        };
        let passes = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504);
        let error = match said {
            Some(said) if !matches!(status.as_u16(), 401 | 403 | 429) => {
                said.into_error().with("server", &self.base)
            }
            _ => refusal(),
        };
        Err(if passes { Trouble::Passing(error) } else { Trouble::Final(error) })
    }

    /// The same of something that the server was told of: one that has forgotten it is
    /// told once more.
    async fn known(&self, request: HttpRequest, cx: &CallContext) -> Result<HttpResponse, Trouble> {
        self.send(request, cx).await.map_err(|trouble| match trouble {
            Trouble::Final(error) if error.kind() == ErrorKind::NotFound => Trouble::Passing(error),
            other => other,
        })
    }

    async fn json<T: DeserializeOwned>(&self, request: HttpRequest, cx: &CallContext) -> Result<T, Trouble> {
        let mut response = self.send(request, cx).await?;
        parse(&self.read(&mut response, MAX_SMALL, cx).await?)
    }

    /// The body of `response`, at most `most` bytes of it.
    async fn read(
        &self,
        response: &mut HttpResponse,
        most: usize,
        cx: &CallContext,
    ) -> Result<Vec<u8>, Trouble> {
        let read = self.stall(SILENCE).body(ASK, response, most, cx).await;
        read.map_err(|error| silent(error, cx).unwrap_or_else(broken))
    }

    /// What `work` comes to, unless `cx` ends it or the server is silent for longer than
    /// `silence`.
    async fn heard<T>(
        &self,
        silence: Duration,
        work: impl Future<Output = T>,
        cx: &CallContext,
    ) -> Result<T, Trouble> {
        let done = self.stall(silence).within(ASK, work, cx).await;
        done.map_err(|error| silent(error, cx).unwrap_or_else(Trouble::Final))
    }

    /// Every byte is progress.
    fn stall(&self, silence: Duration) -> Stall {
        Stall::new(Arc::clone(&self.clock), silence, 1)
    }
}

/// The trouble that `error` is if `cx` has ended, or the server says nothing; else the error.
fn silent(error: Error, cx: &CallContext) -> Result<Trouble, Error> {
    match error.kind() {
        _ if cx.check(ASK).is_err() => Ok(Trouble::Final(error)),
        ErrorKind::Timeout => Ok(Trouble::Passing(away("the server fell silent"))),
        _ => Err(error),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The words of an answer may be a reply's: they are not repeated.
        let place = format!("line {}, column {}", error.line(), error.column());
        Trouble::Final(protocol(&format!("its answer is not what it should be ({place})")))
    })
}

/// What to do about an answer that no server of jobs gives.
const OTHER_SERVER: &str = "check `url`: it has to be that of `albedo serve`, of the same version";

/// A body that did not come whole. One that has no end comes again.
fn broken(error: Error) -> Trouble {
    match error.kind() {
        ErrorKind::Protocol => {
            Trouble::Final(error.with_reach(Reach::Duel).with_retry(Retry::Never).with_hint(OTHER_SERVER))
        }
        _ => Trouble::Passing(error),
    }
}

/// An answer that no server of jobs gives.
fn protocol(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, ASK, message)
        .with_reach(Reach::Duel)
        .with_retry(Retry::Never)
        .with_hint(OTHER_SERVER)
}

fn away(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, ASK, message)
}

/// The setting that names the server.
pub(super) const BASE: BaseSetting =
    BaseSetting { key: "url", secret: "token_env", example: "http://127.0.0.1:8080" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_read_on_its_way() {
        for good in ["http://127.0.0.1:8080", "http://localhost:8080/", "https://gpu.example/v1"] {
            BASE.check(good, true).expect(good);
        }
        BASE.check("http://10.0.0.7:8080", false).expect("there is no token");
        for (bad, words) in [
            ("gpu.example", "no URL"),
            ("ftp://gpu.example", "does not begin"),
            ("https://me:secret@gpu.example", "a user, a password"),
            ("http://10.0.0.7:8080", "everybody on the way"),
        ] {
            let error = BASE.check(bad, true).expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{error}");
        }
    }
}
