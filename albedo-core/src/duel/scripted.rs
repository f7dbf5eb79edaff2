//! A small duel between scripted models, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::*;
use crate::backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelBackend, ModelInfo, ModelSession,
    ModelSource, Role, ScoreRequest, TokenScores, Usage,
};
use crate::decision::{Rule, RuleVersion};
use crate::identity::Identity;
use crate::judge::{Assessment, Comparison, JudgeProfile, Metric, Score};
use crate::overflow::{Overflow, Place, Step};
use crate::plan::DuelSettings;
use crate::record::MemoryStore;
use crate::seed::Seed;
use crate::tasks::{TaskRow, TaskSetInfo};
use crate::testing::{Rows, ScriptedBackend};

/// Replies `{name} {request seed}` after yielding as often as the request's
/// seed says, so that replies arrive out of order.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) model: ModelInfo,
    name: &'static str,
    pub(crate) failures: Mutex<BTreeMap<u64, Vec<Error>>>,
    pub(crate) calls: Arc<AtomicU32>,
}

impl Scripted {
    pub(crate) fn new(name: &'static str) -> Self {
        let digest = Digest::of("shared");
        let model = ModelInfo::new(Digest::of(name), "Scripted", 1000)
            .with_text(digest, digest, vec![0])
            .with_config(digest);
        Self { model, name, failures: Mutex::default(), calls: Arc::default() }
    }

    pub(crate) fn session(self) -> Arc<dyn ModelSession> {
        Arc::new(self)
    }

    pub(crate) fn contestant(self) -> Contestant {
        let backend = Identity { name: "scripted".into(), version: "1".into(), config: Digest::of("") };
        Contestant::new(Arc::new(self), backend)
    }
}

#[async_trait]
impl ModelSession for Scripted {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(messages.iter().map(|message| message.content.len() as u32).sum()))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, _: &CallContext) -> BoxStream<'static, Generated> {
        self.calls.fetch_add(requests.len() as u32, Ordering::Relaxed);
        let answers = requests.into_iter().enumerate().map(|(index, request)| {
            let failure = self.failures.lock().expect("unpoisoned").get_mut(&request.seed).and_then(Vec::pop);
            let result = failure.map_or_else(
                || {
                    let usage = Usage::counted(3, 2);
                    let text = format!("{} {}", self.name, request.seed);
                    let sampled = (request.seed % 100) as u32;
                    Ok(Completion::new(text, FinishReason::Stop, usage)
                        .with_tokens(vec![sampled + 1, 0])
                        .with_logit_gaps((self.name == "plain").then_some(vec![250, 65_535])))
                },
                Err,
            );
            async move {
                for _ in 0..request.seed % 7 {
                    tokio::task::yield_now().await;
                }
                Generated { index, result }
            }
        });
        stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(8).boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score", "scripted"))
    }
}

/// Thirty rows of ten instances, one row without an assistant turn.
pub(crate) fn rows() -> Arc<dyn TaskSource> {
    let row = |row: u64| {
        let mut messages = vec![Message::new(Role::System, "s"), Message::new(Role::User, "u")];
        if row != 7 {
            messages.push(Message::new(Role::Assistant, format!("recorded {row}")));
            messages.push(Message::new(Role::User, "v".repeat(row as usize * 50)));
            messages.push(Message::new(Role::Assistant, "done"));
        }
        TaskRow { instance_id: format!("instance {}", row % 10), repo: "repo".into(), messages }
    };
    let info = TaskSetInfo { manifest: Digest::of("rows"), rows: 30, unhashed: false };
    Arc::new(Rows::new(30, row).with_info(info))
}

pub(crate) type Answer = fn(&Comparison) -> Result<Assessment>;

#[derive(Debug)]
pub(crate) struct Asked {
    identity: Identity,
    answer: Answer,
    pub(crate) calls: AtomicU32,
}

impl Asked {
    pub(crate) fn new(name: &str, answer: Answer) -> Arc<Self> {
        let identity = Identity { name: name.into(), version: "1".into(), config: Digest::of("") };
        Arc::new(Self { identity, answer, calls: AtomicU32::new(0) })
    }
}

#[async_trait]
impl Judge for Asked {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Correctness])
    }

    async fn compare(&self, request: &Comparison, _: &CallContext) -> Result<Assessment> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        (self.answer)(request)
    }
}

pub(crate) fn scored(score: f64) -> Result<Assessment> {
    Ok(Assessment::scored([(Metric::Correctness, Score::new(score)?)]))
}

/// Prefers "better" by an eighth.
pub(crate) fn fair(request: &Comparison) -> Result<Assessment> {
    let quality = |text: &str| f64::from(u8::from(text.starts_with("better"))) / 4.0;
    scored(0.5 + (quality(&request.first.text) - quality(&request.second.text)) / 2.0)
}

pub(crate) fn always_first(_: &Comparison) -> Result<Assessment> {
    scored(1.0)
}

pub(crate) fn settings() -> DuelSettings {
    DuelSettings {
        samples: 8,
        seed: Seed::from(5),
        rule: Rule::by_name("margin-lcb").expect("a rule"),
        limits: Limits { samples_in_flight: 4, call_tries: 2, ..Limits::default() },
        ..DuelSettings::default()
    }
}

/// A duel on [`rows`] whose settings have no canaries.
pub(crate) fn planned(
    settings: &DuelSettings,
    king: Contestant,
    challenger: Contestant,
    judges: Vec<Arc<dyn Judge>>,
) -> Result<Duel> {
    planned_by(RuleVersion::NEWEST, settings, king, challenger, judges)
}

/// The same, under an older version of the rules.
pub(crate) fn planned_by(
    version: RuleVersion,
    settings: &DuelSettings,
    king: Contestant,
    challenger: Contestant,
    judges: Vec<Arc<dyn Judge>>,
) -> Result<Duel> {
    let builder = Duel::builder(king, challenger).tasks(rows()).settings(settings.clone());
    builder.frozen(judges, None, version)
}

pub(crate) fn duel(king: Scripted, challenger: Scripted, judges: Vec<Arc<dyn Judge>>) -> Duel {
    planned(&settings(), king.contestant(), challenger.contestant(), judges).expect("plans")
}

pub(crate) async fn run(duel: &Duel) -> (DuelReport, MemoryStore) {
    let store = MemoryStore::default();
    let report = duel.run(&store, &CallContext::new()).await.expect("runs");
    (report, store)
}

/// What was found on a request, told apart by its seed.
pub(crate) fn overflow(seed: u64) -> Overflow {
    Overflow { step: Step::Reply, position: (seed % 1000) as u32, place: Place::Layer(2) }
}

/// Loads a scripted model whose arithmetic overflows on some requests.
#[derive(Debug)]
pub(crate) struct Loads {
    name: &'static str,
    pub(crate) backend: Arc<dyn ModelBackend>,
    times: Arc<AtomicU32>,
}

impl Loads {
    /// The model `name`. Each load has the seeds of the requests that overflow; all that
    /// come later have those of the last.
    pub(crate) fn new(name: &'static str, overflowing: Vec<BTreeSet<u64>>) -> Self {
        let times = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&times);
        let backend = ScriptedBackend::new("scripted", move |_| {
            let load = counted.fetch_add(1, Ordering::Relaxed) as usize;
            let model = Scripted::new(name);
            if let Some(seeds) = overflowing.get(load).or(overflowing.last()) {
                let error =
                    |&seed: &u64| (seed, vec![Error::overflowed("generate a reply", overflow(seed)); 9]);
                *model.failures.lock().expect("unpoisoned") = seeds.iter().map(error).collect();
            }
            Ok(model.session())
        });
        Self { name, backend: Arc::new(backend), times }
    }

    /// How often the model was loaded.
    pub(crate) fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }

    pub(crate) async fn contestant(&self, side: Side) -> Contestant {
        let source = ModelSource::served(self.name);
        Contestant::load(side, &self.backend, &source, &CallContext::new()).await.expect("loads")
    }
}

/// The king's request seeds of `samples` in any duel with [`settings`].
pub(crate) fn seeds(samples: impl IntoIterator<Item = u32>) -> BTreeSet<u64> {
    let any = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
    samples.into_iter().map(|sample| any.plan.request_seed(sample, Side::King)).collect()
}
