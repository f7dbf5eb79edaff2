//! Scripted parts for tests: a session, a judge, a backend and tasks that do
//! what a closure says, and remember what they were asked.
//!
//! ```
//! use albedo_core::testing::{ScriptedJudge, ScriptedSession, comparison};
//! use albedo_core::{CallContext, GenerateRequest, Judge, Message, MessageRole, ModelSessionExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> albedo_core::Result<()> {
//! let cx = CallContext::new();
//! let model = ScriptedSession::saying("echo", "ls -l");
//! let request = GenerateRequest::new([Message::new(MessageRole::User, "Which files?")], 16);
//! assert_eq!(model.generate_one(request, &cx).await?.text, "ls -l");
//! assert_eq!(model.asked().len(), 1);
//!
//! let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 10.0).min(1.0));
//! judge.compare(&comparison("Which files?", "ls", ["ls", "ls -l"]), &cx).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelBackend, ModelInfo, ModelSession,
    ModelSource, Role, ScoreRequest, TokenScores, Usage,
};
use crate::context::CallContext;
use crate::decision::Rule;
use crate::digest::Digest;
use crate::duel::{Contestant, Duel, DuelBuilder};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::judge::{
    Assessment, Candidate, Comparison, Judge, JudgeProfile, Metric, Preparation, Prepared, Score,
};
use crate::plan::DuelSettings;
use crate::tasks::{TaskRow, TaskSetInfo, TaskSource};
use crate::twin::Twin;

const ANSWER: &str = "answer a request";

type Answer = dyn Fn(GenerateRequest, CallContext) -> BoxFuture<'static, Result<Completion>> + Send + Sync;
type Count = dyn Fn(&[Message]) -> Option<u32> + Send + Sync;
type Scores = dyn Fn(&ScoreRequest) -> Result<TokenScores> + Send + Sync;

/// A loaded model that answers as its script says. Its tokens are bytes: a
/// prompt has as many as its messages' texts together.
///
/// Requests are answered concurrently, each as its future is ready. A request
/// that no session may answer (no new token, sampling out of range, a prompt
/// beyond the context) fails before the script is asked.
pub struct ScriptedSession {
    info: ModelInfo,
    answer: Arc<Answer>,
    scores: Option<Box<Scores>>,
    count: Box<Count>,
    asked: Mutex<Vec<GenerateRequest>>,
}

impl ScriptedSession {
    /// The model `name`, which answers with what `answer` makes of a request.
    pub fn new(
        name: &str,
        answer: impl Fn(&GenerateRequest) -> Result<Completion> + Send + Sync + 'static,
    ) -> Self {
        Self::waiting(name, move |request, _| std::future::ready(answer(&request)))
    }

    /// The model `name`, whose answers take as long as `answer`'s futures do.
    /// Cancelling the call drops them.
    pub fn waiting<F: Future<Output = Result<Completion>> + Send + 'static>(
        name: &str,
        answer: impl Fn(GenerateRequest, CallContext) -> F + Send + Sync + 'static,
    ) -> Self {
        let answer = move |request, cx| -> BoxFuture<'static, _> { Box::pin(answer(request, cx)) };
        Self {
            info: model_info(name),
            answer: Arc::new(answer),
            scores: None,
            count: Box::new(|messages| Some(prompt_tokens(messages))),
            asked: Mutex::default(),
        }
    }

    /// The model `name`, which always says `text`, cut at `max_new_tokens` bytes.
    pub fn saying(name: &str, text: &str) -> Self {
        let text = text.to_owned();
        Self::new(name, move |request| {
            request.response.require_text(ANSWER)?;
            let most = request.max_new_tokens as usize;
            if text.len() < most {
                return Ok(completion(&text));
            }
            let cut = String::from_utf8_lossy(&text.as_bytes()[..most]);
            let usage = Usage { completion_tokens: Some(request.max_new_tokens), ..Usage::default() };
            Ok(Completion { finish: FinishReason::Length, usage, ..completion(&cut) })
        })
    }

    /// The session with other facts about its model.
    #[must_use]
    pub fn with_model(mut self, info: ModelInfo) -> Self {
        self.info = info;
        self
    }

    /// The session with scores: `scores` is asked for each request.
    #[must_use]
    pub fn with_scores(
        mut self,
        scores: impl Fn(&ScoreRequest) -> Result<TokenScores> + Send + Sync + 'static,
    ) -> Self {
        self.scores = Some(Box::new(scores));
        self
    }

    /// The session with other counts of a prompt's tokens; `None` is what a
    /// provider's session says.
    #[must_use]
    pub fn counting(mut self, count: impl Fn(&[Message]) -> Option<u32> + Send + Sync + 'static) -> Self {
        self.count = Box::new(count);
        self
    }

    /// The session as a contestant, loaded by a backend called `scripted`.
    pub fn contestant(self) -> Contestant {
        Contestant::new(Arc::new(self), identity("scripted"))
    }

    /// The requests that reached the script, in order of arrival.
    pub fn asked(&self) -> Vec<GenerateRequest> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(&self, request: &GenerateRequest) -> Result<()> {
        request.sampling.check()?;
        if request.max_new_tokens == 0 {
            return Err(Error::new(ErrorKind::ConfigInvalid, ANSWER, "`max_new_tokens` is 0"));
        }
        let needed = (self.count)(&request.messages).unwrap_or(0).saturating_add(request.max_new_tokens);
        if needed > self.info.context_length {
            return Err(Error::new(ErrorKind::Unsupported, ANSWER, format!("{needed} tokens do not fit")));
        }
        Ok(())
    }
}

impl fmt::Debug for ScriptedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedSession").field("info", &self.info).finish_non_exhaustive()
    }
}

#[async_trait]
impl ModelSession for ScriptedSession {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn prompt_tokens(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        let bytes = messages.iter().flat_map(|message| message.content.bytes());
        let tokens: Vec<_> = bytes.map(u32::from).collect();
        let counted = (self.count)(messages);
        Ok(counted.filter(|&count| count as usize == tokens.len()).map(|_| tokens))
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok((self.count)(messages))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let all = requests.len().max(1);
        let answers: Vec<_> = (requests.into_iter().enumerate())
            .map(|(index, request)| {
                let answer = self.check(&request).map(|()| {
                    self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                    (self.answer)(request.clone(), cx.clone())
                });
                let (cx, counted) = (cx.clone(), (self.count)(&request.messages));
                async move {
                    let result = match answer {
                        Ok(answer) => cx.run(ANSWER, answer).await.and_then(|result| result),
                        Err(error) => cx.check(ANSWER).and(Err(error)),
                    };
                    let counted = |mut completion: Completion| {
                        completion.usage.prompt_tokens = counted.or(completion.usage.prompt_tokens);
                        completion
                    };
                    Generated { index, result: result.map(counted) }
                }
            })
            .collect();
        stream::iter(answers).buffer_unordered(all).boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        cx.check("score a reply")?;
        match &self.scores {
            Some(scores) => requests.iter().map(scores).collect(),
            None => Err(Error::new(ErrorKind::Unsupported, "score a reply", "the script has no scores")),
        }
    }
}

/// Loads what a closure says.
pub struct ScriptedBackend {
    identity: Identity,
    load: Box<Load>,
}

type Load = dyn Fn(&ModelSource) -> Result<Arc<dyn ModelSession>> + Send + Sync;

impl ScriptedBackend {
    /// The backend `name`, which loads what `load` makes of a source.
    pub fn new(
        name: &str,
        load: impl Fn(&ModelSource) -> Result<Arc<dyn ModelSession>> + Send + Sync + 'static,
    ) -> Self {
        Self { identity: identity(name), load: Box::new(load) }
    }
}

impl fmt::Debug for ScriptedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedBackend").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[async_trait]
impl ModelBackend for ScriptedBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        cx.check("load a scripted model")?;
        (self.load)(model)
    }
}

type Compare = dyn Fn(&Comparison) -> Result<Assessment> + Send + Sync;
type Prepare = dyn Fn(&Preparation) -> Result<Prepared> + Send + Sync;
type MakeTwin = dyn Fn(&str) -> Option<Twin> + Send + Sync;

/// A judge that answers as its script says.
pub struct ScriptedJudge {
    identity: Identity,
    profile: JudgeProfile,
    compare: Box<Compare>,
    prepare: Option<Box<Prepare>>,
    twin: Option<Box<MakeTwin>>,
    asked: Mutex<Vec<Comparison>>,
}

impl ScriptedJudge {
    /// The judge `name` of [`Metric::Correctness`], which answers with what
    /// `compare` makes of a comparison.
    pub fn new(
        name: &str,
        compare: impl Fn(&Comparison) -> Result<Assessment> + Send + Sync + 'static,
    ) -> Self {
        Self {
            identity: identity(name),
            profile: JudgeProfile::new([Metric::Correctness]),
            compare: Box::new(compare),
            prepare: None,
            twin: None,
            asked: Mutex::default(),
        }
    }

    /// The judge `name`, which scores the difference of two replies' `quality`,
    /// each in [0, 1].
    pub fn preferring(name: &str, quality: impl Fn(&str) -> f64 + Send + Sync + 'static) -> Self {
        Self::new(name, move |request| {
            let [first, second] = [&request.first, &request.second].map(|reply| quality(&reply.text));
            Ok(Assessment::scored([(Metric::Correctness, Score::from_difference(first, second)?)]))
        })
    }

    /// The judge under another identity.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The judge with another profile.
    #[must_use]
    pub fn with_profile(mut self, profile: JudgeProfile) -> Self {
        self.profile = profile;
        self
    }

    /// The judge with a preparation, which its profile then asks for.
    #[must_use]
    pub fn with_preparation(
        mut self,
        prepare: impl Fn(&Preparation) -> Result<Prepared> + Send + Sync + 'static,
    ) -> Self {
        self.profile.preparation = true;
        self.prepare = Some(Box::new(prepare));
        self
    }

    /// The judge with twins: what `twin` makes of a reply.
    #[must_use]
    pub fn with_twins(mut self, twin: impl Fn(&str) -> Option<Twin> + Send + Sync + 'static) -> Self {
        self.profile.twins = Some(1);
        self.twin = Some(Box::new(twin));
        self
    }

    /// The comparisons that it was asked for, in order of arrival.
    pub fn asked(&self) -> Vec<Comparison> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ScriptedJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedJudge").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[async_trait]
impl Judge for ScriptedJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        self.profile.clone()
    }

    fn twin(&self, request: &Comparison, _: u64) -> Result<Option<Twin>> {
        Ok(self.twin.as_ref().and_then(|twin| twin(&request.first.text)))
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        cx.check("compare two replies")?;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        // An answer that is ready at once would hide orders that others meet.
        tokio::task::yield_now().await;
        (self.compare)(request)
    }

    async fn prepare(&self, request: &Preparation, cx: &CallContext) -> Result<Prepared> {
        cx.check("prepare a judgement")?;
        match &self.prepare {
            Some(prepare) => prepare(request),
            None => Err(Error::bug("prepare a judgement", "the script has no preparation")),
        }
    }
}

/// Tasks that a closure makes up.
pub struct Rows {
    info: TaskSetInfo,
    row: Box<dyn Fn(u64) -> TaskRow + Send + Sync>,
    read: AtomicU64,
}

impl Rows {
    /// `rows` rows, of which `row` makes each when it is read; their manifest is a
    /// digest of their number.
    pub fn new(rows: u64, row: impl Fn(u64) -> TaskRow + Send + Sync + 'static) -> Self {
        let manifest = Digest::of(format!("{rows} rows"));
        let info = TaskSetInfo { manifest, rows, unhashed: false };
        Self { info, row: Box::new(row), read: AtomicU64::new(0) }
    }

    /// `rows` rows of as many instances, each with two assistant turns.
    pub fn numbered(rows: u64) -> Self {
        Self::new(rows, |row| TaskRow {
            instance_id: format!("instance {row}"),
            repo: "repository".into(),
            messages: vec![
                Message::new(Role::User, format!("Repair part {row}.")),
                Message::new(Role::Assistant, "I look first.\n\n```bash\nls\n```"),
                Message::new(Role::User, "part.py"),
                Message::new(Role::Assistant, format!("I run it.\n\n```bash\npython part.py {row}\n```")),
            ],
        })
    }

    /// The rows under other facts.
    #[must_use]
    pub fn with_info(mut self, info: TaskSetInfo) -> Self {
        self.info = info;
        self
    }

    /// How many rows were read, one as often as it was read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("info", &self.info).finish_non_exhaustive()
    }
}

#[async_trait]
impl TaskSource for Rows {
    fn info(&self) -> &TaskSetInfo {
        &self.info
    }

    async fn row(&self, row: u64, cx: &CallContext) -> Result<TaskRow> {
        cx.check("read a row")?;
        if row >= self.info.rows {
            return Err(
                Error::new(ErrorKind::NotFound, "read a row", "there is no such row").with("row", row)
            );
        }
        self.read.fetch_add(1, Ordering::Relaxed);
        Ok((self.row)(row))
    }
}

/// A duel of eight samples under the rule `margin` between a king that always
/// says `ls` and a challenger that says `ls -l`, before a judge of length: the
/// challenger wins.
pub fn small_duel() -> DuelBuilder {
    let [king, challenger] =
        [("king", "ls"), ("challenger", "ls -l")].map(|(name, text)| ScriptedSession::saying(name, text));
    let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 10.0).min(1.0));
    let rule = Rule::Margin { win_margin: 2.0 };
    Duel::builder(king.contestant(), challenger.contestant())
        .tasks(Arc::new(Rows::numbered(20)))
        .judge(Arc::new(judge))
        .settings(DuelSettings { samples: 8, rule, ..DuelSettings::default() })
}

/// An identity of `name`, version 1, without settings.
pub fn identity(name: &str) -> Identity {
    Identity { name: name.into(), version: "1".into(), config: Digest::of("") }
}

/// Facts about the model `name`: all scripted models differ in their parameters
/// and agree on what a duel's sides have to agree on.
pub fn model_info(name: &str) -> ModelInfo {
    let shared = Digest::of("scripted");
    ModelInfo::new(Digest::of(name), "Scripted", 1 << 20)
        .with_text(shared, shared, vec![0])
        .with_config(shared)
}

/// A reply of `text` that a model ended by itself: a token per byte and the stop
/// token.
pub fn completion(text: &str) -> Completion {
    let usage = Usage { completion_tokens: Some(text.len() as u32 + 1), ..Usage::default() };
    Completion::new(text, FinishReason::Stop, usage)
}

/// The replies `[first, second]` to `question`, a user's message, whose recorded
/// reply is `reference`.
pub fn comparison(question: &str, reference: &str, replies: [&str; 2]) -> Comparison {
    let [first, second] = replies.map(|text| Candidate::new(text, FinishReason::Stop));
    Comparison::new([Message::new(Role::User, question)], reference, first, second)
}

fn prompt_tokens(messages: &[Message]) -> u32 {
    messages.iter().map(|message| message.content.len() as u32).sum()
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::conformance::{
        JudgeFixture, PATIENCE, SessionFixture, check_judge, check_session, check_tasks,
    };

    fn ask(text: &str) -> Vec<Message> {
        vec![Message::new(Role::User, text)]
    }

    #[tokio::test]
    async fn a_scripted_session_keeps_the_promises_of_a_session() {
        let session = ScriptedSession::saying("scripted", "I look first: é");
        let conversations = vec![ask("Which files are there?"), ask("é"), ask("Where is the fault?")];
        let fixture = SessionFixture { samples: false, ..SessionFixture::new(conversations) };
        check_session(&session, &fixture).await.expect("conforms");
        assert!(session.asked().iter().all(|request| request.max_new_tokens > 0));
    }

    #[tokio::test]
    async fn a_scripted_judge_keeps_the_promises_of_a_judge() {
        let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 1e7).min(1.0));
        let comparisons = vec![comparison("Which?", "ls", ["ls", "ls -l"])];
        check_judge(&judge, &JudgeFixture::new(comparisons)).await.expect("conforms");
        assert!(judge.asked().len() > 2);
    }

    #[tokio::test]
    async fn rows_keep_the_promises_of_tasks() {
        check_tasks(&Rows::numbered(5), PATIENCE).await.expect("conforms");
    }
}
