//! What a duel leaves behind: the journal, in arrival order, and the canonical
//! record, in plan order.
//!
//! | file | holds |
//! |---|---|
//! | `journal.jsonl`, `journal.blobs` | what happened, with times and tries; not part of the verdict |
//! | `record.jsonl`, `record.blobs` | what the decision consumed; no times, costs or secrets |
//! | `record.digest` | *the* digest of the duel, over both `record` files, and theirs |
//! | `record.signatures` | who signed the digest, if somebody did |
//!
//! Long texts are blobs: the lines name them by digest ([`TextRef`]). The format
//! is described byte by byte in `docs/record-format.md`.

use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::backend::{FinishReason, SampledTokens, TokenScores, Usage};
use crate::canary::{CanaryDraw, Series};
use crate::digest::Digest;
use crate::draw::RowDraw;
use crate::error::{ErrorKind, Fault, Side};
use crate::judge::Assessment;
use crate::marks::Probe;
use crate::missing::Probes;
use crate::order::Order;
use crate::origin::{Build, Origin};
use crate::overflow::Overflow;
use crate::panel::Cluster;
use crate::plan::DuelPlan;
use crate::verdict::Verdict;

mod blobs;
mod bounds;
mod canonical;
mod chain;
mod costs;
mod file_store;
mod forfeit;
mod journal;
mod reader;
mod regenerate;
#[cfg(any(test, feature = "signatures"))]
mod signature;
mod store;
mod verify;

pub use blobs::TextRef;
pub use canonical::{CanonicalRecord, Digests, RecordBuilder, RecordPart};
pub use chain::JournalKey;
pub use costs::{Costs, Spent};
pub use file_store::FileStore;
pub use forfeit::{AnyRecord, ForfeitRecord};
pub use journal::{JournalEntry, planned};
pub use reader::{Record, RecordedSample, RecordedTwin};
pub(crate) use regenerate::require_models;
pub use regenerate::{Difference, Regenerated, regenerate};
#[cfg(any(test, feature = "signatures"))]
pub use signature::{RecordSignature, SIGNATURES, sign, signers};
pub use store::{MemoryStore, RecordStore};
pub use verify::{
    AskedAgain, ChainedAlpha, Claim, Known, PromptCounter, Prompts, Verification, VerifyOptions, verify,
    verify_chain, verify_record,
};

/// Version of the record format that this build writes.
pub const FORMAT: u32 = 3;

/// One line of `record.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordLine {
    /// The first line.
    Header {
        /// [`FORMAT`].
        format: u32,
    },
    /// The second line.
    Plan {
        /// The frozen plan.
        plan: Box<DuelPlan>,
    },
    /// The third line of a duel's record: how it came about. Since format 3.
    Origin(Origin),
    /// The second and last line of the record of a submission that was not
    /// admitted: there is no plan. Since format 3.
    Forfeit {
        /// The admission, as it may be published.
        admission: Box<Admission>,
    },
    /// A canary, before the draws of the sample that it stands before. Since
    /// format 2.
    Canary(CanaryDraw),
    /// A watched judge's answer to a canary, judges in panel order; of the two answers,
    /// that with the better reply shown first comes first. Since format 2.
    CanaryAssessment {
        /// The canary.
        canary: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first; the better one stands for the king's.
        order: Order,
        /// As for [`RecordLine::Assessment`].
        #[serde(default = "first", skip_serializing_if = "is_first")]
        asked: u32,
        /// Its answer, or why there is none.
        answer: RecordedAnswer,
    },
    /// Every row draw up to and including a sample's own.
    Draw(RowDraw),
    /// A sample, before its replies.
    Sample {
        /// Its place in plan order.
        sample: u32,
        /// The repository.
        repo: String,
        /// Canonical JSON of the conversation.
        messages: TextRef,
        /// The recorded reply.
        reference: TextRef,
    },
    /// One side's reply, the king's first.
    Reply {
        /// The sample.
        sample: u32,
        /// Whose.
        side: Side,
        /// The reply, or why there is none.
        reply: RecordedReply,
    },
    /// What a judge wrote before it saw the replies, before its answers; none
    /// from a judge that needs no preparation. Since format 2.
    Preparation {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// What it wrote.
        text: String,
    },
    /// A side's reply was compared with its twin before a judge, after what that judge wrote and before its answers; the
    /// king's first. Its answers follow, if it was asked. Since format 3.
    Twin {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Whose reply.
        side: Side,
        /// Whether the sample was drawn; if not, the judge suspects the reply.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drawn: bool,
        /// The twin; none if the judge would be shown the same of both, and was not asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<TextRef>,
    },
    /// A judge's answer about a reply and its twin, that with the reply shown first coming first. Since format 3.
    TwinAssessment {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Whose reply.
        side: Side,
        /// What it saw first; the reply stands for the king's.
        order: Order,
        /// As for [`RecordLine::Assessment`].
        #[serde(default = "first", skip_serializing_if = "is_first")]
        asked: u32,
        /// Its answer, or why there is none.
        answer: RecordedAnswer,
    },
    /// One judge's answer, judges in panel order, the king-first order first. A twin stands for a reply that had beaten
    /// it ([`crate::twin::MAX_GAIN`]).
    Assessment {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first.
        order: Order,
        /// Which of the answers to its question this is, from 1: one that
        /// cannot be parsed is followed by another. Since format 2.
        #[serde(default = "first", skip_serializing_if = "is_first")]
        asked: u32,
        /// Its answer, or why there is none.
        answer: RecordedAnswer,
    },
    /// What a judge made of neutral text, after its answers: it had given no score.
    /// Since format 3.
    Probes {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// What it made of it.
        probes: Probes,
    },
    /// What the decision consumed, after the sample's answers.
    Cluster(Cluster),
    /// The last line.
    Verdict(Box<Verdict>),
}

fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_first(asked: &u32) -> bool {
    *asked == 1
}

/// A reply as the record keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordedReply {
    /// A finished reply.
    Completed {
        /// Its text.
        text: TextRef,
        /// Why it ended.
        finish: FinishReason,
        /// Tokens of the rendered prompt, where the provider told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt_tokens: Option<u32>,
        /// Tokens of the reply, where the provider told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completion_tokens: Option<u32>,
        /// The tokens themselves, if the backend tells them. Since format 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<SampledTokens>,
        /// Log-probabilities of the recorded reply under this side, if a judge
        /// needs them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference_scores: Option<TokenScores>,
    },
    /// There is none, because the model's own arithmetic overflowed, and did so
    /// again when the model was loaded afresh and asked alone: the side loses the
    /// sample. Since format 3.
    Overflowed(Overflow),
    /// There is none: missing for both sides.
    Missing {
        /// The kind of the last error.
        kind: ErrorKind,
    },
}

impl RecordedReply {
    /// Whether the model's own arithmetic overflowed.
    pub fn overflowed(&self) -> bool {
        matches!(self, Self::Overflowed(_))
    }

    /// Whether both sides wrote the same, to the same end.
    pub(crate) fn are_the_same([king, challenger]: [&Self; 2]) -> bool {
        match (king, challenger) {
            (Self::Completed { text, finish, .. }, Self::Completed { text: other, finish: ended, .. }) => {
                (text, finish) == (other, ended)
            }
            _ => false,
        }
    }

    /// Challenger minus king on a sample that no judge sees, because a side lost it
    /// by its own arithmetic; 0 if both did. None if it is judged, or if a reply is
    /// missing: what that side would have done is unknown.
    pub(crate) fn unjudged([king, challenger]: [&Self; 2]) -> Option<f64> {
        match (king, challenger) {
            (Self::Overflowed(_), Self::Overflowed(_)) => Some(0.0),
            (Self::Overflowed(_), Self::Completed { .. }) => Some(1.0),
            (Self::Completed { .. }, Self::Overflowed(_)) => Some(-1.0),
            _ => None,
        }
    }
}

/// A judge's answer as the record keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedAnswer {
    /// The judge answered.
    Answered(Assessment),
    /// The judge could not find out, or there was no pair to judge.
    Missing {
        /// The kind of the last error; none if there was no pair.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<ErrorKind>,
    },
    /// The judge had failed a canary before, and is not listened to. Since
    /// format 2.
    Void,
    /// The judge was not asked: both replies are the same, which is a tie. Since
    /// format 3.
    Identical,
}

impl RecordedAnswer {
    /// What the judge found, if it answered.
    pub(crate) fn assessment(&self) -> Option<&Assessment> {
        match self {
            Self::Answered(assessment) => Some(assessment),
            Self::Missing { .. } | Self::Void | Self::Identical => None,
        }
    }
}

/// One line of `journal.jsonl`, without its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JournalEvent {
    /// A submission was screened, before a plan of its duel is frozen. Since
    /// format 3.
    Screened {
        /// [`FORMAT`].
        format: u32,
        /// The admission with its whole evidence.
        admission: Box<Admission>,
    },
    /// The submission forfeited on its screens' findings. Since format 3.
    Forfeited {
        /// The record's digest.
        record: Digest,
    },
    /// The judges are asked their canaries before the plan is frozen: the first
    /// line of a duel that has canaries.
    Preflight {
        /// [`FORMAT`].
        format: u32,
        /// The preflight's key.
        key: Digest,
    },
    /// The plan is frozen: the first line of any other duel.
    Opened {
        /// [`FORMAT`].
        format: u32,
        /// The plan's digest.
        digest: Digest,
        /// The frozen plan.
        plan: Box<DuelPlan>,
        /// The build that opened it. Since format 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<Build>,
    },
    /// A sample was drawn.
    Drawn {
        /// Its place in plan order.
        sample: u32,
        /// All row draws up to its own.
        draws: Vec<RowDraw>,
    },
    /// A side replied.
    Replied {
        /// The sample.
        sample: u32,
        /// Whose reply.
        side: Side,
        /// The try that answered, from 1.
        call_try: u32,
        /// The text.
        text: TextRef,
        /// Why it ended.
        finish: FinishReason,
        /// Tokens, and what they cost.
        usage: Usage,
        /// The tokens as they were sampled, if the backend tells them. Since format 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<SampledTokens>,
        /// Log-probabilities of the recorded reply, if a judge needs them.
        reference_scores: Option<TokenScores>,
    },
    /// A side's own arithmetic gave a number that is not finite.
    Overflowed {
        /// The sample.
        sample: u32,
        /// Whose model.
        side: Side,
        /// Where; when it was repeated, if it was.
        overflow: Overflow,
        /// Whether the model, loaded afresh and asked alone, did it again. If not,
        /// the failure was ours and a reply follows.
        repeated: bool,
    },
    /// A judge wrote what it needs before it sees the replies.
    Prepared {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// The try that answered, from 1.
        call_try: u32,
        /// What it wrote.
        text: String,
        /// Tokens, and what they cost, if a model was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// A judge answered.
    Assessed {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first.
        order: Order,
        /// The try that answered, from 1.
        call_try: u32,
        /// The answer.
        assessment: Assessment,
    },
    /// A judge answered a probe: it had given no score. Since format 3.
    Probed {
        /// The sample.
        sample: u32,
        /// What it was asked about.
        probe: Probe,
        /// The judge's place in the panel.
        judge: u32,
        /// Whether the neutral text or the side's reply was shown second.
        order: Order,
        /// The try that answered, from 1.
        call_try: u32,
        /// The answer.
        assessment: Assessment,
    },
    /// A judge answered about a side's reply and its twin. Since format 3.
    Twinned {
        /// The sample.
        sample: u32,
        /// Whose reply.
        side: Side,
        /// The judge's place in the panel.
        judge: u32,
        /// What it saw first; the reply stands for the king's.
        order: Order,
        /// The try that answered, from 1.
        call_try: u32,
        /// The answer.
        assessment: Assessment,
    },
    /// The challenger has won with missing cells as ties, and not with them as wins
    /// of the king: whatever is not scored of the first samples is asked for again.
    /// Since format 3.
    AskedAgain {
        /// How many samples.
        samples: u32,
    },
    /// A judge wrote what it needs before it sees the replies of a canary.
    CanaryPrepared {
        /// Before the plan or in it.
        series: Series,
        /// The canary.
        canary: u32,
        /// As for [`JournalEvent::CanaryAssessed`].
        judge: u32,
        /// The try that answered, from 1.
        call_try: u32,
        /// What it wrote.
        text: String,
        /// Tokens, and what they cost, if a model was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// A judge answered a canary.
    CanaryAssessed {
        /// Before the plan or in it.
        series: Series,
        /// The canary.
        canary: u32,
        /// The judge's place in the panel; before the plan, among the watched
        /// judges of the settings.
        judge: u32,
        /// Which reply it saw first; the better one stands for the king's.
        order: Order,
        /// The try that answered, from 1.
        call_try: u32,
        /// The answer.
        assessment: Assessment,
    },
    /// The duel goes on after an interruption or a void end.
    Resumed {
        /// The build that goes on. Since format 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<Build>,
        /// No key vouches for the journal up to here ([`JournalKey`]). Since format 3.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unchained: bool,
    },
    /// A call failed.
    Failed {
        /// The sample; none before the plan is frozen.
        sample: Option<u32>,
        /// What was called.
        call: Call,
        /// The try that failed, from 1.
        call_try: u32,
        /// What went wrong.
        kind: ErrorKind,
        /// Who has to act.
        fault: Fault,
        /// The error in one line.
        message: String,
        /// What the call cost all the same: a judge's model wrote something before it saw
        /// the replies, and that cannot be used. Since format 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// The duel came to an end.
    Ended {
        /// The verdict.
        verdict: Box<Verdict>,
        /// The record's digest; none if the duel is void.
        record: Option<Digest>,
    },
}

/// A call to a model or a judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// A side's reply.
    Reply(Side),
    /// What a judge writes before it sees the replies.
    Preparation {
        /// The judge's place in the panel.
        judge: u32,
    },
    /// A judge's answer to a canary.
    Canary {
        /// The canary.
        canary: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first; the better one stands for the king's.
        order: Order,
    },
    /// A judge's answer.
    Assessment {
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first.
        order: Order,
    },
    /// A judge's answer to a probe.
    Probe {
        /// What it was asked about.
        probe: Probe,
        /// The judge's place in the panel.
        judge: u32,
        /// As for [`JournalEvent::Probed`].
        order: Order,
    },
    /// A judge's answer about a side's reply and its twin.
    Twin {
        /// Whose reply.
        side: Side,
        /// The judge's place in the panel.
        judge: u32,
        /// As for [`JournalEvent::Twinned`].
        order: Order,
    },
}
