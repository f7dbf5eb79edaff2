//! A chat server on the loopback whose every answer is scripted, for tests:
//! refusals, storms, stalls, cuts, garbage and resets over real HTTP.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Answers each request as its script says. Dropping it closes it.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Box<dyn Fn(&Seen) -> Answer + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Requests of the same path before it.
    pub number: usize,
    /// For example `/v1/chat/completions`.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// JSON, or null.
    pub body: Value,
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    /// Before each header line.
    header_pause: Duration,
    acts: Vec<Act>,
}

/// A step of an answer's body, which is sent in chunks.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes.
    Send(Vec<u8>),
    /// Nothing for this long.
    Pause(Duration),
    /// Nothing until this is notified.
    Wait(Arc<Notify>),
    /// Nothing for ever.
    Hang,
    /// The connection ends within the body.
    Cut,
    /// The connection is reset.
    Reset,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            header_pause: Duration::ZERO,
            acts: vec![Act::Send(body.to_string().into_bytes())],
        }
    }

    /// These bytes under this content type.
    pub fn raw(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".into(), content_type.into())],
            header_pause: Duration::ZERO,
            acts: vec![Act::Send(body.into())],
        }
    }

    /// A refusal in OpenAI's words.
    pub fn refuse(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": { "message": message, "type": "scripted" } }))
    }

    /// The models served.
    pub fn models(names: &[&str]) -> Self {
        let entry = |name: &&str| json!({ "id": name, "object": "model", "context_length": 4096 });
        Self::json(200, &json!({ "object": "list", "data": names.iter().map(entry).collect::<Vec<_>>() }))
    }

    /// A whole reply that is not streamed, of one token a word.
    pub fn reply(text: &str) -> Self {
        let tokens = text.split_whitespace().count();
        Self::json(
            200,
            &json!({
                "choices": [{
                    "index": 0,
                    "message": { "role": "assistant", "content": text },
                    "finish_reason": "stop",
                }],
                "usage": { "prompt_tokens": 7, "completion_tokens": tokens },
            }),
        )
    }

    /// A streamed reply: a chunk for each of `pieces`, then the finish reason,
    /// usage and `[DONE]`.
    pub fn stream(pieces: &[&str]) -> Self {
        let mut answer = Self::events(&[]);
        for piece in pieces {
            answer = answer.event(&delta(&json!({ "content": piece }), None));
        }
        answer
            .event(&delta(&json!({}), Some("stop")))
            .event(&json!({
                "choices": [],
                "usage": { "prompt_tokens": 7, "completion_tokens": pieces.len() },
            }))
            .act(Act::Send(b"data: [DONE]\n\n".to_vec()))
    }

    /// A stream of `events`, without an end of its own.
    pub fn events(events: &[Value]) -> Self {
        let answer = Self {
            status: 200,
            headers: vec![("content-type".into(), "text/event-stream".into())],
            header_pause: Duration::ZERO,
            acts: vec![],
        };
        events.iter().fold(answer, Self::event)
    }

    /// Then this event.
    #[must_use]
    pub fn event(self, data: &Value) -> Self {
        self.act(Act::Send(format!("data: {data}\n\n").into_bytes()))
    }

    /// Then `act`.
    #[must_use]
    pub fn act(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a pause before each header line.
    #[must_use]
    pub fn slow_headers(mut self, pause: Duration) -> Self {
        self.header_pause = pause;
        self
    }
}

/// A chunk of a stream.
pub fn delta(delta: &Value, finish_reason: Option<&str>) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }] })
}

impl ScriptedServer {
    /// A server on a free port that answers as `script` says.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        #[expect(clippy::disallowed_methods, reason = "the server holds its task and ends it")]
        let task = tokio::spawn(async move {
            // Connections end with the server: the set aborts them.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                connections.spawn(async move {
                    // A peer that goes away is part of many a script.
                    let _gone = shared.serve(stream).await;
                });
            }
        });
        Ok(Self { address, shared, task })
    }

    /// For `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// The most chat requests that were being answered at one time.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a request while it is answered.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_in_flight.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let (path, headers, body) = read_request(&mut stream).await?;
        let request = {
            let mut seen = self.seen();
            let number = seen.iter().filter(|before| before.path == path).count();
            let request =
                Seen { number, path, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
            seen.push(request.clone());
            request
        };
        let _counted = request.path.ends_with("/chat/completions").then(|| InFlight::new(self));
        let answer = (self.script)(&request);
        let line = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
        stream.write_all(line.as_bytes()).await?;
        let fixed =
            [("transfer-encoding".to_owned(), "chunked".to_owned()), ("connection".into(), "close".into())];
        for (name, value) in answer.headers.iter().chain(&fixed) {
            pause(answer.header_pause).await;
            stream.write_all(format!("{name}: {value}\r\n").as_bytes()).await?;
        }
        stream.write_all(b"\r\n").await?;
        for act in answer.acts {
            match act {
                Act::Send(bytes) => {
                    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
                    stream.write_all(&bytes).await?;
                    stream.write_all(b"\r\n").await?;
                }
                Act::Pause(time) => pause(time).await,
                Act::Wait(notified) => notified.notified().await,
                Act::Hang => {
                    // Until the peer hangs up.
                    return stream.read(&mut [0]).await.map(drop);
                }
                Act::Cut => return Ok(()),
                Act::Reset => return stream.set_zero_linger(),
            }
        }
        stream.write_all(b"0\r\n\r\n").await?;
        stream.shutdown().await
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Path, headers and body of the one request of a connection.
async fn read_request(stream: &mut TcpStream) -> io::Result<(String, Vec<(String, String)>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0_usize);
    let mut body = bytes.split_off(head);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((path, headers, body))
}
