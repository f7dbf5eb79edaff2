//! The jobs of a work queue over NATS JetStream, done beside the server's own.
//!
//! A worker takes no more messages than its engine runs together. It looks whether the
//! job's result is stored already, does the job otherwise, stores the result, and
//! acknowledges the message last. While it works it says so to the broker, at a third of the
//! time after which the broker gives the message to another worker. A job that was
//! delivered five times and still has no result is set aside with an alert.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::State;
use super::jobs::{self, Ended};
use crate::backends::serve::NatsConfig;
use crate::backends::serve::nats::{Fleet, JobMessage, ResultMessage, read, request};
use crate::backends::serve::protocol::{HoldJob, JobRequest, WireError};
use crate::files::{open_file, read_exact_at};
use crate::registry::Secret;
use crate::{BuildContext, CallContext, Digest, Error, ErrorKind, EventKind, Result, Retry, canonical_json};

const WORK: &str = "do the jobs of the fleet";

/// Deliveries after which a job is set aside.
const MOST_DELIVERIES: i64 = 5;

/// How long a fetch waits for messages.
const FETCH: Duration = Duration::from_secs(1);

/// Messages that are fetched at a time at most.
const BATCH: usize = 16;

/// The pause before a job is given to another worker: this one does not have its model.
const PASS_ON: Duration = Duration::from_millis(500);

/// Pauses between tries to connect, in seconds: the first and the longest.
const PAUSES: (f64, f64) = (0.1, 5.0);

/// Bytes of a text file that one answer has.
const PIECE: u64 = 512 << 10;

/// A work queue and what it takes to use it.
#[derive(Debug)]
pub(super) struct Queue {
    config: NatsConfig,
    token: Option<Secret>,
}

impl Queue {
    /// # Errors
    /// The operator's: there is no secret of the name that `config` gives.
    pub(super) fn new(config: &NatsConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let token = config.token_env.as_deref().map(|name| cx.secret(name)).transpose();
        let token = token.map_err(|error| error.with("key", "nats.token_env"))?;
        Ok(Self { config: config.clone(), token })
    }

    /// How long a message may be unacknowledged before another worker gets it.
    fn ack_wait(&self) -> Duration {
        Duration::from_secs_f64(self.config.ack_wait_secs)
    }
}

/// Does the jobs of `queue` until the server stops. A broker that is away is waited for.
pub(super) async fn run(state: State, queue: Queue) {
    let mut pause = PAUSES.0;
    while !state.stopping().is_cancelled() {
        match Box::pin(serve(&state, &queue, &mut pause)).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the work queue is away"),
        }
        let wait = Duration::from_secs_f64(pause);
        pause = (pause * 2.0).min(PAUSES.1);
        tokio::select! {
            () = state.stopping().cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn serve(state: &State, queue: &Queue, pause: &mut f64) -> Result<()> {
    let fleet = Fleet::connect(&queue.config, queue.token.clone(), state.stopping()).await?;
    let engine = state.jobs().engine();
    let stream = fleet.context().get_stream(fleet.queue()).await.map_err(|error| away(&error))?;
    // Workers of one engine share a consumer; those of another have their own subject.
    let name = format!("engine-{}", engine.short());
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: fleet.jobs(engine),
        ack_policy: AckPolicy::Explicit,
        ack_wait: queue.ack_wait(),
        max_ack_pending: 10_000,
        ..pull::Config::default()
    };
    let consumer: PullConsumer =
        stream.get_or_create_consumer(&name, config).await.map_err(|error| away(&error))?;
    let subscribe =
        async |subject: String| fleet.client().subscribe(subject).await.map_err(|error| away(&error));
    let engines = subscribe(fleet.engine_subject()).await?;
    let files = subscribe(fleet.file_subject("*")).await?;
    tracing::info!(queue = fleet.queue(), engine = %engine.short(), "takes jobs from the work queue");
    *pause = PAUSES.0;
    let mut answering = JoinSet::new();
    answering.spawn(tell_engine(state.clone(), fleet.client().clone(), engines));
    answering.spawn(tell_files(state.clone(), fleet.client().clone(), files));
    let mut under_way = JoinSet::new();
    let taken = take(state, &fleet, &consumer, queue.ack_wait() / 3, &mut under_way).await;
    // What is under way is finished, or handed back with the server's work.
    while under_way.join_next().await.is_some() {}
    taken
}

async fn take(
    state: &State,
    fleet: &Fleet,
    consumer: &PullConsumer,
    every: Duration,
    under_way: &mut JoinSet<()>,
) -> Result<()> {
    // What waits in a worker is lost with it, and no other worker can take it meanwhile.
    let streams = state.limits().streams;
    let most = state.models().max_batch().map_or(streams, |together| together.min(streams)) as usize;
    loop {
        while under_way.try_join_next().is_some() {}
        let free = most.saturating_sub(under_way.len()).min(BATCH);
        if free == 0 {
            tokio::select! {
                () = state.stopping().cancelled() => return Ok(()),
                _ = under_way.join_next() => continue,
            }
        }
        let batch = consumer.batch().max_messages(free).expires(FETCH).messages();
        let mut messages = tokio::select! {
            () = state.stopping().cancelled() => return Ok(()),
            messages = batch => messages.map_err(|error| away(&error))?,
        };
        loop {
            let message = tokio::select! {
                () = state.stopping().cancelled() => return Ok(()),
                message = messages.next() => message,
            };
            match message {
                Some(Ok(message)) => _ = under_way.spawn(one(state.clone(), fleet.clone(), message, every)),
                Some(Err(error)) => return Err(away(&error)),
                None => break,
            }
        }
    }
}

/// What becomes of a message.
enum Done {
    /// A result, or that there is none, is stored.
    Stored,
    /// Another worker, or this one later, is to have it.
    PassOn(Error),
}

/// Does the job of `message`, reports progress to the broker at the interval `every`, and
/// acknowledges it.
async fn one(state: State, fleet: Fleet, message: Message, every: Duration) {
    let deliveries = message.info().map_or(1, |info| info.delivered);
    let job: JobMessage = match read(&message.payload) {
        Ok(job) => job,
        Err(error) => {
            tracing::warn!(%error, "a message of the work queue is no job, and is dropped");
            acknowledge(&message, AckKind::Term).await;
            return;
        }
    };
    let mut work = std::pin::pin!(perform(&state, &fleet, &job, deliveries));
    let mut progress = tokio::time::interval(every);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = progress.tick() => acknowledge(&message, AckKind::Progress).await,
        }
    };
    match done {
        Ok(Done::Stored) => {
            // It is delivered again if this is lost; then its result is found.
            if let Err(error) = message.double_ack().await {
                tracing::debug!(%error, "an acknowledgement is lost");
            }
        }
        Ok(Done::PassOn(error)) | Err(error) => {
            tracing::info!(job = %job.job.short(), %error, "a job is passed on");
            acknowledge(&message, AckKind::Nak(Some(PASS_ON))).await;
        }
    }
}

/// What the broker does not hear, it finds out by itself.
async fn acknowledge(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an acknowledgement is lost");
    }
}

async fn perform(state: &State, fleet: &Fleet, job: &JobMessage, deliveries: i64) -> Result<Done> {
    let id = job.job;
    let pauses = (PASS_ON, Duration::from_secs_f64(PAUSES.1));
    let (asked, bytes) = match answered(state.stopping(), pauses, || unfinished(fleet, job)).await {
        Ok(Some(asked)) if deliveries <= MOST_DELIVERIES => asked,
        Ok(None) => return Ok(Done::Stored),
        Err(error) if is_passed_on(&error, deliveries) => return Ok(Done::PassOn(error)),
        Err(error) if error.kind() == ErrorKind::DataInvalid => return fail(fleet, id, &error).await,
        found => {
            let message = format!(
                "the job {} was delivered {MOST_DELIVERIES} times and has no result: it is set aside",
                id.short()
            );
            state.work().emit(EventKind::Alert { message });
            let error = Error::new(ErrorKind::Unavailable, WORK, "the job was given to workers too often")
                .with("deliveries", deliveries - 1)
                .with_retry(Retry::Never)
                .with_hint("look at the workers' logs; asked for again, the job is tried again");
            let error = match found {
                Ok(_) => error,
                Err(cause) => error.with("cause", cause.message()),
            };
            return fail(fleet, id, &error).await;
        }
    };
    jobs::check_engine(&asked, state.jobs().engine())?;
    if jobs::holds(state, &asked).is_err()
        && let Err(error) = fetch(state, job).await.and_then(|()| jobs::holds(state, &asked))
    {
        if deliveries < MOST_DELIVERIES {
            // Another worker may have it.
            return Ok(Done::PassOn(error));
        }
        return fail(fleet, id, &error).await;
    }
    state.jobs().ask(id, &asked, bytes).await?;
    match state.jobs().wait(id, &wait_context(state)).await? {
        Ended::Result(bytes) => {
            fleet.publish_result(id, &ResultMessage::Done(fleet.body(bytes).await?)).await?;
            Ok(Done::Stored)
        }
        Ended::Error(error) => {
            let error = error.into_error();
            match error.kind() {
                // A failure of this machine is tried on another one.
                ErrorKind::Unavailable
                | ErrorKind::DeviceLost
                | ErrorKind::ResourceExhausted
                | ErrorKind::Timeout
                | ErrorKind::Cancelled => Ok(Done::PassOn(error)),
                _ => fail(fleet, id, &error).await,
            }
        }
    }
}

/// The request of `job` and its bytes; none if its result is stored already.
async fn unfinished(fleet: &Fleet, job: &JobMessage) -> Result<Option<(JobRequest, Vec<u8>)>> {
    let (asked, bytes) = request(fleet, job.job, &job.request).await?;
    let is_stored = asked.is_lasting() && fleet.result(job.job).await?.is_some();
    Ok((!is_stored).then_some((asked, bytes)))
}

/// What `read` gives once the broker answers; its error if the server stops first. The worker keeps
/// the message meanwhile: handed back, it would be delivered again at once, and deliveries are
/// counted. The pauses are the first and the longest.
async fn answered<T, F: Future<Output = Result<T>>>(
    stopping: &CallContext,
    (mut pause, longest): (Duration, Duration),
    read: impl Fn() -> F,
) -> Result<T> {
    loop {
        match read().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::info!(%error, "the broker does not give a job's request: the job waits");
                tokio::select! {
                    () = stopping.cancelled() => return Err(error),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
                }
            }
            found => return found,
        }
    }
}

/// Whether a job that cannot be read because of `error` may be readable later, or for another
/// worker. What the broker has lost, or has in other bytes, is asked for as often as it is delivered.
fn is_passed_on(error: &Error, deliveries: i64) -> bool {
    match error.kind() {
        ErrorKind::Unavailable => true,
        ErrorKind::DataInvalid => false,
        _ => deliveries <= MOST_DELIVERIES,
    }
}

/// Brings the models of `job` here, by jobs of their own, so that their leases end as those
/// of any others.
async fn fetch(state: &State, job: &JobMessage) -> Result<()> {
    let engine = state.jobs().engine();
    for reference in &job.references {
        let label = format!("fleet-{}", Digest::of(reference.to_string()).short());
        let hold = JobRequest::Hold(HoldJob { engine, reference: reference.clone(), label });
        let id = hold.id()?;
        state.jobs().ask(id, &hold, canonical_json(&hold)?).await?;
        if let Ended::Error(error) = state.jobs().wait(id, &wait_context(state)).await? {
            return Err(error.into_error());
        }
    }
    Ok(())
}

/// The context of a wait for a job. It ends with the server's work, as a job that is
/// handed back then has no end here.
fn wait_context(state: &State) -> CallContext {
    state.work().child()
}

async fn fail(fleet: &Fleet, job: Digest, error: &Error) -> Result<Done> {
    let message = ResultMessage::Failed(Box::new(WireError::from(error)));
    fleet.publish_result(job, &message).await?;
    Ok(Done::Stored)
}

/// Answers what the worker is.
async fn tell_engine(state: State, client: Client, mut asked: Subscriber) {
    while let Some(message) = asked.next().await {
        let (Some(reply), Ok(info)) = (message.reply, serde_json::to_vec(&jobs::info(&state))) else {
            continue;
        };
        if let Err(error) = client.publish(reply, info.into()).await {
            tracing::debug!(%error, "an answer is lost");
        }
    }
}

/// Answers pieces of the text files that the worker has; others may have other ones.
async fn tell_files(state: State, client: Client, mut asked: Subscriber) {
    while let Some(message) = asked.next().await {
        let sha256 = message.subject.rsplit('.').next().and_then(|sha256| sha256.parse::<Digest>().ok());
        let file = sha256.and_then(|sha256| state.jobs().file(sha256));
        let offset = std::str::from_utf8(&message.payload).ok().and_then(|offset| offset.parse::<u64>().ok());
        let (Some(reply), Some((file, path)), Some(offset)) = (message.reply, file, offset) else { continue };
        let length = file.size.saturating_sub(offset).min(PIECE);
        let piece = tokio::task::spawn_blocking(move || piece(&path, offset, length)).await;
        match piece {
            Ok(Ok(piece)) => {
                if let Err(error) = client.publish(reply, piece.into()).await {
                    tracing::debug!(%error, "an answer is lost");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "a text file cannot be read"),
            Err(error) => tracing::warn!(%error, "reading a text file failed"),
        }
    }
}

fn piece(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    let file = open_file(WORK, path)?;
    read_exact_at(&file, &mut bytes, offset).map_err(|error| Error::io(WORK, path, error))?;
    Ok(bytes)
}

fn away(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, WORK, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_job_that_cannot_be_read_is_passed_on_five_times_unless_the_broker_is_away() {
        for (kind, at_first, later) in [
            (ErrorKind::Unavailable, true, true),
            // Its pieces are gone, or not what they were.
            (ErrorKind::Protocol, true, false),
            // It is no request, and stays none.
            (ErrorKind::DataInvalid, false, false),
        ] {
            let error = Error::new(kind, WORK, "x");
            assert_eq!(is_passed_on(&error, 1), at_first, "{kind:?}");
            assert_eq!(is_passed_on(&error, MOST_DELIVERIES), at_first, "{kind:?}");
            assert_eq!(is_passed_on(&error, MOST_DELIVERIES + 1), later, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_does_not_answer_costs_no_delivery() {
        let stopping = CallContext::new();
        let asked = AtomicU32::new(0);
        // Away for 20 questions; then it has lost a piece.
        let read = || async {
            let kind = if asked.fetch_add(1, Ordering::Relaxed) < 20 {
                ErrorKind::Unavailable
            } else {
                ErrorKind::Protocol
            };
            Err::<(), _>(Error::new(kind, WORK, "x"))
        };
        let error = answered(&stopping, (Duration::ZERO, Duration::ZERO), read).await.expect_err("lost");
        assert_eq!((error.kind(), asked.load(Ordering::Relaxed)), (ErrorKind::Protocol, 21));

        asked.store(0, Ordering::Relaxed);
        let stopped = answered(&stopping, (Duration::MAX, Duration::MAX), read);
        let (stopped, ()) = futures::join!(stopped, async { stopping.cancel() });
        assert_eq!(stopped.expect_err("the server stops").kind(), ErrorKind::Unavailable);
    }
}
