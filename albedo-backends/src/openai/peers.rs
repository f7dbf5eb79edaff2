//! Answers of real servers, and of servers that could be: `corpus/peers.jsonl`.
//! Each line names the case and the server, the answer as it is on the wire, and
//! what is to come of it.

use std::sync::Mutex;

use albedo_core::http::{HeaderMap, HttpRequest, HttpResponse};
use albedo_core::rng::{Stream, Use};
use albedo_core::{FinishReason, MessageRole};
use futures::stream;
use serde_json::json;

use super::reply::Reader;
use super::*;

const CORPUS: &str = include_str!("../../corpus/peers.jsonl");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    server: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Option<String>,
    hex: Option<String>,
    expect: Value,
}

fn ok() -> u16 {
    200
}

impl Case {
    fn all() -> Vec<Self> {
        CORPUS.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        if let Some(body) = &self.body {
            return body.clone().into_bytes();
        }
        let digits = self.hex.as_deref().expect("a body").as_bytes();
        let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn answer(&self, piece: usize) -> HttpResponse {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        let pieces: Vec<Result<_>> =
            self.bytes().chunks(piece).map(|piece| Ok(piece.to_vec().into())).collect();
        let status = StatusCode::from_u16(self.status).expect("a status");
        HttpResponse::new("ask", status, headers.collect::<HeaderMap>(), stream::iter(pieces).boxed())
    }
}

/// Answers the first request with its one answer.
#[derive(Debug)]
struct Once(Mutex<Option<HttpResponse>>);

#[async_trait]
impl HttpTransport for Once {
    async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
        Ok(self.0.lock().expect("no panic").take().expect("one request"))
    }
}

async fn ask(answer: HttpResponse) -> Result<Completion> {
    let config = OpenAiConfig {
        base_url: Some("https://llm.test/v1".into()),
        check_model: false,
        ..OpenAiConfig::default()
    };
    let backend = OpenAiBackend::with_key(config, None, Arc::new(Once(Mutex::new(Some(answer)))))?;
    let cx = CallContext::new();
    let session = backend.load(&ModelSource::served("m"), &cx).await?;
    let request = GenerateRequest::new([Message::new(MessageRole::User, "hi")], 16);
    session.generate(vec![request], &cx).next().await.expect("an answer").result
}

/// What came of an answer, in the corpus's words, as far as `expect` asks.
fn told(result: &Result<Completion>, expect: &Value) -> Value {
    match result {
        Ok(completion) => {
            let finish = match completion.finish {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                _ => "unknown",
            };
            let usage = completion.usage;
            let all = json!({
                "text": completion.text, "finish": finish, "reasoning": completion.reasoning,
                "prompt": usage.prompt_tokens, "completion": usage.completion_tokens,
                "price": usage.price_usd, "log_probs": completion.log_probs,
            });
            let asked = expect.as_object().expect("an object").keys();
            asked.map(|key| (key.clone(), all[key].clone())).collect::<Map<_, _>>().into()
        }
        Err(error) => {
            let words = expect["error"]["words"].as_str().unwrap_or_default();
            let mut told = json!({
                "kind": format!("{:?}", error.kind()),
                "fault": error.fault().to_string(),
                "words": if error.to_string().contains(words) { words.into() } else { error.to_string() },
            });
            if !expect["error"]["retry"].is_null() {
                told["retry"] = error.is_retryable().into();
            }
            json!({ "error": told })
        }
    }
}

#[tokio::test]
async fn every_answer_comes_to_what_its_server_meant() {
    let mut wrong = Vec::new();
    for case in Case::all() {
        for piece in [usize::MAX, 1, 7] {
            let result = ask(case.answer(piece)).await;
            let told = told(&result, &case.expect);
            if told != case.expect {
                let Case { name, server, expect, .. } = &case;
                wrong.push(format!("{name} ({server}), pieces of {piece}:\n  {told}\n  {expect}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
}

/// Mutations of the corpus, by a fixed seed, however the bytes are cut:
/// `ALBEDO_FUZZ_RUNS=10000000` for the long form.
#[test]
fn no_answer_breaks_the_readers() {
    const WORDS: [&[u8]; 12] = [
        b"data: ",
        b"\n\n",
        b"\r",
        b"error: ",
        b"[DONE]",
        b"{\"",
        b"\"\\ud800\"",
        b"NaN",
        b"1e999",
        b"\xff\xef\xbb\xbf",
        b"[[[[[[[[",
        b"null",
    ];
    let runs: u64 = std::env::var("ALBEDO_FUZZ_RUNS").map_or(20_000, |runs| runs.parse().expect("a number"));
    let seeds: Vec<_> = Case::all().iter().map(Case::bytes).filter(|bytes| bytes.len() < 4096).collect();
    let mut stream = Stream::new(21, Use::RowDraw);
    let refused: reply::Refused<'_> = &|_| Error::new(ErrorKind::Unavailable, "ask", "refused");
    let (mut read, mut failed) = (0, 0);
    for _ in 0..runs {
        let mut bytes = seeds[stream.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=stream.below(3) {
            let at = stream.below(bytes.len() as u64 + 1) as usize;
            let end = (at + stream.below(40) as usize).min(bytes.len());
            match stream.below(5) {
                0 if at < bytes.len() => bytes[at] = stream.next_u64() as u8,
                1 => bytes.truncate(at),
                2 => drop(bytes.splice(at..at, WORDS[stream.below(12) as usize].iter().copied())),
                3 => drop(bytes.drain(at..end)),
                _ => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        let whole = reading(&bytes, usize::MAX, refused);
        let pieces = reading(&bytes, 1 + stream.below(9) as usize, refused);
        assert_eq!(whole, pieces, "{}", String::from_utf8_lossy(&bytes));
        match whole {
            Ok(_) => read += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(
        read > runs / 10 && failed > runs / 10,
        "{read} read, {failed} failed: too coarse to test anything"
    );
}

/// The reply in `bytes` that arrive in pieces of `size`.
fn reading(bytes: &[u8], size: usize, refused: reply::Refused<'_>) -> Result<Completion, ErrorKind> {
    let mut reader = Reader::default();
    for piece in bytes.chunks(size) {
        if reader.is_done() {
            break;
        }
        reader.push(piece, refused).map_err(|error| error.kind())?;
    }
    reader.end(None, refused).map_err(|error| error.kind())
}
