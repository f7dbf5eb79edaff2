//! A backend of one's own: byte n-grams, trained on the demo's trajectories,
//! that answer and score. Registered by name, checked by the conformance suite
//! (`cargo test --release --example custom_backend`), and put into a duel: much
//! training text against little.
//!
//! Needs the demo pack (`examples/demo`); run it in the repository's root:
//! `cargo run --release --example custom_backend`
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use albedo::prelude::*;
use albedo::rng::{Stream, Use};
use albedo::{
    Artefact, Completion, Digest, FinishReason, GenerateRequest, Generated, Message, ModelInfo, Sampling,
    ScoreRequest, TokenScores, Usage,
};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A model is a folder with this file: one conversation a line, as JSON.
const CORPUS: &str = "corpus.jsonl";

/// Tokens are bytes. This one is in no UTF-8 and closes a turn.
const STOP: u8 = 0xff;

/// Longest prompt and reply together, in bytes.
const CONTEXT: u32 = 1 << 16;

const LOAD: &str = "load the n-grams";

/// Loads [`NGrams`].
#[derive(Debug)]
struct NGramBackend {
    identity: Identity,
    config: NGramConfig,
}

/// Settings of [`NGramBackend`]: strict, with a default for everything.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct NGramConfig {
    /// The most bytes that the next one is predicted from.
    order: usize,
}

impl Default for NGramConfig {
    fn default() -> Self {
        Self { order: 16 }
    }
}

impl Plugin<dyn ModelBackend> for NGramBackend {
    const NAME: &'static str = "ngram";
    const SUMMARY: &'static str = "byte n-grams of a folder's conversations";
    type Config = NGramConfig;
    type Checked = Self;

    fn check(config: NGramConfig, _: &CheckContext<'_>) -> albedo::Result<Self> {
        if config.order > 64 {
            let operation = "check the settings of backend `ngram`";
            return Err(
                Error::new(ErrorKind::ConfigInvalid, operation, "`order` is above 64").with("key", "order")
            );
        }
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    fn check_model(_: &Self, model: &ModelRef) -> albedo::Result<()> {
        model.require_files(LOAD)
    }

    async fn build(backend: Self, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(backend))
    }
}

register!(dyn ModelBackend => NGramBackend);

#[async_trait]
impl ModelBackend for NGramBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> albedo::Result<Arc<dyn ModelSession>> {
        let path = model.model.require_folder(LOAD)?.join(CORPUS);
        let bytes = fs::read(&path).map_err(|error| Error::io(LOAD, &path, error))?;
        let parameters = Digest::of(format!("{}  {CORPUS}\n", Digest::of(&bytes)));
        if model.parameters.is_some_and(|pinned| pinned != parameters) {
            return Err(Error::new(ErrorKind::DigestMismatch, LOAD, "the corpus is not the pinned one")
                .about(Artefact::Model)
                .with("path", path.display())
                .with("found", parameters));
        }
        let order = self.config.order;
        let train = move || NGrams::train(&bytes, order).map_err(|error| error.with("path", path.display()));
        let ngrams = cx
            .run(LOAD, tokio::task::spawn_blocking(train))
            .await?
            .map_err(|error| Error::bug(LOAD, "training panicked").with_source(error))??;
        let info = ModelInfo::new(parameters, "ByteNGrams", CONTEXT)
            .with_parameter_count(ngrams.text.len() as u64)
            .with_dtype("f64")
            .with_text(Digest::of("bytes"), Digest::of("role, colon, content, stop"), vec![u32::from(STOP)])
            .with_config(Digest::of_json(&self.config)?);
        Ok(Arc::new(Session { info, ngrams: Arc::new(ngrams) }))
    }
}

#[derive(Debug)]
struct Session {
    info: ModelInfo,
    ngrams: Arc<NGrams>,
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> albedo::Result<Option<u32>> {
        Ok(Some(prompt(messages).len() as u32))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        // Dropping the stream drops the guard, which stops what is not finished.
        let cx = cx.child();
        let guard = cx.cancel_on_drop();
        let ngrams = Arc::clone(&self.ngrams);
        let answer = move |(index, request): (usize, GenerateRequest)| {
            let (ngrams, cx, _guard) = (Arc::clone(&ngrams), cx.clone(), &guard);
            let reply = tokio::task::spawn_blocking(move || ngrams.reply(&request, &cx));
            async move {
                let lost = |error| Err(Error::bug("write a reply", "the thread failed").with_source(error));
                Generated { index, result: reply.await.unwrap_or_else(lost) }
            }
        };
        stream::iter(requests.into_iter().enumerate()).map(answer).buffer_unordered(8).boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> albedo::Result<Vec<TokenScores>> {
        let scores =
            |request: &ScoreRequest| self.ngrams.score(prompt(&request.messages), &request.reply, cx);
        requests.iter().map(scores).collect()
    }
}

/// The conversation as the model reads it, up to where the assistant begins.
fn prompt(messages: &[Message]) -> Vec<u8> {
    let mut text = Vec::new();
    for message in messages {
        text.extend_from_slice(format!("{}:\n{}", message.role.as_str(), message.content).as_bytes());
        text.push(STOP);
    }
    text.extend_from_slice(b"assistant:\n");
    text
}

/// Counts of all n-grams up to `order + 1` bytes: the training text, and where
/// its suffixes begin, sorted, so that an n-gram's occurrences are neighbours.
#[derive(Debug)]
struct NGrams {
    text: Vec<u8>,
    suffixes: Vec<u32>,
    order: usize,
}

impl NGrams {
    fn train(corpus: &[u8], order: usize) -> albedo::Result<Self> {
        const TRAIN: &str = "read the corpus";
        let mut text = Vec::new();
        for (number, line) in (1..).zip(corpus.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())) {
            let messages: Vec<Message> = serde_json::from_slice(line).map_err(|error| {
                Error::new(ErrorKind::DataInvalid, TRAIN, error.to_string()).with("conversation", number)
            })?;
            let rendered = prompt(&messages);
            text.extend_from_slice(rendered.strip_suffix(b"assistant:\n").unwrap_or(&rendered));
        }
        let length = u32::try_from(text.len())
            .map_err(|_| Error::new(ErrorKind::Unsupported, TRAIN, "the corpus has more than 4 GB"))?;
        let mut suffixes: Vec<u32> = (0..length).collect();
        let suffix = |&start: &u32| &text[start as usize..text.len().min(start as usize + order + 1)];
        suffixes.sort_unstable_by(|a, b| suffix(a).cmp(suffix(b)));
        Ok(Self { text, suffixes, order })
    }

    /// The probability of every next byte. Each order's counts are smoothed with
    /// the next shorter one's estimate, the more the more different bytes
    /// followed (Witten and Bell, *The zero-frequency problem*, 1991). Orders
    /// double: neighbours would say the same twice.
    fn next(&self, context: &[u8]) -> [f64; 256] {
        let mut probabilities = [1.0 / 256.0; 256];
        let orders = std::iter::successors(Some(0), |&length| Some((2 * length).max(1)));
        for length in orders.take_while(|&length| length <= self.order.min(context.len())) {
            let gram = &context[context.len() - length..];
            let start = |&at: &u32| &self.text[at as usize..self.text.len().min(at as usize + length)];
            let from = self.suffixes.partition_point(|at| start(at) < gram);
            let found = self.suffixes[from..].partition_point(|at| start(at) == gram);
            if found == 0 {
                break;
            }
            let next = |at: u32| self.text.get(at as usize + length).copied();
            let mut counts = Vec::new();
            let mut left = &self.suffixes[from..from + found];
            while let Some(&first) = left.first() {
                let count = left.partition_point(|&at| next(at) <= next(first));
                counts.extend(next(first).map(|byte| (byte, count as f64)));
                left = &left[count..];
            }
            let kinds = counts.len() as f64;
            let all = kinds + counts.iter().map(|(_, count)| count).sum::<f64>();
            if all > 0.0 {
                for probability in &mut probabilities {
                    *probability *= kinds / all;
                }
            }
            for (byte, count) in counts {
                probabilities[usize::from(byte)] += count / all;
            }
        }
        probabilities
    }

    fn reply(&self, request: &GenerateRequest, cx: &CallContext) -> albedo::Result<Completion> {
        const WRITE: &str = "write a reply";
        request.sampling.check()?;
        if request.max_new_tokens == 0 {
            return Err(Error::new(ErrorKind::ConfigInvalid, WRITE, "`max_new_tokens` is 0"));
        }
        let mut text = prompt(&request.messages);
        let prompt_tokens = text.len();
        check_context(prompt_tokens + request.max_new_tokens as usize)?;
        // Of a text to score beside the reply, as much as the context holds.
        let room = CONTEXT as usize - prompt_tokens;
        let scored = request.score_reply.as_ref().map(|reply| self.read(text.clone(), reply, room, cx));
        let reply_scores = scored.transpose()?;
        // The stream of this request's seed, read by position: what else is
        // being written does not matter.
        let stream = Stream::new(request.seed, Use::Token);
        let mut finish = FinishReason::Length;
        for position in 0..u64::from(request.max_new_tokens) {
            cx.check(WRITE)?;
            let byte = choose(&self.next(&text), &request.sampling, stream.unit_at(position));
            text.push(byte);
            if byte == STOP {
                finish = FinishReason::Stop;
                break;
            }
        }
        let reply = &text[prompt_tokens..];
        let usage = Usage::counted(prompt_tokens as u32, reply.len() as u32);
        Ok(Completion::new(
            String::from_utf8_lossy(reply.strip_suffix(&[STOP]).unwrap_or(reply)).into_owned(),
            finish,
            usage,
        )
        .with_tokens(reply.iter().copied().map(u32::from).collect())
        .with_reply_scores(reply_scores))
    }

    /// Log-probabilities of `reply`'s bytes and the stop after them.
    fn score(&self, text: Vec<u8>, reply: &str, cx: &CallContext) -> albedo::Result<TokenScores> {
        check_context(text.len() + reply.len() + 1)?;
        self.read(text, reply, usize::MAX, cx)
    }

    /// The scores of the first `most` tokens of `reply` and its end.
    fn read(
        &self,
        mut text: Vec<u8>,
        reply: &str,
        most: usize,
        cx: &CallContext,
    ) -> albedo::Result<TokenScores> {
        let mut log_probs = Vec::new();
        for byte in reply.bytes().chain([STOP]).take(most) {
            cx.check("score a reply")?;
            log_probs.push(self.next(&text)[usize::from(byte)].ln().min(0.0) as f32);
            text.push(byte);
        }
        Ok(TokenScores { log_probs })
    }
}

fn check_context(tokens: usize) -> albedo::Result<()> {
    if tokens <= CONTEXT as usize {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "read the prompt", format!("{tokens} tokens do not fit"))
        .with("context", CONTEXT))
}

/// The byte at `unit` of the distribution that `sampling` makes of
/// `probabilities`.
fn choose(probabilities: &[f64; 256], sampling: &Sampling, unit: f64) -> u8 {
    let mut bytes: Vec<u8> = (0..=255).collect();
    // Stable: the lowest of equals comes first.
    bytes.sort_by(|&a, &b| probabilities[usize::from(b)].total_cmp(&probabilities[usize::from(a)]));
    if sampling.temperature == 0.0 {
        return bytes[0];
    }
    if sampling.top_k > 0 {
        bytes.truncate(sampling.top_k as usize);
    }
    let power = 1.0 / sampling.temperature;
    let best = probabilities[usize::from(bytes[0])];
    let weights = bytes.iter().map(|&byte| (probabilities[usize::from(byte)] / best).powf(power));
    let mut weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    let mut reached = 0.0;
    let kept = weights.iter().position(|weight| {
        reached += weight;
        reached >= sampling.top_p * total
    });
    weights.truncate(kept.map_or(weights.len(), |kept| kept + 1));
    let mut left = unit * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    bytes[chosen.unwrap_or(weights.len() - 1)]
}

/// Writes a model: the first `conversations` of the demo's training data.
fn write_model(folder: &Path, conversations: usize) -> albedo::Result<()> {
    #[derive(Deserialize)]
    struct Trajectory {
        messages: Vec<Message>,
    }
    let data = albedo::demo::Demo::locate()?.folder().join("train.jsonl.gz");
    let failed = |error| Error::io("write the model", folder, error);
    let file = File::open(&data).map_err(|error| Error::io("open the training data", &data, error))?;
    let mut corpus = String::new();
    for line in BufReader::new(flate2::read::GzDecoder::new(file)).lines().take(conversations) {
        let trajectory: Trajectory = serde_json::from_str(&line.map_err(failed)?).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "read the training data", error.to_string())
        })?;
        corpus.push_str(&json!(trajectory.messages).to_string());
        corpus.push('\n');
    }
    fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(CORPUS), corpus)).map_err(failed)
}

#[tokio::main]
async fn main() -> albedo::Result<()> {
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let folder = std::env::temp_dir().join(format!("albedo-custom-backend-{}", std::process::id()));
    let (little, much) = (folder.join("little"), folder.join("much"));
    write_model(&little, 10)?;
    write_model(&much, 400)?;

    let backend = registry.build::<dyn ModelBackend>("ngram", json!({}), &cx).await?;
    let king = Contestant::load(Side::King, &backend, &ModelSource::new(little), &cx).await?;
    let challenger = Contestant::load(Side::Challenger, &backend, &ModelSource::new(much), &cx).await?;
    let demo = albedo::demo::Demo::locate()?;
    let tasks = registry.build::<dyn TaskSource>("parquet", json!({ "path": demo.tasks() }), &cx).await?;
    let mut judges = Vec::new();
    for name in ["protocol", "reference-action", "reference-likelihood"] {
        judges.push(registry.build::<dyn Judge>(name, json!({}), &cx).await?);
    }

    let mut settings = DuelSettings { samples: 48, ..DuelSettings::default() };
    settings.generation.sampling.temperature = 1.0;
    let store = MemoryStore::default();
    let duel = Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(settings);
    let report = duel.plan(&store, &cx).await?.run(&store, &cx).await?;
    for judge in &report.verdict.judges {
        println!("{:<21}{:+.1} points", judge.judge, judge.margin);
    }
    println!("{}: margin {:+.1} points", report.verdict.outcome, report.verdict.margin);
    fs::remove_dir_all(&folder).map_err(|error| Error::io("remove the models", &folder, error))
}

#[cfg(test)]
mod tests {
    use albedo::MessageRole;
    use albedo_core::conformance::{BackendFixture, SessionFixture, check_backend};

    use super::*;

    #[tokio::test]
    async fn the_backend_keeps_the_roles_promises() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        write_model(&model, 3).expect("writes");
        let user = |text: &str| vec![Message::new(MessageRole::User, text)];
        let conversations = vec![
            user("test_days_between fails"),
            user("almanac: Fix the bug without touching the tests.\n"),
            vec![Message::new(MessageRole::System, "Answer."), user("é 😀").remove(0)],
        ];
        let mut session = SessionFixture::new(conversations);
        session.replies = vec![("THOUGHT: I run it.".into(), 18), ("é".into(), 2)];
        let fixture = BackendFixture {
            model: ModelSource::new(&model),
            missing: ModelSource::new(folder.path().join("none")),
            session,
        };
        let (cx, registry) = (CallContext::new(), Registry::linked().expect("plugins"));
        for config in [json!({}), json!({ "order": 0 })] {
            let backend = registry.build::<dyn ModelBackend>("ngram", config, &cx).await.expect("builds");
            Box::pin(check_backend(&*backend, &fixture)).await.expect("conforms");
        }
    }

    #[test]
    fn probabilities_sum_to_one_and_follow_what_was_seen() {
        let corpus = json!([Message::new(MessageRole::Assistant, "abcabcabd")]).to_string();
        let ngrams = NGrams::train(corpus.as_bytes(), 8).expect("trains");
        for context in ["", "ab", "abcab", "never seen"] {
            let next = ngrams.next(context.as_bytes());
            assert!((next.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{context}");
            assert!(next.iter().all(|probability| *probability > 0.0), "{context}");
        }
        let next = ngrams.next(b"ab");
        assert!(next[usize::from(b'c')] > next[usize::from(b'd')]);
        assert!(next[usize::from(b'd')] > next[usize::from(b'x')]);
    }

    #[test]
    fn a_corpus_that_is_none_is_refused() {
        let error = NGrams::train(b"[]\nnonsense\n", 8).expect_err("refuses");
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        assert!(error.to_string().contains("conversation: 2"), "{error}");
    }
}
