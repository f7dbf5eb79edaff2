//! What is shown of one record.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    CardAnswer, CardJudge, CardMessage, CardReply, CardText, CellNumbers, EvidenceTrace, PublicJudge,
    SampleCard, SampleNumbers,
};
use crate::missing::Cause;
use crate::panel::{Cell, Cluster};
use crate::record::{RecordLine, RecordedAnswer, RecordedReply};
use crate::{Assessment, Error, Order, Record, Result, Side};

/// Bytes of a reply that are shown; a reply of 4,096 tokens fits.
const REPLY_BYTES: usize = 24 << 10;

/// Bytes of any other text.
const TEXT_BYTES: usize = 4 << 10;

/// Messages of the conversation that are shown: the last question and what led to it.
const MESSAGES: usize = 3;

/// What is shown of one duel.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownDuel {
    /// The evidence, sample by sample.
    pub evidence: EvidenceTrace,
    /// The judges, in panel order.
    pub judges: Vec<PublicJudge>,
    /// The numbers of every sample, in plan order.
    pub samples: Vec<SampleNumbers>,
    /// The texts of every sample, in plan order.
    pub cards: Vec<SampleCard>,
}

/// What is shown of `duel`. The same record gives the same.
///
/// # Errors
/// A text that a line names is missing.
pub fn shown(duel: &Record) -> Result<ShownDuel> {
    let plan = duel.plan();
    let (mut cards, mut samples, mut repo) = (Vec::<SampleCard>::new(), Vec::new(), String::new());
    let mut differences = Vec::new();
    for line in &duel.lines {
        match line {
            RecordLine::Sample { sample, repo: from, messages, reference } => {
                repo.clone_from(from);
                let all = duel.messages(messages)?;
                let shown = all.len().saturating_sub(MESSAGES);
                let message = |message: &crate::Message| CardMessage {
                    role: message.role.as_str().to_owned(),
                    content: cut(&message.content, TEXT_BYTES),
                };
                cards.push(SampleCard {
                    sample: *sample,
                    messages: all[shown..].iter().map(message).collect(),
                    earlier_messages: shown as u32,
                    reference: cut(duel.text(reference)?, TEXT_BYTES),
                    replies: Vec::new(),
                    judges: Vec::new(),
                });
            }
            RecordLine::Reply { side, reply, .. } => {
                if let Some(card) = cards.last_mut() {
                    card.replies.push(card_reply(duel, *side, reply)?);
                }
            }
            RecordLine::Assessment { judge, order, answer, .. } => {
                if let Some(card) = cards.last_mut() {
                    answered(card, *judge, *order, answer);
                }
            }
            RecordLine::Cluster(cluster) => {
                differences.push(cluster.difference);
                if let Some(card) = cards.last_mut() {
                    for (place, cell) in (0..).zip(&cluster.cells) {
                        let judge = judge_of(card, place);
                        if let Cell::Scored { difference, .. } = cell {
                            judge.differences =
                                difference.iter().map(|(metric, value)| (*metric, 100.0 * value)).collect();
                        }
                    }
                }
                samples.push(numbers(cluster, &repo));
            }
            _ => {}
        }
    }
    let judges = plan.judges.iter().map(|judge| PublicJudge {
        name: judge.identity.name.clone(),
        version: judge.identity.version.clone(),
        metrics: judge.metrics.clone(),
    });
    Ok(ShownDuel {
        evidence: EvidenceTrace::new(plan, &differences),
        judges: judges.collect(),
        samples,
        cards,
    })
}

/// The name that the record has for `of`.
fn name(of: &impl Serialize) -> Result<String> {
    let value = serde_json::to_value(of)
        .map_err(|error| Error::bug("show a record", error.to_string()).with_source(error))?;
    Ok(value.as_str().unwrap_or("unknown").to_owned())
}

/// The beginning of `text`, to a whole character.
fn cut(text: &str, most: usize) -> CardText {
    let end = text.floor_char_boundary(most);
    CardText { text: text[..end].to_owned(), cut: (text.len() - end) as u64 }
}

fn numbers(cluster: &Cluster, repo: &str) -> SampleNumbers {
    let cell = |cell: &Cell| CellNumbers {
        difference: 100.0 * cell.difference(),
        flipped: matches!(cell, Cell::Scored { flipped: true, .. }),
        missing: cell.is_missing().then(|| match cell.cause() {
            None => "missing".to_owned(),
            Some(Cause::Outage) => "outage".to_owned(),
            Some(Cause::Replies) => "replies".to_owned(),
            Some(Cause::Question) => "question".to_owned(),
            Some(Cause::Void) => "void".to_owned(),
        }),
    };
    SampleNumbers {
        sample: cluster.sample,
        repo: repo.to_owned(),
        difference: 100.0 * cluster.difference,
        cells: cluster.cells.iter().map(cell).collect(),
    }
}

fn card_reply(record: &Record, side: Side, reply: &RecordedReply) -> Result<CardReply> {
    Ok(match reply {
        RecordedReply::Completed { text, finish, completion_tokens, .. } => CardReply {
            side,
            content: Some(cut(record.text(text)?, REPLY_BYTES)),
            note: name(finish)?,
            tokens: *completion_tokens,
        },
        RecordedReply::Overflowed(overflow) => CardReply {
            side,
            content: None,
            note: format!("the model's own arithmetic overflowed ({overflow}): the sample is lost"),
            tokens: None,
        },
        RecordedReply::Missing { kind } => {
            let note = format!("missing: {}", name(kind)?.replace('_', " "));
            CardReply { side, content: None, note, tokens: None }
        }
        _ => CardReply { side, content: None, note: "unknown".into(), tokens: None },
    })
}

/// The place of a judge on `card`, which is made if it is new.
fn judge_of(card: &mut SampleCard, place: u32) -> &mut CardJudge {
    let index = place as usize;
    while card.judges.len() <= index {
        let judge = card.judges.len() as u32;
        card.judges.push(CardJudge { judge, answers: Vec::new(), differences: BTreeMap::new() });
    }
    &mut card.judges[index]
}

/// Adds an answer to `card`; one that could not be read is followed by another, which
/// takes its place.
fn answered(card: &mut SampleCard, judge: u32, order: Order, answer: &RecordedAnswer) {
    let (state, scores, words) = match answer {
        RecordedAnswer::Answered(Assessment::Scored { scores, rationale, .. }) => {
            let scores = scores.iter().map(|(metric, score)| (*metric, score.value())).collect();
            ("scored", scores, rationale.clone())
        }
        RecordedAnswer::Answered(Assessment::Abstained { reason }) => {
            ("abstained", BTreeMap::new(), Some(reason.clone()))
        }
        RecordedAnswer::Answered(Assessment::Unreadable { reason, evidence, .. }) => {
            ("unreadable", BTreeMap::new(), Some(format!("{reason}: {}", evidence.answer)))
        }
        RecordedAnswer::Answered(_) => ("unknown", BTreeMap::new(), None),
        RecordedAnswer::Void => ("void", BTreeMap::new(), None),
        RecordedAnswer::Identical => ("identical", BTreeMap::new(), None),
        RecordedAnswer::Missing { kind } => {
            let kind = kind.and_then(|kind| serde_json::to_value(kind).ok());
            let words = kind.as_ref().and_then(|kind| kind.as_str()).map(|kind| kind.replace('_', " "));
            ("missing", BTreeMap::new(), words)
        }
    };
    let words = words.map(|words| cut(&words, TEXT_BYTES));
    let answers = &mut judge_of(card, judge).answers;
    answers.retain(|answer| answer.order != order);
    answers.push(CardAnswer { order, scores, words, state: state.into() });
}
