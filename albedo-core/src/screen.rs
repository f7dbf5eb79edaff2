//! The [`Screen`] role: keeps a contest honest before a GPU minute is spent.

use std::fmt::Debug;
use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{Message, ModelSession};
use crate::context::CallContext;
use crate::error::Result;
use crate::files::ModelFiles;
use crate::identity::Identity;

/// Inspects a submission, or a reply, for one kind of foul play.
#[async_trait]
pub trait Screen: Debug + Send + Sync + 'static {
    /// What this screen is; goes into the record.
    fn identity(&self) -> &Identity;

    /// When it runs, and so which [`Subject`] it is given.
    fn stage(&self) -> ScreenStage;

    /// Inspects `subject`.
    ///
    /// # Behavior
    /// A contestant's foul is a [`Finding`], not an `Err`.
    ///
    /// # Errors
    /// `Err` means that the screen could not find out; the engine reads it as
    /// [`Finding::Unverified`], which is never the miner's fault. A subject of
    /// another stage is [`crate::Fault::Bug`].
    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> Result<Finding>;
}

/// When a screen runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreenStage {
    /// Before any download, on listings and ranged reads.
    Files,
    /// On the fetched parameters.
    Parameters,
    /// On the loaded model's behaviour.
    Behaviour,
    /// On one reply; such a screen only writes events.
    Reply,
}

/// What a screen looks at.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Subject<'a> {
    /// A submission's files beside the king's.
    Files {
        /// The submission.
        submission: &'a dyn ModelFiles,
        /// The king.
        king: &'a dyn ModelFiles,
    },
    /// A submission's folder beside the king's.
    Parameters {
        /// The submission.
        submission: &'a Path,
        /// The king.
        king: &'a Path,
    },
    /// The loaded submission.
    Behaviour {
        /// The submission.
        session: &'a dyn ModelSession,
        /// Seed of the probes.
        seed: u64,
    },
    /// One reply.
    Reply {
        /// The conversation it continues.
        messages: &'a [Message],
        /// Its text.
        reply: &'a str,
    },
}

impl Subject<'_> {
    /// The stage whose screens take this subject.
    pub fn stage(&self) -> ScreenStage {
        match self {
            Self::Files { .. } => ScreenStage::Files,
            Self::Parameters { .. } => ScreenStage::Parameters,
            Self::Behaviour { .. } => ScreenStage::Behaviour,
            Self::Reply { .. } => ScreenStage::Reply,
        }
    }
}

/// What a screen found, with the evidence that shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", content = "evidence", rename_all = "snake_case")]
pub enum Finding {
    /// Nothing found.
    Clear(Value),
    /// Suspicious: evidence for an operator, never a forfeit by itself.
    Flagged(Value),
    /// A confirmed foul: the submission forfeits.
    Rejected(Value),
    /// Could not be found out; tried again, never the miner's fault.
    Unverified(Value),
}
