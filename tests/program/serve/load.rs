//! Many clients at once, some of them bad ones: the others notice nothing.
//!
//! A short slice runs with the other tests. The whole load, which is measured and
//! asserted on, runs on demand and alone:
//! `ALBEDO_LOAD_CLIENTS=200 cargo test --release --test program serve::load -- --nocapture`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Answer, CHAT, Server, chat, post};

/// Requests that a well-behaved client makes, one after the other.
const REQUESTS: usize = 3;

/// The time over which the clients of the whole load arrive: short enough for the server to be busy all
/// the time. Clients of an idle server differ by whether another one happens to be there.
const ARRIVALS: Duration = Duration::from_secs(2);

/// Different requests.
const KINDS: usize = 8;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Asks and reads.
    Good,
    /// Asks for much and reads nothing until all others are done.
    Slow,
    /// Asks for much and goes away after the first token.
    Vanishes,
    /// Sends what is no request.
    Garbage,
}

/// A tenth each of slow readers, of those that vanish and of those that send garbage.
fn manner(client: usize) -> Manner {
    match client % 10 {
        3 => Manner::Slow,
        6 => Manner::Vanishes,
        9 => Manner::Garbage,
        _ => Manner::Good,
    }
}

/// A pseudo-random number below `below`. Source: splitmix64.
fn random(seed: usize, below: u64) -> u64 {
    let mut x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) % below
}

/// Request `kind`: streamed or not, of another text and seed each.
fn request(kind: usize) -> Value {
    let content = format!("Number {kind} of the tests fails. {}", "Look at it again. ".repeat(kind % 4));
    chat(&json!({
        "messages": [{ "role": "user", "content": content }],
        "temperature": 0.8, "seed": kind, "max_tokens": 16, "stream": kind.is_multiple_of(2),
    }))
}

fn text(answer: &Answer) -> String {
    if answer.body.starts_with("data: ") {
        let events = answer.events();
        return events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    }
    answer.json()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

/// What is large enough for a socket to be full of it.
fn much() -> Value {
    chat(&json!({
        "temperature": 2, "seed": 1, "max_tokens": 256, "stream": true, "logprobs": true, "top_logprobs": 20,
    }))
}

/// Sends a request and returns its connection with nothing read.
fn sent(server: &Server, body: &Value) -> TcpStream {
    let mut stream = server.connect();
    stream.write_all(&post(CHAT, &body.to_string())).expect("sends");
    stream
}

fn garbage(server: &Server, client: usize) {
    let mut stream = server.connect();
    let bytes: Vec<u8> = match client % 40 {
        9 => (0..4096).map(|at| random(client * 4096 + at, 256) as u8).collect(),
        19 => post(CHAT, "{\"model\": \"king\", \"messages\": [[[[[[[")[..].to_vec(),
        29 => {
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n{"
                .to_vec()
        }
        _ => b"GET /v1/models HTTP/1.1\r\nHost: local".to_vec(),
    };
    // The server may close before it has read everything.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// One round of `clients`: the times of the well-behaved ones, in seconds, ascending.
fn round(server: &Server, clients: usize, spread: Duration, expected: &[String]) -> Vec<f64> {
    let (times, measured) = mpsc::channel();
    let slow = &Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for client in 0..clients {
            let times = times.clone();
            running.push(scope.spawn(move || {
                // Arrivals are spread at random.
                std::thread::sleep(spread.mul_f64(random(client, 1000) as f64 / 1000.0));
                match manner(client) {
                    Manner::Good => {
                        let began = Instant::now();
                        for turn in 0..REQUESTS {
                            let kind = (client + turn) % KINDS;
                            let answer = Answer::read(sent(server, &request(kind)));
                            assert_eq!(answer.status, 200, "client {client}: {answer:?}");
                            assert_eq!(text(&answer), expected[kind], "client {client}, request {kind}");
                        }
                        times.send(began.elapsed().as_secs_f64()).expect("somebody listens");
                    }
                    Manner::Slow => slow.lock().expect("unpoisoned").push(sent(server, &much())),
                    Manner::Vanishes => {
                        let mut reader = BufReader::new(sent(server, &much()));
                        let mut line = String::new();
                        while !line.starts_with("data: ") {
                            line.clear();
                            assert!(reader.read_line(&mut line).expect("reads") > 0, "it ended early");
                        }
                    }
                    Manner::Garbage => garbage(server, client),
                }
            }));
        }
        drop(times);
        for client in running {
            client.join().expect("no client fails");
        }
        // A slow reader gets everything after all.
        for stream in slow.lock().expect("unpoisoned").drain(..) {
            let answer = Answer::read(stream);
            assert!(answer.status == 200 && !answer.events().is_empty(), "{}", answer.status);
        }
    });
    let mut times: Vec<_> = measured.into_iter().collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

#[test]
fn bad_clients_harm_no_good_one() {
    let clients: Option<usize> =
        std::env::var("ALBEDO_LOAD_CLIENTS").ok().map(|count| count.parse().expect("a number"));
    let server = Server::demo(&[]);
    let alone: Vec<_> = (0..KINDS).map(|kind| text(&server.post(CHAT, &request(kind)))).collect();
    let Some(clients) = clients else {
        round(&server, 20, Duration::ZERO, &alone);
        // Those who vanished leave nothing behind.
        server.settle();
        return;
    };
    let mut memory = Vec::new();
    for number in 0..4 {
        let times = round(&server, clients, ARRIVALS, &alone);
        let (median, slowest) = (times[times.len() / 2], *times.last().expect("some"));
        memory.push(server.metric("process_resident_memory_bytes") / 1e6);
        println!(
            "round {number}: {clients} clients, {} well-behaved: median {median:.2} s, slowest {slowest:.2} s ({:.2} times); {:.0} MB",
            times.len(),
            slowest / median,
            memory[number]
        );
        assert!(slowest <= 3.0 * median, "not fair: {times:?}");
    }
    // The first round fills what is kept: threads' stacks, buffers, the allocator's pools.
    assert!(memory[3] <= 1.1 * memory[1], "memory grows: {memory:?} MB");
    server.settle();
}
