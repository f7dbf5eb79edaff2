//! What is shown of a duel's record: numbers and texts by sample, and how the evidence came
//! about. The published page and the report of records (`albedo record report`) both show
//! this; the data has the same form in both.
//!
//! Margins, intervals and differences are in points of 100, challenger minus king.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metric, Order, Side};

mod cards;
mod evidence;

pub use cards::{ShownDuel, shown};
pub use evidence::{EvidencePoint, EvidenceTrace};

/// An interval in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<crate::stats::Interval> for Range {
    fn from(interval: crate::stats::Interval) -> Self {
        Self { low: interval.low, high: interval.high }
    }
}

/// A judge of a panel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublicJudge {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The metrics that it scores.
    pub metrics: Vec<Metric>,
}

/// The numbers of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleNumbers {
    /// Its place in plan order.
    pub sample: u32,
    /// The repository that its task is from.
    pub repo: String,
    /// Challenger minus king in points.
    pub difference: f64,
    /// One per judge, in panel order.
    pub cells: Vec<CellNumbers>,
}

/// One judge's word on a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CellNumbers {
    /// Challenger minus king in points; 0 if it is missing.
    pub difference: f64,
    /// The two orders preferred different sides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flipped: bool,
    /// Why it is missing, if it is: `outage`, `replies`, `question`, `void`, or `missing`
    /// where the rules do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A sample as a page shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleCard {
    /// Its place in plan order.
    pub sample: u32,
    /// The end of the conversation that both replies continue.
    pub messages: Vec<CardMessage>,
    /// Messages before those.
    pub earlier_messages: u32,
    /// The reply that the data set recorded at this point.
    pub reference: CardText,
    /// The replies, the king's first.
    pub replies: Vec<CardReply>,
    /// One per judge, in panel order.
    pub judges: Vec<CardJudge>,
}

/// A text, which may be long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CardText {
    /// The text, or its beginning.
    pub text: String,
    /// Bytes of the rest, which only the record has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CardMessage {
    /// Who wrote it: `system`, `user`, `assistant`.
    pub role: String,
    /// What.
    #[serde(flatten)]
    pub content: CardText,
}

/// A side's reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CardReply {
    /// Whose.
    #[schemars(with = "String")]
    pub side: Side,
    /// The reply; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<CardText>,
    /// Why it ended (`stop`, `length`, `unknown`), or why there is none.
    pub note: String,
    /// Its tokens, where the provider told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
}

/// A judge's word on a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CardJudge {
    /// Its place in the panel.
    pub judge: u32,
    /// The twins that its answers are about, in place of replies that beat them before it; the king's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<CardTwin>,
    /// Its answers, first with the king's reply shown first.
    pub answers: Vec<CardAnswer>,
    /// Challenger minus king in points by metric.
    pub differences: BTreeMap<Metric, f64>,
}

/// A reply with the same action as a side's, which a judge was given in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CardTwin {
    /// Whose reply it replaces.
    #[schemars(with = "String")]
    pub side: Side,
    /// The twin.
    pub content: CardText,
}

/// A judge's answer in one order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CardAnswer {
    /// Whose reply it saw first.
    #[schemars(with = "String")]
    pub order: Order,
    /// Scores from 0 to 1 of the reply that it saw first, by metric; empty if it gave
    /// none.
    pub scores: BTreeMap<Metric, f64>,
    /// Its own words, or why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<CardText>,
    /// What became of the question: `scored`, `abstained`, `unreadable`, `missing`,
    /// `void`, `identical`.
    pub state: String,
}
