//! `albedo serve` as its clients meet it: over a socket, with the demo's models.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::run::{command, error};

mod load;
mod systemd;

/// A server that runs until this is dropped.
pub(crate) struct Server {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    /// The demo's models with further arguments, once they are loaded.
    pub(crate) fn demo(arguments: &[&str]) -> Self {
        let all = ["serve", "--demo", "--listen", "127.0.0.1:0", "--log", "warn"];
        Self::start(command(all.iter().chain(arguments).copied()))
    }

    /// The demo's king by the configuration `text`, once it is loaded.
    pub(crate) fn configured(folder: &Path, text: &str) -> Self {
        Self::start(configured(folder, text))
    }

    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("albedo starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("reads");
        let address = line.strip_prefix("ready: http").and_then(|rest| rest.split("://").nth(1));
        let address = address.and_then(|rest| rest.split('/').next());
        let address = address.expect("a ready line with the address").to_owned();
        Self { child, _stdout: stdout, address }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connects");
        stream.set_read_timeout(Some(std::time::Duration::from_mins(2))).expect("a limit");
        stream
    }

    /// Sends `request` as it is and reads the answer.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).expect("sends");
        Answer::read(stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(&post(path, &body.to_string()))
    }

    /// Waits until no reply is written and none waits.
    pub(crate) fn settle(&self) {
        while self.metric("albedo_streams") + self.metric("albedo_queue") > 0.0 {
            std::thread::yield_now();
        }
    }

    /// The value of a metric; 0 if there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    #[cfg(unix)]
    fn terminate(&self) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(kill.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `albedo serve` of the configuration `text`.
fn configured(folder: &Path, text: &str) -> Command {
    let file = folder.join("serve.toml");
    std::fs::write(&file, text).expect("writes");
    command(["serve", "--config", file.to_str().expect("UTF-8"), "--log", "warn"])
}

/// The configuration of the demo's king with further lines before it.
fn king(lines: &str) -> String {
    let king = crate::run::demo().join("models/king");
    format!("listen = '127.0.0.1:0'\n{lines}\n[[models]]\nname = 'king'\npath = '{}'\n", king.display())
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        // A server that refuses a body may close before it is sent.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let head = head.to_ascii_lowercase();
        let body = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_owned() };
        Self { status, head, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The events of a streamed reply; it ended as it should.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<_> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{self:?}");
        events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    /// Status, and the field and code of the error.
    fn error(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        assert!(!text("message").is_empty() && !text("type").is_empty(), "{self:?}");
        (self.status, text("param"), text("code"))
    }
}

/// The parts of a chunked body together.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        let Some(part) = rest.get(..length).filter(|part| !part.is_empty()) else { break };
        whole += part;
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

fn chat(fields: &Value) -> Value {
    let content = "The tests fail. Which file do you open first?";
    let mut body =
        json!({ "model": "king", "messages": [{ "role": "user", "content": content }], "max_tokens": 24 });
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[test]
fn chats_streamed_and_whole_are_the_same_reply() {
    let server = Server::demo(&[]);
    let sampled = json!({ "temperature": 0.9, "seed": 7, "logprobs": true, "top_logprobs": 2, "n": 2 });
    let whole = server.post(CHAT, &chat(&sampled)).json();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("king")));
    let choices = whole["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 2);
    let content = |choice: &Value| choice["message"]["content"].as_str().expect("a text").to_owned();
    assert_ne!(content(&choices[0]), content(&choices[1]), "each has a seed of its own");
    // The second has the next seed.
    let next = server.post(CHAT, &chat(&json!({ "temperature": 0.9, "seed": 8 }))).json();
    assert_eq!(content(&next["choices"][0]), content(&choices[1]));
    for choice in choices {
        let tokens = choice["logprobs"]["content"].as_array().expect("one per token");
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token["bytes"].as_array().expect("bytes"))
            .map(|byte| byte.as_u64().expect("a byte") as u8)
            .collect();
        assert_eq!(String::from_utf8(bytes).expect("UTF-8"), content(choice));
        for token in tokens {
            let top = token["top_logprobs"].as_array().expect("two");
            assert!(top.len() == 2 && token["logprob"].as_f64() <= top[0]["logprob"].as_f64(), "{token}");
        }
    }
    let usage = &whole["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    assert_eq!(count("prompt_tokens") + count("completion_tokens"), count("total_tokens"));
    assert!(count("completion_tokens") <= 48);

    let mut streamed = sampled.clone();
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({ "include_usage": true });
    let answer = server.post(CHAT, &chat(&streamed));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut events = answer.events();
    let last = events.pop().expect("the usage");
    assert_eq!((&last["usage"], &last["choices"]), (usage, &json!([])));
    for (index, choice) in choices.iter().enumerate() {
        let mine = events.iter().filter(|event| event["choices"][0]["index"] == json!(index));
        let mine: Vec<_> = mine.map(|event| &event["choices"][0]).collect();
        assert_eq!(mine[0]["delta"]["role"], "assistant");
        let text: String = mine.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, content(choice));
        let tokens: Vec<_> =
            mine.iter().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(json!(tokens), choice["logprobs"]["content"]);
        assert_eq!(mine.last().expect("an end")["finish_reason"], choice["finish_reason"]);
    }
    assert!(
        server.metric("albedo_replies_total{model=\"king\",end=\"length\"}")
            + server.metric("albedo_replies_total{model=\"king\",end=\"stop\"}")
            >= 5.0
    );
}

#[test]
fn a_stop_string_ends_a_reply_before_it() {
    let server = Server::demo(&[]);
    let whole = server.post(CHAT, &chat(&json!({ "temperature": 0 }))).json();
    let text = whole["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    // From the middle of the text, across tokens.
    let middle = text.char_indices().nth(text.chars().count() / 2).expect("a middle").0;
    let stop: String = text[middle..].chars().take(7).collect();
    let before = text.find(&stop).expect("it is there");
    for stream in [false, true] {
        let answer =
            server.post(CHAT, &chat(&json!({ "temperature": 0, "stop": [stop, "never"], "stream": stream })));
        let (shown, finish) = if stream {
            let events = answer.events();
            let text: String =
                events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
            (text, events.last().expect("an end")["choices"][0]["finish_reason"].clone())
        } else {
            let choice = answer.json()["choices"][0].clone();
            assert!(
                answer.json()["usage"]["completion_tokens"].as_u64()
                    < whole["usage"]["completion_tokens"].as_u64()
            );
            (
                choice["message"]["content"].as_str().expect("a text").to_owned(),
                choice["finish_reason"].clone(),
            )
        };
        assert_eq!(
            (shown.as_str(), finish),
            (&text[..before], json!("stop")),
            "stream: {stream}, stop: {stop:?}"
        );
    }
}

#[test]
fn completions_echo_their_prompt_with_its_log_probabilities() {
    let server = Server::demo(&[]);
    let ask = |fields: Value| {
        let mut body =
            json!({ "model": "king", "prompt": "def main(): return", "max_tokens": 1, "temperature": 0 });
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        server.post(COMPLETIONS, &body)
    };
    let plain = ask(json!({})).json()["choices"][0].clone();
    let echoed = ask(json!({ "echo": true, "logprobs": 1 })).json();
    let choice = &echoed["choices"][0];
    let written = plain["text"].as_str().expect("a text");
    assert_eq!(choice["text"], format!("def main(): return{written}"));
    let log_probs = &choice["logprobs"];
    let list = |name: &str| log_probs[name].as_array().unwrap_or_else(|| panic!("{name}: {log_probs}"));
    let tokens: String = list("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens, choice["text"].as_str().expect("a text"));
    let counted = echoed["usage"]["prompt_tokens"].as_u64().expect("a count") as usize + 1;
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(name).len(), counted, "{name}");
    }
    assert!(list("token_logprobs")[0].is_null() && list("top_logprobs")[0].is_null());
    // What was written is the likeliest, so that its number is that of the likeliest.
    let top = list("top_logprobs").last().expect("one").as_object().expect("a map");
    assert_eq!(list("token_logprobs").last(), top.get(written), "{log_probs}");

    // The same in tokens, several at once, and without writing.
    let ids: Vec<u32> = vec![5, 17, 230];
    let several =
        ask(json!({ "prompt": [ids, ids, [9]], "echo": true, "logprobs": 1, "max_tokens": 0 })).json();
    let choices = several["choices"].as_array().expect("three");
    assert_eq!((choices.len(), &several["usage"]["completion_tokens"]), (3, &json!(0)));
    assert_eq!(choices[0]["logprobs"], choices[1]["logprobs"]);
    assert_eq!(choices[2]["logprobs"]["token_logprobs"], json!([null]));
    let streamed =
        ask(json!({ "prompt": ids, "echo": true, "logprobs": 1, "max_tokens": 0, "stream": true })).events();
    assert_eq!(streamed[0]["choices"][0]["logprobs"], choices[0]["logprobs"]);
}

#[test]
fn what_is_wrong_has_its_status_and_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::configured(folder.path(), &king("limits = { body_bytes = 20000, choices = 4 }"));
    let long = "7 ".repeat(9000);
    for (path, body, status, param, code) in [
        (CHAT, chat(&json!({ "model": "queen" })), 404, "model", "model_not_found"),
        (CHAT, chat(&json!({ "temperatur": 1 })), 400, "temperatur", "unknown_parameter"),
        (
            CHAT,
            chat(&json!({ "response_format": { "type": "json_object" } })),
            400,
            "response_format",
            "unsupported_value",
        ),
        (CHAT, chat(&json!({ "max_tokens": 4096 })), 400, "messages", "context_length_exceeded"),
        (
            CHAT,
            chat(&json!({ "messages": [{ "role": "user", "content": long }] })),
            400,
            "messages",
            "context_length_exceeded",
        ),
        (CHAT, chat(&json!({ "n": 5 })), 400, "n", ""),
        (COMPLETIONS, json!({ "model": "king", "prompt": long }), 400, "prompt", "context_length_exceeded"),
        (COMPLETIONS, json!({ "model": "king", "prompt": [1, 99999] }), 400, "", ""),
        (COMPLETIONS, json!({ "model": "king", "prompt": ["a", "b"], "n": 3 }), 400, "n", ""),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.error(), (status, param.to_owned(), code.to_owned()), "{body:.200}");
        assert!(!answer.body.contains("examples/demo"), "a path of the server's: {answer:?}");
    }
    let large = server.raw(&post(CHAT, &" ".repeat(20001)));
    assert_eq!(large.error().0, 413);
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        20001,
        " ".repeat(20001)
    );
    assert_eq!(server.raw(chunked.as_bytes()).error().0, 413);
    let with =
        |head: &str| server.raw(format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
    assert_eq!(with("GET /v1/nothing HTTP/1.1").error().0, 404);
    assert_eq!(with(&format!("GET {CHAT} HTTP/1.1")).error().0, 405);
    assert_eq!(
        with(&format!("POST {CHAT} HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 0")).error().0,
        415
    );
    assert_eq!(with("GET /v1/models HTTP/1.1\r\nOrigin: https://evil.example").error().0, 403);
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ] {
        let answer = server.raw(garbage);
        assert!(answer.status == 400 || answer.status == 0, "{answer:?}");
    }
    let models = server.get("/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], models["data"].as_array().map(Vec::len)),
        (&json!("king"), Some(1))
    );
    assert_eq!(server.get("/v1/models/king").json()["max_model_len"], 4096);
    assert_eq!(server.get("/v1/models/a/b").error().2, "model_not_found");
}

#[test]
fn only_the_token_opens_and_never_appears() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = configured(folder.path(), &king("token_env = 'ALBEDO_TEST_TOKEN'"));
    let output = folder.path().join("log");
    command.env("ALBEDO_TEST_TOKEN", "open-sesame").stderr(std::fs::File::create(&output).expect("a file"));
    let server = Server::start(command);
    let with = |path: &str, token: &str| {
        server.raw(
            format!("GET {path} HTTP/1.1\r\nHost: gpu.example\r\n{token}Connection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    for path in ["/v1/models", "/metrics", "/openapi.json", "/v1/chat/completions"] {
        for token in ["", "Authorization: Bearer open\r\n", "Authorization: Basic open-sesame\r\n"] {
            let answer = with(path, token);
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (401, Some("bearer")),
                "{path} {token}"
            );
        }
    }
    assert_eq!(with("/v1/models", "Authorization: Bearer open-sesame\r\n").status, 200);
    assert_eq!((with("/healthz", "").status, with("/readyz", "").status), (200, 200));
    let metrics = with("/metrics", "Authorization: Bearer open-sesame\r\n").body;
    assert!(metrics.contains("albedo_unauthorized_total 12"), "{metrics}");
    drop(server);
    let log = std::fs::read_to_string(output).expect("a log");
    assert!(log.contains("a request was refused") && !log.contains("sesame"), "{log}");
}

#[test]
fn other_machines_need_a_token_and_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |text: &str| {
        let output = configured(folder.path(), text).output().expect("albedo starts");
        (output.status.code(), error(&output))
    };
    let (code, message) = refused("listen = '0.0.0.0:0'");
    assert_eq!(code, Some(78), "{message}");
    assert!(
        message.contains("needs a token and a TLS certificate") && message.contains("token_env"),
        "{message}"
    );
    let tls = "tls = { certificate = 'none.pem', key = 'none.pem' }";
    let (code, message) = refused(&format!("listen = '0.0.0.0:0'\n{tls}"));
    assert_eq!((code, message.contains("needs a token")), (Some(78), true), "{message}");
    let (code, message) = refused(&format!("listen = '127.0.0.1:0'\n{tls}"));
    assert_eq!((code, message.contains("none.pem")), (Some(78), true), "{message}");
    let (code, message) = refused("listen = '127.0.0.1:0'\ntoken_env = 'ALBEDO_TEST_NO_TOKEN'");
    assert_eq!((code, message.contains("ALBEDO_TEST_NO_TOKEN")), (Some(77), true), "{message}");
}

#[test]
fn albedos_own_client_reads_it_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.path().join("c.pem"), made.cert.pem()).expect("writes");
    std::fs::write(folder.path().join("k.pem"), made.signing_key.serialize_pem()).expect("writes");
    let text = king("token_env = 'ALBEDO_TEST_TOKEN'\ntls = { certificate = 'c.pem', key = 'k.pem' }");
    let mut served = configured(folder.path(), &text.replace("127.0.0.1:0", "0.0.0.0:0"));
    served.env("ALBEDO_TEST_TOKEN", "open-sesame");
    let server = Server::start(served);
    let port = server.address().rsplit(':').next().expect("a port");
    let url = format!("base_url=https://localhost:{port}/v1");
    let remote = |key: &str| {
        let mut generate = command([
            "generate",
            "name:king",
            "--prompt",
            "ls",
            "--max-new-tokens",
            "8",
            "--backend",
            "openai",
            "--set",
            &url,
            "--set",
            "key_env=ALBEDO_TEST_TOKEN",
        ]);
        generate.env("ALBEDO_TEST_TOKEN", key).env("SSL_CERT_FILE", folder.path().join("c.pem"));
        generate.output().expect("albedo starts")
    };
    let king = crate::run::demo().join("models/king");
    let local =
        command(["generate", king.to_str().expect("UTF-8"), "--prompt", "ls", "--max-new-tokens", "8"]);
    let local = { local }.output().expect("albedo starts");
    let given = remote("open-sesame");
    assert_eq!(crate::run::stdout(&given), crate::run::stdout(&local));
    assert!(!remote("wrong").status.success());
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::configured(folder.path(), &king("limits = { streams = 1, queue = 1 }"));
    // The demo's king writes some 1,100 tokens to it.
    let long = chat(&json!({ "max_tokens": 3000, "temperature": 2, "seed": 1, "stream": true }));
    let begun = |body: &Value| {
        let mut stream = server.connect();
        stream.write_all(&post(CHAT, &body.to_string())).expect("sends");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(reader.read_line(&mut line).expect("reads") > 0, "it ended early");
        }
        reader
    };
    let first = begun(&long);
    // One more waits; a third is refused.
    let mut waiting = server.connect();
    waiting.write_all(&post(CHAT, &chat(&json!({})).to_string())).expect("sends");
    while server.metric("albedo_queue") < 1.0 {
        std::thread::yield_now();
    }
    let refused = server.post(CHAT, &chat(&json!({})));
    assert_eq!((refused.error().0, refused.error().2.as_str()), (429, "queue_full"));
    assert_eq!(refused.header("retry-after"), Some("2"));
    drop(first);
    assert_eq!(Answer::read(waiting).status, 200, "the place is free again");
    assert_eq!(server.metric("albedo_replies_total{model=\"king\",end=\"abandoned\"}"), 1.0);
    server.settle();
}

#[test]
fn a_request_that_drips_in_is_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::configured(
        folder.path(),
        &king("limits = { header_secs = 0.3, body_secs = 0.3, connections = 3 }"),
    );
    let mut head = server.connect();
    head.write_all(b"POST /v1/chat/completions HTT").expect("sends");
    let closed = Answer::read(head);
    assert!(closed.status == 0 || closed.status == 408, "{closed:?}");
    let mut body = server.connect();
    let sent = post(CHAT, &chat(&json!({})).to_string());
    body.write_all(&sent[..sent.len() - 5]).expect("sends");
    assert_eq!(Answer::read(body).error().0, 408);
    // One connection too many is closed at once.
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let refused = Answer::read(server.connect());
    assert_eq!(refused.status, 0, "{refused:?}");
    drop(held);
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_stop_finishes_what_is_under_way() {
    let mut server = Server::demo(&[]);
    let mut stream = server.connect();
    let body = chat(&json!({ "max_tokens": 200, "temperature": 2, "seed": 1, "stream": true }));
    stream.write_all(&post(CHAT, &body.to_string())).expect("sends");
    let mut first = [0; 64];
    stream.read_exact(&mut first).expect("it begins");
    server.terminate();
    let mut rest = first.to_vec();
    stream.read_to_end(&mut rest).expect("it goes on");
    let events = Answer::read(&rest[..]).events();
    assert!(!events.last().expect("an end")["choices"][0]["finish_reason"].is_null());
    let status = server.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(TcpStream::connect(server.address()).is_err(), "it listens no more");
}

/// The description is the routes', and the routes' requests are what it says.
#[test]
fn the_description_is_honest() {
    let server = Server::demo(&[]);
    let description = server.get("/openapi.json").json();
    let paths = description["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let path = path.replace("{model}", "king");
            let path = path.replace("{id}", &"0".repeat(64)).replace("{sha256}", &"0".repeat(64));
            let request = format!(
                "{} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                method.to_uppercase()
            );
            let answer = server.raw(request.as_bytes());
            assert!(
                answer.status != 405 && !answer.body.contains("no such route"),
                "{method} {path}: {answer:?}"
            );
        }
    }
    for path in [
        CHAT,
        COMPLETIONS,
        "/v1/models",
        "/v1/models/{model}",
        "/v1/engine",
        "/v1/files/{sha256}",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/events",
        "/v1/jobs/{id}/result",
        "/metrics",
        "/healthz",
        "/readyz",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    // What is described as the body of an error is described, too.
    let refused = &paths["/v1/jobs/{id}"]["put"]["responses"]["409"]["content"]["application/json"]["schema"];
    let name = refused["$ref"].as_str().and_then(|path| path.rsplit('/').next()).expect("a reference");
    assert!(description["components"]["schemas"][name].is_object(), "{refused}");
    // serde lists the fields that it knows when it meets one that it does not.
    for (path, schema) in [(CHAT, "ChatRequest"), (COMPLETIONS, "CompletionRequest")] {
        let schema = &description["components"]["schemas"][schema];
        for field in schema["properties"].as_object().expect("fields").keys() {
            let answer = server.post(path, &json!({ field: {"no": "such"} }));
            let (_, param, code) = answer.error();
            assert!(code != "unknown_parameter" || param != *field, "{field} is described and not known");
        }
        let required: Vec<_> =
            schema["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(required.len(), 2, "{required:?}");
        let answer = server.post(path, &json!({ required[0]: "king" }));
        assert!(answer.body.contains(required[1]), "{answer:?}");
    }
    // An answer has the fields that are described as always there, and no others.
    let chat = server.post(CHAT, &chat(&json!({ "max_tokens": 1 }))).json();
    let described = &description["components"]["schemas"]["ChatCompletion"];
    for field in described["required"].as_array().expect("a list") {
        assert!(chat.get(field.as_str().expect("a name")).is_some(), "{field}");
    }
    for field in chat.as_object().expect("an object").keys() {
        assert!(described["properties"].get(field).is_some(), "{field} is not described");
    }
}

/// `promtool`, of Debian's package `prometheus`, reads what the server counts.
#[test]
fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let server = Server::demo(&[]);
    assert_eq!(server.post(CHAT, &chat(&json!({ "max_tokens": 2 }))).status, 200);
    assert_eq!(server.get("/nothing/at/all").status, 404);
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(
        metrics.body.contains("albedo_requests_total{route=\"other\",status=\"404\"} 1"),
        "{}",
        metrics.body
    );
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("skipped: promtool is not installed (Debian's package `prometheus`)");
        return;
    };
    promtool.stdin.take().expect("its input").write_all(metrics.body.as_bytes()).expect("writes");
    let found = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&found.stderr).into_owned() + &String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success() && said.is_empty(), "{said}\n{}", metrics.body);
}
