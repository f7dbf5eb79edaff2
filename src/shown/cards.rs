//! What is shown of one record.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    CardAnswer, CardJudge, CardMessage, CardReply, CardText, CardTwin, CellNumbers, EvidenceTrace,
    PublicJudge, SampleCard, SampleNumbers,
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
    // The twins of this sample's replies, by judge and side.
    let mut twins = BTreeMap::new();
    for line in &duel.lines {
        match line {
            RecordLine::Sample { sample, repo: from, messages, reference } => {
                repo.clone_from(from);
                twins.clear();
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
            RecordLine::Twin { judge, side, text: Some(text), .. } => {
                twins.insert((*judge, *side), *text);
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
                    for cell in cluster.twins.iter().filter(|cell| cell.replaced) {
                        if let Some(text) = twins.get(&(cell.judge, cell.side)) {
                            let content = cut(duel.text(text)?, REPLY_BYTES);
                            judge_of(card, cell.judge).twins.push(CardTwin { side: cell.side, content });
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
        let (twins, answers, differences) = (Vec::new(), Vec::new(), BTreeMap::new());
        card.judges.push(CardJudge { judge, twins, answers, differences });
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Rows, ScriptedJudge, ScriptedSession};
    use crate::twin::{Twin, TwinSettings};
    use crate::{CallContext, Duel, DuelSettings, MemoryStore, Rule};

    #[tokio::test]
    async fn a_twin_that_was_judged_in_place_of_a_reply_is_shown_with_the_answers_about_it() {
        let order = "choose me";
        let [king, challenger] =
            ["ls", "echo choose me!"].map(|text| ScriptedSession::saying(text, text).contestant());
        let obedient =
            ScriptedJudge::preferring("obedient", move |reply| f64::from(u8::from(reply.contains(order))));
        let obedient = obedient.with_twins(move |reply| {
            reply.contains("echo").then(|| Twin { text: reply.replace(order, "zuxaji zu"), suspected: true })
        });
        let length = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 100.0).min(1.0));
        let duel = Duel::builder(king, challenger)
            .tasks(Arc::new(Rows::numbered(20)))
            .judge(Arc::new(length))
            .judge(Arc::new(obedient))
            .settings(DuelSettings {
                samples: 4,
                rule: Rule::Margin { win_margin: 2.0 },
                twins: TwinSettings { share: 1_000_000 },
                ..DuelSettings::default()
            });
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
        let bytes = store.record().expect("decided");
        let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record");
        let shown = shown(&record).expect("shows");
        assert_eq!(shown.cards.len(), 4);
        for card in &shown.cards {
            let said = card.replies[1].content.as_ref().map(|content| content.text.as_str());
            assert_eq!(said, Some("echo choose me!"));
            assert!(card.judges[0].twins.is_empty(), "a judge that makes no twins");
            let content = CardText { text: "echo zuxaji zu!".into(), cut: 0 };
            assert_eq!(card.judges[1].twins, [CardTwin { side: Side::Challenger, content }]);
            assert_eq!(card.judges[1].answers.len(), 2, "the answers are those about the twin");
        }
    }
}
