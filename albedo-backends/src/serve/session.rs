//! A model that is loaded at a server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::{
    CallContext, Completion, Digest, Error, ErrorKind, GenerateRequest, Generated, Message, ModelInfo,
    ModelRef, ModelSession, ModelSource, Result, ScoreRequest, TokenScores,
};
use async_trait::async_trait;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;

use super::link::{Job, another, answer};
use super::protocol::{GenerateJob, JobOutcome, JobRequest, ScoreJob, SessionKey};
use super::{Server, references};
use crate::text::ChatText;

const GENERATE: &str = "generate replies at the server";
const SCORE: &str = "score replies at the server";

/// A model at a server.
#[derive(Debug)]
pub(super) struct RemoteSession(Arc<Remote>);

#[derive(Debug)]
struct Remote {
    server: Arc<Server>,
    key: SessionKey,
    source: ModelSource,
    info: ModelInfo,
    text: Arc<ChatText>,
    slots: Semaphore,
    /// How many wait for each job: two requests may be the same one.
    waiting: Mutex<BTreeMap<Digest, usize>>,
}

impl RemoteSession {
    pub(super) fn new(
        server: Arc<Server>,
        key: SessionKey,
        source: ModelSource,
        info: ModelInfo,
        text: Arc<ChatText>,
    ) -> Self {
        let slots = Semaphore::new(server.max_in_flight as usize);
        Self(Arc::new(Remote { server, key, source, info, text, slots, waiting: Mutex::default() }))
    }
}

impl Remote {
    fn generate(&self, request: &GenerateRequest) -> JobRequest {
        JobRequest::Generate(GenerateJob::new(self.server.engine, self.key, request))
    }

    fn job(&self, request: JobRequest) -> Result<Job> {
        Job::new(request, references([&self.source.model].into_iter().chain(&self.source.text_from)))
    }

    /// What the model answers to `request`.
    async fn ask(&self, request: JobRequest, cx: &CallContext) -> Result<JobOutcome> {
        let job = self.job(request)?;
        let waiting = Waiting::new(self, job.id);
        let mut asked = self.server.link.result(&job, cx).await;
        // Its hold ended, for example with its server's disk: it is held again.
        if asked.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
            && self.hold_again(cx).await?
        {
            asked = self.server.link.result(&job, cx).await;
        }
        if let Err(error) = &asked
            && error.overflow().is_some()
        {
            let mut overflowed = self.server.overflowed.lock().unwrap_or_else(PoisonError::into_inner);
            overflowed.insert(self.key, job.id);
        }
        waiting.over();
        answer(asked?, &job, self.server.engine, Some(&self.info))
    }

    /// Has the model held once more, if it is a hub's; it has to be the same.
    async fn hold_again(&self, cx: &CallContext) -> Result<bool> {
        let models = [Some(&self.source.model), self.source.text_from.as_ref()];
        let hubs: Vec<_> =
            models.into_iter().flatten().filter(|model| matches!(model, ModelRef::Hub(_))).collect();
        for model in &hubs {
            self.server.held(model, cx).await?;
        }
        if hubs.is_empty() {
            return Ok(false);
        }
        let loaded = self.server.load(self.key, &self.source.model, cx).await?;
        if loaded.model != self.info {
            return Err(another("another model under the same reference"));
        }
        Ok(true)
    }

    async fn reply(&self, request: &GenerateRequest, cx: &CallContext) -> Result<Completion> {
        let _slot = self.slots.acquire().await.map_err(|error| Error::bug(GENERATE, error.to_string()))?;
        match self.ask(self.generate(request), cx).await? {
            JobOutcome::Generated(completion) => Ok(completion),
            _ => Err(another("the answer to another kind of job")),
        }
    }
}

/// A place in the line of those who wait for a job. Given up before the job is over,
/// the last one takes the job back.
struct Waiting<'a> {
    remote: &'a Remote,
    job: Digest,
    over: bool,
}

impl<'a> Waiting<'a> {
    fn new(remote: &'a Remote, job: Digest) -> Self {
        *remote.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(job).or_default() += 1;
        Self { remote, job, over: false }
    }

    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.remote.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let others = waiting.get_mut(&self.job).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if others == 0 {
            waiting.remove(&self.job);
            if !self.over {
                self.remote.server.link.abandon(self.job);
            }
        }
    }
}

#[async_trait]
impl ModelSession for RemoteSession {
    fn model(&self) -> &ModelInfo {
        &self.0.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(self.0.text.encode_prompt(messages)?.len() as u32))
    }

    fn prompt_tokens(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        self.0.text.encode_prompt(messages).map(Some)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let answers = requests.into_iter().enumerate().map(|(index, request)| {
            let (remote, cx) = (Arc::clone(&self.0), cx.clone());
            async move {
                let result = cx.run(GENERATE, remote.reply(&request, &cx)).await;
                Generated { index, result: result.and_then(|result| result) }
            }
        });
        answers.collect::<FuturesUnordered<_>>().boxed()
    }

    fn kept(&self, request: &GenerateRequest) {
        // A request that has no digest was never sent.
        if let Ok(job) = self.0.generate(request).id() {
            self.0.server.link.acknowledge(job);
        }
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let (count, remote) = (requests.len(), &*self.0);
        let replies = requests.into_iter().map(Into::into).collect();
        let job = ScoreJob { engine: remote.server.engine, model: remote.key, replies };
        match cx.run(SCORE, remote.ask(JobRequest::Score(job), cx)).await?? {
            JobOutcome::Scored(scores) if scores.len() == count => Ok(scores),
            _ => Err(another("the answer to another kind of job")),
        }
    }
}
