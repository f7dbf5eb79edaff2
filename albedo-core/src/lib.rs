//! The heart of albedo: the roles that plugins play, the duel engine, the
//! decision rules and the record. It knows no network, GPU, chain or file
//! format of tasks, and touches files only in its file record store.
//!
//! | room | modules | what for |
//! | --- | --- | --- |
//! | roles | [`backend`], [`judge`], [`screen`], [`chain`], [`tasks`], [`files`], [`hub`], [`model_ref`] | the traits that plugins implement, with their requests and answers |
//! | registry | [`registry`], [`identity`] | plugins by name, and how a record names them |
//! | admission | [`admission`], [`checkpoint`] | whether a submission may duel: stages of screens, one pass over the weights |
//! | duel | [`plan`], [`draw`], [`sample`], [`duel`], [`canary`], [`marks`], [`seed`], [`order`] | settings, the frozen plan, the draw, the engine that runs it |
//! | decision | [`panel`], [`decision`], [`verdict`], [`stats`], [`paired`], [`reign`], [`confirmation`], [`calibrate`] | pure functions from judges' answers to a verdict |
//! | record | [`record`], [`audit`], `log` (feature `signatures`) | journal, canonical record, stores, verification; audits of replies; the log of duels |
//! | wrappers | [`wrappers`], [`meter`] | retries, deadlines, limits, routes and budgets around calls |
//! | chain weights | [`weights`] | the journal that clears a weight vector |
//! | foundations | [`error`], [`events`], [`context`], [`clock`], [`digest`], [`http`], [`rng`], [`safetensors`], [`signer`] | what every room uses |
//! | tests | `conformance`, `testing` (feature `conformance`) | suites that implementations must pass, scripted parts |
#![forbid(unsafe_code)]

// Roles.
pub mod backend;
pub mod chain;
pub mod files;
pub mod hub;
pub mod judge;
pub mod model_ref;
pub mod screen;
pub mod tasks;

// Registry.
pub mod identity;
pub mod registry;

// Admission.
pub mod admission;
pub mod checkpoint;

// Duel.
pub mod behaviour;
pub mod canary;
pub mod draw;
pub mod duel;
pub mod marks;
pub mod missing;
pub mod order;
pub mod plan;
pub mod sample;
pub mod seed;
pub mod twin;

// Decision.
pub mod calibrate;
pub mod confirmation;
pub mod decision;
pub mod paired;
pub mod panel;
pub mod reign;
pub mod stats;
pub mod verdict;

// Record.
pub mod audit;
#[cfg(any(test, feature = "signatures"))]
pub mod log;
pub mod origin;
pub mod record;

// Wrappers.
pub mod meter;
mod retry;
pub mod wrappers;

// Chain weights.
pub mod pretrained;
pub mod weights;

// Foundations.
pub mod clock;
mod compat;
pub mod context;
pub mod digest;
pub mod durable;
pub mod error;
pub mod events;
pub mod http;
pub mod overflow;
pub mod rng;
pub mod safetensors;
pub mod signer;

// Its own tests need it whichever features are asked for.
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub mod testing;

pub use admission::{Admission, AdmissionOutcome, Admit, Models, Probes, ScreenProfile, Screened};
pub use backend::{
    BoxStream, Completion, DeviceMemory, FinishReason, GenerateRequest, Generated, LogitsReader,
    LogitsRequest, Message, ModelBackend, ModelInfo, ModelSession, ModelSessionExt, ModelSource, Prompt,
    ResponseFormat, Role as MessageRole, SampledTokens, Sampling, ScoreRequest, StreamPart, StreamRequest,
    TokenLogProb, TokenScores, TokenText, Usage,
};
pub use behaviour::{Behaviour, OfflineJudge};
pub use chain::ChainClient;
pub use checkpoint::{Checkpoint, WeightVisitor};
pub use clock::{Clock, SystemClock, VirtualClock};
pub use context::{CallContext, CallSignal};
pub use decision::Rule;
pub use digest::{Digest, canonical_json};
pub use duel::{Contestant, Duel, DuelBuilder, DuelReport};
pub use error::{Artefact, Error, ErrorKind, Fault, Reach, Result, Retry, Side};
pub use events::{Event, EventKind, EventSink};
pub use files::{FileEntry, FilePart, ModelFiles, Provenance};
pub use http::{HttpRequest, HttpResponse, HttpTransport};
pub use hub::ModelHub;
pub use identity::Identity;
pub use judge::{
    Alteration, Assessment, Candidate, Comparison, Evidence, Judge, JudgeProfile, Metric, Preparation,
    Prepared, Score,
};
pub use marks::{DuelSecret, JudgementKey, Marks, Question};
pub use model_ref::{HubRef, ModelRef, Revision};
pub use order::Order;
pub use origin::{Build, Origin};
pub use overflow::Overflow;
pub use plan::{DuelPlan, DuelSettings, Sampler, Terms};
pub use record::{FileStore, MemoryStore, Record, RecordStore};
pub use registry::{
    BuildContext, CheckContext, Factory, Plugin, PluginConfig, PluginInfo, Registry, Resources, Role,
};
pub use sample::Sample;
pub use screen::{
    BehaviourScreen, BesideScreen, FilesScreen, Finding, ReplyScreen, Screen, ScreenPart, ScreenStage,
    Sessions, WeightsInspection, WeightsScreen,
};
pub use seed::Seed;
pub use signer::{PublicKey, Scheme, Signature, Signer};
pub use tasks::{TaskRow, TaskSetInfo, TaskSource};
pub use verdict::{Outcome, Verdict};

/// What [`register!`] expands to.
#[doc(hidden)]
pub mod __register {
    pub use inventory::submit;

    pub use crate::registry::Linked;
}
