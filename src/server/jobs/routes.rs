//! The routes of jobs: `/v1/engine`, `/v1/files`, `/v1/jobs`.
//!
//! `/openapi.json` lists them. The forms of requests and results are those of
//! [`protocol`](crate::backends::serve::protocol), in JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body as Answer;
use axum::extract::{Path, Query, State as From};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use utoipa::openapi::{self, RefOr};

use super::run::{check_engine, holds};
use super::store::{Asked, Ended};
use super::unknown;
use crate::backends::serve::protocol::{
    EngineIdentity, EngineInfo, EventLine, HEARTBEAT_SECS, JobRequest, JobStatus, NumberedEvent, VERSION,
    WireError,
};
use crate::server::body::Body;
use crate::server::error::failures;
use crate::server::{ApiError, State};
use crate::{Digest, Error, ErrorKind, EventKind, Retry};

/// The routes.
pub(in crate::server) fn router() -> Router<State> {
    Router::new()
        .route("/v1/engine", get(engine))
        .route("/v1/files/{sha256}", get(file))
        .route("/v1/jobs/{id}", put(ask).get(status).delete(let_go))
        .route("/v1/jobs/{id}/events", get(events))
        .route("/v1/jobs/{id}/result", get(result))
}

/// A request about a job that failed: a status, and everything that decides what follows
/// for the client, in the body that clients of OpenAI's routes read.
pub(in crate::server) struct JobError(Error);

impl std::convert::From<Error> for JobError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for JobError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::ConfigInvalid | ErrorKind::DataInvalid | ErrorKind::Unsupported => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unexpected => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), %error, "a request about a job failed");
        }
        let body = json!({ "error": {
            "message": error.to_string(),
            "type": kind,
            "param": null,
            "code": error.kind(),
            "albedo": WireError::from(&error),
        }});
        let mut response = (status, Json(body)).into_response();
        if let Retry::After(pause) = error.retry() {
            let secs = pause.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
        }
        response
    }
}

/// The answers of a request about a job that fails, for `/openapi.json`.
impl utoipa::IntoResponses for JobError {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        failures([
            (401, "The token is missing or wrong"),
            (404, "The model is not held here, or the job is not known"),
            (409, "The request is for another engine, or another model is loaded"),
            (413, "The request is too long"),
            (422, "The body is no request, names no digest, or does not have the digest in the path"),
            (429, "Too many jobs wait; see `Retry-After`"),
            (503, "The server loads its models, or stops"),
        ])
    }
}

/// A server that is not ready yet, or stops, asks to be asked again.
fn ready(state: &State) -> Result<(), JobError> {
    let message = match () {
        () if state.stopping().is_cancelled() => "the server stops",
        () if !state.activity().is_ready() => "the server still loads its models",
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unavailable, "answer a request", message)
        .with_retry(Retry::After(Duration::from_secs(1)))
        .into())
}

/// The digest in a path.
fn digest(text: &str) -> Result<Digest, JobError> {
    text.parse().map_err(JobError)
}

/// Describes what computes replies, and the models that are offered by name.
#[utoipa::path(
    get,
    path = "/v1/engine",
    tag = "jobs",
    responses((status = 200, description = "The engine, and digests of models by their names", body = Value), JobError)
)]
pub(in crate::server) async fn engine(From(state): From<State>) -> Result<Json<EngineInfo>, JobError> {
    ready(&state)?;
    Ok(Json(info(&state)))
}

/// How the server describes itself.
pub(in crate::server) fn info(state: &State) -> EngineInfo {
    let EngineIdentity { backend, build, device } = state.models().engine().clone();
    let models = state.models().list().into_iter();
    let models = models.filter_map(|model| Some((model.name, model.key?.parameters))).collect();
    EngineInfo { version: VERSION, engine: EngineIdentity { backend, build, device }, models }
}

/// Sends a text file of a model that was loaded.
#[utoipa::path(
    get,
    path = "/v1/files/{sha256}",
    tag = "jobs",
    params(("sha256" = String, Path, description = "SHA-256 of the file")),
    responses(
        (status = 200, description = "Its bytes", content_type = "application/octet-stream", body = Vec<u8>),
        JobError,
    )
)]
pub(in crate::server) async fn file(
    From(state): From<State>,
    Path(sha256): Path<String>,
) -> Result<Response, JobError> {
    const READ: &str = "read a text file";
    let sha256 = digest(&sha256)?;
    let (_, path) = state.jobs().file(sha256).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, READ, "no model that was loaded has a text file of this digest")
            .with("sha256", sha256)
            .with_hint("have the server load the model first")
    })?;
    let read = tokio::task::spawn_blocking(move || {
        std::fs::read(&path).map_err(|error| Error::io(READ, &path, error))
    });
    let bytes = read.await.map_err(|error| Error::bug(READ, error.to_string()))??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Asks for a job; a job that is known is found.
#[utoipa::path(
    put,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "The job: SHA-256 of its request's canonical JSON")),
    request_body(
        content = Value,
        description = "The request: `job` is `hold`, `load`, `generate`, `score`, `screen` or `release`",
        example = json!({
            "job": "generate", "engine": "…", "model": { "parameters": "…" },
            "messages": [{ "role": "user", "content": "ls" }],
            "sampling": { "temperature": 0.7, "top_p": 1.0, "top_k": 0 }, "max_new_tokens": 64, "seed": 7,
        }),
    ),
    responses(
        (status = 200, description = "It is known; its state", body = Value),
        (status = 201, description = "It is new, and waits for its turn", body = Value),
        JobError,
    )
)]
pub(in crate::server) async fn ask(
    From(state): From<State>,
    Path(id): Path<String>,
    body: Result<Body, ApiError>,
) -> Result<Response, Response> {
    let Body(bytes) = body.map_err(IntoResponse::into_response)?;
    let asked = async {
        ready(&state)?;
        let id = digest(&id)?;
        let request = JobRequest::read(id, &bytes)?;
        check_engine(&request, state.jobs().engine())?;
        holds(&state, &request)?;
        let limits = state.limits();
        let most = u64::from(limits.queue) + u64::from(limits.streams);
        if state.jobs().status(id).await?.is_none() && state.jobs().unfinished().await? >= most {
            return Err(Error::new(
                ErrorKind::RateLimited,
                "take a job",
                format!("{most} jobs wait already"),
            )
            .with_retry(Retry::After(Duration::from_secs(5)))
            .into());
        }
        let asked = state.jobs().ask(id, &request, bytes.to_vec()).await?;
        let code = if asked == Asked::New { StatusCode::CREATED } else { StatusCode::OK };
        Ok::<_, JobError>((code, Json(known(&state, id).await?)).into_response())
    };
    asked.await.map_err(IntoResponse::into_response)
}

async fn known(state: &State, id: Digest) -> Result<JobStatus, JobError> {
    Ok(state.jobs().status(id).await?.ok_or_else(|| unknown(id))?)
}

/// Reports how far a job is.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "The job: SHA-256 of its request's canonical JSON")),
    responses(
        (
            status = 200, description = "Its state, how often it was begun and stored, why it failed", body = Value,
            example = json!({ "job": "…", "kind": "generate", "state": "done", "runs": 1, "stored": 1, "events": 3 }),
        ),
        JobError,
    )
)]
pub(in crate::server) async fn status(
    From(state): From<State>,
    Path(id): Path<String>,
) -> Result<Json<JobStatus>, JobError> {
    known(&state, digest(&id)?).await.map(Json)
}

/// Sends a job's result, if it is stored.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/result",
    tag = "jobs",
    params(("id" = String, Path, description = "The job: SHA-256 of its request's canonical JSON")),
    responses((status = 200, description = "What it came to, and which engine and model answered", body = Value), JobError)
)]
pub(in crate::server) async fn result(
    From(state): From<State>,
    Path(id): Path<String>,
) -> Result<Response, JobError> {
    const READ: &str = "read a job's result";
    let id = digest(&id)?;
    match state.jobs().ended(id).await? {
        Some(Ended::Result(bytes)) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
        }
        Some(Ended::Error(error)) => Err(JobError(error.into_error())),
        None => {
            let state = known(&state, id).await?.state;
            Err(Error::new(ErrorKind::NotFound, READ, format!("there is none: the job is {state:?}"))
                .with("job", id)
                .into())
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct LetGo {
    /// `unfinished` leaves a result where it is.
    only: Option<Only>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Only {
    Unfinished,
}

/// Acknowledges a result, which may go then; cancels a job that is not over.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job: SHA-256 of its request's canonical JSON"),
        ("only" = Option<String>, Query, description = "`unfinished` leaves results alone"),
    ),
    responses((status = 204, description = "It is done"), JobError)
)]
pub(in crate::server) async fn let_go(
    From(state): From<State>,
    Path(id): Path<String>,
    Query(query): Query<LetGo>,
) -> Result<StatusCode, JobError> {
    let id = digest(&id)?;
    if !state.jobs().let_go(id, query.only == Some(Only::Unfinished)).await? {
        return Err(unknown(id).into());
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct After {
    /// The number of the latest event that the client has seen.
    #[serde(default)]
    after: u64,
}

/// Sends a job's events as JSON lines until it is over, and a heartbeat where nothing
/// happens.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job: SHA-256 of its request's canonical JSON"),
        ("after" = Option<u64>, Query, description = "Only events with a higher number"),
    ),
    responses(
        (status = 200, description = "One event per line, numbered from 1", content_type = "application/jsonl", body = String),
        JobError,
    )
)]
pub(in crate::server) async fn events(
    From(state): From<State>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Response, JobError> {
    let id = digest(&id)?;
    known(&state, id).await?;
    let lines = stream::unfold(Some(after), move |after| {
        let state = state.clone();
        async move {
            let (bytes, next) = lines(&state, id, after?).await;
            Some((Ok::<_, std::convert::Infallible>(bytes), next))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Answer::from_stream(lines)).into_response())
}

/// The next lines after number `after`, and after which number to go on, if the stream
/// does.
async fn lines(state: &State, id: Digest, after: u64) -> (Bytes, Option<u64>) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(HEARTBEAT_SECS);
    loop {
        let mut news = state.jobs().follow(id);
        let Ok(Some(events)) = state.jobs().events(id, after).await else {
            // It is forgotten, or the disk fails: the client asks once more.
            return (Bytes::new(), None);
        };
        if let Some(last) = events.last() {
            let next = (!is_over(last)).then_some(last.number);
            let mut text = Vec::new();
            for event in events {
                line(&mut text, &EventLine::Event(Box::new(event)));
            }
            return (text.into(), next);
        }
        tokio::select! {
            _ = news.changed() => {}
            // The client follows the job at the server that is started next.
            () = state.stopping().cancelled() => return (Bytes::new(), None),
            () = tokio::time::sleep_until(deadline) => {
                let mut text = Vec::new();
                line(&mut text, &EventLine::Heartbeat { heartbeat: after });
                return (text.into(), Some(after));
            }
        }
    }
}

fn is_over(event: &NumberedEvent) -> bool {
    matches!(&event.event.kind, EventKind::Job(job) if job.state.is_over())
}

fn line(text: &mut Vec<u8>, line: &EventLine) {
    // A line has no map with other keys than strings.
    if serde_json::to_writer(&mut *text, line).is_ok() {
        text.push(b'\n');
    }
}
