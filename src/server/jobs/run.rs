//! Does jobs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[cfg(feature = "screens")]
use super::screen;
use super::store::{Ended, now};
use super::{FORGOTTEN, Follow};
use crate::backend::ModelSessionExt as _;
#[cfg(feature = "screens")]
use crate::backends::serve::protocol::ScreenedModel;
use crate::backends::serve::protocol::{
    AnsweringModel, HeldModel, JobOutcome, JobRequest, JobResult, LoadJob, LoadedModel, MAX_RESULT,
    MAX_TEXT_FILE, SessionKey, TEXT_FILES, TextFile, WireError,
};
use crate::files::open_file;
use crate::server::State;
use crate::{CallContext, Digest, Error, ErrorKind, Fault, ModelSession, Result, canonical_json};

const DO: &str = "do the job";
const CHECK: &str = "check the model before it answers";

/// How often what is old is looked for.
const TIDY: Duration = Duration::from_hours(1);

/// A model that a job has brought here is kept for so long after it was last asked for;
/// a client that still needs it has it held again. Source: chosen by albedo.
const LEASE: Duration = Duration::from_hours(24);

/// The pause after the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Does jobs, those that have waited longest first, until the server stops; then finishes
/// what is under way, or hands it back once the server's work is cancelled.
pub(in crate::server) async fn run(state: State) {
    let jobs = state.jobs().clone();
    let most = state.limits().streams as usize;
    let mut under_way = JoinSet::new();
    let mut tidy = tokio::time::interval(TIDY);
    while !state.stopping().is_cancelled() {
        let mut failed = false;
        while under_way.len() < most {
            match jobs.0.store.next().await {
                Ok(Some((id, request))) => {
                    jobs.tell(id);
                    under_way.spawn(one(state.clone(), id, request));
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "no job can be begun");
                    failed = true;
                    break;
                }
            }
        }
        let pause = async {
            if failed {
                tokio::time::sleep(PAUSE).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = state.stopping().cancelled() => {}
            () = jobs.0.wake.notified() => {}
            Some(_) = under_way.join_next() => {}
            () = pause => {}
            _ = tidy.tick() => tidy_up(&state).await,
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// Lets models go whose lease is over, and forgets old jobs.
async fn tidy_up(state: &State) {
    let jobs = state.jobs();
    let before = |age: Duration| now().saturating_sub(age.as_millis() as u64);
    let done = async {
        for (id, request) in jobs.0.store.done_before("hold", before(LEASE)).await? {
            if let Ok(JobRequest::Hold(hold)) = JobRequest::read(id, &request) {
                tracing::info!(label = hold.label, "the lease of a model is over");
                state.models().release(&hold.label, state.work()).await?;
            }
            jobs.let_go(id, false).await?;
        }
        jobs.0.store.forget(before(FORGOTTEN)).await
    };
    match done.await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, "old jobs are forgotten"),
        Err(error) => tracing::warn!(%error, "what is old cannot be let go"),
    }
}

/// Does the job `id` and stores what it came to.
async fn one(state: State, id: Digest, request: Vec<u8>) {
    let jobs = state.jobs();
    let (events, mut heard) = mpsc::unbounded_channel();
    let follow = Arc::new(Follow { events, latest: Mutex::new(0) });
    // Tokens, like events, feed the service manager's watchdog.
    let busy = Arc::new(state.activity().begin());
    let steps = Arc::downgrade(&busy);
    let step = move |_| _ = steps.upgrade().map(|busy| busy.step());
    let cx = state.work().child().with_events(follow).with_listener(step);
    jobs.running().insert(id, cx.clone());
    let work = async {
        let done = perform(&state, id, &request, &cx).await;
        done.and_then(|result| {
            let bytes = canonical_json(&result)?;
            match bytes.len() {
                0..=MAX_RESULT => Ok(bytes),
                length => {
                    let message = format!("the result has {length} bytes, at most {MAX_RESULT} are stored");
                    Err(Error::new(ErrorKind::Unsupported, DO, message))
                }
            }
        })
    };
    let mut work = std::pin::pin!(work);
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Some(event) = heard.recv() => {
                if let Err(error) = jobs.0.store.add_event(id, event).await {
                    tracing::warn!(%error, "an event of a job is lost");
                }
                jobs.tell(id);
            }
        }
    };
    drop(busy);
    // Cancelled by its client alone, it is over already, and may be under way once more.
    if cx.is_cancelled() && !state.work().is_cancelled() {
        return;
    }
    jobs.running().remove(&id);
    let stored = match ended {
        Err(error) if state.work().is_cancelled() => {
            tracing::info!(job = %id.short(), %error, "a job is handed back");
            jobs.0.store.hand_back(id).await
        }
        Ok(bytes) => jobs.0.store.end(id, Ended::Result(bytes)).await.map(drop),
        Err(error) => {
            tracing::warn!(job = %id.short(), %error, "a job failed");
            jobs.0.store.end(id, Ended::Error(Box::new(WireError::from(&error)))).await.map(drop)
        }
    };
    if let Err(error) = stored {
        // It is done again when the server starts.
        tracing::error!(job = %id.short(), %error, "what a job came to is lost");
    }
    jobs.tell(id);
}

/// Does what `request` asks.
async fn perform(state: &State, id: Digest, request: &[u8], cx: &CallContext) -> Result<JobResult> {
    let (models, engine) = (state.models(), state.jobs().engine());
    let request = JobRequest::read(id, request)?;
    check_engine(&request, engine)?;
    let result = |model: Option<&dyn ModelSession>, outcome| JobResult {
        job: id,
        engine,
        model: model.map(|session| AnsweringModel::from(session.model())),
        outcome,
    };
    match request {
        JobRequest::Hold(job) => {
            let held = models.hold(&job.reference, &job.label, cx).await?;
            Ok(result(None, JobOutcome::Held(HeldModel { parameters: held.parameters })))
        }
        JobRequest::Release(job) => {
            models.release(&job.label, cx).await?;
            Ok(result(None, JobOutcome::Released))
        }
        JobRequest::Load(job) => {
            let session = load(state, &job, cx).await?;
            let outcome = loaded(state, &*session, job.model, cx).await?;
            Ok(result(Some(&*session), JobOutcome::Loaded(outcome)))
        }
        JobRequest::Generate(job) => {
            let session = session(state, job.model, cx).await?;
            let completion = session.generate_one(job.request(), cx).await?;
            Ok(result(Some(&*session), JobOutcome::Generated(completion)))
        }
        JobRequest::Score(job) => {
            let session = session(state, job.model, cx).await?;
            let replies = job.replies.into_iter().map(Into::into).collect();
            let scores = session.score(replies, cx).await?;
            Ok(result(Some(&*session), JobOutcome::Scored(scores)))
        }
        #[cfg(feature = "screens")]
        JobRequest::Screen(job) => {
            // Weights are read from their files: nothing has to be loaded for them.
            let session = match &job.screens[..] {
                [] => None,
                _ => Some(session(state, job.model, cx).await?),
            };
            let findings = match &session {
                Some(session) => screen::screen(&job, session, cx).await?,
                None => Vec::new(),
            };
            let measured = match job.measure {
                Some(measure) => Some(screen::measure(models, job.model.parameters, measure, cx).await?),
                None => None,
            };
            let outcome = JobOutcome::Screened(ScreenedModel { findings, measured });
            Ok(result(session.as_deref(), outcome))
        }
        other => Err(Error::new(ErrorKind::Unsupported, DO, "this server does no jobs of the kind")
            .with_fault(Fault::Operator)
            .with("kind", other.kind())),
    }
}

/// # Errors
/// [`ErrorKind::Conflict`]: the request wants another engine.
pub(in crate::server) fn check_engine(request: &JobRequest, engine: Digest) -> Result<()> {
    let wanted = request.engine();
    if wanted == engine {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, DO, "the request is for another engine than this server's")
        .with_fault(Fault::Infrastructure)
        .with("wanted", wanted)
        .with("found", engine)
        .with_hint("GET /v1/engine answers what runs here; records of two engines are not mixed"))
}

/// Whether every model that the request names is held here.
pub(in crate::server) fn holds(state: &State, request: &JobRequest) -> Result<()> {
    request.models().try_for_each(|parameters| state.models().folder(parameters).map(drop))
}

/// The session of `key`, which is the model that it says.
async fn session(state: &State, key: SessionKey, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
    let session = state.models().session(key, cx).await?;
    let found = session.model().parameters;
    if found == key.parameters {
        return Ok(session);
    }
    // No reply of another model, whatever the server believes of itself.
    Err(Error::new(ErrorKind::Conflict, CHECK, "another model is loaded")
        .with_fault(Fault::Infrastructure)
        .with("wanted", key.parameters)
        .with("found", found))
}

/// The session of the job, loaded afresh if it asks for that and it was not done.
async fn load(state: &State, job: &LoadJob, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
    if let Some(overflowed) = job.after_overflow {
        let mut afresh = cx.run(DO, state.jobs().0.afresh.lock()).await?;
        if !afresh.contains(&(job.model, overflowed)) {
            state.models().unload(job.model, cx).await?;
            let session = session(state, job.model, cx).await?;
            afresh.insert((job.model, overflowed));
            return Ok(session);
        }
    }
    session(state, job.model, cx).await
}

/// What a client needs of a model that is loaded.
async fn loaded(
    state: &State,
    session: &dyn ModelSession,
    key: SessionKey,
    cx: &CallContext,
) -> Result<LoadedModel> {
    let folder = state.models().folder(key.text_from.unwrap_or(key.parameters))?;
    let digested = tokio::task::spawn_blocking(move || text_files(&folder).map(|files| (files, folder)));
    let (text, folder) = cx.run(DO, digested).await?.map_err(|error| Error::bug(DO, error.to_string()))??;
    let mut files = state.jobs().0.files.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, file) in &text {
        files.insert(file.sha256, (*file, folder.join(name)));
    }
    let date = state.jobs().0.date.clone();
    Ok(LoadedModel { model: session.model().clone(), text, date })
}

/// The text files that `folder` has.
fn text_files(folder: &Path) -> Result<BTreeMap<String, TextFile>> {
    let mut files = BTreeMap::new();
    for name in TEXT_FILES {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let mut bytes = Vec::new();
        let read = open_file(DO, &path)?.take(MAX_TEXT_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::io(DO, &path, error))?;
        if bytes.len() as u64 > MAX_TEXT_FILE {
            return Err(Error::new(ErrorKind::Unsupported, DO, "a text file of the model is too long")
                .with("path", path.display()));
        }
        let file = TextFile { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        files.insert(name.to_owned(), file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::StreamExt as _;
    use futures::stream::{self, BoxStream};

    use super::*;
    use crate::backends::serve::protocol::GenerateJob;
    use crate::events::JobState;
    use crate::server::jobs::Jobs;
    use crate::server::models::tests::models_of;
    use crate::server::{Activity, Metrics, ServerConfig};
    use crate::testing::{ScriptedBackend, model_info};
    use crate::{
        CallSignal, Completion, FinishReason, GenerateRequest, Generated, Message, MessageRole, ModelInfo,
        ScoreRequest, TokenScores, Usage,
    };

    /// Writes a token whenever it is told to, and ends its reply with the last.
    #[derive(Debug)]
    struct Typist {
        model: ModelInfo,
        told: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
    }

    #[async_trait]
    impl ModelSession for Typist {
        fn model(&self) -> &ModelInfo {
            &self.model
        }

        fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
            Ok(None)
        }

        fn generate(&self, _: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
            let (told, cx) = (Arc::clone(&self.told), cx.clone());
            let reply = async move {
                let mut told = told.lock().await;
                while told.recv().await.is_some() {
                    cx.signal(CallSignal::Token);
                }
                let completion = Completion::new("done", FinishReason::Stop, Usage::default());
                Generated { index: 0, result: Ok(completion) }
            };
            stream::once(reply).boxed()
        }

        async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
            Ok(Vec::new())
        }
    }

    #[tokio::test]
    async fn a_job_feeds_the_watchdog_while_it_gets_on_and_no_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tell, told) = mpsc::channel(1);
        let told = Arc::new(tokio::sync::Mutex::new(told));
        let backend = ScriptedBackend::new("scripted", move |_| {
            Ok(Arc::new(Typist { model: model_info("king"), told: Arc::clone(&told) }))
        });
        let models = models_of(backend, &["king"], folder.path(), folder.path()).await;
        let engine = models.engine().digest().expect("a digest");
        let (activity, metrics) = (Activity::new(), Metrics::new().expect("metrics"));
        let work = CallContext::new().with_events(Arc::new(activity.clone()));
        models.open(&work).await.expect("opens");
        let jobs = Jobs::open(None, engine, None).expect("opens");
        let state = State::new(&ServerConfig::default(), models, jobs, metrics, activity.clone(), work);

        let request = GenerateRequest::new([Message::new(MessageRole::User, "ls")], 8);
        let key = SessionKey::new(model_info("king").parameters);
        let job = JobRequest::Generate(GenerateJob::new(engine, key, &request));
        let id = job.id().expect("an id");
        let bytes = canonical_json(&job).expect("writes");
        state.jobs().ask(id, &job, bytes).await.expect("is stored");
        let (id, request) = state.jobs().0.store.next().await.expect("reads").expect("a job");
        let mut under_way = JoinSet::new();
        under_way.spawn(one(state.clone(), id, request));
        let token = async || {
            tell.send(()).await.expect("somebody writes");
            while tell.capacity() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let mut steps = 0;
        token().await;
        assert!(activity.gets_on(&mut steps), "it began");
        assert!(!activity.gets_on(&mut steps), "it stands still");
        token().await;
        assert!(activity.gets_on(&mut steps), "a token");
        assert!(!activity.gets_on(&mut steps), "it stands still");
        drop(tell);
        under_way.join_next().await.expect("one").expect("no panic");
        assert!(activity.gets_on(&mut steps) && activity.gets_on(&mut steps), "nothing is under way");
        let status = state.jobs().status(id).await.expect("reads").expect("is known");
        assert_eq!((status.state, status.stored), (JobState::Done, 1));
    }
}
