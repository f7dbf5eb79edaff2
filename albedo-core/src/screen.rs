//! The [`Screen`] role: keeps a contest honest before a GPU minute is spent.
//!
//! A screen belongs to one stage of [admission](crate::admission) and
//! implements that stage's trait:
//!
//! | stage | trait | inspects |
//! |---|---|---|
//! | [`ScreenStage::Files`] | [`FilesScreen`] | listings and ranged reads, before any download |
//! | [`ScreenStage::Parameters`] | [`WeightsScreen`] | the weights, in one pass that all screens share |
//! | [`ScreenStage::Behaviour`] | [`BehaviourScreen`] | the loaded model |
//! | [`ScreenStage::Behaviour`] | [`BesideScreen`] | the loaded model beside the loaded king |
//! | [`ScreenStage::Reply`] | [`ReplyScreen`] | one reply |

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::backend::{Message, ModelSession};
use crate::checkpoint::WeightVisitor;
use crate::context::CallContext;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::identity::Identity;

/// Inspects a submission, or a reply, for one kind of foul play.
///
/// A contestant's foul is a [`Finding`], never an `Err`. `Err` means that the
/// screen could not find out: it becomes [`Finding::Unverified`], which is never
/// the submission's fault.
pub trait Screen: Debug + Send + Sync + 'static {
    /// What this screen is; goes into the record. Settings that no finding
    /// depends on, such as the path of a store, stay out of it: a screen is the
    /// same on every machine.
    fn identity(&self) -> &Identity;

    /// The screen as its stage uses it.
    fn part(&self) -> ScreenPart<'_>;

    /// When it runs.
    fn stage(&self) -> ScreenStage {
        self.part().stage()
    }
}

/// A screen as its stage uses it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ScreenPart<'a> {
    /// Runs at [`ScreenStage::Files`].
    Files(&'a dyn FilesScreen),
    /// Runs at [`ScreenStage::Parameters`].
    Weights(&'a dyn WeightsScreen),
    /// Runs at [`ScreenStage::Behaviour`].
    Behaviour(&'a dyn BehaviourScreen),
    /// Runs at [`ScreenStage::Behaviour`], and needs the king, too.
    Beside(&'a dyn BesideScreen),
    /// Runs at [`ScreenStage::Reply`].
    Reply(&'a dyn ReplyScreen),
}

impl ScreenPart<'_> {
    /// The stage.
    pub fn stage(&self) -> ScreenStage {
        match self {
            Self::Files(_) => ScreenStage::Files,
            Self::Weights(_) => ScreenStage::Parameters,
            Self::Behaviour(_) | Self::Beside(_) => ScreenStage::Behaviour,
            Self::Reply(_) => ScreenStage::Reply,
        }
    }
}

/// Inspects files through their listing and ranged reads.
#[async_trait]
pub trait FilesScreen: Debug + Send + Sync {
    /// Inspects `submission` beside `king`. Admission calls it on a thread that
    /// may block.
    ///
    /// # Errors
    /// What could not be found out.
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Finding>;
}

/// Inspects weights as they pass by. However many screens look, each model is
/// read once.
pub trait WeightsScreen: Debug + Send + Sync {
    /// A new inspection. It is shown the anchor, if there is one, then the king,
    /// then the submission. `own` are the labels under which earlier versions of
    /// the submission itself may be stored: a screen does not hold them against
    /// it.
    fn inspection(&self, own: &[String]) -> Box<dyn WeightsInspection>;
}

/// One inspection of a [`WeightsScreen`]: a visitor that comes to a finding.
pub trait WeightsInspection: WeightVisitor {
    /// The finding on what was seen. Called on a thread that may block, after
    /// the submission was seen.
    ///
    /// # Errors
    /// What could not be found out.
    fn find(self: Box<Self>) -> Result<Finding>;
}

/// Inspects the behaviour of a loaded model.
#[async_trait]
pub trait BehaviourScreen: Debug + Send + Sync {
    /// Inspects the model behind `session` with probes that follow from `seed`.
    ///
    /// # Errors
    /// What could not be found out, for example because the model did not
    /// answer.
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding>;
}

/// Inspects what a loaded model says beside what the king says.
#[async_trait]
pub trait BesideScreen: Debug + Send + Sync {
    /// Inspects the submission among `sessions` with probes that follow from `seed`. `own`
    /// are the labels of its own earlier versions, as for [`WeightsScreen::inspection`].
    ///
    /// # Errors
    /// What could not be found out.
    async fn inspect(
        &self,
        sessions: Sessions<'_>,
        own: &[String],
        seed: u64,
        cx: &CallContext,
    ) -> Result<Finding>;

    /// Keeps what the submission among `sessions` answers to the questions that follow from
    /// `seed`, so that later submissions are compared with it. Admission calls it once every
    /// screen has passed the submission. A screen that keeps nothing does nothing.
    ///
    /// # Errors
    /// What kept it from asking or from writing.
    async fn remember(&self, sessions: Sessions<'_>, seed: u64, cx: &CallContext) -> Result<()> {
        let _ = (sessions, seed, cx);
        Ok(())
    }
}

/// The loaded models that a [`BesideScreen`] compares.
#[derive(Debug, Clone, Copy)]
pub struct Sessions<'a> {
    /// The submission.
    pub submission: &'a dyn ModelSession,
    /// The king.
    pub king: &'a dyn ModelSession,
}

/// Inspects one reply. Such a screen only reports; it forfeits nothing.
#[async_trait]
pub trait ReplyScreen: Debug + Send + Sync {
    /// Inspects `reply`, which continues the conversation `messages`.
    ///
    /// # Errors
    /// What could not be found out.
    async fn inspect(&self, messages: &[Message], reply: &str, cx: &CallContext) -> Result<Finding>;
}

/// When a screen runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScreenStage {
    /// Before any download, on listings and ranged reads.
    Files,
    /// On the fetched parameters.
    Parameters,
    /// On the loaded model's behaviour.
    Behaviour,
    /// On one reply; such a screen only reports.
    Reply,
}

impl ScreenStage {
    /// The stages of admission, in order.
    pub const ADMISSION: [Self; 3] = [Self::Files, Self::Parameters, Self::Behaviour];
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
    /// Could not be found out; tried again, never the submission's fault.
    Unverified(Value),
}

impl Finding {
    /// What an error of a screen amounts to.
    pub fn unverified(error: &Error) -> Self {
        Self::Unverified(json!({
            "error": error.to_string(),
            "fault": error.fault(),
            "retryable": error.is_retryable(),
        }))
    }

    /// The evidence.
    pub fn evidence(&self) -> &Value {
        match self {
            Self::Clear(evidence)
            | Self::Flagged(evidence)
            | Self::Rejected(evidence)
            | Self::Unverified(evidence) => evidence,
        }
    }

    /// The finding in a word: `clear`, `flagged`, `rejected` or `unverified`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Clear(_) => "clear",
            Self::Flagged(_) => "flagged",
            Self::Rejected(_) => "rejected",
            Self::Unverified(_) => "unverified",
        }
    }
}
