//! What recording costs: a duel of 10,000 samples with an instant backend and
//! three instant judges, recorded on disk with group commit and with a sync per
//! answer. `cargo bench --bench record` prints seconds and peak memory.
#![expect(clippy::print_stdout, reason = "what it prints is the measurement")]

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use albedo_core::backend::{Completion, Role};
use albedo_core::record::{Digests, JournalEvent, RecordPart, TextRef, VerifyOptions, verify};
use albedo_core::{
    Assessment, CallContext, Comparison, Contestant, Digest, Duel, DuelSettings, FileStore, FinishReason,
    GenerateRequest, Generated, Identity, Judge, JudgeProfile, MemoryStore, Message, Metric, ModelBackend,
    ModelInfo, ModelSession, ModelSource, RecordStore, Result, Rule, Score, ScoreRequest, Side, TaskRow,
    TaskSetInfo, TaskSource, TokenScores, Usage,
};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::Mutex;

const SAMPLES: u32 = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cx = CallContext::new();
    for sync_each in [false, true] {
        let folder = tempfile::tempdir()
            .map_err(|error| albedo_core::Error::io("create a folder", &std::env::temp_dir(), error))?;
        let store = FileStore::create(folder.path())?;
        let duel = duel(&cx).await?;
        let start = Instant::now();
        if sync_each {
            duel.run(&OneByOne(store, Mutex::default()), &cx).await?;
        } else {
            duel.run(&store, &cx).await?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let bytes: u64 = fs::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|file| file.len())
            .sum();
        let name = if sync_each { "a sync per answer" } else { "group commit" };
        println!(
            "{name}: {SAMPLES} samples in {seconds:.2} s, {:.0} MB peak, {:.0} MB on disk",
            peak_mb(),
            bytes as f64 / 1e6
        );
        if sync_each {
            let start = Instant::now();
            verify(folder.path(), &VerifyOptions::default(), &cx).await?;
            println!("verified in {:.2} s, {:.0} MB peak", start.elapsed().as_secs_f64(), peak_mb());
        }
    }
    Ok(())
}

async fn duel(cx: &CallContext) -> Result<Duel> {
    let backend: Arc<dyn ModelBackend> = Arc::new(Instantly::new()?);
    let load = async |side, name| Contestant::load(side, &backend, &ModelSource::served(name), cx).await;
    let (king, challenger) = (load(Side::King, "king").await?, load(Side::Challenger, "challenger").await?);
    // The margin alone: the bootstrap of `margin-lcb` would be most of the time.
    let settings =
        DuelSettings { samples: SAMPLES, rule: Rule::Margin { win_margin: 2.0 }, ..DuelSettings::default() };
    let judges =
        ["first", "second", "third"].map(|name| Instantly::named(name).map(|judge| Arc::new(judge) as _));
    let judges = judges.into_iter().collect::<Result<Vec<Arc<dyn Judge>>>>()?;
    let tasks = Arc::new(Rows::new());
    let duel = Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(settings);
    duel.plan(&MemoryStore::default(), cx).await
}

/// The most memory that the process has had, in megabytes.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    peak.and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

/// Backend and judge at once: both answer at once.
#[derive(Debug)]
struct Instantly(Identity);

impl Instantly {
    fn new() -> Result<Self> {
        Self::named("instant")
    }

    fn named(name: &str) -> Result<Self> {
        Ok(Self(Identity::new(name, "1", &())?))
    }
}

#[async_trait]
impl ModelBackend for Instantly {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, source: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let name = source.model.to_string();
        let model = ModelInfo::new(Digest::of(&name), "Instant", 32_768)
            .with_text(Digest::of(""), Digest::of(""), vec![])
            .with_config(Digest::of(""));
        Ok(Arc::new(Session { model, name }))
    }
}

#[derive(Debug)]
struct Session {
    model: ModelInfo,
    name: String,
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
        Ok(Some(1))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, _: &CallContext) -> BoxStream<'static, Generated> {
        let name = self.name.clone();
        let answers = requests.into_iter().enumerate().map(move |(index, request)| {
            // As long as a usual reply of 256 tokens.
            let text = format!("{name} {}: {}", request.seed, "a thought and a command; ".repeat(40));
            let usage = Usage::counted(1, 256);
            let completion = Completion::new(text, FinishReason::Stop, usage);
            Generated { index, result: Ok(completion) }
        });
        stream::iter(answers).boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Ok(vec![])
    }
}

#[async_trait]
impl Judge for Instantly {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new(Metric::ALL)
    }

    async fn compare(&self, request: &Comparison, _: &CallContext) -> Result<Assessment> {
        let score = Score::compare(&request.second.text, &request.first.text);
        Ok(Assessment::scored(Metric::ALL.map(|metric| (metric, score))))
    }
}

/// A million short trajectories.
#[derive(Debug)]
struct Rows(TaskSetInfo);

impl Rows {
    fn new() -> Self {
        Self(TaskSetInfo { manifest: Digest::of("rows"), rows: 1_000_000, unhashed: false })
    }
}

#[async_trait]
impl TaskSource for Rows {
    fn info(&self) -> &TaskSetInfo {
        &self.0
    }

    async fn row(&self, row: u64, _: &CallContext) -> Result<TaskRow> {
        let messages = vec![
            Message::new(Role::User, format!("task {row}: {}", "something is wrong here. ".repeat(40))),
            Message::new(Role::Assistant, format!("reply {row}")),
        ];
        Ok(TaskRow { instance_id: row.to_string(), repo: "repo".into(), messages })
    }
}

/// A store that is handed one append at a time: every answer has its own sync.
#[derive(Debug)]
struct OneByOne(FileStore, Mutex<()>);

#[async_trait]
impl RecordStore for OneByOne {
    async fn stored(&self) -> Result<Vec<JournalEvent>> {
        self.0.stored().await
    }

    async fn text(&self, text: &TextRef) -> Result<String> {
        self.0.text(text).await
    }

    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        let _one = self.1.lock().await;
        self.0.append(event, texts).await
    }

    async fn begin(&self) -> Result<()> {
        self.0.begin().await
    }

    async fn extend(&self, part: RecordPart) -> Result<()> {
        self.0.extend(part).await
    }

    async fn publish(&self, digests: &Digests) -> Result<()> {
        self.0.publish(digests).await
    }
}
