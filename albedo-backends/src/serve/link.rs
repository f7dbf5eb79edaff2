//! The way to a server of jobs: HTTP or a work queue; and what counts as an answer.

use std::fmt::Debug;

use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, HubRef, ModelInfo, Reach, Result, Retry};
use async_trait::async_trait;

use super::protocol::{AnsweringModel, EngineInfo, JobOutcome, JobRequest, JobResult, MAX_REQUEST, TextFile};

const CHECK: &str = "check the server's answer";

/// A request and its digest.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: Digest,
    #[cfg_attr(not(feature = "nats"), expect(dead_code, reason = "one server reads the body"))]
    pub(super) request: JobRequest,
    /// The request's canonical JSON.
    pub(super) body: Vec<u8>,
    /// Where the models that it names can be had.
    #[cfg_attr(not(feature = "nats"), expect(dead_code, reason = "one server is told once"))]
    pub(super) references: Vec<HubRef>,
}

impl Job {
    /// # Errors
    /// [`ErrorKind::Refused`]: the request is too long.
    pub(super) fn new(request: JobRequest, references: Vec<HubRef>) -> Result<Self> {
        let body = albedo_core::canonical_json(&request)?;
        if body.len() > MAX_REQUEST {
            let message = format!("it has {} bytes, a server takes {MAX_REQUEST}", body.len());
            return Err(Error::new(ErrorKind::Refused, "ask the server", message));
        }
        Ok(Self { id: Digest::of(&body), request, body, references })
    }
}

/// A way to a server.
#[async_trait]
pub(super) trait Link: Debug + Send + Sync {
    /// What the server is.
    async fn engine(&self, cx: &CallContext) -> Result<EngineInfo>;

    /// The result of `job`, which is done unless the server has its result already. A
    /// server that is away is waited for.
    async fn result(&self, job: &Job, cx: &CallContext) -> Result<JobResult>;

    /// The text file.
    async fn file(&self, file: TextFile, cx: &CallContext) -> Result<Vec<u8>>;

    /// The result of `job` is stored elsewhere now: told to the server when there is time.
    fn acknowledge(&self, job: Digest);

    /// Nobody here waits for `job` any more: told likewise. A result that is stored stays.
    fn abandon(&self, job: Digest);

    /// The model of `label` need not be kept: told likewise.
    fn release(&self, engine: Digest, label: String);
}

/// What `result` says, if it is the answer to `job` of `engine` and, where one is given,
/// of `model` and its text files.
///
/// # Errors
/// [`ErrorKind::Conflict`], the infrastructure's: it is another's.
pub(super) fn answer(
    result: JobResult,
    job: &Job,
    engine: Digest,
    model: Option<&ModelInfo>,
) -> Result<JobOutcome> {
    if result.job != job.id {
        return Err(another("the answer to another job").with("asked", job.id).with("answered", result.job));
    }
    if result.engine != engine {
        return Err(another("the answer of another engine")
            .with("asked", engine)
            .with("answered", result.engine));
    }
    if let Some(model) = model {
        let asked = AnsweringModel::from(model);
        match result.model {
            Some(answered) if answered == asked => {}
            Some(answered) if answered.parameters == asked.parameters => {
                return Err(another("the answer of the model with other text files or settings"));
            }
            answered => {
                let answered = answered.map_or("unknown".into(), |model| model.parameters.to_string());
                return Err(another("the answer of another model")
                    .with("asked", asked.parameters)
                    .with("answered", answered));
            }
        }
    }
    Ok(result.outcome)
}

/// The server answered with `what`: nothing that it says can be believed, and no
/// contestant is to blame.
pub(super) fn another(what: &str) -> Error {
    Error::new(ErrorKind::Conflict, CHECK, format!("it is {what}"))
        .with_fault(Fault::Infrastructure)
        .with_reach(Reach::Duel)
        .with_retry(Retry::Never)
        .with_hint("find out what runs at the server's address; then resume")
}
