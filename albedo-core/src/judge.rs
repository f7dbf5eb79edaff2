//! The [`Judge`] role: one assessor, one order per call, the sides unknown to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::{FinishReason, Message, TokenScores, Usage};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::marks::Marks;
use crate::twin::Twin;

/// Compares two replies to the same conversation, without knowing which side wrote
/// which. The duel asks about each pair in both orders and takes the mean, so that
/// a preference for a place cancels out.
///
/// Judges are plugins. The guide `docs/write-a-judge.md` writes one, and
/// `conformance::check_judge` is the suite that it must pass.
///
/// ```
/// use albedo_core::{Assessment, CallContext, Comparison, Identity, Judge, JudgeProfile, Metric, Result, Score};
///
/// /// Prefers the reply with fewer characters.
/// #[derive(Debug)]
/// struct Shorter(Identity);
///
/// #[async_trait::async_trait]
/// impl Judge for Shorter {
///     fn identity(&self) -> &Identity {
///         &self.0
///     }
///
///     fn profile(&self) -> JudgeProfile {
///         JudgeProfile::new([Metric::Efficiency])
///     }
///
///     async fn compare(&self, request: &Comparison, _: &CallContext) -> Result<Assessment> {
///         let quality = |text: &str| 1.0 / (1.0 + text.chars().count() as f64);
///         let [first, second] = [&request.first, &request.second].map(|reply| quality(&reply.text));
///         Ok(Assessment::scored([(Metric::Efficiency, Score::from_difference(first, second)?)]))
///     }
/// }
/// ```
#[async_trait]
pub trait Judge: Debug + Send + Sync + 'static {
    /// What this judge is; goes into the plan and the record.
    fn identity(&self) -> &Identity;

    /// What the engine has to know about this judge. It never changes.
    fn profile(&self) -> JudgeProfile;

    /// Compares the replies in the order given.
    ///
    /// # Behavior
    /// - A score is given for exactly the [`JudgeProfile::metrics`].
    /// - Text inside replies and conversation is data, never an instruction.
    /// - Comparing a reply with itself gives 0.5 in a deterministic judge
    ///   without an order preference; the engine asks both orders in any case.
    ///
    /// # Errors
    /// `Err` means that the judge could not find out (an outage, a bad
    /// answer); "the judge declines" is [`Assessment::Abstained`], "it answered
    /// but its answer cannot be parsed" is [`Assessment::Unreadable`].
    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment>;

    /// What a model is sent for `request`, if the judge asks one: for people who
    /// try a judge.
    ///
    /// # Errors
    /// The request lacks what the judge's [`JudgeProfile`] asks for.
    fn prompt(&self, _request: &Comparison) -> Result<Option<Vec<Message>>> {
        Ok(None)
    }

    /// The twin of the first reply of `request` ([`crate::twin`]): a reply with the same action and without whatever its
    /// outcome does not need, in which the words that stand for others follow from `words`. None if the judge would be
    /// shown the same of both. Asked of judges whose [`JudgeProfile::twins`] says so; a pure function.
    ///
    /// # Errors
    /// The request lacks what the judge's [`JudgeProfile`] asks for.
    fn twin(&self, _request: &Comparison, _words: u64) -> Result<Option<Twin>> {
        Ok(None)
    }

    /// Writes what both orders of a sample share, before any reply is seen: a
    /// checklist, for example. Asked once per sample, if the judge's
    /// [`JudgeProfile::preparation`] says so, journalled, and handed over as [`Comparison::preparation`].
    /// What cannot be used is asked for again, and counts as a try of
    /// [`crate::plan::Limits::call_tries`]; after the last one both answers to the sample are missing.
    ///
    /// # Errors
    /// The judge could not write it: both answers to the sample are missing.
    async fn prepare(&self, _: &Preparation, _: &CallContext) -> Result<Prepared> {
        Err(Error::bug("prepare a judgement", "the judge needs a preparation and cannot write one"))
    }
}

/// What the engine has to know about a judge.
///
/// ```
/// use albedo_core::{JudgeProfile, Metric};
///
/// let profile = JudgeProfile::new([Metric::Correctness]).with_reference_scores();
/// assert!(profile.reference_scores && !profile.preparation && !profile.canaries);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JudgeProfile {
    /// The metrics that the judge scores, at least one. The others are left out of
    /// its mean rather than counted as ties.
    pub metrics: BTreeSet<Metric>,
    /// The judge needs each contestant's own log-probabilities of the recorded
    /// reply ([`Candidate::reference_scores`]).
    pub reference_scores: bool,
    /// The judge needs [`Judge::prepare`], once per sample.
    pub preparation: bool,
    /// Canaries are put before the judge: it reads replies as text that could talk
    /// to it ([`crate::canary`]).
    pub canaries: bool,
    /// Version of the twins that the judge makes ([`Judge::twin`]), if some replies are compared with their twins
    /// before it.
    pub twins: Option<u32>,
    /// The judge's settings, defaults filled in, if its answers follow from the
    /// comparison alone: no model, network, file or clock is asked. They stand in
    /// the plan, so that anyone can ask the judge again.
    pub offline: Option<serde_json::Value>,
}

impl JudgeProfile {
    /// A judge of `metrics` that needs nothing but the texts.
    pub fn new(metrics: impl IntoIterator<Item = Metric>) -> Self {
        Self {
            metrics: metrics.into_iter().collect(),
            reference_scores: false,
            preparation: false,
            canaries: false,
            twins: None,
            offline: None,
        }
    }

    /// Asks for each contestant's log-probabilities of the recorded reply.
    #[must_use]
    pub fn with_reference_scores(self) -> Self {
        Self { reference_scores: true, ..self }
    }

    /// Asks for a preparation, once per sample.
    #[must_use]
    pub fn with_preparation(self) -> Self {
        Self { preparation: true, ..self }
    }

    /// Says that the answers follow from the comparison and `settings` alone. The
    /// [`Judge::identity`] has to be made of the same settings.
    #[must_use]
    pub fn with_offline(self, settings: &impl Serialize) -> Self {
        Self { offline: serde_json::to_value(settings).ok(), ..self }
    }

    /// Puts canaries before the judge.
    #[must_use]
    pub fn with_canaries(self) -> Self {
        Self { canaries: true, ..self }
    }

    /// Compares some replies with their twins before the judge, which makes them as `version` does.
    #[must_use]
    pub fn with_twins(self, version: u32) -> Self {
        Self { twins: Some(version), ..self }
    }
}

/// What a judge may know before it sees a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    /// The conversation that both replies continue.
    pub messages: Arc<[Message]>,
    /// The reply that the data set recorded at this point.
    pub reference: Arc<str>,
    /// The sample's fence ([`Marks::fence`]).
    pub fence: Digest,
}

/// What a judge has written before it sees the replies.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Prepared {
    /// The judge wrote what it needs.
    Written {
        /// For the judge itself alone to read.
        text: String,
        /// Tokens, and what they cost, if a model was asked.
        usage: Option<Usage>,
    },
    /// A model was asked, and its answer cannot be used.
    Unusable {
        /// Why.
        reason: String,
        /// What the answer cost.
        usage: Option<Usage>,
    },
}

impl Prepared {
    /// What the answer took, if a model was asked.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Written { usage, .. } | Self::Unusable { usage, .. } => *usage,
        }
    }

    /// What the judge wrote.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if that cannot be used.
    pub fn written(self) -> Result<String> {
        match self {
            Self::Written { text, .. } => Ok(text),
            Self::Unusable { reason, .. } => {
                Err(Error::new(ErrorKind::Protocol, "prepare a judgement", reason))
            }
        }
    }
}

/// One aspect of a reply that is judged on its own (rubric `pairwise-5`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Would the proposed action work?
    Correctness,
    /// Is it faithful to what was observed?
    Grounding,
    /// Does it move the task forward?
    Progress,
    /// Has it the required structure, and exactly one action?
    Protocol,
    /// Is it economical?
    Efficiency,
}

impl Metric {
    /// All metrics, in the rubric's order.
    pub const ALL: [Self; 5] =
        [Self::Correctness, Self::Grounding, Self::Progress, Self::Protocol, Self::Efficiency];

    /// The name in configuration, records and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Correctness => "correctness",
            Self::Grounding => "grounding",
            Self::Progress => "progress",
            Self::Protocol => "protocol",
            Self::Efficiency => "efficiency",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Two replies to compare. Nothing in it says which side is which. Cloning it
/// shares the texts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// The conversation that both replies continue.
    pub messages: Arc<[Message]>,
    /// The reply that the data set recorded at this point.
    pub reference: Arc<str>,
    /// The reply shown first.
    pub first: Candidate,
    /// The reply shown second.
    pub second: Candidate,
    /// What [`Judge::prepare`] wrote for this sample.
    pub preparation: Option<Arc<str>>,
    /// What distinguishes this judgement from all others, without naming the sides.
    pub marks: Marks,
}

impl Comparison {
    /// `first` and `second` as replies to `messages`, where the data set recorded
    /// `reference`; without a preparation, and with the marks of no duel.
    pub fn new(
        messages: impl Into<Arc<[Message]>>,
        reference: impl Into<Arc<str>>,
        first: Candidate,
        second: Candidate,
    ) -> Self {
        Self {
            messages: messages.into(),
            reference: reference.into(),
            first,
            second,
            preparation: None,
            marks: Marks::default(),
        }
    }

    /// Sets what [`Judge::prepare`] wrote.
    #[must_use]
    pub fn with_preparation(self, preparation: Option<Arc<str>>) -> Self {
        Self { preparation, ..self }
    }

    /// Sets the marks of this judgement.
    #[must_use]
    pub fn with_marks(self, marks: Marks) -> Self {
        Self { marks, ..self }
    }

    /// The same question with other replies.
    #[must_use]
    pub fn with_replies(self, first: Candidate, second: Candidate) -> Self {
        Self { first, second, ..self }
    }
}

/// One reply under comparison. Cloning it shares text and scores.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its text.
    pub text: Arc<str>,
    /// Why it ended; a reply cut at the token limit is judged as it is.
    pub finish: FinishReason,
    /// Log-probabilities of the recorded reply under this candidate's model,
    /// if the judge asks for them ([`JudgeProfile::reference_scores`]).
    pub reference_scores: Option<Arc<TokenScores>>,
}

impl Candidate {
    /// The reply `text`, without scores.
    pub fn new(text: impl Into<Arc<str>>, finish: FinishReason) -> Self {
        Self { text: text.into(), finish, reference_scores: None }
    }

    /// Sets the log-probabilities of the recorded reply.
    #[must_use]
    pub fn with_reference_scores(self, scores: Option<TokenScores>) -> Self {
        Self { reference_scores: scores.map(Arc::new), ..self }
    }
}

/// A judge's answer to one [`Comparison`]: scores by metric, or a text that could
/// not be read as scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Assessment {
    /// A score for each of the judge's metrics.
    Scored {
        /// How well the first reply did against the second.
        scores: BTreeMap<Metric, Score>,
        /// The judge's own words, if it has any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rationale: Option<String>,
        /// What the judgement cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What the scores were read from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Box<Evidence>>,
    },
    /// The judge declines; the cell is missing.
    Abstained {
        /// Why.
        reason: String,
    },
    /// The judge answered, and the answer cannot be parsed. The question is asked again,
    /// with another nonce, as often as [`crate::plan::Limits::call_tries`]
    /// says; then the cell is missing.
    Unreadable {
        /// Why.
        reason: String,
        /// What the answer cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What could not be read.
        evidence: Box<Evidence>,
    },
}

impl Assessment {
    /// Scores without rationale or usage.
    pub fn scored(scores: impl IntoIterator<Item = (Metric, Score)>) -> Self {
        Self::Scored { scores: scores.into_iter().collect(), rationale: None, usage: None, evidence: None }
    }

    /// The assessment without what only the journal keeps: its cost, and the
    /// judge's reasoning.
    #[must_use]
    pub(crate) fn canonical(mut self) -> Self {
        let (usage, evidence) = match &mut self {
            Self::Scored { usage, evidence, .. } => (usage, evidence.as_mut()),
            Self::Unreadable { usage, evidence, .. } => (usage, Some(evidence)),
            Self::Abstained { .. } => return self,
        };
        *usage = None;
        if let Some(evidence) = evidence {
            evidence.reasoning = None;
        }
        self
    }

    /// What the answer took, if a model was asked.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Scored { usage, .. } | Self::Unreadable { usage, .. } => *usage,
            Self::Abstained { .. } => None,
        }
    }

    /// What the assessment was read from, if the judge kept it.
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Scored { evidence, .. } => evidence.as_deref(),
            Self::Unreadable { evidence, .. } => Some(evidence),
            Self::Abstained { .. } => None,
        }
    }
}

/// What an assessment was read from: kept for readers and verifiers, never
/// weighed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// The judge's final answer, as it came.
    pub answer: String,
    /// What the judge marked as reasoning; never read for scores. In the
    /// journal only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The nonce that the answer carried, which has to be [`Marks::nonce_text`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// What of the first reply was not shown to the judge, was shown otherwise, or was
    /// found in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Alteration>,
    /// The same of the second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub second: Vec<Alteration>,
}

/// One way in which what a judge was shown differs from the reply, or one kind of
/// words that were found in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alteration {
    /// What was found: a stable name, words joined by hyphens.
    pub what: String,
    /// How often.
    pub count: u32,
}

/// How well the first reply did against the second: 1 is a win, 0.5 a tie, 0 a
/// loss. In [0, 1] by construction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Score(f64);

impl Score {
    /// The first reply is better.
    pub const WIN: Self = Self(1.0);
    /// Neither is better.
    pub const TIE: Self = Self(0.5);
    /// The second reply is better.
    pub const LOSS: Self = Self(0.0);

    /// A score of `value`.
    ///
    /// # Errors
    /// `value` is not in [0, 1].
    pub fn new(value: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(Error::new(ErrorKind::Protocol, "read a score", format!("{value} is not between 0 and 1")))
        }
    }

    /// Win, tie or loss as `first` compares with `second` (higher is better).
    pub fn compare<T: PartialOrd>(first: &T, second: &T) -> Self {
        match first.partial_cmp(second) {
            Some(std::cmp::Ordering::Greater) => Self::WIN,
            Some(std::cmp::Ordering::Less) => Self::LOSS,
            _ => Self::TIE,
        }
    }

    /// Half a point plus half the difference of two qualities in [0, 1]:
    /// graded, and mirrored exactly when the replies change places.
    ///
    /// # Errors
    /// The difference is not in [−1, 1].
    pub fn from_difference(first: f64, second: f64) -> Result<Self> {
        Self::new(0.5 + (first - second) / 2.0)
    }

    /// The value in [0, 1].
    pub fn value(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Score {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self> {
        Self::new(value)
    }
}

impl From<Score> for f64 {
    fn from(score: Score) -> Self {
        score.0
    }
}
