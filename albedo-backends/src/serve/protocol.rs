//! What a server of jobs and its clients say to each other, over HTTP and over NATS.
//!
//! A job is one request; its id is the digest of the request's canonical JSON
//! ([`JobRequest::id`]), so that asking again finds it. A request names the engine and
//! the parameters that it wants, and a result says which ones answered it: a reply of
//! another model is refused by the server, and once more by the client.

use std::collections::BTreeMap;

use albedo_core::error::Reach;
use albedo_core::events::{Event, JobState};
use albedo_core::{Build, Digest, Error, ErrorKind, Fault, Identity, Result};
use serde::{Deserialize, Serialize};

mod error;
mod request;
mod result;

pub use self::error::WireError;
pub use self::request::{
    Format, GenerateJob, GivenReply, HoldJob, JobRequest, LoadJob, Measure, ReleaseJob, ScoreJob, ScreenJob,
    SessionKey,
};
pub use self::result::{
    AnsweringModel, HeldModel, JobOutcome, JobResult, LoadedModel, MAX_TEXT_FILE, MeasuredModel,
    ScreenedModel, TEXT_FILES, TextFile,
};

/// Version of what is said here. A change that could break the other side raises it.
pub const VERSION: u32 = 1;

/// The longest request of a job, in bytes. Source: albedo; a prompt of a million tokens
/// has about 4 MB.
pub const MAX_REQUEST: usize = 8 << 20;

/// The longest result of a job, in bytes. Source: albedo; a reply of 100,000 tokens has
/// about 2 MB with its ids and gaps.
pub const MAX_RESULT: usize = 64 << 20;

/// Seconds between two lines of a stream of events.
pub const HEARTBEAT_SECS: u64 = 10;

/// What computes replies: what a plan names, and more. Never an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineIdentity {
    /// The backend behind the server: what the plan of a duel names.
    pub backend: Identity,
    /// The build of albedo.
    pub build: Build,
    /// The model of the device, for example `NVIDIA H100 80GB HBM3`; none if the backend
    /// does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl EngineIdentity {
    /// The digest by which requests name the engine.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_json(self)
    }
}

/// What a server tells of itself: `GET /v1/engine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// [`VERSION`].
    pub version: u32,
    /// What computes replies.
    pub engine: EngineIdentity,
    /// The models that the server offers by name, and their parameters.
    pub models: BTreeMap<String, Digest>,
}

impl EngineInfo {
    /// Checks that this build understands the server.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], the operator's.
    pub fn check(&self) -> Result<()> {
        if self.version == VERSION {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "talk to the server", "it speaks another version of the jobs")
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("the server's", self.version)
            .with("this program's", VERSION)
            .with_hint("run the same version of albedo on both sides"))
    }
}

/// How far a job is: `GET /v1/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub job: Digest,
    /// What it does.
    pub kind: String,
    /// Its state.
    pub state: JobState,
    /// Times that it was begun.
    pub runs: u32,
    /// Times that a result of it was stored.
    pub stored: u32,
    /// The number of its latest event.
    pub events: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

/// A line of a job's stream of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// The next event.
    Event(Box<NumberedEvent>),
    /// Nothing happened for a while; the server is alive.
    Heartbeat {
        /// The number of the latest event.
        heartbeat: u64,
    },
}

/// An event of a job and its number, from 1. `after=N` asks for the events after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// The number.
    pub number: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}
