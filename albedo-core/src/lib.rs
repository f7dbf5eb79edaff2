//! The heart of albedo: the roles that plugins play, the duel engine, the
//! decision rules and the record. It knows no network, GPU, chain or file
//! format of tasks, and touches files only in its file record store.
#![forbid(unsafe_code)]

pub mod backend;
pub mod calibrate;
pub mod canary;
pub mod chain;
pub mod clock;
pub mod confirmation;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod context;
pub mod decision;
pub mod digest;
pub mod draw;
pub mod duel;
pub mod error;
pub mod files;
pub mod identity;
pub mod judge;
pub mod marks;
pub mod numpy;
pub mod panel;
pub mod plan;
pub mod python;
pub mod record;
pub mod registry;
pub mod reign;
pub mod rng;
pub mod safetensors;
pub mod screen;
pub mod stats;
pub mod tasks;
pub mod verdict;
pub mod weights;
pub mod wrappers;

pub use backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelBackend, ModelInfo, ModelSession,
    ModelSource, ResponseFormat, Role as MessageRole, Sampling, ScoreRequest, TokenLogProb, TokenScores,
    Usage,
};
pub use chain::ChainClient;
pub use clock::{Clock, SystemClock, VirtualClock};
pub use context::{CallContext, CallSignal};
pub use decision::Rule;
pub use digest::{Digest, canonical_json};
pub use duel::{Contestant, Duel, DuelEvent, DuelReport, Observer};
pub use error::{Error, ErrorKind, Fault, Result, Retry, Side};
pub use files::{FileEntry, ModelFiles, Provenance};
pub use identity::Identity;
pub use judge::{
    Alteration, Assessment, Candidate, Comparison, Evidence, Judge, Metric, Needs, Preparation, Prepared,
    Score,
};
pub use marks::{DuelSecret, JudgementKey, Marks, Question};
pub use plan::{DuelPlan, DuelSettings, Sampler, Seed, Terms};
pub use record::{FileStore, MemoryStore, Record, RecordStore};
pub use registry::{BuildContext, Factory, Plugin, PluginConfig, PluginInfo, Registry, Role};
pub use screen::{Finding, Screen, ScreenStage, Subject};
pub use tasks::{TaskRow, TaskSetInfo, TaskSource};
pub use verdict::{Outcome, Verdict};

#[doc(hidden)]
pub use inventory;
